"The installed command: help, version, the list of runs, one run; and what make would do."
import json
import re
import subprocess
import sys
from importlib.metadata import version

import pandas as pd
import pytest
from commands import environment, hippocampus_like, installed, ixi_like, listed, regpre
from conftest import ROOT

from regpre_nb.data.cohorts import cohort_names, load_cohort
from regpre_nb.data.ixi import IXI_LABELS, IXI_TEST_LABELS
from regpre_nb.paper.jobs import run_folder
from regpre_nb.paper.studies import all_runs, finetuning_run, initial_run

NO_NETWORK = '''
import socket
def refuse(self, address, *others):
    raise AssertionError(f'a connection to {address} was opened')
socket.socket.connect = socket.socket.connect_ex = refuse
'''


@pytest.mark.parametrize('command', ['', 'reproduce', 'status', 'runs', 'dry-run', 'train', 'study', 'data',
                                     'data hippocampus', 'data list', 'data check', 'data convert', 'data download'])
def test_help(command):
    "Every command explains itself."
    done = regpre(*command.split(), '--help')
    assert done.returncode == 0 and 'Usage: regpre' in done.stdout and done.stderr == ''
    named = 'reproduce', 'status', 'runs', 'train', 'study', 'data'
    if not command: assert all(name in done.stdout for name in named)
    if command in ('reproduce', 'data check'): assert '`regpre data list`' in ' '.join(done.stdout.split())


def test_version():
    done = installed('--version')
    assert (done.returncode, done.stdout) == (0, version('regpre_nb') + '\n')


@pytest.mark.parametrize('arguments', [('nothing',), ('runs', '--seed', '-1'), ('train',), ('runs', '--profil', 'cpu')])
def test_usage(arguments):
    "A command that is typed wrongly ends with 2 and no traceback."
    done = regpre(*arguments)
    assert done.returncode == 2 and 'Traceback' not in done.stderr and 'Usage: regpre' in done.stderr


def test_runs():
    "Each run of every study stands in one line, what it starts from before it."
    done = regpre('runs', '--profile', 'smoke', '--seed', '3')
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    keys = [line.split()[0] for line in lines]
    assert keys == [run.key for run in all_runs('smoke', 'template', 3)]
    assert len(set(keys)) == len(keys) > 4
    for i, line in enumerate(lines):
        if found := re.search(r'from (pretrain-\S+)', line): assert found[1] in keys[:i]


def test_plan():
    "The paper's runs on IXI can be listed, with their lengths and exact settings, before IXI is there."
    done = regpre('runs', '--profile', 'paper', '--data', 'ixi')
    assert done.returncode == 0 and 'GPU hours' in done.stderr, done.stderr
    listed = {line.split()[0].rsplit('-', 1)[0]: line for line in done.stdout.splitlines()}
    assert {'baseline-5', 'sd-kl-100', 'random-only', 'pretrain-in-domain'} <= set(listed)
    assert '100750 steps' in listed['sd-kl-100'] and '403 images' in listed['sd-kl-100']
    assert '242 images' in listed['baseline-60'] and '20 images' in listed['baseline-5']
    assert not [line for line in done.stdout.splitlines() if ' 0.0 h ' in line and ' 0 steps' not in line]
    assert 'other' in done.stderr and 'contents' in done.stderr  # keys with the files there
    settings = regpre('runs', '--profile', 'paper', '--data', 'ixi', '--json').stdout.splitlines()
    assert [json.loads(line)['name'] for line in settings] == list(listed)
    assert {json.loads(line)['task']['shape'][2] for line in settings if '"pretrain-' in line.split(',')[0]} == {224}


def test_dry_run():
    "Every run is built and takes a step; runs that do the same share it."
    done = regpre('dry-run', '--profile', 'smoke', '--data', 'template')
    assert done.returncode == 0 and 'Every run can be built' in done.stdout, done.stderr
    lines = done.stdout.splitlines()[:-1]
    assert [line.split()[0] for line in lines] == [run.key for run in all_runs('smoke', 'template')]
    assert any('the same as baseline-100' in line for line in lines)


