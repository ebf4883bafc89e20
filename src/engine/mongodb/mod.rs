//! MongoDB: a stand-alone server becomes a replica set, whose members copy everything from it by themselves.
//!
//! Rules are cited from the MongoDB manual ("Replication", "Security"), and from what servers of 6.0 were seen to do.

pub mod agent;
mod command;
mod dump;
mod facts;
mod plan;
mod session;

pub use facts::{Member, SourceFacts, Standing};
pub use plan::{MongoDb, Step};
pub use session::MongoSession;
