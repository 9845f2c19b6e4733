"""Write docs/pages/scale.md: what pretraining at the scale of 64 GPUs would take, from measured and cited figures.

    python tools/scale.py           write it
    python tools/scale.py --check   end with 1 where it is not what the figures give
"""
import json
import math
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / 'docs' / 'pages' / 'scale.md'
GPUS, NODE = 64, 8
# Cited; the page names the sources. All are for a second, those of links for one direction.
PEAK_TFLOPS, MEMORY_TB, NVLINK_GB, INFINIBAND_GB, ETHERNET_GB = 989, 3.35, 450, 50, 12.5
DAYS, FAILURES, LLAMA_GPUS = 54, 419, 16384
# Assumed; the page says so.
DISK_GB = 1.0  # a second, of a shared file system
PAIRS = 6_000_000  # 10 organs, 4 contrasts, 150,000 pairs of each: the paper's number
PRICE = 3.0  # US dollars for an hour of a GPU
SIZES = {'hippocampus': (48, 64, 48), 'brain at 2 mm': (80, 96, 112), 'brain at 1 mm': (160, 192, 224),
         'cube of 128': (128, 128, 128)}  # of the cohorts of this project


class Kind(NamedTuple):
    "Figures of one kind of training at the paper's size, on an H100."
    name: str
    parameters: int
    tflop: float    # of a step, by PyTorch's counter
    graph: float    # seconds of a step that is replayed as a graph
    plain: float    # seconds of a plain step


def kinds() -> list[Kind]:
    "Measured: results/bench/gpu.csv, gpu_profile.csv, paper_step.json."
    bench = ROOT / 'results' / 'bench'
    speed = pd.read_csv(bench / 'gpu.csv')
    speed = speed[(speed['size'] == '160x192x224')]
    arithmetic = pd.read_csv(bench / 'gpu_profile.csv').set_index('what')['tflop']
    steps = json.loads((bench / 'paper_step.json').read_text(encoding='utf-8'))

    def seconds(what, mode): return speed[(speed['what'] == what) & (speed['mode'] == mode)]['seconds'].iloc[-1]
    return [Kind(name, steps[key]['parameters'], arithmetic[name], seconds(name, 'bf16, graph'), seconds(name, 'bf16'))
            for name, key in (('pretraining', 'pretraining'), ('registration', 'fine-tuning'))]


def table(head: list[str], rows: list[list]) -> str:
    "A Markdown table."
    lines = [head, ['---'] * len(head), *[[str(cell) for cell in row] for row in rows]]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def throughput(found: list[Kind]) -> str:
    "What a GPU does, and what it could."
    return table(['', 'TFLOP a step', 'seconds a step (graph)', 'pairs a second', 'TFLOP/s', 'of the peak',
                  'seconds a step (plain)'],
                 [[k.name, f'{k.tflop:.2f}', f'{k.graph:.4f}', f'{1 / k.graph:.1f}', f'{k.tflop / k.graph:.1f}',
                   f'{k.tflop / k.graph / PEAK_TFLOPS:.1%}', f'{k.plain:.3f}'] for k in found])


def ring(size: float, processes: int, rate: float) -> float:
    "Seconds of an all-reduce of so many bytes over a ring of links with so many GB a second."
    return 2 * (processes - 1) / processes * size / (rate * 1e9)


