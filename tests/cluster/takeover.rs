//! Between two applications: a database of its own becomes the replica of another application's, and a database of its own again.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};
use std::time::Duration;
use understudy::api::Phase;

use crate::databases::{Standby, for_engines};
use crate::story::idle;
use crate::support::{ALLOWED, Database, OTHER_PASSWORD, PASSWORD, Place, Reader, Writer, applications, replication_between, replication_of, wait};

for_engines!([postgresql: PostgreSql, mysql: MySql, redis: Redis]
    a_target_becomes_the_replica_under_writes_and_a_database_of_its_own_again,
    what_a_target_held_is_kept_and_can_be_got_back,
    targets_of_one_source_are_removed_alone,
    a_server_that_does_not_start_on_the_copy_gets_its_own_data_back
);

/// The restart of a target's pod as it is without us: for how long its clients are without it.
async fn plain_restart<D: Database>(reports: &Place<D>) -> Duration {
    let reader = Reader::start::<D>(reports.service("reports-db").await).await;
    let old = reports.uid("reports-db-0").await.unwrap();
    reports.kubectl(&["delete", "pod", "reports-db-0", "--wait=false"]).unwrap();
    reports.replaced("reports-db-0", &old).await;
    reports.source_ready("reports-db").await;
    reader.finish()
}

/// Names at the top of the target's volume.
fn on_volume<D: Database>(reports: &Place<D>) -> Result<String, String> {
    reports.kubectl(&["exec", "reports-db-0", "-c", D::CONTAINER, "--", "sh", "-c", &format!("ls -A {0} {0}/..", D::DIRECTORY)])
}

