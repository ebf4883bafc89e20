//! Executes steps on a source. Each may be repeated.

use redis::Value;
use sha2::{Digest, Sha256};

use super::super::plan::{BACKLOG, Step};
use super::answer::Info;
use super::{RedisSession, observe};
use crate::engine::{Position, SessionError};

/// More replicas than there are: the server asks all of them how far they are, and gives up waiting for the rest after a millisecond.
const MARK: [&str; 3] = ["WAIT", "1000", "1"];

pub(super) fn failed(doing: &str, message: impl Into<String>) -> SessionError {
    SessionError::Failed { doing: doing.to_owned(), message: message.into() }
}

/// See [`crate::engine::Session::execute`].
pub async fn execute(session: &mut RedisSession, step: &Step) -> Result<(), SessionError> {
    let doing = &step.to_string();
    match step {
        Step::RaiseBacklog { bytes } => session.ask(doing, &["CONFIG", "SET", BACKLOG, &bytes.to_string()]).await.map(drop),
        Step::RestoreSetting { name, before } if name == BACKLOG && before.parse::<u64>().is_ok() => {
            // Who may not read it is not to change it either: what it was set to since can't be told.
            session.ask(doing, &["CONFIG", "GET", name]).await?;
            session.ask(doing, &["CONFIG", "SET", name, before]).await.map(drop)
        }
        Step::RestoreSetting { name, .. } => Err(failed(doing, format!("{name} is not a setting that is changed here"))),
        Step::CreateUser { user } => create_user(session, doing, user).await,
        // DELUSER of a user that is gone does nothing. That it is gone is looked at: who may not would be told so for ever.
        Step::DropUser { user } => {
            session.ask(doing, &["ACL", "DELUSER", user]).await?;
            session.ask(doing, &["ACL", "GETUSER", user]).await.map(drop)
        }
    }
}

/// Makes the user, or gives it back what replication takes. A password that it has stays.
async fn create_user(session: &mut RedisSession, doing: &str, user: &str) -> Result<(), SessionError> {
    let found = session.ask(doing, &["ACL", "GETUSER", user]).await?;
    let open = observe::list(&found, "flags").iter().any(|flag| flag == "nopass");
    let rules = ["on", "sanitize-payload", "resetkeys", "resetchannels", "-@all", "+psync", "+replconf", "+ping", "+sync"];
    let mut command = [&["ACL", "SETUSER", user], &rules[..]].concat();
    if open {
        command.push("resetpass");
    }
    session.ask(doing, &command).await.map(drop)
}

/// See [`crate::engine::Session::give_access`]: only the hash is sent.
pub async fn set_password(session: &mut RedisSession, user: &str, password: &str) -> Result<(), SessionError> {
    let doing = "setting the replication password";
    if session.ask(doing, &["ACL", "GETUSER", user]).await? == Value::Nil {
        return Err(failed(doing, format!("the user {user} does not exist")));
    }
    let hash = format!("#{}", hex::encode(Sha256::digest(password)));
    session.ask(doing, &["ACL", "SETUSER", user, "resetpass", &hash]).await.map(drop)
}

async fn offset(session: &mut RedisSession, doing: &str) -> Result<(String, u64), SessionError> {
    let info = Info::parse(&session.ask(doing, &["INFO", "replication"]).await?);
    Ok((info.word("master_replid").to_owned(), info.number("master_repl_offset")))
}

/// See [`crate::engine::Session::write_mark`]: the question how far the replicas are is itself a part of the log, and no client sees it.
pub async fn mark(session: &mut RedisSession) -> Result<Position, SessionError> {
    let doing = "writing a mark";
    let before = offset(session, doing).await?;
    session.ask(doing, &MARK).await?;
    let (history, bytes) = offset(session, doing).await?;
    if (&history, bytes) == (&before.0, before.1) {
        return Err(failed(doing, "the server writes no replication log: no replica is connected"));
    }
    Ok(Position::Offset { history, bytes })
}
