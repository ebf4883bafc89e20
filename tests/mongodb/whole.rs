//! From a stand-alone server to a replica set, and back.

use std::collections::BTreeSet;
use std::time::Instant;

use ::mongodb::bson::doc;
use rustix::process::Signal;
use understudy::engine::Engine;
use understudy::engine::mongodb::{MongoDb, Standing, Step};

use super::common::{PASSWORD, Serving, identity};
use super::server::Server;
use super::set::{Set, voters};
use super::writer::Writer;

/// What a replica set leaves in databases that are not its own alone (docs/mongodb.md says so).
fn remains(collection: &str) -> bool {
    collection == "admin.system.keys" || collection.starts_with("config.")
}

#[tokio::test]
async fn a_server_with_a_login_becomes_a_replica_set_and_is_as_before_afterwards() {
    there_and_back(PASSWORD).await;
}

#[tokio::test]
async fn a_server_without_a_login_needs_no_key_and_is_as_before_afterwards() {
    there_and_back("").await;
}

async fn there_and_back(password: &str) {
    let source = Server::new(password).await;
    if !password.is_empty() {
        let role = doc! {"createRole": "clerk", "privileges": [], "roles": [{"role": "readWrite", "db": "shop"}]};
        source.run("admin", role).await.unwrap();
        source.run("admin", doc! {"createUser": "app", "pwd": "x", "roles": ["clerk"]}).await.unwrap();
    }
    let writer = Writer::to(&source);
    writer.goes_on().await;
    let (before, collections) = (source.traces().await, source.collections().await);
    let facts = source.facts().await;
    assert_eq!((facts.standing, facts.authorization, facts.left.is_some()), (Standing::Standalone, !password.is_empty(), false));
    assert_eq!(facts.data_directory, super::server::inside(&source.data).to_string_lossy());

    let mut set = Set::of(source).await;
    assert_eq!(set.recorded.len(), 1, "{:?}", set.recorded);
    writer.goes_on().await;
    println!("a set of one took {:?}, of which a client that writes all the while saw {:?}", set.took, writer.longest());

    set.start_members().await;
    for member in &set.members {
        assert_eq!(Set::unreachable(member).await, "it waits to be added to the replica set");
    }
    set.converge(&set.wanted(&[])).await;
    assert_eq!(voters(&set.source.facts().await), [0], "members begin without a vote");
    for member in &set.members {
        member.state_once("it has copied everything", |state| state.streaming).await;
    }
    set.source.facts_once("it sees two copies", |facts| facts.members.iter().filter(|member| member.state == "SECONDARY").count() == 2).await;
    set.marks_arrive().await;
    set.converge(&set.wanted(&[1])).await;
    assert_eq!(voters(&set.source.facts().await), [0], "one of two is proven: with its vote there would be an even number");
    set.converge(&set.wanted(&[1, 2])).await;
    assert_eq!(voters(&set.source.facts().await), [0, 1, 2]);
    set.marks_arrive().await;
    let refused = set.members[0].run("shop", doc! {"insert": "orders", "documents": [{"_id": -1}]}).await.unwrap_err();
    assert!(refused.to_string().contains("not primary"), "{refused}");
    println!("members came and got their votes; the writer never waited longer than {:?}", writer.longest());

    set.members[0].process.stop(Signal::KILL);
    writer.goes_on().await;
    println!("a member was killed; the writer never waited longer than {:?}", writer.longest());
    set.members[0].start().await;
    set.marks_arrive().await;
    assert_eq!(voters(&set.source.facts().await), [0, 1, 2]);

    set.leave().await;
    let facts = set.source.facts().await;
    assert_eq!(facts.members.len(), 1, "{facts:?}");
    assert_eq!(MongoDb::plan_disable(&facts, &identity(), &set.recorded), []);
    writer.goes_on().await;
    println!("both left; the writer never waited longer than {:?}", writer.longest());
    set.members.clear();
    writer.goes_on().await;

    let Set { mut source, before: arguments, recorded, .. } = set;
    let began = Instant::now();
    source.process.stop(Signal::TERM);
    let stopped = began.elapsed();
    source.restart(Signal::TERM, arguments).await;
    let facts = source.facts_once("it stands alone", |facts| facts.standing == Standing::Standalone).await;
    println!("alone again after {:?}, of which the stop took {stopped:?}", began.elapsed());
    assert!(facts.left.is_some());
    assert_eq!(MongoDb::plan_disable(&facts, &identity(), &[]), [], "changes that are not on record are not undone");
    let steps = MongoDb::plan_disable(&facts, &identity(), &recorded);
    assert!(matches!(steps[..], [Step::ClearLocal { .. }]), "{steps:?}");
    source.disable(&recorded).await;
    assert_eq!(source.traces().await, before);
    writer.goes_on().await;
    let left: BTreeSet<String> = source.collections().await.difference(&collections).cloned().collect();
    assert!(left.iter().all(|name| remains(name)), "{left:?}");
    println!("what remains: {left:?}");
    writer.end(&source).await;
}
