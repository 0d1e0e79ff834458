"pytest runs the notebooks: each is a test, and all of its cells together are what is tested"
import contextlib
import io

import pytest


def pytest_addoption(parser):
    parser.addoption('--nbflags', default='',
                     help="run cells with these flags too, such as 'slow peers'")


def pytest_collect_file(file_path, parent):
    ours = file_path.name[0] not in '_.' and '.ipynb_checkpoints' not in file_path.parts
    if file_path.suffix == '.ipynb' and ours:
        return Notebook.from_parent(parent, path=file_path)


class Notebook(pytest.File):
    def collect(self):
        yield Cells.from_parent(self, name=f'{self.path.parent.name}/{self.path.stem}')


class NotebookError(Exception): pass


class Cells(pytest.Item):
    def runtest(self):
        from nbdev.config import get_config
        from nbdev.test import test_nb as run_notebook
        cfg, said = get_config(), io.StringIO()
        with contextlib.redirect_stderr(said):
            good, _ = run_notebook(self.path, skip_flags=cfg.tst_flags.split(),
                                   force_flags=self.config.getoption('nbflags').split(),
                                   basepath=cfg.config_path)
        if not good: raise NotebookError(said.getvalue())

    def repr_failure(self, excinfo):
        if excinfo.errisinstance(NotebookError): return str(excinfo.value)
        return super().repr_failure(excinfo)

    def reportinfo(self): return self.path, None, self.name


@pytest.fixture
def slow(request):
    "A test that asks for this runs only with --nbflags slow"
    if 'slow' not in request.config.getoption('nbflags').split():
        pytest.skip("takes long: run with --nbflags slow (make test-slow)")


counts = {}
def pytest_terminal_summary(terminalreporter):
    got = {k: len(v) for k, v in terminalreporter.stats.items()}
    counts.update(passed=got.get('passed', 0), failed=got.get('failed', 0) + got.get('error', 0),
                  skipped=got.get('skipped', 0))


def pytest_unconfigure(config):
    "The last line of all, for people and for machines"
    if counts and not hasattr(config, 'workerinput'):
        skipped = f", {counts['skipped']} skipped" if counts['skipped'] else ''
        print(f"{counts['passed']} passed, {counts['failed']} failed{skipped}")
