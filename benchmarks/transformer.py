"""The transformer beside the U-Net, with equal parameters: results/transformer.json, a row as soon
as it is there. On MNIST for equal passes and for equal seconds (needs MNIST in DIFFNB_DATA;
a training that was ended goes on where it stood), on the built-in digits for equal seconds, with
many training digits and with few.

    python benchmarks/transformer.py speed          milliseconds a step of each
    python benchmarks/transformer.py                MNIST, all rows, about half an hour of one core
    python benchmarks/transformer.py 'U-Net'        some of them
    python benchmarks/transformer.py longer         one of them, trained for three times as long
    python benchmarks/transformer.py pace           what a step of each costs, two minutes
    python benchmarks/transformer.py digits         after it: the built-in digits, eight minutes
    python benchmarks/transformer.py parts          networks that lack a part each, six minutes
    python benchmarks/transformer.py table          the tables of the lesson
"""
import math
import statistics
import time
from functools import partial

import torch

import common
from common import results
from diffnb.apps.checkpoints import load
from diffnb.apps.datasets import load_data
from diffnb.apps.generation import generate
from diffnb.apps.optim import Muon
from diffnb.apps.runs import fit
from diffnb.denoiser import Denoiser
from diffnb.fld import FLD
from diffnb.kit.pictures import show_images, to_float
from diffnb.samplers import dpmpp, last, seeded
from diffnb.schedules import cosine, path
from diffnb.training import by_angle, validate
from diffnb.transformer import Transformer, positions
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
    "A network after n steps"
    folder = runs/f'{name} {n}'.replace(' ', '_')
    begun = any(folder.glob('state-*'))
    model = made(name)
    fit(model, load_data('mnist')._replace(y=None), steps=n, bs=128, opt=Muon, lr=3e-3, ema=.998,
        folder=folder, resume=begun, every=dict(save=250), keep=1, progress=False)
    return model


def longer(name='transformer, patch 4', n=4000):
    "The network of the last row, for n steps more, with a rate that rises and falls anew"
    before, folder = steps[name][0], runs/f'{name} longer'.replace(' ', '_')
    model = load(runs/f'{name} {before}'.replace(' ', '_'))
    fit(model, load_data('mnist')._replace(y=None), steps=n, bs=128, opt=Muon, lr=3e-3, ema=.998,
        folder=folder, resume=any(folder.glob('state-*')), every=dict(save=250), keep=1, seed=1,
        progress=False)
    measure(name, before + n, model)


def row(name, n): measure(name, n, trained(name, n))


def measure(name, n, model):
    "Loss and FLD of a network after n steps, and a sheet of its digits"
    test = load_data('mnist', 'test', n=2000)._replace(y=None)
    losses, phi = validate(model, test, n=2000)
    degrees, curve = by_angle(losses, phi, bins=9)
    x = generate(model, 2000, seeds=0, calls=20, progress=False)
    score = FLD('mnist-test')(x)
    note('rows', f'{name}, {n} steps', dict(
        parameters=sum(p.numel() for p in model.net.parameters()), steps=n, bs=128,
        valid_loss=losses.mean().item(), valid_se=losses.std().item()/len(losses)**.5,
        degrees=degrees.tolist(), loss_by_angle=curve.tolist(), fld=score.value, se=score.se,
        percent=score.percent, floor=score.floor, n=score.n, sampling_seed=0, training_seed=0))
    folder = results/'transformer'
    folder.mkdir(exist_ok=True)
    show_images(x[:24], cols=12).save(folder/f'{name}-{n}.png'.replace(' ', '_'), optimize=True)


# ---- the built-in digits

small = {                                                       # 244,841 and 255,120 parameters
    'U-Net':       partial(UNet, 1, width=20, mults=(1, 2, 2)),
    'transformer': partial(Transformer, 1, patch=4, width=64, depth=3),
}
many, few, seconds = 1000, 100, 30


def digits():
    "The 1,000 training digits, and the 797 others"
    return to_float(load_data('digits').x), to_float(load_data('digits', 'test').x)


def pace(kind, rounds=7, n=5):
    "Milliseconds of one core for a step of each network, which take turns"
    contestants, (some, size, opt) = {}, paces[kind]
    batch = torch.randn(128, 1, size, size)
    for name, new in some.items():
        model = Denoiser(new())
        contestants[name] = partial(some_steps, model, opt(model.parameters()), batch, n)
    times = common.turn_times(contestants, rounds, 1e3, time.process_time)
    row = dict(ms={name: round(statistics.median(t), 1) for name, t in times.items()},
               rounds=rounds, bs=128)
    if kind == 'digits':
        ratios = [u/t for u, t in zip(times['U-Net'], times['transformer'])]
        row |= dict(ratio=statistics.median(ratios), least=min(ratios), most=max(ratios))
    note('pace', kind, row)


paces = {'digits': (small, 16, torch.optim.AdamW), 'MNIST': (nets, 28, Muon)}


def some_steps(model, opt, x, n):
    "Take n steps of training"
    for _ in range(n):
        model.loss(x).mean().backward()
        opt.step()
        opt.zero_grad()
    return n


def small_fit(net, n, seed, steps):
    "Train on n digits; the loss on those that were kept out, with three noises each"
    seen, kept = digits()
    model = fit(Denoiser(net), seen[:n], steps=steps, bs=min(n, 128), lr=3e-3, ema=.99, seed=seed,
                progress=False)
    parts = [validate(model, kept, n=len(kept), seed=s) for s in range(3)]
    return model, *(torch.cat(part) for part in zip(*parts))


