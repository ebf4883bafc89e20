//! Reads a server. Changes nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::facts::{HbaRule, SettingFacts, SlotFacts, SourceFacts};
use super::super::hba;
use super::super::hba::shell_word;
use super::{PostgreSqlSession, execute, literal};
use crate::engine::{Identity, Position, Progress, ReplicaSummary, SessionError};

/// A row of text values by name.
pub(super) struct Row(pub tokio_postgres::SimpleQueryRow);

impl Row {
    pub fn text(&self, name: &str) -> Option<String> {
        self.0.try_get(name).ok().flatten().map(str::to_owned)
    }

    pub fn word(&self, name: &str) -> String {
        self.text(name).unwrap_or_default()
    }

    pub fn number<N: std::str::FromStr + Default>(&self, name: &str) -> N {
        self.text(name).and_then(|text| text.parse().ok()).unwrap_or_default()
    }

    pub fn yes(&self, name: &str) -> bool {
        self.text(name).as_deref() == Some("t")
    }
}

/// How long the databases may be measured: every file of theirs is looked at.
pub(super) const MEASURE: Duration = Duration::from_mins(1);

/// What every user may read.
const COMMON: &str = "SELECT current_setting('server_version_num') AS version_num, current_setting('server_version') AS version, \
    current_user AS me, (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS superuser, pg_is_in_recovery() AS recovery, \
    current_setting('wal_level') AS wal_level, current_setting('max_wal_senders') AS senders, (SELECT count(*) FROM pg_stat_replication) AS senders_used, \
    current_setting('max_replication_slots') AS slots, (SELECT count(*) FROM pg_replication_slots) AS slots_used, \
    (SELECT setting FROM pg_settings WHERE name = 'max_slot_wal_keep_size') AS keep, \
    (SELECT source FROM pg_settings WHERE name = 'max_slot_wal_keep_size') AS keep_source, \
    (SELECT sourcefile LIKE '%postgresql.auto.conf' FROM pg_settings WHERE name = 'max_slot_wal_keep_size') AS keep_from_auto, \
    (SELECT string_agg(concat_ws(chr(9), name, setting, boot_val, source, sourcefile), chr(10)) FROM pg_settings WHERE name IN ('max_connections', \
        'max_worker_processes', 'max_wal_senders', 'max_prepared_transactions', 'max_locks_per_transaction', 'hot_standby')) AS standby, \
    CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END - '0/0' AS position, \
    (SELECT string_agg(pg_tablespace_location(oid), ', ') FROM pg_tablespace WHERE pg_tablespace_location(oid) <> '') AS outside";

/// Size of the databases that this user may ask for.
const BYTES: &str = "SELECT sum(CASE WHEN has_database_privilege(oid, 'CONNECT') THEN pg_database_size(oid) ELSE 0 END) FROM pg_database";

/// What a superuser may read besides. Files as bytes: a comment in another encoding is no error. `pg_read_file` reads `/proc` too: the backend's own user is that of the server.
const SUPERUSER: &str = "SELECT (SELECT system_identifier FROM pg_control_system()) AS system, current_setting('data_directory') AS data_directory, current_setting('hba_file') AS hba_file, \
    current_setting('config_file') AS config_file, \
    (SELECT string_agg(name, ',') FROM unnest(ARRAY['postgresql.conf', 'pg_hba.conf']) AS name WHERE (pg_stat_file(name, true)).size IS NOT NULL) AS own_files, \
    encode(pg_read_binary_file(current_setting('hba_file'), 0, 16777216, true), 'hex') AS hba, pg_read_file('/proc/self/status', 0, 4096) AS process, \
    (SELECT min(name) FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$' AND substr(name, 1, 8) = \
        (SELECT substr(max(name), 1, 8) FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$')) AS oldest, \
    (SELECT setting FROM pg_settings WHERE name = 'wal_segment_size') AS segment, \
    (SELECT setting FROM pg_file_settings WHERE name = 'max_slot_wal_keep_size' AND sourcefile LIKE '%postgresql.auto.conf' ORDER BY seqno DESC LIMIT 1) AS keep_auto";

