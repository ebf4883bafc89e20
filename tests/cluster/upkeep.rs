//! A replication that runs: what people do to it, and what becomes of it.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};
use std::time::Duration;
use understudy::api::Phase;

use crate::databases::{MongoDb, Standby, arguments, for_engines, for_every_engine};
use crate::story::idle;
use crate::support::{Database, Place, Shop, Writer, audit_mark, replication, replication_of, run, wait, writes_since};

/// Addresses that a Service leads to.
async fn endpoints<D: Database>(shop: &Place<D>, service: &str) -> Vec<String> {
    let selector = format!("kubernetes.io/service-name={service}");
    let slices = shop.api::<EndpointSlice>().list(&kube::api::ListParams::default().labels(&selector)).await.unwrap();
    let mut all: Vec<String> = slices.items.into_iter().flat_map(|slice| slice.endpoints).flat_map(|endpoint| endpoint.addresses).collect();
    all.sort();
    all
}

/// The Service of all replicas leads to these pods and no others.
async fn clients_are_sent_to<D: Database>(shop: &Place<D>, pods: &[&str]) {
    let mut wanted = Vec::new();
    for pod in pods {
        wanted.push(shop.pod_ip(pod).await.unwrap());
    }
    wanted.sort();
    wait(&format!("clients are sent to {wanted:?}"), 180, async || {
        let found = endpoints(shop, "orders-replicas").await;
        if found == wanted { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}

// Of MongoDB's members any may come to take writes: that is no accident there.
for_engines!([postgresql: PostgreSql, mysql: MySql, redis: Redis]
    a_promoted_replica_gets_no_more_clients_and_is_seeded_anew_when_its_owner_says_so,
    a_user_that_was_dropped_is_made_again_and_replicas_log_in_with_the_password_that_they_have
);

async fn a_promoted_replica_gets_no_more_clients_and_is_seeded_anew_when_its_owner_says_so<D: Standby>() {
    let shop = Place::<D>::with_source(&format!("understudy-promoted-{}", D::NAME)).await;
    let mut source = shop.connect("orders-db-0").await.unwrap();
    source.prepare().await.unwrap();
    source.insert(1).await.unwrap();
    let before = shop.snapshot("orders-db-0").await;
    shop.apply(&replication_of::<D>("orders", "orders-db")).unwrap();
    shop.replicating("orders", 240).await;
    clients_are_sent_to(&shop, &["orders-replica-1-0"]).await;

    let mut replica = shop.connect("orders-replica-1-0").await.unwrap();
    replica.promote().await.unwrap();
    let message = shop.reason("orders", "ReplicaWritable", 120).await;
    clients_are_sent_to(&shop, &[]).await;
    assert_eq!(shop.replica_addresses().await, "");
    replica.insert(2).await.unwrap();
    assert_eq!(shop.rows("orders-replica-1-0").await, 2);

    // As the message says.
    let volume = || shop.kubectl(&["get", "pvc", "-l", "understudy.dev/component=replica", "-o", "jsonpath={.items[*].metadata.uid}"]);
    let old = volume().unwrap();
    let command = message.split("kubectl ").nth(1).unwrap().split(';').next().unwrap();
    let words: Vec<&str> = command.split_whitespace().chain(["--wait=false"]).collect();
    shop.kubectl(&words).unwrap();
    wait("another volume holds the replica", 180, async || {
        let (status, reason, message) = shop.condition("orders", "Ready").await?;
        if reason == "Replicating" && volume()? != old { Ok(()) } else { Err(format!("{old}: {status} {reason} {message}")) }
    })
    .await;
    assert_eq!(shop.rows("orders-replica-1-0").await, 1, "what was written to the replica alone is gone");
    shop.read_only("orders-replica-1-0").await;
    clients_are_sent_to(&shop, &["orders-replica-1-0"]).await;
    shop.delete("orders", 180).await;
    assert_eq!(shop.snapshot("orders-db-0").await, before);
    shop.remove().await;
}

async fn a_user_that_was_dropped_is_made_again_and_replicas_log_in_with_the_password_that_they_have<D: Standby>() {
    let shop = Place::<D>::with_source(&format!("understudy-dropped-{}", D::NAME)).await;
    let before = shop.snapshot("orders-db-0").await;
    shop.apply(&replication_of::<D>("orders", "orders-db")).unwrap();
    shop.replicating("orders", 240).await;
    let writer = Writer::start::<D>(shop.service("orders-db").await).await;

    // With its connections ended, nothing reaches the replica any more until it can log in again.
    shop.connect("orders-db-0").await.unwrap().drop_user().await.unwrap();
    let then = shop.rows("orders-db-0").await;
    wait("what was written since then is on the replica", 180, async || {
        let found = shop.connect("orders-replica-1-0").await?.count().await?;
        if found > then + 50 { Ok(()) } else { Err(format!("{found} of {then}: {:?}", shop.condition("orders", "SourceConfigured").await)) }
    })
    .await;
    shop.replicating("orders", 240).await;
    let written = writer.finish();
    written.undisturbed::<D>();
    shop.nothing_is_missing(D::REPLICAS, written.rows).await;
    assert_eq!(shop.traces("orders-db-0").await.len(), D::TRACES);
    let backup = shop.get("orders").await.unwrap().status.unwrap().backup.unwrap();
    assert_eq!((backup.sequence, backup.state.as_str()), (1, "Complete"), "no second backup");
    assert_eq!(shop.names::<Job>("understudy.dev/component=backup").await.len(), 1);

    // Hands off, also from what disabling would take away.
    shop.edit("orders", json!({"suspend": true, "enabled": false})).await;
    shop.phase("orders", Phase::Suspended, 120).await;
    assert!(!D::connect(&shop.service("orders-replicas").await).await.unwrap().takes_writes().await.unwrap());
    shop.edit("orders", json!({"suspend": false})).await;
    shop.phase("orders", Phase::Standalone, 180).await;
    assert_eq!(shop.snapshot("orders-db-0").await, before);
    shop.remove().await;
}

for_every_engine!(
    a_service_of_somebody_elses_and_a_node_that_is_not_there_are_said_and_waited_for,
    volumes_grow_where_the_cluster_can_and_it_is_said_where_it_cannot
);

async fn a_service_of_somebody_elses_and_a_node_that_is_not_there_are_said_and_waited_for<D: Database>() {
    let shop = Place::<D>::with_source(&format!("understudy-foreign-{}", D::NAME)).await;
    let theirs = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "orders-replicas"},
        "spec": {"selector": {"app": "reports"}, "ports": [{"port": 80}]}});
    shop.apply(&theirs).unwrap();
    let before = shop.api::<Service>().get("orders-replicas").await.unwrap();
    let mut resource = replication_of::<D>("orders", "orders-db");
    resource["spec"]["replicaTemplate"] = json!({"nodeSelector": {"understudy.dev/nowhere": "true"}});
    shop.apply(&resource).unwrap();
    let message = shop.reason("orders", "StepFailed", 120).await;
    assert!(message.contains("Service orders-replicas exists already and is not Understudy's"), "{message}");
    let after = shop.api::<Service>().get("orders-replicas").await.unwrap();
    assert_eq!((after.spec, after.metadata.resource_version), (before.spec, before.metadata.resource_version));

    // Its owner takes it away; and a replica that could not start follows what is mended.
    shop.kubectl(&["delete", "service", "orders-replicas"]).unwrap();
    let message = wait("it is said that there is no node", 180, async || {
        let (_, reason, message) = shop.condition("orders", "Ready").await?;
        if reason == "ReplicaStarting" && message.contains("node") { Ok(message) } else { Err(format!("{reason}: {message}")) }
    })
    .await;
    assert!(message.contains("orders-replica-1") && message.contains("didn't match"), "{message}");
    shop.edit("orders", json!({"replicaTemplate": null})).await;
    shop.replicating("orders", 240).await;
    shop.delete("orders", 180).await;
    shop.remove().await;
}

