"""Training beside diffusers, lucidrains and smalldiffusion: U-Nets of the same size (377,000
parameters, within 10 %), 28x28, batch 128, forward + backward + optimiser + moving average, each in
its own loop and with its own network, target, schedule and averaging.

    python benchmarks/training.py                    images per second, taking turns in one process
    python benchmarks/training.py --reach NAME ...   images until the noise's error is low enough
    python benchmarks/training.py --table            what results/training.json holds

Images per second flatter a weak network, so there is a second measure: how many images it takes
until the mean squared error of the noise, on 500 held-out images at fixed timesteps of the linear
schedule with fixed noise, is .06, .05 and .045, with raw and with averaged weights. That number
depends on no clock, so it may be counted on a busy machine. Divided by the images per second it
gives seconds. (With --threads 1 so may the speed: seconds are those that the processor gave.)
Theirs are tried with the rate of their own example or trainer, and with 1e-3.

MNIST is used when it lies in DIFFNB_DATA, the built-in digits enlarged to 28x28 otherwise.
"""
import copy
import importlib.util
import time

import torch
from torch.utils.data import DataLoader, TensorDataset

from common import note, noted, parser, turns
from diffnb.angle import Guess, mix, unmix
from diffnb.apps.datasets import load_data
from diffnb.apps.optim import knows_bf16, optimiser, product_dtype
from diffnb.data import batches
from diffnb.denoiser import Denoiser
from diffnb.kit.pictures import to_float
from diffnb.schedules import cosine, linear_beta, timestep
from diffnb.training import EMA, train
from diffnb.apps.families import families
from diffnb.unet import UNet

bs = 128
muon_rate = 4e-3
levels = .06, .05, .045
julia = {**families['julia'], 'mid_attention': False}      # 376,913 parameters


def images():
    def load(**kw): return load_data('mnist', download=False, **kw)
    try: return 'MNIST', load(), load(split='test', n=500)
    except ValueError:
        small = dict(size=28)
        return 'digits', load_data('digits', **small), load_data('digits', 'test', n=500, **small)


def forever(data):
    "Batches as their users make them: a DataLoader over tensors"
    while True:
        loader = DataLoader(TensorDataset(to_float(data.x)), bs, shuffle=True, drop_last=True)
        yield from (b[0] for b in loader)


class Ours:
    "The recipe of `fit`, without the fall of the rate at the end"
    def __init__(self, data, net, target, schedule, precision, opt='adamw', lr=2e-3, warmup=25):
        self.net, self.model = net, Denoiser(net, target, schedule)
        half = product_dtype(precision, torch.zeros(1, 1, 1, 1))
        if not half: self.model.to(memory_format=torch.channels_last)
        self.ema = EMA(self.model, .999)
        made = optimiser(self.model, opt, lr)
        how = dict(warmup=warmup, precision=half)
        self.loop = train(self.model, batches(data, bs), 10**9, lr, made, **how)

    def step(self):
        next(self.loop)
        self.ema.update_parameters(self.model)

    def guess(self, x, phi, raw): return (self.model if raw else self.ema)(x, phi)


class Theirs:
    "A U-Net that predicts noise, told a timestep of the linear schedule; subclasses have the loop"
    def guess(self, x, phi, raw):
        t = timestep(linear_beta, phi).round().long()
        net = (self.net if raw else self.average()).eval()
        return unmix(x, self.eps(net, x, t), phi, 'eps')

    def descend(self, loss, weights):
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.)
        self.opt.step()
        self.opt.zero_grad()


