"Two images of a user: registered, warped and moved by the installed command, and what it refuses."
import json
import os

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from commands import regpre
from scipy import ndimage
from test_bad_input import refused

from regpre_nb.data.volumes import Volume, load_volume, resample, save_volume
from regpre_nb.use.register import register
from regpre_nb.use.transforms import Warp, load_warp

SHAPE = 28, 24, 20


def tilted(degrees, spacing, origin):
    "An affine turned about the third axis."
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    affine = np.eye(4)
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.diag(spacing)
    affine[:3, 3] = origin
    return affine


def blobs(seed=0):
    "A smooth image that fades out towards its edges."
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=SHAPE), 2)
    away = [np.abs(np.linspace(-1, 1, n)) for n in SHAPE]
    fade = np.clip(2.5*(1 - np.sqrt(sum(a**2 for a in np.meshgrid(*away, indexing='ij')))), 0, 1)
    return (100*fade*(2 + noise/noise.std())).clip(0).astype(np.float32)


@pytest.fixture(scope='module')
def pair():
    "A fixed image, an oblique flat moving one that shows the same, and the map from moving to fixed that made it."
    fixed = Volume(blobs(), tilted(0, (2., 2., 2.), (-28, -24, -20)))
    affine = tilted(10, (-2.2, 2., 2.5), (30, -30, -24))
    shape = (28, 28, 20)
    x = Volume(np.zeros(shape), affine).world(np.stack(np.mgrid[tuple(slice(n) for n in shape)], -1))
    truth = Warp((2*np.sin(x[..., [1, 2, 0]]/12) + [2, -1, 1]).astype(np.float32), affine)
    return truth.apply(fixed), fixed, truth


@pytest.fixture(scope='module')
def files(pair, tmp_path_factory):
    "The pair in a folder, with a label map of the moving image, registered once."
    folder = tmp_path_factory.mktemp('pair')
    moving, fixed, _ = pair
    save_volume(moving, folder / 'moving.nii.gz')
    save_volume(fixed, folder / 'fixed.nii.gz')
    labels = np.where(moving.data > 250, 300, np.where(moving.data > 100, 7, 0)).astype(np.int16)
    save_volume(Volume(labels, moving.affine), folder / 'labels.nii.gz')
    done = regpre('register', 'moving.nii.gz', 'fixed.nii.gz', '-o', 'warped.nii.gz', '--warp', 'warp.nii.gz',
                  '--inverse-warp', 'inverse.nii.gz', '--labels', 'labels.nii.gz', '--warped-labels', 'mapped.nii.gz',
                  '--also', 'moving.nii.gz:also.nii.gz', '--steps', 20, '--threads', 1, '--json', cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / 'told.json').write_text(done.stdout)
    return folder


def errors(warp, fixed, truth):
    "Where bright points of the fixed image end, against where they should, mm."
    points = fixed.world(np.argwhere(ndimage.binary_erosion(fixed.data > 100)))
    return np.linalg.norm(truth.points(warp.points(points)) - points, axis=1)


@pytest.mark.parametrize('command', ['register', 'apply', 'invert', 'compose', 'jacobian', 'points'])
def test_help(command):
    done = regpre(command, '--help')
    assert done.returncode == 0 and 'Usage: regpre' in done.stdout and done.stderr == ''


