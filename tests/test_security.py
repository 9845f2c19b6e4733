"What SECURITY.md promises of files from others, downloads, archives, names and scripts."
import tracemalloc
from pathlib import Path

import hostile
import pytest

from regpre_nb.data.ixi import read_arrays
from regpre_nb.method.settings import sentence_of

PICKLES = [(kind, name) for kind, some in (('names', hostile.names), ('tricks', hostile.tricks))
           for name in some(Path('canary'))] + [('bombs', name) for name in hostile.bombs()]


@pytest.fixture(scope='module')
def pickles(tmp_path_factory):
    "The contents of all hostile pickles, and the file that they would leave behind."
    canary = tmp_path_factory.mktemp('canary') / 'canary'
    return {'names': hostile.names(canary), 'tricks': hostile.tricks(canary), 'bombs': hostile.bombs()}, canary


@pytest.mark.parametrize('kind, name', PICKLES)
def test_hostile_pickle(pickles, kind, name, tmp_path):
    "One sentence, nothing is run, and the memory is that of the file."
    (contents, canary), path = pickles, tmp_path / 'subject_1.pkl'
    path.write_bytes(contents[kind][name])
    tracemalloc.start()
    try: said = sentence_of(read_arrays, path)
    finally: most, _ = tracemalloc.get_traced_memory()[1], tracemalloc.stop()
    assert said.startswith(f'{path}: ') and said.count('\n') == 0 and len(said) < 400, said
    assert not canary.exists() and most < 20_000_000
