"""Pages of the site that are made from results/: claims, figures and tables with their origin, status, model cards."""
import ast
import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from readme import ROOT
from site_names import as_table, code_cells, source
from site_pages import HEADING, own_links, plain

VERDICTS = 'reproduced', 'not reproduced', 'undecided', 'not trained to the end', 'not run', 'not testable here'
SIGNS = dict(zip(VERDICTS, ('yes', 'no', 'undecided', 'too short', '', '')))  # in the overview of claims
FIRST = 'hippocampus', 'ixi40', 'labelmaps', 'template', 'lung_phantom', 'lung_pair'  # cohorts, in the order of pages


def rows_of(text: str) -> list[list[str]]:
    "The cells of the first Markdown table of a text."
    lines = re.search(r'(?:^\|.*\n?)+', text, re.M)
    return [] if lines is None else [[cell.strip() for cell in re.split(r'(?<!\\)\|', line)[1:-1]]
                                     for line in lines[0].strip().splitlines()]


@dataclass(frozen=True)
class Results:
    "A folder PROFILE-DATA under results/ whose studies were made."
    folder: Path
    cells: frozenset[str] = frozenset()  # labels of the cells of studies as they are now

    @property
    def name(self) -> str: return self.folder.name

    @property
    def profile(self) -> str: return self.name.partition('-')[0]

    @property
    def data(self) -> str: return self.name.partition('-')[2]

    @property
    def title(self) -> str: return f'{self.data}, {self.profile}'

    @property
    def make(self) -> str:
        "The line that makes all of it; the profile night takes nights, and stored runs are drawn without training."
        return f'make {"tables" if self.profile == "night" else "reproduce"} PROFILE={self.profile} DATA={self.data}'

    @cached_property
    def record(self) -> dict:
        "What run.json says: study -> runs and environment."
        return json.loads((self.folder / 'run.json').read_text(encoding='utf-8'))

    @cached_property
    def studies(self) -> dict[str, dict]:
        "Executed notebooks, by the names of the studies."
        paths = sorted((self.folder / 'notebooks').glob('*.ipynb'))
        return {path.stem: json.loads(path.read_text(encoding='utf-8')) for path in paths}

    def text(self, name: str) -> str:
        "A text file of the folder."
        return (self.folder / name).read_text(encoding='utf-8')

    def files(self, kind: str, ending: str) -> list[str]:
        "The names of figures or tables, in the order of the studies that made them."
        names = [path.stem for path in (self.folder / kind).glob(f'*.{ending}')]
        return sorted(names, key=lambda name: (*self.maker(name)[:2], name))

    @cached_property
    def makers(self) -> dict[str, tuple[str, int]]:
        "Figure or table -> the study and the number of the cell that saved it."
        return {name: (study, number) for study, notebook in self.studies.items()
                for number, cell in enumerate(notebook['cells']) if cell['cell_type'] == 'code'
                for name in saved_by(cell)}

    def maker(self, name: str) -> tuple[str, int]:
        "The study and the cell that saved a figure or a table, whose name may have been longer than in the cell."
        while name and name not in self.makers: name = name.rpartition('_')[0]
        return self.makers.get(name, ('', 0))

    def heading(self, name: str) -> str:
        "Under which heading of its study a figure or a table was made."
        study, number = self.maker(name)
        texts = [source(cell) for cell in self.studies[study]['cells'][:number] if cell['cell_type'] == 'markdown']
        return plain(next((found[-1] for text in reversed(texts) if (found := HEADING.findall(text))), name))

    def origin(self, name: str) -> str:
        "What a figure or a table came from: study, cell, runs, command."
        study, number = self.maker(name)
        if not study: return f'`{name}`, made by `{self.make}`.'
        cell = self.studies[study]['cells'][number].get('id', '')
        label = anchor(study, cell)
        where = f'[cell `{cell}`](#{label})' if label in self.cells else f'an earlier cell `{cell}`'
        return (f'`{name}`, made by {where} of `nbs/studies/{study}.ipynb`: `{self.make}`\n\n'
                f'{self.runs_of(study)}')

    def runs_of(self, study: str) -> str:
        "The runs of a study, folded."
        runs = list(self.record.get(study, {}).get('runs', {}))
        if not runs: return 'It uses no trained run.'
        return (f'```{{dropdown}} Runs: {len(runs)}, name and hash\n:class-container: source\n\n'
                + ', '.join(f'`{run}`' for run in runs) + '\n```')


def saved_by(cell: dict) -> list[str]:
    "The figures and tables that a cell saves, by the calls in it."
    try: calls = [node for node in ast.walk(ast.parse(source(cell))) if isinstance(node, ast.Call)]
    except SyntaxError: return []
    texts = [argument.value for call in calls if ast.unparse(call.func).startswith('save_')
             and ast.unparse(call.func) not in ('save_summary', 'save_scores')
             for argument in call.args if isinstance(argument, ast.Constant) and isinstance(argument.value, str)]
    return [text for text in texts if re.fullmatch(r'[\w-]+', text)]


