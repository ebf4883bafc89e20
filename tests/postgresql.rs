//! The PostgreSQL engine against real servers: every step, every fact, and the way from a backup to a streaming standby.
//!
//! The servers' programs are taken from `UNDERSTUDY_TEST_POSTGRESQL_BIN`, or else from the newest version under `/usr/lib/postgresql`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use understudy::api::Change;
use understudy::engine::postgresql::{PostgreSql, PostgreSqlSession, SourceFacts, Step, hba_line};
use understudy::engine::{Endpoint, Engine, Held, Identity, Position, Session, SessionError, WantedSource};

const PASSWORD: &str = r#"it's a "pass\word"#;
const HBA: &str = "local all all trust\nhost all all all scram-sha-256\n";

/// A position of this engine as a number.
fn bytes(position: &Position) -> u64 {
    let Position::Bytes(bytes) = position else { panic!("{position:?}") };
    *bytes
}

fn bin(program: &str) -> PathBuf {
    let directory = std::env::var_os("UNDERSTUDY_TEST_POSTGRESQL_BIN").map_or_else(
        || {
            let versions = fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL's server programs are needed: UNDERSTUDY_TEST_POSTGRESQL_BIN");
            let version = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
            versions.map(|entry| entry.unwrap().path()).max_by_key(version).unwrap().join("bin")
        },
        PathBuf::from,
    );
    directory.join(program)
}

/// The user that servers run as: a server refuses to run as root.
fn user() -> Option<(u32, u32)> {
    if !rustix::process::getuid().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let ids = users.lines().find_map(|line| {
        let fields: Vec<&str> = line.strip_prefix("postgres:")?.split(':').collect();
        Some((fields.get(1)?.parse().ok()?, fields.get(2)?.parse().ok()?))
    });
    Some(ids.unwrap_or((999, 999)))
}

/// A command as the user that servers run as.
fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir("/").env("LC_ALL", "C").stdin(Stdio::null());
    if let Some((uid, gid)) = user() {
        command.uid(uid).gid(gid);
    }
    command
}

