//! The MySQL engine against real servers: every step, every fact, and the way from a backup to a replica that streams.
//!
//! The servers' programs are taken from the root file system that `UNDERSTUDY_TEST_MYSQL_ROOT` names, inside which they run, or else from this machine's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use understudy::api::Change;
use understudy::engine::mysql::{MySql, MySqlSession, SourceFacts, Step};
use understudy::engine::{Endpoint, Engine, Identity, Position, ReplicaSummary, Session, SessionError, WantedSource};

const PASSWORD: &str = r#"it's a "pass\word"#;
/// The user of the official image.
const USER: u32 = 999;
const PATIENCE: Duration = Duration::from_mins(1);
/// Small and fast: these servers do not outlive their test.
const SMALL: [&str; 6] = [
    "--innodb-redo-log-capacity=8M",
    "--innodb-buffer-pool-size=32M",
    "--innodb-flush-log-at-trx-commit=0",
    "--sync-binlog=0",
    "--innodb-doublewrite=OFF",
    "--secure-file-priv=NULL",
];

/// The root file system that servers run in.
fn world() -> PathBuf {
    PathBuf::from(std::env::var_os("UNDERSTUDY_TEST_MYSQL_ROOT").unwrap_or_else(|| "/".into()))
}

/// A path as it is called inside.
fn inside(path: &Path) -> PathBuf {
    Path::new("/").join(path.strip_prefix(world()).unwrap())
}

/// A command inside, as the user that servers run as.
fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
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

fn mysqld() -> Command {
    assert!(world().join("usr/sbin/mysqld").exists(), "a MySQL server is needed: UNDERSTUDY_TEST_MYSQL_ROOT names a root file system with one");
    command("/usr/sbin/mysqld")
}

