"""The long run of nbs/20_spiral: networks of 1,442 and 5,826 numbers on points in the plane, with the schedule of DenoisingDiffusion.jl and with one that reaches noise,
from several seeds. Every row goes into results/20.json as it comes; rows that are there already are left alone. Nothing is downloaded.

    python benchmarks/spiral.py                       everything, three seeds: about ten minutes of one core
    python benchmarks/spiral.py --seeds 1             less
    python benchmarks/spiral.py --only 'cosine, v, sigma'
"""
import argparse
import math
import time
import warnings
from functools import partial
from pathlib import Path

import torch

import common
from diffnb.all import MLP, Denoiser, clamp, cosine, ddim, ddpm, dpmpp, fit, guide, heun, last, linear_beta, mixture, path, project

julia = linear_beta(T=40, beta=(8e-6, 9e-5), scale=True)                                    # DenoisingDiffusion.jl's for points: it ends at 12.6 degrees
curves = {                                                                                  # its three curves, and the range of their parameter
    'spiral': (lambda t: torch.stack([t*t.cos(), t*t.sin()], 1), 1.5*math.pi, 4.5*math.pi),
    'S':      (lambda t: torch.stack([t.sin(), t.sign()*(t.cos() - 1)], 1), -1.5*math.pi, 1.5*math.pi),
    'moons':  (lambda t: torch.where(t[:, None] < math.pi, torch.stack([t.cos(), t.sin()], 1), torch.stack([1 + t.cos(), .5 + t.sin()], 1)), 0., 2*math.pi),
}


def line(name, n=4000): f, lo, hi = curves[name]; return f(lo + (hi - lo)*(torch.arange(n).double() + .5)/n)


def unit(name, x): return (x - line(name).mean(0))/line(name).std()                         # mean 0, standard deviation 1


def box(name, x): lo, hi = line(name).min(), line(name).max(); return (x - lo)/(hi - lo)*2 - 1   # DenoisingDiffusion.jl: from -1 to 1


def shrink(name): return (line(name).std()*2/(line(name).max() - line(name).min())).item()  # one of our units in those of the box


def cloud(name, n, seed, scale=unit):
    f, lo, hi = curves[name]
    t = lo + (hi - lo)*torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return scale(name, f(t)).float()


def closest(x, curve):
    "Distance to the curve, and where on it the closest point is, from 0 to 1"
    d, i = (torch.cat(t) for t in zip(*(torch.cdist(part, curve).min(1) for part in x.double().split(500))))
    return d, (i + .5)/len(curve)


def misplaced(place, parts=50):
    "The share of points that would have to go elsewhere on the curve, if it is to be covered evenly"
    return (torch.histc(place.float(), parts, 0, 1)/len(place) - 1/parts).abs().sum().item()/2


def judge(x, name, scale):
    "Mean distance in the units of the box, its standard error, and the share that is misplaced"
    d, place = closest(x, scale(name, line(name)))
    d = d*(1. if scale is box else shrink(name))
    return dict(distance=d.mean().item(), se=(d.std()/len(d)**.5).item(), misplaced=misplaced(place), n=len(x))


def by_step(steps, name, scale):
    "Mean distance of the first 1,000 points at every step: of x, and of the guess"
    many, factor = scale(name, line(name)), 1. if scale is box else shrink(name)
    return [[factor*closest(part[:1000], many)[0].mean().item() for part in (s.x, s.x0)] for s in steps]


def noise(n, seed): return torch.randn(n, 2, generator=torch.Generator().manual_seed(1000 + seed))


def randn(seed): g = torch.Generator().manual_seed(seed); return lambda x: torch.randn(x.shape, generator=g, dtype=x.dtype)


def stops(schedule, n):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')                                                     # that julia does not reach noise is the point
        return path(schedule, n)


def walks(model, seed, scale, schedule, dtype=torch.float32, n=5000):
    "DDPM in 40 calls, as the original; DPM-Solver++ in 20"
    denoise = project(model, clamp()) if scale is box else model
    x = noise(n, seed).to(dtype)
    return dict(ddpm=list(ddpm(denoise, x, stops(schedule, 40), randn=randn(seed))), dpmpp=list(dpmpp(denoise, x, stops(schedule, 20))))


as_theirs = dict(target='eps', schedule=julia, scale=box, bs=32, steps=28_125, lr=1e-3, lr_end=None, warmup=0, ema=0., opt='adam', clip=math.inf, stratified=False, kind='angle')
ours = dict(target='v', schedule=cosine, scale=unit, bs=256, steps=3500, lr=1e-2, ema=.99, kind='sigma')
rows = {
    'as the original':        (as_theirs, 1),                                               # how many of the seeds
    'its schedule':           ({**ours, 'kind': 'angle', 'target': 'eps', 'schedule': julia, 'scale': box}, 5),
    'cosine':                 ({**ours, 'kind': 'angle', 'target': 'eps'}, 5),
    'cosine, v':              ({**ours, 'kind': 'angle'}, 5),
    'cosine, v, sigma':       (ours, 5),
    'four times as long':     ({**ours, 'steps': 14_000}, 2),
}


