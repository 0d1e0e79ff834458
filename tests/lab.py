"""JupyterLab and Chromium, driven from Python: for the browser test, for benchmarks/scrubber.py,
and by hand.

python tests/lab.py nbs/*.ipynb nbs/kit/*.ipynb     run notebooks top to bottom in JupyterLab as a
reader would; --shots FOLDER keeps a picture of every page. The server's folder mirrors nbs/.
"""
import argparse
import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

root = Path(__file__).resolve().parent.parent
chromium = shutil.which('chromium') or shutil.which('chromium-browser')
flags = ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage',
         '--disable-background-networking', '--disable-component-update', '--disable-sync']
quiet = dict(fetchNews='false', checkForUpdates=False, doNotDisturbMode=True)
settings = {'apputils-extension/notification': quiet,
            # Every cell is in the page, seen or not
            'notebook-extension/tracker': dict(windowingMode='none')}


def name_of(notebook):
    """A notebook's path below nbs/, such as 'kit/scrubber.ipynb'; just its name where it lies
    elsewhere"""
    path = Path(notebook).resolve()
    below = path.relative_to(root/'nbs') if path.is_relative_to(root/'nbs') else Path(path.name)
    return below.as_posix()


def before(folder, paths):
    "A folder in front of a list of paths, as the environment has it"
    return os.pathsep.join([str(folder), paths]).rstrip(os.pathsep)


# What a page is asked until all its cells are done: {error}, or false
ended = '''() => {
    const dialog = document.querySelector('.jp-Dialog')
    if (dialog) throw new Error('a dialog: ' + dialog.innerText)
    const here = '.jp-NotebookPanel:not(.lm-mod-hidden) '
    const find = s => [...document.querySelectorAll(here + s)]
    const kind = s => `[data-mime-type="application/vnd.jupyter.${s}"]`
    const bad = /Traceback \\(most recent call last\\)|^\\w*(Error|Exception|Interrupt): /m
    const said = find(kind('error') + ', ' + here + kind('stderr')).map(e => e.innerText)
    const error = said.find(s => bad.test(s))
    if (error) return {error}
    const text = c => c.querySelector('.cm-content')            // none where a cell is folded
    const cells = find('.jp-CodeCell').filter(c => text(c) && text(c).innerText.trim())
    const done = c => /^\\[\\d+\\]/.test(c.querySelector('.jp-InputPrompt').innerText)
    return cells.length && cells.every(done) && {error: ''}
}'''


