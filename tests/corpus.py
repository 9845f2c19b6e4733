"""A corpus of files and arguments that users get wrong, each with the answer that the command line owes it.

`python tests/corpus.py` tries them all and writes results/faults/bad_input.csv; test_corpus.py tries them in the tests.
An entry is either refused (one sentence, exit code 2, no new file) or valid after all, and then gives what the plain
file gives. Each is tried in a forked process of limited time and memory.
"""
import csv
import gc
import gzip
import hashlib
import io
import json
import os
import pickle
import re
import resource
import shutil
import signal
import struct
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
SECONDS, MEGABYTES = 5, 1000  # of one try, at most: CPU time, and memory in all
SHAPE = 16, 18, 20

# What is given where. The file that an entry spoils stands first; {} is its place in the command.
DOORS = {
    'register': ('moving.nii.gz', 'register {} fixed.nii.gz -o out.nii.gz --no-affine --steps 0 --model none '
                 '--no-report'),
    'fixed': ('fixed.nii.gz', 'register moving.nii.gz {} -o out.nii.gz --no-affine --steps 0 --model none --no-report'),
    'mask': ('mask.nii.gz', 'register moving.nii.gz fixed.nii.gz -o out.nii.gz --no-affine --steps 0 --model none '
             '--no-report --mask {}'),
    'model': ('model.safetensors', 'register moving.nii.gz fixed.nii.gz -o out.nii.gz --no-affine --steps 0 '
              '--no-report --model {}'),
    'apply': ('moving.nii.gz', 'apply warp.nii.gz {} out.nii.gz --image'),
    'evaluate': ('labels.nii.gz', 'evaluate --labels {} --fixed-labels fixed_labels.nii.gz --no-hd95 --csv out.csv'),
    'jacobian': ('warp.nii.gz', 'jacobian {} out.nii.gz'),
    'compose': ('map.txt', 'compose {} out.nii.gz --like fixed.nii.gz'),
    'points': ('points.csv', 'points warp.nii.gz {} out.csv'),
    'landmarks': ('points.csv', 'evaluate --warp warp.nii.gz --fixed-points {} --moving-points points.csv '
                  '--csv out.csv'),
    'manifest': ('manifest.csv', 'data check folder {}'),
    'image': ('0_image.nii.gz', 'data check folder manifest.csv'),
    'label map': ('0_labels.nii.gz', 'data check folder manifest.csv'),
    'structures': ('labels.csv', 'data check folder manifest.csv'),
    'finetune': ('encoder.safetensors', 'finetune out --manifest manifest.csv --encoder-weights {} --steps 1 --quiet'),
    'settings': ('', 'pretrain out --shape 16 16 16 --encoder cnn --steps 1 --quiet --settings {}'),
    'arguments': ('', '{}'),
}


@dataclass(frozen=True)
class Entry:
    "One thing to try."
    name: str
    kind: str
    door: str
    spoil: Callable[[Path], object]  # changes the file; what it returns is given in its place: a path, or arguments
    valid: bool = False              # works all the same, with the result of the plain file
    why: str = ''                    # of a valid one
    mentions: str | None = None      # what the sentence names; None: the file


ENTRIES: list[Entry] = []


def add(kind: str, door: str, entries: dict[str, Callable], **options) -> None:
    "Add entries of one kind that are given at one door."
    ENTRIES.extend(Entry(f'{door}: {name}', kind, door, spoil, **options) for name, spoil in entries.items())


# The sound folder

def volume(seed: int, shape: tuple[int, ...] | None = None) -> tuple[np.ndarray, np.ndarray]:
    "A made-up image and its label map, two boxes."
    rng, shape = np.random.default_rng(seed), shape or SHAPE
    labels = np.zeros(shape, np.uint8)
    x, y, z = 3 + rng.integers(0, 3, 3)
    labels[x:x + 8, y:y + 5, z:z + 7], labels[x:x + 8, y + 5:y + 9, z:z + 7] = 1, 2
    return (100*labels + rng.normal(200, 20, shape)).astype(np.float32), labels


def sound(folder: Path) -> Path:
    "A folder of files that nothing is wrong with."
    from regpre_nb.learn.weights import save_weights
    from regpre_nb.method.encoders import CNNEncoder, CNNSettings
    from regpre_nb.method.swin import ENCODERS, describe_module
    from regpre_nb.use.transforms import Warp, save_affine, save_warp
    folder.mkdir(parents=True)
    affine = np.diag([1.5, 1.5, 2, 1])
    for seed, names in enumerate([('moving', 'labels'), ('fixed', 'fixed_labels')]):
        for name, voxels in zip(names, volume(seed)): write(folder/f'{name}.nii.gz', voxels, affine)
    write(folder/'mask.nii.gz', (volume(1)[1] > 0).astype(np.uint8), affine)
    shift = np.random.default_rng(0).normal(0, 0.3, (*SHAPE, 3)).astype(np.float32)
    save_warp(Warp(shift, affine), folder/'warp.nii.gz')
    save_affine(np.diag([1.1, 1, 1, 1]), folder/'map.txt')
    (folder/'points.csv').write_text('x,y,z,name\n3,4.5,6,a\n7.5,9,11,b\n12,3,8,c\n')
    encoder = CNNEncoder(CNNSettings((4, 4), 1))
    for name in ('encoder', 'model'):
        save_weights(encoder, folder/f'{name}.safetensors', encoder=describe_module(encoder, ENCODERS), resolution=1)
    for case in range(6):
        for kind, voxels in zip(('image', 'labels'), volume(case, (16, 16, 16))):
            write(folder/f'{case}_{kind}.nii.gz', voxels)
    (folder/'labels.csv').write_text('id,name\n1,front\n2,back\n')
    (folder/'manifest.csv').write_text(manifest())
    return folder


def write(path: Path, voxels: np.ndarray, affine: np.ndarray | None = None, kind: type = nib.Nifti1Image) -> None:
    "A NIfTI file as it is, sound or not."
    nib.save(kind(voxels, np.eye(4) if affine is None else affine, dtype=voxels.dtype), path)


