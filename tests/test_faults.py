"The harness behind `make faults`, with a few faults; and that it finds what is wrong."
import csv
import runpy
import sys

from commands import environment
from conftest import ROOT
from forked import call

HARNESS = str(ROOT / 'tools' / 'faults.py')


def harness(*arguments):
    "Run it as a program."
    sys.argv = [HARNESS, *arguments]
    runpy.run_path(HARNESS, run_name='__main__')


def told(path):
    "Fault and work -> row of the table."
    with open(path, newline='') as file: return {(row['fault'], row['work']): row for row in csv.DictReader(file)}


def test_nothing_is_lost(tmp_path):
    "Pretraining that is killed or stopped, and a checkpoint whose write is cut, end as if nothing had been."
    done = call(harness, '--seed', '1', '--share', '0.3', '--tries', '1', '--only',
                '(SIGKILL|Ctrl-C) pre|SIGKILL write', '--out', str(tmp_path / 'faults.csv'), variables=environment())
    assert done.returncode == 0, done.stdout + done.stderr
    rows = told(tmp_path / 'faults.csv').values()
    assert len(rows) == 3 and all(row['survived'] == row['tries'] > '0' for row in rows), rows


def carelessly(*arguments):
    "Run it on a package that writes under the final name at once."
    import os
    from contextlib import contextmanager

    from regpre_nb.data import files

    @contextmanager
    def at_once(path):
        yield path
        os.replace(path, path)
    files.replacing = at_once
    harness(*arguments)


def test_what_is_wrong_is_found(tmp_path):
    "Where files are written in place, kills leave half of one, and the harness says so and fails."
    done = call(carelessly, '--seed', '1', '--share', '0.3', '--tries', '0', '--only', '^SIGKILL write', '--out',
                str(tmp_path / 'faults.csv'), variables=environment())
    row = told(tmp_path / 'faults.csv')['SIGKILL', 'write of a checkpoint']
    assert done.returncode == 1 and int(row['corrupt']) > 0, done.stdout + done.stderr
