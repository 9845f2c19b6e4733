"Every fault of a folder of IXI at 2 mm is a line of the report or one sentence; an interrupted download goes on."
import hashlib
import http.server
import shutil
import threading
from base64 import urlsafe_b64encode
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pooch
import pytest
from faults import said

from regpre_nb.data.cohorts import load_cohort
from regpre_nb.data.ixi40 import check_ixi40, download_ixi40, ixi40_cohort
from regpre_nb.data.volumes import Volume, load_volume, save_volume

NAME, CASE = 'ixi40_dlmuse', 'IXI001-HH-1001'
PEOPLE = {f'IXI{n:03}-HH-{1000 + n}': part for n, part in enumerate(['atlas'] + ['train', 'validation', 'test']*2)}
SPLIT = '\n'.join(['case,role', *(f'{case},{part}' for case, part in PEOPLE.items())])
LABELS = 'id,name,ixi_group\n4,inner,Ventricle\n5,unknown,\n7,unknown,White\n9,rim,Cortex\n'


def head(rng: np.random.Generator) -> tuple[Volume, Volume]:
    "Image and label map of a head of ellipsoids, 8 mm, with IXI's axes (PSR)."
    labels = Volume(np.zeros((28, 28, 23), np.uint8), np.array([[0, 0, 8., -88], [-8, 0, 0, 108], [0, 8, 0, -108],
                                                                 [0, 0, 0, 1]]))
    points = labels.world(np.stack(np.indices(labels.shape), -1))*rng.normal(1, 0.04, 3) - rng.normal(0, 5, 3)

    def within(centre, radii): return (((points - centre)/radii)**2).sum(-1) < 1
    for label, centre, radii in ((9, (0, 0, 0), (60, 74, 62)), (7, (0, 0, 0), (46, 58, 48)),
                                 (4, (0, 4, 4), (18, 26, 14)), (5, (24, -20, -10), (14, 12, 12))):
        labels.data[within(centre, radii)] = label
    skull = within((0, 0, 0), (80, 94, 80)) & ~within((0, 0, 0), (68, 82, 70))
    means = np.array([0, 0, 0, 0, 200, 700, 0, 900, 0, 600], np.float32)
    image = means[labels.data] + np.float32(1200)*skull + rng.random(labels.shape, np.float32)
    return replace(labels, data=image), labels


@pytest.fixture(scope='module')
def sound(tmp_path_factory) -> Path:
    "Seven people."
    folder, rng = tmp_path_factory.mktemp('sound'), np.random.default_rng(0)
    for kind in ('images', 'labels'): (folder/NAME/kind).mkdir(parents=True)
    for case in PEOPLE:
        for kind, volume in zip(('images', 'labels'), head(rng), strict=True):
            save_volume(volume, folder/NAME/kind/f'{case}.nii.gz')
    (folder/NAME/'split.csv').write_text(SPLIT)
    (folder/NAME/'labels.csv').write_text(LABELS)
    return folder


@pytest.fixture(autouse=True)
def cache(sound, monkeypatch) -> Path:
    "A cache that the tests share: what is made of the same files is made once."
    monkeypatch.setenv('REGPRE_CACHE', str(sound/'cache'))
    return sound/'cache'


@pytest.fixture
def folder(sound, tmp_path) -> Path:
    "A copy of them to spoil."
    shutil.copytree(sound/NAME, tmp_path/NAME)
    return tmp_path


# The check

def changed(change):
    "Write a changed volume in the place of a file."
    def write(path: Path):
        save_volume(change(load_volume(path, labels=path.parent.name == 'labels')), path)
    return write


def voxels(change):
    "Write a volume of other voxels in the place of a file."
    return changed(lambda volume: replace(volume, data=change(volume.data)))


def cut_off(path: Path): path.write_bytes(path.read_bytes()[:-200])
def copied(path: Path): shutil.copy(path.parent/'IXI002-HH-1002.nii.gz', path)
def other_sum(path: Path): path.write_text('0'*64 + f'  labels/{CASE}.nii.gz\n')