/// The start of the WAL segment with this file name (manual, "WAL Internals").
fn segment_start(name: &str, segment_size: u64) -> Option<Position> {
    let log = u64::from_str_radix(name.get(8..16)?, 16).ok()?;
    let segment = u64::from_str_radix(name.get(16..24)?, 16).ok()?;
    Some(Position::Bytes((log << 32) + segment * segment_size))
}

/// The effective user and group of a process from its `/proc/…/status`.
fn owner(status: &str) -> Option<(u32, u32)> {
    let second = |key: &str| status.lines().find_map(|line| line.strip_prefix(key))?.split_whitespace().nth(1)?.parse().ok();
    Some((second("Uid:")?, second("Gid:")?))
}

/// Text from its bytes in hexadecimal digits, as `encode` writes them; what is not UTF-8 is replaced.
pub(super) fn from_hex(digits: &str) -> String {
    String::from_utf8_lossy(&hex::decode(digits).unwrap_or_default()).into_owned()
}

/// A setting from its columns; the last one is missing where no file has it.
fn setting(columns: &str) -> SettingFacts {
    let mut columns = columns.splitn(5, '\t').map(str::to_owned);
    let mut next = || columns.next().unwrap_or_default();
    SettingFacts { name: next(), value: next(), default: next(), source: next(), file: next() }
}

/// See [`crate::engine::Session::observe_source`].
pub async fn source(session: &mut PostgreSqlSession, identity: Option<&Identity>) -> Result<SourceFacts, SessionError> {
    let rows = session.rows("reading the server's settings", COMMON).await?;
    let Some(row) = rows.into_iter().next().map(Row) else {
        return Err(SessionError::Failed { doing: "reading the server's settings".to_owned(), message: "no answer".to_owned() });
    };
    let mut facts = SourceFacts {
        version_num: row.number("version_num"),
        version: row.word("version"),
        superuser: row.yes("superuser"),
        user: row.word("me"),
        in_recovery: row.yes("recovery"),
        wal_level: row.word("wal_level"),
        wal_senders: (row.number("senders"), row.number("senders_used")),
        replication_slots: (row.number("slots"), row.number("slots_used")),
        slot_wal_keep_mb: row.number("keep"),
        slot_wal_keep_source: row.word("keep_source"),
        slot_wal_keep_from_auto_conf: row.yes("keep_from_auto"),
        standby_settings: row.word("standby").lines().map(setting).collect(),
        outside: row.text("outside").into_iter().collect(),
        position: Position::Bytes(row.number("position")),
        ..SourceFacts::default()
    };
    // Before 13 there is nothing of ours, and what would tell is not there either: the version is a finding.
    if let Some(identity) = identity.filter(|_| facts.version_num >= 130_000) {
        ours(session, identity, &mut facts).await?;
    }
    if facts.superuser {
        privileged(session, identity, &mut facts).await?;
    }
    Ok(facts)
}

