"What the checks of IXI, DIR-Lab, the label maps and the lung pair tell, and that doubts alone refuse nothing."
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest

from regpre_nb.data import labelmaps
from regpre_nb.data.cohorts import check_data, load_cohort
from regpre_nb.data.dirlab import _same_images, case_infos, check_dirlab
from regpre_nb.data.ixi import convert_ixi, make_ixi_like, read_arrays
from regpre_nb.data.phantom import PAIR_POINTS, _pair_points
from regpre_nb.data.volumes import Volume, save_volume
from regpre_nb.method.settings import InputError

# IXI


@pytest.fixture(scope='module')
def sound(tmp_path_factory):
    "Six made-up cases that differ."
    folder = tmp_path_factory.mktemp('sound')
    make_ixi_like(folder, (32, 32, 32), (3, 1, 2), distinct=6)
    return folder


@pytest.fixture
def ixi(sound, tmp_path):
    "A copy to spoil: its folder, and a function that writes a case again."
    shutil.copytree(sound / 'IXI_data', tmp_path / 'IXI_data')

    def rewrite(name, change):
        "Put what `change` makes of image and labels in the place of a file."
        path = tmp_path / 'IXI_data' / name
        path.write_bytes(pickle.dumps(change(*read_arrays(path))))
    return tmp_path, rewrite


def test_sound_ixi(sound):
    report = check_data('ixi', sound)
    assert report.lines == [] and report.refuse() is report
    assert str(report).endswith('atlas 1 of 1, Train 3 of 3, Val 1 of 1, Test 2 of 2')


def test_doubtful_ixi_is_told_and_not_refused(ixi):
    folder, rewrite = ixi
    rewrite('Train/subject_1.pkl', lambda image, labels: (image, np.where(labels == 53, 0, labels)))
    report = check_data('ixi', folder)
    assert report.lines == ['Train/subject_1.pkl: no voxel of Right-Hippocampus (doubtful)']
    assert report.refuse() is report


UNUSABLE = {
    "image and label map stand in each other's place": lambda image, labels: (labels, image),
    'the image has one value per label, as a label map has': lambda image, labels: (labels / 255, labels),
    'image of shape (32, 32, 31) instead of (32, 32, 32)': lambda image, labels: (image[..., :-1], labels),
    'NaN or infinity in 1 voxels': lambda image, labels: (np.where(np.arange(image.size).reshape(image.shape) == 5,
                                                                   np.nan, image), labels),
    'labels are not whole numbers from 0 up': lambda image, labels: (image, labels + 0.4),
    'the image is empty': lambda image, labels: (image[:0], labels),
}


@pytest.mark.parametrize('said', UNUSABLE)
def test_unusable_ixi_is_refused(ixi, said):
    folder, rewrite = ixi
    rewrite('Test/subject_1.pkl', UNUSABLE[said])
    report = check_data('ixi', folder)
    assert f'Test/subject_1.pkl: {said}' in report.lines
    with pytest.raises(InputError, match='the first in Test/subject_1.pkl .*`regpre data check ixi` lists them all'):
        report.refuse()
    with pytest.raises(InputError, match='Test/subject_1.pkl'): load_cohort('ixi', folder).image('Test/subject_1')


@pytest.mark.parametrize('rounding', [2e-7, -2e-7, 3e-6])
def test_labels_of_rounded_fractions(ixi, sound, rounding):
    folder, rewrite = ixi
    rewrite('Train/subject_1.pkl', lambda image, labels: (image, labels * np.float64(1 + rounding) + rounding))
    assert check_data('ixi', folder).lines == []
    wanted = load_cohort('ixi', sound).labels('Train/subject_1')
    assert (load_cohort('ixi', folder).labels('Train/subject_1') == wanted).all()
    convert_ixi(folder, folder / 'converted' / 'IXI_nifti')
    assert (load_cohort('ixi', folder / 'converted').labels('Train/subject_1') == wanted).all()


def test_image_that_is_there_twice(ixi):
    folder, rewrite = ixi
    image, labels = read_arrays(folder / 'IXI_data' / 'Train' / 'subject_1.pkl')
    rewrite('Train/subject_2.pkl', lambda other, its: (image, its))
    report = check_data('ixi', folder)
    assert report.lines == ['Train/subject_2.pkl: shows the same image as Train/subject_1.pkl (doubtful)']
    rewrite('Test/subject_2.pkl', lambda other, its: (image, its))
    report = check_data('ixi', folder)
    assert report.lines[-1] == 'Test/subject_2.pkl: shows the same image as Train/subject_1.pkl'
    with pytest.raises(InputError, match='1 problem, the first in Test/subject_2.pkl'): report.refuse()


