# Every target works from a clean clone: what it needs is installed into .venv first.
# PYTHON picks the interpreter (3.11 or newer); PIP_ARGS adds arguments to pip, for example an index
# with CPU builds of torch.
PYTHON ?= python3
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
ROLES ?= data train eval ops

# For images/build.py: the engine, the base image, a folder of wheels, arguments for the engine.
export ENGINE BASE_IMAGE WHEELS PIP_CONF CA_BUNDLE IMAGE_ARGS PIP_ARGS
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help quickstart setup test test-slow lint fmt types contracts check docs images images-base wheels bench lock clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/pip.stamp:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: Python 3.11 or newer is needed, '$(PYTHON)' is older; try: make PYTHON=python3.11 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/run.stamp: $(VENV)/pip.stamp pyproject.toml constraints.txt
	$(PIP) install -q $(PIP_ARGS) -c constraints.txt -e '.[train,lora,languages,pipeline,eval,signing]'
	@touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp
	$(PIP) install -q $(PIP_ARGS) -c constraints.txt -e '.[train,lora,languages,pipeline,eval,captions,harness,web,signing,sigstore,versioning,dev]'
	@touch $@

setup: $(VENV)/dev.stamp  ## install everything for development into .venv

quickstart: $(VENV)/run.stamp  ## set up and run VILA's whole recipe on this machine
	$(BIN)/vila run quickstart

test: $(VENV)/dev.stamp  ## set up and pass the tests (minutes, 2 cores)
	$(BIN)/python -m pytest -q -n 2 --dist loadgroup -m "not slow"

test-slow: $(VENV)/dev.stamp  ## the tests that take longer, the whole recipe among them
	$(BIN)/python -m pytest -q -n 2 --dist loadgroup -m slow $(SLOW_ARGS)

lint: $(VENV)/dev.stamp  ## ruff: lint and format check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

fmt: $(VENV)/dev.stamp  ## ruff: fix and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/dev.stamp  ## pyright
	$(BIN)/pyright

contracts: $(VENV)/dev.stamp  ## import-linter: imports run one way
	$(BIN)/lint-imports

check: lint types contracts test  ## what a change must pass

docs: $(VENV)/dev.stamp  ## build the documentation into build/docs, broken links are errors
	$(BIN)/mkdocs build --strict --quiet --site-dir build/docs

images:  ## build the container images of all roles (ROLES="data train") with podman, docker or buildah
	$(PYTHON) images/build.py $(ROLES)

images-base:  ## make a stand-in for python:3.11-slim from Debian's packages (root, debootstrap, podman)
	images/standin-base.sh

wheels: $(VENV)/pip.stamp  ## put what images hold into build/wheels, to build where there is no index
	$(PIP) wheel -q $(PIP_ARGS) -c constraints.txt -w build/wheels setuptools wheel tokenizers transformers \
	  '.[train,lora,languages,pipeline,eval,harness,web,signing]'
	@rm -rf build/lib build/bdist.* build/wheels/vila_platform-*.whl

bench: $(VENV)/dev.stamp  ## measure; results go to build/bench as JSON
	@mkdir -p build/bench
	@for script in benchmarks/[!_]*.py; do $(BIN)/python $$script --out build/bench || exit 1; done

lock: $(VENV)/pip.stamp  ## renew constraints.txt from the ranges in pyproject.toml
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install -q $(PIP_ARGS) -e '.[train,lora,languages,pipeline,eval,captions,harness,web,signing,sigstore,versioning,dev]'
	build/lock/bin/python -m pip freeze --exclude-editable | sed -E 's/\+cpu$$//' > constraints.txt
	rm -rf build/lock

clean:  ## remove what was built (not .vila, where runs are kept)
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .import_linter_cache
