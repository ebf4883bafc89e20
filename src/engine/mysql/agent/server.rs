//! A server of our own on a data directory, closed to the network: only we reach it, through a socket in a directory that only we can enter.

use rand::Rng;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::VecDeque;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};

use super::super::session::MySqlSession;
use super::programs;
use super::settings::Settings;
use crate::agent::{AgentError, tool};
use crate::engine::SessionError;

const NAME: &str = "mysqld";
const SOCKET: &str = "s";
const PAUSE: Duration = Duration::from_millis(100);
/// How often is said that a server still starts: recovery takes as long as it takes.
const SAY: Duration = Duration::from_secs(10);
/// How much of a server's log is kept to say why it failed.
const KEPT: usize = 20;

/// What a server is started for.
#[derive(Debug)]
pub enum Purpose {
    /// Receive a copy. Plugins of the source have to be active here, too.
    Clone {
        /// Their libraries.
        plugins: Vec<String>,
    },
    /// Take in what mysqldump writes, all of it: accounts, events, definitions of a server with other settings.
    Load,
    /// Start a copy for the first time, and write nothing.
    Finish,
    /// Make a replica of a copy.
    Replica {
        /// Its `server_id`.
        server_id: u32,
        /// Name of its relay log.
        relay_log: String,
    },
}

impl Purpose {
    fn arguments(&self) -> Vec<String> {
        match self {
            Self::Clone { plugins } => {
                let theirs = plugins.iter().filter(|library| *library != "mysql_clone.so");
                let mut arguments = vec!["--skip-grant-tables".to_owned(), "--plugin-load-add=mysql_clone.so".to_owned(), "--server-id=1".to_owned()];
                arguments.extend(theirs.map(|library| format!("--plugin-load-add={library}")));
                arguments
            }
            // Without accounts it could not make events, which must not run here. What it loses when it is killed is loaded anew.
            Self::Load => {
                let arguments = [
                    "--server-id=1",
                    "--event-scheduler=OFF",
                    "--innodb-strict-mode=OFF",
                    "--max-allowed-packet=1G",
                    "--innodb-flush-log-at-trx-commit=0",
                    "--innodb-doublewrite=OFF",
                ];
                arguments.map(str::to_owned).to_vec()
            }
            Self::Finish => vec!["--skip-grant-tables".to_owned(), "--super-read-only=ON".to_owned(), "--server-id=1".to_owned()],
            Self::Replica { server_id, relay_log } => {
                vec![
                    "--skip-grant-tables".to_owned(),
                    "--super-read-only=ON".to_owned(),
                    format!("--server-id={server_id}"),
                    format!("--relay-log={relay_log}"),
                ]
            }
        }
    }
}

/// What a data directory is tied to from its beginning.
fn layout(settings: &Settings, data: &Path) -> Vec<String> {
    let mut arguments = vec![
        // First, or it is not understood. What is persisted in the directory is ignored as well.
        "--no-defaults".to_owned(),
        format!("--datadir={}", data.display()),
        "--secure-file-priv=NULL".to_owned(),
        // A small log, in a copy that goes to every replica.
        "--loose-innodb-redo-log-capacity=8388608".to_owned(),
        // Of what the kernel has of these the database itself may need the last.
        "--innodb-use-native-aio=OFF".to_owned(),
    ];
    for (name, value) in [
        ("lower-case-table-names", &settings.lower_case_table_names),
        ("innodb-page-size", &settings.page_size),
        ("innodb-data-file-path", &settings.data_file_path),
    ] {
        if !value.is_empty() {
            arguments.push(format!("--{name}={value}"));
        }
    }
    if rustix::process::geteuid().is_root() {
        arguments.push("--user=root".to_owned());
    }
    arguments
}

/// Makes a new, empty data directory.
///
/// # Errors
/// [`AgentError::Tool`] with mysqld's last words.
pub async fn initialize(settings: &Settings, data: &Path) -> Result<(), AgentError> {
    let mut arguments = layout(settings, data);
    arguments.push("--initialize-insecure".to_owned());
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    tool::run(programs(&settings.base_directory).as_deref(), NAME, &arguments).await
}

/// A running server and a session on it. It ends with this value, by force unless it was stopped.
pub struct Server {
    child: Child,
    /// Holds the socket.
    private: PrivateDirectory,
    session: MySqlSession,
    last: Arc<Mutex<VecDeque<String>>>,
}

