"What lesson 10 claims about training, and what its parts promise"
import copy
import itertools
import math
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from diffnb.angle import aim, mix
from diffnb.apps.datasets import load_data
from diffnb.data import batches, spiral
from diffnb.denoiser import Denoiser
from diffnb.kit.checks import Diverged, stable_seed
from diffnb.kit.exercises import judge
from diffnb.kit.pictures import to_float
from diffnb.kit.steps import adamw
from diffnb.oracle import ideal
from diffnb.schedules import cosine
from diffnb.training import (EMA, block, by_angle, gradients, label_dropout, lr_at, step_noise,
                             train, validate)
from diffnb.unet import MLP

POINTS = spiral(2000)


def seeded(n=0): return torch.Generator().manual_seed(n)


def small(width=32, **kw):
    torch.manual_seed(0)
    return Denoiser(MLP(width=width, layers=2), **kw)


def weights(model): return torch.cat([p.detach().flatten() for p in model.parameters()])


# What a step draws

def test_all_labels_can_be_dropped_even_bytes():
    assert label_dropout(np.arange(10, dtype=np.uint8), 1.).eq(-1).all()
    some = label_dropout(torch.arange(1000), .3, seeded()).eq(-1).float().mean()
    assert .25 < some < .35
    assert label_dropout(None, .5) is None


def test_two_halves_are_the_whole_and_the_next_step_differs():
    x0, y = POINTS[:8], torch.arange(8)
    d = step_noise(x0, y, cosine, 0, 1000, .5, .1)
    halves = [step_noise(x0[i:i + 4], y[i:i + 4], cosine, 0, 1000, .5, .1, rank=r, world=2)
              for r, i in enumerate((0, 4))]
    for k in ('phi', 'eps', 'y', 'perturbation'):
        assert torch.cat([getattr(h, k) for h in halves]).equal(getattr(d, k))
    assert not step_noise(x0, y, cosine, 0, 1001).eps.equal(d.eps)
    assert not step_noise(x0, y, cosine, 1, 1000).eps.equal(d.eps)


@pytest.mark.parametrize('world', [2, 3, 6, 12])
def test_any_number_of_processes_draws_the_same_noise_across_blocks(world):
    x0 = torch.zeros(60, 3, 64, 64)                      # blocks of 32 slots: 32 and 28
    assert block//x0[0].numel() == 32
    whole, n = step_noise(x0, None, cosine, 3, 7, perturb=.1), 60//world
    for rank in range(world):
        part = step_noise(x0[:n], None, cosine, 3, 7, perturb=.1, rank=rank, world=world)
        mine = slice(rank*n, (rank + 1)*n)
        assert part.eps.equal(whole.eps[mine]) and part.phi.equal(whole.phi[mine])
        assert part.perturbation.equal(whole.perturbation[mine])


def test_blocks_are_independent_of_each_other():
    d = step_noise(torch.zeros(96, 3, 64, 64), None, cosine, 0, 0, perturb=1.)
    parts = [*d.eps.flatten(1).split(32), *d.perturbation.flatten(1).split(32)]
    six = torch.stack([t.flatten() for t in parts])
    assert (torch.corrcoef(six) - torch.eye(6)).abs().max() < .01
    assert abs(six.mean()) < .01 and abs(six.std() - 1) < .01


def test_a_process_draws_no_more_blocks_than_it_needs(monkeypatch):
    from diffnb import training
    made, make = [], training.generator_on
    monkeypatch.setattr(training, 'generator_on', lambda *a: made.append(a) or make(*a))
    step_noise(torch.zeros(128, 3, 32, 32), None, cosine, 0, 0, rank=5, world=8)
    assert len(made) == 2                                # that of the step, and that of block 5


