"Few steps: what lesson 14 says, and what it refuses"
import functools
import importlib
import json
from pathlib import Path

import pytest
import torch
from tables import cells, source
from torch.testing import assert_close

from diffnb.angle import Guess, aim, mix, unmix
from diffnb.apps.checkpoints import load, save
from diffnb.apps.generation import generate
from diffnb.apps.runs import fit
from diffnb.denoiser import Denoiser
from diffnb.few_steps import (
    Arc, Turner, TurnUNet, as_turner, doubled, doubling_loss, rotate, some_turns, turns)
from diffnb.guidance import clamp, given, guide, interval, project
from diffnb.oracle import mixture
from diffnb.samplers import ddim, last
from diffnb.schedules import cosine, linear_beta, path
from diffnb.training import EMA
from diffnb.unet import MLP, UNet

root = Path(__file__).resolve().parent.parent
quarter = cosine(signal=(1., 0.))
small = dict(width=8, mults=(1, 2))
x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
data = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(1))*2 - 1


def size(a, tau=.5): return (a.cos()**2*tau**2 + a.sin()**2).sqrt()


def exact(x, phi, cond=None, turn=None):
    "The direction of a turn for Gaussian data"
    scale = (turn.cos() - size(phi - turn)/size(phi))/turn.sin()
    return scale.view(-1, *[1]*(x.ndim - 1))*x


def turned(**more):
    "A model whose turns are not all alike"
    torch.manual_seed(0)
    model = Turner(TurnUNet(1, **{**small, **more}), shape=(1, 8, 8))
    for p in (model.net.last[-1].weight, model.net.embed.turn.mlp[-1].weight):
        torch.nn.init.normal_(p, std=.2)
    return model


# ---- doubling

def angles(n=200):
    g = torch.Generator().manual_seed(0)
    phi = .05 + torch.rand(n, generator=g).double()*1.5
    return phi, phi*torch.rand(n, generator=g).double().clamp(.01)


def test_exact_turns_double_exactly():
    phi, turn = angles()
    points = torch.randn(200, 3, generator=torch.Generator().manual_seed(2)).double()
    assert_close(doubled(exact, points, phi, turn), exact(points, phi, turn=turn))


def test_one_turn_arrives_where_two_do():
    model, phi, turn = turned(), torch.full((4,), 1.4), torch.full((4,), 1.1)
    with torch.no_grad():
        one = rotate(x, doubled(model.predict, x, phi, turn), turn)
        half = rotate(x, model.predict(x, phi, None, turn/2), turn/2)
        two = rotate(half, model.predict(half, phi - turn/2, None, turn/2), turn/2)
    assert_close(one, two)


def test_a_doubling_makes_no_gradient():
    model = turned()
    assert not doubled(model.predict, x, torch.full((4,), 1.), torch.full((4,), .5)).requires_grad


def test_labels_reach_both_halves():
    seen = []
    def direction(x, phi, cond, turn):
        seen.append((phi, cond, turn))
        return x
    y = torch.arange(4)
    doubled(direction, x, torch.full((4,), 1.), torch.full((4,), .6), y)
    (a, one, s), (b, two, t) = seen
    assert one is y and two is y
    assert_close(a - b, torch.full((4,), .3))
    assert_close(s, t)


# ---- the sampler

class Exact:
    def __call__(self, x, phi, cond=None):
        a, turn = torch.tensor([float(phi), phi.turn]).double()
        return unmix(x, exact(x, a, turn=turn), phi)


@pytest.mark.parametrize('n', [1, 2, 3, 7])
def test_exact_turns_arrive_in_any_number_of_calls(n):
    starts = torch.linspace(-2, 2, 9)[:, None].double()
    steps = list(turns(Exact(), starts, path(quarter, n)))
    assert len(steps) == n + 1 and steps[-1].phi == 0
    assert_close(steps[-1].x, starts/2, atol=1e-7, rtol=0)


def test_new_noise_leaves_the_right_cloud():
    cloud = torch.randn(100_000, 1, generator=torch.Generator().manual_seed(0)).double()
    for eta in (.5, 1.):
        torch.manual_seed(1)
        end = last(turns(Exact(), cloud, path(quarter, 3), eta=eta)).x
        assert abs(end.std() - .5) < .005, eta                # floor: .5/sqrt(200000) = .001
        assert (end/cloud).std() > .1, eta                    # and it is another cloud


