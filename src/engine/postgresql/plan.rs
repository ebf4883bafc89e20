//! Which steps lead a PostgreSQL source from what is to what is wanted. Pure.

use k8s_openapi::api::core::v1::Container;
use std::fmt;

use super::{PostgreSqlSession, SourceFacts, target};
use crate::api::Change;
use crate::engine::{Engine, Finding, Held, Identity, Position, SourceSummary, WantedSource};
use crate::resources::Shape;

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
            Self::LimitSlotWal { megabytes } => {
                write!(f, "set max_slot_wal_keep_size to {megabytes}MB, so that a replica that is gone cannot fill the disk (reload, no restart)")
            }
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

/// Name of the setting that limits what slots retain.
const SLOT_WAL_KEEP: &str = "max_slot_wal_keep_size";
const MIB: u64 = 1 << 20;

/// A rule of the user's own already lets our role replicate from anywhere. Whether it really does is shown by the login.
fn user_rule_covers(facts: &SourceFacts, role: &str) -> bool {
    facts.hba_rules.iter().any(|rule| {
        rule.kind.starts_with("host")
            && rule.databases.iter().any(|d| d == "replication")
            && rule.users.iter().any(|u| u == "all" || u == role)
            && matches!(rule.address.as_str(), "all" | "0.0.0.0" | "::")
            && rule.method != "reject"
    })
}

impl Engine for PostgreSql {
    type SourceFacts = SourceFacts;
    type Step = Step;
    type Session = PostgreSqlSession;

    const NAME: &'static str = "PostgreSQL";
    const PORT: u16 = 5432;
    const DATABASE: &'static str = "postgres";
    const ADMINISTRATOR: &'static str = "postgres";
    const PREFIX: &'static str = "POSTGRESQL";
    const LOGIN_VARIABLES: bool = true;
    const USERS_ARE_DATA: bool = true;
    const COUNTS_LATE: bool = false;
    const RESTORE_NEEDS_DATABASE: bool = false;
    /// `SSLRequest`: <https://www.postgresql.org/docs/current/protocol-message-formats.html>.
    const HELLO: &'static [u8] = b"\x00\x00\x00\x08\x04\xd2\x16\x2f";

    fn greets(answer: &[u8]) -> bool {
        matches!(answer, b"S" | b"N")
    }

    fn summary(facts: &SourceFacts) -> SourceSummary {
        SourceSummary {
            version: facts.version.clone(),
            system: facts.system.clone(),
            major_version: facts.version_num / 10_000,
            data_directory: facts.data_directory.clone(),
            owner: Some(facts.owner),
            leads: true,
            elects: false,
            adapted: false,
            access: facts.role_exists && facts.role_has_password,
            records: None,
            position: facts.position.clone(),
            oldest_for_seed: facts.oldest_wal.clone(),
            oldest_for_replica: facts.oldest_wal.clone(),
            backup_progress: facts.backup_progress,
            held: facts.slots.iter().map(|slot| (slot.number, if slot.wal_status == "lost" { Held::Lost } else { Held::Kept })).collect(),
            last_save: None,
        }
    }

    fn preflight(facts: &SourceFacts, wanted: &WantedSource) -> Vec<Finding> {
        let mut found = Vec::new();
        if facts.version_num < 130_000 {
            found.push(Finding::new(
                "VersionTooOld",
                format!("the server is PostgreSQL {}, and limits on what slots retain exist from 13 on", facts.version),
                "upgrade the source to PostgreSQL 13 or later",
            ));
        }
        if facts.in_recovery {
            found.push(Finding::new(
                "SourceIsStandby",
                "the source is itself a standby (pg_is_in_recovery() is true)",
                "name the primary's StatefulSet in source.statefulSetRef",
            ));
        }
        if facts.wal_level == "minimal" {
            found.push(Finding::new(
                "WalLevelMinimal",
                "wal_level is minimal, which does not write what a replica needs",
                "run ALTER SYSTEM SET wal_level = 'replica' (or mend the configuration that sets it) and restart the source",
            ));
        }
        let replicas = u32::try_from(wanted.replicas.len()).unwrap_or(u32::MAX);
        let (limit, used) = facts.wal_senders;
        if used.saturating_add(replicas).saturating_add(2) > limit {
            found.push(Finding::new(
                "TooFewWalSenders",
                format!("max_wal_senders is {limit} and {used} are in use; {replicas} replica(s) and a backup need {} more", replicas.saturating_add(2)),
                format!("raise max_wal_senders to at least {} and restart the source", used.saturating_add(replicas).saturating_add(2)),
            ));
        }
        let ours = u32::try_from(facts.slots.len()).unwrap_or(u32::MAX);
        let (limit, used) = facts.replication_slots;
        let needed = used.saturating_sub(ours).saturating_add(replicas).saturating_add(1);
        if needed > limit {
            found.push(Finding::new(
                "TooFewReplicationSlots",
                format!("max_replication_slots is {limit} and {used} exist; {replicas} replica(s) and a backup need {needed} in all"),
                format!("raise max_replication_slots to at least {needed} and restart the source, or drop slots that nothing uses"),
            ));
        }
        if !facts.superuser {
            found.push(Finding::new(
                "NotSuperuser",
                format!("the user {} is not a superuser, and pg_hba.conf can be changed by superusers only", facts.user),
                "name a superuser in source.credentials",
            ));
            return found;
        }
        for rule in facts.hba_rules.iter().filter(|rule| rule.error.is_some()) {
            found.push(Finding::new(
                "HbaFileBroken",
                format!("line {} of {} is wrong: {}", rule.line, facts.hba_file, rule.error.as_deref().unwrap_or_default()),
                "mend that line: with it the server refuses every reload and would not start again",
            ));
        }
        let role = wanted.identity.role();
        if !facts.hba_line_present && !facts.hba_writable && !user_rule_covers(facts, &role) {
            found.push(Finding::new(
                "HbaNotWritable",
                format!("{} cannot be written by the server (a mounted ConfigMap?), and has no line that lets a replica in", facts.hba_file),
                "add this line to it where it comes from, and reload: host replication all all scram-sha-256",
            ));
        }
        if !facts.outside.is_empty() {
            found.push(Finding::new(
                "DataOutsideDirectory",
                format!("data lies outside {}: {}", facts.data_directory, facts.outside.join(", ")),
                "tablespaces and a log directory elsewhere are not supported by this version: move them into the data directory",
            ));
        }
        found
    }

