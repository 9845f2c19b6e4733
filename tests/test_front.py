"The front page, as README and on the site, and the page on results show what the files under results/ hold."
import json
import re
import shutil
import sys

import pandas as pd
import pytest
from conftest import ROOT, cells, source

from regpre_nb.compare.statistics import pair_values
from regpre_nb.data.files import read_table
from regpre_nb.learn.scoring import pair_name
from regpre_nb.paper.front import HEADLINE, TABLES, stored_table
from regpre_nb.paper.tables import _number, _p_value, read_per_subject

sys.path.insert(0, str(ROOT / 'tools'))
import readme  # noqa: E402
import site_results  # noqa: E402
from site_names import Names  # noqa: E402

import docs  # noqa: E402

README, RESULTS = ((ROOT / place).read_text(encoding='utf-8') for place in ('README.md', 'results/README.md'))
FOLDERS = sorted(path.parent for path in (ROOT / 'results').glob('*/run.json'))
HIPPOCAMPUS = ROOT / 'results' / 'cpu-hippocampus'
PLANTED = [  # file under results/, a number in it that one of the pages shows
    ('cpu-hippocampus/tables/table1.md', r'0\.\d{3}'), ('cpu-hippocampus/tables/headline.md', r'[+-]0\.\d{4}'),
    ('cpu-labelmaps/tables/table1.md', r'0\.\d{3}'), ('cpu-hippocampus/tables/table4.md', r'0\.\d{3}'),
    ('cpu-lung_phantom/tables/table5.md', r'\d\.\d{3}'), ('cpu-lung_phantom/tables/optimised.csv', r'\d\.\d{2}'),
    ('cpu-hippocampus/tables/headline.csv', r'(?<=10 %",15,120,)-0\.\d{4}'), ('trials/seeds.csv', r'0\.\d{4}'),
    ('cpu-hippocampus/tables/table4.csv', r'0\.\d{3}'), ('cpu-hippocampus/README.md', r'(?<=\| )reproduced(?= )'),
    ('cpu-hippocampus/run.json', r'(?<="seconds": )2\d\d(?=\.)'), ('times.csv', r'(?<=,)1\d'),
    ('bench/two_images.csv', r'\d(?=\.\d+,\d+\.\d+,$)'), ('gpu-hippocampus/scores/sd-kl-5-seed0.csv', r'0\.\d')]
EVERYWHERE = '.json', 'bench'  # studies share runs, and of a benchmark the page tells a median


@pytest.fixture
def project(tmp_path):
    "A copy of what the front page is made from."
    left_out = shutil.ignore_patterns('figures', 'notebooks', '__pycache__')
    for name in ('tools', 'results'): shutil.copytree(ROOT / name, tmp_path / name, ignore=left_out)
    for name in ('nbs', 'docs/pages'): (tmp_path / name).mkdir(parents=True)
    for name in ('nbs/index.ipynb', *readme.PAGES): shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def other(found: re.Match) -> str:
    "Another number, or another verdict."
    if not found[0][-1].isdigit(): return 'undecided'
    return '9' + found[0] if found[0].isdigit() else found[0][:-1] + str((int(found[0][-1]) + 5) % 10)


def test_nothing_stored():
    "The notebook keeps no output that could grow old."
    assert all(cell['outputs'] == [] for cell in cells(ROOT / 'nbs' / 'index.ipynb'))


@pytest.mark.parametrize('place', readme.PAGES)
def test_pages_agree(place):
    "Each page is what its sources give."
    assert readme.PAGES[place](ROOT) == (ROOT / place).read_text(encoding='utf-8'), 'run `make prepare`'


def test_all_tables():
    "The page on results has them all, and the front page asks every claim."
    for table in TABLES: assert f'**{table.heading}**' in RESULTS
    assert 'Not made yet' not in RESULTS
    for row in HEADLINE: assert f'| {row}<br>(' in README


def test_front_page_is_short():
    "Three sentences, two pictures, five doors, and no more than 150 lines."
    assert len(README.splitlines()) < 150
    assert len(re.findall(r'^!\[.+\]\(.+\)$', README, re.M)) == 2
    doors = README.split('| you want to | start with |\n|---|---|\n')[1].split('\n\n')[0]
    assert [line.split(' | ')[0].strip('| ') for line in doors.splitlines()] == [
        'read', 'reproduce', 'register', 'pretrain your own', 'extend']


