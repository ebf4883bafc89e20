//! Makes a stand-alone server of a replica of ours.

use std::time::Instant;

use super::answer::{Info, pairs, text};
use super::execute::failed;
use super::{PATIENCE, PAUSE, RedisSession};
use crate::engine::{Identity, SessionError};

const USER: &str = "masteruser";
const PASSWORD: &str = "masterauth";

/// See [`crate::engine::Session::promote`]. What a replica has received is in memory, and would be asked for again after a restart: a snapshot of it is taken.
///
/// How far this is stands in the server's settings: the password goes once the snapshot is begun, the user once it is taken.
pub async fn promote(session: &mut RedisSession) -> Result<(), SessionError> {
    let doing = "promoting the replica";
    let follows = state(session, doing).await?.word("role") == "slave";
    let said = session.ask(doing, &["CONFIG", "GET", USER, PASSWORD]).await?;
    let settings = pairs(&said);
    let setting = |name: &str| settings.get(name).map(|value| text(value)).unwrap_or_default();
    let ours = Identity::of_role(&setting(USER)).is_some();
    if follows {
        session.ask(doing, &["REPLICAOF", "NO", "ONE"]).await?;
    }
    if !follows && !ours {
        return Ok(());
    }
    let doing = "saving what the replica has received";
    let taken = !follows && setting(PASSWORD).is_empty() && saved(session, doing).await?;
    if !taken {
        // One that was begun before may lack the last of it.
        saved(session, doing).await?;
        session.ask(doing, &["BGSAVE"]).await?;
        if ours {
            session.ask(doing, &["CONFIG", "SET", PASSWORD, ""]).await?;
        }
        if !saved(session, doing).await? {
            return Err(failed(doing, "the server could not write its snapshot (its log says why)"));
        }
    }
    if ours {
        session.ask(doing, &["CONFIG", "SET", PASSWORD, "", USER, ""]).await?;
    }
    Ok(())
}

async fn state(session: &mut RedisSession, doing: &str) -> Result<Info, SessionError> {
    Ok(Info::parse(&session.ask(doing, &["INFO", "replication", "persistence"]).await?))
}

/// Waits until no snapshot is being taken: whether the last one succeeded.
async fn saved(session: &mut RedisSession, doing: &str) -> Result<bool, SessionError> {
    let begun = Instant::now();
    loop {
        let info = state(session, doing).await?;
        if !info.yes("rdb_bgsave_in_progress") {
            return Ok(info.word("rdb_last_bgsave_status") == "ok");
        }
        if begun.elapsed() > PATIENCE {
            return Err(failed(doing, "the snapshot is still being written; it is waited for again"));
        }
        tokio::time::sleep(PAUSE).await;
    }
}
