//! Reads a server. Changes nothing.

use redis::{RedisError, Value};

use super::super::facts::{Persistence, SourceFacts, UserFacts};
use super::super::plan::{BACKLOG, SHUTDOWN_TIMEOUT};
use super::answer::{Info, pairs, text, texts};
use super::{RedisSession, words};
use crate::engine::{Identity, Position, Progress, ReplicaSummary, SessionError};

/// What an administrator has to be allowed, with arguments that fit: none of it is executed (`ACL DRYRUN`). The last one is for ACL files only.
const NEEDED: [&[&str]; 8] = [
    &["INFO"],
    &["CONFIG", "GET", BACKLOG],
    &["CONFIG", "SET", BACKLOG, "1"],
    &["ACL", "GETUSER", "understudy"],
    &["ACL", "SETUSER", "understudy"],
    &["ACL", "DELUSER", "understudy"],
    &["WAIT", "0", "0"],
    &["ACL", "LIST"],
];
const FOR_FILES: usize = 1;

/// A command's name as the server's access rules write it.
fn rule(words: &[&str]) -> String {
    let of_two = words.first().is_some_and(|first| matches!(*first, "ACL" | "CONFIG"));
    words.iter().take(if of_two { 2 } else { 1 }).map(|word| word.to_lowercase()).collect::<Vec<_>>().join("|")
}

/// The server does not let this user run a command, or does not know it by this name.
fn forbids(error: &RedisError) -> bool {
    error.code() == Some("NOPERM") || error.detail().is_some_and(|detail| detail.contains("unknown command") || detail.ends_with("not found"))
}

/// What the server answers, or the command's name among those that are forbidden. An error that says neither is one.
fn allowed(
    session: &RedisSession,
    doing: &str,
    name: &str,
    answer: Option<Result<Value, RedisError>>,
    forbidden: &mut Vec<String>,
) -> Result<Value, SessionError> {
    match answer {
        Some(Ok(value)) => Ok(value),
        Some(Err(error)) if forbids(&error) => {
            forbidden.push(name.to_owned());
            Ok(Value::Nil)
        }
        Some(Err(error)) => match super::sorted(&session.endpoint, doing, &error) {
            // Of an older server: its version is a finding.
            SessionError::Failed { .. } => Ok(Value::Nil),
            other => Err(other),
        },
        None => Ok(Value::Nil),
    }
}

