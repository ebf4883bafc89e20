//! The MySQL engine against real servers: every step, every fact, and the way from a backup to a replica that streams.
//!
//! The servers' programs are taken from the root file system that `UNDERSTUDY_TEST_MYSQL_ROOT` names, inside which they run, or else from this machine's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod dump;
mod keep;
mod progress;
mod promote;
mod replica;
mod support;
mod swap;
mod target;

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use understudy::api::Change;
use understudy::engine::mysql::{MySql, MySqlSession, SourceFacts, Step};
use understudy::engine::{Endpoint, Engine, Position, Session, SessionError};

use support::{PASSWORD, PATIENCE, Server, WITHOUT_GTIDS, Writer, command, give, identity, inside, wanted};

#[tokio::test]
async fn enabling_and_disabling_leaves_no_trace() {
    let server = Server::new(&WITHOUT_GTIDS).await;
    // As it was, and with the same persisted; by then the other ladders are known.
    for persisted in ["", "SET PERSIST gtid_mode = OFF_PERMISSIVE", "INSTALL PLUGIN clone SONAME 'mysql_clone.so'; SET PERSIST enforce_gtid_consistency = WARN"]
    {
        server.sql(persisted);
        let before = server.traces();
        let recorded = server.enable().await;
        assert_ne!(server.traces(), before);
        assert_eq!(server.sql("SELECT @@GLOBAL.gtid_mode, @@GLOBAL.enforce_gtid_consistency"), "ON\tON");
        assert!(MySql::summary(&server.facts().await).oldest_for_seed == Position::Transactions(understudy::engine::TransactionSet::default()));
        server.disable(&recorded).await;
        assert_eq!(server.traces(), before, "after: {persisted}");
    }
}

#[tokio::test]
async fn the_defaults_of_this_version_need_a_user_and_a_plugin_only() {
    let server = Server::new(&[]).await;
    let before = server.traces();
    let recorded = server.enable().await;
    assert_eq!(recorded.iter().map(|change| change.what.as_str()).collect::<Vec<_>>(), ["user understudy_k3x9q2ab", "plugin clone"]);
    server.disable(&recorded).await;
    assert_eq!(server.traces(), before);
}

#[tokio::test]
async fn gtids_go_on_and_off_under_a_writer_without_an_error() {
    let server = Server::new(&WITHOUT_GTIDS).await;
    let mut writer = Writer::start(&server);
    let begun = writer.rows(&server, 10).await;
    let recorded = server.enable().await;
    let on = writer.rows(&server, begun + 10).await;
    server.disable(&recorded).await;
    writer.rows(&server, on + 10).await;
    writer.stop();
    let longest = Writer::longest_gap(&server);
    assert!(longest < 5.0, "a gap of {longest} s");
    eprintln!("longest gap between two commits: {longest} s");
}

#[tokio::test]
async fn what_gtids_would_refuse_stops_the_ladder() {
    let server = Server::new(&WITHOUT_GTIDS).await;
    server.execute(&Step::SetVariable { name: "enforce_gtid_consistency".into(), value: "WARN".into() }).await.unwrap();
    server.sql(
        "CREATE DATABASE shop; CREATE TABLE shop.m (n INT) ENGINE = MyISAM; CREATE TABLE shop.i (n INT); \
        START TRANSACTION; INSERT INTO shop.i VALUES (1); INSERT INTO shop.m VALUES (1); COMMIT",
    );
    let step = Step::SetVariable { name: "enforce_gtid_consistency".into(), value: "ON".into() };
    let refused = server.execute(&step).await.unwrap_err().to_string();
    assert!(refused.contains("violates GTID consistency"), "{refused}");
    assert_eq!(server.sql("SELECT @@GLOBAL.enforce_gtid_consistency"), "WARN");
    for (name, value) in [("max_connections", "1"), ("gtid_mode", "ON; DROP USER root")] {
        let other = Step::SetVariable { name: name.into(), value: value.into() };
        assert!(matches!(server.execute(&other).await, Err(SessionError::Failed { .. })), "only what is ours is set");
    }
}

