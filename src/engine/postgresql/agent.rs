//! Backup and restore with PostgreSQL's own tools, inside Jobs that run the source's image.

use rand::Rng;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::fs;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use super::PostgreSqlSession;
use crate::agent::{AgentError, Backup, Manifest, Restore, check_room, sync_directory, write_durably};
use crate::engine::{Endpoint, Identity, Session, SessionError};

/// How long a source may take to answer: its Service was made a moment ago.
const PATIENCE: Duration = Duration::from_secs(60);
/// Where the replica's password is kept, inside the data directory so that it goes where the data goes.
const PASSFILE: &str = "understudy.pgpass";

/// The parts of pg_basebackup's own manifest that say where the backup is consistent.
#[derive(Deserialize)]
struct BackupManifest {
    #[serde(rename = "Files")]
    files: Vec<ManifestFile>,
    #[serde(rename = "WAL-Ranges")]
    wal_ranges: Vec<WalRange>,
}

#[derive(Deserialize)]
struct ManifestFile {
    #[serde(rename = "Path")]
    path: Option<String>,
}

#[derive(Deserialize)]
struct WalRange {
    #[serde(rename = "End-LSN")]
    end: String,
}

/// Takes a full backup, verifies it and writes its manifest last.
///
/// # Errors
/// One sentence with the cause; what was begun is cleared by the next attempt.
pub async fn backup(request: &Backup) -> Result<Manifest, AgentError> {
    let done = request.volume.join(&request.directory);
    if let Ok(text) = fs::read(done.join("manifest.json")) {
        return serde_json::from_slice(&text).map_err(|error| AgentError::Refused(format!("{}/manifest.json: {error}", done.display())));
    }
    let mut session = connect(request).await?;
    let facts = session.observe_source(Some(&request.identity)).await?;
    check_room("the backup volume", &request.volume, facts.data_bytes)?;
    let password = replication_password(&request.volume, &request.identity)?;
    session.set_password(&request.identity.role(), &password).await?;
    drop(session);

    let partial = request.volume.join(format!("{}.partial", request.directory));
    if partial.exists() {
        fs::remove_dir_all(&partial).map_err(AgentError::file("clearing an unfinished backup:", &partial))?;
    }
    fs::DirBuilder::new().mode(0o700).create(&partial).map_err(AgentError::file("making", &partial))?;
    let passfile = partial.join("pgpass");
    write_durably(&passfile, 0o600, passfile_line(&request.host, request.port, &request.identity.role(), &password).as_bytes())?;
    let conninfo = conninfo(&[
        ("host", &request.host),
        ("port", &request.port.to_string()),
        ("user", &request.identity.role()),
        ("passfile", &passfile.to_string_lossy()),
        ("application_name", "understudy_backup"),
    ]);
    let data = partial.join("data");
    let directory = data.to_string_lossy();
    let arguments = ["--pgdata", &directory, "--format", "plain", "--wal-method", "stream", "--checkpoint", "fast", "--manifest-checksums", "SHA256"];
    tool("pg_basebackup", &[&arguments[..], &["--no-password", "--label", &request.directory, "--dbname", &conninfo]].concat()).await?;
    tool("pg_verifybackup", &["--quiet", &directory]).await?;
    fs::remove_file(&passfile).map_err(AgentError::file("removing", &passfile))?;

    let manifest = describe(&data, &facts.version)?;
    let text = serde_json::to_vec_pretty(&manifest).map_err(|error| AgentError::Refused(error.to_string()))?;
    write_durably(&partial.join("manifest.json"), 0o600, &text)?;
    fs::rename(&partial, &done).map_err(AgentError::file("renaming into place:", &done))?;
    sync_directory(&request.volume)?;
    remove_older(request)?;
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
        username: request.username.clone().map_or_else(|| read("username"), Ok)?,
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
    if let Ok(password) = fs::read_to_string(&path) {
        return Ok(password);
    }
    let password: String = rand::rng().random::<[u8; 32]>().iter().map(|byte| format!("{byte:02x}")).collect();
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

/// Runs one of the database's tools; its last lines on standard error are the reason when it fails.
async fn tool(name: &'static str, arguments: &[&str]) -> Result<(), AgentError> {
    tracing::info!(tool = name, "begins");
    let failed = |message: String| AgentError::Tool { tool: name, message };
    let mut child = Command::new(name)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(format!("{error}: does the source's image bring it along?")))?;
    let mut last: Vec<String> = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        let mut lines = BufReader::new(stderr).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            tracing::info!(tool = name, line);
            last.push(line);
            if last.len() > 4 {
                last.remove(0);
            }
        }
    }
    let status = child.wait().await.map_err(|error| failed(error.to_string()))?;
    if status.success() { Ok(()) } else { Err(failed(if last.is_empty() { status.to_string() } else { last.join("; ") })) }
}

