//! Which steps lead a MySQL source from what is to what is wanted. Pure.

use k8s_openapi::api::core::v1::Container;
use std::fmt;

use super::facts::SourceFacts;
use super::session::MySqlSession;
use super::{gtid, preflight, target};
use crate::api::Change;
use crate::engine::{Engine, Finding, Identity, Position, Progress, SourceSummary, TransactionSet, WantedSource};
use crate::resources::Shape;

/// MySQL 8.0.17 and later.
#[derive(Debug, Clone, Copy)]
pub struct MySql;

/// One step on a source; each may be repeated without harm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// `CREATE USER`, locked and with a password that nobody knows, and its privileges.
    CreateUser {
        /// Its name; its host is `%`.
        user: String,
    },
    /// Give the user a random password that only this step knows, and log in with it.
    ProveLogin {
        /// The user.
        user: String,
    },
    /// See everything that is ours, and change nothing: fails where the administrator may not, which is not the same as that it is gone.
    FindOwn {
        /// Our user.
        user: String,
    },
    /// `INSTALL PLUGIN clone`; a server that can't is copied in another way.
    InstallClone,
    /// `SET PERSIST`, of a variable that needs no restart.
    SetVariable {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
    },
    /// Wait until no transaction without a GTID is under way.
    AwaitNoAnonymous,
    /// Wait until no transaction with a GTID is under way.
    AwaitNoGtids,
    /// Disconnect whoever is connected as this user: `DROP USER` does not.
    Disconnect {
        /// The user.
        user: String,
    },
    /// `DROP USER`.
    DropUser {
        /// Its name.
        user: String,
    },
    /// `UNINSTALL PLUGIN clone`.
    UninstallClone,
    /// Put back what stood in `mysqld-auto.cnf`; the value in force has been put back already.
    RestorePersisted {
        /// Name of the variable.
        name: String,
        /// What stood there; none where nothing did.
        before: Option<String>,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateUser { user } => write!(f, "create the user {user} (REPLICATION SLAVE, BACKUP_ADMIN)"),
            Self::ProveLogin { user } => write!(f, "log in as {user}, to prove that it works"),
            Self::FindOwn { user } => write!(f, "look for {user} and what else was changed"),
            Self::InstallClone => write!(f, "install the clone plugin, if the server can (no restart)"),
            Self::SetVariable { name, value } => write!(f, "set {name} to {value} (no restart)"),
            Self::AwaitNoAnonymous => write!(f, "wait until no transaction without a GTID is under way"),
            Self::AwaitNoGtids => write!(f, "wait until no transaction with a GTID is under way"),
            Self::Disconnect { user } => write!(f, "disconnect sessions of {user}"),
            Self::DropUser { user } => write!(f, "drop the user {user}"),
            Self::UninstallClone => write!(f, "uninstall the clone plugin"),
            Self::RestorePersisted { name, before: Some(before) } => write!(f, "persist {name} as {before} again"),
            Self::RestorePersisted { name, before: None } => write!(f, "reset what is persisted of {name}"),
        }
    }
}

/// What a record calls the clone plugin.
const CLONE: &str = "plugin clone";

/// How one recorded change, other than the user, is undone by hand.
fn undo(change: &Change) -> Option<String> {
    match change.what.strip_prefix("setting ") {
        Some(name) => Some(format!("{name}, step by step, back to {}, then RESET PERSIST IF EXISTS {name}", change.before.as_deref().unwrap_or("what it was"))),
        None => (change.what == CLONE).then(|| "UNINSTALL PLUGIN clone".to_owned()),
    }
}

impl Engine for MySql {
    type SourceFacts = SourceFacts;
    type Step = Step;
    type Session = MySqlSession;

    const NAME: &'static str = "MySQL";
    const PORT: u16 = 3306;
    const DATABASE: &'static str = "mysql";
    const ADMINISTRATOR: &'static str = "root";
    const PREFIX: &'static str = "MYSQL";
    const LOGIN_VARIABLES: bool = true;
    const USERS_ARE_DATA: bool = true;
    const COUNTS_LATE: bool = true;
    const RESTORE_NEEDS_DATABASE: bool = true;
    const HELLO: &'static [u8] = b"";

