//! Cluster tests: real Kubernetes, real PostgreSQL, the operator as the chart installs it. `make test` runs them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod story;
mod support;
