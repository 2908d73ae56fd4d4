# Everything works on a fresh machine with python3 (3.11 or newer), make and a C toolchain.
.DEFAULT_GOAL := help
VENV := .venv
PYTHON := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed

# Compiled on all cores, as pip would not; some packages have files for other versions of Python.
$(INSTALLED): pyproject.toml runtime/pyproject.toml lab/pyproject.toml constraints.txt
	python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --no-compile --constraint constraints.txt \
		--editable ./runtime --editable '.[all,dev]' --editable ./lab
	@$(PYTHON) -m compileall -qq -j 0 -x '/tests/' $(VENV)/lib || true
	@touch $@

.PHONY: demo test test-all fuzz check lint docs help clean house
demo: $(INSTALLED) ## Train, measure and explain on computed images (a few minutes; no file, no network)
	$(VENV)/bin/softfree demo

test: $(INSTALLED) ## The fast tests
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n 2 --dist loadfile

test-all: $(INSTALLED) ## All tests, long ones too
	$(PYTHON) -m pytest -m ''

fuzz: $(INSTALLED) ## Damaged files against every reader, for ten minutes
	$(PYTHON) -m tests.fuzz --minutes 10

lint: $(INSTALLED) ## ruff, mypy and the import rules
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

docs: $(INSTALLED) ## The documentation as a site, in site/; broken links fail
	$(PYTHON) -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

house: $(INSTALLED) ## The shape of the code in numbers
	$(PYTHON) tools/house.py

check: lint test ## What CI runs: ruff, mypy, the fast tests

clean: ## Remove the environment and caches
	rm -rf $(VENV) site .pytest_cache .mypy_cache .ruff_cache

help: ## This list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12
