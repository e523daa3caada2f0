# Everything runs in .venv, which is created from the locks; `make run` and `make test` create it if it is missing.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-done
CONFIG ?=
ARGS ?=
JOBS ?= 2
# The tests of a file run in one process, since they share fixtures; tests/conftest.py sets the order of the files.
XDIST := --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup run test test-heavy test-kubernetes test-cluster lint format types imports check bench locks engines images audit clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## create .venv from the locks (run and test do it if it is missing)

$(STAMP): requirements/bootstrap.lock requirements/dev.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes --only-binary :all: -r requirements/bootstrap.lock
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes --compile-bytecode requirements/dev.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

run: $(STAMP)  ## run the whole pipeline: digits by default, or CONFIG=configs/NAME.toml ARGS="--set a.b=c"
	$(BIN)/wgan-pipeline run $(CONFIG) $(ARGS)

test: $(STAMP)  ## run the tests without the heavy ones
	$(BIN)/python -m pytest -m "not heavy and not kubernetes and not cluster" $(XDIST) $(ARGS)

test-heavy: $(STAMP)  ## run the tests that need minutes, Debian packages or a browser
	$(BIN)/python -m pytest -m heavy $(XDIST) --durations=15 $(ARGS)

test-kubernetes: $(STAMP)  ## run the tests on a Kubernetes with one node on this machine (docs/kubeflow.md; needs root; builds it first)
	deploy/engines/get .engines kubernetes
	$(BIN)/python -m pytest -m kubernetes --durations=15 $(ARGS)

test-cluster: $(STAMP)  ## run the tests of a cluster: HOST=… NAMESPACE=… IMAGE=… [STORAGE_CLASS=… METADATA=… STORE=…] (docs/kubeflow.md)
	CLUSTER_HOST=$(HOST) CLUSTER_NAMESPACE=$(NAMESPACE) CLUSTER_IMAGE=$(IMAGE) CLUSTER_STORAGE_CLASS=$(STORAGE_CLASS) CLUSTER_METADATA=$(METADATA) \
	  CLUSTER_STORE=$(STORE) $(BIN)/python -m pytest -m cluster tests/cluster $(ARGS)

lint: $(STAMP)  ## run ruff
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

format: $(STAMP)  ## format the code with ruff
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

types: $(STAMP)  ## run mypy in strict mode
	$(BIN)/mypy

imports: $(STAMP)  ## check the import contracts
	$(BIN)/lint-imports

check: lint types imports  ## run lint, types and imports

bench: $(STAMP)  ## run the benchmarks, one JSON line each (without accelerator and accelerator_training, which are for a GPU, and time_to_quality, which takes 80 minutes; ingest_scale without its largest size)
	for file in $(filter-out benchmarks/accelerator.py benchmarks/accelerator_training.py benchmarks/time_to_quality.py benchmarks/ingest_scale.py,$(wildcard benchmarks/*.py)); do $(BIN)/python $$file || exit 1; done
	$(BIN)/python benchmarks/ingest_scale.py --largest 100000

locks: $(STAMP)  ## update the locks from pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-emit-find-links pyproject.toml -o requirements/run.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-emit-find-links --group dev pyproject.toml -o requirements/dev.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-emit-find-links --extra tpu-check -c requirements/run.lock pyproject.toml -o requirements/tpu-check.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-emit-find-links --extra gpu -c requirements/run.lock pyproject.toml -o requirements/gpu.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-emit-find-links --extra dataflow -c requirements/run.lock pyproject.toml -o requirements/dataflow.lock
	deploy/images/locks
	echo uv | $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-emit-find-links - -o requirements/bootstrap.lock

engines: $(STAMP)  ## fetch Flink's job server, Prism, Dataflow's client, gcsfuse and an S3 server into .engines for the tests (needs mvn, java, go)
	deploy/engines/get .engines

images:  ## build train-tpu, data, dataflow and tpu-check with podman or docker from BASE_IMAGE=NAME@sha256:… (Python 3.11)
	deploy/images/build train-tpu $(BASE_IMAGE)
	deploy/images/build data $(BASE_IMAGE)
	deploy/images/build dataflow $(BASE_IMAGE)
	deploy/images/build tpu-check $(BASE_IMAGE)

audit: $(STAMP)  ## check every lock against PyPI's vulnerability database; fails if it cannot be reached
	for lock in requirements/*.lock deploy/images/*/*.lock; do $(BIN)/pip-audit --strict --no-deps --disable-pip --require-hashes --progress-spinner off -r $$lock || exit 1; done

clean:  ## remove .venv and the caches, keep runs/
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
