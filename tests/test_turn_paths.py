"Turns that are learnt from the stored paths of a teacher"
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from diffnb.angle import Guess
from diffnb.apps.checkpoints import load, save
from diffnb.apps.cli import Sample
from diffnb.apps.generation import generate, manner
from diffnb.apps.playground import playground
from diffnb.apps.runs import fit, preview
from diffnb.denoiser import Denoiser
from diffnb.few_steps import (
    Paths, Turner, TurnUNet, as_turner, paths_of, rotate, told_loss, turns, two_stops)
from diffnb.fld import evaluator, grey28
from diffnb.guidance import given, interval
from diffnb.kit.pictures import to_uint8
from diffnb.oracle import labelled, mixture
from diffnb.samplers import ddim, dpmpp, last, seeded
from diffnb.schedules import cosine, path
from diffnb.unet import UNet

quarter, tau = cosine(signal=(1., 0.)), .5
cloud = mixture(torch.zeros(1, 64), tau)
noise = seeded(range(40))((40, 1, 8, 8))


def size(a): return (a.cos()**2*tau**2 + a.sin()**2).sqrt()


class Exact(torch.nn.Module):
    "The direction of a turn for a Gaussian cloud, times one plus an error"
    def __init__(self, wrong=0.):
        super().__init__()
        self.wrong = torch.nn.Parameter(torch.tensor(wrong))

    def forward(self, x, phi, cond=None, turn=None):
        scale = (turn.cos() - size(phi - turn)/size(phi))/turn.sin()
        return (1 + self.wrong)*scale.view(-1, 1, 1, 1)*x


def gaussian(x, phi):
    "What the cloud says of one picture"
    guess = cloud(x.flatten(1), phi)
    return Guess(guess.x0.view_as(x), guess.eps.view_as(x))


def stored(n=64): return paths_of(gaussian, noise, path(quarter, n), sampler=ddim, bs=7)


def test_every_stop_is_kept_in_its_order():
    paths = stored(8)
    steps = list(ddim(gaussian, noise, path(quarter, 8)))
    assert paths.stops.shape == (40, 9, 1, 8, 8) and paths.stops.dtype == torch.float16
    for k, step in enumerate(steps):
        assert_close(paths.stops[:, k].float(), step.x, atol=2e-3, rtol=1e-3)
    assert_close(paths.angles, path(quarter, 8).float())


def test_pairs_go_down_and_walks_are_among_them():
    torch.manual_seed(0)
    begin, end = two_stops(20_000, 16)
    assert begin.min() == 0 and end.max() == 16 and bool((end > begin).all())
    walks = (end - begin)[::2]
    assert set(walks.tolist()) == {1, 2, 4, 8, 16} and bool((begin[::2] % walks == 0).all())
    # Half of a fifth, and few others
    assert .08 < ((begin == 0) & (end == 16)).float().mean() < .12
    assert len({*zip(begin[1::2].tolist(), end[1::2].tolist())}) == 16*17//2


@pytest.mark.parametrize('n', [12, 7])
def test_a_path_may_have_any_number_of_turns(n):
    begin, end = two_stops(5000, n)
    assert begin.min() == 0 and end.max() == n and bool((end > begin).all())


def test_exact_turns_have_no_loss():
    model = Turner(Exact(), schedule=quarter).train()
    model.learn_paths(stored(256))                       # DDIM in so many steps is nearly exact
    def loss(wrong):
        torch.manual_seed(0)
        model.net.wrong.data.fill_(wrong)
        return model.loss(noise).mean().item()
    assert loss(0.) < 3e-3 and loss(.5) > 10*loss(0.) and loss(-.5) > 10*loss(0.)


def test_the_loss_is_that_of_the_turn_between_two_stops(monkeypatch):
    paths = stored(4)
    def stops(n, turns): return torch.ones(n).long(), torch.full((n,), 3)
    monkeypatch.setattr('diffnb.few_steps.two_stops', stops)
    model = Turner(Exact(.3), schedule=quarter).train()
    model.learn_paths(Paths(paths.stops[:1], paths.angles))
    x, turn = paths.stops[:1, 1].float(), paths.angles[1] - paths.angles[3]
    f = model.predict(x, paths.angles[1], None, turn)
    arrives = rotate(x, f, turn)
    error = ((arrives - paths.stops[:1, 3].float())/turn.sin()).square().mean()
    assert_close(told_loss(model, 5), error.expand(5), atol=1e-6, rtol=1e-4)
    by_hand = ((arrives - paths.stops[:1, 3].float())/turn.sin()).abs().mean()
    assert_close(told_loss(model, 5, 'l1').mean(), by_hand, atol=1e-6, rtol=1e-4)


