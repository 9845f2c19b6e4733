"""Whether pretraining on random pairs helps encoders other than the paper's: each is trained with it and without it on
a cohort, as long as the profile `cpu` says or shorter, and scored on the test pairs. For example

    python benchmarks/own_encoders.py cnn swinunetr --data hippocampus --table results/bench/own_encoders.csv

What is trained already is not trained again; what was interrupted goes on. Each row of the table is a structure of a
pair; nbs/use/50g_own.ipynb sums them up.
"""
import argparse
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from regpre_nb.data.cohorts import Cohort, load_cohort
from regpre_nb.data.files import replacing
from regpre_nb.learn.finetune import finetune, load_network
from regpre_nb.learn.pretrain import pretrain
from regpre_nb.learn.scoring import evaluate
from regpre_nb.learn.training import TrainSettings
from regpre_nb.method.swin import ENCODERS, TransMorphSettings, kind_named
from regpre_nb.method.transmorph import TransMorph
from regpre_nb.paper.profiles import Profile, load_profile


def built(name: str, network: TransMorphSettings) -> torch.nn.Module:
    "An encoder with its own default settings; one that shares the network's settings has those."
    kind = kind_named(name, ENCODERS)
    return kind.build(network if kind.settings is TransMorphSettings else kind.settings())


def shortened(training: TrainSettings, share: float, seed: int) -> TrainSettings:
    "A share of the steps, with as many looks at the validation pairs."
    steps = max(1, round(share * training.steps))
    return replace(training, steps=steps, seed=seed, validate_every=max(1, round(share * training.validate_every)))


def trained(name: str, cohort: Cohort, profile: Profile, seed: int, share: float, folder: Path) -> dict[bool, Path]:
    "The networks of an encoder, with pretraining and without."
    before, after = (shortened(each, share, seed) for each in (profile.pretrain_training, profile.finetune_training))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = built(name, profile.network)
    pretrain(encoder, profile.pretraining, before, folder / 'pretrain', profile.network.resolution)
    found = {}
    for start in (None, folder / 'pretrain' / 'encoder.safetensors'):
        place = folder / ('pretrained' if start else 'scratch')
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = TransMorph(profile.network, built(name, profile.network))
        finetune(network, cohort, cohort.train, profile.finetuning, after, place, start)
        found[start is not None] = place
    return found


def scored(place: Path, cohort: Cohort) -> pd.DataFrame:
    "The scores of a network on the test pairs; they are taken once."
    path = place / 'per_subject.csv'
    if not path.exists():
        scores = evaluate(load_network(place / 'model.safetensors'), cohort, cohort.test_pairs)
        with replacing(path) as temporary: scores.to_csv(temporary, index=False)
    return pd.read_csv(path)


def main() -> None:
    "Entry point."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('encoders', nargs='+', help='names, in the order in which they are trained')
    parser.add_argument('--data', default='hippocampus', help='name of a cohort')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0])
    parser.add_argument('--share', type=float, default=1, help='of the steps of the profile cpu')
    parser.add_argument('--runs', type=Path, default=Path('runs'), help='where the networks lie')
    parser.add_argument('--table', type=Path, required=True, help='CSV; rows of the same encoder, seed and length go')
    options = parser.parse_args()
    torch.set_num_threads(1)
    cohort = load_cohort(options.data)
    profile = load_profile('cpu', cohort)
    for seed in options.seeds:
        for name in options.encoders:
            folder = options.runs / f'own-encoders-{options.data}' / f'{name}-{options.share:g}-seed-{seed}'
            places = trained(name, cohort, profile, seed, options.share, folder)
            add_rows(options, [scored(place, cohort).assign(encoder=name, pretrained=start, seed=seed)
                               for start, place in places.items()], profile)


def add_rows(options: argparse.Namespace, parts: list[pd.DataFrame], profile: Profile) -> None:
    "Put scores into the table, in place of earlier ones of the same encoder, seed and length."
    steps = {'pretrain_steps': profile.pretrain_training, 'steps': profile.finetune_training}
    lengths = {column: shortened(training, options.share, 0).steps for column, training in steps.items()}
    new = pd.concat(parts, ignore_index=True).assign(data=options.data, **lengths)
    keys = ['data', 'encoder', 'seed', 'steps']
    if options.table.exists():
        old = pd.read_csv(options.table)
        same = old[keys].apply(tuple, axis=1).isin(set(new[keys].apply(tuple, axis=1)))
        new = pd.concat([old[~same], new], ignore_index=True)
    with replacing(options.table) as temporary: new.to_csv(temporary, index=False, float_format='%.6g')


if __name__ == '__main__': main()
