"No misspelt word passes: every argument that takes one of a few words has a `Literal` type, and `checked` looks at it."
import ast
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from importlib import import_module
from pkgutil import walk_packages
from types import UnionType
from typing import Literal, Union, get_args, get_origin

import pytest
import torch
from conftest import ROOT

import regpre_nb
from regpre_nb.compare.methods import missing
from regpre_nb.data.cohorts import load_cohort
from regpre_nb.data.files import read_rows
from regpre_nb.learn.finetune import FinetuneSettings
from regpre_nb.learn.training import TrainSettings
from regpre_nb.learn.weights import find_weights
from regpre_nb.method.losses import Loss
from regpre_nb.method.settings import VARIABLES, InputError, check_variables, switched
from regpre_nb.method.spatial import warp
from regpre_nb.method.swin import ENCODERS, kind_named, settings_named
from regpre_nb.paper.profiles import load_profile
from regpre_nb.use import cli, own, register_command

WORDS = {'paper', 'released', 'box', 'gauss', 'linear', 'nearest', 'majority', 'ncc', 'dice', 'each', 'one', 'none',
         'ensemble||stage', 'stage||ensemble', 'adam', 'adamw', 'amsgrad', 'no', 'bf16', 'correlation',
         'mutual information', 'instance', 'exact', 'sphere', 'translation', 'smooth'}


def callables() -> Iterator[tuple[str, Callable]]:
    "The public functions, methods and `__init__`s that a module of the package defines, by name."
    for found in walk_packages(regpre_nb.__path__, 'regpre_nb.'):
        module = found.name.removeprefix('regpre_nb.')
        if module.startswith('_'): continue
        try: contents = vars(import_module(found.name))
        except ModuleNotFoundError: continue  # of an extra that is not installed
        for name, thing in contents.items():
            if getattr(thing, '__module__', None) != found.name or name.startswith('_'): continue
            if inspect.isfunction(thing): yield f'{module}.{name}', thing
            for method, function in vars(thing).items() if inspect.isclass(thing) else ():
                if inspect.isfunction(function) and (method == '__init__' or not method.startswith('_')):
                    yield f'{module}.{name}' + f'.{method}' * (method != '__init__'), function


def hints_of(function: Callable) -> dict[str, object]:
    "Types of the arguments; those in quotes that only a type checker knows stay as they are written."
    hints = {}
    for name, hint in function.__annotations__.items():
        try: hints[name] = eval(hint, function.__globals__) if isinstance(hint, str) else hint  # noqa: S307 - own code
        except NameError: hints[name] = hint
    return hints


def arguments() -> Iterator[tuple[str, object, object, Callable]]:
    "Name, type and default of each argument of each of them."
    for name, function in callables():
        hints = hints_of(function)
        for argument in inspect.signature(function).parameters.values():
            yield f'{name}.{argument.name}', hints.get(argument.name), argument.default, function


def parts(hint: object) -> tuple:
    "The members of a union, or the type alone."
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


LISTED = list(arguments())
CHOICES = [(name, hint, default, function) for name, hint, default, function in LISTED
           if any(get_origin(part) is Literal for part in parts(hint))]


def test_every_literal_is_checked():
    "A `Literal` without `checked` is only a comment."
    unchecked = [name for name, *_, function in CHOICES
                 if name.rpartition('.')[2] not in getattr(function, 'choices', {})]
    assert not unchecked, f'put @checked above these: {unchecked}'
    assert {'method.spatial.warp.preset', 'method.losses.local_ncc.kernel', 'method.swin.TransMorphSettings.preset',
            'method.heads.PretrainingNetwork.preset'} <= {name for name, *_ in CHOICES}


def test_no_choice_is_plain_text():
    "An argument whose default is a word of a choice has the type of that choice."
    words = WORDS | {word for _, hint, *_ in CHOICES for part in parts(hint) for word in get_args(part)} - {None}
    plain = {name for name, hint, default, _ in LISTED if str in parts(hint) and default in words}
    plain -= {'use.cli.dry_run.profile', 'method.losses.Loss.similarity'}  # names that are looked up in a list
    assert not plain, f'give these a Literal type, and @checked: {sorted(plain)}'


