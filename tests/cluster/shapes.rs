//! Sources in other shapes than the official image's defaults: each gets its replicas and is as before afterwards.

use serde_json::{Value, json};
use understudy::api::Phase;

use crate::databases::{MySql, arguments, for_engines, for_every_engine};
use crate::support::{ALLOWED, Database, Place, PostgreSql, Shop, password_of, replication, replication_between, replication_of, wait};

/// The source's pod as a template has it.
fn pod(object: &mut Value) -> &mut Value {
    &mut object["spec"]["template"]["spec"]
}

/// The source's database container.
fn database(object: &mut Value) -> &mut Value {
    &mut pod(object)["containers"][0]
}

/// Has everything that reads the password of the source's Secret read that of another one, under another key.
fn read_from(object: &mut Value, secret: &str, key: &str) {
    for variable in database(object)["env"].as_array_mut().into_iter().flatten() {
        if variable["valueFrom"].is_object() {
            variable["valueFrom"] = json!({"secretKeyRef": {"name": secret, "key": key}});
        }
    }
    for volume in pod(object)["volumes"].as_array_mut().into_iter().flatten() {
        if volume["secret"].is_object() {
            volume["secret"]["secretName"] = json!(secret);
        }
    }
}

/// Runs everything as one user, with nothing that a restricted namespace forbids.
fn as_user(object: &mut Value, context: Value) {
    pod(object)["securityContext"] = context;
    for kind in ["containers", "initContainers"] {
        for container in pod(object)[kind].as_array_mut().into_iter().flatten() {
            container["securityContext"] = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
        }
    }
}

/// Enables replication, sees a row on read-only replicas, one of whose pods also starts a second time, and deletes the resource: the source is as before.
/// A line of the replica's settings begins with `proof`.
async fn replicates<D: Database>(shop: &Place<D>, resource: &Value, proof: &str) {
    let before = is_enabled(shop, resource, proof).await;
    shop.delete("orders", 180).await;
    assert_eq!(shop.snapshot("orders-db-0").await, before);
}

/// The first half of it; gives what the source was like before.
async fn is_enabled<D: Database>(shop: &Place<D>, resource: &Value, proof: &str) -> Vec<String> {
    let mut source = shop.connect("orders-db-0").await.unwrap();
    source.prepare().await.unwrap();
    source.insert(1).await.unwrap();
    let before = shop.snapshot("orders-db-0").await;
    shop.apply(resource).unwrap();
    shop.replicating("orders", 240).await;
    // A source that restarts for it has closed the connection.
    shop.connect("orders-db-0").await.unwrap().insert(2).await.unwrap();
    shop.nothing_is_missing(D::REPLICAS, 2).await;
    shop.read_only("orders-replica-1-0").await;
    shows(shop, "orders-replica-1-0", proof).await;

    let first = shop.uid("orders-replica-1-0").await.unwrap();
    shop.kubectl(&["delete", "pod", "orders-replica-1-0", "--wait=false"]).unwrap();
    shop.replaced("orders-replica-1-0", &first).await;
    shop.connect("orders-db-0").await.unwrap().insert(3).await.unwrap();
    shop.nothing_is_missing(D::REPLICAS, 3).await;
    shop.read_only("orders-replica-1-0").await;
    shop.replicating("orders", 120).await;
    before
}

/// A line of a server's settings begins like this.
async fn shows<D: Database>(shop: &Place<D>, pod: &str, proof: &str) {
    let found = shop.snapshot(pod).await;
    assert!(found.iter().any(|line| line.starts_with(proof)), "{proof} is missing on {pod}: {found:?}");
}

for_every_engine!(a_manifest_written_by_hand_is_replicated, a_hardened_chart_is_replicated);

