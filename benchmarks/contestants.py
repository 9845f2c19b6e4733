"""What is compared: for every item, the same input and work for us and for the peers that are installed from PyPI.

Our contestants are named `ours` and `ours, <variant>`, with ` [fast]` at the end where compiled kernels take part.
"""
import inspect
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.util import find_spec

import numpy as np
import torch
from measure import pure
from torch import nn

from regpre_nb.learn.finetune import FinetuneSettings, registration_loss
from regpre_nb.learn.pretrain import PRETRAIN, pretraining_loss, random_batches
from regpre_nb.method.heads import PretrainingNetwork
from regpre_nb.method.losses import local_ncc
from regpre_nb.method.metrics import dice_per_label, folding
from regpre_nb.method.random_images import random_displacement, random_pair, random_shapes, random_velocity
from regpre_nb.method.spatial import integrate
from regpre_nb.method.swin import SETTINGS, SwinEncoder
from regpre_nb.method.transmorph import TransMorph
from regpre_nb.use.profiling import TrainingStep

FAST = ' [fast]'  # the end of a contestant's name


@dataclass(frozen=True)
class Item:
    "One line of work to compare."
    title: str
    prepare: Callable[[tuple], dict[str, Callable]]  # shape -> contestants, ready to be called
    least: int = 3  # repeats, see `interleave`


@cache
def have(package: str) -> bool:
    "Whether a peer is installed; says so if not."
    found = find_spec(package) is not None
    if not found: print(f"{package} is not installed, so its column is missing: pip install -e '.[bench]'")
    return found


def with_and_without_kernels(contestants: dict[str, Callable]) -> dict[str, Callable]:
    "Each of ours in plain PyTorch and, where numba is installed, with compiled kernels; the peers as they are."
    kernels = find_spec('numba') and os.environ.get('REGPRE_FAST') != '0'
    doubled = {}
    for name, call in contestants.items():
        if name.startswith('ours'):
            doubled[name] = pure(call)
            if kernels: doubled[name + FAST] = call
        else: doubled[name] = call
    return doubled


def seeded() -> torch.Generator:
    "Every contestant and every repeat starts here."
    return torch.Generator().manual_seed(0)


# Local correlation

def similarities() -> dict[str, Callable]:
    "Minus the mean squared correlation in windows of 9, of two images."
    found = {'ours': partial(local_ncc, window=9)}
    if have('monai'):
        from monai.losses import LocalNormalizedCrossCorrelationLoss
        found['MONAI'] = LocalNormalizedCrossCorrelationLoss(spatial_dims=3, kernel_size=9)
    if have('neurite'):
        from neurite.nn.modules import NCC
        correlation = NCC(window_size=9)
        found['neurite'] = lambda warped, fixed: -correlation(warped, fixed).sum()
    return found


def value_and_gradient(similarity: Callable, moving: torch.Tensor, fixed: torch.Tensor) -> tuple[torch.Tensor, ...]:
    "Forward and backward, with respect to the first image."
    moving = moving.detach().requires_grad_()
    value = similarity(moving, fixed)
    return value.detach(), *torch.autograd.grad(value, moving)


