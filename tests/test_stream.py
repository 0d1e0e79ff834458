"""A run that reads its images one by one from a folder, killed at random moments, ends at the same
weights"""
import os
import subprocess
import sys

import pytest
import torch
from PIL import Image
from tables import run_table

from diffnb.apps.checkpoints import load

pytestmark = pytest.mark.skipif(not hasattr(os, 'fork'),
                                reason='needs os.fork, which Windows has not')
env = {**os.environ, 'OMP_NUM_THREADS': '1'}

# A parent that has imported everything forks each life of the run. Each is killed at a random
# moment, after at least one more step
lives = '''
import os, random, signal, sys, time, warnings
import torch
from torchvision import transforms
from torchvision.datasets import ImageFolder
from diffnb.apps.datasets import stream
from diffnb.apps.runs import RunFolder, fit
from diffnb.denoiser import Denoiser
from diffnb.unet import UNet
torch.set_num_threads(1)
warnings.simplefilter('ignore')
images, folder, kills = sys.argv[1], sys.argv[2], int(sys.argv[3])
rng, steps = random.Random(0), 60

def rows():
    try: return open(folder + '/log.csv').read().count(chr(10))
    except OSError: return 0

def run():
    torch.manual_seed(0)
    dataset = ImageFolder(images, transforms.PILToTensor())
    model = Denoiser(UNet(3, width=8, mults=(1,), classes=2))
    def items(start): return stream(dataset, 8, seed=3, start=start, flip=True)
    fit(model, items, steps=steps, label_dropout=.2, every=dict(save=3), folder=folder,
        resume=RunFolder(folder).holds_run(), progress=False)

for kill in range(kills + 1):
    start, pid = rows(), os.fork()
    if not pid:
        run()
        os._exit(0)
    if kill < kills:
        while rows() <= start and os.waitpid(pid, os.WNOHANG) == (0, 0): time.sleep(.001)
        time.sleep(rng.uniform(0, 2*steps/(kills + 1)*.01))
        os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    print('killed' if os.WIFSIGNALED(status) else os.WEXITSTATUS(status), flush=True)
'''


def killed_and_whole(tmp_path, kills):
    g = torch.Generator().manual_seed(0)
    for i in range(50):
        home = tmp_path/'images'/'ab'[i % 2]
        home.mkdir(parents=True, exist_ok=True)
        x = torch.randint(0, 256, (8, 8, 3), generator=g, dtype=torch.uint8)
        Image.fromarray(x.numpy()).save(home/f'{i}.png')
    for name, n in (('killed', kills), ('whole', 0)):
        words = [sys.executable, '-c', lives, *map(str, (tmp_path/'images', tmp_path/name, n))]
        p = subprocess.run(words, capture_output=True, text=True, env=env, timeout=600)
        assert p.stdout.split() == ['killed']*n + ['0'], p.stdout + p.stderr[-2000:]
    a, b = (load(tmp_path/k).state_dict() for k in ('killed', 'whole'))
    assert a.keys() == b.keys() and all(a[k].equal(b[k]) for k in a)
    killed, whole = run_table(tmp_path/'killed'), run_table(tmp_path/'whole')
    assert killed == whole and len(whole) == 61
    assert load(tmp_path/'killed').classes == 2


def test_three_kills(tmp_path): killed_and_whole(tmp_path, 3)


def test_twenty_kills(tmp_path, slow): killed_and_whole(tmp_path, 20)
