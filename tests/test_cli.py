"The commands as programs: killed, interrupted, launched in pairs, given files that bite"
import json
import os
import pickle
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tables import run_table

from diffnb.apps.checkpoints import load
from diffnb.apps.cli import main

env = {**os.environ, 'OMP_NUM_THREADS': '1'}
points = ('--data spiral --n 400 --bs 16 --net-args width=8 layers=2 --no-tensorboard '
          '--no-progress').split()

# A parent that has imported everything forks each life of the run, and ends it in one of three
# ways: at a random moment after a random step; while a file is being written; just after a file has
# got its name
lives = '''
import os, random, signal, sys, time
import torch
from PIL import Image
torch.set_num_threads(1)
from diffnb.kit import files
from diffnb.apps.cli import main
folder, words, rng = sys.argv[1], sys.argv[2:], random.Random(0)

def rows():
    try: return open(folder + '/log.csv').read().count(chr(10))
    except OSError: return 0

def die(): os.kill(os.getpid(), signal.SIGKILL)

def bomb(name, when, before):
    real, calls = getattr(os, name), []
    def f(*args):
        calls.append(args)
        if len(calls) < when: return real(*args)
        if not before: real(*args)
        die()
    setattr(files.os, name, f)

for kill in range(21):
    start, pid = rows(), os.fork()
    if not pid:
        if kill % 3 == 1 and kill < 20: bomb('fsync', rng.randint(1, 9), True)
        if kill % 3 == 2 and kill < 20: bomb('replace', rng.randint(2, 9), False)
        os._exit(main(words))
    if kill < 20 and kill % 3 == 0:
        after = start + rng.randint(2, 12)
        while rows() < after and os.waitpid(pid, os.WNOHANG) == (0, 0): time.sleep(.001)
        time.sleep(rng.uniform(0, .02))
        os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    print(kill, 'killed' if os.WIFSIGNALED(status) else os.WEXITSTATUS(status), rows(), flush=True)
'''


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs os.fork, which Windows has not')
def test_twenty_kills(tmp_path):
    """At random moments, and in the middle of saving: the run ends at the same weights, to the bit,
    as one that nobody touched"""
    run = ['train', *points, '--steps', '240', '--every-save', '4', '--label-dropout', '.2',
           '--valid', '.1']
    assert main([*run, '--out', str(tmp_path/'whole')]) == 0
    words = [*run, '--out', str(tmp_path/'killed'), '--resume']
    p = subprocess.run([sys.executable, '-W', 'ignore', '-c', lives, str(tmp_path/'killed'),
                        *words], capture_output=True, text=True, env=env, timeout=600)
    said = [line.split() for line in p.stdout.splitlines() if line]
    assert [s[1] for s in said] == ['killed']*20 + ['0'], (said, p.stderr[-2000:])
    a, b = (load(tmp_path/k).state_dict() for k in ('whole', 'killed'))
    assert a.keys() == b.keys() and all(a[k].equal(b[k]) for k in a)
    whole, killed = run_table(tmp_path/'whole'), run_table(tmp_path/'killed')
    assert whole == killed and len(whole) == 241
    assert not list((tmp_path/'killed').rglob('.*'))


