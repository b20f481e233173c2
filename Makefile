# Every target starts from a bare clone: it makes .venv and installs what it needs. A second call skips both.
#   PYTHON  the interpreter .venv is made with, e.g. make test PYTHON=python3.13
#   TORCH   what pip installs first, e.g. make test TORCH=torch==2.12.1

VENV   ?= .venv
TORCH  ?= torch==2.13.0
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help demo test lint types contracts check fix bench gpu-check browser-check docs-check freeze clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:.*## */: /' | awk -F': ' '{printf "  make %-12s %s\n", $$1, $$2}'

demo: $(VENV)/.runtime  ## answer a question about a picture with the bundled model: demo.png
	$(BIN)/paligemma segment "cat; sun" examples/scene.png --save demo.png
	@echo "the answer is drawn in demo.png"

test: $(VENV)/.dev  ## the suite: no network, no accelerator
	$(BIN)/python -m pytest

check: lint types contracts  ## everything .ci/run checks besides the suite

lint: $(VENV)/.dev  ## ruff, style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev  ## mypy
	$(BIN)/mypy

contracts: $(VENV)/.dev  ## rooms import downwards only
	$(BIN)/lint-imports

fix: $(VENV)/.dev  ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs-check: $(VENV)/.dev  ## run the documentation: its commands, examples, links and tables
	$(BIN)/python -m pytest tests/rules/test_docs.py

freeze: $(VENV)/.dev  ## accept a change of the public names or options: rewrites tests/rules/frozen.json
	$(BIN)/python -m tests.rules.test_frozen

bench: $(VENV)/.dev  ## measure beside the peers that are installed, in one run; an hour, 20 GB of files
	$(BIN)/python benchmarks/bench.py

gpu-check: export PYTHONPATH := src
gpu-check: $(if $(PYTHON_GPU),,$(VENV)/.dev)  ## an accelerator's parity, then its pace; PYTHON_GPU=python3 uses its machine's own, MINUTES=5
	@status=0; \
	$(or $(PYTHON_GPU),$(BIN)/python) -m pytest -m gpu -rs || status=1; \
	$(or $(PYTHON_GPU),$(BIN)/python) benchmarks/gpu.py --minutes $(or $(MINUTES),8) $(GPU_BENCH) || status=1; \
	exit $$status

browser-check: $(VENV)/.dev  ## the web page in Chromium (Debian, Ubuntu: apt install chromium)
	$(BIN)/python -m pytest -m browser -rs

clean:  ## remove what the targets made, .venv included
	rm -rf $(VENV) build dist demo.png .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

# --- set-up: each stamp file says that one step is done --------------------------------------------------------------

# torch first: left to choose among all versions, pip takes the newest, which need not be one this package supports.
$(VENV)/.torch: constraints.txt
	@test -n "$(PYTHON)" && command -v $(PYTHON) >/dev/null || \
	    { echo "no Python 3.11 to 3.13 was found; install one, or name it: make PYTHON=/path/to/python3.13" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	    { echo "$(PYTHON) is $$($(PYTHON) -V); this package needs Python 3.11 to 3.13: make PYTHON=python3.13" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	    { echo "$(PYTHON) cannot make virtual environments; install its venv package (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade pip
	$(PIP) install -c constraints.txt $(TORCH)
	@touch $@

$(VENV)/.runtime: $(VENV)/.torch pyproject.toml
	$(PIP) install -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@
