"""The long run of nbs/projects/spiral: networks of 1,442 and 5,826 numbers on points in the plane,
with the schedule of DenoisingDiffusion.jl and with one that reaches noise, from several seeds.
Every row goes into results/spiral.json as it comes; rows that are there already are left alone.
Nothing is downloaded.

    python benchmarks/spiral.py              everything, three seeds: about 20 minutes of one core
    python benchmarks/spiral.py --seeds 1    less
    python benchmarks/spiral.py --only 'cosine, v, sigma'
"""
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

# DenoisingDiffusion.jl's schedule for points, which ends at 12.6 degrees; its table of sinusoids,
# for steps 1 to 40; and what it prints (the end is read off a picture)
julia = linear_beta(T=40, beta=(8e-6, 9e-5), scale=True)
angle_kinds['its steps'] = (lambda phi, _: (timestep(julia, phi) + 1).to(phi.dtype),
                            dict(interleave=True))
published = dict(noise=.5154, end=.02, parameters=1442, parameters_labels=5826)


def spiral(t): return torch.stack([t*t.cos(), t*t.sin()], 1)


def letter(t): return torch.stack([t.sin(), t.sign()*(t.cos() - 1)], 1)


def moons(t):
    upper = torch.stack([t.cos(), t.sin()], 1)
    lower = torch.stack([1 + t.cos(), .5 + t.sin()], 1)
    return torch.where(t[:, None] < math.pi, upper, lower)


curves = {                           # its three curves, and the range of their parameter
    'spiral': (spiral, 1.5*math.pi, 4.5*math.pi),
    'S':      (letter, -1.5*math.pi, 1.5*math.pi),
    'moons':  (moons, 0., 2*math.pi),
}


@schedule
def julia_steps(t):
    "Its times: one of the 40 whole steps, each as likely"
    return julia(((40*t).floor() + 1).clamp(max=40)/40)


def as_flux(net):
    "The weights that Flux begins with: Glorot's uniform, no bias"
    for layer in net.modules():
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.xavier_uniform_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
    return net


def line(name, n=4000):
    "n points of a curve, at even steps of its parameter"
    f, lo, hi = curves[name]
    return f(lo + (hi - lo)*(torch.arange(n).double() + .5)/n)


def unit(name, x):
    "Points in units of a curve: mean 0, standard deviation 1"
    return (x - line(name).mean(0))/line(name).std()


def box(name, x):
    "Points as DenoisingDiffusion.jl has them: the curve reaches from -1 to 1"
    lo, hi = line(name).min(), line(name).max()
    return (x - lo)/(hi - lo)*2 - 1


def shrink(name):
    "One of our units in those of the box"
    return (line(name).std()*2/(line(name).max() - line(name).min())).item()


def cloud(name, n, seed, scale=unit):
    f, lo, hi = curves[name]
    g = torch.Generator().manual_seed(seed)
    t = lo + (hi - lo)*torch.rand(n, generator=g, dtype=torch.float64)
    return scale(name, f(t)).float()


def closest(x, curve):
    "Distance to the curve, and where on it the closest point is, from 0 to 1"
    found = [torch.cdist(part, curve).min(1) for part in x.double().split(500)]
    d, i = (torch.cat(parts) for parts in zip(*found))
    return d, (i + .5)/len(curve)


def misplaced(place, parts=50):
    """The share of points that would have to go elsewhere on the curve, if it is to be covered
    evenly"""
    share = torch.histc(place.float(), parts, 0, 1)/len(place)
    return (share - 1/parts).abs().sum().item()/2


def judge(x, name, scale):
    "Mean distance in the units of the box, its standard error, and the share that is misplaced"
    d, place = closest(x, scale(name, line(name)))
    d = d*(1. if scale is box else shrink(name))
    return dict(distance=d.mean().item(), se=(d.std()/len(d)**.5).item(),
                misplaced=misplaced(place), n=len(x))


