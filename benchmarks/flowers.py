"""The long run of nbs/projects/flowers: train the network of the Keras DDIM example on flowers, run the grid of its R port (loss, what it is on, schedule), and note every
number in results/flowers.json as it comes, with pictures in results/flowers. A training that was ended goes on where it stood.

    python benchmarks/flowers.py --data NAME.npz        all of it
    python benchmarks/flowers.py reader                 the small network whose features the KID uses
    python benchmarks/flowers.py long 'as Keras'        trainings of the 1,950,627-parameter network, 32x32 (all without names)
    python benchmarks/flowers.py grid                   the small trainings, 16x16

--data is an .npz of labelled photographs in the folder of data sets (DIFFNB_DATA); without it: all 8,189 photographs of the 102 categories of Oxford flowers, which torchvision downloads.
"""
import argparse
import json
import os
import time
from functools import cache, partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import common
from common import results
from diffnb.angle import mix
from diffnb.apps.checkpoints import load
from diffnb.apps.datasets import hold_out, load_data
from diffnb.apps.runs import fit
from diffnb.data import Images, batches
from diffnb.denoiser import Denoiser, channel_stats
from diffnb.fld import kid, nearest, pixels
from diffnb.kit.pictures import show_images, to_float
from diffnb.samplers import ddim, dpmpp
from diffnb.schedules import cosine, linear_beta
from diffnb.apps.optim import Muon
from diffnb.apps.families import ResidualUNet
from diffnb.kit.curves import schedule

runs = results.parent/'runs'/'flowers'
keras = cosine(signal=(.95, .02))


@schedule
def clipped_linear(t, power=(.9025, .0004)):
    "DDPM's linear betas with alpha_bar cut off at both ends: (.9025, .0004) is signal rates of (.95, .02); the R port cuts the powers at (.95, .02)"
    hi, lo = (torch.tensor(p, dtype=torch.float64).sqrt().acos() for p in power)
    return linear_beta(t).clamp(hi, lo)


big = dict(widths=(32, 64, 96, 128), depth=2)                                               # 1,950,627 parameters
small = dict(widths=(32, 64, 96), depth=1)                                                  # for the grid
long = {
    'as Keras': dict(net=big, target='eps', schedule=keras, kind='l1', opt='adamw', lr=1e-3, lr_end=1e-5, decay=1e-4, ema=.999, size=32, steps=1000, seed=0),
    'ours':     dict(net=big, target='v', schedule=cosine, kind='mse', opt=Muon, lr=3e-3, lr_end=0., decay=None, ema=.998, size=32, steps=1000, seed=0),
}
schedules = {'cosine': keras, 'linear': clipped_linear}
base = dict(net=small, opt='adamw', lr=1e-3, lr_end=None, decay=1e-4, ema=.99, size=16, steps=200)
grid = {f'{loss} | {on} | {name} | {seed}': dict(base, kind=loss, target={'noise': 'eps', 'image': 'x0'}[on], schedule=s, seed=seed)
        for seed in (0, 1) for loss in ('mse', 'l1') for on in ('image', 'noise') for name, s in schedules.items()}
grid |= {f'l1 | noise | linear as it was | {seed}': dict(base, kind='l1', target='eps', schedule=clipped_linear(power=(.95, .02)), seed=seed) for seed in (0, 1)}


def note(a, section, name, row): common.note('flowers', section, name, row, a.out)


@cache
def flowers(fname, size):
    "(training part, held-out part): four fifths and a fifth, always the same"
    if fname: return tuple(load_data(fname, part, root=os.environ.get('DIFFNB_DATA'), size=size, valid=.2) for part in ('train', 'valid'))
    return hold_out(load_data('flowers102', 'all', size=size), .2)


class Reader(nn.Module):
    "Which flower? Its 128 features, the means of its last maps, are the measure of likeness"
    def __init__(self, classes):
        super().__init__()
        def layer(cin, cout): return nn.Sequential(nn.Conv2d(cin, cout, 3, padding=1), nn.BatchNorm2d(cout), nn.ReLU())
        self.body = nn.Sequential(layer(3, 32), layer(32, 32), nn.MaxPool2d(2), layer(32, 64), nn.MaxPool2d(2), layer(64, 128), layer(128, 128))
        self.head = nn.Linear(128, classes)
    def features(self, x): return self.body(x).mean((2, 3))
    def forward(self, x): return self.head(F.dropout(self.features(x), .3, self.training))


