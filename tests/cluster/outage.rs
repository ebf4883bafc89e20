//! A source that goes and comes back, while a client writes: it is waited for, and no row is lost.

use k8s_openapi::api::batch::v1::Job;
use serde_json::{Value, json};
use understudy::api::Phase;

use crate::databases::{Redis, arguments, for_every_engine};
use crate::support::{Database, PASSWORD, Place, Writer, replication_of, wait};

for_every_engine!(a_source_that_goes_and_comes_back_in_the_middle_of_the_backup_or_later_loses_no_row);

async fn a_source_that_goes_and_comes_back_in_the_middle_of_the_backup_or_later_loses_no_row<D: Database>() {
    let shop = Place::<D>::with_source(&format!("understudy-outage-{}", D::NAME)).await;
    let before = shop.snapshot("orders-db-0").await;
    let primary = shop.service("orders-db").await;
    let writer = Writer::start::<D>(primary.clone()).await;

    // In the middle of the backup.
    shop.connect("orders-db-0").await.unwrap().slow_down().await.unwrap();
    shop.apply(&replication_of::<D>("orders", "orders-db")).unwrap();
    // A login takes a while: it is made before the copy begins.
    wait("the backup's Job is made", 180, async || {
        let jobs = shop.names::<Job>("understudy.dev/component=backup").await;
        if jobs.is_empty() { Err("no Job".to_owned()) } else { Ok(()) }
    })
    .await;
    let mut holder = wait("the source answers", 60, async || shop.connect("orders-db-0").await).await;
    wait("a backup is held", 180, async || holder.hold_backup().await).await;
    shop.lose("orders-db-0").await;
    shop.reason("orders", "SourceUnreachable", 120).await;
    wait("it is said that the backup failed", 180, async || {
        let found = shop.condition("orders", "BackupTaken").await?;
        if found.1 == "BackupFailed" && !found.2.is_empty() { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
    shop.revive("orders-db-0").unwrap();
    shop.replicating("orders", 240).await;
    drop(holder);

    let status = shop.get("orders").await.unwrap().status.unwrap();
    let (word, backup) = (status.enablement.unwrap(), status.backup.unwrap());
    assert_eq!((backup.state.as_str(), backup.sequence), ("Complete", 1));
    assert_eq!(shop.names::<Job>("understudy.dev/component=backup").await.len(), 1);
    let mut there = [format!("replication-password-{word}"), format!("{word}-1")];
    there.sort();
    assert_eq!(shop.volume(&backup.claim), there, "nothing is left of the backup that failed");
    assert_eq!(shop.traces("orders-db-0").await.len(), D::TRACES);
    shop.nothing_is_missing(D::REPLICAS, shop.rows("orders-db-0").await).await;

    // Later: its replicas go on serving what they have.
    let (source, replica) = (shop.uid("orders-db-0").await.unwrap(), shop.uid("orders-replica-1-0").await.unwrap());
    let then = shop.rows("orders-db-0").await;
    shop.lose("orders-db-0").await;
    let message = shop.reason("orders", "SourceUnreachable", 120).await;
    assert!(message.contains("the source does not answer") && message.contains("see that pod orders-db-0 runs"), "{message}");
    shop.phase("orders", Phase::Degraded, 10).await;
    let readers = shop.service("orders-replicas").await;
    let found = D::connect(&readers).await.unwrap().count().await.unwrap();
    assert!(found >= then, "{found} of {then}");
    if D::ELECTS {
        another_is_elected(&shop).await;
    } else {
        assert_eq!(shop.replica_addresses().await, shop.addresses_of("orders", D::REPLICAS));
    }
    shop.revive("orders-db-0").unwrap();
    shop.replaced("orders-db-0", &source).await;
    shop.replicating("orders", 240).await;
    // Where another was elected, the source is preferred once it has caught up.
    wait("the variables name the source as the primary", 120, async || {
        let address = shop.data("shop-env").await[&Place::<D>::key("ADDRESS")].clone();
        if address == format!("orders-db.{}.svc", shop.namespace) { Ok(()) } else { Err(address) }
    })
    .await;
    assert_eq!(shop.replica_addresses().await, shop.addresses_of("orders", D::REPLICAS));
    wait("clients write again", 180, async || {
        let found = shop.connect("orders-db-0").await?.count().await?;
        if found > then + 50 { Ok(()) } else { Err(format!("{found} of {then}")) }
    })
    .await;
    let written = writer.finish();
    let rows = shop.rows("orders-db-0").await;
    written.all_there(rows);
    shop.nothing_is_missing(D::REPLICAS, rows).await;
    assert_eq!(shop.uid("orders-replica-1-0").await.unwrap(), replica, "a replica does not restart because its source does");
    assert_eq!(shop.names::<Job>("understudy.dev/component=backup").await.len(), 1, "no second backup");
    shop.delete("orders", 180).await;
    assert_eq!(shop.snapshot("orders-db-0").await, before);
    shop.remove().await;
}

/// Services and variables say which of the replicas takes the writes now, and that is true; who reads from replicas is not sent there.
async fn another_is_elected<D: Database>(shop: &Place<D>) {
    let all = shop.addresses_of("orders", D::REPLICAS);
    let elected = wait("the variables name another primary", 120, async || {
        let address = shop.data("shop-env").await[&Place::<D>::key("ADDRESS")].clone();
        all.split(',').find(|replica| *replica == address).map(str::to_owned).ok_or(address)
    })
    .await;
    let others: Vec<&str> = all.split(',').filter(|replica| *replica != elected).collect();
    assert_eq!(shop.replica_addresses().await, others.join(","));
    let pod = format!("{}-0", elected.split('.').next().unwrap());
    assert!(shop.connect(&pod).await.unwrap().takes_writes().await.unwrap(), "{pod}");
    let primary = shop.service("orders-primary").await;
    wait("it takes writes through the Service", 60, async || D::connect(&primary).await?.insert(u64::from(u32::MAX)).await).await;
    wait("it does not serve as a replica", 60, async || {
        let serving = shop.kubectl(&["get", "pods", "-l", "understudy.dev/role=replica", "-o", "jsonpath={.items[*].metadata.name}"])?;
        if serving.split(' ').any(|name| name == pod) { Err(serving) } else { Ok(()) }
    })
    .await;
}

/// Redis alone: it forgets our user when it restarts. Users that outlast that stand in a file of their owner's, here a Secret, which is read anew, without ours.
#[tokio::test]
async fn a_source_with_an_acl_file_gets_our_user_again_when_its_pod_is_replaced() {
    let shop = Place::<Redis>::new("understudy-acl").await;
    shop.secret("users", json!({"users.acl": format!("user default on >{PASSWORD} ~* &* +@all\nuser clerk on >clerk ~* +@read\n")}));
    shop.source("orders-db", |object| {
        let pod = &mut object["spec"]["template"]["spec"];
        pod["volumes"].as_array_mut().unwrap().push(json!({"name": "users", "secret": {"secretName": "users"}}));
        let container = &mut pod["containers"][0];
        container["volumeMounts"].as_array_mut().unwrap().push(json!({"name": "users", "mountPath": "/etc/users", "readOnly": true}));
        arguments(container).extend(["--aclfile", "/etc/users/users.acl"].map(Value::from));
    })
    .await;
    let before = shop.snapshot("orders-db-0").await;
    let writer = Writer::start::<Redis>(shop.service("orders-db").await).await;
    shop.apply(&replication_of::<Redis>("orders", "orders-db")).unwrap();
    shop.replicating("orders", 240).await;
    let user = shop.traces("orders-db-0").await;
    assert_eq!(user.len(), Redis::TRACES);

    let (source, replica) = (shop.uid("orders-db-0").await.unwrap(), shop.uid("orders-replica-1-0").await.unwrap());
    let then = shop.rows("orders-db-0").await;
    shop.kubectl(&["delete", "pod", "orders-db-0", "--wait=false"]).unwrap();
    shop.replaced("orders-db-0", &source).await;
    wait("what was written since then is on the replica", 180, async || {
        let found = shop.connect("orders-replica-1-0").await?.count().await?;
        if found > then + 50 { Ok(()) } else { Err(format!("{found} of {then}: {:?}", shop.condition("orders", "SourceConfigured").await)) }
    })
    .await;
    shop.replicating("orders", 240).await;
    let written = writer.finish();
    let rows = shop.rows("orders-db-0").await;
    written.all_there(rows);
    shop.nothing_is_missing(Redis::REPLICAS, rows).await;
    assert_eq!(shop.traces("orders-db-0").await, user);
    assert_eq!(shop.traces("orders-replica-1-0").await, [""; 0], "nobody follows a replica");
    assert_eq!(shop.uid("orders-replica-1-0").await.unwrap(), replica, "a replica does not restart because its source does");
    assert_eq!(shop.names::<Job>("understudy.dev/component=backup").await.len(), 1, "no second backup");
    shop.delete("orders", 180).await;
    assert_eq!(shop.snapshot("orders-db-0").await, before);
    shop.remove().await;
}