def by_step(steps, name, scale):
    "Mean distance of the first 1,000 points at every step: of x, and of the guess"
    many, factor = scale(name, line(name)), 1. if scale is box else shrink(name)
    def far(x): return factor*closest(x[:1000], many)[0].mean().item()
    return [[far(s.x), far(s.x0)] for s in steps]


def noise(n, seed):
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(1000 + seed))


def randn(seed):
    g = torch.Generator().manual_seed(seed)
    return lambda x: torch.randn(x.shape, generator=g, dtype=x.dtype)


def stops(levels, n):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')      # that julia does not reach noise is the point
        return path(levels, n)


def walks(model, seed, scale, levels, dtype=torch.float32, n=5000):
    "DDPM in 40 calls, as the original; DPM-Solver++ in 20"
    denoise = project(model, clamp()) if scale is box else model
    x = noise(n, seed).to(dtype)
    return dict(ddpm=list(ddpm(denoise, x, stops(levels, 40), randn=randn(seed))),
                dpmpp=list(dpmpp(denoise, x, stops(levels, 20))))


as_theirs = dict(
    target='eps', schedule=julia, times=julia_steps, scale=box, bs=32, steps=28_125, lr=1e-3,
    lr_end=None, warmup=0, ema=0., opt='adam', clip=math.inf, stratified=False, kind='its steps',
    begin=as_flux)
ours = dict(target='v', schedule=cosine, scale=unit, bs=256, steps=3500, lr=1e-2, ema=.99,
            kind='sigma')
by_angle = {**ours, 'kind': 'angle'}
rows = {                                                    # settings, and how many of the seeds
    'as the original':        (as_theirs, 3),
    'its schedule':           ({**by_angle, 'target': 'eps', 'schedule': julia, 'scale': box}, 5),
    'cosine':                 ({**by_angle, 'target': 'eps'}, 5),
    'cosine, v':              (by_angle, 5),
    'cosine, v, sigma':       (ours, 5),
    'four times as long':     ({**ours, 'steps': 14_000}, 2),
}
# Rows that are made of the S, of the moons and of all three with labels, too
others = {'its schedule': 3, 'cosine, v, sigma': 3}


def trained(o, seed, shape='spiral'):
    "A network of one shape; of all three, with labels, when `shape` is None"
    o = dict(o)
    target, levels, scale, kind = (o.pop(k) for k in ('target', 'schedule', 'scale', 'kind'))
    times, begin = o.pop('times', levels), o.pop('begin', None)
    each = 9000 if shape else 3000
    data = torch.cat([cloud(name, each, seed, scale) for name in ([shape] if shape else curves)])
    torch.manual_seed(seed)
    if shape: net = MLP(2, 16, kind=kind)
    else:
        net = MLP(2, 32, classes=3, kind=kind)
        data = data, torch.arange(3).repeat_interleave(each)
        o['label_dropout'] = .2
    tick = time.process_time()
    if begin: begin(net)
    model = fit(Denoiser(net, target, times), data, seed=seed, progress=False, **o)
    return model, dict(
        parameters=common.parameters(net), seconds=round(time.process_time() - tick, 1),
        steps=o['steps'], bs=o['bs'], seed=seed,
        train_loss=mean(r['loss'] for r in model.history.rows[-500:]))


def unconditional(seed, o, shape='spiral'):
    model, facts = trained(o, seed, shape)
    done = walks(model, seed, o['scale'], o['schedule'])
    ends = {k: judge(w[-1].x, shape, o['scale']) for k, w in done.items()}
    return dict(facts, **ends, by_step=by_step(done['ddpm'], shape, o['scale']))


def conditional(seed, o, scales):
    model, facts = trained(o, seed, None)
    scale, out = o['scale'], {}
    for w in scales:
        each = {}
        for k, shape in enumerate(curves):
            denoise = guide(model, k, w)
            if scale is box: denoise = project(denoise, clamp())
            steps = ddpm(denoise, noise(2000, seed), stops(o['schedule'], 40), randn=randn(seed))
            each[shape] = judge(last(steps).x, shape, scale)
        means = {k: sum(s[k] for s in each.values())/3 for k in ('distance', 'misplaced')}
        out[str(w)] = dict(means, each=each)
    return dict(facts, w=out)


