# SPDX-License-Identifier: MIT
# Images: built in a Debian root made from a lock, pinned, booted without TDX, and proven equal to a rebuild.

ROLES ?= coordinator worker

.PHONY: images
images: ## build firmware and images in the locked root, if their inputs changed (root, about 10 minutes at first)
	$(TOOL_PYTHON) -m tools.imagebuild firmware $(BUILD_ARGS)
	$(TOOL_PYTHON) -m tools.imagebuild build $(ROLES) $(BUILD_ARGS)

.PHONY: images-pin
images-pin: install images ## write the pinned values of what was built into images/pins
	$(BIN)/python -m tools.imagepins write $(ROLES)

.PHONY: images-check
images-check: install images ## build, and compare with the pinned values
	$(BIN)/python -m tools.imagepins check $(ROLES)

.PHONY: images-boot
images-boot: install images ## boot every image without TDX; every measured event has to be the predicted one
	$(BIN)/python -m tools.bootproof $(ROLES)

.PHONY: images-hostile
images-hostile: install images ## boot images on every hostile host of the reference's table (about 30 minutes)
	OUTLAYER_RUN_HOSTILE=1 $(BIN)/pytest tests/images/test_boot.py $(PYTEST_ARGS)

.PHONY: images-repro
images-repro: install images ## build firmware and every image again as on other days and machines, and compare (about 30 minutes)
	OUTLAYER_RUN_REPRO=1 $(BIN)/pytest tests/images/test_reproducible.py $(PYTEST_ARGS)

.PHONY: images-lock
images-lock: install | $(UV) ## resolve all packages and wheels of the images again, and show what changes
	$(TOOL_PYTHON) -m tools.imagebuild lock --uv "$(UV)" $(LOCK_ARGS)

.PHONY: images-inputs
images-inputs: install ## pack every input of the images by hash into .build/inputs
	$(BIN)/outlayer image inputs --out .build/inputs

.PHONY: bench-images
bench-images: install images ## measure size, build, prediction and boot of the worker's image; writes bench/results
	$(BIN)/python -m bench.images
