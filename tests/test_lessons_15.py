"What the lesson on likelihood relies on and does not show"
import json
import math
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from diffnb.apps.checkpoints import load
from diffnb.denoiser import Denoiser
from diffnb.kit.exercises import judge
from diffnb.likelihood import bits_per_dim, dequantise, log_likelihood, velocity
from diffnb.oracle import labelled, mixture
from diffnb.schedules import cosine, flow, path
from diffnb.unet import MLP, UNet

root = Path(__file__).parent.parent
three = mixture(torch.tensor([[1., 0], [-1, .5], [0, -1.2]]).double(), std=.3, weights=[1, 2, 1])
full = path(cosine(signal=(1., 0.)), 50)


def points(n=40):
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(0)).double()*.5


@pytest.mark.parametrize('stops', [full, path(flow, 50), full.tolist()])
def test_any_path_gives_the_truth(stops):
    x = points()
    assert_close(log_likelihood(three, x, stops).nats, three.log_prob(x, 0.), atol=1e-4, rtol=0)


def test_the_order_is_four():
    x = points()
    ways = [path(cosine(signal=(1., 0.)), n) for n in (20, 40)]
    few, many = ((log_likelihood(three, x, way).nats - three.log_prob(x, 0.)).abs().max()
                 for way in ways)
    assert 8 < few/many < 40


def test_density_of_a_noisy_mixture():
    "A path that ends above 0 gives the density there"
    x, stops = points(), full[:-10]
    truth = three.log_prob(x, stops[-1].item())
    assert_close(log_likelihood(three, x, stops).nats, truth, atol=1e-4, rtol=0)


def test_the_density_adds_up_to_one():
    "Over a grid, by the network of nobody: a random one has a density too"
    torch.manual_seed(0)
    model = Denoiser(MLP(1, width=32)).double()
    grid = torch.linspace(-8, 8, 801).double()[:, None]
    mass = log_likelihood(model, grid, path(cosine(signal=(1., 0.)), 40)).nats.exp().sum()*.02
    assert abs(mass - 1) < 1e-3


def test_probes_are_right_on_average_and_say_how_far_off():
    x = points(1).expand(500, 2).clone()
    g = torch.Generator().manual_seed(0)
    found = log_likelihood(three, x, full[::5], probes=4, generator=g)
    exact = log_likelihood(three, x[:1], full[::5])
    assert exact.se.item() == 0
    spread = found.nats.std()
    assert abs(found.nats.mean() - exact.nats) < 4*spread/500**.5
    assert abs(found.se.square().mean().sqrt()/spread - 1) < .15
    assert log_likelihood(three, x[:3], full[::5], probes=1).se.isnan().all()


def test_the_same_generator_gives_the_same_numbers():
    x = torch.randn(2, 1, 8, 8)
    model = Denoiser(UNet(1, width=8, mults=(1, 2), zero=False))
    seeds = [0, 0, 1]
    a, b, c = (log_likelihood(model, x, full[::10], probes=1,
                              generator=torch.Generator().manual_seed(s)).nats for s in seeds)
    assert a.equal(b) and not a.equal(c)


def test_labels_and_mode():
    "The label reaches the denoiser, and dropout is off; the mode is given back"
    data, y = torch.tensor([[-1.], [1.]]).double(), torch.tensor([0, 1])
    known = labelled(data, y, std=.4)
    x = torch.tensor([[.9], [.9]]).double()
    found = log_likelihood(known, x, full, cond=y).nats
    truth = torch.cat([mixture(data[k:k + 1], std=.4).log_prob(x[k:k + 1], 0.) for k in (0, 1)])
    assert_close(found, truth, atol=1e-5, rtol=0)
    model = Denoiser(UNet(1, width=8, mults=(1, 2), dropout=.5, zero=False)).train()
    x = torch.randn(2, 1, 8, 8)
    first, second = (log_likelihood(model, x, full[::10], probes=1,
                                    generator=torch.Generator().manual_seed(0)).nats
                     for _ in range(2))
    assert first.equal(second) and model.net.training


