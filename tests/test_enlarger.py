"""A denoiser for super-resolution is the library's: its files load in a program that never heard of
it"""
import subprocess
import sys

import pytest
import torch

from diffnb.apps.checkpoints import load, save
from diffnb.apps.enlarger import Enlarger
from diffnb.denoiser import Denoiser
from diffnb.editing import shrink
from diffnb.apps.families import WithImage
from diffnb.unet import UNet


def made(**o):
    torch.manual_seed(0)
    return Enlarger(WithImage(UNet(1, width=8, mults=(1, 2), extra=1, zero=False)), **o)


def test_it_loads_where_nobody_registered_it(tmp_path):
    fname = save(tmp_path/'model.safetensors', made(k=2))
    code = (f'from diffnb.apps.checkpoints import load; m = load({str(fname)!r}); '
            'print(type(m).__name__, m.k)')
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=120)
    assert r.stdout.split() == ['Enlarger', '2'], r.stderr


def test_its_loss_is_that_of_a_denoiser_shown_the_small_picture():
    model = made(k=4)
    x0 = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))*2 - 1
    drawn = dict(phi=torch.tensor([.3, .8, 1.3]),
                 eps=torch.randn(x0.shape, generator=torch.Generator().manual_seed(1)))
    plain = Denoiser(model.net)
    expected, blind = (plain.loss(x0, cond, **drawn) for cond in (shrink(4).A(x0), None))
    torch.testing.assert_close(model.loss(x0, **drawn), expected)
    assert (expected - blind).abs().max() > 1e-4


def test_its_settings_come_back(tmp_path):
    model = made(k=2, target='eps', std=.5)
    again = load(save(tmp_path/'model.safetensors', model))
    assert again.cfg == model.cfg and again.cfg['k'] == 2 and again.std.item() == .5


@pytest.mark.parametrize('k', [0, 1.5, 'two'])
def test_a_wrong_k_is_refused(k):
    with pytest.raises(ValueError, match='k='): made(k=k)
