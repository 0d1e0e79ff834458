"""Train a small diffusion model on scikit-learn's handwritten digits and let it write some of its
own. No download, no GPU, about a minute on two cores.

Leaves in demo/: samples.png, trajectory.png, trajectory.gif, trajectory.html (to scrub with mouse
and keys), loss.png, model.safetensors
"""
import argparse
import functools
import sys
import time
import warnings
from pathlib import Path

import matplotlib
matplotlib.use('agg')
import torch  # noqa: E402
from sklearn.neural_network import MLPClassifier  # noqa: E402

from diffnb.apps.checkpoints import save
from diffnb.apps.datasets import load_data
from diffnb.apps.runs import fit
from diffnb.denoiser import Denoiser
from diffnb.fld import FLD
from diffnb.kit.pictures import save_gif, show_images, to_float
from diffnb.kit.scrubber import scrubber_html
from diffnb.samplers import ddim, dpmpp, last, seeded
from diffnb.schedules import path
from diffnb.training import show_losses
from diffnb.trajectories import strip
from diffnb.unet import UNet


def judge(train):
    """A classifier of digits that has nothing to do with diffusion: (images in [-1, 1]) ->
    probabilities (N, 10)"""
    flat = lambda x: x.flatten(1).numpy()
    net = MLPClassifier((64,), max_iter=300, random_state=0)
    net.fit(flat(to_float(train.x)), train.y.numpy())
    return lambda x: torch.from_numpy(net.predict_proba(flat(x)))


def report(name, x, y, probs, train):
    """One line of the table: agreement with the label, confidence, distance to the nearest training
    image"""
    p = probs(x)
    near = torch.cdist(x.flatten(1), to_float(train.x).flatten(1)).min(1).values/x[0].numel()**.5
    right, sure = (p.argmax(1) == y).float().mean(), p.max(1).values.mean()
    return f'  {name:<28}{right:>12.1%}{sure:>14.1%}{near.median():>22.3f}'


def peak_memory():
    "The most memory that this took, in words; '' on Windows, which counts otherwise"
    try: import resource
    except ImportError: return ''
    unit = 2**20 if sys.platform.startswith('linux') else 2**30
    return f', at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/unit:.1f} GB of memory'


def main():
    plain = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    p.add_argument('--steps', type=int, default=300,
                   help='training steps of 128 images (default: %(default)s)')
    p.add_argument('--calls', type=int, default=20,
                   help='calls of the network to make an image (default: %(default)s)')
    p.add_argument('--seed', type=int, default=0,
                   help='another seed, other digits (default: %(default)s)')
    p.add_argument('--out', type=Path, default=Path('demo'),
                   help='folder for what it makes (default: %(default)s)')
    a = p.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    begin = time.time()

    train, test = load_data('digits'), load_data('digits', 'test')
    height, width = train.x.shape[2:]
    print(f'1. Data: {len(train.x)} handwritten digits of {height}x{width} pixels; '
          f'{len(test.x)} others are kept aside to compare with.')

    torch.manual_seed(a.seed)
    net = UNet(1, classes=10)
    parameters = sum(w.numel() for w in net.parameters())
    print(f'2. Training: a U-Net with {parameters:,} parameters, {a.steps} steps.', flush=True)
    start = time.time()
    how = dict(opt='muon', lr=8e-3, label_dropout=.1)
    model = fit(Denoiser(net), train, steps=a.steps, seed=a.seed, **how)
    took, loss = time.time() - start, model.history.rows[-1]['loss']
    print(f'   {took:.0f} s, {a.steps*128/took:.0f} images/s, loss {loss:.3f}')
    show_losses(model.history).savefig(a.out/'loss.png', dpi=110)
    save(a.out/'model.safetensors', model)

    start, labels = time.time(), torch.arange(10).repeat(8)
    write = functools.partial(model, cond=labels)
    noise = seeded(range(a.seed*1000, a.seed*1000 + len(labels)))((len(labels), 1, 16, 16))
    x = last(ddim(write, noise, path(model.schedule, a.calls))).x.clamp(-1, 1)
    print(f'3. Sampling: {len(x)} digits, eight of each kind, from pure noise with DDIM, '
          f'{a.calls} calls of the network, {time.time() - start:.1f} s.')
    show_images(x, cols=10, n=len(x), scale=3).save(a.out/'samples.png')
    ten = functools.partial(model, cond=labels[:10])
    walk = list(ddim(ten, noise[:10], path(model.schedule, 40)))
    strip(walk, n=12, items=4, scale=3).save(a.out/'trajectory.png')
    save_gif(walk, a.out/'trajectory.gif', items=10, scale=3)
    scrubber_html(walk, a.out/'trajectory.html', items=10, scale=4, title='Ten digits, from noise')

    probs, held = judge(train), to_float(test.x)
    two = last(dpmpp(write, noise, path(model.schedule, a.calls))).x.clamp(-1, 1)
    g = torch.Generator().manual_seed(0)
    print('4. How good is it? Asked of a classifier that was trained on the same 1,000 real '
          'digits, and of the nearest of those (RMS over pixels, 2 = black to white):')
    print(f'  {"":<28}{"label right":>12}{"confidence":>14}{"nearest (median)":>22}')
    print(report('real digits, held out', held, test.y, probs, train))
    print(report('ours, DDIM', x, labels, probs, train))
    print(report('ours, DPM-Solver++', two, labels, probs, train))
    static, many = torch.randn(800, 1, 16, 16, generator=g).clamp(-1, 1), torch.arange(800) % 10
    print(report('pure noise', static, many, probs, train))
    print('  Frechet LeNet Distance to the 797 held-out digits (lower is better; the floor is what '
          'real digits score):')
    write, noise = functools.partial(model, cond=many), seeded(range(10_000, 10_800))
    walk = ddim(write, noise((800, 1, 16, 16)), path(model.schedule, a.calls))
    grid = last(walk).x.clamp(-1, 1)
    warnings.filterwarnings('ignore', 'only 800 images')  # said below, beside the floor
    print('   ', str(FLD('digits')(grid)).replace('\n', '\n    '))
    print('   A nearest distance far below that of real digits would mean that the model copies '
          'what it was shown.')

    print(f'\nDone in {time.time() - begin:.0f} s{peak_memory()}. Now look at {a.out}/samples.png, '
          'trajectory.gif (noise above, what the network believes below) and loss.png.')
    print(f'Open {a.out}/trajectory.html in a browser to move through the same walk with the '
          'arrow keys.')
    print('Next: `make lab` opens the course; begin with index.ipynb. Or in Python:')
    print(f'  from diffnb.all import *; model = load("{a.out}/model.safetensors")')


if __name__ == '__main__': main()
