"What other systems refuse and Linux lets pass, seen from Linux; and how a script ends"
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from diffnb.kit.files import load_state, save_state

linux = pytest.mark.skipif(not sys.platform.startswith('linux'), reason='reads /proc')


def in_use(fname):
    "Whether this process has the file open, or in view as memory"
    opened = {f.resolve() for f in Path('/proc/self/fd').iterdir()}
    return str(fname) in Path('/proc/self/maps').read_text() or Path(fname).resolve() in opened


@linux
def test_a_file_in_use_is_noticed(tmp_path):
    from safetensors.torch import load_file, save_file
    save_file({'x': torch.zeros(100_000)}, tmp_path/'x.safetensors')
    held = load_file(tmp_path/'x.safetensors')
    assert in_use(tmp_path/'x.safetensors') and len(held) == 1


@linux
def test_a_state_that_was_read_can_be_deleted(tmp_path):
    "fit keeps the tensors of the state that it went on from, and deletes the file later"
    state = save_state(tmp_path/'s.safetensors', dict(x=torch.randn(300, 400), y=[torch.ones(3)]))
    held = load_state(state)
    assert held['x'].shape == (300, 400) and not in_use(state)


class Team:
    "Two processes: at the place where they wait, the file must not be in use by this one"
    def __init__(self, main, look):
        self.is_main_process, self.look, self.waits = main, look, 0

    def wait_for_everyone(self):
        self.waits += 1
        if self.waits == 2: self.look()


@linux
def test_the_other_processes_let_go_of_the_samples_before_the_first_deletes_them(tmp_path):
    from diffnb.apps.cli import Gallery
    file = tmp_path/'.samples.npy'
    main = Gallery(tmp_path, (3, 1, 8, 8), None, [], Team(True, lambda: None))
    main.close(True)
    assert not file.exists() and not in_use(file)

    def look(): assert not in_use(file)
    Gallery(tmp_path, (3, 1, 8, 8), None, [], Team(True, lambda: None))
    other = Gallery(tmp_path, (3, 1, 8, 8), None, [], Team(False, look))
    assert in_use(file)
    other.close(True)
    assert other.team.waits == 2 and file.exists()


@pytest.mark.parametrize('seconds', [0, .5])
def test_a_script_ends_while_the_playground_draws(seconds):
    code = ('import time; from diffnb import playground\n'
            f'play = playground(); time.sleep({seconds}); assert play.thread.is_alive()')
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=120)
    assert r.returncode == 0 and 'terminate' not in r.stderr, r.stderr
