"""What must hold for any input: of warps, losses, metrics, statistics and transforms, beside independent programs.

The tolerance of a type is a number of its rounding errors (eps) of the largest value that was rounded. Every example
is drawn from a fixed seed, so that a test passes or fails alike on each run.
"""
import itertools
import math

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats
from torch import distributions

from regpre_nb.compare.statistics import estimate, holm, stretch, summarise
from regpre_nb.data.volumes import Volume
from regpre_nb.learn.pretrain import PretrainSettings, distillation
from regpre_nb.method import losses, spatial
from regpre_nb.method.heads import Gaussian, Prediction
from regpre_nb.method.losses import Loss, diffusion, gaussian_kl, local_ncc, local_ncc_map, one_hot, soft_dice
from regpre_nb.method.metrics import dice_per_label, folding, folding_maps, ndv_percent, tre
from regpre_nb.method.spatial import (
    compose,
    integrate,
    interpolate,
    jacobian_determinant,
    read_at,
    resize_displacement,
    resize_image,
    warp,
)
from regpre_nb.use import transforms
from regpre_nb.use.transforms import Warp, compose_warps, invert_warp, move_points

WIDE = [torch.float32, torch.float64]
DTYPES = [torch.bfloat16, *WIDE]
SHAPE = 9, 10, 11
few = settings(max_examples=8, deadline=None, database=None, derandomize=True)
seeds = st.integers(0, 10**6)


def seeded(seed: int) -> torch.Generator:
    "A generator."
    return torch.Generator().manual_seed(seed)


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    "Uniform numbers in 0 to 1, the same for all types up to their rounding."
    return torch.rand(shape, generator=seeded(seed), dtype=torch.float64).to(dtype)


def close(found, expected, dtype: torch.dtype, errors: float = 16, size: float | None = None) -> None:
    "Equal to so many rounding errors of a type, of the largest number that was rounded."
    found, expected = (torch.as_tensor(part).double() for part in (found, expected))
    size = max(1., expected.nan_to_num().abs().max().item()) if size is None else size
    torch.testing.assert_close(found, expected, rtol=0, atol=errors*torch.finfo(dtype).eps*size, equal_nan=True)


def affine_field(matrix, shift, dtype: torch.dtype = torch.float64, shape=SHAPE) -> torch.Tensor:
    "The displacement of x -> c + matrix (x - c) + shift about the centre c of a grid."
    grid = spatial.identity_grid(shape, dtype=torch.float64)[0].flatten(1)
    centre = (torch.tensor(shape, dtype=torch.float64)[:, None] - 1)/2
    moved = torch.as_tensor(matrix).double() @ (grid - centre) + centre + torch.as_tensor(shift).double()[:, None]
    return (moved - grid).view(1, 3, *shape).to(dtype)


def contraction(seed: int) -> tuple[np.ndarray, np.ndarray]:
    "A matrix and a shift that keep every voxel of SHAPE within it: no axis grows, and the shift uses what is left."
    rng = np.random.default_rng(seed)
    mixed = np.eye(3)*0.7 + rng.uniform(-0.05, 0.05, (3, 3))
    return mixed, rng.uniform(-0.3, 0.3, 3)


def bumpy(size: float, seed: int = 0, dtype: torch.dtype = torch.float64, shape=(20, 20, 20)) -> torch.Tensor:
    "A smooth field that fades out towards the border, so large at most, voxels."
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(1, 3, *shape)), (0, 0, 3, 3, 3))
    fade = np.ones(shape)
    for axis, n in enumerate(shape):
        fade = fade*np.sin(np.pi*np.arange(n)/(n - 1)).reshape([-1 if a == axis else 1 for a in range(3)])
    return torch.from_numpy(size*noise*fade/np.abs(noise*fade).max()).to(dtype)


def flipped(displacement: torch.Tensor, axis: int) -> torch.Tensor:
    "The displacement of the same motion, seen in a mirror."
    mirrored = displacement.flip(axis + 2).clone()
    mirrored[:, axis] *= -1
    return mirrored


# Warps

@pytest.mark.parametrize('dtype', DTYPES)
@few
@given(seed=seeds)
def test_linear_fields_are_warped_exactly(dtype, seed):
    "An image a x + b, read at x + u, is a (x + u) + b: trilinear interpolation makes no error but that of rounding."
    rng = np.random.default_rng(seed)
    slope, offset = torch.from_numpy(rng.uniform(-1, 1, 3)), rng.uniform(-1, 1)
    u = affine_field(*contraction(seed), dtype)
    x = spatial.identity_grid(SHAPE, dtype=torch.float64)
    image = ((x*slope.view(1, 3, 1, 1, 1)).sum(1, keepdim=True) + offset).to(dtype)
    expected = ((x + u.double())*slope.view(1, 3, 1, 1, 1)).sum(1, keepdim=True) + offset
    found = warp(image, u)
    assert found.dtype == torch.promote_types(dtype, torch.float32)
    close(found, expected, dtype, 32, image.double().abs().max().item() + 1)


@pytest.mark.parametrize('dtype', WIDE)
@pytest.mark.parametrize('mode', ['linear', 'nearest'])
def test_warp_beside_scipy(dtype, mode):
    "Random displacements that leave the image too; beyond the edge counts the edge."
    image, u = drawn(1, 2, *SHAPE, seed=1, dtype=dtype), 8*drawn(1, 3, *SHAPE, seed=2, dtype=dtype) - 4
    where = (spatial.identity_grid(SHAPE, dtype=torch.float64) + u.double())[0].numpy()
    expected = [ndimage.map_coordinates(channel.double().numpy(), where, order=int(mode == 'linear'), mode='nearest')
                for channel in image[0]]
    close(warp(image, u, mode)[0], np.stack(expected), dtype, 64)


