//! The way from a backup to a replica that follows its source, and what becomes of it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use k8s_openapi::api::core::v1::Container;
use rustix::process::Signal;
use understudy::engine::redis::Redis;
use understudy::engine::{Engine, Position, ReplicaSummary, Session, SessionError};

use super::common::{PASSWORD, Serving, Workshop, succeed, until, wanted};
use super::{Server, directory};

/// The arguments of a replica's container, made from those of the source's.
pub fn adapted(arguments: &[String], data: &Path) -> Vec<String> {
    let mut container = Container { args: Some([&["redis-server".to_owned()], arguments].concat()), ..Container::default() };
    Redis::adapt_replica(&mut container, data.to_str().unwrap());
    container.args.unwrap().split_off(1)
}

/// Waits until a replica has shown a mark that was written now.
pub async fn in_step(source: &Server, replica: &Server) -> ReplicaSummary {
    let mut mark: Option<Position> = None;
    let arrived = async || {
        let state = replica.answers().await.observe_replica().await.unwrap();
        if mark.is_none() && state.streaming {
            mark = Some(source.session().await.write_mark().await.unwrap());
        }
        mark.as_ref().is_some_and(|mark| state.streaming && state.applied.reaches(mark)).then(|| (state, mark.clone().unwrap()))
    };
    let (state, mark) = until(arrived, || replica.log()).await;
    assert!(Redis::summary(&source.facts().await).position.reaches(&mark));
    assert!(state.received.reaches(&state.applied) && state.trouble.is_none(), "{state:?}");
    state
}

/// A replica of a source from its backup, as its pod starts it: the source's arguments with its files in place, and ours behind.
pub async fn replica_of(source: &Server, shop: &Workshop, words: &[String]) -> Server {
    let (root, inner) = directory();
    let data = inner.join("data");
    fs::create_dir(&data).unwrap();
    assert!(!shop.guard(&data), "an empty volume");
    succeed(shop.restore(source, "k3x9q2ab-1", &data));
    succeed(shop.restore(source, "k3x9q2ab-1", &data));
    assert!(shop.guard(&data), "{}", shop.message());
    let moved = |word: &String| word.replace(source.data.to_str().unwrap(), data.to_str().unwrap());
    let arguments = adapted(&words.iter().map(moved).collect::<Vec<_>>(), &data);
    Server::serve(root, data, arguments, &source.username, &source.password).await
}

/// From a source to a replica that follows it, and back; through kills of both.
async fn whole_way(mut source: Server) {
    let before = source.traces();
    let recorded = source.enable(&wanted(&[1])).await;
    for key in 0..100 {
        source.cli(&["set", &format!("before:{key}"), "value"]);
    }
    let shop = source.workshop();

    succeed(shop.backup(&source, "k3x9q2ab-1"));
    let manifest = shop.manifest();
    let position = Redis::parse_position(manifest["position"].as_str().unwrap()).unwrap();
    let summary = Redis::summary(&source.facts().await);
    assert!(summary.position.reaches(&position) && position.reaches(&summary.oldest_for_seed) && summary.access, "{manifest} {summary:?}");
    succeed(shop.backup(&source, "k3x9q2ab-1"));
    assert_eq!(shop.manifest(), manifest, "one that is finished is reported again");
    let snapshot = shop.path("backup/k3x9q2ab-1/data/dump.rdb");
    assert_eq!(fs::metadata(&snapshot).unwrap().permissions().mode() & 0o077, 0);

    // What is written between backup and restore arrives from the backlog.
    source.cli(&["set", "between", "value"]);
    let full = source.info("sync_full");
    let mut replica = replica_of(&source, &shop, &source.arguments).await;
    let data = replica.data.clone();
    for round in 1..=2 {
        let state = in_step(&source, &replica).await;
        assert!(state.read_only, "{state:?}");
        assert_eq!((replica.cli(&["dbsize"]).as_str(), state.records), ("101", Some(101)));
        assert!(replica.cli(&["set", "x", "y"]).contains("READONLY"));
        assert_eq!((source.info("sync_full"), source.info("sync_partial_ok")), (full.clone(), round.to_string()), "{}", replica.log());
        assert!(replica.log().contains("Successful partial resynchronization with master"), "{}", replica.log());
        // Also where it is killed: read-only, and partial.
        if round == 1 {
            replica.restart(Signal::KILL, |data| assert!(shop.guard(data), "{}", shop.message())).await;
        }
    }
    assert_eq!(replica.cli(&["config", "get", "appendonly"]).lines().nth(1), Some("no"));
    let configuration = fs::read_to_string(data.join("understudy.conf")).unwrap();
    assert_eq!(configuration.contains("protected-mode yes"), !source.password.is_empty(), "closed where the source is");
    let secret = fs::read_to_string(shop.path("backup/replication-password-k3x9q2ab")).unwrap();
    assert!(!replica.process.arguments().contains(&secret) && !replica.log().contains(&secret));
    assert!(replica.session().await.observe_source(None).await.unwrap().replica, "a replica is told from a source");
    let mark = replica.session().await.write_mark().await;
    assert!(matches!(mark, Err(SessionError::Failed { .. })), "{mark:?}");

    // A source that restarts in good order is followed on, as soon as the user is there again.
    let history = source.facts().await.history;
    source.cli(&["set", "last", "value"]);
    source.restart(Signal::TERM, |_| {}).await;
    let facts = source.facts().await;
    assert_eq!((facts.role, facts.keys_at_start()), (None, Some(102)), "it came with its data, and without the user: nobody saved that");
    source.twice(&Redis::plan_enable(&facts, &wanted(&[1]))).await;
    succeed(shop.backup(&source, "k3x9q2ab-1"));
    let state = in_step(&source, &replica).await;
    assert_eq!(replica.cli(&["get", "last"]), "value");
    let Position::Offset { history: now, .. } = &state.applied else { panic!("{state:?}") };
    assert_ne!(*now, history, "a restart begins another history");
    assert!(!state.applied.reaches(&position) && !position.reaches(&Redis::summary(&source.facts().await).oldest_for_seed), "{position:?}");

    // A newer backup takes the place of the older one.
    succeed(shop.backup(&source, "k3x9q2ab-2"));
    assert!(!shop.path("backup/k3x9q2ab-1").exists());
    assert!(!shop.restore(&source, "k3x9q2ab-2", &data).status().unwrap().success(), "a replica in use is not overwritten");
    assert!(shop.message().contains("nothing was touched"), "{}", shop.message());

    source.disable(&recorded).await;
    let cut_off = async || (!replica.session().await.observe_replica().await.unwrap().streaming).then_some(());
    until(cut_off, || replica.log()).await;
    assert_eq!(replica.cli(&["get", "last"]), "value", "what was copied stays");
    assert_eq!(source.traces(), before);
}

