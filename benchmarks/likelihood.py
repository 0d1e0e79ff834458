"""How probable are images? Bits per dimension under the digits model that comes with the package:
results/likelihood.json, with two pictures. Needs MNIST and CIFAR-10 in DIFFNB_DATA.

    python benchmarks/likelihood.py             all of it, about 25 minutes on one core
    python benchmarks/likelihood.py clothes     Fashion-MNIST, where there is a copy or a network
    python benchmarks/likelihood.py 'digits'    some rows
    python benchmarks/likelihood.py sharp       fewer images with 32 steps instead of 16, 3 minutes
    python benchmarks/likelihood.py paired      the same fewer images with 16 steps, 2 minutes
    python benchmarks/likelihood.py finest      twenty digits with 32 steps and with 64, 2 minutes
    python benchmarks/likelihood.py rank        drawn digits less dense than an empty page
    python benchmarks/likelihood.py rank-real   and real ones
"""
import math
import os
import time
from functools import partial

import torch

import common
from common import results
from diffnb.apps.checkpoints import load
from diffnb.apps.datasets import load_data
from diffnb.apps.generation import generate
from diffnb.kit.pictures import show_images
from diffnb.likelihood import bits_per_dim, dequantise, log_likelihood, velocity
from diffnb.schedules import karras, path

dims, way = 784, path(karras(sigma=(.002, 80)), 16)
note = partial(common.note, 'likelihood')


def judged(model, x, angles=way, probes=1, batch=50):
    "Bits per dimension of grey values 0 to 255, `(B,)`, and the seconds it took"
    g, begun = torch.Generator().manual_seed(0), time.time()
    parts = [dequantise(part, generator=g).float() for part in x.split(batch)]
    nats = [log_likelihood(model, part, angles, probes=probes, generator=g).nats for part in parts]
    return bits_per_dim(torch.cat(nats), dims), time.time() - begun


def row(bits, seconds, **more):
    se = bits.std().item()/math.sqrt(len(bits)) if len(bits) > 1 else None
    return dict(bits=bits.mean().item(), se=se, n=len(bits), seconds=round(seconds), **more)


def extremes(x, bits):
    "Of one heap of digits the least probable, and the most probable"
    order = bits.argsort(descending=True)
    folder = results/'likelihood'
    folder.mkdir(exist_ok=True)
    show_images(x[order[:24]]/127.5 - 1, cols=12).save(folder/'least.png', optimize=True)
    show_images(x[order[-24:].flip(0)]/127.5 - 1, cols=12).save(folder/'most.png', optimize=True)
    return dict(least=[round(b, 2) for b in bits[order[:24]].tolist()],
                most=[round(b, 2) for b in bits[order[-24:].flip(0)].tolist()])


def images(name):
    "Grey values 0 to 255, `(B, 1, 28, 28)` float"
    g = torch.Generator().manual_seed(0)
    sets = {'digits': ('mnist', 'test', 1000), 'training digits': ('mnist', 'train', 1000),
            'clothes': ('fashion_mnist', 'test', 250)}
    if name in sets:
        data, part, n = sets[name]
        x = load_data(data, part).x
        return x[torch.randperm(len(x), generator=g)[:n]].float()
    if name == 'photographs':
        root = os.environ.get('DIFFNB_DATA', '.')
        colour = load_data('cifar10/cifar10_exact.npz', root=root).x[:250].float()
        return colour[..., 2:30, 2:30].mean(1, keepdim=True).round()
    if name.startswith('drawn'):
        x = ((generate(load('mnist'), 250, seeds=0).clamp(-1, 1) + 1)*127.5).round()
        if name == 'drawn': return x
        return torch.where(x < 16, 0., x)                      # black where it is nearly black
    if name == 'noise': return torch.randint(0, 256, (100, 1, 28, 28), generator=g).float()
    shade = {'empty page': 0, 'grey page': 128, 'white page': 255}[name]
    return torch.full((50, 1, 28, 28), float(shade))


@torch.no_grad()
def bound(model, x, first=.0023, n=100, batch=100):
    """The variational bound in bits per dimension, from the loss by angle: angles even in log sin.
    And the angles, and the loss at each of them, the mean over all numbers of all items"""
    g = torch.Generator().manual_seed(0)
    lo = math.log(math.sin(first))
    phis = ((torch.arange(n).double() + .5)/n*-lo + lo).exp().asin()
    out, losses = [], torch.zeros(n).double()
    for part in x.split(batch):
        x0, error = dequantise(part, generator=g).float(), 0.
        for i, phi in enumerate(phis.tolist()):
            eps = torch.randn(x0.shape, generator=g)
            mixed = math.cos(phi)*x0 + math.sin(phi)*eps
            off = math.cos(phi)*eps - math.sin(phi)*x0 - velocity(model, mixed, phi)
            squares = off.double().square().flatten(1).sum(1)
            error = error + squares*-lo/n
            losses[i] += squares.sum()/dims/len(x)
        out.append(error + dims/2*(1 + math.log(2*math.pi*math.tan(first)**2)))
    return bits_per_dim(-torch.cat(out), dims), phis, losses


