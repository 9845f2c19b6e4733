"Classical methods: each that is installed finds a known displacement, failures are answers, results are kept."
import math
import re
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from regpre_nb.compare import methods
from regpre_nb.compare.methods import (
    METHODS,
    Method,
    Registered,
    cached,
    choose_settings,
    missing,
    recovery_error,
    register_pair,
    textured_pair,
)
from regpre_nb.method.spatial import warp

SPACING = (1.5, 1., 1.2)
IMAGE = torch.rand(1, 1, 8, 9, 10, generator=torch.Generator().manual_seed(0))
BAD = '''
def strange(moving, fixed, spacing, threads, *, order=1):
    if order == 1: raise OSError('two\\nlines')
    return moving
'''


@pytest.mark.parametrize('method', ['convexadam', 'greedy'])
def test_recovers_a_translation(method):
    "Other sizes and spacings than on the page, and two threads; SyN is compared with ANTs below."
    if reason := missing(method): pytest.skip(reason)
    moving, fixed, known = textured_pair('translation', (48, 32, 40), seed=1)
    done = register_pair(method, moving, fixed, SPACING, limit=300, threads=2)
    assert done.failure is None and recovery_error(done.displacement, known) < 0.5
    assert done.displacement.shape == (1, 3, 48, 32, 40) and done.displacement.dtype == torch.float32
    assert done.seconds > 0 and done.cpu_seconds > 0 and 100 < done.peak_mb < 4000 and all(done.versions.values())


def test_syn_agrees_with_ants():
    "The moving image is where ANTs itself puts it, affine stage and all."
    ants = pytest.importorskip('ants')
    moving, fixed, _ = textured_pair('smooth', (32, 40, 24))
    called, images, apply = [], [], ants.apply_transforms

    def watched(fixed, moving, transforms, **how):
        images.append(apply(fixed, moving, transforms).numpy())
        called.append(how)
        return apply(fixed, moving, transforms, **how)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ants, 'apply_transforms', watched)
        found = methods.syn(moving[0, 0].numpy(), fixed[0, 0].numpy(), SPACING, reg_iterations=(20, 0))
    ours = warp(moving, torch.from_numpy(np.asarray(found, np.float32))[None])[0, 0].numpy()
    inside = (slice(5, -5),)*3
    assert len(called) == 1 and np.abs(ours - images[0])[inside].max() < 1e-3


def test_what_an_adapter_returns_is_checked(tmp_path, monkeypatch):
    "A wrong shape, NaN and an exception are failures; a wrong setting is a wrong request."
    (tmp_path / 'bad.py').write_text(BAD)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(METHODS, 'strange', Method('strange', 'bad:strange', '', ''))
    said = [register_pair('strange', IMAGE, IMAGE, SPACING, {'order': order}).failure for order in (1, 2)]
    assert said == ['strange stopped with OSError: two lines.', 'strange returned an array of shape (8, 9, 10).']
    assert methods._displacement(np.full((3, 8, 9, 10), np.nan), (8, 9, 10)) == {
        'failure': 'returned NaN or infinite displacements'}
    assert methods._refusal(methods._function('bad:strange'), {'color': 1}, 'strange') == (
        'color: no setting of strange; choose from order.')


def state_of(pid):
    "One letter; nothing where a process is gone, Z where it ended and is not yet cleared away."
    return subprocess.run(['ps', '-o', 'stat=', '-p', pid], capture_output=True, text=True).stdout.strip()[:1]


def test_the_whole_group_ends(tmp_path):
    "What the process started ends with it, at the limit and after a normal end."
    for ending, said in (('wait', 'did not finish within 1 s'), ('exit 0', None)):
        process = subprocess.Popen(['sh', '-c', f'sleep 60 & echo $! > pid; {ending}'], cwd=tmp_path,
                                   start_new_session=True)
        started = time.monotonic()
        assert methods._wait(process, 1) == said and time.monotonic() - started < 30
        assert state_of((tmp_path / 'pid').read_text().strip()) in ('', 'Z')


# In deedsBCV's place: its flags and files, a translation from the correlation of the two images, for each grid point
DEEDS = f"""#!{sys.executable}
import sys
import nibabel as nib
import numpy as np

flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))
moving, fixed = (nib.load(flags[flag]).get_fdata() for flag in ('-M', '-F'))
assert 100 < moving.max() <= 1000 and list(flags) == ['-F', '-M', '-O', '-a', '-G', '-L', '-Q']
peak = np.fft.ifftn(np.fft.fftn(moving - moving.mean())*np.conj(np.fft.fftn(fixed - fixed.mean()))).real.argmax()
shift = [(p + n//2) % n - n//2 for p, n in zip(np.unravel_index(peak, moving.shape), moving.shape)]
points = np.prod([n//int(flags['-G'].split('x')[-1]) for n in moving.shape])
field = np.repeat([shift[1], shift[0], shift[2]], points).astype('<f4')
field.tofile(flags['-O'] + '_displacements.dat')
"""


@pytest.fixture
def deeds(tmp_path, monkeypatch):
    "Writes a program that goes by the name of deedsBCV."
    monkeypatch.setenv('DEEDS_BIN', str(tmp_path))

    def write(text):
        (tmp_path / 'deedsBCV').write_text(text)
        (tmp_path / 'deedsBCV').chmod(0o755)
    return write


