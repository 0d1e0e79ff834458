"The flowers: what the notebook shows is what the long run stored, and the grid is whole"
import json
import math
from pathlib import Path

import pytest

root = Path(__file__).resolve().parent.parent


@pytest.fixture(scope='module')
def stored(): return json.loads((root/'results'/'24.json').read_text(encoding='utf-8'))


@pytest.fixture(scope='module')
def shown():
    cells = json.loads((root/'nbs'/'24_flowers.ipynb').read_text(encoding='utf-8'))['cells']
    return ''.join(''.join(o.get('data', {}).get('text/markdown', '')) for c in cells for o in c.get('outputs', ()))


def test_every_row_says_how_it_was_made(stored):
    for section in ('long', 'grid'):
        for name, r in stored[section].items():
            assert {'command', 'commit', 'hardware', 'seed', 'steps', 'batch', 'n', 'features', 'cpu_seconds'} <= set(r), name
            assert '/' not in r['command'].replace('benchmarks/flowers.py', '').replace('flowers_oxford/flowers_96x96.npz', ''), name
            for key in ('ddim 5', 'ddim 20'): assert math.isfinite(r[key]['kid']) and r[key]['se'] > 0


def test_the_long_run_is_that_of_the_example(stored): assert {r['parameters'] for r in stored['long'].values()} == {1_950_627} and 'as Keras' in stored['long']


def test_the_grid_is_whole(stored):
    want = {f'{loss} | {on} | {schedule} | {seed}' for loss in ('mse', 'l1') for on in ('noise', 'image') for schedule in ('cosine', 'linear') for seed in (0, 1)}
    assert want <= set(stored['grid'])


def test_the_notebook_shows_the_numbers_that_are_stored(stored, shown):
    for name, r in stored['long'].items():
        for key in ('ddim 5', 'ddim 20', 'dpmpp 20'): assert f"{r[key]['kid']:.3f} ± {r[key]['se']:.3f}" in shown, f'{name}, {key}: run the notebook again'
        assert f"{r['noise_mae']:.3f}" in shown
    for name in {k.rsplit(' | ', 1)[0] for k in stored['grid']}:
        for key in ('ddim 5', 'ddim 20'):
            v = [stored['grid'][f'{name} | {seed}'][key]['kid'] for seed in (0, 1)]
            assert f'{sum(v)/2:.3f} ± {(max(v) - min(v))/2:.3f}' in shown, f'{name}, {key}: run the notebook again'


def test_pictures_are_small():
    for f in (root/'results'/'24').glob('*.png'): assert f.stat().st_size < 100_000, f.name
