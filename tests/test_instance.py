"Instance optimisation: without smoothing it is what it was before there was any, with it the velocity is smooth."
from dataclasses import replace

import pandas as pd
import pytest
import torch
from conftest import ROOT

from regpre_nb.data.cohorts import load_cohort
from regpre_nb.learn.instance import InstanceSettings, optimise_pair
from regpre_nb.method.losses import diffusion, local_ncc
from regpre_nb.method.spatial import compose, integrate, resize_displacement, resize_image, warp

SHAPE = (20, 24, 16)
SETTINGS = InstanceSettings(steps=3, smoothing=0.)


def blob(centre):
    "An image (1, 1, X, Y, Z) with one soft ball."
    axes = torch.meshgrid(*(torch.arange(float(n)) for n in SHAPE), indexing='ij')
    distance = sum((axis - place) ** 2 for axis, place in zip(axes, centre))
    return torch.exp(-distance / 18)[None, None]


def total(velocity, start):
    return compose(start, resize_displacement(integrate(velocity, SETTINGS.squarings), start.shape[2:]))


def descend_directly(moving, fixed, start):
    "Adam over the velocity itself, at two scales."
    velocity = torch.zeros(1, 3, 1, 1, 1)
    for scale in SETTINGS.scales:
        shape = tuple(max(n // scale, 8) for n in SHAPE)
        m, f, s = resize_image(moving, shape), resize_image(fixed, shape), resize_displacement(start, shape)
        velocity = resize_displacement(velocity, tuple(-(-n // SETTINGS.spacing) for n in shape))
        velocity = velocity.clone().requires_grad_()
        optimiser, best, lowest = torch.optim.Adam([velocity], lr=SETTINGS.learning_rate), velocity.detach(), torch.inf
        for step in range(SETTINGS.steps + 1):
            displacement = total(velocity, s)
            loss = local_ncc(warp(m, displacement), f, SETTINGS.loss.window) + diffusion(displacement)
            if loss.item() < lowest: best, lowest = velocity.detach().clone(), loss.item()
            if step == SETTINGS.steps: break
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        velocity = best
    return total(velocity, start)


@pytest.mark.parametrize('shift', [0., 0.7], ids=['from nothing', 'from a start'])
def test_no_smoothing_is_plain_descent(shift):
    moving, fixed, start = blob((8, 12, 8)), blob((12, 11, 7)), torch.full((1, 3, *SHAPE), shift)
    assert torch.equal(optimise_pair(moving, fixed, SETTINGS, start), descend_directly(moving, fixed, start))


def test_no_step_keeps_the_start():
    start = torch.randn(1, 3, *SHAPE, generator=torch.Generator().manual_seed(0))
    settings = InstanceSettings(steps=0, smoothing=1.)
    found = optimise_pair(blob((8, 12, 8)), blob((12, 11, 7)), settings, start)
    torch.testing.assert_close(found, start, atol=1e-5, rtol=0)


def test_smoothing_moves_neighbours_together():
    "Far from the ball nothing is to be seen; a smooth velocity moves there all the same."
    moving, fixed = blob((7, 12, 8)), blob((13, 12, 8))
    rough, smooth = (optimise_pair(moving, fixed, InstanceSettings(steps=20, smoothing=smoothing))
                     for smoothing in (0., 1.))
    roughness = [diffusion(field).item() / field.square().mean().item() for field in (rough, smooth)]
    assert roughness[1] < 0.8 * roughness[0]


@pytest.fixture
def script(monkeypatch):
    "The script that scores settings."
    monkeypatch.syspath_prepend(ROOT / 'benchmarks')
    import instance_settings
    return instance_settings


@pytest.mark.parametrize('atlas', [True, False], ids=['atlas to subject', 'subject to subject'])
def test_settings_are_scored_on_training_pairs_alone(script, atlas):
    cohort = load_cohort('template')
    if not atlas: cohort = replace(cohort, atlas=None)
    chosen = script.choose_pairs(cohort, 3, 2, 6, seed=0)
    assert (len(chosen.drawn), len(chosen.far)) == (3, 2)
    assert chosen == script.choose_pairs(cohort, 3, 2, 6, seed=0) != script.choose_pairs(cohort, 3, 2, 6, seed=1)
    known = {*cohort.train, *([cohort.atlas] if atlas else [])}
    assert {case for pair in chosen.every for case in pair} <= known
    still = [script.one_pair(cohort, pair, replace(SETTINGS, steps=0))['score'] for pair in chosen.far]
    assert still == sorted(still)  # the farthest first


def test_a_table_of_settings(script, tmp_path, capsys):
    asked = ['template', '--pairs', '1', '--far', '1', '--pool', '2', '--table', str(tmp_path / 'table.csv'),
             '--settings', '{"steps": 1, "scales": [2], "smoothing": 1}']
    script.main(asked)
    table = pd.read_csv(tmp_path / 'table.csv')
    assert table['settings'].tolist() == ['{"steps": 0}', asked[-1]]
    assert len(capsys.readouterr().out.splitlines()) == 2
