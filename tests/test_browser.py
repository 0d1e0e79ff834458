"""The slider in a real browser: JupyterLab runs the course's own notebooks in Debian's Chromium,
then keys and mouse move the slider, and what the screen shows is compared.

Where there is no Chromium these tests are skipped, and say so; with CI=true that is a failure.
Where there is one, a browser that does not start is always a failure.
"""
import json
import os
import re
import time

import lab as driver
import numpy as np
import pytest
import torch

root = driver.root
slow = re.compile(r'^#\|\s*(eval:\s*false|slow|peers)\b', re.M)
shown = '.jp-NotebookPanel:not(.lm-mod-hidden) .jp-OutputArea-output'
cut = """broken = slider(steps, items=4)
broken.links[1].unlink()
broken.add_class('cut-link')
broken"""
extra = {'06_trajectories.ipynb': [cut]}  # for the test of the test


def missing():
    "What a test without a browser ends in"
    says = 'there is no Chromium here; Debian: apt install chromium'
    if os.environ.get('CI', '').lower() in ('true', '1'):
        pytest.fail(f'BROWSER TEST FAILED: {says}', pytrace=False)
    pytest.skip(f'BROWSER TEST SKIPPED: {says}')


@pytest.fixture(scope='module')
def chromium():
    if driver.chromium is None: missing()
    with driver.browser() as b: yield b


@pytest.fixture(scope='module')
def lab(chromium):
    "After the browser: without one there is nothing to start"
    with driver.Lab(env=dict(IN_TEST='1')) as it: yield it


def wait(f, what, seconds=30):
    "The machine may be busy: ask again until it is so"
    end = time.time() + seconds
    while not (got := f()):
        if time.time() > end: raise AssertionError(f'waited {seconds} s for {what}')
        time.sleep(.02)
    return got


class Scrubber:
    """A slider in JupyterLab or in a page of its own, as a person meets it: a picture, its words, a
    handle"""
    def __init__(self, page, root, handle):
        self.page, self.root, self.handle = page, root, root.locator(handle).first

    def words(self): return self.root.evaluate("r => r.querySelector('.diffnb-walks img').alt")
    def caption(self):
        return self.root.evaluate("r => r.querySelector('.diffnb-walks figcaption').innerText")
    def pixels(self):
        """What the screen shows where the picture is (the element itself is another one after every
        move)"""
        box = self.root.evaluate('''r => {
            const all = r.getBoundingClientRect()
            if (all.top < 80 || all.bottom > innerHeight) r.scrollIntoView({block: 'center'})
            const b = r.querySelector('.diffnb-walks img').getBoundingClientRect()
            return {x: b.x, y: b.y, width: b.width, height: b.height} }''')
        return driver.pixels(self.page, clip=box)

    def moved(self, act):
        "Do something; the pixels and the words of before and after"
        before, said = self.pixels(), self.words()
        act()
        try: wait(lambda: self.words() != said, 'another picture', 10)
        except AssertionError:
            says = f'the slider was moved, and the picture stayed at "{said}"'
            raise AssertionError(says) from None
        loaded = '''r => {
            const i = r.querySelector('.diffnb-walks img')
            return i.complete && i.naturalWidth > 0
        }'''
        wait(lambda: self.root.evaluate(loaded), 'the picture to be loaded')
        time.sleep(.1)
        after = self.pixels()
        changed = before.shape == after.shape and (before != after).mean() > .02
        assert changed, 'the words changed, the picture did not'
        return after, self.words()

    def take(self):
        """Give it the keyboard; JupyterLab may take it back once, while another cell becomes the
        active one"""
        def held():
            self.handle.focus()
            time.sleep(.15)
            return self.handle.evaluate('e => e === document.activeElement')
        wait(held, 'the slider to have the keyboard')

    def press(self, key):
        def act():
            self.take()
            self.page.keyboard.press(key)
        return act

    def drag(self, dx):
        native = self.handle.evaluate('e => e.tagName') == 'INPUT'
        box = self.knob() if native else self.handle.bounding_box()
        x, y = box['x'] + box['width']/2, box['y'] + box['height']/2
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x + dx/2, y, steps=4)
        self.page.mouse.move(x + dx, y, steps=4)
        self.page.mouse.up()

    def knob(self):
        "Where the knob of a native range input is"
        box, share = self.handle.bounding_box(), self.handle.evaluate('e => e.value/e.max')
        return dict(x=box['x'] + 8 + share*(box['width'] - 16), y=box['y'], width=0,
                    height=box['height'])


