"""What takes tensors, on a simulated device: it has no float64, and counts what the CPU reads.

The device is made of CPU tensors in disguise. It calls itself 'meta', since torch knows how to run
backward there without a GPU, but its tensors hold numbers, and code that looks at them runs.
"""
import copy
import tempfile
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from diffnb import fld
from diffnb.angle import aim, mix, rates, unmix
from diffnb.apps.checkpoints import load, save
from diffnb.apps.datasets import hold_out, load_data, to_channels, to_size
from diffnb.apps.instrument import show_confidence, show_confusion
from diffnb.data import Images, batches, show_points
from diffnb.kit.pictures import show_images, to_float, to_uint8
from diffnb.apps.exchange import from_diffusers
from diffnb.denoiser import Denoiser, channel_stats, per_item, weigh
from diffnb.editing import (
    blur, data_consistency, grey, inpaint, invert, repaint_path, sdedit_path, shrink, slerp)
from diffnb.few_steps import Turner, TurnUNet
from diffnb.embedding import AngleEmbed, LabelEmbed, angle_features, log_sigma, sinusoidal
from diffnb.apps.generation import generate, trajectory
from diffnb.guidance import amount, clamp, dynamic, given, guide, interval, project, steer
from diffnb.kit.checks import check_labels
from diffnb.likelihood import dequantise, log_likelihood, velocity
from diffnb.oracle import labelled
from diffnb.oracle import ideal, mixture, score
from diffnb.samplers import ddim, ddpm, dpmpp, heun, last, refresh, seeded
from diffnb.schedules import (
    alpha_bar, cosine, cosine_beta, flow, karras, linear_beta, log_snr, lognormal, path,
    rescale, sigma, timestep)
from diffnb.apps.runs import preview
from diffnb.apps.optim import Muon, orthogonal
from diffnb.training import EMA, adamw, by_angle, label_dropout, step_noise, train, validate
from diffnb.kit.pictures import to_frames
from diffnb.trajectories import show_paths, strip
from diffnb.unet import MLP, UNet

pytestmark = pytest.mark.filterwarnings('ignore:only .* images', 'ignore:.*no value below 0')
aten = torch.ops.aten
ELSEWHERE = torch.device('meta')


# The device

class Elsewhere(Tensor):
    "A tensor on the simulated device"
    @staticmethod
    def __new__(cls, inner):
        t = Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(),
            dtype=inner.dtype, device=ELSEWHERE)
        t.inner = inner
        return t

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f'{func} on a tensor of the simulated device, outside of `Device`')

    def tolist(self): return self.cpu().tolist()
    def __format__(self, spec): return format(self.item(), spec)
    def numpy(self, *args, **kwargs):
        raise TypeError("can't convert a tensor of this device to numpy: use Tensor.cpu() first")
    def __array__(self, *args, **kwargs): return self.numpy()


def there(t): return isinstance(t, Elsewhere)


READS = {
    aten._local_scalar_dense.default, aten.equal.default, aten.nonzero.default,
    aten.masked_select.default, aten.bincount.default, aten._unique2.default,
    aten.unique_dim.default, aten.repeat_interleave.Tensor}
INDEXING = {
    aten.index.Tensor, aten.index_put.default, aten.index_put_.default,
    aten._index_put_impl_.default}
MOVING = {aten._to_copy.default, aten.copy_.default}


class Filled(TorchFunctionMode):
    "`torch.tensor(numbers, device='meta')` would forget the numbers: make it here, and move it"
    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        making = func in (torch.tensor, torch.as_tensor)
        if making and not isinstance(args[0], Tensor) and kwargs.get('device') == ELSEWHERE:
            del kwargs['device']
            return func(*args, **kwargs).to(ELSEWHERE)
        return func(*args, **kwargs)


