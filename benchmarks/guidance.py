"""What guidance costs, and what it brings.

    python benchmarks/guidance.py            cost of a step: unguided, w = 1, w = 2, one doubled
                                             batch; writes results/guidance.json
    python benchmarks/guidance.py mnist      guidance everywhere and only in the middle: label
                                             agreement, FLD and variety on MNIST; writes
                                             results/guidance-mnist.json
"""
import math
import time

import torch

from common import keep, noted, parser, turns
from diffnb.apps.checkpoints import load
from diffnb.apps.datasets import load_data
from diffnb.denoiser import Denoiser
from diffnb.fld import FLD, classify, features, per_class
from diffnb.samplers import ddim, last
from diffnb.schedules import cosine, path
from diffnb.apps.families import families
from diffnb.unet import UNet
from diffnb.apps.generation import generate
from diffnb.guidance import Wrapped, _doubled, clamp, given, guide, interval, project

n = 4                               # steps per walk


def in_one_batch(model, y, w):
    "Guidance as a GPU does it: both guesses in one batch of double size"
    def ask(x, phi, cond):
        u, c = _doubled(model, x, phi, y, None)
        return type(u)(*(torch.lerp(a, b, w) for a, b in zip(u, c)))
    return Wrapped(model, ask)


def middle(w):
    "A scale only between 20 and 60 degrees"
    return interval(w, math.radians(20), math.radians(60))


def cost(a):
    torch.manual_seed(0)
    model = Denoiser(UNet(1, **{**families['julia'], 'classes': 10, 'combine': 'cat'}))
    x, y, stops = torch.randn(a.batch, 1, 28, 28), torch.arange(a.batch) % 10, path(cosine, n)
    def run(denoise):
        def go():
            last(ddim(denoise, x, stops))
            return n
        return go
    alternate = 1 + (torch.arange(a.batch) % 2).double()
    kinds = {'unguided': given(model, y),
             'w = 1': guide(model, y, 1.),
             'w = 2': guide(model, y, 2.),
             'w = 2 for half of the items': guide(model, y, alternate),
             'w = 2, 20 to 60 degrees': guide(model, y, middle(2.)),
             'w = 2, rescaled': guide(model, y, 2., rescale=.7),
             'w = 2, clipped': project(guide(model, y, 2.), clamp(model)),
             'one doubled batch': in_one_batch(model, y, 2.)}
    ms = turns({name: run(d) for name, d in kinds.items()}, a.rounds, unit=1e3)
    ratio = {name: t/ms['unguided'] for name, t in ms.items()}
    print(f'milliseconds per step of {a.batch} digits of 28x28, median of {a.rounds}; and in units '
          'of the first')
    for name in ms: print(f'  {name:<30}{ms[name]:8.1f}{ratio[name]:8.3f}')
    keep('guidance', batch=a.batch, rounds=a.rounds, steps=n, milliseconds_per_step=ms, ratio=ratio)


def variety(x, y):
    "Mean distance of two images of the same digit, in the features of the LeNet"
    f = features(x)
    far = [torch.pdist(f[y == k][:500]).mean() for k in range(10)]
    return torch.stack(far).mean().item()


def mnist(a):
    model, meter, labels = load(a.model), FLD('mnist-test'), torch.arange(a.n) % 10
    before = noted('guidance-mnist')
    same = (before.get('model'), before.get('n')) == (a.model, a.n)
    rows = before['rows'] if a.rows and same else {}
    plans = {'w = 0': 0., 'w = 1': 1., 'w = 2': 2., 'w = 3': 3.,
             'w = 2, 20 to 60 degrees': middle(2.), 'w = 3, 20 to 60 degrees': middle(3.)}
    for name, w in plans.items():
        if a.rows and name not in a.rows: continue
        start = time.time()
        with torch.no_grad():
            x = generate(model, a.n, labels, w, seeds=0, batch=50, progress=False)
        score = meter(x)
        rows[name] = dict(
            agreement=per_class(x, labels).accuracy, sure=classify(x).max(1).values.mean().item(),
            fld=score.value, se=score.se, floor=score.floor, percent=score.percent,
            variety=variety(x, labels), seconds=time.time() - start)
        print(name, {k: round(v, 4) for k, v in rows[name].items()}, flush=True)
    real, rows = load_data('mnist', 'test'), {k: rows[k] for k in plans if k in rows}
    keep('guidance-mnist', model=a.model, sampler='dpmpp, eta 1', calls=20, n=a.n,
         judge_on_real=per_class(real).accuracy, variety_of_real=variety(real.x, real.y), rows=rows)


def main():
    p = parser(__doc__)
    p.add_argument('what', nargs='?', choices=['cost', 'mnist'], default='cost')
    p.add_argument('--rounds', type=int, default=21)
    p.add_argument('--batch', type=int, default=32)
    p.add_argument('--threads', type=int, default=1)
    p.add_argument('--model', default='mnist-labels', help='a file, or the name of a shipped model')
    p.add_argument('--rows', nargs='*', help='mnist: only these rows')
    p.add_argument('-n', type=int, default=2000)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    (cost if a.what == 'cost' else mnist)(a)


if __name__ == '__main__': main()
