//! Which steps lead a Redis source from what is to what is wanted. Pure.

use k8s_openapi::api::core::v1::Container;
use std::fmt;

use super::{RedisSession, SourceFacts, command, target};
use crate::api::Change;
use crate::engine::{Engine, Finding, Identity, LastSave, Position, Progress, SourceSummary, WantedSource};
use crate::resources::{Shape, format_bytes};

/// Redis 7 and 8.
#[derive(Debug, Clone, Copy)]
pub struct Redis;

/// One step on a source; each may be repeated without harm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// `CONFIG SET repl-backlog-size`.
    RaiseBacklog {
        /// In bytes.
        bytes: u64,
    },
    /// `ACL SETUSER` with what replication takes and without a password: nobody can log in yet. Never `ACL SAVE`: it would write other people's changes, too,
    /// and a user that outlasts a restart lets replicas in before anybody has looked whether the data did.
    CreateUser {
        /// Its name.
        user: String,
    },
    /// `ACL DELUSER`, which ends its connections.
    DropUser {
        /// Its name.
        user: String,
    },
    /// `CONFIG SET` to the value before.
    RestoreSetting {
        /// Its name.
        name: String,
        /// The value before.
        before: String,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RaiseBacklog { bytes } => {
                write!(f, "set {BACKLOG} to {}, so that a replica can go on from the backup (no restart)", format_bytes(*bytes))
            }
            Self::CreateUser { user } => write!(f, "create the ACL user {user} ({PERMISSIONS}), in memory only"),
            Self::DropUser { user } => write!(f, "delete the ACL user {user}"),
            Self::RestoreSetting { name, before } => write!(f, "set {name} back to {before}"),
        }
    }
}

/// The setting whose default is overrun by what is written during a copy.
pub(super) const BACKLOG: &str = "repl-backlog-size";
/// How long a server that is told to stop waits for its replicas before it saves.
pub(super) const SHUTDOWN_TIMEOUT: &str = "shutdown-timeout";
/// What a copy and a restore may take; memory is used as it fills.
const BACKLOG_BYTES: u64 = 64 << 20;
/// What the replication user may run: `sync` for the backup, the others for the replicas (documentation, "ACL").
const PERMISSIONS: &str = "+psync +replconf +ping +sync";

fn number(version: &str) -> u32 {
    version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0)
}

fn position(history: &str, bytes: u64) -> Position {
    Position::Offset { history: history.to_owned(), bytes }
}

fn recorded_backlog(recorded: &[Change]) -> Option<&Change> {
    recorded.iter().find(|change| change.what == format!("setting {BACKLOG}"))
}

impl Engine for Redis {
    type SourceFacts = SourceFacts;
    type Step = Step;
    type Session = RedisSession;

    const NAME: &'static str = "Redis";
    const PORT: u16 = 6379;
    const DATABASE: &'static str = "";
    const ADMINISTRATOR: &'static str = "default";
    const PREFIX: &'static str = "REDIS";
    const LOGIN_VARIABLES: bool = false;
    const USERS_ARE_DATA: bool = false;
    const COUNTS_LATE: bool = false;
    const RESTORE_NEEDS_DATABASE: bool = false;
    const HELLO: &'static [u8] = b"PING\r\n";

    /// A simple string, or an error such as NOAUTH. <https://redis.io/docs/latest/develop/reference/protocol-spec/>
    fn greets(answer: &[u8]) -> bool {
        answer.starts_with(b"+PONG\r\n") || answer.starts_with(b"-")
    }

