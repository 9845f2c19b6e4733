"""Build the source archive and the wheel into dist/, install the wheel in a clean environment, and use it there.

    python tools/release.py            all of it; fetches what the wheel needs (PyTorch too)
    python tools/release.py --build    only the two files
"""
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
SOURCES = 'regpre_nb', 'setup.py', 'settings.ini', 'README.md', 'LICENSE'
LIMIT = 2.0  # seconds that an import may take
TOOLS = 'nbdev', 'jupyterlab', 'sphinx', 'pytest', 'ruff', 'mypy', 'snakemake'  # nobody needs them to use the package
USE = '''
import sys, time
start = time.perf_counter()
import regpre_nb
print(f'import regpre_nb: {time.perf_counter() - start:.3f} s; regpre_nb {regpre_nb.__version__}')
assert time.perf_counter() - start < LIMIT
import numpy as np
from regpre_nb.use.register import register
noise = np.random.default_rng(0).normal(size=(24, 24, 24)).cumsum(0).cumsum(1).cumsum(2)
found = register((np.roll(noise, 1, 0), np.eye(4)), (noise, np.eye(4)), affine=False)
print(f'register: loss {found.curve[0]["loss"]:.3f} -> {found.curve[-1]["loss"]:.3f}')
assert found.curve[-1]['loss'] < found.curve[0]['loss']
'''


def build(out: Path) -> list[Path]:
    "The source archive and the wheel, made from a copy so that no build folder is left behind."
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in SOURCES:
            if (TOP / name).is_dir():
                shutil.copytree(TOP / name, copy / name, ignore=shutil.ignore_patterns('__pycache__'))
            else: shutil.copy(TOP / name, copy)
        (copy / 'MANIFEST.in').write_text('include settings.ini\n', encoding='utf-8')
        subprocess.run([sys.executable, '-m', 'build', '--no-isolation', '-o', out, copy], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return sorted(out.glob('regpre_nb-*'))


def use(wheel: Path, constraints: Path) -> None:
    "Install the wheel in an environment of its own, far from the clone, and register two images there."
    alone = {key: value for key, value in os.environ.items() if key not in ('PYTHONPATH', 'VIRTUAL_ENV')}
    torch = os.environ.get('TORCH', 'torch==2.13.0').split()
    with tempfile.TemporaryDirectory() as folder:
        def done(*command, **given): return subprocess.run(command, cwd=folder, env=alone, check=True, **given)
        python = Path(folder) / 'venv' / 'bin' / 'python'
        start = time.monotonic()
        done(sys.executable, '-m', 'venv', python.parent.parent)
        install = python, '-m', 'pip', 'install', '-qq', '--disable-pip-version-check'
        done(*install, *torch)
        done(*install, wheel, '-c', constraints)
        listed = done(python, '-m', 'pip', 'list', '--format=freeze', capture_output=True, text=True).stdout.lower()
        pulled = [tool for tool in TOOLS if f'\n{tool}==' in f'\n{listed}']
        if pulled: sys.exit(f'release: the wheel pulls {", ".join(pulled)}, which only developers need')
        print(f'installed with {listed.count("==")} packages in {time.monotonic() - start:.0f} s')
        done(python, '-c', USE.replace('LIMIT', str(LIMIT)))
        done(python.parent / 'regpre', '--help', stdout=subprocess.DEVNULL)
        print('regpre --help: ok')


def main() -> int:
    "Build, install, use; the exit code."
    shutil.rmtree(TOP / 'dist', ignore_errors=True)
    made = build(TOP / 'dist')
    for path in made: print(f'{path.relative_to(TOP)}  {path.stat().st_size / 1e6:.1f} MB')
    if '--build' not in sys.argv: use(next(path for path in made if path.suffix == '.whl'), TOP / 'constraints.txt')
    return 0


if __name__ == '__main__': sys.exit(main())
