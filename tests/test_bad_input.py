"What a user gives and the package cannot use ends the installed command with one clear sentence and exit code 2."
import re
import shutil
import subprocess

import numpy as np
import pytest
from commands import case, hippocampus_like, name, regpre, save
from conftest import ROOT

from regpre_nb.cli import main
from regpre_nb.cohorts import load_cohort
from regpre_nb.runs import finetuning_run, initial_run, pretraining_run, run_folder

BAD = name('004')  # the case that is spoilt


def refused(done, *mentions):
    "One line on standard error, exit code 2, nothing on standard output; it mentions what it should."
    assert done.returncode == 2, f'exit code {done.returncode}: {done.stdout}{done.stderr[-3000:]}'
    assert done.stdout == ''
    message = done.stderr
    assert re.fullmatch(r'regpre: [^\n]+\.\n', message), message
    missing = [text for text in mentions if str(text) not in message]
    assert not missing, f'{missing} is not in: {message}'
    assert re.search(r'[;:,.] \w', message), f'says nothing about what to do: {message}'


@pytest.fixture(scope='session')
def sound(tmp_path_factory):
    "A data folder that nothing is wrong with."
    folder = tmp_path_factory.mktemp('sound')
    hippocampus_like(folder)
    return folder


@pytest.fixture(scope='session')
def keys(sound):
    "The keys of three smoke runs."
    cohort = load_cohort('hippocampus', sound)
    return {'initial': initial_run('smoke', cohort, 0), 'pretrain': pretraining_run('smoke', cohort, 0),
            'finetune': finetuning_run('smoke', cohort, 0, ablation='SD w/ KL')}


@pytest.fixture
def train(keys, tmp_path):
    "Train a smoke run on the cohort in a data folder."
    def command(run, data):
        return regpre('train', keys[run].key, '--profile', 'smoke', '--data', 'hippocampus', '--root', tmp_path / 'out',
                      REGPRE_DATA=data)
    return command


# Names

def test_unknown_profile(tmp_path):
    refused(regpre('reproduce', '--profile', 'smok', '--root', ROOT), "'smok'", 'smoke, cpu, paper')


def test_unknown_data():
    refused(regpre('reproduce', '--data', 'hippo', '--root', ROOT), 'hippo:', 'folder, hippocampus, ixi, labelmaps, template')


@pytest.mark.parametrize('command', [('runs',), ('train', 'initial')], ids=lambda command: command[0])
def test_unknown_names_elsewhere(command):
    refused(regpre(*command, '--profile', 'smok'), "'smok'", 'smoke, cpu, paper')


def test_unknown_run(tmp_path):
    refused(regpre('train', 'baseline-100-00000000', '--profile', 'smoke', '--root', tmp_path),
            "'baseline-100-00000000'", '`regpre runs`')


def test_unknown_study():
    refused(regpre('study', '9_nothing', '--profile', 'smoke', '--root', ROOT), "'9_nothing'", '2_ablation')


def test_not_a_clone(tmp_path):
    refused(regpre('reproduce', '--profile', 'smoke', cwd=tmp_path), tmp_path, 'Snakefile')


# Folders

def test_data_unset():
    refused(regpre('reproduce', '--data', 'hippocampus', '--root', ROOT), 'REGPRE_DATA is not set')


def test_data_folder_missing(tmp_path):
    absent = tmp_path / 'absent'
    refused(regpre('reproduce', '--data', 'hippocampus', '--root', ROOT, REGPRE_DATA=absent), absent, 'no such folder')


def test_data_folder_empty(train, tmp_path):
    refused(train('initial', tmp_path), tmp_path, 'holds no hippocampus data', '`regpre data hippocampus`')


def test_no_folder_for_download():
    refused(regpre('data', 'hippocampus'), '--folder')


@pytest.mark.parametrize('file', ['runs', 'runs/smoke-hippocampus'])
def test_runs_is_a_file(train, sound, tmp_path, file):
    path = tmp_path / 'out' / file
    path.parent.mkdir(parents=True)
    path.write_text('not a folder\n')
    refused(train('initial', sound), path)
    assert path.read_text() == 'not a folder\n'


@pytest.mark.parametrize('file', ['runs', 'results'])
def test_project_folder_is_a_file(tmp_path, file):
    "Said before anything is trained."
    shutil.copy(ROOT / 'Snakefile', tmp_path)
    (tmp_path / file).write_text('not a folder\n')
    refused(regpre('reproduce', '--profile', 'smoke', '--root', tmp_path), tmp_path / file)


# Files

