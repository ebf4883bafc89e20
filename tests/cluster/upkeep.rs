//! A replication that runs: what people do to it, and what becomes of it.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;
use understudy::api::Phase;

use crate::story::idle;
use crate::support::{PostgreSql, Shop, Writer, query, replication, run, wait};

/// Addresses that a Service leads to.
async fn endpoints(shop: &Shop, service: &str) -> Vec<String> {
    let selector = format!("kubernetes.io/service-name={service}");
    let slices = shop.api::<EndpointSlice>().list(&kube::api::ListParams::default().labels(&selector)).await.unwrap();
    slices.items.into_iter().flat_map(|slice| slice.endpoints).flat_map(|endpoint| endpoint.addresses).collect()
}

async fn leads_to(shop: &Shop, service: &str, wanted: &[String]) {
    wait(&format!("{service} leads to {wanted:?}"), 30, || async {
        let found = endpoints(shop, service).await;
        if found == wanted { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}

#[tokio::test]
async fn a_promoted_replica_gets_no_more_clients_and_is_seeded_anew_when_its_owner_says_so() {
    let shop = Shop::with_source("understudy-promoted").await;
    let before = shop.snapshot("orders-db-0").await;
    shop.apply(&replication("orders", "orders-db")).unwrap();
    shop.replicating("orders", 120).await;
    leads_to(&shop, "orders-replicas", &[shop.pod_ip("orders-replica-1-0").await.unwrap()]).await;

    shop.sql("orders-replica-1-0", "SELECT pg_promote()").await.unwrap();
    let message = shop.reason("orders", "ReplicaWritable", 60).await;
    leads_to(&shop, "orders-replicas", &[]).await;
    assert_eq!(shop.data("shop-env").await["POSTGRESQL_SLAVE_ADDRESSES_INT"], "");
    shop.sql("orders-replica-1-0", "CREATE TABLE only_here (id int)").await.unwrap();

    // As the message says.
    let volume = || shop.kubectl(&["get", "pvc", "-l", "understudy.dev/component=replica", "-o", "jsonpath={.items[*].metadata.uid}"]);
    let old = volume().unwrap();
    let command = message.split("kubectl ").nth(1).unwrap().split(';').next().unwrap();
    let words: Vec<&str> = command.split_whitespace().chain(["--wait=false"]).collect();
    shop.kubectl(&words).unwrap();
    wait("another volume holds the replica", 120, || async {
        let (status, reason, message) = shop.condition("orders", "Ready").await?;
        if reason == "Replicating" && volume()? != old { Ok(()) } else { Err(format!("{old}: {status} {reason} {message}")) }
    })
    .await;
    assert!(shop.sql("orders-replica-1-0", "SELECT FROM only_here").await.unwrap_err().starts_with("42P01"));
    leads_to(&shop, "orders-replicas", &[shop.pod_ip("orders-replica-1-0").await.unwrap()]).await;
    shop.delete("orders", 90).await;
    assert_eq!(shop.snapshot("orders-db-0").await, before);
    shop.remove().await;
}

#[tokio::test]
async fn somebody_elses_service_is_left_alone_and_waited_for() {
    let shop = Shop::with_source("understudy-foreign").await;
    let theirs = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "orders-replicas"},
        "spec": {"selector": {"app": "reports"}, "ports": [{"port": 80}]}});
    shop.apply(&theirs).unwrap();
    let before = shop.api::<Service>().get("orders-replicas").await.unwrap();
    shop.apply(&replication("orders", "orders-db")).unwrap();
    let message = shop.reason("orders", "StepFailed", 90).await;
    assert!(message.contains("Service orders-replicas exists already and is not Understudy's"), "{message}");
    let after = shop.api::<Service>().get("orders-replicas").await.unwrap();
    assert_eq!((after.spec, after.metadata.resource_version), (before.spec, before.metadata.resource_version));

    shop.kubectl(&["delete", "service", "orders-replicas"]).unwrap();
    shop.replicating("orders", 90).await;
    shop.delete("orders", 90).await;
    shop.remove().await;
}

#[tokio::test]
async fn volumes_grow_where_the_cluster_can_and_it_is_said_where_it_cannot() {
    let shop = Shop::with_source("understudy-volumes").await;
    let class = "understudy-test-growable";
    let storage = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": class},
        "provisioner": "rancher.io/local-path", "volumeBindingMode": "WaitForFirstConsumer", "allowVolumeExpansion": true});
    run("kubectl", &["apply", "-f", "-"], &storage.to_string()).unwrap();
    let mut resource = replication("orders", "orders-db");
    resource["spec"]["backup"]["volume"]["storageClassName"] = json!(class);
    shop.apply(&resource).unwrap();
    shop.replicating("orders", 120).await;

    shop.edit("orders", json!({"backup": {"volume": {"size": "2Gi"}}})).await;
    let backup = shop.get("orders").await.unwrap().status.unwrap().backup.unwrap().claim;
    wait("the backup's claim asks for more", 30, || async {
        let claim: PersistentVolumeClaim = shop.api().get(&backup).await.map_err(|e| e.to_string())?;
        let asked = claim.spec.unwrap().resources.unwrap().requests.unwrap()["storage"].0.clone();
        if asked == "2Gi" { Ok(()) } else { Err(asked) }
    })
    .await;

    shop.edit("orders", json!({"replicaTemplate": {"storage": {"size": "2Gi"}}})).await;
    let told = wait("it is said that the replica's volume can't grow", 30, || async {
        let told = shop.kubectl(&["get", "events", "--field-selector=reason=VolumeNotGrown", "-o", "jsonpath={.items[*].message}"])?;
        if told.is_empty() { Err("no such event".to_owned()) } else { Ok(told) }
    })
    .await;
    assert!(told.contains("cannot be made 2Gi large") && told.contains("resize"), "{told}");
    shop.replicating("orders", 30).await;
    // Longer than the pause between two looks: it is not asked for again.
    idle(&shop, 40).await;
    shop.delete("orders", 90).await;
    run("kubectl", &["delete", "storageclass", class], "").unwrap();
    shop.remove().await;
}

