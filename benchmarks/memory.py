"""Peak memory of making one random pair, in a process of its own: prints megabytes.

    python benchmarks/memory.py 'ours' 224
"""
import sys

import torch
from contestants import frugal_generators, with_and_without_kernels
from measure import peak_megabytes, use_threads


def main(contestant: str, size: int) -> None:
    "A small pair first: it loads libraries and compiles kernels."
    small, large = (with_and_without_kernels(frugal_generators((edge,) * 3)) for edge in (32, size))
    with use_threads(1), torch.no_grad():
        small[contestant]()
        print(peak_megabytes(large[contestant]))


if __name__ == '__main__': main(sys.argv[1], int(sys.argv[2]))