fn succeed(mut command: Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn give(path: &Path) {
    if let Some((uid, gid)) = user() {
        chown(path, Some(uid), Some(gid)).unwrap();
    }
}

/// A directory that the servers' user owns, at a path that has to be quoted.
fn directory() -> (TempDir, PathBuf) {
    let root = tempfile::Builder::new().prefix("understudy-").tempdir_in("/tmp").unwrap();
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
    give(root.path());
    let inner = root.path().join("it's a directory");
    fs::create_dir(&inner).unwrap();
    give(&inner);
    (root, inner)
}

fn identity() -> Identity {
    Identity::parse("k3x9q2ab").unwrap()
}

fn wanted(replicas: &[u32]) -> WantedSource {
    WantedSource { identity: identity(), replicas: replicas.to_vec(), retention_limit: 512 << 20, prove_login: true, withhold_access: false }
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
    /// A new database with this pg_hba.conf.
    async fn new(hba: impl AsRef<[u8]>, options: &[&str]) -> Self {
        let (root, inner) = directory();
        let (data, secret) = (inner.join("data"), root.path().join("password"));
        fs::write(&secret, PASSWORD).unwrap();
        give(&secret);
        let mut initdb = command(bin("initdb"));
        initdb.arg("--pgdata").arg(&data).arg("--pwfile").arg(&secret);
        initdb.args(["--username=postgres", "--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-sync", "--wal-segsize=1"]);
        succeed(initdb);
        fs::write(data.join("pg_hba.conf"), hba).unwrap();
        // Not on the command line: where an image's own file says otherwise, every reload would say that a restart is pending.
        let mut settings = fs::OpenOptions::new().append(true).open(data.join("postgresql.conf")).unwrap();
        settings.write_all(b"listen_addresses = '127.0.0.1'\n").unwrap();
        Self::serve(root, data, options).await
    }

    /// A server on an existing directory.
    async fn serve(root: TempDir, data: PathBuf, options: &[&str]) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let options = ["fsync=off", "wal_keep_size=0"].iter().chain(options).map(|&option| option.to_owned()).collect();
        let mut server = Self { child: None, root, data, port, options };
        server.start();
        server.answers().await;
        server
    }

    fn start(&mut self) {
        let mut postgres = command(bin("postgres"));
        postgres.arg("-D").arg(&self.data).args(["-p", &self.port.to_string(), "-k"]).arg(self.root.path());
        for option in &self.options {
            postgres.args(["-c", option]);
        }
        let log = fs::OpenOptions::new().append(true).create(true).open(self.root.path().join("log")).unwrap();
        postgres.stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(postgres.spawn().unwrap());
    }

    /// Ends it: `INT` is fast, `QUIT` is at once.
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
        let (username, password) = ("postgres".to_owned(), PASSWORD.to_owned());
        Endpoint { host: "127.0.0.1".to_owned(), port: self.port, database: "postgres".to_owned(), username, password }
    }

    async fn answers(&self) -> PostgreSqlSession {
        let begun = Instant::now();
        loop {
            match PostgreSqlSession::connect(&self.endpoint()).await {
                Ok(session) => return session,
                Err(SessionError::Unreachable(_)) if begun.elapsed() < Duration::from_secs(30) => tokio::time::sleep(Duration::from_millis(50)).await,
                Err(error) => panic!("{error}; {}", self.log()),
            }
        }
    }

    async fn session(&self) -> PostgreSqlSession {
        PostgreSqlSession::connect(&self.endpoint()).await.unwrap()
    }

    async fn facts(&self) -> SourceFacts {
        self.session().await.observe_source(Some(&identity())).await.unwrap()
    }

    async fn execute(&self, step: &Step) -> Result<(), SessionError> {
        self.session().await.execute(step).await
    }

    /// Executes SQL through the server's socket, past everything that is tested.
    fn sql(&self, sql: &str) -> String {
        let mut psql = command(bin("psql"));
        psql.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "postgres", "-p", &self.port.to_string(), "-h"]);
        psql.arg(self.root.path()).args(["-c", sql]);
        String::from_utf8(succeed(psql).stdout).unwrap().trim().to_owned()
    }

    fn hba(&self) -> PathBuf {
        PathBuf::from(self.sql("SHOW hba_file"))
    }

    /// Everything that enabling may change.
    fn traces(&self) -> String {
        let hba = self.hba();
        let metadata = fs::metadata(&hba).unwrap();
        let names: Vec<_> =
            fs::read_dir(hba.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name()).filter(|name| name != "postmaster.pid").collect();
        let mut names: Vec<_> = names.iter().map(|name| name.to_string_lossy()).collect();
        names.sort();
        let rows = [
            "SELECT name, setting, source, sourcefile, pending_restart FROM pg_settings WHERE name <> 'application_name' ORDER BY 1",
            "SELECT * FROM pg_roles ORDER BY rolname",
            "SELECT slot_name FROM pg_replication_slots",
            "SELECT application_name FROM pg_stat_replication",
            "SELECT line_number, type, database, user_name, address, auth_method, error FROM pg_hba_file_rules",
            "SELECT pg_read_file('postgresql.auto.conf')",
        ];
        let rows = rows.map(|sql| self.sql(sql)).join("\n");
        format!("{rows}\n{:?} {:o} {} {} {}\n{names:?}", fs::read(&hba).unwrap(), metadata.mode(), metadata.ino(), metadata.uid(), metadata.gid())
    }

    /// From what is to replication set up, every step twice; gives what was recorded.
    async fn enable(&self, wanted: &WantedSource) -> Vec<Change> {
        let facts = self.facts().await;
        assert_eq!(PostgreSql::preflight(&facts, wanted), vec![]);
        let steps = PostgreSql::plan_enable(&facts, wanted);
        for step in &steps {
            self.execute(step).await.unwrap_or_else(|error| panic!("{error}\n{}", self.log()));
            self.execute(step).await.unwrap();
        }
        let left = PostgreSql::plan_enable(&self.facts().await, &WantedSource { prove_login: false, ..wanted.clone() });
        assert_eq!(left, vec![], "enabled is enabled");
        steps.iter().filter_map(|step| PostgreSql::record(&facts, step)).collect()
    }

    async fn disable(&self, recorded: &[Change]) {
        for step in PostgreSql::plan_disable(&self.facts().await, &identity(), recorded) {
            self.execute(&step).await.unwrap_or_else(|error| panic!("{error}\n{}", self.log()));
            self.execute(&step).await.unwrap();
        }
        assert_eq!(PostgreSql::plan_disable(&self.facts().await, &identity(), recorded), vec![], "disabled is disabled");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop(rustix::process::Signal::QUIT);
    }
}