/// Data at the mount point itself, which is a directory of a claim of its own; no declared port, no governing Service nor any other that reaches it; a
/// Secret with nothing but a password, under another key. Gives the credentials.
async fn by_hand<D: Database>(shop: &Place<D>, name: &str) -> Value {
    let mut secret = D::secret(password_of(name));
    secret.as_object_mut().unwrap().retain(|key, _| key != "username" && key != "password");
    secret["admin-password"] = json!(password_of(name));
    shop.secret("admin", secret);
    shop.apply(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "shop-env"}, "data": {}})).unwrap();
    shop.apply(&json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "disk"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}}}))
        .unwrap();
    let mut object = D::stateful_set(name);
    read_from(&mut object, "admin", "admin-password");
    object["spec"].as_object_mut().unwrap().remove("volumeClaimTemplates");
    object["spec"]["serviceName"] = json!("nobody");
    let container = database(&mut object);
    D::keep_data_in(container, None);
    container.as_object_mut().unwrap().remove("ports");
    for mount in container["volumeMounts"].as_array_mut().unwrap() {
        if mount["name"] == "data" {
            *mount = json!({"name": "data", "mountPath": D::DIRECTORY, "subPath": "databases/orders"});
        }
    }
    let volume = json!({"name": "data", "persistentVolumeClaim": {"claimName": "disk"}});
    match &mut pod(&mut object)["volumes"] {
        Value::Array(volumes) => volumes.push(volume),
        none => *none = json!([volume]),
    }
    shop.apply(&object).unwrap();
    shop.source_ready(name).await;
    assert_eq!(shop.connect(&format!("{name}-0")).await.unwrap().directory().await.unwrap(), D::DIRECTORY);
    json!({"secretRef": {"name": "admin"}, "username": D::USER, "passwordKey": "admin-password"})
}

async fn a_manifest_written_by_hand_is_replicated<D: Database>() {
    let shop = Place::<D>::new(&format!("understudy-manifest-{}", D::NAME)).await;
    let mut resource = replication_of::<D>("orders", "orders-db");
    resource["spec"]["source"]["credentials"] = by_hand(&shop, "orders-db").await;
    replicates(&shop, &resource, "").await;
    assert_eq!(shop.data("shop-env").await.get(&Place::<D>::key("SLAVE_ADDRESSES_INT")).map_or("", String::as_str), "");
    shop.remove().await;
}

