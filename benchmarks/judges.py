"""The same images before three judges: LeNets trained by one recipe, each with its own seed.

    python benchmarks/judges.py       writes results/judges.json; needs MNIST, about 15 minutes
"""
import time

import torch

from common import about, change, noted, parser
from diffnb.apps.checkpoints import load
from diffnb.apps.datasets import load_data
from diffnb.apps.generation import generate
from diffnb.apps.instrument import train_lenet
from diffnb.fld import calibrate, evaluator, frechet, in_batches, stats
from diffnb.samplers import ddim, dpmpp


def drawn(a):
    "Images of the shipped network, by two samplers"
    model, sets = load('mnist'), {}
    for name, sampler, calls in (('DDIM, 10 calls', ddim, 10), ('DPM++, 20 calls', dpmpp, 20)):
        start = time.time()
        sets[name] = generate(model, a.n, sampler=sampler, calls=calls, seeds=0, batch=100,
                              progress=False)
        print(f'{name}: {time.time() - start:.0f} s', flush=True)
    return sets


def boot(f, against, times):
    "Standard deviation of a distance when the images are drawn again, with replacement"
    g = torch.Generator().manual_seed(0)
    values = []
    for _ in range(times):
        again = f[torch.randint(len(f), (len(f),), generator=g)]
        values.append(frechet(*stats(again)[:2], *against[:2]))
    return torch.tensor(values).std().item()


def judge(net, test, train, sets, times):
    "What one LeNet says"
    def see(images): return in_batches(images, 1000, net.features)
    with torch.no_grad():
        read = in_batches(test, 1000, net).argmax(1)
        ref = calibrate('mnist-test', test, features=see)
    row = dict(accuracy=read.eq(test.y).double().mean().item(), noise=ref.noise, sets={})
    real = train.x[torch.randperm(len(train.x), generator=torch.Generator().manual_seed(0))]
    n = len(next(iter(sets.values())))
    row['floor'] = frechet(*stats(see(real[:n]))[:2], *ref.stats[:2])
    for name, x in sets.items():
        f = see(x)
        value = frechet(*stats(f)[:2], *ref.stats[:2])
        scale = 100/(row['noise'] - row['floor'])
        row['sets'][name] = dict(fld=value, percent=scale*(value - row['floor']),
                                 percent_se=scale*boot(f, ref.stats, times))
    return row


def main():
    p = parser(__doc__)
    p.add_argument('-n', type=int, default=10_000)
    p.add_argument('--times', type=int, default=40, help='draws of the bootstrap')
    p.add_argument('--epochs', type=float, default=10)
    p.add_argument('--seeds', type=int, nargs='*', default=[0, 1])
    a = p.parse_args()
    torch.set_num_threads(1)
    train, test = load_data('mnist'), load_data('mnist', 'test')
    nets = {'the shipped one': lambda: evaluator()[0]}
    for seed in a.seeds:
        nets[f'seed {seed}'] = lambda seed=seed: train_lenet(train, epochs=a.epochs, seed=seed,
                                                             progress=False)
    sets = drawn(a)
    for name, make in nets.items():
        row = judge(make(), test, train, sets, a.times)
        print(name, row, flush=True)
        change('judges', lambda record: record.update(
            {**about(), 'n': a.n, 'model': 'mnist', 'seeds': 0,
             'rows': {**noted('judges').get('rows', {}), name: row}}))


if __name__ == '__main__':
    main()
