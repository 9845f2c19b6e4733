"Several pairs in a step, and a step that never waits for the device."
import io
from contextlib import nullcontext, redirect_stderr
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from conftest import long
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from regpre_nb.data.cohorts import load_cohort
from regpre_nb.learn import training
from regpre_nb.learn.finetune import FinetuneSettings, _Volumes, cohort_batches, finetune, registration_loss
from regpre_nb.learn.pretrain import ABLATIONS, PRETRAIN, PretrainSettings, pretrain, pretraining_loss, random_batches
from regpre_nb.learn.training import TrainSettings, fit, make_optimiser, read_log, read_tensors
from regpre_nb.method.heads import PretrainingNetwork
from regpre_nb.method.random_images import random_pair, random_pair_batch
from regpre_nb.method.settings import changed
from regpre_nb.method.swin import SwinEncoder, settings_named
from regpre_nb.method.transmorph import TransMorph
from regpre_nb.paper.jobs import run_folder, train_side_by_side
from regpre_nb.paper.studies import by_priority

SHAPE = 32, 24, 40
TINY = settings_named('tiny', stochastic_depth=0.)
SMALL = PretrainSettings(shape=SHAPE, cell=16, amplitudes=(1, 2, 3), validation_pairs=1)
SAMPLED = replace(PRETRAIN['released'], shape=SHAPE, cell=16, amplitudes=(1, 2, 3), validation_pairs=1)


# Pairs that are made together

class Numbers:
    "Random numbers that are noted, or handed out again."
    def __init__(self): self.noted = []

    def drawing(self, draw):
        def noting(*size, generator, **options):
            self.noted.append(draw(*size, generator=generator, **options))
            return self.noted[-1]
        return noting

    def patched(self):
        return patch.multiple(torch, rand=self.drawing(torch.rand), randint=self.drawing(torch.randint))


def numbers_of(place, drawn, labels, pairs):
    "What `random_pair` draws for one pair, in its order, out of what was drawn for all."
    phases, directions, intensities, amplitude, *velocity, octaves = drawn
    for label in range(place * labels, (place + 1) * labels):
        yield phases[:, label:label + 1]
        yield directions[:, label:label + 1]
    yield intensities[place]
    for field in (place, pairs + place):  # of moving, of fixed
        of_field = slice(3 * field, 3 * field + 3)
        yield amplitude[field:field + 1]
        yield from (numbers[:, of_field] for numbers in velocity)
        yield octaves[of_field]


def test_a_pair_is_the_same_alone_and_among_others():
    numbers, task = Numbers(), dict(n_labels=5, cell=16, amplitudes=(1, 2, 3))
    with numbers.patched():
        together = random_pair_batch(SHAPE, torch.Generator().manual_seed(1), 3, **task)
    for place in range(3):
        again = numbers_of(place, numbers.noted, 5, 3)
        def next_one(*size, generator, **options): return next(again)
        with patch.multiple(torch, rand=next_one, randint=next_one):
            alone = random_pair(SHAPE, torch.Generator(), displacements=False, **task)
        assert next(again, None) is None  # every number was used
        for name, tensor in alone.items():
            other = together[name][place:place + 1]
            assert other.shape == tensor.shape and other.dtype == tensor.dtype
            differing = (other.float() - tensor.float()).abs() > 1e-3
            assert differing.float().mean() < 1e-3, name  # where two labels are as near, rounding decides


# Several pairs are a mean over pairs

def gradients(network, loss_function, batch):
    "The loss, and the gradient of every weight."
    network.zero_grad()
    loss, parts = loss_function(network, batch)
    loss.backward()
    learned = [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]
    return [loss.detach(), *parts.values()], learned


def assert_mean_over_pairs(network, loss_function, batch):
    several, pairs = gradients(network, loss_function, batch), len(batch['moving'])
    each = [gradients(network, loss_function, {name: tensor[i:i + 1] for name, tensor in batch.items()})
            for i in range(pairs)]
    for part in (0, 1):  # the loss with its parts; all gradients
        value, *others = (torch.cat([tensor.flatten() for tensor in found[part]]) for found in (several, *each))
        assert value.norm() > 1e-3 and (value - sum(others) / pairs).norm() <= 1e-5 * value.norm()


@pytest.fixture(scope='module')
def three_pairs():
    return random_pair_batch(SHAPE, torch.Generator().manual_seed(0), 3, cell=16, amplitudes=(1, 2, 3))


def awake(network):
    "The network with a last layer that moves something, or no gradient would reach the others."
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 5 and len(parameter) == 3: parameter.normal_(std=0.01)
    return network.train()


@pytest.mark.parametrize('changes', [*ABLATIONS.values(), {'preset': 'released'}],
                         ids=[*ABLATIONS, 'released'])
