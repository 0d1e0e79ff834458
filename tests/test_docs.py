"The site before Sphinx sees it: notebooks as a reader meets them, and pages from docments"
import base64
import importlib
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from PIL import Image

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root/'tools'))
import docments  # noqa: E402
import docs  # noqa: E402

modules = [m for _, m, _ in docments.contents(root)]
v4 = nbformat.v4


# Docments

@pytest.mark.parametrize('m', modules)
def test_comments_are_those_that_fastcore_finds(m):
    "It finds fewer: none of `**kwargs`, none of a result without annotation, one line of each"
    from fastcore.docments import docments as theirs
    module = importlib.import_module(f'diffnb.{m}')
    parts = docments.Reader(docs.source(m)).public()
    assert [p.name for p in parts if not hasattr(module, p.name)] == []
    assert {p.name for p in parts} == set(module.__all__)
    for part in parts:
        if part.kind != 'function' or not any(part.args.values()): continue
        ours = part.args | {'return': part.returns}
        for name, said in theirs(getattr(module, part.name)).items():
            if said: assert ours[name].startswith(' '.join(said.split())), (part.name, name)


example = '''"A module"
__all__ = ['f', 'C', 'table', 'n']
n = 3 # How many
table = dict( # Of things
    a = 1)
def f(
    x:int,       # A number,
                 # or two
    *rest,       # Others
    y=(1, 2),    # A pair
    **more,
)->str:          # What it is
    "Do it"
    return 'x'
class C:
    "A thing"
    def __init__(self,
        a, # One
        b=2, # Two
    ): pass
    def act(self,
        z, # What
    ):     # Nothing
        "Act"
    def _inner(self): "Not shown"
    @property
    def size(self): return 1 # not documented
def g(): pass
'''


def test_a_module_is_read():
    n, table, f, c = docments.Reader(example).public()
    assert f.head == '(x: int, *rest, y=(1, 2), **more) -> str'
    assert f.args == dict(x='A number, or two', rest='Others', y='A pair', more='')
    assert (f.doc, f.returns, f.lines) == ('Do it', 'What it is', (6, 14))
    assert (c.head, c.args, [p.name for p in c.inner]) == ('(a, b=2)', dict(a='One', b='Two'),
                                                           ['act'])
    assert c.inner[0].args == dict(z='What') and c.inner[0].returns == 'Nothing'
    assert (n.head, n.doc) == ('= 3', 'How many')
    assert table.doc == 'Of things' and 'a = 1' in table.code


def test_words_are_not_taken_for_markup():
    assert docments.words('a*b of `a*b`, $5 <x> [1]') == r'a\*b of `a*b`, \$5 \<x\> \[1\]'
    assert docments.words('-1 for none') == r'\-1 for none'
    assert docments.words('arXiv:2010.02502') == (
        '[arXiv:2010.02502](https://arxiv.org/abs/2010.02502)')


# Notebooks

def code(source, outputs=(), **metadata):
    return v4.new_code_cell(source, outputs=list(outputs), metadata=metadata)


def test_hidden_cells_go_and_directives_too():
    here = '02_angle.ipynb'
    assert docs.cell(code('#| hide\nimport torch'), here) is None
    assert docs.cell(v4.new_raw_cell('x'), here) is None
    out = docs.cell(code('#| export\n#| code-fold: true\ndef f(): pass'), here)
    assert out.source == 'def f(): pass' and out.metadata.tags == ['hide-input', 'exported']
    out = docs.cell(code('f()', jupyter=dict(source_hidden=True)), here)
    assert out.metadata.tags == ['hide-input']
    assert 'tags' not in docs.cell(code('f()'), here).metadata


@pytest.mark.parametrize('here, text, want', [
    ('index.ipynb', f'[a]({docs.blob}/nbs/kit/files.ipynb)', '[a](kit/files.ipynb)'),
    ('apps/cli.ipynb', f'[a]({docs.blob}/nbs/02_angle.ipynb#x)', '[a](../02_angle.ipynb#x)'),
    ('index.ipynb', f'[a]({docs.site}/library/index.html)', '[a](library/index.md)'),
    ('index.ipynb', f'[a]({docs.site}/02_angle.html#x)', '[a](02_angle.ipynb#x)'),
    ('index.ipynb', f'[a]({docs.site}/)', '[a](index.ipynb)'),
    ('index.ipynb', f'[a]({docs.blob}/LICENSE)', f'[a]({docs.blob}/LICENSE)'),
    ('a.ipynb', '[![Open](https://x.org/badge.svg)](https://y)', '[Open](https://y){.elsewhere}'),
])
def test_links_stay_within_the_site(here, text, want): assert docs.links(text, here) == want


def test_links_to_other_forms_stand_together_below_the_title():
    assert docs.under_title('# T\n\n> line\n\nText', 'x') == '# T\n\n> line\n\nx\n\nText'
    assert docs.under_title('# T', 'x') == '# T\n\nx'
    more = docs.under_title('# T\n\n> line\n\n[a](b){.elsewhere}\n\nText', 'x')
    assert more == '# T\n\n> line\n\n[a](b){.elsewhere} x\n\nText'


def test_every_notebook_has_a_title_and_a_line():
    assert all(all(docs.heading(f)) for f in docs.notebooks())


def test_a_slider_holds_the_frames_of_the_picture_in_the_notebook():
    cells = nbformat.read(root/'nbs'/'06_trajectories.ipynb', 4).cells
    outputs = [o for c in cells for o in c.get('outputs', [])]
    output = next(o for o in outputs if docs.widget in o.get('data', {}))
    apng = Image.open(io.BytesIO(base64.b64decode(''.join(output.data['image/png']))))
    text = docs.shown(output).data['text/html']
    pics = json.loads(re.search(r'<script[^>]*>(.*)</script>', text)[1])
    assert len(pics) == apng.n_frames >= 4 and f'max="{apng.n_frames - 1}"' in text
    for i, pic in enumerate(pics):
        apng.seek(i)
        one = Image.open(io.BytesIO(base64.b64decode(pic)))
        assert one.convert('L').tobytes() == apng.convert('L').tobytes()


def test_an_output_without_frames_is_a_picture():
    one = Image.new('L', (4, 4))
    file = io.BytesIO()
    one.save(file, 'PNG')
    pic = base64.b64encode(file.getvalue()).decode()
    still = v4.new_output('display_data', {docs.widget: {}, 'image/png': pic})
    assert docs.shown(still).data == {'image/png': pic}
    assert docs.shown(v4.new_output('display_data', {docs.widget: {}})) is None


def test_what_comes_from_elsewhere_is_noticed(tmp_path):
    page = tmp_path/'a.html'
    page.write_text('<a href="https://x.org"><img src="a.png"><script src="b.js"></script>'
                    '<link rel="canonical" href="https://x.org"/>')
    assert docs.complaints(tmp_path) == []
    for bad in ('<script src="https://cdn.org/m.js">', '<img alt="" src="//x.org/a.png">',
                '<link rel="stylesheet" href="https://x.org/a.css">'):
        page.write_text(bad)
        assert len(docs.complaints(tmp_path)) == 1, bad


# Around it

@pytest.mark.parametrize('name', ['nbs/sidebar.yml', 'nbs/_quarto.yml', '.gitconfig', '_proc/x'])
def test_what_nbdev_leaves_is_ignored(name):
    r = subprocess.run(['git', 'check-ignore', '-q', name], cwd=root)
    if r.returncode == 128: pytest.skip('not a git repository')
    assert r.returncode == 0
