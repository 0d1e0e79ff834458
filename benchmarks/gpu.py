"""What a GPU makes of it, in under eight minutes: training images per second of a 35.7 M parameter
U-Net (3x32x32, batch 128) in `fit`'s loop and in the loop of diffusers' example (accelerate, bf16),
with the same network, eager and compiled; channels last; sampling; waits for the device per step,
counted by the profiler.

    python benchmarks/gpu.py            writes results/gpu.json, after every row
    python benchmarks/gpu.py --tiny     the same with a small network and few steps; on a CPU, too

Without diffusers its network is missing: then its loop trains our network, and the rows say so.
"""
import json
import time
import traceback
import warnings

import torch
from torch import nn

from common import about, parser, results
from diffnb.apps.optim import fast_math, knows_bf16
from diffnb.apps.runs import resident
from diffnb.denoiser import Denoiser
from diffnb.samplers import ddim, last
from diffnb.schedules import cosine, path
from diffnb.training import EMA, train
from diffnb.apps.families import families
from diffnb.unet import UNet

began = time.time()
limit = 380                                     # seconds; rows that would begin later are left out
p = parser(__doc__)
p.add_argument('--tiny', action='store_true')
a = p.parse_args()
device = torch.device('cuda', 0) if torch.cuda.is_available() else torch.device('cpu')
bs, steps, warm = (16, 6, 2) if a.tiny else (128, 120, 30)
half = torch.bfloat16 if knows_bf16(device) else None
data = torch.randint(0, 256, (1000 if a.tiny else 50_000, 3, 32, 32), dtype=torch.uint8)
found = {**about(), 'card': torch.cuda.get_device_name() if device.type == 'cuda' else 'none',
         'cuda': torch.version.cuda, 'bs': bs, 'precision': str(half), 'rows': {}, 'left out': {}}


def keep():
    "Write what there is"
    results.mkdir(exist_ok=True)
    name = 'gpu-tiny' if a.tiny else 'gpu'
    if not a.tiny: (results/f'{name}.json').write_text(json.dumps(found, indent=1) + '\n')


def row(name, f, *args, **kw):
    "Measure, print and keep one row, whatever happens"
    if time.time() - began > limit:
        found['left out'][name] = 'no time left'
        return
    begun = time.time()
    try: value = f(*args, **kw)
    except Exception as e:
        traceback.print_exc()
        found['left out'][name] = f'{type(e).__name__}: {e}'[:300]
        value = None
    if value is not None: found['rows'][name] = value
    now = time.time()
    print(f'{now - began:5.0f} s | {name} | {value} | took {now - begun:.0f} s', flush=True)
    keep()
    torch._dynamo.reset()
    if device.type == 'cuda': torch.cuda.empty_cache()


def wait():
    if device.type == 'cuda': torch.cuda.synchronize()


def ours():
    "Our U-Net: the 35.7 M parameters of Ho et al.'s for CIFAR-10"
    torch.manual_seed(0)
    small = dict(width=32, mults=(1, 2), groups=8, attention_args=dict(groups=8)) if a.tiny else {}
    return UNet(3, **{**families['adm'], **small})


class Plain(nn.Module):
    "A network of diffusers, which wants the number of a step; asked on the device, without waiting"
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, phi, cond=None): return self.net(x, phi*636.6).sample


def theirs():
    "The same in diffusers (google/ddpm-cifar10-32)"
    from diffusers import UNet2DModel
    torch.manual_seed(0)
    size = dict(block_out_channels=(32, 64), down_block_types=('DownBlock2D', 'AttnDownBlock2D'),
                up_block_types=('AttnUpBlock2D', 'UpBlock2D')) if a.tiny else dict(
        block_out_channels=(128, 256, 256, 256),
        down_block_types=('DownBlock2D', 'AttnDownBlock2D', 'DownBlock2D', 'DownBlock2D'),
        up_block_types=('UpBlock2D', 'UpBlock2D', 'AttnUpBlock2D', 'UpBlock2D'))
    return UNet2DModel(sample_size=32, in_channels=3, out_channels=3, layers_per_block=2, **size)


