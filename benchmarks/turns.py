"""The long runs of nbs/14_few_steps: teach the shipped networks to turn further in one call, draw
digits with 1, 2, 4, 8 calls, measure them, and note every number in results/turns.json as it comes.
A training that was ended goes on where it stood. Needs MNIST in DIFFNB_DATA.

    python benchmarks/turns.py list                   what there is
    python benchmarks/turns.py train told             train, or go on
    python benchmarks/turns.py measure told           measure its newest checkpoint
    python benchmarks/turns.py ends told guided       where their teachers' paths arrive
    python benchmarks/turns.py before                 the teachers: DDIM at as many calls
    python benchmarks/turns.py before mnist --sampler dpmpp --calls 2 4 8      and a better sampler
    python benchmarks/turns.py ship told guided       write diffnb/mnist-turns(-labels).safetensors
    python benchmarks/turns.py shipped                measure that from its file
    python benchmarks/turns.py train labelled-short guided-short    what does guidance add?
    python benchmarks/turns.py table                  the tables of the lesson
    python benchmarks/turns.py try                    600 steps of each variant of the recipe
    python benchmarks/turns.py tries                  the table of that
    python benchmarks/turns.py time                   ten guided digits: one call, 20 guided ones
"""
import statistics
import time
import warnings
from functools import partial

import torch
from safetensors.torch import load_file, save_file

import common
from common import results
from diffnb import few_steps
from diffnb.apps.checkpoints import load, save
from diffnb.apps.datasets import load_data
from diffnb.apps.optim import Muon
from diffnb.apps.runs import fit
from diffnb.few_steps import Paths, Turner, as_turner, paths_of, turns
from diffnb.fld import FLD, per_class, precision_recall
from diffnb.guidance import given, guide, interval
from diffnb.kit.pictures import show_images, to_float
from diffnb.samplers import ddim, dpmpp, last
from diffnb.schedules import path

runs = results.parent/'runs'/'turns'
note = partial(common.note, 'turns')
calls = 1, 2, 4, 8
samplers = dict(ddim=ddim, dpmpp=dpmpp)
base = dict(begin='mnist', every=2, levels=5, bs=64, lr=1.5e-3, lr_end=0., ema=.995, seed=0,
            opt=Muon, warmup=100)
plan = {                       # name: settings of a run; `begin` is a shipped model or another run
    'unlabelled': dict(base, steps=6000),                      # doubles its own turns
    'told': dict(base, steps=12_000, paths=20_000),            # learns the turns of its teacher
    'guided': dict(base, begin='mnist-labels', steps=3000, paths=10_000, w=3.),
}
plan |= {                      # what does guidance add? a sixth of the steps for each
    'guided-short': dict(plan['guided'], steps=500),
    'labelled-short': dict(plan['guided'], steps=500, w=1.),
}

short = dict(base, steps=600, warmup=50)
tries = {                      # what changes the recipe, one thing at a time
    'half of the batch turns': {},
    'a quarter turns': dict(every=4),
    'turns from 22.5 degrees on': dict(levels=3),
    'turns from 2.8 degrees on': dict(levels=6),
    'doubled from the raw weights': dict(own=True),
    'v from the trained teacher': dict(source='mnist'),
    'the paths of the teacher, stored': dict(paths=10_000),
    'the stored paths, absolute error': dict(paths=10_000, kind='l1'),
    'turns begin at the stops of equal turns': dict(at_stops=True),
    'at the stops, v from the teacher': dict(at_stops=True, source='mnist'),
}


def beginning(name):
    "The model that a run begins with"
    if name not in plan: return load(name)
    return load(runs/name)


class Variant(Turner):
    "Doubles its own raw weights, where it is told so"
    own = False

    def follow(self, average): super().follow(None if self.own else average)


def noises(n):
    "The noise of n digits, which no measurement uses"
    def hundred(first):
        g = torch.Generator().manual_seed(10**6 + first)
        return torch.randn(100, 1, 28, 28, generator=g)
    return torch.cat([hundred(first) for first in range(0, n, 100)])[:n]


def paths_for(n, w=None):
    "n paths of the shipped network in 16 turns; with a scale, guided, of labels in turn"
    teacher = load('mnist' if w is None else 'mnist-labels')
    angles = path(teacher.schedule, 16)
    if w is None: return paths_of(teacher, noises(n), angles)
    scale, y = interval(w, torch.pi/9, torch.pi/3), torch.arange(n) % 10
    return paths_of(lambda y: guide(teacher, y, scale), noises(n), angles, y)