def check(s):
    """Keyboard and mouse move the picture and its words, and every way back leads to the same
    picture"""
    # JupyterLab keeps in sight the cell that was clicked last
    s.root.locator('.diffnb-walks figcaption').first.click(timeout=60_000)
    if ' step 0 ' not in f' {s.words()}'.replace(':', ' '): s.moved(s.press('Home'))
    start, said = s.pixels(), s.words()
    one, word = s.moved(s.press('ArrowRight'))
    assert 'step 1 ' in word and '1/' in s.caption() and 'degrees, sigma' in word
    end, word = s.moved(s.press('End'))
    assert 'sigma 0.00' in word and '0.0°' in s.caption()
    assert (end != one).mean() > .1
    home, word = s.moved(s.press('Home'))
    assert word == said and (home == start).all()
    again, _ = s.moved(s.press('ArrowRight'))
    assert (again == one).all()
    dragged, word = s.moved(lambda: s.drag(90))
    assert not any((dragged == o).all() for o in (start, one, end))
    assert 2 <= int(word.split('step ')[1].split()[0])
    s.moved(s.press('ArrowLeft'))


def scrubbers(page): return page.locator(f'{shown} .diffnb-scrubber')


def run(lab, chromium, name):
    "A copy of the notebook in JupyterLab, run from top to bottom"
    nb = json.loads((root/'nbs'/name).read_text(encoding='utf-8'))
    for c in nb['cells']:
        c.get('outputs', []).clear()  # what is seen was made here
        if c['cell_type'] == 'code' and slow.search(''.join(c['source'])):
            c['source'] = '# takes long: not in the tests'
    nb['cells'] += [dict(cell_type='code', id=f'extra{i}', metadata={}, execution_count=None,
                         outputs=[], source=s) for i, s in enumerate(extra.get(name, []))]
    (lab.nbs/name).parent.mkdir(parents=True, exist_ok=True)
    (lab.nbs/name).write_text(json.dumps(nb), encoding='utf-8')
    page = chromium.new_page(viewport=dict(width=1300, height=1000))
    lab.open(page, name)
    error = lab.run_all(page)
    assert not error, error
    assert not driver.broken(page), driver.broken(page)
    return page


@pytest.mark.parametrize('name', ['06_trajectories.ipynb', 'kit/scrubber.ipynb'])
def test_the_slider_moves_in_jupyterlab_and_goes_on_when_the_kernel_is_gone(lab, chromium, name):
    page = run(lab, chromium, name)
    found = scrubbers(page)
    wait(lambda: found.count() >= 1 + len(extra.get(name, [])), 'a slider', 60)
    alive = Scrubber(page, found.first, '.noUi-handle')
    if name not in extra:
        check(alive)
        named(alive)
    else:
        cut = Scrubber(page, page.locator('.diffnb-scrubber.cut-link'), '.noUi-handle')
        with pytest.raises(AssertionError, match='the picture stayed'): check(cut)
        check(alive)
        named(alive)
        plays(alive)
    lab.end_kernels()
    assert lab.api('kernels') == []
    check(alive)
    assert not driver.broken(page), driver.broken(page)
    page.close()


def test_the_playground_draws_and_its_slider_moves(lab, chromium):
    name = 'apps/playground.ipynb'
    page = run(lab, chromium, name)
    out = page.locator(f'{shown}:has(.widget-button:has-text("draw"))').first
    new = out.locator('.diffnb-scrubber:not(.seen-before)')
    wait(lambda: new.count(), 'the playground to draw its first walk', 120)
    first = Scrubber(page, new.first, '.noUi-handle')
    check(first)
    handles = out.locator('.diffnb-controls .noUi-handle').all()
    names = [o.get_attribute('aria-label') for o in handles]
    assert names == ['seed', 'calls', 'eta', 'guidance']
    assert out.locator('[role=progressbar]').first.get_attribute('aria-label')
    ends, _ = first.moved(first.press('End'))
    new.first.evaluate("e => e.classList.add('seen-before')")
    seed = Scrubber(page, out, '.noUi-handle')  # the first slider of all is the seed
    seed.press('ArrowRight')()
    out.locator('.widget-button:has-text("draw")').click(timeout=60_000)
    wait(lambda: new.count(), 'the draw button to make a new walk', 120)
    second = Scrubber(page, new.first, '.noUi-handle')
    check(second)
    assert (second.moved(second.press('End'))[0] != ends).any(), 'another seed drew the same images'
    assert not driver.broken(page), driver.broken(page)
    lab.end_kernels()
    check(second)
    page.close()


