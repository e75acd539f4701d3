# One definition of every command: people, hooks and CI share it. `make help` lists them.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
HOST ?= 127.0.0.1
PORT ?= 8000
GRPC_PORT ?= 50051
# TORCH=cpu takes PyTorch's CPU build (hundreds of megabytes less); the default is what pip takes for this machine.
TORCH ?=
TORCH_INDEX_cpu := --extra-index-url https://download.pytorch.org/whl/cpu
TORCH_SPEC_cpu := torch==2.13.0+cpu
TORCH_SPEC := $(or $(TORCH_SPEC_$(TORCH)),torch==2.13.0)
# Installed without its dependencies (an older numpy and OpenCV): the tests use its decoder of masks alone.
LABEL_STUDIO := label-studio-sdk==2.1.2

.DEFAULT_GOAL := help
.PHONY: help serve test test-slow lint format proto docs bench performance hearing soak chaos fuzz check-compose sbom audit clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

serve: $(VENV)/.installed ## start the service with the shipped checkpoint (PORT=, GRPC_PORT=, TORCH=cpu)
	exec $(BIN)/avesformer serve --host $(HOST) --port $(PORT) --grpc-port $(GRPC_PORT)

# Test files run side by side, a process for each core and four at most: with more, tests of leases and kills meet
# delays that no service has. PYTEST_ARGS="-n 0" runs one after another.
# Files start in the order of their folders, not those with the most tests first: integration tests are few in a file and
# long, unit tests many and short, so the processes end at about the same time.
# Bytecode is kept even where the environment forbids it: the tests start more than a hundred servers, and each would
# compile the service again (a third of the time that its imports take).
test: $(VENV)/.installed-dev ## run the whole test suite
	$(BIN)/python -m compileall -q service model
	env -u PYTHONDONTWRITEBYTECODE OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder \
	  -m "not gpu and not slow and not bench" $(PYTEST_ARGS)

test-slow: $(VENV)/.installed-dev ## the long tests: minutes each
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "slow and not gpu" --timeout 3600 $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev ## ruff, mypy --strict, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev ## let ruff format and sort
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

proto: $(VENV)/.installed-dev ## generate the gRPC stubs into service/rpc/pb
	$(BIN)/python -m grpc_tools.protoc -Iservice/rpc/pb=proto \
	  --python_out=. --pyi_out=. --grpc_python_out=. proto/avesformer/v1/segmentation.proto

bench: $(VENV)/.installed-dev ## every figure of time, ratios first
	OMP_NUM_THREADS=1 $(BIN)/avesformer bench $(BENCH_ARGS)

performance: $(VENV)/.installed-dev ## the table of docs/performance.md for DEVICE (cpu or cuda), within eight minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m service.bench.performance --device $(or $(DEVICE),cpu) $(PERFORMANCE_ARGS)

docs: $(VENV)/.installed-dev ## build the documentation site into build/site
	$(BIN)/python -m mkdocs build --strict

clean: ## remove what the commands above made
	rm -rf $(VENV) build/site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache *.egg-info

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check "pip>=25"

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --disable-pip-version-check $(INSTALL_FLAGS) $(TORCH_INDEX_$(TORCH)) "$(TORCH_SPEC)"
	$(BIN)/python -m pip install --disable-pip-version-check $(INSTALL_FLAGS) -e '.[model]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed pyproject.toml
	$(BIN)/python -m pip install --disable-pip-version-check $(INSTALL_FLAGS) -e '.[model,dev]'
	$(BIN)/python -m pip install --disable-pip-version-check $(INSTALL_FLAGS) --no-deps '$(LABEL_STUDIO)'
	@touch $@

hearing: $(VENV)/.installed-dev ## how well the checkpoint hears, through the whole path (HEARING_ARGS="--clips 20 --conditions mp3,timing")
	OMP_NUM_THREADS=1 $(BIN)/python -m service.bench.hearing.run $(HEARING_ARGS)

soak: $(VENV)/.installed-dev ## strangers, crowds and time: a ten-minute 720p clip, then R1 to R3, R6, R8 (slow clients, streams), R9, R12, R14, job, keys (SOAK_ARGS="--only R6 --json FILE")
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -s -m slow --timeout 3600 tests/load/test_memory.py
	OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python -m load.soak $(SOAK_ARGS)

chaos: $(VENV)/.installed-dev ## processes that die, wedge or lose each other: R4, R5, R7, R10, R11, R13, R15 to R17 (CHAOS_ARGS="--kills 50 --json FILE")
	OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python -m load.chaos $(CHAOS_ARGS)

fuzz: $(VENV)/.installed-dev ## coverage-guided fuzzing of parsers and protocols (FUZZ_ARGS="--only form --seconds 600")
	$(BIN)/python -m pip install --disable-pip-version-check $(INSTALL_FLAGS) -e '.[fuzz]'
	PYTHONPATH=tests $(BIN)/python -m load.fuzz $(FUZZ_ARGS)

check-compose: ## build the images and run both compose files on a Docker engine: a clip, scaling, kills, a restart with jobs under way
	deploy/check_compose $(CHECK_COMPOSE_WORK)

sbom: $(VENV)/.installed ## write the bills of materials of the images (CycloneDX) into build/sbom
	$(BIN)/python deploy/sbom.py

audit: $(VENV)/bin/python ## ask the advisory database about every locked version; offline it says that nothing was checked
	deploy/audit $(BIN)/python
