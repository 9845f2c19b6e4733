"Results that are stored without weights: tables are drawn from them, and nothing is trained."
import shutil

import pandas as pd
from commands import regpre
from conftest import long
from test_reproduce import copy_project

from regpre_nb.data.cohorts import load_cohort
from regpre_nb.paper.studies import study_runs

ASKED = '--profile', 'smoke', '--data', 'template'


@long
def test_tables_without_training(tmp_path):
    copy_project(tmp_path)
    at, results = ('--root', tmp_path), tmp_path / 'results' / 'smoke-template'
    nothing = regpre('tables', *ASKED, *at)
    assert nothing.returncode == 2 and 'No run of smoke on template is finished' in nothing.stderr
    assert nothing.stderr.count('\n') <= 2 and not results.exists()

    runs = study_runs('2_ablation', 'smoke', load_cohort('template'))
    for label in ('Initial', 'Baseline'):
        done = regpre('train', runs[label].key, *ASKED, *at)
        assert done.returncode == 0, done.stderr
    stored = regpre('store', *ASKED, *at, '--weights')
    assert stored.returncode == 0 and stored.stdout.startswith('2 of '), stored.stderr
    shutil.rmtree(tmp_path / 'runs')
    weights = [*(results / 'runs').rglob('*.safetensors')]
    assert weights
    for path in weights: path.unlink()  # as in a clone, which holds scores and curves

    drawn = regpre('tables', *ASKED, *at)
    assert drawn.returncode == 0 and '2 runs taken from' in drawn.stdout, drawn.stderr
    assert pd.read_csv(results / 'tables' / 'table1.csv')['method'].tolist() == ['Initial', 'Baseline']
    executed = (results / 'notebooks' / '2_ablation.ipynb').read_text()
    assert 'No pair is drawn' in executed and not (results / 'figures' / 'pair.png').exists()
    assert 'not run: SD w/ KL' in (results / 'README.md').read_text()
    trained = {path.parent.name for path in (tmp_path / 'runs').rglob('run.json')}
    assert trained == {runs[label].key for label in ('Initial', 'Baseline')}
