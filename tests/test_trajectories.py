"What the notebook shows of a measurement is what was measured"
import json
from pathlib import Path

root = Path(__file__).resolve().parent.parent


def test_the_table_of_the_slider_is_the_stored_one():
    nb = json.loads((root/'nbs'/'06_trajectories.ipynb').read_text(encoding='utf-8'))
    shown = [''.join(o['data'].get('text/markdown', '')) for c in nb['cells'] for o in c.get('outputs', []) if 'data' in o]
    record = json.loads((root/'results'/'scrubber.json').read_text())
    assert record['table']
    assert any(record['hardware'] in s and all(f'| {k} | {v} |' in s for k, v in record['table'].items()) for s in shown)