def kept_paths(fname, *how):
    "The same, from a file that is written once"
    if not fname.exists():
        paths = paths_for(*how)
        fname.parent.mkdir(parents=True, exist_ok=True)
        save_file({k: v for k, v in paths._asdict().items() if v is not None}, fname)
    return Paths(**load_file(fname))


def paths_file(name):
    "Where the paths of a run are kept; a short run shares those of the long one"
    return runs/f'paths-{name.removesuffix("-short")}.safetensors'


def from_stops(phi, some, top, levels):
    """`few_steps.some_turns`, from the stops of a walk in equal turns, give or take two degrees,
    rather than from anywhere"""
    k = torch.randint(levels, phi[some].shape).to(phi)
    moved, turn = phi.clone(), torch.zeros_like(phi)
    turn[some] = top*.5**k
    stop = (torch.rand_like(k)*2**k).floor() + 1
    near = turn[some]*stop + (torch.rand_like(k) - .5)*.07
    moved[some] = near.clamp(min=turn[some], max=torch.tensor(top))
    return moved, turn


def attempt(name, n):
    "Train one variant for a short while, and measure it"
    o, usual = short | tries[name], few_steps.some_turns
    said = {k: getattr(v, '__name__', v) for k, v in o.items()}
    begin, teacher = o.pop('begin'), o.pop('source', None)
    plain = as_turner(load(begin), every=o.pop('every'), levels=o.pop('levels'))
    model = Variant(plain.net, every=plain.every, levels=plain.levels, schedule=plain.schedule,
                    shape=plain.shape)
    model.own = o.pop('own', False)
    if teacher: model.learn_from(load(teacher))
    if 'paths' in o: model.learn_paths(paths_for(o.pop('paths')))
    if o.pop('at_stops', False): few_steps.some_turns = from_stops
    torch.manual_seed(o['seed'])
    model = fit(model, load_data('mnist')._replace(y=None), every=dict(valid=0), **o)
    few_steps.some_turns = usual
    for k in (1, 2, 4):
        x, _ = draw(model, k, n)
        note('tries', f'{name}, {k}', dict(measured(x), calls=k, recipe=said))


def table_of_tries(record):
    "What the variants came to"
    lines = ['| what changes | FLD%, 1 call | 2 calls | 4 calls |', '|---|---|---|---|']
    for name in tries:
        rows = [record.get('tries', {}).get(f'{name}, {k}') for k in (1, 2, 4)]
        if None in rows: continue
        said = [f'{r["percent"]:.2f} ± {r["percent_se"]:.2f}' for r in rows]
        lines.append(f'| {name} | {" | ".join(said)} |')
    return '\n'.join(lines)


def model_of(o, name):
    "The model before its first step"
    model = beginning(o['begin'])
    if o['begin'] in plan: return model
    return as_turner(model, every=o['every'], levels=o['levels'], guided=o.get('w', 1.) != 1.)


def train(name):
    "Train, or go on"
    o, folder = dict(plan[name]), runs/name
    model = model_of(o, name)
    if 'paths' in o:
        model.learn_paths(kept_paths(paths_file(name), o.pop('paths'), o.pop('w', None)))
    data = load_data('mnist')
    if not model.classes: data = data._replace(y=None)
    for key in ('begin', 'every', 'levels'): o.pop(key)
    begun = any(folder.glob('state-*'))
    torch.manual_seed(o['seed'])
    fit(model, data, folder=folder, resume=begun, every=dict(save=250, valid=0), keep=1, **o)


def newest(name):
    "The averaged model of a run, from its newest checkpoint; and the step"
    files = sorted((runs/name/'checkpoints').glob('*.safetensors'))
    return load(files[-1]), int(files[-1].stem)


def draw(model, n_calls, n, sampler=turns, seed=0, batch=50, labels=None):
    "Digits from fixed noise, and the seconds it took"
    return common.draw(model, sampler, n_calls, n, batch, lambda i: seed + i,
                       lambda i: 10**9 + seed + i, labels)