class Device(TorchDispatchMode):
    "Inside, `.to('meta')` brings tensors to the device; `reads` are the operations that wait"
    def __init__(self):
        super().__init__()
        self.reads, self.filled = [], Filled()

    def __enter__(self):
        self.filled.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.filled.__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        leaves = tree_leaves((args, kwargs or {}))
        ours = [t for t in leaves if there(t)]
        self.check_neighbours(func, args, leaves, ours)
        target = (kwargs or {}).get('device')
        out_there = bool(ours) if target is None else torch.device(target) == ELSEWHERE
        if func is aten.copy_.default: out_there = there(args[0])
        self.note(func, args, ours, out_there)
        args, kwargs = tree_map(lambda t: t.inner if there(t) else t, (args, kwargs or {}))
        if target is not None: kwargs = dict(kwargs, device='cpu')
        out = func(*args, **kwargs)
        leaving = bool(ours) and not out_there
        known = {id(t.inner): t for t in ours}

        def dress(t):
            if not isinstance(t, Tensor): return t
            if t.dtype == torch.float64 and (out_there or leaving):
                raise TypeError(f'{func}: this device does not support float64')
            if not out_there: return t
            return known[id(t)] if id(t) in known else Elsewhere(t)
        return tree_map(dress, out)

    def check_neighbours(self, func, args, leaves, ours):
        "Tensors of two devices do not meet, but for single numbers and indices from the CPU"
        others = [t for t in leaves if isinstance(t, Tensor) and not there(t) and t.ndim]
        if not ours or not others or func in MOVING: return
        if not (func in INDEXING and there(args[0])):
            raise RuntimeError(f'{func}: expected all tensors to be on the same device')

    def note(self, func, args, ours, out_there):
        "Does the CPU wait for the device here?"
        masks = func in INDEXING and any(
            there(t) and t.dtype == torch.bool for t in tree_leaves(args[1]))
        if ours and (func in READS or masks or func in MOVING and not out_there):
            self.reads.append(str(func))


def send(o):
    "Tensors, models, and lists of them, on the device"
    if isinstance(o, torch.nn.Module): return copy.deepcopy(o).to(ELSEWHERE)
    if isinstance(o, Images): return Images(send(o.x), send(o.y), o.names)
    return o.to(ELSEWHERE)


def home(o):
    "Tensors anywhere in what a function returned, on the CPU"
    return tree_map(lambda t: t.inner if there(t) else t, o)


def test_the_device_refuses_float64_and_counts_reads():
    with Device() as device:
        x = torch.arange(6.).to(ELSEWHERE)
        y = torch.rand(6, device=ELSEWHERE)
        assert there(x) and there(y) and there(2*x + torch.tensor(1.)) and not device.reads
        for wrong in (x.double, lambda: torch.zeros(2, dtype=torch.float64, device=ELSEWHERE),
                      lambda: x.to('cpu', torch.float64), lambda: torch.zeros(6).double() + x):
            with pytest.raises((TypeError, RuntimeError), match='float64|same device'): wrong()
        with pytest.raises(RuntimeError, match='same device'): x + torch.zeros(6)
        with pytest.raises(TypeError, match='cpu'): np.asarray(x)
        assert torch.zeros(6).double().to(x).dtype == torch.float32
        device.reads.clear()
        for read in (x.sum().item, x.cpu, x.nonzero, x.tolist, lambda: bool(x.max() > 1),
                     lambda: x[x > 2], lambda: torch.zeros(6).copy_(x), lambda: x.equal(y)):
            read()
            assert len(device.reads) == 1, device.reads
            device.reads.clear()
        x[torch.tensor([0, 2])] = 7.
        assert torch.tensor([7., 8.], device=ELSEWHERE).sub(x[:2]).add(1).inner.tolist() == [1., 8.]
        assert not device.reads and home(x)[2] == 7


# What runs on it

g = torch.Generator().manual_seed(0)
X, E = torch.randn(2, 4, 1, 8, 8, generator=g).clamp(-1, 1)
P = torch.randn(4, 2, generator=g)
PHI = torch.tensor([.1, .5, 1., 1.5])
Y = torch.tensor([0, 1, 2, 1])
BYTES = to_uint8(X)
ANGLES = path(cosine, 4)
DIGITS = load_data('digits', 'test', n=100)
OTHERS = load_data('digits', 'train', n=100)
A, B = torch.randn(2, 30, 5, generator=g)


def model(classes=0, channels=1):
    torch.manual_seed(0)
    net = UNet(channels, 8, (1, 2), classes=classes, zero=False)
    return Denoiser(net, shape=(channels, 8, 8), mean=.1, std=.5)


def points():
    torch.manual_seed(0)
    return Denoiser(MLP(2, 8, 2), shape=(2,))


def trained(to, opt=adamw):
    "The weights after two steps"
    m = to(model(3))
    def run():
        logs = list(train(m, iter([(X, Y)]*2), 2, opt=opt, label_dropout=.5, perturb=.1))
        return [log.loss for log in logs], [p.detach() for p in m.parameters()]
    return run


def turned(to):
    "The loss of a network that learns longer turns"
    torch.manual_seed(0)
    net = TurnUNet(1, width=8, mults=(1, 2), classes=3, zero=False)
    m = to(Turner(net, shape=(1, 8, 8))).train()
    def run():
        torch.manual_seed(1)
        return m.loss(to(X), to(Y), to(PHI), to(E)).detach()
    return run


