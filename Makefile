# The front door: `make run` starts a local cluster, `make test` checks everything. `make help` lists the rest.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help operator clients fuzz run setup test lint fmt docs unit sim model process chart helm chaos bench readers image kind-up kind-test kind-down clean

# Shared by all checkouts of a machine, so that a fresh clone builds fast.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/pubsub/target

# `make run RELEASE=0` uses the quickly built development profile.
RELEASE ?= 1
# Further arguments of `pubsub local`, e.g. `make run ARGS="--brokers 5"`.
ARGS ?=

# `make sim SEEDS=1000` runs so many seeds, `make sim SEED=42 SCENARIO=ordinary_3` repeats one run.
ifdef SEEDS
export SIM_SEEDS := $(SEEDS)
endif
ifdef SEED
export SIM_SEED := $(SEED)
endif
ifdef FAULTS
export SIM_FAULTS := $(FAULTS)
endif
ifdef SCENARIO
export SIM_SCENARIO := $(SCENARIO)
endif

# `make chaos DURATION=20m SEED=1 SCHEDULE=kill-leader,disk-full-leader`; docs/operations.md lists the schedules.
DURATION ?= 20m
TIMES ?= 50
REPORT ?= docs/reports

# Named by what they need: the simulator's begin with `sim`; all but a few of the others start processes.
TEST_FILES = $(basename $(notdir $(wildcard tests/tests/*.rs)))
SIM_TESTS = $(filter sim%,$(TEST_FILES))
PROCESS_TESTS = $(filter-out tidy record_batch chart kind $(SIM_TESTS),$(TEST_FILES))

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

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

sim: ## Run the simulator (SEEDS=n, or SEED=n SCENARIO=name)
	cargo test -p pubsub-tests $(addprefix --test ,$(if $(SCENARIO),sim,$(SIM_TESTS))) -- $(if $(SCENARIO),one_seed) --nocapture

model: ## Check the models of election and replication, and that each weakened rule is refuted
	cargo run --release --quiet -p pubsub-model $(if $(TRACE),-- --trace $(TRACE))

process: ## Run the tests that start real processes
	cargo build --workspace --bins
	cargo test -p pubsub-tests $(addprefix --test ,$(PROCESS_TESTS))

operator: ## Test the operator against a real Kubernetes API
	cargo build --workspace --bins
	cargo test -p pubsub-tests --test operator -- --include-ignored

clients: ## Install the Python and the JavaScript client, and test them against real brokers
	@scripts/clients.sh

fuzz: setup ## Hold every answer of a throw-away cluster to the API's description (EXAMPLES=n a route, SEED=n)
	@SEED=$(or $(SEED),1) EXAMPLES=$(or $(EXAMPLES),50) scripts/fuzz.sh

chart: helm ## Render the chart in all variants and check what comes out
	cargo test -p pubsub-tests --test chart

helm: ## Check for (or build) helm, which the chart's tests call
	@scripts/helm.sh

chaos: ## Break clusters of real processes by schedule and check them (DURATION, SEED, SCHEDULE)
	cargo build --workspace --bins
	cargo run -p pubsub-tests --bin pubsub-chaos -- --duration $(DURATION) --seed $(or $(SEED),1) --schedule "$(SCHEDULE)" --times $(TIMES) --report "$(REPORT)"

bench: setup ## Measure publish and read rates of a cluster of its own, release build
	@scripts/bench.sh

readers: setup ## Measure what many waiting readers cost publishers, release build (READERS=200, SECONDS_EACH=60)
	@scripts/readers.sh

image: setup ## Build the container image, and load it into Docker if that answers
	@scripts/image.sh

kind-up: ## Start a Kubernetes cluster in Docker (kind) with the image loaded; the first time it is built from source
	@tests/kind/cluster.sh up
	@scripts/image.sh
	@tests/kind/cluster.sh load

kind-test: setup ## Run the tests on Kubernetes in a cluster of their own (NAME=part of a test's name)
	@tests/kind/test.sh $(NAME)

kind-down: ## Remove the Kubernetes cluster
	@tests/kind/cluster.sh down

clean: ## Remove the build directory
	cargo clean
