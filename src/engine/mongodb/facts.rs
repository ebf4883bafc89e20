//! What is read from a MongoDB source.

/// How a server stands to replica sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Standing {
    /// It runs without `--replSet`.
    #[default]
    Standalone,
    /// It runs with `--replSet` and has no configuration yet: it takes neither reads nor writes.
    Uninitiated,
    /// It takes the writes.
    Primary,
    /// It follows another one, or waits for an election.
    Secondary,
    /// Its configuration does not name it (`REMOVED`): after a restart, until its name leads to its new address.
    Removed,
    /// Anything else: it starts, rolls back, or copies.
    Other,
}

/// A member of the configuration, and what the source knows of it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Member {
    /// `_id`: 0 is the source, others are numbers of replicas.
    pub id: u32,
    /// `host:port`.
    pub host: String,
    /// It has a vote.
    pub votes: bool,
    /// `SECONDARY`, `STARTUP2` and so on, as the source sees it.
    pub state: String,
}

/// Everything that planning needs of a source.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SourceFacts {
    /// For example `6.0.5`.
    pub version: String,
    /// How it stands to replica sets.
    pub standing: Standing,
    /// The set that it was started with (`--replSet`).
    pub set_name: Option<String>,
    /// It is a part of a sharded cluster (`clusterRole`, or a mongos).
    pub sharded: bool,
    /// `storage.dbPath`.
    pub data_directory: String,
    /// It wants a login.
    pub authorization: bool,
    /// The key file that it was started with.
    pub key_file: Option<String>,
    /// The storage engine, `wiredTiger` for example.
    pub storage_engine: String,
    /// The name of this session's user; empty without a login.
    pub user: String,
    /// What this user may not do of what is needed.
    pub forbidden: Vec<String>,
    /// Members of the configuration, by their number.
    pub members: Vec<Member>,
    /// The set whose configuration a stand-alone server's database `local` holds.
    pub left: Option<String>,
    /// The role that lets the administrator clear `local` exists.
    pub role: bool,
    /// Time of the last operation: seconds, and a number within that second.
    pub applied: (u32, u32),
    /// Time of the oldest operation in the oplog.
    pub oldest: (u32, u32),
}