@pytest.mark.filterwarnings('ignore:monai.networks.blocks.Warp')
def test_warp_beside_monai():
    "Labels and images, two at once."
    blocks = pytest.importorskip('monai.networks.blocks', reason='MONAI is the other program')
    image, u = drawn(2, 1, *SHAPE, seed=3), 6*drawn(2, 3, *SHAPE, seed=4) - 3
    for mode, other in (('linear', 'bilinear'), ('nearest', 'nearest')):
        close(warp(image, u, mode), blocks.Warp(other, 'border')(image, u), torch.float32, 64)


@pytest.mark.parametrize('preset', ['paper', 'released'])
def test_corners_are_what_warp_reads(preset):
    "Eight places and weights a voxel give the warped image; in 'paper' the weights add up to 1."
    image, u = drawn(1, 1, *SHAPE, seed=5, dtype=torch.float64), 6*drawn(1, 3, *SHAPE, seed=6, dtype=torch.float64) - 3
    places, weights = spatial.corners(u, SHAPE, preset)
    close((image.flatten()[places]*weights).sum(0)[:, None], warp(image, u, preset=preset), torch.float64, 64)
    if preset == 'paper': close(weights.sum(0), torch.ones(1, *SHAPE), torch.float64)
    part = spatial.corners(u[:, :, 4:7], SHAPE, preset, start=4)
    for whole, slab in zip((places, weights), part): assert torch.equal(whole[:, :, 4:7], slab)
    assert torch.equal(warp(image, u[:, :, 4:7], preset=preset, start=4), warp(image, u, preset=preset)[:, :, 4:7])


def test_read_at_beside_scipy():
    "Points between voxels and beyond the edge, several channels."
    volume, points = drawn(2, *SHAPE, seed=7, dtype=torch.float64), 14*drawn(3, 50, seed=8, dtype=torch.float64) - 2
    expected = [ndimage.map_coordinates(channel.numpy(), points.numpy(), order=1, mode='nearest') for channel in volume]
    close(read_at(volume, points), np.stack(expected), torch.float64, 64)


# The group of displacements

@pytest.mark.parametrize('dtype', DTYPES)
@few
@given(seed=seeds)
def test_group_laws_of_compose(dtype, seed):
    "The identity changes nothing, translations add up, and it does not matter which two of three go first."
    u, zero = bumpy(2, seed % 5, dtype, (8, 9, 10)), torch.zeros(1, 3, 8, 9, 10, dtype=dtype)
    assert torch.equal(compose(zero, u), u)
    close(compose(u, zero), u, dtype, 16)
    one, other = (torch.zeros_like(zero) + 4*drawn(1, 3, 1, 1, 1, seed=seed + i, dtype=dtype) - 2 for i in (0, 1))
    close(compose(one, other), one.double() + other.double(), dtype, 16, 4)
    a, b, c = (affine_field(*contraction(seed + i), dtype) for i in range(3))
    close(compose(compose(a, b), c), compose(a, compose(b, c)), dtype, 64, 11)


@pytest.mark.parametrize('dtype', DTYPES)
@few
@given(seed=seeds)
def test_compose_multiplies_matrices(dtype, seed):
    "outer(inner(x)) of two affine maps; and a map after its inverse is the identity."
    (outer, shift_outer), (inner, shift_inner) = contraction(seed), contraction(seed + 1)
    found = compose(affine_field(outer, shift_outer, dtype), affine_field(inner, shift_inner, dtype))
    close(found, affine_field(outer @ inner, outer @ shift_inner + shift_outer), dtype, 64, 11)
    back = affine_field(np.linalg.inv(inner), -np.linalg.inv(inner) @ shift_inner, dtype)
    close(compose(back, affine_field(inner, shift_inner, dtype)), torch.zeros(1, 3, *SHAPE), dtype, 64, 11)


@pytest.mark.parametrize('dtype', DTYPES)
def test_integration_there_and_back(dtype):
    "exp(-v) after exp(v) is the identity up to interpolation: a twentieth of a velocity of up to two voxels."
    far, near = (compose(*(integrate(sign*bumpy(size, 3, dtype)) for sign in (-1, 1))).double().norm(dim=1).max()
                 for size in (2., 1.))
    rounding = 4*torch.finfo(dtype).eps
    assert far < 0.11 + rounding and near < 0.055 + rounding, (far, near)
    whole, half = integrate(bumpy(2, 3, dtype)), integrate(bumpy(1, 3, dtype), 6)
    close(compose(half, half), whole, dtype, 16)  # one squaring more
    shift = torch.full((1, 3, *SHAPE), 1.5, dtype=dtype)
    close(integrate(shift), shift, dtype, 16, 4)


@pytest.mark.parametrize('dtype', WIDE)
@few
@given(seed=seeds)
def test_jacobian(dtype, seed):
    "The determinant of an affine map is that of its matrix; of any field, SimpleITK finds the same inside."
    matrix, shift = contraction(seed)
    close(jacobian_determinant(affine_field(matrix, shift, dtype)),
          np.full((1, *(n - 2 for n in SHAPE)), np.linalg.det(matrix)), dtype, 128)
    u = drawn(1, 3, *SHAPE, seed=seed, dtype=dtype)
    field = sitk.GetImageFromArray(u[0].double().permute(3, 2, 1, 0).numpy(), isVector=True)
    told = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(field)).T[1:-1, 1:-1, 1:-1]
    close(jacobian_determinant(u)[0], told, torch.float32, 64)  # the filter answers in float32


# Other sizes