#[tokio::test]
async fn enabling_and_disabling_leaves_no_trace() {
    let latin = b"# caf\xe9\nlocal all all trust\nhost all all all scram-sha-256".as_slice();
    for hba in [HBA.as_bytes(), HBA.trim_end().as_bytes(), latin] {
        let server = Server::new(hba, &[]).await;
        let before = server.traces();
        let recorded = server.enable(&wanted(&[1, 2])).await;
        assert_ne!(server.traces(), before);
        let facts = server.facts().await;
        assert_eq!(facts.slots.iter().map(|slot| slot.number).collect::<Vec<_>>(), [1, 2]);
        assert_eq!((facts.slot_wal_keep_mb, facts.slot_wal_keep_auto_conf.as_deref()), (512, Some("512MB")));
        server.disable(&recorded).await;
        assert_eq!(server.traces(), before);
    }
}

#[tokio::test]
async fn a_setting_that_stood_there_before_stands_there_again() {
    let server = Server::new(HBA, &[]).await;
    server.sql("ALTER SYSTEM SET max_slot_wal_keep_size = '-1'");
    server.sql("SELECT pg_reload_conf()");
    let before = server.traces();
    let recorded = server.enable(&wanted(&[1])).await;
    assert!(recorded.iter().any(|change| change.before.as_deref() == Some("-1")), "{recorded:?}");
    server.disable(&recorded).await;
    assert_eq!(server.traces(), before);
    let other = Step::RestoreSetting { name: "work_mem".to_owned(), before: None };
    assert!(matches!(server.execute(&other).await, Err(SessionError::Failed { .. })), "only what is ours is put back");
}

