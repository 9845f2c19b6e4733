"Files that are no weights of ours, or no longer, end in one sentence that says what, where, and what to do."
import json
import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from regpre_nb.learn.finetune import load_network, transfer_encoder
from regpre_nb.learn.training import TrainSettings, fit, load_weights, read_metadata, read_tensors, save_weights
from regpre_nb.method.released import load_authors_checkpoint
from regpre_nb.method.settings import InputError
from regpre_nb.method.swin import settings_named
from regpre_nb.method.transmorph import TransMorph

TINY = settings_named('tiny')


@pytest.fixture(scope='module')
def network():
    return TransMorph(TINY)


def resumed(path):
    "Train in a folder in which the file lies as its checkpoint."
    def loss(model, batch): return model(batch['x']).square().mean(), {}
    if path.name != 'last.safetensors':
        path = path.rename(path.with_name('last.safetensors'))
    return fit(torch.nn.Linear(1, 1), loss, lambda number, generator: {'x': torch.ones(1, 1)}, TrainSettings(steps=2),
               path.parent, progress=False)


READERS = {
    'read_tensors': lambda network, path: read_tensors(path),
    'read_metadata': lambda network, path: read_metadata(path),
    'load_weights': load_weights,
    'transfer_encoder': transfer_encoder,
    'load_network': lambda network, path: load_network(path),
    'load_authors_checkpoint': load_authors_checkpoint,
    'fit': lambda network, path: resumed(path),
}
WEIGHTS = [name for name in READERS if name != 'load_authors_checkpoint']
NEED_A_RECORD = ['load_network', 'fit']


def sentence(reader, network, path):
    "What the reader says, in one line."
    with pytest.raises(InputError) as caught: READERS[reader](network, path)
    said = str(caught.value)
    assert '\n' not in said and path.parent.name in said and said.endswith('.')
    return said


@pytest.mark.parametrize('reader', [name for name in READERS if name != 'fit'])
def test_nothing_there(reader, network, tmp_path):
    assert 'check the path' in sentence(reader, network, tmp_path / 'absent.safetensors')


@pytest.mark.parametrize('reader', READERS)
def test_a_folder(reader, network, tmp_path):
    (tmp_path / 'a' / 'b.safetensors').mkdir(parents=True)
    assert 'is a folder' in sentence(reader, network, tmp_path / 'a' / 'b.safetensors')


@pytest.mark.parametrize('reader', READERS)
def test_a_fifo_is_not_waited_for(reader, network, tmp_path):
    path = tmp_path / 'pipe.safetensors'
    os.mkfifo(path)
    assert 'no regular file' in sentence(reader, network, path)


@pytest.mark.parametrize('content', [b'', b'text', bytes(100), pickle.dumps([1])],
                         ids=['empty', 'text', 'zeros', 'pickle'])
@pytest.mark.parametrize('reader', READERS)
def test_no_such_format(reader, content, network, tmp_path):
    path = tmp_path / 'file.safetensors'
    path.write_bytes(content)
    said = sentence(reader, network, path)
    assert 'fetch' in said or 'holds no state dict' in said


@pytest.mark.parametrize('place', [0.3, 0.6, 1.], ids=['early', 'middle', 'end'])
@pytest.mark.parametrize('reader', ['read_tensors', 'load_weights', 'transfer_encoder'])
def test_damaged_in_the_middle(reader, place, network, tmp_path):
    "Both for a run that goes on and for one that is finished, whose record says so."
    path = tmp_path / 'encoder.safetensors'
    save_weights(network.encoder, path)
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 0x10
    path.write_bytes(content)
    assert 'delete the folder of this run to train it again' in sentence(reader, network, path)


@pytest.mark.parametrize('reader', NEED_A_RECORD)
def test_no_record(reader, network, tmp_path):
    path = tmp_path / 'file.safetensors'
    save_file(network.state_dict(), path)
    said = sentence(reader, network, path)
    assert 'does not describe' in said or 'not a checkpoint of a run' in said


@pytest.mark.parametrize('record', ['{"step": 1', '[1]', '"text"', 'null'])
@pytest.mark.parametrize('reader', [name for name in WEIGHTS if name not in ('read_tensors', 'load_weights')])
def test_a_record_of_another_kind(reader, record, network, tmp_path):
    path = tmp_path / 'file.safetensors'
    save_file(network.encoder.state_dict(), path, metadata={'record': record})
    assert 'its record is' in sentence(reader, network, path)


@pytest.mark.parametrize('described', [
    {}, [], 'tiny', {'depth': 3}, {'channels': 'many'}, {'name': 'unet'}, {'name': ['unet']},
    {'name': 'transmorph', 'settings': 3}, {'name': 'transmorph', 'encoder': {'name': 'unet'}},
    {'name': 'transmorph', 'encoder': 3}],
    ids=['nothing', 'list', 'text', 'unknown', 'mistyped', 'no such network', 'a list as name', 'no settings',
         'no such encoder', 'no encoder'])
def test_a_record_of_another_network(described, tmp_path):
    path = tmp_path / 'file.safetensors'
    save_weights(torch.nn.Linear(2, 2), path, network=described)
    said = sentence('load_network', None, path)
    assert 'cannot be built' in said or 'do not fit' in said


@pytest.mark.parametrize('changed', [{'step': 'two'}, {'settings': [3]}, {'seconds': None}, {'processes': None},
                                     {'best_score': 'high'}], ids=lambda changed: next(iter(changed)))
def test_a_checkpoint_with_another_record(changed, tmp_path):
    "It is refused before anything is taken from it."
    path = tmp_path / 'run' / 'last.safetensors'
    whole = {'step': 1, 'seconds': 1., 'best_score': None, 'processes': 1, 'settings': {}}
    save_weights(torch.nn.Linear(1, 1), path, **whole | changed)
    assert 'not a checkpoint of a run' in sentence('fit', None, path)


@pytest.mark.parametrize('content', [[1, 2], torch.ones(2), None, {'state_dict': [1]}, {'epoch': 3},
                                     {'state_dict': {1: torch.ones(1)}}],
                         ids=['list', 'tensor', 'None', 'list in it', 'no tensor', 'number as name'])
def test_an_authors_file_without_a_state_dict(content, network, tmp_path):
    path = tmp_path / 'file.pth.tar'
    torch.save(content, path)
    assert 'holds no state dict' in sentence('load_authors_checkpoint', network, path)


def test_a_log_with_lines_of_another_kind(tmp_path):
    "They are left out, and the run goes on."
    path = tmp_path / 'run' / 'last.safetensors'
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'log.jsonl').write_text('\n'.join(map(json.dumps, [[1], {}, 'text', {'step': '1'}])) + '\n')
    def loss(model, batch): return model(batch['x']).square().mean(), {}
    fit(torch.nn.Linear(1, 1), loss, lambda number, generator: {'x': torch.ones(1, 1)}, TrainSettings(steps=2),
        path.parent, progress=False)
    steps = [json.loads(line)['step'] for line in (tmp_path / 'run' / 'log.jsonl').read_text().splitlines()]
    assert steps == [2]


@pytest.mark.skipif(os.name != 'posix' or os.geteuid() == 0, reason='root may read everything')
def test_no_permission(network, tmp_path):
    path = tmp_path / 'file.safetensors'
    save_weights(network, path)
    path.chmod(0)
    for reader in WEIGHTS: assert 'permission' in sentence(reader, network, path).lower()
