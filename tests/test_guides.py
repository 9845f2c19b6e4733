"The pages beside the notebooks: what they show runs, where they link there is something, what they name exists."
import ast
import os
import re
import runpy
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from commands import BIN, environment, regpre, save
from conftest import ALL, ROOT, cells, source
from forked import call

from regpre_nb.data.cohorts import cohort_names
from regpre_nb.paper.profiles import PROFILES

PAGES = ROOT / 'docs' / 'pages'
GUIDES = sorted((PAGES / 'guides').glob('*.md'))
TEXTS = [path for pattern in ('*.md', '.github/**/*.md', 'docs/pages/**/*.md', 'results/*.md', 'results/*/README.md')
         for path in sorted(ROOT.glob(pattern))]
NAMING = [PAGES / 'glossary.md', PAGES / 'paper.md']
BLOCK = re.compile(r'^```(\w+)\n(.*?)^```$', re.M | re.S)
NEEDS = '# needs a '  # what the machine that runs the tests may lack


def name(path: Path) -> str:
    "The id of a test case."
    return path.relative_to(ROOT).as_posix()


def block(path: Path, language: str) -> str:
    "The one block of code of a page in this language."
    found = [text for kind, text in BLOCK.findall(path.read_text(encoding='utf-8')) if kind == language]
    assert len(found) == 1, f'{path}: {len(found)} blocks of {language}'
    return found[0]


# What they show runs

def run_file(path: str) -> None:
    "Run a file as `python path` does."
    sys.path.insert(0, str(Path(path).parent))
    runpy.run_path(path, run_name='__main__')


def run_line(line: str, folder: Path) -> str:
    "Run a line of a shell there; what it printed."
    if line.startswith('regpre '): done = regpre(*shlex.split(line, comments=True)[1:], cwd=folder)
    else:
        found = environment(PATH=f'{BIN}{os.pathsep}{os.environ["PATH"]}', PYTHONPATH=ROOT)
        done = subprocess.run(['bash', '-c', line], cwd=folder, env=found, capture_output=True, text=True)
    assert done.returncode == 0, f'{line}\n{done.stdout[-2000:]}{done.stderr[-4000:]}'
    return done.stdout + done.stderr


@pytest.mark.parametrize('path', GUIDES, ids=lambda path: path.stem)
def test_one_short_example(path):
    "A guide has one block of code, of at most 30 lines that fit a page."
    [(_, code)] = BLOCK.findall(path.read_text(encoding='utf-8'))
    assert len(code.splitlines()) <= 30 and max(map(len, code.splitlines())) <= 120


@pytest.mark.parametrize('guide, numbers', [('encoder', 0), ('cohort', 0), ('loss', 2), ('method', 2)])
def test_python_runs(guide, numbers, tmp_path):
    "Saved under the name that the guide gives it, and run; where it prints a score before and after, it got better."
    path = PAGES / 'guides' / f'{guide}.md'
    file = tmp_path / re.search(r'Save this as `(\w+\.py)`', path.read_text(encoding='utf-8'))[1]
    file.write_text(block(path, 'python'))
    done = call(run_file, str(file), cwd=tmp_path, variables=environment())
    assert done.returncode == 0 and done.stdout.strip(), done.stderr
    if not numbers: return
    before, after = map(float, done.stdout.split()[:numbers])
    assert after < 0.3 * before


@pytest.fixture
def clone(tmp_path):
    "A folder that holds what commands look for in a clone."
    for part in ('Snakefile', 'nbs'): (tmp_path / part).symlink_to(ROOT / part)
    return tmp_path


@pytest.mark.parametrize('guide, told', [('gpu', 'pretrain-sd-kl'), ('cluster', 'runtime=')])
def test_shell_runs(guide, told, clone):
    "The lines that need no more than this machine; the page says that the others were not run."
    path = PAGES / 'guides' / f'{guide}.md'
    [here] = [line for line in block(path, 'sh').replace('\\\n', ' ').splitlines() if NEEDS not in line]
    assert f'the others need a {guide}' in path.read_text(encoding='utf-8').replace('GPU', 'gpu')
    assert told in run_line(here, clone)