async fn a_target_becomes_the_replica_under_writes_and_a_database_of_its_own_again<D: Database>() {
    let (sales, reports) = applications::<D>("takeover").await;
    sales.kubectl(&["annotate", "secret", "orders-db", &format!("{ALLOWED}={}", reports.namespace)]).unwrap();
    let writer = Writer::start::<D>(sales.service("orders-db").await).await;
    let before = sales.snapshot("orders-db-0").await;
    let workload = |snapshot: Vec<String>| snapshot[snapshot.len() - 2..].to_vec();
    let target_before = workload(reports.snapshot("reports-db-0").await);
    let mut plain = plain_restart(&reports).await;

    let reader = Reader::start::<D>(reports.service("reports-db").await).await;
    let told = D::PREFIX != "REDIS";
    reports.secret("reports-login", json!({"OTHER": "theirs"}));
    // The application that has the source logs in as a user of its own.
    sales.secret("orders-app", json!({"username": "clerk", "password": "of-the-clerk"}));
    let agree = |kind: &str, name: &str| sales.kubectl(&["annotate", kind, name, &format!("{ALLOWED}={}", reports.namespace)]).unwrap();
    agree("secret", "orders-app");
    let change = |spec: &mut Value| {
        spec["environment"] = json!({"configMaps": [{"name": "shop-env"}]});
        spec["source"]["environment"] = json!({"configMaps": [{"name": "shop-env"}]});
        if told {
            spec["environment"]["secrets"] = json!([{"name": "reports-login"}]);
            spec["source"]["application"] = json!({"credentials": {"secretRef": {"name": "orders-app"}}, "database": "shop"});
        }
    };
    reports.apply(&replication_between::<D>(&sales.namespace, change)).unwrap();
    let message = reports.reason("orders", "ConfigMapNotAllowed", 120).await;
    assert!(message.contains(&format!("kubectl -n {} annotate --overwrite configmap shop-env", sales.namespace)), "{message}");
    agree("configmap", "shop-env");
    reports.replicating("orders", 300).await;
    wait("it serves the source's data", 60, async || reports.connect("reports-db-0").await?.count().await).await;
    let away = reader.finish();
    let status = reports.get("orders").await.unwrap().status.unwrap();
    let disruption = status.disruption.clone().unwrap();
    let measured: f32 = disruption.measured.as_ref().unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(measured > 0.0 && measured <= away.as_secs_f32() + 5.0, "{disruption:?}");
    assert_eq!((status.replicas.len(), status.replicas[0].name.as_str()), (1, "reports-db"));

    // Its application is told its own address, and the login that it knows from now on.
    let key = Place::<D>::key;
    let data = reports.data("shop-env").await;
    assert_eq!((data[&key("ADDRESS")].as_str(), data[&key("SLAVE_ADDRESSES_INT")].as_str()), (format!("reports-db.{}.svc", reports.namespace).as_str(), ""));
    assert_eq!((data[&key("SLAVE_ADDRESSES_EXT")].as_str(), data["OTHER"].as_str()), ("", "theirs"));
    let login = ["DATABASE", "USERNAME"].map(|name| data.get(&key(name)).map(String::as_str));
    assert_eq!(login, [told.then_some("shop"), told.then_some("clerk")]);
    let (of_source, host) = (sales.data("shop-env").await, format!("reports-db.{}.svc", reports.namespace));
    assert_eq!((of_source[&key("SLAVE_ADDRESSES_INT")].as_str(), of_source["OTHER"].as_str()), (host.as_str(), "theirs"));
    let login = reports.api::<Secret>().get("reports-login").await.unwrap().data.unwrap();
    assert_eq!(login.get(&key("PASSWORD")).map(|value| value.0.as_slice()), told.then_some(b"of-the-clerk".as_slice()));
    assert_eq!(login["OTHER"].0, b"theirs");
    // Where users are data, the source's password counts; a Redis keeps its own.
    let host = reports.pod_ip("reports-db-0").await.unwrap();
    for (password, counts) in [(PASSWORD, told), (OTHER_PASSWORD, !told)] {
        let login = D::connect_as(&host, password).await.map(drop);
        assert_eq!(login.is_ok(), counts, "{login:?}");
    }

    // It holds everything, takes no writes, and never does when it comes back.
    let rows = sales.rows("orders-db-0").await;
    let caught_up = async |rows: u64| {
        let counted = async || match reports.connect("reports-db-0").await?.count().await? {
            count if count >= rows => Ok(()),
            count => Err(format!("{count} of {rows} rows")),
        };
        wait("the target has what the source has", 120, counted).await;
    };
    caught_up(rows).await;
    reports.read_only("reports-db-0").await;
    let old = reports.uid("reports-db-0").await.unwrap();
    reports.kubectl(&["delete", "pod", "reports-db-0", "--wait=false"]).unwrap();
    wait("the target is back", 180, async || {
        let uid = reports.uid("reports-db-0").await?;
        assert!(!reports.connect("reports-db-0").await?.takes_writes().await?, "a replica that takes writes");
        if uid == old { Err("still the old pod".to_owned()) } else { Ok(()) }
    })
    .await;
    caught_up(sales.rows("orders-db-0").await).await;
    // What it held before is off its volume once the copy is proven.
    wait("what it held before is removed", 120, async || {
        let cleared = reports.get("orders").await?.status.and_then(|status| status.target).is_some_and(|target| target.cleared);
        let names = on_volume(&reports)?;
        if cleared && !names.contains(".understudy-") { Ok(()) } else { Err(format!("cleared: {cleared}; {names}")) }
    })
    .await;
    reports.replicating("orders", 60).await;
    assert!(reports.names::<Secret>("app.kubernetes.io/managed-by=understudy").await.is_empty(), "the copy of the password is gone");
    let text = serde_json::to_string(&reports.get("orders").await.unwrap()).unwrap();
    assert!(!text.contains(PASSWORD) && !text.contains(OTHER_PASSWORD), "{text}");
    idle(&reports, 10).await;

    // Back: it keeps what it has, and takes writes, also after a restart; on the source nothing is left.
    let rows = sales.rows("orders-db-0").await;
    caught_up(rows).await;
    reports.edit("orders", json!({"enabled": false})).await;
    reports.phase("orders", Phase::Standalone, 240).await;
    assert_eq!(sales.snapshot("orders-db-0").await, before);
    assert!(sales.traces("orders-db-0").await.is_empty());
    assert_eq!(sales.replica_addresses().await, "");
    for _ in 0..2 {
        reports.source_ready("reports-db").await;
        let mut client = reports.connect("reports-db-0").await.unwrap();
        assert!(client.takes_writes().await.unwrap() && client.count().await.unwrap() >= rows);
        plain = plain.max(plain_restart(&reports).await);
    }
    // Of restarts in the same run the slowest counts: other tests share the machine.
    eprintln!("{}: a plain restart takes {plain:?}, the takeover {away:?}; status: {:?}", D::ENGINE, disruption.measured);
    assert!(away <= plain + Duration::from_secs(5), "the target's clients were without it for {away:?}; a restart alone takes {plain:?}");
    let mut client = reports.connect("reports-db-0").await.unwrap();
    client.insert(u64::from(u32::MAX)).await.unwrap();
    assert!(reports.traces("reports-db-0").await.is_empty(), "nothing of ours is left on the copy");
    assert_eq!(workload(reports.snapshot("reports-db-0").await), target_before);
    assert!(!on_volume(&reports).unwrap().contains("understudy"), "{}", on_volume(&reports).unwrap());
    assert!(reports.names::<Job>("app.kubernetes.io/managed-by=understudy").await.is_empty());
    let written = writer.finish();
    written.undisturbed::<D>();
    written.all_there(sales.rows("orders-db-0").await);
    reports.delete("orders", 60).await;
    reports.remove().await;
    sales.remove().await;
}

