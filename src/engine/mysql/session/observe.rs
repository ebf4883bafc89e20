//! Reads a server. Changes nothing.

use std::time::Duration;

use super::super::facts::{Persisted, SourceFacts};
use super::{MySqlSession, Row, literal};
use crate::engine::{Identity, Position, ReplicaSummary, SessionError, TransactionSet};

/// How long the tablespaces may be measured: every file is looked at.
pub(super) const MEASURE: Duration = Duration::from_mins(1);
/// How many tables a finding names.
const NAMED: usize = 10;

/// Since 8.0.17, and readable by every user.
const COMMON: &str = "SELECT VERSION() AS version, @@server_uuid AS server_uuid, @@server_id AS server_id, @@datadir AS datadir, @@basedir AS basedir, \
    CURRENT_USER() AS me, @@log_bin AS log_bin, @@GLOBAL.binlog_format AS binlog_format, @@GLOBAL.gtid_mode AS gtid_mode, \
    @@GLOBAL.enforce_gtid_consistency AS enforce, @@persisted_globals_load AS persisted_load, @@GLOBAL.super_read_only | @@GLOBAL.read_only AS read_only, \
    @@GLOBAL.gtid_executed AS executed, @@GLOBAL.gtid_purged AS purged, @@lower_case_table_names AS lower_case, @@innodb_page_size AS page_size, \
    @@innodb_data_file_path AS data_file_path, @@relay_log AS relay_log, @@hostname AS hostname";

/// A set of transactions from the server's text.
pub(super) fn position(doing: &str, text: &str) -> Result<Position, SessionError> {
    let set = TransactionSet::parse(text).map(Position::Transactions);
    set.ok_or_else(|| SessionError::Failed { doing: doing.to_owned(), message: format!("not a GTID set: {text}") })
}

/// The numbers of a version; of another make of server none.
pub(super) fn numbers(version: &str) -> (u32, u32, u32) {
    let mut parts = version.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    let numbers = (next(), next(), next());
    if version.to_lowercase().contains("mariadb") { (0, 0, 0) } else { numbers }
}

/// The privileges on everything that a line of `SHOW GRANTS` gives, with ` *` where they may be granted on.
pub(super) fn privileges(line: &str) -> Vec<String> {
    let Some((names, rest)) = line.strip_prefix("GRANT ").and_then(|line| line.split_once(" ON *.* TO ")) else { return Vec::new() };
    let mark = if rest.ends_with("WITH GRANT OPTION") { " *" } else { "" };
    names.split(',').map(|name| format!("{}{mark}", name.trim().to_uppercase())).collect()
}

/// See [`crate::engine::Session::observe_source`].
pub async fn source(session: &mut MySqlSession, identity: Option<&Identity>) -> Result<SourceFacts, SessionError> {
    let doing = "reading the server's settings";
    let version = session.value(doing, "SELECT VERSION()").await?.unwrap_or_default();
    let numbers = numbers(&version);
    if numbers < (8, 0, 17) {
        // What is read below does not exist there: the version is a finding.
        return Ok(SourceFacts { version, ..SourceFacts::default() });
    }
    let rows = session.rows(doing, COMMON).await?;
    let Some(row) = rows.first() else {
        return Err(SessionError::Failed { doing: doing.to_owned(), message: "no answer".to_owned() });
    };
    let directory = |name: &str| row.word(name).trim_end_matches('/').to_owned();
    let hostname = row.word("hostname");
    let variable = |name: &str| Persisted { value: row.word(name).to_uppercase(), persisted: None };
    let mut facts = SourceFacts {
        version,
        numbers,
        server_uuid: row.word("server_uuid"),
        server_id: row.number("server_id"),
        data_directory: directory("datadir"),
        base_directory: directory("basedir"),
        user: row.word("me"),
        log_bin: row.yes("log_bin"),
        binlog_format: row.word("binlog_format"),
        gtid_mode: variable("gtid_mode"),
        enforce: variable("enforce"),
        persisted_load: row.yes("persisted_load"),
        read_only: row.yes("read_only"),
        position: position(doing, &row.word("executed"))?,
        purged: position(doing, &row.word("purged"))?,
        lower_case_table_names: row.word("lower_case"),
        page_size: row.word("page_size"),
        data_file_path: row.word("data_file_path"),
        relay_log: Some(row.word("relay_log")).filter(|name| *name != format!("{hostname}-relay-bin")).unwrap_or_default(),
        hostname,
        encrypted: session.encrypted(),
        ..SourceFacts::default()
    };
    more(session, identity, &mut facts).await?;
    Ok(facts)
}

