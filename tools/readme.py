"""Write the pages that are made from others: README.md from nbs/index.ipynb, the results in results/README.md, the list
of notebooks in docs/pages/notebooks.md.

The notebook stores no output: what its code cells display is made here, whenever the page is written.
With --check: write nothing, exit 1 if a page is not what would be written.
"""
import ast
import re
import sys
from contextlib import chdir
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parent.parent
HEADER = '<!-- Generated from nbs/index.ipynb and results/ by tools/readme.py: edit the notebook. -->\n\n'
DIRECTIVE = re.compile(r'^#\|.*\n?', re.M)
LINK = re.compile(r'\]\((?!\w+:|[#/])([^)\s]+)\)')
RESULTS = re.compile(r'(<!-- results -->\n).*(\n<!-- /results -->)', re.S)
NOTEBOOKS = '''<!-- Generated from the notebooks by tools/readme.py: edit their first cells. -->

# Notebooks

The notebooks stand in rooms. A room uses those above it in this list and no other; folders of `nbs/` and subpackages of
`regpre_nb` share the rooms' names. Each page goes in short rounds: the need and the equation, one function, a picture
or a number, and assertions that read as examples.
'''
ROOMS = {  # folder of nbs/ -> what it holds
    '': 'Begin here', 'method': 'The method: random images, networks, losses, measures',
    'data': 'Images, whatever files lie behind them', 'learn': 'Pretraining, fine-tuning, scores',
    'compare': 'Statistics, and other methods', 'paper': "The paper's runs, tables and claims", 'use': 'From a shell',
    'studies': 'The studies: tables and figures'}


def displayed(code: str, folder: Path) -> str:
    "The Markdown that a cell ends with, made now; paths in it are relative to the folder."
    *body, last = ast.parse(code).body
    names: dict = {}
    with chdir(folder):
        exec(compile(ast.Module(body, []), 'index.ipynb', 'exec'), names)  # noqa: S102 - of the project's own page
        return eval(compile(ast.Expression(last.value), 'index.ipynb', 'eval'), names).data  # noqa: S307 - as above


def front_cells(cells: list[dict], folder: Path) -> list[dict]:
    "The cells of index.ipynb, those of code replaced by what they display."
    return [cell if cell['cell_type'] != 'code' else
            {'cell_type': 'markdown', 'id': cell['id'], 'metadata': {},
             'source': displayed(DIRECTIVE.sub('', ''.join(cell['source'])), folder)} for cell in cells]


def from_nbs(path: str) -> str:
    "A link that is relative to nbs/, made relative to the top folder."
    return path[3:] if path.startswith('../') else f'nbs/{path}'


def readme(root: Path = ROOT) -> str:
    "The text of README.md."
    notebook = nbformat.read(root / 'nbs' / 'index.ipynb', as_version=4)
    notebook.metadata['language_info'] = {'name': 'python'}  # else the code fences have no language
    notebook.cells = [nbformat.from_dict(cell) for cell in front_cells(notebook.cells, root / 'nbs')]
    body, _ = MarkdownExporter().from_notebook_node(notebook)
    body = LINK.sub(lambda link: f']({from_nbs(link[1])})', body)
    return HEADER + re.sub(r'\n{3,}', '\n\n', body).strip() + '\n'


def results_page(root: Path = ROOT) -> str:
    "The text of results/README.md: between two comments the results, the rest as it is written there."
    from regpre_nb.paper.front import results_section
    text = (root / 'results' / 'README.md').read_text(encoding='utf-8')
    return RESULTS.sub(lambda found: f'{found[1]}\n{results_section(root)}\n{found[2]}', text)


def notebook_list(root: Path = ROOT) -> str:
    "The text of docs/pages/notebooks.md: every notebook and the sentence that its first cell quotes."
    parts = [NOTEBOOKS]
    for room, words in ROOMS.items():
        rows = ['| notebook | what you can do after it |', '|---|---|']
        for path in sorted((root / 'nbs' / room).glob('*.ipynb')):
            if path.name == 'index.ipynb': continue
            first = nbformat.read(path, as_version=4).cells[0].source
            place = path.relative_to(root).as_posix()
            rows.append(f'| [{path.stem}](../../{place}) | {re.search(r"^> (.+)", first, re.M)[1]} |')
        if len(rows) > 2: parts.append('\n'.join([f'## {words}', '', *rows, '']))
    return '\n'.join(parts)


PAGES = {'README.md': readme, 'results/README.md': results_page, 'docs/pages/notebooks.md': notebook_list}


def main() -> int:
    "Write or check; the exit code."
    texts = {ROOT / name: page(ROOT) for name, page in PAGES.items()}
    old = [path for path, text in texts.items() if not path.exists() or path.read_text(encoding='utf-8') != text]
    if '--check' not in sys.argv[1:]:
        for path in old: path.write_text(texts[path], encoding='utf-8')
    elif old:
        names = ', '.join(path.relative_to(ROOT).as_posix() for path in old)
        print(f'{names}: not what the notebooks and results/ give: run `make prepare`', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__': sys.exit(main())
