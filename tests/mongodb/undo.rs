//! What a crash in the middle of undoing leaves.

use ::mongodb::bson::doc;
use rustix::process::Signal;
use understudy::engine::mongodb::Standing;

use super::common::{PASSWORD, Serving, identity};
use super::server::Server;
use super::set::Set;

#[tokio::test]
async fn clearing_local_converges_wherever_it_was_cut_off() {
    let server = Server::new(PASSWORD).await;
    let before = server.traces().await;
    let Set { source: mut server, before: alone, recorded, .. } = Set::of(server).await;
    server.restart(Signal::KILL, alone).await;
    let facts = server.facts().await;
    assert!(facts.standing == Standing::Standalone && facts.left.is_some() && !facts.role, "{facts:?}");

    let role = identity().role();
    let privilege = doc! {"resource": {"db": "local", "collection": ""}, "actions": ["dropDatabase"]};
    let create = doc! {"createRole": &role, "privileges": [privilege], "roles": []};
    let grant = doc! {"grantRolesToUser": "root", "roles": [{"role": &role, "db": "admin"}]};

    // The role is made and granted, and nothing is dropped yet.
    server.run("admin", create.clone()).await.unwrap();
    server.run("admin", grant.clone()).await.unwrap();
    let facts = server.facts().await;
    assert!(facts.left.is_some() && facts.role, "{facts:?}");
    server.disable(&recorded).await;
    assert_eq!(server.traces().await, before);

    // The database is dropped, and the role is left: granted, and not even that. Here nothing else says that there is anything to undo.
    for granted in [true, false] {
        server.run("admin", create.clone()).await.unwrap();
        if granted {
            server.run("admin", grant.clone()).await.unwrap();
        }
        let facts = server.facts().await;
        assert!(facts.left.is_none() && facts.role, "{facts:?}");
        server.disable(&[]).await;
        assert_eq!(server.traces().await, before, "granted: {granted}");
    }
}
