# `make demo` and `make test` work on a fresh clone with Python 3.11 or newer and nothing else.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow lint clean

demo: .venv/installed
	$(BIN)/python -m nas.demo

test: .venv/installed
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-slow: .venv/installed
	$(BIN)/python -m pytest -n 2 -m slow

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# torch goes first: its CPU or CUDA build decides what everything else finds installed.
.venv/installed: constraints.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf .venv runs build *.egg-info
