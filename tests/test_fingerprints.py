"The same data have the same fingerprint, other data another one, for files and for every cohort."
import json
import multiprocessing
import os
import shutil
import time
from dataclasses import replace

import numpy as np
import pytest

from regpre_nb.data import files, phantom, template
from regpre_nb.data.cohorts import Cohort, load_cohort
from regpre_nb.data.dirlab import lung_cohort
from regpre_nb.data.files import file_fingerprint
from regpre_nb.data.ixi import make_ixi_like
from regpre_nb.data.labelmaps import Recipe, _folder_of
from regpre_nb.data.phantom import _kept_phantom
from regpre_nb.data.volumes import Volume, load_volume, save_volume
from regpre_nb.learn.weights import find_weights
from regpre_nb.method.settings import InputError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    "A cache folder of the test's own, and a clock two seconds ahead, so that new files count as settled."
    monkeypatch.setenv('REGPRE_CACHE', str(tmp_path / 'cache'))
    ahead = files.time.time_ns() + 2 * 10**9
    monkeypatch.setattr(files.time, 'time_ns', lambda: ahead + 10**9)
    return tmp_path / 'cache'


# Files


def test_file_is_read_once(tmp_path, monkeypatch):
    path = tmp_path / 'a.bin'
    path.write_bytes(b'abc')
    first = file_fingerprint(path)
    monkeypatch.setattr(files, '_contents', lambda path: pytest.fail('the file was read again'))
    assert file_fingerprint(path) == file_fingerprint(str(path)) == first


def test_touched_and_copied_files_stay_the_same(tmp_path):
    path = tmp_path / 'a.bin'
    path.write_bytes(b'abc')
    first = file_fingerprint(path)
    os.utime(path, (0, 0))
    assert file_fingerprint(path) == first == file_fingerprint(shutil.copy(path, tmp_path / 'b.bin'))


@pytest.mark.parametrize('kept_time', [False, True], ids=['new time', 'dated back'])
def test_changed_file_of_the_same_length(tmp_path, kept_time):
    path = tmp_path / 'a.bin'
    path.write_bytes(b'abc')
    first, times = file_fingerprint(path), path.stat()
    path.write_bytes(b'abd')
    if kept_time: os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert file_fingerprint(path) != first


@pytest.mark.parametrize('damage', [b'', b'\xff\xfe', b'{}', b'[1, 2]', b'null', b'[[[', b'7', None])
def test_damaged_cache_is_ignored(tmp_path, cache, damage):
    path = tmp_path / 'a.bin'
    path.write_bytes(b'abc')
    first = file_fingerprint(path)
    record, = (cache / 'fingerprints').iterdir()
    if damage is None: record.write_text(json.dumps(json.loads(record.read_text())[:-1] + ['0']))
    else: record.write_bytes(damage)
    assert file_fingerprint(path) == first


def test_cache_that_cannot_be_written_to(tmp_path, cache):
    cache.write_text('a file where the folder should be')
    (tmp_path / 'a.bin').write_bytes(b'abc')
    assert len(file_fingerprint(tmp_path / 'a.bin')) == 64


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / 'a.bin', tmp_path):
        with pytest.raises(InputError, match=f'{path}: cannot be read .*; check the name') as said:
            file_fingerprint(path)
        assert str(said.value).count('\n') == 0


@pytest.mark.parametrize('strange', ['a pipe', '/dev/zero'])
def test_what_may_have_no_end(tmp_path, strange):
    "Neither read nor waited for, also not where it is named as weights."
    path = tmp_path / strange  # which is the latter where that begins at the root
    if not path.exists(): os.mkfifo(path)
    for reader in (file_fingerprint, find_weights):
        with pytest.raises(InputError, match='no regular file'): reader(path)


def test_two_processes_at_once(tmp_path):
    files = [tmp_path / f'{n}.bin' for n in range(40)]
    for n, path in enumerate(files): path.write_bytes(bytes(1000 + n))
    wanted = [file_fingerprint(path) for path in files]
    shutil.rmtree(tmp_path / 'cache')
    time.sleep(2.1)  # spawned processes have the true clock; a fork of one with threads may never end
    with multiprocessing.get_context('spawn').Pool(2) as pool:
        assert pool.map(file_fingerprint, 4 * files, chunksize=len(files)) == 4 * wanted
    assert len(list((tmp_path / 'cache' / 'fingerprints').iterdir())) == len(files)  # no unfinished one is left


# Cohorts of images in folders


