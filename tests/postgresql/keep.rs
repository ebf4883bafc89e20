//! What a target held before it became a replica is kept, and comes back as the database that it was.

use std::fs;

use rustix::process::Signal;
use understudy::agent::Tools;
use understudy::engine::Session;
use understudy::engine::postgresql::PostgreSql;

use super::common::{OURS, Serving, identity, succeed, until, wanted};
use super::{HBA, Server, directory, give};

const KEPT: &str = "k3x9q2ab-previous";

async fn kept_and_given_back(at_mount: bool) {
    let source = Server::new(HBA, &[]).await;
    source.enable(&wanted(&[1])).await;
    source.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS n");
    let mut target = Server::new(HBA, &[]).await;
    target.sql("CREATE TABLE mine AS SELECT generate_series(1, 10000) AS n");
    let system = target.sql("SELECT system_identifier FROM pg_control_system()");
    let (data, mount) = (target.data.clone(), if at_mount { target.data.clone() } else { target.data.parent().unwrap().to_owned() });
    let shop = Server::workshop();
    let refused = |said: &str| {
        assert!(!shop.keep(KEPT, &mount, &data).status().unwrap().success());
        assert!(shop.message().contains(said), "{}", shop.message());
        assert!(!shop.path("backup").join(KEPT).exists() && !shop.path("backup").join(format!("{KEPT}.partial")).exists());
    };
    succeed(shop.backup(&source, "k3x9q2ab-1"));
    refused("has no record of a swap");
    succeed(shop.stage(&source, "k3x9q2ab-1", &mount, &data));
    refused("has no record of a swap");
    target.process.stop(Signal::INT);
    assert!(!shop.swap(&mount, &data, "staged", Some(6)).status().unwrap().success());
    refused("nothing was touched");
    succeed(shop.swap(&mount, &data, "staged", None));
    target.start();
    target.answers().await;
    let follows = async || Some(target.session().await.observe_replica().await.unwrap()).filter(|state| state.streaming);
    until(follows, || target.log()).await;
    // While the replica serves.
    let mut keep = shop.keep(KEPT, &mount, &data);
    keep.arg("--unless-empty");
    succeed(keep);
    let report = shop.manifest();
    assert!(report["directory"] == KEPT && report["engine"] == "PostgreSQL" && report["bytes"].as_u64().unwrap() > 10 << 20, "{report}");
    succeed(shop.keep(KEPT, &mount, &data));
    assert_eq!(shop.manifest(), report, "it is not made twice");
    assert_eq!(target.sql("SELECT pg_is_in_recovery(), count(*) FROM t"), "t|1000");
    succeed(shop.discard(&mount));
    assert!(!mount.join(OURS).exists());
    assert!(!shop.keep(KEPT, &mount, &data).status().unwrap().success());
    assert!(shop.message().contains("has no record of a swap"), "what is gone can't be compared: {}", shop.message());
    assert!(!shop.give_back(KEPT, &data).status().unwrap().success());
    assert!(shop.message().contains("is not empty"), "{}", shop.message());
    assert_eq!(target.sql("SELECT pg_is_in_recovery(), count(*) FROM t"), "t|1000", "and that is not touched");
    let (root, inner) = directory();
    let empty = inner.join("given back");
    fs::create_dir(&empty).unwrap();
    give(&empty);
    succeed(shop.give_back(KEPT, &empty));
    assert_eq!(shop.manifest(), report);
    let mut again = Server::serve(root, empty, &[]).await;
    assert_eq!(again.sql("SELECT pg_is_in_recovery(), count(*), max(n) FROM mine"), "f|10000|10000");
    assert_eq!(again.sql("SELECT system_identifier FROM pg_control_system()"), system);
    again.sql("INSERT INTO mine VALUES (0)");
    assert_eq!(again.sql("SELECT to_regclass('t') IS NULL"), "t");
    // Nothing tells of a replica, and it may become one again.
    assert!(fs::read_dir(&again.data).unwrap().all(|entry| !entry.unwrap().file_name().to_string_lossy().contains("understudy")));
    assert_eq!(again.session().await.observe_source(Some(&identity())).await.map(|facts| facts.version).unwrap(), source.facts().await.version);
    again.process.stop(Signal::INT);
}

#[tokio::test]
async fn what_a_target_below_its_mount_point_held_is_kept_and_comes_back() {
    kept_and_given_back(false).await;
}

#[tokio::test]
async fn what_a_target_at_its_mount_point_held_is_kept_and_comes_back() {
    kept_and_given_back(true).await;
}

#[tokio::test]
async fn files_of_a_server_that_has_ended_tell_whether_it_holds_records() {
    let mut server = Server::new(HBA, &[]).await;
    server.sql("CREATE DATABASE shop");
    server.sql("CREATE ROLE clerk");
    for (statement, signal, empty) in [
        ("SELECT 1", Signal::INT, true),
        ("CREATE TABLE t (n int)", Signal::INT, false),
        ("DROP TABLE t", Signal::INT, true),
        ("SELECT lo_from_bytea(0, 'record')", Signal::INT, false),
        ("SELECT lo_unlink(oid) FROM pg_largeobject_metadata", Signal::KILL, false),
    ] {
        server.sql(statement);
        server.process.stop(signal);
        assert_eq!(PostgreSql::is_empty(&server.data).unwrap(), empty, "{statement}");
        server.start();
        server.answers().await;
    }
}
