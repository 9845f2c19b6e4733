"The check of a folder of one's own looks at what training will see, at any voxel size."
import csv
import gzip
import os
import shutil

import nibabel as nib
import numpy as np
import pytest
from test_bad_input import refused

from regpre_nb.data.cohorts import check, load_cohort
from regpre_nb.data.folder import export_folder
from regpre_nb.use.cli import main

SPLITS = ['train']*4 + ['validation']*2 + ['test']*3
SHAPE = 24, 28, 20


def balls(number):
    "An image of bright balls in a ball and its label map; the number moves them."
    rng, centres = np.random.default_rng(number), np.random.default_rng(7).uniform(-.5, .5, (3, 3))
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing='ij'), -1)
    image, labels = np.where(np.linalg.norm(grid, axis=-1) < .9, .3, 0.), np.zeros(SHAPE, np.int16)
    for k, centre in enumerate(centres):
        inside = np.linalg.norm(grid - centre - rng.normal(0, .08, 3), axis=-1) < .3
        image[inside], labels[inside] = .45 + .18*k, k + 1
    return (image + .02*rng.standard_normal(SHAPE)).astype(np.float32), labels


def write(path, voxels, affine=None, unit='mm', dtype=None):
    "Write a NIfTI file as it is."
    image = nib.Nifti1Image(voxels, np.eye(4) if affine is None else affine, dtype=dtype)
    image.header.set_xyzt_units(unit)
    nib.save(image, path)


def sized(size):
    "An affine with these voxels (mm)."
    return np.diag([*np.broadcast_to(size, 3).astype(float), 1])


def table(folder, rows, head=('case', 'image', 'labels', 'split')):
    "Write a manifest."
    with open(folder/'manifest.csv', 'w', newline='', encoding='utf-8') as file:
        csv.writer(file).writerows([head, *rows])


def rows_of(names):
    "The rows of a manifest."
    files = ((f'{i}_image.nii.gz', f'{i}_labels.nii.gz') for i in range(9))
    return [[name, *pair, part] for name, pair, part in zip(names, files, SPLITS)]


def fill(folder, size=1., names=None, unit='mm'):
    "A sound folder of nine cases."
    for i in range(9):
        for kind, voxels in zip(('image', 'labels'), balls(i)):
            write(folder/f'{i}_{kind}.nii.gz', voxels, sized(size), unit)
    table(folder, rows_of(names or [f's{i}' for i in range(9)]))
    return folder


@pytest.fixture(scope='module')
def sound(tmp_path_factory): return fill(tmp_path_factory.mktemp('sound'))


@pytest.fixture
def own(sound, tmp_path): return shutil.copytree(sound, tmp_path/'own')


@pytest.fixture
def command(monkeypatch, capsys):
    "Run `regpre data check folder` in this process."
    def run(folder):
        monkeypatch.setattr('sys.argv', ['regpre', 'data', 'check', 'folder', str(folder)])
        with pytest.raises(SystemExit) as stopped: main()
        done = type('Done', (), {})()
        done.returncode = stopped.value.code or 0
        done.stdout, done.stderr = capsys.readouterr()
        return done
    return run


def accepted(done, *mentions):
    "The check is content."
    assert done.returncode == 0 and 'Every case can be used' in done.stdout, done.stderr
    for text in mentions: assert text in done.stdout, done.stdout


# Names

NAMES = ['001', 'NA', 'null', '1e5', 'True', 'a/b', 'a_b', '..', '.hidden']


def test_names_are_text(tmp_path, command):
    "Also those that look like numbers, missing values or paths; the header and labels.csv of a spreadsheet too."
    fill(tmp_path, names=NAMES)
    content = (tmp_path/'manifest.csv').read_text()
    spaced = content.replace(',', ', ').replace('labels, split', 'labels , split')
    (tmp_path/'manifest.csv').write_text(spaced, 'utf-8-sig')
    (tmp_path/'labels.csv').write_text('id,name,group\n1,NA,01\n2,3,01\n3,null,NaN\n')
    accepted(command(tmp_path))
    cohort = load_cohort('folder', tmp_path)
    assert set(cohort.cases) == set(NAMES)
    assert cohort.structures == {1: 'NA', 2: '3', 3: 'null'} and cohort.groups == {'01': ['NA', '3'], 'NaN': ['null']}


