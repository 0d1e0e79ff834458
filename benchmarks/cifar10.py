"""The long run of nbs/projects/cifar10. Trains a small U-Net on the colour pictures at hand, once
for each objective (noise, image, v), draws with every sampler, variance and number of steps, and
notes each number in results/cifar10.json as it comes, pictures in results/cifar10. What was ended
goes on where it stood.

    python benchmarks/cifar10.py               everything: an hour and three quarters on one core
    python benchmarks/cifar10.py main          a part: the table
    python benchmarks/cifar10.py objectives    the other two objectives
    python benchmarks/cifar10.py speed         the original's network on this machine
    python benchmarks/cifar10.py shares        a trial with MNIST's network
    python benchmarks/cifar10.py best          the best of half an hour of one core

The original's configuration, whole, for a GPU; and on eight, the same but for the dropout masks:

    python benchmarks/cifar10.py full --folder runs/cifar10
    accelerate launch --multi_gpu --num_processes 8 \\
        benchmarks/cifar10.py full --folder runs/cifar10

Data, the first that is there in DIFFNB_DATA: CIFAR-10 whole (torchvision's files),
cifar10/cifar10_exact.npz (6,000 + 1,017 of its pictures), else the built-in digits in colours.
`full` downloads CIFAR-10 where it is not there.
"""
import os
import time
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import common
from common import about, results
from diffnb.apps.checkpoints import load, save
from diffnb.apps.datasets import load_data
from diffnb.apps.runs import fit
from diffnb.data import Images
from diffnb.denoiser import Denoiser
from diffnb.fld import FLD
from diffnb.kit.pictures import show_images, to_float
from diffnb.samplers import ddim, ddpm, dpmpp, heun
from diffnb.schedules import cosine, linear_beta
from diffnb.training import train, validate
from diffnb.apps.families import families
from diffnb.unet import UNet
from readers import accuracy, in_parts, taught

runs = results.parent/'runs'/'cifar10'
cifar = {**families['adm'], 'attention': [1]}    # configs/ddpm_cifar10.yaml: 35,746,307 parameters
small = {}                                       # our default U-Net in colours: 349,955
recipe = dict(steps=5600, bs=64, opt='muon', lr=3e-3, ema=.998, flip=True, seed=0)
best = dict(recipe, steps=6000, ema=.999, label_dropout=.1)
objectives = 'eps', 'x0', 'v'
samplers = {
    'DDPM, fixed large': partial(ddpm, var='large'),
    'DDPM, fixed small': ddpm,
    'DDIM, eta 0':       ddim,
    'DDIM, eta 1':       partial(ddim, eta=1.),
    'Heun':              partial(heun, average='eps'),      # in sigma, as the original's
    'Heun in the angle': heun,
    'DPM++':             dpmpp,
    'DPM++, eta 1':      partial(dpmpp, eta=1.),
}
columns = 10, 20, 50, 100, 1000
few = {                                          # for the others: all columns
    **dict.fromkeys(('DDIM, eta 1', 'DPM++, eta 1', 'Heun in the angle'), (10, 20)),
    **dict.fromkeys(('Heun', 'DPM++'), (10, 20, 50, 100)),
}


def in_colours(split):
    "The stand-in: built-in digits, 32x32, each in a colour of its own on another"
    d = load_data('digits', split, size=32)
    g = torch.Generator().manual_seed(int(split == 'test'))
    ends = torch.rand(2, len(d.x), 3, 1, 1, generator=g)
    share = d.x/255.
    return Images(((ends[0] + share*(ends[1] - ends[0]))*255).round().byte(), d.y, d.names)


def pictures():
    "Training and test pictures, and what they are"
    root = Path(os.environ.get('DIFFNB_DATA', Path.home()/'.cache'/'diffnb'))
    if (root/'cifar-10-batches-py').is_dir():
        train, test = (load_data('cifar10', part, download=False) for part in ('train', 'test'))
        return train, test, 'CIFAR-10'
    part = root/'cifar10'/'cifar10_exact.npz'
    if part.exists(): return load_data(part), load_data(part, 'test'), 'a part of CIFAR-10'
    what = 'the built-in digits in colours, in place of CIFAR-10'
    return in_colours('train'), in_colours('test'), what


def note(a, section, row):
    "Put rows into results/cifar10.json"
    common.change('cifar10', lambda record: record.setdefault(section, {}).update(row), a.out)
    machine = about()
    def short(v): return {k: x for k, x in v.items() if k not in machine}
    said = {k: short(v) if isinstance(v, dict) else v for k, v in row.items()}
    print(section, '|', said, flush=True)


def noted(a): return common.noted('cifar10', a.out)


