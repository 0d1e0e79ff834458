"Every fault that `diagnose` knows is produced and named, and a healthy model gets no finding"
import copy
import json
import math
import re
from pathlib import Path

import pytest
import torch

import tables
from diffnb.apps.cli import main
from diffnb.apps.datasets import load_data
from diffnb.apps.diagnosis import Diagnosis, checks, diagnose
from diffnb.apps.families import ResidualUNet, WithImage
from diffnb.apps.runs import fit
from diffnb.data import spiral
from diffnb.denoiser import Denoiser
from diffnb.kit.pictures import to_float
from diffnb.schedules import cosine, section
from diffnb.training import EMA
from diffnb.unet import MLP, UNet

root = Path(__file__).resolve().parent.parent
data, held = load_data('digits', size=8), load_data('digits', 'test', size=8)
seen = dict(bs=64, clip=1., label_dropout=.1)


def network(width=16, **more):
    torch.manual_seed(0)
    return UNet(1, width=width, mults=(1, 2), **more)


def trained(net, items, steps, bs=64, lr=8e-3, **how):
    how = dict(opt='muon', progress=False, **how)
    return fit(Denoiser(net), items, steps=steps, bs=bs, lr=lr, **how)


@pytest.fixture(scope='module')
def healthy(): return trained(network(classes=10), data, 300, valid=held, label_dropout=.1)


def look(model, items=data, **how): return diagnose(model, items, **{'valid': held, **seen, **how})


def test_a_healthy_model_gets_no_finding(healthy):
    said = look(healthy, raw=healthy)
    assert said.names == [] and said.notes == [] and str(said).startswith('No findings (21 checks')


def test_no_network_is_better_than_the_oracle(healthy):
    measured = look(healthy).evidence
    assert (measured.loss.mean(0) > measured.oracle.mean(0)).all()
    y = data.y[:60].clamp(min=2)*2 % 10 - 1                                 # gaps, and -1
    odd = look(healthy, (data.x[:60], y)).evidence
    assert (odd.loss.mean(0) > odd.oracle.mean(0)).all()


def test_its_average_is_looked_at_like_a_model(healthy):
    average = EMA(healthy)
    average.update_parameters(healthy)
    assert look(average, raw=healthy).names == []


def test_nothing_is_changed_by_looking():
    model = Denoiser(ResidualUNet(1, widths=(8, 16), depth=1, zero=False)).train()
    before, dice = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    look(model, data.x, bs=2, label_dropout=None)
    assert all(t.equal(before[k]) for k, t in model.state_dict().items())
    assert all(m.training for m in model.modules()) and torch.get_rng_state().equal(dice)


def with_nan(x):
    x = to_float(x)
    x[7, 0, 0, 0] = math.nan
    return x


def broken_weights(model):
    model = copy.deepcopy(model)
    next(iter(model.net.parameters())).data[0] = math.nan
    return model


def with_rows(model, change):
    "The model with other vectors for its labels"
    model = copy.deepcopy(model)
    change(model.net.embed.label.rows.weight.data)
    return model


def too_loud(model):
    model = copy.deepcopy(model)
    model.net.last[-1].weight.data *= 1e30
    return model


def same_for_all(rows): rows[:] = rows[0].clone()
def all_but_none_are_strange(rows): rows[1:] = 10*torch.randn_like(rows[1:])
def none_is_strange(rows): rows[0] = 10*torch.randn_like(rows[0])


def on(model, *degrees, **how):
    "The same network, with the angles of another training"
    low, high = map(math.radians, degrees)
    return Denoiser(model.net, schedule=section(schedule=cosine, angles=(low, high)), **how)


def rows(loss, norm=.5, **more):
    return [dict(step=i + 1, loss=y, norm=norm, **more) for i, y in enumerate(loss)]


def risen(model): return [dict(r, valid=.2 + abs(i - 100)/1000) for i, r in
                          enumerate(model.history.rows)]


