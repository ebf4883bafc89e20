//! PostgreSQL: streaming replication with one role for the source and a physical slot for each replica.
//!
//! Rules are cited from the PostgreSQL manual: "Log-Shipping Standby Servers", "The pg_hba.conf File", "Replication" (runtime configuration).

pub mod agent;
mod facts;
mod hba;
mod login;
mod plan;
mod session;
mod target;

pub use facts::{HbaRule, SettingFacts, SlotFacts, SourceFacts};
pub use plan::{PostgreSql, Step, hba_line};
pub use session::PostgreSqlSession;