#[tokio::test]
async fn facts_are_those_of_the_server() {
    let server = Server::new(&["--server-id=7"]).await;
    let facts = server.facts().await;
    assert_eq!(facts.version, server.sql("SELECT VERSION()"));
    assert_eq!((facts.server_uuid.as_str(), facts.server_id), (server.sql("SELECT @@server_uuid").as_str(), 7));
    assert_eq!(Path::new(&facts.data_directory), inside(&server.data));
    assert!(facts.user.starts_with("root@"), "{facts:?}");
    assert_eq!((facts.log_bin, facts.binlog_format.as_str(), facts.persisted_load), (true, "ROW", true));
    assert_eq!((facts.gtid_mode.value.as_str(), facts.gtid_mode.persisted.as_deref()), ("ON", None));
    assert_eq!((facts.channels, facts.other_replicas, facts.connections, facts.read_only), (0, 0, 0, false));
    assert!(facts.encrypted && !facts.clone_active && !facts.user_exists && facts.relay_log.is_empty(), "{facts:?}");
    assert!(facts.outside.is_empty() && facts.log_outside.is_none() && facts.encrypted_tablespaces == 0 && facts.binlog_filters.is_empty(), "{facts:?}");
    let summary = MySql::summary(&facts);
    assert_eq!((summary.system, summary.owner), (facts.server_uuid.clone(), None));
    assert_eq!(MySql::format_position(&summary.position), server.sql("SELECT @@GLOBAL.gtid_executed"));
    assert_eq!(server.session().await.measure().await.unwrap().to_string(), server.sql("SELECT SUM(FILE_SIZE) FROM information_schema.INNODB_TABLESPACES"));
    server.sql("SET PERSIST gtid_mode = ON");
    assert_eq!(server.facts().await.gtid_mode.persisted.as_deref(), Some("ON"));
}

#[tokio::test]
async fn an_idle_source_is_only_read() {
    let server = Server::new(&[]).await;
    server.enable().await;
    let before = server.facts().await.position;
    server.facts().await;
    assert_eq!(server.facts().await.position, before);
    let mark = server.session().await.write_mark().await.unwrap();
    assert!(mark > before, "a mark is a transaction: {mark:?}");
}

#[tokio::test]
async fn everything_that_cannot_be_copied_is_found_at_once() {
    let mut server = Server::new(&["--binlog-ignore-db=audit", "--binlog-format=MIXED"]).await;
    server.sql("CREATE DATABASE shop; CREATE TABLE shop.`it's` (n INT) ENGINE = MyISAM; CREATE TABLE shop.c (n INT NOT NULL) ENGINE = CSV");
    let found = MySql::preflight(&server.facts().await, &wanted());
    assert_eq!(found.iter().map(|finding| finding.reason).collect::<Vec<_>>(), ["BinlogFormatNotRow", "BinaryLogFiltered", "NotInnoDb"], "{found:?}");
    assert!(found[2].message.contains("shop.c (CSV), shop.it's (MyISAM)"), "{found:?}");
    server.stop(rustix::process::Signal::TERM);
    let elsewhere = server.root.path().join("undo");
    fs::create_dir(&elsewhere).unwrap();
    give(&elsewhere);
    let more = [format!("--innodb-directories={}", inside(&elsewhere).display()), "--skip-log-bin".into(), "--super-read-only=OFF".into()];
    server.options.retain(|option| !option.starts_with("--binlog"));
    server.options.extend(more);
    server.start();
    server.answers().await;
    server.sql(&format!(
        "DROP DATABASE shop; CREATE DATABASE shop; CREATE TABLE shop.t (n INT) DATA DIRECTORY = '{}'; SET GLOBAL read_only = ON",
        inside(&elsewhere).display()
    ));
    let found = MySql::preflight(&server.facts().await, &wanted());
    assert_eq!(found.iter().map(|finding| finding.reason).collect::<Vec<_>>(), ["SourceReadOnly", "BinaryLogOff", "DataOutsideDirectory"], "{found:?}");
    assert!(found[2].message.contains("undo/shop/t.ibd"), "{found:?}");
    server.stop(rustix::process::Signal::TERM);
    // Of a source this is no finding: a target's own log would not go with its data.
    server.options.retain(|option| option != "--skip-log-bin");
    server.options.push(format!("--log-bin={}/binlog", inside(&elsewhere).display()));
    server.start();
    server.answers().await;
    let facts = server.facts().await;
    assert!(facts.log_outside.as_ref().is_some_and(|log| log.ends_with("undo/binlog")) && facts.outside.len() == 1, "{facts:?}");
}