def test_pretraining_is_a_mean_over_pairs(three_pairs, changes):
    settings = changed(SMALL, changes)
    network = awake(PretrainingNetwork(SwinEncoder(TINY), 1, sample=False, preset=settings.preset))
    assert_mean_over_pairs(network, partial(pretraining_loss, settings=settings), three_pairs)


@pytest.mark.parametrize('preset', ['paper', 'released'])
def test_finetuning_is_a_mean_over_pairs(three_pairs, preset):
    network = awake(TransMorph(TINY))  # the released one has batch norm, in which pairs of a batch meet
    batch = {role: three_pairs[role] for role in ('moving', 'fixed')}
    assert_mean_over_pairs(network, partial(registration_loss, settings=FinetuneSettings(preset=preset)), batch)


def assert_same_curves(one, other):
    "As far as rounding goes, which Adam's division enlarges."
    ours, theirs = (read_log(folder / 'log.jsonl') for folder in (one, other))
    for column in ('loss', 'similarity', 'diffusion'):
        torch.testing.assert_close(torch.tensor(ours[column]), torch.tensor(theirs[column]), rtol=1e-4, atol=1e-5)


def test_a_batch_is_two_accumulated_pairs(tmp_path):
    "In both trainings; the pairs have the same numbers, whichever way."
    cohort, task = load_cohort('template'), replace(SMALL, amplitudes=(2,))
    def one_by_one(number, generator): return random_batches(task)(number, generator.manual_seed(number))

    for name, options in (('batch', {'batch': 2}), ('parts', {'accumulate': 2})):
        training = TrainSettings(steps=2, learning_rate=1e-4, log_every=1, **options)
        torch.manual_seed(0)
        pretrain(SwinEncoder(TINY), task, training, tmp_path / f'pretrain {name}', 1, make_batch=one_by_one,
                 progress=False)
        torch.manual_seed(0)
        finetune(TransMorph(TINY), cohort, cohort.train[:4], FinetuneSettings(flips='none'), training,
                 tmp_path / f'finetune {name}', validate=lambda network: {'score': 0.}, progress=False)
    for name in ('pretrain', 'finetune'): assert_same_curves(tmp_path / f'{name} batch', tmp_path / f'{name} parts')


# Images that are kept

@pytest.fixture
def filed(tmp_path, monkeypatch):
    "A cohort that reads from files and keeps nothing in memory; `reads` are the cases that were read."
    cohort, reads = load_cohort('template'), []
    monkeypatch.setenv('REGPRE_CACHE', str(tmp_path / 'cache'))
    (tmp_path / 'source').touch()
    return replace(cohort, keep=False, read=lambda case: reads.append(case) or cohort.read(case),
                   made_from=lambda case: (tmp_path / 'source', case)), reads, tmp_path / 'cache'


def test_a_cohort_without_files_is_read_anew():
    cohort = load_cohort('template')
    store = _Volumes(replace(cohort, keep=False), cohort.train[:2], torch.device('cpu'), 0)
    assert torch.equal(store.get(cohort.train[1])[0], cohort.image(cohort.train[1]))


def test_images_that_do_not_fit_are_kept_on_disk(filed):
    "Two cases and the atlas, each asked for twice: read once, the second time not at all, without a cache again."
    cohort, reads, cache = filed
    for stores, room, read in ((True, 0, 3), (True, 0, 0), (False, 0, 5), (True, None, 3)):  # no room; all fit
        reads.clear()
        with redirect_stderr(io.StringIO()):
            store = _Volumes(cohort, cohort.train[:2], torch.device('cpu'), room, stores)
        for case in (*cohort.train[:2], cohort.atlas) * 2:
            assert torch.equal(store.get(case)[0], load_cohort('template').image(case))
        assert (len(reads), len([*cache.glob('images/*')])) == (read, 3)


# A step that waits for nothing

class OnlyOn(TorchDispatchMode):
    "No operation may touch a tensor of another device, except, where `host`, those on the CPU alone."
    def __init__(self, device, host=False):
        super().__init__()
        self.device, self.host = torch.device(device), host

    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        result = operation(*arguments, **(keywords or {}))
        devices = {t.device for t in tree_leaves((arguments, keywords, result)) if isinstance(t, torch.Tensor)}
        on_host = self.host and devices == {torch.device('cpu')}
        if devices - {self.device} and not on_host: raise RuntimeError(f'{operation} leaves the device')
        return result


def without_generators():
    "PyTorch has no generator of a device without values, so numbers are drawn there without one."
    def no_generator(draw): return lambda *size, generator, **options: draw(*size, **options)
    return patch.multiple(torch, **{name: no_generator(getattr(torch, name)) for name in ('rand', 'randn', 'randint')})