/// What finds everything of ours that has to be undone, and tells what of it may be: in words, and the query.
fn looks(role: &str) -> [(&'static str, String); 2] {
    let name = literal(role);
    let settings = format!(
        "SELECT 'persisted' AS kind, VARIABLE_NAME AS name, VARIABLE_VALUE AS value FROM performance_schema.persisted_variables \
         WHERE VARIABLE_NAME IN ('gtid_mode', 'enforce_gtid_consistency') \
         UNION ALL SELECT 'channel', CHANNEL_NAME, '' FROM performance_schema.replication_connection_configuration \
         UNION ALL SELECT 'connection', PROCESSLIST_USER = {name}, PROCESSLIST_COMMAND FROM performance_schema.threads \
         WHERE PROCESSLIST_USER = {name} OR PROCESSLIST_COMMAND LIKE 'Binlog Dump%'"
    );
    let user = format!(
        "SELECT u.Repl_slave_priv = 'Y' AND EXISTS (SELECT 1 FROM mysql.global_grants g WHERE g.USER = u.User AND g.HOST = u.Host AND g.PRIV = 'BACKUP_ADMIN') AS granted, \
         u.account_locked = 'N' AND u.authentication_string <> '' AS access FROM mysql.user u WHERE u.User = {name} AND u.Host = '%'"
    );
    [("looking at the server's connections", settings), ("looking for our user", user)]
}

/// Succeeds only if everything of ours can be seen.
pub async fn find(session: &mut MySqlSession, role: &str) -> Result<(), SessionError> {
    for (doing, sql) in looks(role) {
        session.rows(doing, &sql).await?;
    }
    Ok(())
}

/// What this user may lack the privilege to see.
async fn more(session: &mut MySqlSession, identity: Option<&Identity>, facts: &mut SourceFacts) -> Result<(), SessionError> {
    let role = identity.map(Identity::role).unwrap_or_default();
    let [(doing_settings, settings), (doing_user, user)] = looks(&role);
    facts.privileges = session.visible("reading privileges", "SHOW GRANTS").await?.iter().filter_map(Row::first).flat_map(|line| privileges(&line)).collect();
    let mut clones = false;
    for row in session.visible_or(doing_settings, &settings, &mut facts.hidden).await? {
        let value = row.text("value");
        match (row.word("kind").as_str(), row.word("name").as_str()) {
            ("persisted", "gtid_mode") => facts.gtid_mode.persisted = value.map(|value| value.to_uppercase()),
            ("persisted", _) => facts.enforce.persisted = value.map(|value| value.to_uppercase()),
            ("channel", _) => facts.channels += 1,
            ("connection", "1") => {
                facts.connections += 1;
                // Not written alike in all versions.
                clones |= value.as_deref().is_some_and(|command| command.eq_ignore_ascii_case("clone"));
            }
            _ => facts.other_replicas += 1,
        }
    }
    if clones {
        facts.clone_sent = clone_sent(session, &role).await?;
    }
    let plugins =
        "SELECT PLUGIN_NAME AS name, PLUGIN_LIBRARY AS file FROM information_schema.PLUGINS WHERE PLUGIN_STATUS = 'ACTIVE' AND PLUGIN_LIBRARY IS NOT NULL";
    for row in session.visible("looking for plugins", plugins).await? {
        facts.clone_active |= row.word("name") == "clone";
        facts.plugin_libraries.push(row.word("file"));
    }
    if let Some(row) = session.visible_or(doing_user, &user, &mut facts.hidden).await?.first() {
        (facts.user_exists, facts.user_granted, facts.user_access) = (true, row.yes("granted"), row.yes("access"));
    }
    if !facts.user_exists {
        let status = if facts.numbers < (8, 2, 0) { "SHOW MASTER STATUS" } else { "SHOW BINARY LOG STATUS" };
        if let Some(row) = session.visible("looking at the binary log", status).await?.first() {
            let filters = ["Binlog_Do_DB", "Binlog_Ignore_DB"].map(|name| (name, row.word(name)));
            let said = filters.iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| format!("{}: {value}", name.to_lowercase().replace('_', "-")));
            facts.binlog_filters = said.collect::<Vec<_>>().join(", ");
        }
        data(session, facts).await?;
    }
    Ok(())
}

/// Bytes sent to a server that clones this one as our user. The clone plugin's own tables are filled on the recipient only (manual, "Monitoring Cloning
/// Operations"), and while the consumer of stages is off, as it is by default, what shows of a donor's belongs to no thread and is not documented.
async fn clone_sent(session: &mut MySqlSession, role: &str) -> Result<Option<u64>, SessionError> {
    let sql = format!(
        "SELECT CAST(SUM(s.VARIABLE_VALUE) AS UNSIGNED) AS sent FROM performance_schema.threads t JOIN performance_schema.status_by_thread s USING (THREAD_ID) \
         WHERE t.PROCESSLIST_USER = {} AND t.PROCESSLIST_COMMAND = 'Clone' AND s.VARIABLE_NAME = 'Bytes_sent'",
        literal(role)
    );
    let rows = session.visible("looking at the progress of the clone", &sql).await?;
    Ok(rows.first().and_then(|row| row.text("sent")).and_then(|text| text.parse().ok()))
}

