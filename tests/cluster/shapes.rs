//! Sources in other shapes than the official image's defaults: each gets its replica and is as before afterwards.

use serde_json::{Value, json};

use crate::support::{PASSWORD, Shop, USER, replication, stateful_set, wait};

/// The source's pod as a template has it.
fn pod(object: &mut Value) -> &mut Value {
    &mut object["spec"]["template"]["spec"]
}

/// The source's database container.
fn database(object: &mut Value) -> &mut Value {
    &mut pod(object)["containers"][0]
}

/// Runs everything as one user, with nothing that a restricted namespace forbids.
fn as_user(object: &mut Value, context: Value) {
    pod(object)["securityContext"] = context;
    database(object)["securityContext"] = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
}

/// Enables replication, sees a row on a read-only replica, whose pod also starts a second time, and deletes the resource: the source is as before.
async fn replicates(shop: &Shop, resource: &Value) {
    let before = shop.snapshot("orders-db-0").await;
    shop.apply(resource).unwrap();
    shop.replicating("orders", 120).await;
    shop.sql("orders-db-0", "CREATE TABLE seen (word text)").await.unwrap();
    shop.sql("orders-db-0", "INSERT INTO seen VALUES ('here')").await.unwrap();
    seen(shop).await;
    let pods = |shop: &Shop| shop.kubectl(&["get", "pod", "orders-replica-1-0", "-o", "jsonpath={.metadata.uid}"]);
    let first = pods(shop).unwrap();
    shop.kubectl(&["delete", "pod", "orders-replica-1-0", "--wait=false"]).unwrap();
    wait("a new pod of the replica", 60, || async {
        match pods(shop)? {
            uid if uid == first => Err("still the old one".to_owned()),
            _ => Ok(()),
        }
    })
    .await;
    seen(shop).await;
    shop.replicating("orders", 60).await;
    shop.sql("orders-db-0", "DROP TABLE seen").await.unwrap();
    shop.delete("orders", 90).await;
    assert_eq!(shop.snapshot("orders-db-0").await, before);
}