def test_train(tmp_path):
    "The unregistered pairs are scored without any connection; a second call changes nothing."
    data, root, hook = (tmp_path / name for name in ('data', 'out', 'hook'))
    for folder in (data, hook): folder.mkdir()
    (hook / 'sitecustomize.py').write_text(NO_NETWORK)
    hippocampus_like(data)
    run = initial_run('smoke', load_cohort('hippocampus', data))
    asked = 'train', run.key, '--profile', 'smoke', '--data', 'hippocampus', '--root', root
    done = installed(*asked, REGPRE_DATA=data, PYTHONPATH=hook)
    folder = run_folder(run, root)
    assert (done.returncode, done.stdout) == (0, f'{folder}\n'), done.stderr
    scores = pd.read_csv(folder / 'per_subject.csv')
    assert len(scores.drop_duplicates(['moving', 'fixed'])) == 6 and scores['dice'].between(0.05, 0.999).all()
    assert json.loads((folder / 'run.json').read_text())['key'] == run.key
    before = {path: path.stat().st_mtime_ns for path in folder.glob('[!.]*')}
    assert regpre(*asked, REGPRE_DATA=data).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in folder.glob('[!.]*')} == before


def test_train_on_ixi(tmp_path):
    "In the paper's format, atlas to subject: trained, and scored on the 30 structures of the paper."
    ixi_like(tmp_path)
    run = finetuning_run('smoke', load_cohort('ixi', tmp_path), 0)
    done = regpre('train', run.key, '--profile', 'smoke', '--data', 'ixi', '--root', tmp_path, REGPRE_DATA=tmp_path)
    assert done.returncode == 0, done.stderr
    scores = pd.read_csv(run_folder(run, tmp_path) / 'per_subject.csv')
    assert set(scores['structure']) == {IXI_LABELS[label] for label in IXI_TEST_LABELS} and len(scores) == 3 * 30
    assert set(scores['moving']) == {'atlas'} and list(scores['fixed'].unique())[-1] == 'Test/subject_3'
    assert scores['dice'].between(0.05, 0.999).all()
    assert 'made-up' in json.loads((run_folder(run, tmp_path) / 'run.json').read_text())['data']


def test_train_on_a_manifest(tmp_path):
    "Own files, subject to subject."
    listed(tmp_path / 'data')
    run = initial_run('smoke', load_cohort('folder', tmp_path / 'data'))
    done = regpre('train', run.key, '--profile', 'smoke', '--data', 'folder', '--root', tmp_path,
                  REGPRE_DATA=tmp_path / 'data')
    assert done.returncode == 0, done.stderr
    scores = pd.read_csv(run_folder(run, tmp_path) / 'per_subject.csv')
    assert set(scores['structure']) == {'label 1', 'label 2'} and scores['dice'].between(0.05, 0.999).all()


def test_data_list(tmp_path):
    "Each cohort in one line: its name, whether its files are there, what it is; nothing is made for that."
    hippocampus_like(tmp_path)
    done = regpre('data', 'list', REGPRE_DATA=tmp_path, REGPRE_CACHE=tmp_path / 'cache')
    assert (done.returncode, done.stderr) == (0, '')
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert tuple(lines) == cohort_names()
    here = {name for name, line in lines.items() if ' present ' in line}
    assert here == {'template', 'hippocampus', 'lung_phantom'} and 'Real MR crops' in lines['hippocampus']
    assert not (tmp_path / 'cache').exists()


