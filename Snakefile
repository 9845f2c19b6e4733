# Runs and studies of one profile, cohort and seed: which runs there are, the package knows; this file knows their order.
# Started by `regpre reproduce`, which sets the configuration.
from pathlib import Path

from regpre_nb.data.cohorts import load_cohort
from regpre_nb.use.life import end_with_reproduction, make_plan, study_log
from regpre_nb.paper.costs import STUDY, cost, limits
from regpre_nb.paper.jobs import run_folder

end_with_reproduction('.')
PROFILE, DATA, SEED = config['profile'], config['data'], int(config['seed'])
PLAN = make_plan(PROFILE, load_cohort(DATA), SEED, Path('.'))
RUNS, STUDIES, RESULTS = {run.key: run for run in PLAN.runs}, tuple(PLAN.studies), PLAN.results
GPU = bool(int(config.get('gpus', 1)))  # whether a scheduler is asked for one
GROUPS = {run_folder(run, '.').parent.name for run in RUNS.values()}  # more than one where another cohort trains


def finished(run):
    return str(run_folder(run, '.') / 'run.json')


def needed_by_run(wildcards):
    run = RUNS[wildcards.key]
    return [finished(run.start)] if run.start else []


def needed_by_study(wildcards):
    # the claims come last, as their page lists the tables and figures of all others
    others = STUDIES if wildcards.study == '8_claims' else ()
    return [*(finished(run) for run in PLAN.studies[wildcards.study].values()),
            *(str(RESULTS / 'notebooks' / f'{study}.ipynb') for study in others if study != '8_claims')]


def asked(name):
    # a scheduler heeds all of it, one machine only `gpu`
    def of(wildcards, attempt):
        run = RUNS[wildcards.key]
        cohort = PLAN.cohort if run.data == DATA else load_cohort(run.data)
        return limits(cost(run, cohort, GPU), attempt)[name]
    return of


wildcard_constraints:
    key='|'.join(RUNS),
    study='|'.join(STUDIES),
    group='|'.join(GROUPS),


rule all:
    # every run by name: a run that was deleted is made again, although its studies are newer
    input: [finished(run) for run in RUNS.values()], expand(RESULTS / 'notebooks' / '{study}.ipynb', study=STUDIES)


rule run:
    input: needed_by_run
    output: Path('runs') / '{group}' / '{key}' / 'run.json'
    log: Path('runs') / '{group}' / '{key}' / 'output.txt'
    threads: 1
    resources: gpu=asked('gpu'), mem_mb=asked('mem_mb'), runtime=asked('runtime')
    shell: 'regpre train {wildcards.key:q} --profile {PROFILE:q} --data {DATA:q} --seed {SEED} > {log:q} 2>&1'


rule study:
    input: needed_by_study, notebook='nbs/studies/{study}.ipynb'
    output: RESULTS / 'notebooks' / '{study}.ipynb'
    log: study_log('{study}', RESULTS)
    threads: 1
    resources: **limits(STUDY)
    shell: 'regpre study {wildcards.study:q} --profile {PROFILE:q} --data {DATA:q} --seed {SEED} > {log:q} 2>&1'