    /// The first packet: the handshake of protocol version 10, or an error. <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_connection_phase.html>
    fn greets(answer: &[u8]) -> bool {
        matches!(answer, [_, _, 0, 0, 10 | 0xff, ..])
    }

    fn summary(facts: &SourceFacts) -> SourceSummary {
        SourceSummary {
            version: facts.version.clone(),
            system: facts.server_uuid.clone(),
            major_version: facts.numbers.0 * 100 + facts.numbers.1,
            data_directory: facts.data_directory.clone(),
            // Its process can't be asked: LOAD_FILE reads below secure_file_priv only.
            owner: None,
            leads: true,
            elects: false,
            adapted: false,
            // What can't be seen is not known to be lost.
            access: facts.hidden.is_some() || (facts.user_exists && facts.user_access),
            records: None,
            position: facts.position.clone(),
            oldest_for_seed: facts.purged.clone(),
            oldest_for_replica: facts.purged.clone(),
            // How much there is to clone is known to the recipient only; the sum of all tablespaces, measured before the first change, is near enough.
            backup_progress: facts.clone_sent.map(|copied| Progress { copied, total: None }),
            held: Vec::new(),
            last_save: None,
        }
    }

    fn preflight(facts: &SourceFacts, _wanted: &WantedSource) -> Vec<Finding> {
        preflight::server(facts)
    }

    fn preflight_target(source: &SourceFacts, target: &SourceFacts) -> Vec<Finding> {
        target::preflight(source, target)
    }

    fn preflight_shape(shape: &Shape) -> Vec<Finding> {
        preflight::shape(shape)
    }

    /// What is persisted in the data directory makes the server a replica, and wins over the command line. Where the arguments are plainly those of mysqld,
    /// they say so as well.
    fn adapt_replica(container: &mut Container, _data_directory: &str) {
        if let Some(arguments) = preflight::server_arguments(container) {
            arguments.push("--super-read-only=ON".to_owned());
        }
    }

    fn target_arguments(_data_directory: &str) -> Vec<String> {
        Vec::new()
    }

    fn expected_disruption(facts: &SourceFacts) -> String {
        let gtids = if facts.gtid_mode.value == "ON" { "" } else { "GTIDs are switched on while it runs, " };
        let waits = match (facts.numbers < (8, 0, 27), facts.clone_active) {
            // Since then CLONE lets them through (manual, "Cloning and Concurrent DDL").
            (true, _) => "; CREATE, ALTER and DROP wait until it is",
            (false, true) => "",
            (false, false) => {
                "; where the clone plugin can't be installed mysqldump reads it: then writes wait for a moment, and CREATE, ALTER and DROP until it is done"
            }
        };
        format!("none: no restart; {gtids}and one full backup is read from the server{waits}")
    }

    fn plan_enable(facts: &SourceFacts, wanted: &WantedSource) -> Vec<Step> {
        let user = wanted.identity.role();
        if facts.hidden.is_some() {
            return vec![Step::FindOwn { user }];
        }
        let mut steps = Vec::new();
        if !facts.user_exists || !facts.user_granted {
            steps.push(Step::CreateUser { user: user.clone() });
        }
        if wanted.prove_login {
            steps.push(Step::ProveLogin { user });
        }
        // For the backup only, and not asked for again and again where it can't be had.
        if wanted.prove_login && !facts.clone_active {
            steps.push(Step::InstallClone);
        }
        steps.extend(gtid::up(facts));
        steps
    }

    /// Nothing is held for a replica: binary logs expire as they did before.
    fn source_arguments(_identity: &Identity) -> Vec<String> {
        Vec::new()
    }

    fn needs_key(_facts: &SourceFacts) -> bool {
        false
    }

    fn plan_leave(_facts: &SourceFacts, _identity: &Identity, _remaining: &[u32]) -> Vec<Step> {
        Vec::new()
    }

