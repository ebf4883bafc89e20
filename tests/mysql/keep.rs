//! What a target held before it became a replica is kept, and comes back as the database that it was.

use std::fs;

use rustix::process::Signal;
use understudy::agent::Tools;
use understudy::engine::mysql::MySql;

use crate::support::{RELAY_LOG, Server, Workshop, directory, give, identity, inside, succeed};

const KEPT: &str = "k3x9q2ab-previous";

async fn kept_and_given_back(at_mount: bool) {
    let source = Server::new(&[]).await;
    source.enable().await;
    source.sql("CREATE DATABASE shop; CREATE TABLE shop.t (n INT AUTO_INCREMENT PRIMARY KEY); INSERT INTO shop.t VALUES (), (), ()");
    let mut target = Server::new(&[RELAY_LOG]).await;
    target.sql("CREATE DATABASE mine; CREATE TABLE mine.rows_ (n INT AUTO_INCREMENT PRIMARY KEY); INSERT INTO mine.rows_ VALUES (), ()");
    let server = target.sql("SELECT @@GLOBAL.server_uuid");
    let (data, mount) = (target.data.clone(), if at_mount { target.data.clone() } else { target.root.path().to_owned() });
    let shop = Workshop::new();
    succeed(shop.backup(&source, "k3x9q2ab-1"));
    let mut restore = shop.restore(&source, "k3x9q2ab-1", &mount.join(".understudy-k3x9q2ab/staged"));
    restore.arg("--final-directory").arg(inside(&data));
    succeed(restore);
    assert!(!shop.keep(KEPT, &mount, &data).status().unwrap().success());
    assert!(shop.message().contains("has no record of a swap"), "{}", shop.message());
    // Where some have their server's socket there is a link, which leads nowhere once the server has ended.
    std::os::unix::fs::symlink("/var/run/mysqld/none.sock", data.join("mysql.sock")).unwrap();
    target.stop(Signal::TERM);
    assert!(shop.swap(&mount, &data, "staged", None), "{}", shop.message());
    target.start();
    target.answers().await;
    target.replica("it does not stream", |state| state.streaming).await;
    // While the replica serves.
    let mut keep = shop.keep(KEPT, &mount, &data);
    keep.arg("--unless-empty");
    succeed(keep);
    let report: serde_json::Value = serde_json::from_str(&shop.message()).unwrap();
    assert!(report["directory"] == KEPT && report["engine"] == "MySQL" && report["bytes"].as_u64().unwrap() > 10 << 20, "{report}");
    assert!(report["note"].as_str().unwrap().starts_with("mysql.sock: "), "{report}");
    succeed(shop.keep(KEPT, &mount, &data));
    assert_eq!(serde_json::from_str::<serde_json::Value>(&shop.message()).unwrap(), report, "it is not made twice");
    let mut discard = shop.bare(&["discard", "--identity", identity().word()]);
    discard.arg("--mount").arg(inside(&mount));
    succeed(discard);
    assert!(!mount.join(".understudy-k3x9q2ab").exists());
    assert!(!shop.give_back(KEPT, &data).status().unwrap().success());
    assert!(shop.message().contains("is not empty"), "{}", shop.message());
    assert_eq!(target.sql("SELECT COUNT(*) FROM shop.t"), "3", "and that is not touched");

    let root = directory();
    let empty = root.path().join("given-back");
    fs::create_dir(&empty).unwrap();
    give(&empty);
    succeed(shop.give_back(KEPT, &empty));
    let again = Server::serve(root, empty, &[]).await;
    assert_eq!(again.sql("SELECT @@GLOBAL.super_read_only, COUNT(*), MAX(n) FROM mine.rows_"), "0\t2\t2");
    assert_eq!(again.sql("SELECT @@GLOBAL.server_uuid"), server);
    again.sql("INSERT INTO mine.rows_ VALUES ()");
    assert_eq!(again.sql("SHOW DATABASES LIKE 'shop'") + &again.sql("SHOW REPLICA STATUS"), "");
    assert!(fs::read_dir(&again.data).unwrap().all(|entry| !entry.unwrap().file_name().to_string_lossy().contains("understudy")));
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
    let mut server = Server::new(&[]).await;
    server.sql("CREATE DATABASE shop; CREATE USER clerk");
    for (statement, signal, empty) in [
        ("SELECT 1", Signal::TERM, true),
        ("CREATE TABLE shop.t (n INT)", Signal::KILL, false),
        ("DROP TABLE shop.t; CREATE TABLE shop.m (n INT) ENGINE = MyISAM", Signal::TERM, false),
        ("DROP TABLE shop.m; CREATE TABLESPACE wide ADD DATAFILE 'wide.ibd'", Signal::TERM, false),
        ("DROP TABLESPACE wide", Signal::TERM, true),
    ] {
        server.sql(statement);
        server.stop(signal);
        assert_eq!(MySql::is_empty(&server.data).unwrap(), empty, "{statement}");
        server.start();
        server.answers().await;
    }
}