    fn summary(facts: &SourceFacts) -> SourceSummary {
        // A replica asks for the byte behind its offset. Without a backlog the next copy begins another history: nothing before now will do.
        let oldest = facts.backlog_first.map_or(facts.offset, |first| first.saturating_sub(1));
        SourceSummary {
            version: facts.version.clone(),
            // The replication id changes with restarts, and the run id with every one: neither tells a new database from an old one.
            system: String::new(),
            major_version: number(&facts.version),
            data_directory: facts.data_directory.clone(),
            // No command tells; of the official image it is 999, on Alpine with another group, which its entrypoint does not mind.
            owner: None,
            leads: true,
            elects: false,
            adapted: false,
            access: facts.role.is_some_and(|role| role.may_replicate && role.has_password),
            records: facts.keys_at_start(),
            position: position(&facts.history, facts.offset),
            oldest_for_seed: position(&facts.history, oldest),
            // A replica that the backlog does not reach copies everything by itself.
            oldest_for_replica: Position::default(),
            // Keys are counted, not bytes: their share of the memory is near enough for a percentage.
            backup_progress: facts.snapshot.filter(|(_, keys)| *keys > 0).map(|(written, keys)| {
                let share = u128::from(facts.used_memory) * u128::from(written.min(keys)) / u128::from(keys);
                Progress { copied: u64::try_from(share).unwrap_or(facts.used_memory), total: Some(facts.used_memory) }
            }),
            held: Vec::new(),
            // An append-only file has what was confirmed, whatever ends the server.
            last_save: facts
                .persistence
                .filter(|persistence| persistence.snapshots && !persistence.append_only && facts.shutdown_wait > 0)
                .map(|_| LastSave { waits: facts.shutdown_wait, setting: SHUTDOWN_TIMEOUT }),
        }
    }

    fn preflight(facts: &SourceFacts, _: &WantedSource) -> Vec<Finding> {
        let mut found = Vec::new();
        if !facts.version.is_empty() && number(&facts.version) < 7 {
            found.push(Finding::new(
                "VersionTooOld",
                format!("the server is Redis {}, and what is used here exists from 7 on", facts.version),
                "upgrade the source to Redis 7 or later",
            ));
        }
        if facts.replica {
            found.push(Finding::new(
                "SourceIsReplica",
                "the source itself follows another server (its role is slave)",
                "name the StatefulSet of the server that takes the writes in source.statefulSetRef",
            ));
        }
        if facts.cluster {
            found.push(Finding::new(
                "ClusterEnabled",
                "the source runs in cluster mode (cluster-enabled is yes), which replicates in its own way",
                "add a replica with redis-cli --cluster add-node --cluster-replica, or name a server without cluster mode",
            ));
        }
        if facts.persistence.is_some_and(|persistence| !persistence.snapshots && !persistence.append_only) {
            let finding = Finding::new(
                "NoPersistence",
                "the source keeps its data in memory only (save is empty, appendonly is no): after a restart it would be empty, and no replica would follow it",
                r#"run CONFIG SET save "3600 1 300 100 60 10000" (or CONFIG SET appendonly yes), and set the same in its configuration or arguments, so that it outlasts a restart"#,
            );
            found.push(finding.lasting());
        }
        if !facts.forbidden.is_empty() {
            found.push(Finding::new(
                "NotPermitted",
                format!("user {} may not run these commands, or they were renamed: {}", facts.user, facts.forbidden.join(", ")),
                "let source.credentials name a user that may (ACL SETUSER … +@all &*), or take rename-command out of the configuration",
            ));
        }
        found
    }

    fn preflight_target(source: &SourceFacts, target: &SourceFacts) -> Vec<Finding> {
        target::preflight(source, target)
    }

    fn preflight_shape(shape: &Shape) -> Vec<Finding> {
        command::preflight(shape)
    }

    fn adapt_replica(container: &mut Container, data_directory: &str) {
        command::adapt(container, data_directory);
    }

    fn target_arguments(data_directory: &str) -> Vec<String> {
        command::arguments(data_directory)
    }

    fn expected_disruption(facts: &SourceFacts) -> String {
        let memory = format_bytes(facts.used_memory);
        format!(
            "none: no restart. The server forks once for the copy (it holds {memory}; pages written meanwhile are kept twice), and its replication backlog may grow to {}",
            format_bytes(BACKLOG_BYTES)
        )
    }

