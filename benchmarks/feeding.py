"""How many images a second one core gives to a training: what `make bench` runs last.

    python benchmarks/feeding.py                     made-up cases of IXI's size: results/bench/feeding.csv
    python benchmarks/feeding.py --size 32 48 32 --folder FOLDER     smaller ones, to try it

Cases in IXI's two formats, read with all checks, and from the cache folder where `stored_image` keeps what was read.
The files have just been written, so the system holds them in memory: a slow disk adds to every row.
"""
import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
from measure import use_threads

from regpre_nb.data.cohorts import Cohort, load_cohort, stored_image
from regpre_nb.data.files import replacing
from regpre_nb.data.ixi import convert_ixi, make_ixi_like
from regpre_nb.learn.training import run_environment

HERE = Path(__file__).parent
CASES = 4  # to train on


def processor() -> str:
    "The model of this machine's processor."
    try: lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError: lines = []
    named = [line.partition(': ')[2] for line in lines if line.startswith('model name')]
    return named[0] if named else platform.processor() or platform.machine()


def seconds_each(give: Callable[[str], object], cases: Sequence[str], times: int) -> float:
    "Mean seconds for a case; the least of some rounds."
    rounds = []
    for _ in range(times):
        start = time.perf_counter()
        for case in cases: give(case)
        rounds.append((time.perf_counter() - start) / len(cases))
    return min(rounds)


def ways(cohort: Cohort) -> dict[str, tuple[Callable, int]]:
    "How an image can be had, in the order in which it is measured, and how often it is."
    def fill(case): return stored_image(cohort, case)
    return {'its own files': (cohort.read, 3), 'its own files, kept': (fill, 1), 'what was kept': (fill, 10)}


def measure(shape: tuple[int, ...], folder: Path) -> list[dict]:
    "Rows of the table, from files that are made for it in a folder."
    make_ixi_like(folder / 'pickles', shape, (CASES, 1, 1), CASES)
    convert_ixi(folder / 'pickles', folder / 'nifti' / 'IXI_nifti')
    environment, rows = run_environment('cpu'), []
    for files, name in (('pickle', 'pickles'), ('.nii.gz', 'nifti')):
        os.environ['REGPRE_CACHE'] = str(folder / f'cache of {name}')
        cohort = load_cohort('ixi', folder / name)
        for way, (give, times) in ways(cohort).items():
            seconds = seconds_each(give, cohort.train, times)
            rows.append({'files': files, 'from': way, 'size': 'x'.join(map(str, shape)), 'seconds': round(seconds, 4),
                         'images_per_second': round(1 / seconds, 1), 'processor': processor(), 'cores': 1,
                         'commit': environment['commit'] or 'unknown'})
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    "Measure, write, print."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--size', nargs=3, type=int, default=(160, 192, 224), help='voxels, multiples of 16')
    parser.add_argument('--folder', type=Path, default=HERE.parent / 'results' / 'bench', help='of the result')
    chosen = parser.parse_args(arguments)
    cache = os.environ.get('REGPRE_CACHE')
    try:
        with tempfile.TemporaryDirectory() as folder, use_threads(1):
            table = pd.DataFrame(measure(tuple(chosen.size), Path(folder)))
    finally:
        if cache is None: os.environ.pop('REGPRE_CACHE', None)
        else: os.environ['REGPRE_CACHE'] = cache
    with replacing(chosen.folder / 'feeding.csv') as temporary: table.to_csv(temporary, index=False)
    print(table.drop(columns=['processor', 'commit']).to_string(index=False))


if __name__ == '__main__': main()
