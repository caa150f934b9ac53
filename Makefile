# `make demo` and `make test` do everything, from a fresh checkout on: they make .venv, install what pyproject.toml
# names, and run. Needs Python 3.11 or later with venv (Debian and Ubuntu: python3-venv), make and gcc.

PYTHON ?= $(shell python3.11 -c '' 2>/dev/null && echo python3.11 || echo python3)

# Never a script of .venv/bin: a first line with a space in its path is no interpreter. -P keeps the root off sys.path,
# where its folders could be imported as top-level modules.
RUN := .venv/bin/python -P -m
INSTALL := .venv/bin/python -m pip install --quiet --disable-pip-version-check

# The version the tests run against, without CUDA (PyPI's build for Linux brings gigabytes of it, and the tests use
# none): from a wheel that pip is configured to find on disk, else from PyTorch's index of CPU builds, else from PyPI.
TORCH := torch==2.13.0
TORCH_CPU := https://download.pytorch.org/whl/cpu

.PHONY: demo test lint deep bench clean
.DELETE_ON_ERROR:

demo: .venv/installed
	$(RUN) intaglio.compiler.demo

test: lint
	$(RUN) pytest

lint: .venv/installed
	$(RUN) ruff check .
	.venv/bin/python tests/tools/typing_links.py
	$(RUN) mypy

deep: .venv/installed
	$(RUN) pytest -m deep

bench: .venv/installed-bench
	$(RUN) pytest -m bench -s

clean:
	rm -rf build dist *.egg-info report.html .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name .venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@$(PYTHON) -m venv .venv || { rm -rf .venv; \
	  echo "make: $(PYTHON) could not make .venv; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }

.venv/installed: pyproject.toml | .venv/bin/python
	@echo "installing into .venv (a minute or two the first time)"
	@$(INSTALL) --no-deps --no-index $(TORCH) 2>/dev/null \
	  || $(INSTALL) --no-deps --index-url $(TORCH_CPU) --retries 1 --timeout 20 $(TORCH) 2>/dev/null \
	  || $(INSTALL) $(TORCH)
	@$(INSTALL) -e '.[torch,test]'
	@touch $@

.venv/installed-bench: .venv/installed
	@$(INSTALL) -e '.[bench]'
	@touch $@
