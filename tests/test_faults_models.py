"Faults that users of other programs met, asked of networks, denoisers and their files"
import copy
import json
import math
import pickle
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from diffnb.apps import checkpoints
from diffnb.apps.checkpoints import build, known, load, load_plain, plain_state, save
from diffnb.kit.files import header, load_state, save_state
from diffnb.apps.exchange import from_diffusers
from diffnb.denoiser import Denoiser, channel_stats, per_item
from diffnb.embedding import AngleEmbed, LabelEmbed, angle_features, sinusoidal
from diffnb.schedules import linear_beta
from diffnb.kit.config import summary
from diffnb.apps.families import ResidualUNet
from diffnb.unet import MLP, UNet, UNetFixed


class Seen(TorchDispatchMode):
    """Notes the size of the largest tensor that is made, and refuses float64 on `meta`, which plays
    a device without it"""
    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in torch.utils._pytree.tree_leaves(out):
            if not isinstance(t, torch.Tensor): continue
            if t.device.type == 'meta' and t.dtype == torch.float64:
                raise TypeError(f'{func}: no float64 on this device')
            if not t._is_view(): self.largest = max(self.largest, t.numel()*t.element_size())
        return out


# Angles

wrong_angles = {
    'time steps': (torch.tensor([734, 3, 12, 0]), '734'),
    'small time steps': (torch.tensor([0, 1, 1, 0]), 'int64'),
    'floating time steps': (torch.tensor([.5, 734., 12., 0.]), '734'),
    'degrees': (torch.tensor([.1, 1.2, 45., 1.]), '45'),
    'negative': (torch.tensor([.1, -.2, .3, .4]), '-0.2'),
    'not a number': (torch.tensor([.1, .2, math.nan, .4]), 'nan'),
    'infinite': (torch.tensor([.1, .2, .3, math.inf]), 'inf'),
}


@pytest.mark.parametrize('what', wrong_angles)
def test_angles_per_item_are_checked(what):
    phi, value = wrong_angles[what]
    model, x = Denoiser(MLP(width=8, layers=1)), torch.randn(4, 2)
    for call in (lambda: model.loss(x, phi=phi), lambda: model(x, phi),
                 lambda: model.predict(x, phi), lambda: per_item(phi, x)):
        with pytest.raises(ValueError, match=value): call()
    with pytest.raises(ValueError, match='angles are radians between 0 and pi/2'): per_item(phi, x)


def test_right_angles_pass_unchanged():
    x = torch.randn(3, 2)
    phi = torch.tensor([0., .8, math.pi/2])  # in float32 a little more than pi/2
    assert per_item(phi, x).equal(phi)
    assert per_item(math.pi/2, x.double()).dtype == torch.float64
    assert per_item(torch.tensor(.5), x).equal(torch.full((3,), .5))
    assert per_item([0., .8, 1.], x).equal(torch.tensor([0., .8, 1.]))
    assert per_item(np.array([0., .8, 1.]), x).equal(torch.tensor([0., .8, 1.]))
    with pytest.raises(ValueError, match='phi=50'): per_item(50, x)


def test_on_a_device_without_float64_angles_are_not_looked_at():
    "`meta` has no numbers to look at: a look would raise there, as it would make a GPU wait"
    x, phi = torch.randn(4, 2, device='meta'), torch.rand(4, device='meta')
    model = Denoiser(MLP(width=8, layers=1)).to('meta')
    with Seen():
        assert per_item(phi, x).dtype == torch.float32
        assert model.predict(x, phi).shape == x.shape
        assert model.encode(x).shape == x.shape and model.decode(x).shape == x.shape
        assert angle_features(phi, 8, 'sigma').dtype == torch.float32


# Whole numbers

whole_kinds = {'numpy': np.int64, 'a byte': np.uint8, 'torch': torch.tensor,
               'torch, a byte': lambda n: torch.tensor(n, dtype=torch.uint8)}


