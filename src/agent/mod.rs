//! What runs inside Jobs and in the pods of replicas and targets: install, backup, restore, guard, swap, keep, give-back, release, discard, measure.
//!
//! Each ends with one line in the termination message: what was done, or one sentence that says why not.

mod backup;
pub mod checksums;
mod files;
mod kept;
mod measure;
mod release;
mod seed;
pub mod swap;
#[cfg(test)]
mod tests;
pub mod tool;

pub use backup::{Filled, checksum, endpoint, kept_password};
pub use files::{free_bytes, remove, sync_directory, sync_file_system, write_durably};
pub use release::{NO_COPY, RELEASED};
pub use seed::{Manifest, Seed};

use clap::{Args, Subcommand};
use std::collections::BTreeSet;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use crate::api::EngineKind;
use crate::engine::{Engine, Identity, with_engine};
use crate::resources::format_bytes;
use kept::GiveBack;
use measure::Measure;
use release::{Release, release};
use swap::{Discard, Keep, Keystones, Swap};

/// How long a restore waits for a backup of which nothing is to be seen: its pod may still have to pull its image.
const BACKUP_BEGINS: Duration = Duration::from_mins(2);

/// The longest termination message, in bytes: Kubernetes cuts it off at 4096.
const MESSAGE: usize = 4000;

/// What an engine brings to the agent: the parts that know its tools and its files.
pub trait Tools: Engine {
    /// Room in bytes that a backup takes on its volume besides the data.
    const BACKUP_EXTRA: u64;
    /// A replica is made from the backup; otherwise its server copies everything from the source, and its volume is only made ready for that.
    const SEEDS: bool;
    /// What of a data directory goes first and comes last where it can only be swapped piece by piece: with our placeholder in its place, neither the server
    /// nor its image's entrypoint starts on the directory, makes a new database in it, or changes what lies there.
    const KEYSTONES: Keystones;
    /// A file at the top of every data directory with a database in it; none where a server starts without any.
    const SIGN: Option<&'static str>;

    /// Takes a full backup of the source behind the session into the directory `data` below `partial`, which is empty, and verifies it. `password` is that
    /// of the replication user.
    ///
    /// # Errors
    /// One sentence with the cause; what was begun is cleared by the next attempt.
    fn fill(request: &Backup, session: Self::Session, password: &str, partial: &Path) -> impl Future<Output = Result<Filled, AgentError>> + Send;

    /// Makes a replica of a data directory into which a backup was copied: it is one from its first second, and after every restart.
    ///
    /// # Errors
    /// If a file can't be read or written, or one of the database's programs fails.
    fn become_replica(request: &Restore, manifest: &Manifest) -> impl Future<Output = Result<(), AgentError>> + Send;

    /// Succeeds only if a server that starts on a finished restore is a replica, or with `released` finds its data; mends what mounting a volume may have done
    /// to its files.
    ///
    /// # Errors
    /// [`AgentError::Refused`] if it would take writes, and is not to.
    fn guard(data_directory: &Path, released: bool) -> Result<(), AgentError>;

    /// Whether the files of a server that has ended show that it holds no records of its users'. False where that can't be told.
    ///
    /// # Errors
    /// If a file can't be read.
    fn is_empty(data_directory: &Path) -> Result<bool, AgentError>;

    /// Adds to a restore that is about to take the place of other data what keeps a server from serving it as its own where nobody tells the server that it is
    /// a replica. `names` are those at the top of the other data.
    ///
    /// # Errors
    /// If a file can't be written.
    fn prepare_swap(staged: &Path, data: &Path, names: &BTreeSet<String>) -> Result<(), AgentError>;

    /// Has a server that starts on this data directory find its data and follow nobody, with the arguments of a replica and without, as far as files decide
    /// that. A replica runs on it meanwhile.
    ///
    /// # Errors
    /// After any it is to be run again.
    fn release(data_directory: &Path) -> Result<(), AgentError>;

    /// Removes from a released data directory what `become_replica`, `prepare_swap` and `release` have added. A stand-alone server runs on it meanwhile.
    ///
    /// # Errors
    /// After any it is to be run again.
    fn clear(data_directory: &Path) -> Result<(), AgentError>;
}

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
    /// Bring a staged restore, or the previous data, into a target's data directory.
    Swap(Swap),
    /// Back up what a target held before, and verify it, so that it may be deleted.
    Keep(Keep),
    /// Put such a backup into an empty data directory: a stand-alone database again.
    GiveBack(GiveBack),
    /// Have a target's data be its own from now on.
    Release(Release),
    /// Delete what a swap has left beside a target's data directory, and of a released one what is ours in it.
    Discard(Discard),
    /// Say how much room there is on a volume, and how much of it a data directory takes.
    Measure(Measure),
}

/// What every command that works on a database is told.
#[derive(Args, Debug, Clone)]
pub struct Common {
    /// The engine, as in `spec.engine`.
    #[arg(long, value_parser = engine)]
    pub engine: EngineKind,
    /// Where Kubernetes reads the termination message; it is written only if the file exists.
    #[arg(long, default_value = "/dev/termination-log")]
    pub termination_message: PathBuf,
}