def test_velocity_is_the_derivative_of_the_mixture():
    x0, eps = torch.randn(2, 3, 2, dtype=torch.float64)
    point = mixture(x0[:1])
    phi, h = .7, 1e-5
    x = math.cos(phi)*x0[:1] + math.sin(phi)*eps[:1]
    nearby = [math.cos(p)*x0[:1] + math.sin(p)*eps[:1] for p in (phi - h, phi + h)]
    assert_close(velocity(point, x, phi), (nearby[1] - nearby[0])/(2*h), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize('call, says', [
    (lambda: log_likelihood(three, points().long(), full), 'float'),
    (lambda: log_likelihood(three, points(), [1.]), 'at least two'),
    (lambda: log_likelihood(three, points(), full, probes=0), 'probes=0'),
    (lambda: log_likelihood(three, points(), full, probes=2.5), 'probes=2.5')])
def test_mistakes_are_refused(call, says):
    with pytest.raises(ValueError, match=says): call()


def test_a_path_that_stops_short_of_noise_is_pointed_out():
    with pytest.warns(UserWarning, match='60.0 degrees'):
        log_likelihood(three, points(), torch.tensor([math.pi/3, 0.]))


def test_bins_and_bits():
    x = torch.arange(256).view(1, 1, 16, 16)
    spread = dequantise(x, generator=torch.Generator().manual_seed(0))
    assert spread.min() >= -1 - 1/255 and spread.max() <= 1 + 1/255
    assert (((spread + 1)*127.5).round() == x).all()
    even = torch.tensor([-100*math.log(2*256/255)]).double()
    assert_close(bits_per_dim(even, 100), torch.tensor([8.]).double())
    assert_close(bits_per_dim(torch.zeros(1).double(), 10, levels=3), torch.zeros(1).double())


@pytest.mark.parametrize('number, right, wrong', [
    (1, -543.4, [543.4, -.693, 0]),
    (2, lambda dims: torch.cartesian_prod(*[torch.tensor([-1., 1.])]*dims),
     [torch.eye, lambda dims: torch.ones(1, dims), lambda dims: torch.ones(dims, dims),
      lambda dims: math.sqrt(dims)*torch.eye(dims)]),
    (3, -3.466, [3.466, -.693])])
def test_exercises(number, right, wrong):
    assert judge('likelihood', number, right) is None
    assert all(judge('likelihood', number, answer) for answer in wrong)


def test_the_text_says_what_was_measured():
    rows = json.loads((root/'results'/'likelihood.json').read_text(encoding='utf-8'))
    text = (root/'nbs'/'15_likelihood.ipynb').read_text(encoding='utf-8')
    for name, row in rows['rows'].items():
        error = f'{max(row["se"], .01):.2f}'.lstrip('0')
        assert f'| {row["bits"]:.2f} | ± {error} |' in text, name
    few, more = (rows['steps'][n]['bits'] for n in ('16', '32'))
    assert f'{few:.2f} where 32 steps give {more:.2f}' in text
    ends = rows['extremes']['digits']
    assert f'take {ends["least"][0]:.1f} bits, and the most probable {ends["most"][0]:.1f}' in text
    assert f'{rows["bound"]["digits"]["bits"]:.2f}' in text
    for name, row in rows['sharp'].items():
        assert f'| {row["bits"]:.2f} ± {max(row["se"], .01):.2f} |' in text, name
        both = [f'{r["bits"]:.2f} ± {max(r["se"], .01):.2f}' for r in (row, rows['paired'][name])]
        assert rows['paired'][name]['n'] == row['n']
        assert f'| {row["n"]} | {both[0]} | {both[1]} |' in text, name
    assert f'8 steps give {rows["steps"]["8"]["bits"]:.2f}' in text
    page = rows['rank']['empty page']
    said = f'Of {page["n"]} digits that the model draws, {page["less_dense"]} have a lower density'
    assert said in text and sum(b > page['page'] for b in page['each']) == page['less_dense']
    real = rows['rank']['digits']
    assert f'than the empty page, and of {real["n"]} real ones {real["less_dense"]}.' in text
    assert sum(b > page['page'] for b in real['each']) == real['less_dense']
    finest = rows['finest']['digits']
    assert f'With 64 steps, {finest["n"]} digits take only {finest["more"]:.3f} more' in text


def test_the_bits_of_the_bound_are_where_the_text_says():
    rows = json.loads((root/'results'/'likelihood.json').read_text(encoding='utf-8'))
    kept = rows['bound']['digits']
    text = (root/'nbs'/'15_likelihood.ipynb').read_text(encoding='utf-8')
    phi, loss = (torch.tensor(kept['by_angle'][name]).double() for name in ('phi', 'loss'))
    each = -math.log2(math.sin(kept['first']))/len(phi)*loss
    rest = kept['bits'] - each.sum().item()
    assert f'The whole area is {each.sum():.2f} bits, and {rest:.2f}'.replace(' 0.', ' .') in text
    small = phi < float(load('mnist').schedule(0.))
    assert f'{each[small].sum():.2f} are spent below {math.degrees(phi[small].max()):.1f}' in text
    high = f'{each[phi > math.radians(20)].sum():.2f}'.lstrip('0')
    assert f'which digit this will be, costs {high}.' in text
    middle = f'{each[~small & (phi <= math.radians(20))].sum():.2f}'.lstrip('0')
    assert f'edges and shades are left to decide, costs {middle},' in text
    last = (1 + math.log(2*math.pi*math.tan(kept['first'])**2))/2                # nats a number
    assert abs(bits_per_dim(-torch.tensor([last]), 1).item() - rest) < 1e-3