@few
@given(size=st.tuples(*[st.integers(1, 14)]*3), seed=seeds)
def test_sizes_beside_pytorch(size, seed):
    "Interpolation over the same field of view; a displacement's values scale with its grid."
    volume = drawn(2, 3, *SHAPE, seed=seed, dtype=torch.float64)
    expected = F.interpolate(volume, size, mode='trilinear', align_corners=False)
    close(interpolate(volume, size), expected, torch.float64, 64)
    scales = torch.tensor([m/n for m, n in zip(size, SHAPE)], dtype=torch.float64).view(1, 3, 1, 1, 1)
    close(resize_displacement(volume, size), expected*scales, torch.float64, 128)
    if not all(n % m == 0 for n, m in zip(SHAPE, size)): close(resize_image(volume, size), expected, torch.float64, 64)
    thirds = resize_image(volume[..., :9, :9], (3, 3, 9))
    close(thirds, volume[..., :9, :9].unfold(2, 3, 3).unfold(3, 3, 3).mean((-1, -2)), torch.float64)


def test_smoothing_beside_scipy():
    "Far from the border a Gaussian is SciPy's, cut off at four deviations; rows of weights add up to 1 everywhere."
    field = drawn(1, 1, 21, 21, 21, seed=9, dtype=torch.float64)
    weights = spatial.gaussian_weights(field.shape[2:], 1.5, field)
    found = spatial.smooth_field(field, weights)[0, 0]
    expected = ndimage.gaussian_filter(field[0, 0].numpy(), 1.5, truncate=4)
    close(found[6:15, 6:15, 6:15], expected[6:15, 6:15, 6:15], torch.float64)
    for matrix in weights: close(matrix.sum(1), torch.ones(21), torch.float64)
    assert spatial.gaussian_weights((4, 4, 4), 0, field) == []


@pytest.mark.parametrize('axis', [2, 3, 4])
def test_along_axis_beside_einsum(axis):
    "A matrix product along each axis, with its gradient; the operator for GPUs does the same on a CPU."
    volume, matrix = drawn(2, 3, 4, 5, 6, seed=10, dtype=torch.float64), None
    matrix = drawn(7, volume.shape[axis], seed=11, dtype=torch.float64)
    expected = torch.tensordot(volume.movedim(axis, -1), matrix.T, 1).movedim(-1, axis)
    close(spatial.along_axis(matrix, volume, axis), expected, torch.float64)
    close(spatial._exact_product(matrix, volume, axis), expected, torch.float64)
    asked = volume.clone().requires_grad_()
    torch.autograd.gradcheck(lambda v: spatial._exact_product(matrix, v, axis), asked, fast_mode=True)


# Losses

def correlation(a: np.ndarray, b: np.ndarray, window: int, eps: float) -> np.ndarray:
    "Squared local correlation by SciPy, in the middle, where no window leaves the volume."
    a, b = ((image - image.mean())/image.std() for image in (a, b))
    def mean(image): return ndimage.uniform_filter(image, window)
    cross = mean(a*b) - mean(a)*mean(b)
    r = window//2
    found = cross**2/((mean(a*a) - mean(a)**2 + eps)*(mean(b*b) - mean(b)**2 + eps))
    return found[r:-r, r:-r, r:-r]


@pytest.mark.parametrize('window', [3, 5, 9])
def test_ncc_beside_scipy(window):
    "The map, in the middle, and its mean, which is the loss."
    a, b = drawn(2, 1, 1, 13, 12, 14, seed=12, dtype=torch.float64)
    r = window//2
    found = local_ncc_map(a, b, window)
    expected = correlation(a[0, 0].numpy(), b[0, 0].numpy(), window, 3e-3)
    close(found[0, 0, r:-r, r:-r, r:-r], expected, torch.float64, 1e4)
    close(local_ncc(a, b, window), -found.mean(), torch.float64, 64)


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('kernel', ['box', 'gauss'])
@few
@given(seed=seeds)
def test_ncc_under_affine_intensities(dtype, kernel, seed):
    "In [-1, 0], symmetric, and the same after intensities a x + b, a negative too; -1 with itself but for eps."
    a, b = drawn(2, 1, 1, 12, 11, 13, seed=seed, dtype=torch.float64)
    a = a.to(dtype)
    value = local_ncc(a, b.to(dtype), 5, kernel)
    assert -1 <= value <= 0
    close(local_ncc(b.to(dtype), a, 5, kernel), value, torch.float32 if dtype == torch.float64 else dtype, 64)
    # rounding the changed image to its own type is the only difference: its relative error is eps of |b|/|a| + 1
    scale, offset = (-3., 2.) if seed % 2 else (4., -1.)
    rounding = max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps if dtype != torch.float64 else 0)
    assert abs(local_ncc((scale*a.double() + offset).to(dtype), b.to(dtype), 5, kernel) - value) < 64*rounding
    same = local_ncc(a, a, 5, kernel)
    assert -1 <= same < -0.97


@pytest.mark.parametrize('kernel', ['box', 'gauss'])
def test_ncc_gradient(kernel):
    "By finite differences, for either image; a mask of ones is no mask; an image without contrast gives 0."
    a, b = drawn(2, 1, 2, 6, 5, 7, seed=13, dtype=torch.float64).clone().requires_grad_()
    torch.autograd.gradcheck(lambda x, y: local_ncc(x, y, 3, kernel), (a, b), fast_mode=True)
    ones = torch.ones(1, 1, 6, 5, 7, dtype=torch.float64)
    close(local_ncc(a, b, 3, kernel, mask=ones), local_ncc(a, b, 3, kernel), torch.float64)
    assert local_ncc(torch.full_like(a, 0.7), b, 3, kernel) == 0


def test_released_ncc_beside_monai():
    "The formula of the authors' code is MONAI's, whose kernel gives means where theirs gives sums: eps differs."
    monai = pytest.importorskip('monai.losses', reason='MONAI is the other program')
    a, b = drawn(2, 1, 1, 12, 11, 13, seed=14, dtype=torch.float64)
    found, told = local_ncc(a, b, 5, preset='released'), monai.LocalNormalizedCrossCorrelationLoss(3, 5)(a, b)
    assert abs(found - told) < 2e-3*abs(told)


