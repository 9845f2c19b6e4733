"Every fault of a folder of label maps ends with one sentence; what was prepared once is prepared by one process."
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from faults import said

from regpre_nb.data.cohorts import load_cohort
from regpre_nb.data.labelmaps import Recipe, prepare_labelmaps
from regpre_nb.data.volumes import Volume, load_volume, save_volume

MAPS, THIRD = 'synthseg_labelmaps_20', 'training_seg_03.nii.gz'


def head(rng: np.random.Generator) -> Volume:
    "A label map at 8 mm: white matter in cortex in fluid in skin, of both sides."
    labels = Volume(np.zeros((24, 24, 24), np.int16), np.diag([8., 8, 8, 1]))
    at = labels.world(np.moveaxis(np.indices(labels.shape), 0, -1)) - 92 - rng.normal(0, 4, 3)
    distance = np.linalg.norm(at/rng.normal(1, 0.05, 3)/[64, 76, 66], axis=-1)
    for label, radius in ((507, 1.2), (24, 1.1), (3, 1), (2, 0.75)): labels.data[distance < radius] = label
    labels.data[(at[..., 0] > 0) & (distance < 1)] += 39  # 41 and 42 are right
    return labels


@pytest.fixture(scope='module')
def sound(tmp_path_factory) -> Path:
    "Six heads."
    folder, rng = tmp_path_factory.mktemp('sound'), np.random.default_rng(0)
    (folder/MAPS).mkdir()
    for n in range(1, 7): save_volume(head(rng), folder/MAPS/f'training_seg_{n:02}.nii.gz')
    return folder


@pytest.fixture
def folder(sound, tmp_path, monkeypatch) -> Path:
    "A copy of them to spoil, and an empty cache."
    monkeypatch.setenv('REGPRE_CACHE', str(tmp_path/'cache'))
    shutil.copytree(sound/MAPS, tmp_path/MAPS)
    return tmp_path


def test_no_folder_is_named(monkeypatch):
    "Neither in the call nor in the environment."
    monkeypatch.delenv('REGPRE_DATA', raising=False)
    assert 'REGPRE_DATA is not set' in said(load_cohort, 'labelmaps')


def test_no_such_folder(tmp_path):
    assert 'no such folder' in said(load_cohort, 'labelmaps', tmp_path/'nowhere')


def test_too_few_maps(tmp_path):
    (tmp_path/MAPS).mkdir()
    assert 'holds 0 files' in said(load_cohort, 'labelmaps', tmp_path)


def test_damaged_map(folder):
    path = folder/MAPS/THIRD
    path.write_bytes(path.read_bytes()[:-100])
    assert f'{THIRD}: cannot be read' in said(load_cohort, 'labelmaps', folder)


def test_map_without_a_brain(folder):
    path = folder/MAPS/THIRD
    labels = load_volume(path, labels=True)
    save_volume(replace(labels, data=np.where(labels.data == 507, 507, 0).astype(np.int16)), path)
    assert f'{THIRD}: holds no label of a brain' in said(load_cohort, 'labelmaps', folder)


def test_cache_that_cannot_be_written(folder, monkeypatch):
    monkeypatch.setenv('REGPRE_CACHE', str(folder/MAPS/THIRD))  # a file, so no folder can be in it
    assert 'Cannot make the folder' in said(load_cohort, 'labelmaps', folder)


def test_brains_larger_than_the_grid(folder):
    assert 'more than the grid of 96 x 128 x 96 mm' in said(prepare_labelmaps, folder, replace(Recipe(), spacing=2.))


def test_two_processes_prepare_once(folder, monkeypatch):
    "One makes the images, the other waits or comes later; a third time, elsewhere, they are the same byte for byte."
    code = ('import sys; from regpre_nb.data.labelmaps import labelmaps_cohort; '
            'print(labelmaps_cohort(sys.argv[1]).atlas)')
    pair = [subprocess.Popen([sys.executable, '-c', code, str(folder)], text=True, env=dict(os.environ),
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    answers = [process.communicate() for process in pair]
    assert [process.returncode for process in pair] == [0, 0], answers
    assert sum('making 6 images' in err for _, err in answers) == 1
    kept = next((folder/'cache').glob('labelmaps-*'))
    monkeypatch.setenv('REGPRE_CACHE', str(folder/'second'))
    again, record = prepare_labelmaps(folder)
    assert again.name == kept.name and [out.strip() for out, _ in answers] == [record['atlas']]*2
    for name in record['files']: assert (again/name).read_bytes() == (kept/name).read_bytes()
    assert not list(folder.rglob('.unfinished*'))