def test_a_batch_of_one_block_draws_what_one_generator_draws():
    "Such runs give the digits that they gave before there were blocks"
    g = seeded(stable_seed(0, 5))
    u = torch.rand(128, generator=g, dtype=torch.float64)
    lost = torch.rand(128, generator=g) < .3
    eps, more = torch.randn(2, 128, 3, 32, 32, generator=g)
    x0, y = torch.zeros(128, 3, 32, 32), torch.arange(128)
    d = step_noise(x0, y, cosine, 0, 5, label_dropout=.3, perturb=.5)
    assert d.eps.equal(eps) and d.perturbation.equal(more*.5)
    assert d.phi.equal(cosine((torch.arange(128) + u)/128))
    assert d.y.equal(torch.where(lost, -1, y))


def test_angles_in_slices_make_the_loss_calmer():
    pixels = to_float(load_data('digits').x)
    knows = ideal(pixels)

    def batch_loss(i, stratified):
        x0 = pixels[torch.arange(64*i, 64*i + 64) % len(pixels)]
        d = step_noise(x0, None, cosine, 0, i, stratified=stratified)
        best = knows(mix(x0, d.eps, d.phi), d.phi)
        return (aim(*best, d.phi, 'v') - aim(x0, d.eps, d.phi, 'v')).pow(2).mean()

    spreads = [torch.stack([batch_loss(i, how) for i in range(100)]).std() for how in (True, False)]
    assert spreads[0] < .8*spreads[1]


def test_rates_rise_and_fall():
    rates = [lr_at(i, 1000, 1e-3, 100, 1e-5) for i in range(1000)]
    assert rates[0] == 1e-5 and rates[99] == max(rates) == 1e-3
    assert all(a >= b for a, b in zip(rates[99:], rates[100:])) and rates[-1] < 1.1e-5


# A step

def test_micro_batches_give_the_same_gradient():
    naive = small()

    def grads(accumulate):
        model, (x0, y) = copy.deepcopy(naive), next(batches(POINTS, 50))
        model.zero_grad()
        gradients(model, x0, step_noise(x0, y, cosine, 0, 0), accumulate=accumulate)
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    assert_close(grads(1), grads(3), rtol=1e-4, atol=1e-6)


def test_micro_batches_give_the_same_weights():
    def after(accumulate):
        m = small()
        for _ in train(m, batches(POINTS, 64), 10, accumulate=accumulate): pass
        return weights(m)

    assert_close(after(1), after(4), rtol=0, atol=1e-4)


class Forgetful(nn.Module):
    "A network with dropout, to make it harder"
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(3, 32), nn.Linear(32, 2)
        self.label = nn.Embedding(11, 32)

    def forward(self, x, phi, cond=None):
        h = self.one(torch.cat([x, phi[:, None]], 1)) + self.label(cond + 1)
        return self.two(nn.functional.dropout(h.relu(), .3, self.training))


LABELLED = (POINTS, torch.arange(len(POINTS)) % 10)
HOW = dict(lr=1e-2, lr_end=0., warmup=3, label_dropout=.3, perturb=.1, seed=5)


def new():
    torch.manual_seed(1)
    model = Denoiser(Forgetful())
    return model, adamw(model.parameters())


def test_a_run_taken_up_again_is_the_same_to_the_bit():
    whole, opt = new()
    for log in train(whole, batches(LABELLED, 32, seed=5), 12, opt=opt, **HOW): pass
    parts, opt = new()
    first = train(parts, batches(LABELLED, 32, seed=5), 12, opt=opt, **HOW)
    for log in itertools.islice(first, 7): pass
    torch.rand(100)                                      # something else happens in between
    later = batches(LABELLED, 32, seed=5, start=7)
    for log in train(parts, later, 12, opt=opt, start=7, **HOW): pass
    assert all(a.equal(b) for a, b in zip(whole.parameters(), parts.parameters()))
    other, opt = new()
    for log in train(other, batches(LABELLED, 32, seed=5), 12, opt=opt, **{**HOW, 'seed': 6}): pass
    assert not other.net.two.weight.equal(whole.net.two.weight)


def test_an_infinite_batch_is_named_and_leaves_the_weights_alone():
    def poisoned():
        for i, (x0, y) in enumerate(batches(POINTS, 32)):
            if i == 3: x0[5, 0] = math.inf
            yield x0, y

    victim = Denoiser(MLP())
    with pytest.raises(ValueError, match='step 3') as e:
        for log in train(victim, poisoned(), 10): before = copy.deepcopy(victim.state_dict())
    assert e.type is Diverged
    assert all(v.equal(before[k]) for k, v in victim.state_dict().items())


