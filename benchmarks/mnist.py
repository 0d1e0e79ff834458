"""The long runs of nbs/projects/mnist: train the networks of the ablation and of the table, draw digits, measure them, and note every number in results/mnist.json as it
comes. A training that was ended goes on where it stood. Needs MNIST in DIFFNB_DATA, or a network.

    python benchmarks/mnist.py list                    what there is
    python benchmarks/mnist.py ablation 'base' 'Muon'  train and measure some (all without names)
    python benchmarks/mnist.py table 'main'
    python benchmarks/mnist.py samplers                the network of 'main', many samplers
    python benchmarks/mnist.py guidance                the network of 'conditional', several scales
    python benchmarks/mnist.py ends                    real digits and noise
    python benchmarks/mnist.py ship                    write diffnb/mnist.safetensors and diffnb/mnist-labels.safetensors
    python benchmarks/mnist.py shipped                 measure those two from their files
"""
import argparse
import json
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
from diffnb.samplers import ddim, ddpm, dpmpp, heun, last
from diffnb.schedules import cosine, karras, lognormal, path
from diffnb.apps.optim import Muon
from diffnb.training import validate
from diffnb.apps.families import families
from diffnb.unet import UNet

runs = results.parent/'runs'/'mnist'
seed_net = {**families['julia'], 'mid_attention': False}                                # 376,913 parameters: DenoisingDiffusion.jl's
attentive = families['julia']                                                              # 602,705
labelled = {**families['julia'], 'classes': 10, 'combine': 'cat'}                          # 622,865

