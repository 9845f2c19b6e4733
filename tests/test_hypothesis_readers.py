"""Readers hold for any shape, affine and type: what was written comes back, and what cannot be used is refused.

Few examples in `make test`; HYPOTHESIS_PROFILE=many tries many.
"""
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from regpre_nb.data.files import read_rows
from regpre_nb.data.volumes import Volume, like_original, load_grid, load_volume, resample, save_volume, to_ras
from regpre_nb.method.encoders import CNNSettings
from regpre_nb.method.settings import InputError, from_json
from regpre_nb.use.transforms import AFFINE_FILES, Warp, load_affine, load_warp, save_affine, save_warp

MANY = os.environ.get('HYPOTHESIS_PROFILE') == 'many'
examples = settings(max_examples=1000 if MANY else 12, derandomize=not MANY, deadline=None, database=None,
                    suppress_health_check=[HealthCheck.function_scoped_fixture])

SHAPES = st.tuples(*[st.integers(1, 9)]*3)
NUMBERS = st.floats(allow_nan=True, allow_infinity=True, width=32)
IMAGE_TYPES = st.sampled_from('uint8 int16 int32 float32 float64 uint16 uint32 int8'.split())


@st.composite
def affines(draw) -> np.ndarray:
    "A rotation, voxel sizes from 0.01 to 100 mm and an origin, perhaps mirrored and with axes exchanged."
    turn, _ = np.linalg.qr(np.random.default_rng(draw(st.integers(0, 2**32 - 1))).normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = turn*[draw(st.floats(0.01, 100)) for _ in range(3)]
    affine[:3, 3] = [draw(st.floats(-1e3, 1e3)) for _ in range(3)]
    return affine


def voxels(shape: tuple[int, ...], kind: str, seed: int) -> np.ndarray:
    "Whole numbers from 0 to 100."
    return np.random.default_rng(seed).integers(0, 101, shape).astype(kind)


@examples
@given(SHAPES, affines(), IMAGE_TYPES, st.sampled_from('<>'), st.integers(0, 99))
def test_a_volume_is_read_as_it_was_written(tmp_path, shape, affine, kind, order, seed):
    "In any type and byte order."
    data, path = voxels(shape, kind, seed), tmp_path/'volume.nii'
    nib.save(nib.Nifti1Image(data.astype(data.dtype.newbyteorder(order)), affine, nib.Nifti1Header(endianness=order),
                             dtype=data.dtype), path)
    read = load_volume(path)
    assert read.shape == shape and read.data.dtype == np.float32
    np.testing.assert_array_equal(read.data, data)
    np.testing.assert_allclose(read.affine, affine, rtol=1e-5, atol=1e-3)
    assert load_grid(path).shape == shape


@examples
@given(SHAPES, affines(), st.sampled_from(['.nii', '.nii.gz']), st.integers(0, 99))
def test_turning_and_saving(tmp_path, shape, affine, ending, seed):
    "To RAS and back, and through a file, no voxel moves in the world."
    volume = Volume(voxels(shape, 'float32', seed), affine)
    turned = to_ras(volume)
    back = like_original(turned, volume)
    np.testing.assert_array_equal(back.data, volume.data)
    np.testing.assert_allclose(back.affine, affine, rtol=1e-6, atol=1e-6*np.abs(affine).max())
    read = load_volume(save_volume(turned, tmp_path/f'turned{ending}'))
    np.testing.assert_array_equal(read.data, turned.data)
    np.testing.assert_allclose(read.affine, turned.affine, rtol=1e-5, atol=1e-3)


@examples
@given(st.lists(st.integers(0, 7), min_size=0, max_size=7), IMAGE_TYPES)
def test_any_number_of_axes(tmp_path, shape, kind):
    "Three axes with voxels, and further ones of size 1, or a sentence."
    path, data = tmp_path/'any.nii', np.zeros(shape, kind)
    try: nib.save(nib.Nifti1Image(data, np.eye(4), dtype=data.dtype), path)
    except Exception: assume(False)  # nothing that a file can hold
    stored = list(nib.load(path).shape)
    while len(stored) > 3 and stored[-1] == 1: stored.pop()
    if len(stored) == 3 and 0 not in stored: assert list(load_volume(path).shape) == stored
    else:
        with pytest.raises(InputError, match=str(path)): load_volume(path)


@examples
@given(st.lists(NUMBERS, min_size=12, max_size=12))
def test_any_affine(tmp_path, numbers):
    "It is used or refused; what is used can be inverted."
    affine, path = np.vstack([np.reshape(numbers, (3, 4)), [0, 0, 0, 1]]), tmp_path/'any.nii'
    image = nib.Nifti1Image(np.ones((2, 3, 4), np.float32), None)
    image.header['sform_code'] = 2
    for name, row in zip(('srow_x', 'srow_y', 'srow_z'), affine): image.header[name] = row
    path.write_bytes(image.header.binaryblock + bytes(4 + 96))
    try: read = load_grid(path)
    except InputError as error: assert str(path) in str(error)
    else: assert np.isfinite(np.linalg.inv(read.affine)).all()


@examples
@given(SHAPES, st.sampled_from(['uint8', 'int16', 'float32', 'float64']), st.floats(-2, 300, width=32))
def test_labels_are_whole_numbers(tmp_path, shape, kind, value):
    "From 0 up, or the file is refused and its value named."
    path = tmp_path/'labels.nii'
    with np.errstate(invalid='ignore'): data = np.full(shape, value).astype(kind)
    nib.save(nib.Nifti1Image(data, np.eye(4)), path)
    whole = data[0, 0, 0] >= -1e-3 and abs(data[0, 0, 0] - np.round(data[0, 0, 0])) <= 1e-3
    if not whole:
        with pytest.raises(InputError, match='whole numbers from 0 up'): load_volume(path, labels=True)
    else:
        read = load_volume(path, labels=True)
        assert read.data.dtype.kind in 'iu' and (read.data == np.round(data)).all()


@examples
@given(SHAPES, affines(), st.floats(0.3, 3))
def test_resampling_keeps_the_box(shape, affine, times):
    "The new grid shares its centre with the old one, and a constant image stays constant."
    volume = Volume(np.full(shape, 7, np.float32), affine)
    new = resample(volume, spacing=np.multiply(volume.spacing, times))
    centres = [each.world((np.array(each.shape) - 1)/2) for each in (volume, new)]
    np.testing.assert_allclose(*centres, rtol=1e-6, atol=1e-6*max(volume.spacing))
    np.testing.assert_allclose(new.data, 7, rtol=1e-5)


@examples
@given(SHAPES, affines(), st.integers(0, 99))
def test_a_warp_is_read_as_it_was_written(tmp_path, shape, affine, seed):
    shift = np.random.default_rng(seed).normal(0, 5, (*shape, 3)).astype(np.float32)
    read = load_warp(save_warp(Warp(shift, affine), tmp_path/'warp.nii.gz'))
    np.testing.assert_allclose(read.displacement, shift, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(read.affine, affine, rtol=1e-5, atol=1e-3)


@examples
@given(affines(), st.sampled_from(AFFINE_FILES))
def test_an_affine_map_is_read_as_it_was_written(tmp_path, affine, ending):
    np.testing.assert_allclose(load_affine(save_affine(affine, tmp_path/f'map{ending}')), affine, rtol=1e-6, atol=1e-6)


WORDS = st.text(st.characters(blacklist_categories=('Cs', 'Cc', 'Zl', 'Zp')), max_size=8)


@examples
@given(st.lists(st.lists(WORDS, min_size=2, max_size=2), min_size=1, max_size=5), st.sampled_from(',;\t'),
       st.sampled_from(['\n', '\r\n']), st.sampled_from(['utf-8', 'utf-8-sig']))
def test_a_table_is_read_as_it_was_written(tmp_path, rows, between, newline, encoding):
    "Whatever stands between cells, at the end of lines and in the cells."
    import csv
    path: Path = tmp_path/'table.csv'
    with open(path, 'w', newline='', encoding=encoding) as file:
        csv.writer(file, delimiter=between, lineterminator=newline, quoting=csv.QUOTE_ALL).writerows(
            [['first', 'second'], *rows])
    read = [list(row.values()) for _, row in read_rows(path, ('first', 'second'))]
    assert read == [[cell.strip() for cell in row] for row in rows]


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
                    max_leaves=6)


@examples
@given(st.dictionaries(st.sampled_from(['channels', 'convolutions', 'chanels']), JSON, max_size=2) | JSON)
def test_any_settings(described):
    "They are used or refused."
    try: made = from_json(CNNSettings, described)
    except InputError: return
    assert all(type(channels) is int and channels >= 1 for channels in made.channels) and made.convolutions >= 1
