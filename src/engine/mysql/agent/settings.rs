//! What a server on a copy has to agree on with its source, and what makes a replica of it.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::Path;

use super::super::SourceFacts;
use super::super::session::literal;
use crate::agent::{AgentError, Restore};

/// Kept beside the data: the Job that restores it does not ask the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// Numbers of the version.
    pub version: (u32, u32, u32),
    /// `basedir`.
    pub base_directory: String,
    /// `lower_case_table_names`.
    pub lower_case_table_names: String,
    /// `innodb_page_size`.
    pub page_size: String,
    /// `innodb_data_file_path`.
    pub data_file_path: String,
    /// `server_id` of the source.
    pub server_id: u32,
    /// `relay_log` where the source's configuration sets it, and with it that of the replica.
    pub relay_log: String,
    /// `hostname` of the source.
    pub hostname: String,
    /// Connections to the source can be encrypted.
    pub encrypted: bool,
}

impl Settings {
    /// From what was read of the source.
    pub fn of(facts: &SourceFacts) -> Self {
        Self {
            version: facts.numbers,
            base_directory: facts.base_directory.clone(),
            lower_case_table_names: facts.lower_case_table_names.clone(),
            page_size: facts.page_size.clone(),
            data_file_path: facts.data_file_path.clone(),
            server_id: facts.server_id,
            relay_log: facts.relay_log.clone(),
            hostname: facts.hostname.clone(),
            encrypted: facts.encrypted,
        }
    }

    pub fn read(path: &Path) -> Result<Self, AgentError> {
        let text = fs::read(path).map_err(AgentError::file("reading", path))?;
        serde_json::from_slice(&text).map_err(|error| AgentError::Refused(format!("{}: {error}", path.display())))
    }

    pub fn to_json(&self) -> Result<Vec<u8>, AgentError> {
        serde_json::to_vec_pretty(self).map_err(|error| AgentError::Refused(error.to_string()))
    }

    /// The `server_id` of a replica: the same for ever, and not the source's, which would refuse to connect to it (13117).
    pub fn replica_id(&self, request: &Restore) -> u32 {
        let digest = Sha256::digest(format!("{}-{}", request.identity.role(), request.replica));
        let number = digest.iter().take(4).fold(0, |number: u32, byte| (number << 8) | u32::from(*byte));
        [number, 1_000_001, 1_000_002].into_iter().find(|id| *id != 0 && *id != self.server_id).unwrap_or(1_000_001)
    }

    /// The name of the replica's relay log. Unless it is set, a server takes the name of its host, that of the only pod of its StatefulSet. Files of another
    /// name would not be found again (1872), and this is no setting that can be persisted.
    pub fn relay_log(&self, replica: &str) -> String {
        let host = format!("{replica}-0");
        if self.relay_log.is_empty() {
            return format!("{host}-relay-bin");
        }
        if self.hostname.is_empty() { self.relay_log.clone() } else { self.relay_log.replace(&self.hostname, &host) }
    }
}

