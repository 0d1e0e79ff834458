"""The long runs of nbs/14_few_steps: teach the shipped networks to turn further in one call, draw
digits with 1, 2, 4, 8 calls, measure them, and note every number in results/turns.json as it comes.
A training that was ended goes on where it stood. Needs MNIST in DIFFNB_DATA.

    python benchmarks/turns.py list                   what there is
    python benchmarks/turns.py train unlabelled       train, or go on
    python benchmarks/turns.py measure unlabelled     measure its newest checkpoint
    python benchmarks/turns.py before                 the teachers: DDIM at as many calls
    python benchmarks/turns.py ship unlabelled        write diffnb/mnist-turns.safetensors
    python benchmarks/turns.py shipped                measure that from its file
    python benchmarks/turns.py table                  the table of the lesson
    python benchmarks/turns.py time                   ten guided digits: one call beside 20 guided ones
"""
import argparse
import statistics
import time
import warnings
from functools import partial

import torch

import common
from common import results
from diffnb.apps.checkpoints import load, save
from diffnb.apps.datasets import load_data
from diffnb.apps.optim import Muon
from diffnb.apps.runs import fit
from diffnb.few_steps import as_turner, turns
from diffnb.fld import FLD, per_class, precision_recall
from diffnb.guidance import given, guide, interval
from diffnb.kit.pictures import show_images, to_float
from diffnb.samplers import ddim, dpmpp, last
from diffnb.schedules import path

runs = results.parent/'runs'/'turns'
note = partial(common.note, 'turns')
calls = 1, 2, 4, 8
base = dict(begin='mnist', every=2, levels=5, bs=64, lr=1.5e-3, lr_end=0., ema=.995, seed=0, opt=Muon,
            warmup=100)
plan = {                       # name: settings of a run; `begin` is a shipped model or another run
    'unlabelled': dict(base, steps=6000),
    'labelled': dict(base, begin='mnist-labels', steps=6000, label_dropout=.1),
    'guided': dict(base, begin='labelled', steps=3000, guided=3.),
}


def beginning(name):
    "The model that a run begins with"
    if name not in plan: return load(name)
    return load(runs/name)


def guided(teacher, w):
    "The directions of a guided model, w between 20 and 60 degrees, as a denoiser with labels"
    scale = interval(w, torch.pi/9, torch.pi/3)
    return lambda x, phi, y: guide(teacher, y, scale)(x, phi)


def model_of(o, name):
    "The model before its first step"
    model = beginning(o['begin'])
    if o['begin'] in plan: return model
    return as_turner(model, every=o['every'], levels=o['levels'])


def train(name):
    "Train, or go on"
    o, folder = dict(plan[name]), runs/name
    model = model_of(o, name)
    if 'guided' in o: model.learn_from(guided(load('mnist-labels'), o.pop('guided')))
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


@torch.no_grad()
def draw(model, n_calls, n, sampler=turns, seed=0, batch=50, labels=None):
    "Digits from fixed noise, and the seconds it took"
    angles = path(model.sample_schedule or model.schedule, n_calls)
    out, tick = [], time.time()
    for first in range(0, n, batch):
        g = torch.Generator().manual_seed(seed + first)
        x = torch.randn(min(batch, n - first), 1, 28, 28, generator=g)
        torch.manual_seed(10**9 + seed + first)
        denoise = model if labels is None else given(model, labels[first:first + batch])
        out.append(last(sampler(denoise, x, angles)).x.clamp(-1, 1))
    return torch.cat(out), time.time() - tick


def measured(x, labels=None):
    "All that one looks at in a heap of digits"
    s = FLD('mnist-test')(x)
    real = to_float(load_data('mnist', 'test').x)[:min(len(x), 5000)]
    precision, recall = precision_recall(x[:5000], real)
    row = dict(fld=s.value, se=s.se, n=s.n, debiased=s.debiased, floor=s.floor, percent=s.percent,
               percent_se=100*s.se/(s.ref.noise - s.floor), precision=precision, recall=recall)
    if labels is not None: row['agreement'] = per_class(x, labels).accuracy
    return row


