# SPDX-License-Identifier: MIT
# Contracts and guests: built in a Debian root made from a lock, committed, and proven equal to a rebuild.

CONTRACTS_LOCK := contracts/builder/lock.json
RECIPES := contracts/builder/recipe.json examples/recipe.json
# the tools use the standard library alone, so any Python 3.11+ will do
TOOL_PYTHON = $(or $(wildcard $(BIN)/python),$(PYTHON))

.PHONY: contracts
contracts: ## build the contracts in the locked root, if their inputs changed
	$(TOOL_PYTHON) -m tools.wasmbuild build contracts/builder/recipe.json $(BUILD_ARGS)

.PHONY: guests
guests: ## build the Rust guests of the examples in the locked root, if their inputs changed
	$(TOOL_PYTHON) -m tools.wasmbuild build examples/recipe.json $(BUILD_ARGS)

.PHONY: contracts-check
contracts-check: ## rebuild contracts and guests from scratch and compare with the committed bytes
	$(TOOL_PYTHON) -m tools.wasmbuild check $(RECIPES) $(BUILD_ARGS)

.PHONY: contracts-repro
contracts-repro: install ## build one contract twice under different surroundings and compare
	OUTLAYER_RUN_REPRO=1 $(BIN)/pytest tests/contracts/test_reproducible.py $(PYTEST_ARGS)

.PHONY: contracts-lock
contracts-lock: ## resolve the builder root's packages again, and show what changes
	$(TOOL_PYTHON) -m tools.debroot lock $(CONTRACTS_LOCK) $(LOCK_ARGS)

.PHONY: contracts-inputs
contracts-inputs: ## pack every .deb of the builder root by hash into .build/inputs
	$(TOOL_PYTHON) -m tools.debroot bundle $(CONTRACTS_LOCK) --out .build/inputs

.PHONY: contracts-table
contracts-table: install ## measure the contracts again and write docs/reference/contracts.md
	$(BIN)/python -m tools.contracttable write

MUTANTS_PLAN := contracts/mutants.json
MUTANTS_HOME = $(CACHE)/cargo-mutants-$(shell sed -n 's/.*"version": "\(.*\)",/\1/p' $(MUTANTS_PLAN))
.PHONY: contracts-mutants
contracts-mutants: install ## hours: change the contracts' deciding code bit by bit, and see that a test notices each
	[ -x "$(MUTANTS_HOME)/bin/cargo-mutants" ] || cargo install --quiet --locked --root "$(MUTANTS_HOME)" \
	cargo-mutants --version "$(MUTANTS_HOME:$(CACHE)/cargo-mutants-%=%)"
	$(BIN)/python -m tools.contractmutants --tool "$(MUTANTS_HOME)/bin/cargo-mutants" $(MUTANTS_ARGS)
