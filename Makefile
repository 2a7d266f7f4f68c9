# The commands of this repository. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

JOBS    ?= $(shell n=$$(nproc); echo $$((n > 2 ? n : 2)))
CACHE   := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/medik8s
DENY    := $(CACHE)/cargo-deny-0.20.2/bin/cargo-deny
TARGET  := x86_64-unknown-linux-gnu
# Static, with packed relocations (RELR) and without tables for unwinding: together an eighth less.
STATIC  := -C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs \
  -C link-arg=-Wl,-T,.cargo/no-unwind-tables.ld
# Writes the list of dependencies (SBOM) into the programs: `cargo audit bin`, Trivy and Syft read it.
AUDITABLE := $(CACHE)/cargo-auditable-0.7.7/bin/cargo-auditable
VERSION := $(shell awk -F'"' '/^version/ { print $$2; exit }' Cargo.toml)
REGISTRY ?= ghcr.io/medik8s
export PARTS_LOG := $(CURDIR)/target/parts.tsv

OPERATORS := node-healthcheck-operator node-maintenance-operator self-node-remediation self-node-remediation-agent
PROGRAMS  ?= $(OPERATORS)
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

# The same source gives the same programs wherever it is built: no path of the machine goes in.
.PHONY: release
release: $(AUDITABLE) ## static release binaries with their SBOM inside (PROGRAMS="..." for some of them)
	@.ci/need rust cc
	RUSTFLAGS='$(STATIC) --remap-path-prefix=$(CURDIR)=/src --remap-path-prefix=$(or $(CARGO_HOME),$(HOME)/.cargo)=/cargo' \
	  $(AUDITABLE) auditable build --locked -j$(JOBS) --release --target $(TARGET) $(foreach program,$(PROGRAMS),-p $(program))

$(AUDITABLE):
	@.ci/need rust cc
	cargo install --quiet cargo-auditable --version 0.7.7 --locked -j$(JOBS) --root $(CACHE)/cargo-auditable-0.7.7

.PHONY: images
images: release ## container images and bundle images, as OCI archives in target/images
	@.ci/need buildah
	.ci/images target/$(TARGET)/release $(REGISTRY) $(VERSION)

.PHONY: test-images
test-images: release ## the images: built twice with the same digests, labels, user, SBOM, sizes
	@.ci/need buildah cc
	.ci/test-images target/$(TARGET)/release $(REGISTRY) $(VERSION)

# Not tested: needs gcc-aarch64-linux-gnu and `rustup target add aarch64-unknown-linux-gnu`.
.PHONY: images-arm64
images-arm64:
	CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
	  $(MAKE) --no-print-directory release TARGET=aarch64-unknown-linux-gnu
	@.ci/need buildah
	.ci/images target/aarch64-unknown-linux-gnu/release $(REGISTRY) $(VERSION) arm64

.PHONY: bundle
bundle: ## OLM bundles and catalogs of a release: OUT=folder ARGS='--version 0.2.0 --replaces 0.1.0 ...'
	cargo xtask bundle --out $(or $(OUT),target/release-bundle) $(ARGS)

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
	@.ci/need rust cc
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
	@$(PART) "simulation of whole clusters, two minutes" cargo run --quiet --locked -j$(JOBS) -p self-node-remediation-simulation -- --seeds 1-100 --for 120
	@$(PART) "documentation tests" cargo test --quiet --doc --workspace --locked -j$(JOBS)
	@$(PART) "generated trees" cargo xtask generate --check
	@$(PART) "control plane tools" $(MAKE) --no-print-directory cluster-tools
	@$(PART) "suites on a real control plane" cargo test --locked -j$(JOBS) -p medik8s-harness
	@$(PART) "release build of the agent" $(MAKE) --no-print-directory release PROGRAMS=self-node-remediation-agent
	@$(PART) "no test watchdog in it" cargo test --quiet --locked -j$(JOBS) -p medik8s-harness --test release -- --agent
	@$(PART) --summary

# Suites of the harness that take minutes each; `make test` leaves them out. NAME=--ARGUMENT where they need one.
SLOW_SUITES ?= volumes rotation healthcheck_platform healthcheck_crash maintenance=--slow upgrade manifests@1.33 story@1.33

.PHONY: test-slow
test-slow: build cluster-tools ## the long suites on a real control plane (SLOW_SUITES=NAME for some of them)
	@.ci/slow $(SLOW_SUITES)

# The release agent with the harness' watchdog, beside the release manager, in a target folder of their own.
BENCH := target/bench/$(TARGET)/release
# Agents that lose the API server at once; two cores bear two hundred.
STORM ?= 200
BENCH_SNR = MEDIK8S_PROGRAMS=$(CURDIR)/$(BENCH) MEDIK8S_TEST_AGENT=$(CURDIR)/$(BENCH)/self-node-remediation-agent \
  cargo run --quiet --locked -p medik8s-harness --bin medik8s-bench-snr --

