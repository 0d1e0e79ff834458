"What would spoil a lesson: how the package behaves as a package"
import ast
import importlib
import shlex
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

root = Path(__file__).resolve().parent.parent
files = {'.'.join(f.relative_to(root/'diffnb').with_suffix('').parts): f
         for f in sorted((root/'diffnb').rglob('*.py'))
         if f.stem not in ('__init__', 'all', '_modidx')}
modules = list(files)


def test_there_are_modules(): assert {'data', 'samplers', 'training'} <= {*modules}


def python(code, **kw):
    return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=120,
                          cwd=root, **kw)


def test_no_name_is_exported_twice():
    seen = {}
    for m in modules:
        for name in importlib.import_module(f'diffnb.{m}').__all__:
            seen.setdefault(name, []).append(m)
    assert not {k: v for k, v in seen.items() if len(v) > 1}


def test_the_names_at_the_top_are_where_the_table_says():
    import diffnb
    assert 60 <= len(diffnb.names) <= 80
    for name, module in diffnb.names.items():
        assert name in importlib.import_module(f'diffnb.{module}').__all__, (name, module)
        assert getattr(diffnb, name) is getattr(importlib.import_module(f'diffnb.{module}'), name)
    assert set(diffnb.names) <= set(dir(diffnb))


def test_all_offers_these_names_and_no_more():
    import diffnb
    everything = importlib.import_module('diffnb.all')
    assert sorted(everything.__all__) == sorted(diffnb.names)
    space = {}
    exec('from diffnb.all import *', space)
    assert set(space) - {'__builtins__'} == set(diffnb.names)


def test_a_name_that_is_not_there_is_said():
    import diffnb
    with pytest.raises(AttributeError, match='no attribute .nothing_of_the_kind.'):
        diffnb.nothing_of_the_kind


def test_names_come_without_the_rest():
    r = python("import sys; from diffnb import mix; assert 'diffnb.angle' in sys.modules and "
               "'diffnb.apps.runs' not in sys.modules")
    assert r.returncode == 0, r.stderr


@pytest.mark.parametrize('what', ['diffnb', *(f'diffnb.{m}' for m in modules), 'diffnb.all'])
def test_imports_are_light(what):
    "Nothing heavy that torch itself does not already bring"
    heavy = {'matplotlib', 'sklearn', 'accelerate', 'torchvision', 'ipywidgets', 'PIL',
             'torch._dynamo', 'torch._inductor', 'fastprogress', 'diffusers', 'nbdev', 'fastcore'}
    r = python(f'import torch, sys; had = set(sys.modules); import {what}\n'
               f'print(sorted((set(sys.modules) - had) & {heavy}))')
    assert r.returncode == 0, r.stderr
    assert r.stdout.strip() == '[]'


def test_import_needs_no_network_and_no_torch():
    r = python('''
import sys, socket
def no(*a, **k): raise RuntimeError('network')
socket.socket.connect = no
import diffnb
assert 'torch' not in sys.modules
import diffnb.all''')
    assert r.returncode == 0, r.stderr


@pytest.mark.parametrize('m', modules)
def test_every_public_function_says_what_it_does(m):
    tree = ast.parse(files[m].read_text(encoding='utf-8'))
    public = importlib.import_module(f'diffnb.{m}').__all__
    defined = [d for d in tree.body if isinstance(d, (ast.FunctionDef, ast.ClassDef))]
    assert not [d.name for d in defined if d.name in public and not ast.get_docstring(d)]


# The package as it is published

settings = ConfigParser(delimiters=['='])
settings.read(root/'settings.ini', encoding='utf-8')
settings = settings['DEFAULT']
bounds = dict(r.split(',')[0].split('>=') for r in shlex.split(settings['requirements']))
as_imported = {'pillow': 'PIL', 'scikit-learn': 'sklearn'}
brought_along = {'IPython'}     # by ipywidgets


def test_the_version_stands_in_one_place():
    "nbdev writes it from settings.ini into the package"
    import diffnb
    assert diffnb.__version__ == settings['version']
    assert f"\n## {settings['version']}" in (root/'CHANGELOG.md').read_text(encoding='utf-8')
    citation = (root/'CITATION.cff').read_text(encoding='utf-8')
    assert f"\nversion: {settings['version']}\n" in citation


def test_what_is_required_is_imported_and_what_is_imported_is_required():
    trees = [ast.parse(f.read_text(encoding='utf-8')) for f in files.values()]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = {a.name.split('.')[0] for node in nodes if isinstance(node, ast.Import)
             for a in node.names}
    names |= {node.module.split('.')[0] for node in nodes
              if isinstance(node, ast.ImportFrom) and node.level == 0}
    others = names - set(sys.stdlib_module_names) - {'diffnb'} - brought_along
    optional = {r.split('>=')[0].replace('-', '_')
                for r in shlex.split(settings['exchange_requirements'])}
    assert optional <= others
    assert others - optional == {as_imported.get(name, name) for name in bounds}


def test_the_lowest_versions_are_those_of_the_settings():
    text = (root/'.ci'/'lowest.txt').read_text(encoding='utf-8')
    pins = dict(line.split('==') for line in text.splitlines() if '==' in line)
    assert set(pins) == set(bounds)
    for name, bound in bounds.items():
        low = bound.split('.')
        pin = pins[name].split('.')
        assert pin[:len(low)] == low and set(pin[len(low):]) <= {'0'}, (name, bound, pins[name])


def test_a_state_without_tensors_can_be_read_again(tmp_path):
    "Notes and no tensor: safetensors before 0.4.4 writes a file that nothing can read"
    from diffnb.kit.files import load_state, save_state
    assert load_state(save_state(tmp_path/'s.safetensors', {'step': 7})) == {'step': 7}


def test_the_named_pythons_begin_with_the_lowest():
    assert settings['python_versions'].split()[0] == settings['min_python']


def test_a_script_has_a_line_of_its_own():
    "nbdev-migrate-config stops at several scripts in one line"
    assert all(line.count('=') == 1 for line in settings['console_scripts'].splitlines())


def test_what_a_notebook_writes_is_not_kept_beside_it():
    r = subprocess.run(['git', 'ls-files', 'nbs'], cwd=root, capture_output=True, text=True)
    if r.returncode: pytest.skip('not a git repository')
    assert {Path(name).suffix for name in r.stdout.splitlines()} == {'.ipynb', '.png'}, r.stdout