def test_deeds_up_to_the_binary(deeds, tmp_path):
    "Flags, files and the order of the axes; the result is kept under the name of the pair."
    deeds(DEEDS)
    moving, _, _ = textured_pair('translation')
    known = torch.tensor([4., -3., 2.]).view(1, 3, 1, 1, 1).expand(1, 3, *moving.shape[2:])
    arguments = tmp_path / 'kept', 'deeds', 'mir', 'a/pair', moving, warp(moving, known), SPACING
    once, again = cached(*arguments), cached(*arguments)
    assert once.displacement[0, :, 5, 6, 7].tolist() == [4, -3, 2] and recovery_error(once.displacement, known) == 0
    assert once.versions['deedsBCV'].startswith('sha256 ')
    names = [re.sub('[0-9a-f]{16}', 'KEY', path.name) for path in sorted((tmp_path / 'kept').iterdir())]
    assert names == ['a_pair-KEY.json', 'a_pair-KEY.npz']
    assert torch.equal(once.displacement, again.displacement) and abs(again.seconds - once.seconds) < 1e-3


def failure(limit=60):
    "What is said of a pair that deedsBCV did not register."
    done = register_pair('deeds', IMAGE, IMAGE, SPACING, limit=limit)
    assert done.displacement is None and math.isnan(done.seconds)
    return done.failure


def test_a_program_that_fails(deeds):
    deeds('#!/bin/sh\nexit 3\n')
    assert failure() == 'deedsBCV stopped with RuntimeError: deedsBCV ended with exit code 3.'


def test_a_program_that_never_ends(deeds, tmp_path):
    "It waits for another that it started; neither is left."
    deeds(f'#!/bin/sh\necho $$ > {tmp_path}/pid; sleep 300 & wait\n')
    started = time.monotonic()
    assert failure(limit=6) == 'deedsBCV did not finish within 6 s.' and time.monotonic() - started < 30
    if (tmp_path / 'pid').exists():  # a very busy machine may not get that far
        assert state_of((tmp_path / 'pid').read_text().strip()) in ('', 'Z')


def test_a_program_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv('DEEDS_BIN', str(tmp_path))
    monkeypatch.setenv('PATH', '')
    assert failure().startswith('not run: the program deedsBCV not found; build https')


@pytest.fixture
def fake(monkeypatch):
    "Nothing is run: displacements are the setting `value` everywhere, and -1 fails."
    calls = []

    def register(method, moving, fixed, spacing, settings, limit, threads, name='a pair'):
        calls.append(settings)
        if settings['value'] < 0: return Registered(method, settings, versions={}, failure='Fake did not finish.')
        field = torch.full((1, 3, *moving.shape[-3:]), float(settings['value']))
        return Registered(method, settings, field, seconds=2, cpu_seconds=1, peak_mb=300, versions={})
    monkeypatch.setattr(methods, 'register_pair', register)
    monkeypatch.setitem(METHODS, 'fake', Method('Fake', 'nowhere:run', '', ''))
    return calls


def test_cached(tmp_path, fake):
    "Read again only if images, settings and spacing are the same and the file is whole."
    def get(value=2, moving=IMAGE, spacing=SPACING, **how):
        return cached(tmp_path, 'fake', {'value': value}, 'pair', moving, IMAGE, spacing, **how)
    first, second = get(), get()
    assert len(fake) == 1 and torch.equal(first.displacement, second.displacement)
    assert (second.seconds, second.cpu_seconds, second.peak_mb, second.failure) == (2, 1, 300, None)
    for number, change in enumerate([{'value': 3}, {'moving': IMAGE.flip(2)}, {'spacing': (1, 1, 1)}], 2):
        get(**change)
        get(**change)
        assert len(fake) == number, change
    assert len({path.name for path in tmp_path.glob('pair-*')}) == len(list(tmp_path.iterdir())) == 8
    for ending in 'npz', 'json':
        for path in tmp_path.glob(f'*.{ending}'): path.write_bytes(b'{')
        assert get(spacing=(1, 1, 1)).displacement.eq(2).all()
    assert len(fake) == 6


def test_a_failure_is_kept(tmp_path, fake):
    "And tried again when asked to."
    for retry, calls in ((False, 1), (False, 1), (True, 2)):
        done = cached(tmp_path, 'fake', {'value': -1}, 'pair', IMAGE, IMAGE, SPACING, retry=retry)
        assert done.failure == 'Fake did not finish.' and done.displacement is None and math.isnan(done.seconds)
        assert len(fake) == calls
    cached(tmp_path / 'kept', 'fake', {'value': 1}, '../a pair', IMAGE, IMAGE, SPACING)
    assert len(list((tmp_path / 'kept').glob('*_a_pair-*'))) == 2


def test_choose_settings(tmp_path, fake):
    "The best by the mean, the first of equals, none that fails."
    pairs = [(IMAGE, IMAGE, SPACING, wanted) for wanted in (1, 3)]

    def score(displacement, pair):
        return -abs(displacement.mean().item() - pair[3])
    grid = [{'value': value} for value in (-1, 9, 2, 2, 4)]
    for folder in (None, tmp_path):
        best, table = choose_settings('fake', pairs, score, grid, folder=folder)
        assert best == {'value': 2} and table['score'].tolist()[:4] == [-1, -1, -2, -7]
        assert table['failed'].tolist() == [0, 0, 0, 0, 2] and table['failure'].iloc[4] == 'Fake did not finish.'
    assert len(list(tmp_path.glob('pair_[12]-*.json'))) == 8
    best, table = choose_settings('fake', pairs, score, grid[:1])
    assert best is None and table['score'].isna().all()
    with pytest.raises(methods.InputError, match='no pairs'):
        choose_settings('fake', [], score, grid)
