//! Redis: asynchronous replication with `replicaof`, as an ACL user of our own.
//!
//! Rules are cited from the Redis documentation ("Replication", "ACL", "Persistence"), and from what servers of 7.0 and 8 were seen to do.

pub mod agent;
mod command;
mod facts;
mod own;
mod plan;
mod rdb;
mod session;
mod target;

pub use facts::{Persistence, SourceFacts, UserFacts};
pub use plan::{Redis, Step};
pub use session::RedisSession;