falling = [1/(1 + i/10) for i in range(200)]
faults = {
    'data not finite': [lambda m: look(m, (with_nan(data.x), data.y))],
    'data outside [-1, 1]': [lambda m: look(m, (3*to_float(data.x), data.y)),
                             lambda m: look(m, (data.x.float(), data.y))],
    'data half inside [-1, 1]': [lambda m: look(m, (to_float(data.x)/2 + .5, data.y))],
    'data not standardised': [lambda m: look(m, (to_float(data.x)/20, data.y))],
    'labels out of range': [lambda m: look(m, (data.x, data.y + 1))],
    'diverged': [lambda m: look(broken_weights(m)),
                 lambda m: look(m, history=rows([*falling, *[1.]*50])),
                 lambda m: look(m, history=rows([*falling[:20], 9., 1e3, math.inf]))],
    'schedule short of noise': [lambda m: look(on(m, 0, 70))],
    'sampling outside the trained angles': [
        lambda m: look(on(m, 0, 70, sample_schedule=cosine)),
        lambda m: look(on(m, 20, 88.8, sample_schedule=cosine))],
    'samples not finite': [lambda m: look(too_loud(m))],
    'train mode left on': [
        lambda m: look(Denoiser(network(classes=10, dropout=.3, zero=False)).train())],
    'batch norm with tiny batches': [lambda m: look(
        Denoiser(ResidualUNet(1, widths=(8, 16), depth=1, zero=False)), data.x, bs=2)],
    'untrained': [lambda m: look(Denoiser(network(classes=10)))],
    'gradients clipped all the time': [lambda m: look(m, clip=.001)],
    'labels never heard': [lambda m: look(with_rows(m, same_for_all)),
                           lambda m: look(with_rows(m, all_but_none_are_strange)),
                           lambda m: look(m, (data.x, data.y.clamp(min=1)))],
    'labels never dropped': [lambda m: look(with_rows(m, none_is_strange)),
                             lambda m: look(m, label_dropout=0.)],
    'overtrained': [lambda m: look(m, history=risen(m))],
    'guidance saturates': [lambda m: look(m, w=15.)],
    'too few calls': [lambda m: look(m, calls=2)],
}


@pytest.mark.parametrize('name, i', [(name, i) for name, those in faults.items()
                                     for i in range(len(those))])
def test_a_fault_is_named(healthy, name, i):
    said = faults[name][i](healthy)
    assert name in said.names, said
    assert said.names == [f.name for check in checks if (f := check(said.evidence))]    # by weight
    for finding in said.findings:
        assert (root/'nbs'/f'{finding.lesson}.ipynb').exists()
        assert finding.remedy[0].isupper() and finding.remedy.endswith('.')
        assert any(c.isdigit() for c in finding.found)


@pytest.mark.parametrize('lines, seen, said', [
    (4, False, ['4 steps in the log', 'a divergence is not seen']),
    (5, True, ['only 5 steps in the log', 'above twice its start']),
    (39, True, ['only 39 steps in the log', 'above twice its start']), (40, True, [])])
def test_the_note_on_the_log_says_what_diverged_can_see(healthy, lines, seen, said):
    "A rise above the start from five lines on; a rise above the best from forty"
    high = look(healthy, history=rows([*[1.]*(lines - 2), 5., 9.]))
    assert ('diverged' in high.names) == seen
    notes = [note for note in high.notes if 'steps in the log' in note]
    assert len(notes) == bool(said) and all(part in notes[0] for part in said)
    if lines < 30: return
    little = look(healthy, history=rows([*[1.]*3, *[.1]*(lines - 13), *[.5]*10]))
    assert ('diverged' in little.names) == (lines >= 40)


def test_the_page_links_each_finding_to_its_lesson(healthy):
    shown = tables.rows('apps/diagnosis.ipynb')
    for name, those in faults.items():
        found = next(f for f in those[0](healthy).findings if f.name == name)
        page = f'../{found.lesson}.ipynb'.replace('../apps/', '')
        assert any(f'[*{name}*]({page})' in cell for row in shown for cell in row), name


def test_averages_without_a_warm_up_are_cold(healthy):
    start, average = network(classes=10), copy.deepcopy(healthy)      # 300 steps of .9999
    for mean, first in zip(average.net.parameters(), start.parameters()):
        mean.data = .97*first.data + .03*mean.data
    assert look(average, raw=healthy).names == ['averaged weights cold']
    said = look(average, raw=healthy.net.state_dict())       # a state of the network will do too
    assert said.names == ['averaged weights cold']
    said = look(average)                                     # without the others, no more is known
    assert said.names == ['untrained'] and any('last step' in note for note in said.notes)


def test_a_hundred_steps_are_not_enough():
    model = trained(network(), data.x, 100)
    assert look(model, data.x, label_dropout=None).names in (['undertrained'], ['untrained'])


