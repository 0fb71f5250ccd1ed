# The README's two commands: `make run` and `make test`. Both set up what they need in .venv and build first.
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.14.1
BUILD ?= build/release
JOBS ?= $(shell nproc)

# Debian's packages that are neither in the wheel index nor on every machine; installed if missing and if this user may.
DEBIAN := libgtest-dev cmake g++
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
IN_VENV := $(abspath $(VENV))/bin

.PHONY: run test build setup clean

run: build
	cd $(VENV) && $(IN_VENV)/python -m convt_gemm.benchmark

# Where no GPU runs them, kernels need not be fast: unoptimised ones compile in a fraction of the time.
test: CMAKE_ARGS := $(or $(CMAKE_ARGS),$(shell nvidia-smi -L >/dev/null 2>&1 || echo -DCONVT_GEMM_FAST_COMPILE=ON))
test: build
	ctest --test-dir $(BUILD) -j 2 --output-on-failure --no-tests=error
	cd tests && $(IN_VENV)/python -m pytest -q -p no:cacheprovider python

# One CMake build serves the Python modules, the C++ tests and the C++ benchmark.
build: setup
	CONVT_GEMM_BUILD_DIR=$(BUILD) MAX_JOBS=$(JOBS) CMAKE_ARGS="-DCONVT_GEMM_TESTS=ON $(CMAKE_ARGS)" \
	  $(IN_VENV)/pip install -q --no-build-isolation --no-deps --force-reinstall .

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml
	@for package in $(DEBIAN); do \
	  dpkg -s $$package >/dev/null 2>&1 || missing="$$missing $$package"; \
	done; \
	if command -v dpkg >/dev/null && [ -n "$$missing" ]; then $(SUDO) apt-get update -q && $(SUDO) apt-get install -y -q $$missing; fi
	$(PYTHON) -m venv $(VENV)
	$(IN_VENV)/pip install -q "$(TORCH)" "setuptools>=77" wheel ninja "nvidia-cutlass>=4.2,<5"
	$(IN_VENV)/pip install -q "click>=8.1" "rich>=13" "matplotlib>=3.8" numpy "pytest>=8" expecttest hypothesis
	touch $@

clean:
	rm -rf build $(VENV) *.egg-info
