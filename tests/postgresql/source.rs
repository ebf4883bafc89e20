//! What is read from a source and changed on it.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use understudy::api::Change;
use understudy::engine::postgresql::{PostgreSql, PostgreSqlSession, Step, hba_line};
use understudy::engine::{Endpoint, Engine, Held, Session, SessionError};

use super::common::{PASSWORD, Serving, identity, until, wanted};
use super::{HBA, Server, bin, bytes, command, give, user};

#[tokio::test]
async fn enabling_and_disabling_leaves_no_trace() {
    let latin = b"# caf\xe9\nlocal all all trust\nhost all all all scram-sha-256".as_slice();
    for hba in [HBA.as_bytes(), HBA.trim_end().as_bytes(), latin] {
        let server = Server::new(hba, &[]).await;
        let before = server.traces();
        let recorded = server.enable(&wanted(&[1, 2])).await;
        assert_ne!(server.traces(), before);
        let facts = server.facts().await;
        assert_eq!(facts.slots.iter().map(|slot| slot.number).collect::<Vec<_>>(), [1, 2]);
        assert_eq!((facts.slot_wal_keep_mb, facts.slot_wal_keep_auto_conf.as_deref()), (512, Some("512MB")));
        server.disable(&recorded).await;
        assert_eq!(server.traces(), before);
    }
}

#[tokio::test]
async fn a_setting_that_stood_there_before_stands_there_again() {
    let server = Server::new(HBA, &[]).await;
    server.sql("ALTER SYSTEM SET max_slot_wal_keep_size = '-1'");
    server.sql("SELECT pg_reload_conf()");
    let before = server.traces();
    let recorded = server.enable(&wanted(&[1])).await;
    assert!(recorded.iter().any(|change| change.before.as_deref() == Some("-1")), "{recorded:?}");
    server.disable(&recorded).await;
    assert_eq!(server.traces(), before);
    let other = Step::RestoreSetting { name: "work_mem".to_owned(), before: None };
    assert!(matches!(server.execute(&other).await, Err(SessionError::Failed { .. })), "only what is ours is put back");
}

#[tokio::test]
async fn what_streams_is_sent_away_before_slot_and_role_go() {
    let server = Server::new(HBA, &[]).await;
    let before = server.traces();
    let recorded = server.enable(&wanted(&[1])).await;
    server.session().await.give_access(&identity(), "secret").await.unwrap();
    let mut receiver = command(bin("pg_receivewal"));
    receiver.arg("-D").arg(server.data.parent().unwrap()).args(["--slot", &identity().slot(1), "-h", "127.0.0.1", "-U", &identity().role()]);
    receiver.args(["-p", &server.port.to_string()]).env("PGPASSWORD", "secret").stderr(Stdio::null());
    let mut receiver = receiver.spawn().unwrap();
    let streams = async || server.facts().await.slots.iter().any(|slot| slot.active).then_some(());
    until(streams, || server.log()).await;
    assert_eq!(server.facts().await.connections, 1);
    server.disable(&recorded).await;
    receiver.kill().unwrap();
    receiver.wait().unwrap();
    assert_eq!(server.traces(), before);
}

#[tokio::test]
async fn facts_are_those_of_the_server() {
    let server = Server::new(HBA, &[]).await;
    let facts = server.facts().await;
    assert_eq!(facts.version_num, server.sql("SHOW server_version_num").parse::<u32>().unwrap());
    assert_eq!(facts.version, server.sql("SHOW server_version"));
    assert_eq!((facts.superuser, facts.user.as_str(), facts.in_recovery, facts.wal_level.as_str()), (true, "postgres", false, "replica"));
    assert_eq!((facts.wal_senders, facts.replication_slots), ((10, 0), (10, 0)));
    assert_eq!((facts.slot_wal_keep_mb, facts.slot_wal_keep_source.as_str(), facts.slot_wal_keep_auto_conf.clone()), (-1, "default", None));
    assert_eq!(server.session().await.measure().await.unwrap().to_string(), server.sql("SELECT sum(pg_database_size(oid)) FROM pg_database"));
    assert_eq!((Path::new(&facts.data_directory), PathBuf::from(&facts.hba_file)), (server.data.as_path(), server.hba()));
    assert_eq!(facts.owner, fs::metadata(&server.data).map(|data| (data.uid(), data.gid())).unwrap());
    assert!(facts.hba_writable && !facts.hba_line_present && facts.outside.is_empty(), "{facts:?}");
    let rule = facts.hba_rules.last().unwrap();
    assert_eq!(
        (rule.kind.as_str(), rule.databases.join(","), rule.users.join(","), rule.method.as_str()),
        ("host", "all".into(), "all".into(), "scram-sha-256")
    );
    assert!(facts.oldest_wal <= facts.position && bytes(&facts.oldest_wal) + (8 << 20) > bytes(&facts.position), "{facts:?}");
    // Once in a while a server writes something by itself, between two looks.
    let same = async || {
        let facts = server.facts().await;
        (facts.position == PostgreSql::parse_position(&server.sql("SELECT pg_current_wal_insert_lsn()")).unwrap()).then_some(())
    };
    until(same, || "another position".to_owned()).await;
    assert!(!server.log().contains("ERROR"), "looking leaves no errors in the server's log: {}", server.log());
}

