"What lesson 1 promises of clouds, of bytes and of batches"

import itertools
import math

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch.testing import assert_close

from diffnb.apps.datasets import load_data
from diffnb.data import batches, item_order, make_cloud, moons, moons_at, s_curve, s_curve_at
from diffnb.data import spiral, spiral_at
from diffnb.kit.pictures import show_images, to_float, to_uint8


@pytest.fixture(scope='module')
def digits(): return load_data('digits')


def orders(n, bs, seed, k):
    "The items of the first `k` batches"
    order = itertools.islice(item_order(n, bs, seed, 0, 0, 1), k)
    return torch.cat([idx for idx, _ in order])


def test_the_spiral_is_the_known_one():
    raw = spiral_at(np.linspace(1.5*math.pi, 4.5*math.pi, 100_001))
    golden = np.array([[-9.47729, -11.04071], [12.60593, 14.13717]])
    assert abs(np.stack([raw.min(0), raw.max(0)]) - golden).max() < 1e-5


def test_moons_and_s_are_arcs_of_radius_1():
    a, b = np.split(moons_at(np.linspace(0, math.pi, 100)), 2)
    t = np.linspace(-4, 4, 100)
    s = s_curve_at(t) + np.stack([0*t, np.sign(t)], 1)
    assert np.allclose(np.linalg.norm(np.concatenate([a, b - [1, .5], s]), axis=1), 1)


@pytest.mark.parametrize('cloud', [spiral, moons, s_curve])
@pytest.mark.parametrize('n', [2, 3, 10, 1000])
def test_clouds_have_mean_0_and_spread_1(cloud, n):
    x = cloud(n, seed=n, noise=.1)
    assert x.shape == (n, 2) and x.dtype == torch.float32
    assert_close(x.mean(0), torch.zeros(2), rtol=0, atol=1e-5)
    assert_close(x.std(), torch.tensor(1.))
    assert cloud(50, seed=3).equal(cloud(50, seed=3))
    assert not cloud(50, seed=3).equal(cloud(50, seed=4))


def test_a_ring_of_spread_1_has_radius_root_2():
    ring = make_cloud(lambda t: np.stack([np.cos(t), np.sin(t)], 1), 0, 2*math.pi, 5000, 0, 0.)
    assert_close(ring.norm(dim=1).mean(), torch.tensor(2.).sqrt(), rtol=0, atol=.01)


def test_digits_have_near_neighbours_and_the_cube_has_none(digits):
    def near_and_far(x):
        d = torch.cdist(x, x)
        far = d.sum()/(len(x)*(len(x) - 1))
        return (far/d.fill_diagonal_(math.inf).min(1).values.mean()).item()
    cube = torch.rand(1000, 256, generator=torch.Generator().manual_seed(0))*2 - 1
    assert near_and_far(to_float(digits.x).flatten(1)) > 2.5
    assert 1 < near_and_far(cube) < 1.3


def test_bytes_go_to_floats_as_in_torchvision():
    every = torch.arange(256).byte()
    transforms = torchvision.transforms
    usual = transforms.Compose([transforms.ToTensor(), transforms.Normalize(.5, .5)])
    theirs = usual(Image.fromarray(every.view(16, 16).numpy()))
    assert_close(theirs.flatten(), to_float(every), rtol=0, atol=1e-6)


def test_what_lies_outside_is_shown_cut_off():
    ramp = torch.linspace(-1.5, 1.5, 16).expand(1, 1, 8, 16)
    shown = show_images(ramp, scale=1, pad=0)
    assert np.array_equal(shown, to_uint8(ramp.clamp(-1, 1))[0, 0])


def test_each_item_comes_once_in_every_epoch():
    first = orders(12, 5, 0, 8)[:36].view(3, 12)
    assert first.sort(1).values.equal(torch.arange(12).expand(3, 12))
    assert len(first.unique(dim=0)) == 3                     # in another order each time
    for seed in range(3):
        assert torch.bincount(orders(12, 30, seed, 100)).tolist() == [250]*12


def test_a_batch_may_be_larger_than_the_set():
    x0, y = next(batches(spiral(10), bs=25))
    assert x0.shape == (25, 2) and y is None


def test_batches_resume_anywhere(digits):
    how = dict(bs=32, flip=True)
    after = next(itertools.islice(batches(digits, seed=7, **how), 1000, None))
    directly = next(batches(digits, seed=7, start=1000, **how))
    assert after[0].equal(directly[0]) and after[1].equal(directly[1])
    assert not directly[0].equal(next(batches(digits, seed=8, start=1000, **how))[0])


def test_slices_of_several_processes_make_one_batch(digits):
    how = dict(bs=32, start=31, flip=True)                   # an epoch ends in this batch
    x0, y = next(batches(digits, **how))
    slices = [next(batches(digits, rank=r, world=4, **how)) for r in range(4)]
    assert torch.cat([s[0] for s in slices]).equal(x0)
    assert torch.cat([s[1] for s in slices]).equal(y)


def test_half_of_the_items_are_flipped(digits):
    def eight(flip):
        drawn = itertools.islice(batches(digits, 500, flip=flip), 8)
        return torch.cat([x0 for x0, _ in drawn])
    plain, turned = eight(False), eight(True)
    mirrored = (turned != plain).flatten(1).any(1)
    assert turned[mirrored].equal(plain[mirrored].flip(-1))
    assert abs(mirrored.float().mean() - .5) < .04           # 4,000 coins: five deviations
