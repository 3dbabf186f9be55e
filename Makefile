# make help shows the targets.
.DEFAULT_GOAL := help
SHELL := bash

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CACHE ?= $(HOME)/.cache/qatune
DEMO_MODEL := $(CACHE)/models/smollm2-135m-instruct
DEMO_CSV := $(CACHE)/demo/python-docs.csv

.PHONY: help
help: ## show this
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-12s %s\n", $$1, $$2}'

# A stamp, so that set-up runs again only when what it installs has changed.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

.PHONY: setup
setup: $(VENV)/installed ## make the virtual environment: every dependency, pinned

.PHONY: demo
demo: setup $(DEMO_CSV) $(DEMO_MODEL)/config.json ## the whole pipeline on real input: four to six minutes on two cores
	$(BIN)/qatune run demo --store qatune-store
	@echo
	@echo 'Ask it yourself:  $(BIN)/qatune ask demo "What does textwrap.dedent do?"'
	@echo 'Your own file:    $(BIN)/qatune run demo --run mine --set data.source=questions.csv --set data.columns.id=null'
	@echo 'On a cluster:     each stage is one command of a pod, and they share a bucket alone:'
	@echo '                  qatune preprocess|train|generate|evaluate --run mine --recipe FILE --store s3://bucket/prefix'

$(DEMO_CSV): scripts/make_demo_csv.py | $(VENV)/installed
	$(BIN)/python scripts/make_demo_csv.py $@

$(DEMO_MODEL)/config.json: | $(VENV)/installed
	$(BIN)/python scripts/fetch_demo_model.py $(DEMO_MODEL)

.PHONY: test
test: lint unit ## lint, types, import contracts, then every test

.PHONY: lint
lint: setup ## ruff, mypy, import contracts, generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/make_docs.py --check
	$(BIN)/python scripts/make_chart.py --check

.PHONY: unit
unit: setup
	$(BIN)/pytest

.PHONY: generated
generated: setup ## write anew what the models say: docs/recipe.md, docs/values.md, the chart's values and schema
	$(BIN)/python scripts/make_docs.py
	$(BIN)/python scripts/make_chart.py

.PHONY: bench
bench: setup ## time preprocessing against the tokenizer alone, and the command line
	$(BIN)/python scripts/bench/preprocess.py
	$(BIN)/python scripts/bench/startup.py

.PHONY: clean
clean: ## remove the virtual environment and caches; runs and models stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
