"What SECURITY.md promises of files from others, downloads, archives, names and scripts."
import json
import re
import struct
import sys
import tracemalloc
import zipfile
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import hostile
import pytest
from conftest import ALL, ROOT, name
from test_register import blobs, tilted

from regpre_nb.data.downloads import unpack
from regpre_nb.data.ixi import read_arrays
from regpre_nb.data.volumes import Volume
from regpre_nb.learn.weights import from_pretrained
from regpre_nb.method.released import load_authors_checkpoint
from regpre_nb.method.settings import sentence_of
from regpre_nb.use.register import register
from regpre_nb.use.report import write_report

sys.path.insert(0, str(ROOT / 'tools'))
from site_outputs import safe_html, safe_markdown, safe_output  # noqa: E402

PICKLES = [(kind, name) for kind, some in (('names', hostile.names), ('tricks', hostile.tricks))
           for name in some(Path('canary'))] + [('bombs', name) for name in hostile.bombs()]


@pytest.fixture(scope='module')
def pickles(tmp_path_factory):
    "The contents of all hostile pickles, and the file that they would leave behind."
    canary = tmp_path_factory.mktemp('canary') / 'canary'
    return {'names': hostile.names(canary), 'tricks': hostile.tricks(canary), 'bombs': hostile.bombs()}, canary


@pytest.mark.parametrize('kind, name', PICKLES)
def test_hostile_pickle(pickles, kind, name, tmp_path):
    "One sentence, nothing is run, and the memory is that of the file."
    (contents, canary), path = pickles, tmp_path / 'subject_1.pkl'
    path.write_bytes(contents[kind][name])
    tracemalloc.start()
    try: said = sentence_of(read_arrays, path)
    finally: most, _ = tracemalloc.get_traced_memory()[1], tracemalloc.stop()
    assert said.startswith(f'{path}: ') and said.count('\n') == 0 and len(said) < 400, said
    assert not canary.exists() and most < 20_000_000


def test_hostile_archives(tmp_path, record_property):
    "One sentence each, and nothing is written, neither there nor elsewhere."
    archives, target = hostile.archives(tmp_path), tmp_path / 'inner' / 'target'
    before = sorted(tmp_path.rglob('*'))
    for label, path in archives.items():
        said = sentence_of(unpack, path, target)
        assert said.startswith(f'{path}: ') and '\n' not in said and len(said) < 400, (label, said)
        assert sorted(tmp_path.rglob('*')) == before, label
    assert len(archives) > 70
    record_property('files', len(archives))


# Names and outputs on pages

SMUGGLED = ['<script>alert(1)</script>', '<ScRiPt src=//x.org>', '<img src=x onerror=alert(1)>', '<svg onload=alert()>',
            '<a href="javascript:alert(1)">x</a>', '<iframe srcdoc="<script>alert(1)</script>">',
            '<style>@import "//x";', '<div style="background:url(//x.org)">', '<div onclick="alert(1)">',
            '<math><mi xlink:href="data:x">',
            '<form action=//x><input>', '<object data=x>', '<base href=//x>', '<meta http-equiv=refresh content=0>',
            '<<script>script>alert(1)</script>', '<style>a{b:url(x)}</style>', '<table background="//x.org">',
            '\ue0000\ue001<script>', '<link rel=stylesheet href=//x.org>',
            '<noscript><p title="</noscript><img src=x>">']


class Elements(HTMLParser):
    "The names of the elements and attributes of HTML, and the values of the latter."

    def __init__(self, html: str):
        super().__init__()
        self.names, self.attributes, self.values = set(), set(), ''
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.values += ' '.join(str(value) for _, value in attrs)

    def harmless(self) -> bool:
        "Whether a browser runs and fetches nothing because of them."
        return self.names <= {'div', 'p', 'table', 'br'} and self.attributes <= {'style'} and 'url' not in self.values


@pytest.mark.parametrize('text', SMUGGLED)
def test_outputs_run_nothing_on_the_site(text):
    "Scripts, handlers, addresses and what else a browser would act on are gone, what is read stays."
    assert not Elements(text).harmless()
    for make_safe in (safe_html, safe_markdown):
        shown = make_safe(f'before {text} after')
        assert Elements(shown).harmless() and 'before' in shown, shown


READING = '```{raw} html', ':::{include} /etc/passwd', '~~~ {literalinclude} x', '{download}`x`'


@pytest.mark.parametrize('text', READING)
def test_outputs_read_no_files(text):
    assert '{' not in safe_markdown(text)


def test_kinds_of_outputs():
    "What is neither text nor a picture is left out."
    kinds = 'application/javascript', 'image/svg+xml', 'text/latex', 'application/vnd.jupyter.widget-view+json'
    output = {'output_type': 'display_data', 'metadata': {'x': 1}, 'data': dict.fromkeys((*kinds, 'text/plain'), '1')}
    assert safe_output(output)['data'] == {'text/plain': '1'}


def words(html: str) -> str:
    "The text of HTML."
    return ' '.join(unescape(re.sub('<[^>]*>', ' ', html)).split())


@pytest.mark.parametrize('path', ALL, ids=name)
def test_stored_outputs(path):
    "They are shown as they are: there is nothing to be taken from them; and no notebook says that it is trusted."
    notebook = json.loads(path.read_text(encoding='utf-8'))
    noted = {*notebook['metadata'], *(key for cell in notebook['cells'] for key in cell['metadata'])}
    assert not noted & {'signature', 'trusted'}
    for output in (output for cell in notebook['cells'] for output in cell.get('outputs', [])):
        shown = safe_output(output)
        assert shown.get('data', {}).keys() == output.get('data', {}).keys()
        for kind, content in output.get('data', {}).items():
            if kind == 'text/html': assert words(shown['data'][kind]) == words(''.join(content))
            elif kind == 'text/markdown': assert shown['data'][kind] == ''.join(content)


