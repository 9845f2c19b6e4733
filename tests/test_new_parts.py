"From outside the package, each in one place: a loss, an encoder, a network and a method; then all that uses them."
import sys

import numpy as np
import pytest
import torch

from regpre_nb.compare.methods import METHODS, Method, add_method, register_pair
from regpre_nb.compare.pairwise import PairwiseSettings, register_cohort
from regpre_nb.data.cohorts import Cohort
from regpre_nb.learn.finetune import FinetuneSettings, finetune, load_network, transfer_encoder
from regpre_nb.learn.instance import InstanceSettings, optimise_pair
from regpre_nb.learn.pretrain import PretrainSettings, pretrain
from regpre_nb.learn.training import TrainSettings, read_log, save_weights
from regpre_nb.method.losses import SIMILARITIES, Loss
from regpre_nb.method.settings import InputError
from regpre_nb.method.spatial import warp
from regpre_nb.method.swin import ENCODERS, SETTINGS
from regpre_nb.method.transmorph import NETWORKS, TransMorph, describe_network

SHAPE, SPACING = (16, 16, 16), (1., 1., 1.)
TWO_STEPS = TrainSettings(steps=2, learning_rate=1e-3, log_every=1)


METHOD = '''
import numpy as np
from regpre_nb.compare.methods import Method, add_method


def roll(moving, fixed, spacing, threads=1, *, axis=0, reach=4):
    "The shift along an axis, in whole voxels, that brings the images closest."
    shifts = range(-reach, reach + 1)
    best = min(shifts, key=lambda shift: np.abs(np.roll(moving, -shift, axis) - fixed).mean())
    field = np.zeros((3, *fixed.shape), np.float32)
    field[axis] = best
    return field


add_method('roll', Method('Rolling', 'rolling:roll', 'nobody', 'none', grid=({'axis': 0}, {'axis': 2})))
'''


@pytest.fixture(scope='module', autouse=True)
def outside():
    "The parts, added for this file alone: other tests meet the lists as they are."
    import outside
    yield outside
    for kinds, name in ((SIMILARITIES, 'squares'), (ENCODERS, 'pyramid'), (NETWORKS, 'shift')): kinds.pop(name, None)
    METHODS.pop('roll', None)
    sys.modules.pop('outside')  # the next import adds them again


# What can be done with it

def ball(case):
    "An image and labels of one ball; the case says where it lies along the last axis."
    grid = np.stack(np.meshgrid(*(np.arange(16),)*3, indexing='ij'))
    distance = np.linalg.norm(grid - np.array([8, 8, int(case)])[:, None, None, None], axis=0)
    return np.exp(-(distance / 4)**2).astype(np.float32), (distance < 4).astype(np.int64)


COHORT = Cohort(name='balls', description='balls', simulated=True, shape=SHAPE, spacing=SPACING,
                structures={1: 'ball'}, atlas=None, train=('6', '7', '8'), validation=('6', '7'),
                validation_pairs=(('6', '7'),), test_pairs=(('9', '7'), ('10', '7')), read=ball)


def images(*cases): return [torch.from_numpy(ball(case)[0])[None, None] for case in cases]


