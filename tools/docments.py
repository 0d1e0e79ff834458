"""Reference pages from docments: signatures, and for each argument the comment beside it.

The modules are read, not imported. `pages(root)` gives the text of every page, in MyST markdown.
"""
import ast
import io
import re
import tokenize
from pathlib import Path
from typing import NamedTuple

from house import floors, modules

special = re.compile(r'([\\*_<>\[\]$#|])')
shown = {'__call__'}                     # methods with underscores that people use


class Part(NamedTuple):
    "A function, a class or a value of a module"
    kind:str    # 'function', 'class', 'method', 'property' or 'data'
    name:str
    head:str    # The signature without the name, '(x: Tensor, n=3) -> Tensor'; '= 3' of a value
    doc:str     # Its docstring, or the comment beside a value
    args:dict   # {argument or field: its comment}
    returns:str # The comment beside the return annotation
    lines:tuple # First and last line in the file
    code:str    # A value that is longer than a line, as it stands in the file
    inner:list  # The methods of a class


def comments(text):
    "{number of a line: the comment at its end}"
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {t.start[0]: t.string.lstrip('#').strip() for t in tokens if t.type == tokenize.COMMENT}


class Reader:
    "One module, read"
    def __init__(self, text):
        self.text, self.comments = text, comments(text)
        self.rows, self.tree = text.splitlines(), ast.parse(text)
        self.doc = ast.get_docstring(self.tree) or ''

    def code(self, node): return ast.get_source_segment(self.text, node)

    def public(self):
        "The names in __all__, in the order of the file"
        names = next(ast.literal_eval(s.value) for s in self.tree.body
                     if isinstance(s, ast.Assign) and s.targets[0].id == '__all__')
        found = [p for s in self.tree.body for p in self.parts(s) if p.name in names]
        return [*{p.name: p for p in reversed(found)}.values()][::-1]    # the first of several

    def parts(self, node):
        "What a statement defines"
        if isinstance(node, ast.FunctionDef): return [self.function(node)]
        if isinstance(node, ast.ClassDef): return [self.klass(node)]
        targets = getattr(node, 'targets', [getattr(node, 'target', None)])
        if not isinstance(node, (ast.Assign, ast.AnnAssign)): return []
        return [self.value(node, t.id) for t in ast.walk(ast.Tuple(targets))
                if isinstance(t, ast.Name)]

    def value(self, node, name):
        short = f'= {self.code(node.value)}' if node.value else ''
        head = short if len(short) <= 60 and '\n' not in short else ''
        first, end = lines(node)
        code = '' if head or end - first > 20 else '\n'.join(self.rows[first - 1:end])
        return Part('data', name, head, self.beside(first), {}, '', (first, end), code, [])

    def alone(self, i):
        "Is there nothing but a comment on this line?"
        return i <= len(self.rows) and self.rows[i - 1].lstrip().startswith('#')

    def beside(self, i):
        "The comment at the end of a line, with the lines on which it goes on"
        said = [self.comments[i]] if i in self.comments else []
        while said and self.alone(i + 1):
            i += 1
            said.append(self.comments[i])
        return ' '.join(said)

    def arguments(self, a):
        "[(the argument as it stands in a signature, its name, its last line)]; '*' and '/' too"
        plain = [*a.posonlyargs, *a.args]
        values = [None]*(len(plain) - len(a.defaults)) + a.defaults
        out = [(self.one(p, v), p.arg, (v or p).end_lineno) for p, v in zip(plain, values)]
        if a.posonlyargs: out.insert(len(a.posonlyargs), ('/', None, None))
        if a.vararg: out.append(('*' + self.one(a.vararg), a.vararg.arg, a.vararg.end_lineno))
        elif a.kwonlyargs: out.append(('*', None, None))
        for p, v in zip(a.kwonlyargs, a.kw_defaults):
            out.append((self.one(p, v), p.arg, (v or p).end_lineno))
        if a.kwarg: out.append(('**' + self.one(a.kwarg), a.kwarg.arg, a.kwarg.end_lineno))
        return [o for o in out if o[1] not in ('self', 'cls')]

    def one(self, arg, value=None):
        "An argument with its annotation and default"
        kind = f': {self.code(arg.annotation)}' if arg.annotation else ''
        if value is None: return arg.arg + kind
        return arg.arg + kind + (' = ' if kind else '=') + ' '.join(self.code(value).split())

    def function(self, node, kind='function'):
        args = self.arguments(node.args)
        kind_of = f' -> {self.code(node.returns)}' if node.returns else ''
        head = '(' + ', '.join(a for a, _, _ in args) + ')' + kind_of
        ends = {name: end for _, name, end in args if name}
        last = {end: name for name, end in ends.items() if end > node.lineno}
        said = {name: self.beside(end) if last.get(end) == name else ''
                for name, end in ends.items()}
        after = node.returns.lineno if node.returns else max([node.lineno, *ends.values()]) + 1
        rest = [i for i in range(after, node.body[0].lineno)
                if i in self.comments and i not in ends.values() and not self.alone(i)]
        returns = self.beside(rest[0]) if rest else ''
        doc = ast.get_docstring(node) or ''
        return Part(kind, node.name, head, doc, said, returns, lines(node), '', [])

    def klass(self, node):
        doc = ast.get_docstring(node) or ''
        fields = [s for s in node.body if isinstance(s, ast.AnnAssign)]
        said = {s.target.id: self.beside(s.end_lineno) for s in fields}
        head = '(' + ', '.join(self.field(s) for s in fields) + ')' if fields else ''
        inner = []
        for s in node.body:
            if not isinstance(s, ast.FunctionDef): continue
            if s.name in ('__init__', '__new__'):
                made = self.function(s)
                head, said = made.head, made.args
            elif s.name[0] != '_' or s.name in shown:
                marks = {self.code(d) for d in s.decorator_list}
                kind = 'property' if marks & {'property', 'functools.cached_property'} else 'method'
                part = self.function(s, kind)
                if part.doc or any(part.args.values()): inner.append(part)
        return Part('class', node.name, head, doc, said, '', lines(node), '', inner)

    def field(self, s):
        value = f' = {self.code(s.value)}' if s.value else ''
        return f'{s.target.id}: {self.code(s.annotation)}{value}'


