//! How far a new member's copy of the source is, from before it knows any user.

use ::mongodb::Client;
use ::mongodb::bson::{Document, doc};
use ::mongodb::options::{AuthMechanism, Credential};
use rustix::process::Signal;
use understudy::engine::mongodb::MongoSession;
use understudy::engine::{Key, Progress, ReplicaSummary, Session, SessionError};

use super::common::{PASSWORD, Serving};
use super::server::{Server, options};
use super::set::Set;

const DOCUMENTS: i32 = 4000;
const BATCH: i32 = 100;
const FIRST: &str = "initialSyncHangBeforeCopyingDatabases";
/// Here nothing more is fetched. To hold the inserts instead would be too late on a busy machine: one of them takes everything that has been fetched by then.
const MIDDLE: &str = "initialSyncHangCollectionClonerAfterHandlingBatchResponse";

/// Lets a member go on that knows no users yet.
async fn go_on(server: &Server, held: &str) {
    let mut options = options(&[server.port], "");
    options.credential = server.key().map(|key| {
        let credential = Credential::builder().username("__system".to_owned()).password(key.secret().to_owned()).source("local".to_owned());
        credential.mechanism(AuthMechanism::ScramSha256).build()
    });
    Client::with_options(options).unwrap().database("admin").run_command(doc! {"configureFailPoint": held, "mode": "off"}).await.unwrap();
}

#[tokio::test]
async fn a_member_tells_how_far_its_copy_is() {
    for password in [PASSWORD, ""] {
        let mut set = Set::of(Server::new(password).await).await;
        let documents: Vec<Document> = (0..DOCUMENTS).map(|number| doc! {"_id": number, "text": "x".repeat(4000)}).collect();
        set.source.run("shop", doc! {"insert": "copied", "documents": documents}).await.unwrap();
        set.start_members().await;

        // It stops before it copies anything, and again once it has fetched the batch in the middle.
        let first = format!(r#"failpoint.{FIRST}={{"mode":"alwaysOn"}}"#);
        let before = DOCUMENTS / BATCH / 2 - 1;
        let middle = format!(r#"failpoint.{MIDDLE}={{"mode":{{"skip":{before}}},"data":{{"nss":"shop.copied"}}}}"#);
        let size = format!("collectionClonerBatchSize={BATCH}");
        let held = ["enableTestCommands=1", &size, &first, &middle].map(|set| ["--setParameter".to_owned(), set.to_owned()]);
        let arguments = [set.members[0].arguments.clone(), held.concat()].concat();
        set.members[0].restart(Signal::KILL, arguments).await;
        set.converge(&set.wanted(&[])).await;
        let member = &set.members[0];
        let begun = member.state_once("it begins to copy", |state| state.copy_progress.is_some()).await;
        assert_eq!(begun.copy_progress.unwrap().percent().unwrap_or_default(), 0, "{begun:?}");
        // Nobody who can't log in is told how far it is, and no secret is in what is said.
        for key in [None, Some(Key::new(b"another"))].iter().filter(|_| !password.is_empty()) {
            let error = MongoSession::connect_replica(&member.endpoint(), key.as_ref()).await.err();
            assert_eq!(error, Some(SessionError::Unreachable("it copies everything from the source (initial sync)".into())));
        }

        go_on(member, FIRST).await;
        let is_half = |state: &ReplicaSummary| state.copy_progress.and_then(Progress::percent).is_some_and(|percent| (40..=60).contains(&percent));
        let half = member.state_once("it has copied half, and no more", is_half).await;
        assert!(half.copy_progress.unwrap().total > Some(16_000_000), "{half:?}");
        assert!(half.read_only && !half.streaming && !half.leads, "{half:?}");
        let said = half.trouble.unwrap();
        assert!(said.starts_with("it copies everything from the source (initial sync, ") && said.contains(" % of "), "{said}");

        go_on(member, MIDDLE).await;
        let done = member.state_once("it has copied everything", |state| state.streaming).await;
        assert_eq!((done.copy_progress, done.trouble), (None, None), "only while it copies");
        let count = member.run("shop", doc! {"count": "copied"}).await.unwrap();
        assert_eq!(count.get_i32("n").unwrap(), DOCUMENTS, "the administrator is known now");
    }
}