def measured(x, labels=None):
    "All that one looks at in a heap of digits"
    s = FLD('mnist-test')(x)
    real = to_float(load_data('mnist', 'test').x)[:min(len(x), 5000)]
    precision, recall = precision_recall(x[:5000], real)
    row = dict(fld=s.value, se=s.se, n=s.n, debiased=s.debiased, floor=s.floor, percent=s.percent,
               percent_se=s.percent_se, precision=precision, recall=recall)
    if labels is not None: row['agreement'] = per_class(x, labels).accuracy
    return row


def heap(section, key, model, n_calls, n, sampler=turns, seed=0, **about_it):
    "Draw, measure, note, keep a picture"
    labels = torch.arange(n) % 10 if model.classes else None
    x, seconds = draw(model, n_calls, n, sampler, seed, labels=labels)
    row = dict(measured(x, labels), calls=n_calls, sampling_seconds=round(seconds),
               sampling_seed=seed, **about_it)
    note(section, key, row)
    fname = results/'turns'/f'{section}-{key}.png'.replace(' ', '_')
    common.keep_picture(fname, show_images(x[:24], cols=12))


def measure(name, n, eta=(0.,), counts=calls, seed=0):
    "Measure the newest checkpoint, with noise of a seed"
    model, step = newest(name)
    o = {k: getattr(v, '__name__', v) for k, v in plan[name].items()}
    for e in eta:
        for k in counts:
            if e and k == 1: continue                          # nothing is renoised in one call
            key = f'{name}, {k}'
            if e: key += f', eta {e:g}'
            if n < 10_000: key += f', n {n}'
            if seed: key += f', seed {seed}'
            heap('turns', key, model, k, n, partial(turns, eta=e), seed, step=step, eta=e, recipe=o)


def ends(name, n):
    "Where the stored paths arrive: no student can do better"
    o = plan[name]
    paths = kept_paths(paths_file(name), o['paths'], o.get('w'))
    labels = None if paths.cond is None else paths.cond[:n]
    row = measured(paths.stops[:n, -1].float().clamp(-1, 1), labels)
    note('paths', name, dict(row, calls=len(paths.angles) - 1))


def before(names, n, counts=calls, sampler=ddim):
    "The teachers, by DDIM or another sampler"
    for name in names or ('mnist', 'mnist-labels'):
        for k in counts:
            key = f'{name}, {k}' + (f', n {n}' if n < 10_000 else '')
            heap(sampler.__name__, key, load(name), k, n, sampler)


def table(record):
    "The student of the paths, as the lesson shows it"
    lines = ['| calls | FLD% | precision | recall |', '|---|---|---|---|']
    rows = [(k, record.get('turns', {}).get(f'told, {k}')) for k in calls]
    for k, r in [*rows, ('the paths, 16', record.get('paths', {}).get('told'))]:
        if r is None: continue
        lines.append(f'| {k} | {r["percent"]:.2f} ± {r["percent_se"]:.2f} | '
                     f'{r["precision"]:.2f} | {r["recall"]:.2f} |')
    return '\n'.join(lines)


def taken_apart(record):
    "Labels without guidance and with it, 500 steps each"
    lines = ['| calls | labels alone: FLD% | recall | labels and guidance: FLD% | recall |',
             '|---|---|---|---|---|']
    def said(r): return f'{r["percent"]:.2f} ± {r["percent_se"]:.2f} | {r["recall"]:.2f}'
    for k in calls:
        rows = [record.get('turns', {}).get(f'{name}-short, {k}, n 2000')
                for name in ('labelled', 'guided')]
        if None not in rows: lines.append(f'| {k} | {said(rows[0])} | {said(rows[1])} |')
    ends = [record.get('paths', {}).get(f'{name}-short') for name in ('labelled', 'guided')]
    if None not in ends: lines.append(f'| the paths, 16 | {said(ends[0])} | {said(ends[1])} |')
    return '\n'.join(lines)


def guided_table(record):
    "The network with labels, in one to four calls"
    lines = ['| calls | FLD% | precision | recall | read as asked |', '|---|---|---|---|---|']
    for k in calls:
        r = record.get('turns', {}).get(f'guided, {k}')
        if r is None: continue
        lines.append(f'| {k} | {r["percent"]:.2f} ± {r["percent_se"]:.2f} | '
                     f'{r["precision"]:.2f} | {r["recall"]:.2f} | {100*r["agreement"]:.1f} % |')
    r = record.get('paths', {}).get('guided')
    if r:                                            # 16 steps, of which 7 are guided
        lines.append(f'| the paths, 23 | {r["percent"]:.2f} ± {r["percent_se"]:.2f} | '
                     f'{r["precision"]:.2f} | {r["recall"]:.2f} | {100*r["agreement"]:.1f} % |')
    return '\n'.join(lines)