def in_our_loop(net, compiled=False, channels_last=False, target='eps'):
    "Images per second: bytes on the device, fused AdamW, averages, all that `fit` does in a step"
    model = Denoiser(net, target, cosine).to(device)
    if channels_last: model.to(memory_format=torch.channels_last)
    ema = EMA(model, .9999)
    if compiled: model.net.compile()
    items = resident(data, None, bs, 0, 0, True, device)
    with fast_math(device):
        for i, log in enumerate(train(model, items, warm + steps, lr=2e-4, precision=half)):
            ema.update_parameters(model)
            if i + 1 == warm:
                wait()
                tick = time.perf_counter()
        wait()
    return round(steps*bs/(time.perf_counter() - tick), 1)


class NoiseSchedule:
    "What diffusers' DDPMScheduler.add_noise does, where diffusers is missing"
    def __init__(self): self.bar = torch.linspace(1e-4, .02, 1000).neg().add(1).cumprod(0)

    def add_noise(self, x, eps, t):
        self.bar = self.bar.to(x.device)
        rate = self.bar[t].view(-1, 1, 1, 1)
        return rate.sqrt()*x + (1 - rate).sqrt()*eps


def ema_of(net):
    "diffusers' EMAModel, or PyTorch's"
    try:
        from diffusers.training_utils import EMAModel
        mean = EMAModel(net.parameters(), decay=.9999)
        mean.to(device)
        return lambda: mean.step(net.parameters())
    except ImportError:
        from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
        mean = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(.9999))
        return lambda: mean.update_parameters(net)


def in_their_loop(net, call, compiled=False):
    "Images per second of diffusers' examples/unconditional_image_generation, TF32 as it has it"
    from accelerate import Accelerator
    from torch.utils.data import DataLoader, TensorDataset
    try: from diffusers import DDPMScheduler
    except ImportError: DDPMScheduler = NoiseSchedule
    accelerator = Accelerator(mixed_precision='bf16' if half else 'no')
    scheduler = DDPMScheduler()
    images = DataLoader(TensorDataset(data), bs, shuffle=True, drop_last=True, num_workers=0)
    opt = torch.optim.AdamW(net.parameters(), 2e-4, betas=(.95, .999), weight_decay=1e-6)
    net, opt, images = accelerator.prepare(net.to(device), opt, images)
    average = ema_of(accelerator.unwrap_model(net))
    run = torch.compile(net) if compiled else net
    i = 0
    while True:
        for x0, in images:
            x0 = x0.float()/127.5 - 1                   # their transform does it in the workers
            eps = torch.randn_like(x0)
            t = torch.randint(0, 1000, (len(x0),), device=x0.device).long()
            answer = call(run, scheduler.add_noise(x0, eps, t), t).float()
            loss = nn.functional.mse_loss(answer, eps)
            accelerator.backward(loss)
            if accelerator.sync_gradients: accelerator.clip_grad_norm_(net.parameters(), 1.)
            opt.step()
            opt.zero_grad()
            average()
            loss.detach().item()                        # their progress bar asks at every step
            i += 1
            if i == warm:
                wait()
                tick = time.perf_counter()
            if i == warm + steps:
                wait()
                return round(steps*bs/(time.perf_counter() - tick), 1)


def ask_ours(net, x, t): return net(x, t.float()/999*1.57)
def ask_theirs(net, x, t): return net(x, t).sample


def waits_per_step(n=20, every=None):
    "Calls that make the host wait for the device, and copies from it, by the profiler"
    from torch.profiler import ProfilerActivity, profile
    model = Denoiser(ours(), 'eps', cosine).to(device)
    ema = EMA(model)
    items = resident(data, None, bs, 0, 0, True, device)
    loop = train(model, items, 10**6, lr=2e-4, precision=half)
    for _ in range(10): ema.update_parameters((next(loop), model)[1])
    wait()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        for _ in range(n): ema.update_parameters((next(loop), model)[1])
    counted = {e.key: e.count for e in profiler.key_averages()}
    names = ('cudaStreamSynchronize', 'cudaDeviceSynchronize', 'cudaEventSynchronize',
             'Memcpy DtoH (Device -> Pageable)', 'Memcpy DtoH (Device -> Pinned)',
             'aten::_local_scalar_dense')
    return {'steps': n, **{k: counted.get(k, 0) for k in names}}