def shaken(x, g):
    "Each picture moved by up to three pixels, what is missing mirrored in"
    big = F.pad(x, (3,)*4, mode='reflect')
    at = torch.randint(0, 7, (len(x), 2), generator=g).tolist()
    return torch.stack([p[:, i:i + x.shape[2], j:j + x.shape[3]] for p, (i, j) in zip(big, at)])


@cache
def reader(a_data, folder, epochs):
    "The trained network, and how much of the held-out part it reads; from its file if it is there"
    train, held = flowers(a_data, 32)
    torch.manual_seed(0)
    net, f, g = Reader(int(train.y.max()) + 1), folder/'reader.pt', torch.Generator().manual_seed(0)
    if f.exists(): net.load_state_dict(torch.load(f, weights_only=True))
    else:
        steps = max(1, epochs*len(train.x)//48)
        opt = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=.05)
        fall = torch.optim.lr_scheduler.OneCycleLR(opt, 3e-3, total_steps=steps)
        for _, (x, y) in zip(range(steps), batches(train, 48, flip=True)):
            opt.zero_grad(); F.cross_entropy(net(shaken(x, g)), y, label_smoothing=.1).backward(); opt.step(); fall.step()
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(net.state_dict(), folder/f'{os.getpid()}.part')
        os.replace(folder/f'{os.getpid()}.part', f)
    net.eval()
    with torch.no_grad(): right = (net(to_float(held.x)).argmax(1) == held.y).float().mean().item()
    return net, right


def features(net, images):
    "128 numbers for each picture of any size, scaled to 32x32"
    x = images.x if isinstance(images, Images) else images
    x = to_float(x) if x.dtype == torch.uint8 else x
    with torch.no_grad(): return torch.cat([net.features(p if p.shape[-1] == 32 else F.interpolate(p, (32, 32), mode='bicubic', antialias=True).clamp(-1, 1)) for p in x.split(100)])


@torch.no_grad()
def errors_of(model, data, times=8):
    "Mean absolute error of the guess of noise and image, in standardised coordinates as the R port has it, at even times of its own schedule with fixed noise"
    x0 = model.encode(to_float(data.x)).repeat(times, 1, 1, 1)
    g = torch.Generator().manual_seed(0)
    u = ((torch.arange(len(x0)) + .5)/len(x0))[torch.randperm(len(x0), generator=g)]
    phi, eps = model.schedule(u), torch.randn(x0.shape, generator=g)
    parts = [(mix(x0[s], eps[s], phi[s]), phi[s], x0[s], eps[s]) for s in torch.arange(len(x0)).split(120)]
    guesses = [(model(x, p), c, e) for x, p, c, e in parts]
    return dict(noise_mae=sum((q.eps - e).abs().mean().item()*len(e) for q, _, e in guesses)/len(x0), image_mae=sum((q.x0 - c).abs().mean().item()*len(c) for q, c, _ in guesses)/len(x0))


def draw(model, sampler, calls, n, seed=0):
    "Pictures in [-1, 1] from fixed noise; and the seconds it took"
    return common.draw(model, sampler, calls, n, 60, lambda i: 1000*seed + i)


def trained(a, section, name, o):
    "The model of a run, and what its training cost; from its folder if it is done already"
    folder, o = a.folder/section/file_name(name), dict(o)
    if (folder/'done.json').exists(): return load(folder), json.loads((folder/'done.json').read_text())
    data = flowers(a.data, o['size'])[0]
    if a.steps: o['steps'] = a.steps
    torch.manual_seed(o['seed'])
    model, start, used = Denoiser(ResidualUNet(3, **o.pop('net')), o.pop('target'), o.pop('schedule'), **channel_stats(data)), time.time(), time.process_time()
    size, begun = o.pop('size'), any(folder.glob('state-*'))
    model = fit(model, data._replace(y=None), bs=64, flip=True, folder=folder, resume=begun, every=dict(valid=0, save=200, preview=400 if section == 'long' else 0), keep=2, **o)
    cost = dict(parameters=sum(p.numel() for p in model.parameters()), train=len(data.x), steps=o['steps'], batch=64, passes=round(o['steps']*64/len(data.x), 1), size=size, seed=o['seed'],
                lr=o['lr'], ema=o['ema'], resumed=begun, seconds=round(time.time() - start), cpu_seconds=round(time.process_time() - used), train_loss=sum(model.history.column('loss')[-50:])/50)
    (folder/'done.json').write_text(json.dumps(cost))
    return model, cost


