"FLD: what lesson 11 says, and the exercises of lessons 11 to 13"
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.linalg import sqrtm
from torch.testing import assert_close

from diffnb.angle import mix
from diffnb.apps.datasets import load_data
from diffnb.data import moons, spiral
from diffnb.editing import Operator
from diffnb.fld import (
    FLD, _bootstrap, _halves, classify, evaluator, features, frechet, grey28, kid, nearest,
    per_class, pixels, precision_recall, stats)
from diffnb.kit.exercises import judge
from diffnb.kit.pictures import to_float

root = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.filterwarnings('ignore:only .* images')
real, held = load_data('digits'), load_data('digits', 'test')
sharp = to_float(held.x)
average = torch.stack([to_float(real.x[real.y == k]).mean(0) for k in range(10)])
hazy = (sharp + average[held.y])/2
mnist = evaluator()[1]['mnist-test']
points = spiral(2000).double()


@pytest.fixture(scope='module')
def meter(): return FLD('digits')


def whiten(p):
    s = stats(p)
    return (p.double() - s.mean)@torch.linalg.inv(torch.linalg.cholesky(s.cov)).T


def draw(n, seed):
    "n points from the Gaussian of the reference"
    lam, v = torch.linalg.eigh(mnist.stats.cov)
    z = torch.randn(n, 84, generator=torch.Generator().manual_seed(seed)).double()
    return mnist.stats.mean + z*lam.clamp_min(0).sqrt()@v.T


def chance(cov):
    lam = torch.linalg.eigvalsh(cov).clamp_min(1e-12)
    return (1.25*lam.sum() + .5*(lam[:, None]*lam/(lam[:, None] + lam)).sum()).item()


def blur(x): return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
def static(x): return torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
def same(p): return p


def test_the_nearest_picture_prefers_haze():
    def near(x): return torch.cdist(x.flatten(1), to_float(real.x).flatten(1)).min(1).values.mean()
    assert near(hazy) < near(sharp)


def test_distances_known_by_heart_and_by_scipy():
    zero, one, eye = torch.zeros(3), torch.ones(3), torch.eye(3)
    assert_close([frechet(zero, eye, one, eye), frechet(zero, eye, zero, 4*eye)], [3., 3.])
    a, b = torch.randn(2, 84, 84, generator=torch.Generator().manual_seed(0)).double()
    c1, c2, m = a@a.T/84, b@b.T/84, torch.zeros(84)
    by_scipy = (c1 + c2).trace() - 2*np.trace(sqrtm((c1@c2).numpy())).real
    assert abs(frechet(m, c1, m, c2) - by_scipy) < 1e-6
    assert_close(stats(points).cov, torch.cov(points.T))


def test_what_the_network_is_shown():
    seen = grey28(held)
    assert_close(seen, grey28(sharp))
    assert_close(grey28(held.x.repeat(1, 3, 1, 1)), seen)
    with pytest.raises(ValueError, match='clamp'): grey28(sharp*1.3)
    fifth = torch.arange(797).view(-1, 1, 1, 1) == 5
    with pytest.raises(ValueError, match='1 of 797 images hold NaN'):
        grey28(torch.where(fifth, torch.nan, sharp))
    assert_close(features(held), features(sharp, batch=100))
    assert_close(classify(held).sum(1), torch.ones(797))


def test_chance_bootstrap_and_debiased_values():
    scored = [frechet(*stats(draw(2000, s))[:2], *mnist.stats[:2]) for s in range(10)]
    assert abs(np.mean(scored)*2000/chance(mnist.stats.cov) - 1) < .1
    def aside(seed): return 1.1*draw(500, seed)
    truth = frechet(1.1*mnist.stats.mean, 1.21*mnist.stats.cov, *mnist.stats[:2])
    values = [frechet(*stats(aside(s))[:2], *mnist.stats[:2]) for s in range(40)]
    values = torch.tensor(values)
    errors = [_bootstrap(aside(s), mnist.stats, 0) for s in range(3)]
    debiased = torch.stack([2*values[s] - _halves(aside(s), mnist.stats, 0) for s in range(10)])
    assert .6 < np.mean(errors)/values.std() < 1.6
    assert abs(debiased.mean() - truth) < .3*abs(values.mean() - truth)


def test_the_instrument_on_digits(meter):
    with pytest.warns(UserWarning, match='only 1,000 images'): score = meter(real)
    assert abs(score.percent) < 1e-6                # the images that the floor was made from
    assert 0 < score.debiased < .9*score.value
    assert meter(held).value < 1e-6 and meter(hazy) > score
    with pytest.raises(ValueError, match='too few'): meter(real.x[:84])
    with pytest.raises(ValueError, match='the same reference'): score < FLD('mnist-test')(real)
    assert 'another 797 would move this value' in repr(score)