#[tokio::test]
async fn an_ordinary_user_gives_facts_and_no_error() {
    let server = Server::new(&[]).await;
    server.enable().await;
    server.sql("CREATE DATABASE shop; CREATE USER shop IDENTIFIED BY 'secret'; GRANT ALL ON shop.* TO shop");
    let endpoint = Endpoint { username: "shop".to_owned(), password: "secret".to_owned(), database: "shop".to_owned(), ..server.endpoint() };
    let mut session = MySqlSession::connect(&endpoint).await.unwrap();
    let facts = session.observe_source(Some(&identity())).await.unwrap();
    assert_eq!(facts.user, "shop@%");
    let found = MySql::preflight(&facts, &wanted());
    assert!(found.iter().any(|finding| finding.reason == "PrivilegesMissing" && finding.message.contains("BACKUP_ADMIN")), "{found:?}");
    assert!(matches!(session.execute(&Step::DropUser { user: identity().role() }).await, Err(SessionError::Failed { .. })));
    // What the finding asks for is enough.
    let missing = found.iter().find(|finding| finding.reason == "PrivilegesMissing").unwrap();
    let list = missing.message.split_once("on *.*: ").unwrap().1;
    server.sql(&format!("DROP USER understudy_k3x9q2ab; UNINSTALL PLUGIN clone; GRANT {list} ON *.* TO shop WITH GRANT OPTION"));
    let mut session = MySqlSession::connect(&endpoint).await.unwrap();
    let facts = session.observe_source(Some(&identity())).await.unwrap();
    assert_eq!(MySql::preflight(&facts, &wanted()), vec![]);
    let steps = MySql::plan_enable(&facts, &wanted());
    for step in &steps {
        session.execute(step).await.unwrap();
    }
    session.give_access(&identity(), "secret").await.unwrap();
    session.write_mark().await.unwrap();
    let recorded: Vec<Change> = steps.iter().filter_map(|step| MySql::record(&facts, step)).collect();
    let facts = session.observe_source(Some(&identity())).await.unwrap();
    assert!(facts.user_access, "{facts:?}");
    for step in MySql::plan_disable(&SourceFacts { connections: 1, ..facts }, &identity(), &recorded) {
        session.execute(&step).await.unwrap();
    }
}

#[tokio::test]
async fn an_administrator_that_lost_its_privileges_does_not_leave_our_user_behind() {
    let server = Server::new(&WITHOUT_GTIDS).await;
    let before = server.traces();
    let recorded = server.enable().await;
    server.sql("CREATE USER admin IDENTIFIED BY 'secret'; GRANT ALL ON *.* TO admin WITH GRANT OPTION");
    let endpoint = Endpoint { username: "admin".to_owned(), password: "secret".to_owned(), database: String::new(), ..server.endpoint() };
    let plan = async || {
        let mut session = MySqlSession::connect(&endpoint).await.unwrap();
        let facts = session.observe_source(Some(&identity())).await.unwrap();
        let steps = MySql::plan_disable(&facts, &identity(), &recorded);
        (session, facts, steps)
    };
    for lost in ["ALL ON *.*", "SELECT ON *.*"] {
        server.sql(&format!("REVOKE {lost} FROM admin"));
        let (mut session, facts, steps) = plan().await;
        assert!(MySql::summary(&facts).access, "what is not seen is not taken for lost: {facts:?}");
        assert!(!steps.is_empty(), "after losing {lost}");
        let said = session.execute(&steps[0]).await.unwrap_err().to_string();
        assert!(said.contains("denied"), "{said}");
        assert_eq!(server.sql("SELECT COUNT(*) FROM mysql.user WHERE User LIKE 'understudy%'"), "1");
        server.sql("GRANT ALL ON *.* TO admin WITH GRANT OPTION");
    }
    let (mut session, _, steps) = plan().await;
    for step in &steps {
        session.execute(step).await.unwrap();
    }
    assert_eq!(plan().await.2, vec![], "and then it is done");
    server.sql("DROP USER admin");
    assert_eq!(server.traces(), before);
}

