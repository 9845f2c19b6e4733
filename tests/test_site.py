"The site as its readers see it: built once without a warning, every page opened in headless Chromium."
import ast
import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from browser import CHROMIUM, browser, wait_for
from conftest import LIBRARY, ROOT, STUDIES, cells, source
from filelock import FileLock

WIDTHS = 1400, 400
SOUNDS = 'Runtime.exceptionThrown', 'Runtime.consoleAPICalled', 'Log.entryAdded', 'Network.requestWillBeSent'
HASH = re.compile(r'[0-9a-f]{16,}|\.(png|svg|jpe?g)$')
LOOK = '''(() => {
  const shown = [...document.querySelectorAll('.bd-article :is(pre, table, .highlight, .output, .text_html,' +
    ' div:has(> table))')].filter(each => each.offsetParent)
  const wide = shown.filter(each => each.scrollWidth > each.clientWidth + 1 ||
                                    each.getBoundingClientRect().right > innerWidth + 1)
  return {boxes: shown.length, wide: wide.map(each => `${each.tagName}: ${each.textContent.trim().slice(0, 60)}`),
          page: document.documentElement.scrollWidth}
})()'''
READ = '''({links: [...document.querySelectorAll('a[href]')].map(each => each.href), title: document.title,
  ids: [...document.querySelectorAll('[id]')].map(each => each.id),
  pictures: [...document.images].map(each => ({from: each.src, told: each.alt, wide: each.naturalWidth}))})'''
FIT = '''(pre => {
  const style = getComputedStyle(pre), probe = document.createElement('span')
  probe.textContent = 'm'.repeat(100)
  probe.style.whiteSpace = 'pre'
  pre.append(probe)
  const each = probe.getBoundingClientRect().width / 100
  probe.remove()
  return Math.floor((pre.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight)) / each)
})'''


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    "The folder of the site; workers of pytest share one, and the first that needs it builds it."
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if 'PYTEST_XDIST_WORKER' in os.environ else base
    folder, told = shared / 'site', shared / 'site.txt'
    with FileLock(shared / 'site.lock'):
        if not told.exists():
            done = subprocess.run([sys.executable, 'tools/docs.py', str(folder)], cwd=ROOT, capture_output=True,
                                  text=True)
            told.write_text(done.stdout + done.stderr if done.returncode or done.stderr else '')
    assert not told.read_text(), told.read_text()
    return folder / 'html'


@contextmanager
def tab_or_reason(folder):
    "A tab of a browser."
    if CHROMIUM is None: pytest.skip('no Chromium is installed')
    with browser(folder) as tab: yield tab


def pages(site):
    "The pages that a reader comes to."
    return [path for path in sorted(site.rglob('*.html')) if '_static' not in path.parts]


def complaints(tab):
    "What the console said that is no mere note, and what was asked of the outside."
    for given in (event['params'] for event in tab.heard(*SOUNDS)):
        if 'request' in given:
            if not given['request']['url'].startswith(('file:', 'data:', 'blob:')): yield given['request']['url']
        elif given.get('type', given.get('entry', {}).get('level', 'error')) in ('error', 'warning', 'assert'):
            yield json.dumps(given)[:500]


def looked_at(tab, path):
    "What a page is, asks for and complains of, and how wide its boxes are at each width."
    tab.events.clear()
    tab.open(path, WIDTHS[0])
    found = tab.run(READ) | {'complaints': list(complaints(tab)), WIDTHS[0]: tab.run(LOOK)}
    for width in WIDTHS[1:]:
        tab('Emulation.setDeviceMetricsOverride', width=width, height=900, deviceScaleFactor=1, mobile=False)
        tab.run('new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))')
        found[width] = tab.run(LOOK)
    return found


def dead_links(site, seen):
    "Links to a page, a file or a place in a page that is not there."
    ids = {path.as_uri(): set(found['ids']) for path, found in seen.items()}
    for path, found in seen.items():
        for link in set(found['links']):
            parts = urlsplit(link)
            if parts.scheme in ('http', 'https', 'mailto'): continue
            target, place = link.partition('#')[0], unquote(parts.fragment)
            if not Path(unquote(parts.path)).is_file() or place and target in ids and place not in ids[target]:
                yield f'{path.relative_to(site)}: {link.removeprefix(site.as_uri())}'


def hits(tab, site, words):
    "The addresses that a search finds."
    tab.open(f'{(site / "search.html").as_uri()}?q={words}')
    wait_for(lambda: tab.run('document.querySelector("#search-results p.search-summary")?.textContent.includes("found")'
                             '|| document.querySelector("#search-results li") !== null'))
    tab.run('new Promise(done => setTimeout(done, 500))')  # hits arrive one by one
    return tab.run('[...document.querySelectorAll("#search-results li a")].map(each => each.href)')


def names_of(path):
    "The public functions and classes of a notebook, commands of the command line apart."
    for cell in cells(path):
        if re.search(r'^#\| exports?$', source(cell), re.M):
            yield from (node.name for node in ast.parse(source(cell)).body
                        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith('_'))