def test_front_page_runs(tmp_path):
    "Two images are registered by the one line of README, and by its Python."
    where = np.indices((24, 28, 32)) - np.array([12, 14, 16])[:, None, None, None]
    for file, shift in (('moving', 2), ('fixed', 0)):
        distance = np.linalg.norm(where - np.array([shift, 0, 0])[:, None, None, None], axis=0)
        save(tmp_path / f'{file}.nii.gz', np.exp(-(distance / 6)**2).astype(np.float32))
    text = (ROOT / 'README.md').read_text(encoding='utf-8')
    run_line(re.search(r'^regpre register .+$', text, re.M)[0], tmp_path)
    assert (tmp_path / 'warped.nii.gz').is_file()
    (tmp_path / 'front.py').write_text(block(ROOT / 'README.md', 'python'))
    done = call(run_file, str(tmp_path / 'front.py'), cwd=tmp_path, variables=environment())
    assert done.returncode == 0 and done.stdout.startswith('Registration('), done.stderr
    assert (tmp_path / 'registration.png').stat().st_size and (tmp_path / 'warp.nii.gz').is_file()


# Where they link, and what they name

def slug(heading: str) -> str:
    "The anchor that a forge and the site give a heading."
    return re.sub(r'[^\w\- ]', '', heading.lower()).strip().replace(' ', '-')


@pytest.mark.parametrize('path', TEXTS, ids=name)
def test_links(path):
    "Every relative link leads to a file, and to a heading in it where it names one."
    text = path.read_text(encoding='utf-8')
    for link in re.findall(r'\]\((?!\w+:)([^)\s]+)\)', text):
        place, _, anchor = link.partition('#')
        target = path.parent / place if place else path
        assert target.exists(), f'{path}: {link}'
        if not anchor: continue
        headings = re.findall(r'^#+ (.+)$', target.read_text(encoding='utf-8'), re.M)
        assert anchor in map(slug, headings), f'{path}: {link}'


@pytest.mark.parametrize('path', [path for path in TEXTS if PAGES in path.parents], ids=name)
def test_reached(path):
    "The front page leads to every page, at most by way of another one."
    def linked(page): return re.findall(r'\]\((?!\w+:)([^)#\s]+\.md)\)', page.read_text(encoding='utf-8'))
    near = {(ROOT / link).resolve() for link in linked(ROOT / 'README.md')}
    far = {(page.parent / link).resolve() for page in near for link in linked(page)}
    assert path in near | far


@cache
def public() -> dict[str, int]:
    "Every public name of the package, and in how many modules it stands."
    count: dict[str, int] = {}
    for path in (ROOT / 'regpre_nb').rglob('*.py'):
        tree = ast.parse(path.read_text(encoding='utf-8'))
        lists = [node.value for node in tree.body if isinstance(node, ast.Assign)
                 and getattr(node.targets[0], 'id', '') == '__all__']
        names = {item for each in lists for item in ast.literal_eval(each)}
        for item in names: count[item] = count.get(item, 0) + 1
    return count


@pytest.mark.parametrize('path', NAMING, ids=name)
def test_names_exist(path):
    "A code span that looks like a name, with or without (), is one public definition, a profile or a cohort."
    text, known = path.read_text(encoding='utf-8'), public()
    spans = set(re.findall(r'`([A-Za-z_]\w*)(?:\(\))?`', text))
    assert len(spans) > 30
    others = {*PROFILES, *cohort_names(), 'released'}
    assert not [span for span in sorted(spans - others) if known.get(span) != 1]


def test_citations():
    "The bibliography has every article that a notebook or the package cites."
    place = re.compile(r'(?:doi\.org/|doi:|arxiv\.org/abs/|arXiv:)([\d.]+(?:/[\w.:-]+)?)')
    cited = {found.rstrip('.') for path in ALL for cell in (*cells(path), *cells(path, 'markdown'))
             for found in place.findall(source(cell))}
    listed = (PAGES / 'references.md').read_text(encoding='utf-8')
    assert len(cited) > 20 and not [each for each in sorted(cited) if f'{each})' not in listed]