fn succeed(mut command: Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn give(path: &Path) {
    if rustix::process::getuid().is_root() {
        chown(path, Some(USER), Some(USER)).unwrap();
    }
}

/// A directory that the servers' user owns.
fn directory() -> TempDir {
    let root = tempfile::Builder::new().prefix("understudy-").tempdir_in(world().join("tmp")).unwrap();
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
    give(root.path());
    root
}

fn identity() -> Identity {
    Identity::parse("k3x9q2ab").unwrap()
}

fn wanted() -> WantedSource {
    WantedSource { identity: identity(), replicas: vec![1], retention_limit: 512 << 20, prove_login: true, withhold_access: false }
}

/// A data directory to copy: with a root who may come from anywhere.
fn template() -> &'static Path {
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
struct Server {
    child: Option<Child>,
    root: TempDir,
    data: PathBuf,
    port: u16,
    options: Vec<String>,
}

impl Server {
    /// A new database.
    async fn new(options: &[&str]) -> Self {
        let root = directory();
        let data = root.path().join("data");
        let mut copy = Command::new("cp");
        copy.arg("-a").arg(template()).arg(&data);
        succeed(copy);
        Self::serve(root, data, options).await
    }

    /// A server on an existing directory.
    async fn serve(root: TempDir, data: PathBuf, options: &[&str]) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let options = SMALL.iter().chain(options).map(|&option| option.to_owned()).collect();
        let mut server = Self { child: None, root, data, port, options };
        server.start();
        server.answers().await;
        server
    }

    fn start(&mut self) {
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
        let (username, password) = ("root".to_owned(), PASSWORD.to_owned());
        Endpoint { host: "127.0.0.1".to_owned(), port: self.port, database: "mysql".to_owned(), username, password }
    }

    async fn answers(&self) -> MySqlSession {
        let begun = Instant::now();
        loop {
            match MySqlSession::connect(&self.endpoint()).await {
                Ok(session) => return session,
                Err(SessionError::Unreachable(_)) if begun.elapsed() < PATIENCE => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(error) => panic!("{error}; {}", self.log()),
            }
        }
    }

    async fn session(&self) -> MySqlSession {
        MySqlSession::connect(&self.endpoint()).await.unwrap()
    }

    async fn facts(&self) -> SourceFacts {
        self.session().await.observe_source(Some(&identity())).await.unwrap()
    }

    async fn execute(&self, step: &Step) -> Result<(), SessionError> {
        self.session().await.execute(step).await
    }

    fn client(&self, sql: &str) -> Command {
        let mut mysql = command("/usr/bin/mysql");
        mysql.args(["--no-defaults", "-N", "-B", "-u", "root", "-S"]).arg(inside(self.root.path()).join("s")).args(["-e", sql]).env("MYSQL_PWD", PASSWORD);
        mysql
    }

    /// Executes SQL through the server's socket, past everything that is tested.
    fn sql(&self, sql: &str) -> String {
        String::from_utf8(succeed(self.client(sql)).stdout).unwrap().trim().to_owned()
    }

    /// Everything that enabling may change.
    fn traces(&self) -> String {
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
    async fn enable(&self) -> Vec<Change> {
        let facts = self.facts().await;
        assert_eq!(MySql::preflight(&facts, &wanted()), vec![]);
        let steps = MySql::plan_enable(&facts, &wanted());
        for step in &steps {
            self.execute(step).await.unwrap_or_else(|error| panic!("{error}\n{}", self.log()));
            self.execute(step).await.unwrap();
        }
        let left = MySql::plan_enable(&self.facts().await, &WantedSource { prove_login: false, ..wanted() });
        assert_eq!(left, vec![], "enabled is enabled");
        let mut recorded: Vec<Change> = vec![];
        for change in steps.iter().filter_map(|step| MySql::record(&facts, step)) {
            match recorded.iter_mut().find(|known| known.what == change.what) {
                Some(known) => known.after = change.after,
                None => recorded.push(change),
            }
        }
        recorded
    }

    async fn disable(&self, recorded: &[Change]) {
        for step in MySql::plan_disable(&self.facts().await, &identity(), recorded) {
            self.execute(&step).await.unwrap_or_else(|error| panic!("{error}\n{}", self.log()));
            self.execute(&step).await.unwrap();
        }
        assert_eq!(MySql::plan_disable(&self.facts().await, &identity(), recorded), vec![], "disabled is disabled");
    }

    /// The replica's state, once it is as asked.
    async fn replica(&self, what: &str, enough: impl Fn(&ReplicaSummary) -> bool) -> ReplicaSummary {
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

const WITHOUT_GTIDS: [&str; 2] = ["--gtid-mode=OFF", "--enforce-gtid-consistency=OFF"];

#[tokio::test]
async fn enabling_and_disabling_leaves_no_trace() {
    let server = Server::new(&WITHOUT_GTIDS).await;
    // As it was, and with the same persisted; by then the other ladders are known.
    for persisted in ["", "SET PERSIST gtid_mode = OFF_PERMISSIVE", "INSTALL PLUGIN clone SONAME 'mysql_clone.so'; SET PERSIST enforce_gtid_consistency = WARN"]
    {
        server.sql(persisted);
        let before = server.traces();
        let recorded = server.enable().await;
        assert_ne!(server.traces(), before);
        assert_eq!(server.sql("SELECT @@GLOBAL.gtid_mode, @@GLOBAL.enforce_gtid_consistency"), "ON\tON");
        assert!(MySql::summary(&server.facts().await).oldest_for_seed == Position::Transactions(understudy::engine::TransactionSet::default()));
        server.disable(&recorded).await;
        assert_eq!(server.traces(), before, "after: {persisted}");
    }
}

#[tokio::test]
async fn the_defaults_of_this_version_need_a_user_and_a_plugin_only() {
    let server = Server::new(&[]).await;
    let before = server.traces();
    let recorded = server.enable().await;
    assert_eq!(recorded.iter().map(|change| change.what.as_str()).collect::<Vec<_>>(), ["user understudy_k3x9q2ab", "plugin clone"]);
    server.disable(&recorded).await;
    assert_eq!(server.traces(), before);
}

#[tokio::test]
async fn gtids_go_on_and_off_under_a_writer_without_an_error() {
    let server = Server::new(&WITHOUT_GTIDS).await;
    server.sql("CREATE DATABASE shop; CREATE TABLE shop.t (n INT AUTO_INCREMENT PRIMARY KEY, at DATETIME(6) DEFAULT NOW(6))");
    let body = "BEGIN WHILE GET_LOCK('stop', 0) DO DO RELEASE_LOCK('stop'); INSERT INTO shop.t () VALUES (); END WHILE; END";
    let mut procedure = server.client(&format!("CREATE PROCEDURE shop.write_() {body}"));
    procedure.arg("--delimiter=//");
    succeed(procedure);
    let mut writer = server.client("CALL shop.write_()");
    let mut writer = writer.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let rows = async |least: u64| {
        let begun = Instant::now();
        loop {
            let count: u64 = server.sql("SELECT COUNT(*) FROM shop.t").parse().unwrap();
            if count >= least {
                return count;
            }
            assert!(begun.elapsed() < PATIENCE, "{count} rows only: the writer has stopped");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let begun = rows(10).await;
    let recorded = server.enable().await;
    let on = rows(begun + 10).await;
    server.disable(&recorded).await;
    rows(on + 10).await;
    assert!(writer.try_wait().unwrap().is_none(), "an error of the writer");
    let mut locker = server.client("SELECT GET_LOCK('stop', 10), SLEEP(2)");
    succeed({
        locker.stdout(Stdio::null());
        locker
    });
    let ended = writer.wait_with_output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let longest: f64 =
        server.sql("SELECT MAX(gap) FROM (SELECT TIMESTAMPDIFF(MICROSECOND, LAG(at) OVER (ORDER BY n), at) / 1e6 AS gap FROM shop.t) g").parse().unwrap();
    assert!(longest < 5.0, "a gap of {longest} s");
    eprintln!("longest gap between two commits: {longest} s");
}

#[tokio::test]
async fn what_gtids_would_refuse_stops_the_ladder() {
    let server = Server::new(&WITHOUT_GTIDS).await;
    server.execute(&Step::SetVariable { name: "enforce_gtid_consistency".into(), value: "WARN".into() }).await.unwrap();
    server.sql(
        "CREATE DATABASE shop; CREATE TABLE shop.m (n INT) ENGINE = MyISAM; CREATE TABLE shop.i (n INT); \
        START TRANSACTION; INSERT INTO shop.i VALUES (1); INSERT INTO shop.m VALUES (1); COMMIT",
    );
    let step = Step::SetVariable { name: "enforce_gtid_consistency".into(), value: "ON".into() };
    let refused = server.execute(&step).await.unwrap_err().to_string();
    assert!(refused.contains("violates GTID consistency"), "{refused}");
    assert_eq!(server.sql("SELECT @@GLOBAL.enforce_gtid_consistency"), "WARN");
    for (name, value) in [("max_connections", "1"), ("gtid_mode", "ON; DROP USER root")] {
        let other = Step::SetVariable { name: name.into(), value: value.into() };
        assert!(matches!(server.execute(&other).await, Err(SessionError::Failed { .. })), "only what is ours is set");
    }
}

#[tokio::test]
async fn facts_are_those_of_the_server() {
    let server = Server::new(&["--server-id=7"]).await;
    let facts = server.facts().await;
    assert_eq!(facts.version, server.sql("SELECT VERSION()"));
    assert_eq!((facts.server_uuid.as_str(), facts.server_id), (server.sql("SELECT @@server_uuid").as_str(), 7));
    assert_eq!(Path::new(&facts.data_directory), inside(&server.data));
    assert!(facts.user.starts_with("root@"), "{facts:?}");
    assert_eq!((facts.log_bin, facts.binlog_format.as_str(), facts.persisted_load), (true, "ROW", true));
    assert_eq!((facts.gtid_mode.value.as_str(), facts.gtid_mode.persisted.as_deref()), ("ON", None));
    assert_eq!((facts.channels, facts.other_replicas, facts.connections, facts.read_only), (0, 0, 0, false));
    assert!(facts.encrypted && !facts.clone_active && !facts.user_exists && facts.relay_log.is_empty(), "{facts:?}");
    assert!(facts.outside.is_empty() && facts.encrypted_tablespaces == 0 && facts.binlog_filters.is_empty(), "{facts:?}");
    let summary = MySql::summary(&facts);
    assert_eq!((summary.system, summary.owner), (facts.server_uuid.clone(), None));
    assert_eq!(MySql::format_position(&summary.position), server.sql("SELECT @@GLOBAL.gtid_executed"));
    assert_eq!(server.session().await.measure().await.unwrap().to_string(), server.sql("SELECT SUM(FILE_SIZE) FROM information_schema.INNODB_TABLESPACES"));
    server.sql("SET PERSIST gtid_mode = ON");
    assert_eq!(server.facts().await.gtid_mode.persisted.as_deref(), Some("ON"));
}

#[tokio::test]
async fn an_idle_source_is_only_read() {
    let server = Server::new(&[]).await;
    server.enable().await;
    let before = server.facts().await.position;
    server.facts().await;
    assert_eq!(server.facts().await.position, before);
    let mark = server.session().await.write_mark().await.unwrap();
    assert!(mark > before, "a mark is a transaction: {mark:?}");
}

#[tokio::test]
async fn everything_that_cannot_be_copied_is_found_at_once() {
    let mut server = Server::new(&["--binlog-ignore-db=audit", "--binlog-format=MIXED"]).await;
    server.sql("CREATE DATABASE shop; CREATE TABLE shop.`it's` (n INT) ENGINE = MyISAM; CREATE TABLE shop.c (n INT NOT NULL) ENGINE = CSV");
    let found = MySql::preflight(&server.facts().await, &wanted());
    assert_eq!(found.iter().map(|finding| finding.reason).collect::<Vec<_>>(), ["BinlogFormatNotRow", "BinaryLogFiltered", "NotInnoDb"], "{found:?}");
    assert!(found[2].message.contains("shop.c (CSV), shop.it's (MyISAM)"), "{found:?}");
    server.stop(rustix::process::Signal::TERM);
    let elsewhere = server.root.path().join("undo");
    fs::create_dir(&elsewhere).unwrap();
    give(&elsewhere);
    let more = [format!("--innodb-directories={}", inside(&elsewhere).display()), "--skip-log-bin".into(), "--super-read-only=OFF".into()];
    server.options.retain(|option| !option.starts_with("--binlog"));
    server.options.extend(more);
    server.start();
    server.answers().await;
    server.sql(&format!(
        "DROP DATABASE shop; CREATE DATABASE shop; CREATE TABLE shop.t (n INT) DATA DIRECTORY = '{}'; SET GLOBAL read_only = ON",
        inside(&elsewhere).display()
    ));
    let found = MySql::preflight(&server.facts().await, &wanted());
    assert_eq!(found.iter().map(|finding| finding.reason).collect::<Vec<_>>(), ["SourceReadOnly", "BinaryLogOff", "DataOutsideDirectory"], "{found:?}");
    assert!(found[2].message.contains("undo/shop/t.ibd"), "{found:?}");
}

#[tokio::test]
async fn an_ordinary_user_gives_facts_and_no_error() {
    let server = Server::new(&[]).await;
    server.enable().await;
    server.sql("CREATE DATABASE shop; CREATE USER shop IDENTIFIED BY 'secret'; GRANT ALL ON shop.* TO shop");
    let endpoint = Endpoint { username: "shop".to_owned(), password: "secret".to_owned(), database: "shop".to_owned(), ..server.endpoint() };
    let mut session = MySqlSession::connect(&endpoint).await.unwrap();
    let facts = session.observe_source(Some(&identity())).await.unwrap();
    assert_eq!(facts.user, "shop@%");
    let found = MySql::preflight(&facts, &wanted());
    assert!(found.iter().any(|finding| finding.reason == "PrivilegesMissing" && finding.message.contains("BACKUP_ADMIN")), "{found:?}");
    assert!(matches!(session.execute(&Step::DropUser { user: identity().role() }).await, Err(SessionError::Failed { .. })));
    // What the finding asks for is enough.
    let missing = found.iter().find(|finding| finding.reason == "PrivilegesMissing").unwrap();
    let list = missing.message.split_once("on *.*: ").unwrap().1;
    server.sql(&format!("DROP USER understudy_k3x9q2ab; UNINSTALL PLUGIN clone; GRANT {list} ON *.* TO shop WITH GRANT OPTION"));
    let mut session = MySqlSession::connect(&endpoint).await.unwrap();
    let facts = session.observe_source(Some(&identity())).await.unwrap();
    assert_eq!(MySql::preflight(&facts, &wanted()), vec![]);
    let steps = MySql::plan_enable(&facts, &wanted());
    for step in &steps {
        session.execute(step).await.unwrap();
    }
    session.give_access(&identity(), "secret").await.unwrap();
    session.write_mark().await.unwrap();
    let recorded: Vec<Change> = steps.iter().filter_map(|step| MySql::record(&facts, step)).collect();
    let facts = session.observe_source(Some(&identity())).await.unwrap();
    assert!(facts.user_access, "{facts:?}");
    for step in MySql::plan_disable(&SourceFacts { connections: 1, ..facts }, &identity(), &recorded) {
        session.execute(&step).await.unwrap();
    }
}

#[tokio::test]
async fn a_login_that_will_not_do_is_told_from_a_server_that_is_not_there() {
    let mut server = Server::new(&[]).await;
    let try_with = |change: fn(&mut Endpoint)| {
        let mut endpoint = server.endpoint();
        change(&mut endpoint);
        async move { MySqlSession::connect(&endpoint).await.map(drop).unwrap_err() }
    };
    let wrong = try_with(|endpoint| endpoint.password = "wrong".to_owned()).await;
    assert!(matches!(&wrong, SessionError::Refused(message) if message.starts_with("Access denied for user 'root'")), "{wrong}");
    assert!(matches!(try_with(|endpoint| endpoint.database = "none".to_owned()).await, SessionError::Refused(message) if message.contains("none")));
    assert!(matches!(try_with(|endpoint| endpoint.username = "nobody".to_owned()).await, SessionError::Refused(_)));
    // A server that is full says nothing about the login.
    server.sql("SET GLOBAL max_connections = 1");
    let mut held = vec![];
    let full = loop {
        match MySqlSession::connect(&server.endpoint()).await {
            Ok(session) => held.push(session),
            Err(error) => break error,
        }
        assert!(held.len() < 10);
    };
    assert!(matches!(&full, SessionError::Unreachable(message) if message.contains("Too many connections")), "{full}");
    drop(held);
    let endpoint = server.endpoint();
    let mut session = server.answers().await;
    server.stop(rustix::process::Signal::TERM);
    let gone = MySqlSession::connect(&endpoint).await.map(drop).unwrap_err();
    assert!(matches!(&gone, SessionError::Unreachable(message) if message.contains(&format!("127.0.0.1:{}", server.port))), "{gone}");
    let broken = session.observe_source(None).await.map(drop);
    assert!(matches!(broken, Err(SessionError::Unreachable(_))), "a connection that broke: {broken:?}");
    // An address that swallows everything.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let begun = Instant::now();
    let endpoint = Endpoint { port: silent.local_addr().unwrap().port(), ..endpoint };
    assert!(matches!(MySqlSession::connect(&endpoint).await, Err(SessionError::Unreachable(_))));
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn no_secret_reaches_the_servers_logs() {
    let server = Server::new(&["--general-log=ON", "--log-output=TABLE", "--slow-query-log=ON", "--long-query-time=0", "--log-raw=ON"]).await;
    server.enable().await;
    server.session().await.give_access(&identity(), "a password of ours").await.unwrap();
    let said = server.sql(
        "SELECT CAST(argument AS CHAR) FROM mysql.general_log UNION ALL SELECT CAST(sql_text AS CHAR) FROM mysql.slow_log UNION ALL \
        SELECT COALESCE(SQL_TEXT, '') FROM performance_schema.events_statements_history",
    );
    assert!(said.contains("ALTER USER") && !said.contains("a password of ours") && !said.contains(PASSWORD), "{said}");
    let endpoint = Endpoint { username: identity().role(), password: "a password of ours".into(), database: String::new(), ..server.endpoint() };
    MySqlSession::connect(&endpoint).await.map(drop).expect("a verifier of ours is one");
}

#[tokio::test]
async fn a_password_policy_does_not_stop_us() {
    let server = Server::new(&[]).await;
    server.sql("INSTALL COMPONENT 'file://component_validate_password'; SET GLOBAL validate_password.policy = STRONG, GLOBAL default_password_lifetime = 1");
    server.enable().await;
    server.session().await.give_access(&identity(), "ab").await.unwrap();
    assert_eq!(server.sql("SELECT password_lifetime FROM mysql.user WHERE User LIKE 'understudy%'"), "0", "it does not expire");
}

/// The program, copied by itself to where the servers' user can run it.
fn install(root: &Path) -> PathBuf {
    let tools = root.join("tools");
    fs::create_dir(&tools).unwrap();
    let mut install = Command::new(env!("CARGO_BIN_EXE_understudy"));
    install.args(["agent", "install"]).arg(&tools);
    succeed(install);
    tools.join("understudy")
}

/// A backup volume, credentials and an agent beside a server.
struct Workshop {
    root: TempDir,
    program: PathBuf,
}

impl Workshop {
    fn new() -> Self {
        let root = directory();
        fs::create_dir(root.path().join("it's a backup")).unwrap();
        give(&root.path().join("it's a backup"));
        let program = install(root.path());
        let credentials = root.path().join("credentials");
        fs::create_dir(&credentials).unwrap();
        fs::write(credentials.join("password"), PASSWORD).unwrap();
        Self { root, program }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// A path on the backup volume.
    fn backed_up(&self, name: &str) -> PathBuf {
        self.path("it's a backup").join(name)
    }

    fn message(&self) -> String {
        fs::read_to_string(self.path("message")).unwrap()
    }

    fn agent(&self, words: &[&str]) -> Command {
        fs::write(self.path("message"), "").unwrap();
        give(&self.path("message"));
        // As in the Jobs: no home, nothing but the image's path; which chroot itself needs as well.
        let mut agent = command(inside(&self.program));
        agent.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        agent.arg("agent").args(words).args(["--engine", "MySQL", "--termination-message"]).arg(inside(&self.path("message")));
        agent.stdout(Stdio::null());
        agent
    }

    fn backup(&self, server: &Server, directory: &str) -> Command {
        let mut agent = self.agent(&["backup", "--host", "127.0.0.1", "--database", "mysql", "--identity", identity().word()]);
        agent.args(["--port", &server.port.to_string(), "--directory", directory, "--volume"]).arg(inside(&self.backed_up("")));
        agent.arg("--credentials").arg(inside(&self.path("credentials")));
        agent
    }

    /// As in a pod of that name, whose host name the replica's relay log has.
    fn restore(&self, server: &Server, directory: &str, data: &Path) -> Command {
        let mut agent = self.agent(&["restore", "--identity", identity().word(), "--directory", directory, "--replica", "1", "--name", "orders-replica-1"]);
        agent.args(["--primary-host", "127.0.0.1", "--primary-port", &server.port.to_string(), "--volume"]).arg(inside(&self.backed_up("")));
        agent.arg("--data-directory").arg(inside(data));
        agent
    }

    fn guard(&self, data: &Path) -> bool {
        let mut agent = self.agent(&["guard"]);
        agent.arg("--data-directory").arg(inside(data)).stderr(Stdio::null()).status().unwrap().success()
    }

    /// A directory with a restored backup.
    fn restored(&self, source: &Server, directory: &str) -> (TempDir, PathBuf) {
        let root = self::directory();
        let data = root.path().join("data");
        fs::create_dir(&data).unwrap();
        give(&data);
        succeed(self.restore(source, directory, &data));
        (root, data)
    }
}

/// The relay log of a replica has the name of its pod; here the host has another one.
const RELAY_LOG: &str = "--relay-log=orders-replica-1-0-relay-bin";

async fn a_backup_becomes_a_replica(options: &[&str], encrypted: bool) {
    let source = Server::new(options).await;
    source.enable().await;
    assert_eq!(source.facts().await.encrypted, encrypted);
    source.sql("CREATE DATABASE shop; CREATE TABLE shop.t (n INT AUTO_INCREMENT PRIMARY KEY); INSERT INTO shop.t VALUES (), (), ()");
    // Neither runs on a replica, nor stops it.
    source.sql(
        "CREATE TABLE shop.ticks (at DATETIME(6)); CREATE EVENT shop.tick ON SCHEDULE EVERY 1 SECOND DO INSERT INTO shop.ticks VALUES (NOW(6)); \
        CREATE EVENT shop.once ON SCHEDULE AT NOW() + INTERVAL 20 SECOND DO INSERT INTO shop.ticks VALUES (NOW(6))",
    );
    let shop = Workshop::new();

    let log = String::from_utf8(succeed(shop.backup(&source, "k3x9q2ab-1")).stderr).unwrap();
    assert!(log.contains("file copy completed, page copy completed, redo copy completed"), "{log}");
    let password = fs::read_to_string(shop.backed_up("replication-password-k3x9q2ab")).unwrap();
    assert!(!log.contains(&password[..32]) && !log.contains(PASSWORD), "{log}");
    let manifest: serde_json::Value = serde_json::from_str(&shop.message()).unwrap();
    let position = MySql::parse_position(manifest["position"].as_str().unwrap()).unwrap();
    assert!(source.facts().await.position.reaches(&position) && manifest["bytes"].as_u64().unwrap() > 10 << 20, "{manifest}");
    succeed(shop.backup(&source, "k3x9q2ab-1"));
    assert_eq!(serde_json::from_str::<serde_json::Value>(&shop.message()).unwrap(), manifest, "one that is finished is reported again");
    let kept: Vec<_> = fs::read_dir(shop.backed_up("k3x9q2ab-1")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(kept.len(), 4, "data, list, settings, manifest: {kept:?}");
    assert!(!shop.backed_up("k3x9q2ab-1/data/auto.cnf").exists() && !shop.backed_up("k3x9q2ab-1.partial").exists());

    let (root, data) = shop.restored(&source, "k3x9q2ab-1");
    assert!(shop.guard(&data), "{}", shop.message());
    succeed(shop.restore(&source, "k3x9q2ab-1", &data));
    let settings: serde_json::Value = serde_json::from_slice(&fs::read(data.join("mysqld-auto.cnf")).unwrap()).unwrap();
    assert!(settings.to_string().contains("super_read_only"), "{settings}");

    source.sql("INSERT INTO shop.t VALUES ()");
    // The configuration says otherwise, and loses.
    let mut replica =
        Server::serve(root, data.clone(), &[RELAY_LOG, "--super-read-only=OFF", "--server-id=1", "--gtid-mode=OFF", "--skip-replica-start"]).await;
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::KILL, rustix::process::Signal::TERM] {
        let first = replica.answers().await.observe_replica().await.unwrap();
        assert!(first.read_only, "from its first second: {first:?}");
        assert_eq!(replica.sql("SELECT @@event_scheduler"), "OFF", "events run on the source");
        let written = replica.client("INSERT INTO shop.t VALUES ()").output().unwrap();
        assert!(String::from_utf8_lossy(&written.stderr).contains("--super-read-only"), "{written:?}");
        let mark = source.session().await.write_mark().await.unwrap();
        let state = replica.replica("the mark does not arrive", |state| state.streaming && state.applied.reaches(&mark)).await;
        assert!(state.received.reaches(&mark) && state.trouble.is_none(), "{state:?}");
        assert!(source.facts().await.position.reaches(&state.applied), "nothing of its own: {state:?}");
        assert_eq!(replica.sql("SELECT COUNT(*) FROM shop.t"), source.sql("SELECT COUNT(*) FROM shop.t"));
        assert_ne!(replica.sql("SELECT @@server_uuid, @@server_id").split('\t').next().unwrap(), source.sql("SELECT @@server_uuid"));
        let connected = source.sql("SELECT PROCESSLIST_USER FROM performance_schema.threads WHERE PROCESSLIST_COMMAND LIKE 'Binlog Dump%'");
        assert_eq!((connected.as_str(), source.facts().await.connections, source.facts().await.other_replicas), (identity().role().as_str(), 1, 0));
        // Nobody's cache knows the password after a restart of the source.
        source.sql("FLUSH PRIVILEGES");
        replica.stop(signal);
        source.sql("INSERT INTO shop.t VALUES ()");
        assert!(shop.guard(&data), "{}", shop.message());
        replica.start();
    }
    replica.answers().await;
    let facts = replica.facts().await;
    let found: Vec<_> = MySql::preflight(&facts, &wanted()).iter().map(|finding| finding.reason).collect();
    assert_eq!(found, ["SourceIsReplica", "SourceReadOnly"], "a replica is told from a source");

    source.execute(&Step::Disconnect { user: identity().role() }).await.unwrap();
    source.execute(&Step::DropUser { user: identity().role() }).await.unwrap();
    replica.sql("STOP REPLICA; START REPLICA");
    let state = replica
        .replica("it is told that it can't log in", |state| !state.streaming && state.trouble.as_ref().is_some_and(|trouble| trouble.contains("Access denied")))
        .await;
    assert!(state.read_only, "{state:?}");
}

#[tokio::test]
async fn a_backup_becomes_a_replica_that_streams() {
    a_backup_becomes_a_replica(&WITHOUT_GTIDS, true).await;
}

#[tokio::test]
async fn a_source_without_encryption_has_a_replica_all_the_same() {
    a_backup_becomes_a_replica(&["--tls-version="], false).await;
}

#[tokio::test]
async fn what_is_written_to_a_replica_is_detected() {
    let source = Server::new(&[]).await;
    source.enable().await;
    let shop = Workshop::new();
    succeed(shop.backup(&source, "k3x9q2ab-1"));
    let (root, data) = shop.restored(&source, "k3x9q2ab-1");
    let replica = Server::serve(root, data, &[RELAY_LOG]).await;
    let mark = source.session().await.write_mark().await.unwrap();
    replica.replica("the mark does not arrive", |state| state.streaming && state.applied.reaches(&mark)).await;
    replica.sql("SET GLOBAL super_read_only = OFF");
    let state = replica.session().await.observe_replica().await.unwrap();
    assert!(!state.read_only, "writable is said");
    replica.sql("CREATE DATABASE strange; SET GLOBAL super_read_only = ON");
    let state = replica.session().await.observe_replica().await.unwrap();
    let position = source.facts().await.position;
    assert!(state.read_only && state.streaming && !position.reaches(&state.applied), "{state:?} {position:?}");

    // A conflict stops the applier, and is said in the server's words.
    source.sql("CREATE DATABASE strange");
    let state = replica.replica("the conflict is not seen", |state| !state.streaming).await;
    assert!(state.trouble.as_ref().is_some_and(|trouble| trouble.contains("strange")), "{state:?}");
    replica.sql("STOP REPLICA");
    let state = replica.session().await.observe_replica().await.unwrap();
    assert!(state.trouble.as_ref().is_some_and(|trouble| trouble.contains("START REPLICA")), "{state:?}");
    // What it still needs is gone.
    source.sql("CREATE DATABASE never_received");
    source.sql("FLUSH BINARY LOGS");
    let last = source.sql("SHOW BINARY LOGS").lines().last().unwrap().split('\t').next().unwrap().to_owned();
    source.sql(&format!("PURGE BINARY LOGS TO '{last}'"));
    let summary = MySql::summary(&source.facts().await);
    assert!(!state.received.reaches(&summary.oldest_for_replica) && summary.position.reaches(&summary.oldest_for_seed), "{state:?} {summary:?}");
}

#[tokio::test]
async fn a_backup_that_fails_says_why_and_leaves_nothing_that_counts() {
    let source = Server::new(&[]).await;
    let shop = Workshop::new();
    assert!(!shop.backup(&source, "k3x9q2ab-1").status().unwrap().success());
    assert!(shop.message().contains("understudy_k3x9q2ab"), "the user is not there: {}", shop.message());
    source.execute(&Step::CreateUser { user: identity().role() }).await.unwrap();
    assert!(!shop.backup(&source, "k3x9q2ab-1").status().unwrap().success());
    assert!(shop.message().to_lowercase().contains("clone"), "the plugin is not there: {}", shop.message());
    source.execute(&Step::InstallClone).await.unwrap();
    source.sql("CREATE DATABASE shop; CREATE TABLE shop.late (n INT) ENGINE = MyISAM");
    assert!(!shop.backup(&source, "k3x9q2ab-1").status().unwrap().success());
    assert!(shop.message().contains("shop.late (MyISAM)"), "{}", shop.message());
    fs::write(shop.path("credentials/password"), "wrong").unwrap();
    assert!(!shop.backup(&source, "k3x9q2ab-1").status().unwrap().success());
    assert!(shop.message().contains("Access denied") && !shop.message().contains("wrong"), "{}", shop.message());
    assert!(!shop.backed_up("k3x9q2ab-1").exists());
}

#[tokio::test]
async fn a_backup_that_was_changed_since_is_not_restored() {
    let source = Server::new(&[]).await;
    source.enable().await;
    let shop = Workshop::new();
    succeed(shop.backup(&source, "k3x9q2ab-1"));
    let file = shop.backed_up("k3x9q2ab-1/data/mysql.ibd");
    let mut bytes = fs::read(&file).unwrap();
    bytes[100_000] ^= 1;
    fs::write(&file, bytes).unwrap();
    let root = directory();
    let data = root.path().join("data");
    assert!(!shop.restore(&source, "k3x9q2ab-1", &data).status().unwrap().success());
    assert!(shop.message().contains("mysql.ibd is not what was verified"), "{}", shop.message());
    assert!(!shop.guard(&data));
}

#[tokio::test]
async fn a_backup_that_is_told_to_end_ends_its_server() {
    let source = Server::new(&[]).await;
    source.enable().await;
    let shop = Workshop::new();
    let scratch = shop.backed_up("k3x9q2ab-1.partial/scratch/ibdata1");
    let begun = Instant::now();
    let mut agent = shop.backup(&source, "k3x9q2ab-1").spawn().unwrap();
    while !scratch.exists() {
        assert!(begun.elapsed() < PATIENCE, "it never began");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    rustix::process::kill_process(rustix::process::Pid::from_child(&agent), rustix::process::Signal::TERM).unwrap();
    assert!(!agent.wait().unwrap().success());
    assert!(shop.message().contains("SIGTERM"), "{}", shop.message());
    succeed(shop.backup(&source, "k3x9q2ab-1"));
    assert!(shop.backed_up("k3x9q2ab-1/manifest.json").exists(), "and the next attempt starts over");
    assert!(!shop.backed_up("k3x9q2ab-1/scratch").exists());
}

#[tokio::test]
async fn a_source_with_a_layout_and_plugins_of_its_own_is_copied_all_the_same() {
    let layout = ["--lower-case-table-names=1", "--innodb-page-size=32K", "--innodb-data-file-path=ibdata1:20M:autoextend"];
    let root = directory();
    let (data, init) = (root.path().join("data"), root.path().join("init.sql"));
    let password = PASSWORD.replace('\\', "\\\\").replace('\'', "\\'");
    fs::write(&init, format!("ALTER USER 'root'@'localhost' IDENTIFIED BY '{password}';\n")).unwrap();
    give(&init);
    let mut make = mysqld();
    make.args(["--no-defaults", "--initialize-insecure"]).args(SMALL).args(layout).arg(format!("--datadir={}", inside(&data).display()));
    make.arg(format!("--init-file={}", inside(&init).display()));
    succeed(make);
    let source = Server::serve(root, data, &[&layout[..], &["--relay-log=relay"]].concat()).await;
    source.sql("INSTALL PLUGIN rewriter SONAME 'rewriter.so'; CREATE DATABASE Shop; CREATE TABLE Shop.T (n INT PRIMARY KEY); INSERT INTO Shop.T VALUES (1)");
    source.enable().await;
    let shop = Workshop::new();
    succeed(shop.backup(&source, "k3x9q2ab-1"));
    let (root, data) = shop.restored(&source, "k3x9q2ab-1");
    let replica = Server::serve(root, data, &[&layout[..], &["--relay-log=relay"]].concat()).await;
    let mark = source.session().await.write_mark().await.unwrap();
    replica.replica("the mark does not arrive", |state| state.read_only && state.streaming && state.applied.reaches(&mark)).await;
    assert_eq!(replica.sql("SELECT n FROM shop.t"), "1");
}

#[tokio::test]
async fn events_write_nothing_on_a_replica_in_the_moment_of_its_start() {
    // On the source it is still there.
    let source = Server::new(&["--event-scheduler=OFF"]).await;
    source.enable().await;
    source.sql("CREATE DATABASE shop; CREATE TABLE shop.ticks (at DATETIME(6)); CREATE EVENT shop.once ON SCHEDULE AT NOW() + INTERVAL 6 SECOND DO INSERT INTO shop.ticks VALUES (NOW(6)); CREATE EVENT shop.tick ON SCHEDULE EVERY 1 SECOND DO INSERT INTO shop.ticks VALUES (NOW(6))");
    let shop = Workshop::new();
    succeed(shop.backup(&source, "k3x9q2ab-1"));
    let (root, data) = shop.restored(&source, "k3x9q2ab-1");
    while source.sql("SELECT EXECUTE_AT < NOW() FROM information_schema.EVENTS WHERE EVENT_NAME = 'once'") == "0" {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut replica = Server::serve(root, data, &[RELAY_LOG, "--super-read-only=OFF", "--server-id=1", "--gtid-mode=OFF", "--skip-replica-start"]).await;
    for _ in 0..4 {
        let mark = source.session().await.write_mark().await.unwrap();
        let state = replica.replica("the mark does not arrive", |state| state.streaming && state.applied.reaches(&mark)).await;
        let logs = replica.sql("SHOW BINARY LOGS");
        let events = |log: &str| replica.sql(&format!("SHOW BINLOG EVENTS IN '{}'", log.split('\t').next().unwrap()));
        let said: Vec<String> = logs.lines().map(events).collect();
        assert!(source.facts().await.position.reaches(&state.applied), "{state:?}\n{}\n{}", said.join("\n"), replica.log());
        replica.stop(rustix::process::Signal::TERM);
        replica.start();
        replica.answers().await;
    }
    source.sql("DROP EVENT shop.once");
    let mark = source.session().await.write_mark().await.unwrap();
    replica.replica("the event's end stops the replica", |state| state.streaming && state.applied.reaches(&mark)).await;
}
