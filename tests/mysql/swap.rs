//! A server with data of its own becomes the replica: on its own volume, and back.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use understudy::api::Change;
use understudy::engine::Session;
use understudy::engine::mysql::MySqlSession;

use crate::support::{PATIENCE, RELAY_LOG, SMALL, Server, Workshop, identity, inside, mysqld, succeed};

/// A source with a backup, and a target with rows of its own on whose volume the backup is staged. The target's data directory is the mount point, or lies below.
pub struct Pair {
    pub source: Server,
    pub target: Server,
    pub shop: Workshop,
    pub mount: PathBuf,
    /// What enabling has changed on the source.
    pub recorded: Vec<Change>,
}

impl Pair {
    async fn new(at_mount: bool) -> Self {
        Self::of(Server::new(&[]).await, at_mount).await
    }

    pub async fn of(source: Server, at_mount: bool) -> Self {
        let recorded = source.enable().await;
        source.sql("CREATE DATABASE shop; CREATE TABLE shop.t (n INT AUTO_INCREMENT PRIMARY KEY); INSERT INTO shop.t VALUES (), (), ()");
        let target = Server::new(&[RELAY_LOG]).await;
        target.sql("CREATE DATABASE mine; CREATE TABLE mine.rows_ (n INT AUTO_INCREMENT PRIMARY KEY); INSERT INTO mine.rows_ VALUES (), ()");
        let mount = if at_mount { target.data.clone() } else { target.root.path().to_owned() };
        let shop = Workshop::new();
        succeed(shop.backup(&source, "k3x9q2ab-1"));
        let pair = Self { source, target, shop, mount, recorded };
        pair.stage();
        pair.stage();
        pair
    }

    fn ours(&self) -> PathBuf {
        self.mount.join(".understudy-k3x9q2ab")
    }

    fn stage(&self) {
        let mut restore = self.shop.restore(&self.source, "k3x9q2ab-1", &self.ours().join("staged"));
        restore.arg("--final-directory").arg(inside(&self.target.data));
        succeed(restore);
    }

    pub fn swap(&self, to: &str) {
        assert!(self.shop.swap(&self.mount, &self.target.data, to, None), "{to}: {}", self.shop.message());
    }

    pub async fn restart(&mut self) {
        self.target.start();
        self.target.answers().await;
    }

    /// The target is a replica of the source, and takes no writes.
    pub async fn replicates(&self) {
        let mark = self.source.session().await.write_mark().await.unwrap();
        let state = self.target.replica("the mark does not arrive", |state| state.streaming && state.applied.reaches(&mark)).await;
        assert!(state.read_only && state.trouble.is_none(), "{state:?}");
        assert_eq!(self.target.sql("SELECT COUNT(*) FROM shop.t"), "3");
        assert_eq!(self.databases(), "shop");
    }

    /// The target has the rows that it had, and takes more.
    fn is_itself(&self, rows: u32) {
        assert_eq!(self.target.sql("SELECT @@GLOBAL.super_read_only, COUNT(*), MAX(n) FROM mine.rows_"), format!("0\t{rows}\t{rows}"));
        assert_eq!(self.databases(), "mine");
        self.target.sql("INSERT INTO mine.rows_ VALUES ()");
    }

    fn databases(&self) -> String {
        self.target.sql("SELECT GROUP_CONCAT(SCHEMA_NAME) FROM information_schema.SCHEMATA WHERE SCHEMA_NAME NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema')")
    }
}

async fn there_and_back(at_mount: bool) {
    let mut pair = Pair::new(at_mount).await;
    // It serves with all that on its volume, through restarts and a crash: InnoDB looks for files of tables in every directory below its own that is not hidden.
    pair.is_itself(2);
    for signal in [Signal::TERM, Signal::KILL] {
        pair.target.stop(signal);
        pair.restart().await;
    }
    pair.is_itself(3);
    pair.target.stop(Signal::TERM);
    pair.swap("staged");
    pair.restart().await;
    pair.replicates().await;
    for signal in [Signal::KILL, Signal::TERM] {
        pair.target.stop(signal);
        let looks = || fs::metadata(&pair.target.data).map(|found| (found.ino(), found.mtime_nsec(), found.ctime_nsec())).unwrap();
        let before = looks();
        pair.swap("staged");
        assert_eq!(looks(), before, "nothing was touched");
        pair.restart().await;
        pair.replicates().await;
    }
    pair.target.stop(Signal::TERM);
    pair.swap("previous");
    pair.restart().await;
    pair.is_itself(4);
    pair.target.stop(Signal::TERM);
    pair.swap("staged");
    pair.restart().await;
    pair.replicates().await;
    // Proven.
    let mut discard = pair.shop.bare(&["discard", "--identity", identity().word()]);
    discard.arg("--mount").arg(inside(&pair.mount));
    succeed(discard);
    assert!(!pair.ours().exists());
    pair.replicates().await;
    pair.target.stop(Signal::TERM);
    assert!(!pair.shop.swap(&pair.mount, &pair.target.data, "previous", None));
    pair.swap("staged");
    pair.restart().await;
    pair.replicates().await;
}

