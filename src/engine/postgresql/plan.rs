//! Which steps lead a PostgreSQL source from what is to what is wanted. Pure.

use std::fmt;

use super::{PostgreSqlSession, SourceFacts};
use crate::api::Change;
use crate::engine::{Engine, Finding, Held, Identity, Position, SourceSummary, WantedSource};

/// PostgreSQL 13 and later.
#[derive(Debug, Clone, Copy)]
pub struct PostgreSql;

/// One step on a source; each may be repeated without harm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// `ALTER SYSTEM SET max_slot_wal_keep_size`, reload.
    LimitSlotWal {
        /// The limit in MB.
        megabytes: i64,
    },
    /// `CREATE ROLE … LOGIN REPLICATION`, without a password.
    CreateRole {
        /// Its name.
        role: String,
    },
    /// Append a line to pg_hba.conf, check that the file holds no error, reload.
    AddHbaLine {
        /// The whole line, tagged with a comment.
        line: String,
    },
    /// Give the role a random password that only this step knows, and log in with it for replication.
    ProveLogin {
        /// The role.
        role: String,
    },
    /// A physical slot that reserves its WAL at once.
    CreateSlot {
        /// Its name.
        slot: String,
    },
    /// Drop a slot; who still streams through it is disconnected first.
    DropSlot {
        /// Its name.
        slot: String,
    },
    /// Take a line out of pg_hba.conf, reload.
    RemoveHbaLine {
        /// The whole line.
        line: String,
    },
    /// Disconnect whoever is connected as this role: `DROP ROLE` does not.
    Disconnect {
        /// The role.
        role: String,
    },
    /// `DROP ROLE`.
    DropRole {
        /// Its name.
        role: String,
    },
    /// Put a setting back: `ALTER SYSTEM SET` to the value before, or `RESET`; reload.
    RestoreSetting {
        /// Its name.
        name: String,
        /// Its text in postgresql.auto.conf before; none where it did not stand there.
        before: Option<String>,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LimitSlotWal { megabytes } => write!(f, "set max_slot_wal_keep_size to {megabytes}MB, so that a replica that is gone cannot fill the disk (reload, no restart)"),
            Self::CreateRole { role } => write!(f, "create the role {role} (LOGIN REPLICATION)"),
            Self::AddHbaLine { line } => write!(f, "append to pg_hba.conf: {line} (reload, no restart)"),
            Self::ProveLogin { role } => write!(f, "log in as {role} for replication, to prove that it works"),
            Self::CreateSlot { slot } => write!(f, "create the physical replication slot {slot}"),
            Self::DropSlot { slot } => write!(f, "drop the replication slot {slot}"),
            Self::RemoveHbaLine { line } => write!(f, "remove from pg_hba.conf: {line} (reload)"),
            Self::Disconnect { role } => write!(f, "disconnect sessions of {role}"),
            Self::DropRole { role } => write!(f, "drop the role {role}"),
            Self::RestoreSetting { name, before: Some(before) } => write!(f, "set {name} back to {before}"),
            Self::RestoreSetting { name, before: None } => write!(f, "reset {name}"),
        }
    }
}

/// The line of pg_hba.conf that lets the replication role of an enabling in. `all` in the database column does not cover `replication`
/// (manual, "The pg_hba.conf File").
#[must_use]
pub fn hba_line(identity: &Identity) -> String {
    format!("host replication {} all scram-sha-256 # understudy: removed when replication is disabled", identity.role())
}
