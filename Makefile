# Bare `make` lists the targets. Everything lives in .venv; nothing is installed elsewhere and nothing needs root.

PYTHON ?= python3
ARGS ?=
# Tests run side by side, in so many processes: one for each core, up to four. JOBS=0 runs them one after the other, in this one.
JOBS ?= auto
SIDE_BY_SIDE := -n $(JOBS) --maxprocesses 4 --dist worksteal

VENV := .venv
PY   := $(VENV)/bin/python
# Those folders that hold Python: mypy refuses one that does not.
CODE := $(foreach folder,cachesync tests examples benchmarks docs,$(if $(wildcard $(folder)/*.py $(folder)/*/*.py),$(folder)))
# The stamps say what a healthy .venv already holds, so that the second `make` asks no network.
TOOLS := $(VENV)/.tools-installed
PEERS := $(VENV)/.peers-installed

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYTHONDONTWRITEBYTECODE := 1

# A .venv that was moved, half made, or made by a Python that is gone, is made again.
HEALTHY := $(shell $(PY) -c 'import os, sys; assert sys.version_info >= (3, 11); \
	assert os.path.samefile(sys.prefix, "$(VENV)"); assert sys.prefix in open(sys.prefix + "/bin/pip").read(400); \
	print("yes")' 2>/dev/null)
ifneq ($(HEALTHY),yes)
$(TOOLS): FORCE
endif

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test quick lint types docs bench mutants soak redis7 chromium screenshots api check wheel clean FORCE

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(TOOLS)  ## make .venv, install the tools (once) and the package
	@$(MAKE) --no-print-directory install
	@echo "ready: .venv"

demo: $(TOOLS)  ## see it work: set everything up and run the demonstration
	@$(MAKE) --no-print-directory install
	@$(VENV)/bin/cachesync demo $(ARGS)

test: $(TOOLS)  ## build the wheel, install it, test what users get; ARGS="-k x" passes through
	@$(MAKE) --no-print-directory install
	PYTHONSAFEPATH=1 CACHESYNC_TEST_WHEEL=1 $(PY) -m pytest $(SIDE_BY_SIDE) $(ARGS)

quick: $(TOOLS)  ## test the tree as it is, without a wheel; ARGS="-k x" passes through, JOBS=0: one by one
	PYTHONSAFEPATH=1 PYTHONPATH="$(CURDIR)" $(PY) -m pytest $(SIDE_BY_SIDE) $(ARGS)

lint: $(TOOLS)  ## style, format, and the direction of imports
	$(PY) -m ruff check $(CODE)
	$(PY) -m ruff format --check $(CODE)
	$(VENV)/bin/lint-imports --no-logo

types: $(TOOLS) $(PEERS)  ## mypy and pyright, both strict
	$(PY) -m mypy $(CODE)
	$(PY) -m pyright --project pyproject.toml

docs: $(TOOLS)  ## every link and anchor leads somewhere, every --help excerpt is today's
	PYTHONPATH="$(CURDIR)" $(PY) docs/check.py

bench: $(TOOLS) $(PEERS)  ## measure us beside the peers: a table, a plot, a JSON
	PYTHONPATH="$(CURDIR)" $(PY) -m benchmarks $(ARGS)

mutants: $(TOOLS)  ## break the package in known ways; a test must notice each; ARGS="--only NAME"
	$(PY) tests/mutants.py $(ARGS)

soak: $(TOOLS)  ## two minutes of random faults, and a checker of the promises; ARGS="--chaos --seconds 20 --seed 7"
	PYTHONSAFEPATH=1 PYTHONPATH="$(CURDIR):$(CURDIR)/tests" $(PY) -m soak $(ARGS)

redis7:  ## unpack Redis 7.0 for the tests, where the distribution has one, and print its path for CACHESYNC_EXTRA_SERVER
	@$(PYTHON) tests/support/debian.py

chromium:  ## unpack a Chromium for the tests, where the distribution packs one and none is installed, and print its path
	@$(PYTHON) tests/support/debian.py chromium

screenshots: $(TOOLS) $(PEERS)  ## make the dashboard's pictures anew, with a real application under real traffic
	$(PY) docs/screenshots.py $(ARGS)

api: $(TOOLS)  ## compare the public names with tests/api.txt; ARGS=--write renews it
	PYTHONPATH="$(CURDIR)" $(PY) tests/api_names.py $(or $(ARGS),--check)

check: lint types docs api test  ## everything that CI does

wheel: $(TOOLS)  ## build dist/cachesync-*.whl
	@mkdir -p .build && rm -rf dist
	@$(PY) -m build --wheel --no-isolation --outdir dist > .build/wheel.log 2>&1 || { cat .build/wheel.log; exit 1; }
	@ls dist/*.whl

clean:  ## remove everything that make has made
	rm -rf $(VENV) dist build .build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# What users get: the wheel, not the tree.
.PHONY: install
install: wheel
	@$(PY) -m pip install --quiet --quiet --force-reinstall --no-deps dist/*.whl

$(TOOLS): pyproject.toml requirements/dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "cachesync needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12 setup" >&2; exit 1; }
ifneq ($(HEALTHY),yes)
	@test ! -L $(VENV) || { \
		echo ".venv is a symbolic link to $$(readlink $(VENV)), and a new .venv would empty that folder: remove the link first" >&2; exit 1; }
	@echo "making .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv --clear $(VENV)
endif
	@echo "installing the tools (a minute or two the first time)"
	@$(PY) -m pip install --quiet --quiet --requirement requirements/dev.txt
	@echo "installing what cachesync depends on"
	@$(MAKE) --no-print-directory dependencies
	@touch $@

# From the wheel itself, so that what it declares is what is installed. -o: the tools are being installed right now.
.PHONY: dependencies
dependencies:
	@$(MAKE) --no-print-directory -o $(TOOLS) wheel
	@$(PY) -m pip install --quiet --quiet "$$(ls dist/*.whl)[demo]"

$(PEERS): requirements/bench.txt $(TOOLS)
	@echo "installing the peers that we measure against"
	@$(PY) -m pip install --quiet --quiet --requirement requirements/bench.txt
	@touch $@

FORCE:
