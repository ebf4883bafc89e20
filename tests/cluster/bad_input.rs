//! What bad input gets: a condition that names cause and remedy, a source that is as it was, and work that goes on by itself once it is mended.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use serde_json::{Value, json};
use understudy::api::Phase;

use crate::databases::{MongoDb, Redis, arguments, for_every_engine};
use crate::support::{Database, PASSWORD, Place, Shop, replication, replication_of, wait};

/// A resource that only looks: a mended one ends in phase `DryRun`.
fn looking_at<D: Database>(name: &str, source: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut resource = replication_of::<D>(name, source);
    resource["spec"]["dryRun"] = json!(true);
    change(&mut resource["spec"]);
    resource
}

/// Waits until a resource is blocked for this reason; its message has these words, and says what to do.
async fn blocked<D: Database>(shop: &Place<D>, name: &str, reason: &str, words: &[&str]) {
    let message = shop.reason(name, reason, 120).await;
    for word in words.iter().chain(&["What to do: "]) {
        assert!(message.contains(word), "{word:?} is missing in: {message}");
    }
    shop.phase(name, Phase::Blocked, 5).await;
    let (status, found, _) = shop.condition(name, "Preflight").await.unwrap();
    assert_eq!((status.as_str(), found.as_str()), ("False", reason));
}

/// Waits until nothing is in the way of a resource any more.
async fn mended<D: Database>(shop: &Place<D>, name: &str) {
    shop.phase(name, Phase::DryRun, 120).await;
    assert_eq!(shop.condition(name, "Preflight").await.unwrap().0, "True");
}

#[tokio::test]
async fn what_the_api_server_can_judge_is_refused_at_once_in_plain_words() {
    let shop = Shop::new("understudy-admission").await;
    let refused = |what: &str, resource: &Value, words: &[&str]| {
        let complaint = shop.apply(resource).expect_err(what);
        for word in words {
            assert!(complaint.contains(word), "{what}: {word:?} is missing in: {complaint}");
        }
    };
    let with = |change: &dyn Fn(&mut Value)| {
        let mut resource = replication("orders", "orders-db");
        change(&mut resource);
        resource
    };
    let target = json!({"statefulSetRef": {"name": "reports-db"}, "credentials": {"secretRef": {"name": "reports-db"}}});

    refused("neither replicas nor target", &with(&|r| drop(r["spec"].as_object_mut().unwrap().remove("replicas"))), &["set exactly one of `replicas`"]);
    refused("both", &with(&|r| r["spec"]["target"] = target.clone()), &["set exactly one of `replicas`"]);
    let alone = with(&|r| {
        r["spec"].as_object_mut().unwrap().remove("replicas");
        r["spec"]["target"] = target.clone();
    });
    let rehearsed = |change: &dyn Fn(&mut Value)| {
        let mut resource = alone.clone();
        resource["metadata"]["name"] = json!("rehearsed");
        resource["spec"]["dryRun"] = json!(true);
        change(&mut resource["spec"]);
        resource
    };
    refused("MongoDB", &rehearsed(&|spec| spec["engine"] = json!("MongoDB")), &["MongoDB cannot be replicated between two applications", "use `replicas`"]);
    refused("itself", &rehearsed(&|spec| spec["target"]["statefulSetRef"]["name"] = json!("orders-db")), &["the same StatefulSet"]);
    refused("no credentials", &rehearsed(&|spec| drop(spec["target"].as_object_mut().unwrap().remove("credentials"))), &["spec.target.credentials"]);
    refused("elsewhere", &with(&|r| r["spec"]["source"]["statefulSetRef"]["namespace"] = json!("other")), &["is only for `target`"]);
    let named = json!({"configMaps": [{"name": "shop-env"}]});
    let login = json!({"credentials": {"secretRef": {"name": "clerk"}}});
    let secrets = json!({"secrets": [{"name": "reports-login"}]});
    refused("a password for who knows it", &with(&|r| r["spec"]["environment"] = secrets.clone()), &["`environment.secrets` is only for `target`"]);
    for (field, value) in [("environment", &named), ("application", &login)] {
        let of_source = with(&|r| r["spec"]["source"][field] = value.clone());
        refused(field, &of_source, &["`source.environment` and `source.application` are only for `target`"]);
    }
    let redis = |change: &dyn Fn(&mut Value)| {
        rehearsed(&|spec| {
            spec["engine"] = json!("Redis");
            change(spec);
        })
    };
    const LOGIN: &str = "are for MySQL and PostgreSQL";
    refused("a password of Redis", &redis(&|spec| spec["environment"] = secrets.clone()), &[LOGIN]);
    refused("a login of Redis", &redis(&|spec| spec["source"]["application"] = login.clone()), &[LOGIN]);
    let nameless = rehearsed(&|spec| spec["source"]["application"] = json!({"database": "shop"}));
    refused("an application without a login", &nameless, &["spec.source.application.credentials"]);
    // Names lead to the object that they name, and nowhere else.
    for name in ["../../namespaces/other/secrets/x", "a/b", "a%2fb", "a?x=1", "a#b", "A", "a..b", ".", ""] {
        let secret = |spec: &mut Value| spec["source"]["credentials"]["secretRef"]["name"] = json!(name);
        refused(name, &rehearsed(&secret), &["spec.source.credentials.secretRef.name"]);
        refused(name, &rehearsed(&|spec| spec["source"]["statefulSetRef"]["name"] = json!(name)), &["spec.source.statefulSetRef.name"]);
        refused(name, &rehearsed(&|spec| spec["source"]["statefulSetRef"]["namespace"] = json!(name)), &["spec.source.statefulSetRef.namespace"]);
        refused(name, &rehearsed(&|spec| spec["target"]["statefulSetRef"]["name"] = json!(name)), &["spec.target.statefulSetRef.name"]);
        refused(name, &rehearsed(&|spec| spec["environment"]["configMaps"][0]["name"] = json!(name)), &["spec.environment.configMaps[0].name"]);
        let secrets = |spec: &mut Value| spec["environment"]["secrets"] = json!([{"name": name}]);
        refused(name, &rehearsed(&secrets), &["spec.environment.secrets[0].name"]);
        let of_source = |spec: &mut Value| spec["source"]["environment"] = json!({"configMaps": [{"name": name}]});
        refused(name, &rehearsed(&of_source), &["spec.source.environment.configMaps[0].name"]);
    }
    // Redis has these variables; what is only for others may stand there empty.
    let good = redis(&|spec| {
        spec["source"]["environment"] = named.clone();
        spec["environment"]["secrets"] = json!([]);
    });
    shop.apply(&good).unwrap();
    shop.kubectl(&["delete", "dbrep", "rehearsed"]).unwrap();
    let whole = rehearsed(&|spec| {
        spec["source"]["environment"] = named.clone();
        spec["source"]["application"] = login.clone();
        spec["environment"] = secrets.clone();
    });
    shop.apply(&whole).unwrap();
    shop.apply(&rehearsed(&|_| {})).unwrap();
    let other = rehearsed(&|spec| spec["target"]["statefulSetRef"]["name"] = json!("other-db"));
    refused("another target", &other, &["target.statefulSetRef cannot be changed"]);
    refused("no replicas", &with(&|r| r["spec"]["replicas"] = json!(0)), &["spec.replicas", "greater than or equal to 1"]);
    refused("ten replicas", &with(&|r| r["spec"]["replicas"] = json!(10)), &["spec.replicas", "less than or equal to 9"]);
    refused("an unknown field", &with(&|r| r["spec"]["replicaz"] = json!(1)), &["unknown field \"spec.replicaz\""]);
    refused("an unknown field below", &with(&|r| r["spec"]["source"]["credentials"]["user"] = json!("x")), &["unknown field \"spec.source.credentials.user\""]);
    refused("an unknown engine", &with(&|r| r["spec"]["engine"] = json!("Oracle")), &["spec.engine", "Oracle", "PostgreSQL"]);
    let two_names = with(&|r| {
        r["spec"]["source"]["credentials"]["username"] = json!("a");
        r["spec"]["source"]["credentials"]["usernameKey"] = json!("b");
    });
    refused("two user names", &two_names, &["at most one of `username`", "`usernameKey`"]);
    for name in ["n".repeat(41).as_str(), "with.dots", "1st"] {
        refused(name, &with(&|r| r["metadata"]["name"] = json!(name)), &["at most 40 lower-case letters"]);
    }

    // The longest name is good; what is there cannot become something else.
    shop.apply(&with(&|r| r["metadata"]["name"] = json!("n".repeat(40)))).unwrap();
    shop.apply(&with(&|_| {})).unwrap();
    refused("another source", &replication("orders", "other-db"), &["source.statefulSetRef cannot be changed", "delete this resource and create another"]);
    let instead = with(&|r| {
        r["spec"].as_object_mut().unwrap().remove("replicas");
        r["spec"]["target"] = target.clone();
    });
    refused("a target instead of replicas", &instead, &["cannot take each other's place", "delete this resource and create another"]);
    refused("another engine", &with(&|r| r["spec"]["engine"] = json!("MySQL")), &["spec.engine", "engine cannot be changed"]);
    shop.remove().await;
}

