"Several processes that train one network together, on the CPU: what they compute, write and say."
import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from commands import environment
from forked import call
from torch import nn

from regpre_nb.learn.training import MeanOfPairs, TrainSettings, fit, read_log, read_metadata, read_tensors
from regpre_nb.method.settings import InputError

pytestmark = pytest.mark.skipif(not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
                                reason='this build of torch has no gloo')
SETTINGS = TrainSettings(steps=12, learning_rate=0.05, accumulate=2, log_every=2, validate_every=4,
                         checkpoint_every=4)


def together(processes, function, *arguments, **variables):
    "What a launcher does: one process for each rank, and a port where they meet."
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    shared = variables | dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=port, WORLD_SIZE=processes,
                              LOCAL_WORLD_SIZE=processes)

    def start(rank): return call(function, *arguments, variables=environment(**shared, RANK=rank, LOCAL_RANK=rank))
    with ThreadPoolExecutor(processes) as pool: return list(pool.map(start, range(processes)))


# A network that draws numbers in every way: from its batch's generator, by a module, by torch's dropout

class Noise(nn.Module):
    generator = None

    def forward(self, values):
        if not self.training: return values
        return values + 0.1 * torch.randn(values.shape, generator=self.generator)


def make_model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 8), Noise(), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1))


def make_batch(number, generator):
    cases = torch.randn(4, 3, generator=generator)
    return {'cases': cases, 'sums': cases.sum(1) + 0.01 * number}


def loss_function(model, batch): return (model(batch['cases'])[:, 0] - batch['sums']).square().mean(), {}


def one(model, number):
    "Of every other pair a number that the others lack, as landmarks have it."
    loss = loss_function(model, make_batch(number, torch.Generator().manual_seed(number)))[0].item()
    return {'score': -loss} | ({f'pair {number}': loss} if number % 2 else {})


VALIDATE = MeanOfPairs(5, one)


def train(folder, settings=SETTINGS, model=None, validate=VALIDATE, batch=make_batch):
    model = model or make_model()
    fit(model, loss_function, batch, settings, folder, validate, progress=False)
    return model


def weights(folder): return read_tensors(folder / 'last.safetensors')


def assert_close(ours, theirs, within=1e-6):
    "All tensors of two checkpoints: weights and the moments of the optimiser."
    assert sorted(ours) == sorted(theirs)
    assert max((ours[name] - theirs[name]).abs().max().item() for name in ours) <= within


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
    "The folder of a run that one process made."
    folder = tmp_path_factory.mktemp('runs') / 'alone'
    train(folder)
    return folder


def test_two_processes_make_what_one_makes(alone, tmp_path):
    "Two times one batch are one time two: weights, losses and scores. Nothing is said, and each file is written once."
    for done in together(2, train, tmp_path): assert (done.returncode, done.stderr) == (0, '')
    assert read_metadata(tmp_path / 'last.safetensors')['processes'] == 2
    assert_close(weights(tmp_path), weights(alone))
    for name in ('log.jsonl', 'validation.jsonl'):
        ours, theirs = (read_log(run / name).drop(columns='seconds', errors='ignore') for run in (tmp_path, alone))
        assert ours.columns.tolist() == theirs.columns.tolist()
        assert (ours - theirs).abs().max().max() < 1e-6
    assert 'pair 3' in read_log(tmp_path / 'validation.jsonl')  # which only the second process saw


def note_batches(folder):
    "Train and keep the number and the first value of every batch that this process made."
    rank = os.environ.get('RANK', 'alone')

    def noted(number, generator):
        batch = make_batch(number, generator)
        with open(folder / f'{rank}.txt', 'a') as file:
            print(number, batch['cases'][0, 0].item(), file=file)
        return batch
    run = folder / ('one' if rank == 'alone' else 'two')
    train(run, replace(SETTINGS, steps=3, accumulate=4, batch=2), batch=noted)


