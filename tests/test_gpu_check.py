"The script for a machine with a GPU, whole and small, on the CPU of this one."
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from commands import environment, hippocampus_like
from conftest import ROOT, long
from safetensors.torch import save_file

from regpre_nb.data.cohorts import load_cohort
from regpre_nb.method.settings import sentence_of

sys.path.append(str(ROOT / 'tools'))
import gpu_check  # noqa: E402

MISSING = (  # from a machine with PyTorch for GPUs and little else
    'nilearn', 'SimpleITK', 'pooch', 'fastcore', 'nbdev', 'papermill', 'nbformat', 'nbconvert', 'monai', 'execnb',
    'IPython', 'snakemake', 'neurite', 'ants', 'convexAdam', 'picsl_greedy', 'voxelmorph', 'skimage', 'pydantic')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    "A data folder as it travels: packed from one that holds more."
    original, packed = (tmp_path_factory.mktemp(name) for name in ('original', 'packed'))
    (hippocampus_like(original) / 'README.md').write_text('not needed')
    os.environ['REGPRE_DATA'], before = str(original), os.environ.get('REGPRE_DATA')
    try: gpu_check.pack(['hippocampus'], packed)
    finally:
        del os.environ['REGPRE_DATA']
        if before is not None: os.environ['REGPRE_DATA'] = before
    return original, packed


def blocked(folder: Path) -> Path:
    "A folder for PYTHONPATH with which Python cannot import what the machine lacks."
    folder.mkdir()
    (folder / 'sitecustomize.py').write_text(f'''from importlib.machinery import PathFinder
found = PathFinder.find_spec
def find_spec(cls, name, path=None, target=None):
    return None if name.partition('.')[0] in {MISSING} else found(name, path, target)
PathFinder.find_spec = classmethod(find_spec)
''')
    return folder


