//! A server with data of its own becomes the replica: on its own volume, and back.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use rustix::process::Signal;
use understudy::engine::Session;
use understudy::engine::redis::RedisSession;

use super::Server;
use super::common::{OURS, Serving, Workshop, succeed, until, wanted};
use super::replica::{adapted, in_step};

/// A source with a backup, and a target with keys of its own on whose volume the backup is staged. The target's data directory is the mount point, or lies below.
pub struct Pair {
    pub source: Server,
    pub target: Server,
    pub shop: Workshop,
    pub mount: PathBuf,
    /// The target's arguments before and after.
    pub own: Vec<String>,
    pub adapted: Vec<String>,
}

impl Pair {
    pub async fn new(at_mount: bool, arguments: &[&str]) -> Self {
        let source = Server::new(&[], "").await;
        source.enable(&wanted(&[1])).await;
        for key in 0..20 {
            source.cli(&["set", &format!("source:{key}"), "value"]);
        }
        let mut target = Server::new(arguments, "").await;
        target.cli(&["set", "mine", "1"]);
        target.cli(&["save"]);
        let mount = if at_mount { target.data.clone() } else { target.data.parent().unwrap().to_owned() };
        let shop = source.workshop();
        succeed(shop.backup(&source, "k3x9q2ab-1"));
        succeed(shop.stage(&source, "k3x9q2ab-1", &mount, &target.data));
        succeed(shop.stage(&source, "k3x9q2ab-1", &mount, &target.data));
        target.restart(Signal::KILL, |_| {}).await;
        let own = target.arguments.clone();
        let adapted = adapted(&own, &target.data);
        Self { source, target, shop, mount, own, adapted }
    }

    pub fn swap(&self, to: &str) {
        let ended = self.shop.swap(&self.mount, &self.target.data, to, None).status().unwrap();
        assert!(ended.success(), "{to}: {}", self.shop.message());
    }

    pub async fn start(&mut self, arguments: &[String]) {
        self.target.arguments = arguments.to_vec();
        self.target.start();
        self.target.answers().await;
    }

    /// The target is a replica of the source, and takes no writes; it went on where the backup ends.
    pub async fn replicates(&self) {
        let state = in_step(&self.source, &self.target).await;
        assert!(state.read_only && self.target.cli(&["set", "x", "y"]).contains("READONLY"), "{state:?}");
        assert_eq!(self.target.cli(&["dbsize"]), "20");
        assert_eq!(self.source.info("sync_full"), "1", "that of the backup: {}", self.target.log());
    }

    /// The target has the keys that it had, and takes more.
    fn is_itself(&self, times: u32) {
        assert_eq!((self.target.cli(&["dbsize"]).as_str(), self.target.cli(&["get", "mine"])), ("1", times.to_string()));
        assert_eq!(self.target.cli(&["incr", "mine"]), (times + 1).to_string());
        assert!(self.target.cli(&["info", "replication"]).contains("role:master"));
    }

    /// Whether a server with these arguments serves.
    pub async fn serves(&mut self, arguments: &[String]) -> bool {
        self.target.arguments = arguments.to_vec();
        self.target.start();
        let endpoint = self.target.endpoint();
        let started = async || {
            if RedisSession::connect(&endpoint).await.is_ok() {
                return Some(true);
            }
            self.target.process.has_ended().then_some(false)
        };
        until(started, String::new).await
    }
}

