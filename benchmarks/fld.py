"""What measuring 10,000 images costs on the CPU: the features, the distance alone, and the whole
Score with its bootstrap and halvings.

Goals: the whole in under 5 seconds, the distance itself in under 20 milliseconds.
"""
import torch

from common import keep, parser, turns
from diffnb.fld import FLD, evaluator, features, frechet, stats


def main():
    p = parser(__doc__)
    p.add_argument('--rounds', type=int, default=5)
    p.add_argument('--threads', type=int, default=2)
    p.add_argument('--n', type=int, default=10_000)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    x = torch.randn(a.n, 1, 28, 28, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    meter, ref, f = FLD('mnist-test'), evaluator()[1]['mnist-test'].stats, features(x)
    s = stats(f)
    def one(function):
        def go():
            function()
            return 1
        return go
    seconds = turns({'the whole Score': one(lambda: meter(x)),
                     'features': one(lambda: features(x)),
                     'mean and covariance': one(lambda: stats(f)),
                     'the distance': one(lambda: frechet(*s[:2], *ref[:2]))}, a.rounds, unit=1)
    print(f'seconds for {a.n:,} images, median of {a.rounds}')
    for name, t in seconds.items(): print(f'  {name:<22}{t:8.4f}')
    keep('fld', rounds=a.rounds, images=a.n, seconds=seconds)


if __name__ == '__main__': main()
