"What tests of the command line share: the installed command, and tiny cohorts laid out as the real ones."
import csv
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
from forked import call

from regpre_nb.data.ixi import make_ixi_like
from regpre_nb.use.cli import main

BIN = Path(sys.executable).parent
COMMAND = str(BIN / 'regpre')
TRAIN, TEST = ('001', '003', '004', '007'), ('311', '314', '316')
PAIRS = ('314', '311'), ('316', '311'), ('311', '314'), ('316', '314'), ('311', '316'), ('314', '316')  # moving, fixed


def environment(**changes: object) -> dict[str, str]:
    "The variables for a command: none that names data or fixtures unless asked for, one thread."
    dropped = 'REGPRE_DATA', 'REGPRE_FIXTURES', 'IN_TEST'
    kept = {key: value for key, value in os.environ.items() if key not in dropped}
    kept |= {'OMP_NUM_THREADS': '1', 'MPLBACKEND': 'agg', 'COLUMNS': '150'}
    return kept | {key: str(value) for key, value in changes.items()}


def installed(*arguments: object, cwd: Path | None = None, **variables: object) -> subprocess.CompletedProcess:
    "Run the installed command."
    return subprocess.run([COMMAND, *map(str, arguments)], cwd=cwd, env=environment(**variables),
                          capture_output=True, text=True)


def _main(*arguments: str) -> None:
    "The entry point of the command."
    sys.argv = ['regpre', *arguments]
    main()


def regpre(*arguments: object, cwd: Path | None = None, **variables: object) -> subprocess.CompletedProcess:
    "Run the command as `installed` does, without starting Python and importing everything again."
    return call(_main, *map(str, arguments), cwd=cwd, variables=environment(**variables))


def case(number: str) -> tuple[np.ndarray, np.ndarray]:
    "A made-up image and its label map: two touching boxes in noise, a little elsewhere in each case."
    rng = np.random.default_rng(int(number))
    labels = np.zeros((34, 48, 32), np.uint8)
    x, y, z = 8 + rng.integers(0, 5, 3)
    labels[x:x + 14, y:y + 12, z:z + 12] = 1
    labels[x:x + 14, y + 12:y + 22, z:z + 12] = 2
    return (100*labels + rng.normal(200, 20, labels.shape)).astype(np.float32), labels


def save(path: Path, voxels: np.ndarray, affine: np.ndarray | None = None) -> None:
    "Write a NIfTI file as it is, sound or not."
    nib.save(nib.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)


def name(number: str) -> str:
    "The file of a case."
    return f'hippocampus_{number}.nii.gz'


def hippocampus_like(folder: Path) -> Path:
    "Fill a data folder with seven made-up cases; returns the folder of the cohort."
    root = folder / 'hippocampus_msd04'
    for part in ('images', 'labels'): (root / part).mkdir(parents=True)
    for number in (*TRAIN, *TEST):
        image, labels = case(number)
        save(root / 'images' / name(number), image)
        save(root / 'labels' / name(number), labels)
    split = [(name(n), part) for part, numbers in (('train', TRAIN), ('test', TEST)) for n in numbers]
    pairs = [(name(fixed), name(moving)) for moving, fixed in PAIRS]
    tables = ('split.csv', ('case', 'split'), split), ('eval_pairs.csv', ('fixed', 'moving'), pairs)
    for file, head, rows in tables:
        with open(root / file, 'w', newline='') as out: csv.writer(out).writerows([head, *rows])
    return root


def ixi_like(folder: Path, shape: tuple[int, int, int] = (32, 48, 32), counts: tuple[int, int, int] = (4, 2, 3),
             marked: bool = True) -> Path:
    "Fill a data folder with pickles in IXI's format, each another; without the mark they pass for the real ones."
    root = make_ixi_like(folder, shape, counts, distinct=sum(counts))
    if not marked: (root / 'MADE_UP').unlink()
    return root


def listed(folder: Path, count: int = 6) -> Path:
    "Fill a folder with made-up cases and the manifest that lists them; returns the manifest."
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(count):
        for voxels, kind in zip(case(f'{n}'), ('image', 'labels')): save(folder / f'{n}_{kind}.nii.gz', voxels)
    rows = [(f'case{n}', f'{n}_image.nii.gz', f'{n}_labels.nii.gz') for n in range(count)]
    with open(folder / 'manifest.csv', 'w', newline='') as out:
        csv.writer(out).writerows([('case', 'image', 'labels'), *rows])
    return folder / 'manifest.csv'
