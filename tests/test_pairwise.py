"Pairs one by one: our own methods in this process, their failures, what is kept, which training pairs choose."
import os
import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch

from regpre_nb.compare import methods, pairwise
from regpre_nb.compare.methods import METHODS, Method, Registered, cached, register_pair
from regpre_nb.compare.pairwise import PairwiseSettings, choosing_pairs, mean_score, register_cohort
from regpre_nb.data.cohorts import Cohort
from regpre_nb.data.files import read_table
from regpre_nb.learn.training import save_weights
from regpre_nb.method.settings import InputError
from regpre_nb.method.swin import SETTINGS
from regpre_nb.method.transmorph import TransMorph, describe_network

SHAPE, SPACING = (16, 16, 16), (1., 1., 1.)
PLACES = {'a/b': 5, 'a_b': 6, 'a-to-b': 7, 'a': 8, 'c': 9, 'b-to-c': 10, '001': 4, 'NA': 11}  # case -> its ball
IMAGE = torch.rand(1, 1, *SHAPE, generator=torch.Generator().manual_seed(0))


def ball(case):
    "An image and labels of one ball."
    grid = np.stack(np.meshgrid(*(np.arange(16),)*3, indexing='ij'))
    distance = np.linalg.norm(grid - np.array([PLACES[case], 8, 8])[:, None, None, None], axis=0)
    return np.exp(-(distance/4)**2).astype(np.float32), (distance < 4).astype(np.int64)


def balls(**changes):
    "A cohort of eight cases whose names are easily mistaken for each other."
    names = tuple(PLACES)
    fields = dict(name='balls', description='balls', simulated=True, shape=SHAPE, spacing=SPACING,
                  structures={1: 'ball'}, atlas=None, train=names, validation=names[:2],
                  validation_pairs=((names[0], names[1]),),
                  test_pairs=(('a/b', 'c'), ('a_b', 'c'), ('a-to-b', 'c'), ('a', 'b-to-c')), read=ball)
    return Cohort(**fields | changes)


@pytest.fixture
def ours(monkeypatch):
    "A method of our own, as a module that tells what was called; its displacement is that of `value`."
    module = ModuleType('ours')
    module.calls, module.value = [], 1.

    def register(moving, fixed, spacing, threads, *, setting=0, weights=None):
        module.calls.append(('register', os.getpid(), torch.get_num_threads()))
        if isinstance(module.value, Exception): raise module.value
        return np.full((3, *moving.shape), module.value) if np.isscalar(module.value) else module.value

    def warm_up(shape, threads, **settings): module.calls.append(('warm up', shape, settings))
    module.register, module.warm_up = register, warm_up
    monkeypatch.setitem(sys.modules, 'ours', module)
    monkeypatch.setitem(METHODS, 'ours', Method('Ours', 'ours:register', '', '', warm_up='ours:warm_up'))
    methods._warm.cache_clear()
    return module


def called(module, kind): return [call for call in module.calls if call[0] == kind]


def test_own_methods_run_here(ours, tmp_path):
    "In this process, warm after the first pair; threads and the random generator stay as they were."
    threads, drawn = torch.get_num_threads(), torch.get_rng_state()
    (tmp_path/'weights').write_text('one')
    for number in range(3):
        done = register_pair('ours', IMAGE, IMAGE, SPACING, {'weights': str(tmp_path/'weights')}, threads=2)
        assert done.displacement.eq(1).all() and done.seconds > 0 and done.cpu_seconds >= 0
        assert np.isnan(done.peak_mb) or 20 < done.peak_mb < 1e5
    assert called(ours, 'register') == [('register', os.getpid(), 2)]*3 and torch.get_num_threads() == threads
    assert called(ours, 'warm up') == [('warm up', SHAPE, {'weights': str(tmp_path/'weights')})]
    (tmp_path/'weights').write_text('two')
    register_pair('ours', IMAGE, IMAGE, SPACING, {'weights': str(tmp_path/'weights')})
    register_pair('ours', IMAGE, IMAGE, SPACING, {'setting': 3})
    register_pair('ours', IMAGE[..., 1:], IMAGE[..., 1:], SPACING, {'setting': 3})
    assert len(called(ours, 'warm up')) == 4
    register_pair('instance', IMAGE, IMAGE, SPACING, {'steps': 1, 'scales': [1]})
    assert torch.equal(torch.get_rng_state(), drawn)


@pytest.mark.parametrize('value, reason', [
    (RuntimeError('Found no\nNVIDIA driver'), 'stopped with RuntimeError: Found no NVIDIA driver'),
    (np.nan, 'returned NaN or infinite displacements'),
    (np.zeros(SHAPE), r'returned an array of shape \(16, 16, 16\)')])