def test_made_up_links_are_no_twins(tmp_path):
    make_ixi_like(tmp_path, (32, 32, 32), (3, 1, 2), distinct=2)
    assert check_data('ixi', tmp_path).lines == []


# Lungs

TABLE = 'case,x,y,z,dx,dy,dz,initial_tre_mm\n'


def test_lung_image_that_is_there_twice(tmp_path):
    (tmp_path / 'cases.csv').write_text(TABLE + '1,8,8,8,6,6,6,5\n7,8,8,8,6,6,6,5\n')
    for case in (1, 7):
        for phase in ('T00', 'T50'): (tmp_path / f'case{case}_{phase}.img').write_text(f'{case} {phase}')
    assert _same_images(tmp_path, case_infos(tmp_path)) == []
    shutil.copy(tmp_path / 'case1_T00.img', tmp_path / 'case7_T50.img')
    assert 'case 7: the image of T50 of case 7 is the same as T00 of case 1' in check_dirlab(tmp_path).lines
    (tmp_path / 'case7_T00.img').unlink()
    with pytest.raises(InputError, match='problems, the first in case 1 .*`regpre data check dirlab`'):
        check_data('dirlab', tmp_path).refuse()


@pytest.mark.parametrize('rows, said', [
    ('1,8,8,8,6,6,6,5\n01,8,8,8,6,6,6,5\n', 'case 1 stands there twice'),
    ('1,8,8,8,6,6,NA,5\n', 'is not made of numbers'), ('1,8,8,8,6,6,6,5,9\n', 'more cells than columns'),
    ('one,8,8,8,6,6,6,5\n', 'is not made of numbers'), ('', 'lists no case')])
def test_table_of_cases(tmp_path, rows, said):
    (tmp_path / 'cases.csv').write_text(TABLE + rows)
    with pytest.raises(InputError, match=said): case_infos(tmp_path)


@pytest.mark.parametrize('rows, said', [('1,2,3,4,5\n', 'cells for 6 columns'), ('1,2,3,4,5,x\n', 'not a number'),
                                        ('1,2,3,4,5,\n', 'lacks a landmark'), ('', 'lacks a landmark')])
def test_landmarks_of_the_pair(tmp_path, rows, said):
    path = tmp_path / 'elastix_lungct_pair' / PAIR_POINTS
    path.parent.mkdir()
    path.write_text('baseline_x,baseline_y,baseline_z,followup_x,followup_y,followup_z\n' + rows)
    with pytest.raises(InputError, match=said):
        _pair_points(tmp_path, Volume(np.zeros((4,) * 3, np.float32), np.eye(4)), np.zeros(3))


# Label maps


def test_label_maps_on_the_common_grid(tmp_path, monkeypatch):
    source = Volume(np.zeros((12, 12, 12), np.uint8), np.eye(4))
    source.data[2:10, 2:10, 2:10] = 2
    source.data.reshape(-1)[600:600 + len(labelmaps.STRUCTURES)] = list(labelmaps.STRUCTURES)
    files = {f'brain_{n}': save_volume(replace(source, data=np.roll(source.data, n, 0)), tmp_path / f'{n}.nii.gz')
             for n in range(4)}
    shutil.copy(files['brain_0'], files['brain_3'])
    (tmp_path / 'labels').mkdir()
    for case in files: save_volume(source, tmp_path / 'labels' / f'{case}.nii.gz')
    without = replace(source, data=np.where(source.data == 17, 0, source.data))
    for case in ('brain_1', 'brain_2'): save_volume(without, tmp_path / 'labels' / f'{case}.nii.gz')
    save_volume(without, files['brain_2'])
    monkeypatch.setattr(labelmaps, '_sources', lambda folder: files)
    monkeypatch.setattr(labelmaps, 'prepare_labelmaps', lambda folder, recipe: (tmp_path, {'recipe': {'spacing': 3.2}}))
    report = check_data('labelmaps', tmp_path)
    assert report.lines == ['3.nii.gz: holds the same as 0.nii.gz',
                            '1.nii.gz: no voxel of Left-Hippocampus is left on the grid of 3.2 mm',
                            '2.nii.gz: no voxel of Left-Hippocampus (doubtful)']
    with pytest.raises(InputError, match='2 problems, the first in 3.nii.gz'): report.refuse()
