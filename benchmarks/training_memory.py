"""What the switches of a training cost and save: peak memory and CPU seconds of a step, and how far its loss is off.

    python benchmarks/training_memory.py    writes results/bench/training_memory.csv (about five minutes)

Two steps of the paper's networks on images of half the paper's size along each axis, on the CPU, each setting in a
process of its own. The peak is that of `fit` beyond what was in use before, so it holds gradients and moments, too.
"""
import json
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from regpre_nb.data.files import replacing
from regpre_nb.learn.finetune import FinetuneSettings, registration_loss
from regpre_nb.learn.pretrain import PRETRAIN, pretraining_loss, random_batches
from regpre_nb.learn.training import TrainSettings, fit, read_log, run_environment
from regpre_nb.method.heads import PretrainingNetwork
from regpre_nb.method.settings import changed
from regpre_nb.method.swin import SwinEncoder, settings_named
from regpre_nb.method.transmorph import TransMorph
from regpre_nb.use.profiling import peak_memory

SHAPE = 80, 96, 112
SWITCHES = {'none': {}, 'recompute': {}, "precision='bf16'": {'precision': 'bf16'},
            "recompute, precision='bf16'": {'precision': 'bf16'}, 'gradient_clip=1.0': {'gradient_clip': 1.0}}
RESULT = Path(__file__).parents[1] / 'results' / 'bench' / 'training_memory.csv'


def measure(what: str, switch: str) -> dict:
    "Two steps of `fit` with a switch."
    torch.set_num_threads(1)
    torch.manual_seed(0)
    settings = settings_named('paper', recompute='recompute' in switch)
    task = changed(PRETRAIN['paper'], {'shape': SHAPE})
    if what == 'pretraining':
        network, loss = PretrainingNetwork(SwinEncoder(settings)), partial(pretraining_loss, settings=task)
    else: network, loss = TransMorph(settings), partial(registration_loss, settings=FinetuneSettings())
    training = TrainSettings(steps=2, learning_rate=1e-4, log_every=1, **SWITCHES[switch])
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        peak = peak_memory(lambda: fit(network, loss, random_batches(task), training, folder, progress=False))
        seconds = (time.process_time() - started) / training.steps
        losses = read_log(Path(folder) / 'log.jsonl')['loss']
    return {'peak_gib': peak / 2 ** 30, 'cpu_seconds': seconds, 'loss_1': losses[0], 'loss_2': losses[1]}


def main() -> None:
    "Measure every setting, or print one as JSON."
    if len(sys.argv) == 3:
        print(json.dumps(measure(*sys.argv[1:])))
        return
    rows, environment = [], run_environment()
    for what in ('pretraining', 'registration'):
        for switch in SWITCHES:
            done = subprocess.run([sys.executable, __file__, what, switch], check=True, capture_output=True, text=True)
            found = json.loads(done.stdout.splitlines()[-1])
            rows.append({'what': what, 'switch': switch, 'size': 'x'.join(map(str, SHAPE)),
                         'peak_gib': round(found['peak_gib'], 3), 'cpu_seconds': round(found['cpu_seconds'], 1),
                         'loss_1': round(found['loss_1'], 6), 'loss_2': round(found['loss_2'], 6),
                         'device': environment['device'], 'torch': environment['torch'],
                         'commit': environment['commit']})
            print(rows[-1])
            with replacing(RESULT) as path: pd.DataFrame(rows).to_csv(path, index=False)


if __name__ == '__main__': main()
