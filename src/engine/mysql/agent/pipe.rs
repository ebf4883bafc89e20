//! mysqldump and the mysql client, with a pipe between them that is ours: no shell, and what goes through is counted.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;

use super::super::session::{MySqlSession, telling};
use super::directory_of;
use super::settings::Settings;
use crate::agent::AgentError;
use crate::resources::format_bytes;

/// What reads the source.
pub const DUMP: &str = "mysqldump";
const CLIENT: &str = "mysql";
/// The last thing that mysqldump writes.
const COMPLETED: &[u8] = b"-- Dump completed";
/// How much of the end of a dump is looked at.
const END: usize = 200;
/// How often the progress is logged, and the session with the source used.
const PROGRESS: Duration = Duration::from_secs(5);
/// A copy may take as long as it takes, as long as it moves.
const STALLED: Duration = Duration::from_mins(15);
/// How many lines of a tool's messages are kept.
const KEPT: usize = 4;

/// One of the server's programs: below its directory, or else where programs are looked for.
pub fn program(base_directory: &str, name: &str) -> PathBuf {
    directory_of(base_directory, name).map_or_else(|| name.into(), |directory| directory.join(name))
}

/// A dump under way into a server of our own.
pub struct Pipe {
    dump: Tool,
    client: Tool,
    output: ChildStdout,
    input: ChildStdin,
    /// What was read already.
    head: Vec<u8>,
}

impl Pipe {
    /// Starts mysqldump as it is given here, and a client for what it writes.
    ///
    /// # Errors
    /// [`AgentError::Tool`] if one can't be started.
    pub fn start(settings: &Settings, mut dump: Command, socket: &Path) -> Result<Self, AgentError> {
        dump.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut client = Command::new(program(&settings.base_directory, CLIENT));
        client.args(["--no-defaults", "--user=root", "--database=mysql", &format!("--socket={}", socket.display())]);
        // In binary mode nothing in the data is taken for a command of the client.
        client.args(["--binary-mode", "--default-character-set=utf8mb4", "--max-allowed-packet=1G"]).stdin(Stdio::piped()).stdout(Stdio::null());
        let (mut dump, mut client) = (Tool::start(DUMP, dump)?, Tool::start(CLIENT, client)?);
        let (Some(output), Some(input)) = (dump.child.stdout.take(), client.child.stdin.take()) else {
            return Err(AgentError::Refused("the tools have no pipes".to_owned()));
        };
        Ok(Self { dump, client, output, input, head: Vec::new() })
    }

    /// Reads until mysqldump has written this, or has ended.
    pub async fn await_mark(&mut self, mark: &[u8]) {
        let mut buffer = vec![0; 1 << 12];
        while !self.head.windows(mark.len()).any(|window| window == mark) {
            match self.output.read(&mut buffer).await {
                Ok(read @ 1..) => self.head.extend_from_slice(buffer.get(..read).unwrap_or_default()),
                // Why it has ended is found by `finish`.
                _ => return,
            }
        }
    }

    /// Ends the dump on the source as well: a server does not notice that a client has gone as long as it waits for a lock.
    ///
    /// # Errors
    /// Whatever the server answers.
    pub async fn kill(self, session: &mut MySqlSession) -> Result<(), AgentError> {
        let sql = format!(
            "SELECT p.PROCESSLIST_ID FROM performance_schema.session_connect_attrs p JOIN performance_schema.session_connect_attrs n USING (PROCESSLIST_ID) \
             WHERE p.ATTR_NAME = '_pid' AND p.ATTR_VALUE = '{}' AND n.ATTR_NAME = 'program_name' AND n.ATTR_VALUE = '{DUMP}'",
            self.dump.child.id().unwrap_or_default()
        );
        if let Some(id) = session.value("looking for the dump", &sql).await?.and_then(|id| id.parse::<u64>().ok()) {
            session.rows("ending the dump", &format!("KILL {id}")).await?;
        }
        Ok(())
    }