class Lab:
    """A JupyterLab server with a HOME and a folder of its own, on a port of its own; `with
    Lab(notebooks) as lab:` ends it again"""
    def __init__(self, notebooks=(), theme='JupyterLab Light', env=None):
        self.folder = Path(tempfile.mkdtemp(prefix='diffnb-lab-'))
        self.nbs = self.folder/'work'/'nbs'
        self.nbs.mkdir(parents=True)
        if (root/'results').is_dir(): shutil.copytree(root/'results', self.folder/'work'/'results')
        # The last cell of each notebook exports
        if (root/'settings.ini').is_file(): shutil.copy(root/'settings.ini', self.folder/'work')
        for f in notebooks: self.add(f)
        for name, value in {**settings, 'apputils-extension/themes': dict(theme=theme)}.items():
            package, _, plugin = name.partition('/')
            place = self.folder/'home/.jupyter/lab/user-settings/@jupyterlab'
            f = place/package/f'{plugin}.jupyterlab-settings'
            f.parent.mkdir(parents=True, exist_ok=True)
            f.write_text(json.dumps(value))
        home = str(self.folder/'home')
        theirs = 'JUPYTER', 'PYTEST', 'MPLBACKEND'
        self.env = {k: v for k, v in os.environ.items()
                    if k == 'JUPYTER_PATH' or not k.startswith(theirs)}
        self.env |= dict(HOME=home, JUPYTER_CONFIG_DIR=home + '/.jupyter',
                         JUPYTER_DATA_DIR=home + '/.local/share/jupyter',
                         JUPYTER_RUNTIME_DIR=home + '/runtime',
                         IPYTHONDIR=home + '/.ipython', OMP_NUM_THREADS='1',
                         PYTHONPATH=before(root, os.environ.get('PYTHONPATH', '')), **(env or {}))
        import jupyterlab_widgets
        # The page's half of ipywidgets, also where environments are stacked
        share = Path(jupyterlab_widgets.__file__).parents[4]/'share'/'jupyter'
        self.env['JUPYTER_PATH'] = before(share, self.env.get('JUPYTER_PATH', ''))

    def add(self, notebook):
        """Copy a notebook into the folder that it has in nbs/; the name under which JupyterLab
        knows it"""
        name = name_of(notebook)
        (self.nbs/name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(notebook, self.nbs/name)
        return name

    def __enter__(self):
        self.log = open(self.folder/'log', 'w')
        self.server = subprocess.Popen([sys.executable, '-m', 'jupyterlab', '--no-browser',
                                        '--allow-root', '--ip=127.0.0.1', '--port=0',
                                        '--IdentityProvider.token=',
                                        '--ServerApp.disable_check_xsrf=True',
                                        '--ServerApp.shutdown_no_activity_timeout=900',
                                        f'--ServerApp.root_dir={self.nbs}'],
                                       env=self.env, stdout=self.log, stderr=subprocess.STDOUT,
                                       start_new_session=True)
        try: self.url = self.until(self.address, 120, 'JupyterLab to start')
        except BaseException:
            self.__exit__()
            raise
        return self

    def address(self):
        if self.server.poll() is not None:
            raise RuntimeError(f'JupyterLab ended at once: {self.said()}')
        for f in (self.folder/'home/runtime').glob('jpserver-*.json'):
            with contextlib.suppress(OSError, ValueError):
                url = json.loads(f.read_text())['url']
                urllib.request.urlopen(url + 'api', timeout=5).read()
                return url

    def said(self): return (self.folder/'log').read_text(errors='replace')[-2000:]

    def until(self, f, seconds, what):
        "Ask f again and again until it says something"
        end = time.time() + seconds
        while time.time() < end:
            if got := f(): return got
            time.sleep(.1)
        raise TimeoutError(f'waited {seconds} s for {what}: {self.said()}')

    def api(self, path, method='GET'):
        with urllib.request.urlopen(urllib.request.Request(self.url + 'api/' + path, method=method),
                                    timeout=60) as r:
            return json.loads(r.read() or 'null')

    def open(self, page, name):
        "Show a notebook and wait for its kernel"
        page.goto(f'{self.url}lab/tree/{name}?reset', timeout=120_000)
        page.wait_for_selector('.jp-Notebook .jp-Cell', timeout=120_000)
        page.wait_for_selector('.jp-Toolbar-kernelName:has-text("Python 3")', timeout=180_000)
        page.wait_for_selector('.jp-StatusBar-Widget :text-matches("Python 3.* \\| Idle")',
                               timeout=180_000)
        self.until(lambda: any(s['path'] == name and s['kernel']['execution_state'] == 'idle'
                               for s in self.api('sessions')), 180, f'the kernel of {name}')

    def run_all(self, page, seconds=600):
        "Run > Run All Cells, wait for the last cell or an error; returns the error's text or ''"
        page.click('.lm-MenuBar-itemLabel:text-is("Run")')
        page.click('.lm-Menu-itemLabel:text-is("Run All Cells")')
        # "Select kernel": asked when the page is slower than its kernel
        with contextlib.suppress(Exception):
            page.click('.jp-Dialog button.jp-mod-accept', timeout=1000)
        done = page.wait_for_function(ended, timeout=seconds*1000, polling=200)
        return done.json_value()['error'][-1500:]

    def end_kernels(self):
        "As 'Shut Down Kernel' does; returns when none is left"
        for s in self.api('sessions'): self.api(f"sessions/{s['id']}", 'DELETE')
        self.until(lambda: not self.api('kernels'), 60, 'the kernels to end')

    def end(self, sig):
        """The server and what it started: a group of its own, by start_new_session, where there are
        groups"""
        if hasattr(os, 'killpg'): os.killpg(self.server.pid, sig)
        else: self.server.kill()

    def __exit__(self, *_):
        with contextlib.suppress(Exception): self.end_kernels()
        # SIGTERM alone can take it 20 s
        with contextlib.suppress(Exception): self.api('shutdown', 'POST')
        for sig in (signal.SIGTERM, getattr(signal, 'SIGKILL', signal.SIGTERM)):
            try:
                self.server.wait(5)
                break
            except subprocess.TimeoutExpired: self.end(sig)
        self.server.wait()
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def broken(page):
    """The text of a widget that could not be shown: its place holds an error, and the cell reports
    none; '' if all is well"""
    time.sleep(1)  # a widget is drawn after its cell is done
    found = page.locator('.jp-NotebookPanel:not(.lm-mod-hidden) .jupyter-widgets-error-widget')
    return f'a widget broke: {found.first.text_content()[:300]}' if found.count() else ''


@contextlib.contextmanager
def browser():
    "Debian's Chromium; a browser that does not start is an error"
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        b = p.chromium.launch(executable_path=chromium, args=flags, timeout=120_000)
        try: yield b
        finally: b.close()


def pixels(page, clip=None):
    "What the screen shows"
    import numpy as np
    from PIL import Image
    shot = io.BytesIO(page.screenshot(clip=clip, timeout=60_000))
    return np.asarray(Image.open(shot).convert('RGB'))


def shoot(page, folder, name):
    "Screenshots of a notebook, from its top to its end"
    folder.mkdir(parents=True, exist_ok=True)
    page.keyboard.press('Control+b')
    time.sleep(1)
    panel = "document.querySelector('.jp-WindowedPanel-outer')"
    for i, top in enumerate(range(0, page.evaluate(f'{panel}.scrollHeight'), 1250)):
        page.evaluate(f'y => {panel}.scrollTop = y', top)
        time.sleep(.4)
        page.screenshot(path=folder/f'{name}-{i:02}.png')


def main():
    plain = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    p.add_argument('notebooks', nargs='+', type=Path)
    p.add_argument('--shots', type=Path,
                   help='a folder for a screenshot of every notebook, page by page')
    p.add_argument('--stored', action='store_true',
                   help='do not run: show the outputs that are stored, as a fresh clone does')
    p.add_argument('--dark', action='store_true', help='the dark theme')
    a = p.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit('stopped'))  # so that the server is ended too
    bad = 0
    theme = 'JupyterLab Dark' if a.dark else 'JupyterLab Light'
    with Lab(a.notebooks, theme=theme) as lab, browser() as b:
        for f in a.notebooks:
            page, start = b.new_page(viewport=dict(width=1200, height=1400)), time.time()
            lab.open(page, name_of(f))
            error = ('' if a.stored else lab.run_all(page)) or broken(page)
            bad += bool(error)
            said, pictures = 'FAILED' if error else 'ok', page.locator('.jp-OutputArea img').count()
            print(f'{name_of(f)}: {said}, {time.time() - start:.0f} s, {pictures} pictures {error}',
                  flush=True)
            if a.shots: shoot(page, a.shots, name_of(f).removesuffix('.ipynb').replace('/', '-'))
            lab.end_kernels()
            page.close()
    print(f'{len(a.notebooks) - bad} passed, {bad} failed')
    sys.exit(bool(bad))


if __name__ == '__main__': main()