/// Role, slots and connections of ours.
async fn ours(session: &mut PostgreSqlSession, identity: &Identity, facts: &mut SourceFacts) -> Result<(), SessionError> {
    let role = literal(&identity.role());
    let sql = format!(
        "SELECT 'role' AS kind, rolname::text AS name, false AS active, '' AS state, 0::bigint AS a, NULL::bigint AS b FROM pg_roles WHERE rolname = {role} \
         UNION ALL SELECT 'slot', slot_name::text, active, COALESCE(wal_status, ''), 0, NULL FROM pg_replication_slots WHERE starts_with(slot_name::text, {role} || '_') \
         UNION ALL SELECT 'connection', '', false, '', 0, NULL FROM pg_stat_activity WHERE usename = {role} \
         UNION ALL SELECT 'backup', '', false, '', p.backup_streamed, p.backup_total FROM pg_stat_progress_basebackup p JOIN pg_stat_activity USING (pid) WHERE usename = {role}"
    );
    for row in session.rows("looking for what is ours", &sql).await?.into_iter().map(Row) {
        match row.word("kind").as_str() {
            "role" => facts.role_exists = true,
            "connection" => facts.connections += 1,
            "backup" => facts.backup_progress = Some(Progress { copied: row.number("a"), total: row.text("b").and_then(|b| b.parse().ok()) }),
            _ => {
                let name = row.word("name");
                if let Some(number) = identity.slot_number(&name) {
                    facts.slots.push(SlotFacts { number, active: row.yes("active"), wal_status: row.word("state"), name });
                }
            }
        }
    }
    facts.slots.sort_by_key(|slot| slot.number);
    Ok(())
}

/// See [`crate::engine::Session::identities`]. A role that is dropped on the source goes on its standbys, too; its line in their pg_hba.conf does not.
pub async fn identities(session: &mut PostgreSqlSession) -> Result<BTreeSet<Identity>, SessionError> {
    let doing = "looking for what is ours";
    let roles = session.rows(doing, r"SELECT rolname FROM pg_roles WHERE rolname LIKE 'understudy\_%'").await?;
    let (_, text) = execute::hba_file(session, doing).await?;
    Ok(roles.iter().filter_map(|row| Identity::of_role(row.get(0)?)).chain(hba::identities(&text)).collect())
}

/// See [`crate::engine::Session::measure`].
pub async fn measure(session: &mut PostgreSqlSession) -> Result<u64, SessionError> {
    let doing = "measuring the databases";
    let rows = session.rows_within(doing, &format!("SET LOCAL statement_timeout = {}; {BYTES}", MEASURE.as_millis()), MEASURE).await?;
    let bytes = rows.first().and_then(|row| row.try_get(0).ok().flatten()).and_then(|text| text.parse().ok());
    bytes.ok_or_else(|| SessionError::Failed { doing: doing.to_owned(), message: "the server gave no size".to_owned() })
}

/// What only a superuser may read.
async fn privileged(session: &mut PostgreSqlSession, identity: Option<&Identity>, facts: &mut SourceFacts) -> Result<(), SessionError> {
    let role = literal(&identity.map(Identity::role).unwrap_or_default());
    let password = format!("EXISTS (SELECT FROM pg_authid WHERE rolname = {role} AND rolpassword IS NOT NULL) AS password");
    let rows = session.rows("reading the server's files", &format!("{SUPERUSER}, {password}")).await?;
    let Some(row) = rows.into_iter().next().map(Row) else { return Ok(()) };
    facts.system = row.word("system");
    facts.data_directory = row.word("data_directory");
    facts.config_file = row.word("config_file");
    facts.own_files = row.word("own_files").split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    facts.hba_file = row.word("hba_file");
    facts.role_has_password = row.yes("password");
    facts.owner = owner(&row.word("process")).unwrap_or_default();
    let segment_size = row.number("segment");
    facts.oldest_wal = segment_start(&row.word("oldest"), segment_size).unwrap_or_default();
    facts.slot_wal_keep_auto_conf = row.text("keep_auto");
    let text = from_hex(&row.word("hba"));
    facts.hba_line_present = identity.is_some_and(|identity| hba::stands_in(&text, &super::super::hba_line(identity)));
    if facts.hba_line_present {
        facts.hba_writable = true;
        return Ok(());
    }
    // Only now: an idle source is not asked to run anything.
    facts.hba_writable = command_succeeds(session, &format!("test -w {}", shell_word(&facts.hba_file))).await?;
    let log = shell_word(&format!("{}/pg_wal", facts.data_directory));
    // An image without a shell says no to everything.
    if !command_succeeds(session, &format!("test ! -L {log}")).await? && command_succeeds(session, &format!("test -L {log}")).await? {
        facts.outside.push("pg_wal (a link)".to_owned());
    }
    let rules = "SELECT line_number, type, array_to_string(database, ',') AS databases, array_to_string(user_name, ',') AS users, address, auth_method, error FROM pg_hba_file_rules ORDER BY line_number";
    let split = |text: String| text.split(',').filter(|part| !part.is_empty()).map(str::to_owned).collect();
    facts.hba_rules = session
        .rows("reading pg_hba_file_rules", rules)
        .await?
        .into_iter()
        .map(Row)
        .map(|row| HbaRule {
            line: row.number("line_number"),
            kind: row.word("type"),
            databases: split(row.word("databases")),
            users: split(row.word("users")),
            address: row.word("address"),
            method: row.word("auth_method"),
            error: row.text("error"),
        })
        .collect();
    Ok(())
}

