"Processes that need not import everything again: forked from one that has, each with its own folder and output."
import multiprocessing
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

HEAVY = ('torch', 'torch._dynamo', 'pandas', 'nibabel', 'scipy.ndimage', 'matplotlib.pyplot', 'IPython', 'nbdev.test',
         'regpre_nb.use.cli', 'regpre_nb.paper.tables', 'regpre_nb.paper.comparison', 'regpre_nb.paper.landmarks',
         'regpre_nb.data.phantom')
CONTEXT = multiprocessing.get_context('forkserver')
CONTEXT.set_forkserver_preload(list(HEAVY))


def _become(function, arguments, cwd, variables, streams):
    "In the forked process: take folder, variables and streams, then call the function; ends as a command would."
    for number, path in zip((1, 2), streams): os.dup2(os.open(path, os.O_WRONLY), number)
    multiprocessing.set_start_method(None, force=True)  # what it starts itself, it starts as any process does
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(cwd)
    try: function(*arguments)
    except SystemExit: raise
    except BaseException:
        traceback.print_exc()
        sys.exit(1)
    finally:
        for stream in (sys.stdout, sys.stderr): stream.flush()


def call(function: Callable, *arguments: object, cwd: Path | None = None,
         variables: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    "Call a function of a module in a process of its own; its exit code and what it printed."
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder) / name for name in ('stdout', 'stderr')]
        for path in streams: path.touch()
        process = CONTEXT.Process(target=_become, args=(function, arguments, str(cwd or Path.cwd()),
                                                        dict(variables or os.environ), streams))
        process.start()
        process.join()
        return subprocess.CompletedProcess(arguments, process.exitcode, *(path.read_text() for path in streams))


def run_page(path: str) -> None:
    "Run a notebook's cells by nbdev's own runner."
    from nbdev.test import nbdev_test
    nbdev_test(path=path, n_workers=0)
