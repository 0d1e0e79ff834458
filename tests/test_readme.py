"The README's own lines, run as they stand (with less training)"
import re
import subprocess
import sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent


def test_the_eight_lines_run(tmp_path):
    text = (root/'README.md').read_text(encoding='utf-8')
    code = '\n'.join(re.findall(r'^```python\n(.*?)^```', text, re.M | re.S))
    short = re.sub(r'steps=\d+', 'steps=3', code, count=1)
    assert short != code and len(code.splitlines()) <= 12
    r = subprocess.run([sys.executable, '-c', short + "\nassert steps[-1].x.shape == (16, 1, 16, 16) and steps[-1].x.isfinite().all()"],
                       capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert r.returncode == 0, r.stderr


def test_every_make_target_that_it_names_exists():
    targets = set(re.findall(r'^([a-z-]+):', (root/'Makefile').read_text(), re.M))
    named = {t for f in ('README.md', 'CONTRIBUTING.md') for t in re.findall(r'`?make ([a-z-]+)', (root/f).read_text(encoding='utf-8')) if t not in ('makes', 'git')}
    assert named and named <= targets, named - targets


def test_every_file_that_it_names_exists():
    text = (root/'README.md').read_text(encoding='utf-8')
    files = re.findall(r'\]\((nbs/[^)]+)\)', text) + re.findall(r'blob/main/([^)]+)\)', text)
    assert files and not [f for f in files if not (root/f).exists()]
