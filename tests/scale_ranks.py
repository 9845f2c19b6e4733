"""Two processes for one run as users start them: by the command, by the Snakefile, with one of them killed.

    python -m pytest -n 0 tests/scale_ranks.py    a few minutes; `make test` has the quick part, tests/test_ranks.py
"""
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from commands import BIN, COMMAND, environment

from regpre_nb.learn.training import read_log, read_metadata, read_tensors

ROOT = Path(__file__).resolve().parents[1]
PROFILE = '''
"The profile smoke with two batches a step, which two processes can share, and more steps."
from dataclasses import replace

from regpre_nb.paper.profiles import PROFILES, load_profile


def wide(cohort):
    found = load_profile('smoke', cohort)
    training = replace(found.pretrain_training, accumulate=2, steps=80, checkpoint_every=20, validate_every=40)
    return replace(found, pretrain_training=training, finetune_training=replace(training, steps=8))


PROFILES['wide'] = wide
'''


@pytest.fixture(scope='module')
def variables(tmp_path_factory):
    "The environment of a machine on which a package that adds the profile is installed."
    site = tmp_path_factory.mktemp('site')
    info = site / 'wide-1.0.dist-info'
    info.mkdir()
    (info / 'METADATA').write_text('Metadata-Version: 2.1\nName: wide\nVersion: 1.0\n')
    (info / 'entry_points.txt').write_text('[regpre_nb.paper]\nwide = wide_profile\n')
    (site / 'wide_profile.py').write_text(PROFILE)
    path = os.pathsep.join([str(BIN), os.environ['PATH']])
    return environment(PYTHONPATH=os.pathsep.join([str(site), str(ROOT)]), PATH=path)


@pytest.fixture(scope='module')
def keys(variables):
    "Name of a run -> its key."
    listed = subprocess.run([COMMAND, 'runs', '--profile', 'wide'], env=variables, capture_output=True, text=True)
    found = [line.split()[0] for line in listed.stdout.splitlines()]
    return {key.rpartition('-')[0]: key for key in found}


def start(key, processes, folder, variables):
    "`regpre train` in a folder."
    folder.mkdir(exist_ok=True)
    command = [COMMAND, 'train', key, '--profile', 'wide', '--processes', str(processes)]
    return subprocess.Popen(command, cwd=folder, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True)


def done(started):
    "What a command said, once it has ended well."
    out, err = started.communicate(timeout=900)
    assert started.returncode == 0, err
    return out, err


@pytest.fixture(scope='module')
def alone(tmp_path_factory, variables, keys):
    "The folder of a run, and of what it starts from, by one process."
    folder = tmp_path_factory.mktemp('alone')
    done(start(keys['sd-no-kl-100'], 1, folder, variables))
    return folder


def assert_same_runs(ours, theirs):
    "All weights of all runs in two folders."
    files = sorted(path.relative_to(theirs) for path in theirs.glob('runs/*/*/*.safetensors'))
    assert files == sorted(path.relative_to(ours) for path in ours.glob('runs/*/*/*.safetensors')) and len(files) == 6
    for file in files:
        one, other = read_tensors(ours / file), read_tensors(theirs / file)
        apart = {name: (one[name] - other[name]).abs().max().item() for name in other}
        assert max(apart.values()) < 1e-5, (file, max(apart, key=apart.get), max(apart.values()))
    ours, theirs = (next(folder.glob('runs/*/sd-no-kl-100-*/per_subject.csv')) for folder in (ours, theirs))
    assert ours.read_text() == theirs.read_text()


def test_the_command(alone, tmp_path, variables, keys):
    "A pretraining, in which heads have no gradient, and the run that starts from it."
    out, _ = done(start(keys['sd-no-kl-100'], 2, tmp_path, variables))
    assert out.splitlines() == [f'runs/wide-template/{keys["sd-no-kl-100"]}']
    for path in tmp_path.glob('runs/*/*/last.safetensors'): assert read_metadata(path)['processes'] == 2
    assert_same_runs(tmp_path, alone)


def process_of_rank(started, rank):
    "The process that a launcher gave this rank."
    for process in psutil.Process(started.pid).children(recursive=True):
        if process.environ().get('RANK') == str(rank): return process
    raise AssertionError('there is none')


@pytest.mark.parametrize('rank', [0, 1])
def test_a_killed_process(rank, alone, tmp_path, variables, keys):
    "The command ends within a minute and says what to do; the run goes on with one process."
    started, folder = start(keys['sd-no-kl-100'], 2, tmp_path, variables), keys['pretrain-sd-no-kl']
    last = tmp_path / 'runs' / 'wide-template' / folder / 'last.safetensors'
    while not last.exists():
        assert started.poll() is None, started.communicate()[1]
        time.sleep(0.05)
    process_of_rank(started, rank).send_signal(signal.SIGKILL)
    begun = time.monotonic()
    _, err = started.communicate(timeout=300)
    assert (started.returncode, time.monotonic() - begun < 60) == (2, True)
    assert 'its 2 processes ended early, for a reason that stands above' in err.splitlines()[-1]
    assert 'Signal 9 (SIGKILL) received by PID' in err
    assert read_log(last.with_name('log.jsonl'))['step'].max() < 80
    done(start(keys['sd-no-kl-100'], 1, tmp_path, variables))
    assert_same_runs(tmp_path, alone)


def test_the_snakefile(alone, tmp_path, variables, keys):
    "With gpus=2 a run whose steps two processes can share gets two."
    for name in ('Snakefile', 'nbs'):
        copy = shutil.copy if (ROOT / name).is_file() else shutil.copytree
        copy(ROOT / name, tmp_path / name)
    target = f'runs/wide-template/{keys["sd-no-kl-100"]}/run.json'
    command = [sys.executable, '-m', 'snakemake', '--cores', '2', target, '--config', 'profile=wide', 'data=template',
               'seed=0', 'gpus=2']
    ran = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert_same_runs(tmp_path, alone)
