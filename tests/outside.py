"What somebody adds to the package without touching it: a loss, an encoder and a network; see test_new_parts.py."
from dataclasses import dataclass

import torch
from torch import nn

from regpre_nb.method.losses import similarity
from regpre_nb.method.swin import encoder
from regpre_nb.method.transmorph import network


@similarity('squares')
def squares(warped, fixed, loss, preset):
    "The mean squared difference of the images."
    return (warped - fixed).square().mean()


@dataclass(frozen=True)
class PyramidSettings:
    "Of a `Pyramid`."
    channels: tuple[int, ...] = (4, 8)


@encoder('pyramid', PyramidSettings)
class Pyramid(nn.Module):
    "One strided convolution for each map."
    def __init__(self, settings):
        super().__init__()
        self.settings, self.channels = settings, settings.channels
        sizes = zip((2, *settings.channels), settings.channels)
        self.levels = nn.ModuleList(nn.Conv3d(inputs, outputs, 3, 2, 1) for inputs, outputs in sizes)

    def forward(self, pair):
        maps = [pair]
        for level in self.levels: maps.append(level(maps[-1]).relu())
        return maps[1:]


@dataclass(frozen=True)
class ShiftSettings:
    "Of a `Shift`."
    axis: int = 0


@network('shift', ShiftSettings)
class Shift(nn.Module):
    "A network that has learned one number: how far to shift every image."
    def __init__(self, settings):
        super().__init__()
        self.settings, self.voxels = settings, nn.Parameter(torch.zeros(1))

    def forward(self, moving, fixed):
        displacement = moving.new_zeros(1, 3, *moving.shape[2:])
        displacement[:, self.settings.axis] = self.voxels
        return displacement
