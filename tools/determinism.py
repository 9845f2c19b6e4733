"""Write results/faults/determinism.csv: whether two runs of one training end with the same bits.

Run `make determinism`. The tests look at all but the run under papermill, which starts a kernel.
"""
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import nbformat
import pandas as pd
import torch

from regpre_nb.learn.pretrain import PretrainSettings, pretrain, random_batches
from regpre_nb.learn.training import TrainSettings, read_tensors
from regpre_nb.method.random_images import RandomPairs
from regpre_nb.method.swin import SETTINGS, SwinEncoder

OUT = Path(__file__).resolve().parent.parent / 'results' / 'faults' / 'determinism.csv'
TRAINING = TrainSettings(steps=4, learning_rate=1e-3, seed=3, checkpoint_every=2)
TASK = PretrainSettings(shape=(16, 20, 16), n_labels=4, cell=8, amplitudes=(1, 2), validation_pairs=1)
Tensors = dict[str, torch.Tensor]


class Stopped(Exception): "Ends a run in the middle."


def trained(folder: Path, threads: int = 1, stop: int | None = None) -> Tensors:
    "Pretrain a tiny encoder in a folder, or go on there; stopped before that step. Weights and state of the optimiser."
    pairs, before = random_batches(TASK), torch.get_num_threads()

    def make_batch(number, generator):
        if number == stop: raise Stopped
        return pairs(number, generator)

    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            encoder = SwinEncoder(SETTINGS['tiny'])
        pretrain(encoder, TASK, TRAINING, folder, 1., make_batch=make_batch, progress=False)
    except Stopped: pass
    finally: torch.set_num_threads(before)
    return read_tensors(Path(folder) / 'last.safetensors')


def resumed(folder: Path) -> Tensors:
    "Stopped after the checkpoint of step 2, then gone on with."
    assert int(trained(folder, stop=3)['optimiser.0.step']) == 2
    return trained(folder)


def loaded(workers: int) -> Tensors:
    "Random pairs by a `DataLoader`."
    pairs = RandomPairs(TASK.shape, seed=3, length=4, n_labels=4, cell=8, amplitudes=(1, 2))
    batches = torch.utils.data.DataLoader(pairs, batch_size=None, num_workers=workers)
    return {f'{number} {name}': tensor for number, batch in enumerate(batches) for name, tensor in batch.items()}


def by_papermill(folder: Path) -> Tensors:
    "In a kernel that papermill starts."
    import papermill
    source = f'import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n' \
             f'from determinism import trained\nweights = trained({str(folder)!r})'
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    path = Path(folder) / 'run.ipynb'
    nbformat.write(notebook, path)
    papermill.execute_notebook(path, path, kernel_name='python3', progress_bar=False)
    return read_tensors(Path(folder) / 'last.safetensors')


def difference(one: Tensors, other: Tensors) -> float:
    """The largest difference of a number, relative to the largest of its tensor; of a training, of the encoder.

    The biases of the decoders stand before a norm, which takes them away again: their gradient is rounding alone, which
    Adam scales up.
    """
    names = [name for name in one if name.startswith('model.encoder.')] or list(one)
    sizes = {name: one[name].double().abs().max().clamp_min(torch.finfo(torch.float32).tiny) for name in names}
    return max(((one[name].double() - other[name].double()).abs().max() / sizes[name]).item() for name in names)


def same_bits(one: Tensors, other: Tensors) -> bool:
    "Whether all tensors are equal to the last bit."
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


CASES: dict[str, Callable[[Path], Tensors]] = {  # what differs from a run in one go -> that run
    'a second time': trained,
    'stopped and gone on with': resumed,
    'with 2 threads in place of 1': lambda folder: trained(folder, threads=2),
    'in a kernel, by papermill': by_papermill,
}


def measured(names: list[str]) -> pd.DataFrame:  # of CASES
    "The table of these cases, and of pairs by two workers."
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder) / str(i) for i in range(len(names) + 1)]
        for place in places: place.mkdir()
        alone = trained(places[0])
        runs = {name: (alone, CASES[name](place)) for name, place in zip(names, places[1:])}
    runs['pairs by 2 workers in place of none'] = loaded(0), loaded(2)
    for name, (one, other) in runs.items():
        rows.append({'run': name, 'same bits': same_bits(one, other), 'largest difference': difference(one, other)})
    return pd.DataFrame(rows)


if __name__ == '__main__':
    table = measured(list(CASES))
    OUT.parent.mkdir(parents=True, exist_ok=True)
    unfinished = OUT.with_suffix('.tmp')
    table.to_csv(unfinished, index=False, float_format='%.1e')
    unfinished.replace(OUT)
    print(table.to_string(index=False))
    sys.exit(0 if table.set_index('run')['same bits'].drop('with 2 threads in place of 1').all() else 1)