def test_a_failure_of_ours_is_an_error(ours, tmp_path, value, reason):
    "It names method, pair and reason, is never scored and not kept; while choosing settings as well."
    task, (pair, *_) = PairwiseSettings('ours'), balls().test_pairs
    ours.value = value
    with pytest.raises(InputError, match=f'^Ours, a/b-to-c: {reason}; mend this and start again.$'):
        register_cohort(task, balls(), [pair], tmp_path, progress=False)
    with pytest.raises(InputError, match=f'^Ours, .*-to-.*: {reason}; mend'):
        register_cohort(replace(task, grid=({'setting': 1}, {'setting': 2})), balls(), [pair], tmp_path, progress=False)
    ours.value = 0.
    scores, costs = register_cohort(task, balls(), [pair], tmp_path, progress=False)
    assert len(scores) == 1 and costs['failure'].isna().all()


def test_accelerator_that_is_not_there(monkeypatch):
    "A build for an accelerator names it; on a machine that has none our methods work on the CPU."
    def accelerator(check_available=False): return None if check_available else torch.device('xpu')
    monkeypatch.setattr(torch.accelerator, 'current_accelerator', accelerator)
    if not torch.accelerator.is_available():
        assert register_pair('instance', IMAGE, IMAGE, SPACING, {'steps': 1}).versions['device'] == 'cpu'


def network_file(path, seed):
    "A network whose displacement is not zero."
    torch.manual_seed(seed)
    network = TransMorph(SETTINGS['tiny'])
    with torch.no_grad(): torch.nn.init.normal_(list(network.parameters())[-1], std=1.)
    save_weights(network, path, network=describe_network(network))
    return path


def test_retrained_weights_at_the_same_path(tmp_path):
    "Their displacement is not that of the weights before; a copy of these elsewhere needs no new one."
    def first(path): return cached(tmp_path/'kept', 'network', {'weights': str(path)}, 'pair', IMAGE, IMAGE, SPACING)
    path = network_file(tmp_path/'model.safetensors', 0)
    before = first(path)
    (tmp_path/'copy').write_bytes(path.read_bytes())
    after = first(network_file(path, 1))
    assert not torch.equal(before.displacement, after.displacement)
    count = len(list((tmp_path/'kept').iterdir()))
    assert torch.equal(first(tmp_path/'copy').displacement, before.displacement)
    assert len(list((tmp_path/'kept').iterdir())) == count == 4
    start = register_pair('instance', IMAGE, IMAGE, SPACING, {'weights': str(path), 'steps': 0})
    assert torch.allclose(start.displacement, after.displacement, atol=1e-4)


def test_names_that_look_alike(ours, tmp_path):
    "Every pair is kept by itself, and each is read again."
    cohort, task = balls(), PairwiseSettings('ours')
    for _ in range(2):
        scores, costs = register_cohort(task, cohort, cohort.test_pairs, tmp_path, progress=False)
        assert costs['pair'].is_unique and scores['pair'].nunique() == 4 and len(called(ours, 'register')) == 4
    assert len(list((tmp_path/'pairs').glob('*.json'))) == 4


@pytest.mark.parametrize('damage', ['truncated', 'other', 'nan', 'list', 'empty', 'gone'])
def test_a_damaged_file_is_made_again(ours, tmp_path, damage):
    "Whatever is wrong with it."
    cohort, task = balls(), PairwiseSettings('ours')
    def register(): register_cohort(task, cohort, cohort.test_pairs[:1], tmp_path, progress=False)
    register()
    record, arrays = sorted((tmp_path/'pairs').iterdir())
    key, field = (np.load(arrays)[name] for name in ('key', 'displacement'))
    if damage == 'truncated': arrays.write_bytes(arrays.read_bytes()[:-30])
    if damage == 'other': np.savez(arrays, displacement=field, key='another pair')
    if damage == 'nan': np.savez(arrays, displacement=field*np.nan, key=key)
    if damage == 'list': record.write_text('[]')
    if damage == 'empty': record.write_text('')
    if damage == 'gone': arrays.unlink()
    register()
    register()
    assert len(called(ours, 'register')) == 2


@pytest.fixture
def fake(monkeypatch):
    "Another program that moves nothing; it fails on the pairs named in `fails`, and where `limit` is short."
    state = ModuleType('fake')
    state.calls, state.fails = [], ()

    def register(method, moving, fixed, spacing, settings, limit, threads, name):
        state.calls.append(name)
        known = {'method': method, 'settings': settings, 'versions': {}}
        if name in state.fails or limit < 5: return Registered(**known, failure='Fake did not finish.')
        return Registered(**known, displacement=torch.zeros(1, 3, *SHAPE), seconds=1, cpu_seconds=1, peak_mb=300)
    monkeypatch.setattr(methods, 'register_pair', register)
    monkeypatch.setitem(METHODS, 'fake', Method('Fake', 'nowhere:run', '', ''))
    return state


