"""Run in an environment that holds nothing but the built package: is everything in it, and
nothing else? The package may have been installed from the wheel or from the source archive"""
import re
import sys
import tempfile
from importlib.metadata import files, metadata
from pathlib import Path

import diffnb

assert 'site-packages' in diffnb.__file__, diffnb.__file__
assert Path(diffnb.__file__).with_name('py.typed').exists()
said = metadata('diffnb')
assert said['License-Expression'] == 'Apache-2.0', said['License-Expression']
pictures = re.findall(r'!\[[^]]*\]\(([^)]+)\)', said.get('Description') or said.get_payload())
assert pictures and all(p.startswith('https://') for p in pictures), pictures
kept = sorted({Path(f).parts[0] for f in files('diffnb')} - {'..'})
assert kept == ['diffnb', f'diffnb-{diffnb.__version__}.dist-info'], kept
heavy = {'matplotlib', 'sklearn', 'accelerate', 'torch'}
assert not heavy & set(sys.modules), 'import diffnb must be light'

import torch  # noqa: E402
from PIL import Image  # noqa: E402
from diffnb.apps.checkpoints import load  # noqa: E402
from diffnb.apps.datasets import load_data  # noqa: E402
from diffnb.apps.runs import fit  # noqa: E402
from diffnb.denoiser import Denoiser  # noqa: E402
from diffnb.fld import FLD  # noqa: E402
from diffnb.kit.files import results_folder  # noqa: E402
from diffnb.kit.pictures import show_images  # noqa: E402
from diffnb.kit.scrubber import scrubber_html  # noqa: E402
from diffnb.oracle import ideal  # noqa: E402
from diffnb.samplers import ddim, last  # noqa: E402
from diffnb.schedules import cosine, path  # noqa: E402
from diffnb.unet import UNet  # noqa: E402

images = load_data('digits').x.float()/127.5 - 1
x = last(ddim(ideal(images), torch.randn(4, 1, 16, 16), path(cosine, 10))).x
assert torch.cdist(x.flatten(1), images.flatten(1)).min(1).values.max() < 1
assert last(ddim(Denoiser(UNet(1)), x, path(cosine, 2))).x.shape == x.shape
assert fit(Denoiser(UNet(1)), images, steps=2, bs=8, seed=0).training is False
assert show_images(x).size[0] > 0
with tempfile.TemporaryDirectory() as folder:
    page = scrubber_html(ddim(ideal(images), x, path(cosine, 2)), Path(folder)/'walk.html')
    assert '</html>' in page.read_text(encoding='utf-8')
assert FLD('mnist-test').ref.stats.n == 10_000 and load('mnist').notes['parameters'] == 376_913
stored = sorted(f.relative_to(results_folder()).as_posix() for f in results_folder().rglob('*.*'))
assert results_folder().parent == Path(diffnb.__file__).parent and len(stored) > 100, stored
assert {'mnist.json', 'spiral.json', 'cifar10/eps.safetensors'} <= {*stored}, stored
assert not [s for s in stored if s.endswith(('real.png', 'nearest.png', '.lock'))], stored
for name in stored:
    if name.endswith('.png'): Image.open(results_folder()/name).verify()
print('the package works')
