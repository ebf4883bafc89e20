//! The record of a swap, beside the data.

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::plan::Wanted;
use crate::agent::{AgentError, Seed, write_durably};

/// Its name.
pub(super) const JOURNAL: &str = "journal.json";
/// How long somebody else may be at work: one who was killed may take a moment to end.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(50);

/// How far a swap is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// Something may have been moved.
    #[default]
    Begun,
    /// Everything is in its place.
    Done,
    /// The other side's data is being deleted, and is not whole any more.
    Discarding,
}

/// What is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Layout {
    /// Whole directories, at once.
    #[default]
    Whole,
    /// What is in them, name by name.
    Names,
}

/// Written before anything is moved, and when everything is in its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Journal {
    /// Which data was wanted last.
    pub to: Wanted,
    /// How far that is.
    pub phase: Phase,
    /// What is moved.
    pub layout: Layout,
    /// The restore that the swap is about.
    pub seed: Seed,
    /// The data directory.
    pub data_directory: PathBuf,
    /// The names of the restored backup, for [`Layout::Names`].
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub staged: BTreeSet<String>,
    /// The names of the data that was there before, for [`Layout::Names`].
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub previous: BTreeSet<String>,
}

impl Journal {
    /// None where no swap was ever begun.
    pub fn read(ours: &Path) -> Result<Option<Self>, AgentError> {
        let path = ours.join(JOURNAL);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(AgentError::file("reading", &path))?,
        };
        serde_json::from_slice(&text).map(Some).map_err(|error| AgentError::Refused(format!("{}: {error}", path.display())))
    }

    pub fn write(&self, ours: &Path) -> Result<(), AgentError> {
        let text = serde_json::to_vec_pretty(self).map_err(|error| AgentError::Refused(error.to_string()))?;
        write_durably(&ours.join(JOURNAL), 0o600, &text)
    }
}

/// Held by whoever changes anything: a pod that was deleted by force may still be at work. It goes with its process.
pub struct Lock(#[expect(dead_code, reason = "the lock is the open file's")] File);

impl Lock {
    pub fn new(ours: &Path) -> Result<Self, AgentError> {
        let directory = File::open(ours).map_err(AgentError::file("opening", ours))?;
        let begun = Instant::now();
        loop {
            match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self(directory)),
                Err(Errno::WOULDBLOCK) if begun.elapsed() < PATIENCE => std::thread::sleep(PAUSE),
                Err(Errno::WOULDBLOCK) => return Err(AgentError::Refused(format!("somebody else is at work in {}", ours.display()))),
                // Some file systems lock no directories: then nothing tells.
                Err(error) => {
                    tracing::warn!(%error, "without a lock");
                    return Ok(Self(directory));
                }
            }
        }
    }
}
