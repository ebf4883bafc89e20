//! Executes steps on a source. Each may be repeated.

use redis::Value;
use sha2::{Digest, Sha256};

use super::super::plan::{BACKLOG, Step};
use super::answer::{Info, pairs, text};
use super::{RedisSession, observe};
use crate::engine::{Position, SessionError};

/// More replicas than there are: the server asks all of them how far they are, and gives up waiting for the rest after a millisecond.
const MARK: [&str; 3] = ["WAIT", "1000", "1"];

/// Why a user was not made again: see `plan_enable`.
const EMPTY: &str = ": the source has started without data, and replicas that hold some are kept from copying that. Restore it from a replica or the backup; or \
    set enabled to false and, once it is Standalone, to true again";

fn failed(doing: &str, message: impl Into<String>) -> SessionError {
    SessionError::Failed { doing: doing.to_owned(), message: message.into() }
}

/// See [`crate::engine::Session::execute`].
pub async fn execute(session: &mut RedisSession, step: &Step) -> Result<(), SessionError> {
    let doing = &step.to_string();
    match step {
        Step::RaiseBacklog { bytes } => session.ask(doing, &["CONFIG", "SET", BACKLOG, &bytes.to_string()]).await.map(drop),
        Step::RestoreSetting { name, before } if name == BACKLOG && before.parse::<u64>().is_ok() => {
            session.ask(doing, &["CONFIG", "SET", name, before]).await.map(drop)
        }
        Step::RestoreSetting { name, .. } => Err(failed(doing, format!("{name} is not a setting that is changed here"))),
        Step::CreateUser { user } => create_user(session, doing, user).await,
        // DELUSER of a user that is gone does nothing.
        Step::DropUser { user } => change_users(session, doing, &["ACL", "DELUSER", user]).await,
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
    change_users(session, doing, &command).await
}

/// See [`crate::engine::Session::give_access`]: only the hash is sent.
pub async fn set_password(session: &mut RedisSession, user: &str, password: &str) -> Result<(), SessionError> {
    let doing = "setting the replication password";
    if session.ask(doing, &["ACL", "GETUSER", user]).await? == Value::Nil {
        let why = if observe::source(session, None).await?.started_empty() { EMPTY } else { "" };
        return Err(failed(doing, format!("the user {user} does not exist{why}")));
    }
    let hash = format!("#{}", hex::encode(Sha256::digest(password)));
    change_users(session, doing, &["ACL", "SETUSER", user, "resetpass", &hash]).await
}

/// Changes a user, and saves all of them where there is an ACL file: both are sent at once, so that one is not done without the other.
async fn change_users(session: &mut RedisSession, doing: &str, command: &[&str]) -> Result<(), SessionError> {
    let settings = session.ask(doing, &["CONFIG", "GET", "aclfile"]).await?;
    let file = pairs(&settings).get("aclfile").map(|file| text(file)).unwrap_or_default();
    let mut commands = vec![command.to_vec()];
    if !file.is_empty() {
        commands.push(vec!["ACL", "SAVE"]);
    }
    let mut answers = session.ask_all(doing, &commands).await?.into_iter();
    if let Some(Err(error)) = answers.next() {
        return Err(super::sorted(&session.endpoint, doing, &error));
    }
    // A file that can't be written, a mounted ConfigMap for example: then the user has to be made again after a restart, as where there is no file.
    if let Some(Err(error)) = answers.next() {
        tracing::warn!(file, error = super::words(&error), "the users were not saved");
    }
    Ok(())
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
