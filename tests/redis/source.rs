//! What is read from a source and changed on it.

use std::fs;
use std::path::Path;

use rustix::process::Signal;
use understudy::api::Change;
use understudy::engine::redis::{Persistence, Redis, RedisSession, Step};
use understudy::engine::{Endpoint, Engine, Session, SessionError};

use super::Server;
use super::common::{PASSWORD, Serving, identity, wanted};

const MIB: u64 = 1 << 20;

#[tokio::test]
async fn enabling_and_disabling_leaves_no_trace() {
    for server in [
        Server::new(&[], "").await,
        Server::new(&[], PASSWORD).await,
        Server::new(&["--appendonly", "yes"], "").await,
        Server::new(&["--appendonly", "yes", "--save", ""], PASSWORD).await,
        Server::with_acl_file(&[]).await,
        Server::with_acl_file(&["--appendonly", "yes"]).await,
    ] {
        let before = server.traces();
        let recorded = server.enable(&wanted(&[1])).await;
        assert_eq!(recorded.len(), 2);
        server.session().await.give_access(&identity(), "a password of ours").await.unwrap();
        assert_ne!(server.traces(), before);
        let facts = server.facts().await;
        assert_eq!(facts.backlog_size, Some(64 * MIB));
        assert!(Redis::summary(&facts).access, "{facts:?}");
        server.disable(&recorded).await;
        assert_eq!(server.traces(), before);
    }
}

#[tokio::test]
async fn an_acl_file_is_its_owners() {
    let server = Server::with_acl_file(&[]).await;
    let file = server.facts().await.acl_file;
    let before = fs::read_to_string(&file).unwrap();
    server.cli(&["acl", "setuser", "guest", "on", "nopass", "+get", "~public:*"]);
    let recorded = server.enable(&wanted(&[1])).await;
    server.session().await.give_access(&identity(), "a password of ours").await.unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), before, "what somebody tries out and has not saved is not saved with ours");
    // Who loads it takes our user away: it is made again.
    server.cli(&["acl", "load"]);
    let facts = server.facts().await;
    assert!(facts.role.is_none() && !Redis::summary(&facts).access, "{facts:?}");
    server.twice(&Redis::plan_enable(&facts, &wanted(&[1]))).await;
    assert!(server.facts().await.role.is_some());
    server.disable(&recorded).await;
    assert_eq!(fs::read_to_string(&file).unwrap(), before);
}

#[tokio::test]
async fn an_administrator_who_has_lost_its_privileges_does_not_end_the_clean_up() {
    let server = Server::new(&[], "").await;
    let recorded = server.enable(&wanted(&[1])).await;
    server.cli(&["acl", "setuser", "app", "on", ">secret", "~*", "+@all", "-acl|getuser"]);
    let endpoint = Endpoint { username: "app".to_owned(), password: "secret".to_owned(), ..server.endpoint() };
    let mut session = RedisSession::connect(&endpoint).await.unwrap();
    let refused = async |session: &mut RedisSession, recorded: &[Change]| {
        let facts = session.observe_source(Some(&identity())).await.unwrap();
        let mut refused = vec![];
        for step in Redis::plan_disable(&facts, &identity(), recorded) {
            refused.extend(session.execute(&step).await.err().map(|error| error.to_string()));
        }
        refused
    };
    // Twice: also where the user itself is gone by then, it can't be told.
    for _ in 0..2 {
        let said = refused(&mut session, &recorded[1..]).await;
        assert!(said.len() == 1 && said[0].contains("NOPERM") && said[0].contains("delete the ACL user"), "{said:?}");
    }
    server.cli(&["acl", "setuser", "app", "+acl|getuser", "-config|get"]);
    let said = refused(&mut session, &recorded).await;
    assert!(said.len() == 1 && said[0].contains("NOPERM") && said[0].contains("repl-backlog-size"), "{said:?}");
    server.cli(&["acl", "setuser", "app", "+config|get"]);
    assert_eq!(refused(&mut session, &recorded).await, Vec::<String>::new());
    let facts = server.facts().await;
    assert_eq!((Redis::plan_disable(&facts, &identity(), &recorded), facts.backlog_size), (vec![], Some(MIB)));
}