SHOWN = ['<img src=x onerror=alert(1)>', '"onload="alert(1)', "'><script>alert(1)<script>",
         '&lt;b&gt; $title ${script} {x}']


def test_report_escapes_names(tmp_path):
    "A report of files with such names, and notes and a command that hold them, has the elements of any other."
    fixed = Volume(blobs(), tilted(0, (2., 2., 2.), (-28, -24, -20)), tmp_path / 'fixed.nii.gz')
    found = register(fixed, fixed, affine=False, steps=1)
    rest = {'before': fixed, 'start': None, 'settings': {}, 'curve': [{'scale': 1, 'step': 0, 'loss': 0.}]}

    def elements(stem: str) -> Elements:
        moving = Volume(fixed.data, fixed.affine, tmp_path / f'{stem}.nii.gz')
        told = vars(found) | {'notes': [stem], 'settings': {stem: stem}}
        result = SimpleNamespace(**rest | told)
        page = write_report(tmp_path / 'report.html', result, moving, fixed, f'regpre {stem}')
        assert stem in unescape(page.read_text(encoding='utf-8'))
        return Elements(page.read_text(encoding='utf-8'))
    plain = elements('moving')
    for stem in SHOWN:
        shown = elements(stem)
        assert (shown.names, shown.attributes) == (plain.names, plain.attributes), stem


# Programs

def test_snakefile_quotes():
    "What a rule hands to a shell is quoted, whatever it holds; a seed is a number."
    commands = re.findall(r"shell: '(.*)'", (ROOT / 'Snakefile').read_text(encoding='utf-8'))
    fields = [field for command in commands for field in re.findall(r'{([^}]*)}', command)]
    assert len(commands) == 2 and len(fields) > 8 and all(f.endswith(':q') or f == 'SEED' for f in fields), fields


# Weights

def header(text: bytes, size: int | None = None) -> bytes:
    "A safetensors file of a header alone."
    return struct.pack('<Q', len(text) if size is None else size) + text


def tensor(shape: list, offsets: list, kind: str = 'F32') -> bytes:
    "A header with one tensor."
    return header(json.dumps({'a': {'dtype': kind, 'shape': shape, 'data_offsets': offsets}}).encode()) + bytes(16)


def recorded(record: str) -> bytes:
    "A header with a record."
    return header(json.dumps({'__metadata__': {'record': record}}).encode())


WEIGHTS = {
    'header of 8 EB': header(b'{}', 2**63), 'header of 1 GB': header(b'{}', 2**30), 'no header': bytes(8),
    'deep header': header(b'{"a":'*50_000 + b'1' + b'}'*50_000), 'tensor of 4 EB': tensor([2**60], [0, 2**62]),
    'overflow': tensor([2**32, 2**32], [0, 16]), 'negative': tensor([-4], [0, 16]), 'backwards': tensor([4], [16, 0]),
    'hole': tensor([2], [8, 16]), 'unknown type': tensor([4], [0, 16], 'OBJECT'), 'list': header(b'[]'),
    'deep record': recorded('['*100_000), 'record of a number': recorded('9'*5000), 'no text': header(b'\xff\xfe')}


@pytest.mark.parametrize('content', WEIGHTS.values(), ids=WEIGHTS)
def test_hostile_safetensors(content, tmp_path):
    "One sentence, and no more memory than the file has."
    path = tmp_path / 'model.safetensors'
    path.write_bytes(content)
    assert str(path) in sentence_of(from_pretrained, path)


def test_weights_import_nothing(tmp_path):
    "What a file says of its network is looked up in lists, also where it names a module."
    path = tmp_path / 'model.safetensors'
    for kind in ('encoder', 'network'):
        path.write_bytes(recorded(json.dumps({kind: {'name': 'antigravity', 'module': 'antigravity', 'settings': {}}})))
        assert 'antigravity' in sentence_of(from_pretrained, path) and 'antigravity' not in sys.modules


@pytest.mark.parametrize('name', [each for kind, each in PICKLES if kind == 'names'])
def test_hostile_checkpoints(pickles, name, tmp_path, record_property):
    "A pickle where the authors' checkpoint is expected is refused as well, plain and in PyTorch's archive."
    (contents, canary), path = pickles, tmp_path / 'TransMorph.pth.tar'
    path.write_bytes(contents['names'][name])
    assert 'more than tensors' in sentence_of(load_authors_checkpoint, None, path)
    with zipfile.ZipFile(path, 'w') as archive:
        for part, content in {'data.pkl': contents['names'][name], 'version': b'3', 'byteorder': b'little'}.items():
            archive.writestr(f'archive/{part}', content)
    assert 'more than tensors' in sentence_of(load_authors_checkpoint, None, path) and not canary.exists()
    record_property('files', 2)


def test_promises_name_their_tests():
    "Every test that SECURITY.md names is there."
    named = re.findall(r'`(tests/\w+[.]py)(?:::(\w+))?`', (ROOT / 'SECURITY.md').read_text(encoding='utf-8'))
    assert len(named) > 12
    for file, function in named: assert f'def {function}' in (ROOT / file).read_text(encoding='utf-8'), (file, function)
