"21_digits shows what results/digits.json holds"
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tables import cells, rows, shows, source

from diffnb.denoiser import Denoiser
from diffnb.schedules import flow, lognormal
from diffnb.unet import MLP

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root/'benchmarks'))
import digits as bench  # noqa: E402

stored = json.loads((root/'results'/'digits.json').read_text(encoding='utf-8'))
grid = list(stored['grid'].values())
shown = rows('projects/digits.ipynb')


def of(target, curve): return [r for r in grid if (r['target'], r['schedule']) == (target, curve)]


@pytest.mark.parametrize('target', bench.targets)
@pytest.mark.parametrize('curve', bench.schedules)
def test_the_notebook_shows_the_numbers_that_are_stored(target, curve):
    seeds = of(target, curve)
    same = {r['seed'] for r in seeds} == {r['seed'] for r in grid}
    assert seeds and same, 'every cell of the grid has the same seeds'
    place = list(bench.schedules).index(curve) + 1
    here = [row[place:place + 1] for row in shown if row[0] == target]
    for column, digits, factor in (('fld', 2, 1), ('ddim_fld', 2, 1), ('right', 1, 100)):
        number = f'{sum(factor*r[column] for r in seeds)/len(seeds):.{digits}f}'
        assert shows(here, number), f'{target}, {curve}: run the notebook again'
    assert (root/'results'/'digits'/f'{target}-{curve}.png').exists()


@pytest.mark.parametrize('column', ['fld', 'ddim_fld'])
def test_the_notebook_shows_what_one_path_for_all_gave(column):
    for name, r in stored['one path'].items():
        number = f"{r[column]:.2f} ({stored['grid'][name][column]:.2f})"
        assert shows(shown, name.split('-')[0], number), f'{name}: run the notebook again'
    all_of_them = {f'{t}-{c}' for t in bench.targets for c in bench.schedules if c != 'cosine'}
    assert {k.rsplit('-', 1)[0] for k in stored['one path']} == all_of_them


def test_the_notebook_shows_the_published_numbers_as_stored():
    kept = {k: {x: row[x] for x in bench.published[k]} for k, row in stored['published'].items()}
    assert kept == bench.published
    for row in bench.published.values():
        if 'parameters' not in row: continue
        words = f"{row['parameters']:,} numbers, {row['calls']} calls"
        assert any(c.startswith(f"{row['fld']:.3g} (") and words in c for r in shown for c in r)


def test_another_folder_gets_everything(tmp_path):
    def state():
        pictures = (root/'results'/'digits').iterdir()
        stored = (root/'results'/'digits.json').read_bytes()
        return stored, sorted(f.stat().st_mtime_ns for f in pictures)
    before = state()
    words = ['--steps', '1', '--seeds', '0', '--only', 'v-cosine', '--out', str(tmp_path),
             '--folder', str(tmp_path/'nets')]
    r = subprocess.run([sys.executable, str(root/'benchmarks'/'digits.py'), *words],
                       capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert r.returncode == 0, r.stderr
    there = json.loads((tmp_path/'digits.json').read_text(encoding='utf-8'))
    assert list(there['grid']) == ['v-cosine-0'] and there['grid']['v-cosine-0']['steps'] == 1
    assert there['ends']['noise'] and there['published']
    assert (tmp_path/'digits'/'v-cosine.png').exists() and list((tmp_path/'nets').iterdir())
    assert state() == before


def test_noise_as_the_answer_needs_a_schedule_that_stops():
    for uncut, (cut, _) in ((flow, bench.schedules['flow']),
                            (lognormal, bench.schedules['lognormal'])):
        with pytest.raises(ValueError, match='says nothing about x0 at 90 degrees'):
            Denoiser(MLP(), 'eps', uncut)
        Denoiser(MLP(), 'eps', cut)
        t = torch.linspace(.01, .9, 9).double()
        torch.testing.assert_close(cut(t), uncut(.98*t if uncut is flow else t), atol=.01, rtol=0)


def test_what_lesson_04_says_of_the_grid():
    text = '\n'.join(map(source, cells('04_schedules.ipynb')))
    def ddim(part, name): return f"{stored[part][name]['ddim_fld']:.2f}"
    assert f"have {ddim('grid', 'eps-flow-0')} and {ddim('grid', 'eps-flow-1')}" in text
    for target in ('v', 'eps'):
        name = f'{target}-lognormal-0'
        here, there = ddim('one path', name), ddim('grid', name)
        assert f'`{target}` {here} instead of {there}' in text
