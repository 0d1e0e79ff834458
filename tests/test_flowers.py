"The flowers: what the notebook shows is what the long run stored, and the grid is whole"
import importlib
import json
import math
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tables import cells, rows, shows, source
from torch import nn
from torch.testing import assert_close

from diffnb.data import Images

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root/'benchmarks'))
import flowers  # noqa: E402


@pytest.fixture(scope='module')
def stored(): return json.loads((root/'results'/'flowers.json').read_text(encoding='utf-8'))


@pytest.fixture(scope='module')
def shown(): return rows('projects/flowers.ipynb')


def test_every_row_says_how_it_was_made(stored):
    for section in ('long', 'grid'):
        for name, r in stored[section].items():
            assert {'command', 'commit', 'hardware', 'seed', 'steps', 'batch', 'n', 'features',
                    'cpu_seconds'} <= set(r), name
            words = r['command'].replace('benchmarks/flowers.py', '')
            assert '/' not in words.replace('flowers_oxford/flowers_96x96.npz', ''), name
            for key in ('ddim 5', 'ddim 20'):
                assert math.isfinite(r[key]['kid']) and r[key]['se'] > 0


def test_the_long_run_is_that_of_the_example(stored):
    assert {r['parameters'] for r in stored['long'].values()} == {1_950_627}
    assert 'as Keras' in stored['long']


def test_the_grid_is_whole(stored):
    want = {f'{loss} | {on} | {schedule} | {seed}' for loss in ('mse', 'l1')
            for on in ('noise', 'image') for schedule in ('cosine', 'linear') for seed in (0, 1)}
    assert want <= set(stored['grid'])


def test_the_notebook_shows_the_numbers_that_are_stored(stored, shown):
    for name, r in stored['long'].items():
        for key, words in (('ddim 5', 'DDIM, 5'), ('ddim 20', 'DDIM, 20'),
                           ('dpmpp 20', 'DPM++, 20')):
            numbers = [f"{r[key]['kid']:.3f} ± {r[key]['se']:.3f}",
                       f"{r[key]['kid_train']:.3f} ± {r[key]['se_train']:.3f}"]
            told = shows(shown, f'{name}, {words} calls', *numbers)
            assert told, f'{name}, {key}: run the notebook again'
        assert shows(shown, name, f"{r['noise_mae']:.3f}", f"{r['image_mae']:.3f}")
    for name in {k.rsplit(' | ', 1)[0] for k in stored['grid']}:
        for key in ('ddim 5', 'ddim 20'):
            v = [stored['grid'][f'{name} | {seed}'][key]['kid'] for seed in (0, 1)]
            number = f'{sum(v)/2:.3f} ± {(max(v) - min(v))/2:.3f}'
            told = shows(shown, *name.split(' | '), number)
            assert told, f'{name}, {key}: run the notebook again'


def test_pictures_are_small():
    pictures = list((root/'results'/'flowers').glob('*.png'))
    assert pictures and not [f.name for f in pictures if f.stat().st_size >= 100_000]


def test_both_ends_of_the_scale_are_shown(stored, shown):
    for size in ('32', '16'):
        words = {'noise': 'noise',
                 'training pictures against held-out': 'real flowers, of the training part'}
        for name, label in words.items():
            r = stored['floor'][size][name]
            number = f"{r['kid']:.3f} ± {r['se']:.3f}"
            assert shows(shown, label, number), f'{size}, {name}: run the notebook again'


def test_the_nearest_are_shown(stored, shown):
    r = stored['nearest']['ours']
    assert len(r['to_train']) == len(r['to_held']) == 12 and r['first'] == r['to_train'][0]
    assert shows(shown, 'to the training part', *(f'{d:.2f}' for d in r['to_train']))
    assert shows(shown, 'to the held-out part', *(f'{d:.2f}' for d in r['to_held']))
    ends = [f"{r['unseen_first']:.2f}", f"{r['unseen_half']:.2f}"]
    assert shows(shown, 'photographs held out', *ends)


def test_the_training_on_crops_is_shown_and_told(stored, shown):
    names = {'ddim': 'DDIM', 'dpmpp': 'DPM++', 'fresh': 'DPM++, eta 1'}
    looks = {k: r for k, r in stored['crops'].items() if k != 'real'}
    assert [*looks] == ['500', '1000', '2000', '3500', '5000']
    for steps, r in looks.items():
        for key, label in names.items():
            told = (f"{r[key]['kid']:.3f} ± {r[key]['se']:.3f}", f"{100*r[key]['share']:.0f} %")
            assert shows(shown, steps, label, *told), f'{steps}, {key}: run the notebook again'
    text = '\n'.join(map(source, cells('projects/flowers.ipynb')))
    first, last = (looks[k]['fresh'] for k in ('500', '5000'))
    kids = [f"{r['kid']:.3f} ± {r['se']:.3f}".replace('0.', '.') for r in (first, last)]
    assert f'{kids[0]} and {kids[1]} with `eta=1`' in text
    shares = [f"{100*looks[k]['fresh']['share']:.0f}" for k in ('500', '2000', '3500', '5000')]
    assert '{} % after 500 steps and {}, {} and {} %'.format(*shares) in text
    assert f"from {first['first']:.1f} down to {last['first']:.1f}" in text


def test_every_picture_of_the_long_run_is_there():
    says = 'is not in results/flowers yet'
    notebook = cells('projects/flowers.ipynb')
    assert any(says in source(c) for c in notebook), 'the notebook says it in other words now'
    assert says not in str([c.get('outputs') for c in notebook])


def test_without_a_file_all_the_photographs_are_taken(monkeypatch):
    asked = []
    def stand_in(*where, **how):
        asked.append(where)
        return Images(torch.zeros((10, 3, 8, 8), dtype=torch.uint8), torch.arange(10), None)
    monkeypatch.setattr(flowers, 'load_data', stand_in)
    train, held = flowers.flowers.__wrapped__(None, 8)
    assert asked == [('flowers102', 'all')] and len(train.x) == 8
    assert sorted([*train.y.tolist(), *held.y.tolist()]) == [*range(10)]


def test_inception_sees_the_whole_picture(tmp_path, monkeypatch):
    """The branch of the notebook that nobody walks without a download: the architecture with
    weights by chance, where torchvision keeps its own"""
    inception_v3 = importlib.import_module('torchvision.models').inception_v3
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setattr(torch.hub, '_hub_dir', None)
    texts = [source(c) for c in cells('projects/flowers.ipynb') if c['cell_type'] == 'code']
    code = {name: next(t for t in texts if f'def {name}(' in t) for name in ('lent', 'inception')}
    space = dict(importlib=importlib, torch=torch, F=F, nn=nn, Path=Path, assert_close=assert_close)
    for text in code.values(): exec(text.split('eyes = ')[0], space)
    assert space['inception']() is None
    kept = tmp_path/'hub'/'checkpoints'/'inception_v3_google-0cc3c7bd.pth'
    kept.parent.mkdir(parents=True)
    torch.manual_seed(0)
    torch.save(inception_v3(weights=None, init_weights=False).state_dict(), kept)
    x = torch.rand((2, 3, 32, 32), generator=torch.Generator().manual_seed(0))*2 - 1
    x.requires_grad_()
    f = space['inception']()(x)
    assert f.shape == (2, 2048)
    pull = torch.autograd.grad(f.square().sum(), x)[0].abs().sum((0, 1))
    borders = pull[0], pull[-1], pull[:, 0], pull[:, -1]        # none is cut off
    assert min(b.max() for b in borders) > 1e-6*pull.max()
