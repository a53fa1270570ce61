# Every target stands on .venv, which is made once and made again only when pyproject.toml changes.
#
#   make install CONSTRAINTS=.ci/constraints.txt    installs with pip's -c FILE
#   make install PYTHON=python3.12                  takes another interpreter for .venv
#   make test WORKERS=8                             runs the tests in as many processes, of one thread each

PYTHON ?= python3
CONSTRAINTS ?=
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test lint format docs clean

help:
	@echo "make demo      learn, ask and undo a fact on the model that ships with the package"
	@echo "make test      the tests (no network, no GPU)"
	@echo "make lint      ruff, formatting, types"
	@echo "make format    let ruff format and fix"
	@echo "make docs      build the documentation into site/"
	@echo "make install   .venv with the package and its development tools; the others do it by themselves"
	@echo "make clean     remove .venv and everything built"

install: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed. Name one: make install PYTHON=python3.12" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) -e ".[dev]"
	@touch $@

demo: $(STAMP)
	$(BIN)/catechism demo

test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) site dist .pytest_cache .ruff_cache .hypothesis
