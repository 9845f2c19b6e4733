"Warps as others read them, and the commands on warps: SimpleITK, ANTs, FSL's convention, measures, and bad calls."
import json
import sys
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from commands import regpre
from scipy import ndimage
from test_bad_input import refused

from regpre_nb.data.volumes import Volume, load_volume, save_volume
from regpre_nb.method.settings import InputError
from regpre_nb.use.cli import main
from regpre_nb.use.transforms import Warp, load_affine, load_transform, load_warp, read_fsl, save_affine, save_warp

LPS = np.array([-1, -1, 1])
needs_ants = pytest.mark.skipif(find_spec('ants') is None, reason='ANTsPy is not installed')


def affine(degrees, steps, centre, shape):
    "A grid turned about two axes; a negative step reverses an axis. Its middle lies at `centre`."
    a, b = np.radians(degrees), np.radians(0.6*degrees)
    first = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    second = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    found = np.eye(4)
    found[:3, :3] = first @ second @ np.diag(steps)
    found[:3, 3] = centre - found[:3, :3] @ ((np.array(shape) - 1)/2)
    return found


FIXED, MOVING = (24, 20, 14), (30, 26, 28)  # voxels
PAIRS = {  # steps of the fixed and of the moving image, mm; an odd number of negative ones: radiological
    'radiological': ((-1.5, 2., 3.), (-1.2, 1.8, 1.5)), 'neurological': ((1.5, 2., 3.), (1.2, 1.8, 1.5)),
    'one of each': ((1.5, 2., 3.), (-1.2, 1.8, 1.5)), 'the other way': ((-1.5, 2., 3.), (1.2, -1.8, -1.5))}


