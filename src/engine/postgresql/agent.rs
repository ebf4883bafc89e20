//! Backup and restore with PostgreSQL's own tools, inside Jobs that run the source's image.

use rand::Rng;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use super::{PostgreSql, PostgreSqlSession};
use crate::agent::{AgentError, Backup, Manifest, Restore, Tools, check_room, sync_directory, sync_file_system, write_durably};
use crate::engine::{Endpoint, Engine, Identity, Session, SessionError};

/// How long a source may take to answer: its Service was made a moment ago.
const PATIENCE: Duration = Duration::from_mins(1);
/// What a backup holds besides the databases: the log that is written meanwhile, in segments of 16 MiB by default.
const LOG: u64 = 32 << 20;
/// Where the replica's password is kept, inside the data directory so that it goes where the data goes.
const PASSFILE: &str = "understudy.pgpass";

/// The part of pg_basebackup's own manifest that says where the backup is consistent.
#[derive(Deserialize)]
struct BackupManifest {
    #[serde(rename = "WAL-Ranges")]
    wal_ranges: Vec<WalRange>,
}

#[derive(Deserialize)]
struct WalRange {
    #[serde(rename = "End-LSN")]
    end: String,
}

impl Tools for PostgreSql {
    async fn backup(request: &Backup) -> Result<Manifest, AgentError> {
        let done = request.volume.join(&request.directory);
        let manifest = match fs::read(done.join("manifest.json")) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| AgentError::Refused(format!("{}/manifest.json: {error}", done.display())))?,
            Err(_) => take(request).await?,
        };
        remove_older(request)?;
        Ok(manifest)
    }

    fn become_replica(request: &Restore, manifest: &Manifest) -> Result<(), AgentError> {
        let data = &request.data_directory;
        // The server has no use for the list of files; before it goes, it shows that this is the backup that the manifest means.
        let list = data.join("backup_manifest");
        if checksum(&fs::read(&list).map_err(AgentError::file("reading", &list))?) != manifest.checksum {
            return Err(AgentError::Refused(format!("{} is not what was verified when the backup was taken", list.display())));
        }
        fs::remove_file(&list).map_err(AgentError::file("removing", &list))?;
        let path = password_path(&request.volume, &request.identity);
        let password = fs::read_to_string(&path).map_err(AgentError::file("reading", &path))?;
        let line = passfile_line(&request.primary_host, request.primary_port, &request.identity.role(), &password);
        write_durably(&data.join(PASSFILE), 0o600, line.as_bytes())?;
        let auto = data.join("postgresql.auto.conf");
        let append = || fs::OpenOptions::new().append(true).create(true).open(&auto)?.write_all(standby_settings(request).as_bytes());
        append().map_err(AgentError::file("writing", &auto))?;
        write_durably(&data.join("standby.signal"), 0o600, b"")
    }

    fn guard(data: &Path) -> Result<(), AgentError> {
        for name in ["PG_VERSION", "standby.signal"] {
            if !data.join(name).exists() {
                return Err(AgentError::Refused(format!("{} has no {name}: a server started here would take writes", data.display())));
            }
        }
        // With an fsGroup every mount opens all files to the group: then the server does not start, and the password file is ignored.
        keep_private(data, 0o700, 0o027)?;
        keep_private(&data.join(PASSFILE), 0o600, 0o077)
    }
}

/// Sets a mode if any of the bits `never` is set.
fn keep_private(path: &Path, mode: u32, never: u32) -> Result<(), AgentError> {
    let found = fs::metadata(path).map_err(AgentError::file("looking at", path))?.permissions().mode();
    if found & never == 0 {
        return Ok(());
    }
    match fs::set_permissions(path, fs::Permissions::from_mode(mode)) {
        // The directory is not ours where it is the mount point itself: there the image's entrypoint sets it.
        Err(error) if path.is_dir() => tracing::warn!(%error, "the mode of the data directory stays"),
        done => done.map_err(AgentError::file("setting the mode of", path))?,
    }
    Ok(())
}