def module_of(path):
    "The module that a notebook exports."
    return next(filter(None, (re.search(r'default_exp (\S+)', source(cell)) for cell in cells(path))))[1]


def html_of(site, path):
    "The page of a notebook."
    return (site / path.relative_to(ROOT / 'nbs')).with_suffix('.html').read_text(encoding='utf-8')


def test_definitions(site):
    "Each public definition stands once, on the page of its module, which says how it is imported."
    index = (site / 'genindex.html').read_text(encoding='utf-8')
    for path in LIBRARY:
        text, module = html_of(site, path), f'regpre_nb.{module_of(path)}'
        assert f'from {module} import' in unescape(re.sub(r'<[^>]+>', '', text)), path
        for name in names_of(path):
            assert text.count(f'<dt class="sig sig-object py" id="{module}.{name}">') == 1, (path, name)
            assert f'#{module}.{name}"' in index, (path, name)


def test_signatures(site):
    "A signature is as short as the definition allows: no option of a command, no raw link, no mere *args."
    for path in LIBRARY:
        for found in re.findall(r'<dt class="sig sig-object py".*?</dt>', html_of(site, path), re.S):
            text = unescape(re.sub(r'<[^>]+>', '', found))
            assert not re.search(r'Annotated|\]\(|\(\*args, \*\*kwargs\)', text), (path, text)


def test_links_are_meant(site):
    "A code span is a link where it names a definition; a word that is also a command or an argument is none."
    text = html_of(site, ROOT / 'nbs' / 'data' / '17_folder.ipynb')
    assert '<span class="pre">train</span>' in text
    assert not re.search(r'<a [^>]*><code[^>]*><span class="pre">(train|group|hippocampus)</span>', text)
    text = html_of(site, ROOT / 'nbs' / 'method' / '01_spatial.ipynb')
    assert re.search(r'<a [^>]*href="#regpre_nb\.method\.spatial\.compiled"[^>]*><code', text)


def test_origins(site):
    "Each figure and table of results/ is shown, with study, runs and command below it; each execution has its status."
    status = (site / 'status.html').read_text(encoding='utf-8')
    for folder in sorted(path.parent for path in (ROOT / 'results').glob('*/README.md') if path.parent.name != 'paper'):
        text, record = (site / 'results' / folder.name / 'gallery.html').read_text('utf-8'), folder / 'run.json'
        runs = {run for study in json.loads(record.read_text()).values() for run in study['runs']}
        for kind, paths in (('figure', folder.glob('figures/*.png')), ('table', folder.glob('tables/*.md'))):
            for path in paths:
                label = f'{kind}-{path.stem}-{folder.name}'.replace('_', '-')
                part = text.partition(f'id="{label}"')[2].partition('<section id=')[0]
                profile, _, data = folder.name.partition('-')
                words = '>make<', f'PROFILE={profile}', f'DATA={data}', 'nbs/studies/'
                assert all(word in part for word in words), (folder, label)
                assert 'It uses no trained run' in part or any(run in part for run in runs), (folder, label)
        for path in folder.glob('notebooks/*.ipynb'):
            told = json.loads(path.read_text(encoding='utf-8'))['metadata']['papermill']['start_time']
            assert told[:16].replace('T', ' ') in status, path
    assert len(STUDIES) == len({path.stem for path in STUDIES if f'studies/{path.stem}.html' in status})


def test_in_browser(site, tmp_path, subtests):
    "Every page as it is read, on a desk and on a phone."
    with tab_or_reason(tmp_path) as tab:
        seen = {path: looked_at(tab, path) for path in pages(site)}
        for path, found in seen.items():
            with subtests.test(path.relative_to(site).as_posix()):
                assert found['title'] and not found['complaints']
                for width in WIDTHS: assert not found[width]['wide'] and found[width]['page'] <= width, width
                assert [each for each in found['pictures'] if not each['wide']] == []
                assert [each for each in found['pictures'] if not each['told'] or HASH.search(each['told'])] == []
        with subtests.test('links'): assert sorted(dead_links(site, seen)) == []
        for words, page in (('local_ncc', 'method/07_losses.html#regpre_nb.method.losses.local_ncc'), ('tutorial', ''),
                            ('custom encoder', '')):
            with subtests.test(f'search: {words}'):
                found = hits(tab, site, words)
                assert found and any(page in each for each in found), found
        with subtests.test('room for code'):
            tab.open(site / 'method' / '01_spatial.html', WIDTHS[0])
            tab.run('document.querySelectorAll("details").forEach(each => { each.open = true })')
            widths = tab.run(f'[...document.querySelectorAll(".bd-article pre")].map({FIT})')
            assert len(widths) > 20 and min(widths) >= 120, widths
        with subtests.test('dark'):
            tab.open(site / 'results' / 'cpu-hippocampus' / 'gallery.html', WIDTHS[0], 'dark')
            colours = 'document.body, document.querySelector(".bd-article img")'
            page, panel = tab.run(f'[{colours}].map(each => getComputedStyle(each).backgroundColor)')
            assert sum(map(int, re.findall(r'\d+', page)[:3])) < 150 and panel == 'rgb(255, 255, 255)'