/// The replica shows the row, and takes no other.
async fn seen(shop: &Shop) {
    wait("the row is on the replica", 60, || async {
        let found = shop.sql("orders-replica-1-0", "SELECT word FROM seen").await?;
        if found == ["here"] { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
    let refused = shop.sql("orders-replica-1-0", "INSERT INTO seen VALUES ('there')").await.unwrap_err();
    assert!(refused.starts_with("25006"), "{refused}");
}

#[tokio::test]
async fn data_at_the_mount_point_itself_or_under_a_sub_path_of_a_named_claim_is_replicated() {
    // No PGDATA: the image's default, which is where the volume is mounted.
    let at_the_mount = async {
        let shop = Shop::new("understudy-mount").await;
        shop.source("orders-db", |object| drop(database(object)["env"].as_array_mut().unwrap().pop())).await;
        assert_eq!(shop.sql("orders-db-0", "SHOW data_directory").await.unwrap(), ["/var/lib/postgresql/data"]);
        replicates(&shop, &replication("orders", "orders-db")).await;
        shop.remove().await;
    };

    // A Secret with a password only, a claim of its own, no Service that reaches it.
    let below = async {
        let shop = Shop::new("understudy-subpath").await;
        shop.secret("admin", json!({"POSTGRES_PASSWORD": PASSWORD}));
        shop.apply(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "shop-env"}, "data": {}})).unwrap();
        shop.apply(&json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "disk"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}))
            .unwrap();
        let mut object = stateful_set("orders-db");
        object["spec"].as_object_mut().unwrap().remove("volumeClaimTemplates");
        object["spec"]["serviceName"] = json!("nobody");
        pod(&mut object)["volumes"] = json!([{"name": "storage", "persistentVolumeClaim": {"claimName": "disk"}}]);
        let container = database(&mut object);
        container["volumeMounts"] = json!([{"name": "storage", "mountPath": "/var/lib/postgresql/data", "subPath": "postgresql-db"}]);
        container["env"] = json!([{"name": "POSTGRES_USER", "value": USER}, {"name": "POSTGRES_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "admin", "key": "POSTGRES_PASSWORD"}}}]);
        container.as_object_mut().unwrap().remove("ports");
        shop.apply(&object).unwrap();
        shop.source_ready("orders-db").await;
        let mut resource = replication("orders", "orders-db");
        resource["spec"]["source"]["credentials"] = json!({"secretRef": {"name": "admin"}, "username": USER, "passwordKey": "POSTGRES_PASSWORD"});
        replicates(&shop, &resource).await;
        assert_eq!(shop.data("shop-env").await.get("POSTGRESQL_SLAVE_ADDRESSES_INT").map_or("", String::as_str), "");
        shop.remove().await;
    };
    tokio::join!(at_the_mount, below);
}

#[tokio::test]
async fn a_restricted_pod_in_a_restricted_namespace_is_replicated() {
    let shop = Shop::new("understudy-restricted").await;
    shop.kubectl(&["label", "namespace", &shop.namespace, "pod-security.kubernetes.io/enforce=restricted"]).unwrap();
    let context = json!({"runAsUser": 999, "runAsGroup": 999, "fsGroup": 999, "runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}});
    shop.source("orders-db", |object| as_user(object, context)).await;
    replicates(&shop, &replication("orders", "orders-db")).await;
    shop.remove().await;
}

#[tokio::test]
async fn a_server_under_a_number_without_a_name_is_replicated() {
    let shop = Shop::new("understudy-number").await;
    shop.source("orders-db", |object| as_user(object, json!({"runAsUser": 1001, "fsGroup": 1001}))).await;
    assert!(shop.sql("orders-db-0", "SELECT pg_read_file('/proc/self/status')").await.unwrap().concat().contains("Uid:\t1001"));
    replicates(&shop, &replication("orders", "orders-db")).await;
    shop.remove().await;
}

#[tokio::test]
async fn mounted_configuration_prepared_scripts_and_a_sidecar_that_stands_first_are_replicated() {
    let shop = Shop::new("understudy-chart").await;
    let configuration = "listen_addresses = '*'\nmax_connections = 77\nwork_mem = 5MB\n";
    shop.apply(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "configuration"}, "data": {"postgresql.conf": configuration}})).unwrap();
    shop.source("orders-db", |object| {
        object["spec"]["template"]["metadata"]["annotations"] = json!({"checksum/configuration": "5f1d", "prometheus.io/scrape": "true"});
        let container = database(object);
        container["command"] = json!(["bash", "-ec", ". /scripts/prepare.sh && exec docker-entrypoint.sh postgres -c \"$CONFIGURATION\""]);
        let mounts = container["volumeMounts"].as_array_mut().unwrap();
        mounts.push(json!({"name": "configuration", "mountPath": "/etc/postgresql"}));
        mounts.push(json!({"name": "scripts", "mountPath": "/scripts", "readOnly": true}));
        let probe = ["sh", "-c", "exec pg_isready -U \"orders\" -d \"dbname=orders\" -h 127.0.0.1 -p 5432"];
        container["startupProbe"] = json!({"exec": {"command": probe}, "periodSeconds": 1, "failureThreshold": 60});
        container["livenessProbe"] = json!({"exec": {"command": probe}, "periodSeconds": 5, "timeoutSeconds": 5});
        let script = "echo 'export CONFIGURATION=config_file=/etc/postgresql/postgresql.conf' > /scripts/prepare.sh";
        let pod = pod(object);
        pod["initContainers"] = json!([{"name": "prepare", "image": "busybox:1.36", "command": ["sh", "-c", script],
            "volumeMounts": [{"name": "scripts", "mountPath": "/scripts"}]}]);
        let exporter = json!({"name": "exporter", "image": "busybox:1.36", "command": ["sh", "-c", "trap exit TERM; sleep 3600 & wait"], "ports": [{"containerPort": 9187}]});
        pod["containers"].as_array_mut().unwrap().insert(0, exporter);
        pod["volumes"] = json!([{"name": "configuration", "configMap": {"name": "configuration"}}, {"name": "scripts", "emptyDir": {}}]);
    })
    .await;
    assert_eq!(shop.sql("orders-db-0", "SHOW max_connections").await.unwrap(), ["77"]);
    replicates(&shop, &replication("orders", "orders-db")).await;
    shop.remove().await;
}
