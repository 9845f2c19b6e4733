"Training that is interrupted, whose checkpoint cannot be used, or that several processes share."
import errno
import math
import os
import signal
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from regpre_nb.learn.scoring import check_displacement
from regpre_nb.learn.training import (
    TrainSettings,
    _write_tensors,
    fit,
    read_log,
    read_metadata,
    read_tensors,
    replay_step,
    save_weights,
    step_generator,
)
from regpre_nb.method.settings import InputError

# Faults. A small network removes noise from smooth random volumes

SETTINGS = TrainSettings(steps=40, learning_rate=5e-3, checkpoint_every=16, validate_every=20, log_every=4)


def make_model(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.Dropout(0.1),
                             nn.Conv3d(4, 1, 3, padding=1))


def make_batch(number, generator):
    noise = torch.randn(2, 2, 8, 8, 8, generator=generator)
    clean = 3 * F.avg_pool3d(noise[:, :1], 3, stride=1, padding=1)
    return {'clean': clean, 'noisy': clean + noise[:, 1:]}


def loss_function(model, batch): return (model(batch['noisy']) - batch['clean']).square().mean(), {}


def validate(model): return {'score': -loss_function(model, make_batch(0, torch.Generator().manual_seed(1)))[0].item()}


def train(folder, model=None, settings=SETTINGS, loss=loss_function, batches=make_batch, validate=validate):
    return fit(model or make_model(), loss, batches, settings, folder, validate, progress=False)


def assert_same(ours, theirs, *logs):
    "Weights, moments and best weights of two runs bit by bit, and these logs line by line but for the time."
    for name in ('last.safetensors', 'best.safetensors'):
        one, other = read_tensors(ours / name), read_tensors(theirs / name)
        assert sorted(one) == sorted(other) and all(torch.equal(one[key], other[key]) for key in one)
    for name in logs:
        one, other = (read_log(run / name).drop(columns='seconds', errors='ignore') for run in (ours, theirs))
        assert one.equals(other)


@contextmanager
def patched_signal(number, handler):
    "A signal is handled so for a while."
    before = signal.signal(number, handler)
    try: yield
    finally: signal.signal(number, before)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "The folder of a run that nothing interrupted."
    return train(tmp_path_factory.mktemp('runs') / 'whole').folder


@pytest.mark.parametrize('where, error, told', [
    ('fsync', OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
     r'last.safetensors \(No space left on device\); what was there before is intact: make room'),
    ('replace', KeyboardInterrupt(), None)], ids=['disk full', 'stopped'])
def test_interrupted_while_writing(where, error, told, whole, tmp_path):
    "At the fifth file, which is the checkpoint of step 32. The one before stands, and the run ends as if nothing was."
    original, calls = getattr(os, where), []

    def fail_at_fifth(*arguments):
        calls.append(arguments)
        if len(calls) == 5: raise error
        return original(*arguments)

    with patch(f'os.{where}', fail_at_fifth), pytest.raises(InputError if told else KeyboardInterrupt, match=told):
        train(tmp_path)
    assert read_metadata(tmp_path / 'last.safetensors')['step'] == 16

    train(tmp_path, make_model(seed=1))
    assert_same(tmp_path, whole, 'log.jsonl', 'validation.jsonl')


class Interrupting:
    "Validates; the signal comes in the middle of the second validation, after step 40."
    calls = 0

    def __call__(self, model):
        self.calls += 1
        if self.calls == 2: signal.raise_signal(signal.SIGINT)
        return validate(model)


def test_interrupted_while_validating(whole, tmp_path, capsys):
    "The last step is saved, and the validation that was broken off is made when the run goes on."
    validating = Interrupting()
    with patched_signal(signal.SIGINT, signal.default_int_handler), pytest.raises(KeyboardInterrupt):
        train(tmp_path, validate=validating)
    told = capsys.readouterr().err
    assert f'stopped after step 40 of 40, which is saved in {tmp_path}; the same call goes on from there' in told
    assert read_log(tmp_path / 'validation.jsonl')['step'].tolist() == [20]
    train(tmp_path, make_model(seed=1), validate=validating)
    assert validating.calls == 3
    assert_same(tmp_path, whole, 'log.jsonl', 'validation.jsonl')


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_interrupted_again_and_again(number, whole, tmp_path):
    "After each of some steps, also those that validate, save or are the last; the outcome is the same."
    due, seen = [3, 4, 15, 19, 39], []

    def interrupted(batch, generator):
        if batch in due:
            due.remove(batch)
            signal.raise_signal(number)
        return make_batch(batch, generator)

    def stop(number, frame): raise SystemExit(128 + number)
    with patched_signal(number, stop):
        while due:
            with pytest.raises(SystemExit, match=str(128 + number)): train(tmp_path, batches=interrupted)
            seen.append(read_metadata(tmp_path / 'last.safetensors')['step'])
    assert seen == [4, 5, 16, 20, 40]
    train(tmp_path, make_model(seed=1))
    assert_same(tmp_path, whole, 'validation.jsonl')


