"""Keep measurements in CSV files, and turn them into the tables that people read."""
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pandas as pd
from contestants import ITEMS

from regpre_nb.data.files import replacing
from regpre_nb.learn.training import run_environment

HERE = Path(__file__).parent
PART = ['item', 'size', 'threads']  # what is measured together
PEERS = ('monai', 'neurite', 'voxelmorph', 'numba')

NOTE = """One thread: CPU milliseconds. Two threads: wall milliseconds. Each is the minimum of interleaved repeats in
one process; `[fast]` is with the compiled kernels of the extra of this name. "x peer" and "x MIR" say how many times
faster we are than the fastest peer and than MIR, the authors' code. MIR is not on PyPI: its times (one thread) are
quoted from a machine of the same kind (AMD EPYC, 2 cores; `benchmarks/anchors.csv`), multiplied by {scale:.2f}, the
smallest ratio of here to there among all items in which MONAI, neurite or voxelmorph were timed on both. MIR's step is
the sum of separately timed parts. Local correlation is timed on random pairs with a little noise, because neurite
refuses its own result on constant patches; in the table of rounding errors it is then left blank. neurite and
voxelmorph together make the same kind of random pair, not the same distribution; they and MIR integrate at full size,
we at a quarter with the preset `paper`. The paper's own times of a step are for another size, on a GPU."""


def read(path: Path) -> pd.DataFrame:
    "A table of an earlier call; empty if there is none."
    return pd.read_csv(path) if path.exists() else pd.DataFrame()


def merge(path: Path,  # CSV file
          rows: list[dict],  # new measurements
          part: list[str],  # columns: old rows that agree with a new one in these give way
          ) -> pd.DataFrame:  # old and new
    "Write new measurements into a file and keep those of other parts."
    table, old = pd.DataFrame(rows), read(path)
    if len(old):
        replaced = pd.MultiIndex.from_frame(old[part]).isin(pd.MultiIndex.from_frame(table[part]))
        table = pd.concat([old[~replaced], table], ignore_index=True)
    table = table.sort_values(part, kind='stable')
    with replacing(path) as temporary: table.to_csv(temporary, index=False)
    return table


def anchors() -> pd.Series:
    "Quoted figures, by item, size and contestant."
    return pd.read_csv(HERE / 'anchors.csv', comment='#').set_index(['item', 'size', 'contestant'])['value']


def scale(speed: pd.DataFrame) -> float:
    "How much slower than there the peers are here, at the least; NaN where none was timed on both machines."
    here = speed[speed.threads == 1].set_index(['item', 'size', 'contestant']).ms
    return (here / anchors()).min()


def ratios(speed: pd.DataFrame,  # columns of PART, contestant, ms
           ) -> pd.DataFrame:  # one row for each of our contestants
    "How many times faster we are than the fastest peer and than MIR."
    quoted, rows = scale(speed) * anchors(), []
    for (item, size, threads), part in speed.groupby(PART):
        ms = part.set_index('contestant').ms
        mine = ms.index.str.startswith('ours')
        peers = ms[~mine]
        mir = quoted.get((item, size, 'MIR'), np.nan) if threads == 1 else np.nan
        shared = {'item': item, 'size': size, 'threads': threads,
                  'fastest peer': peers.idxmin() if len(peers) else None, 'its ms': peers.min(), 'MIR, ms': mir}
        rows += [shared | {'contestant': contestant, 'ms': time, 'x peer': peers.min() / time, 'x MIR': mir / time}
                 for contestant, time in ms[mine].items()]
    columns = [*PART, 'contestant', 'ms', 'fastest peer', 'its ms', 'x peer', 'MIR, ms', 'x MIR']
    return pd.DataFrame(rows, columns=columns)


