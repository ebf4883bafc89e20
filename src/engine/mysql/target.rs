//! What keeps another MySQL server from serving a copy of the source's data, and following it. Pure.
//!
//! Rules are cited from the MySQL Reference Manual: "Replication Compatibility Between MySQL Versions", "Identifier Case Sensitivity", "InnoDB Startup Options".

use super::facts::SourceFacts;
use crate::engine::Finding;

/// Since when facts are read ([`super::preflight::server`] says so of the source).
const KNOWN: (u32, u32, u32) = (8, 0, 17);

/// See [`crate::engine::Engine::preflight_target`].
#[must_use]
pub fn preflight(source: &SourceFacts, target: &SourceFacts) -> Vec<Finding> {
    let mut found = Vec::new();
    let series = |facts: &SourceFacts| (facts.numbers.0, facts.numbers.1);
    if series(target) != series(source) || target.numbers < source.numbers {
        let (major, minor) = series(source);
        found.push(Finding::new(
            "TargetVersionMismatch",
            format!(
                "the target is {} and the source {}: a copy of its data runs on the same series only ({major}.{minor}), and not on an older release of it",
                target.version, source.version
            ),
            format!("make the target anew with the image of MySQL {} or a later {major}.{minor}", source.version),
        ));
    }
    if source.numbers < KNOWN || target.numbers < KNOWN {
        return found;
    }
    if target.channels > 0 {
        found.push(Finding::new(
            "TargetIsReplica",
            format!("the target is itself a replica, or was one: {} replication channel(s) are configured", target.channels),
            "name a StatefulSet that follows nobody in target.statefulSetRef, or end its replication first (STOP REPLICA, RESET REPLICA ALL)",
        ));
    }
    if let Some(why) = &target.hidden {
        found.push(Finding::new(
            "PrivilegesMissing",
            format!("whether the target is a replica cannot be seen by its user {}: {why}", target.user),
            "name root in target.credentials, or GRANT SELECT ON *.* TO that user",
        ));
    }
    found.extend(settings(source, target));
    found
}

fn argument(name: &str, value: &str) -> String {
    if value.is_empty() { format!("without --{name}") } else { format!("--{name}={value}") }
}

