"What a notebook cannot show well: runs that are killed, interrupted, or spread over processes"
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from tables import run_table

from diffnb.apps.checkpoints import load
from diffnb.data import spiral
from diffnb.denoiser import Denoiser
from diffnb.apps.runs import fit
from diffnb.apps import checkpoints, runs
from diffnb.apps.optim import Muon, optimisers
from diffnb.kit import files
from diffnb.kit.checks import Diverged
from diffnb.unet import MLP

no_signals = pytest.mark.skipif(os.name == 'nt', reason='Windows sends a process no such signal')
program = '''
import sys, torch
from diffnb.data import spiral
from diffnb.denoiser import Denoiser
from diffnb.apps.runs import fit
from diffnb.kit.checks import Diverged
from diffnb.unet import MLP
torch.set_num_threads(1)
torch.manual_seed(0)
data = (spiral(500), torch.arange(500) % 3)
model = fit(Denoiser(MLP(width=16, layers=2, classes=3)), data, steps=int(sys.argv[2]), bs=32,
            valid=.1, label_dropout=.2, perturb=.1, every=dict(save=15, valid=20),
            folder=sys.argv[1], resume='resume' in sys.argv, progress=False)
print(model.history)
group = torch.distributed
print('processes:', group.get_world_size() if group.is_initialized() else 1)
'''
STEPS = 240


def start(folder, *args, steps=STEPS, **env):
    env = {**os.environ, 'OMP_NUM_THREADS': '1', **env}
    return subprocess.Popen([sys.executable, '-c', program, str(folder), str(steps), *args],
                            env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(p):
    out, err = p.communicate(timeout=600)
    assert p.returncode == 0, err
    return out


def wait_for(table, lines, p):
    "Until the run has taken so many steps"
    while not (table.exists() and table.read_text().count('\n') > lines):
        assert p.poll() is None, p.stderr.read()
        time.sleep(.002)


def pairs(a, b): return zip(a.state_dict().values(), b.state_dict().values(), strict=True)


def same(a, b): return all(x.equal(y) for x, y in pairs(a, b))


@pytest.fixture(scope='module')
def straight(tmp_path_factory):
    "The run that nobody disturbs"
    folder = tmp_path_factory.mktemp('straight')
    finish(start(folder))
    return folder


def test_kill_and_resume(straight, tmp_path):
    for lines in (40, 110):  # twice, the second time in the resumed run
        p = start(tmp_path, *['resume']*(lines > 40))
        wait_for(tmp_path/'log.csv', lines, p)
        p.kill()
        p.communicate()
        assert p.returncode == (1 if os.name == 'nt' else -signal.SIGKILL)
    finish(start(tmp_path, 'resume'))
    assert same(load(straight), load(tmp_path))
    assert run_table(tmp_path) == run_table(straight) and len(run_table(tmp_path)) == STEPS + 1


@no_signals
def test_interrupt_gives_the_model_back(straight, tmp_path):
    p = start(tmp_path, steps=STEPS)
    wait_for(tmp_path/'log.csv', 50, p)
    p.send_signal(signal.SIGINT)
    assert 'interrupted' in finish(p)
    x = torch.randn(8, 2)
    assert load(tmp_path)(x, .5).x0.isfinite().all()
    finish(start(tmp_path, 'resume'))
    assert same(load(straight), load(tmp_path))


@no_signals
def test_terminate_saves_and_ends(straight, tmp_path):
    p = start(tmp_path)
    wait_for(tmp_path/'log.csv', 50, p)
    p.terminate()
    p.communicate(timeout=60)
    assert p.returncode == -signal.SIGTERM and (tmp_path/'model.safetensors').exists()
    finish(start(tmp_path, 'resume'))
    assert same(load(straight), load(tmp_path))


def test_two_processes(straight, tmp_path):
    """The same global batch in two halves gives the same weights, up to the order in which floats
    are added"""
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    both = [start(tmp_path, MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port), WORLD_SIZE='2',
                  RANK=str(r), LOCAL_RANK=str(r), ACCELERATE_USE_CPU='true') for r in (0, 1)]
    for p in both: assert 'processes: 2' in finish(p)
    for x, y in pairs(load(straight), load(tmp_path)):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-5)
    losses = [[float(row[1]) for row in run_table(f)[1:]] for f in (straight, tmp_path)]
    torch.testing.assert_close(*map(torch.tensor, losses), rtol=1e-5, atol=1e-5)


def test_patience_stops():
    torch.manual_seed(0)
    model = fit(Denoiser(MLP(width=8, layers=1)), spiral(200), steps=500, bs=32, lr=1e-9, valid=.2,
                patience=2, ema=0., every=dict(valid=5), progress=False)
    assert len(model.history) < 500 and 'patience' in model.history.stopped


