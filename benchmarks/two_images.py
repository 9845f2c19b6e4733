"""Two images, out of the box: score, CPU seconds and memory of `register` and of others, on test pairs, one thread.

Everyone gets the same two arrays of a cohort after the same affine map, whose seconds are left out. Resumable: a pair
and method that the table has are not made again. For example

    python benchmarks/two_images.py hippocampus
    python benchmarks/two_images.py ixi40 --pairs 30 --methods network optimised both greedy
    python benchmarks/two_images.py hippocampus --pairs 20 --curve
"""
import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from regpre_nb.compare.methods import high_water_mark, register_pair, set_back_high_water_mark
from regpre_nb.compare.pairwise import mean_score
from regpre_nb.data.cohorts import Cohort, load_cohort
from regpre_nb.data.volumes import Volume
from regpre_nb.learn.scoring import score_pair
from regpre_nb.method.metrics import ndv_percent
from regpre_nb.method.spatial import compose, warp
from regpre_nb.use.register import Registration, register
from regpre_nb.use.transforms import in_voxels

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / 'results' / 'bench' / 'two_images.csv'
OURS = {'affine': dict(model=None, steps=0), 'network': dict(steps=0), 'optimised': dict(model=None), 'both': {},
        'edges': dict(metric='edges'), 'edges, other contrast': dict(metric='edges'),
        'mind, other contrast': dict(metric='mind'), 'ncc, other contrast': {}}
OTHERS = 'greedy', 'syn', 'convexadam'
STEPS = 5, 10, 20, 40, 80
CURVE = {f'{name}, {steps} steps': changes | {'steps': steps} for name, changes in
         (('from the affine map', dict(model=None)), ('from the network', {})) for steps in STEPS}


def other_contrast(image: np.ndarray) -> np.ndarray:
    "What is bright becomes dark, with a bend; what is black stays black."
    return np.where(image > 0.02, (1.05 - image)**1.5, image).astype(np.float32)


def volumes(cohort: Cohort, pair: tuple[str, str]) -> list[Volume]:
    "The two images with their spacing."
    return [Volume(cohort.image(case)[0].numpy(), np.diag([*cohort.spacing, 1.])) for case in pair]


def own(moving: Volume, fixed: Volume, changes: dict) -> tuple[torch.Tensor, dict]:
    "The displacement of `register`, and what it cost: the affine map, the warp and the inverse are not counted."
    torch.manual_seed(0)
    set_back_high_water_mark()
    started = time.process_time()
    result = register(moving, fixed, **changes)
    spent = time.process_time() - started
    counted = sum(result.seconds.get(stage, 0) for stage in ('network', 'optimise'))
    return in_voxels(result.warp), {'cpu_seconds': spent * counted / sum(result.seconds.values()),
                                           'all_cpu_seconds': spent, 'peak_mb': high_water_mark() / 1e6}


def other(moving: Volume, fixed: Volume, start: Registration, method: str) -> tuple[torch.Tensor | None, dict]:
    "The displacement of another method after the affine map, and what it cost."
    affine = in_voxels(start.warp)
    brought = warp(torch.from_numpy(moving.data)[None, None], affine)
    found = register_pair(method, brought, torch.from_numpy(fixed.data)[None, None], fixed.spacing)
    cost = {'cpu_seconds': found.cpu_seconds, 'peak_mb': found.peak_mb, 'failure': found.failure}
    return None if found.displacement is None else compose(affine, found.displacement), cost


def one(cohort: Cohort, pair: tuple[str, str], method: str) -> dict:
    "Score and cost of a method on a pair."
    moving, fixed = volumes(cohort, pair)
    if 'other contrast' in method: moving = Volume(other_contrast(moving.data), moving.affine)
    if method == 'initial': displacement, cost = torch.zeros(1, 3, *cohort.shape), {}
    elif method in OTHERS: displacement, cost = other(moving, fixed, register(moving, fixed, **OURS['affine']), method)
    else: displacement, cost = own(moving, fixed, (OURS | CURVE)[method])
    row = {'data': cohort.name, 'moving': pair[0], 'fixed': pair[1], 'method': method} | cost
    if displacement is None: return row
    score = mean_score(score_pair(displacement, cohort, *pair))
    return row | {'score': score, 'ndv_percent': ndv_percent(displacement)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('data')
    parser.add_argument('--pairs', type=int, help='so many test pairs, evenly spread; all by default')
    every = ['initial', *OURS, *OTHERS]
    parser.add_argument('--methods', nargs='+', default=every, choices=every)
    parser.add_argument('--curve', action='store_true', help='numbers of steps, from two starts, in place of methods')
    parser.add_argument('--table', type=Path, default=TABLE)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    cohort = load_cohort(asked.data)
    pairs = list(cohort.test_pairs)
    if asked.pairs: pairs = [pairs[i] for i in np.linspace(0, len(pairs) - 1, asked.pairs).round().astype(int)]
    known = pd.read_csv(asked.table) if asked.table.exists() else pd.DataFrame()
    done = set(known.reindex(columns=COLUMNS[:4]).itertuples(index=False, name=None))
    one(cohort, pairs[0], 'both')  # loads the kernels
    for pair in pairs:
        for method in CURVE if asked.curve else asked.methods:
            if (cohort.name, *pair, method) in done: continue
            row = pd.DataFrame([one(cohort, pair, method)], columns=COLUMNS)
            row.to_csv(asked.table, mode='a', header=not asked.table.exists(), index=False, float_format='%.5g')


COLUMNS = ['data', 'moving', 'fixed', 'method', 'score', 'ndv_percent', 'cpu_seconds', 'all_cpu_seconds', 'peak_mb',
           'failure']

if __name__ == '__main__': main()