fewer = {'digits': 60, 'drawn': 30, 'drawn, cleaned': 30, 'empty page': 4, 'training digits': 60,
         'photographs': 6, 'noise': 4, 'grey page': 4, 'white page': 4}


def missing(section):
    "Names and numbers of images of the rows that a section does not have yet"
    there = common.noted('likelihood').get(section, {})
    return [(name, n) for name, n in fewer.items() if name not in there]


def sharp(model):
    "Fewer images, with twice the steps; rows that are there already are kept"
    for name, n in missing('sharp'):
        bits, seconds = judged(model, images(name)[:n], path(karras(sigma=(.002, 80)), 32))
        note('sharp', name, row(bits, seconds, steps=32, calls=128))


def paired(model):
    "The same images with 16 steps, so that the two can be compared"
    for name, n in missing('paired'):
        bits, seconds = judged(model, images(name)[:n])
        note('paired', name, row(bits, seconds, steps=16, calls=64))


def finest(model):
    "Whether 64 steps change what 32 say: the same images, the same probes"
    some = images('digits')[:20]
    few, many = (judged(model, some, path(karras(sigma=(.002, 80)), n))[0] for n in (32, 64))
    note('finest', 'digits', dict(
        n=len(some), bits_32=few.mean().item(), bits_64=many.mean().item(),
        more=(many - few).mean().item(), se=((many - few).std()/len(some)**.5).item()))


def rank(model, n=100, pages=8):
    "How many of the digits that the model draws are less dense than an empty page, with 32 steps"
    way = path(karras(sigma=(.002, 80)), 32)
    page, _ = judged(model, images('empty page')[:pages], way)
    drawn, seconds = judged(model, images('drawn')[:n], way)
    less = (drawn > page.mean()).sum().item()
    note('rank', 'empty page', dict(
        n=n, pages=pages, page=page.mean().item(), page_se=(page.std()/pages**.5).item(),
        less_dense=less, drawn=drawn.mean().item(), drawn_sd=drawn.std().item(), steps=32,
        seconds=round(seconds), each=[round(b, 3) for b in drawn.tolist()]))


def rank_real(model, n=100):
    "The same for digits of the test set, beside the page of `rank`"
    page = common.noted('likelihood')['rank']['empty page']['page']
    bits, seconds = judged(model, images('digits')[:n], path(karras(sigma=(.002, 80)), 32))
    note('rank', 'digits', dict(
        n=n, less_dense=(bits > page).sum().item(), digits=bits.mean().item(), steps=32,
        seconds=round(seconds), each=[round(b, 3) for b in bits.tolist()]))


names = ['digits', 'training digits', 'drawn', 'photographs', 'noise', 'empty page', 'grey page',
         'white page']


def main():
    p = common.parser(__doc__)
    p.add_argument('names', nargs='*')
    a = p.parse_args()
    torch.set_num_threads(1)
    model = load('mnist')
    for name in a.names or [*names, 'finer', 'bound']:
        if name == 'finer':
            for steps in 8, 16, 32:
                way = path(karras(sigma=(.002, 80)), steps)
                bits, seconds = judged(model, images('digits')[:100], way)
                note('steps', str(steps), row(bits, seconds, steps=steps, calls=4*steps))
        elif name == 'sharp': sharp(model)
        elif name == 'paired': paired(model)
        elif name == 'finest': finest(model)
        elif name == 'rank': rank(model)
        elif name == 'rank-real': rank_real(model)
        elif name == 'bound':
            begun = time.time()
            bits, phis, losses = bound(model, images('digits')[:300])
            by_angle = dict(phi=phis.tolist(), loss=losses.tolist())
            note('bound', 'digits',
                 row(bits, time.time() - begun, angles=100, first=.0023, by_angle=by_angle))
        else:
            x = images(name)
            bits, seconds = judged(model, x)
            note('rows', name, row(bits, seconds))
            if name == 'digits': note('extremes', 'digits', extremes(x, bits))


if __name__ == '__main__':
    main()