/// Takes a backup beside, and renames it into place once it is verified and described.
async fn take(request: &Backup) -> Result<Manifest, AgentError> {
    let partial = request.volume.join(format!("{}.partial", request.directory));
    if partial.exists() {
        fs::remove_dir_all(&partial).map_err(AgentError::file("clearing an unfinished backup:", &partial))?;
    }
    let mut session = connect(request).await?;
    let facts = session.observe_source(Some(&request.identity)).await?;
    check_room("the backup volume", &request.volume, facts.data_bytes.saturating_add(LOG))?;
    let role = request.identity.role();
    let password = replication_password(&request.volume, &request.identity)?;
    session.set_password(&role, &password).await?;
    let programs = session.program_directory().await.map(PathBuf::from);
    drop(session);

    fs::DirBuilder::new().mode(0o700).create(&partial).map_err(AgentError::file("making", &partial))?;
    let passfile = partial.join("pgpass");
    write_durably(&passfile, 0o600, passfile_line(&request.host, request.port, &role, &password).as_bytes())?;
    let conninfo = conninfo(&[
        ("host", &request.host),
        ("port", &request.port.to_string()),
        ("user", &role),
        ("passfile", &passfile.to_string_lossy()),
        ("application_name", "understudy_backup"),
        // A source whose node is gone says nothing more: without these the tool would wait for hours.
        ("keepalives_idle", "30"),
        ("keepalives_interval", "10"),
        ("keepalives_count", "3"),
    ]);
    let data = partial.join("data");
    let directory = data.to_string_lossy();
    let arguments = [
        &["--pgdata", &directory, "--format", "plain", "--wal-method", "stream", "--checkpoint", "fast", "--manifest-checksums", "SHA256"][..],
        // Synchronised at once below, instead of file by file.
        &["--no-sync", "--no-password", "--label", &request.directory, "--dbname", &conninfo],
    ];
    tool(programs.as_deref(), "pg_basebackup", &arguments.concat()).await?;
    tool(programs.as_deref(), "pg_verifybackup", &["--quiet", &directory]).await?;
    fs::remove_file(&passfile).map_err(AgentError::file("removing", &passfile))?;

    let manifest = describe(&data, &facts.version)?;
    let text = serde_json::to_vec_pretty(&manifest).map_err(|error| AgentError::Refused(error.to_string()))?;
    sync_file_system(&request.volume)?;
    write_durably(&partial.join("manifest.json"), 0o600, &text)?;
    let done = request.volume.join(&request.directory);
    fs::rename(&partial, &done).map_err(AgentError::file("renaming into place:", &done))?;
    sync_directory(&request.volume)?;
    Ok(manifest)
}

/// Waits until the source answers, and logs in as its administrator.
async fn connect(request: &Backup) -> Result<PostgreSqlSession, AgentError> {
    let read = |name: &str| {
        let path = request.credentials.join(name);
        fs::read_to_string(&path).map_err(AgentError::file("reading", &path))
    };
    let endpoint = Endpoint {
        host: request.host.clone(),
        port: request.port,
        database: request.database.clone(),
        username: match &request.username {
            Some(name) => name.clone(),
            None if request.credentials.join("username").exists() => read("username")?,
            None => PostgreSql::ADMINISTRATOR.to_owned(),
        },
        password: read("password")?,
    };
    let begun = Instant::now();
    loop {
        match PostgreSqlSession::connect(&endpoint).await {
            Err(SessionError::Unreachable(why)) if begun.elapsed() < PATIENCE => {
                tracing::info!(why, "the source does not answer yet");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            other => return Ok(other?),
        }
    }
}

/// The password of the replication role: made once, kept on the backup volume for the replicas to come.
fn replication_password(volume: &Path, identity: &Identity) -> Result<String, AgentError> {
    let path = password_path(volume, identity);
    // Only one that is not there is made: another one would lock out the replicas that have the first.
    match fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        found => return found.map_err(AgentError::file("reading", &path)),
    }
    let password = hex::encode(rand::rng().random::<[u8; 32]>());
    write_durably(&path, 0o600, password.as_bytes())?;
    Ok(password)
}

