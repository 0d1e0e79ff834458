"""The long run of nbs/projects/spiral: networks of 1,442 and 5,826 numbers on points in the plane, with the schedule of DenoisingDiffusion.jl and with one that reaches noise,
from several seeds. Every row goes into results/spiral.json as it comes; rows that are there already are left alone. Nothing is downloaded.

    python benchmarks/spiral.py                       everything, three seeds: about twenty minutes of one core
    python benchmarks/spiral.py --seeds 1             less
    python benchmarks/spiral.py --only 'cosine, v, sigma'
"""
import argparse
import math
import time
import warnings
from functools import partial
from pathlib import Path
from statistics import mean

import torch

import common
from diffnb.apps.runs import fit
from diffnb.denoiser import Denoiser
from diffnb.embedding import angle_kinds
from diffnb.guidance import clamp, guide, project
from diffnb.kit.curves import schedule
from diffnb.oracle import mixture
from diffnb.samplers import ddim, ddpm, dpmpp, heun, last
from diffnb.schedules import cosine, linear_beta, path, timestep
from diffnb.unet import MLP

julia = linear_beta(T=40, beta=(8e-6, 9e-5), scale=True)                                    # DenoisingDiffusion.jl's for points: it ends at 12.6 degrees
angle_kinds['its steps'] = (lambda phi, _: (timestep(julia, phi) + 1).to(phi.dtype), dict(interleave=True))   # its table of sinusoids: steps 1 to 40
published = dict(noise=.5154, end=.02, parameters=1442, parameters_labels=5826)             # what it prints; the end is read off a picture

curves = {                                                                                  # its three curves, and the range of their parameter
    'spiral': (lambda t: torch.stack([t*t.cos(), t*t.sin()], 1), 1.5*math.pi, 4.5*math.pi),
    'S':      (lambda t: torch.stack([t.sin(), t.sign()*(t.cos() - 1)], 1), -1.5*math.pi, 1.5*math.pi),
    'moons':  (lambda t: torch.where(t[:, None] < math.pi, torch.stack([t.cos(), t.sin()], 1), torch.stack([1 + t.cos(), .5 + t.sin()], 1)), 0., 2*math.pi),
}


@schedule
def julia_steps(t):
    "Its times: one of the 40 whole steps, each as likely"
    return julia(((40*t).floor() + 1).clamp(max=40)/40)


def as_flux(net):
    "The weights that Flux begins with: Glorot's uniform, no bias"
    for layer in net.modules():
        if isinstance(layer, torch.nn.Linear): torch.nn.init.xavier_uniform_(layer.weight); torch.nn.init.zeros_(layer.bias)
    return net


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


def stops(levels, n):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')                                                     # that julia does not reach noise is the point
        return path(levels, n)


def walks(model, seed, scale, levels, dtype=torch.float32, n=5000):
    "DDPM in 40 calls, as the original; DPM-Solver++ in 20"
    denoise = project(model, clamp()) if scale is box else model
    x = noise(n, seed).to(dtype)
    return dict(ddpm=list(ddpm(denoise, x, stops(levels, 40), randn=randn(seed))), dpmpp=list(dpmpp(denoise, x, stops(levels, 20))))


as_theirs = dict(target='eps', schedule=julia, times=julia_steps, scale=box, bs=32, steps=28_125, lr=1e-3, lr_end=None, warmup=0, ema=0., opt='adam', clip=math.inf,
                 stratified=False, kind='its steps', begin=as_flux)
ours = dict(target='v', schedule=cosine, scale=unit, bs=256, steps=3500, lr=1e-2, ema=.99, kind='sigma')
rows = {
    'as the original':        (as_theirs, 3),                                               # how many of the seeds
    'its schedule':           ({**ours, 'kind': 'angle', 'target': 'eps', 'schedule': julia, 'scale': box}, 5),
    'cosine':                 ({**ours, 'kind': 'angle', 'target': 'eps'}, 5),
    'cosine, v':              ({**ours, 'kind': 'angle'}, 5),
    'cosine, v, sigma':       (ours, 5),
    'four times as long':     ({**ours, 'steps': 14_000}, 2),
}
others = {'its schedule': 3, 'cosine, v, sigma': 3}                                         # rows that are made of the S, of the moons and of all three with labels, too


def trained(o, seed, shape='spiral'):
    "A network of one shape; of all three, with labels, when `shape` is None"
    o = dict(o)
    target, levels, scale, kind, times, begin = (o.pop(k, None) for k in ('target', 'schedule', 'scale', 'kind', 'times', 'begin'))
    data = torch.cat([cloud(name, 9000 if shape else 3000, seed, scale) for name in ([shape] if shape else curves)])
    torch.manual_seed(seed)
    net, tick = (MLP(2, 16, kind=kind) if shape else MLP(2, 32, classes=3, kind=kind)), time.process_time()
    if begin: begin(net)
    labels = {} if shape else dict(label_dropout=.2)
    model = fit(Denoiser(net, target, times or levels), data if shape else (data, torch.arange(3).repeat_interleave(3000)), seed=seed, progress=False, **o, **labels)
    loss = mean(r['loss'] for r in model.history.rows[-500:])
    return model, dict(parameters=sum(p.numel() for p in net.parameters()), seconds=round(time.process_time() - tick, 1), steps=o['steps'], bs=o['bs'], train_loss=loss, seed=seed)


