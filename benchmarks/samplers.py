"""What a sampler costs beyond the network: 64 images of 28x28 on the CPU, and a network that
answers at once. One thread, and the time that the processor gave it.

Two rows for ours, since libraries draw the line differently: the walk alone (the denoiser hands
over a ready Guess), and the walk with `unmix`, which is what the loops of the others include.
Medians, and the median of the ratios of neighbouring turns. Then memory (unless --time-only): it
must not grow with the number of steps.
"""
import importlib.util
import statistics
import time

import torch

from common import about, change, parser, peak_mb, turn_times
from diffnb.angle import Guess, unmix
from diffnb.samplers import ddim, ddpm, dpmpp, heun, last
from diffnb.schedules import linear_beta, path

n = 100


def ours():
    x = torch.randn(64, 1, 28, 28)
    out = torch.randn_like(x)
    ready = lambda x, phi: Guess(out, x)
    net = lambda x, phi: unmix(x, out, phi, 'eps')
    stops = path(linear_beta, n)
    def run(sampler, denoise, **kw):
        def go():
            last(sampler(denoise, x, stops, **kw))
            return n
        return go
    return {'diffnb ddim, the walk alone': run(ddim, ready),
            'diffnb ddim with unmix': run(ddim, net),
            'diffnb dpmpp with unmix': run(dpmpp, net),
            'diffnb heun with unmix (2 calls)': run(heun, net),
            'diffnb ddpm with unmix': run(ddpm, net)}


def diffusers_loops():
    from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler
    x0 = torch.randn(64, 1, 28, 28)
    out = torch.randn_like(x0)
    def run(scheduler, scale=False):
        def go():
            scheduler.set_timesteps(n)
            x = x0
            for t in scheduler.timesteps:
                if scale: scheduler.scale_model_input(x, t)
                x = scheduler.step(out, t, x).prev_sample
            return n
        return go
    return {'diffusers DDIM': run(DDIMScheduler(clip_sample=False)),
            'diffusers Euler': run(EulerDiscreteScheduler(), True),
            'diffusers DDPM': run(DDPMScheduler(clip_sample=False))}


def small():
    from smalldiffusion import ScheduleDDPM, samples
    x = torch.randn(64, 1, 28, 28)
    class Net(torch.nn.Module):
        input_dims = (1, 28, 28)
        def rand_input(self, b): return x
        def predict_eps(self, x, sigma, cond=None): return x
        def predict_eps_cfg(self, x, sigma, cond, scale): return x
    net, sigmas = Net(), ScheduleDDPM().sample_sigmas(n)
    def go():
        for _ in samples(net, sigmas, xt=x): pass
        return n
    return {'smalldiffusion': go}


def memory(steps):
    "Peak memory in MB of a process that walks so many steps"
    return peak_mb(f"""
import torch
from diffnb.angle import unmix
from diffnb.samplers import ddim, last
from diffnb.schedules import cosine, path
x = torch.randn(256, 3, 64, 64)
last(ddim(lambda x, phi: unmix(x, x, phi, 'v'), x, path(cosine, {steps})))
""")


def main():
    p = parser(__doc__)
    p.add_argument('--rounds', type=int, default=41)
    p.add_argument('--time-only', action='store_true', help='leave the memory as it was measured')
    a = p.parse_args()
    torch.set_num_threads(1)
    with torch.no_grad():
        contestants = ours()
        for module, make in (('diffusers', diffusers_loops), ('smalldiffusion', small)):
            if importlib.util.find_spec(module): contestants |= make()
            else: print(f'{module} is not installed and stays out: make bench installs it')
        times = turn_times(contestants, a.rounds, clock=time.process_time)
    us = {name: round(statistics.median(t), 1) for name, t in times.items()}
    base = times['diffnb ddim with unmix']
    ratio = {name: round(statistics.median(b/own for b, own in zip(base, t)), 3)
             for name, t in times.items()}
    print('microseconds per step beyond the network; ddim with unmix in units of each')
    for name, t in us.items(): print(f'  {name:<34}{t:8.1f}{ratio[name]:8.2f}')
    found = dict(rounds=a.rounds, microseconds_per_step=us, ddim_with_unmix_relative_to=ratio)
    change('samplers', lambda record: record.update({**about(), **found}))
    if a.time_only: return
    mb = {k: min(memory(k) for _ in range(3)) for k in (10, 100, 1000)}  # the rest is the allocator
    print('peak memory in MB by number of steps:', {k: round(v) for k, v in mb.items()})
    change('samplers', lambda record: record.update(
        peak_megabytes_by_steps=mb, peak_megabytes_measured=about()))


if __name__ == '__main__': main()