#[tokio::test]
async fn a_target_below_its_mount_point_becomes_a_replica_and_itself_again() {
    there_and_back(false).await;
}

#[tokio::test]
async fn a_target_at_its_mount_point_becomes_a_replica_and_itself_again() {
    there_and_back(true).await;
}

/// What the image's entrypoint does with the data directory, and then the server: true if it serves.
async fn entrypoint(pair: &mut Pair, persisted: bool) -> bool {
    if !pair.target.data.join("mysql").is_dir() {
        let mut initialize = mysqld();
        initialize.args(["--no-defaults", "--initialize-insecure"]).args(SMALL).arg(format!("--datadir={}", inside(&pair.target.data).display()));
        let made = initialize.output().unwrap();
        assert!(!made.status.success(), "a new database");
        let said = String::from_utf8_lossy(&made.stderr).into_owned();
        assert!(["data directory has files in it", "Persisted config file is corrupt"].iter().any(|why| said.contains(why)), "{said}");
        return false;
    }
    pair.target.start();
    let begun = Instant::now();
    let served = loop {
        if MySqlSession::connect(&pair.target.endpoint()).await.is_ok() {
            break true;
        }
        if pair.target.child.as_mut().unwrap().try_wait().unwrap().is_some() {
            break false;
        }
        assert!(begun.elapsed() < PATIENCE, "{}", pair.target.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let log = pair.target.log();
    let last = log.rsplit("Server - start").next().unwrap();
    assert!(served || !persisted || last.contains("Persisted config file is corrupt"), "it gave up later than it could: {log}");
    served
}

/// Every change up to the first that is not done, in steps: `--to` this, and the server started in between.
async fn killed(pair: &mut Pair, to: &str, step: usize, rows: &mut u32) -> [u32; 3] {
    let mut met = [0; 3];
    let persisted = !pair.target.options.iter().any(|option| option.starts_with("--persisted"));
    let mut changes = 0;
    loop {
        let done = pair.shop.swap(&pair.mount, &pair.target.data, to, Some(changes));
        assert!(done || pair.shop.message().contains("ended in the middle"), "{}", pair.shop.message());
        if entrypoint(pair, persisted).await {
            if pair.databases() == "shop" {
                if persisted {
                    pair.replicates().await;
                }
                met[1] += 1;
                // Each of its starts makes more files, and all of them have to be moved the next time.
                changes += 10;
            } else {
                pair.is_itself(*rows);
                *rows += 1;
                met[0] += 1;
            }
            pair.target.stop(Signal::TERM);
        } else {
            pair.target.stop(Signal::KILL);
            met[2] += 1;
        }
        pair.swap(to);
        if done {
            break;
        }
        pair.swap(if to == "staged" { "previous" } else { "staged" });
        changes += step;
    }
    eprintln!("{to}: itself {}, a replica {}, refused {}", met[0], met[1], met[2]);
    met
}

/// How often the server was itself, a replica, and nothing.
fn at_least(met: [u32; 3], least: [u32; 3]) {
    assert!(met.iter().zip(least).all(|(met, least)| *met >= least), "{met:?}");
}

#[tokio::test]
async fn killed_anywhere_below_its_mount_point_a_target_is_one_of_two_databases() {
    let mut pair = Pair::new(false).await;
    pair.target.stop(Signal::TERM);
    let mut rows = 2;
    at_least(killed(&mut pair, "staged", 1, &mut rows).await, [2, 2, 0]);
    at_least(killed(&mut pair, "previous", 1, &mut rows).await, [1, 1, 0]);
    pair.restart().await;
    pair.is_itself(rows);
}

#[tokio::test]
async fn killed_anywhere_at_its_mount_point_a_target_is_one_of_two_databases_or_does_not_start() {
    let mut pair = Pair::new(true).await;
    pair.target.stop(Signal::TERM);
    let mut rows = 2;
    at_least(killed(&mut pair, "staged", 1, &mut rows).await, [2, 1, 20]);
    pair.restart().await;
    pair.replicates().await;
    pair.target.stop(Signal::TERM);
    at_least(killed(&mut pair, "previous", 3, &mut rows).await, [1, 1, 8]);
    pair.restart().await;
    pair.is_itself(rows);
}

#[tokio::test]
async fn a_server_that_reads_nothing_persisted_does_not_start_in_between_either() {
    let mut pair = Pair::new(true).await;
    pair.target.stop(Signal::TERM);
    pair.target.options.push("--persisted-globals-load=OFF".to_owned());
    let mut rows = 2;
    // It would be no replica, and the preflight refuses it; but no mixture either.
    at_least(killed(&mut pair, "staged", 5, &mut rows).await, [1, 0, 4]);
    pair.swap("previous");
    pair.restart().await;
    pair.is_itself(rows);
}