async fn volumes_grow_where_the_cluster_can_and_it_is_said_where_it_cannot<D: Database>() {
    let shop = Place::<D>::with_source(&format!("understudy-volumes-{}", D::NAME)).await;
    let class = format!("understudy-test-growable-{}", D::NAME);
    let storage = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": class},
        "provisioner": "rancher.io/local-path", "volumeBindingMode": "WaitForFirstConsumer", "allowVolumeExpansion": true});
    run("kubectl", &["apply", "-f", "-"], &storage.to_string()).unwrap();
    let mut resource = replication_of::<D>("orders", "orders-db");
    resource["spec"]["backup"]["volume"]["storageClassName"] = json!(class);
    shop.apply(&resource).unwrap();
    shop.replicating("orders", 240).await;

    // Backup first, then the replicas, of whose class nothing can grow.
    shop.edit("orders", json!({"backup": {"volume": {"size": "3Gi"}}})).await;
    let backup = shop.get("orders").await.unwrap().status.unwrap().backup.unwrap().claim;
    wait("the backup's claim asks for more", 180, async || {
        let claim: PersistentVolumeClaim = shop.api().get(&backup).await.map_err(|e| e.to_string())?;
        let asked = claim.spec.unwrap().resources.unwrap().requests.unwrap()["storage"].0.clone();
        if asked == "3Gi" { Ok(()) } else { Err(asked) }
    })
    .await;

    shop.edit("orders", json!({"replicaTemplate": {"storage": {"size": "3Gi"}}})).await;
    let told = wait("it is said that the replica's volume can't grow", 180, async || {
        let told = shop.kubectl(&["get", "events", "--field-selector=reason=VolumeNotGrown", "-o", "jsonpath={.items[*].message}"])?;
        if told.is_empty() { Err("no such event".to_owned()) } else { Ok(told) }
    })
    .await;
    assert!(told.contains("cannot be made 3Gi large") && told.contains("resize"), "{told}");
    shop.replicating("orders", 30).await;
    // Longer than the pause between two looks: it is not asked for again.
    idle(&shop, 40).await;
    shop.delete("orders", 180).await;
    run("kubectl", &["delete", "storageclass", &class], "").unwrap();
    shop.remove().await;
}

