# `make` or `make help` lists what can be done. Everything is installed into .venv; nothing global is touched.
SHELL := /bin/sh
.DEFAULT_GOAL := help
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STAMP := .venv/.installed
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / {printf "%-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(STAMP) ## make .venv with the pinned dependencies; nothing to do when they did not change

$(STAMP): pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Forecastle needs Python 3.11 or newer; give one with: make setup PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/pip || "$(PYTHON)" -m venv --clear .venv
	@echo "installing into .venv (several minutes the first time)"
	@$(BIN)/python -m pip install --quiet --progress-bar off --constraint constraints.txt --editable '.[dev]'
	@touch $@

.PHONY: demo
demo: $(STAMP) ## play a fleet through the whole path; TRACE=FILE plays a recorded one, ARGS=... adds options
	@$(BIN)/forecastle demo $(if $(TRACE),--trace "$(TRACE)") $(ARGS)

.PHONY: test
test: $(STAMP) ## run the tests, a file on each core at a time; ARGS=... narrows them down, ARGS=-n0 keeps to one core
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)

.PHONY: soak
soak: $(STAMP) ## play for hours: SEEDS=10000 worlds in which things go wrong, 1,000 losses per kind of pool
	@SEEDS=$(or $(SEEDS),10000) $(BIN)/python -m pytest tests/simulation/test_simulation_seeds.py $(ARGS)
	@AWS_RUNS=1000 AZURE_RUNS=1000 GCP_RUNS=1000 KUBERNETES_RUNS=1000 TERRAFORM_RUNS=1000 $(BIN)/python -m pytest \
		-k second_effect tests/clouds $(ARGS)

.PHONY: lint
lint: $(STAMP) ## ruff, mypy and the walls between the rooms
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

.PHONY: ci
ci: lint ## exactly what CI runs: lint, then test
	@$(MAKE) --no-print-directory test

.PHONY: format
format: $(STAMP) ## let ruff rewrite what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

.PHONY: bench
bench: $(STAMP) ## run every benchmark; results are written to benchmarks/results
	@set -e; for file in benchmarks/bench_*.py; do echo "== $$file"; $(BIN)/python "$$file"; done

bench-%: $(STAMP) ## run one benchmark, such as bench-detect or bench-pipeline
	@$(BIN)/python benchmarks/bench_$*.py $(ARGS)

.PHONY: docs
docs: $(STAMP) ## write the generated pages of docs/reference anew
	@$(BIN)/python docs/generate.py

.PHONY: lock
lock: $(STAMP) ## pin what .venv has now in constraints.txt
	@{ sed -n '/^#/p' constraints.txt; $(BIN)/pip freeze --all --exclude pip --exclude wheel --exclude-editable | sed 's/+cpu$$//'; } > constraints.new
	@mv constraints.new constraints.txt

.PHONY: wheel
wheel: $(STAMP) ## build dist/forecastle-*.whl
	@$(BIN)/hatchling build --target wheel

.PHONY: sbom
sbom: $(STAMP) ## write dist/sbom.cdx.json: every pinned dependency, its licence and what needs it (CycloneDX)
	@$(BIN)/python deploy/sbom.py constraints.txt dist/sbom.cdx.json

.PHONY: image
image: ## build the serving image and the training image; needs Docker
	docker build --target serving --tag forecastle:serving .
	docker build --target training --tag forecastle:training .

.PHONY: clean
clean: ## remove .venv, caches, builds and the demo's output
	rm -rf .venv build dist out .forecastle .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