@pytest.mark.parametrize('dtype', DTYPES)
@few
@given(seed=seeds)
def test_diffusion(dtype, seed):
    "NumPy's differences; 0 for a translation, unchanged by a mirror, four times as much for twice the field."
    u = drawn(2, 3, 5, 1 + seed % 4, 6, seed=seed, dtype=dtype)
    expected = sum(np.square(np.diff(u.double().numpy(), axis=axis)).mean() for axis in (2, 3, 4) if u.shape[axis] > 1)
    value = diffusion(u)
    close(value, expected/3, torch.promote_types(dtype, torch.float32), 64)
    assert diffusion(torch.ones_like(u)) == 0 and diffusion(2*u) == 4*value
    close(diffusion(flipped(u, 2)), value, torch.promote_types(dtype, torch.float32))


def test_diffusion_gradient():
    "By finite differences."
    torch.autograd.gradcheck(diffusion, drawn(1, 3, 4, 3, 5, seed=15, dtype=torch.float64).requires_grad_())


@pytest.mark.parametrize('dtype', DTYPES)
@few
@given(seed=seeds)
def test_divergence(dtype, seed):
    "KL is PyTorch's, 0 or more, and 0 for equal; so is the distillation of the ensemble into its stages."
    mean_p, log_p, mean_q, log_q = 4*drawn(4, 60, seed=seed, dtype=dtype) - 2
    p, q = (distributions.Normal(mean.double(), log.double().exp()) for mean, log in ((mean_p, log_p), (mean_q, log_q)))
    expected = distributions.kl_divergence(p, q).mean()
    value = gaussian_kl(mean_p, log_p, mean_q, log_q)
    close(value, expected, torch.promote_types(dtype, torch.float32), 16)
    assert value > 0 and gaussian_kl(mean_p, log_p, mean_p, log_p) == 0
    ensemble, stage = Gaussian(mean_p, log_p), Gaussian(mean_q, log_q)
    for direction, told in (('ensemble||stage', value), ('stage||ensemble', gaussian_kl(mean_q, log_q, mean_p, log_p))):
        task = PretrainSettings(kl_direction=direction)
        assert distillation(Prediction(mean_p, ensemble, [ensemble]*3), task) == 0
        close(distillation(Prediction(mean_p, ensemble, [stage, ensemble]), task), told/2, torch.float32)


@few
@given(seed=seeds)
def test_soft_dice_beside_monai(seed):
    "Symmetric and in [0, 1]; MONAI's, which smooths a little more; 0 with itself where labels are certain."
    monai = pytest.importorskip('monai.losses', reason='MONAI is the other program')
    a, b = drawn(2, 2, 4, 5, 6, 7, seed=seed, dtype=torch.float64).softmax(2)
    value = soft_dice(a, b)
    assert 0 <= value <= 1
    close(soft_dice(b, a), value, torch.float64)
    close(value, monai.DiceLoss(smooth_nr=0, smooth_dr=1e-5)(a, b), torch.float64)
    labels = torch.randint(4, (2, 1, 5, 6, 7), generator=seeded(seed))
    certain = one_hot(labels, 4)
    assert torch.equal(certain, F.one_hot(labels[:, 0], 4).movedim(-1, 1).float())
    assert torch.equal(certain, one_hot(labels, 4, known=True))
    assert 0 <= soft_dice(certain, certain) < 1e-6


def self_similarity(image: np.ndarray, radius: int, distance: int) -> np.ndarray:
    "Patch distances of the twelve pairs of neighbours at right angles, in plain loops over the pairs."
    faces = [sign*np.eye(3, dtype=int)[axis] for axis in range(3) for sign in (-1, 1)]
    padded, margin = np.pad(image, distance, mode='edge'), distance
    def moved(face):
        return padded[tuple(slice(margin + distance*s, margin + distance*s + n) for s, n in zip(face, image.shape))]
    found = [ndimage.uniform_filter(np.square(moved(a) - moved(b)), 2*radius + 1, mode='nearest')
             for a, b in itertools.combinations(faces, 2) if a @ b == 0]
    found = np.stack(found) - np.min(found, 0)
    spread = found.mean(0)
    return np.exp(-found/np.clip(spread, 1e-3*spread.mean(), 1e3*spread.mean()))


@pytest.mark.parametrize(('radius', 'distance'), [(1, 2), (2, 1)])
def test_mind_beside_scipy(radius, distance):
    "The descriptor, which intensities a x + b leave as it is."
    image = drawn(1, 1, 8, 9, 10, seed=16, dtype=torch.float64)
    found = losses.mind(image, radius, distance)
    close(found[0], self_similarity(image[0, 0].numpy(), radius, distance), torch.float64, 1e4)
    close(losses.mind(5 - 3*image, radius, distance), found, torch.float64, 1e4)
    assert found.shape[1] == 12 and 0 < found.min() and found.amax(1).min() == 1


def test_edges_beside_scipy():
    "Logarithm of the variance of a patch, scaled to 0 to 1; a slice has no patch across."
    image = drawn(1, 1, 8, 9, 10, seed=17, dtype=torch.float64)
    for part in (image, image[..., :1]):
        values = part[0, 0].numpy()
        size = [min(3, n) for n in values.shape]
        def mean(x, size=size): return ndimage.uniform_filter(x, size, mode='nearest')
        expected = np.log((mean(values**2) - mean(values)**2).clip(0) + 1e-3)
        expected = (expected - expected.min())/(expected.max() - expected.min())
        close(losses.edges(part)[0, 0], expected, torch.float64, 1e4)
        close(losses.edges(1 - part), losses.edges(part), torch.float64, 1e4)
    assert torch.equal(losses.edges(torch.full((1, 1, 4, 4, 4), 0.5)), torch.zeros(1, 1, 4, 4, 4))


