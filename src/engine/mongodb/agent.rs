//! Backup with `mongodump`, and a volume for a member, which copies everything from the source by itself.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::{MongoDb, MongoSession, dump};
use crate::agent::swap::Keystones;
use crate::agent::{AgentError, Backup, Filled, Manifest, Restore, Tools, checksum, endpoint, tool, write_durably};
use crate::engine::{Engine, Session};

/// The entrypoint of the official image takes a directory with this in it for one that has been set up before: it makes no user of its own then, in a server
/// that is to get everything from the source.
const IN_USE: &str = "journal";
/// Beside the data of a backup: what `sha256sum --check` takes.
const LIST: &str = "SHA256SUMS";

/// A file with a secret, gone with this value: also where the tool that reads it is ended before its time.
struct Secret(PathBuf);

impl Drop for Secret {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            tracing::warn!(%error, path = %self.0.display(), "the file with the login stays until the next attempt");
        }
    }
}

impl Tools for MongoDb {
    const BACKUP_EXTRA: u64 = 64 << 20;
    const SEEDS: bool = false;
    // Members copy everything by themselves: no data directory is swapped.
    const KEYSTONES: Keystones = Keystones { named: &[], every_name: false };
    const SIGN: Option<&'static str> = None;

    async fn fill(request: &Backup, mut session: MongoSession, _password: &str, partial: &Path) -> Result<Filled, AgentError> {
        let facts = session.observe_source(Some(&request.identity)).await?;
        let before = session.write_mark().await?;
        drop(session);
        let administrator = endpoint::<Self>(request)?;
        let data = partial.join("data");
        let (port, out) = (request.port.to_string(), data.to_string_lossy().into_owned());
        let mut arguments = vec!["--host", &request.host, "--port", &port, "--oplog", "--out", &out];
        // A password as an argument could be seen by others; in this file, which is gone afterwards, it is a YAML string (manual, "mongodump --config").
        let file = partial.join("login.yaml");
        let (path, mut secret) = (file.to_string_lossy().into_owned(), None);
        if !administrator.password.is_empty() {
            let quoted = serde_json::to_string(&administrator.password).map_err(|error| AgentError::Refused(error.to_string()))?;
            write_durably(&file, 0o600, format!("password: {quoted}\n").as_bytes())?;
            secret = Some(Secret(file));
            arguments.extend(["--config", &path, "--username", &administrator.username, "--authenticationDatabase", &administrator.database]);
        }
        let dumped = tool::run(None, "mongodump", &arguments).await;
        drop(secret);
        dumped?;
        let found = dump::verify(&data).map_err(AgentError::file("verifying", &data))?;
        write_durably(&partial.join(LIST), 0o600, found.list.as_bytes())?;
        let position = found.until.map_or(before, |(seconds, increment)| crate::engine::Position::Timestamp { seconds, increment });
        Ok(Filled { version: facts.version, position: Self::format_position(&position), checksum: checksum(found.list.as_bytes()), note: None })
    }

    async fn become_replica(request: &Restore, _manifest: &Manifest) -> Result<(), AgentError> {
        let directory = request.data_directory.join(IN_USE);
        fs::create_dir_all(&directory).map_err(AgentError::file("making", &directory))
    }

    fn guard(_data: &Path, _released: bool) -> Result<(), AgentError> {
        // A member takes writes only when the others elect it, and those elect nobody who lacks what they have.
        Ok(())
    }

    fn is_empty(_data: &Path) -> Result<bool, AgentError> {
        Ok(false)
    }

    fn prepare_swap(_staged: &Path, _data: &Path, _names: &BTreeSet<String>) -> Result<(), AgentError> {
        Err(AgentError::Refused("a member's data directory is not swapped".to_owned()))
    }

    fn release(_data: &Path) -> Result<(), AgentError> {
        Err(AgentError::Refused("a member's data directory is not released: its set decides what it is".to_owned()))
    }

    fn clear(_data: &Path) -> Result<(), AgentError> {
        Ok(())
    }
}
