//! A target that is given up as a replica: it goes on with the data that it has, as a server of its own.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use rustix::process::Signal;
use understudy::engine::postgresql::{PostgreSql, hba_line};
use understudy::engine::{Engine, Identity, Session, SessionError};

use super::common::{PASSWORD, Process, Serving, identity, ours, succeed};
use super::swap::Pair;
use super::{HBA, Server, bin, command};

/// What stands in postgresql.auto.conf, in its order.
const SET: &str = "SELECT string_agg(name || '=' || setting, ' ' ORDER BY name) FROM pg_file_settings WHERE sourcefile LIKE '%/postgresql.auto.conf'";

/// A target that streams from a source with settings of its own, some of which a standby has as well.
async fn streaming(options: &[&str]) -> (Pair, String) {
    let source = Server::new(HBA, &[]).await;
    for own in ["work_mem = '7MB'", "primary_conninfo = 'host=former'", "hot_standby = off"] {
        source.sql(&format!("ALTER SYSTEM SET {own}"));
    }
    let mut pair = Pair::of(source, true).await;
    let set = pair.source.sql(SET);
    pair.target.process.stop(Signal::INT);
    pair.swap("staged");
    pair.target.options.extend(options.iter().map(|&option| option.to_owned()));
    pair.restart().await;
    pair.replicates().await;
    (pair, set)
}

/// A client that writes to the source until this value goes.
fn writer(source: &Server) -> Process {
    source.sql("CREATE TABLE ticks (n int)");
    let mut psql = command(bin("psql"));
    psql.args(["-X", "-q", "-U", "postgres", "-d", "postgres", "-p", &source.port.to_string(), "-h"]).arg(source.root.path());
    psql.args(["-c", "DO $$ BEGIN LOOP INSERT INTO ticks VALUES (1); COMMIT; PERFORM pg_sleep(0.002); END LOOP; END $$"]);
    let mut process = Process::new(source.root.path().join("writer.log"), Signal::KILL);
    process.start(psql);
    process
}

async fn promote(server: &Server) {
    server.session().await.promote().await.unwrap_or_else(|error| panic!("{error}\n{}", server.log()));
}

/// The server takes writes, follows nobody, and has the settings that came with the data, no others.
fn is_alone(server: &Server, set: &str) {
    assert_eq!(server.sql("SELECT pg_is_in_recovery(), (SELECT count(*) FROM pg_stat_wal_receiver)"), "f|0");
    server.sql("INSERT INTO t VALUES (0)");
    assert_eq!(server.sql(SET), set);
    let of_ours = r"SELECT count(*) FROM pg_settings WHERE setting ~ 'understudy[_.]' AND name <> 'application_name'";
    assert_eq!(server.sql(of_ours), "0");
    assert!(!server.data.join("standby.signal").exists());
}

#[tokio::test]
async fn a_target_is_its_own_again_with_the_data_that_it_has() {
    let (mut pair, set) = streaming(&[]).await;
    let _writer = writer(&pair.source);
    for _ in 0..2 {
        succeed(pair.shop.release(&pair.target.data));
    }
    // A pod that starts in between: a replica still.
    pair.target.process.stop(Signal::QUIT);
    pair.swap("staged");
    pair.restart().await;
    pair.replicates().await;
    let mark = pair.source.session().await.write_mark().await.unwrap();
    super::common::until(async || pair.target.session().await.observe_replica().await.unwrap().applied.reaches(&mark).then_some(()), || pair.target.log())
        .await;
    let rows = pair.target.sql("SELECT count(*) FROM ticks").parse::<u64>().unwrap();
    for _ in 0..2 {
        promote(&pair.target).await;
        is_alone(&pair.target, &set);
    }
    assert!(pair.target.sql("SELECT count(*) FROM ticks").parse::<u64>().unwrap() >= rows);
    // With the init container of a replica, and without.
    for signal in [Signal::QUIT, Signal::INT] {
        pair.target.process.stop(signal);
        pair.swap("staged");
        pair.restart().await;
        is_alone(&pair.target, &set);
    }
    promote(&pair.target).await;
    // Another enabling is gone from the source by now: its role went here, too, and its rule did not.
    let gone = Identity::parse("zzzzzzz9").unwrap();
    let rules = pair.target.hba();
    fs::write(&rules, format!("{}{}\n", fs::read_to_string(&rules).unwrap(), hba_line(&gone))).unwrap();
    assert_eq!(pair.target.session().await.identities().await.unwrap(), BTreeSet::from([identity(), gone.clone()]));
    let facts = pair.target.session().await.observe_source(Some(&gone)).await.unwrap();
    pair.target.twice(&PostgreSql::plan_disable(&facts, &gone, &[])).await;
    // What came with the data and is ours: the role and its rule.
    pair.target.disable(&pair.recorded).await;
    assert_eq!(pair.target.sql("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'understudy%'"), "0");
    let set = set.replace(&format!("max_slot_wal_keep_size={}", pair.source.sql("SHOW max_slot_wal_keep_size")), "").trim().to_owned();
    succeed(pair.shop.clear(&pair.mount, &pair.target.data));
    succeed(pair.shop.clear(&pair.mount, &pair.target.data));
    assert_eq!(ours(&pair.target.data), [""; 0]);
    pair.target.process.stop(Signal::INT);
    pair.restart().await;
    assert_eq!(pair.target.sql(SET).split_whitespace().collect::<Vec<_>>(), set.split_whitespace().collect::<Vec<_>>());
    assert!(!fs_text(&pair.target.data).contains("understudy"));
}

