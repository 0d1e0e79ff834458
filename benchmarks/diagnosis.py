"""Runs broken on purpose, and runs in which nothing is known to be wrong: what does `diagnose` say?
Every row goes into results/diagnosis.json as it comes; rows that are there already are left alone.

    python benchmarks/diagnosis.py                 everything: about five minutes of one core
    python benchmarks/diagnosis.py --only spiral   some rows, by their names
    python benchmarks/diagnosis.py --again         the same runs with two other seeds, and with the
                                                   sprites: twelve minutes

The limits of the checks were set on the first rows. Those of `--again` were made afterwards, with
the limits as they were, and are their test; a seed is that of the weights, the training and the
look. The healthy rows `mnist` and `mnist-labels` need the data of MNIST, the sprites
sprites_dawnlike/dawnlike_16x16.npz in the folder of data; they are made as small as the digits.
"""
import argparse
import copy
import functools
import math
import os
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch

import common
from diffnb.apps.checkpoints import load
from diffnb.apps.datasets import load_data
from diffnb.apps.diagnosis import diagnose
from diffnb.apps.families import ResidualUNet
from diffnb.apps.runs import fit
from diffnb.data import spiral
from diffnb.denoiser import Denoiser
from diffnb.kit.checks import Diverged
from diffnb.kit.pictures import to_float
from diffnb.schedules import cosine, flow, linear_beta, section
from diffnb.unet import MLP, UNet

size, steps, short = 8, 300, 400       # pixels; steps with labels, and without
muon = dict(opt='muon', lr=8e-3)
world = argparse.Namespace(data='digits', seed=0)      # what all rows are made with


@functools.cache
def sprites():
    "1,600 pictures and 500 others, in colour, of five kinds"
    folder = Path(os.environ.get('DIFFNB_DATA', Path.home()/'.cache'/'diffnb'))
    with np.load(folder/'sprites_dawnlike'/'dawnlike_16x16.npz') as stored:
        x, y = stored['images'], stored['labels']
    with tempfile.TemporaryDirectory() as there:
        np.savez(Path(there)/'sprites.npz', x=x, y=y)
        whole = load_data(Path(there)/'sprites.npz', size=size)
    order = torch.randperm(len(whole.x), generator=torch.Generator().manual_seed(0))
    part = dict(train=order[:1600], test=order[1600:])
    return {k: whole._replace(x=whole.x[at], y=whole.y[at]) for k, at in part.items()}


def images(split='train'):
    "The data of all rows"
    return sprites()[split] if world.data == 'sprites' else load_data('digits', split, size=size)


def network(labels=False, **more):
    "The network of all rows: 95,137 parameters with labels of digits"
    torch.manual_seed(world.seed)
    data = images()
    if labels: more['classes'] = int(data.y.max()) + 1
    return UNet(data.x.shape[1], width=16, mults=(1, 2), **more)


def look(model, *data, **how):
    "`diagnose` with the seed of the row"
    return diagnose(model, *data, seed=world.seed, **how)


def trained(model, data, n=short, bs=64, **how):
    "The model after `fit`; warnings about what is broken are not heard"
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return fit(model, data, steps=n, bs=bs, seed=world.seed, progress=False, **{**muon, **how})


def labelled(**how):
    "A healthy run on labelled images, kept for the rows that need no other"
    if not how and labelled.kept is not None: return labelled.kept
    data = images()
    model = trained(Denoiser(network(labels=True)), data, steps, valid=images('test'),
                    **{'label_dropout': .1, **how})
    if not how: labelled.kept = model
    return model


labelled.kept = None
seen = dict(bs=64, clip=1.)


def plain(x, held=None, valid=None, **how):
    "A run without labels on these items, diagnosed: `how` goes to `Denoiser`"
    model = trained(Denoiser(network(), **how), x, valid=valid)
    return look(model, x, held, **seen)


def scaled(change):
    "A run on images whose numbers have been changed"
    x, held = change(to_float(images().x)), change(to_float(images('test').x))
    return plain(x, held, held)


def cold():
    "An average of decay .9999 without a warm-up, after 300 steps"
    start = Denoiser(network(labels=True))
    model = labelled()
    average = copy.deepcopy(start)
    for mean, first, last in zip(average.parameters(), start.parameters(), model.parameters()):
        mean.data = first.data*.9999**steps + last.data*(1 - .9999**steps)
    return look(average, images(), images('test'), raw=model, history=model.history, **seen)


def too_fast():
    "A learning rate that rises until the loss is no number any more, and what the folder holds"
    model, x = Denoiser(network()), images().x
    with tempfile.TemporaryDirectory() as folder:
        how = dict(opt='sgd', lr=10., warmup=200, clip=None, folder=folder, every=dict(save=10))
        try: trained(model, x, 200, **how)
        except Diverged: pass
        return look(model, x, images('test').x, run=folder)


def nan_weights():
    model = copy.deepcopy(labelled())
    next(iter(model.net.parameters())).data[0] = math.nan
    return look(model, images(), images('test'), **seen)


def nan_data():
    x = to_float(images().x)
    x[7, 0, 0, 0] = math.nan
    return look(labelled(), (x, images().y), images('test'), **seen)


def few(n, taken, **how):
    "A run on a few images"
    x = images().x[:n]
    model = trained(Denoiser(network()), x, taken, **how)
    return look(model, x, images('test').x, **{**seen, 'bs': how['bs']})


def dropout():
    "A network with dropout, in training mode as a loop of one's own leaves it"
    model = trained(Denoiser(network(dropout=.3)), images().x)
    return look(model.train(), images().x, images('test').x, **seen)