/// Runs a command as the server's user that only looks; false if it says no, of which the server's log hears nothing.
async fn command_succeeds(session: &mut PostgreSqlSession, command: &str) -> Result<bool, SessionError> {
    let sql = format!("SET LOCAL log_min_messages = fatal; COPY (SELECT 1 WHERE false) TO PROGRAM {}", literal(command));
    match session.rows("asking the server's file system", &sql).await {
        Ok(_) => Ok(true),
        Err(SessionError::Failed { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// See [`crate::engine::Session::observe_replica`].
pub async fn replica(session: &mut PostgreSqlSession) -> Result<ReplicaSummary, SessionError> {
    let sql = "SELECT pg_is_in_recovery() AS recovery, EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming') AS streaming, \
        COALESCE(pg_last_wal_replay_lsn() - '0/0', 0) AS applied, COALESCE(pg_last_wal_receive_lsn() - '0/0', 0) AS received, \
        pg_is_in_recovery() AND pg_is_wal_replay_paused() AS paused";
    let rows = session.rows("reading the replica's state", sql).await?;
    let Some(row) = rows.into_iter().next().map(Row) else { return Ok(ReplicaSummary::default()) };
    let paused = "recovery has paused: a setting of the source is higher than here, or somebody paused it (pg_wal_replay_resume() goes on)";
    Ok(ReplicaSummary {
        read_only: row.yes("recovery"),
        leads: false,
        streaming: row.yes("streaming"),
        applied: Position::Bytes(row.number("applied")),
        received: Position::Bytes(row.number("received")),
        records: None,
        copy_progress: None,
        trouble: row.yes("paused").then(|| paused.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_of_a_segment_is_told_from_its_name() {
        let size = 16 << 20;
        assert_eq!(segment_start("000000010000000000000001", size), Some(Position::Bytes(size)));
        assert_eq!(segment_start("0000000200000016000000B3", size), Some(Position::Bytes((0x16 << 32) + 0xB3 * size)));
        assert_eq!(segment_start("short", size), None);
    }

    #[test]
    fn a_setting_is_read_with_or_without_its_file() {
        let of = |file: &str| SettingFacts {
            name: "max_connections".into(),
            value: "50".into(),
            default: "100".into(),
            source: "configuration file".into(),
            file: file.into(),
        };
        assert_eq!(setting("max_connections\t50\t100\tconfiguration file\t/it's\there"), of("/it's\there"));
        assert_eq!(setting("max_connections\t50\t100\tconfiguration file"), of(""));
    }

    #[test]
    fn bytes_come_back_from_their_digits() {
        assert_eq!(from_hex("686261e4"), "hba\u{fffd}");
        assert_eq!(from_hex(""), "");
    }

    #[test]
    fn the_owner_is_the_effective_user() {
        assert_eq!(owner("Name:\tpostgres\nUid:\t0\t999\t999\t999\nGid:\t0\t998\t998\t998\n"), Some((999, 998)));
        assert_eq!(owner(""), None);
    }
}
