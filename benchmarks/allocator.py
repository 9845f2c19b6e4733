"""A pretraining step with and without the memory settings that `regpre reproduce` gives its processes (Linux, glibc).

    python benchmarks/allocator.py [64 160]

Each step is taken in a process of its own, as the settings are read when a process starts.
"""
import os
import subprocess
import sys

from regpre_nb.use.cli import KEEP_MEMORY


def measure(size: int) -> None:
    "Print milliseconds of a step in this process."
    import torch
    from contestants import pretraining_steps
    from measure import interleave, use_threads
    torch.manual_seed(0)
    with use_threads(1): timing = interleave({'step': pretraining_steps((size,) * 3)['ours, bf16']}, least=4)['step']
    print(timing.ms)


def main(sizes: list[int]) -> None:
    "Compare the two for each size."
    for size in sizes:
        ms = {}
        for name, tunables in (('as it is', ''), ('kept', KEEP_MEMORY)):
            done = subprocess.run([sys.executable, __file__, '--here', str(size)], check=True, stdout=subprocess.PIPE,
                                  env={**os.environ, 'GLIBC_TUNABLES': tunables}, text=True)
            ms[name] = float(done.stdout.splitlines()[-1])
        print(f"{size} cubed: {ms['as it is']:.0f} ms, memory kept {ms['kept']:.0f} ms, "
              f"{ms['as it is'] / ms['kept']:.2f} times as fast")


if __name__ == '__main__':
    if sys.argv[1:2] == ['--here']: measure(int(sys.argv[2]))
    else: main([int(size) for size in sys.argv[1:]] or [64, 160])
