"""The course as a web site: python tools/docs.py [--out _docs]

Lays out everything that is to be read in build/docs: the notebooks without hidden cells and with
sliders that need no kernel, and a page for each module. Then Sphinx makes HTML of it, with the
settings in docs/. Nothing is run, and nothing is fetched.
"""
import argparse
import base64
import html
import io
import json
import posixpath
import re
import shutil
import sys
from configparser import ConfigParser
from pathlib import Path

import nbformat
from PIL import Image

import docments
from nbs import notebooks, parts

root = Path(__file__).resolve().parent.parent
settings = ConfigParser(delimiters=['='])
settings.read(root/'settings.ini', encoding='utf-8')
settings = settings['DEFAULT']
home = settings['git_url']
blob = f"{home}/blob/{settings['branch']}"
playground = root/'docs'/'playground'
site = settings['doc_host'] + settings['doc_baseurl']
widget = 'application/vnd.jupyter.widget-view+json'
hidden = re.compile(r'^#\|\s*hide\b', re.M)
folded = re.compile(r'^#\|\s*code-fold:\s*true', re.M)
exported = re.compile(r'^#\|\s*exporti?\b', re.M)
badge = re.compile(r'\[!\[([^\]]*)\]\([^)]*badge[^)]*\)\]\(([^)]+)\)')
floors = dict(kit='Kit', apps='Apps', reference='Proofs', projects='Projects',
              solutions='Solutions')
about = dict(
    kit='What the lessons stand on: checks, files, pictures, the slider.',
    apps='What people run and build with: data sets, runs, sampling, the command line.',
    reference='Evidence that this is the literature, to the last digit: loops and tables of papers '
              'and other programs, each beside ours.',
    projects='Well-known programs, rebuilt and measured.',
    solutions='Answers to the exercises at the end of every lesson.')


# Notebooks

def name_of(f): return f.relative_to(root/'nbs').as_posix()


def heading(f):
    "(title, the line below it) of a notebook"
    text = next(c.source for c in nbformat.read(f, 4).cells if c.cell_type == 'markdown')
    said = re.search(r'^> (.*)', text, re.M)
    return re.search(r'^# (.*)', text, re.M)[1], said[1] if said else ''


def links(text, here):
    "Links to notebooks and to the site become links between its pages; `here` is below nbs/"
    def relative(found):
        name = found[1] or 'index'
        name += '.ipynb' if (root/'nbs'/f'{name}.ipynb').exists() else '.md'
        if name == 'playground.md' and not playground.is_dir(): return found[0]
        return f']({posixpath.relpath(name, posixpath.dirname(here) or ".")}'
    text = re.sub(rf'\]\({re.escape(blob)}/nbs/([^)#\s]+)\.ipynb', relative, text)
    text = re.sub(rf'\]\({re.escape(site)}/?([^)#\s]*?)(?:\.html)?(?=[)#])', relative, text)
    return badge.sub(r'[\1](\2){.elsewhere}', text)


def badges(here, module):
    "Where else this page can be read"
    out = [f'[Notebook]({blob}/nbs/{here}){{.elsewhere}}']
    if module:
        up = '../'*here.count('/')
        out.append(f'[diffnb.{module}]({up}library/{module}.md){{.elsewhere}}')
    return ' '.join(out)


def under_title(text, words):
    "The words, put below the title and its line, beside badges where there are any"
    pieces = text.split('\n\n')
    at = 2 if pieces[1:] and pieces[1].startswith('>') else 1
    if pieces[at:] and '{.elsewhere}' in pieces[at]: words = f'{pieces.pop(at)} {words}'
    return '\n\n'.join([*pieces[:at], words, *pieces[at:]])


def frames(data):
    "The pictures of an animated PNG in base64, each a PNG in base64"
    pic, out = Image.open(io.BytesIO(base64.b64decode(data))), []
    for i in range(getattr(pic, 'n_frames', 1)):
        pic.seek(i)
        one = io.BytesIO()
        pic.save(one, 'PNG', optimize=True)
        out.append(base64.b64encode(one.getvalue()).decode())
    return out