def heap(section, key, model, n_calls, n, sampler=turns, seed=0, **about_it):
    "Draw, measure, note, keep a picture"
    labels = torch.arange(n) % 10 if model.classes else None
    x, seconds = draw(model, n_calls, n, sampler, seed, labels=labels)
    row = dict(measured(x, labels), calls=n_calls, sampling_seconds=round(seconds),
               sampling_seed=seed, **about_it)
    note(section, key, row)
    folder = results/'turns'
    folder.mkdir(exist_ok=True)
    show_images(x[:24], cols=12).save(folder/f'{section}-{key}.png'.replace(' ', '_'), optimize=True)


def measure(name, n, eta=(0.,), counts=calls, seed=0):
    "Measure the newest checkpoint, with noise of a seed"
    model, step = newest(name)
    o = {k: getattr(v, '__name__', v) for k, v in plan[name].items()}
    for e in eta:
        for k in counts:
            if e and k == 1: continue                          # nothing is renoised in one call
            key = f'{name}, {k}' + (f', eta {e:g}' if e else '') + (f', n {n}' if n < 10_000 else '')
            if seed: key += f', seed {seed}'
            heap('turns', key, model, k, n, partial(turns, eta=e), seed, step=step, eta=e, recipe=o)


def before(names, n, counts=calls):
    "The teachers, by DDIM"
    for name in names or ('mnist', 'mnist-labels'):
        for k in counts:
            key = f'{name}, {k}' + (f', n {n}' if n < 10_000 else '')
            heap('ddim', key, load(name), k, n, ddim)


def table(record):
    "What was measured, as the lesson shows it: 10,000 digits where there are as many"
    lines = ['| calls | digits | step | FLD% by turns | precision | recall | FLD% by DDIM |',
             '|---|---|---|---|---|---|---|']
    def row_of(section, key):
        rows = record.get(section, {})
        return rows.get(key) or rows.get(f'{key}, n 2000')
    for k in calls:
        r, old = row_of('turns', f'unlabelled, {k}'), row_of('ddim', f'mnist, {k}')
        if r is None: continue
        said = f'{old["percent"]:.2f} ± {old["percent_se"]:.2f}' if old else ''
        lines.append(f'| {k} | {r["n"]:,} | {r["step"]:,} | '
                     f'{r["percent"]:.2f} ± {r["percent_se"]:.2f} | {r["precision"]:.2f} | '
                     f'{r["recall"]:.2f} | {said} |')
    return '\n'.join(lines)


def ship(name):
    "The model that comes with the package, in half precision, with its card"
    model, step = newest(name)
    card = dict(card='Handwritten digits, 28x28, grey, in 1 to 8 calls. U-Net of '
                     'DenoisingDiffusion.jl with an embedding of the turn.',
                data='MNIST, the 60,000 training images (LeCun, Cortes, Burges)',
                recipe=f'benchmarks/turns.py train {name}', steps=step, license='Apache-2.0',
                use='teaching, comparing samplers; nothing that matters should rest on it')
    print(save(results.parent/'diffnb'/'mnist-turns.safetensors', model, torch.float16, **card))


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
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('verb', choices=['list', 'train', 'measure', 'before', 'ship', 'shipped', 'table',
                                    'time'])
    p.add_argument('names', nargs='*')
    p.add_argument('-n', type=int, default=10_000, help='digits to measure')
    p.add_argument('--eta', type=float, nargs='*', default=[0.])
    p.add_argument('--seed', type=int, default=0, help='of the noise, below 50')
    p.add_argument('--calls', type=int, nargs='*', default=calls)
    a = p.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings('ignore', message='only .* images')
    if a.verb == 'list': print('\n'.join(f'{k}: {v}' for k, v in plan.items()))
    elif a.verb == 'table': print(table(common.noted('turns')))
    elif a.verb == 'time': timing()
    elif a.verb == 'before': before(a.names, a.n, a.calls)
    elif a.verb == 'shipped':
        for k in a.calls: heap('shipped', f'mnist-turns, {k}', load('mnist-turns'), k, a.n)
    else:
        for name in a.names or plan:
            if a.verb == 'train': train(name)
            elif a.verb == 'ship': ship(name)
            else: measure(name, a.n, a.eta, a.calls, a.seed)


if __name__ == '__main__': main()
