# `make demo` and `make test` work on a fresh clone with Python 3.11 or newer and nothing else.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
BIN := $(VENV)/bin

.PHONY: demo test coverage test-slow test-cuda test-oldest lint audit clean

demo: $(VENV)/installed
	$(BIN)/python -m nas.demo

test: $(VENV)/installed
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

coverage: $(VENV)/installed
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow" --cov --cov-report=term

test-slow: $(VENV)/installed
	$(BIN)/python -m pytest -n 2 --dist worksteal -m slow

# On a machine with a CUDA device, with the torch that PYTHON has: make test-cuda PYTHON=python; elsewhere
# every test is skipped, and says why. Where there are minutes only: PYTEST_ADDOPTS='-m "not slow"' make test-cuda
test-cuda:
	$(PYTHON) -m pytest -n 0 -rs tests/cuda

# Every dependency in the oldest version that pyproject.toml allows (PYTHON: 3.11); they use what newer ones
# call deprecated, above all matplotlib of pyparsing. With another Python: make test VENV=.venv-3.12 PYTHON=python3.12
test-oldest: export PYTEST_ADDOPTS = -W ignore::DeprecationWarning
test-oldest:
	sed -n 's/^    "\([a-z0-9-]*\)>=\([0-9.]*\)",$$/\1==\2/p' pyproject.toml > .venv-oldest.txt
	echo "pyparsing<3.3" >> .venv-oldest.txt
	$(MAKE) test VENV=.venv-oldest CONSTRAINTS=.venv-oldest.txt

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Known vulnerabilities of the pinned versions; needs the network, and an index that has advisories.
audit:
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install -q --disable-pip-version-check pip-audit
	.venv-audit/bin/pip-audit --strict --no-deps --disable-pip -r constraints.txt

# torch goes first: its CPU or CUDA build decides what everything else finds installed.
$(VENV)/installed: $(CONSTRAINTS) pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c $(CONSTRAINTS) torch
	$(BIN)/python -m pip install -q --disable-pip-version-check -c $(CONSTRAINTS) -e ".[dev]"
	touch $@

clean:
	rm -rf .venv .venv-* runs build *.egg-info