def test_full_disk_leaves_the_old_files(tmp_path, monkeypatch):
    model = Denoiser(MLP(width=8, layers=1))
    checkpoints.save(tmp_path/'m.safetensors', model)
    before = (tmp_path/'m.safetensors').read_bytes()
    def full(*_): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(files.os, 'replace', full)
    with pytest.raises(ValueError, match='No space'):
        checkpoints.save(tmp_path/'m.safetensors', model)
    assert (tmp_path/'m.safetensors').read_bytes() == before
    assert [f.name for f in tmp_path.iterdir()] == ['m.safetensors']


def test_import_is_light():
    heavy = ('accelerate', 'matplotlib', 'sklearn', 'fastprogress', 'torchvision', 'PIL', 'IPython',
             'torch._dynamo')
    code = f'import sys, diffnb.training; print([m for m in {heavy} if m in sys.modules])'
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert r.stdout.strip() == '[]'


def small(classes=0, **kw):
    torch.manual_seed(0)
    return Denoiser(MLP(width=8, layers=1, classes=classes), **kw)


quick = dict(steps=12, bs=16, every=dict(save=3), progress=False)
in_memory = dict(steps=12, bs=16, progress=False)


def test_resume_looks_at_the_scale_and_finds_no_state(tmp_path):
    fit(small(), spiral(64), folder=tmp_path, **quick)
    with pytest.raises(ValueError, match='std'):
        fit(small(std=2.), spiral(64), folder=tmp_path, resume=True, **quick)
    for f in tmp_path.glob('state-*'): f.write_bytes(b'')
    with pytest.warns(UserWarning, match='state before'):
        with pytest.raises(ValueError, match='no state'):
            fit(small(), spiral(64), folder=tmp_path, resume=True, **quick)


@pytest.mark.parametrize('opt', optimisers)
def test_every_optimiser_goes_on_to_the_bit(opt, tmp_path):
    def fresh():
        torch.manual_seed(0)
        return Denoiser(MLP(width=32, layers=2))  # wide enough for Muon to take its matrices
    straight = fit(fresh(), spiral(64), folder=tmp_path, opt=opt, **quick)
    (tmp_path/'state-00000012.safetensors').unlink()
    assert same(fit(fresh(), spiral(64), folder=tmp_path, opt=opt, resume=True, **quick), straight)


def test_broken_states_do_not_push_out_good_ones(tmp_path):
    fit(small(), spiral(64), folder=tmp_path, **{**quick, 'steps': 6})
    for n in (100, 101, 102): (tmp_path/f'state-{n:08}.safetensors').write_bytes(b'no state')
    with pytest.warns(UserWarning):
        model = fit(small(), spiral(64), folder=tmp_path, resume=True, **quick)
    assert [f.name for f in sorted(tmp_path.glob('state-*'))] == [
        'state-00000009.safetensors', 'state-00000012.safetensors',
        *(f'state-00000{n}.broken' for n in (100, 101, 102))]
    assert len(model.history) == 12


def test_damaged_table_is_kept_and_begun_anew(tmp_path):
    fit(small(), spiral(64), folder=tmp_path, **{**quick, 'steps': 6})
    (tmp_path/'log.csv').write_bytes(b'step,loss\n\xff\xfe,what\n1\n')
    with pytest.warns(UserWarning, match='damaged'):
        model = fit(small(), spiral(64), folder=tmp_path, resume=True, **quick)
    assert (tmp_path/'log.csv.broken').exists()
    assert [r['step'] for r in model.history.rows] == [7, 8, 9, 10, 11, 12]


def test_bad_setting_leaves_the_folder_alone(tmp_path):
    for bad in (dict(kind='l3'), dict(opt='adamant'), dict(clip=0.), dict(every=3),
                dict(valid='x')):
        with pytest.raises(ValueError):
            fit(small(), spiral(64), folder=tmp_path/'run', **{**quick, **bad})
    assert not (tmp_path/'run').exists()
    fit(small(), spiral(64), folder=tmp_path/'run', **quick)


def test_trains_inside_no_grad():
    model = small()
    before = model.net.last.weight.detach().clone()
    with torch.no_grad(): fit(model, spiral(64), **in_memory)
    assert not model.net.last.weight.equal(before)


def test_two_writers_do_not_disturb_each_other(tmp_path):
    from concurrent.futures import ThreadPoolExecutor
    from diffnb.kit.files import load_state, save_state
    def write(i): save_state(tmp_path/'s.safetensors', [torch.full((5000,), float(i))])
    with ThreadPoolExecutor(4) as pool: list(pool.map(write, range(40)))
    t, = load_state(tmp_path/'s.safetensors')
    assert (t == t[0]).all() and [f.name for f in tmp_path.iterdir()] == ['s.safetensors']


