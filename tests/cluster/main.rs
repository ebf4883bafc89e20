//! Cluster tests: real Kubernetes, real databases, the operator as the chart installs it. `make test` runs them.
#![allow(clippy::pedantic, clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod bad_input;
mod between;
mod canary;
#[allow(dead_code, reason = "the tests of a killed controller ask for more of it")]
mod databases;
mod operator;
mod outage;
mod shapes;
mod story;
mod support;
mod takeover;
mod trouble;
mod upkeep;