def test_labels_stay_with_their_paths():
    points = torch.stack([torch.full((1, 4, 4), s) for s in (-1., 1.)])
    two, y = labelled(points, torch.tensor([0, 1])), torch.arange(40) % 2
    paths = paths_of(lambda y: given(two, y), seeded(range(40))((40, 1, 4, 4)), path(quarter, 4), y,
                     bs=9)
    assert bool((paths.stops[:, -1].float().mean((1, 2, 3)).sign() == 2*y - 1).all())
    heard = []
    class Ear(Exact):
        def forward(self, x, phi, cond=None, turn=None):
            heard.append((x, phi, cond))
            return super().forward(x, phi, cond, turn)
    model = Turner(Ear(), schedule=quarter).train()
    model.learn_paths(paths)
    torch.manual_seed(0)
    model.loss(points)
    x, phi, cond = heard[0]
    for one, angle, c in zip(x, phi, cond):
        k = (paths.angles - angle).abs().argmin()
        item = (paths.stops[:, k].float() - one).abs().flatten(1).sum(1).argmin()
        assert paths.cond[item] == c


def test_only_training_learns_from_paths():
    torch.manual_seed(0)
    model = Turner(TurnUNet(1, width=8, mults=(1, 2)), shape=(1, 8, 8), schedule=quarter).eval()
    def loss():
        torch.manual_seed(0)
        return model.loss(noise).detach()
    before = loss()
    model.learn_paths(stored(4))
    assert_close(loss(), before)
    assert (model.train().loss(noise).detach() - before).abs().max() > 1e-3
    model.learn_paths(None)
    assert_close(model.eval().loss(noise).shape, before.shape)


def test_fit_learns_them_and_goes_on_to_the_bit(tmp_path):
    def begun():
        torch.manual_seed(0)
        teacher = Denoiser(UNet(1, width=8, mults=(1, 2)), shape=(1, 8, 8), schedule=quarter)
        model = as_turner(teacher)
        model.learn_paths(stored(8))
        return model
    data = torch.zeros(64, 1, 8, 8)
    def run(model, steps, folder, **more):
        how = dict(bs=16, lr=1e-3, lr_end=None, warmup=1, progress=False,
                   every=dict(valid=0, save=3))
        return fit(model, data, steps=steps, folder=folder, **how, **more)
    whole = run(begun(), 6, tmp_path/'whole')
    run(begun(), 3, tmp_path/'parts')
    with pytest.warns(UserWarning, match='steps was 3'):
        parts = run(begun(), 6, tmp_path/'parts', resume=True)
    for a, b in zip(whole.parameters(), parts.parameters()): assert torch.equal(a, b)


def test_it_learns_to_turn_in_one_call():
    """A little network learns the turns of a cloud: after 60 steps its loss is a fraction of what
    it was"""
    torch.manual_seed(0)
    model = Turner(TurnUNet(1, width=8, mults=(1, 2)), shape=(1, 8, 8), schedule=quarter)
    model.learn_paths(stored(8))
    fit(model, torch.zeros(64, 1, 8, 8), steps=60, bs=32, lr=4e-3, progress=False,
        every=dict(valid=0))
    loss = model.history.column('loss')
    assert sum(loss[-10:]) < .35*sum(loss[:10]), (loss[:10], loss[-10:])


@pytest.mark.parametrize('n', [1, 2])
def test_the_shipped_student_draws_what_is_asked_for(n):
    model, y = load('mnist-turns-labels'), torch.arange(60) % 10
    assert {'card', 'data', 'recipe', 'use', 'license', 'steps'} <= set(model.notes)
    x = last(turns(given(model, y), seeded(range(60))((60, 1, 28, 28)), path(model.schedule, n))).x
    with torch.no_grad(): read = evaluator()[0](grey28(x.clamp(-1, 1))).argmax(1)
    assert (read == y).float().mean() > .9


# ---- how a model that turns is drawn, where nobody says it

