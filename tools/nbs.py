"""Look after the notebooks: python tools/nbs.py run|check|front|readme [files]

run     execute top to bottom and keep the outputs (cells marked slow, peers or eval: false keep
        theirs; --flags runs some of them too)
check   what a reader must never meet: widget state, error outputs, fat files, imports of later
        notebooks
front   write the badges below the titles, and the first cell, which installs on Colab
readme  write README.md from nbs/index.ipynb; with --check only say whether it is stale
"""
import argparse
import ast
import json
import os
import re
import sys
import time
from pathlib import Path

import nbformat

import front

root = Path(__file__).resolve().parent.parent
nbs = root/'nbs'
limit = 500_000
flagged = re.compile(r'^#\|\s*(eval:\s*false|slow|peers)\b', re.M)
last = re.compile(r'^import nbdev; nbdev\.nbdev_export\(\)$', re.M)     # the cell that exports
progress = re.compile(r'<progress|progress-bar-interrupted|--total:')


def source(cell): return ''.join(cell['source'])


# In the order in which they are read
parts = ['.', 'kit', 'apps', 'reference', 'projects', 'solutions']


def notebooks():
    "Every notebook but the index: the lessons, then the folders"
    found = [p for part in parts for p in sorted((nbs/part).glob('*.ipynb'))]
    return [p for p in found if p.name[0] not in '_.' and p.name != 'index.ipynb']


def run(files, flags=()):
    "Execute each notebook in a kernel of its own and store what it shows"
    from nbclient import NotebookClient
    os.environ.pop('MPLBACKEND', None)  # figures belong into the notebook, whatever the shell says

    class Client(NotebookClient):
        async def async_execute_cell(self, cell, cell_index, **kwargs):
            mark = flagged.search(source(cell))
            if mark and mark[1] not in flags: return cell
            return await super().async_execute_cell(cell, cell_index, **kwargs)

    for f in files:
        start, nb = time.time(), nbformat.read(f, 4)
        Client(nb, timeout=1200, kernel_name='python3', store_widget_state=False,
               record_timing=False,
               coalesce_streams=True,
               resources={'metadata': {'path': str(f.parent)}}).execute()
        nb.metadata.pop('widgets', None)
        nb.metadata.pop('language_info', None)
        for c in nb.cells:
            # Folded cells stay folded
            c.metadata = {k: v for k, v in c.metadata.items() if k == 'jupyter'}
            if c.cell_type == 'code':
                c.execution_count = None
                c.outputs = [tidy(o) for o in c.outputs if not shows_progress(o)]
        write(nb, f)
        print(f'{f.name}: {time.time() - start:.1f} s, {f.stat().st_size // 1000} kB', flush=True)


def shows_progress(out): return progress.search(str(out.get('data', {}).get('text/html', '')))


def tidy(out):
    "Drop what changes from run to run, and what says the same twice"
    if 'execution_count' in out: out['execution_count'] = None
    if 'image/png' in out.get('data', {}): out['data'].pop('image/jpeg', None)
    if 'text/plain' in out.get('data', {}):
        out['data']['text/plain'] = re.sub(r' at 0x[0-9a-f]+', '', out['data']['text/plain'])
    return out


def write(nb, f):
    "The layout that nbdev_clean leaves: sorted keys, one space, text as lists of lines"
    text = nbformat.writes(nb, version=4)
    f.write_text(json.dumps(json.loads(text), indent=1, sort_keys=True, ensure_ascii=False) + '\n',
                 encoding='utf-8')


def python(cell):
    "The syntax tree of a cell, without the lines that only IPython knows"
    return ast.parse(re.sub(r'^( *)[%!].*$', r'\1pass', source(cell), flags=re.M))


def needed(cell):
    "The modules of diffnb that a cell imports, in whatever way"
    names = []
    for s in ast.walk(python(cell)):
        if isinstance(s, ast.Import): names += [a.name for a in s.names]
        if isinstance(s, ast.ImportFrom):
            start = 'diffnb.'*(s.level > 0) + (s.module or '')
            if start.strip('.') == 'diffnb': names += [f'diffnb.{a.name}' for a in s.names]
            else: names.append(start)
    return [n.removeprefix('diffnb.') for n in names if n.startswith('diffnb.')]


strangers = {'pytest', 'nbdev', 'fastcore', 'execnb', 'resource', 'fcntl', 'pwd', 'termios'}
posix = {('os', 'fork'), ('os', 'killpg'), ('signal', 'SIGKILL'), ('signal', 'SIGALRM')}


