//! What the tests of the engines share: a server as a process of its own, and the agent's Jobs beside it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use understudy::api::Change;
use understudy::engine::{Endpoint, Engine, Identity, Session, SessionError, WantedSource};

/// One that has to be quoted everywhere.
pub const PASSWORD: &str = r#"it's a "pass\word"#;
/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_mins(1);
/// Where a restore waits on a target's volume, and our directory there.
#[allow(dead_code)]
pub const STAGED: &str = ".understudy-k3x9q2ab/staged";
#[allow(dead_code)]
pub const OURS: &str = ".understudy-k3x9q2ab";
const PAUSE: Duration = Duration::from_millis(20);

pub fn identity() -> Identity {
    Identity::parse("k3x9q2ab").unwrap()
}

pub fn wanted(replicas: &[u32]) -> WantedSource {
    WantedSource { replicas: replicas.to_vec(), retention_limit: 512 << 20, ..WantedSource::new(identity()) }
}

pub fn succeed(mut command: Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    output
}

/// A port of the loopback interface that nobody listens on.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Asks again and again until there is an answer; `said` tells what there was instead.
pub async fn until<T>(mut ask: impl AsyncFnMut() -> Option<T>, said: impl Fn() -> String) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {}", said());
        tokio::time::sleep(PAUSE).await;
    }
}

/// A server's process. It ends with this value, at once.
pub struct Process {
    child: Option<Child>,
    log: PathBuf,
    last: Signal,
}

impl Process {
    /// One that has not been started: what it says goes to this file, and `last` ends it at once.
    pub fn new(log: PathBuf, last: Signal) -> Self {
        Self { child: None, log, last }
    }

    pub fn start(&mut self, mut server: Command) {
        let log = fs::OpenOptions::new().append(true).create(true).open(&self.log).unwrap();
        server.stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(server.spawn().unwrap_or_else(|error| panic!("{server:?}: {error}")));
    }

    pub fn stop(&mut self, signal: Signal) {
        if let Some(mut child) = self.child.take() {
            let _ = kill_process(Pid::from_child(&child), signal);
            child.wait().unwrap();
        }
    }

    /// It has ended by itself.
    #[allow(dead_code)]
    pub fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some())
    }

    /// Everything that it has said.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// The arguments that it was started with, as the machine's users see them.
    #[allow(dead_code)]
    pub fn arguments(&self) -> String {
        let arguments = fs::read(format!("/proc/{}/cmdline", self.child.as_ref().unwrap().id())).unwrap();
        String::from_utf8_lossy(&arguments).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop(self.last);
    }
}

type SessionOf<S> = <<S as Serving>::Engine as Engine>::Session;
type FactsOf<S> = <<S as Serving>::Engine as Engine>::SourceFacts;
type StepOf<S> = <<S as Serving>::Engine as Engine>::Step;

/// A server of an engine, and what every one of them is asked to do.
pub trait Serving {
    type Engine: Engine;

    fn endpoint(&self) -> Endpoint;

    fn log(&self) -> String;

    /// A session, once there is one.
    async fn answers(&self) -> SessionOf<Self> {
        let ask = async || match <SessionOf<Self>>::connect(&self.endpoint()).await {
            Err(SessionError::Unreachable(_)) => None,
            other => Some(other.unwrap_or_else(|error| panic!("{error}; {}", self.log()))),
        };
        until(ask, || self.log()).await
    }

    async fn session(&self) -> SessionOf<Self> {
        <SessionOf<Self>>::connect(&self.endpoint()).await.unwrap()
    }

    async fn facts(&self) -> FactsOf<Self> {
        self.session().await.observe_source(Some(&identity())).await.unwrap()
    }

    async fn execute(&self, step: &StepOf<Self>) -> Result<(), SessionError> {
        self.session().await.execute(step).await
    }

