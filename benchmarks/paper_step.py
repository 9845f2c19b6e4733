"""One training step of the paper's networks at the paper's size: CPU seconds, wall time and peak memory.

    python benchmarks/paper_step.py [--threads 2]    writes results/bench/paper_step.json

Each step runs in a process of its own, so that its peak memory is its own.
"""
import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

from regpre_nb.data.files import write_json
from regpre_nb.learn.finetune import FinetuneSettings, registration_loss
from regpre_nb.learn.pretrain import PRETRAIN, pretraining_loss
from regpre_nb.learn.training import run_environment, share_generator
from regpre_nb.method.heads import PretrainingNetwork
from regpre_nb.method.random_images import random_pair
from regpre_nb.method.swin import SETTINGS, SwinEncoder
from regpre_nb.method.transmorph import TransMorph

SHAPE = (160, 192, 224)
RESULT = Path(__file__).parents[1] / 'results' / 'bench' / 'paper_step.json'


def prepare(kind: str):
    "Network and loss of one kind of training."
    if kind == 'pretraining':
        network = PretrainingNetwork(SwinEncoder(SETTINGS['paper']))
        return network, lambda batch: pretraining_loss(network, batch, PRETRAIN['paper'])[0]
    network = TransMorph(SETTINGS['paper'])
    return network, lambda batch: registration_loss(network, batch, FinetuneSettings())[0]


def measure(kind: str, threads: int) -> dict:
    "Generate a pair, then forward, backward and an optimiser step."
    torch.set_num_threads(threads)
    generator, times = torch.Generator().manual_seed(0), {}
    network, loss_function = prepare(kind)
    share_generator(network, generator)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-4)

    def timed(name, work):
        start, cpu_start = time.perf_counter(), time.process_time()
        result = work()
        times[name] = {'wall': time.perf_counter() - start, 'cpu': time.process_time() - cpu_start}
        return result

    batch = timed('random pair', lambda: random_pair(SHAPE, generator))
    loss = timed('forward', lambda: loss_function(batch))
    timed('backward', loss.backward)
    timed('optimiser', optimiser.step)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # kB on Linux
    return {'loss': loss.item(), 'seconds': times, 'peak_memory_bytes': peak, 'threads': threads,
            'parameters': sum(p.numel() for p in network.parameters())}


def main() -> None:
    "Measure one step of each kind, or print one as JSON."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--kind', choices=['pretraining', 'fine-tuning'])
    arguments = parser.parse_args()
    if arguments.kind:
        print(json.dumps(measure(arguments.kind, arguments.threads)))
        return
    results = {'shape': SHAPE, 'environment': run_environment()}
    for kind in ('pretraining', 'fine-tuning'):
        command = [sys.executable, __file__, '--kind', kind, '--threads', str(arguments.threads)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        step = results[kind] = json.loads(done.stdout.splitlines()[-1])
        cpu, gibibytes = sum(part['cpu'] for part in step['seconds'].values()), step['peak_memory_bytes'] / 2**30
        print(f'{kind}: {cpu:.0f} CPU seconds, peak {gibibytes:.1f} GiB')
        write_json(RESULT, results)


if __name__ == '__main__':
    main()