    fn preflight_target(source: &SourceFacts, target: &SourceFacts) -> Vec<Finding> {
        target::preflight(source, target)
    }

    fn preflight_shape(_shape: &Shape) -> Vec<Finding> {
        Vec::new()
    }

    fn adapt_replica(_container: &mut Container, _data_directory: &str) {}

    fn target_arguments(_data_directory: &str) -> Vec<String> {
        Vec::new()
    }

    fn expected_disruption(_facts: &SourceFacts) -> String {
        "none: no restart; the configuration is reloaded and one full backup is read from the server".to_owned()
    }

    fn plan_enable(facts: &SourceFacts, wanted: &WantedSource) -> Vec<Step> {
        let role = wanted.identity.role();
        let mut steps = Vec::new();
        if facts.slot_wal_keep_mb < 0 && facts.slot_wal_keep_source != "command line" {
            steps.push(Step::LimitSlotWal { megabytes: i64::try_from(wanted.retention_limit.div_ceil(MIB)).unwrap_or(i64::MAX) });
        }
        if !facts.role_exists {
            steps.push(Step::CreateRole { role: role.clone() });
        }
        if !facts.hba_line_present && (facts.hba_writable || !user_rule_covers(facts, &role)) {
            steps.push(Step::AddHbaLine { line: hba_line(&wanted.identity) });
        }
        if wanted.prove_login {
            steps.push(Step::ProveLogin { role });
        }
        for number in &wanted.replicas {
            if !facts.slots.iter().any(|slot| slot.number == *number) {
                steps.push(Step::CreateSlot { slot: wanted.identity.slot(*number) });
            }
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

    fn plan_release(facts: &SourceFacts, identity: &Identity, number: u32) -> Vec<Step> {
        facts.slots.iter().filter(|slot| slot.number == number).map(|_| Step::DropSlot { slot: identity.slot(number) }).collect()
    }

    fn plan_disable(facts: &SourceFacts, identity: &Identity, recorded: &[Change]) -> Vec<Step> {
        let mut steps: Vec<Step> = facts.slots.iter().map(|slot| Step::DropSlot { slot: slot.name.clone() }).collect();
        if facts.hba_line_present {
            steps.push(Step::RemoveHbaLine { line: hba_line(identity) });
        }
        if facts.connections > 0 {
            steps.push(Step::Disconnect { role: identity.role() });
        }
        if facts.role_exists {
            steps.push(Step::DropRole { role: identity.role() });
        }
        let limit = recorded.iter().find(|change| change.what == format!("setting {SLOT_WAL_KEEP}"));
        let ours = |limit: &&Change| {
            let stands = facts.slot_wal_keep_auto_conf.as_deref() == Some(&limit.after);
            // Put back in the file, and the server not told: whoever did it was killed in between.
            let in_force = facts.slot_wal_keep_from_auto_conf && format!("{}MB", facts.slot_wal_keep_mb) == limit.after;
            stands || in_force && facts.slot_wal_keep_auto_conf == limit.before
        };
        // A record that says that nothing was changed has nothing to undo.
        if let Some(limit) = limit.filter(ours).filter(|limit| limit.before.as_ref() != Some(&limit.after)) {
            steps.push(Step::RestoreSetting { name: SLOT_WAL_KEEP.to_owned(), before: limit.before.clone() });
        }
        steps
    }

    fn record(facts: &SourceFacts, step: &Step) -> Option<Change> {
        match step {
            Step::LimitSlotWal { megabytes } => {
                Some(Change { what: format!("setting {SLOT_WAL_KEEP}"), before: facts.slot_wal_keep_auto_conf.clone(), after: format!("{megabytes}MB") })
            }
            Step::CreateRole { role } => Some(Change { what: format!("role {role}"), before: None, after: "LOGIN REPLICATION".to_owned() }),
            Step::AddHbaLine { line } => Some(Change { what: "line in pg_hba.conf".to_owned(), before: None, after: line.clone() }),
            Step::CreateSlot { slot } => Some(Change { what: format!("replication slot {slot}"), before: None, after: "physical".to_owned() }),
            Step::ProveLogin { .. }
            | Step::DropSlot { .. }
            | Step::RemoveHbaLine { .. }
            | Step::Disconnect { .. }
            | Step::DropRole { .. }
            | Step::RestoreSetting { .. } => None,
        }
    }

    fn kept(_facts: &SourceFacts, _recorded: &[Change]) -> Option<String> {
        None
    }

    fn promote_by_hand(_identity: &Identity, _data_directory: &str) -> String {
        "execute on its server: SELECT pg_promote()".to_owned()
    }

    fn undo_by_hand(identity: &Identity, recorded: &[Change]) -> String {
        let role = identity.role();
        let mut lines = vec![
            format!("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name LIKE '{role}\\_%'"),
            format!("DROP ROLE IF EXISTS {role}"),
        ];
        if let Some(limit) = recorded.iter().find(|change| change.what.ends_with(SLOT_WAL_KEEP)) {
            lines.push(match &limit.before {
                Some(before) => format!("ALTER SYSTEM SET {SLOT_WAL_KEEP} = '{before}'"),
                None => format!("ALTER SYSTEM RESET {SLOT_WAL_KEEP}"),
            });
        }
        lines.push("SELECT pg_reload_conf()".to_owned());
        format!("{}; and remove the line with {role} from pg_hba.conf", lines.join("; "))
    }

    fn format_position(position: &Position) -> String {
        match position {
            Position::Bytes(bytes) => format!("{:X}/{:X}", bytes >> 32, bytes & 0xFFFF_FFFF),
            other => other.plain(),
        }
    }

    fn parse_position(text: &str) -> Option<Position> {
        let (high, low) = text.split_once('/')?;
        Some(Position::Bytes((u64::from_str_radix(high, 16).ok()? << 32) | u64::from_str_radix(low, 16).ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::postgresql::SlotFacts;

    fn identity() -> Identity {
        Identity::parse("k3x9q2ab").unwrap()
    }

    fn defaults() -> SourceFacts {
        SourceFacts {
            version_num: 170_012,
            version: "17.12".into(),
            superuser: true,
            user: "postgres".into(),
            wal_level: "replica".into(),
            wal_senders: (10, 0),
            replication_slots: (10, 0),
            slot_wal_keep_mb: -1,
            slot_wal_keep_source: "default".into(),
            data_directory: "/var/lib/postgresql/data".into(),
            hba_file: "/var/lib/postgresql/data/pg_hba.conf".into(),
            hba_writable: true,
            owner: (999, 999),
            ..SourceFacts::default()
        }
    }

    fn wanted(replicas: &[u32]) -> WantedSource {
        WantedSource { replicas: replicas.to_vec(), retention_limit: 512 * MIB, ..WantedSource::new(identity()) }
    }

    /// The facts that a step leads to: a model of the server, for walking plans to their end.
    fn after(mut facts: SourceFacts, step: &Step) -> SourceFacts {
        match step {
            Step::LimitSlotWal { megabytes } => {
                facts.slot_wal_keep_mb = *megabytes;
                facts.slot_wal_keep_source = "configuration file".into();
                facts.slot_wal_keep_auto_conf = Some(format!("{megabytes}MB"));
            }
            Step::CreateRole { .. } => facts.role_exists = true,
            Step::AddHbaLine { .. } => facts.hba_line_present = true,
            Step::ProveLogin { .. } => {
                assert!(facts.role_exists && facts.hba_line_present, "a login is proven only once it can work");
            }
            Step::CreateSlot { slot } => {
                facts.slots.push(SlotFacts { name: slot.clone(), number: identity().slot_number(slot).unwrap(), active: false, wal_status: "reserved".into() });
            }
            Step::DropSlot { slot } => facts.slots.retain(|s| s.name != *slot),
            Step::RemoveHbaLine { .. } => facts.hba_line_present = false,
            Step::Disconnect { .. } => facts.connections = 0,
            Step::DropRole { .. } => {
                assert_eq!(facts.connections, 0, "DROP ROLE leaves connections behind");
                facts.role_exists = false;
            }
            Step::RestoreSetting { before, .. } => {
                facts.slot_wal_keep_auto_conf.clone_from(before);
                facts.slot_wal_keep_mb = -1;
                facts.slot_wal_keep_source = if before.is_some() { "configuration file" } else { "default" }.into();
            }
        }
        facts
    }

    #[test]
    fn the_official_images_defaults_have_no_finding() {
        assert_eq!(PostgreSql::preflight(&defaults(), &wanted(&[1])), vec![]);
    }

    #[test]
    fn every_finding_is_reported_at_once_with_its_remedy() {
        let facts = SourceFacts {
            version_num: 120_000,
            in_recovery: true,
            wal_level: "minimal".into(),
            wal_senders: (2, 1),
            replication_slots: (1, 1),
            hba_writable: false,
            outside: vec!["/mnt/fast".into()],
            ..defaults()
        };
        let found = PostgreSql::preflight(&facts, &wanted(&[1]));
        let reasons: Vec<_> = found.iter().map(|f| f.reason).collect();
        assert_eq!(
            reasons,
            ["VersionTooOld", "SourceIsStandby", "WalLevelMinimal", "TooFewWalSenders", "TooFewReplicationSlots", "HbaNotWritable", "DataOutsideDirectory"]
        );
        assert!(found.iter().all(|f| !f.remedy.is_empty()));
    }

    #[test]
    fn a_user_without_superuser_is_a_finding() {
        let facts = SourceFacts { superuser: false, hba_writable: false, ..defaults() };
        assert_eq!(PostgreSql::preflight(&facts, &wanted(&[1])).first().map(|f| f.reason), Some("NotSuperuser"));
    }

    #[test]
    fn enabling_interrupted_anywhere_and_disabling_ends_where_it_began() {
        let start = defaults();
        let steps = PostgreSql::plan_enable(&start, &wanted(&[1, 2]));
        for cut in 0..=steps.len() {
            let mut recorded = vec![];
            let mut facts = start.clone();
            for step in &steps[..cut] {
                recorded.extend(PostgreSql::record(&start, step));
                facts = after(facts, step);
            }
            // Goes on to the same end, doing nothing twice that would hurt.
            let mut resumed = facts.clone();
            for step in PostgreSql::plan_enable(&facts, &WantedSource { prove_login: false, ..wanted(&[1, 2]) }) {
                resumed = after(resumed, &step);
            }
            assert_eq!((resumed.role_exists, resumed.hba_line_present, resumed.slots.len()), (true, true, 2));
            // And leads back to the beginning.
            facts.connections = 1;
            for step in PostgreSql::plan_disable(&facts, &identity(), &recorded) {
                facts = after(facts, &step);
            }
            facts.connections = 0;
            assert_eq!(facts, start, "cut after {cut} steps");
        }
    }

    #[test]
    fn a_limit_that_was_put_back_without_a_reload_is_put_back_again() {
        let recorded = [Change { what: "setting max_slot_wal_keep_size".into(), before: None, after: "512MB".into() }];
        let killed = SourceFacts { slot_wal_keep_mb: 512, slot_wal_keep_from_auto_conf: true, slot_wal_keep_auto_conf: None, ..defaults() };
        let steps = PostgreSql::plan_disable(&killed, &identity(), &recorded);
        assert!(matches!(steps.as_slice(), [Step::RestoreSetting { before: None, .. }]), "{steps:?}");
        let theirs = SourceFacts { slot_wal_keep_from_auto_conf: false, ..killed };
        assert!(PostgreSql::plan_disable(&theirs, &identity(), &recorded).is_empty(), "the same value, from a file of the user's");
    }

    #[test]
    fn a_limit_that_the_user_has_set_is_left_alone() {
        let facts = SourceFacts { slot_wal_keep_mb: 4096, slot_wal_keep_auto_conf: Some("4GB".into()), ..defaults() };
        assert!(!PostgreSql::plan_enable(&facts, &wanted(&[1])).iter().any(|s| matches!(s, Step::LimitSlotWal { .. })));
        let recorded = [Change { what: "setting max_slot_wal_keep_size".into(), before: None, after: "512MB".into() }];
        assert!(PostgreSql::plan_disable(&facts, &identity(), &recorded).is_empty(), "changed by the user since: not ours any more");
    }

    #[test]
    fn positions_are_read_as_they_are_written() {
        for text in ["0/0", "0/1A2B3C", "16/B374D848", "FFFFFFFF/FFFFFFFF"] {
            assert_eq!(PostgreSql::format_position(&PostgreSql::parse_position(text).unwrap()), text);
        }
        assert_eq!(PostgreSql::parse_position("16-2"), None);
    }
}
