//! How much room there is on a target's volume, for the preflight.

use clap::Args;
use rustix::fs::{Access, access};
use serde::Serialize;
use std::path::PathBuf;

use super::{AgentError, free_bytes, swap};

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
    /// This user may write where a copy is restored to and exchanged: at the top of the volume, and beside the data directory.
    writable: bool,
    /// What in the data directory could not be moved aside, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    unmovable: Option<String>,
}

/// Measures, as JSON.
///
/// # Errors
/// If the volume can't be looked at.
pub fn measure(request: &Measure) -> Result<String, AgentError> {
    let beside = if request.data_directory == request.mount { None } else { request.data_directory.parent() };
    let writable = [Some(request.mount.as_path()), beside].into_iter().flatten().all(|path| access(path, Access::WRITE_OK | Access::EXEC_OK).is_ok());
    let unmovable = swap::unmovable(&request.mount, &request.data_directory);
    let room = Room { free_bytes: free_bytes(&request.mount)?, writable, unmovable };
    serde_json::to_string(&room).map_err(|error| AgentError::Refused(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_moved_is_named() {
        let root = tempfile::tempdir().unwrap();
        let data = root.path().join("data");
        std::fs::create_dir_all(data.join("base")).unwrap();
        let request = Measure { mount: root.path().into(), data_directory: data.clone(), termination_message: "none".into() };
        let found = |request: &Measure| serde_json::from_str::<serde_json::Value>(&measure(request).unwrap()).unwrap();
        let measured = found(&request);
        assert!(measured["freeBytes"].as_u64().unwrap() > 0 && measured["writable"] == true && measured["unmovable"].is_null(), "{measured}");
        // The machine's own: another file system.
        let elsewhere = Measure { mount: "/proc".into(), ..request };
        assert!(found(&elsewhere)["unmovable"].as_str().unwrap().contains("lies on another file system"), "{}", found(&elsewhere));
        let nothing = Measure { mount: root.path().into(), data_directory: root.path().join("none"), ..elsewhere };
        assert!(found(&nothing)["unmovable"].as_str().unwrap().contains("none"), "a directory that is not there");
    }
}
