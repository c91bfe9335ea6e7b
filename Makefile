# Everything a person does with this project from a clone. `make help` lists it.
# The virtual environment in .venv is made by itself; what a guest needs is fetched into the user's cache folder.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
CORE   := $(VENV)/.core
SANE   := build/sanitize
STRESS := build/stress

CELLS  := $(BIN)/python -m pytest -q -p tests.interop.cells --cells docs/interop.json tests/interop

STRESS_SECONDS ?= 5
STRESS_KILLS   ?= 2000
STRESS_DEATHS  ?= 100
STRESS_CLIENTS ?= 10000

.DEFAULT_GOAL := help
.PHONY: help demo test check lint types unit guest interop sanitize stress requirements bench speed compare wheel clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.made: pyproject.toml setup.py
	@echo "== making the virtual environment in $(VENV) (needs the package index)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "vfuserver needs Python 3.11 or newer: name one with make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "on Debian: apt-get install python3-venv python3-dev gcc"; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,guest]'
	@touch $@

$(CORE): $(VENV)/.made $(wildcard native/*/*.[ch])
	@echo "== compiling the core"
	@$(BIN)/python setup.py --quiet build_ext --inplace
	@$(BIN)/python -m compileall -q vfuserver devices
	@touch $@

demo: $(CORE)  ## a real guest whose stock drivers use devices written in Python
	@$(BIN)/vfuserver demo

test: check speed sanitize guest  ## everything: what CI runs

check: lint types unit  ## the quick part: style, types, import contracts, unit tests

lint: $(CORE)
	@echo "== style and import contracts"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet . || { echo "run: $(BIN)/ruff format ."; exit 1; }
	@$(BIN)/lint-imports --no-cache > $(VENV)/import-contracts || { cat $(VENV)/import-contracts; exit 1; }

types: $(CORE)
	@echo "== types"
	@$(BIN)/mypy

unit: $(CORE)
	@echo "== unit, contract and client-against-server tests"
	@$(BIN)/pytest -m "not guest"

guest: $(CORE)  ## tests inside a guest (fetches QEMU and a kernel once)
	@echo "== tests in a guest"
	@$(BIN)/pytest -m guest -v

interop: $(CORE)  ## the interop matrix, docs/interop.md, with the peers that are named (CONTRIBUTING says how)
	@echo "== cells of the interop matrix, on our engine"
	@$(CELLS) || [ $$? -eq 1 ]
	@[ -z "$$LIBVFIO_USER_SO" ] || { echo "== on libvfio-user"; VFUSERVER_TEST_ENGINE=libvfio-user $(CELLS) || [ $$? -eq 1 ]; }
	@$(BIN)/python -m tests.interop.matrix docs/interop.json docs/interop.md

stress: $(CORE)  ## threads of DMA against map, unmap and report, under the sanitizers; servers killed while they serve
	@mkdir -p $(STRESS)
	@for kind in address,undefined thread; do \
		echo "== stress under -fsanitize=$$kind, $(STRESS_SECONDS) s"; \
		$(CC) -std=c11 -D_GNU_SOURCE -Wall -Wextra -g -O1 -fno-omit-frame-pointer -fsanitize=$$kind -fno-sanitize-recover=all -pthread \
			-o $(STRESS)/$$kind native/core/*.c tests/native/stress/*.c && \
		TSAN_OPTIONS="suppressions=$(CURDIR)/tests/native/stress/races.tsan halt_on_error=1" \
			$(STRESS)/$$kind $(STRESS_SECONDS) || exit 1; \
	done
	@echo "== $(STRESS_KILLS) kills in the middle of 1000 messages"
	@STRESS_KILLS=$(STRESS_KILLS) $(BIN)/pytest -q tests/native/test_ledger_kills.py tests/native/test_ledger_steps.py
	@[ $(STRESS_DEATHS) -eq 0 ] || { echo "== $(STRESS_DEATHS) deaths of a supervised server"; \
		VFUSERVER_KILLS=$(STRESS_DEATHS) $(BIN)/pytest -q tests/interop/test_supervised.py -k thousand; }
	@[ $(STRESS_CLIENTS) -eq 0 ] || { echo "== $(STRESS_CLIENTS) clients of libvfio-user, if LIBVFIO_USER_SO names it"; \
		VFUSERVER_CYCLES=$(STRESS_CLIENTS) $(BIN)/pytest -q tests/engine/libvfio_user/test_cycles.py; }

sanitize: $(CORE)  ## the tests of the core under the sanitizers
	@$(MAKE) --no-print-directory stress STRESS_KILLS=100 STRESS_DEATHS=0 STRESS_CLIENTS=0
	@echo "== the core under sanitizers"
	@rm -rf $(SANE) && mkdir -p $(SANE) && git ls-files -z | xargs -0 cp --parents -t $(SANE)
	@cd $(SANE) && CFLAGS="-g -O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined" \
		$(CURDIR)/$(BIN)/python setup.py --quiet build_ext --inplace
	@cd $(SANE) && PYTHONPATH=$(CURDIR)/$(SANE) PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0 \
		LD_PRELOAD="$$(cc -print-file-name=libasan.so) $$(cc -print-file-name=libubsan.so)" \
		$(CURDIR)/$(BIN)/pytest -q --capture=sys tests/native tests/iommu tests/session tests/client tests/engine tests/device

requirements: $(CORE)  ## which tests prove which requirement, and what waits
	@$(BIN)/python -m tests.requirements --cases

$(VENV)/.bench: $(VENV)/.made
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench,libvfio-user]' && touch $@ || \
		echo "bench: what draws the plot, and uses libvfio-user from Python, could not be installed; going on without"

bench: $(CORE) $(VENV)/.bench  ## the speed of everything, as ratios to what is bare and (LIBVFIO_USER_SO) to libvfio-user
	@$(BIN)/python -m benchmarks

speed: $(CORE)  ## whether the hot path has become much slower: ratios to a bare echo, with wide limits
	@echo "== speed"
	@$(BIN)/python -m benchmarks.speed

compare: $(CORE)  ## two results of `make bench`: BEFORE=benchmarks/results/A.json AFTER=benchmarks/results/B.json
	@$(BIN)/python -m benchmarks.compare $(BEFORE) $(AFTER)

wheel: $(CORE)  ## dist/*.whl, and a try of it outside the work tree
	@$(BIN)/python -m build --quiet --wheel
	@rm -rf build/try && $(PYTHON) -m venv build/try && build/try/bin/pip install --quiet dist/*.whl
	@cd / && $(CURDIR)/build/try/bin/vfuserver list

clean:  ## removes what was built (not the cache folder)
	@rm -rf $(VENV) build dist *.egg-info vfuserver/_core.*.so
