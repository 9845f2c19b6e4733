"""Kill, starve and mislead work of every kind, and see that nothing is lost, redone or corrupt, and that it then comes
to the end that it has when nothing happens. `make faults`"""
import argparse
import csv
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from importlib import import_module
from pathlib import Path

os.environ['OMP_NUM_THREADS'] = '1'
os.environ['MPLBACKEND'] = 'agg'
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'tests'))  # made-up data as the tests have them

import nibabel as nib  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import psutil  # noqa: E402
import torch  # noqa: E402
from commands import case, ixi_like, listed, save  # noqa: E402
from numba.core.registry import cpu_target  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from regpre_nb.data.cohorts import load_cohort, stored_image  # noqa: E402
from regpre_nb.data.files import only_process, replacing  # noqa: E402
from regpre_nb.data.ixi import convert_ixi  # noqa: E402
from regpre_nb.learn.training import TrainSettings, fit, read_log, read_metadata, read_tensors  # noqa: E402
from regpre_nb.paper.jobs import Finetune, Pairwise, Pretrain, train  # noqa: E402
from regpre_nb.paper.profiles import PROFILES, load_profile  # noqa: E402
from regpre_nb.paper.studies import all_runs  # noqa: E402
from regpre_nb.use.cli import main  # noqa: E402

for name in ('torch._dynamo', 'regpre_nb.method.kernels', 'SimpleITK', 'regpre_nb.paper.studies'): import_module(name)
cpu_target.target_context.refresh()  # numba's functions, which every child would look up
torch.set_num_threads(1)
STEPS, SAVED = 12, 3  # of every training, and between its checkpoints


def _few_steps(cohort):
    "The profile smoke with more steps, some of which are saved."
    profile = load_profile('smoke', cohort)
    training = replace(profile.pretrain_training, steps=STEPS, checkpoint_every=SAVED, validate_every=4)
    return replace(profile, pretrain_training=training, finetune_training=training)


PROFILES['faults'] = _few_steps


# Children: each is forked from this process, which has everything imported and computes nothing itself

def variables(root: Path) -> dict[str, str]:
    "What a child is told about where things lie."
    return {'REGPRE_DATA': str(root / 'data'), 'REGPRE_CACHE': str(root / 'cache'), 'COLUMNS': '150'}


def start(function: Callable, root: Path, before: Callable = lambda: None) -> int:
    "Fork a child that works in a folder; what it says goes to files beside that. Returns its number."
    child = os.fork()
    if child: return child
    code = 1
    try:
        for number, name in ((1, 'stdout'), (2, 'stderr')):
            os.dup2(os.open(root.with_suffix(f'.{name}'), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), number)
        os.environ.update(variables(root))
        os.chdir(root)
        before()
        function(root)
        code = 0
    except SystemExit as end: code = end.code if isinstance(end.code, int) else 1
    except BaseException: traceback.print_exc()
    finally:
        with suppress(OSError): sys.stderr.flush(), sys.stdout.flush()
        os._exit(code or 0)


def ended(child: int) -> int:
    "The exit code of a child; negative where a signal ended it."
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def alive(child: int) -> bool:
    "Whether a child is still at work; it stays to be waited for."
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def said(root: Path) -> str:
    "What a child wrote to standard error."
    return root.with_suffix('.stderr').read_text(encoding='utf-8', errors='replace').replace('\r', '\n')


def regpre(*arguments: str) -> Callable:
    "The command, for a child."
    def command(root):
        sys.argv = ['regpre', *arguments]
        main()
    return command


# What is done

@dataclass(frozen=True)
class Work:
    "A kind of work: what does it, and how a folder comes to the state in which it begins."
    name: str
    do: Callable[[Path], None]
    prepare: Callable[[Path], None] = lambda root: None
    kills: int = 0  # in `make faults`


def _trained(*keys: str) -> Callable:
    "A folder in which these runs are finished."
    def prepare(root):
        for key in keys: assert ended(start(regpre('train', key, *ASKED), root)) == 0, said(root)
    return prepare


