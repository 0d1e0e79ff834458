"What people do with training that once went wrong without a word, or was refused though right"
import copy
import pickle
import warnings
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, TensorDataset

from diffnb import training
from diffnb.apps import runs
from diffnb.apps.checkpoints import load, save
from diffnb.apps.optim import optimiser, pays_channels_last
from diffnb.apps.runs import fit, preview
from diffnb.data import batches, spiral
from diffnb.denoiser import Denoiser, channel_stats
from diffnb.guidance import clamp, guide, project
from diffnb.samplers import ddim, last
from diffnb.schedules import path
from diffnb.kit.files import load_state
from diffnb.kit.checks import Diverged
from diffnb.training import EMA, by_angle, label_dropout, train, validate
from diffnb.unet import MLP, UNet

points = spiral(64)
labels = torch.arange(64) % 3
short = dict(steps=2, bs=16, progress=False)


def small(classes=0, **kw):
    torch.manual_seed(0)
    return Denoiser(MLP(width=8, layers=1, classes=classes), **kw)


class Conv(nn.Module):
    "One convolution, batch statistics, another convolution"
    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(2, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.two = nn.Conv2d(8, 2, 3, padding=1)

    def forward(self, x, phi, cond=None):
        return self.two(self.norm(self.one(x)).relu())


def conv():
    torch.manual_seed(0)
    return Denoiser(Conv(), shape=(2, 4, 4))


def pictures(n=16): return torch.rand(n, 2, 4, 4, generator=torch.Generator().manual_seed(0))*2 - 1


def said(f, *args, **kw):
    "The warnings of a call"
    with warnings.catch_warnings(record=True) as w:
        warnings.simplefilter('always')
        f(*args, **kw)
    return [str(one.message) for one in w]


def same(a, b):
    states = a.state_dict().values(), b.state_dict().values()
    return all(x.equal(y) for x, y in zip(*states, strict=True))


# Wrong results without a word

def test_images_beyond_the_limits_are_said():
    wide = 4*pictures()
    text, = said(fit, conv(), wide, **short)
    assert 'cut off' in text and 'channel_stats' in text and 'clip=False' in text
    assert not said(fit, conv(), pictures(), **short)
    scaled = Denoiser(Conv(), **channel_stats(wide))
    assert not said(fit, scaled, wide, **short)


def test_data_are_looked_at_once(monkeypatch):
    make = training.batches

    def odd(*args, **kw):
        warnings.warn('odd data')
        return make(*args, **kw)

    monkeypatch.setattr(training, 'batches', odd)
    monkeypatch.setattr(runs, 'batches', odd)
    assert said(fit, small(), points, **short) == ['odd data']
    two = said(fit, small(), points, valid=points + 1, every=dict(valid=1), **short)
    assert two == ['odd data', 'odd data']


@pytest.mark.parametrize('classes, y, share, what', [
    (3, None, .1, 'never hear one'),
    (3, torch.full((64,), -1), .1, 'never hear one'),
    (3, labels, 1., 'never hear one'),
    (3, labels, 0., 'never learns to go without'),
    (0, labels, .1, 'knows no classes'),
])
def test_a_network_that_never_hears_a_label_or_never_goes_without(classes, y, share, what):
    text, = said(fit, small(classes), (points, y), label_dropout=share, **short)
    assert what in text


def test_labels_that_are_used_well_are_silent():
    some = torch.where(labels == 2, -1, labels)
    assert not said(fit, small(3), (points, labels), label_dropout=.1, **short)
    assert not said(fit, small(3), (points, some), **short)
    assert not said(fit, small(), points, **short)


@pytest.mark.parametrize('settings, names', [
    (dict(patience=2), ('patience', 'valid')),
    (dict(patience=2, valid=.2, every=dict(valid=0)), ('patience', 'every')),
    (dict(every=dict(valid=1)), ('every', 'valid=')),
    (dict(every=dict(save=1)), ('save', 'folder')),
    (dict(keep=5), ('keep', 'folder')),
    (dict(tensorboard=True), ('tensorboard', 'folder')),
    (dict(lr=None, warmup=1), ('warmup', 'lr=')),
    (dict(lr=None, lr_end=1e-5), ('lr_end', 'lr=')),
    (dict(channels_last=True), ('channels_last', 'convolutions')),
])
def test_settings_without_effect_are_refused(settings, names):
    with pytest.raises(ValueError) as e: fit(small(), points, **{**short, **settings})
    assert all(name in str(e.value) for name in names)


def test_settings_without_effect_in_train_are_refused():
    model = small()
    for kw in (dict(warmup=2), dict(lr_end=0.)):
        with pytest.raises(ValueError, match='lr=None'):
            train(model, batches(points, 8), 5, lr=None, **kw)
    with pytest.raises(ValueError, match='decay'): optimiser(model, optimiser(model), decay=.1)


def test_previews_that_nobody_sees_are_said():
    text, = said(fit, small(), points, every=dict(preview=1), **short)
    assert 'folder' in text


def groups(model):
    first, *rest = model.parameters()
    return torch.optim.AdamW([dict(params=[first], lr=1e-3), dict(params=rest, lr=1e-5)])


def test_groups_keep_their_rates():
    model = small()
    opt = groups(model)
    log = list(train(model, batches(points, 8), 3, lr=None, opt=opt))[-1]
    assert [g['lr'] for g in opt.param_groups] == [1e-3, 1e-5] and log.lr == 1e-3
    for _ in train(model, batches(points, 8), 4, lr=1e-2, opt=opt, warmup=8): pass
    assert [g['lr'] for g in opt.param_groups] == pytest.approx([5e-3, 5e-5])
    for name in ('adamw', 'muon', 'sgd'):
        assert next(train(model, batches(points, 8), 1, lr=None, opt=optimiser(model, name))).lr > 0


def test_groups_keep_their_rates_when_a_run_goes_on(tmp_path):
    made = []

    def groups_of(weights, lr):
        first, *rest = weights
        groups = [dict(params=[first], lr=lr), dict(params=rest, lr=lr/7)]
        made.append(torch.optim.AdamW(groups))
        return made[-1]

    how = dict(opt=groups_of, bs=16, progress=False, every=dict(save=3))
    straight = fit(small(), points, steps=6, folder=tmp_path, **how)
    high, low = (g['lr'] for g in made[-1].param_groups)
    assert low == pytest.approx(high/7)
    (tmp_path/'state-00000006.safetensors').unlink()
    assert same(fit(small(), points, steps=6, folder=tmp_path, resume=True, **how), straight)


def test_looking_on_changes_no_batch_statistics():
    model = conv()
    model.train()
    model.net.norm.eval()
    before = copy.deepcopy(model.state_dict())
    preview(model, 4, 3)
    validate(model, pictures(), n=8)
    assert all(v.equal(before[k]) for k, v in model.state_dict().items())
    assert model.training and model.net.one.training and not model.net.norm.training


# Right things that were refused

@pytest.mark.parametrize('whole', [np.int64, np.int32, np.uint8, torch.tensor])
def test_whole_numbers_of_any_make(whole):
    def run(n):
        model = small(3)
        data, held = (points, labels), (points[:8], labels[:8])
        return fit(model, data, steps=n(4), bs=n(16), seed=n(5), warmup=n(1), keep=n(3), valid=held,
                   patience=n(3), every=dict(valid=n(2), preview=n(0)), accumulate=n(2),
                   label_dropout=.3, progress=False)

    assert same(run(whole), run(int))
    model = small(shape=(2,))
    assert preview(model, whole(3), whole(2), whole(1)).equal(preview(model, 3, 2, 1))
    items, _ = validate(model, points, n=whole(8), bs=whole(4), seed=whole(1))
    assert items.equal(validate(model, points, 8, 4, 1)[0])
    assert by_angle(torch.ones(4), torch.ones(4), whole(6))[1].tolist() == [1.]


@pytest.mark.parametrize('real', [np.float32, np.float64, torch.tensor])
def test_fractions_of_any_make(real):
    fit(small(3), (points, labels), steps=2, bs=16, lr=real(.01), lr_end=real(0.), ema=real(.5),
        valid=real(.25), label_dropout=real(.5), clip=real(1.), perturb=real(.1), progress=False)


def test_no_whole_number_is_still_refused():
    for steps in (1.5, True, '3', torch.tensor(True), np.float64(3), torch.tensor([3, 4]), 0):
        with pytest.raises(ValueError, match='steps'):
            fit(small(), points, **{**short, 'steps': steps})
    with pytest.raises(ValueError, match='seed'): train(small(), batches(points, 8), 3, seed=1.5)


@pytest.mark.parametrize('form', [
    lambda x, y: x,
    lambda x, y: (x,),
    lambda x, y: [x, y],
    lambda x, y: (x, y.to(torch.uint8)),
    lambda x, y: (x, y.int()),
    lambda x, y: (x, y[:, None]),
    lambda x, y: (x, y.tolist()),
    lambda x, y: (x, y.numpy()),
])
def test_batches_in_their_usual_forms(form):
    model = small(3)
    for _ in train(model, iter([form(points[:8], labels[:8])]), 1): pass


def test_a_loader_of_bare_tensors():
    loader = DataLoader(TensorDataset(points), 16)
    assert len(list(train(small(), loader, 4))) == 4
    loader = DataLoader(TensorDataset(points, labels), 16)
    assert len(list(train(small(3), loader, 4, label_dropout=.1))) == 4
    with pytest.raises(ValueError, match='endless.*stream'): list(train(small(), loader, 5))


@pytest.mark.parametrize('batch, what', [
    (dict(image=points, label=labels), 'image, label'),
    ((points, labels, labels), '3 parts'),
    ((points, ['a']*64), 'labels'),
    ((points, torch.tensor(3)), '1 labels'),
])
def test_other_batches_are_refused_in_words(batch, what):
    with pytest.raises(ValueError, match=what): next(train(small(3), iter([batch]), 1))


class Elsewhere(TorchDispatchMode):
    "A device (meta plays it) that has no float64"
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in tree_leaves(out):
            if isinstance(t, torch.Tensor) and t.device.type == 'meta' and t.dtype == torch.float64:
                raise TypeError(f'{func}: the device has no float64')
        return out


def test_data_on_another_device_than_the_model():
    model = small(mean=[0., 1.]).to('meta')
    assert runs.check_fit(model, points, 16, None) is None
    assert runs.run_length(points, 5, None, 16) == 5 and runs.run_length(points, None, 2, 16) == 8


def test_no_float64_where_there_is_none():
    model = small().to('meta')
    with Elsewhere(): x0, _ = training.next_batch(iter([points.double()]), 0, model, 1)
    assert x0.dtype == torch.float32 and x0.device.type == 'meta'
    model = small().double()
    assert training.next_batch(iter([points.double()]), 0, model, 1)[0].dtype == torch.float64


class Poor(torch.Tensor):
    "A tensor on a device without float64; `cpu()` brings it home"
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is torch.Tensor.cpu: return args[0].as_subclass(torch.Tensor)
        out = super().__torch_function__(func, types, args, kwargs or {})
        if isinstance(out, torch.Tensor) and out.dtype == torch.float64:
            raise TypeError('this device has no float64')
        return out


def test_sums_by_angle_need_no_float64_on_the_device():
    items, phi = torch.rand(20), torch.linspace(0, 1.5, 20)
    ours = by_angle(items.as_subclass(Poor), phi.as_subclass(Poor))
    assert all(a.equal(b) for a, b in zip(ours, by_angle(items, phi)))


class Half:
    "What `accelerate` does for float16: a gradient scaler around backward and the step"
    num_processes, process_index, is_main_process, mixed_precision = 1, 0, True, 'fp16'
    device = torch.device('cpu')

    def __init__(self, scale=2.**127): self.scaler = torch.amp.GradScaler('cpu', init_scale=scale)

    def prepare(self, net, opt):
        self.opt = opt
        return net, HalfOptimiser(opt, self.scaler)

    def backward(self, loss): self.scaler.scale(loss).backward()
    def no_sync(self, net): return nullcontext()
    def wait_for_everyone(self): pass

    def clip_grad_norm_(self, weights, longest):
        self.scaler.unscale_(self.opt)
        return nn.utils.clip_grad_norm_(weights, longest)


class HalfOptimiser:
    def __init__(self, opt, scaler):
        self.opt, self.scaler = opt, scaler
        self.param_groups = opt.param_groups

    def zero_grad(self): self.opt.zero_grad()

    def step(self):
        self.scaler.step(self.opt)
        self.scaler.update()


def test_an_overflow_of_the_gradient_scaler_is_ordinary():
    model, half = small(), Half()
    before = model.net.last.weight.detach().clone()
    logs = list(train(model, batches(100*points, 16), 30, accelerator=half))
    norms = torch.tensor([log.norm for log in logs])
    assert not norms[0].isfinite() and norms[-1].isfinite() and half.scaler.get_scale() < 2.**127
    assert not model.net.last.weight.equal(before) and model.net.last.weight.isfinite().all()


def test_a_scaler_that_never_comes_to_rest_is_no_excuse():
    model = small()
    with torch.no_grad(): model.net.last.weight.fill_(float('inf'))
    with pytest.raises(Diverged): list(train(model, batches(points, 16), 100, accelerator=Half(1.)))


def test_a_scaler_goes_on_where_it_was(tmp_path):
    half = Half(scale=2.**30)
    fit(small(), points, folder=tmp_path, accelerator=half, every=dict(save=2), **short)
    again = Half()
    fit(small(), points, folder=tmp_path, accelerator=again, resume=True, **short)
    assert again.scaler.get_scale() == half.scaler.get_scale()


@pytest.mark.parametrize('before, after', [(True, False), (False, True), (True, True)])
def test_a_compiled_network_goes_on(before, after, tmp_path):
    def fresh(compiled):
        model = small()
        if compiled: model.net = torch.compile(model.net, backend='eager')
        return model

    how = dict(bs=16, progress=False, every=dict(save=2), folder=tmp_path)
    straight = fit(fresh(False), points, steps=4, bs=16, progress=False)
    fit(fresh(before), points, steps=4, **how)
    (tmp_path/'state-00000004.safetensors').unlink()
    state = load_state(tmp_path/'state-00000002.safetensors')
    assert not [k for part in ('model', 'ema') for k in state[part] if '_orig_mod' in k]
    assert same(fit(fresh(after), points, steps=4, resume=True, **how), straight)


@pytest.mark.parametrize('opt', ['adamw', 'muon'])
def test_the_optimiser_keeps_the_layout_of_its_weights(opt, tmp_path, monkeypatch):
    seen = []
    drive = runs.drive

    def look(loop, run, start):
        seen.append(run.opt)
        model = drive(loop, run, start)
        kept = [t for s in run.opt.state.values() for t in s.values() if t.ndim == 4]
        assert kept and all(t.is_contiguous(memory_format=torch.channels_last) for t in kept)
        return model

    monkeypatch.setattr(runs, 'drive', look)

    def run(**kw):
        torch.manual_seed(0)
        model = Denoiser(UNet(1, width=8, mults=(1,)))
        x = pictures()[:, :1]
        return fit(model, x, steps=2, bs=8, channels_last=True, folder=tmp_path, opt=opt,
                   progress=False, **kw)

    run(every=dict(save=1))
    (tmp_path/'state-00000002.safetensors').unlink()
    run(every=dict(save=1), resume=True)
    assert len(seen) == 2


def test_an_average_is_a_denoiser(tmp_path):
    model = small(3, mean=[1., 2.], std=[3., 4.])
    ema = EMA(model, .9)
    for _ in train(model, batches((points, labels), 16), 3, label_dropout=.1):
        ema.update_parameters(model)
    assert ema.shape == model.shape == (2,)
    assert ema.schedule is ema.module.schedule and ema.target == 'v'
    assert ema.decode(ema.encode(points)).allclose(points, atol=1e-5)
    assert all(a.equal(b) for a, b in zip(ema.limits, model.limits))
    x = torch.randn(4, 2)
    steered = guide(project(ema, clamp(ema)), labels[:4], 2.)
    assert last(ddim(steered, x, path(ema.schedule, 3))).x.isfinite().all()
    assert preview(ema, 3).shape == (3, 2) and len(validate(ema, points)[0]) == 64
    for twin in (copy.deepcopy(ema), pickle.loads(pickle.dumps(ema))):
        assert twin(x, .5, labels[:4]).x0.equal(ema(x, .5, labels[:4]).x0)
        twin.update_parameters(model)
    save(tmp_path/'ema.safetensors', ema)
    assert load(tmp_path/'ema.safetensors')(x, .5, labels[:4]).x0.equal(ema(x, .5, labels[:4]).x0)
    with pytest.raises(AttributeError): ema.no_such_thing
    assert not hasattr(EMA(nn.Linear(1, 1)), 'schedule')


# What the text says

def test_what_was_not_measured_is_not_called_measured():
    assert 'not measured here' in pays_channels_last.__doc__


def test_forgotten_labels_of_any_make():
    for y in (np.arange(6, dtype=np.uint8), torch.arange(6).int(), list(range(6))):
        assert label_dropout(y, 1.).eq(-1).all()
