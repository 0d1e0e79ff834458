"""The notebooks as files: what a reader must never meet. The complaints themselves are tested on
notebooks made to be bad"""
import json
import sys
from pathlib import Path

import pytest

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root/'tools'))
import alone  # noqa: E402
import front  # noqa: E402
import nbs  # noqa: E402

good = nbs.notebooks()


def test_there_are_notebooks(): assert len(good) >= 12


def test_notebooks_are_fit_to_be_read(): assert nbs.check(good) == []


def test_readme_is_the_index():
    assert (root/'README.md').read_text(encoding='utf-8') == nbs.readme()


def broken(tmp_path, change):
    nb = json.loads((root/'nbs'/'02_angle.ipynb').read_text(encoding='utf-8'))
    change(nb)
    f = tmp_path/'02_angle.ipynb'
    f.write_text(json.dumps(nb), encoding='utf-8')
    return nbs.check([f, *[g for g in good if g.name[:2] in ('04', '05')]])


def lists(nb):
    "A source may be a list of lines, as in most files, or one string"
    for c in nb['cells']: c['source'] = ''.join(c['source']).splitlines(keepends=True)


def cell(source, outputs=()):
    return dict(cell_type='code', id='x', metadata={}, execution_count=None, source=source,
                outputs=list(outputs))


@pytest.mark.parametrize('change, says', [
    (lambda nb: nb['metadata'].update(widgets={}), 'widget state'),
    (lambda nb: nb['cells'].append(cell('1/0', [
        dict(output_type='error', ename='E', evalue='', traceback=[])])), 'is an error'),
    (lambda nb: nb['cells'].append(cell('x', [
        dict(output_type='stream', name='stdout', text='x'*600_000)])), 'over 500'),
    (lambda nb: nb['cells'].append(cell('import os\nos.getcwd()')), 'mixes imports'),
    (lambda nb: nb['cells'].append(cell('#| export\nfrom diffnb.samplers import ddim')),
     'only from below'),
    (lambda nb: nb['cells'].append(cell('#| export\nimport diffnb.samplers')), 'only from below'),
    (lambda nb: nb['cells'].append(cell('#| export\nfrom diffnb import samplers')),
     'only from below'),
    (lambda nb: nb['cells'].append(cell('#| export\nfrom .samplers import ddim')),
     'only from below'),
    (lambda nb: nb['cells'].append(cell('#| export\nfrom . import samplers')), 'only from below'),
    (lambda nb: nb['cells'].append(cell('import os; os.getcwd()')), 'mixes imports'),
    (lambda nb: nb['cells'].append(cell('one two')), 'is not Python'),
    (lambda nb: nb['cells'].append(cell('import pytest')), 'needs pytest'),
    (lambda nb: nb['cells'].append(cell('from fastcore.test import test_fail')),
     'needs fastcore.test'),
    (lambda nb: nb['cells'].append(cell('def f():\n    import resource')), 'needs resource'),
    (lambda nb: nb['cells'].append(cell('p.send_signal(signal.SIGKILL)')), 'needs signal.SIGKILL'),
    (lambda nb: nb['cells'].append(cell("open('../results/mnist.json')")), 'needs ../results'),
    (lambda nb: [c.update(outputs=[]) for c in nb['cells'] if c['cell_type'] == 'code'],
     'no outputs'),
])
def test_a_bad_notebook_is_noticed(tmp_path, change, says):
    assert broken(tmp_path, lambda nb: None) == [], 'nothing was bad before'
    assert any(says in complaint for complaint in broken(tmp_path, change))
    assert any(says in complaint
               for complaint in broken(tmp_path, lambda nb: (change(nb), lists(nb))))


def cells(f): return json.loads(f.read_text(encoding='utf-8'))['cells']


