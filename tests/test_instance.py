"Instance optimisation: without smoothing it is what it was before there was any, with it the velocity is smooth."
import math
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


def composed(start, displacement):
    return displacement if start is None else compose(start, displacement)


def descend_directly(moving, fixed, start):
    "Adam over the velocity itself, at three scales, with a rate that falls along a cosine."
    velocity, settings = torch.zeros(1, 3, 1, 1, 1), SETTINGS
    for scale in settings.scales:
        shape = tuple(max(n // scale, 8) for n in SHAPE)
        grid = tuple(-(-n // settings.spacing) for n in shape)
        m, f = resize_image(moving, shape), resize_image(fixed, shape)
        s = None if start is None else resize_displacement(start, grid)
        velocity = resize_displacement(velocity, grid).clone().requires_grad_()
        optimiser, best, lowest = torch.optim.Adam([velocity], lr=settings.learning_rate), velocity.detach(), torch.inf
        for step in range(settings.steps + 1):
            coarse = composed(s, integrate(velocity, settings.squarings))
            loss = local_ncc(warp(m, resize_displacement(coarse, shape)), f, settings.loss.window) + diffusion(coarse)
            if loss.item() < lowest: best, lowest = velocity.detach().clone(), loss.item()
            if step == settings.steps: break
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            half = (1 + math.cos(math.pi * (step + 1) / settings.steps)) / 2
            optimiser.param_groups[0]['lr'] = settings.learning_rate * (0.1 + 0.9 * half)
        velocity = best
    return composed(start, resize_displacement(integrate(velocity, settings.squarings), SHAPE))


@pytest.mark.parametrize('shift', [None, 0.7], ids=['from nothing', 'from a start'])
def test_no_smoothing_is_plain_descent(shift):
    moving, fixed = blob((8, 12, 8)), blob((12, 11, 7))
    start = None if shift is None else torch.full((1, 3, *SHAPE), shift)
    found, expected = optimise_pair(moving, fixed, SETTINGS, start), descend_directly(moving, fixed, start)
    torch.testing.assert_close(found, expected, atol=5e-3, rtol=0)  # Adam makes much of the last digits


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
