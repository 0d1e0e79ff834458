"Angles, schedules and the oracle: what once went wrong without a word"
import copy
import math
import pickle

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from diffnb.angle import aim, mix, rates, unmix
from diffnb.data import spiral
from diffnb.oracle import ideal, mixture, score
from diffnb.kit.curves import Schedule
from diffnb.schedules import betas, cosine, flow, from_betas, linear_beta, section
from diffnb.kit.curves import schedule, schedules
from diffnb.schedules import log_snr, path, rescale, sigma, timestep


# Angles for each item

WRONG = {'degrees': [30., 45., 60.], 'timesteps': [3, 734, 21], 'negative': [.1, -.2, .3],
         'NaN': [.1, float('nan'), .3], 'infinite': [.1, math.inf, .3]}

@pytest.mark.parametrize('phi', WRONG.values(), ids=WRONG)
def test_angles_per_item_are_checked_as_one_is(phi):
    x, phi = torch.randn(3, 2), torch.tensor(phi)
    calls = [lambda: mix(x, x, phi), lambda: aim(x, x, phi, 'v'), lambda: unmix(x, x, phi),
             lambda: rates(phi, x), lambda: ideal(x)(x, phi)]
    for call in calls:
        with pytest.raises(ValueError, match='angles are radians between 0 and pi/2'): call()

def test_one_wrong_angle_is_refused_by_rates_too():
    with pytest.raises(ValueError, match='phi=500: angles are radians'):
        rates(500, torch.zeros(2, 2))

