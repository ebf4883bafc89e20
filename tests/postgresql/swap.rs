//! A server with data of its own becomes the replica: on its own volume, and back.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use understudy::api::Change;
use understudy::engine::Session;

use super::common::{OURS, Serving, Workshop, identity, succeed, until, wanted};
use super::{HBA, Server, bin, command, user};

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
        Self::of(Server::new(HBA, &[]).await, at_mount).await
    }

    pub async fn of(source: Server, at_mount: bool) -> Self {
        let recorded = source.enable(&wanted(&[1])).await;
        source.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS n");
        let target = Server::new(HBA, &[]).await;
        target.sql("CREATE TABLE mine AS SELECT generate_series(1, 10) AS n");
        let mount = if at_mount { target.data.clone() } else { target.data.parent().unwrap().to_owned() };
        // Where a ConfigMap is mounted, say.
        fs::create_dir(target.data.join("config")).unwrap();
        let shop = Server::workshop();
        succeed(shop.backup(&source, "k3x9q2ab-1"));
        // While its server works there.
        let theirs = target.data.join("theirs");
        fs::create_dir(&theirs).unwrap();
        fs::write(theirs.join("file"), "").unwrap();
        let room = shop.measure(&mount, &target.data);
        assert!(room["unmovable"].as_str().is_some_and(|why| why.contains("theirs is a directory that the server's user can't move")), "{room}");
        fs::remove_dir_all(theirs).unwrap();
        succeed(shop.stage(&source, "k3x9q2ab-1", &mount, &target.data));
        succeed(shop.stage(&source, "k3x9q2ab-1", &mount, &target.data));
        let room = shop.measure(&mount, &target.data);
        assert!(room["freeBytes"].as_u64() > Some(0) && room["writable"] == true && room["unmovable"].is_null(), "{room}");
        Self { source, target, shop, mount, recorded }
    }

    pub fn swap(&self, to: &str) {
        let ended = self.shop.swap(&self.mount, &self.target.data, to, None).status().unwrap();
        assert!(ended.success(), "{to}: {}", self.shop.message());
    }

    /// The target is a replica of the source, and takes no writes.
    pub async fn replicates(&self) {
        let mark = self.source.session().await.write_mark().await.unwrap();
        let arrived =
            async || Some(self.target.session().await.observe_replica().await.unwrap()).filter(|state| state.streaming && state.applied.reaches(&mark));
        let state = until(arrived, || self.target.log()).await;
        assert!(state.read_only && state.trouble.is_none(), "{state:?}");
        assert_eq!(self.target.sql("SELECT count(*) FROM t"), "1000");
        assert_eq!(self.target.sql("SELECT to_regclass('mine') IS NULL"), "t");
    }

    /// The target has the rows that it had, and takes more.
    fn is_itself(&self, rows: u32) {
        assert_eq!(self.target.sql("SELECT pg_is_in_recovery(), count(*), min(n) FROM mine"), format!("f|{rows}|1"));
        assert_eq!(self.target.sql("SELECT to_regclass('t') IS NULL"), "t");
        self.target.sql("INSERT INTO mine VALUES (10)");
    }

    pub async fn restart(&mut self) {
        self.target.start();
        self.target.answers().await;
    }
}