.PHONY: bench-programs
bench-programs:
	@.ci/need rust cc
	RUSTFLAGS='$(STATIC)' cargo build --locked -j$(JOBS) --release --target $(TARGET) \
	  --target-dir target/bench $(foreach o,$(filter-out self-node-remediation-agent,$(OPERATORS)),-p $(o))
	RUSTFLAGS='$(STATIC)' cargo rustc --locked -j$(JOBS) --release --target $(TARGET) \
	  --target-dir target/bench -p self-node-remediation-agent --bin self-node-remediation-agent -- --cfg medik8s_test_watchdog

.PHONY: bench-snr
bench-snr: bench-programs cluster-tools ## figures of self node remediation (about half an hour on two cores)
	@.ci/need go ip
	ls -l $(BENCH)/self-node-remediation $(BENCH)/self-node-remediation-agent
	$(BENCH_SNR) times
	$(BENCH_SNR) times --profile hardware
	$(BENCH_SNR) times --profile fast
	$(BENCH_SNR) large
	$(BENCH_SNR) storm --workers $(STORM)

.PHONY: test-model
test-model: ## the fencing rules, searched through: states, depth and time; each broken rule must be found (MOST=states)
	@.ci/need rust cc
	cargo run --quiet --locked -j$(JOBS) -p self-node-remediation-model -- full --write docs/fencing.md $(if $(MOST),--most $(MOST))

SEEDS ?= 2000
.PHONY: test-sim
test-sim: ## whole clusters on virtual time (2,000 seeds: about three hours): SEEDS=300, or 7,12 or 100-199; SEED=7 tells the story of one
	@.ci/need rust cc
	cargo run --quiet --locked -j$(JOBS) -p self-node-remediation-simulation -- $(if $(SEED),--seed $(SEED),--seeds $(SEEDS))

.PHONY: traces
traces: ## write the story of each broken fencing rule into docs/fencing.md
	@.ci/need rust cc
	cargo run --quiet --locked -j$(JOBS) -p self-node-remediation-model -- stories --write docs/fencing.md

.PHONY: bench-nhc
bench-nhc: cluster-tools ## figures of the node health check (NODES=50,1000,3000)
	@.ci/need rust go cc ip
	@$(MAKE) --no-print-directory release PROGRAMS=node-healthcheck-operator
	cargo run --quiet --locked -p medik8s-harness --bin medik8s-bench-nhc -- $(if $(NODES),--nodes=$(NODES))

.PHONY: test-release
test-release: release test-agent cluster-tools ## release binaries: static, small, no test watchdog, DNS and TLS from a scratch image
	cargo test --quiet --locked -j$(JOBS) -p medik8s-harness --test release

# Both build their tools (helm, promtool; OLM and its validators) with Go at the first run, into the cache.
.PHONY: test-install
test-install: build cluster-tools ## install by kubectl and by Helm on a real control plane, use it, uninstall it
	@.ci/need go ip
	cargo test --quiet --locked -j$(JOBS) -p medik8s-harness --test install

.PHONY: test-olm
test-olm: build cluster-tools ## bundles: validators, scorecard, and install, use, update, uninstall with a real OLM
	@.ci/need go ip
	cargo test --quiet --locked -j$(JOBS) -p medik8s-harness --test olm

# The guests' kernel is fetched by apt-get at the first run, into the cache.
.PHONY: test-vm
test-vm: build cluster-tools ## real watchdogs in QEMU guests that run the release agent (about a quarter of an hour; needs root)
	@.ci/need go ip
	@.ci/need qemu || echo "without it the suite skips"
	$(MAKE) --no-print-directory release PROGRAMS=self-node-remediation-agent
	$(MAKE) --no-print-directory release PROGRAMS=medik8s-guest
	cargo test --quiet --locked -j$(JOBS) -p medik8s-harness --test vm $(if $(VM),-- $(VM))

# Static builds as images need them, with the harness' watchdog in the agent, in a target folder of their own.
.PHONY: nodes-programs
nodes-programs:
	@.ci/need rust cc
	RUSTFLAGS='-C target-feature=+crt-static' cargo build --locked -j$(JOBS) --target $(TARGET) \
	  --target-dir target/nodes -p node-healthcheck-operator -p self-node-remediation
	RUSTFLAGS='-C target-feature=+crt-static' cargo rustc --locked -j$(JOBS) --target $(TARGET) \
	  --target-dir target/nodes -p self-node-remediation-agent --bin self-node-remediation-agent -- --cfg medik8s_test_watchdog

# Without root or the packages the suite says that it was skipped; containerd is built with Go at the first run.
.PHONY: test-nodes
test-nodes: nodes-programs cluster-tools ## partitions of real kubelets and containers, our images and manifests (ONLY="words")
	@.ci/need go ip
	-@.ci/need runc buildah
	cargo test --quiet --locked -j$(JOBS) -p medik8s-harness --test real_nodes -- $(ONLY)

.PHONY: bench-nmo
bench-nmo: cluster-tools ## node maintenance beside kubectl drain: time, requests, CPU, memory
	@$(MAKE) --no-print-directory release PROGRAMS=node-maintenance-operator
	cargo run --quiet --locked -p medik8s-harness --bin medik8s-bench-nmo -- --programs target/$(TARGET)/release $(BENCH_ARGS)
