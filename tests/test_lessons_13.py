"Editing: what lesson 13 says, and what it refuses"
import base64
import json
import math
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from diffnb.angle import mix, unmix
from diffnb.apps.checkpoints import load
from diffnb.apps.datasets import load_data
from diffnb.data import moons, spiral
from diffnb.denoiser import Denoiser
from diffnb.editing import (
    Operator, blur, data_consistency, grey, inpaint, invert, lowest_angle, repaint_path,
    sdedit_path, shrink, slerp)
from diffnb.guidance import given, guide, project, steer
from diffnb.kit.exercises import judge
from diffnb.kit.pictures import to_float
from diffnb.oracle import ideal, mixture
from diffnb.samplers import ddim, ddpm, dpmpp, heun, last, seeded
from diffnb.schedules import cosine, path
from diffnb.unet import UNet

root = Path(__file__).resolve().parent.parent
digits = load_data('digits')
images = to_float(digits.x)
knows, walk = ideal(images), path(cosine, 40)
truth = images[torch.randperm(1000, generator=torch.Generator().manual_seed(0))[:100]]
upper = torch.zeros(16, 16, dtype=torch.bool)
upper[:8] = True
start = torch.randn(100, 1, 16, 16, generator=torch.Generator().manual_seed(1))
fill = project(knows, inpaint(truth, upper))
samplers = dict(ddim=ddim, ddpm=ddpm, heun=heun, dpmpp=dpmpp)
low = shrink(4).A(truth)
smooth = mixture(images.double(), std=.1)
pics = images[:20].double()
pics = pics + .1*torch.randn(pics.shape, generator=torch.Generator().manual_seed(3)).double()
counts, rounds = (10, 50, 200), (0, 1, 3)


def found(x, right=truth):
    "Share of the pictures that are the right one, to within a small distance"
    return ((x - right).flatten(1).norm(dim=1) < .5).float().mean().item()