@pytest.mark.parametrize('kind', whole_kinds)
def test_networks_take_whole_numbers_of_any_kind(kind):
    n = whole_kinds[kind]
    made = [
        UNet(n(1), n(8), mults=(n(1), n(2)), blocks=n(1), attention=(n(1),), heads=n(2),
             classes=n(3), extra=n(1), groups=n(2), features=n(2),
             block_args=dict(shortcut=n(3))),
        # In a byte, four times 128 would be 0
        UNet(1, n(128), (n(1),), head_dim=n(64), mid_attention=True),
        UNetFixed(n(1), n(8), n(8), n(4)),
        ResidualUNet(n(1), (n(4), n(8)), n(1), n(4), extra=n(1), freqs=(n(1), n(100))),
        MLP(n(2), n(8), n(1), n(3)),
    ]
    for net in made:
        again = build(json.loads(json.dumps(net.cfg)))
        assert again.cfg == net.cfg
        assert [p.shape for p in again.parameters()] == [p.shape for p in net.parameters()]


def test_classes_are_counted_in_the_labels():
    y = torch.tensor([0, 4, 9])
    for classes in (y.max() + 1, y.numpy().max() + 1):
        assert UNet(1, width=8, classes=classes).cfg['classes'] == 10


def test_lists_of_whole_numbers_may_be_arrays():
    net = UNet(1, width=8, mults=np.array([1, 2]), attention=range(2))
    assert net.cfg['mults'] == [1, 2] and net.cfg['attention'] == [0, 1]
    assert UNet(1, width=8, mults=torch.tensor([1, 2])).cfg['mults'] == [1, 2]


def test_parts_and_shapes_take_whole_numbers_of_any_kind():
    assert sinusoidal(torch.rand(2), np.int64(8)).shape == (2, 8)
    embed = AngleEmbed(np.uint8(8), torch.tensor(4), hidden=np.int16(6))
    assert embed(torch.rand(2)).shape == (2, 4)
    assert LabelEmbed(np.uint8(255), torch.tensor(4)).rows.weight.shape == (256, 4)
    phi = torch.rand(2)
    same = angle_features(phi, 8, freqs=(1, 100))
    assert angle_features(phi, 8, freqs=np.array([1, 100])).equal(same)
    assert Denoiser(MLP(), shape=np.array([2])).shape == (2,)
    assert 'total' in summary(MLP(), (np.int64(1), torch.tensor(2)))


@pytest.mark.parametrize('wrong', [1.5, 10., '3', None, np.float64(3), torch.tensor(3.),
                                   torch.tensor([1, 2])])
def test_what_is_no_whole_number_is_refused_by_name(wrong):
    for make in (lambda: UNet(1, classes=wrong), lambda: MLP(classes=wrong),
                 lambda: ResidualUNet(1, extra=wrong)):
        with pytest.raises(ValueError, match='(classes|extra)=.*give a whole number'): make()
    if wrong is not None:
        with pytest.raises(ValueError, match='shape.0.=.*give a whole number'):
            Denoiser(MLP(), shape=(wrong,))


# Files

def test_the_name_of_a_shipped_model_beside_a_folder_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path/'mnist').mkdir()
    (tmp_path/'mnist'/'0.png').touch()
    assert load('mnist').shape == (1, 28, 28)
    (tmp_path/'mnist'/'log.csv').touch()  # a run's own folder is what is meant
    with pytest.raises(ValueError, match='has not written its model yet'): load('mnist')
    (tmp_path/'pictures').mkdir()
    with pytest.raises(ValueError, match='is a folder without a model.safetensors'):
        load('pictures')
    save('mnist/model.safetensors', Denoiser(MLP(width=8), shape=(2,)))
    assert load('mnist').shape == (2,)


class Looks(nn.Module):
    "Notes which classes are known while it is made"
    seen = []

    def __init__(self, dim=2):
        super().__init__()
        self.cfg, self.dense = dict(name='Looks', dim=dim), nn.Linear(dim, dim)
        Looks.seen.append(dict(known))

    def forward(self, x, phi, cond=None): return self.dense(x)


def test_saving_leaves_the_known_classes_alone_even_for_a_moment(tmp_path):
    before = dict(known)
    model = Denoiser(Looks())
    Looks.seen.clear()
    save(tmp_path/'looks.safetensors', model)
    assert Looks.seen and all(seen == before for seen in Looks.seen)
    assert known == before


def test_loading_does_not_stop_another_thread_that_makes_a_network(tmp_path):
    failed = []

    def other():
        try: MLP(width=64)
        except MemoryError as e: failed.append(e)

    with checkpoints._no_larger(100):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        with pytest.raises(MemoryError): MLP(width=64)
    assert not failed