def anchor(study: str, cell: str) -> str:
    "The label of a cell of a study."
    return f'{study.replace("_", "-")}-cell-{cell}'


def finished_results(cells: frozenset[str] = frozenset()) -> list[Results]:
    "The folders whose claims page was written, those of the profile cpu first."
    found = [Results(path.parent, cells) for path in (ROOT / 'results').glob('*/README.md')
             if (path.parent / 'run.json').exists()]
    def place(each: Results) -> tuple: return (each.profile != 'cpu', [*FIRST, each.data].index(each.data), each.name)
    return sorted(found, key=place)


def under_figures(results: Results, text: str) -> str:
    "A claims page with the origin under each of its figures."
    def figure(found: re.Match) -> str: return shown_figure(results, found[1])
    return re.sub(r'!\[\w*\]\(figures/([\w-]+)\.png\)', figure, text)


def shown_origin(results: Results, name: str) -> str:
    "What stands below a figure or a table."
    return f':::{{div}} origin\n{results.origin(name)}\n:::'


def shown_figure(results: Results, name: str) -> str:
    "A figure with its origin."
    alt = f'{results.heading(name)}: {results.data}, profile {results.profile}'
    return f'![{alt}](figures/{name}.png)\n\n{shown_origin(results, name)}'


def shown_table(results: Results, name: str) -> str:
    "A table with its origin."
    return f'{results.text(f"tables/{name}.md").strip()}\n\n{shown_origin(results, name)}'


def gallery(results: Results) -> str:
    "All figures and tables of a folder."
    parts = [f'# Figures and tables: {results.title}', 'What follows from them: [the claims](README.md).']
    for kind, ending, show in (('figures', 'png', shown_figure), ('tables', 'md', shown_table)):
        parts.append(f'## {kind.capitalize()}')
        for name in results.files(kind, ending):
            label = f'({kind[:-1]}-{name}-{results.name})='
            parts += [f'{label}\n### {results.heading(name)}', show(results, name)]
    return '\n\n'.join(parts)


def galleries(found: list[Results]) -> str:
    "All figures as small pictures, by the folder they lie in."
    parts = ['# All figures and tables', 'A small picture leads to the figure and to what it came from: the cell of a '
             'study, the hashes of its runs, and the command that makes it again.']
    for results in found:
        tables = ', '.join(f'[{name}](#table-{name}-{results.name})'
                           for name in results.files('tables', 'md'))
        cards = '\n'.join(thumbnail(results, name) for name in results.files('figures', 'png'))
        parts += [f'## {results.title}', f'::::{{grid}} 2 3 4 4\n:gutter: 2\n{cards}\n::::', f'Tables: {tables}.']
    return '\n\n'.join(parts)


def thumbnail(results: Results, name: str) -> str:
    "A small picture that leads to a figure."
    return (f':::{{grid-item-card}}\n:img-top: results/{results.name}/figures/{name}.png\n'
            f':img-alt: {results.heading(name)}, {results.title}\n'
            f':link: figure-{name}-{results.name}\n:link-type: ref\n:class-card: thumbnail\n'
            f'{results.heading(name)}\n:::')


def verdicts(results: Results) -> dict[str, str]:
    "Claim -> verdict, of a claims page."
    text = results.text('README.md').partition('## The claims')[2]
    return {row[0]: row[-1] for row in rows_of(text)[2:]}


def claims_overview(found: list[Results]) -> str:
    "One page above the claims pages: which claim was decided how, on which data."
    all_verdicts = {results: verdicts(results) for results in found}
    claims = dict.fromkeys(claim for told in all_verdicts.values() for claim in told)
    heads = ['claim of the paper', *(f'[{each.title}](results/{each.name}/README.md)' for each in found)]
    def sign(verdict: str) -> str:
        kind = next((each for each in VERDICTS if verdict.startswith(each)), '')
        return SIGNS.get(kind, verdict) + (' (1 seed)' if 'one seed' in verdict and SIGNS.get(kind) else '')
    rows = [[claim, *(sign(all_verdicts[each].get(claim, '')) for each in found)] for claim in claims]
    rows = [row for row in rows if any(row[1:])]
    counts = [[kind, *(str(sum(verdict.startswith(kind) for verdict in all_verdicts[each].values())) for each in found)]
              for kind in VERDICTS]
    return '\n\n'.join([
        '# What the paper says, and what was found', 'In short; each column leads to the page with differences, '
        'intervals and p-values.', as_table(['verdict', *heads[1:]], counts),
        '*yes*: reproduced. *no*: not reproduced. *undecided*: the interval allows both. *too short*: the networks '
        'were not trained to the end. *(1 seed)*: the verdict holds for one training. Empty: not run, not testable on '
        'these data, or no claim of this page. Rules and margins stand on each page.', as_table(heads, rows)])