    /// Moves everything, until both tools have ended well. The session with the source is used meanwhile, so that it stays, and with it its locks.
    ///
    /// # Errors
    /// [`AgentError::Tool`] with the words of the one that failed.
    pub async fn finish(self, session: &mut MySqlSession) -> Result<(), AgentError> {
        let Self { dump, client, output, input, head } = self;
        let moved = AtomicU64::new(0);
        let piped = {
            let piping = pipe(output, input, head, &moved);
            tokio::pin!(piping);
            let (mut seen, mut changed) = (0, Instant::now());
            loop {
                tokio::select! {
                    piped = &mut piping => break piped,
                    () = tokio::time::sleep(PROGRESS) => {
                        session.rows("keeping the session", "SELECT 1").await?;
                        let now = moved.load(Ordering::Relaxed);
                        if now != seen {
                            tracing::info!(progress = format_bytes(now), "mysqldump writes");
                            (seen, changed) = (now, Instant::now());
                        } else if changed.elapsed() > STALLED {
                            let minutes = STALLED.as_secs() / 60;
                            return Err(AgentError::Refused(format!("the copy has stood still for {minutes} minutes at {}", format_bytes(now))));
                        }
                    }
                }
            }
        };
        // Why the client takes no more is said by the client, and why there is no more by mysqldump.
        let Ok(completed) = piped else {
            client.succeed().await?;
            return Err(AgentError::Tool { tool: CLIENT, message: "it ended before the dump did".to_owned() });
        };
        dump.succeed().await?;
        if !completed {
            return Err(AgentError::Tool { tool: DUMP, message: "what it wrote has no end".to_owned() });
        }
        client.succeed().await?;
        tracing::info!(bytes = moved.load(Ordering::Relaxed), "loaded");
        Ok(())
    }
}

/// Moves everything from one tool to the other; tells whether the dump has its end. The error is that the other one takes no more.
async fn pipe(mut output: impl AsyncRead + Unpin, mut input: ChildStdin, head: Vec<u8>, moved: &AtomicU64) -> std::io::Result<bool> {
    let mut buffer = vec![0; 1 << 18];
    let mut end = Vec::new();
    let mut bytes = head.as_slice();
    loop {
        input.write_all(bytes).await?;
        moved.fetch_add(u64::try_from(bytes.len()).unwrap_or(0), Ordering::Relaxed);
        end.extend_from_slice(bytes.get(bytes.len().saturating_sub(END)..).unwrap_or_default());
        end.drain(..end.len().saturating_sub(END));
        let read = output.read(&mut buffer).await?;
        bytes = buffer.get(..read).unwrap_or_default();
        if bytes.is_empty() {
            break;
        }
    }
    input.shutdown().await?;
    Ok(end.windows(COMPLETED.len()).any(|window| window == COMPLETED))
}

/// A tool that runs. It ends with this value.
struct Tool {
    name: &'static str,
    child: Child,
    messages: JoinHandle<VecDeque<String>>,
}

impl Tool {
    fn start(name: &'static str, mut command: Command) -> Result<Self, AgentError> {
        tracing::info!(tool = name, "begins");
        let failed = |error: std::io::Error| AgentError::Tool { tool: name, message: format!("{error}: does the source's image bring it along?") };
        let mut child = command.env("LC_ALL", "C").stderr(Stdio::piped()).kill_on_drop(true).spawn().map_err(failed)?;
        let stderr = child.stderr.take();
        let messages = tokio::spawn(async move {
            match stderr {
                Some(stderr) => keep(name, stderr).await,
                None => VecDeque::new(),
            }
        });
        Ok(Self { name, child, messages })
    }

    /// Waits until it has ended well.
    async fn succeed(self) -> Result<(), AgentError> {
        let Self { name, mut child, messages } = self;
        let failed = |message: String| AgentError::Tool { tool: name, message };
        let status = child.wait().await.map_err(|error| failed(error.to_string()))?;
        let said = messages.await.unwrap_or_default();
        if status.success() {
            return Ok(());
        }
        Err(failed(if said.is_empty() { status.to_string() } else { said.into_iter().collect::<Vec<_>>().join("; ") }))
    }
}

/// Copies a tool's messages to our log, without values of the user's that the server quotes, and keeps the last.
async fn keep(tool: &'static str, stderr: impl AsyncRead + Unpin) -> VecDeque<String> {
    let mut last = VecDeque::new();
    let mut lines = BufReader::new(stderr).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        let line = String::from_utf8_lossy(&line);
        let line = line.trim();
        let line = telling(line.strip_prefix(tool).and_then(|line| line.strip_prefix(": ")).unwrap_or(line));
        tracing::info!(tool, line);
        last.push_back(line);
        if last.len() > KEPT {
            last.pop_front();
        }
    }
    last
}