/// The server of this container starts on its own data, and never on a copy: ConfigMap `start` has what it starts with.
fn never_on_a_copy<D: Database>(stateful_set: &mut Value) {
    let pod = &mut stateful_set["spec"]["template"]["spec"];
    let volume = json!({"name": "start", "configMap": {"name": "start", "defaultMode": 0o755}});
    match &mut pod["volumes"] {
        Value::Array(volumes) => volumes.push(volume),
        none => *none = json!([volume]),
    }
    let container = pod["containers"].as_array_mut().unwrap().iter_mut().find(|container| container["name"] == D::CONTAINER).unwrap();
    container["volumeMounts"].as_array_mut().unwrap().push(json!({"name": "start", "mountPath": "/start"}));
    let program = match D::NAME {
        "mysql" => "mysqld",
        "redis" => "redis-server",
        _ => "postgres",
    };
    // Of a Redis the program itself has to be named: how else its arguments are added to could not be told.
    container["command"] = json!(["/start/start", program]);
}

/// What a container starts with that must not start on a copy.
fn start_of<D: Database>() -> Value {
    let script = format!(
        "#!/bin/sh\n[ ! -e ${{PGDATA:-{}}}/understudy.seed.json ] || {{ trap 'exit 1' TERM; sleep 3600 & wait; }}\nexec docker-entrypoint.sh \"$@\"\n",
        D::DIRECTORY
    );
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "start"}, "data": {"start": script}})
}

async fn a_server_that_does_not_start_on_the_copy_gets_its_own_data_back<D: Database>() {
    never_proven::<D>("spoilt").await;
}

/// A takeover that is given up, by a database whose server does not start on the copy.
pub async fn never_proven<D: Database>(scenario: &str) {
    let sales = Place::<D>::with_source(&format!("understudy-{scenario}-sales-{}", D::NAME)).await;
    sales.kubectl(&["annotate", "secret", "orders-db", &format!("{ALLOWED}=*")]).unwrap();
    let reports = Place::<D>::new(&format!("understudy-{scenario}-{}", D::NAME)).await;
    reports.apply(&start_of::<D>()).unwrap();
    reports.source("reports-db", never_on_a_copy::<D>).await;
    let mut client = sales.connect("orders-db-0").await.unwrap();
    client.prepare().await.unwrap();
    let (before, target_before) = (sales.snapshot("orders-db-0").await, reports.snapshot("reports-db-0").await);
    reports.apply(&replication_between::<D>(&sales.namespace, |_| {})).unwrap();
    let old = reports.uid("reports-db-0").await.unwrap();
    reports.replaced("reports-db-0", &old).await;
    reports.reason("orders", "ReplicaStarting", 120).await;
    assert!(!reports.get("orders").await.unwrap().status.unwrap().target.unwrap().cleared, "nothing is proven");
    // Who gives up gets what was there before, although Kubernetes waits for a pod that never becomes ready.
    reports.delete("orders", 240).await;
    reports.source_ready("reports-db").await;
    assert_eq!(reports.snapshot("reports-db-0").await, target_before);
    assert_eq!(sales.snapshot("orders-db-0").await, before);
    assert!(!on_volume(&reports).unwrap().contains("understudy"), "{}", on_volume(&reports).unwrap());
    reports.remove().await;
    sales.remove().await;
}

