//! The seam between the controller and the database engines: two traits, and the values that cross it.
//!
//! `Engine` is pure: it knows ports, names, commands, and which steps lead from the facts to what is wanted. `Session` talks to one server: it reads
//! facts and executes one step. A further engine is one folder here and one line in the registry, [`with_engine`]; nothing outside this folder asks which
//! engine it is.

/// The registry: evaluates an expression with a name standing for the engine's type. The only place that asks which engine a resource names.
macro_rules! with_engine {
    ($kind:expr, $engine:ident => $body:expr) => {
        match $kind {
            $crate::api::EngineKind::PostgreSQL => {
                type $engine = $crate::engine::postgresql::PostgreSql;
                $body
            }
            $crate::api::EngineKind::MySQL => {
                type $engine = $crate::engine::mysql::MySql;
                $body
            }
            $crate::api::EngineKind::Redis => {
                type $engine = $crate::engine::redis::Redis;
                $body
            }
            $crate::api::EngineKind::MongoDB => {
                type $engine = $crate::engine::mongodb::MongoDb;
                $body
            }
        }
    };
}
pub(crate) use with_engine;

mod endpoint;
mod hello;
pub mod mongodb;
pub mod mysql;
mod position;
pub mod postgresql;
mod progress;
pub mod redis;
mod user_data;

pub use endpoint::{Endpoint, Key};
pub use hello::other_engine;
pub use position::{Lag, Position, TransactionSet};
pub use progress::Progress;

use k8s_openapi::api::core::v1::Container;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Debug, Display};
use std::future::Future;

use crate::resources::Shape;

/// Why a server did not do what was asked.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum SessionError {
    /// No connection, or it broke: a fact about the network or the server, not about the request.
    #[error("{0}")]
    Unreachable(String),
    /// The server answered that this user or password will not do.
    #[error("{0}")]
    Refused(String),
    /// The server executed the request and it failed.
    #[error("{doing}: {message}")]
    Failed {
        /// What was being done, in words.
        doing: String,
        /// The server's own message.
        message: String,
    },
}

/// Something that preflight found and that keeps the replication from being set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The reason of the condition: one word in CamelCase.
    pub reason: &'static str,
    /// What is wrong, with the numbers.
    pub message: String,
    /// What the user can do.
    pub remedy: String,
    /// It endangers what runs already, too: then it is said for as long as it lasts, and stops nothing.
    pub lasting: bool,
}

impl Finding {
    /// A finding from its three parts.
    pub fn new(reason: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { reason, message: message.into(), remedy: remedy.into(), lasting: false }
    }

    /// The same finding, which matters to what runs already as well.
    #[must_use]
    pub fn lasting(self) -> Self {
        Self { lasting: true, ..self }
    }
}

/// Names of what one enabling owns on a source. Lower-case letters, digits and `_` only, so that no engine has to quote them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity(String);

impl Identity {
    /// From the word recorded in `status.enablement`; none if it is not 8 lower-case letters and digits.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        (word.len() == 8 && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())).then(|| Self(word.to_owned()))
    }

    /// The word itself.
    #[must_use]
    pub fn word(&self) -> &str {
        &self.0
    }

    /// Name of the replication role or user.
    #[must_use]
    pub fn role(&self) -> String {
        format!("understudy_{}", self.0)
    }

    /// From the name of a replication role or user; none if it is none of ours.
    #[must_use]
    pub fn of_role(role: &str) -> Option<Self> {
        Self::parse(role.strip_prefix("understudy_")?)
    }

    /// Name of what holds the source's log for replica `number`.
    #[must_use]
    pub fn slot(&self, number: u32) -> String {
        format!("understudy_{}_{number}", self.0)
    }

    /// The number of the replica that a slot belongs to; none if the slot is not ours.
    #[must_use]
    pub fn slot_number(&self, slot: &str) -> Option<u32> {
        slot.strip_prefix(&self.role())?.strip_prefix('_')?.parse().ok()
    }
}

