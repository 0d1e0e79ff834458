"""Networks in and out of diffusers, and noise in and out of sigma: results/exchange.json, and
tests/exchange.safetensors, what two small networks of diffusers answered, for tests without it.

    python benchmarks/exchange.py            all of it; about 5 minutes on one core
    python benchmarks/exchange.py in         some parts: in, pipelines, sigma, record

Needs diffusers. Of k-diffusion only the samplers are imported, so that most of what it wants is
not:

    pip install --no-deps k-diffusion==0.1.1.post1 torchdiffeq torchsde trampoline
"""
import argparse
import functools
import importlib.util
import json
import sys
import tempfile
import types
from pathlib import Path

import diffusers
import torch
from diffusers import DDIMPipeline, DDPMPipeline, DDPMScheduler, UNet2DModel

import common
from diffnb.apps.checkpoints import load, save
from diffnb.apps.datasets import load_data
from diffnb.apps.exchange import (
    differences, from_diffusers, from_sigma, step_angles, to_diffusers, to_sigma)
from diffnb.apps.families import DDPMUNet
from diffnb.data import batches
from diffnb.denoiser import Denoiser
from diffnb.guidance import clamp, project
from diffnb.kit.files import write_tensors
from diffnb.oracle import mixture
from diffnb.samplers import ddim, ddpm, heun, last
from diffnb.schedules import cosine_beta, karras, path
from diffnb.training import train

diffusers.utils.logging.disable_progress_bar()

cifar = dict(                                         # the config.json of google/ddpm-cifar10-32
    sample_size=32, block_out_channels=(128, 256, 256, 256), layers_per_block=2,
    down_block_types=('DownBlock2D', 'AttnDownBlock2D', 'DownBlock2D', 'DownBlock2D'),
    up_block_types=('UpBlock2D', 'UpBlock2D', 'AttnUpBlock2D', 'UpBlock2D'),
    attention_head_dim=None, downsample_padding=0, flip_sin_to_cos=False, freq_shift=1,
    norm_eps=1e-6)
small = dict(                                         # for the rest diffusers' own defaults
    sample_size=16, in_channels=1, out_channels=1, block_out_channels=(16, 32, 32),
    layers_per_block=1, norm_num_groups=8,
    down_block_types=('DownBlock2D', 'AttnDownBlock2D', 'DownBlock2D'),
    up_block_types=('UpBlock2D', 'AttnUpBlock2D', 'UpBlock2D'))
networks = {
    'ddpm-cifar10-32': (cifar, None),
    'their defaults': (small, None),
    '10 classes and "no label"': ({**small, 'num_class_embeds': 11}, 10),
    '10 classes, no "no label"': ({**small, 'num_class_embeds': 10}, None),
    'scale and shift': ({**small, 'resnet_time_scale_shift': 'scale_shift',
                         'attn_norm_num_groups': 8}, None),
    'Fourier features': ({**small, 'time_embedding_type': 'fourier'}, None),
}


def made(config, seed=0):
    torch.manual_seed(seed)
    return UNet2DModel(**config).eval()


def far(a, b): return (a - b).abs().max().item()


def count(net): return sum(p.numel() for p in net.parameters())


@torch.no_grad()
def gap(unet, model, every=1, null=None, bs=50):
    "Largest difference of the answers at every so many timesteps, and the largest answer"
    rows, g = unet.config.num_class_embeds, torch.Generator().manual_seed(1)
    size, worst, largest = unet.config.sample_size, 0., 0.
    at = step_angles(model.schedule)
    for t in torch.arange(len(at) - 1, -1, -every).split(bs):
        x = torch.randn(len(t), unet.config.in_channels, size, size, generator=g)
        y = t % rows if rows else None
        theirs = unet(x, t, **({} if y is None else dict(class_labels=y))).sample
        said = y if null is None else torch.where(y == null, -1, y)
        worst = max(worst, far(theirs, model.predict(x, at[t], said)))
        largest = max(largest, theirs.abs().max().item())
    return dict(gap=worst, largest=largest, timesteps=len(range(0, len(at), every)))


@torch.no_grad()
def embedding_gap(unet, model):
    "Largest difference of the embeddings of all timesteps; None where the network stayed theirs"
    if not isinstance(model.net, DDPMUNet): return None
    at = step_angles(model.schedule)
    theirs = unet.time_embedding(unet.time_proj(torch.arange(len(at))))
    return far(theirs, model.net.embed.angle(at.float()))


def equal(a, b):
    "Do two networks hold the same numbers, to the bit?"
    a, b = a.state_dict(), b.state_dict()
    return list(a) == list(b) and all(t.equal(b[k]) for k, t in a.items())