PARTS = 'train', 'train', 'validation', 'validation', 'test', 'test'


def manifest(edit: Callable[[list[list[str]]], object] = lambda rows: None, between: str = ',') -> str:
    "The manifest, with changes."
    rows = [['case', 'image', 'labels', 'split'],
            *([f'case{n}', f'{n}_image.nii.gz', f'{n}_labels.nii.gz', part] for n, part in enumerate(PARTS))]
    edit(rows)
    return ''.join(between.join(row) + '\n' for row in rows)


# Ways to spoil any file

def cut(share: float) -> Callable[[Path], None]:
    "Keep a share of a file's bytes."
    def spoil(path: Path) -> None:
        content = path.read_bytes()
        path.write_bytes(content[:int(share*len(content))])
    return spoil


def content(what: bytes | str) -> Callable[[Path], None]:
    "Other contents."
    return lambda path: path.write_bytes(what if isinstance(what, bytes) else what.encode()) and None


def named(name: str | bytes) -> Callable[[Path], Path]:
    "The same file under another name."
    return lambda path: path.rename(path.with_name(os.fsdecode(name)))


def replaced(make: Callable[[Path], object]) -> Callable[[Path], None]:
    "Something else in the file's place."
    def spoil(path: Path) -> None:
        path.unlink()
        make(path)
    return spoil


EVERYWHERE = {
    'absent': Path.unlink, 'empty file': content(b''), 'a folder': replaced(Path.mkdir), 'a FIFO': replaced(os.mkfifo),
    'a link to itself': replaced(lambda path: path.symlink_to(path)),
    'a link to nothing': replaced(lambda path: path.symlink_to('nowhere')),
    'a web page': content('<!DOCTYPE html>\n<html><body>404</body></html>\n'),
    'zeros': content(bytes(5000)), 'noise': content(np.random.default_rng(0).bytes(5000)),
}
for door in ('register', 'apply', 'evaluate', 'jacobian', 'compose', 'points', 'manifest', 'model', 'finetune'):
    add('any file', door, EVERYWHERE)
for door in ('fixed', 'mask', 'image', 'label map', 'structures', 'landmarks'):
    some = ['empty file', 'a FIFO', 'noise'] if door != 'structures' else ['empty file', 'noise']
    add('any file', door, {name: EVERYWHERE[name] for name in some})
SHARES = 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99
for door in ('register', 'evaluate', 'jacobian', 'model', 'finetune'):
    add('truncated', door, {f'cut to {100*share:g} %': cut(share) for share in SHARES})

# NIfTI

def plain(spoil: Callable[[bytearray], object]) -> Callable[[Path], None]:
    "Change the bytes of a compressed file as they are when unpacked."
    def change(path: Path) -> None:
        raw = bytearray(gzip.decompress(path.read_bytes()))
        path.write_bytes(gzip.compress(bytes(spoil(raw) or raw)))
    return change


def header(**fields: object) -> Callable[[Path], None]:
    "Change fields of the header, whatever they then say."
    def change(raw: bytearray) -> None:
        parts = np.frombuffer(raw, nib.nifti1.header_dtype, 1)
        for name, value in fields.items(): parts[name] = value
    return plain(change)


def end_of_gzip(offset: int) -> Callable[[Path], None]:
    "Flip a byte of the check sum or the length at the end."
    def spoil(path: Path) -> None:
        packed = bytearray(path.read_bytes())
        packed[offset] ^= 0xff
        path.write_bytes(packed)
    return spoil


def voxels(change: Callable[[np.ndarray], np.ndarray], kind: type = nib.Nifti1Image) -> Callable[[Path], None]:
    "Other voxels in the same grid."
    def spoil(path: Path) -> None:
        image = nib.load(path)
        data = change(np.array(np.asarray(image.dataobj)))
        path.unlink()
        write(path, data, image.affine, kind)
    return spoil


def with_value(value: float) -> Callable[[np.ndarray], np.ndarray]:
    "One voxel has another value."
    def change(data: np.ndarray) -> np.ndarray:
        data[3, 4, 5] = value
        return data
    return change


def affine(*rows: list[float]) -> Callable[[Path], None]:
    "Another affine; the voxels stay."
    def spoil(path: Path) -> None:
        data = np.array(np.asarray(nib.load(path).dataobj))
        image = nib.Nifti1Image(data, None)
        image.set_sform(np.array([*rows, [0, 0, 0, 1]], float), 2)
        nib.save(image, path)
    return spoil


def rgb(data: np.ndarray) -> np.ndarray:
    "Colours."
    return np.zeros(data.shape, [('R', 'u1'), ('G', 'u1'), ('B', 'u1')])


def two_places(path: Path, codes: tuple[int, int] = (1, 1)) -> None:
    "qform and sform that disagree."
    image = nib.load(path)
    image = nib.Nifti1Image(np.array(np.asarray(image.dataobj)), None)
    image.set_sform(np.diag([1.5, 1.5, 2, 1]), codes[0])
    image.set_qform(np.array([[1.5, 0, 0, 30], [0, 1.5, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]]), codes[1])
    nib.save(image, path)


def big_endian(path: Path) -> None:
    "The other byte order."
    image = nib.load(path)
    data = np.array(np.asarray(image.dataobj))
    nib.save(nib.Nifti1Image(data.astype(data.dtype.newbyteorder('>')), image.affine,
                             nib.Nifti1Header(endianness='>')), path)


def unpacked(name: str) -> Callable[[Path], Path]:
    "The file unpacked, under a name."
    def spoil(path: Path) -> Path:
        other = path.with_name(name)
        other.write_bytes(gzip.decompress(path.read_bytes()))
        if other != path: path.unlink()
        return other
    return spoil


def stored_as(kind: str) -> Callable[[Path], None]:
    "The same whole numbers in another type."
    return voxels(lambda data: np.round(data).astype(kind))


def micrometres(path: Path) -> None:
    "The same grid in another unit, which the header names."
    image = nib.load(path)
    scaled = nib.Nifti1Image(np.array(np.asarray(image.dataobj)), image.affine*[[1000], [1000], [1000], [1]])
    scaled.header.set_xyzt_units('micron')
    nib.save(scaled, path)