def test_mutual_information_beside_numpy():
    "Soft histograms by NumPy; symmetric, and highest of an image with itself; a mask leaves voxels out."
    a, b = drawn(2, 1, 1, 8, 9, 10, seed=18, dtype=torch.float64)
    places = (np.arange(8) + 0.5)/8
    def share(image):
        image = (image.numpy().ravel() - image.min().item())/(image.max() - image.min()).item()
        weights = np.exp(-((image[:, None] - places)*8)**2/2)
        return weights/weights.sum(1, keepdims=True)
    def told(x, y, mask):
        joint = (share(x)*mask[:, None]).T @ share(y)/mask.sum()
        return (joint*np.log(joint/np.outer(joint.sum(1), joint.sum(0)))).sum()
    mask = drawn(1, 1, 8, 9, 10, seed=19, dtype=torch.float64).round()
    close(losses.mutual_information(a, b, 8), told(a, b, np.ones(720)), torch.float64, 1e3)
    close(losses.mutual_information(a, b, 8, mask), told(a, b, mask.numpy().ravel()), torch.float64, 1e3)
    close(losses.mutual_information(b, a, 8), losses.mutual_information(a, b, 8), torch.float64, 1e3)
    assert losses.mutual_information(a, a, 8) > losses.mutual_information(a, b, 8) >= 0
    large = drawn(2, 1, 1, 40, 41, 42, seed=20)  # every third voxel of 68,880 is enough
    thin = (part.flatten()[::3].view(1, 1, -1, 1, 1) for part in large)
    close(losses.mutual_information(*large), losses.mutual_information(*thin), torch.float32, 1e3)


@pytest.mark.parametrize('name', ['ncc', 'edges', 'mind', 'mi', 'dice'])
def test_loss_is_similarity_plus_roughness(name):
    "The parts and their weights; alike is lower than unlike."
    loss = Loss(name, 5, diffusion_weight=0.5)
    images = drawn(2, 1, 1, 10, 10, 10, seed=21)
    labels = (4*images).long()
    batch = {'moving': images[0], 'fixed': images[1], 'moving_labels': labels[0], 'fixed_labels': labels[1]}
    u = bumpy(2, dtype=torch.float32, shape=(10, 10, 10))
    total, parts = loss(batch, u, n_labels=4)
    moving, fixed = loss.sides(batch, 4)
    close(parts['similarity'], loss.likeness(warp(moving, u), fixed), torch.float32)
    close(parts['diffusion'], diffusion(u), torch.float32)
    close(total, parts['similarity'] + 0.5*parts['diffusion'], torch.float32)
    assert loss.likeness(fixed, fixed) < loss.likeness(moving, fixed)


# Metrics

@few
@given(seed=seeds, top=st.sampled_from([3, 60, 3000, 2**31 - 5]))
def test_dice(seed, top):
    "Symmetric, in [0, 1], 1 with itself, in the order of the ids, and SimpleITK's; labels may be any whole numbers."
    rng = np.random.default_rng(seed)
    numbers = np.unique([1, 2, top])
    a, b = (torch.from_numpy(rng.choice([0, *numbers], size=SHAPE)) for _ in range(2))
    found = dice_per_label(a, b, numbers)
    assert torch.equal(dice_per_label(b, a, numbers), found) and ((found >= 0) & (found <= 1)).all()
    assert torch.equal(dice_per_label(a, b, numbers[::-1].copy()), found.flip(0))
    assert torch.equal(dice_per_label(a, a, numbers), torch.ones(len(numbers), dtype=torch.float64))
    measures = sitk.LabelOverlapMeasuresImageFilter()
    measures.Execute(*(sitk.GetImageFromArray(part.numpy().astype(np.uint32)) for part in (a, b)))
    close(found, [measures.GetDiceCoefficient(int(number)) for number in numbers], torch.float32)  # as it answers
    mask = torch.from_numpy(rng.random(SHAPE) < 0.5)
    close(dice_per_label(a, b, numbers, mask), dice_per_label(a[mask], b[mask], numbers), torch.float64)
    assert dice_per_label(a, b, [7]).isnan().all()


@pytest.mark.parametrize('dtype', DTYPES)
@few
@given(seed=seeds)
def test_ndv_under_flips(dtype, seed):
    """A mirror, or another order of the axes, folds as much.

    A mirror of one axis exchanges the two ways to cut a cube, and the cubes above and below a voxel: the sum over all
    cubes stays, but at the border another cube is counted. So the border is still here.
    """
    u = F.pad(2*drawn(1, 3, 6, 5, 7, seed=seed, dtype=dtype) - 1, (2,)*6)
    tolerance = 100*64*torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    found = folding(u)
    assert found.volume_percent > 1 and ndv_percent(u) == found.volume_percent
    for axis in range(3): np.testing.assert_allclose(folding(flipped(u, axis)), found, rtol=0, atol=tolerance)
    turned = u[:, [1, 2, 0]].permute(0, 1, 3, 4, 2)
    np.testing.assert_allclose(folding(turned), found, rtol=0, atol=tolerance)
    np.testing.assert_allclose(folding(u, planes=1), found, rtol=0, atol=tolerance)
    every = 2*drawn(1, 3, 6, 5, 7, seed=seed, dtype=dtype) - 1  # all axes at once: each cube is counted as before
    np.testing.assert_allclose(folding(flipped(flipped(flipped(every, 0), 1), 2)), folding(every), rtol=0,
                               atol=tolerance)