def test_samples_far_from_the_data_are_a_question(healthy):
    e = copy.copy(look(healthy).evidence)
    e.near = 2*e.near
    said = Diagnosis(e)
    assert said.names == ['undertrained'] and said.findings[0].question
    assert str(said).startswith('1 question (21 checks')
    assert '1. undertrained (a question)\n' in str(said)
    assert '<b>undertrained (a question)</b>' in said._repr_html_()
    e.clip = .001
    assert str(Diagnosis(e)).startswith('1 finding and 1 question, in order of weight (21')


def test_what_is_said_of_healthy_runs_was_measured(healthy):
    "Those of the sprites go beyond the limit of the digits, up to 1.8: hence a question"
    stored = json.loads((root/'results'/'diagnosis.json').read_text(encoding='utf-8'))
    rows = stored['healthy: sprites, seed 1'].values()
    far = [float(re.search(r'samples are ([0-9.]+) times', row['found'][0])[1]) for row in rows]
    e = copy.copy(look(healthy).evidence)
    e.near = 2*e.near
    assert min(far) > 1.5 and f'healthy runs have reached {max(far):.1f}' in str(Diagnosis(e))
    digits = stored['healthy: digits, seed 1']['digits, eps, linear betas']['found'][0]
    most = re.search(r'samples are ([0-9.]+) times', digits)[1]
    assert f'(of digits: {most})' in str(Diagnosis(e))
    page = (root/'nbs'/'apps'/'diagnosis.ipynb').read_text(encoding='utf-8')
    assert f'({min(far)} to {max(far)})' in page


def test_eight_images_are_learnt_by_heart():
    model = trained(network(), data.x[:8], 300, bs=8)
    said = look(model, data.x[:8], bs=8, valid=held.x)
    assert 'memorised' in said.names
    assert any('only 8 items' in note for note in said.notes)
    few = diagnose(model, data.x[:20], held.x, bs=8)
    assert 'overtrained' in few.names and 'overtrained' not in said.names   # 8 are too few to say


def test_without_evidence_there_are_notes_and_no_findings(healthy):
    model = copy.deepcopy(healthy)
    del model.history
    said = diagnose(model, data.x)
    assert said.names == []
    for part in ('held-out', 'log', 'last step', 'no labels'):
        assert any(part in note for note in said.notes), part
    few = look(Denoiser(network(classes=10)), (data.x[:9], data.y[:9]))
    assert 'untrained' not in few.names and any('only 9 items' in note for note in few.notes)


def test_the_network_of_unlabelled_data_is_told_of_labels_it_does_not_use():
    model = Denoiser(network(8))
    assert 'the data have labels' in ' '.join(look(model).notes)


def test_what_cannot_be_looked_at_is_refused(healthy, tmp_path):
    for wrong, says in (((data.x[:, :, :4], data.y), 'the model is for'), (data.x[:0], 'items')):
        with pytest.raises(ValueError, match=says): look(healthy, wrong)
    with pytest.raises(ValueError, match='no Denoiser'): diagnose(healthy.net, data)
    with pytest.raises(ValueError, match='labels only'):
        look(Denoiser(WithImage(network(8, extra=1))), data.x)
    with pytest.raises(ValueError, match='no folder'): look(healthy, run=tmp_path/'none')
    with pytest.raises(ValueError, match='guidance needs a label'):
        look(Denoiser(network(8)), data.x, w=3.)


@pytest.mark.parametrize('net, items', [
    (MLP(2, width=16), spiral(300)),
    (UNet(3, width=8, mults=(1, 2)), torch.rand(40, 3, 8, 8)*2 - 1),
    (UNet(4, width=8, mults=(1, 2)), 5*torch.randn(40, 4, 8, 8))])
def test_points_colours_and_latents_are_drawn(net, items, tmp_path):
    said = diagnose(Denoiser(net), items, raw=net.state_dict(), n=20)
    said.figure().savefig(tmp_path/'page.png')
    assert (tmp_path/'page.png').stat().st_size > 10_000


def test_a_diagnosis_prints_itself(healthy):
    said = look(healthy, calls=2)
    text, html = str(said), said._repr_html_()
    finding = said.findings[-1]
    for part in (finding.name, finding.found, finding.remedy, f'nbs/{finding.lesson}.ipynb'):
        assert part in text
    assert '<b>too few calls</b>' in html and 'data:image/png;base64,' in html
    assert len(html) < 150_000