@pytest.mark.parametrize('channels', [(4,), (4, 8), (4, 4, 8, 8)], ids=['one map', 'two maps', 'four maps'])
def test_train_and_load(channels, outside, tmp_path):
    "Pretraining and fine-tuning with the new loss and encoder; what is stored is what was trained."
    proxy = PretrainSettings(shape=SHAPE, n_labels=4, cell=8, amplitudes=(1,), loss=Loss('squares'), validation_pairs=1)
    pyramid = outside.Pyramid(outside.PyramidSettings(channels))
    pretrain(pyramid, proxy, TWO_STEPS, tmp_path / 'before', resolution=1, progress=False)
    assert (read_log(tmp_path / 'before' / 'log.jsonl')['similarity'] > 0).all()  # a correlation would be negative

    start = tmp_path / 'before' / 'encoder.safetensors'
    trained = TransMorph(SETTINGS['tiny'], outside.Pyramid(outside.PyramidSettings(channels)))
    transfer_encoder(trained, start)
    for name, tensor in pyramid.state_dict().items(): assert torch.equal(trained.encoder.state_dict()[name], tensor)
    finetune(trained, COHORT, COHORT.train, FinetuneSettings(loss=Loss('squares')), TWO_STEPS, tmp_path / 'after',
             start, progress=False)
    assert (read_log(tmp_path / 'after' / 'log.jsonl')['similarity'] > 0).all()

    again = load_network(tmp_path / 'after' / 'model.safetensors')
    assert isinstance(again.encoder, outside.Pyramid) and again.encoder.settings == outside.PyramidSettings(channels)
    with torch.no_grad(): assert torch.equal(again(*images('9', '7')), trained.cpu().eval()(*images('9', '7')))
    with pytest.raises(InputError, match="holds an encoder 'pyramid', and that of this network is 'swin': build"):
        transfer_encoder(TransMorph(SETTINGS['tiny']), start)


def test_optimise_by_the_new_loss():
    moving, fixed = images('9', '7')
    settings = InstanceSettings(steps=20, scales=(1,), loss=Loss('squares', diffusion_weight=0))
    found = optimise_pair(moving, fixed, settings)
    assert (warp(moving, found) - fixed).square().mean() < 0.2 * (moving - fixed).square().mean()


def test_a_network_of_ones_own(outside, tmp_path):
    "It registers as our own do, from its file alone."
    shift = outside.Shift(outside.ShiftSettings(axis=2))
    with torch.no_grad(): shift.voxels.fill_(2.)
    save_weights(shift, tmp_path / 'model.safetensors', network=describe_network(shift))
    done = register_pair('network', *images('9', '7'), SPACING, {'weights': str(tmp_path / 'model.safetensors')})
    assert torch.equal(done.displacement.mean((0, 2, 3, 4)), torch.tensor([0., 0., 2.]))


def test_a_network_that_nobody_added(outside, tmp_path):
    "Its file says whose weights it holds, and loading it what is missing."
    class Forgotten(outside.Pyramid): pass

    trained = TransMorph(SETTINGS['tiny'], Forgotten(outside.PyramidSettings()))
    save_weights(trained, tmp_path / 'model.safetensors', network=describe_network(trained))
    with pytest.raises(InputError, match="Forgotten' is none of swin, .*pyramid.*; import the module that adds it"):
        load_network(tmp_path / 'model.safetensors')


def test_a_method(tmp_path, monkeypatch):
    "In a process of its own, by itself and in the protocol that chooses its settings on training pairs."
    (tmp_path / 'rolling.py').write_text(METHOD)
    monkeypatch.syspath_prepend(tmp_path)
    import rolling  # noqa: F401
    done = register_pair('roll', *images('9', '7'), SPACING, {'axis': 2})
    assert done.failure is None and torch.equal(done.displacement.mean((0, 2, 3, 4)), torch.tensor([0., 0., 2.]))
    task = PairwiseSettings('roll', METHODS['roll'].grid, tuning_pairs=2)
    scores, costs = register_cohort(task, COHORT, COHORT.test_pairs[:1], tmp_path / 'run', progress=False)
    assert scores['dice'].tolist() == [1.] and costs['seconds'].notna().all()


def test_a_method_without_settings():
    "What has none of its own can be tried in one way."
    method = Method('Nothing', 'nowhere:nothing', '', '')
    add_method('nothing', method)
    assert METHODS.pop('nothing').grid == ({},)


def test_names_are_looked_up():
    "A word that nobody added is refused, and the sentence lists those that somebody did."
    with pytest.raises(InputError, match="^Loss: similarity is 'cubes', it must be one of .*'ncc', .* 'squares'$"):
        Loss('cubes')