/// A pod that runs a command of the operator's image as the user of the target's server, on the target's volume.
pub fn pod_on_volume<D: Database>(reports: &Place<D>, name: &str, target: &Value, words: &[&str]) -> Value {
    let found: Value = serde_json::from_str(&reports.kubectl(&["get", "statefulset", "reports-db", "-o", "json"]).unwrap()).unwrap();
    let directory = target["dataDirectory"].as_str().unwrap();
    let containers = found["spec"]["template"]["spec"]["containers"].as_array().unwrap();
    let mut mounts = containers.iter().flat_map(|container| container["volumeMounts"].as_array().unwrap());
    let data = mounts.rfind(|mount| directory.starts_with(mount["mountPath"].as_str().unwrap())).unwrap();
    let image = std::env::var("UNDERSTUDY_IMAGE").unwrap_or_else(|_| "understudy:dev".to_owned());
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
        "restartPolicy": "Never",
        "securityContext": {"runAsUser": target["user"], "runAsGroup": target["group"], "fsGroup": target["group"]},
        "containers": [{"name": name, "image": image, "command": words, "volumeMounts": [data]}],
        "volumes": [{"name": data["name"], "persistentVolumeClaim": {"claimName": format!("{}-reports-db-0", data["name"].as_str().unwrap())}}]
    }})
}

/// Runs a pod while the target's does not.
pub fn while_stopped<D: Database>(reports: &Place<D>, pod: &Value) {
    let name = pod["metadata"]["name"].as_str().unwrap();
    reports.kubectl(&["scale", "statefulset", "reports-db", "--replicas=0"]).unwrap();
    reports.kubectl(&["wait", "--for=delete", "pod/reports-db-0", "--timeout=120s"]).unwrap();
    reports.apply(pod).unwrap();
    reports.kubectl(&["wait", &format!("pod/{name}"), "--for=jsonpath={.status.phase}=Succeeded", "--timeout=120s"]).unwrap();
    reports.kubectl(&["delete", "pod", name]).unwrap();
}

/// A pod that puts what the target held before back into its data directory, as docs/between-applications.md tells a person to.
fn give_back<D: Database>(reports: &Place<D>, target: &Value, kept: &Value) -> Value {
    let directory = target["dataDirectory"].as_str().unwrap();
    let words = ["/understudy", "agent", "give-back", "--engine", D::ENGINE, "--volume", "/run/understudy/backup"];
    let words = [words.as_slice(), &["--directory", kept["directory"].as_str().unwrap(), "--data-directory", directory]].concat();
    let mut pod = pod_on_volume(reports, "give-back", target, &words);
    let spec = &mut pod["spec"];
    let mounts = spec["containers"][0]["volumeMounts"].clone();
    let image = D::stateful_set("reports-db")["spec"]["template"]["spec"]["containers"][0]["image"].clone();
    spec["initContainers"] = json!([{"name": "clear", "image": image, "command": ["find", directory, "-mindepth", "1", "-delete"], "volumeMounts": mounts}]);
    spec["containers"][0]["volumeMounts"].as_array_mut().unwrap().push(json!({"name": "backup", "mountPath": "/run/understudy/backup"}));
    spec["volumes"].as_array_mut().unwrap().push(json!({"name": "backup", "persistentVolumeClaim": {"claimName": kept["claim"]}}));
    pod
}