def on_a_device_without_values(function):
    "Call with a generator of the meta device, where no value can be asked for, and let nothing leave it."
    with OnlyOn('meta'), without_generators(): return function(SimpleNamespace(device=torch.device('meta')))


@pytest.mark.parametrize('preset', ['paper', 'released'])
def test_a_random_pair_waits_for_nothing(preset):
    pair = on_a_device_without_values(partial(random_pair, (64, 48, 40), preset=preset))
    assert pair['fixed_displacement'].shape == (1, 3, 64, 48, 40)


def test_random_pairs_made_together_wait_for_nothing():
    several = on_a_device_without_values(lambda generator: random_pair_batch((64, 48, 40), generator, 2))
    assert several['fixed_labels'].shape == (2, 1, 64, 48, 40)


def draws(generator): return torch.rand(3, generator=generator, device=generator.device)


@pytest.mark.parametrize('wrong', [lambda generator: draws(generator).sum().item(),
                                   lambda generator: torch.ones(2).to(generator.device),
                                   lambda generator: draws(generator)[torch.tensor([0, 1])]],
                         ids=['waits', 'copies', 'mixes'])
def test_leaving_the_device_is_seen(wrong):
    assert on_a_device_without_values(draws).shape == (3,)
    with pytest.raises(RuntimeError): on_a_device_without_values(wrong)


def step_without_values(network, loss_function, make_batch, numbers=(0,)):
    "Batch, loss and gradients on a device that has shapes alone: to ask for a value is an error."
    network = network.to('meta').train()
    generator = SimpleNamespace(device=torch.device('meta'))
    for part in network.modules():
        if hasattr(part, 'generator'): part.generator = generator

    def step(watched):
        several, host = list(numbers), not hasattr(make_batch, 'on_device')
        with OnlyOn('meta', host) if watched else nullcontext():
            batch = make_batch(several[0], generator) if len(several) == 1 else make_batch.together(several, generator)
        with OnlyOn('meta') if watched else nullcontext():
            loss, parts = loss_function(network, batch)
            loss.backward()
            return torch.stack([loss.detach(), *parts.values()])

    with without_generators():
        step(watched=False)  # fills what is kept for all steps: images, masks of the attention
        return step(watched=True)


STEPS = {
    **{name: (lambda changes=changes: (PretrainingNetwork(SwinEncoder(settings_named('tiny')), 1),
              partial(pretraining_loss, settings=changed(SMALL, changes)), random_batches(SMALL)))
       for name, changes in ABLATIONS.items()},
    'released': lambda: (PretrainingNetwork(SwinEncoder(settings_named('tiny')), 1, preset='released'),
                         partial(pretraining_loss, settings=SAMPLED), random_batches(SAMPLED)),
    'finetuning': lambda: (TransMorph(settings_named('tiny')), partial(registration_loss, settings=FinetuneSettings()),
                           cohort_batches(load_cohort('template'), load_cohort('template').train[:1])),
    'finetuning between people': lambda: (
        TransMorph(settings_named('tiny')), partial(registration_loss, settings=FinetuneSettings()),
        cohort_batches(replace(load_cohort('template'), atlas=None), load_cohort('template').train[:2])),
}


@pytest.mark.parametrize('numbers', [(0,), (0, 1)], ids=['one pair', 'two pairs'])
@pytest.mark.parametrize('name', STEPS)
def test_a_step_waits_for_nothing(name, numbers):
    assert step_without_values(*STEPS[name](), numbers).device.type == 'meta'


class NoValue(TorchDispatchMode):
    "No operation may hand a value to Python."
    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        if operation is torch.ops.aten._local_scalar_dense.default: raise RuntimeError('a value was asked for')
        return operation(*arguments, **(keywords or {}))


@pytest.mark.parametrize('optimiser', ['adam', 'adamw', 'amsgrad'])
def test_the_update_waits_for_nothing(optimiser):
    "The optimiser has no form for a device without values; on the CPU it asks for none."
    network = torch.nn.Linear(2, 2)
    update = make_optimiser(network, TrainSettings(steps=1, optimiser=optimiser))
    for _ in range(2):
        network(torch.ones(1, 2)).sum().backward()
        with NoValue(): update.step()
    with NoValue(), pytest.raises(RuntimeError): network.weight.sum().item()


def test_waiting_is_seen():
    network, loss_function, make_batch = STEPS['SD w/ KL']()
    def impatient(network, batch):
        loss, parts = loss_function(network, batch)
        if loss.item() > 0: parts = {}
        return loss, parts
    with pytest.raises(RuntimeError): step_without_values(network, impatient, make_batch)


# A step as one graph

