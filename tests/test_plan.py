"What `regpre plan` refuses and says, and the words of other commands about runs that are asked for."
import json
import math

import pytest
from conftest import ROOT
from typer.testing import CliRunner

from regpre_nb.data.cohorts import load_cohort
from regpre_nb.method.settings import InputError, load_additions
from regpre_nb.paper.costs import RATES
from regpre_nb.paper.jobs import Initial
from regpre_nb.paper.profiles import PROFILES, load_profile
from regpre_nb.paper.rates import keep_rates, kept_rates
from regpre_nb.paper.studies import all_runs, finetuning_run
from regpre_nb.use.cli import _hours, _run_named, _sharing, app

SMOKE = '--profile', 'smoke', '--data', 'template', '--cores', '2'


def asked(*arguments, root=ROOT):
    "What a command of the package printed, in this process; raises what it raises."
    done = CliRunner().invoke(app, [*arguments, '--root', str(root)])
    if done.exception and not isinstance(done.exception, SystemExit): raise done.exception
    return done


@pytest.mark.parametrize('told, hours', [('36h', 36), ('3d', 72), ('1d12h', 36), ('0.5h', 0.5), ('', None)])
def test_times(told, hours): assert _hours(told) == hours


@pytest.mark.parametrize('told', ['0h', '0d0h', '12h1d', '3', 'd', 'h', '-1h', 'inf', '1d 12h'])
def test_what_is_no_time(told):
    with pytest.raises(InputError, match='such as 36h, 3d or 1d12h'): _hours(told)


def test_what_is_no_price():
    with pytest.raises(InputError, match='what an hour can cost'): asked('plan', *SMOKE, '--quick', '--price', 'inf')
    for price in ('nan', '-1', 'much'): assert asked('plan', *SMOKE, '--quick', '--price', price).exit_code == 2


def test_not_a_clone(tmp_path):
    with pytest.raises(InputError, match='holds no Snakefile'): asked('plan', *SMOKE, '--quick', root=tmp_path)


def test_profile_comes_first():
    "Nothing is said about a cohort that is not here before the profile is known to exist."
    with pytest.raises(InputError, match="no profile 'papr'.*did you mean 'paper'"): asked('plan', '--profile', 'papr')


def test_profile_from_elsewhere(tmp_path, monkeypatch):
    "An installed package adds one that a command finds at its first look."
    info = tmp_path / 'mine-1.0.dist-info'
    info.mkdir()
    (info / 'METADATA').write_text('Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n')
    (info / 'entry_points.txt').write_text('[regpre_nb.paper]\nmine = mine_profile\n')
    (tmp_path / 'mine_profile.py').write_text('from regpre_nb.paper.profiles import PROFILES\n'
                                              'PROFILES["mine"] = PROFILES["smoke"]\n')
    monkeypatch.syspath_prepend(tmp_path)
    load_additions.cache_clear()
    try: assert load_profile('mine', load_cohort('template')) == load_profile('smoke', load_cohort('template'))
    finally:
        PROFILES.pop('mine', None)
        load_additions.cache_clear()


@pytest.mark.parametrize('gpus, rates, more', [('1', 'one H100', 'GPUs'), ('0', 'one core', 'cores')])
def test_deadline(gpus, rates, more):
    "Without GPUs it is the cores that are too few; whose rates were taken is said."
    done = asked('plan', *SMOKE, '--quick', '--gpus', gpus, '--deadline', '0.001h')
    assert rates in done.stderr and f'within 4 s: no, no number of {more} is enough' in done.stdout
    assert 'yes' in asked('plan', *SMOKE, '--quick', '--gpus', gpus, '--deadline', '99d').stdout


@pytest.mark.parametrize('changes', [{'start': '4'}, {'score': math.nan}, {'process': -1}, {'least': math.inf},
                                     {'methods': [1]}, {'methods': {'deeds': None}}, {'new': 1}, {'graph': True}],
                         ids=str)
def test_rates_that_no_machine_has(tmp_path, monkeypatch, changes):
    monkeypatch.setenv('REGPRE_CACHE', str(tmp_path))
    cohort = load_cohort('template')
    path = keep_rates(RATES['cpu'], 'smoke', cohort)
    assert kept_rates('smoke', cohort) == RATES['cpu']._replace(methods={})
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert kept_rates('smoke', cohort) is None


def test_mistyped_run():
    key = all_runs('smoke', 'template', 3)[1].key
    with pytest.raises(InputError) as said: _run_named(key[:-1], 'smoke', 'template', 3)
    assert f'did you mean {key!r}?' in str(said.value)
    assert '`regpre runs --profile smoke --data template --seed 3` lists them' in str(said.value)


def test_processes_that_have_nothing_to_share(capsys):
    "One batch a step is the work of one process, and pairs that are only scored are no steps."
    trained = finetuning_run('smoke', load_cohort('template'), 0)
    for run, batches in ((trained, 1), (Initial(name='initial', profile='smoke', data='template'), 0)):
        assert _sharing(run, 1) == 1 and not capsys.readouterr().err
        assert _sharing(run, 2) == 1
        assert capsys.readouterr().err.endswith(f'of 2 processes 1 will do; batches of a step to share: {batches}.\n')


@pytest.mark.parametrize('command', ['status', 'reproduce'])
def test_fewer_cores_than_none(command):
    done = asked(command, *SMOKE[:-1], '-5')
    assert done.exit_code == 2 and 'greater than or equal to 0' in done.stderr
