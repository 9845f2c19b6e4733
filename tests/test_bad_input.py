"What a user gives and the package cannot use ends the installed command with one clear sentence and exit code 2."
import os
import pickle
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from commands import case, hippocampus_like, ixi_like, listed, name, regpre, save
from conftest import ROOT

from regpre_nb.data.cohorts import load_cohort
from regpre_nb.data.phantom import make_phantom
from regpre_nb.paper.jobs import run_folder
from regpre_nb.paper.studies import finetuning_run, initial_run, pretraining_run
from regpre_nb.use.cli import main

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
    pretrain = pretraining_run('smoke', cohort, 0)
    return {'initial': initial_run('smoke', cohort), 'pretrain': pretrain,
            'finetune': finetuning_run('smoke', cohort, 0, encoder=pretrain)}


@pytest.fixture
def train(keys, tmp_path):
    "Train a smoke run on the cohort in a data folder."
    def command(run, data):
        return regpre('train', keys[run].key, '--profile', 'smoke', '--data', 'hippocampus', '--root', tmp_path / 'out',
                      REGPRE_DATA=data)
    return command


# Names

def test_unknown_profile(tmp_path):
    refused(regpre('reproduce', '--profile', 'smok', '--root', ROOT), "'smok'", 'smoke, cpu, night, gpu, paper')


def test_unknown_data():
    refused(regpre('reproduce', '--data', 'hippo', '--root', ROOT), 'hippo:',
            'folder, hippocampus, ixi, ixi40, labelmaps, labelmaps_2mm, lung_pair, lung_phantom, template')


@pytest.mark.parametrize('command', [('runs',), ('train', 'initial')], ids=lambda command: command[0])
def test_unknown_names_elsewhere(command):
    refused(regpre(*command, '--profile', 'smok'), "'smok'", 'smoke, cpu, night, gpu, paper')


def test_unknown_run(tmp_path):
    refused(regpre('train', 'baseline-100-00000000', '--profile', 'smoke', '--root', tmp_path),
            "'baseline-100-00000000'", '`regpre runs --profile smoke --data template`')


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


# IXI

class Attack:
    "Pickled as a call of the system."

    def __init__(self, command): self.command = command
    def __reduce__(self): return os.system, (self.command,)


def spoilt_ixi(folder, **changes):
    "A made-up IXI with one fault in each of several files, and the atlas' image and labels."
    root = ixi_like(folder, **changes)
    image, labels = (voxels.copy() for voxels in load_cohort('ixi', folder).read('atlas'))
    trace = folder / 'trace'
    wrong = {'Train/subject_1': (with_nan(image.copy()), labels), 'Train/subject_2': (image[1:], labels),
             'Train/subject_3': (2*image, labels), 'Train/subject_4': Attack(f'touch {trace}'),
             'Val/subject_1': (image, np.where(labels == 17, 99, labels.astype(np.int16))),
             'Test/subject_1': (image, 0*labels)}
    for file, content in wrong.items(): (root / f'{file}.pkl').write_bytes(pickle.dumps(content))
    truncate(root / 'Test' / 'subject_2.pkl')
    (root / 'Test' / 'subject_3.pkl').rename(root / 'Test' / 'subject3.pkl')
    return root, trace


def test_every_problem_of_ixi_is_listed(tmp_path):
    "File by file on standard output, a sentence on standard error; what a pickle asks to run is not run."
    root, trace = spoilt_ixi(tmp_path)
    done = regpre('data', 'check', 'ixi', tmp_path)
    assert done.returncode == 2 and re.fullmatch(r'regpre: [^\n]+\.\n', done.stderr), done.stderr
    assert '9 problems' in done.stderr and not trace.exists()
    lines = done.stdout.splitlines()
    assert lines[0] == f'{root}: atlas 1 of 1, Train 4 of 4, Val 2 of 2, Test 2 of 3' and len(lines) == 12
    wanted = {'Train/subject_1.pkl': 'NaN', 'Train/subject_2.pkl': '(31, 48, 32)',
              'Train/subject_3.pkl': 'not in [0, 1]', 'Train/subject_4.pkl': 'system',
              'Val/subject_1.pkl': '[99]', 'Test/subject_1.pkl': 'none of the 30',
              'Test/subject_2.pkl': 'cannot be read', 'Test/subject3.pkl': 'not named', 'Test:': '2 of 3'}
    for file, words in wanted.items():
        assert [line for line in lines if line.startswith(file) and words in line], (file, words, done.stdout)
    (root / 'atlas.pkl').unlink()
    assert 'atlas.pkl: ' in regpre('data', 'check', 'ixi', tmp_path).stdout


def test_ixi_is_checked_first(tmp_path):
    "Before anything is trained, and with the paper's numbers of cases."
    root = ixi_like(tmp_path, marked=False)
    shutil.copy(ROOT / 'Snakefile', tmp_path)
    refused(regpre('reproduce', '--data', 'ixi', '--root', tmp_path, REGPRE_DATA=tmp_path),
            root, '4 of 403', '`regpre data check ixi`')
    assert not (tmp_path / 'runs').exists()


def test_bad_ixi_ends_a_run(tmp_path):
    "A single run stops at the first file that cannot be used."
    root, trace = spoilt_ixi(tmp_path, marked=False)
    run = initial_run('smoke', load_cohort('ixi', tmp_path))
    done = regpre('train', run.key, '--profile', 'smoke', '--data', 'ixi', '--root', tmp_path, REGPRE_DATA=tmp_path)
    refused(done, root / 'Test' / 'subject_1.pkl', 'none of the 30')
    assert not trace.exists()


