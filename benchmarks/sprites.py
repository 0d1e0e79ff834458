"""The long run of nbs/projects/sprites: train on the DawnLike sprites with the original's settings
and with ours, draw, measure, and note every number in results/sprites.json as it comes, with
pictures in results/sprites. A training that was ended goes on where it stood.

    python benchmarks/sprites.py                        all of it
    python benchmarks/sprites.py 'ours' 'ours again'    some trainings
    python benchmarks/sprites.py ours --steps 20000     38 minutes; results/sprites-long.json
                                                        and results/sprites-long are from it
    python benchmarks/sprites.py --ship FILE            write diffnb/sprites.safetensors, in half
                                                        precision and with its card
    python benchmarks/sprites.py mnist cifar10          a minute each with other pictures

Needs sprites_dawnlike/dawnlike_16x16.npz in DIFFNB_DATA; the others MNIST as torchvision has it
and cifar10/cifar10_exact.npz there. DawnLike (v1.81) is by DragonDePlatino, with the palette of
DawnBringer, CC BY 4.0.
"""
import math
import os
import re
import time
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch

import common
from common import results
from diffnb.apps.checkpoints import load, save
from diffnb.apps.datasets import load_data
from diffnb.apps.runs import fit
from diffnb.data import Images
from diffnb.denoiser import Denoiser
from diffnb.fld import FLD, nearest
from diffnb.kit.pictures import show_images, to_float
from diffnb.samplers import ddim, ddpm, dpmpp
from diffnb.schedules import cosine, from_betas
from diffnb.apps.optim import Muon
from diffnb.unet import UNet
from diffnb.kit.curves import schedule
from readers import Reader, in_parts, memory, mirrored, moved, quantiles, taught

runs, data_file = results.parent/'runs'/'sprites', 'sprites_dawnlike/dawnlike_16x16.npz'
net = dict(width=32, mults=(1, 2, 2), classes=5)            # 626,371 parameters

# The original's table of T + 1: its first entry holds two factors
beta = [1e-3 + (.02 - 1e-3)*t/500 for t in range(501)]
old = from_betas(betas=[1 - (1 - beta[0])*(1 - beta[1]), *beta[2:]])


@schedule
def entries(t):
    "The angles of the original's table and none between them: its step is a whole number, 1 to 500"
    return old((500*t).ceil().clamp(min=1)/500)


def falling(passes, bs, items, lr=3e-3):
    "Adam as the original has it: after each pass through the items the rate falls by lr/passes"
    def make(weights, **_):
        opt = torch.optim.Adam(weights, lr)
        def fall(opt, *_):
            done = int(next(iter(opt.state.values()))['step'])*bs//items
            for group in opt.param_groups: group['lr'] = lr*(1 - done/passes)
        opt.register_step_post_hook(fall)
        return opt
    return make


modern = dict(target='v', schedule=cosine, opt=Muon, lr=3e-3, lr_end=0., ema=.998, flip=True, bs=64)
trainings = {                                               # lr=None: the optimiser's own
    'as the original': dict(
        target='eps', schedule=entries, sample_schedule=old, opt=falling, lr=None, ema=0.,
        flip=False, bs=100, clip=math.inf, stratified=False, seed=42),
    'ours':            dict(modern, seed=0),
    'ours again':      dict(modern, seed=1),
}
fresh = partial(dpmpp, eta=1.)
rows = {                             # name: (training, sampler, calls, guidance, how many)
    'original, DDPM 500':  ('as the original', partial(ddpm, var='large'), 500, 1., 250),
    'original, DDIM 25':   ('as the original', ddim, 25, 1., 500),
    'DDPM 100':            ('ours', ddpm, 100, 1., 250),
    'DDIM 25':             ('ours', ddim, 25, 1., 500),
    **{f'DPM++ 25, w {w:g}': ('ours', fresh, 25, w, 500) for w in (0., 1., 1.5, 2., 4.)},
    'DDIM 25, again':      ('ours again', ddim, 25, 1., 500),
    **{f'DPM++ 25, w {w:g}, again': ('ours again', fresh, 25, w, 500) for w in (1., 2.)},
}

others = {'mnist': ('mnist', 28), 'cifar10': ('cifar10/cifar10_exact.npz', 32)}    # (set, side)


def note(a, section, name, row): common.note('sprites', section, name, row, a.out)


