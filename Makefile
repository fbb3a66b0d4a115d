# make train   set up, train a BD-LRU on the A5 word problem, print and draw its accuracy by length
# make test    set up and run the tests (make test-slow: training runs, inductor, several processes; make test-matrix:
#              as other processors run them, or with MATRIX="tests/kernels -k scan --row avx2" a part of that)
# make lint    ruff, mypy, and which way imports run
# make bench   time the kernels and layers on this machine
# make gpu-report   on a GPU: numbers, times, sweeps, training, decode, into benchmarks/results and docs/benchmarks.md
# make wheel   build dist/*.whl, and import it in an environment with nothing but torch
# make docs    build the documentation into site/ (make docs-serve: show it, and follow changes)
#
# PYTHON       the interpreter the environment is made with, 3.11 or newer
# VENV         where the environment goes
# TORCH_INDEX  another index for torch, such as https://download.pytorch.org/whl/cpu
# JOBS         processes that run the tests
# MATRIX       arguments of tests/matrix.py

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
JOBS ?= 2
MATRIX ?=

BIN := $(VENV)/bin
# Records behind the pages of the atlas, as docs/atlas.md counts them.
ATLAS := $(patsubst %,docs/results/%.jsonl,a5-contrasts a5-dense block-law board-cpu certified fp-rnn parity parity-gla s3-deltanet)
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

.PHONY: train test test-slow test-matrix lint bench gpu-report wheel docs docs-serve clean

train: $(VENV)/.train
	$(BIN)/seqmix fit --config a5

# One OpenMP thread a process: the tests' tensors are small and the processes share the cores.
test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow

test-matrix: $(VENV)/.dev
	$(BIN)/python -m tests.matrix --jobs $(JOBS) $(MATRIX)

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/python -m seqmix._stubs
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo

bench: $(VENV)/.bench
	$(BIN)/seqmix bench kernels --device cpu
	$(BIN)/seqmix bench layers

gpu-report: $(VENV)/.train
	$(BIN)/seqmix bench gpu-report --out --docs docs/benchmarks.md

wheel: $(VENV)/.torch
	rm -rf dist build
	$(BIN)/python -m pip --disable-pip-version-check wheel --quiet --no-deps --wheel-dir dist .
	$(PYTHON) -m venv --clear dist/.bare
	dist/.bare/bin/python -m pip --disable-pip-version-check install --quiet -c constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) dist/*.whl
	cd dist && .bare/bin/python -c 'import torch, seqmix; y, _ = seqmix.BDLRU(16)(torch.randn(1, 3, 16)); print(seqmix.__file__, tuple(y.shape))'
	rm -rf dist/.bare

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	$(BIN)/seqmix atlas --records $(ATLAS) --out site/atlas

docs-serve: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

# Each stamp is newer than the files that it was installed from, so a second run changes nothing.
$(VENV)/.torch: constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("seqmix needs Python 3.11 or newer, $(PYTHON) is " + sys.version.split()[0] + ": make PYTHON=python3.12 ...")'
	@echo "Setting up $(VENV) (once, a few minutes)"
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	@touch $@

$(VENV)/.train: $(VENV)/.torch pyproject.toml
	$(PIP) -e '.[train]'
	@touch $@

$(VENV)/.dev: $(VENV)/.train
	$(PIP) -e '.[train,board,images,hf,docs,dev]'
	@touch $@

$(VENV)/.bench: $(VENV)/.train
	$(PIP) -e '.[train,bench]'
	@touch $@

$(VENV)/.docs: $(VENV)/.train
	$(PIP) -e '.[train,board,docs]'
	@touch $@

clean:
	rm -rf $(VENV) build dist site *.egg-info
