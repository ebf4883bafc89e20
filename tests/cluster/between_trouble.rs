//! Between two applications, when something is in the way: a side that is gone, a pipeline that interferes, a volume that is full.

use serde_json::json;
use understudy::api::Phase;

use crate::databases::for_engines;
use crate::support::{ALLOWED, Database, Place, applications, replication_between, wait};

for_engines!([postgresql: PostgreSql, mysql: MySql, redis: Redis]
    teardown_works_with_either_side_dead_between_applications,
    a_source_that_is_lost_for_good_leaves_a_database_that_takes_writes
);

/// Source and target, the owner of the source agrees, and the source has rows.
async fn agreed<D: Database>(scenario: &str, rows: u64) -> (Place<D>, Place<D>) {
    let (sales, reports) = applications::<D>(scenario).await;
    allow(&sales);
    fill(&sales, "orders-db-0", 1, rows).await;
    (sales, reports)
}

fn allow<D: Database>(sales: &Place<D>) {
    sales.kubectl(&["annotate", "--overwrite", "secret", "orders-db", &format!("{ALLOWED}=*")]).unwrap();
}

/// Writes rows from one number to another.
async fn fill<D: Database>(place: &Place<D>, pod: &str, from: u64, to: u64) {
    let mut client = wait(&format!("{pod} answers"), 120, async || place.connect(pod).await).await;
    client.prepare().await.unwrap();
    for row in from..=to {
        client.insert(row).await.unwrap();
    }
}

/// The target replicates, and has this many rows.
async fn follows<D: Database>(reports: &Place<D>, rows: u64) {
    reports.replicating("orders", 300).await;
    wait(&format!("{rows} rows on the target"), 120, async || match reports.connect("reports-db-0").await?.count().await? {
        found if found == rows => Ok(()),
        found => Err(found.to_string()),
    })
    .await;
    reports.read_only("reports-db-0").await;
}

/// A new target, without data, in the place of the one that is there.
async fn another_target<D: Database>(reports: &Place<D>) {
    reports.kubectl(&["delete", "statefulset", "reports-db", "--cascade=foreground", "--timeout=120s"]).unwrap();
    reports.kubectl(&["delete", "pvc", "-l", "app=reports-db", "--timeout=120s"]).unwrap();
    reports.source("reports-db", |_| {}).await;
}

/// The StatefulSet, and who owns fields of it.
async fn workload<D: Database>(reports: &Place<D>) -> Vec<String> {
    let mut all = reports.snapshot("reports-db-0").await;
    all.split_off(all.len() - 2)
}

/// The target is a database of its own with these rows, also after it was restarted: it takes writes, and has nothing of ours.
async fn stands_alone<D: Database>(reports: &Place<D>, rows: u64, before: &[String]) {
    for more in 1..=2 {
        reports.source_ready("reports-db").await;
        let mut client = wait("the target answers", 60, async || reports.connect("reports-db-0").await).await;
        assert!(client.takes_writes().await.unwrap(), "it is still a replica");
        assert_eq!(client.count().await.unwrap(), rows + more - 1);
        client.insert(rows + more).await.unwrap();
        let old = reports.uid("reports-db-0").unwrap();
        reports.kubectl(&["delete", "pod", "reports-db-0", "--wait=false"]).unwrap();
        reports.replaced("reports-db-0", &old).await;
    }
    reports.source_ready("reports-db").await;
    assert_eq!(reports.rows("reports-db-0").await, rows + 2);
    assert_eq!(reports.traces("reports-db-0").await, [""; 0]);
    assert_eq!(workload(reports).await, before);
}

/// Messages of the events with this reason.
fn told<D: Database>(reports: &Place<D>, reason: &str) -> String {
    reports.kubectl(&["get", "events", &format!("--field-selector=reason={reason}"), "-o", "jsonpath={.items[*].message}"]).unwrap()
}

async fn teardown_works_with_either_side_dead_between_applications<D: Database>() {
    let (sales, reports) = agreed::<D>("either", 20).await;
    let (before, target_before) = (sales.snapshot("orders-db-0").await, workload(&reports).await);

    // The target is dead: its StatefulSet is scaled away by somebody.
    reports.apply(&replication_between::<D>(&sales.namespace, |_| {})).unwrap();
    follows(&reports, 20).await;
    assert_ne!(sales.snapshot("orders-db-0").await, before);
    reports.kubectl(&["scale", "statefulset", "reports-db", "--replicas=0"]).unwrap();
    reports.reason("orders", "TargetScaledToZero", 120).await;
    reports.delete("orders", 180).await;
    let note = told(&reports, "TargetNotReturned");
    assert!(note.contains("understudy-swap") && note.contains("By hand: promote the server"), "{note}");
    assert_eq!(sales.snapshot("orders-db-0").await, before);
    assert_eq!(sales.traces("orders-db-0").await, [""; 0]);

    // The source is dead: it is there, and does not run.
    another_target(&reports).await;
    reports.apply(&replication_between::<D>(&sales.namespace, |_| {})).unwrap();
    follows(&reports, 20).await;
    sales.kubectl(&["scale", "statefulset", "orders-db", "--replicas=0"]).unwrap();
    reports.reason("orders", "SourceScaledToZero", 120).await;
    assert_eq!(reports.rows("reports-db-0").await, 20, "what it has is still served");
    reports.edit("orders", json!({"enabled": false})).await;
    let message = reports.reason("orders", "SourceUnreachable", 240).await;
    assert!(message.contains("undone as soon as it answers") && message.contains("replicas: 0"), "{message}");
    assert!(reports.get("orders").await.unwrap().status.unwrap().target.unwrap().returned);
    stands_alone(&reports, 20, &target_before).await;
    sales.kubectl(&["scale", "statefulset", "orders-db", "--replicas=1"]).unwrap();
    reports.phase("orders", Phase::Standalone, 240).await;
    assert_eq!(sales.snapshot("orders-db-0").await, before);
    assert_eq!(sales.traces("orders-db-0").await, [""; 0]);
    assert_eq!((sales.rows("orders-db-0").await, reports.rows("reports-db-0").await), (20, 22));
    reports.delete("orders", 60).await;
    reports.remove().await;
    sales.remove().await;
}

async fn a_source_that_is_lost_for_good_leaves_a_database_that_takes_writes<D: Database>() {
    let (sales, reports) = agreed::<D>("lost", 20).await;
    let before = workload(&reports).await;

    // Its StatefulSet is gone.
    reports.apply(&replication_between::<D>(&sales.namespace, |_| {})).unwrap();
    follows(&reports, 20).await;
    sales.kubectl(&["delete", "statefulset", "orders-db", "--cascade=foreground", "--timeout=120s"]).unwrap();
    reports.reason("orders", "SourceNotFound", 120).await;
    reports.read_only("reports-db-0").await;
    reports.delete("orders", 240).await;
    assert!(told(&reports, "SourceGone").contains("no longer exists"), "{}", told(&reports, "SourceGone"));
    stands_alone(&reports, 20, &before).await;

    // The whole namespace is gone, with the Secret: the target's own has a login of the source.
    sales.source("orders-db", |_| {}).await;
    allow(&sales);
    another_target(&reports).await;
    fill(&sales, "orders-db-0", 21, 30).await;
    reports.apply(&replication_between::<D>(&sales.namespace, |_| {})).unwrap();
    follows(&reports, 30).await;
    sales.remove().await;
    reports.reason("orders", "ConsentWithdrawn", 120).await;
    reports.read_only("reports-db-0").await;
    reports.delete("orders", 240).await;
    stands_alone(&reports, 30, &before).await;
    reports.remove().await;
}
