"What the lesson on the oracle relies on and does not show"
import math

import pytest
import torch
from torch.testing import assert_close

from diffnb.angle import mix, unmix
from diffnb.apps.datasets import load_data
from diffnb.data import spiral
from diffnb.kit.exercises import judge
from diffnb.oracle import ideal, labelled, mixture, score

swirl = spiral(1000)
oracle = ideal(swirl)


@pytest.mark.parametrize('call, says', [
    (lambda: ideal(load_data('digits')), 'to_float'),
    (lambda: ideal(torch.zeros(0, 2)), 'stack of items'),
    (lambda: ideal(torch.full((2, 2), float('nan'))), 'NaN or infinity'),
    (lambda: mixture(swirl, std=-1), '0 or more'),
    (lambda: mixture(swirl, std=float('nan')), '0 or more'),
    (lambda: mixture(swirl, weights=[1.]), '1000 positive'),
    (lambda: oracle(torch.zeros(3, 5), .5), 'items of'),
    (lambda: score(oracle, swirl, 0.), 'angle 0'),
    (lambda: score(oracle, swirl[:2], torch.tensor([.5, 0.])), 'angle 0'),
    (lambda: labelled(swirl[:2], [0, 2]), 'no item has label 1'),
    (lambda: labelled(swirl[:2], [.5, 1]), 'whole number')])
def test_mistakes_are_refused(call, says):
    with pytest.raises(ValueError, match=says): call()


def test_the_best_guess_is_also_the_best_of_the_noise():
    e = torch.randn(1000, 2, generator=torch.Generator().manual_seed(4))
    x = mix(swirl, e, 1.)
    timid = unmix(x, .9*oracle(x, 1.).x0, 1., 'x0')
    assert (oracle(x, 1.).eps - e).square().mean() < (timid.eps - e).square().mean()


def test_one_angle_and_the_same_for_each_agree():
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0)).double()
    blobs, each = mixture(swirl[::50].double(), .2), torch.full((20,), .7, dtype=torch.float64)
    for ask in (blobs, blobs.logits, blobs.log_prob, lambda x, phi: score(blobs, x, phi)):
        assert_close(ask(x, .7), ask(x, each), rtol=1e-10, atol=1e-10)


def test_log_prob_is_a_log_density():
    blobs = mixture(swirl[::100].double(), std=.2, weights=torch.arange(1., 11.))
    side = torch.linspace(-6, 6, 241, dtype=torch.float64)
    plane = torch.cartesian_prod(side, side)
    mass = blobs.log_prob(plane, .5).exp().sum()*(side[1] - side[0])**2
    assert abs(mass - 1) < 1e-6


@pytest.mark.parametrize('number, right, wrong', [
    (1, .8, [1., .9, 0.]), (3, 1/math.tan(math.radians(60)), [1.732, 1.]),
    (2, mixture(swirl, .3), [ideal(swirl), swirl, mixture(swirl, .5)])])
def test_exercises(number, right, wrong):
    assert judge('oracle', number, right) is None
    assert all(judge('oracle', number, answer) for answer in wrong)


def test_labels_with_a_gap_are_refused():
    data = torch.randn(6, 2)
    with pytest.raises(ValueError, match='no item has label 1'):
        labelled(data, torch.tensor([0, 0, 2, 2, 3, 3]))
