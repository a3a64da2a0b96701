# Each target sets up what it needs in a virtual environment, once. Needed: make, and Python 3.11 or newer.
#   make test PYTHON=/path/to/python       another interpreter
#   make test VENV=.venv-oldest PYTHON=python3.11 CONSTRAINTS=tests/oldest-pins.txt
.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help demo test doctest lint docs bench examples clean which-python

VENV ?= .venv
CONSTRAINTS ?=
ARGS ?=
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps

# The newest interpreter that really runs: pyenv puts names on PATH that fail unless their version is active.
PYTHON_VERSIONS ?= 3.13 3.12 3.11 3
PYENV := $(or $(PYENV_ROOT),$(HOME)/.pyenv)
CANDIDATES = $(foreach v,$(PYTHON_VERSIONS),python$(v) $(wildcard $(PYENV)/versions/$(v).*/bin/python))
RUNS = -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
PYTHON ?= $(shell for python in $(CANDIDATES); do "$$python" $(RUNS) && { echo "$$python"; break; }; done)

help:  ## this list
	@awk -F':.*  ## ' '/^[a-z]+:.*  ## / {printf "%-10s%s\n", $$1, $$2}' Makefile

demo: $(STAMPS)/examples  ## train a CNN whose filters come out exactly zero, and draw them
	$(BIN)/python examples/sparse_digits.py $(ARGS)

test: $(STAMPS)/test  ## the test suite
	$(BIN)/python -m pytest -n 2 -q $(ARGS)

doctest: $(STAMPS)/test  ## the examples in docstrings
	$(BIN)/python -m pytest -n 2 -q --doctest-modules jaxreg $(ARGS)

lint: $(STAMPS)/lint  ## style, formatting, types, and which module may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

docs: $(STAMPS)/docs  ## the documentation, in docs/_build/html
	rm -rf docs/api/generated
	$(BIN)/sphinx-build -W --keep-going -E -q docs docs/_build/html $(ARGS)
	@echo "docs/_build/html/index.html"

bench: $(STAMPS)/bench  ## the benchmarks; writes benchmarks/RESULTS.md
	$(BIN)/python -m benchmarks $(or $(ARGS),--write)

examples: $(STAMPS)/examples  ## a short run of every example
	set -e; for example in $(filter-out examples/common.py,$(wildcard examples/*.py)); do \
	  echo "$$example"; MPLBACKEND=Agg $(BIN)/python $$example --quick --output output/quick $(ARGS); done

clean:  ## remove environments, caches and everything built
	rm -rf .venv .venv-* build dist docs/_build docs/api/generated output .pytest_cache .ruff_cache .jax_cache \
	  .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

which-python:
	@echo $(PYTHON)

$(STAMPS)/venv:
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer with venv was found. Name one: make PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	mkdir -p $(STAMPS) && touch $@

$(addprefix $(STAMPS)/,examples test lint docs bench): $(STAMPS)/%: pyproject.toml $(CONSTRAINTS) | $(STAMPS)/venv
	$(BIN)/python -m pip install --quiet --editable . --group $* $(addprefix --constraint ,$(CONSTRAINTS))
	touch $@
