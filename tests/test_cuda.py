"""The CPU against the accelerator on the same inputs: in float32, with TF32 allowed, and under bfloat16 autocast.

Skipped where PyTorch finds no accelerator. REGPRE_TEST_DEVICE=cpu runs every line without one: PyTorch's operations
against this package's compiled kernels, both on the CPU.
"""
import os
import socket
import subprocess
import sys
import warnings
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from regpre_nb.data.cohorts import Cohort
from regpre_nb.learn.finetune import cohort_batches, finetune, load_network, registration_loss
from regpre_nb.learn.pretrain import pretrain, pretraining_loss
from regpre_nb.learn.scoring import evaluate
from regpre_nb.learn.training import TrainSettings, default_device, fit, make_optimiser, read_log, read_tensors
from regpre_nb.method.heads import PretrainingNetwork
from regpre_nb.method.losses import SIMILARITIES, Loss, diffusion, gaussian_kl, local_ncc, soft_dice
from regpre_nb.method.metrics import dice_per_label, ndv_percent, tre
from regpre_nb.method.random_images import evaluate_perlin, gradient_directions, random_pair
from regpre_nb.method.spatial import compose, integrate, resize_displacement, resize_image, warp
from regpre_nb.method.swin import SwinEncoder, settings_named
from regpre_nb.method.transmorph import TransMorph
from regpre_nb.paper.profiles import load_profile
from regpre_nb.use.register import register

ASKED = os.environ.get('REGPRE_TEST_DEVICE')
DEVICE = torch.device(ASKED) if ASKED else default_device()
pytestmark = pytest.mark.skipif(not ASKED and DEVICE.type == 'cpu', reason='PyTorch finds no GPU on this machine')
os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')  # else matrix products are not deterministic

SHAPE = (24, 32, 40)
VALUES, GRADIENTS = 2e-5, 5e-4     # float32: difference allowed, as a part of the root mean square
CROSSING = {'paper': GRADIENTS, 'released': 2e-2}  # the authors' sampler may read at a voxel's face, where slopes jump
TF32, BF16 = 3e-2, 1e-1            # the same for a network, whose convolutions and products keep 3 or 2 digits


def random(*size, seed=0):
    "Uniform numbers in [0, 1), the same on every machine."
    return torch.rand(size, generator=torch.Generator().manual_seed(seed))


def smooth(*size, seed=0):
    "Smooth noise about 0, of standard deviation about 1."
    coarse = random(*size[:2], *[n // 4 for n in size[2:]], seed=seed) - 0.5
    return 4 * nn.functional.interpolate(coarse, size[2:], mode='trilinear')


def between_voxels(*size, seed=0):
    "Displacements of up to 3 voxels that lead to no voxel's centre and to no face: rounding crosses neither."
    whole, part = random(*size, seed=seed).mul(6).sub(3).floor(), random(*size, seed=seed + 1)
    return whole + 0.1 + 0.3 * part


def image(seed=0, kind='noise'):
    "An image in [0, 1]; of kind 'labels' piecewise constant."
    noise = smooth(1, 1, *SHAPE, seed=seed).sigmoid()
    return noise.mul(4).round().div(4) if kind == 'labels' else noise


@contextmanager
def path_of(device):
    "Without an accelerator, its place is taken by the operations of PyTorch, those of the CPU by compiled kernels."
    if DEVICE.type != 'cpu':
        yield
        return
    before = os.environ.pop('REGPRE_FAST', None)
    if device is DEVICE: os.environ['REGPRE_FAST'] = '0'
    try: yield
    finally:
        os.environ.pop('REGPRE_FAST', None)
        if before is not None: os.environ['REGPRE_FAST'] = before


@contextmanager
def tf32(allowed):
    "Whether matrix products and convolutions may round their factors to TF32."
    flags = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [flag.allow_tf32 for flag in flags]
    for flag in flags: flag.allow_tf32 = allowed
    try: yield
    finally:
        for flag, value in zip(flags, before): flag.allow_tf32 = value


@pytest.fixture(params=[False, True], ids=['float32', 'TF32 allowed'])
def precision(request):
    "Both settings of TF32."
    with tf32(request.param): yield request.param


HOST = torch.device('cpu')


def outcome(function, inputs, device, gradients=True):
    "The results of a function on a device, and the gradients of all floating inputs for one made-up upstream."
    inputs = [t.detach().to(device) for t in inputs]
    learnt = [t.requires_grad_() for t in inputs if t.is_floating_point() and gradients]
    with path_of(device):
        results = function(*inputs)
        results = [results] if isinstance(results, torch.Tensor) else list(results)
        found = {}
        if learnt:
            loss = sum((r * random(*r.shape, seed=7).to(device)).sum() for r in results)
            found = dict(enumerate(torch.autograd.grad(loss, learnt)))
    return [r.detach().cpu() for r in results], {i: g.cpu() for i, g in found.items()}


def apart(a, b):
    "Root mean square of the difference of two tensors, as a part of that of the first."
    a, b = a.double(), b.double()
    return ((a - b).square().mean().sqrt() / a.square().mean().sqrt().clamp_min(1e-30)).item()


def compare(function, *inputs, values=VALUES, gradients=GRADIENTS):
    "The function gives the same here and there, and so do its gradients (None: it has none)."
    (here, slopes_here), (there, slopes_there) = (
        outcome(function, inputs, device, gradients is not None) for device in (HOST, DEVICE))
    for a, b in zip(here, there, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert apart(a, b) <= values
    for i in slopes_here: assert apart(slopes_here[i], slopes_there[i]) <= gradients, f'gradient of input {i}'


# Geometry

@pytest.mark.parametrize('preset', ['paper', 'released'])
def test_warp(preset, precision):
    compare(partial(warp, preset=preset), image(), between_voxels(1, 3, *SHAPE), gradients=CROSSING[preset])
    labels = image(kind='labels').mul(4).to(torch.uint8)
    nearest = partial(warp, mode='nearest', preset='paper')
    compare(nearest, labels, between_voxels(1, 3, *SHAPE), values=0, gradients=None)


@pytest.mark.parametrize('preset', ['paper', 'released'])
def test_compose_and_integrate(preset, precision):
    field = smooth(1, 3, *SHAPE, seed=3)
    compare(partial(compose, preset=preset), field, between_voxels(1, 3, *SHAPE), gradients=CROSSING[preset])
    compare(partial(integrate, steps=5, preset=preset), field, gradients=CROSSING['released'])


@pytest.mark.parametrize('size', [(12, 16, 20), (48, 64, 80), (31, 20, 57)])
def test_resizing(size, precision):
    "Interpolation is a matrix product, and no digits are lost where TF32 is allowed."
    compare(partial(resize_image, size=size), image(), values=2e-6, gradients=2e-6)
    compare(partial(resize_displacement, size=size), 20 * smooth(2, 3, *SHAPE), values=2e-6, gradients=2e-6)


def test_tf32_is_what_is_switched(precision):
    "The switch of these tests works: products outside the package do lose digits."
    if DEVICE.type == 'cpu': pytest.skip('TF32 is a matter of GPUs')
    a = random(256, 256).to(DEVICE)
    error = apart((a.double() @ a.double()), a @ a)
    assert (error > 1e-5) == precision


# Losses and scores

@pytest.mark.parametrize('kind', ['noise', 'labels'])
@pytest.mark.parametrize('kernel', ['box', 'gauss'])
@pytest.mark.parametrize('preset', ['paper', 'released'])
def test_local_ncc(kind, kernel, preset, precision):
    compare(partial(local_ncc, kernel=kernel, preset=preset), image(1, kind), image(2, kind))


def test_other_losses(precision):
    fields = [smooth(1, 3, *SHAPE, seed=seed) for seed in range(4)]
    compare(gaussian_kl, *fields)
    compare(diffusion, fields[0])
    compare(soft_dice, *(random(1, 5, *SHAPE, seed=seed).softmax(1) for seed in (1, 2)))


@pytest.mark.parametrize('masked', [False, True], ids=['all voxels', 'masked'])
@pytest.mark.parametrize('name', [name for name, kind in SIMILARITIES.items() if kind.masked])
def test_similarities(name, masked, precision):
    "Of two images and what is made of them: edges, self-similarities, a joint histogram."
    loss = Loss(name, window=5)
    def likeness(moving, fixed, mask):
        return loss.likeness(*loss.sides({'moving': moving, 'fixed': fixed}), mask=mask if masked else None)
    mask = (image(3) > 0.4).float()
    compare(lambda *images: likeness(*images, mask.to(images[0].device)), image(1), image(2))


def test_losses_ignore_autocast():
    fixed, moving = (image(seed).to(DEVICE) for seed in (1, 2))
    with torch.autocast(DEVICE.type, torch.bfloat16): found = local_ncc(moving, fixed)
    assert found.dtype == torch.float32 and found == local_ncc(moving, fixed)


def test_scores():
    a, b = (image(seed, 'labels').mul(4).long() for seed in (1, 2))
    compare(lambda *maps: dice_per_label(*maps, range(5)).nan_to_num(-1), a, b, values=1e-12, gradients=None)
    field = 4 * smooth(1, 3, *SHAPE)
    found = [ndv_percent(field.to(device), image(kind='labels')[0, 0].to(device) > 0.3) for device in (HOST, DEVICE)]
    assert found[0] > 1  # it folds
    assert_close(*found, rtol=1e-4, atol=0)
    points = random(50, 3) * (torch.tensor(SHAPE) - 1)
    errors = [tre(points, points + 1, field.to(device), (1.5, 1, 2)).per_point.cpu() for device in (HOST, DEVICE)]
    assert_close(*errors, rtol=1e-4, atol=1e-4)


# The generator

def test_perlin_noise(precision):
    "Of given lattices; no digits are lost where TF32 is allowed."
    lattice = gradient_directions(*random(2, 3, 6, 7, 8, seed=1))
    positions = [torch.linspace(0.2, n - 1.3, 4 * n).expand(3, -1) for n in (6, 7, 8)]
    compare(lambda vectors, *at: evaluate_perlin(vectors, at), lattice, *positions, values=3e-6, gradients=None)


class Draws:
    "Stands for a generator: its numbers come from the CPU, whatever device it names."
    def __init__(self, device): self.device, self.source = device, torch.Generator().manual_seed(5)


@pytest.fixture
def given_draws(monkeypatch):
    "`torch.rand` and `torch.randint` know `Draws`."
    def knowing(draw):
        def drawn(*size, generator, device): return draw(*size, generator=generator.source).to(device)
        return drawn
    for name in ('rand', 'randint'): monkeypatch.setattr(torch, name, knowing(getattr(torch, name)))


@pytest.mark.parametrize('preset', ['paper', 'released'])
def test_random_pair(preset, given_draws, precision):
    "The same draws give the same pair; a voxel on the border of two shapes may fall to either."
    pairs = []
    for device in (HOST, DEVICE):
        with path_of(device): pair = random_pair(SHAPE, Draws(device), n_labels=6, cell=12, preset=preset)
        pairs.append({name: tensor.cpu() for name, tensor in pair.items()})
    here, there = pairs
    for role in ('moving', 'fixed'):
        assert here[f'{role}_labels'].unique().numel() > 2
        assert_close(here[f'{role}_displacement'], there[f'{role}_displacement'], rtol=0, atol=2e-3)
        assert (here[f'{role}_labels'] != there[f'{role}_labels']).float().mean() < 2e-3
        assert ((here[role] - there[role]).abs() > 1e-2).float().mean() < 4e-3


def test_same_seed_same_pairs():
    pairs = [random_pair(SHAPE, torch.Generator(DEVICE).manual_seed(3)) for _ in range(2)]
    for name in pairs[0]: assert torch.equal(pairs[0][name], pairs[1][name]), name


# Networks

NETS = {
    'encoder': SwinEncoder, 'network': TransMorph,
    'pretraining network': lambda s: PretrainingNetwork(SwinEncoder(s), s.resolution, sample=False, preset=s.preset)}
SIZE = (32, 32, 48)


def built(kind, size, preset):
    "A network without chance in it, whose first displacement is not next to nothing."
    torch.manual_seed(0)
    net = NETS[kind](settings_named(size, preset=preset, stochastic_depth=0.0, time_steps=2))
    heads = [part for name, part in net.named_modules() if isinstance(part, nn.Conv3d) and 'head' in name]
    for head in heads: nn.init.normal_(head.weight, std=0.02, generator=torch.Generator().manual_seed(1))
    return net.train()


def tensors(found):
    "All tensors of nested tuples and lists, one after the other."
    return [found] if isinstance(found, torch.Tensor) else [t for part in found for t in tensors(part)]


def learn(kind, size, preset, device, autocast=False):
    "What a network says about a pair, and the gradients of its weights."
    net, pair = built(kind, size, preset).to(device), [smooth(1, 1, *SIZE, seed=s).sigmoid().to(device) for s in (1, 2)]
    if kind == 'encoder': pair = [torch.cat(pair, 1)]
    with path_of(device):
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast): found = tensors(net(*pair))
        sum((t.float() * random(*t.shape, seed=4).sub(0.5).to(device)).sum() for t in found).backward()
    slopes = {name: p.grad.cpu() for name, p in net.named_parameters() if p.grad is not None}
    return [t.detach().float().cpu() for t in found], slopes


here_once = lru_cache(maxsize=None)(partial(learn, device=HOST))


@pytest.mark.parametrize('mode', ['float32', 'TF32', 'bf16'])
@pytest.mark.parametrize('preset', ['paper', 'released'])
@pytest.mark.parametrize('size', ['tiny', 'small'])
@pytest.mark.parametrize('kind', list(NETS))
def test_networks(kind, size, preset, mode):
    (here, slopes_here) = here_once(kind, size, preset)
    with tf32(mode == 'TF32'): there, slopes_there = learn(kind, size, preset, DEVICE, autocast=mode == 'bf16')
    values, slopes = {'float32': (1e-3, 1e-2), 'TF32': (TF32, 4 * TF32), 'bf16': (BF16, 6 * BF16)}[mode]
    for a, b in zip(here, there, strict=True): assert apart(a, b) <= values
    assert slopes_here.keys() == slopes_there.keys()
    everything = [torch.cat([slope.flatten() for slope in found.values()]) for found in (slopes_here, slopes_there)]
    assert apart(*everything) <= slopes


# Training

STRUCTURES = {1: 'ball', 2: 'core'}
RATE = 2e-5  # of learning


def ball(case, shape=(32, 32, 32)):
    "An image and labels of a ball in another ball, elsewhere in each case."
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing='ij'))
    centre = 14 + np.random.default_rng(int(case[-1])).uniform(0, 4, 3)
    distance = np.linalg.norm(grid - centre[:, None, None, None], axis=0)
    return np.exp(-(distance / 8) ** 2).astype(np.float32), ((distance < 9).astype(np.uint8) + (distance < 5))


