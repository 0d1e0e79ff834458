"What lesson 09 claims about denoisers, and what they say to wrong arguments"
import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from diffnb.angle import aim, mix, rates, targets, unmix
from diffnb.data import spiral
from diffnb.denoiser import (Denoiser, Scaled, channel_stats, check_target, per_item, weigh,
                             weightings)
from diffnb.kit.exercises import judge
from diffnb.oracle import mixture
from diffnb.schedules import cosine, flow, karras, lognormal
from diffnb.training import labels_for
from diffnb.unet import MLP, UNetFixed

DATA = spiral(500)


def seeded(n=3): return torch.Generator().manual_seed(n)


def model(**kw):
    torch.manual_seed(0)
    return Denoiser(MLP(width=16, layers=2), **kw)


def shown(deg, n=8): return mix(DATA[:n], torch.randn(n, 2, generator=seeded(1)), math.radians(deg))


def complaint(f, *args, **kw):
    with pytest.raises(ValueError) as e: f(*args, **kw)
    return str(e.value)


@pytest.mark.parametrize('weight', weightings)
@pytest.mark.parametrize('target', targets)
def test_a_weight_on_the_image_is_the_translated_weight_on_the_target(target, weight, n=89):
    phi = torch.deg2rad(torch.linspace(1, 89, n).double())
    x0, eps, f = torch.randn(3, n, 5, generator=seeded(0)).double()
    x, (a, s) = mix(x0, eps, phi), rates(phi, x0)
    image = (unmix(x, f, phi, target).x0 - x0)**2 * weightings[weight](a, s)/s**2
    own = (f - aim(x0, eps, phi, target))**2 * weigh(phi, target, weight, x0)
    assert ((image - own).abs()/own.clamp(1e-9)).max() < 1e-6


@pytest.mark.parametrize('kind', ['mse', 'l1'])
def test_the_weight_x0_makes_the_loss_of_v_that_of_its_image_half(kind):
    m, phi = model(), torch.deg2rad(torch.linspace(5, 85, 64))
    eps = torch.randn(64, 2, generator=seeded())
    half = m(mix(DATA[:64], eps, phi), phi).x0 - DATA[:64]
    by_hand = {'mse': half**2, 'l1': half.abs()}[kind].mean(1)
    assert_close(m.loss(DATA[:64], phi=phi, eps=eps, weight='x0', kind=kind), by_hand)


def test_the_loss_of_v_is_the_literatures():
    m, gen = model(), seeded()
    phi, eps = cosine(torch.rand(64, generator=gen)), torch.randn(64, 2, generator=gen)
    alpha, sigma = phi.cos().float()[:, None], phi.sin().float()[:, None]
    v = m.net(alpha*DATA[:64] + sigma*eps, phi.float())
    by_hand = (v - (alpha*eps - sigma*DATA[:64]))**2
    assert_close(m.loss(DATA[:64], generator=seeded()), by_hand.mean(1))


def test_plain_losses_are_weightings():
    phi = torch.deg2rad(torch.linspace(1, 89, 89).double())
    for target, name in {'x0': 'x0', 'eps': 'snr', 'v': 'edm', 'flow': 'flow'}.items():
        assert_close(weigh(phi, target, name, DATA[:89].double()), torch.ones(89, 1).double())
    assert 'min-snr' in complaint(weigh, .5, 'v', 'p2', DATA)


def test_limits_are_the_ends_in_encoded_coordinates():
    grey = torch.rand(64, 3, 8, 8, generator=seeded(0))*.5 - .6
    assert Scaled().encode(grey).equal(grey) and Scaled().decode(grey).equal(grey)
    dark = Scaled(mean=grey.mean((0, 2, 3)), std=grey.std((0, 2, 3)))
    assert_close(dark.decode(dark.encode(grey)), grey)
    ends = torch.stack([-torch.ones(3, 1, 1), torch.ones(3, 1, 1)])
    assert_close(dark.encode(ends), torch.stack(dark.limits))
    stats = channel_stats((grey*127.5 + 127.5).round().byte())
    assert_close(stats['std'], grey.std((0, 2, 3)), rtol=.01, atol=0)


def test_a_target_and_a_schedule_that_do_not_fit():
    assert "target='v'" in complaint(check_target, 'eps', flow)
    assert 'not known' in complaint(check_target, 'score', flow)
    for target in targets: check_target(target, cosine)
    for target in ('x0', 'v', 'flow'): check_target(target, flow)


def test_what_is_not_an_angle():
    steps = torch.randint(1000, (3,), generator=seeded(0))
    others = [.1, 45., .2], [.1, -.2, .3], [.1, math.nan, .3]
    for wrong in (steps, steps.float(), *map(torch.tensor, others)):
        assert 'angles are radians' in complaint(per_item, wrong, DATA[:3])


def test_one_angle_and_one_for_each_agree_and_the_guess_explains_x():
    m, x, phi = model(), shown(50), math.radians(50)
    one, each = m(x, phi), m(x, torch.full((8,), phi))
    assert_close(one.x0, each.x0)
    assert_close(one.eps, each.eps)
    assert_close(mix(one.x0, one.eps, phi), x)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        assert m(x.to(dtype), .9).x0.dtype == dtype


