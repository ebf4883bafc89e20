//! The end of a swap: what is beside the data directory goes.

use clap::Args;
use std::fs;
use std::path::{Path, PathBuf};

use super::disk::list;
use super::journal::{JOURNAL, Journal, Lock, Phase};
use super::{Wanted, directory};
use crate::agent::{AgentError, seed, sync_directory, write_durably};
use crate::api::EngineKind;
use crate::engine::Identity;

/// Arguments of `discard`.
#[derive(Args, Debug)]
pub struct Discard {
    /// Where the volume is mounted.
    #[arg(long)]
    pub mount: PathBuf,
    /// The enabling.
    #[arg(long, value_parser = crate::agent::identity)]
    pub identity: Identity,
    /// The server's data directory, where it was released and what is ours in it goes, too: once its server runs as its owner's manifest says.
    #[arg(long, requires = "engine")]
    pub data_directory: Option<PathBuf>,
    /// The engine, as in `spec.engine`.
    #[arg(long, requires = "data_directory", value_parser = crate::agent::engine)]
    pub engine: Option<EngineKind>,
    /// Where Kubernetes reads the termination message; it is written only if the file exists.
    #[arg(long, default_value = "/dev/termination-log")]
    pub termination_message: PathBuf,
}

/// Deletes our directory on a volume: with the previous data where the restored one is in the data directory; otherwise only with a copy.
///
/// # Errors
/// [`AgentError::Refused`] if the previous data is there and a swap is not finished, or the restored data is not in the data directory: nothing was touched.
pub fn discard(request: &Discard) -> Result<(), AgentError> {
    let ours = directory(&request.mount, &request.identity);
    if !ours.exists() {
        return Ok(());
    }
    let _lock = Lock::new(&ours)?;
    let journal = Journal::read(&ours)?;
    check(&ours, journal.as_ref())?;
    if let Some(journal) = journal {
        // From here on nothing in it is whole: nobody must want it back.
        (Journal { phase: Phase::Discarding, ..journal }).write(&ours)?;
    }
    let staged = ours.join("staged");
    if staged.exists() {
        write_durably(&staged.join(seed::RESTORING), 0o600, b"")?;
    }
    let mut names: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(&ours).map_err(AgentError::file("reading", &ours))? {
        names.push(entry.map_err(AgentError::file("reading", &ours))?.path());
    }
    // The record goes last.
    names.sort_by_key(|path| path.file_name().is_some_and(|name| name == JOURNAL));
    for path in names {
        tracing::info!(path = %path.display(), "deleting");
        let removed = if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(AgentError::file("deleting", &path))?;
    }
    fs::remove_dir(&ours).map_err(AgentError::file("deleting", &ours))?;
    sync_directory(&request.mount)
}

/// Whether what is in our directory is not the only copy of anything that was on the volume before us.
fn check(ours: &Path, journal: Option<&Journal>) -> Result<(), AgentError> {
    let refuse = |why: &str| Err(AgentError::Refused(format!("{} is kept: {why}", ours.display())));
    let kept = !list(&ours.join("previous"))?.is_empty();
    match journal {
        None if kept => refuse("it holds data of which no swap is on record"),
        None => Ok(()),
        Some(journal) if journal.phase == Phase::Begun => refuse("a swap is not finished"),
        Some(journal) => {
            let restored = seed::finished(&journal.data_directory).as_ref() == Some(&journal.seed);
            match journal.to {
                Wanted::Staged if restored => Ok(()),
                Wanted::Staged => refuse("the restored data is not in the data directory"),
                Wanted::Previous if kept || restored => refuse("the data that was there before is not in the data directory"),
                Wanted::Previous => Ok(()),
            }
        }
    }
}
