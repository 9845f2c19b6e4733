"Every notebook runs; notebooks, package and README agree; the rules that keep them readable hold."
import ast
import json
import os
import re
import shutil
import subprocess
import sys
import warnings

import nbformat
import pytest
from conftest import ALL, LIBRARY, ROOMS, ROOT, STUDIES, cells, name, parsed, source, texts_of
from forked import call, run_page

PACKAGE = ROOT / 'regpre_nb'
MODULES = sorted(path for path in PACKAGE.rglob('*.py') if path.name != '_modidx.py')
CODE = [*ALL, *MODULES, *sorted((ROOT / 'tests').glob('*.py')), *sorted((ROOT / 'tools').glob('*.py'))]


def run(*command: str, cwd=ROOT) -> subprocess.CompletedProcess:
    "Run a command; nbdev must not take itself for a notebook."
    environment = {key: value for key, value in os.environ.items() if key != 'IN_TEST'}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


# Running

@pytest.mark.parametrize('path', [path for path in ALL if path not in STUDIES], ids=name)
def test_runs(path):
    "By nbdev's own runner; the studies are run by the smoke reproduction instead."
    done = call(run_page, str(path))
    assert done.returncode == 0 and 'Success.' in done.stdout, f'{done.stdout}\n{done.stderr[-4000:]}'


# What is stored in a notebook

@pytest.mark.parametrize('path', ALL, ids=name)
def test_clean(path, tmp_path):
    "nbdev_clean leaves it unchanged, it is valid, small, and stores no error."
    from nbdev.clean import nbdev_clean
    copy = tmp_path / path.name
    shutil.copy(path, copy)
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)  # nbdev_clean warns where it fails
        nbdev_clean(str(copy))
    assert copy.read_text(encoding='utf-8') == path.read_text(encoding='utf-8'), 'run `make prepare`'
    nbformat.validate(json.loads(path.read_text(encoding='utf-8')))
    ids = [cell['id'] for kind in ('code', 'markdown', 'raw') for cell in cells(path, kind)]
    assert len(set(ids)) == len(ids), 'two cells share an id'
    assert path.stat().st_size <= 400_000, f'{path.stat().st_size} bytes'
    outputs = [output for cell in cells(path) for output in cell['outputs']]
    assert not [output for output in outputs if output['output_type'] == 'error']


@pytest.mark.parametrize('path', ALL, ids=name)
def test_opening(path):
    "A notebook opens with a heading and one sentence on what it gives."
    first = source(cells(path, 'markdown')[0])
    assert re.match(r'# \S.*\n\n> \S', first), first[:200]


@pytest.mark.parametrize('path', STUDIES, ids=name)
def test_parameters(path):
    "papermill needs exactly one cell tagged 'parameters'; it starts small; a study exports nothing."
    tagged = [cell for cell in cells(path) if 'parameters' in cell['metadata'].get('tags', [])]
    assert len(tagged) == 1
    values = {}
    exec(source(tagged[0]), values)  # noqa: S102 - of the project's own page
    assert values.get('profile') == 'smoke'
    assert not [cell for cell in cells(path) if re.search(r'^#\|\s*(default_exp|export)', source(cell), re.M)]


@pytest.mark.parametrize('path', STUDIES, ids=name)
def test_study_outputs(path):
    "A study page shows the tables and figures of a run, and which, and is light enough for a forge to draw."
    outputs = [output for cell in cells(path) for output in cell['outputs']]
    printed = [''.join(output['text']) for output in outputs if output['output_type'] == 'stream']
    assert any(text.startswith(f"{path.stem}: {{'profile': ") for text in printed), 'run tools/study_outputs.py'
    shown = {kind for output in outputs for kind in output.get('data', {})}
    assert shown & {'image/png', 'text/html', 'text/markdown'}
    assert path.stat().st_size <= 300_000


def test_no_parameters_elsewhere():
    "The tag is for the studies, and for the tour."
    assert not [name(path) for path in ALL if path not in STUDIES and path.stem != 'tour'
                for cell in cells(path) if 'parameters' in cell['metadata'].get('tags', [])]


def test_all_listed():
    "The list of notebooks links every one but the first page."
    linked = re.findall(r'\]\(\.\./\.\./(nbs/[\w/]+\.ipynb)\)', (ROOT / 'docs/pages/notebooks.md').read_text())
    assert sorted(linked) == sorted(name(path) for path in ALL if path.stem != 'index')


# Notebooks, package and README agree

