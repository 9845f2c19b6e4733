"The smoke reproduction through a real SLURM: interrupted, killed, a job cancelled, node and controller gone."
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cluster import Cluster, cluster, missing
from commands import environment, save
from test_reproduce import RESULTS, SMOKE, check_results, copy_project

from regpre_nb.paper.jobs import run_folder
from regpre_nb.paper.studies import all_runs

pytestmark = pytest.mark.skipif('REGPRE_SLURM_TEST' not in os.environ, reason='takes long; make slurm-test runs it')
PATIENT = 'from regpre_nb.use import cli, cluster; cluster.PATIENCE = 60; cli.main()'  # so that nobody waits for long
OPTIONS = """\
executor: slurm
jobs: 4
retries: 2
latency-wait: 10
slurm-status-command: squeue
slurm-init-seconds-before-status-checks: 3
"""


@pytest.fixture(scope='module')
def slurm(tmp_path_factory):
    "A SLURM of one node with two CPUs."
    if reason := missing(): pytest.skip(reason)
    with cluster(tmp_path_factory.mktemp('slurm')) as found: yield found


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    "A copy of the project, and a workflow profile beside it."
    folder = tmp_path_factory.mktemp('cluster')
    copy_project(folder / 'project')
    (folder / 'profile').mkdir()
    (folder / 'profile' / 'config.yaml').write_text(OPTIONS)
    return folder / 'project'


class Reproduction:
    "`regpre reproduce` on the cluster, as a process, and what it says."
    def __init__(self, project: Path, slurm: Cluster):
        self.project, self.slurm, self.log = project, slurm, project.parent / 'said.txt'
        self.environment = environment(**slurm.environment)

    def command(self, *arguments: object) -> list[str]:
        "A regpre command for the smoke profile."
        return [sys.executable, '-c', PATIENT, *map(str, arguments), '--profile', 'smoke', '--root', str(self.project)]

    def start(self) -> subprocess.Popen:
        "Begin."
        arguments = 'reproduce', '--workflow-profile', self.project.parent / 'profile', '--run-gpus', 0
        with open(self.log, 'w') as log:
            return subprocess.Popen(self.command(*arguments), env=self.environment, stdout=log,
                                    stderr=subprocess.STDOUT)

    def status(self) -> str:
        "What `regpre status` prints."
        return subprocess.run(self.command('status'), env=self.environment, check=True, capture_output=True,
                              text=True).stdout

    def queue(self, *states: str) -> dict[str, str]:
        "Number -> comment of the jobs in these states, all where none is named."
        wanted = ','.join(states) or 'all'
        lines = self.slurm.call('squeue', '--noheader', f'--states={wanted}', '--format=%i|%k').splitlines()
        return dict(line.split('|', 1) for line in lines)

    def words(self) -> str:
        "The ends of all logs."
        paths = [self.log, *self.project.glob('runs/smoke-template/*.txt'), *self.project.rglob('slurm_logs/**/*.log')]
        return ''.join(f'\n--- {path}\n{path.read_text(errors="replace")[-1500:]}' for path in paths if path.exists())


def wait_for(what: Callable[[], object], process: subprocess.Popen, reproduction: Reproduction) -> object:
    "What a function gives once it gives something, as long as the process lives."
    while not (found := what()):
        assert process.poll() is None, reproduction.words()
        time.sleep(0.5)
    return found


@pytest.fixture(scope='module')
def reproduction(project, slurm):
    "The reproduction."
    return Reproduction(project, slurm)


def test_interrupted(reproduction):
    "A reproduction that is asked to end leaves no job in the queue."
    process = reproduction.start()
    wait_for(lambda: reproduction.queue('RUNNING'), process, reproduction)
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 130, reproduction.words()
    assert not reproduction.queue('PENDING', 'RUNNING')


