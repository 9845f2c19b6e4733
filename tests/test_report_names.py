"Names are text from the scores of a run to tables, figures, groups and pages; few people have no interval."
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from regpre_nb.learn.scoring import pair_name, subject_rows
from regpre_nb.paper.claims import MARGINS, Claim, claims_page, gains, matches
from regpre_nb.paper.comparison import box_figure, by_start, cost_table, pair_costs, tuning_table
from regpre_nb.paper.front import stored_table
from regpre_nb.paper.jobs import Initial, run_folder
from regpre_nb.paper.landmarks import case_errors, case_table, compare_errors, landmark_table, readable_errors
from regpre_nb.paper.studies import Row
from regpre_nb.paper.tables import (
    compare,
    read_per_subject,
    read_scores,
    readable,
    save_scores,
    save_table,
    score_table,
    shown_table,
)

CASES = ['001', '01', '1', 'NA', 'null', 'nan', 'None', '1e3', 'a|b', '[/b]', 'two\nlines', '-1', 'True', '$x$']
STRUCTURES = ['3', 'NA', '', 'null', 'left | right', '007']
LABELS = 'Initial', 'Better'


def run(name: str) -> Initial:
    "A run of which only the folder matters."
    return Initial(name=name, profile='smoke', data='made-up')


ROWS = [Row(label, label, run(label)) for label in LABELS]


def scores(gain: float, cases: list[str] = CASES) -> pd.DataFrame:
    "Made-up scores of these cases."
    return pd.concat([subject_rows('NA', case, STRUCTURES, [0.4 + 0.01 * i + 0.02 * k + gain
                                                           for k in range(len(STRUCTURES))], 0.)
                      for i, case in enumerate(cases)], ignore_index=True)


@pytest.fixture
def written(tmp_path) -> Path:
    "A project with the scores of two runs, as CSV."
    for label, gain in zip(LABELS, (0., 0.1)):
        folder = run_folder(run(label), tmp_path)
        folder.mkdir(parents=True)
        scores(gain).to_csv(folder / 'per_subject.csv', index=False)
    return tmp_path


@pytest.fixture
def found(written) -> dict[str, pd.DataFrame]:
    "The scores, read back."
    return read_scores(ROWS, written)


def test_scores_come_back(found, tmp_path):
    "Nobody vanishes, no name changes; also in what goes into results/."
    for label, gain in zip(LABELS, (0., 0.1)): pd.testing.assert_frame_equal(found[label], scores(gain))
    save_scores(ROWS, found, tmp_path)
    again = read_per_subject(tmp_path / 'scores' / 'Better.csv')
    assert again['fixed'].unique().tolist() == CASES and again['structure'].unique().tolist() == STRUCTURES


def test_tables(found, tmp_path):
    "All people count, groups find their members, a row of Markdown stays a row."
    table = score_table(found, {'Better': 'Initial'}, {'number': ['3', '007'], 'word': ['NA', 'null', '']})
    assert table['subjects'].tolist() == [len(CASES)] * 2
    assert table['difference'].iloc[1] == pytest.approx(0.1)
    by_case = pd.DataFrame({'case': CASES, 'Dice': ['0.5'] * len(CASES)})
    save_table(by_case, by_case, tmp_path, 'cases', 'Made up.')
    shown = stored_table(tmp_path / 'tables' / 'cases.md')
    assert len(shown) == len(CASES) and list(shown) == ['case', 'Dice'] and (shown['Dice'] == '0.5').all()
    assert shown['case'].tolist()[:4] == CASES[:4]
    html = shown_table(pd.DataFrame({'<b>': ['<i>x</i>']})).to_html()
    assert '<i>x' not in html and '&lt;i&gt;x' in html and '&lt;b&gt;' in html


def test_figures_and_quarters(found, tmp_path):
    "Every structure has its place on the axis; every pair is in a quarter."
    figure = box_figure(found)
    figure.savefig(tmp_path / 'figure.png')
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == STRUCTURES
    plt.close(figure)
    assert by_start(found).loc['pairs'].sum() == len(CASES)


def test_landmarks(tmp_path):
    "Cases of landmarks, too; a single row a case."
    frame = pd.concat([pd.DataFrame({'pair': pair_name('NA', case), 'moving': 'NA', 'fixed': case, 'point': [1, 2],
                                     'tre_mm': [1., 2.], 'ndv_percent': 0.}) for case in CASES], ignore_index=True)
    frame.to_csv(tmp_path / 'per_subject.csv', index=False)
    read = read_per_subject(tmp_path / 'per_subject.csv')
    assert case_errors(read).index.tolist() == CASES
    assert case_table({'Initial': read})['case'].tolist()[:len(CASES)] == CASES


def test_costs_and_settings(written):
    "What a pair cost keeps the pair's name; an empty cell is no failure."
    one = run('Better')
    folder = run_folder(one, written)
    pd.DataFrame({'pair': ['001', 'NA'], 'seconds': 1., 'cpu_seconds': [1., None], 'peak_mb': 5., 'versions': '',
                  'failure': [None, 'no such file']}).to_csv(folder / 'cost.csv', index=False)
    costs = pair_costs(one, None, written)
    assert costs['pair'].tolist() == ['001', 'NA']
    assert cost_table({'Better': costs}).loc['Better', ['seconds', 'failed']].tolist() == [1., 1]
    pd.DataFrame({'settings': ['{"a": 1}'], 'pairs': 4, 'score': 0.5, 'cpu_seconds': None, 'failed': 4}).to_csv(
        folder / 'tuning.csv', index=False)
    assert tuning_table({'Better': one}, written)[['pairs', 'failed']].values.tolist() == [[4, 4]]


def test_claims_page(tmp_path):
    "A claim keeps to its row whatever the names in it."
    (tmp_path / 'tables').mkdir()
    page = claims_page([Claim('a|b\nc is better.', 'table 1', 'x | y', 'undecided')], 'Made up.', tmp_path, [])
    assert stored_table(page)['verdict'].tolist() == ['undecided']


@pytest.mark.parametrize('people', [1, 2, 3, 5])
def test_few_people(people):
    "Fewer than six people have a range, which says so, and decide nothing, however clear it looks."
    cases = CASES[:people]
    better = compare(scores(0.2, cases), scores(0., cases))
    assert pd.isna([better.low, better.high]).all()
    assert gains(better, 0.) == matches(better, MARGINS['Dice']) == 'undecided'
    row = readable(score_table({'Better': scores(0.2, cases)}, {})).iloc[0]
    assert row['95 % interval'].startswith('range ' if people > 1 else 'no interval')
    assert f'({people} subject' in row['95 % interval'] and f'({people} subject' in better.between()


def test_few_cases():
    "The same of landmarks."
    frame = pd.concat([pd.DataFrame({'pair': case, 'fixed': case, 'tre_mm': [1. + i, 2. + i], 'ndv_percent': 0.})
                       for i, case in enumerate('abc')], ignore_index=True)
    better = frame.assign(tre_mm=frame['tre_mm'] - 0.5)
    assert gains(compare_errors(frame, better), 0.) == 'undecided'
    text = readable_errors(landmark_table({'one': frame, 'other': better}, {'other': 'one'}))
    assert text['difference (mm)'].tolist() == ['', '-0.500 (range -0.500 to -0.500 (3 cases))']


def test_six_people():
    "Six have an interval, and may decide."
    better = compare(scores(0.2, CASES[:6]), scores(0., CASES[:6]))
    assert better.low == pytest.approx(0.2) and better.p_value == 2 / 10_000
    assert gains(better, better.p_value) == matches(better, MARGINS['Dice']) == 'reproduced'
