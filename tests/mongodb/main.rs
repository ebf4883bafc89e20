//! The MongoDB engine against real servers: from a stand-alone server to a replica set and back, every step twice, with a client that writes all the while.
//!
//! The servers' programs are taken from the root file system that `UNDERSTUDY_TEST_MONGODB_ROOT` names (`deploy/local/cluster root mongodb`), inside which
//! they run, or else from this machine's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod backup;
#[path = "../common/mod.rs"]
mod common;
mod election;
mod errors;
mod findings;
mod progress;
mod server;
mod set;
mod undo;
mod user_data;
mod whole;
mod writer;
