"""A folder of 20,000 images, and less memory than they need: `fit` with `stream`, killed once in
the middle and resumed. Writes results/stream.json; the notebook apps/datasets quotes it.

    python benchmarks/stream.py

The images are made for the purpose: 20,000 JPEG files of 96x96 in 20 folders. Each trial is a
process of its own, which may take `limit` MB beyond what it has after its imports (RLIMIT_DATA,
Linux). Reading the whole folder into memory fails there.
"""
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from common import keep, needs_linux, parser

N, SIZE, LIMIT, BS = 20_000, 96, 250, 64


def make(folder, n):
    "Coloured slopes: every image is another, and compresses as a photograph does"
    rng, ramp = np.random.RandomState(0), np.linspace(0, 1, SIZE)
    for i in range(n):
        home = folder/f'{i % 20:02}'
        home.mkdir(parents=True, exist_ok=True)
        a, b, c = rng.rand(3, 3)
        x = a + ramp[:, None, None]*(b - a)*.7 + ramp[None, :, None]*(c - a)*.3
        image = Image.fromarray((255*x.clip(0, 1)).astype(np.uint8))
        image.save(home/f'{i:05}.jpg', quality=90)


def used_mb(what):
    "VmData (what this process holds now) or VmHWM (its peak), in MB"
    status = Path('/proc/self/status').read_text()
    return int(status.split(f'{what}:')[1].split()[0])/1024


def trial(images, how, folder, steps, limit):
    "In a process of its own: train from the stream, or read everything"
    import resource
    from torchvision import transforms
    from torchvision.datasets import ImageFolder
    from diffnb.apps.datasets import load_data, stream
    from diffnb.apps.runs import RunFolder, fit
    from diffnb.denoiser import Denoiser
    from diffnb.unet import UNet
    torch.set_num_threads(1)
    most = int((used_mb('VmData') + limit)*2**20)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    if how == 'memory': return len(load_data(images).x)
    small = [transforms.PILToTensor(), transforms.Resize(32, antialias=True)]
    dataset = ImageFolder(images, transforms.Compose(small))
    torch.manual_seed(0)
    def items(start): return stream(dataset, BS, seed=1, start=start, flip=True)
    model = fit(Denoiser(UNet(3, width=8, mults=(1,))), items, steps=steps, every=dict(save=20),
                folder=folder, resume=RunFolder(folder).holds_run(), progress=False)
    return model.history.rows[-1]['step']


def start(*args):
    "A trial, which begins now"
    words = [sys.executable, '-W', 'ignore', __file__, '--trial', *map(str, args)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(p):
    "What a trial says in the end"
    out, err = p.communicate()
    if p.returncode: return dict(error=err.strip().splitlines()[-1])
    return json.loads(out.splitlines()[-1])


def main():
    needs_linux()
    with tempfile.TemporaryDirectory() as temp:
        temp = Path(temp)
        images, steps = temp/'images', N//BS + 20           # a little more than one pass
        make(images, N)
        rows = {}
        rows['all in memory'] = finish(start(images, 'memory', '-', 0, LIMIT))
        rows['stream'] = finish(start(images, 'stream', temp/'whole', steps, LIMIT))
        p, table = start(images, 'stream', temp/'killed', steps, LIMIT), temp/'killed'/'log.csv'
        while not (table.exists() and table.read_text().count('\n') > steps//2): time.sleep(.05)
        p.kill()
        p.communicate()
        again = start(images, 'stream', temp/'killed', steps, LIMIT)
        rows['stream, killed and resumed'] = finish(again)
        a, b = ((temp/k/'model.safetensors').read_bytes() for k in ('whole', 'killed'))
        disk = sum(f.stat().st_size for f in images.rglob('*.jpg'))/1e6
        keep('stream', images=N, side=SIZE, raw_mb=round(N*SIZE*SIZE*3/1e6), disk_mb=round(disk),
             limit_mb=LIMIT, steps=steps, batch=BS, same_weights=a == b, rows=rows)
    for name, r in rows.items(): print(name, r)
    print('the same weights:', a == b)


if __name__ == '__main__':
    p = parser(__doc__)
    p.add_argument('--trial', nargs=5, metavar='X', help='for the script itself')
    a = p.parse_args()
    if not a.trial: main()
    else:
        images, how, folder, steps, limit = a.trial
        begun = time.time()
        done = trial(images, how, folder, int(steps), float(limit))
        print(json.dumps(dict(done=done, seconds=round(time.time() - begun),
                              peak_mb=round(used_mb('VmHWM')))))