/// The configuration of a data directory.
fn fs_text(data: &std::path::Path) -> String {
    ["postgresql.auto.conf", "postgresql.conf", "pg_hba.conf"].map(|name| fs::read_to_string(data.join(name)).unwrap()).concat()
}

#[tokio::test]
async fn a_source_that_is_gone_is_not_needed_and_what_was_received_is_applied() {
    let (mut pair, set) = streaming(&[]).await;
    pair.target.sql("SELECT pg_wal_replay_pause()");
    pair.source.sql("INSERT INTO t VALUES (-7)");
    let mark = pair.source.session().await.write_mark().await.unwrap();
    let received = async || (pair.target.session().await.observe_replica().await.unwrap().received >= mark).then_some(());
    super::common::until(received, || pair.target.log()).await;
    pair.source.process.stop(Signal::QUIT);
    promote(&pair.target).await;
    assert_eq!(pair.target.sql("SELECT count(*) FROM t WHERE n = -7"), "1");
    is_alone(&pair.target, &set);
    pair.target.process.stop(Signal::INT);
    pair.restart().await;
    is_alone(&pair.target, &set);
}

#[tokio::test]
async fn killed_between_any_two_statements_it_is_a_replica_or_alone_and_ends_the_same() {
    let (mut pair, set) = streaming(&["log_statement=all"]).await;
    succeed(pair.shop.release(&pair.target.data));
    pair.target.process.stop(Signal::INT);
    let (data, copy) = (pair.target.data.clone(), pair.mount.with_file_name("copy"));
    let copy_to = |from: &std::path::Path, to: &std::path::Path| {
        let _ = fs::remove_dir_all(to);
        let mut cp = Command::new("cp");
        cp.arg("-a").arg(from).arg(to);
        succeed(cp);
    };
    copy_to(&data, &copy);
    pair.restart().await;
    let before = pair.target.log().len();
    promote(&pair.target).await;
    let log = pair.target.log().split_off(before);
    let changes = |line: &str| ["pg_promote", "ALTER SYSTEM", "pg_reload_conf"].iter().any(|word| line.contains(word));
    let statements: Vec<&str> = log.lines().filter_map(|line| line.split_once("statement: ")).map(|(_, sql)| sql).filter(|sql| changes(sql)).collect();
    assert_eq!(statements.len(), 6, "{statements:?}");
    for executed in 0..=statements.len() {
        pair.target.process.stop(Signal::QUIT);
        copy_to(&copy, &data);
        pair.restart().await;
        for sql in &statements[..executed] {
            pair.target.sql(sql);
            if sql.contains("pg_promote") && executed > 1 {
                super::common::until(async || (pair.target.sql("SELECT pg_is_in_recovery()") == "f").then_some(()), || pair.target.log()).await;
            }
        }
        pair.target.process.stop(Signal::QUIT);
        pair.swap("staged");
        pair.restart().await;
        if pair.target.sql("SELECT pg_is_in_recovery()") == "t" {
            assert!(executed <= 1, "{:?}", &statements[..executed]);
            pair.replicates().await;
        }
        promote(&pair.target).await;
        is_alone(&pair.target, &set);
    }
}

#[tokio::test]
async fn a_server_that_follows_nobody_is_left_as_it_is() {
    let server = Server::new(HBA, &[]).await;
    for own in ["recovery_target_timeline = 'latest'", "hot_standby = on", "primary_slot_name = 'theirs'"] {
        server.sql(&format!("ALTER SYSTEM SET {own}"));
    }
    let traces = server.traces();
    promote(&server).await;
    assert_eq!(server.traces(), traces);
    server.sql(&format!("CREATE ROLE shop LOGIN PASSWORD '{}'", PASSWORD.replace('\'', "''")));
    let endpoint = understudy::engine::Endpoint { username: "shop".into(), ..server.endpoint() };
    let refused = understudy::engine::postgresql::PostgreSqlSession::connect(&endpoint).await.unwrap().promote().await;
    assert!(matches!(&refused, Err(SessionError::Failed { message, .. }) if message.contains("permission denied")), "{refused:?}");
}
