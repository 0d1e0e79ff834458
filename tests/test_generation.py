"One loop draws all images: in batches, by several processes, and it says what does not fit"
import math
from functools import partial

import pytest
import torch

from diffnb.angle import Guess
from diffnb.apps.checkpoints import load
from diffnb.apps.generation import (
    as_images, conditioned, generate, sample_batches, sample_rows, trajectory)
from diffnb.apps.playground import playground
from diffnb.denoiser import Denoiser
from diffnb.kit.checks import label_numbers
from diffnb.oracle import ideal
from diffnb.samplers import Step, ddpm, dpmpp, last
from diffnb.unet import MLP

PIXELS = torch.randn(5, 1, 16, 16, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
PLAIN = Denoiser(MLP())


@pytest.fixture(scope='module')
def model(): return load('mnist-labels')


def nan(x, phi): return Guess(x*math.nan, x)


@pytest.mark.parametrize('bad, says', [
    (lambda m: generate(m, 0), '1 or more'),
    (lambda m: generate(m, 2.5), 'whole number of images'),
    (lambda m: generate(m, 4, [1, 2]), '2 labels or weights for 4'),
    (lambda m: generate(m, 4, 11), 'label 11 is not one'),
    (lambda m: generate(m, 4, w=3.), 'without cond'),
    (lambda m: generate(m, 4, 1, w=[1., 2.]), '2 labels or weights for 4'),
    (lambda m: generate(m, 4, seeds=[1, 2]), '2 seeds for 4'),
    (lambda m: generate(m, 4, seeds='abc'), 'one for each image'),
    (lambda m: generate(m, calls=0), 'calls=0'),
    (lambda m: generate(m, batch=0), 'batch=0'),
    (lambda m: generate(m, clip='hard'), "clip='hard'"),
    (lambda m: generate(ideal(PIXELS), 4), 'how large'),
    (lambda m: generate(PLAIN, 4, shape=(2,)), 'clip=False'),
    (lambda m: generate(partial(m, cond=3), 4, shape=(1, 28, 28)), 'partial hides'),
    (lambda m: generate(m, 4, sampler=dpmpp, churn=40), 'no setting churn'),
    (lambda m: generate(ideal(PIXELS), 4, 3, shape=(1, 16, 16)), 'knows no labels'),
    (lambda m: generate(nan, 4, shape=(1, 8, 8), progress=False), 'not finite'),
    (lambda m: generate(m, 4, 'cat'), 'knows no names'),
    (lambda m: sample_batches(m, 4, rank=2, world=2), 'rank=2'),
    (lambda m: sample_batches(m, 4, world=0), 'world=0'),
    (lambda m: sample_batches(m, 4, start=torch.zeros(3, 1, 28, 28)), '3 .* for 4 images'),
    (lambda m: sample_rows(m, 2, 'dream'), "mode 'dream' is not known"),
    (lambda m: sample_rows(m, 2, 'denoise', sampler=dpmpp, churn=4), 'no setting churn'),
    (lambda m: generate(ideal(PIXELS), 4, shape=(1, 16, 16), compile=True),
     'no network to compile'),
    (lambda m: generate(m, 4, precision='half'), "precision 'half'"),
    (lambda m: playground(PLAIN), 'how large'),
    (lambda m: playground(5), 'model=5'),
    (lambda m: playground('mnits'), 'mnits'),
    (lambda m: playground(m, 0), '1 or more'),
    (lambda m: playground(ideal(PIXELS[0, 0]), shape=(28,)), 'cannot be looked at'),
])
def test_what_does_not_fit_is_refused(model, bad, says):
    with pytest.raises(ValueError, match=says): bad(model)


HOW = dict(calls=3, sampler=ddpm, progress=False)


def test_batches_hold_their_own_labels_weights_and_noise(model):
    labels, w = [3, 8, 1, 7, 5], torch.linspace(0, 3, 5)
    start = torch.randn(5, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    whole = last(trajectory(model, range(5), labels, w, 3, ddpm, start=start)).x
    for part, steps in sample_batches(model, 5, labels, w, seeds=0, batch=2, start=start, **HOW):
        steps = list(steps)
        assert len(steps) == 4 and len(steps[0].x) == part.stop - part.start
        assert steps[0].x.equal(start[part])
        assert (steps[-1].x - whole[part]).abs().max() < 1e-4
    made = generate(model, 5, labels, w, seeds=0, batch=2, start=start, **HOW)
    assert (made - whole.clamp(-1, 1)).abs().max() < 1e-4


@pytest.mark.parametrize('n, world', [(5, 2), (4, 4), (2, 3), (1, 1)])
def test_processes_share_the_images(model, n, world):
    whole, parts = generate(model, n, 3, seeds=7, batch=2, **HOW), []
    for rank in range(world):
        share = sample_batches(model, n, 3, seeds=7, batch=2, rank=rank, world=world, **HOW)
        for part, steps in share:
            parts += range(n)[part]
            made = as_images(model, last(steps).x)
            assert (made - whole[part]).abs().max() < 1e-4
    assert parts == list(range(n))


def test_batches_need_no_gradients_and_leave_the_modes_alone(model):
    seen = []
    class Spy(torch.nn.Module):
        shape = (1, 8, 8)
        def forward(self, x, phi):
            seen.append((torch.is_grad_enabled(), self.training))
            return Guess(0*x, x)
    def own(denoise, x, angles):
        for phi in angles: yield Step(x, denoise(x, phi).x0, phi)
    spy = Spy().train()
    for _, steps in sample_batches(spy, 3, calls=2, sampler=own, batch=2, progress=False):
        for _ in steps: assert torch.is_grad_enabled() and spy.training
    assert seen and not any(grad or training for grad, training in seen)


def test_names_of_classes_are_labels():
    class Named:
        shape, classes, names = (1, 8, 8), 3, ['dog', 'cat', 'owl']
        def __call__(self, x, phi, cond=None):
            c = torch.zeros(len(x)) if cond is None else cond/3.
            return Guess(0*x + c[:, None, None, None], x)
    how = dict(calls=2, w=1., seeds=0, progress=False)
    assert generate(Named(), 4, 'cat', **how).equal(generate(Named(), 4, 1, **how))
    each = generate(Named(), cond=['owl', 'cat', 0], batch=2, **how)
    assert each.equal(generate(Named(), cond=[2, 1, 0], **how)) and len(each) == 3
    assert conditioned(Named(), 'owl')(torch.zeros(2, 1, 8, 8), 1.).x0.max() > .6
    assert label_numbers(Named(), ['owl', 1]) == [2, 1]
    with pytest.raises(ValueError, match='choose one of dog, cat, owl'): generate(Named(), 4, 'cow')
