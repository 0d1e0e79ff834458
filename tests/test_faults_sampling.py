"Faults that were found in samplers, guidance, editing and generation, each with its right value"
import math

import numpy as np
import pytest
import torch
from torch import nn

from diffnb.angle import unmix
from diffnb.denoiser import Denoiser
from diffnb.editing import data_consistency, invert, repaint_path, shrink
from diffnb.apps.generation import choose_seeds, conditioned, generate, stops, trajectory
from diffnb.apps.playground import playground
from diffnb.guidance import amount, clamp, given, guide, interval, project
from diffnb.kit.checks import check_labels
from diffnb.oracle import labelled
from diffnb.samplers import ddim, ddpm, dpmpp, heun, last, seeded
from diffnb.schedules import cosine, path
from diffnb.training import EMA
from diffnb.kit.pictures import evenly, to_frames
from diffnb.trajectories import strip
from diffnb.unet import UNet

START = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
SAMPLERS = ddim, ddpm, dpmpp, heun


def zero(x, phi): return unmix(x, 0*x, phi, 'x0')


class Noisy(nn.Module):
    "A network with batch norm and dropout, one part of which is frozen"
    def __init__(self):
        super().__init__()
        self.norm, self.drop, self.frozen = nn.BatchNorm2d(1), nn.Dropout(.5), nn.BatchNorm2d(1)
        self.train()
        self.frozen.eval()

    def forward(self, x, phi): return unmix(x, self.drop(self.frozen(self.norm(x))), phi, 'x0')


@pytest.mark.parametrize('sampler', SAMPLERS)
@pytest.mark.parametrize('bad', [dict(angles=[3., 0.]), dict(angles=[1.]), dict(angles='abc'),
                                 dict(x=5), dict(x=torch.zeros(2).byte()),
                                 dict(denoise='model'), dict(randn=5)])
def test_samplers_check_at_the_call(sampler, bad):
    with pytest.raises(ValueError): sampler(**dict(denoise=zero, x=START, angles=[1., 0.]) | bad)


@pytest.mark.parametrize('call', [lambda: ddim(zero, START, [1., 0.], eta=2),
                                  lambda: dpmpp(zero, START, [1., 0.], eta=math.nan),
                                  lambda: ddpm(zero, START, [1., 0.], var='medium'),
                                  lambda: heun(zero, START, [1., 0.], churn=-1),
                                  lambda: heun(zero, START, [1., 0.], average='x'),
                                  lambda: heun(zero, START, [1., 0.], average='x0'),
                                  lambda: heun(zero, START, [math.pi/2, 0.], average='eps'),
                                  lambda: heun(zero, START, [1., 0.], noise_scale=-1),
                                  lambda: heun(zero, START, [1., 0.], churn_range=(1, 0)),
                                  lambda: invert(zero, START, [0., 1.]),
                                  lambda: invert(zero, START.byte(), [1., 0.]),
                                  lambda: invert(zero, START, [1., 0.], refine=-1)])
def test_settings_are_checked_at_the_call(call):
    with pytest.raises(ValueError): call()


@pytest.mark.parametrize('sampler', [*SAMPLERS, invert])
def test_no_grad_holds_inside_and_does_not_leak(sampler):
    inside = []
    def spy(x, phi):
        inside.append(torch.is_grad_enabled())
        return zero(x, phi)
    for _ in sampler(spy, START, path(cosine, 3)): assert torch.is_grad_enabled()
    assert inside and not any(inside)


@pytest.mark.parametrize('way', [*SAMPLERS, invert, 'wrapped', 'walk', 'own', 'generate',
                                 'playground'])
def test_every_way_of_sampling_asks_in_eval_mode(way):
    net = Noisy()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    modes = [m.training for m in net.modules()]
    def own(denoise, x, angles): yield from ddim.__wrapped__(denoise, x, angles)
    if way == 'wrapped': steps = ddim(project(net, clamp()), START, path(cosine, 3))
    elif way == 'walk': steps = trajectory(net, [1, 2], shape=(1, 8, 8), calls=3)
    elif way == 'own': steps = trajectory(net, [1, 2], shape=(1, 8, 8), calls=3, sampler=own)
    elif way == 'generate': steps = [generate(net, 2, shape=(1, 8, 8), calls=3, progress=False)]
    elif way == 'playground':
        play = playground(net, n=2, shape=(1, 8, 8)).wait(20)
        steps = play.steps
        assert len(steps) == 21
    else: steps = way(net, START, path(cosine, 3))
    for _ in steps: assert [m.training for m in net.modules()] == modes
    assert all(v.equal(before[k]) for k, v in net.state_dict().items())