@few
@given(seed=seeds)
def test_folding_adds_up(seed):
    "The percentages are means of the maps, over a mask too; affine maps do not fold, mirrored ones do everywhere."
    u, mask = 3*drawn(1, 3, *SHAPE, seed=seed) - 1.5, drawn(*SHAPE, seed=seed + 1) < 0.6
    maps, inner = folding_maps(u), mask[1:-1, 1:-1, 1:-1]
    expected = [100*part.double()[inner].mean().item()
                for part in (maps.central <= 0, maps.tetrahedra/10, maps.volume)]
    np.testing.assert_allclose(folding(u, mask), expected, rtol=1e-5, atol=1e-4)
    close(maps.central, jacobian_determinant(u)[0], torch.float32, 64)
    matrix, shift = contraction(seed)
    assert folding(affine_field(matrix, shift)) == (0, 0, 0)
    mirror = folding(affine_field(np.diag([-1., 1, 1]) @ matrix, shift))
    np.testing.assert_allclose(mirror, (100, 100, 100*np.linalg.det(matrix)), rtol=1e-9)


@pytest.mark.parametrize('dtype', WIDE)
@few
@given(seed=seeds)
def test_tre_under_rigid_motion(dtype, seed):
    "Points moved by the motion of the field have no error; a motion of both worlds leaves every error as it is."
    rng = np.random.default_rng(seed)
    turn = sitk.Euler3DTransform((0., 0., 0.), *rng.uniform(-0.2, 0.2, 3))
    matrix, shift = np.array(turn.GetMatrix()).reshape(3, 3), rng.uniform(-1, 1, 3)
    points, spacing = rng.uniform(0, np.array(SHAPE) - 1, (20, 3)), (1., 1., 1.)
    centre = (np.array(SHAPE) - 1)/2
    moved = (points - centre) @ matrix.T + centre + shift
    u = affine_field(matrix, shift, dtype)
    found = tre(points, moved, u, spacing)
    assert found.outside == 0 and found.mean < 128*torch.finfo(dtype).eps*11
    error = rng.normal(size=(20, 3))
    missed = tre(points, moved + error, u, spacing)
    close(missed.per_point, np.linalg.norm(error, axis=1), dtype, 128, 11)
    close(tre(points, points + error, torch.zeros_like(u), spacing).per_point, missed.per_point, dtype, 128, 11)
    np.testing.assert_allclose([missed.mean, missed.sd], [missed.per_point.double().mean(),
                                                         missed.per_point.double().std()], rtol=1e-6)
    stretched = tre(points, moved + error, u, (2., 3., 4.)).per_point
    close(stretched, np.linalg.norm(error*[2, 3, 4], axis=1), dtype, 512, 11)
    outside = tre(np.array([[0., 0, 0], [-0.1, 0, 0], [8, 9, 10.1]]), np.zeros((3, 3)), u, spacing)
    assert outside.outside == 2 and outside.per_point.isnan().tolist() == [False, True, True]


# Statistics

def holm_by_hand(p_values: list[float]) -> list[float]:
    "The definition: the k-th smallest of m counts m - k + 1 times, and no value lies below one before it."
    order, highest, found = sorted(range(len(p_values)), key=lambda i: p_values[i]), 0., [0.]*len(p_values)
    for rank, i in enumerate(order):
        highest = max(highest, min(1., p_values[i]*(len(p_values) - rank)))
        found[i] = highest
    return found