/// What every engine can say about a source.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SourceSummary {
    /// Version of the server, as people write it.
    pub version: String,
    /// Which database it is, in words that a copy shares and a new one does not; empty where the server does not say.
    pub system: String,
    /// The part of the version within which a replica's server fits the source's.
    pub major_version: u32,
    /// The directory that holds the data, as the server knows it.
    pub data_directory: String,
    /// Numeric user and group of the server process; none where the server does not say: then the pod's template does.
    pub owner: Option<(u32, u32)>,
    /// It takes the writes. Of servers that elect among themselves it may be another one, and then it says so of itself.
    pub leads: bool,
    /// It waits for an election among the servers, which ends by itself as long as the majority of them runs.
    pub elects: bool,
    /// It runs with [`Engine::source_arguments`].
    pub adapted: bool,
    /// Our replication user exists and has a password: who lost its connection could log in again.
    pub access: bool,
    /// How many records the server is known to have started with; none where `system` tells whose data it is.
    pub records: Option<u64>,
    /// The last position written.
    pub position: Position,
    /// The oldest position that a replica made from a backup could continue from.
    pub oldest_for_seed: Position,
    /// The oldest position that a replica which is not connected could continue from by itself; the default where it always can.
    pub oldest_for_replica: Position,
    /// Progress of a backup that runs now, as far as the server knows.
    pub backup_progress: Option<Progress>,
    /// Replicas for which the source holds its log, by number, and whether what they need is still there.
    pub held: Vec<(u32, Held)>,
    /// What it has confirmed last is saved only when it stops, and not at once then; none where nothing is lost with a server that is killed.
    pub last_save: Option<LastSave>,
}

/// A server that waits for its replicas when it is told to stop, and saves what it has confirmed only then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastSave {
    /// How long it may wait, in seconds.
    pub waits: u64,
    /// The setting that says so.
    pub setting: &'static str,
}

/// Whether the source still has what a replica needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// Everything since the last position that the replica confirmed.
    Kept,
    /// No longer: the replica must be seeded anew.
    Lost,
}

/// What every engine can say about a replica's server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReplicaSummary {
    /// It takes no writes.
    pub read_only: bool,
    /// It takes writes because the servers elected it: nobody promoted it behind their back.
    pub leads: bool,
    /// It receives from the source at this moment.
    pub streaming: bool,
    /// The last position that it has applied.
    pub applied: Position,
    /// The last position that it has received.
    pub received: Position,
    /// How many records it holds; none where a source does not say with how many it has started.
    pub records: Option<u64>,
    /// Progress of the copy of everything that it fetches from the source by itself now; none where it fetches none.
    pub copy_progress: Option<Progress>,
    /// What keeps it from applying, in the engine's own words.
    pub trouble: Option<String>,
}

/// What is wanted of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedSource {
    /// Names of what is ours.
    pub identity: Identity,
    /// Numbers of the replicas for which the log is held.
    pub replicas: Vec<u32>,
    /// Those of them whose server has been started.
    pub started: Vec<u32>,
    /// Those of them that have shown what was written after their restore, and still hold it.
    pub proven: Vec<u32>,
    /// Where the servers reach each other, as `host:port`; 0 is the source.
    pub hosts: BTreeMap<u32, String>,
    /// Limit for what is held, in bytes, where the server has no limit of its own.
    pub retention_limit: u64,
    /// Prove that the replication login works: before the backup, when nothing uses it yet.
    pub prove_login: bool,
    /// A replica holds what the source lacks, or none can say that it does not: where a login is all that it takes to be overwritten, it is not given.
    pub withhold_access: bool,
}

impl WantedSource {
    /// What is wanted before there are replicas, of an enabling of this name.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        Self {
            identity,
            replicas: Vec::new(),
            started: Vec::new(),
            proven: Vec::new(),
            hosts: BTreeMap::new(),
            retention_limit: 0,
            prove_login: true,
            withhold_access: false,
        }
    }
}