def reel(data):
    "HTML: the animated PNG, and what docs/_static/site.js makes a slider of"
    pics = frames(data)
    words = html.escape('Images on their way from noise: above, the mixture; below, the guess')
    return (f'<div class="reel"><img src="data:image/png;base64,{data}" alt="{words}">'
            '<div class="reel-bar" hidden><button type="button">Play</button>'
            f'<input type="range" min="0" max="{len(pics) - 1}" value="0" aria-label="Step"></div>'
            f'<script type="application/json">{json.dumps(pics)}</script></div>')


def shown(output):
    "An output as the site shows it: a slider without its kernel is made of its own picture"
    data = output.get('data', {})
    if widget not in data: return output
    pic = ''.join(data.get('image/png', ''))
    if not pic: return None
    output.data = {'text/html': reel(pic)} if len(frames(pic)) > 1 else {'image/png': pic}
    return output


def attached(here):
    "Where the pictures of a notebook's text go, seen from there"
    return '../'*here.count('/') + 'images/' + Path(here).stem + '-'


def keep_attachments(f, out):
    "Write the pictures that stand in a notebook's text"
    for c in nbformat.read(f, 4).cells:
        for name, data in c.get('attachments', {}).items():
            place = (out/name_of(f)).parent/(attached(name_of(f)) + name)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(base64.b64decode(''.join(data['image/png'])))


def cell(c, here):
    "A cell as the site shows it, or None"
    c.metadata, fold = {}, c.metadata.get('jupyter', {}).get('source_hidden')
    if c.cell_type == 'raw' or c.cell_type == 'code' and hidden.search(c.source): return None
    if c.cell_type == 'markdown':
        c.pop('attachments', None)
        c.source = links(c.source.replace('(attachment:', f'({attached(here)}'), here)
        return c
    tags = ['hide-input']*bool(fold or folded.search(c.source))
    tags += ['exported']*bool(exported.search(c.source))
    if tags: c.metadata['tags'] = tags
    c.source = re.sub(r'^#\|.*\n?', '', c.source, flags=re.M).strip()
    c.outputs = [o for o in map(shown, c.outputs) if o]
    return c if c.source else None


def page(f, module=None):
    "A notebook as the site shows it"
    here = name_of(f)
    nb = nbformat.read(f, 4)
    nb.cells = [c for c in (cell(c, here) for c in nb.cells) if c]
    nb.metadata['language_info'] = {'name': 'python', 'pygments_lexer': 'ipython3'}
    if here != 'index.ipynb':
        nb.cells[0].source = under_title(nb.cells[0].source, badges(here, module))
    return nb


# Pages that are in no notebook

def menu(caption, lines):
    "A part of the menu at the side"
    return '\n'.join(['```{toctree}', ':hidden:', *[f':caption: {caption}']*bool(caption), '',
                      *lines, '```', ''])


def side_menu(files):
    "What the front page holds besides the index notebook: the menu"
    lessons = [f'{f.name[:2]} · {heading(f)[0]} <{f.stem}>' for f in files
               if f.parent == root/'nbs']
    more = [f'{floors[part]} <{part}/index>' for part in ['projects', 'apps', 'kit', 'reference',
                                                         'solutions']]
    return '\n'.join([menu('', ['Playground <playground>'])]*playground.is_dir() + [
        menu('Lessons', lessons), menu('Beside them', [*more, 'Library <library/index>'])])


def floor_page(part, files):
    "The page of a folder: what is in it, each with its line"
    rows = []
    for f in files:
        title, said = heading(f)
        if part == 'solutions':
            number = f.name[:2]
            title = f"{number} · {heading(next((root/'nbs').glob(number + '_*')))[0]}"
        rows.append((title, links(said, name_of(f)), f.name))
    table = [f'| [{title}]({name}) | {said} |' for title, said, name in rows]
    lines = [f'{title} <{name.removesuffix(".ipynb")}>' for title, _, name in rows]
    return '\n'.join([f'# {floors[part]}', '', about[part], '', '| page | about |', '|---|---|',
                      *table, '', menu('', lines)])


