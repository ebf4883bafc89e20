//! What a server holds that its users made.

use ::mongodb::bson::doc;
use rustix::process::Signal;
use understudy::engine::mongodb::{MongoSession, Standing};
use understudy::engine::{Endpoint, Session, SessionError};

use super::common::{PASSWORD, Serving, identity};
use super::server::Server;

async fn held(server: &Server) -> Vec<String> {
    server.session().await.user_data().await.unwrap()
}

#[tokio::test]
async fn collections_are_found_in_every_database() {
    let server = Server::new(PASSWORD).await;
    assert_eq!(held(&server).await, [""; 0], "a server as its image makes it");
    for database in ["shop", "admin", "local", "test"] {
        server.run(database, doc! {"create": "orders"}).await.unwrap();
        let found = held(&server).await;
        assert!(found.len() == 1 && found[0].starts_with(&format!("database {database}: 1 collection (about ")), "{found:?}");
        server.run(database, doc! {"drop": "orders"}).await.unwrap();
        assert_eq!(held(&server).await, [""; 0]);
    }
    for number in 0..7 {
        server.run(&format!("shop{number}"), doc! {"create": "orders"}).await.unwrap();
    }
    let found = held(&server).await;
    assert!(found.len() == 6 && found[5] == "2 more", "{found:?}");
}

#[tokio::test]
async fn a_set_of_its_own_is_no_data() {
    let mut server = Server::new("").await;
    let arguments = server.member_arguments();
    server.restart(Signal::KILL, arguments).await;
    let members = doc! {"_id": identity().role(), "members": [{"_id": 0, "host": format!("127.0.0.1:{}", server.port)}]};
    server.run("admin", doc! {"replSetInitiate": members}).await.unwrap();
    server.facts_once("it takes the writes", |facts| facts.standing == Standing::Primary).await;
    assert_eq!(held(&server).await, [""; 0]);
}

#[tokio::test]
async fn a_user_who_may_not_look_does_not_see_an_empty_server() {
    let server = Server::new(PASSWORD).await;
    server.run("shop", doc! {"create": "orders"}).await.unwrap();
    for (user, roles) in
        [("nobody", vec![]), ("app", vec![doc! {"role": "readWrite", "db": "app"}]), ("lists", vec![doc! {"role": "clusterMonitor", "db": "admin"}])]
    {
        server.run("admin", doc! {"createUser": user, "pwd": "x", "roles": roles}).await.unwrap();
        let endpoint = Endpoint { username: user.into(), password: "x".into(), ..server.endpoint() };
        let refused = MongoSession::connect(&endpoint).await.unwrap().user_data().await.unwrap_err();
        assert!(
            matches!(&refused, SessionError::Failed { message, .. } if message.contains("not authorized") || message.contains("permissions")),
            "{user}: {refused}"
        );
    }
}
