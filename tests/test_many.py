"Tables of pairs: what is refused before anything begins, and what is never replaced."
import json

import pytest
from filelock import FileLock

from regpre_nb.method.settings import InputError, sentence_of
from regpre_nb.use.many import read_pairs, register_pairs


@pytest.fixture
def table(tmp_path):
    "Writes a table; the images that it names are empty files."
    for name in 'abc': (tmp_path / f'{name}.nii.gz').touch()

    def write(*lines, head='moving,fixed,name'):
        path = tmp_path / 'pairs.csv'
        path.write_text('\n'.join([head, *lines]) + '\n', encoding='utf-8')
        return path
    return write


@pytest.mark.parametrize('line, told', [
    ('a.nii.gz,,x', 'line 2: names no fixed image'), ('a.nii.gz,b.nii.gz,' + 'x' * 250, 'line 2: its name has more'),
    ('a.nii.gz,b.nii.gz,results.csv', 'cannot be that of a folder here'), ('a.nii.gz,b.nii.gz,a\x1bb', r'a\x1bb')])
def test_lines(line, told, table):
    "A line that cannot be used is named."
    assert told in sentence_of(read_pairs, table(line))


def test_tables(table):
    "Two pairs of one name, but for capitals, and a column that means nothing are refused."
    told = sentence_of(read_pairs, table('a.nii.gz,b.nii.gz,One', 'b.nii.gz,a.nii.gz,one'))
    assert 'line 3' in told and 'that of line 2' in told
    assert 'the column nmae means nothing' in sentence_of(read_pairs, table('a,b,c', head='moving,fixed,nmae'))


@pytest.mark.parametrize('options, told', [({'device': 'gpu0'}, "device 'gpu0'"), ({'model': 'any-pari'}, 'any-pair'),
                                           ({'spacing': -1}, 'a spacing of -1'), ({'part': (3, 2)}, 'part 3/2')])
def test_options_are_refused_once(options, told, table, tmp_path):
    "And nothing is made."
    pairs = read_pairs(table('a.nii.gz,b.nii.gz,x'))
    assert told in sentence_of(register_pairs, pairs, tmp_path / 'out', **options)
    with pytest.raises(TypeError): register_pairs(pairs, tmp_path / 'out', metrik='ncc')
    assert not (tmp_path / 'out').exists()


def test_nothing_else_is_replaced(table, tmp_path):
    "A folder of the user's that is called like a pair stays, and so does the result of another table."
    pairs, out = read_pairs(table('a.nii.gz,b.nii.gz,scans')), tmp_path / 'out'
    (out / 'scans').mkdir(parents=True)
    (out / 'scans' / 'raw.nii.gz').touch()
    assert 'no result of this command' in sentence_of(register_pairs, pairs, out, model=None)
    record = {'made_from': '', 'files': {}, 'metrics': {}, 'moving': '/elsewhere/a.nii.gz'}
    (out / 'scans' / 'record.json').write_text(json.dumps(record), encoding='utf-8')
    assert 'the result of another pair' in sentence_of(register_pairs, pairs, out, model=None)
    assert (out / 'scans' / 'raw.nii.gz').exists()


@pytest.mark.parametrize('held, part', [('.lock-1-of-1', (1, 1)), ('.lock-2-of-3', (1, 2))])
def test_two_commands(held, part, table, tmp_path):
    "The same share twice, and shares of two sizes at a time, are refused."
    pairs = read_pairs(table('a.nii.gz,b.nii.gz,x'))
    (tmp_path / 'out').mkdir()
    with FileLock(tmp_path / 'out' / held), pytest.raises(InputError, match='at these pairs'):
        register_pairs(pairs, tmp_path / 'out', part, model=None)