/// The statements that make a replica of a copy, executed by a server without a network, and whether one may fail since its version does not know it.
///
/// What is persisted is read at every start of the replica's own server, and wins over its configuration files and its command line.
pub fn replica_statements(request: &Restore, settings: &Settings, password: &str) -> Vec<(String, bool)> {
    let mut change = vec![
        ("SOURCE_HOST", literal(&request.primary_host)),
        ("SOURCE_PORT", request.primary_port.to_string()),
        ("SOURCE_USER", literal(&request.identity.role())),
        ("SOURCE_PASSWORD", literal(password)),
        ("SOURCE_AUTO_POSITION", "1".to_owned()),
        ("SOURCE_CONNECT_RETRY", "5".to_owned()),
        // For years: the default gives up.
        ("SOURCE_RETRY_COUNT", "1000000000".to_owned()),
    ];
    // Without either, a login fails (2061) whenever the source has forgotten it.
    change.extend(if settings.encrypted {
        vec![("SOURCE_SSL", "1".to_owned())]
    } else {
        vec![("SOURCE_SSL", "0".to_owned()), ("GET_SOURCE_PUBLIC_KEY", "1".to_owned())]
    });
    let change = change.iter().map(|(name, value)| format!("{name} = {value}")).collect::<Vec<_>>().join(", ");
    let old = settings.version < (8, 0, 23);
    let (reset, change) = if old {
        ("RESET SLAVE ALL".to_owned(), format!("CHANGE MASTER TO {}", change.replace("SOURCE_", "MASTER_")))
    } else {
        ("RESET REPLICA ALL".to_owned(), format!("CHANGE REPLICATION SOURCE TO {change}"))
    };
    let id = settings.replica_id(request);
    let mut statements = vec![
        ("SET PERSIST super_read_only = ON".to_owned(), false),
        ("SET PERSIST read_only = ON".to_owned(), false),
        (format!("SET PERSIST server_id = {id}"), false),
    ];
    statements.extend(AT_START.map(|(name, value)| (format!("SET PERSIST_ONLY {name} = {value}"), name == "skip_replica_start")));
    // A copy of a replica has its source's channel.
    statements.extend([(reset, false), (change, false)]);
    statements
}

/// What is persisted for the start of the replica's own server. What the source persisted does not come along with its data.
const AT_START: [(&str, &str); 6] = [
    ("enforce_gtid_consistency", "ON"),
    ("gtid_mode", "ON"),
    // A relay log that was cut off is fetched again.
    (LAST, "ON"),
    ("skip_replica_start", "OFF"),
    // Killed with less than this, a server may hold that it has applied what its tables have lost, and nobody would notice.
    ("innodb_flush_log_at_trx_commit", "1"),
    ("sync_binlog", "1"),
];

/// The one of these that nobody persists on a server that follows nobody.
pub const LAST: &str = "relay_log_recovery";

/// Whether a variable that is persisted is so because the restore has done it, or was given another value since. Whether a server is read-only, and its number,
/// is ours in any case.
pub fn persists(name: &str, value: &str) -> bool {
    let ours = |set: &(&str, &str)| set.0 == name && set.1.eq_ignore_ascii_case(value);
    matches!(name, "super_read_only" | "read_only" | "server_id") || AT_START.iter().chain(&FIRST).any(ours)
}

/// What a server has to know before it does anything. Persisted as other variables are, it would know only once its events have begun to run: in that
/// moment an event of the source's was seen to write on a replica.
const FIRST: [(&str, &str); 3] = [("super_read_only", "ON"), ("read_only", "ON"), ("event_scheduler", "OFF")];

/// `mysqld-auto.cnf` with [`FIRST`] among the variables that the server reads as arguments of its command line; `relay_log_recovery` is always one of those.
/// None where it is not found.
pub fn known_first(mut tree: serde_json::Value) -> Option<serde_json::Value> {
    fn arguments(tree: &mut serde_json::Value) -> Option<&mut serde_json::Map<String, serde_json::Value>> {
        let object = tree.as_object_mut()?;
        if object.get(LAST).is_some_and(|variable| variable.get("Value").is_some()) {
            return Some(object);
        }
        object.values_mut().find_map(arguments)
    }
    let found = arguments(&mut tree)?;
    let model = found.get(LAST)?.clone();
    for (name, value) in FIRST {
        let mut variable = model.clone();
        variable.as_object_mut()?.insert("Value".to_owned(), value.into());
        found.insert(name.to_owned(), variable);
    }
    Some(tree)
}