LIES = {
    'dims too large': header(dim=[3, 64, 64, 64, 1, 1, 1, 1]),
    'dims of 60 GB': header(dim=[3, 3000, 3000, 3000, 1, 1, 1, 1]),
    '2 GB on 1 kB': lambda path: (header(dim=[3, 800, 800, 800, 1, 1, 1, 1], datatype=16, bitpix=32)(path),
                                  cut(0.1)(path))[0],
    'no dimension': header(dim=[0, 16, 18, 20, 1, 1, 1, 1]), 'nine dimensions': header(dim=[9, 16, 18, 20, 1, 1, 1, 1]),
    'a negative size': header(dim=[3, -16, 18, 20, 1, 1, 1, 1]), 'a size of 0': header(dim=[3, 0, 18, 20, 1, 1, 1, 1]),
    'unknown type': header(datatype=9999), 'type of 128 bits': header(datatype=1536, bitpix=128),
    'wrong magic': header(magic=b'abc'), 'voxels begin at -1': header(vox_offset=-1),
    'voxels begin at infinity': header(vox_offset=np.inf), 'voxels begin at NaN': header(vox_offset=np.nan),
    'voxels begin beyond the end': header(vox_offset=1e9),
    'slope with an infinite intercept': header(scl_slope=1, scl_inter=np.inf),
    'slope beyond float32': header(scl_slope=3e38), 
    'NaN in the affine': header(srow_x=[np.nan, 0, 0, 0]), 'no affine at all': header(srow_x=0, srow_y=0, srow_z=0),
    'singular affine': header(srow_y=[1.5, 0, 0, 0]), 'infinite origin': header(srow_x=[1.5, 0, 0, np.inf]),
    'spacing of 0': header(sform_code=0, qform_code=1, pixdim=[1, 0, 0, 0, 0, 0, 0, 0]),
    'NaN in the quaternion': header(sform_code=0, qform_code=1, quatern_b=np.nan),
    'quaternion too long': header(sform_code=0, qform_code=1, quatern_b=2),
    'qform and sform apart under one code': two_places,
    'CRC': end_of_gzip(-8), 'length in gzip': end_of_gzip(-2),
    'tail cut off': lambda path: path.write_bytes(path.read_bytes()[:-8]) and None,
    'tail cut off in the CRC': lambda path: path.write_bytes(path.read_bytes()[:-5]) and None,
    'damaged in the middle': lambda path: end_of_gzip(path.stat().st_size//2)(path),
    'not packed': unpacked('moving.nii.gz'),
}
add('header', 'register', LIES)
add('header', 'apply', {name: LIES[name] for name in ('dims of 60 GB', '2 GB on 1 kB', 'CRC', 'unknown type')})
add('header', 'register', {'sheared affine': affine([1.5, 0.5, 0, 0], [0, 1.5, 0, 0], [0, 0, 2, 0]),
                           'elsewhere': affine([1.5, 0, 0, 900], [0, 1.5, 0, 0], [0, 0, 2, 0]),
                           'a thousandth as large': affine([1.5e-3, 0, 0, 0], [0, 1.5e-3, 0, 0], [0, 0, 2e-3, 0])})
add('header', 'image', {'a thousandth as large': affine([1e-3, 0, 0, 0], [0, 1e-3, 0, 0], [0, 0, 1e-3, 0]),
                        'another affine than its labels': affine([1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1.5, 0]),
                        'sheared affine': affine([1, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0])})
SHAPES = {'four dimensions': lambda data: np.stack([data, data], -1),
          'five dimensions': lambda data: data[..., None, None].repeat(3, 4),
          'one voxel': lambda data: data[:1, :1, :1], 'one line': lambda data: data[:, :1, :1],
          'colours': rgb, 'complex': lambda data: data.astype(np.complex64)}
VALUES = {'all NaN': lambda data: np.full(data.shape, np.nan, np.float32), 'one NaN': with_value(np.nan),
          'one infinity': with_value(np.inf), 'one minus infinity': with_value(-np.inf),
          'constant': lambda data: np.full_like(data, 7), 'all 0': np.zeros_like,
          'beyond float32': lambda data: data.astype(np.float64)*1e300}
for door in ('register', 'image'):
    add('voxels', door, {name: voxels(change) for name, change in (SHAPES | VALUES).items()})
add('voxels', 'fixed', {'15 voxels along an axis': voxels(lambda data: data[:15])})
add('voxels', 'apply', {name: voxels(SHAPES[name]) for name in ('four dimensions', 'colours', 'complex')})
LABELS = {'fractions': lambda data: data*np.float32(0.5), 'below 0': lambda data: data.astype(np.int16) - 1,
          'all 0': np.zeros_like, 'NaN': lambda data: with_value(np.nan)(data.astype(np.float32)),
          'beyond 32 bits': lambda data: data.astype(np.int64)*2**40, 'another shape': lambda data: data[:-1],
          'an image': lambda data: volume(9, data.shape)[0]}
for door in ('evaluate', 'label map'): add('label map', door, {name: voxels(change) for name, change in LABELS.items()})
add('label map', 'mask', {'marks nothing': voxels(np.zeros_like)})

AFTER_ALL = {
    'big-endian': (big_endian, 'NIfTI knows both byte orders'),
    'not packed, named so': (unpacked('moving.nii'), 'NIfTI comes packed and not'),
    'scl_slope 0': (header(scl_slope=0, scl_inter=5), 'by the standard, 0 means: no scaling'),
    'scl_slope NaN': (header(scl_slope=np.nan, scl_inter=np.nan), 'nibabel writes NaN for: no scaling'),
    'a header of another size': (header(sizeof_hdr=1234), 'its magic word says which format it is'),
    'spacing of 0 beside an sform': (header(pixdim=[1, 0, 0, 0, 0, 0, 0, 0]), 'the sform decides'),
    'in micrometres, as its header says': (micrometres, 'the header names the unit'),
    'a trailing axis of 1': (voxels(lambda data: data[..., None]), 'it is one volume'),
    'a NIfTI-2 file': (voxels(lambda data: data, nib.Nifti2Image), 'a format that nibabel reads'),
    'qform and sform apart under two codes': (partial(two_places, codes=(4, 1)),
                                              'the sform comes first in the standard'),
    'spaces in its name': (named('my moving image (1).nii.gz'), 'a name is a name'),
    'quotes in its name': (named('it\'s "moving" $HOME `ls`.nii.gz'), 'a name is a name'),
    'a newline in its name': (named('mov\ning.nii.gz'), 'a name is a name'),
    'accents in its name': (named('Gehirn_grün_脳.nii.gz'), 'a name is a name'),
    'a name that is no UTF-8': (named(b'mov\xff\xfeing.nii.gz'), 'a name is a name'),
    'markup in its name': (named('[red]moving[b].nii.gz'), 'a name is a name'),
    'behind a link': (lambda path: path.rename(path.with_name('other.nii.gz')) and path.symlink_to('other.nii.gz'),
                      'a link to a file is the file'),
}
for name, (spoil, why) in AFTER_ALL.items():
    for door in ('register', 'apply'): add('valid volume', door, {name: spoil}, valid=True, why=why)
add('name', 'register',
    {'a newline in the name of a bad file': lambda path: (content('no')(path), named('a\nb.nii.gz')(path))[1],
                         'a terminal command in it': lambda path: (content('no')(path),
                             named('a\x1b[2Jb.nii.gz')(path))[1],
                         'a bad file whose name is no UTF-8': lambda path: (content('no')(path),
                             named(b'a\xff.nii.gz')(path))[1]},
    mentions='nii.gz')
add('name', 'register', {'named .txt': named('moving.txt'), 'named .nii.zip': named('moving.nii.zip'),
                         'named without an ending': named('moving')})

# Warps and affine maps
add('warp', 'jacobian', {'an image': lambda path: path.with_name('moving.nii.gz'),
                         'a label map': lambda path: path.with_name('labels.nii.gz'),
                         'four components': voxels(lambda data: data[..., [0, 1, 2, 2]]),
                         'without its intent': header(intent_code=0), 'CRC': end_of_gzip(-8),
                         'one NaN': voxels(with_value(np.nan)), 'singular affine': header(srow_x=0),
                         'dims of 60 GB': header(dim=[5, 3000, 3000, 3000, 1, 3, 1, 1])})
MAP = 'Insight Transform File V1.0\n#Transform 0\nTransform: {}\nParameters: {}\nFixedParameters: 0 0 0\n'
add('affine map', 'compose', {
    'eleven numbers': content(MAP.format('AffineTransform_double_3_3', '1 0 0 0 1 0 0 0 1 0 0')),
    'singular': content(MAP.format('AffineTransform_double_3_3', '1 0 0 1 0 0 0 0 1 0 0 0')),
    'NaN': content(MAP.format('AffineTransform_double_3_3', 'nan 0 0 0 1 0 0 0 1 0 0 0')),
    'infinite': content(MAP.format('AffineTransform_double_3_3', '1 0 0 0 1 0 0 0 1 inf 0 0')),
    'two dimensions': content(MAP.format('AffineTransform_double_2_2', '1 0 0 1 0 0')),
    'unknown class': content(MAP.format('Unknown_double_3_3', '1 0 0')),
    'words': content(MAP.format('AffineTransform_double_3_3', 'one two three')),
    'a matrix of FSL': content('1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n'), 'UTF-16': content('1 0 0'.encode('utf-16'))})

# Tables
def recoded(encoding: str, newline: str = '\n') -> Callable[[Path], None]:
    "The same text in other bytes."
    return lambda path: path.write_bytes(path.read_text().replace('\n', newline).encode(encoding)) and None


def separated(by: str) -> Callable[[Path], None]:
    "The same table with something else between cells."
    return lambda path: path.write_text(path.read_text().replace(',', by)) and None


def text(change: Callable[[str], str]) -> Callable[[Path], None]:
    "The text changed."
    return lambda path: path.write_text(change(path.read_text())) and None


TABLES = {'a byte order mark': (recoded('utf-8-sig'), 'Excel writes one'),
          'CRLF': (recoded('utf-8', '\r\n'), 'Windows ends lines so'),
          'CR': (recoded('utf-8', '\r'), 'old programs end lines so'),
          'semicolons': (separated(';'), 'the first line has no comma'),
          'tabs': (separated('\t'), 'the first line has no comma'),
          'spaces behind commas': (separated(', '), 'spaces around a cell do not count'),
          'empty lines': (text(lambda said: said.replace('\n', '\n\n')), 'a line without cells is no row'),
          'no newline at the end': (text(str.rstrip), 'the last line is whole'),
          'one more column': (text(lambda said: ''.join(f'{line},x{i}\n' for i, line in enumerate(said.split()))),
                              'it has a name')}
for name, (spoil, why) in TABLES.items():
    for door in ('manifest', 'points', 'structures'): add('valid table', door, {name: spoil}, valid=True, why=why)
BAD_TABLES = {'UTF-16': recoded('utf-16'), 'UTF-32': recoded('utf-32'),
              'NUL bytes': text(lambda said: said.replace('a', '\0')),
              'only its first line': text(lambda said: said.split('\n')[0] + '\n'), 'only blanks': content(' \n \n'),
              'a column twice': text(lambda said: ''.join(f'{line},{line.split(",")[0]}\n' for line in said.split())),
              'a column missing': text(lambda said: ''.join(line.split(',', 1)[1] + '\n' for line in said.split())),
              'one cell too many': text(lambda said: said.rstrip() + ',x,y,z\n'),
              'a quote left open': text(lambda said: said.replace('\n', '\n"', 1)),
              'a cell of 1 MB': text(lambda said: said.replace('\n', '\n' + 'x'*2**20, 1)),
              'semicolons and commas': text(lambda said: said.replace(',', ';', 1)),
              'JSON': content('{"case": 1}'), 'a first line of numbers': content('1,2,3\n4,5,6\n')}
for door in ('manifest', 'points', 'structures'): add('table', door, BAD_TABLES)
add('table', 'points', {'a word for a number': text(lambda said: said.replace('4.5', 'four')),
                        'NaN': text(lambda said: said.replace('4.5', 'nan')),
                        'infinity': text(lambda said: said.replace('4.5', 'inf')),
                        'a decimal comma': text(lambda said: said.replace(',', ';').replace('4.5', '4,5')),
                        'a coordinate missing': text(lambda said: said.replace('4.5', '')),
                        'a short row': text(lambda said: said.replace('3,4.5,6,a', '3,4.5'))})
add('table', 'landmarks', {'fewer': lambda path: shorter(path), 'other names': lambda path: other_names(path),
                           'outside': lambda path: far_away(path)}, mentions='landmark')


def beside(path: Path, said: str) -> Path:
    "A table beside another."
    other = path.with_name('other.csv')
    other.write_text(said)
    return other


def shorter(path: Path) -> Path: return beside(path, path.read_text().rsplit('\n', 2)[0] + '\n')
def other_names(path: Path) -> Path: return beside(path, path.read_text().replace(',a\n', ',z\n'))
def far_away(path: Path) -> Path: return beside(path, 'x,y,z\n' + '900,900,900\n'*3)


def rows(edit: Callable[[list[list[str]]], object], between: str = ',') -> Callable[[Path], None]:
    "The manifest with other cells."
    return lambda path: path.write_text(manifest(edit, between)) and None


def cell(row: int, column: int, value: str) -> Callable[[Path], None]:
    "The manifest with one other cell."
    return rows(lambda table: table[row].__setitem__(column, value))


add('manifest', 'manifest', {
    'a case in train and test': rows(lambda table: table.append([*table[1][:3], 'test'])),
    'a case twice with other files': rows(lambda table: table[5].__setitem__(0, 'case0')),
    'a file under two names': cell(2, 1, '0_image.nii.gz'),
    'one file as image and labels': cell(2, 2, '1_image.nii.gz'),
    'image and labels exchanged': rows(lambda table: table[1].__setitem__(slice(1, 3), table[1][2:0:-1])),
    'all images and labels exchanged': rows(lambda table: [row.__setitem__(slice(1, 3),
        row[2:0:-1]) for row in table[1:]]),
    'unknown split': cell(1, 3, 'trian'), 'a misspelt column': cell(0, 3, 'splitt'), 'a split missing': cell(1, 3, ''),
    'no case': cell(1, 0, ''),
    'no image': cell(1, 1, ''),
    'an image that is absent': cell(1, 1, 'absent.nii.gz'),
    'an image outside that is absent': cell(1, 1, '../../absent.nii.gz'),
    'a system file': cell(1, 1, '/etc/passwd'), 'a device': cell(1, 1, '/dev/zero'),
    'a folder for an image': cell(1, 1, '.'),
    'a home folder': cell(1, 1, '~/image.nii.gz'), 'a name of 5000 letters': cell(1, 1, 'x'*5000),
    'a NUL in a path': cell(1, 1, 'a\0b.nii.gz'),
    'two atlases': rows(lambda table: [row.__setitem__(3, 'atlas') for row in table[1:3]]),
    'no test case': rows(lambda table: [row.__setitem__(3, 'train') for row in table[5:]]),
    'one case': rows(lambda table: table.__delitem__(slice(2, None))),
    'a bell in a name': cell(1, 0, 'a\x07b')})
add('manifest', 'manifest', {'a copy of a case in train and test': lambda path: copied(path)},
    mentions='case0 and case5')


def copied(path: Path) -> None:
    "The first image under the name of the last."
    shutil.copy(path.with_name('0_image.nii.gz'), path.with_name('5_image.nii.gz'))


add('valid manifest', 'manifest', {'absolute paths': lambda path: path.write_text(manifest(lambda table: [
    row.__setitem__(slice(1, 3), [str(path.with_name(name)) for name in row[1:3]]) for row in table[1:]])) and None,
    'paths outside the folder': lambda path: elsewhere(path)}, valid=True,
    why='a list may stand apart from the images; nothing is written beside them')


def elsewhere(path: Path) -> None:
    "The images stand beside the folder of the manifest."
    other = path.parent/'sub'
    other.mkdir()
    shutil.copy(path.with_name('labels.csv'), other)
    (other/'manifest.csv').write_text(manifest(lambda table: [
        row.__setitem__(slice(1, 3), [f'../{name}' for name in row[1:3]]) for row in table[1:]]))
    return other/'manifest.csv'


add('manifest', 'structures', {
    'id 0': text(lambda said: said.replace('1,', '0,')), 'a fraction': text(lambda said: said.replace('1,', '1.5,')),
    'below 0': text(lambda said: said.replace('1,', '-1,')), 'no name': text(lambda said: said.replace('front', '')),
    'an id twice': text(lambda said: said.replace('2,', '1,')),
    'a name twice': text(lambda said: said.replace('back', 'front')),
    'an id of 40 digits': text(lambda said: said.replace('1,', '1'*40 + ',')),
    'labels that no map has': content('id,name\n88,x\n')})

# Weights
def tensors(change: Callable[[dict, dict], object]) -> Callable[[Path], None]:
    "Other weights or another record, sound as a file."
    def spoil(path: Path) -> None:
        from safetensors.torch import load_file, save_file

        from regpre_nb.learn.training import read_metadata
        weights, record = load_file(path), read_metadata(path)
        change(weights, record)
        save_file(weights, path,
                  {'record': record if isinstance(record, str) else json.dumps(record.get('all', record))})
    return spoil


def first(weights: dict) -> str: return sorted(weights)[0]


def described(**changes: object) -> Callable[[Path], None]:
    "Another description of the encoder."
    return tensors(lambda weights, record: record['encoder'].update(changes))


def safetensors_header(said: bytes, length: int | None = None) -> Callable[[Path], None]:
    "A file of the format with any header."
    return content(struct.pack('<Q', len(said) if length is None else length) + said)


WEIGHTS = {
    'NaN': tensors(lambda weights, record: weights[first(weights)].fill_(float('nan'))),
    'infinite': tensors(lambda weights, record: weights[first(weights)].fill_(float('inf'))),
    'a tensor missing': tensors(lambda weights, record: weights.pop(first(weights))),
    'a tensor too many': tensors(lambda weights, record: weights.update(other=weights[first(weights)].clone())),
    'other names': tensors(lambda weights, record: [weights.update({f'x.{n}': weights.pop(n)}) for n in list(weights)]),
    'other shapes': tensors(lambda weights, record: weights.update(
        {first(weights): weights[first(weights)][:1].clone()})),
    'no tensors': tensors(lambda weights, record: weights.clear()),
    'no record': tensors(lambda weights, record: record.clear()),
    'a record that is a list': tensors(lambda weights, record: record.update(all=[1, 2])),
    'a record that is a number': tensors(lambda weights, record: record.update(all=3)),
    'unknown encoder': described(name='swinn'), 'an encoder without settings': described(settings=None),
    'settings that are a list': described(settings=[1]), 'an unknown setting': described(settings={'chanels': [4]}),
    'channels that are words': described(settings={'channels': ['a']}),
    'no channels': described(settings={'channels': []}),
    'channels below 0': described(settings={'channels': [-4, 4], 'convolutions': 1}),
    '10^9 channels': described(settings={'channels': [10**9], 'convolutions': 1}),
    '10^18 channels': described(settings={'channels': [10**18], 'convolutions': 1}),
    '10^9 convolutions': described(settings={'channels': [4], 'convolutions': 10**9}),
    'a number for the name': described(name=5), 'a list for the name': described(name=['cnn']),
    'its last byte flipped': end_of_gzip(-1),
    'a header of 2^60 bytes': safetensors_header(b'{}', 2**60),
    'a header that is no JSON': safetensors_header(b'nonsense'),
    'a header that is a list': safetensors_header(b'[]'),
    'offsets beyond the end': safetensors_header(
        b'{"a":{"dtype":"F32","shape":[1000000000],"data_offsets":[0,4000000000]}}'),
    'offsets that overlap': safetensors_header(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}'),
    'a pickle of torch': content(pickle.dumps({'state_dict': 1})),
}
for door in ('finetune', 'model'): add('weights', door, WEIGHTS)
add('weights', 'model',
    {'an encoder alone': lambda path: None, 'a folder without weights': lambda path: path.with_name('empty'),
                         'config.json that is a list': lambda path: as_folder(path, '[1]'),
                         'config.json of other weights': lambda path: as_folder(path, '{"sha256": "00"}'),
                         'config.json that is no text': lambda path: as_folder(path, b'\xff\xfe\x00'),
                         'config.json that is a FIFO': lambda path: as_folder(path, None)},
    mentions='')


def as_folder(path: Path, config: str | bytes | None) -> Path:
    "A folder of weights with a config.json."
    folder = path.with_name('weights')
    folder.mkdir()
    path.rename(folder/'model.safetensors')
    if config is None: os.mkfifo(folder/'config.json')
    else: content(config)(folder/'config.json')
    return folder


# Settings
def said(*given: str) -> Callable[[Path], list[str]]:
    "Arguments in place of a file."
    return lambda path: list(given)


add('settings', 'settings', {f'{value[:40]}': said(value) for value in (
    '{"channels": 5}', '{"channels": []}', '{"channels": [0]}', '{"channels": ["a"]}', '{"channels": [1.5]}',
    '{"channels": null}',
    '{"chanels": [4]}', '{"convolutions": true}', '{"convolutions": -1}', '{"convolutions": NaN}', '[1, 2]', '"text"',
    '5', 'null', 'channels: 4',
    '{"channels": [4]', "{'channels': [4]}", '{"channels": {"a": 1}}', '{"channels": [[4]]}', '[' * 5000,
    '{"channels": [100000000]}')}, mentions='')

# Arguments
REGISTER = 'register', 'moving.nii.gz', 'fixed.nii.gz', '-o'
LAY = '--no-affine', '--steps', '0', '--model', 'none', '--no-report'
add('arguments', 'arguments', {name: said(*given) for name, given in {
    'no output folder': (*REGISTER, 'absent/out.nii.gz'), 'output in another format': (*REGISTER, 'out.png'),
    'output is the input': (*REGISTER, 'moving.nii.gz'), 'output is a folder': (*REGISTER, '.'),
    'output of 300 letters': (*REGISTER, 'x'*300 + '.nii.gz', *LAY),
    'no output': ('register', 'moving.nii.gz', 'fixed.nii.gz'),
    'one image': ('register', 'moving.nii.gz', '-o', 'out.nii.gz'),
    'metric misspelt': (*REGISTER, 'out.nii.gz', '--metric', 'nccc'),
    'precision misspelt': (*REGISTER, 'out.nii.gz', '--precision', 'bf61'),
    'unknown option': (*REGISTER, 'out.nii.gz', '--stesp', '3'),
    'steps below 0': (*REGISTER, 'out.nii.gz', '--steps', '-1'),
    'steps a word': (*REGISTER, 'out.nii.gz', '--steps', 'ten'),
    'spacing 0': (*REGISTER, 'out.nii.gz', '--spacing', '0'),
    'spacing NaN': (*REGISTER, 'out.nii.gz', '--spacing', 'nan'),
    'spacing tiny': (*REGISTER, 'out.nii.gz', '--spacing', '1e-9'),
    'spacing infinite': (*REGISTER, 'out.nii.gz', '--spacing', 'inf'),
    'spacing huge': (*REGISTER, 'out.nii.gz', '--spacing', '99'),
    'model misspelt': (*REGISTER, 'out.nii.gz', '--model', 'any-pari'),
    'device misspelt': (*REGISTER, 'out.nii.gz', '--device', 'gpu0'),
    'device meta': (*REGISTER, 'out.nii.gz', '--device', 'meta'),
    'also without a colon': (*REGISTER, 'out.nii.gz', '--also', 'x'),
    'labels without output': (*REGISTER, 'out.nii.gz', '--labels', 'labels.nii.gz'),
    'unknown command': ('regsiter',), 'unknown data': ('data', 'check', 'hipocampus'),
    'unknown profile': ('runs', '--profile', 'smok'),
    'unknown data for runs': ('runs', '--data', 'templat'), 'seed below 0': ('runs', '--seed', '-1'),
    'seed a word': ('runs', '--seed', 'one'),
    'to misspelt': ('convert', 'warp.nii.gz', 'out.nii.gz', '--to', 'flirt', '--moving', 'moving.nii.gz'),
    'encoder misspelt': ('pretrain', 'out', '--encoder', 'swinn'),
    'shape too small': ('pretrain', 'out', '--shape', '4', '4', '4'),
    'shape huge': ('pretrain', 'out', '--shape', '9999', '9999', '9999'),
    'two shapes': ('pretrain', 'out', '--shape', '16', '16'),
    'rate 0': ('pretrain', 'out', '--learning-rate', '0'), 'rate NaN': ('pretrain', 'out', '--learning-rate', 'nan'),
    'fraction 0': ('finetune', 'out', '--manifest', 'manifest.csv', '--fraction', '0'),
    'fraction NaN': ('finetune', 'out', '--manifest', 'manifest.csv', '--fraction', 'nan'),
    'plugin absent': ('pretrain', 'out', '--plugin', 'absent.py'),
    'plugin no module': ('pretrain', 'out', '--plugin', 'no_such_module'),
    'output folder is a file': ('pretrain', 'map.txt'), 'nothing to evaluate': ('evaluate',),
    'one label map': ('evaluate', '--labels', 'labels.nii.gz'),
    'label that is absent': ('evaluate', '--labels', 'labels.nii.gz', '--fixed-labels', 'fixed_labels.nii.gz',
                             '--label', '77'),
    'landmarks alone': ('evaluate', '--warp', 'warp.nii.gz', '--fixed-points', 'points.csv'),
    'too few files': ('apply', 'warp.nii.gz', 'moving.nii.gz'),
    'no warp': ('apply', 'moving.nii.gz', 'labels.nii.gz', 'out.nii.gz'),
    'points without output': ('points', 'warp.nii.gz', 'points.csv'),
    'lps and voxels': ('points', 'warp.nii.gz', 'points.csv', 'out.csv', '--lps', '--voxels'),
    'root is no clone': ('reproduce', '--root', '.'),
    'run that is absent': ('train', 'initial', '--profile', 'smoke', '--data', 'hippocampus'),
    'a path of NUL': ('apply', 'warp.nii.gz', 'mo\0ving.nii.gz', 'out.nii.gz'),
}.items()}, mentions='')


# Trying

def fresh(base: Path, folder: Path) -> Path:
    "A copy of the sound folder."
    return shutil.copytree(base, folder, symlinks=True)


def prepared(entry: Entry, folder: Path) -> list[str]:
    "Spoil what is to be spoilt; the arguments of the command."
    name, command = DOORS[entry.door]
    given = entry.spoil(folder/name)
    if isinstance(given, list):
        return [word for part in command.split() for word in (given if part == '{}' else [part])]
    place = os.path.relpath(given, folder) if given else name
    return [place if part == '{}' else part for part in command.split()]


def listing(folder: Path) -> list[str]:
    "Every path below a folder."
    return sorted(os.path.relpath(os.path.join(at, name), folder) for at, folders,
                  files in os.walk(folder) for name in folders + files)


@dataclass(frozen=True)
class Outcome:
    "What a try came to."
    code: int            # exit code; below 0: killed by a signal
    stdout: str
    stderr: str
    seconds: float       # of CPU
    megabytes: float
    new: tuple[str, ...]  # files that were not there before
    result: str          # fingerprint of what was written and printed


def _be(arguments: list[str], folder: Path, streams: Path) -> None:
    "In the forked process: be the command."
    from regpre_nb.use.cli import main
    for number, name in ((1, 'stdout'), (2, 'stderr')): os.dup2(os.open(streams/name, os.O_WRONLY | os.O_CREAT), number)
    signal.alarm(60)  # of what waits for ever
    used = int(Path('/proc/self/statm').read_text().split()[0])*resource.getpagesize() if Path('/proc').exists() else 0
    if used: resource.setrlimit(resource.RLIMIT_AS, (used + 2*10**9,)*2)
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS + 1,)*2)
    os.chdir(folder)
    sys.argv = ['regpre', *arguments]
    try: main()
    except SystemExit as end: code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback
        traceback.print_exc()
        code = 1
    else: code = 0
    for stream in (sys.stdout, sys.stderr): stream.flush()
    os._exit(code)