def balls(atlas='case0'):
    "A cohort of ten cases; with an atlas, nothing about its pairs is left to chance."
    cases = [f'case{n}' for n in range(10)]
    moving = atlas or 'case9'
    return Cohort(name='balls', description='balls', simulated=True, shape=(32, 32, 32), spacing=(1., 1., 1.),
                  structures=STRUCTURES, atlas=atlas, train=tuple(cases[1:6]), validation=tuple(cases[6:8]),
                  validation_pairs=tuple((moving, case) for case in cases[6:8]),
                  test_pairs=((moving, cases[8]), (cases[7], cases[8])), read=ball)


@contextmanager
def training_on(device):
    "`fit` works there."
    with path_of(device), patch('regpre_nb.learn.training.default_device', return_value=device): yield


def profile():
    "The smoke profile, with nothing left to chance and steps so small that rounding does not grow in them."
    found = load_profile('smoke', balls())
    training = replace(found.pretrain_training, learning_rate=RATE)
    return replace(found, network=replace(found.network, stochastic_depth=0.0), pretrain_training=training,
                   finetune_training=training, finetuning=replace(found.finetuning, flips='none'))


def given_pair(number, generator):
    "The same random pair on every device."
    pair = random_pair((32, 32, 32), torch.Generator().manual_seed(number), n_labels=6, cell=12)
    return {name: pair[name] for name in ('moving', 'fixed')}


