"Whatever starts Python for people lets waiting threads sleep"
import json
import os
import subprocess
import sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent
bare = {k: v for k, v in os.environ.items() if k != 'OMP_WAIT_POLICY'}


def said(words, **env):
    run = subprocess.run(words, cwd=root, env={**bare, **env}, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout.split()


def test_make_sets_it_for_everything_that_it_starts_and_lets_people_choose():
    words = ['make', '-s', '--eval=asked: ; @echo $$OMP_WAIT_POLICY', 'asked']
    assert said(words) == ['PASSIVE']
    assert said(words, OMP_WAIT_POLICY='ACTIVE') == ['ACTIVE']


def test_the_terminal_sets_it_before_torch_is_loaded_and_lets_people_choose():
    code = ("import os, sys; from diffnb.apps.cli import main; early = 'torch' in sys.modules; "
            "main(['no-such-command']); print(early, os.environ['OMP_WAIT_POLICY'])")
    assert said([sys.executable, '-c', code])[-2:] == ['False', 'PASSIVE']
    assert said([sys.executable, '-c', code], OMP_WAIT_POLICY='ACTIVE')[-1] == 'ACTIVE'


def test_the_table_of_threads_says_what_was_measured():
    stored = json.loads((root/'results'/'threads.json').read_text(encoding='utf-8'))
    text = (root/'CONTRIBUTING.md').read_text(encoding='utf-8')
    usual, asleep = "the system's default", 'OMP_WAIT_POLICY=PASSIVE'
    def shares(load, threads, wait):
        return [round(100*by[load][threads][wait]/by['idle']['2'][usual])
                for by in stored['images_per_second'].values()]
    for load, name in dict(idle='nothing', busy='one busy program',
                           three='three busy programs').items():
        (a, b), (c, d), (e, f) = (shares(load, *kind) for kind in
                                  (('2', usual), ('2', asleep), ('1', usual)))
        assert f'| {name} | {a} % | {b} % | {c} and {d} % | {e} and {f} % |' in text
