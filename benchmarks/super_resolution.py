"""The long run of nbs/projects/super_resolution: train a network that sees 7x7 pixels and draws
28x28, enlarge MNIST's 10,000 test digits in several ways, and note every number in
results/super_resolution.json as it comes, with pictures in results/super_resolution. A training
that was ended goes on where it stood. Needs MNIST in DIFFNB_DATA, or a network.

    python benchmarks/super_resolution.py          trains, then measures
    python benchmarks/super_resolution.py train
    python benchmarks/super_resolution.py table    measures only
"""
import time
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

import common
from common import about, results
from diffnb.apps.checkpoints import load
from diffnb.apps.datasets import load_data
from diffnb.apps.enlarger import Enlarger
from diffnb.apps.runs import fit
from diffnb.fld import FLD, per_class
from diffnb.kit.pictures import show_images, to_float
from diffnb.samplers import ddim, ddpm, dpmpp, last, seeded
from diffnb.schedules import path
from diffnb.training import validate
from diffnb.apps.families import WithImage
from diffnb.unet import UNet
from diffnb.editing import data_consistency, repaint_path, shrink
from diffnb.guidance import given, project

runs = results.parent/'runs'/'super_resolution'
k = 4


def note(a, name, row): common.note('super_resolution', 'table', name, row, a.out)