for_every_engine!(
    a_source_that_is_missing_or_has_no_or_several_pods_is_named_and_waited_for,
    wrong_credentials_sizes_and_names_are_each_said_with_what_to_do,
    of_two_resources_with_one_source_the_first_keeps_it_and_the_second_waits,
    of_two_resources_that_write_the_same_variables_the_second_waits,
    a_server_with_unfit_settings_or_without_an_open_port_is_waited_for,
    a_restore_that_is_killed_is_tried_again
);

async fn a_source_that_is_missing_or_has_no_or_several_pods_is_named_and_waited_for<D: Database>() {
    let namespace = format!("understudy-pods-{}", D::NAME);
    let shop = Place::<D>::new(&namespace).await;
    shop.secret("orders-db", json!({"username": D::USER, "password": PASSWORD}));
    shop.apply(&looking_at::<D>("orders", "orders-db", |spec| spec["environment"] = json!({}))).unwrap();
    blocked(&shop, "orders", "SourceNotFound", &["there is no StatefulSet orders-db in namespace", &namespace]).await;

    shop.source("orders-db", |object| object["spec"]["replicas"] = json!(2)).await;
    blocked(&shop, "orders", "SourceHasSeveralPods", &["replicas: 2", "scale it to one pod"]).await;
    let before = shop.snapshot("orders-db-0").await;

    shop.kubectl(&["scale", "statefulset", "orders-db", "--replicas=0"]).unwrap();
    blocked(&shop, "orders", "SourceScaledToZero", &["kubectl scale statefulset orders-db --replicas=1"]).await;

    shop.kubectl(&["scale", "statefulset", "orders-db", "--replicas=1"]).unwrap();
    mended(&shop, "orders").await;
    assert_eq!(shop.snapshot("orders-db-0").await, before);
    shop.remove().await;
}

