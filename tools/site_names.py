"""What the notebooks define: definitions for Sphinx's Python domain, imports to paste, links from code spans.

All of it is read from the text of the notebooks; nothing is imported or run.
"""
import ast
import copy
import io
import re
import textwrap
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

DIRECTIVE = re.compile(r'^#\|\s*([\w-]+):?[ \t]*(.*)\n?', re.M)
SPAN = re.compile(r'(?<![\w`\[\\])`([A-Za-z_][\w.]*)(\(\))?`(?![\w`])')
LINK = re.compile(r'(!?\[(?:[^\[\]]|\[[^\]]*\])*\]\([^)]*\)|!?\[[^\]]*\]\[[^\]]*\])')
FENCE = re.compile(r'^\s*(`{3,}|~{3,})')
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef
LONGEST_VALUE = 80  # characters of a constant that is shown


def source(cell: dict) -> str:
    "The text of a cell."
    return ''.join(cell['source'])


def flags(cell: dict) -> dict[str, str]:
    "The directives of a cell."
    return dict(DIRECTIVE.findall(source(cell)))


def bare(cell: dict) -> str:
    "The code of a cell without its directives."
    return DIRECTIVE.sub('', source(cell)).strip()


def code_cells(notebook: dict) -> list[dict]:
    "The code cells of a notebook that hold plain Python."
    return [cell for cell in notebook['cells'] if cell['cell_type'] == 'code' and not re.search(r'^[ \t]*[%!]',
                                                                                              source(cell), re.M)]


def is_exported(cell: dict) -> bool:
    "Whether a cell goes into the module, for its users or only for itself."
    return bool({'export', 'exports', 'exporti'} & set(flags(cell)))


def public(node: ast.stmt) -> list[str]:
    "The names without an underscore that a statement defines."
    if isinstance(node, FUNCTION | ast.ClassDef): names = [node.name]
    elif isinstance(node, ast.AnnAssign): names = [getattr(node.target, 'id', '_')]
    elif isinstance(node, ast.Assign) and not _base(node.value).endswith('Annotated'):  # an option of a command
        names = [each.id for target in node.targets for each in ast.walk(target) if isinstance(each, ast.Name)
                 and isinstance(each.ctx, ast.Store)]
    else: names = []
    return [name for name in names if not name.startswith('_')]


def _base(node: ast.expr) -> str:
    "The name that is called or subscripted."
    while isinstance(node, ast.Subscript | ast.Call):
        node = node.value if isinstance(node, ast.Subscript) else node.func
    return ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ''


OPTIONS: dict[str, ast.expr] = {}  # name of an option of commands -> Annotated[kind, ...]


def remember_options(notebooks: list[dict]) -> None:
    "Note what stands for Annotated[kind, ...], so that signatures show the kind and tables the help."
    OPTIONS.update({node.targets[0].id: node.value for node in _exported_nodes(notebooks)
                    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
                    and _base(node.value).endswith('Annotated')})


class _Plain(ast.NodeTransformer):
    "Annotated[kind, ...] becomes kind."
    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.visit(copy.deepcopy(OPTIONS[node.id])) if node.id in OPTIONS else node

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        if _base(node).endswith('Annotated'): return self.visit(node.slice.elts[0])
        return self.generic_visit(node)


def plain(node: ast.expr | None) -> str:
    "An annotation as it is shown."
    return '' if node is None else ast.unparse(_Plain().visit(copy.deepcopy(node)))


def comments(code: str) -> dict[int, str]:
    "The comment at the end of each line of code that has one."
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    lines = code.splitlines()
    return {token.start[0]: token.string.lstrip('# ') for token in tokens if token.type == tokenize.COMMENT
            and lines[token.start[0] - 1][:token.start[1]].strip()}


def _help(annotation: ast.expr | None) -> str:
    "What a command says of an option."
    if isinstance(annotation, ast.Name): annotation = OPTIONS.get(annotation.id)
    calls = [node for node in ast.walk(annotation) if isinstance(node, ast.Call)] if annotation else []
    texts = [word.value.value for call in calls for word in call.keywords
             if word.arg == 'help' and isinstance(word.value, ast.Constant)]
    return texts[0] if texts else ''


