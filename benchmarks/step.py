"""What a training step costs the host beside the network: milliseconds on the CPU, 35.7 M parameters (Ho et al.'s U-Net
for CIFAR-10), 128 items of 3x32x32 for this process, alone and as one of eight. The network itself is not run.

    python benchmarks/step.py        writes results/step.json

"before" are the parts as the first edition had them: `AveragedModel`, `train()` and `eval()` of every module.
"""
import statistics
import time

import torch
from torch.optim.swa_utils import AveragedModel

from common import keep
from diffnb.angle import aim, mix
from diffnb.data import batches
from diffnb.denoiser import Denoiser
from diffnb.schedules import cosine
from diffnb.training import EMA, mode_switch, own_dice, step_noise
from diffnb.apps.families import families
from diffnb.unet import UNet

bs, n = 128, 20


def ms(f):
    "Median of some calls, in milliseconds"
    took = []
    for i in range(n + 3):
        tick = time.perf_counter()
        f(i)
        took.append(1e3*(time.perf_counter() - tick))
    return round(statistics.median(took[3:]), 3)


model = Denoiser(UNet(3, **families['adm']), 'eps', cosine)
data = torch.randint(0, 256, (5000, 3, 32, 32), dtype=torch.uint8)
x0 = next(batches(data, bs))[0]
ema, switch = EMA(model, .9999), mode_switch(model)
old = AveragedModel(model, multi_avg_fn=lambda mean, now, k: torch._foreach_lerp_(mean, now, 1 - min(.9999, (1 + int(k))/(10 + int(k)))))
items = batches(data, bs, flip=True)
drawn = step_noise(x0, None, cosine, 0, 0)


def old_modes(i):
    model.train()
    model.eval()


def new_modes(i):
    switch(True)
    switch(False)


def dice(i):
    with own_dice(i, x0.device): pass


parts = {
    'batch': ms(lambda i: next(items)),
    'noise, 1 process': ms(lambda i: step_noise(x0, None, cosine, 0, i)),
    'noise, one of 8': ms(lambda i: step_noise(x0, None, cosine, 0, i, rank=3, world=8)),
    'mix and aim': ms(lambda i: (mix(x0, drawn.eps, drawn.phi), aim(x0, drawn.eps, drawn.phi, 'eps'))),
    'modes, before': ms(old_modes),
    'modes': ms(new_modes),
    'dice of dropout': ms(dice),
    'average, before': ms(lambda i: old.update_parameters(model)),
    'average': ms(lambda i: ema.update_parameters(model)),
}
for name, took in parts.items(): print(f'{name:<20}{took:8.2f} ms', flush=True)
common = parts['batch'] + parts['mix and aim'] + parts['modes'] + parts['dice of dropout'] + parts['average']
sums = {'1 process': round(common + parts['noise, 1 process'], 2), 'one of 8': round(common + parts['noise, one of 8'], 2)}
print(sums)
keep('step', parameters=sum(p.numel() for p in model.parameters()), bs=bs, ms=parts, sums=sums)
