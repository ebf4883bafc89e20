//! The end of a target's time as a replica: its data stays, and is its own.

use clap::Args;
use std::path::PathBuf;

use super::{AgentError, Common, Tools, seed};
use crate::engine::Identity;

/// What is said where the copy is the target's own from now on.
pub const RELEASED: &str = "the copy is its own";
/// What is said where other data than a copy is in the data directory.
pub const NO_COPY: &str = "no copy is there";

/// Arguments of `release`.
#[derive(Args, Debug, Clone)]
pub struct Release {
    /// The engine.
    #[command(flatten)]
    pub common: Common,
    /// The server's data directory.
    #[arg(long)]
    pub data_directory: PathBuf,
    /// The enabling.
    #[arg(long, value_parser = super::identity)]
    pub identity: Identity,
}

/// Lets a server that starts on a restore be a stand-alone one, with the arguments and the init container of a replica and without. One that runs goes on as a
/// replica: it is promoted next.
///
/// Gives [`RELEASED`], or [`NO_COPY`] where no finished restore of this enabling is there: nothing is touched then.
///
/// # Errors
/// After any it is to be run again.
pub fn release<E: Tools>(request: &Release) -> Result<String, AgentError> {
    let data = &request.data_directory;
    if !seed::finished(data).is_some_and(|seed| seed.is_of(&request.identity)) {
        return Ok(NO_COPY.to_owned());
    }
    // First: what the engine takes away must not keep the server from starting.
    seed::release(data, &request.identity)?;
    E::release(data)?;
    Ok(RELEASED.to_owned())
}

/// Removes from a released data directory what is ours, once its server runs as its owner's manifest says. Where nothing is, nothing is done.
///
/// # Errors
/// [`AgentError::Refused`] if it holds a restore of this enabling that was not released: nothing was touched.
pub fn clear<E: Tools>(data: &std::path::Path, identity: &Identity) -> Result<(), AgentError> {
    seed::clear(data, identity, E::clear)
}
