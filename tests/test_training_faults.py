"Training that is interrupted, or whose checkpoint cannot be used."
import errno
import os
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from regpre_nb.learn.training import (
    TrainSettings,
    _write_tensors,
    fit,
    read_log,
    read_metadata,
    read_tensors,
    save_weights,
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


def train(folder, model=None, settings=SETTINGS):
    return fit(model or make_model(), loss_function, make_batch, settings, folder, validate, progress=False)


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
    for name in ('last.safetensors', 'best.safetensors'):
        ours, theirs = read_tensors(tmp_path / name), read_tensors(whole / name)
        assert sorted(ours) == sorted(theirs) and all(torch.equal(ours[key], theirs[key]) for key in ours)
    for name in ('log.jsonl', 'validation.jsonl'):
        ours, theirs = (read_log(run / name).drop(columns='seconds', errors='ignore') for run in (tmp_path, whole))
        assert ours.equals(theirs)


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
