//! Executes steps on a source. Each may be repeated.

use rand::Rng;
use std::time::{Duration, Instant};

use super::super::hba;
use super::super::login::replication_login;
use super::super::plan::Step;
use super::observe::from_hex;
use super::{PostgreSqlSession, identifier, literal};
use crate::engine::SessionError;

/// How long a reload or the end of a connection may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
pub(super) const PAUSE: Duration = Duration::from_millis(100);
/// How long a backend that starts may still have the rules from before a reload: the server reads them a moment after the settings.
const RULES: Duration = Duration::from_secs(1);

/// Settings that are ours to change and to put back.
const SETTINGS: [&str; 1] = ["max_slot_wal_keep_size"];

pub(super) fn failed(doing: &str, message: impl Into<String>) -> SessionError {
    SessionError::Failed { doing: doing.to_owned(), message: message.into() }
}

/// See [`crate::engine::Session::execute`].
pub async fn execute(session: &mut PostgreSqlSession, step: &Step) -> Result<(), SessionError> {
    let doing = &step.to_string();
    match step {
        Step::LimitSlotWal { megabytes } => set(session, doing, "max_slot_wal_keep_size", Some(&format!("{megabytes}MB"))).await,
        Step::RestoreSetting { name, before } => set(session, doing, name, before.as_deref()).await,
        Step::CreateRole { role } => {
            let exists = format!("SELECT FROM pg_roles WHERE rolname = {}", literal(role));
            let verb = if session.rows(doing, &exists).await?.is_empty() { "CREATE" } else { "ALTER" };
            session.rows(doing, &format!("{verb} ROLE {} LOGIN REPLICATION", identifier(role))).await.map(drop)
        }
        Step::DropRole { role } => {
            session.rows(doing, &format!("DROP ROLE IF EXISTS {}", identifier(role))).await?;
            // Whoever took the rule out of the file may have been killed before the server was told.
            reload(session, doing).await
        }
        Step::Disconnect { role } => disconnect(session, doing, &format!("usename = {}", literal(role))).await,
        Step::AddHbaLine { line } => add_line(session, doing, line).await,
        Step::RemoveHbaLine { line } => remove_line(session, doing, line).await,
        Step::ProveLogin { role } => prove_login(session, doing, role).await,
        Step::CreateSlot { slot } => {
            let slot = literal(slot);
            let sql = format!(
                "SELECT pg_create_physical_replication_slot({slot}, true) WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = {slot})"
            );
            session.rows(doing, &sql).await.map(drop)
        }
        Step::DropSlot { slot } => drop_slot(session, doing, slot).await,
    }
}

/// `ALTER SYSTEM`, reload, and wait until it is in force.
async fn set(session: &mut PostgreSqlSession, doing: &str, name: &str, value: Option<&str>) -> Result<(), SessionError> {
    if !SETTINGS.contains(&name) {
        return Err(failed(doing, format!("{name} is not a setting that is changed here")));
    }
    let quoted = identifier(name);
    let sql = value.map_or_else(|| format!("ALTER SYSTEM RESET {quoted}"), |value| format!("ALTER SYSTEM SET {quoted} = {}", literal(value)));
    session.rows(doing, &sql).await?;
    reload(session, doing).await
}

