//! MySQL: replication by GTIDs, seeded with CLONE, with one user for the source.
//!
//! Rules are cited from the MySQL Reference Manual: "Changing GTID Mode on Online Servers", "The Clone Plugin", "Persisted System Variables".

pub mod agent;
mod facts;
mod gtid;
mod password;
mod plan;
mod preflight;
mod session;
mod target;

pub use facts::{Persisted, SourceFacts};
pub use plan::{MySql, Step};
pub use session::MySqlSession;