def test_defaults_are_choices():
    "What holds for a user holds for a default."
    for name, _, default, function in CHOICES:
        choices = function.choices[name.rpartition('.')[2]]
        assert default in (inspect.Parameter.empty, *choices), f'{name} is {default!r} by default'


# Names that are looked up

def constants(tree: ast.Module) -> set[str]:
    "Lists by name: dictionaries in capitals at the top of a module, and those that are imported."
    assigned = {target.id for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign)
                for target in getattr(node, 'targets', [getattr(node, 'target', None)]) if isinstance(target, ast.Name)}
    imported = {alias.asname or alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
                for alias in node.names}
    return {name for name in assigned | imported if name.isupper()}


def unguarded(function: ast.FunctionDef, names: set[str]) -> list[str]:
    "Lists that a public function looks an argument of its own up in, without a look whether it is there."
    given = {a.arg for a in (*function.args.args, *function.args.kwonlyargs)
             if a.annotation is not None and ast.unparse(a.annotation) in ('str', "'str'")}
    text = ast.unparse(function)
    return [f'{node.value.id}[{node.slice.id}]' for node in ast.walk(function)
            if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id in names
            and isinstance(node.slice, ast.Name) and node.slice.id in given
            and isinstance(node.ctx, ast.Load) and f'{node.slice.id} not in ' not in text]


def test_lookups_are_guarded():
    "A `KeyError` tells nobody what the names are: `look_up` does."
    found = []
    for path in sorted((ROOT / 'regpre_nb').rglob('*.py')):
        tree = ast.parse(path.read_text(encoding='utf-8'))
        names = constants(tree) - {'VARIABLES'}  # whose own names a test below compares
        public = [node for node in ast.walk(tree)
                  if isinstance(node, ast.FunctionDef) and not node.name.startswith('_')]
        found += [f'{path.stem}.{node.name}: {each}' for node in public for each in unguarded(node, names)]
    assert not found, f'use look_up: {found}'


MISSPELT = {'smoke': (load_profile, 'smok', None), 'hippocampus': (load_cohort, 'hipocampus'),
            'paper': (settings_named, 'papre'), 'swin': (kind_named, 'swinn', ENCODERS),
            'any-pair': (find_weights, 'any-pari'), 'convexadam': (missing, 'convexdam'), 'ncc': (Loss, 'nccc'),
            'nearest': (warp, torch.zeros(1, 1, 4, 4, 4), torch.zeros(1, 3, 4, 4, 4), 'nearst'),
            'each': (FinetuneSettings, Loss(), 'eahc')}


@pytest.mark.parametrize('right', MISSPELT)
def test_nearest_name(right):
    "The sentence names what is most like it."
    call, *given = MISSPELT[right]
    with pytest.raises(InputError, match=f"did you mean '{right}'"): call(*given)


def settings_classes() -> list[type]:
    "The dataclasses of settings that can be made without arguments, and one that needs some."
    found = {}
    for module in walk_packages(regpre_nb.__path__, 'regpre_nb.'):
        try: contents = vars(import_module(module.name))
        except ModuleNotFoundError: continue
        found |= {thing.__qualname__: thing for name, thing in contents.items() if is_dataclass(thing)
                  and isinstance(thing, type) and thing.__module__ == module.name
                  and (name.endswith('Settings') or name == 'Loss')}
    return list(found.values())


def test_settings_refuse_words():
    "A field of settings that holds a word has a `Literal` type or a rule."
    passed, tried = [], 0
    for kind in settings_classes():
        try: usual = kind()
        except TypeError: continue
        for field in fields(kind):
            if not isinstance(getattr(usual, field.name), str): continue
            tried += 1
            try: replace(usual, **{field.name: 'misspelt'})
            except InputError: continue
            passed.append(f'{kind.__name__}.{field.name}')
    assert tried >= 5 and not passed, f'these take any word: {passed}'