async fn there_and_back(at_mount: bool) {
    let mut pair = Pair::new(at_mount).await;
    let ours = pair.mount.join(OURS);
    // It serves with all that on its volume, through restarts and a crash.
    pair.is_itself(10);
    for signal in [Signal::INT, Signal::QUIT] {
        pair.target.process.stop(signal);
        pair.restart().await;
    }
    pair.is_itself(11);
    pair.target.process.stop(Signal::INT);
    // Given up before anything was done, and then begun after all.
    pair.swap("previous");
    assert!(!ours.join("journal.json").exists());
    pair.swap("staged");
    pair.restart().await;
    pair.replicates().await;
    let role = identity().role();
    assert_eq!(pair.source.sql("SELECT usename FROM pg_stat_replication"), role);
    // Every start of its pod, also after a crash: nothing changes, and what is beside does not disturb it.
    for signal in [Signal::QUIT, Signal::INT] {
        pair.target.process.stop(signal);
        let looks = |path: &Path| fs::metadata(path).map(|found| (found.ino(), found.mtime_nsec(), found.ctime_nsec())).unwrap();
        let before = [looks(&pair.target.data), looks(&ours), looks(&ours.join("previous")), looks(&ours.join("journal.json"))];
        pair.swap("staged");
        assert_eq!([looks(&pair.target.data), looks(&ours), looks(&ours.join("previous")), looks(&ours.join("journal.json"))], before);
        pair.restart().await;
        pair.replicates().await;
    }
    pair.target.process.stop(Signal::INT);
    pair.swap("previous");
    pair.restart().await;
    pair.is_itself(12);
    pair.target.process.stop(Signal::INT);
    pair.swap("staged");
    pair.restart().await;
    pair.replicates().await;
    // Proven.
    succeed(pair.shop.discard(&pair.mount));
    assert!(!ours.exists());
    pair.replicates().await;
    assert!(!at_mount || user().is_none() || pair.target.data.join("config").exists(), "it is no part of either database");
    pair.target.process.stop(Signal::INT);
    assert!(!pair.shop.swap(&pair.mount, &pair.target.data, "previous", None).status().unwrap().success());
    assert!(pair.shop.message().contains("not on the volume any more"), "{}", pair.shop.message());
    pair.swap("staged");
    succeed(pair.shop.stage(&pair.source, "k3x9q2ab-1", &pair.mount, &pair.target.data));
    assert!(!ours.exists(), "what is in place is not restored again");
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
async fn entrypoint(pair: &mut Pair) -> bool {
    let version = pair.target.data.join("PG_VERSION");
    if fs::metadata(&version).is_ok_and(|found| found.len() > 0) {
        pair.target.start();
        let started = async || {
            let answers = <Server as Serving>::endpoint(&pair.target);
            if understudy::engine::postgresql::PostgreSqlSession::connect(&answers).await.is_ok() {
                return Some(true);
            }
            pair.target.process.has_ended().then_some(false)
        };
        return until(started, String::new).await;
    }
    let mut initdb = command(bin("initdb"));
    initdb.arg("--pgdata").arg(&pair.target.data);
    let made = initdb.output().unwrap();
    assert!(!made.status.success(), "a new database");
    assert!(String::from_utf8_lossy(&made.stderr).contains("exists but is not empty"), "{made:?}");
    false
}

async fn killed_after_every_change(at_mount: bool) {
    let mut pair = Pair::new(at_mount).await;
    pair.target.process.stop(Signal::INT);
    let (mut rows, mut met) = (10, [0; 3]);
    for to in ["staged", "previous"] {
        for changes in 0.. {
            let done = pair.shop.swap(&pair.mount, &pair.target.data, to, Some(changes)).status().unwrap().success();
            assert!(done || pair.shop.message().contains("ended in the middle"), "{}", pair.shop.message());
            if entrypoint(&mut pair).await {
                if pair.target.sql("SELECT pg_is_in_recovery()") == "t" {
                    pair.replicates().await;
                    met[1] += 1;
                } else {
                    pair.is_itself(rows);
                    rows += 1;
                    met[0] += 1;
                }
                pair.target.process.stop(Signal::INT);
            } else {
                pair.target.process.stop(Signal::KILL);
                met[2] += 1;
            }
            pair.swap(to);
            if done {
                break;
            }
            pair.swap(if to == "staged" { "previous" } else { "staged" });
        }
        pair.restart().await;
        if to == "staged" {
            pair.replicates().await;
        } else {
            pair.is_itself(rows);
        }
        pair.target.process.stop(Signal::INT);
    }
    eprintln!("itself {}, a replica {}, refused {}", met[0], met[1], met[2]);
    assert!(met[0] > 2 && met[1] > 2 && (met[2] > 20) == at_mount, "{met:?}");
}

#[tokio::test]
async fn killed_anywhere_below_its_mount_point_a_target_is_one_of_two_databases() {
    killed_after_every_change(false).await;
}

#[tokio::test]
async fn killed_anywhere_at_its_mount_point_a_target_is_one_of_two_databases_or_does_not_start() {
    killed_after_every_change(true).await;
}
