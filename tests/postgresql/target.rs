//! What a server that is to become a copy of another one holds, and whether it fits.

use understudy::engine::postgresql::{PostgreSql, PostgreSqlSession};
use understudy::engine::{Endpoint, Engine, Session, SessionError};

use super::common::Serving;
use super::{HBA, Server};

async fn held(server: &Server) -> Vec<String> {
    server.session().await.user_data().await.unwrap()
}

#[tokio::test]
async fn a_server_as_its_image_makes_it_holds_nothing() {
    let server = Server::new(HBA, &[]).await;
    assert_eq!(held(&server).await, [""; 0]);
    server.sql("CREATE DATABASE shop");
    server.sql("CREATE TEMP TABLE t (n serial)");
    server.sql("GRANT ALL ON SCHEMA public TO PUBLIC");
    server.sql("DROP EXTENSION plpgsql; CREATE EXTENSION plpgsql");
    assert_eq!(held(&server).await, [""; 0], "neither an empty database, nor what a session has left, nor what an upgrade makes anew");
    assert!(!server.log().contains("ERROR"), "{}", server.log());
}

#[tokio::test]
async fn everything_that_users_made_is_found_in_every_database() {
    let server = Server::new(HBA, &[]).await;
    server.sql(r#"CREATE DATABASE "it's a ""shop"" ""#);
    let kinds = [
        ("CREATE TABLE t ()", "DROP TABLE t", "1 table"),
        ("CREATE TABLE pg_temporary ()", "DROP TABLE pg_temporary", "1 table"),
        ("CREATE VIEW v AS SELECT 1", "DROP VIEW v", "1 view"),
        ("CREATE MATERIALIZED VIEW v AS SELECT 1", "DROP MATERIALIZED VIEW v", "1 view"),
        ("CREATE SEQUENCE s", "DROP SEQUENCE s", "1 sequence"),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "DROP FUNCTION f", "1 function"),
        ("CREATE PROCEDURE f() LANGUAGE sql AS 'SELECT 1'", "DROP PROCEDURE f", "1 function"),
        ("CREATE TYPE e AS ENUM ('a')", "DROP TYPE e", "1 type"),
        ("CREATE TYPE c AS (a int)", "DROP TYPE c", "1 type"),
        ("CREATE DOMAIN d AS int", "DROP DOMAIN d", "1 type"),
        ("CREATE SCHEMA others", "DROP SCHEMA others", "1 schema"),
        // With a number below those of everything else that users make.
        ("SELECT lo_create(5)", "SELECT lo_unlink(5)", "1 large object"),
        ("CREATE TEXT SEARCH DICTIONARY d (TEMPLATE = simple)", "DROP TEXT SEARCH DICTIONARY d", "1 other object"),
        ("CREATE PUBLICATION p", "DROP PUBLICATION p", "1 other object"),
    ];
    for database in ["postgres", "template1", r#"it's a "shop" "#] {
        for (make, undo, told) in kinds {
            server.sql_in(database, make);
            let found = held(&server).await;
            assert!(found.len() == 1 && found[0].starts_with(&format!("database {database}: {told} (about ")), "{make}: {found:?}");
            server.sql_in(database, undo);
            assert_eq!(held(&server).await, [""; 0], "{undo}");
        }
    }
    server.sql("CREATE TABLE t (n serial PRIMARY KEY, a text); CREATE TABLE u ()");
    assert!(held(&server).await[0].starts_with("database postgres: 2 tables, 1 sequence (about "), "indexes and the like belong to their table");
}

#[tokio::test]
async fn an_extension_counts_once_and_what_is_the_users_own_beside_it() {
    let server = Server::new(HBA, &[]).await;
    server.sql("CREATE EXTENSION pg_trgm");
    assert!(held(&server).await[0].starts_with("database postgres: 1 extension (about "));
}

#[tokio::test]
async fn what_cannot_be_looked_into_may_hold_anything() {
    let server = Server::new(HBA, &[]).await;
    server.sql("CREATE DATABASE closed ALLOW_CONNECTIONS false");
    assert_eq!(held(&server).await, ["database closed, which can't be looked into: it allows no connections"]);
    server.sql("ALTER DATABASE template0 ALLOW_CONNECTIONS true");
    server.sql_in("template0", "CREATE TABLE t ()");
    assert!(held(&server).await[0].starts_with("database template0: 1 table"), "the template that is never used may be used");
}

#[tokio::test]
async fn roles_count_but_for_the_administrators() {
    let server = Server::new(HBA, &[]).await;
    server.sql("CREATE ROLE admin SUPERUSER LOGIN PASSWORD 'secret'; CREATE ROLE app LOGIN; CREATE ROLE readers");
    assert_eq!(held(&server).await, ["role admin", "role app", "role readers"]);
    let endpoint = Endpoint { username: "admin".to_owned(), password: "secret".to_owned(), ..server.endpoint() };
    let found = PostgreSqlSession::connect(&endpoint).await.unwrap().user_data().await.unwrap();
    assert_eq!(found, ["role app", "role readers"], "neither the image's nor the one that asks");
}

