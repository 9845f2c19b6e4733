"""How far the images of cohorts have to move, and the amplitudes with which random pairs move as far.

    python benchmarks/displacements.py hippocampus ixi40 --table results/trials/displacements.csv
"""
import argparse
from pathlib import Path

import pandas as pd

from regpre_nb.data.cohorts import Cohort, load_cohort
from regpre_nb.data.files import replacing
from regpre_nb.learn.matching import matching_scale, needed_extents
from regpre_nb.learn.training import default_device


def measured(cohort: Cohort, cell: float, count: int) -> dict:
    "A row of the table."
    found = needed_extents(cohort, count, device=default_device())
    mean, p99 = found[['mean', 'p99']].mean()
    return {'data': cohort.name, 'pairs': len(found), 'mean': round(mean, 3), 'p99': round(p99, 3), 'cell': cell,
            'scale': matching_scale(p99, cohort.shape, cell)}


def main() -> None:
    "Entry point."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('data', nargs='+', help='names of cohorts')
    parser.add_argument('--cell', type=float, default=16, help='of the random images, voxels')
    parser.add_argument('--pairs', type=int, default=24)
    parser.add_argument('--table', type=Path, required=True, help='CSV; rows of other cohorts stay')
    options = parser.parse_args()
    for name in options.data:
        row = measured(load_cohort(name), options.cell, options.pairs)
        print(row, flush=True)
        kept = pd.read_csv(options.table) if options.table.exists() else pd.DataFrame(columns=list(row))
        rows = [*kept[kept['data'] != name].to_dict('records'), row]
        with replacing(options.table) as path: pd.DataFrame(rows).sort_values('data').to_csv(path, index=False)


if __name__ == '__main__': main()