def said_of(capsys, words, code=0):
    assert main(words.split()) == code
    return ' '.join(capsys.readouterr())


def test_the_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('COLUMNS', '200')
    said_of(capsys, 'train --size 8 --steps 20 --bs 32 --net-args width=8 mults=[1,2] '
            '--every-save 10 --no-tensorboard --no-progress --out run')
    text = said_of(capsys, 'diagnose run --picture page.png')
    assert '. untrained\n' in text and 'torch' in text and Path('page.png').exists()
    for known in ('held-out', 'last step', 'clip is not'): assert known not in text
    Path('run/model.safetensors').unlink()                              # it is still going on
    assert '. untrained\n' in said_of(capsys, 'diagnose run')
    Path('run/config.json').unlink()                                    # it was started by fit
    assert 'give --data' in said_of(capsys, 'diagnose run', 2)
    assert '. untrained\n' in said_of(capsys, 'diagnose run --data digits --valid digits')


@pytest.mark.parametrize('words, says', [
    ('none', 'none is not there'), ('.', 'without a model or a checkpoint'), ('mnist', '--data'),
    ('mnist --data none', 'none'), ('mnist --data digits --valid none', 'none'),
    ('--calls 3', 'calls'),
    ('mnist --data digits --calls 0', 'calls'), ('mnist --data digits --w -1', 'w:'),
    ('mnist --data digits --w 2', 'guidance'), ('mnist --data digits --n 0', 'n:'),
    ('mnist --data digits --seed -1', 'seed'), ('mnist --data digits --picture page', '.png'),
    ('mnist --data digits --device gpu', 'device'),
    ('mnist --data mnist --root . --no-download', 'mnist')])
def test_the_terminal_refuses_in_one_line(words, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(['diagnose', *words.split()]) == 2
    lines = [s for s in capsys.readouterr().err.splitlines() if not s.startswith('warning: ')]
    assert len(lines) == 1 and says in lines[0], lines


def test_where_it_runs(capsys):
    text = said_of(capsys, 'diagnose')
    assert f'torch {torch.__version__}' in text and 'diffnb ' in text and 'cores' in text


def test_healthy_runs_are_counted_apart_from_shipped_networks():
    stored = json.loads((root/'results'/'diagnosis.json').read_text(encoding='utf-8'))
    new = [row for title, rows in stored.items() if title.startswith('healthy:')
           for name, row in rows.items() if name not in ('mnist', 'mnist-labels')]
    asked = [row for row in new if row['false_alarms']]
    assert all(row['false_alarms'] == ['undertrained'] for row in asked)
    text = ' '.join(map(tables.source, tables.cells('apps/diagnosis.ipynb')))
    number = {4: 'four'}[len(asked)]
    assert f'of the {len(new)} healthy runs of new networks none had' in text
    assert f'*undertrained*, which {number} had' in text


def test_the_notebook_shows_the_table_that_is_stored():
    stored = json.loads((root/'results'/'diagnosis.json').read_text(encoding='utf-8'))
    broken, healthy_rows = stored['broken'], stored['healthy']
    assert len(broken) >= 12 and len(healthy_rows) >= 3
    assert {row['wanted'] for row in broken.values()} | {'samples not finite'} >= set(faults)
    shown = tables.rows('apps/diagnosis.ipynb')
    for name, row in {**broken, **healthy_rows}.items():
        assert tables.shows(shown, name, ', '.join(row['named']) or 'nothing'), name


def test_the_notebook_shows_the_runs_that_the_limits_were_not_set_on():
    stored = json.loads((root/'results'/'diagnosis.json').read_text(encoding='utf-8'))
    again = {title: rows for title, rows in stored.items() if ':' in title}
    assert len(again) >= 2
    shown = tables.rows('apps/diagnosis.ipynb')
    for title, rows in again.items():
        missed, alarms = (sum(bool(row[k]) for row in rows.values())
                          for k in ('missed', 'false_alarms'))
        asked = sum(row['false_alarms'] == ['undertrained'] for row in rows.values())
        new = sum(name not in ('mnist', 'mnist-labels') for name in rows)
        assert [title, *map(str, (len(rows), new, missed, alarms, asked))] in shown, title
        for name, row in rows.items():
            if row['missed'] or row['false_alarms']:
                run = f'{title}: {name.removeprefix("digits, ")}'
                assert tables.shows(shown, run, ', '.join(row['false_alarms']))
