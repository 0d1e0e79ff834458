"What the lesson on samplers relies on and does not show"
import json
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from diffnb.angle import Guess
from diffnb.data import spiral
from diffnb.kit.exercises import judge
from diffnb.oracle import ideal
from diffnb.samplers import ddim, ddpm, heun, last, seeded
from diffnb.schedules import cosine, path

oracle = ideal(spiral(1000))
noise = torch.randn(600, 2, generator=torch.Generator().manual_seed(0))
quarter = path(cosine(signal=(1., 0.)), 30)


@pytest.mark.parametrize('call, says', [
    (lambda: ddim(oracle, noise, torch.tensor([999., 0])), 'radians'),
    (lambda: ddim(oracle, noise, torch.tensor([1.])), 'at least two'),
    (lambda: ddim(oracle, noise, quarter, eta=2), 'from 0'),
    (lambda: ddpm(oracle, noise, quarter, 'medium'), 'one of small, large'),
    (lambda: heun(oracle, noise, quarter, 'eps'), 'infinite'),
    (lambda: heun(oracle, noise, quarter, 'x0'), 'choose one of v'),
    (lambda: heun(oracle, noise, quarter, churn=float('nan')), '0 or more'),
    (lambda: last(ddim(lambda x, phi: Guess(x[:2], x[:1]), noise, quarter)), 'one shape'),
    (lambda: seeded([1, 2])(noise), '2 seeds')])
def test_mistakes_are_refused(call, says):
    with pytest.raises(ValueError, match=says): call()


def test_a_sampler_runs_once():
    steps = ddim(oracle, noise, quarter)
    last(steps)
    with pytest.raises(ValueError, match='run already'): last(steps)


def test_churn_of_zero_is_no_churn():
    end = [last(heun(oracle, noise, path(cosine, 9), churn_range=r)).x for r in ((0, 2), (2, 3))]
    assert_close(*end, rtol=0, atol=0)


@pytest.mark.parametrize('number, right, wrong', [
    (1, (1, 10), [(10, 1), (10, 10)]), (2, .866, [.5, .75, 1.]), (3, 1.1, [.389, .5])])
def test_exercises(number, right, wrong):
    assert judge('samplers', number, right) is None
    assert all(judge('samplers', number, answer) for answer in wrong)


def test_the_distances_of_digits_are_those_that_were_measured():
    root = Path(__file__).resolve().parent.parent
    mnist = json.loads((root/'results'/'mnist.json').read_text(encoding='utf-8'))
    names = 'DDIM, eta 0', 'Heun', 'DDIM, eta 1', 'DPM++, eta 1'
    rows = [mnist['table']['main'], *(mnist['samplers'][name] for name in names)]
    second, plain, heuns, fresh, best = (f"{row['percent']:.2f}".lstrip('0') for row in rows)
    text = (root/'nbs'/'05_samplers.ipynb').read_text(encoding='utf-8')
    for row in (f'| DDIM | {plain} | {fresh} |', f'| `dpmpp` | {second} | {best} |',
                f'| Heun | {heuns} | |'):
        assert row in text
    spread = [100*row['se']/mnist['table']['noise']['debiased'] for row in rows]
    low, high = (f'{error:.2f}'.lstrip('0') for error in (min(spread), max(spread)))
    assert f'Errors: {low} to {high}' in text
