"All settings are in settings.ini; edit there, not here"
import shlex
from configparser import ConfigParser
from pathlib import Path
from shutil import copy

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

here = Path(__file__).parent
cfg = ConfigParser(delimiters=['='])
cfg.read(here/'settings.ini', encoding='utf-8')
cfg = cfg['DEFAULT']
licenses = {'apache2': 'Apache-2.0', 'mit': 'MIT', 'bsd3': 'BSD-3-Clause'}    # as SPDX names them
statuses = ['1 - Planning', '2 - Pre-Alpha', '3 - Alpha', '4 - Beta', '5 - Production/Stable']
pythons = cfg['python_versions'].split()
home, docs = cfg['git_url'], cfg['doc_host'] + cfg['doc_baseurl']
blob = f"{home}/blob/{cfg['branch']}"


def lines(name): return [s.strip() for s in cfg[name].splitlines() if s.strip()]


def long_description():
    "The README; a package index has no folders, so its pictures are named by their whole address"
    raw = home.replace('github.com', 'raw.githubusercontent.com') + '/' + cfg['branch']
    text = (here/'README.md').read_text(encoding='utf-8')
    return text.replace('](nbs/', f']({raw}/nbs/')


def results():
    "What notebooks show of long runs; not the pictures with photographs, which git leaves out too"
    files = [f for kind in ('*.json', '*/*.png', '*/eps.safetensors')
             for f in sorted((here/'results').glob(kind))]
    return [f for f in files if not f.stem.endswith(('real', 'nearest'))]


class WithResults(build_py):
    "Put the results into the package; an editable install finds them beside it"
    def run(self):
        super().run()
        if self.editable_mode: return
        for f in results():
            to = Path(self.build_lib)/cfg['lib_path']/f.relative_to(here)
            to.parent.mkdir(parents=True, exist_ok=True)
            copy(f, to)


setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'],
    keywords=cfg['keywords'].split(),
    author=cfg['author'], license_expression=licenses[cfg['license']], url=home,
    project_urls={'Documentation': docs, 'Source': home, 'Issues': f'{home}/issues',
                  'Changelog': f'{blob}/CHANGELOG.md'},
    classifiers=[f"Development Status :: {statuses[int(cfg['status']) - 1]}",
                 f"Natural Language :: {cfg['language']}",
                 'Programming Language :: Python :: 3 :: Only',
                 *(f'Programming Language :: Python :: {v}' for v in pythons),
                 *lines('classifiers')],
    packages=find_packages(include=[cfg['lib_path'], cfg['lib_path'] + '.*']),
    package_data={cfg['lib_path']: ['*.safetensors', '*.json', 'families/*.json', 'kit/web/*',
                                    'py.typed']},
    zip_safe=False,
    cmdclass=dict(build_py=WithResults),
    python_requires='>=' + cfg['min_python'],
    install_requires=shlex.split(cfg['requirements']),
    extras_require={k.removesuffix('_requirements'): shlex.split(v) for k, v in cfg.items()
                    if k.endswith('_requirements')},
    entry_points={'nbdev': [f"{cfg['lib_path']}={cfg['lib_path']}._modidx:d"],
                  'console_scripts': lines('console_scripts')},
    long_description=long_description(), long_description_content_type='text/markdown')