def test_register(files, pair):
    "The error gets small, losses fall, and what is told is what was written."
    told = json.loads((files / 'told.json').read_text())
    metrics = told['metrics']
    assert metrics['loss_after'] < metrics['loss_start'] <= metrics['loss_before']
    assert metrics['folding_percent'] < 0.01 and metrics['inverse_error_max_mm'] < 0.2
    assert set(told['seconds']) == {'read', 'affine', 'network', 'optimise', 'warp', 'inverse'}
    assert {path.name for path in files.iterdir()} >= set(told['written']) >= {'warped.html', 'warped.nii.gz'}
    warp, (_, fixed, truth) = load_warp(files / 'warp.nii.gz'), pair
    before, after = (np.nanmean(errors(w, fixed, truth)) for w in (Warp(0*warp.displacement, fixed.affine), warp))
    assert after < 0.3*before and after < 1, (before, after)
    warped, also = load_volume(files / 'warped.nii.gz'), load_volume(files / 'also.nii.gz')
    assert warped.shape == fixed.shape and np.allclose(warped.affine, fixed.affine)
    assert np.array_equal(warped.data, also.data)
    mapped = nib.load(files / 'mapped.nii.gz')
    assert mapped.get_data_dtype() == np.int16 and set(np.unique(mapped.dataobj)) == {0, 7, 300}


def test_simpleitk_reads(files):
    "SimpleITK warps by the written file as the command did."
    transform = sitk.DisplacementFieldTransform(sitk.ReadImage(str(files / 'warp.nii.gz'), sitk.sitkVectorFloat64))
    images = [sitk.ReadImage(str(files / f'{name}.nii.gz')) for name in ('moving', 'fixed')]
    theirs = sitk.GetArrayFromImage(sitk.Resample(*images, transform, sitk.sitkLinear, 0.)).T
    ours = load_volume(files / 'warped.nii.gz').data
    assert np.abs(theirs - ours).max() < 1e-3*np.ptp(ours)


def test_axis_order(pair):
    "Axes swapped and reversed: the same millimetres."
    moving, fixed, _ = pair
    swapped = nib.Nifti1Image(fixed.data, fixed.affine).as_reoriented(np.array([[2, -1], [0, 1], [1, -1]]))
    points = fixed.world(np.argwhere(fixed.data > 150))
    first, second = (register(moving, image, steps=8).warp.points(points) for image in (fixed, swapped))
    assert np.nanmax(np.linalg.norm(first - second, axis=1)) < 0.1


def test_flat_voxels(pair):
    "The fixed image resampled to flat voxels: nearly the same millimetres, a fraction of a voxel apart."
    moving, fixed, _ = pair
    points = fixed.world(np.argwhere(fixed.data > 150))
    images = fixed, resample(fixed, spacing=(1.6, 2., 2.5))
    first, second = (register(moving, image, steps=8, spacing=2.).warp.points(points) for image in images)
    assert np.nanmean(np.linalg.norm(first - second, axis=1)) < 0.5


def test_never_worse(pair):
    "An image and itself: the loss does not rise, little moves, and what is left out is said."
    _, fixed, _ = pair
    found = register(fixed, fixed, steps=3)
    assert found.metrics['loss_after'] <= found.metrics['loss_before']
    assert np.linalg.norm(found.warp.displacement, axis=-1)[fixed.data > 100].mean() < 0.5  # a quarter of a voxel
    assert found.notes and 'left out' in found.notes[0] and 'left out' in found._repr_html_()


def test_warps(files):
    "apply, compose, invert, jacobian: by the files that register wrote."
    for line in ('apply warp.nii.gz moving.nii.gz again.nii.gz', 'compose warp.nii.gz inverse.nii.gz still.nii.gz',
                 'apply warp.nii.gz labels.nii.gz voted.nii.gz --labels', 'jacobian warp.nii.gz change.nii.gz',
                 'apply warp.nii.gz moving.nii.gz onto.nii.gz --like moving.nii.gz',
                 'invert warp.nii.gz back.nii.gz --like moving.nii.gz'):
        done = regpre(*line.split(), cwd=files)
        assert done.returncode == 0, done.stderr
    def read(name): return load_volume(files / f'{name}.nii.gz')
    assert np.allclose(read('again').data, read('warped').data, atol=1e-3)
    assert np.array_equal(read('voted').data, read('mapped').data)
    assert read('onto').shape == read('moving').shape
    inner = load_warp(files / 'still.nii.gz').displacement[6:-6, 6:-6, 6:-6]
    assert np.linalg.norm(inner, axis=-1).mean() < 0.1
    assert np.allclose(load_warp(files / 'back.nii.gz').displacement, load_warp(files / 'inverse.nii.gz').displacement,
                       atol=1e-2)
    assert 0 < read('change').data.min() < 1 < read('change').data.max()


