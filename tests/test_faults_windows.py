"What other systems refuse and Linux lets pass, seen from Linux; and how a script ends"
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from diffnb.kit import files
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


@linux
def test_the_samples_are_let_go_of_before_they_are_deleted(tmp_path, monkeypatch):
    from diffnb.apps.generation import Gallery
    file, found, unlink = tmp_path/'.samples.npy', [], Path.unlink
    def watched(self, *args, **kwargs):
        if self == file: found.append(in_use(file))
        return unlink(self, *args, **kwargs)
    monkeypatch.setattr(Path, 'unlink', watched)
    gallery = Gallery(tmp_path, (3, 8, 8, 1))
    gallery.add(slice(0, 3), torch.zeros(3, 1, 8, 8))
    assert file.exists() and not in_use(file)
    gallery.close()
    assert found == [False] and not file.exists()


def test_a_file_that_is_being_read_is_replaced_when_the_reader_is_done(tmp_path, monkeypatch):
    "Windows says 'access denied' as long as the old file is open anywhere"
    save_state(tmp_path/'s.safetensors', [1])
    real, tries = os.replace, []
    def busy(temp, fname):
        tries.append(fname)
        if len(tries) < 3: raise PermissionError(13, 'Access is denied')
        real(temp, fname)
    monkeypatch.setattr(files.os, 'replace', busy)
    monkeypatch.setattr(files, '_waits', (.001,)*4)
    assert load_state(save_state(tmp_path/'s.safetensors', [2])) == [2] and len(tries) == 3
    tries.clear()
    monkeypatch.setattr(files, '_waits', (.001,))
    with pytest.raises(ValueError, match='Access is denied.*untouched'):
        save_state(tmp_path/'s.safetensors', [3])
    assert load_state(tmp_path/'s.safetensors') == [2] and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize('seconds', [0, .5])
def test_a_script_ends_while_the_playground_draws(seconds):
    code = ('import time; from diffnb import playground\n'
            f'play = playground(); time.sleep({seconds}); assert play.thread.is_alive()')
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=120)
    assert r.returncode == 0 and 'terminate' not in r.stderr, r.stderr
