# Forebay's commands. `make` alone lists them.
# Each brings what it needs and does nothing where that is already there.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

CACHE := $(HOME)/.cache/forebay

# One folder for every checkout, so that llama.cpp is compiled once (about 5 minutes on 2 cores).
ifndef CARGO_TARGET_DIR
CARGO_TARGET_DIR := $(shell deploy/setup/target-dir $(CACHE)/target)
endif
ifeq ($(strip $(CARGO_TARGET_DIR)),)
$(error no target folder: deploy/setup/target-dir failed, is Rust on PATH?)
endif
export CARGO_TARGET_DIR
# RUSTFLAGS would replace the flags of .cargo/config.toml: no native kernels, and all built anew.
unexport RUSTFLAGS CARGO_ENCODED_RUSTFLAGS

# One profile for everything: another one would compile llama.cpp again.
PROFILE := --release
BIN := $(CARGO_TARGET_DIR)/release/forebay

CONFIG ?= config/quickstart.toml
MODELS := smollm2-135m-instruct all-minilm-l6-v2

TOOLS := $(CACHE)/tools
VENV_TESTS := $(CACHE)/venv-tests
VENV_LM_EVAL := $(CACHE)/venv-lm-eval
VENV_BENCH := $(CACHE)/venv-bench
VENV_PEERS := $(CACHE)/venv-peers
VENV_CONFORMANCE := $(CACHE)/venv-conformance
VENV_DENY := $(CACHE)/venv-deny
# Other gateways, once bench-peers has brought them.
PEERS = $(if $(wildcard $(VENV_PEERS)/.requirements),--peers-bin $(VENV_PEERS)/bin)
# The tests find promtool and prometheus on PATH, wherever they come from.
export PATH := $(PATH):$(TOOLS)/usr/bin

# The parts of a target share the cores, the cargo lock and the ports: one after another.
.NOTPARALLEL:

##@ Everyday

.PHONY: run
run: build setup-models ## Set up, build and serve CONFIG (config/quickstart.toml) on 127.0.0.1:8080
	exec $(BIN) serve --config $(CONFIG)

.PHONY: usage
usage: build ## What was used on CONFIG's store, and what it costs
	@$(BIN) usage --config $(CONFIG)

# Threads that wait for one another sleep: spinning would take the cores from whoever they wait for, where
# the machine has other things to do.
test test-rust test-clients conformance test-openapi test-batches test-lm-eval test-mistralrs test-long test-kills: export OMP_WAIT_POLICY := passive

.PHONY: test
test: test-rust test-clients test-deploy test-mistralrs ## Set up, then every test

.PHONY: lint
lint: setup-tools deny ## rustfmt, clippy without warnings, cargo-deny; Cargo.lock must be current
	cargo fmt --all --check
	cargo clippy $(PROFILE) --workspace --all-targets --locked -- -D warnings

.PHONY: bench
bench: bench-proxy bench-rates bench-fairness bench-ledger bench-engine ## All benches, as tables (about 20 minutes)

.PHONY: bench-engine
bench-engine: setup-models setup-bench ## The engine beside llama.cpp's own server (about 15 minutes)
	cargo run $(PROFILE) -p loadtest -- engine --forebay-bin $(BIN) --python $(VENV_BENCH)/bin/python $(BENCH)

.PHONY: bench-ledger
bench-ledger: setup-tools setup-postgres ## Charges a second, and what they add to an answer, on both databases (about a minute)
	cargo bench --bench ledger

.PHONY: bench-proxy
bench-proxy: build ## What Forebay adds to an upstream that takes no time, beside nginx and, after bench-peers, others (2 to 4 minutes)
	@deploy/setup/nginx $(TOOLS)
	cargo run $(PROFILE) -p loadtest -- proxy --forebay-bin $(BIN) --nginx-bin $(TOOLS)/usr/sbin/nginx $(PEERS) $(PROXY)

.PHONY: bench-rates
bench-rates: build ## Time of a request at rising rates, beside the same, with a chart in rates.svg (about a minute)
	@deploy/setup/nginx $(TOOLS)
	cargo run $(PROFILE) -p loadtest -- rates --forebay-bin $(BIN) --nginx-bin $(TOOLS)/usr/sbin/nginx $(PEERS) --svg rates.svg $(RATES)