/// The value of a variable in `mysqld-auto.cnf`, wherever its version puts it.
pub fn persisted<'a>(tree: &'a serde_json::Value, name: &str) -> Option<&'a str> {
    let object = tree.as_object()?;
    let here = object.get(name).and_then(|variable| variable.get("Value")).and_then(serde_json::Value::as_str);
    here.or_else(|| object.values().find_map(|inner| persisted(inner, name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::EngineKind;
    use crate::engine::Identity;

    fn request() -> Restore {
        Restore {
            common: crate::agent::Common { engine: EngineKind::MySQL, termination_message: "none".into() },
            volume: "backup".into(),
            directory: "k3x9q2ab-1".into(),
            data_directory: "/var/lib/mysql".into(),
            final_directory: None,
            identity: Identity::parse("k3x9q2ab").unwrap(),
            replica: 1,
            name: "orders-replica-1".into(),
            primary_host: "orders-primary.shop.svc".into(),
            primary_port: 3306,
        }
    }

    fn settings() -> Settings {
        Settings::of(&SourceFacts { numbers: (9, 7, 4), server_id: 1, encrypted: true, hostname: "orders-db-0".into(), ..SourceFacts::default() })
    }

    #[test]
    fn ids_of_replicas_differ_from_the_sources_and_from_each_other() {
        let first = settings().replica_id(&request());
        let second = settings().replica_id(&Restore { replica: 2, ..request() });
        assert!(first != second && first != 0);
        let collides = Settings { server_id: first, ..settings() };
        assert_ne!(collides.replica_id(&request()), first);
    }

    #[test]
    fn the_relay_log_has_the_name_that_the_replicas_server_will_look_for() {
        assert_eq!(settings().relay_log("orders-replica-1"), "orders-replica-1-0-relay-bin");
        let set = |name: &str| Settings { relay_log: name.into(), ..settings() }.relay_log("orders-replica-1");
        assert_eq!(set("relay"), "relay");
        assert_eq!(set("orders-db-0-relay"), "orders-replica-1-0-relay");
    }

    #[test]
    fn a_replica_is_read_only_before_it_knows_its_source() {
        let statements = |settings: &Settings| replica_statements(&request(), settings, r"it's\").into_iter().map(|(sql, _)| sql).collect::<Vec<_>>();
        let new = statements(&settings());
        assert!(new[0].contains("super_read_only = ON"), "{new:?}");
        let change = new.last().unwrap();
        assert!(change.starts_with("CHANGE REPLICATION SOURCE TO SOURCE_HOST = 'orders-primary.shop.svc', SOURCE_PORT = 3306"), "{change}");
        assert!(change.contains(r"SOURCE_PASSWORD = 'it\'s\\'") && change.ends_with("SOURCE_SSL = 1"), "{change}");
        let plain = statements(&Settings { encrypted: false, version: (8, 0, 20), ..settings() });
        assert!(plain.last().unwrap().ends_with("GET_MASTER_PUBLIC_KEY = 1") && plain.contains(&"RESET SLAVE ALL".to_owned()), "{plain:?}");
        assert!(!plain.last().unwrap().contains("SOURCE"), "{plain:?}");
    }

    #[test]
    fn what_is_to_be_known_first_stands_among_the_arguments() {
        let text = r#"{"Version": 2, "mysql_static_variables": {"relay_log_recovery": {"Value": "ON", "Metadata": {"User": "root"}}},
            "mysql_dynamic_variables": {"super_read_only": {"Value": "ON"}}}"#;
        let tree = known_first(serde_json::from_str(text).unwrap()).unwrap();
        let found = &tree["mysql_static_variables"];
        assert_eq!(found["event_scheduler"], serde_json::json!({"Value": "OFF", "Metadata": {"User": "root"}}));
        assert_eq!((&found["super_read_only"]["Value"], &found["relay_log_recovery"]["Value"]), (&"ON".into(), &"ON".into()));
        let old = r#"{"Version": 1, "mysql_server": {"server_id": {"Value": "7"}, "mysql_server_static_options": {"relay_log_recovery": {"Value": "ON"}}}}"#;
        let tree = known_first(serde_json::from_str(old).unwrap()).unwrap();
        assert_eq!(tree["mysql_server"]["mysql_server_static_options"]["read_only"]["Value"], "ON");
        assert_eq!(known_first(serde_json::json!({"Version": 3})), None);
    }

    #[test]
    fn settings_are_read_as_they_are_written() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("settings.json");
        fs::write(&path, settings().to_json().unwrap()).unwrap();
        assert_eq!(Settings::read(&path).unwrap(), settings());
    }
}