fn password_path(volume: &Path, identity: &Identity) -> PathBuf {
    volume.join(format!("replication-password-{}", identity.word()))
}

/// A line of a password file (manual, "The Password File"): `:` and `\` are escaped.
fn passfile_line(host: &str, port: u16, user: &str, password: &str) -> String {
    let escape = |text: &str| text.replace('\\', r"\\").replace(':', r"\:");
    format!("{}:{port}:*:{}:{}\n", escape(host), escape(user), escape(password))
}

/// A connection string (manual, "Connection Strings"): values in single quotes.
fn conninfo(values: &[(&str, &str)]) -> String {
    let quote = |value: &str| value.replace('\\', r"\\").replace('\'', r"\'");
    values.iter().map(|(key, value)| format!("{key}='{}'", quote(value))).collect::<Vec<_>>().join(" ")
}

/// Runs one of the database's tools, from the server's own directory of programs if it is in this image too.
async fn tool(programs: Option<&Path>, name: &'static str, arguments: &[&str]) -> Result<(), AgentError> {
    tracing::info!(tool = name, "begins");
    let failed = |message: String| AgentError::Tool { tool: name, message };
    let program = programs.map(|directory| directory.join(name)).filter(|path| path.exists()).unwrap_or_else(|| name.into());
    let mut child = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(format!("{error}: does the source's image bring it along?")))?;
    let mut last: Vec<String> = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        let mut lines = BufReader::new(stderr).split(b'\n');
        while let Ok(Some(line)) = lines.next_segment().await {
            let line = String::from_utf8_lossy(&line).trim().to_owned();
            tracing::info!(tool = name, line);
            last.push(line);
            if last.len() > 20 {
                last.remove(0);
            }
        }
    }
    let status = child.wait().await.map_err(|error| failed(error.to_string()))?;
    if status.success() { Ok(()) } else { Err(failed(reason(name, &last).unwrap_or_else(|| status.to_string()))) }
}

/// Why a tool failed: its errors with what explains them, or else its last words.
fn reason(tool: &str, lines: &[String]) -> Option<String> {
    let prefix = format!("{tool}: ");
    let words = || lines.iter().map(|line| line.strip_prefix(&prefix).unwrap_or(line)).filter(|line| !line.is_empty());
    let telling = |line: &&str| ["error: ", "fatal: ", "detail: ", "hint: "].iter().any(|kind| line.starts_with(kind));
    let mut chosen: Vec<&str> = words().filter(telling).collect();
    if chosen.is_empty() {
        chosen = words().collect();
    }
    let from = chosen.len().saturating_sub(4);
    chosen.get(from..).filter(|lines| !lines.is_empty()).map(|lines| lines.join("; "))
}

/// The manifest of a verified backup.
fn describe(data: &Path, version: &str) -> Result<Manifest, AgentError> {
    let path = data.join("backup_manifest");
    let text = fs::read(&path).map_err(AgentError::file("reading", &path))?;
    let own: BackupManifest = serde_json::from_slice(&text).map_err(|error| AgentError::Refused(format!("{}: {error}", path.display())))?;
    let position = own.wal_ranges.last().map(|range| range.end.clone());
    Ok(Manifest {
        engine: PostgreSql::NAME.to_owned(),
        version: version.to_owned(),
        position: position.ok_or_else(|| AgentError::Refused(format!("{} names no position", path.display())))?,
        bytes: bytes_below(data)?,
        checksum: checksum(&text),
        completed_at: k8s_openapi::jiff::Timestamp::now().to_string(),
    })
}