@pytest.mark.parametrize('lps', [False, True])
def test_points(files, lps):
    "Points in RAS or LPS; one outside stays empty; other columns are kept."
    sign = np.array([-1, -1, 1]) if lps else np.ones(3)
    places = np.array([[1., 2., 3.], [-4., 5., 0.], [500., 0., 0.]])
    rows = [','.join(map(str, [f'p{i}', *place])) for i, place in enumerate(places*sign)]
    (files / 'in.csv').write_text('name,x,y,z\n' + '\n'.join(rows) + '\n')
    done = regpre('points', 'warp.nii.gz', 'in.csv', 'out.csv', *['--lps']*lps, cwd=files)
    assert done.returncode == 0 and '1 of 3 points' in done.stderr
    lines = (files / 'out.csv').read_text().splitlines()
    assert lines[0] == 'name,x,y,z' and lines[3] == 'p2,,,'
    expected = load_warp(files / 'warp.nii.gz').points(places[0])[0]*sign
    assert np.allclose([float(cell) for cell in lines[1].split(',')[1:]], expected, atol=1e-3)


def spoilt(folder, data, affine=None, name='bad.nii.gz'):
    "A file with these voxels."
    nib.save(nib.Nifti1Image(data, np.diag([2., 2., 2., 1.]) if affine is None else affine), folder / name)


SPOILT = {
    'four dimensions': (np.ones((20, 20, 20, 3), np.float32), 'not three dimensions'),
    'colours': (np.zeros((20, 20, 20), [('R', 'u1'), ('G', 'u1'), ('B', 'u1')]), 'not single real numbers'),
    'holes': (np.where(np.arange(8000).reshape(20, 20, 20) == 5, np.nan, 1).astype(np.float32), 'NaN'),
    'constant': (np.ones((20, 20, 20), np.float32), 'same value'),
    'slice': (np.random.default_rng(0).random((40, 40, 1), np.float32), 'slices of one orientation'),
    'far away': (np.random.default_rng(0).random((20, 20, 20), np.float32), 'do not overlap'),
    'sheared': (np.random.default_rng(0).random((20, 20, 20), np.float32), 'right angles'),
}


@pytest.fixture
def place(files, tmp_path):
    "A folder with the pair and an output of an earlier run."
    for name in ('moving', 'fixed', 'labels', 'warp'): os.link(files / f'{name}.nii.gz', tmp_path / f'{name}.nii.gz')
    (tmp_path / 'out.nii.gz').write_bytes(b'earlier')
    return tmp_path


def untouched(folder, *others):
    "Nothing was written."
    assert (folder / 'out.nii.gz').read_bytes() == b'earlier'
    kept = {'moving.nii.gz', 'fixed.nii.gz', 'labels.nii.gz', 'warp.nii.gz', 'out.nii.gz', *others}
    assert {path.name for path in folder.iterdir()} == kept


@pytest.mark.parametrize('kind', SPOILT)
@pytest.mark.parametrize('role', ['moving', 'fixed'])
def test_bad_images(place, kind, role):
    data, said = SPOILT[kind]
    affine = np.diag([2., 2., 2., 1.])
    if kind == 'far away': affine[2, 3] = 500
    if kind == 'sheared': affine[0, 1] = 1
    spoilt(place, data, affine)
    names = {'moving': 'moving.nii.gz', 'fixed': 'fixed.nii.gz'} | {role: 'bad.nii.gz'}
    refused(regpre('register', names['moving'], names['fixed'], '-o', 'out.nii.gz', '--warp', 'w.nii.gz', cwd=place),
            'bad.nii.gz', said)
    untouched(place, 'bad.nii.gz')