def written(folder: Path, stdout: str) -> str:
    "What came out: the voxels of an image, the text of a table, or what was printed."
    if (folder/'out.nii.gz').is_file():
        image = nib.load(folder/'out.nii.gz')
        data = np.asarray(image.dataobj, np.float32)
        return f'{hashlib.sha256(data.tobytes()).hexdigest()[:16]} {np.round(image.affine, 4).tolist()}'
    if (folder/'out.csv').is_file():
        with open(folder/'out.csv', newline='',
                  encoding='utf-8') as file: return '\n'.join(','.join(row[:4]) for row in csv.reader(file))
    return re.sub(r'\w+/manifest.csv', 'manifest.csv', stdout.replace(str(folder), ''))


def attempt(entry: Entry, base: Path, folder: Path) -> Outcome:
    "Try an entry in a process of its own."
    arguments = prepared(entry, fresh(base, folder/'in'))
    before = listing(folder/'in')
    sys.stdout.flush()
    gc.freeze()  # a collection would copy what is shared
    child = os.fork()
    if not child: _be(arguments, folder/'in', folder)
    _, status, used = os.wait4(child, 0)
    stdout, stderr = ((folder/name).read_text(errors='backslashreplace') for name in ('stdout', 'stderr'))
    code = os.waitstatus_to_exitcode(status)
    peak = used.ru_maxrss/(2**20 if sys.platform == 'darwin' else 2**10)
    outcome = Outcome(code, stdout, stderr, used.ru_utime + used.ru_stime, peak,
                      tuple(path for path in listing(folder/'in') if path not in before), written(folder/'in', stdout))
    shutil.rmtree(folder)
    return outcome


