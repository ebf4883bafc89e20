//! Backup and restore: a snapshot as a replica would get it, and a configuration that makes a replica of it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::{Redis, RedisSession, own, rdb};
use crate::agent::swap::Keystones;
use crate::agent::{AgentError, Backup, Filled, Manifest, Restore, Tools, kept_password, remove, tool, write_durably};
use crate::engine::{Engine, Identity, Session};

/// What makes a server a replica, inside the data directory so that it goes where the data goes. It holds a password.
pub(super) const CONFIGURATION: &str = "understudy.conf";
/// The snapshot's name on a replica, whatever the source calls its own.
const SNAPSHOT: &str = "dump.rdb";
/// Its name on a server that had data of its own: without our configuration such a server does not find it, and does not serve it as its own.
pub(super) const STAGED_SNAPSHOT: &str = "understudy.rdb";
/// Words of the configuration without which a server would take writes.
const REPLICA_OF: &str = "replicaof ";
/// What follows a source, or lets others in no further than that.
const FOLLOWING: [&str; 4] = [REPLICA_OF, "replica-read-only ", "masteruser ", "masterauth "];
/// Of a source that asks for a password: a replica's server that does not, since the password stands in no configuration of the source, serves nobody
/// outside its pod.
const PROTECTED: &str = "protected-mode yes\n";
/// The server's own defaults: a replica that keeps no snapshots would copy everything again after a restart.
const SAVE: &str = "save \"\"\nsave 3600 1 300 100 60 10000\n";

impl Tools for Redis {
    /// A list of users.
    const BACKUP_EXTRA: u64 = 1 << 20;
    const SEEDS: bool = true;
    // A server starts empty where its file is missing, and the names of its files can be set. Where it keeps append-only files it looks for their directory
    // alone; so that one comes last.
    const KEYSTONES: Keystones = Keystones { named: &["appendonlydir", "dump.rdb"], every_name: true };
    const SIGN: Option<&'static str> = None;

    async fn fill(request: &Backup, mut session: RedisSession, password: &str, partial: &Path) -> Result<Filled, AgentError> {
        let facts = session.observe_source(Some(&request.identity)).await?;
        let data = partial.join("data");
        make(&data)?;
        if let Some(inside) = inside(&facts.acl_file, &facts.data_directory) {
            // A replica's server does not start without the file that its settings name.
            let path = data.join(inside);
            path.parent().map_or(Ok(()), make)?;
            write_durably(&path, 0o600, users(&session.acl_lines().await?, &request.identity).as_bytes())?;
        }
        drop(session);
        if !facts.open {
            write_durably(&data.join(CONFIGURATION), 0o600, PROTECTED.as_bytes())?;
        }
        let path = data.join(SNAPSHOT);
        let (port, role) = (request.port.to_string(), request.identity.role());
        let arguments = ["-h", &request.host, "-p", &port, "--user", &role, "--rdb", &path.to_string_lossy()];
        tool::run_with(None, "redis-cli", &arguments, &[("REDISCLI_AUTH", password)]).await?;
        let snapshot = rdb::read(&path).map_err(AgentError::file("verifying", &path))?;
        if !snapshot.verified {
            tool::run(None, "redis-check-rdb", &[&path.to_string_lossy()]).await?;
        }
        let position = snapshot.position.ok_or_else(|| AgentError::Refused(format!("{} names no position in the source's log", path.display())))?;
        private(&path)?;
        Ok(Filled { version: facts.version, position: Self::format_position(&position), checksum: snapshot.sha256, note: None })
    }

    async fn become_replica(request: &Restore, manifest: &Manifest) -> Result<(), AgentError> {
        let path = request.data_directory.join(SNAPSHOT);
        if rdb::read(&path).map_err(AgentError::file("verifying", &path))?.sha256 != manifest.checksum {
            return Err(AgentError::Refused(format!("{} is not what was verified when the backup was taken", path.display())));
        }
        if request.is_staged() {
            fs::rename(&path, request.data_directory.join(STAGED_SNAPSHOT)).map_err(AgentError::file("renaming", &path))?;
        }
        let password = kept_password(&request.volume, &request.identity)?;
        let path = request.data_directory.join(CONFIGURATION);
        let protected = if path.exists() { PROTECTED } else { "" };
        write_durably(&path, 0o600, format!("{}{protected}", configuration(request, &password)).as_bytes())
    }

