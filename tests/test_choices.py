"No misspelt word passes: every argument that takes one of a few words has a `Literal` type, and `checked` looks at it."
import inspect
from collections.abc import Callable, Iterator
from importlib import import_module
from pkgutil import iter_modules
from types import UnionType
from typing import Literal, Union, get_args, get_origin, get_type_hints

import regpre_nb

WORDS = {'paper', 'released', 'box', 'gauss', 'linear', 'nearest', 'majority', 'ncc', 'dice', 'each', 'one', 'none',
         'ensemble||stage', 'stage||ensemble', 'adam', 'adamw', 'amsgrad', 'no', 'bf16', 'correlation',
         'mutual information', 'instance', 'exact', 'sphere', 'translation', 'smooth'}

NOT_YET = {  # arguments that are still plain text: delete a line once `checked` looks at it
    'finetune.FinetuneSettings.flips', 'finetune.FinetuneSettings.kernel', 'finetune.FinetuneSettings.preset',
    'finetune.cohort_batches.flips', 'finetune.cohort_validation.preset', 'finetune.dice_scores.preset',
    'finetune.evaluate.preset', 'finetune.score_pair.preset', 'finetune.warp_labels.preset',
    'instance.InstanceSettings.kernel',
    'lung.lung_cohort.rule',
    'pretrain.PretrainSettings.kernel', 'pretrain.PretrainSettings.kl_direction', 'pretrain.PretrainSettings.preset',
    'pretrain.PretrainSettings.similarity', 'pretrain.validation_dice.preset',
    'report.published.metric',
    'training.TrainSettings.optimiser', 'training.TrainSettings.precision',
    'volumes.affine_align.metric', 'volumes.resample.mode',
}


def callables() -> Iterator[tuple[str, Callable]]:
    "The public functions, methods and `__init__`s that a module of the package defines, by name."
    for module in iter_modules(regpre_nb.__path__):
        if module.name.startswith('_'): continue
        try: contents = vars(import_module(f'regpre_nb.{module.name}'))
        except ModuleNotFoundError: continue  # of an extra that is not installed
        for name, thing in contents.items():
            if getattr(thing, '__module__', None) != f'regpre_nb.{module.name}' or name.startswith('_'): continue
            if inspect.isfunction(thing): yield f'{module.name}.{name}', thing
            for method, function in vars(thing).items() if inspect.isclass(thing) else ():
                if inspect.isfunction(function) and (method == '__init__' or not method.startswith('_')):
                    yield f'{module.name}.{name}' + f'.{method}' * (method != '__init__'), function


def arguments() -> Iterator[tuple[str, object, object, Callable]]:
    "Name, type and default of each argument of each of them."
    for name, function in callables():
        hints = get_type_hints(function)
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
    assert {'spatial.warp.preset', 'losses.local_ncc.kernel', 'transmorph.TransMorphSettings.preset',
            'heads.PretrainingNetwork.preset'} <= {name for name, *_ in CHOICES}


def test_no_choice_is_plain_text():
    "An argument whose default is a word of a choice has the type of that choice."
    words = WORDS | {word for _, hint, *_ in CHOICES for part in parts(hint) for word in get_args(part)} - {None}
    plain = {name for name, hint, default, _ in LISTED if str in parts(hint) and default in words}
    plain -= {'cli.dry_run.profile'}  # the name of a profile
    assert not plain - NOT_YET, f'give these a Literal type, and @checked: {sorted(plain - NOT_YET)}'


def test_defaults_are_choices():
    "What holds for a user holds for a default."
    for name, _, default, function in CHOICES:
        choices = function.choices[name.rpartition('.')[2]]
        assert default in (inspect.Parameter.empty, *choices), f'{name} is {default!r} by default'