def test_sync(tmp_path):
    "Exporting all notebooks into an empty folder gives regpre_nb/, byte for byte, and nothing else."
    for file in ('settings.ini', 'setup.py'): shutil.copy(ROOT / file, tmp_path)
    shutil.copytree(ROOT / 'nbs', tmp_path / 'nbs', ignore=shutil.ignore_patterns('.*'))
    done = run(sys.executable, '-c', 'from nbdev.doclinks import nbdev_export; nbdev_export()', cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    exported = tmp_path / 'regpre_nb'
    fresh = {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in exported.rglob('*.py')}
    stored = {name(path): path.read_bytes() for path in PACKAGE.rglob('*.py')}
    differ = [file for file in sorted(fresh | stored) if fresh.get(file) != stored.get(file)]
    assert not differ, f'{differ} is not what the notebooks export: run `make prepare`'


# Structure of the code

def exported_module(path) -> str | None:
    "The module that a notebook exports, for instance 'method.spatial'."
    found = re.search(r'^#\|\s*default_exp\s+(\S+)', '\n'.join(map(source, cells(path))), re.M)
    return found[1] if found else None


def named_modules(tree: ast.AST) -> set[str]:
    "The modules of the package that code imports, or names in a text from which they could be imported."
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import): found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.level: found.add('regpre_nb.relative')  # nowhere allowed
        if isinstance(node, ast.Attribute) and re.match(rf'regpre_nb\.({"|".join(ROOMS)})\.', ast.unparse(node)):
            found.add(ast.unparse(node))
        if isinstance(node, ast.ImportFrom):
            found |= {node.module or '', *(f'{node.module}.{alias.name}' for alias in node.names)}
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= set(re.findall(r'\bregpre_nb(?:\.\w+)+', node.value))
    places = (item.split('.')[1:3] for item in found if item.startswith('regpre_nb.'))
    return {'.'.join(place) for place in places}


def upward(trees: list[ast.AST], path, places: dict[str, tuple[int, str]]) -> set[str]:
    "What a notebook of the library names although it stands on a later page."
    own = place(path)
    rooms = {room: (ROOMS.index(room), '') for room in ROOMS}
    return {module for tree in trees for module in named_modules(tree)
            if places.get(module, rooms.get(module.split('.')[0], (99, ''))) > own}


def place(path) -> tuple[int, str]:
    "The room of a page and its number: the reading order."
    return ROOMS.index(path.parent.name), path.stem.split('_')[0]


PLACES = {exported_module(path): place(path) for path in LIBRARY}


@pytest.mark.parametrize('path', LIBRARY, ids=name)
def test_imports_go_down(path):
    "A library notebook exports one module, named after its room and file, and uses only pages before it."
    assert exported_module(path) == f'{path.parent.name}.{path.stem.split("_", 1)[1]}'
    assert not upward(parsed(texts_of(path)), path, PLACES)


@pytest.mark.parametrize('planted', [
    'from regpre_nb.learn.training import fit', 'import regpre_nb.learn.training',
    'from regpre_nb.learn import training', 'from ..learn.training import fit', 'from .template import random_anatomy',
    'import regpre_nb; regpre_nb.learn.training.fit',
    "import_module('regpre_nb.learn.training')", "METHOD = 'regpre_nb.learn.training:fit'",
    'from regpre_nb.data.template import random_anatomy', 'from regpre_nb import learn',
    "import_module('regpre_nb.learn')"])
def test_planted_imports_are_found(planted):
    "By statement and by name, from a later page and a later room; a page before it may be used."
    cohorts = next(path for path in LIBRARY if path.stem == '12_cohorts')
    assert upward([ast.parse(planted)], cohorts, PLACES)
    below = ast.parse('from regpre_nb.data.files import read_rows\nimport regpre_nb.method.spatial')
    assert not upward([below], cohorts, PLACES)


def test_numbers():
    "Numbers go up by tens from room to room, and no two pages share one; a page of a full room adds a letter."
    numbers = [path.stem.split('_')[0] for path in LIBRARY]
    assert numbers == sorted(set(numbers)) and all(re.fullmatch(r'\d\d[a-z]?', number) for number in numbers)
    assert all(int(number[0]) == ROOMS.index(path.parent.name) for number, path in zip(numbers, LIBRARY))


def public(path) -> list[tuple[str, ast.AST]]:
    "The public functions, classes and methods that a module defines."
    body = ast.parse(path.read_text(encoding='utf-8')).body
    listed = [node.value for node in body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == '__all__']
    names = [item for value in listed for item in ast.literal_eval(value)]
    found = []
    for node in body:
        if getattr(node, 'name', None) not in names: continue
        found.append((node.name, node))
        if isinstance(node, ast.ClassDef):
            found += [(f'{node.name}.{item.name}', item) for item in node.body if isinstance(item, ast.FunctionDef)]
    return found


