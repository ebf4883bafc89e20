//! What is read from a MySQL source.

use crate::engine::Position;

/// A variable that is changed here: its value, and what `mysqld-auto.cnf` says of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Persisted {
    /// `@@GLOBAL`.
    pub value: String,
    /// `performance_schema.persisted_variables`, if it stands there.
    pub persisted: Option<String>,
}

/// Everything that planning needs of a source.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct SourceFacts {
    /// `VERSION()`, for example `9.7.4`.
    pub version: String,
    /// Its numbers, for example (9, 7, 4); of another make of server, all 0.
    pub numbers: (u32, u32, u32),
    /// `server_uuid`.
    pub server_uuid: String,
    /// `server_id`.
    pub server_id: u32,
    /// `datadir`, without a slash at its end.
    pub data_directory: String,
    /// `basedir`: the server's programs are below it.
    pub base_directory: String,
    /// The name of this session's user (`CURRENT_USER()`).
    pub user: String,
    /// The privileges of this session's user on everything (`SHOW GRANTS`), in capitals; with ` *` at the end where it may grant them.
    pub privileges: Vec<String>,
    /// `log_bin`.
    pub log_bin: bool,
    /// `binlog_format`.
    pub binlog_format: String,
    /// `Binlog_Do_DB` and `Binlog_Ignore_DB`: what keeps databases out of the binary log.
    pub binlog_filters: String,
    /// `gtid_mode`.
    pub gtid_mode: Persisted,
    /// `enforce_gtid_consistency`.
    pub enforce: Persisted,
    /// `persisted_globals_load`.
    pub persisted_load: bool,
    /// `super_read_only` or `read_only`.
    pub read_only: bool,
    /// `gtid_executed`.
    pub position: Position,
    /// `gtid_purged`.
    pub purged: Position,
    /// Channels on which it is a replica itself.
    pub channels: u32,
    /// Replicas that are connected and not ours (`Binlog Dump` threads).
    pub other_replicas: u32,
    /// The clone plugin is active.
    pub clone_active: bool,
    /// Libraries of the active plugins that have one.
    pub plugin_libraries: Vec<String>,
    /// `lower_case_table_names`.
    pub lower_case_table_names: String,
    /// `innodb_page_size`.
    pub page_size: String,
    /// `innodb_data_file_path`.
    pub data_file_path: String,
    /// `relay_log` where it was set; empty where its name comes from the host's.
    pub relay_log: String,
    /// `hostname`.
    pub hostname: String,
    /// This session is encrypted: replicas can be, too.
    pub encrypted: bool,
    /// Why connections, persisted settings or our user could not be seen, in the server's words: then nothing that is missing here is known to be gone.
    pub hidden: Option<String>,
    /// Our user exists.
    pub user_exists: bool,
    /// It has the privileges that it needs.
    pub user_granted: bool,
    /// It has a password and is not locked.
    pub user_access: bool,
    /// Connections of our user.
    pub connections: u32,
    /// Bytes sent to a server that clones this one as our user.
    pub clone_sent: Option<u64>,
    /// User tables that are not InnoDB, as `database.table (engine)`, the first of them; looked for only as long as there is no user of ours.
    pub other_tables: Vec<String>,
    /// How many there are in all.
    pub other_tables_count: u32,
    /// What of the data lies outside the data directory; looked for only as long as there is no user of ours.
    pub outside: Vec<String>,
    /// Where the binary log lies, if not in the data directory; looked for as long.
    pub log_outside: Option<String>,
    /// How many encrypted tablespaces there are; looked for only as long as there is no user of ours.
    pub encrypted_tablespaces: u32,
}
