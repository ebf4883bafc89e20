//! What is never shown: no password is anywhere but in its Secret.

use k8s_openapi::api::core::v1::Secret;
use serde_json::json;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use understudy::api::Phase;

use crate::databases::{for_engines, for_every_engine};
use crate::support::{ALLOWED, Database, OTHER_PASSWORD, PASSWORD, Place, applications, replication_between, replication_of, run};

/// Waits until this is so; until then no process of the node, which the Jobs' are too, has the administrator's password among its arguments.
async fn in_no_argument_until(what: &str, seconds: u64, so: impl AsyncFn() -> Result<(), String>) {
    let begun = Instant::now();
    loop {
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line);
            assert!(!line.contains(PASSWORD) && !line.contains(OTHER_PASSWORD), "in arguments: {line}");
        }
        match so().await {
            Ok(()) => return,
            Err(seen) => assert!(begun.elapsed().as_secs() < seconds, "after {seconds} s still not: {what}; last seen: {seen}"),
        }
        // What runs in a Job runs for longer, and other tests need the processors, too.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The resource replicates, and what a target held before is off its volume.
async fn replicates<D: Database>(place: &Place<D>) -> Result<(), String> {
    let (_, reason, message) = place.condition("orders", "Ready").await?;
    let cleared = place.get("orders").await?.status.and_then(|status| status.target).is_none_or(|target| target.cleared);
    if reason == "Replicating" && cleared { Ok(()) } else { Err(format!("{reason}: {message}; cleared: {cleared}")) }
}

/// The password with which a pod replicates.
fn replication_password<D: Database>(place: &Place<D>, pod: &str) -> String {
    // Through its input: what a process is given as an argument, others see. A target's server has its source's password by now, and its container its own.
    let script = format!("MYSQL_ROOT_PASSWORD='{PASSWORD}'\n{}\n", D::REPLICATION_PASSWORD);
    let found = run("kubectl", &["-n", &place.namespace, "exec", "-i", pod, "-c", D::CONTAINER, "--", "sh"], &script).unwrap();
    assert!(found.trim().len() >= 32, "{found:?}");
    found.trim().to_owned()
}

/// None of these passwords is in any object but Secrets, nor in the log of any container of the operator or of these places. Gives the components whose pods there were.
fn nowhere<D: Database>(places: &[&Place<D>], replication_password: &str) -> BTreeSet<String> {
    let passwords = [PASSWORD, OTHER_PASSWORD, replication_password];
    let kinds = run("kubectl", &["api-resources", "--verbs=list", "-o", "name"], "").unwrap();
    for kind in kinds.lines().filter(|kind| *kind != "secrets") {
        let objects = run("kubectl", &["get", kind, "--all-namespaces", "-o", "json"], "").unwrap_or_default();
        assert!(passwords.iter().all(|password| !objects.contains(password)), "in {kind}");
    }
    let mut logs = run("kubectl", &["-n", "understudy-system", "logs", "deployment/understudy", "--tail=-1"], "").unwrap();
    let mut components = BTreeSet::new();
    for place in places {
        let path = r"jsonpath={range .items[*]}{.metadata.name} {.metadata.labels.understudy\.dev/component}{'\n'}{end}";
        for line in place.kubectl(&["get", "pods", "-o", path]).unwrap().lines() {
            let (pod, component) = line.split_once(' ').unwrap();
            // One that is being removed may be gone by now.
            logs += &place.kubectl(&["logs", pod, "--all-containers", "--tail=-1"]).unwrap_or_default();
            components.insert(component.to_owned());
        }
    }
    assert!(logs.len() > 1000, "there are logs to look at: {logs}");
    assert!(passwords.iter().all(|password| !logs.contains(password)), "in a log");
    components
}

for_every_engine!(a_password_is_nowhere_but_in_its_secret);
for_engines!([postgresql: PostgreSql, mysql: MySql, redis: Redis] a_password_of_two_applications_is_nowhere_but_in_their_secrets);

async fn a_password_is_nowhere_but_in_its_secret<D: Database>() {
    let shop = Place::<D>::with_source(&format!("understudy-canary-{}", D::NAME)).await;
    shop.apply(&replication_of::<D>("orders", "orders-db")).unwrap();
    in_no_argument_until("it replicates", 120, async || replicates(&shop).await).await;
    let components = nowhere(&[&shop], &replication_password(&shop, "orders-replica-1-0"));
    assert!(["backup", "restore", "replica"].iter().all(|component| components.contains(*component)), "{components:?}");
    shop.delete("orders", 180).await;
    shop.remove().await;
}

/// Data that is kept, an application that is told the password, and the way back.
async fn a_password_of_two_applications_is_nowhere_but_in_their_secrets<D: Database>() {
    let (sales, reports) = applications::<D>("canaries").await;
    sales.kubectl(&["annotate", "secret", "orders-db", &format!("{ALLOWED}=*")]).unwrap();
    let mut target = reports.connect("reports-db-0").await.unwrap();
    target.prepare().await.unwrap();
    target.insert(1).await.unwrap();
    reports.secret("reports-login", json!({}));
    let resource = replication_between::<D>(&sales.namespace, |spec| {
        spec["target"]["existingData"] = json!("BackUpAndReplace");
        if D::PREFIX != "REDIS" {
            spec["environment"]["secrets"] = json!([{"name": "reports-login"}]);
        }
    });
    reports.apply(&resource).unwrap();
    in_no_argument_until("it replicates", 300, async || replicates(&reports).await).await;
    let password = replication_password(&reports, "reports-db-0");
    let login = reports.api::<Secret>().get("reports-login").await.unwrap().data.unwrap_or_default();
    let told = login.get(&Place::<D>::key("PASSWORD")).map(|value| value.0.as_slice());
    assert_eq!(told, (D::PREFIX != "REDIS").then_some(PASSWORD.as_bytes()), "the source's, where no other is named");
    let components = nowhere(&[&sales, &reports], &password);
    assert!(["backup", "keep", "restore"].iter().all(|component| components.contains(*component)), "{components:?}");

    reports.edit("orders", json!({"enabled": false})).await;
    let stands_alone = async || match reports.get("orders").await?.status.and_then(|status| status.phase) {
        Some(Phase::Standalone) => Ok(()),
        phase => Err(format!("{phase:?}")),
    };
    in_no_argument_until("it stands alone", 240, stands_alone).await;
    nowhere(&[&sales, &reports], &password);
    reports.delete("orders", 60).await;
    reports.remove().await;
    sales.remove().await;
}