def cell_text(text: str) -> str:
    "A text in a cell of a Markdown table."
    return re.sub(r'(?<!\\)\|', r'\\|', ' '.join(text.split()))


def as_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    "A Markdown table."
    return '\n'.join('| ' + ' | '.join(map(cell_text, row)) + ' |' for row in [heads, ['---'] * len(heads), *rows])


@dataclass
class Argument:
    "An argument or a field."
    name: str
    kind: str = ''
    default: str = ''
    text: str = ''

    def __str__(self) -> str:
        kind = f': {self.kind}' if self.kind else ''
        return self.name + kind + (f' = {self.default}' if kind and self.default else
                                   f'={self.default}' if self.default else '')


def _arguments(function: FUNCTION, notes: dict[int, str], method: bool) -> list[Argument]:
    "The arguments of a function, with `*` and `/` among them."
    given, found = function.args, []

    def add(argument: ast.arg, default: ast.expr | None = None, stars: str = '') -> None:
        last = (default or argument.annotation or argument).end_lineno
        found.append(Argument(stars + argument.arg, plain(argument.annotation), ast.unparse(default) if default else '',
                              notes.get(last, '') or _help(argument.annotation)))

    places = [*given.posonlyargs, *given.args]
    defaults = [None] * (len(places) - len(given.defaults)) + given.defaults
    for number, (argument, default) in enumerate(zip(places, defaults), 1):
        if not (method and number == 1): add(argument, default)
        if number == len(given.posonlyargs): found.append(Argument('/'))
    if given.vararg: add(given.vararg, stars='*')
    elif given.kwonlyargs: found.append(Argument('*'))
    for argument, default in zip(given.kwonlyargs, given.kw_defaults): add(argument, default)
    if given.kwarg: add(given.kwarg, stars='**')
    return found


def _fields(node: ast.ClassDef, notes: dict[int, str]) -> list[Argument]:
    "The fields of a dataclass or a named tuple."
    def default(value: ast.expr | None) -> str:
        if value is None: return ''
        if isinstance(value, ast.Call) and _base(value) == 'field':
            given = {word.arg: word.value for word in value.keywords}
            return ast.unparse(given['default']) if 'default' in given else '...' if 'default_factory' in given else ''
        return ast.unparse(value)
    lines = [each for each in node.body if isinstance(each, ast.AnnAssign) and _base(each.annotation) != 'ClassVar']
    return [Argument(each.target.id, plain(each.annotation), default(each.value), notes.get(each.end_lineno, ''))
            for each in lines if not each.target.id.startswith('_')]


def table(arguments: list[Argument], returns: str, what: str) -> str:
    "The comments of a definition, as a table."
    rows = [(f'`{each.name}`', each.text) for each in arguments if each.text]
    if returns: rows.append(('*returns*', returns))
    if not rows: return ''
    return as_table([what, 'meaning'], rows)


@dataclass
class Definition:
    "What a module offers under a name."
    name: str
    kind: str  # of Sphinx's Python domain
    signature: str = ''
    text: str = ''
    table: str = ''
    options: list[str] = field(default_factory=list)
    members: list['Definition'] = field(default_factory=list)

    def markdown(self, depth: int = 0) -> str:
        "The directive that Sphinx reads."
        fence = ':' * (8 - depth)  # a default may hold backticks
        parts = [self.text, self.table, *(member.markdown(depth + 1) for member in self.members)]
        body = '\n\n'.join(part for part in parts if part)
        head = '\n'.join([f'{fence}{{py:{self.kind}}} {self.name}{self.signature}', *self.options])
        return f'{head}\n\n{body}\n{fence}'


def _returned(function: FUNCTION, notes: dict[int, str]) -> str:
    "The comment behind the type that a function returns."
    return notes.get(function.returns.end_lineno, '') if function.returns else ''


def _doc(node: ast.AST) -> str:
    "The docstring, as Markdown."
    return textwrap.dedent(ast.get_docstring(node) or '')


def _is(node: FUNCTION | ast.ClassDef, *names: str) -> bool:
    "Whether a decorator has one of these names."
    return any(_base(each).rpartition('.')[2] in names for each in node.decorator_list)