/// Stops the server process that sends the backup once a third of it is sent: what is said of it then can be looked at.
const HOLD_AFTER_A_THIRD: &str = "DO $$ DECLARE sender int; BEGIN
    FOR turn IN 1..3000 LOOP
        PERFORM pg_stat_clear_snapshot();
        SELECT pid INTO sender FROM pg_stat_progress_basebackup WHERE backup_streamed > backup_total / 3;
        IF sender IS NOT NULL THEN
            EXECUTE format('COPY (SELECT 1 WHERE false) TO PROGRAM %L', 'kill -STOP ' || sender);
            RETURN;
        END IF;
        PERFORM pg_sleep(0.003);
    END LOOP;
    RAISE EXCEPTION 'no backup is being sent';
END $$";

/// PostgreSQL alone: its server can be held in the middle of a copy. What the servers of MySQL and MongoDB say of theirs is in their engines' tests.
#[tokio::test]
async fn the_progress_of_a_long_copy_stands_in_the_status() {
    let shop = Shop::with_source("understudy-progress").await;
    shop.connect("orders-db-0").await.unwrap().slow_down().await.unwrap();
    shop.apply(&replication("orders", "orders-db")).unwrap();
    wait("a third of the backup is sent", 120, || async { shop.sql("orders-db-0", HOLD_AFTER_A_THIRD).await }).await;
    let percent = wait("the status says how far the copy is", 120, || async {
        let backup = shop.get("orders").await?.status.unwrap_or_default().backup.unwrap_or_default();
        let (_, reason, message) = shop.condition("orders", "Ready").await?;
        match backup.percent {
            Some(percent) if percent >= 30 && reason == "BackingUp" && message.contains("% of") && backup.bytes > Some(50 << 20) => Ok(percent),
            _ => Err(format!("{backup:?} {reason} {message}")),
        }
    })
    .await;
    assert!(percent < 100, "{percent}");
    let go_on =
        "DO $$ BEGIN EXECUTE format('COPY (SELECT 1 WHERE false) TO PROGRAM %L', (SELECT 'kill -CONT ' || pid FROM pg_stat_progress_basebackup)); END $$";
    shop.sql("orders-db-0", go_on).await.unwrap();
    shop.replicating("orders", 240).await;
    assert_eq!(shop.get("orders").await.unwrap().status.unwrap().backup.unwrap().percent, Some(100));
    shop.delete("orders", 180).await;
    shop.remove().await;
}

/// As a pipeline applies a source's StatefulSet: what it has of a field is what counts.
fn pipeline(shop: &Place<MongoDb>, object: &Value) {
    let words = ["apply", "-n", &shop.namespace, "--server-side", "--force-conflicts", "--field-manager=pipeline", "-f", "-"];
    run("kubectl", &words, &object.to_string()).unwrap();
}

