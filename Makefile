# diffnb: `make demo` trains on digits and draws some; `make test` checks everything. `make help` lists the rest.
PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
PY := $(BIN)/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check --constraint .ci/constraints.txt
# Large tensors are made and dropped at every training step. Without these, glibc gives their pages back to the system and asks for them again each time
MALLOC := MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=1073741824 MALLOC_TOP_PAD_=67108864

# Threads that wait for each other busily starve each other when anything else runs beside them (benchmarks/threads.py)
OMP_WAIT_POLICY ?= PASSIVE
export OMP_WAIT_POLICY

.PHONY: help demo test test-slow lab prepare docs page bench clean
help:
	@echo 'make demo       train on the built-in digits, sample, leave pictures in demo/ (about a minute)'
	@echo 'make test       run every notebook and every test (with Chromium there, the slider in a real browser too)'
	@echo 'make test-slow  the same, with the long cells and the comparisons with other libraries'
	@echo 'make lab        open the course in JupyterLab'
	@echo 'make prepare    export the library, run and clean the notebooks named in NBS (all by default), write README.md'
	@echo 'make docs       write the web site into _docs/'
	@echo 'make page       write the web page that draws digits without Python into _docs/playground/'
	@echo 'make bench      measure speed and memory'
	@echo 'make clean      remove everything that was made, the environment too'

.venv/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "diffnb needs Python 3.10 or later, and %s is %s: make PYTHON=python3.12 ..." % (sys.executable, sys.version.split()[0]))'
	@echo 'Making the environment .venv (once)'
	@$(PYTHON) -m venv .venv
	@touch $@
.venv/installed: .venv/made settings.ini setup.py
	@echo 'Installing diffnb and what it needs; PyTorch alone is a large download, so this takes a few minutes (once)'
	@$(PIP) -e .
	@touch $@
.venv/installed-%: .venv/installed
	@echo "Installing what 'make $*' needs besides (once)"
	@$(PIP) -e '.[$(subst +,$(comma),$*)]'
	@touch $@
comma := ,

demo: .venv/installed
	@$(MALLOC) $(PY) examples/demo.py

test: .venv/installed-dev+lab+browser
	@echo 'Running the notebooks and the tests, $(WORKERS) at a time'
	@MPLBACKEND=agg OMP_NUM_THREADS=1 $(PY) tools/test.py --workers $(WORKERS)

test-slow: .venv/installed-dev+lab+browser+peers
	@echo 'Running the notebooks and the tests with everything that takes long'
	@MPLBACKEND=agg OMP_NUM_THREADS=1 $(PY) -m pytest -q -rs -n $(WORKERS) --dist worksteal --nbflags 'slow peers' nbs tests

# JupyterLab does not start for root, as in a container, unless it is told to
lab: ROOT = $(if $(filter 0,$(shell id -u)),--allow-root)
lab: .venv/installed-dev+lab
	@echo 'Opening the course in JupyterLab; Ctrl-C twice ends it'
	@$(PY) -m jupyter lab --notebook-dir=nbs $(ROOT)

prepare: .venv/installed-dev
	@echo 'Exporting the library, running the notebooks, writing README.md'
	@$(BIN)/nbdev_export
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(PY) tools/nbs.py run $(NBS)
	@$(BIN)/nbdev_clean
	@$(PY) tools/nbs.py readme
	@$(PY) tools/nbs.py check

docs: .venv/installed-docs
	@echo 'Writing the site into _docs/'
	@$(PY) tools/docs.py

page: .venv/installed
	@echo 'Writing the playground into _docs/playground/'
	@$(PY) tools/page.py

bench: .venv/installed-bench+lab+browser
	@echo 'Measuring; results go to results/'
	@$(MALLOC) $(PY) benchmarks/samplers.py
	@$(MALLOC) $(PY) benchmarks/training.py
	@$(PY) benchmarks/threads.py
	@$(PY) benchmarks/scrubber.py

clean:
	@echo 'Removing .venv, demo/, _docs/ and what builds leave behind'
	@rm -rf .venv demo build dist _docs _proc *.egg-info .pytest_cache nbs/.ipynb_checkpoints
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