#[tokio::test]
async fn a_source_without_password_gets_a_replica() {
    whole_way(Server::new(&[], "").await).await;
}

#[tokio::test]
async fn a_source_with_requirepass_gets_a_replica() {
    // Another name of the snapshot, sent as a file, and without a checksum.
    whole_way(Server::new(&["--dbfilename", "other.rdb", "--repl-diskless-sync", "no", "--rdbchecksum", "no"], PASSWORD).await).await;
}

#[tokio::test]
async fn a_source_with_an_append_only_file_gets_a_replica() {
    whole_way(Server::new(&["--appendonly", "yes", "--save", ""], "").await).await;
}

#[tokio::test]
async fn a_source_with_requirepass_an_append_only_file_and_snapshots_gets_a_replica() {
    whole_way(Server::new(&["--appendonly", "yes"], PASSWORD).await).await;
}

#[tokio::test]
async fn a_source_with_an_acl_file_gets_a_replica() {
    whole_way(Server::with_acl_file(&[]).await).await;
}

#[tokio::test]
async fn a_source_with_an_acl_file_and_an_append_only_file_gets_a_replica() {
    whole_way(Server::with_acl_file(&["--appendonly", "yes", "--save", ""]).await).await;
}

#[tokio::test]
async fn a_replica_that_the_backlog_does_not_reach_copies_everything_by_itself() {
    let source = Server::new(&[], "").await;
    source.enable(&wanted(&[1])).await;
    // As small as the server takes it.
    source.cli(&["config", "set", "repl-backlog-size", "16384"]);
    let shop = source.workshop();
    succeed(shop.backup(&source, "k3x9q2ab-1"));
    let manifest = shop.manifest();
    let position = Redis::parse_position(manifest["position"].as_str().unwrap()).unwrap();
    for key in 0..64 {
        source.cli(&["set", &format!("key:{key}"), &"x".repeat(8192)]);
    }
    assert!(!position.reaches(&Redis::summary(&source.facts().await).oldest_for_seed), "a further replica would get a new backup");
    let replica = replica_of(&source, &shop, &[]).await;
    let state = in_step(&source, &replica).await;
    assert!(state.read_only && replica.cli(&["dbsize"]) == "64", "{state:?}");
    assert_eq!(source.info("sync_full"), "2", "one for the backup, one for the replica");
}

#[tokio::test]
async fn whatever_its_configuration_says_a_replica_takes_no_writes() {
    let source = Server::new(&[], "").await;
    source.enable(&wanted(&[1])).await;
    let shop = source.workshop();
    succeed(shop.backup(&source, "k3x9q2ab-1"));
    let theirs = shop.path("redis.conf");
    fs::write(&theirs, "appendonly yes\nreplica-read-only no\ndbfilename mine.rdb\nsave 60 1\nreplicaof no one\n").unwrap();
    let words = [theirs.to_str().unwrap(), "--appendonly", "yes", "--replica-read-only", "no", "--save", ""].map(str::to_owned);
    let replica = replica_of(&source, &shop, &words).await;
    let state = in_step(&source, &replica).await;
    assert!(state.read_only && replica.cli(&["set", "x", "y"]).contains("READONLY"), "{state:?}");
    let settings =
        ["appendonly", "replica-read-only", "dbfilename", "save"].map(|name| replica.cli(&["config", "get", name]).lines().nth(1).unwrap().to_owned());
    assert_eq!(settings, ["no", "yes", "dump.rdb", "3600 1 300 100 60 10000"]);
}

#[tokio::test]
async fn a_backup_that_fails_says_why_and_leaves_nothing_that_counts() {
    let source = Server::new(&[], PASSWORD).await;
    let shop = source.workshop();
    assert!(!shop.backup(&source, "k3x9q2ab-1").status().unwrap().success());
    assert!(shop.message().contains("does not exist"), "the user is not there: {}", shop.message());
    source.enable(&wanted(&[1])).await;
    fs::write(shop.path("credentials/password"), "wrong").unwrap();
    assert!(!shop.backup(&source, "k3x9q2ab-1").status().unwrap().success());
    assert!(shop.message().contains("WRONGPASS") && !shop.message().contains(PASSWORD), "{}", shop.message());
    fs::write(shop.path("credentials/password"), PASSWORD).unwrap();
    let mut agent = shop.backup(&source, "k3x9q2ab-1");
    agent.env("PATH", shop.path("nothing"));
    assert!(!agent.status().unwrap().success());
    assert!(shop.message().contains("redis-cli failed") && shop.message().contains("image"), "{}", shop.message());
    assert!(!shop.path("backup/k3x9q2ab-1").exists());
}
