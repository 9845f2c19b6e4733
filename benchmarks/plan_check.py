"""How far `regpre plan` can be trusted: rates measured for two minutes, then runs of `cpu` from start to end.

    python benchmarks/plan_check.py                   results/bench/plan_check.csv; 8 minutes on one idle core
    python benchmarks/plan_check.py --only baseline --out FILE     fewer runs, to try it

Nothing else should be at work. A run's seconds are those of its record, without the start of Python.
"""
import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import torch

from regpre_nb.data.cohorts import load_cohort
from regpre_nb.data.files import read_json, replacing
from regpre_nb.learn.training import run_environment
from regpre_nb.paper.costs import cost
from regpre_nb.paper.jobs import Run, run_folder
from regpre_nb.paper.rates import measure_rates
from regpre_nb.paper.studies import all_runs

COMMAND = str(Path(sys.executable).with_name('regpre'))
OUT = Path(__file__).resolve().parent.parent / 'results' / 'bench' / 'plan_check.csv'
NAMES = ('initial', 'pretrain-sd-kl', 'baseline-100', 'baseline-10', 'sd-kl-100', 'random-only', 'synthmorph-style',
         'convexadam', 'instance')


def spent(run: Run, root: Path) -> float:
    "Seconds that a run took, in a process of its own as always; what it starts from is trained before."
    for each in run.chain:
        subprocess.run([COMMAND, 'train', each.key, '--profile', 'cpu', '--data', 'template', '--root', str(root)],
                       check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return read_json(run_folder(run, root) / 'run.json')['seconds']


def main() -> None:
    "Measure rates, train runs, and write the table."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', default='', help='regular expression of names')
    parser.add_argument('--out', type=Path, default=OUT)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    cohort = load_cohort('template')
    runs = [run for run in all_runs('cpu', cohort) if run.name in NAMES and re.search(asked.only, run.name)]
    rates = measure_rates(all_runs('cpu', cohort), cohort)
    rows, commit = [], run_environment('cpu')['commit']
    with tempfile.TemporaryDirectory(prefix='regpre-plan-') as root:
        for run in runs:
            estimated, took = 60 * cost(run, cohort, False, rates).minutes - rates.process, spent(run, Path(root))
            rows.append({'run': run.name, 'estimated_seconds': round(estimated, 1), 'seconds': round(took, 1),
                         'commit': commit})
            print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    with replacing(asked.out) as path: table.to_csv(path, index=False)
    sums = table[['estimated_seconds', 'seconds']].sum()
    print(f'all runs together: estimated / measured = {sums.iloc[0] / sums.iloc[1]:.3f}')


if __name__ == '__main__':
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    main()