@pytest.fixture(scope='module', params=PAIRS)
def pair(request, tmp_path_factory):
    "An oblique, anisotropic pair in a folder: images, a label map, a displacement, an affine map, both as one warp."
    folder, (fixed_steps, moving_steps) = tmp_path_factory.mktemp('pair'), PAIRS[request.param]
    rng = np.random.default_rng(3)
    fixed_affine = affine(17, fixed_steps, (10, -5, 20), FIXED)
    moving_affine = affine(-11, moving_steps, (14, -3, 18), MOVING)
    blobs = ndimage.gaussian_filter(rng.normal(size=MOVING), 1.5)
    blobs = (1000*(blobs - blobs.min())/np.ptp(blobs)).astype(np.float32)
    turn = affine(5, (1.05, 0.95, 1.), (0, 0, 0), (1, 1, 1))
    turn[:3, 3] = np.array([14, -3, 18]) - turn[:3, :3] @ [10, -5, 20]
    grid = Volume(np.zeros(FIXED, np.float32), fixed_affine)
    x = grid.world(np.stack(np.mgrid[tuple(slice(n) for n in FIXED)], -1))
    bend = Warp((1.5*np.sin(x[..., [1, 2, 0]]/8)).astype(np.float32), fixed_affine)
    for name, volume in {'moving': Volume(blobs, moving_affine), 'fixed': grid,
                         'labels': Volume((blobs/250).astype(np.int16)*np.int16(300), moving_affine)}.items():
        save_volume(volume, folder / f'{name}.nii.gz')
    save_warp(bend, folder / 'bend.nii.gz')
    save_affine(turn, folder / 'turn.mat')
    points = grid.world(rng.uniform(1, np.array(FIXED) - 2, (40, 3)))
    for name, sign in (('points', 1), ('points_lps', LPS)):
        pd.DataFrame(points*sign, columns=list('xyz')).to_csv(folder / f'{name}.csv', index=False)
    done = regpre('compose', 'bend.nii.gz', 'turn.mat', 'warp.nii.gz', cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def sure(*line, cwd):
    "Run a command that must succeed."
    done = regpre(*' '.join(map(str, line)).split(), cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done


def coordinates(path):
    "The points of a table."
    return pd.read_csv(path)[['x', 'y', 'z']].to_numpy()


# Other programs

def by_simpleitk(folder, files):
    "The transform that SimpleITK makes of files, the first one applied first."
    parts = [sitk.ReadTransform(str(folder / name)) if name.endswith('.mat') else
             sitk.DisplacementFieldTransform(sitk.ReadImage(str(folder / name), sitk.sitkVectorFloat64))
             for name in files]
    return sitk.CompositeTransform(parts[::-1])


@pytest.mark.parametrize('files', ['warp.nii.gz', 'bend.nii.gz turn.mat'])
def test_simpleitk_agrees(pair, tmp_path, files):
    "The same image and the same points, whether the map lies in one file or two."
    sure('apply', files, 'moving.nii.gz', tmp_path / 'out.nii.gz', cwd=pair)
    sure('points', files, 'points.csv', tmp_path / 'out.csv', cwd=pair)
    transform = by_simpleitk(pair, files.split())
    images = [sitk.ReadImage(str(pair / f'{name}.nii.gz')) for name in ('moving', 'fixed')]
    theirs = sitk.GetArrayFromImage(sitk.Resample(*images, transform, sitk.sitkLinear, 0.)).T
    assert (theirs > 0).mean() > 0.5
    assert np.abs(load_volume(tmp_path / 'out.nii.gz').data - theirs).max() < 1e-3*np.ptp(theirs)
    moved = [transform.TransformPoint((p*LPS).tolist())*LPS for p in coordinates(pair / 'points.csv')]
    assert np.linalg.norm(coordinates(tmp_path / 'out.csv') - moved, axis=1).max() < 0.01


@needs_ants
@pytest.mark.parametrize('files', ['warp.nii.gz', 'bend.nii.gz turn.mat'])
def test_ants_agrees(pair, tmp_path, files):
    "As with SimpleITK."
    import ants
    sure('apply', files, 'moving.nii.gz', tmp_path / 'out.nii.gz', cwd=pair)
    sure('points', files, 'points_lps.csv', tmp_path / 'out.csv', '--lps', cwd=pair)
    listed = [str(pair / name) for name in files.split()]
    images = [ants.image_read(str(pair / f'{name}.nii.gz')) for name in ('fixed', 'moving')]
    theirs = ants.apply_transforms(*images, listed).numpy()
    assert np.abs(load_volume(tmp_path / 'out.nii.gz').data - theirs).max() < 1e-3*np.ptp(theirs)
    moved = ants.apply_transforms_to_points(3, pd.read_csv(pair / 'points_lps.csv'), listed).to_numpy()
    assert np.linalg.norm(coordinates(tmp_path / 'out.csv') - moved, axis=1).max() < 0.01


@pytest.mark.parametrize('suffix', ['.mat', '.tfm', '.txt'])
def test_affine_files(tmp_path, suffix):
    "SimpleITK maps a point by the file as the matrix does; what is no such map is refused."
    matrix, point = affine(25, (1.1, 0.9, 1.05), (3, -8, 12), (1, 1, 1)), np.array([10., -20., 30.])
    path = save_affine(matrix, tmp_path / f'map{suffix}')
    theirs = sitk.ReadTransform(str(path)).TransformPoint((point*LPS).tolist())*LPS
    assert np.allclose(theirs, (matrix @ [*point, 1])[:3], atol=1e-9)
    assert np.allclose(load_affine(path), matrix, atol=1e-9) and np.array_equal(load_transform(path), load_affine(path))
    sitk.WriteTransform(sitk.TranslationTransform(2), str(path))
    with pytest.raises(InputError, match='three dimensions'): load_affine(path)
    path.write_bytes(b'')
    with pytest.raises(InputError, match='cannot be read'): load_affine(path)


@needs_ants
def test_reads_what_ants_writes(tmp_path):
    "An affine map with a centre, as ANTs writes it after a registration."
    import ants
    matrix = affine(20, (1.1, 0.9, 1.), (0, 0, 0), (1, 1, 1))[:3, :3]
    theirs = ants.create_ants_transform(transform_type='AffineTransform', matrix=matrix, center=[5., 6., 7.],
                                        translation=[1., 2., 3.])
    ants.write_transform(theirs, str(tmp_path / 'theirs.mat'))
    ours, point = load_affine(tmp_path / 'theirs.mat'), np.array([4., -3., 2.])
    assert np.allclose((ours @ [*point, 1])[:3]*LPS, theirs.apply_to_point((point*LPS).tolist()), atol=1e-3)


def fsl_mm(index, shape, grid):
    "FSL's coordinates of a voxel: scaled indices, the first one reversed where the determinant is positive."
    sizes = np.sqrt((grid[:3, :3]**2).sum(0))
    first = shape[0] - 1 - index[0] if np.linalg.det(grid[:3, :3]) > 0 else index[0]
    return np.array([first, index[1], index[2]])*sizes


@pytest.mark.parametrize('kind', ['relative', 'absolute'])
def test_fsl(pair, tmp_path, kind):
    "What is written follows FSL's rule at single voxels, and comes back as it was. (FSL itself takes no part.)"
    sure('convert warp.nii.gz', tmp_path / 'fsl.nii.gz', '--to fsl --moving moving.nii.gz', f'--{kind}', cwd=pair)
    written, warp = nib.load(tmp_path / 'fsl.nii.gz'), load_warp(pair / 'warp.nii.gz')
    moving = nib.load(pair / 'moving.nii.gz').affine
    assert written.shape == (*FIXED, 3) and int(written.header['intent_code']) == 2006
    for index in ([2, 3, 4], [20, 1, 12], [11, 18, 0]):
        world = (warp.affine @ [*index, 1])[:3] + warp.displacement[tuple(index)]
        match = np.linalg.inv(moving) @ [*world, 1]
        expected = fsl_mm(match, MOVING, moving) - (kind == 'relative')*fsl_mm(index, FIXED, warp.affine)
        assert np.allclose(written.dataobj[tuple(index)], expected, atol=2e-3)
    done = sure('convert', tmp_path / 'fsl.nii.gz', tmp_path / 'back.nii.gz', '--to itk --moving moving.nii.gz',
                cwd=pair)
    assert kind in done.stdout
    assert np.allclose(load_warp(tmp_path / 'back.nii.gz').displacement, warp.displacement, atol=2e-3)
    assert read_fsl(tmp_path / 'fsl.nii.gz')[1].shape == FIXED


# Commands

@pytest.mark.parametrize('command', ['apply', 'convert', 'evaluate', 'points'])
def test_help(command):
    done = regpre(command, '--help')
    assert done.returncode == 0 and 'Usage: regpre' in done.stdout and done.stderr == ''


@pytest.fixture
def place(pair, tmp_path):
    "A folder with the pair and an output of an earlier run."
    for path in pair.iterdir(): (tmp_path / path.name).hardlink_to(path)
    (tmp_path / 'out.nii.gz').write_bytes(b'earlier')
    return tmp_path


one_pair = pytest.mark.parametrize('pair', ['one of each'], indirect=True)


@one_pair
def test_several_images(place):
    "Images and label maps at once; a line each says what they were taken for, and labels keep values and type."
    done = sure('apply bend.nii.gz turn.mat moving.nii.gz image.nii.gz labels.nii.gz mapped.nii.gz', cwd=place)
    assert ['as a label map' in line for line in done.stdout.splitlines()] == [False, True]
    image, mapped = (nib.load(place / f'{name}.nii.gz') for name in ('image', 'mapped'))
    assert image.get_data_dtype() == np.float32 and mapped.get_data_dtype() == np.int16
    assert set(np.unique(mapped.dataobj)) <= set(np.unique(nib.load(place / 'labels.nii.gz').dataobj))
    alone = sure('apply warp.nii.gz labels.nii.gz alone.nii.gz --labels', cwd=place)
    assert 'as a label map' in alone.stdout
    assert (load_volume(place / 'alone.nii.gz').data == np.asarray(mapped.dataobj)).mean() > 0.999
    forced = sure('apply warp.nii.gz labels.nii.gz forced.nii.gz --image', cwd=place)
    assert 'as an image' in forced.stdout and nib.load(place / 'forced.nii.gz').get_data_dtype() == np.float32


KINDS = {  # what a file holds -> whether it is taken for a label map
    'mask': (lambda grey: (grey > 500).astype(np.uint8), True),
    'few labels, wide apart': (lambda grey: (grey/250).astype(np.int32)*1000, True),
    'T1 in uint8': (lambda grey: (grey/4).astype(np.uint8), False),
    'CT in int16': (lambda grey: (grey*2 - 1000).astype(np.int16), False),
    'MR of 12 bits': (lambda grey: (grey*4).astype(np.uint16), False),
    'labels as floats': (lambda grey: np.floor(grey/250).astype(np.float32), True)}


@one_pair
@pytest.mark.parametrize('kind', KINDS)
def test_what_a_file_is_taken_for(place, kind):
    make, labels = KINDS[kind]
    moving = nib.load(place / 'moving.nii.gz')
    nib.save(nib.Nifti1Image(make(moving.get_fdata()), moving.affine), place / 'kind.nii.gz')
    told = sure('apply warp.nii.gz kind.nii.gz kept.nii.gz', cwd=place).stdout
    assert ('as a label map' in told, 'as an image' in told) == (labels, not labels)
    assert told.count('\n') == 1 and 'kind.nii.gz' in told


@one_pair
def test_affine_alone(place):
    "It has no grid of its own: --like names one; its inverse is a file, too."
    sure('apply turn.mat moving.nii.gz kept.nii.gz --like fixed.nii.gz', cwd=place)
    transform, images = by_simpleitk(place, ['turn.mat']), [sitk.ReadImage(str(place / f'{name}.nii.gz'))
                                                            for name in ('moving', 'fixed')]
    theirs = sitk.GetArrayFromImage(sitk.Resample(*images, transform, sitk.sitkLinear, 0.)).T
    assert np.abs(load_volume(place / 'kept.nii.gz').data - theirs).max() < 1e-3*np.ptp(theirs)
    sure('invert turn.mat back.tfm', cwd=place)
    assert np.allclose(load_affine(place / 'back.tfm') @ load_affine(place / 'turn.mat'), np.eye(4), atol=1e-9)


@one_pair
def test_points_in_voxels(place):
    "Indices of the fixed image become indices of the moving image: the same points as in millimetres."
    fixed, moving = (nib.load(place / f'{name}.nii.gz').affine for name in ('fixed', 'moving'))
    points = coordinates(place / 'points.csv')
    index = nib.affines.apply_affine(np.linalg.inv(fixed), points)
    pd.DataFrame(index, columns=list('xyz')).assign(name='p').to_csv(place / 'index.csv', index=False)
    sure('points bend.nii.gz turn.mat points.csv mm.csv', cwd=place)
    sure('points bend.nii.gz turn.mat index.csv voxels.csv --voxels --moving moving.nii.gz', cwd=place)
    expected = nib.affines.apply_affine(np.linalg.inv(moving), coordinates(place / 'mm.csv'))
    assert np.allclose(coordinates(place / 'voxels.csv'), expected, atol=1e-3)
    sure('points turn.mat index.csv affine.csv --voxels --moving moving.nii.gz --fixed fixed.nii.gz', cwd=place)
    expected = nib.affines.apply_affine(np.linalg.inv(moving) @ load_affine(place / 'turn.mat'), points)
    assert np.allclose(coordinates(place / 'affine.csv'), expected, atol=1e-3)


# Measures

@pytest.fixture
def measured(place):
    "The folder with label maps to compare, and landmarks that are off by (3, 0, 4) mm after the warp."
    fixed = np.zeros(FIXED, np.uint8)
    fixed[4:14, 4:14, 2:12] = 7
    fixed[16:20, 4:14, 2:12] = 9
    grid = nib.load(place / 'fixed.nii.gz').affine
    for name, voxels in {'fixed_labels': fixed, 'warped_labels': np.roll(fixed, 2, axis=1)}.items():
        nib.save(nib.Nifti1Image(voxels, grid), place / f'{name}.nii.gz')
    sure('points warp.nii.gz points.csv moved.csv', cwd=place)
    table = pd.read_csv(place / 'moved.csv') + [3, 0, 4]
    table.to_csv(place / 'marks.csv', index=False)
    return place


LINE = ('evaluate --labels warped_labels.nii.gz --fixed-labels fixed_labels.nii.gz --warp warp.nii.gz '
        '--moving-points marks.csv --fixed-points points.csv')


@one_pair
def test_evaluate(measured):
    "Cubes of 10 voxels, two voxels of 2 mm apart; landmarks 5 mm off."
    told = json.loads(sure(LINE, '--json --csv all.csv', cwd=measured).stdout)
    values = {(row['measure'], row['of']): row['value'] for row in told['measures']}
    assert values['dice', 7] == values['dice', 9] == values['dice_mean', 'all'] == pytest.approx(0.8)
    if find_spec('monai'): assert values['hd95_mm', 7] == pytest.approx(4, abs=1e-4)
    assert values['tre_mean_mm', 'all'] == pytest.approx(5, abs=1e-3) and values['ndv_percent', 'all'] == 0
    apart = np.linalg.norm(coordinates(measured / 'marks.csv') - coordinates(measured / 'points.csv'), axis=1)
    assert values['tre_before_mean_mm', 'all'] == pytest.approx(apart.mean(), abs=1e-3)
    table = pd.read_csv(measured / 'all.csv')
    assert len(table) == len(told['measures']) and list(table) == ['measure', 'of', 'value']
    printed = sure(LINE, cwd=measured).stdout
    assert '0.8000' in printed and 'tre_mean_mm: 5.0000' in printed


@one_pair
def test_evaluate_in_parts(measured):
    "Without landmarks, without a warp, by the pair of files, in LPS, one label only."
    lines = ['--labels warped_labels.nii.gz --fixed-labels fixed_labels.nii.gz --label 9 --no-hd95',
             '--warp bend.nii.gz --warp turn.mat --fixed-points points.csv --moving-points marks.csv']
    told = [json.loads(sure('evaluate', line, '--json', cwd=measured).stdout)['measures'] for line in lines]
    assert {row['measure'] for row in told[0]} == {'dice', 'dice_mean'} and told[0][0]['of'] == 9
    assert [row['value'] for row in told[1] if row['measure'] == 'tre_mean_mm'] == [pytest.approx(5, abs=1e-3)]
    (pd.read_csv(measured / 'marks.csv')*LPS).to_csv(measured / 'marks_lps.csv', index=False)
    line = '--warp warp.nii.gz --fixed-points points_lps.csv --moving-points marks_lps.csv --lps'
    assert 'tre_mean_mm: 5.0000' in sure('evaluate', line, cwd=measured).stdout


@one_pair
def test_without_monai(measured, monkeypatch, capsys):
    "A sentence says what is left out; where HD95 is asked for, it is an error."
    monkeypatch.setattr('regpre_nb.use.evaluate.find_spec', lambda name: None)
    monkeypatch.chdir(measured)
    monkeypatch.setattr(sys, 'argv', ['regpre', *LINE.split()])
    with pytest.raises(SystemExit) as ended: main()
    told = capsys.readouterr()
    assert not ended.value.code and 'MONAI is not installed' in told.out and 'HD95 (mm)' not in told.out
    monkeypatch.setattr(sys, 'argv', ['regpre', *LINE.split(), '--hd95'])
    with pytest.raises(SystemExit) as ended: main()
    assert ended.value.code == 2 and 'MONAI' in capsys.readouterr().err


# What is refused

def spoil(folder):
    "Files that cannot be used."
    points = pd.read_csv(folder / 'points.csv')
    points.assign(y=np.where(np.arange(len(points)) == 3, np.nan, points['y'])).to_csv(folder / 'nan.csv', index=False)
    points.drop(columns='z').to_csv(folder / 'flat.csv', index=False)
    points[:0].to_csv(folder / 'none.csv', index=False)
    (points + 500).to_csv(folder / 'far.csv', index=False)
    points[:5].to_csv(folder / 'five.csv', index=False)
    (folder / 'fsl.mat').write_text('1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n')
    grid = nib.load(folder / 'fixed.nii.gz').affine
    nib.save(nib.Nifti1Image(np.zeros(FIXED, np.uint8), grid), folder / 'empty.nii.gz')
    nib.save(nib.Nifti1Image(np.full((*FIXED, 1, 3), np.nan, np.float32), grid), folder / 'holes.nii.gz')
    image = nib.load(folder / 'holes.nii.gz')
    image.header.set_intent('vector')
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), grid, image.header), folder / 'holes.nii.gz')


