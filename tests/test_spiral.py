"20_spiral shows what results/spiral.json holds, and that is about the networks it says"
import json
import math
import subprocess
import sys
from pathlib import Path

import torch
from tables import rows, shows

from diffnb.embedding import angle_features
from diffnb.schedules import timestep
from diffnb.unet import MLP

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root/'benchmarks'))
import spiral as bench  # noqa: E402

stored = json.loads((root/'results'/'spiral.json').read_text(encoding='utf-8'))
shown = rows('projects/spiral.ipynb')


def mean(values): return sum(values)/len(values)


def test_the_notebook_shows_the_numbers_that_are_stored():
    for section in ('spiral', 'S', 'moons', 'oracle'):
        for name in {k.rsplit('-', 1)[0] for k in stored[section]}:
            seeds = [r for k, r in stored[section].items() if k.rsplit('-', 1)[0] == name]
            words = {'spiral': [name], 'oracle': [f'oracle, {name}']}.get(section, [section, name])
            numbers = [text for sampler in ('ddpm', 'dpmpp') for text in
                       (f"{mean([r[sampler]['distance'] for r in seeds]):.4f}",
                        f"{mean([100*r[sampler]['misplaced'] for r in seeds]):.1f}")]
            assert shows(shown, *words, *numbers), f'{section}, {name}: run the notebook again'
    for c in ('5', '10', '20', '40'):
        numbers = [f"{row[c]['distance']:.4f}" for row in stored['samplers'].values()]
        assert len(numbers) == 5 and shows(shown, c, *numbers)
    for name in {k.rsplit('-', 1)[0] for k in stored['labels']}:
        seeds = [r for k, r in stored['labels'].items() if k.rsplit('-', 1)[0] == name]
        for w in seeds[0]['w']:
            assert shows(shown, name, w, f"{mean([r['w'][w]['distance'] for r in seeds]):.4f}")
    theirs = stored['published']['DenoisingDiffusion.jl']
    assert shows(shown, 'original, published', f"about {theirs['end']}")
    assert any(f"{theirs['noise']}" in c.split() for row in shown for c in row)


def test_the_networks_have_the_sizes_of_the_original():
    theirs = stored['published']['DenoisingDiffusion.jl']
    for section in ('spiral', 'S', 'moons'):
        ours = {r['parameters'] for r in stored[section].values()}
        assert ours == {theirs['parameters']} == {1442}
    ours = {r['parameters'] for r in stored['labels'].values()}
    assert ours == {theirs['parameters_labels']} == {5826}


def test_the_row_as_the_original_is_told_whole_steps():
    u = torch.rand(4000, generator=torch.Generator().manual_seed(0))
    t = timestep(bench.julia, bench.julia_steps(u)) + 1
    torch.testing.assert_close(t, t.round(), atol=1e-6, rtol=0)
    assert t.round().unique().tolist() == list(range(1, 41))
    assert torch.bincount(t.round().long())[1:].min() > 60
    # Position 1 of a table of 8
    table = angle_features(bench.julia(torch.tensor([1/40]).double()), 8, 'its steps')[0]
    expect = torch.tensor([.841470985, .540302306, .0463992235, .998922976, .00215443302,
                           .999997679, .0001, .999999995]).double()
    torch.testing.assert_close(table, expect, atol=1e-7, rtol=0)
    net = bench.as_flux(MLP(2, 16, kind='its steps'))
    assert not any(p.any() for n, p in net.named_parameters() if n.endswith('bias'))
    assert net.dense[1].weight.abs().max() <= (6/32)**.5
    recipe = dict(bs=32, steps=100*9000//32, lr=1e-3, opt='adam', ema=0.)
    assert {k: bench.as_theirs[k] for k in recipe} == recipe


def test_another_folder_gets_everything(tmp_path):
    before = (root/'results'/'spiral.json').read_bytes()
    words = ['--steps', '1', '--seeds', '1', '--only', 'cosine, v', '--out', str(tmp_path)]
    r = subprocess.run([sys.executable, str(root/'benchmarks'/'spiral.py'), *words],
                       capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert r.returncode == 0, r.stderr
    there = json.loads((tmp_path/'spiral.json').read_text(encoding='utf-8'))
    assert list(there['spiral']) == ['cosine, v-0'] and there['spiral']['cosine, v-0']['steps'] == 1
    assert there['ends']['noise'] and there['published']
    assert (root/'results'/'spiral.json').read_bytes() == before


def test_the_schedule_of_the_original():
    phi = bench.julia(torch.tensor([1/40, 20/40, 1.]).double())
    torch.testing.assert_close(phi.cos()**2, torch.tensor([.9998, .98610445, .9521455]).double(),
                               atol=1e-7, rtol=0)


def test_a_distance_of_nothing_can_hide_a_fifth_of_the_points():
    theirs, ours = ([r['ddpm'] for k, r in stored['oracle'].items() if k.rsplit('-', 1)[0] == n]
                    for n in ('its schedule', 'cosine'))
    assert max(r['distance'] for r in theirs + ours) < .002
    assert min(r['misplaced'] for r in theirs) > .15 > .06 > max(r['misplaced'] for r in ours)


def test_the_measures():
    exact = bench.box('spiral', bench.line('spiral', 1000))
    d, place = bench.closest(exact, bench.box('spiral', bench.line('spiral')))
    assert d.max() < .002 and bench.misplaced(place) < .01
    assert bench.misplaced(torch.full((100,), .5)) > .97
    d, _ = bench.closest(bench.noise(2000, 0), bench.box('spiral', bench.line('spiral')))
    # What DenoisingDiffusion.jl's notebook prints for noise
    assert math.isclose(d.mean().item(), .5154, abs_tol=.03)