def test_a_file_cut_off_is_never_called_a_pickle(tmp_path):
    fname = tmp_path/'cut.safetensors'
    # Lengths that begin as a pickle or a zip does
    for size in (640, 896, 1152, 1408, 0x10280, 0x4b50):
        head = dict(a=dict(dtype='F32', shape=[1], data_offsets=[0, 4]))
        head = json.dumps(head).encode().ljust(size)
        whole = size.to_bytes(8, 'little') + head + bytes(4)
        fname.write_bytes(whole)
        assert header(fname)['a']['shape'] == [1]
        for n in (*range(1, 60), size//2, size + 7, size + 10):
            fname.write_bytes(whole[:n])
            with pytest.raises(ValueError, match='cut off'): header(fname)


def test_a_pickle_is_called_one(tmp_path):
    fname = tmp_path/'pickle.safetensors'
    kinds = [pickle.dumps(o, p) for p in (2, 3, 4, 5)
             for o in (None, 1, {}, {'a': 1}, ['{'*n for n in range(99)], torch.ones(3))]
    for data in kinds:
        fname.write_bytes(data)
        with pytest.raises(ValueError, match='is a pickle'): header(fname)
    for zipped in (True, False):
        torch.save(MLP().state_dict(), fname, _use_new_zipfile_serialization=zipped)
        with pytest.raises(ValueError, match='is a pickle'): header(fname)


def test_a_compiled_network_keeps_plain_names_and_takes_either(tmp_path):
    bare = Denoiser(MLP(width=8, layers=1))
    part = copy.deepcopy(bare)
    part.net.last = torch.compile(part.net.last)
    whole = Denoiser(torch.compile(copy.deepcopy(bare.net)))
    for model in (part, whole):
        assert any('_orig_mod' in k for k in model.state_dict())
        assert list(plain_state(model)) == list(bare.state_dict())
        names = header(save(tmp_path/'m.safetensors', model)).keys() - {'__metadata__'}
        assert not any('_orig_mod' in k for k in names)
        with torch.no_grad(): bare.net.last.bias.fill_(7.)
        load_plain(model, plain_state(bare))
        assert (plain_state(model)['net.last.bias'] == 7).all()
        with torch.no_grad(): bare.net.last.bias.fill_(0.)
        load_plain(bare, model.state_dict())
        assert (bare.net.last.bias == 7).all()
    average = torch.optim.swa_utils.AveragedModel(whole)
    assert 'n_averaged' in plain_state(average)
    load_plain(average, plain_state(average))
    with pytest.raises(RuntimeError, match='Missing key'): load_plain(whole, {})


def test_a_state_keeps_the_order_in_memory(tmp_path):
    side = torch.randn(4, 3, 3, 3).contiguous(memory_format=torch.channels_last)
    state = dict(side=side, rows=torch.randn(4, 3, 3, 3), flat=torch.randn(5))
    kept = load_state(save_state(tmp_path/'s.safetensors', state))
    assert kept['side'].equal(side) and kept['side'].stride() == side.stride()
    assert kept['rows'].is_contiguous() and kept['flat'].is_contiguous()


def test_a_denoiser_can_be_copied():
    for model in (Denoiser(MLP(), schedule=linear_beta, target='eps', mean=[.1, .2]),
                  foreign(4, null=3)):
        twin = copy.deepcopy(model)
        assert twin.schedule == model.schedule and twin.target == model.target
        assert twin.mean.equal(model.mean)
        assert twin.net is not model.net


# The scale of the data

def test_channel_stats_agree_with_the_formula():
    g = torch.Generator().manual_seed(0)
    # More than one part
    data = torch.randint(256, (700, 3, 40, 40), generator=g, dtype=torch.uint8)
    data[:, 1] //= 50
    data[:, 2] = 9
    x = data.double()/127.5 - 1
    found = channel_stats(data)
    assert_close(found['mean'].double(), x.mean((0, 2, 3)), rtol=1e-6, atol=1e-7)
    assert_close(found['std'][:2].double(), x.std((0, 2, 3), correction=0)[:2], rtol=1e-6, atol=0)
    assert found['std'][2] == 1
    # A difference of squares would keep no digit
    far = torch.randn(200_000, 4, generator=g, dtype=torch.float64)*1e-4 + 1e5
    assert_close(channel_stats(far)['std'].double(), far.std(0, correction=0), rtol=1e-6, atol=0)


def test_channel_stats_need_little_memory():
    data = torch.zeros(4000, 3, 64, 64, dtype=torch.uint8)
    data[0, :, 0, 0] = 255
    with Seen() as seen: channel_stats(data)
    says = f'a tensor of {seen.largest} bytes for {data.numel()} bytes of data'
    assert seen.largest < data.numel()/8, says


def test_channel_stats_refuse_what_they_cannot_read():
    for data, says in ((torch.zeros(3, 2).long(), 'give bytes'),
                       (torch.tensor([[1., math.inf]]), 'NaN or infinity'),
                       (torch.zeros(0, 2), 'empty')):
        with pytest.raises(ValueError, match=says): channel_stats(data)
    assert channel_stats(np.ones((5, 2), dtype=np.float32))['mean'].tolist() == [1., 1.]


# Networks of diffusers

class Theirs(nn.Module):
    "Called like a network of diffusers: its answer depends on the label alone"

    def __init__(self, rows):
        super().__init__()
        self.class_embedding = nn.Embedding(rows, 1) if rows else None

    def forward(self, x, t, class_labels=None):
        if self.class_embedding is None: return SimpleNamespace(sample=x)
        if class_labels is None:
            raise ValueError('class_labels should be provided when doing class conditioning')
        rows = self.class_embedding(class_labels)[:, :, None, None]
        return SimpleNamespace(sample=rows.expand_as(x))


class Optional(nn.Module):
    "Takes labels or none, and does not say how many"

    def forward(self, x, t, class_labels=None):
        return x if class_labels is None else x + 1 + class_labels[:, None, None, None]


scheduler = SimpleNamespace(betas=torch.linspace(1e-4, .02, 100),
                            config=SimpleNamespace(prediction_type='epsilon'))


def foreign(rows, **kw): return from_diffusers(Theirs(rows), scheduler, **kw)


def test_labels_too_large_are_refused_in_words():
    x = torch.zeros(2, 1, 4, 4)
    with pytest.raises(ValueError, match='label 4 is not one of the classes: labels are 0 to 3'):
        foreign(4)(x, .5, torch.tensor([0, 4]))
    with pytest.raises(ValueError, match='label -2 is not'):
        foreign(4)(x, .5, torch.tensor([-2, 0]))
    with pytest.raises(ValueError, match='made without labels'):
        foreign(0)(x, .5, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match='one label per item'): foreign(4)(x, .5, torch.tensor([0]))
    with pytest.raises(ValueError, match='null=4 is not one of the 4 rows'): foreign(4, null=4)


@pytest.mark.parametrize('make', [lambda: foreign(4, null=3),
                                  lambda: from_diffusers(Optional(), scheduler)])
def test_two_passes_and_one_doubled_batch_are_the_same_guidance(make):
    """A CPU asks twice, saying nothing the first time; a GPU asks once, with -1 in half of a batch
    of double size"""
    torch.manual_seed(0)
    model, x, y = make(), torch.randn(3, 1, 4, 4), torch.tensor([2, 0, 1])
    twice = torch.cat([model.predict(x, .5), model.predict(x, .5, y)])
    doubled = model.predict(torch.cat([x, x]), .5, torch.cat([torch.full_like(y, -1), y]))
    assert doubled.equal(twice)
    assert not twice[:3].equal(twice[3:])


def test_a_network_without_a_word_for_no_label_says_so_both_ways():
    model, x = foreign(4), torch.zeros(2, 1, 4, 4)
    for y in (None, torch.tensor([-1, -1]), torch.tensor([2, -1])):
        with pytest.raises(ValueError, match='always wants a label.*null=3'): model(x, .5, y)
    assert model(x, .5, torch.tensor([0, 3])).x0.shape == x.shape


def test_saving_a_foreign_network_says_no_in_one_line(tmp_path):
    class Large(Theirs):
        "A network whose description fills a page"
        def __init__(self):
            super().__init__(4)
            self.layers = nn.Sequential(*[nn.Linear(2, 2) for _ in range(99)])

    class Own(Large):
        "The same, not from diffusers"

    says = []
    for model in (from_diffusers(Large(), scheduler), Denoiser(Own())):
        with pytest.raises(ValueError) as e: save(tmp_path/'no.safetensors', model)
        says.append(str(e.value))
    assert 'diffusers' in says[0] and 'Own()' in says[1]
    assert all('\n' not in s and len(s) < 250 for s in says)
    with pytest.raises(ValueError) as e: MLP(kind=Large())
    assert '\n' not in str(e.value) and len(str(e.value)) < 250