def batch_norm():
    torch.manual_seed(world.seed)
    model = Denoiser(ResidualUNet(images().x.shape[1], widths=(16, 32), depth=1))
    trained(model, images().x, 600, bs=2, opt='adamw', lr=1e-3)
    return look(model, images().x, images('test').x, bs=2, clip=1.)


def usual(model=None, data=None, held=None, **how):
    "The healthy run, diagnosed in some other way"
    model = model or labelled()
    return look(model, images() if data is None else data,
                images('test') if held is None else held, **{**seen, **how})


def shifted():
    data = images()
    return look(labelled(), (data.x, data.y + 1), images('test'), **seen)


def shipped(name):
    data, held = load_data('mnist'), load_data('mnist', 'test')
    return look(load(name), data, held)


def points():
    torch.manual_seed(world.seed)
    model = trained(Denoiser(MLP(2, width=64)), spiral(5000), 3000, bs=256, opt='adamw', lr=3e-3)
    return look(model, spiral(5000), spiral(1000, seed=1), bs=256, clip=1.)


def on_digits(**how): return plain(images().x, images('test').x, images('test').x, **how)


ended, far = linear_beta(T=100), section(schedule=cosine, angles=(0., math.radians(60)))
broken = { # what was done: (what it is called, what else follows from it, how)
    'images from -3 to 3': ('data outside [-1, 1]', [], lambda: scaled(lambda x: 3*x)),
    'images from 0 to 1': ('data half inside [-1, 1]', [], lambda: scaled(lambda x: x/2 + .5)),
    'contrast of one twentieth': ('data not standardised', ['untrained'],
                                  lambda: scaled(lambda x: x/20)),
    'a NaN in one image': ('data not finite', [], nan_data),
    'a NaN in the weights': ('diverged', [], nan_weights),
    'SGD, rate rising to 10, no clipping': ('diverged', [], too_fast),
    'linear betas, T=100': ('schedule short of noise', [], lambda: on_digits(schedule=ended)),
    'trained to 60°, sampled from 89°': (
        'sampling outside the trained angles', ['untrained'],
        lambda: on_digits(schedule=far, sample_schedule=cosine)),
    '5 steps': ('untrained', [], lambda: few(1000, 5, bs=64)),
    '100 steps': ('undertrained', [], lambda: few(1000, 100, bs=64)),
    'average of .9999, no warm-up': ('averaged weights cold', [], cold),
    'clip=.001': ('gradients clipped all the time', [], lambda: look(
        trained(Denoiser(network()), images().x, clip=1e-3), images().x, images('test').x,
        bs=64, clip=1e-3)),
    'label_dropout=1': ('labels never heard', [], lambda: usual(labelled(label_dropout=1.))),
    'label_dropout=0': ('labels never dropped', [], lambda: usual(labelled(label_dropout=0.))),
    'labels from 1 to 10': ('labels out of range', [], shifted),
    '64 images, 400 steps': ('overtrained', ['memorised'], lambda: few(64, 400, bs=64)),
    '8 images, 600 steps': ('memorised', ['overtrained'], lambda: few(8, 600, bs=8)),
    'guidance 15': ('guidance saturates', [], lambda: usual(w=15.)),
    '2 calls': ('too few calls', [], lambda: usual(calls=2)),
    'dropout, train mode': ('train mode left on', [], dropout),
    'batch norm, 2 in a batch': ('batch norm with tiny batches', ['untrained'], batch_norm),
}
healthy = {
    'mnist': lambda: shipped('mnist'),
    'mnist-labels': lambda: shipped('mnist-labels'),
    'digits, v, cosine, labels': usual,
    'digits, eps, linear betas': lambda: on_digits(target='eps', schedule=linear_beta),
    'digits, flow, flow': lambda: on_digits(target='flow', schedule=flow),
    'spiral, v, cosine': points,
}

elsewhere = 'mnist', 'mnist-labels', 'spiral, v, cosine'      # rows that have data of their own


def row(how, wanted=None, follows=()):
    "What was named, what was missed, and what was named without a reason"
    start = time.process_time()
    said = how()
    alarms = [name for name in said.names if name != wanted and name not in follows]
    return dict(wanted=wanted, named=said.names, missed=bool(wanted) and wanted not in said.names,
                false_alarms=alarms, found=[finding.found for finding in said.findings],
                notes=said.notes, cpu_seconds=round(time.process_time() - start, 1),
                seed=world.seed)


again = [('digits', 1), ('digits', 2), ('sprites', 1)]


def all_rows(only, ending=''):
    "Every row that is not there yet, of the data and the seed of the `world`"
    labelled.kept = None
    for section_, rows in dict(healthy=healthy, broken=broken).items():
        title = section_ + ending
        done = common.noted('diagnosis').get(title, {})
        for name, what in rows.items():
            if name in done or only and not any(part in name for part in only): continue
            if world.data != 'digits' and name in elsewhere: continue
            wanted, follows, how = what if section_ == 'broken' else (None, (), what)
            common.note('diagnosis', title, name, row(how, wanted, follows))


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--only', nargs='*', default=[], help='rows whose names hold one of these')
    p.add_argument('--again', action='store_true', help='with other seeds, and with the sprites')
    o = p.parse_args()
    if not o.again: return all_rows(o.only)
    for world.data, world.seed in again:
        all_rows(o.only, f': {world.data}, seed {world.seed}')


if __name__ == '__main__': main()
