//! Makes a stand-alone server of a replica of ours.

use std::time::Instant;

use super::super::agent::{LAST, persists};
use super::execute::{PATIENCE, PAUSE, failed};
use super::observe::numbers;
use super::{MySqlSession, identifier};
use crate::engine::SessionError;

/// See [`crate::engine::Session::promote`]. The source is forgotten before writes are let in, and what is persisted goes last: a server that is killed before
/// starts read-only. [`LAST`] tells to the end that something of ours is left.
pub async fn promote(session: &mut MySqlSession) -> Result<(), SessionError> {
    let doing = "promoting the replica";
    let channel = "SELECT 1 FROM performance_schema.replication_connection_configuration WHERE CHANNEL_NAME = ''";
    let follows = session.value(doing, channel).await?.is_some();
    if follows {
        forget_source(session, doing).await?;
    }
    let doing = "taking back the settings of the replica";
    let list = "SELECT VARIABLE_NAME AS name, VARIABLE_VALUE AS value FROM performance_schema.persisted_variables";
    let persisted: Vec<(String, String)> = session.rows(doing, list).await?.iter().map(|row| (row.word("name"), row.word("value"))).collect();
    let names = taken_back(&persisted);
    if follows || !names.is_empty() {
        // Both: the second alone would leave the first.
        session.rows("letting writes in", "SET GLOBAL super_read_only = OFF").await?;
        session.rows("letting writes in", "SET GLOBAL read_only = OFF").await?;
    }
    for name in names {
        session.rows(doing, &format!("RESET PERSIST IF EXISTS {}", identifier(name))).await?;
    }
    Ok(())
}

/// Applies what has been received, and removes the channel. What the applier stumbles over it leaves: then that is all the data that there is.
async fn forget_source(session: &mut MySqlSession, doing: &str) -> Result<(), SessionError> {
    let version = session.value(doing, "SELECT VERSION()").await?.unwrap_or_default();
    let replica = if numbers(&version) < (8, 0, 22) { "SLAVE" } else { "REPLICA" };
    session.rows(doing, &format!("STOP {replica} IO_THREAD FOR CHANNEL ''")).await?;
    let applying = "SELECT 1 FROM performance_schema.replication_connection_status c \
        JOIN performance_schema.replication_applier_status a ON a.CHANNEL_NAME = c.CHANNEL_NAME \
        WHERE c.CHANNEL_NAME = '' AND a.SERVICE_STATE = 'ON' AND NOT GTID_SUBSET(c.RECEIVED_TRANSACTION_SET, @@GLOBAL.gtid_executed)";
    let begun = Instant::now();
    while session.value(doing, applying).await?.is_some() {
        if begun.elapsed() > PATIENCE {
            return Err(failed(doing, "it still applies what it has received; it is waited for again"));
        }
        tokio::time::sleep(PAUSE).await;
    }
    session.rows(doing, &format!("STOP {replica} FOR CHANNEL ''")).await?;
    session.rows(doing, &format!("RESET {replica} ALL FOR CHANNEL ''")).await.map(drop)
}

/// Of what is persisted, the names that are to go, in order.
fn taken_back(persisted: &[(String, String)]) -> Vec<&str> {
    if !persisted.iter().any(|(name, _)| name == LAST) {
        return Vec::new();
    }
    let ours = persisted.iter().filter(|(name, value)| name != LAST && persists(name, value));
    ours.map(|(name, _)| name.as_str()).chain([LAST]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn persisted(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn what_the_restore_has_persisted_goes_and_the_last_of_it_tells_that_something_is_left() {
        let all = persisted(&[("relay_log_recovery", "ON"), ("super_read_only", "ON"), ("server_id", "77"), ("gtid_mode", "ON"), ("max_connections", "7")]);
        assert_eq!(taken_back(&all), ["super_read_only", "server_id", "gtid_mode", "relay_log_recovery"]);
        assert_eq!(taken_back(&all[..1]), ["relay_log_recovery"]);
        assert_eq!(taken_back(&all[1..]), [""; 0], "not ours any more");
    }

    #[test]
    fn what_was_persisted_since_stays() {
        let mixed =
            persisted(&[("sync_binlog", "0"), ("skip_replica_start", "OFF"), ("event_scheduler", "ON"), ("read_only", "OFF"), ("relay_log_recovery", "ON")]);
        assert_eq!(taken_back(&mixed), ["skip_replica_start", "read_only", "relay_log_recovery"]);
    }
}