    fn plan_release(_facts: &SourceFacts, _identity: &Identity, _number: u32) -> Vec<Step> {
        Vec::new()
    }

    fn plan_disable(facts: &SourceFacts, identity: &Identity, recorded: &[Change]) -> Vec<Step> {
        let user = identity.role();
        if facts.hidden.is_some() {
            return vec![Step::FindOwn { user }];
        }
        let mut steps = Vec::new();
        if facts.connections > 0 {
            steps.push(Step::Disconnect { user: user.clone() });
        }
        if facts.user_exists {
            steps.push(Step::DropUser { user });
        }
        if facts.clone_active && recorded.iter().any(|change| change.what == CLONE) {
            steps.push(Step::UninstallClone);
        }
        // There were none of the user's before: those that have come since may need GTIDs, and would stop without.
        if facts.other_replicas == 0 {
            steps.extend(gtid::down(facts, recorded));
        }
        steps
    }

    fn kept(facts: &SourceFacts, recorded: &[Change]) -> Option<String> {
        if facts.other_replicas == 0 || gtid::down(facts, recorded).is_empty() {
            return None;
        }
        let settings: Vec<Change> = recorded.iter().filter(|change| change.what.starts_with("setting ")).cloned().collect();
        let undo = settings.iter().filter_map(undo).collect::<Vec<_>>().join("; ");
        Some(format!(
            "gtid_mode stays {}: {} replica(s) of yours, or readers of the binary log, are connected, which may need GTIDs. By hand, once they do not: {undo}",
            facts.gtid_mode.value, facts.other_replicas
        ))
    }

    fn promote_by_hand(_identity: &Identity, _data_directory: &str) -> String {
        "execute on its server: STOP REPLICA; RESET REPLICA ALL; RESET PERSIST IF EXISTS super_read_only; RESET PERSIST IF EXISTS read_only; \
         RESET PERSIST IF EXISTS event_scheduler; SET GLOBAL super_read_only = OFF; SET GLOBAL read_only = OFF"
            .to_owned()
    }

    fn undo_by_hand(identity: &Identity, recorded: &[Change]) -> String {
        let mut lines = vec![format!("DROP USER IF EXISTS {}", identity.role())];
        lines.extend(recorded.iter().filter_map(undo));
        lines.join("; ")
    }

    fn record(facts: &SourceFacts, step: &Step) -> Option<Change> {
        match step {
            Step::CreateUser { user } => Some(Change { what: format!("user {user}"), before: None, after: "REPLICATION SLAVE, BACKUP_ADMIN".to_owned() }),
            Step::InstallClone => Some(Change { what: CLONE.to_owned(), before: None, after: "mysql_clone.so".to_owned() }),
            Step::SetVariable { name, value } => {
                let before = if name == gtid::GTID_MODE { &facts.gtid_mode } else { &facts.enforce };
                Some(Change { what: format!("setting {name}"), before: Some(gtid::describe(before)), after: value.clone() })
            }
            Step::ProveLogin { .. }
            | Step::FindOwn { .. }
            | Step::AwaitNoAnonymous
            | Step::AwaitNoGtids
            | Step::Disconnect { .. }
            | Step::DropUser { .. }
            | Step::UninstallClone
            | Step::RestorePersisted { .. } => None,
        }
    }

    fn format_position(position: &Position) -> String {
        position.plain()
    }

    fn parse_position(text: &str) -> Option<Position> {
        TransactionSet::parse(text).map(Position::Transactions)
    }
}

#[cfg(test)]
mod tests {
    use super::super::facts::Persisted;
    use super::*;

    fn identity() -> Identity {
        Identity::parse("k3x9q2ab").unwrap()
    }

    /// A source of 8.0, with the defaults of the official image.
    fn defaults() -> SourceFacts {
        SourceFacts {
            gtid_mode: Persisted { value: "OFF".into(), persisted: None },
            enforce: Persisted { value: "OFF".into(), persisted: None },
            ..preflight::tests::sound()
        }
    }

