"""Everything that needs a GPU, in one call on a machine with little time and no network.

    python tools/gpu_check.py wheels                     fetch into .whl/ what such a machine lacks
    python tools/gpu_check.py pack                       copy the files of a cohort into .gpu-data/
    python tools/gpu_check.py run OUT --limit 500        tests, throughput, then runs of a profile until the limit
    python tools/gpu_check.py run OUT --resume-from OLD  go on with the runs that an earlier call left in OLD
    python tools/gpu_check.py trim OUT OLD               of what a call left, only what the next one needs
    python tools/gpu_check.py unpack OUT                 put the runs of a call into runs/ of this clone

On the other machine the wheels are installed into a folder of PYTHONPATH, and REGPRE_DATA names .gpu-data.
OUT gets junit.xml, bench.json (written after each row), profile.txt and runs.tar.000, runs.tar.001, ...
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import zip_longest
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP))

WHEELS = ('nibabel',)  # what the parts that run there import, beyond PyTorch, its friends and the tools of scientists
PLATFORMS = 'manylinux_2_28_x86_64', 'manylinux_2_17_x86_64', 'manylinux2014_x86_64'
MIB = 2**20
PART, PARTS = 15 * MIB, 4      # size of a part of the archive, and how many there may be
SECONDS = {'tests': 120, 'bench': 170, 'register': 60}  # that a stage may take
CLOSING = 12                   # seconds kept for stopping the runs and packing what they left
START = time.monotonic()


def say(stage: str, text: str, since: float | None = None) -> None:
    "One line: seconds since the start, the stage, what it says, how long it took."
    took = '' if since is None else f'  {time.monotonic() - since:.1f} s'
    print(f'{time.monotonic() - START:6.1f} s  {stage:9s} {text}{took}', flush=True)


# What travels

def pinned(package: str) -> str:
    "NAME==VERSION, as constraints.txt says."
    lines = (TOP / 'constraints.txt').read_text(encoding='utf-8').splitlines()
    return next(line for line in lines if line.startswith(f'{package}=='))


def wheels(folder: Path) -> None:
    "Fetch the wheels for Python 3.12 on Linux, x86-64."
    platforms = [argument for name in PLATFORMS for argument in ('--platform', name)]
    subprocess.run([sys.executable, '-m', 'pip', 'download', '-q', '--no-deps', '--only-binary=:all:',
                    '--python-version', '3.12', '--implementation', 'cp', *platforms, '--dest', folder,
                    *map(pinned, WHEELS)], check=True)


def pack(data: Sequence[str], folder: Path) -> int:
    "Copy the files of cohorts, byte for byte and so with the same fingerprint; returns the bytes."
    from regpre_nb.data.cohorts import load_cohort
    root, copied = Path(os.environ['REGPRE_DATA']).resolve(), 0
    for name in data:
        cohort = load_cohort(name)
        files = {Path(p).resolve() for case in cohort.cases for p in cohort.made_from(case) if isinstance(p, Path)}
        tops = {root / path.relative_to(root).parts[0] for path in files}
        tables = {path for top in tops for ending in ('csv', 'json') for path in top.glob(f'*.{ending}')}
        for path in sorted(files | tables):
            target = folder / path.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            copied += path.stat().st_size
    return copied


# Results, written as they come

@dataclass
class Results:
    "What was measured; every change is written."
    path: Path
    content: dict = field(default_factory=lambda: {'environment': {}, 'stages': {}, 'fit': [], 'steps': [],
                                                   'operations': [], 'profile': [], 'register': [], 'runs': {}})

    def add(self, part: str, row: dict) -> None:
        "One more row of a list, or some more entries of a dictionary."
        known = self.content[part]
        known.append(row) if isinstance(known, list) else known.update(row)
        temporary = self.path.with_suffix('.unfinished')
        temporary.write_text(json.dumps(self.content, indent=1, default=str) + '\n', encoding='utf-8')
        os.replace(temporary, self.path)


# Tests

def run_tests(out: Path, device: str | None, limit: float) -> str:
    "The tests that compare the CPU with the GPU; what came of them, in words."
    from regpre_nb.data.files import end_group
    own = {'REGPRE_TEST_DEVICE': 'cpu'} if device == 'cpu' else {'REGPRE_FAST': '0'}  # no time to compile kernels
    variables = os.environ | own | {'PYTEST_DISABLE_PLUGIN_AUTOLOAD': '1'}
    command = [sys.executable, '-m', 'pytest', '-o', 'addopts=', '-p', 'no:cacheprovider', '-q', '--color=no', '-rf',
               '--tb=short', f'--junit-xml={out / "junit.xml"}', 'tests/test_cuda.py']
    with subprocess.Popen(command, cwd=TOP, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          start_new_session=True) as process:
        try: said = process.communicate(timeout=limit)[0]
        except subprocess.TimeoutExpired:
            end_group(process, force=True)
            return f'not finished within {limit:.0f} s'
    lines = [line for line in said.splitlines() if line.strip()]
    for line in lines:
        if line.startswith(('FAILED', 'ERROR', 'not deterministic', 'E  ')): say('tests', line[:200])
    return lines[-1] if lines else f'said nothing, exit code {process.returncode}'


# Throughput

@dataclass(frozen=True)
class Mode:
    "How the arithmetic of a step is done."
    tf32: bool = False
    bf16: bool = False
    channels_last: bool = False


MODES = {'float32': Mode(), 'TF32': Mode(tf32=True), 'bf16': Mode(tf32=True, bf16=True),
         'bf16, channels last': Mode(tf32=True, bf16=True, channels_last=True)}
PAPER = (160, 192, 224)
CUBES = ((128,) * 3, (96,) * 3, (64,) * 3)
STUDIED = 'pretraining', 'registration'


@contextmanager
def allowing_tf32(allowed: bool) -> Iterator[None]:
    "Whether products and convolutions may round their factors to TF32."
    import torch
    flags = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [flag.allow_tf32 for flag in flags]
    for flag in flags: flag.allow_tf32 = allowed
    try: yield
    finally:
        for flag, value in zip(flags, before): flag.allow_tf32 = value


def parts_of(what: str, settings, shape: tuple[int, ...], device):
    "Network, loss and batches of a step of one of the two trainings, by the paper's settings."
    import torch

    from regpre_nb.learn.finetune import FinetuneSettings, registration_loss
    from regpre_nb.learn.pretrain import PretrainSettings, pretraining_loss, random_batches
    from regpre_nb.method.heads import PretrainingNetwork
    from regpre_nb.method.swin import SwinEncoder
    from regpre_nb.method.transmorph import TransMorph
    proxy = PretrainSettings(shape=shape)
    batches = random_batches(proxy)
    if what == 'pretraining':
        return (PretrainingNetwork(SwinEncoder(settings), settings.resolution),
                partial(pretraining_loss, settings=proxy), batches)
    pair = batches(0, torch.Generator(device).manual_seed(0))
    return TransMorph(settings), partial(registration_loss, settings=FinetuneSettings()), lambda *_: pair


class Step:
    "A step of training: batch, loss, gradient, update; nothing waits for the device in between."
    def __init__(self, what: str, settings, shape: tuple[int, ...], device):
        import torch

        from regpre_nb.learn.training import TrainSettings, make_optimiser, share_generator
        torch.manual_seed(0)
        network, self.loss, self.batches = parts_of(what, settings, shape, device)
        self.network, self.device = network.to(device).train(), device
        self.generator = torch.Generator(device).manual_seed(0)
        share_generator(self.network, self.generator)
        self.optimiser = make_optimiser(self.network, TrainSettings(steps=1))

    def __call__(self, mode: Mode) -> None:
        "Take it."
        import torch
        batch = self.batches(0, self.generator)
        if mode.channels_last:
            batch = {name: t.to(memory_format=torch.channels_last_3d) for name, t in batch.items()}
        with torch.autocast(self.device.type, torch.bfloat16, enabled=mode.bf16):
            loss, _ = self.loss(self.network, batch)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()

    @contextmanager
    def set_for(self, mode: Mode) -> Iterator[Callable[[], None]]:
        "The step in a mode, without arguments."
        import torch
        layout = torch.channels_last_3d if mode.channels_last else torch.contiguous_format
        for tensor in self.network.parameters():
            if tensor.ndim == 5: tensor.data = tensor.data.contiguous(memory_format=layout)
        with allowing_tf32(mode.tf32): yield partial(self, mode)


def waited(device) -> float:
    "Seconds on a clock, once the device has done everything that it was asked for."
    import torch
    if device.type == 'cuda': torch.cuda.synchronize(device)
    return time.perf_counter()


def seconds_of(function: Callable, device, least: float = 1.5, warm: int = 2) -> tuple[float, int]:
    "Mean seconds of a call after some that do not count, and how many calls that is the mean of."
    for _ in range(warm): function()
    start = waited(device)
    function()
    count = max(2, min(50, round(least / max(waited(device) - start, 1e-4))))
    start = waited(device)
    for _ in range(count): function()
    return (waited(device) - start) / count, count


def freed(device) -> None:
    "Give back what nobody holds any more."
    import gc

    import torch
    gc.collect()
    if device.type == 'cuda':
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def measured(step: Step, mode: Mode, least: float) -> dict:
    "Seconds and memory of a step; that the memory did not suffice is a result, too."
    import torch
    freed(step.device)
    try:
        with step.set_for(mode) as take: seconds, count = seconds_of(take, step.device, least)
    except torch.OutOfMemoryError: return {'failure': 'out of memory'}
    on_gpu = step.device.type == 'cuda'
    return {'seconds': round(seconds, 5), 'steps_per_second': round(1 / seconds, 3), 'steps': count,
            'peak_gib': round(torch.cuda.max_memory_allocated(step.device) / 2**30, 3) if on_gpu else None}


def bench_steps(results: Results, settings, sizes: Sequence[tuple], device, until: float, least: float) -> None:
    "Every step at every size in every mode, until the time is over."
    for size in sizes:
        for what in STUDIED:
            if time.monotonic() > until: return say('bench', f'no time for {what} at {size}')
            for name, mode in MODES.items():
                if time.monotonic() > until: break
                step = Step(what, settings, size, device)
                row = measured(step, mode, least)
                results.add('steps', {'what': what, 'size': size, 'mode': name} | row)
                say('bench', f'{what:12s} {"x".join(map(str, size)):12s} {name:20s} {row}')
                del step
                freed(device)


FITS = {  # how `fit` may train the networks of a profile -> changes of its settings
    'as the profile says': {}, 'graph, batch 1': {'batch': 1}, 'graph, batch 16': {'batch': 16},
    'plain, batch 1': {'batch': 1, 'graph': False}, 'deterministic': {'deterministic': True}}


def seconds_of_fit(build: Callable, loss: Callable, batches: Callable, training) -> float:
    "Seconds of a step of `fit`, with everything that it does besides, from the first line of its log to the last."
    import torch

    from regpre_nb.learn.training import fit, read_log
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        fit(build(), loss, batches, training, folder, progress=False)
        log = read_log(Path(folder) / 'log.jsonl')
    first, last = log.iloc[0], log.iloc[-1]
    return float((last['seconds'] - first['seconds']) / (last['step'] - first['step']))


def bench_fit(results: Results, profile: str, data: str, modes: Sequence[str], device, steps: int,
              until: float) -> None:
    "How fast `fit` trains the networks of a profile."
    from regpre_nb.data.cohorts import load_cohort
    from regpre_nb.learn.finetune import cohort_batches, registration_loss
    from regpre_nb.learn.pretrain import pretraining_loss, random_batches
    from regpre_nb.method.heads import PretrainingNetwork
    from regpre_nb.method.swin import SwinEncoder
    from regpre_nb.method.transmorph import TransMorph
    from regpre_nb.paper.profiles import load_profile
    cohort = load_cohort(data)
    p = load_profile(profile, cohort)
    asked = {
        'pretraining': (lambda: PretrainingNetwork(SwinEncoder(p.network), p.network.resolution), p.pretrain_training,
                        partial(pretraining_loss, settings=p.pretraining), random_batches(p.pretraining)),
        'registration': (lambda: TransMorph(p.network), p.finetune_training,
                         partial(registration_loss, settings=p.finetuning), cohort_batches(cohort, cohort.train))}
    for name in modes:
        for what, (build, training, loss, batches) in asked.items():
            if time.monotonic() > until: return say('bench', f'no time for {name}')
            training = replace(training, steps=steps, log_every=steps // 4, validate_every=0, **FITS[name])
            freed(device)
            seconds = seconds_of_fit(build, loss, batches, training)
            row = {'what': what, 'profile': profile, 'data': data, 'mode': name, 'seconds': round(seconds, 5),
                   'pairs_per_second': round(training.batch / seconds, 1), 'settings': asdict(training)}
            results.add('fit', row)
            say('bench', f'fit {what:12s} {name:20s} {seconds:.4f} s a step, {row["pairs_per_second"]} pairs a second')


def bench_paper_fit(results: Results, settings, shape: tuple, device, steps: int, until: float) -> None:
    "The same for the paper's networks at the paper's size, step by step and as a graph."
    from regpre_nb.learn.training import TrainSettings
    for graph in (True, False):
        for what in STUDIED:
            if time.monotonic() > until: return say('bench', f'no time for fit {what} at {shape}')
            training = TrainSettings(steps=steps, log_every=steps // 4, precision='bf16', tf32=True, graph=graph)
            network, loss, batches = parts_of(what, settings, shape, device)
            freed(device)
            seconds = seconds_of_fit(lambda: network, loss, batches, training)
            mode = 'bf16, graph' if graph else 'bf16'
            results.add('fit', {'what': what, 'size': shape, 'mode': mode, 'seconds': round(seconds, 5)})
            say('bench', f'fit {what:12s} {"x".join(map(str, shape))} {mode:12s} {seconds:.4f} s a step')


TOGETHER = ((4, 4), (8, 1))  # processes that fine-tune at the same time, pairs in a batch of each
START_UP, LOOKED_AT = 22.0, 6.0  # seconds until all are at work, and for which they are looked at


def pace(profile: str, data: str, batch: int, folder: Path) -> None:
    "Fine-tune the network of a profile until the process is ended; the log tells how fast."
    import torch

    from regpre_nb.data.cohorts import load_cohort
    from regpre_nb.learn.finetune import cohort_batches, registration_loss
    from regpre_nb.learn.training import fit
    from regpre_nb.method.transmorph import TransMorph
    from regpre_nb.paper.profiles import load_profile
    cohort = load_cohort(data)
    p = load_profile(profile, cohort)
    torch.set_num_threads(1)
    training = replace(p.finetune_training, steps=10 ** 6, steps_per_epoch=1000, log_every=10, validate_every=0,
                       batch=batch)
    fit(TransMorph(p.network), partial(registration_loss, settings=p.finetuning),
        cohort_batches(cohort, cohort.train), training, folder, progress=False)


def bench_together(results: Results, profile: str, data: str, until: float) -> None:
    "Pairs a second of several processes on one device."
    from regpre_nb.learn.training import read_log
    for workers, batch in TOGETHER:
        if time.monotonic() + START_UP + LOOKED_AT > until: return say('bench', f'no time for {workers} processes')
        with tempfile.TemporaryDirectory() as root:
            folders = [Path(root) / str(i) for i in range(workers)]
            command = [sys.executable, TOP / 'tools' / 'gpu_check.py', 'pace', profile, data, str(batch)]
            crew = [subprocess.Popen([*command, folder], stdin=subprocess.DEVNULL, start_new_session=True)
                    for folder in folders]
            try: time.sleep(START_UP + LOOKED_AT)
            finally: stop(crew)
            logs = [read_log(path) for folder in folders if (path := folder / 'log.jsonl').exists()]
        late = [log[log['seconds'] > log['seconds'].iloc[-1] - LOOKED_AT] for log in logs]
        ends = [(log.iloc[0], log.iloc[-1]) for log in late if len(log) > 1]
        rates = [batch * (last['step'] - first['step']) / (last['seconds'] - first['seconds']) for first, last in ends]
        row = {'processes': workers, 'batch': batch, 'at work': len(rates), 'pairs_per_second': round(sum(rates), 1)}
        results.add('fit', {'what': 'registration, side by side', 'profile': profile, 'data': data} | row)
        say('bench', f'side by side: {row}')


@contextmanager
def sharing(wanted: bool) -> Iterator[None]:
    "Let processes compute on a GPU at the same time (NVIDIA's multi-process service), where the driver brings it."
    if not wanted or not shutil.which('nvidia-cuda-mps-control'):
        if wanted: say('mps', 'not at hand: processes take turns')
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {'CUDA_MPS_PIPE_DIRECTORY': f'{folder}/pipe', 'CUDA_MPS_LOG_DIRECTORY': f'{folder}/log'}
        for name in ('pipe', 'log'): (Path(folder) / name).mkdir()
        quiet = {'stdout': subprocess.DEVNULL, 'stderr': subprocess.DEVNULL}  # the daemon would keep a pipe open
        begun = subprocess.run(['nvidia-cuda-mps-control', '-d'], **quiet)
        say('mps', f'started, exit code {begun.returncode}')
        probe = ('import torch, sys; from regpre_nb.learn.training import default_device; device = default_device(); '
                 'torch.ones(2, device=device).sum().item(); sys.exit(device.type == "cpu")')
        try:
            told = subprocess.run([sys.executable, '-c', probe], capture_output=True, text=True, timeout=60)
            works = told.returncode == 0
        except subprocess.TimeoutExpired: works = False
        if not works:
            say('mps', 'does not work here: processes take turns')
            for name in ('CUDA_MPS_PIPE_DIRECTORY', 'CUDA_MPS_LOG_DIRECTORY'): os.environ.pop(name)
        try: yield
        finally:
            with suppress(subprocess.TimeoutExpired):  # it waits for its clients, of which this process may be one
                subprocess.run(['nvidia-cuda-mps-control'], input='quit -t 1', text=True, timeout=3, **quiet)
            subprocess.run(['pkill', '-f', 'nvidia-cuda-mps'], **quiet)


def bench_operations(results: Results, shape: tuple[int, ...], device) -> None:
    "Bandwidth of what only moves numbers: a copy, and `warp`, by the bytes that it must read and write at least."
    import torch

    from regpre_nb.method.spatial import warp
    image, field = torch.rand(1, 1, *shape, device=device), torch.rand(1, 3, *shape, device=device)
    for name, function, volumes in (('copy', lambda: field.clone(), 6), ('warp', lambda: warp(image, field), 5)):
        seconds, _ = seconds_of(function, device, least=0.2)
        moved = 4 * image.numel() * volumes
        results.add('operations', {'what': name, 'size': shape, 'ms': round(1e3 * seconds, 4),
                                   'GB_per_second': round(moved / seconds / 1e9, 1)})


REGISTERED = {'network alone': {'steps': 0}, 'optimised alone': {'model': None}, 'network, then optimised': {},
              'the same, network in bf16': {'precision': 'bf16'}}  # what of `register` is timed -> its settings


def noise(shape: tuple[int, ...], seed: int):
    "A made-up image: smooth noise in [0, 1]."
    import torch
    coarse = torch.rand(1, 1, *[n // 8 for n in shape], generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, shape, mode='trilinear')[0, 0].numpy()


def bench_register(results: Results, sizes: Sequence[tuple], device, until: float) -> None:
    "Seconds and memory of the registration of two made-up images by the shipped network, affine map left out."
    import numpy as np
    import torch

    from regpre_nb.use.register import register
    for size in sizes:
        moving, fixed = ((noise(size, seed), np.eye(4)) for seed in (1, 2))
        for name, given in REGISTERED.items():
            if time.monotonic() > until: return say('register', f'no time for {name} at {size}')
            for again in (False, True):  # the first call chooses kernels
                freed(device)
                start = waited(device)
                seconds = register(moving, fixed, affine=False, device=device.type, **given).seconds
                took = waited(device) - start
            peak = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == 'cuda' else None
            row = {'what': name, 'size': size, 'seconds': round(took, 3),
                   'parts': {part: round(value, 3) for part, value in seconds.items()},
                   'peak_gib': peak and round(peak, 3)}
            results.add('register', row)
            say('register', str(row))


def register_stage(results: Results, options: argparse.Namespace, until: float) -> str:
    "Two images, small and large; what came of it, in words."
    import torch

    from regpre_nb.learn.training import default_device, run_environment
    device = torch.device(options.device or default_device())
    results.add('environment', run_environment(device))
    bench_register(results, [(16, 16, 16)] if options.tiny else [(64,) * 3, PAPER, (256,) * 3], device, until)
    return f'{len(results.content["register"])} rows'


def busy(spans: list[tuple[float, float]]) -> float:
    "Length of the union of spans."
    total, end = 0.0, float('-inf')
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def profile_step(results: Results, path: Path, what: str, settings, shape: tuple[int, ...], device) -> None:
    "Where the time of a step goes, into a text file; launches, idle time and arithmetic into the results."
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    from regpre_nb.use.profiling import flops
    on_gpu, step = device.type == 'cuda', Step(what, settings, shape, device)
    with step.set_for(MODES['bf16']) as take:
        seconds, _ = seconds_of(take, device, least=0.5)
        arithmetic = flops(take)
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
        with profiler(activities=activities, acc_events=True) as seen:
            take()
            waited(device)
    events = seen.events()
    kernels = [e for e in events if e.device_type == DeviceType.CUDA and not getattr(e, 'is_user_annotation', False)]
    spans = [(e.time_range.start, e.time_range.end) for e in kernels]
    row = {'what': what, 'size': shape, 'mode': 'bf16', 'seconds': round(seconds, 5),
           'tflop': round(arithmetic / 1e12, 3), 'tflop_per_second': round(arithmetic / seconds / 1e12, 2),
           'kernels': len(kernels),
           'launches': sum('LaunchKernel' in e.name for e in events if e.device_type == DeviceType.CPU)}
    if spans:
        gpu = busy(spans) / 1e6
        row |= {'gpu_busy_seconds': round(gpu, 5), 'idle_share': round(max(0.0, 1 - gpu / seconds), 3)}
    results.add('profile', row)
    order = 'self_device_time_total' if on_gpu else 'self_cpu_time_total'
    table = seen.key_averages().table(sort_by=order, row_limit=25, max_name_column_width=60)
    with open(path, 'a', encoding='utf-8') as file: file.write(f'{json.dumps(row)}\n{table}\n\n')
    say('bench', f'profile {row}')


def bench(results: Results, out: Path, options: argparse.Namespace, until: float) -> str:
    "All of it, the most important first; what came of it, in words."
    import torch

    from regpre_nb.learn.training import default_device, run_environment
    from regpre_nb.method.swin import settings_named
    device = torch.device(options.device or default_device())
    results.add('environment', run_environment(device))
    settings = settings_named('tiny' if options.tiny else 'paper', time_steps=2 if options.tiny else 12)
    sizes, least = ([(16, 16, 16)], 0.05) if options.tiny else ([PAPER, *CUBES], 1.0)
    steps, profiles = partial(bench_steps, results, settings), out / 'profile.txt'
    few, modes = (4, list(FITS)[-1:]) if options.tiny else (24, list(FITS))
    data = options.data[0]
    work = [partial(bench_fit, results, options.profile, data, modes, device, 4 if options.tiny else 80, until),
            *([] if options.tiny else [partial(bench_together, results, options.profile, data, until)]),
            partial(bench_paper_fit, results, settings, sizes[0], device, few, until),
            partial(bench_operations, results, sizes[0], device),
            partial(steps, sizes[:1], device, until, least),
            *(partial(profile_step, results, profiles, what, settings, sizes[0], device) for what in STUDIED),
            partial(steps, sizes[1:], device, until, least)]
    profiles.unlink(missing_ok=True)
    failed = []
    for part in work:
        if time.monotonic() > until: break
        try: part()
        except Exception as error:  # what can still be measured is measured
            failed.append(f'{part.func.__name__}: {type(error).__name__}: {error}'[:300])
            say('bench', failed[-1])
        freed(device)
    rows = sum(len(results.content[part]) for part in ('fit', 'steps', 'operations', 'profile'))
    return f'{rows} rows' + ''.join(f'; {failure}' for failure in failed)


# Runs of a profile

def chosen_runs(profile: str, data: Sequence[str], seeds: Sequence[int]) -> list:
    "What is trained, in the order in which it matters, the cohorts in turns; what others start from before them."
    from regpre_nb.paper.jobs import Pairwise
    from regpre_nb.paper.studies import by_priority
    asked = [by_priority(profile, name, tuple(seeds)) for name in data]
    return [run for turn in zip_longest(*asked) for run in turn if run and not isinstance(run, Pairwise)]


def run_folder_of(run, root: Path) -> Path:
    "Where a run keeps its files."
    from regpre_nb.paper.jobs import run_folder
    return run_folder(run, root)


def is_done(run, root: Path) -> bool:
    "Whether a run has ended."
    from regpre_nb.paper.jobs import is_made
    return is_made(run, root)


def stop(processes: Sequence[subprocess.Popen], patience: float = 5) -> None:
    "Ask processes to end, and end those that do not."
    from regpre_nb.data.files import end_group
    for process in processes: end_group(process)
    limit = time.monotonic() + patience
    while time.monotonic() < limit and any(process.poll() is None for process in processes): time.sleep(0.1)
    for process in processes:
        end_group(process, force=True)
        process.wait()


def make_runs(runs: Sequence, root: Path, jobs: int, until: float, results: Results) -> dict[str, str]:
    "Make runs, some at a time, each after what it starts from, until the time is over; key -> state."
    from regpre_nb.paper.jobs import train_side_by_side

    def tell(line: str) -> None:
        say('runs', line)
        key = line.split()[2]
        results.add('runs', {key: {'state': line.split(maxsplit=3)[3], 'seconds': float(line.split()[0])}})
    waiting = [run for run in runs if not is_done(run, root)]
    states = train_side_by_side(waiting, root, jobs, max(0.0, until - time.monotonic()), tell)
    return {run.key: states.get(run.key, 'done') for run in runs}


# What comes back

TEXTS = '.json', '.jsonl', '.csv', '.txt'
WEIGHTS = 'encoder.safetensors', 'model.safetensors', 'final.safetensors'
UNFINISHED = 'last.safetensors', 'best.safetensors'  # with the optimiser; of finished runs nobody needs them


def to_keep(runs: Sequence, root: Path) -> Iterator[tuple[Path, ...]]:
    "Files of the runs that belong together, the most needed first: a checkpoint without its best weights is none."
    folders = [(run, run_folder_of(run, root), is_done(run, root)) for run in runs]
    first = min((getattr(run, 'seed', 0) for run in runs), default=0)
    for _, folder, _ in folders:
        if folder.is_dir():
            yield tuple(path for path in sorted(folder.iterdir()) if path.suffix in TEXTS and path.name[0] != '.')
    def weights(wanted):
        for run, folder, done in folders:
            if done and wanted(run): yield tuple(path for name in WEIGHTS if (path := folder / name).exists())

    yield from weights(lambda run: 'encoder' in run.leaves)
    yield from weights(lambda run: 'encoder' not in run.leaves and getattr(run, 'seed', first) == first)
    begun = sorted((-run.done(folder)[0], number) for number, (run, folder, done) in enumerate(folders) if not done)
    for _, number in begun:  # those that are nearest to their end first
        yield tuple(path for name in UNFINISHED if (path := folders[number][1] / name).exists())
    yield from weights(lambda run: 'encoder' not in run.leaves and getattr(run, 'seed', first) != first)


def write_archive(groups: Iterable[tuple[Path, ...]], root: Path, out: Path, part: int = PART,
                  parts: int = PARTS) -> list[str]:
    "Write files in parts, each group whole or not at all; returns those for which there was no room."
    left_out, space = [], part * parts - 20_480  # the end of an archive
    with tempfile.TemporaryFile(dir=root) as file:
        with tarfile.open(fileobj=file, mode='w:gz', compresslevel=6, format=tarfile.GNU_FORMAT) as archive:
            for paths in groups:
                needed = sum(path.stat().st_size // (2 if path.suffix in TEXTS else 1) + 2048 for path in paths)
                if needed > space: left_out += [str(path.relative_to(root)) for path in paths]
                else:
                    space -= needed
                    for path in paths: archive.add(path, path.relative_to(root))
        file.seek(0)
        for number in range(parts):
            if content := file.read(part): (out / f'runs.tar.{number:03}').write_bytes(content)
    return left_out


def pack_runs(runs: Sequence, root: Path, out: Path, part: int = PART, parts: int = PARTS) -> list[str]:
    "Write what runs have left; returns the files for which there was no room."
    return write_archive(to_keep(runs, root), root, out, part, parts)


def unpack_runs(folder: Path, root: Path) -> int:
    "Put the runs of an earlier call where this one looks for them; returns the number of files."
    from regpre_nb.data.downloads import unpack
    parts = sorted(folder.glob('runs.tar.*'))
    if not parts: raise SystemExit(f'{folder} holds no runs.tar.000; name the output folder of an earlier call.')
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root) as here:
        archive = Path(here) / 'runs.tar'
        with open(archive, 'wb') as file:
            for path in parts: file.write(path.read_bytes())
        return len(unpack(archive, root))


def trim(old: Path, out: Path, parts: int) -> list[str]:
    "Of an earlier call, what a second one needs to go on: no weights that only figures need."
    def files(folder, names): return tuple(path for name in names if (path := folder / name).exists())

    with tempfile.TemporaryDirectory() as root:
        unpack_runs(old, Path(root))
        folders = sorted({path.parent for path in Path(root).rglob('*') if path.is_file()})
        unfinished = [folder for folder in folders if not (folder / 'run.json').exists()]
        groups = [tuple(path for path in sorted(folder.iterdir()) if path.suffix in TEXTS) for folder in folders]
        groups += [files(folder, WEIGHTS[:1]) for folder in folders]
        out.mkdir(parents=True, exist_ok=True)
        return write_archive([*groups, *(files(folder, UNFINISHED) for folder in unfinished)], Path(root), out,
                             parts=parts)


def runs_stage(results: Results, out: Path, options: argparse.Namespace, until: float) -> str:
    "Make runs until the limit, and pack them; what came of it, in words."
    runs = chosen_runs(options.profile, options.data, options.seeds)[:options.runs]
    states = make_runs(runs, options.root, options.gpu_jobs, until, results)
    left_out = pack_runs(runs, options.root, out)
    results.add('runs', {key: results.content['runs'].get(key, {}) | {'state': state} for key, state in states.items()})
    results.add('stages', {'left out of the archive': left_out})
    counts = {state: list(states.values()).count(state) for state in dict.fromkeys(states.values())}
    told = ', '.join(f'{n} {state}' for state, n in counts.items())
    return told + (f'; no room for {len(left_out)} files' if left_out else '')


# The command

def run(options: argparse.Namespace) -> None:
    "All stages that are asked for."
    end, out = START + options.limit, options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    options.root = options.root.resolve()
    options.root.mkdir(parents=True, exist_ok=True)
    if options.device == 'cpu': os.environ |= {'CUDA_VISIBLE_DEVICES': '', 'ACCELERATE_USE_CPU': 'true'}
    if folder := os.environ.get('REGPRE_DATA'): os.environ['REGPRE_DATA'] = str(Path(folder).resolve())
    results = Results(out / 'bench.json')
    if options.resume_from: say('resume', f'{unpack_runs(options.resume_from, options.root)} files')
    with sharing(options.mps):
        for stage in options.stages:
            since = time.monotonic()
            until = min(since + SECONDS.get(stage, float('inf')), end - CLOSING)
            if stage == 'tests': told = run_tests(out, options.device, max(1.0, until - since))
            elif stage == 'bench': told = bench(results, out, options, until)
            elif stage == 'register': told = register_stage(results, options, until)
            else: told = runs_stage(results, out, options, until)
            results.add('stages', {stage: {'seconds': round(time.monotonic() - since, 1), 'outcome': told}})
            say(stage, told, since)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    "The command line."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest='command', required=True)
    commands.add_parser('wheels').add_argument('--out', type=Path, default=TOP / '.whl')
    packing = commands.add_parser('pack')
    packing.add_argument('--out', type=Path, default=TOP / '.gpu-data')
    packing.add_argument('--data', nargs='+', default=['hippocampus'], help='names of cohorts')
    trimming = commands.add_parser('trim')
    trimming.add_argument('old', type=Path)
    trimming.add_argument('out', type=Path)
    trimming.add_argument('--parts', type=int, default=1, help='of 15 MiB')
    pacing = commands.add_parser('pace')
    for name, kind in (('profile', str), ('data', str), ('batch', int), ('folder', Path)):
        pacing.add_argument(name, type=kind)
    unpacking = commands.add_parser('unpack')
    unpacking.add_argument('out', type=Path)
    unpacking.add_argument('--root', type=Path, default=TOP)
    running = commands.add_parser('run')
    running.add_argument('out', type=Path, help='folder for the results')
    running.add_argument('--limit', type=float, default=520, help='seconds for everything')
    running.add_argument('--device', help='cpu, to try the script; default: the accelerator')
    running.add_argument('--tiny', action='store_true', help='small networks and images: to try the script')
    stages = ['tests', 'bench', 'register', 'runs']
    running.add_argument('--stages', nargs='+', choices=stages, default=stages)
    running.add_argument('--profile', default='gpu', help='of the runs')
    running.add_argument('--data', nargs='+', default=['hippocampus'], help='cohorts of the runs')
    running.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    running.add_argument('--runs', type=int, help='only so many, the first ones')
    running.add_argument('--gpu-jobs', type=int, default=4, help='runs at the same time')
    running.add_argument('--mps', action='store_true', help='let the runs compute at the same time, not in turns')
    running.add_argument('--root', type=Path, default=TOP, help='where the folder runs/ lies')
    running.add_argument('--resume-from', type=Path, help='output folder of an earlier call')
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    "Entry point."
    options = parsed(arguments)
    if options.command == 'wheels': wheels(options.out)
    elif options.command == 'pack': say('pack', f'{pack(options.data, options.out) / MIB:.1f} MiB in {options.out}')
    elif options.command == 'trim':
        say('trim', f'{len(trim(options.old, options.out, options.parts))} files left out for lack of room')
    elif options.command == 'pace': pace(options.profile, options.data, options.batch, options.folder)
    elif options.command == 'unpack': say('unpack', f'{unpack_runs(options.out, options.root)} files')
    else: run(options)


if __name__ == '__main__': main()
