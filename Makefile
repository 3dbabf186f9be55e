# make help shows the targets.
.DEFAULT_GOAL := help
SHELL := bash

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CACHE ?= $(HOME)/.cache/qatune
DEMO_MODEL := $(CACHE)/models/smollm2-135m-instruct
DEMO_CSV := $(CACHE)/demo/python-docs.csv
RANDOM_GPT2 := $(CACHE)/models/random-gpt2

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
demo: setup $(DEMO_CSV) $(DEMO_MODEL)/config.json ## the whole pipeline on real input: four to eight minutes on two cores
	$(BIN)/qatune run demo --store qatune-store
	@echo
	@echo 'Ask it yourself:  $(BIN)/qatune ask demo "What does textwrap.dedent do?"'
	@echo 'Your own file:    $(BIN)/qatune run demo --run mine --set data.source=questions.csv --set data.columns.id=null'
	@echo 'On a cluster:     helm install mine helm/qatune --values mine.yaml    (README.md says what comes before it)'

$(DEMO_CSV): scripts/make_demo_csv.py | $(VENV)/installed
	$(BIN)/python scripts/make_demo_csv.py $@

$(DEMO_MODEL)/config.json: | $(VENV)/installed
	$(BIN)/python scripts/fetch_demo_model.py $(DEMO_MODEL)

$(RANDOM_GPT2)/config.json: | $(VENV)/installed
	$(BIN)/python scripts/make_random_gpt2.py $(RANDOM_GPT2)

.PHONY: twin
twin: setup $(DEMO_MODEL)/config.json $(RANDOM_GPT2)/config.json ## the reference experiment scaled down to two cores: MBPP=mbpp.csv, see docs/reference.md
	@test -f "$(MBPP)" || { echo "say where MBPP's questions are: make twin MBPP=mbpp.csv" >&2; exit 64; }
	$(BIN)/qatune run twin-smollm2 --store twin-store --set data.source=$(MBPP)
	$(BIN)/qatune run twin-gpt2 --store twin-store --set data.source=$(MBPP)
	$(BIN)/qatune report twin-smollm2 twin-gpt2 --store twin-store --output twin-store/comparison.html

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
unit: setup  # a file at a time to each of two processes: torch's own threads would only wait
	OMP_NUM_THREADS=1 $(ON_IMAGES) $(BIN)/pytest --ignore tests/e2e --numprocesses 2 --dist loadfile

.PHONY: crash
crash: setup ## kill every stage at every call of its store, and more: up to 40 minutes; ends with a table
	QATUNE_CRASH=all timeout --foreground 40m $(BIN)/pytest tests/crash

# On the cluster of KUBECONFIG, with the S3 server of AWS_ENDPOINT_URL_S3; the nodes must be able to
# pull $(REGISTRY)/qatune-*:$(TAG), or get them by the building (IMAGE_BUILD). QATUNE_TEST_DATA names
# the folder of the questions (tests/support/e2e.py); what is missing skips the tests and is said.
ON_IMAGES = $(if $(REGISTRY),QATUNE_E2E_IMAGES=$(REGISTRY)/:$(TAG))

# The first one builds the images.
E2E := readme recipes training failures kills execution

.PHONY: e2e
e2e: setup ## the README's cluster section, and what may go wrong, on a real cluster: VARIANT=cpu REGISTRY=
	$(ON_IMAGES) $(BIN)/pytest $(E2E:%=tests/e2e/test_%.py)

.PHONY: e2e-scale
e2e-scale: setup # a thousand shards, on nodes that QATUNE_E2E_PRETEND names by label and taint
	$(ON_IMAGES) $(BIN)/pytest tests/e2e/test_scale.py

.PHONY: generated
generated: setup ## write anew what the models say: docs/recipe.md, docs/values.md, the chart's values and schema
	$(BIN)/python scripts/make_docs.py
	$(BIN)/python scripts/make_chart.py

.PHONY: bench
bench: setup $(DEMO_CSV) $(DEMO_MODEL)/config.json ## compare with TRL, transformers, pandas and datasets: writes docs/bench.md
	$(BIN)/python scripts/bench/run.py --markdown docs/bench.md
	$(BIN)/python scripts/bench/startup.py

# Images. VARIANT=cpu builds the same Dockerfiles on a slim Python with CPU torch. IMAGE_BUILD is the
# command that builds: the tag follows it, then -f FILE, --build-arg NAME=VALUE ..., the context.
IMAGES := base preprocess train generate
VARIANT ?= cuda
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
TAG ?= $(VERSION)$(if $(filter cpu,$(VARIANT)),-cpu)
REGISTRY ?=
IMAGE_PREFIX = $(if $(REGISTRY),$(patsubst %/,%,$(REGISTRY))/)qatune-
IMAGE_TOOL = $(firstword $(foreach tool,docker podman buildah,$(shell $(tool) info >/dev/null 2>&1 && echo $(tool))))
IMAGE_BUILD ?= $(or $(IMAGE_TOOL),$(error neither docker, podman nor buildah answers here: set IMAGE_BUILD)) build --tag
TORCH_INDEX ?= $(if $(filter cpu,$(VARIANT)),https://download.pytorch.org/whl/cpu)
CPU_BASE_IMAGE := docker.io/library/python:3.11.15-slim-bookworm
BASE_IMAGE ?= $(if $(filter cpu,$(VARIANT)),$(CPU_BASE_IMAGE))
BASE_ARGS = $(if $(BASE_IMAGE),--build-arg BASE_IMAGE=$(BASE_IMAGE))
EXTRAS_ARGS = $(if $(EXTRAS),$(if $(filter-out generate,$*),--build-arg EXTRAS='$(EXTRAS)'))
LABEL_ARGS = --build-arg VERSION=$(VERSION) --build-arg REVISION=$(shell git rev-parse HEAD)

.PHONY: images
images: $(IMAGES:%=images/%) ## build the images: VARIANT=cpu, REGISTRY=host/project, TAG=, EXTRAS='mlflow wandb'

.PHONY: images/dependencies $(IMAGES:%=images/%)
images/dependencies:
	$(IMAGE_BUILD) $(IMAGE_PREFIX)dependencies:$(TAG) -f images/base/Dockerfile $(BASE_ARGS) --target dependencies .

images/base: images/dependencies
	$(IMAGE_BUILD) $(IMAGE_PREFIX)base:$(TAG) -f images/base/Dockerfile $(BASE_ARGS) $(LABEL_ARGS) .

images/preprocess images/train images/generate: images/%: images/dependencies
	$(IMAGE_BUILD) $(IMAGE_PREFIX)$*:$(TAG) -f images/$*/Dockerfile \
		--build-arg PARENT_IMAGE=$(IMAGE_PREFIX)dependencies:$(TAG) \
		--build-arg TORCH_INDEX=$(TORCH_INDEX) $(EXTRAS_ARGS) $(LABEL_ARGS) .

.PHONY: pin
pin: setup ## write the digests of the base images where their tags stand; with REGISTRY= print those of pushed images
	@$(BIN)/python scripts/pin_images.py $(if $(REGISTRY),$(IMAGE_PREFIX) $(TAG))

.PHONY: clean
clean: ## remove the virtual environment and caches; runs and models stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