def test_killed(reproduction):
    "Jobs of one that was killed are named by the next, which does not begin beside them."
    process = reproduction.start()
    wait_for(lambda: reproduction.queue('RUNNING'), process, reproduction)
    process.kill()
    process.wait()
    left = reproduction.queue('PENDING', 'RUNNING')
    assert left
    process = reproduction.start()
    assert process.wait(300) == 2, reproduction.words()
    said = reproduction.log.read_text()
    named = said.partition('SLURM still has jobs of an earlier reproduction: ')[2].partition(';')[0].split(', ')
    assert set(named) and set(named) <= set(left), said
    assert f'scancel {" ".join(named)}' in said
    reproduction.slurm.call('scancel', *left)


def test_recovers(reproduction):
    "A cancelled job is submitted again, a drained node is waited for, a controller that was gone is found again."
    slurm, process = reproduction.slurm, reproduction.start()
    cancelled = wait_for(lambda: next((number for number, told in reproduction.queue('RUNNING').items()
                                       if told.startswith('rule_run')), None), process, reproduction)
    node = slurm.call('sinfo', '--noheader', '--format=%n').strip()
    slurm.call('scontrol', 'update', f'nodename={node}', 'state=drain', 'reason=test')
    slurm.call('scancel', cancelled)
    log = reproduction.project / 'runs' / 'smoke-template' / 'snakemake.txt'
    wait_for(lambda: 'Trying to restart job' in log.read_text(), process, reproduction)
    counted = reproduction.status().splitlines()[-2]
    assert ' submitted to SLURM: ' in counted and ' 0 failed' not in counted and ' 0 pending' not in counted
    slurm.call('scontrol', 'update', f'nodename={node}', 'state=resume')
    wait_for(lambda: reproduction.queue('RUNNING'), process, reproduction)
    slurm.end('slurmctld')
    wait_for(lambda: 'Falling back to' in log.read_text(), process, reproduction)  # it asked, and nobody answered
    slurm.begin('slurmctld')
    assert process.wait() == 0, reproduction.words()
    assert 'it begins again' in reproduction.log.read_text()


def test_results(reproduction):
    "Every run is done, every table and figure is there, and no job is left."
    project = reproduction.project
    assert all((run_folder(run, project) / 'run.json').is_file() for run in all_runs(**SMOKE)), reproduction.words()
    check_results(project, **SMOKE)
    assert str(project / RESULTS / 'figures') in reproduction.log.read_text()
    assert not reproduction.queue('PENDING', 'RUNNING')


def test_an_array_of_pairs(slurm, tmp_path, monkeypatch):
    "Two jobs share a table of pairs; submitted again, they leave what is there as it is."
    rng, out = np.random.default_rng(0), tmp_path / 'out'
    for n in range(4): save(tmp_path / f'{n}.nii.gz', rng.random((24, 24, 24), np.float32))
    lines = ['name,moving,fixed', *(f'pair{n},{n}.nii.gz,{n + 1}.nii.gz' for n in range(3))]
    (tmp_path / 'pairs.csv').write_text('\n'.join(lines) + '\n', encoding='utf-8')
    for name, value in environment(**slurm.environment).items(): monkeypatch.setenv(name, value)
    job = (f'{sys.executable} -m regpre_nb.use.cli register --pairs {tmp_path}/pairs.csv -o {out} --no-affine '
           '--steps 1 --part array')
    submit = 'sbatch', '--wait', '--array=1-2', '--mem=2000', f'--output={tmp_path}/%a.txt', '--wrap', job
    stamps = []
    for _ in range(2):
        slurm.call(*submit)
        told = ''.join(path.read_text() for path in tmp_path.glob('[12].txt'))
        stamps.append({path.parent.name: path.stat().st_mtime_ns for path in out.glob('*/record.json')})
        assert set(stamps[-1]) == {'pair0', 'pair1', 'pair2'}, told
    assert stamps[0] == stamps[1]
    assert {line.split(',')[0] for line in (out / 'results.csv').read_text().splitlines()[1:]} == set(stamps[0])
