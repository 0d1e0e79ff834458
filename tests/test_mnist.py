"The models that come with the package, and the table that says how good they are"
import json
from pathlib import Path

import pytest
import torch
from tables import rows, shows

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