def test_the_union_of_the_batches(tmp_path):
    "Pair i of the batch at place q of step s has the number (s a + q) b + i, and rank r of n has q = r, r + n, ..."
    note_batches(tmp_path)
    for done in together(2, note_batches, tmp_path): assert done.returncode == 0, done.stderr
    all_of_one, *of_two = (dict(line.split() for line in (tmp_path / f'{rank}.txt').read_text().splitlines())
                           for rank in ('alone', 0, 1))
    assert [*map(int, all_of_one)] == [*range(24)]
    for rank, found in enumerate(of_two):
        places = [(step * 4 + place) * 2 + i for step in range(3) for place in (rank, rank + 2) for i in range(2)]
        assert sorted(map(int, found)) == places
    assert of_two[0] | of_two[1] == all_of_one


def die(folder, number):
    "Train until a batch that kills the process that makes it."
    def deadly(now, generator):
        if now == number: os.kill(os.getpid(), signal.SIGKILL)
        return make_batch(now, generator)
    train(folder, batch=deadly)


@pytest.mark.parametrize('processes', [1, 2])
def test_a_killed_process_ends_the_others(processes, alone, tmp_path):
    "With a sentence and at once; the run goes on from its checkpoint, with one process or with two."
    left, killed = together(2, die, tmp_path, 13)  # step 7: its second batch
    assert killed.returncode == -signal.SIGKILL and left.returncode == 1
    assert 'of 2 processes that train together, one has ended or fallen silent in step 7' in left.stderr
    assert read_metadata(tmp_path / 'last.safetensors')['step'] == 4
    if processes == 1: train(tmp_path)
    else: together(2, train, tmp_path)
    assert_close(weights(tmp_path), weights(alone))
    assert read_log(tmp_path / 'log.jsonl').step.tolist() == read_log(alone / 'log.jsonl').step.tolist()


class HalfUsed(nn.Module):
    "A network of which some parameters never get a gradient."
    def __init__(self):
        super().__init__()
        self.used, self.unused = make_model(), nn.Linear(3, 1)

    def forward(self, cases): return self.used(cases)


def train_half_used(folder): train(folder, model=HalfUsed())


def test_parameters_without_a_gradient(alone, tmp_path):
    "They are found, and do not stop the exchange."
    for done in together(2, train_half_used, tmp_path): assert (done.returncode, done.stderr) == (0, '')
    ours = {name.removeprefix('model.used.'): tensor for name, tensor in weights(tmp_path).items() if 'used.' in name}
    theirs = {name.removeprefix('model.'): tensor for name, tensor in weights(alone).items() if 'model.' in name}
    assert max((ours[name] - theirs[name]).abs().max() for name in theirs) < 1e-6


@pytest.mark.parametrize('changes', [{'gradient_clip': 0.01}, {'precision': 'bf16'}], ids=str)
def test_switches(changes, tmp_path):
    "The whole gradient is clipped, not that of a process; bfloat16 is rounded alike."
    settings = replace(SETTINGS, steps=4, **changes)
    one_process = train(tmp_path / 'one', settings)
    for done in together(2, train, tmp_path / 'two', settings): assert done.returncode == 0, done.stderr
    theirs = {f'model.{name}': tensor for name, tensor in one_process.state_dict().items()}
    ours = weights(tmp_path / 'two')
    assert max((ours[name] - theirs[name]).abs().max() for name in theirs) < 1e-6


def test_a_step_that_cannot_be_shared(tmp_path):
    for done in together(2, train, tmp_path, replace(SETTINGS, accumulate=3)):
        assert 'a step of this run has 3 batch(es), which 2 processes cannot share: start 1, or set accumulate' \
            in done.stderr
    assert [replace(SETTINGS, accumulate=8).processes(most) for most in (0, 1, 3, 5, 100)] == [1, 1, 2, 4, 8]


def fail(folder):
    "Train with data that only the second process finds broken."
    def broken(number, generator):
        if number == 5: raise InputError('case5.nii.gz is damaged.')
        return make_batch(number, generator)
    train(folder, batch=broken)


def test_an_error_in_one_process(tmp_path):
    "It is told by the one that has it; the other ends, too."
    first, second = together(2, fail, tmp_path)
    assert 'case5.nii.gz is damaged.' in second.stderr
    assert 'one has ended or fallen silent in step 3' in first.stderr
