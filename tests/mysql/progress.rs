//! How far the clone of a source is, as the source tells it.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use understudy::engine::mysql::{MySql, MySqlSession};
use understudy::engine::{Endpoint, Engine, Progress, Session};

use super::support::{PATIENCE, Server, identity, inside};

const MIB: u64 = 1 << 20;
/// Without it the recipient has a clone of this size in less than a second, and nobody sees its middle.
const SLOW: &str = "SET GLOBAL clone_max_data_bandwidth = 4";

/// A server that clones another one, slowly.
fn clone(source: &Server, recipient: &Server, password: &str) -> Child {
    recipient.sql(&format!("SET GLOBAL clone_valid_donor_list = '127.0.0.1:{}'; {SLOW}", source.port));
    let sql = format!(
        "CLONE INSTANCE FROM '{}'@'127.0.0.1':{} IDENTIFIED BY '{password}' DATA DIRECTORY = '{}' REQUIRE SSL",
        identity().role(),
        source.port,
        inside(&recipient.root.path().join("clone")).display()
    );
    recipient.client(&sql).stderr(Stdio::piped()).spawn().unwrap()
}

fn send(server: &Server, signal: Signal) {
    kill_process(Pid::from_child(server.child.as_ref().unwrap()), signal).unwrap();
}

async fn progress(source: &Server) -> Option<Progress> {
    MySql::summary(&source.facts().await).backup_progress
}

#[tokio::test]
async fn a_source_tells_how_far_its_clone_is_with_its_settings_as_they_are() {
    let source = Server::new(&[]).await;
    source.enable().await;
    source.session().await.give_access(&identity(), "secret").await.unwrap();
    source.sql("CREATE DATABASE shop; CREATE TABLE shop.t (n INT AUTO_INCREMENT PRIMARY KEY, v LONGBLOB)");
    source.sql(&"INSERT INTO shop.t (v) VALUES (REPEAT('x', 8 << 20));".repeat(8));
    let total = source.session().await.measure().await.unwrap();
    assert!(total > 64 * MIB, "{total}");
    assert_eq!(progress(&source).await, None, "nobody clones it");

    let recipient = Server::new(&["--plugin-load-add=mysql_clone.so"]).await;
    let mut cloning = clone(&source, &recipient, "secret");
    let (begun, mut last) = (Instant::now(), 0);
    while last < total / 2 {
        assert!(begun.elapsed() < PATIENCE, "{last} bytes\n{}", source.log());
        assert_eq!(cloning.try_wait().unwrap(), None, "it has ended: {last} of {total} bytes were seen");
        if let Some(Progress { copied, total: None }) = progress(&source).await {
            assert!(copied >= last, "{copied} after {last}");
            last = copied;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Here it stands still, however long it takes to look at it.
    send(&recipient, Signal::STOP);
    assert!(last < total * 3 / 2, "{last} of {total} bytes");

    // Who may see connections but not what they have sent, or not even these, is told nothing, and that is no error.
    source.sql("CREATE USER shop IDENTIFIED BY 'secret'");
    let endpoint = Endpoint { username: "shop".to_owned(), password: "secret".to_owned(), database: String::new(), ..source.endpoint() };
    for (visible, connections) in [(&[][..], 0), (&["threads", "persisted_variables", "replication_connection_configuration"], 1)] {
        for table in visible {
            source.sql(&format!("GRANT SELECT ON performance_schema.{table} TO shop"));
        }
        let facts = MySqlSession::connect(&endpoint).await.unwrap().observe_source(Some(&identity())).await.unwrap();
        assert!(facts.clone_sent.is_none() && facts.connections >= connections, "{visible:?}: {facts:?}");
    }
    source.sql("GRANT SELECT ON performance_schema.* TO shop; GRANT PROCESS ON *.* TO shop");
    let mut session = MySqlSession::connect(&endpoint).await.unwrap();
    assert!(session.observe_source(Some(&identity())).await.unwrap().clone_sent > Some(0), "and with the privilege it is");

    send(&recipient, Signal::CONT);
    recipient.sql("SET GLOBAL clone_max_data_bandwidth = 0");
    let ended = cloning.wait_with_output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let begun = Instant::now();
    while progress(&source).await.is_some() {
        assert!(begun.elapsed() < PATIENCE, "it does not end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