def averaged(to):
    "The weights of an average after two updates"
    m = to(model())
    ema = EMA(m)
    def run():
        for p in m.parameters(): p.data.add_(1)
        ema.update_parameters(m)
        return [p.detach() for p in ema.parameters()]
    return run


class Scheduler:
    betas = torch.linspace(1e-4, .02, 1000)
    class config: prediction_type = 'epsilon'


class Foreign(torch.nn.Module):
    "A network as diffusers has them"
    def forward(self, x, t, class_labels=None): return x*t.view(-1, 1, 1, 1)/1000


def walked(to, sampler, **more):
    "From noise to data, with an oracle that does not read"
    return partial(last, sampler(ideal(to(X)), to(E), ANGLES, **more))


def steered(to):
    pull = steer(ideal(to(X)), lambda x0: x0.flatten(1).square().sum(1), .1)
    return partial(pull, to(E), .7)


def steps(to): return list(ddim(ideal(to(X)), to(E), ANGLES))
def flat_steps(to): return list(ddim(ideal(to(P)), to(-P), ANGLES))


def restored(to, op):
    fix = data_consistency(op.A(to(X)), op)
    return partial(fix, to(E))


def saved(to):
    "A model on the device, through a file"
    folder, m = tempfile.mkdtemp(), to(model())
    def run():
        save(f'{folder}/m.safetensors', m)
        return [p.detach() for p in load(f'{folder}/m.safetensors').parameters()]
    return run


def numbers(s): return [s.value, s.se, s.debiased, s.floor, s.reference_error]


own = dict(features=lambda f: f)   # points are their own features

