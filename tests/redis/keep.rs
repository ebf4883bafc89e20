//! What a target held before it became a replica is kept, and comes back as the database that it was.

use std::fs;

use rustix::process::Signal;
use understudy::agent::Tools;
use understudy::engine::redis::Redis;

use super::common::{OURS, Serving, succeed, wanted};
use super::replica::{adapted, in_step};
use super::{Server, directory};

const KEPT: &str = "k3x9q2ab-previous";

async fn kept_and_given_back(at_mount: bool, arguments: &[&str]) {
    let source = Server::new(&[], "").await;
    source.enable(&wanted(&[1])).await;
    for key in 0..20 {
        source.cli(&["set", &format!("source:{key}"), "value"]);
    }
    let mut target = Server::new(arguments, "").await;
    for key in 0..10 {
        target.cli(&["set", &format!("mine:{key}"), "value"]);
    }
    target.cli(&["save"]);
    let (data, mount) = (target.data.clone(), if at_mount { target.data.clone() } else { target.data.parent().unwrap().to_owned() });
    let own = target.arguments.clone();
    let shop = source.workshop();
    succeed(shop.backup(&source, "k3x9q2ab-1"));
    succeed(shop.stage(&source, "k3x9q2ab-1", &mount, &data));
    assert!(!shop.keep(KEPT, &mount, &data).status().unwrap().success());
    assert!(shop.message().contains("has no record of a swap"), "{}", shop.message());
    target.process.stop(Signal::TERM);
    succeed(shop.swap(&mount, &data, "staged", None));
    target.arguments = adapted(&own, &data);
    target.start();
    target.answers().await;
    in_step(&source, &target).await;
    // While the replica serves.
    let mut keep = shop.keep(KEPT, &mount, &data);
    keep.arg("--unless-empty");
    succeed(keep);
    let report = shop.manifest();
    assert!(report["directory"] == KEPT && report["engine"] == "Redis" && report["bytes"].as_u64().unwrap() > 0, "{report}");
    succeed(shop.keep(KEPT, &mount, &data));
    assert_eq!(shop.manifest(), report, "it is not made twice");
    succeed(shop.discard(&mount));
    assert!(!mount.join(OURS).exists());
    assert!(!shop.give_back(KEPT, &data).status().unwrap().success());
    assert!(shop.message().contains("is not empty"), "{}", shop.message());
    assert_eq!(target.cli(&["dbsize"]), "20", "and that is not touched");

    let (root, inner) = directory();
    let empty = inner.join("given back");
    fs::create_dir(&empty).unwrap();
    succeed(shop.give_back(KEPT, &empty));
    let again = Server::serve(root, empty, own, "default", "").await;
    assert_eq!((again.cli(&["dbsize"]).as_str(), again.cli(&["get", "mine:9"]).as_str()), ("10", "value"));
    assert_eq!((again.cli(&["set", "x", "y"]).as_str(), again.info("role").as_str()), ("OK", "master"));
    assert!(fs::read_dir(&again.data).unwrap().all(|entry| !entry.unwrap().file_name().to_string_lossy().contains("understudy")));
}

#[tokio::test]
async fn what_a_target_below_its_mount_point_held_is_kept_and_comes_back() {
    kept_and_given_back(false, &[]).await;
    kept_and_given_back(false, &["--appendonly", "yes"]).await;
}

#[tokio::test]
async fn what_a_target_at_its_mount_point_held_is_kept_and_comes_back() {
    kept_and_given_back(true, &["--dbfilename", "other.rdb"]).await;
    kept_and_given_back(true, &["--appendonly", "yes"]).await;
}

#[tokio::test]
async fn files_of_a_server_that_has_ended_tell_whether_it_holds_records() {
    for append in ["no", "yes"] {
        let mut server = Server::new(&["--save", "3600 1", "--appendonly", append], "").await;
        // One that keeps every command holds what they were about until it writes its files anew.
        for (command, empty) in [("ping", true), ("set key value", false), ("flushall", append == "no"), ("save", append == "no")] {
            server.cli(&command.split(' ').collect::<Vec<_>>());
            server.process.stop(Signal::TERM);
            assert_eq!(Redis::is_empty(&server.data).unwrap(), empty, "{command} with appendonly {append}");
            server.start();
            server.answers().await;
        }
    }
}