class Recorder:
    "In place of a CUDA graph: does the work again, as a graph would."
    def __init__(self, wrong=0.): self.calls, self.wrong = 0, wrong

    def __call__(self, work, run):
        told = work()

        def replay():
            self.calls += 1
            run.optimiser.zero_grad()
            told.copy_(work() + self.wrong)
        return replay, told


def trained(folder, recorder, settings, steps=6, make_batch=None):
    "Train a small network with this recorder in place of CUDA's; what was said."
    torch.manual_seed(0)
    said, network = io.StringIO(), PretrainingNetwork(SwinEncoder(settings_named('tiny')), 1)
    with (patch.multiple(training, _recorded=recorder, _wants_graph=lambda run: True,
                         _side_stream=lambda device: 'stream', _beside=lambda stream: redirect_stderr(said)),
          redirect_stderr(said)):
        fit(network, partial(pretraining_loss, settings=SMALL), make_batch or random_batches(SMALL),
            TrainSettings(steps=steps, graph=True, log_every=1, learning_rate=1e-3, **settings), folder, progress=False)
    return said.getvalue()


def cannot(work, run): raise RuntimeError('operation not permitted when stream is capturing\nand more')


@pytest.mark.parametrize('settings', [{}, {'batch': 2}, {'gradient_clip': 1e-3}], ids=['one', 'two', 'clipped'])
@pytest.mark.parametrize('inside', [True, False], ids=['drawn inside', 'copied'])
def test_replayed_steps_are_the_plain_ones(tmp_path, settings, inside):
    def copied(number, generator): return random_batches(SMALL)(number, generator)
    make_batch = random_batches(SMALL) if inside else copied
    recorder = Recorder()
    assert trained(tmp_path / 'replayed', recorder, settings, make_batch=make_batch) == ''
    assert recorder.calls == 6 - 3 + 1  # three plain steps first; one replay is compared with the plain step
    assert trained(tmp_path / 'plain', cannot, settings, make_batch=make_batch).count('\n') == 1
    one, other = (read_tensors(tmp_path / name / 'last.safetensors') for name in ('replayed', 'plain'))
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_a_graph_that_cannot_be_had_is_given_up_in_one_sentence(tmp_path):
    said = trained(tmp_path / 'cannot', cannot, {})
    assert said == ('cannot: a step cannot be replayed as a CUDA graph (operation not permitted when stream is '
                    'capturing); plain steps are taken.\n')
    wrong = Recorder(wrong=0.5)
    assert 'its loss is' in trained(tmp_path / 'wrong', wrong, {}) and wrong.calls == 2  # drawn inside, copied


def test_without_a_gpu_graph_changes_nothing(tmp_path):
    for graph in (True, False):
        torch.manual_seed(0)
        fit(PretrainingNetwork(SwinEncoder(TINY), 1), partial(pretraining_loss, settings=SMALL), random_batches(SMALL),
            TrainSettings(steps=2, graph=graph, tf32=graph), tmp_path / str(graph), progress=False)
    one, other = (read_tensors(tmp_path / str(graph) / 'last.safetensors') for graph in (True, False))
    assert all(torch.equal(one[name], other[name]) for name in other)


# Several runs at once

def test_runs_side_by_side(tmp_path):
    "In two processes; what a run starts from is done before it, a failure stops only what starts from it."
    runs = by_priority('smoke', 'template', seeds=(0,))[:4]
    broken = replace(runs[0], name='broken', data='nowhere')
    follower = replace(runs[3], name='follower', start=broken)
    said = []
    states = train_side_by_side([*runs, broken, follower], tmp_path, 2, tell=said.append)
    assert [states[run.key] for run in runs] == ['done'] * 4
    assert (states[broken.key], states[follower.key]) == ('failed', 'failed')
    assert all((run_folder(run, tmp_path) / 'run.json').exists() for run in runs)
    assert len(said) == 5  # the follower did not begin
    assert train_side_by_side(runs, tmp_path, 2, seconds=0.) == dict.fromkeys((run.key for run in runs), 'waiting')


@long
@pytest.mark.filterwarnings('ignore::UserWarning')
@pytest.mark.parametrize('name', ['pretraining', 'fine-tuning'])
def test_network_and_loss_are_one_graph(name, three_pairs):
    "To PyTorch's compiler too, where no coin is thrown in the network."
    network, loss = {'pretraining': (PretrainingNetwork(SwinEncoder(TINY), 1, sample=False), pretraining_loss),
                     'fine-tuning': (TransMorph(TINY), registration_loss)}[name]
    settings = {'pretraining': SMALL, 'fine-tuning': FinetuneSettings()}[name]
    def whole(network, batch): return loss(network, batch, settings)[0]
    found = torch._dynamo.explain(whole)(network.train(), three_pairs)
    assert (found.graph_break_count, found.graph_count) == (0, 1), found.break_reasons
