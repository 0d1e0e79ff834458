"""Pictures of trajectories: what the notebook shows was measured, and what cannot be drawn is
refused"""
import json
import math
import sys
from pathlib import Path

import pytest
import torch
from tables import texts

from diffnb.kit.pictures import evenly, save_gif, to_float, to_frames
from diffnb.kit.scrubber import scrubber_html
from diffnb.oracle import ideal
from diffnb.samplers import Step, ddim, seeded
from diffnb.schedules import cosine, path
from diffnb.trajectories import compare, show_paths, slider, strip

root = Path(__file__).resolve().parent.parent


def test_the_table_of_the_slider_is_the_stored_one():
    shown = texts('kit/scrubber.ipynb')
    record = json.loads((root/'results'/'scrubber.json').read_text())
    rows = [f'| {k} | {v} |' for k, v in record['table'].items()]
    assert record['table']
    assert any(record['hardware'] in s and all(row in s for row in rows) for s in shown)


@pytest.fixture(scope='module')
def walk():
    from diffnb.apps.datasets import load_data
    knows = ideal(to_float(load_data('digits').x[:200]))
    return list(ddim(knows, seeded(range(8))((8, 1, 16, 16)), path(cosine, 40)))


ZERO, NAN = torch.tensor(0.), torch.full((8, 1, 16, 16), math.nan)
LATENT = [Step(torch.zeros(2, 4, 8, 8), torch.zeros(2, 4, 8, 8), ZERO)]*2
CLOUD = [Step(torch.randn(5, 2), torch.zeros(5, 2), torch.tensor(phi)) for phi in (1., 0.)]


def broken(walk, **parts): return [walk[0], walk[1]._replace(**parts)]


@pytest.mark.parametrize('bad, says', [
    (lambda walk: evenly(walk, 1), '2 or more'),
    (lambda walk: evenly(5, 3), 'int is no trajectory'),
    (lambda walk: strip([]), 'no steps'),
    (lambda walk: strip(walk, items=0), '1 or more'),
    (lambda walk: strip(walk, scale=1.5), 'whole number'),
    (lambda walk: strip([Step(torch.zeros(2, 3), torch.zeros(2, 3), ZERO)]), 'images'),
    (lambda walk: strip(LATENT), 'give decode='),
    (lambda walk: strip(walk, decode=5), 'give a function'),
    (lambda walk: strip(walk, decode=lambda x: None), 'returned a NoneType'),
    (lambda walk: strip(broken(walk, x=NAN)), 'in step 1, x holds'),
    (lambda walk: slider(broken(walk, x0=NAN)), 'in step 1, x0 holds'),
    (lambda walk: slider(broken(walk, phi=torch.zeros(8))), 'one number'),
    (lambda walk: slider(broken(walk, x=walk[0].x[:3])), 'all must be one batch'),
    (lambda walk: slider([Step(NAN[:0], NAN[:0], ZERO)]*2), 'one batch'),
    (lambda walk: slider(walk, n=100), '2 to 60'),
    (lambda walk: slider(walk, n=2.5), 'whole number'),
    (lambda walk: slider(walk[:1]), 'use strip'),
    (lambda walk: slider(walk, items=0), '1 or more'),
    (lambda walk: slider(walk, ms=0), '20 to 10,000'),
    (lambda walk: slider(walk, at=60), 'number of radians'),
    (lambda walk: slider([torch.zeros(2)]), 'no Step'),
    (lambda walk: compare(walk), 'by name'),
    (lambda walk: compare({}), 'no trajectories'),
    (lambda walk: compare({'ddim': walk, 'heun': []}), 'heun: there are no steps'),
    (lambda walk: to_frames(walk, n=1), '2 or more'),
    (lambda walk: show_paths([]), 'no steps'),
    (lambda walk: show_paths(walk), 'use strip'),
    (lambda walk: show_paths(CLOUD, k=0), 'number of points, 1 or more'),
])
def test_what_cannot_be_drawn_is_refused(walk, bad, says):
    with pytest.raises(ValueError, match=says): bad(walk)


def never():
    raise AssertionError('the sampler has run')
    yield


@pytest.mark.parametrize('bad, says', [
    (lambda walk: scrubber_html(never(), 'no/such/folder/a.html'), 'make it first'),
    (lambda walk: scrubber_html(never(), 'a.png'), 'ends in .html'),
    (lambda walk: scrubber_html(never(), 'a.html', ms='a'), '20 to 10,000'),
    (lambda walk: scrubber_html(walk, 'a.html', limit=1000), 'fewer items'),
    (lambda walk: save_gif(never(), 'a.gif', ms=0), '20 to 60,000'),
    (lambda walk: save_gif(never(), 'no/such/folder/a.gif'), 'make it first'),
    (lambda walk: save_gif(never(), None), 'name of a file'),
    (lambda walk: save_gif(never(), 'a.txt'), 'ends in .gif'),
    (lambda walk: save_gif([], 'a.gif'), 'no steps'),
    (lambda walk: save_gif(to_frames(walk, n=2), 'a.gif', items=3), 'leave out items'),
    pytest.param(lambda walk: save_gif(to_frames(walk, n=2), '/proc/a.gif'), 'cannot be written',
                 marks=pytest.mark.skipif(sys.platform != 'linux', reason='there is no /proc')),
])
def test_a_file_that_cannot_be_written_is_refused_before_a_sampler_runs(
        walk, bad, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=says): bad(walk)
    assert not list(tmp_path.iterdir())


def test_a_strip_is_wide_and_names_its_rows(walk):
    pic = strip(walk, items=2)
    assert pic.width >= 600 and pic.height > 4*40
    assert strip(walk, n=4, scale=1).width < 600
    assert min(pic.crop((0, 20, 50, pic.height)).getdata()) == 0     # the names, in black