def train_one(a, begun):
    "The network of the table, and what its training cost"
    data, test = load_data('mnist'), load_data('mnist', 'test', n=2000)
    torch.manual_seed(0)
    model, start = Enlarger(WithImage(UNet(1, extra=1)), k=k), time.time()
    model = fit(model, data._replace(y=None), epochs=a.epochs, bs=128, opt='muon', lr=3e-3,
                ema=.998, folder=a.folder, resume=begun, every=dict(save=500), keep=1)
    speed = sorted(model.history.column('speed'))
    return model, {
        **about(), 'parameters': common.parameters(model), 'epochs': a.epochs, 'batch': 128,
        'opt': 'muon', 'lr': 3e-3, 'seed': 0, 'resumed': begun,
        'seconds': round(time.time() - start), 'images_per_s': round(speed[len(speed)//2]),
        'valid_loss': validate(model, test._replace(y=None), n=2000)[0].mean().item()}


def trained(a):
    "The same, from its folder if it is done already"
    return common.train_once(a.folder, partial(train_one, a))


def plain(a):
    "A model that was never trained to enlarge: the one that comes with the package, or a file"
    return load(a.plain or 'mnist')


def by_sampler(denoise, angles, low, first, sampler=dpmpp):
    "Pictures for the given small ones, from fixed noise: item i has the seed first + i"
    randn = seeded(range(first, first + len(low)))
    x = randn((len(low), 1, 28, 28))
    if sampler is ddpm: sampler = partial(ddpm, randn=randn)
    return last(sampler(denoise(low), x, angles)).x


def ways(a, calls=20):
    "Name -> (a function from small pictures and the first seed to large ones, calls, draws?)"
    model, free = trained(a)[0], plain(a)
    angles, walk = path(model.schedule, calls), path(free.schedule, calls)
    long = repaint_path(walk, 5, 5, ddpm)
    def told(low): return given(model, low)
    def matched(low): return project(told(low), data_consistency(low, k))
    def fixed(low): return project(free, data_consistency(low, k))
    def nearest(low, first): return F.interpolate(low, scale_factor=k)
    def bicubic(low, first): return F.interpolate(low, scale_factor=k, mode='bicubic')
    def by(*how, **more): return partial(by_sampler, *how, **more)
    return {'nearest': (nearest, 0, False),
            'bicubic': (bicubic, 0, False),
            'trained, DPM++': (by(told, angles), calls, True),
            'trained, DDIM': (by(told, angles, sampler=ddim), calls, True),
            'trained, DPM++, matched': (by(matched, angles), calls, True),
            'training-free, DPM++': (by(fixed, walk), calls, True),
            'training-free, repaint_path': (by(fixed, long, sampler=ddpm), len(long) - 1, True)}


@torch.no_grad()
def enlarged(way, low, seed=0, batch=50):
    "All of them, part by part, in [-1, 1]; and the seconds it took"
    start = time.time()
    parts = enumerate(low.split(batch))
    x = torch.cat([way(part, seed + i*batch).clamp(-1, 1) for i, part in parts])
    return x, time.time() - start


def psnr(x, truth):
    "Peak signal-to-noise ratio in dB of pictures in [-1, 1], mean over pictures"
    error = (x - truth).square().flatten(1).mean(1).clamp_min(1e-10)
    return (10*torch.log10(4/error)).mean().item()


def measured(x, truth, y, low, meter):
    s = meter(x)
    off = (shrink(k).A(x) - low).abs().mean().item()
    return dict(n=len(x), psnr=psnr(x, truth), agreement=per_class(x, y).accuracy, off=off,
                fld=s.value, se=s.se, floor=s.floor, percent=s.percent, debiased=s.debiased)


def mean_of(way, draws, low, first):
    "The mean of eight answers, of which the first is there; of a way that draws none, that one"
    total = first.clone()
    for i in range(1, draws): total += enlarged(way, low, seed=i*100_000)[0]
    return total/draws


def table(a):
    data, meter = load_data('mnist', 'test', n=a.n), FLD('mnist-train')
    truth, y = to_float(data.x), data.y
    low = shrink(k).A(truth)
    best = measured(truth, truth, y, low, meter)
    note(a, 'the digits themselves', {'calls': 0, 'seconds': 0, **best, 'psnr': None})
    rows = [F.interpolate(low[:12], scale_factor=k)]
    for name, (way, calls, draws) in ways(a).items():
        if a.names and name not in a.names: continue
        n = len(truth) if calls < 50 else min(len(truth), 2000)
        x, seconds = enlarged(way, low[:n])
        found = measured(x, truth[:n], y[:n], low[:n], meter)
        row = {'calls': calls, 'seconds': round(seconds), **found}
        if name != 'nearest': rows.append(x[:12])
        few = a.mean if calls < 50 else 0
        if few:
            mean = mean_of(way, 8 if draws else 1, low[:few], x[:few])
            row.update(means=few, psnr_of_mean=psnr(mean, truth[:few]),
                       psnr_of_those=psnr(x[:few], truth[:few]))
        note(a, name, row)
    picture(a, 'rows', torch.cat([*rows, truth[:12]]), 12)
    if not a.names: several(a, low, truth)


def several(a, low, truth):
    "Several answers to one question: the small picture, eight draws, the digit"
    way, some = ways(a)['trained, DPM++'][0], torch.arange(0, 80, 10)[:len(low)//10 or 1]
    draws = [enlarged(way, low[some], seed=i*100_000)[0] for i in range(8)]
    columns = [F.interpolate(low[some], scale_factor=k), *draws, truth[some]]
    picture(a, 'several', torch.stack(columns, 1).flatten(0, 1), 10)


def picture(a, name, x, cols):
    image = show_images(x.clamp(-1, 1), cols=cols, scale=2)
    common.keep_picture(a.out/'super_resolution'/f'{name}.png', image, 16)


def main():
    p = common.parser(__doc__)
    p.add_argument('verb', nargs='?', choices=['train', 'table'], help='both when not given')
    p.add_argument('names', nargs='*', help='rows of the table; all when not given')
    p.add_argument('--epochs', type=float, default=8)
    p.add_argument('--n', type=int, default=10_000, help='test digits')
    p.add_argument('--mean', type=int, default=250,
                   help='of how many of them the mean of eight draws is taken')
    p.add_argument('--plain', help='file of a model trained without small pictures; '
                                   'load("mnist") when not given')
    p.add_argument('--folder', type=Path, default=runs, help='where the training is kept')
    p.add_argument('--out', type=Path, default=results)
    p.add_argument('--threads', type=int, default=1)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    if a.verb != 'table':
        cost = trained(a)[1]
        common.change('super_resolution',
                      lambda record: record.setdefault('training', {}).update(cost), a.out)
        print('training |', cost, flush=True)
    if a.verb != 'train': table(a)


if __name__ == '__main__': main()