def oracle(levels, scale, seed):
    "The exact denoiser of 1,000 points evenly on the spiral"
    exact = mixture(scale('spiral', line('spiral', 1000)), 0.)
    done = walks(exact, seed, scale, levels, torch.float64)
    ends = {k: judge(w[-1].x, 'spiral', scale) for k, w in done.items()}
    return dict(ends, by_step=by_step(done['ddpm'], 'spiral', scale), seed=seed)


def samplers(seed=0):
    "One network, several samplers and numbers of calls"
    model, _ = trained(ours, seed)
    kinds = {'DDPM': ddpm, 'DDIM': ddim, 'Heun': heun, 'DPM++': dpmpp,
             'DPM++, eta 1': partial(dpmpp, eta=1.)}
    for name, sampler in kinds.items():
        row = dict(seed=seed)
        for calls in (5, 10, 20, 40):
            more = dict(randn=randn(0)) if name in ('DDPM', 'DPM++, eta 1') else {}
            angles = path(cosine, (calls + 1)//2 if name == 'Heun' else calls)
            end = last(sampler(model, noise(5000, 0), angles, **more))
            row[str(calls)] = judge(end.x, 'spiral', unit)
        yield name, row


def rounded(o):
    "Six digits are enough"
    if isinstance(o, float): return float(f'{o:.6g}')
    if isinstance(o, dict): return {k: rounded(v) for k, v in o.items()}
    return [rounded(v) for v in o] if isinstance(o, list) else o


def once(out, section, name, make):
    "Make a row and note it, unless it is there"
    if name in common.noted('spiral', out).get(section, {}): return
    common.note('spiral', section, name, rounded(make()), out)


def main():
    p = common.parser(__doc__)
    p.add_argument('--seeds', type=int, default=3, help='at most so many')
    p.add_argument('--steps', type=int, help='fewer training steps, to try it out')
    p.add_argument('--only', nargs='+', help='names of rows')
    p.add_argument('--out', type=Path, default=common.results, help='another folder than results')
    a = p.parse_args()
    keep = partial(once, a.out)
    short = dict(steps=a.steps) if a.steps else {}
    ours.update(short)
    recipes = {name: {**o, **short} for name, (o, _) in rows.items()
               if not a.only or name in a.only}
    keep('published', 'DenoisingDiffusion.jl', lambda: published)
    keep('ends', 'real points', lambda: judge(cloud('spiral', 5000, 99), 'spiral', unit))
    keep('ends', 'noise', lambda: judge(noise(5000, 0), 'spiral', box))
    seeds = range(a.seeds)
    todo = [(seed, name, 'spiral') for seed in seeds for name in recipes if seed < rows[name][1]]
    todo += [(seed, name, shape) for shape in ('S', 'moons', None) for seed in seeds
             for name in recipes if seed < others.get(name, 0)]
    slow = 'as the original', 'four times as long'          # at the end
    for seed, name, shape in sorted(todo, key=lambda t: t[1] in slow):
        o = recipes[name]
        scales = (1., 2., 4.) if o['scale'] is unit else (1., 2.)
        if shape: keep(shape, f'{name}-{seed}', lambda: unconditional(seed, o, shape))
        else: keep('labels', f'{name}-{seed}', lambda: conditional(seed, o, scales))
    if a.only: return
    for seed in seeds:
        keep('oracle', f'its schedule-{seed}', lambda: oracle(julia, box, seed))
        keep('oracle', f'cosine-{seed}', lambda: oracle(cosine, unit, seed))
    if 'DPM++, eta 1' not in common.noted('spiral', a.out).get('samplers', {}):
        for name, row in samplers(): keep('samplers', name, lambda: row)


if __name__ == '__main__': main()