/// The manifest of a verified backup.
fn describe(data: &Path, version: &str) -> Result<Manifest, AgentError> {
    let path = data.join("backup_manifest");
    let text = fs::read(&path).map_err(AgentError::file("reading", &path))?;
    let own: BackupManifest = serde_json::from_slice(&text).map_err(|error| AgentError::Refused(format!("{}: {error}", path.display())))?;
    let position = own.wal_ranges.last().map(|range| range.end.clone()).unwrap_or_default();
    tracing::info!(files = own.files.iter().filter(|file| file.path.is_some()).count(), "verified");
    Ok(Manifest {
        engine: "PostgreSQL".to_owned(),
        version: version.to_owned(),
        position,
        bytes: bytes_below(data)?,
        checksum: Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect(),
        completed_at: k8s_openapi::jiff::Timestamp::now().to_string(),
    })
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
    for entry in fs::read_dir(&request.volume).map_err(AgentError::file("reading", &request.volume))? {
        let entry = entry.map_err(AgentError::file("reading", &request.volume))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let number = name.strip_prefix(&prefix).map(|rest| rest.strip_suffix(".partial").unwrap_or(rest));
        if name != request.directory && number.is_some_and(|number| number.parse::<u32>().is_ok()) {
            fs::remove_dir_all(entry.path()).map_err(AgentError::file("removing an older backup:", &entry.path()))?;
        }
    }
    Ok(())
}

/// Makes a standby of a restored data directory: it is one from its first second, and after every restart.
///
/// # Errors
/// If a file can't be written.
pub fn become_standby(request: &Restore, _manifest: &Manifest) -> Result<(), AgentError> {
    let data = &request.data_directory;
    let passfile = data.join(PASSFILE);
    let path = password_path(&request.volume, &request.identity);
    let password = fs::read_to_string(&path).map_err(AgentError::file("reading", &path))?;
    let role = request.identity.role();
    write_durably(&passfile, 0o600, passfile_line(&request.primary_host, request.primary_port, &role, &password).as_bytes())?;
    let conninfo = conninfo(&[
        ("host", &request.primary_host),
        ("port", &request.primary_port.to_string()),
        ("user", &role),
        ("passfile", &passfile.to_string_lossy()),
        ("application_name", &request.name),
        ("sslmode", "prefer"),
    ]);
    let quoted = conninfo.replace('\'', "''");
    let settings = format!(
        "\n# Added by understudy: this directory is a standby.\nprimary_conninfo = '{quoted}'\nprimary_slot_name = '{}'\nrecovery_target_timeline = 'latest'\n",
        request.identity.slot(request.replica)
    );
    let auto = data.join("postgresql.auto.conf");
    let append = || fs::OpenOptions::new().append(true).create(true).open(&auto)?.write_all(settings.as_bytes());
    append().map_err(AgentError::file("writing", &auto))?;
    // The server keeps no list of files; left there it would be verified against by nobody.
    let list = data.join("backup_manifest");
    fs::remove_file(&list).map_err(AgentError::file("removing", &list))?;
    write_durably(&data.join("standby.signal"), 0o600, b"")
}

/// Succeeds only if a server that starts here is a standby.
///
/// # Errors
/// [`AgentError::Refused`] otherwise.
pub fn guard(data: &Path) -> Result<(), AgentError> {
    for name in ["PG_VERSION", "standby.signal"] {
        if !data.join(name).exists() {
            return Err(AgentError::Refused(format!("{} has no {name}: a server started here would take writes", data.display())));
        }
    }
    Ok(())
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
        fs::write(root.path().join("PG_VERSION"), "17").unwrap();
        assert!(guard(root.path()).is_err());
        fs::write(root.path().join("standby.signal"), "").unwrap();
        assert!(guard(root.path()).is_ok());
    }

    #[test]
    fn the_replication_password_is_made_once() {
        let root = tempfile::tempdir().unwrap();
        let identity = Identity::parse("k3x9q2ab").unwrap();
        let first = replication_password(root.path(), &identity).unwrap();
        assert_eq!(first.len(), 64);
        assert_eq!(replication_password(root.path(), &identity).unwrap(), first);
    }
}
