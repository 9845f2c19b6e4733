"Images and encoders of one's own, by the command line: trained, broken off, gone on with, and refused."
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
from commands import COMMAND, case, environment, listed, regpre, save
from conftest import ROOT, long
from forked import call
from test_bad_input import refused

from regpre_nb.learn.training import read_metadata, read_tensors

PLUGIN = (ROOT / 'tests' / 'outside.py').read_text()  # what somebody adds; a Pyramid is in it
ENCODERS = {  # what to ask for, and how many maps there are
    'swin': ('swin', '{"channels": 8, "depths": [1, 1], "heads": [2, 2]}', 2),
    'cnn, four maps': ('cnn', '{"channels": [4, 4, 8, 8]}', 4),
    'swinunetr, four maps': ('swinunetr', '{"channels": 4, "depths": [1, 1, 1], "heads": [1, 1, 1]}', 4),
    'of a plugin, three maps': ('pyramid', '{"channels": [4, 4, 8]}', 3),
}
SMALL = '--settings', '{"channels": [4, 4]}'
LOAD = '''
import sys

import torch

from regpre_nb.learn.finetune import load_network
from regpre_nb.method.encoders import load_plugin

path, *plugins = sys.argv[1:]
for plugin in plugins: load_plugin(plugin)
network = load_network(path)
print(type(network.encoder).__name__, len(network.encoder.channels))
assert network(*torch.rand(2, 1, 1, 16, 20, 24)).shape == (1, 3, 16, 20, 24)
'''