/// See [`crate::engine::Session::observe_source`].
pub async fn source(session: &mut RedisSession, identity: Option<&Identity>) -> Result<SourceFacts, SessionError> {
    let doing = "reading the server's state";
    let user = session.endpoint.username.clone();
    let role = identity.map(Identity::role).unwrap_or_default();
    let settings = vec!["CONFIG", "GET", "dir", "save", "appendonly", "aclfile", "databases", SHUTDOWN_TIMEOUT, "shutdown-on-sigterm", BACKLOG];
    let mut commands = vec![vec!["INFO"], settings, vec!["ACL", "GETUSER", &role], vec!["ACL", "GETUSER", super::DEFAULT_USER]];
    commands.extend(NEEDED.map(|words| [&["ACL", "DRYRUN", &user], words].concat()));
    let mut answers = session.ask_all(doing, &commands).await?.into_iter();

    let mut forbidden = Vec::new();
    let info = Info::parse(&allowed(session, doing, "info", answers.next(), &mut forbidden)?);
    let settings = allowed(session, doing, "config|get", answers.next(), &mut forbidden)?;
    let found = allowed(session, doing, "acl|getuser", answers.next(), &mut forbidden)?;
    let everybody = allowed(session, doing, "acl|getuser", answers.next(), &mut forbidden)?;
    let settings = pairs(&settings);
    let setting = |name: &str| settings.get(name).map(|value| text(value));
    let acl_file = setting("aclfile").unwrap_or_default();
    let needed = NEEDED.len() - if acl_file.is_empty() { FOR_FILES } else { 0 };
    for (words, answer) in NEEDED.iter().zip(answers).take(needed) {
        match answer {
            Ok(said) if text(&said) != "OK" => forbidden.push(rule(words)),
            Err(error) if error.code() == Some("NOPERM") => forbidden.push("acl|dryrun".to_owned()),
            Err(error) if self::words(&error).ends_with("not found") => forbidden.push(rule(words)),
            Err(error) if forbids(&error) => forbidden.push("acl".to_owned()),
            _ => {}
        }
    }
    let on_sigterm = setting("shutdown-on-sigterm").unwrap_or_default();
    let at_once = on_sigterm.split_whitespace().any(|word| matches!(word, "now" | "nosave"));
    let mut seen = std::collections::BTreeSet::new();
    forbidden.retain(|name| seen.insert(name.clone()));

    Ok(SourceFacts {
        version: info.word("redis_version").to_owned(),
        user,
        forbidden,
        replica: info.word("role") == "slave",
        cluster: info.yes("cluster_enabled"),
        sentinel: info.word("redis_mode") == "sentinel",
        modules: info.modules(),
        databases: setting("databases").and_then(|number| number.parse().ok()),
        persistence: setting("save").map(|save| Persistence { snapshots: !save.is_empty(), append_only: setting("appendonly").as_deref() == Some("yes") }),
        data_directory: setting("dir").unwrap_or_default(),
        acl_file,
        backlog_size: setting(BACKLOG).and_then(|bytes| bytes.parse().ok()),
        history: info.word("master_replid").to_owned(),
        offset: info.number("master_repl_offset"),
        backlog_first: info.yes("repl_backlog_active").then(|| info.number("repl_backlog_first_byte_offset")),
        used_memory: info.number("used_memory"),
        snapshot: info.yes("rdb_bgsave_in_progress").then(|| (info.number("current_save_keys_processed"), info.number("current_save_keys_total"))),
        keys: info.keys(),
        keys_expired: info.number("expired_keys"),
        keys_loaded: info.number("rdb_last_load_keys_loaded") + info.number("rdb_last_load_keys_expired"),
        append_only_base: info.number("aof_base_size"),
        shutdown_wait: setting(SHUTDOWN_TIMEOUT).and_then(|seconds| seconds.parse().ok()).filter(|_| !at_once).unwrap_or(0),
        open: ["on", "nopass"].iter().all(|flag| list(&everybody, "flags").iter().any(|known| known == flag)),
        role: identity.and_then(|_| self::user(&found)),
    })
}

/// A list of words in what `ACL GETUSER` says.
pub(super) fn list(found: &Value, name: &str) -> Vec<String> {
    pairs(found).get(name).map(|value| texts(value)).unwrap_or_default()
}

/// A user as `ACL GETUSER` describes it; none where there is no such user.
fn user(found: &Value) -> Option<UserFacts> {
    let flags = list(found, "flags");
    let has = |flag: &str| flags.iter().any(|known| known == flag);
    let commands = pairs(found).get("commands").map(|value| text(value))?;
    let may = |rule: &str| commands.split_whitespace().any(|known| known == rule);
    let enough = ["+psync", "+replconf", "+ping", "+sync"].iter().all(|rule| may(rule)) || commands == "+@all";
    Some(UserFacts { may_replicate: enough && has("on") && !has("nopass"), has_password: !list(found, "passwords").is_empty() })
}

/// See [`crate::engine::Session::measure`]: the memory in use, which a snapshot of it stays below.
pub async fn measure(session: &mut RedisSession) -> Result<u64, SessionError> {
    let doing = "measuring the data";
    let info = Info::parse(&session.ask(doing, &["INFO", "memory"]).await?);
    let bytes = info.word("used_memory").parse();
    bytes.map_err(|_| SessionError::Failed { doing: doing.to_owned(), message: "the server gave no size".to_owned() })
}

/// See [`crate::engine::Session::observe_replica`].
pub async fn replica(session: &mut RedisSession) -> Result<ReplicaSummary, SessionError> {
    let info = Info::parse(&session.ask("reading the replica's state", &["INFO", "replication", "keyspace"]).await?);
    Ok(replica_summary(&info))
}