def library_page(found):
    "The modules by floor, each with its line"
    text = ['# Library', '', 'A page for each module, made from its docstrings and the comments '
            'beside its arguments. `from diffnb.all import *` brings the names that people use '
            'most; everything else is reached through its module.', '']
    names = dict(kit='Kit: below the lessons', lessons='Lessons', apps='Apps: above the lessons')
    for floor in names:
        rows = [f"| [diffnb.{m}]({m}.md) | {docments.words(docments.Reader(source(m)).doc)} |"
                for place, m, _ in found if place == floor]
        text += [f'## {names[floor]}', '', '| module | about |', '|---|---|', *rows, '']
    return '\n'.join([*text, menu('', [m for _, m, _ in found])])


def source(module):
    return (root/'diffnb'/(module.replace('.', '/') + '.py')).read_text(encoding='utf-8')


# All of it

def write(f, text):
    "Write a file, unless it holds this already: Sphinx makes again what has changed"
    f.parent.mkdir(parents=True, exist_ok=True)
    if not f.exists() or f.read_text(encoding='utf-8') != text: f.write_text(text, encoding='utf-8')
    return f


def lay_out(out):
    "Everything that Sphinx reads, in the folder `out`"
    files, found = notebooks(), docments.contents(root)
    modules = {notebook: m for _, m, notebook in found}
    kept = [write(out/name_of(f), nbformat.writes(page(f, modules.get(name_of(f)))))
            for f in files]
    for f in files: keep_attachments(f, out)
    index = page(root/'nbs'/'index.ipynb')
    index.cells.append(nbformat.v4.new_markdown_cell(side_menu(files), id='menu'))
    kept.append(write(out/'index.ipynb', nbformat.writes(index)))
    for part in parts[1:]:
        inside = [f for f in files if f.parent == root/'nbs'/part]
        kept.append(write(out/part/'index.md', floor_page(part, inside)))
    import diffnb
    for m, text in docments.pages(root, blob, diffnb.names).items():
        kept.append(write(out/'library'/f'{m}.md', text))
    kept.append(write(out/'library'/'index.md', library_page(found)))
    if playground.is_dir():
        text = (root/'docs'/'playground.md').read_text(encoding='utf-8')
        kept.append(write(out/'playground.md', text))
    for f in out.rglob('*.*'):
        if f.suffix in ('.ipynb', '.md') and f not in kept: f.unlink()
    shutil.copytree(root/'nbs'/'images', out/'images', dirs_exist_ok=True)


foreign = re.compile(r'<(?:script|img|iframe)\b[^>]*\bsrc="(?:https?:)?//[^"]*"'
                     r'|<link\b(?![^>]*rel="(?:canonical|next|prev)")'
                     r'[^>]*href="(?:https?:)?//[^"]*"')


def complaints(out):
    "What a page would fetch from elsewhere when it is opened"
    return [f'{f.relative_to(out)}: {found[0]}' for f in sorted(out.rglob('*.html'))
            for found in foreign.finditer(f.read_text(encoding='utf-8'))]


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--out', type=Path, default=root/'_docs', help='where the site goes')
    a = p.parse_args()
    from sphinx.cmd.build import main as sphinx
    build = root/'build'                        # myst-nb writes a folder of its own beside `made`
    staged, made = build/'docs', build/'html'
    lay_out(staged)
    words = ['-b', 'html', '-j', 'auto', '-W', '--keep-going', '-q', '-c', str(root/'docs'),
             '-d', str(build/'doctrees'), str(staged), str(made)]
    if sphinx(words): sys.exit('the site has faults: see above')
    shutil.rmtree(a.out, ignore_errors=True)
    shutil.copytree(made, a.out, ignore=shutil.ignore_patterns('.buildinfo*', '_sources'))
    if playground.is_dir():
        from page import build
        build(a.out/'playground')
    if bad := complaints(a.out): sys.exit('\n'.join(bad))
    print(f'open {a.out/"index.html"} in a browser')


if __name__ == '__main__': main()