def test_for_others_turns_are_ddim():
    oracle = mixture(torch.tensor([[-1.], [1.]]).double(), std=.2)
    starts = torch.linspace(-2, 2, 9)[:, None].double()
    for n in (1, 5):
        p = path(cosine, n)
        assert torch.equal(last(turns(oracle, starts, p)).x, last(ddim(oracle, starts, p)).x)


def test_the_turn_goes_through_wrappers():
    model = turned(classes=3)
    y, two = torch.tensor([0, 1, 2, -1]), path(cosine, 2)
    bare = last(turns(given(model, y), x, two)).x
    assert not torch.allclose(bare, last(ddim(given(model, y), x, two)).x, atol=1e-2)
    wide = project(given(EMA(model), y), clamp((-99., 99.)))
    assert_close(last(turns(wide, x, two)).x, bare)
    assert_close(last(turns(guide(model, y, 1.), x, two)).x, bare)
    assert_close(last(turns(guide(model, y, interval(1., .3, 1.)), x, two)).x, bare)


def test_an_arc_is_an_angle():
    arc = Arc(torch.tensor(1.25), torch.tensor(.5))
    assert arc == 1.25 and arc.turn == .75
    guess = Guess(x, x.flip(0))
    assert torch.equal(mix(*guess, arc), mix(*guess, 1.25))


# ---- network and model

def test_at_first_it_is_its_teacher():
    teacher = load('mnist')
    student = as_turner(teacher)
    noise = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for angle in (1.3, Arc(1.3, 0.), Arc(1.3, 1.)):
            assert torch.equal(student(noise, angle).x0, teacher(noise, 1.3).x0)
    own = {id(p) for p in teacher.parameters()}
    assert not own & {id(p) for p in student.parameters()}


def test_turns_are_drawn_where_there_is_room():
    torch.manual_seed(0)
    top = float(cosine(1.))
    phi = torch.linspace(0, 1, 4096).double()*top
    moved, turn = some_turns(phi, slice(1, None, 4), top, 5)
    assert (turn > 0).sum() == 1024
    assert ((moved - turn) >= -1e-9).all() and moved.max() <= top + 1e-9
    assert torch.equal(moved[turn == 0], phi[turn == 0])
    sizes, counts = turn[turn > 0].unique(return_counts=True)
    assert_close(sizes.flip(0), top*.5**torch.arange(5).double())
    assert counts.min() > 150


def test_the_loss_is_that_of_v_and_of_the_doubling():
    model, n = turned(), len(data)
    model.train()
    eps = torch.randn(data.shape, generator=torch.Generator().manual_seed(3))
    phi = torch.linspace(.1, 1.5, n).double()
    torch.manual_seed(5)
    items = model.loss(data, None, phi, eps)
    torch.manual_seed(5)
    moved, turn = some_turns(phi, model.some(n), float(cosine(1.)), 5)
    mixed, plain = mix(data, eps, moved), turn == 0
    with torch.no_grad():
        v = (model.predict(mixed, moved) - aim(data, eps, moved, 'v'))[plain]
        far = doubling_loss(model, mixed[~plain], moved[~plain], turn[~plain])
    assert_close(items[plain].detach(), v.square().flatten(1).mean(1))
    assert_close(items[~plain].detach(), far)
    model.eval()
    assert_close(model.loss(data, None, phi, eps)[plain], items[plain])   # and then v alone


def test_the_targets_come_from_the_average():
    model = turned()
    average = EMA(model)
    with torch.no_grad():
        for p in average.module.parameters(): p.mul_(.5)
    phi, turn = torch.full((4,), 1.4), torch.full((4,), 1.)
    def goal(): return model.goal(x, x, x, phi, turn, slice(None))
    model.follow(average)
    with torch.no_grad(): assert_close(goal(), doubled(average.module.predict, x, phi, turn))
    model.follow(None)
    with torch.no_grad(): assert_close(goal(), doubled(model.predict, x, phi, turn))
    assert not any('average' in k for k in model.state_dict())


def test_v_can_come_from_another_model():
    model, source = turned(classes=3), turned(classes=3)
    y, phi = torch.tensor([0, 1, 2, -1]), torch.full((4,), .8)
    model.learn_from(lambda x, phi, cond: guide(source, cond, 2.)(x, phi))
    found = model.goal(x, 0*x, x, phi, torch.zeros(4), slice(0, 0), y)
    assert_close(found, aim(*guide(source, y, 2.)(x, phi), phi, 'v').detach())


def fitted(steps, **more):
    how = dict(bs=16, lr=1e-3, lr_end=None, warmup=1, ema=.9, progress=False)
    return fit(turned(), data, steps=steps, **how, **more)


