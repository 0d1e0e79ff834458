"""The long run of nbs/projects/digits: four targets times four schedules on scikit-learn's digits,
each trained afresh from several seeds, asked for 800 digits, and measured: along the path of its
own schedule, and once more along the path of `cosine`, the same for all. Every number goes into
results/digits.json as it comes, a few digits of each row into results/digits, the networks into
runs/digits. Rows that are there already are left alone. No download.

    python benchmarks/digits.py                seeds 0 and 1, 400 steps each: half an hour of a core
    python benchmarks/digits.py --seeds 0      half of it
    python benchmarks/digits.py --seeds 2 3    more error bar
    python benchmarks/digits.py --only v-cosine eps-flow
"""
import math
import sys
import time
import warnings
from pathlib import Path
from statistics import mean

import torch

import common
from common import results
from diffnb.angle import mix
from diffnb.apps.checkpoints import load, save
from diffnb.apps.datasets import load_data
from diffnb.apps.generation import generate
from diffnb.apps.runs import fit
from diffnb.denoiser import Denoiser
from diffnb.fld import FLD
from diffnb.guidance import given
from diffnb.kit.pictures import show_images, to_float
from diffnb.samplers import ddim, last, seeded
from diffnb.schedules import cosine, flow, karras, linear_beta, lognormal, path, section
from diffnb.unet import UNet

sys.path.insert(0, str(results.parent/'examples'))
from demo import judge  # noqa: E402


def to_angles(*sigmas): return [math.atan(s) for s in sigmas]


# For training, for sampling. The flow but for the last stretch, 98 % of its time: at 90 degrees the
# noise alone says nothing about the image. The log-normal between the sigmas that EDM visits
schedules = {
    'cosine': (cosine, None),
    'linear_beta': (linear_beta, None),
    'flow': (section(schedule=flow, angles=to_angles(0, 49)), None),
    'lognormal': (section(schedule=lognormal, angles=to_angles(.002, 80)), karras),
}
targets = 'x0', 'eps', 'v', 'flow'
degrees = 2, 5, 10, 20, 30, 40, 50, 60, 70, 80, 85, 88
labels = torch.arange(800) % 10
# DenoisingDiffusion.jl's README and notebooks: MNIST, a LeNet of its own, one run each
bare = dict(program='train_images.jl', parameters=376_913)
attentive = dict(program='train_images.jl', parameters=602_705)
published = {
    'training data': dict(fld=.5),
    'noise': dict(fld=337),
    'time': dict(digits=10, seconds=25, calls=100),
    'no attention': dict(bare, calls=100, fld=18.3),
    'no attention, DDIM': dict(bare, calls=20, fld=23.5),
    'attention': dict(attentive, calls=100, fld=23.9),
    'attention, DDIM': dict(attentive, calls=20, fld=26.3),
    'no attention, mean absolute error': dict(bare, calls=100, fld=39.3),
    'labels, guidance 2': dict(program='train_images_cond.jl', parameters=622_865, calls=100,
                               fld=6.9914, right=.9899),
    'labels, multipliers 1, 2, 3': dict(program='train_images_cond.jl', parameters=420_497,
                                        calls=100, fld=4.1776),
}


def there(out, section, name): return name in common.noted('digits', out).get(section, {})


def note(out, section, name, row): common.note('digits', section, name, row, out)


def measure(x, y, read, prefix=''):
    "Distance, agreement with the label"
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        score = FLD('digits')(x)
    found = dict(fld=score.value, se=score.se, percent=score.percent, floor=score.floor,
                 right=(read(x).argmax(1) == y).float().mean().item())
    return {prefix + name: number for name, number in found.items()}


@torch.no_grad()
def blur(model, x0, y):
    """Mean squared error of the guessed image at each of `degrees`, the same images and noise for
    all models"""
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    out = []
    for d in degrees:
        phi = torch.tensor(d*torch.pi/180, dtype=torch.float64)
        parts = zip(x0.split(100), eps.split(100), y.split(100))
        guess = torch.cat([model(mix(a, e, phi), phi, c).x0 for a, e, c in parts])
        out.append((guess - x0).square().mean().item())
    return out