async fn what_a_target_held_is_kept_and_can_be_got_back<D: Database>() {
    let (sales, reports) = applications::<D>("kept").await;
    sales.kubectl(&["annotate", "secret", "orders-db", &format!("{ALLOWED}=*")]).unwrap();
    for (place, pod, rows) in [(&sales, "orders-db-0", 3), (&reports, "reports-db-0", 7)] {
        let mut client = place.connect(pod).await.unwrap();
        client.prepare().await.unwrap();
        for row in 1..=rows {
            client.insert(row).await.unwrap();
        }
    }
    let password = json!({"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "reports-db", "key": "password"}}});
    let clerk = json!({"name": "clerk", "image": "busybox:1.36", "command": ["sh", "-c", "trap exit TERM; sleep 3600 & wait"], "env": [password]});
    let clerk = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "clerk"}, "spec": {"restartPolicy": "Never", "containers": [clerk]}});
    reports.apply(&clerk).unwrap();
    let replace = |spec: &mut Value| {
        spec["target"]["existingData"] = json!("BackUpAndReplace");
        spec["deletionPolicy"] = json!("Delete");
    };
    reports.apply(&replication_between::<D>(&sales.namespace, replace)).unwrap();
    reports.replicating("orders", 300).await;
    assert_eq!(reports.rows("reports-db-0").await, 3);
    let status = wait("what it held is kept", 120, async || {
        let status = serde_json::to_value(reports.get("orders").await?.status).unwrap();
        if status["target"]["cleared"] == true { Ok(status) } else { Err(status.to_string()) }
    })
    .await;
    let told = reports.kubectl(&["get", "events", "--field-selector=reason=LoginsReplaced", "-o", "jsonpath={.items[*].message}"]).unwrap();
    assert_eq!(told.contains("pod clerk (Secret reports-db)"), D::PREFIX != "REDIS", "{told}");
    let (target, kept) = (status["target"].clone(), status["kept"].clone());
    assert!(kept["bytes"].as_i64() > Some(0) && kept["checksum"].as_str().is_some_and(|sum| sum.len() == 64), "{kept}");
    // A Secret that nobody allowed is not used, whatever was begun; what is in it is nobody's to see. With the one that was allowed the source is cleaned.
    sales.secret("payroll", json!({"username": "canary-of-payroll", "password": "canary-of-payroll"}));
    let use_secret = async |name: &str| reports.edit("orders", json!({"source": {"credentials": {"secretRef": {"name": name}}}})).await;
    use_secret("payroll").await;
    let withdrawn = async |secret: &str| {
        let message = reports.reason("orders", "ConsentWithdrawn", 120).await;
        assert!(message.contains(&format!("kubectl -n {} annotate --overwrite secret {secret}", sales.namespace)), "{message}");
        wait("the source is clean", 120, async || match sales.traces("orders-db-0").await {
            traces if traces.is_empty() => Ok(()),
            traces => Err(format!("{traces:?}")),
        })
        .await;
    };
    withdrawn("payroll").await;
    let said = serde_json::to_string(&reports.get("orders").await.unwrap()).unwrap() + &reports.kubectl(&["get", "events", "-o", "json"]).unwrap();
    assert!(!said.contains("canary-of-payroll"), "{said}");
    use_secret("orders-db").await;
    // The owner of the source takes the consent back: it is cleaned, and the target stays what it is until its own owner decides.
    sales.kubectl(&["annotate", "--overwrite", "secret", "orders-db", &format!("{ALLOWED}=default")]).unwrap();
    withdrawn("orders-db").await;
    reports.read_only("reports-db-0").await;
    reports.edit("orders", json!({"enabled": false})).await;
    reports.phase("orders", Phase::Standalone, 240).await;
    assert_eq!(serde_json::to_value(reports.get("orders").await.unwrap().status).unwrap()["kept"], kept, "where it lies is still said");
    reports.delete("orders", 60).await;

    reports.source_ready("reports-db").await;
    while_stopped(&reports, &give_back(&reports, &target, &kept));
    reports.kubectl(&["scale", "statefulset", "reports-db", "--replicas=1"]).unwrap();
    reports.source_ready("reports-db").await;
    let mut client = reports.connect("reports-db-0").await.unwrap();
    assert!(client.takes_writes().await.unwrap() && client.count().await.unwrap() == 7);
    reports.remove().await;
    sales.remove().await;
}

