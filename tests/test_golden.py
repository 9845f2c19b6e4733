"Numbers change on purpose or not at all: the package computes what tools/golden.py wrote to tests/golden."
import sys

import numpy as np
import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / 'tools'))
import golden  # noqa: E402


@pytest.fixture(scope='session')
def computed():
    "Each set, computed once."
    known = {}
    return lambda name: known.setdefault(name, golden.SETS[name]())


def stored(name):
    "The arrays of a file."
    with np.load(golden.FOLDER / f'{name}.npz') as file: return dict(file)


@pytest.mark.parametrize('name', golden.SETS)
def test_golden(computed, name):
    "Same names, types and shapes; values to 1e-4 of their own size or of the array's, which other CPUs keep."
    found, expected = {key: value.numpy() for key, value in computed(name).items()}, stored(name)
    assert found.keys() == expected.keys()
    for key, value in found.items():
        assert (value.shape, value.dtype) == (expected[key].shape, expected[key].dtype), key
        close = np.isclose(value, expected[key], rtol=1e-4, atol=1e-4*np.abs(expected[key]).max())
        if key.endswith('_counts'):  # rounding may move a voxel between two shapes to either side
            assert value.sum() == expected[key].sum() and np.abs(value - expected[key]).max() <= 4, key
        elif key.endswith(('_moving', '_fixed')):  # images of such shapes
            assert close.mean() > 0.998, key
        else: np.testing.assert_array_equal(close, True, err_msg=f'{name}: {key}')


@pytest.mark.parametrize('name', golden.SETS)
def test_telling(name):
    "The stored arrays can tell: finite, neither constant nor zero."
    for key, value in stored(name).items():
        assert np.isfinite(value).all(), key
        assert np.abs(value).max() > 1e-3, key
        assert value.size == 1 or value.std() > 1e-3*np.abs(value).max(), key


def test_small():
    "The files are what the script writes, and they are small."
    files = sorted(golden.FOLDER.iterdir())
    assert [file.stem for file in files] == sorted(golden.SETS)
    assert sum(file.stat().st_size for file in files) < 300_000
