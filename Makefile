# Everything runs from here. The local cluster is described in deploy/local/README.md.
SHELL := /bin/bash
.DEFAULT_GOAL := help

TARGET := x86_64-unknown-linux-gnu
CLUSTER_COMMAND := deploy/local/cluster
# CLUSTER=current: the cluster of the current kubectl context, instead of a throw-away one.
export CLUSTER ?= local

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
	@$(CLUSTER_COMMAND) load target/$(TARGET)/release/understudy
