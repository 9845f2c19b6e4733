"A report of a registration in a real browser: it asks for nothing, complains of nothing, and its controls work."
import io
import json
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
from browser import browser, needs_browser
from PIL import Image
from test_register import blobs, tilted

from regpre_nb.data.volumes import Volume, resample, save_volume
from regpre_nb.use.register import register
from regpre_nb.use.report import write_report


@pytest.fixture(scope='module')
def report(tmp_path_factory):
    "A report of a small pair; the name of one file is a script."
    folder = tmp_path_factory.mktemp('report')
    fixed = Volume(blobs(), tilted(0, (2., 2., 2.), (-28, -24, -20)), folder / 'fixed.nii.gz')
    shift = np.eye(4)
    shift[:3, 3] = 5, 3, -2
    data = resample(fixed, like=fixed, matrix=shift).data
    moving = Volume(data, fixed.affine, folder / '<script>alert(1)<script>.nii.gz')
    for image in (moving, fixed): save_volume(image, image.path)
    found = register(moving, fixed, affine=False, steps=10)
    rest = {'before': moving, 'start': None, 'settings': {'steps': 10},
            'curve': [{'scale': 1, 'step': step, 'loss': -0.1*step} for step in range(11)]}
    result = SimpleNamespace(**rest | vars(found))
    return write_report(folder / 'report.html', result, moving.path, fixed.path, 'regpre register "<b>"')


@pytest.fixture(scope='module')
def tab(tmp_path_factory):
    "A browser for all tests."
    with browser(tmp_path_factory.mktemp('browser')) as tab: yield tab


@pytest.fixture
def page(tab, report):
    "The report, just opened; what happened before is forgotten."
    tab.events.clear()
    tab.open(report)
    return tab


def pixels(png):
    "The numbers of a picture."
    return np.asarray(Image.open(io.BytesIO(png)).convert('RGB'), float)


def slide(selector, value):
    "JavaScript that moves a slider as a hand does."
    return (f'(s => {{s.value = {value}; s.dispatchEvent(new Event("input", {{bubbles: true}}))}})'
            f'(document.querySelector({json.dumps(selector)}))')


def choose(name, value):
    "JavaScript that presses a radio button."
    return f'document.querySelector("[name={name}][value=\'{value}\']").click()'


@needs_browser
def test_no_request_and_no_complaint(page):
    "Nothing but the file itself and the data within; no error and no warning; the script in a name did not run."
    for pair in ('fixed before', 'before warped', 'fixed warped'): page.run(choose('pair', pair))
    asked = [event['params']['request']['url'] for event in page.heard('Network.requestWillBeSent')]
    assert [url.split(':')[0] for url in asked if not url.startswith('data:')] == ['file']
    assert not page.heard('Runtime.exceptionThrown', 'Runtime.consoleAPICalled', 'Log.entryAdded',
                          'Page.javascriptDialogOpening')
    assert page.run('document.scripts.length') == 1 and not page.run('document.querySelectorAll("pre b").length')
    assert '<script>alert(1)<script>.nii.gz to fixed.nii.gz' in page.run('document.title')


@needs_browser
def test_foreign_scripts_and_requests_are_refused(page):
    "Were a script smuggled in, the browser would not run it; nor would it ask for anything."
    page.run('document.body.insertAdjacentHTML("beforeend", "<img src=data:, onerror=window.smuggled=1>")')
    page.run('fetch("https://example.org").catch(() => null)')
    page.run('new Promise(done => setTimeout(done, 100))')
    assert page.run('window.smuggled === undefined')
    refused = json.dumps(page.heard('Log.entryAdded'))
    assert 'script-src' in refused and 'connect' in refused


@needs_browser
def test_controls_change_the_picture(page):
    "Curtain, slice and mode; a slice slider moves its fellows; the same place gives the same picture again."
    frame, seen = '#viewer figure[data-of=axial] .frame', {}
    seen['curtain'] = page.picture(frame)
    for value in (0, 100):
        page.run(slide('#cut', value))
        seen[f'curtain at {value}'] = page.picture(frame)
    page.run(slide('#cut', 50))
    assert page.picture(frame) == seen['curtain']
    page.run(choose('pair', 'fixed before'))
    seen['before'] = page.picture(frame)
    for how in ('fade', 'checkerboard', 'overlay'):
        page.run(choose('how', how))
        seen[how] = page.picture(frame)
    page.run(slide('#viewer input[data-plane=axial]', 0))
    seen['first slice'] = page.picture(frame)
    assert len(set(seen.values())) == len(seen)
    values = page.run('[...document.querySelectorAll("[data-plane=axial]")].map(s => s.value)')
    assert len(values) == 5 and set(values) == {'0'}
    assert page.run('document.querySelector("[data-plane=axial]").nextElementSibling.textContent').startswith('1 of')
    assert page.run('document.querySelector("#cut").disabled')
    assert page.run(f'document.querySelector("{frame}").ariaLabel') == 'Fixed and before, overlay, axial'


@needs_browser
def test_ends_of_the_slider(page):
    "At one end the first image alone is seen, at the other the second, and the ends say which."
    frame, alone = '#viewer figure[data-of=axial] .frame', {}
    ends = '[...document.querySelectorAll(".position span")].map(s => s.textContent)'
    page.run(choose('how', 'fade'))
    for pair in ('fixed warped', 'fixed before', 'before warped'):
        page.run(choose('pair', pair))
        for name, value in zip(page.run(ends), (0, 100)):
            page.run(slide('#cut', value))
            alone.setdefault((pair.split()[value // 100], name), []).append(pixels(page.picture(frame)))
    assert {kind: name for kind, name in alone} == {'fixed': 'Fixed', 'warped': 'After', 'before': 'Before'}
    for first, second in alone.values(): assert np.abs(first - second).mean() < 1, 'one image in two pairs'
    for one, other in combinations([pictures[0] for pictures in alone.values()], 2):
        assert np.abs(one - other).mean() > 3, 'two images'


@needs_browser
@pytest.mark.parametrize('width', [1400, 400])
def test_fits_the_window(tab, report, width):
    "No scrolling to the side, no text wider than its box, square pixels, nothing without a name."
    tab.open(report, width)
    assert tab.run('document.documentElement.scrollWidth') <= width
    wide = tab.run('[...document.querySelectorAll("td, th, p, b, h1, h2, label, figcaption, pre")]'
                   '.filter(e => e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).display !== "inline")'
                   '.map(e => e.textContent)')
    assert not wide
    ratio = tab.run('(b => b.width/b.height)(document.querySelector("[data-of=axial] .frame").getBoundingClientRect())')
    assert ratio == pytest.approx(28/24, rel=0.02)
    nameless = tab.run('[...document.querySelectorAll("input, [role=img], svg")].filter(e => '
                       '!e.getAttribute("aria-label") && !(e.labels && e.labels.length)).length')
    assert nameless == 0


@needs_browser
def test_light_and_dark(tab, report):
    "The page follows the reader's setting, and its text stands out in both."
    def brightness(of):
        text = tab.run(f'getComputedStyle(document.body).{of}')
        return sum(float(part) for part in text[text.index('(') + 1:-1].split(',')[:3])/3
    for scheme in ('light', 'dark'):
        tab.open(report, scheme=scheme)
        apart = brightness('backgroundColor') - brightness('color')
        assert apart > 150 if scheme == 'light' else apart < -150
