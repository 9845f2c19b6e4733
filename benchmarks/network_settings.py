"""Which settings of the registration network and its training suit a cohort: trained from scratch, scored on people who
are validated on. No test pair is read. For example, on two cores and on a GPU

    python benchmarks/network_settings.py hippocampus --pairs 3000 --batch 1 --table results/trials/network.csv
    python benchmarks/network_settings.py hippocampus --pairs 6000 --batch 4 --jobs 6 --limit 200 --mps --table OUT.csv

A variant that is in the table already is not trained again.
"""
import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import torch

from regpre_nb.data.cohorts import Cohort, load_cohort, seeded_pairs
from regpre_nb.data.files import replacing
from regpre_nb.learn.finetune import FinetuneSettings, cohort_batches, registration_loss
from regpre_nb.learn.scoring import cohort_validation
from regpre_nb.learn.training import TrainSettings, default_device, fit
from regpre_nb.method.losses import Loss
from regpre_nb.method.swin import settings_named
from regpre_nb.method.transmorph import TransMorph

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / 'tools'))
from gpu_check import sharing  # noqa: E402


@dataclass(frozen=True)
class Variant:
    "What differs from the base: the network `small`, the loss of the paper, flips along each axis."
    network: dict = field(default_factory=dict)    # fields of `TransMorphSettings`
    loss: dict = field(default_factory=dict)       # fields of `Loss`
    training: dict = field(default_factory=dict)   # fields of `TrainSettings`
    flips: str = 'each'
    longer: float = 1.0      # times as many pairs
    both_ways: bool = False  # half as many pairs, each of them in both directions
    warm_up: int = 0         # steps in which the learning rate grows
    average: float = 0.0     # decay of the moving average of the weights that is scored; 0: none


VARIANTS = {
    'base': Variant(),
    'base, seed 1': Variant(training={'seed': 1}),
    'twice as many pairs': Variant(longer=2),
    'lambda 0.5': Variant(loss={'diffusion_weight': 0.5}),
    'lambda 3': Variant(loss={'diffusion_weight': 3.0}),
    'window 5': Variant(loss={'window': 5}),
    'window 7': Variant(loss={'window': 7}),
    'T 6': Variant(network={'time_steps': 6}),
    'velocity at full resolution': Variant(network={'velocity_stride': 1}),
    'no flips': Variant(flips='none'),
    'learning rate 8e-4': Variant(training={'learning_rate': 8e-4}),
    'learning rate 2e-4': Variant(training={'learning_rate': 2e-4}),
    'warm-up of 200 steps': Variant(warm_up=200),
    'average of weights': Variant(average=0.995),
    'both ways': Variant(both_ways=True),
    'batch 1': Variant(training={'batch': 1}),
    'batch 2': Variant(training={'batch': 2}),
    'smoothing 0.7': Variant(network={'smoothing': 0.7}),
    'smoothing 1': Variant(network={'smoothing': 1.0}),
    'window 5, smoothing 0.7': Variant(loss={'window': 5}, network={'smoothing': 0.7}),
    'window 5, smoothing 1': Variant(loss={'window': 5}, network={'smoothing': 1.0}),
    'smoothing 1, no flips': Variant(network={'smoothing': 1.0}, flips='none'),
    'window 5, smoothing 1, no flips': Variant(loss={'window': 5}, network={'smoothing': 1.0}, flips='none'),
    'window 5, smoothing 1, no flips, 8e-4': Variant(loss={'window': 5}, network={'smoothing': 1.0}, flips='none',
                                                     training={'learning_rate': 8e-4}),
    'no flips, T 6': Variant(network={'time_steps': 6}, flips='none'),
    'no flips, T 6, window 5': Variant(network={'time_steps': 6}, flips='none', loss={'window': 5}),
    'no flips, T 6, lambda 3': Variant(network={'time_steps': 6}, flips='none', loss={'diffusion_weight': 3.0}),
    'no flips, T 6, 1e-3': Variant(network={'time_steps': 6}, flips='none', training={'learning_rate': 1e-3}),
    'full resolution, window 5': Variant(network={'velocity_stride': 1}, loss={'window': 5}),
    'full resolution, 1e-3': Variant(network={'velocity_stride': 1}, training={'learning_rate': 1e-3}),
    'full resolution, T 6': Variant(network={'velocity_stride': 1, 'time_steps': 6}),
}


def held_out(cohort: Cohort, people: int = 20, pairs: int = 40) -> Cohort:
    "The cohort with validation pairs among people who are not trained on."
    if cohort.atlas: return cohort
    kept = cohort.train[:-people]
    return replace(cohort, train=kept, validation_pairs=seeded_pairs(cohort.train[-people:], pairs, seed=0))


