"A study joins from outside the package: one function that lists its rows, and one notebook."
import sys
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT

from regpre_nb.data.cohorts import load_cohort
from regpre_nb.paper.studies import STUDIES, studies, study_rows
from regpre_nb.paper.tables import execute_study
from regpre_nb.use.life import make_plan

MODULE = '''
from dataclasses import replace

from regpre_nb.paper.studies import Row, initial_run, study


@study('9_half')
def half(profile, cohort, seed):
    "The pairs as they are, all of them and half."
    whole = initial_run(profile, cohort)
    few = replace(whole, name='initial-half', test_pairs=whole.test_pairs // 2)
    return [Row('initial', 'Initial', whole), Row('half', 'Initial, half of the pairs', few)]
'''

KERNEL = {'name': 'python3', 'display_name': 'Python 3', 'language': 'python'}
NOTEBOOK = '''
import half_study
from regpre_nb.paper.jobs import train
from regpre_nb.paper.studies import study_rows
from regpre_nb.paper.tables import read_scores, results_folder, save_scores, save_summary

print(f'9_half: {dict(profile=profile, data=data, seed=seed)}')
rows = study_rows('9_half', profile, data, seed)
for row in rows: train(row.run, root)
folder = results_folder(profile, data, seed, root)
save_scores(rows, read_scores(rows, root), folder)
save_summary('9_half', rows, folder, root)
'''


@pytest.fixture
def half_study(tmp_path, monkeypatch):
    "A project that holds the notebook, and a module elsewhere that lists its rows."
    (tmp_path / 'half_study.py').write_text(MODULE)
    parameters = "profile, data, seed, root = 'smoke', 'template', 0, '../..'"
    cells = [nbformat.v4.new_code_cell(parameters, metadata={'tags': ['parameters']}),
             nbformat.v4.new_code_cell(NOTEBOOK)]
    folder = tmp_path / 'project' / 'nbs' / 'studies'
    folder.mkdir(parents=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={'kernelspec': KERNEL}), folder / '9_half.ipynb')
    monkeypatch.setenv('PYTHONPATH', f'{tmp_path}:{ROOT}')
    monkeypatch.syspath_prepend(tmp_path)
    import half_study  # noqa: F401  (adds the study)
    yield tmp_path / 'project'
    STUDIES.pop('9_half')
    sys.modules.pop('half_study')


def test_study_from_outside(half_study):
    "It is planned, executed by papermill, and stored like the others; the claims take up its runs."
    template = load_cohort('template')
    assert '9_half' in studies(template)
    rows = study_rows('9_half', 'smoke', template)
    plan = make_plan('smoke', template, 0, half_study)
    assert {row.run.key for row in rows} <= set(plan.studies['9_half'])
    assert {row.run.key for row in rows} <= {row.run.key for row in study_rows('8_claims', 'smoke', template)}
    executed = execute_study('9_half', 'smoke', 'template', root=half_study)
    assert executed == half_study / 'results' / 'smoke-template' / 'notebooks' / '9_half.ipynb'
    stored = {path.stem for path in Path(executed).parents[1].joinpath('scores').glob('*.csv')}
    assert stored == {'initial', 'initial-half'}
