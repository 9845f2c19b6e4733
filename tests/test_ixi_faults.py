"Pickles that ask for anything but arrays do no harm, and every fault of a folder of IXI is told."
import os
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from regpre_nb.data.ixi import check_ixi, make_ixi_like, read_arrays
from regpre_nb.method.settings import InputError, sentence_of

# Pickles


class Attack:
    "Pickled as a call."

    def __init__(self, call, *given): self.asked = call, given
    def __reduce__(self): return self.asked


def record(folder: Path):
    "A call that has NumPy load a pickle, which then runs."
    np.save(folder/'inner.npy', np.array([Attack(Path.touch, folder/'trace')], dtype=object))
    return Attack(np.load, folder/'inner.npy', None, True)


ATTACKS = {  # what is asked for -> what asks for it, given a folder where it would leave a file 'trace'
    'os.system': lambda folder: Attack(os.system, f"touch {folder/'trace'}"),
    'eval': lambda folder: (np.ones(3), Attack(eval, f"open({str(folder/'trace')!r}, 'w')")),
    'a method': lambda folder: [Attack(Path.touch, folder/'trace')],
    'numpy.load': record,
    'numpy.savetxt': lambda folder: Attack(np.savetxt, folder/'trace', [1]),
    'a memory map': lambda folder: Attack(np.memmap, folder/'trace', 'u1', 'w+', 0, 3),
    'an object in an array': lambda folder: np.array([Attack(Path.touch, folder/'trace')], dtype=object),
    'an array of objects': lambda folder: np.array([None, 'a'], dtype=object),
    'an object in a record': lambda folder: np.zeros(2, dtype=[('id', 'i4'), ('more', 'O')])}


@pytest.mark.parametrize('protocol', range(6))
@pytest.mark.parametrize('asked', ATTACKS)
def test_attack_is_refused(tmp_path, asked, protocol):
    "In every protocol, before anything is run."
    (tmp_path/'attack.pkl').write_bytes(pickle.dumps(ATTACKS[asked](tmp_path), protocol))
    assert 'nothing of it was run' in sentence_of(read_arrays, tmp_path/'attack.pkl')
    assert not (tmp_path/'trace').exists()


@pytest.mark.parametrize('asked', list(ATTACKS)[:-2])  # the last two hold no call
def test_attack_is_a_real_one(tmp_path, asked):
    "Python's own unpickling runs it."
    pickle.loads(pickle.dumps(ATTACKS[asked](tmp_path)))  # noqa: S301 - leaves a file in a temporary folder
    assert (tmp_path/'trace').is_file()


@pytest.mark.parametrize('content, words', [
    (b"cos\nsystem\n(S'touch trace'\ntR.", 'asks for os.system'),
    (b'\x80\x02\x82\x01.', 'asks for the operation EXT1'),
    (b'cnumpy\ndtype\n}b.', 'asks for the operation EMPTY_DICT')],
                         ids=['a call', 'an extension', 'state of a function'])
def test_pickle_written_by_hand(tmp_path, monkeypatch, content, words):
    monkeypatch.chdir(tmp_path)
    Path('attack.pkl').write_bytes(content)
    assert words in sentence_of(read_arrays, 'attack.pkl') and not Path('trace').exists()


WHOLE = pickle.dumps((np.ones((3, 4, 5), np.float32), np.eye(2) > 0))


