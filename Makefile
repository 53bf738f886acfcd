# Every target works on a fresh machine: the environment in .venv is made when it is missing or out of date.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

FUZZ_MINUTES ?= 10

.PHONY: demo browser test quick claims no_extras oldest check fuzz bench docs figures clean

$(STAMP): pyproject.toml constraints.txt compat/pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group dev --editable ".[all]"
	touch $(STAMP)

demo: $(STAMP)  ## decompose a real Caffe network and show what came out
	$(BIN)/python -m benchmarks.demo

browser: $(STAMP)  ## a Chromium for the tests of the report, where one can be installed
	$(BIN)/python -m tests.report.browser

test: $(STAMP) browser  ## all tests
	$(BIN)/python -m pytest -n auto --dist worksteal

quick: $(STAMP)  ## the tests that together take a minute: no real models, no trainings, no pages
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not models and not slow"

claims: $(STAMP)  ## the oldest versions that pyproject.toml allows, and no extras, side by side
	$(MAKE) --jobs 2 --output-sync=target no_extras oldest

no_extras oldest: $(STAMP)
	$(BIN)/nox --no-error-on-missing-interpreters --session $@

check: $(STAMP)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fuzz: $(STAMP)  ## attacks on every reader and writer, for FUZZ_MINUTES (10); fails where one does harm
	$(BIN)/python -m fuzz --minutes $(FUZZ_MINUTES)

bench: $(STAMP)  ## all measurements that the README and docs quote
	$(BIN)/python -m benchmarks.run

# --quiet would hide warnings from --strict, too.
docs: $(STAMP)  ## the site, into site/; fails on a broken link
	$(BIN)/python -m docs.make_layers
	$(BIN)/python -m docs.make_options
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

figures: $(STAMP) browser  ## the pages' figures, drawn anew (minutes)
	$(BIN)/python -m docs.make_figures
	$(BIN)/python -m docs.make_screenshots

clean:
	rm -rf $(VENV) .nox out site .mypy_cache .ruff_cache .pytest_cache .hypothesis
