//! Why a server can't be asked: each in words of its own.

use understudy::engine::mongodb::MongoSession;
use understudy::engine::{Session, SessionError};

use super::common::{PASSWORD, Serving, free_port};
use super::server::Server;
use super::set::Set;

#[tokio::test]
async fn a_wrong_password_is_refused_and_an_absent_server_is_unreachable() {
    let server = Server::new(PASSWORD).await;
    for (username, password) in [("root", "wrong"), ("nobody", PASSWORD)] {
        let endpoint = understudy::engine::Endpoint { username: username.into(), password: password.into(), ..server.endpoint() };
        let error = MongoSession::connect(&endpoint).await.err().unwrap();
        assert!(matches!(&error, SessionError::Refused(why) if why.contains("Authentication failed")), "{error:?}");
        assert!(!format!("{error:?}").contains("wrong"), "{error:?}");
    }
    // Without a login everything but a greeting is refused.
    let endpoint = understudy::engine::Endpoint { password: String::new(), ..server.endpoint() };
    let error = match MongoSession::connect(&endpoint).await {
        Ok(mut session) => session.observe_source(None).await.err().unwrap(),
        Err(error) => error,
    };
    assert!(matches!(&error, SessionError::Refused(why) if why.contains("requires authentication")), "{error:?}");

    let endpoint = understudy::engine::Endpoint { port: free_port(), ..server.endpoint() };
    let error = MongoSession::connect(&endpoint).await.err().unwrap();
    assert!(matches!(&error, SessionError::Unreachable(why) if why.contains("Connection refused") && why.starts_with("127.0.0.1:")), "{error:?}");
}

#[tokio::test]
async fn a_member_that_waits_or_copies_is_unreachable_and_says_which() {
    for password in [PASSWORD, ""] {
        let mut set = Set::of(Server::new(password).await).await;
        set.start_members().await;
        let stuck = &mut set.members[0];
        assert_eq!(Set::unreachable(stuck).await, "it waits to be added to the replica set");
        let copying = ["--setParameter", "enableTestCommands=1", "--setParameter", r#"failpoint.initialSyncHangBeforeCopyingDatabases={"mode":"alwaysOn"}"#];
        let arguments = [stuck.arguments.clone(), copying.map(str::to_owned).to_vec()].concat();
        stuck.restart(rustix::process::Signal::KILL, arguments).await;
        set.converge(&set.wanted(&[])).await;
        set.source.facts_once("it sees that the member copies", |facts| facts.members.iter().any(|member| member.id == 1 && member.state == "STARTUP2")).await;
        let why = Set::unreachable(&set.members[0]).await;
        assert_eq!(why, "it copies everything from the source (initial sync)", "with the password {password:?}");
    }
}