/// A namespace and a pod that are restricted, a user under a number that has no name; data in a directory below the mount; settings from a ConfigMap that
/// an init container prepares; a metrics exporter that stands first; probes that name the user; annotations that are checksums. Gives the beginning of a line of the settings that shows that they are read.
async fn hardened<D: Database>(shop: &Place<D>, name: &str) -> &'static str {
    shop.kubectl(&["label", "namespace", &shop.namespace, "pod-security.kubernetes.io/enforce=restricted"]).unwrap();
    let mut object = D::stateful_set(name);
    let chart = D::chart(database(&mut object));
    shop.apply(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "configuration"}, "data": chart.configuration})).unwrap();
    object["spec"]["template"]["metadata"]["annotations"] = json!({"checksum/configuration": "5f1d", "prometheus.io/scrape": "true"});
    let password = json!({"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": name, "key": "password"}}});
    let container = database(&mut object);
    D::keep_data_in(container, Some("/storage/data"));
    match &mut container["env"] {
        Value::Array(variables) => variables.push(password.clone()),
        none => *none = json!([password]),
    }
    for mount in container["volumeMounts"].as_array_mut().unwrap() {
        if mount["name"] == "data" {
            mount["mountPath"] = json!("/storage");
        }
    }
    let probe = json!({"command": ["sh", "-c", chart.probe]});
    container["startupProbe"] = json!({"exec": probe, "periodSeconds": 1, "timeoutSeconds": 10, "failureThreshold": 120});
    container["livenessProbe"] = json!({"exec": probe, "periodSeconds": 5, "timeoutSeconds": 10, "failureThreshold": 6});
    let pod = pod(&mut object);
    let script = format!("mkdir -p /storage/data && {}", chart.script);
    pod["initContainers"] = json!([{"name": "prepare", "image": "busybox:1.36", "command": ["sh", "-ec", script], "env": [password], "volumeMounts": [
        {"name": "data", "mountPath": "/storage"}, {"name": "configuration", "mountPath": "/configuration"}, {"name": "prepared", "mountPath": "/prepared"}]}]);
    let exporter =
        json!({"name": "exporter", "image": "busybox:1.36", "command": ["sh", "-c", "trap exit TERM; sleep 3600 & wait"], "ports": [{"containerPort": 9187}]});
    pod["containers"].as_array_mut().unwrap().insert(0, exporter);
    pod["volumes"] = json!([{"name": "configuration", "configMap": {"name": "configuration"}}, {"name": "prepared", "emptyDir": {}}]);
    as_user(&mut object, json!({"runAsUser": 1001, "fsGroup": 1001, "runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}}));
    shop.source(name, |official| *official = object).await;

    let pod = format!("{name}-0");
    shows(shop, &pod, chart.proof).await;
    assert_eq!(shop.connect(&pod).await.unwrap().directory().await.unwrap(), "/storage/data");
    let user = shop.kubectl(&["exec", &pod, "-c", D::CONTAINER, "--", "grep", "^Uid:", "/proc/1/status"]).unwrap();
    assert!(user.contains("1001"), "{user}");
    chart.proof
}

async fn a_hardened_chart_is_replicated<D: Database>() {
    let shop = Place::<D>::new(&format!("understudy-chart-{}", D::NAME)).await;
    let proof = hardened(&shop, "orders-db").await;
    replicates(&shop, &replication_of::<D>("orders", "orders-db"), proof).await;
    shop.remove().await;
}

for_engines!([postgresql: PostgreSql, mysql: MySql, redis: Redis] targets_of_both_kinds_become_replicas_of_one_source);

/// A target of another shape than its source becomes the replica, also when its pod starts again, and a database of its own again.
async fn takes_over<D: Database>(sales: &Place<D>, reports: &Place<D>, credentials: Value, proof: &str, first: u64) {
    let before = reports.snapshot("reports-db-0").await;
    reports.apply(&replication_between::<D>(&sales.namespace, |spec| spec["target"]["credentials"] = credentials)).unwrap();
    reports.replicating("orders", 300).await;
    let arrives = async |row: u64| {
        let mut source = sales.connect("orders-db-0").await.unwrap();
        source.insert(row).await.unwrap();
        let rows = source.count().await.unwrap();
        wait(&format!("row {row}"), 120, async || match reports.connect("reports-db-0").await?.count().await? {
            count if count >= rows => Ok(()),
            count => Err(format!("{count} rows")),
        })
        .await;
        reports.read_only("reports-db-0").await;
    };
    arrives(first).await;
    shows(reports, "reports-db-0", proof).await;
    let old = reports.uid("reports-db-0").await.unwrap();
    reports.kubectl(&["delete", "pod", "reports-db-0", "--wait=false"]).unwrap();
    reports.replaced("reports-db-0", &old).await;
    arrives(first + 1).await;
    reports.delete("orders", 240).await;
    reports.source_ready("reports-db").await;
    let mut target = reports.connect("reports-db-0").await.unwrap();
    assert!(target.takes_writes().await.unwrap() && target.count().await.unwrap() >= 3);
    let workload = |snapshot: &[String]| snapshot[snapshot.len() - 2..].to_vec();
    assert_eq!(workload(&reports.snapshot("reports-db-0").await), workload(&before));
    assert!(reports.traces("reports-db-0").await.is_empty());
}

async fn targets_of_both_kinds_become_replicas_of_one_source<D: Database>() {
    let sales = Place::<D>::new(&format!("understudy-forms-sales-{}", D::NAME)).await;
    hardened(&sales, "orders-db").await;
    sales.kubectl(&["annotate", "secret", "orders-db", &format!("{ALLOWED}=*")]).unwrap();
    let mut source = sales.connect("orders-db-0").await.unwrap();
    source.prepare().await.unwrap();
    source.insert(1).await.unwrap();
    let before = sales.snapshot("orders-db-0").await;
    let of_a_manifest = async {
        let reports = Place::<D>::new(&format!("understudy-forms-manifest-{}", D::NAME)).await;
        let credentials = by_hand(&reports, "reports-db").await;
        reports
            .apply(&json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "reports"},
            "spec": {"selector": {"app": "reports-db"}, "ports": [{"port": D::PORT}]}}))
            .unwrap();
        takes_over(&sales, &reports, credentials, "", 10).await;
        reports.remove().await;
    };
    let of_a_chart = async {
        let reports = Place::<D>::new(&format!("understudy-forms-chart-{}", D::NAME)).await;
        let proof = hardened(&reports, "reports-db").await;
        takes_over(&sales, &reports, json!({"secretRef": {"name": "reports-db"}}), proof, 20).await;
        reports.remove().await;
    };
    tokio::join!(of_a_manifest, of_a_chart);
    assert_eq!(sales.snapshot("orders-db-0").await, before);
    assert!(sales.traces("orders-db-0").await.is_empty());
    sales.remove().await;
}