#[tokio::test]
async fn settings_of_the_user_are_left_alone() {
    let server = Server::new(&["--repl-backlog-size", "128mb"], "").await;
    let recorded = server.enable(&wanted(&[1])).await;
    assert_eq!(recorded.len(), 1, "the backlog is large enough: {recorded:?}");
    server.disable(&recorded).await;
    assert_eq!(server.facts().await.backlog_size, Some(128 * MIB));
    let other = Step::RestoreSetting { name: "maxmemory".to_owned(), before: "1".to_owned() };
    assert!(matches!(server.session().await.execute(&other).await, Err(SessionError::Failed { .. })), "only what is ours is put back");
}

#[tokio::test]
async fn facts_are_those_of_the_server() {
    let server = Server::new(&[], PASSWORD).await;
    let facts = server.facts().await;
    assert_eq!(facts.version, server.info("redis_version"));
    assert_eq!(facts.history, server.info("master_replid"));
    assert_eq!(Path::new(&facts.data_directory), server.data);
    assert_eq!((facts.replica, facts.cluster, facts.offset, facts.backlog_first, facts.role), (false, false, 0, None, None));
    assert_eq!((facts.persistence, facts.backlog_size), (Some(Persistence { snapshots: true, append_only: false }), Some(MIB)));
    assert_eq!((facts.acl_file.as_str(), facts.user.as_str(), facts.forbidden.len()), ("", "default", 0));
    assert_eq!(facts.shutdown_wait, 10);
    for (way, waits) in [("save", 10), ("save now", 0), ("nosave", 0), ("force", 10)] {
        server.cli(&["config", "set", "shutdown-on-sigterm", way]);
        assert_eq!(server.facts().await.shutdown_wait, waits, "{way}");
    }
    assert!(facts.used_memory > 100_000 && server.session().await.measure().await.unwrap() > 100_000, "{facts:?}");
    let stranger = server.session().await.observe_source(None).await.unwrap();
    assert_eq!((stranger.forbidden.len(), stranger.role), (0, None));
}

#[tokio::test]
async fn a_source_without_persistence_is_said() {
    let server = Server::new(&["--save", ""], "").await;
    let reasons = |facts| Redis::preflight(&facts, &wanted(&[1])).iter().map(|finding| finding.reason).collect::<Vec<_>>();
    assert_eq!(reasons(server.facts().await), ["NoPersistence"]);
    server.cli(&["config", "set", "appendonly", "yes"]);
    assert_eq!(reasons(server.facts().await), Vec::<&str>::new());
}

#[tokio::test]
async fn what_is_forbidden_or_renamed_is_said_at_once() {
    let mut server = Server::new(&[], "").await;
    server.cli(&["acl", "setuser", "app", "on", ">secret", "~*", "+@all", "-config|set", "-acl|setuser", "-wait", "-ping"]);
    let endpoint = Endpoint { username: "app".to_owned(), password: "secret".to_owned(), ..server.endpoint() };
    let facts = RedisSession::connect(&endpoint).await.unwrap().observe_source(Some(&identity())).await.unwrap();
    assert_eq!(facts.forbidden, ["config|set", "acl|setuser", "wait"]);
    assert!(!server.cli(&["acl", "list"]).contains("understudy"), "nothing was executed");
    // Who may do nothing but log in is told everything that is missing.
    server.cli(&["acl", "setuser", "app", "-@all", "+acl|dryrun"]);
    let facts = RedisSession::connect(&endpoint).await.unwrap().observe_source(Some(&identity())).await.unwrap();
    assert_eq!(facts.forbidden, ["info", "config|get", "acl|getuser", "config|set", "acl|setuser", "acl|deluser", "wait"]);
    let findings = Redis::preflight(&facts, &wanted(&[1]));
    assert_eq!(findings.iter().map(|finding| finding.reason).collect::<Vec<_>>(), ["NotPermitted"]);

    server.arguments = ["--rename-command", "CONFIG", "\"\"", "--rename-command", "WAIT", "HOLD"].map(str::to_owned).to_vec();
    server.restart(Signal::KILL, |_| {}).await;
    assert_eq!(server.facts().await.forbidden, ["config|get", "config|set", "wait"]);

    // The list of users is copied where they stand in a file.
    let server = Server::with_acl_file(&[]).await;
    server.cli(&["acl", "setuser", "app", "on", ">secret", "~*", "+@all", "-acl|list", "-acl|save"]);
    let endpoint = Endpoint { username: "app".to_owned(), password: "secret".to_owned(), ..server.endpoint() };
    let facts = RedisSession::connect(&endpoint).await.unwrap().observe_source(Some(&identity())).await.unwrap();
    assert_eq!(facts.forbidden, ["acl|list"]);
}

