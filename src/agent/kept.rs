//! A backup of what a target held before, and the way back from it into an empty data directory.

use clap::Args;
use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::checksums::{FILES, LOST_AND_FOUND, difference, list_files};
use super::files::{Extent, copy_tree};
use super::{AgentError, Common, MESSAGE, Manifest, Tools, check_room, checksum, plain_name, seed, sync_directory, sync_file_system, write_durably};

/// Room in bytes that a copy takes on its volume besides the data.
pub(super) const MARGIN: u64 = 32 << 20;
/// Written last: without it a backup does not exist.
pub(super) const MANIFEST: &str = "manifest.json";
/// In a data directory that is being filled: everything in it is ours and may be thrown away. `mysqld --initialize` takes no directory with a file in it.
const GIVING: &str = "understudy.giving-back";
/// Where the copy is made, so that nothing of it is in its place before it is verified. Hidden, as servers look into every other directory.
const STAGED: &str = ".understudy-giving-back";

/// Arguments of `give-back`.
#[derive(Args, Debug, Clone)]
pub struct GiveBack {
    /// The engine.
    #[command(flatten)]
    pub common: Common,
    /// Where the backup volume is mounted.
    #[arg(long)]
    pub volume: PathBuf,
    /// Directory of the backup on it.
    #[arg(long, value_parser = plain_name)]
    pub directory: String,
    /// The data directory to fill. No server may run on it.
    #[arg(long)]
    pub data_directory: PathBuf,
}

/// A backup's manifest with the name of its directory, as JSON.
pub(super) fn report(directory: &str, manifest: &Manifest) -> Result<String, AgentError> {
    let refused = |error: serde_json::Error| AgentError::Refused(error.to_string());
    let mut value: serde_json::Value = serde_json::from_str(&manifest.report(MESSAGE - 300)?).map_err(refused)?;
    value["directory"] = directory.into();
    Ok(value.to_string())
}

/// The manifest of a finished backup and the list of what is in it.
pub(super) fn read(backup: &Path, engine: &str) -> Result<(Manifest, String), AgentError> {
    let manifest = seed::manifest(backup)?;
    if manifest.engine != engine {
        return Err(AgentError::Refused(format!("{} is a backup of {}, not of {engine}: nothing was touched", backup.display(), manifest.engine)));
    }
    let path = backup.join(FILES);
    let list = fs::read_to_string(&path).map_err(AgentError::file("this is no backup of what a target held: reading", &path))?;
    if checksum(list.as_bytes()) != manifest.checksum {
        return Err(AgentError::Refused(format!("{} is not what was verified when the backup was taken: nothing was touched", path.display())));
    }
    Ok((manifest, list))
}

/// Puts a backup of what a target held before into an empty data directory, and verifies it. Gives a report as JSON. Where it is in place, nothing is touched.
///
/// # Errors
/// [`AgentError::Refused`] if the directory holds anything else: nothing was touched then. What was begun is cleared by the next attempt.
pub fn give_back<E: Tools>(request: &GiveBack) -> Result<String, AgentError> {
    give_back_as(request, E::NAME, E::SIGN, &mut || Ok(()))
}

/// `change` is asked before every change to the disk.
fn give_back_as(request: &GiveBack, engine: &str, sign: Option<&str>, change: &mut dyn FnMut() -> Result<(), AgentError>) -> Result<String, AgentError> {
    let backup = request.volume.join(&request.directory);
    let (manifest, list) = read(&backup, engine)?;
    let data = &request.data_directory;
    fs::create_dir_all(data).map_err(AgentError::file("making", data))?;
    let (marker, staged) = (data.join(GIVING), data.join(STAGED));
    let held = held(data)?;
    if !marker.exists() {
        if staged.exists() || !held.is_empty() {
            if !staged.exists() && difference(&list_files(data)?, &list).is_none() {
                return report(&request.directory, &manifest);
            }
            let names: Vec<_> = held.iter().filter_map(|path| Some(path.file_name()?.to_string_lossy())).collect();
            return Err(AgentError::Refused(format!("{} is not empty ({}): nothing was touched", data.display(), names.join(", "))));
        }
        change()?;
        write_durably(&marker, 0o600, request.directory.as_bytes())?;
    }
    // Without the copy beside, what is there is all of it: a server may have been started on it.
    if staged.exists() || held.is_empty() {
        clear(data, held, change)?;
        stage(&request.data_directory, &backup.join("data"), &manifest, &list, change)?;
        bring(data, sign, change)?;
    }
    change()?;
    fs::remove_file(&marker).map_err(AgentError::file("removing", &marker))?;
    change()?;
    sync_directory(data)?;
    report(&request.directory, &manifest)
}