def there_and_back():
    "Random networks of theirs, in, out, and in again"
    for name, (config, null) in networks.items():
        every = 25 if config is cifar else 1
        unet = made(config)
        model = from_diffusers(unet, DDPMScheduler(), null=null)
        row = dict(parameters=count(unet), becomes=type(model.net).__name__,
                   ours=count(model.net), embedding_gap=embedding_gap(unet, model),
                   **gap(unet, model, every, null))
        with tempfile.TemporaryDirectory() as folder:
            try:
                model = load(save(Path(folder)/'model.safetensors', model))
                to_diffusers(model, folder)
                pipe = DDPMPipeline.from_pretrained(folder)
                again = from_diffusers(folder, null=null)
                row |= dict(saved='one file', out=gap(pipe.unet, model, 10*every, null)['gap'],
                            again_equal=equal(model.net, again.net),
                            same_cfg=model.cfg == again.cfg)
            except ValueError as e: row |= dict(saved=str(e))
        common.note('exchange', 'in', name, row)


@functools.cache
def digits(steps=400):
    "A network of DDPM's kind that has learnt the built-in digits"
    torch.manual_seed(0)
    net = DDPMUNet(1, schedule=cosine_beta, width=32, mults=(1, 2), blocks=1, groups=8, dropout=0.)
    model = Denoiser(net, 'v', cosine_beta)
    for _ in train(model, batches(load_data('digits', size=8), 64), steps, lr=2e-3, lr_end=0.): pass
    return model


def drawn(pipe, n, calls, seed, **more):
    "A pipeline's images, in [0, 1]"
    g = torch.Generator().manual_seed(seed)
    pipe.set_progress_bar_config(disable=True)
    return pipe(n, generator=g, num_inference_steps=calls, output_type='pt', **more).images


@torch.no_grad()
def ours(model, sampler, n, calls, seed, clip, spacing=None, **more):
    "Ours from the same noise, in [0, 1]"
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, *model.shape, generator=g)
    denoise = project(model, clamp(model)) if clip else model
    if sampler is ddpm: more['randn'] = lambda z: torch.randn(z.shape, generator=g)
    x = last(sampler(denoise, x, path(model.schedule, calls, spacing), **more)).x
    return (x/2 + .5).clamp(0, 1)


def large(folder):
    "Their DDPM pipeline with the larger variance, whose last timestep is 0"
    pipe = DDPMPipeline.from_pretrained(folder)
    pipe.scheduler = DDPMScheduler.from_config(
        pipe.scheduler.config, variance_type='fixed_large', timestep_spacing='leading',
        clip_sample=True)
    return pipe


def large_gap(folder, n):
    "Its images against ours, as the scheduler says"
    pipe = large(folder)
    model = from_diffusers(pipe)
    return far(drawn(pipe, n, 50, 7), ours(model, ddpm, n, 50, 7, **model.notes['ddpm']))


def pipelines():
    "The same images from the same noise"
    trained = digits()
    random = from_diffusers(made({**small, 'sample_size': 16}), DDPMScheduler())
    for name, model, n in (('digits, trained', trained, 16), ('random weights', random, 4)):
        with tempfile.TemporaryDirectory() as folder:
            row = dict(n=n, calls=50, parameters=count(model.net), seed=7)
            for clip in (True, False):
                to_diffusers(model, folder, clip)
                kind = 'clipped' if clip else 'not clipped'
                said = from_diffusers(folder).notes['sampling']
                theirs = drawn(DDPMPipeline.from_pretrained(folder), n, 50, 7)
                row[f'DDPM, {kind}'] = far(theirs, ours(model, ddpm, n, 50, 7, **said))
                theirs = drawn(DDIMPipeline.from_pretrained(folder), n, 50, 7,
                               use_clipped_model_output=True)
                row[f'DDIM, {kind}'] = far(theirs, ours(model, ddim, n, 50, 7, **said))
            row['DDPM, fixed_large'] = large_gap(folder, n)
        common.note('exchange', 'pipelines', name, row)
    refused = load('mnist')
    common.note('exchange', 'refused', 'mnist, shipped', dict(differences=differences(refused)))


def k_diffusion():
    "Samplers and wrappers of k-diffusion without the rest of it; None where it is not installed"
    spec = importlib.util.find_spec('k_diffusion')
    if spec is None: return None
    package = types.ModuleType('k_diffusion')         # its __init__ wants a dozen more packages
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules['k_diffusion'] = package
    from k_diffusion import external, sampling
    return types.SimpleNamespace(sampling=sampling, external=external)


def heun_of(K, D, z, angles):
    "Every stop of k-diffusion's Heun on a denoiser in sigma, brought onto the circle"
    stops, sigmas = [], angles.tan().to(z)
    end = K.sampling.sample_heun(D, z/angles[0].cos().to(z), sigmas, disable=True,
                                 callback=lambda step: stops.append(step['x']))
    return [x*phi.cos().to(x) for x, phi in zip([*stops, end], angles)]


@torch.no_grad()
def stops_of(denoise, z, angles): return [s.x for s in heun(denoise, z, angles, average='eps')]


def most(a, b): return max(far(x, y) for x, y in zip(a, b, strict=True))