    fn is_empty(data: &Path) -> Result<bool, AgentError> {
        own::is_empty(data)
    }

    fn guard(data: &Path, released: bool) -> Result<(), AgentError> {
        let path = data.join(CONFIGURATION);
        let text = fs::read_to_string(&path).map_err(AgentError::file("a server started here would take writes: reading", &path))?;
        if !released && !text.lines().any(|line| line.starts_with(REPLICA_OF)) {
            return Err(AgentError::Refused(format!("{} names no source: a server started here would take writes", path.display())));
        }
        // With an fsGroup every mount opens all files to the group, and this one holds a password.
        private(&path)
    }

    fn prepare_swap(staged: &Path, data: &Path, names: &BTreeSet<String>) -> Result<(), AgentError> {
        own::keep(staged, data, names)
    }

    fn release(data: &Path) -> Result<(), AgentError> {
        own::give(data)?;
        let path = data.join(CONFIGURATION);
        let text = fs::read_to_string(&path).map_err(AgentError::file("reading", &path))?;
        write_durably(&path, 0o600, stand_alone(&text).as_bytes())
    }

    fn clear(data: &Path) -> Result<(), AgentError> {
        own::clear(data)?;
        remove(&data.join(CONFIGURATION))
    }
}

/// A replica's configuration without what makes it one: its data stays where it is.
fn stand_alone(text: &str) -> String {
    text.lines().filter(|line| !FOLLOWING.iter().any(|word| line.starts_with(word))).flat_map(|line| [line, "\n"]).collect()
}

fn make(directory: &Path) -> Result<(), AgentError> {
    fs::DirBuilder::new().mode(0o700).recursive(true).create(directory).map_err(AgentError::file("making", directory))
}

/// Closes a file to everybody else.
fn private(path: &Path) -> Result<(), AgentError> {
    let mode = fs::metadata(path).map_err(AgentError::file("looking at", path))?.permissions().mode() & 0o777;
    if [0o600, 0o400].contains(&mode) {
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(AgentError::file("setting the mode of", path))
}

/// The path of the ACL file below the data directory; none where it lies elsewhere, or there is none. A path that is not absolute begins there.
pub(super) fn inside(file: &str, directory: &str) -> Option<PathBuf> {
    let path = Path::new(file);
    let below = if path.is_absolute() { path.strip_prefix(directory).ok()? } else { path };
    let plain = below.components().all(|part| matches!(part, std::path::Component::Normal(_) | std::path::Component::CurDir));
    (plain && below.file_name().is_some()).then(|| below.to_owned())
}

/// The users of a source as an ACL file, without ours: on a replica nobody follows.
fn users(lines: &[String], identity: &Identity) -> String {
    let ours = format!("user {} ", identity.role());
    lines.iter().filter(|line| !line.starts_with(&ours)).flat_map(|line| [line, "\n"]).collect()
}

/// A word of the configuration: in double quotes, with escapes (documentation, "Configuration").
pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', r"\\").replace('"', "\\\""))
}

