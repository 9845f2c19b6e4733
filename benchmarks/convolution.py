"""Small float32 convolutions on one CPU thread: PyTorch's own choice against `same_conv3d`.

    python benchmarks/convolution.py
"""
from functools import partial

import torch
import torch.nn.functional as F
from measure import interleave, use_threads

from regpre_nb.method.transmorph import same_conv3d


def with_gradients(convolve, features, weight):
    "Forward and backward."
    return torch.autograd.grad(convolve(features, weight).sum(), (features, weight))


def main() -> None:
    "Print milliseconds for some maps of the networks."
    for inputs, outputs, size in [(16, 3, 32), (16, 16, 24), (16, 6, 24), (96, 16, 12), (192, 16, 6)]:
        features = torch.randn(1, inputs, size, size, size, requires_grad=True)
        weight = torch.randn(outputs, inputs, 3, 3, 3, requires_grad=True)
        convolutions = {'PyTorch': partial(F.conv3d, padding=1), 'ours': same_conv3d}
        with use_threads(1):
            timings = interleave({name: partial(with_gradients, convolve, features, weight)
                                  for name, convolve in convolutions.items()})
        ms = {name: timing.ms for name, timing in timings.items()}
        print(f"{inputs} to {outputs} channels, {size} cubed: "
              f"PyTorch {ms['PyTorch']:.1f} ms, ours {ms['ours']:.1f} ms, "
              f"{ms['PyTorch'] / ms['ours']:.1f} times as fast")


if __name__ == '__main__': main()
