# Everything one does here; `make` alone lists it. On a fresh Debian 12 with a Rust toolchain, as root,
# `make demo` and `make test` need nothing else: they install what is missing (scripts/setup).

SHELL := /bin/bash
.DEFAULT_GOAL := help

# The same artifacts serve build, tests and demo, and nobody edits between CI's steps: lean beats incremental.
export CARGO_INCREMENTAL := 0
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin

PREFIX ?= /usr/local
DESTDIR ?=
UNITDIR ?= /lib/systemd/system
PROGRAMS := swarmd swarmctl swarm-logger
TARGET := $(or $(CARGO_TARGET_DIR),target)

# Plain `cargo test` does the same where nextest is not installed; it has no time limit for a single test.
ifneq ($(shell cargo nextest --version 2>/dev/null),)
RUN_TESTS := cargo nextest run --locked --workspace
else
RUN_TESTS := cargo test --locked --workspace
endif

.PHONY: help
help: ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup:
	@scripts/setup

.PHONY: build
build: setup ## Build everything for development
	cargo build --locked --workspace --all-targets

.PHONY: demo
demo: build ## Show a swarm of three hosts on this machine (KEEP=1 leaves it running)
	@scripts/demo $(if $(filter-out 0,$(KEEP)),--keep)

.PHONY: demo-clean
demo-clean: ## Remove what `make demo KEEP=1` left running
	@scripts/demo --clean

.PHONY: test
test: build ## Run all tests (root: they make namespaces, devices and containers)
	$(RUN_TESTS)

SEEDS ?= 10000..15000

.PHONY: sim
sim: ## Simulate managers with thousands of seeds (SEEDS=<first>..<end>); some are part of the tests
	SWARMD_SIM_SEEDS=$(SEEDS) cargo test --locked -p raft-store --lib -- --exact simulation::tests::many --ignored --nocapture

.PHONY: verify
verify: format-check lint deny test ## What CI runs: format, clippy, licences, tests; changes no file

.PHONY: format-check
format-check:
	cargo fmt --all --check

.PHONY: lint
lint: setup
	cargo clippy --locked --workspace --all-targets -- -D warnings

# Advisories need a database from the network, so they are looked at apart from this.
.PHONY: deny
deny:
	@scripts/setup --lint
	cargo deny --locked check licenses bans sources

.PHONY: fix
fix: ## Format, and apply what clippy can mend by itself
	cargo fmt --all
	cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged
	cargo fmt --all

.PHONY: bench
bench: ## Measure against Docker's swarm mode, etcd and a VXLAN made by hand (release build; takes a while)
	@scripts/setup --bench
	cargo build --locked --release --workspace --bins
	cargo bench --locked -p e2e
	cargo bench --locked -p node

.PHONY: release
release: setup ## Build the programs for use
	cargo build --locked --release -p node -p cli -p worker

.PHONY: install
install: release ## Install programs, unit and completions (PREFIX, DESTDIR, UNITDIR)
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(UNITDIR)
	install -m 755 $(addprefix $(TARGET)/release/,$(PROGRAMS)) $(DESTDIR)$(PREFIX)/bin
	strip --strip-debug $(addprefix $(DESTDIR)$(PREFIX)/bin/,$(PROGRAMS))
	sed 's|@BINDIR@|$(PREFIX)/bin|' dist/swarmd.service >$(DESTDIR)$(UNITDIR)/swarmd.service
	install -d $(DESTDIR)$(PREFIX)/share/{bash-completion/completions,zsh/site-functions,fish/vendor_completions.d}
	$(TARGET)/release/swarmctl completion bash >$(DESTDIR)$(PREFIX)/share/bash-completion/completions/swarmctl
	$(TARGET)/release/swarmctl completion zsh >$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_swarmctl
	$(TARGET)/release/swarmctl completion fish >$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/swarmctl.fish