/// PostgreSQL alone: `initdb` and the server judge owner and mode of their directory, here the mount point of a claim template itself, which has a group of
/// its own as soon as there is an `fsGroup`; the other engines' official defaults have theirs there.
#[tokio::test]
async fn a_directory_that_the_server_judges_by_its_mode_is_replicated() {
    let at_the_mount = async {
        let shop = Shop::new("understudy-mount").await;
        shop.source("orders-db", |object| PostgreSql::keep_data_in(database(object), None)).await;
        assert_eq!(shop.sql("orders-db-0", "SHOW data_directory").await.unwrap(), ["/var/lib/postgresql/data"]);
        replicates(&shop, &replication("orders", "orders-db"), "").await;
        shop.remove().await;
    };
    let of_the_images_user = async {
        let shop = Shop::new("understudy-owner").await;
        shop.source("orders-db", |object| as_user(object, json!({"runAsUser": 999, "runAsGroup": 999, "fsGroup": 999}))).await;
        replicates(&shop, &replication("orders", "orders-db"), "").await;
        shop.remove().await;
    };
    tokio::join!(at_the_mount, of_the_images_user);
}

/// MySQL alone: its server copies itself with a plugin, which the image may lack, and is dumped without.
#[tokio::test]
async fn a_source_that_cannot_be_cloned_is_dumped_and_it_is_said_why() {
    let shop = Place::<MySql>::new("understudy-dump").await;
    // There are no plugins there.
    shop.source("orders-db", |object| arguments(database(object)).push(json!("--plugin-dir=/etc"))).await;
    let before = is_enabled(&shop, &replication_of::<MySql>("orders", "orders-db"), "plugin_dir=/etc").await;
    let note = shop.get("orders").await.unwrap().status.unwrap().backup.unwrap().note.unwrap_or_default();
    assert!(note.starts_with("copied with mysqldump: the source can't install the clone plugin: Can't open shared library"), "{note}");
    let (status, reason, message) = shop.condition("orders", "BackupTaken").await.unwrap();
    assert!(status == "True" && reason == "Verified" && message.contains(&note), "{status} {reason} {message}");
    assert_eq!(shop.traces("orders-db-0").await.len(), 1, "the user alone");

    shop.edit("orders", json!({"enabled": false})).await;
    shop.phase("orders", Phase::Standalone, 180).await;
    assert_eq!(shop.snapshot("orders-db-0").await, before);
    assert_eq!(shop.traces("orders-db-0").await, [""; 0]);
    shop.remove().await;
}