def _unscored(*keys: str) -> Callable:
    "A folder in which the last of these runs is trained, and not scored."
    def prepare(root):
        _trained(*keys)(root)
        folder = next(root.glob(f'runs/*/{keys[-1]}'))
        for name in ('run.json', 'per_subject.csv'): (folder / name).unlink()
    return prepare


ASKED = '--profile', 'faults', '--data', 'folder'
FILES = dict(moving='moving.nii.gz', fixed='fixed.nii.gz', labels='labels.nii.gz', output='out/warped.nii.gz',
             warp='out/warp.nii.gz', inverse='out/inverse.nii.gz', warped='out/warped_labels.nii.gz')
REGISTER = ('register', FILES['moving'], FILES['fixed'], '-o', FILES['output'], '--warp', FILES['warp'],
            '--inverse-warp', FILES['inverse'], '--labels', FILES['labels'], '--warped-labels', FILES['warped'],
            '--model', 'none', '--steps', '4')


def _two_images(root: Path) -> None:
    "Images to be registered, and the labels of one."
    (root / 'out').mkdir()
    (moving, labels), (fixed, _) = case('1'), case('2')
    for name, voxels in (('moving', moving), ('labels', labels), ('fixed', fixed)): save(root / FILES[name], voxels)


def _small_fit(root: Path) -> None:
    "A training with so little to compute that much of its time goes into writing."
    def make_batch(number, generator): return {'x': torch.randn(2, 1, 8, 8, 8, generator=generator)}
    def loss(model, batch): return (model(batch['x']) - batch['x'].mean()).square().mean(), {}
    def validate(model): return {'score': -float(loss(model, make_batch(0, torch.Generator().manual_seed(1)))[0])}

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Conv3d(1, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.Dropout(0.1),
                                    torch.nn.Conv3d(16, 1, 3, padding=1))
    settings = TrainSettings(steps=8 * STEPS, checkpoint_every=SAVED, validate_every=10, log_every=1)
    folder = root / 'runs' / 'x' / 'small'
    with only_process(folder): fit(model, loss, make_batch, settings, folder, validate, progress=False)


def _some_ixi(root: Path) -> None:
    "Pickles in IXI's format."
    ixi_like(root / 'published', marked=False)


def _caches(root: Path) -> None:
    "Convert what was published, and keep images as they are read."
    source = next((root / 'published').rglob('IXI_data'), root / 'published')
    convert_ixi(source, root / 'data' / 'IXI_nifti', False)
    cohort = replace(load_cohort('folder'), keep=False)
    for name in (*cohort.train, *cohort.validation): stored_image(cohort, name)


def _keys(root: Path) -> None:
    "Write which runs there are, for the parent, which loads no data."
    runs = all_runs('faults', load_cohort('folder'), 0)
    fine = next(run for run in runs if isinstance(run, Finetune) and run.start)
    optimised = next(run for run in runs if isinstance(run, Pairwise) and run.task.method == 'instance')
    assert isinstance(fine.start, Pretrain)
    (root / 'keys.json').write_text(json.dumps([fine.start.key, fine.key, optimised.key]), encoding='utf-8')


def works(root: Path) -> list[Work]:
    "Every kind of work but a reproduction; `root` holds data."
    assert ended(start(_keys, root)) == 0, said(root)
    pretraining, fine, optimised = json.loads((root / 'keys.json').read_text(encoding='utf-8'))
    (root / 'keys.json').unlink()
    return [
        Work('pretraining', regpre('train', pretraining, *ASKED), kills=8),
        Work('fine-tuning', regpre('train', fine, *ASKED), _trained(pretraining), kills=8),
        Work('evaluation', regpre('train', fine, *ASKED), _unscored(pretraining, fine), kills=6),
        Work('pairwise registration', regpre('train', optimised, *ASKED), kills=8),
        Work('regpre register', regpre(*REGISTER), _two_images, kills=6),
        Work('write of a checkpoint', _small_fit, kills=12),
        Work('build of a cache', _caches, _some_ixi, kills=6)]


# What is looked at

