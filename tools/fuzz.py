"""Feed readers with what a coverage-guided fuzzer makes of the corpus of bad files: only an `InputError` may come out.

`python tools/fuzz.py --seconds 600` runs every target in turn, `python tools/fuzz.py --seconds 60 pickle volume` some.
Results are kept in results/faults/fuzz.csv, inputs that crash in runs/fuzz. Needs atheris, which there is for Linux.
"""
import argparse
import gzip
import os
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT/'results'/'faults'/'fuzz.csv'
COLUMNS = 'target', 'executions', 'seconds', 'crashes'
SEEDS = {  # target -> doors of the corpus whose files it starts from
    'volume': ('register', 'apply', 'image'), 'packed volume': ('register', 'image'),
    'label map': ('evaluate', 'label map'), 'warp': ('jacobian',), 'affine map': ('compose',), 'pickle': (),
    'weights': ('model', 'finetune'), 'described weights': ('model', 'finetune'), 'released weights': (),
    'rows': ('manifest', 'points', 'structures'), 'manifest': ('manifest',), 'structures': ('structures',),
    'points': ('points',), 'landmarks': ('points',), 'scan': (), 'settings': (), 'own settings': (), 'log': (),
    'config': ()}


# Targets: a function of a path, and what its name ends in

def _targets() -> dict[str, tuple[str, Callable[[Path], object]]]:
    "Readers by name; imported here, so that the fuzzer can watch their branches."
    from dataclasses import replace

    from regpre_nb.data import dirlab, files, folder, ixi, volumes
    from regpre_nb.learn import training, weights
    from regpre_nb.method import encoders, released, settings, swin, transmorph
    from regpre_nb.use import own, register, transforms
    def config(path: Path) -> None:
        content = path.read_bytes()
        (path.parent/'config.json').write_bytes(content)
        weights._check_config(path.parent/'model.safetensors')

    def changed(path: Path) -> None:
        said = files.read_json(path)
        for kind in (swin.TransMorphSettings, encoders.CNNSettings, encoders.SwinUNETRSettings):
            try: settings.from_json(kind, said)
            except settings.InputError: pass

    def text(path: Path) -> str: return path.read_text(errors='replace', encoding='utf-8')

    network = transmorph.TransMorph(replace(swin.SETTINGS['tiny'], preset='released'))
    kind = swin.ENCODERS['cnn']
    scans = {1: dirlab.DIRLAB[1]._replace(size=(4, 5, 6))}
    return {
        'volume': ('.nii', lambda path: (register.as_volume(path, 'moving'), volumes.load_grid(path))),
        'packed volume': ('.nii.gz', volumes.load_volume),
        'label map': ('.nii', lambda path: volumes.load_volume(path, labels=True)),
        'warp': ('.nii', lambda path: transforms.is_transform(path) and transforms.load_warp(path)),
        'affine map': ('.txt', transforms.load_affine), 'pickle': ('.pkl', ixi.read_arrays),
        'weights': ('.safetensors', lambda path: (training.read_metadata(path), training.read_tensors(path))),
        'described weights': ('.safetensors', lambda path: (weights.from_pretrained(path),
                                                            own.described_encoder(path, ''))),
        'released weights': ('.pth.tar', lambda path: released.load_authors_checkpoint(network, path)),
        'rows': ('.csv', lambda path: (files.read_rows(path), files.read_table(path))),
        'manifest': ('.csv', folder.read_manifest), 'structures': ('.csv', folder.read_structures),
        'points': ('.csv', transforms.read_points),
        'landmarks': ('.txt', lambda path: dirlab.read_points(path, (40, 50, 60))),
        'scan': ('.img', lambda path: dirlab.read_scan(path, 1, scans)),
        'settings': ('.json', changed), 'own settings': ('.json', lambda path: own.encoder_settings(
            kind, swin.SETTINGS['tiny'], None, text(path))),
        'log': ('.jsonl', training.read_log), 'config': ('.json', config),
    }


# Seeds

def _of_doors(doors: tuple[str, ...], folder: Path, unpack: bool) -> list[bytes]:
    "The small files that the corpus spoils at these doors, and the sound ones."
    import corpus
    found = []
    for number, entry in enumerate(entry for entry in corpus.ENTRIES if entry.door in doors):
        own = corpus.fresh(folder/'sound', folder/str(number))
        try: entry.spoil(own/corpus.DOORS[entry.door][0])
        except Exception: continue  # noqa: S112 (what suits a large file only)
        path = own/corpus.DOORS[entry.door][0]
        if path.is_file() and path.stat().st_size < 2**15: found.append(path.read_bytes())
    found += [(folder/'sound'/corpus.DOORS[door][0]).read_bytes() for door in doors]
    return found + [_unpacked(each) for each in found if unpack]


def _unpacked(content: bytes) -> bytes:
    "Without gzip, if it can be unpacked."
    try: return gzip.decompress(content)
    except Exception: return content


def _more(target: str, folder: Path) -> list[bytes]:
    "Seeds that the corpus lacks."
    import io
    import json
    import pickle

    import numpy as np
    import torch
    arrays = np.zeros((2, 3, 4), np.float32), np.ones((2, 3, 4), np.int16)
    if target == 'pickle': return [pickle.dumps(each, n) for each in (arrays, arrays[0]) for n in range(6)]
    if target == 'released weights':
        stream = io.BytesIO()
        torch.save({'state_dict': {'a': torch.zeros(2)}}, stream)
        return [stream.getvalue(), pickle.dumps({'state_dict': 1})]
    if target == 'scan': return [np.arange(120, dtype='<i2').tobytes(), b'']
    if target == 'landmarks': return [b'1 2 3\n'*300, b'1\t2\t3\r\n', b'x y z\n']
    if target == 'log': return [b'{"step": 1, "loss": 0.5}\n{"step": 2}\n', b'[]\n']
    said = {'channels': [4, 4], 'convolutions': 1}, {'depths': [1], 'heads': [2], 'preset': 'paper'}, {'sha256': '0'}
    return [json.dumps(each).encode() for each in said] if target in ('settings', 'own settings', 'config') else []