#[tokio::test]
async fn what_streams_is_sent_away_before_slot_and_role_go() {
    let server = Server::new(HBA, &[]).await;
    let before = server.traces();
    let recorded = server.enable(&wanted(&[1])).await;
    server.session().await.give_access(&identity(), "secret").await.unwrap();
    let mut receiver = command(bin("pg_receivewal"));
    receiver.arg("-D").arg(server.data.parent().unwrap()).args(["--slot", &identity().slot(1), "-h", "127.0.0.1", "-U", &identity().role()]);
    receiver.args(["-p", &server.port.to_string()]).env("PGPASSWORD", "secret").stderr(Stdio::null());
    let mut receiver = receiver.spawn().unwrap();
    let begun = Instant::now();
    while !server.facts().await.slots.iter().any(|slot| slot.active) {
        assert!(begun.elapsed() < Duration::from_secs(20), "it never streamed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(server.facts().await.connections, 1);
    server.disable(&recorded).await;
    receiver.kill().unwrap();
    receiver.wait().unwrap();
    assert_eq!(server.traces(), before);
}

#[tokio::test]
async fn facts_are_those_of_the_server() {
    let server = Server::new(HBA, &[]).await;
    let facts = server.facts().await;
    assert_eq!(facts.version_num, server.sql("SHOW server_version_num").parse::<u32>().unwrap());
    assert_eq!(facts.version, server.sql("SHOW server_version"));
    assert_eq!((facts.superuser, facts.user.as_str(), facts.in_recovery, facts.wal_level.as_str()), (true, "postgres", false, "replica"));
    assert_eq!((facts.wal_senders, facts.replication_slots), ((10, 0), (10, 0)));
    assert_eq!((facts.slot_wal_keep_mb, facts.slot_wal_keep_source.as_str(), facts.slot_wal_keep_auto_conf.clone()), (-1, "default", None));
    assert_eq!(server.session().await.measure().await.unwrap().to_string(), server.sql("SELECT sum(pg_database_size(oid)) FROM pg_database"));
    assert_eq!((Path::new(&facts.data_directory), PathBuf::from(&facts.hba_file)), (server.data.as_path(), server.hba()));
    assert_eq!(facts.owner, fs::metadata(&server.data).map(|data| (data.uid(), data.gid())).unwrap());
    assert!(facts.hba_writable && !facts.hba_line_present && facts.outside.is_empty(), "{facts:?}");
    let rule = facts.hba_rules.last().unwrap();
    assert_eq!(
        (rule.kind.as_str(), rule.databases.join(","), rule.users.join(","), rule.method.as_str()),
        ("host", "all".into(), "all".into(), "scram-sha-256")
    );
    assert!(facts.oldest_wal <= facts.position && bytes(&facts.oldest_wal) + (8 << 20) > bytes(&facts.position), "{facts:?}");
    let position = PostgreSql::parse_position(&server.sql("SELECT pg_current_wal_insert_lsn()")).unwrap();
    assert_eq!(facts.position, position);
    assert!(!server.log().contains("ERROR"), "looking leaves no errors in the server's log: {}", server.log());
}

#[tokio::test]
async fn an_idle_source_is_only_read() {
    let server = Server::new(HBA, &["log_statement=all"]).await;
    server.enable(&wanted(&[1])).await;
    let (log, position) = (server.log().len(), server.sql("SELECT pg_current_wal_insert_lsn()"));
    server.facts().await;
    let statements = server.log().split_off(log);
    assert!(!statements.contains("PROGRAM"), "nothing is run on the source's machine: {statements}");
    assert!(statements.matches("LOG:  statement:").count() <= 4, "few round trips: {statements}");
    assert_eq!(server.sql("SELECT pg_current_wal_insert_lsn()"), position);
}

#[tokio::test]
async fn an_ordinary_user_gives_facts_and_no_error() {
    let server = Server::new(HBA, &[]).await;
    server.enable(&wanted(&[1])).await;
    server.sql("CREATE ROLE shop LOGIN PASSWORD 'secret'");
    let endpoint = Endpoint { username: "shop".to_owned(), password: "secret".to_owned(), ..server.endpoint() };
    let mut session = PostgreSqlSession::connect(&endpoint).await.unwrap();
    let facts = session.observe_source(Some(&identity())).await.unwrap();
    assert_eq!((facts.superuser, facts.user.as_str()), (false, "shop"));
    assert!(facts.role_exists && facts.hba_rules.is_empty());
    assert!(PostgreSql::preflight(&facts, &wanted(&[1])).iter().any(|finding| finding.reason == "NotSuperuser"));
    assert!(matches!(session.execute(&Step::DropSlot { slot: identity().slot(1) }).await, Err(SessionError::Failed { .. })));
}

#[tokio::test]
async fn a_login_that_will_not_do_is_told_from_a_server_that_is_not_there() {
    let mut server = Server::new(HBA, &[]).await;
    let try_with = |change: fn(&mut Endpoint)| {
        let mut endpoint = server.endpoint();
        change(&mut endpoint);
        async move { PostgreSqlSession::connect(&endpoint).await.map(drop).unwrap_err() }
    };
    let wrong = try_with(|endpoint| endpoint.password = "wrong".to_owned()).await;
    assert_eq!(wrong, SessionError::Refused("password authentication failed for user \"postgres\"".to_owned()));
    assert!(matches!(try_with(|endpoint| endpoint.database = "none".to_owned()).await, SessionError::Refused(message) if message.contains("none")));
    assert!(matches!(try_with(|endpoint| endpoint.username = "nobody".to_owned()).await, SessionError::Refused(_)));
    let mut session = server.session().await;
    let endpoint = server.endpoint();
    server.stop(rustix::process::Signal::INT);
    let gone = PostgreSqlSession::connect(&endpoint).await.map(drop).unwrap_err();
    assert!(matches!(&gone, SessionError::Unreachable(message) if message.contains(&format!("127.0.0.1:{}", server.port))), "{gone}");
    assert!(matches!(session.observe_source(None).await, Err(SessionError::Unreachable(_))), "a connection that broke");
    // An address that swallows everything.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let begun = Instant::now();
    let endpoint = Endpoint { port: silent.local_addr().unwrap().port(), ..endpoint };
    assert!(matches!(PostgreSqlSession::connect(&endpoint).await, Err(SessionError::Unreachable(_))));
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn an_earlier_rule_that_rejects_is_found_by_the_login() {
    let server = Server::new(format!("host replication all all reject\n{HBA}"), &[]).await;
    let role = identity().role();
    server.execute(&Step::CreateRole { role: role.clone() }).await.unwrap();
    server.execute(&Step::AddHbaLine { line: hba_line(&identity()) }).await.unwrap();
    let refused = server.execute(&Step::ProveLogin { role: role.clone() }).await.unwrap_err().to_string();
    assert!(refused.contains("pg_hba.conf rejects replication connection"), "{refused}");
    // One that asks for the password in the clear would let a replica in.
    fs::write(server.hba(), format!("host replication all all password\n{HBA}")).unwrap();
    server.sql("SELECT pg_reload_conf()");
    server.execute(&Step::ProveLogin { role: role.clone() }).await.unwrap();
    // And without any line there is no way in.
    fs::write(server.hba(), HBA).unwrap();
    server.sql("SELECT pg_reload_conf()");
    let refused = server.execute(&Step::ProveLogin { role }).await.unwrap_err().to_string();
    assert!(refused.contains("no pg_hba.conf entry for replication connection"), "{refused}");
}

#[tokio::test]
async fn a_file_that_cannot_be_written_is_a_finding_and_stays_as_it_is() {
    if user().is_none() {
        eprintln!("not root: the server owns all files, and this can't be tried");
        return;
    }
    let server = Server::new(HBA, &[]).await;
    let hba = server.hba();
    chown(&hba, Some(0), Some(0)).unwrap();
    fs::set_permissions(&hba, fs::Permissions::from_mode(0o444)).unwrap();
    let facts = server.facts().await;
    assert!(!facts.hba_writable);
    assert!(!server.log().contains("ERROR"), "a no is not an error in the server's log: {}", server.log());
    assert_eq!(PostgreSql::preflight(&facts, &wanted(&[1])).iter().map(|finding| finding.reason).collect::<Vec<_>>(), ["HbaNotWritable"]);
    let failed = server.execute(&Step::AddHbaLine { line: hba_line(&identity()) }).await.unwrap_err();
    assert!(matches!(failed, SessionError::Failed { .. }), "{failed}");
    assert_eq!(fs::read_to_string(&hba).unwrap(), HBA);
}

#[tokio::test]
async fn a_file_with_errors_is_not_touched() {
    let server = Server::new(HBA, &[]).await;
    let broken = format!("{HBA}host all nonsense\n");
    fs::write(server.hba(), &broken).unwrap();
    let failed = server.execute(&Step::AddHbaLine { line: hba_line(&identity()) }).await.unwrap_err().to_string();
    assert!(failed.contains("line 3"), "{failed}");
    assert_eq!(fs::read_to_string(server.hba()).unwrap(), broken);
    assert!(PostgreSql::preflight(&server.facts().await, &wanted(&[1])).iter().any(|finding| finding.reason == "HbaFileBroken"));
    // A line of ours that the server does not take is taken out again.
    fs::write(server.hba(), HBA).unwrap();
    server.execute(&Step::AddHbaLine { line: "host replication someone all nonsense # ours".to_owned() }).await.unwrap_err();
    assert_eq!(fs::read_to_string(server.hba()).unwrap(), HBA);
}

#[tokio::test]
async fn data_outside_the_directory_is_found() {
    let mut server = Server::new(HBA, &[]).await;
    let elsewhere = server.root.path().join("tablespace");
    fs::create_dir(&elsewhere).unwrap();
    give(&elsewhere);
    server.sql(&format!("CREATE TABLESPACE fast LOCATION '{}'", elsewhere.display()));
    server.stop(rustix::process::Signal::INT);
    let (log, moved) = (server.data.join("pg_wal"), server.root.path().join("wal"));
    fs::rename(&log, &moved).unwrap();
    std::os::unix::fs::symlink(&moved, &log).unwrap();
    server.start();
    server.answers().await;
    let facts = server.facts().await;
    assert_eq!(facts.outside, [elsewhere.to_str().unwrap(), "pg_wal (a link)"]);
}

#[tokio::test]
async fn a_slot_whose_log_is_gone_is_reported() {
    let server = Server::new(HBA, &["max_wal_size=2MB", "min_wal_size=2MB"]).await;
    server.execute(&Step::LimitSlotWal { megabytes: 2 }).await.unwrap();
    server.execute(&Step::CreateSlot { slot: identity().slot(3) }).await.unwrap();
    let held = async || PostgreSql::summary(&server.facts().await).held;
    assert_eq!(held().await, [(3, Held::Kept)]);
    let oldest = server.facts().await.oldest_wal;
    server.sql("CREATE TABLE t AS SELECT repeat('x', 100) FROM generate_series(1, 100000)");
    server.sql("CHECKPOINT");
    server.sql("CHECKPOINT");
    assert_eq!(held().await, [(3, Held::Lost)]);
    assert!(server.facts().await.oldest_wal > oldest);
    server.execute(&Step::DropSlot { slot: identity().slot(3) }).await.unwrap();
    assert_eq!(held().await, []);
}

#[tokio::test]
async fn encryption_is_used_where_the_server_has_it() {
    let mut server = Server::new(HBA, &[]).await;
    let (key, certificate) = (server.data.join("server.key"), server.data.join("server.crt"));
    let mut openssl = command("openssl");
    openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=nobody", "-keyout"]).arg(&key).arg("-out").arg(&certificate);
    match openssl.output() {
        Ok(made) if made.status.success() => {}
        _ => return eprintln!("openssl is not here: not tried"),
    }
    server.stop(rustix::process::Signal::INT);
    server.options.push("ssl=on".to_owned());
    fs::write(server.data.join("pg_hba.conf"), "local all all trust\nhostssl all all all scram-sha-256\n").unwrap();
    server.start();
    server.answers().await;
    let role = identity().role();
    server.execute(&Step::CreateRole { role: role.clone() }).await.unwrap();
    let line = hba_line(&identity());
    server.execute(&Step::AddHbaLine { line }).await.unwrap();
    fs::write(server.hba(), fs::read_to_string(server.hba()).unwrap().replace("host replication", "hostssl replication")).unwrap();
    server.sql("SELECT pg_reload_conf()");
    server.execute(&Step::ProveLogin { role }).await.unwrap();
}

#[tokio::test]
async fn functions_that_users_made_are_not_called() {
    let server = Server::new(HBA, &[]).await;
    // A better match than the server's own, which takes arrays of any kind.
    server.sql("CREATE FUNCTION public.array_to_string(text[], text) RETURNS text LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'called'; END$$");
    let recorded = server.enable(&wanted(&[1])).await;
    server.disable(&recorded).await;
}

#[tokio::test]
async fn no_secret_reaches_the_servers_log() {
    let server = Server::new(HBA, &["log_statement=all", "log_min_duration_statement=0"]).await;
    server.enable(&wanted(&[1])).await;
    server.session().await.give_access(&identity(), "a password of ours").await.unwrap();
    let log = server.log();
    assert!(log.contains("SCRAM-SHA-256$") && !log.contains("a password of ours") && !log.contains(PASSWORD));
}

/// The program, copied by itself to where the servers' user can run it.
fn install(root: &Path) -> PathBuf {
    let tools = root.join("tools");
    fs::create_dir(&tools).unwrap();
    let mut install = Command::new(env!("CARGO_BIN_EXE_understudy"));
    install.args(["agent", "install"]).arg(&tools);
    succeed(install);
    let program = tools.join("understudy");
    assert_eq!(fs::metadata(&program).unwrap().permissions().mode() & 0o777, 0o755);
    program
}

/// A backup volume, credentials and an agent beside a server.
struct Workshop {
    root: TempDir,
    program: PathBuf,
}

impl Workshop {
    fn new() -> Self {
        let (root, volume) = directory();
        fs::rename(&volume, root.path().join("backup")).unwrap();
        let program = install(root.path());
        let credentials = root.path().join("credentials");
        fs::create_dir(&credentials).unwrap();
        fs::write(credentials.join("password"), PASSWORD).unwrap();
        Self { root, program }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn message(&self) -> String {
        fs::read_to_string(self.path("message")).unwrap()
    }

    fn agent(&self, words: &[&str]) -> Command {
        fs::write(self.path("message"), "").unwrap();
        give(&self.path("message"));
        let mut agent = command(&self.program);
        agent.arg("agent").args(words).args(["--engine", "PostgreSQL", "--termination-message"]).arg(self.path("message"));
        // As in the Jobs: no home, nothing but the image's path.
        agent.env_clear().env("PATH", "/usr/bin:/bin");
        agent
    }

    fn backup(&self, server: &Server, directory: &str) -> Command {
        let mut agent = self.agent(&["backup", "--host", "127.0.0.1", "--database", "postgres", "--identity", identity().word()]);
        agent.args(["--port", &server.port.to_string(), "--directory", directory, "--volume"]).arg(self.path("backup"));
        agent.arg("--credentials").arg(self.path("credentials"));
        agent
    }

    fn restore(&self, server: &Server, directory: &str, data: &Path) -> Command {
        let mut agent = self.agent(&["restore", "--identity", identity().word(), "--directory", directory, "--replica", "1", "--name", "orders-replica-1"]);
        agent.args(["--primary-host", "127.0.0.1", "--primary-port", &server.port.to_string(), "--volume"]).arg(self.path("backup"));
        agent.arg("--data-directory").arg(data);
        agent
    }

    fn guard(&self, data: &Path) -> bool {
        let mut agent = self.agent(&["guard"]);
        agent.arg("--data-directory").arg(data).status().unwrap().success()
    }
}

#[tokio::test]
async fn a_backup_becomes_a_standby_that_streams() {
    let source = Server::new(HBA, &[]).await;
    source.enable(&wanted(&[1])).await;
    source.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS n");
    let shop = Workshop::new();

    succeed(shop.backup(&source, "k3x9q2ab-1"));
    let manifest: serde_json::Value = serde_json::from_str(&shop.message()).unwrap();
    let position = PostgreSql::parse_position(manifest["position"].as_str().unwrap()).unwrap();
    assert!(position <= source.facts().await.position && manifest["bytes"].as_u64().unwrap() > 10 << 20, "{manifest}");
    succeed(shop.backup(&source, "k3x9q2ab-1"));
    assert_eq!(serde_json::from_str::<serde_json::Value>(&shop.message()).unwrap(), manifest, "one that is finished is reported again");
    let backup = shop.path("backup/k3x9q2ab-1");
    assert!(!backup.join("pgpass").exists() && !shop.path("backup/k3x9q2ab-1.partial").exists());

    let (root, inner) = directory();
    let data = inner.join("data");
    fs::create_dir(&data).unwrap();
    give(&data);
    assert!(!shop.guard(&data), "an empty volume");
    assert!(shop.message().contains("writable database"), "{}", shop.message());
    succeed(shop.restore(&source, "k3x9q2ab-1", &data));
    assert!(shop.guard(&data), "{}", shop.message());
    succeed(shop.restore(&source, "k3x9q2ab-1", &data));
    // What mounting a volume with an fsGroup does to the files.
    for name in ["", "understudy.pgpass"] {
        fs::set_permissions(data.join(name), fs::Permissions::from_mode(if name.is_empty() { 0o2770 } else { 0o660 })).unwrap();
    }
    assert!(shop.guard(&data), "{}", shop.message());

    let mut replica = Server::serve(root, data.clone(), &[]).await;
    for round in 0..2 {
        let mark = source.session().await.write_mark().await.unwrap();
        let begun = Instant::now();
        let state = loop {
            let state = replica.session().await.observe_replica().await.unwrap();
            if state.streaming && state.applied.reaches(&mark) {
                break state;
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "{state:?}\n{}", replica.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        assert!(state.read_only && state.received >= mark && state.trouble.is_none(), "{state:?}");
        assert_eq!(replica.sql("SELECT count(*) FROM t"), "1000");
        assert!(source.facts().await.slots[0].active);
        assert_eq!(source.sql("SELECT application_name FROM pg_stat_replication"), "orders-replica-1");
        // Read-only from its first second after a restart, too.
        if round == 0 {
            replica.stop(rustix::process::Signal::QUIT);
            assert!(shop.guard(&data), "{}", shop.message());
            replica.start();
            replica.answers().await;
        }
    }
    replica.sql("SELECT pg_wal_replay_pause()");
    let state = replica.session().await.observe_replica().await.unwrap();
    assert!(state.trouble.is_some_and(|trouble| trouble.contains("paused")));
    let facts = replica.session().await.observe_source(None).await.unwrap();
    assert!(facts.in_recovery, "a standby is told from a source");
    let mark = replica.session().await.write_mark().await;
    assert!(matches!(mark, Err(SessionError::Failed { .. })), "{mark:?}");

    // A newer backup takes the place of the older one.
    succeed(shop.backup(&source, "k3x9q2ab-2"));
    assert!(!backup.exists() && shop.path("backup/k3x9q2ab-2/manifest.json").exists());
    assert!(!shop.restore(&source, "k3x9q2ab-2", &data).status().unwrap().success(), "a replica in use is not overwritten");
    assert!(shop.message().contains("nothing was touched"), "{}", shop.message());
}

#[tokio::test]
async fn a_backup_that_fails_says_why_and_leaves_nothing_that_counts() {
    let source = Server::new(HBA, &[]).await;
    let shop = Workshop::new();
    assert!(!shop.backup(&source, "k3x9q2ab-1").status().unwrap().success());
    assert!(shop.message().contains("does not exist"), "the role is not there: {}", shop.message());
    source.execute(&Step::CreateRole { role: identity().role() }).await.unwrap();
    assert!(!shop.backup(&source, "k3x9q2ab-1").status().unwrap().success());
    assert!(shop.message().contains("no pg_hba.conf entry"), "{}", shop.message());
    fs::write(shop.path("credentials/password"), "wrong").unwrap();
    assert!(!shop.backup(&source, "k3x9q2ab-1").status().unwrap().success());
    assert!(shop.message().contains("password authentication failed") && !shop.message().contains("wrong"), "{}", shop.message());
    assert!(!shop.path("backup/k3x9q2ab-1").exists());
    let (_root, data) = directory();
    assert!(!shop.guard(&data));
}

#[tokio::test]
async fn a_backup_that_is_told_to_end_ends_its_tool() {
    let source = Server::new(HBA, &[]).await;
    source.enable(&wanted(&[1])).await;
    let shop = Workshop::new();
    let password = shop.path("backup/replication-password-k3x9q2ab");
    let begun = Instant::now();
    let mut agent = shop.backup(&source, "k3x9q2ab-1").spawn().unwrap();
    while !password.exists() {
        assert!(begun.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    rustix::process::kill_process(rustix::process::Pid::from_child(&agent), rustix::process::Signal::TERM).unwrap();
    assert!(!agent.wait().unwrap().success());
    assert!(shop.message().contains("SIGTERM"), "{}", shop.message());
    assert!(!shop.path("backup/k3x9q2ab-1").exists());
    succeed(shop.backup(&source, "k3x9q2ab-1"));
    assert!(shop.path("backup/k3x9q2ab-1/manifest.json").exists(), "and the next attempt starts over");
}

#[tokio::test]
async fn what_stands_in_a_file_and_was_not_loaded_is_loaded_by_the_next_step() {
    let server = Server::new(HBA, &[]).await;
    let mut session = server.session().await;
    let identity = identity();
    // Killed after the line was written, before the reload: the login proves it all the same.
    session.execute(&Step::CreateRole { role: identity.role() }).await.unwrap();
    let path = server.data.join("pg_hba.conf");
    fs::write(&path, format!("{HBA}{}\n", hba_line(&identity))).unwrap();
    session.execute(&Step::ProveLogin { role: identity.role() }).await.unwrap();

    // Killed after the setting was put back, before the reload: it is seen, and put back again.
    session.execute(&Step::LimitSlotWal { megabytes: 512 }).await.unwrap();
    fs::write(server.data.join("postgresql.auto.conf"), "").unwrap();
    let facts = server.session().await.observe_source(Some(&identity)).await.unwrap();
    let recorded = [Change { what: "setting max_slot_wal_keep_size".into(), before: None, after: "512MB".into() }];
    let steps = PostgreSql::plan_disable(&facts, &identity, &recorded);
    assert!(matches!(steps.last(), Some(Step::RestoreSetting { .. })), "{steps:?}");
    for step in &steps {
        session.execute(step).await.unwrap();
    }
    let facts = server.session().await.observe_source(Some(&identity)).await.unwrap();
    assert_eq!(facts.slot_wal_keep_mb, -1);
    assert_eq!(PostgreSql::plan_disable(&facts, &identity, &recorded), vec![]);
}