@pytest.mark.parametrize('arguments, mentions', [
    (('check', 'moon'), ['moon', 'template']), (('check', 'ixi'), ['REGPRE_DATA']),
    (('convert', 'moon', '.', 'out'), ['moon', 'ixi']), (('convert', 'ixi', '.', 'out'), ['no IXI data']),
    (('convert', 'ixi', 'absent', 'out'), ['absent', 'no such folder']), (('check', 'folder', '.'), ['manifest.csv']),
    (('check', 'dirlab', '.'), ['no DIR-Lab'])],
    ids=lambda given: ' '.join(given) if isinstance(given, tuple) else '')
def test_data_commands(tmp_path, arguments, mentions):
    refused(regpre('data', *arguments, cwd=tmp_path), *mentions)
    assert not (tmp_path / 'out').exists()


def test_convert_stops_at_a_bad_file(tmp_path):
    root, trace = spoilt_ixi(tmp_path)
    refused(regpre('data', 'convert', 'ixi', tmp_path, tmp_path / 'nifti'), root / 'Train' / 'subject_1.pkl', 'NaN')
    assert not list((tmp_path / 'nifti').rglob('*.gz'))


# Lungs in DIR-Lab's format

def rewritten(edit):
    "A function that replaces the lines of a file."
    return lambda path: path.write_text('\n'.join(edit(path.read_text().splitlines())) + '\n')


def shifted(lines):
    "The same points, counted from 0; the first one lies in the first plane."
    points = [[int(word) - 1 for word in line.split()] for line in lines]
    return ['\t'.join(map(str, point)) for point in [[0, *points[0][1:]], *points[1:]]]


LUNGS = {  # what is wrong -> (file, what is done to it, what the message mentions)
    '299 rows': ('T00_xyz.txt', rewritten(lambda lines: lines[:-1]), ['299', '300']),
    'commas': ('T00_xyz.txt', rewritten(lambda lines: [','.join(line.split()) for line in lines]),
               ["','", 'spaces or tabs']),
    'from 0': ('T50_xyz.txt', rewritten(shifted), ['from 0', 'from 1']),
    'swapped axes': ('T50_xyz.txt', rewritten(lambda lines: [' '.join(line.split()[::-1]) for line in lines]),
                     ['outside the image', 'if the columns were z x y']),
    'out of range': ('T50_xyz.txt', rewritten(lambda lines: ['1 2 4000', *lines[1:]]), ['4000']),
    'no numbers': ('T50_xyz.txt', rewritten(lambda lines: ['x y z', *lines[1:]]), ['x y z']),
    'empty file': ('T00_xyz.txt', rewritten(lambda lines: []), ['empty']),
    'no landmarks': ('T50_xyz.txt', Path.unlink, ['landmarks', 'T50']),
    'cut image': ('T00_s.img', truncate, ['bytes']),
    'no image': ('T50_s.img', Path.unlink, ['image', 'T50']),
}


@pytest.fixture(scope='module')
def breathing(tmp_path_factory):
    "A small phantom in DIR-Lab's format."
    return make_phantom(tmp_path_factory.mktemp('lung') / 'dirlab', scale=8, cases=1)


@pytest.mark.parametrize('wrong', LUNGS)
def test_spoilt_lungs(breathing, tmp_path, wrong):
    "Each fault of a case gets a line of its own."
    ending, spoil, mentions = LUNGS[wrong]
    shutil.copytree(breathing, tmp_path / 'dirlab')
    path, = (tmp_path / 'dirlab').rglob(f'*{ending}')
    spoil(path)
    done = regpre('data', 'check', 'dirlab', tmp_path)
    assert done.returncode == 2 and 'listed above' in done.stderr, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith('case 1:'))
    for mention in mentions: assert mention in line, line


# A manifest

OWN = {  # what is wrong -> (file, what is in it instead, what the message mentions)
    'no manifest': ('manifest.csv', None, ['manifest.csv', 'case, image and labels']),
    'file missing': ('3_labels.nii.gz', None, ['line 5 (case case3)', '3_labels.nii.gz']),
    'grids differ': ('3_labels.nii.gz', LABELS[1:], ['line 5 (case case3)', '(33, 48, 32)']),
    'label map empty': ('3_labels.nii.gz', 0*LABELS, ['line 5 (case case3)', 'none of the labels [1, 2]']),
    'NaN': ('3_image.nii.gz', with_nan(IMAGE.copy()), ['line 5 (case case3)', 'NaN']),
}


@pytest.mark.parametrize('wrong', OWN)
def test_bad_manifest(tmp_path, wrong):
    "The row is named."
    listed(tmp_path)
    file, content, mentions = OWN[wrong]
    (tmp_path / file).unlink()
    if content is not None: save(tmp_path / file, content)
    refused(regpre('data', 'check', 'folder', tmp_path), tmp_path, *mentions)


# Checkpoints

def test_truncated_checkpoints(train, keys, sound, tmp_path):
    "Neither a half checkpoint nor half of an encoder is taken for a whole one: it is named, put aside and made anew."
    assert train('pretrain', sound).returncode == 0
    folder = run_folder(keys['pretrain'], tmp_path / 'out')
    encoder, last = folder / 'encoder.safetensors', folder / 'last.safetensors'
    whole = encoder.read_bytes()
    truncate(encoder)
    done = train('finetune', sound)
    assert done.returncode == 0 and f'{folder.name}: its weights encoder.safetensors are damaged' in done.stderr
    assert encoder.read_bytes() == whole
    assert len(folder.with_name(f'{folder.name}-before-1').joinpath(encoder.name).read_bytes()) < len(whole)
    for file in ('run.json', 'made_from.json', encoder.name): (folder / file).unlink()  # as if it had been killed
    truncate(last)
    done = train('pretrain', sound)
    assert done.returncode == 0 and 'last.safetensors is damaged' in done.stderr and encoder.read_bytes() == whole
