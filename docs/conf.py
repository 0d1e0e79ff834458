"Settings of Sphinx. The site is made by tools/docs.py, which lays out the pages first"
import re
import struct
from configparser import ConfigParser
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.addnodes import pending_xref

root = Path(__file__).resolve().parent.parent
settings = ConfigParser(delimiters=['='])
settings.read(root/'settings.ini', encoding='utf-8')
settings = settings['DEFAULT']

project = html_title = settings['lib_name']
author, version = settings['author'], settings['version']
copyright = f"2026, {author}"
extensions = ['myst_nb', 'sphinx_copybutton']
root_doc = 'index'

nb_execution_mode = 'off'
nb_merge_streams = True
nb_render_markdown_format = 'myst'
nb_number_source_lines = False
myst_enable_extensions = ['dollarmath', 'amsmath', 'fieldlist', 'attrs_inline']
myst_heading_anchors = 4
myst_dmath_allow_labels = False
suppress_warnings = ['myst.header']
myst_heading_slug_func = 'docments.anchor'

html_math_renderer = 'mathml'
html_theme = 'sphinx_book_theme'
html_static_path = ['_static']
html_css_files = ['site.css']
html_js_files = ['site.js']
html_logo = '_static/logo.svg'
html_favicon = '_static/logo.svg'
html_copy_source = False
html_show_sphinx = False
html_theme_options = dict(
    navbar_start=[], navbar_center=[], navbar_end=[], navbar_persistent=[],
    repository_url=settings['git_url'], repository_branch=settings['branch'],
    use_repository_button=True, use_download_button=False, use_fullscreen_button=False,
    use_issues_button=True, show_navbar_depth=1, home_page_in_toc=False,
    pygments_light_style='default', pygments_dark_style='github-dark')
html_context = dict(default_mode='auto')
nb_code_prompt_show = 'Show the code'
nb_code_prompt_hide = 'Hide the code'
python_use_unqualified_type_names = True
add_module_names = False
copybutton_exclude = '.linenos, .gp'


def size_of(f):
    "(width, height) of a PNG file"
    head = Path(f).read_bytes()[:24]
    return struct.unpack('>II', head[16:24]) if head[:4] == b'\x89PNG' else (1, 1)


def mark_wide_pictures(app, doctree):
    "Pictures that would be too small to read on a phone: these scroll there"
    for image in doctree.findall(nodes.image):
        places = Path(app.srcdir)/image['uri'], Path(image['uri'])
        f = next((p for p in places if p.is_file()), None)
        if f is None: continue
        width, height = size_of(f)
        image.setdefault('alt', 'What the code above draws')
        image['width'], image['classes'] = f'{width}px', image['classes'] + ['drawn']
        if width > 480 and width > 1.5*height: image['classes'].append('wide')


def link_names(app, doctree):
    "`mix` in a sentence leads to its place in the library"
    names = app.public_names
    for literal in list(doctree.findall(nodes.literal)):
        name = re.sub(r'\(.*\)$', '', literal.astext())
        if name not in names or isinstance(literal.parent, (nodes.title, nodes.reference)): continue
        target = f'diffnb.{names[name]}.{name}'
        xref = pending_xref('', refdomain='py', reftype='obj', reftarget=target, refexplicit=True,
                            refdoc=app.env.docname)
        literal.replace_self(xref)
        xref += literal


called = re.compile(r'(<mi>(?:sin|cos|tan|log|exp)</mi>(?!<m[no]|</m)'
                    r'|<msup><mi>(?:sin|cos|tan|log)</mi><m[nio]>[^<]*</m[nio]></msup>)(?=<m[in])')


def mathml(text, display):
    "TeX as MathML, which browsers draw by themselves; 'sin x' is not 'sinx'"
    return called.sub(r'\1<mspace width="0.17em"></mspace>', convert(text, display=display))


def inline_formula(writer, node):
    writer.body.append(mathml(node.astext(), 'inline'))
    raise nodes.SkipNode


def formula(writer, node):
    writer.body.append(f'<div class="formula">{mathml(node.astext(), "block")}</div>')
    raise nodes.SkipNode


def setup(app):
    import diffnb
    app.add_html_math_renderer('mathml', (inline_formula, None), (formula, None))
    app.public_names = diffnb.names
    app.connect('doctree-read', mark_wide_pictures)
    app.connect('doctree-read', link_names)
