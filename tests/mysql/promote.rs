//! A target that is given up as a replica: it goes on with the data that it has, as a server of its own.

use std::fs;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use understudy::engine::Session;

use crate::support::{Server, WITHOUT_GTIDS, Writer, succeed};
use crate::swap::Pair;

/// A target that streams.
async fn streaming(options: &[&str]) -> Pair {
    let source = Server::new(options).await;
    source.sql("SET PERSIST max_connections = 77");
    let mut pair = Pair::of(source, true).await;
    pair.target.stop(Signal::TERM);
    pair.swap("staged");
    pair.restart().await;
    pair.replicates().await;
    pair
}

async fn promote(server: &Server) {
    server.session().await.promote().await.unwrap_or_else(|error| panic!("{error}\n{}", server.log()));
}

/// The server takes writes, follows nobody, and has nothing persisted but this.
fn is_alone(server: &Server, persisted: &str) {
    assert_eq!(
        server.sql("SELECT @@GLOBAL.super_read_only, @@GLOBAL.read_only, COUNT(*) FROM performance_schema.replication_connection_configuration"),
        "0\t0\t0"
    );
    server.sql("INSERT INTO shop.t VALUES ()");
    assert_eq!(self::persisted(server), persisted);
    let file = fs::read_to_string(server.data.join("mysqld-auto.cnf")).unwrap_or_default();
    for ours in ["read_only", "server_id", "gtid", "event_scheduler", "relay", "innodb", "sync_binlog", "replica"] {
        assert!(!file.contains(ours), "{file}");
    }
}

fn persisted(server: &Server) -> String {
    server.sql("SELECT COALESCE(GROUP_CONCAT(VARIABLE_NAME, '=', VARIABLE_VALUE), '') FROM performance_schema.persisted_variables")
}

async fn a_target_is_its_own_again(options: &[&str]) {
    let mut pair = streaming(options).await;
    pair.source.sql("DROP DATABASE shop");
    let mut writer = Writer::start(&pair.source);
    let begun = writer.rows(&pair.target, 20).await;
    for _ in 0..2 {
        succeed(pair.shop.release(&pair.target.data));
    }
    // A pod that starts in between: a replica still.
    pair.target.stop(Signal::KILL);
    pair.swap("staged");
    pair.restart().await;
    let state = pair.target.session().await.observe_replica().await.unwrap();
    assert!(state.read_only, "{state:?}");
    assert!(writer.rows(&pair.target, begun + 20).await > begun);
    // Its administrator persists a setting of his own.
    pair.target.sql("SET PERSIST max_connections = 55");
    let server = pair.target.sql("SELECT @@server_uuid");
    for _ in 0..2 {
        promote(&pair.target).await;
        is_alone(&pair.target, "max_connections=55");
    }
    let rows: u64 = pair.target.sql("SELECT COUNT(*) FROM shop.t").parse().unwrap();
    assert!(rows >= begun + 20);
    writer.rows(&pair.source, rows + 20).await;
    writer.stop();
    // With the init container of a replica, and without.
    for signal in [Signal::KILL, Signal::TERM] {
        pair.target.stop(signal);
        pair.swap("staged");
        pair.restart().await;
        is_alone(&pair.target, "max_connections=55");
    }
    promote(&pair.target).await;
    assert_eq!(pair.target.sql("SELECT @@server_uuid, @@max_connections"), format!("{server}\t55"));
    assert_eq!(pair.target.sql("SELECT COUNT(*) FROM shop.t"), (rows + 2).to_string());
    // What came with the data and is ours: the user and the plugin.
    pair.target.disable(&pair.recorded).await;
    assert_eq!(pair.target.sql("SELECT (SELECT COUNT(*) FROM mysql.user WHERE User LIKE 'understudy%'), (SELECT COUNT(*) FROM mysql.plugin)"), "0\t0");
    for _ in 0..2 {
        succeed(pair.shop.clear(&pair.mount, &pair.target.data));
    }
    let left: Vec<_> = fs::read_dir(&pair.target.data).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains("understudy")), "{left:?}");
    pair.target.stop(Signal::TERM);
    pair.target.options.retain(|option| !option.starts_with("--relay-log"));
    pair.restart().await;
    is_alone(&pair.target, "max_connections=55");
    assert_eq!(pair.target.sql("SELECT @@server_id, @@event_scheduler"), "1\tON");
}

#[tokio::test]
async fn a_target_is_its_own_again_with_the_data_that_it_has() {
    a_target_is_its_own_again(&[]).await;
}

#[tokio::test]
async fn a_target_of_a_source_without_gtids_is_its_own_again() {
    a_target_is_its_own_again(&WITHOUT_GTIDS).await;
}