async fn wrong_credentials_sizes_and_names_are_each_said_with_what_to_do<D: Database>() {
    let namespace = format!("understudy-faults-{}", D::NAME);
    let shop = Place::<D>::with_source(&namespace).await;
    let looking = |name: &str, source: &str, change: &dyn Fn(&mut Value)| looking_at::<D>(name, source, change);
    shop.connect("orders-db-0").await.unwrap().make_clerk().await.unwrap();
    let before = shop.snapshot("orders-db-0").await;

    // Resources that only look do not stand in each other's way.
    let good = json!({"username": D::USER, "password": PASSWORD});
    shop.secret("keyless", json!({"username": D::USER, "pass": PASSWORD}));
    shop.secret("outdated", json!({"username": D::USER, "password": "of-last-year"}));
    shop.secret("clerk", json!({"username": "clerk", "password": "clerk"}));
    for name in ["absent", "keyless", "outdated", "clerk"] {
        shop.apply(&looking(name, "orders-db", &|spec| spec["source"]["credentials"] = json!({"secretRef": {"name": name}}))).unwrap();
    }
    shop.apply(&looking("nameless", "orders-db", &|spec| spec["source"]["credentials"]["usernameKey"] = json!("login"))).unwrap();
    shop.apply(&looking("small", "orders-db", &|spec| spec["backup"]["volume"]["size"] = json!("64Ki"))).unwrap();
    shop.apply(&looking("map", "orders-db", &|spec| spec["environment"]["configMaps"] = json!([{"name": "later"}]))).unwrap();
    const ALL: [&str; 8] = ["absent", "keyless", "nameless", "outdated", "clerk", "small", "map", "several"];
    let several = |spec: &mut Value| {
        spec["backup"]["volume"]["size"] = json!("64Ki");
        spec["replicaTemplate"] = json!({"storage": {"size": "65Ki"}});
        spec["environment"]["configMaps"] = json!([{"name": "later"}]);
    };
    shop.apply(&looking("several", "orders-db", &several)).unwrap();

    blocked(&shop, "absent", "SecretNotFound", &["there is no Secret absent in namespace", &namespace]).await;
    blocked(&shop, "keyless", "SecretKeyNotFound", &["Secret keyless has no key password; it has: pass, username", "source.credentials.passwordKey"]).await;
    blocked(&shop, "nameless", "SecretKeyNotFound", &["Secret orders-db has no key login", "source.credentials.usernameKey"]).await;
    blocked(&shop, "outdated", "CredentialsRefused", &[D::LOGIN_REFUSED, "correct the Secret outdated"]).await;
    let (reason, words) = D::CLERK_SAYS.split_first().unwrap();
    blocked(&shop, "clerk", reason, words).await;
    blocked(&shop, "small", "BackupVolumeTooSmall", &["backup.volume.size is 64.0 KiB", "twice the data", "set backup.volume.size to "]).await;
    blocked(&shop, "map", "ConfigMapNotFound", &["there is no ConfigMap later", "kubectl create configmap later -n", &namespace]).await;
    blocked(&shop, "several", "SeveralFindings", &["(1) BackupVolumeTooSmall", "(2) ReplicaVolumeTooSmall", "(3) ConfigMapNotFound"]).await;
    for name in ALL {
        let status = serde_json::to_string(&shop.get(name).await.unwrap().status).unwrap();
        assert!(!status.contains(PASSWORD) && !status.contains("of-last-year"), "{status}");
    }
    assert_eq!(shop.snapshot("orders-db-0").await, before);

    // Each is mended as its message says.
    for name in ["absent", "keyless", "outdated", "clerk"] {
        shop.secret(name, good.clone());
    }
    shop.secret("orders-db", json!({"username": D::USER, "password": PASSWORD, "login": D::USER}));
    shop.edit("small", json!({"backup": {"volume": {"size": "1Gi"}}})).await;
    shop.edit("several", json!({"backup": {"volume": {"size": "1Gi"}}, "replicaTemplate": null})).await;
    shop.kubectl(&["create", "configmap", "later"]).unwrap();
    for name in ALL {
        mended(&shop, name).await;
    }
    assert_eq!(shop.snapshot("orders-db-0").await, before);
    shop.remove().await;
}

async fn a_server_with_unfit_settings_or_without_an_open_port_is_waited_for<D: Database>() {
    let with = |settings: &[&[&str]]| {
        let mut object = D::stateful_set("orders-db");
        let container = &mut object["spec"]["template"]["spec"]["containers"][0];
        // A pod that is never ready would not be replaced by a mended one.
        container.as_object_mut().unwrap().remove("readinessProbe");
        arguments(container).extend(settings.concat().into_iter().map(Value::from));
        object
    };
    let shop = Place::<D>::new(&format!("understudy-unfit-{}", D::NAME)).await;
    shop.source("orders-db", |object| *object = with(&[D::UNFIT])).await;
    wait("the source answers", 180, async || shop.connect("orders-db-0").await?.prepare().await).await;
    let before = shop.snapshot("orders-db-0").await;
    shop.apply(&looking_at::<D>("orders", "orders-db", |_| {})).unwrap();
    let (reason, words) = D::UNFIT_SAYS.split_first().unwrap();
    blocked(&shop, "orders", reason, words).await;
    assert_eq!(shop.snapshot("orders-db-0").await, before);

    shop.apply(&with(&[D::UNFIT, D::DEAF])).unwrap();
    let port = format!(":{}", D::PORT);
    blocked(&shop, "orders", "SourceUnreachable", &["the source does not answer", &port, "see that pod orders-db-0 runs"]).await;

    shop.apply(&with(&[])).unwrap();
    mended(&shop, "orders").await;
    shop.remove().await;
}