/// Settings that have to fit the data, and what makes it a replica.
fn settings(source: &SourceFacts, target: &SourceFacts) -> Vec<Finding> {
    let mut found = Vec::new();
    // The replica's relay log is made with the name that the source's configuration gives it; of another name it would not be found again.
    let relay_log = if source.hostname.is_empty() { source.relay_log.clone() } else { source.relay_log.replace(&source.hostname, &target.hostname) };
    let other: Vec<_> = [
        ("lower_case_table_names", source.lower_case_table_names.as_str(), &target.lower_case_table_names),
        ("innodb_page_size", &source.page_size, &target.page_size),
        ("innodb_data_file_path", &source.data_file_path, &target.data_file_path),
        ("relay_log", &relay_log, &target.relay_log),
    ]
    .into_iter()
    .filter(|(_, ours, theirs)| ours != theirs)
    .collect();
    if !other.is_empty() {
        let shown = |value: &str| if value.is_empty() { "not set".to_owned() } else { value.to_owned() };
        let each = |text: &dyn Fn(&str, &str, &str) -> String| other.iter().map(|(name, ours, theirs)| text(name, ours, theirs)).collect::<Vec<_>>();
        found.push(Finding::new(
            "TargetSettingsDiffer",
            format!(
                "{}: a server does not start on data that was made with another value",
                each(&|name, ours, theirs| format!("{name} is {} on the target and {} on the source", shown(theirs), shown(ours))).join("; ")
            ),
            format!(
                "start the target's server with the source's values ({}); one that was made with others has to be made anew",
                each(&|name, ours, _| argument(&name.replace('_', "-"), ours)).join(" ")
            ),
        ));
    }
    if !target.persisted_load {
        found.push(Finding::new(
            "PersistedSettingsIgnored",
            "persisted_globals_load is OFF on the target: as a replica it would not read what makes it read-only",
            "take persisted-globals-load out of the target's configuration and restart it",
        ));
    }
    // The copy's server would take what the target's old log has as its own transactions.
    let outside: Vec<&str> = target.outside.iter().chain(&target.log_outside).map(String::as_str).collect();
    if !outside.is_empty() {
        found.push(Finding::new(
            "DataOutsideDirectory",
            format!("the target keeps data outside {}, which alone is replaced: {}", target.data_directory, outside.join(", ")),
            "take settings of other directories out of the target's configuration and restart it, and drop tables whose files lie elsewhere",
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::preflight::tests::sound;
    use super::*;

    fn server() -> SourceFacts {
        SourceFacts {
            lower_case_table_names: "0".into(),
            page_size: "16384".into(),
            data_file_path: "ibdata1:12M:autoextend".into(),
            hostname: "orders-db-0".into(),
            ..sound()
        }
    }

    fn target() -> SourceFacts {
        SourceFacts { hostname: "reports-db-0".into(), ..server() }
    }

    fn reasons(source: &SourceFacts, target: &SourceFacts) -> Vec<&'static str> {
        preflight(source, target).iter().map(|finding| finding.reason).collect()
    }

    #[test]
    fn two_servers_with_the_official_images_defaults_fit() {
        assert_eq!(preflight(&server(), &target()), []);
        // A replica needs neither, and an id of its own is given to it.
        assert_eq!(preflight(&server(), &SourceFacts { log_bin: false, read_only: true, server_id: 7, ..target() }), []);
    }

    #[test]
    fn every_finding_is_reported_at_once_with_its_remedy() {
        let target = SourceFacts {
            version: "9.7.3".into(),
            numbers: (9, 7, 3),
            channels: 1,
            hidden: Some("SELECT command denied (1142)".into()),
            lower_case_table_names: "1".into(),
            persisted_load: false,
            outside: vec!["innodb_undo_directory = /undo".into()],
            log_outside: Some("log_bin_basename = /binlogs/binlog".into()),
            ..target()
        };
        let found = preflight(&server(), &target);
        let reasons: Vec<_> = found.iter().map(|finding| finding.reason).collect();
        let wanted =
            ["TargetVersionMismatch", "TargetIsReplica", "PrivilegesMissing", "TargetSettingsDiffer", "PersistedSettingsIgnored", "DataOutsideDirectory"];
        assert_eq!(reasons, wanted);
        assert!(found.iter().all(|finding| !finding.remedy.is_empty() && !finding.lasting));
        assert!(found[0].message.contains("9.7.3") && found[0].message.contains("9.7.4"), "{found:?}");
        assert!(found[3].message.starts_with("lower_case_table_names is 1 on the target and 0 on the source"), "{found:?}");
        assert!(found[3].remedy.contains("--lower-case-table-names=0"), "{found:?}");
        assert!(found[5].message.contains("/undo, log_bin_basename = /binlogs/binlog"), "{found:?}");
    }

    #[test]
    fn versions_are_of_one_series_and_the_target_is_not_older() {
        for (source, target, fits) in [
            ((8, 0, 37), (8, 0, 37), true),
            ((8, 0, 37), (8, 0, 40), true),
            ((8, 0, 37), (8, 0, 36), false),
            ((8, 0, 37), (8, 4, 0), false),
            ((8, 4, 5), (8, 0, 40), false),
            ((9, 7, 0), (9, 7, 4), true),
            ((9, 6, 0), (9, 7, 0), false),
            ((9, 7, 4), (0, 0, 0), false),
        ] {
            let of = |numbers, facts| SourceFacts { numbers, ..facts };
            let found = reasons(&of(source, server()), &of(target, self::target()));
            assert_eq!(found, if fits { vec![] } else { vec!["TargetVersionMismatch"] }, "{source:?} {target:?}");
        }
    }

    #[test]
    fn of_a_server_that_is_too_old_nothing_else_is_said() {
        let old = SourceFacts { version: "11.8.1-MariaDB".into(), ..SourceFacts::default() };
        assert_eq!(reasons(&server(), &old), ["TargetVersionMismatch"]);
        assert_eq!(reasons(&old, &old), Vec::<&str>::new(), "it is the source's preflight that says so");
    }

    #[test]
    fn settings_that_the_data_was_made_with_are_the_same() {
        let changes: [fn(&mut SourceFacts); 4] = [
            |facts| facts.lower_case_table_names = "1".into(),
            |facts| facts.page_size = "4096".into(),
            |facts| facts.data_file_path = "ibdata1:1G".into(),
            |facts| facts.relay_log = "relay".into(),
        ];
        for change in changes {
            let (mut ours, mut theirs) = (server(), target());
            change(&mut ours);
            assert_eq!(reasons(&ours, &theirs), ["TargetSettingsDiffer"]);
            change(&mut theirs);
            assert_eq!(reasons(&ours, &theirs), Vec::<&str>::new());
            assert_eq!(reasons(&server(), &theirs), ["TargetSettingsDiffer"]);
        }
        let named = |host: &str, log: &str| SourceFacts { hostname: host.into(), relay_log: log.into(), ..server() };
        assert_eq!(reasons(&named("a-0", "/logs/a-0-relay"), &named("b-0", "/logs/b-0-relay")), Vec::<&str>::new(), "each has the name of its own host in it");
        let found = preflight(&server(), &named("b-0", "relay"));
        assert!(found[0].message.contains("relay_log is relay on the target and not set on the source"), "{found:?}");
        assert!(found[0].remedy.contains("(without --relay-log)"), "{found:?}");
    }
}
