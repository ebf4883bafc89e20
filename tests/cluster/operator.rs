//! What the operator may do, and what it does.

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule, Role};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use serde_json::json;
use std::collections::BTreeSet;
use understudy::api::Phase;

use crate::databases::{MongoDb, PostgreSql};
use crate::support::{ALLOWED, Place, Shop, applications, audit_lines, audit_mark, replication, replication_between, replication_of};
use crate::takeover::never_proven;

const OPERATOR: &str = "system:serviceaccount:understudy-system:understudy";

/// (group, resource, verb) of every rule.
fn granted(rules: &[PolicyRule]) -> BTreeSet<(String, String, String)> {
    let mut all = BTreeSet::new();
    for rule in rules {
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                all.extend(rule.verbs.iter().map(|verb| (group.clone(), resource.clone(), verb.clone())));
            }
        }
    }
    all
}

/// Stories that make the operator use everything it may: enable, scale down, delete, with volumes kept and deleted; and a source with a key file.
async fn use_everything(shop: &Shop) {
    let with_key = async {
        let set = Place::<MongoDb>::with_source("understudy-rbac-key").await;
        set.apply(&replication_of::<MongoDb>("orders", "orders-db")).unwrap();
        set.phase("orders", Phase::BackingUp, 120).await;
        set.delete("orders", 180).await;
        set.remove().await;
    };
    tokio::join!(with_key, enable_twice(shop), target_with_login(), never_proven::<PostgreSql>("rbac-spoilt"));
}

/// A target whose application gets the password.
async fn target_with_login() {
    let (sales, reports) = applications::<PostgreSql>("rbac-login").await;
    sales.kubectl(&["annotate", "secret", "orders-db", &format!("{ALLOWED}=*")]).unwrap();
    reports.secret("reports-login", json!({}));
    let told = |spec: &mut serde_json::Value| spec["environment"] = json!({"secrets": [{"name": "reports-login"}]});
    reports.apply(&replication_between::<PostgreSql>(&sales.namespace, told)).unwrap();
    reports.replicating("orders", 240).await;
    reports.delete("orders", 240).await;
    reports.remove().await;
    sales.remove().await;
}

async fn enable_twice(shop: &Shop) {
    shop.apply(&replication("orders", "orders-db")).unwrap();
    shop.replicating("orders", 240).await;
    shop.delete("orders", 180).await;
    let mut resource = replication("orders", "orders-db");
    resource["spec"]["deletionPolicy"] = "Delete".into();
    shop.apply(&resource).unwrap();
    shop.replicating("orders", 240).await;
    // The second time the same thing is told, its event is counted. It stays true until it was seen.
    shop.lose("orders-replica-1-0").await;
    shop.reason("orders", "ReplicaStarting", 120).await;
    shop.revive("orders-replica-1-0").unwrap();
    shop.replicating("orders", 240).await;
    shop.delete("orders", 180).await;
}

#[tokio::test]
async fn the_operator_has_the_permissions_it_uses_and_no_others() {
    let shop = Shop::with_source("understudy-rbac").await;
    let mark = audit_mark();
    use_everything(&shop).await;

    let cluster: ClusterRole = Api::all(shop.client.clone()).get("understudy").await.unwrap();
    let own: Role = Api::namespaced(shop.client.clone(), "understudy-system").get("understudy").await.unwrap();
    let mut granted = granted(&[cluster.rules.unwrap_or_default(), own.rules.unwrap_or_default()].concat());
    assert!(granted.iter().all(|(g, r, v)| g != "*" && r != "*" && v != "*" && r != "pods/exec"), "{granted:?}");
    let secrets: Vec<_> = granted.iter().filter(|(_, resource, _)| resource == "secrets").map(|(_, _, verb)| verb.as_str()).collect();
    assert_eq!(secrets, ["create", "delete", "get", "patch"], "none is seen but by its name");

    let mut used = BTreeSet::new();
    for line in audit_lines(0).filter(|line| line["user"]["username"] == OPERATOR && line["objectRef"]["resource"].is_string()) {
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let object = &line["objectRef"];
        let resource = match object["subresource"].as_str() {
            Some(sub) => format!("{}/{sub}", text(&object["resource"])),
            None => text(&object["resource"]),
        };
        // An admission plugin may refuse as well, with the same code: that is no lack of permission.
        assert_ne!(line["annotations"]["authorization.k8s.io/decision"], "forbid", "the operator may not do what it does: {line}");
        // An apply that makes the object needs `create` besides `patch`.
        if line["verb"] == "patch" && line["responseStatus"]["code"] == 201 {
            used.insert((text(&object["apiGroup"]), resource.clone(), "create".to_owned()));
        }
        used.insert((text(&object["apiGroup"]), resource, text(&line["verb"])));
    }
    assert!(audit_mark() > mark, "the audit log is written");
    // Asked for by an admission plugin, not by a request: OwnerReferencesPermissionEnforcement.
    granted.remove(&("understudy.dev".to_owned(), "databasereplications/finalizers".to_owned(), "update".to_owned()));
    let unused: Vec<_> = granted.difference(&used).collect();
    assert!(unused.is_empty(), "permissions that nothing uses: {unused:?}");
    shop.remove().await;
}

#[tokio::test]
async fn the_installed_definition_is_the_one_in_the_code() {
    let shop = Shop::new("understudy-definition").await;
    let installed: CustomResourceDefinition = Api::all(shop.client.clone()).get("databasereplications.understudy.dev").await.unwrap();
    let ours = understudy::api::definition();
    let schema = |definition: &CustomResourceDefinition| serde_json::to_value(&definition.spec.versions[0].schema).unwrap();
    assert_eq!(schema(&installed), schema(&ours));
    let explained = shop.kubectl(&["explain", "dbrep.spec.backup.volume.size"]).unwrap();
    assert!(explained.contains("at least twice the size of the data"), "{explained}");
    shop.remove().await;
}
