"""A cohort of thousands of volumes: how long a run takes to start, how much memory it holds, how fast it is fed.

    python benchmarks/large_cohort.py                              5,000 made-up volumes: results/bench/large_cohort.csv
    python benchmarks/large_cohort.py --count 50 --out FILE        fewer, to try it

The volumes are small and made up: a folder of NIfTI files with a manifest, as a user has them. All is read twice, first
from the files themselves, then from the cache folder, where what was read is kept and mapped into memory.
"""
import argparse
import os
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import torch

from regpre_nb.data.cohorts import load_cohort
from regpre_nb.data.files import replacing
from regpre_nb.data.volumes import Volume, save_volume
from regpre_nb.learn.finetune import FinetuneSettings, cohort_batches, finetune
from regpre_nb.learn.training import TrainSettings, read_log, run_environment, step_generator
from regpre_nb.method.swin import settings_named
from regpre_nb.method.transmorph import TransMorph

OUT = Path(__file__).resolve().parent.parent / 'results' / 'bench' / 'large_cohort.csv'


def make_volumes(folder: Path, count: int, side: int) -> Path:
    "Images of blobs, copies of one label map, and the manifest that lists them."
    rng, affine = np.random.default_rng(0), np.diag([2., 2, 2, 1])
    ball = np.linalg.norm(np.indices((side,) * 3) - side / 2 + 0.5, axis=0) < side / 4
    save_volume(Volume(ball.astype(np.uint8), affine), folder / 'labels.nii.gz')
    lines = ['case,image,labels,split']
    for number in range(count):
        image = (ball + 0.2 * rng.standard_normal(ball.shape)).astype(np.float32)
        save_volume(Volume(image, affine), folder / f'{number}.nii.gz')
        shutil.copy(folder / 'labels.nii.gz', folder / f'{number}_labels.nii.gz')
        split = 'test' if number < 2 else 'validation' if number < 4 else 'train'
        lines.append(f'{number},{number}.nii.gz,{number}_labels.nii.gz,{split}')
    (folder / 'manifest.csv').write_text('\n'.join(lines) + '\n', encoding='utf-8')
    return folder / 'manifest.csv'


def memory() -> float:
    "Megabytes that this process holds for itself; what is mapped from files is the system's."
    told = psutil.Process().memory_full_info()
    return told.uss / 1e6


def epoch(batches, count: int) -> tuple[float, list[float]]:
    "Images a second through one epoch, and the memory at every tenth of it."
    held, started = [], time.perf_counter()
    for number in range(count):
        batches(number, step_generator(0, number))
        if number % max(count // 10, 1) == 0: held.append(memory())
    return 2 * count / (time.perf_counter() - started), held


def rows(folder: Path, count: int, side: int) -> list[dict]:
    "What is measured, a row each."
    manifest, found = make_volumes(folder, count, side), []
    for times in ('first', 'second'):
        begun = time.perf_counter()
        cohort = replace(load_cohort('folder', manifest), keep=False)  # as if it did not fit into memory
        spent = time.perf_counter() - begun
        found.append({'what': f'load the cohort, {times} time', 'value': spent, 'unit': 's'})
    for times in ('first', 'second'):
        begun = time.perf_counter()
        cohort.fingerprint(cohort.train)
        spent = time.perf_counter() - begun
        found.append({'what': f'fingerprint of all files, {times} time', 'value': spent, 'unit': 's'})
    batches = cohort_batches(cohort, cohort.train)
    for where in ('the files', 'the cache'):
        speed, held = epoch(batches, len(cohort.train))
        found += [{'what': f'images from {where}', 'value': speed, 'unit': 'a second'},
                  {'what': f'growth of memory in the epoch, {where}', 'value': max(held[1:]) - held[1], 'unit': 'MB'}]
    network = TransMorph(settings_named('tiny'))
    finetune(network, cohort, cohort.train, FinetuneSettings(), TrainSettings(steps=12, log_every=1), folder / 'run',
             validate=lambda network: {'score': 0.}, progress=False)
    steps = np.diff(read_log(folder / 'run' / 'log.jsonl')['seconds'])[2:]
    return found + [{'what': 'images that steps need', 'value': 2 / float(np.median(steps)), 'unit': 'a second'}]


def main() -> None:
    "Measure and write the table."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--count', type=int, default=5000)
    parser.add_argument('--side', type=int, default=32, help='voxels along each axis')
    parser.add_argument('--out', type=Path, default=OUT)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix='regpre-large-') as place:
        folder = Path(place)
        os.environ['REGPRE_CACHE'] = str(folder / 'cache')
        (folder / 'data').mkdir()
        table = pd.DataFrame(rows(folder / 'data', asked.count, asked.side))
    told = run_environment('cpu')
    table = table.round(3).assign(volumes=asked.count, size='x'.join([str(asked.side)] * 3), commit=told['commit'])
    with replacing(asked.out) as path: table.to_csv(path, index=False)
    print(table.to_string(index=False))


if __name__ == '__main__': main()
