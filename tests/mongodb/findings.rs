//! What preflight finds on a source, each with its reason.

use ::mongodb::bson::doc;
use rustix::process::Signal;
use understudy::engine::mongodb::{MongoDb, MongoSession, Standing};
use understudy::engine::{Endpoint, Engine, Finding, Session};

use super::common::{PASSWORD, Serving, identity, wanted};
use super::server::Server;

async fn found(endpoint: &Endpoint) -> Vec<Finding> {
    let facts = MongoSession::connect(endpoint).await.unwrap().observe_source(Some(&identity())).await.unwrap();
    MongoDb::preflight(&facts, &wanted(&[1, 2]))
}

#[tokio::test]
async fn what_a_user_may_not_is_listed() {
    let server = Server::new(PASSWORD).await;
    assert_eq!(found(&server.endpoint()).await, []);
    let all = ["replSetConfigure", "replSetGetStatus", "replSetGetConfig", "appendOplogNote", "createRole", "grantRole", "dropRole"];
    for (user, roles, missing) in [
        ("nobody", &[][..], &all[..]),
        ("owner", &["readWriteAnyDatabase", "dbAdminAnyDatabase"], &all),
        ("cluster", &["clusterAdmin"], &["createRole", "grantRole", "dropRole"]),
        ("both", &["clusterAdmin", "userAdminAnyDatabase", "backup"], &[]),
    ] {
        server.run("admin", doc! {"createUser": user, "pwd": "x", "roles": roles.to_vec()}).await.unwrap();
        let endpoint = Endpoint { username: user.into(), password: "x".into(), ..server.endpoint() };
        let found = found(&endpoint).await;
        let unsaid = missing.iter().filter(|action| !found.iter().any(|finding| finding.message.contains(**action)));
        assert_eq!(unsaid.count(), 0, "{user}: {found:?}");
        assert_eq!(found.iter().map(|finding| finding.reason).collect::<Vec<_>>(), vec!["NotPermitted"; usize::from(!missing.is_empty())], "{user}");
        assert!(found.iter().all(|finding| finding.message.starts_with(&format!("user {user} may not: "))), "{found:?}");
    }
}

#[tokio::test]
async fn a_member_of_another_set_is_no_source_and_neither_is_what_it_left() {
    let mut server = Server::new("").await;
    let alone = server.arguments.clone();
    let other = [alone.clone(), ["--replSet", "rs0"].map(str::to_owned).to_vec()].concat();
    server.restart(Signal::KILL, other).await;
    let reasons = async |server: &Server| found(&server.endpoint()).await.into_iter().map(|finding| (finding.reason, finding.message)).collect::<Vec<_>>();
    let is_member = vec![("SourceIsReplica", "the source already runs as a member of the replica set rs0".to_owned())];
    assert_eq!(reasons(&server).await, is_member, "before it is initiated, too");
    assert_eq!(MongoDb::plan_enable(&server.facts().await, &wanted(&[1, 2])), [], "a set that is not ours is not initiated");
    let members = doc! {"_id": "rs0", "members": [{"_id": 0, "host": format!("127.0.0.1:{}", server.port)}]};
    server.run("admin", doc! {"replSetInitiate": members}).await.unwrap();
    server.facts_once("it takes the writes", |facts| facts.standing == Standing::Primary).await;
    assert_eq!(reasons(&server).await, is_member);
    assert_eq!(MongoDb::plan_leave(&server.facts().await, &identity(), &[]), []);

    server.restart(Signal::KILL, alone).await;
    let left = reasons(&server).await;
    assert!(matches!(&left[..], [("SourceIsReplica", message)] if message.contains("database local")), "{left:?}");
    assert_eq!(MongoDb::plan_disable(&server.facts().await, &identity(), &[]), [], "it is not ours to drop");
}