def test_names_make_files_of_their_own(tmp_path):
    "Written as a folder and read again, every case is what it was, and nothing lies elsewhere."
    (tmp_path/'in').mkdir()
    cohort = load_cohort('folder', fill(tmp_path/'in', names=NAMES))
    export_folder(cohort, cohort.cases, tmp_path/'out'/'deep')
    assert len(list((tmp_path/'out'/'deep').iterdir())) == 19 and len(list((tmp_path/'out').iterdir())) == 1
    again = load_cohort('folder', tmp_path/'out'/'deep')
    for case in NAMES: assert (again.labels(case) == cohort.labels(case)).all()


def test_unprintable_name(own, command):
    table(own, rows_of(['s\n0', *(f's{i}' for i in range(1, 9))]))
    refused(command(own), 'cannot be printed')


# Units and sizes

@pytest.mark.parametrize('size, unit, shown', [
    (1.25e-3, 'mm', '0.00125x0.00125x0.00125 mm'), (0.65, 'micron', '0.00065x0.00065x0.00065 mm'),
    (0.65e-3, 'mm', '0.00065x0.00065x0.00065 mm'), (1e-3, 'meter', '1x1x1 mm'), (3e-6, 'mm', '3e-06x3e-06x3e-06 mm'),
    (40., 'mm', '40x40x40 mm')])
def test_any_voxel_size(tmp_path, command, size, unit, shown):
    "Nothing is resampled where all cases have one size, whatever it is."
    accepted(command(fill(tmp_path, size, unit=unit)), '32x32x32 voxels of ' + shown)
    cohort = load_cohort('folder', tmp_path)
    assert (cohort.labels('s3')[0, 4:28, 2:30, 6:26].numpy() == balls(3)[1]).all()


@pytest.mark.parametrize('size', [1000, 1e-3, 10, 0.1, 25.4, (1, 1, 10), (0.1, 1, 1), 1e6])
def test_one_header_in_another_unit(own, command, size):
    "The case is named, and no grid is made for it."
    for kind, voxels in zip(('image', 'labels'), balls(7)): write(own/f'7_{kind}.nii.gz', voxels, sized(size))
    refused(command(own), 'line 9 (case s7)', 'as in the median', 'unit')


@pytest.mark.parametrize('unit, named', [('micron', True), ('meter', True), ('mm', False), ('unknown', False)])
def test_declared_unit(own, command, unit, named):
    for kind, voxels in zip(('image', 'labels'), balls(7)): write(own/f'7_{kind}.nii.gz', voxels, sized(1), unit)
    done = command(own)
    if named: refused(done, 'line 9 (case s7)', 'unit')
    else: accepted(done)


def test_half_of_the_headers_in_another_unit(own, command):
    for i in (1, 3, 5, 7):
        for kind, voxels in zip(('image', 'labels'), balls(i)): write(own/f'{i}_{kind}.nii.gz', voxels, sized(1000))
    refused(command(own), '3 more cases', 'unit')


def test_one_large_image(own, command):
    "One of another size by far does not choose the grid."
    write(own/'7_image.nii.gz', np.random.default_rng(0).random((200, 28, 20)).astype(np.float32))
    write(own/'7_labels.nii.gz', np.ones((200, 28, 20), np.uint8))
    refused(command(own), 'line 9 (case s7)', '200x28x20 mm', 'as long')


def test_too_large_for_one_grid(own, command):
    "No memory is asked for."
    for i in range(9):
        for kind in ('image', 'labels'):
            head = nib.load(own/f'{i}_{kind}.nii.gz').header
            head.set_data_shape((1000, 1000, 1000) if i < 5 else (1000, 1200, 800))
            head.set_data_dtype(np.uint8)
            with open(own/f'{i}_{kind}.nii', 'wb') as file:
                file.write(head.binaryblock)
                file.truncate(10**9 + 352)
    table(own, [[cell.removesuffix('.gz') for cell in row] for row in rows_of([f's{i}' for i in range(9)])])
    refused(command(own), '1008x1200x1008 voxels', 'resample')


# Labels on the grid of their image and on the common grid

@pytest.mark.parametrize('size', [1., 1.25e-3, 30.])
@pytest.mark.parametrize('voxels, fine', [(0.002, True), (0.7, False), (0.3, False)])
def test_labels_off_their_image(tmp_path, command, size, voxels, fine):
    fill(tmp_path, size)
    moved = sized(size)
    moved[1, 3] += voxels*size
    write(tmp_path/'6_labels.nii.gz', balls(6)[1], moved)
    done = command(tmp_path)
    if fine: accepted(done)
    else: refused(done, 'line 8 (case s6)', 'voxels off', 'header of its image')


