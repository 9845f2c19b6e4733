"Every table that cannot be read as told ends with one sentence that names the line or the column."
import pytest

from regpre_nb.data.files import read_table
from regpre_nb.method.settings import sentence_of

FAULTS = [  # words of the sentence, contents, columns of numbers, columns of text
    ("line 2: dice is 'x', not a number", b'case,dice\n1,x\n', ['dice'], []),
    ('line 2: has more cells than columns', b'case,dice\n1,2,3\n', [], []),
    ('line 2: has 1 cells for 2 columns', b'case,dice\n1\n', [], []),
    ('two columns case', b'case,case\n1,2\n', [], []),
    ('lacks dice', b'case;dice,seconds\n', ['dice'], []),
    ('lacks case', b'', [], ['case']),
    ('comma-separated UTF-8', 'case\nM\u00fcller\n'.encode('latin-1'), [], [])]


@pytest.mark.parametrize('words, content, numbers, columns', FAULTS, ids=[words for words, *_ in FAULTS])
def test_fault(tmp_path, words, content, numbers, columns):
    (tmp_path/'wrong.csv').write_bytes(content)
    said = sentence_of(read_table, tmp_path/'wrong.csv', numbers, columns)
    assert words in said and said.count('\n') == 0


def test_no_table(tmp_path):
    assert 'no such file' in sentence_of(read_table, tmp_path/'nothing.csv')