def logs(folder):
    "Loss and learning rate of every step."
    return read_log(folder / 'log.jsonl').set_index('step')[['loss', 'learning_rate']]


def test_pretrain(tmp_path):
    for device, folder in ((HOST, tmp_path / 'here'), (DEVICE, tmp_path / 'there')):
        p = profile()
        torch.manual_seed(0)
        with training_on(device), tf32(False):
            pretrain(SwinEncoder(p.network), p.pretraining, p.pretrain_training, folder, p.network.resolution,
                     make_batch=given_pair, progress=False)
    np.testing.assert_allclose(logs(tmp_path / 'here'), logs(tmp_path / 'there'), rtol=2e-3)


def test_finetune_and_evaluate(tmp_path):
    p, cohort, scores = profile(), balls(), []
    for device, folder in ((HOST, tmp_path / 'here'), (DEVICE, tmp_path / 'there')):
        torch.manual_seed(0)
        with training_on(device), tf32(False):
            finetune(TransMorph(p.network), cohort, cohort.train, p.finetuning, p.finetune_training, folder,
                     progress=False)
            network = load_network(tmp_path / 'here' / 'model.safetensors').to(device)
            scores.append(evaluate(network, cohort, cohort.test_pairs, device))
    np.testing.assert_allclose(logs(tmp_path / 'here'), logs(tmp_path / 'there'), rtol=2e-3)
    np.testing.assert_allclose(*(table[['dice', 'ndv_percent']] for table in scores), atol=5e-3)
    assert len(scores[0]) == len(STRUCTURES) * len(cohort.test_pairs)


