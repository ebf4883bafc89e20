//! What is read from a PostgreSQL source.

use crate::engine::{Position, Progress};

/// Everything that planning needs of a source.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct SourceFacts {
    /// `server_version_num`, for example 170012.
    pub version_num: u32,
    /// `server_version`, for example `17.12 (Debian 17.12-1)`.
    pub version: String,
    /// `system_identifier` of `pg_control_system()`; empty without the privilege to read it.
    pub system: String,
    /// The user of this session is a superuser.
    pub superuser: bool,
    /// The name of this session's user.
    pub user: String,
    /// The server itself is a standby (`pg_is_in_recovery`).
    pub in_recovery: bool,
    /// `wal_level`.
    pub wal_level: String,
    /// `max_wal_senders`, and how many are in use.
    pub wal_senders: (u32, u32),
    /// `max_replication_slots`, and how many exist.
    pub replication_slots: (u32, u32),
    /// `max_slot_wal_keep_size` in MB; -1 is without limit.
    pub slot_wal_keep_mb: i64,
    /// Where that value comes from (`pg_settings.source`): `default`, `configuration file`, `command line` …
    pub slot_wal_keep_source: String,
    /// The text of that value in `postgresql.auto.conf` (`pg_file_settings`), if it stands there.
    pub slot_wal_keep_auto_conf: Option<String>,
    /// The value in force was read from `postgresql.auto.conf` (`pg_settings.sourcefile`); the file may have changed since.
    pub slot_wal_keep_from_auto_conf: bool,
    /// What a standby may not have lower, or otherwise, than its primary (manual, "Hot Standby").
    pub standby_settings: Vec<SettingFacts>,
    /// `data_directory`.
    pub data_directory: String,
    /// `config_file`; empty without the privilege to read it.
    pub config_file: String,
    /// Which of `postgresql.conf` and `pg_hba.conf` lie in the data directory, whether or not the server reads them there.
    pub own_files: Vec<String>,
    /// `hba_file`.
    pub hba_file: String,
    /// The server process can write `hba_file`.
    pub hba_writable: bool,
    /// Rules of pg_hba.conf as they stand in the file now, in order; empty without the privilege to read them.
    pub hba_rules: Vec<HbaRule>,
    /// Our tagged line stands in the file.
    pub hba_line_present: bool,
    /// Numeric user and group of the server process, from `/proc/self/status`.
    pub owner: (u32, u32),
    /// Directories outside the data directory that hold data: tablespaces, and the log where `pg_wal` is a link.
    pub outside: Vec<String>,
    /// `pg_current_wal_insert_lsn()`, or on a standby the last position replayed.
    pub position: Position,
    /// Start of the oldest segment in `pg_wal`.
    pub oldest_wal: Position,
    /// `pg_stat_progress_basebackup`: bytes streamed, and the total where known, of a backup by our role.
    pub backup_progress: Option<Progress>,
    /// Our role exists.
    pub role_exists: bool,
    /// It has a password; false as well without the privilege to tell.
    pub role_has_password: bool,
    /// Slots of ours.
    pub slots: Vec<SlotFacts>,
    /// Connections of our role that stream or copy (`pg_stat_activity` by user name).
    pub connections: u32,
}

/// A setting, and where it comes from (`pg_settings`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SettingFacts {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
    /// Its value where nobody sets it (`boot_val`).
    pub default: String,
    /// `source`: `default`, `configuration file`, `command line`, `environment variable`.
    pub source: String,
    /// `sourcefile`; empty where it comes from no file, and without the privilege to read it.
    pub file: String,
}

/// One rule of pg_hba.conf (`pg_hba_file_rules`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HbaRule {
    /// Line in the file.
    pub line: i64,
    /// `local`, `host`, `hostssl` …
    pub kind: String,
    /// Databases that it is for.
    pub databases: Vec<String>,
    /// Users that it is for.
    pub users: Vec<String>,
    /// Address or `all`.
    pub address: String,
    /// Authentication method.
    pub method: String,
    /// What is wrong with the line, if anything.
    pub error: Option<String>,
}

/// One physical slot of ours.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SlotFacts {
    /// Its name.
    pub name: String,
    /// The number of the replica that it is for.
    pub number: u32,
    /// A replica is connected to it.
    pub active: bool,
    /// `wal_status`: `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: String,
}
