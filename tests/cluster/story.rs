//! The whole story of one database, under writes: dry run, enable, restart, scale, idle, disable, delete.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Service};
use kube::api::DeleteParams;
use serde_json::json;
use std::time::Duration;
use understudy::api::Phase;

use crate::databases::for_every_engine;
use crate::support::{Database, Place, Writer, audit_mark, replication_of, wait, writes_since};

pub async fn idle<D>(shop: &Place<D>, seconds: u64) {
    // After the phase that was waited for, what is left to be said is said.
    let mark = wait("nothing is written for five seconds", 60, async || {
        let mark = audit_mark();
        tokio::time::sleep(Duration::from_secs(5)).await;
        let writes = writes_since(&shop.namespace, mark);
        if writes.is_empty() { Ok(mark) } else { Err(format!("{writes:?}")) }
    })
    .await;
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let writes = writes_since(&shop.namespace, mark);
    assert!(writes.is_empty(), "an idle cluster was written to: {writes:?}");
}

/// Every name of a StatefulSet with this number of replicas.
fn replicas(count: u32) -> Vec<String> {
    (1..=count).map(|number| format!("orders-replica-{number}")).collect()
}

for_every_engine!(a_database_gets_replicas_under_writes_and_is_as_before_afterwards, teardown_works_with_either_side_dead);