@pytest.mark.skipif(os.name == 'nt', reason='Windows sends a process no such signal')
@pytest.mark.parametrize('sig, code', [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_polite_signal_saves_and_says_so(tmp_path, sig, code):
    p = subprocess.Popen([sys.executable, '-m', 'diffnb.apps.cli', 'train', *points, '--steps',
                          '100000', '--out', str(tmp_path)], env=env, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE)
    while not ((tmp_path/'log.csv').exists() and (tmp_path/'log.csv').read_text().count('\n') > 20):
        assert p.poll() is None
        time.sleep(.02)
    p.send_signal(sig)
    p.communicate(timeout=60)
    assert p.returncode == code and load(tmp_path).notes['steps'] >= 20
    assert list(tmp_path.glob('state-*'))


class Trap:
    "A pickle that writes a file when it is opened"
    def __init__(self, fname): self.fname = fname
    def __reduce__(self): return open, (self.fname, 'w')


@pytest.mark.parametrize('suffix', ['pt', 'safetensors', 'npy', 'npz'])
def test_a_malicious_file_is_not_opened(tmp_path, capsys, suffix):
    trap, sprung = tmp_path/f'model.{suffix}', tmp_path/'sprung'
    pickle.loads(pickle.dumps(Trap(str(sprung)))).close()
    sprung.unlink()                                                     # so the trap does spring
    if suffix == 'pt': torch.save(Trap(str(sprung)), trap)
    else: trap.write_bytes(pickle.dumps(Trap(str(sprung))))
    for words in (['sample', trap], ['fld', trap], ['train', '--init', trap],
                  ['train', '--data', trap],
                  ['sample', 'mnist', '--mode', 'reconstruct', '--input', trap],
                  ['train', '--config', trap]):
        out = [] if words[0] == 'fld' else ['--out', str(tmp_path/'out')]
        assert main([*map(str, words), *out]) == 2, words
        assert 'error: ' in capsys.readouterr().err
    assert not sprung.exists() and not (tmp_path/'out').exists()


def test_damaged_state_in_a_run_folder(tmp_path, capsys):
    run = ['train', *points, '--steps', '12', '--every-save', '3', '--out', str(tmp_path)]
    assert main(run) == 0
    states = sorted(tmp_path.glob('state-*'))
    states[-1].write_bytes(states[-1].read_bytes()[:200])
    assert main([*run, '--resume']) == 0
    assert 'going back to the state before' in capsys.readouterr().err
    for f in tmp_path.glob('state-*'): f.write_bytes(pickle.dumps(Trap(str(tmp_path/'sprung'))))
    assert main([*run, '--resume']) == 2 and not (tmp_path/'sprung').exists()


pair = '''
import sys, time, torch
from accelerate import PartialState
from accelerate.utils import gather
from diffnb.apps import cli
from diffnb.apps.cli import Sample, Train
folder, folder_for = sys.argv[1], cli.folder_for
def late(*args):                     # the second process looks when the first could have written
    found = folder_for(*args)
    time.sleep(2*PartialState().process_index)
    return found
cli.folder_for = late
small = dict(steps=20, bs=32, net_args=dict(width=8, mults=[1, 2]), accumulate=2,
             tensorboard=False, progress=False)
model = Train(out=f'{folder}/run', **small).run()
flat = torch.cat([p.detach().flatten() for p in model.net.parameters()])
every = gather(flat[None])
assert len(every) == 2, 'there is one process only'
assert every[0].equal(every[1]), 'the weights of the two processes differ'
Sample(model=f'{folder}/run', n=7, bs=2, calls=3, out=f'{folder}/samples',
       save=['png', 'npz', 'grid'], progress=False).run()
PartialState().destroy_process_group()
'''


def test_two_processes_train_and_sample_as_one(tmp_path):
    (tmp_path/'pair.py').write_text(pair)
    launch = [sys.executable, '-m', 'accelerate.commands.launch', '--multi_gpu', '--num_processes',
              '2', '--main_process_port', '0', str(tmp_path/'pair.py'), str(tmp_path/'two')]
    p = subprocess.run(launch, capture_output=True, text=True,
                       env={**env, 'ACCELERATE_USE_CPU': 'true'}, timeout=600)
    assert p.returncode == 0, p.stderr[-3000:]
    words = ['--no-progress', '--out']
    assert main(['train', '--steps', '20', '--bs', '32', '--net-args', 'width=8', 'mults=[1,2]',
                 '--no-tensorboard', *words, str(tmp_path/'one'/'run')]) == 0
    losses = [[float(row[1]) for row in run_table(tmp_path/k/'run')[1:]] for k in ('one', 'two')]
    assert len(losses[1]) == 20  # one table, written once
    # bf16 where the device knows it
    torch.testing.assert_close(*map(torch.tensor, losses), rtol=2e-3, atol=2e-3)
    assert len(list((tmp_path/'two'/'run').glob('state-*'))) == 2
    assert sorted(p.name for p in (tmp_path/'two').iterdir()) == ['run', 'samples']
    assert main(['sample', str(tmp_path/'two'/'run'), '--n', '7', '--calls', '3', '--save', 'npz',
                 *words, str(tmp_path/'alone')]) == 0
    a, b = (np.load(tmp_path/k/'samples.npz') for k in ('two/samples', 'alone'))
    assert np.abs(a['x'].astype(int) - b['x']).max() <= 1 and (a['y'] == b['y']).all()
    assert len(list((tmp_path/'two'/'samples'/'images').rglob('*.png'))) == 7


def test_the_installed_program():
    program = Path(sys.executable).parent/'diffnb'
    assert program.exists(), 'diffnb is not installed: pip install -e . again'
    for name in ('train', 'sample', 'fld', 'diagnose'):
        p = subprocess.run([program, name, '--help'], capture_output=True, text=True, env=env)
        assert p.returncode == 0 and f'usage: diffnb {name}' in p.stdout


def test_help_does_not_wait_for_torch():
    code = ("import sys; from diffnb.apps.cli import main; assert main(['train', '--help']) == 0 "
            "and 'torch' not in sys.modules")
    p = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=env)
    assert p.returncode == 0, p.stderr


def test_a_terminal_without_special_signs(tmp_path):
    """Everything was measured: the numbers must not be lost over a sign that the terminal does not
    have"""
    words = ['fld', 'digits', '--reference', 'digits', '--json-out', str(tmp_path/'fld.json'),
             '--no-progress']
    p = subprocess.run([sys.executable, '-m', 'diffnb.apps.cli', *words], capture_output=True,
                       env={**env, 'PYTHONIOENCODING': 'ascii', 'PYTHONUTF8': '0'})
    assert p.returncode == 0 and b'FLD' in p.stdout, p.stderr
    assert json.loads((tmp_path/'fld.json').read_text())['n'] == 797


@pytest.mark.parametrize('line, said', [
    ('train --resume', 'say which run goes on: --out FOLDER'),
    ('train --valid 0 --patience 3', 'patience: it has no effect without validation'),
    ('train --valid 0 --every-valid 3', 'every_valid: it has no effect without validation'),
    ('train --no-labels --label-dropout .2', 'label_dropout: it has no effect without labels'),
    ('train --sample-schedule-args sigma=[.1,80]',
     'sample_schedule_args: it has no effect without --sample-schedule'),
    ('train --init mnist --target eps', 'target: it has no effect with --init'),
    ('sample mnist --refine 2', 'refine: it has no effect in mode sample'),
    ('sample mnist --strip 3', 'strip: it has no effect in mode sample'),
    ('fld digits --reference digits --calls 3',
     'calls: it has no effect on images that are there')])
def test_settings_without_effect_are_refused(line, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(line.split()) == 2 and said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('value', ['yes', 1, None])
def test_a_flag_in_a_file_is_true_or_false(value, tmp_path, capsys):
    (tmp_path/'config.json').write_text(json.dumps({'flip': value}))
    words = ['train', '--config', str(tmp_path/'config.json'), '--out', str(tmp_path/'run')]
    assert main(words) == 2 and f'flip: {value!r}: give true or false' in capsys.readouterr().err


def test_the_stored_order_needs_no_more_memory_than_a_small_one():
    stored = Path(__file__).resolve().parent.parent/'results'/'cli.json'
    rows = json.loads(stored.read_text())['rows']
    assert [r['n'] for r in rows] == [1000, 10_000] and rows[1]['peak_mb'] < rows[0]['peak_mb'] + 50


def test_an_order_that_is_refused_does_not_cost_what_was_there(tmp_path, capsys):
    run = ['train', *points, '--steps', '6', '--out', str(tmp_path/'run')]
    assert main(run) == 0
    (tmp_path/'run'/'notes.txt').write_text('mine')
    before = {f: f.read_bytes() for f in (tmp_path/'run').rglob('*') if f.is_file()}
    assert main([*run, '--overwrite', '--bs', '5000']) == 2 and 'bs=5000' in capsys.readouterr().err
    assert {f: f.read_bytes() for f in (tmp_path/'run').rglob('*') if f.is_file()} == before
    assert main([*run, '--overwrite', '--seed', '1']) == 0 and (tmp_path/'run'/'notes.txt').exists()
    assert not list((tmp_path/'run').glob('.*'))
    order = ['sample', 'mnist', '--n', '2', '--calls', '2', '--out', str(tmp_path/'some')]
    assert main(order) == 0
    before = {f: f.read_bytes() for f in (tmp_path/'some').rglob('*') if f.is_file()}
    assert main([*order, '--overwrite', '--var', 'small']) == 2
    assert {f: f.read_bytes() for f in (tmp_path/'some').rglob('*') if f.is_file()} == before
    assert main([*order, '--overwrite', '--n', '3']) == 0
    assert len(list((tmp_path/'some').rglob('images/*.png'))) == 3
    assert not list((tmp_path/'some').glob('.*'))


def test_named_classes_raw_weights_and_heun_as_others_have_it(tmp_path, capsys):
    for i in range(24):
        home = tmp_path/'pets'/('cat', 'dog')[i % 2]
        home.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), [10*i, 0, 99], np.uint8)).save(home/f'{i}.png')
    quiet = ['--no-progress']
    run = ['train', '--data', str(tmp_path/'pets'), '--out', str(tmp_path/'run')]
    assert main([*run, '--steps', '4', '--bs', '4', '--net-args', 'width=8', 'mults=[1]', '--clip',
                 'none', '--every-save', '1 epoch', '--no-tensorboard', *quiet]) == 0
    assert json.loads((tmp_path/'run'/'config.json').read_text())['clip'] is None
    assert load(tmp_path/'run').names == ['cat', 'dog']
    made = {}
    ways = dict(named='--labels dog', number='--labels 1', raw='--labels 1 --weights raw',
                average='--labels 1 --average eps', half='--labels 1 --precision bf16')
    for name, more in ways.items():
        words = ['sample', str(tmp_path/'run'), '--n', '2', '--calls', '4', '--sampler', 'heun',
                 '--save', 'npz', '--out', str(tmp_path/name), *more.split(), *quiet]
        assert main(words) == 0
        made[name] = np.load(tmp_path/name/'samples.npz')['x'].astype(int)
    assert (made['named'] == made['number']).all() and made['number'].shape == (2, 8, 8, 3)
    assert all((made['number'] != made[k]).any() for k in ('raw', 'average'))
    capsys.readouterr()
    # Too few: said after the warning
    assert main(['fld', str(tmp_path/'pets'), '--reference', 'digits', *quiet]) == 2
    assert 'a reader of grey digits' in capsys.readouterr().err


