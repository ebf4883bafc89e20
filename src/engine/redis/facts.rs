//! What is read from a Redis source.

/// Everything that planning needs of a source.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct SourceFacts {
    /// `redis_version`, for example `7.0.15`.
    pub version: String,
    /// The name of this session's user.
    pub user: String,
    /// Commands that this user may not run, or that were renamed, of those that are needed.
    pub forbidden: Vec<String>,
    /// The server follows another one (`role:slave`).
    pub replica: bool,
    /// `cluster_enabled`.
    pub cluster: bool,
    /// The server is a sentinel, and holds no data (`redis_mode`).
    pub sentinel: bool,
    /// Names of the modules that are loaded.
    pub modules: Vec<String>,
    /// `databases`: how many there are, whether anything is in them or not.
    pub databases: Option<u64>,
    /// How the data outlives a restart; none where the settings can't be read.
    pub persistence: Option<Persistence>,
    /// `dir`: where the server keeps its files.
    pub data_directory: String,
    /// `aclfile`; empty where users stand in the configuration or nowhere.
    pub acl_file: String,
    /// `repl-backlog-size` in bytes.
    pub backlog_size: Option<u64>,
    /// `master_replid`: the history that offsets belong to.
    pub history: String,
    /// `master_repl_offset`.
    pub offset: u64,
    /// `repl_backlog_first_byte_offset`, while there is a backlog.
    pub backlog_first: Option<u64>,
    /// `used_memory` in bytes.
    pub used_memory: u64,
    /// Keys in all databases.
    pub keys: u64,
    /// Keys that have expired since the server started (`expired_keys`).
    pub keys_expired: u64,
    /// Keys that the server found in a snapshot when it started, those that had expired meanwhile among them (`rdb_last_load_keys_loaded`, `…_expired`).
    pub keys_loaded: u64,
    /// Bytes that the append-only file had when the server started or rewrote it last; 0 where it began a new one (`aof_base_size`).
    pub append_only_base: u64,
    /// Keys written by a snapshot that is being taken, and keys in all.
    pub snapshot: Option<(u64, u64)>,
    /// Seconds that the server, told to stop, waits for replicas before it saves (`shutdown-timeout`); 0 where it does not wait, or not save
    /// (`shutdown-on-sigterm`).
    pub shutdown_wait: u64,
    /// The user `default` needs no password.
    pub open: bool,
    /// Our replication user.
    pub role: Option<UserFacts>,
}

impl SourceFacts {
    /// The administrator may not run this command, or it was renamed.
    #[must_use]
    pub fn forbids(&self, command: &str) -> bool {
        self.forbidden.iter().any(|forbidden| forbidden == command)
    }

    /// How many keys the server has started with, from what 7.0 and 8 were seen to count; none where it could not be asked.
    ///
    /// Those of a snapshot are counted, and stay so while clients write. Those of an append-only file are not: of one that was there, all that is there now is
    /// taken to have come, and what has expired since.
    #[must_use]
    pub fn keys_at_start(&self) -> Option<u64> {
        let now = if self.append_only_base > 0 { self.keys.saturating_add(self.keys_expired) } else { 0 };
        (!self.history.is_empty()).then(|| self.keys_loaded.max(now))
    }
}

/// How the data outlives a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Persistence {
    /// There are points at which a snapshot is taken (`save`).
    pub snapshots: bool,
    /// `appendonly`.
    pub append_only: bool,
}

/// A user as `ACL GETUSER` describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UserFacts {
    /// It may log in, with a password only, and run what replication takes.
    pub may_replicate: bool,
    /// It has a password.
    pub has_password: bool,
}
