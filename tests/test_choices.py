"No misspelt word passes: every argument that takes one of a few words has a `Literal` type, and `checked` looks at it."
import inspect
from collections.abc import Callable, Iterator
from importlib import import_module
from pkgutil import walk_packages
from types import UnionType
from typing import Literal, Union, get_args, get_origin

import regpre_nb

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
