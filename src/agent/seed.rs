//! A replica's data directory: filled from a backup, and told apart from one that is not finished.

use serde::{Deserialize, Serialize};
use std::fs::{self, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use super::files::{Extent, copy_tree, remove, sync_directory, sync_file_system, write_durably};
use super::{AgentError, Restore, check_room, swap};
use crate::engine::Identity;

/// How often is looked for a backup that is being taken.
const LOOK: Duration = Duration::from_millis(100);
/// In a data directory that is being filled: everything in it is ours and may be thrown away.
pub(super) const RESTORING: &str = "understudy.restoring";
/// In a data directory that holds a finished restore.
pub(super) const SEED: &str = "understudy.seed.json";

/// In a data directory whose restore is to follow nobody any more: the same as [`SEED`], so that it tells nothing of another restore that it gets into.
const RELEASED: &str = "understudy.released.json";

/// What a target that goes on writing while its volume takes in a restore is left for that, in bytes.
const WRITTEN_MEANWHILE: u64 = 64 << 20;

/// What a backup is. Written last: without it the backup does not exist.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// The engine.
    pub engine: String,
    /// Version of the server.
    pub version: String,
    /// Position in the source's log at which the backup is consistent.
    pub position: String,
    /// Bytes of all files.
    pub bytes: u64,
    /// SHA-256 of the list of files, which itself holds a SHA-256 for each.
    pub checksum: String,
    /// When it was complete, RFC 3339.
    pub completed_at: String,
    /// What a person should know of the way in which it was taken; none where it is the usual one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Manifest {
    /// The manifest as JSON of at most `limit` bytes: a part that may be long is left out rather than that the whole is cut off, which nobody could read. The
    /// file on the volume has everything.
    ///
    /// # Errors
    /// [`AgentError::Refused`] if it can't be written as JSON.
    pub fn report(&self, limit: usize) -> Result<String, AgentError> {
        let refused = |error: serde_json::Error| AgentError::Refused(error.to_string());
        let mut value = serde_json::to_value(self).map_err(refused)?;
        for part in ["position", "note"] {
            let text = value.to_string();
            if text.len() <= limit {
                return Ok(text);
            }
            tracing::info!(part, value = %value[part], "too long for the termination message");
            if let Some(parts) = value.as_object_mut() {
                parts.remove(part);
            }
        }
        Ok(value.to_string())
    }
}

/// What a data directory was restored from.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Seed {
    /// Directory of the backup.
    pub backup: String,
    /// Number of the replica.
    pub replica: u32,
    /// Checksum of the backup.
    pub checksum: String,
}

impl Seed {
    /// It is of this enabling: other data that was once a replica's is anybody's by now.
    #[must_use]
    pub fn is_of(&self, identity: &Identity) -> bool {
        self.backup.strip_prefix(identity.word()).is_some_and(|rest| rest.starts_with('-'))
    }
}

/// What a directory was restored from; none where that is not finished, or there is no restore.
pub fn finished(directory: &Path) -> Option<Seed> {
    if directory.join(RESTORING).exists() {
        return None;
    }
    serde_json::from_slice(&fs::read(directory.join(SEED)).ok()?).ok()
}

fn released(directory: &Path) -> Option<Seed> {
    serde_json::from_slice(&fs::read(directory.join(RELEASED)).ok()?).ok()
}

/// Whether a server on this restore is to be a stand-alone one.
pub fn is_released(directory: &Path) -> bool {
    released(directory).is_some_and(|mark| finished(directory) == Some(mark))
}

/// Records that a server on this restore is to be a stand-alone one.
///
/// # Errors
/// [`AgentError::Refused`] if there is no finished restore of this enabling.
pub fn release(directory: &Path, identity: &Identity) -> Result<(), AgentError> {
    let Some(seed) = finished(directory).filter(|seed| seed.is_of(identity)) else {
        return Err(AgentError::Refused(format!("{} holds no finished restore of {}: nothing was touched", directory.display(), identity.word())));
    };
    let text = serde_json::to_vec(&seed).map_err(|error| AgentError::Refused(error.to_string()))?;
    write_durably(&directory.join(RELEASED), 0o600, &text)
}

/// Looks whether a directory holds no restore of this enabling, or one that was released: then nothing of what was there before is needed.
///
/// # Errors
/// [`AgentError::Refused`] otherwise.
pub fn may_be_cleared(directory: &Path, identity: &Identity) -> Result<(), AgentError> {
    let released = released(directory).is_some_and(|mark| mark.is_of(identity));
    if !released && finished(directory).is_some_and(|seed| seed.is_of(identity)) {
        return Err(AgentError::Refused(format!("{} was not released: nothing was touched", directory.display())));
    }
    Ok(())
}

/// Removes the marks from a released restore, after what `rest` removes. Where there are none of this enabling, nothing is done.
///
/// # Errors
/// [`AgentError::Refused`] if the restore was not released.
pub fn clear(directory: &Path, identity: &Identity, rest: impl FnOnce(&Path) -> Result<(), AgentError>) -> Result<(), AgentError> {
    may_be_cleared(directory, identity)?;
    let Some(mark) = released(directory).filter(|mark| mark.is_of(identity)) else { return Ok(()) };
    rest(directory)?;
    if finished(directory) == Some(mark) {
        remove(&directory.join(SEED))?;
    }
    remove(&directory.join(RELEASED))?;
    sync_directory(directory)
}

