"""The long run of nbs/projects/super_resolution: train a network that sees 7x7 pixels and draws 28x28, enlarge MNIST's 10,000 test digits in several ways, and note
every number in results/super_resolution.json as it comes, with pictures in results/super_resolution. A training that was ended goes on where it stood.

    python benchmarks/super_resolution.py                    trains, then measures; needs MNIST in DIFFNB_DATA, or a network
    python benchmarks/super_resolution.py train
    python benchmarks/super_resolution.py table              measures only
"""
import argparse
import json
import time
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from common import about, change, results
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


def note(out, section, row):
    "Put a row into results/super_resolution.json, whoever else is writing"
    change('super_resolution', lambda record: record.setdefault(section, {}).update(row), out)
    print(section, '|', row, flush=True)


def trained(a):
    "The network of the table, from its folder if it is done already"
    if (a.folder/'done.json').exists(): return load(a.folder), json.loads((a.folder/'done.json').read_text())
    data, test = load_data('mnist')._replace(y=None), load_data('mnist', 'test', n=2000)._replace(y=None)
    torch.manual_seed(0)
    model, start = Enlarger(WithImage(UNet(1, extra=1)), k=k), time.time()
    begun = any(a.folder.glob('state-*'))
    model = fit(model, data, epochs=a.epochs, bs=128, opt='muon', lr=3e-3, ema=.998, folder=a.folder, resume=begun, every=dict(save=500), keep=1)
    speed = sorted(model.history.column('speed'))
    cost = {**about(), 'parameters': sum(p.numel() for p in model.parameters()), 'epochs': a.epochs, 'batch': 128, 'opt': 'muon', 'lr': 3e-3, 'seed': 0, 'resumed': begun,
            'seconds': round(time.time() - start), 'images_per_s': round(speed[len(speed)//2]), 'valid_loss': validate(model, test, n=2000)[0].mean().item()}
    (a.folder/'done.json').write_text(json.dumps(cost))
    return model, cost


def plain(a):
    "A model that was never trained to enlarge: the one that comes with the package, or a file"
    return load(a.plain or 'mnist')


def by_sampler(denoise, angles, low, first, sampler=dpmpp):
    "Pictures for the given small ones, from fixed noise: item i has the seed first + i"
    randn = seeded(range(first, first + len(low)))
    x = randn((len(low), 1, 28, 28))
    return last((partial(sampler, randn=randn) if sampler is ddpm else sampler)(denoise(low), x, angles)).x


def ways(a, calls=20):
    "Name -> (a function from small pictures and the first seed to large ones, calls, does it draw?)"
    model, free = trained(a)[0], plain(a)
    angles, walk = path(model.schedule, calls), path(free.schedule, calls)
    long = repaint_path(walk, 5, 5, ddpm)
    fix = lambda low: project(free, data_consistency(low, k))
    told = lambda low: given(model, low)
    return {'nearest': (lambda low, first: F.interpolate(low, scale_factor=k), 0, False),
            'bicubic': (lambda low, first: F.interpolate(low, scale_factor=k, mode='bicubic'), 0, False),
            'trained, DPM++': (partial(by_sampler, told, angles), calls, True),
            'trained, DDIM': (partial(by_sampler, told, angles, sampler=ddim), calls, True),
            'trained, DPM++, matched': (partial(by_sampler, lambda low: project(told(low), data_consistency(low, k)), angles), calls, True),
            'training-free, DPM++': (partial(by_sampler, fix, walk), calls, True),
            'training-free, repaint_path': (partial(by_sampler, fix, long, sampler=ddpm), len(long) - 1, True)}


@torch.no_grad()
def enlarged(way, low, seed=0, batch=50):
    "All of them, part by part, in [-1, 1]; and the seconds it took"
    start = time.time()
    x = torch.cat([way(part, seed + i*batch).clamp(-1, 1) for i, part in enumerate(low.split(batch))])
    return x, time.time() - start


def psnr(x, truth):
    "Peak signal-to-noise ratio in dB of pictures in [-1, 1], mean over pictures"
    return (10*torch.log10(4/(x - truth).square().flatten(1).mean(1).clamp_min(1e-10))).mean().item()


def measured(x, truth, y, low, meter):
    s = meter(x)
    return dict(n=len(x), psnr=psnr(x, truth), agreement=per_class(x, y).accuracy, off=(shrink(k).A(x) - low).abs().mean().item(),
                fld=s.value, se=s.se, floor=s.floor, percent=s.percent, debiased=s.debiased)


def table(a):
    data, meter = load_data('mnist', 'test', n=a.n), FLD('mnist-train')
    truth, y = to_float(data.x), data.y
    low = shrink(k).A(truth)
    note(a.out, 'table', {'the digits themselves': {**about(), 'calls': 0, 'seconds': 0, **measured(truth, truth, y, low, meter), 'psnr': None}})
    rows = [F.interpolate(low[:12], scale_factor=k)]
    for name, (way, calls, draws) in ways(a).items():
        if a.names and name not in a.names: continue
        n = len(truth) if calls < 50 else min(len(truth), 2000)
        x, seconds = enlarged(way, low[:n])
        row = {**about(), 'calls': calls, 'seconds': round(seconds), **measured(x, truth[:n], y[:n], low[:n], meter)}
        if name != 'nearest': rows.append(x[:12])
        few = a.mean if calls < 50 else 0
        mean = x[:few].clone()
        for i in range(1, 8 if draws else 1): mean += enlarged(way, low[:few], seed=i*100_000)[0] if few else 0
        if few: row.update(means=few, psnr_of_mean=psnr(mean/(8 if draws else 1), truth[:few]), psnr_of_those=psnr(x[:few], truth[:few]))
        note(a.out, 'table', {name: row})
    picture(a, 'rows', torch.cat([*rows, truth[:12]]), 12)
    if not a.names: several(a, low, truth)


def several(a, low, truth):
    "Several answers to one question: the small picture, eight draws, the digit"
    way, some = ways(a)['trained, DPM++'][0], torch.arange(0, 80, 10)[:len(low)//10 or 1]
    draws = [enlarged(way, low[some], seed=i*100_000)[0] for i in range(8)]
    picture(a, 'several', torch.stack([F.interpolate(low[some], scale_factor=k), *draws, truth[some]], 1).flatten(0, 1), 10)


def picture(a, name, x, cols):
    (a.out/'super_resolution').mkdir(exist_ok=True)
    show_images(x.clamp(-1, 1), cols=cols, scale=2).quantize(16).save(a.out/'super_resolution'/f'{name}.png', optimize=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('verb', nargs='?', choices=['train', 'table'], help='both when not given')
    p.add_argument('names', nargs='*', help='rows of the table; all when not given')
    p.add_argument('--epochs', type=float, default=8)
    p.add_argument('--n', type=int, default=10_000, help='test digits')
    p.add_argument('--mean', type=int, default=250, help='of how many of them the mean of eight draws is taken')
    p.add_argument('--plain', help='file of a model trained without small pictures; load("mnist") when not given')
    p.add_argument('--folder', type=Path, default=runs, help='where the training is kept')
    p.add_argument('--out', type=Path, default=results)
    p.add_argument('--threads', type=int, default=1)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    if a.verb != 'table': note(a.out, 'training', trained(a)[1])
    if a.verb != 'train': table(a)


if __name__ == '__main__': main()
