"""Training images per second, ours beside diffusers, lucidrains and smalldiffusion: U-Nets of the same size (377,000 parameters, within 10 %),
28x28, batch 128, forward + backward + AdamW + moving average, each in its own loop, taking turns in one process. Then the loss: mean squared error
of the noise on the same held-out images, angles and noise, after the same number of images (averaged weights; raw weights beside them).

MNIST is used when it lies in DIFFNB_DATA, the built-in digits enlarged to 28x28 otherwise.
"""
import argparse
import copy
import importlib.util

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset

from common import keep, turns
from diffnb.angle import Guess, mix, unmix
from diffnb.apps.datasets import load_data
from diffnb.apps.optim import product_dtype
from diffnb.data import batches
from diffnb.denoiser import Denoiser
from diffnb.kit.pictures import to_float
from diffnb.schedules import cosine, linear_beta, timestep
from diffnb.training import EMA, train
from diffnb.apps.families import families
from diffnb.unet import UNet

bs, lr = 128, 1e-3
seed_net = {**families['julia'], 'mid_attention': False}   # 376,913 parameters, DenoisingDiffusion.jl's


def images():
    try: return 'MNIST', load_data('mnist', download=False), load_data('mnist', 'test', n=500, download=False)
    except ValueError: return 'digits', load_data('digits', size=28), load_data('digits', 'test', size=28, n=500)


def forever(data):
    "Batches as their users make them: a DataLoader over tensors"
    while True: yield from (b[0] for b in DataLoader(TensorDataset(to_float(data.x)), bs, shuffle=True, drop_last=True))


class Ours:
    def __init__(self, data, net, target, schedule, precision):
        self.model = Denoiser(net, target, schedule)
        self.ema = EMA(self.model, .995)
        half = product_dtype(precision, torch.zeros(1, 1, 1, 1))
        self.net, self.loop = net, train(self.model, batches(data, bs), 10**9, lr=lr, precision=half)
    def step(self): next(self.loop); self.ema.update_parameters(self.model)
    def guess(self, x, phi, raw): return (self.model if raw else self.ema)(x, phi)


class Theirs:
    "A U-Net that predicts noise, told a timestep of the linear schedule; the loop is the subclass's"
    def guess(self, x, phi, raw):
        t = timestep(linear_beta, phi).round().long()
        return unmix(x, self.eps(self.net if raw else self.average(), x, t), phi, 'eps')


class Diffusers(Theirs):
    def __init__(self, data):
        from diffusers import DDPMScheduler, UNet2DModel
        from diffusers.training_utils import EMAModel
        self.net = UNet2DModel(sample_size=28, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(24, 32, 40), norm_num_groups=8,
                               down_block_types=('DownBlock2D',)*3, up_block_types=('UpBlock2D',)*3, add_attention=False)
        self.scheduler, self.data = DDPMScheduler(), forever(data)
        self.opt, self.ema = torch.optim.AdamW(self.net.parameters(), lr), EMAModel(self.net.parameters(), decay=.995)
    def step(self):
        self.net.train()
        x0 = next(self.data)
        eps, t = torch.randn_like(x0), torch.randint(0, 1000, (len(x0),))
        loss = torch.nn.functional.mse_loss(self.net(self.scheduler.add_noise(x0, eps, t), t).sample, eps)
        loss.backward(); torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.); self.opt.step(); self.opt.zero_grad(); self.ema.step(self.net.parameters())
    def average(self): net = copy.deepcopy(self.net); self.ema.copy_to(net.parameters()); return net
    def eps(self, net, x, t): return net.eval()(x, t).sample


class Lucidrains(Theirs):
    def __init__(self, data):
        from denoising_diffusion_pytorch import GaussianDiffusion, Unet
        from ema_pytorch import EMA as Average
        self.net = Unet(dim=16, dim_mults=(1, 2, 2), channels=1)
        self.diffusion = GaussianDiffusion(self.net, image_size=28, timesteps=1000, objective='pred_noise', beta_schedule='linear')
        self.data = forever(data)
        self.opt, self.ema = torch.optim.AdamW(self.diffusion.parameters(), lr), Average(self.diffusion, beta=.995, update_every=1)
    def step(self):
        self.diffusion.train()
        loss = self.diffusion((next(self.data) + 1)/2)
        loss.backward(); torch.nn.utils.clip_grad_norm_(self.diffusion.parameters(), 1.); self.opt.step(); self.opt.zero_grad(); self.ema.update()
    def average(self): return self.ema.ema_model.model
    def eps(self, net, x, t): return net.eval()(x, t)


