"What the playground's JavaScript and the library say to the same questions, for Node and Chromium"
import base64
import math
from pathlib import Path

import torch

import diffnb
from diffnb import cosine, ddim, guide, load, path, seeded
from diffnb.few_steps import turns

package = Path(diffnb.__file__).parent
answers = '''(diffnb, bytes, {noise, asks, walk}) => {
  const model = diffnb.readModel(bytes), x = Float32Array.from(noise), list = data => [...data]
  return {
    predicted: asks.map(([phi, turn, label]) => list(diffnb.predict(model, x, phi, turn, label))),
    path: diffnb.path(model, walk.calls),
    steps: [...diffnb.walk(model, {noise: x, ...walk})].map(({x, phi, image, noise, passes}) =>
      ({x: list(x), phi, image: list(image), noise: list(noise), passes}))}
}'''


def questions(name):
    "A noise, angles with turns and labels to ask the network about, and a walk"
    model = load(name)
    labels = [3, 0, -1, 9] if model.classes else [-1]*4
    phis = [1.55, .9, .31, 0.]
    few = hasattr(model, 'levels')
    asks = [(phi, phi*part if few else 0., y) for phi, part, y in zip(phis, [1, .5, 0, 1], labels)]
    return dict(noise=seeded([7])((1, *model.shape)).flatten().tolist(), asks=asks,
                walk=dict(calls=2 if few else 20, label=labels[0], guidance=2.5))


def check(name, q, got):
    "The network within 1e-4, a whole guided walk within 1e-3"
    model, few = load(name), hasattr(load(name), 'levels')
    x = torch.tensor(q['noise']).view(1, *model.shape)
    assert len(got['predicted']) == len(q['asks']) > 3
    for (phi, turn, label), said in zip(q['asks'], got['predicted']):
        cond = torch.tensor([label]) if model.classes else None
        more = (turn,) if few else ()
        with torch.inference_mode():
            wanted = model.predict(x, phi, cond, *more)
        close(said, wanted, 1e-4)
    stops = path(cosine, q['walk']['calls'])
    assert torch.allclose(torch.tensor(got['path'], dtype=torch.float64), stops, atol=1e-9)
    guided = guide(model, [q['walk']['label']], 2.5) if model.classes else model
    steps = [*(turns if few else ddim)(guided, x, stops)]
    assert len(steps) == len(got['steps'])
    for step, there in zip(steps, got['steps']):
        close(there['x'], step.x, 1e-3)
        close(there['image'], step.x0, 1e-3)
        if float(step.phi):
            a, s = math.cos(step.phi), math.sin(step.phi)
            halves = a*torch.tensor(there['image']) + s*torch.tensor(there['noise'])
            close(there['x'], halves, 1e-4)
    passes = q['walk']['calls']*(2 if model.classes else 1)
    assert sum(step['passes'] for step in got['steps']) == passes


def close(said, wanted, limit):
    worst = (torch.tensor(said) - wanted.flatten()).abs().max().item()
    assert worst < limit, f'{worst:.2e} is more than {limit}'


def text(name):
    "A shipped model's file, as base64"
    return base64.b64encode((package/f'{name}.safetensors').read_bytes()).decode()