@pytest.mark.parametrize('line, said', [
    ('register none.nii.gz fixed.nii.gz -o out.nii.gz', 'no such file'),
    ('register moving.nii.gz fixed.nii.gz -o none/out.nii.gz', 'the folder does not exist'),
    ('register moving.nii.gz fixed.nii.gz -o out.nii.gz --warp none/w.nii.gz', 'the folder does not exist'),
    ('register moving.nii.gz fixed.nii.gz -o out.mha', 'must end in'),
    ('register moving.nii.gz fixed.nii.gz -o moving.nii.gz', 'is named twice'),
    ('register moving.nii.gz fixed.nii.gz -o out.nii.gz --warp out.nii.gz', 'is named twice'),
    ('register moving.nii.gz fixed.nii.gz -o out.nii.gz --labels labels.nii.gz', 'give one output'),
    ('register moving.nii.gz fixed.nii.gz -o out.nii.gz --labels fixed.nii.gz --warped-labels m.nii.gz', 'label map'),
    ('register moving.nii.gz fixed.nii.gz -o out.nii.gz --also moving.nii.gz', 'not IMAGE:OUTPUT'),
    ('register moving.nii.gz fixed.nii.gz -o out.nii.gz --spacing 0', 'millimetres above 0'),
    ('register moving.nii.gz fixed.nii.gz -o out.nii.gz --device moon', 'cannot be used here'),
    ('register moving.nii.gz fixed.nii.gz -o out.nii.gz --model none.safetensors', 'none.safetensors'),
    ('register moving.nii.gz fixed.nii.gz -o out.nii.gz --model moving.nii.gz', 'moving.nii.gz'),
    ('register moving.nii.gz fixed.nii.gz -o out.nii.gz --model random-encoder', 'is an encoder'),
    ('register moving.nii.gz fixed.nii.gz -o out.nii.gz --model nobody', 'nor one of the weights'),
    ('register moving.nii.gz fixed.nii.gz -o out.nii.gz --initial labels.nii.gz', 'labels.nii.gz'),
    ('register moving.nii.gz fixed.nii.gz -o out.nii.gz --initial none.mat', 'no such file'),
    ('register moving.nii.gz fixed.nii.gz -o out.nii.gz --mask none.nii.gz', 'no such file'),
    ('register moving.nii.gz fixed.nii.gz -o out.nii.gz --no-compose', 'no warp to write'),
    ('register moving.nii.gz fixed.nii.gz -o out.nii.gz --no-compose --warp w.nii.gz --initial warp.nii.gz', 'a warp'),
    ('register moving.nii.gz fixed.nii.gz -o out.nii.gz --spacing 40', 'leaves fewer than 16 voxels'),
    ('register moving.nii.gz fixed.nii.gz -o out.nii.gz --spacing .001', 'voxels, which is too many'),
    ('register moving.nii.gz fixed.nii.gz -o out.nii.gz --device hpu', 'cannot be used here'),
    ('register moving.nii.gz fixed.nii.gz -o out.nii.gz --device meta', 'cannot be used here'),
    ('apply moving.nii.gz fixed.nii.gz out.nii.gz', 'a warp has'),
    ('apply warp.nii.gz out.nii.gz', 'too few'),
    ('apply warp.nii.gz moving.nii.gz out.nii.gz --labels', 'label map'),
    ('invert none.nii.gz out.nii.gz', 'no such file'),
    ('compose warp.nii.gz', 'too few'),
    ('jacobian labels.nii.gz out.nii.gz', 'a warp has'),
    ('points warp.nii.gz none.csv o.csv', 'no such file')])
def test_bad_lines(place, line, said):
    refused(regpre(*line.split(), cwd=place), said)
    untouched(place)


