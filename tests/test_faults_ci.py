"What checks the project must be able to fail, and what measures it must measure the right thing"
import os
import subprocess
import sys
from pathlib import Path

import pytest

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root/'benchmarks'))
import common  # noqa: E402
import tables  # noqa: E402


def program(fname, text):
    fname.write_text(f'#!/bin/sh\n{text}\n')
    fname.chmod(0o755)


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='.ci/run is for Debian')
def test_ci_installs_the_browser_where_there_is_none(tmp_path):
    "The beginning of .ci/run, with an apt-get that writes down what it is asked"
    begin = (root/'.ci'/'run').read_text().split('out=$(mktemp)')[0]
    (tmp_path/'.ci').mkdir()
    (tmp_path/'.ci'/'run').write_text(begin)
    there = tmp_path/'bin'
    there.mkdir()
    for name in ('id', 'env', 'dirname', 'touch', 'chmod'):
        (there/name).symlink_to(f'/usr/bin/{name}')
    program(there/'sleep', 'exit 0')
    program(there/'sudo', 'shift; exec "$@"')
    browser = there/'chromium'
    add = f'case "$*" in *install*chromium) touch {browser}; chmod +x {browser};; esac'
    program(there/'apt-get', f'echo "$*" >> {tmp_path}/asked; {add}')
    words = ['/bin/bash', str(tmp_path/'.ci'/'run')]
    r = subprocess.run(words, env=dict(PATH=str(there)), capture_output=True, text=True, timeout=30)
    assert (tmp_path/'asked').exists(), 'nothing was installed'
    assert (there/'chromium').exists() and 'NOTE' not in r.stdout, r.stdout + r.stderr


@pytest.mark.parametrize('ci, says', [('true', ' 19 failed'), ('', ' 0 failed, 19 skipped')])
def test_a_missing_browser_fails_in_ci_only(tmp_path, ci, says):
    env = {**os.environ, 'CI': ci, 'PATH': str(tmp_path)}
    words = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider',
             'tests/test_browser.py']
    r = subprocess.run(words, env=env, cwd=root, capture_output=True, text=True, timeout=60)
    assert r.stdout.splitlines()[-1].endswith(says), r.stdout
    assert (r.returncode == 1) == (ci == 'true')


@pytest.mark.parametrize('source, good', [('assert 1 == 1', True), ('assert 1 == 2', False)])
def test_a_cell_that_fails_fails_its_notebook(tmp_path, source, good):
    import nbformat
    (tmp_path/'nbs').mkdir()
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    nbformat.write(nb, tmp_path/'nbs'/'00_one.ipynb')
    for name in ('conftest.py', 'settings.ini'):
        (tmp_path/name).write_bytes((root/name).read_bytes())
    words = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', 'nbs']
    r = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert r.stdout.splitlines()[-1] == ('1 passed, 0 failed' if good else '0 passed, 1 failed')


@pytest.mark.parametrize('third, says, shown', [
    ('assert 3 == 3', '4 passed, 0 failed, 1 skipped', 'Success.'),
    ('assert 3 == 4', '3 passed, 1 failed, 1 skipped', 'assert 3 == 4'),
    ('import os; os._exit(3)', '1 passed, 3 failed, 1 skipped', 'before its last notebook')])
def test_notebooks_and_tests_are_counted_together(tmp_path, third, says, shown):
    "Three notebooks that nbdev_test runs, and two tests beside them"
    import nbformat
    for folder in ('nbs', 'tools', 'tests', 'diffnb'):
        (tmp_path/folder).mkdir()
    for i, source in enumerate(['1', 'assert 2', third]):
        nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
        nbformat.write(nb, tmp_path/'nbs'/f'0{i}_one.ipynb')
    for name in ('conftest.py', 'settings.ini', 'tools/test.py'):
        (tmp_path/name).write_bytes((root/name).read_bytes())
    (tmp_path/'tests'/'test_one.py').write_text(
        'import pytest\ndef test_a(): pass\ndef test_b(): pytest.skip("no")\n')
    words = [sys.executable, 'tools/test.py', '--workers', '2', '-p', 'no:cacheprovider']
    r = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert r.stdout.splitlines()[-1] == says, r.stdout + r.stderr
    assert shown in r.stdout and r.returncode == ('0 failed' not in says)


def test_a_number_is_looked_for_in_its_own_row():
    rows = [['DDIM', '1.20 ± 0.03'], ['Heun', '11.40', '5']]
    assert tables.shows(rows, 'DDIM', '1.20') and tables.shows(rows, 'Heun', '5', '11.40')
    for wrong in (('DDIM', '11.40'), ('Heun', '1.40'), ('DDIM', '1.2'), ('DDIM', '0.03')):
        assert not tables.shows(rows, *wrong)


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='reads /proc')
def test_the_peak_of_a_child_is_its_own():
    "This process is large; a child that does nothing is not"
    size = 200 * 2**20
    held = bytearray(b'x') * size
    assert common.peak_mb('') < 60
    grown = common.peak_mb(f"x = bytearray(b'x')*{size}")
    assert 200 < grown < 260 and len(held) == size
