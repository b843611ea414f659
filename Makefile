# make run PROMPT="a yellow star at night" SEED=7   draw an image
# make test | test-fast | mutants | check | bench | train | format           see each target below
# Each target sets up the environment it needs in .venv and writes only inside this folder.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help run test test-fast mutants check format bench train clean

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
PROMPT ?= a yellow star at night
RECIPE ?= recipes/flow.yaml

# The prompt is passed in the environment and never expanded into a command, so quotes, dollars and
# every script are safe.
override PROMPT := $(value PROMPT)
override SEED := $(value SEED)
export PROMPT SEED

help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' Makefile

run: .venv/.run  ## draw an image of PROMPT and print the path of the PNG
	@$(BIN)/kalpana generate $${SEED:+--seed "$$SEED"} -- "$$PROMPT"

# One process a core, up to four, each with one thread: torch's threads would wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

test: .venv/.test  ## the test suite
	@$(PYTEST)

test-fast: .venv/.test  ## the tests without those marked slow
	@$(PYTEST) -m "not slow"

mutants: .venv/.test  ## changes of the source that no fast test notices; options in MUTANTS
	@OMP_NUM_THREADS=1 $(BIN)/python tests/mutants.py $(MUTANTS)

check: .venv/.test  ## format, lint and types, required for every change
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

format: .venv/.test
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: .venv/.run  ## measure this machine and write docs/benchmarks.md
	@$(BIN)/python benchmarks/run.py

train: .venv/.train  ## train RECIPE; a stopped run resumes
	@$(BIN)/kalpana train "$(RECIPE)"

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis dist

# Torch is installed first and alone, with the version in constraints.txt: with a range, pip would
# take a newer build with gigabytes of CUDA.
.venv/.run: pyproject.toml constraints.txt
	@python=; for name in "$${PYTHON:-python3}" python3.14 python3.13 python3.12 python3.11; do \
	  if "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$$name; break; fi; done; \
	if [ -z "$$python" ]; then echo "Kalpana needs Python 3.11 or newer: install it, or name it with PYTHON=/path/to/python3.12" >&2; exit 1; fi; \
	echo "Setting up .venv with $$("$$python" --version) (some minutes, once)" >&2; \
	"$$python" -m venv .venv
	@$(PIP) install "$$(grep '^torch==' constraints.txt)"
	@$(PIP) install --constraint constraints.txt --editable .
	@touch $@

.venv/.test .venv/.train: .venv/.%: .venv/.run
	@$(PIP) install --constraint constraints.txt --editable '.[$*]'
	@touch $@