def machine(environment: dict) -> str:
    "On what a notebook was executed."
    place = environment.get('device', '?')
    name = environment.get('device_name', '')
    threads, python, torch = (environment.get(each, '?') for each in ('threads', 'python', 'torch'))
    return f'{place} {name}'.strip() + f', {threads} thread, Python {python}, PyTorch {torch}'


def commit(environment: dict) -> str:
    "The commit that a notebook was executed with; with changes on top where it says so."
    name, dash, _ = environment.get('commit', '').partition('-')
    return f'`{name[:8]}`' + (' and changes' if dash else '') if name else 'not recorded'


def executions(results: Results) -> list[list[str]]:
    "A row for each executed study: when, how long, on what, with which commit."
    rows = []
    for study, notebook in results.studies.items():
        told, where = notebook['metadata'].get('papermill', {}), results.record.get(study, {}).get('environment', {})
        duration = f'{told["duration"]:.0f} s' if told.get('duration') else 'not recorded'
        rows.append([f'[{study}](studies/{study}.ipynb)', told.get('start_time', 'not recorded')[:16].replace('T', ' '),
                     duration, str(len(results.record.get(study, {}).get('runs', {}))), machine(where), commit(where)])
    return rows


def changes() -> dict[str, str]:
    "File under nbs/ -> commit and day of its last change, as far as git knows."
    if shutil.which('git') is None or not (ROOT / '.git').exists(): return {}
    done = subprocess.run(['git', 'log', '--format=%h, %cs', '--name-only', '--', 'nbs'], cwd=ROOT, text=True,
                          capture_output=True, env=os.environ | {'GIT_OPTIONAL_LOCKS': '0'})
    found, said = {}, ''
    for line in done.stdout.splitlines():
        if line.startswith('nbs/'): found.setdefault(line, said)
        elif line: said = line
    return found


def status(found: list[Results], notebooks: dict[str, dict]) -> str:
    "When each notebook was executed, how long it took, on what machine and with which commit."
    heads = ['study', 'executed (UTC)', 'took', 'runs used', 'machine', 'commit']
    parts = ['# Status of the notebooks', 'When a notebook was executed, how long it took, on what, and with which '
             'commit. Times of studies are those of papermill, stored with the outputs, without the training of the '
             'runs; machine and commit come from `run.json`.', '## Studies']
    for results in found: parts += [f'### {results.title}', as_table(heads, executions(results))]
    changed = changes()
    rows = []
    for name, notebook in notebooks.items():
        if name.startswith('studies/'): continue
        cells = code_cells(notebook)
        rows.append([f'[{name.removesuffix(".ipynb")}]({name})', str(len(cells)),
                     str(sum(bool(cell.get('outputs')) for cell in cells)), changed.get(f'nbs/{name}', 'not known')])
    return '\n\n'.join([*parts, '## Library notebooks', 'They are stored executed, without a record of time, machine '
                        'or commit; `make test` runs every one of them from top to bottom.',
                        as_table(['notebook', 'code cells', 'of them with outputs', 'last change'], rows)])


def card(text: str) -> str:
    "A model card as a page."
    return re.sub(r'^\| +\| +\|$', '| what | value |', re.sub(r'\A---\n.*?\n---\n+', '', text, flags=re.S), flags=re.M)


def write(path: Path, text: str) -> None:
    "A text file, and the folders above it."
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + '\n', encoding='utf-8')


def copy_results(target: Path, found: list[Results], there: set[str]) -> None:
    "Write the pages of results and of packaged weights into the folder that Sphinx reads."
    for results in found:
        folder = target / 'results' / results.name
        shutil.copytree(results.folder / 'figures', folder / 'figures', ignore=shutil.ignore_patterns('*.pdf'))
        page = f'results/{results.name}/README.md'
        write(folder / 'README.md', under_figures(results, own_links(results.text('README.md'), page, page, there)))
        write(folder / 'gallery.md', gallery(results))
    for name in ('README.md', 'paper/README.md'):
        path = f'results/{name}'
        if not (ROOT / path).exists(): continue
        write(target / path, own_links((ROOT / path).read_text(encoding='utf-8'), path, path, there))
    for path in weights(): write(target / 'cards' / f'{path.parent.name}.md', card(path.read_text(encoding='utf-8')))
    write(target / 'claims.md', claims_overview(found))
    write(target / 'gallery.md', galleries(found))


def weights() -> list[Path]:
    "The cards of the packaged weights."
    return sorted((ROOT / 'regpre_nb' / 'weights').glob('*/README.md'))
