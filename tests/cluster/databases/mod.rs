//! Each engine as the scenarios see it: a source with the official image's defaults, a client, and everything that must be as before afterwards.

mod mongodb;
mod mysql;
mod postgresql;
mod redis;

pub use mongodb::MongoDb;
pub use mysql::MySql;
pub use postgresql::{PostgreSql, query};
pub use redis::Redis;

use serde_json::Value;
use std::future::Future;

/// The administrator's password, which is looked for everywhere afterwards.
pub const PASSWORD: &str = "canary-4f1d7c0e-never-outside-a-secret";

/// The administrator's password of a database that becomes a target ([`password_of`]), which is looked for, too.
pub const OTHER_PASSWORD: &str = "canary-9b2e6a51-of-the-target-alone";

/// The administrator's password of a database of this name: a target does not have its source's.
pub fn password_of(name: &str) -> &'static str {
    if name == "reports-db" { OTHER_PASSWORD } else { PASSWORD }
}

/// One engine; a value is a client's connection to a server, as the administrator.
pub trait Database: Send + Sized + 'static {
    /// As in `spec.engine`.
    const ENGINE: &'static str;
    /// What namespaces of its scenarios end in.
    const NAME: &'static str;
    /// What its variables begin with.
    const PREFIX: &'static str;
    /// Its port.
    const PORT: u16;
    /// The administrator.
    const USER: &'static str;
    /// A part of what a dry run says that would be done on the source.
    const DRY_RUN: &'static str;
    /// What the condition says of a wrong password.
    const LOGIN_REFUSED: &'static str;
    /// Files of a replica, below its data directory, in a shell's words, that hold the replication user's password; and how it is cut out of them.
    const REPLICATION_PASSWORD: &'static str;

    /// With how many replicas a resource begins.
    const REPLICAS: u32;
    /// By how many replicas a resource is scaled.
    const STEP: u32;
    /// The source restarts once when it is enabled, and once when it is disabled.
    const RESTARTS: bool;

    /// Where the source is gone, the replicas elect one of themselves.
    const ELECTS: bool;

    /// At how many points, the begins and ends of its steps, an enabling can be killed at least.
    const KILLS: usize;
    /// The smallest size in bytes that a full backup can have.
    const LEAST_BACKUP: i64;
    /// How many traces an enabling with `REPLICAS` replicas leaves on the source.
    const TRACES: usize;
    /// Parts of what a person is told to do by hand where the source could not be cleaned.
    const BY_HAND: &'static [&'static str];

    /// The source's database container.
    const CONTAINER: &'static str;
    /// The data directory of the official image.
    const DIRECTORY: &'static str;
    /// Arguments of the server that rule replication out.
    const UNFIT: &'static [&'static str];
    /// What is said of these.
    const UNFIT_SAYS: &'static [&'static str];
    /// Arguments with which nobody outside the pod is answered.
    const DEAF: &'static [&'static str];
    /// What is said of a user who may not do enough.
    const CLERK_SAYS: &'static [&'static str];

    /// What the Secret of a source with this password holds.
    fn secret(password: &str) -> Value;

    /// The StatefulSet of a source with the official image's defaults; the password stands in the Secret of the same name.
    fn stateful_set(name: &str) -> Value;

    /// Has the server keep its data in this directory, or in the official image's own.
    fn keep_data_in(container: &mut Value, directory: Option<&str>);

    /// As charts do it: the database container takes its settings from the volumes `configuration`, a ConfigMap that cannot be written, and `prepared`,
    /// an `emptyDir` that an init container fills; its probes name the user.
    fn chart(container: &mut Value) -> Chart;

    /// A new connection with this password.
    fn connect_as(host: &str, password: &str) -> impl Future<Output = Result<Self, String>> + Send;

    /// A new connection, with whichever password the server has: that of a target may change to its source's.
    fn connect(host: &str) -> impl Future<Output = Result<Self, String>> + Send {
        async move {
            match Self::connect_as(host, PASSWORD).await {
                Err(refused) if refused.contains(Self::LOGIN_REFUSED) => Self::connect_as(host, OTHER_PASSWORD).await,
                other => other,
            }
        }
    }

    /// Makes the table `orders`, or what comes closest, if it is not there.
    fn prepare(&mut self) -> impl Future<Output = Result<(), String>> + Send;

    /// Writes one row of `orders`.
    fn insert(&mut self, id: u64) -> impl Future<Output = Result<(), String>> + Send;

    /// Counts the rows of `orders`.
    fn count(&mut self) -> impl Future<Output = Result<u64, String>> + Send;

    /// What this server says of itself: it takes writes.
    fn takes_writes(&mut self) -> impl Future<Output = Result<bool, String>> + Send;

    /// Whether an error of `insert` says that this server only serves reads.
    fn is_read_only(error: &str) -> bool;

    /// Everything on the source that must be the same after disabling.
    fn snapshot(&mut self) -> impl Future<Output = Result<Vec<String>, String>> + Send;

    /// Where this server keeps its data.
    fn directory(&mut self) -> impl Future<Output = Result<String, String>> + Send;

    /// Makes a user called `clerk`, with a password of the same text, who may log in and not much else.
    fn make_clerk(&mut self) -> impl Future<Output = Result<(), String>> + Send;

    /// Makes a backup last long enough to be held.
    fn slow_down(&mut self) -> impl Future<Output = Result<(), String>> + Send;

    /// Keeps the backup whose Job runs from ending before this server stops; an error while it has not begun.
    fn hold_backup(&mut self) -> impl Future<Output = Result<(), String>> + Send;

    /// Users, and whatever else holds something for a replica, of ours on the source.
    fn traces(&mut self) -> impl Future<Output = Result<Vec<String>, String>> + Send;
}