/// MongoDB alone: no other engine's source has to restart.
#[tokio::test]
async fn a_source_that_may_not_restart_is_left_alone_until_it_may() {
    let shop = Place::<MongoDb>::with_source("understudy-never").await;
    let before = shop.snapshot("orders-db-0").await;
    let pod = shop.uid("orders-db-0").await.unwrap();
    let mut resource = replication_of::<MongoDb>("orders", "orders-db");
    resource["spec"]["source"]["restart"] = json!("Never");
    shop.apply(&resource).unwrap();
    blocked(&shop, "orders", "RestartNotAllowed", &["--replSet understudy_", "source.restart is Never", "set source.restart to Allow"]).await;
    assert_eq!(shop.snapshot("orders-db-0").await, before);
    assert_eq!(shop.uid("orders-db-0").await.unwrap(), pod);
    shop.edit("orders", json!({"source": {"restart": "Allow"}})).await;
    shop.replicating("orders", 240).await;

    // On the way back too.
    let pod = shop.uid("orders-db-0").await.unwrap();
    shop.edit("orders", json!({"enabled": false, "source": {"restart": "Never"}})).await;
    shop.reason("orders", "RestartNotAllowed", 180).await;
    assert_eq!(shop.uid("orders-db-0").await.unwrap(), pod);
    shop.edit("orders", json!({"source": {"restart": "Allow"}})).await;
    shop.phase("orders", Phase::Standalone, 180).await;
    assert_eq!(shop.snapshot("orders-db-0").await, before);
    shop.remove().await;
}

/// Redis alone: what other engines have confirmed is on disk already, however they end.
#[tokio::test]
async fn a_source_that_would_be_killed_before_its_last_save_is_mended_as_the_condition_says() {
    let with = |seconds: u64| {
        let mut object = Redis::stateful_set("orders-db");
        object["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(seconds);
        object
    };
    let shop = Place::<Redis>::new("understudy-grace").await;
    shop.source("orders-db", |object| *object = with(5)).await;
    shop.apply(&looking_at::<Redis>("orders", "orders-db", |_| {})).unwrap();
    let words = ["up to 10 s (shutdown-timeout)", "killed after 5 s (terminationGracePeriodSeconds)", "to 30 or more"];
    blocked(&shop, "orders", "GracePeriodTooShort", &words).await;
    shop.apply(&with(30)).unwrap();
    mended(&shop, "orders").await;
    shop.remove().await;
}

/// PostgreSQL alone: no other engine keeps who may connect, and from where, in a file.
#[tokio::test]
async fn rules_that_the_server_cannot_write_are_mended_with_the_line_that_the_condition_names() {
    let shop = Shop::new("understudy-hba").await;
    let rules = |more: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "rules"}, "data": {"pg_hba.conf": format!("local all all trust\nhost all all all scram-sha-256\n{more}")}});
    shop.apply(&rules("")).unwrap();
    shop.source("orders-db", |object| {
        let pod = &mut object["spec"]["template"]["spec"];
        pod["containers"][0]["args"] = json!(["-c", "hba_file=/etc/postgresql/pg_hba.conf"]);
        pod["containers"][0]["volumeMounts"].as_array_mut().unwrap().push(json!({"name": "rules", "mountPath": "/etc/postgresql"}));
        pod["volumes"] = json!([{"name": "rules", "configMap": {"name": "rules"}}]);
    })
    .await;
    let before = shop.snapshot("orders-db-0").await;
    shop.apply(&replication("orders", "orders-db")).unwrap();
    let line = "host replication all all scram-sha-256";
    blocked(&shop, "orders", "HbaNotWritable", &["/etc/postgresql/pg_hba.conf cannot be written", line, "reload"]).await;
    assert_eq!(shop.snapshot("orders-db-0").await, before);

    shop.apply(&rules(&format!("{line}\n"))).unwrap();
    wait("the line has reached the pod", 120, || async {
        // A pod that changes gets its volumes looked at before their time.
        shop.kubectl(&["annotate", "pod", "orders-db-0", "--overwrite", &format!("looked-at={:?}", std::time::Instant::now())])?;
        let text = shop.sql("orders-db-0", "SELECT pg_read_file(current_setting('hba_file'))").await?.concat();
        if text.contains(line) { Ok(()) } else { Err(text) }
    })
    .await;
    shop.sql("orders-db-0", "SELECT pg_reload_conf()").await.unwrap();
    let before = shop.snapshot("orders-db-0").await;
    shop.replicating("orders", 240).await;
    shop.delete("orders", 180).await;
    assert_eq!(shop.snapshot("orders-db-0").await, before);
    shop.remove().await;
}