def sigma_space():
    "Their Heun on our denoisers, ours on theirs: every stop, on the circle"
    K = k_diffusion()
    if K is None: return print('k-diffusion is not installed: left out')
    torch.manual_seed(0)
    angles, z = path(karras(sigma=(.02, 50)), 18), torch.randn(8, 1, 8, 8)
    oracle = mixture(load_data('digits', size=8).x[:200].float()/127.5 - 1, std=.1)
    for name, denoise in (('digits, trained', digits()), ('oracle', oracle)):
        row = dict(n=8, steps=18)
        for kind in (torch.float32, torch.float64):
            x, bits = z.to(kind), str(kind).removeprefix('torch.')
            mine = stops_of(denoise, x, angles)
            row[f'their Heun, our denoiser, {bits}'] = most(
                mine, heun_of(K, to_sigma(denoise), x, angles))
            back = stops_of(from_sigma(to_sigma(denoise)), x, angles)
            row[f'our Heun, there and back, {bits}'] = most(mine, back)
        row['largest'] = max(x.abs().max().item() for x in mine)
        common.note('exchange', 'sigma', name, row)
    their_wrapper(K)


def their_wrapper(K):
    "A UNet of theirs in k-diffusion's wrapper, and its weights in our network"
    unet = made(small)
    wrapped = K.external.DiscreteEpsDDPMDenoiser(
        lambda x, t: unet(x.float(), t).sample.to(x), DDPMScheduler().alphas_cumprod, quantize=True)
    moved = from_diffusers(unet, DDPMScheduler())
    steps = [999, 900, 800, 700, 600, 500, 400, 300, 200, 100, 50, 20, 5]
    angles = torch.cat([step_angles(moved.schedule)[steps], torch.zeros(1).double()])
    z = torch.randn(4, 1, 16, 16).double()
    mine = stops_of(from_sigma(wrapped), z, angles)
    row = dict(n=4, steps=len(steps), largest=max(x.abs().max().item() for x in mine))
    with torch.no_grad(): theirs = heun_of(K, wrapped, z, angles)
    row['their Heun, our Heun'] = most(mine, theirs)
    row['their wrapper, the weights moved'] = most(mine, stops_of(moved, z, angles))
    common.note('exchange', 'sigma', "a UNet in k-diffusion's wrapper", row)


tiny = dict(sample_size=8, in_channels=1, out_channels=1, block_out_channels=(4, 8),
            layers_per_block=1, norm_num_groups=2, attention_head_dim=4,
            down_block_types=('DownBlock2D', 'AttnDownBlock2D'),
            up_block_types=('AttnUpBlock2D', 'UpBlock2D'))
recorded = {
    'ddpm': dict(tiny, attention_head_dim=None, downsample_padding=0, flip_sin_to_cos=False,
                 freq_shift=1, norm_eps=1e-6),
    'classes': dict(tiny, num_class_embeds=5),
}


@torch.no_grad()
def record():
    "What two small networks of theirs answer, with their weights and configs"
    tensors, configs = {}, {}
    steps = torch.tensor([0, 1, 250, 998, 999])
    for name, config in recorded.items():
        unet, x = made(config), torch.randn(5, 1, 8, 8)
        rows = config.get('num_class_embeds')
        y = dict(class_labels=torch.arange(5)) if rows else {}
        with tempfile.TemporaryDirectory() as folder:
            DDPMPipeline(unet, DDPMScheduler()).save_pretrained(folder)
            files = dict(unet='config', scheduler='scheduler_config')
            configs[name] = {part: json.loads((Path(folder)/part/f'{file}.json').read_text())
                             for part, file in files.items()}
        tensors |= {f'{name}.weights.{k}': t for k, t in unet.state_dict().items()}
        tensors |= {f'{name}.x': x, f'{name}.answers': unet(x, steps, **y).sample}
    tensors |= record_large()
    meta = dict(steps=steps.tolist(), configs=configs, diffusers=diffusers.__version__)
    fname = common.results.parent/'tests'/'exchange.safetensors'
    print(write_tensors(fname, tensors, meta).name, fname.stat().st_size, 'bytes')


def record_large(n=2, calls=10, seed=7):
    "What their pipeline draws of the first of them with the larger variance, and from which noise"
    scheduler = DDPMScheduler(variance_type='fixed_large')
    images = drawn(DDPMPipeline(made(recorded['ddpm']), scheduler), n, calls, seed)
    g = torch.Generator().manual_seed(seed)
    noise = torch.stack([torch.randn(n, 1, 8, 8, generator=g) for _ in range(calls)])
    return {'large.noise': noise, 'large.images': images}


parts = {'in': there_and_back, 'pipelines': pipelines, 'sigma': sigma_space, 'record': record}

if __name__ == '__main__':
    how = argparse.RawTextHelpFormatter
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=how)
    ask.add_argument('parts', nargs='*', help=', '.join(parts))
    for part in ask.parse_args().parts or parts: parts[part]()
