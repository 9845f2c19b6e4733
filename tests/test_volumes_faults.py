"Every NIfTI file that cannot be used ends with one sentence, also those that announce more than they hold."
import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from regpre_nb.data.volumes import Volume, load_grid, load_volume, save_volume
from regpre_nb.method.settings import sentence_of

SCAN = Volume(np.random.default_rng(0).random((12, 10, 8), np.float32), np.diag([1., 2, 3, 1]))


def written(data: np.ndarray, affine: np.ndarray = SCAN.affine):
    "Write an array as it is, without the checks of `save_volume`."
    def write(path: Path):
        image = nib.Nifti1Image(data, SCAN.affine)
        image.header['srow_z'] = affine[2]
        nib.save(nib.Nifti1Image(data, None, image.header), path)
    return write


def whole(path: Path) -> bytes:
    "What a sound file holds."
    return save_volume(SCAN, path).read_bytes()


def with_hole() -> np.ndarray:
    "One voxel is no number."
    data = SCAN.data.copy()
    data[3, 3, 3] = np.nan
    return data


def header(shape: tuple[int, int, int]) -> bytes:
    "A header that announces float32 voxels, without them."
    head = nib.Nifti1Image(np.zeros((2, 2, 2), np.float32), np.eye(4)).header
    head.set_data_shape(shape)
    return head.binaryblock


FAULTS = [  # words of the sentence, name of the file, what writes it
    ('no such file', 'nothing.nii.gz', lambda path: None),
    ('damaged', 'truncated.nii.gz', lambda path: path.write_bytes(whole(path)[:-1000])),
    ('damaged', 'short.nii', lambda path: path.write_bytes(whole(path)[:-1000])),
    ('damaged', 'text.nii.gz', lambda path: path.write_text('not an image')),
    ('1 of 960 voxels are NaN', 'hole.nii.gz', written(with_hole())),
    ('(4, 4, 4, 3)', 'vectors.nii.gz', written(np.zeros((4, 4, 4, 3), np.float32))),
    ('not a slice', 'slice.nii.gz', written(np.zeros((4, 4), np.float32))),
    ('no voxels', 'empty.nii.gz', written(np.zeros((4, 0, 4), np.float32))),
    ('not invertible', 'flat.nii.gz', written(SCAN.data, np.diag([1., 1, 0, 1])))]


@pytest.mark.parametrize('words, name, write', FAULTS, ids=lambda value: value if isinstance(value, str) else '')
def test_file_that_cannot_be_read(tmp_path, words, name, write):
    write(tmp_path/name)
    said = sentence_of(load_volume, tmp_path/name)
    assert words in said and name in said and said.count('\n') == 0


def sparse(path: Path) -> None:
    "A file of 9 GB that takes no room."
    with open(path, 'wb') as file:
        file.write(header((1300, 1300, 1300)))
        file.truncate(4*1300**3 + 352)


@pytest.mark.parametrize('read', [load_volume, load_grid])
@pytest.mark.parametrize('words, name, write', [
    ('damaged', 'huge.nii', lambda path: path.write_bytes(header((900,)*3) + bytes(1000))),
    ('damaged', 'huge.nii.gz', lambda path: path.write_bytes(gzip.compress(header((900,)*3) + bytes(1000)))),
    ('1300x1300x1300 voxels, more', 'vast.nii', sparse)], ids=['huge.nii', 'huge.nii.gz', 'vast.nii'])
def test_header_that_announces_too_much(tmp_path, words, name, write, read):
    "It is found before memory is asked for."
    write(tmp_path/name)
    assert words in sentence_of(read, tmp_path/name)


def test_image_read_as_labels(tmp_path):
    save_volume(SCAN, tmp_path/'scan.nii.gz')
    assert 'whole numbers' in sentence_of(load_volume, tmp_path/'scan.nii.gz', labels=True)


@pytest.mark.parametrize('name, words', [('scan.png', 'ends in .nii'), ('nowhere/scan.nii', 'folder does not exist')])
def test_name_that_cannot_be_written(tmp_path, name, words):
    said = sentence_of(save_volume, SCAN, tmp_path/name)
    assert words in said and said.count('\n') == 0


def test_a_single_trailing_axis_is_dropped(tmp_path):
    written(SCAN.data[..., None])(tmp_path/'one.nii.gz')
    assert load_volume(tmp_path/'one.nii.gz').shape == SCAN.shape


@pytest.mark.parametrize('dim', [[3, 2**18, 2**48, 0, 1, 1, 1, 1], [7, 0, 0, 0, 0, 2**48, 2**56, 2**46],
                                 [0, 1, 1, 1, 1, 1, 1, 1]], ids=str)
def test_no_voxels_in_nifti_2(dim, tmp_path):
    "Sizes of 64 bits whose product is 0, and no sizes at all."
    header = nib.Nifti2Header()
    header['dim'] = dim
    path = tmp_path / 'image.nii'
    path.write_bytes(header.binaryblock + bytes(1000))
    assert 'holds no voxels' in sentence_of(load_volume, path)
