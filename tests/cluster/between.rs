//! Between two applications: whose database it is decides who may use it, and what is in the way of a target is said before anything is touched.

use k8s_openapi::api::batch::v1::Job;
use serde_json::{Value, json};
use understudy::api::Phase;

use crate::databases::{PostgreSql, Redis, Standby, arguments, for_engines};
use crate::support::{ALLOWED, Database, OTHER_PASSWORD, PASSWORD, Place, applications, audit_mark, replication_between, requests_since};

for_engines!([postgresql: PostgreSql, mysql: MySql, redis: Redis]
    a_target_is_looked_at_once_the_owner_of_the_source_agrees,
    a_target_with_data_or_without_room_is_left_alone,
    whatever_is_wrong_with_a_target_is_said_and_waited_for
);

/// A rehearsal in the place of the target.
fn rehearsal<D: Database>(source: &str, change: impl FnOnce(&mut Value)) -> Value {
    replication_between::<D>(source, |spec| {
        spec["dryRun"] = json!(true);
        change(spec);
    })
}

async fn a_target_is_looked_at_once_the_owner_of_the_source_agrees<D: Database>() {
    let sales = Place::<D>::with_source(&format!("understudy-consent-sales-{}", D::NAME)).await;
    let reports = Place::<D>::new(&format!("understudy-consent-{}", D::NAME)).await;
    reports.secret("clerk", json!({"password": "of-its-own"}));
    let password = json!({"name": "CLERKS_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "clerk", "key": "password"}}});
    reports
        .source("reports-db", |object| {
            let container = &mut object["spec"]["template"]["spec"]["containers"][0];
            let env = container["env"].as_array().cloned().unwrap_or_default();
            container["env"] = json!([env, vec![password.clone()]].concat());
            container["startupProbe"] = json!({"exec": {"command": ["sh", "-c", "test -n \"$CLERKS_PASSWORD\""]}});
        })
        .await;
    let clerk = json!({"name": "clerk", "image": "busybox:1.36", "command": ["sh", "-c", "trap exit TERM; sleep 3600 & wait"], "env": [password]});
    reports
        .apply(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "clerk"}, "spec": {"restartPolicy": "Never", "containers": [clerk]}}))
        .unwrap();
    let (sold, reported) = (sales.snapshot("orders-db-0").await, reports.snapshot("reports-db-0").await);
    let annotate = |value: &str| sales.kubectl(&["annotate", "--overwrite", "secret", "orders-db", &format!("{ALLOWED}={value}")]).unwrap();
    let refused = async || {
        let message = reports.reason("orders", "NamespaceNotAllowed", 120).await;
        let ask = format!("kubectl -n {} get secret orders-db", sales.namespace);
        let agree = format!("kubectl -n {} annotate --overwrite secret orders-db {ALLOWED}={}", sales.namespace, reports.namespace);
        assert!(message.contains(&ask) && message.contains(&agree), "{message}");
        message
    };

    // A copy of the Secret with a consent of one's own is nobody's consent.
    let copy =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "orders-db", "annotations": {ALLOWED: "*"}}, "stringData": D::secret(PASSWORD)});
    reports.apply(&copy).unwrap();
    reports.apply(&rehearsal::<D>(&sales.namespace, |_| {})).unwrap();
    let absent = refused().await;
    // Neither does a part of the name, or another namespace's.
    annotate(&format!("{0}-2,x{0},default", reports.namespace));
    assert_eq!(refused().await, absent);
    // Who may not use it does not learn what there is.
    reports.kubectl(&["delete", "dbrep", "orders"]).unwrap();
    reports.apply(&rehearsal::<D>(&sales.namespace, |spec| spec["source"]["statefulSetRef"]["name"] = json!("nothing"))).unwrap();
    assert_eq!(refused().await, absent);
    reports.kubectl(&["delete", "dbrep", "orders"]).unwrap();

    // Nor is more than looking begun. Without a look at the source's pod its server is not even known.
    let mark = audit_mark();
    reports.apply(&rehearsal::<D>(&sales.namespace, |spec| spec["dryRun"] = json!(false))).unwrap();
    refused().await;
    let asked: Vec<_> = requests_since(&sales.namespace, mark).into_iter().filter(|request| !request.starts_with("get secrets")).collect();
    assert_eq!(asked, [""; 0]);
    assert!(reports.names::<Job>("app.kubernetes.io/managed-by=understudy").await.is_empty());
    reports.kubectl(&["delete", "dbrep", "orders"]).unwrap();

    reports.apply(&rehearsal::<D>(&sales.namespace, |_| {})).unwrap();
    refused().await;
    annotate(&format!("default, {}", reports.namespace));
    reports.phase("orders", Phase::DryRun, 120).await;
    let would = reports.get("orders").await.unwrap().status.unwrap().would_do.join("\n");
    for part in [D::DRY_RUN, "beside the data of StatefulSet reports-db", "restart pod reports-db-0 once"] {
        assert!(would.contains(part), "{part:?} is missing in:\n{would}");
    }
    // Where users are data, who loses a login is named.
    let (_, _, message) = reports.condition("orders", "Preflight").await.unwrap();
    let named = format!("log in: pod clerk (Secret clerk); startupProbe of container {} (variable CLERKS_PASSWORD). ", D::CONTAINER);
    assert_eq!(message.contains(&named), D::PREFIX != "REDIS", "{message}");
    // Taken back, it counts no longer.
    annotate("default");
    refused().await;
    assert_eq!((sales.snapshot("orders-db-0").await, reports.snapshot("reports-db-0").await), (sold, reported), "nothing was touched");
    let text = serde_json::to_string(&reports.get("orders").await.unwrap()).unwrap();
    assert!(!text.contains(PASSWORD), "{text}");
    reports.remove().await;
    sales.remove().await;
}