/// Arguments of `backup`.
#[derive(Args, Debug)]
pub struct Backup {
    /// The engine.
    #[command(flatten)]
    pub common: Common,
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
    #[command(flatten)]
    pub common: Common,
    /// Where the backup volume is mounted.
    #[arg(long)]
    pub volume: PathBuf,
    /// Directory of the backup on it.
    #[arg(long, value_parser = plain_name)]
    pub directory: String,
    /// The directory to restore into: the server's data directory, or where that is in use, one that takes its place later.
    #[arg(long)]
    pub data_directory: PathBuf,
    /// The server's data directory, where it is another one: what is written into the restore names this one.
    #[arg(long)]
    pub final_directory: Option<PathBuf>,
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

impl Restore {
    /// Where a server will find what is restored.
    #[must_use]
    pub fn served_at(&self) -> &Path {
        self.final_directory.as_deref().unwrap_or(&self.data_directory)
    }

    /// Another server's data is there until the restore takes its place.
    #[must_use]
    pub fn is_staged(&self) -> bool {
        self.served_at() != self.data_directory
    }
}

/// Arguments of `guard`.
#[derive(Args, Debug)]
pub struct Guard {
    /// The engine.
    #[command(flatten)]
    pub common: Common,
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

fn engine(name: &str) -> Result<EngineKind, String> {
    serde_json::from_value(name.into()).map_err(|error| error.to_string())
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
    let file = match &command {
        Command::Install { .. } => None,
        Command::Backup(Backup { common, .. })
        | Command::Restore(Restore { common, .. })
        | Command::Guard(Guard { common, .. })
        | Command::Keep(Keep { common, .. })
        | Command::GiveBack(GiveBack { common, .. })
        | Command::Swap(Swap { common, .. })
        | Command::Release(Release { common, .. }) => Some(common.termination_message.clone()),
        Command::Discard(Discard { termination_message, .. }) | Command::Measure(Measure { termination_message, .. }) => Some(termination_message.clone()),
    };
    let done = tokio::select! {
        done = dispatch(command) => Some(done),
        // Dropping the work ends the tool that it runs.
        _ = terminated.recv() => None,
    };
    let stopped = done.is_none();
    let (message, code) = match done.unwrap_or_else(|| Err(AgentError::Refused("ended from outside (SIGTERM)".to_owned()))) {
        Ok(message) => (message, ExitCode::SUCCESS),
        Err(error) => {
            tracing::error!(%error, "failed");
            (error.to_string(), ExitCode::FAILURE)
        }
    };
    if let Some(error) =
        file.filter(|file| file.exists()).and_then(|file| std::fs::write(file, message.get(..message.floor_char_boundary(MESSAGE)).unwrap_or_default()).err())
    {
        tracing::warn!(%error, "the termination message can't be written");
    }
    if stopped {
        // Copying goes on in a thread of its own, and can be cut off anywhere.
        std::process::exit(1);
    }
    code
}

async fn dispatch(command: Command) -> Result<String, AgentError> {
    match command {
        Command::Install { directory } => files::install(&directory).map(|()| String::new()),
        Command::Backup(request) => {
            let manifest = with_engine!(request.common.engine, E => backup::backup::<E>(&request).await)?;
            manifest.report(MESSAGE)
        }
        Command::Restore(request) => with_engine!(request.common.engine, E => restore::<E>(request).await).map(|()| String::new()),
        Command::Guard(request) => {
            seed::guard(&request.data_directory)?;
            with_engine!(request.common.engine, E => E::guard(&request.data_directory, false)).map(|()| String::new())
        }
        Command::Swap(request) => blocking(move || with_engine!(request.common.engine, E => swap::swap::<E>(&request))).await.map(|()| String::new()),
        Command::Keep(request) => blocking(move || with_engine!(request.common.engine, E => swap::keep::<E>(&request))).await,
        Command::GiveBack(request) => blocking(move || with_engine!(request.common.engine, E => kept::give_back::<E>(&request))).await,
        Command::Release(request) => blocking(move || with_engine!(request.common.engine, E => release::<E>(&request))).await,
        Command::Discard(request) => blocking(move || discard(&request)).await.map(|()| String::new()),
        Command::Measure(request) => blocking(move || measure::measure(&request)).await,
    }
}

fn discard(request: &Discard) -> Result<(), AgentError> {
    if let Some(data) = &request.data_directory {
        // Before anything is deleted: where the copy was given up, what was there before is wanted back.
        seed::may_be_cleared(data, &request.identity)?;
    }
    swap::discard(request)?;
    match (request.engine, &request.data_directory) {
        (Some(engine), Some(data)) => with_engine!(engine, E => release::clear::<E>(data, &request.identity)),
        _ => Ok(()),
    }
}

async fn restore<E: Tools>(request: Restore) -> Result<(), AgentError> {
    seed::await_backup(&request, BACKUP_BEGINS).await;
    let runtime = tokio::runtime::Handle::current();
    let finish = move |request: &Restore, manifest: &Manifest| runtime.block_on(E::become_replica(request, manifest));
    blocking(move || seed::restore(&request, E::SEEDS, finish)).await
}

/// Runs what works on files for long on a thread of its own, so that a signal is heard.
///
/// # Errors
/// Those of the work, or if it was interrupted.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, AgentError> + Send + 'static) -> Result<T, AgentError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| AgentError::Refused(error.to_string()))?
}
