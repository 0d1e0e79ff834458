"""The house stands: arrows point down, no private name crosses a module, lessons keep to their
size; and the check notices where one does not"""
import io
import json
import shutil
import sys
import tokenize
from pathlib import Path

import pytest

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root/'tools'))
import house  # noqa: E402


def test_the_house_stands(): assert house.complaints() == []


def scripts():
    "Everything in Python that is written by hand, outside notebooks"
    folders = 'benchmarks', 'tests', 'tools', 'examples'
    return [root/'conftest.py', *(f for folder in folders for f in (root/folder).glob('*.py'))]


def test_scripts_keep_to_a_hundred_columns_and_a_statement_a_line():
    bad = []
    for f in scripts():
        text = f.read_text(encoding='utf-8')
        bad += [f'{f.name}, line {i}' for i, line in enumerate(text.splitlines(), 1)
                if len(line) > 100]
        words = tokenize.generate_tokens(io.StringIO(text).readline)
        bad += [f'{f.name}, line {w.start[0]}: ;' for w in words
                if w.type == tokenize.OP and w.string == ';']
    assert not bad


def test_there_is_a_house():
    known = house.modules()
    assert len(known) >= 25 and {floor for floor, *_ in known.values()} == {0, 1, 2}
    assert sum(len(house.imports(m, known)) for m in known) > 100


@pytest.fixture
def copy(tmp_path):
    for part in ('nbs', 'diffnb'):
        shutil.copytree(root/part, tmp_path/part,
                        ignore=shutil.ignore_patterns('*.safetensors', '*.png', '__pycache__',
                                                      'projects', 'reference', 'solutions'))
    return tmp_path


@pytest.mark.parametrize('module, line, says', [
    ('angle', 'from .samplers import ddim', 'imports samplers, which stands above it'),
    ('angle', 'import diffnb.samplers', 'imports samplers, which stands above it'),
    ('angle', 'from . import samplers', 'imports samplers, which stands above it'),
    ('angle', 'def f():\n    from .samplers import ddim',
     'imports samplers, which stands above it'),
    ('kit.files', 'from ..angle import mix', 'imports angle, which stands above it'),
    ('samplers', 'from diffnb.apps.runs import fit', 'imports apps.runs, which stands above it'),
    ('samplers', 'from .angle import _pair', 'imports the private name _pair of angle'),
    ('kit.files', 'from .checks import _secret', 'imports the private name _secret of kit.checks'),
    ('angle', 'x = ' + '1 + '*40 + '1', 'over 100 columns'),
])
def test_what_breaks_a_rule_is_noticed(copy, module, line, says):
    fname = copy/'diffnb'/(module.replace('.', '/') + '.py')
    before = house.complaints(copy)
    fname.write_text(fname.read_text(encoding='utf-8') + '\n' + line + '\n', encoding='utf-8')
    new = [c for c in house.complaints(copy) if c not in before]
    assert any(says in c for c in new), new


def test_a_circle_is_noticed(copy):
    for a, b in (('files', 'config'), ('config', 'files')):
        fname = copy/'diffnb'/'kit'/f'{a}.py'
        fname.write_text(fname.read_text(encoding='utf-8') + f'\nfrom .{b} import *\n',
                         encoding='utf-8')
    assert any('imports itself by way of others' in c for c in house.complaints(copy))


def test_the_report_names_every_module():
    text = house.report()
    assert all(m in text for m in house.modules())


def test_the_two_hour_way_is_counted(copy):
    def together(): return [int(n) for n in house.short_way(copy)[-2].split()[1:]]
    cells, words = together()
    fname = next((copy/'nbs').glob('05_*.ipynb'))
    nb = json.loads(fname.read_text(encoding='utf-8'))
    nb['cells'].append(dict(cell_type='markdown', id='x', metadata={}, source=['three more words']))
    fname.write_text(json.dumps(nb), encoding='utf-8')
    assert together() == [cells + 1, words + 3]
    nb['cells'][-1]['source'] = ['[![Open in Colab](a.svg)](a) three more [![B](b)](b) words']
    fname.write_text(json.dumps(nb), encoding='utf-8')
    assert together() == [cells + 1, words + 3]


def test_a_two_hour_way_that_grew_is_noticed(copy, monkeypatch):
    assert not house.too_long(copy)
    monkeypatch.setattr(house, 'way_words', 100)
    assert 'at most 320 and 100' in house.too_long(copy)[0]
