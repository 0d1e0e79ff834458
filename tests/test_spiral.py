"20_spiral shows what results/20.json holds, and that is about the networks it says"
import json
import math
import sys
from pathlib import Path

import torch

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root/'benchmarks'))
import spiral as bench  # noqa: E402

stored = json.loads((root/'results'/'20.json').read_text(encoding='utf-8'))
cells = json.loads((root/'nbs'/'20_spiral.ipynb').read_text(encoding='utf-8'))['cells']
shown = ''.join(''.join(o.get('data', {}).get('text/markdown', '')) for c in cells for o in c.get('outputs', ()))


def mean(values): return sum(values)/len(values)


def test_the_notebook_shows_the_numbers_that_are_stored():
    for name in {k.rsplit('-', 1)[0] for k in stored['spiral']}:
        rows = [r for k, r in stored['spiral'].items() if k.rsplit('-', 1)[0] == name]
        for sampler in ('ddpm', 'dpmpp'):
            assert f"{mean([r[sampler]['distance'] for r in rows]):.4f}" in shown, f'{name}: run the notebook again'
            assert f"{mean([100*r[sampler]['misplaced'] for r in rows]):.1f}" in shown
    for r in stored['oracle'].values():
        if not r['std']: assert f"{r['ddpm']['distance']:.4f}" in shown
    for row in stored['samplers'].values():
        for c in ('5', '10', '20', '40'): assert f"{row[c]['distance']:.4f}" in shown
    for name in {k.rsplit('-', 1)[0] for k in stored['labels']}:
        rows = [r for k, r in stored['labels'].items() if k.rsplit('-', 1)[0] == name]
        for w in rows[0]['w']: assert f"{mean([r['w'][w]['distance'] for r in rows]):.4f}" in shown


def test_the_networks_have_the_sizes_of_the_original():
    assert {r['parameters'] for r in stored['spiral'].values()} == {1442} and {r['parameters'] for r in stored['labels'].values()} == {5826}


def test_the_schedule_of_the_original():
    phi = bench.julia(torch.tensor([1/40, 20/40, 1.]).double())
    torch.testing.assert_close(phi.cos()**2, torch.tensor([.9998, .98610445, .9521455]).double(), atol=1e-7, rtol=0)


def test_a_distance_of_nothing_can_hide_a_fifth_of_the_points():
    theirs, ours = stored['oracle']['its schedule, std 0.0']['ddpm'], stored['oracle']['cosine, std 0.0']['ddpm']
    assert max(theirs['distance'], ours['distance']) < .002 and theirs['misplaced'] > .15 > .1 > ours['misplaced']


def test_the_measures():
    exact = bench.box('spiral', bench.line('spiral', 1000))
    d, place = bench.closest(exact, bench.box('spiral', bench.line('spiral')))
    assert d.max() < .002 and bench.misplaced(place) < .01
    assert bench.misplaced(torch.full((100,), .5)) > .97
    d, _ = bench.closest(bench.noise(2000, 0), bench.box('spiral', bench.line('spiral')))
    assert math.isclose(d.mean().item(), .5154, abs_tol=.03)                               # what DenoisingDiffusion.jl's notebook prints for noise
