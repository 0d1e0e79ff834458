"""Ten thousand digits from the terminal: time and peak memory. Writes results/cli.json; the
notebook apps/cli shows the table.

    python benchmarks/sampling.py
"""
import os
import re
import subprocess
import sys
import tempfile
import time

from common import keep, needs_linux

# The kernel's high-water mark: ru_maxrss would begin with the peak of the process that starts this
watched = '''
import sys
from diffnb.apps.cli import main
code = main()
mark = open('/proc/self/status').read().split('VmHWM:')[1].split()[0]
print('peak', mark, file=sys.stderr)
sys.exit(code)
'''


def order(n, calls, folder):
    "Sample in a process of its own"
    line = ['sample', 'mnist', '--n', str(n), '--calls', str(calls), '--save', 'npz',
            '--out', f'{folder}/{n}']
    start = time.time()
    done = subprocess.run([sys.executable, '-c', watched, *line], stdout=sys.stdout,
                          stderr=subprocess.PIPE, text=True,
                          env={**os.environ, 'OMP_NUM_THREADS': '1'})
    if done.returncode: sys.exit(done.stderr)
    kib = int(re.search(r'peak (\d+)', done.stderr)[1])
    size = os.path.getsize(f'{folder}/{n}/samples.npz')
    return dict(n=n, calls=calls, seconds=round(time.time() - start, 1), peak_mb=round(kib/1024),
                npz_mb=round(size/1e6, 1))


if __name__ == '__main__':
    needs_linux()
    with tempfile.TemporaryDirectory() as folder:
        rows = [order(n, 20, folder) for n in (1000, 10_000)]
    for r in rows: print(r)
    keep('cli', rows=rows)
