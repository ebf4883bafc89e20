//! Everything that keeps a MySQL source from getting replicas. Pure.

use k8s_openapi::api::core::v1::Container;

use super::facts::SourceFacts;
use crate::engine::Finding;
use crate::resources::Shape;

/// What our steps need on the server, and whether it has to be granted on: by its name in `SHOW GRANTS`, and another one that includes it.
const PRIVILEGES: [(&str, bool, Option<&str>); 12] = [
    ("SELECT", false, None),
    ("INSERT", false, None),
    ("DELETE", false, None),
    ("RELOAD", false, None),
    ("PROCESS", false, None),
    ("CREATE USER", false, None),
    ("REPLICATION CLIENT", false, None),
    ("REPLICATION SLAVE", true, None),
    ("BACKUP_ADMIN", true, None),
    ("SYSTEM_VARIABLES_ADMIN", false, Some("SUPER")),
    // To put back what was persisted, and to end connections of our user.
    ("PERSIST_RO_VARIABLES_ADMIN", false, None),
    ("CONNECTION_ADMIN", false, Some("SUPER")),
];

/// What mysqldump needs besides: it leaves out triggers that it may not see, without a word.
const DUMP: [(&str, bool, Option<&str>); 3] = [("SHOW VIEW", false, None), ("TRIGGER", false, None), ("EVENT", false, None)];

/// What it takes to see everything that users made: whatever the user has no privilege on is left out of the `information_schema` without a word.
const LOOK: [(&str, bool, Option<&str>); 3] = [("SELECT", false, None), ("EVENT", false, None), ("PROCESS", false, None)];

fn lacking(facts: &SourceFacts) -> Vec<&'static str> {
    missing(&facts.privileges, &PRIVILEGES)
}

/// The privileges that this user lacks for mysqldump.
#[must_use]
pub fn lacking_for_dump(facts: &SourceFacts) -> Vec<&'static str> {
    missing(&facts.privileges, &DUMP)
}

/// What of these privileges lacks for seeing everything that users made.
#[must_use]
pub fn lacking_to_look(privileges: &[String]) -> Vec<&'static str> {
    missing(privileges, &LOOK)
}

