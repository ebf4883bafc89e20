//! Executes steps on a source. Each may be repeated.

use rand::Rng;
use std::time::{Duration, Instant};

use super::super::gtid::{ENFORCE, ENFORCE_CONSISTENCY, GTID_MODE, MODES};
use super::super::password::verifier;
use super::super::plan::Step;
use super::{MySqlSession, account, literal};
use crate::engine::{Endpoint, SessionError};

/// How long transactions may take to end, or a connection.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
pub(super) const PAUSE: Duration = Duration::from_millis(100);
/// How long the server complains before it refuses: for so long every statement of the applications is one that was looked at.
const WARNING: Duration = Duration::from_secs(3);

/// Why a plugin may not be installed now and yet later: the server takes no writes, or somebody holds the table of plugins.
const PASSING: [&str; 3] = ["(1205)", "(1290)", "(1836)"];

pub(super) fn failed(doing: &str, message: impl Into<String>) -> SessionError {
    SessionError::Failed { doing: doing.to_owned(), message: message.into() }
}

fn random_password() -> String {
    hex::encode(rand::rng().random::<[u8; 24]>())
}

/// See [`crate::engine::Session::execute`].
pub async fn execute(session: &mut MySqlSession, step: &Step) -> Result<(), SessionError> {
    let doing = &step.to_string();
    match step {
        Step::CreateUser { user } => create_user(session, doing, user).await,
        Step::ProveLogin { user } => prove_login(session, doing, user).await,
        Step::FindOwn { user } => super::observe::find(session, user).await,
        Step::InstallClone => {
            if clone_active(session, doing).await? {
                return Ok(());
            }
            match session.rows(doing, "INSTALL PLUGIN clone SONAME 'mysql_clone.so'").await {
                // The backup finds that it is not active, goes the other way, and says so.
                Err(SessionError::Failed { message, .. }) if !PASSING.iter().any(|code| message.ends_with(code)) => {
                    tracing::warn!(message, "the clone plugin can't be installed");
                    Ok(())
                }
                other => other.map(drop),
            }
        }
        Step::UninstallClone => {
            if clone_active(session, doing).await? {
                session.rows(doing, "UNINSTALL PLUGIN clone").await?;
            }
            Ok(())
        }
        Step::SetVariable { name, value } => {
            known(doing, name, Some(value))?;
            if name == ENFORCE_CONSISTENCY && value == "ON" {
                complaints(session, doing).await?;
            }
            session.rows(doing, &format!("SET PERSIST {name} = {value}")).await.map(drop)
        }
        Step::RestorePersisted { name, before } => {
            known(doing, name, before.as_ref())?;
            let sql = before.as_ref().map_or_else(|| format!("RESET PERSIST IF EXISTS {name}"), |before| format!("SET PERSIST_ONLY {name} = {before}"));
            session.rows(doing, &sql).await.map(drop)
        }
        Step::AwaitNoAnonymous => {
            let sql = "SELECT VARIABLE_VALUE FROM performance_schema.global_status WHERE VARIABLE_NAME = 'Ongoing_anonymous_transaction_count'";
            wait(session, doing, sql, |value| value == "0").await
        }
        Step::AwaitNoGtids => wait(session, doing, "SELECT @@GLOBAL.gtid_owned", str::is_empty).await,
        Step::Disconnect { user } => disconnect(session, doing, user).await,
        Step::DropUser { user } => session.rows(doing, &format!("DROP USER IF EXISTS {}", account(user))).await.map(drop),
    }
}

/// Only variables and values of ours reach a statement.
fn known(doing: &str, name: &str, value: Option<&String>) -> Result<(), SessionError> {
    let ladder: &[&str] = match name {
        GTID_MODE => &MODES,
        ENFORCE_CONSISTENCY => &ENFORCE,
        _ => &[],
    };
    if ladder.is_empty() || value.is_some_and(|value| !ladder.contains(&value.as_str())) {
        return Err(failed(doing, "this is not a setting that is changed here"));
    }
    Ok(())
}

async fn clone_active(session: &mut MySqlSession, doing: &str) -> Result<bool, SessionError> {
    let sql = "SELECT 1 FROM information_schema.PLUGINS WHERE PLUGIN_NAME = 'clone' AND PLUGIN_STATUS = 'ACTIVE'";
    Ok(session.value(doing, sql).await?.is_some())
}

/// See [`MySqlSession::clone_refusal`]. Installs nothing: a plugin of another name is asked of the library, which is told from a library that can't be opened.
pub async fn clone_refusal(session: &mut MySqlSession) -> Result<Option<String>, SessionError> {
    let doing = "looking for the clone plugin";
    let state = session.value(doing, "SELECT PLUGIN_STATUS FROM information_schema.PLUGINS WHERE PLUGIN_NAME = 'clone'").await?;
    match state.as_deref() {
        Some("ACTIVE") => return Ok(None),
        Some(state) => return Ok(Some(format!("the source's clone plugin is {state}"))),
        None => {}
    }
    match session.rows(doing, "INSTALL PLUGIN understudy_none SONAME 'mysql_clone.so'").await {
        Err(SessionError::Failed { message, .. }) if !message.ends_with("(1127)") => {
            let message: String = message.chars().take(300).collect();
            Ok(Some(format!("the source can't install the clone plugin: {message}")))
        }
        Err(error @ SessionError::Unreachable(_)) => Err(error),
        _ => Ok(Some("the source's clone plugin is not installed".to_owned())),
    }
}