FREE = {  # take any keyword: what becomes of those that nobody knows
    **dict.fromkeys(('learn.training.save_weights', 'learn.training.save_together', 'learn.weights.save_pretrained',
                     'compare.any_pair.train_any_pair', 'compare.synthmorph.keep_best'), 'kept as a record'),
    **dict.fromkeys(('method.swin.settings_named', 'data.cohorts.cohort', 'compare.pairwise.instance_adapter'),
                    'refused by the dataclass'),
    **dict.fromkeys(('method.settings.sentence_of', 'method.swin.build_module', 'method.random_images.RandomPairs',
                     'compare.pairwise.warm_network', 'compare.pairwise.warm_instance', 'use.many.register_pairs'),
                    'refused by the function that they are handed on to'),
    'method.swin.Encoder': 'a protocol', 'paper.tables.difference_table': 'names of columns'}


def test_no_keyword_is_swallowed():
    "A function that takes any keyword stands here, with what becomes of one that is misspelt."
    found = {name for name, function in callables()
             if any(p.kind is p.VAR_KEYWORD for p in inspect.signature(function).parameters.values())}
    assert found <= set(FREE), f'name their arguments, or say here what becomes of others: {sorted(found - set(FREE))}'
    with pytest.raises(TypeError): settings_named('tiny', chanels=4)


def test_seeds():
    "One range for settings and commands."
    assert TrainSettings(steps=1, seed=2**32 - 1).seed == 2**32 - 1
    for seed in (-1, 2**32, 10**23):
        with pytest.raises(InputError, match=f'from 0 to {2**32 - 1}'): TrainSettings(steps=1, seed=seed)
    for option in (cli.SeedOption, own.OwnSeedOption, register_command.SeedOption):
        assert (option.__metadata__[0].min, option.__metadata__[0].max) == (0, 2**32 - 1)


# Variables and columns

def test_variables_are_listed():
    "Each variable that is read has its line in `VARIABLES`."
    texts = [path.read_text(encoding='utf-8') for path in sorted((ROOT / 'regpre_nb').rglob('*.py'))]
    read = {name for text in texts for name in re.findall(r"""environ(?:\.get\(|\[|\.pop\()['"](REGPRE_\w+)""", text)}
    switches = {name for text in texts for name in re.findall(r"switched\('(REGPRE_\w+)'", text)}
    assert {'REGPRE_DATA'} <= read and {'REGPRE_FAST'} <= switches and not switches & read
    assert read | switches <= set(VARIABLES)


def test_misspelt_variable(monkeypatch):
    check_variables()
    monkeypatch.setenv('REGPRE_DTAA', '/data')
    with pytest.raises(InputError, match="REGPRE_DTAA is set and means nothing .did you mean 'REGPRE_DATA'"):
        check_variables()


@pytest.mark.parametrize('value, wanted', [('0', False), ('1', True), ('', True)])
def test_switch(monkeypatch, value, wanted):
    monkeypatch.setenv('REGPRE_FAST', value)
    assert switched('REGPRE_FAST', True) is wanted
    monkeypatch.setenv('REGPRE_FAST', 'no')
    with pytest.raises(InputError, match='set it to 0 or 1'): switched('REGPRE_FAST', True)


@pytest.mark.parametrize('name', [name for name, told in VARIABLES.items() if told[:3] in ('0: ', '1: ')])
def test_every_switch_is_looked_at_first(monkeypatch, name):
    "Before a command begins, whether it will read the variable or not."
    monkeypatch.setenv(name, '2')
    with pytest.raises(InputError, match=f"{name} is '2' .*set it to 0 or 1"): check_variables()


def test_misspelt_column(tmp_path):
    "Without a word, a column `splitt` would leave the split to chance."
    (tmp_path / 'table.csv').write_text('case,splitt,age\na,train,9\n')
    with pytest.raises(InputError, match="the column 'splitt' means nothing .did you mean 'split'"):
        read_rows(tmp_path / 'table.csv', ('case',), ('split',))
    assert read_rows(tmp_path / 'table.csv', ('case',))[0][1]['age'] == '9'