/// Reloads the configuration and waits until the postmaster has read it: only then do new sessions see it.
pub(super) async fn reload(session: &mut PostgreSqlSession, doing: &str) -> Result<(), SessionError> {
    let loaded = "SELECT pg_conf_load_time()";
    let before = session.value(doing, loaded).await?;
    session.rows(doing, "SELECT pg_reload_conf()").await?;
    let begun = Instant::now();
    // Our own backend reads the configuration when it is told by the same signal.
    while session.value(doing, loaded).await? == before {
        if begun.elapsed() > PATIENCE {
            let wrong = "SELECT string_agg(format('%s line %s: %s', sourcefile, sourceline, error), '; ') FROM pg_file_settings WHERE error IS NOT NULL";
            let why = session.value(doing, wrong).await?.unwrap_or_else(|| "no answer to the signal".to_owned());
            return Err(failed(doing, format!("the server did not reload its configuration ({why})")));
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// Ends the backends that `which` selects, and waits until they are gone.
async fn disconnect(session: &mut PostgreSqlSession, doing: &str, which: &str) -> Result<(), SessionError> {
    let begun = Instant::now();
    loop {
        let ended = session.rows(doing, &format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND {which}")).await?;
        if ended.is_empty() {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            return Err(failed(doing, format!("{} connection(s) come back again and again", ended.len())));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Drops a slot; who streams through it is sent away first.
async fn drop_slot(session: &mut PostgreSqlSession, doing: &str, slot: &str) -> Result<(), SessionError> {
    let slot = literal(slot);
    let begun = Instant::now();
    loop {
        disconnect(session, doing, &format!("pid IN (SELECT active_pid FROM pg_replication_slots WHERE slot_name = {slot})")).await?;
        let dropped = session.rows(doing, &format!("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = {slot}")).await;
        match dropped {
            // Whoever streamed has not quite let go, or came back in between.
            Err(SessionError::Failed { .. }) if begun.elapsed() < PATIENCE => tokio::time::sleep(PAUSE).await,
            other => return other.map(drop),
        }
    }
}

/// Runs a command as the server's user.
async fn command(session: &mut PostgreSqlSession, doing: &str, command: &str) -> Result<(), SessionError> {
    session.rows(doing, &format!("COPY (SELECT 1 WHERE false) TO PROGRAM {}", literal(command))).await.map(drop)
}

/// Path and text of pg_hba.conf.
pub(super) async fn hba_file(session: &mut PostgreSqlSession, doing: &str) -> Result<(String, String), SessionError> {
    let path = session.value(doing, "SELECT current_setting('hba_file')").await?.unwrap_or_default();
    let bytes = session.value(doing, "SELECT encode(pg_read_binary_file(current_setting('hba_file')), 'hex')").await?.unwrap_or_default();
    Ok((path, from_hex(&bytes)))
}

/// Rules with errors, as text.
async fn broken_rules(session: &mut PostgreSqlSession, doing: &str) -> Result<Option<String>, SessionError> {
    session.value(doing, "SELECT string_agg(format('line %s: %s', line_number, error), '; ') FROM pg_hba_file_rules WHERE error IS NOT NULL").await
}

async fn add_line(session: &mut PostgreSqlSession, doing: &str, line: &str) -> Result<(), SessionError> {
    if let Some(broken) = broken_rules(session, doing).await? {
        return Err(failed(doing, format!("pg_hba.conf has errors, and with them no line comes into force: {broken}")));
    }
    let (path, text) = hba_file(session, doing).await?;
    if !hba::stands_in(&text, line) {
        command(session, doing, &hba::addition(&path, &text, line)).await?;
    }
    // A line that is wrong leaves the old rules in force until the next start, which would then fail: so it is looked at before the reload.
    if let Some(broken) = broken_rules(session, doing).await? {
        remove_from_file(session, doing, line).await?;
        return Err(failed(doing, format!("pg_hba.conf would be refused: {broken}")));
    }
    reload(session, doing).await
}

async fn remove_line(session: &mut PostgreSqlSession, doing: &str, line: &str) -> Result<(), SessionError> {
    remove_from_file(session, doing, line).await?;
    reload(session, doing).await
}

async fn remove_from_file(session: &mut PostgreSqlSession, doing: &str, line: &str) -> Result<(), SessionError> {
    let (path, text) = hba_file(session, doing).await?;
    if hba::stands_in(&text, line) {
        command(session, doing, &hba::removal(&path, &text, line)).await?;
    }
    Ok(())
}

/// Gives the role a password that nobody else knows, and logs in with it for replication: an earlier `reject` line would win over ours.
async fn prove_login(session: &mut PostgreSqlSession, doing: &str, role: &str) -> Result<(), SessionError> {
    let password = hex::encode(rand::rng().random::<[u8; 24]>());
    session.set_password(role, &password).await?;
    // Whoever wrote the rule into the file may have been killed before the server was told.
    reload(session, doing).await?;
    let (host, port) = (session.endpoint.host.clone(), session.endpoint.port);
    let begun = Instant::now();
    loop {
        match replication_login(&host, port, role, &password).await {
            Err(SessionError::Refused(_)) if begun.elapsed() < RULES => tokio::time::sleep(PAUSE * 3).await,
            Err(SessionError::Refused(message)) => return Err(failed(doing, message)),
            other => return other,
        }
    }
}