def one_cell(lab, chromium, source):
    "What run_all and broken say of a notebook with this cell"
    cell = dict(cell_type='code', id='a', metadata={}, execution_count=None, outputs=[])
    spec = dict(display_name='Python 3 (ipykernel)', language='python', name='python3')
    nb = dict(cells=[dict(cell, source=source)], metadata=dict(kernelspec=spec))
    text = json.dumps(dict(nb, nbformat=4, nbformat_minor=5))
    (lab.nbs/'broken.ipynb').write_text(text, encoding='utf-8')
    page = chromium.new_page()
    lab.open(page, 'broken.ipynb')
    said = lab.run_all(page), driver.broken(page)
    lab.end_kernels()
    page.close()
    return said


def test_what_breaks_is_noticed(lab, chromium):
    widget = "import ipywidgets\nw = ipywidgets.HTML('x')\nw._view_name = 'Nobody'\nw"
    error, broken = one_cell(lab, chromium, widget)
    assert error == '' and broken
    error, broken = one_cell(lab, chromium, '1/0')
    assert 'ZeroDivisionError' in error and broken == ''
    assert one_cell(lab, chromium, '1/1') == ('', '')


def named(s):
    """A screen reader has a name for every control, and words for where the slider stands, those of
    every walk"""
    controls = s.root.locator('.widget-play button, .noUi-handle').all()
    assert len(controls) > 1 and all(o.get_attribute('aria-label') for o in controls)
    def all_words():
        pictures = s.root.locator('.diffnb-walks img').all()
        return '; '.join(o.get_attribute('alt') for o in pictures if o.is_visible())
    wait(lambda: s.handle.get_attribute('aria-valuetext') == all_words(), 'the words of the slider')


def plays(s):
    "Play moves on by itself, a second click stops it"
    s.moved(s.press('Home'))
    button = s.root.locator('.widget-play button').first
    said = s.words()
    button.click()
    wait(lambda: s.words() != said, 'the play button to move the slider')
    button.click()
    time.sleep(1)
    said = s.words()
    time.sleep(1)
    assert s.words() == said and 'step 0 ' not in said
    s.moved(s.press('Home'))


def test_the_page_works_from_a_file(chromium, tmp_path):
    from diffnb.samplers import Step
    from diffnb.kit.scrubber import scrubber_html
    g = torch.Generator().manual_seed(0)
    steps = [Step(*torch.randn(2, 16, 1, 16, 16, generator=g), torch.tensor(1.57*(1 - i/59)))
             for i in range(60)]
    f = scrubber_html({'<!--<script> & two': steps, 'every third': steps[::3] + steps[-1:]},
                      tmp_path/'with space.html', items=16)
    assert f.stat().st_size < 1_000_000
    page, asked, errors = chromium.new_page(viewport=dict(width=1100, height=800)), [], []
    def request(r):
        if not r.url.startswith(('data:', 'file:')): asked.append(r.url)
    page.on('request', request)
    page.on('pageerror', lambda e: errors.append(str(e)))
    page.goto(f.as_uri())
    s = Scrubber(page, page.locator('body'), '#bar')
    check(s)
    page.keyboard.press('Home')
    s.handle.evaluate('e => e.blur()')  # keys work wherever one is on the page
    s.moved(lambda: page.keyboard.press('ArrowRight'))
    said = s.words()
    page.keyboard.press('Space')
    assert page.locator('#play').inner_text() == 'Pause'
    wait(lambda: s.words() != said, 'the space bar to play')
    page.keyboard.press('Space')
    wait(lambda: page.locator('#play').inner_text() == 'Play', 'the button to say Play')
    words = '; '.join(o.get_attribute('alt') for o in page.locator('img').all())
    assert page.locator('#bar').get_attribute('aria-valuetext') == words
    assert page.locator('label').count() == 2
    assert s.words().startswith('<!--<script> & two: step') and asked == [] and errors == []
    page.close()


