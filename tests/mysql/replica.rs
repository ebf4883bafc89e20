//! From a backup to a replica that streams.

use std::fs;
use std::time::{Duration, Instant};

use understudy::engine::mysql::{MySql, Step};
use understudy::engine::{Engine, ReplicaSummary, Session};

use crate::support::{PASSWORD, PATIENCE, RELAY_LOG, SMALL, Server, WITHOUT_GTIDS, Workshop, directory, give, identity, inside, mysqld, succeed, wanted};

async fn a_backup_becomes_a_replica(options: &[&str], encrypted: bool) {
    let source = Server::new(options).await;
    source.enable().await;
    assert_eq!(source.facts().await.encrypted, encrypted);
    source.sql("CREATE DATABASE shop; CREATE TABLE shop.t (n INT AUTO_INCREMENT PRIMARY KEY); INSERT INTO shop.t VALUES (), (), ()");
    // Neither runs on a replica, nor stops it.
    source.sql(
        "CREATE TABLE shop.ticks (at DATETIME(6)); CREATE EVENT shop.tick ON SCHEDULE EVERY 1 SECOND DO INSERT INTO shop.ticks VALUES (NOW(6)); \
        CREATE EVENT shop.once ON SCHEDULE AT NOW() + INTERVAL 20 SECOND DO INSERT INTO shop.ticks VALUES (NOW(6))",
    );
    let shop = Workshop::new();

    let log = String::from_utf8(succeed(shop.backup(&source, "k3x9q2ab-1")).stderr).unwrap();
    assert!(log.contains("file copy completed, page copy completed, redo copy completed"), "{log}");
    let password = fs::read_to_string(shop.backed_up("replication-password-k3x9q2ab")).unwrap();
    assert!(!log.contains(&password[..32]) && !log.contains(PASSWORD), "{log}");
    let manifest: serde_json::Value = serde_json::from_str(&shop.message()).unwrap();
    let position = MySql::parse_position(manifest["position"].as_str().unwrap()).unwrap();
    assert!(source.facts().await.position.reaches(&position) && manifest["bytes"].as_u64().unwrap() > 10 << 20, "{manifest}");
    succeed(shop.backup(&source, "k3x9q2ab-1"));
    assert_eq!(serde_json::from_str::<serde_json::Value>(&shop.message()).unwrap(), manifest, "one that is finished is reported again");
    let kept: Vec<_> = fs::read_dir(shop.backed_up("k3x9q2ab-1")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(kept.len(), 4, "data, list, settings, manifest: {kept:?}");
    assert!(!shop.backed_up("k3x9q2ab-1/data/auto.cnf").exists() && !shop.backed_up("k3x9q2ab-1.partial").exists());

    let (root, data) = shop.restored(&source, "k3x9q2ab-1");
    assert!(shop.guard(&data), "{}", shop.message());
    succeed(shop.restore(&source, "k3x9q2ab-1", &data));
    let settings: serde_json::Value = serde_json::from_slice(&fs::read(data.join("mysqld-auto.cnf")).unwrap()).unwrap();
    assert!(settings.to_string().contains("super_read_only"), "{settings}");

    source.sql("INSERT INTO shop.t VALUES ()");
    // The configuration says otherwise, and loses.
    let mut replica =
        Server::serve(root, data.clone(), &[RELAY_LOG, "--super-read-only=OFF", "--server-id=1", "--gtid-mode=OFF", "--skip-replica-start"]).await;
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::KILL, rustix::process::Signal::TERM] {
        let first = replica.answers().await.observe_replica().await.unwrap();
        assert!(first.read_only, "from its first second: {first:?}");
        assert_eq!(replica.sql("SELECT @@event_scheduler"), "OFF", "events run on the source");
        let written = replica.client("INSERT INTO shop.t VALUES ()").output().unwrap();
        assert!(String::from_utf8_lossy(&written.stderr).contains("--super-read-only"), "{written:?}");
        let mark = source.session().await.write_mark().await.unwrap();
        let state = replica.replica("the mark does not arrive", |state| state.streaming && state.applied.reaches(&mark)).await;
        assert!(state.received.reaches(&mark) && state.trouble.is_none(), "{state:?}");
        assert!(source.facts().await.position.reaches(&state.applied), "nothing of its own: {state:?}");
        assert_eq!(replica.sql("SELECT COUNT(*) FROM shop.t"), source.sql("SELECT COUNT(*) FROM shop.t"));
        assert_ne!(replica.sql("SELECT @@server_uuid, @@server_id").split('\t').next().unwrap(), source.sql("SELECT @@server_uuid"));
        let connected = source.sql("SELECT PROCESSLIST_USER FROM performance_schema.threads WHERE PROCESSLIST_COMMAND LIKE 'Binlog Dump%'");
        assert_eq!((connected.as_str(), source.facts().await.connections, source.facts().await.other_replicas), (identity().role().as_str(), 1, 0));
        // Nobody's cache knows the password after a restart of the source.
        source.sql("FLUSH PRIVILEGES");
        replica.stop(signal);
        source.sql("INSERT INTO shop.t VALUES ()");
        assert!(shop.guard(&data), "{}", shop.message());
        replica.start();
    }
    replica.answers().await;
    let facts = replica.facts().await;
    let found: Vec<_> = MySql::preflight(&facts, &wanted()).iter().map(|finding| finding.reason).collect();
    assert_eq!(found, ["SourceIsReplica", "SourceReadOnly"], "a replica is told from a source");

    source.execute(&Step::Disconnect { user: identity().role() }).await.unwrap();
    source.execute(&Step::DropUser { user: identity().role() }).await.unwrap();
    replica.sql("STOP REPLICA; START REPLICA");
    let state = replica
        .replica("it is told that it can't log in", |state| !state.streaming && state.trouble.as_ref().is_some_and(|trouble| trouble.contains("Access denied")))
        .await;
    assert!(state.read_only, "{state:?}");
}