def trained(a, target, curve, seed):
    "The network of a row: as it was kept, or trained now"
    fname = a.folder/f'{target}-{curve}-{seed}-{a.steps}.safetensors'
    if fname.exists(): return load(fname), load(fname).notes
    torch.manual_seed(seed)
    tick = time.process_time()
    model = Denoiser(UNet(1, classes=10), target, *schedules[curve])
    model = fit(model, load_data('digits'), steps=a.steps, label_dropout=.1, seed=seed,
                progress=False)
    notes = dict(train_seconds=round(time.process_time() - tick, 1),
                 train_loss=mean(r['loss'] for r in model.history.rows[-50:]))
    a.folder.mkdir(parents=True, exist_ok=True)
    save(fname, model, **notes)
    return model, notes


def drawn(model, read):
    """800 digits by `generate`, 800 by plain DDIM, along the model's own path; what they score, and
    in how many seconds the first were drawn"""
    stops = path(model.sample_schedule or model.schedule, 20)
    noise = seeded(range(800))((800, 1, 16, 16))
    tick = time.process_time()
    x = generate(model, 800, cond=labels, w=1., calls=20, seeds=0, batch=100, progress=False)
    seconds = round(time.process_time() - tick, 1)
    parts = zip(labels.split(100), noise.split(100))
    plain = torch.cat([last(ddim(given(model, y), z, stops)).x for y, z in parts]).clamp(-1, 1)
    return x, plain, dict(
        sample_seconds=seconds, n=len(x), **measure(x, labels, read),
        **measure(plain, labels, read, 'ddim_'), ends=[torch.rad2deg(stops[0]).item()])


def run(a, target, curve, seed, read, held):
    "Train, draw, measure; draw and measure again along the path that all share"
    name, row = f'{target}-{curve}', dict(target=target, schedule=curve, seed=seed, steps=a.steps)
    sections = ['grid'] if curve == 'cosine' else ['grid', 'one path']  # that path is cosine's own
    todo = [s for s in sections if not there(a.out, s, f'{name}-{seed}')]
    if not todo: return
    model, notes = trained(a, target, curve, seed)
    if 'grid' in todo:
        x, plain, numbers = drawn(model, read)
        if not seed:
            (a.out/'digits').mkdir(parents=True, exist_ok=True)
            image = show_images(torch.cat([x[:20], plain[:20]]), cols=20, scale=1, pad=0)
            image.save(a.out/'digits'/f'{name}.png')
        errors = blur(model, to_float(held.x[::2]), held.y[::2])
        note(a.out, 'grid', f'{name}-{seed}',
             dict(row, **notes, **numbers, x0_error=errors, degrees=degrees))
    if 'one path' in todo:
        model.sample_schedule = cosine
        note(a.out, 'one path', f'{name}-{seed}', dict(row, path='cosine', **drawn(model, read)[2]))


def main():
    p = common.parser(__doc__)
    p.add_argument('--seeds', type=int, nargs='+', default=[0, 1])
    p.add_argument('--steps', type=int, default=400, help='training steps of 128 digits')
    p.add_argument('--only', nargs='+', help='names such as v-cosine')
    p.add_argument('--folder', type=Path, default=results.parent/'runs'/'digits',
                   help='where the networks are kept')
    p.add_argument('--out', type=Path, default=results, help='another folder than results')
    a = p.parse_args()
    train, held = load_data('digits'), load_data('digits', 'test')
    read = judge(train)
    for name, row in published.items():
        if not there(a.out, 'published', name): note(a.out, 'published', name, row)
    if not there(a.out, 'ends', 'noise'):
        g = torch.Generator().manual_seed(0)
        static = torch.randn(800, 1, 16, 16, generator=g).clamp(-1, 1)
        note(a.out, 'ends', 'training digits',
             measure(to_float(train.x[:800]), train.y[:800], read))
        right = (read(to_float(held.x)).argmax(1) == held.y).float().mean().item()
        note(a.out, 'ends', 'held-out digits', dict(right=right, n=len(held.x)))
        note(a.out, 'ends', 'noise', measure(static, labels, read))
    for seed in a.seeds:
        for curve in schedules:
            for target in targets:
                if not a.only or f'{target}-{curve}' in a.only:
                    run(a, target, curve, seed, read, held)


if __name__ == '__main__': main()