    /// From what is to replication set up, every step twice; gives what was recorded.
    async fn enable(&self, wanted: &WantedSource) -> Vec<Change> {
        let facts = self.facts().await;
        assert_eq!(Self::Engine::preflight(&facts, wanted), vec![]);
        let steps = Self::Engine::plan_enable(&facts, wanted);
        self.twice(&steps).await;
        let left = Self::Engine::plan_enable(&self.facts().await, &WantedSource { prove_login: false, ..wanted.clone() });
        assert_eq!(left, vec![], "enabled is enabled");
        // Of the others users are no data, or there are none.
        let named = if Self::Engine::NAME == "PostgreSQL" { BTreeSet::from([wanted.identity.clone()]) } else { BTreeSet::new() };
        assert_eq!(self.session().await.identities().await.unwrap(), named);
        let mut recorded: Vec<Change> = vec![];
        for change in steps.iter().filter_map(|step| Self::Engine::record(&facts, step)) {
            match recorded.iter_mut().find(|known| known.what == change.what) {
                Some(known) => known.after = change.after,
                None => recorded.push(change),
            }
        }
        recorded
    }

    async fn disable(&self, recorded: &[Change]) {
        self.twice(&Self::Engine::plan_disable(&self.facts().await, &identity(), recorded)).await;
        assert_eq!(Self::Engine::plan_disable(&self.facts().await, &identity(), recorded), vec![], "disabled is disabled");
        assert_eq!(self.session().await.identities().await.unwrap(), BTreeSet::new());
    }

    /// Executes steps, each of them twice: that is harmless.
    async fn twice(&self, steps: &[StepOf<Self>]) {
        for step in steps {
            self.execute(step).await.unwrap_or_else(|error| panic!("{error}\n{}", self.log()));
            self.execute(step).await.unwrap();
        }
    }
}

/// How the agent runs in the Jobs of an engine.
pub struct Agent {
    /// `spec.engine`.
    pub engine: &'static str,
    /// The database to connect to.
    pub database: &'static str,
    /// The administrator; none for the engine's usual one.
    pub username: Option<String>,
    /// The container's path.
    pub path: String,
    /// A command as the user that servers run as.
    pub command: fn(&Path) -> Command,
    /// Lets that user have a file.
    pub give: fn(&Path),
    /// A path as it is called where servers run.
    pub inside: fn(&Path) -> PathBuf,
}

/// A backup volume, credentials and an agent beside a server.
pub struct Workshop {
    root: TempDir,
    agent: Agent,
    program: PathBuf,
}

