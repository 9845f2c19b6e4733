"""Change the package one expression at a time, and count the changes that its tests notice.

`python tools/mutants.py run` goes through the modules whose numbers all others rest on, and goes on where it stopped;
`python tools/mutants.py write` puts what was counted into results/faults. A change is made in the syntax tree and lives
in a forked process alone; no file is touched.

Why not mutmut or cosmic-ray: mutmut leaves functions with a decorator out, which here are `warp`, `compose`,
`integrate` and `local_ncc`; cosmic-ray starts Python anew for each change, and importing PyTorch takes longer than
these tests do.
"""
import argparse
import ast
import csv
import importlib
import importlib.util
import inspect
import io
import itertools
import json
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections import ChainMap
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
WORK, OUT = ROOT / 'runs' / 'mutants', ROOT / 'results' / 'faults'
SURVIVOR = 'module', 'function', 'line', 'kind', 'before', 'after', 'number'
LIMIT = 60  # seconds of one change; a loop that no longer ends is noticed, too


class Subject(NamedTuple):
    "A module, the page that it comes from, and which property tests are about it."
    module: str
    page: str
    tests: str


SUBJECTS = {
    'losses': Subject('regpre_nb.method.losses', 'method/07_losses',
                      'ncc or diffusion or divergence or soft_dice or mind or edges or mutual or loss_is'),
    'metrics': Subject('regpre_nb.method.metrics', 'method/08_metrics',
                       'test_dice or ndv or folding or tre or landmarks_of'),
    'spatial': Subject('regpre_nb.method.spatial', 'method/01_spatial',
                       'warp or corners or read_at or group or compose or integration or test_jacobian or sizes or '
                       'smoothing or along'),
    'statistics': Subject('regpre_nb.compare.statistics', 'compare/30_statistics',
                          'holm or interval or summary or p_values or few_people'),
    'transforms': Subject('regpre_nb.use.transforms', 'use/50a_transforms',
                          'files or fsl or row or inverse or of_a_warp or apply or points_that or label_maps'),
}

# The changes

OTHER = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
         ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.MatMult: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
         ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.And: ast.Or, ast.Or: ast.And}
COMPARED = {ast.Lt: (ast.LtE, ast.Gt), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.Lt), ast.GtE: (ast.Gt, ast.Lt),
            ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
            ast.In: (ast.NotIn,), ast.NotIn: (ast.In,)}
SWAPPED = {a: b for one, other in (('min', 'max'), ('amin', 'amax'), ('any', 'all'), ('floor', 'ceil'), ('sum', 'mean'),
                                   ('minimum', 'maximum'), ('argmin', 'argmax'), ('clamp_min', 'clamp_max'))
           for a, b in ((one, other), (other, one))}


def operators(node: ast.AST) -> Iterator[tuple[str, object, str]]:
    "Field, new value and kind of each change of an expression's operator or constant."
    if isinstance(node, ast.BinOp | ast.AugAssign | ast.BoolOp) and type(node.op) in OTHER:
        yield 'op', OTHER[type(node.op)](), 'operator'
    elif isinstance(node, ast.Compare):
        for i, op in enumerate(node.ops):
            for kind in COMPARED[type(op)]: yield 'ops', [*node.ops[:i], kind(), *node.ops[i + 1:]], 'comparison'
    elif isinstance(node, ast.Constant) and type(node.value) is bool: yield 'value', not node.value, 'constant'
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float): yield 'value', node.value + 1, 'constant'
    elif isinstance(node, ast.Name) and node.id in SWAPPED: yield 'id', SWAPPED[node.id], 'name'
    elif isinstance(node, ast.Attribute) and node.attr in SWAPPED: yield 'attr', SWAPPED[node.attr], 'name'


