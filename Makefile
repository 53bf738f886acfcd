# Every target works on a fresh machine: the environment in .venv is made when it is missing or out of date.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test check bench docs clean

$(STAMP): pyproject.toml constraints.txt compat/pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group dev --editable ".[all]"
	touch $(STAMP)

demo: $(STAMP)  ## decompose a real Caffe network and show what came out
	$(BIN)/python -m benchmarks.demo

test: $(STAMP)  ## all tests
	$(BIN)/python -m pytest -n auto

check: $(STAMP)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)  ## all measurements that the README and docs quote
	$(BIN)/python -m benchmarks.run

docs: $(STAMP)  ## pages that are generated
	$(BIN)/python -m docs.make_layers

clean:
	rm -rf $(VENV) out .mypy_cache .ruff_cache .pytest_cache .hypothesis