/// What can't be copied. On a server with very many tables this takes a while: it is asked before the first change and before a copy only.
pub async fn data(session: &mut MySqlSession, facts: &mut SourceFacts) -> Result<(), SessionError> {
    let doing = "looking for tables that can't be copied";
    let tables = "SELECT CONCAT(TABLE_SCHEMA, '.', TABLE_NAME, ' (', ENGINE, ')') AS name FROM information_schema.TABLES \
        WHERE TABLE_TYPE = 'BASE TABLE' AND ENGINE <> 'InnoDB' AND TABLE_SCHEMA NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema') ORDER BY 1";
    let names: Vec<String> = session.visible(doing, tables).await?.iter().filter_map(Row::first).collect();
    facts.other_tables_count = u32::try_from(names.len()).unwrap_or(u32::MAX);
    facts.other_tables = names.into_iter().take(NAMED).collect();
    let directory = literal(&format!("{}/", facts.data_directory));
    let files = format!(
        "SELECT FILE_NAME AS name FROM information_schema.FILES WHERE FILE_TYPE IN ('TABLESPACE', 'UNDO LOG') AND FILE_NAME LIKE '/%' AND LEFT(FILE_NAME, CHAR_LENGTH({directory})) <> {directory} \
         UNION ALL SELECT CONCAT(VARIABLE_NAME, ' = ', VARIABLE_VALUE) FROM performance_schema.global_variables \
         WHERE VARIABLE_NAME IN ('innodb_undo_directory', 'innodb_log_group_home_dir', 'innodb_data_home_dir', 'relay_log_basename', 'log_bin_basename') \
         AND VARIABLE_VALUE LIKE '/%' AND LEFT(CONCAT(TRIM(TRAILING '/' FROM VARIABLE_VALUE), '/'), CHAR_LENGTH({directory})) <> {directory} LIMIT {NAMED}"
    );
    let found: Vec<String> = session.visible(doing, &files).await?.iter().filter_map(Row::first).collect();
    let (log, outside) = found.into_iter().partition(|what| what.starts_with("log_bin_basename"));
    (facts.log_outside, facts.outside) = (Vec::into_iter(log).next(), outside);
    let encrypted = "SELECT COUNT(*) AS n FROM information_schema.INNODB_TABLESPACES WHERE ENCRYPTION = 'Y'";
    facts.encrypted_tablespaces = session.visible(doing, encrypted).await?.first().map(|row| row.number("n")).unwrap_or_default();
    Ok(())
}

/// See [`crate::engine::Session::measure`].
pub async fn measure(session: &mut MySqlSession) -> Result<u64, SessionError> {
    let doing = "measuring the tablespaces";
    let limit = format!("SELECT /*+ MAX_EXECUTION_TIME({}) */ SUM(FILE_SIZE) AS bytes FROM information_schema.INNODB_TABLESPACES", MEASURE.as_millis());
    let rows = session.rows_within(doing, &limit, MEASURE).await?;
    let bytes = rows.first().and_then(|row| row.text("bytes")).and_then(|text| text.parse().ok());
    bytes.ok_or_else(|| SessionError::Failed { doing: doing.to_owned(), message: "the server gave no size".to_owned() })
}

/// The part of a message that tells what is wrong: without the statement and the values that the server quotes, which may be secrets of the user's, and without
/// the number of the attempt, which would tick.
pub fn telling(message: &str) -> String {
    let message = message.rsplit_once("Message: ").or_else(|| message.rsplit_once("message: ")).map_or(message, |(_, told)| told);
    let end = ["Default database: ", "Query: ", " near '"].iter().filter_map(|word| message.find(word)).min().unwrap_or(message.len());
    let told = message.get(..end).unwrap_or(message).trim_end();
    match (told.find("Duplicate entry '"), told.find("' for key")) {
        (Some(from), Some(to)) if from < to => format!("{}Duplicate entry …{}", &told[..from], &told[to + 1..]),
        _ => told.to_owned(),
    }
}

