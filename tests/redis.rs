//! The Redis engine against real servers: every step, every fact, and the way from a backup to a replica that goes on where the backup ends.
//!
//! The server's programs are those in `UNDERSTUDY_TEST_REDIS_BIN`, or else on the path; `redis-cli` may be of another version.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Container;
use tempfile::TempDir;
use understudy::api::Change;
use understudy::engine::redis::{Persistence, Redis, RedisSession, SourceFacts, Step};
use understudy::engine::{Endpoint, Engine, Identity, Position, ReplicaSummary, Session, SessionError, WantedSource};

const PASSWORD: &str = r#"it's a "pass\word"#;
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(50);
const MIB: u64 = 1 << 20;

/// Where the server's programs are, if not on the path.
fn bin() -> Option<PathBuf> {
    std::env::var_os("UNDERSTUDY_TEST_REDIS_BIN").map(PathBuf::from)
}

fn identity() -> Identity {
    Identity::parse("k3x9q2ab").unwrap()
}

fn wanted() -> WantedSource {
    WantedSource { identity: identity(), replicas: vec![1], retention_limit: 0, prove_login: true, withhold_access: false }
}

fn succeed(mut command: Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    output
}

/// A directory at a path that has to be quoted.
fn directory() -> (TempDir, PathBuf) {
    let root = tempfile::Builder::new().prefix("understudy-").tempdir_in("/tmp").unwrap();
    let inner = root.path().join("a \"directory\"");
    fs::create_dir(&inner).unwrap();
    (root, inner)
}

/// A server on a free port of the loopback interface; it ends with this value.
struct Server {
    child: Option<Child>,
    root: TempDir,
    data: PathBuf,
    port: u16,
    arguments: Vec<String>,
    username: String,
    password: String,
}

impl Server {
    /// A new server with these arguments and this password of the default user; empty: none.
    async fn new(arguments: &[&str], password: &str) -> Self {
        let (root, data) = directory();
        Self::serve(root, data, arguments, "default", password).await
    }

