//! What a server that is to become a copy of another one holds, and whether it fits.

use understudy::engine::mysql::{MySql, MySqlSession};
use understudy::engine::{Endpoint, Engine, Session, SessionError};

use super::support::Server;

async fn held(server: &Server) -> Vec<String> {
    server.session().await.user_data().await.unwrap()
}

#[tokio::test]
async fn everything_that_users_made_is_found_in_every_schema() {
    let server = Server::new(&["--innodb-file-per-table=OFF"]).await;
    assert_eq!(held(&server).await, [""; 0], "a server as its image makes it");
    server.sql("CREATE DATABASE `it's a ``shop`; CREATE DATABASE shop; CREATE TEMPORARY TABLE shop.t (n INT)");
    assert_eq!(held(&server).await, [""; 0], "an empty schema may be the image's");
    let kinds = [
        ("TABLE {}.t (n INT)", "TABLE {}.t", "1 table"),
        ("TABLE {}.t (n INT) ENGINE = MyISAM", "TABLE {}.t", "1 table"),
        ("VIEW {}.v AS SELECT 1", "VIEW {}.v", "1 view"),
        ("FUNCTION {}.f() RETURNS INT DETERMINISTIC RETURN 1", "FUNCTION {}.f", "1 routine"),
        ("PROCEDURE {}.p() SELECT 1", "PROCEDURE {}.p", "1 routine"),
        ("EVENT {}.e ON SCHEDULE EVERY 1 DAY DO SELECT 1", "EVENT {}.e", "1 event"),
    ];
    for (schema, quoted) in [("shop", "shop"), ("it's a `shop", "`it's a ``shop`"), ("mysql", "mysql"), ("sys", "sys")] {
        for (make, undo, told) in kinds {
            // The server has no MyISAM tables in its own schemas.
            if matches!(schema, "mysql" | "sys") && make.contains("MyISAM") {
                continue;
            }
            server.sql(&format!("CREATE {}", make.replace("{}", quoted)));
            let found = held(&server).await;
            assert!(found.len() == 1 && found[0].starts_with(&format!("database {schema}: {told}")), "{make}: {found:?}");
            server.sql(&format!("DROP {}", undo.replace("{}", quoted)));
            assert_eq!(held(&server).await, [""; 0], "{undo}");
        }
    }
    server.sql("SET GLOBAL innodb_file_per_table = ON; CREATE TABLE mysql.orders (n INT) ROW_FORMAT = DYNAMIC; CREATE TABLE shop.t (n INT); CREATE TABLE shop.u (n INT)");
    let found = held(&server).await;
    assert_eq!(found, ["database shop: 2 tables (about 32.0 KiB)", "database mysql: 1 table"], "the largest first");
}

#[tokio::test]
async fn accounts_count_but_for_the_images_and_the_administrators() {
    let server = Server::new(&[]).await;
    server.sql("CREATE USER app IDENTIFIED BY 'secret', 'mysql.sys'@'%'; CREATE ROLE readers; CREATE USER root@'10.%'");
    assert_eq!(held(&server).await, ["account app@%", "account mysql.sys@%", "account readers@%"]);
    server.sql("DROP USER 'mysql.sys'@'%'; GRANT ALL ON *.* TO app WITH GRANT OPTION; CREATE USER a, b, c, d, e, f");
    let endpoint = Endpoint { username: "app".to_owned(), password: "secret".to_owned(), database: String::new(), ..server.endpoint() };
    let found = MySqlSession::connect(&endpoint).await.unwrap().user_data().await.unwrap();
    assert_eq!(found, ["account a@%", "account b@%", "account c@%", "account d@%", "account e@%", "2 more"], "but for the one that asks");
}

#[tokio::test]
async fn a_user_who_may_not_look_does_not_see_an_empty_server() {
    let server = Server::new(&[]).await;
    server.sql("CREATE DATABASE shop; CREATE TABLE shop.t (n INT); CREATE DATABASE app; CREATE USER app IDENTIFIED BY 'secret'; GRANT ALL ON app.* TO app");
    let endpoint = Endpoint { username: "app".to_owned(), password: "secret".to_owned(), database: String::new(), ..server.endpoint() };
    let find = async || MySqlSession::connect(&endpoint).await.unwrap().user_data().await;
    let refused = find().await.unwrap_err();
    assert!(matches!(&refused, SessionError::Failed { message, .. } if message.ends_with("SELECT, EVENT, PROCESS")), "{refused}");
    // What it asks for is enough.
    server.sql("GRANT SELECT, EVENT, PROCESS ON *.* TO app");
    assert_eq!(find().await.unwrap(), ["database shop: 1 table (about 16.0 KiB)"]);
    server.sql("SET GLOBAL partial_revokes = ON; REVOKE SELECT ON shop.* FROM app");
    let refused = find().await.unwrap_err();
    assert!(matches!(&refused, SessionError::Failed { message, .. } if message.contains("revoked")), "{refused}");
}

#[tokio::test]
async fn servers_are_compared_by_what_the_data_was_made_with() {
    let (source, target) = (Server::new(&[]).await, Server::new(&["--relay-log=elsewhere", "--persisted-globals-load=OFF", "--skip-log-bin"]).await);
    let judge = async |source: &Server, target: &Server| {
        let facts = target.session().await.observe_source(None).await.unwrap();
        MySql::preflight_target(&source.facts().await, &facts)
    };
    assert_eq!(judge(&source, &source).await, []);
    let found = judge(&source, &target).await;
    assert_eq!(found.iter().map(|finding| finding.reason).collect::<Vec<_>>(), ["TargetSettingsDiffer", "PersistedSettingsIgnored"], "{found:?}");
    assert!(found[0].message.starts_with("relay_log is elsewhere on the target and not set on the source"), "{found:?}");
    source.sql("CHANGE REPLICATION SOURCE TO SOURCE_HOST = 'nowhere'; CREATE USER app IDENTIFIED BY 'secret'");
    assert_eq!(judge(&source, &source).await.iter().map(|finding| finding.reason).collect::<Vec<_>>(), ["TargetIsReplica"]);
    let endpoint = Endpoint { username: "app".to_owned(), password: "secret".to_owned(), database: String::new(), ..source.endpoint() };
    let facts = MySqlSession::connect(&endpoint).await.unwrap().observe_source(None).await.unwrap();
    let found = MySql::preflight_target(&source.facts().await, &facts);
    assert_eq!(found.iter().map(|finding| finding.reason).collect::<Vec<_>>(), ["PrivilegesMissing"], "what is not seen may be there");
}
