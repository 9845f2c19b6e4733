"Every fault of landmarks and images in DIR-Lab's format is told, with the case."
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from regpre_nb.data.dirlab import FIXED, MOVING, check_dirlab, find_image, find_points, read_pair, read_points
from regpre_nb.method.settings import sentence_of

SIZE, SPACING = (48, 42, 40), (6., 6.25, 7.)  # voxels and mm
LUNGS, RADII = np.array([(85, 125, 165), (215, 125, 165)]), np.array((45, 70, 95))  # mm
GRID = np.moveaxis(np.indices(SIZE), 0, -1)*SPACING


def exhaled(points: np.ndarray) -> np.ndarray:
    "Lungs shrink towards their upper end and their back, mm."
    return (points - [0, 190, 50])*[1, 0.92, 0.88] + [0, 190, 50]


def within(centre, radii) -> np.ndarray: return (((GRID - centre)/radii)**2).sum(-1) < 1


def chest(phase: str, rng: np.random.Generator) -> np.ndarray:
    "HU of two lungs in a body."
    hu, ends = np.where(within((150, 130, 140), (135, 105, 1e4)), 40., -1000.), np.stack([LUNGS, LUNGS + RADII])
    if phase == MOVING: ends = exhaled(ends)
    for centre, end in zip(*ends, strict=True): hu[within(centre, end - centre)] = -850
    return hu + rng.normal(0, 20, SIZE)


