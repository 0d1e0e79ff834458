"The models that come with the package, and the table that says how good they are"
import json
from pathlib import Path

import pytest
import torch
from tables import cells, rows, shows, source

import diffnb
from diffnb.apps.checkpoints import load
from diffnb.fld import evaluator, grey28
from diffnb.guidance import given
from diffnb.samplers import dpmpp, last, seeded
from diffnb.schedules import path

root = Path(__file__).resolve().parent.parent
sizes = {'mnist': 376_913, 'mnist-labels': 622_865}


@pytest.mark.parametrize('name', sizes)
def test_a_shipped_model_is_what_its_card_says(name):
    model = load(name)
    count = sum(p.numel() for p in model.net.parameters())
    assert count == sizes[name] == model.notes['parameters']
    assert {'card', 'data', 'recipe', 'use', 'license', 'epochs', 'seed'} <= set(model.notes)
    assert model.notes['epochs'] <= 15
    assert model.shape == (1, 28, 28) and model.schedule.cfg['name'] == 'cosine'
    assert (Path(diffnb.__file__).parent/f'{name}.safetensors').stat().st_size < 1_500_000


def test_digits_are_read_as_what_was_asked_for():
    "Sixty digits in ten calls; the table in 22_mnist has 10,000 in twenty"
    model, y = load('mnist-labels'), torch.arange(60) % 10
    x = last(dpmpp(given(model, y), seeded(range(60))((60, 1, 28, 28)), path(model.schedule, 10))).x
    with torch.no_grad(): read = evaluator()[0](grey28(x.clamp(-1, 1))).argmax(1)
    assert (read == y).float().mean() > .85


def test_unasked_digits_are_digits():
    model = load('mnist')
    x = last(dpmpp(model, seeded(range(60))((60, 1, 28, 28)), path(model.schedule, 10))).x
    with torch.no_grad(): sure = evaluator()[0](grey28(x.clamp(-1, 1))).softmax(1).max(1).values
    assert sure.median() > .95


def test_the_notebook_shows_the_numbers_that_are_stored():
    shown = rows('projects/mnist.ipynb')
    stored = json.loads((root/'results'/'mnist.json').read_text(encoding='utf-8'))
    assert len(stored['ablation']) >= 8 and {'main', 'attention', 'L1'} <= set(stored['table'])
    assert 'DDPM' in stored['samplers']
    for section, runs in stored.items():
        for name, r in runs.items():
            own = [name] if section in ('ablation', 'shipped') else []
            fld = f"{r['fld']:.{1 if section == 'ablation' else 2}f}"
            percent = f"{r['percent']:.2f}"
            assert shows(shown, *own, fld, percent), f'{section}, {name}: run the notebook again'


def test_what_the_page_says_of_other_seeds():
    stored = json.loads((root/'results'/'mnist.json').read_text(encoding='utf-8'))
    text = '\n'.join(map(source, cells('projects/mnist.ipynb')))
    def three(calls):
        found = [r['percent'] for name, r in stored['seeds'].items()
                 if r['calls'] == calls and name.endswith('digits 0')
                 and not name.startswith('conditional')]
        assert len(found) == 3
        return torch.tensor(found).mean().item(), torch.tensor(found).std().item()/3**.5

    (twenty, e20), (ten, e10), (five, e5) = map(three, (20, 10, 5))
    said = (f'{twenty:.2f} ± {e20:.2f} % at 20 calls, {ten:.2f} ± {e10:.2f} % in 10 '
            f'and {five:.1f} ± {e5:.1f} % in 5').replace('0.', '.')
    assert said in text
    draws = [stored['seeds'][f'shipped, 20 calls, digits {k}']['percent'] for k in range(3)]
    draws = sorted([*draws, stored['samplers']['DPM++, eta 1']['percent']])
    *most, last_one = (f'{d:.2f}'[1:] for d in draws)
    spread = f'{torch.tensor(draws).std():.2f}'[1:]
    assert f"{', '.join(most)} and {last_one} %, a standard deviation of {spread}" in text
    labelled = {(r['seed'], r['calls']): r for name, r in stored['seeds'].items()
                if name.startswith('conditional')}
    assert {*labelled} == {(seed, calls) for seed in (0, 1) for calls in (20, 10, 5)}
    def both(calls, key, scale=1, digits=2):
        return sorted(f'{scale*labelled[seed, calls][key]:.{digits}f}' for seed in (0, 1))
    for calls in 10, 5:
        low, high = (p[1:] for p in both(calls, 'percent'))
        assert f'{calls} calls they have {low} and {high} %' in text or (
            f'with {calls} calls {low} and {high} %' in text), calls
    few, many = (' and '.join(both(calls, 'agreement', 100, 1)) for calls in (5, 20))
    assert f'{few} % with 5 against {many} % with 20' in text
    for r in (labelled[0, 20], labelled[1, 20]): assert abs(r['fld'] - r['floor']) < 2*r['se']
    for name, said in (('DDPM, 100 calls', '8.06 ± 0.18 %'), ('DDIM, 20 calls', '9.98 ± 0.18 %')):
        r = stored['original'][f'no attention, {name}']
        error = r['se']*r['percent']/(r['fld'] - r['floor'])
        assert said == f'{r["percent"]:.2f} ± {error:.2f} %' and said in text