def host_ms(n=30):
    "Milliseconds of the host for a step that it does not wait for: the launch"
    model = Denoiser(ours(), 'eps', cosine).to(device)
    loop = train(model, resident(data[:, :, :8, :8], None, 2, 0, 0, True, device), 10**6, lr=2e-4)
    for _ in range(10): next(loop)
    wait()
    tick = time.perf_counter()
    for _ in range(n): next(loop)
    wait()
    return round(1e3*(time.perf_counter() - tick)/n, 2)


def sampling(compiled=False, n=512, calls=20):
    "Images per second with 20 calls of the network"
    n, calls = (8, 3) if a.tiny else (n, calls)
    model = Denoiser(ours(), 'v', cosine).to(device).eval()
    if compiled: model.net.compile()
    x = torch.randn(n, 3, 32, 32, device=device)
    amp = torch.autocast(device.type, torch.bfloat16, enabled=half is not None)
    with torch.no_grad(), amp, fast_math(device):
        def once(): return last(ddim(model, x, path(cosine, calls))).x
        once()
        wait()
        tick = time.perf_counter()
        once()
        wait()
    return round(n/(time.perf_counter() - tick), 1)


def norm_layout():
    "Does GroupNorm keep channels last?"
    x = torch.randn(2, 32, 8, 8, device=device).to(memory_format=torch.channels_last)
    norm = nn.GroupNorm(8, 32).to(device)
    said = {}
    for name, on in (('float32', False), ('autocast', True)):
        with torch.autocast(device.type, torch.bfloat16, enabled=on):
            y = norm(x)
        said[name] = dict(kept=y.is_contiguous(memory_format=torch.channels_last), out=str(y.dtype))
    return said


warnings.filterwarnings('ignore')
print(found['card'], '| torch', torch.__version__, '|', half, flush=True)
found['parameters'] = sum(w.numel() for w in ours().parameters())
try:
    import diffusers
    found['diffusers'] = diffusers.__version__
    their_net, ask = theirs, ask_theirs
except ImportError:
    found['diffusers'] = 'not installed: its loop trains our network'
    print('diffusers is not installed: its loop, written out, trains our network', flush=True)
    their_net, ask = ours, ask_ours


def wrapped():
    net = their_net()
    return Plain(net) if ask is ask_theirs else net


row('GroupNorm', norm_layout)
row('our loop, eager', lambda: in_our_loop(wrapped()))
row("diffusers' loop, eager", lambda: in_their_loop(their_net(), ask))
row('our loop, compiled', lambda: in_our_loop(wrapped(), compiled=True))
row("diffusers' loop, compiled", lambda: in_their_loop(their_net(), ask, compiled=True))
row('our loop, eager, channels last', lambda: in_our_loop(wrapped(), channels_last=True))
row('waits', waits_per_step)
row('host, ms a step at 2x3x8x8', host_ms)
if ask is ask_theirs: row('our loop, our network, eager', lambda: in_our_loop(ours()))
row('sampling, eager', sampling)
row('sampling, compiled', sampling, compiled=True)
row('our loop, compiled, channels last',
    lambda: in_our_loop(wrapped(), compiled=True, channels_last=True))
rows = found['rows']
for kind in ('eager', 'compiled'):
    pair = rows.get(f'our loop, {kind}'), rows.get(f"diffusers' loop, {kind}")
    if all(pair): rows[f'ratio, {kind}'] = round(pair[0]/pair[1], 3)
found['seconds'] = round(time.time() - began)
keep()
ratios = {k: v for k, v in rows.items() if k.startswith('ratio')}
print(ratios, found['left out'], f'{found["seconds"]} s')
