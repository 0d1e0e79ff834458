"""The front of a notebook for a reader who has nothing else: badges below the title, and a first
cell that installs the package on Colab and does nothing elsewhere. `python tools/nbs.py front`
writes both.

The address of the repository stands in settings.ini and nowhere else.
"""
import json
import re
import uuid
from configparser import ConfigParser
from pathlib import Path
from urllib.parse import quote

root = Path(__file__).resolve().parent.parent
badge = re.compile(r'\[!\[[^\]]*\]\([^)]*\)\]\([^)]*\) ?')   # a picture that is a link
title = re.compile(r'# .+(\n\n> .+)?')
mark = 'google.colab'


def repository():
    "(user/name, branch, address) as settings.ini has them"
    ini = ConfigParser(delimiters=['='])
    ini.read(root/'settings.ini', encoding='utf-8')
    cfg = ini['DEFAULT']
    return f"{cfg['user']}/{cfg['repo']}", cfg['branch'], cfg['git_url'] % cfg


def has_front(f):
    "Notebooks that a reader runs: all but the index, and the machinery in kit"
    here = f.is_relative_to(root/'nbs')
    return here and f.name != 'index.ipynb' and f.parent.name != 'kit'


def badges(f):
    "The line below the title of a notebook; Binder is for lessons, the rest may need more memory"
    name, branch, _ = repository()
    path = f.relative_to(root).as_posix()
    colab = f'https://colab.research.google.com/github/{name}/blob/{branch}/{path}'
    binder = f'https://mybinder.org/v2/gh/{name}/{branch}?labpath={quote(path, safe="")}'
    line = f'[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({colab})'
    if f.parent.name != 'nbs': return line
    return line + f' [![Open in Binder](https://mybinder.org/badge_logo.svg)]({binder})'


def first_cell():
    "OpenMP reads its setting when torch is loaded, so this stands before every import"
    return (f"#| hide\nif '{mark}' in str(get_ipython()):\n    %env OMP_WAIT_POLICY=PASSIVE\n"
            f'    %pip install -q git+{repository()[2]}')


def source(cell): return ''.join(cell['source'])


def with_badges(text, line):
    "The text of a title cell, with this line of badges below the title"
    text = re.sub(r'\n\n\n+', '\n\n', badge.sub('', text)).rstrip('\n')
    head = title.match(text)[0]
    rest = text[len(head):].strip('\n')
    return '\n\n'.join([head, line, *([rest] if rest else [])])


def new_cell():
    return dict(cell_type='code', execution_count=None, id=uuid.uuid4().hex[:8], outputs=[],
                metadata=dict(jupyter=dict(source_hidden=True)), source=[])


def write(f):
    "Give a notebook its front, where it has none or another one"
    nb = json.loads(f.read_text(encoding='utf-8'))
    cells = nb['cells']
    if len(cells) < 2 or mark not in source(cells[1]): cells.insert(1, new_cell())
    for cell, text in zip(cells, (with_badges(source(cells[0]), badges(f)), first_cell())):
        cell['source'] = text.splitlines(keepends=True)
    text = json.dumps(nb, indent=1, sort_keys=True, ensure_ascii=False) + '\n'
    if text != f.read_text(encoding='utf-8'): f.write_text(text, encoding='utf-8')


def complaints(f, cells):
    "What is wrong with the front of a notebook, in words"
    if not has_front(f): return []
    first = cells[1] if len(cells) > 1 else new_cell()
    folded = first['metadata'] == dict(jupyter=dict(source_hidden=True))
    good = badges(f) in source(cells[0]).splitlines() and source(first) == first_cell() and folded
    return [] if good else [f'{f.name}: no badges or no first cell for Colab: tools/nbs.py front']