base = dict(net=seed_net, target='v', schedule=cosine, sample_schedule=None, epochs=2, bs=128, lr=2e-3, lr_end=0., ema=.998, seed=0)
ablation = {                                                                               # one change each
    'base':             {},
    'seed 1':           dict(seed=1),
    'Keras range':      dict(schedule=cosine(signal=(.95, .02))),
    'noise predicted':  dict(target='eps'),
    'x0 predicted':     dict(target='x0'),
    'min-SNR weight':   dict(weight='min-snr'),
    'log-normal sigma': dict(schedule=lognormal, sample_schedule=karras),
    'no average':       {},                                                                # the weights of 'base', before averaging
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


note = partial(common.note, 'mnist')


def trained(section, name, setting):
    "The model of a run, and what its training cost; from its folder if it is done already"
    folder = runs/section/name.replace(' ', '_')
    o = {**base, **setting}
    data, test = load_data('mnist'), load_data('mnist', 'test', n=2000)
    net, target, schedule, sample = (o.pop(k) for k in ('net', 'target', 'schedule', 'sample_schedule'))
    if 'classes' not in net: data = data._replace(y=None)
    done = folder/'done.json'
    if done.exists(): return load(folder), json.loads(done.read_text())
    torch.manual_seed(o['seed'])
    model, start = Denoiser(UNet(1, **net), target, schedule, sample), time.time()
    parameters = sum(p.numel() for p in model.net.parameters())
    begun = (folder/'log.csv').exists() and any(folder.glob('state-*'))
    model = fit(model, data, folder=folder, resume=begun, every=dict(save=1000), keep=1, **o)
    speed = sorted(model.history.column('speed'))
    loss = validate(model, test if 'classes' in net else test._replace(y=None), n=2000)[0].mean().item()
    cost = dict(parameters=parameters, seconds=round(time.time() - start), images_per_s=round(speed[len(speed)//2]), epochs=o['epochs'],
                train_loss=sum(model.history.column('loss')[-200:])/200, valid_loss=loss, seed=o['seed'])
    done.write_text(json.dumps(cost))
    return model, cost


def load_raw(folder, model):
    "The weights as the last step left them"
    state = load_state(sorted(folder.glob('state-*.safetensors'))[-1])
    model.net.load_state_dict(state['model'])
    return model


@torch.no_grad()
def draw(model, sampler=dpmpp, calls=20, n=10_000, batch=50, seed=0, labels=None, w=1.):
    "Digits from fixed noise, in batches; with the seconds it took"
    angles = path(model.sample_schedule or model.schedule, calls)
    out, start = [], time.time()
    for i in range(0, n, batch):
        g = torch.Generator().manual_seed(seed + i)
        denoise = guide(model, labels[i:i + batch], w) if labels is not None else model
        x = torch.randn((min(batch, n - i), 1, 28, 28), generator=g)
        torch.manual_seed(10**9 + seed + i)                      # fresh noise that is not the noise of the start again
        out.append(last(sampler(denoise, x, angles)).x.clamp(-1, 1))
    return torch.cat(out), time.time() - start


def measured(x, labels=None):
    "All that one looks at in a heap of digits"
    s = FLD('mnist-test')(x)
    row = dict(fld=s.value, se=s.se, n=s.n, debiased=s.debiased, floor=s.floor, percent=s.percent)
    if labels is not None: row['agreement'] = per_class(x, labels).accuracy
    return row


def picture(section, name, x):
    folder = results/'mnist'
    folder.mkdir(exist_ok=True)
    show_images(x[:24], cols=12).save(folder/f'{section}-{name}.png'.replace(' ', '_'), optimize=True)


def run(section, name):
    "Train, draw with DPM++ at 20 calls, measure"
    model, cost = trained(section, 'base' if name == 'no average' else name, (ablation if section == 'ablation' else table)[name])
    if name == 'no average': model = load_raw(runs/section/'base', model)
    heap(section, name, model, n=5000 if section == 'ablation' else 10_000, **cost)


def heap(section, name, model, sampler='dpmpp', calls=20, n=10_000, w=1., **about_it):
    "Draw, measure, note, keep a picture"
    labels = torch.arange(n) % 10 if unwrap(model.net).cfg.get('classes') else None
    x, seconds = draw(model, samplers[sampler], calls, n, labels=labels, w=w)
    row = {**about_it, **measured(x, labels), 'sampler': sampler, 'calls': calls, 'sampling_seconds': round(seconds), 'sampling_seed': 0}
    note(section, name, {**row, 'w': w} if labels is not None else row)
    picture(section, name, x)


samplers = {'dpmpp': dpmpp, 'dpmpp eta 1': partial(dpmpp, eta=1.), 'heun': heun, 'ddim': ddim, 'ddim eta 1': partial(ddim, eta=1.), 'ddpm': ddpm}
plan = {                                                                                   # name: sampler and steps; heun calls the network 2n - 1 times
    'DDIM, eta 0':  ('ddim', 20),
    'DDIM, eta 1':  ('ddim eta 1', 20),
    'DPM++, eta 1': ('dpmpp eta 1', 20),
    'Heun':         ('heun', 10),
    'DPM++, 10 calls': ('dpmpp', 10),
    'DPM++, 40 calls': ('dpmpp', 40),
    'DDPM':         ('ddpm', 100),
}


def ends():
    "What the scale means: real digits, and noise"
    some = torch.randperm(60_000, generator=torch.Generator().manual_seed(0))[:10_000]
    note('table', 'training data', measured(to_float(load_data('mnist').x[some])))
    noise = torch.randn(10_000, 1, 28, 28, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    note('table', 'noise', measured(noise))
    picture('table', 'noise', noise)


cards = {
    'mnist': ('main', 'Handwritten digits, 28x28, grey. U-Net of DenoisingDiffusion.jl, 376,913 parameters, without labels.'),
    'mnist-labels': ('conditional', 'Handwritten digits, 28x28, grey, with labels 0 to 9. U-Net of DenoisingDiffusion.jl, 622,865 parameters; a tenth of the labels '
                                    'was withheld, so it takes guidance.'),
}


def ship():
    "The two models that come with the package, in half precision, each with its card"
    for fname, (name, says) in cards.items():
        model, cost = trained('table', name, table[name])
        card = dict(card=says, data='MNIST, the 60,000 training images (LeCun, Cortes, Burges)', recipe=f'benchmarks/mnist.py table {name}',
                    use='teaching, comparing samplers; nothing that matters should rest on it', license='Apache-2.0', **cost)
        print(save(results.parent/'diffnb'/f'{fname}.safetensors', model, dtype=torch.float16, **card))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('verb', choices=['list', 'ablation', 'table', 'samplers', 'guidance', 'ends', 'ship', 'shipped'])
    p.add_argument('names', nargs='*')
    p.add_argument('--threads', type=int, default=1)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    if a.verb == 'list': print('\n'.join(f'{verb} {k!r}' for verb, those in dict(ablation=ablation, table=table, samplers=plan).items() for k in those))
    elif a.verb in ('ablation', 'table'):
        for name in a.names or (ablation if a.verb == 'ablation' else table): run(a.verb, name)
    elif a.verb == 'samplers':
        model, cost = trained('table', 'main', table['main'])
        for name in a.names or plan: heap('samplers', name, model, *plan[name])
    elif a.verb == 'guidance':
        model, cost = trained('table', 'conditional', table['conditional'])
        for w in map(float, a.names or (0, 1, 1.5, 2, 3)): heap('guidance', f'{w:g}', model, 'dpmpp eta 1', w=w, **cost)
    elif a.verb == 'shipped':
        for name in a.names or cards: heap('shipped', name, load(name), 'dpmpp eta 1')
    else: dict(ends=ends, ship=ship)[a.verb]()


if __name__ == '__main__': main()