def checked(*arguments: object, data: Path, lacking: Path) -> str:
    "What a call of the script prints, on a machine that lacks some packages."
    variables = environment(REGPRE_DATA=data, PYTHONPATH=lacking)
    command = [sys.executable, ROOT / 'tools' / 'gpu_check.py', 'run', *arguments, '--device', 'cpu', '--tiny',
               '--profile', 'smoke', '--seeds', '0']
    done = subprocess.run([str(part) for part in command], env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_packed_data_are_the_same(data):
    original, packed = (load_cohort('hippocampus', folder) for folder in data)
    assert original.fingerprint() == packed.fingerprint() and original.cases == packed.cases
    for name in ('train', 'validation', 'validation_pairs', 'test_pairs'):
        assert getattr(original, name) == getattr(packed, name)
    for case in original.cases:
        assert torch.equal(original.image(case), packed.image(case))
        assert torch.equal(original.labels(case), packed.labels(case))
    assert not (data[1] / 'hippocampus_msd04' / 'README.md').exists()


@long
def test_everything_in_one_call_and_a_second_call_goes_on(data, tmp_path):
    lacking, out, again = blocked(tmp_path / 'lacking'), tmp_path / 'out', tmp_path / 'again'
    told = checked(out, '--root', tmp_path / 'root', '--limit', 240, '--runs', 1, data=data[1], lacking=lacking)
    assert [stage for stage in ('tests', 'bench', 'runs') if f's  {stage} ' not in told] == []

    suite = ElementTree.parse(out / 'junit.xml').getroot().find('testsuite')  # noqa: S314 - written by pytest
    assert int(suite.get('tests')) > 50 and suite.get('failures') == suite.get('errors') == '0'
    found = json.loads((out / 'bench.json').read_text())
    assert {row['mode'] for row in found['steps']} == {*gpu_check.MODES} and len(found['steps']) == 8
    assert {row['mode'] for row in found['fit']} >= {'deterministic', 'bf16'}
    assert all(row['seconds'] > 0 for part in ('fit', 'steps', 'profile') for row in found[part])
    assert 'aten::' in (out / 'profile.txt').read_text()

    done = {key for key, run in found['runs'].items() if run['state'] == 'done'}
    assert [run['state'] for run in found['runs'].values()] == ['done']
    files = [*out.iterdir()]
    assert len(files) <= 8 and max(path.stat().st_size for path in files) <= 16 * gpu_check.MIB

    told = checked(again, '--root', tmp_path / 'elsewhere', '--limit', 120, '--resume-from', out, '--stages', 'runs',
                   '--runs', 3, data=data[1], lacking=lacking)
    later = json.loads((again / 'bench.json').read_text())['runs']
    assert len(later) == 3 and {key for key, run in later.items() if run['state'] == 'done'} == {*later} > done
    assert not any(f'{key} done' in told for key in done), 'what was done has been done again'


def test_a_parent_comes_before_its_children(tmp_path, monkeypatch, data):
    monkeypatch.setenv('REGPRE_DATA', str(data[0]))
    runs = gpu_check.chosen_runs('smoke', ['hippocampus'], [0, 1])
    keys = [run.key for run in runs]
    assert len(set(keys)) == len(keys) and {run.seed for run in runs if run.steps} == {0, 1}
    assert all(keys.index(run.start.key) < keys.index(run.key) for run in runs if run.start)


def test_the_archive_leaves_out_what_has_no_room(tmp_path, monkeypatch, data):
    monkeypatch.setenv('REGPRE_DATA', str(data[0]))
    runs = gpu_check.chosen_runs('smoke', ['hippocampus'], [0])[:4]
    for run in runs:
        folder = gpu_check.run_folder_of(run, tmp_path)
        folder.mkdir(parents=True)
        (folder / 'run.json').write_text('{"run": {}}')
        for name in (run.leaves[-1] if run.leaves else 'model', 'last'):
            noise = torch.frombuffer(bytearray(os.urandom(40_000)), dtype=torch.uint8)
            save_file({'noise': noise}, folder / f'{name}.safetensors')
    out = tmp_path / 'out'
    out.mkdir()
    left_out = gpu_check.pack_runs(runs, tmp_path, out, part=50_000, parts=3)
    assert len([*out.iterdir()]) > 1
    assert left_out and all(name.endswith('model.safetensors') for name in left_out)
    gpu_check.unpack_runs(out, tmp_path / 'unpacked')
    names = {path.name for path in (tmp_path / 'unpacked').rglob('*') if path.is_file()}
    assert names == {'run.json', 'encoder.safetensors', 'model.safetensors'}  # checkpoints of what is done stay behind
    assert all((gpu_check.run_folder_of(run, tmp_path / 'unpacked') / 'run.json').exists() for run in runs)

    gpu_check.main(['trim', str(out), str(tmp_path / 'trimmed')])
    gpu_check.unpack_runs(tmp_path / 'trimmed', tmp_path / 'again')
    names = [path.name for path in (tmp_path / 'again').rglob('*') if path.is_file()]
    assert sorted(names) == ['encoder.safetensors'] + ['run.json'] * 4


def test_the_archive_keeps_checkpoints_of_what_is_not_done(tmp_path, monkeypatch, data):
    monkeypatch.setenv('REGPRE_DATA', str(data[0]))
    run = next(run for run in gpu_check.chosen_runs('smoke', ['hippocampus'], [0]) if run.steps)
    folder, out = gpu_check.run_folder_of(run, tmp_path / 'root'), tmp_path / 'out'
    for path in (folder, out): path.mkdir(parents=True)
    for name in ('last.safetensors', 'best.safetensors', 'log.jsonl', '.lock'): (folder / name).write_text(name)
    assert gpu_check.pack_runs([run], tmp_path / 'root', out) == []
    gpu_check.unpack_runs(out, tmp_path / 'unpacked')
    names = {path.name for path in gpu_check.run_folder_of(run, tmp_path / 'unpacked').iterdir()}
    assert names == {'last.safetensors', 'best.safetensors', 'log.jsonl'}


def test_an_archive_leads_nowhere_else(tmp_path):
    (tmp_path / 'file').write_text('')
    with tarfile.open(tmp_path / 'runs.tar.000', 'w') as archive: archive.add(tmp_path / 'file', '../file')
    assert 'leads elsewhere' in sentence_of(gpu_check.unpack_runs, tmp_path, tmp_path / 'root')


def test_what_does_not_end_is_ended(tmp_path):
    stubborn = 'import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)'
    process = subprocess.Popen([sys.executable, '-c', stubborn], stdout=subprocess.PIPE, start_new_session=True)
    process.stdout.readline()
    gpu_check.stop([process], patience=0.2)
    assert process.poll() is not None
