# The front door: `make run` starts a local cluster, `make test` checks everything. `make help` lists the rest.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help run setup test lint fmt docs unit sim process bench clean

# Shared by all checkouts of a machine, so that a fresh clone builds fast.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/pubsub/target

# `make run RELEASE=0` uses the quickly built development profile.
RELEASE ?= 1
# Further arguments of `pubsub local`, e.g. `make run ARGS="--brokers 5"`.
ARGS ?=

# `make sim SEEDS=1000`, `make sim SEED=42`, `make sim SCENARIO=split_brain_classic_bully`.
ifdef SEEDS
export SIM_SEEDS := $(SEEDS)
endif
ifdef SEED
export SIM_SEED := $(SEED)
endif
ifdef SCENARIO
export SIM_SCENARIO := $(SCENARIO)
endif

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Check for (or install) the compiler, linker and Rust components
	@scripts/setup.sh

run: setup ## Build and start discovery and three brokers on this machine
	@scripts/run.sh "$(RELEASE)" $(ARGS)

test: setup ## Check formatting, lints and docs, then run every test
	@scripts/test.sh

lint: ## Check formatting, lints and docs
	@scripts/test.sh lint

fmt: ## Format the code
	cargo fmt --all

docs: ## Build the API documentation
	cargo doc --workspace --no-deps

unit: ## Run unit, property and tidy tests
	cargo test --workspace --lib --bins
	cargo test -p pubsub-tests --test tidy

sim: ## Run the simulator (SEEDS=n, SEED=n, SCENARIO=name)
	cargo test -p pubsub-tests --test sim -- --nocapture

process: ## Run the tests that start real processes
	cargo build --workspace --bins
	cargo test -p pubsub-tests --test cluster --test faults

bench: setup ## Measure publish and read rates of a local cluster, release build
	@scripts/bench.sh

clean: ## Remove the build directory
	cargo clean
