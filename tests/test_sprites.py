"The sprites: what the notebook shows is what the long run stored"
import json
from pathlib import Path

import pytest

root = Path(__file__).resolve().parent.parent


@pytest.fixture(scope='module')
def stored(): return json.loads((root/'results'/'23.json').read_text(encoding='utf-8'))


def cells(): return json.loads((root/'nbs'/'23_sprites.ipynb').read_text(encoding='utf-8'))['cells']


def test_every_row_says_how_it_was_made(stored):
    for name, r in stored['table'].items():
        assert {'command', 'commit', 'hardware', 'seed', 'steps', 'n', 'features', 'reference', 'w', 'calls'} <= set(r), name
        assert r['parameters'] == 626_371 and 0 <= r['agreement'] <= 1 and r['se'] > 0


def test_the_original_is_beside_ours(stored): assert {'as the original', 'ours'} <= {r['training'] for r in stored['table'].values()}


def test_the_notebook_shows_the_numbers_that_are_stored(stored):
    shown = ''.join(''.join(o.get('data', {}).get('text/markdown', '')) for c in cells() for o in c.get('outputs', ()))
    for name, r in stored['table'].items():
        assert f"| {name} | {r['calls']} | {r['w']:g} | {r['n']} | {r['agreement']:.3f} ± {r['agreement_se']:.3f} | {r['fld']:.3f} ± {r['se']:.3f} |" in shown, f'{name}: run the notebook again'


def test_the_makers_of_the_sprites_are_named():
    text = ''.join(''.join(c['source']) for c in cells() if c['cell_type'] == 'markdown')
    assert 'DragonDePlatino' in text and 'DawnBringer' in text and 'CC BY 4.0' in text


def test_pictures_are_small():
    for f in (root/'results'/'23').glob('*.png'): assert f.stat().st_size < 100_000, f.name
