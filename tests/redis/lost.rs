//! A source that comes back without its data: it is told from one that has it, before any replica is let in.

use std::fs;
use std::path::Path;

use rustix::process::Signal;
use understudy::engine::redis::{Redis, Step};
use understudy::engine::{Engine, Session, WantedSource};

use super::Server;
use super::common::{PASSWORD, Serving, identity, succeed, until, wanted};
use super::replica::{in_step, replica_of};

/// What a restart does that takes the data with it.
fn wipe(data: &Path) {
    let _ = fs::remove_file(data.join("dump.rdb"));
    let _ = fs::remove_dir_all(data.join("appendonlydir"));
}

/// Of a source whose data is lost and which its clients have begun to fill again, the replica's copy survives.
async fn survives(mut source: Server) {
    source.enable(&wanted(&[1])).await;
    for key in 0..9 {
        source.cli(&["set", &format!("only:{key}"), "copy"]);
    }
    let shop = source.workshop();
    succeed(shop.backup(&source, "k3x9q2ab-1"));
    let replica = replica_of(&source, &shop, &source.arguments).await;
    in_step(&source, &replica).await;

    source.restart(Signal::KILL, wipe).await;
    source.cli(&["set", "other", "value"]);
    let facts = source.facts().await;
    let now = Redis::summary(&facts);
    assert_eq!((facts.role, facts.keys, now.records, now.access), (None, 1, Some(0), false), "{facts:?}");
    let held = replica.answers().await.observe_replica().await.unwrap();
    assert_eq!((held.records, held.applied.partial_cmp(&now.position)), (Some(9), None), "{held:?}");
    let steps = Redis::plan_enable(&facts, &WantedSource { withhold_access: true, ..wanted(&[1]) });
    assert!(!steps.iter().any(|step| matches!(step, Step::CreateUser { .. })), "{steps:?}");
    source.twice(&steps).await;
    let tried = async || replica.log().contains("Unable to AUTH to MASTER").then_some(());
    until(tried, || replica.log()).await;
    replica.cli(&["config", "set", "replica-serve-stale-data", "yes"]);
    assert_eq!(replica.cli(&["get", "only:8"]), "copy");

    // And also after another restart, with what its clients have written since.
    source.cli(&["save"]);
    source.restart(Signal::TERM, |_| {}).await;
    let now = Redis::summary(&source.facts().await);
    assert_eq!((now.records, now.access), (Some(1), false));
}

#[tokio::test]
async fn a_source_that_lost_its_snapshot_does_not_empty_its_replicas() {
    survives(Server::new(&[], "").await).await;
}

#[tokio::test]
async fn a_source_that_lost_its_append_only_file_does_not_empty_its_replicas() {
    // Its replicas answer no question but what they are, while they are cut off.
    survives(Server::new(&["--appendonly", "yes", "--save", "", "--replica-serve-stale-data", "no"], PASSWORD).await).await;
}

#[tokio::test]
async fn a_source_that_kept_its_acl_file_and_lost_its_data_does_not_empty_its_replicas() {
    survives(Server::with_acl_file(&["--appendonly", "yes"]).await).await;
    survives(Server::with_acl_file(&[]).await).await;
}

/// Writes keys, some of which expire before the source is back; it is killed.
async fn counts(arguments: &[&str], before: &[&[&str]]) {
    let mut source = Server::new(&[arguments, &["--enable-debug-command", "local"]].concat(), "").await;
    for key in 0..20 {
        source.cli(&["set", &format!("key:{key}"), "value"]);
    }
    for words in before {
        assert!(!source.cli(words).contains("ERR"), "{words:?}");
    }
    let ended = async || (source.info("aof_rewrite_in_progress") == "0" && source.info("rdb_bgsave_in_progress") == "0").then_some(());
    until(ended, || source.log()).await;
    // They have expired before they are saved, and the server does not look for such keys: only its start finds them.
    source.cli(&["debug", "set-active-expire", "0"]);
    for key in 0..10 {
        source.cli(&["set", &format!("short:{key}"), "value", "px", "1"]);
    }
    if source.info("aof_enabled") == "0" {
        source.cli(&["save"]);
    }
    source.restart(Signal::KILL, |_| {}).await;
    source.cli(&["set", "new", "value"]);
    let expired = async || (source.cli(&["dbsize"]) == "21").then_some(());
    until(expired, || source.info("db0")).await;
    let facts = source.facts().await;
    let counted = facts.keys_at_start();
    assert!(counted >= Some(30) && counted <= Some(31), "{counted:?} {facts:?}");
    // Where nobody restarts it, that it once began with nothing says nothing.
    let at = Redis::summary(&facts).position;
    source.enable(&wanted(&[1])).await;
    source.session().await.execute(&Step::DropUser { user: identity().role() }).await.unwrap();
    assert!(Redis::summary(&source.facts().await).position.reaches(&at));
}

#[tokio::test]
async fn what_came_from_a_snapshot_is_counted_and_what_expired_meanwhile_with_it() {
    counts(&[], &[]).await;
}

#[tokio::test]
async fn what_came_from_an_append_only_file_is_counted_and_what_expired_meanwhile_with_it() {
    let always = ["--appendonly", "yes", "--save", "", "--appendfsync", "always"];
    counts(&always, &[]).await;
    // With a base of its own.
    counts(&always, &[&["bgrewriteaof"]]).await;
}