class Counting(Exact):
    "Which angle and turn each call is asked for"
    def forward(self, x, phi, cond=None, turn=None):
        self.asked.append((phi[0].item(), turn[0].item()))
        return super().forward(x, phi, cond, turn)


def counting(**more):
    net = Counting()
    net.asked = []
    return Turner(net, shape=(1, 8, 8), schedule=quarter, **more), net.asked


def test_a_model_that_turns_is_drawn_by_turns_in_four_calls_unless_told_otherwise():
    model, asked = counting()
    x = generate(model, 2, seeds=0, progress=False)
    assert torch.allclose(torch.tensor(asked),
                          torch.tensor([[k/4, 1/4] for k in (4, 3, 2, 1)])*torch.pi/2)
    assert x.equal(generate(model, 2, calls=4, sampler=turns, seeds=0, progress=False))
    asked.clear()
    generate(model, 2, calls=2, seeds=0, progress=False)
    assert len(asked) == 2
    renewed = partial(turns, eta=1.)
    assert manner(model, sampler=renewed) == (4, renewed)
    assert manner(model, sampler=ddim) == (20, ddim) and manner(model, 3, ddim) == (3, ddim)
    assert manner(given(load('mnist-turns-labels'), 3)) == (4, turns)
    assert manner(load('mnist')) == manner(cloud) == (20, dpmpp)


def test_previews_turn_too():
    model, asked = counting()
    assert preview(model, 3).shape == (3, 1, 8, 8) and len(asked) == 4 and asked[0][1] > .3
    asked.clear()
    preview(model, 3, calls=2)
    assert len(asked) == 2


def test_learnt_guidance_is_not_guided_again(tmp_path):
    model = load('mnist-turns-labels')
    assert model.guided and not load('mnist-turns').guided
    assert not as_turner(load('mnist-labels')).guided
    how = dict(n=2, cond=[3, 8], calls=2, seeds=0, progress=False)
    assert generate(model, **how).equal(generate(model, w=1., **how))
    for w in (0., 3., [1., 2.], interval(3., .3, 1.)):
        with pytest.raises(ValueError, match='w.*has learnt its guidance.*leave w out'):
            generate(model, w=w, **how)
    again = load(save(tmp_path/'again.safetensors', model))
    assert again.guided and again.cfg == model.cfg
    twice = load(save(tmp_path/'twice.safetensors', as_turner(load('mnist-labels'))))
    # Guided, since nothing is learnt
    four = {**how, 'calls': 4}
    assert not generate(twice, w=1., **four).equal(generate(twice, **four))


def test_the_command_line_turns_and_does_not_guide_twice(tmp_path):
    out = Sample(model='mnist-turns-labels', n=3, save=['npz'], out=str(tmp_path/'out'),
                 progress=False).run()
    expected = to_uint8(generate(load('mnist-turns-labels'), 3, [0, 1, 2], seeds=0, calls=4,
                                 sampler=turns, progress=False))
    assert (np.load(Path(out)/'samples.npz')['x'] == expected.permute(0, 2, 3, 1).numpy()).all()
    said = Sample(model='mnist-turns-labels', n=3, sampler='turns', calls=4, save=['npz'],
                  out=str(tmp_path/'said'), progress=False).run()
    assert (np.load(Path(said)/'samples.npz')['x'] == np.load(Path(out)/'samples.npz')['x']).all()
    for k, more in enumerate((dict(w=2.), dict(interval=(20., 60.)))):
        with pytest.raises(ValueError, match='has learnt its guidance'):
            Sample(model='mnist-turns-labels', n=1, out=str(tmp_path/str(k)), progress=False,
                   **more).run()


def test_the_playground_offers_no_guidance_to_what_has_learnt_it():
    learnt, plain = playground('mnist-turns-labels').wait(), playground('mnist-labels').wait()
    for name in ('w', 'middle'): assert learnt.set[name].disabled and not plain.set[name].disabled
    assert learnt.set['sampler'].value == 'turns' and learnt.set['calls'].value == 4
    assert not learnt.set['eta'].value
    assert [len(walk) for walk in learnt.steps.values()] == [2, 3, 5, 9], learnt.note.value
    assert plain.set['sampler'].value == 'dpmpp' and plain.set['calls'].value == 20
    assert len(plain.steps) == 21