def trained(o, seed, conditional=False):
    o = dict(o)
    target, schedule, scale, kind = (o.pop(k) for k in ('target', 'schedule', 'scale', 'kind'))
    names = list(curves) if conditional else ['spiral']
    data = torch.cat([cloud(name, 3000 if conditional else 9000, seed, scale) for name in names])
    y = torch.arange(3).repeat_interleave(3000) if conditional else None
    torch.manual_seed(seed)
    net, tick = (MLP(2, 32, classes=3, kind=kind) if conditional else MLP(2, 16, kind=kind)), time.process_time()
    model = fit(Denoiser(net, target, schedule), (data, y) if conditional else data, seed=seed, progress=False, **o, **(dict(forget=.2) if conditional else {}))
    loss = sum(r['loss'] for r in model.history.rows[-500:])/500
    return model, dict(parameters=sum(p.numel() for p in net.parameters()), seconds=round(time.process_time() - tick, 1), steps=o['steps'], bs=o['bs'], train_loss=loss, seed=seed)


def unconditional(name, seed, o):
    model, facts = trained(o, seed)
    done = walks(model, seed, o['scale'], o['schedule'])
    note('spiral', f'{name}-{seed}', dict(facts, **{k: judge(w[-1].x, 'spiral', o['scale']) for k, w in done.items()}, by_step=by_step(done['ddpm'], 'spiral', o['scale'])))


def conditional(name, seed, o, scales):
    model, facts = trained(o, seed, True)
    out, own = {}, o['scale']
    for w in scales:
        shapes = []
        for k, shape in enumerate(curves):
            denoise = guide(model, k, w)
            if own is box: denoise = project(denoise, clamp())
            shapes.append(judge(last(ddpm(denoise, noise(2000, seed), stops(o['schedule'], 40), randn=randn(seed))).x, shape, own))
        out[str(w)] = {k: sum(s[k] for s in shapes)/3 for k in ('distance', 'misplaced')} | dict(each={n: s for n, s in zip(curves, shapes)})
    note('labels', f'{name}-{seed}', dict(facts, w=out))


def oracle(name, schedule, scale, std):
    "The exact denoiser of 1,000 points evenly on the spiral, each blurred by std of a unit"
    denoise = mixture(scale('spiral', line('spiral', 1000)), std*(1. if scale is unit else shrink('spiral')))
    done = walks(denoise, 0, scale, schedule, torch.float64, 2000)
    note('oracle', name, dict({k: judge(w[-1].x, 'spiral', scale) for k, w in done.items()}, by_step=by_step(done['ddpm'], 'spiral', scale), std=std))


def samplers(seed=0):
    "One network, several samplers and numbers of calls"
    model, _ = trained(ours, seed)
    for name, f in {'DDPM': ddpm, 'DDIM': ddim, 'Heun': heun, 'DPM++': dpmpp, 'DPM++, eta 1': partial(dpmpp, eta=1.)}.items():
        row = {}
        for calls in (5, 10, 20, 40):
            more = dict(randn=randn(0)) if name in ('DDPM', 'DPM++, eta 1') else {}
            row[str(calls)] = judge(last(f(model, noise(5000, 0), path(cosine, (calls + 1)//2 if name == 'Heun' else calls), **more)).x, 'spiral', unit)
        note('samplers', name, dict(row, seed=seed))


def rounded(o):
    "Six digits are enough"
    if isinstance(o, float): return float(f'{o:.6g}')
    return {k: rounded(v) for k, v in o.items()} if isinstance(o, dict) else [rounded(v) for v in o] if isinstance(o, list) else o


def note(section, name, row): common.note('20', section, name, rounded(row))


def there(section, name): return name in common.noted('20').get(section, {})


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--seeds', type=int, default=3, help='at most so many')
    p.add_argument('--steps', type=int, help='fewer training steps, to try it out')
    p.add_argument('--only', nargs='+', help='names of rows')
    p.add_argument('--out', type=Path, help='another folder than results')
    a = p.parse_args()
    if a.out: globals()['results'] = a.out; a.out.mkdir(parents=True, exist_ok=True)
    short = dict(steps=a.steps) if a.steps else {}
    ours.update(short)
    if not there('ends', 'noise'):
        note('ends', 'real points', judge(cloud('spiral', 5000, 99), 'spiral', unit))
        note('ends', 'noise', judge(noise(5000, 0), 'spiral', box))
    todo = [(seed, name) for seed in range(a.seeds) for name, (_, most) in rows.items() if seed < most and (not a.only or name in a.only)]
    for seed, name in sorted(todo, key=lambda t: t[1] in ('as the original', 'four times as long')):                # the long ones at the end
        if not there('spiral', f'{name}-{seed}'): unconditional(name, seed, {**rows[name][0], **short})
    for seed in range(min(a.seeds, 3)):
        for name, o in {'its schedule': {**rows['its schedule'][0], **short}, 'cosine, v, sigma': ours}.items():
            if not a.only and not there('labels', f'{name}-{seed}'): conditional(name, seed, o, (1., 2., 4.) if o is ours else (1., 2.))
    if a.only: return
    for std in (0., .02):
        for name, schedule, scale in (('its schedule', julia, box), ('cosine', cosine, unit)):
            if not there('oracle', f'{name}, std {std}'): oracle(f'{name}, std {std}', schedule, scale, std)
    if not there('samplers', 'DPM++, eta 1'): samplers()


if __name__ == '__main__': main()
