"""How OpenMP's threads should wait: training images/s at 16x16 or 28x28 (batch 128, the default
network and precision) beside an idle, a half-busy and a busy neighbour process.

    python benchmarks/threads.py --size 16       adds a table to results/threads.json

A training of its own process for every number of threads and every way of waiting; those that are
not measured are stopped. They take turns, the neighbour changes between rounds; medians.
"""
import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time

waits = {
    "the system's default": {},
    'OMP_WAIT_POLICY=ACTIVE': dict(OMP_WAIT_POLICY='ACTIVE'),
    'GOMP_SPINCOUNT=10000': dict(GOMP_SPINCOUNT='10000'),
    'OMP_WAIT_POLICY=PASSIVE': dict(OMP_WAIT_POLICY='PASSIVE'),
    'GOMP_SPINCOUNT=0': dict(GOMP_SPINCOUNT='0'),
}
busy = 'while True: pass'
half = '''
import time
while True:
    end = time.perf_counter() + .02
    while time.perf_counter() < end: pass
    time.sleep(.02)
'''
neighbours = dict(idle=None, half=half, busy=busy)


def work(size):
    "Train; for every line on the standard input, which holds seconds, print images per second"
    import torch

    from diffnb.apps.optim import product_dtype
    from diffnb.data import batches
    from diffnb.denoiser import Denoiser
    from diffnb.training import EMA, train
    from diffnb.unet import UNet
    torch.manual_seed(0)
    x = torch.randint(0, 256, (1000, 1, size, size), dtype=torch.uint8)
    model = Denoiser(UNet(1))
    average = EMA(model, .999)
    half = product_dtype('auto', torch.zeros(1, 1, 1, 1))
    steps = train(model, batches(x, 128), 10**9, precision=half)
    for line in iter(sys.stdin.readline, ""):
        done, begin = 0, time.perf_counter()
        while time.perf_counter() - begin < float(line):
            next(steps)
            average.update_parameters(model)
            done += 128
        print(json.dumps(done/(time.perf_counter() - begin)), flush=True)


class Worker:
    "A training in a process of its own, stopped while nobody asks"
    def __init__(self, size, threads, wait):
        ours = 'OMP_WAIT_POLICY', 'GOMP_SPINCOUNT'
        bare = {k: v for k, v in os.environ.items() if k not in ours}
        words = [sys.executable, __file__, '--work', '--size', str(size)]
        env = {**bare, 'OMP_NUM_THREADS': str(threads), **waits[wait]}
        self.p = subprocess.Popen(words, env=env, stdin=-1, stdout=-1, text=True)
        self(.1)

    def __call__(self, seconds):
        self.p.send_signal(signal.SIGCONT)
        self.p.stdin.write(f'{seconds}\n')
        self.p.stdin.flush()
        answer = self.p.stdout.readline()
        self.p.send_signal(signal.SIGSTOP)
        return json.loads(answer)

    def close(self):
        self.p.kill()
        self.p.wait()


def measure(size, counts, seconds, rounds):
    "{neighbour: {threads: {wait: images per second}}}"
    found, workers = {}, {}
    try:
        for threads in counts:
            for wait in list(waits)[:None if threads > 1 else 1]:     # one thread waits for nobody
                workers[threads, wait] = Worker(size, threads, wait)
        for _ in range(rounds):
            for name, code in neighbours.items():
                beside = code and subprocess.Popen([sys.executable, '-c', code])
                try:
                    for key, w in workers.items():
                        found.setdefault((name, *key), []).append(w(seconds))
                finally:
                    if beside:
                        beside.kill()
                        beside.wait()
    finally:
        for w in workers.values(): w.close()
    table = {}
    for (name, threads, wait), speeds in found.items():
        row = table.setdefault(name, {}).setdefault(str(threads), {})
        row[wait] = round(statistics.median(speeds), 1)
    return table


def main():
    plain = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    p.add_argument('--size', type=int, default=16, help='rows and columns of an image')
    p.add_argument('--threads', type=int, nargs='*', default=[1, 2, 3])
    p.add_argument('--seconds', type=float, default=1.2, help='of a turn')
    p.add_argument('--rounds', type=int, default=3)
    p.add_argument('--work', action='store_true', help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.work: return work(a.size)
    from common import note
    table = measure(a.size, a.threads, a.seconds, a.rounds)
    for name, row in table.items():
        print(f'{a.size}x{a.size}, {name} neighbour')
        print(f"{'':<26}" + ''.join(f'{t:>4} thread(s)' for t in row))
        for wait in waits:
            speeds = (r.get(wait) for r in row.values())
            print(f'{wait:<26}' + ''.join(f'{"-" if s is None else round(s):>14}' for s in speeds))
    about = dict(batch=128, seconds=a.seconds, rounds=a.rounds, table=table)
    note('threads', 'images per second', f'{a.size}x{a.size}', about)


if __name__ == '__main__': main()
