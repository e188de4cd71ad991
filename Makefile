# SPDX-License-Identifier: MIT
# Every task a person repeats. `make` alone lists them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(not (3,11) <= sys.version_info[:2] <= (3,13))' \
	2>/dev/null && { command -v $$p; break; }; done)
CACHE := $(or $(OUTLAYER_CACHE),$(HOME)/.cache/outlayer)
PACKAGES := attestation near coordinator worker localnet keeper cli
BIN := .venv/bin
UV_HOME := $(CACHE)/uv/$(firstword $(shell cat requirements/uv.txt | sha256sum))
UV := $(UV_HOME)/bin/uv

include $(wildcard make/*.mk)

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z][a-z-]*:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | expand -t 22

.PHONY: install
install: $(BIN)/.installed ## make .venv from the hashed lock

$(UV):
	@if [ -z "$(PYTHON)" ]; then echo "error: no Python 3.11 to 3.13 with venv was found." \
	"Install it (Debian: apt install python3 python3-venv), or name one: make PYTHON=/path/to/python3.13" >&2; exit 1; fi
	rm -rf "$(UV_HOME)"
	$(PYTHON) -m venv "$(UV_HOME)"
	"$(UV_HOME)/bin/pip" install --quiet --require-hashes -r requirements/uv.txt

# Compiled at once: else each start of a program compiles again where Python may not write its caches.
# A lock of hashes needs no index: what uv has cached comes first, so it works without a network, too.
# Behind a proxy with a certificate of its own, the machine's certificates count.
SYNC = "$(UV)" pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements/dev.txt
$(BIN)/.installed: requirements/dev.txt $(PACKAGES:%=services/%/pyproject.toml) | $(UV)
	@[ -n "$(PYTHON)" ] || { echo "error: no Python 3.11 to 3.13 with venv was found" >&2; exit 1; }
	[ -x $(BIN)/python ] || "$(UV)" venv --quiet --python "$(PYTHON)" .venv
	$(SYNC) --offline 2>/dev/null || $(SYNC) || $(SYNC) --system-certs
	"$(UV)" pip install --quiet --offline --python $(BIN)/python --no-deps --no-build-isolation \
	$(PACKAGES:%=-e services/%)
	touch $@

.PHONY: lock
lock: | $(UV) ## resolve the Python dependencies again
	"$(UV)" pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade --no-header --no-annotate \
	$(PACKAGES:%=--no-emit-package outlayer-%) pyproject.toml --group dev -o requirements/dev.txt

.PHONY: up
up: install ## start everything on this machine, run an app twice, verify both runs
	@$(BIN)/outlayer up

.PHONY: down
down: install ## stop the stack; its state stays
	@$(BIN)/outlayer down

.PHONY: status
status: install ## show what runs
	@$(BIN)/outlayer status

.PHONY: clean
clean: ## stop the stack, remove its state, .venv and build folders (the download cache stays)
	@if [ -x $(BIN)/outlayer ]; then $(BIN)/outlayer clean --yes; fi
	rm -rf .venv .build .mypy_cache .ruff_cache .pytest_cache .hypothesis

.PHONY: lint
lint: install ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(PACKAGES:%=services/%/src) tools bench

.PHONY: format
format: install ## let ruff rewrite the sources
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The tests start hundreds of programs: what Python compiles is kept, whatever the environment says.
PYTEST = env -u PYTHONDONTWRITEBYTECODE $(BIN)/pytest

.PHONY: test
test: lint ## linters, then every test; what cannot run here is skipped with its reason
	$(PYTEST) -n 2 --dist worksteal -m "not (slow or contracts or e2e or images)" $(PYTEST_ARGS)
	$(PYTEST) -m e2e $(PYTEST_ARGS)
	$(PYTEST) -m "slow or contracts" $(PYTEST_ARGS)
	$(PYTEST) -m images $(PYTEST_ARGS)

.PHONY: test-unit
test-unit: install ## the tests of the packages alone but the slow ones, under two minutes
	$(PYTEST) -n 2 --dist worksteal -m "not slow" services $(PYTEST_ARGS)

.PHONY: bench
bench: install ## measure, as ratios to a baseline in the same run; writes bench/results
	$(BIN)/python -m bench