#[tokio::test]
async fn a_reader_of_the_binary_log_keeps_gtids_on_and_that_is_said() {
    let server = Server::new(&WITHOUT_GTIDS).await;
    let recorded = server.enable().await;
    server.sql("CREATE USER reader IDENTIFIED BY 'secret'; GRANT REPLICATION SLAVE ON *.* TO reader; FLUSH BINARY LOGS");
    let log = server.sql("SHOW BINARY LOGS").lines().last().unwrap().split('\t').next().unwrap().to_owned();
    let mut reader = command("/usr/bin/mysqlbinlog");
    reader.args(["--no-defaults", "--read-from-remote-server", "--stop-never", "--host=127.0.0.1", "--user=reader", &format!("--port={}", server.port)]);
    let mut reader = reader.arg(log).env("MYSQL_PWD", "secret").stdout(Stdio::null()).spawn().unwrap();
    let begun = Instant::now();
    while server.facts().await.other_replicas == 0 {
        assert!(begun.elapsed() < PATIENCE && reader.try_wait().unwrap().is_none(), "it does not read");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    server.disable(&recorded).await;
    let said = MySql::kept(&server.facts().await, &recorded).expect("it is said");
    assert!(said.contains("gtid_mode stays ON: 1 replica(s)") && said.contains("RESET PERSIST IF EXISTS gtid_mode"), "{said}");
    reader.kill().unwrap();
    reader.wait().unwrap();
    assert_eq!(server.sql("SELECT @@GLOBAL.gtid_mode"), "ON");
}

#[tokio::test]
async fn a_login_that_will_not_do_is_told_from_a_server_that_is_not_there() {
    let mut server = Server::new(&[]).await;
    let try_with = |change: fn(&mut Endpoint)| {
        let mut endpoint = server.endpoint();
        change(&mut endpoint);
        async move { MySqlSession::connect(&endpoint).await.map(drop).unwrap_err() }
    };
    let wrong = try_with(|endpoint| endpoint.password = "wrong".to_owned()).await;
    assert!(matches!(&wrong, SessionError::Refused(message) if message.starts_with("Access denied for user 'root'")), "{wrong}");
    assert!(matches!(try_with(|endpoint| endpoint.database = "none".to_owned()).await, SessionError::Refused(message) if message.contains("none")));
    assert!(matches!(try_with(|endpoint| endpoint.username = "nobody".to_owned()).await, SessionError::Refused(_)));
    // A server that is full says nothing about the login.
    server.sql("SET GLOBAL max_connections = 1");
    let mut held = vec![];
    let full = loop {
        match MySqlSession::connect(&server.endpoint()).await {
            Ok(session) => held.push(session),
            Err(error) => break error,
        }
        assert!(held.len() < 10);
    };
    assert!(matches!(&full, SessionError::Unreachable(message) if message.contains("Too many connections")), "{full}");
    drop(held);
    let endpoint = server.endpoint();
    let mut session = server.answers().await;
    server.stop(rustix::process::Signal::TERM);
    let gone = MySqlSession::connect(&endpoint).await.map(drop).unwrap_err();
    assert!(matches!(&gone, SessionError::Unreachable(message) if message.contains(&format!("127.0.0.1:{}", server.port))), "{gone}");
    let broken = session.observe_source(None).await.map(drop);
    assert!(matches!(broken, Err(SessionError::Unreachable(_))), "a connection that broke: {broken:?}");
    // An address that swallows everything.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let begun = Instant::now();
    let endpoint = Endpoint { port: silent.local_addr().unwrap().port(), ..endpoint };
    assert!(matches!(MySqlSession::connect(&endpoint).await, Err(SessionError::Unreachable(_))));
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn no_secret_reaches_the_servers_logs() {
    let server = Server::new(&["--general-log=ON", "--log-output=TABLE", "--slow-query-log=ON", "--long-query-time=0", "--log-raw=ON"]).await;
    server.enable().await;
    server.session().await.give_access(&identity(), "a password of ours").await.unwrap();
    let said = server.sql(
        "SELECT CAST(argument AS CHAR) FROM mysql.general_log UNION ALL SELECT CAST(sql_text AS CHAR) FROM mysql.slow_log UNION ALL \
        SELECT COALESCE(SQL_TEXT, '') FROM performance_schema.events_statements_history",
    );
    assert!(said.contains("ALTER USER") && !said.contains("a password of ours") && !said.contains(PASSWORD), "{said}");
    let endpoint = Endpoint { username: identity().role(), password: "a password of ours".into(), database: String::new(), ..server.endpoint() };
    MySqlSession::connect(&endpoint).await.map(drop).expect("a verifier of ours is one");
}

#[tokio::test]
async fn a_password_policy_does_not_stop_us() {
    let server = Server::new(&[]).await;
    server.sql("INSTALL COMPONENT 'file://component_validate_password'; SET GLOBAL validate_password.policy = STRONG, GLOBAL default_password_lifetime = 1");
    server.enable().await;
    server.session().await.give_access(&identity(), "ab").await.unwrap();
    assert_eq!(server.sql("SELECT password_lifetime FROM mysql.user WHERE User LIKE 'understudy%'"), "0", "it does not expire");
}