def test_input_perturbation_is_the_literatures():
    m, gen = model(target='eps'), seeded()
    n1, n2 = torch.randn(64, 2, generator=gen), torch.randn(64, 2, generator=gen)
    by_hand = (m.predict(mix(DATA[:64], n1 + .1*n2, .8), .8) - n1).pow(2).mean(1)
    how = dict(phi=torch.full((64,), .8), perturb=.1, generator=seeded())
    assert_close(m.loss(DATA[:64], **how), by_hand)
    assert not m.loss(DATA[:64], **{**how, 'perturb': 0.}).allclose(by_hand)


class Minus(nn.Module):
    def forward(self, x, phi, cond=None): return -torch.sin(3*x)


def test_the_loss_of_edm_is_the_plain_loss():
    sd, sigma = .5, torch.tensor([.1, .5, 2., 40.])
    total = sigma**2 + sd**2
    c_skip, c_out, c_in = sd**2/total, sigma*sd/total.sqrt(), 1/total.sqrt()
    edm = Denoiser(Minus(), std=sd, schedule=lognormal, sample_schedule=karras)
    x0, n = sd*torch.randn(4, 2, generator=seeded()), torch.randn(4, 2, generator=seeded())
    y = x0 + sigma[:, None]*n
    D = c_skip[:, None]*y + c_out[:, None]*torch.sin(3*c_in[:, None]*y)
    theirs = total/(sigma*sd)**2*(D - x0).pow(2).mean(1)
    ours = edm.loss(x0, phi=torch.atan2(sigma, torch.tensor(sd)), eps=n)
    assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_wrong_arguments_are_refused_in_words():
    m, four = model(), DATA[:4]
    refused = [
        (Denoiser, (MLP(), 'noise'), {}, "target 'noise' is not known"),
        (Denoiser, (MLP(),), dict(std=0.), 'above 0'),
        (Denoiser, (MLP(), 'eps', lognormal), {}, 'says nothing about x0'),
        (Denoiser, (MLP(),), dict(mean=math.nan), 'one finite number'),
        (Denoiser, (MLP(),), dict(std=[]), 'one finite number'),
        (Denoiser, (MLP,), {}, 'not its class'),
        (Denoiser, (MLP(),), dict(schedule='cosine'), 'not its name'),
        (Denoiser, (MLP(),), dict(schedule=lambda t: 90*t), 'radians between 0 and pi/2'),
        (Denoiser, (MLP(),), dict(names='cat'), 'one text per class'),
        (m, (torch.zeros(4, 2).byte(), .5), {}, 'floating point'),
        (m.decode, (torch.zeros(4, 2).byte(),), {}, 'floating point'),
        (m.loss, (four,), dict(kind='l2'), "kind 'l2' is not known"),
        (m.loss, (torch.zeros(4, 2).byte(),), {}, 'floating point'),
        (m.loss, (four,), dict(eps=DATA[:1], perturb=.1), 'must agree'),
        (m.loss, (four,), dict(phi=torch.zeros(3)), '3'),
        (Denoiser(MLP(), mean=[0., 0., 0.]).loss, (four,), {}, 'scales 3 channels'),
        (lambda: Denoiser(Minus()).cfg, (), {}, 'config(self, locals())')]
    for f, args, kw, words in refused: assert words in complaint(f, *args, **kw)


def test_classes_and_their_names():
    m = Denoiser(MLP(classes=2), names=('cat', 'dog'))
    assert m.classes == 2 and model().classes == 0 and Denoiser(Minus()).classes is None
    assert m.cfg['names'] == ['cat', 'dog'] and model().cfg['names'] is None
    m.net = torch.optim.swa_utils.AveragedModel(m.net)
    assert m.classes == 2


def test_labels_go_where_a_network_may_want_them():
    y = torch.tensor([0, 1])
    fixed, foreign = Denoiser(UNetFixed(1)), Denoiser(Minus())
    assert fixed.classes == 0 and labels_for(fixed, y) is None
    assert foreign.classes is None and labels_for(foreign, y) is y
    assert labels_for(model(), y) is None and labels_for(Denoiser(MLP(classes=2)), y) is y


def test_the_exact_answers_of_the_exercises():
    unit = mixture(torch.zeros(1, 2), 1.)
    n = torch.randn(20_000, 2, generator=seeded())
    x0, phi = torch.randn(20_000, 2, generator=seeded(4)), math.pi/2
    for target in ('v', 'flow'):
        error = aim(*unit(n, phi), phi, target) - aim(x0, n, phi, target)
        assert abs(error.pow(2).mean() - 1) < .03
    for target in targets:
        guess = unmix(x0, aim(*unit(x0, 1.), 1., target), 1., target)
        assert_close(guess.x0, unit(x0, 1.).x0)


def test_exercises_take_the_right_answer_and_hint_at_wrong_ones():
    def band(a, s): return ((a > .5) & (s > .5)).float()
    for number, answer in ((1, (1, 1)), (2, band), (3, 5.73)):
        assert judge('denoiser', number, answer) is None
    wrong = [(1, (0, 1), 'minus the image'), (1, (1, 2), 'noise itself'), (1, 1, 'two numbers'),
             (2, lambda a, s: ((a > 30) & (s < 60)).float(), 'not degrees'),
             (2, lambda a, s: (s > .5).float(), '65, 85'),
             (3, .01, 'error of eps'), (3, .19, '87 degrees'), (3, 0., 'what is d')]
    for number, answer, hint in wrong: assert hint in judge('denoiser', number, answer)
