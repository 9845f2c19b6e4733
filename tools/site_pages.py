"""Pages of the site from the notebooks: definitions with folded source, outputs with a text for who cannot see them."""
import ast
import posixpath
import re

from site_names import (
    LINK,
    Module,
    Names,
    bare,
    definitions,
    flags,
    imports_to_paste,
    is_exported,
    source,
)
from site_outputs import safe_output

HEADING = re.compile(r'^#+ +(.+)$', re.M)
CALLOUT = re.compile(r'^:::\s*\{\.callout-(\w+)[^}]*\}', re.M)
TARGET = re.compile(r'\]\(([^)\s]+)\)$')
PLACES = (('nbs/', ''), ('docs/pages/', ''), ('results/', 'results/'))  # in the project -> on the site
WEIGHTS = re.compile(r'regpre_nb/weights/([\w-]+)/README\.md$')
FIGURE = re.compile(r'results/([\w-]+)/figures/([\w-]+)\.png$')
TABLE = re.compile(r'results/([\w-]+)/tables/([\w-]+)\.md$')


def markdown(text: str) -> dict:
    "A markdown cell."
    return {'cell_type': 'markdown', 'metadata': {}, 'source': text}


def site_path(path: str) -> str | None:
    "Where a file of the project is on the site; None for what is not there."
    if found := WEIGHTS.match(path): return f'cards/{found[1]}.md'
    if found := FIGURE.match(path): return f'#figure-{found[2]}-{found[1]}'
    if found := TABLE.match(path): return f'#table-{found[2]}-{found[1]}'
    for old, new in PLACES:
        if path.startswith(old) and path.endswith(('.ipynb', '.md')): return new + path.removeprefix(old)
    return None


def own_links(text: str, file: str, page: str, there: set[str]) -> str:
    """A Markdown text of a file of the project, its relative links those of the site; a link to what the site does not
    have is its text alone."""
    def link(found: re.Match) -> str:
        target = TARGET.search(found[0])
        if target is None or re.match(r'[a-z]+:|#|/', target[1]): return found[0]
        path, _, anchor = target[1].partition('#')
        path = posixpath.normpath(posixpath.join(posixpath.dirname(file), path))
        picture = found[0].startswith('!')
        place = path if picture else site_path(path)
        if not picture and place not in there: return re.sub(r'^\[|\]\([^)]*\)$', '', found[0])
        here = place if place.startswith('#') else posixpath.relpath(place, posixpath.dirname(page) or '.')
        return f'{found[0][:target.start()]}]({here}{"#" if anchor else ""}{anchor})'
    return LINK.sub(link, text)


def plain(text: str) -> str:
    "A Markdown text without its marks."
    text = re.sub(r'\{[\w:]+\}`([^`<]*?)(?: <[^>]*>)?`', r'\1', text)
    text = re.sub(r'!?\[([^\]]*)\]\([^)]*\)', r'\1', text)
    return ' '.join(re.sub(r'[*`$>#]|\\(?=[a-z])', '', text).split())


def told(texts: list[str]) -> str:
    "What the text above says of a figure: its heading, and the first sentence below it or the last one above."
    heading = next((found[-1] for text in reversed(texts) if (found := HEADING.findall(text))), '')
    prose = [part for part in re.split(r'\n\s*\n', texts[-1]) if not re.match(r'\s*(#|\||```|:::|>|\$\$|!\[)', part)]
    sentence = re.split(r'(?<=[.:?!])\s', plain(prose[-1]))[0].rstrip(':') if prose else ''
    return '. '.join(part.rstrip('.') for part in (plain(heading), sentence) if part)[:300]


def with_alt(cell: dict, text: str) -> dict:
    "A cell whose pictures have an alternative text."
    cell['metadata']['mystnb'] = {'image': {'alt': text or 'Figure'}}
    return cell


def unlink(output: dict, name: str, there: set[str]) -> None:
    "Make links in Markdown that a cell printed those of the site."
    data = output.get('data', {})
    if 'text/markdown' in data:
        data['text/markdown'] = own_links(''.join(data['text/markdown']), f'nbs/{name}', name, there)


def folded(title: str, code: str) -> str:
    "Code that is unfolded on demand."
    return f':::::{{dropdown}} {title}\n:class-container: source\n\n```python\n{code}\n```\n:::::'


def private(code: str) -> list[str]:
    "What a cell defines for the module alone."
    names = [getattr(node, 'name', None) or getattr(getattr(node, 'targets', [None])[0], 'id', None)
             for node in ast.parse(code).body if not isinstance(node, ast.Import | ast.ImportFrom)]
    return [name for name in names if name]


def exported(cell: dict) -> list[dict]:
    "An exported cell: what it defines for others, its source folded below."
    code = bare(cell)
    tree = ast.parse(code).body
    if not tree or all(isinstance(node, ast.Import | ast.ImportFrom) for node in tree): return []
    shared = [] if 'exporti' in flags(cell) else definitions(code)
    texts = [each.markdown() for each in shared]
    title = 'Source' if shared else 'Source of ' + ', '.join(f'`{name}`' for name in private(code)[:4])
    if not shared and len(private(code)) > 4: title += ' and others'
    return [markdown('\n\n'.join([*texts, folded(title.removesuffix(' of '), code)]))]


def head(notebook: dict, module: Module) -> dict:
    "The module of a page, and what to import so that its examples run."
    lines = imports_to_paste(notebook, module)
    return markdown(f'```{{py:module}} {module.name}\n```\n\n:::{{div}} module\nModule `{module.name}`, from '
                    f'`nbs/{module.page}`. To run the examples of this page:\n:::\n\n'
                    f'```python\n{lines}\n```')


def page(notebook: dict, name: str, module: Module, names: Names, there: set[str], keywords: str = '') -> dict:
    "The notebook that Sphinx reads, from the one that was written."
    cells, texts = [], ['']
    for cell in notebook['cells']:
        if cell['cell_type'] == 'raw': continue
        if cell['cell_type'] == 'markdown':
            text = own_links(CALLOUT.sub(r':::{\1}', source(cell)), f'nbs/{name}', name, there)
            texts.append(text)
            cells.append(markdown(names.linked(text, module)))
            if len(cells) == 1 and module.name: cells.append(head(notebook, module))
        elif is_exported(cell): cells += exported(cell)
        elif not {'hide', 'default_exp'} & set(flags(cell)) and bare(cell):
            tags = ['remove-input'] if flags(cell).get('echo') == 'false' else []
            shown = {key: value for key, value in cell.items() if key in ('cell_type', 'outputs', 'execution_count')}
            if cell.get('anchor'): cells.append(markdown(f'({cell["anchor"]})='))
            shown['outputs'] = [safe_output(output) for output in shown['outputs']]
            for output in shown['outputs']: unlink(output, name, there)
            cells.append(with_alt(shown | {'source': bare(cell), 'metadata': {'tags': tags}}, told(texts)))
            if cell.get('origin'): cells.append(markdown(cell['origin']))
    return written(cells, keywords)


def written(cells: list[dict], keywords: str = '') -> dict:
    "A notebook of these cells."
    for number, cell in enumerate(cells): cell['id'] = f'cell-{number}'
    metadata = {'kernelspec': {'display_name': 'python3', 'language': 'python', 'name': 'python3'},
                'language_info': {'name': 'python', 'pygments_lexer': 'ipython3'}}
    if keywords: metadata['myst'] = {'html_meta': {'keywords': keywords}}
    return {'cells': cells, 'metadata': metadata, 'nbformat': 4, 'nbformat_minor': 5}
