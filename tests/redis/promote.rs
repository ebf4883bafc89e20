//! A target that is given up as a replica: it goes on with the data that it has, as a server of its own.

use std::process::Command;

use rustix::process::Signal;
use understudy::engine::Session;

use super::Server;
use super::common::{OURS, Process, Serving, ours, succeed, until};
use super::swap::{APPEND_ONLY, OTHER_NAME, Pair};

/// A target that streams.
async fn streaming(at_mount: bool, arguments: &[&str]) -> Pair {
    let mut pair = Pair::new(at_mount, arguments).await;
    // As its pod ends: what it has is saved.
    pair.target.process.stop(Signal::TERM);
    pair.swap("staged");
    let adapted = pair.adapted.clone();
    pair.start(&adapted).await;
    pair.replicates().await;
    succeed(pair.shop.discard(&pair.mount));
    pair
}

/// A client that writes to the source until this value goes.
fn writer(source: &Server) -> Process {
    let mut cli = Command::new("redis-cli");
    cli.args(["-p", &source.port.to_string(), "-r", "-1", "-i", "0.002", "incr", "ticks"]);
    let mut process = Process::new(source.root.path().join("writer.log"), Signal::KILL);
    process.start(cli);
    process
}

async fn promote(server: &Server) {
    server.session().await.promote().await.unwrap_or_else(|error| panic!("{error}\n{}", server.log()));
}

fn setting(server: &Server, name: &str) -> String {
    server.cli(&["config", "get", name]).lines().nth(1).unwrap_or_default().to_owned()
}

fn ticks(server: &Server) -> u64 {
    server.cli(&["get", "ticks"]).parse().unwrap_or(0)
}

/// The server has the source's keys, takes writes, and follows nobody.
fn is_alone(server: &Server) {
    assert_eq!(server.info("role"), "master");
    assert_eq!(server.cli(&["get", "source:7"]), "value");
    assert_eq!(server.cli(&["set", "own", "value"]), "OK");
    assert_eq!([setting(server, "masteruser"), setting(server, "masterauth")], ["", ""]);
}

async fn becomes_its_own(at_mount: bool, arguments: &[&str]) {
    let mut pair = streaming(at_mount, arguments).await;
    let (own, adapted) = (pair.own.clone(), pair.adapted.clone());
    let _writer = writer(&pair.source);
    until(async || (ticks(&pair.target) > 20).then_some(()), || pair.target.log()).await;
    for _ in 0..2 {
        succeed(pair.shop.release(&pair.target.data));
    }
    let state = pair.target.session().await.observe_replica().await.unwrap();
    assert!(state.streaming && state.read_only, "it runs as it did: {state:?}");
    let mut least = ticks(&pair.target);
    promote(&pair.target).await;
    is_alone(&pair.target);
    promote(&pair.target).await;
    is_alone(&pair.target);
    // Killed, and with the arguments and the init container of a replica: it has what it had when it was promoted.
    pair.target.process.stop(Signal::KILL);
    pair.swap("staged");
    pair.start(&adapted).await;
    is_alone(&pair.target);
    assert!(ticks(&pair.target) >= least, "{}", pair.target.log());
    promote(&pair.target).await;
    least = pair.target.cli(&["incrby", "ticks", "1000000"]).parse().unwrap();
    // As its owner's manifest says; which saves what was written until then.
    pair.target.process.stop(Signal::TERM);
    pair.start(&own).await;
    is_alone(&pair.target);
    assert_eq!(ticks(&pair.target), least);
    promote(&pair.target).await;
    let settings = ["dbfilename", "appendonly", "save", "masteruser"].map(|name| setting(&pair.target, name));
    let usual = Server::new(arguments, "").await;
    assert_eq!(settings, ["dbfilename", "appendonly", "save", "masteruser"].map(|name| setting(&usual, name)));
    // Killed before it has saved anything itself.
    pair.target.process.stop(Signal::KILL);
    pair.start(&own).await;
    assert_eq!(ticks(&pair.target), least);
    for _ in 0..2 {
        succeed(pair.shop.clear(&pair.mount, &pair.target.data));
        assert_eq!((ours(&pair.target.data), pair.mount.join(OURS).exists()), (vec![], false));
    }
    for signal in [Signal::KILL, Signal::TERM, Signal::KILL] {
        pair.target.process.stop(signal);
        pair.start(&own).await;
        is_alone(&pair.target);
        assert_eq!(ticks(&pair.target), least);
        if arguments == APPEND_ONLY {
            least = pair.target.cli(&["incr", "ticks"]).parse().unwrap();
        }
    }
    pair.target.cli(&[if arguments == APPEND_ONLY { "bgrewriteaof" } else { "save" }]);
    let rewritten = async || (pair.target.info("aof_rewrite_in_progress") == "0").then_some(());
    until(rewritten, || pair.target.log()).await;
    pair.target.process.stop(Signal::KILL);
    pair.start(&own).await;
    assert_eq!(ticks(&pair.target), least);
    pair.target.process.stop(Signal::TERM);
    assert!(!pair.serves(&adapted).await, "what made it a replica is gone");
}