def draws(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


@pytest.fixture(scope='module')
def model(): return load('mnist-labels')


@pytest.fixture(scope='module')
def keras(): return Denoiser(UNet(1, width=8), schedule=cosine(signal=(.95, .02)))


def test_what_is_known_stays_and_its_noise_is_the_first_noise():
    torch.manual_seed(0)
    for f in samplers.values():
        assert (last(f(fill, start, walk)).x - truth)[..., upper].abs().max() <= 1e-6
    middle = list(ddim(fill, start, walk))[20]
    noise_then = unmix(middle.x, truth, middle.phi, 'x0').eps[..., upper]
    first_noise = unmix(start, truth, walk[0], 'x0').eps[..., upper]
    assert_close(noise_then, first_noise, rtol=0, atol=1e-4)


def test_inpainting_alone_rarely_finds_the_right_digit_and_going_back_does():
    torch.manual_seed(0)
    assert max(found(last(f(fill, start, walk)).x) for f in samplers.values()) < .4
    torch.manual_seed(0)
    again = repaint_path(path(cosine, 20), 5, 10, ddpm)
    patient = found(last(ddpm(fill, start, again)).x)
    plain = found(last(ddpm(fill, start, path(cosine, len(again) - 1))).x)
    assert patient > plain + .2


def test_a_known_number_is_heard_too_late():
    "The guess is firm before the angle is small, and its first sign is nearly always its last"
    two = mixture(torch.tensor([[0., -1.], [.6, 1.]]).double(), std=.1)
    known = inpaint(torch.tensor([.6, 0.]).double(), torch.tensor([True, False]))
    steps = list(ddim(project(two, known), draws(1000, 2), walk))
    heights, deg = torch.stack([step.x0[:, 1] for step in steps]), torch.rad2deg(walk)
    assert (heights[0] > 0).eq(heights[-1] > 0).double().mean() > .9
    firm = (heights.abs() > .8).double().mean(1)
    assert firm[deg > 75].max() < .05 and firm[deg < 30].min() > .8


def test_going_back_without_new_noise_finds_nothing():
    "The third exercise of the lesson"
    again = repaint_path(path(cosine, 20), 5, 10)
    share = found(last(ddim(fill, start, again)).x)
    assert judge('editing', 3, share) is None
    assert found(last(ddim(fill, start, path(cosine, 20))).x) > share + .05


def test_paths_that_go_back():
    for f in (ddim, heun, dpmpp, partial(ddim, eta=0.)):
        with pytest.raises(ValueError, match='draws no noise.*ddpm'): repaint_path(walk, sampler=f)
    for f in (ddpm, partial(ddim, eta=.5), partial(ddpm, randn=seeded([1, 2]))):
        assert repaint_path(walk, 3, 2, f).equal(repaint_path(walk, 3, 2))
    assert repaint_path(walk, 7, 1).equal(walk)
    assert repaint_path(path(cosine, 1)).equal(path(cosine, 1))


def test_steering_lets_the_known_number_speak():
    two = mixture(torch.tensor([[0., -1.], [.6, 1.]]).double(), std=.1)
    known = inpaint(torch.tensor([.6, 0.]).double(), torch.tensor([True, False]))
    speaks = steer(two, lambda x0: (x0[:, 0] - .6)**2/(2*.2**2))
    end = last(ddim(project(speaks, known), draws(1000, 2), walk)).x
    assert (end[:, 1] > 0).double().mean() > .9


def penrose(op, x, z, y, v):
    "Largest error in the four equations of Moore and Penrose"
    A, inv = op
    def dot(a, b): return (a*b).sum()
    errors = (A(inv(A(x))) - A(x), inv(A(inv(y))) - inv(y),
              dot(inv(A(x)), z) - dot(x, inv(A(z))), dot(A(inv(y)), v) - dot(y, A(inv(v))))
    return max(e.abs().max().item() for e in errors)


def every_other_row():
    def inv(y):
        z = y.new_zeros(*y.shape[:-2], 2*y.shape[-2], y.shape[-1])
        z[..., ::2, :] = y
        return z
    return Operator(lambda x: x[..., ::2, :], inv)


@pytest.mark.parametrize('op, worst', [
    (shrink(4), 1e-9), (grey(), 1e-9), (grey((.299, .587, .114)), 1e-9), (blur(1.5), 1e-9),
    (every_other_row(), 1e-12)])
def test_pseudo_inverses(op, worst):
    x, z = draws(2, 3, 16, 16), draws(2, 3, 16, 16, seed=1)
    y, v = draws(*op.A(x).shape, seed=2), draws(*op.A(x).shape, seed=3)
    assert penrose(op, x, z, y, v) < worst


def test_enlarging_agrees_with_the_measurement_and_going_back_is_right():
    f = project(knows, data_consistency(low, 4))
    straight = last(ddim(f, start, walk)).x
    again = repaint_path(path(cosine, 20), 5, 20, ddpm)
    patient = last(ddpm(f, start, again, randn=seeded(range(100)))).x
    for x in (straight, patient): assert (shrink(4).A(x) - low).abs().max() < 1e-5
    assert found(patient) > found(straight) + .2


def test_a_mask_is_a_measurement():
    masking = Operator(lambda x: x*upper, lambda y: y*upper)
    guess = knows(start, walk[0]).x0
    by_mask = inpaint(truth, upper)(guess)
    assert_close(data_consistency(truth*upper, masking)(guess), by_mask, rtol=0, atol=1e-6)


def test_colours_are_found():
    hues = torch.tensor(plt.get_cmap('tab10').colors)[digits.y][:, :, None, None]
    painted = (images + 1)/2*hues*2 - 1
    some = painted[::25]
    without = grey().A(some)
    f, again = project(ideal(painted), data_consistency(without, grey())), path(cosine, 20)
    again = repaint_path(again, 5, 20, ddpm)
    coloured = last(ddpm(f, draws(40, 3, 16, 16).float(), again, randn=seeded(range(40)))).x
    assert (grey().A(coloured) - without).abs().max() < 1e-5
    assert ((coloured - some).flatten(1).norm(dim=1) < .5).float().mean() > .5


def test_sharpening_finds_more_than_dividing():
    soft = blur(3.)
    blurred = soft.A(truth)
    f, again = project(knows, data_consistency(blurred, soft)), path(cosine, 20)
    again = repaint_path(again, 5, 10, ddpm)
    sharp = last(ddpm(f, start, again, randn=seeded(range(100)))).x
    assert (soft.A(sharp) - blurred).abs().max() < 1e-4
    assert found(sharp) > found(soft.inv(blurred))


def test_a_digit_on_request_keeps_its_half(model):
    big = draws(4, 1, 28, 28).float()
    half = torch.arange(28)[:, None] < 14
    known = last(dpmpp(given(model, 3), big[:1], path(model.schedule, 5))).x.detach().clamp(-1, 1)
    asked = project(guide(model, [3, 5, 7, 8], 2.), inpaint(known, half))
    again = repaint_path(path(model.schedule, 6), 3, 2, ddpm)
    with torch.no_grad(): x = last(ddpm(asked, big, again, randn=seeded(range(4)))).x
    assert ((x - known)*half).abs().max() <= 1e-6


def test_the_rest_of_a_path(keras):
    assert sdedit_path(walk, walk[0]).equal(walk)
    assert sdedit_path(walk, walk[7]).equal(walk[7:])
    with pytest.raises(ValueError, match='18.2 degrees'):
        sdedit_path(path(keras.schedule, 20), math.radians(10), keras)
    with pytest.raises(ValueError, match='lowest angle'):
        list(invert(keras, images[:1], path(cosine, 20)))


def test_inversion_is_ddim_on_the_flipped_path():
    stretch = walk[:-1]
    up, flipped = last(invert(smooth, pics, stretch)).x, last(ddim(smooth, pics, stretch.flip(0))).x
    assert_close(up, flipped, rtol=0, atol=1e-12)


def there_and_back(schedule):
    "Median error of reconstruction, (steps, rounds)"
    rows = []
    for n in counts:
        angles, row = path(schedule, n), []
        for refine in rounds:
            noise = last(invert(smooth, pics, angles, refine)).x
            off = last(ddim(smooth, noise, angles)).x - pics
            row.append(off.square().flatten(1).mean(1).sqrt().median().item())
        rows.append(row)
    return np.array(rows)


def test_more_steps_and_more_rounds_help_unless_the_schedule_stops_early():
    error, stuck = there_and_back(cosine), there_and_back(cosine(signal=(.95, .02)))
    assert (np.diff(error, axis=0) < 0).all() and (np.diff(error, axis=1) < 0).all()
    assert stuck[2, 0] > .9*stuck[0, 0] and stuck[2, 0] > 15*error[2, 0]


def test_bridges_lead_home():
    a, b = (mixture(f(400).double(), std=.05) for f in (spiral, moons))
    here = spiral(600).double() + .05*draws(600, 2)
    def home(n):
        p = path(cosine, n)
        there = last(ddim(b, last(invert(a, here, p, 1)).x, p)).x
        back = last(ddim(a, last(invert(b, there, p, 1)).x, p)).x
        return (back - here).norm(dim=1).mean().item()
    homes = [home(n) for n in (10, 40, 160)]
    assert homes[0] > homes[1] > homes[2] and homes[2] < .05


def test_slerp_is_the_quarter_circle():
    one, other = draws(3, 1, 16, 16), draws(3, 1, 16, 16, seed=1)
    share = (other*one).flatten(1).sum(1).div(one.square().flatten(1).sum(1))
    other = other - share.view(-1, 1, 1, 1)*one                             # at right angles
    length = one.flatten(1).norm(dim=1)/other.flatten(1).norm(dim=1)
    other = other*length.view(-1, 1, 1, 1)                                  # and as long
    for t in (0., .3, 1.):
        assert_close(slerp(one, other, t), mix(one, other, t*math.pi/2), rtol=0, atol=1e-12)


def test_slerp_item_by_item():
    a, b = start[:8], start[8:16]
    assert_close(slerp(a, b, 0.), a)
    assert_close(slerp(a, b, 1.), b)
    assert_close(slerp(a, b, .4)[2:3], slerp(a[2:3], b[2:3], .4))
    assert_close(slerp(a, b, torch.linspace(0, 1, 8))[5:6], slerp(a[5:6], b[5:6], 5/7))


def test_halfway_on_the_straight_line_pictures_are_more_ordinary():
    "Nearer to the nearest training picture than generated ones should be"
    try: seen = to_float(load_data('mnist', n=5000, download=False).x).flatten(1)
    except ValueError: pytest.skip('MNIST is not here: set DIFFNB_DATA to where it is')
    plain, (a, b) = load('mnist'), draws(2, 40, 1, 28, 28).float()
    def ordinary(z):
        with torch.no_grad(): x = last(dpmpp(plain, z, path(plain.schedule, 10))).x
        return torch.cdist(x.flatten(1), seen).min(1).values.mean().item()
    ends, straight, bent = ordinary(a), ordinary((a + b)/2), ordinary(slerp(a, b, .5))
    assert straight < .95*min(ends, bent)


def test_the_animation_moves_and_is_small():
    lesson = json.loads((root/'nbs/13_editing.ipynb').read_text(encoding='utf-8'))
    cell = next(c for c in lesson['cells'] if c['id'] == 'e8755b24')
    moving = base64.b64decode(''.join(cell['outputs'][0]['data']['image/png']))
    assert b'acTL' in moving and len(moving) < 120_000


def ilvr(denoise, x, angles, reference, k, randn):
    "Choi et al. 2021 (arXiv:2108.02938), algorithm 1, on the steps of DDPM"
    def low_pass(x): return shrink(k).inv(shrink(k).A(x))
    for now, nxt in zip(angles[:-1], angles[1:]):
        proposal = last(ddpm(denoise, x, [now, nxt], randn=randn)).x
        y = mix(reference, randn(x), nxt)
        x = proposal + low_pass(y) - low_pass(proposal)
    return x


def test_ilvr_measures_the_same_and_is_as_free():
    reference, spread = images[:1].expand(12, -1, -1, -1), {}
    for k in (2, 4, 8, 16):
        seen = shrink(k).A(reference[:1])
        ours = project(knows, data_consistency(seen, k))
        both = (ilvr(knows, start[:12], walk, reference, k, seeded(range(12))),
                last(ddpm(ours, start[:12], walk, randn=seeded(range(12)))).x)
        for x in both: assert (shrink(k).A(x) - seen).abs().max() < 1e-4
        spread[k] = [x.std(0).mean() for x in both]
    assert all(spread[16][i] > spread[2][i] for i in (0, 1))


def test_repairs_are_projections():
    soft = blur(3.)
    keep, blocks = inpaint(truth, upper), data_consistency(low, 4)
    for fix in (keep, blocks, data_consistency(soft.A(truth), soft)):
        assert_close(fix(fix(start)), fix(start), rtol=0, atol=1e-4)
    def order(a, b): return (a(b(start)) - b(a(start))).abs().max().item()
    six_rows = inpaint(truth, torch.arange(16)[:, None] < 6)
    assert order(keep, blocks) < 1e-5 and order(six_rows, blocks) > .1


def test_calls_of_a_path_that_goes_back():
    def calls(back): return len(repaint_path(path(cosine, 20), back, 10)) - 1
    assert calls(5) == 20 + 9*(19 + 4) == 227 and calls(19) == 20 + 9*(19 + 1) == 200


def test_the_lowest_angle_is_found_through_wrappers(model, keras):
    wrapped = [model, partial(model, cond=None), given(model, 3), guide(model, 3),
               project(guide(model, 3), abs)]
    assert len({lowest_angle(f) for f in wrapped}) == 1
    assert lowest_angle(knows) == 0
    assert math.degrees(lowest_angle(project(keras, abs))) == pytest.approx(18.19, abs=.01)


def apply(fix, x=start[:4]): return project(knows, fix)(x, walk[0])


@pytest.mark.parametrize('call', [
    lambda: inpaint(digits.x[:4], upper), lambda: inpaint(digits.x[:4].float(), upper),
    lambda: inpaint(images[:4]/0., upper), lambda: inpaint(images[:4], upper*255),
    lambda: inpaint(images[:4], None), lambda: apply(inpaint(images[:3], upper)),
    lambda: apply(inpaint(images[:4], upper[:, :8])),
    lambda: inpaint(images[:4], upper)(start[:4].to('meta')),
    lambda: inpaint(images[:4].double(), upper.to('meta'))(start[:4]),
    lambda: data_consistency(low[:4], 'half'), lambda: apply(data_consistency(low[:4], 3)),
    lambda: apply(data_consistency(low[:4], 2)), lambda: shrink(2.), lambda: grey((0, 0, 0)),
    lambda: grey().A(start), lambda: blur(-1.), lambda: data_consistency(digits.x[:4], 4),
    lambda: repaint_path(walk.flip(0)), lambda: repaint_path(walk, back=0),
    lambda: repaint_path(walk, times=1.5), lambda: sdedit_path(walk, 30),
    lambda: sdedit_path(walk, 0.), lambda: sdedit_path(walk, .01, Denoiser(UNet(1, width=8))),
    lambda: last(invert(knows, images[:4], walk.flip(0))),
    lambda: last(invert(knows, images[:4], walk, refine=-1)),
    lambda: last(invert(knows, digits.x[:4], walk)),
    lambda: slerp(start[:4], start[:3], .5), lambda: slerp(start[:4], -start[:4], .5),
    lambda: slerp(start[:4], 0*start[:4], .5), lambda: slerp(start[:4], start[4:8], torch.ones(3))])
def test_what_does_not_fit_is_refused(call):
    with pytest.raises(ValueError): call()


def test_pictures_of_a_network_come_back(model):
    "Inversion of digits of the shipped network, and the hole in the middle of one"
    big = draws(3, 1, 28, 28).float()
    with torch.no_grad(): real = last(dpmpp(given(model, [1, 2, 3]), big, walk)).x.clamp(-1, 1)
    def off(n, refine):
        angles = path(model.schedule, n)
        noise = last(invert(model, real, angles, refine)).x
        return (last(ddim(model, noise, angles)).x - real).square().mean().sqrt().item()
    assert off(40, 0) < off(10, 0) and off(40, 1) < off(40, 0)
    hole = torch.ones(28, 28, dtype=torch.bool)
    hole[9:19, 9:19] = False
    with torch.no_grad(): x = last(dpmpp(project(model, inpaint(real, hole)), big, walk)).x
    assert (x - real)[..., hole].abs().max() <= 1e-6
    assert F.mse_loss(x, real) < .5
