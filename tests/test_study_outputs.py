"What a study page is given of its executed copy."
import base64
import io
import json
import runpy

import numpy as np
from conftest import ROOT
from PIL import Image

TOOL = runpy.run_path(str(ROOT / 'tools' / 'study_outputs.py'))


def png(width):
    "A picture with many colours, in base64."
    noise = np.random.default_rng(0).integers(0, 256, (width // 2, width, 3), np.uint8)
    Image.fromarray(noise).save(file := io.BytesIO(), 'PNG')
    return base64.b64encode(file.getvalue()).decode()


def test_smaller():
    "A picture gets the width and the number of colours that are asked for; a narrow one keeps its width."
    for width, expected in ((400, 200), (100, 100)):
        image = Image.open(io.BytesIO(base64.b64decode(TOOL['smaller'](png(width), 200, 16))))
        assert image.size == (expected, expected // 2) and len(image.convert('RGB').getcolors()) <= 16


def test_outputs_by_id():
    "Outputs go to the cell of the same id, whatever its text; standard error stays out, and so does what has no cell."
    page = {'cells': [{'cell_type': 'code', 'id': name, 'source': 'new', 'outputs': []} for name in 'ab']}
    outputs = [{'output_type': 'stream', 'name': 'stderr', 'text': 'a warning'},
               {'output_type': 'execute_result', 'execution_count': 3, 'metadata': {}, 'data': {'image/png': png(400)}}]
    copy = {'cells': [{'cell_type': 'code', 'id': name, 'source': 'old', 'outputs': outputs} for name in 'ac']}
    first, second = json.loads(TOOL['with_outputs'](page, copy, (100, 16)))['cells']
    assert second['outputs'] == [] and first['source'] == 'new'
    (shown,) = first['outputs']
    assert shown['execution_count'] is None and len(shown['data']['image/png']) < len(png(400)) / 4