class Reader(nn.Module):
    "A small classifier; its last hidden layer is what pictures are compared by"
    def __init__(self, classes=10, width=64):
        super().__init__()
        def floor(cin, cout):
            conv = nn.Conv2d(cin, cout, 3, padding=1, bias=False)
            return nn.Sequential(conv, nn.BatchNorm2d(cout), nn.ReLU(), nn.MaxPool2d(2))
        self.body = nn.Sequential(
            floor(3, width//2), floor(width//2, width), floor(width, width),
            nn.Flatten(), nn.Dropout(.3), nn.Linear(16*width, 64), nn.ReLU())
        self.last = nn.Linear(64, classes)

    def forward(self, x): return self.last(self.body(x))


def moved(x, g):
    "A batch moved by up to four pixels, what is missing mirrored in"
    dy, dx = torch.randint(9, (2,), generator=g).tolist()
    return F.pad(x, [4]*4, mode='reflect')[:, :, dy:dy+32, dx:dx+32]


def reader(a, data, test):
    "The judge's network, trained on the training pictures: from its file if it is there"
    torch.manual_seed(0)
    net, fname = Reader(len(data.names)), a.folder/'reader.safetensors'
    start, known = time.process_time(), fname.exists()
    net = taught(net, fname, data, a.reader_steps, 64, moved)
    if not known:
        note(a, 'judge', dict(
            **about(), parameters=common.parameters(net), steps=a.reader_steps, batch=64, seed=0,
            cpu_seconds=round(time.process_time() - start), accuracy_train=accuracy(net, data),
            accuracy_test=accuracy(net, test), n_test=len(test.x)))
    return net


def judge(a, data, test):
    """The distance, in the features of the reader; the training pictures are the reference, the
    test pictures give the floor"""
    a.net = reader(a, data, test)
    return FLD(data, features=lambda x: in_parts(a.net.body, x, 500), real=test)


def train_one(a, data, target, begun):
    "The network of one objective, and what its training cost"
    torch.manual_seed(recipe['seed'])
    model, start = Denoiser(UNet(3, **small), target, linear_beta), time.process_time()
    o = {**recipe, 'steps': a.steps}
    model = fit(model, data._replace(y=None), folder=a.folder/target, resume=begun,
                every=dict(save=500), keep=1, progress=False, **o)
    spent = round(time.process_time() - start)
    speed, losses = sorted(model.history.column('speed')), model.history.column('loss')[-200:]
    valid = validate(model, a.test._replace(y=None), n=1000)[0].mean().item()
    return model, {
        **about(), **o, 'target': target, 'schedule': 'linear_beta',
        'parameters': common.parameters(model), 'cpu_seconds': spent, 'resumed': begun,
        'images_per_s': round(speed[len(speed)//2]), 'passes': a.steps*recipe['bs']/len(data.x),
        'train_loss': sum(losses)/len(losses), 'valid_loss': valid}


def trained(a, data, target):
    "The same, from its folder if it is done already"
    return common.train_once(a.folder/target, partial(train_one, a, data, target))


def draw(model, sampler, steps, spacing, n, seed=0, batch=50):
    "n pictures, each guess cut off at -1 and 1 as the original does"
    return common.draw(model, sampler, steps, n, batch, lambda i: 1_000_000*seed + i,
                       clip=True, spacing=spacing)[0]


def row(a, section, name, model, sampler, calls, spacing='leading', seed=0, picture=True):
    "One row: draw, measure, note; skipped if it is there"
    if name in noted(a).get(section, {}): return
    n, start = a.n if calls < 1000 else a.n_long, time.process_time()
    twice = sampler.startswith('Heun')
    steps = (calls + 1)//2 if twice else calls
    x = draw(model, samplers[sampler], steps, spacing, n, seed)
    s = a.meter(x)
    note(a, section, {name: {
        **about(), 'calls': 2*steps - 1 if twice else steps, 'steps': steps, 'spacing': spacing,
        'n': n, 'sampling_seed': seed, 'training_seed': 0, 'fld': s.value, 'se': s.se,
        'floor': s.floor, 'percent': s.percent, 'percent_se': s.percent_se,
        'debiased': s.debiased, 'spread': x.std().item(),
        'cpu_seconds': round(time.process_time() - start)}})
    if picture:
        fname = a.out/'cifar10'/f'{section}-{name}.png'.replace(' ', '_')
        common.keep_picture(fname, show_images(x[:12], cols=12, scale=1, pad=1), 48)


def table(a, some=None):
    model = trained(a, a.data, 'eps')[0]
    for calls in some or a.calls or columns:
        for name, sampler in samplers.items():
            if calls not in few.get(name, columns): continue
            row(a, 'table', f'{name}, {calls}', model, name, calls,
                seed=int(name == 'DDIM, eta 1'), picture=calls in (10, 50, 1000))


def spacings(a):
    model = trained(a, a.data, 'eps')[0]
    for spacing in ('trailing', 'quad', 'linspace'):        # 'leading' is in the table
        for name in ('DDPM, fixed large', 'DDPM, fixed small', 'DDIM, eta 0', 'DPM++'):
            row(a, 'spacings', f'{name}, {spacing}', model, name, 20, spacing, picture=False)


def others(a):
    for target in ('x0', 'v'):                              # 'eps' is in the table
        model, cost = trained(a, a.data, target)
        note(a, 'training', {target: cost})
        for var in ('large', 'small'):
            row(a, 'objectives', f'{target}, fixed {var}', model, f'DDPM, fixed {var}', 50,
                picture=var == 'small')


def train_best(a, begun):
    "MNIST's recipe for these pictures: labels, attention, v, cosine; and what its training cost"
    torch.manual_seed(best['seed'])
    net = {**families['julia'], 'classes': 10, 'combine': 'cat'}
    model, start = Denoiser(UNet(3, **net), 'v', cosine), time.process_time()
    o = dict(best, steps=a.steps if a.steps_given else best['steps'])
    model = fit(model, a.data, folder=a.folder/'best', resume=begun, every=dict(save=500), keep=1,
                progress=False, **o)
    losses = model.history.column('loss')[-200:]
    valid = validate(model, a.test, n=1000)[0].mean().item()
    return model, {
        **o, 'parameters': common.parameters(model), 'resumed': begun,
        'cpu_seconds': round(time.process_time() - start), 'valid_loss': valid,
        'passes': o['steps']*o['bs']/len(a.data.x), 'train_loss': sum(losses)/len(losses)}


def whole_best(a):
    """Train, draw with several scales of guidance, measure; and beside it the network of the table,
    by the same judge"""
    model, cost = common.train_once(a.folder/'best', partial(train_best, a))
    note(a, 'training', {'best': {**about(), **cost}})
    plain = load(results/'cifar10'/'eps.safetensors')
    row(a, 'best', 'the network of the table, DPM++', plain, 'DPM++', 20, picture=False)
    labels = torch.arange(a.n) % 10
    for w, seed in ((1., 0), (1.5, 0), (2., 0), (1., 1), (1.5, 1), (2., 1)):
        best_row(a, f'w {w:g}, seed {seed}', model, labels, w, seed)


def best_row(a, name, model, labels, w, seed):
    "A row of 20 calls and 1,000 pictures with labels; skipped if it is there"
    if name in noted(a).get('best', {}): return
    start = time.process_time()
    x, _ = common.draw(model, samplers['DPM++, eta 1'], 20, a.n, 50, lambda i: 1_000_000*seed + i,
                       lambda i: 10**9 + 1_000_000*seed + i, labels, w, clip=True)
    s, read = a.meter(x), in_parts(a.net, x, 500).argmax(1)
    note(a, 'best', {name: {
        **about(), 'w': w, 'calls': 20, 'n': a.n, 'sampling_seed': seed, 'training_seed': 0,
        'agreement': read.eq(labels).double().mean().item(), 'fld': s.value, 'se': s.se,
        'floor': s.floor, 'percent': s.percent, 'percent_se': s.percent_se,
        'spread': x.std().item(), 'cpu_seconds': round(time.process_time() - start)}})
    fname = a.out/'cifar10'/f'best-{name}.png'.replace(' ', '_')
    common.keep_picture(fname, show_images(x[:40], cols=10, scale=2, pad=1), 128)


def ends(a):
    "What the scale means: test pictures, and noise"
    test, g = to_float(a.test.x), torch.Generator().manual_seed(1)
    noise = torch.randn(a.n, 3, 32, 32, generator=g).clamp(-1, 1)
    for name, x in {'test pictures': test[:a.n], 'noise': noise}.items():
        s = a.meter(x)
        found = dict(n=len(x), fld=s.value, se=s.se, floor=s.floor, percent=s.percent)
        note(a, 'ends', {name: found})
    note(a, 'data', dict(what=a.what, n_train=len(a.data.x), n_test=len(a.test.x)))


def ship(a):
    "The network of the table, in half precision, beside the results: the notebook draws with it"
    model, cost = trained(a, a.data, 'eps')
    says = (f'32x32 colour pictures: {a.what}. A small U-Net that predicts noise, linear betas, '
            '1000 steps. For teaching; its pictures are not good.')
    card = dict(card=says, data=a.what, recipe='benchmarks/cifar10.py main', license='Apache-2.0',
                parameters=cost['parameters'], steps=cost['steps'], seed=0)
    (a.out/'cifar10').mkdir(exist_ok=True)
    print(save(a.out/'cifar10'/'eps.safetensors', model, dtype=torch.float16, **card))


def whole(a):
    "Everything about the network of the table"
    ends(a)
    note(a, 'training', {'eps': trained(a, a.data, 'eps')[1]})
    ship(a)
    table(a, [10, 20, 50])
    spacings(a)
    table(a)


def speed(a, bs=8, steps=4):
    """The real configuration on this machine: a few steps, in seconds of one core, and what a
    picture costs in floating-point operations"""
    with torch.device('meta'): meta = UNet(3, **cifar)
    with FlopCounterMode(display=False) as counter:
        meta(torch.empty(1, 3, 32, 32, device='meta'), torch.empty(1, device='meta'))
    model = Denoiser(UNet(3, **cifar), 'eps', linear_beta)
    x0 = torch.rand(bs, 3, 32, 32)*2 - 1
    out = dict(**about(), parameters=common.parameters(model),
               flops_forward=counter.get_total_flops(), batch=bs)
    for name, precision in (('float32', None), ('bf16', torch.bfloat16)):
        loop = train(model, (x0 for _ in range(steps)), steps, lr=2e-4, opt=torch.optim.Adam,
                     precision=precision)
        times = [time.process_time()]           # of the core, whoever else is at work
        for _ in loop: times.append(time.process_time())
        took = sorted(after - before for before, after in zip(times, times[1:]))
        out[f'images_per_s_{name}'] = round(bs/took[len(took)//2], 3)
    note(a, 'speed', out)


def shares(a):
    """Half a share of fresh noise, on MNIST with load('mnist'): when the start and the first fresh
    noise have one seed, and when they have two"""
    model, meter = load('mnist'), FLD('mnist-test')
    for name, sampler, etas in (('DDIM', ddim, (0., .5, 1.)), ('DPM++', dpmpp, (0., .7, 1.))):
        for eta in etas:
            for seeds, far in (('two seeds', 10**6), ('one seed', 0))[:1 + bool(eta)]:
                key = f'{name}, eta {eta:g}, {seeds}'
                if key in noted(a).get('shares', {}): continue
                x, _ = common.draw(model, partial(sampler, eta=eta), 20, a.n, 50,
                                   lambda i: i, lambda i: i + far)
                s = meter(x)
                note(a, 'shares', {key: dict(
                    **about(), n=a.n, calls=20, fld=s.value, se=s.se, floor=s.floor,
                    percent=s.percent, percent_se=s.percent_se)})


def full(a):
    """configs/ddpm_cifar10.yaml as it stands, on CIFAR-10 whole: Adam at 2e-4 for 800,000 batches
    of 128, flips, clipping at 1, average of .9999"""
    torch.manual_seed(2022)
    model = Denoiser(UNet(3, **({'width': 8} if a.tiny else cifar)), 'eps', linear_beta)
    begun = any(a.folder.glob('state-*'))
    data = in_colours('train') if a.tiny else load_data('cifar10')
    steps = a.steps if a.steps_given else 800_000
    every = dict(valid=0, save=min(10_000, steps), preview=min(5_000, steps))
    fit(model, data._replace(y=None), steps=steps, bs=128, lr=2e-4, lr_end=None, warmup=0,
        opt='adam', ema=.9999, flip=True, clip=1., accumulate=a.accumulate, precision='auto',
        every=every, folder=a.folder, resume=begun, keep=2, seed=2022,
        device='cuda' if torch.cuda.is_available() else None)


def main():
    p = common.parser(__doc__)
    parts = dict(main=whole, objectives=others, table=table, spacings=spacings, ship=ship,
                 judge=ends, speed=speed, shares=shares, best=whole_best, full=full)
    p.add_argument('part', nargs='?', choices=parts, help='everything but full when not given')
    p.add_argument('--n', type=int, default=1000, help='pictures in a row')
    p.add_argument('--n-long', type=int, default=1000, help='pictures in a row of 1000 calls')
    p.add_argument('--calls', type=int, nargs='+', help='table: only these columns')
    p.add_argument('--steps', type=int,
                   help=f"of each training; {recipe['steps']}, or 800,000 for full")
    p.add_argument('--reader-steps', type=int, default=1900)
    p.add_argument('--accumulate', type=int, default=1,
                   help='full: parts in which a batch is processed')
    p.add_argument('--tiny', action='store_true',
                   help='full: a tiny network and the stand-in, to try the command out')
    p.add_argument('--folder', type=Path, default=runs, help='where trainings are kept')
    p.add_argument('--out', type=Path, default=results)
    p.add_argument('--threads', type=int, default=1)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    a.steps_given, a.steps = a.steps is not None, a.steps or recipe['steps']
    if a.part in ('full', 'speed', 'shares'): return parts[a.part](a)
    a.folder.mkdir(parents=True, exist_ok=True)
    a.data, a.test, a.what = pictures()
    a.meter = judge(a, a.data, a.test)
    if a.part: return parts[a.part](a)
    whole(a)
    others(a)


if __name__ == '__main__': main()