def unportable(cell):
    "What a cell asks for that a reader does not have: with the package alone, or on Windows"
    found = []
    for s in ast.walk(python(cell)):
        if isinstance(s, ast.Import):
            found += [a.name for a in s.names if a.name.split('.')[0] in strangers]
        if isinstance(s, ast.ImportFrom) and (s.module or '').split('.')[0] in strangers:
            found.append(s.module)
        if isinstance(s, ast.Attribute) and isinstance(s.value, ast.Name):
            if (s.value.id, s.attr) in posix: found.append(f'{s.value.id}.{s.attr}')
        if isinstance(s, ast.Constant) and isinstance(s.value, str) and '../results' in s.value:
            found.append(s.value)
    return found


def place(f):
    "(floor, number) of a notebook: kit stands below the lessons, apps above"
    floor = dict(kit=0, apps=2).get(f.parent.name, 1)
    return floor, int(f.name[:2]) if floor == 1 and f.name[:2].isdigit() else 0


def check(files):
    "Return the list of complaints"
    bad, number, imports = [], {}, {}
    for f in files:
        nb = json.loads(f.read_text(encoding='utf-8'))
        code = [c for c in nb['cells'] if c['cell_type'] == 'code']
        if 'widgets' in nb['metadata']: bad.append(f'{f.name}: saved widget state')
        if f.stat().st_size > limit:
            bad.append(f'{f.name}: {f.stat().st_size // 1000} kB, over {limit // 1000}')
        if any(o['output_type'] == 'error' for c in code for o in c['outputs']):
            bad.append(f'{f.name}: an output is an error')
        bad += front.complaints(f, nb['cells'])
        if code and not any(c['outputs'] for c in code): bad.append(f'{f.name}: no outputs, run it')
        for i, c in enumerate(code):
            try: body = python(c).body
            except SyntaxError:
                bad.append(f'{f.name}: code cell {i} is not Python')
                continue
            bad += [f'{f.name}: code cell {i} needs {name}, which a reader may not have'
                    for name in unportable(c)]
            tops = [isinstance(s, (ast.Import, ast.ImportFrom)) for s in body]
            if any(tops) and not all(tops) and not last.search(source(c)):
                bad.append(f'{f.name}: code cell {i} mixes imports with other code')
        exp = re.search(r'^#\|\s*default_exp (\S+)', '\n'.join(map(source, code)), re.M)
        if exp:
            number[exp[1]] = place(f)
            exported = [c for c in code if re.search(r'^#\|\s*export', source(c), re.M)]
            imports[exp[1]] = [m for c in exported for m in needed(c)]
    for mod, deps in imports.items():
        floor = number[mod][0]
        for d in deps:
            if d not in number or d == mod: continue
            if number[d][0] > floor or floor == 1 and number[d] >= number[mod]:
                bad.append(f'{mod} imports {d}: only from below')
    return bad


def readme():
    "README.md is the index notebook, as markdown; its pictures lie in nbs/images"
    from nbconvert import MarkdownExporter
    from traitlets.config import Config
    nb = nbformat.read(nbs/'index.ipynb', 4)
    nb.metadata['language_info'] = {'name': 'python'}
    cfg = Config({'RegexRemovePreprocessor': {'patterns': [r'#\|\s*hide'], 'enabled': True}})
    for c in nb.cells:
        if c.cell_type == 'code' and not re.match(r'#\|\s*hide', c.source):
            c.source, c.outputs = re.sub(r'^#\|.*\n', '', c.source, flags=re.M), []
    text, _ = MarkdownExporter(config=cfg).from_notebook_node(nb)
    text = text.replace('](images/', '](nbs/images/')
    # Imports stand alone in a notebook, not in a README
    text = re.sub(r'```\n\s*```python\n', '\n', text)
    return re.sub(r'\n{3,}', '\n\n', text).strip() + '\n'


def main():
    plain = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    p.add_argument('verb', choices=['run', 'check', 'front', 'readme'])
    p.add_argument('files', nargs='*', type=Path, help='notebooks; all when none is named')
    p.add_argument('--flags', nargs='*', default=[],
                   help='run: execute cells with these marks too (slow, peers)')
    p.add_argument('--check', action='store_true',
                   help='readme: write nothing, exit 1 when README.md is stale')
    a = p.parse_args()
    files = [f.resolve() for f in a.files] or notebooks()
    if a.verb == 'run': run(files, a.flags)
    if a.verb == 'check':
        bad = check(files)
        print('\n'.join(bad) or f'{len(files)} notebooks are fit to be read')
        sys.exit(bool(bad))
    if a.verb == 'front':
        for f in filter(front.has_front, files): front.write(f)
    if a.verb == 'readme':
        text, f = readme(), root/'README.md'
        if not a.check: f.write_text(text, encoding='utf-8')
        elif not f.exists() or f.read_text(encoding='utf-8') != text:
            sys.exit('README.md is stale: run `make prepare`')


if __name__ == '__main__': main()
