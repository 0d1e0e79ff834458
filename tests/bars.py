"""Run in an environment with the package, nbclient and ipykernel: is the progress of a training
shown in a terminal and in a notebook, whichever fastprogress is installed?"""
import io
import re
from contextlib import redirect_stdout
from importlib.metadata import version

import nbformat
from nbclient import NotebookClient

code = '''
from diffnb import fit, spiral
from diffnb.denoiser import Denoiser
from diffnb.unet import MLP
fit(Denoiser(MLP(width=8, layers=1)), spiral(100), steps=2, bs=8)
'''


class Terminal(io.StringIO):
    def isatty(self): return True


with redirect_stdout(Terminal()) as shown: exec(code)
assert re.search(r'█ *\| 100\.00% \[2/2 .*loss', shown.getvalue()), shown.getvalue()

nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
NotebookClient(nb, kernel_name='python3').execute()
pages = [str(o.get('data', {}).get('text/html')) for o in nb.cells[0].outputs]
assert any('<progress' in page and '[2/2 ' in page for page in pages), pages
print(f'fastprogress {version("fastprogress")}: bars in a terminal and in a notebook')