#[tokio::test]
async fn a_target_below_its_mount_point_is_its_own_again() {
    becomes_its_own(false, &[]).await;
}

#[tokio::test]
async fn a_target_at_its_mount_point_is_its_own_again() {
    becomes_its_own(true, &[]).await;
}

#[tokio::test]
async fn a_target_with_a_file_of_another_name_is_its_own_again() {
    becomes_its_own(true, &OTHER_NAME).await;
}

#[tokio::test]
async fn a_target_with_an_append_only_file_is_its_own_again() {
    becomes_its_own(true, &APPEND_ONLY).await;
}

#[tokio::test]
async fn a_target_that_saves_nothing_of_its_own_has_the_data_once_more() {
    let mut pair = streaming(true, &["--save", "", "--shutdown-on-sigterm", "now", "nosave"]).await;
    succeed(pair.shop.release(&pair.target.data));
    promote(&pair.target).await;
    pair.target.cli(&["set", "late", "value"]);
    pair.target.process.stop(Signal::TERM);
    let own = pair.own.clone();
    pair.start(&own).await;
    is_alone(&pair.target);
    assert_eq!((pair.target.cli(&["get", "late"]).as_str(), setting(&pair.target, "save").as_str()), ("value", ""));
}

#[tokio::test]
async fn killed_between_any_two_steps_it_ends_the_same() {
    let mut pair = streaming(true, &[]).await;
    let (own, adapted) = (pair.own.clone(), pair.adapted.clone());
    pair.target.process.stop(Signal::TERM);
    let (data, copy) = (pair.target.data.clone(), pair.target.root.path().join("copy"));
    let copy_to = |from: &std::path::Path, to: &std::path::Path| {
        let _ = std::fs::remove_dir_all(to);
        let mut cp = Command::new("cp");
        cp.arg("-a").arg(from).arg(to);
        succeed(cp);
    };
    copy_to(&data, &copy);
    let steps: [&[&str]; 4] = [&["replicaof", "no", "one"], &["bgsave"], &["config", "set", "masterauth", ""], &["config", "set", "masteruser", ""]];
    // Cut off from the server, and killed with it; with the source, and without.
    for (killed, gone) in [(false, false), (true, false), (true, true)] {
        if gone {
            pair.source.process.stop(Signal::KILL);
        }
        for executed in 0..=steps.len() {
            pair.target.process.stop(Signal::KILL);
            copy_to(&copy, &data);
            pair.start(&adapted).await;
            if !gone {
                pair.replicates().await;
            }
            succeed(pair.shop.release(&data));
            for step in &steps[..executed] {
                pair.target.cli(step);
            }
            if killed {
                pair.target.process.stop(Signal::KILL);
                pair.swap("staged");
                pair.start(&adapted).await;
            }
            promote(&pair.target).await;
            is_alone(&pair.target);
            pair.target.process.stop(Signal::TERM);
            pair.start(&own).await;
            is_alone(&pair.target);
        }
    }
}

#[tokio::test]
async fn a_snapshot_that_can_not_be_written_is_said_and_taken_again() {
    let mut pair = streaming(false, &[]).await;
    succeed(pair.shop.release(&pair.target.data));
    // A directory under the name that it renames the snapshot to.
    let snapshot = pair.target.data.join("understudy.rdb");
    std::fs::rename(&snapshot, snapshot.with_extension("aside")).unwrap();
    std::fs::create_dir_all(snapshot.join("in the way")).unwrap();
    for _ in 0..2 {
        let said = pair.target.session().await.promote().await.unwrap_err().to_string();
        assert!(said.contains("could not write its snapshot"), "{said}");
        assert_eq!(pair.target.info("role"), "master");
    }
    std::fs::remove_dir_all(&snapshot).unwrap();
    promote(&pair.target).await;
    is_alone(&pair.target);
    assert!(snapshot.is_file());
    let own = pair.own.clone();
    pair.target.process.stop(Signal::TERM);
    pair.start(&own).await;
    is_alone(&pair.target);
}

#[tokio::test]
async fn a_server_that_follows_nobody_is_left_as_it_is() {
    let server = Server::new(&["--masteruser", "theirs", "--masterauth", "secret"], "").await;
    let (traces, saved) = (server.traces(), server.info("rdb_saves"));
    promote(&server).await;
    assert_eq!((server.traces(), server.info("rdb_saves")), (traces, saved));
}