def communication(found: list[Kind]) -> str:
    "How long gradients take over each kind of link, as a part of a step."
    rows = []
    for k in found:
        size = 4 * k.parameters
        links = {'NVLink, 8 GPUs of a node': ring(size, NODE, NVLINK_GB),
                 'InfiniBand, 64 GPUs, a port each': ring(size, GPUS, INFINIBAND_GB),
                 'Ethernet of 100 Gbit/s, 8 nodes': ring(size, NODE, NVLINK_GB) + ring(size, GPUS // NODE, ETHERNET_GB)}
        rows += [[k.name, f'{size / 1e6:.0f}', link, f'{1000 * s:.2f}', f'{s / k.graph:.0%}', f'{s / k.plain:.0%}']
                 for link, s in links.items()]
    return table(['', 'MB of gradients', 'link', 'ms', 'of a step (graph)', 'of a step (plain)'], rows)


def waiting() -> tuple[float, str]:
    "What is left of the GPUs where each draws an image size of its own; the shape of a step's time over the sizes."
    voxels = np.array([math.prod(shape) for shape in SIZES.values()], float)
    drawn = np.random.default_rng(0).choice(voxels, (10_000, GPUS))
    rows = [[name, 'x'.join(map(str, shape)), f'{math.prod(shape) / voxels.max():.0%}']
            for name, shape in SIZES.items()]
    return float(drawn.mean() / drawn.max(1).mean()), table(['image', 'voxels', 'of the largest'], rows)


def checkpoints(k: Kind) -> dict[str, float]:
    "Young's and Daly's interval for 64 GPUs."
    hours = DAYS * 24 * LLAMA_GPUS / FAILURES  # of one GPU between two failures
    mean = hours * 3600 / GPUS
    write = 12 * k.parameters / (DISK_GB * 1e9)  # weights and two moments in float32
    best = math.sqrt(2 * write * mean)
    return {'gpu_hours': hours, 'days': mean / 86400, 'write': write, 'minutes': best / 60,
            'daly': best * (1 + math.sqrt(write / (2 * mean)) / 3 + write / (2 * mean) / 9) / 60 - write / 60,
            'percent': 100 * (write / best + best / 2 / mean)}


def bill(found: list[Kind]) -> str:
    "Hours and money, with graphs and with plain steps."
    rows = []
    for k in found:
        for how, seconds in (('graph', k.graph), ('plain', k.plain)):
            hours = PAIRS * seconds / 3600
            rows.append([k.name, how, f'{hours:,.0f}', f'{hours / GPUS:.1f}', f'{hours * PRICE:,.0f}'])
    return table(['', 'steps', 'GPU hours', f'hours on {GPUS} GPUs', f'US dollars at {PRICE:.0f} an hour'], rows)


def page() -> str:
    "The whole page."
    found = kinds()
    pretraining, registration = found
    left, sizes = waiting()
    saved = checkpoints(registration)
    states = {k.name: 16 * k.parameters / 1e9 for k in found}
    text = (Path(__file__).parent / 'scale.md').read_text(encoding='utf-8')
    values = dict(throughput=throughput(found), communication=communication(found), sizes=sizes, bill=bill(found),
                  left=f'{left:.0%}', pairs=f'{PAIRS:,}', gpus=GPUS, pretraining_state=f'{states["pretraining"]:.2f}',
                  registration_state=f'{states["registration"]:.2f}',
                  slower=f'{pretraining.plain / pretraining.graph:.1f}',
                  most_gb=f'{MEMORY_TB * 1000 * pretraining.graph:.0f}', peak=PEAK_TFLOPS, memory=MEMORY_TB,
                  intensity=f'{PEAK_TFLOPS / MEMORY_TB:.0f}', fsdp=f'{40e9 / 16 / 1e9:.1f}',
                  times=f'{40e9 / 16 / registration.parameters:.0f}',
                  **{f'saved_{name}': f'{value:.2g}' for name, value in saved.items() if name not in ('gpu_hours',)},
                  saved_gpu_hours=f'{saved["gpu_hours"]:,.0f}')
    for name, value in values.items(): text = text.replace('{{' + name + '}}', str(value))
    if '{{' in text: raise SystemExit(f'no value for {text[text.index("{{"):][:60]}')
    return text


def main() -> None:
    "Write the page or check it."
    if sys.argv[1:] == ['--check']: sys.exit(PAGE.read_text(encoding='utf-8') != page())
    PAGE.write_text(page(), encoding='utf-8')


if __name__ == '__main__': main()
