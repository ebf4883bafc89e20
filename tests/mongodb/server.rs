//! A server as a process of its own, on the loopback interface.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use ::mongodb::bson::{Bson, Document, doc};
use ::mongodb::error::Error;
use ::mongodb::options::{ClientOptions, Credential, ServerAddress};
use ::mongodb::{Client, Database};
use rustix::process::Signal;
use tempfile::TempDir;
use understudy::engine::mongodb::{MongoDb, MongoSession, SourceFacts};
use understudy::engine::{Endpoint, Engine, Key, ReplicaSummary, Session, SessionError};

use super::common::{Agent, Process, Serving, Workshop, free_port, identity, until};

/// The user of the official image.
const USER: u32 = 999;
/// What a key file holds; white space in it has no meaning.
const KEY: &str = "5f2a9c0e6b1d4837a0c4e9d2b7f6a135\n8c3e0d5b9a7f42166e8d1c0b3a5f9724\n";

/// The root file system that servers run in.
fn world() -> PathBuf {
    PathBuf::from(std::env::var_os("UNDERSTUDY_TEST_MONGODB_ROOT").unwrap_or_else(|| "/".into()))
}

/// A path as it is called inside.
pub fn inside(path: &Path) -> PathBuf {
    Path::new("/").join(path.strip_prefix(world()).unwrap())
}

/// A command inside, as the user that servers run as.
pub fn command(program: &Path) -> Command {
    let mut command = if world() == Path::new("/") {
        let mut command = Command::new(program);
        if rustix::process::getuid().is_root() {
            command.uid(USER).gid(USER);
        }
        command
    } else {
        let mut command = Command::new("chroot");
        command.args([&format!("--userspec={USER}:{USER}"), "--groups="]).arg(world()).arg(program);
        command
    };
    command.current_dir("/").env("LC_ALL", "C").stdin(Stdio::null());
    command
}

/// Lets the servers' user have a file.
pub fn give(path: &Path) {
    if rustix::process::getuid().is_root() {
        chown(path, Some(USER), Some(USER)).unwrap();
    }
}

/// A directory that the servers' user owns.
pub fn directory() -> TempDir {
    let root = tempfile::Builder::new().prefix("understudy-").tempdir_in(world().join("tmp")).unwrap();
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
    give(root.path());
    root
}

/// Options of a client of one server, or of a set of them.
pub fn options(ports: &[u16], password: &str) -> ClientOptions {
    let address = |port: &u16| ServerAddress::Tcp { host: "127.0.0.1".to_owned(), port: Some(*port) };
    let mut options = ClientOptions::builder().hosts(ports.iter().map(address).collect::<Vec<_>>()).build();
    if ports.len() > 1 {
        options.repl_set_name = Some(identity().role());
    } else {
        options.direct_connection = Some(true);
    }
    options.server_selection_timeout = Some(Duration::from_secs(2));
    options.heartbeat_freq = Some(Duration::from_millis(500));
    options.max_pool_size = Some(2);
    options.retry_writes = Some(false);
    if !password.is_empty() {
        options.credential = Some(Credential::builder().username("root".to_owned()).password(password.to_owned()).source("admin".to_owned()).build());
    }
    options
}

/// The documents of an answer with a cursor; they all have to fit into it.
pub fn batch(answer: &Document) -> Vec<Document> {
    let cursor = answer.get_document("cursor").unwrap();
    assert_eq!(cursor.get_i64("id").unwrap(), 0, "there are more");
    cursor.get_array("firstBatch").unwrap().iter().map(|document| document.as_document().unwrap().clone()).collect()
}

/// A server on a free port; it ends with this value.
pub struct Server {
    pub process: Process,
    pub root: TempDir,
    pub data: PathBuf,
    pub port: u16,
    pub arguments: Vec<String>,
    /// The administrator's; empty where there is no login.
    pub password: String,
}

impl Server {
    /// A new stand-alone server; with a password it has an administrator, and nobody else may do anything.
    pub async fn new(password: &str) -> Self {
        let arguments = if password.is_empty() { vec![] } else { vec!["--auth".to_owned()] };
        let mut server = Self::prepared(arguments, password);
        server.start().await;
        if !password.is_empty() {
            let user = doc! {"createUser": "root", "pwd": password, "roles": [{"role": "root", "db": "admin"}]};
            server.nobody().database("admin").run_command(user).await.unwrap();
        }
        server.answers().await;
        server
    }