/// SHA-256 in hexadecimal digits.
fn checksum(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Bytes of all files below a directory.
fn bytes_below(directory: &Path) -> Result<u64, AgentError> {
    let mut bytes = 0;
    for entry in fs::read_dir(directory).map_err(AgentError::file("reading", directory))? {
        let entry = entry.map_err(AgentError::file("reading", directory))?;
        let metadata = entry.metadata().map_err(AgentError::file("reading", &entry.path()))?;
        bytes += if metadata.is_dir() { bytes_below(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}

/// Removes older backups of this enabling, now that a newer one is complete; nothing else on the volume is ours.
fn remove_older(request: &Backup) -> Result<(), AgentError> {
    let prefix = format!("{}-", request.identity.word());
    let number = |name: &str| name.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix(".partial").unwrap_or(rest).parse::<u32>().ok());
    let newest = number(&request.directory);
    for entry in fs::read_dir(&request.volume).map_err(AgentError::file("reading", &request.volume))? {
        let entry = entry.map_err(AgentError::file("reading", &request.volume))?;
        let older = number(&entry.file_name().to_string_lossy());
        if older.is_some() && older < newest {
            fs::remove_dir_all(entry.path()).map_err(AgentError::file("removing an older backup:", &entry.path()))?;
        }
    }
    Ok(())
}

/// The settings of a standby, appended to postgresql.auto.conf: the last value of a setting counts.
fn standby_settings(request: &Restore) -> String {
    let conninfo = conninfo(&[
        ("host", &request.primary_host),
        ("port", &request.primary_port.to_string()),
        ("user", &request.identity.role()),
        ("passfile", &request.data_directory.join(PASSFILE).to_string_lossy()),
        ("application_name", &request.name),
        ("sslmode", "prefer"),
    ]);
    let settings = [
        ("primary_conninfo", conninfo.as_str()),
        ("primary_slot_name", &request.identity.slot(request.replica)),
        ("recovery_target_timeline", "latest"),
        ("hot_standby", "on"),
    ];
    // In the configuration file a backslash begins an escape, and a quote is doubled (manual, "Parameter Names and Values").
    let quote = |value: &str| value.replace('\\', r"\\").replace('\'', "''");
    let lines: Vec<String> = settings.iter().map(|(name, value)| format!("{name} = '{}'\n", quote(value))).collect();
    format!("\n# Added by understudy: this directory is a standby.\n{}", lines.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_and_paths_survive_their_files() {
        assert_eq!(passfile_line("h", 5432, "u", r"a:b\c"), "h:5432:*:u:a\\:b\\\\c\n");
        assert_eq!(conninfo(&[("host", "it's"), ("x", r"a\b")]), r"host='it\'s' x='a\\b'");
    }

    #[test]
    fn a_directory_without_standby_signal_is_not_started() {
        let root = tempfile::tempdir().unwrap();
        let guard = || PostgreSql::guard(root.path());
        fs::write(root.path().join(PASSFILE), "").unwrap();
        fs::write(root.path().join("PG_VERSION"), "17").unwrap();
        assert!(guard().is_err());
        fs::write(root.path().join("standby.signal"), "").unwrap();
        assert!(guard().is_ok());
        fs::remove_file(root.path().join("PG_VERSION")).unwrap();
        assert!(guard().is_err());
    }

    #[test]
    fn what_a_mount_opened_to_the_group_is_closed_again() {
        let root = tempfile::tempdir().unwrap();
        for name in [PASSFILE, "PG_VERSION", "standby.signal"] {
            fs::write(root.path().join(name), "").unwrap();
        }
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        set(root.path(), 0o2770);
        set(&root.path().join(PASSFILE), 0o660);
        PostgreSql::guard(root.path()).unwrap();
        assert_eq!((mode(root.path()), mode(&root.path().join(PASSFILE))), (0o700, 0o600));
        set(root.path(), 0o750);
        PostgreSql::guard(root.path()).unwrap();
        assert_eq!(mode(root.path()), 0o750, "the server takes this one");
    }

    #[test]
    fn the_replication_password_is_made_once() {
        let root = tempfile::tempdir().unwrap();
        let identity = Identity::parse("k3x9q2ab").unwrap();
        let first = replication_password(root.path(), &identity).unwrap();
        assert_eq!(first.len(), 64);
        assert_eq!(replication_password(root.path(), &identity).unwrap(), first);
        let path = password_path(root.path(), &identity);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(replication_password(root.path(), &identity).is_err(), "one that can't be read is not replaced");
    }

    fn request(volume: &Path, directory: &str) -> Backup {
        Backup {
            common: crate::agent::Common { engine: "PostgreSQL".into(), termination_message: "none".into() },
            host: "127.0.0.1".into(),
            port: 1,
            database: "postgres".into(),
            credentials: "none".into(),
            username: None,
            identity: Identity::parse("k3x9q2ab").unwrap(),
            volume: volume.into(),
            directory: directory.into(),
        }
    }

    #[test]
    fn only_older_backups_of_this_enabling_are_removed() {
        let root = tempfile::tempdir().unwrap();
        let kept = ["k3x9q2ab-10", "k3x9q2ab-11.partial", "k3x9q2ab-old", "other123-1", "lost+found", "k3x9q2ab"];
        for name in kept.iter().chain(&["k3x9q2ab-9", "k3x9q2ab-2.partial"]) {
            fs::create_dir_all(root.path().join(name).join("data")).unwrap();
        }
        remove_older(&request(root.path(), "k3x9q2ab-10")).unwrap();
        let mut left: Vec<_> = fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        let mut expected = kept.map(str::to_owned);
        expected.sort();
        assert_eq!(left, expected);
    }

    #[tokio::test]
    async fn a_finished_backup_is_reported_again_without_asking_the_source() {
        let root = tempfile::tempdir().unwrap();
        let manifest = Manifest {
            engine: "PostgreSQL".into(),
            version: "17".into(),
            position: "0/1".into(),
            bytes: 7,
            checksum: "abc".into(),
            completed_at: "2026-11-24T00:00:00Z".into(),
        };
        fs::create_dir(root.path().join("k3x9q2ab-1")).unwrap();
        fs::write(root.path().join("k3x9q2ab-1/manifest.json"), serde_json::to_vec(&manifest).unwrap()).unwrap();
        assert_eq!(PostgreSql::backup(&request(root.path(), "k3x9q2ab-1")).await.unwrap(), manifest);
    }

    #[test]
    fn a_tool_that_fails_says_why() {
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let said = lines("pg_basebackup: error: could not write: No space left on device\npg_basebackup: removing data directory");
        assert_eq!(reason("pg_basebackup", &said).as_deref(), Some("error: could not write: No space left on device"));
        assert_eq!(reason("pg_basebackup", &lines("killed")).as_deref(), Some("killed"));
        assert_eq!(reason("pg_basebackup", &[]), None);
    }

    #[test]
    fn settings_of_a_standby_survive_the_configuration_file() {
        let request = Restore {
            common: crate::agent::Common { engine: "PostgreSQL".into(), termination_message: "none".into() },
            volume: "backup".into(),
            directory: "k3x9q2ab-1".into(),
            data_directory: r"/it's a\directory".into(),
            identity: Identity::parse("k3x9q2ab").unwrap(),
            replica: 1,
            name: "orders-replica-1".into(),
            primary_host: "orders-primary".into(),
            primary_port: 5432,
        };
        let text = standby_settings(&request);
        assert!(text.contains(r"passfile=''/it\\''s a\\\\directory/understudy.pgpass''"), "{text}");
        assert!(text.contains("primary_slot_name = 'understudy_k3x9q2ab_1'"), "{text}");
    }
}
