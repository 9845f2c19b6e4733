"The benchmark: its loop, its files, its ratios, and one real item."
import os
import sys

import pandas as pd
import pytest
import torch
from conftest import ROOT

sys.path.insert(0, str(ROOT / 'benchmarks'))
import bench
import contestants
import feeding
import measure
import tables


def test_interleave_takes_turns_and_keeps_the_fastest():
    "Who is slow stops once the budget is spent; who is short is called again within the turn."
    now, calls = [0.0], []

    def contestant(name, *durations):
        durations = iter(durations)

        def call():
            calls.append(name)
            now[0] += next(durations)
        return call
    timings = measure.interleave({'slow': contestant('s', 9, 5, 3, 4), 'fast': contestant('f', 1, .5, 2, 1, 1, 7)},
                                 clock=lambda: now[0], least=2, most=5, budget=8, turn=1)
    assert ''.join(calls) == 'sf' + 'sff' + 'sf' + 'f' + 'f'
    assert timings == {'slow': (3000, 3), 'fast': (500, 6)}


def test_threads_and_kernels_are_given_back(monkeypatch):
    "What the benchmark sets for a call ends with the call."
    monkeypatch.delenv('REGPRE_FAST', raising=False)
    assert measure.pure(lambda *given: (os.environ['REGPRE_FAST'], *given))(1) == ('0', 1)
    assert 'REGPRE_FAST' not in os.environ
    before = torch.get_num_threads()
    with measure.use_threads(before + 1): assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    monkeypatch.setattr(contestants, 'find_spec', lambda package: package == 'numba')
    assert list(contestants.with_and_without_kernels({'ours': print, 'peer': print})) == ['ours', 'ours [fast]', 'peer']


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='reads /proc')
def test_peak_megabytes():
    "64 MB that are freed at once still count."
    assert 60 < measure.peak_megabytes(lambda: torch.ones(64, 2**20 // 4).sum()) < 80


def rows(item, size, threads=1, **ms):
    "Measurements."
    return [{'item': item, 'size': size, 'threads': threads, 'contestant': name.replace('_', ' '), 'ms': value}
            for name, value in ms.items()]


def test_merge_replaces_a_part_and_keeps_the_others(tmp_path):
    "A part that is measured again loses its old contestants."
    path = tmp_path / 'speed.csv'
    tables.merge(path, rows('ncc', 64, ours=1.0, peer=2.0) + rows('ndv', 64, ours=3.0), tables.PART)
    table = tables.merge(path, rows('ncc', 64, ours=4.0) + rows('ncc', 96, ours=5.0), tables.PART)
    assert table.ms.tolist() == [4, 5, 3]
    assert pd.read_csv(path).equals(table.reset_index(drop=True))
    assert list(tmp_path.iterdir()) == [path]


def test_ratios():
    "Against the fastest peer, and against MIR on this machine; blank where nobody knows."
    there = tables.anchors()
    peers = {name: factor * there['ncc', 96, name] for name, factor in (('MONAI', 3), ('neurite', 2))}
    speed = pd.DataFrame(rows('ncc', 96, ours=10.0, **peers)
                         + rows('ndv', 96, ours=1.0) + rows('ndv', 96, threads=2, ours=1.0))
    assert tables.scale(speed) == 2 and pd.isna(tables.scale(speed[speed.item == 'ndv']))
    ncc, ndv, two_threads = (row for _, row in tables.ratios(speed).iterrows())
    assert ncc['fastest peer'] == 'neurite' and ncc['x peer'] == pytest.approx(peers['neurite'] / 10)
    assert ncc['x MIR'] == pytest.approx(2 * there['ncc', 96, 'MIR'] / 10)
    assert pd.isna(ndv['x peer']) and ndv['x MIR'] == pytest.approx(2 * there['ndv', 96, 'MIR'])
    assert pd.isna(two_threads['x MIR'])


def test_encoder_against_full():
    "The paper's own ratio is the last row."
    table = tables.encoder_against_full(pd.DataFrame(rows('step', 64, ours=1.0) + rows('full-step', 64, ours=4.0)))
    assert table['encoder / full'].tolist() == [0.25, pytest.approx(0.012 / 0.022)]


def test_neurite_pair():
    "What is compared with `random_pair` has its outputs."
    pytest.importorskip('voxelmorph'), pytest.importorskip('neurite')
    peer, own = contestants.neurite_pair((32, 32, 32)), contestants.generators((32, 32, 32))['ours']()
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in peer.items()} \
        == {name: (tensor.shape, tensor.dtype) for name, tensor in own.items()}


def test_one_item(tmp_path, monkeypatch, capsys):
    "The command measures a part, writes it and prints it."
    monkeypatch.setenv('REGPRE_FAST', '0')  # no compilation
    bench.main(['--item', 'ncc', 'accuracy', '--size', '20', '--threads', '1', '--folder', str(tmp_path)])
    assert contestants.ITEMS['ncc'].title in capsys.readouterr().out
    speed = pd.read_csv(tmp_path / 'speed.csv')
    assert set(speed.contestant) >= {'ours', 'MONAI'} and speed.ms.gt(0).all() and speed.repeats.ge(3).all()
    accuracy = pd.read_csv(tmp_path / 'accuracy.csv').set_index(['images', 'contestant'])
    assert accuracy.gradient_error['piecewise constant', 'ours'] < 1e-3
    report = (tmp_path / 'speed.md').read_text(encoding='utf-8')
    assert '| MONAI' in report and 'commit' in report


def test_feeding(tmp_path, monkeypatch, capsys):
    "Images that were kept are read faster than they can be unpacked; the cache of this machine is left alone."
    monkeypatch.setenv('REGPRE_CACHE', str(tmp_path / 'own'))
    feeding.main(['--size', '32', '48', '32', '--folder', str(tmp_path)])
    table = pd.read_csv(tmp_path / 'feeding.csv')
    assert len(table) == 6 and 'what was kept' in capsys.readouterr().out
    speed = table.set_index(['files', 'from'])['images_per_second']
    assert all(speed[files, 'what was kept'] > speed[files, 'its own files'] for files in ('pickle', '.nii.gz'))
    assert os.environ['REGPRE_CACHE'] == str(tmp_path / 'own') and not (tmp_path / 'own').exists()