class Diffusers(Theirs):
    "As in examples/unconditional_image_generation: AdamW 1e-4, warm-up, an average with power 3/4"
    own = 1e-4

    def __init__(self, data, lr):
        from diffusers import DDPMScheduler, UNet2DModel
        from diffusers.training_utils import EMAModel
        kinds = dict(down_block_types=('DownBlock2D',)*3, up_block_types=('UpBlock2D',)*3)
        self.net = UNet2DModel(
            sample_size=28, in_channels=1, out_channels=1, layers_per_block=1, norm_num_groups=8,
            block_out_channels=(24, 32, 40), add_attention=False, **kinds)
        self.scheduler, self.data = DDPMScheduler(), forever(data)
        betas = (.95, .999) if lr == self.own else (.9, .999)
        self.opt = torch.optim.AdamW(self.net.parameters(), lr, betas)
        self.ema = EMAModel(self.net.parameters(), .9999, use_ema_warmup=True, power=.75)

    def step(self):
        self.net.train()
        x0 = next(self.data)
        eps, t = torch.randn_like(x0), torch.randint(0, 1000, (len(x0),))
        out = self.net(self.scheduler.add_noise(x0, eps, t), t).sample
        self.descend(torch.nn.functional.mse_loss(out, eps), self.net.parameters())
        self.ema.step(self.net.parameters())

    def average(self):
        net = copy.deepcopy(self.net)
        self.ema.copy_to(net.parameters())
        return net

    def eps(self, net, x, t): return net(x, t).sample


class Lucidrains(Theirs):
    "As its Trainer: Adam 1e-4 with betas (.9, .99), an average of every tenth step"
    own = 1e-4

    def __init__(self, data, lr):
        from denoising_diffusion_pytorch import GaussianDiffusion, Unet
        from ema_pytorch import EMA as Average
        self.net = Unet(dim=16, dim_mults=(1, 2, 2), channels=1)
        self.diffusion = GaussianDiffusion(self.net, image_size=28, timesteps=1000,
                                           objective='pred_noise', beta_schedule='linear')
        self.data, weights = forever(data), self.diffusion.parameters()
        if lr == self.own: self.opt = torch.optim.Adam(weights, lr, (.9, .99))
        else: self.opt = torch.optim.AdamW(weights, lr)
        self.ema = Average(self.diffusion, beta=.995, update_every=10 if lr == self.own else 1)

    def step(self):
        self.diffusion.train()
        loss = self.diffusion((next(self.data) + 1)/2)
        self.descend(loss, self.diffusion.parameters())
        self.ema.update()

    def average(self): return self.ema.ema_model.model

    def eps(self, net, x, t): return net(x, t)


class Small(Theirs):
    "As its examples: its training_loop with 7e-4, and an average of .99 with the usual warm-up"
    own = 7e-4

    def __init__(self, data, lr):
        from smalldiffusion import ScheduleDDPM, Unet, training_loop
        self.net = Unet(28, 1, 1, ch=32, ch_mult=(1, 1, 1), num_res_blocks=1, attn_resolutions=())
        self.ema = EMA(self.net, .99)
        def collate(items): return torch.stack([o[0] for o in items])
        loader = DataLoader(TensorDataset(to_float(data.x)), bs, shuffle=True, drop_last=True,
                            collate_fn=collate)
        schedule = ScheduleDDPM(1000, 1e-4, .02)
        self.loop = training_loop(loader, self.net, schedule, epochs=10**6, lr=lr)
        next(self.loop)

    def step(self):                                        # it yields between forward and backward
        next(self.loop)
        self.ema.update_parameters(self.net)

    def average(self): return self.ema.module

    def guess(self, x, phi, raw):                          # its coordinates are x0 + sigma eps
        net, sigma = (self.net if raw else self.average()).eval(), phi.tan().float()
        x = x/phi.cos().view(-1, 1, 1, 1).to(x)
        return Guess(None, net.predict_eps(x, sigma.view(-1, 1, 1, 1)))


@torch.no_grad()
def error(c, test, raw):
    "Mean squared error of the noise on fixed images, timesteps and noise"
    g = torch.Generator().manual_seed(0)
    x0 = to_float(test.x)
    phi = linear_beta((torch.randint(0, 1000, (len(x0),), generator=g) + 1)/1000)
    eps = torch.randn(x0.shape, generator=g)
    return (c.guess(mix(x0, eps, phi), phi, raw).eps - eps).square().mean().item()