#[tokio::test]
async fn the_largest_comes_first_and_the_rest_is_counted() {
    let server = Server::new(HBA, &[]).await;
    for number in 1..=7 {
        server.sql(&format!("CREATE ROLE app{number} LOGIN"));
    }
    server.sql("CREATE DATABASE small");
    server.sql_in("small", "CREATE TABLE t ()");
    server.sql("CREATE TABLE t AS SELECT repeat('x', 100) FROM generate_series(1, 100000)");
    let found = held(&server).await;
    assert_eq!(found.len(), 6);
    assert!(found[0].starts_with("database postgres: 1 table") && found[1].starts_with("database small: 1 table"), "{found:?}");
    assert_eq!(found[2..], ["role app1", "role app2", "role app3", "4 more"]);
}

#[tokio::test]
async fn a_user_who_may_not_look_does_not_see_an_empty_server() {
    let server = Server::new(HBA, &[]).await;
    server.sql("CREATE ROLE shop LOGIN PASSWORD 'secret'");
    server.sql("CREATE DATABASE locked");
    server.sql("REVOKE CONNECT ON DATABASE locked FROM PUBLIC");
    let endpoint = Endpoint { username: "shop".to_owned(), password: "secret".to_owned(), ..server.endpoint() };
    let find = async || PostgreSqlSession::connect(&endpoint).await.unwrap().user_data().await;
    let found = find().await.unwrap();
    assert!(found.len() == 1 && found[0].starts_with("database locked, which can't be looked into: permission denied"), "{found:?}");
    server.sql("DROP DATABASE locked");
    assert_eq!(find().await.unwrap(), [""; 0]);
    // The catalogues of one database only.
    server.sql("CREATE DATABASE hardened");
    server.sql_in("hardened", "REVOKE SELECT ON pg_catalog.pg_proc FROM PUBLIC");
    let refused = find().await.unwrap_err();
    assert!(matches!(&refused, SessionError::Failed { doing, message } if doing.contains("hardened") && message.contains("permission denied")), "{refused}");
    server.sql("DROP DATABASE hardened");
    server.sql("REVOKE SELECT ON pg_catalog.pg_roles FROM PUBLIC");
    assert!(matches!(find().await, Err(SessionError::Failed { .. })));
}

#[tokio::test]
async fn settings_are_compared_with_where_they_come_from() {
    let (source, target) = (Server::new(HBA, &["max_connections=60"]).await, Server::new(HBA, &[]).await);
    let judge = async |source: &Server, target: &Server| {
        PostgreSql::preflight_target(&source.facts().await, &target.session().await.observe_source(None).await.unwrap())
    };
    let reasons = async |source: &Server, target: &Server| judge(source, target).await.iter().map(|finding| finding.reason).collect::<Vec<_>>();
    assert_eq!(reasons(&source, &target).await, [""; 0], "both have the default of 100, or are to have it");
    let facts = source.facts().await;
    let connections = facts.standby_settings.iter().find(|setting| setting.name == "max_connections").unwrap();
    assert_eq!((connections.value.as_str(), connections.default.as_str(), connections.source.as_str()), ("60", "100", "command line"));
    assert_eq!((facts.standby_settings.len(), facts.own_files.len()), (6, 2));

    let large = Server::new(HBA, &["max_connections=200", "max_prepared_transactions=5"]).await;
    let found = judge(&large, &target).await;
    assert_eq!(found.iter().map(|finding| finding.reason).collect::<Vec<_>>(), ["TargetSettingsTooLow"]);
    assert!(found[0].message.contains("max_connections would be 100 on the target and is 200"), "{found:?}");
    assert!(found[0].message.contains("max_prepared_transactions would be 0 on the target and is 5"), "{found:?}");
    assert_eq!(reasons(&target, &large).await, [""; 0], "more is no finding");

    // In its data directory it would be gone.
    let mut own = Server::new(HBA, &["max_prepared_transactions=5"]).await;
    own.sql("ALTER SYSTEM SET max_connections = 300");
    own.process.stop(rustix::process::Signal::INT);
    own.start();
    own.answers().await;
    assert_eq!(reasons(&large, &own).await, ["TargetSettingsTooLow"]);
    assert_eq!(reasons(&own, &large).await, ["TargetSettingsTooLow"], "the arguments win over what comes along");
    assert_eq!(reasons(&own, &own).await, [""; 0]);

    let off = Server::new(HBA, &["hot_standby=off"]).await;
    assert_eq!(reasons(&target, &off).await, ["TargetHotStandbyOff"]);
    target.sql("CREATE ROLE shop LOGIN PASSWORD 'secret'");
    let endpoint = Endpoint { username: "shop".to_owned(), password: "secret".to_owned(), ..target.endpoint() };
    let facts = PostgreSqlSession::connect(&endpoint).await.unwrap().observe_source(None).await.unwrap();
    let found = PostgreSql::preflight_target(&large.facts().await, &facts);
    assert_eq!(found.iter().map(|finding| finding.reason).collect::<Vec<_>>(), ["NotSuperuser"]);
}
