"A headless Chromium, driven by its own protocol: what the tests of reports, of the site and of JupyterLab share."
import base64
import json
import os
import shutil
import subprocess
import time
from contextlib import contextmanager

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason='no Chromium is installed')
SWITCHES = ('--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run',
            '--disable-background-networking', '--remote-debugging-port=0', '--hide-scrollbars')


def wait_for(what, seconds=60):
    "What a function gives as soon as that is something."
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, 'the browser does not answer'
        time.sleep(0.05)
    return found


class Tab:
    "One tab of a browser, spoken to by Chromium's DevTools protocol."
    def __init__(self, socket):
        self.socket, self.number, self.session, self.events = socket, 0, None, []
        target = self('Target.createTarget', url='about:blank')['targetId']
        self.session = self('Target.attachToTarget', targetId=target, flatten=True)['sessionId']
        for domain in ('Page', 'Runtime', 'Network', 'Log'): self(f'{domain}.enable')

    def __call__(self, method, **given):
        "The answer to a command; what happens meanwhile is kept."
        self.number += 1
        message = {'id': self.number, 'method': method, 'params': given}
        self.socket.send(json.dumps(message | ({'sessionId': self.session} if self.session else {})))
        while (answer := json.loads(self.socket.recv())).get('id') != self.number: self.events.append(answer)
        assert 'error' not in answer, answer
        return answer['result']

    def run(self, script):
        "The value of a piece of JavaScript."
        answer = self('Runtime.evaluate', expression=script, returnByValue=True, awaitPromise=True)
        assert 'exceptionDetails' not in answer, answer
        return answer['result'].get('value')

    def heard(self, *methods):
        "What happened of these kinds."
        return [event for event in self.events if event['method'] in methods]

    def open(self, page, width=1400, scheme='light'):
        "Show a file, or what an address names."
        address = page if isinstance(page, str) else page.as_uri()
        protocol = address.partition('//')[0]
        self('Emulation.setDeviceMetricsOverride', width=width, height=900, deviceScaleFactor=1, mobile=False)
        self('Emulation.setEmulatedMedia', features=[{'name': 'prefers-color-scheme', 'value': scheme}])
        self('Page.navigate', url=address)
        wait_for(lambda: self.run(f'location.protocol === "{protocol}" && innerWidth === {width} '
                                  '&& document.readyState === "complete"'))
        self.run('new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))')

    def picture(self, element=None):
        "PNG of the page, or of the first element that a selector finds."
        box = f'document.querySelector({json.dumps(element or "html")}).getBoundingClientRect()'
        x, y, width, height = self.run(f'(box => [box.x + scrollX, box.y + scrollY, box.width, box.height])({box})')
        clip = {'x': x, 'y': y, 'width': width, 'height': height, 'scale': 1}
        return base64.b64decode(self('Page.captureScreenshot', clip=clip, captureBeyondViewport=True)['data'])


@contextmanager
def browser(folder):
    "A tab of a headless browser."
    websocket = pytest.importorskip('websocket', reason='websocket-client is not installed')
    with open(folder / 'log', 'wb') as log:
        process = subprocess.Popen([CHROMIUM, *SWITCHES, f'--user-data-dir={folder}/profile', 'about:blank'],
                                   stdout=log, stderr=log, env=os.environ | {'HOME': str(folder)})
    try:
        port = folder / 'profile' / 'DevToolsActivePort'
        number, path = wait_for(lambda: port.is_file() and port.read_text().count('\n') and port.read_text().split())
        socket = websocket.create_connection(f'ws://127.0.0.1:{number}{path}', suppress_origin=True, timeout=60)
        yield Tab(socket)
        socket.close()
    finally:
        process.terminate()
        process.wait()