async fn there_and_back(at_mount: bool, arguments: &[&str]) {
    let mut pair = Pair::new(at_mount, arguments).await;
    let (own, adapted) = (pair.own.clone(), pair.adapted.clone());
    pair.is_itself(1);
    pair.target.process.stop(Signal::TERM);
    pair.swap("staged");
    pair.start(&adapted).await;
    pair.replicates().await;
    for signal in [Signal::KILL, Signal::TERM] {
        pair.target.process.stop(signal);
        let looks = || fs::metadata(&pair.target.data).map(|found| (found.ino(), found.mtime_nsec(), found.ctime_nsec())).unwrap();
        let before = looks();
        pair.swap("staged");
        assert_eq!(looks(), before, "nothing was touched");
        pair.start(&adapted).await;
        pair.replicates().await;
    }
    pair.target.process.stop(Signal::TERM);
    // Its manifest was applied again, and nobody tells it that it is a replica: it does not serve the source's data as its own, and not an empty database.
    assert!(!pair.serves(&own).await);
    pair.target.process.stop(Signal::KILL);
    pair.swap("previous");
    pair.start(&own).await;
    pair.is_itself(2);
    pair.target.process.stop(Signal::TERM);
    pair.swap("staged");
    pair.start(&adapted).await;
    pair.replicates().await;
    succeed(pair.shop.discard(&pair.mount));
    assert!(!pair.mount.join(OURS).exists());
    pair.target.process.stop(Signal::KILL);
    pair.swap("staged");
    pair.start(&adapted).await;
    pair.replicates().await;
    pair.target.process.stop(Signal::TERM);
    assert!(!pair.serves(&own).await);
}

pub const APPEND_ONLY: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];
/// Every write is in a snapshot that the server takes as it ends.
pub const OTHER_NAME: [&str; 4] = ["--dbfilename", "other.rdb", "--save", "3600 1"];

#[tokio::test]
async fn a_target_below_its_mount_point_becomes_a_replica_and_itself_again() {
    there_and_back(false, &[]).await;
    there_and_back(false, &APPEND_ONLY).await;
}

#[tokio::test]
async fn a_target_at_its_mount_point_becomes_a_replica_and_itself_again() {
    there_and_back(true, &[]).await;
    there_and_back(true, &OTHER_NAME).await;
    there_and_back(true, &APPEND_ONLY).await;
}

async fn killed_after_every_change(at_mount: bool, arguments: &[&str]) {
    let mut pair = Pair::new(at_mount, arguments).await;
    let (own, adapted) = (pair.own.clone(), pair.adapted.clone());
    pair.target.process.stop(Signal::TERM);
    let (mut times, mut met) = (1, [0; 3]);
    for to in ["staged", "previous"] {
        for changes in 0.. {
            let done = pair.shop.swap(&pair.mount, &pair.target.data, to, Some(changes)).status().unwrap().success();
            assert!(done || pair.shop.message().contains("ended in the middle"), "{}", pair.shop.message());
            // Without our configuration: itself, or nothing.
            if pair.serves(&own).await {
                pair.is_itself(times);
                times += 1;
                met[0] += 1;
                pair.target.process.stop(Signal::TERM);
            } else {
                pair.target.process.stop(Signal::KILL);
                met[2] += 1;
            }
            // With it: a replica, or nothing.
            if pair.serves(&adapted).await {
                pair.replicates().await;
                met[1] += 1;
            }
            pair.target.process.stop(Signal::KILL);
            pair.swap(to);
            if done {
                break;
            }
            pair.swap(if to == "staged" { "previous" } else { "staged" });
        }
        pair.start(if to == "staged" { &adapted } else { &own }).await;
        if to == "staged" {
            pair.replicates().await;
        } else {
            pair.is_itself(times);
        }
        pair.target.process.stop(Signal::TERM);
        times += u32::from(to == "previous");
    }
    eprintln!("itself {}, a replica {}, refused {}", met[0], met[1], met[2]);
    assert!(met.iter().all(|count| *count > 2), "{met:?}");
}

#[tokio::test]
async fn killed_anywhere_below_its_mount_point_a_target_is_one_of_two_databases() {
    killed_after_every_change(false, &[]).await;
}

#[tokio::test]
async fn killed_anywhere_at_its_mount_point_a_target_is_one_of_two_databases_or_does_not_start() {
    killed_after_every_change(true, &[]).await;
}

#[tokio::test]
async fn killed_anywhere_a_target_with_an_append_only_file_is_one_of_two_databases_or_does_not_start() {
    killed_after_every_change(true, &APPEND_ONLY).await;
}

#[tokio::test]
async fn killed_anywhere_a_target_with_files_of_other_names_is_one_of_two_databases_or_does_not_start() {
    killed_after_every_change(true, &OTHER_NAME).await;
}