def test_the_page_shows_its_last_frame_where_nothing_runs(chromium, tmp_path):
    from diffnb.samplers import Step
    from diffnb.kit.scrubber import scrubber_html
    steps = [Step(*torch.full((2, 4, 1, 16, 16), i/5), torch.tensor(1.5 - .3*i)) for i in range(6)]
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(scrubber_html(steps, tmp_path/'walk.html').as_uri())
    assert 'step 5 of 5' in page.locator('img').get_attribute('alt')
    assert np.ptp(driver.pixels(page)) > 0
    context.close()


@pytest.fixture(scope='module')
def playground_folder(tmp_path_factory):
    "What tools/page.py makes"
    import sys
    sys.path.insert(0, str(root/'tools'))
    import page
    out = tmp_path_factory.mktemp('site')/'playground'
    page.build(out)
    return out


@pytest.fixture(scope='module')
def served(playground_folder):
    "Its address on a plain static server"
    import functools
    import threading
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_): pass

    handler = functools.partial(Quiet, directory=playground_folder.parent)
    with ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_address[1]}/playground/'
        server.shutdown()


class Playground:
    "The playground in a page, as a person meets it"
    def __init__(self, page, address):
        self.page, self.asked, self.errors = page, [], []
        page.on('request', lambda r: self.asked.append(r.url))
        page.on('pageerror', lambda e: self.errors.append(str(e)))
        page.on('console', lambda m: self.errors.append(m.text) if m.type == 'error' else None)
        page.goto(address)
        self.drawn()

    def said(self): return self.page.locator('#said').inner_text()
    def stop(self): return self.page.locator('#stop-words').inner_text()

    def drawn(self):
        "Wait until the walk is complete; what the page says of it"
        wait(lambda: self.said().endswith(' s'), 'the walk to end', 60)
        return self.said()

    def pictures(self):
        "The numbers of the three pictures"
        return [self.page.locator(f'#{name}').evaluate(
            "c => [...c.getContext('2d').getImageData(0, 0, 28, 28).data]")
            for name in ('mixture', 'image', 'noise')]

    def changed(self, slider, key):
        "Press a key on a slider; the three pictures before, and after the new walk has ended"
        before = self.pictures()
        self.page.locator(f'#{slider}').focus()
        self.page.keyboard.press(key)
        self.drawn()
        return before, self.pictures()


@pytest.mark.parametrize('name', ['mnist-labels', 'mnist-turns-labels'])
def test_the_network_of_the_page_says_what_ours_says(chromium, served, name):
    import playground
    page, q = chromium.new_page(), playground.questions(name)
    page.goto(served)
    got = page.evaluate(f'''([text, questions]) => {{
        const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer
        return ({playground.answers})(network(), bytes, questions) }}''',
        [playground.text(name), q])
    playground.check(name, q, got)
    page.close()


def test_every_slider_of_the_page_draws_another_walk(chromium, served):
    p = Playground(chromium.new_page(viewport=dict(width=1200, height=900)), served)
    assert p.said().startswith('20 calls, 40 passes through the network, ')
    assert p.stop() == '20 of 20, 0.0°'
    for slider, key in [('seed', 'ArrowRight'), ('label', 'ArrowRight'), ('guidance', 'End')]:
        before, after = p.changed(slider, key)
        assert all(a != b for a, b in zip(before, after)), slider
    _, again = p.changed('seed', 'ArrowLeft')
    before, after = p.changed('calls', 'Home')
    assert p.said().startswith('1 call, 2 passes') and p.stop() == '1 of 1, 0.0°'
    assert before != after
    p.page.locator('#calls').evaluate('e => { e.value = 20; e.form.oninput({target: e}) }')
    p.drawn()
    assert p.pictures() == again, 'the same settings drew something else'
    p.changed('label', 'Home')
    assert p.page.locator('#guidance').is_disabled() and p.said().startswith('20 calls, ')
    assert 'passes' not in p.said() and p.errors == []
    p.page.close()


