"""The reader for the official SynthMorph file, on small files of its layout with random weights: flat, as Keras writes
a model, and nested, a model within a model with `_1` appended."""
import json
import pickle

import h5py
import numpy as np
import pytest
import torch
from scipy import ndimage

from regpre_nb.compare.synthmorph import load_official_synthmorph
from regpre_nb.method.settings import InputError
from regpre_nb.method.spatial import warp

PUBLISHED = dict(int_steps=0, unet_half_res=True, int_downsize=2, inshape=[16, 16, 16])
ENCODER, DECODER = (2, 3, 4), (4, 3, 2, 3)


def keras_layers(encoder=ENCODER, decoder=DECODER, seed=0):
    "Random kernels and biases with the names and shapes of a VxmDense U-Net."
    rng, levels = np.random.default_rng(seed), len(encoder)
    skips, layers, channels = list(encoder), {}, 2

    def add(name, outputs):
        layers[name] = {'kernel': rng.normal(0, 0.15, (3, 3, 3, channels, outputs)).astype(np.float32),
                        'bias': rng.normal(0, 0.25, outputs).astype(np.float32)}
        return outputs

    for level, n in enumerate(encoder): channels = add(f'unet_enc_conv_{level}_0', n)
    for place, n in enumerate(decoder[:levels]):
        channels = add(f'unet_dec_conv_{levels - 1 - place}_0', n)
        if place < levels - 1: channels += skips.pop()
    for place, n in enumerate(decoder[levels:]): channels = add(f'unet_dec_final_conv_{place}', n)
    add('flow', 3)
    return layers


def write_keras(path, layers, nested=False, **arguments):
    "An HDF5 file as Keras writes it."
    with h5py.File(path, 'w') as file:
        file.attrs['model_config'] = json.dumps({'class_name': 'VxmDense', 'config': arguments}).encode()
        for name, arrays in layers.items():
            name = f'vxm_dense_{name}'
            group = file.create_group(f'model_weights/vxm_dense/{name}_1' if nested else f'model_weights/{name}/{name}')
            for array, values in arrays.items(): group[f'{array}:0'] = values
    return path