async fn a_database_gets_replicas_under_writes_and_is_as_before_afterwards<D: Database>() {
    let namespace = format!("understudy-story-{}", D::NAME);
    let shop = Place::<D>::with_source(&namespace).await;
    let primary = shop.service("orders-db").await;
    let writer = Writer::start::<D>(primary.clone()).await;
    let before = shop.snapshot("orders-db-0").await;
    let more = D::REPLICAS + D::STEP;

    // Dry run: everything is said, nothing is changed.
    let mut resource = replication_of::<D>("orders", "orders-db");
    resource["spec"]["dryRun"] = json!(true);
    shop.apply(&resource).unwrap();
    shop.phase("orders", Phase::DryRun, 120).await;
    let status = shop.get("orders").await.unwrap().status.unwrap();
    assert!(status.would_do.iter().any(|line| line.contains(D::DRY_RUN)), "{:?}", status.would_do);
    assert_eq!(status.disruption.unwrap().expected.starts_with("none"), !D::RESTARTS);
    assert_eq!(shop.snapshot("orders-db-0").await, before);
    assert!(shop.names::<Job>("app.kubernetes.io/managed-by=understudy").await.is_empty());

    // Enable.
    shop.edit("orders", json!({"dryRun": false})).await;
    shop.replicating("orders", 240).await;
    let status = shop.get("orders").await.unwrap().status.unwrap();
    assert!(status.would_do.is_empty());
    let backup = status.backup.unwrap();
    assert!(backup.checksum.is_some() && backup.position.is_some() && backup.bytes >= Some(D::LEAST_BACKUP), "{backup:?}");
    shop.nothing_is_missing(D::REPLICAS, shop.rows("orders-db-0").await).await;
    shop.read_only("orders-replica-1-0").await;

    // The names under which it is reached, and what the application is told.
    for (service, takes_writes) in [("orders-primary", true), ("orders-replicas", false)] {
        let host = shop.service(service).await;
        let answer = wait(&format!("{service} answers"), 120, || async { D::connect(&host).await?.takes_writes().await }).await;
        assert_eq!(answer, takes_writes, "{service}");
    }
    let data = shop.data("shop-env").await;
    assert_eq!(data[&Place::<D>::key("ADDRESS")], format!("orders-db.{namespace}.svc"));
    assert_eq!(data[&Place::<D>::key("SLAVE_ADDRESSES_INT")], shop.addresses_of("orders", D::REPLICAS));
    assert_eq!(data[&Place::<D>::key("SLAVE_ADDRESSES_EXT")], "");
    assert_eq!(data["OTHER"], "theirs");
    assert_eq!(shop.names::<Pod>("app=orders-db").await, ["orders-db-0"], "a client of the source must not end up on a replica");
    let story = shop.kubectl(&["describe", "dbrep", "orders"]).unwrap();
    for reason in ["BackupStarted", "BackupCompleted", "RestoreStarted", "ReplicaApplied", "VariablesUpdated", "Replicating"] {
        assert!(story.contains(reason), "{reason} is missing in: {story}");
    }

    // The replica's pod goes and comes back: read-only whenever it answers.
    let old = shop.uid("orders-replica-1-0").await.unwrap();
    shop.api::<Pod>().delete("orders-replica-1-0", &DeleteParams::default()).await.unwrap();
    wait("the replica is back", 180, async || {
        let uid = shop.uid("orders-replica-1-0").await?;
        assert!(!shop.connect("orders-replica-1-0").await?.takes_writes().await?, "a replica that takes writes");
        if uid == old { Err("still the old pod".to_owned()) } else { Ok(()) }
    })
    .await;
    shop.replicating("orders", 120).await;
    shop.read_only("orders-replica-1-0").await;

    // One step up and down: what is added is made from the same backup.
    shop.edit("orders", json!({"replicas": more})).await;
    shop.replicating("orders", 240).await;
    assert_eq!(shop.names::<Job>("understudy.dev/component=backup").await.len(), 1);
    assert_eq!(shop.replica_addresses().await, shop.addresses_of("orders", more));
    shop.nothing_is_missing(more, shop.rows("orders-db-0").await).await;
    shop.edit("orders", json!({"replicas": D::REPLICAS})).await;
    shop.replicating("orders", 240).await;
    assert_eq!(shop.replica_addresses().await, shop.addresses_of("orders", D::REPLICAS));
    assert_eq!(shop.names::<StatefulSet>("understudy.dev/replication=orders").await, replicas(D::REPLICAS));
    assert_eq!(shop.traces("orders-db-0").await.len(), D::TRACES);
    assert_eq!(shop.names::<PersistentVolumeClaim>("understudy.dev/retained=true").await.len(), D::STEP as usize, "Retain is the default");

    // Two idle minutes: the application writes, the operator does not.
    idle(&shop, 120).await;

    // Disable: as it was.
    shop.edit("orders", json!({"enabled": false})).await;
    shop.phase("orders", Phase::Standalone, 180).await;
    assert_eq!(shop.snapshot("orders-db-0").await, before);
    assert_eq!(shop.traces("orders-db-0").await, [""; 0]);
    assert_eq!(shop.replica_addresses().await, "");
    let ours = "app.kubernetes.io/managed-by=understudy";
    assert!(shop.names::<StatefulSet>(ours).await.is_empty() && shop.names::<Job>(ours).await.is_empty() && shop.names::<Service>(ours).await.is_empty());
    let written = writer.finish();
    written.undisturbed::<D>();
    assert!(written.rows > 2000, "{written:?}");
    written.all_there(shop.rows("orders-db-0").await);
    idle(&shop, 120).await;

    // Enable again, and delete in the middle of it.
    shop.edit("orders", json!({"enabled": true, "deletionPolicy": "Delete"})).await;
    shop.phase("orders", Phase::BackingUp, 120).await;
    shop.delete("orders", 180).await;
    assert_eq!(shop.snapshot("orders-db-0").await, before);
    wait("volumes are deleted", 120, || async {
        let left = shop.names::<PersistentVolumeClaim>(ours).await;
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    shop.remove().await;
}

async fn teardown_works_with_either_side_dead<D: Database>() {
    let shop = Place::<D>::with_source(&format!("understudy-dead-{}", D::NAME)).await;
    let before = shop.snapshot("orders-db-0").await;
    shop.apply(&replication_of::<D>("orders", "orders-db")).unwrap();
    shop.replicating("orders", 240).await;
    assert_ne!(shop.snapshot("orders-db-0").await, before);

    // The replica is dead: its StatefulSet is scaled away by somebody.
    shop.kubectl(&["scale", "statefulset", "orders-replica-1", "--replicas=0"]).unwrap();
    shop.delete("orders", 180).await;
    assert_eq!(shop.snapshot("orders-db-0").await, before);

    // The source is gone, StatefulSet and all.
    shop.apply(&replication_of::<D>("orders", "orders-db")).unwrap();
    shop.replicating("orders", 240).await;
    shop.kubectl(&["delete", "statefulset", "orders-db"]).unwrap();
    shop.reason("orders", "SourceNotFound", 120).await;
    shop.delete("orders", 180).await;
    assert_eq!(shop.replica_addresses().await, "");
    // Another one may take its claim, with what was not undone on it.
    let told = |reason: &str| shop.kubectl(&["get", "events", &format!("--field-selector=reason={reason}"), "-o", "jsonpath={.items[*].message}"]).unwrap();
    let by_hand = |note: &str| D::BY_HAND.iter().for_each(|word| assert!(note.contains(word), "{word}: {note}"));
    by_hand(&told("SourceGone"));

    // The source is there but does not answer: given up after a minute, and said with what is left.
    shop.source("orders-db", |_| {}).await;
    shop.apply(&replication_of::<D>("orders", "orders-db")).unwrap();
    shop.replicating("orders", 240).await;
    shop.kubectl(&["scale", "statefulset", "orders-db", "--replicas=0"]).unwrap();
    shop.reason("orders", "SourceScaledToZero", 120).await;
    shop.delete("orders", 180).await;
    by_hand(&told("SourceNotCleaned"));
    shop.remove().await;
}