def parts(node: ast.AST) -> Iterator[tuple[str, object, str]]:
    "Field, new value and kind of each change of what a node is made of."
    if isinstance(node, ast.If | ast.IfExp | ast.While): yield 'test', ast.UnaryOp(ast.Not(), node.test), 'condition'
    elif isinstance(node, ast.Call):
        for i in range(len(node.keywords)):
            yield 'keywords', node.keywords[:i] + node.keywords[i + 1:], 'argument left out'
    for field, value in ast.iter_fields(node):
        if isinstance(value, ast.UnaryOp): yield field, value.operand, 'sign or negation left out'
        for i, item in enumerate(value if isinstance(value, list) else ()):
            rest = value[:i], value[i + 1:]
            if isinstance(item, ast.UnaryOp):
                yield field, [*rest[0], item.operand, *rest[1]], 'sign or negation left out'
            if isinstance(item, ast.Expr) and isinstance(item.value, ast.Call):
                yield field, [*rest[0], ast.Pass(), *rest[1]], 'call left out'


def shown(node: ast.AST, field: str, kind: str, value: object) -> str:
    "The code that is changed, short: of a block the line, else the expression."
    if kind == 'call left out':
        here = getattr(node, field)
        return text(next(a for a, b in zip(here, value) if a is not b))
    return text(node.test if kind == 'condition' else node)


SKIPPED = ast.Raise, ast.JoinedStr, ast.Import, ast.ImportFrom  # what is said to a user is looked at by other tests


def nodes(tree: ast.AST, inside: str = '', line: str = '') -> Iterator[tuple[str, str, ast.AST]]:
    "Function, line and node of all that may be changed: no annotation, decorator or message."
    if isinstance(tree, SKIPPED): return
    if isinstance(tree, ast.Assign) and ast.unparse(tree.targets[0]) == '__all__': return
    if isinstance(tree, ast.stmt) and not hasattr(tree, 'body'): line = text(tree)
    yield inside, line, tree
    for field, value in ast.iter_fields(tree):
        if field in ('annotation', 'returns', 'decorator_list'): continue
        for child in value if isinstance(value, list) else [value]:
            name = getattr(child, 'name', '') if isinstance(child, ast.FunctionDef | ast.ClassDef) else ''
            if isinstance(child, ast.AST): yield from nodes(child, '.'.join(filter(None, (inside, name))), line)


def text(tree: ast.AST) -> str:
    "A piece of code in one line."
    return ' '.join(ast.unparse(tree).split())[:160]


@contextmanager
def changed(node: ast.AST, field: str, value: object) -> Iterator[None]:
    "The tree with one change, for a while."
    before = getattr(node, field)
    setattr(node, field, value)
    try: yield
    finally: setattr(node, field, before)


def mutants(tree: ast.Module) -> Iterator[tuple[dict, Callable[[], object]]]:
    "Each change of a module: what it is, and what compiles it, as long as it is the current one."
    counts: dict = {}
    for inside, line, node in nodes(tree):
        for field, value, kind in (*operators(node), *parts(node)):
            before = shown(node, field, kind, value)
            with changed(node, field, value):
                after = 'pass' if kind == 'call left out' else shown(node, field, kind, value)
                what = {'function': inside, 'line': line, 'kind': kind, 'before': before, 'after': after}
                number = counts[tuple(what.values())] = counts.get(tuple(what.values()), 0) + 1
                what |= {'number': number}
                yield what, lambda: compile(ast.fix_missing_locations(tree), '<changed>', 'exec')


# The tests

def install(module: str, code: object) -> None:
    "Import a module from compiled code, before anything that uses it."
    found = importlib.util.find_spec(module)
    made = importlib.util.module_from_spec(found)
    sys.modules[module] = made
    setattr(sys.modules[module.rpartition('.')[0]], module.rpartition('.')[2], made)
    exec(code, made.__dict__)


def examples(subject: Subject) -> list[tuple[str, str]]:
    "Id and source of the cells of a page that are not exported."
    cells = json.loads((ROOT / 'nbs' / f'{subject.page}.ipynb').read_text(encoding='utf-8'))['cells']
    sources = [(cell['id'], ''.join(cell['source'])) for cell in cells if cell['cell_type'] == 'code']
    return [(name, re.sub(r'^[ \t]*[%!].*$', '', source, flags=re.M)) for name, source in sources
            if not re.search(r'^#\|\s*(default_)?exp', source, re.M)]