    /// A server on an existing directory.
    async fn serve(root: TempDir, data: PathBuf, arguments: &[&str], username: &str, password: &str) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut words: Vec<String> = Vec::new();
        if username == "default" && !password.is_empty() {
            words.extend(["--requirepass".to_owned(), password.to_owned()]);
        }
        words.extend(arguments.iter().map(|&word| word.to_owned()));
        let mut server = Self { child: None, root, data, port, arguments: words, username: username.to_owned(), password: password.to_owned() };
        server.start();
        server.answers().await;
        server
    }

    fn start(&mut self) {
        let mut server = Command::new(bin().map_or_else(|| "redis-server".into(), |bin| bin.join("redis-server")));
        // A configuration file comes before everything else.
        let files = self.arguments.iter().take_while(|word| !word.starts_with('-')).count();
        server.args(&self.arguments[..files]);
        server.args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--repl-diskless-sync-delay", "0", "--dir"]).arg(&self.data);
        server.args(&self.arguments[files..]).stdin(Stdio::null()).current_dir(self.root.path());
        let log = fs::OpenOptions::new().append(true).create(true).open(self.root.path().join("log")).unwrap();
        server.stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(server.spawn().expect("redis-server is needed: UNDERSTUDY_TEST_REDIS_BIN, or the package redis-server"));
    }

    /// Ends it: `TERM` takes a last snapshot, `KILL` does not.
    fn stop(&mut self, signal: rustix::process::Signal) {
        if let Some(mut child) = self.child.take() {
            let _ = rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal);
            child.wait().unwrap();
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.root.path().join("log")).unwrap()
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint { host: "127.0.0.1".to_owned(), port: self.port, database: String::new(), username: self.username.clone(), password: self.password.clone() }
    }

    async fn answers(&self) -> RedisSession {
        let begun = Instant::now();
        loop {
            match RedisSession::connect(&self.endpoint()).await {
                Ok(session) => return session,
                Err(SessionError::Unreachable(_)) if begun.elapsed() < PATIENCE => tokio::time::sleep(PAUSE).await,
                Err(error) => panic!("{error}; {}", self.log()),
            }
        }
    }

    async fn session(&self) -> RedisSession {
        RedisSession::connect(&self.endpoint()).await.unwrap()
    }

    async fn facts(&self) -> SourceFacts {
        self.session().await.observe_source(Some(&identity())).await.unwrap()
    }

    /// Executes a command with the server's own tool, past everything that is tested.
    fn cli(&self, words: &[&str]) -> String {
        let mut cli = Command::new("redis-cli");
        cli.args(["-p", &self.port.to_string()]);
        if !self.password.is_empty() {
            cli.args(["--user", &self.username]).env("REDISCLI_AUTH", &self.password);
        }
        cli.args(words);
        String::from_utf8(succeed(cli).stdout).unwrap().trim().to_owned()
    }

    /// A value of `INFO`.
    fn info(&self, key: &str) -> String {
        let (text, prefix) = (self.cli(&["info", "everything"]), format!("{key}:"));
        text.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap_or_else(|| panic!("{key} in {text}")).trim().to_owned()
    }

    /// Everything that enabling may change.
    fn traces(&self) -> String {
        let files: BTreeMap<String, Vec<u8>> = fs::read_dir(&self.data)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_file() && path.extension().is_none_or(|extension| extension != "rdb"))
            .map(|path| (path.display().to_string(), fs::read(&path).unwrap()))
            .collect();
        // In no order, and another one after every start.
        let settings: BTreeMap<String, String> = serde_json::from_str(&self.cli(&["--json", "config", "get", "*"])).unwrap();
        format!("{settings:#?}\n{}\n{files:?}", self.cli(&["acl", "list"]))
    }

    /// From what is to replication set up, every step twice; gives what was recorded.
    async fn enable(&self) -> Vec<Change> {
        let facts = self.facts().await;
        assert_eq!(Redis::preflight(&facts, &wanted()), vec![]);
        let steps = Redis::plan_enable(&facts, &wanted());
        for step in &steps {
            self.session().await.execute(step).await.unwrap();
            self.session().await.execute(step).await.unwrap();
        }
        assert_eq!(Redis::plan_enable(&self.facts().await, &wanted()), vec![], "enabled is enabled");
        steps.iter().filter_map(|step| Redis::record(&facts, step)).collect()
    }

    async fn disable(&self, recorded: &[Change]) {
        for step in Redis::plan_disable(&self.facts().await, &identity(), recorded) {
            self.session().await.execute(&step).await.unwrap();
            self.session().await.execute(&step).await.unwrap();
        }
        assert_eq!(Redis::plan_disable(&self.facts().await, &identity(), recorded), vec![], "disabled is disabled");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop(rustix::process::Signal::KILL);
    }
}

/// An ACL file with an administrator of another name, and a default user that may do nothing.
fn acl_file(data: &Path) -> PathBuf {
    let file = data.join("users.acl");
    let hash = understudy::agent::checksum(PASSWORD.as_bytes());
    // As the server itself writes it.
    fs::write(&file, format!("user admin on sanitize-payload #{hash} ~* &* +@all\nuser default off sanitize-payload resetchannels -@all\n")).unwrap();
    file
}

/// A server whose users stand in an ACL file in its data directory.
async fn with_acl_file() -> Server {
    let (root, data) = directory();
    let file = acl_file(&data);
    Server::serve(root, data, &["--aclfile", file.to_str().unwrap()], "admin", PASSWORD).await
}

#[tokio::test]
async fn enabling_and_disabling_leaves_no_trace() {
    for server in [Server::new(&[], "").await, Server::new(&["--appendonly", "yes"], PASSWORD).await, with_acl_file().await] {
        let before = server.traces();
        let recorded = server.enable().await;
        assert_eq!(recorded.len(), 2);
        server.session().await.give_access(&identity(), "a password of ours").await.unwrap();
        assert_ne!(server.traces(), before);
        let facts = server.facts().await;
        assert_eq!(facts.backlog_size, Some(64 * MIB));
        assert!(Redis::summary(&facts).access, "{facts:?}");
        if !facts.acl_file.is_empty() {
            let saved = fs::read_to_string(&facts.acl_file).unwrap();
            assert!(saved.contains(&identity().role()), "the user outlasts a restart: {saved}");
        }
        server.disable(&recorded).await;
        assert_eq!(server.traces(), before);
    }
}

