"What the lesson on angles relies on and does not show"
import math

import pytest
import torch
from torch.testing import assert_close

from diffnb.angle import aim, mix, rates, targets, unmix
from diffnb.kit.exercises import judge

r = torch.linspace(-1, 1, 32)
disc = torch.where(r[:, None]**2 + r[None]**2 < .5, 1., -1.)
noise = torch.randn(disc.shape, generator=torch.Generator().manual_seed(0))
batch = torch.stack([disc]*3)[:, None]


@pytest.mark.parametrize('kind', [torch.float32, torch.bfloat16, torch.float64])
def test_rates_take_the_type_of_what_they_multiply(kind):
    assert (rates(.5, disc.to(kind))[0]*disc.to(kind)).dtype == kind
    assert mix(disc.to(kind), noise.to(kind), .5).dtype == kind
    assert all(r.dtype == kind for r in rates(torch.rand(3), batch.to(kind)))


@pytest.mark.parametrize('call, says', [
    (lambda: rates(torch.rand(2), batch), 'one angle, or one for each of the 3 items'),
    (lambda: rates(torch.tensor([3, 734, 21]), batch), 'phi=734: angles are radians'),
    (lambda: mix(disc, noise, 60), 'phi=60: angles are radians'),
    (lambda: mix((disc > 0).byte(), noise, .5), 'turn bytes into'),
    (lambda: mix(disc, noise[0], .5), r'x0 has shape \(32, 32\) and eps \(32,\)'),
    (lambda: unmix(disc, noise[0], .5), r'x has shape \(32, 32\) and f \(32,\)'),
    (lambda: aim(disc, noise, .5, 'score'), "target 'score' is not known: choose one of x0, eps")])
def test_mistakes_are_refused(call, says):
    with pytest.raises(ValueError, match=says): call()


def test_an_angle_for_each_item_is_item_by_item():
    phis = torch.tensor([.2, .8, 1.4])
    eps = torch.randn(batch.shape, generator=torch.Generator().manual_seed(1))
    both = mix(batch, eps, phis), aim(batch, eps, phis, 'flow')
    together = unmix(*both, phis, 'flow')
    apart = [unmix(mix(b, e, p), aim(b, e, p, 'flow'), p, 'flow')
             for b, e, p in zip(batch, eps, phis)]
    assert_close(together.x0, torch.stack([g.x0 for g in apart]))


@pytest.mark.parametrize('target', targets)
@pytest.mark.parametrize('phi', [0., math.pi/2, torch.zeros(3), torch.full((3,), math.pi/2)])
def test_nothing_is_infinite_at_the_ends(target, phi):
    guess = unmix(batch, torch.ones_like(batch), phi, target)
    assert all(half.isfinite().all() for half in guess)


def test_at_zero_the_mixture_is_the_image_and_the_noise_is_open():
    guess = unmix(batch, torch.ones_like(batch), 0., 'x0')
    assert_close(guess.x0, batch)
    assert not guess.eps.any()


@pytest.mark.parametrize('target', targets)
@pytest.mark.parametrize('phi', [0., .3, 1., math.pi/2])
def test_one_angle_and_the_same_for_each_agree_and_nothing_is_changed(target, phi):
    x, f = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(2)).double()
    before = x.clone(), f.clone()
    each = torch.full((3,), phi, dtype=torch.float64)
    close = dict(rtol=1e-12, atol=1e-12)
    assert_close(unmix(x, f, phi, target), unmix(x, f, each, target), **close)
    assert_close(mix(x, f, phi), mix(x, f, each), **close)
    assert x.equal(before[0]) and f.equal(before[1])
    assert mix(x.float(), f, phi).dtype == torch.float64


@pytest.mark.parametrize('number, right, wrong', [
    (1, ('x0', 'eps'), [('eps', 'x0'), ('v', 'flow')]),
    (2, lambda a, s: (0., -.5), [lambda a, s: (-.5, 0.), lambda a, s: (0., .5)]),
    (3, 1.5**.5, [1., 1.5])])
def test_exercises(number, right, wrong):
    assert judge('angle', number, right) is None
    hints = [judge('angle', number, answer) for answer in wrong]
    assert all(hints)
