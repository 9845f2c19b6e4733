"""Time and memory of the package beside its peers: what `make bench` runs.

    python benchmarks/bench.py                                       everything: results/bench/speed.csv, speed.md, ...
    python benchmarks/bench.py --item ncc --size 96 --threads 1      a part; the rest of the files stays

Part of it is measured and written at a time, so that it can be stopped at any moment.
"""
import argparse
import subprocess
import sys
from pathlib import Path

import pandas as pd
from contestants import ITEMS, correlation_errors, frugal_generators, with_and_without_kernels
from measure import clock_of, interleave, use_threads
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from tables import PART, merge, write_report

from regpre_nb.learn.training import run_environment

HERE = Path(__file__).parent
SIZES, THREADS = (64, 96, 128), (1, 2)
OTHER_SIZES = {'accuracy': [64], 'memory': [224]}  # what is not a time has a size of its own


def measure_speed(name: str, size: int, threads: list[int], folder: Path, commit: str) -> None:
    "One item at one size."
    item = ITEMS[name]
    contestants = with_and_without_kernels(item.prepare((size,) * 3))
    for n in threads:
        with use_threads(n): timings = interleave(contestants, clock_of(n), item.least)
        merge(folder / 'speed.csv', [{'item': name, 'size': size, 'threads': n, 'contestant': contestant,
                                      'ms': round(timing.ms, 3), 'repeats': timing.repeats, 'commit': commit}
                                     for contestant, timing in timings.items()], PART)


def measure_accuracy(size: int, folder: Path, commit: str) -> None:
    "Rounding errors of the local correlations."
    rows = [row | {'commit': commit} for row in correlation_errors((size,) * 3)]
    merge(folder / 'accuracy.csv', rows, ['size'])


def measure_memory(size: int, folder: Path, commit: str) -> None:
    "Peak memory of the generators, each in a process of its own."
    if not sys.platform.startswith('linux'): return print('peak memory is read from /proc: on Linux only')
    rows = []
    for contestant in with_and_without_kernels(frugal_generators((size,) * 3)):
        done = subprocess.run([sys.executable, HERE / 'memory.py', contestant, str(size)],
                              check=True, stdout=subprocess.PIPE, text=True)
        megabytes = float(done.stdout.splitlines()[-1])
        rows.append({'size': size, 'contestant': contestant, 'MB': round(megabytes, 1), 'commit': commit})
    merge(folder / 'memory.csv', rows, ['size'])


def show(console: Console, title: str, frame: pd.DataFrame) -> None:
    "Print a table."
    table = Table(title=title, title_justify='left', box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in frame: table.add_column(column, justify='left' if frame[column].str.isalpha().any() else 'right')
    for row in frame.itertuples(index=False): table.add_row(*row)
    console.print(table)


def main(arguments: list[str] | None = None) -> None:
    "Measure what was asked for, write it, print the tables."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*ITEMS, *OTHER_SIZES]
    parser.add_argument('--item', nargs='+', choices=names, default=names, metavar='ITEM', help=', '.join(names))
    parser.add_argument('--size', nargs='+', type=int, help='edge of the volume, voxels (default: 64 96 128)')
    parser.add_argument('--threads', nargs='+', type=int, default=THREADS, help='default: 1 2')
    parser.add_argument('--folder', type=Path, default=HERE.parent / 'results' / 'bench', help='of the results')
    chosen = parser.parse_args(arguments)
    console = Console(markup=False, width=None if sys.stdout.isatty() else 110)
    commit = run_environment('cpu')['commit'] or 'unknown'
    for name in chosen.item:
        for size in chosen.size or OTHER_SIZES.get(name, SIZES):
            console.print(f'{name}, {size} voxels along each axis', style='dim')
            if name == 'accuracy': measure_accuracy(size, chosen.folder, commit)
            elif name == 'memory': measure_memory(size, chosen.folder, commit)
            else: measure_speed(name, size, chosen.threads, chosen.folder, commit)
    for title, frame in write_report(chosen.folder).items(): show(console, title, frame)


if __name__ == '__main__': main()
