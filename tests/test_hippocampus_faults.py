"Every fault of a folder of the Decathlon's hippocampus ends with one sentence."
import shutil
from pathlib import Path

import numpy as np
import pytest
from faults import with_hole

from regpre_nb.data.cohorts import check, load_cohort
from regpre_nb.data.volumes import Volume, fit_to, load_volume, save_volume
from regpre_nb.method.settings import InputError

CASE = 'hippocampus_005.nii.gz'  # one that trains, of twenty


@pytest.fixture(scope='module')
def sound(tmp_path_factory) -> Path:
    "Made files in the layout of the Decathlon: noise and two blocks."
    rng, root = np.random.default_rng(0), tmp_path_factory.mktemp('sound')/'Task04_Hippocampus'
    for kind in ('imagesTr', 'labelsTr'): (root/kind).mkdir(parents=True)
    for n in range(1, 21):
        labels = np.zeros(rng.integers(20, 40, 3), np.uint8)
        labels[5:12, 5:9, 5:12], labels[5:12, 9:15, 5:12] = 1, 2
        image = (labels*100 + rng.normal(50, 5, labels.shape)).astype(np.float32)
        for kind, data in (('imagesTr', image), ('labelsTr', labels)):
            save_volume(Volume(data, np.eye(4)), root/kind/f'hippocampus_{n:03}.nii.gz')
    return root


@pytest.fixture
def folder(sound, tmp_path) -> Path:
    "A copy of them to spoil."
    return shutil.copytree(sound, tmp_path/sound.name)


def sentence(folder: Path) -> str:
    "With what reading every case ends."
    with pytest.raises(InputError) as caught: check(load_cohort('hippocampus', folder.parent))
    assert str(caught.value).count('\n') == 0
    return str(caught.value)


def replaced(change):
    "Write a changed volume in the place of a file; `change` gets its voxels."
    def write(path: Path):
        volume = load_volume(path)
        save_volume(Volume(change(volume.data), volume.affine), path)
    return write


FAULTS = [  # words of the sentence, kind of file, what is done to it
    ('no voxel of 2 (posterior)', 'labelsTr', replaced(lambda data: np.minimum(data, 1))),
    ('no voxel of 1 (anterior), 2', 'labelsTr', replaced(lambda data: 0*data)),
    ('unknown labels', 'labelsTr', replaced(lambda data: np.where(data == 0, 3, data))),
    ('have shapes', 'labelsTr', lambda path: save_volume(fit_to(load_volume(path), (10, 10, 10)), path)),
    ('only', 'labelsTr', Path.unlink), ('only', 'imagesTr', Path.unlink),
    ('NaN', 'imagesTr', replaced(with_hole)), ('same value', 'imagesTr', replaced(lambda data: 0*data)),
    ('is a label map', 'imagesTr', lambda path: shutil.copy(path.parent.with_name('labelsTr')/path.name, path)),
    ('whole numbers', 'labelsTr', lambda path: shutil.copy(path.parent.with_name('imagesTr')/path.name, path))]
FIVE = '\n'.join(['case,split', *(f'hippocampus_00{n},{part}' for n, part in enumerate(
    ('train', 'train', 'train', 'test', 'test'), 1))])
TABLES = [  # words of the sentence, table, its text
    ('lacks 1 of', 'split.csv', 'case,split\nhippocampus_001.nii.gz,train\nhippocampus_999.nii.gz,train\n'),
    ('lacks case, split', 'split.csv', 'name,part\n'),
    ('line 7: hippocampus_001 stands there twice', 'split.csv', f'{FIVE}\nhippocampus_001,test'),
    ("the split 'tset' is unknown", 'split.csv', f'{FIVE}\nhippocampus_006,tset'),
    ('001 is a training case', 'eval_pairs.csv', 'moving,fixed\nhippocampus_018,hippocampus_001'),
    ('one image', 'eval_pairs.csv', 'moving,fixed\nhippocampus_018,hippocampus_018'),
    ('lacks 1 of', 'eval_pairs.csv', 'moving,fixed\nhippocampus_018,hippocampus_999')]


@pytest.mark.parametrize('words, kind, spoil', FAULTS)
def test_fault_of_a_file(folder, words, kind, spoil):
    "Missing, damaged, on another grid, or in another's place."
    spoil(folder/kind/CASE)
    assert words in sentence(folder) and CASE in sentence(folder)


@pytest.mark.parametrize('words, name, text', TABLES)
def test_fault_of_a_table(folder, words, name, text):
    "Of the split, or of the test pairs."
    (folder/name).write_text(text)
    assert words in sentence(folder)