#[tokio::test]
async fn settings_of_the_user_are_left_alone() {
    let server = Server::new(&["--repl-backlog-size", "128mb"], "").await;
    let recorded = server.enable().await;
    assert_eq!(recorded.len(), 1, "the backlog is large enough: {recorded:?}");
    server.disable(&recorded).await;
    assert_eq!(server.facts().await.backlog_size, Some(128 * MIB));
    let other = Step::RestoreSetting { name: "maxmemory".to_owned(), before: "1".to_owned() };
    assert!(matches!(server.session().await.execute(&other).await, Err(SessionError::Failed { .. })), "only what is ours is put back");
}

#[tokio::test]
async fn facts_are_those_of_the_server() {
    let server = Server::new(&[], PASSWORD).await;
    let facts = server.facts().await;
    assert_eq!(facts.version, server.info("redis_version"));
    assert_eq!(facts.history, server.info("master_replid"));
    assert_eq!(Path::new(&facts.data_directory), server.data);
    assert_eq!((facts.replica, facts.cluster, facts.offset, facts.backlog_first, facts.role), (false, false, 0, None, None));
    assert_eq!((facts.persistence, facts.backlog_size), (Some(Persistence { snapshots: true, append_only: false }), Some(MIB)));
    assert_eq!((facts.acl_file.as_str(), facts.user.as_str(), facts.forbidden.len()), ("", "default", 0));
    assert!(facts.used_memory > 100_000 && server.session().await.measure().await.unwrap() > 100_000, "{facts:?}");
    let stranger = server.session().await.observe_source(None).await.unwrap();
    assert_eq!((stranger.forbidden.len(), stranger.role), (0, None));
}

#[tokio::test]
async fn a_source_without_persistence_is_said() {
    let server = Server::new(&["--save", ""], "").await;
    let reasons = |facts| Redis::preflight(&facts, &wanted()).iter().map(|finding| finding.reason).collect::<Vec<_>>();
    assert_eq!(reasons(server.facts().await), ["NoPersistence"]);
    server.cli(&["config", "set", "appendonly", "yes"]);
    assert_eq!(reasons(server.facts().await), Vec::<&str>::new());
}

#[tokio::test]
async fn what_is_forbidden_or_renamed_is_said_at_once() {
    let mut server = Server::new(&[], "").await;
    server.cli(&["acl", "setuser", "app", "on", ">secret", "~*", "+@all", "-config|set", "-acl|setuser", "-wait", "-ping"]);
    let endpoint = Endpoint { username: "app".to_owned(), password: "secret".to_owned(), ..server.endpoint() };
    let facts = RedisSession::connect(&endpoint).await.unwrap().observe_source(Some(&identity())).await.unwrap();
    assert_eq!(facts.forbidden, ["config|set", "acl|setuser", "wait"]);
    assert!(!server.cli(&["acl", "list"]).contains("understudy"), "nothing was executed");
    // Who may do nothing but log in is told everything that is missing.
    server.cli(&["acl", "setuser", "app", "-@all", "+acl|dryrun"]);
    let facts = RedisSession::connect(&endpoint).await.unwrap().observe_source(Some(&identity())).await.unwrap();
    assert_eq!(facts.forbidden, ["info", "config|get", "acl|getuser", "config|set", "acl|setuser", "acl|deluser", "wait"]);
    let findings = Redis::preflight(&facts, &wanted());
    assert_eq!(findings.iter().map(|finding| finding.reason).collect::<Vec<_>>(), ["NotPermitted"]);

    server.stop(rustix::process::Signal::KILL);
    server.arguments = ["--rename-command", "CONFIG", "\"\"", "--rename-command", "WAIT", "HOLD"].map(str::to_owned).to_vec();
    server.start();
    server.answers().await;
    assert_eq!(server.facts().await.forbidden, ["config|get", "config|set", "wait"]);
}