    fn wanted() -> WantedSource {
        WantedSource { replicas: vec![1], ..WantedSource::new(identity()) }
    }

    /// The facts that a step leads to: a model of the server, for walking plans to their end.
    fn after(mut facts: SourceFacts, step: &Step) -> SourceFacts {
        match step {
            Step::CreateUser { .. } => (facts.user_exists, facts.user_granted) = (true, true),
            Step::ProveLogin { .. } => assert!(facts.user_exists, "a login is proven only once it can work"),
            Step::InstallClone => facts.clone_active = true,
            Step::SetVariable { name, value } => {
                let (ladder, variable): (&[&str], _) =
                    if name == gtid::GTID_MODE { (&gtid::MODES, &mut facts.gtid_mode) } else { (&gtid::ENFORCE, &mut facts.enforce) };
                let place = |value: &str| ladder.iter().position(|step| *step == value).unwrap();
                assert_eq!(place(value).abs_diff(place(&variable.value)), 1, "a step that is skipped is refused");
                *variable = Persisted { value: value.clone(), persisted: Some(value.clone()) };
                assert!(facts.gtid_mode.value != "ON" || facts.enforce.value == "ON", "gtid_mode ON needs enforce_gtid_consistency ON");
            }
            Step::AwaitNoAnonymous | Step::AwaitNoGtids => {}
            Step::FindOwn { .. } => panic!("it fails on this server as long as it is planned"),
            Step::Disconnect { .. } => facts.connections = 0,
            Step::DropUser { .. } => {
                assert_eq!(facts.connections, 0, "DROP USER leaves connections behind");
                (facts.user_exists, facts.user_granted) = (false, false);
            }
            Step::UninstallClone => facts.clone_active = false,
            Step::RestorePersisted { name, before } => {
                let variable = if name == gtid::GTID_MODE { &mut facts.gtid_mode } else { &mut facts.enforce };
                variable.persisted.clone_from(before);
            }
        }
        facts
    }