MOVED = np.eye(4)
MOVED[0, 3] = 9
FAULTS = [  # words of each line, file, what is done to it
    (['is missing'], f'labels/{CASE}.nii.gz', Path.unlink),
    (['cannot be read'], f'labels/{CASE}.nii.gz', cut_off),
    (['affines differ'], f'labels/{CASE}.nii.gz', changed(lambda v: replace(v, affine=MOVED @ v.affine))),
    (['have shapes'], f'labels/{CASE}.nii.gz', voxels(lambda data: data[1:])),
    (['labels that labels.csv lacks, such as 6', 'no voxel of unknown_5 (doubtful)'], f'labels/{CASE}.nii.gz',
     voxels(lambda data: np.where(data == 5, 6, data))),
    (['holds the same as IXI001'], f'images/{CASE}.nii.gz', copied),
    (['differs from its checksum'], 'SHA256SUMS', other_sum)]


def test_sound_files(sound):
    "Without a fault there is nothing to tell."
    assert check_ixi40(sound).refuse().lines == []


@pytest.mark.parametrize('words, name, spoil', FAULTS, ids=lambda value: value[0] if isinstance(value, list) else '')
def test_fault_of_a_file(folder, words, name, spoil):
    "One fault, one line; a label in another's place makes two."
    spoil(folder/NAME/name)
    lines = check_ixi40(folder).lines
    assert len(lines) == len(words)
    for line, part in zip(lines, words, strict=True): assert part in line


def in_the_corner(data: np.ndarray) -> np.ndarray:
    "The label 5 in one corner of the image's grid only, which alignment leaves behind."
    data = np.where(data == 5, 7, data)
    data[0, 0, 0] = 5
    return data


def far_away(data: np.ndarray) -> np.ndarray:
    "A block of the brain in a corner of the image's grid."
    data[:3, :3, :3] = 7
    return data


@pytest.mark.parametrize('change, words', [
    (in_the_corner, 'of unknown_5 (1 in the file) no voxel is left on the common grid'),
    (far_away, 'of the brain lie outside the grid')])
def test_fault_that_shows_after_alignment(folder, change, words):
    "A label too small for the grid, and a brain that reaches beyond it."
    voxels(change)(folder/NAME/'labels'/'IXI003-HH-1003.nii.gz')
    line, = check_ixi40(folder).lines
    assert words in line


# Loading

TABLES = [  # words of the sentence, table, its text
    ('line 9: IXI000-HH-1000 stands there', 'split.csv', f'{SPLIT}\nIXI000-HH-1000,test'),
    ("'atlass' is no role", 'split.csv', SPLIT.replace('atlas', 'atlass')),
    ('names 0 atlas', 'split.csv', SPLIT.replace('atlas', 'train')),
    ('cannot be read', 'split.csv', f'{SPLIT}\nIXI099-HH-1099,test'),
    ('lacks ixi_group', 'labels.csv', 'id,name\n4,inner'),
    ("the id 'four'", 'labels.csv', 'id,name,ixi_group\nfour,inner,')]


@pytest.mark.parametrize('words, name, text', TABLES)
def test_fault_of_a_table(folder, words, name, text):
    (folder/NAME/name).write_text(text)
    assert words in said(load_cohort, 'ixi40', folder)


def test_folder_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.delenv('REGPRE_DATA', raising=False)
    assert 'REGPRE_DATA is not set' in said(load_cohort, 'ixi40')
    assert 'no such folder' in said(load_cohort, 'ixi40', tmp_path/'nowhere')
    assert 'holds no split.csv' in said(load_cohort, 'ixi40', tmp_path)


def test_case_that_is_not_there(sound):
    assert 'no case' in said(load_cohort('ixi40', sound).image, 'IXI099-HH-1099')


# Download

def short(path: Path) -> str:
    "The checksum of a file as the table of the package has it."
    return urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest()).decode().rstrip('=')


