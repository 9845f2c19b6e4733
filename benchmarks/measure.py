"""Time contestants in turns, and find the peak memory of a process.

Only a comparison on one machine in one process means anything, and the machine may be busy with other things for a
while. So all contestants take turns (ours, peer A, peer B, ours, peer A, ...), and the fastest turn of each counts.
pytest-benchmark finishes one contestant before the next begins; `interleave` is ten lines.
"""
import os
import time
from collections.abc import Callable
from contextlib import contextmanager
from importlib.util import find_spec
from typing import NamedTuple

import torch

from regpre_nb.use.profiling import peak_memory


class Timing(NamedTuple):
    "What is kept of a contestant."
    ms: float  # fastest repeat, milliseconds
    repeats: int


def interleave(contestants: dict[str, Callable],  # name -> what to time; called without arguments
               clock: Callable = time.process_time,  # returns seconds
               least: int = 3,  # turns of every contestant; the first one warms up, as the minimum forgives
               most: int = 10,  # turns, even of a fast one
               budget: float = 2.0,  # seconds after the first call: once spent, `least` turns are enough
               turn: float = 0.02,  # seconds: a short call is repeated for so long, to find the caches as it left them
               ) -> dict[str, Timing]:
    "Let the contestants take turns; the fastest call of each."
    seconds = {name: [] for name in contestants}
    for number in range(most):
        for name, call in contestants.items():
            if number >= least and sum(seconds[name][1:]) >= budget: continue
            end = clock() + turn
            while (start := clock()) < end:
                call()
                seconds[name].append(clock() - start)
    return {name: Timing(1000 * min(spent), len(spent)) for name, spent in seconds.items()}


def clock_of(threads: int) -> Callable:
    "CPU seconds for one thread, which other programs disturb least; wall seconds for several."
    return time.process_time if threads == 1 else time.perf_counter


@contextmanager
def use_threads(n: int):
    "Let PyTorch, and numba where it is installed, work with `n` threads."
    controls = [(torch.get_num_threads, torch.set_num_threads)]
    if find_spec('numba'):
        import numba
        most = numba.config.NUMBA_NUM_THREADS
        controls.append((numba.get_num_threads, lambda number: numba.set_num_threads(min(number, most))))
    before = [get() for get, _ in controls]
    for _, put in controls: put(n)
    try: yield
    finally:
        for (_, put), number in zip(controls, before): put(number)


def pure(call: Callable) -> Callable:
    "The same call without compiled kernels: regpre_nb reads REGPRE_FAST each time."
    def without_kernels(*arguments):
        before = os.environ.get('REGPRE_FAST')
        os.environ['REGPRE_FAST'] = '0'
        try: return call(*arguments)
        finally:
            if before is None: del os.environ['REGPRE_FAST']
            else: os.environ['REGPRE_FAST'] = before
    return without_kernels


def peak_megabytes(call: Callable) -> float:
    "How much the memory of this process grows while `call` runs."
    return peak_memory(call) / 2**20
