"""What the switches of a training cost and save: peak memory and seconds of a step, and how far its loss is off.

    python benchmarks/training_memory.py    this device's rows of results/bench/training_memory.csv (five minutes)

The paper's networks; on a GPU with the paper's images, on the CPU with half their size along each axis and one thread.
On the CPU each setting works in a process of its own. The peak is that of `fit` beyond what was in use before, so it
holds gradients and moments, too. The seconds are those of the last steps: on the CPU of its time, on a GPU of a clock.
"""
import argparse
import json
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from devices import device_of, of_others, write_beside

from regpre_nb.learn.finetune import FinetuneSettings, registration_loss
from regpre_nb.learn.pretrain import PRETRAIN, pretraining_loss, random_batches
from regpre_nb.learn.training import TrainSettings, default_device, fit, read_log, run_environment
from regpre_nb.method.heads import PretrainingNetwork
from regpre_nb.method.settings import changed
from regpre_nb.method.swin import SwinEncoder, settings_named
from regpre_nb.method.transmorph import TransMorph
from regpre_nb.use.profiling import peak_memory

SWITCHES = {'none': {}, 'recompute': {}, "precision='bf16'": {'precision': 'bf16'},
            "recompute, precision='bf16'": {'precision': 'bf16'}, 'gradient_clip=1.0': {'gradient_clip': 1.0}}
RESULT = Path(__file__).parents[1] / 'results' / 'bench' / 'training_memory.csv'


def measure(what: str, switch: str) -> dict:
    "A few steps of `fit` with a switch."
    device = default_device()
    on_cpu = device.type == 'cpu'
    shape, steps, clock = ((80, 96, 112), 2, time.process_time) if on_cpu else ((160, 192, 224), 12, time.perf_counter)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    settings = settings_named('paper', recompute='recompute' in switch)
    task = changed(PRETRAIN['paper'], {'shape': shape})
    if what == 'pretraining':
        network, loss = PretrainingNetwork(SwinEncoder(settings)), partial(pretraining_loss, settings=task)
    else: network, loss = TransMorph(settings), partial(registration_loss, settings=FinetuneSettings())
    training = TrainSettings(steps=steps, learning_rate=1e-4, log_every=1, **SWITCHES[switch])
    ends = []

    def timed_loss(*given):
        if not on_cpu: torch.cuda.synchronize(device)
        ends.append(clock())
        return loss(*given)
    with tempfile.TemporaryDirectory() as folder:
        peak = peak_memory(lambda: fit(network, timed_loss, random_batches(task), training, folder, progress=False),
                           device)
        losses = read_log(Path(folder) / 'log.jsonl')['loss']
    half = len(ends) // 2
    return {'what': what, 'switch': switch, 'size': 'x'.join(map(str, shape)), 'peak_gib': round(peak / 2 ** 30, 3),
            'seconds': round((ends[-1] - ends[half - 1]) / (len(ends) - half), 3), 'loss_1': round(losses[0], 6),
            'loss_2': round(losses[1], 6)}


def measured(what: str, switch: str) -> dict:
    "The same, on the CPU from a process that used no memory before."
    if default_device().type != 'cpu': return measure(what, switch)
    done = subprocess.run([sys.executable, __file__, what, switch], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    "Measure every setting, or print one as JSON."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('one', nargs='*', help='a training and a switch; default: all')
    parser.add_argument('--out', type=Path, default=RESULT)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measure(*asked.one)))
        return
    told = run_environment()
    device = device_of(told)
    told = {'device': device, 'torch': told['torch'], 'commit': told['commit']}
    others, rows = of_others(asked.out, device), []
    for what in ('pretraining', 'registration'):
        for switch in SWITCHES:
            rows.append(measured(what, switch) | told)
            print(rows[-1], flush=True)
            write_beside(asked.out, others, rows)


if __name__ == '__main__': main()
