"""Build the site: nbs/*.ipynb, docs/pages/*.md and results/ -> _docs/html, or another folder that is named.

`site_pages` makes each notebook a page, its definitions read from the code by `site_names`; `site_results` makes the
pages of results; Sphinx writes the HTML. No cell is executed but those of the first page, whose numbers come from
results/ (`front_cells`); figures are the outputs stored in the notebooks, and for the studies the outputs of the last
`make reproduce` (`with_outputs`). No network, no Quarto.
"""
import json
import os
import re
import shutil
import sys
from pathlib import Path

import site_results
from readme import ROOT, front_cells
from site_names import Module, Names, bare, module_of, remember_options, source
from site_pages import SECURITY, markdown, own_links, page, site_path, written

PACKAGE = 'regpre_nb'
ROOMS = {  # folders of nbs/, in reading order, with what they are about
    'method': 'random images, networks, losses, measures', 'data': 'images, whatever files lie behind them',
    'learn': 'pretrain, fine-tune, score', 'compare': 'other methods, and statistics',
    'paper': 'from runs to tables and claims', 'use': 'register, train, command line'}
FIRST = ('notebooks', 'reproduce', 'data', 'guides/gpu', 'guides/cluster', 'guides/encoder', 'guides/cohort',
         'guides/loss', 'guides/method', 'extend')  # of docs/pages, in the first chapter; the others end the last one
LAST = 'scale', 'paper', 'glossary', 'references'
DOORS = 'you want to'  # heads the table of the first page that becomes cards
KEYWORDS = {  # page -> words that are looked for and that it does not say
    'index.ipynb': 'tutorial, introduction, overview, quick start, getting started, installation',
    'tour.ipynb': 'tutorial, introduction, example, getting started, demo',
    'use/50g_own.ipynb': 'custom encoder, custom dataset, custom network, own backbone, tutorial',
    'method/06a_encoders.ipynb': 'custom encoder, custom network, backbone, plugin',
    'guides/encoder.md': 'custom encoder, custom network, backbone, how to',
    'guides/cohort.md': 'custom dataset, custom data, own images, how to',
    'guides/loss.md': 'custom loss, custom similarity, how to', 'guides/method.md': 'custom method, baseline, how to',
    'guides/gpu.md': 'CUDA, NVIDIA, how to', 'guides/cluster.md': 'Slurm, HPC, Snakemake, how to'}


def notebooks() -> dict[str, dict]:
    "The notebooks, by their paths below nbs/, in reading order."
    rank = ['.', *ROOMS, 'studies']
    paths = [path.relative_to(ROOT / 'nbs') for path in (ROOT / 'nbs').rglob('*.ipynb')
             if '.ipynb_checkpoints' not in path.parts]
    paths = sorted((path for path in paths if str(path.parent) in rank), key=lambda p: (rank.index(str(p.parent)), p))
    return {path.as_posix(): json.loads((ROOT / 'nbs' / path).read_text(encoding='utf-8')) for path in paths}


def title(notebook: dict) -> str:
    "The heading of a notebook."
    return next(source(cell) for cell in notebook['cells'] if source(cell).startswith('# ')).split('\n')[0][2:].strip()


def labelled(notebook: dict, name: str) -> frozenset[str]:
    "Give the cells of a study that save something a label to link to; the labels."
    labels = {}
    for cell in notebook['cells']:
        if cell['cell_type'] == 'code' and site_results.saved_by(cell):
            labels[site_results.anchor(Path(name).stem, cell['id'])] = cell
    for label, cell in labels.items(): cell['anchor'] = label
    return frozenset(labels)