def layer_by_layer(layers, volume, levels=3, extra=1):
    "VxmDense's U-Net on an array (X, Y, Z, 2), without PyTorch: SciPy correlates, NumPy pools and repeats."
    def convolve(x, name, slope=0.2):
        kernel, bias = layers[name]['kernel'], layers[name]['bias']
        y = np.stack([sum(ndimage.correlate(x[..., i], kernel[..., i, o], mode='constant') for i in range(x.shape[-1]))
                      for o in range(len(bias))], -1) + bias
        return np.where(y > 0, y, slope * y)

    skips = []
    for level in range(levels):
        volume = convolve(volume, f'unet_enc_conv_{level}_0')
        skips.append(volume)
        x, y, z, c = volume.shape
        volume = volume.reshape(x // 2, 2, y // 2, 2, z // 2, 2, c).max((1, 3, 5))
    for level in reversed(range(levels)):
        volume = convolve(volume, f'unet_dec_conv_{level}_0')
        if level: volume = np.concatenate([volume.repeat(2, 0).repeat(2, 1).repeat(2, 2), skips.pop()], -1)
    for place in range(extra): volume = convolve(volume, f'unet_dec_final_conv_{place}')
    return convolve(volume, 'flow', slope=1)


def test_layouts(tmp_path):
    "Both layouts give the same weights, each in its place; the number of squarings is that of the file."
    layers = keras_layers()
    flat = load_official_synthmorph(write_keras(tmp_path / 'flat.h5', layers, **PUBLISHED))
    nested = load_official_synthmorph(write_keras(tmp_path / 'nested.h5', layers, True, int_steps=7, svf_resolution=2))
    for name, tensor in flat.state_dict().items(): torch.testing.assert_close(nested.state_dict()[name], tensor)
    assert (flat.squarings, nested.squarings) == (0, 7)
    kernel = layers['unet_enc_conv_1_0']['kernel']
    ours = flat.unet.downsampling_conv_blocks[1].conv_block.conv0.weight
    assert ours.shape == (3, 2, 3, 3, 3) and ours[2, 1, 0, 1, 2].item() == kernel[0, 1, 2, 1, 2]


def test_layer_by_layer(tmp_path):
    "The network gives what the definition of VxmDense gives, taken layer by layer from the arrays of the file."
    layers = keras_layers()
    network = load_official_synthmorph(write_keras(tmp_path / 'flat.h5', layers, **PUBLISHED))
    volume = np.random.default_rng(1).random((16, 24, 16, 2), np.float32)
    velocity = layer_by_layer(layers, volume)
    moving, fixed = torch.from_numpy(volume).permute(3, 0, 1, 2)[:, None, None]
    with torch.no_grad(): ours = network.unet(torch.cat([moving, fixed], 1))[0].permute(1, 2, 3, 0).numpy()
    np.testing.assert_allclose(ours, velocity, atol=1e-5)
    with torch.no_grad(): enlarged = network(moving, fixed)[0].permute(1, 2, 3, 0).numpy()  # 0 squarings
    grid = np.meshgrid(*(np.linspace(0, n / 2 - 1, n) for n in (16, 24, 16)), indexing='ij')  # corners aligned
    theirs = np.stack([2 * ndimage.map_coordinates(velocity[..., i], grid, order=1) for i in range(3)], -1)
    np.testing.assert_allclose(enlarged, theirs, atol=1e-4)


def test_direction(tmp_path):
    "One velocity everywhere, (1, 2, -1) voxels of the half grid, moves by (2, 4, -2), and pulls what lies there."
    layers = {name: {array: 0 * values for array, values in arrays.items()} for name, arrays in keras_layers().items()}
    layers['flow']['bias'] = np.array([1, 2, -1], np.float32)
    path = write_keras(tmp_path / 'constant.h5', layers, int_steps=5, unet_half_res=True)
    scan = torch.rand(1, 1, 20, 21, 18)  # no multiples of 8: padded within, cropped after
    with torch.no_grad(): displacement = load_official_synthmorph(path)(scan, scan)
    expected = torch.tensor([2., 4, -2]).view(1, 3, 1, 1, 1).expand(1, 3, *scan.shape[2:])
    torch.testing.assert_close(displacement, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(warp(scan, displacement)[..., :18, :17, 2:], scan[..., 2:, 4:, :16], atol=1e-4, rtol=0)


def broken(kind, path):
    "Write a file that cannot be used."
    layers, flow = keras_layers(), keras_layers()['flow']
    if kind == 'truncated':
        whole = write_keras(path, layers, **PUBLISHED).read_bytes()
        path.write_bytes(whole[:len(whole) // 2])
    if kind == 'pickle': path.write_bytes(pickle.dumps({'weights': 1}))
    if kind == 'empty':
        with h5py.File(path, 'w') as file: file['x'] = 1
    if kind == 'missing': write_keras(path, {name: one for name, one in layers.items() if name != 'unet_dec_conv_1_0'})
    if kind == 'twice': write_keras(path, layers | {'unet_enc_conv_0_1': layers['unet_enc_conv_0_0']})
    if kind == 'full': write_keras(path, layers, svf_resolution=1)
    if kind == 'sizes': write_keras(path, layers | {'flow': flow | {'kernel': np.zeros((3, 3, 3, 5, 3), 'f4')}})
    if kind == 'nan': write_keras(path, layers | {'flow': flow | {'bias': np.array([0, np.nan, 0], 'f4')}})


@pytest.mark.parametrize('kind, told', {
    'absent': 'no weights file', 'truncated': 'truncated', 'pickle': 'not an HDF5', 'empty': 'lacks',
    'missing': 'dec_conv_1_0', 'twice': 'enc_conv_0_1', 'full': 'full resolution', 'sizes': 'shape (3, 3, 3, 5, 3)',
    'nan': 'no numbers'}.items())
def test_refused(kind, told, tmp_path):
    "What is broken, or something else, is refused in one sentence."
    path = tmp_path / f'{kind}.h5'
    broken(kind, path)
    with pytest.raises(InputError) as refused: load_official_synthmorph(path)
    assert told in str(refused.value) and str(refused.value).replace(str(path), '').count('. ') == 0