def test_families_are_layers_below_files_and_flags(tmp_path):
    from diffnb.apps.cli import Train
    from diffnb.apps.settings import family_files
    assert len(list(family_files.glob('*.json'))) == 9
    Path(tmp_path/'mine.json').write_text('{"lr": 0.5, "seed": 3}')
    made = Train.read(tmp_path/'mine.json', 'ddpm-cifar10', seed=4)
    assert (made.lr, made.seed, made.opt, made.steps) == (.5, 4, 'adam', 800_000)
    assert Train.read(family='julia-mnist', steps=7).epochs is None


@pytest.mark.parametrize('name, parameters', [
    ('julia-mnist', 602_705), ('julia-mnist-labels', 622_865), ('lux-flowers', 1_950_627),
    ('ddpm-mnist', 8_949_761), ('ddpm-cifar10', 35_746_307), ('cfg-cifar10', 44_178_947),
    ('ddpm-celeba', 113_673_219), ('r-flowers', 3_562_211), ('sprites', None)])
def test_a_family_describes_the_network_of_its_original(name, parameters):
    from diffnb.apps.checkpoints import build
    from diffnb.apps.cli import Train, check_train, network
    from diffnb.data import Images
    o = Train.read(family=name)
    o.family = None
    check_train(o)
    channels, classes = 1 if 'mnist' in name else 3, 5 if name == 'sprites' else 10
    data = Images(torch.zeros(20, channels, 16, 16, dtype=torch.uint8),
                  torch.arange(20) % classes if o.labels else None)
    with torch.device('meta'): net = build(network(o, data))
    count = sum(p.numel() for p in net.parameters())
    assert count == parameters or parameters is None and net.cfg['classes'] == 5