/// Written to the binary log as everything else about accounts: replicas, which have this account from their copy, then always have the same ones as the
/// source. Kept out of it, a later `DROP USER` or `ALTER USER` of anybody would stop them.
async fn create_user(session: &mut MySqlSession, doing: &str, user: &str) -> Result<(), SessionError> {
    let account = account(user);
    let locked = verifier(&random_password());
    session
        .rows(
            doing,
            &format!("CREATE USER IF NOT EXISTS {account} IDENTIFIED WITH caching_sha2_password AS {} PASSWORD EXPIRE NEVER ACCOUNT LOCK", literal(&locked)),
        )
        .await?;
    session.rows(doing, &format!("GRANT REPLICATION SLAVE, BACKUP_ADMIN ON *.* TO {account}")).await.map(drop)
}

/// Gives the user a password that nobody else knows, and logs in with it, as a replica will.
async fn prove_login(session: &mut MySqlSession, doing: &str, user: &str) -> Result<(), SessionError> {
    let password = random_password();
    session.set_password(user, &password).await?;
    let Some(endpoint) = session.endpoint.clone() else { return Ok(()) };
    let endpoint = Endpoint { username: user.to_owned(), password, database: String::new(), ..endpoint };
    match MySqlSession::login(&endpoint).await {
        Err(SessionError::Refused(message)) => Err(failed(doing, message)),
        Err(other) => Err(other),
        Ok(_) => Ok(()),
    }
}

/// Statements that the server would refuse from now on, as it said while it was told to warn only.
async fn complaints(session: &mut MySqlSession, doing: &str) -> Result<(), SessionError> {
    let since = "SELECT SET_TIME FROM performance_schema.variables_info WHERE VARIABLE_NAME = 'enforce_gtid_consistency'";
    let since = session.value(doing, since).await?.unwrap_or_default();
    let age = format!("SELECT TIMESTAMPDIFF(MICROSECOND, {}, NOW(6))", literal(&since));
    loop {
        let warned = session.value(doing, &age).await?.and_then(|text| text.parse::<i64>().ok());
        // Without a time it was set before the server started, long ago.
        let left = warned.and_then(|warned| u64::try_from(warned).ok()).map_or(Duration::ZERO, |warned| WARNING.saturating_sub(Duration::from_micros(warned)));
        if left.is_zero() {
            break;
        }
        tokio::time::sleep(left.min(PAUSE * 3)).await;
    }
    let sql = format!(
        "SELECT DATA FROM performance_schema.error_log WHERE DATA LIKE '%violates GTID consistency%' AND LOGGED >= COALESCE({}, '1970-01-02') ORDER BY LOGGED DESC LIMIT 1",
        literal_or_null(&since)
    );
    // Before 8.0.22 there is no such table.
    match session.visible(doing, &sql).await?.first().and_then(super::Row::first) {
        Some(said) => Err(failed(doing, format!("an application runs statements that would fail with GTIDs: {said}; change it, then this goes on"))),
        None => Ok(()),
    }
}

fn literal_or_null(text: &str) -> String {
    if text.is_empty() { "NULL".to_owned() } else { literal(text) }
}

/// Asks again until the first column satisfies.
async fn wait(session: &mut MySqlSession, doing: &str, sql: &str, enough: impl Fn(&str) -> bool) -> Result<(), SessionError> {
    let begun = Instant::now();
    loop {
        let value = session.value(doing, sql).await?.unwrap_or_default();
        if enough(&value) {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            return Err(failed(doing, format!("still under way: {value}; it is waited for again")));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Ends the connections of a user, and waits until they are gone.
async fn disconnect(session: &mut MySqlSession, doing: &str, user: &str) -> Result<(), SessionError> {
    // Whoever is sent away does not come back.
    session.rows(doing, &format!("ALTER USER IF EXISTS {} ACCOUNT LOCK", account(user))).await?;
    let begun = Instant::now();
    let list = format!("SELECT PROCESSLIST_ID FROM performance_schema.threads WHERE PROCESSLIST_USER = {} AND PROCESSLIST_ID IS NOT NULL", literal(user));
    loop {
        let ids: Vec<u64> = session.rows(doing, &list).await?.iter().filter_map(super::Row::first).filter_map(|id| id.parse().ok()).collect();
        if ids.is_empty() {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            return Err(failed(doing, format!("{} connection(s) do not end", ids.len())));
        }
        for id in ids {
            match session.rows(doing, &format!("KILL {id}")).await {
                // It ended by itself (1094).
                Err(SessionError::Failed { message, .. }) if message.ends_with("(1094)") => {}
                other => drop(other?),
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}