    /// The record as the controller keeps it: the value before is that of the first time.
    fn keep(recorded: &mut Vec<Change>, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            match recorded.iter_mut().find(|known| known.what == change.what) {
                Some(known) => known.after = change.after,
                None => recorded.push(change),
            }
        }
    }

    #[test]
    fn enabling_interrupted_anywhere_and_disabling_ends_where_it_began() {
        let persisted = |value: &str| Persisted { value: value.into(), persisted: Some(value.into()) };
        let starts = [
            defaults(),
            preflight::tests::sound(),
            SourceFacts { gtid_mode: persisted("OFF_PERMISSIVE"), enforce: persisted("WARN"), ..defaults() },
            SourceFacts { clone_active: true, gtid_mode: persisted("OFF"), ..defaults() },
            SourceFacts { gtid_mode: Persisted { value: "OFF".into(), persisted: Some("ON".into()) }, ..defaults() },
        ];
        for start in starts {
            let steps = MySql::plan_enable(&start, &wanted());
            for cut in 0..=steps.len() {
                // All of a plan is on record before its first step.
                let mut recorded = vec![];
                keep(&mut recorded, steps.iter().filter_map(|step| MySql::record(&start, step)));
                let facts = steps[..cut].iter().fold(start.clone(), after);
                // Goes on to the same end, doing nothing twice that would hurt.
                let rest = MySql::plan_enable(&facts, &wanted());
                keep(&mut recorded, rest.iter().filter_map(|step| MySql::record(&facts, step)));
                let done = rest.iter().fold(facts.clone(), after);
                assert!(done.user_exists && done.user_granted && done.clone_active && done.gtid_mode.value == "ON" && done.enforce.value == "ON");
                assert!(MySql::plan_enable(&done, &WantedSource { prove_login: false, ..wanted() }).is_empty());
                // And leads back to the beginning, also where the way back is interrupted.
                for from in [facts, done] {
                    let from = SourceFacts { connections: 1, ..from };
                    let back = MySql::plan_disable(&from, &identity(), &recorded);
                    for stop in 0..=back.len() {
                        let stopped = back[..stop].iter().fold(from.clone(), after);
                        let again = MySql::plan_disable(&stopped, &identity(), &recorded);
                        let end = SourceFacts { connections: 0, ..again.iter().fold(stopped, after) };
                        assert_eq!(end, start, "cut after {cut} steps, and stopped after {stop} of {back:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_was_there_before_is_not_removed() {
        let start = SourceFacts { clone_active: true, ..preflight::tests::sound() };
        let steps = MySql::plan_enable(&start, &wanted());
        assert_eq!(steps.iter().map(ToString::to_string).collect::<Vec<_>>().len(), 2, "{steps:?}");
        let mut recorded = vec![];
        keep(&mut recorded, steps.iter().filter_map(|step| MySql::record(&start, step)));
        let back = MySql::plan_disable(&steps.iter().fold(start, after), &identity(), &recorded);
        assert_eq!(back, [Step::DropUser { user: "understudy_k3x9q2ab".into() }]);
    }

    #[test]
    fn gtids_stay_for_replicas_that_the_user_has_made_since() {
        let start = defaults();
        let steps = MySql::plan_enable(&start, &wanted());
        let mut recorded = vec![];
        keep(&mut recorded, steps.iter().filter_map(|step| MySql::record(&start, step)));
        let now = SourceFacts { other_replicas: 1, ..steps.iter().fold(start, after) };
        let back = MySql::plan_disable(&now, &identity(), &recorded);
        assert_eq!(back, [Step::DropUser { user: "understudy_k3x9q2ab".into() }, Step::UninstallClone]);
        let end = back.iter().fold(now, after);
        let said = MySql::kept(&end, &recorded).unwrap();
        assert!(said.contains("gtid_mode stays ON") && said.contains("RESET PERSIST IF EXISTS gtid_mode") && !said.contains("PLUGIN"), "{said}");
        assert_eq!(MySql::kept(&SourceFacts { other_replicas: 0, ..end.clone() }, &recorded), None, "then they are put back");
        assert_eq!(MySql::kept(&end, &recorded[..1]), None, "what was on before is not left behind");
    }

    #[test]
    fn a_plugin_that_cannot_be_had_is_not_asked_for_again_once_the_backup_has_begun() {
        let done = SourceFacts { user_exists: true, user_granted: true, ..preflight::tests::sound() };
        assert_eq!(MySql::plan_enable(&done, &WantedSource { prove_login: false, ..wanted() }), vec![]);
        assert!(MySql::plan_enable(&done, &wanted()).contains(&Step::InstallClone));
        assert!(MySql::expected_disruption(&done).contains("mysqldump"));
    }

    #[test]
    fn what_cannot_be_seen_is_not_taken_for_gone() {
        let blind = SourceFacts { hidden: Some("SELECT command denied (1142)".into()), clone_active: true, ..preflight::tests::sound() };
        let find = [Step::FindOwn { user: "understudy_k3x9q2ab".into() }];
        assert_eq!(MySql::plan_disable(&blind, &identity(), &[]), find);
        assert_eq!(MySql::plan_enable(&blind, &WantedSource { prove_login: false, ..wanted() }), find);
        assert!(MySql::summary(&blind).access, "no Job is made for it");
    }

    #[test]
    fn a_user_that_lost_its_privileges_gets_them_again() {
        let facts = SourceFacts { user_exists: true, user_granted: false, clone_active: true, ..preflight::tests::sound() };
        let steps = MySql::plan_enable(&facts, &WantedSource { prove_login: false, ..wanted() });
        assert_eq!(steps, [Step::CreateUser { user: "understudy_k3x9q2ab".into() }]);
    }

    #[test]
    fn positions_are_read_as_they_are_written() {
        for text in ["", "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5:7"] {
            assert_eq!(MySql::format_position(&MySql::parse_position(text).unwrap()), text);
        }
        assert_eq!(MySql::parse_position("16/2"), None);
    }
}
