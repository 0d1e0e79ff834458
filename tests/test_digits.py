"21_digits shows what results/21.json holds"
import json
import sys
from pathlib import Path

import pytest
import torch

from diffnb.all import Denoiser, MLP, flow, lognormal

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root/'benchmarks'))
import digits as bench  # noqa: E402

stored = json.loads((root/'results'/'21.json').read_text(encoding='utf-8'))
grid = list(stored['grid'].values())
cells = json.loads((root/'nbs'/'21_digits.ipynb').read_text(encoding='utf-8'))['cells']
shown = ''.join(''.join(o.get('data', {}).get('text/markdown', '')) for c in cells for o in c.get('outputs', ()))


def of(target, curve): return [r for r in grid if (r['target'], r['schedule']) == (target, curve)]


@pytest.mark.parametrize('target', bench.targets)
@pytest.mark.parametrize('curve', bench.schedules)
def test_the_notebook_shows_the_numbers_that_are_stored(target, curve):
    rows = of(target, curve)
    assert rows and {r['seed'] for r in rows} == {r['seed'] for r in grid}, 'every cell of the grid has the same seeds'
    for column, digits, factor in (('fld', 2, 1), ('ddim_fld', 2, 1), ('right', 1, 100)):
        assert f'{sum(factor*r[column] for r in rows)/len(rows):.{digits}f}' in shown, f'{target}, {curve}: run the notebook again'
    assert (root/'results'/'21'/f'{target}-{curve}.png').exists()


def test_noise_as_the_answer_needs_a_schedule_that_stops():
    for uncut, cut in ((flow, bench.flow_cut), (lognormal, bench.lognormal_cut)):
        with pytest.raises(ValueError, match='says nothing about x0 at 90 degrees'): Denoiser(MLP(), 'eps', uncut)
        Denoiser(MLP(), 'eps', cut)
        t = torch.linspace(.01, .9, 9).double()
        torch.testing.assert_close(cut(t), uncut(.98*t if uncut is flow else t), atol=.01, rtol=0)