def load(*arguments):
    "What a process does that knows nothing but a file of weights and, perhaps, a plugin."
    sys.argv = ['load', *arguments]
    exec(LOAD, {})  # noqa: S102 - the text above


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "A folder with six made-up cases and their manifest, an encoder of one's own, and weights of a pretraining."
    folder = tmp_path_factory.mktemp('own')
    listed(folder / 'images').rename(folder / 'images' / 'cohort.csv')
    (folder / 'my_encoders.py').write_text(PLUGIN)
    done = regpre('pretrain', 'known', '--shape', 16, 16, 16, '--encoder', 'cnn', *SMALL, '--steps', 1, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize('command', ['pretrain', 'finetune'])
def test_help(command):
    done = regpre(command, '--help')
    assert done.returncode == 0 and f'Usage: regpre {command}' in done.stdout and done.stderr == ''


@pytest.mark.parametrize('encoder', ENCODERS)
def test_each_encoder(encoder, place, tmp_path):
    "Pretrained on random pairs, fine-tuned from there, and loaded by a process that knows the file alone."
    name, settings, maps = ENCODERS[encoder]
    plugin = ('--plugin', place / 'my_encoders.py') if name == 'pyramid' else ()
    manifest = place / 'images' / 'cohort.csv'
    done = regpre('pretrain', 'before', '--manifest', manifest, '--encoder', name, '--settings', settings, '--steps', 2,
                  *plugin, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search('encoder.safetensors: 2 random pairs of 48x48x32 voxels, Dice 0', done.stdout)

    weights = tmp_path / 'before' / 'encoder.safetensors'
    done = regpre('finetune', 'after', '--manifest', manifest, '--encoder-weights', weights, '--steps', 2, *plugin,
                  cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    scores = pd.read_csv(tmp_path / 'after' / 'validation.csv')
    mean = scores[scores['state'] == 'registered'].groupby('pair')['dice'].mean().mean()
    assert re.search(rf'\nmean +0\.\d+ +{mean:.3f}\n', done.stdout), done.stdout

    model = str(tmp_path / 'after' / 'model.safetensors')
    loaded = call(load, model, *map(str, plugin[1:]), variables=environment())
    assert loaded.returncode == 0 and loaded.stdout.split()[1] == str(maps), loaded.stderr
    record = read_metadata(model)
    assert record['network']['encoder']['name'] == name and record['cohort'] == 'folder'
    assert record['images'] == {'shape': [48, 48, 32], 'spacing': [1, 1, 1],
                                'intensities': {'by': 'percentiles', 'low': 0.5, 'high': 99.5}}
    if plugin:
        alone = call(load, model, variables=environment())
        assert "import my_encoders, the module that adds it, or name it by --plugin" in alone.stderr


def test_weights_decide(place, tmp_path):
    "The encoder of the fine-tuning starts as the pretrained one; without it, as the seed says."
    arguments = '--manifest', place / 'images' / 'cohort.csv', '--steps', 1, '--learning-rate', 1e-12
    for folder, more in (('from', ('--encoder-weights', place / 'known' / 'encoder.safetensors')),
                         ('scratch', ('--encoder', 'cnn', *SMALL))):
        done = regpre('finetune', folder, *arguments, *more, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    known, *found = (read_tensors(path) for path in (place / 'known' / 'encoder.safetensors',
                     tmp_path / 'from' / 'model.safetensors', tmp_path / 'scratch' / 'model.safetensors'))
    far = [max((tensors[f'encoder.{name}'] - tensor).abs().max() for name, tensor in known.items())
           for tensors in found]
    assert far[0] < 1e-6 < far[1]


def test_a_fresh_python(place, tmp_path):
    "Nothing of this process is needed; the plugin is named as a module, where it can be found."
    arguments = '--shape', 16, 16, 16, '--encoder', 'pyramid', '--steps', 1
    done = regpre('pretrain', tmp_path / 'out', *arguments, '--plugin', place / 'my_encoders.py')
    assert done.returncode == 0, done.stderr
    arguments = 'finetune', tmp_path / 'after', '--manifest', place / 'images' / 'cohort.csv', '--steps', 1
    weights = '--encoder-weights', tmp_path / 'out' / 'encoder.safetensors'
    refused(regpre(*arguments, *weights), "'pyramid' is none of", 'import my_encoders', '--plugin')
    path = os.pathsep.join(filter(None, [str(place), os.environ.get('PYTHONPATH')]))
    done = subprocess.run([COMMAND, *map(str, arguments), *map(str, weights), '--plugin', 'my_encoders'],
                          env=environment(PYTHONPATH=path), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = subprocess.run([sys.executable, '-c', LOAD, tmp_path / 'after' / 'model.safetensors',
                             place / 'my_encoders.py'], env=environment(), capture_output=True, text=True)
    assert loaded.stdout == 'Pyramid 2\n', loaded.stderr


# Broken off

def broken_off(number, step, arguments, folder, cwd):
    "Start a command and send a signal after the checkpoint of a step; what it said."
    process = subprocess.Popen([COMMAND, *map(str, arguments)], cwd=cwd, env=environment(), text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    state, end = cwd / folder / 'last.json', time.monotonic() + 300
    while time.monotonic() < end and process.poll() is None:
        if state.exists() and json.loads(state.read_text())['step'] >= step: break
        time.sleep(0.01)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode not in (0, 2), said
    assert step <= json.loads(state.read_text())['step'] < 60
    return said


@long
def test_going_on(place, tmp_path):
    "Killed, then stopped by Ctrl-C, the same command goes on, and ends as one that was never broken off."
    images = '--manifest', place / 'images' / 'cohort.csv'
    arguments = 'finetune', 'out', *images, '--encoder', 'cnn', *SMALL, '--steps', 60, '--quiet'
    broken_off(signal.SIGKILL, 3, arguments, 'out', tmp_path)
    said = broken_off(signal.SIGINT, 9, arguments, 'out', tmp_path)
    saved, how = filter(None, said.splitlines())
    assert saved.startswith('out: stopped after step ') and 'of 60, which is saved in out' in saved
    assert how.startswith('Stopped; the same command goes on where it stopped: regpre finetune out --manifest ')
    refused(regpre(*arguments, '--seed', 1, cwd=tmp_path), 'out:', 'was begun with another seed')
    refused(regpre(*arguments, '--steps', 7, cwd=tmp_path), 'steps is 7 now and was 60')
    done = regpre(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shutil.move(tmp_path / 'out', tmp_path / 'broken')
    assert regpre(*arguments, cwd=tmp_path).stdout == done.stdout
    broken, whole = (read_tensors(tmp_path / folder / 'model.safetensors') for folder in ('broken', 'out'))
    assert all((broken[name] == tensor).all() for name, tensor in whole.items())
    assert regpre(*arguments, cwd=tmp_path).stdout == done.stdout  # what is finished is not trained again


# Refused

@pytest.mark.parametrize('arguments, mentions', [
    (('--encoder', 'resnet'), ("'resnet' is none of", 'cnn', '--plugin')),
    (('--settings', '{"chanels": 3}'), ("no setting 'chanels'",)),
    (('--settings', 'small'), ('--settings small: is no JSON object',)),
    (('--settings', '{"heads": [5, 5, 5]}'), ('SwinEncoder cannot be built', '5 heads do not divide')),
    (('--shape', 8, 16, 16), ('8x16x16 voxels',)),
    (('--like', 'absent.nii.gz'), ('absent.nii.gz',)),
    (('--learning-rate', 0), ('--learning-rate 0.0',)),
    (('--plugin', 'absent.py'), ('no Python file at absent.py',)),
    (('--plugin', 'no_such_module'), ('--plugin no_such_module: cannot be imported',)),
    (('--shape', 16, 16, 16, '--like', 'a.nii.gz'), ('give one of them',)),
])
def test_pretrain_refuses(arguments, mentions, tmp_path):
    refused(regpre('pretrain', 'out', '--steps', 1, *arguments, cwd=tmp_path), *mentions)


def test_wrong_weights(place, tmp_path):
    "Of another encoder, of a whole network, and of no encoder at all."
    arguments = 'finetune', 'out', '--manifest', place / 'images' / 'cohort.csv', '--steps', 1
    weights = '--encoder-weights', place / 'known' / 'encoder.safetensors'
    refused(regpre(*arguments, *weights, '--encoder', 'swin', cwd=tmp_path), "holds an encoder 'cnn'",
            "asks for 'swin'")
    refused(regpre(*arguments, *weights, '--settings', '{"channels": [8, 8]}', cwd=tmp_path), 'does not fit')
    refused(regpre(*arguments, '--encoder-weights', place / 'known' / 'best.safetensors', cwd=tmp_path),
            'does not say which encoder')
    (tmp_path / 'text.safetensors').write_text('weights')
    refused(regpre(*arguments, '--encoder-weights', 'text.safetensors', cwd=tmp_path), 'text.safetensors is damaged')


@pytest.mark.parametrize('change, mentions', [
    (lambda text: None, ('no such file',)),
    (lambda text: text.replace('labels', 'masks', 1), ('lacks labels',)),
    (lambda text: text.replace('3_image', '33_image'), ('line 5 (case case3)', 'there is no image file')),
    (lambda text: text.replace('case3', 'case2'), ('stands there twice',)),
    (lambda text: text.splitlines()[0] + '\n', ('cases where 2 of each are needed',)),
    (lambda text: text.replace('0_labels', 'broken'), ('case case0',)),
    (lambda text: text.replace('4_labels', 'empty'), ('line 6 (case case4)', 'holds none of the labels')),
])
def test_wrong_manifest(change, mentions, place, tmp_path):
    folder = tmp_path / 'images'
    shutil.copytree(place / 'images', folder)
    (folder / 'broken.nii.gz').write_bytes(b'no image')
    save(folder / 'empty.nii.gz', 0 * case('4')[1])
    text = change((folder / 'cohort.csv').read_text())
    if text is None: (folder / 'cohort.csv').unlink()
    else: (folder / 'cohort.csv').write_text(text)
    done = regpre('finetune', 'out', '--manifest', 'images/cohort.csv', '--steps', 1, cwd=tmp_path)
    refused(done, 'images/cohort.csv', *mentions)
    assert not (tmp_path / 'out' / 'own.json').exists()  # the corrected manifest may be given for the same folder


def test_no_manifest(tmp_path):
    "A file of another kind, and none at all."
    refused(regpre('finetune', 'out', '--manifest', 'cohort.xlsx', cwd=tmp_path), 'cohort.xlsx: is no CSV file')
    done = regpre('finetune', 'out', cwd=tmp_path)
    assert done.returncode == 2 and '--manifest' in done.stderr