def image_pair(shape: tuple, noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    "A random pair of images of piecewise constant intensity, plus noise."
    generator = seeded()
    pair = random_pair(shape, generator)
    images = [pair[role] for role in ('moving', 'fixed')]
    return tuple(image + noise * torch.randn(image.shape, generator=generator) for image in images)


def correlations(shape: tuple) -> dict[str, Callable]:
    "On images with noise: without it, neurite refuses its own result."
    pair = image_pair(shape, 0.02)
    return {name: partial(value_and_gradient, similarity, *pair) for name, similarity in similarities().items()}


def correlation_errors(shape: tuple) -> list[dict]:
    "Float32 against float64 of the same contestant: absolute error of the value, relative error of the gradient."
    rows = []
    for images, noise in (('piecewise constant', 0.0), ('with noise', 0.02)):
        pair = image_pair(shape, noise)
        exact_pair = [image.double() for image in pair]
        calls = {name: lambda images, similarity=similarity: value_and_gradient(similarity, *images)
                 for name, similarity in similarities().items()}
        for name, call in with_and_without_kernels(calls).items():
            row = {'images': images, 'size': shape[0], 'contestant': name}
            try: (value, gradient), (exact_value, exact) = call(pair), call(exact_pair)
            except AssertionError: value = exact_value = gradient = exact = torch.tensor(np.nan)  # neurite refuses
            rows.append(row | {'value': value.item(), 'value_error': (value - exact_value).abs().item(),
                               'gradient_error': ((gradient - exact).norm() / exact.norm()).item()})
    return rows


# Random pairs

def neurite_pair(shape: tuple) -> dict[str, torch.Tensor]:
    """The nearest thing to `random_pair` in neurite and voxelmorph: the same six outputs, not the same distribution.

    White noise is interpolated linearly where we have Perlin noise. The velocity has a standard deviation of 4 voxels
    and is integrated in 5 steps at full size, ours in 7 steps at a quarter of it. Outside the image is 0.
    """
    import neurite.nn.functional as nef
    import voxelmorph.nn.functional as vxf
    torch.manual_seed(0)  # random_disp takes no generator
    labels = nef.fractal_noise((1, 16, *shape), scales=32, method='upsample').argmax(1, keepdim=True)
    image, pair = torch.rand(16)[labels], {}
    labels = labels.to(torch.uint8)
    for role in ('moving', 'fixed'):
        displacement = vxf.random_disp((1, 1, *shape), scales=[16, 32], magnitude=4, integrations=5)
        pair[role] = vxf.spatial_transform(image, displacement)
        pair[f'{role}_labels'] = vxf.spatial_transform(labels, displacement, method='nearest')
        pair[f'{role}_displacement'] = displacement
    return pair


def generators(shape: tuple) -> dict[str, Callable]:
    "A pair of images, their label maps and displacements."
    found = {'ours': lambda: random_pair(shape, seeded()),
             'ours, released': lambda: random_pair(shape, seeded(), preset='released')}
    if have('neurite') and have('voxelmorph'): found['neurite + voxelmorph'] = partial(neurite_pair, shape)
    return found


def frugal_generators(shape: tuple) -> dict[str, Callable]:
    "For peak memory: also a pair without displacements, if `random_pair` can leave them out."
    option = [name for name in inspect.signature(random_pair).parameters if 'displacement' in name]
    if not option: return generators(shape)
    frugal = {'ours, no displacements': lambda: random_pair(shape, seeded(), **{option[0]: False})}
    return frugal | generators(shape)


# Scaling and squaring

def integrators() -> dict[str, Callable]:
    "Velocity -> displacement in 7 squarings."
    found = {'ours': partial(integrate, steps=7)}
    if have('monai'):
        from monai.networks.blocks import DVF2DDF
        with warnings.catch_warnings(action='ignore'):  # that it samples with PyTorch
            found['MONAI'] = DVF2DDF(num_steps=7)
    if have('voxelmorph'):
        from voxelmorph.nn.functional import integrate_vec
        found['voxelmorph'] = partial(integrate_vec, steps=7)
    return found


def integrations(shape: tuple) -> dict[str, Callable]:
    "Forward only."
    velocity = 10 * random_velocity(shape, seeded())
    return {name: partial(integrator, velocity) for name, integrator in integrators().items()}


def integrations_backward(shape: tuple) -> dict[str, Callable]:
    "Forward, and backward from a gradient of ones."
    velocity = (10 * random_velocity(shape, seeded())).requires_grad_()
    upstream = torch.ones_like(velocity)

    def there_and_back(integrator): return torch.autograd.grad(integrator(velocity), velocity, upstream)
    return {name: partial(there_and_back, integrator) for name, integrator in integrators().items()}


# Metrics

def foldings(shape: tuple) -> dict[str, Callable]:
    "Folded voxels, folded tetrahedra and non-diffeomorphic volume of a field that folds."
    displacement = 2 * random_displacement(shape, seeded())
    return {'ours': lambda: folding(displacement)}


def dice_in_a_loop(a: np.ndarray, b: np.ndarray, ids: range) -> list[float]:
    "The usual way: three passes for each label."
    return [2 * np.sum((a == i) & (b == i)) / max(np.sum(a == i) + np.sum(b == i), 1) for i in ids]


def dices(shape: tuple) -> dict[str, Callable]:
    "Dice of 35 labels and a background; uint8 unless said otherwise."
    generator, ids = seeded(), range(1, 36)
    tensors = [random_shapes(shape, generator, n_labels=36) for _ in range(2)]
    small, large = ([tensor.numpy().astype(kind) for tensor in tensors] for kind in (np.uint8, np.int64))
    found = {'ours': lambda: dice_per_label(*tensors, ids),
             'NumPy loop, uint8': lambda: dice_in_a_loop(*small, ids),
             'NumPy loop, int64': lambda: dice_in_a_loop(*large, ids)}
    if have('voxelmorph'):
        from voxelmorph.py.utils import dice
        found['voxelmorph'] = lambda: dice(*small, labels=list(ids))
    if have('monai'):
        from monai.metrics import compute_dice
        from monai.networks.utils import one_hot
        found['MONAI'] = lambda: compute_dice(*(one_hot(tensor, 36) for tensor in tensors), include_background=False)
    return found


# Training steps

def training_step(network: nn.Module, loss: Callable, shape: tuple, precision: str) -> Callable:
    "Random pair, network, loss, backward and optimiser."
    return TrainingStep(network, loss, random_batches(replace(PRETRAIN['paper'], shape=shape)), precision)


def pretraining_steps(shape: tuple) -> dict[str, Callable]:
    "The encoder with its light decoders, working at half resolution."
    def step(precision):
        network = PretrainingNetwork(SwinEncoder(SETTINGS['paper']), resolution=0.5)
        return training_step(network, partial(pretraining_loss, settings=PRETRAIN['paper']), shape, precision)
    return {'ours': step('no'), 'ours, bf16': step('bf16')}


def full_steps(shape: tuple) -> dict[str, Callable]:
    "The whole registration network with 12 time steps, on the same random pairs."
    network = TransMorph(SETTINGS['paper'])
    return {'ours': training_step(network, partial(registration_loss, settings=FinetuneSettings()), shape, 'no')}


ITEMS = {
    'ncc': Item('Local correlation, window 9, forward + backward', correlations),
    'pair': Item('Random pair: images, label maps, displacements', generators),
    'integrate': Item('Scaling and squaring, 7 steps, forward', integrations),
    'integrate-backward': Item('Scaling and squaring, 7 steps, forward + backward', integrations_backward),
    'ndv': Item('%NDV', foldings),
    'dice': Item('Dice of 35 labels', dices),
    'step': Item('Pretraining step (encoder only)', pretraining_steps),
    'full-step': Item('Pretraining step (full network, T = 12)', full_steps, least=2),
}