def with_outputs(notebook: dict, name: str, found: list[site_results.Results]) -> dict:
    "A study with the outputs of its executed copy, by the ids of cells; it says how many have been edited since."
    results = next((each for each in found if Path(name).stem in each.studies), None)
    if results is None: return notebook
    executed = results.studies[Path(name).stem]
    old = {cell['id']: cell for cell in executed['cells']
           if 'injected-parameters' not in cell['metadata'].get('tags', [])}
    edited = 0
    for cell in (cell for cell in notebook['cells'] if cell['cell_type'] == 'code'):
        twin = old.get(cell.get('id'))
        cell['outputs'] = twin['outputs'] if twin else []
        edited += not twin or bare(twin) != bare(cell)
        saved = [each for each in site_results.saved_by(cell) if each in results.makers]
        if saved and cell['outputs']: cell['origin'] = site_results.shown_origin(results, saved[0])
    since = f' {edited} of its cells have been edited since; their outputs are of the text before.' if edited else ''
    note = f':::{{note}}\nThe outputs on this page were made by `{results.make}`.{since}\n:::'
    return notebook | {'cells': [notebook['cells'][0], markdown(note), *notebook['cells'][1:]]}


def doors(text: str) -> str:
    "A Markdown text whose table of doors is cards."
    def cards(found: re.Match) -> str:
        rows = site_results.rows_of(found[0])[2:]
        items = [f':::{{grid-item-card}} {first[:1].upper()}{first[1:]}\n:class-card: door\n{second}\n:::'
                 for first, second in rows]
        return '\n'.join(['::::{grid} 1 1 2 3', ':gutter: 2', *items, '::::', ''])
    return re.sub(rf'^\| *{DOORS} *\|.*\n(?:\|.*(?:\n|\Z))+', cards, text, flags=re.M)


def leading(text: str, there: set[str]) -> str:
    "A Markdown text whose pictures of results lead to what they were made from."
    def link(found: re.Match) -> str:
        label = site_path(found[1])
        return f'[{found[0]}]({label})' if label in there else found[0]
    return re.sub(r'!\[[^\]]*\]\((results/[^)\s]+)\)', link, text)


def front(notebook: dict, names: Names, there: set[str], toctrees: str = '') -> dict:
    "The first page: results filled in, doors, and the contents of the site."
    cells = front_cells(notebook['cells'], ROOT / 'nbs')
    module = Module('', 'index.ipynb', [], {})
    texts = [own_links(source(cell), 'nbs/index.ipynb', 'index.ipynb', there) for cell in cells]
    shown = [markdown(names.linked(doors(leading(text, there)), module)) for text in texts]
    return written([*shown, markdown(toctrees)], KEYWORDS['index.ipynb'])


def toctree(caption: str, entries: list[str]) -> str:
    "A part of the table of contents."
    if not entries: return ''
    return '\n'.join(['```{toctree}', ':hidden:', f':caption: {caption}', '', *entries, '```'])


def contents(pages: dict[str, dict], guides: list[str], found: list[site_results.Results]) -> str:
    "The site's table of contents: guides, the rooms in reading order, studies, results, and lists of names."
    def of(folder: str) -> list[str]: return [name for name in pages if name.startswith(f'{folder}/')]
    first = [name for name in pages if '/' not in name and name != 'index.ipynb']
    how = [name for name in guides if name.removesuffix('.md') in FIRST or name.startswith('guides/')]
    others = [name for name in guides if name not in how]
    results = ['All claims in short <claims>']
    results += [f'Claims: {each.title} <results/{each.name}/README>' for each in found]
    results += ['All figures and tables <gallery>']
    results += [f'Figures: {each.title} <results/{each.name}/gallery>' for each in found]
    results += [f'{text} <results/{name}/README>' if name else f'{text} <results/README>'
                for name, text in (('', 'Where the results come from'), ('paper', 'The paper\'s numbers'))
                if (ROOT / 'results' / name / 'README.md').exists()]
    cards = [f'Model card: {path.parent.name} <cards/{path.parent.name}>' for path in site_results.weights()]
    parts = [toctree('Start', [*first, *how]),
             *(toctree(f'{room.capitalize()}: {meaning}', of(room)) for room, meaning in ROOMS.items()),
             toctree('Studies: the experiments', of('studies')), toctree('Results', results),
             toctree('Reference', [*others, *cards, 'security', 'Status of the notebooks <status>',
                                   'All names <genindex>'])]
    return '\n\n'.join(filter(None, parts))