    /// A server that has not been started, and its empty data directory.
    pub fn prepared(arguments: Vec<String>, password: &str) -> Self {
        let root = directory();
        let data = root.path().join("data");
        fs::create_dir(&data).unwrap();
        give(&data);
        let key = root.path().join("key");
        fs::write(&key, KEY).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o400)).unwrap();
        give(&key);
        let process = Process::new(root.path().join("log"), Signal::KILL);
        Self { process, root, data, port: free_port(), arguments, password: password.to_owned() }
    }

    /// The arguments of a member of our set.
    pub fn member_arguments(&self) -> Vec<String> {
        let mut arguments = [self.arguments.clone(), MongoDb::source_arguments(&identity())].concat();
        if !self.password.is_empty() {
            arguments.extend(["--keyFile".to_owned(), inside(&self.root.path().join("key")).to_string_lossy().into_owned()]);
        }
        arguments
    }

    /// Starts it, and waits until it answers anybody.
    pub async fn start(&mut self) {
        assert!(world().join("usr/bin/mongod").exists(), "a MongoDB server is needed: UNDERSTUDY_TEST_MONGODB_ROOT names a root file system with one");
        let mut server = command(Path::new("/usr/bin/mongod"));
        server.args(["--bind_ip", "127.0.0.1", "--nounixsocket", "--wiredTigerCacheSizeGB", "0.25", "--port", &self.port.to_string(), "--dbpath"]);
        server.arg(inside(&self.data)).args(&self.arguments);
        self.process.start(server);
        let client = self.nobody();
        let answers = async || client.database("admin").run_command(doc! {"hello": 1}).await.ok();
        until(answers, || self.log()).await;
    }

    /// Ends it and starts it again with other arguments.
    pub async fn restart(&mut self, signal: Signal, arguments: Vec<String>) {
        self.process.stop(signal);
        self.arguments = arguments;
        self.start().await;
    }

    /// A client that has not logged in.
    pub fn nobody(&self) -> Client {
        Client::with_options(options(&[self.port], "")).unwrap()
    }

    /// Runs a command as the administrator, past everything that is tested.
    pub async fn run(&self, database: &str, command: Document) -> Result<Document, Error> {
        let database: Database = Client::with_options(options(&[self.port], &self.password)).unwrap().database(database);
        database.run_command(command).await
    }

    /// Every collection, with its database.
    pub async fn collections(&self) -> BTreeSet<String> {
        let listed = self.run("admin", doc! {"listDatabases": 1, "nameOnly": true}).await.unwrap();
        let mut all = BTreeSet::new();
        for database in listed.get_array("databases").unwrap().iter().map(|database| database.as_document().unwrap().get_str("name").unwrap()) {
            let found = self.run(database, doc! {"listCollections": 1, "nameOnly": true}).await.unwrap();
            all.extend(batch(&found).iter().map(|collection| format!("{database}.{}", collection.get_str("name").unwrap())));
        }
        all
    }

    /// Everything that enabling may change: arguments, users, roles, and what the database `local` holds, but for the log of starts.
    pub async fn traces(&self) -> Vec<String> {
        let mut all = vec![format!("{:?}", self.run("admin", doc! {"getCmdLineOpts": 1}).await.unwrap().get("argv"))];
        if !self.password.is_empty() {
            let users = self.run("admin", doc! {"usersInfo": {"forAllDBs": true}, "showCredentials": true}).await.unwrap();
            all.push(format!("{:?}", users.get("users")));
            let roles = batch(&self.run("admin", doc! {"find": "system.roles"}).await.unwrap());
            all.push(format!("{roles:?}"));
        }
        for collection in self.collections().await.iter().filter_map(|name| name.strip_prefix("local.")).filter(|name| *name != "startup_log") {
            all.push(format!("{collection}: {:?}", batch(&self.run("local", doc! {"find": collection}).await.unwrap())));
        }
        all
    }

    /// How many orders there are with a number below this one.
    pub async fn orders_below(&self, number: i64) -> i64 {
        let answer = self.run("shop", doc! {"count": "orders", "query": {"_id": {"$lt": number}}}).await.unwrap();
        match answer.get("n") {
            Some(Bson::Int32(count)) => i64::from(*count),
            other => panic!("{other:?}"),
        }
    }

    /// What members trust each other by, where there is a login.
    pub fn key(&self) -> Option<Key> {
        (!self.password.is_empty()).then(|| Key::new(&fs::read(self.root.path().join("key")).unwrap()))
    }

    /// What is observed, once it is as asked.
    async fn observed<T: Debug>(&self, what: &str, mut observe: impl AsyncFnMut() -> Result<T, SessionError>, enough: impl Fn(&T) -> bool) -> T {
        let seen = RefCell::new(String::new());
        let ask = async || {
            let found = observe().await;
            *seen.borrow_mut() = format!("{found:?}");
            found.ok().filter(|found| enough(found))
        };
        until(ask, || format!("{what}: {}\n{}", seen.borrow(), self.log())).await
    }

    /// Its facts as a source, once they are as asked.
    pub async fn facts_once(&self, what: &str, enough: impl Fn(&SourceFacts) -> bool) -> SourceFacts {
        self.observed(what, async || MongoSession::connect(&self.endpoint()).await?.observe_source(Some(&identity())).await, enough).await
    }

    /// Its state as a replica, once it is as asked.
    pub async fn state_once(&self, what: &str, enough: impl Fn(&ReplicaSummary) -> bool) -> ReplicaSummary {
        let key = self.key();
        self.observed(what, async || MongoSession::connect_replica(&self.endpoint(), key.as_ref()).await?.observe_replica().await, enough).await
    }

    /// A backup volume and the agent beside this server. Programs in the directory `instead` win over those of the same name.
    pub fn workshop(&self) -> Workshop {
        let root = directory();
        fs::create_dir(root.path().join("instead")).unwrap();
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", inside(&root.path().join("instead")).display());
        Workshop::new(root, Agent { engine: "MongoDB", database: "admin", username: None, path, command, give, inside }, &self.password)
    }
}

impl Serving for Server {
    type Engine = MongoDb;

    fn endpoint(&self) -> Endpoint {
        let (host, database, username) = ("127.0.0.1".to_owned(), "admin".to_owned(), "root".to_owned());
        Endpoint { host, port: self.port, database, username, password: self.password.clone() }
    }

    /// The end of it: a server says a lot.
    fn log(&self) -> String {
        let log = self.process.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}
