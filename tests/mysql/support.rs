//! Servers of our own, and an agent beside them.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use understudy::api::Change;
use understudy::engine::mysql::{MySql, MySqlSession, SourceFacts, Step};
use understudy::engine::{Endpoint, Engine, Identity, ReplicaSummary, Session, SessionError, WantedSource};

pub const PASSWORD: &str = r#"it's a "pass\word"#;
/// The user of the official image.
pub const USER: u32 = 999;
pub const PATIENCE: Duration = Duration::from_mins(1);
/// Small and fast: these servers do not outlive their test.
pub const SMALL: [&str; 6] = [
    "--innodb-redo-log-capacity=8M",
    "--innodb-buffer-pool-size=32M",
    "--innodb-flush-log-at-trx-commit=0",
    "--sync-binlog=0",
    "--innodb-doublewrite=OFF",
    "--secure-file-priv=NULL",
];

/// The root file system that servers run in.
pub fn world() -> PathBuf {
    PathBuf::from(std::env::var_os("UNDERSTUDY_TEST_MYSQL_ROOT").unwrap_or_else(|| "/".into()))
}

/// A path as it is called inside.
pub fn inside(path: &Path) -> PathBuf {
    Path::new("/").join(path.strip_prefix(world()).unwrap())
}

/// A command inside, as the user that servers run as.
pub fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
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

pub fn mysqld() -> Command {
    assert!(world().join("usr/sbin/mysqld").exists(), "a MySQL server is needed: UNDERSTUDY_TEST_MYSQL_ROOT names a root file system with one");
    command("/usr/sbin/mysqld")
}

pub fn succeed(mut command: Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

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

pub fn identity() -> Identity {
    Identity::parse("k3x9q2ab").unwrap()
}

pub fn wanted() -> WantedSource {
    WantedSource { replicas: vec![1], retention_limit: 512 << 20, ..WantedSource::new(identity()) }
}

/// A data directory to copy: with a root who may come from anywhere.
pub fn template() -> &'static Path {
    static TEMPLATE: OnceLock<PathBuf> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        // One for all runs with this server: it never changes.
        let version = String::from_utf8(
            succeed({
                let mut command = mysqld();
                command.arg("--version");
                command
            })
            .stdout,
        )
        .unwrap();
        let name: String = version.chars().filter(char::is_ascii_alphanumeric).collect();
        let done = world().join("tmp").join(format!("understudy-template-{name}"));
        if !done.exists() {
            let root = directory();
            let data = root.path().join("data");
            let init = root.path().join("init.sql");
            let password = PASSWORD.replace('\\', "\\\\").replace('\'', "\\'");
            let user = |host: &str| format!("ALTER USER 'root'@'{host}' IDENTIFIED BY '{password}';\n");
            let everywhere = "CREATE USER 'root'@'%';\nGRANT ALL ON *.* TO 'root'@'%' WITH GRANT OPTION;\n";
            fs::write(&init, format!("{}{everywhere}{}", user("localhost"), user("%"))).unwrap();
            give(&init);
            let mut make = mysqld();
            make.args(["--no-defaults", "--initialize-insecure"]).args(SMALL).arg(format!("--datadir={}", inside(&data).display()));
            make.arg(format!("--init-file={}", inside(&init).display()));
            succeed(make);
            fs::remove_file(data.join("auto.cnf")).unwrap();
            match fs::rename(&data, &done) {
                Err(error) if !done.exists() => panic!("{error}"),
                _ => {}
            }
        }
        done
    })
}

/// A server on a free port of the loopback interface; it ends with this value.
pub struct Server {
    pub child: Option<Child>,
    pub root: TempDir,
    pub data: PathBuf,
    pub port: u16,
    pub options: Vec<String>,
}

impl Server {
    /// A new database.
    pub async fn new(options: &[&str]) -> Self {
        let root = directory();
        let data = root.path().join("data");
        let mut copy = Command::new("cp");
        copy.arg("-a").arg(template()).arg(&data);
        succeed(copy);
        Self::serve(root, data, options).await
    }