def small_row(name, n, seed, steps):
    "One training: its loss on digits that it has not seen, and FLD where it saw many"
    torch.manual_seed(seed)
    begun = time.process_time()
    model, losses, phi = small_fit(small[name](), n, seed, steps)
    used = time.process_time() - begun
    degrees, curve = by_angle(losses, phi, bins=9)
    row = dict(parameters=sum(p.numel() for p in model.net.parameters()), steps=steps,
               bs=min(n, 128), n_train=n, training_seed=seed, cpu_seconds=round(used, 1),
               valid_loss=losses.mean().item(), degrees=degrees.tolist(),
               loss_by_angle=curve.tolist())
    if n == many:
        score = FLD('digits')(generate(model, 500, seeds=0, calls=20, progress=False))
        row |= dict(percent=score.percent, fld=score.value, se=score.se, floor=score.floor, n=500)
    note('digits', f'{name}, {n} digits, seed {seed}', row)


def all_digits():
    pace = common.noted('transformer')['pace']['digits']['ms']
    for seed in range(3):
        for n in many, few:
            for name in small: small_row(name, n, seed, round(1e3*seconds/pace[name]))


# ---- networks that lack a part

def take(layer, how):
    "Change what a layer answers, from now on"
    layer.register_forward_hook(lambda layer, args, answer: how(answer))


def lacking():
    "{what is missing: network}"
    nets = {name: small['transformer']() for name in
            ('nothing', 'attention', 'positions', 'the angle')}
    for block in nets['attention'].blocks: take(block.attend, lambda x: 0*x)
    place = positions(4, 4, 64).T.view(64, 4, 4)
    take(nets['positions'].cut, lambda x: x - place)
    take(nets['the angle'].embed, lambda x: 0*x)
    return {**nets, 'small patches (8x8 instead)': Transformer(1, patch=8, width=64, depth=3)}


def parts_file(name):
    return results/'transformer'/f'without_{name.partition(" (")[0]}.png'.replace(' ', '_')


def all_parts(names=(), steps=1200):
    "Train each, or those of these names, and draw eight digits"
    torch.manual_seed(0)
    for name, net in lacking().items():
        if names and name not in names: continue
        model, losses, _ = small_fit(net, many, 0, steps)
        note('parts', f'{name}, seed 0', dict(
            steps=steps, training_seed=0, valid_loss=losses.mean().item(),
            valid_se=losses.std().item()/len(losses)**.5, n=len(losses)))
        x = last(dpmpp(model, seeded(range(8))((8, 1, 16, 16)), path(cosine, 20))).x
        parts_file(name).parent.mkdir(exist_ok=True)
        show_images(x, cols=8, scale=5).save(parts_file(name), optimize=True)


def mean_and_se(values):
    "As text, over trainings, to the digit of the error"
    values = torch.tensor(values)
    error = values.std().item()/len(values)**.5
    digits = max(0, -math.floor(math.log10(error)))
    return f'{values.mean():.{digits}f} ± {error:.{digits}f}'


def small_table(record):
    "The built-in digits as the lesson shows them: means over the trainings"
    lines = ['| network | parameters | steps | loss, 1,000 digits | FLD% | loss, 100 digits |',
             '|---|---|---|---|---|---|']
    for name in small:
        rows = [record.get('digits', {}).get(f'{name}, {many} digits, seed {k}') for k in range(3)]
        less = [record.get('digits', {}).get(f'{name}, {few} digits, seed {k}') for k in range(3)]
        if not all(rows + less): continue
        loss, poor = (mean_and_se([r['valid_loss'] for r in part]) for part in (rows, less))
        lines.append(f'| {name} | {rows[0]["parameters"]:,} | {rows[0]["steps"]:,} | {loss} | '
                     f'{mean_and_se([r["percent"] for r in rows])} | {poor} |')
    return '\n'.join(lines)


def parts_table(record):
    "What each part is good for, as the lesson shows it"
    lines = ['| without | loss |', '|---|---|']
    for key, r in sorted(record['parts'].items(), key=lambda pair: pair[1]['valid_loss']):
        name = key.rpartition(', ')[0]
        lines.append(f'| {name} | {r["valid_loss"]:.3f} ± {r["valid_se"]:.3f} |')
    return '\n'.join(lines)


def table(record):
    "MNIST as the lesson shows it"
    lines = ['| network | parameters | steps | minutes | loss | FLD% |',
             '|---|---|---|---|---|---|']
    for key, r in record.get('rows', {}).items():
        name = key.rsplit(', ', 1)[0]
        error = r['se']*r['percent']/(r['fld'] - r['floor'])
        minutes = r['steps']*record['pace']['MNIST']['ms'][name]/60_000
        lines.append(f'| {name} | {r["parameters"]:,} | {r["steps"]:,} | {minutes:.1f} | '
                     f'{r["valid_loss"]:.4f} ± {r["valid_se"]:.4f} | '
                     f'{r["percent"]:.1f} ± {error:.1f} |')
    return '\n'.join(lines)


def main():
    p = common.parser(__doc__)
    p.add_argument('names', nargs='*')
    a = p.parse_args()
    torch.set_num_threads(1)
    if a.names == ['digits']: return all_digits()
    if a.names[:1] == ['parts']: return all_parts(a.names[1:])
    if a.names == ['longer']: return longer()
    if a.names == ['pace']:
        for kind in paces: pace(kind)
        return
    if a.names == ['table']:
        record = common.noted('transformer')
        return print(parts_table(record), small_table(record), table(record), sep='\n\n')
    for name in nets if a.names == ['speed'] else a.names or nets:
        if a.names == ['speed']:
            count = sum(p.numel() for p in made(name).net.parameters())
            note('speed', name, dict(parameters=count, ms=round(speed(name)), bs=128))
        else:
            for n in steps[name]: row(name, n)


if __name__ == '__main__':
    main()
