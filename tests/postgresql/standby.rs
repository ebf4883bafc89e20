//! The way from a backup to a standby that streams.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use rustix::process::{Pid, Signal, kill_process};
use understudy::engine::postgresql::{PostgreSql, Step};
use understudy::engine::{Engine, Session, SessionError};

use super::common::{Serving, identity, succeed, until, wanted};
use super::{HBA, Server, directory, give};

#[tokio::test]
async fn a_backup_becomes_a_standby_that_streams() {
    let source = Server::new(HBA, &[]).await;
    source.enable(&wanted(&[1])).await;
    source.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS n");
    let shop = Server::workshop();

    succeed(shop.backup(&source, "k3x9q2ab-1"));
    let manifest = shop.manifest();
    let position = PostgreSql::parse_position(manifest["position"].as_str().unwrap()).unwrap();
    assert!(position <= source.facts().await.position && manifest["bytes"].as_u64().unwrap() > 10 << 20, "{manifest}");
    succeed(shop.backup(&source, "k3x9q2ab-1"));
    assert_eq!(shop.manifest(), manifest, "one that is finished is reported again");
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
        let arrived = async || Some(replica.session().await.observe_replica().await.unwrap()).filter(|state| state.streaming && state.applied.reaches(&mark));
        let state = until(arrived, || replica.log()).await;
        assert!(state.read_only && state.received >= mark && state.trouble.is_none(), "{state:?}");
        assert_eq!(replica.sql("SELECT count(*) FROM t"), "1000");
        assert!(source.facts().await.slots[0].active);
        assert_eq!(source.sql("SELECT application_name FROM pg_stat_replication"), "orders-replica-1");
        // Read-only from its first second after a restart, too.
        if round == 0 {
            replica.process.stop(Signal::QUIT);
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
    let shop = Server::workshop();
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
    let shop = Server::workshop();
    // The tool waits for a checkpoint, and this one does not come to its end.
    let checkpointer = source.sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'").parse().ok().and_then(Pid::from_raw).unwrap();
    kill_process(checkpointer, Signal::STOP).unwrap();
    let mut agent = shop.backup(&source, "k3x9q2ab-1").spawn().unwrap();
    let runs = async || (source.sql("SELECT phase FROM pg_stat_progress_basebackup") == "waiting for checkpoint to finish").then_some(());
    until(runs, || shop.message()).await;
    kill_process(Pid::from_child(&agent), Signal::TERM).unwrap();
    assert!(!agent.wait().unwrap().success());
    assert!(shop.message().contains("SIGTERM"), "{}", shop.message());
    assert!(!shop.path("backup/k3x9q2ab-1").exists());
    kill_process(checkpointer, Signal::CONT).unwrap();
    let ended = async || (source.sql("SELECT count(*) FROM pg_stat_replication") == "0").then_some(());
    until(ended, || source.log()).await;
    succeed(shop.backup(&source, "k3x9q2ab-1"));
    assert!(shop.path("backup/k3x9q2ab-1/manifest.json").exists(), "and the next attempt starts over");
}