/// Source and targets in one namespace are nobody else's: no consent is asked for.
async fn targets_of_one_source_are_removed_alone<D: Standby>() {
    const OWN: u64 = 1 << 32;
    let shop = Place::<D>::with_source(&format!("understudy-group-{}", D::NAME)).await;
    for target in ["first-db", "second-db"] {
        shop.source(target, |_| {}).await;
    }
    let mut client = shop.connect("orders-db-0").await.unwrap();
    client.prepare().await.unwrap();
    let before = shop.snapshot("orders-db-0").await;
    let hosts = |names: &[&str]| names.iter().map(|name| format!("{name}-db.{}.svc", shop.namespace)).collect::<Vec<_>>().join(",");
    let named = async |names: &[&str]| {
        let wanted = hosts(names);
        wait(&format!("the variable is {wanted:?}"), 120, async || match shop.replica_addresses().await {
            found if found == wanted => Ok(()),
            found => Err(found),
        })
        .await;
    };
    let told = |map: &str| json!({"configMaps": [{"name": map}]});
    let into = |name: &str, database: &str| {
        let mut resource = replication_of::<D>(name, "orders-db");
        let spec = resource["spec"].as_object_mut().unwrap();
        spec.remove("replicas");
        spec.insert("environment".to_owned(), told(&format!("{database}-env")));
        spec["source"]["environment"] = told("shop-env");
        spec.insert("target".to_owned(), json!({"statefulSetRef": {"name": database}, "credentials": {"secretRef": {"name": database}}}));
        resource
    };
    for name in ["second", "first"] {
        let database = format!("{name}-db");
        shop.kubectl(&["create", "configmap", &format!("{database}-env")]).unwrap();
        shop.apply(&into(name, &database)).unwrap();
    }
    for name in ["first", "second"] {
        shop.replicating(name, 300).await;
    }
    named(&["first", "second"]).await;
    let arrives = async |row: u64, targets: &[&str]| {
        shop.connect("orders-db-0").await.unwrap().insert(row).await.unwrap();
        for target in targets {
            wait(&format!("row {row} on {target}"), 60, async || match shop.connect(&format!("{target}-db-0")).await?.count().await? {
                count if count >= row => Ok(()),
                count => Err(count.to_string()),
            })
            .await;
        }
    };
    arrives(1, &["first", "second"]).await;

    // Who comes later gets neither the target nor its variables, and says whose they are.
    let mut late = into("late", "first-db");
    late["spec"]["dryRun"] = json!(true);
    late["spec"]["target"]["existingData"] = json!("BackUpAndReplace");
    shop.apply(&late).unwrap();
    let message = shop.reason("late", "SeveralFindings", 120).await;
    let variables = format!("DatabaseReplication first came first and already writes the variables {}_… of ConfigMap first-db-env", D::PREFIX);
    for words in ["TargetTaken: DatabaseReplication first came first and has StatefulSet first-db", "VariablesTaken: ", &variables] {
        assert!(message.contains(words), "{words:?} is missing in: {message}");
    }
    assert_eq!(shop.condition("first", "Ready").await.unwrap().1, "Replicating");

    // The one that goes first changed the source first, or did not: the other goes on.
    shop.delete("second", 240).await;
    named(&["first"]).await;
    shop.source_ready("second-db").await;
    assert!(shop.connect("second-db-0").await.unwrap().takes_writes().await.unwrap());
    assert_eq!(shop.traces("second-db-0").await, [""; 0], "nor is anything of the other one's on it");
    assert_eq!(shop.traces("orders-db-0").await.len(), D::TRACES, "what is the other one's");
    arrives(2, &["first"]).await;
    shop.replicating("first", 60).await;
    shop.read_only("first-db-0").await;

    // Somebody promotes what is left: nobody is sent there, and it stays what it is, with what is written to it, also when it is given back.
    let mut promoted = shop.connect("first-db-0").await.unwrap();
    promoted.promote().await.unwrap();
    let message = shop.reason("first", "ReplicaWritable", 120).await;
    assert!(message.contains("first-db takes writes: somebody promoted it. What to do: set enabled to false"), "{message}");
    named(&[]).await;
    promoted.insert(OWN).await.unwrap();
    shop.connect("orders-db-0").await.unwrap().insert(3).await.unwrap();
    shop.delete("first", 240).await;
    shop.source_ready("first-db").await;
    let mut given_back = shop.connect("first-db-0").await.unwrap();
    assert!(given_back.takes_writes().await.unwrap());
    assert_eq!(given_back.count().await.unwrap(), 3, "rows 1 and 2 of the source, and its own");
    assert!(given_back.insert(OWN).await.map_or_else(|refused| !D::is_read_only(&refused), |()| D::PREFIX == "REDIS"), "its own row is there");
    assert_eq!(shop.traces("first-db-0").await, [""; 0]);
    assert_eq!(shop.snapshot("orders-db-0").await, before);
    assert!(shop.traces("orders-db-0").await.is_empty());
    // Nobody has it any more.
    shop.phase("late", Phase::DryRun, 120).await;
    shop.remove().await;
}