def test_label_that_vanishes(tmp_path, command):
    "A structure thinner than a voxel of the common grid is named with its case; one that a case lacks is not."
    fill(tmp_path)
    sheet = np.zeros((48, 56, 40), np.uint8)
    sheet[10:20, 10:20, 22], sheet[20:30, 30:40, 4:20] = 2, 1
    write(tmp_path/'8_image.nii.gz', np.kron(balls(8)[0], np.ones((2, 2, 2), np.float32)), sized(0.4))
    write(tmp_path/'8_labels.nii.gz', sheet, sized(0.4))
    done = command(tmp_path)
    refused(done, 'line 10 (case s8)', '8_labels.nii.gz', '2 (label 2, 100 voxels in the file)',
            'common grid of 1x1x1 mm')
    sheet[sheet == 2] = 0
    write(tmp_path/'8_labels.nii.gz', sheet, sized(0.4))
    accepted(command(tmp_path))


def scaled(path):
    "The same labels as 0.3333333 times what is stored."
    write(path, 3*balls(6)[1])
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[112:120] = np.array([0.3333333, 0], np.float32).tobytes()
    path.write_bytes(gzip.compress(content))


ALMOST = {
    'rounded up': lambda path: write(path, balls(6)[1]*np.float32(1.0000001)),
    'rounded down': lambda path: write(path, balls(6)[1]*0.9999999),
    'scaled': scaled,
    'big-endian': lambda path: write(path, balls(6)[1].astype('>i4')),
    'float64': lambda path: write(path, balls(6)[1].astype(float)),
    'one volume in four dimensions': lambda path: write(path, balls(6)[1][..., None]),
}


@pytest.mark.parametrize('how', ALMOST)
def test_labels_that_are_whole(own, how):
    ALMOST[how](own/'6_labels.nii.gz')
    assert (check(load_cohort('folder', own)).labels('s6')[0, 4:28, 2:30, 6:26].numpy() == balls(6)[1]).all()


def test_axes_of_any_direction(own):
    "Left-handed axes and negative steps are turned, not mirrored."
    for kind, voxels in zip(('image', 'labels'), balls(6)):
        write(own/f'6_{kind}.nii.gz', voxels[::-1, ::-1], np.diag([-1., -1, 1, 1]))
    assert (check(load_cohort('folder', own)).labels('s6')[0, 4:28, 2:30, 6:26].numpy() == balls(6)[1]).all()


# Files that are not what they should be

def grey(folder, kind, change):
    "Write a changed image or label map of case s6."
    write(folder/f'6_{kind}.nii.gz', change(balls(6)[kind == 'labels']))


def truncated(path):
    path.write_bytes(path.read_bytes()[:-2000])


def announcing(path, shape):
    "A file whose header announces more voxels than there are."
    head = nib.load(path).header
    head.set_data_shape(shape)
    path.write_bytes(gzip.compress(head.binaryblock + bytes(5000)))


