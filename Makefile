# Everything runs from here. The local cluster is described in deploy/local/README.md.
SHELL := /bin/bash
.DEFAULT_GOAL := help

TARGET := x86_64-unknown-linux-gnu
BINARY := target/$(TARGET)/release/understudy
CLUSTER_COMMAND := deploy/local/cluster
# CLUSTER=current: the cluster of the current kubectl context, instead of a throw-away one.
export CLUSTER ?= local
# Which database the demo shows and the benchmark measures.
export ENGINE ?= postgresql
# What the demo shows: replicas beside the source (in-place), or another application's database that becomes one (between-applications).
export TOPOLOGY ?= in-place

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 18

.PHONY: cluster-up
cluster-up: ## make the throw-away cluster, or repair it (CLUSTER=current: only check yours)
	@$(CLUSTER_COMMAND) up

.PHONY: cluster-down
cluster-down: ## take the throw-away cluster away without a trace
	@$(CLUSTER_COMMAND) down

.PHONY: cluster-shell
cluster-shell: ## a shell in the cluster's network, with kubectl, helm and db (psql in a pod)
	@$(CLUSTER_COMMAND) shell

.PHONY: image
image: ## build the operator's static binary and import it as an image
	RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --target $(TARGET)
	@$(CLUSTER_COMMAND) load $(BINARY)

# IMAGE=repository:tag: an image that your cluster can pull, in place of the one built here.
.PHONY: install
install: ## install the operator with its chart, or bring it up to date
	@$(CLUSTER_COMMAND) enter deploy/install

.PHONY: demo-check
demo-check:
	@deploy/demo check

.PHONY: demo
demo: demo-check cluster-up $(if $(IMAGE),,image) install ## a database with an application gets its replica (ENGINE=postgresql, mysql, redis or mongodb; TOPOLOGY=between-applications: another's becomes it, not for mongodb): before and after, and left running
	@$(CLUSTER_COMMAND) enter deploy/demo up

.PHONY: demo-down
demo-down: ## undo what the demo did (ENGINE=… and TOPOLOGY=… as there): replication disabled, the source as it was, the example removed
	@$(CLUSTER_COMMAND) enter deploy/demo down

# Tests that talk to pods run inside the cluster's network; cargo itself stays outside, where the registries are.
CLUSTER_TESTS := CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="$(CURDIR)/$(CLUSTER_COMMAND) enter" cargo test --locked

.PHONY: check
check: ## format, lints, rendered manifests
	cargo fmt --check
	cargo clippy --locked --all-targets -- --deny warnings
	deploy/render --check

.PHONY: test
test: cluster-up check image install ## everything: unit, engine and cluster tests, with the operator as the chart installs it
	cargo test --locked --lib --bins --test docs
	cargo test --locked --test postgresql
	cargo test --locked --test redis
	root=$$($(CLUSTER_COMMAND) root mongodb) && UNDERSTUDY_TEST_MONGODB_ROOT=$$root cargo test --locked --test mongodb -- --test-threads=3
	root=$$(tests/mysql-root) && UNDERSTUDY_TEST_MYSQL_ROOT=$$root cargo test --locked --test mysql -- --test-threads=3
	$(CLUSTER_TESTS) --test cluster -- --test-threads=6
	UNDERSTUDY_BINARY=$(CURDIR)/$(BINARY) $(CLUSTER_TESTS) --test killed -- --test-threads=2
	deploy/local/test.sh

# SIZE=megabytes, RUNS=times, WHAT=target: how long a target is away.
.PHONY: bench
bench: cluster-up $(if $(IMAGE),,image) install ## measure it beside the same steps by hand (ENGINE=…; WRITE=1: keep the result in docs/benchmarks.md)
	@$(CLUSTER_COMMAND) enter bench/run --engine "$$ENGINE" $(if $(SIZE),--size $(SIZE)) $(if $(RUNS),--runs $(RUNS)) $(if $(WRITE),--write) $(WHAT)