def in_both_directions(batches: Callable) -> Callable:
    "The first half of the pairs of a batch, and the same with moving and fixed exchanged."
    def together(numbers, generator):
        batch = batches.together(numbers[:max(1, len(numbers) // 2)], generator)
        return {role: torch.cat([batch[role], batch[other]])
                for role, other in (('moving', 'fixed'), ('fixed', 'moving'))}

    def make_batch(number, generator): return together([number], generator)
    make_batch.together = together
    return make_batch


@contextmanager
def hooked(variant: Variant, network: torch.nn.Module) -> Iterator[torch.nn.Module]:
    "The network that is scored, while the optimiser warms up or an average of its weights is kept."
    from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
    taken, handles, scored = [0], [], network

    def warm(optimiser, *_):
        taken[0] += 1
        for group in optimiser.param_groups: group['lr'] *= min(1.0, taken[0] / variant.warm_up)

    if variant.warm_up: handles.append(register_optimizer_step_pre_hook(warm))
    if variant.average:
        network.to(default_device())
        scored = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(variant.average))
        handles.append(register_optimizer_step_post_hook(lambda *_: scored.update_parameters(network)))
    try: yield scored
    finally:
        for handle in handles: handle.remove()


def trained(name: str, data: str, pairs: int, batch: int, resolution: float) -> dict:
    "Train a variant; its row of the table."
    variant, cohort = VARIANTS[name], held_out(load_cohort(data))
    torch.set_num_threads(1)
    settings = FinetuneSettings(loss=Loss(**variant.loss), flips=variant.flips)
    basic = {'learning_rate': 4e-4 if batch > 1 else 5e-4, 'precision': 'bf16', 'batch': batch} | variant.training
    steps = round(pairs * variant.longer) // basic['batch']
    training = TrainSettings(steps, steps_per_epoch=max(1, steps // 50), validate_every=max(1, steps // 4),
                             log_every=max(1, steps // 20), graph=True, **basic)
    torch.manual_seed(training.seed)
    network = TransMorph(settings_named('small', **{'resolution': resolution} | variant.network))
    batches = cohort_batches(cohort, cohort.train, training.seed, settings.flips)
    if variant.both_ways: batches = in_both_directions(batches)
    found, validate, started = [], cohort_validation(cohort), time.monotonic()
    with tempfile.TemporaryDirectory() as folder, hooked(variant, network) as scored:
        def score(network):
            found.append(validate(scored if variant.average else network)['dice'])
            return {'score': found[-1]}
        fit(network, partial(registration_loss, settings=settings), batches, training, folder, score, progress=False)
    return {'variant': name, 'data': data, 'pairs': steps * training.batch, 'batch': training.batch,
            'Dice': round(found[-1], 5), 'Dice at half': round(found[1], 5),
            'seconds': round(time.monotonic() - started, 1), 'settings': json.dumps(asdict(variant))}


def tried(options: argparse.Namespace) -> Iterator[dict]:
    "Rows as they come, until the limit."
    known = {*pd.read_csv(options.table)['variant']} if options.table.exists() else set()
    wanted = [name for name in options.variants if name not in known]
    work = partial(trained, data=options.data, pairs=options.pairs, batch=options.batch, resolution=options.resolution)
    end = time.monotonic() + options.limit
    pool = ProcessPoolExecutor(options.jobs, get_context('spawn'))
    waiting = {pool.submit(work, name): name for name in wanted}
    try:
        for done in as_completed(waiting, timeout=max(1.0, end - time.monotonic())):
            try: yield done.result()
            except Exception as error: print(f'{waiting[done]}: {type(error).__name__}: {error}', flush=True)
    except TimeoutError: print('the time is over', flush=True)
    finally:
        processes = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes: process.kill()


def main() -> None:
    "Entry point."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('data', help='name of a cohort')
    parser.add_argument('--variants', nargs='+', default=list(VARIANTS), choices=list(VARIANTS), metavar='NAME')
    parser.add_argument('--pairs', type=int, default=3000, help='of training, in each variant')
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--resolution', type=float, default=1, help='of the network')
    parser.add_argument('--jobs', type=int, default=1, help='variants at the same time')
    parser.add_argument('--limit', type=float, default=1e6, help='seconds')
    parser.add_argument('--mps', action='store_true', help='let them compute on a GPU at the same time')
    parser.add_argument('--table', type=Path, required=True, help='CSV; rows are added')
    options = parser.parse_args()
    rows = pd.read_csv(options.table).to_dict('records') if options.table.exists() else []
    with sharing(options.mps):
        for row in tried(options):
            rows.append(row)
            print(' '.join(f'{value}' for value in list(row.values())[:-1]), flush=True)
            with replacing(options.table) as path: pd.DataFrame(rows).to_csv(path, index=False)
    sys.stdout.flush()
    os._exit(0)  # a killed worker leaves threads of the pool that would be waited for


if __name__ == '__main__': main()