def test_fit_shows_it_the_average(monkeypatch):
    seen, follow = [], Turner.follow
    def watched(self, average):
        seen.append(average)
        follow(self, average)
    monkeypatch.setattr(Turner, 'follow', watched)
    model = fitted(2)
    assert len(seen) == 2 and isinstance(seen[0], EMA) and seen[1] is None
    assert model.average is None


def test_a_run_goes_on_to_the_bit(tmp_path):
    whole = fitted(6)
    fitted(3, folder=tmp_path)
    with pytest.warns(UserWarning, match='steps was 3'):
        parts = fitted(6, folder=tmp_path, resume=True)
    for a, b in zip(whole.parameters(), parts.parameters()): assert torch.equal(a, b)


class Points(torch.nn.Module):
    "For single numbers: two angles in, a direction out"
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(9, 64), torch.nn.SiLU(), torch.nn.Linear(64, 64), torch.nn.SiLU(),
            torch.nn.Linear(64, 1))

    def forward(self, x, phi, cond=None, turn=None):
        told = [f(k*a)[:, None] for k in (1, 2) for a in (phi, turn)
                for f in (torch.sin, torch.cos)]
        return self.layers(torch.cat([x, *told], 1))


def test_one_call_learns_two_points():
    torch.manual_seed(0)
    points = torch.ones(256, 1)
    points[::2] = -1
    model = fit(Turner(Points(), every=2), points, steps=800, bs=64, lr=5e-3, ema=.98,
                progress=False)
    noise = torch.randn(500, 1, generator=torch.Generator().manual_seed(1))
    noise = noise[noise.abs() > .5][:, None]                      # away from the tear
    def apart(sampler, n):
        end = last(sampler(model, noise, path(cosine, n))).x
        return (end - noise.sign()).square().mean().sqrt().item()
    assert apart(ddim, 1) > .9                                    # the mean, 0
    assert apart(turns, 1) < .6 and apart(turns, 2) < .6
    phi = torch.full((len(noise),), 1.5)
    assert doubling_loss(model, noise, phi, phi).mean() < .01


def test_it_is_saved_and_loaded(tmp_path):
    model = turned(classes=3)
    model.every, model.levels = 2, 3
    back = load(save(tmp_path/'m.safetensors', model))
    assert type(back) is Turner and type(back.net) is TurnUNet
    assert (back.every, back.levels, back.classes) == (2, 3, 3)
    y = torch.tensor([0, 1, 2, -1])
    with torch.no_grad():
        for angle in (1., Arc(1., .1)):
            assert torch.equal(back(x, angle, y).x0, model(x, angle, y).x0)


def test_generate_takes_the_sampler():
    model = turned()
    a, b = (generate(model, 2, calls=1, sampler=s, seeds=0, progress=False)
            for s in (turns, functools.partial(turns, eta=0.)))
    assert torch.equal(torch.as_tensor(a), torch.as_tensor(b))
    c = generate(model, 2, calls=1, sampler=ddim, seeds=0, progress=False)
    assert not torch.equal(torch.as_tensor(a), torch.as_tensor(c))


# ---- what is refused

@pytest.mark.parametrize('make, says', [
    (lambda: Turner(UNet(1, **small)), 'UNet is not told how far to turn'),
    (lambda: Turner(TurnUNet(1, **small), target='x0'), "target='x0'"),
    (lambda: Turner(TurnUNet(1, **small), every=-1), 'every=-1'),
    (lambda: Turner(TurnUNet(1, **small), levels=0), 'levels=0'),
    (lambda: as_turner(Denoiser(MLP())), "a MLP that predicts 'v' cannot begin to turn"),
    (lambda: as_turner(Denoiser(UNet(1, **small), 'eps', linear_beta)), "predicts 'eps'"),
    (lambda: as_turner(turned()), 'a TurnUNet'),
    (lambda: turns(turned(), x, [1.], eta=0.), 'at least two'),
    (lambda: turns(turned(), x, [1., 0.], eta=2.), 'eta=2'),
    (lambda: last(turns(turned(), x, [.5, 1.])), 'between 0 and pi/2'),
])
def test_refused(make, says):
    with pytest.raises(ValueError, match=says.replace('(', r'\(')): make()


# ---- what was measured

