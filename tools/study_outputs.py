"""Store in nbs/studies the outputs of executed studies, so that whoever opens a study page sees what it draws.

    python tools/study_outputs.py [FOLDER]

FOLDER holds results as `make tables` or `make reproduce` leave them; by default results/. Of each study the first
executed copy is taken, in the order of RUNS. Outputs go to the cell of the same id, pictures smaller than they are in
the results. Which run they are of is what the second cell of every study prints.
"""
import base64
import io
import json
import sys
from pathlib import Path

from nbdev.clean import nbdev_clean
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
RUNS = ('night-hippocampus', 'night-ixi40', 'cpu-hippocampus', 'cpu-lung_phantom', 'cpu-template')  # the best first
MOST = 280_000  # bytes of a page
SIZES = (820, 128), (700, 64), (560, 32), (420, 16)  # width in pixels and colours, the next where a page is too large


def executed(study: Path, results: Path) -> dict | None:
    "The executed copy of a study; None where there is none."
    for run in RUNS:
        path = results / run / 'notebooks' / study.name
        if path.exists(): return json.loads(path.read_text(encoding='utf-8'))
    return None


def smaller(picture: str, width: int, colours: int) -> str:
    "A PNG, in base64, with fewer pixels and colours."
    image = Image.open(io.BytesIO(base64.b64decode(picture))).convert('RGB')
    if image.width > width: image = image.resize((width, round(image.height * width / image.width)), Image.LANCZOS)
    image.quantize(colours, dither=Image.Dither.NONE).save(file := io.BytesIO(), 'PNG', optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def kept(output: dict, size: tuple[int, int]) -> dict:
    "An output as a page stores it."
    output = output | {key: None for key in ('execution_count',) if key in output}
    if 'data' not in output: return output
    data = {kind: smaller(''.join(value), *size) if kind == 'image/png' else value
            for kind, value in output['data'].items()}
    return output | {'data': data, 'metadata': {}}


def with_outputs(page: dict, copy: dict, size: tuple[int, int]) -> str:
    "A study page with the outputs of an executed copy, by the cells' ids; what went to standard error is left out."
    found = {cell['id']: cell['outputs'] for cell in copy['cells'] if cell['cell_type'] == 'code'}
    for cell in page['cells']:
        if cell['cell_type'] != 'code': continue
        cell['outputs'] = [kept(one, size) for one in found.get(cell['id'], []) if one.get('name') != 'stderr']
    return json.dumps(page, indent=1, ensure_ascii=False) + '\n'


def main(results: Path) -> None:
    "Do all studies."
    for study in sorted((ROOT / 'nbs' / 'studies').glob('*.ipynb')):
        copy = executed(study, results)
        if copy is None:
            print(f'{study.name}: not executed in {results}, left as it is')
            continue
        page = json.loads(study.read_text(encoding='utf-8'))
        text = next(text for size in SIZES if len((text := with_outputs(page, copy, size)).encode()) < MOST
                    or size == SIZES[-1])
        study.write_text(text, encoding='utf-8')
        print(f'{study.name}: {len(text.encode()) // 1000} kB')
    nbdev_clean(str(ROOT / 'nbs' / 'studies'))


if __name__ == '__main__': main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / 'results')