#[tokio::test]
async fn a_backup_becomes_a_replica_that_streams() {
    a_backup_becomes_a_replica(&WITHOUT_GTIDS, true).await;
}

#[tokio::test]
async fn a_source_without_encryption_has_a_replica_all_the_same() {
    a_backup_becomes_a_replica(&["--tls-version="], false).await;
}

#[tokio::test]
async fn what_is_written_to_a_replica_is_detected() {
    let source = Server::new(&[]).await;
    source.enable().await;
    let shop = Workshop::new();
    succeed(shop.backup(&source, "k3x9q2ab-1"));
    let (root, data) = shop.restored(&source, "k3x9q2ab-1");
    let replica = Server::serve(root, data, &[RELAY_LOG]).await;
    let mark = source.session().await.write_mark().await.unwrap();
    replica.replica("the mark does not arrive", |state| state.streaming && state.applied.reaches(&mark)).await;
    replica.sql("SET GLOBAL super_read_only = OFF");
    let state = replica.session().await.observe_replica().await.unwrap();
    assert!(!state.read_only, "writable is said");
    replica.sql("CREATE DATABASE strange; SET GLOBAL super_read_only = ON");
    let state = replica.session().await.observe_replica().await.unwrap();
    let position = source.facts().await.position;
    assert!(state.read_only && state.streaming && !position.reaches(&state.applied), "{state:?} {position:?}");

    // A conflict stops the applier, and is said in the server's words.
    source.sql("CREATE DATABASE strange");
    let told = |state: &ReplicaSummary| !state.streaming && state.trouble.as_ref().is_some_and(|trouble| trouble.contains("strange"));
    replica.replica("the conflict is not told", told).await;
    replica.sql("STOP REPLICA");
    let state = replica.session().await.observe_replica().await.unwrap();
    assert!(state.trouble.as_ref().is_some_and(|trouble| trouble.contains("START REPLICA")), "{state:?}");
    // What it still needs is gone.
    source.sql("CREATE DATABASE never_received");
    source.sql("FLUSH BINARY LOGS");
    let last = source.sql("SHOW BINARY LOGS").lines().last().unwrap().split('\t').next().unwrap().to_owned();
    let begun = Instant::now();
    let summary = loop {
        // What a thread still sends is kept, and the one for the replica may not have noticed yet that this is gone.
        source.sql(&format!("PURGE BINARY LOGS TO '{last}'"));
        let summary = MySql::summary(&source.facts().await);
        if !state.received.reaches(&summary.oldest_for_replica) {
            break summary;
        }
        assert!(begun.elapsed() < PATIENCE, "it is not told: {state:?} {summary:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(summary.position.reaches(&summary.oldest_for_seed), "{summary:?}");
}

#[tokio::test]
async fn a_backup_that_fails_says_why_and_leaves_nothing_that_counts() {
    let source = Server::new(&[]).await;
    let shop = Workshop::new();
    assert!(!shop.backup(&source, "k3x9q2ab-1").status().unwrap().success());
    assert!(shop.message().contains("understudy_k3x9q2ab"), "the user is not there: {}", shop.message());
    source.execute(&Step::CreateUser { user: identity().role() }).await.unwrap();
    source.execute(&Step::InstallClone).await.unwrap();
    source.sql("CREATE DATABASE shop; CREATE TABLE shop.late (n INT) ENGINE = MyISAM");
    assert!(!shop.backup(&source, "k3x9q2ab-1").status().unwrap().success());
    assert!(shop.message().contains("shop.late (MyISAM)"), "{}", shop.message());
    fs::write(shop.path("credentials/password"), "wrong").unwrap();
    assert!(!shop.backup(&source, "k3x9q2ab-1").status().unwrap().success());
    assert!(shop.message().contains("Access denied") && !shop.message().contains("wrong"), "{}", shop.message());
    assert!(!shop.backed_up("k3x9q2ab-1").exists());
}

#[tokio::test]
async fn a_backup_that_was_changed_since_is_not_restored() {
    let source = Server::new(&[]).await;
    source.enable().await;
    let shop = Workshop::new();
    succeed(shop.backup(&source, "k3x9q2ab-1"));
    let file = shop.backed_up("k3x9q2ab-1/data/mysql.ibd");
    let mut bytes = fs::read(&file).unwrap();
    bytes[100_000] ^= 1;
    fs::write(&file, bytes).unwrap();
    let root = directory();
    let data = root.path().join("data");
    assert!(!shop.restore(&source, "k3x9q2ab-1", &data).status().unwrap().success());
    assert!(shop.message().contains("mysql.ibd is not what was verified"), "{}", shop.message());
    assert!(!shop.guard(&data));
}

#[tokio::test]
async fn a_backup_that_is_told_to_end_ends_its_server() {
    let source = Server::new(&[]).await;
    source.enable().await;
    let shop = Workshop::new();
    let scratch = shop.backed_up("k3x9q2ab-1.partial/scratch/ibdata1");
    let begun = Instant::now();
    let mut agent = shop.backup(&source, "k3x9q2ab-1").spawn().unwrap();
    while !scratch.exists() {
        assert!(begun.elapsed() < PATIENCE, "it never began");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    rustix::process::kill_process(rustix::process::Pid::from_child(&agent), rustix::process::Signal::TERM).unwrap();
    assert!(!agent.wait().unwrap().success());
    assert!(shop.message().contains("SIGTERM"), "{}", shop.message());
    succeed(shop.backup(&source, "k3x9q2ab-1"));
    assert!(shop.backed_up("k3x9q2ab-1/manifest.json").exists(), "and the next attempt starts over");
    assert!(!shop.backed_up("k3x9q2ab-1/scratch").exists());
}

#[tokio::test]
async fn a_source_with_a_layout_and_plugins_of_its_own_is_copied_all_the_same() {
    let layout = ["--lower-case-table-names=1", "--innodb-page-size=32K", "--innodb-data-file-path=ibdata1:20M:autoextend"];
    let root = directory();
    let (data, init) = (root.path().join("data"), root.path().join("init.sql"));
    let password = PASSWORD.replace('\\', "\\\\").replace('\'', "\\'");
    fs::write(&init, format!("ALTER USER 'root'@'localhost' IDENTIFIED BY '{password}';\n")).unwrap();
    give(&init);
    let mut make = mysqld();
    make.args(["--no-defaults", "--initialize-insecure"]).args(SMALL).args(layout).arg(format!("--datadir={}", inside(&data).display()));
    make.arg(format!("--init-file={}", inside(&init).display()));
    succeed(make);
    let source = Server::serve(root, data, &[&layout[..], &["--relay-log=relay"]].concat()).await;
    source.sql("INSTALL PLUGIN rewriter SONAME 'rewriter.so'; CREATE DATABASE Shop; CREATE TABLE Shop.T (n INT PRIMARY KEY); INSERT INTO Shop.T VALUES (1)");
    source.enable().await;
    let shop = Workshop::new();
    succeed(shop.backup(&source, "k3x9q2ab-1"));
    let (root, data) = shop.restored(&source, "k3x9q2ab-1");
    let replica = Server::serve(root, data, &[&layout[..], &["--relay-log=relay"]].concat()).await;
    let mark = source.session().await.write_mark().await.unwrap();
    replica.replica("the mark does not arrive", |state| state.read_only && state.streaming && state.applied.reaches(&mark)).await;
    assert_eq!(replica.sql("SELECT n FROM shop.t"), "1");
}

#[tokio::test]
async fn events_write_nothing_on_a_replica_in_the_moment_of_its_start() {
    // On the source it is still there.
    let source = Server::new(&["--event-scheduler=OFF"]).await;
    source.enable().await;
    source.sql("CREATE DATABASE shop; CREATE TABLE shop.ticks (at DATETIME(6)); CREATE EVENT shop.once ON SCHEDULE AT NOW() + INTERVAL 6 SECOND DO INSERT INTO shop.ticks VALUES (NOW(6)); CREATE EVENT shop.tick ON SCHEDULE EVERY 1 SECOND DO INSERT INTO shop.ticks VALUES (NOW(6))");
    let shop = Workshop::new();
    succeed(shop.backup(&source, "k3x9q2ab-1"));
    let (root, data) = shop.restored(&source, "k3x9q2ab-1");
    while source.sql("SELECT EXECUTE_AT < NOW() FROM information_schema.EVENTS WHERE EVENT_NAME = 'once'") == "0" {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut replica = Server::serve(root, data, &[RELAY_LOG, "--super-read-only=OFF", "--server-id=1", "--gtid-mode=OFF", "--skip-replica-start"]).await;
    for _ in 0..4 {
        let mark = source.session().await.write_mark().await.unwrap();
        let state = replica.replica("the mark does not arrive", |state| state.streaming && state.applied.reaches(&mark)).await;
        let logs = replica.sql("SHOW BINARY LOGS");
        let events = |log: &str| replica.sql(&format!("SHOW BINLOG EVENTS IN '{}'", log.split('\t').next().unwrap()));
        let said: Vec<String> = logs.lines().map(events).collect();
        assert!(source.facts().await.position.reaches(&state.applied), "{state:?}\n{}\n{}", said.join("\n"), replica.log());
        replica.stop(rustix::process::Signal::TERM);
        replica.start();
        replica.answers().await;
    }
    source.sql("DROP EVENT shop.once");
    let mark = source.session().await.write_mark().await.unwrap();
    replica.replica("the event's end stops the replica", |state| state.streaming && state.applied.reaches(&mark)).await;
}