/// What is in a data directory and is neither our unfinished work nor the file system's own, sorted.
fn held(data: &Path) -> Result<Vec<PathBuf>, AgentError> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(data).map_err(AgentError::file("reading", data))? {
        let entry = entry.map_err(AgentError::file("reading", data))?;
        let name = entry.file_name();
        if name != LOST_AND_FOUND && name != GIVING && name != STAGED && name.to_str() != Some(&format!("{GIVING}.partial")) {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

/// Removes what an attempt has left that was ended. The copy beside goes last: while it is there, not everything was in its place.
fn clear(data: &Path, held: Vec<PathBuf>, change: &mut dyn FnMut() -> Result<(), AgentError>) -> Result<(), AgentError> {
    let mut remove = |path: &Path| {
        change()?;
        let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        removed.map_err(AgentError::file("clearing an unfinished copy:", path))
    };
    for path in held {
        remove(&path)?;
    }
    sync_directory(data)?;
    let staged = data.join(STAGED);
    if staged.exists() { remove(&staged) } else { Ok(()) }
}

/// Copies the backup beside, and verifies the copy.
fn stage(data: &Path, backup: &Path, manifest: &Manifest, list: &str, change: &mut dyn FnMut() -> Result<(), AgentError>) -> Result<(), AgentError> {
    check_room("the volume of the data directory", data, manifest.bytes.saturating_add(MARGIN))?;
    let staged = data.join(STAGED);
    change()?;
    fs::DirBuilder::new().mode(0o700).create(&staged).map_err(AgentError::file("making", &staged))?;
    change()?;
    tracing::info!(bytes = manifest.bytes, "copying");
    copy_tree(backup, &staged, Extent::Whole)?;
    change()?;
    if let Some(name) = difference(&list_files(&staged)?, list) {
        return Err(AgentError::Refused(format!("{} is not what was verified when the backup was taken", backup.join(name).display())));
    }
    sync_file_system(data)
}

/// Brings the copy to its place, the file without which no server starts last.
fn bring(data: &Path, sign: Option<&str>, change: &mut dyn FnMut() -> Result<(), AgentError>) -> Result<(), AgentError> {
    let staged = data.join(STAGED);
    let mut names = Vec::new();
    for entry in fs::read_dir(&staged).map_err(AgentError::file("reading", &staged))? {
        names.push(entry.map_err(AgentError::file("reading", &staged))?.file_name());
    }
    names.sort_by_key(|name| name.to_str() == sign);
    for name in names {
        change()?;
        fs::rename(staged.join(&name), data.join(&name)).map_err(AgentError::file("renaming", &staged.join(&name)))?;
    }
    change()?;
    // The mark of a restore is one of a replica.
    match fs::remove_file(data.join(seed::SEED)) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(AgentError::file("removing", &data.join(seed::SEED))(error))?,
        _ => {}
    }
    change()?;
    // Not ours where the directory is the mount point itself: there the image's entrypoint sets it.
    if let Err(error) = fs::set_permissions(data, Permissions::from_mode(0o700)) {
        tracing::warn!(%error, "the mode of the data directory stays");
    }
    sync_directory(data)?;
    change()?;
    fs::remove_dir(&staged).map_err(AgentError::file("removing", &staged))?;
    sync_directory(data)
}

#[cfg(test)]
mod tests;