@pytest.mark.parametrize('loss', ['pretraining', 'fine-tuning'])
def test_one_step_in_bfloat16(loss):
    "A step lowers the loss of its own batch, about as far as in float32."
    def losses(autocast):
        torch.manual_seed(0)
        p = profile()
        if loss == 'pretraining':
            net = PretrainingNetwork(SwinEncoder(p.network), 1)
            function = partial(pretraining_loss, settings=p.pretraining)
        else: net, function = TransMorph(p.network), partial(registration_loss, settings=p.finetuning)
        net, batch = net.to(DEVICE).train(), {name: t.to(DEVICE) for name, t in given_pair(0, None).items()}
        optimiser, found = make_optimiser(net, TrainSettings(steps=1, learning_rate=RATE)), []
        for _ in range(2):
            with torch.autocast(DEVICE.type, torch.bfloat16, enabled=autocast): value, _ = function(net, batch)
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
            found.append(value.item())
        return found
    full, half = losses(False), losses(True)
    assert full[1] < full[0] and half[1] < half[0]
    np.testing.assert_allclose(half, full, atol=5e-3)


class Stopped(Exception): "Ends a run in the middle."


def test_a_resumed_run_goes_on_with_the_same_data_and_schedule(tmp_path):
    settings = TrainSettings(steps=6, learning_rate=RATE, checkpoint_every=3, log_every=1)
    seen = {'whole': {}, 'resumed': {}}

    def run(name, stop_before=None):
        make_batch = cohort_batches(balls(atlas=None), balls().train, flips='each')

        def watched(number, generator):
            if number == stop_before: raise Stopped
            batch = make_batch(number, generator)
            weights = random(32, 32, 32)
            found = {role: (image.cpu() * weights).sum().item() for role, image in batch.items()}
            seen[name].setdefault(number, []).append(found)
            return batch
        torch.manual_seed(0)
        network = TransMorph(settings_named('tiny'))
        fit(network, partial(registration_loss, settings=profile().finetuning), watched, settings, tmp_path / name,
            progress=False)

    with training_on(DEVICE):
        run('whole')
        with pytest.raises(Stopped): run('resumed', stop_before=4)
        run('resumed')
    for number, (batch,) in seen['whole'].items():
        for again in seen['resumed'][number]: assert again == pytest.approx(batch)
    whole, resumed = (logs(tmp_path / name) for name in seen)
    assert list(whole['learning_rate']) == list(resumed['learning_rate'])
    np.testing.assert_allclose(whole['loss'], resumed['loss'], rtol=2e-3)


def test_same_seed_same_step(record_property, capsys):
    "Under deterministic algorithms a step is repeated exactly, unless PyTorch names an operation that cannot be."
    def step():
        torch.manual_seed(0)
        net = TransMorph(settings_named('tiny')).to(DEVICE).train()
        pair = random_pair((32, 32, 32), torch.Generator(DEVICE).manual_seed(1), displacements=False)
        loss, _ = registration_loss(net, pair, profile().finetuning)
        loss.backward()
        return loss.detach().cpu(), torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]).cpu()

    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter('always')
            (loss, slopes), (loss_again, slopes_again) = step(), step()
    finally: torch.use_deterministic_algorithms(False)
    named = sorted({str(w.message).split(' does not have')[0] for w in told if 'deterministic' in str(w.message)})
    record_property('not deterministic', ', '.join(named) or 'nothing')
    record_property('gradients of two equal steps apart', apart(slopes, slopes_again))
    with capsys.disabled(): print(f'\nnot deterministic in a training step: {", ".join(named) or "nothing"}')
    assert torch.equal(loss, loss_again)
    assert apart(slopes, slopes_again) <= (1e-4 if named else 0)