# Averages, validation, angles

def test_the_average_forgets_faster_while_it_is_young():
    walker = nn.Linear(1, 1, bias=False)
    average, mean = EMA(walker, .9), None
    for n in range(100):
        w = 1 + .5*math.sin(7.3*n)*math.cos(n*n) if n else 0.
        with torch.no_grad(): walker.weight.fill_(w)
        average.update_parameters(walker)
        d = min(.9, (1 + n)/(10 + n))
        mean = d*mean + (1 - d)*w if n else w
        assert abs(mean - average.module.weight.item()) < 1e-5
    for decay in (1., -.1, math.nan):
        with pytest.raises(ValueError, match='decay'): EMA(walker, decay)


def test_validation_asks_the_same_each_time():
    model = small()
    first, again = validate(model, POINTS), validate(model, POINTS)
    assert first[0].equal(again[0]) and first[1].equal(again[1])
    assert not validate(model, POINTS, seed=1)[0].equal(first[0])


class Oracle(nn.Module):
    def __init__(self, data):
        super().__init__()
        self.oracle = ideal(data)

    def forward(self, x, phi, cond=None): return aim(*self.oracle(x, phi), phi, 'v')


@pytest.fixture(scope='module')
def spiral_run():
    "The run of the lesson, and three moments of it"
    data = spiral(10_000)
    torch.manual_seed(0)
    model, kept, logs = Denoiser(MLP(width=64, layers=4)), {}, []
    for log in train(model, batches(data, 256), 1000, lr=5e-3, lr_end=0., warmup=50):
        logs.append(log)
        if log.step in (50, 250, 1000): kept[log.step] = copy.deepcopy(model)
    return data, kept, logs


@torch.no_grad()
def above(model, data, n=2000):
    "Squared distance from the oracle's answer"
    x0 = data[torch.randint(len(data), (n,), generator=seeded(4))]
    phi = cosine((torch.arange(n) + .5)/n)
    x = mix(x0, torch.randn(x0.shape, generator=seeded(5)), phi)
    return (model.predict(x, phi) - Oracle(data)(x, phi)).pow(2).mean(1), phi


def test_what_can_be_learnt_falls_while_the_loss_hardly_does(spiral_run):
    data, kept, logs = spiral_run
    early, late = (above(kept[n], data)[0].mean() for n in (250, 1000))
    assert late < early/3
    losses = torch.tensor([log.loss for log in logs])
    assert losses[-50:].mean() > .8*losses[225:275].mean()


def test_the_finest_angles_are_learnt_last(spiral_run):
    data, kept, _ = spiral_run
    _, far = by_angle(*above(kept[1000], data), 9)
    assert far[0] > 10*far[4:].max()


def test_the_loss_is_the_floor_and_the_distance_from_the_oracle(spiral_run):
    data, kept, _ = spiral_run
    model, perfect = kept[250], Denoiser(Oracle(data))
    both = [validate(m, data, 5000)[0] for m in (model, perfect)]
    more = both[0] - both[1]
    apart = above(model, data)[0]
    error = (more.std()**2/len(more) + apart.std()**2/len(apart)).sqrt()
    assert abs(more.mean() - apart.mean()) < 4*error


def test_exercises_take_the_right_answer_and_hint_at_wrong_ones():
    for number, answer in ((1, 'small'), (2, lambda t: t*math.pi/6), (3, .51)):
        assert judge('training', number, answer) is None
    wrong = [(1, 'large', 'one number for all'), (1, 'middle', 'finest'), (1, 20, "'small'"),
             (2, lambda t: 30*t, 'give radians'), (2, cosine, 'goes on to'),
             (2, lambda t: t**2*math.pi/6, 'Evenly'), (3, 1., 'above the floor'),
             (3, .115, 'mean over all angles'), (3, .1538, 'first value')]
    for number, answer, hint in wrong: assert re.search(hint, judge('training', number, answer))