def visible(root: Path) -> Iterator[Path]:
    "Files under their own names; unfinished ones and locks are hidden."
    for path in sorted(root.rglob('*')):
        if path.is_file() and not any(part.startswith('.') and part != '.tuning' for part in
                                      path.relative_to(root).parts): yield path


def _table(path: Path) -> str:
    "A CSV file, read; rows that end early raise."
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    if frame.empty or not path.read_bytes().endswith(b'\n'): raise ValueError('ends early')
    return frame.to_csv()


def _tensors(path: Path) -> str:
    "Names and numbers of a file of weights; its checksum is compared."
    tensors = read_tensors(path)
    return json.dumps({name: sha256(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy()).hexdigest()
                       for name in sorted(tensors)})


def _volume(path: Path) -> str:
    "Voxels and affine of a NIfTI file."
    image = nib.load(path)
    return sha256(np.asarray(image.dataobj).tobytes() + image.affine.tobytes()).hexdigest()


def _arrays(path: Path) -> str:
    "Every array of an .npz file."
    with np.load(path) as file: return json.dumps({name: sha256(file[name].tobytes()).hexdigest() for name in file})


def _whole_text(end: str) -> Callable:
    "What reads a text that ends in a certain way."
    def read(path):
        if not path.read_text(encoding='utf-8').rstrip().endswith(end): raise ValueError('ends early')
        return ''
    return read


def _lines(path: Path) -> str:
    "The lines of a log but for the time; the package leaves out one that is half written."
    return read_log(path).drop(columns='seconds', errors='ignore').to_csv()


READERS = {'.safetensors': _tensors, '.csv': _table, '.npz': _arrays, '.gz': _volume, '.nii': _volume, '.jsonl': _lines,
           '.npy': lambda path: sha256(np.load(path).tobytes()).hexdigest(),
           '.json': lambda path: str(json.loads(path.read_text(encoding='utf-8')) and ''), '.ipynb': _whole_text('}'),
           '.html': _whole_text('</html>'), '.md': _whole_text('')}
OWN = 'cost.csv', 'tuning.csv'  # hold times
PASSING = 'failed.txt', 'output.txt', 'bad_step.json', 'bad_step.safetensors'
BY_PLACE = 'fingerprints', 'grids'  # folders of the cache; what is in them follows from where files lie, and from times


def corrupt(root: Path) -> list[str]:
    "Files that cannot be read to their end."
    found = []
    for path in visible(root):
        if 'data' in path.relative_to(root).parts[:1] and not path.name.endswith('.nii.gz'): continue
        try: READERS.get(path.suffix, lambda path: '')(path)
        except Exception as error: found.append(f'{path.relative_to(root)}: {type(error).__name__} {error}')
    return found


def outcome(root: Path, logs: bool = True) -> dict[str, str]:
    "What the files say, by their names; times are left out."
    names = {path.relative_to(root).as_posix(): path for path in visible(root)
             if path.name not in PASSING and path.parent.name not in BY_PLACE}
    return {name: '' if path.name in OWN or (path.name == 'log.jsonl' and not logs)
            else READERS.get(path.suffix, lambda path: '')(path) for name, path in names.items()}


def _settled(root: Path) -> Iterator[Path]:
    "Files that are finished: not those in the folder of a run that is under way, but for weights that it has noted."
    for path in visible(root):
        parts = path.relative_to(root).parts
        if parts[0] in ('published', 'out') or path.name in PASSING or path.parent.name == 'grids': continue
        if parts[0] == 'runs' and len(parts) == 4 and not (path.parent / 'run.json').exists():
            with suppress(OSError, ValueError):
                noted = json.loads((path.parent / 'made_from.json').read_text(encoding='utf-8'))
                if path.name in noted.get('weights', {}): yield path
            continue
        yield path


def settled(root: Path) -> dict[Path, tuple[int, int]]:
    "Finished files, each with its inode and the time at which it was written."
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in _settled(root)}