impl Workshop {
    /// In a directory where the servers' user may write.
    pub fn new(root: TempDir, agent: Agent, password: &str) -> Self {
        let program = install(root.path());
        for name in ["backup", "credentials"] {
            let path = root.path().join(name);
            fs::create_dir(&path).unwrap();
            (agent.give)(&path);
        }
        fs::write(root.path().join("credentials/password"), password).unwrap();
        Self { root, agent, program }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn inside(&self, name: &str) -> PathBuf {
        (self.agent.inside)(&self.path(name))
    }

    /// What the agent has left for the status.
    pub fn message(&self) -> String {
        fs::read_to_string(self.path("message")).unwrap()
    }

    pub fn manifest(&self) -> serde_json::Value {
        serde_json::from_str(&self.message()).unwrap()
    }

    fn agent(&self, words: &[&str]) -> Command {
        let mut agent = self.bare(words);
        agent.args(["--engine", self.agent.engine]);
        agent
    }

    fn bare(&self, words: &[&str]) -> Command {
        fs::write(self.path("message"), "").unwrap();
        (self.agent.give)(&self.path("message"));
        let mut agent = (self.agent.command)(&(self.agent.inside)(&self.program));
        agent.arg("agent").args(words).arg("--termination-message").arg(self.inside("message"));
        // As in the Jobs: no home, nothing but the image's path.
        agent.env_clear().env("PATH", &self.agent.path);
        agent
    }

    pub fn backup(&self, source: &impl Serving, directory: &str) -> Command {
        let mut agent = self.agent(&["backup", "--host", "127.0.0.1", "--database", self.agent.database, "--identity", identity().word()]);
        agent.args(self.agent.username.iter().flat_map(|username| ["--username", username]));
        agent.args(["--port", &source.endpoint().port.to_string(), "--directory", directory, "--volume"]).arg(self.inside("backup"));
        agent.arg("--credentials").arg(self.inside("credentials"));
        agent
    }

    pub fn restore(&self, source: &impl Serving, directory: &str, data: &Path) -> Command {
        let mut agent = self.agent(&["restore", "--identity", identity().word(), "--directory", directory, "--replica", "1", "--name", "orders-replica-1"]);
        agent.args(["--primary-host", "127.0.0.1", "--primary-port", &source.endpoint().port.to_string(), "--volume"]).arg(self.inside("backup"));
        agent.arg("--data-directory").arg((self.agent.inside)(data));
        agent
    }

    /// Restores into a directory whose content takes the place of `data` later.
    #[allow(dead_code)]
    pub fn stage(&self, source: &impl Serving, directory: &str, mount: &Path, data: &Path) -> Command {
        let mut agent = self.restore(source, directory, &mount.join(STAGED));
        agent.arg("--final-directory").arg((self.agent.inside)(data));
        agent
    }

    /// Brings data into a target's data directory; with `changes`, killed before the change to the disk that goes beyond this number.
    #[allow(dead_code)]
    pub fn swap(&self, mount: &Path, data: &Path, to: &str, changes: Option<usize>) -> Command {
        let mut agent = self.agent(&["swap", "--identity", identity().word(), "--to", to]);
        agent.arg("--mount").arg((self.agent.inside)(mount)).arg("--data-directory").arg((self.agent.inside)(data));
        agent.args(changes.iter().flat_map(|changes| ["--changes".to_owned(), changes.to_string()])).stderr(Stdio::null());
        agent
    }

    #[allow(dead_code)]
    pub fn discard(&self, mount: &Path) -> Command {
        let mut agent = self.bare(&["discard", "--identity", identity().word()]);
        agent.arg("--mount").arg((self.agent.inside)(mount));
        agent
    }

    /// Has the restore in a target's data directory be its own from now on.
    #[allow(dead_code)]
    pub fn release(&self, data: &Path) -> Command {
        let mut agent = self.agent(&["release", "--identity", identity().word()]);
        agent.arg("--data-directory").arg((self.agent.inside)(data));
        agent
    }

    /// As `discard`, and what is ours in the data directory goes, too.
    #[allow(dead_code)]
    pub fn clear(&self, mount: &Path, data: &Path) -> Command {
        let mut agent = self.discard(mount);
        agent.args(["--engine", self.agent.engine, "--data-directory"]).arg((self.agent.inside)(data));
        agent
    }

    /// What is found on the volume: bytes that are free, and what could not be moved.
    #[allow(dead_code)]
    pub fn measure(&self, mount: &Path, data: &Path) -> serde_json::Value {
        let mut agent = self.bare(&["measure"]);
        agent.arg("--mount").arg((self.agent.inside)(mount)).arg("--data-directory").arg((self.agent.inside)(data));
        succeed(agent);
        serde_json::from_str(&self.message()).unwrap()
    }

    /// Keeps what a target held before a swap.
    #[allow(dead_code)]
    pub fn keep(&self, directory: &str, mount: &Path, data: &Path) -> Command {
        let mut agent = self.agent(&["keep", "--identity", identity().word(), "--directory", directory]);
        agent.arg("--volume").arg(self.inside("backup")).arg("--mount").arg((self.agent.inside)(mount)).arg("--data-directory").arg((self.agent.inside)(data));
        agent
    }

    /// Puts it into another data directory.
    #[allow(dead_code)]
    pub fn give_back(&self, directory: &str, data: &Path) -> Command {
        let mut agent = self.agent(&["give-back", "--directory", directory]);
        agent.arg("--volume").arg(self.inside("backup")).arg("--data-directory").arg((self.agent.inside)(data));
        agent
    }

    pub fn guard(&self, data: &Path) -> bool {
        let mut agent = self.agent(&["guard"]);
        agent.arg("--data-directory").arg((self.agent.inside)(data)).status().unwrap().success()
    }
}

/// The names in a directory that are ours.
#[allow(dead_code)]
pub fn ours(directory: &Path) -> Vec<String> {
    let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.contains("understudy")).collect()
}

/// The program, copied by itself to where the servers' user can run it.
fn install(root: &Path) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let tools = root.join("tools");
    fs::create_dir(&tools).unwrap();
    let mut install = Command::new(env!("CARGO_BIN_EXE_understudy"));
    install.args(["agent", "install"]).arg(&tools);
    succeed(install);
    let program = tools.join("understudy");
    assert_eq!(fs::metadata(&program).unwrap().permissions().mode() & 0o777, 0o755);
    program
}