def of_function(node: FUNCTION, notes: dict[int, str], inside: bool = False) -> Definition:
    "The definition of a function or a method."
    kept = {1} if inside and not _is(node, 'staticmethod') else set()
    arguments = _arguments(node, notes, bool(kept))
    returned = plain(node.returns)
    told = table(arguments, _returned(node, notes), 'argument')
    if inside and _is(node, 'property', 'cached_property'):
        return Definition(node.name, 'property', '', _doc(node), options=[f':type: {returned}'] if returned else [])
    kind = ('classmethod' if _is(node, 'classmethod') else 'staticmethod' if _is(node, 'staticmethod') else 'method'
            ) if inside else 'function'
    signature = f'({", ".join(map(str, arguments))})' + (f' -> {returned}' if returned else '')
    return Definition(node.name, kind, signature, _doc(node), told)


def of_class(node: ast.ClassDef, notes: dict[int, str]) -> Definition:
    "The definition of a class with its public methods."
    methods = [each for each in node.body if isinstance(each, FUNCTION)]
    start = next((each for each in methods if each.name == '__init__'), None)
    arguments = _arguments(start, notes, True) if start else _fields(node, notes)
    signature = f'({", ".join(map(str, arguments))})' if arguments else ''
    members = [of_function(each, notes, inside=True) for each in methods
               if not each.name.startswith('_') and ast.get_docstring(each)]
    kind = 'exception' if any('Error' in ast.unparse(base) for base in node.bases) else 'class'
    return Definition(node.name, kind, signature, _doc(node), table(arguments, '', 'argument' if start else 'field'),
                      members=members)


def of_constant(name: str, node: ast.Assign | ast.AnnAssign, notes: dict[int, str]) -> Definition:
    "The definition of a constant."
    value = ast.unparse(node.value) if node.value else ''
    alone = isinstance(node, ast.AnnAssign) or isinstance(node.targets[0], ast.Name)
    options = [f':value: {value}'] if alone and 0 < len(value) <= LONGEST_VALUE and '\n' not in value else []
    return Definition(name, 'data', '', notes.get(node.end_lineno, '') if alone else '', options=options)


def definitions(code: str) -> list[Definition]:
    "What a cell defines for others, in its order."
    notes, found = comments(code), []
    for node in ast.parse(code).body:
        for name in public(node):
            if isinstance(node, FUNCTION): found.append(of_function(node, notes))
            elif isinstance(node, ast.ClassDef): found.append(of_class(node, notes))
            else: found.append(of_constant(name, node, notes))
    return found


@dataclass
class Module:
    "A page's module."
    name: str                    # regpre_nb.room.page
    page: str                    # path below nbs/
    defined: list[Definition]
    imported: dict[str, str]     # name on the page -> full name

    @property
    def names(self) -> list[str]: return [each.name for each in self.defined]


def is_command(node: ast.stmt) -> bool:
    "Whether a function is a command of the command line, which nobody calls by its Python name."
    return isinstance(node, FUNCTION) and _is(node, 'command', 'callback')


def module_of(notebook: dict, page: str, package: str) -> Module:
    "The module that a notebook exports; without a name where it exports none."
    cells = code_cells(notebook)
    name = next((flags(cell)['default_exp'] for cell in cells if 'default_exp' in flags(cell)), None)
    shared = [bare(cell) for cell in cells if {'export', 'exports'} & set(flags(cell))]
    imported = {alias.asname or alias.name: f'{node.module}.{alias.name}' for cell in cells
                for node in ast.walk(ast.parse(bare(cell))) if isinstance(node, ast.ImportFrom) and node.module
                for alias in node.names}
    if name is None: return Module('', page, [], imported)
    return Module(f'{package}.{name}', page, [each for code in shared for each in definitions(code)], imported)


def ordered(notebooks: list[dict]) -> set[str]:
    "Names of commands, and names under which a loss, a cohort or a study is registered."
    words = set()
    for node in _exported_nodes(notebooks):
        if is_command(node): words.add(node.name)
        words |= {word.value for call in getattr(node, 'decorator_list', []) if isinstance(call, ast.Call)
                  for word in call.args if isinstance(word, ast.Constant)}
    return words