def test_killed_before_the_first_state_begins_anew(tmp_path):
    (tmp_path/'log.csv').write_text('step,loss,lr,norm,speed,valid\n1,2.0,0.1,1.0,9.0,\n')
    (tmp_path/'.123.part').write_bytes(b'half a state')
    with pytest.warns(UserWarning, match='begins anew'):
        model = fit(small(), spiral(64), folder=tmp_path, resume=True, **quick)
    assert [r['step'] for r in model.history.rows] == [*range(1, 13)]
    assert not list(tmp_path.glob('.*.part'))


def test_diverged_is_an_error_of_its_own():
    model = small()
    with torch.no_grad(): model.net.last.weight.fill_(float('inf'))
    with pytest.raises(Diverged, match='not finite'): fit(model, spiral(64), **in_memory)


def test_a_table_that_cannot_grow_is_said(tmp_path, monkeypatch):
    def full(*_): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(runs.Table, 'add', full)
    with pytest.raises(ValueError, match='No space left.*resume=True'):
        fit(small(), spiral(64), folder=tmp_path, **quick)


def test_tensorboard_gets_the_same_numbers(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    model = fit(small(), spiral(64), folder=tmp_path, tensorboard=True, valid=.2,
                **{**quick, 'every': dict(save=6, preview=6)})
    said = EventAccumulator(str(tmp_path/'tensorboard')).Reload()
    assert [round(e.value, 4) for e in said.Scalars('loss')] == [
        round(v, 4) for v in model.history.column('loss')]
    assert {'lr', 'norm', 'speed', 'valid'} <= set(said.Tags()['scalars'])
    assert len(said.Images('preview')) == 2


# Batches that come one by one

def remembered(folder=None, **kw):
    "A run from a stream of labelled points"
    from torch.utils.data import TensorDataset
    from diffnb.apps.datasets import stream
    dataset = TensorDataset(spiral(64), torch.arange(64) % 3)
    def begin(start): return stream(dataset, 16, seed=4, start=start)
    return fit(small(3), begin, steps=12, label_dropout=.2, valid=spiral(32),
               every=dict(valid=4, **({'save': 5} if folder else {})),
               folder=folder, progress=False, **kw)


def test_a_stream_goes_on_at_the_right_item(tmp_path):
    straight = remembered()
    remembered(tmp_path)
    (tmp_path/'state-00000012.safetensors').unlink()
    again = remembered(tmp_path, resume=True)
    assert same(again, straight) and again.history.column('loss') == straight.history.column('loss')
    assert len(again.history.column('valid')) == 3


def test_a_plain_iterator_is_drawn_up_to_the_right_batch(tmp_path):
    from diffnb.data import batches
    how = dict(steps=6, progress=False)
    straight = fit(small(), batches(spiral(64), 16), **how)
    fit(small(), batches(spiral(64), 16), folder=tmp_path, every=dict(save=4), **how)
    (tmp_path/'state-00000006.safetensors').unlink()
    again = fit(small(), batches(spiral(64), 16), folder=tmp_path, every=dict(save=4), resume=True,
                **how)
    assert same(again, straight)


@pytest.mark.parametrize('bad, what', [
    (dict(valid=.1), 'stream'), (dict(flip=True), 'stream'), (dict(steps=None, epochs=2), 'steps')])
def test_what_a_stream_cannot_do_is_refused(bad, what):
    from diffnb.data import batches
    with pytest.raises(ValueError, match=what):
        fit(small(), batches(spiral(64), 16), **{**dict(steps=2, progress=False), **bad})


def test_what_lies_on_a_device_is_handed_out_as_from_batches():
    from diffnb.data import batches
    x = torch.randint(0, 256, (20, 1, 4, 4), dtype=torch.uint8)
    y = torch.arange(20)
    ours = runs.resident(x, y, 8, 3, 2, True, torch.device('cpu'), rank=1, world=2)
    for _, (a, b), (c, d) in zip(range(6), ours, batches((x, y), 8, 3, 2, True, rank=1, world=2)):
        assert a.equal(c) and b.equal(d)


# What is promised

def test_the_model_that_went_in_comes_out():
    model = small()
    assert fit(model, spiral(64), **in_memory) is model and not model.training
    other = small()
    raw = fit(other, spiral(64), ema=0., **in_memory)
    assert not same(raw, model)


def test_another_device_or_version_is_said(tmp_path):
    fit(small(), spiral(64), folder=tmp_path, **{**quick, 'steps': 6})
    name = tmp_path/'state-00000006.safetensors'
    state = files.load_state(name)
    assert state['settings']['device'] == 'cpu' and state['settings']['world'] == 1
    assert torch.__version__ in state['settings']['versions']
    state['settings'].update(device='cuda', world=8, versions='torch 1.0')
    files.save_state(name, state)
    with pytest.warns(UserWarning) as w:
        fit(small(), spiral(64), folder=tmp_path, resume=True, **{**quick, 'steps': 6})
    text = ' '.join(str(one.message) for one in w)
    assert all(part in text
               for part in ('device was cuda', 'world was 8', 'versions was torch 1.0'))


def test_the_history_stays_bounded():
    from diffnb.apps.runs import History
    from diffnb.training import Log
    history = History(keep=10, most=100)
    for i in range(1000):
        history.add(Log(i + 1, torch.ones(2), torch.ones(2), 1., torch.tensor(1.), 1.))
    assert len(history) <= 101 and history.rows[-1]['step'] == 1000 and history.rows[0]['step'] == 1
    assert [r['step'] for r in history.rows] == sorted(r['step'] for r in history.rows)
    assert len(history.items()[0]) <= 12


def test_compiled_in_place_has_plain_names(tmp_path, monkeypatch):
    compiles = []
    def compile(f, *args, **kw):
        compiles.append(f)
        return f
    monkeypatch.setattr(torch, 'compile', compile)
    model = fit(small(), spiral(64), folder=tmp_path, compile=True, **quick)
    assert len(compiles) == 1 and same(load(tmp_path), model)
    assert same(model, fit(small(), spiral(64), **in_memory))


class Skipping(torch.optim.SGD):
    "An optimiser that passes by a step that is not finite, as a fused one on a GPU does"
    _step_supports_amp_scaling = True
    def step(self):
        bad = self.__dict__.pop('found_inf')
        if not bad: super().step()


def steps_with_a_bad_one(bad, n, every):
    from diffnb import training
    from diffnb.kit import steps
    from diffnb.data import batches
    model, seen = small(), []
    def poisoned():
        for i, (x0, y) in enumerate(batches(spiral(64), 16)):
            if i == bad: x0[5, 0] = float('inf')
            yield x0, y
    opt = Skipping(model.parameters(), .1)
    before = steps.reads_every
    steps.reads_every = lambda *_: every
    try:
        for log in training.train(model, poisoned(), n, opt=opt):
            seen.append([p.detach().clone() for p in model.parameters()])
    finally: steps.reads_every = before
    return seen


def test_a_bad_step_is_skipped_and_named_at_the_next_read():
    with pytest.raises(Diverged, match=r'step 3, batch 3.*items \[5\]'):
        steps_with_a_bad_one(3, 30, 10)
    # The last step always looks
    with pytest.raises(Diverged, match='step 8'): steps_with_a_bad_one(8, 9, 10)
    assert len(steps_with_a_bad_one(99, 30, 10)) == 30


def test_modes_are_switched_at_once_and_as_the_network_wants():
    from diffnb.training import mode_switch
    class Frozen(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.drop = torch.nn.BatchNorm1d(2), torch.nn.Dropout()
        def train(self, mode=True):
            super().train(mode)
            self.norm.eval()
            return self
    net = Frozen()
    switch = mode_switch(net)
    switch(True)
    assert net.training and net.drop.training and not net.norm.training
    switch(False)
    assert not net.training and not net.drop.training


def test_muon_leaves_the_gradients_that_it_was_given():
    net = torch.nn.Linear(16, 32)
    net(torch.ones(4, 16)).square().sum().backward()
    before = [(p.clone(), p.grad.clone()) for p in net.parameters()]
    Muon(net.parameters()).step()
    for p, (was, grad) in zip(net.parameters(), before):
        assert p.grad.equal(grad) and not p.equal(was)


def test_one_reader_of_the_table_sees_whole_lines(tmp_path):
    from diffnb.apps.runs import Table, kept_rows
    fname = tmp_path/'log.csv'
    table = Table(fname)
    for i in range(50):
        table.add(dict(step=i + 1, loss=1/3, lr=.1, norm=2/3, speed=1e5/7))
        lines = fname.read_bytes().split(b'\r\n')
        assert lines[-1] == b'' and len(lines) == i + 3
    table.close()
    fname.open('ab').write(b'51,0.3')  # a torn line
    rows = kept_rows(fname, 50)
    Table(fname, rows).close()
    assert len(rows) == 50 and fname.read_bytes().count(b'\r\n') == 51
    assert not list(tmp_path.glob('.*.part'))