def truncate(path):
    "Keep the first half of a file."
    content = path.read_bytes()
    path.write_bytes(content[:len(content) // 2])


def with_nan(image):
    image[3, 4, 5] = np.nan
    return image


def replace_by(part, voxels, affine=None):
    "Replace one file of the case."
    return lambda root: save(root / part / BAD, voxels, affine)


IMAGE, LABELS = case('004')
SPOILT = {  # what is wrong -> (how to do it, what the message mentions)
    'image is no NIfTI': (lambda root: (root / 'images' / BAD).write_text('<html>'), [f'images/{BAD}', 'NIfTI']),
    'image truncated': (lambda root: truncate(root / 'images' / BAD), [f'images/{BAD}', 'NIfTI']),
    'shapes differ': (replace_by('labels', LABELS[:-1]), [f'labels/{BAD}', '(34, 48, 32)', '(33, 48, 32)']),
    'affines differ': (replace_by('labels', LABELS, np.diag([1, 1, 1.2, 1])), [f'labels/{BAD}', '0.2']),
    'NaN in the image': (replace_by('images', with_nan(IMAGE.copy())), [f'images/{BAD}', '1 of 52224', 'NaN']),
    'image constant': (replace_by('images', np.full_like(IMAGE, 7)), [f'images/{BAD}', 'same value']),
    'label map empty': (replace_by('labels', 0*LABELS), [f'labels/{BAD}', 'no voxel', 'anterior', 'posterior']),
    'labels not whole': (replace_by('labels', LABELS*np.float32(0.5)), [f'labels/{BAD}', 'whole numbers']),
}
ALSO_SPOILT = {
    'label map truncated': (lambda root: truncate(root / 'labels' / BAD), [f'labels/{BAD}', 'NIfTI']),
    'label map missing': (lambda root: (root / 'labels' / BAD).unlink(), [BAD, 'only']),
    'one label absent': (replace_by('labels', LABELS.clip(0, 1)), [f'labels/{BAD}', '2 (posterior)']),
    'unknown label': (replace_by('labels', LABELS*2), [f'labels/{BAD}', '4']),
    'four dimensions': (replace_by('images', np.stack([IMAGE, IMAGE], -1)), [f'images/{BAD}', '34, 48, 32, 2']),
    'split without a column': (lambda root: (root / 'split.csv').write_text('file,part\na,b\n'), ['split.csv', 'case']),
    'pair of an absent case': (lambda root: (root / 'eval_pairs.csv').write_text('fixed,moving\nhippocampus_998.nii.gz,'
                                                                                 'hippocampus_999.nii.gz\n'),
                               ['hippocampus_998.nii.gz']),
}


@pytest.mark.parametrize('wrong', SPOILT)
def test_spoilt_file(train, tmp_path, wrong):
    "Through the installed command."
    root = hippocampus_like(tmp_path)
    spoil, mentions = SPOILT[wrong]
    spoil(root)
    refused(train('initial', tmp_path), root, *mentions)


@pytest.mark.parametrize('wrong', ALSO_SPOILT)
def test_also_spoilt_file(keys, tmp_path, monkeypatch, capsys, wrong):
    "Through its entry point in this process, which saves starting Python."
    root = hippocampus_like(tmp_path)
    spoil, mentions = ALSO_SPOILT[wrong]
    spoil(root)
    monkeypatch.setenv('REGPRE_DATA', str(tmp_path))
    asked = ['train', keys['initial'].key,
             '--profile', 'smoke', '--data', 'hippocampus', '--root', str(tmp_path / 'out')]
    monkeypatch.setattr('sys.argv', ['regpre', *asked])
    with pytest.raises(SystemExit) as stopped: main()
    done = subprocess.CompletedProcess(asked, stopped.value.code, *capsys.readouterr())
    refused(done, root, *mentions)


def test_reproduce_reads_all_cases_first(tmp_path):
    "A bad file is named before anything is trained."
    root = hippocampus_like(tmp_path)
    truncate(root / 'images' / BAD)
    shutil.copy(ROOT / 'Snakefile', tmp_path)
    refused(regpre('reproduce', '--data', 'hippocampus', '--root', tmp_path, REGPRE_DATA=tmp_path),
            root / 'images' / BAD)
    assert not (tmp_path / 'runs').exists()


# Checkpoints

def test_truncated_checkpoints(train, keys, sound, tmp_path):
    "Neither a half checkpoint nor half of an encoder is taken for a whole one, and each is named."
    assert train('pretrain', sound).returncode == 0
    folder = run_folder(keys['pretrain'], tmp_path / 'out')
    encoder, last = folder / 'encoder.safetensors', folder / 'last.safetensors'
    truncate(encoder)
    refused(train('finetune', sound), encoder, 'delete')
    (folder / 'run.json').unlink()  # as if the run had been killed
    truncate(last)
    refused(train('pretrain', sound), last, 'delete')
    last.unlink()
    done = train('pretrain', sound)
    assert done.returncode == 0 and (folder / 'run.json').is_file(), done.stderr
    assert train('finetune', sound).returncode == 0