LONGEST, LONGEST_EXAMPLE = 40, 20  # lines of a cell that is exported, and of another, without directives


@pytest.mark.parametrize('path', LIBRARY, ids=name)
def test_short_cells(path):
    "A page is told in pieces that can be seen at once, and what takes a longer set-up to test is tested in tests/."
    lines = [[line for line in source(cell).splitlines() if not line.startswith('#|')] for cell in cells(path)]
    exported = [bool(re.match(r'#\|\s*export', source(cell))) for cell in cells(path)]
    assert not [text[0] for text, goes in zip(lines, exported) if len(text) > (LONGEST if goes else LONGEST_EXAMPLE)]


def unannotated(function: ast.AST) -> list[str]:
    "The parameters of a function that have no annotation (self and cls need none)."
    if not isinstance(function, ast.FunctionDef): return []
    arguments = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
    return [item.arg for item in arguments if item.annotation is None and item.arg not in ('self', 'cls')]


@pytest.mark.parametrize('path', [path for path in MODULES if path.name != '__init__.py'], ids=name)
def test_documented(path):
    "What a module exports has a docstring and annotated parameters; so have the public methods of its classes."
    problems = []
    for label, node in public(path):
        own = label.split('.')[-1]
        if own.startswith('_') and own != '__init__': continue
        if own not in ('__init__', 'forward') and not ast.get_docstring(node):
            problems.append(f'{label}: no docstring')
        problems += [f'{label}: {item} is not annotated' for item in unannotated(node)]
    assert not problems, '\n'.join(problems)


def constant(call: ast.Call, keyword: str):
    "The literal value of a keyword argument; None where it is not one."
    return next((getattr(item.value, 'value', None) for item in call.keywords if item.arg == keyword), None)


def unsafe(call: ast.Call) -> str | None:
    "What is wrong with a call that can run code out of a file."
    called = ast.unparse(call.func)
    if called == 'pickle.loads' and ast.unparse(call.args[0]).startswith('pickle.dumps('): return None
    if called in ('pickle.load', 'pickle.loads', 'pd.read_pickle', 'pandas.read_pickle', 'joblib.load'): return called
    if called == 'torch.load' and constant(call, 'weights_only') is not True: return f'{called}, weights_only not True'
    if called == 'np.load' and constant(call, 'allow_pickle'): return 'np.load with allow_pickle'
    return None


def bound_to_cuda(tree: ast.AST) -> list[str]:
    "Places that insist on CUDA. Asking for a device's type, or choosing by `is_available()`, is no such place."
    choices = [node for node in ast.walk(tree) if isinstance(node, ast.Compare)
               or isinstance(node, ast.IfExp) and 'is_available' in ast.unparse(node.test)]
    asked = {id(inner) for node in choices for inner in ast.walk(node)}
    return [ast.unparse(node) for node in ast.walk(tree) if id(node) not in asked and (
        isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r'cuda(:\d+)?', node.value)
        or isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == 'cuda')]


@pytest.mark.parametrize('path', CODE, ids=name)
def test_safe_and_portable(path):
    "No file is unpickled, no device is insisted on."
    problems = []
    for tree in parsed(texts_of(path)):
        problems += filter(None, (unsafe(node) for node in ast.walk(tree) if isinstance(node, ast.Call)))
        problems += bound_to_cuda(tree)
    assert not problems, '\n'.join(problems)


def prose(path) -> str:
    "All text of a file that a reader sees; of a notebook its sources and text outputs, without the images."
    if path.suffix != '.ipynb': return path.read_text(encoding='utf-8')
    text = [source(cell) for kind in ('markdown', 'code') for cell in cells(path, kind)]
    for output in (output for cell in cells(path) for output in cell['outputs']):
        text.append(''.join(output.get('text', '')))
        text += [''.join(value) for kind, value in output.get('data', {}).items() if kind.startswith('text/')]
    return '\n'.join(text)


@pytest.mark.parametrize('path', [*CODE, ROOT / 'README.md', ROOT / 'Makefile', ROOT / 'docs' / 'conf.py'], ids=name)
def test_no_machine_paths(path):
    "No path of the machine that it was written on."
    found = re.findall(r'(?<![\w.~}/-])/(?:work|home|root|Users|tmp|mnt)/[\w.-]+', prose(path))
    assert not found, found
