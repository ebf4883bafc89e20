//! Sources that can't be cloned: mysqldump makes the copy, and the replica goes on from its GTIDs.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use understudy::api::Change;
use understudy::engine::mysql::{MySql, Step};
use understudy::engine::{Engine, Session, WantedSource};

use crate::support::{PATIENCE, RELAY_LOG, Server, WITHOUT_GTIDS, Workshop, Writer, succeed, wanted};

/// As enabling does it, which goes on where the plugin can't be had.
async fn enable(server: &Server) -> Vec<Change> {
    let facts = server.facts().await;
    assert_eq!(MySql::preflight(&facts, &wanted()), vec![]);
    let steps = MySql::plan_enable(&facts, &wanted());
    assert!(steps.contains(&Step::InstallClone), "{steps:?}");
    for step in &steps {
        server.execute(step).await.unwrap();
    }
    let facts = server.facts().await;
    assert!(!facts.clone_active);
    let left = MySql::plan_enable(&facts, &WantedSource { prove_login: false, ..wanted() });
    assert_eq!(left, vec![], "no step is repeated for ever");
    steps.iter().filter_map(|step| MySql::record(&facts, step)).collect()
}

/// Everything but rows of `shop.t` that a copy has to have, as `mysqldump` does not write all of it by itself.
const CONTENTS: &str = r#"
    CREATE TABLE shop.odd (id INT PRIMARY KEY, b VARBINARY(300), `it's ``odd` VARCHAR(20) CHARACTER SET latin1, j JSON, bits BIT(9), at TIMESTAMP(6) NULL,
        twice INT GENERATED ALWAYS AS (id * 2) STORED, hidden INT INVISIBLE DEFAULT 7);
    INSERT INTO shop.odd (id, b, `it's ``odd`, j, bits, at) VALUES (1, X'00FF0A0D5C27225C4E1A', 'ü\\\n\r\'', '{"a": [1, "ü"]}', b'101010101', '2026-03-29 01:30:00.123456'),
        (2, NULL, '', NULL, NULL, NULL), (3, '\\! true\n\\. /etc/passwd\nDELIMITER x\n', '\\', '{}', b'0', NOW(6));
    CREATE TABLE shop.log (n INT);
    CREATE TRIGGER shop.noted AFTER INSERT ON shop.odd FOR EACH ROW INSERT INTO shop.log VALUES (NEW.id);
    CREATE FUNCTION shop.answer() RETURNS INT DETERMINISTIC RETURN 42;
    CREATE VIEW shop.v AS SELECT shop.answer() AS n, id FROM shop.odd;
    CREATE USER shop@'%' IDENTIFIED BY 'secret', `o'd``d`@'10.0.0.0/255.0.0.0' IDENTIFIED BY 'x'; CREATE ROLE readers; GRANT SELECT ON shop.* TO readers; GRANT readers TO shop@'%';
    INSERT INTO mysql.time_zone VALUES (77, 'N'); INSERT INTO mysql.time_zone_name VALUES ('Moon/Tycho', 77);
    INSERT INTO mysql.time_zone_transition_type VALUES (77, 0, 3600, 0, 'TYC'); INSERT INTO mysql.time_zone_transition VALUES (77, -2000000000, 0);
    SET time_zone = 'Moon/Tycho'; CREATE EVENT shop.tick ON SCHEDULE EVERY 1 HOUR DO INSERT INTO shop.log VALUES (0);
    CREATE DATABASE `a first one`; CREATE TABLE `a first one`.t (n INT PRIMARY KEY); CREATE EVENT `a first one`.tick ON SCHEDULE EVERY 1 HOUR DO INSERT INTO shop.log VALUES (0)"#;

const LOOKS: [&str; 6] = [
    "CHECKSUM TABLE shop.odd, shop.log, mysql.tables_priv, mysql.role_edges, mysql.time_zone_name",
    "SELECT id, HEX(b), HEX(`it's ``odd`), j, bits + 0, at, twice, hidden FROM shop.odd ORDER BY id",
    "SELECT User, Host, plugin, authentication_string, account_locked FROM mysql.user ORDER BY 1, 2",
    "SELECT ROUTINE_NAME, ROUTINE_DEFINITION, DEFINER FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA = 'shop' ORDER BY 1",
    "SELECT EVENT_SCHEMA, EVENT_NAME, TIME_ZONE, EVENT_DEFINITION FROM information_schema.EVENTS ORDER BY 1, 2",
    "SELECT TABLE_NAME, TABLE_TYPE FROM information_schema.TABLES WHERE TABLE_SCHEMA IN ('shop', 'a first one') ORDER BY 1; \
     SELECT TRIGGER_NAME, ACTION_STATEMENT FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA = 'shop'; SELECT * FROM shop.v ORDER BY id",
];