async fn a_target_with_data_or_without_room_is_left_alone<D: Database>() {
    let (sales, reports) = applications::<D>("room").await;
    sales.kubectl(&["annotate", "secret", "orders-db", &format!("{ALLOWED}=*")]).unwrap();
    let mut target = reports.connect("reports-db-0").await.unwrap();
    target.prepare().await.unwrap();
    target.insert(1).await.unwrap();
    let before = reports.snapshot("reports-db-0").await;
    reports.apply(&rehearsal::<D>(&sales.namespace, |_| {})).unwrap();
    let message = reports.reason("orders", "TargetHoldsData", 120).await;
    assert!(message.contains("BackUpAndReplace"), "{message}");
    // Not only where it is rehearsed.
    reports.edit("orders", json!({"dryRun": false})).await;
    assert_eq!(reports.reason("orders", "TargetHoldsData", 120).await, message);
    assert!(reports.names::<Job>("app.kubernetes.io/managed-by=understudy").await.iter().all(|job| job.contains("-measure-")));
    assert!(reports.get("orders").await.unwrap().status.unwrap().enablement.is_none());
    reports.edit("orders", json!({"dryRun": true})).await;
    reports.edit("orders", json!({"target": {"existingData": "BackUpAndReplace"}})).await;
    reports.phase("orders", Phase::DryRun, 120).await;
    let would = reports.get("orders").await.unwrap().status.unwrap().would_do.join("\n");
    assert!(would.contains("back up what StatefulSet reports-db holds itself"), "{would}");
    assert_eq!(reports.rows("reports-db-0").await, 1);
    assert_eq!(reports.snapshot("reports-db-0").await, before);

    // One whose volume is too small says both numbers.
    reports.source("small-db", |object| object["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"] = json!("64Ki")).await;
    reports.kubectl(&["delete", "dbrep", "orders"]).unwrap();
    let small = json!({"statefulSetRef": {"name": "small-db"}, "credentials": {"secretRef": {"name": "small-db"}}});
    reports.apply(&rehearsal::<D>(&sales.namespace, |spec| spec["target"] = small)).unwrap();
    let message = reports.reason("orders", "TargetVolumeTooSmall", 120).await;
    assert!(message.contains("the target's volume of 64.0 KiB") && message.contains("are needed, twice the data"), "{message}");
    reports.remove().await;
    sales.remove().await;
}

/// A rehearsal of another name.
fn another<D: Database>(name: &str, source: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut resource = rehearsal::<D>(source, |spec| {
        spec["environment"] = json!({});
        change(spec);
    });
    resource["metadata"]["name"] = json!(name);
    resource
}