WRONG = {
    'labels as image': (lambda f: write(f/'6_image.nii.gz', balls(6)[1].astype(np.float32)), ['6_image', 'label map']),
    'image as labels': (lambda f: grey(f, 'labels', lambda _: balls(6)[0]), ['6_labels', 'whole numbers', 'label map']),
    'whole image as labels': (lambda f: grey(f, 'labels', lambda _: np.int16(1000 + 1000*balls(6)[0])),
                              ['6_labels', 'is an image']),
    'whole image as the first labels': (lambda f: write(f/'0_labels.nii.gz', np.int16(1000 + 1000*balls(0)[0])),
                                        ['0_labels', 'is an image']),
    'labels in halves': (lambda f: grey(f, 'labels', lambda a: a*np.float32(0.5)),
                    ['6_labels', 'whole numbers', '1.5']),
    'labels a hundredth off': (lambda f: grey(f, 'labels', lambda a: a + np.float32(0.01)),
                    ['6_labels', 'whole numbers']),
    'negative labels': (lambda f: grey(f, 'labels', lambda a: -a), ['6_labels', 'whole numbers', '-']),
    'empty labels': (lambda f: grey(f, 'labels', lambda a: 0*a), ['6_labels', 'none of the labels']),
    'empty file': (lambda f: (f/'6_labels.nii.gz').write_bytes(b''), ['6_labels', 'damaged']),
    'truncated': (lambda f: truncated(f/'6_image.nii.gz'), ['6_image', 'damaged']),
    'header announces more': (lambda f: announcing(f/'6_image.nii.gz', (900, 900, 900)), ['6_image', 'damaged']),
    'header announces far more': (lambda f: announcing(f/'6_image.nii.gz', (30000, 30000, 30000)),
                    ['6_image', 'damaged']),
    'constant': (lambda f: grey(f, 'image', lambda a: 0*a + 7), ['6_image', 'same value']),
    'nan': (lambda f: grey(f, 'image', lambda a: np.where(a > 0.7, np.nan, a)), ['6_image', 'NaN']),
    'complex': (lambda f: grey(f, 'image', lambda a: a.astype(np.complex64)), ['6_image', 'complex']),
    'colours': (lambda f: grey(f, 'image', lambda a: np.zeros(a.shape, [(c, 'u1') for c in 'RGB'])),
                    ['6_image', 'grey']),
    'two volumes': (lambda f: grey(f, 'image', lambda a: np.stack([a, a], -1)), ['6_image', 'one volume per file']),
    'a slice': (lambda f: [grey(f, kind, lambda a: a[:, :, 10]) for kind in ('image', 'labels')], ['6_image', 'slice']),
    'a slice in 3-D': (lambda f: [grey(f, kind, lambda a: a[:, :, 10:11]) for kind in ('image', 'labels')],
                       ['6_image', 'slice']),
    'flat affine': (lambda f: [flat(f/f'6_{kind}.nii.gz') for kind in ('image', 'labels')],
                    ['6_image', 'not invertible']),
    'a case without its image': (lambda f: (f/'6_image.nii.gz').unlink(), ['6_image', 'correct the path']),
}


def flat(path):
    "Two axes of the header are one."
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[296:312] = content[280:296]  # srow_y is srow_x
    path.write_bytes(gzip.compress(content))


@pytest.mark.parametrize('wrong', WRONG)
def test_wrong_file(own, command, wrong):
    "The row and the file are named."
    spoil, mentions = WRONG[wrong]
    spoil(own)
    refused(command(own), 'manifest.csv, line ', *mentions)


def test_hot_voxels(own):
    "A few absurd intensities do not darken an image, resampled or not."
    image, labels = balls(6)
    image[3, 3, 3] = 1e30
    for size in (1., 1.5, 0.4):
        write(own/'6_image.nii.gz', image, sized(size))
        write(own/'6_labels.nii.gz', labels, sized(size))
        assert (check(load_cohort('folder', own)).image('s6') > 0.2).sum() > 200, size


# The same file twice

def linked(folder):
    (folder/'link.nii.gz').symlink_to(folder/'0_image.nii.gz')
    return 'link.nii.gz'


def hard_linked(folder):
    os.link(folder/'0_image.nii.gz', folder/'hard.nii.gz')
    return 'hard.nii.gz'


def copied(folder):
    shutil.copy(folder/'0_image.nii.gz', folder/'copy.nii.gz')
    return 'copy.nii.gz'


def converted(folder):
    write(folder/'same.nii', balls(0)[0].astype(float))
    return 'same.nii'


ALIASES = {'name': lambda folder: '0_image.nii.gz', 'path': lambda folder: '../own/0_image.nii.gz',
           'absolute': lambda folder: folder/'0_image.nii.gz', 'link': linked, 'hard link': hard_linked,
           'copy': copied, 'other format': converted}


@pytest.mark.parametrize('how', ALIASES)
@pytest.mark.parametrize('case', [1, 8], ids=['train', 'test'])
def test_image_under_two_names(own, command, how, case):
    "In two parts or in one, it is said which cases share it."
    rows = rows_of([f's{i}' for i in range(9)])
    rows[case][1] = str(ALIASES[how](own))
    table(own, rows)
    done = command(own)
    refused(done, 's0', f's{case}')


def test_file_as_image_and_labels(own, command):
    rows = rows_of([f's{i}' for i in range(9)])
    rows[5][1] = rows[5][2]
    table(own, rows)
    refused(command(own), 'line 7 (case s5)', 'also the image')
