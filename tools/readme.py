"""Write README.md from nbs/index.ipynb and the files under results/.

The notebook stores no output: what its code cells display is made here, whenever the page is written.
With --check: write nothing, exit 1 if README.md is not what would be written.
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


def displayed(code: str, folder: Path) -> str:
    "The Markdown that a cell ends with, made now; paths in it are relative to the folder."
    *body, last = ast.parse(code).body
    names: dict = {}
    with chdir(folder):
        exec(compile(ast.Module(body, []), 'index.ipynb', 'exec'), names)
        return eval(compile(ast.Expression(last.value), 'index.ipynb', 'eval'), names).data


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


def main() -> int:
    "Write or check; the exit code."
    target, text = ROOT / 'README.md', readme()
    if '--check' not in sys.argv[1:]:
        target.write_text(text, encoding='utf-8')
    elif not target.exists() or target.read_text(encoding='utf-8') != text:
        print('README.md is not what nbs/index.ipynb and results/ give: run `make prepare`', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__': sys.exit(main())