@pytest.mark.parametrize('kind', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_both_ends_are_angles_in_every_precision(kind):
    x = torch.randn(2, 2)
    assert mix(x, x, torch.tensor([0., math.pi/2]).to(kind)).isfinite().all()

def test_angles_come_as_lists_and_numpy_too():
    x, e, phi = torch.randn(3, 2), torch.randn(3, 2), [.1, .2, .3]
    want = mix(x, e, torch.tensor(phi, dtype=torch.float64))
    assert torch.equal(mix(x, e, phi), want)
    assert torch.equal(mix(x, e, np.array(phi)), want)
    assert torch.equal(mix(x, e, np.array(.5)), mix(x, e, .5))
    assert torch.equal(mix(x, e, np.int64(1)), mix(x, e, 1.))


# A device without float64, which must not be waited for

class Device(TorchDispatchMode):
    "`meta` as a device that has no float64, and whose numbers nobody may read"
    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        name = str(op)
        assert not ('_local_scalar_dense' in name and args[0].device.type == 'meta'), name
        out = op(*args, **(kwargs or {}))
        for o in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(o, torch.Tensor) and o.device.type == 'meta':
                assert o.dtype != torch.float64, f'float64 on the device: {name}'
        return out

@pytest.mark.parametrize('where', ['cpu', 'meta'])
def test_no_float64_and_no_waiting_on_a_device(where):
    x, phi = torch.empty(4, 2, device='meta'), torch.full((4,), .5, dtype=torch.float64)
    phi = phi.float().to('meta') if where == 'meta' else phi
    blobs = mixture(torch.randn(5, 2).double(), std=np.float64(.1), weights=np.arange(1, 6))
    with Device():
        for angle in (phi, .5):
            for target in ('x0', 'eps', 'v', 'flow'): unmix(mix(x, x, angle), x, angle, target)
            assert blobs(x, angle).x0.shape == blobs.logits(x, angle)[:, :2].shape == x.shape
            assert blobs.log_prob(x, angle).shape == (4,)
            assert score(blobs, x, angle).shape == x.shape
        t = torch.empty(4, device='meta')
        for s in (cosine, linear_beta, flow, rescale, section): assert s(t).dtype == torch.float32
        if where == 'meta': sigma(phi), log_snr(phi), timestep(linear_beta, phi)


# Schedules

def define(power):
    @schedule
    def mine_for_test(t): return t**power*math.pi/2
    return mine_for_test

@pytest.fixture
def label_dropout():
    yield
    schedules.pop('mine_for_test', None)

def test_a_schedule_defined_anew_takes_effect(label_dropout):
    def half_way(s): return section(schedule=s, angles=(0, math.pi/4))(.5).item()
    def deep(s): return half_way(section(schedule=s, angles=(0, math.radians(80))))
    old = define(1)
    before = half_way(old), deep(old)
    new = define(3)
    assert_close(before[0], math.pi/8)
    assert_close(half_way(new), (.5*.5**(1/3))**3*math.pi/2)
    assert abs(deep(new) - before[1]) > .1
    assert (half_way(old), deep(old)) == before
    assert old != new and section(schedule=old) != section(schedule=new)
    assert copy.deepcopy(old) == old                # a copy of a model keeps what the model had
    assert new == new() and hash(new) == hash(new())

def test_whether_a_number_of_steps_is_whole_does_not_depend_on_what_ran_before():
    linear_beta(T=123)
    with pytest.raises(ValueError, match='whole number'): linear_beta(T=123.)

INTEGERS = [int, np.int64, np.int32, np.uint8, torch.tensor, np.array]

@pytest.mark.parametrize('kind', INTEGERS, ids=lambda k: k.__name__)
def test_integers_of_every_type(kind):
    n = kind(7)
    assert torch.equal(path(cosine, n), path(cosine, 7))
    assert torch.equal(path(linear_beta, n), path(linear_beta, 7))
    assert torch.equal(betas(cosine, n), betas(cosine, 7))
    bound = linear_beta(T=n)
    assert bound == linear_beta(T=7) and hash(bound) == hash(linear_beta(T=7))
    assert bound.T == 7 and repr(bound) == 'linear_beta(T=7)'
    assert bound.cfg == linear_beta(T=7).cfg

@pytest.mark.parametrize('n', [5., np.float64(5), torch.tensor(5.), 0, -1, '5', None])
def test_what_is_no_number_of_steps(n):
    remedy = r'.*int\(' if hasattr(n, 'dtype') or isinstance(n, float) else ', 1 or more'
    with pytest.raises(ValueError, match=f'n=.*give a whole number of steps.*{remedy}'):
        path(cosine, n)

def plain_for_test(t, power=1.): return t**power*math.pi/2

def pickled(s): return pickle.loads(pickle.dumps(s))

@pytest.mark.parametrize('copied', [copy.copy, copy.deepcopy, pickled])
def test_schedules_are_copied(copied):
    own = Schedule(plain_for_test, 'linspace')(power=2.)
    for s in (own, cosine, linear_beta(T=50), from_betas(betas=[.1, .2]), section(schedule=flow)):
        new = copied(s)
        assert new == s and new.spacing == s.spacing and new(.3) == s(.3)
    assert 'plain_for_test' not in schedules

def test_a_model_with_an_undecorated_schedule_is_copied():
    from diffnb.denoiser import Denoiser
    model = Denoiser(torch.nn.Identity(), schedule=Schedule(plain_for_test))
    assert copy.deepcopy(model).schedule(.5) == model.schedule(.5)


# The oracle

@pytest.mark.parametrize('each', [False, True])
@pytest.mark.parametrize('phi', [.0005, .002, .02, .3])
def test_the_oracle_is_exact_in_single_precision(phi, each):
    points = spiral(10_000)
    noise = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    x = mix(points[::157], noise, phi)
    z, means = x.double(), points.double()
    far = (z[:, None] - math.cos(phi)*means).square().sum(-1)
    x0 = (-far/(2*math.sin(phi)**2)).softmax(1)@means
    eps = (z - math.cos(phi)*x0)/math.sin(phi)
    got = ideal(points)(x, torch.full((64,), phi, dtype=torch.float64) if each else phi)
    assert got.x0.dtype == got.eps.dtype == torch.float32
    assert_close(got.x0.double(), x0, rtol=0, atol=1e-6)
    assert_close(got.eps.double(), eps, rtol=1e-6, atol=1e-6)

def test_the_oracle_in_blocks_is_the_oracle_at_once():
    means, x = torch.randn(9000, 2), torch.randn(2000, 2)
    phi = torch.linspace(.1, 1.5, 2000).double()
    whole, part = ideal(means)(x, phi), ideal(means)(x[990:1010], phi[990:1010])
    assert_close(whole.x0[990:1010], part.x0, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match='one angle, or one for each'): ideal(means)(x, phi[:1500])

def test_the_oracle_still_refuses_bytes():
    for call in (ideal(torch.randn(3, 2)), ideal(torch.randn(3, 2)).log_prob):
        with pytest.raises(ValueError, match='floating point'): call(torch.ones(2, 2).byte(), .5)
