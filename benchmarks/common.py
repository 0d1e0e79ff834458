"""What the benchmarks share: side by side in one process (take turns, repeat, quote medians and
ratios), trainings that are done once, pictures from fixed noise, and the files of results"""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from filelock import FileLock  # comes with torch

results = Path(__file__).resolve().parent.parent/'results'


def turn_times(contestants, rounds, unit=1e6, clock=time.perf_counter):
    "{name: function that returns the work it did} -> {name: times per unit of work, by round}"
    for f in contestants.values(): f()
    times = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, f in contestants.items():
            start = clock()
            done = f()
            times[name].append((clock() - start)/done*unit)
    return times


def turns(contestants, rounds, unit=1e6, clock=time.perf_counter):
    "The medians of `turn_times`, taking turns so that all see the same weather"
    times = turn_times(contestants, rounds, unit, clock)
    return {name: statistics.median(t) for name, t in times.items()}


def draw(
    model,
    sampler,
    calls,         # Steps of the sampler: `heun` takes two calls for each but the last
    n,             # How many pictures
    batch,         # At a time
    seed,          # Number of a batch's first picture -> seed of its noise
    again=None,    # The same for the noise on the way; None: the numbers after those of the start
    labels=None,
    w=1.,
    clip=False,    # Cut off every guess at -1 and 1, not only the last
    spacing=None,
):                 # Pictures in [-1, 1], and the seconds it took
    "Pictures from fixed noise, by the library's own loop"
    from diffnb.apps.generation import generate
    firsts, start = iter(range(0, n, batch)), time.time()

    def fixed(denoise, x, angles):
        i = next(firsts)
        torch.manual_seed(seed(i))
        x = torch.randn(x.shape)
        if again: torch.manual_seed(again(i))
        return sampler(denoise, x, angles)

    x = generate(model, n, labels, None if labels is None else w, calls, fixed, clip, seeds=0,
                 batch=batch, progress=False, spacing=spacing)
    return x.clamp(-1, 1), time.time() - start


def parser(doc):
    "A parser of arguments whose help shows the text of a script as it stands"
    plain = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(description=doc, formatter_class=plain)


def parameters(net):
    "How many numbers a network learns"
    return sum(p.numel() for p in net.parameters())


def train_once(folder, train):
    """The model of a run, and what its training cost: from the folder if it is done already.

    If not, `train(begun)` makes both; `begun` says whether the folder holds a run to go on with.
    """
    from diffnb.apps.checkpoints import load
    done = folder/'done.json'
    if done.exists(): return load(folder), json.loads(done.read_text())
    model, cost = train(any(folder.glob('state-*')))
    done.write_text(json.dumps(cost))
    return model, cost


def keep_picture(fname, image, colours=None):
    "Write an image, with so many colours, or all; the folder is made"
    fname.parent.mkdir(parents=True, exist_ok=True)
    if colours: image = image.quantize(colours)
    image.save(fname, optimize=True)


def needs_linux():
    "End with a clear line where the kernel's counters are not there"
    if not Path('/proc/self/status').exists():
        sys.exit('this reads the counters of the Linux kernel in /proc: run it on Linux')


def peak_mb(code, *args):
    """The peak memory in MB of a Python process of its own that runs this code, which says nothing.

    `ru_maxrss` is no measure of that: a child begins with the peak of the process that started it.
    The kernel's high-water mark of the address space (Linux) begins anew with the program.
    """
    needs_linux()
    asks = "\nprint(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    words = [sys.executable, '-c', code + asks, *args]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return int(said)/2**10


def processor():
    "What this ran on, in words"
    try: lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError: lines = []
    names = [s.split(':')[1].strip() for s in lines if s.startswith('model name')]
    name = names[0] if names else platform.processor()
    return f'{name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads'


def load_average():
    "How busy the machine is, over 1, 5 and 15 minutes; [] where the system does not say"
    return [round(v, 1) for v in os.getloadavg()] if hasattr(os, 'getloadavg') else []


def git(*args):
    "What git answers in the repository"
    done = subprocess.run(['git', *args], capture_output=True, text=True, cwd=results.parent)
    return done.stdout.strip()


def origin():
    """The command; the commit, with a + where something was changed since; the script itself, as
    git names its content"""
    script = Path(sys.argv[0]).resolve()
    inside = script.is_relative_to(results.parent) and script.is_file()
    name = str(script.relative_to(results.parent)) if inside else script.name
    changed = git('status', '--porcelain', 'diffnb', 'benchmarks')
    return dict(command=' '.join(['python', name, *sys.argv[1:]]),
                commit=git('rev-parse', '--short', 'HEAD') + '+'*bool(changed),
                script=git('hash-object', str(script))[:10] if inside else '')


# A row may come hours later, when files and commits are others than those that run
began = origin()


def about():
    "What a number needs beside it: where it came from, and the machine"
    machine = dict(hardware=processor(), python=platform.python_version(), torch=torch.__version__)
    return {**began, **machine}


def keep(name, **numbers):
    "Write results/NAME.json"
    results.mkdir(exist_ok=True)
    (results/f'{name}.json').write_text(json.dumps({**about(), **numbers}, indent=1) + '\n')
    print(f'written to results/{name}.json')


def noted(name, out=results):
    "What results/NAME.json holds"
    return json.loads((out/f'{name}.json').read_text()) if (out/f'{name}.json').exists() else {}


def change(name, how, out=results):
    "Read results/NAME.json, let `how` change it, and write it, whoever else is writing"
    out.mkdir(parents=True, exist_ok=True)
    with FileLock(out/'.lock'):
        record = noted(name, out)
        how(record)
        (out/f'{name}.json').write_text(json.dumps(record, indent=1, ensure_ascii=False) + '\n')


def note(name, section, key, row, out=results):
    "Add a row to a section of results/NAME.json, with what it needs beside it, and say so"
    said = {k: v for k, v in row.items() if not isinstance(v, (dict, list))}
    row = {**about(), **row}
    change(name, lambda record: record.setdefault(section, {}).update({key: row}), out)
    print(section, '|', key, '|', said, flush=True)
