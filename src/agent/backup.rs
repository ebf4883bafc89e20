//! A full backup: taken beside, described by a manifest that is written last, and renamed into place. What fills it is the engine's.

use rand::Rng;
use sha2::{Digest, Sha256};
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{AgentError, Backup, Manifest, Tools, check_room, sync_directory, sync_file_system, write_durably};
use crate::engine::{Endpoint, Identity, Session, SessionError};

/// How long a source may take to answer: its Service was made a moment ago.
const PATIENCE: Duration = Duration::from_mins(1);

/// What an engine says of a backup that it has taken and verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filled {
    /// Version of the server.
    pub version: String,
    /// Position in the source's log at which the backup is consistent, as people write it.
    pub position: String,
    /// A SHA-256 that is another one if any file is.
    pub checksum: String,
    /// What a person should know of the way in which it was taken; none where it is the usual one.
    pub note: Option<String>,
}

/// Takes a full backup, and sets the replication user's password to the one that the backup volume keeps. A backup that exists is not taken again.
///
/// # Errors
/// One sentence with the cause; what was begun is cleared by the next attempt.
pub async fn backup<E: Tools>(request: &Backup) -> Result<Manifest, AgentError> {
    let mut session = connect::<E>(request).await?;
    let password = replication_password(&request.volume, &request.identity)?;
    // Also where the backup was taken before: the user may have been made anew since, and then has none.
    session.give_access(&request.identity, &password).await?;
    let done = request.volume.join(&request.directory);
    let manifest = match fs::read(done.join("manifest.json")) {
        Ok(text) => serde_json::from_slice(&text).map_err(|error| AgentError::Refused(format!("{}/manifest.json: {error}", done.display())))?,
        Err(_) => take::<E>(request, session, &password).await?,
    };
    remove_older(request)?;
    Ok(manifest)
}

/// Takes a backup beside, and renames it into place once it is verified and described.
async fn take<E: Tools>(request: &Backup, mut session: E::Session, password: &str) -> Result<Manifest, AgentError> {
    let partial = request.volume.join(format!("{}.partial", request.directory));
    if partial.exists() {
        fs::remove_dir_all(&partial).map_err(AgentError::file("clearing an unfinished backup:", &partial))?;
    }
    check_room("the backup volume", &request.volume, session.measure().await?.saturating_add(E::BACKUP_EXTRA))?;
    fs::DirBuilder::new().mode(0o700).create(&partial).map_err(AgentError::file("making", &partial))?;
    let filled = E::fill(request, session, password, &partial).await?;
    let manifest = Manifest {
        engine: E::NAME.to_owned(),
        version: filled.version,
        position: filled.position,
        bytes: bytes_below(&partial.join("data"))?,
        checksum: filled.checksum,
        completed_at: k8s_openapi::jiff::Timestamp::now().to_string(),
        note: filled.note,
    };
    let text = serde_json::to_vec_pretty(&manifest).map_err(|error| AgentError::Refused(error.to_string()))?;
    sync_file_system(&request.volume)?;
    write_durably(&partial.join("manifest.json"), 0o600, &text)?;
    let done = request.volume.join(&request.directory);
    fs::rename(&partial, &done).map_err(AgentError::file("renaming into place:", &done))?;
    sync_directory(&request.volume)?;
    Ok(manifest)
}

/// Where the source is, and its administrator, as the Job is told.
///
/// # Errors
/// If the mounted Secret lacks what is needed.
pub fn endpoint<E: Tools>(request: &Backup) -> Result<Endpoint, AgentError> {
    let read = |name: &str| {
        let path = request.credentials.join(name);
        fs::read_to_string(&path).map_err(AgentError::file("reading", &path))
    };
    Ok(Endpoint {
        host: request.host.clone(),
        port: request.port,
        database: request.database.clone(),
        username: match &request.username {
            Some(name) => name.clone(),
            None if request.credentials.join("username").exists() => read("username")?,
            None => E::ADMINISTRATOR.to_owned(),
        },
        password: read("password")?,
    })
}

/// Waits until the source answers, and logs in as its administrator.
async fn connect<E: Tools>(request: &Backup) -> Result<E::Session, AgentError> {
    let endpoint = endpoint::<E>(request)?;
    let begun = Instant::now();
    loop {
        match E::Session::connect(&endpoint).await {
            Err(SessionError::Unreachable(why)) if begun.elapsed() < PATIENCE => {
                tracing::info!(why, "the source does not answer yet");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            other => return Ok(other?),
        }
    }
}

/// The password of the replication user: made once, kept on the backup volume for the replicas to come.
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

/// The password of the replication user, as a restore finds it on the backup volume.
///
/// # Errors
/// If it is not there.
pub fn kept_password(volume: &Path, identity: &Identity) -> Result<String, AgentError> {
    let path = password_path(volume, identity);
    fs::read_to_string(&path).map_err(AgentError::file("reading", &path))
}

fn password_path(volume: &Path, identity: &Identity) -> PathBuf {
    volume.join(format!("replication-password-{}", identity.word()))
}

/// SHA-256 in hexadecimal digits.
#[must_use]
pub fn checksum(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Bytes of all files below a directory.
pub(super) fn bytes_below(directory: &Path) -> Result<u64, AgentError> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::EngineKind;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_replication_password_is_made_once() {
        let root = tempfile::tempdir().unwrap();
        let identity = Identity::parse("k3x9q2ab").unwrap();
        let first = replication_password(root.path(), &identity).unwrap();
        assert_eq!(first.len(), 64);
        assert_eq!(replication_password(root.path(), &identity).unwrap(), first);
        assert_eq!(kept_password(root.path(), &identity).unwrap(), first);
        let path = password_path(root.path(), &identity);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(replication_password(root.path(), &identity).is_err(), "one that can't be read is not replaced");
    }

    #[test]
    fn only_older_backups_of_this_enabling_are_removed() {
        let root = tempfile::tempdir().unwrap();
        let kept = ["k3x9q2ab-10", "k3x9q2ab-11.partial", "k3x9q2ab-old", "other123-1", "lost+found", "k3x9q2ab"];
        for name in kept.iter().chain(&["k3x9q2ab-9", "k3x9q2ab-2.partial"]) {
            fs::create_dir_all(root.path().join(name).join("data")).unwrap();
        }
        let request = Backup {
            common: crate::agent::Common { engine: EngineKind::PostgreSQL, termination_message: "none".into() },
            host: "127.0.0.1".into(),
            port: 1,
            database: "postgres".into(),
            credentials: "none".into(),
            username: None,
            identity: Identity::parse("k3x9q2ab").unwrap(),
            volume: root.path().into(),
            directory: "k3x9q2ab-10".into(),
        };
        remove_older(&request).unwrap();
        let mut left: Vec<_> = fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        let mut expected = kept.map(str::to_owned);
        expected.sort();
        assert_eq!(left, expected);
    }
}
