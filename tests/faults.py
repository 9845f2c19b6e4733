"What tests of faulty data share."
from collections.abc import Callable

import numpy as np

from regpre_nb.method.settings import sentence_of


def said(call: Callable, *given: object) -> str:
    "The sentence, of one line, that a call ends with."
    sentence = sentence_of(call, *given)
    assert sentence.count('\n') == 0
    return sentence


def with_hole(data: np.ndarray) -> np.ndarray:
    "One voxel is no number."
    data[0, 0, 0] = np.nan
    return data
