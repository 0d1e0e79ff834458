"What only a CUDA device can show. Skipped, with a message, where there is none"
import warnings

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from diffnb.apps.generation import generate
from diffnb.apps.optim import fast_math
from diffnb.apps.runs import fit, resident
from diffnb.data import batches, spiral
from diffnb.denoiser import Denoiser
from diffnb.fld import FLD
from diffnb.guidance import given, guide
from diffnb.samplers import ddim, ddpm, dpmpp, heun, last, seeded
from diffnb.schedules import cosine, path
from diffnb.kit.checks import Diverged
from diffnb.training import EMA, adamw, train
from diffnb.unet import MLP, UNet

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(),
                                reason='needs a CUDA device, and there is none')
quiet = dict(progress=False)


def images(n=256):
    g = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 1, 16, 16), dtype=torch.uint8,
                         generator=g), torch.arange(n) % 3


def small(classes=0, **kw):
    torch.manual_seed(0)
    return Denoiser(UNet(1, width=16, mults=(1, 2), classes=classes), shape=(1, 16, 16), **kw)


def points(classes=0):
    torch.manual_seed(0)
    return Denoiser(MLP(width=64, layers=3, classes=classes), shape=(2,))


def same(a, b):
    return all(x.equal(y)
               for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.fixture
def exact():
    "The same kernels every time"
    import os
    os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize('sampler', [ddim, ddpm, heun, dpmpp])
def test_every_sampler_goes_where_it_goes_on_the_cpu(sampler):
    model, noise = points(), seeded(range(8))((8, 2))
    angles = path(cosine, 8)
    here = last(sampler(model, noise, angles,
                        **({'randn': seeded(range(8))} if sampler is ddpm else {}))).x
    model.cuda()
    there = last(sampler(model, noise.cuda(), angles,
                         **({'randn': seeded(range(8))} if sampler is ddpm else {}))).x
    assert there.is_cuda
    assert_close(there.cpu(), here, rtol=1e-3, atol=1e-3)


def test_guidance_is_one_doubled_batch_and_gives_the_same():
    model, x = points(3), torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    y = torch.arange(6) % 3
    here = guide(model, y, 3.)(x, .7).x0
    model.cuda()
    calls = []
    model.net.register_forward_hook(lambda m, i, o: calls.append(len(i[0])))
    there = guide(model, y.cuda(), 3.)(x.cuda(), .7).x0
    assert calls == [12]
    assert_close(there.cpu(), here, rtol=1e-3, atol=1e-3)
    assert given(model, y.cuda())(x.cuda(), .7).x0.is_cuda


def test_seeded_noise_is_that_of_the_cpu():
    like = torch.empty(4, 2, device='cuda')
    assert seeded(range(4))(like).cpu().equal(seeded(range(4))(torch.empty(4, 2)))


def test_between_reads_nothing_waits():
    "The device may be asked at every tenth step, and at no other"
    model = small(3).cuda()
    x, y = images()
    ema = EMA(model)
    loop = train(model, resident(x, y, 32, 0, 0, True, torch.device('cuda', 0)), 100,
                 label_dropout=.2, perturb=.1)
    for _ in range(10): ema.update_parameters((next(loop), model)[1])       # the 10th has read
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode('error')
    try:
        for _ in range(9): ema.update_parameters((next(loop), model)[1])
    finally: torch.cuda.set_sync_debug_mode('default')
    log = next(loop)
    assert log.items.is_cuda and log.loss > 0 and log.norm > 0


def poisoned(at):
    for i, (x0, y) in enumerate(batches(spiral(500), 32)):
        if i == at: x0[5, 0] = float('inf')
        yield x0, y


def test_a_bad_step_is_skipped_at_once_and_named_at_the_next_read():
    model, seen = points().cuda(), []
    with pytest.raises(Diverged, match=r'step 3, batch 3.*items \[5\]'):
        for _ in train(model, poisoned(3), 30): seen.append([p.clone() for p in model.parameters()])
    assert len(seen) == 9
    assert all(a.equal(b) for a, b in zip(seen[2], seen[3]))
    assert all(p.isfinite().all() for p in seen[-1]) and not seen[-1][0].equal(seen[3][0])


def test_bf16_learns_as_float32_does():
    losses = []
    for precision in (None, 'bf16'):
        model = fit(small(), images()[0], steps=60, bs=64, precision=precision, device='cuda',
                    **quiet)
        losses.append(sum(model.history.column('loss')[-20:])/20)
    assert abs(losses[0] - losses[1]) < .05*losses[0]


def test_fp16_survives_an_overflow():
    from accelerate import Accelerator
    from accelerate.utils import GradScalerKwargs
    accelerator = Accelerator(mixed_precision='fp16',
                              kwargs_handlers=[GradScalerKwargs(init_scale=2.**40)])
    model = small().cuda()
    logs = list(train(model, batches(images()[0], 32), 40, accelerator=accelerator))
    norms = torch.tensor([log.norm for log in logs])
    assert not norms[0].isfinite() and norms[-1].isfinite()
    assert accelerator.scaler.get_scale() < 2.**40
    assert all(p.isfinite().all() for p in model.parameters())


def test_channels_last_changes_speed_only():
    models = [fit(small(), images()[0], steps=10, bs=32, precision=None, channels_last=on,
                  device='cuda', **quiet)
              for on in (False, True)]
    for a, b in zip(models[0].parameters(), models[1].parameters()):
        assert_close(a, b, rtol=2e-2, atol=2e-2)


def test_compiled_training_gives_plain_names(tmp_path):
    model = fit(small(), images()[0], steps=6, bs=32, compile=True, folder=tmp_path, device='cuda',
                **quiet)
    from diffnb.apps.checkpoints import load
    again = load(tmp_path)
    assert not [k for k in model.state_dict() if 'orig_mod' in k] and same(again.cuda(), model)
    assert model.net._compiled_call_impl is None and model.history.column('loss')[-1] < 10


def test_resumes_to_the_bit(tmp_path, exact):
    how = dict(steps=30, bs=32, label_dropout=.2, perturb=.1, flip=True, device='cuda', **quiet)
    straight = fit(small(3), images(), **how)
    fit(small(3), images(), folder=tmp_path, every=dict(save=20), **how)
    (tmp_path/'state-00000030.safetensors').unlink()
    again = fit(small(3), images(), folder=tmp_path, resume=True, **how)
    assert same(again, straight)


def test_fast_math_is_put_back():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    with fast_math(torch.device('cuda')):
        assert torch.backends.cudnn.benchmark and torch.get_float32_matmul_precision() == 'high'
    assert before == (torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark)


def test_adamw_is_fused():
    assert adamw(nn.Linear(2, 2).cuda().parameters()).defaults['fused']


def test_generate_and_judge():
    pytest.importorskip('fastprogress')
    model = small(3).cuda()
    made = generate(model, 6, cond=torch.tensor([0, 1, 2, 0, 1, 2]), seeds=0, calls=3,
                    progress=False)
    assert made.shape == (6, 1, 16, 16)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        fld = FLD('digits')
        x = torch.rand(300, 1, 16, 16, generator=torch.Generator().manual_seed(0))*2 - 1
        here, there = fld(x), fld(x.cuda())
    assert abs(here.value - there.value) < 1e-2*abs(here.value)