#[tokio::test]
async fn a_replica_that_could_not_start_follows_what_is_mended() {
    let shop = Shop::with_source("understudy-nowhere").await;
    let mut resource = replication("orders", "orders-db");
    resource["spec"]["replicaTemplate"] = json!({"nodeSelector": {"understudy.dev/nowhere": "true"}});
    shop.apply(&resource).unwrap();
    let message = wait("it is said that there is no node", 120, || async {
        let (_, reason, message) = shop.condition("orders", "Ready").await?;
        if reason == "ReplicaStarting" && message.contains("node") { Ok(message) } else { Err(format!("{reason}: {message}")) }
    })
    .await;
    assert!(message.contains("orders-replica-1") && message.contains("didn't match"), "{message}");
    shop.edit("orders", json!({"replicaTemplate": null})).await;
    shop.replicating("orders", 90).await;
    shop.delete("orders", 90).await;
    shop.remove().await;
}

#[tokio::test]
async fn a_role_that_was_dropped_is_made_again_and_replicas_log_in_with_the_password_that_they_have() {
    let shop = Shop::with_source("understudy-dropped").await;
    let before = shop.snapshot("orders-db-0").await;
    let primary = shop.service("orders-db").await;
    shop.apply(&replication("orders", "orders-db")).unwrap();
    shop.replicating("orders", 120).await;
    let writer = Writer::start::<PostgreSql>(primary.clone()).await;
    let role = shop.sql("orders-db-0", "SELECT rolname FROM pg_roles WHERE rolname LIKE 'understudy%'").await.unwrap().concat();
    let access = || shop.sql("orders-db-0", "SELECT rolpassword FROM pg_authid WHERE rolname LIKE 'understudy%' AND rolpassword IS NOT NULL");
    let verifier = access().await.unwrap().concat();

    shop.sql("orders-db-0", &format!("DROP ROLE {role}")).await.unwrap();
    wait("the role has a password again", 90, || async {
        let found = access().await?.concat();
        if !found.is_empty() && found != verifier { Ok(()) } else { Err(format!("{:?}", shop.condition("orders", "SourceConfigured").await)) }
    })
    .await;
    // `DROP ROLE` leaves the connection that streams: it is the next one that needs the password.
    shop.sql("orders-db-0", "SELECT pg_terminate_backend(pid) FROM pg_stat_replication").await.unwrap();
    wait("the replica streams again", 60, || async {
        let found = shop.sql("orders-db-0", &format!("SELECT state FROM pg_stat_replication WHERE usename = '{role}'")).await?;
        if found == ["streaming"] { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
    let (written, errors) = writer.finish();
    assert!(errors.is_empty(), "{errors:?}");
    wait("every row is on the replica", 30, || async {
        let found = shop.sql("orders-replica-1-0", "SELECT count(*) FROM orders").await?;
        if found == [written.to_string()] { Ok(()) } else { Err(format!("{found:?} of {written}")) }
    })
    .await;
    let backup = shop.get("orders").await.unwrap().status.unwrap().backup.unwrap();
    assert_eq!((backup.sequence, backup.state.as_str()), (1, "Complete"), "no second backup");
    assert_eq!(shop.names::<Job>("understudy.dev/component=backup").await.len(), 1);

    // Hands off, also from what disabling would take away.
    shop.edit("orders", json!({"suspend": true, "enabled": false})).await;
    shop.phase("orders", Phase::Suspended, 30).await;
    assert_eq!(query(&shop.service("orders-replicas").await, "SELECT pg_is_in_recovery()").await.unwrap(), ["t"]);
    shop.edit("orders", json!({"suspend": false})).await;
    shop.phase("orders", Phase::Standalone, 90).await;
    assert_eq!(shop.snapshot("orders-db-0").await, before);
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

#[tokio::test]
async fn the_progress_of_a_long_copy_stands_in_the_status() {
    let shop = Shop::with_source("understudy-progress").await;
    shop.sql("orders-db-0", "CREATE TABLE big (words text STORAGE EXTERNAL)").await.unwrap();
    for _ in 0..5 {
        shop.sql("orders-db-0", "INSERT INTO big SELECT repeat(md5(i::text), 100) FROM generate_series(1, 15000) AS i").await.unwrap();
    }
    shop.apply(&replication("orders", "orders-db")).unwrap();
    wait("a third of the backup is sent", 60, || async { shop.sql("orders-db-0", HOLD_AFTER_A_THIRD).await }).await;
    let percent = wait("the status says how far the copy is", 30, || async {
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
    shop.replicating("orders", 120).await;
    assert_eq!(shop.get("orders").await.unwrap().status.unwrap().backup.unwrap().percent, Some(100));
    shop.delete("orders", 90).await;
    shop.remove().await;
}