async fn of_two_resources_with_one_source_the_first_keeps_it_and_the_second_waits<D: Database>() {
    let shop = Place::<D>::with_source(&format!("understudy-rivals-{}", D::NAME)).await;
    let before = shop.snapshot("orders-db-0").await;
    shop.apply(&replication_of::<D>("first", "orders-db")).unwrap();
    shop.replicating("first", 240).await;
    let held = shop.snapshot("orders-db-0").await;

    shop.apply(&replication_of::<D>("second", "orders-db")).unwrap();
    blocked(&shop, "second", "SourceTaken", &["first came first", "raise replicas in first, or delete one of the two"]).await;
    assert_eq!(shop.snapshot("orders-db-0").await, held);
    assert_eq!(shop.condition("first", "Ready").await.unwrap().1, "Replicating");

    shop.delete("first", 180).await;
    shop.replicating("second", 240).await;
    assert_eq!(shop.replica_addresses().await, shop.addresses_of("second", D::REPLICAS));
    shop.delete("second", 180).await;
    assert_eq!(shop.snapshot("orders-db-0").await, before);
    shop.remove().await;
}

async fn of_two_resources_that_write_the_same_variables_the_second_waits<D: Database>() {
    let shop = Place::<D>::with_source(&format!("understudy-variables-{}", D::NAME)).await;
    shop.source("other-db", |_| {}).await;
    shop.apply(&replication_of::<D>("first", "orders-db")).unwrap();
    shop.replicating("first", 240).await;
    shop.apply(&looking_at::<D>("second", "other-db", |_| {})).unwrap();
    let variables = format!("{}_… of ConfigMap shop-env", D::PREFIX);
    blocked(&shop, "second", "VariablesTaken", &["first came first", &variables, "another prefix"]).await;
    shop.edit("second", json!({"environment": {"configMaps": [{"name": "shop-env", "prefix": "OTHER_DB"}]}})).await;
    mended(&shop, "second").await;
    shop.delete("first", 180).await;
    shop.remove().await;
}

/// Name of the restore Job's pod that has not ended, other than `old`.
async fn restore_pod<D: Database>(shop: &Place<D>, old: &str) -> String {
    wait("a restore runs", 180, || async {
        let pods = shop.api::<Pod>().list(&ListParams::default().labels("understudy.dev/component=restore")).await.map_err(|e| e.to_string())?;
        let living = |pod: &&Pod| !matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"));
        let name = pods.iter().filter(living).find_map(|pod| pod.metadata.name.clone().filter(|name| name != old));
        name.ok_or_else(|| format!("{:?}", pods.iter().map(|pod| &pod.metadata.name).collect::<Vec<_>>()))
    })
    .await
}

async fn a_restore_that_is_killed_is_tried_again<D: Database>() {
    let shop = Place::<D>::with_source(&format!("understudy-restore-{}", D::NAME)).await;
    let before = shop.snapshot("orders-db-0").await;
    shop.apply(&replication_of::<D>("orders", "orders-db")).unwrap();

    let pod = restore_pod(&shop, "").await;
    // The Job lets go of it at once, which may be before the API server has answered.
    shop.kubectl(&["delete", "pod", &pod, "--force", "--grace-period=0", "--ignore-not-found"]).unwrap();
    // While the backup is still being taken, that is what the condition speaks of.
    wait("it is said that the restore failed", 120, async || {
        let (_, reason, message) = shop.condition("orders", "Ready").await?;
        let failures = shop.get("orders").await?.status.unwrap_or_default().replicas.first().map_or(0, |replica| replica.failures);
        let said = reason == "RestoreFailed" && message.contains("orders-replica-1") && message.contains("it is tried again");
        if said || failures > 0 { Ok(()) } else { Err(format!("{reason}: {message}; {failures} failures")) }
    })
    .await;

    restore_pod(&shop, &pod).await;
    shop.kubectl(&["delete", "job", "-l", "understudy.dev/component=restore", "--wait=false"]).unwrap();
    shop.replicating("orders", 240).await;
    assert_eq!(shop.names::<Job>("understudy.dev/component=backup").await.len(), 1);
    assert_eq!(shop.names::<Job>("understudy.dev/component=restore").await.len(), D::REPLICAS as usize);
    shop.delete("orders", 180).await;
    assert_eq!(shop.snapshot("orders-db-0").await, before);
    shop.remove().await;
}
