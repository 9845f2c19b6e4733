"A deterministic run asks PyTorch for deterministic algorithms while it lasts, and leaves every switch as it was."
import os
import sys
import warnings

import pandas as pd
import pytest
import torch
from conftest import ROOT
from torch import nn

from regpre_nb.learn.training import TrainSettings, fit

sys.path.insert(0, str(ROOT / 'tools'))
import determinism  # noqa: E402

SETTINGS = TrainSettings(steps=3, deterministic=True)


def switches() -> tuple:
    "What a deterministic run changes for a while: PyTorch's switches and one variable of the environment."
    return (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark,
            torch.utils.deterministic.fill_uninitialized_memory, os.environ.get('CUBLAS_WORKSPACE_CONFIG'))


def make_batch(number, generator):
    "Numbers to fit a line to."
    return {'x': torch.rand(4, 2, generator=generator)}


def squares(model, batch):
    "A loss."
    return (model(batch['x']) - 1).square().mean(), {}


def test_switches_are_put_back(tmp_path):
    "They are on while the run lasts; afterwards PyTorch's switches and Python's warnings are as they were."
    before, show, seen = switches(), warnings.showwarning, []

    def looking(model, batch):
        seen.append(switches())
        return squares(model, batch)

    fit(nn.Linear(2, 1), looking, make_batch, SETTINGS, tmp_path, progress=False)
    assert {found[:4] for found in seen} == {(True, True, True, False)}
    assert switches() == before and warnings.showwarning is show
    assert not [pattern for _, pattern, *_ in warnings.filters if pattern and 'deterministic' in pattern.pattern]


def test_switches_are_put_back_after_a_failure(tmp_path):
    "An error in the middle of a run changes nothing, and another warning is shown as ever."
    def failing(model, batch):
        warnings.warn('another matter', stacklevel=1)
        raise ValueError('in the middle')

    before = switches()
    with pytest.warns(UserWarning, match='another matter'), pytest.raises(ValueError, match='in the middle'):
        fit(nn.Linear(2, 1), failing, make_batch, SETTINGS, tmp_path, progress=False)
    assert switches() == before


def test_each_operation_is_named_once(tmp_path, capsys):
    "`put_` has no deterministic form; three steps say so once."
    def with_put(model, batch):
        loss, parts = squares(model, batch)
        return loss + 0*torch.zeros(1).put_(torch.tensor([0]), loss.reshape(1)).sum(), parts

    fit(nn.Linear(2, 1), with_put, make_batch, SETTINGS, tmp_path/'put', progress=False)
    assert capsys.readouterr().err == ('put: PyTorch has no deterministic form of put_; its last digits may be others '
                                       'when this run is repeated.\n')


@pytest.fixture(scope='module')
def table():
    "Runs of one training, in this process, against a run in one go."
    return determinism.measured([name for name in determinism.CASES if 'papermill' not in name]).set_index('run')


@pytest.mark.parametrize('name', ['a second time', 'stopped and gone on with', 'pairs by 2 workers in place of none'])
def test_same_seed_same_bits(name, table):
    "Weights, moments of the optimiser and pairs are equal to the last bit."
    assert table.loc[name, 'same bits']


def test_threads_change_the_last_digits_at_most(table):
    "Sums over several threads add up in another order; after four steps numbers differ by a thousandth at most."
    assert table.loc['with 2 threads in place of 1', 'largest difference'] < 1e-3


def test_differences_are_found():
    "Of one bit in one tensor, of a name, and of the size of a tensor's numbers."
    one = {'a': torch.ones(3), 'b': torch.full((2,), 100.)}
    other = one | {'b': torch.tensor([100., torch.nextafter(torch.tensor(100.), torch.tensor(101.))])}
    assert determinism.same_bits(one, one) and not determinism.same_bits(one, other)
    assert not determinism.same_bits(one, {'a': one['a']})
    assert determinism.difference(one, other) == pytest.approx(2**-17 / 100, rel=1e-6)


def test_table_that_is_kept():
    "results/faults/determinism.csv has every case, and only threads change bits."
    kept = pd.read_csv(determinism.OUT).set_index('run')
    assert set(kept.index) == {*determinism.CASES, 'pairs by 2 workers in place of none'}
    assert kept['same bits'].drop('with 2 threads in place of 1').all()
    assert (kept.loc[kept['same bits'], 'largest difference'] == 0).all()