#[tokio::test]
async fn an_idle_source_is_only_read() {
    let server = Server::new(HBA, &["log_statement=all"]).await;
    server.enable(&wanted(&[1])).await;
    let log = server.log().len();
    server.facts().await;
    let statements = server.log().split_off(log);
    assert!(!statements.contains("PROGRAM"), "nothing is run on the source's machine: {statements}");
    assert!(statements.matches("LOG:  statement:").count() <= 3, "few round trips: {statements}");
    // What it writes by itself once in a while may fall between two looks, but not every time.
    let position = || server.sql("SELECT pg_current_wal_insert_lsn()");
    let unchanged = async || {
        let before = position();
        server.facts().await;
        (position() == before).then_some(())
    };
    until(unchanged, || "every look writes to the log".to_owned()).await;
}

#[tokio::test]
async fn an_ordinary_user_gives_facts_and_no_error() {
    let server = Server::new(HBA, &[]).await;
    server.enable(&wanted(&[1])).await;
    server.sql("CREATE ROLE shop LOGIN PASSWORD 'secret'");
    let endpoint = Endpoint { username: "shop".to_owned(), password: "secret".to_owned(), ..server.endpoint() };
    let mut session = PostgreSqlSession::connect(&endpoint).await.unwrap();
    let facts = session.observe_source(Some(&identity())).await.unwrap();
    assert_eq!((facts.superuser, facts.user.as_str()), (false, "shop"));
    assert!(facts.role_exists && facts.hba_rules.is_empty());
    assert!(PostgreSql::preflight(&facts, &wanted(&[1])).iter().any(|finding| finding.reason == "NotSuperuser"));
    assert!(matches!(session.execute(&Step::DropSlot { slot: identity().slot(1) }).await, Err(SessionError::Failed { .. })));
}