def lost_steps(root: Path, signalled: bool = False) -> list[str]:
    "Runs whose checkpoint is further behind the log than one that was being written; after a signal, behind at all."
    found = []
    for log in root.glob('runs/*/*/log.jsonl'):
        lines = read_log(log)
        logged = int(lines['step'].max()) if len(lines) else 0
        last = log.with_name('last.safetensors')
        step = read_metadata(last)['step'] if last.exists() else 0
        if step < (logged if signalled else (logged - 1) // SAVED * SAVED):
            found.append(f'{log.parent.name}: the log is at step {logged}, the checkpoint at {step}')
    return found


# What is found

@dataclass
class Tally:
    "What came of the tries of one fault with one kind of work."
    fault: str
    work: str
    tries: int = 0
    survived: int = 0
    lost: int = 0       # files, or steps of training, that had been there
    redone: int = 0     # finished files that were written again
    corrupt: int = 0    # files that could not be read
    different: int = 0  # files other than those of the uninterrupted work
    unclear: int = 0    # ends without a sentence, or with another exit code
    skipped: str = ''   # why it was not tried
    notes: list[str] = field(default_factory=list)

    def note(self, **found: list[str]) -> bool:
        "Count a try; whether nothing was wrong."
        for name, problems in found.items():
            setattr(self, name, getattr(self, name) + len(problems))
            self.notes += [f'{self.fault}, {self.work}: {name}: {problem}' for problem in problems[:3]]
        self.tries += 1
        self.survived += not any(found.values())
        return not any(found.values())


@dataclass
class Place:
    "Where one kind of work is tried, how it ends when nothing happens, and how long that takes."
    work: Work
    base: Path
    end: dict[str, str]
    seconds: float
    writes: int

    def copy(self, root: Path) -> Path:
        "The folder in which it begins, under another name."
        shutil.rmtree(root, ignore_errors=True)
        return shutil.copytree(self.base, root)


def _counting(root: Path) -> Callable:
    "Let a child note how many files it renames."
    def before():
        original = os.replace
        root.with_suffix('.writes').unlink(missing_ok=True)

        def counted(*names):
            original(*names)
            with open(root.with_suffix('.writes'), 'a', encoding='utf-8') as file: file.write('.')
        os.replace = counted
    return before


def place_for(work: Work, data: Path, folder: Path) -> Place:
    "Prepare a kind of work, and do it once without a fault."
    base, whole = folder / 'base', folder / 'whole'
    shutil.copytree(data, base)
    work.prepare(base)
    seconds = 100.
    while seconds > 10:  # the first time kernels are compiled
        if whole.exists(): shutil.rmtree(whole)
        shutil.copytree(base, whole)
        before, began = seconds, time.monotonic()
        assert ended(start(work.do, whole, _counting(whole))) == 0, said(whole)
        seconds = time.monotonic() - began
        if seconds > before / 2: break  # it takes so long
    return Place(work, base, outcome(whole), seconds, whole.with_suffix('.writes').stat().st_size)


def _differences(place: Place, root: Path, logs: bool) -> list[str]:
    "Files that are not those of the uninterrupted work."
    found, wanted = outcome(root, logs), place.end
    if not logs: wanted = {name: '' if name.endswith('/log.jsonl') else text for name, text in wanted.items()}
    return [name for name in sorted(found.keys() | wanted.keys()) if found.get(name) != wanted.get(name)]


def go_on(place: Place, root: Path, tally: Tally, broken: list[str], lost: list[str], unclear: list[str] = (),
          logs: bool = True, seen: dict | None = None) -> bool:
    "Do the rest of the work, and note what came of the fault before it."
    seen = settled(root) if seen is None else seen
    code = ended(start(place.work.do, root))
    if code:
        unclear = [*unclear, f'does not go on ({code}): {said(root)[-600:]}']
        return tally.note(corrupt=broken, lost=lost, unclear=unclear)
    now = settled(root)
    lost = [*lost, *(str(path.relative_to(root)) for path in seen if path not in now)]
    redone = [str(path.relative_to(root)) for path, stamp in seen.items() if now.get(path, stamp) != stamp]
    left = [str(path.relative_to(root)) for path in root.glob('runs/*/*/.unfinished-*')]
    return tally.note(corrupt=[*broken, *corrupt(root)], lost=lost, redone=redone, unclear=[*unclear, *left],
                      different=_differences(place, root, logs))


# Kills

def _die(how: str, number: int) -> Callable:
    "Let a child kill itself at the file of this number, in one of the `MOMENTS`."
    def before():
        calls = Counter()

        def fatal(owner, name, late):
            original = getattr(owner, name)

            def called(*arguments, **options):
                calls[name] += 1
                if calls[name] == number and not late: os.kill(os.getpid(), signal.SIGKILL)
                result = original(*arguments, **options)
                if calls[name] == number: os.kill(os.getpid(), signal.SIGKILL)
                return result
            setattr(owner, name, called)

        def half(path, content):
            calls['half'] += 1
            last = calls['half'] == number
            with open(path, 'wb') as file: file.write(content[:len(content) // 2] if last else content)
            if last: os.kill(os.getpid(), signal.SIGKILL)

        if how == 'half written': Path.write_bytes = half
        else: fatal(os, 'fsync' if how == 'before fsync' else 'replace', how == 'after rename')
    return before


MOMENTS = 'half written', 'before fsync', 'before rename', 'after rename'


def _killed(place: Place, root: Path, chance: random.Random) -> bool:
    "Begin, or go on, and kill; whether it had not ended by itself."
    if place.work.name == 'write of a checkpoint':
        left = place.writes if not (root / 'runs').exists() else place.writes // 2
        child = start(place.work.do, root, _die(chance.choice(MOMENTS), chance.randint(1, left)))
    else:
        child = start(place.work.do, root)
        time.sleep(chance.uniform(0.02, place.seconds))
        os.kill(child, signal.SIGKILL)
    return ended(child) == -signal.SIGKILL


def kill(place: Place, folder: Path, chance: random.Random, kills: int) -> Tally:
    "Kill a kind of work some times, once or twice on its way to the end."
    tally, left = Tally('SIGKILL', place.work.name), kills
    while left:
        root, broken, lost, seen = place.copy(folder / 'killed'), [], [], {}
        for _ in range(min(left, chance.randint(1, 2))):
            if not _killed(place, root, chance): break  # it was too late
            left -= 1
            broken, lost = broken + corrupt(root), lost + lost_steps(root)
            now = settled(root)
            lost += [str(path.relative_to(root)) for path in seen if path not in now]
            seen = now
            tally.tries, tally.survived = tally.tries + 1, tally.survived + 1
        else:
            tally.tries, tally.survived = tally.tries - 1, tally.survived - 1  # `go_on` counts the last one
            go_on(place, root, tally, broken, lost)
    return tally


# Faults of other kinds: each yields around the work, which is under way or about to begin; what follows mends it

class CannotTry(Exception):
    "A fault that this machine or user cannot make."


def _mount(*arguments: str) -> None:
    "Call mount."
    done = subprocess.run(['mount', *arguments], capture_output=True, text=True)
    if done.returncode: raise CannotTry(f'mount is refused: {done.stderr.strip()[:80]}')


def _space(root: Path) -> int:
    "Bytes of all files, in pages."
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in root.rglob('*') if path.is_file())


@contextmanager
def _nothing(*_) -> Iterator[Callable]:
    yield lambda: None


@contextmanager
def full_disk(place: Place, root: Path, chance: random.Random) -> Iterator[Callable]:
    "A small file system that has room for a part of what is written."
    grown = _space(place.base.parent / 'whole') - _space(place.base)
    size = _space(root) + 4096 * len([*root.rglob('*')]) + int(chance.uniform(0.05, 0.9) * grown)
    root.mkdir(exist_ok=True)
    away = root.with_name('away')
    root.rename(away)
    root.mkdir()
    _mount('-t', 'tmpfs', '-o', f'size={size}', 'none', str(root))
    try:
        shutil.copytree(away, root, dirs_exist_ok=True)
        yield lambda: None
    finally:
        shutil.rmtree(away)
        shutil.copytree(root, away)
        subprocess.run(['umount', str(root)], check=True)
        root.rmdir()
        away.rename(root)


@contextmanager
def small_files(place: Place, root: Path, chance: random.Random) -> Iterator[Callable]:
    "No file may be larger than a part of the largest one."
    largest = max(path.stat().st_size for path in visible(place.base.parent / 'whole'))
    limit = int(chance.uniform(0.01, 0.9) * largest)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


@contextmanager
def read_only(place: Place, root: Path, chance: random.Random) -> Iterator[Callable]:
    "The folder is mounted again, to be read only."
    _mount('--bind', str(root), str(root))
    try:
        _mount('-o', 'remount,ro,bind', str(root))
        yield lambda: None
    finally: subprocess.run(['umount', str(root)], check=True)


@contextmanager
def no_rights(place: Place, root: Path, chance: random.Random) -> Iterator[Callable]:
    "Another user, who may read and not write."
    if os.geteuid(): raise CannotTry('only root can become another user')
    for path in (root, root.parent, root.parent.parent): path.chmod(path.stat().st_mode | 0o055)  # of this harness
    yield lambda: os.setuid(65534)


@contextmanager
def little_memory(place: Place, root: Path, chance: random.Random) -> Iterator[Callable]:
    "A little more memory than the child has when it begins."
    more = int(chance.uniform(2e6, 2e8))

    def before():
        limit = psutil.Process().memory_info().vms + more
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    yield before


@contextmanager
def moved_clock(place: Place, root: Path, chance: random.Random) -> Iterator[Callable]:
    "A clock that jumps by days at each look, and files of all ages."
    for path in [*root.rglob('*')]:
        if path.is_file(): os.utime(path, (0, chance.uniform(-1, 1) * 1e6 + time.time()))
    seed = chance.random()

    def before():
        jumps, real = random.Random(seed), time.time
        time.time = lambda: real() + jumps.uniform(-3e5, 3e5)
        time.time_ns = lambda: int(time.time() * 1e9)
    yield before


@dataclass(frozen=True)
class Fault:
    "A fault: what makes it, what happens in the middle, and how the command may end."
    name: str
    around: Callable
    codes: tuple[int, ...]
    middle: Callable[[int, Path], None] | None = None  # gets the number of the child and its folder
    after: Callable[[Path], None] = lambda root: None


def _send(number: int) -> Callable:
    "A signal, in the middle."
    return lambda child, root: os.kill(child, number)


def _take_away(child: int, root: Path) -> None:
    "Rename the folder with the data."
    (root / 'data').rename(root / 'gone')


def _put_back(root: Path) -> None:
    "Put it back, in place of what may lie there."
    shutil.rmtree(root / 'data', ignore_errors=True)
    (root / 'gone').rename(root / 'data')


FAULTS = (
    Fault('full disk', full_disk, (0, 2)),
    Fault('files limited in size', small_files, (0, 2)),
    Fault('read-only folder', read_only, (2,)),
    Fault('no right to write', no_rights, (2,)),
    Fault('data taken away', _nothing, (0, 2), _take_away, _put_back),
    Fault('little memory', little_memory, (0, 2)),
    Fault('SIGTERM', _nothing, (0, 143), _send(signal.SIGTERM)),
    Fault('Ctrl-C', _nothing, (0, 130), _send(signal.SIGINT)),
    Fault('moved clock', moved_clock, (0,)))


def _sentence(fault: Fault, code: int, text: str) -> list[str]:
    "What is wrong with how a command ended."
    last = next((line for line in text.splitlines()[::-1] if line.strip()), '')
    begins = 'Stopped; the same command ' if code > 128 else 'regpre: ' if code else ''
    if code not in fault.codes or 'Traceback' in text: return [f'exit code {code}: {text[-400:]}']
    return [] if last.startswith(begins) else [f'exit code {code} without a sentence: {text[-400:]}']


def suffer(place: Place, folder: Path, chance: random.Random, fault: Fault, tries: int) -> Tally:
    "Try a fault with a kind of work."
    tally = Tally(fault.name, place.work.name)
    for _ in range(tries):
        root = place.copy(folder / 'hurt')
        try:
            with fault.around(place, root, chance) as before:
                seen = settled(root)
                child = start(place.work.do, root, before)
                if fault.middle:
                    time.sleep(chance.uniform(0.02, place.seconds))
                    if alive(child): fault.middle(child, root)
                code = ended(child)
        except CannotTry as reason:
            tally.skipped = str(reason)
            return tally
        if (root / 'gone').exists(): fault.after(root)
        _one_outcome(place, root, tally, fault, code, seen)
    return tally


def _one_outcome(place: Place, root: Path, tally: Tally, fault: Fault, code: int, seen: dict) -> None:
    "Look at a folder after a fault, go on, and look again."
    unclear = _sentence(fault, code, said(root)) if place.work.name != 'write of a checkpoint' else []
    signalled = code > 128 and place.work.name in ('pretraining', 'fine-tuning')
    lost = lost_steps(root, signalled)
    moved = fault.name == 'full disk'  # the files were copied
    go_on(place, root, tally, corrupt(root), lost, unclear, logs=not signalled, seen={} if moved else None)


# A reproduction

def _project(root: Path) -> None:
    "A folder that passes for a clone."
    for folder in ('nbs/studies', 'results/paper'): shutil.copytree(ROOT / folder, root / folder)
    shutil.copy(ROOT / 'Snakefile', root / 'Snakefile')


def _every_run(root: Path) -> None:
    "All runs of a reproduction, one after the other, without Snakemake."
    for run in all_runs('smoke', load_cohort('folder'), 0): train(run, root, progress=False)


def _reproduce(root: Path) -> subprocess.Popen:
    "Start the installed command."
    command = [str(Path(sys.executable).parent / 'regpre'), 'reproduce', '--profile', 'smoke', '--data', 'folder']
    with open(root.with_suffix('.stderr'), 'w', encoding='utf-8') as file:
        return subprocess.Popen(command, cwd=root, env=os.environ | variables(root), stdout=subprocess.DEVNULL,
                                stderr=file, start_new_session=True)


def _kill_reproduction(root: Path, chance: random.Random, seconds: float) -> list[str]:
    "Kill the command, Snakemake or a process that trains; what lives on."
    process = _reproduce(root)
    time.sleep(chance.uniform(6, seconds))
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    if process.poll() is not None: return [f'had ended before it was killed: {said(root)[-400:]}']
    with suppress(psutil.NoSuchProcess): chance.choice(family[:1] + family).kill()
    time.sleep(0.5)
    with suppress(psutil.NoSuchProcess): family[0].kill()
    process.wait()
    return [f'{each.pid} lives on' for each in psutil.wait_procs(family, timeout=60)[1]]


def kill_reproduction(data: Path, folder: Path, chance: random.Random, kills: int, seconds: float = 40) -> Tally:
    "Kill a reproduction some times, then let it come to its end."
    tally, root, whole = Tally('SIGKILL', 'reproduction'), folder / 'project', folder / 'whole'
    assert ended(start(_every_run, shutil.copytree(data, whole))) == 0, said(whole)
    _project(shutil.copytree(data, root))
    broken, lost, redone, unclear, seen = [], [], [], [], {}
    for _ in range(kills):
        unclear += _kill_reproduction(root, chance, seconds)
        broken, (gone, again) = broken + corrupt(root), _changed(seen)
        lost, redone, seen = lost + gone, redone + again, _of_runs(root)
    code = _reproduce(root).wait()
    if code: unclear.append(f'exit code {code}: {said(root)[-800:]}')
    gone, again = _changed(seen)
    runs = {name: text for name, text in outcome(root).items() if name.startswith('runs/')}
    wanted = {name: text for name, text in outcome(whole).items() if name.startswith('runs/')}
    different = [name for name, text in wanted.items() if runs.get(name) != text and not name.endswith('.txt')]
    tally.tries = tally.survived = kills - 1
    tally.note(corrupt=broken + corrupt(root), lost=lost + gone, redone=redone + again, different=different,
               unclear=unclear)
    return tally


def _of_runs(root: Path) -> dict:
    "What is finished of the runs; without their marks, which Snakemake removes where it has not seen the end of a job."
    return {path: stamp for path, stamp in settled(root).items() if path.is_relative_to(root / 'runs')
            and len(path.relative_to(root).parts) > 3 and path.name != 'run.json'}


def _changed(seen: dict) -> tuple[list[str], list[str]]:
    "Of files that were finished, those that are gone and those that were written again."
    there = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in seen if path.exists()}
    return [str(path) for path in seen if path not in there], [
        str(path) for path, stamp in there.items() if stamp != seen[path]]


# The whole

SHOWN = 'fault', 'work', 'tries', 'survived', 'lost', 'redone', 'corrupt', 'different', 'unclear', 'skipped'


def show(tallies: list[Tally]) -> None:
    "Print the table, its sums, and what was wrong."
    table = Table(title='Faults')
    for name in SHOWN: table.add_column(name)
    for tally in tallies: table.add_row(*(str(getattr(tally, name)) for name in SHOWN))
    sums = [str(sum(getattr(tally, name) for tally in tallies)) for name in SHOWN[2:-1]]
    table.add_section()
    table.add_row('all', '', *sums, '')
    Console(width=150).print(table)
    for tally in tallies:
        for note in tally.notes: print(note)


def write(tallies: list[Tally], path: Path) -> None:
    "Write the table."
    with replacing(path) as temporary, open(temporary, 'w', newline='', encoding='utf-8') as file:
        rows = [[getattr(tally, name) for name in SHOWN] for tally in tallies]
        csv.writer(file, lineterminator='\n').writerows([SHOWN, *rows])


def every(folder: Path, chance: random.Random, share: float, tries: int, only: str = '') -> Iterator[Tally]:
    "All faults with all kinds of work; `share` of the kills."
    data = folder / 'data_only'
    listed(data / 'data')
    for work in works(data):
        names = 'SIGKILL', *(fault.name for fault in FAULTS)
        wanted = {name for name in names if re.search(only, f'{name} {work.name}')}
        if not wanted: continue
        place = place_for(work, data, folder / work.name.replace(' ', '_'))
        kills = round(work.kills * share)
        if kills and 'SIGKILL' in wanted: yield kill(place, folder, chance, kills)
        for fault in FAULTS:
            if tries and fault.name in wanted and _makes_sense(fault, work):
                yield suffer(place, folder, chance, fault, tries)
        shutil.rmtree(folder / work.name.replace(' ', '_'))
    if share >= 1 and re.search(only, 'SIGKILL reproduction'):
        (folder / 'reproduction').mkdir()
        yield kill_reproduction(data, folder / 'reproduction', chance, 4)


def _makes_sense(fault: Fault, work: Work) -> bool:
    "Commands are what has sentences and exit codes; random pairs need no data."
    if work.name in ('write of a checkpoint', 'build of a cache'): return False
    return fault.name != 'data taken away' or work.name in ('fine-tuning', 'evaluation', 'pairwise registration')


def parsed() -> argparse.Namespace:
    "What is asked for."
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--seed', type=int, default=random.randrange(10_000), help='of all that is random')
    parser.add_argument('--share', type=float, default=1.0, help='of the kills; below 1 no reproduction')
    parser.add_argument('--tries', type=int, default=2, help='of each other fault with each kind of work')
    parser.add_argument('--only', default='', help='pattern of "FAULT WORK", such as "SIGKILL pre"')
    parser.add_argument('--out', type=Path, default=ROOT / 'results' / 'faults' / 'faults.csv', help='the table')
    return parser.parse_args()


def run(seed: int, share: float, tries: int, only: str, out: Path) -> int:
    "Everything; 1 where something was wrong."
    print(f'seed {seed}', flush=True)
    tallies = []
    with tempfile.TemporaryDirectory(prefix='regpre-faults-') as folder:
        for tally in every(Path(folder).resolve(), random.Random(seed), share, tries, only):
            print(f'{tally.fault}, {tally.work}: {tally.skipped or f"{tally.survived} of {tally.tries}"}', flush=True)
            tallies.append(tally)
    show(tallies)
    write(tallies, out)
    return int(any(tally.survived < tally.tries for tally in tallies) or not tallies)


if __name__ == '__main__':
    asked = parsed()
    sys.exit(run(asked.seed, asked.share, asked.tries, asked.only, asked.out))