class Small(Theirs):
    def __init__(self, data):
        from smalldiffusion import ScheduleDDPM, Unet, training_loop
        self.net = Unet(28, 1, 1, ch=32, ch_mult=(1, 1, 1), num_res_blocks=1, attn_resolutions=())
        self.ema = AveragedModel(self.net, multi_avg_fn=get_ema_multi_avg_fn(.995))      # it has none of its own
        self.sigmas = ScheduleDDPM(1000, 1e-4, .02)
        self.loop = training_loop(DataLoader(TensorDataset(to_float(data.x)), bs, shuffle=True, drop_last=True, collate_fn=lambda b: torch.stack([o[0] for o in b])),
                                  self.net, self.sigmas, epochs=10**6, lr=lr)
        next(self.loop)
    def step(self): next(self.loop); self.ema.update_parameters(self.net)              # it yields between forward and backward
    def average(self): return self.ema.module
    def guess(self, x, phi, raw):                                                        # its coordinates are x0 + sigma eps
        net, sigma = (self.net if raw else self.average()).eval(), phi.tan().float()
        eps = net.predict_eps(x/phi.cos().view(-1, 1, 1, 1).to(x), sigma.view(-1, 1, 1, 1))
        return Guess(None, eps)


@torch.no_grad()
def error(c, test, raw):
    "Mean squared error of the noise on fixed images, timesteps and noise"
    g = torch.Generator().manual_seed(0)
    x0 = to_float(test.x)
    phi, eps = linear_beta((torch.randint(0, 1000, (len(x0),), generator=g) + 1)/1000), torch.randn(x0.shape, generator=g)
    return (c.guess(mix(x0, eps, phi), phi, raw).eps - eps).square().mean().item()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--steps', type=int, default=150, help='training steps of 128 images for each')
    p.add_argument('--chunk', type=int, default=5, help='steps in a turn')
    p.add_argument('--threads', type=int, default=2)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    name, data, test = images()
    torch.manual_seed(0)
    c = {"ours, the seed's network, float32": Ours(data, UNet(1, **seed_net), 'eps', linear_beta, None),
         "ours, the seed's network, bf16": Ours(data, UNet(1, **seed_net), 'eps', linear_beta, 'bf16'),
         'ours, default network and precision': Ours(data, UNet(1), 'v', cosine, 'auto'),
         'ours, default network, float32': Ours(data, UNet(1), 'v', cosine, None)}
    for module, make in (('diffusers', Diffusers), ('denoising_diffusion_pytorch', Lucidrains), ('smalldiffusion', Small)):
        if importlib.util.find_spec(module): c[module] = make(data)
        else: print(f'{module} is not installed and stays out: make bench installs it')
    def chunk(o):
        def go():
            for _ in range(a.chunk): o.step()
            return a.chunk*bs
        return go
    seconds = turns({k: chunk(o) for k, o in c.items()}, a.steps//a.chunk - 1, unit=1)
    rows = {k: dict(parameters=sum(w.numel() for w in o.net.parameters()), images_per_second=1/seconds[k], loss=error(o, test, False), loss_raw=error(o, test, True)) for k, o in c.items()}
    best = max([r['images_per_second'] for k, r in rows.items() if not k.startswith('ours')], default=float('nan'))
    print(f'{name}, {a.steps*bs:,} images each, {a.threads} threads')
    print(f"{'':<38}{'parameters':>11}{'images/s':>10}{'x best of theirs':>18}{'noise error':>13}{'raw weights':>13}")
    for k, r in rows.items(): print(f"{k:<38}{r['parameters']:>11,}{r['images_per_second']:>10.0f}{r['images_per_second']/best:>18.2f}{r['loss']:>13.4f}{r['loss_raw']:>13.4f}")
    keep('training', data=name, images=a.steps*bs, batch=bs, lr=lr, seed=0, best_of_theirs=best, rows=rows)


if __name__ == '__main__': main()