    /// A server on an existing directory.
    pub async fn serve(root: TempDir, data: PathBuf, options: &[&str]) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let options = SMALL.iter().chain(options).map(|&option| option.to_owned()).collect();
        let mut server = Self { child: None, root, data, port, options };
        server.start();
        server.answers().await;
        server
    }

    pub fn start(&mut self) {
        let mut mysqld = mysqld();
        let root = inside(self.root.path());
        // No configuration of this machine's, and yet what is persisted: unlike with --no-defaults.
        let empty = self.root.path().join("my.cnf");
        fs::write(&empty, "").unwrap();
        mysqld.arg(format!("--defaults-file={}", inside(&empty).display()));
        mysqld.arg(format!("--datadir={}", inside(&self.data).display())).arg(format!("--socket={}", root.join("s").display()));
        mysqld.arg(format!("--pid-file={}", root.join("pid").display()));
        mysqld.args(["--bind-address=127.0.0.1", "--mysqlx=OFF", &format!("--port={}", self.port)]).args(&self.options);
        let log = fs::OpenOptions::new().append(true).create(true).open(self.root.path().join("log")).unwrap();
        mysqld.stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(mysqld.spawn().unwrap());
    }

    /// Ends it: `TERM` is clean, `KILL` is at once.
    pub fn stop(&mut self, signal: rustix::process::Signal) {
        if let Some(mut child) = self.child.take() {
            let _ = rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal);
            child.wait().unwrap();
        }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.root.path().join("log")).unwrap()
    }

    pub fn endpoint(&self) -> Endpoint {
        let (username, password) = ("root".to_owned(), PASSWORD.to_owned());
        Endpoint { host: "127.0.0.1".to_owned(), port: self.port, database: "mysql".to_owned(), username, password }
    }

    pub async fn answers(&self) -> MySqlSession {
        let begun = Instant::now();
        loop {
            match MySqlSession::connect(&self.endpoint()).await {
                Ok(session) => return session,
                Err(SessionError::Unreachable(_)) if begun.elapsed() < PATIENCE => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(error) => panic!("{error}; {}", self.log()),
            }
        }
    }

    pub async fn session(&self) -> MySqlSession {
        MySqlSession::connect(&self.endpoint()).await.unwrap()
    }

    pub async fn facts(&self) -> SourceFacts {
        self.session().await.observe_source(Some(&identity())).await.unwrap()
    }

    pub async fn execute(&self, step: &Step) -> Result<(), SessionError> {
        self.session().await.execute(step).await
    }

    pub fn connection(&self) -> Command {
        let mut mysql = command("/usr/bin/mysql");
        mysql.args(["--no-defaults", "-N", "-B", "-u", "root", "-S"]).arg(inside(self.root.path()).join("s")).env("MYSQL_PWD", PASSWORD);
        mysql
    }

    pub fn client(&self, sql: &str) -> Command {
        let mut mysql = self.connection();
        mysql.args(["-e", sql]);
        mysql
    }

    /// Executes SQL through the server's socket, past everything that is tested.
    pub fn sql(&self, sql: &str) -> String {
        String::from_utf8(succeed(self.client(sql)).stdout).unwrap().trim().to_owned()
    }

    /// Everything that enabling may change.
    pub fn traces(&self) -> String {
        let rows = [
            "SELECT * FROM performance_schema.global_variables WHERE VARIABLE_NAME NOT IN ('gtid_executed', 'gtid_purged') ORDER BY 1",
            "SELECT * FROM performance_schema.persisted_variables ORDER BY 1",
            "SELECT * FROM mysql.user ORDER BY 1, 2",
            "SELECT * FROM mysql.global_grants ORDER BY 1, 2, 3",
            "SELECT * FROM mysql.plugin ORDER BY 1",
            "SELECT PLUGIN_NAME, PLUGIN_STATUS FROM information_schema.PLUGINS ORDER BY 1",
            "SELECT PROCESSLIST_USER FROM performance_schema.threads WHERE PROCESSLIST_USER LIKE 'understudy%' OR PROCESSLIST_COMMAND LIKE 'Binlog Dump%'",
        ];
        rows.map(|sql| self.sql(sql)).join("\n--\n")
    }

    /// From what is to replication set up, every step twice; gives what was recorded.
    pub async fn enable(&self) -> Vec<Change> {
        let facts = self.facts().await;
        assert_eq!(MySql::preflight(&facts, &wanted()), vec![]);
        let steps = MySql::plan_enable(&facts, &wanted());
        for step in &steps {
            self.execute(step).await.unwrap_or_else(|error| panic!("{error}\n{}", self.log()));
            self.execute(step).await.unwrap();
        }
        let left = MySql::plan_enable(&self.facts().await, &WantedSource { prove_login: false, ..wanted() });
        assert_eq!(left, vec![], "enabled is enabled");
        assert_eq!(self.session().await.identities().await.unwrap(), BTreeSet::from([identity()]));
        let mut recorded: Vec<Change> = vec![];
        for change in steps.iter().filter_map(|step| MySql::record(&facts, step)) {
            match recorded.iter_mut().find(|known| known.what == change.what) {
                Some(known) => known.after = change.after,
                None => recorded.push(change),
            }
        }
        recorded
    }

    pub async fn disable(&self, recorded: &[Change]) {
        for step in MySql::plan_disable(&self.facts().await, &identity(), recorded) {
            self.execute(&step).await.unwrap_or_else(|error| panic!("{error}\n{}", self.log()));
            self.execute(&step).await.unwrap();
        }
        assert_eq!(MySql::plan_disable(&self.facts().await, &identity(), recorded), vec![], "disabled is disabled");
        assert_eq!(self.session().await.identities().await.unwrap(), BTreeSet::new());
    }

    /// The replica's state, once it is as asked.
    pub async fn replica(&self, what: &str, enough: impl Fn(&ReplicaSummary) -> bool) -> ReplicaSummary {
        let begun = Instant::now();
        loop {
            let state = self.session().await.observe_replica().await.unwrap();
            if enough(&state) {
                return state;
            }
            assert!(begun.elapsed() < PATIENCE, "{what}: {state:?}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop(rustix::process::Signal::KILL);
    }
}

/// A client that writes rows, one statement after the other, until it is told to end.
pub struct Writer {
    client: Child,
    go: Arc<AtomicBool>,
    feeder: std::thread::JoinHandle<()>,
}

impl Writer {
    /// Makes `shop.t (n, at)` and writes to it.
    pub fn start(server: &Server) -> Self {
        server.sql("CREATE DATABASE shop; CREATE TABLE shop.t (n INT AUTO_INCREMENT PRIMARY KEY, at DATETIME(6) DEFAULT NOW(6))");
        Self::feed(server, |_| "INSERT INTO shop.t () VALUES ();".to_owned())
    }

    /// Executes what the function gives for 1, 2, 3 …
    pub fn feed(server: &Server, statements: impl Fn(u64) -> String + Send + 'static) -> Self {
        let mut client = server.connection().stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut input = client.stdin.take().unwrap();
        let go = Arc::new(AtomicBool::new(true));
        let goes = go.clone();
        let feeder = std::thread::spawn(move || {
            let mut number = 1;
            while goes.load(Ordering::Relaxed) && writeln!(input, "{}", statements(number)).is_ok() {
                number += 1;
                // A replica that flushes every transaction is to keep up.
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        Self { client, go, feeder }
    }

    /// How many rows there are, once there are at least so many.
    pub async fn rows(&mut self, server: &Server, least: u64) -> u64 {
        let begun = Instant::now();
        loop {
            let count: u64 = server.sql("SELECT COUNT(*) FROM shop.t").parse().unwrap();
            if count >= least {
                assert!(self.client.try_wait().unwrap().is_none(), "an error of the writer");
                return count;
            }
            assert!(begun.elapsed() < PATIENCE, "{count} rows only: the writer has stopped");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Ends it, once it has executed everything.
    pub fn stop(self) {
        self.go.store(false, Ordering::Relaxed);
        self.feeder.join().unwrap();
        let ended = self.client.wait_with_output().unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    }

    /// The longest time between two commits, in seconds.
    pub fn longest_gap(server: &Server) -> f64 {
        let gaps = "SELECT MAX(gap) FROM (SELECT TIMESTAMPDIFF(MICROSECOND, LAG(at) OVER (ORDER BY n), at) / 1e6 AS gap FROM shop.t) g";
        server.sql(gaps).parse().unwrap()
    }
}

pub const WITHOUT_GTIDS: [&str; 2] = ["--gtid-mode=OFF", "--enforce-gtid-consistency=OFF"];

/// The program, copied by itself to where the servers' user can run it.
pub fn install(root: &Path) -> PathBuf {
    let tools = root.join("tools");
    fs::create_dir(&tools).unwrap();
    let mut install = Command::new(env!("CARGO_BIN_EXE_understudy"));
    install.args(["agent", "install"]).arg(&tools);
    succeed(install);
    tools.join("understudy")
}

/// A backup volume, credentials and an agent beside a server.
pub struct Workshop {
    pub root: TempDir,
    pub program: PathBuf,
}

impl Workshop {
    pub fn new() -> Self {
        let root = directory();
        fs::create_dir(root.path().join("it's a backup")).unwrap();
        give(&root.path().join("it's a backup"));
        let program = install(root.path());
        let credentials = root.path().join("credentials");
        fs::create_dir(&credentials).unwrap();
        fs::write(credentials.join("password"), PASSWORD).unwrap();
        Self { root, program }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// A path on the backup volume.
    pub fn backed_up(&self, name: &str) -> PathBuf {
        self.path("it's a backup").join(name)
    }

    pub fn message(&self) -> String {
        fs::read_to_string(self.path("message")).unwrap()
    }

    pub fn agent(&self, words: &[&str]) -> Command {
        let mut agent = self.bare(words);
        agent.args(["--engine", "MySQL"]);
        agent
    }

    pub fn bare(&self, words: &[&str]) -> Command {
        fs::write(self.path("message"), "").unwrap();
        give(&self.path("message"));
        // As in the Jobs: no home, nothing but the image's path; which chroot itself needs as well.
        let mut agent = command(inside(&self.program));
        agent.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        agent.arg("agent").args(words).arg("--termination-message").arg(inside(&self.path("message")));
        agent.stdout(Stdio::null());
        agent
    }

    pub fn backup(&self, server: &Server, directory: &str) -> Command {
        let mut agent = self.agent(&["backup", "--host", "127.0.0.1", "--database", "mysql", "--identity", identity().word()]);
        agent.args(["--port", &server.port.to_string(), "--directory", directory, "--volume"]).arg(inside(&self.backed_up("")));
        agent.arg("--credentials").arg(inside(&self.path("credentials")));
        agent
    }

    /// As in a pod of that name, whose host name the replica's relay log has.
    pub fn restore(&self, server: &Server, directory: &str, data: &Path) -> Command {
        let mut agent = self.agent(&["restore", "--identity", identity().word(), "--directory", directory, "--replica", "1", "--name", "orders-replica-1"]);
        agent.args(["--primary-host", "127.0.0.1", "--primary-port", &server.port.to_string(), "--volume"]).arg(inside(&self.backed_up("")));
        agent.arg("--data-directory").arg(inside(data));
        agent
    }

    pub fn guard(&self, data: &Path) -> bool {
        let mut agent = self.agent(&["guard"]);
        agent.arg("--data-directory").arg(inside(data)).stderr(Stdio::null()).status().unwrap().success()
    }

    /// Brings data into a target's data directory; with `changes`, killed before the change to the disk that goes beyond this number.
    pub fn swap(&self, mount: &Path, data: &Path, to: &str, changes: Option<usize>) -> bool {
        let mut agent = self.agent(&["swap", "--identity", identity().word(), "--to", to]);
        agent.arg("--mount").arg(inside(mount)).arg("--data-directory").arg(inside(data));
        agent.args(changes.iter().flat_map(|changes| ["--changes".to_owned(), changes.to_string()]));
        agent.stderr(Stdio::null()).status().unwrap().success()
    }

    /// Has the restore in a target's data directory be its own from now on.
    pub fn release(&self, data: &Path) -> Command {
        let mut agent = self.agent(&["release", "--identity", identity().word()]);
        agent.arg("--data-directory").arg(inside(data));
        agent
    }

    /// Deletes what is beside a target's data directory, and what is ours in it.
    pub fn clear(&self, mount: &Path, data: &Path) -> Command {
        let mut agent = self.agent(&["discard", "--identity", identity().word()]);
        agent.arg("--mount").arg(inside(mount)).arg("--data-directory").arg(inside(data));
        agent
    }

    /// Keeps what a target held before a swap.
    pub fn keep(&self, directory: &str, mount: &Path, data: &Path) -> Command {
        let mut agent = self.agent(&["keep", "--identity", identity().word(), "--directory", directory]);
        agent.arg("--volume").arg(inside(&self.backed_up(""))).arg("--mount").arg(inside(mount)).arg("--data-directory").arg(inside(data));
        agent
    }

    /// Puts it into another data directory.
    pub fn give_back(&self, directory: &str, data: &Path) -> Command {
        let mut agent = self.agent(&["give-back", "--directory", directory]);
        agent.arg("--volume").arg(inside(&self.backed_up(""))).arg("--data-directory").arg(inside(data));
        agent
    }

    /// A directory with a restored backup.
    pub fn restored(&self, source: &Server, directory: &str) -> (TempDir, PathBuf) {
        let root = self::directory();
        let data = root.path().join("data");
        fs::create_dir(&data).unwrap();
        give(&data);
        succeed(self.restore(source, directory, &data));
        (root, data)
    }
}

/// The relay log of a replica has the name of its pod; here the host has another one.
pub const RELAY_LOG: &str = "--relay-log=orders-replica-1-0-relay-bin";
