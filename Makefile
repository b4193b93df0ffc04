# Shortcuts; everything runs in .venv, which `make setup` builds.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup format check test learn bench

setup: .venv/done
.venv/done: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable ".[test]"
	touch $@

format: setup      ## rewrite the code in the house's format
	$(BIN)/ruff check --fix src tests benchmarks
	$(BIN)/ruff format src tests benchmarks

check: setup       ## lint, format and types, without tests
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy

test: setup        ## everything that continuous integration runs
	$(BIN)/python -m tests

learn: setup       ## slow learning tests over ten seeds
	$(BIN)/pytest -m learning tests/learning

bench: setup       ## side-by-side speed against peers (see benchmarks/README.md)
	$(BIN)/python benchmarks/speed.py