impl Server {
    /// Starts a server and waits until it answers, or ends.
    ///
    /// # Errors
    /// [`AgentError::Tool`] with its last words if it ends.
    pub async fn start(settings: &Settings, data: &Path, purpose: &Purpose) -> Result<Self, AgentError> {
        let private = PrivateDirectory::new()?;
        let socket = private.0.join(SOCKET);
        tracing::info!(?purpose, "a server of our own starts");
        let program = programs(&settings.base_directory).map_or_else(|| NAME.into(), |directory| directory.join(NAME));
        let mut child = Command::new(program)
            .args(layout(settings, data))
            .arg(format!("--socket={}", socket.display()))
            .arg(format!("--pid-file={}", private.0.join("pid").display()))
            .arg(format!("--tmpdir={}", private.0.display()))
            // Nobody but us can reach it, so on a copy it need not know whom to let in: the accounts are the source's.
            .args(["--skip-networking", "--loose-mysqlx=OFF"])
            .args(["--skip-log-bin", "--gtid-mode=ON", "--enforce-gtid-consistency=ON", "--loose-skip-replica-start", "--loose-skip-slave-start"])
            .args([
                "--loose-auto-generate-certs=OFF",
                "--loose-caching-sha2-password-auto-generate-rsa-keys=OFF",
                "--loose-sha256-password-auto-generate-rsa-keys=OFF",
            ])
            .arg("--loose-mysql-native-password=ON")
            .args(purpose.arguments())
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| AgentError::Tool { tool: NAME, message: format!("{error}: does the source's image bring it along?") })?;
        let last = Arc::new(Mutex::new(VecDeque::new()));
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(keep_log(stderr, last.clone()));
        }
        let (begun, mut said) = (Instant::now(), Instant::now());
        loop {
            if let Some(status) = child.try_wait().map_err(|error| AgentError::Tool { tool: NAME, message: error.to_string() })? {
                // Its last words may still be on their way.
                tokio::time::sleep(PAUSE).await;
                return Err(AgentError::Tool { tool: NAME, message: words(&last).unwrap_or_else(|| status.to_string()) });
            }
            match MySqlSession::local(&socket).await {
                Ok(session) => return Ok(Self { child, private, session, last }),
                Err(SessionError::Unreachable(_)) => {}
                Err(other) => return Err(other.into()),
            }
            if said.elapsed() > SAY {
                said = Instant::now();
                tracing::info!(seconds = begun.elapsed().as_secs(), "it still starts");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The session on it.
    pub fn session(&mut self) -> &mut MySqlSession {
        &mut self.session
    }

    /// Another session.
    ///
    /// # Errors
    /// As for every connection.
    pub async fn connect(&self) -> Result<MySqlSession, AgentError> {
        Ok(MySqlSession::local(&self.socket()).await?)
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.private.0.join(SOCKET)
    }

    /// A directory that only we can enter, and that goes with the server.
    pub fn private(&self) -> &Path {
        &self.private.0
    }

    /// Stops the server cleanly, and waits until it has ended.
    ///
    /// # Errors
    /// [`AgentError::Tool`] if it does not end well.
    pub async fn stop(mut self) -> Result<(), AgentError> {
        let failed = |message: String| AgentError::Tool { tool: NAME, message };
        // It would wait two seconds for whoever is still connected.
        self.session.close().await;
        let process = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let process = process.ok_or_else(|| failed("it ended by itself".to_owned()))?;
        kill_process(process, Signal::TERM).map_err(|error| failed(error.to_string()))?;
        let status = self.child.wait().await.map_err(|error| failed(error.to_string()))?;
        if status.success() { Ok(()) } else { Err(failed(words(&self.last).unwrap_or_else(|| status.to_string()))) }
    }

    /// Ends the server at once: for one whose own data nobody needs.
    ///
    /// # Errors
    /// [`AgentError::Tool`] if it can't be ended.
    pub async fn abandon(mut self) -> Result<(), AgentError> {
        self.child.kill().await.map_err(|error| AgentError::Tool { tool: NAME, message: error.to_string() })
    }
}

/// Copies a server's log to ours, and keeps its end.
async fn keep_log(stderr: impl AsyncRead + Unpin, last: Arc<Mutex<VecDeque<String>>>) {
    let mut lines = BufReader::new(stderr).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        let line = String::from_utf8_lossy(&line).trim().to_owned();
        tracing::info!(tool = NAME, line);
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        last.push_back(line);
        if last.len() > KEPT {
            last.pop_front();
        }
    }
}

/// The errors in the end of a log.
fn words(last: &Mutex<VecDeque<String>>) -> Option<String> {
    let last = last.lock().unwrap_or_else(PoisonError::into_inner);
    let errors: Vec<&str> = last.iter().filter_map(|line| line.split_once("[ERROR] ")).map(|(_, words)| words).collect();
    (!errors.is_empty()).then(|| errors.join("; "))
}

/// A directory with a short name that only we can enter, removed with this value: the path of a socket has at most 107 bytes.
struct PrivateDirectory(PathBuf);

impl PrivateDirectory {
    fn new() -> Result<Self, AgentError> {
        let path = std::env::temp_dir().join(format!("understudy-{:08x}", rand::rng().random::<u32>()));
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(AgentError::file("making", &path))?;
        Ok(Self(path))
    }
}

impl Drop for PrivateDirectory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_is_read_only_from_its_first_start() {
        let words = Purpose::Replica { server_id: 7, relay_log: "r".into() }.arguments();
        assert!(words.contains(&"--super-read-only=ON".to_owned()));
        assert!(Purpose::Finish.arguments().contains(&"--super-read-only=ON".to_owned()));
    }

    #[test]
    fn the_errors_in_a_log_say_why() {
        let lines = ["2026 0 [System] [MY-1] starts", "2026 0 [ERROR] [MY-2] [Server] Aborting", "2026 0 [System] end"];
        let last = Mutex::new(lines.iter().map(|line| (*line).to_owned()).collect());
        assert_eq!(super::words(&last).as_deref(), Some("[MY-2] [Server] Aborting"));
        assert_eq!(super::words(&Mutex::new(VecDeque::new())), None);
    }
}