def write_seeds(target: str, folder: Path) -> Path:
    "A folder of files to start from."
    sys.path.insert(0, str(ROOT/'tests'))
    import corpus
    corpus.SHAPE = 4, 5, 6  # few voxels: headers are what matters
    out = folder/'seeds'
    out.mkdir()
    corpus.sound(folder/'sound')
    doors = SEEDS[target]
    for number, content in enumerate([*_of_doors(doors, folder, target in ('volume', 'label map', 'warp')),
                                      *_more(target, folder)]):
        (out/str(number)).write_bytes(content)
    return out


# Fuzzing

class Crashes:
    "Errors that no user should see, one file for each place where they are raised."

    def __init__(self, folder: Path): self.folder, self.places = folder, set()

    def keep(self, data: bytes, error: BaseException) -> None:
        "Write the input and the traceback, the first time."
        frames = traceback.extract_tb(error.__traceback__)
        place = type(error).__name__, *((frame.filename, frame.lineno) for frame in frames[-3:])
        if place in self.places: return
        self.places.add(place)
        name = f'{type(error).__name__}-{len(self.places)}-{os.getpid()}'
        (self.folder/name).write_bytes(data)
        (self.folder/f'{name}.txt').write_text(''.join(traceback.format_exception(error)), encoding='utf-8')
        print(f'CRASH {type(error).__name__}: {error}'[:300].replace('\n', ' '), file=sys.__stderr__, flush=True)


def fuzz(target: str, seconds: int) -> None:
    "Fuzz a target in this process, which ends."
    import atheris
    with atheris.instrument_imports(include=['regpre_nb', 'nibabel', 'safetensors', 'json', 'csv', 'gzip', 'pickle']):
        suffix, read = _targets()[target]
        from regpre_nb.method.settings import InputError
    kept = ROOT/'runs'/'fuzz'/target.replace(' ', '_')
    kept.mkdir(parents=True, exist_ok=True)
    memory = Path('/dev/shm')  # noqa: S108 (a folder of our own is made in it)
    place = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None, prefix='fuzz-'))
    path, crashes, nothing = place/f'input{suffix}', Crashes(kept), open(os.devnull, 'w', encoding='utf-8')

    def one_input(data: bytes) -> None:
        path.write_bytes(data)
        try:
            with redirect_stdout(nothing), redirect_stderr(nothing): read(path)
        except InputError: pass
        except Exception as error: crashes.keep(data, error)

    with tempfile.TemporaryDirectory() as folder:
        seeds = write_seeds(target, Path(folder))
        atheris.Setup([sys.argv[0], str(seeds), f'-max_total_time={seconds}', '-timeout=20', '-rss_limit_mb=3000',
                       '-max_len=8192', '-print_final_stats=1', f'-artifact_prefix={kept}/'], one_input)
        atheris.Fuzz()


def run(target: str, seconds: int) -> dict[str, object]:
    "Fuzz a target in another process, again and again where it dies; a row of the table."
    executions, crashes, started, log = 0, 0, time.time(), ''
    while (left := round(seconds - (time.time() - started))) > 0:
        done = subprocess.run([sys.executable, __file__, '--target', target, '--seconds', str(left)], cwd=ROOT,
                              capture_output=True, text=True, errors='replace',
                              env=os.environ | {'OMP_NUM_THREADS': '1'})
        log = done.stderr
        counts = [int(n) for n in re.findall(r'number_of_executed_units: (\d+)', log)] or [
            max(map(int, re.findall(r'^#(\d+)\t', log, re.M)), default=0)]
        executions, crashes = executions + counts[-1], crashes + len(re.findall('^CRASH ', log, re.M))
        if done.returncode:
            crashes += 1
            print(log[-1500:], file=sys.stderr)
        if not counts[-1]: break
    for line in re.findall('^CRASH .*', log, re.M): print(f'{target}: {line}')
    return dict(zip(COLUMNS, (target, executions, round(time.time() - started), crashes)))


def write_table(row: dict[str, object]) -> None:
    "Put a row in the table, in place of an earlier one of that target."
    from regpre_nb.data.files import read_rows, write_bytes
    rows = {each['target']: each for _, each in read_rows(TABLE, COLUMNS)} if TABLE.is_file() else {}
    rows[row['target']] = row
    lines = [','.join(str(row[name]) for name in COLUMNS) for row in ({n: n for n in COLUMNS}, *rows.values())]
    write_bytes(TABLE, ('\n'.join(lines) + '\n').encode())


def main() -> int:
    "Fuzz what is asked for and keep the table."
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seconds', type=int, default=600, help='for each target')
    parser.add_argument('--target', help='fuzz this one in this process')
    parser.add_argument('targets', nargs='*', help=f'of {", ".join(SEEDS)}; default: all')
    asked = parser.parse_args()
    if asked.target: fuzz(asked.target, asked.seconds)
    crashed = 0
    for target in asked.targets or SEEDS:
        row = run(target, asked.seconds)
        write_table(row)
        print(', '.join(f'{name} {value}' for name, value in row.items()), flush=True)
        crashed += int(row['crashes'])
    return int(crashed > 0)


if __name__ == '__main__': sys.exit(main())
