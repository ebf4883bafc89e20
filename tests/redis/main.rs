//! The Redis engine against real servers: every step, every fact, and the way from a backup to a replica that goes on where the backup ends.
//!
//! The server's programs are those in `UNDERSTUDY_TEST_REDIS_BIN`, or else on the path; `redis-cli` may be of another version.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;
mod keep;
mod lost;
mod promote;
mod replica;
mod source;
mod swap;
mod target;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::Signal;
use tempfile::TempDir;
use understudy::engine::Endpoint;
use understudy::engine::redis::Redis;

use common::{Agent, PASSWORD, Process, Serving, Workshop, free_port, succeed};

/// Where the server's programs are, if not on the path.
fn bin() -> Option<PathBuf> {
    std::env::var_os("UNDERSTUDY_TEST_REDIS_BIN").map(PathBuf::from)
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
    process: Process,
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
        let mut words: Vec<String> = Vec::new();
        if !password.is_empty() {
            words.extend(["--requirepass".to_owned(), password.to_owned()]);
        }
        words.extend(arguments.iter().map(|&word| word.to_owned()));
        Self::serve(root, data, words, "default", password).await
    }

    /// A server whose users stand in an ACL file in its data directory: an administrator of another name, and a default user that may do nothing.
    async fn with_acl_file(arguments: &[&str]) -> Self {
        let (root, data) = directory();
        let file = data.join("users.acl");
        let hash = understudy::agent::checksum(PASSWORD.as_bytes());
        // As the server itself writes it.
        fs::write(&file, format!("user admin on sanitize-payload #{hash} ~* &* +@all\nuser default off sanitize-payload resetchannels -@all\n")).unwrap();
        let words = ["--aclfile", file.to_str().unwrap()].iter().chain(arguments).map(|&word| word.to_owned()).collect();
        Self::serve(root, data, words, "admin", PASSWORD).await
    }

    /// A server on an existing directory.
    async fn serve(root: TempDir, data: PathBuf, arguments: Vec<String>, username: &str, password: &str) -> Self {
        let process = Process::new(root.path().join("log"), Signal::KILL);
        let (username, password) = (username.to_owned(), password.to_owned());
        let mut server = Self { process, root, data, port: free_port(), arguments, username, password };
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
        self.process.start(server);
    }

    /// Ends it and starts it again: `TERM` takes a last snapshot, `KILL` does not. `meanwhile` happens to its data directory.
    async fn restart(&mut self, signal: Signal, meanwhile: impl FnOnce(&Path)) {
        self.process.stop(signal);
        meanwhile(&self.data);
        self.start();
        self.answers().await;
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

    /// A backup volume and the agent beside this server.
    fn workshop(&self) -> Workshop {
        let agent = Agent {
            engine: "Redis",
            database: "",
            username: Some(self.username.clone()),
            path: format!("{}:/usr/bin:/bin", bin().unwrap_or_default().display()),
            command: |program| Command::new(program),
            give: |_| {},
            inside: Path::to_path_buf,
        };
        Workshop::new(tempfile::tempdir().unwrap(), agent, &self.password)
    }
}

impl Serving for Server {
    type Engine = Redis;

    fn endpoint(&self) -> Endpoint {
        Endpoint { host: "127.0.0.1".to_owned(), port: self.port, database: String::new(), username: self.username.clone(), password: self.password.clone() }
    }

    fn log(&self) -> String {
        self.process.log()
    }
}
