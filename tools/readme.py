"Write README.md from nbs/index.ipynb. With --check: write nothing, exit 1 if README.md is not what would be written."
import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parent.parent
HEADER = '<!-- Generated from nbs/index.ipynb by tools/readme.py: edit the notebook. -->\n\n'
HIDDEN = re.compile(r'^#\|\s*(hide|default_exp|exporti?)\b', re.M)
SILENT = re.compile(r'^#\|\s*echo:\s*false', re.M)
DIRECTIVE = re.compile(r'^#\|.*\n?', re.M)
LINK = re.compile(r'\]\((?!\w+:|[#/])([^)\s]+)\)')


def from_nbs(path: str) -> str:
    "A link that is relative to nbs/, made relative to the top folder."
    return path[3:] if path.startswith('../') else f'nbs/{path}'


def readme() -> str:
    "The text of README.md."
    notebook = nbformat.read(ROOT / 'nbs' / 'index.ipynb', as_version=4)
    notebook.metadata['language_info'] = {'name': 'python'}  # else the code fences have no language
    cells = [cell for cell in notebook.cells if not HIDDEN.search(cell.source)]
    for cell in cells:
        if cell.cell_type != 'code': continue
        cell.metadata['transient'] = {'remove_source': bool(SILENT.search(cell.source))}
        cell.source = DIRECTIVE.sub('', cell.source)
    notebook.cells = cells
    body, _ = MarkdownExporter().from_notebook_node(notebook)
    body = LINK.sub(lambda link: f']({from_nbs(link[1])})', body)
    return HEADER + re.sub(r'\n{3,}', '\n\n', body).strip() + '\n'


def main() -> int:
    "Write or check; the exit code."
    target, text = ROOT / 'README.md', readme()
    if '--check' not in sys.argv[1:]:
        target.write_text(text, encoding='utf-8')
    elif not target.exists() or target.read_text(encoding='utf-8') != text:
        print('README.md is not what nbs/index.ipynb gives: run `make prepare`', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__': sys.exit(main())