def write_case(folder, name, number, shape=(16, 20, 18)):
    "An image and its label map of two structures; the paths."
    rng, labels = np.random.default_rng(number), np.zeros(shape, np.uint8)
    labels[4:12, 4:9, 4:14], labels[4:12, 9:14, 4:14] = 1, 2
    paths = folder / 'images' / f'{name}.nii.gz', folder / 'labels' / f'{name}.nii.gz'
    for path, data in zip(paths, (rng.random(shape).astype(np.float32), labels), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        save_volume(Volume(data, np.eye(4)), path)
    return paths


def hippocampus(folder):
    "Twelve cases named as in the Decathlon; the loader, and the files of a test case."
    for number in range(12): write_case(folder / 'hippocampus_msd04', f'hippocampus_{number:03}', number)
    files = [folder / 'hippocampus_msd04' / part / 'hippocampus_010.nii.gz' for part in ('images', 'labels')]
    return lambda at: load_cohort('hippocampus', at), files


def own_folder(folder):
    "Seven cases with a manifest and a table of labels; the loader, and the files of a test case."
    lines = ['case,image,labels,split']
    for number, split in enumerate(['train'] * 3 + ['validation', 'test'] * 2):
        write_case(folder, f'case{number}', number)
        lines.append(f'case{number},images/case{number}.nii.gz,labels/case{number}.nii.gz,{split}')
    (folder / 'manifest.csv').write_text('\n'.join(lines) + '\n')
    (folder / 'labels.csv').write_text('id,name\n1,head\n2,tail\n')
    return lambda at: load_cohort('folder', at), [folder / part / 'case6.nii.gz' for part in ('images', 'labels')]


FOLDERS = pytest.mark.parametrize('make', [hippocampus, own_folder], ids=['hippocampus', 'folder'])


def scored_on(cohort):
    "The cases of the test pairs."
    return sorted({case for pair in cohort.test_pairs for case in pair})


def prints(cohort):
    "Fingerprints of what trains and of what tests."
    return cohort.fingerprint(cohort.train), cohort.fingerprint(scored_on(cohort))


@FOLDERS
def test_copied_and_touched_data_are_the_same(tmp_path, make):
    (tmp_path / 'data').mkdir()
    load, files = make(tmp_path / 'data')
    first = load(tmp_path / 'data').fingerprint()
    shutil.copytree(tmp_path / 'data', tmp_path / 'another place')
    os.utime(files[0])
    assert load(tmp_path / 'data').fingerprint() == first == load(tmp_path / 'another place').fingerprint()


def edit(path, change, labels=False):
    "Write a volume again, changed."
    save_volume(change(load_volume(path, labels)), path)


def moved(volume):
    "The same voxels, a millimetre further to the right."
    return replace(volume, affine=volume.affine + np.outer([1, 0, 0, 0], [0, 0, 0, 1]))


def flipped(volume):
    "The mirror image."
    return replace(volume, data=volume.data[::-1])


def corrected(volume):
    "A label map of which one voxel belongs to the other structure."
    data = volume.data.copy()
    data[4, 4, 4] = 2
    return replace(volume, data=data)


@FOLDERS
@pytest.mark.parametrize('changes', [(None, corrected), (flipped, None), (moved, moved)],
                         ids=['label', 'image', 'affine only'])
def test_change_of_a_test_case(tmp_path, make, changes):
    load, files = make(tmp_path)
    trained, tested = prints(load(tmp_path))
    for path, change, labels in zip(files, changes, (False, True), strict=True):
        if change: edit(path, change, labels)
    again = prints(load(tmp_path))
    assert again[0] == trained and again[1] != tested


@FOLDERS
def test_case_added(tmp_path, make):
    load, files = make(tmp_path)
    before = load(tmp_path)
    for path, part in zip(files, ('images', 'labels'), strict=True):
        shutil.copy(path, path.with_name(path.name.replace('010', '012').replace('case6', 'case7')))
    if make is own_folder:
        with open(tmp_path / 'manifest.csv', 'a') as file:
            file.write('case7,images/case7.nii.gz,labels/case7.nii.gz,train\n')
    assert load(tmp_path).fingerprint() != before.fingerprint()
    assert load(tmp_path).fingerprint(before.cases) == before.fingerprint()  # of the old ones nothing changed


def test_structures_renamed_and_grouped(tmp_path):
    load, _ = own_folder(tmp_path)
    found = [load(tmp_path).fingerprint(['case0'])]
    for text in ('id,name\n1,Head\n2,tail\n', 'id,name,group\n1,head,all\n2,tail,all\n', 'id,name\n1,head\n'):
        (tmp_path / 'labels.csv').write_text(text)
        found.append(load(tmp_path).fingerprint(['case0']))
    assert len({*found}) == 4


def test_atlas_counts_for_every_case(tmp_path):
    load, files = own_folder(tmp_path)
    manifest = tmp_path / 'manifest.csv'
    manifest.write_text(manifest.read_text().replace('case4.nii.gz,test', 'case4.nii.gz,atlas'))
    first = load(tmp_path).fingerprint(['case0'])
    edit(tmp_path / 'labels' / 'case4.nii.gz', corrected, labels=True)
    assert load(tmp_path).fingerprint(['case0']) != first


def test_missing_file_and_unknown_case(tmp_path):
    load, files = hippocampus(tmp_path)
    cohort = load(tmp_path)
    files[0].unlink()
    with pytest.raises(InputError, match='hippocampus_010.nii.gz: cannot be read'): cohort.fingerprint()
    with pytest.raises(InputError, match='case_1: no case of the cohort hippocampus'): cohort.fingerprint(['case_1'])


# Cohorts with a page of their own


def test_ixi(tmp_path):
    root = make_ixi_like(tmp_path, (32, 32, 32), (2, 1, 1), distinct=4)
    first = prints(load_cohort('ixi', tmp_path))
    shutil.copytree(root, tmp_path / 'elsewhere')
    assert prints(load_cohort('ixi', tmp_path / 'elsewhere')) == first
    path = root / 'Test' / 'subject_1.pkl'
    path.write_bytes(path.read_bytes()[:-20000] + bytes(20000))
    changed = prints(load_cohort('ixi', tmp_path))
    assert changed[0] == first[0] and changed[1] != first[1]
    (root / 'atlas.pkl').write_bytes((root / 'Val' / 'subject_1.pkl').read_bytes())
    assert prints(load_cohort('ixi', tmp_path))[0] != first[0]  # the atlas moves in every pair


def test_label_maps_make_new_images(tmp_path):
    files = {f'brain_{n}': tmp_path / f'training_seg_{n}.nii.gz' for n in range(3)}
    for case, path in files.items(): path.write_text(case)
    first = _folder_of(files, Recipe())
    assert _folder_of(files, Recipe(noise=0.1)) != first
    times = files['brain_1'].stat()
    files['brain_1'].write_text('Brain_1')  # corrected, of the same length, and dated back
    os.utime(files['brain_1'], ns=(times.st_atime_ns, times.st_mtime_ns))
    assert _folder_of(files, Recipe()) != first


def lung_files(root):
    "Files named as in DIR-Lab for two cases of a table; `fingerprint` does not read them."
    (root / 'cases.csv').write_text('case,x,y,z,dx,dy,dz,initial_tre_mm\n1,8,8,8,6,6,6,5\n7,8,8,8,6,6,6,5\n')
    for case in (1, 7):
        for phase in ('T00', 'T50'):
            (root / f'case{case}_{phase}.img').write_text(f'{case} {phase}')
            (root / f'case{case}_300_{phase}_xyz.txt').write_text(f'points of {case} {phase}')


@pytest.mark.parametrize('file', ['case1_T50.img', 'case1_T00.img', 'case1_300_T50_xyz.txt', 'cases.csv'])
def test_lung(tmp_path, file):
    lung_files(tmp_path)
    first = prints(lung_cohort('dirlab', tmp_path, '', False, 16))
    text = (tmp_path / file).read_text()
    (tmp_path / file).write_text(text.replace('1,8,8,8,6,6,6', '1,8,8,8,6,6,7') if file == 'cases.csv' else f'{text}!')
    trained, tested = prints(lung_cohort('dirlab', tmp_path, '', False, 16))
    assert trained == first[0] and tested != first[1]
    assert prints(lung_cohort('dirlab', tmp_path, '', False, 16, rule='sphere'))[1] != tested


def test_phantom_of_another_chest_or_recipe(tmp_path, monkeypatch):
    monkeypatch.setattr(phantom, 'make_phantom', lambda root, **kwargs: root)
    names = [_kept_phantom(tmp_path)]
    (tmp_path / 'cip_chestct64').mkdir()
    for name in ('ct-64.nrrd', 'wholeLung-64.nrrd'): (tmp_path / 'cip_chestct64' / name).write_text('a chest')
    names.append(_kept_phantom(tmp_path))
    (tmp_path / 'cip_chestct64' / 'ct-64.nrrd').write_text('another')
    names.append(_kept_phantom(tmp_path))
    monkeypatch.setattr(phantom.scan, '__defaults__', (20.,))
    names.append(_kept_phantom(tmp_path))
    assert len({*names}) == 4
    shutil.copytree(tmp_path / 'cip_chestct64', tmp_path / 'copy' / 'cip_chestct64')
    assert _kept_phantom(tmp_path / 'copy') == names[-1]


def test_template_follows_its_recipe(monkeypatch):
    first = load_cohort('template').fingerprint()
    assert load_cohort('template').fingerprint() == first
    monkeypatch.setattr(template.random_appearance, '__defaults__', (0.12, 0.15, 0.05))
    assert load_cohort('template').fingerprint() != first


def test_cohort_without_files_is_read():
    def of(value):
        return Cohort('made', 'made', True, (16,) * 3, (1.,) * 3, {1: 'a'}, None, ('a',), ('b',), (('a', 'b'),),
                      (('b', 'a'),), lambda case: (np.full((16,) * 3, value, np.float32), np.ones((16,) * 3, np.uint8)))

    assert of(0.5).fingerprint() == of(0.5).fingerprint() != of(0.6).fingerprint()