#[tokio::test]
async fn a_login_that_will_not_do_is_told_from_a_server_that_is_not_there() {
    let mut server = Server::new(HBA, &[]).await;
    let try_with = |change: fn(&mut Endpoint)| {
        let mut endpoint = server.endpoint();
        change(&mut endpoint);
        async move { PostgreSqlSession::connect(&endpoint).await.map(drop).unwrap_err() }
    };
    let wrong = try_with(|endpoint| endpoint.password = "wrong".to_owned()).await;
    assert_eq!(wrong, SessionError::Refused("password authentication failed for user \"postgres\"".to_owned()));
    assert!(matches!(try_with(|endpoint| endpoint.database = "none".to_owned()).await, SessionError::Refused(message) if message.contains("none")));
    assert!(matches!(try_with(|endpoint| endpoint.username = "nobody".to_owned()).await, SessionError::Refused(_)));
    let mut session = server.session().await;
    let endpoint = server.endpoint();
    server.process.stop(Signal::INT);
    let gone = PostgreSqlSession::connect(&endpoint).await.map(drop).unwrap_err();
    assert!(matches!(&gone, SessionError::Unreachable(message) if message.contains(&format!("127.0.0.1:{}", server.port))), "{gone}");
    assert!(matches!(session.observe_source(None).await, Err(SessionError::Unreachable(_))), "a connection that broke");
    // An address that swallows everything.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let begun = Instant::now();
    let endpoint = Endpoint { port: silent.local_addr().unwrap().port(), ..endpoint };
    assert!(matches!(PostgreSqlSession::connect(&endpoint).await, Err(SessionError::Unreachable(_))));
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn an_earlier_rule_that_rejects_is_found_by_the_login() {
    let server = Server::new(format!("host replication all all reject\n{HBA}"), &[]).await;
    let role = identity().role();
    server.execute(&Step::CreateRole { role: role.clone() }).await.unwrap();
    server.execute(&Step::AddHbaLine { line: hba_line(&identity()) }).await.unwrap();
    let refused = server.execute(&Step::ProveLogin { role: role.clone() }).await.unwrap_err().to_string();
    assert!(refused.contains("pg_hba.conf rejects replication connection"), "{refused}");
    // One that asks for the password in the clear would let a replica in.
    fs::write(server.hba(), format!("host replication all all password\n{HBA}")).unwrap();
    server.sql("SELECT pg_reload_conf()");
    server.execute(&Step::ProveLogin { role: role.clone() }).await.unwrap();
    // And without any line there is no way in.
    fs::write(server.hba(), HBA).unwrap();
    server.sql("SELECT pg_reload_conf()");
    let refused = server.execute(&Step::ProveLogin { role }).await.unwrap_err().to_string();
    assert!(refused.contains("no pg_hba.conf entry for replication connection"), "{refused}");
}

#[tokio::test]
async fn a_file_that_cannot_be_written_is_a_finding_and_stays_as_it_is() {
    if user().is_none() {
        eprintln!("not root: the server owns all files, and this can't be tried");
        return;
    }
    let server = Server::new(HBA, &[]).await;
    let hba = server.hba();
    chown(&hba, Some(0), Some(0)).unwrap();
    fs::set_permissions(&hba, fs::Permissions::from_mode(0o444)).unwrap();
    let facts = server.facts().await;
    assert!(!facts.hba_writable);
    assert!(!server.log().contains("ERROR"), "a no is not an error in the server's log: {}", server.log());
    assert_eq!(PostgreSql::preflight(&facts, &wanted(&[1])).iter().map(|finding| finding.reason).collect::<Vec<_>>(), ["HbaNotWritable"]);
    let failed = server.execute(&Step::AddHbaLine { line: hba_line(&identity()) }).await.unwrap_err();
    assert!(matches!(failed, SessionError::Failed { .. }), "{failed}");
    assert_eq!(fs::read_to_string(&hba).unwrap(), HBA);
}

#[tokio::test]
async fn a_file_with_errors_is_not_touched() {
    let server = Server::new(HBA, &[]).await;
    let broken = format!("{HBA}host all nonsense\n");
    fs::write(server.hba(), &broken).unwrap();
    let failed = server.execute(&Step::AddHbaLine { line: hba_line(&identity()) }).await.unwrap_err().to_string();
    assert!(failed.contains("line 3"), "{failed}");
    assert_eq!(fs::read_to_string(server.hba()).unwrap(), broken);
    assert!(PostgreSql::preflight(&server.facts().await, &wanted(&[1])).iter().any(|finding| finding.reason == "HbaFileBroken"));
    // A line of ours that the server does not take is taken out again.
    fs::write(server.hba(), HBA).unwrap();
    server.execute(&Step::AddHbaLine { line: "host replication someone all nonsense # ours".to_owned() }).await.unwrap_err();
    assert_eq!(fs::read_to_string(server.hba()).unwrap(), HBA);
}

#[tokio::test]
async fn data_outside_the_directory_is_found() {
    let mut server = Server::new(HBA, &[]).await;
    let elsewhere = server.root.path().join("tablespace");
    fs::create_dir(&elsewhere).unwrap();
    give(&elsewhere);
    server.sql(&format!("CREATE TABLESPACE fast LOCATION '{}'", elsewhere.display()));
    server.process.stop(Signal::INT);
    let (log, moved) = (server.data.join("pg_wal"), server.root.path().join("wal"));
    fs::rename(&log, &moved).unwrap();
    std::os::unix::fs::symlink(&moved, &log).unwrap();
    server.start();
    server.answers().await;
    let facts = server.facts().await;
    assert_eq!(facts.outside, [elsewhere.to_str().unwrap(), "pg_wal (a link)"]);
}

#[tokio::test]
async fn a_slot_whose_log_is_gone_is_reported() {
    let server = Server::new(HBA, &["max_wal_size=2MB", "min_wal_size=2MB"]).await;
    server.execute(&Step::LimitSlotWal { megabytes: 2 }).await.unwrap();
    server.execute(&Step::CreateSlot { slot: identity().slot(3) }).await.unwrap();
    let held = async || PostgreSql::summary(&server.facts().await).held;
    assert_eq!(held().await, [(3, Held::Kept)]);
    let oldest = server.facts().await.oldest_wal;
    server.sql("CREATE TABLE t AS SELECT repeat('x', 100) FROM generate_series(1, 100000)");
    server.sql("CHECKPOINT");
    server.sql("CHECKPOINT");
    assert_eq!(held().await, [(3, Held::Lost)]);
    assert!(server.facts().await.oldest_wal > oldest);
    server.execute(&Step::DropSlot { slot: identity().slot(3) }).await.unwrap();
    assert_eq!(held().await, []);
}

#[tokio::test]
async fn encryption_is_used_where_the_server_has_it() {
    let mut server = Server::new(HBA, &[]).await;
    let (key, certificate) = (server.data.join("server.key"), server.data.join("server.crt"));
    let mut openssl = command("openssl");
    openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=nobody", "-keyout"]).arg(&key).arg("-out").arg(&certificate);
    match openssl.output() {
        Ok(made) if made.status.success() => {}
        _ => return eprintln!("openssl is not here: not tried"),
    }
    server.process.stop(Signal::INT);
    server.options.push("ssl=on".to_owned());
    fs::write(server.data.join("pg_hba.conf"), "local all all trust\nhostssl all all all scram-sha-256\n").unwrap();
    server.start();
    server.answers().await;
    let role = identity().role();
    server.execute(&Step::CreateRole { role: role.clone() }).await.unwrap();
    let line = hba_line(&identity());
    server.execute(&Step::AddHbaLine { line }).await.unwrap();
    fs::write(server.hba(), fs::read_to_string(server.hba()).unwrap().replace("host replication", "hostssl replication")).unwrap();
    server.sql("SELECT pg_reload_conf()");
    server.execute(&Step::ProveLogin { role }).await.unwrap();
}

#[tokio::test]
async fn functions_that_users_made_are_not_called() {
    let server = Server::new(HBA, &[]).await;
    // A better match than the server's own, which takes arrays of any kind.
    server.sql("CREATE FUNCTION public.array_to_string(text[], text) RETURNS text LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'called'; END$$");
    let recorded = server.enable(&wanted(&[1])).await;
    server.disable(&recorded).await;
}

#[tokio::test]
async fn no_secret_reaches_the_servers_log() {
    let server = Server::new(HBA, &["log_statement=all", "log_min_duration_statement=0"]).await;
    server.enable(&wanted(&[1])).await;
    server.session().await.give_access(&identity(), "a password of ours").await.unwrap();
    let log = server.log();
    assert!(log.contains("SCRAM-SHA-256$") && !log.contains("a password of ours") && !log.contains(PASSWORD));
}

#[tokio::test]
async fn what_stands_in_a_file_and_was_not_loaded_is_loaded_by_the_next_step() {
    let server = Server::new(HBA, &[]).await;
    let mut session = server.session().await;
    let identity = identity();
    // Killed after the line was written, before the reload: the login proves it all the same.
    session.execute(&Step::CreateRole { role: identity.role() }).await.unwrap();
    let path = server.data.join("pg_hba.conf");
    fs::write(&path, format!("{HBA}{}\n", hba_line(&identity))).unwrap();
    session.execute(&Step::ProveLogin { role: identity.role() }).await.unwrap();

    // Killed after the setting was put back, before the reload: it is seen, and put back again.
    session.execute(&Step::LimitSlotWal { megabytes: 512 }).await.unwrap();
    fs::write(server.data.join("postgresql.auto.conf"), "").unwrap();
    let facts = server.session().await.observe_source(Some(&identity)).await.unwrap();
    let recorded = [Change { what: "setting max_slot_wal_keep_size".into(), before: None, after: "512MB".into() }];
    let steps = PostgreSql::plan_disable(&facts, &identity, &recorded);
    assert!(matches!(steps.last(), Some(Step::RestoreSetting { .. })), "{steps:?}");
    for step in &steps {
        session.execute(step).await.unwrap();
    }
    let facts = server.session().await.observe_source(Some(&identity)).await.unwrap();
    assert_eq!(facts.slot_wal_keep_mb, -1);
    assert_eq!(PostgreSql::plan_disable(&facts, &identity, &recorded), vec![]);
}
