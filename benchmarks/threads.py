"""How OpenMP's threads should wait: training images/s at 16x16 and 28x28 (batch 128, the default
network and precision) beside an idle, a half-busy and a busy neighbour process, and beside three.

    python benchmarks/threads.py                    writes results/threads.json
    python benchmarks/threads.py --beside three     measures that anew and keeps the rest

A training in a process of its own for every number of threads and every way of waiting; those that
are not measured are stopped. They take turns; medians. A turn in which yet other processes had more
than a tenth of a core counts only if there is no better one (`strangers`: the share of a core that
they had). For Linux.
"""
import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

waits = {
    "the system's default": {},
    'OMP_WAIT_POLICY=ACTIVE': dict(OMP_WAIT_POLICY='ACTIVE'),
    'GOMP_SPINCOUNT=10000': dict(GOMP_SPINCOUNT='10000'),
    'OMP_WAIT_POLICY=PASSIVE': dict(OMP_WAIT_POLICY='PASSIVE'),
    'GOMP_SPINCOUNT=0': dict(GOMP_SPINCOUNT='0'),
}
sizes = 16, 28
busy = 'while True: pass'
half = '''
import time
while True:
    end = time.perf_counter() + .02
    while time.perf_counter() < end: pass
    time.sleep(.02)
'''
neighbours = dict(idle=[], half=[half], busy=[busy], three=[busy]*3)


def training(size):
    "An endless training, a step at a time"
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
    for _ in train(model, batches(x, 128), 10**9, precision=half):
        average.update_parameters(model)
        yield


def work():
    "For every line, which holds a size and seconds, train, and print images per second"
    steps = {size: training(size) for size in sizes}
    for line in iter(sys.stdin.readline, ''):
        size, seconds = json.loads(line)
        done, begin = 0, time.perf_counter()
        while time.perf_counter() - begin < seconds:
            next(steps[size])
            done += 128
        print(json.dumps(done/(time.perf_counter() - begin)), flush=True)


def numbers(name): return Path(name).read_text().rpartition(')')[2].split()


def used(ours):
    "Seconds of CPU, on all cores, that other processes than these have used so far"
    total = numbers('/proc/stat')
    busy = sum(map(int, total[1:4] + total[6:8]))
    mine = sum(int(n) for p in ours for n in numbers(f'/proc/{p}/stat')[11:13])
    return (busy - mine)/os.sysconf('SC_CLK_TCK')


class Worker:
    "A training in a process of its own, stopped while nobody asks"
    def __init__(self, threads, wait):
        ours = 'OMP_WAIT_POLICY', 'GOMP_SPINCOUNT'
        bare = {k: v for k, v in os.environ.items() if k not in ours}
        env = {**bare, 'OMP_NUM_THREADS': str(threads), **waits[wait]}
        words = [sys.executable, __file__, '--work']
        self.p = subprocess.Popen(words, env=env, stdin=-1, stdout=-1, text=True)
        for size in sizes: self(size, .1)

    def __call__(self, size, seconds):
        self.p.send_signal(signal.SIGCONT)
        self.p.stdin.write(json.dumps([size, seconds]) + '\n')
        self.p.stdin.flush()
        answer = self.p.stdout.readline()
        self.p.send_signal(signal.SIGSTOP)
        return json.loads(answer)

    def turn(self, size, seconds, beside):
        "(cores that others had, images per second), the quietest of up to three tries"
        ours, tries = [self.p.pid, *(p.pid for p in beside)], []
        while len(tries) < 3 and (not tries or tries[-1][0] > .1):
            before, begin = used(ours), time.perf_counter()
            speed = self(size, seconds)
            tries.append(((used(ours) - before)/(time.perf_counter() - begin), speed))
        return min(tries)

    def close(self):
        self.p.kill()
        self.p.wait()


def stop(processes):
    for p in processes:
        p.kill()
        p.wait()


def measure(names, counts, seconds, rounds):
    "{(size, neighbour, threads, wait): [(cores that others had, images per second)]}"
    turns, workers, beside = {}, {}, []
    try:
        for threads in counts:
            for wait in list(waits)[:None if threads > 1 else 1]:     # one thread waits for nobody
                workers[threads, wait] = Worker(threads, wait)
        for _ in range(rounds):
            for name in names:
                beside = [subprocess.Popen([sys.executable, '-c', o]) for o in neighbours[name]]
                for size in sizes:
                    for key, worker in workers.items():
                        turn = worker.turn(size, seconds, beside)
                        turns.setdefault((size, name, *key), []).append(turn)
                stop(beside)
    finally:
        stop(beside)
        for worker in workers.values(): worker.close()
    return turns


def medians(turns, k):
    "{size: {neighbour: {threads: {wait: median}}}} of item k, over the turns without strangers"
    table = {}
    for (size, name, threads, wait), found in turns.items():
        found = [f for f in found if f[0] <= .1] or found
        by_name = table.setdefault(f'{size}x{size}', {}).setdefault(name, {})
        row = by_name.setdefault(str(threads), {})
        row[wait] = round(statistics.median(f[k] for f in found), 2)
    return table


def main():
    plain = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    p.add_argument('--beside', nargs='*', choices=list(neighbours), default=list(neighbours))
    p.add_argument('--threads', type=int, nargs='*', default=[1, 2, 3])
    p.add_argument('--seconds', type=float, default=.6, help='of a turn')
    p.add_argument('--rounds', type=int, default=2)
    p.add_argument('--work', action='store_true', help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.work: return work()
    from common import keep, needs_linux, noted
    needs_linux()
    turns = measure(a.beside, a.threads, a.seconds, a.rounds)
    speeds = medians(turns, 1)
    for size, by_name in speeds.items():
        for name, row in by_name.items():
            print(f'\n{size}, {name} neighbour, images per second')
            print(f"{'':<26}" + ''.join(f'{t:>4} thread(s)' for t in row))
            for wait in waits:
                cells = (round(r[wait]) if wait in r else '-' for r in row.values())
                print(f'{wait:<26}' + ''.join(f'{cell:>14}' for cell in cells))
    found = dict(images_per_second=speeds, strangers=medians(turns, 0))
    old = noted('threads')
    for kind, by_size in found.items():
        for size, by_name in by_size.items():
            found[kind][size] = {**old.get(kind, {}).get(size, {}), **by_name}
    keep('threads', batch=128, seconds=a.seconds, rounds=a.rounds, **found)


if __name__ == '__main__': main()