def run_examples(subject: Subject, left_out: tuple[str, ...] = (), times: dict | None = None) -> None:
    "Run a page's cells; notes what each took, or goes on after a failure only where times are asked for."
    os.chdir(ROOT / 'nbs' / subject.page.split('/')[0])
    names = {'__name__': '__main__'} | {name: value for name, value in vars(sys.modules[subject.module]).items()
                                        if not name.startswith('__')}
    for name, source in examples(subject):
        if name in left_out: continue
        started = time.process_time()
        try: exec(compile(source, name, 'exec'), names)
        except Exception:
            if times is None: raise
            times[name] = float('inf')
        else:
            if times is not None: times[name] = time.process_time() - started


def cases(function: Callable, folder: str) -> Iterator[dict]:
    "The arguments of a test: each of what pytest would give it."
    marks = [mark.args[:2] for mark in getattr(function, 'pytestmark', ()) if mark.name == 'parametrize']
    named = [[dict(zip(names, values)) if isinstance(names, tuple) else {names: values} for values in listed]
             for names, listed in marks]
    fixed = {'tmp_path': Path(folder)} if 'tmp_path' in inspect.signature(function).parameters else {}
    for chosen in itertools.product(*named): yield dict(fixed, **ChainMap(*chosen))


def run_properties(subject: Subject) -> None:
    "Run the property tests of a module, without the time that pytest takes to start."
    os.chdir(ROOT)
    import pytest
    import test_properties
    for name, function in vars(test_properties).items():
        if not name.startswith('test_') or not any(part in name for part in subject.tests.split(' or ')): continue
        with tempfile.TemporaryDirectory() as folder, suppress(pytest.skip.Exception):
            for arguments in cases(function, folder): function(**arguments)


def noticed(subject: Subject, code: object, left_out: tuple[str, ...]) -> str:
    "What notices a change: '' where nothing does. Once without the compiled kernels, which are another module."
    try:
        os.environ['REGPRE_FAST'] = '0'
        install(subject.module, code)
        run_examples(subject, left_out)
        run_properties(subject)
    except BaseException as error: return type(error).__name__
    return ''


def forked(function, *arguments, limit: int = LIMIT):
    "What a function returns in a forked process, by JSON; 'time' where it does not end."
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(limit)
        os.close(reading)
        quiet = open(os.devnull, 'w', encoding='utf-8')
        os.dup2(quiet.fileno(), 1), os.dup2(quiet.fileno(), 2)
        try:
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()): told = function(*arguments)
            os.write(writing, json.dumps(told).encode())
        finally: os._exit(0)
    os.close(writing)
    with os.fdopen(reading, encoding='utf-8') as pipe: told = pipe.read()
    _, status = os.waitpid(child, 0)
    return json.loads(told) if told else 'time' if os.WTERMSIG(status) == signal.SIGALRM else 'death'


def warmed(subject: Subject, left_out: tuple[str, ...] = ()) -> tuple[list[str], dict[str, float]]:
    "Which packages the tests of a module need, and what each cell of its page takes, without changes."
    times: dict[str, float] = {}
    os.environ['REGPRE_FAST'] = '0'
    importlib.import_module(subject.module)
    run_properties(subject)
    run_examples(subject, left_out, times)
    own = 'regpre_nb', 'test_', 'conftest', '__main__', 'tests'
    return [name for name in sys.modules if not name.startswith(own)], times


def imported(names: list[str]) -> None:
    "Import packages here, so that no forked process has to."
    for name in names:
        try: importlib.import_module(name)
        except Exception: continue  # a part that its package makes when it is used


def prepare(subject: Subject, known: Path, most: float = 0.5) -> tuple[str, ...]:
    "Import what the tests need; the cells that take long, or fail for want of such a one, are left out."
    if known.exists():
        names, left_out = json.loads(known.read_text(encoding='utf-8'))
        imported(names)
        return tuple(left_out)
    names, times = forked(warmed, subject, limit=600)
    left_out = tuple(name for name, seconds in times.items() if seconds > 10*most)  # the rest is imports
    imported(names)
    while slow := tuple(name for name, seconds in forked(warmed, subject, left_out, limit=600)[1].items()
                        if seconds > most): left_out += slow
    known.parent.mkdir(parents=True, exist_ok=True)
    known.write_text(json.dumps([names, left_out]), encoding='utf-8')
    return left_out