#[tokio::test]
async fn a_login_that_will_not_do_is_refused() {
    let server = Server::new(&[], PASSWORD).await;
    let with = |username: &str, password: &str| Endpoint { username: username.to_owned(), password: password.to_owned(), ..server.endpoint() };
    for (username, password) in [("default", ""), ("default", "wrong"), ("nobody", "wrong"), ("nobody", "")] {
        let refused = RedisSession::connect(&with(username, password)).await.err();
        assert!(matches!(&refused, Some(SessionError::Refused(why)) if why.contains("NOAUTH") || why.contains("WRONGPASS")), "{username}: {refused:?}");
    }
    let open = Server::new(&[], "").await;
    let refused = RedisSession::connect(&Endpoint { password: "unasked".to_owned(), ..open.endpoint() }).await.err();
    assert!(matches!(&refused, Some(SessionError::Refused(why)) if why.contains("without any password configured")), "{refused:?}");
    let renamed = Server::new(&["--rename-command", "AUTH", "\"\""], "").await;
    let refused = RedisSession::connect(&Endpoint { password: "a secret".to_owned(), ..renamed.endpoint() }).await.err();
    assert!(matches!(&refused, Some(SessionError::Refused(why)) if why.contains("unknown command") && !why.contains("a secret")), "{refused:?}");
    let gone = Endpoint { port: 1, ..open.endpoint() };
    assert!(matches!(RedisSession::connect(&gone).await, Err(SessionError::Unreachable(_))));
    let missing = open.session().await.give_access(&identity(), "secret").await;
    assert!(matches!(missing, Err(SessionError::Failed { .. })), "{missing:?}");
    assert!(!open.cli(&["acl", "list"]).contains("understudy"), "a password makes no user");
}

#[tokio::test]
async fn a_user_that_anybody_could_be_is_closed() {
    let server = Server::new(&[], "").await;
    let user = identity().role();
    server.cli(&["acl", "setuser", &user, "on", "nopass", "+@all"]);
    assert_eq!(Redis::plan_enable(&server.facts().await, &wanted(&[1])).len(), 2);
    server.enable(&wanted(&[1])).await;
    assert!(!Redis::summary(&server.facts().await).access);
    // Made again, it keeps the password that it has.
    server.session().await.give_access(&identity(), "secret").await.unwrap();
    server.cli(&["acl", "setuser", &user, "-psync"]);
    server.enable(&wanted(&[1])).await;
    assert!(Redis::summary(&server.facts().await).access);
}

#[tokio::test]
async fn no_secret_reaches_the_server_in_clear() {
    let server = Server::new(&[], "").await;
    server.cli(&["config", "set", "slowlog-log-slower-than", "0"]);
    server.enable(&wanted(&[1])).await;
    server.session().await.give_access(&identity(), "a password of ours").await.unwrap();
    let seen = format!("{}{}{}", server.cli(&["slowlog", "get", "128"]), server.cli(&["acl", "list"]), server.log());
    assert!(seen.to_lowercase().contains("setuser") && !seen.contains("a password of ours"), "{seen}");
}
