"The smoke reproduction through Snakemake and papermill: killed, finished, repeated, in part undone."
import ast
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
from commands import COMMAND, environment, hippocampus_like, regpre
from conftest import ROOT, long, parsed, texts_of
from filelock import FileLock
from matplotlib.image import imread

from regpre_nb.data.cohorts import load_cohort
from regpre_nb.paper.jobs import run_folder
from regpre_nb.paper.studies import all_runs, studies, study_rows, study_runs, with_pretraining
from regpre_nb.paper.tables import read_scores, score_table

ASKED = '--profile', 'smoke', '--data', 'template'
SMOKE = dict(profile='smoke', data='template')
RESULTS = Path('results') / 'smoke-template'
LUNG = dict(profile='smoke', data='lung_phantom')


def copy_project(folder):
    "Copy what git knows or would take; no data, no runs and no results of a smoke test come with it."
    listed = subprocess.run(['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'], cwd=ROOT,
                            check=True, capture_output=True, text=True).stdout.split('\0')
    for file in filter(None, listed):
        if not (ROOT / file).is_file(): continue
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, folder / file)


def start_and_kill(project):
    "Kill the command once a run has begun, without a warning, and wait until all that it started has ended, too."
    process = subprocess.Popen([COMMAND, 'reproduce', *ASKED, '--root', str(project)], env=environment(),
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
    begun = 'runs/smoke-template/pretrain-*/.lock'
    while not list(project.glob(begun)) and process.poll() is None: time.sleep(0.1)
    if process.poll() is not None: return f'ended before it was killed: {process.stderr.read()}'
    started = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    psutil.wait_procs(started)
    return '' if len(started) > 1 else 'nothing had begun'


@pytest.fixture
def project(tmp_path_factory):
    "A copy of the project in which one reproduction was killed and the next one came to its end."
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if 'PYTEST_XDIST_WORKER' in os.environ else base
    copy, story = shared / 'project', shared / 'reproduce.json'
    with FileLock(shared / 'reproduce.lock'):  # workers of pytest take turns
        if not story.exists():
            copy_project(copy)
            problem = start_and_kill(copy)
            finished = [path.parent.name for path in copy.glob('runs/*/*/run.json')]
            done = regpre('reproduce', *ASKED, '--root', copy)
            logs = ''.join(f'\n--- {path.name}\n{path.read_text()[-1500:]}' for path in copy.rglob('runs/**/*.txt'))
            story.write_text(json.dumps(dict(problem=problem, finished=finished, code=done.returncode, told=done.stdout,
                                             complained=done.stderr[-4000:] + (logs if done.returncode else ''))))
        known = json.loads(story.read_text())
        assert known['code'] == 0, known['complained']
        yield copy


@pytest.fixture
def known(project):
    "What is known of the first reproduction."
    return json.loads((project.parent / 'reproduce.json').read_text())


def ages(*paths):
    "When each file below the paths was last written; locks and what nothing depends on left out."
    files = [file for path in paths for file in path.rglob('*')
             if file.is_file() and not file.name.startswith('.') and file.name != 'snakemake.txt'
             and file.parent.name != '.workers']
    return {str(file): file.stat().st_mtime_ns for file in files}


def written(function, data='template'):
    "The names under which a cohort's studies save: the constant arguments of a function, read from the notebooks."
    calls = [node for study in studies(data) for tree in parsed(texts_of(ROOT / 'nbs' / 'studies' / f'{study}.ipynb'))
             for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == function]
    return sorted({argument.value for call in calls for argument in call.args if isinstance(argument, ast.Constant)})


def test_goes_on_after_kill(known):
    "Killed in its first training run, the reproduction ends when it is asked for again."
    assert known['problem'] == ''
    assert len(known['finished']) < len(all_runs(**SMOKE)), 'it was killed too late to show anything'


def test_every_run_once(project):
    "Each run has left its record, its scores and its weights, and there is no folder of another run."
    runs = all_runs(**SMOKE)
    folders = {run_folder(run, project) for run in runs}
    assert {path for path in (project / 'runs' / 'smoke-template').iterdir() if path.is_dir()} == folders
    for run in runs:
        folder = run_folder(run, project)
        assert json.loads((folder / 'run.json').read_text())['key'] == run.key
        assert (folder / 'per_subject.csv').exists() == run.scored
        if run.steps:
            steps = [json.loads(line)['step'] for line in (folder / 'log.jsonl').read_text().splitlines()]
            assert steps == list(range(1, run.steps + 1)), run.key
            assert (folder / f'{run.leaves[-1]}.safetensors').is_file()
    pairs = {tuple(frame[['moving', 'fixed']].drop_duplicates().itertuples(index=False, name=None))
             for frame in read_scores(study_rows('2_ablation', **SMOKE), project).values()}
    assert len(pairs) == 1, 'the runs were scored on different pairs'


def check_results(project, profile, data):
    "Every study leaves its notebook without an error, its tables twice, its figures twice, and its runs in run.json."
    folder = project / 'results' / f'{profile}-{data}'
    for study in studies(data):
        notebook = json.loads((folder / 'notebooks' / f'{study}.ipynb').read_text(encoding='utf-8'))
        outputs = [output for cell in notebook['cells'] for output in cell.get('outputs', [])]
        assert outputs and not [output for output in outputs if output['output_type'] == 'error']
    tables = written('save_table', data) + ([] if load_cohort(data).landmarks else written('save_score_tables', data))
    figures = written('save_figure', data)
    assert tables and figures
    found = {f'{kind}/{path.name}' for kind in ('tables', 'figures') for path in (folder / kind).iterdir()}
    assert found == {f'tables/{name}.{kind}' for name in tables for kind in ('csv', 'md')} | {
        f'figures/{name}.{kind}' for name in figures for kind in ('png', 'pdf')}
    for name in tables: assert len(pd.read_csv(folder / 'tables' / f'{name}.csv'))
    for name in figures:
        assert imread(folder / 'figures' / f'{name}.png')[..., :3].std() > 0.01, f'{name} is blank'
        assert (folder / 'figures' / f'{name}.pdf').read_bytes()[:5] == b'%PDF-'
    summary, mark = json.loads((folder / 'run.json').read_text()), load_cohort(data).fingerprint()
    assert all(entry['fingerprint'] == mark and entry['seconds'] > 0 for entry in summary.values())
    assert {study: set(entry['runs']) for study, entry in summary.items()} == {
        study: set(with_pretraining(study_runs(study, profile, data))) for study in studies(data)}


def test_results(project):
    "What the studies of labels leave."
    check_results(project, **SMOKE)


def test_lung(project, monkeypatch):
    "The studies of landmarks, each with the runs that it needs, from a phantom that is made for it to the claims."
    monkeypatch.delenv('REGPRE_DATA', raising=False)  # the commands see no folder of data
    for study in studies('lung_phantom'):
        done = regpre('study', study, '--profile', 'smoke', '--data', 'lung_phantom', '--root', project)
        assert done.returncode == 0, done.stderr[-4000:]
    check_results(project, **LUNG)
    folder = project / 'results' / 'smoke-lung_phantom'
    told = (folder / 'tables' / 'optimised.md').read_text(encoding='utf-8')
    assert 'simulated motion of a geometric thorax' in told
    scores = pd.read_csv(folder / 'scores' / 'initial.csv')
    assert len(scores) == 900 and scores['tre_mm'].between(0, 60).all()
    row = pd.read_csv(folder / 'tables' / 'optimised.csv').iloc[0]
    assert row['mean'] == pytest.approx(scores.groupby('fixed')['tre_mm'].mean().mean(), abs=1e-3)
    assert 'Pretraining lowers the landmark error.' in (folder / 'README.md').read_text(encoding='utf-8')


def test_told(project, known):
    "Standard output holds the table, the words that say what the data are, and where the figures lie."
    for label in study_runs('2_ablation', **SMOKE): assert label in known['told']
    row = pd.read_csv(project / RESULTS / 'tables' / 'table1.csv').iloc[0]
    assert f"{row['Dice mean']:.4f}" in known['told']
    assert load_cohort('template').description in known['told']
    count = len(all_runs(**SMOKE)) + len(studies('template'))
    assert f' of {count} done' in known['complained'] and 'begins, log: ' in known['complained']
    log = project / known['complained'].split('begins, log: ')[1].split()[0]
    assert log.is_file()
    told = regpre('status', *ASKED, '--root', project).stdout.splitlines()
    assert {line.split()[1] for line in told[:-1]} == {'done'}
    assert told[-1].startswith(f'{count} of {count} done; nothing is left')
    assert str(project / RESULTS / 'figures') in known['told']


def test_second_call_does_nothing(project, known):
    "Nothing is written again, and the same is printed."
    folders = project / 'runs', project / 'results'
    before = ages(*folders)
    done = regpre('reproduce', *ASKED, '--root', project)
    assert done.returncode == 0, done.stderr
    assert ages(*folders) == before
    assert done.stdout == known['told']


@long
def test_lost_run(project):
    "A run that is gone is done again with the same outcome, and the study that needs it; nothing else is."
    lost = study_runs('3_data_fraction', **SMOKE)['W/o pretraining, 50 %']
    folder = run_folder(lost, project)
    scores, before = (folder / 'per_subject.csv').read_bytes(), ages(project / 'runs', project / 'results')
    shutil.rmtree(folder)
    done = regpre('reproduce', *ASKED, '--root', project)
    assert done.returncode == 0, done.stderr
    after = ages(project / 'runs', project / 'results')
    assert after.keys() == before.keys()
    again = {Path(path).relative_to(project) for path, age in after.items() if age != before[path]}
    assert folder.relative_to(project) / 'run.json' in again
    assert RESULTS / 'notebooks' / '3_data_fraction.ipynb' in again and RESULTS / 'README.md' in again
    assert not [path for path in again if path.name.endswith('.safetensors') and path.parent.name != lost.key]
    others = {run.key for run in all_runs(**SMOKE)} - {lost.key}
    assert not [path for path in again if others & set(path.parts)]
    assert RESULTS / 'notebooks' / '1_random_images.ipynb' not in again
    assert (folder / 'per_subject.csv').read_bytes() == scores


def test_table_without_weights(project, tmp_path):
    "The table follows from the files per_subject.csv alone."
    rows = study_rows('2_ablation', **SMOKE)
    for run in (run for row in rows for run in row.runs):
        target = run_folder(run, tmp_path)
        target.mkdir(parents=True)
        shutil.copy(run_folder(run, project) / 'per_subject.csv', target)
    stored = pd.read_csv(project / RESULTS / 'tables' / 'table1.csv', keep_default_na=False, na_values=[''])
    stored['compared with'] = stored['compared with'].fillna('')
    reference = {row['method']: row['compared with'] for _, row in stored.iterrows() if row['compared with']}
    assert reference
    again = score_table(read_scores(rows, tmp_path), reference)
    shared = [column for column in again.columns if column in stored.columns]
    assert {'method', 'Dice mean', '%NDV mean', 'p'} <= set(shared)
    pd.testing.assert_frame_equal(again[shared], stored[shared], check_dtype=False, rtol=1e-9)


@long
def test_hippocampus(project, tmp_path):
    "A study on files under REGPRE_DATA: subject to subject, runs trained in the notebook."
    hippocampus_like(tmp_path)
    done = regpre('study', '2_ablation', '--profile', 'smoke', '--data', 'hippocampus', '--root', project,
                  REGPRE_DATA=tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    folder = project / 'results' / 'smoke-hippocampus'
    assert done.stdout.strip() == str(folder / 'notebooks' / '2_ablation.ipynb')
    table = pd.read_csv(folder / 'tables' / 'table1.csv')
    assert list(table['pairs']) == [6]*len(table)
    assert table['Dice mean'].between(0.1, 0.99).all()
