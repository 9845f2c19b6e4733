"""Many pairs by `regpre register --pairs`: how many a minute, in how much memory, and nothing twice after a kill.

    python benchmarks/many_pairs.py                              1,000 made-up pairs: results/bench/many_pairs.csv
    python benchmarks/many_pairs.py --count 20 --out FILE        fewer, to try it

Images are made-up blobs of 24 voxels along each axis; two pairs are bad. The command is killed with SIGKILL once a
third of the results are there, and started again. It ends with an error if anything was lost or done twice.
"""
import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
from scipy import ndimage

from regpre_nb.data.files import replacing
from regpre_nb.data.volumes import Volume, save_volume
from regpre_nb.learn.training import run_environment

OUT = Path(__file__).resolve().parent.parent / 'results' / 'bench' / 'many_pairs.csv'
IMAGES = 40
COMMAND = str(Path(sys.executable).with_name('regpre'))


def make_pairs(folder: Path, count: int) -> Path:
    "Images and a table of pairs, two of which are bad: a file that is absent, and one that is cut off."
    rng = np.random.default_rng(0)
    for number in range(IMAGES):
        image = ndimage.zoom(rng.random((6, 6, 6)), 4, order=1).astype(np.float32)
        save_volume(Volume(image, np.diag([2., 2, 2, 1])), folder / f'{number}.nii.gz')
    whole = (folder / '0.nii.gz').read_bytes()
    (folder / 'cut.nii.gz').write_bytes(whole[:len(whole) // 2])
    pairs = [(f'{a}', f'{b}') for a in range(IMAGES) for b in range(IMAGES) if a != b][:count - 2]
    lines = [f'{a}.nii.gz,{b}.nii.gz' for a, b in [*pairs, ('absent', '0'), ('cut', '1')]]
    (folder / 'pairs.csv').write_text('\n'.join(['moving,fixed', *lines]) + '\n', encoding='utf-8')
    return folder / 'pairs.csv'


def results(folder: Path) -> dict[str, int]:
    "Inode of each result that is there: another one if it was made again."
    return {path.parent.name: path.stat().st_ino for path in folder.glob('*/record.json')}


def started(table: Path, out: Path) -> subprocess.Popen:
    "The command, at work."
    return subprocess.Popen([COMMAND, 'register', '--pairs', str(table), '-o', str(out), '--device', 'cpu'],
                            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def watched(process: subprocess.Popen, until) -> float:
    "Megabytes that the command and its processes held at most, until it ends or `until` is true."
    most = 0.
    while process.poll() is None and not until():
        try:
            family = [process_ := psutil.Process(process.pid), *process_.children(recursive=True)]
            most = max(most, *(each.memory_info().rss / 1e6 for each in family))
        except psutil.NoSuchProcess: pass
        time.sleep(0.5)
    return most


def main() -> None:
    "Measure, check, and write the table."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--count', type=int, default=1000)
    parser.add_argument('--out', type=Path, default=OUT)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix='regpre-many-') as place:
        folder, out = Path(place), Path(place) / 'out'
        table = make_pairs(folder, asked.count)
        first = started(table, out)
        watched(first, lambda: len(results(out)) >= asked.count // 3)
        crew = psutil.Process(first.pid).children(recursive=True)
        first.kill()
        first.wait()
        psutil.wait_procs(crew)  # each ends with the pair that it was at
        before, begun = results(out), time.perf_counter()
        second = started(table, out)
        most = watched(second, lambda: False)
        seconds, told, after = time.perf_counter() - begun, second.communicate()[0].strip(), results(out)
        failed = pd.read_csv(out / 'failed.csv')
        twice = sum(after[name] != inode for name, inode in before.items())
    print(told)
    rows = {'pairs': asked.count, 'with a result before the kill': len(before), 'of these done again': twice,
            'with a result at the end': len(after), 'failed': len(failed),
            'pairs a minute after the kill': 60 * (len(after) - len(before)) / seconds,
            'MB of the largest process': most, 'exit code': second.returncode}
    environment = run_environment('cpu')
    frame = pd.DataFrame([{'what': what, 'value': round(value, 1), 'commit': environment['commit']}
                          for what, value in rows.items()])
    with replacing(asked.out) as path: frame.to_csv(path, index=False)
    print(frame.to_string(index=False))
    if twice or len(after) != asked.count - 2 or len(failed) != 2 or second.returncode != 1:
        raise SystemExit('something was lost, done twice, or failed for another reason')


if __name__ == '__main__': main()
