"""The long run of nbs/projects/flowers: train the network of the Keras DDIM example on flowers, run
the grid of its R port (loss, what it is on, schedule), and note every number in
results/flowers.json as it comes, with pictures in results/flowers. A training that was ended goes
on where it stood.

    python benchmarks/flowers.py --data NAME.npz    all of it
    python benchmarks/flowers.py reader             the small network whose features the KID uses
    python benchmarks/flowers.py long 'as Keras'    trainings of the 1,950,627-parameter network,
                                                    32x32 (all without names)
    python benchmarks/flowers.py grid               the small trainings, 16x16
    python benchmarks/flowers.py crops              the course's U-Net, longer, on crops of 32x32,
                                                    measured on the way

--data is an .npz of labelled photographs in the folder of data sets (DIFFNB_DATA); without it: all
8,189 photographs of the 102 categories of Oxford flowers, which torchvision downloads.
"""
import os
import time
from functools import cache, partial
from pathlib import Path

import torch
import torch.nn.functional as F

import common
from common import results
from diffnb.angle import mix
from diffnb.apps.checkpoints import load
from diffnb.apps.datasets import hold_out, load_data
from diffnb.apps.runs import fit
from diffnb.data import batches
from diffnb.denoiser import Denoiser, channel_stats
from diffnb.fld import kid, nearest, pixels
from diffnb.kit.pictures import show_images, to_float
from diffnb.samplers import ddim, dpmpp
from diffnb.schedules import cosine, linear_beta
from diffnb.apps.optim import Muon
from diffnb.apps.families import ResidualUNet
from diffnb.kit.curves import schedule
from diffnb.unet import UNet
from readers import (
    Reader, accuracy, in_parts, memory, mirrored, moved, quantiles, taught)

runs = results.parent/'runs'/'flowers'
keras = cosine(signal=(.95, .02))


@schedule
def clipped_linear(t, power=(.9025, .0004)):
    """DDPM's linear betas with alpha_bar cut off at both ends: (.9025, .0004) is signal rates of
    (.95, .02); the R port cuts the powers at (.95, .02)"""
    hi, lo = (torch.tensor(p, dtype=torch.float64).sqrt().acos() for p in power)
    return linear_beta(t).clamp(hi, lo)


big = dict(widths=(32, 64, 96, 128), depth=2)               # 1,950,627 parameters
small = dict(widths=(32, 64, 96), depth=1)                  # for the grid
both = dict(net=big, size=32, steps=1000, seed=0)
long = {
    'as Keras': dict(both, target='eps', schedule=keras, kind='l1', opt='adamw', lr=1e-3,
                     lr_end=1e-5, decay=1e-4, ema=.999),
    'ours':     dict(both, target='v', schedule=cosine, kind='mse', opt=Muon, lr=3e-3,
                     lr_end=0., decay=None, ema=.998),
}
schedules = {'cosine': keras, 'linear': clipped_linear}
targets = {'image': 'x0', 'noise': 'eps'}
base = dict(net=small, opt='adamw', lr=1e-3, lr_end=None, decay=1e-4, ema=.99, size=16, steps=200)
grid = {f'{loss} | {on} | {name} | {seed}':
        dict(base, kind=loss, target=target, schedule=curve, seed=seed)
        for seed in (0, 1) for loss in ('mse', 'l1') for on, target in targets.items()
        for name, curve in schedules.items()}
as_it_was = dict(base, kind='l1', target='eps', schedule=clipped_linear(power=(.95, .02)))
grid |= {f'l1 | noise | linear as it was | {seed}': dict(as_it_was, seed=seed) for seed in (0, 1)}

longer = dict(steps=5000, bs=64, opt=Muon, lr=3e-3, lr_end=0., ema=.999, seed=0)
side, margin = 32, 4                                        # crops of 32 pixels out of 36


def note(a, section, name, row): common.note('flowers', section, name, row, a.out)