def test_site_shows_the_same():
    "The first page of the site has what README says was found, word for word but for the links."
    notebook = json.loads((ROOT / 'nbs' / 'index.ipynb').read_text(encoding='utf-8'))
    there = docs.on_site(docs.notebooks(), [], site_results.finished_results())
    page = docs.front(notebook, Names([], [], []), there)
    text = '\n\n'.join(source(cell) for cell in page['cells'])
    assert not [cell for cell in page['cells'] if cell['cell_type'] == 'code']
    for line in README.split('## What was found')[1].split('## Where to start')[0].splitlines():
        assert re.sub(r'\]\(\S+?\)', '', line) in re.sub(r'\]\(\S+?\)', '', text), line


@pytest.mark.parametrize('file, number', PLANTED)
def test_planted_number(project, file, number):
    "A number that changes in results/ makes a page wrong."
    path = project / 'results' / file
    text = path.read_text(encoding='utf-8')
    everywhere = path.suffix in EVERYWHERE or path.parent.name in EVERYWHERE
    changed = re.sub(number, other, text, count=not everywhere, flags=re.M)
    assert changed != text
    path.write_text(changed, encoding='utf-8')
    assert readme.readme(project) != README or readme.results_page(project) != RESULTS


def test_check_fails(project, monkeypatch, capsys):
    "The command says so."
    path = project / 'results' / 'cpu-hippocampus' / 'tables' / 'table1.md'
    path.write_text(path.read_text(encoding='utf-8').replace('0.6', '0.5'), encoding='utf-8')
    monkeypatch.setattr(readme, 'ROOT', project)
    monkeypatch.setattr(sys, 'argv', ['readme.py', '--check'])
    assert readme.main() == 1
    assert 'results/README.md' in (said := capsys.readouterr().err) and 'make prepare' in said


@pytest.mark.parametrize('folder', FOLDERS, ids=lambda folder: folder.name)
def test_tables_agree(folder):
    "A table says the same as CSV, for machines, and as Markdown, for people."
    for path in (folder / 'tables').glob('*.csv'):
        numbers, text = read_table(path), stored_table(path.with_suffix('.md'))
        assert len(numbers) == len(text), path
        if not {'Dice mean', 'seeds'} <= set(numbers): continue  # another table, or one by earlier rules
        numbers = read_table(path, ('Dice mean', 'Dice sd (pooled)', 'difference', 'p', 'p (Holm)', 'seeds'))
        for column, name, form in (('Dice', 'Dice mean', '{:.4f}'),
                                   ("SD (pooled, the paper's)", 'Dice sd (pooled)', '{:.3f}')):
            assert list(map(form.format, numbers[name])) == text[column].tolist(), path
        for name, form in (('difference', _number), ('p', _p_value), ('p (Holm)', _p_value)):
            assert [form(value) for value in numbers[name]] == text[name].tolist(), path


def test_tables_follow_from_scores():
    "The means of table 1 are those of the scores that lie beside it."
    files = {'Initial': 'initial', 'Baseline': 'baseline-100', 'Train w/ Rand.': 'random-only',
             'SD w/o KL': 'sd-no-kl-100', 'SD w/ KL': 'sd-kl-100', 'SD w/ Dice': 'sd-dice-100'}
    table = read_table(HIPPOCAMPUS / 'tables' / 'table1.csv', ('Dice mean', 'difference')).set_index('method')
    scores = {label: read_per_subject(HIPPOCAMPUS / 'scores' / f'{file}.csv') for label, file in files.items()}
    for frame in scores.values(): frame['pair'] = list(map(pair_name, frame['moving'], frame['fixed']))
    means = pd.Series({label: pair_values(frame).to_numpy().mean() for label, frame in scores.items()})
    assert means.to_numpy() == pytest.approx(table.loc[list(files), 'Dice mean'].to_numpy(), abs=1e-6)
    for label in list(files)[1:]:
        gain = means[label] - means[table.loc[label, 'compared with']]
        assert gain == pytest.approx(table.loc[label, 'difference'], abs=1e-6)


@pytest.mark.parametrize('folder', FOLDERS, ids=lambda folder: folder.name)
def test_columns_subtract(folder):
    "The Dice of a row minus that of what it is compared with is the difference, where both have the same seeds."
    for path in (folder / 'tables').glob('*.csv'):
        if not {'Dice mean', 'compared with', 'seeds'} <= set(read_table(path)): continue
        table = read_table(path, ('Dice mean', 'difference', 'low', 'high', 'seeds')).set_index('method')
        for label, row in table[table['compared with'] != ''].iterrows():
            other = table.loc[row['compared with']]
            if row['seeds'] and other['seeds'] and row['seeds'] != other['seeds']: continue
            assert row['Dice mean'] - other['Dice mean'] == pytest.approx(row['difference'], abs=1e-9), (path, label)
            if row['low'] == row['low']: assert row['low'] <= row['difference'] <= row['high'], (path, label)
