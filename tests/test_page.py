"The playground: its folder is complete, and its network in Node says what ours says"
import base64
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import playground

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root/'tools'))
import page  # noqa: E402


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp('site')/'playground'
    page.build(out)
    return out


def test_the_folder_is_complete_and_light(folder):
    text = (folder/'index.html').read_text(encoding='utf-8')
    wanted = {'index.html', *re.findall(r'(?:src|href)="([\w.-]+)"', text)}
    wanted |= {f'{name}.js' for name in page.models}
    assert {f.name for f in folder.iterdir()} == wanted > {'page.js', 'still.png', 'style.css'}
    assert sum(f.stat().st_size for f in folder.iterdir()) < 4_000_000


@pytest.mark.parametrize('name', page.models)
def test_the_weights_are_the_file_of_the_package(folder, name):
    text = (folder/f'{name}.js').read_text(encoding='utf-8')
    said, data = re.fullmatch(r"diffnb\.weights\('(\S+)', '(\S+)'\)\n", text).groups()
    assert said == name and len(data) > 1_000_000
    assert base64.b64decode(data) == (root/'diffnb'/f'{name}.safetensors').read_bytes()


def test_nothing_comes_from_elsewhere():
    for f in page.source.iterdir():
        found = re.findall(r'(?:https?:)?//[\w.-]+\.\w+/', f.read_text(encoding='utf-8'))
        assert not found, (f.name, found)


def test_the_lessons_that_it_names_are_there(tmp_path, folder):
    text = (folder/'index.html').read_text(encoding='utf-8')
    links = re.findall(r'href="\.\./(\w+)\.html"', text)
    assert len(links) > 4
    assert not [name for name in links if not (root/'nbs'/f'{name}.ipynb').exists()]
    page.build(tmp_path/'there', '../lessons/{}/')
    text = (tmp_path/'there'/'index.html').read_text(encoding='utf-8')
    assert [f'../lessons/{name}/' for name in links] == re.findall(r'href="(\.\./\S+)"', text)


def test_the_picture_shows_a_walk(folder):
    import numpy as np
    from PIL import Image
    pic = np.asarray(Image.open(folder/'still.png'))
    columns = [pic[:30, 30*i:30*i + 30] for i in range(7)]
    dark = [(c < 20).mean() for c in columns]
    assert pic.shape == (90, 210) and dark[-1] > .5 > dark[0]


def in_node(code, *words, said=''):
    "Run this, with the network's script as `network`"
    node = shutil.which('node')
    if node is None: pytest.skip('there is no Node here; test_browser.py asks Chromium the same')
    program = f'const network = require({json.dumps(str(page.source/"network.js"))}); {code}'
    return subprocess.run([node, '-e', program, *words], input=said, capture_output=True, text=True,
                          timeout=300)


@pytest.mark.parametrize('name', page.models)
@pytest.mark.parametrize('plain', ['false', 'true'])
def test_the_network_in_node_says_what_ours_says(name, plain):
    "With WebAssembly, and in plain JavaScript"
    q = playground.questions(name)
    r = in_node(f'''
        const [text, questions] = JSON.parse(require('fs').readFileSync(0))
        const bytes = Uint8Array.from(Buffer.from(text, 'base64')).buffer
        const diffnb = network({{plain: {plain}}})
        if (diffnb.vectors === {plain}) throw new Error('this is not the inner loop that was meant')
        console.log(JSON.stringify(({playground.answers})(diffnb, bytes, questions)))''',
        said=json.dumps([playground.text(name), q]))
    assert r.returncode == 0, r.stderr
    playground.check(name, q, json.loads(r.stdout))


def test_a_network_of_another_kind_is_refused(tmp_path):
    file = tmp_path/'other.safetensors'
    data = (root/'diffnb'/'mnist-turns.safetensors').read_bytes()
    file.write_bytes(data.replace(b'GELU', b'SiLU'))
    r = in_node('''
        const bytes = require('fs').readFileSync(process.argv[1])
        network().readModel(Uint8Array.from(bytes).buffer)''', str(file))
    assert r.returncode == 1 and 'act is "SiLU"; network.js knows only "GELU"' in r.stderr, r.stderr