fn replica_summary(info: &Info) -> ReplicaSummary {
    if info.word("role") != "slave" {
        return ReplicaSummary::default();
    }
    let history = info.word("master_replid");
    let at = |key: &str| Position::Offset { history: history.to_owned(), bytes: info.number(key) };
    // Of a copy that is sent without a file the size is not known.
    let total = Some(info.number("master_sync_total_bytes")).filter(|total| *total > 0);
    let progress = info.yes("master_sync_in_progress").then(|| Progress { copied: info.number("master_sync_read_bytes"), total });
    ReplicaSummary {
        read_only: info.yes("slave_read_only"),
        leads: false,
        streaming: info.word("master_link_status") == "up",
        applied: at("slave_repl_offset"),
        received: at("slave_read_repl_offset"),
        records: Some(info.keys()),
        copy_progress: progress,
        trouble: progress.map(|progress| {
            let far = progress.words().map(|words| format!(", {words}")).unwrap_or_default();
            format!("it copies everything anew from the source (full resynchronisation{far})")
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    fn described(flags: &[&str], passwords: &[&str], commands: &str) -> Option<UserFacts> {
        let list = |words: &[&str]| Value::Array(words.iter().map(|text| word(text)).collect());
        user(&Value::Array(vec![word("flags"), list(flags), word("passwords"), list(passwords), word("commands"), word(commands)]))
    }

    #[test]
    fn a_user_is_enough_only_with_all_that_replication_takes() {
        let rules = "-@all +ping +replconf +psync +sync";
        assert_eq!(described(&["on", "sanitize-payload"], &["ab"], rules), Some(UserFacts { may_replicate: true, has_password: true }));
        assert_eq!(described(&["on"], &[], rules), Some(UserFacts { may_replicate: true, has_password: false }));
        for (flags, commands) in [(["off"], rules), (["on"], "-@all +ping +replconf +psync"), (["on"], "-@all")] {
            assert_eq!(described(&flags, &["ab"], commands), Some(UserFacts { may_replicate: false, has_password: true }), "{flags:?} {commands}");
        }
        assert_eq!(described(&["on", "nopass"], &[], rules).map(|user| user.may_replicate), Some(false), "anybody could log in");
        assert_eq!(user(&Value::Nil), None);
    }

    #[test]
    fn rules_are_written_as_the_server_writes_them() {
        assert_eq!(NEEDED.map(rule)[..3], ["info", "config|get", "config|set"]);
        assert_eq!(rule(&["WAIT", "0", "0"]), "wait");
    }

    #[test]
    fn a_replica_is_told_from_what_was_promoted() {
        let of = |text: &str| replica_summary(&Info::parse(&word(text)));
        assert_eq!(of("role:master\r\nmaster_replid:a\r\nmaster_repl_offset:9\r\n"), ReplicaSummary::default());
        let common = "role:slave\r\nslave_read_only:1\r\nmaster_replid:a\r\nslave_repl_offset:7\r\nslave_read_repl_offset:8\r\ndb0:keys=3,expires=0\r\n";
        let at = |bytes| Position::Offset { history: "a".into(), bytes };
        let up = of(&format!("{common}master_link_status:up\r\nmaster_sync_in_progress:0\r\n"));
        assert_eq!(
            up,
            ReplicaSummary {
                read_only: true,
                leads: false,
                streaming: true,
                applied: at(7),
                received: at(8),
                records: Some(3),
                copy_progress: None,
                trouble: None
            }
        );
        let copying =
            of(&format!("{common}master_link_status:down\r\nmaster_sync_in_progress:1\r\nmaster_sync_total_bytes:100\r\nmaster_sync_read_bytes:47\r\n"));
        assert_eq!(
            (copying.streaming, copying.trouble.as_deref()),
            (false, Some("it copies everything anew from the source (full resynchronisation, 40 % of 100 bytes)"))
        );
        let unknown = of(&format!("{common}master_link_status:down\r\nmaster_sync_in_progress:1\r\nmaster_sync_total_bytes:0\r\n"));
        assert!(unknown.trouble.is_some_and(|trouble| trouble.ends_with("(full resynchronisation)")));
    }
}