def test_failures_of_others(fake, tmp_path):
    "One costs its pair. All of them are an error, after which they are tried again. More time is a new try."
    cohort, task = balls(), PairwiseSettings('fake')
    fake.fails = 'a/b-to-c', 'a_b-to-c'
    scores, costs = register_cohort(task, cohort, cohort.test_pairs[:3], tmp_path, progress=False)
    assert costs['failure'].notna().tolist() == [True, True, False] and scores['dice'].iloc[0] > 0
    for calls in (3, 5):
        with pytest.raises(InputError, match='^Fake: failed on all 2 pairs of balls, .*: Fake did not finish. Mend'):
            register_cohort(task, cohort, cohort.test_pairs[:2], tmp_path, progress=False)
        assert len(fake.calls) == calls
    fake.fails = ()
    for limit, failed in ((1, 'Fake did not finish.'), (1, 'Fake did not finish.'), (9, None)):
        assert cached(tmp_path, 'fake', {}, 'pair', IMAGE, IMAGE, SPACING, limit).failure == failed
    assert fake.calls[5:] == ['pair', 'pair']
    with pytest.raises(InputError, match='^Fake: no setting worked on 2 training pairs of balls: Fake did not'):
        register_cohort(replace(task, grid=({}, {'x': 1}), tuning_pairs=2, limit=1), cohort, (), tmp_path)


def test_scores_follow_labels(fake, tmp_path):
    "Corrected labels give new scores of training pairs, from the displacements that are kept."
    task, found = PairwiseSettings('fake', ({'x': 1}, {'x': 2}), tuning_pairs=4), []
    for cohort in (balls(), balls(read=lambda case: (ball(case)[0], np.roll(ball('a')[1], 1, 0)))):
        register_cohort(task, cohort, cohort.test_pairs[:1], tmp_path, progress=False)
        found.append(read_table(tmp_path/'tuning.csv', ('score',))['score'].iloc[0])
        names = read_table(tmp_path/'tuning_pairs.csv', ('score',))
        assert {*names['moving'], *names['fixed']} <= set(PLACES) and len(names) == 4
    assert found[0] < found[1] == 1 and len(fake.calls) > 9


def still(cohort, pair): return mean_score(pairwise.score_pair(torch.zeros(1, 3, *SHAPE), cohort, *pair))


def test_choosing_pairs():
    "Half of them are the farthest of a pool that a seed draws; atlas and partners stay who they are."
    chosen = choosing_pairs(balls(), 6)
    far, chance = (chosen[chosen['why'] == why] for why in ('far', 'chance'))
    assert len(far) == len(chance) == 3 and not chosen.duplicated(['moving', 'fixed']).any()
    assert (chosen['moving'] != chosen['fixed']).all() and far['score'].max() <= chance['score'].min()
    assert chosen['score'].tolist() == [still(balls(), pair) for pair in zip(chosen['moving'], chosen['fixed'])]
    assert chosen.equals(choosing_pairs(balls(), 6)) and not chosen.equals(choosing_pairs(balls(), 6, seed=1))
    assert len(choosing_pairs(balls(), 1000)) == pairwise.POOL and choosing_pairs(balls(), 1)['why'].item() == 'far'
    atlas = choosing_pairs(balls(atlas='a', train=('c', '001', 'NA')), 8)
    assert set(atlas['moving']) == {'a'} and sorted(atlas['fixed']) == ['001', 'NA', 'c']
    partners = choosing_pairs(balls(train=('c', 'a'), partners={'c': '001', 'a': 'NA'}), 8)
    assert sorted(zip(partners['moving'], partners['fixed'])) == [('001', 'c'), ('NA', 'a')]


def test_choosing_pairs_by_landmarks():
    "The farthest are those with the largest error."
    def landmarks(moving, fixed): return tuple(torch.tensor([[PLACES[case], 8., 8.]]) for case in (moving, fixed))
    partners = {'c': '001', 'a': 'NA', 'a/b': 'a_b'}
    chosen = choosing_pairs(balls(landmarks=landmarks, partners=partners, train=tuple(partners)), 2)
    assert chosen['score'].iloc[0] == -5 and chosen['fixed'].iloc[0] == 'c'


def test_misspelt_choices():
    "A word that is no choice of a setting is a wrong request."
    assert methods._refusal(methods.syn, {'transform': 'SyNonly'}, 'SyN (ANTs)') == (
        'SyNonly: no transform of SyN (ANTs); choose from SyN, SyNOnly.')
    with pytest.raises(ValueError, match='syn_metric'): methods.syn(None, None, SPACING, syn_metric='MI')
    with pytest.raises(ValueError, match='kind'): methods.textured_pair('rough')
