"""The long run of nbs/21_digits: four targets times four schedules on scikit-learn's digits, each trained afresh from several seeds, asked for 800 digits, and
measured. Every number goes into results/21.json as it comes, a few digits of each row into results/21. Rows that are there already are left alone. No download.

    python benchmarks/digits.py                       seeds 0 and 1, 400 steps each: about half an hour of one core
    python benchmarks/digits.py --seeds 2 3           more error bar
    python benchmarks/digits.py --only v-cosine eps-flow
"""
import argparse
import sys
import time
import warnings
from functools import partial
from pathlib import Path

import torch

import common
from common import results
from diffnb.all import (FLD, Denoiser, UNet, cosine, ddim, fit, flow, generate, given, karras, last, linear_beta, load_data, lognormal, mix, path, schedule, seeded,
                        show_images, to_float)

sys.path.insert(0, str(results.parent/'examples'))
from demo import judge  # noqa: E402


@schedule
def flow_cut(t, end=.98):
    "The curve of flow matching, but for the last stretch: at 90 degrees the noise alone says nothing about the image"
    return flow(end*t)


@schedule
def lognormal_cut(t, sigma=(.002, 80.)):
    "EDM's training distribution between the sigmas that its sampler visits"
    lo, hi = (torch.special.ndtr((torch.tensor(s, dtype=torch.float64).log() + 1.2)/1.2) for s in sigma)
    return lognormal((lo + (hi - lo)*t).clamp(1e-12, 1 - 1e-12))


schedules = {'cosine': (cosine, None), 'linear_beta': (linear_beta, None), 'flow': (flow_cut, None), 'lognormal': (lognormal_cut, karras)}   # for training, for sampling
targets = 'x0', 'eps', 'v', 'flow'
degrees = 2, 5, 10, 20, 30, 40, 50, 60, 70, 80, 85, 88
labels = torch.arange(800) % 10
note = partial(common.note, '21')


def there(section, name): return name in common.noted('21').get(section, {})


def measure(x, y, read, prefix=''):
    "Distance, agreement with the label"
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        score = FLD('digits')(x)
    return {prefix + 'fld': score.value, prefix + 'se': score.se, prefix + 'percent': score.percent, prefix + 'floor': score.floor,
            prefix + 'right': (read(x).argmax(1) == y).float().mean().item()}


@torch.no_grad()
def blur(model, x0, y):
    "Mean squared error of the guessed image at each of `degrees`, the same images and noise for all models"
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    out = []
    for d in degrees:
        phi = torch.tensor(d*torch.pi/180, dtype=torch.float64)
        guess = torch.cat([model(mix(a, e, phi), phi, c).x0 for a, e, c in zip(x0.split(100), eps.split(100), y.split(100))])
        out.append((guess - x0).square().mean().item())
    return out


def run(target, curve, seed, steps, read, held):
    "Train, draw, measure"
    name, (train_on, sample_on) = f'{target}-{curve}', schedules[curve]
    if there('grid', f'{name}-{seed}'): return
    torch.manual_seed(seed)
    tick = time.process_time()
    model = fit(Denoiser(UNet(1, classes=10), target, train_on, sample_on), load_data('digits'), steps=steps, forget=.1, seed=seed, progress=False)
    trained, stops = time.process_time() - tick, path(sample_on or train_on, 20)
    tick = time.process_time()
    x = generate(model, 800, cond=labels, w=1., calls=20, seeds=0, batch=100, progress=False)
    drawn = time.process_time() - tick
    noise = seeded(range(800))((800, 1, 16, 16))
    plain = torch.cat([last(ddim(given(model, y), z, stops)).x for y, z in zip(labels.split(100), noise.split(100))]).clamp(-1, 1)
    if not seed:
        (results/'21').mkdir(parents=True, exist_ok=True)
        show_images(torch.cat([x[:20], plain[:20]]), cols=20, scale=1, pad=0).save(results/'21'/f'{name}.png')
    y = held.y[::2]
    note('grid', f'{name}-{seed}', dict(target=target, schedule=curve, seed=seed, steps=steps, train_seconds=round(trained, 1), sample_seconds=round(drawn, 1), n=len(x),
         **measure(x, labels, read), **measure(plain, labels, read, 'ddim_'), x0_error=blur(model, to_float(held.x[::2]), y), degrees=degrees,
         train_loss=sum(r['loss'] for r in model.history.rows[-50:])/50, ends=[torch.rad2deg(a).item() for a in stops[:1]]))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--seeds', type=int, nargs='+', default=[0, 1])
    p.add_argument('--steps', type=int, default=400, help='training steps of 128 digits')
    p.add_argument('--only', nargs='+', help='names such as v-cosine')
    p.add_argument('--out', type=Path, help='another folder than results')
    a = p.parse_args()
    if a.out: globals()['results'] = a.out; a.out.mkdir(parents=True, exist_ok=True)
    train, held = load_data('digits'), load_data('digits', 'test')
    read = judge(train)
    if not there('ends', 'noise'):
        static = torch.randn(800, 1, 16, 16, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
        note('ends', 'training digits', measure(to_float(train.x[:800]), train.y[:800], read))
        note('ends', 'held-out digits', dict(right=(read(to_float(held.x)).argmax(1) == held.y).float().mean().item(), n=len(held.x)))
        note('ends', 'noise', measure(static, labels, read))
    for seed in a.seeds:
        for curve in schedules:
            for target in targets:
                if not a.only or f'{target}-{curve}' in a.only: run(target, curve, seed, a.steps, read, held)


if __name__ == '__main__': main()
