"""A SLURM of one node on the loopback interface, in a folder of its own: munged, slurmctld, slurmd, no accounting.

`python tests/slurm/cluster.py start FOLDER` starts it and prints what a shell needs, `... stop FOLDER` ends it.
"""
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

PROGRAMS = 'munged', 'slurmctld', 'slurmd', 'sbatch', 'srun', 'squeue', 'scancel', 'scontrol'
PATHS = os.pathsep.join(['/usr/sbin', '/sbin', os.environ.get('PATH', '')])
CONFIGURATION = """\
ClusterName=regpre
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
MpiDefault=none
ReturnToService=2
KillWait=5
MinJobAge=600
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory_mb} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    "Why no SLURM can be started here, in words; '' where it can."
    absent = [name for name in PROGRAMS if not shutil.which(name, path=PATHS)]
    if absent: return f'not installed: {", ".join(absent)} (Debian: apt-get install slurm-wlm munge)'
    return '' if os.geteuid() == 0 else 'SLURM starts only for root here'


def free_ports(count: int) -> list[int]:
    "Ports of the loopback interface that nobody listens on."
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets: each.bind(('127.0.0.1', 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets: each.close()


def usable_mb() -> int:
    "Three quarters of this machine's memory."
    return psutil.virtual_memory().total // 2**20 * 3 // 4


def write_configuration(folder: Path, cpus: int, memory_mb: int) -> Path:
    "Write slurm.conf and a key for munge; the path of slurm.conf."
    for name in ('state', 'spool'): (folder / name).mkdir(parents=True, exist_ok=True)
    controller_port, node_port = free_ports(2)
    key = folder / 'munge.key'
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(1024))
    path, srun = folder / 'slurm.conf', folder / 'bin' / 'srun'
    srun.parent.mkdir(exist_ok=True)  # the executor takes SLURM_CONF from the environment of its steps
    srun.write_text(f'#!/bin/sh\nSLURM_CONF={path} exec {shutil.which("srun", path=PATHS)} "$@"\n')
    srun.chmod(0o755)
    path.write_text(CONFIGURATION.format(folder=folder, host=socket.gethostname().partition('.')[0], user='root',
                                         controller_port=controller_port, node_port=node_port, cpus=cpus,
                                         memory_mb=memory_mb))
    return path


class Cluster:
    "The daemons of a folder, and the commands that ask them."
    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = {'SLURM_CONF': str(folder / 'slurm.conf'), 'PATH': f'{folder}/bin{os.pathsep}{PATHS}'}

    def call(self, *command: str) -> str:
        "What a command prints."
        return subprocess.run(command, env=os.environ | self.environment, check=True, capture_output=True,
                              text=True, timeout=120).stdout

    def begin(self, program: str) -> None:
        "Start a daemon; it goes to the background by itself."
        options = [f'--{name}={self.folder}/munge.{end}' for name, end in
                   [('socket', 'socket'), ('key-file', 'key'), ('pid-file', 'pid'), ('log-file', 'log'),
                    ('seed-file', 'seed')]] + ['--force'] if program == 'munged' else []
        with open(self.folder / f'{program}.started', 'w') as log:  # a pipe would stay open as long as the daemon lives
            subprocess.run([program, *options], env=os.environ | self.environment, stdin=subprocess.DEVNULL, stdout=log,
                           stderr=subprocess.STDOUT, timeout=60)

    def end(self, program: str) -> None:
        "End a daemon and what it started, and wait for that."
        file = self.folder / f'{program.replace("munged", "munge")}.pid'
        with suppress(OSError, ValueError, psutil.NoSuchProcess):
            process = psutil.Process(int(file.read_text()))
            process.send_signal(signal.SIGTERM)
            with suppress(psutil.TimeoutExpired): process.wait(20)
            with suppress(psutil.NoSuchProcess): process.kill()

    def said(self) -> str:
        "The last lines of every log."
        logs = [*self.folder.glob('*.log'), *self.folder.glob('*.started')]
        return ''.join(f'\n--- {path.name}\n{path.read_text(errors="replace")[-1500:]}' for path in sorted(logs))

    def wait_until_idle(self, seconds: float = 60) -> None:
        "Wait until the node takes jobs."
        limit = time.monotonic() + seconds
        while time.monotonic() < limit:
            with suppress(subprocess.SubprocessError):
                if self.call('sinfo', '--noheader', '--format=%T').strip() in ('idle', 'mixed', 'allocated'): return
            time.sleep(0.5)
        raise RuntimeError(f'SLURM did not start within {seconds} s.{self.said()}')

    def start(self) -> None:
        "Start all daemons."
        for program in ('munged', 'slurmctld', 'slurmd'): self.begin(program)
        self.wait_until_idle()

    def stop(self) -> None:
        "End the jobs and all daemons."
        with suppress(subprocess.SubprocessError):
            self.call('scancel', '--me')
            limit = time.monotonic() + 20
            while self.call('squeue', '--noheader') and time.monotonic() < limit: time.sleep(0.5)
        for program in ('slurmd', 'slurmctld', 'munged'): self.end(program)


@contextmanager
def cluster(folder: Path, cpus: int = 2) -> Iterator[Cluster]:
    "A SLURM for the time of the block."
    write_configuration(folder, cpus, usable_mb())
    found = Cluster(folder)
    try:
        found.start()
        yield found
    finally: found.stop()


if __name__ == '__main__':
    what, folder = sys.argv[1], Path(sys.argv[2]).resolve()
    if what == 'stop': Cluster(folder).stop()
    elif reason := missing(): sys.exit(f'No SLURM: {reason}.')
    else:
        write_configuration(folder, os.cpu_count() or 1, usable_mb())
        Cluster(folder).start()
        print(f'export SLURM_CONF={folder}/slurm.conf PATH={folder}/bin:$PATH')