    fn plan_enable(facts: &SourceFacts, wanted: &WantedSource) -> Vec<Step> {
        let mut steps = Vec::new();
        if facts.backlog_size.is_some_and(|bytes| bytes < BACKLOG_BYTES) {
            steps.push(Step::RaiseBacklog { bytes: BACKLOG_BYTES });
        }
        // Gone with a restart that may have taken the data, too: as soon as replicas can log in, they copy whatever is there.
        let user = wanted.identity.role();
        match facts.role {
            // Made again a moment ago, before it was known: the backup's Job is not to give it its password.
            Some(role) if wanted.withhold_access && !role.has_password => steps.push(Step::DropUser { user }),
            _ if wanted.withhold_access => {}
            Some(role) if role.may_replicate => {}
            _ => steps.push(Step::CreateUser { user }),
        }
        steps
    }

    fn plan_disable(facts: &SourceFacts, identity: &Identity, recorded: &[Change]) -> Vec<Step> {
        let mut steps = Vec::new();
        // What can't be looked at is not gone: its step fails with the server's own words.
        if facts.role.is_some() || facts.forbids("acl|getuser") {
            steps.push(Step::DropUser { user: identity.role() });
        }
        if let Some(Change { before: Some(before), after, .. }) = recorded_backlog(recorded)
            && (facts.backlog_size.is_some_and(|bytes| bytes.to_string() == *after) || facts.forbids("config|get"))
        {
            steps.push(Step::RestoreSetting { name: BACKLOG.to_owned(), before: before.clone() });
        }
        steps
    }

    fn source_arguments(_identity: &Identity) -> Vec<String> {
        Vec::new()
    }

    fn needs_key(_facts: &SourceFacts) -> bool {
        false
    }

    fn plan_leave(_facts: &SourceFacts, _identity: &Identity, _remaining: &[u32]) -> Vec<Step> {
        Vec::new()
    }

    fn plan_release(_: &SourceFacts, _: &Identity, _: u32) -> Vec<Step> {
        Vec::new()
    }

    fn record(facts: &SourceFacts, step: &Step) -> Option<Change> {
        match step {
            Step::RaiseBacklog { bytes } => {
                Some(Change { what: format!("setting {BACKLOG}"), before: facts.backlog_size.map(|size| size.to_string()), after: bytes.to_string() })
            }
            Step::CreateUser { user } => Some(Change { what: format!("ACL user {user}"), before: None, after: PERMISSIONS.to_owned() }),
            Step::DropUser { .. } | Step::RestoreSetting { .. } => None,
        }
    }

    fn kept(_facts: &SourceFacts, _recorded: &[Change]) -> Option<String> {
        None
    }

    fn promote_by_hand(identity: &Identity, data_directory: &str) -> String {
        format!(
            "scale it to 0, run `/understudy agent release --engine Redis --identity {} --data-directory {data_directory}` of the operator's image in a pod with its volume, \
             and take `{}` out of the arguments of its server",
            identity.word(),
            Self::target_arguments(data_directory).join(" ")
        )
    }

    fn undo_by_hand(identity: &Identity, recorded: &[Change]) -> String {
        let mut lines = vec![format!("redis-cli ACL DELUSER {}", identity.role())];
        if let Some(before) = recorded_backlog(recorded).and_then(|change| change.before.as_ref()) {
            lines.push(format!("redis-cli CONFIG SET {BACKLOG} {before}"));
        }
        lines.join("; ")
    }

    fn format_position(position: &Position) -> String {
        position.plain()
    }

    fn parse_position(text: &str) -> Option<Position> {
        let (history, bytes) = text.split_once(':')?;
        let id = history.len() == 40 && history.bytes().all(|b| b.is_ascii_hexdigit());
        id.then_some(Position::Offset { history: history.to_owned(), bytes: bytes.parse().ok()? })
    }
}

#[cfg(test)]
mod tests;