def plain_results(base: Path, folder: Path) -> dict[str, str]:
    "What each door makes of the sound folder."
    doors = {entry.door for entry in ENTRIES if entry.valid}
    outcomes = {door: attempt(Entry(door, '', door, lambda path: None), base, folder/door) for door in doors}
    if failed := {door: outcome for door, outcome in outcomes.items() if outcome.code}:
        raise AssertionError(f'a sound file is refused: {failed}')
    return {door: outcome.result for door, outcome in outcomes.items()}


def fault(entry: Entry, outcome: Outcome, plain_result: str | None) -> str:
    "What is wrong with an answer; '' if nothing is."
    if outcome.seconds > SECONDS or outcome.megabytes > MEGABYTES:
        return f'took {outcome.seconds:.1f} s and {outcome.megabytes:.0f} MB'
    if 'Traceback' in outcome.stderr or outcome.code not in (0, 2):
        return f'exit code {outcome.code}: {outcome.stderr[-400:]}'
    if entry.valid:
        if outcome.code: return f'is refused: {outcome.stderr[-400:]}'
        same = outcome.result == plain_result
        return '' if same else f'gives {outcome.result[:200]}, not {str(plain_result)[:200]}'
    if outcome.code != 2: return f'is not refused: {outcome.stdout[-300:]}{outcome.stderr[-300:]}'
    if outcome.new: return f'leaves {", ".join(outcome.new)}'
    if 'Usage: regpre' in outcome.stderr or '─ Error ─' in outcome.stderr: return ''  # as of any command line
    if not re.fullmatch(r'regpre: [^\n]+\.\n', outcome.stderr):
        return f'says in more than a sentence: {outcome.stderr[-600:]}'
    if not outcome.stderr[:-1].isprintable(): return f'prints {outcome.stderr!r}'
    name = DOORS[entry.door][0] if entry.mentions is None else entry.mentions
    if name.partition('.')[0] not in outcome.stderr: return f'does not name {name}: {outcome.stderr}'
    return '' if re.search(r'[;:,.] \w', outcome.stderr[8:]) else f'says nothing about what to do: {outcome.stderr}'