def mirrored(data): return torch.cat([data.x, data.x.flip(-1)])


def file_name(name): return name.replace(' | ', '-').replace(', ', '-').replace(' ', '_')


def picture(a, name, x, cols, scale=2):
    (a.out/'flowers').mkdir(parents=True, exist_ok=True)
    show_images(x.clamp(-1, 1), cols=cols, scale=scale).quantize(96).save(a.out/'flowers'/f'{file_name(name)}.png', optimize=True)


def relatives(a, name, x, m, train, held):
    "The twelve drawn pictures that are nearest to a training photograph, alone and with these; and how near photographs come that were never trained on"
    order = m.train.argsort()[:12]
    picture(a, f'{name}, closest', x[order], 12)
    picture(a, f'{name}, nearest', torch.cat([x[order], to_float(mirrored(train)[m.index[order]])]), 12)      # holds photographs: not to be kept
    unseen = nearest(held.x, mirrored(train), mirrored(train), pixels).train
    marks = (('first', 0.), ('tenth', .1), ('half', .5))
    note(a, 'nearest', name, dict(to_train=m.train[order].tolist(), to_held=m.test[order].tolist(), n=len(m.train), unseen_n=len(unseen),
                                  **{k: m.train.quantile(q).item() for k, q in marks}, **{f'unseen_{k}': unseen.quantile(q).item() for k, q in marks}))


def run(a, section, name, o):
    "Train, draw with 5 and 20 calls, measure"
    model, cost = trained(a, section, name, o)
    train, held = flowers(a.data, o['size'])
    net, right = reader(a.data, a.folder, a.epochs)
    see, n = partial(features, net), a.n
    row = {**cost, **errors_of(model, held), 'n': n, 'held_out': len(held.x), 'features': f'a classifier trained on the {len(train.x)} training pictures, 128 numbers', 'reader_right': right}
    some = {}
    for calls, sampler in [(5, ddim), (20, ddim)] + [(20, dpmpp)]*(section == 'long'):
        key = f'{sampler.__name__} {calls}'
        some[key], seconds = draw(model, sampler, calls, n)
        k, k_train = kid(some[key], held.x, see), kid(some[key], train.x, see)
        row |= {key: dict(kid=k.value, se=k.se, kid_train=k_train.value, se_train=k_train.se, seconds=round(seconds, 1))}
    if section == 'long':
        x = some['ddim 20']
        m = nearest(x, mirrored(train), mirrored(held), pixels)
        row['memory'] = dict(share=m.share, expected=m.expected, to_train=m.train.median().item(), to_held=m.test.median().item(), copies=int((m.train < 1e-3).sum()))
        for key, y in some.items(): picture(a, f'{name}, {key}', y[:36], 12)
        relatives(a, name, x, m, train, held)
        picture(a, 'real', to_float(train.x[torch.arange(0, len(train.x), len(train.x)/36).long()]), 12)
    else: picture(a, f'grid {name}', some['ddim 20'][:16], 16)
    note(a, section, name, row)


def floor(a):
    "What the distance says of real pictures: the two parts of the set against each other, at both sizes; and of noise"
    net, right = reader(a.data, a.folder, a.epochs)
    for size in (32, 16):
        train, held = flowers(a.data, size)
        see, noise = partial(features, net), torch.randn(300, 3, size, size, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
        row = {}
        for name, x, y in (('noise', noise, held.x), ('training pictures against held-out', train.x, held.x)):
            k = kid(x, y, see)
            row[name] = dict(kid=k.value, se=k.se, n=len(x), against=len(y))
        note(a, 'floor', str(size), {**row, 'reader_right': right, 'held_out': len(held.x), 'chance': 1/(int(train.y.max()) + 1)})


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('verb', nargs='?', choices=['reader', 'long', 'grid'], help='all when not given')
    p.add_argument('names', nargs='*', help='rows; all when not given')
    p.add_argument('--data', help='an .npz of labelled photographs, in DIFFNB_DATA; Oxford flowers 102 when not given')
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
        if a.verb in (None, section) and (not a.names or name in a.names): run(a, section, name, table[name])


if __name__ == '__main__': main()