def guide_pages() -> list[str]:
    "The written pages, in the order of `FIRST` and `LAST`; paths below docs/pages/."
    folder = ROOT / 'docs' / 'pages'
    paths = [path.relative_to(folder).as_posix() for path in folder.rglob('*.md')]
    rank = {f'{name}.md': number for number, name in enumerate((*FIRST, *LAST))}
    return sorted(paths, key=lambda path: (rank.get(path, len(rank)), path))


def on_site(books: dict[str, dict], guides: list[str], found: list[site_results.Results]) -> set[str]:
    "What a link can lead to: pages, pictures and labels of tables."
    files = [*(f'nbs/{name}' for name in books), *(f'docs/pages/{name}' for name in guides), 'results/README.md',
             'results/paper/README.md', SECURITY,
             *(path.relative_to(ROOT).as_posix() for path in site_results.weights()),
             *(f'results/{each.name}/README.md' for each in found),
             *(path.relative_to(ROOT).as_posix() for each in found for path in each.folder.rglob('*.png')),
             *(path.relative_to(ROOT).as_posix() for each in found for path in each.folder.rglob('tables/*.md'))]
    return {place for file in files if (ROOT / file).exists() and (place := site_path(file))}


def write_sources(target: Path) -> None:
    "Write what Sphinx reads into a folder."
    books, guides = notebooks(), guide_pages()
    if 'index.ipynb' not in books: sys.exit('docs: nbs/index.ipynb is missing; it is the first page of the site')
    remember_options(list(books.values()))
    modules = {name: module_of(book, name, PACKAGE) for name, book in books.items()}
    names = Names(list(modules.values()), list(books.values()), [*ROOMS, 'studies', 'results'])
    studies = {name: labelled(book, name) for name, book in books.items() if name.startswith('studies/')}
    found = site_results.finished_results(frozenset().union(*studies.values()))
    there = on_site(books, guides, found)
    site_results.write(target / 'status.md', site_results.status(found, books))
    for name in studies: books[name] = with_outputs(books[name], name, found)
    for name, book in books.items():
        made = (front(book, names, there, contents(books, guides, found)) if name == 'index.ipynb' else
                page(book, name, modules[name], names, there, KEYWORDS.get(name, '')))
        site_results.write(target / name, json.dumps(made, indent=1, ensure_ascii=False))
    for name in guides:
        text = (ROOT / 'docs' / 'pages' / name).read_text(encoding='utf-8')
        text = own_links(text, f'docs/pages/{name}', name, there)
        meta = f'---\nmyst:\n  html_meta:\n    keywords: {KEYWORDS[name]}\n---\n' if name in KEYWORDS else ''
        site_results.write(target / name, meta + names.linked(text))
    text = (ROOT / SECURITY).read_text(encoding='utf-8')
    site_results.write(target / 'security.md', names.linked(own_links(text, SECURITY, 'security.md', there)))
    site_results.copy_results(target, found, there)


def main(folder: Path) -> int:
    "Build the site; the exit code. A warning is an error."
    os.chdir(ROOT)
    for name in ('source', 'doctrees', 'html'): shutil.rmtree(folder / name, ignore_errors=True)
    write_sources(folder / 'source')
    from sphinx.cmd.build import main as sphinx
    options = ['-W', '--keep-going', '-q', '--no-color', '-c', 'docs', '-d', str(folder / 'doctrees')]
    code = sphinx([*options, str(folder / 'source'), str(folder / 'html')])
    if code == 0: print(os.path.relpath(folder / 'html' / 'index.html'))
    return code


if __name__ == '__main__': sys.exit(main(Path(sys.argv[1]) if sys.argv[1:] else ROOT / '_docs'))