.PHONY: bench-peers
bench-peers: ## Brings tensorzero, smg and vllm-router, for bench-proxy to measure too (0.4 GB)
	@deploy/setup/venv $(VENV_PEERS) deploy/setup/peers-requirements.txt

.PHONY: bench-fairness
bench-fairness: build ## What one tenant's flood does to another (about a minute)
	cargo run $(PROFILE) -p loadtest -- fairness --forebay-bin $(BIN) $(FAIRNESS)

.PHONY: soak
soak: setup-models ## 10,000 random requests, many of them cancelled: nothing may leak or be booked wrong
	cargo run $(PROFILE) -p loadtest -- soak --forebay-bin $(BIN) $(SOAK)

.PHONY: build
build: setup-tools ## The binary alone
	cargo build $(PROFILE)

##@ Parts of test

.PHONY: test-rust
test-rust: setup-models setup-prometheus setup-postgres ## Unit tests and tests/it
	cargo test $(PROFILE) --workspace

.PHONY: test-clients
test-clients: setup-models setup-clients ## The OpenAI SDK against the running binary
	FOREBAY_BIN=$(BIN) $(VENV_TESTS)/bin/python -m pytest -p no:cacheprovider tests/clients --ignore tests/clients/test_lm_eval.py --ignore tests/clients/test_batch_long.py --ignore tests/clients/test_safetensors.py

.PHONY: test-lm-eval
test-lm-eval: setup-models setup-lm-eval ## lm-eval's score against one by hand; not part of test (its packages are 0.9 GB)
	FOREBAY_BIN=$(BIN) $(VENV_LM_EVAL)/bin/python -m pytest -p no:cacheprovider tests/clients/test_lm_eval.py

.PHONY: conformance
conformance: setup-models setup-conformance ## OpenAI's SDK for Node, LangChain's own tests, litellm, llama-index, the AI SDK
	FOREBAY_BIN=$(BIN) $(VENV_CONFORMANCE)/bin/python -m pytest -p no:cacheprovider -c tests/conformance/pytest.ini tests/conformance

# Not part of test: each takes a good while.
.PHONY: test-openapi
test-openapi: setup-models setup-conformance ## schemathesis against the API's document, and against OpenAI's where FOREBAY_OPENAI_SPEC names it (20 minutes each)
	FOREBAY_BIN=$(BIN) FOREBAY_FUZZ_S=1200 $(VENV_CONFORMANCE)/bin/python -m pytest -s -p no:cacheprovider -c tests/conformance/pytest.ini tests/conformance/test_openapi.py

.PHONY: test-long
test-long: setup-models ## The engine's isolation test in its long form: 3,200 answers; FOREBAY_ROUNDS=50 FOREBAY_SEED=2 for a part of it
	FOREBAY_ROUNDS=$${FOREBAY_ROUNDS:-200} cargo test $(PROFILE) --lib -- --nocapture --exact worker::embedded::llama::tests::isolation::answers_are_what_they_are_alone

.PHONY: test-batches
test-batches: setup-models setup-clients build ## A batch of 1,000 lines, killed in the middle, beside an interactive client (about 10 minutes)
	FOREBAY_BIN=$(BIN) $(VENV_TESTS)/bin/python -m pytest -s -p no:cacheprovider tests/clients/test_batch_long.py

.PHONY: test-kills
test-kills: setup-models setup-postgres ## The books after 100 kills on each database, 1,000 dropped streams, a budget on two replicas (about 30 minutes)
	FOREBAY_KILLS=100 FOREBAY_DROPS=1000 FOREBAY_BUDGET=1000000 cargo test $(PROFILE) --test it -- --nocapture kills streams_that_are_dropped a_budget_is_spent

