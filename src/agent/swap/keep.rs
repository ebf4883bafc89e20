//! What a target held before is kept as a backup: a cold copy of data that lies at rest, verified before anything of it may be deleted.

use clap::Args;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::disk::list;
use super::journal::{Journal, Lock, Phase};
use super::{Places, Wanted};
use crate::agent::backup::bytes_below;
use crate::agent::checksums::{FILES, difference, forget, links, list_files};
use crate::agent::files::{Extent, copy_tree};
use crate::agent::kept::{self, MARGIN};
use crate::agent::{AgentError, Common, Manifest, Tools, check_room, checksum, seed, sync_directory, sync_file_system, write_durably};
use crate::engine::Identity;

/// So many links are named.
const NAMED: usize = 3;

/// Arguments of `keep`.
#[derive(Args, Debug, Clone)]
pub struct Keep {
    /// The engine.
    #[command(flatten)]
    pub common: Common,
    /// Where the target's volume is mounted.
    #[arg(long)]
    pub mount: PathBuf,
    /// The server's data directory on it.
    #[arg(long)]
    pub data_directory: PathBuf,
    /// The enabling.
    #[arg(long, value_parser = crate::agent::identity)]
    pub identity: Identity,
    /// Where the backup volume is mounted.
    #[arg(long)]
    pub volume: PathBuf,
    /// Directory of this backup on it.
    #[arg(long, value_parser = crate::agent::plain_name)]
    pub directory: String,
    /// Do nothing where it holds no records of its users'.
    #[arg(long)]
    pub unless_empty: bool,
    /// Version of the server that the data is of, for those who read the manifest.
    #[arg(long, default_value = "unknown")]
    pub server_version: String,
}

/// Copies what was in the data directory before to the backup volume, and verifies the copy. Gives a report as JSON, `null` where there is nothing to keep. A
/// backup that exists is compared, and not made again.
///
/// # Errors
/// [`AgentError::Refused`] unless the swap is finished with the restored data in the data directory: nothing was touched then. What was begun is cleared by the
/// next attempt.
pub fn keep<E: Tools>(request: &Keep) -> Result<String, AgentError> {
    keep_files::<E>(request, &mut || Ok(()))
}

/// `change` is asked before every change to the disk.
fn keep_files<E: Tools>(request: &Keep, change: &mut dyn FnMut() -> Result<(), AgentError>) -> Result<String, AgentError> {
    const NOTHING: &str = "null";
    let places = Places::new(&request.mount, &request.data_directory, &request.identity)?;
    let done = request.volume.join(&request.directory);
    // Only what need not be kept, or is, is ever discarded.
    if request.unless_empty && !done.exists() && Journal::read(&places.ours)?.is_none_or(|journal| journal.phase == Phase::Discarding) {
        return Ok(NOTHING.to_owned());
    }
    check(&places)?;
    // Nobody swaps or discards meanwhile.
    let _lock = Lock::new(&places.ours)?;
    check(&places)?;
    let previous = places.home(Wanted::Previous);
    // A server that keeps everything in memory has no files.
    if !done.exists() && (list(&previous)?.is_empty() || request.unless_empty && E::is_empty(&previous)?) {
        tracing::info!(directory = %previous.display(), "nothing is in it that would have to be kept");
        return Ok(NOTHING.to_owned());
    }
    let manifest = if done.exists() { compare(&previous, &done, E::NAME)? } else { take(request, E::NAME, &places, &previous, change)? };
    kept::report(&request.directory, &manifest)
}

/// Whether the data that was there before lies whole and at rest, and nobody can want it back into its place by a swap that is under way.
fn check(places: &Places) -> Result<(), AgentError> {
    let refuse = |why: &str| Err(AgentError::Refused(format!("{} {why}: nothing was touched", places.ours.display())));
    match Journal::read(&places.ours)? {
        None => refuse("has no record of a swap"),
        Some(journal) if journal.data_directory != places.data => refuse("has the record of the swap of another data directory"),
        Some(journal) if (journal.to, journal.phase) != (Wanted::Staged, Phase::Done) => refuse("does not say that the swap is done"),
        Some(journal) if seed::finished(&places.data).as_ref() != Some(&journal.seed) => refuse("is about a restore that is not in the data directory"),
        Some(_) => Ok(()),
    }
}

/// Whether a backup that was finished before is whole, and of this data.
fn compare(previous: &Path, done: &Path, engine: &str) -> Result<Manifest, AgentError> {
    let (manifest, list) = kept::read(done, engine)?;
    for directory in [previous, &done.join("data")] {
        if let Some(name) = difference(&list_files(directory)?, &list) {
            return Err(AgentError::Refused(format!(
                "{} is a finished backup, and {} is not what is in it: nothing was touched",
                done.display(),
                directory.join(name).display()
            )));
        }
    }
    tracing::info!(directory = %done.display(), "the backup is there");
    Ok(manifest)
}

/// Takes a backup beside, and renames it into place once it is verified and described.
fn take(request: &Keep, engine: &str, places: &Places, previous: &Path, change: &mut dyn FnMut() -> Result<(), AgentError>) -> Result<Manifest, AgentError> {
    let partial = request.volume.join(format!("{}.partial", request.directory));
    if partial.exists() {
        change()?;
        fs::remove_dir_all(&partial).map_err(AgentError::file("clearing an unfinished backup:", &partial))?;
    }
    check_room("the backup volume", &request.volume, bytes_below(previous)?.saturating_add(MARGIN))?;
    let data = partial.join("data");
    for directory in [&partial, &data] {
        change()?;
        fs::DirBuilder::new().mode(0o700).create(directory).map_err(AgentError::file("making", directory))?;
    }
    change()?;
    tracing::info!("copying");
    let bytes = copy_tree(previous, &data, Extent::Whole)?;
    let list = list_files(previous)?;
    change()?;
    write_durably(&partial.join(FILES), 0o600, list.as_bytes())?;
    change()?;
    sync_file_system(&request.volume)?;
    tracing::info!("reading the copy back");
    forget(&data)?;
    if let Some(name) = difference(&list_files(&data)?, &list) {
        return Err(AgentError::Refused(format!("the copy of {} is not the same", previous.join(name).display())));
    }
    // Some file systems know no locks.
    check(places)?;
    let manifest = Manifest {
        engine: engine.to_owned(),
        version: request.server_version.clone(),
        position: String::new(),
        bytes,
        checksum: checksum(list.as_bytes()),
        completed_at: k8s_openapi::jiff::Timestamp::now().to_string(),
        note: note(&list),
    };
    let text = serde_json::to_vec_pretty(&manifest).map_err(|error| AgentError::Refused(error.to_string()))?;
    change()?;
    write_durably(&partial.join(kept::MANIFEST), 0o600, &text)?;
    let done = request.volume.join(&request.directory);
    change()?;
    fs::rename(&partial, &done).map_err(AgentError::file("renaming into place:", &done))?;
    change()?;
    sync_directory(&request.volume)?;
    Ok(manifest)
}

/// What a person should know of links.
fn note(list: &str) -> Option<String> {
    let count = links(list).count();
    let named = links(list).take(NAMED).collect::<Vec<_>>().join(", ");
    let more = if count > NAMED { format!(" and {} more", count - NAMED) } else { String::new() };
    (count > 0).then(|| format!("{named}{more}: copied as links; what lies outside the data directory is not in the backup"))
}

#[cfg(test)]
mod tests;