#[tokio::test]
async fn a_login_that_will_not_do_is_refused() {
    let server = Server::new(&[], PASSWORD).await;
    let with = |username: &str, password: &str| Endpoint { username: username.to_owned(), password: password.to_owned(), ..server.endpoint() };
    for (username, password) in [("default", ""), ("default", "wrong"), ("nobody", "wrong"), ("nobody", "")] {
        let refused = RedisSession::connect(&with(username, password)).await.err();
        assert!(matches!(&refused, Some(SessionError::Refused(why)) if why.contains("NOAUTH") || why.contains("WRONGPASS")), "{username}: {refused:?}");
    }
    let open = Server::new(&[], "").await;
    let refused = RedisSession::connect(&Endpoint { password: "unasked".to_owned(), ..open.endpoint() }).await.err();
    assert!(matches!(&refused, Some(SessionError::Refused(why)) if why.contains("without any password configured")), "{refused:?}");
    let renamed = Server::new(&["--rename-command", "AUTH", "\"\""], "").await;
    let refused = RedisSession::connect(&Endpoint { password: "a secret".to_owned(), ..renamed.endpoint() }).await.err();
    assert!(matches!(&refused, Some(SessionError::Refused(why)) if why.contains("unknown command") && !why.contains("a secret")), "{refused:?}");
    let gone = Endpoint { port: 1, ..open.endpoint() };
    assert!(matches!(RedisSession::connect(&gone).await, Err(SessionError::Unreachable(_))));
    let missing = open.session().await.give_access(&identity(), "secret").await;
    assert!(matches!(missing, Err(SessionError::Failed { .. })), "{missing:?}");
    assert!(!open.cli(&["acl", "list"]).contains("understudy"), "a password makes no user");
}

#[tokio::test]
async fn a_user_that_anybody_could_be_is_closed() {
    let server = Server::new(&[], "").await;
    let user = identity().role();
    server.cli(&["acl", "setuser", &user, "on", "nopass", "+@all"]);
    assert_eq!(Redis::plan_enable(&server.facts().await, &wanted()).len(), 2);
    server.enable().await;
    assert!(!Redis::summary(&server.facts().await).access);
    // Made again, it keeps the password that it has.
    server.session().await.give_access(&identity(), "secret").await.unwrap();
    server.cli(&["acl", "setuser", &user, "-psync"]);
    server.enable().await;
    assert!(Redis::summary(&server.facts().await).access);
}

#[tokio::test]
async fn no_secret_reaches_the_server_in_clear() {
    let server = Server::new(&[], "").await;
    server.cli(&["config", "set", "slowlog-log-slower-than", "0"]);
    server.enable().await;
    server.session().await.give_access(&identity(), "a password of ours").await.unwrap();
    let seen = format!("{}{}{}", server.cli(&["slowlog", "get", "128"]), server.cli(&["acl", "list"]), server.log());
    assert!(seen.to_lowercase().contains("setuser") && !seen.contains("a password of ours"), "{seen}");
}

/// A backup volume, credentials and an agent beside a server.
struct Workshop {
    root: TempDir,
}

