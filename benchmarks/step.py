"""What a training step costs the host beside the network: milliseconds on the CPU, 35.7 M
parameters (Ho et al.'s U-Net for CIFAR-10), 128 items of 3x32x32 for this process, alone and as
one of eight. The network itself is not run.

    python benchmarks/step.py        writes results/step.json

"before" are the parts as the first edition had them: `AveragedModel`, `train()` and `eval()` of
every module, and the noise of all processes drawn by each. "a copy" copies the weights once: the
average reads two sets of weights and writes one, so it cannot cost less than about that, and what
it costs is the memory's speed. `beside` is the sum without the average.
Every part is called 40 times. `ms` are the medians, `least` the shortest calls, which say more on
a machine that is doing something else besides; the sums are made of the latter.
"""
import statistics
import time

import torch
from torch.optim.swa_utils import AveragedModel

from common import keep
from diffnb.angle import combine, rates, targets
from diffnb.data import batches
from diffnb.denoiser import Denoiser
from diffnb.schedules import cosine
from diffnb.kit.checks import stable_seed
from diffnb.kit.steps import generator_on, mode_switch, own_dice
from diffnb.training import EMA, step_noise
from diffnb.apps.families import families
from diffnb.unet import UNet

bs, n = 128, 40


def ms(f):
    "Median and least of some calls, in milliseconds"
    took = []
    for i in range(n + 3):
        tick = time.perf_counter()
        f(i)
        took.append(1e3*(time.perf_counter() - tick))
    return round(statistics.median(took[3:]), 3), round(min(took[3:]), 3)


model = Denoiser(UNet(3, **families['adm']), 'eps', cosine)
data = torch.randint(0, 256, (5000, 3, 32, 32), dtype=torch.uint8)
x0 = next(batches(data, bs))[0]
ema, switch = EMA(model, .9999), mode_switch(model)
def first_edition(mean, now, k):
    torch._foreach_lerp_(mean, now, 1 - min(.9999, (1 + int(k))/(10 + int(k))))


old = AveragedModel(model, multi_avg_fn=first_edition)
weights, copies = list(model.parameters()), list(ema.module.parameters())
items = batches(data, bs, flip=True)
drawn = step_noise(x0, None, cosine, 0, 0)


def old_modes(i):
    model.train()
    model.eval()


def new_modes(i):
    switch(True)
    switch(False)


def old_noise(i, rank=3, world=8):
    g = generator_on(x0.device, stable_seed(0, i))
    torch.rand(bs*world, generator=g)
    return torch.randn(bs*world, *x0.shape[1:], generator=g)[rank*bs:(rank + 1)*bs]


@torch.no_grad()
def copy(i): torch._foreach_copy_(copies, weights)


def mixture(i):
    a, s = rates(drawn.phi, x0)
    p, q = targets['eps'](a, s)
    return combine(a, x0, s, drawn.eps), combine(p, x0, q, drawn.eps)


def dice(i):
    with own_dice(i, x0.device): pass


parts = {
    'batch': ms(lambda i: next(items)),
    'noise, 1 process': ms(lambda i: step_noise(x0, None, cosine, 0, i)),
    'noise, one of 8, before': ms(old_noise),
    'noise, one of 8': ms(lambda i: step_noise(x0, None, cosine, 0, i, rank=3, world=8)),
    'mix and aim': ms(mixture),
    'modes, before': ms(old_modes),
    'modes': ms(new_modes),
    'dice of dropout': ms(dice),
    'average, before': ms(lambda i: old.update_parameters(model)),
    'average': ms(lambda i: ema.update_parameters(model)),
    'a copy': ms(copy),
}
for name, took in parts.items(): print(f'{name:<24}', *took, 'ms', flush=True)
least = {name: took for name, (_, took) in parts.items()}
common = sum(least[name] for name in ('batch', 'mix and aim', 'modes', 'dice of dropout'))
beside = {name: round(common + least[f'noise, {name}'], 2) for name in ('1 process', 'one of 8')}
sums = {name: round(took + least['average'], 2) for name, took in beside.items()}
print(beside, sums)
count = sum(p.numel() for p in model.parameters())
middle = {name: took for name, (took, _) in parts.items()}
keep('step', parameters=count, bs=bs, calls=n, ms=middle, least=least, beside=beside, sums=sums)
