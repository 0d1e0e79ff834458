"""The house: which module stands on which floor, who imports whom, and how large everything is.

    python tools/house.py            print the import graph and the sizes; exit 1 where a rule is
                                     broken
    python tools/house.py --graph F  write the graph as a picture, too

Rules: exported code imports only from below (kit, then lessons in their order, then apps); no
module imports a private name of another; no lesson has a line over 100 columns, or more cells than
`limit`.
"""
import argparse
import ast
import json
import re
import sys
from pathlib import Path

from front import badge

root = Path(__file__).resolve().parent.parent
floors = ['kit', 'lessons', 'apps']


def source(cell): return ''.join(cell['source'])


def modules(base=root):
    "{module: (floor, number, notebook)} of everything that is exported"
    out = {}
    for f in sorted((base/'nbs').rglob('*.ipynb')):
        if '.ipynb_checkpoints' in f.parts: continue
        cells = json.loads(f.read_text(encoding='utf-8'))['cells']
        names = [m[1] for c in cells if (m := re.match(r'#\|\s*default_exp\s+(\S+)', source(c)))]
        if not names: continue
        folder = f.parent.name
        floor = floors.index(folder) if folder in floors else 1
        out[names[0]] = floor, int(f.name[:2]) if f.name[:2].isdigit() else 0, f
    return out