def test_faults_cost_what_the_lesson_says(meter):
    x = to_float(real.x[:797])
    others, no8 = meter(x), meter(to_float(real.x[real.y != 8][:797]))
    assert others < meter(blur(x)) < meter(static(x)) and no8 > others
    eps = torch.randn(797, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    way = [mix(x, eps, math.radians(d)).clamp(-1, 1) for d in range(0, 91, 10)]
    climb = [meter(z).percent for z in way]
    assert climb[1] < 2 and climb[4] < 50 < climb[5]
    pairs = to_float(real.x[(real.y == 4) | (real.y == 9)][:797])
    quality = precision_recall(pairs, held)
    assert quality.recall < .5 and quality.precision > .8
    assert precision_recall(x, held).recall > .8


def test_the_kernel_distance_is_its_definition():
    def k(f, g): return (f@g/len(f) + 1)**3
    f3, g4 = features(real.x[:3]).double(), features(held.x[:4]).double()
    within = [np.mean([k(p, q) for i, p in enumerate(h) for j, q in enumerate(h) if i != j])
              for h in (f3, g4)]
    by_loops = sum(within) - 2*np.mean([k(p, q) for p in f3 for q in g4])
    assert_close(kid(real.x[:3], held.x[:4]).value, by_loops.item())
    some = features(real)
    def split(seed):
        order = torch.randperm(1000, generator=torch.Generator().manual_seed(seed))
        return kid(some[order[:500]], some[order[500:]], features=same)
    tries = [split(s) for s in range(30)]
    spread, said = np.std([t.value for t in tries]), np.mean([t.se for t in tries])
    assert abs(np.mean([t.value for t in tries])) < 4*spread/30**.5
    assert .5*said < spread < 1.2*said


def test_other_measures_see_what_a_gaussian_does_not():
    def normal(seed): return torch.randn(2000, 2, generator=torch.Generator().manual_seed(seed))
    gaussian, lopsided = whiten(normal(0)), kid(whiten(normal(1).exp()), whiten(normal(0)), same)
    assert lopsided.value > 2*lopsided.se
    assert precision_recall(whiten(points), gaussian, features=same).recall < .1
    assert frechet(*stats(whiten(moons(2000)))[:2], *stats(gaussian)[:2]) < 1e-6


def test_memorising_is_seen():
    seen, unseen, fresh = real.x[:400], real.x[400:700], real.x[700:]
    honest = nearest(fresh, seen, unseen)
    copyist = nearest(torch.cat([fresh[:150], seen[:150]]), seen, unseen)
    assert abs(honest.share - honest.expected) < .1 and copyist.share > .7
    table = per_class(held)
    assert_close(table.confusion.sum(1), held.y.bincount(minlength=10).double())


def test_the_root_of_the_distance_is_a_distance():
    def d(m, n): return frechet(torch.tensor([m]), torch.eye(1), torch.tensor([n]), torch.eye(1))
    first, second, third = d(0., 1.), d(1., 2.), d(0., 2.)
    assert third > first + second and third**.5 <= first**.5 + second**.5 + 1e-12


def rows_back(y):
    z = y.new_zeros(*y.shape[:-2], 2*y.shape[-2], y.shape[-1])
    z[..., ::2, :] = y
    return z


def both(u, c1, c2, w):
    return type(u)(*(a + w*(b - a) + w*(c - a) for a, b, c in zip(u, c1, c2)))


def no_base(u, c1, c2, w): return type(u)(*(w*(b + c) for b, c in zip(c1, c2)))


EVERY = Operator(lambda x: x[..., ::2, :], rows_back)
TWICE = Operator(EVERY.A, lambda y: y.repeat_interleave(2, -2))
ODD = Operator(lambda x: x[..., 1::2, :], rows_back)


@pytest.mark.parametrize('lesson, n, right, wrong', [
    ('fld', 1, .53, (5, 1.6)), ('fld', 2, 'shifted by a pixel', ('blurred', '3 % salt')),
    ('fld', 3, 92, (0, 100)), ('guidance', 1, 29, (20, 40)),
    ('guidance', 2, both, (no_base, lambda *args: None)), ('guidance', 3, 20, (50, 80)),
    ('editing', 1, 104, (88, 106)), ('editing', 2, EVERY, (TWICE, ODD)),
    ('editing', 3, 0., (.63, .14, 1.))])
def test_right_answers_pass_and_wrong_ones_get_a_hint(lesson, n, right, wrong):
    assert judge(lesson, n, right) is None
    for answer in wrong:
        hint = judge(lesson, n, answer)
        assert hint and 'did not work' not in hint


def test_the_judges_that_the_lesson_quotes():
    record = json.loads((root/'results/judges.json').read_text(encoding='utf-8'))
    lesson = json.loads((root/'nbs/11_fld.ipynb').read_text(encoding='utf-8'))
    text = '\n'.join(''.join(c['source']) for c in lesson['cells'])
    assert record['n'] == 10_000 and len(record['rows']) >= 3
    for name, r in record['rows'].items():
        sets = r['sets'].values()
        values = ' | '.join(f"{s['fld']:.2f}" for s in sets)
        raw = f"| {name} | {100*r['accuracy']:.2f} % | {r['noise']:.0f} | {values} |"
        shares = ' | '.join(f"{s['percent']:.2f} ± {s['percent_se']:.2f}" for s in sets)
        assert raw in text and f"| {name} | {shares} |" in text


def test_the_prices_that_the_lesson_quotes(monkeypatch):
    monkeypatch.syspath_prepend(str(root/'benchmarks'))
    import faults
    record = json.loads((root/'results/faults.json').read_text(encoding='utf-8'))
    lesson = json.loads((root/'nbs/11_fld.ipynb').read_text(encoding='utf-8'))
    sources = [''.join(c['source']) for c in lesson['cells']]
    cell, = (s for s in sources if 'on_mnist = {' in s)
    code = cell[:cell.index('rows, faults = ')]
    told = dict(torch=torch, F=F, to_float=to_float)
    exec(code, told)
    assert record['n'] == 10_000 and record['reference'] == 'mnist-test'
    assert record['accuracy'] > .985
    found = {name: [r['percent'], r['percent_se']] for name, r in record['rows'].items()}
    assert [*told['on_mnist']] == [*found]
    for name, price in told['on_mnist'].items():
        assert_close(torch.tensor(price), torch.tensor(found[name]), rtol=0, atol=.00501)
    price = {name: percent for name, (percent, _) in found.items()}
    assert price['3 % salt'] < price['paler by a fifth'] < price['blurred']
    assert price['blurred'] < price['only 4s and 9s']
    assert price['shifted by a pixel'] < price['no 8s']
    for name, x in told['spoiled'](real, 50).items():
        assert_close(x, faults.spoiled(real, 50)[name]())


def test_faults_cost_in_the_order_that_both_columns_show(meter):
    x = to_float(real.x[:797])
    pairs = to_float(real.x[(real.y == 4) | (real.y == 9)])
    salt = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < .03
    faults = torch.where(salt, 1., x), .8*(x + 1) - 1, blur(x), pairs
    prices = [meter(z).percent for z in faults]
    assert prices == sorted(prices)
    moved = F.pad(x, (1, 0, 0, 0), value=-1)[..., :-1]
    assert meter(moved).percent > meter(to_float(real.x[real.y != 8][:797])).percent


def test_the_answers_that_depend_on_measurements(meter):
    with pytest.warns(UserWarning, match='are these images in'):
        percent = meter((to_float(real.x) + 1)/2).percent
    assert judge('fld', 3, percent) is None
    flat = FLD(held.x, features=lambda x: pixels(x)[:, ::16], real=real.x)
    x = to_float(real.x[:797])
    moved = F.pad(x, (1, 0, 0, 0), value=-1)[..., :-1]
    assert flat(moved).percent > flat(blur(x)).percent
    salt = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < .03
    others = .8*(x + 1) - 1, torch.where(salt, 1., x), to_float(real.x[real.y != 8][:797])
    assert flat(moved).percent > max(flat(z).percent for z in others)
    few, many = (np.mean([frechet(*stats(draw(n, s))[:2], *mnist.stats[:2]) for s in range(5)])
                 for n in (500, 5000))
    assert judge('fld', 1, 5*many/few) is None


def test_two_classes_reach_little_and_as_many_of_all_classes_reach_nine_tenths():
    pairs = (real.y == 4) | (real.y == 9)
    n = int(pairs.sum())
    order = torch.randperm(len(real.x), generator=torch.Generator().manual_seed(0))
    assert n == 209
    assert abs(precision_recall(real.x[order[:n]], held.x).recall - .9) < .04
    assert precision_recall(real.x[pairs], held.x).recall < .4