def unconditional(seed, o, shape='spiral'):
    model, facts = trained(o, seed, shape)
    done = walks(model, seed, o['scale'], o['schedule'])
    return dict(facts, **{k: judge(w[-1].x, shape, o['scale']) for k, w in done.items()}, by_step=by_step(done['ddpm'], shape, o['scale']))


def conditional(seed, o, scales):
    model, facts = trained(o, seed, None)
    out, own = {}, o['scale']
    for w in scales:
        shapes = []
        for k, shape in enumerate(curves):
            denoise = guide(model, k, w)
            if own is box: denoise = project(denoise, clamp())
            shapes.append(judge(last(ddpm(denoise, noise(2000, seed), stops(o['schedule'], 40), randn=randn(seed))).x, shape, own))
        out[str(w)] = {k: sum(s[k] for s in shapes)/3 for k in ('distance', 'misplaced')} | dict(each={n: s for n, s in zip(curves, shapes)})
    return dict(facts, w=out)


def oracle(levels, scale, seed):
    "The exact denoiser of 1,000 points evenly on the spiral"
    done = walks(mixture(scale('spiral', line('spiral', 1000)), 0.), seed, scale, levels, torch.float64)
    return dict({k: judge(w[-1].x, 'spiral', scale) for k, w in done.items()}, by_step=by_step(done['ddpm'], 'spiral', scale), seed=seed)


def samplers(seed=0):
    "One network, several samplers and numbers of calls"
    model, _ = trained(ours, seed)
    for name, f in {'DDPM': ddpm, 'DDIM': ddim, 'Heun': heun, 'DPM++': dpmpp, 'DPM++, eta 1': partial(dpmpp, eta=1.)}.items():
        row = dict(seed=seed)
        for calls in (5, 10, 20, 40):
            more = dict(randn=randn(0)) if name in ('DDPM', 'DPM++, eta 1') else {}
            row[str(calls)] = judge(last(f(model, noise(5000, 0), path(cosine, (calls + 1)//2 if name == 'Heun' else calls), **more)).x, 'spiral', unit)
        yield name, row


def rounded(o):
    "Six digits are enough"
    if isinstance(o, float): return float(f'{o:.6g}')
    return {k: rounded(v) for k, v in o.items()} if isinstance(o, dict) else [rounded(v) for v in o] if isinstance(o, list) else o


def once(out, section, name, make):
    "Make a row and note it, unless it is there"
    if name not in common.noted('spiral', out).get(section, {}): common.note('spiral', section, name, rounded(make()), out)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--seeds', type=int, default=3, help='at most so many')
    p.add_argument('--steps', type=int, help='fewer training steps, to try it out')
    p.add_argument('--only', nargs='+', help='names of rows')
    p.add_argument('--out', type=Path, default=common.results, help='another folder than results')
    a = p.parse_args()
    keep = partial(once, a.out)
    short = dict(steps=a.steps) if a.steps else {}
    ours.update(short)
    recipes = {name: {**o, **short} for name, (o, _) in rows.items() if not a.only or name in a.only}
    keep('published', 'DenoisingDiffusion.jl', lambda: published)
    keep('ends', 'real points', lambda: judge(cloud('spiral', 5000, 99), 'spiral', unit))
    keep('ends', 'noise', lambda: judge(noise(5000, 0), 'spiral', box))
    todo = [(seed, name, 'spiral') for seed in range(a.seeds) for name in recipes if seed < rows[name][1]]
    todo += [(seed, name, shape) for shape in ('S', 'moons', None) for seed in range(a.seeds) for name in recipes if seed < others.get(name, 0)]
    for seed, name, shape in sorted(todo, key=lambda t: t[1] in ('as the original', 'four times as long')):           # the long ones at the end
        o = recipes[name]
        scales = (1., 2., 4.) if o['scale'] is unit else (1., 2.)
        keep(shape or 'labels', f'{name}-{seed}', lambda: unconditional(seed, o, shape) if shape else conditional(seed, o, scales))
    if a.only: return
    for seed in range(a.seeds):
        for name, levels, scale in (('its schedule', julia, box), ('cosine', cosine, unit)): keep('oracle', f'{name}-{seed}', lambda: oracle(levels, scale, seed))
    if 'DPM++, eta 1' not in common.noted('spiral', a.out).get('samplers', {}):
        for name, row in samplers(): keep('samplers', name, lambda: row)


if __name__ == '__main__': main()