/// The pure half of an engine.
pub trait Engine: Send + Sync + 'static {
    /// What a session reads from a source.
    type SourceFacts: Clone + Debug + PartialEq + Send + Sync;
    /// One step on a source. `Display` is shown to people and logged, and holds no secret.
    type Step: Clone + Debug + Display + PartialEq + Send + Sync;
    /// The half that talks.
    type Session: Session<SourceFacts = Self::SourceFacts, Step = Self::Step>;

    /// The engine's name as in `spec.engine`.
    const NAME: &'static str;
    /// Default port.
    const PORT: u16;
    /// Default database to connect to.
    const DATABASE: &'static str;
    /// Usual name of the administrator.
    const ADMINISTRATOR: &'static str;
    /// Default prefix of the variables.
    const PREFIX: &'static str;
    /// Applications are told their database, user name and password by variables of their own.
    const LOGIN_VARIABLES: bool;
    /// Users and passwords are a part of the data, and come with a copy; otherwise each server has its own.
    const USERS_ARE_DATA: bool;
    /// A replica may have applied what the source has written to its log and not yet counted as executed: that it is ahead means something only where it lasts.
    const COUNTS_LATE: bool;
    /// A restore runs the database's own programs, and so in the database's image; otherwise it copies and writes files, in ours.
    const RESTORE_NEEDS_DATABASE: bool;

    /// What a client says first; empty where the server does.
    const HELLO: &'static [u8];

    /// Whether this is how a server of this engine answers [`Engine::HELLO`], whoever asks.
    fn greets(answer: &[u8]) -> bool;

    /// What the controller needs of a source's facts.
    fn summary(facts: &Self::SourceFacts) -> SourceSummary;

    /// Everything on the server that keeps replication from being set up; all at once.
    fn preflight(facts: &Self::SourceFacts, wanted: &WantedSource) -> Vec<Finding>;

    /// What keeps `target`, another server of this engine, from serving a copy of `source`'s data and following it: its version, and settings that a replica
    /// may not have lower or otherwise; all at once.
    fn preflight_target(source: &Self::SourceFacts, target: &Self::SourceFacts) -> Vec<Finding>;

    /// Arguments that the source's server needs for as long as it has replicas, and restarts for; empty where it needs none.
    fn source_arguments(identity: &Identity) -> Vec<String>;

    /// The servers need a key file, the same for all, to trust each other.
    fn needs_key(facts: &Self::SourceFacts) -> bool;

    /// What about the source's StatefulSet keeps a replica from being made of it.
    fn preflight_shape(shape: &Shape) -> Vec<Finding>;

    /// What a replica's container, a copy of the source's, needs besides what lies in its data directory, to be a replica from its first second.
    fn adapt_replica(container: &mut Container, data_directory: &str);

    /// Arguments that another server of this engine needs behind its own, to be a replica from its first second once a restore has taken the place of its data;
    /// empty where what lies in its data directory is enough.
    fn target_arguments(data_directory: &str) -> Vec<String>;

    /// What the clients of the source will notice, in words.
    fn expected_disruption(facts: &Self::SourceFacts) -> String;

    /// The steps from what is to what is wanted, in order; empty when it is so already.
    fn plan_enable(facts: &Self::SourceFacts, wanted: &WantedSource) -> Vec<Self::Step>;

    /// The steps that undo everything of `identity`, in order, from what is and from the recorded changes; empty when nothing is left.
    fn plan_disable(facts: &Self::SourceFacts, identity: &Identity, recorded: &[crate::api::Change]) -> Vec<Self::Step>;

    /// The steps after which the source gets on without any replica but the `remaining` ones, while all of them still run; empty when it does.
    fn plan_leave(facts: &Self::SourceFacts, identity: &Identity, remaining: &[u32]) -> Vec<Self::Step>;

    /// The steps that give up what is held for replica `number`; empty when nothing is.
    fn plan_release(facts: &Self::SourceFacts, identity: &Identity, number: u32) -> Vec<Self::Step>;

    /// What stays changed on the source on purpose once it is disabled, with the reason, and what a person does by hand; none where nothing does.
    fn kept(facts: &Self::SourceFacts, recorded: &[crate::api::Change]) -> Option<String>;

    /// What a person does by hand to make a server of its own of a target that could not be reached when it was to become one.
    fn promote_by_hand(identity: &Identity, data_directory: &str) -> String;

    /// What a person does by hand where the source could not be reached while it was to be cleaned.
    fn undo_by_hand(identity: &Identity, recorded: &[crate::api::Change]) -> String;

    /// The record of what a step changes, with the value before; none if it changes nothing that outlives it.
    fn record(facts: &Self::SourceFacts, step: &Self::Step) -> Option<crate::api::Change>;

    /// A position as people write it.
    fn format_position(position: &Position) -> String;

    /// A position as people write it, read back.
    fn parse_position(text: &str) -> Option<Position>;
}

