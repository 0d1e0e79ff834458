"""What known faults cost: real digits, spoiled as in lesson 11, by the FLD.

    python benchmarks/faults.py       writes results/faults.json; needs MNIST, about a minute
"""
import argparse

import torch
import torch.nn.functional as F

from common import about, change, noted
from diffnb.apps.datasets import load_data
from diffnb.data import Images
from diffnb.fld import FLD, per_class
from diffnb.kit.pictures import to_float


def blur(x): return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
def shift(x): return F.pad(x, (1, 0, 0, 0), value=-1)[..., :-1]
def static(x): return torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)


def salt(x, share=.03):
    where = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < share
    return torch.where(where, 1., x)


def spoiled(data, n):
    "Name of a fault, and a function that makes n pictures with it: as in the lesson"
    def x(): return to_float(data.x[:n])
    def some(which): return to_float(data.x[which][:n])
    return {'other real images': x, 'shifted by a pixel': lambda: shift(x()),
            'no 8s': lambda: some(data.y != 8), 'paler by a fifth': lambda: .8*(x() + 1) - 1,
            'blurred': lambda: blur(x()), '3 % salt': lambda: salt(x()),
            'only 4s and 9s': lambda: some((data.y == 4) | (data.y == 9)),
            'pure noise': lambda: static(x())}


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('-n', type=int, default=10_000)
    a = p.parse_args()
    torch.set_num_threads(1)
    train, meter = load_data('mnist'), FLD('mnist-test')
    accuracy = per_class(load_data('mnist', 'test')).accuracy
    order = torch.randperm(len(train.x), generator=torch.Generator().manual_seed(0))
    real = Images(train.x[order], train.y[order])
    for name, make in spoiled(real, a.n).items():
        x = make()
        score = meter(x)
        row = dict(n=len(x), fld=score.value, se=score.se, floor=score.floor,
                   percent=score.percent, percent_se=score.percent_se)
        print(f"{name:<20} FLD {row['fld']:7.2f}   n = {row['n']:,}   "
              f"FLD% {row['percent']:6.2f} ± {row['percent_se']:.2f}", flush=True)
        change('faults', lambda record: record.update(
            {**about(), 'n': a.n, 'reference': 'mnist-test', 'accuracy': accuracy,
             'rows': {**noted('faults').get('rows', {}), name: row}}))


if __name__ == '__main__':
    main()