shipped = {
    'told': ('mnist-turns', 'Handwritten digits, 28x28, grey, in 1 to 8 calls. U-Net of '
             'DenoisingDiffusion.jl with an embedding of the turn, taught by the paths of '
             '`mnist`.'),
    'guided': ('mnist-turns-labels', 'Handwritten digits, 28x28, grey, with labels 0 to 9, in 1 to '
               '8 calls. The network of `mnist-labels` with an embedding of the turn, taught by '
               'its guided paths (w = 3 between 20 and 60 degrees): guidance needs no second '
               'call.'),
}


def ship(name):
    "A model that comes with the package, in half precision, with its card"
    model, step = newest(name)
    fname, says = shipped[name]
    card = dict(card=says, data='MNIST, the 60,000 training images (LeCun, Cortes, Burges)',
                recipe=f'benchmarks/turns.py train {name}', steps=step, license='Apache-2.0',
                use='teaching, comparing samplers; nothing that matters should rest on it')
    print(save(results.parent/'diffnb'/f'{fname}.safetensors', model, torch.float16, **card))


def timing(rounds=7):
    "CPU milliseconds for ten guided digits, side by side; the time is that of any weights"
    teacher, y = load('mnist-labels'), torch.arange(10)
    pupil, x = as_turner(teacher), torch.randn(10, 1, 28, 28)
    in_20 = path(teacher.schedule, 20)
    ways = {
        'one call': lambda: last(turns(given(pupil, y), x, path(teacher.schedule, 1))),
        '20 calls, guided at 20 to 60 degrees': lambda: last(
            dpmpp(guide(teacher, y, interval(3., torch.pi/9, torch.pi/3)), x, in_20)),
        '20 calls, guided everywhere': lambda: last(dpmpp(guide(teacher, y, 3.), x, in_20)),
    }
    def once(way): return lambda: way() and 1
    with torch.no_grad():
        times = common.turn_times({k: once(f) for k, f in ways.items()}, rounds, 1e3,
                                  time.process_time)
    for name, t in times.items():
        ratio = [a/b for a, b in zip(t, times['one call'])]
        note('time', name, dict(ms=round(statistics.median(t), 1), n=10, rounds=rounds,
                                times_one_call=round(statistics.median(ratio), 1)))


def main():
    p = common.parser(__doc__)
    p.add_argument('verb', choices=['list', 'train', 'measure', 'before', 'ship', 'shipped',
                                    'table', 'try', 'tries', 'time', 'ends'])
    p.add_argument('names', nargs='*')
    p.add_argument('-n', type=int, default=10_000, help='digits to measure')
    p.add_argument('--eta', type=float, nargs='*', default=[0.])
    p.add_argument('--seed', type=int, default=0, help='of the noise, below 50')
    p.add_argument('--calls', type=int, nargs='*', default=calls)
    p.add_argument('--sampler', choices=samplers, default='ddim', help='of the teachers (before)')
    a = p.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings('ignore', message='only .* images')
    if a.verb == 'list': print('\n'.join(f'{k}: {v}' for k, v in plan.items()))
    elif a.verb == 'table':
        record = common.noted('turns')
        for kind in (table, guided_table, taken_apart): print(kind(record), end='\n\n')
    elif a.verb == 'tries': print(table_of_tries(common.noted('turns')))
    elif a.verb == 'try':
        for name in a.names or tries: attempt(name, min(a.n, 2000))
    elif a.verb == 'time': timing()
    elif a.verb == 'ends':
        for name in a.names or ('told', 'guided'): ends(name, a.n)
    elif a.verb == 'before': before(a.names, a.n, a.calls, samplers[a.sampler])
    elif a.verb == 'shipped':
        for k in a.calls: heap('shipped', f'mnist-turns, {k}', load('mnist-turns'), k, a.n)
    else:
        for name in a.names or plan:
            if a.verb == 'train': train(name)
            elif a.verb == 'ship': ship(name)
            else: measure(name, a.n, a.eta, a.calls, a.seed)


if __name__ == '__main__': main()