@cache
def sprites():
    """(training part, held-out part). Two frames of one animation lie in sheets ...0 and ...1 at
    the same place: they stay together"""
    root = Path(os.environ.get('DIFFNB_DATA', '.'))
    data, raw = load_data(data_file, root=root), np.load(root/data_file, allow_pickle=False)
    sheets = [re.sub('[0-9]+$', '', name) for name in raw['sheet_names']]
    who = [(sheets[s], *cell) for s, cell in zip(raw['sheet'], raw['cell'].tolist())]
    each = sorted(set(who))
    order = np.random.RandomState(0).permutation(len(each))
    held = {each[i] for i in order[:len(each)//5]}
    out = torch.tensor([w in held for w in who])
    return tuple(Images(data.x[part], data.y[part], data.names) for part in (~out, out))


def shaken(x, g):
    "Each picture moved by up to two pixels; the edge is white"
    return moved(x, 2, g, value=1.)


@cache
def reader(folder, steps):
    "The classifier whose 64 features are the measure of likeness"
    train, _ = sprites()
    torch.manual_seed(0)
    net = Reader(5, ((32, 32), (64, 64), (64,)))
    return taught(net, folder/'reader.safetensors', train, steps, 64, shaken)


def seen(function, images): return in_parts(function, images, 200)


def colours(images): return seen(lambda x: (x + 1).flatten(1)/2, images)


def agreement(net, x, y):
    "How many are read as what they should be: of all, its standard error, and class by class"
    right = seen(net, x).argmax(1).eq(y).double()
    share = right.mean()
    return dict(agreement=share.item(), agreement_se=(share*(1 - share)/len(y)).sqrt().item(),
                by_class=[right[y == k].mean().item() for k in range(5)])


def train_one(a, name, begun):
    "The model of a run, and what its training cost"
    o, (train, _) = dict(trainings[name]), sprites()
    bs, steps = o['bs'], a.steps*64//o['bs']                # all see equally many pictures
    passes = steps*bs/len(train.x)
    if o['opt'] is falling: o['opt'] = falling(math.ceil(passes), bs, len(train.x))
    torch.manual_seed(o['seed'])
    levels = o.pop('schedule'), o.pop('sample_schedule', None)
    model, start = Denoiser(UNet(3, **net), o.pop('target'), *levels), time.time()
    used = time.process_time()
    model = fit(model, train, steps=steps, label_dropout=.1, folder=a.folder/file_name(name),
                resume=begun, every=dict(valid=0, save=500), keep=1, **o)
    rates = model.history.column('lr')
    return model, dict(
        training=name, parameters=common.parameters(model), train=len(train.x), steps=steps,
        batch=bs, passes=round(passes, 1), seed=o['seed'], lr=max(rates), lr_last=rates[-1],
        flip=o['flip'], resumed=begun, seconds=round(time.time() - start),
        cpu_seconds=round(time.process_time() - used),
        train_loss=sum(model.history.column('loss')[-100:])/100)


def trained(a, name):
    "The same, from its folder if it is done already"
    return common.train_once(a.folder/file_name(name), partial(train_one, a, name))


def draw(model, y, sampler, calls, w, seed=0):
    "Sprites of the labels y in [-1, 1], from fixed noise; and the seconds it took"
    def number(i): return 1000*seed + i//125
    return common.draw(model, sampler, calls, len(y), 125, number, number, y, w)


def asked(n):
    "Labels as often as in the training part, shuffled"
    train, _ = sprites()
    even = torch.linspace(0, len(train.y) - 1, n).round().long()
    mixed = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    return train.y.sort().values[even][mixed]


def file_name(name): return name.replace(', ', '-').replace(' ', '_')


def picture(a, name, x, cols):
    image = show_images(x.clamp(-1, 1), cols=cols, scale=2)
    common.keep_picture(a.out/'sprites'/f'{file_name(name)}.png', image, 96)


def by_class(x, y, k=12): return torch.cat([x[y == c][:k] for c in range(5)])


def real(a):
    "What the numbers say of real sprites"
    train, held = sprites()
    net = reader(a.folder, a.reader)
    fld = FLD(held, features=partial(seen, net.features), real=train)
    levels = {str(n): v for n, v in fld.ref.floor.tolist()}
    note(a, 'real', 'held out', dict(n=len(held.x), train=len(train.x), noise=fld.ref.noise,
                                     floor=levels, **agreement(net, held.x, held.y)))
    note(a, 'real', 'training', dict(n=len(train.x), **agreement(net, train.x, train.y)))
    picture(a, 'real', to_float(by_class(train.x[::3], train.y[::3])), 12)
    return net, fld


def relatives(a, name, x, m):
    """Twelve drawn sprites, from near to far from the training part, alone and with what they are
    near to; and how near real sprites come that were never trained on"""
    train, held = sprites()
    some, real = m.train.argsort()[10::20][:12], mirrored(train)
    picture(a, 'relatives', x[some], 12)
    # This one holds real sprites: not to be kept
    picture(a, 'nearest', torch.cat([x[some], to_float(real[m.index[some]])]), 12)
    unseen = nearest(held.x, real, real, colours).train
    note(a, 'nearest', name, dict(
        to_train=m.train[some].tolist(), to_held=m.test[some].tolist(), n=len(m.train),
        unseen_n=len(unseen), **quantiles(m.train), **quantiles(unseen, 'unseen_')))


def measure(a, name, net, fld):
    "Draw, measure, note, keep a picture"
    training, sampler, calls, w, n = rows[name]
    model, cost = trained(a, training)
    y = asked(min(n, a.n))
    x, seconds = draw(model, y, sampler, calls, w)
    s, (train, held) = fld(x), sprites()
    m = nearest(x[:250], mirrored(train), mirrored(held), colours)
    features = f'a classifier trained on the {len(train.x)} training sprites, 64 numbers'
    note(a, 'table', name, {
        **cost, 'calls': calls, 'w': w, 'n': len(x), 'sampling_seed': 0,
        'sampling_seconds': round(seconds), **agreement(net, x, y), 'fld': s.value, 'se': s.se,
        'wobble': s.reference_error, 'debiased': s.debiased, 'floor': s.floor,
        'percent': s.percent, 'features': features, 'reference': f'{len(held.x)} held-out sprites',
        'memory': dict(n=len(m.train), **memory(m, copy=.5))})
    picture(a, name, by_class(x, y), 12)
    if name == 'DPM++ 25, w 1':
        relatives(a, name, x, m)
        twice = torch.arange(5).repeat_interleave(2)
        scales = [draw(model, twice, fresh, 25, w)[0] for w in (0., 1., 2., 4., 8.)]
        picture(a, 'scales', torch.cat(scales), 10)


def other(a, name):
    "A minute with another set: `glimpse` of the notebook, fifteen times as long"
    fname, size = others[name]
    train, held = (load_data(fname, part, root=os.environ.get('DIFFNB_DATA'), size=size, n=n,
                             valid=.1, download=False)
                   for part, n in (('train', 5000), ('valid', 500)))
    torch.manual_seed(0)
    net = UNet(train.x.shape[1], width=16, mults=(1, 2, 2), classes=10)
    model = Denoiser(net, target='v', schedule=cosine)
    start, used = time.time(), time.process_time()
    steps = min(600, a.steps)
    model = fit(model, train, steps=steps, bs=32, opt='muon', lr=5e-3, ema=.98, label_dropout=.1,
                valid=held, every=dict(valid=steps))
    cost = dict(seconds=round(time.time() - start),
                cpu_seconds=round(time.process_time() - used))
    losses = model.history.column('loss')
    last = losses[-100:]
    def zero(i): return 0
    x, _ = common.draw(model, fresh, 25, 20, 20, zero, zero, torch.arange(10).repeat(2), 3.)
    picture(a, f'other {name}', x, 10)
    note(a, 'others', name, dict(
        parameters=common.parameters(model), shape=list(train.x.shape[1:]), train=len(train.x),
        held_out=len(held.x), steps=steps, batch=32, seed=0, first_loss=losses[0],
        train_loss=sum(last)/len(last), valid=model.history.column('valid')[-1], **cost))


def ship(fname):
    "The model that comes with the package"
    model = load(fname)
    model.names = ['person', 'creature', 'food', 'gear', 'item']
    says = ('Sprites, 16x16, colour, on white, in five classes. 626,371 parameters; a tenth of the '
            'labels was withheld, so it takes guidance.')
    data = ('DawnLike v1.81 by DragonDePlatino, with the palette of DawnBringer, CC BY 4.0; 1,675 '
            'of its sprites')
    use = ('teaching; 87 to 92 % of what it draws is nearer to a training sprite than to a '
           'held-out one, where 80 % is chance')
    card = dict(card=says, data=data, recipe='benchmarks/sprites.py ours --steps 20000',
                steps=20_000, seed=0, use=use,
                license='Apache-2.0; credit DragonDePlatino and DawnBringer')
    print(save(results.parent/'diffnb'/'sprites.safetensors', model, torch.float16, **card))


def main():
    p = common.parser(__doc__)
    p.add_argument('names', nargs='*',
                   help='trainings, or mnist, cifar10; all trainings when not given')
    p.add_argument('--steps', type=int, default=1500,
                   help='of each training, counted in batches of 64 pictures')
    p.add_argument('--reader', type=int, default=1000, help='steps of the classifier')
    p.add_argument('--n', type=int, default=1000, help='at most so many sprites for a number')
    p.add_argument('--folder', type=Path, default=runs, help='where trainings are kept')
    p.add_argument('--out', type=Path, default=results)
    p.add_argument('--threads', type=int, default=1)
    p.add_argument('--ship', metavar='FILE', help='the model of a run, to go with the package')
    a = p.parse_args()
    if a.ship: return ship(a.ship)
    torch.set_num_threads(a.threads)
    for name in others:
        if name in a.names: other(a, name)
    chosen = [k for k in a.names or ('ours', 'as the original', 'ours again') if k not in others]
    if not chosen: return
    net, fld = real(a)
    for training in chosen:
        for name, (of, _, calls, *_) in sorted(rows.items(), key=lambda r: r[1][2]):
            if of == training: measure(a, name, net, fld)


if __name__ == '__main__': main()