def imports(module, known, base=root):
    """[(imported module, name or None, line)] of the exported file of a module, wherever the import
    stands"""
    fname = base/'diffnb'/(module.replace('.', '/') + '.py')
    package = ['diffnb', *module.split('.')[:-1]]
    out = []
    for node in ast.walk(ast.parse(fname.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            pairs = [(a.name, None) for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[:len(package) - node.level + 1] if node.level else []
            whole = '.'.join([*start, *([node.module] if node.module else [])])
            pairs = [(whole, a.name) for a in node.names]
        else: continue
        for whole, name in pairs:
            if not whole.startswith('diffnb'): continue
            inner = whole.removeprefix('diffnb').lstrip('.')
            if inner not in known and f'{inner}.{name}'.lstrip('.') in known:
                inner, name = f'{inner}.{name}'.lstrip('.'), None
            if inner in known and inner != module: out.append((inner, name, node.lineno))
    return out


def complaints(base=root):
    "What breaks a rule, in words"
    known, bad = modules(base), []
    for module, (floor, number, f) in known.items():
        for other, name, line in imports(module, known, base):
            above, at = known[other][:2]
            if above > floor or (floor == above == 1 and at >= number):
                bad.append(f'diffnb.{module}, line {line}: imports {other}, which stands above it')
            if name and name.startswith('_'):
                bad.append(f'diffnb.{module}, line {line}: imports the private name {name} of '
                           f'{other}')
        if floor == 1: bad += lesson_complaints(module, f, base)
    return bad + circles(known, base)


def written(text):
    "The lines that somebody wrote, with their numbers: without the list of names that nbdev makes"
    lines = list(enumerate(text.splitlines(), 1))
    cells = [i for i, line in lines
             if line.startswith('# %%') and not line.startswith('# %% auto')]
    start = cells[0] if cells else 1
    return [(i, line) for i, line in lines
            if (i >= start or i == 1) and not line.startswith('# %%')]


def wide_lines(text): return [i for i, line in written(text) if len(line) > 100]


def lesson_complaints(module, f, base):
    "Lines over 100 columns and too many cells in one lesson"
    text = (base/'diffnb'/f'{module}.py').read_text(encoding='utf-8')
    wide = wide_lines(text)
    cells = len(json.loads(f.read_text(encoding='utf-8'))['cells'])
    out = [f'diffnb.{module}, line {i}: over 100 columns' for i in wide]
    if cells > limit: out.append(f'{f.name}: {cells} cells, over {limit}')
    return out


limit = 80


def circles(known, base):
    "Modules that import each other, by whatever way"
    below = {m: {o for o, *_ in imports(m, known, base)} for m in known}
    def reach(m, seen):
        for o in below[m] - seen:
            seen.add(o)
            reach(o, seen)
        return seen
    return [f'diffnb.{m} imports itself by way of others' for m in known if m in reach(m, set())]


def sizes(base=root):
    """Rows of (floor, module, exported lines without blanks, raise statements, lines over 100,
    cells)"""
    rows = []
    in_order = sorted(modules(base).items(), key=lambda kv: kv[1][:2] + (kv[0],))
    for module, (floor, number, f) in in_order:
        text = (base/'diffnb'/(module.replace('.', '/') + '.py')).read_text(encoding='utf-8')
        lines = [s for _, s in written(text) if s.strip()]
        raises = sum(isinstance(n, ast.Raise) for n in ast.walk(ast.parse(text)))
        cells = len(json.loads(f.read_text(encoding='utf-8'))['cells'])
        rows.append((floors[floor], module, len(lines), raises, sum(len(s) > 100 for s in lines),
                     cells))
    return rows


def report(base=root):
    "The graph and the sizes, as text"
    known = modules(base)
    out = [f'{"module":<18} imports']
    for module in sorted(known, key=lambda m: known[m][:2] + (m,)):
        below = sorted({o for o, *_ in imports(module, known, base)},
                       key=lambda m: known[m][:2] + (m,))
        out.append(f'{module:<18} {" ".join(below) or "-"}')
    out += ['', f'{"floor":<8} {"module":<18} {"lines":>6} {"raise":>6} {">100":>6} {"cells":>6}']
    rows = sizes(base)
    out += [f'{a:<8} {b:<18} {c:>6} {d:>6} {e:>6} {g:>6}' for a, b, c, d, e, g in rows]
    for floor in floors:
        mine = [r for r in rows if r[0] == floor]
        out.append(f'{floor:<8} {"together":<18} ' + ' '.join(
            f'{sum(r[i] for r in mine):>6}' for i in range(2, 6)))
    out.append(f'{"all":<8} {"":<18} {sum(r[2] for r in rows):>6} {sum(r[3] for r in rows):>6}')
    out += ['', *short_way(base)]
    return '\n'.join(out)


way = '00', '02', '03', '05', '09', '10'      # the two-hour way
way_cells, way_words = 320, 9000              # what it may hold at most


def cells_and_words(f):
    "How many cells a notebook has, and how many words of text stand in them; a badge is no word"
    cells = json.loads(f.read_text(encoding='utf-8'))['cells']
    text = [badge.sub('', source(c)) for c in cells if c['cell_type'] == 'markdown']
    return len(cells), sum(len(t.split()) for t in text)


def short_way(base=root):
    "Cells and words of the lessons on the two-hour way, as lines of text"
    lessons = [next((base/'nbs').glob(f'{number}_*.ipynb')) for number in way]
    rows = [(f.stem, *cells_and_words(f)) for f in lessons]
    rows.append(('together', sum(r[1] for r in rows), sum(r[2] for r in rows)))
    rows.append(('at most', way_cells, way_words))
    return [f'{"two-hour way":<22} {"cells":>6} {"words":>6}',
            *(f'{name:<22} {cells:>6} {words:>6}' for name, cells, words in rows)]


def too_long(base=root):
    "What the two-hour way holds too much of"
    cells, words = (int(n) for n in short_way(base)[-2].split()[1:])
    if cells <= way_cells and words <= way_words: return []
    return [f'the two-hour way has {cells} cells and {words} words: at most {way_cells} and '
            f'{way_words}']


def draw(fname, base=root):
    """The graph as a picture: floors from below to above, an arrow from each module to what it
    imports"""
    import matplotlib.pyplot as plt
    known = modules(base)
    at = {}
    for floor in range(3):
        mine = sorted((m for m in known if known[m][0] == floor), key=lambda m: (known[m][1], m))
        for i, m in enumerate(mine): at[m] = ((i + .5)/len(mine)*12, floor*3 + (i % 2)*.8)
    fig, ax = plt.subplots(figsize=(13, 8), layout='constrained')
    for m in known:
        for o in {o for o, *_ in imports(m, known, base)}:
            ax.annotate('', at[o], at[m], arrowprops=dict(arrowstyle='->', color='C0', alpha=.3))
    for m, (x, y) in at.items():
        ax.text(x, y, m.split('.')[-1], ha='center', va='center',
                bbox=dict(boxstyle='round', fc='w', ec='0.6'))
    ax.set(xlim=(-.2, 12.4), ylim=(-.7, 7.6))
    ax.axis('off')
    fig.savefig(fname, dpi=100)


def main():
    plain = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    p.add_argument('--graph', type=Path, help='write the graph as a picture')
    a = p.parse_args()
    print(report())
    if a.graph: draw(a.graph)
    bad = [*complaints(), *too_long()]
    print('\n'.join(['', *bad]) if bad else '\nevery arrow points down')
    sys.exit(bool(bad))


if __name__ == '__main__': main()
