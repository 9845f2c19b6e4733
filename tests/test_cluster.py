"What a cluster is told: the resources of every run, the workflow profile; what is said where there is no cluster."
import sys
from pathlib import Path

import pytest
import yaml
from commands import regpre
from conftest import ROOT
from snakemake.cli import get_argument_parser

from regpre_nb.data.cohorts import load_cohort
from regpre_nb.paper.costs import cost, limits
from regpre_nb.paper.studies import all_runs
from regpre_nb.use.life import LEADER, end_with_reproduction

sys.path.insert(0, str(ROOT / 'tests' / 'slurm'))
from cluster import free_ports, write_configuration  # noqa: E402

PROFILE = ROOT / 'profiles' / 'slurm'


@pytest.mark.parametrize('gpu', [False, True])
def test_resources(gpu):
    "Every run asks for minutes and memory; for a GPU where it trains and there is one."
    cohort = load_cohort('template')
    for run in all_runs('cpu', cohort):
        asked = limits(cost(run, cohort, gpu))
        assert 15 < asked['runtime'] < 24 * 60 and 1000 < asked['mem_mb'] < 16_000, run.key
        assert asked['gpu'] == gpu or not run.steps, run.key


def test_profile_options():
    "Every option of the workflow profile is one of Snakemake; those of the executor have its prefix."
    options = yaml.safe_load((PROFILE / 'config.yaml').read_text())
    parser = get_argument_parser()
    known = {string for action in parser._actions for string in action.option_strings}
    assert options['executor'] == 'slurm' and options['jobs'] > 1
    assert not [name for name in options if f'--{name}' not in known and not name.startswith('slurm-')]


def test_configuration(tmp_path):
    "The configuration names free ports, the folder and what the node has; only its owner reads the key."
    path = write_configuration(tmp_path, cpus=3, memory_mb=4321)
    known = dict(line.split('=', 1) for line in path.read_text().splitlines())
    assert known['StateSaveLocation'] == str(tmp_path / 'state') and (tmp_path / 'state').is_dir()
    assert known['SlurmctldPort'] != known['SlurmdPort']
    assert 'CPUs=3 RealMemory=4321' in known['NodeName']
    assert (tmp_path / 'munge.key').stat().st_mode & 0o077 == 0
    assert len(set(free_ports(5))) == 5


@pytest.mark.parametrize('content, told', [
    (None, 'holds no config.yaml'), ('executor: nobodys\njobs: 2', 'not installed')])
def test_refused(content, told, tmp_path):
    "A workflow profile that cannot work is refused in one sentence, before anything begins."
    if content: (tmp_path / 'config.yaml').write_text(content)
    done = regpre('reproduce', '--profile', 'smoke', '--workflow-profile', tmp_path, '--root', ROOT)
    assert done.returncode == 2 and done.stderr.startswith('regpre: ') and told in done.stderr
    assert done.stderr.count('\n') == 1


def test_status_without_squeue(tmp_path):
    "Where jobs were submitted and SLURM cannot be asked, status says so and tells the rest."
    for name in ('Snakefile', 'nbs'): (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / '.snakemake' / 'slurm_logs').mkdir(parents=True)
    told = regpre('status', '--profile', 'smoke', '--root', tmp_path, PATH=tmp_path).stdout.splitlines()
    assert told[-2].startswith('squeue is not found') and ' done; ' in told[-1]


def test_job_follows_nobody(tmp_path, monkeypatch):
    "A process in a job of a cluster does not look for the lock of a command that runs elsewhere."
    (tmp_path / 'runs').mkdir()
    monkeypatch.setenv(LEADER, '1 elsewhere ')
    end_with_reproduction(tmp_path)
    assert not list(Path(tmp_path / 'runs').iterdir())
