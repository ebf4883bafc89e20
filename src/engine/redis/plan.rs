//! Which steps lead a Redis source from what is to what is wanted. Pure.

use k8s_openapi::api::core::v1::Container;
use std::fmt;

use super::{RedisSession, SourceFacts, command};
use crate::api::Change;
use crate::engine::{Engine, Finding, Identity, Position, SourceSummary, WantedSource};
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
    /// `ACL SETUSER` with what replication takes and without a password: nobody can log in yet. `ACL SAVE` where there is an ACL file.
    CreateUser {
        /// Its name.
        user: String,
    },
    /// `ACL DELUSER`, which ends its connections; `ACL SAVE` where there is an ACL file.
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
            Self::CreateUser { user } => write!(f, "create the ACL user {user} ({PERMISSIONS})"),
            Self::DropUser { user } => write!(f, "delete the ACL user {user}"),
            Self::RestoreSetting { name, before } => write!(f, "set {name} back to {before}"),
        }
    }
}

/// The setting whose default is overrun by what is written during a copy.
pub(super) const BACKLOG: &str = "repl-backlog-size";
/// What a copy and a restore may take; memory is used as it fills.
const BACKLOG_BYTES: u64 = 64 << 20;
/// What the replication user may run: `sync` for the backup, the others for the replicas (documentation, "ACL").
const PERMISSIONS: &str = "+psync +replconf +ping +sync";
/// Names the ACL file in the record of the user.
const SAVED: &str = "saved to ";

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
    const RESTORE_NEEDS_DATABASE: bool = false;

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
            access: facts.role.is_some_and(|role| role.may_replicate && role.has_password),
            position: position(&facts.history, facts.offset),
            oldest_for_seed: position(&facts.history, oldest),
            // A replica that the backlog does not reach copies everything by itself.
            oldest_for_replica: Position::default(),
            // Keys are counted, not bytes: their share of the memory is near enough for a percentage.
            backup_progress: facts.snapshot.filter(|(_, keys)| *keys > 0).map(|(written, keys)| {
                let share = u128::from(facts.used_memory) * u128::from(written.min(keys)) / u128::from(keys);
                (u64::try_from(share).unwrap_or(facts.used_memory), Some(facts.used_memory))
            }),
            held: Vec::new(),
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
            found.push(Finding::new(
                "NoPersistence",
                "the source keeps its data in memory only (save is empty, appendonly is no): after a restart it would be empty, and would empty its replicas",
                r#"run CONFIG SET save "3600 1 300 100 60 10000" (or CONFIG SET appendonly yes), and set the same in its configuration or arguments, so that it outlasts a restart"#,
            ));
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

    fn preflight_shape(shape: &Shape) -> Vec<Finding> {
        command::preflight(shape)
    }

    fn adapt_replica(container: &mut Container, data_directory: &str) {
        command::adapt(container, data_directory);
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
        // Gone with a restart that took the data, too: as soon as replicas can log in, they copy that nothing. Before the backup there are none.
        let dangerous = facts.role.is_none() && facts.started_empty() && !wanted.prove_login;
        if !facts.role.is_some_and(|role| role.may_replicate) && !dangerous {
            steps.push(Step::CreateUser { user: wanted.identity.role() });
        }
        steps
    }

    fn plan_disable(facts: &SourceFacts, identity: &Identity, recorded: &[Change]) -> Vec<Step> {
        let mut steps = Vec::new();
        if facts.role.is_some() {
            steps.push(Step::DropUser { user: identity.role() });
        }
        if let Some(Change { before: Some(before), after, .. }) = recorded_backlog(recorded)
            && facts.backlog_size.is_some_and(|bytes| bytes.to_string() == *after)
        {
            steps.push(Step::RestoreSetting { name: BACKLOG.to_owned(), before: before.clone() });
        }
        steps
    }

    fn plan_release(_: &SourceFacts, _: &Identity, _: u32) -> Vec<Step> {
        Vec::new()
    }

    fn record(facts: &SourceFacts, step: &Step) -> Option<Change> {
        match step {
            Step::RaiseBacklog { bytes } => {
                Some(Change { what: format!("setting {BACKLOG}"), before: facts.backlog_size.map(|size| size.to_string()), after: bytes.to_string() })
            }
            Step::CreateUser { user } => {
                let saved = if facts.acl_file.is_empty() { String::new() } else { format!(", {SAVED}{}", facts.acl_file) };
                Some(Change { what: format!("ACL user {user}"), before: None, after: format!("{PERMISSIONS}{saved}") })
            }
            Step::DropUser { .. } | Step::RestoreSetting { .. } => None,
        }
    }

    fn kept(_facts: &SourceFacts, _recorded: &[Change]) -> Option<String> {
        None
    }

    fn undo_by_hand(identity: &Identity, recorded: &[Change]) -> String {
        let mut lines = vec![format!("redis-cli ACL DELUSER {}", identity.role())];
        if recorded.iter().any(|change| change.after.contains(SAVED)) {
            lines.push("redis-cli ACL SAVE".to_owned());
        }
        if let Some(before) = recorded_backlog(recorded).and_then(|change| change.before.as_ref()) {
            lines.push(format!("redis-cli CONFIG SET {BACKLOG} {before}"));
        }
        lines.join("; ")
    }

    fn format_position(position: &Position) -> String {
        match position {
            Position::Offset { history, bytes } => format!("{history}:{bytes}"),
            Position::Bytes(bytes) => bytes.to_string(),
            Position::Transactions(set) => set.text(),
        }
    }

    fn parse_position(text: &str) -> Option<Position> {
        let (history, bytes) = text.split_once(':')?;
        let id = history.len() == 40 && history.bytes().all(|b| b.is_ascii_hexdigit());
        id.then_some(Position::Offset { history: history.to_owned(), bytes: bytes.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::redis::{Persistence, UserFacts};

    const HISTORY: &str = "c7e86e65e6979c8e62023ea3f44ec04cd1be8f64";

    fn identity() -> Identity {
        Identity::parse("k3x9q2ab").unwrap()
    }

    fn wanted() -> WantedSource {
        WantedSource { identity: identity(), replicas: vec![1, 2], retention_limit: 0, prove_login: true }
    }

    fn defaults() -> SourceFacts {
        SourceFacts {
            version: "8.0.6".into(),
            user: "default".into(),
            persistence: Some(Persistence { snapshots: true, append_only: false }),
            data_directory: "/data".into(),
            backlog_size: Some(1 << 20),
            history: HISTORY.into(),
            used_memory: 1 << 30,
            ..SourceFacts::default()
        }
    }

    /// The facts that a step leads to: a model of the server, for walking plans to their end.
    fn after(mut facts: SourceFacts, step: &Step) -> SourceFacts {
        match step {
            Step::RaiseBacklog { bytes } => facts.backlog_size = Some(*bytes),
            Step::CreateUser { .. } => facts.role = Some(UserFacts { may_replicate: true, ..facts.role.unwrap_or_default() }),
            Step::DropUser { .. } => facts.role = None,
            Step::RestoreSetting { before, .. } => facts.backlog_size = before.parse().ok(),
        }
        facts
    }

    #[test]
    fn the_official_images_defaults_have_no_finding() {
        assert_eq!(Redis::preflight(&defaults(), &wanted()), vec![]);
        let append_only = SourceFacts { persistence: Some(Persistence { snapshots: false, append_only: true }), ..defaults() };
        assert_eq!(Redis::preflight(&append_only, &wanted()), vec![]);
    }

    #[test]
    fn every_finding_is_reported_at_once_with_its_remedy() {
        let facts = SourceFacts {
            version: "6.2.14".into(),
            replica: true,
            cluster: true,
            persistence: Some(Persistence::default()),
            forbidden: vec!["config|set".into(), "acl|setuser".into()],
            ..defaults()
        };
        let found = Redis::preflight(&facts, &wanted());
        let reasons: Vec<_> = found.iter().map(|f| f.reason).collect();
        assert_eq!(reasons, ["VersionTooOld", "SourceIsReplica", "ClusterEnabled", "NoPersistence", "NotPermitted"]);
        assert!(found.iter().all(|f| !f.remedy.is_empty()));
        assert!(found[4].message.contains("config|set, acl|setuser"), "{found:?}");
    }

    #[test]
    fn what_could_not_be_read_is_no_finding_of_its_own() {
        let facts = SourceFacts { user: "app".into(), forbidden: vec!["info".into()], ..SourceFacts::default() };
        let reasons: Vec<_> = Redis::preflight(&facts, &wanted()).iter().map(|f| f.reason).collect();
        assert_eq!(reasons, ["NotPermitted"]);
    }

    #[test]
    fn enabling_interrupted_anywhere_and_disabling_ends_where_it_began() {
        let start = defaults();
        let steps = Redis::plan_enable(&start, &wanted());
        assert_eq!(steps.len(), 2);
        for cut in 0..=steps.len() {
            let mut recorded = vec![];
            let mut facts = start.clone();
            for step in &steps[..cut] {
                recorded.extend(Redis::record(&start, step));
                facts = after(facts, step);
            }
            let mut resumed = facts.clone();
            for step in Redis::plan_enable(&facts, &wanted()) {
                resumed = after(resumed, &step);
            }
            assert_eq!((resumed.backlog_size, resumed.role.map(|role| role.may_replicate)), (Some(64 << 20), Some(true)));
            assert_eq!(Redis::plan_enable(&resumed, &wanted()), vec![]);
            for step in Redis::plan_disable(&facts, &identity(), &recorded) {
                facts = after(facts, &step);
            }
            assert_eq!(facts, start, "cut after {cut} steps");
            assert_eq!(Redis::plan_disable(&facts, &identity(), &recorded), vec![]);
        }
    }

    #[test]
    fn a_backlog_that_the_user_has_set_is_left_alone() {
        let facts = SourceFacts { backlog_size: Some(256 << 20), ..defaults() };
        assert!(!Redis::plan_enable(&facts, &wanted()).iter().any(|step| matches!(step, Step::RaiseBacklog { .. })));
        let recorded = [Redis::record(&defaults(), &Step::RaiseBacklog { bytes: 64 << 20 }).unwrap()];
        assert!(Redis::plan_disable(&facts, &identity(), &recorded).is_empty(), "changed by the user since: not ours any more");
    }

    #[test]
    fn a_user_that_was_lost_or_changed_is_made_again() {
        let usable = UserFacts { may_replicate: true, has_password: true };
        let with = |role| SourceFacts { role, backlog_size: Some(64 << 20), ..defaults() };
        assert_eq!(Redis::plan_enable(&with(Some(usable)), &wanted()), vec![]);
        assert!(Redis::summary(&with(Some(usable))).access);
        for role in [None, Some(UserFacts { may_replicate: false, has_password: true })] {
            assert_eq!(Redis::plan_enable(&with(role), &wanted()), vec![Step::CreateUser { user: "understudy_k3x9q2ab".into() }]);
            assert!(!Redis::summary(&with(role)).access);
        }
        assert!(!Redis::summary(&with(Some(UserFacts { may_replicate: true, has_password: false }))).access);
    }

    #[test]
    fn replicas_are_kept_from_a_source_that_came_back_empty() {
        let makes_user = |facts: &SourceFacts, prove_login| {
            let steps = Redis::plan_enable(facts, &WantedSource { prove_login, ..wanted() });
            steps.iter().any(|step| matches!(step, Step::CreateUser { .. }))
        };
        let append_only = Some(Persistence { snapshots: false, append_only: true });
        let empty = SourceFacts { keys: 3, ..defaults() };
        assert!(makes_user(&empty, true), "a new database that gets its first replica");
        assert!(!makes_user(&empty, false), "its clients have begun to write again");
        assert!(!makes_user(&SourceFacts { keys: 0, persistence: append_only, ..empty.clone() }, false));
        for well in [
            SourceFacts { keys_loaded: 3, ..empty.clone() },
            SourceFacts { offset: 14, ..empty.clone() },
            SourceFacts { backlog_first: Some(1), ..empty.clone() },
            SourceFacts { persistence: append_only, ..empty.clone() },
            SourceFacts { role: Some(UserFacts::default()), ..empty.clone() },
        ] {
            assert!(makes_user(&well, false), "{well:?}");
        }
    }

    #[test]
    fn a_backup_seeds_as_long_as_the_backlog_reaches_it() {
        let at = |bytes| position(HISTORY, bytes);
        let with = |first| Redis::summary(&SourceFacts { offset: 500, backlog_first: first, ..defaults() }).oldest_for_seed;
        // The copy of a source that never had a replica stands at 0, and its backlog begins with byte 1.
        assert!(at(0).reaches(&with(Some(1))));
        assert!(at(99).reaches(&with(Some(100))) && !at(98).reaches(&with(Some(100))));
        assert!(!at(499).reaches(&with(None)), "without a backlog nothing is kept");
        assert!(!position("another", 400).reaches(&with(Some(100))), "the source began another history");
        let summary = Redis::summary(&defaults());
        assert!(Position::Bytes(1).reaches(&summary.oldest_for_replica), "never lost: it copies everything by itself");
    }

    #[test]
    fn progress_is_the_share_of_keys() {
        let with = |snapshot| Redis::summary(&SourceFacts { snapshot, ..defaults() }).backup_progress;
        assert_eq!(with(Some((5, 10))), Some((1 << 29, Some(1 << 30))));
        assert_eq!((with(Some((0, 0))), with(None)), (None, None));
    }

    #[test]
    fn undoing_by_hand_names_what_was_changed() {
        let facts = SourceFacts { acl_file: "/data/users.acl".into(), ..defaults() };
        let recorded: Vec<Change> = Redis::plan_enable(&facts, &wanted()).iter().filter_map(|step| Redis::record(&facts, step)).collect();
        let said = Redis::undo_by_hand(&identity(), &recorded);
        assert_eq!(said, "redis-cli ACL DELUSER understudy_k3x9q2ab; redis-cli ACL SAVE; redis-cli CONFIG SET repl-backlog-size 1048576");
        assert_eq!(Redis::undo_by_hand(&identity(), &[]), "redis-cli ACL DELUSER understudy_k3x9q2ab");
    }

    #[test]
    fn positions_are_read_as_they_are_written() {
        let text = format!("{HISTORY}:18446744073709551615");
        assert_eq!(Redis::format_position(&Redis::parse_position(&text).unwrap()), text);
        for wrong in ["1", "x:1", HISTORY, &format!("{HISTORY}:-1")] {
            assert_eq!(Redis::parse_position(wrong), None, "{wrong}");
        }
    }
}
