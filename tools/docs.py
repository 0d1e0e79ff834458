"The course as a web site: nbdev's own processing, then nbconvert. No Quarto"
import re
import shutil

import nbformat
from nbconvert import HTMLExporter

hidden = re.compile(r'^#\|\s*hide\b', re.M)


def neighbours(files, i):
    "Links to the notebook before and after"
    links = [f'[{name}]({files[j].stem}.html)' for j, name in ((i - 1, 'previous'), (i + 1, 'next')) if 0 <= j < len(files)]
    return nbformat.v4.new_markdown_cell(' | '.join(['[contents](index.html)', *links]))


def tidy(nb):
    "Drop hidden cells, directives, and links to notebooks"
    cells = []
    for c in nb.cells:
        if c.cell_type == 'raw' or c.cell_type == 'code' and hidden.search(c.source): continue
        if c.cell_type == 'markdown': c.source = re.sub(r'\]\((\w+)\.ipynb', r'](\1.html', c.source)
        else: c.source = re.sub(r'^#\|.*\n?', '', c.source, flags=re.M)
        if c.source.strip(): cells.append(c)
    nb.cells = cells
    return nb


def site(root, files):
    "Write every notebook and the index as pages under _docs/"
    out = root/'_docs'
    out.mkdir(exist_ok=True)
    exporter = HTMLExporter(template_name='lab', embed_images=True, exclude_input_prompt=True, exclude_output_prompt=True)
    files = sorted(files, key=lambda f: (f.stem != 'index', f.name))
    for i, f in enumerate(files):
        nb = tidy(nbformat.read(f, 4))
        nb.metadata['language_info'] = {'name': 'python', 'pygments_lexer': 'ipython3'}
        nb.cells = [neighbours(files, i), *nb.cells, neighbours(files, i)]
        body, _ = exporter.from_notebook_node(nb, resources={'metadata': {'name': f.stem, 'path': str(f.parent)}})
        (out/f'{f.stem}.html').write_text(body, encoding='utf-8')
        print(f'{f.stem}.html: {len(body) // 1000} kB', flush=True)
    if (root/'nbs'/'images').is_dir(): shutil.copytree(root/'nbs'/'images', out/'images', dirs_exist_ok=True)
    print(f'open {out/"index.html"} in a browser')