def test_the_step_that_went_wrong(tmp_path):
    "It is found from the first weights or from the checkpoint, is kept with all that decides it, and taken alone."
    def grows(model, batch):
        loss, _ = loss_function(model, batch)
        return loss / (batch['noisy'].abs().max() != limit), {}

    largest = [make_batch(n, step_generator(0, n))['noisy'].abs().max() for n in (2, 21)]
    each = train(tmp_path / 'each', settings=replace(SETTINGS, log_every=1)).folder / 'log.jsonl'
    losses = read_log(each).set_index('step')['loss']
    for limit, step in zip(largest, (3, 22)):
        folder = tmp_path / f'{step}'
        with pytest.raises(FloatingPointError, match=f'step {step}; .*bad_step.safetensors keeps that step'):
            train(folder, loss=grows)
        again = replay_step(folder / 'bad_step.safetensors', make_model(seed=1), grows)
        assert again['step'] == step and again['not_finite'][0] == 'loss'
        healthy = replay_step(folder / 'bad_step.safetensors', make_model(seed=1), loss_function)
        assert healthy['not_finite'] == [] and healthy['loss'] == losses[step]


def test_the_step_after_which_a_validation_fails(tmp_path):
    "The losses are finite, and so are the weights: it counts as the step that spoilt the run."
    def large(model):
        finite = make_batch(0, torch.Generator())['noisy']
        displacement = torch.zeros(1, 3, *finite.shape[2:]) + (math.inf if len(calls) > 1 else 0)
        calls.append(check_displacement(displacement, finite, 'pair 1'))
        return validate(model)

    for folder, settings in (('begun', SETTINGS), ('early', replace(SETTINGS, checkpoint_every=0))):
        calls = []
        with pytest.raises(FloatingPointError, match='after step 3, pair 1: .*bad_step.safetensors keeps that step'):
            train(tmp_path / folder, settings=replace(settings, validate_every=1), validate=large)
        again = replay_step(tmp_path / folder / 'bad_step.safetensors', make_model(), loss_function)
        assert (again['step'], again['not_finite']) == (3, [])


def test_no_step_to_replay(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('REGPRE_REPLAY', '1')
    train(tmp_path, settings=replace(SETTINGS, steps=1))
    assert f'REGPRE_REPLAY is 1, and no bad_step.safetensors lies in {tmp_path}' in capsys.readouterr().err


def cut(whole, path): path.write_bytes((whole / 'last.safetensors').read_bytes()[:1000])


def foreign(whole, path): save_weights(make_model(), path)


def of_no_parameter(whole, path):
    whole = whole / 'last.safetensors'
    _write_tensors(path, read_tensors(whole) | {'optimiser.99.exp_avg': torch.zeros(3)}, read_metadata(whole))


@pytest.mark.parametrize('write, said', [(cut, 'truncated or not a safetensors file'),
                                         (foreign, 'not a checkpoint of a run'),
                                         (of_no_parameter, 'optimiser.99.exp_avg belongs to no parameter')])
def test_a_checkpoint_that_cannot_be_used(write, said, whole, tmp_path):
    "It stops the run, and stays as it is."
    write(whole, tmp_path / 'last.safetensors')
    before = (tmp_path / 'last.safetensors').read_bytes()
    with pytest.raises(InputError, match=said): train(tmp_path)
    assert (tmp_path / 'last.safetensors').read_bytes() == before


def test_a_run_of_another_kind(whole, tmp_path):
    with pytest.raises(InputError, match=r'other settings \(seed is 1 now and was 0\)'):
        train(whole, settings=replace(SETTINGS, seed=1))
    with pytest.raises(InputError, match='do not fit this Conv3d'): train(whole, nn.Conv3d(1, 1, 3))
    (tmp_path / 'a file').touch()
    with pytest.raises(InputError, match='Cannot write'): train(tmp_path / 'a file')
