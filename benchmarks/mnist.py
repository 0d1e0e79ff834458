"""The long runs of nbs/projects/mnist: train the networks of the ablation and of the table, draw
digits, measure them, and note every number in results/mnist.json as it comes. A training that was
ended goes on where it stood. Needs MNIST in DIFFNB_DATA, or a network.

    python benchmarks/mnist.py list                    what there is
    python benchmarks/mnist.py ablation 'base' 'Muon'  train and measure some (all without names)
    python benchmarks/mnist.py table 'main'
    python benchmarks/mnist.py samplers                the network of 'main', many samplers
    python benchmarks/mnist.py seeds 'seed 1'          other seeds of 'main', of 'conditional'
    python benchmarks/mnist.py seeds shipped           the same rows of the shipped network
    python benchmarks/mnist.py original                DenoisingDiffusion.jl's own recipe
    python benchmarks/mnist.py guidance                the network of 'conditional', several scales
    python benchmarks/mnist.py ends                    real digits and noise
    python benchmarks/mnist.py ship                    write diffnb/mnist(-labels).safetensors
    python benchmarks/mnist.py shipped                 measure those two from their files
"""
import math
import time
from functools import partial

import torch

import common
from common import results
from diffnb.apps.checkpoints import load, save
from diffnb.apps.datasets import load_data
from diffnb.apps.runs import fit
from diffnb.denoiser import Denoiser, unwrap
from diffnb.fld import FLD, per_class
from diffnb.guidance import guide
from diffnb.kit.files import load_state
from diffnb.kit.pictures import show_images, to_float
from diffnb.samplers import ddim, ddpm, dpmpp, heun
from diffnb.schedules import betas, cosine, cosine_beta, karras, lognormal, schedule
from diffnb.apps.optim import Muon
from diffnb.training import validate
from diffnb.apps.families import families
from diffnb.unet import UNet

runs = results.parent/'runs'/'mnist'
seed_net = {**families['julia'], 'mid_attention': False}    # 376,913 parameters, as the original's
attentive = families['julia']                               # 602,705
labelled = {**families['julia'], 'classes': 10, 'combine': 'cat'}       # 622,865

base = dict(net=seed_net, target='v', schedule=cosine, sample_schedule=None, epochs=2, bs=128,
            lr=2e-3, lr_end=0., ema=.998, seed=0)
ablation = {                                                # one change each
    'base':             {},
    'seed 1':           dict(seed=1),
    'Keras range':      dict(schedule=cosine(signal=(.95, .02))),
    'noise predicted':  dict(target='eps'),
    'x0 predicted':     dict(target='x0'),
    'min-SNR weight':   dict(weight='min-snr'),
    'log-normal sigma': dict(schedule=lognormal, sample_schedule=karras),
    'no average':       {},                                 # the weights of 'base' before averaging
    'average .9995':    dict(ema=.9995),
    'rate does not fall': dict(lr_end=None),
    'rate 4e-3':        dict(lr=4e-3),
    'batch of 64':      dict(bs=64),
    'weight of x0':     dict(weight='x0'),
    'Muon':             dict(opt=Muon),
    'Muon, rate 5e-3':  dict(opt=Muon, lr=5e-3),
    'Muon, batch of 64': dict(opt=Muon, bs=64),
    'dropout .1':       dict(net={**seed_net, 'dropout': .1}),
}
long = dict(epochs=15, opt=Muon, lr=3e-3)
table = {
    'main':        long,
    'attention':   dict(net=attentive, **long),
    'L1':          dict(kind='l1', **long),
    'conditional': dict(net=labelled, label_dropout=.1, **long),
}
seeds = {                                                           # other training seeds
    'seed 1':              dict(long, seed=1),
    'seed 2':              dict(long, seed=2),
    'conditional, seed 1': dict(table['conditional'], seed=1),
}
shipped = {'shipped': 'mnist', 'conditional, shipped': 'mnist-labels'}  # their seed was 0
hundred = cosine_beta(T=100)


@schedule
def entries(t):
    "The angles of the original's hundred steps and none between them"
    return hundred((100*t).ceil().clamp(min=1)/100)