impl Workshop {
    fn new(source: &Server) -> Self {
        let root = tempfile::tempdir().unwrap();
        for name in ["backup", "credentials"] {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        fs::write(root.path().join("credentials/password"), &source.password).unwrap();
        Self { root }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn message(&self) -> String {
        fs::read_to_string(self.path("message")).unwrap()
    }

    fn agent(&self, words: &[&str]) -> Command {
        fs::write(self.path("message"), "").unwrap();
        let mut agent = Command::new(env!("CARGO_BIN_EXE_understudy"));
        agent.arg("agent").args(words).args(["--engine", "Redis", "--termination-message"]).arg(self.path("message"));
        // As in the Jobs: no home, nothing but the image's path.
        agent.env_clear().env("PATH", format!("{}:/usr/bin:/bin", bin().unwrap_or_default().display()));
        agent
    }

    fn backup(&self, source: &Server, directory: &str) -> Command {
        let mut agent = self.agent(&["backup", "--host", "127.0.0.1", "--database", "", "--username", &source.username, "--identity", identity().word()]);
        agent.args(["--port", &source.port.to_string(), "--directory", directory, "--volume"]).arg(self.path("backup"));
        agent.arg("--credentials").arg(self.path("credentials"));
        agent
    }

    fn restore(&self, source: &Server, directory: &str, data: &Path) -> Command {
        let mut agent = self.agent(&["restore", "--identity", identity().word(), "--directory", directory, "--replica", "1", "--name", "cache-replica-1"]);
        agent.args(["--primary-host", "127.0.0.1", "--primary-port", &source.port.to_string(), "--volume"]).arg(self.path("backup"));
        agent.arg("--data-directory").arg(data);
        agent
    }

    fn guard(&self, data: &Path) -> bool {
        let mut agent = self.agent(&["guard"]);
        agent.arg("--data-directory").arg(data).status().unwrap().success()
    }
}

/// The arguments of a replica's container, made from those of the source's.
fn adapted(arguments: &[String], data: &Path) -> Vec<String> {
    let mut container = Container { args: Some([&["redis-server".to_owned()], arguments].concat()), ..Container::default() };
    Redis::adapt_replica(&mut container, data.to_str().unwrap());
    container.args.unwrap().split_off(1)
}

/// Waits until a replica has shown a mark that was written now.
async fn in_step(source: &Server, replica: &Server) -> ReplicaSummary {
    let begun = Instant::now();
    let mut mark: Option<Position> = None;
    loop {
        let state = replica.answers().await.observe_replica().await.unwrap();
        if let Some(mark) = mark.as_ref().filter(|mark| state.streaming && state.applied.reaches(mark)) {
            assert!(Redis::summary(&source.facts().await).position.reaches(mark));
            assert!(state.received.reaches(&state.applied) && state.trouble.is_none(), "{state:?}");
            return state;
        }
        if mark.is_none() && state.streaming {
            mark = Some(source.session().await.write_mark().await.unwrap());
        }
        assert!(begun.elapsed() < PATIENCE, "{mark:?} {state:?}\n{}", replica.log());
        tokio::time::sleep(PAUSE).await;
    }
}

/// From a source to a replica that follows it, and back; through kills of both.
async fn whole_way(mut source: Server) {
    let before = source.traces();
    let recorded = source.enable().await;
    for key in 0..100 {
        source.cli(&["set", &format!("before:{key}"), "value"]);
    }
    let shop = Workshop::new(&source);

    succeed(shop.backup(&source, "k3x9q2ab-1"));
    let manifest: serde_json::Value = serde_json::from_str(&shop.message()).unwrap();
    let position = Redis::parse_position(manifest["position"].as_str().unwrap()).unwrap();
    let summary = Redis::summary(&source.facts().await);
    assert!(summary.position.reaches(&position) && position.reaches(&summary.oldest_for_seed) && summary.access, "{manifest} {summary:?}");
    succeed(shop.backup(&source, "k3x9q2ab-1"));
    assert_eq!(serde_json::from_str::<serde_json::Value>(&shop.message()).unwrap(), manifest, "one that is finished is reported again");
    let snapshot = shop.path("backup/k3x9q2ab-1/data/dump.rdb");
    assert_eq!(fs::metadata(&snapshot).unwrap().permissions().mode() & 0o077, 0);

    // What is written between backup and restore arrives from the backlog.
    source.cli(&["set", "between", "value"]);
    let (root, inner) = directory();
    let data = inner.join("data");
    fs::create_dir(&data).unwrap();
    assert!(!shop.guard(&data), "an empty volume");
    succeed(shop.restore(&source, "k3x9q2ab-1", &data));
    succeed(shop.restore(&source, "k3x9q2ab-1", &data));
    assert!(shop.guard(&data), "{}", shop.message());

    // As the pod of a replica: the source's arguments with its files in place, and ours behind.
    let moved = |word: &String| word.replace(source.data.to_str().unwrap(), data.to_str().unwrap());
    let arguments = adapted(&source.arguments.iter().map(moved).collect::<Vec<_>>(), &data);
    let full = source.info("sync_full");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (username, password) = (source.username.clone(), source.password.clone());
    let mut replica = Server { child: None, root, data: data.clone(), port, arguments, username, password };
    replica.start();
    for round in 1..=2 {
        let state = in_step(&source, &replica).await;
        assert!(state.read_only, "{state:?}");
        assert_eq!(replica.cli(&["dbsize"]), "101");
        assert!(replica.cli(&["set", "x", "y"]).contains("READONLY"));
        assert_eq!((source.info("sync_full"), source.info("sync_partial_ok")), (full.clone(), round.to_string()), "{}", replica.log());
        assert!(replica.log().contains("Successful partial resynchronization with master"), "{}", replica.log());
        // Also where it is killed: read-only, and partial.
        if round == 1 {
            replica.stop(rustix::process::Signal::KILL);
            assert!(shop.guard(&data), "{}", shop.message());
            replica.start();
        }
    }
    assert_eq!(replica.cli(&["config", "get", "appendonly"]).lines().nth(1), Some("no"));
    let configuration = fs::read_to_string(data.join("understudy.conf")).unwrap();
    assert_eq!(configuration.contains("protected-mode yes"), !source.password.is_empty(), "closed where the source is");
    let arguments = fs::read(format!("/proc/{}/cmdline", replica.child.as_ref().unwrap().id())).unwrap();
    let secret = fs::read_to_string(shop.path("backup/replication-password-k3x9q2ab")).unwrap();
    assert!(!String::from_utf8_lossy(&arguments).contains(&secret) && !replica.log().contains(&secret));
    assert!(replica.session().await.observe_source(None).await.unwrap().replica, "a replica is told from a source");
    let mark = replica.session().await.write_mark().await;
    assert!(matches!(mark, Err(SessionError::Failed { .. })), "{mark:?}");

    // A source that restarts in good order is followed on, as soon as the user is there again.
    let history = source.facts().await.history;
    source.cli(&["set", "last", "value"]);
    source.stop(rustix::process::Signal::TERM);
    source.start();
    source.answers().await;
    let facts = source.facts().await;
    assert_eq!(facts.role.is_some(), !facts.acl_file.is_empty(), "without an ACL file the user is gone");
    for step in Redis::plan_enable(&facts, &wanted()) {
        source.session().await.execute(&step).await.unwrap();
    }
    succeed(shop.backup(&source, "k3x9q2ab-1"));
    let state = in_step(&source, &replica).await;
    assert_eq!(replica.cli(&["get", "last"]), "value");
    let Position::Offset { history: now, .. } = &state.applied else { panic!("{state:?}") };
    assert_ne!(*now, history, "a restart begins another history");
    assert!(!state.applied.reaches(&position) && !position.reaches(&Redis::summary(&source.facts().await).oldest_for_seed), "{position:?}");

    // A newer backup takes the place of the older one.
    succeed(shop.backup(&source, "k3x9q2ab-2"));
    assert!(!shop.path("backup/k3x9q2ab-1").exists());
    assert!(!shop.restore(&source, "k3x9q2ab-2", &data).status().unwrap().success(), "a replica in use is not overwritten");
    assert!(shop.message().contains("nothing was touched"), "{}", shop.message());

    source.disable(&recorded).await;
    let begun = Instant::now();
    while replica.session().await.observe_replica().await.unwrap().streaming {
        assert!(begun.elapsed() < PATIENCE, "it still follows: {}", replica.log());
        tokio::time::sleep(PAUSE).await;
    }
    assert_eq!(replica.cli(&["get", "last"]), "value", "what was copied stays");
    assert_eq!(source.traces(), before);
}

#[tokio::test]
async fn a_source_without_password_gets_a_replica() {
    whole_way(Server::new(&[], "").await).await;
}

#[tokio::test]
async fn a_source_with_requirepass_gets_a_replica() {
    // Another name of the snapshot, sent as a file, and without a checksum.
    whole_way(Server::new(&["--dbfilename", "other.rdb", "--repl-diskless-sync", "no", "--rdbchecksum", "no"], PASSWORD).await).await;
}

#[tokio::test]
async fn a_source_with_an_append_only_file_gets_a_replica() {
    whole_way(Server::new(&["--appendonly", "yes", "--save", ""], PASSWORD).await).await;
}

#[tokio::test]
async fn a_source_with_an_acl_file_gets_a_replica() {
    whole_way(with_acl_file().await).await;
}

#[tokio::test]
async fn a_replica_that_the_backlog_does_not_reach_copies_everything_by_itself() {
    let source = Server::new(&[], "").await;
    source.enable().await;
    // As small as the server takes it.
    source.cli(&["config", "set", "repl-backlog-size", "16384"]);
    let shop = Workshop::new(&source);
    succeed(shop.backup(&source, "k3x9q2ab-1"));
    let manifest: serde_json::Value = serde_json::from_str(&shop.message()).unwrap();
    let position = Redis::parse_position(manifest["position"].as_str().unwrap()).unwrap();
    for key in 0..64 {
        source.cli(&["set", &format!("key:{key}"), &"x".repeat(8192)]);
    }
    assert!(!position.reaches(&Redis::summary(&source.facts().await).oldest_for_seed), "a further replica would get a new backup");
    let (root, inner) = directory();
    succeed(shop.restore(&source, "k3x9q2ab-1", &inner));
    let arguments = adapted(&[], &inner);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let replica = Server::serve(root, inner, &arguments, "default", "").await;
    let state = in_step(&source, &replica).await;
    assert!(state.read_only && replica.cli(&["dbsize"]) == "64", "{state:?}");
    assert_eq!(source.info("sync_full"), "2", "one for the backup, one for the replica");
}

#[tokio::test]
async fn whatever_its_configuration_says_a_replica_takes_no_writes() {
    let source = Server::new(&[], "").await;
    source.enable().await;
    let shop = Workshop::new(&source);
    succeed(shop.backup(&source, "k3x9q2ab-1"));
    let (root, inner) = directory();
    succeed(shop.restore(&source, "k3x9q2ab-1", &inner));
    let theirs = root.path().join("redis.conf");
    fs::write(&theirs, "appendonly yes\nreplica-read-only no\ndbfilename mine.rdb\nsave 60 1\nreplicaof no one\n").unwrap();
    let words = [theirs.to_str().unwrap(), "--appendonly", "yes", "--replica-read-only", "no", "--save", ""].map(str::to_owned);
    let arguments = adapted(&words, &inner);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let replica = Server::serve(root, inner, &arguments, "default", "").await;
    let state = in_step(&source, &replica).await;
    assert!(state.read_only && replica.cli(&["set", "x", "y"]).contains("READONLY"), "{state:?}");
    let settings =
        ["appendonly", "replica-read-only", "dbfilename", "save"].map(|name| replica.cli(&["config", "get", name]).lines().nth(1).unwrap().to_owned());
    assert_eq!(settings, ["no", "yes", "dump.rdb", "3600 1 300 100 60 10000"]);
}

#[tokio::test]
async fn a_source_that_comes_back_empty_does_not_empty_its_replicas() {
    let mut source = Server::new(&[], "").await;
    source.enable().await;
    source.cli(&["set", "only", "copy"]);
    let shop = Workshop::new(&source);
    succeed(shop.backup(&source, "k3x9q2ab-1"));
    let (root, inner) = directory();
    succeed(shop.restore(&source, "k3x9q2ab-1", &inner));
    let arguments = adapted(&[], &inner);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let replica = Server::serve(root, inner, &arguments, "default", "").await;
    in_step(&source, &replica).await;
    assert!(!source.facts().await.started_empty());

    // Before its first snapshot.
    source.stop(rustix::process::Signal::KILL);
    source.start();
    source.answers().await;
    source.cli(&["set", "other", "value"]);
    let facts = source.facts().await;
    assert!(facts.started_empty() && facts.keys == 1, "{facts:?}");
    for step in Redis::plan_enable(&facts, &WantedSource { prove_login: false, ..wanted() }) {
        source.session().await.execute(&step).await.unwrap();
    }
    // What the controller does about a user without password.
    assert!(!shop.backup(&source, "k3x9q2ab-1").status().unwrap().success());
    assert!(shop.message().contains("started without data"), "{}", shop.message());
    let begun = Instant::now();
    while !replica.log().contains("Unable to AUTH to MASTER") {
        assert!(begun.elapsed() < PATIENCE, "it never tried: {}", replica.log());
        tokio::time::sleep(PAUSE).await;
    }
    assert_eq!(replica.cli(&["get", "only"]), "copy");
}

#[tokio::test]
async fn a_backup_that_fails_says_why_and_leaves_nothing_that_counts() {
    let source = Server::new(&[], PASSWORD).await;
    let shop = Workshop::new(&source);
    assert!(!shop.backup(&source, "k3x9q2ab-1").status().unwrap().success());
    assert!(shop.message().contains("does not exist"), "the user is not there: {}", shop.message());
    source.enable().await;
    fs::write(shop.path("credentials/password"), "wrong").unwrap();
    assert!(!shop.backup(&source, "k3x9q2ab-1").status().unwrap().success());
    assert!(shop.message().contains("WRONGPASS") && !shop.message().contains(PASSWORD), "{}", shop.message());
    fs::write(shop.path("credentials/password"), PASSWORD).unwrap();
    let mut agent = shop.backup(&source, "k3x9q2ab-1");
    agent.env("PATH", shop.path("nothing"));
    assert!(!agent.status().unwrap().success());
    assert!(shop.message().contains("redis-cli failed") && shop.message().contains("image"), "{}", shop.message());
    assert!(!shop.path("backup/k3x9q2ab-1").exists());
}
