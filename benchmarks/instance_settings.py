"""Which settings of instance optimisation suit a cohort, on training pairs: some drawn, and those that start farthest.

One process, one thread, from nothing; the test pairs are never read. For example

    python benchmarks/instance_settings.py hippocampus --pairs 24 --far 8 --pool 100 --table results.csv
    python benchmarks/instance_settings.py labelmaps --settings '{"smoothing": 0.7}' --settings '{"smoothing": 1}'
"""
import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from regpre_nb.compare.pairwise import mean_score
from regpre_nb.data.cohorts import Cohort, load_cohort
from regpre_nb.learn.instance import InstanceSettings, optimise_pair
from regpre_nb.learn.scoring import score_pair
from regpre_nb.method.settings import from_json

Pair = tuple[str, str]
TRIED = tuple({'smoothing': smoothing, 'loss': {'window': window, 'diffusion_weight': weight}}
              for smoothing, window, weight in (
    (0., 9, 1.), (0., 9, 3.), (0., 5, 1.), (0., 5, 3.), (0.5, 5, 1.), (0.5, 5, 2.), (0.7, 5, 0.3), (0.7, 5, 1.),
    (0.7, 5, 2.), (0.7, 7, 1.), (0.7, 9, 1.), (1., 5, 0.3), (1., 5, 1.), (1., 5, 2.), (1., 7, 1.)))


@dataclass(frozen=True)
class Chosen:
    "Training pairs to score settings on."
    drawn: tuple[Pair, ...]  # by a seed
    far: tuple[Pair, ...]  # the farthest of a pool, in the order of their distance

    @property
    def every(self) -> tuple[Pair, ...]:
        return tuple(dict.fromkeys((*self.drawn, *self.far)))


def training_pairs(cohort: Cohort, seed: int) -> Iterator[Pair]:
    "Pairs of training cases in an order that a seed draws, each once."
    pairs = [(moving, fixed) for moving in cohort.train for fixed in cohort.train if moving != fixed]
    if cohort.atlas or cohort.partners: pairs = list(cohort.train_pairs)
    return (pairs[place] for place in np.random.default_rng(seed).permutation(len(pairs)))


def choose_pairs(cohort: Cohort, drawn: int, far: int, pool: int, seed: int) -> Chosen:
    "Some pairs by chance, and of a pool those that score lowest as they are."
    pairs = [pair for pair, _ in zip(training_pairs(cohort, seed), range(pool))]
    still = torch.zeros(1, 3, *cohort.shape)
    distant = sorted(pairs, key=lambda pair: mean_score(score_pair(still, cohort, *pair)))
    return Chosen(tuple(pairs[:drawn]), tuple(distant[:far]))


def one_pair(cohort: Cohort, pair: Pair, settings: InstanceSettings) -> dict:
    "Score, %NDV and CPU seconds of a pair that is optimised from nothing."
    images = [cohort.image(case)[None] for case in pair]
    started = time.process_time()
    displacement = optimise_pair(*images, settings)
    seconds = time.process_time() - started
    scores = score_pair(displacement, cohort, *pair)
    return {'pair': pair, 'score': mean_score(scores), 'ndv_percent': scores['ndv_percent'].iloc[0], 'seconds': seconds}


def one_row(cohort: Cohort, chosen: Chosen, changes: dict) -> dict:
    "What settings reach: means over both kinds of pairs."
    settings = from_json(InstanceSettings, changes)
    frame = pd.DataFrame([one_pair(cohort, pair, settings) for pair in chosen.every]).set_index('pair')
    drawn, far = frame.loc[list(chosen.drawn)], frame.loc[list(chosen.far)]
    return {'settings': json.dumps(changes), 'drawn': drawn['score'].mean(), 'far': far['score'].mean(),
            'lowest': frame['score'].min(), 'ndv_percent': frame['ndv_percent'].mean(),
            'seconds': frame['seconds'].median(), 'pairs': len(frame)}


def main(arguments: Sequence[str] | None = None) -> None:
    "Score settings one after the other and print each line at once."
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('cohort')
    for name, value, words in (('pairs', 24, 'drawn by the seed'), ('far', 8, 'the farthest of the pool'),
                               ('pool', 100, 'pairs to look for far ones in'), ('seed', 0, 'draws the pool')):
        parser.add_argument(f'--{name}', type=int, default=value, help=f'{words} (default {value})')
    parser.add_argument('--settings', type=json.loads, action='append', help='fields of InstanceSettings, as JSON')
    parser.add_argument('--table', help='CSV file to write')
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    cohort = load_cohort(asked.cohort)
    chosen, rows = choose_pairs(cohort, asked.pairs, asked.far, asked.pool, asked.seed), []
    optimise_pair(*torch.rand(2, 1, 1, 16, 16, 16), InstanceSettings(steps=1, scales=(1,)))  # loads the kernels
    for changes in [{'steps': 0}, *(asked.settings or TRIED)]:
        rows.append(one_row(cohort, chosen, changes))
        print('  '.join(f'{value:.4f}' if isinstance(value, float) else str(value) for value in rows[-1].values()),
              flush=True)
    if asked.table: pd.DataFrame(rows).to_csv(asked.table, index=False)


if __name__ == '__main__': main()
