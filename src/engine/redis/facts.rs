//! What is read from a Redis source.

/// Everything that planning needs of a source.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
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
    /// Keys that the server read from a snapshot when it started (`rdb_last_load_keys_loaded`).
    pub keys_loaded: u64,
    /// Keys written by a snapshot that is being taken, and keys in all.
    pub snapshot: Option<(u64, u64)>,
    /// The user `default` needs no password.
    pub open: bool,
    /// Our replication user.
    pub role: Option<UserFacts>,
}

impl SourceFacts {
    /// The server has started with nothing: what its replicas hold, if it has had any, exists nowhere else. An append-only file may hold data that no
    /// count tells of.
    #[must_use]
    pub fn started_empty(&self) -> bool {
        let append_only = self.persistence.is_some_and(|persistence| persistence.append_only);
        self.offset == 0 && self.backlog_first.is_none() && if append_only { self.keys == 0 } else { self.keys_loaded == 0 }
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
