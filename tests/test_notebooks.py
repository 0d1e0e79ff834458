"The notebooks as files: what a reader must never meet. The complaints themselves are tested on notebooks made to be bad"
import json
import sys
from pathlib import Path

import pytest

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root/'tools'))
import nbs  # noqa: E402

good = nbs.notebooks()


def test_there_are_notebooks(): assert len(good) >= 12


def test_notebooks_are_fit_to_be_read(): assert nbs.check(good) == []


def test_readme_is_the_index(): assert (root/'README.md').read_text(encoding='utf-8') == nbs.readme()


def broken(tmp_path, change):
    nb = json.loads((root/'nbs'/'02_angle.ipynb').read_text(encoding='utf-8'))
    change(nb)
    f = tmp_path/'02_angle.ipynb'
    f.write_text(json.dumps(nb), encoding='utf-8')
    return nbs.check([f, *[g for g in good if g.name[:2] in ('04', '05')]])


def lists(nb):
    "A source may be a list of lines, as in most files, or one string"
    for c in nb['cells']: c['source'] = ''.join(c['source']).splitlines(keepends=True)


def cell(source, outputs=()): return dict(cell_type='code', id='x', metadata={}, execution_count=None, source=source, outputs=list(outputs))


@pytest.mark.parametrize('change, says', [
    (lambda nb: nb['metadata'].update(widgets={}), 'widget state'),
    (lambda nb: nb['cells'].append(cell('1/0', [dict(output_type='error', ename='E', evalue='', traceback=[])])), 'is an error'),
    (lambda nb: nb['cells'].append(cell('x', [dict(output_type='stream', name='stdout', text='x'*600_000)])), 'over 500'),
    (lambda nb: nb['cells'].append(cell('import os\nos.getcwd()')), 'mixes imports'),
    (lambda nb: nb['cells'].append(cell('#| export\nfrom diffnb.samplers import ddim')), 'only from below'),
    (lambda nb: nb['cells'].append(cell('#| export\nimport diffnb.samplers')), 'only from below'),
    (lambda nb: nb['cells'].append(cell('#| export\nfrom diffnb import samplers')), 'only from below'),
    (lambda nb: nb['cells'].append(cell('#| export\nfrom .samplers import ddim')), 'only from below'),
    (lambda nb: nb['cells'].append(cell('#| export\nfrom . import samplers')), 'only from below'),
    (lambda nb: nb['cells'].append(cell('import os; os.getcwd()')), 'mixes imports'),
    (lambda nb: nb['cells'].append(cell('one two')), 'is not Python'),
    (lambda nb: [c.update(outputs=[]) for c in nb['cells'] if c['cell_type'] == 'code'], 'no outputs'),
])
def test_a_bad_notebook_is_noticed(tmp_path, change, says):
    assert broken(tmp_path, lambda nb: None) == [], 'nothing was bad before'
    assert any(says in complaint for complaint in broken(tmp_path, change))
    assert any(says in complaint for complaint in broken(tmp_path, lambda nb: (change(nb), lists(nb))))
