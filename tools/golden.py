"""Write tests/golden/*.npz: what the package computes from fixed seeds, for tests/test_golden.py.

Run `python tools/golden.py` only where a change of numbers is meant, and say in the commit which and why.
"""
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from regpre_nb.method.heads import PretrainingNetwork
from regpre_nb.method.losses import diffusion, gaussian_kl, local_ncc, one_hot, soft_dice
from regpre_nb.method.metrics import dice_per_label, folding
from regpre_nb.method.random_images import perlin_noise, random_displacement, random_pair
from regpre_nb.method.spatial import compose, integrate, jacobian_determinant, warp
from regpre_nb.method.swin import SETTINGS, SwinEncoder
from regpre_nb.method.transmorph import TransMorph

FOLDER = Path(__file__).resolve().parent.parent / 'tests' / 'golden'
SHAPE = 24, 20, 28
SMALL = dict(cell=16, amplitudes=(1, 2, 3))


def seeded(seed: int) -> torch.Generator:
    "A generator on the CPU."
    return torch.Generator().manual_seed(seed)


def thinned(volume: torch.Tensor) -> torch.Tensor:
    "Every third voxel along each of the last three axes: enough to see a change, small on disk."
    return volume[..., ::3, ::3, ::3]


def smooth_images() -> list[torch.Tensor]:
    "Two unlike images without edges, where rounding on another CPU could move a voxel."
    return [0.5 + 0.5 * perlin_noise((32, 32, 32), seeded(seed), cell=12)[None] for seed in (5, 6)]


def weighted(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    "The module in evaluation mode, every weight drawn: a head that starts at zero would hide what comes before it."
    generator = seeded(seed)
    with torch.no_grad():
        for _, parameter in sorted(module.named_parameters()):
            scale = 0.5 if parameter.ndim < 2 else parameter[0].numel() ** -0.5
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def random_images() -> dict[str, torch.Tensor]:
    "Noise, a pair of each preset, and both displacements."
    found = {'perlin': thinned(perlin_noise(SHAPE, seeded(1), 2, cell=10, octaves=2))}
    for preset in ('paper', 'released'):
        pair = random_pair((32, 32, 32), seeded(2), preset=preset, **SMALL)
        for role in ('moving', 'fixed'):
            for part in (role, f'{role}_displacement'): found[f'{preset}_{part}'] = thinned(pair[part])
            found[f'{preset}_{role}_counts'] = torch.bincount(pair[f'{role}_labels'].flatten().long(), minlength=16)
    return found


def spatial() -> dict[str, torch.Tensor]:
    "Integration, composition, sampling and the Jacobian of one random velocity."
    velocity = random_displacement(SHAPE, seeded(3), **SMALL)
    image = perlin_noise(SHAPE, seeded(4), cell=8)[None]
    forth, back = integrate(velocity), integrate(-velocity)
    return {'integrated': thinned(forth), 'there_and_back': thinned(compose(forth, back)),
            'warped': thinned(warp(image, forth)), 'jacobian': thinned(jacobian_determinant(forth))}


def networks() -> dict[str, torch.Tensor]:
    "The maps of the tiny encoder, the displacement of its network, and what the pretraining network says."
    moving, fixed = smooth_images()
    found = {}
    with torch.no_grad():
        encoder = weighted(SwinEncoder(SETTINGS['tiny']), 7)
        found |= {f'map_{i}': m for i, m in enumerate(encoder(torch.cat([moving, fixed], 1)))}
        found['displacement'] = thinned(weighted(TransMorph(SETTINGS['tiny']), 8)(moving, fixed))
        told = weighted(PretrainingNetwork(SwinEncoder(SETTINGS['tiny']), 1., channels=4), 9)(moving, fixed)
    found |= {'pretraining': thinned(told.displacement), 'log_sigma': thinned(told.ensemble.log_sigma)}
    return found


def scores() -> dict[str, torch.Tensor]:
    "Losses with their gradients, and measures."
    moving, fixed = smooth_images()
    displacement = random_displacement(SHAPE, seeded(10), **SMALL)
    found = {}
    for kernel in ('box', 'gauss'):
        loss = local_ncc(moving.requires_grad_(), fixed, kernel=kernel)
        found[f'ncc_{kernel}'] = loss.detach()
        found[f'ncc_{kernel}_gradient'] = 1e4 * thinned(torch.autograd.grad(loss, moving)[0])
    labels = [torch.randint(4, (1, 1, 16, 16, 16), generator=seeded(seed)) for seed in (11, 12)]
    normal = torch.randn(4, 100, generator=seeded(13))
    found |= {'diffusion': diffusion(displacement), 'kl': gaussian_kl(*normal),
              'soft_dice': soft_dice(*(one_hot(part, 4) for part in labels)),
              'dice': dice_per_label(*labels, [1, 2, 3]), 'folding': torch.tensor(folding(20 * displacement))}
    return found


SETS: dict[str, Callable[[], dict[str, torch.Tensor]]] = {  # file -> what is in it
    'random_images': random_images, 'spatial': spatial, 'networks': networks, 'scores': scores}


if __name__ == '__main__':
    FOLDER.mkdir(exist_ok=True)
    for name, compute in SETS.items():
        np.savez_compressed(FOLDER / f'{name}.npz', **{key: value.numpy() for key, value in compute().items()})
