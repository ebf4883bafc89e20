//! Each engine as the scenarios see it: a source with the official image's defaults, a client, and everything that must be as before afterwards.

mod mongodb;
mod mysql;
mod postgresql;
mod redis;

#[allow(unused_imports, reason = "its scenarios come next")]
pub use mongodb::MongoDb;
pub use mysql::MySql;
pub use postgresql::{PostgreSql, query};
pub use redis::Redis;

use serde_json::Value;
use std::future::Future;

/// The administrator's password, which is looked for everywhere afterwards.
pub const PASSWORD: &str = "canary-4f1d7c0e-never-outside-a-secret";

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

    /// At how many points, the begins and ends of its steps, an enabling can be killed at least.
    const KILLS: usize;
    /// The smallest size in bytes that a full backup can have.
    const LEAST_BACKUP: i64;
    /// How many traces an enabling with one replica leaves on the source.
    const TRACES: usize;
    /// Parts of what a person is told to do by hand where the source could not be cleaned.
    const BY_HAND: &'static [&'static str];

    /// What the Secret of a source holds.
    fn secret() -> Value;

    /// The StatefulSet of a source with the official image's defaults; the password stands in the Secret of the same name.
    fn stateful_set(name: &str) -> Value;

    /// A new connection.
    fn connect(host: &str) -> impl Future<Output = Result<Self, String>> + Send;

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

    /// Users, and whatever else holds something for a replica, of ours on the source: one of a kind for one replica.
    fn traces(&mut self) -> impl Future<Output = Result<Vec<String>, String>> + Send;
}

/// Runs scenarios for every engine: each becomes a module with a test named after each engine.
#[allow(unused_macros, reason = "not every test binary has such scenarios")]
macro_rules! for_every_engine {
    ($($scenario:ident),+) => {
        $(mod $scenario {
            #[tokio::test]
            async fn postgresql() {
                super::$scenario::<crate::databases::PostgreSql>().await;
            }

            #[tokio::test]
            async fn mysql() {
                super::$scenario::<crate::databases::MySql>().await;
            }

            #[tokio::test]
            async fn redis() {
                super::$scenario::<crate::databases::Redis>().await;
            }
        })+
    };
}
#[allow(unused_imports, reason = "as above")]
pub(crate) use for_every_engine;
