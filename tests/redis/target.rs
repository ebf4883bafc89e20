//! What a server that is to become a copy of another one holds, and whether it fits.

use std::fs;

use understudy::engine::redis::{Redis, RedisSession};
use understudy::engine::{Endpoint, Engine, Session, SessionError};

use super::common::{PASSWORD, Serving};
use super::{Server, directory};

async fn held(server: &Server) -> Vec<String> {
    server.session().await.user_data().await.unwrap()
}

async fn reasons(source: &Server, target: &Server) -> Vec<&'static str> {
    let facts = target.session().await.observe_source(None).await.unwrap();
    Redis::preflight_target(&source.facts().await, &facts).iter().map(|finding| finding.reason).collect()
}

#[tokio::test]
async fn everything_that_users_made_is_found() {
    for server in [Server::new(&[], "").await, Server::with_acl_file(&[]).await] {
        assert_eq!(held(&server).await, [""; 0], "a server as its image makes it; the one who asks is known to its owner");
        server.cli(&["-n", "9", "set", "k", "1"]);
        assert_eq!(held(&server).await, ["database 9: 1 key"]);
        server.cli(&[
            "function",
            "load",
            "#!lua name=mine\nredis.register_function('f', function() return 1 end)\nredis.register_function('g', function() return 1 end)",
        ]);
        server.cli(&["mset", "a", "1", "b", "1"]);
        server.cli(&["acl", "setuser", "app", "on", ">secret", "~*", "+@all"]);
        assert_eq!(held(&server).await, ["database 0: 2 keys", "database 9: 1 key", "ACL user app", "function library mine (2 functions)"]);
        server.cli(&["flushall"]);
        server.cli(&["function", "flush"]);
        server.cli(&["acl", "deluser", "app"]);
        assert_eq!(held(&server).await, [""; 0]);
        for number in 0..8 {
            server.cli(&["acl", "setuser", &format!("app{number}")]);
        }
        assert_eq!(held(&server).await[4..], ["ACL user app4", "3 more"]);
    }
}

#[tokio::test]
async fn a_user_who_may_not_look_does_not_see_an_empty_server() {
    let server = Server::new(&[], PASSWORD).await;
    for command in ["info", "function|list", "acl|users"] {
        server.cli(&["acl", "setuser", "app", "reset", "on", ">secret", "~*", "+@all", &format!("-{command}")]);
        let endpoint = Endpoint { username: "app".to_owned(), password: "secret".to_owned(), ..server.endpoint() };
        let refused = RedisSession::connect(&endpoint).await.unwrap().user_data().await.unwrap_err();
        assert!(matches!(&refused, SessionError::Failed { message, .. } if message.contains("NOPERM")), "{command}: {refused}");
    }
    let renamed = Server::new(&["--rename-command", "FUNCTION", ""], "").await;
    assert!(matches!(renamed.session().await.user_data().await, Err(SessionError::Failed { .. })), "a command that is not there says nothing");
}

#[tokio::test]
async fn a_sentinel_is_no_target_and_does_not_count_as_empty() {
    let (root, data) = directory();
    let file = root.path().join("sentinel.conf");
    fs::write(&file, "").unwrap();
    let arguments = vec![file.to_str().unwrap().to_owned(), "--sentinel".to_owned()];
    let sentinel = Server::serve(root, data, arguments, "default", "").await;
    assert!(matches!(sentinel.session().await.user_data().await, Err(SessionError::Failed { .. })));
    assert_eq!(reasons(&Server::new(&[], "").await, &sentinel).await, ["TargetIsSentinel"]);
}

#[tokio::test]
async fn servers_are_compared_by_what_a_snapshot_takes() {
    let (source, target) = (Server::new(&["--databases", "32"], "").await, Server::new(&[], "").await);
    assert_eq!((reasons(&source, &target).await, reasons(&target, &source).await), (vec!["TargetSettingsTooLow"], vec![]));
    target.cli(&["replicaof", "127.0.0.1", &source.port.to_string()]);
    assert_eq!(reasons(&target, &target).await, ["TargetIsReplica"]);
    let (users, cluster) = (Server::with_acl_file(&[]).await, Server::new(&["--cluster-enabled", "yes"], "").await);
    assert_eq!(reasons(&source, &users).await, ["TargetSettingsTooLow", "ConfigurationOnDataVolume"]);
    assert_eq!(reasons(&users, &users).await, [""; 0], "a copy of it has one");
    assert_eq!(reasons(&cluster, &cluster).await, ["ClusterEnabled"]);
}