@settings(few, max_examples=40)
@given(p_values=st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm(p_values):
    "The definition; between each value and Bonferroni's; a comparison that was not made changes none."
    found = holm(p_values)
    np.testing.assert_allclose(found, holm_by_hand(p_values), rtol=1e-12)
    assert (found >= p_values).all() and (found <= np.minimum(1, np.array(p_values)*len(p_values)) + 1e-12).all()
    assert (found >= stats.false_discovery_control(p_values) - 1e-12).all()  # which controls less
    with_gap = holm([p_values[0], np.nan, *p_values[1:]])
    np.testing.assert_array_equal(np.delete(with_gap, 1), found)
    assert math.isnan(with_gap[1])


@pytest.mark.parametrize('seed', range(3))
def test_interval_beside_scipy(seed):
    "Of normal values, the t interval and its test: ends to a tenth of the width, which the draws cost; p alike."
    values = pd.Series(np.random.default_rng(seed).normal(0.4, 1, 40))
    found, told = estimate(values), stats.ttest_1samp(values, 0)
    low, high = told.confidence_interval()
    assert found.mean == pytest.approx(values.mean()) and found.subjects == 40 and found.seeds == 0
    np.testing.assert_allclose([found.low, found.high], [low, high], rtol=0, atol=(high - low)/10)
    assert abs(found.p_value - told.pvalue) < 0.03 + told.pvalue/4
    assert (found.lowest, found.highest) == (values.min(), values.max())
    narrow = estimate(values, level=0.5)
    np.testing.assert_allclose([narrow.low, narrow.high], told.confidence_interval(0.5), rtol=0, atol=(high - low)/20)
    assert estimate(-values).p_value == pytest.approx(found.p_value, abs=0.02)
    assert stretch(40) == pytest.approx(stats.t.ppf(0.975, 39)/stats.norm.ppf(0.975)*np.sqrt(40/39))


@few
@given(seed=seeds, rows=st.integers(2, 6), columns=st.integers(1, 4))
def test_summary_beside_numpy(seed, rows, columns):
    "Means and deviations, with a value missing."
    table = np.random.default_rng(seed).normal(size=(rows, columns))
    table[0, 0] = np.nan
    means = [np.nanmean(row) for row in table if not np.isnan(row).all()]
    found = summarise(table)
    assert (found.subjects, found.missing) == (len(means), 1)
    np.testing.assert_allclose([found.mean, found.sd_pooled], [np.nanmean(table), np.nanstd(table)], rtol=1e-9)
    np.testing.assert_allclose(found.sd_subjects, np.std(means, ddof=1) if len(means) > 1 else np.nan, rtol=1e-9)


# Transforms

def tilted(seed: int, spacing=(1.5, 2., 2.5)) -> np.ndarray:
    "The affine of an oblique grid with its first axis reversed."
    rng = np.random.default_rng(seed)
    turn = np.array(sitk.Euler3DTransform((0., 0., 0.), *rng.uniform(-0.3, 0.3, 3)).GetMatrix()).reshape(3, 3)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn @ np.diag(np.array(spacing)*[-1, 1, 1]), rng.uniform(-20, 20, 3)
    return affine


def smooth_warp(seed: int = 0, size: float = 3.) -> Warp:
    "A warp that fades out towards the border of an oblique grid."
    return Warp(bumpy(size, seed, torch.float32, (14, 13, 12))[0].movedim(0, -1).numpy(), tilted(seed))


@pytest.mark.parametrize('suffix', ['.nii', '.nii.gz'])
def test_files_of_warps(tmp_path, suffix):
    "What is written is read again, by SimpleITK too: it moves points alike."
    warped = smooth_warp()
    again = transforms.load_warp(transforms.save_warp(warped, tmp_path/f'warp{suffix}'))
    np.testing.assert_array_equal(again.displacement, warped.displacement)
    np.testing.assert_allclose(again.affine, warped.affine, atol=1e-6*np.abs(warped.affine).max())
    field = sitk.ReadImage(str(tmp_path/f'warp{suffix}'), sitk.sitkVectorFloat64)
    other, lps = sitk.DisplacementFieldTransform(field), np.array([-1., -1, 1])
    points = Volume(np.zeros(warped.shape), warped.affine).world(np.random.default_rng(1).uniform(1, 10, (20, 3)))
    told = [np.array(other.TransformPoint((point*lps).tolist()))*lps for point in points]
    np.testing.assert_allclose(warped.points(points), told, atol=1e-4)


def test_files_of_affine_maps(tmp_path):
    "A matrix comes back as it went, by each ending."
    matrix = tilted(3)
    for suffix in transforms.AFFINE_FILES:
        path = transforms.save_affine(matrix, tmp_path/f'map{suffix}')
        np.testing.assert_allclose(transforms.load_affine(path), matrix, atol=1e-12)
        assert transforms.is_transform(path) and isinstance(transforms.load_transform(path), np.ndarray)


@pytest.mark.parametrize('absolute', [False, True])
def test_fsl_there_and_back(tmp_path, absolute):
    "FSL's millimetres and back, in memory and by a file, for moving grids of either handedness; the kind is guessed."
    warped, fixed = smooth_warp(), Volume(np.zeros((14, 13, 12)), tilted(0))
    for flip in (1, -1):
        moving = Volume(np.zeros((10, 11, 12)), tilted(1, (flip*2., 2., 2.)))
        field = transforms.to_fsl(warped, moving, absolute)
        back = transforms.from_fsl(field, fixed, moving, absolute)
        np.testing.assert_allclose(back.displacement, warped.displacement, atol=1e-4)
        assert transforms.looks_absolute(field, fixed, moving) == absolute
        read, grid = transforms.read_fsl(transforms.save_fsl(warped, tmp_path/'fsl.nii.gz', moving, absolute))
        np.testing.assert_array_equal(read, field)
        assert grid.shape == fixed.shape


def test_warps_in_a_row():
    "One composed warp brings points where one after the other brings them; a matrix counts as a warp."
    first, second, matrix = smooth_warp(0), smooth_warp(1), np.eye(4)
    matrix[:3] += np.random.default_rng(4).uniform(-0.05, 0.05, (3, 4))
    whole = compose_warps(first, matrix, second)
    voxels = np.random.default_rng(5).integers(0, 12, (30, 3))
    points = Volume(np.zeros(first.shape), first.affine).world(voxels)
    np.testing.assert_allclose(whole.points(points), move_points([first, matrix, second], points), atol=1e-4)
    assert np.isnan(move_points([first], points + 1000)).all()
    np.testing.assert_allclose(move_points([matrix], points), points @ matrix[:3, :3].T + matrix[:3, 3])


@pytest.mark.parametrize('seed', range(2))
def test_inverse(seed):
    "An inverse takes a point back, to a thousandth of a voxel where the grid shows it."
    warped = smooth_warp(seed)
    inverse = invert_warp(warped)
    error = transforms.inverse_error(warped, inverse)
    assert np.nanmax(error) < 2e-3*1.5 and np.isfinite(error).mean() > 0.9


@few
@given(seed=seeds)
def test_jacobian_of_a_warp(seed):
    "In mm, whatever the grid: an affine map's determinant is that of its matrix; and voxels are as networks count."
    matrix, affine = np.eye(3) + np.random.default_rng(seed).uniform(-0.2, 0.2, (3, 3)), tilted(seed)
    points = Volume(np.zeros((5, 6, 7)), affine).world(np.stack(np.mgrid[:5, :6, :7], -1))
    warped = Warp((points @ (matrix - np.eye(3)).T).astype(np.float32), affine)
    np.testing.assert_allclose(transforms.jacobian(warped).data, np.linalg.det(matrix), rtol=1e-4)
    np.testing.assert_allclose(transforms.jacobian(warped, log=True).data, np.log(np.linalg.det(matrix)), atol=1e-4)
    determinant = jacobian_determinant(transforms.in_voxels(warped).double())
    np.testing.assert_allclose(determinant, np.linalg.det(matrix), rtol=1e-4)
    assert transforms.fold_percent(warped) == 0
    mirrored = Warp((points @ np.diag([-2., 0, 0])).astype(np.float32), np.eye(4))
    assert transforms.jacobian(mirrored).data.shape == (5, 6, 7)


def test_apply_beside_simpleitk():
    "Images by linear interpolation and labels by the nearest voxel, on grids that differ."
    warped = smooth_warp()
    rng = np.random.default_rng(6)
    moving = Volume(rng.random((12, 13, 14)).astype(np.float32), tilted(0, (1.7, 1.9, 2.3)))
    lps = np.diag([-1., -1, 1])

    def as_itk(volume):
        image = sitk.GetImageFromArray(volume.data.T)
        spacing = np.linalg.norm(volume.affine[:3, :3], axis=0)
        image.SetSpacing(spacing.tolist())
        image.SetDirection((lps @ volume.affine[:3, :3]/spacing).ravel().tolist())
        image.SetOrigin((lps @ volume.affine[:3, 3]).tolist())
        return image

    like = as_itk(Volume(np.zeros(warped.shape, np.float32), warped.affine))
    field = sitk.GetImageFromArray((warped.displacement @ lps).transpose(2, 1, 0, 3).astype(float), isVector=True)
    field.CopyInformation(like)
    move = sitk.DisplacementFieldTransform(field)
    for how, kind in (('linear', sitk.sitkLinear), ('nearest', sitk.sitkNearestNeighbor)):
        found = warped.apply(moving, how).data
        told = sitk.GetArrayFromImage(sitk.Resample(as_itk(moving), like, move, kind, 0., sitk.sitkFloat32)).T
        assert (np.abs(found - told) < 1e-4).mean() > 0.995, how  # a voxel half-way may go to either side
        assert found.std() > 0.1


# What survived the first round of tools/mutants.py

def scores(people: int, seeds: int, spread: float = 0.05, between: float = 0.02, atlas: bool = False) -> pd.DataFrame:
    "A table of pairs and seeds in which each person and each seed adds something of its own."
    rng = np.random.default_rng(people + 10 * seeds)
    pairs = [(f'{n}', 'atlas' if atlas else f'm{n}', f'f{n}') for n in range(people)]
    index = pd.MultiIndex.from_tuples(pairs, names=['pair', 'moving', 'fixed'])
    values = 0.7 + spread * rng.standard_normal((people, 1)) + between * rng.standard_normal((1, seeds))
    return pd.DataFrame(values, index=index, columns=range(seeds))


@pytest.mark.parametrize('seeds', [1, 4])
def test_interval_of_people_and_seeds(seeds):
    "As wide as the variances of both add up to, each by Student's t; one seed has no deviation."
    table = scores(40, seeds, atlas=True)
    found, values = estimate(table), table.to_numpy()
    widths = [stats.t.ppf(0.975, n - 1) * means.std(ddof=1) / math.sqrt(n)
              for n, means in ((40, values.mean(axis=1)), (seeds, values.mean(axis=0))) if n > 1]
    assert math.isclose((found.high - found.low) / 2, math.hypot(*widths), rel_tol=0.12)
    assert found.seeds == seeds and found.subjects == 40
    if seeds == 1: assert math.isnan(found.sd_seeds)
    else: assert math.isclose(found.sd_seeds, values.mean(axis=0).std(ddof=1))
    assert (found.lowest, found.highest) == (values.mean(axis=1).min(), values.mean(axis=1).max())


@pytest.mark.parametrize('people, finite', [(5, False), (6, True)])
def test_few_people_have_no_interval(people, finite):
    "Five are too few where the atlas is moving, and the atlas is nobody; without an atlas both ends are drawn."
    found = estimate(scores(people, 2, atlas=True))
    assert found.subjects == people and math.isfinite(found.low) == math.isfinite(found.p_value) == finite
    assert estimate(scores(people, 2)).subjects == 2 * people


def test_p_values():
    "The smallest that the draws allow where all are on one side, and 1 at most where the mean is 0."
    table = scores(12, 1, atlas=True)
    assert math.isclose(estimate(table, resamples=999).p_value, 2 / 1000)
    centred = table - table.to_numpy().mean()
    assert 0.8 < estimate(centred, resamples=999).p_value <= 1
    assert estimate(pd.Series([0.1, 0.2, 0.3])).seeds == 0


def test_landmarks_of_a_pair():
    "Two have a deviation, one has none; a spacing with a zero is refused, and so is a table that lacks a number."
    still, points = torch.zeros(1, 3, 8, 8, 8), torch.tensor([[1., 1, 1], [2, 2, 2]])
    moved = points + torch.tensor([[1., 0, 0], [3, 0, 0]])
    assert math.isclose(tre(points, moved, still, (1, 1, 1)).sd, math.sqrt(2), rel_tol=1e-6)
    assert math.isnan(tre(points[:1], moved[:1], still, (1, 1, 1)).sd)
    with pytest.raises(ValueError, match='three positive'): tre(points, moved, still, (1, 0, 1))


def test_points_that_lack_a_number(tmp_path):
    "One that is missing among others is seen."
    path = tmp_path / 'points.csv'
    path.write_text('x,y,z\n1,2,3\n4,,6\n', encoding='utf-8')
    with pytest.raises(ValueError, match='a coordinate is missing'): transforms.read_points(path)
    path.write_text('x,y,z\n1,2,3\n', encoding='utf-8')
    assert transforms.read_points(path)[1].tolist() == [[1, 2, 3]]


def test_label_maps_are_not_negative():
    "An image of whole numbers below 0, as CT has them, is none; the same from 0 up is one."
    blocks = np.kron(np.arange(27).reshape(3, 3, 3) % 4, np.ones((4, 4, 4))).astype(np.float32)
    assert transforms.is_label_map(Volume(blocks, np.eye(4)), np.int16)
    assert not transforms.is_label_map(Volume(blocks - 2, np.eye(4)), np.int16)
