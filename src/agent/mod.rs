//! What runs inside Jobs and replica pods: install, backup, restore, guard.
//!
//! Each ends with one line in the termination message: what was done, or one sentence that says why not.

mod files;
mod seed;
#[cfg(test)]
mod tests;

pub use files::{copy_tree, free_bytes, sync_directory, write_durably};
pub use seed::{Manifest, Seed};

use clap::{Args, Subcommand};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::engine::Identity;
use crate::engine::postgresql::agent as postgresql;
use crate::resources::format_bytes;

/// Where Kubernetes reads the termination message.
const TERMINATION_MESSAGE: &str = "/dev/termination-log";

/// What the agent does.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Copy this program into a directory, for the containers that follow.
    Install {
        /// The directory.
        directory: PathBuf,
    },
    /// Take a full backup of the source onto the backup volume.
    Backup(Backup),
    /// Restore a backup into the volume of a replica.
    Restore(Restore),
    /// Succeed only if a replica's volume holds a finished restore.
    Guard(Guard),
}

/// The engines that the agent knows.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineName {
    /// PostgreSQL.
    #[value(name = "PostgreSQL")]
    PostgreSql,
}

/// Arguments of `backup`.
#[derive(Args, Debug)]
pub struct Backup {
    /// The engine.
    #[arg(long)]
    pub engine: EngineName,
    /// Host of the source.
    #[arg(long)]
    pub host: String,
    /// Port of the source.
    #[arg(long)]
    pub port: u16,
    /// Database to connect to.
    #[arg(long)]
    pub database: String,
    /// Directory with the files `password` and, without --username, `username`.
    #[arg(long)]
    pub credentials: PathBuf,
    /// Name of the administrator.
    #[arg(long)]
    pub username: Option<String>,
    /// The enabling.
    #[arg(long, value_parser = identity)]
    pub identity: Identity,
    /// Where the backup volume is mounted.
    #[arg(long)]
    pub volume: PathBuf,
    /// Directory of this backup on it.
    #[arg(long, value_parser = plain_name)]
    pub directory: String,
}

/// Arguments of `restore`.
#[derive(Args, Debug)]
pub struct Restore {
    /// The engine.
    #[arg(long)]
    pub engine: EngineName,
    /// Where the backup volume is mounted.
    #[arg(long)]
    pub volume: PathBuf,
    /// Directory of the backup on it.
    #[arg(long, value_parser = plain_name)]
    pub directory: String,
    /// The server's data directory.
    #[arg(long)]
    pub data_directory: PathBuf,
    /// The enabling.
    #[arg(long, value_parser = identity)]
    pub identity: Identity,
    /// Number of the replica.
    #[arg(long)]
    pub replica: u32,
    /// Name of the replica, as the source shows it.
    #[arg(long)]
    pub name: String,
    /// Host of the source.
    #[arg(long)]
    pub primary_host: String,
    /// Port of the source.
    #[arg(long)]
    pub primary_port: u16,
}

/// Arguments of `guard`.
#[derive(Args, Debug)]
pub struct Guard {
    /// The engine.
    #[arg(long)]
    pub engine: EngineName,
    /// The server's data directory.
    #[arg(long)]
    pub data_directory: PathBuf,
}

/// Why the agent did not do its work, in one sentence.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A file could not be read or written.
    #[error("{doing} {path}: {source}")]
    File {
        /// What was being done.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system answered.
        source: std::io::Error,
    },
    /// The database's own tool failed.
    #[error("{tool} failed: {message}")]
    Tool {
        /// Name of the tool.
        tool: &'static str,
        /// Its last words.
        message: String,
    },
    /// The source did not do what was asked.
    #[error(transparent)]
    Session(#[from] crate::engine::SessionError),
    /// What was found does not allow to go on.
    #[error("{0}")]
    Refused(String),
}

impl AgentError {
    /// An error of the file system.
    pub fn file(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { doing, path, source }
    }
}

fn identity(word: &str) -> Result<Identity, String> {
    Identity::parse(word).ok_or_else(|| "8 lower-case letters and digits".to_owned())
}

/// A name that stays where it is put.
fn plain_name(name: &str) -> Result<String, String> {
    let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    plain.then(|| name.to_owned()).ok_or_else(|| "letters, digits, '-' and '_' only".to_owned())
}

/// Too little room, with both numbers.
///
/// # Errors
/// [`AgentError::Refused`] if there is less free than needed.
pub fn check_room(what: &str, path: &Path, needed: u64) -> Result<(), AgentError> {
    let free = free_bytes(path)?;
    if free >= needed {
        return Ok(());
    }
    Err(AgentError::Refused(format!("{what} has {} free, and {} are needed", format_bytes(free), format_bytes(needed))))
}

/// Runs the agent; the exit code tells Kubernetes, the termination message tells people.
pub async fn run(command: Command) -> ExitCode {
    let mut terminated = match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        Ok(signal) => signal,
        Err(error) => {
            tracing::error!(%error, "signals can't be handled");
            return ExitCode::FAILURE;
        }
    };
    let done = tokio::select! {
        done = execute(command) => done,
        // Dropping the work ends the tool that it runs.
        _ = terminated.recv() => Err(AgentError::Refused("ended from outside (SIGTERM)".to_owned())),
    };
    let (message, code) = match done {
        Ok(message) => (message, ExitCode::SUCCESS),
        Err(error) => {
            tracing::error!(%error, "failed");
            (error.to_string(), ExitCode::FAILURE)
        }
    };
    if Path::new(TERMINATION_MESSAGE).exists() {
        if let Err(error) = std::fs::write(TERMINATION_MESSAGE, message.chars().take(4000).collect::<String>()) {
            tracing::warn!(%error, "the termination message can't be written");
        }
    }
    code
}

async fn execute(command: Command) -> Result<String, AgentError> {
    match command {
        Command::Install { directory } => files::install(&directory).map(|()| String::new()),
        Command::Backup(backup) => match backup.engine {
            EngineName::PostgreSql => {
                let manifest = postgresql::backup(&backup).await?;
                serde_json::to_string(&manifest).map_err(|error| AgentError::Refused(error.to_string()))
            }
        },
        Command::Restore(restore) => {
            let EngineName::PostgreSql = restore.engine;
            seed::restore(&restore, postgresql::become_standby)?;
            Ok(String::new())
        }
        Command::Guard(guard) => {
            let EngineName::PostgreSql = guard.engine;
            seed::guard(&guard.data_directory)?;
            postgresql::guard(&guard.data_directory)?;
            Ok(String::new())
        }
    }
}
