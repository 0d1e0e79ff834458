"""The tables that a notebook shows, cell by cell (a number is looked for in its own row), and those
that a run writes"""
import json
from pathlib import Path

root = Path(__file__).resolve().parent.parent


def source(cell): return ''.join(cell['source'])


def cells(name): return json.loads((root/'nbs'/name).read_text(encoding='utf-8'))['cells']


def texts(name):
    "Every output of a notebook that is Markdown"
    shown = [o.get('data', {}) for c in cells(name) for o in c.get('outputs', ())]
    return [''.join(data['text/markdown']) for data in shown if 'text/markdown' in data]


def rows(name):
    "Every row of every table in the outputs of a notebook: a list of its cells"
    lines = [line for s in texts(name) for line in s.splitlines() if line.startswith('|')]
    return [[c.strip(' *') for c in line.split('|')[1:-1]] for line in lines]


def shows(rows, *wanted):
    "Is there a row that holds all of these? `1.20` stands for the cells `1.20` and `1.20 ± 0.03`"
    def holds(row, w): return any(f'{c} '.startswith(f'{w} ') for c in row)
    return any(all(holds(row, w) for w in wanted) for row in rows)


def run_table(folder):
    "The table of a run, the head first, but for speeds: [step, loss, rate, norm of the gradient]"
    return [line.split(',')[:4] for line in (folder/'log.csv').read_text().splitlines()]