def test_labels_on_another_grid(place):
    spoilt(place, np.ones((9, 9, 9), np.uint8))
    refused(regpre('register', 'moving.nii.gz', 'fixed.nii.gz', '-o', 'out.nii.gz', '--labels', 'bad.nii.gz',
                   '--warped-labels', 'm.nii.gz', cwd=place), 'bad.nii.gz', 'shapes')
    untouched(place, 'bad.nii.gz')


def test_network(place):
    "A start from a network; an untrained one is left out, and nothing fails."
    from regpre_nb.learn.training import save_weights
    from regpre_nb.method.transmorph import SETTINGS, TransMorph, describe_network
    network = TransMorph(SETTINGS['tiny'])
    save_weights(network, place / 'model.safetensors', network=describe_network(network))
    done = regpre('register', 'moving.nii.gz', 'fixed.nii.gz', '-o', 'out.nii.gz', '--model', 'model.safetensors',
                  '--steps', 2, '--no-affine', '--json', cwd=place)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert 'network' in told['seconds'] and told['metrics']['loss_after'] <= told['metrics']['loss_before']
    assert load_volume(place / 'out.nii.gz').shape == SHAPE


def test_given_maps_and_mask(files, tmp_path):
    "A map to begin with, a mask and a metric for other contrasts; the pair of files is the one warp."
    for name in ('moving', 'fixed', 'warp'): os.link(files / f'{name}.nii.gz', tmp_path / f'{name}.nii.gz')
    given = 'register moving.nii.gz fixed.nii.gz --steps 2 --no-report -o'
    for line in (f'{given} a.nii.gz --warp a_warp.nii.gz --no-compose',
                 'apply a_warp.nii.gz a_warp_affine.mat moving.nii.gz again.nii.gz',
                 f'{given} b.nii.gz --initial a_warp_affine.mat --mask fixed.nii.gz --metric edges --model none',
                 f'{given} c.nii.gz --initial warp.nii.gz'):
        done = regpre(*line.split(), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    def read(name): return load_volume(tmp_path / f'{name}.nii.gz').data
    assert np.abs(read('again') - read('a')).max() < 1e-2*np.ptp(read('a'))
    assert np.abs(read('c') - load_volume(files / 'warped.nii.gz').data).mean() < 0.05*np.ptp(read('c'))
    assert not list(tmp_path.glob('*.html'))


def test_memory(pair, monkeypatch):
    "Where the work would not fit, that is said before it begins, with the way out."
    from regpre_nb.method.settings import InputError
    from regpre_nb.use import register as module
    monkeypatch.setattr(module, '_room', lambda device: 1e8)
    with pytest.raises(InputError, match='GB are free on .*; take a coarser grid'): register(*pair[:2])


def test_slices(tmp_path):
    "Two slices in different planes: the same voxels, moved within the plane alone."
    image = blobs()[:, :, 10:11]
    save_volume(Volume(image, tilted(0, (2., 2., 2.), (0, 0, 0))), tmp_path / 'fixed.nii.gz')
    save_volume(Volume(np.roll(image, 1, 0), tilted(0, (2., 2., 2.), (0, 0, 30))), tmp_path / 'moving.nii.gz')
    done = regpre('register', 'moving.nii.gz', 'fixed.nii.gz', '-o', 'out.nii.gz', '--warp', 'w.nii.gz', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    warp, out = load_warp(tmp_path / 'w.nii.gz'), load_volume(tmp_path / 'out.nii.gz').data
    assert np.allclose(warp.displacement[..., 2], 30, atol=1e-3)
    assert np.abs(out - image).mean() < 0.5*np.abs(np.roll(image, 1, 0) - image).mean()
    assert (tmp_path / 'out.html').exists()


def test_same_again(pair):
    "Nothing is drawn: the same images give the same warp."
    first, second = (register(*pair[:2], steps=3).warp.displacement for _ in range(2))
    assert np.array_equal(first, second)


def test_one_file_as_image_and_as_labels(files, tmp_path):
    "Each output is made as it was asked for."
    for name in ('moving', 'fixed', 'labels'): os.link(files / f'{name}.nii.gz', tmp_path / f'{name}.nii.gz')
    line = ('register moving.nii.gz fixed.nii.gz -o a.nii.gz --steps 1 --model none --no-report '
            '--also labels.nii.gz:grey.nii.gz --labels labels.nii.gz --warped-labels voted.nii.gz')
    done = regpre(*line.split(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    voted, grey = (nib.load(tmp_path / f'{name}.nii.gz') for name in ('voted', 'grey'))
    assert set(np.unique(voted.dataobj)) == {0, 7, 300} and voted.get_data_dtype() == np.int16
    assert len(np.unique(grey.dataobj)) > 100


def test_all_or_nothing(place):
    "A write that fails leaves what was there before, all of it."
    from regpre_nb.data.volumes import load_volume as load
    from regpre_nb.method.settings import InputError
    from regpre_nb.use.warp_commands import write_results

    def full(path): raise OSError(28, 'No space left on device')
    with pytest.raises(InputError, match='No space left'):
        write_results({place / 'out.nii.gz': (load(place / 'moving.nii.gz'), None), place / 'b.html': (full, None)})
    untouched(place)


def test_report_is_no_ones_file(place):
    (place / 'out.html').write_text('my notes')
    done = regpre('register', 'moving.nii.gz', 'fixed.nii.gz', '-o', 'out.nii.gz', cwd=place)
    refused(done, 'no report of this command')
    untouched(place, 'out.html')


def test_initial_map_out_of_view(place):
    "A map that shows nothing of the moving image."
    from regpre_nb.use.transforms import save_affine
    away = np.eye(4)
    away[0, 3] = 500
    save_affine(away, place / 'away.mat')
    refused(regpre('register', 'moving.nii.gz', 'fixed.nii.gz', '-o', 'out.nii.gz', '--initial', 'away.mat', cwd=place),
            'shows nothing of the moving image')
    untouched(place, 'away.mat')


def test_no_affine_map_is_no_failure(pair):
    "Where no affine map is found, the work goes on without, and that is said."
    moving, fixed, _ = pair
    half = Volume(np.where(np.arange(moving.shape[0])[:, None, None] < 5, moving.data, 0), moving.affine)
    found = register(half, fixed, steps=2, model=None)
    assert found.metrics['loss_after'] <= found.metrics['loss_before']


@pytest.mark.parametrize('wrong', [np.zeros((4, 4)), np.eye(3), [[1, 2], [3]], np.full((4, 4), 5.)],
                         ids=['zeros', 'three rows', 'ragged', 'last row'])
def test_matrices(pair, wrong):
    from regpre_nb.method.settings import InputError
    moving, fixed, _ = pair
    with pytest.raises(InputError, match='not an invertible matrix'): register(moving, fixed, initial=wrong)
    with pytest.raises(InputError, match='not an invertible matrix'): register((moving.data, wrong), fixed)


def test_units_and_planes(tmp_path, pair):
    "Micrometres count for nibabel's images too; a plane of two dimensions is a slice; a mask may be true and false."
    image = blobs()[:, :, 10]
    nib.save(nib.Nifti1Image(image, np.diag([2., 2., 2., 1.])), tmp_path / 'plane.nii.gz')
    flat = register(tmp_path / 'plane.nii.gz', (np.roll(image, 1, 0), np.diag([2., 2., 2., 1.])), steps=2)
    assert flat.warped.shape == (*image.shape, 1)
    _, fixed, _ = pair
    micro = nib.Nifti1Image(fixed.data, np.diag([2., 2., 2., 1.]))
    micro.header.set_xyzt_units('micron')
    found = register(micro, micro, steps=0, affine=False, model=None, mask=(fixed.data > 100, np.diag([2e-3]*3 + [1.])))
    assert np.isclose(found.metrics['spacing_mm'], 2e-3)
