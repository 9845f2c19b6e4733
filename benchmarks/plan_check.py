"""How far `regpre plan` can be trusted: rates measured for two minutes, then runs of `cpu` from start to end.

    python benchmarks/plan_check.py    this device's rows of results/bench/plan_check.csv; 8 minutes on one idle core
    python benchmarks/plan_check.py --profile night --data hippocampus --only 'pretrain-sd-kl|baseline-20' --out FILE
                                       other runs, of which only the kinds are tried before

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
from devices import device_of, of_others, write_beside

from regpre_nb.data.cohorts import load_cohort
from regpre_nb.data.files import read_json
from regpre_nb.learn.training import run_environment
from regpre_nb.paper.costs import cost
from regpre_nb.paper.jobs import Run, run_folder
from regpre_nb.paper.rates import measure_rates
from regpre_nb.paper.studies import all_runs

COMMAND = sys.executable, '-m', 'regpre_nb.use.cli'
OUT = Path(__file__).resolve().parent.parent / 'results' / 'bench' / 'plan_check.csv'
NAMES = ('initial', 'pretrain-sd-kl', 'baseline-100', 'baseline-10', 'sd-kl-100', 'random-only', 'synthmorph-style',
         'convexadam', 'instance')


def spent(run: Run, profile: str, data: str, root: Path) -> float:
    "Seconds that a run took, in a process of its own as always; what it starts from is trained before."
    for each in run.chain:
        subprocess.run([*COMMAND, 'train', each.key, '--profile', profile, '--data', data, '--root', str(root)],
                       check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return read_json(run_folder(run, root) / 'run.json')['seconds']


def main() -> None:
    "Measure rates, train runs, and write the table."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--profile', default='cpu')
    parser.add_argument('--data', default='template')
    parser.add_argument('--only', help='regular expression of names')
    parser.add_argument('--seconds', type=float, default=120, help='for the rates')
    parser.add_argument('--out', type=Path, default=OUT)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    cohort = load_cohort(asked.data)
    planned = [run for run in all_runs(asked.profile, cohort) if not asked.only or re.fullmatch(asked.only, run.name)]
    runs = planned if asked.only else [run for run in planned if run.name in NAMES]
    rates = measure_rates(planned, cohort, asked.seconds)
    rows, told = [], run_environment()
    device = device_of(told)
    others = of_others(asked.out, device)
    with tempfile.TemporaryDirectory(prefix='regpre-plan-') as root:
        for run in runs:
            estimated = 60 * cost(run, cohort, False, rates).minutes - rates.process
            took = spent(run, asked.profile, asked.data, Path(root))
            rows.append({'device': device, 'profile': asked.profile, 'data': asked.data, 'run': run.name,
                         'estimated_seconds': round(estimated, 1), 'seconds': round(took, 1),
                         'commit': told['commit']})
            print(rows[-1], flush=True)
            write_beside(asked.out, others, rows)
    sums = pd.DataFrame(rows)[['estimated_seconds', 'seconds']].sum()
    print(f'all runs together: estimated / measured = {sums.iloc[0] / sums.iloc[1]:.3f}')


if __name__ == '__main__':
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    main()