async fn dumped_while_written(options: &[&str], encrypted: bool) {
    let source = Server::new(options).await;
    let mut writer = Writer::start(&source);
    source.sql(CONTENTS);
    let recorded = enable(&source).await;
    assert_eq!(source.facts().await.encrypted, encrypted);
    let before = writer.rows(&source, 100).await;
    let shop = Workshop::new();
    let log = String::from_utf8(succeed(shop.backup(&source, "k3x9q2ab-1")).stderr).unwrap();
    let kept = fs::read_to_string(shop.backed_up("replication-password-k3x9q2ab")).unwrap();
    assert!(log.contains("mysqldump") && !log.contains(&kept[..32]) && !log.contains("it's a"), "{log}");
    let manifest: serde_json::Value = serde_json::from_str(&shop.message()).unwrap();
    let note = manifest["note"].as_str().unwrap_or_default();
    assert!(note.starts_with("copied with mysqldump: the source can't install the clone plugin: Can't open shared library"), "{manifest}");
    writer.rows(&source, before + 1).await;
    let (root, data) = shop.restored(&source, "k3x9q2ab-1");
    assert!(shop.guard(&data), "{}", shop.message());
    let replica = Server::serve(root, data, &[&[RELAY_LOG, "--super-read-only=OFF", "--server-id=1"], options].concat()).await;
    let first = replica.session().await.observe_replica().await.unwrap();
    assert!(first.read_only, "{first:?}");
    writer.stop();
    let longest = Writer::longest_gap(&source);
    assert!(longest < 5.0, "writes waited for {longest} s");
    eprintln!("longest gap between two commits: {longest} s");
    source.sql(
        "INSERT INTO shop.odd (id) VALUES (9); ALTER USER shop@'%' IDENTIFIED BY 'other'; DROP EVENT shop.tick; CREATE TABLE shop.later (n INT PRIMARY KEY)",
    );
    let mark = source.session().await.write_mark().await.unwrap();
    let state = replica.replica("the mark does not arrive", |state| state.streaming && state.applied.reaches(&mark)).await;
    assert!(source.facts().await.position.reaches(&state.applied), "nothing of its own: {state:?}");
    for sql in LOOKS {
        assert_eq!(replica.sql(sql), source.sql(sql));
    }
    let rows = "SELECT COUNT(*), MAX(n), BIT_XOR(CRC32(CONCAT(n, at))) FROM shop.t";
    assert_eq!(replica.sql(rows), source.sql(rows));
    assert_eq!(replica.sql("SELECT @@event_scheduler, @@super_read_only, @@server_id = 1"), "OFF\t1\t0");
    let held = "SELECT COUNT(*) FROM performance_schema.metadata_locks WHERE OBJECT_TYPE = 'BACKUP LOCK'";
    assert_eq!(source.sql(held), "0", "nothing is held any more");
    source.disable(&recorded).await;
}

#[tokio::test]
async fn a_source_without_the_plugin_is_dumped_while_it_is_written_to() {
    // There are no plugins here.
    dumped_while_written(&[&["--plugin-dir=/etc"], &WITHOUT_GTIDS[..]].concat(), true).await;
}

#[tokio::test]
async fn a_source_without_plugin_and_encryption_is_dumped_all_the_same() {
    dumped_while_written(&["--plugin-dir=/etc", "--tls-version="], false).await;
}

#[tokio::test]
async fn a_plugin_that_is_disabled_or_was_uninstalled_is_said() {
    let mut source = Server::new(&[]).await;
    source.enable().await;
    source.sql("UNINSTALL PLUGIN clone");
    let shop = Workshop::new();
    succeed(shop.backup(&source, "k3x9q2ab-1"));
    assert!(shop.message().contains("copied with mysqldump: the source's clone plugin is not installed"), "{}", shop.message());
    assert!(!source.facts().await.clone_active, "the backup installs nothing");
    source.sql("INSERT INTO mysql.plugin VALUES ('clone', 'mysql_clone.so')");
    source.stop(rustix::process::Signal::TERM);
    source.options.push("--clone=OFF".to_owned());
    source.start();
    source.answers().await;
    source.execute(&Step::InstallClone).await.unwrap();
    succeed(shop.backup(&source, "k3x9q2ab-2"));
    assert!(shop.message().contains("copied with mysqldump: the source's clone plugin is DISABLED"), "{}", shop.message());
}