class Flaky(http.server.SimpleHTTPRequestHandler):
    "A file server that keeps a list of what it was asked for, and breaks off what it is told to."

    def log_message(self, *args): pass

    def do_GET(self):
        self.server.asked.append(self.path)
        if self.path not in self.server.broken: return super().do_GET()
        self.server.broken.discard(self.path)
        content = Path(self.translate_path(self.path)).read_bytes()
        self.send_response(200)
        self.send_header('Content-Length', str(len(content)))
        self.end_headers()
        self.wfile.write(content[:len(content)//2])


@pytest.fixture
def server(sound, tmp_path):
    "A server on this machine that has the files under the repository's names; its address and table are added."
    pooch.get_logger().setLevel('ERROR')
    lines = []
    for case, part in PEOPLE.items():
        sums = []
        for kind, name in (('images', f't1/{case}_T1'), ('labels', f'dlmuse_seg/{case}_T1_DLMUSE')):
            (tmp_path/'served'/name).parent.mkdir(parents=True, exist_ok=True)
            sums.append(short(shutil.copy(sound/NAME/kind/f'{case}.nii.gz', tmp_path/'served'/f'{name}.nii.gz')))
        lines.append(f'{case} {part} {sums[0]} {sums[1]}')
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), partial(Flaky, directory=tmp_path/'served')) as running:
        running.asked, running.broken = [], set()
        running.url, running.table = f'http://127.0.0.1:{running.server_port}', '\n'.join(lines)
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def test_interrupted_download_goes_on(server, tmp_path):
    "It stops with one sentence and leaves whole files under their names, and no table; then it fetches the others."
    fetch = partial(download_ixi40, tmp_path/'data', server.url, server.table)
    server.broken.add('/t1/IXI003-HH-1003_T1.nii.gz')
    assert 'cannot be downloaded' in said(fetch)
    kept = sorted(path.name for path in (tmp_path/'data').rglob('*') if path.is_file())
    assert kept == sorted([f'{case}.nii.gz' for case in list(PEOPLE)[:3]]*2) and len(server.asked) == 7
    fetch()
    assert len(server.asked) == 7 + 8


def test_downloaded_files(server, sound, tmp_path):
    "They are what was served; a damaged one alone is fetched again; what is there already is not asked for."
    fetch = partial(download_ixi40, tmp_path/'data', server.url, server.table)
    here = fetch()
    (here/'images'/'IXI000-HH-1000.nii.gz').write_bytes(b'half a file')
    server.asked.clear()
    assert fetch() == here and server.asked == ['/t1/IXI000-HH-1000_T1.nii.gz']
    assert fetch() == here and len(server.asked) == 1
    assert (here/'split.csv').read_text().strip() == SPLIT and (here/'SHA256SUMS').read_text().count('\n') == 14
    for case in PEOPLE:
        for path in (f'images/{case}.nii.gz', f'labels/{case}.nii.gz'):
            assert (here/path).read_bytes() == (sound/NAME/path).read_bytes()
    (here/'labels.csv').write_text(LABELS)  # of made-up labels
    assert check_ixi40(tmp_path/'data').lines == []  # with checksums, now
    atlas = 'IXI000-HH-1000'
    assert (ixi40_cohort(tmp_path/'data').image(atlas) == ixi40_cohort(sound).image(atlas)).all()


def test_download_that_cannot_be_used(server, tmp_path):
    "Another file under the name, no file of the name, nobody at the address."
    wrong = server.table.replace(server.table.split()[3], 'A'*43)
    assert 'checksum' in said(download_ixi40, tmp_path/'other', server.url, wrong)
    assert 'HTTPError' in said(download_ixi40, tmp_path/'other', f'{server.url}/nothing', server.table)
    server.shutdown()
    server.server_close()
    assert 'ConnectionError' in said(download_ixi40, tmp_path/'nobody', server.url, server.table)
