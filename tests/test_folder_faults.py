"Every fault of a user's own folder ends with one sentence that names the line of the manifest."
from pathlib import Path

import numpy as np
import pytest
from faults import with_hole

from regpre_nb.data.cohorts import check, load_cohort
from regpre_nb.data.folder import export_folder, folder_cohort
from regpre_nb.data.volumes import Volume, load_volume, save_volume
from regpre_nb.method.settings import InputError

MANIFEST, IMAGE, LABELS = 'manifest.csv', 'subject_001_image.nii.gz', 'subject_001_labels.nii.gz'


def edited(old: str, new: str):
    "Change a text file."
    def write(path: Path): path.write_text(path.read_text().replace(old, new))
    return write


def filled(content: bytes | str):
    "Put something else in a file."
    return lambda path: path.write_bytes(content if isinstance(content, bytes) else content.encode())


def replaced(change):
    "Write a changed volume in the place of a file; `change` gets its voxels."
    def write(path: Path):
        volume = load_volume(path, labels=path.name.endswith('labels.nii.gz'))
        save_volume(Volume(change(volume.data), volume.affine), path)
    return write


def stretched(path: Path):
    "A label map whose header says that its voxels are larger."
    volume = load_volume(path, labels=True)
    save_volume(Volume(volume.data, volume.affine + np.diag([1., 1, 1, 0])), path)


FAULTS = {  # words of the sentence -> file, what is done to it
    'lacks labels': (MANIFEST, edited('case,image,labels', 'case,image,seg')),
    'has no image': (MANIFEST, edited(f'{IMAGE},', ',')),
    'more cells': (MANIFEST, edited(f'{LABELS},train', f'{LABELS},train,train')),
    'there is no labels file': (MANIFEST, edited(LABELS, 'other.nii.gz')),
    'stands there twice': (MANIFEST, edited('\nsubject_001,', '\nsubject_000,')),
    'list each file once': (MANIFEST, edited(IMAGE, 'subject_000_image.nii.gz')),
    'cannot be read as CSV': (MANIFEST, filled(b'case,image,labels\n\xff,,\n')),
    "split 'tests' is unknown": (MANIFEST, edited(',test', ',tests')),
    'is a second atlas': (MANIFEST, edited(',validation', ',atlas')),
    'has no split and others have': (MANIFEST, edited(',validation', ',')),
    '0 validation': (MANIFEST, edited(',validation', ',train')),
    'cannot be read as NIfTI': (IMAGE, filled(b'<html>')),
    'NaN': (IMAGE, replaced(with_hole)),
    'same value': (IMAGE, replaced(lambda data: 0*data)),
    'is a label map and no image': (IMAGE, lambda path: filled((path.parent/LABELS).read_bytes())(path)),
    'affines differ': (LABELS, stretched),
    'have shapes': (LABELS, replaced(lambda data: data[1:])),
    'none of the labels [1, 2, 3, 4, 5]': (LABELS, replaced(lambda data: 0*data)),
    'holds the labels [9]': (LABELS, replaced(lambda data: np.where(data == 5, 9, data))),
    'whole numbers': (LABELS, replaced(lambda data: data*np.float32(0.5))),
    'is empty': ('atlas_labels.nii.gz', replaced(lambda data: 0*data)),
}
LISTS = {  # words of the sentence -> labels.csv
    'whole number above 0': 'id,name\n0,all\n', 'twice': 'id,name\n7,a\n7,b\n', 'lists no': 'id,name\n',
    'none of the labels [9]': 'id,name\n9,a\n', 'lacks id': 'label;name\n'}


@pytest.fixture(scope='module')
def sound(tmp_path_factory) -> dict[str, bytes]:
    "The files of a folder without a fault."
    template, folder = load_cohort('template'), tmp_path_factory.mktemp('sound')
    export_folder(template, ('atlas', 'subject_000', 'subject_001', template.validation[0], template.test_pairs[0][1]),
                  folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def folder(sound, tmp_path) -> Path:
    "A copy of it to spoil."
    for name, content in sound.items(): (tmp_path/name).write_bytes(content)
    return tmp_path


def sentence(folder: Path) -> str:
    "With what reading every case of a folder ends."
    with pytest.raises(InputError) as caught: check(folder_cohort(folder))
    return str(caught.value)


def test_a_sound_folder_is_read(folder):
    "Without a fault there is nothing to say."
    assert len(check(folder_cohort(folder)).cases) == 5


@pytest.mark.parametrize('words', FAULTS)
def test_fault(folder, words):
    "One fault, one sentence; where a volume is at fault, the manifest's line is named."
    name, spoil = FAULTS[words]
    spoil(folder/name)
    said = sentence(folder)
    assert words in said and said.count('\n') == 0
    if name != MANIFEST: assert 'manifest.csv, line ' in said and name.split('_image')[0].split('_labels')[0] in said


@pytest.mark.parametrize('words', LISTS)
def test_fault_of_the_list_of_labels(folder, words):
    "The file that says which labels count."
    (folder/'labels.csv').write_text(LISTS[words])
    assert words in sentence(folder)