#[tokio::test]
async fn what_would_be_lost_by_a_dump_is_refused() {
    let source = Server::new(&["--plugin-dir=/etc"]).await;
    enable(&source).await;
    source.sql("CREATE DATABASE shop; CREATE TABLE shop.late (n INT) ENGINE = MyISAM");
    let shop = Workshop::new();
    assert!(!shop.backup(&source, "k3x9q2ab-1").status().unwrap().success());
    assert!(shop.message().contains("shop.late (MyISAM)"), "{}", shop.message());
    source.sql(
        "DROP TABLE shop.late; CREATE USER admin IDENTIFIED BY 'secret'; GRANT ALL ON *.* TO admin WITH GRANT OPTION; REVOKE TRIGGER, EVENT ON *.* FROM admin",
    );
    fs::write(shop.path("credentials/username"), "admin").unwrap();
    fs::write(shop.path("credentials/password"), "secret").unwrap();
    assert!(!shop.backup(&source, "k3x9q2ab-1").status().unwrap().success());
    assert!(shop.message().contains("lacks on *.*: TRIGGER, EVENT"), "{}", shop.message());
    source.sql("GRANT TRIGGER, EVENT ON *.* TO admin; CREATE TABLE shop.t (n INT); CREATE VIEW shop.broken AS SELECT n FROM shop.t; DROP TABLE shop.t");
    assert!(!shop.backup(&source, "k3x9q2ab-1").status().unwrap().success());
    assert!(shop.message().starts_with("mysqldump failed") && shop.message().contains("shop.broken"), "{}", shop.message());
    assert!(!shop.backed_up("k3x9q2ab-1").exists());
}

#[tokio::test]
async fn a_dump_never_holds_up_writes_behind_a_long_statement() {
    let source = Server::new(&["--plugin-dir=/etc"]).await;
    enable(&source).await;
    source.sql("CREATE DATABASE shop; CREATE TABLE shop.t (n INT PRIMARY KEY); INSERT INTO shop.t VALUES (1)");
    let mut long = source.client("SELECT SLEEP(600) FROM shop.t").stdout(Stdio::null()).spawn().unwrap();
    let begun = Instant::now();
    while source.sql("SELECT COUNT(*) FROM performance_schema.threads WHERE PROCESSLIST_STATE = 'User sleep'") == "0" {
        assert!(begun.elapsed() < PATIENCE, "it does not sleep");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let shop = Workshop::new();
    let mut backup = shop.backup(&source, "k3x9q2ab-1").spawn().unwrap();
    assert!(!backup.wait().unwrap().success());
    assert!(shop.message().contains("a statement has run on the source for "), "{}", shop.message());
    assert!(long.try_wait().unwrap().is_none(), "the statement still runs");
    let begun = Instant::now();
    source.sql("INSERT INTO shop.t VALUES (2)");
    assert!(begun.elapsed() < Duration::from_secs(5), "and writes no longer wait: {:?}", begun.elapsed());
    long.kill().unwrap();
    long.wait().unwrap();
}

#[tokio::test]
async fn definitions_and_accounts_that_change_all_the_while_are_neither_lost_nor_made_twice() {
    let source = Server::new(&["--plugin-dir=/etc"]).await;
    enable(&source).await;
    // The server counts who waits: to be seen waiting takes luck.
    let wait = "stage/sql/Waiting for backup lock";
    source.sql(&format!("CREATE DATABASE shop; UPDATE performance_schema.setup_instruments SET ENABLED = 'YES', TIMED = 'YES' WHERE NAME = '{wait}'"));
    let change = |n| {
        let before = n / 2;
        format!(
            "CREATE TABLE shop.t{n} (n INT PRIMARY KEY); INSERT INTO shop.t{n} VALUES ({n}); CREATE USER u{n}; CREATE EVENT shop.e{n} ON SCHEDULE EVERY 1 DAY DO DO 1; \
             CREATE FUNCTION shop.f{n}() RETURNS INT DETERMINISTIC RETURN {n}; DROP TABLE IF EXISTS shop.t{before}; DROP EVENT IF EXISTS shop.e{before};"
        )
    };
    let writer = Writer::feed(&source, change);
    let shop = Workshop::new();
    succeed(shop.backup(&source, "k3x9q2ab-1"));
    writer.stop();
    let waits = format!("SELECT COUNT_STAR FROM performance_schema.events_stages_summary_global_by_event_name WHERE EVENT_NAME = '{wait}'");
    assert!(source.sql(&waits).parse::<u64>().unwrap() > 0, "they did not wait");
    let (root, data) = shop.restored(&source, "k3x9q2ab-1");
    let replica = Server::serve(root, data, &[RELAY_LOG]).await;
    let mark = source.session().await.write_mark().await.unwrap();
    replica.replica("the mark does not arrive", |state| state.streaming && state.applied.reaches(&mark)).await;
    for sql in [
        "SELECT User FROM mysql.user ORDER BY 1",
        "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'shop' ORDER BY 1",
        "SELECT EVENT_NAME FROM information_schema.EVENTS ORDER BY 1",
        "SELECT ROUTINE_NAME FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA = 'shop' ORDER BY 1",
    ] {
        assert_eq!(replica.sql(sql), source.sql(sql));
    }
}