#[tokio::test]
async fn what_was_received_is_applied_before_the_source_is_forgotten() {
    let mut pair = streaming(&[]).await;
    pair.target.sql("STOP REPLICA SQL_THREAD; CHANGE REPLICATION SOURCE TO SOURCE_DELAY = 7; START REPLICA SQL_THREAD");
    pair.source.sql("INSERT INTO shop.t VALUES ()");
    let mark = pair.source.session().await.write_mark().await.unwrap();
    pair.target.replica("it is not received", |state| state.received.reaches(&mark)).await;
    pair.source.stop(Signal::KILL);
    let said = pair.target.session().await.promote().await.unwrap_err().to_string();
    assert!(said.contains("still applies what it has received"), "{said}");
    let state = pair.target.session().await.observe_replica().await.unwrap();
    assert!(state.read_only && !state.streaming, "{state:?}");
    promote(&pair.target).await;
    assert_eq!(pair.target.sql("SELECT COUNT(*) FROM shop.t"), "4");
    is_alone(&pair.target, "");
    pair.target.stop(Signal::KILL);
    pair.restart().await;
    is_alone(&pair.target, "");
}

#[tokio::test]
async fn what_can_not_be_applied_is_not_waited_for() {
    let mut pair = streaming(&[]).await;
    // Received, and lost with the server that had not applied it: the source, which would send it again, is gone.
    pair.target.sql("STOP REPLICA SQL_THREAD; CHANGE REPLICATION SOURCE TO SOURCE_DELAY = 600; START REPLICA SQL_THREAD");
    pair.source.sql("INSERT INTO shop.t VALUES ()");
    let mark = pair.source.session().await.write_mark().await.unwrap();
    pair.target.replica("it is not received", |state| state.received.reaches(&mark)).await;
    pair.source.stop(Signal::KILL);
    pair.target.stop(Signal::KILL);
    pair.restart().await;
    promote(&pair.target).await;
    assert_eq!(pair.target.sql("SELECT COUNT(*) FROM shop.t"), "3");
    is_alone(&pair.target, "");
    // An applier that has stopped at an error.
    let pair = streaming(&[]).await;
    pair.target.sql("SET GLOBAL super_read_only = OFF; CREATE DATABASE strange; SET GLOBAL super_read_only = ON");
    pair.source.sql("CREATE DATABASE strange");
    pair.target.replica("the conflict is not seen", |state| !state.streaming).await;
    promote(&pair.target).await;
    is_alone(&pair.target, "");
}

#[tokio::test]
async fn killed_between_any_two_statements_it_never_takes_writes_while_it_follows_and_ends_the_same() {
    let mut pair = streaming(&[]).await;
    succeed(pair.shop.release(&pair.target.data));
    pair.target.stop(Signal::TERM);
    let (data, copy) = (pair.target.data.clone(), pair.target.root.path().join("copy"));
    let copy_to = |from: &Path, to: &Path| {
        let _ = fs::remove_dir_all(to);
        let mut cp = Command::new("cp");
        cp.arg("-a").arg(from).arg(to);
        succeed(cp);
    };
    copy_to(&data, &copy);
    pair.restart().await;
    pair.target.sql("SET GLOBAL log_output = 'TABLE'; SET GLOBAL general_log = ON");
    promote(&pair.target).await;
    let log = pair.target.sql("SELECT CAST(argument AS CHAR) FROM mysql.general_log WHERE command_type = 'Query' ORDER BY event_time");
    let changes = |sql: &&str| ["STOP", "RESET", "SET GLOBAL"].iter().any(|word| sql.starts_with(word));
    let statements: Vec<&str> = log.lines().filter(changes).collect();
    assert!(statements.len() > 12, "{statements:?}");
    let (mut followed, mut alone) = (0, 0);
    for executed in 0..=statements.len() {
        pair.target.stop(Signal::KILL);
        copy_to(&copy, &data);
        pair.restart().await;
        for sql in &statements[..executed] {
            pair.target.sql(sql);
            // Never both, also before it is killed.
            let writable = pair.target.sql("SELECT @@GLOBAL.super_read_only = 0 AND COUNT(*) > 0 FROM performance_schema.replication_connection_configuration");
            assert_eq!(writable, "0", "{sql}");
        }
        pair.target.stop(Signal::KILL);
        pair.swap("staged");
        pair.restart().await;
        let state = pair.target.sql("SELECT @@GLOBAL.super_read_only, COUNT(*) FROM performance_schema.replication_connection_configuration");
        match state.as_str() {
            "1\t1" => followed += 1,
            "0\t0" => alone += 1,
            other => assert_eq!(other, "1\t0", "after {:?}", &statements[..executed]),
        }
        promote(&pair.target).await;
        is_alone(&pair.target, "");
    }
    assert!(followed > 2 && alone > 5, "{followed} {alone}");
}

#[tokio::test]
async fn a_server_that_follows_nobody_is_left_as_it_is() {
    let server = Server::new(&[]).await;
    server.sql("SET PERSIST read_only = ON; SET PERSIST sync_binlog = 1; SET PERSIST_ONLY server_id = 7; SET PERSIST_ONLY gtid_mode = ON");
    let traces = server.traces();
    promote(&server).await;
    assert_eq!(server.traces(), traces);
}
