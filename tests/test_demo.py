"make demo leaves what it promises (with less training)"
import subprocess
import sys
from pathlib import Path

from PIL import Image

root = Path(__file__).resolve().parent.parent


def test_demo_leaves_its_pictures_and_a_model_that_loads(tmp_path):
    out = tmp_path/'with space'/'demo'
    r = subprocess.run([sys.executable, str(root/'examples'/'demo.py'), '--steps', '4', '--calls',
                        '3', '--out', str(out)], capture_output=True, text=True, timeout=300)
    assert r.returncode == 0, r.stderr
    assert Image.open(out/'samples.png').size[0] > 300
    assert Image.open(out/'trajectory.gif').n_frames > 10
    assert {f.name for f in out.iterdir()} == {
        'samples.png', 'trajectory.png', 'trajectory.gif', 'trajectory.html', 'loss.png',
        'model.safetensors'}
    page = (out/'trajectory.html').read_text(encoding='utf-8')
    assert page.count('data:image/png') == 41 + 1 and 'http' not in page and len(page) < 1_000_000
    from diffnb.apps.checkpoints import load
    assert load(out/'model.safetensors').shape == (1, 16, 16)
    assert 'real digits, held out' in r.stdout and 'pure noise' in r.stdout


def test_a_wrong_option_names_the_right_ones():
    r = subprocess.run([sys.executable, str(root/'examples'/'demo.py'), '--stps', '4'],
                       capture_output=True, text=True, timeout=120)
    assert r.returncode == 2 and '--steps' in r.stderr and 'Traceback' not in r.stderr