def test_the_page_draws_in_one_call(chromium, served):
    p = Playground(chromium.new_page(), served)
    before = p.pictures()
    p.page.locator('#calls').press('End')  # a walk that is still going on
    p.page.locator('[value=mnist-turns-labels]').check()
    wait(lambda: p.said().startswith('1 call, '), 'the other network')
    assert p.pictures() != before and p.page.locator('#calls').get_attribute('max') == '8'
    assert p.page.locator('#guidance').is_disabled()
    assert p.page.locator('#label').get_attribute('min') == '0'
    four, five = p.changed('label', 'ArrowRight')
    assert four != five and 'passes' not in p.said()
    p.changed('calls', 'End')
    assert p.said().startswith('8 calls, ') and p.stop() == '8 of 8, 0.0°' and p.errors == []
    p.page.close()


def test_the_walk_of_the_page_can_be_scrubbed(chromium, served):
    p = Playground(chromium.new_page(viewport=dict(width=1200, height=900)), served)
    end, stop = p.pictures(), p.page.locator('#stop')
    stop.focus()
    p.page.keyboard.press('Home')
    first = p.pictures()
    assert p.stop() == '0 of 20, 88.9°' and all(a != b for a, b in zip(first, end))
    assert stop.get_attribute('aria-valuetext') == '0 of 20, 88.9 degrees'
    assert p.page.locator('#signal').inner_text() == '0.02'
    assert p.page.locator('#rate').inner_text() == '1.00'
    p.page.keyboard.press('ArrowRight')
    assert p.stop().startswith('1 of 20, ') and p.pictures() != first
    p.changed('guidance', 'ArrowRight')
    assert p.stop().startswith('1 of 20, '), 'another walk moved the stop'
    p.page.locator('#play').click()
    wait(lambda: p.stop() == '20 of 20, 0.0°', 'the play button to reach the end')
    wait(lambda: p.page.locator('#play').inner_text() == 'Play', 'the button to say Play')
    box = p.page.locator('#strip').bounding_box()
    p.page.mouse.click(box['x'] + 3.5/21*box['width'], box['y'] + 5)
    assert p.stop().startswith('3 of 20, ') and p.errors == []
    p.page.close()


@pytest.mark.parametrize('width', [320, 1200])
@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_the_page_fits_and_has_names(chromium, served, width, scheme):
    view = dict(width=width, height=800)
    p = Playground(chromium.new_page(viewport=view, color_scheme=scheme), served)
    assert p.page.evaluate('document.documentElement.scrollWidth') <= width
    ground = p.page.evaluate('getComputedStyle(document.body).backgroundColor')
    assert (sum(map(int, re.findall(r'\d+', ground))) < 200) == (scheme == 'dark')
    for o in p.page.locator('input[type=range]').all():
        assert o.evaluate('e => e.labels.length') == 1 and o.get_attribute('aria-valuetext')
    assert all(o.get_attribute('aria-label') for o in p.page.locator('canvas[role=img]').all())
    assert all(url.startswith((served, 'blob:', 'data:')) for url in p.asked) and p.errors == []
    p.page.close()


def test_the_page_runs_from_a_disk(chromium, playground_folder):
    p = Playground(chromium.new_page(), (playground_folder/'index.html').as_uri())
    assert p.said().startswith('20 calls, ') and p.errors == []
    p.page.close()


def seen(page): return page.locator('#still').is_visible(), page.locator('#app').is_visible()


def test_the_page_is_a_picture_where_nothing_runs(chromium, served):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(served)
    assert seen(page) == (True, False) and 'JavaScript' in page.locator('#sorry').inner_text()
    assert page.locator('#still img').get_attribute('alt').startswith('Seven stops')
    context.close()


@pytest.mark.parametrize('what', ['worker', 'weights'])
def test_the_page_is_a_picture_where_something_is_missing(chromium, served, what):
    page = chromium.new_page()
    if what == 'worker': page.add_init_script('delete window.Worker')
    else: page.route('**/mnist-labels.js', lambda route: route.abort())
    page.goto(served)
    wait(lambda: seen(page) == (True, False), 'the picture')
    says = dict(worker='Worker is not defined', weights='mnist-labels.js is not there')[what]
    assert says in page.locator('#sorry').inner_text()
    page.close()
