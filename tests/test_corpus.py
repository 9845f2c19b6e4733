"Every bad file and argument of the corpus gets its sentence, and what is valid after all gives the plain result."
import json

import pytest
from commands import environment
from corpus import DOORS, ENTRIES, Entry, Outcome, fault, short, summary, try_short
from forked import call


@pytest.fixture(scope='module')
def records(tmp_path_factory):
    "What each entry of the short list came to, tried one after the other in forks of one process."
    folder = tmp_path_factory.mktemp('corpus')
    done = call(try_short, str(folder / 'records.json'), str(folder / 'tried'), variables=environment())
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / 'records.json').read_text())


def test_every_answer(records):
    "One sentence, exit code 2, no new file; or the same result."
    assert len(records) == len(short())
    wrong = [f"{record['name']}: {record['fault']}" for record in records if record['fault']]
    assert not wrong, '\n'.join(wrong)


def test_size_of_the_corpus():
    "Many, with different names, at every door, also in the short list."
    assert sum(not entry.valid for entry in short()) >= 120
    assert {entry.door for entry in short()} == set(DOORS)
    assert len({entry.name for entry in ENTRIES}) == len(ENTRIES)
    assert all(entry.why for entry in ENTRIES if entry.valid)


GOOD = Outcome(2, '', 'regpre: moving.nii.gz: no such file; check the name.\n', 1, 200, (), '')


@pytest.mark.parametrize('changes, said', [
    ({}, ''), ({'code': 0}, 'not refused'), ({'code': 1}, 'exit code 1'), ({'code': -14}, 'exit code -14'),
    ({'seconds': 6}, '6.0 s'), ({'megabytes': 1200}, '1200 MB'), ({'new': ('out.nii.gz',)}, 'leaves out.nii.gz'),
    ({'stderr': 'Traceback (most recent call last):\n'}, 'exit code 2'), ({'stderr': 'regpre: no.\n'}, 'does not name'),
    ({'stderr': 'regpre: moving.\nregpre: more.\n'}, 'more than a sentence'),
    ({'stderr': 'regpre: moving.nii.gz is bad.\n'}, 'nothing about what to do'),
    ({'stderr': 'regpre: \x1b moving; check it.\n'}, 'prints')])
def test_faults_are_found(changes, said):
    "The judge of answers accepts none of these."
    found = fault(Entry('', '', 'register', lambda path: None), Outcome(**(vars(GOOD) | changes)), None)
    assert (said in found) if said else not found, found


def test_valid_entries_are_compared():
    entry = Entry('', '', 'register', lambda path: None, valid=True)
    done = Outcome(0, '', '', 1, 200, ('out.nii.gz',), 'same')
    assert fault(entry, done, 'same') == '' and 'gives same, not other' in fault(entry, done, 'other')
    assert 'is refused' in fault(entry, GOOD, 'same')


def test_summary():
    "A row a kind; what was not answered as it should be is not counted."
    tried = [{'kind': 'any', 'valid': False, 'fault': word, 'seconds': 0.25, 'megabytes': 200.4} for word in ('',
        'is odd')]
    assert summary(tried) == 'kind,inputs,valid,answered,most_seconds,most_mb\nany,2,0,1,0.2,200\n'