def test_data_of_other_cohorts(tmp_path):
    "What a cohort has no converter or download for ends with one sentence that names those that have."
    done = regpre('data', 'convert', 'template', tmp_path, tmp_path / 'out')
    assert done.returncode == 2 and done.stderr.endswith('can be done are ixi.\n'), done.stderr
    done = regpre('data', 'download', 'ixi', '--folder', tmp_path)
    assert done.returncode == 2 and done.stderr.endswith('can be done are hippocampus, ixi40.\n'), done.stderr


def test_data_check(tmp_path):
    "Says which data it looked at and that they can be used; needs no variable where the folder is given."
    ixi_like(tmp_path)
    done = regpre('data', 'check', 'ixi', tmp_path)
    assert done.returncode == 0 and done.stderr == '', done.stderr
    assert 'atlas 1 of 1, Train 4 of 4, Val 2 of 2, Test 3 of 3' in done.stdout and 'made-up' in done.stdout
    hippocampus_like(tmp_path)
    listed(tmp_path)
    for name in ('hippocampus', 'folder'):
        done = regpre('data', 'check', name, REGPRE_DATA=tmp_path)
        assert done.returncode == 0 and f'Cohort {name}' in done.stdout, done.stderr


def test_data_convert(tmp_path):
    "The same images and labels come out of NIfTI; a second call writes nothing."
    ixi_like(tmp_path, counts=(2, 1, 1))
    asked = 'data', 'convert', 'ixi', tmp_path, tmp_path / 'nifti'
    done = regpre(*asked)
    assert done.returncode == 0 and 'nifti: written' in done.stdout and 'identity affine' in done.stderr, done.stderr
    assert not list((tmp_path / 'nifti').rglob('.unfinished*'))
    pickled, written = (load_cohort('ixi', tmp_path / name) for name in ('IXI_data', 'nifti'))
    assert written.cases == pickled.cases and len(written.cases) == 5
    for case in written.cases:
        assert written.image(case).equal(pickled.image(case)) and written.labels(case).equal(pickled.labels(case))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / 'nifti').rglob('*.gz')}
    assert regpre(*asked).returncode == 0 and len(before) == 10
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_the_block_blocks(tmp_path):
    "The test above would notice a connection."
    (tmp_path / 'sitecustomize.py').write_text(NO_NETWORK)
    code = 'import urllib.request; urllib.request.urlopen("http://127.0.0.1:9")'
    done = subprocess.run([sys.executable, '-c', code], env=environment(PYTHONPATH=tmp_path), capture_output=True,
                          text=True)
    assert 'a connection to' in done.stderr


def test_template_is_offline(tmp_path):
    "The template comes with the installed packages."
    (tmp_path / 'sitecustomize.py').write_text(NO_NETWORK)
    run = initial_run('smoke', load_cohort('template'))
    done = installed('train', run.key, '--profile', 'smoke', '--root', tmp_path / 'out', PYTHONPATH=tmp_path)
    assert done.returncode == 0 and (run_folder(run, tmp_path / 'out') / 'run.json').is_file(), done.stderr


@pytest.mark.parametrize('target', 'help setup test reproduce tables lab docs prepare clean'.split())
def test_make(target):
    "Each target can be made from what stands in the project, and is not taken for a file."
    done = subprocess.run(['make', '-n', target], cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0 and 'is up to date' not in done.stdout, done.stdout + done.stderr
    wanted = {'test': 'pytest tests', 'tables': 'regpre tables --profile',
              'reproduce': 'regpre reproduce --profile cpu --data template --seed 0',
              'lab': 'jupyter lab', 'docs': 'tools/docs.py', 'prepare': 'nbdev_export', 'clean': 'rm -rf'}
    assert wanted.get(target, '') in done.stdout


def test_make_passes_options():
    done = subprocess.run(['make', '-n', 'reproduce', 'PROFILE=smoke', 'DATA=hippocampus', 'SEED=4'], cwd=ROOT,
                          env=environment(), capture_output=True, text=True)
    assert 'regpre reproduce --profile smoke --data hippocampus --seed 4' in done.stdout
