"""What was tried to break this package and what came of it, from the tables in results/faults: ends `make faults`.

    python tools/robustness.py             try the hostile files once more, write hostile.csv, and print the sums
    python tools/robustness.py --stored    print the sums alone
"""
import argparse
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pandas as pd

from regpre_nb.data.files import replacing

ROOT = Path(__file__).resolve().parent.parent
TABLES = ROOT / 'results' / 'faults'


def try_hostile() -> bool:
    "Have the tests read every hostile file, and write how many there are of each kind and how many were refused."
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / 'junit.xml'
        done = subprocess.run([sys.executable, '-m', 'pytest', '-n', '0', '-q', '-k', 'hostile', f'--junitxml={report}',
                               'tests/test_security.py'], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        # read what our own pytest has just written
        cases = list(ElementTree.parse(report).iter('testcase'))  # noqa: S314
    rows: dict[str, list[int]] = {}
    for case in cases:
        kind, count = case.get('name').partition('[')[0].removeprefix('test_hostile_'), files_of(case)
        tried, refused = rows.setdefault(kind, [0, 0])
        rows[kind] = [tried + count, refused + count * (case.find('failure') is None and case.find('error') is None)]
    table = pd.DataFrame([[kind, *counts] for kind, counts in rows.items()], columns=['kind', 'files', 'refused'])
    with replacing(TABLES / 'hostile.csv') as path: table.to_csv(path, index=False)
    if done.returncode: print(done.stdout)
    return done.returncode == 0


def files_of(case: ElementTree.Element) -> int:
    "How many hostile files a test reads: one, unless it says so."
    told = [each.get('value') for each in case.iter('property') if each.get('name') == 'files']
    return int(told[0]) if told else 1


def sums() -> list[str]:
    "A line for each table that is there."
    def table(name): return pd.read_csv(TABLES / f'{name}.csv') if (TABLES / f'{name}.csv').exists() else None
    lines = []
    if (found := table('faults')) is not None:
        kills = found[found['fault'] == 'SIGKILL']
        lines.append(f'kills survived: {kills["survived"].sum()} of {kills["tries"].sum()}')
        lines.append(f'all faults survived: {found["survived"].sum()} of {found["tries"].sum()}; files lost: '
                     f'{found["lost"].sum()}, done twice: {found["redone"].sum()}, corrupt: {found["corrupt"].sum()}')
    if (found := table('bad_input')) is not None:
        bad = found['inputs'] - found['valid']
        answered = found['answered'] - found['valid'].where(found['answered'] == found['inputs'], 0)
        lines.append(f'bad inputs: {bad.sum()}, clear answers: {answered[bad > 0].sum()}; valid after all: '
                     f'{found["valid"].sum()}')
    if (found := table('hostile')) is not None:
        lines.append(f'hostile files: {found["files"].sum()}, refused: {found["refused"].sum()}')
    if (found := table('fuzz')) is not None:
        lines.append(f'fuzzed readers: {len(found)}, executions: {found["executions"].sum():,}, seconds: '
                     f'{found["seconds"].sum():,.0f}, crashes: {found["crashes"].sum()}')
    if (found := table('mutants')) is not None:
        lines.append(f'planted changes tried: {found["mutants"].sum()}, noticed by tests: {found["killed"].sum()} '
                     f'({found["killed"].sum() / found["mutants"].sum():.1%})')
    return lines


def main() -> int:
    "Try, and print."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--stored', action='store_true', help='try nothing')
    sound = parser.parse_args().stored or try_hostile()
    print('\n'.join(sums()))
    return int(not sound)


if __name__ == '__main__': sys.exit(main())
