"""A reader's notebook: the package, a kernel, one notebook in an empty folder, and nothing else.

    python tools/alone.py                          every notebook but the index
    python tools/alone.py nbs/01_data.ipynb        these
    python tools/alone.py --env FOLDER --fast      keep the environment; as in the tests: IN_TEST

Builds the wheel, makes an environment of its own and installs the wheel there with nbclient and
ipykernel. Then each notebook is copied alone into an empty folder and run from top to bottom.
"""
import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

root = Path(__file__).resolve().parent.parent
kernel = ['nbclient', 'ipykernel']
apart = shutil.ignore_patterns('.*', 'nbs', 'tests', 'build', 'dist', '*.egg-info', '__pycache__',
                               'runs', 'demo', '_docs', '_proc')
run = '''
import sys, nbformat
from nbclient import NotebookClient
nb = nbformat.read(sys.argv[1], 4)
NotebookClient(nb, timeout=1800, kernel_name='python3').execute()
'''


def python_of(env): return env/('Scripts/python.exe' if os.name == 'nt' else 'bin/python')


def install(env, constraints):
    "An environment with the package as it would be published; returns its Python"
    if not python_of(env).exists(): venv.create(env, with_pip=True)
    pip = [python_of(env), '-m', 'pip', '--disable-pip-version-check', 'install', '-q']
    limits = ['-c', constraints] if constraints else []
    with tempfile.TemporaryDirectory() as folder:
        # Nothing of an old build
        source = shutil.copytree(root, Path(folder)/'source', ignore=apart)
        subprocess.run([*pip[:-2], 'wheel', '-q', '--no-deps', '-w', folder, source], check=True)
        wheel, = Path(folder).glob('*.whl')
        subprocess.run([*pip, *limits, wheel, *kernel], check=True)
        subprocess.run([*pip, '--force-reinstall', '--no-deps', wheel], check=True)
    return python_of(env)


def alone(python, notebook, fast=False):
    "Run a notebook in a folder that holds nothing else; '' or the end of what went wrong"
    hidden = 'PYTHONPATH', 'MPLBACKEND', 'IN_TEST', 'JUPYTER_PATH', 'DIFFNB_DATA'
    kept = {k: v for k, v in os.environ.items() if k not in hidden}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temp:
        folder, home = Path(temp)/'notebook', str(Path(temp)/'home')
        folder.mkdir()
        shutil.copy(notebook, folder)
        own = dict(HOME=home, DIFFNB_DATA=home, IPYTHONDIR=home)
        if fast: own['IN_TEST'] = '1'
        words = [python, '-c', run, notebook.name]
        done = subprocess.run(words, cwd=folder, env={**kept, **own}, stdin=subprocess.DEVNULL,
                              capture_output=True, encoding='utf-8', errors='replace')
    return '' if done.returncode == 0 else done.stderr[-1500:] or f'code {done.returncode}'


def main():
    plain = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    p.add_argument('notebooks', nargs='*', type=Path, help='all when none is named')
    p.add_argument('--env', type=Path,
                   help='a folder for the environment, used again the next time')
    p.add_argument('--constraints', type=Path, help='for pip, such as .ci/constraints.txt')
    p.add_argument('--fast', action='store_true', help='set IN_TEST, as the tests do')
    a = p.parse_args()
    if not a.notebooks:
        from nbs import notebooks
        a.notebooks = notebooks()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temp:
        python, bad = install((a.env or Path(temp)).absolute(), a.constraints), 0
        for f in a.notebooks:
            begin = time.time()
            error = alone(python, f.absolute(), a.fast)
            bad += bool(error)
            name = f'{f.parent.name}/{f.name}'
            print(f'{name}: {"FAILED" if error else "ok"}, {time.time() - begin:.0f} s {error}',
                  flush=True)
    print(f'{len(a.notebooks) - bad} passed, {bad} failed')
    sys.exit(bool(bad))


if __name__ == '__main__': main()
