"What all tests share: the notebooks, and a clean environment for what they start."
import ast
import json
import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
os.chdir(ROOT)  # nbdev looks for settings.ini upwards from the working folder
os.environ.setdefault('OMP_NUM_THREADS', '1')  # two workers on two cores
os.environ.setdefault('MPLBACKEND', 'agg')

long = pytest.mark.skipif(os.environ.get('LONG_TESTS') != '1', reason='takes long; make long-test runs it')


def notebooks(*folders: str) -> list[Path]:
    "The notebooks of these folders under nbs/ ('' is nbs/ itself), in reading order."
    return [path for folder in folders for path in sorted((ROOT / 'nbs' / folder).glob('*.ipynb'))]


def name(path: Path) -> str:
    "The id of a test case: a path below the project."
    return path.relative_to(ROOT).as_posix()


def cells(path: Path, kind: str = 'code') -> list[dict]:
    "The cells of one kind."
    return [cell for cell in json.loads(path.read_text(encoding='utf-8'))['cells'] if cell['cell_type'] == kind]


def source(cell: dict) -> str:
    "The text of a cell."
    return ''.join(cell['source'])


def texts_of(path: Path) -> list[str]:
    "The text of a Python file, or those of the code cells of a notebook."
    return [source(cell) for cell in cells(path)] if path.suffix == '.ipynb' else [path.read_text(encoding='utf-8')]


def parsed(texts: list[str]) -> list[ast.Module]:
    "The syntax trees of code, without IPython's magic lines and cells."
    texts = [text for text in texts if not re.search(r'^%%(?!time)', text, re.M)]  # of another language, or a file
    return [ast.parse(re.sub(r'^[ \t]*[%!].*$', '', text, flags=re.M)) for text in texts]


ROOMS = 'method', 'data', 'learn', 'compare', 'paper', 'use'  # each imports only from those before it
LIBRARY = notebooks(*ROOMS)
STUDIES = notebooks('studies')
ALL = [*notebooks(''), *LIBRARY, *STUDIES]