/// The source has lost its arguments to a pipeline, and it is said: for as long as nobody decides, nothing is written to the cluster.
async fn reverted(shop: &Place<MongoDb>) {
    shop.source_ready("orders-db").await;
    wait("it is said that the source was reverted, and nothing else is done", 180, async || {
        let mark = audit_mark();
        // Longer than the pause between two looks.
        tokio::time::sleep(Duration::from_secs(15)).await;
        let (said, writes) = (shop.condition("orders", "Ready").await?, writes_since(&shop.namespace, mark));
        if said.1 == "SourceReverted" && writes.is_empty() { Ok(()) } else { Err(format!("{said:?} {writes:?}")) }
    })
    .await;
    shop.phase("orders", Phase::Degraded, 5).await;
}

/// A source that replicates, and whose arguments a pipeline then takes back. Gives what it was like before.
async fn taken_back(namespace: &str) -> (Place<MongoDb>, Vec<String>) {
    let shop = Place::<MongoDb>::with_source(namespace).await;
    pipeline(&shop, &MongoDb::stateful_set("orders-db"));
    let before = shop.snapshot("orders-db-0").await;
    let mut source = shop.connect("orders-db-0").await.unwrap();
    source.prepare().await.unwrap();
    source.insert(1).await.unwrap();
    shop.apply(&replication_of::<MongoDb>("orders", "orders-db")).unwrap();
    shop.replicating("orders", 240).await;

    let set = shop.uid("orders-db-0").await.unwrap();
    pipeline(&shop, &MongoDb::stateful_set("orders-db"));
    shop.replaced("orders-db-0", &set).await;
    // The replicas are the majority, and elect one of themselves.
    let follows = wait("one of the replicas is elected", 120, async || {
        let mut following = Vec::new();
        for pod in ["orders-replica-1-0", "orders-replica-2-0"] {
            if !shop.connect(pod).await?.takes_writes().await? {
                following.push(pod);
            }
        }
        if let [one] = following[..] { Ok(one) } else { Err(format!("{following:?} take no writes")) }
    })
    .await;
    clients_are_sent_to(&shop, &[follows]).await;
    reverted(&shop).await;
    assert_eq!(shop.replica_addresses().await, format!("{}.{}.svc", follows.trim_end_matches("-0"), shop.namespace));
    let alone = shop.uid("orders-db-0").await.unwrap();
    wait("the source takes writes alone", 120, async || shop.connect("orders-db-0").await?.insert(2).await).await;
    assert_eq!((shop.uid("orders-db-0").await.unwrap(), shop.names::<Job>("understudy.dev/component=backup").await.len()), (alone, 1));
    (shop, before)
}

// MongoDB alone: of other engines' sources the StatefulSet is left as it is.

#[tokio::test]
async fn what_a_pipeline_takes_back_is_not_fought_for_and_the_replicas_are_made_anew_when_their_owner_says_so() {
    let (shop, before) = taken_back("understudy-reverted").await;
    // As the message says.
    shop.edit("orders", json!({"enabled": false})).await;
    shop.phase("orders", Phase::Standalone, 240).await;
    assert_eq!(shop.snapshot("orders-db-0").await, before);
    assert_eq!(shop.rows("orders-db-0").await, 2);
    shop.edit("orders", json!({"enabled": true})).await;
    shop.replicating("orders", 240).await;
    shop.nothing_is_missing(MongoDb::REPLICAS, 2).await;
    shop.remove().await;
}

#[tokio::test]
async fn arguments_that_come_back_do_not_hide_what_was_written_without_them() {
    let (shop, before) = taken_back("understudy-returned").await;
    let alone = shop.uid("orders-db-0").await.unwrap();
    let changes = shop.get("orders").await.unwrap().status.unwrap().source.unwrap().changes;
    let ours = changes.iter().find(|change| change.what.contains("arguments")).unwrap().after.clone();
    let mut kept = MongoDb::stateful_set("orders-db");
    arguments(&mut kept["spec"]["template"]["spec"]["containers"][0]).extend(ours.split(' ').map(Value::from));
    pipeline(&shop, &kept);
    shop.replaced("orders-db-0", &alone).await;
    reverted(&shop).await;

    shop.edit("orders", json!({"enabled": false})).await;
    shop.phase("orders", Phase::Standalone, 240).await;
    assert_eq!(shop.snapshot("orders-db-0").await, before);
    assert_eq!(shop.rows("orders-db-0").await, 2);
    shop.remove().await;
}
