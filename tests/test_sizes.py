"Any size from 16 voxels per axis, odd and unequal ones too, can be trained on and registered; less is refused."
from dataclasses import replace

import numpy as np
import pytest
import torch
from nibabel import Nifti1Image

from regpre_nb.learn.finetune import FinetuneSettings, registration_loss
from regpre_nb.learn.pretrain import PRETRAIN, PretrainSettings, pretraining_loss, random_batches
from regpre_nb.method.heads import PretrainingNetwork
from regpre_nb.method.settings import InputError
from regpre_nb.method.swin import SETTINGS, SwinEncoder
from regpre_nb.method.transmorph import TransMorph
from regpre_nb.use.register import register

SHAPES = [(16, 16, 16), (16, 17, 33)]


def narrow(name: str):
    "Named settings of a network with their stages, strides and presets, but few channels and steps."
    return replace(SETTINGS[name], channels=8, time_steps=2)


def assert_learns(network, loss):
    "The loss is a number, and so is every gradient."
    loss.backward()
    assert torch.isfinite(loss)
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    assert gradients and all(torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('name', ['paper', 'released', 'small'])
def test_training(name, shape):
    "A step of pretraining and one of fine-tuning, at the paper's half resolution: the coarsest maps are one voxel."
    settings = narrow(name)
    task = replace(PRETRAIN[settings.preset], shape=shape, cell=8, amplitudes=(1, 2))
    batch = random_batches(task)(0, torch.Generator().manual_seed(0))
    network = PretrainingNetwork(SwinEncoder(settings), settings.resolution, preset=settings.preset)
    assert_learns(network, pretraining_loss(network, batch, task)[0])
    network = TransMorph(settings)
    assert_learns(network, registration_loss(network, batch, FinetuneSettings(preset=settings.preset))[0])
    assert network.eval()(batch['moving'], batch['fixed']).shape == (1, 3, *shape)


@pytest.mark.parametrize('shape', SHAPES)
def test_synthmorph(shape):
    "The U-Net with instance norm, whose deepest map is one voxel."
    pytest.importorskip('neurite', reason='the U-Net is that of neurite')
    from regpre_nb.compare.synthmorph import SynthMorphStyle, SynthSettings, synth_loss, synth_pair
    settings = SynthSettings(shape=shape, encoder=(4,) * 4, decoder=(4,) * 6, cell=8, amplitudes=(1, 2))
    network = SynthMorphStyle(settings)
    assert_learns(network, synth_loss(network, synth_pair(settings, torch.Generator().manual_seed(0)), settings)[0])


@pytest.mark.parametrize('shape', SHAPES)
def test_register(shape):
    "Two images, by the network that comes with the package and a few steps of optimisation."
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing='ij'))
    moving, fixed = (Nifti1Image(np.exp(-4 * np.square(grid - shift).sum(0)).astype(np.float32), np.eye(4))
                     for shift in (0.1, 0.))
    found = register(moving, fixed, affine=False, steps=2)
    assert found.warped.shape == shape and np.isfinite(found.warped.data).all()


@pytest.mark.parametrize('shape', [(15, 16, 16), (16, 16)])
def test_too_small(shape):
    "The settings say it, before anything is trained."
    with pytest.raises(InputError, match='three sizes, 16 voxels or more along each axis; pad smaller images'):
        PretrainSettings(shape=shape)