/// What makes a server a replica. An append-only file would win over the snapshot at a start, and not name a position: none is kept.
fn configuration(request: &Restore, password: &str) -> String {
    let lines = [
        "# Written by understudy: this directory is a replica's.".to_owned(),
        format!("{REPLICA_OF}{} {}", quoted(&request.primary_host), request.primary_port),
        "replica-read-only yes".to_owned(),
        format!("masteruser {}", request.identity.role()),
        format!("masterauth {}", quoted(password)),
        format!("dir {}", quoted(&request.served_at().to_string_lossy())),
        format!("dbfilename {}", if request.is_staged() { STAGED_SNAPSHOT } else { SNAPSHOT }),
        "appendonly no".to_owned(),
        // Nothing else has what it has confirmed once it follows nobody.
        "shutdown-on-sigterm default".to_owned(),
        SAVE.to_owned(),
    ];
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::EngineKind;

    fn request(root: &Path) -> Restore {
        Restore {
            common: crate::agent::Common { engine: EngineKind::Redis, termination_message: "none".into() },
            volume: root.join("backup"),
            directory: "k3x9q2ab-1".into(),
            data_directory: r#"/a "b\c"#.into(),
            final_directory: None,
            identity: Identity::parse("k3x9q2ab").unwrap(),
            replica: 1,
            name: "cache-replica-1".into(),
            primary_host: "cache-primary".into(),
            primary_port: 6379,
        }
    }

    #[test]
    fn a_replicas_configuration_survives_its_words() {
        let text = configuration(&request(Path::new("/")), r#"a"b\"#);
        for line in
            ["replicaof \"cache-primary\" 6379", r#"dir "/a \"b\\c""#, r#"masterauth "a\"b\\""#, "masteruser understudy_k3x9q2ab", "appendonly no", "save \"\""]
        {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }

    #[test]
    fn a_restore_that_is_staged_knows_where_it_will_be_and_is_no_other_servers_data() {
        let root = tempfile::tempdir().unwrap();
        let staged = Restore { final_directory: Some("/data".into()), data_directory: "/data/staged".into(), ..request(root.path()) };
        let text = configuration(&staged, "p");
        assert!(text.contains("\ndir \"/data\"\n") && text.contains("\ndbfilename understudy.rdb\n") && !text.contains("staged"), "{text}");
    }

    #[test]
    fn a_configuration_that_is_released_keeps_the_data_and_no_source() {
        let root = tempfile::tempdir().unwrap();
        let staged = Restore { final_directory: Some("/data".into()), data_directory: "/data/staged".into(), ..request(root.path()) };
        let text = configuration(&staged, "p");
        let alone = stand_alone(&format!("{text}{PROTECTED}"));
        for word in ["replicaof", "master", "replica-read-only"] {
            assert!(text.contains(word) && !alone.contains(word), "{alone}");
        }
        for line in ["dir \"/data\"", "dbfilename understudy.rdb", "appendonly no", "save 3600 1 300 100 60 10000", "protected-mode yes"] {
            assert!(alone.lines().any(|found| found == line), "{line} in {alone}");
        }
        fs::write(root.path().join(CONFIGURATION), &alone).unwrap();
        assert!(Redis::guard(root.path(), false).is_err());
        Redis::guard(root.path(), true).unwrap();
    }

    #[test]
    fn a_directory_that_would_take_writes_is_not_started() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(CONFIGURATION);
        assert!(Redis::guard(root.path(), false).is_err());
        fs::write(&path, "appendonly no\n# replicaof x 1\n").unwrap();
        assert!(Redis::guard(root.path(), false).unwrap_err().to_string().contains("take writes"));
        fs::write(&path, configuration(&request(root.path()), "p")).unwrap();
        // What mounting a volume with an fsGroup does to the files.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o660)).unwrap();
        Redis::guard(root.path(), false).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn an_acl_file_goes_where_the_data_goes() {
        for (file, below) in [("/data/users.acl", Some("users.acl")), ("/data/acl/users", Some("acl/users")), ("users.acl", Some("users.acl"))] {
            assert_eq!(inside(file, "/data"), below.map(PathBuf::from), "{file}");
        }
        for file in ["", "/etc/redis/users.acl", "/database/users.acl", "/data/../etc/users", "../users"] {
            assert_eq!(inside(file, "/data"), None, "{file}");
        }
        let lines = ["user default on nopass ~* &* +@all", "user understudy_k3x9q2ab on #ab -@all", "user understudy_k3x9q2abc on"].map(str::to_owned);
        let identity = Identity::parse("k3x9q2ab").unwrap();
        assert_eq!(users(&lines, &identity), format!("{}\n{}\n", lines[0], lines[2]));
    }
}