/// Reads the manifest of a backup.
pub(super) fn manifest(backup: &Path) -> Result<Manifest, AgentError> {
    let path = backup.join("manifest.json");
    let text = fs::read(&path).map_err(AgentError::file("there is no finished backup: reading", &path))?;
    serde_json::from_slice(&text).map_err(|error| AgentError::Refused(format!("{} is not a manifest: {error}", path.display())))
}

/// The names in a directory that are neither ours nor the file system's own.
fn foreign(directory: &Path) -> Result<Vec<String>, AgentError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(AgentError::file("reading", directory))? {
        let name = entry.map_err(AgentError::file("reading", directory))?.file_name().to_string_lossy().into_owned();
        if name != "lost+found" && name != RESTORING && name != format!("{RESTORING}.partial") {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Waits for a backup that is still being taken: for as long as it is under way, and for `patience` where nothing is to be seen of it. Whether there is
/// one in the end is found by [`restore`].
pub async fn await_backup(request: &Restore, patience: Duration) {
    let finished = request.volume.join(&request.directory).join("manifest.json");
    let begun = request.volume.join(format!("{}.partial", request.directory));
    let mut seen = Instant::now();
    while !finished.exists() && seen.elapsed() < patience {
        if begun.exists() {
            seen = Instant::now();
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Restores a backup into a data directory, or with `seeds` false only makes the directory ready, and lets the engine make a replica of it with `finish`.
/// Done before, it is not done again; stopped in the middle, it starts over.
///
/// # Errors
/// [`AgentError::Refused`] if the directory holds anything that is not our own unfinished work: nothing is touched then.
pub fn restore(request: &Restore, seeds: bool, finish: impl FnOnce(&Restore, &Manifest) -> Result<(), AgentError>) -> Result<(), AgentError> {
    let backup = request.volume.join(&request.directory);
    let manifest = manifest(&backup)?;
    let wanted = Seed { backup: request.directory.clone(), replica: request.replica, checksum: manifest.checksum.clone() };
    let data = &request.data_directory;
    let journal = data.join(RESTORING);
    if request.is_staged() {
        if finished(request.served_at()).as_ref() == Some(&wanted) {
            return Ok(());
        }
        if finished(data).as_ref() != Some(&wanted) {
            swap::refuse_during_swap(data)?;
        }
        // Nobody else's business, as a data directory is.
        let ours = data.parent().unwrap_or(data);
        fs::DirBuilder::new().mode(0o700).recursive(true).create(ours).map_err(AgentError::file("making", ours))?;
    }
    fs::create_dir_all(data).map_err(AgentError::file("making", data))?;
    if !journal.exists() {
        let found = foreign(data)?;
        if let Ok(text) = fs::read(data.join(SEED)) {
            return match serde_json::from_slice::<Seed>(&text) {
                Ok(seed) if seed == wanted => Ok(()),
                _ => Err(AgentError::Refused(format!("{} holds another restore: nothing was touched", data.display()))),
            };
        }
        if !found.is_empty() {
            return Err(AgentError::Refused(format!("{} is not empty ({}): nothing was touched", data.display(), found.join(", "))));
        }
        write_durably(&journal, 0o600, request.directory.as_bytes())?;
    }
    for name in foreign(data)? {
        let path = data.join(name);
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(AgentError::file("clearing an unfinished restore:", &path))?;
    }
    let (volume, more) = if request.is_staged() { ("the target's volume", WRITTEN_MEANWHILE) } else { ("the replica's volume", 0) };
    check_room(volume, data, manifest.bytes.saturating_add(more))?;
    if seeds {
        tracing::info!(bytes = manifest.bytes, "copying");
        let copied = copy_tree(&backup.join("data"), data, Extent::Plain)?;
        if copied != manifest.bytes {
            return Err(AgentError::Refused(format!("{copied} bytes were copied, and the manifest says {}", manifest.bytes)));
        }
    }
    finish(request, &manifest)?;
    // Not ours where the directory is the mount point itself: there the image's entrypoint sets it.
    if let Err(error) = fs::set_permissions(data, Permissions::from_mode(0o700)) {
        tracing::warn!(%error, "the mode of the data directory stays");
    }
    sync_file_system(data)?;
    let seed = serde_json::to_vec(&wanted).map_err(|error| AgentError::Refused(error.to_string()))?;
    write_durably(&data.join(SEED), 0o600, &seed)?;
    fs::remove_file(&journal).map_err(AgentError::file("removing", &journal))?;
    sync_directory(data)
}

/// Succeeds only on a finished restore.
///
/// # Errors
/// [`AgentError::Refused`] otherwise.
pub fn guard(data: &Path) -> Result<(), AgentError> {
    let refuse = |why: &str| Err(AgentError::Refused(format!("{} {why}: a server started here would be a new, writable database", data.display())));
    if data.join(RESTORING).exists() {
        return refuse("holds an unfinished restore");
    }
    if !data.join(SEED).exists() {
        return refuse("holds no restore");
    }
    Ok(())
}