# One test at a time, on threads that sleep while they wait: this model has windows to fill.
.PHONY: test-gemma
test-gemma: build ## The engine's tests on Gemma 3 270M: brings it here, under the terms at https://ai.google.dev/gemma/terms
	$(BIN) model pull gemma-3-270m
	FOREBAY_TEST_MODEL=$(CACHE)/models/gemma-3-270m-q4_k_m.gguf OMP_WAIT_POLICY=passive cargo test $(PROFILE) --lib -- --nocapture --test-threads=1 worker::embedded::llama::tests

.PHONY: test-deploy
test-deploy: build setup-prometheus ## What deploy/ holds, as far as its own tools can judge it
	$(BIN) check --config deploy/container.toml
	promtool check config deploy/prometheus/prometheus.yml deploy/prometheus/compose.yml

# Last of all: it puts a binary with both engines in the place of the default one. The grep is there
# because cargo calls it a success when no test has that name: both kinds have to have run some.
# Forebay's own code is not optimised here, which saves minutes of compiling: the engine is what takes time.
.PHONY: test-mistralrs
test-mistralrs: setup-models setup-clients ## The second engine answers (a cold build takes about 12 minutes)
	cargo test $(PROFILE) --config tests/mistralrs.toml --features mistralrs --lib --test it mistralrs 2>&1 | tee >(cat >&2) | grep -cE 'result: ok\. [1-9]' | grep -qx 2
	FOREBAY_BIN=$(BIN) $(VENV_TESTS)/bin/python -m pytest -p no:cacheprovider tests/clients/test_safetensors.py

##@ Parts of set-up

.PHONY: setup
setup: setup-models setup-clients setup-prometheus setup-postgres setup-bench ## All of it

.PHONY: setup-tools
setup-tools: ## cmake, a C++ compiler, libclang
	@deploy/setup/tools

.PHONY: setup-models
setup-models: build ## The weights of the quickstart
	@$(BIN) model pull $(MODELS)

.PHONY: setup-clients
setup-clients: ## The Python clients that the tests use
	@deploy/setup/venv $(VENV_TESTS) tests/clients/requirements.txt

.PHONY: setup-conformance
setup-conformance: ## Other programs that know OpenAI's API, for Python and for Node
	@deploy/setup/venv $(VENV_CONFORMANCE) tests/conformance/requirements.txt
	@deploy/setup/node $(CACHE)/node-conformance tests/conformance

.PHONY: setup-lm-eval
setup-lm-eval: ## lm-eval and what it needs
	@deploy/setup/venv $(VENV_LM_EVAL) tests/clients/requirements-lm-eval.txt

.PHONY: setup-prometheus
setup-prometheus: ## prometheus and promtool, unpacked only
	@deploy/setup/prometheus $(TOOLS)

.PHONY: setup-postgres
setup-postgres: ## The programs of PostgreSQL, of which the tests start one of their own
	@deploy/setup/postgres

.PHONY: setup-bench
setup-bench: ## llama.cpp's own server for bench
	@deploy/setup/venv $(VENV_BENCH) deploy/setup/bench-requirements.txt

##@ Other

# Without `advisories`: that check clones a git database, which a closed site cannot reach. Run
# `cargo deny check advisories` where it can. A cargo-deny on PATH goes before the packaged one.
# The fetch is for --offline, which would miss crates of other platforms; it is quick when warm.
.PHONY: deny
deny: ## Licences, banned crates and sources of every dependency
	@command -v cargo-deny >/dev/null || deploy/setup/venv $(VENV_DENY) deploy/setup/deny-requirements.txt
	@cargo fetch --locked --quiet
	@PATH="$$PATH:$(VENV_DENY)/bin" cargo deny --all-features --locked --offline check bans licenses sources

.PHONY: image
image: ## The container image; TARGET_CPU=... for others than x86-64-v3, empty on ARM
	docker build $(if $(filter undefined,$(origin TARGET_CPU)),,--build-arg TARGET_CPU=$(TARGET_CPU)) --tag forebay:dev .

.PHONY: which
which: ## The folder of the binary
	@echo $(dir $(BIN))

.PHONY: help
help: ## This list
	@awk 'BEGIN { FS = ":.*## " } \
	    /^##@/ { printf "\n%s\n", substr($$0, 5) } \
	    /^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