async fn whatever_is_wrong_with_a_target_is_said_and_waited_for<D: Standby>() {
    let sales = Place::<D>::with_source(&format!("understudy-targets-sales-{}", D::NAME)).await;
    sales.kubectl(&["annotate", "secret", "orders-db", &format!("{ALLOWED}=*")]).unwrap();
    let sold = sales.snapshot("orders-db-0").await;
    let reports = Place::<D>::new(&format!("understudy-targets-{}", D::NAME)).await;
    let blocked = async |name: &str, reason: &str, words: &[&str]| {
        let message = reports.reason(name, reason, 120).await;
        assert!(words.iter().chain(&["What to do: "]).all(|word| message.contains(word)), "{words:?}: {message}");
        reports.phase(name, Phase::Blocked, 5).await;
    };
    let with = |settings: &[&str], probed: bool| {
        let mut object = D::stateful_set("reports-db");
        let container = &mut object["spec"]["template"]["spec"]["containers"][0];
        if !probed {
            // A pod that is never ready would not be replaced by a mended one.
            container.as_object_mut().unwrap().remove("readinessProbe");
        }
        arguments(container).extend(settings.iter().copied().map(Value::from));
        object
    };
    let looking = |name: &str, change: &dyn Fn(&mut Value)| reports.apply(&another::<D>(name, &sales.namespace, change)).unwrap();

    // Its StatefulSet and its server.
    reports.secret("reports-db", D::secret(OTHER_PASSWORD));
    looking("orders", &|_| {});
    blocked("orders", "TargetNotFound", &["there is no StatefulSet reports-db in namespace", "target.statefulSetRef"]).await;
    reports
        .source("reports-db", |object| {
            *object = with(D::LESS, true);
            object["spec"]["replicas"] = json!(2);
        })
        .await;
    blocked("orders", "TargetHasSeveralPods", &["replicas: 2", "scale it to one pod"]).await;
    reports.kubectl(&["scale", "statefulset", "reports-db", "--replicas=0"]).unwrap();
    blocked("orders", "TargetScaledToZero", &["kubectl scale statefulset reports-db --replicas=1"]).await;
    reports.kubectl(&["scale", "statefulset", "reports-db", "--replicas=1"]).unwrap();
    let (reason, words) = D::LESS_SAYS.split_first().unwrap();
    blocked("orders", reason, words).await;
    reports.apply(&with(D::DEAF, false)).unwrap();
    blocked("orders", "TargetUnreachable", &["the target does not answer", &format!(":{}", D::PORT), "see that pod reports-db-0 runs"]).await;
    reports.apply(&with(&[], true)).unwrap();
    reports.phase("orders", Phase::DryRun, 120).await;
    let before = reports.snapshot("reports-db-0").await;

    // What the resource names besides. A server of another engine is told from one that is not there; the Secret of a Redis is its configuration, too.
    let (other, secret, mut stateful_set) = match D::ENGINE {
        "Redis" => ("PostgreSQL", PostgreSql::secret(PASSWORD), PostgreSql::stateful_set("other-db")),
        _ => ("Redis", Redis::secret(PASSWORD), Redis::stateful_set("other-db")),
    };
    reports.secret("other-db", secret);
    reports.apply(&stateful_set).unwrap();
    let good = json!({"username": D::USER, "password": OTHER_PASSWORD});
    reports.secret("keyless", json!({"username": D::USER, "pass": OTHER_PASSWORD}));
    reports.secret("outdated", json!({"username": D::USER, "password": "of-last-year"}));
    for name in ["absent", "keyless", "outdated"] {
        looking(name, &|spec| spec["target"]["credentials"] = json!({"secretRef": {"name": name}}));
    }
    looking("map", &|spec| spec["environment"] = json!({"configMaps": [{"name": "later"}]}));
    looking("small", &|spec| spec["backup"]["volume"]["size"] = json!("64Ki"));
    // Its port is not named: it is the one that its pod declares.
    looking("other", &|spec| spec["target"]["statefulSetRef"]["name"] = json!("other-db"));
    blocked("absent", "SecretNotFound", &["there is no Secret absent in namespace", &reports.namespace]).await;
    blocked("keyless", "SecretKeyNotFound", &["Secret keyless has no key password; it has: pass, username", "target.credentials.passwordKey"]).await;
    blocked("outdated", "CredentialsRefused", &["correct the Secret outdated (target.credentials)"]).await;
    blocked("map", "ConfigMapNotFound", &["there is no ConfigMap later", "kubectl create configmap later -n", &reports.namespace]).await;
    blocked("small", "BackupVolumeTooSmall", &["backup.volume.size is 64.0 KiB", "twice the data", "set backup.volume.size to "]).await;
    blocked("other", "TargetEngineMismatch", &[&format!("answers as {other}, not as {}", D::ENGINE), "target.port"]).await;

    // Each is mended as its message says.
    for name in ["absent", "keyless", "outdated"] {
        reports.secret(name, good.clone());
    }
    reports.kubectl(&["create", "configmap", "later"]).unwrap();
    reports.edit("small", json!({"backup": {"volume": {"size": "1Gi"}}})).await;
    for name in ["absent", "keyless", "outdated", "map", "small"] {
        reports.phase(name, Phase::DryRun, 120).await;
    }
    stateful_set["spec"]["replicas"] = json!(0);
    reports.apply(&stateful_set).unwrap();
    blocked("other", "TargetScaledToZero", &["other-db"]).await;
    assert_eq!((sales.snapshot("orders-db-0").await, reports.snapshot("reports-db-0").await), (sold, before), "nothing was touched");
    reports.remove().await;
    sales.remove().await;
}