/// What a chart brings along.
pub struct Chart {
    /// Data of the ConfigMap.
    pub configuration: Value,
    /// What the init container executes, in a shell that has the password in `PASSWORD`, with the volumes at `/configuration` and `/prepared`.
    pub script: &'static str,
    /// What the probes execute, in a shell likewise.
    pub probe: &'static str,
    /// The beginning of a line of the snapshot that shows that the settings were read.
    pub proof: &'static str,
}

/// The arguments of a container.
pub fn arguments(container: &mut Value) -> &mut Vec<Value> {
    if container["args"].is_null() {
        container["args"] = Value::Array(Vec::new());
    }
    container["args"].as_array_mut().unwrap()
}

/// An engine whose replicas follow one source, as a user of ours: each of them can be promoted, and the user can be dropped.
pub trait Standby: Database {
    /// Arguments of a target's server with which it can't serve a copy of a source with the image's defaults, and that can be taken away again.
    const LESS: &'static [&'static str];
    /// What is said of these.
    const LESS_SAYS: &'static [&'static str];

    /// A replica takes writes from now on.
    fn promote(&mut self) -> impl Future<Output = Result<(), String>> + Send;

    /// Executes a statement.
    fn run(&mut self, sql: &str) -> impl Future<Output = Result<(), String>> + Send;

    /// Drops our user on the source, and ends its connections.
    fn drop_user(&mut self) -> impl Future<Output = Result<(), String>> + Send;
}

/// Runs scenarios for every engine: each becomes a module with a test named after each engine.
#[allow(unused_macros, reason = "not every test binary has such scenarios")]
macro_rules! for_every_engine {
    ($($scenario:ident),+) => {
        crate::databases::for_engines!([postgresql: PostgreSql, mysql: MySql, redis: Redis, mongodb: MongoDb] $($scenario),+);
    };
}
#[allow(unused_imports, reason = "as above")]
pub(crate) use for_every_engine;

/// Runs scenarios for some engines.
#[allow(unused_macros, reason = "as above")]
macro_rules! for_engines {
    (@ [$($test:ident: $engine:ident),+] $scenario:ident) => {
        mod $scenario {
            $(#[tokio::test]
            async fn $test() {
                super::$scenario::<crate::databases::$engine>().await;
            })+
        }
    };
    ($engines:tt $($scenario:ident),+) => {
        $(crate::databases::for_engines!(@ $engines $scenario);)+
    };
}
#[allow(unused_imports, reason = "as above")]
pub(crate) use for_engines;