def given(notebooks: list[dict]) -> set[str]:
    "Names of arguments and fields."
    nodes = list(_exported_nodes(notebooks))
    return {node.arg for node in nodes if isinstance(node, ast.arg)} | {
        node.target.id for node in nodes if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}


def _exported_nodes(notebooks: list[dict]) -> Iterator[ast.AST]:
    "All pieces of the code that notebooks export."
    for cell in (cell for notebook in notebooks for cell in code_cells(notebook) if is_exported(cell)):
        yield from ast.walk(ast.parse(bare(cell)))


class Names:
    """Which code spans are links, and to what.

    A name with an underscore, a dot or a capital is meant, and so is `name()`. A plain word is not where it is also
    that of a command or of something registered; nor, on a page that neither defines nor imports it, that of an
    argument, a field or a room.
    """
    def __init__(self, modules: list[Module], notebooks: list[dict], rooms: Iterable[str]):
        self.ordered, self.places = ordered(notebooks), {}
        self.taken = self.ordered | given(notebooks) | set(rooms)
        for module in modules:
            for each in module.defined:
                for name in (each.name, *(f'{each.name}.{member.name}' for member in each.members)):
                    self.places.setdefault(name, []).append(f'{module.name}.{name}')

    def full(self, name: str, called: bool, module: Module | None) -> str | None:
        "The full name of what a code span means; None where it may mean something else."
        places, first = self.places.get(name, []), name.partition('.')[0]
        meant = called or self.telling(name)
        other = self.ordered
        if module and f'{module.name}.{name}' in places: found = f'{module.name}.{name}'
        elif module and first in module.imported: found = module.imported[first] + name[len(first):]
        else: found, other = places[0] if len(places) == 1 else '', self.taken
        return found if found in places and (meant or name not in other) else None

    @staticmethod
    def telling(name: str) -> bool:
        "Whether a name can hardly be a word of prose or of a command."
        return '_' in name or '.' in name or name != name.lower()

    def linked(self, text: str, module: Module | None = None) -> str:
        "A Markdown text whose code spans are links where they name a definition."
        def link(span: re.Match) -> str:
            full = self.full(span[1], bool(span[2]), module)
            return f'{{py:obj}}`{span[1]}{span[2] or ""} <{full}>`' if full else span[0]
        lines, fence = [], ''
        for line in text.split('\n'):
            if (mark := FENCE.match(line)) and (not fence or mark[1].startswith(fence)):
                fence = '' if fence else mark[1]
            elif not fence and not line.startswith('#'):
                line = ''.join(part if number % 2 else SPAN.sub(link, part)
                               for number, part in enumerate(LINK.split(line)))
            lines.append(line)
        return '\n'.join(lines)


def wrapped_import(module: str, names: list[str]) -> str:
    "An import statement of at most 100 characters a line."
    line = f'from {module} import {", ".join(names)}'
    if len(line) <= 100: return line
    return f'from {module} import (\n' + textwrap.fill(', '.join(names), 96, initial_indent='    ',
                                                       subsequent_indent='    ') + ')'


def imports_to_paste(notebook: dict, module: Module) -> str:
    "The imports with which the shown cells of a page run: of the page's module, and what they use of others."
    cells = code_cells(notebook)
    shown = [cell for cell in cells if not is_exported(cell) and 'hide' not in flags(cell)]
    used = {node.id for cell in shown for node in ast.walk(ast.parse(bare(cell))) if isinstance(node, ast.Name)}
    lines = [wrapped_import(module.name, module.names)] if module.names else []
    for node in (node for cell in cells if cell not in shown for node in ast.parse(bare(cell)).body):
        if not isinstance(node, ast.Import | ast.ImportFrom): continue
        aliases = [each for each in node.names if (each.asname or each.name.partition('.')[0]) in used]
        if not aliases: continue
        short = copy.copy(node)
        short.names = aliases
        lines.append(wrapped_import(node.module, [ast.unparse(each) for each in aliases])
                     if isinstance(node, ast.ImportFrom) else ast.unparse(short))
    return '\n'.join(dict.fromkeys(lines))