# name -> (how often the CPU reads from the device, a function that makes the call ready)
CALLS = {
    # 02_angle
    'rates, one angle': (0, lambda to: partial(rates, .7, to(X))),
    'rates, an angle each': (0, lambda to: partial(rates, to(PHI), to(X))),
    'rates, one angle on the device': (1, lambda to: partial(rates, to(PHI[1]), to(X))),
    'mix, one angle': (0, lambda to: partial(mix, to(X), to(E), ANGLES[1])),
    'mix, an angle each': (0, lambda to: partial(mix, to(X), to(E), to(PHI))),
    'mix, an angle each, on the CPU': (0, lambda to: partial(mix, to(X), to(E), PHI)),
    'mix, one angle on the device': (1, lambda to: partial(mix, to(X), to(E), to(PHI[1]))),
    'aim': (0, lambda to: partial(aim, to(X), to(E), to(PHI), 'v')),
    'unmix, one angle': (0, lambda to: partial(unmix, to(X), to(E), .7)),
    'unmix, an angle each': (0, lambda to: partial(unmix, to(X), to(E), to(PHI))),
    # 04_schedules
    **{str(s): (0, lambda to, s=s: partial(s, to(PHI/2)))
       for s in (cosine, karras, flow, linear_beta, cosine_beta)},
    'lognormal': (0, lambda to: partial(lognormal, to(PHI/2))),
    'rescale': (0, lambda to: partial(rescale, to(PHI/2))),
    'readings': (0, lambda to: lambda: [f(to(PHI)) for f in (alpha_bar, sigma, log_snr)]),
    'timestep': (0, lambda to: partial(timestep, linear_beta, to(PHI))),
    # 03_oracle
    'mixture': (1, lambda to: lambda: mixture(to(X), .1, [1, 2, 3, 4]).means),
    'ideal': (0, lambda to: partial(ideal(to(X)), to(E), .7)),
    'ideal, an angle each': (0, lambda to: partial(ideal(to(X)), to(E), to(PHI))),
    'mixture with weights': (0, lambda to: partial(mixture(to(X), .1, [1, 2, 3, 4]), to(E), .7)),
    'log_prob': (0, lambda to: partial(ideal(to(P)).log_prob, to(P), .7)),
    'score': (0, lambda to: partial(score, ideal(to(P)), to(P), .7)),
    # 05_samplers
    'refresh': (0, lambda to: partial(refresh, to(E), .7, .5)),
    'ddim': (0, lambda to: walked(to, ddim)),
    'ddim, noisy': (0, lambda to: walked(to, ddim, eta=1., randn=seeded(range(4)))),
    'ddpm': (0, lambda to: walked(to, ddpm)),
    'ddpm, large': (0, lambda to: walked(to, ddpm, var='large')),
    'heun': (0, lambda to: walked(to, heun, churn=2.)),
    'dpmpp': (0, lambda to: walked(to, dpmpp, eta=1.)),
    'ddim along a path of the device':
        (1, lambda to: partial(last, ddim(ideal(to(X)), to(E), to(ANGLES.float())))),
    # 06_trajectories: a picture has to be on the CPU
    'to_frames': (14, lambda to: lambda s=steps(to): [np.array(f) for f in to_frames(s, 2)]),
    'strip': (14, lambda to: lambda s=steps(to): np.array(strip(s, 2))),
    'show_paths': (15, lambda to: lambda s=flat_steps(to): show_paths(s) and None),
    # 07_embedding
    'sinusoidal': (0, lambda to: partial(sinusoidal, to(PHI), 8)),
    'log_sigma': (0, lambda to: partial(log_sigma, to(PHI))),
    **{f'angle_features, {k}': (0, lambda to, k=k: partial(angle_features, to(PHI), 8, k))
       for k in ('angle', 'variance', 'sigma')},
    'angle_features, timestep':
        (0, lambda to: partial(angle_features, to(PHI), 8, 'timestep', linear_beta)),
    'AngleEmbed': (0, lambda to: partial(to(torch.manual_seed(0) and AngleEmbed(8, 4)), to(PHI))),
    'LabelEmbed': (0, lambda to: partial(to(torch.manual_seed(0) and LabelEmbed(3, 4)), to(Y))),
    # 09_denoiser
    'encode and decode': (0, lambda to: lambda m=to(model()): m.decode(m.encode(to(X)) + 1)),
    'limits': (0, lambda to: lambda m=to(model()): m.limits),
    'denoiser, one angle': (0, lambda to: partial(to(model()), to(X), .7)),
    'denoiser, an angle each': (0, lambda to: partial(to(model(3)), to(X), to(PHI), to(Y))),
    'denoiser of points': (0, lambda to: partial(to(points()), to(P), to(PHI))),
    'loss': (0, lambda to: partial(to(model(3)).loss, to(X), to(Y), to(PHI), to(E), weight='snr')),
    'loss, drawn': (0, lambda to: partial(to(model()).loss, to(X),
                                          generator=torch.Generator().manual_seed(0))),
    'per_item': (0, lambda to: partial(per_item, PHI, to(X))),
    'weigh': (0, lambda to: partial(weigh, to(PHI), 'v', 'min-snr', to(X))),
    'channel_stats of bytes': (2, lambda to: partial(channel_stats, to(BYTES))),
    'channel_stats of floats': (2, lambda to: partial(channel_stats, to(X))),
    'from_diffusers': (2, lambda to: partial(to(from_diffusers(Foreign(), Scheduler)), to(X), .7)),
    # apps/checkpoints
    'save and load': (len(model().state_dict()), saved),
    # 10_training
    'label_dropout':
        (0, lambda to: partial(label_dropout, to(Y), .5, torch.Generator().manual_seed(0))),
    'step_noise': (0, lambda to: partial(step_noise, to(X), to(Y), cosine, 0, 0, .5, .1)),
    'train, two steps': (4, trained),
    'train with Muon, two steps': (4, partial(trained, opt=Muon)),
    'EMA, an update': (0, averaged),
    'orthogonal': (0, lambda to: partial(orthogonal, to(A))),
    'validate': (1, lambda to: partial(validate, to(model()), to(BYTES))),
    'by_angle': (2, lambda to: partial(by_angle, to(P[:, 0]), to(PHI))),
    'preview': (1, lambda to: partial(preview, to(model()), 2, 3)),
    # 12_guidance
    'check_labels': (1, lambda to: partial(check_labels, to(Y), model(3))),
    'given': (0, lambda to: partial(given(to(model(3)), [0, 1, 2, -1]), to(X), .7)),
    'labelled': (1, lambda to: partial(labelled(to(X), to(Y)), to(E), .7, to(Y))),
    'guide': (0, lambda to: partial(guide(to(model(3)), 1, 3.), to(X), .7)),
    'guide, a weight each':
        (0, lambda to: partial(guide(to(model(3)), 1, PHI, rescale=.5), to(X), .7)),
    'amount': (1, lambda to: partial(amount, to(PHI), .7, to(X))),
    'interval': (1, lambda to: partial(interval(3., .2, 1.), to(PHI))),
    'clamp': (0, lambda to: partial(project(ideal(to(X)), clamp()), to(E), .7)),
    'dynamic': (0, lambda to: partial(project(ideal(to(X)), dynamic(.9)), to(E), .7)),
    'steer': (0, steered),
    # 13_editing: what is handed over is looked at once, before the walk
    'inpaint, made': (2, lambda to: lambda: inpaint(to(X), to(X > 0)) and None),
    'inpaint': (0, lambda to: partial(inpaint(to(X), to(X > 0)), to(E))),
    'shrink': (0, lambda to: restored(to, shrink(2))),
    'grey': (0, lambda to: restored(to, grey([1.]))),
    'blur': (0, lambda to: restored(to, blur(1.))),
    'invert': (3, lambda to: lambda: last(invert(ideal(to(X)), to(X), ANGLES, refine=1))),
    'slerp': (6, lambda to: partial(slerp, to(X), to(E), .3)),
    'sdedit_path': (1, lambda to: partial(sdedit_path, to(ANGLES.float()), .7)),
    'repaint_path': (1, lambda to: partial(repaint_path, to(ANGLES.float()))),
    # 15_likelihood
    'velocity': (0, lambda to: partial(velocity, ideal(to(X)), to(E), .7)),
    'log_likelihood': (1, lambda to: lambda: log_likelihood(
        ideal(to(P)), to(-P), ANGLES).nats),
    'log_likelihood, probes': (1, lambda to: lambda: log_likelihood(
        ideal(to(X)), to(E), ANGLES, probes=2, generator=torch.Generator().manual_seed(0)).nats),
    'dequantise': (1, lambda to: partial(
        dequantise, to(BYTES), torch.Generator().manual_seed(0))),
    # 14_few_steps
    'a loss of turns': (0, turned),
    # apps/generation
    'trajectory':
        (0, lambda to: partial(last, trajectory(to(model()), range(4), clip=False, calls=3))),
    'trajectory, clipped':
        (0, lambda to: partial(last, trajectory(to(model()), range(4), calls=3))),
    'generate': (1, lambda to: partial(generate, to(model(3)), 4, clip=False, seeds=0, calls=3,
                                       progress=False)),
    # 01_data
    'to_float': (0, lambda to: partial(to_float, to(BYTES))),
    'to_uint8': (0, lambda to: partial(to_uint8, to(X))),
    'to_size': (0, lambda to: partial(to_size, to(BYTES), 5)),
    'to_channels': (0, lambda to: lambda: to_channels(to_channels(to(BYTES), 3), 1)),
    'hold_out': (0, lambda to: partial(hold_out, to(Images(BYTES, Y)), .25)),
    'batches': (0, lambda to: partial(next, batches(to(Images(BYTES, Y)), 3, flip=True))),
    'batches, made': (1, lambda to: lambda: batches(to(Images(BYTES, Y)), 3) and None),
    'show_images': (1, lambda to: lambda: np.asarray(show_images(to(BYTES)))),
    'show_points': (2, lambda to: lambda: show_points(to(P), to(Y)) and None),
    # 11_fld
    'frechet': (4, lambda to: partial(fld.frechet, to(A[0]), to(A.T@A), to(B[0]), to(B.T@B))),
    'stats': (1, lambda to: partial(fld.stats, to(A))),
    'stats, weighted': (2, lambda to: partial(fld.stats, to(A), to(torch.arange(30)))),
    'grey28': (1, lambda to: partial(fld.grey28, to(DIGITS))),
    'features': (2, lambda to: partial(fld.features, to(DIGITS), 50)),
    'pixels': (1, lambda to: partial(fld.pixels, to(DIGITS))),
    'classify': (1, lambda to: partial(fld.classify, to(DIGITS.x))),
    'FLD': (1, lambda to: lambda: numbers(fld.FLD('digits')(to(DIGITS)))),
    'FLD, own features':
        (2, lambda to: lambda m=fld.FLD(to(A), lambda f: to(f.cpu()), to(B)): numbers(m(to(B)))),
    'kid': (2, lambda to: partial(fld.kid, to(A), to(B), **own)),
    'precision_recall': (2, lambda to: partial(fld.precision_recall, to(A), to(B), **own)),
    'nearest': (3, lambda to: partial(fld.nearest, to(A), to(B), to(B + 1), **own)),
    'per_class': (2, lambda to: partial(fld.per_class, to(DIGITS))),
    'show_confusion':
        (2, lambda to: lambda: show_confusion(fld.per_class(to(DIGITS))) and None),
    'show_confidence': (1, lambda to: lambda: show_confidence(to(DIGITS)) and None),
}


@pytest.mark.parametrize('reads, ready', CALLS.values(), ids=CALLS)
def test_gives_the_same_on_the_device_and_reads_as_often_as_it_says(reads, ready):
    call = ready(lambda o: o)
    torch.manual_seed(0)
    expected = call()
    with Device() as device:
        call = ready(send)
        device.reads.clear()
        torch.manual_seed(0)
        got = call()
    assert len(device.reads) == reads, device.reads
    assert_close(home(got), expected, rtol=1e-4, atol=1e-4, check_dtype=False)