def lines(node):
    first = min([node.lineno, *(d.lineno for d in getattr(node, 'decorator_list', []))])
    return first, node.end_lineno


def words(text):
    "A comment or docstring as markdown: code stays code, papers become links, all else is itself"
    pieces = re.split(r'(`[^`]*`)', text)
    plain = [p if p[:1] == '`' else special.sub(r'\\\1', p) for p in pieces]
    if plain[0][:1] in {'-', '+'}: plain[0] = '\\' + plain[0]
    link = r'[arXiv:\1](https://arxiv.org/abs/\1)'
    return re.sub(r'arXiv:(\d{4}\.\d{4,5})', link, ''.join(plain))


def anchor(title):
    "Where a link to a heading leads, as JupyterLab has it"
    return title.replace(' ', '-')


def entry(part, source, depth=0):
    "A part as a directive of Sphinx's Python domain"
    fence = '`'*(6 - depth)
    value = part.kind in ('data', 'property')
    options = [f':value: {part.head[2:]}'] if part.kind == 'data' and part.head else []
    said = part.args if any(part.args.values()) else {}
    body = [words(part.doc), '']
    if part.code and not part.doc: body = []
    if part.code: body += ['```python', part.code, '```', '']
    body += [f':param {name}: {words(text)}' for name, text in said.items()]
    if part.returns: body.append(f':returns: {words(part.returns)}')
    if not depth: body += ['', f'[source]({source}#L{part.lines[0]}-L{part.lines[1]}){{.source}}']
    inner = [line for p in part.inner for line in ['', *entry(p, source, depth + 1)]]
    name = f'{fence}{{py:{part.kind}}} {part.name}' + ('' if value else part.head)
    return [name, *options, '', *body, *inner, fence]


def page(module, place, notebook, base, top):
    "The page of one module, from its file, its notebook's path below nbs/, and the site's settings"
    reader = Reader(place.read_text(encoding='utf-8'))
    source = f"{base}/diffnb/{module.replace('.', '/')}.py"
    public = reader.public()
    short = [p.name for p in public if p.name in top]
    also = f' In `diffnb.all`: {", ".join(f"`{n}`" for n in short)}.' if short else ''
    text = [f'# diffnb.{module}', '', f'> {words(reader.doc)}', '',
            f'Explained and tested in [its notebook](../{notebook}); the file is '
            f'[{place.name}]({source}).{also}', '',
            '```{py:module} ' + f'diffnb.{module}', '```', '']
    for part in public: text += [*entry(part, source), '']
    return '\n'.join(text)


def contents(root):
    "[(floor, module, notebook's path below nbs/)], in the order in which they are read"
    known = modules(root)
    order = sorted(known, key=lambda m: (known[m][0], known[m][1], m))
    return [(floors[known[m][0]], m, known[m][2].relative_to(root/'nbs').as_posix())
            for m in order]


def pages(root, base, top):
    "{module: the text of its page}"
    root = Path(root)
    return {m: page(m, root/'diffnb'/(m.replace('.', '/') + '.py'), notebook, base, top)
            for _, m, notebook in contents(root)}