def adam(weights, lr=None): return torch.optim.Adam(weights, 1e-3)


def glorot(net):
    "Begin as Flux does: uniform weights by fan in and fan out, biases zero"
    for m in net.modules():
        if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear)):
            torch.nn.init.xavier_uniform_(m.weight)
            if m.bias is not None: torch.nn.init.zeros_(m.bias)
        elif isinstance(m, torch.nn.Embedding): torch.nn.init.normal_(m.weight)


as_theirs = dict(target='eps', schedule=entries, sample_schedule=hundred, epochs=15, bs=32,
                 opt=adam, lr=None, ema=0., clip=math.inf, stratified=False, seed=2714,
                 items=54_000, start=glorot)
by_steps = dict(kind='timestep', schedule=hundred)
original = {                                      # as published: cosine betas, T = 100, 15 passes
    'no attention': dict(as_theirs, net={**seed_net, **by_steps}),
    'attention':    dict(as_theirs, net={**attentive, **by_steps}),
    'conditional':  dict(as_theirs, net={**labelled, **by_steps}, label_dropout=.2),
}

note = partial(common.note, 'mnist')


def train_one(section, name, setting, begun):
    "The model of a run, and what its training cost"
    o = {**base, **setting}
    data, test = load_data('mnist'), load_data('mnist', 'test', n=2000)
    items, begin = o.pop('items', None), o.pop('start', None)
    if items:                                   # the original holds a tenth out
        kept = torch.randperm(len(data.x), generator=torch.Generator().manual_seed(2714))[:items]
        data = data._replace(x=data.x[kept], y=data.y[kept])
    net, target = o.pop('net'), o.pop('target')
    levels = o.pop('schedule'), o.pop('sample_schedule')
    if 'classes' not in net: data, test = (d._replace(y=None) for d in (data, test))
    torch.manual_seed(o['seed'])
    model, start = Denoiser(UNet(1, **net), target, *levels), time.time()
    if begin: begin(model.net)
    model = fit(model, data, folder=run_folder(section, name), resume=begun,
                every=dict(save=1000), keep=1, **o)
    speed = sorted(model.history.column('speed'))
    loss = validate(model, test, n=2000)[0].mean().item()
    return model, dict(
        parameters=common.parameters(model.net), seconds=round(time.time() - start),
        images_per_s=round(speed[len(speed)//2]), epochs=o['epochs'],
        train_loss=sum(model.history.column('loss')[-200:])/200, valid_loss=loss, seed=o['seed'])


def run_folder(section, name): return runs/section/name.replace(' ', '_')


def trained(section, name, setting):
    "The same, from its folder if it is done already"
    make = partial(train_one, section, name, setting)
    return common.train_once(run_folder(section, name), make)


def load_raw(folder, model):
    "The weights as the last step left them"
    state = load_state(sorted(folder.glob('state-*.safetensors'))[-1])
    model.net.load_state_dict(state['model'])
    return model


def draw(model, sampler=dpmpp, calls=20, n=10_000, batch=50, seed=0, labels=None, w=1.):
    "Digits from fixed noise, and the seconds it took"
    return common.draw(model, sampler, calls, n, batch, lambda i: seed + i,
                       lambda i: 10**9 + seed + i, labels, w)


def measured(x, labels=None):
    "All that one looks at in a heap of digits"
    s = FLD('mnist-test')(x)
    row = dict(fld=s.value, se=s.se, n=s.n, debiased=s.debiased, floor=s.floor, percent=s.percent)
    if labels is not None: row['agreement'] = per_class(x, labels).accuracy
    return row


def picture(section, name, x):
    fname = results/'mnist'/f'{section}-{name}.png'.replace(' ', '_')
    common.keep_picture(fname, show_images(x[:24], cols=12))


def run(section, name):
    "Train, draw with DPM++ at 20 calls, measure"
    of = 'base' if name == 'no average' else name
    model, cost = trained(section, of, (ablation if section == 'ablation' else table)[of])
    if name == 'no average': model = load_raw(run_folder(section, of), model)
    heap(section, name, model, n=5000 if section == 'ablation' else 10_000, **cost)


def heap(section, name, model, sampler='dpmpp', calls=20, n=10_000, w=1., **about_it):
    "Draw, measure, note, keep a picture"
    labels = torch.arange(n) % 10 if unwrap(model.net).cfg.get('classes') else None
    x, seconds = draw(model, samplers[sampler], calls, n, labels=labels, w=w)
    row = {**about_it, **measured(x, labels), 'sampler': sampler, 'calls': calls,
           'sampling_seconds': round(seconds), 'sampling_seed': 0}
    note(section, name, {**row, 'w': w} if labels is not None else row)
    picture(section, name, x)


samplers = {
    'dpmpp': dpmpp,
    'dpmpp eta 1': partial(dpmpp, eta=1.),
    'heun': heun,
    'ddim': ddim,
    'ddim eta 1': partial(ddim, eta=1.),
    'ddpm': ddpm,
}
plan = {                            # name: sampler and steps; heun calls the network 2n - 1 times
    'DDIM, eta 0':  ('ddim', 20),
    'DDIM, eta 1':  ('ddim eta 1', 20),
    'DPM++, eta 1': ('dpmpp eta 1', 20),
    'Heun':         ('heun', 10),
    'DPM++, 10 calls': ('dpmpp', 10),
    'DPM++, 40 calls': ('dpmpp', 40),
    'DDPM':         ('ddpm', 100),
}


def seeded_rows(name):
    "One training seed: fewer calls, and several draws of digits at 20"
    model, cost = trained('seeds', name, seeds[name])
    rows_of(name, model, **cost)


def rows_of(name, model, n=10_000, **about_it):
    """The rows of one network that are not there yet: 20, 10 and 5 calls; without labels other
    digits at 20 too"""
    labels = torch.arange(n) % 10 if unwrap(model.net).cfg.get('classes') else None
    others = [(20, 10**6), (20, 2*10**6)] if labels is None else []
    if name == 'conditional, shipped':                      # its digits in 20 calls stand there
        row = {f'{name}, 20 calls, digits 0': common.noted('mnist')['guidance']['1']}
        common.change('mnist', lambda record: record['seeds'].update(row))
    for calls, seed in (20, 0), (10, 0), (5, 0), *others:
        row_name = f'{name}, {calls} calls, digits {seed//10**6}'
        if row_name in common.noted('mnist').get('seeds', {}): continue
        x, seconds = draw(model, samplers['dpmpp eta 1'], calls, n, seed=seed, labels=labels)
        row = dict(**about_it, **measured(x, labels), sampler='dpmpp eta 1', calls=calls,
                   sampling_seed=seed, sampling_seconds=round(seconds))
        note('seeds', row_name, row)


@torch.no_grad()
def original_steps(model, x, times, ddim, labels=None, w=1.):
    """The original's two loops, in its own formulas: DDPM with the small variance from the clipped
    x0; DDIM with eta = 1, whose eps is not computed anew from the clipped x0, and which ends at
    t = 1 with its noise withheld"""
    beta = torch.cat([torch.zeros(1).double(), betas(hundred)])
    abar = (1 - beta).cumprod(0)
    denoise = model if labels is None else guide(model, labels, w)
    pairs = zip(times[:-1], times[1:]) if ddim else ((t, t - 1) for t in times)
    for t, nxt in pairs:
        a, b = abar[t].item(), abar[nxt].item()
        eps = denoise(x, math.acos(a**.5)).eps
        x0 = ((x - (1 - a)**.5*eps)/a**.5).clamp(-1, 1)
        if ddim:
            std = ((1 - a/b)*(1 - b)/(1 - a))**.5
            x = b**.5*x0 + max(1 - b - std**2, 0.)**.5*eps
            if nxt > 1: x = x + std*torch.randn_like(x)
        else:
            now = beta[t].item()
            x = (now*b**.5*x0 + (1 - b)*(1 - now)**.5*x)/(1 - a)
            if t > 1: x = x + (now*(1 - b)/(1 - a))**.5*torch.randn_like(x)
    return x


def original_rows(name, n=10_000, batch=50):
    "The original's recipe, judged by ours"
    model, cost = trained('original', name, original[name])
    model.clip = False
    conditional = name == 'conditional'
    labels, w = (torch.arange(n) % 10, 2.) if conditional else (None, 1.)
    plans = {'DDIM, 20 calls': [*range(100, 0, -5), 1], 'DDPM, 100 calls': [*range(100, 0, -1)]}
    for plan_name, times in plans.items():
        out, start = [], time.time()
        for i in range(0, n, batch):
            torch.manual_seed(i)
            which = None if labels is None else labels[i:i + batch]
            x = torch.randn(batch, 1, 28, 28)
            out.append(original_steps(model, x, times, plan_name.startswith('DDIM'), which, w))
        x = torch.cat(out).clamp(-1, 1)
        row = {**cost, **measured(x, labels), 'sampling_seconds': round(time.time() - start),
               'sampling_seed': 0, **({'w': w} if conditional else {})}
        note('original', f'{name}, {plan_name}', row)
        picture('original', f'{name}-{plan_name}', x)


def ends():
    "What the scale means: real digits, and noise"
    some = torch.randperm(60_000, generator=torch.Generator().manual_seed(0))[:10_000]
    note('table', 'training data', measured(to_float(load_data('mnist').x[some])))
    noise = torch.randn(10_000, 1, 28, 28, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    note('table', 'noise', measured(noise))
    picture('table', 'noise', noise)


cards = {
    'mnist': ('main', 'Handwritten digits, 28x28, grey. U-Net of DenoisingDiffusion.jl, 376,913 '
              'parameters, without labels.'),
    'mnist-labels': ('conditional', 'Handwritten digits, 28x28, grey, with labels 0 to 9. U-Net of '
                     'DenoisingDiffusion.jl, 622,865 parameters; a tenth of the labels was '
                     'withheld, so it takes guidance.'),
}


def ship():
    "The two models that come with the package, in half precision, each with its card"
    for fname, (name, says) in cards.items():
        model, cost = trained('table', name, table[name])
        card = dict(
            card=says, data='MNIST, the 60,000 training images (LeCun, Cortes, Burges)',
            recipe=f'benchmarks/mnist.py table {name}', license='Apache-2.0',
            use='teaching, comparing samplers; nothing that matters should rest on it', **cost)
        file = results.parent/'diffnb'/f'{fname}.safetensors'
        print(save(file, model, dtype=torch.float16, **card))


def list_all():
    "What there is"
    tables = dict(ablation=ablation, table=table, samplers=plan, seeds=seeds, original=original)
    for verb, those in tables.items():
        for name in those: print(f'{verb} {name!r}')


def main():
    p = common.parser(__doc__)
    p.add_argument('verb', choices=['list', 'ablation', 'table', 'samplers', 'seeds', 'original',
                                    'guidance', 'ends', 'ship', 'shipped'])
    p.add_argument('names', nargs='*')
    p.add_argument('--threads', type=int, default=1)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    if a.verb in ('ablation', 'table'):
        for name in a.names or (ablation if a.verb == 'ablation' else table): run(a.verb, name)
    elif a.verb == 'samplers':
        model, cost = trained('table', 'main', table['main'])
        for name in a.names or plan: heap('samplers', name, model, *plan[name])
    elif a.verb == 'seeds':
        for name in a.names or seeds:
            if name in shipped: rows_of(name, load(shipped[name]), seed=0)
            else: seeded_rows(name)
    elif a.verb == 'original':
        for name in a.names or original: original_rows(name)
    elif a.verb == 'guidance':
        model, cost = trained('table', 'conditional', table['conditional'])
        for w in map(float, a.names or (0, 1, 1.5, 2, 3)):
            heap('guidance', f'{w:g}', model, 'dpmpp eta 1', w=w, **cost)
    elif a.verb == 'shipped':
        for name in a.names or cards: heap('shipped', name, load(name), 'dpmpp eta 1')
    else: dict(list=list_all, ends=ends, ship=ship)[a.verb]()


if __name__ == '__main__': main()