@pytest.mark.parametrize('content', [
    b'', WHOLE[:len(WHOLE)//2], b'<html>', pickle.dumps(3), pickle.dumps({'a': np.ones(3)}),
    pickle.dumps(np.dtype('f4')), WHOLE.replace(b'f4', b'f3')])
def test_what_is_no_array_gets_one_sentence(tmp_path, content):
    (tmp_path/'broken.pkl').write_bytes(content)
    assert len(re.findall('[.] ?$', sentence_of(read_arrays, tmp_path/'broken.pkl'))) == 1


def test_no_arrays(tmp_path):
    (tmp_path/'none.pkl').write_bytes(pickle.dumps([]))
    assert read_arrays(tmp_path/'none.pkl') == ()
    assert 'no such file' in sentence_of(read_arrays, tmp_path/'absent.pkl')


# Folders

@pytest.fixture(scope='module')
def sound(tmp_path_factory) -> Path:
    "Eight made-up cases that differ."
    return make_ixi_like(tmp_path_factory.mktemp('sound'), (32, 32, 32), (3, 2, 3), distinct=8)


@pytest.fixture
def folder(sound, tmp_path) -> Path:
    "A copy of them to spoil."
    return shutil.copytree(sound, tmp_path/sound.name)


def rewritten(change):
    "Put what `change` makes of image and labels in the place of a file."
    return lambda path: path.write_bytes(pickle.dumps(change(*read_arrays(path))))


def with_hole(image, labels):
    "One voxel is no number."
    image = image.copy()
    image[0, 0, 0] = np.nan
    return image, labels


FAULTS = [  # words of each line, file, what is done to it
    (['NaN'], 'Train/subject_1.pkl', rewritten(with_hole)),
    (['(32, 31, 32)', 'not in [0, 1]'], 'Train/subject_2.pkl',
     rewritten(lambda image, labels: (255*image, labels[:, :-1]))),
    (['unknown labels [999] (doubtful)', 'no voxel of Right-Hippocampus (doubtful)'], 'Train/subject_3.pkl',
     rewritten(lambda image, labels: (image, np.where(labels == 53, 999, labels)))),
    (['cannot be read'], 'Train/subject_1.pkl', lambda path: path.write_bytes(path.read_bytes()[:5000])),
    (['system'], 'Train/subject_2.pkl',
     lambda path: path.write_bytes(pickle.dumps(ATTACKS['os.system'](path.parent)))),
    (['holds 3 arrays'], 'Train/subject_3.pkl', rewritten(lambda image, labels: (image, labels, labels))),
    (["stand in each other's place"], 'Val/subject_1.pkl', rewritten(lambda image, labels: (labels, image))),
    (['same image as Train/subject_2'], 'Test/subject_1.pkl',
     lambda path: shutil.copy(path.parent.with_name('Train')/'subject_2.pkl', path)),
    (['none of the 30'], 'Val/subject_1.pkl', rewritten(lambda image, labels: (image, 0*labels)))]


@pytest.mark.parametrize('words, name, spoil', FAULTS, ids=lambda value: value[0] if isinstance(value, list) else '')
def test_fault_of_a_file(folder, words, name, spoil):
    "Each line names the file; some faults make two."
    spoil(folder/name)
    lines = check_ixi(folder).lines
    assert len(lines) == len(words) and not (folder/name).with_name('trace').exists()
    for line, part in zip(lines, words, strict=True): assert part in line and line.startswith(f'{name}: ')


def test_misnamed_and_missing_files(folder):
    "Both are counted."
    (folder/'Val'/'subject_2.pkl').rename(folder/'Val'/'subject2.pkl')
    (folder/'Test'/'subject_3.pkl').unlink()
    report = check_ixi(folder)
    assert report.counts == {'atlas': (1, 1), 'Train': (3, 3), 'Val': (1, 2), 'Test': (2, 3)}
    assert report.lines == ['Val/subject2.pkl: is not named subject_NUMBER.pkl, and is not read',
                            'Val: holds 1 of 2 cases', 'Test: holds 2 of 3 cases']


def test_all_faults_are_told_at_once(folder):
    "Not the first alone; the atlas comes first."
    for _, name, spoil in FAULTS[:3]: spoil(folder/name)
    (folder/'atlas.pkl').unlink()
    report = check_ixi(folder)
    assert report.problems['where'][0] == 'atlas.pkl'
    assert {f'Train/subject_{n}.pkl' for n in (1, 2, 3)} <= set(report.problems['where'])
    with pytest.raises(InputError, match='the first in atlas.pkl'): report.refuse()