def preload() -> None:
    "Import once what every door needs; the command line itself imports when it is used."
    import SimpleITK  # noqa: F401

    import regpre_nb.data.folder
    import regpre_nb.paper.studies
    import regpre_nb.use.own
    import regpre_nb.use.register
    import regpre_nb.use.report  # noqa: F401
    from regpre_nb.use.cli import main
    sys.argv, handlers = ['regpre', 'apply', 'a', 'b', 'c'], {n: signal.getsignal(n) for n in (1, 2, 15)}
    with redirect_stderr(io.StringIO()), suppress(SystemExit): main()
    for number, handler in handlers.items(): signal.signal(number, handler)


def try_all(entries: list[Entry], folder: Path) -> list[dict]:
    "Try entries one after the other; a record of each."
    preload()
    os.environ.pop('REGPRE_DATA', None)
    os.environ['REGPRE_FAST'] = '0'  # nothing is compiled
    base, records = sound(folder/'sound'), []
    plain = plain_results(base, folder)
    for number, entry in enumerate(entries):
        outcome = attempt(entry, base, folder/str(number))
        records.append({'name': entry.name, 'kind': entry.kind, 'valid': entry.valid, 'why': entry.why,
                        'fault': fault(entry, outcome, plain.get(entry.door)), **asdict(outcome)})
    return records