fn missing(privileges: &[String], needed: &[(&'static str, bool, Option<&str>)]) -> Vec<&'static str> {
    let has =
        |name: &str, grant: bool| privileges.iter().any(|held| if grant { held.strip_suffix(" *") == Some(name) } else { held.trim_end_matches(" *") == name });
    let everything = has("ALL PRIVILEGES", true);
    let missing = |(name, grant, other): &&(&'static str, bool, Option<&str>)| !has(name, *grant) && !other.is_some_and(|other| has(other, false));
    needed.iter().filter(|_| !everything).filter(missing).map(|(name, _, _)| *name).collect()
}

/// See [`crate::engine::Engine::preflight`].
#[must_use]
pub fn server(facts: &SourceFacts) -> Vec<Finding> {
    if facts.numbers < (8, 0, 17) {
        // Of an older one, or of another make, nothing else was read.
        return vec![Finding::new(
            "VersionTooOld",
            format!("the server is {}, and CLONE, which makes the copy, exists in MySQL 8.0.17 and later", facts.version),
            "upgrade the source to MySQL 8.0.17 or later (MariaDB is not supported)",
        )];
    }
    let mut found = settings(facts);
    let lacking = lacking(facts);
    if !lacking.is_empty() {
        found.push(Finding::new(
            "PrivilegesMissing",
            format!("the user {} lacks on *.*: {}", facts.user, lacking.join(", ")),
            format!("name root in source.credentials, or GRANT {} ON *.* TO that user WITH GRANT OPTION", lacking.join(", ")),
        ));
    }
    found.extend(data(facts));
    found
}

/// What the server's settings and connections rule out.
fn settings(facts: &SourceFacts) -> Vec<Finding> {
    let mut found = Vec::new();
    if facts.channels > 0 {
        found.push(Finding::new(
            "SourceIsReplica",
            format!("the source is itself a replica, or was one: {} replication channel(s) are configured", facts.channels),
            "name the StatefulSet of its source in source.statefulSetRef, or run RESET REPLICA ALL if it is no replica any more",
        ));
    }
    if facts.read_only {
        found.push(Finding::new(
            "SourceReadOnly",
            "the source takes no writes (read_only or super_read_only is ON)",
            "SET PERSIST super_read_only = OFF, read_only = OFF",
        ));
    }
    if !facts.log_bin {
        found.push(Finding::new(
            "BinaryLogOff",
            "the source writes no binary log, and it cannot be switched on while the server runs",
            "take skip-log-bin or disable-log-bin out of the source's configuration (it is on by default) and restart it",
        ));
    } else if facts.binlog_format != "ROW" {
        found.push(Finding::new(
            "BinlogFormatNotRow",
            format!("binlog_format is {}: what a statement does on a replica may differ from what it did on the source", facts.binlog_format),
            "SET PERSIST binlog_format = 'ROW', and let the application connect anew",
        ));
    }
    if !facts.binlog_filters.is_empty() {
        found.push(Finding::new(
            "BinaryLogFiltered",
            format!("the binary log does not hold everything: {}", facts.binlog_filters),
            "take binlog-do-db and binlog-ignore-db out of the source's configuration and restart it",
        ));
    }
    if facts.other_replicas > 0 && facts.gtid_mode.value != "ON" {
        found.push(Finding::new(
            "OtherReplicas",
            format!(
                "gtid_mode is {} and {} replica(s) of yours, or readers of the binary log, are connected: one without GTIDs would stop when they are switched on",
                facts.gtid_mode.value, facts.other_replicas
            ),
            "switch GTIDs on yourself, on the replicas first (manual, \"Enabling GTID Transactions Online\"), or disconnect them",
        ));
    }
    if !facts.persisted_load {
        found.push(Finding::new(
            "PersistedSettingsIgnored",
            "persisted_globals_load is OFF: a replica would not read what makes it read-only",
            "take persisted-globals-load out of the source's configuration and restart it",
        ));
    }
    found
}

/// What can't be copied.
pub fn data(facts: &SourceFacts) -> Vec<Finding> {
    let mut found = Vec::new();
    if facts.other_tables_count > 0 {
        let rest = facts.other_tables_count.saturating_sub(u32::try_from(facts.other_tables.len()).unwrap_or(u32::MAX));
        let more = if rest == 0 { String::new() } else { format!(" and {rest} more") };
        found.push(Finding::new(
            "NotInnoDb",
            format!("{} table(s) are not InnoDB, and would be copied empty: {}{more}", facts.other_tables_count, facts.other_tables.join(", ")),
            "ALTER TABLE … ENGINE = InnoDB for each, or drop them",
        ));
    }
    if !facts.outside.is_empty() {
        found.push(Finding::new(
            "DataOutsideDirectory",
            format!("data lies outside {}: {}", facts.data_directory, facts.outside.join(", ")),
            "tablespaces, undo, redo and relay logs elsewhere are not supported by this version: move them into the data directory",
        ));
    }
    if facts.encrypted_tablespaces > 0 {
        found.push(Finding::new(
            "DataEncrypted",
            format!("{} tablespace(s) are encrypted, and a replica would need the source's keyring", facts.encrypted_tablespaces),
            "encrypted tablespaces are not supported by this version: ALTER … ENCRYPTION = 'N', or encrypt the volume instead",
        ));
    }
    found
}

/// All words of a container's command and arguments.
fn words(container: &Container) -> impl Iterator<Item = &str> {
    let all = container.command.iter().flatten().chain(container.args.iter().flatten());
    all.flat_map(|text| text.split(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ';')))
}

/// See [`crate::engine::Engine::preflight_shape`].
#[must_use]
pub fn shape(shape: &Shape) -> Vec<Finding> {
    let mut found = Vec::new();
    let ignores = |word: &&str| *word == "--no-defaults" || word.replace('_', "-").contains("persisted-globals-load");
    if let Some(word) = words(&shape.container).find(ignores) {
        found.push(Finding::new(
            "PersistedSettingsIgnored",
            format!("container {} starts its server with {word}: a replica would not read what makes it read-only", shape.container.name),
            "take it out of the source's command; for settings of your own, mount a file below /etc/mysql/conf.d or name one in --defaults-file",
        ));
    }
    let pod = shape.template.spec.clone().unwrap_or_default();
    if pod.host_network == Some(true) || pod.set_hostname_as_fqdn == Some(true) {
        found.push(Finding::new(
            "HostNameNotOwn",
            "the source's pod has the host name of its node, or one with dots (hostNetwork, setHostnameAsFQDN): a replica names its relay log after it",
            "take it out of the source's pod template",
        ));
    }
    found
}

/// The arguments of a container to which one of mysqld's may be added; none where a script or something unknown reads them.
pub fn server_arguments(container: &mut Container) -> Option<&mut Vec<String>> {
    let is_server = |word: &str| word.rsplit('/').next() == Some("mysqld");
    let commanded =
        container.command.as_ref().filter(|command| !command.is_empty()).map(|command| command.iter().any(|word| is_server(word)) && is_server(&command[0]));
    let first = container.args.iter().flatten().next();
    let plain = match (commanded, first) {
        (Some(server), _) => server,
        // The official image's entrypoint takes options, or mysqld and options. Without any, another image may do something else with one.
        (None, first) => first.is_some_and(|first| is_server(first) || first.starts_with("--")),
    };
    plain.then(|| container.args.get_or_insert_default())
}

#[cfg(test)]
pub mod tests {
    use super::super::facts::Persisted;
    use super::*;
    use serde_json::json;

    /// A source of 9.7, with the defaults of the official image.
    pub fn sound() -> SourceFacts {
        let on = || Persisted { value: "ON".into(), persisted: None };
        SourceFacts {
            version: "9.7.4".into(),
            numbers: (9, 7, 4),
            user: "root@%".into(),
            privileges: PRIVILEGES.iter().map(|(name, _, _)| format!("{name} *")).collect(),
            log_bin: true,
            binlog_format: "ROW".into(),
            gtid_mode: on(),
            enforce: on(),
            persisted_load: true,
            data_directory: "/var/lib/mysql".into(),
            ..SourceFacts::default()
        }
    }

    #[test]
    fn the_official_images_defaults_have_no_finding() {
        assert_eq!(server(&sound()), vec![]);
    }

    #[test]
    fn every_finding_is_reported_at_once_with_its_remedy() {
        let facts = SourceFacts {
            channels: 1,
            read_only: true,
            log_bin: false,
            binlog_filters: "binlog-ignore-db: audit".into(),
            gtid_mode: Persisted { value: "OFF".into(), persisted: None },
            other_replicas: 2,
            persisted_load: false,
            privileges: vec!["SELECT".into()],
            other_tables: vec!["shop.log (MyISAM)".into()],
            other_tables_count: 12,
            outside: vec!["/mnt/fast/orders.ibd".into()],
            encrypted_tablespaces: 1,
            ..sound()
        };
        let found = server(&facts);
        let reasons: Vec<_> = found.iter().map(|finding| finding.reason).collect();
        assert_eq!(
            reasons,
            [
                "SourceIsReplica",
                "SourceReadOnly",
                "BinaryLogOff",
                "BinaryLogFiltered",
                "OtherReplicas",
                "PersistedSettingsIgnored",
                "PrivilegesMissing",
                "NotInnoDb",
                "DataOutsideDirectory",
                "DataEncrypted"
            ]
        );
        assert!(found.iter().all(|finding| !finding.remedy.is_empty()));
        assert!(found[7].message.contains("shop.log (MyISAM) and 11 more"), "{}", found[7].message);
        let statement = server(&SourceFacts { binlog_format: "MIXED".into(), ..sound() });
        assert_eq!(statement.first().map(|finding| finding.reason), Some("BinlogFormatNotRow"));
    }

    #[test]
    fn of_a_server_that_is_too_old_nothing_else_is_said() {
        for numbers in [(5, 7, 44), (8, 0, 16), (0, 0, 0)] {
            let found = server(&SourceFacts { version: "old".into(), numbers, ..SourceFacts::default() });
            assert_eq!(found.iter().map(|finding| finding.reason).collect::<Vec<_>>(), ["VersionTooOld"]);
        }
    }

    #[test]
    fn privileges_that_are_to_be_granted_on_need_the_option() {
        let mut facts = sound();
        facts.privileges = PRIVILEGES.iter().map(|(name, _, _)| (*name).to_owned()).collect();
        assert_eq!(lacking(&facts), ["REPLICATION SLAVE", "BACKUP_ADMIN"]);
        assert_eq!(lacking_for_dump(&facts), ["SHOW VIEW", "TRIGGER", "EVENT"]);
        facts.privileges = vec!["ALL PRIVILEGES *".into()];
        assert!(lacking(&facts).is_empty() && lacking_for_dump(&facts).is_empty() && lacking_to_look(&facts.privileges).is_empty());
        assert_eq!(lacking_to_look(&["SELECT".into(), "EVENT *".into()]), ["PROCESS"]);
        facts.privileges = sound().privileges.into_iter().filter(|held| !held.starts_with("SYSTEM")).chain(["SUPER".into()]).collect();
        assert!(lacking(&facts).is_empty());
    }

    fn container(command: &[&str], arguments: &[&str]) -> Container {
        let list = |words: &[&str]| (!words.is_empty()).then(|| words.iter().map(|word| (*word).to_owned()).collect());
        Container { name: "db".into(), command: list(command), args: list(arguments), ..Container::default() }
    }

    #[test]
    fn a_server_that_ignores_what_is_persisted_is_a_finding() {
        let reasons = |command: &[&str], arguments: &[&str], pod: serde_json::Value| {
            let template = serde_json::from_value(json!({"spec": pod})).unwrap();
            let shape_of = Shape {
                template,
                container: container(command, arguments),
                mount: k8s_openapi::api::core::v1::VolumeMount::default(),
                claim: None,
                data_directory: "/d".into(),
            };
            shape(&shape_of).iter().map(|finding| finding.reason).collect::<Vec<_>>()
        };
        let plain = json!({"containers": []});
        assert!(reasons(&[], &["--character-set-server=utf8mb4"], plain.clone()).is_empty());
        assert_eq!(reasons(&["sh", "-c", "exec mysqld --no-defaults --port=3306"], &[], plain.clone()), ["PersistedSettingsIgnored"]);
        assert_eq!(reasons(&[], &["--persisted_globals_load=OFF"], plain), ["PersistedSettingsIgnored"]);
        assert_eq!(reasons(&[], &[], json!({"containers": [], "hostNetwork": true})), ["HostNameNotOwn"]);
    }

    #[test]
    fn arguments_are_added_only_where_the_server_reads_them() {
        let adapted = |command: &[&str], arguments: &[&str]| server_arguments(&mut container(command, arguments)).is_some();
        assert!(adapted(&[], &["--port=3307"]) && adapted(&[], &["mysqld"]) && adapted(&["/usr/sbin/mysqld"], &[]));
        assert!(!adapted(&[], &[]) && !adapted(&["sh", "-c"], &["mysqld"]) && !adapted(&["/opt/run.sh"], &["--port=1"]));
    }
}
