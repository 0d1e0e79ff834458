"""The CIFAR-10 project: what the notebook shows is what was measured, and the command for the whole
is the original's"""
import json
import sys
from pathlib import Path

import torch
from tables import rows, shows

from diffnb.apps.checkpoints import load
from diffnb.unet import UNet

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root/'benchmarks'))
import cifar10  # noqa: E402

stored = json.loads((root/'results'/'cifar10.json').read_text(encoding='utf-8'))


def test_the_notebook_shows_the_numbers_that_are_stored():
    shown = rows('projects/cifar10.ipynb')
    for section in ('table', 'objectives', 'spacings', 'shares'):
        assert stored[section], section
        for name, r in stored[section].items():
            row = name if section == 'objectives' else name.rsplit(', ', 1)[0]
            number = f"{r['percent']:.2f} ± {r['percent_se']:.2f}"
            assert shows(shown, row, number), f'{section}, {name}: run the notebook again'
    for k in ('float32', 'bf16'):
        number = str(stored['speed'][f'images_per_s_{k}'])
        assert shows(shown, f'CPU, one core, {k}', number, 'measured')


def test_every_row_says_how_it_was_made():
    for section in ('table', 'objectives', 'spacings'):
        for r in stored[section].values():
            assert {'command', 'commit', 'hardware', 'n', 'calls', 'spacing', 'sampling_seed',
                    'training_seed', 'floor', 'percent_se'} <= set(r)
            assert r['n'] >= 1000


def test_the_network_of_the_full_run_is_the_original():
    with torch.device('meta'): net = UNet(3, **cifar10.cifar)
    assert sum(p.numel() for p in net.parameters()) == 35_746_307 == stored['speed']['parameters']


def test_the_network_of_the_table_is_what_its_card_says():
    fname = root/'results'/'cifar10'/'eps.safetensors'
    model = load(fname)
    count = sum(p.numel() for p in model.net.parameters())
    assert count == model.notes['parameters'] == stored['training']['eps']['parameters']
    assert model.target == 'eps' and model.schedule.T == 1000 and model.shape == (3, 32, 32)
    assert fname.stat().st_size < 1_000_000


def test_the_stand_in_is_colourful_and_always_the_same():
    a, b = cifar10.in_colours('test'), cifar10.in_colours('test')
    assert torch.equal(a.x, b.x) and a.x.shape[1:] == (3, 32, 32) and a.x.dtype == torch.uint8
    assert (a.x.float().std((2, 3)).mean(1) > 0).all() and a.x.float().mean((2, 3)).std() > 30
