"One function decides where to compute: no other place asks PyTorch which devices there are."
import json
import re
from pathlib import Path

TOP = Path(__file__).parents[1]
ASKING = re.compile(r'current_accelerator|(accelerator|cuda|mps)\.is_available|cuda\.device_count')
DECIDES = {'nbs/learn/20_training.ipynb', 'regpre_nb/learn/training.py',
           'tests/test_device.py', 'tests/test_pairwise.py'}


def code_of(path: Path) -> str:
    "The code of a file; of a notebook its code cells."
    text = path.read_text(encoding='utf-8')
    if path.suffix != '.ipynb': return text
    return '\n'.join(''.join(cell['source']) for cell in json.loads(text)['cells'] if cell['cell_type'] == 'code')


def test_one_place_decides_the_device():
    files = [path for folder in ('nbs', 'regpre_nb', 'tests', 'tools', 'benchmarks')
             for path in sorted((TOP / folder).rglob('*')) if path.suffix in ('.py', '.ipynb')
             and not any(part.startswith('.') for part in path.relative_to(TOP).parts)]
    asking = {str(path.relative_to(TOP)) for path in files if ASKING.search(code_of(path))}
    assert 'regpre_nb/learn/training.py' in asking  # the search finds what it should
    assert asking - DECIDES == set(), 'use regpre_nb.learn.training.default_device() there'
