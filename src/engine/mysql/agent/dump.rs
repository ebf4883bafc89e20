//! The way where the source can't be cloned: mysqldump reads it, and a server of our own takes in what it writes. Its data directory is then the copy.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::process::Command;

use super::super::preflight::lacking_for_dump;
use super::super::session::MySqlSession;
use super::pipe::{DUMP, Pipe, program};
use super::server::{Purpose, Server};
use super::settings::Settings;
use super::{MySql, SourceFacts, refuse_what_is_lost, server};
use crate::agent::{AgentError, Backup, endpoint, write_durably};
use crate::engine::Endpoint;

/// In what mysqldump writes, once it has its snapshot and has read which transactions are in it.
const SNAPSHOT: &[u8] = b"@@GLOBAL.GTID_PURGED=";
/// For so long is waited for a moment in which no statement of the source's has run for a second.
const QUIET: Duration = Duration::from_secs(30);
/// For so many seconds the source's writes may wait for the moment of the snapshot: twice, for the lock and for mysqldump.
const HELD: u32 = 3;
const PAUSE: Duration = Duration::from_millis(200);

/// Fills a new data directory with what mysqldump reads from the source behind the session.
pub async fn load(request: &Backup, mut session: MySqlSession, facts: &SourceFacts, settings: &Settings, data: &Path) -> Result<(), AgentError> {
    let lacking = lacking_for_dump(facts).join(", ");
    if !lacking.is_empty() {
        return Err(AgentError::Refused(format!(
            "the source can't be cloned, and for mysqldump the user {} lacks on *.*: {lacking} (what to do: GRANT {lacking} ON *.* TO that user)",
            facts.user
        )));
    }
    server::initialize(settings, data).await?;
    let mut server = Server::start(settings, data, &Purpose::Load).await?;
    let options = server.private().join("source.cnf");
    write_durably(&options, 0o600, option_file(&endpoint::<MySql>(request)?, settings.encrypted).as_bytes())?;
    let tool = |arguments: &[&str]| {
        let mut command = Command::new(program(&settings.base_directory, DUMP));
        // Binary values as digits: no character set and no client can change them.
        command.arg(format!("--defaults-file={}", options.display())).args(["--single-transaction", "--hex-blob", "--max-allowed-packet=1G"]);
        command.args(arguments);
        command
    };

    // An event may name a time zone, and is made before the tables that know it.
    let zones = ["time_zone", "time_zone_leap_second", "time_zone_name", "time_zone_transition", "time_zone_transition_type"];
    let zones = tool(&[&["--set-gtid-purged=OFF", "mysql"], &zones[..]].concat());
    Pipe::start(settings, zones, &server.socket())?.finish(&mut session).await?;

    hold(&mut session).await?;
    // Its name before 8.0.26.
    let source_data = if settings.version < (8, 0, 26) { "--master-data=2" } else { "--source-data=2" };
    let all = tool(&["--set-gtid-purged=ON", "--all-databases", source_data, "--routines", "--events", "--triggers"]);
    let mut pipe = Pipe::start(settings, all, &server.socket())?;
    let begun = tokio::time::timeout(Duration::from_secs(HELD.into()), pipe.await_mark(SNAPSHOT)).await;
    session.rows("letting writes go on", "UNLOCK TABLES").await?;
    if begun.is_err() {
        pipe.kill(&mut session).await?;
        return Err(AgentError::Refused(format!("{DUMP} did not have its snapshot within {HELD} s, and writes waited for it")));
    }
    let mut now = facts.clone();
    session.inspect_data(&mut now).await?;
    refuse_what_is_lost(&now)?;
    pipe.finish(&mut session).await?;
    // If the session has ended, so has its lock: then this is no copy.
    session.rows("letting definitions change again", "UNLOCK INSTANCE").await?;
    drop(session);
    // The accounts are the source's now, and can be read. LOCAL: not to be replicated.
    server.session().rows("reading the copied accounts", "FLUSH LOCAL PRIVILEGES").await?;
    server.stop().await
}

/// Stops writes for the moment of the snapshot, and changes of definitions and accounts until the dump is taken: these are not in the snapshot, and one that
/// changes meanwhile could be copied and then be replicated as well (manual, "LOCK INSTANCE FOR BACKUP").
///
/// The locks of mysqldump, which come after, are then granted at once. Without ours, a statement that changes a definition and waits for the lock of the
/// instance would keep mysqldump waiting, and all writes behind it.
async fn hold(session: &mut MySqlSession) -> Result<(), AgentError> {
    // Behind a statement that runs for long the lock would wait, and everything else that wants the same table, even once the lock is given up.
    let long = "SELECT MAX(PROCESSLIST_TIME) FROM performance_schema.threads WHERE PROCESSLIST_COMMAND IN ('Query', 'Execute') AND PROCESSLIST_TIME >= 1 \
        AND PROCESSLIST_ID <> CONNECTION_ID()";
    let begun = Instant::now();
    while let Some(seconds) = session.value("looking for statements that run for long", long).await? {
        if begun.elapsed() > QUIET {
            return Err(AgentError::Refused(format!(
                "a statement has run on the source for {seconds} s, and writes would wait behind it for the moment in which {DUMP} takes its snapshot"
            )));
        }
        tokio::time::sleep(PAUSE).await;
    }
    let doing = "stopping writes for a moment";
    session.rows(doing, &format!("SET SESSION lock_wait_timeout = {HELD}")).await?;
    session.rows(doing, "FLUSH LOCAL TABLES WITH READ LOCK").await?;
    session.rows("keeping definitions as they are", "LOCK INSTANCE FOR BACKUP").await?;
    Ok(())
}

/// The tools' way to the source: a file that only we can read, since arguments can be read by everybody (manual, "Using Option Files").
fn option_file(source: &Endpoint, encrypted: bool) -> String {
    let mut lines = String::from("[client]\nprotocol=TCP\n");
    for (name, value) in [("host", &source.host), ("user", &source.username), ("password", &source.password)] {
        let mut quoted = String::new();
        for c in value.chars() {
            match c {
                '\\' | '"' => quoted.extend(['\\', c]),
                '\n' => quoted.push_str("\\n"),
                '\r' => quoted.push_str("\\r"),
                c => quoted.push(c),
            }
        }
        let _ = writeln!(lines, "{name}=\"{quoted}\"");
    }
    let tls = if encrypted { "ssl-mode=REQUIRED" } else { "ssl-mode=DISABLED\nget-server-public-key" };
    let _ = writeln!(lines, "port={}\n{tls}", source.port);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_read_from_the_option_file_as_it_is() {
        let source = |password: &str| Endpoint { host: "db".into(), port: 3306, database: String::new(), username: "root".into(), password: password.into() };
        let file = option_file(&source("it's # a \"pass\\word\"\n"), true);
        assert!(file.contains(r#"password="it's # a \"pass\\word\"\n""#), "{file}");
        assert!(file.contains("ssl-mode=REQUIRED") && !file.contains("public-key"));
        assert!(option_file(&source("x"), false).contains("get-server-public-key"));
    }
}