def encoder_against_full(speed: pd.DataFrame) -> pd.DataFrame:
    "Time of an encoder-only step over that of a full-network step, beside the paper's."
    paper = pd.read_csv(HERE.parent / 'results' / 'paper' / 'text.csv').set_index('row')['mean']
    rows = []
    for (size, threads, name), part in speed.groupby(['size', 'threads', 'contestant'], sort=True):
        ms = dict(zip(part.item, part.ms))
        if {'step', 'full-step'} <= set(ms):
            rows.append({'size': f'{size}', 'threads': f'{threads}', 'contestant': name, 'encoder only': ms['step'],
                         'full network': ms['full-step'], 'encoder / full': ms['step'] / ms['full-step']})
    encoder, full = (float(paper[f'{kind} pretraining']) for kind in ('Encoder-only', 'Full-model'))
    rows.append({'size': '160 x 192 x 224', 'threads': 'H100', 'contestant': 'the paper (minutes)',
                 'encoder only': encoder, 'full network': full, 'encoder / full': encoder / full})
    return pd.DataFrame(rows)


def with_quoted_memory(memory: pd.DataFrame) -> pd.DataFrame:
    "Measured peaks, MIR's as quoted, and how many times less than MIR."
    quoted = [{'size': size, 'contestant': 'MIR (quoted)', 'MB': value}
              for (item, size, _), value in anchors().items() if item == 'memory' and size in set(memory['size'])]
    table = pd.concat([memory[['size', 'contestant', 'MB']], pd.DataFrame(quoted)], ignore_index=True)
    table['MIR / this'] = quoted[0]['MB'] / table.MB if quoted else np.nan
    return table


def as_text(table: pd.DataFrame) -> pd.DataFrame:
    "Numbers with three significant digits, nothing for what is not known."
    def text(value):
        if not isinstance(value, float): return str(value)
        if np.isnan(value): return ''
        return f'{value:.0f}' if value >= 100 else f'{value:.3g}'
    return table.map(text)


def processor() -> str:
    "The name of the processor, where Linux tells it."
    info = Path('/proc/cpuinfo')
    names = [line.split(':')[1].strip() for line in info.read_text().splitlines() if line.startswith('model name')] \
        if info.exists() else []
    return f'{len(names)} x {names[0]}' if names else run_environment('cpu')['device_name']


def machine() -> str:
    "One line: machine, versions, commit."
    environment, versions = run_environment('cpu'), []
    for peer in PEERS:
        try: versions.append(f'{peer} {version(peer)}')
        except PackageNotFoundError: pass
    ours = ', '.join(f'{name} {environment[name]}' for name in ('python', 'torch', 'numpy', 'regpre_nb', 'commit'))
    return f"{processor()}; {ours}, {', '.join(versions)}."


def tables(folder: Path) -> dict[str, pd.DataFrame]:
    "Every table that the measurements in a folder allow, by title, as text."
    speed, accuracy, memory = (read(folder / f'{name}.csv') for name in ('speed', 'accuracy', 'memory'))
    found = {}
    if len(speed):
        table = ratios(speed)
        for name, item in ITEMS.items():
            rows = table[table.item == name].drop(columns='item').dropna(axis='columns', how='all')
            if len(rows): found[item.title] = rows
        steps = encoder_against_full(speed)
        if len(steps) > 1: found['Encoder-only against full-network step'] = steps
    if len(accuracy): found['Local correlation: float32 against float64'] = accuracy.drop(columns='commit')
    if len(memory): found['Peak memory of a random pair'] = with_quoted_memory(memory)
    return {title: as_text(table) for title, table in found.items()}


def write_report(folder: Path) -> dict[str, pd.DataFrame]:
    "Write speed.md, and return its tables."
    found, speed = tables(folder), read(folder / 'speed.csv')
    note = NOTE.replace('\n', ' ').format(scale=scale(speed) if len(speed) else np.nan)
    parts = ['# Benchmark', note, f'Last measured part: {machine()}']
    for title, table in found.items(): parts += [f'## {title}', table.to_markdown(index=False, disable_numparse=True)]
    with replacing(folder / 'speed.md') as temporary: temporary.write_text('\n\n'.join(parts) + '\n', encoding='utf-8')
    return found