BAD = [
    ('apply absent.nii.gz moving.nii.gz out.nii.gz', 'absent.nii.gz: no such file'),
    ('apply absent.mat moving.nii.gz out.nii.gz', 'absent.mat: no such file'),
    ('apply warp.nii.gz absent.nii.gz out.nii.gz', 'absent.nii.gz: no such file'),
    ('apply warp.nii.gz moving.nii.gz out.nii.gz --like absent.nii.gz', 'absent.nii.gz: no such file'),
    ('apply moving.nii.gz fixed.nii.gz out.nii.gz', 'a warp has'),
    ('apply holes.nii.gz moving.nii.gz out.nii.gz', 'holes.nii.gz: holds NaN'),
    ('apply fsl.mat moving.nii.gz out.nii.gz', 'none of FSL'),
    ('apply turn.mat moving.nii.gz out.nii.gz', 'is an affine map, which has no grid'),
    ('apply warp.nii.gz moving.nii.gz', 'take turns'),
    ('apply warp.nii.gz moving.nii.gz out.nii.gz labels.nii.gz', 'take turns'),
    ('apply warp.nii.gz moving.nii.gz a.nii.gz bend.nii.gz b.nii.gz', 'bend.nii.gz: is a warp and stands among'),
    ('apply warp.nii.gz moving.nii.gz moving.nii.gz', 'is named twice'),
    ('apply warp.nii.gz moving.nii.gz warp.nii.gz', 'is named twice'),
    ('apply warp.nii.gz moving.nii.gz a.nii.gz labels.nii.gz a.nii.gz', 'is named twice'),
    ('apply warp.nii.gz moving.nii.gz a.nii.gz labels.nii.gz none/b.nii.gz', 'the folder does not exist'),
    ('apply warp.nii.gz moving.nii.gz a.nii.gz --labels', 'moving.nii.gz: a label map holds whole numbers'),
    ('compose turn.mat warp.nii.gz a.nii.gz', 'has no grid'),
    ('compose warp.nii.gz warp.nii.gz', 'is named twice'),
    ('invert turn.mat a.nii.gz', 'must end in .mat'),
    ('invert warp.nii.gz a.mat', 'must end in .nii.gz'),
    ('jacobian moving.nii.gz a.nii.gz', 'a warp has'),
    ('points warp.nii.gz nan.csv a.csv', 'nan.csv: a coordinate is missing'),
    ('points warp.nii.gz flat.csv a.csv', 'lacks z'),
    ('points warp.nii.gz none.csv a.csv', 'holds no points'),
    ('points warp.nii.gz points.csv points.csv', 'is named twice'),
    ('points warp.nii.gz points.csv a.csv --voxels', 'add --moving'),
    ('points warp.nii.gz points.csv a.csv --moving moving.nii.gz', 'add --voxels'),
    ('points turn.mat points.csv a.csv --voxels --moving moving.nii.gz', 'add --fixed'),
    ('points warp.nii.gz points.csv a.csv --voxels --lps --moving moving.nii.gz', 'leave out one'),
    ('convert moving.nii.gz a.nii.gz --to fsl --moving moving.nii.gz', 'a warp has'),
    ('convert warp.nii.gz a.nii.gz --to itk --moving moving.nii.gz', 'a displacement of FSL has'),
    ('convert warp.nii.gz moving.nii.gz --to fsl --moving moving.nii.gz', 'is named twice'),
    ('evaluate', 'nothing to measure'),
    ('evaluate --labels warped_labels.nii.gz', 'give both'),
    ('evaluate --labels warped_labels.nii.gz --fixed-labels labels.nii.gz', 'have shapes'),
    ('evaluate --labels warped_labels.nii.gz --fixed-labels empty.nii.gz', 'empty.nii.gz: holds no label'),
    ('evaluate --labels warped_labels.nii.gz --fixed-labels fixed_labels.nii.gz --label 3', 'label 3: has no voxel'),
    ('evaluate --labels moving.nii.gz --fixed-labels fixed_labels.nii.gz', 'a label map holds whole numbers'),
    ('evaluate --fixed-points points.csv --moving-points marks.csv', 'a warp must bring them'),
    ('evaluate --warp warp.nii.gz --fixed-points points.csv', 'give both'),
    ('evaluate --warp warp.nii.gz --fixed-points points.csv --moving-points five.csv', '40 in the fixed and 5'),
    ('evaluate --warp warp.nii.gz --fixed-points nan.csv --moving-points marks.csv', 'a coordinate is missing'),
    ('evaluate --warp warp.nii.gz --fixed-points far.csv --moving-points marks.csv', 'check RAS or LPS'),
    ('evaluate --warp warp.nii.gz --csv warp.csv/a.csv', 'the folder does not exist'),
    ('evaluate --warp warp.nii.gz --fixed-points points.csv --moving-points marks.csv --csv marks.csv', 'named twice'),
]


@one_pair
@pytest.mark.parametrize('line, said', BAD)
def test_bad_lines(measured, line, said):
    "One sentence, exit code 2, nothing written and nothing changed."
    spoil(measured)
    before = {path.name: path.read_bytes() for path in measured.iterdir()}
    refused(regpre(*line.split(), cwd=measured), said)
    assert {path.name: path.read_bytes() for path in measured.iterdir()} == before


@one_pair
@pytest.mark.skipif(not Path('/proc/version').exists(), reason='needs a folder in which nobody can write')
@pytest.mark.parametrize('line', ['apply warp.nii.gz moving.nii.gz /proc/a.nii.gz', 'compose warp.nii.gz /proc/a.nii',
                                  'invert turn.mat /proc/a.mat', 'points warp.nii.gz points.csv /proc/a.csv',
                                  'convert warp.nii.gz /proc/a.nii --to fsl --moving moving.nii.gz',
                                  'evaluate --warp warp.nii.gz --csv /proc/a.csv'])
def test_unwritable_folder(place, line):
    refused(regpre(*line.split(), cwd=place), '/proc/a')
