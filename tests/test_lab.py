"JupyterLab opens the tour, runs it and shows its pictures and sliders; notebooks stay quiet without widgets."
import json
import os
import socket
import subprocess
import sys
from contextlib import contextmanager

import pytest
from browser import browser, needs_browser, wait_for
from conftest import ROOT, long, source

from regpre_nb.data.files import cache_folder

SWITCHES = ('--no-browser', '--allow-root', '--LabApp.expose_app_in_browser=True', '--LabApp.news_url=None',
            '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate')
SETTINGS = {  # of JupyterLab: all cells are on the page, also those out of sight
    'notebook-extension/tracker': {'windowingMode': 'none'},
    'apputils-extension/notification': {'fetchNews': 'false', 'checkForUpdates': False}}
PATIENCE = 600  # seconds, on a busy machine


def short_tour(path):
    "A copy of the tour that trains for seconds."
    page = json.loads((ROOT / 'nbs' / 'tour.ipynb').read_text(encoding='utf-8'))
    (cell,) = (cell for cell in page['cells'] if 'parameters' in cell['metadata'].get('tags', []))
    cell['source'] = source(cell) + '\nminutes = 0.02'
    for cell in page['cells']: cell |= {'outputs': []} if cell['cell_type'] == 'code' else {}
    path.write_text(json.dumps(page), encoding='utf-8')


def free_port():
    "A port that nobody listens at."
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        return taken.getsockname()[1]


@contextmanager
def lab(folder):
    "The address of a JupyterLab of its own, which shows a folder, and its token."
    for name, values in SETTINGS.items():
        path = folder / 'settings' / '@jupyterlab' / f'{name}.jupyterlab-settings'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    own = {'HOME': folder, 'IPYTHONDIR': folder / 'ipython', 'JUPYTERLAB_SETTINGS_DIR': folder / 'settings',
           'JUPYTERLAB_WORKSPACES_DIR': folder / 'workspaces', 'REGPRE_CACHE': cache_folder().absolute(),
           **{f'JUPYTER_{what.upper()}_DIR': folder / what for what in ('config', 'data', 'runtime')}}
    variables = {name: value for name, value in os.environ.items() if name not in ('IN_TEST', 'MPLBACKEND')}
    with open(folder / 'log', 'wb') as log:
        process = subprocess.Popen([sys.executable, '-m', 'jupyterlab', *SWITCHES, f'--port={free_port()}'],
                                   cwd=folder / 'pages', stdout=log, stderr=log,
                                   env=variables | {name: str(value) for name, value in own.items()})
    try:
        told = wait_for(lambda: ''.join(path.read_text() for path in (folder / 'runtime').glob('jpserver-*.json'))
                        or process.poll() is not None, PATIENCE)
        assert process.poll() is None, (folder / 'log').read_text()
        yield (server := json.loads(told))['url'], server['token']
    finally:
        process.terminate()
        process.wait()


RUN_ALL = '''(async () => {
    const page = jupyterapp.shell.currentWidget
    await page.context.ready
    await page.sessionContext.ready
    jupyterapp.commands.execute('notebook:run-all-cells').finally(() => { window.ended = true })
})()'''
OUTPUTS = '''jupyterapp.shell.currentWidget.content.widgets.flatMap(
    cell => cell.outputArea ? cell.outputArea.model.toJSON() : [])'''
PICTURES = '''[...document.querySelectorAll('.jp-OutputArea img')].map(picture => picture.naturalWidth)'''
FIRST = '''document.querySelector('.widget-interact img').src'''


@long
@needs_browser
def test_tour(tmp_path):
    "Run all cells: every picture is there, no cell fails, a slider redraws its picture, nothing is fetched elsewhere."
    for name in ('lab', 'lab/pages', 'browser'): (tmp_path / name).mkdir()
    short_tour(tmp_path / 'lab' / 'pages' / 'tour.ipynb')
    with lab(tmp_path / 'lab') as (address, token), browser(tmp_path / 'browser') as tab:
        tab.open(f'{address}lab/tree/tour.ipynb?token={token}')
        wait_for(lambda: tab.run("window.jupyterapp?.shell.currentWidget?.context?.path === 'tour.ipynb'"), PATIENCE)
        tab.run(RUN_ALL)
        wait_for(lambda: tab.run('window.ended'), PATIENCE)
        outputs = tab.run(OUTPUTS)
        assert not [output for output in outputs if output['output_type'] == 'error'], outputs
        wait_for(lambda: len(found := tab.run(PICTURES)) == 5 and all(found), PATIENCE)
        assert tab.run("document.querySelectorAll('.widget-slider').length") == 5
        before = tab.run(FIRST)
        tab.run("document.querySelector('.widget-interact .noUi-handle').focus()")
        for kind in ('keyDown', 'keyUp'): tab('Input.dispatchKeyEvent', type=kind, key='ArrowRight', code='ArrowRight',
                                              windowsVirtualKeyCode=39)
        wait_for(lambda: tab.run(FIRST) != before, PATIENCE)
        asked = {event['params']['request']['url'] for event in tab.heard('Network.requestWillBeSent')}
        assert not [url for url in asked if not url.startswith((address, 'data:', 'blob:'))]


QUIET = '''
import sys
import ipykernel.zmqshell  # by which tqdm.auto knows that it is in a notebook
from IPython.core.interactiveshell import InteractiveShell
InteractiveShell.instance()
sys.modules['ipywidgets'] = None  # as if it were not installed
import {module}
'''


@pytest.mark.parametrize('module', ['regpre_nb.learn.training', 'regpre_nb.use.profiling'])
def test_quiet_without_widgets(module):
    "A notebook that imports the package isn't told to install ipywidgets; one that imports tqdm.auto is."
    def said(name):
        return subprocess.run([sys.executable, '-c', QUIET.format(module=name)], capture_output=True, text=True).stderr
    assert said(module) == '' and 'IProgress not found' in said('tqdm.auto')
