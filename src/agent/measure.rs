//! How much room there is on a target's volume, for the preflight.

use clap::Args;
use rustix::fs::{Access, access};
use serde::Serialize;
use std::fs;
use std::io::{Error, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{AgentError, free_bytes, swap};

/// In these `st_blocks` counts (manual, "stat(3type)").
const BLOCK: u64 = 512;

/// Arguments of `measure`.
#[derive(Args, Debug)]
pub struct Measure {
    /// Where the volume is mounted.
    #[arg(long)]
    pub mount: PathBuf,
    /// The server's data directory on it.
    #[arg(long)]
    pub data_directory: PathBuf,
    /// Where Kubernetes reads the termination message; it is written only if the file exists.
    #[arg(long, default_value = "/dev/termination-log")]
    pub termination_message: PathBuf,
}

/// What was found.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Room {
    /// Bytes that are free on the volume.
    free_bytes: u64,
    /// Bytes that the data directory takes on it, without what is ours.
    used_bytes: u64,
    /// This user may write where a copy is restored to and exchanged: at the top of the volume, and beside the data directory.
    writable: bool,
}

/// Measures, as JSON.
///
/// # Errors
/// If the volume can't be looked at.
pub fn measure(request: &Measure) -> Result<String, AgentError> {
    let used_bytes = used(&request.data_directory).map_err(AgentError::file("measuring", &request.data_directory))?;
    let beside = if request.data_directory == request.mount { None } else { request.data_directory.parent() };
    let writable = [Some(request.mount.as_path()), beside].into_iter().flatten().all(|path| access(path, Access::WRITE_OK | Access::EXEC_OK).is_ok());
    let room = Room { free_bytes: free_bytes(&request.mount)?, used_bytes, writable };
    serde_json::to_string(&room).map_err(|error| AgentError::Refused(error.to_string()))
}

/// Bytes on the disk below a directory, while a server works in it: what goes meanwhile is not counted.
fn used(directory: &Path) -> Result<u64, Error> {
    let (mut bytes, mut left) = (0, vec![directory.to_owned()]);
    while let Some(next) = left.pop() {
        let entries = match fs::read_dir(&next) {
            Err(error) if error.kind() == ErrorKind::NotFound && next != directory => continue,
            other => other?,
        };
        for entry in entries {
            let entry = entry?;
            if next == directory && entry.file_name().to_string_lossy().starts_with(swap::DIRECTORY) {
                continue;
            }
            match entry.metadata() {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
                Ok(metadata) => {
                    bytes += metadata.blocks() * BLOCK;
                    if metadata.is_dir() {
                        left.push(entry.path());
                    }
                }
            }
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ours_is_not_counted() {
        let root = tempfile::tempdir().unwrap();
        for (path, bytes) in [("base/1", 1 << 20), ("a", 8192), (".understudy-k3x9q2ab/staged/base/1", 4 << 20)] {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, vec![1; bytes]).unwrap();
        }
        let request = Measure { mount: root.path().into(), data_directory: root.path().into(), termination_message: "none".into() };
        let found: serde_json::Value = serde_json::from_str(&measure(&request).unwrap()).unwrap();
        let used = found["usedBytes"].as_u64().unwrap();
        assert!(((1 << 20) + 8192..2 << 20).contains(&used), "{found}");
        assert!(found["freeBytes"].as_u64().unwrap() > 0, "{found}");
        let nothing = Measure { data_directory: root.path().join("none"), ..request };
        assert!(measure(&nothing).is_err(), "a directory that is not there has no size");
    }
}
