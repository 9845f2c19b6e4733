"The page on 64 GPUs says what the measured and cited figures give."
import math
import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / 'tools'))
import scale  # noqa: E402


def test_page():
    assert scale.PAGE.read_text(encoding='utf-8') == scale.page(), 'run tools/scale.py'


def test_young():
    "Of all intervals the one on the page loses least to writing and to work that is done again."
    saved = scale.checkpoints(scale.kinds()[1])
    mean, best = saved['days'] * 86400, saved['minutes'] * 60
    lost = {factor: saved['write'] / (factor * best) + factor * best / (2 * mean) for factor in (0.5, 0.9, 1, 1.1, 2)}
    assert min(lost, key=lost.get) == 1 and math.isclose(100 * lost[1], saved['percent'])
    assert saved['daly'] == pytest.approx(saved['minutes'], rel=0.01)


def test_ring():
    "Two processes send one copy of the gradients, many send two."
    assert scale.ring(1e9, 2, 1) == 1 and scale.ring(1e9, 1000, 1) == pytest.approx(2, rel=1e-2)
