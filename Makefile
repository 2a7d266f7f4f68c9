# The commands of this repository. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

JOBS    ?= $(shell n=$$(nproc); echo $$((n > 2 ? n : 2)))
CACHE   := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/medik8s
DENY    := $(CACHE)/cargo-deny-0.20.2/bin/cargo-deny
TARGET  := x86_64-unknown-linux-gnu
export PARTS_LOG := $(CURDIR)/target/parts.tsv

OPERATORS := node-healthcheck-operator node-maintenance-operator self-node-remediation self-node-remediation-agent
# These must never see the API client, also when cargo unifies features across the workspace.
PURE      := medik8s-api medik8s-core self-node-remediation-core
PART      := .ci/part
# nextest when it is there, else cargo's own runner.
RUN_TESTS := $(shell command -v cargo-nextest >/dev/null 2>&1 && echo 'nextest run' || echo 'test --quiet')

.PHONY: help
help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{ printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# ---- build ---------------------------------------------------------------------------------------

.PHONY: build
build: ## debug build of everything
	@.ci/need rust cc
	cargo build --workspace --locked -j$(JOBS)
	$(MAKE) --no-print-directory test-agent

# The agent with the harness' watchdog behind its host seam: an own target folder, so that no
# workspace build can pick it up.
.PHONY: test-agent
test-agent:
	cargo rustc --locked -j$(JOBS) -p self-node-remediation-agent --bin self-node-remediation-agent \
	  --target-dir target/test-watchdog -- --cfg medik8s_test_watchdog

.PHONY: release
release: ## static release binaries of the operators
	@.ci/need rust cc
	RUSTFLAGS='-C target-feature=+crt-static' cargo build --locked -j$(JOBS) --release --target $(TARGET) \
	  $(foreach o,$(OPERATORS),-p $(o))

# One operator alone: seconds instead of minutes after a change.
.PHONY: release-%
release-%:
	@.ci/need rust cc
	RUSTFLAGS='-C target-feature=+crt-static' cargo build --locked -j$(JOBS) --release --target $(TARGET) -p $*

.PHONY: cluster-tools
cluster-tools:
	@.ci/need go
	cargo run --quiet --locked -p medik8s-harness --bin medik8s-cluster -- build-tools

.PHONY: generate
generate: ## write config/ and deploy/ from the types and the operators' tables
	cargo xtask generate

# ---- see it work ---------------------------------------------------------------------------------

.PHONY: demo
demo: ## the main story on a real control plane (BROKEN=1, CHAOS=1, KEEP=1)
	@.ci/need rust go cc ip
	@$(MAKE) --no-print-directory build cluster-tools
	cargo run --quiet --locked -p medik8s-harness --bin medik8s-demo -- \
	  $(if $(BROKEN),--broken) $(if $(CHAOS),--chaos) $(if $(KEEP),--keep)

.PHONY: cluster
cluster: ## start a control plane with simulated nodes and leave it running
	@.ci/need rust go cc ip
	@$(MAKE) --no-print-directory build cluster-tools
	cargo run --quiet --locked -p medik8s-harness --bin medik8s-cluster -- up

.PHONY: cluster-down
cluster-down: ## end the control plane of `make cluster`
	cargo run --quiet --locked -p medik8s-harness --bin medik8s-cluster -- down

# ---- checks --------------------------------------------------------------------------------------

$(DENY):
	cargo install --quiet cargo-deny --version 0.20.2 --locked --no-default-features -j$(JOBS) --root $(CACHE)/cargo-deny-0.20.2

.PHONY: lint
lint: $(DENY) ## format, clippy with warnings as errors, purity, dependencies
	@.ci/need rust cc
	@$(PART) --begin
	@$(PART) "format" cargo fmt --all --check
	@$(PART) "pure crates build without the client" bash -c 'for c in $(PURE); do cargo check --quiet --locked -j$(JOBS) -p $$c; done'
	@$(PART) "clippy" cargo clippy --quiet --workspace --all-targets --locked -j$(JOBS) -- -D warnings
	@$(PART) "clippy of the test watchdog" cargo clippy --quiet --locked -j$(JOBS) -p self-node-remediation-agent --bin self-node-remediation-agent --target-dir target/test-watchdog -- -D warnings --cfg medik8s_test_watchdog
	@$(PART) "purity of the decisions" cargo xtask purity
	@$(PART) "bans, licences, sources" $(DENY) --log-level error --all-features check --hide-inclusion-graph bans licenses sources
	@$(PART) --summary

.PHONY: advisories
advisories: $(DENY) ## known vulnerabilities of dependencies (does not gate)
	$(DENY) check advisories

.PHONY: test
test: ## everything a change has to pass: units, properties, generated trees, the story on a real control plane
	@.ci/need rust go cc ip
	@$(PART) --begin
	@$(PART) "build" $(MAKE) --no-print-directory build
	@$(PART) "unit, property and effects tests" cargo $(RUN_TESTS) --workspace --locked -j$(JOBS) --exclude medik8s-harness
	@$(PART) "documentation tests" cargo test --quiet --doc --workspace --locked -j$(JOBS)
	@$(PART) "generated trees" cargo xtask generate --check
	@$(PART) "control plane tools" $(MAKE) --no-print-directory cluster-tools
	@$(PART) "suites on a real control plane" cargo test --locked -j$(JOBS) -p medik8s-harness
	@$(PART) --summary

.PHONY: test-release
test-release: release test-agent cluster-tools ## release binaries: static, small, no test watchdog, DNS and TLS from a scratch image
	cargo test --quiet --locked -j$(JOBS) -p medik8s-harness --test release

# Suites with scenarios that take minutes: each is run with `--slow` and prints `NAME: N passed, M failed`.
SLOW_TESTS := maintenance

.PHONY: test-slow
test-slow: build cluster-tools ## scenarios that take minutes (SLOW_TESTS=NAME for one suite)
	@passed=0; failed=0; \
	for suite in $(SLOW_TESTS); do \
	  log=target/slow-$$suite.log; \
	  cargo test --quiet --locked -j$(JOBS) -p medik8s-harness --test $$suite -- --slow 2>&1 | tee $$log || true; \
	  line=$$(grep -Eo '[0-9]+ passed, [0-9]+ failed' $$log | tail -n 1); \
	  [ -n "$$line" ] || line='0 passed, 1 failed'; \
	  set -- $$line; passed=$$((passed + $$1)); failed=$$((failed + $$3)); \
	done; \
	echo "$$passed passed, $$failed failed"; [ $$failed = 0 ]

.PHONY: bench-nmo
bench-nmo: release-node-maintenance-operator cluster-tools ## node maintenance beside kubectl drain: time, requests, CPU, memory
	cargo run --quiet --locked -p medik8s-harness --bin medik8s-bench-nmo -- --programs target/$(TARGET)/release $(BENCH_ARGS)