def test_the_table_says_what_was_measured(monkeypatch):
    monkeypatch.syspath_prepend(str(root/'benchmarks'))
    benchmark = importlib.import_module('turns')
    record = json.loads((root/'results'/'turns.json').read_text(encoding='utf-8'))
    said = benchmark.table(record)
    sources = [source(c) for c in cells('14_few_steps.ipynb')]
    assert said.count('\n') > 3 and any(said in s for s in sources)
    guided, tries = benchmark.guided_table(record), benchmark.table_of_tries(record)
    project = [source(c) for c in cells('projects/mnist.ipynb')]
    for more, where in ((guided, sources), (tries, project)):
        assert more.count('\n') >= 4 and any(more in s for s in where)
    text = ''.join(sources)
    own = [f'{record["turns"][f"unlabelled, {k}"]["percent"]:.2f} ± '
           f'{record["turns"][f"unlabelled, {k}"]["percent_se"]:.2f} with' for k in (1, 2)]
    assert f'{own[0]} one, {own[1]} two' in text
    told, ends = record['turns']['told, 8']['percent'], record['paths']['told']['percent']
    assert f'({told:.2f} and {ends:.2f})' in text and round(told/ends, 1) == 1.4
    plain, better = record['ddim']['mnist, 8'], record['dpmpp']['mnist, 8, n 2000']
    assert ' to '.join(f'{r["percent"]:.2f} ± {r["percent_se"]:.2f}'
                       for r in (plain, better)) in text
    mean = record['ddim']['mnist, 1']
    assert f'a precision of {mean["precision"]:.2f}, and a recall of {mean["recall"]:.0f}' in text


def test_five_recipes_stand_in_the_lesson_with_a_verdict(monkeypatch):
    monkeypatch.syspath_prepend(str(root/'benchmarks'))
    benchmark = importlib.import_module('turns')
    record = json.loads((root/'results'/'turns.json').read_text(encoding='utf-8'))
    text = (root/'nbs'/'14_few_steps.ipynb').read_text(encoding='utf-8')
    full = benchmark.table_of_tries(record).splitlines()[2:]
    verdicts = {'a quarter turns': 'worse with 1 and 2 calls',
                'turns from 22.5 degrees on': 'worse',
                'v from the trained teacher': 'better with 1 and 2 calls',
                'the paths of the teacher, stored': 'better'}
    assert f'{full[0]} |' in text
    for name, verdict in verdicts.items():
        row, = [line for line in full if line.startswith(f'| {name} |')]
        assert f'{row} {verdict} |' in text
        sign, found = 1 if 'worse' in verdict else -1, []
        for k in (1, 2, 4):
            a, b = (record['tries'][f'{which}, {k}'] for which in (name, 'half of the batch turns'))
            found.append(sign*(a['percent'] - b['percent'])
                         > 2*(a['percent_se']**2 + b['percent_se']**2)**.5)
        assert found == ([True, True, False] if 'calls' in verdict else [True]*3), name


def test_label_and_guidance_are_taken_apart_as_measured():
    rows = json.loads((root/'results'/'turns.json').read_text(encoding='utf-8'))['turns']
    text = (root/'nbs'/'14_few_steps.ipynb').read_text(encoding='utf-8')
    for name, says in (('labelled', 'with labels'), ('guided', 'with labels and guidance')):
        three = [rows[f'{name}-short, {k}, n 2000'] for k in (1, 2, 4)]
        said = ' | '.join(f'{r["percent"]:.2f} ± {r["percent_se"]:.2f}' for r in three)
        assert f'| {says} | {said} |' in text


def test_the_times_are_those_that_were_measured():
    record = json.loads((root/'results'/'turns.json').read_text(encoding='utf-8'))['time']
    text = (root/'nbs'/'14_few_steps.ipynb').read_text(encoding='utf-8')
    one, some, all_ = (record[name] for name in (
        'one call', '20 calls, guided at 20 to 60 degrees', '20 calls, guided everywhere'))
    assert f'{one["ms"]:.0f} ms of one core' in text
    assert f'{some["times_one_call"]:.0f} times' in text
    assert f'{all_["times_one_call"]:.0f} times' in text


def test_a_weight_can_be_an_input():
    "What `cond` is, only the network and the source need to know"
    class Weighed(Points):
        def forward(self, x, phi, cond=None, turn=None):
            return super().forward(x, phi, None, turn)*(1 + cond[:, 1:])
    torch.manual_seed(0)
    model = Turner(Weighed(), every=2).train()
    seen = []
    def source(x, phi, cond):
        seen.append(cond)
        return Guess(0*x, x)
    model.learn_from(source)
    wish = torch.rand(8, 2)
    losses = model.loss(torch.randn(8, 1), wish)
    assert torch.equal(seen[0], wish) and losses.shape == (8,)