@pytest.mark.parametrize('graph', [False, True], ids=['step by step', 'as a graph'])
def test_a_deterministic_run_is_repeated(graph, tmp_path, capsys):
    "To the last digit, unless a sentence names an operation that PyTorch cannot repeat."
    settings = TrainSettings(steps=6, learning_rate=RATE, log_every=1, deterministic=True, graph=graph)
    for name in ('once', 'again'):
        torch.manual_seed(0)
        with training_on(DEVICE):
            fit(TransMorph(profile().network), partial(registration_loss, settings=profile().finetuning),
                cohort_batches(balls(), balls().train), settings, tmp_path / name, progress=False)
    named = 'no deterministic form' in capsys.readouterr().err
    np.testing.assert_allclose(logs(tmp_path / 'once'), logs(tmp_path / 'again'), rtol=1e-3 if named else 0)
    assert not torch.are_deterministic_algorithms_enabled()


# Two images

@pytest.mark.parametrize('precision', ['no', 'bf16'])
@pytest.mark.parametrize('metric', ['ncc', 'edges'])
def test_register(metric, precision):
    "The network, then the optimisation: the same bend here and there, but for what 60 steps make of rounding."
    fixed, moving = (image(seed)[0, 0].numpy() for seed in (1, 2))
    found = []
    for device in (HOST, DEVICE):
        with path_of(device):
            found.append(register((moving, np.eye(4)), (fixed, np.eye(4)), affine=False, metric=metric,
                                  precision=precision, device=device.type))
    here, there = found
    assert here.curve[-1]['loss'] < here.curve[0]['loss'] - 0.01
    assert there.curve[-1]['loss'] == pytest.approx(here.curve[-1]['loss'], abs=0.02)
    apart = np.linalg.norm(here.warp.displacement - there.warp.displacement, axis=-1)
    assert np.median(apart) < 0.25  # mm, which are voxels here


# Several processes

def train_beside(folder, backend):
    "One of the processes of a run that pretrains with two batches a step; ends with its loss on the screen."
    if backend: torch.distributed.init_process_group(backend)  # before accelerate chooses the one for several GPUs
    p = profile()
    torch.manual_seed(0)
    training = replace(p.pretrain_training, accumulate=2, steps=4, log_every=1)
    pretrain(SwinEncoder(p.network), replace(p.pretraining, shape=(32, 32, 32)), training, folder,
             p.network.resolution, progress=False)
    torch.distributed.destroy_process_group()


def started(folder, processes, backend):
    "Such a process for each rank, on the one GPU that there is; waits for them."
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    variables = os.environ | {'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port), 'WORLD_SIZE': str(processes),
                              'LOCAL_WORLD_SIZE': str(processes)}
    if DEVICE.type == 'cpu': variables |= {'CUDA_VISIBLE_DEVICES': '', 'ACCELERATE_USE_CPU': 'true'}
    code = f'import test_cuda; test_cuda.train_beside({str(folder)!r}, {backend!r})'
    ranks = [subprocess.Popen([sys.executable, '-c', code], cwd=Path(__file__).parent, text=True,
                              env=variables | {'RANK': str(rank), 'LOCAL_RANK': '0'}, stderr=subprocess.PIPE)
             for rank in range(processes)]
    said = [rank.communicate(timeout=100)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * processes, '\n'.join(said)
    return read_log(folder / 'log.jsonl')['loss'].to_numpy(), read_tensors(folder / 'encoder.safetensors')


def test_processes_that_share_a_step(tmp_path):
    "One process with the backend that accelerate chooses for a GPU, and two that exchange gradients through the CPU."
    losses, one = started(tmp_path / 'one', 1, None)
    shared, two = started(tmp_path / 'two', 2, 'gloo')
    np.testing.assert_allclose(losses, shared, rtol=2e-3)
    assert max(apart(one[name], two[name]) for name in one) < 1e-3