/// See [`crate::engine::Session::observe_replica`]. From the tables, whose names are the same in all versions.
pub async fn replica(session: &mut MySqlSession) -> Result<ReplicaSummary, SessionError> {
    let doing = "reading the replica's state";
    let sql = "SELECT @@GLOBAL.super_read_only AS read_only, @@GLOBAL.gtid_executed AS executed, c.SERVICE_STATE AS receiver, \
        c.RECEIVED_TRANSACTION_SET AS received, c.LAST_ERROR_NUMBER AS receiver_error, c.LAST_ERROR_MESSAGE AS receiver_message, a.SERVICE_STATE AS applier, \
        (SELECT e.LAST_ERROR_MESSAGE FROM performance_schema.replication_applier_status_by_worker e WHERE e.CHANNEL_NAME = '' AND e.LAST_ERROR_NUMBER <> 0 LIMIT 1) AS worker_message, \
        (SELECT e.LAST_ERROR_MESSAGE FROM performance_schema.replication_applier_status_by_coordinator e WHERE e.CHANNEL_NAME = '' AND e.LAST_ERROR_NUMBER <> 0 LIMIT 1) AS coordinator_message \
        FROM (SELECT 1) AS one LEFT JOIN performance_schema.replication_connection_status c ON c.CHANNEL_NAME = '' \
        LEFT JOIN performance_schema.replication_applier_status a ON a.CHANNEL_NAME = ''";
    let rows = session.rows(doing, sql).await?;
    let Some(row) = rows.first() else { return Ok(ReplicaSummary::default()) };
    let (receiver, applier) = (row.word("receiver"), row.word("applier"));
    let said = |name: &str| row.text(name).filter(|text| !text.is_empty()).map(|text| telling(&text));
    let trouble = match (receiver.as_str(), applier.as_str()) {
        ("ON", "ON") => None,
        ("ON", _) => Some(
            said("worker_message").or_else(|| said("coordinator_message")).unwrap_or_else(|| "the applier is stopped (START REPLICA starts it)".to_owned()),
        ),
        ("CONNECTING", _) => Some(said("receiver_message").unwrap_or_else(|| "it is connecting to the source".to_owned())),
        ("", _) => Some("it has no source: its channel was removed (RESET REPLICA ALL)".to_owned()),
        _ => Some(said("receiver_message").unwrap_or_else(|| "the receiver is stopped (START REPLICA starts it)".to_owned())),
    };
    let executed = row.word("executed");
    Ok(ReplicaSummary {
        read_only: row.yes("read_only"),
        leads: false,
        streaming: receiver == "ON" && applier == "ON",
        applied: position(doing, &executed)?,
        // What was applied counts as received: what was restored has never been received.
        received: position(doing, &format!("{executed},{}", row.word("received")))?,
        records: None,
        copy_progress: None,
        trouble,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_tells_no_statement_no_value_and_no_number_of_attempts() {
        let refused = "Error connecting to source 'u@h:3306'. This was attempt 17/1000000, with a delay of 5 seconds between attempts. Message: Access denied for user 'u'@'h'";
        assert_eq!(telling(refused), "Access denied for user 'u'@'h'");
        let statement = "Worker 1 failed executing transaction 'x:5'; Error 'Operation CREATE USER failed' on query. Default database: ''. Query: 'CREATE USER a IDENTIFIED BY …'";
        assert_eq!(telling(statement), "Worker 1 failed executing transaction 'x:5'; Error 'Operation CREATE USER failed' on query.");
        let syntax = "ERROR 1064 (42000) at line 7: You have an error in your SQL syntax; check the manual for the right syntax to use near 'secret' at line 1";
        assert!(telling(syntax).ends_with("the right syntax to use"), "{}", telling(syntax));
        let row = "Could not execute Write_rows event on table shop.t; Duplicate entry 'alice@example' for key 't.PRIMARY', Error_code: 1062";
        assert_eq!(telling(row), "Could not execute Write_rows event on table shop.t; Duplicate entry … for key 't.PRIMARY', Error_code: 1062");
    }

    #[test]
    fn versions_are_numbers_and_of_this_make() {
        assert_eq!(numbers("9.7.4-2"), (9, 7, 4));
        assert_eq!(numbers("8.0.37"), (8, 0, 37));
        assert_eq!(numbers("11.8.1-MariaDB-ubu2404"), (0, 0, 0));
        assert_eq!(numbers("?"), (0, 0, 0));
    }

    #[test]
    fn privileges_are_those_on_everything() {
        let line = "GRANT SELECT, CREATE USER ON *.* TO `root`@`localhost` WITH GRANT OPTION";
        assert_eq!(privileges(line), ["SELECT *", "CREATE USER *"]);
        assert_eq!(privileges("GRANT BACKUP_ADMIN,CLONE_ADMIN ON *.* TO `a`@`%`"), ["BACKUP_ADMIN", "CLONE_ADMIN"]);
        assert!(privileges("GRANT ALL PRIVILEGES ON `shop`.* TO `a`@`%`").is_empty());
        assert!(privileges("GRANT PROXY ON ``@`` TO `root`@`localhost` WITH GRANT OPTION").is_empty());
    }
}
