"""Run every notebook with nbdev_test and every test beside them with pytest: python tools/test.py

Each notebook counts as one test. The last line is `N passed, N failed`; the return code is 1 where
anything failed. Words that are not known here go to pytest."""
import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent
closing = re.compile(r'^(\d+) passed, (\d+) failed(?:, (\d+) skipped)?$')


def run(words, **kw):
    "Run a program from the root, show what it says as it says it, and return that and its code"
    said = []
    with subprocess.Popen(words, cwd=root, text=True, encoding='utf-8', errors='replace',
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **kw) as p:
        for line in p.stdout:
            print(line, end='', flush=True)
            said.append(line.rstrip('\n'))
    return said, p.returncode


def notebooks(workers):
    "Run nbdev_test; return how many notebooks passed and how many failed"
    from nbdev.config import get_config
    from nbdev.doclinks import nbglob
    total = len(nbglob(get_config(path=root).nbs_path))
    program = shutil.which('nbdev_test', path=str(Path(sys.executable).parent))
    said, code = run([program, '--n_workers', str(workers)],
                     env={**os.environ, 'PYTHONUNBUFFERED': '1'})
    failed = 0
    if any('Tests Failed On The Following' in line for line in said):
        end = max(i for i, line in enumerate(said) if 'Tests Failed On The Following' in line)
        failed = sum(line.startswith('\t') for line in said[end:])
    elif code or 'Success.' not in said:
        print(f'nbdev_test ended with code {code} before its last notebook')
        failed = total
    return total - failed, failed


def tests(workers, more):
    "Run pytest on tests/; return how many passed, failed and were skipped"
    words = [sys.executable, '-m', 'pytest', '-q', '-rs', *more, 'tests']
    if workers > 1: words[4:4] = ['-n', str(workers), '--dist', 'worksteal']
    said, code = run(words)
    last = closing.match(said[-1]) if said else None
    if last is None or (code and last[2] == '0'):
        print(f'pytest ended with code {code} before its last test')
        return 0, 1, 0
    return tuple(int(n or 0) for n in last.groups())


def main():
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('--workers', type=int, default=2, help='how many run at a time')
    a, more = p.parse_known_args()
    print('The notebooks: nbdev_test', flush=True)
    good, bad = notebooks(a.workers)
    print(f'\n{good} notebooks passed, {bad} failed\n\nThe tests beside them: pytest', flush=True)
    passed, failed, skipped = tests(a.workers, more)
    skips = f', {skipped} skipped' if skipped else ''
    print(f'\nNotebooks and tests together:\n{good + passed} passed, {bad + failed} failed{skips}')
    sys.exit(bad + failed > 0)


if __name__ == '__main__': main()
