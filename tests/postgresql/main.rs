//! The PostgreSQL engine against real servers: every step, every fact, and the way from a backup to a streaming standby.
//!
//! The servers' programs are taken from `UNDERSTUDY_TEST_POSTGRESQL_BIN`, or else from the newest version under `/usr/lib/postgresql`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;
mod keep;
mod promote;
mod source;
mod standby;
mod swap;
mod target;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::Signal;
use tempfile::TempDir;
use understudy::engine::postgresql::PostgreSql;
use understudy::engine::{Endpoint, Position};

use common::{Agent, PASSWORD, Process, Serving, Workshop, free_port, succeed};

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

/// A server on a free port of the loopback interface; it ends with this value.
struct Server {
    process: Process,
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
        let process = Process::new(root.path().join("log"), Signal::QUIT);
        let options = ["fsync=off", "wal_keep_size=0"].iter().chain(options).map(|&option| option.to_owned()).collect();
        let mut server = Self { process, root, data, port: free_port(), options };
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
        self.process.start(postgres);
    }

    /// Executes SQL through the server's socket, past everything that is tested.
    fn sql(&self, sql: &str) -> String {
        self.sql_in("postgres", sql)
    }

    /// The same in another database.
    fn sql_in(&self, database: &str, sql: &str) -> String {
        let mut psql = command(bin("psql"));
        psql.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database, "-p", &self.port.to_string(), "-h"]);
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

    /// A backup volume and the agent beside servers.
    fn workshop() -> Workshop {
        let agent = Agent {
            engine: "PostgreSQL",
            database: "postgres",
            username: None,
            path: "/usr/bin:/bin".to_owned(),
            command: |program| command(program),
            give,
            inside: Path::to_path_buf,
        };
        Workshop::new(directory().0, agent, PASSWORD)
    }
}

impl Serving for Server {
    type Engine = PostgreSql;

    fn endpoint(&self) -> Endpoint {
        let (username, password) = ("postgres".to_owned(), PASSWORD.to_owned());
        Endpoint { host: "127.0.0.1".to_owned(), port: self.port, database: "postgres".to_owned(), username, password }
    }

    fn log(&self) -> String {
        self.process.log()
    }
}