def test_modes_come_back_after_an_error():
    net = Noisy()
    net.forward = lambda x, phi: 1/0
    with pytest.raises(ZeroDivisionError): last(ddim(net, START, [1., 0.]))
    assert net.norm.training and not net.frozen.training


def test_unclipped_samples_are_not_cut():
    far = torch.full((2, 1, 8, 8), 7.4)
    def latent(x, phi): return unmix(x, far[:len(x)], phi, 'x0')
    how = dict(shape=(1, 8, 8), calls=3, progress=False)
    assert torch.allclose(generate(latent, 2, clip=False, **how), far)
    assert generate(latent, 2, **how).max() == 1


@pytest.mark.parametrize('whole', [np.int64, np.uint8, np.array, torch.tensor])
def test_whole_numbers_of_any_kind(whole):
    five, two = whole(5), whole(2)
    angles = path(cosine, 12)
    assert repaint_path(angles, back=five, times=two).equal(repaint_path(angles, 5, 2))
    there = last(invert(zero, START, angles, 2)).x
    assert last(invert(zero, START, angles, refine=two)).x.equal(there)
    assert shrink(two).A(START).shape == (2, 1, 4, 4)
    assert data_consistency(shrink(2).A(START), two)(START).allclose(START)
    assert stops(zero, five).equal(stops(zero, 5)) and choose_seeds(two, five) == [5, 6]
    assert len(seeded([five, 3]).gens) == 2
    steps = list(ddim(zero, START, angles))
    assert len(evenly(steps, five)) == 5 and len(to_frames(steps, n=five, items=two)) == 5
    assert strip(steps, n=five, items=two, scale=two).size == strip(steps, 5, 2, 2).size
    made = generate(zero, two, shape=(whole(1), whole(8), whole(8)), calls=five, batch=whole(1),
                    seeds=five, progress=False)
    assert made.shape == (2, 1, 8, 8)


@pytest.mark.parametrize('bad', [1.5, True, '5', torch.tensor(1.5), np.bool_(True), None])
def test_what_is_no_whole_number_is_refused(bad):
    for call in (lambda: repaint_path(path(cosine, 9), back=bad), lambda: shrink(bad),
                 lambda: stops(zero, bad), lambda: choose_seeds(bad)):
        with pytest.raises(ValueError, match='whole number'): call()


@pytest.mark.parametrize('bad', [[1.5], ['7'], [True], [2**70], 1.5, torch.tensor([1.5])])
def test_seeds_are_not_cut(bad):
    with pytest.raises(ValueError): choose_seeds(1, bad)
    with pytest.raises(ValueError): seeded(bad)


def test_labels_of_usual_shapes():
    x, y = torch.randn(6, 2), torch.arange(6) % 3
    oracle = labelled(x, y)
    want = oracle(x, .9, y).x0
    for same in (y.numpy(), y[:, None], y.to(torch.uint8), y.to(torch.int16).tolist()):
        assert given(oracle, same)(x, .9).x0.equal(want)
        assert labelled(x, same)(x, .9, y).x0.equal(want)
    with pytest.raises(ValueError): check_labels(y > 0, oracle)


def test_averaged_weights_are_a_denoiser_everywhere():
    torch.manual_seed(0)
    model = Denoiser(UNet(1, width=8, classes=4), shape=(1, 8, 8), mean=.2, std=.5)
    ema = EMA(model)
    x = 5*START
    assert clamp(ema)(x).equal(clamp(model)(x)) and not clamp(ema)(x).equal(clamp()(x))
    assert guide(ema, 3).schedule(.3) == model.schedule(.3)
    assert guide(ema, 3)(x, .5).x0.equal(guide(model, 3)(x, .5).x0)
    assert stops(ema, 5).equal(stops(model, 5))
    assert conditioned(ema, 3).limits[0].equal(model.limits[0])
    ours, theirs = (last(trajectory(m, [1], 2, calls=3)).x for m in (model, ema))
    assert theirs.equal(ours)
    assert last(invert(ema, START, path(model.schedule, 3))).x.isfinite().all()


def test_limits_are_not_read_back_at_each_call(monkeypatch):
    fix, reads, truth = clamp((torch.tensor(-1.), torch.tensor(1.))), [], torch.Tensor.__bool__
    monkeypatch.setattr(torch.Tensor, '__bool__', lambda t: reads.append(1) or truth(t))
    fix(START)
    assert not reads


def test_interval_takes_numbers_as_people_have_them():
    at = interval(torch.tensor([1., 2.]), .2, 1.)
    assert at(np.float32(.5)).tolist() == [1., 2.]
    assert amount(at, .5, torch.zeros(2, 3)).tolist() == [1., 2.]