# The count

def listed(subject: Subject) -> list[dict]:
    "All changes of a module."
    tree = ast.parse(Path(importlib.util.find_spec(subject.module).origin).read_text(encoding='utf-8'))
    return [what for what, _ in mutants(tree)]


def run(name: str, most: int, again: bool, until: float) -> None:
    "Try changes of a module, drawn from a fixed seed, until all are done or time is over."
    subject, path = SUBJECTS[name], WORK / f'{name}.jsonl'
    known = {json.dumps(row['what']): row for row in map(json.loads, path.read_text(encoding='utf-8').splitlines())} \
        if path.exists() else {}
    tree = ast.parse(Path(importlib.util.find_spec(subject.module).origin).read_text(encoding='utf-8'))
    wanted = {json.dumps(what) for what in drawn(listed(subject), most)}
    done = {key for key, row in known.items() if row['by'] or not again}
    if not wanted - done: return
    left_out = prepare(subject, WORK / f'{name}.cells.json')
    print(f'{name}: {len(wanted)} changes, {len(wanted & done)} known, without cells {" ".join(left_out)}', flush=True)
    for what, code in mutants(tree):
        if json.dumps(what) not in wanted - done: continue
        if time.monotonic() > until: return
        by = forked(noticed, subject, code(), left_out)
        with open(path, 'a', encoding='utf-8') as file: file.write(json.dumps({'what': what, 'by': by}) + '\n')


def drawn(changes: list[dict], most: int) -> list[dict]:
    "So many of them, the same each time; 0: all."
    return changes if not most or len(changes) <= most else random.Random(0).sample(changes, most)


def survivors() -> list[dict]:
    "The survivors that are kept, each with the reason why."
    path = OUT / 'survivors.csv'
    return list(csv.DictReader(path.open(encoding='utf-8'))) if path.exists() else []


def replace(path: Path, rows: list[dict]) -> None:
    "Write a table, whole or not at all."
    unfinished = path.with_suffix('.tmp')
    with open(unfinished, 'w', newline='', encoding='utf-8') as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator='\n')
        table.writeheader()
        table.writerows(rows)
    unfinished.replace(path)


def write() -> None:
    "results/faults: how many were planted and noticed, and the survivors; what was written about one before stays."
    told = {tuple(row[name] for name in SURVIVOR): row['reason'] for row in survivors()}
    counts, left = [], []
    for name, subject in SUBJECTS.items():
        if not (path := WORK / f'{name}.jsonl').exists(): continue
        current = {json.dumps(what) for what in listed(subject)}
        rows = {json.dumps(row['what']): row for row in map(json.loads, path.read_text(encoding='utf-8').splitlines())}
        rows = [row for key, row in rows.items() if key in current]
        alive = [row['what'] for row in rows if not row['by']]
        counts.append({'module': name, 'possible': len(current), 'mutants': len(rows), 'killed': len(rows) - len(alive),
                       'survived': len(alive)})
        for what in alive:
            row = {'module': name} | {key: str(value) for key, value in what.items()}
            left.append(row | {'reason': told.get(tuple(row[key] for key in SURVIVOR), '')})
    OUT.mkdir(parents=True, exist_ok=True)
    replace(OUT / 'mutants.csv', counts)
    replace(OUT / 'survivors.csv', left)
    for row in counts: print(row)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('command', choices=('list', 'run', 'write'))
    parser.add_argument('names', nargs='*', default=list(SUBJECTS))
    parser.add_argument('--most', type=int, default=0)
    parser.add_argument('--again', action='store_true')
    parser.add_argument('--seconds', type=float, default=540)
    given = parser.parse_args()
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    os.environ.setdefault('MPLBACKEND', 'agg')
    sys.path[:0] = [str(ROOT), str(ROOT / 'tests')]
    until = time.monotonic() + given.seconds
    if given.command == 'write': write()
    for name in given.names if given.command != 'write' else ():
        if given.command == 'list': print(name, len(listed(SUBJECTS[name])))
        else: run(name, given.most, given.again, until)