@cache
def flowers(fname, size):
    "(training part, held-out part): four fifths and a fifth, always the same"
    if fname:
        root = os.environ.get('DIFFNB_DATA')
        return tuple(load_data(fname, part, root=root, size=size, valid=.2)
                     for part in ('train', 'valid'))
    return hold_out(load_data('flowers102', 'all', size=size), .2)


def shaken(x, g):
    "Each picture moved by up to three pixels, what is missing mirrored in"
    return moved(x, 3, g, mode='reflect')


@cache
def reader(a_data, folder, epochs):
    "The classifier whose 128 features are the measure of likeness, and how well it reads"
    train, held = flowers(a_data, 32)
    torch.manual_seed(0)
    net = Reader(int(train.y.max()) + 1, ((32, 32), (64,), (128, 128)))
    steps = max(1, epochs*len(train.x)//48)
    taught(net, folder/'reader.safetensors', train, steps, 48, shaken)
    return net, accuracy(net, held)


def features(net, images):
    "128 numbers for each picture of any size, scaled to 32x32"
    def scaled(x):
        if x.shape[-1] == 32: return x
        return F.interpolate(x, (32, 32), mode='bicubic', antialias=True).clamp(-1, 1)
    return in_parts(lambda x: net.features(scaled(x)), images, 100)


@torch.no_grad()
def errors_of(model, data, times=8):
    """Mean absolute error of the guess of noise and image, in standardised coordinates as the R
    port has it, at even times of its own schedule with fixed noise"""
    x0 = model.encode(to_float(data.x)).repeat(times, 1, 1, 1)
    g = torch.Generator().manual_seed(0)
    u = ((torch.arange(len(x0)) + .5)/len(x0))[torch.randperm(len(x0), generator=g)]
    phi, eps = model.schedule(u), torch.randn(x0.shape, generator=g)
    noise = image = 0.
    for s in torch.arange(len(x0)).split(120):
        guess = model(mix(x0[s], eps[s], phi[s]), phi[s])
        noise += (guess.eps - eps[s]).abs().mean().item()*len(s)
        image += (guess.x0 - x0[s]).abs().mean().item()*len(s)
    return dict(noise_mae=noise/len(x0), image_mae=image/len(x0))


def draw(model, sampler, calls, n, seed=0):
    "Pictures in [-1, 1] from fixed noise; and the seconds it took"
    return common.draw(model, sampler, calls, n, 60, lambda i: 1000*seed + i)


def train_one(a, section, name, o, begun):
    "The model of a run, and what its training cost"
    o = dict(o)
    if a.steps: o['steps'] = a.steps
    net, target, curve, size = (o.pop(k) for k in ('net', 'target', 'schedule', 'size'))
    data = flowers(a.data, size)[0]
    torch.manual_seed(o['seed'])
    model = Denoiser(ResidualUNet(3, **net), target, curve, **channel_stats(data))
    start, used = time.time(), time.process_time()
    every = dict(valid=0, save=200, preview=400 if section == 'long' else 0)
    model = fit(model, data._replace(y=None), bs=64, flip=True, resume=begun, every=every, keep=2,
                folder=a.folder/section/file_name(name), **o)
    return model, dict(
        parameters=common.parameters(model), train=len(data.x), steps=o['steps'], batch=64,
        passes=round(o['steps']*64/len(data.x), 1), size=size, seed=o['seed'], lr=o['lr'],
        ema=o['ema'], resumed=begun, seconds=round(time.time() - start),
        cpu_seconds=round(time.process_time() - used),
        train_loss=sum(model.history.column('loss')[-50:])/50)


def trained(a, section, name, o):
    "The same, from its folder if it is done already"
    folder = a.folder/section/file_name(name)
    return common.train_once(folder, partial(train_one, a, section, name, o))


def file_name(name): return name.replace(' | ', '-').replace(', ', '-').replace(' ', '_')


def picture(a, name, x, cols, scale=2):
    image = show_images(x.clamp(-1, 1), cols=cols, scale=scale)
    common.keep_picture(a.out/'flowers'/f'{file_name(name)}.png', image, 96)


def relatives(a, name, x, m, train, held):
    """The twelve drawn pictures that are nearest to a training photograph, alone and with these;
    and how near photographs come that were never trained on"""
    order, real = m.train.argsort()[:12], mirrored(train)
    picture(a, f'{name}, closest', x[order], 12)
    # This one holds photographs: not to be kept
    picture(a, f'{name}, nearest', torch.cat([x[order], to_float(real[m.index[order]])]), 12)
    unseen = nearest(held.x, real, real, pixels).train
    note(a, 'nearest', name, dict(
        to_train=m.train[order].tolist(), to_held=m.test[order].tolist(), n=len(m.train),
        unseen_n=len(unseen), **quantiles(m.train), **quantiles(unseen, 'unseen_')))


def run(a, section, name, o):
    "Train, draw with 5 and 20 calls, measure"
    model, cost = trained(a, section, name, o)
    train, held = flowers(a.data, o['size'])
    net, right = reader(a.data, a.folder, a.epochs)
    see, n = partial(features, net), a.n
    words = f'a classifier trained on the {len(train.x)} training pictures, 128 numbers'
    row = {**cost, **errors_of(model, held), 'n': n, 'held_out': len(held.x), 'features': words,
           'reader_right': right}
    some = {}
    for calls, sampler in [(5, ddim), (20, ddim)] + [(20, dpmpp)]*(section == 'long'):
        key = f'{sampler.__name__} {calls}'
        some[key], seconds = draw(model, sampler, calls, n)
        k, k_train = kid(some[key], held.x, see), kid(some[key], train.x, see)
        row[key] = dict(kid=k.value, se=k.se, kid_train=k_train.value, se_train=k_train.se,
                        seconds=round(seconds, 1))
    if section == 'long':
        x = some['ddim 20']
        m = nearest(x, mirrored(train), mirrored(held), pixels)
        row['memory'] = memory(m, copy=1e-3)
        for key, y in some.items(): picture(a, f'{name}, {key}', y[:36], 12)
        relatives(a, name, x, m, train, held)
        even = torch.arange(0, len(train.x), len(train.x)/36).long()
        picture(a, 'real', to_float(train.x[even]), 12)
    else: picture(a, f'grid {name}', some['ddim 20'][:16], 16)
    note(a, section, name, row)


def windows(x):
    "All crops of `(N, 3, 36, 36)` pictures, in the mirror as well: `(50N, 3, 32, 32)`"
    both_ways = torch.cat([x, x.flip(-1)])
    return torch.cat([both_ways[..., i:i + side, j:j + side]
                      for i in range(margin + 1) for j in range(margin + 1)])


def middle(x): return x[..., margin//2:margin//2 + side, margin//2:margin//2 + side]


def cropped(x, bs, seed):
    """Batches for `fit`, from number `start` on: mirrored by a coin, cut out where two dice say.
    Batch i depends on (seed, i) alone"""
    def begin(start):
        for i, (pictures, _) in enumerate(batches(x, bs, seed, start, flip=True), start):
            g = torch.Generator().manual_seed(10**6*seed + i)
            at = torch.randint(margin + 1, (len(pictures), 2), generator=g).tolist()
            yield torch.stack([p[:, i:i + side, j:j + side] for p, (i, j) in zip(pictures, at)])
    return begin


def train_crops(a, begun):
    "The model of the long run, and what its training cost"
    o = dict(longer, steps=a.steps or longer['steps'])
    x = flowers(a.data, side + margin)[0].x
    torch.manual_seed(o['seed'])
    model = Denoiser(UNet(3, width=32), 'v', cosine, **channel_stats(windows(x)))
    start, used, bs = time.time(), time.process_time(), o.pop('bs')
    model = fit(model, cropped(x, bs, o['seed']), folder=a.folder/'crops', resume=begun, keep=20,
                every=dict(valid=0, save=max(1, o['steps']//10), preview=0), **o)
    return model, dict(
        parameters=common.parameters(model), train=len(x), steps=o['steps'], batch=bs, size=side,
        passes=round(o['steps']*bs/len(x), 1), seed=o['seed'], lr=o['lr'], ema=o['ema'],
        resumed=begun, seconds=round(time.time() - start),
        cpu_seconds=round(time.process_time() - used),
        train_loss=sum(model.history.column('loss')[-50:])/50)


def with_crops(a):
    "Train, then draw and measure with the averages after so many steps"
    _, cost = common.train_once(a.folder/'crops', partial(train_crops, a))
    train, held = (part.x for part in flowers(a.data, side + margin))
    net, right = reader(a.data, a.folder, a.epochs)
    see = partial(features, net)
    k = kid(middle(train), middle(held), see)
    unseen = nearest(middle(held), windows(train), windows(held), pixels).train
    note(a, 'crops', 'real', dict(kid=k.value, se=k.se, n=len(train), held_out=len(held),
                                 reader_right=right, **quantiles(unseen, 'unseen_')))
    for part in (1, 2, 4, 7, 10):
        steps = cost['steps']*part//10
        model = load(a.folder/'crops'/'checkpoints'/f'{steps:08}.safetensors')
        row = {**cost, 'after': steps, 'n': a.n}
        for name, sampler in dict(ddim=ddim, dpmpp=dpmpp, fresh=partial(dpmpp, eta=1.)).items():
            x, seconds = draw(model, sampler, 20, a.n)
            k, k_train = (kid(x, middle(real), see) for real in (held, train))
            m = nearest(x, windows(train), windows(held), pixels)
            row[name] = dict(kid=k.value, se=k.se, kid_train=k_train.value, se_train=k_train.se,
                             seconds=round(seconds, 1), **memory(m, copy=1e-3),
                             **quantiles(m.train))
            picture(a, f'crops, {steps}, {name}', x[:36], 12)
            if part == 10:                          # with photographs: not to be kept
                order = m.train.argsort()[:12]
                near = to_float(windows(train)[m.index[order]])
                picture(a, f'crops, {name}, nearest', torch.cat([x[order], near]), 12)
                picture(a, f'crops, {name}, closest', x[order], 12)
        note(a, 'crops', str(steps), row)


def floor(a):
    """What the distance says of real pictures: the two parts of the set against each other, at both
    sizes; and of noise"""
    net, right = reader(a.data, a.folder, a.epochs)
    for size in (32, 16):
        train, held = flowers(a.data, size)
        g = torch.Generator().manual_seed(0)
        noise = torch.randn(300, 3, size, size, generator=g).clamp(-1, 1)
        row = {}
        for name, x in (('noise', noise), ('training pictures against held-out', train.x)):
            k = kid(x, held.x, partial(features, net))
            row[name] = dict(kid=k.value, se=k.se, n=len(x), against=len(held.x))
        note(a, 'floor', str(size), {**row, 'reader_right': right, 'held_out': len(held.x),
                                     'chance': 1/(int(train.y.max()) + 1)})


def main():
    p = common.parser(__doc__)
    p.add_argument('verb', nargs='?', choices=['reader', 'long', 'grid', 'crops'],
                   help='all when not given')
    p.add_argument('names', nargs='*', help='rows; all when not given')
    p.add_argument('--data', help='an .npz of labelled photographs, in DIFFNB_DATA; '
                                  'Oxford flowers 102 when not given')
    p.add_argument('--n', type=int, default=300, help='pictures drawn for each number')
    p.add_argument('--steps', type=int, help='fewer, to try it')
    p.add_argument('--epochs', type=int, default=120, help='of the reader')
    p.add_argument('--folder', type=Path, default=runs, help='where trainings are kept')
    p.add_argument('--out', type=Path, default=results)
    p.add_argument('--threads', type=int, default=1)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    plan = [('long', 'as Keras', long), *(('grid', k, grid) for k in grid), ('long', 'ours', long)]
    if a.verb in (None, 'reader'): floor(a)
    for section, name, table in plan:
        if a.verb in (None, section) and (not a.names or name in a.names):
            run(a, section, name, table[name])
    if a.verb in (None, 'crops'): with_crops(a)


if __name__ == '__main__': main()