def short() -> list[Entry]:
    "Each fault at one door, in turn at another one."
    faults: dict[tuple[str, str], list[Entry]] = {}
    for entry in ENTRIES: faults.setdefault((entry.kind, entry.name.removeprefix(f'{entry.door}: ')), []).append(entry)
    return [same[number % len(same)] for number, same in enumerate(faults.values())]


def try_short(path: str, folder: str) -> None:
    "Try the short list and keep the records as JSON: what a test calls in a forked process."
    Path(path).write_text(json.dumps(try_all(short(), Path(folder))))


def main() -> int:
    "Try all, print what fails, write the summary."
    from regpre_nb.data.files import write_bytes
    only = sys.argv[1] if sys.argv[1:] else ''
    with tempfile.TemporaryDirectory(prefix='corpus-') as folder:
        records = try_all([entry for entry in ENTRIES if only in entry.name], Path(folder))
    for record in records:
        if record['fault']: print(f"{record['name']}: {record['fault']}")
    bad, valid = ([record for record in records if record['valid'] is kind] for kind in (False, True))
    clear, same = (sum(not record['fault'] for record in some) for some in (bad, valid))
    seconds, memory = ([record[name] for record in records] for name in ('seconds', 'megabytes'))
    print(f'{len(bad)} bad inputs, {clear} clear answers; {len(valid)} valid ones, {same} with the plain result; '
          f'at most {max(seconds):.1f} s and {max(memory):.0f} MB, {sum(seconds):.0f} s in all')
    if not only: write_bytes(ROOT/'results'/'faults'/'bad_input.csv', summary(records).encode())
    return int(any(record['fault'] for record in records))


def summary(records: list[dict]) -> str:
    "CSV, a row a kind: tried, valid after all, answered as they should, most seconds and MB."
    lines = ['kind,inputs,valid,answered,most_seconds,most_mb']
    for kind in dict.fromkeys(record['kind'] for record in records):
        own = [record for record in records if record['kind'] == kind]
        counts = len(own), sum(record['valid'] for record in own), sum(not record['fault'] for record in own)
        most = max(record['seconds'] for record in own), max(record['megabytes'] for record in own)
        lines.append('{},{},{},{},{:.1f},{:.0f}'.format(kind, *counts, *most))
    return '\n'.join(lines) + '\n'


if __name__ == '__main__': sys.exit(main())
