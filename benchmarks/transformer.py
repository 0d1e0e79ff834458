"""The transformer beside the U-Net on MNIST, with equal parameters, for equal passes and for equal
seconds of one core: results/transformer.json, a row as soon as it is there. Needs MNIST in
DIFFNB_DATA. A training that was ended goes on where it stood.

    python benchmarks/transformer.py speed          milliseconds a step of each
    python benchmarks/transformer.py                all rows, about half an hour of one core
    python benchmarks/transformer.py 'U-Net'        some of them
"""
import argparse
import statistics
import time
from functools import partial

import torch

import common
from common import results
from diffnb.apps.datasets import load_data
from diffnb.apps.generation import generate
from diffnb.apps.optim import Muon
from diffnb.apps.runs import fit
from diffnb.denoiser import Denoiser
from diffnb.fld import FLD
from diffnb.kit.pictures import show_images
from diffnb.schedules import cosine
from diffnb.training import by_angle, validate
from diffnb.transformer import Transformer
from diffnb.apps.families import families
from diffnb.unet import UNet

runs = results.parent/'runs'/'transformer'
nets = {                                                        # 376,913 and about as many
    'U-Net':                partial(UNet, 1, **{**families['julia'], 'mid_attention': False}),
    'transformer, patch 4': partial(Transformer, 1, patch=4, width=80, depth=3, features=64),
    'transformer, patch 2': partial(Transformer, 1, patch=2, width=80, depth=3, features=64),
}
steps = {                                                       # equal seconds, and equal passes
    'U-Net': (1000,),
    'transformer, patch 4': (2000, 1000),
    'transformer, patch 2': (370,),
}
note = partial(common.note, 'transformer')


def made(name, seed=0):
    torch.manual_seed(seed)
    return Denoiser(nets[name](), 'v', cosine)


def speed(name, n=12, bs=128):
    "Median milliseconds of one core for a forward and a backward pass"
    model, x, times = made(name), torch.randn(bs, 1, 28, 28), []
    for _ in range(n):
        begun = time.process_time()
        model.loss(x).mean().backward()
        times.append(time.process_time() - begun)
    return 1e3*statistics.median(times[2:])


def trained(name, n):
    "A network after n steps, with the seconds of CPU that they took"
    folder = runs/f'{name} {n}'.replace(' ', '_')
    begun = any(folder.glob('state-*'))
    model, start = made(name), time.process_time()
    fit(model, load_data('mnist')._replace(y=None), steps=n, bs=128, opt=Muon, lr=3e-3, ema=.998,
        folder=folder, resume=begun, every=dict(save=250), keep=1, progress=False)
    return model, time.process_time() - start


def row(name, n):
    model, seconds = trained(name, n)
    test = load_data('mnist', 'test', n=2000)._replace(y=None)
    losses, phi = validate(model, test, n=2000)
    degrees, curve = by_angle(losses, phi, bins=9)
    x = generate(model, 2000, seeds=0, calls=20, progress=False)
    score = FLD('mnist-test')(x)
    note('rows', f'{name}, {n} steps', dict(
        parameters=sum(p.numel() for p in model.net.parameters()), steps=n, bs=128,
        cpu_seconds=round(seconds), valid_loss=losses.mean().item(),
        valid_se=losses.std().item()/len(losses)**.5,
        degrees=degrees.tolist(), loss_by_angle=curve.tolist(), fld=score.value, se=score.se,
        percent=score.percent, floor=score.floor, n=score.n, sampling_seed=0, training_seed=0))
    folder = results/'transformer'
    folder.mkdir(exist_ok=True)
    show_images(x[:24], cols=12).save(folder/f'{name}-{n}.png'.replace(' ', '_'), optimize=True)


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('names', nargs='*')
    a = p.parse_args()
    torch.set_num_threads(1)
    for name in nets if a.names == ['speed'] else a.names or nets:
        if a.names == ['speed']:
            count = sum(p.numel() for p in made(name).net.parameters())
            note('speed', name, dict(parameters=count, ms=round(speed(name)), bs=128))
        else:
            for n in steps[name]: row(name, n)


if __name__ == '__main__':
    main()