/// A connection to one server of an engine.
pub trait Session: Sized + Send {
    /// See [`Engine::SourceFacts`].
    type SourceFacts;
    /// See [`Engine::Step`].
    type Step;

    /// Connects.
    ///
    /// # Errors
    /// [`SessionError::Unreachable`] without an answer within 3 seconds, [`SessionError::Refused`] if the login is rejected.
    fn connect(endpoint: &Endpoint) -> impl Future<Output = Result<Self, SessionError>> + Send;

    /// Connects to a replica, only to observe it. `key` is what the servers trust each other by, where they have a key file: one that still copies its users may
    /// know nobody else.
    ///
    /// # Errors
    /// As [`Session::connect`].
    fn connect_replica(endpoint: &Endpoint, key: Option<&Key>) -> impl Future<Output = Result<Self, SessionError>> + Send;

    /// Reads everything that planning needs of a source; `identity` is that of the enabling, if there is one already. Changes nothing.
    ///
    /// # Errors
    /// Whatever the server answers; lack of privilege is a fact, not an error.
    fn observe_source(&mut self, identity: Option<&Identity>) -> impl Future<Output = Result<Self::SourceFacts, SessionError>> + Send;

    /// Which names of ours, of any enabling, something on the server carries: users, and what is not removed with these. None where a copy brings none along.
    /// Changes nothing.
    ///
    /// # Errors
    /// Whatever the server answers.
    fn identities(&mut self) -> impl Future<Output = Result<BTreeSet<Identity>, SessionError>> + Send;

    /// Size of all data in bytes. On a server with very many files this takes a while: it is asked before the first change, not at every look.
    ///
    /// # Errors
    /// Whatever the server answers.
    fn measure(&mut self) -> impl Future<Output = Result<u64, SessionError>> + Send;

    /// What of the user's the server holds, in words with numbers, largest first, at most 5 and then how many more; empty where it holds what its image made
    /// and no more. Changes nothing. The user of this session, and an empty database, may be the image's, and are not told.
    ///
    /// # Errors
    /// Whatever the server answers; that this user may not look is one, since what is not seen may be there.
    fn user_data(&mut self) -> impl Future<Output = Result<Vec<String>, SessionError>> + Send;

    /// Reads what planning needs of a replica. Changes nothing.
    ///
    /// # Errors
    /// Whatever the server answers.
    fn observe_replica(&mut self) -> impl Future<Output = Result<ReplicaSummary, SessionError>> + Send;

    /// Executes one step. Executing it again is harmless.
    ///
    /// # Errors
    /// The server's own message; what was done before the failure is found by the next observation.
    fn execute(&mut self, step: &Self::Step) -> impl Future<Output = Result<(), SessionError>> + Send;

    /// Makes a stand-alone server of a replica of ours, which takes writes from now on and after every restart, with the data that it has; nothing of ours is
    /// left in its settings. Executed again, or once it was cut off anywhere, it ends the same, and never is there a moment in which the server takes writes
    /// and still follows the source. What has to be done to its files, `understudy agent release` has done before. A server that follows nobody, and has
    /// nothing of ours, is left as it is.
    ///
    /// # Errors
    /// The server's own message; that what it has received is still being applied, or saved: then it is to be executed again.
    fn promote(&mut self) -> impl Future<Output = Result<(), SessionError>> + Send;

    /// Sets the password of our replication user, which exists. The password itself reaches neither the server's log nor its statistics.
    ///
    /// # Errors
    /// Whatever the server answers.
    fn give_access(&mut self, identity: &Identity, password: &str) -> impl Future<Output = Result<(), SessionError>> + Send;

    /// Writes a mark into the source's log that changes no data, and gives the position behind it.
    ///
    /// # Errors
    /// Whatever the server answers.
    fn write_mark(&mut self) -> impl Future<Output = Result<Position, SessionError>> + Send;
}