@pytest.mark.parametrize('change', [
    lambda c: c.pop(1),
    lambda c: c[1].update(metadata={}),
    lambda c: c[1].update(source=front.first_cell().replace('git+https', 'git+http')),
    lambda c: c[1].update(source=front.first_cell() + '\n    %pip list'),
    lambda c: c[0].update(source='# Angle\n\n> A subtitle'),
    lambda c: c[0].update(source=''.join(c[0]['source']).replace('02_angle', '03_oracle'))])
def test_a_front_that_is_wrong_is_noticed(change):
    f = root/'nbs'/'02_angle.ipynb'
    now = cells(f)
    assert front.complaints(f, now) == []
    change(now)
    assert 'tools/nbs.py front' in front.complaints(f, now)[0]


def test_the_front_names_the_repository_of_the_settings(monkeypatch):
    "And a reader's address, not that of the machine on which it was written"
    name, branch, address = front.repository()
    assert address == f'https://github.com/{name}'
    for f in filter(front.has_front, good):
        text = front.badges(f) + front.first_cell()
        path = f.relative_to(root).as_posix()
        assert f'/{name}/blob/{branch}/{path})' in text and f'git+{address}' in text
    monkeypatch.setattr(front, 'repository', lambda: ('a/b', 'next', 'https://example.org/a/b'))
    assert 'git+https://example.org/a/b' in front.first_cell()
    assert '/a/b/blob/next/nbs/02_angle.ipynb' in front.badges(root/'nbs'/'02_angle.ipynb')


def test_lessons_have_both_badges_and_all_but_kit_have_one():
    with_one = [f for f in good if front.has_front(f)]
    assert {f.parent.name for f in good} - {f.parent.name for f in with_one} == {'kit'}
    lessons = [f for f in with_one if f.name[:2].isdigit() and f.parent.name == 'nbs']
    assert len(lessons) == 17
    for f in with_one:
        found = front.badge.findall(''.join(cells(f)[0]['source']))
        assert len(found) == 1 + (f in lessons), f


def test_badges_are_written_once_and_below_the_title():
    text = '# Data\n\n> Points\n\nGrey points.'
    once = front.with_badges(text, '[![A](a.svg)](a) [![B](b.svg)](b)')
    assert once == '# Data\n\n> Points\n\n[![A](a.svg)](a) [![B](b.svg)](b)\n\nGrey points.'
    assert front.with_badges(once, '[![C](c.svg)](c)').count('[![') == 1
    assert front.with_badges('# Data', '[![C](c.svg)](c)') == '# Data\n\n[![C](c.svg)](c)'


class Shell:
    "What `get_ipython()` answers, and what it is asked to do"
    def __init__(self, words): self.words, self.asked = words, []
    def __str__(self): return self.words
    def run_line_magic(self, name, line): self.asked.append(f'%{name} {line}')


@pytest.mark.parametrize('words, asked', [
    ('<google.colab._shell.Shell object at 0x7f>',
     ['%env OMP_WAIT_POLICY=PASSIVE', f'%pip install -q git+{front.repository()[2]}']),
    ('<ipykernel.zmqshell.ZMQInteractiveShell object at 0x7f>', [])])
def test_the_first_cell_installs_on_colab_and_nowhere_else(words, asked):
    from IPython.core.inputtransformer2 import TransformerManager
    shell = Shell(words)
    code = TransformerManager().transform_cell(front.first_cell())
    exec(code, dict(get_ipython=lambda: shell))
    assert shell.asked == asked


@pytest.mark.parametrize('code, says', [
    ('import os\nassert os.listdir() == ["one.ipynb"] and "IN_TEST" in os.environ', ''),
    ('assert 1 == 2', 'assert 1 == 2'),
    ('open("../two.json")', 'FileNotFoundError')])
def test_a_notebook_alone_finds_nothing_beside_it(tmp_path, code, says):
    import nbformat
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)]),
                   tmp_path/'one.ipynb')
    said = alone.alone(sys.executable, tmp_path/'one.ipynb', fast=True)
    assert says in said if says else said == ''