def contestants():
    "{name: function of the data}"
    found = {}
    def ours(name, net, precision, *target, **recipe):
        label = f'ours, {name}'
        found[label] = lambda data: Ours(data, UNet(1, **net), *target, precision, **recipe)
    precisions = {'float32': None} | ({'bf16': 'bf16'} if knows_bf16() else {})
    for label, p in precisions.items():                    # bf16 that is emulated says nothing
        ours(f'{label}', {}, p, 'v', cosine)
        ours(f'{label}, Muon', {}, p, 'v', cosine, opt='muon', lr=muon_rate)
        ours(f"{label}, Julia's network", julia, p, 'eps', linear_beta, lr=1e-3)
    peers = dict(diffusers=Diffusers, denoising_diffusion_pytorch=Lucidrains, smalldiffusion=Small)
    for module, make in peers.items():
        if not importlib.util.find_spec(module):
            print(f'{module} is not installed and stays out: make bench installs it')
            continue
        found[module] = lambda data, make=make: make(data, 1e-3)
        found[f'{module}, its rate'] = lambda data, make=make: make(data, make.own)
    return found


def speeds(a):
    "Images per second, all in turns"
    name, data, _ = images()
    torch.manual_seed(0)
    names = a.only or [k for k in contestants() if not k.endswith('its rate')]
    made = {k: make(data) for k, make in contestants().items() if k in names}
    def chunk(o):
        def go():
            for _ in range(a.chunk): o.step()
            return a.chunk*bs
        return go
    clock = time.process_time if a.threads == 1 else time.perf_counter
    seconds = turns({k: chunk(o) for k, o in made.items()}, a.rounds, 1, clock)
    for k, o in made.items():
        row = dict(data=name, batch=bs, rounds=a.rounds, chunk=a.chunk)
        size = sum(w.numel() for w in o.net.parameters())
        row |= dict(images_per_second=round(1/seconds[k], 1), parameters=size)
        note('training', 'images per second', k, row)


def reach(key, a):
    "Train until the lowest level is reached with raw and with averaged weights, or too long"
    name, data, test = images()
    torch.manual_seed(a.seed)
    o, curve, found = contestants()[key](data), [], {}
    for i in range(1, a.most + 1):
        o.step()
        if i % a.every and i < a.most: continue
        errors = {kind: error(o, test, kind == 'raw') for kind in ('raw', 'averaged')}
        curve.append((i*bs, *(round(e, 5) for e in errors.values())))
        for kind, e in errors.items():
            for level in levels:
                if e <= level: found.setdefault(f'{level:g} {kind}', i*bs)
        if f'{levels[-1]:g} raw' in found and f'{levels[-1]:g} averaged' in found: break
    row = dict(data=name, batch=bs, seed=a.seed, images=found, curve=curve)
    note('training', 'images until an error', key, row)


def table():
    "Seconds to an error: images until then, divided by images per second"
    record = noted('training')
    speed, until = record.get('images per second', {}), record.get('images until an error', {})
    heads = [f'{level:g} {kind}' for kind in ('raw', 'averaged') for level in levels]
    head = f"{'seconds to an error of the noise':<38}{'images/s':>10}"
    print(head + ''.join(f'{h:>16}' for h in heads))
    for k, row in until.items():
        per = speed.get(k.removesuffix(', its rate'), {}).get('images_per_second', float('nan'))
        def cell(h):
            if h in row['images']: return f"{row['images'][h]/per:.1f}"
            return f"> {row['curve'][-1][0]/per:.1f}"
        print(f'{k:<38}{per:>10.0f}' + ''.join(f'{cell(h):>16}' for h in heads))


def main():
    p = parser(__doc__)
    p.add_argument('--rounds', type=int, default=12, help='turns of each')
    p.add_argument('--chunk', type=int, default=2, help='steps in a turn')
    p.add_argument('--threads', type=int, default=2)
    p.add_argument('--only', nargs='*', metavar='NAME', help='time these; without it, all')
    p.add_argument('--reach', nargs='*', metavar='NAME', help='train these; without a name, all')
    p.add_argument('--every', type=int, default=10, help='steps between measurements of the error')
    p.add_argument('--most', type=int, default=400, help='steps after which a training is given up')
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--table', action='store_true', help='print what was measured')
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    if a.reach is None and not a.table: speeds(a)
    for key in (a.reach or list(contestants())) if a.reach is not None else (): reach(key, a)
    table()


if __name__ == '__main__': main()