def test_a_run_of_ddpms_family_resumes_and_goes_to_diffusers(tmp_path):
    "A tiny version of the family, with its own kind of network, schedule and target"
    from diffnb.apps.cli import Train
    from diffnb.apps.exchange import differences, from_diffusers, to_diffusers
    from diffnb.apps.families import DDPMUNet
    from diffnb.samplers import ddim, last
    from diffnb.schedules import linear_beta, path
    np.save(tmp_path/'pics.npy', np.random.default_rng(0).integers(0, 256, (12, 8, 8), np.uint8))
    tiny = dict(size=8, net_args=dict(width=8, groups=4, mults=[1, 2], blocks=1, attention=[1]),
                data=str(tmp_path/'pics.npy'), bs=4, progress=False, tensorboard=False)
    Train.read(family='ddpm-mnist', out=str(tmp_path/'run'), steps=2, **tiny).run()
    saved = json.loads((tmp_path/'run'/'config.json').read_text())
    assert saved['net'] == 'DDPMUNet' and saved['schedule'] == 'linear_beta'
    assert saved['net_args'] == tiny['net_args']
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert main(['train', '--resume', '--out', str(tmp_path/'run'), '--steps', '3',
                     '--no-progress', '--no-tensorboard']) == 0
    model = load(tmp_path/'run')
    assert type(model.net) is DDPMUNet
    assert model.net.embed.angle.schedule == model.schedule == linear_beta(T=200)
    assert model.target == 'eps'
    assert differences(model) == []
    back = from_diffusers(to_diffusers(model, tmp_path/'theirs'))
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    stops = path(model.schedule, 4)
    ours, theirs = (last(ddim(m, x, stops)).x for m in (model, back))
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)


def test_a_network_that_counts_steps_needs_a_schedule_made_of_them(tmp_path, capsys):
    run = f'train --data digits --net DDPMUNet --out {tmp_path/"run"} --steps 1'.split()
    assert main([*run, '--net-args', 'width=8', 'groups=4']) == 2
    says = 'counts the steps of its schedule, and cosine has none: add --schedule linear_beta'
    assert f'DDPMUNet {says}' in capsys.readouterr().err
    assert main([*run, '--schedule', 'linear_beta', '--net-args', 'widht=8']) == 2
    said = capsys.readouterr().err
    assert "DDPMUNet has no 'widht'" in said and 'mults' in said and 'border' in said
    assert 'more' not in said