def landmarks(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    "300 voxels deep in the lungs, counted from 0, and where they go."
    points = rng.permutation(np.argwhere(np.logical_or(*(within(centre, 0.8*RADII) for centre in LUNGS))))[:300]
    return points, np.round(exhaled(points*SPACING)/SPACING).astype(int)


def as_text(points: np.ndarray, separator: str = ' ') -> str:
    "Points as the lines of a file."
    return '\n'.join(separator.join(f'{c:g}' for c in point) for point in points)


def write(path: Path, points: np.ndarray) -> None:
    "Write points counted from 0."
    path.write_text(as_text(points + 1))


# Landmarks

GOOD = landmarks(np.random.default_rng(4))[0] + 1
EDGE = np.concatenate([[[47, 20, 20]], GOOD[1:]])  # x reaches 47 of 48 voxels, y has 42 and z 40
POINTS = [  # words of the sentence, contents of the file
    ('299 points where there should be 300', as_text(GOOD[:-1])), ("by ','", as_text(GOOD, ',')),
    ('is empty', '\n \n'), ('counts from 1', as_text(GOOD - GOOD.min())),
    ('check that the file is of this case', as_text(GOOD + [0, 0, 30])), ('check that', as_text(GOOD - [30, 0, 0])),
    ('if the columns were y z x', as_text(EDGE[:, [1, 2, 0]])), ('are these mm?', as_text(GOOD*SPACING)),
    ("line 1 reads 'x y z'", f'x y z\n{as_text(GOOD)}'), ("line 1 reads '1 2'", '1 2\n'), ("'1 nan 2'", '1 nan 2\n'),
    ('line 1 reads', ''.join(map(chr, range(200))))]


@pytest.mark.parametrize('words, content', POINTS, ids=lambda value: value[:20])
def test_fault_of_landmarks(tmp_path, words, content):
    (tmp_path/'case4.txt').write_bytes(content.encode('latin-1'))
    said = sentence_of(read_points, tmp_path/'case4.txt', SIZE)
    assert words in said and len(re.findall('[.] ?$', said)) == 1


def test_landmarks_written_otherwise(tmp_path):
    "Other spaces, other ends of lines, empty lines, 12.0 for 12."
    (tmp_path/'case4.txt').write_bytes(as_text(GOOD, ' \t ').replace('\n', '.0 \r\n\n').encode())
    assert (read_points(tmp_path/'case4.txt', SIZE) == GOOD - 1).all()


def test_landmarks_that_cannot_correspond(tmp_path):
    for name, count in ('all.txt', 300), ('some.txt', 20): write(tmp_path/name, GOOD[:count] - 1)
    said = sentence_of(read_pair, tmp_path/'all.txt', tmp_path/'some.txt', SIZE, None)
    assert 'hold 300 and 20 points, which cannot correspond' in said
    assert len(read_points(tmp_path/'some.txt', SIZE, 20)) == 20


# Folders

@pytest.fixture(scope='module')
def sound(tmp_path_factory) -> Path:
    "Two cases with a table of their own."
    root, rows = tmp_path_factory.mktemp('dirlab'), ['case,x,y,z,dx,dy,dz,initial_tre_mm']
    for case in (2, 7):
        rng = np.random.default_rng(case)
        points = landmarks(rng)
        for phase, voxels in zip((FIXED, MOVING), points, strict=True):
            (root/f'case{case}_{phase}.img').write_bytes(chest(phase, rng).astype('<i2').tobytes(order='F'))
            write(root/f'case{case}_300_{phase}.txt', voxels)
        initial = np.linalg.norm((points[1] - points[0])*SPACING, axis=1).mean()
        rows.append(','.join(map(str, (case, *SIZE, *SPACING, round(initial, 2)))))
    (root/'cases.csv').write_text('\n'.join(rows))
    return root


@pytest.fixture
def folder(sound, tmp_path) -> Path:
    "A copy of them to spoil."
    return shutil.copytree(sound, tmp_path/'dirlab')


def moved(change, *phases: str):
    "Write the landmarks of case 2 again, changed."
    def spoil(root: Path):
        for phase in phases or (FIXED, MOVING):
            path = find_points(root, 2, phase)
            write(path, change(read_points(path, SIZE)))
    return spoil


def exchanged(find):
    "Exchange a kind of file of the two phases of case 2."
    def spoil(root: Path):
        first, last = (find(root, 2, phase) for phase in (FIXED, MOVING))
        content = first.read_bytes()
        first.write_bytes(last.read_bytes())
        last.write_bytes(content)
    return spoil


def removed(root: Path):
    "Remove the four files of case 2."
    for path in root.glob('case2_*'): path.unlink()


FAULTS = {  # what is wrong with case 2 -> words of each line, what is done to the folder
    'no image': (['holds no image of case 2, T50'], lambda root: find_image(root, 2, MOVING).unlink()),
    'a short image': (['9 bytes'], lambda root: find_image(root, 2, FIXED).write_bytes(b'too short')),
    'commas': (["separates numbers by ','"], lambda root: find_points(root, 2, FIXED).write_text('1,2,3')),
    'x and y exchanged': (['columns were y x z', 'columns were y x z', 'mm apart, published'],
                          moved(lambda points: points[:, [1, 0, 2]].clip(0, 39))),
    'counted from the other ends': (['if the columns were', 'if the columns were', 'T00 lie higher'],
                                    moved(lambda points: np.array(SIZE) - 1 - points)),
    'another order in one phase': (['mm apart, published'], moved(lambda points: np.roll(points, 1, 0), MOVING)),
    '299 landmarks': (['299 points'], moved(lambda points: points[:-1], FIXED)),
    'images exchanged': (['the lungs of T00 are smaller'], exchanged(find_image)),
    'landmarks exchanged': (['T00 lie higher'], exchanged(find_points)),
    'two images of one phase': (['both are the image'],
                                lambda root: shutil.copy(find_image(root, 2, FIXED), root/'case2_T00_s.img')),
    'no files': (['image of case 2, T00', '300 landmarks of case 2, T00', 'image of case 2, T50',
                  '300 landmarks of case 2, T50'], removed)}


def test_sound_folder(sound):
    "Both proofs hold: the published distance, and landmarks that lie in the lungs."
    report = check_dirlab(sound)
    assert report.lines == [] and set(report.table['verdict']) == {'sound'}
    assert (report.table['difference'].abs() < 0.006).all() and (report.table['in lung'] > 0.98).all()


@pytest.mark.parametrize('fault', FAULTS)
def test_fault_of_a_case(folder, fault):
    "It is told of the case that has it, and the other case is sound."
    words, spoil = FAULTS[fault]
    spoil(folder)
    report = check_dirlab(folder)
    assert len(report.lines) == len(words), report.lines
    for line, part in zip(report.lines, words, strict=True): assert part in line and line.startswith('case 2: ')
    verdict = 'doubtful' if report.problems['doubtful'].all() else 'wrong'
    assert list(report.table['verdict']) == [verdict, 'sound'] and (verdict == 'doubtful') == (
        fault in ('images exchanged', 'landmarks exchanged'))
