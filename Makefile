# `make` or `make help` lists what there is.

SHELL := /usr/bin/env bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# Crates that are compiled side by side.
JOBS ?= 2
# `make demo`: where the ports begin, where data go (empty: a folder of its own), how
# many results, requests and campaign messages for how many patients, and whether to
# end after the table (ONCE=1).
PORT_BASE ?= 19000
DATA_DIR ?=
RESULTS ?=
REQUESTS ?=
BULK ?=
PATIENTS ?=
ONCE ?=
# `make bench`: one of benches/, or all of them.
BENCH ?= *
# `make test-keda`: --with-consumers, --only=PART_OF_A_NAME.
ARGS ?=

CARGO_TARGET_DIR ?= target
export CARGO_TARGET_DIR
debug := $(CARGO_TARGET_DIR)/debug/patient-notify
release := $(CARGO_TARGET_DIR)/release/patient-notify
demo_flags := --port-base $(PORT_BASE) \
	$(if $(filter-out 0,$(ONCE)),--once) \
	$(if $(DATA_DIR),--data-dir '$(DATA_DIR)') \
	$(if $(RESULTS),--results $(RESULTS)) \
	$(if $(REQUESTS),--requests $(REQUESTS)) \
	$(if $(BULK),--bulk $(BULK)) \
	$(if $(PATIENTS),--patients $(PATIENTS))

.PHONY: help
help: ## Show this list
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "  make demo takes ONCE=1, PORT_BASE=$(PORT_BASE), DATA_DIR=…, RESULTS=…,"
	@echo "  REQUESTS=…, BULK=…, PATIENTS=…;"
	@echo "  all take JOBS=$(JOBS). PATIENT_NOTIFY_TOOLS_DIR says where servers are installed."

# --- Run -----------------------------------------------------------------------

.PHONY: demo
demo: deps ## Install, build, and show the whole way of three flows on real servers
	@cargo build --locked --bin patient-notify -j $(JOBS)
	@exec '$(debug)' dev --demo $(demo_flags)

.PHONY: deps
deps: ## Install what is missing (Debian packages, servers); once
	@scripts/install.sh stack

.PHONY: test-deps
test-deps: deps
	@scripts/install.sh test

.PHONY: build
build: ## Build everything, tests too
	@cargo build --locked --all-targets -j $(JOBS)

# --- Test ----------------------------------------------------------------------

.PHONY: test
test: test-deps ## Unit, documentation and integration tests on a stack of their own
	@cargo build --locked --bin patient-notify -j $(JOBS)
	@cargo test --locked --no-run -j $(JOBS)
	@scripts/manifests/run.sh test_manifests.py
	@scripts/manifests/run.sh test_settings.py '$(debug)'
	@'$(debug)' stack run --free-ports -- cargo test --locked -j $(JOBS) -- --skip endurance
	@exec '$(debug)' stack run --free-ports -- cargo test --locked -j $(JOBS) --test integration -- --nocapture endurance

.PHONY: test-keda
test-keda: ## Replicas on a real KEDA (built once, 20 minutes); ARGS=--with-consumers closes the loop
	@scripts/install.sh keda
	@cargo build --locked --bin patient-notify -j $(JOBS)
	@cargo test --locked --test keda --no-run -j $(JOBS)
	@exec '$(debug)' stack run --free-ports -- cargo test --locked --test keda -j $(JOBS) -- $(ARGS)

.PHONY: bench
bench: deps ## The front, the drain and due deliveries, each beside the bare thing in the same run
	@cargo build --locked --release --bin patient-notify -j $(JOBS)
	@cargo bench --locked --no-run --bench '$(BENCH)' -j $(JOBS)
	@exec '$(release)' stack run --free-ports -- cargo bench --locked --bench '$(BENCH)' -j $(JOBS)

.PHONY: simulate
simulate: deps ## Autoscaling simulated, by lag alone and by the scaler, into docs/autoscaling.md
	@cargo build --locked --release --bin patient-notify -j $(JOBS)
	@exec '$(release)' simulate --out docs

# --- Check: what a change must pass besides the tests ----------------------------

.PHONY: check
check: lint-fmt lint-scripts lint-manifests test-manifests lint-proto lint-breaking lint-deny lint-clippy lint-doc lint-schemas lint-observability ## Formats, lints, licences, contracts
	@echo "check: all passed"

.PHONY: check-deps
check-deps:
	@scripts/install.sh check

.PHONY: lint-fmt
lint-fmt: ## rustfmt
	@cargo fmt --check

.PHONY: lint-clippy
lint-clippy: deps ## clippy, warnings are errors
	@cargo clippy --locked --all-targets -j $(JOBS) -- -D warnings

.PHONY: lint-doc
lint-doc: deps ## rustdoc, warnings are errors
	@RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --document-private-items -j $(JOBS)

# Not `advisories`: their database is fetched from GitHub at each run, and a check
# must give the same answer without a network. Run `cargo deny check advisories` by
# hand, or in a scheduled job, where GitHub can be reached.
.PHONY: lint-deny
lint-deny: check-deps ## Licences, bans and sources of dependencies
	@source scripts/tools-dir.sh && source tools/versions.env && \
		"$$TOOLS_DIR/cargo-deny-$$CARGO_DENY_VERSION/bin/cargo-deny" --locked check licenses bans sources

.PHONY: lint-proto
lint-proto: check-deps ## buf, on the gRPC contracts
	@source scripts/tools-dir.sh && source tools/versions.env && \
		BUF_CACHE_DIR="$$TOOLS_DIR/.cache" "$$TOOLS_DIR/buf-$$BUF_VERSION/bin/buf" lint

.PHONY: lint-breaking
lint-breaking: check-deps ## buf, on the gRPC contracts against the previous main
	@source scripts/tools-dir.sh && source tools/versions.env && export BUF_CACHE_DIR="$$TOOLS_DIR/.cache" && \
		scripts/protos-compatible.sh "$$TOOLS_DIR/buf-$$BUF_VERSION/bin/buf"

.PHONY: lint-scripts
lint-scripts: check-deps ## shellcheck
	@shellcheck --external-sources scripts/*.sh scripts/manifests/*.sh deploy/apply.sh .ci/run

.PHONY: lint-manifests
lint-manifests: check-deps ## What deploy/ renders to, without a cluster
	@scripts/manifests/run.sh lint.py

.PHONY: test-manifests
test-manifests: check-deps ## That lint-manifests finds what it is for
	@scripts/manifests/run.sh test_manifests.py

.PHONY: lint-schemas
lint-schemas: deps ## Avro schemas must read what the previous main wrote
	@cargo build --locked --bin patient-notify -j $(JOBS)
	@scripts/schemas-compatible.sh '$(debug)'

.PHONY: lint-observability
lint-observability: check-deps ## Alerts, their tests and pages, dashboards
	@scripts/observability.sh check

# --- Tidy ----------------------------------------------------------------------

.PHONY: fmt
fmt: ## Format the source
	@cargo fmt

.PHONY: observability
observability: check-deps ## Write dashboards and the operator's rules anew
	@scripts/observability.sh write

.PHONY: clean
clean: ## Delete what was built and the stacks' data; downloads stay
	@cargo clean
	@scripts/clean.sh data '$(DATA_DIR)'

.PHONY: distclean
distclean: clean ## Delete the downloads too
	@scripts/clean.sh tools
