//! The variables between two applications.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

use super::world::{World, taken_by};
use crate::api::{DatabaseReplication, DatabaseReplicationStatus, EngineKind, Phase};
use crate::controller::consent::{ALLOWED, NOT_ALLOWED, refusal_of_login};
use crate::controller::facts::{Facts, Login, ObjectKey, Password, Sibling, Subject, Taken, TargetFacts, Variables};
use crate::controller::plan::{Draft, Step, conditions, environment};
use crate::controller::variables::{may_be_named, may_be_said, passwords_of, siblings, taken};
use crate::engine::postgresql::{PostgreSql, Step as SourceStep};
use crate::engine::{Engine, Finding, with_engine};

const PASSWORD: &str = "hunter2-of-the-clerk";
const OWN: &str = "reports-db.reports.svc";

/// A resource in `namespace` whose target follows `shop/orders-db`.
fn resource(namespace: &str, name: &str, environment: &Value, of_source: &Value) -> DatabaseReplication {
    serde_json::from_value(json!({
        "apiVersion": "understudy.dev/v1alpha1", "kind": "DatabaseReplication",
        "metadata": {"name": name, "namespace": namespace, "uid": format!("{namespace}/{name}"), "generation": 1},
        "spec": {
            "engine": "PostgreSQL", "backup": {"volume": {"size": "20Gi"}}, "environment": environment,
            "source": {
                "statefulSetRef": {"name": "orders-db", "namespace": "shop"}, "credentials": {"secretRef": {"name": "orders-db"}},
                "environment": of_source, "application": {"database": "shop", "credentials": {"secretRef": {"name": "clerk"}}},
            },
            "target": {"statefulSetRef": {"name": "reports-db"}, "credentials": {"secretRef": {"name": "reports-db"}}}
        }
    }))
    .unwrap()
}

fn reports() -> DatabaseReplication {
    resource(
        "reports",
        "orders",
        &json!({"configMaps": [{"name": "reports-env"}], "secrets": [{"name": "reports-login"}, {"name": "reports-login", "prefix": "OLD"}]}),
        &json!({"configMaps": [{"name": "shop-env"}]}),
    )
}

/// Objects of both applications, as one resource sees them.
struct Applications {
    resource: DatabaseReplication,
    facts: Facts<PostgreSql>,
}

impl Applications {
    fn new(resource: DatabaseReplication) -> Self {
        let facts = World::new(1).facts();
        let target = TargetFacts {
            workload: facts.source.clone(),
            administrator: facts.administrator.clone(),
            server: facts.server.clone(),
            shape: facts.shape.clone(),
            volume_bytes: None,
            data: Ok((0, vec![])),
            logins: vec![],
            rival: None,
            service: Some("reports-db".into()),
            promoted: vec![],
        };
        let shop = BTreeMap::from([("POSTGRESQL_ADDRESS".to_owned(), "by-hand".to_owned()), ("OTHER".to_owned(), "kept".to_owned())]);
        let reports = [("POSTGRESQL_ADDRESS", "its-own"), ("POSTGRESQL_USERNAME", "reporter")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        let config_maps =
            BTreeMap::from([((Some("shop".to_owned()), "shop-env".to_owned()), Some(shop)), ((None, "reports-env".to_owned()), Some(BTreeMap::from(reports)))]);
        let login = Login { database: "shop".into(), username: "clerk".into(), password: Password::new(PASSWORD) };
        let secrets = BTreeMap::from([("reports-login".to_owned(), Some(BTreeMap::new()))]);
        let variables = Variables { login: Some(Ok(login)), secrets, siblings: vec![] };
        Self { resource, facts: Facts { target: Some(Box::new(target)), config_maps, variables, ..facts } }
    }

    fn subject(&self) -> Subject {
        Subject::new::<PostgreSql>(Arc::new(self.resource.clone())).unwrap()
    }

    /// One look; what it plans, whether all was current, and the condition's reason and message.
    fn look(&mut self, proven: Option<&[String]>) -> (Vec<Step<SourceStep>>, bool, String, String) {
        let mut draft = Draft::new(&self.subject(), &self.facts);
        let current = match proven {
            Some(proven) => environment::publish(&self.subject(), &self.facts, &mut draft, proven),
            None => environment::give_up(&self.facts, &mut draft),
        };
        let condition = draft.status.conditions.iter().find(|condition| condition.type_ == conditions::ENVIRONMENT_CURRENT).cloned();
        let (reason, message) = condition.map(|condition| (condition.reason, condition.message)).unwrap_or_default();
        draft.status.enablement = Some("abcdefgh".into());
        self.resource.status = Some(DatabaseReplicationStatus { conditions: vec![], ..draft.status });
        (draft.steps, current, reason, message)
    }

    /// Looks and executes until nothing is left to do; gives the condition's reason and message.
    fn settle(&mut self, proven: Option<&[String]>) -> (String, String) {
        for _ in 0..4 {
            let (steps, _, reason, message) = self.look(proven);
            if steps.is_empty() {
                return (reason, message);
            }
            for step in steps {
                match step {
                    Step::Publish { namespace, config_map, data } => {
                        // As server-side apply does: keys that were ours and are not named are gone.
                        let mine = self.resource.status.iter().flat_map(|status| &status.environment);
                        let mine: Vec<_> = mine.filter(|r| r.namespace == namespace && r.config_map == config_map).map(|r| r.key.clone()).collect();
                        assert!(data.keys().all(|key| mine.contains(key)), "the record comes first: {data:?}");
                        let found = self.facts.config_maps.get_mut(&(namespace, config_map)).unwrap().as_mut().unwrap();
                        found.retain(|key, _| !mine.contains(key));
                        found.extend(data);
                    }
                    Step::PublishSecret { secret, data } => drop(self.facts.variables.secrets.insert(secret, Some(data))),
                    other => panic!("{other:?}"),
                }
            }
        }
        panic!("does not settle");
    }

    fn of(&self, object: (Option<&str>, &str)) -> BTreeMap<&str, &str> {
        let key: ObjectKey = (object.0.map(str::to_owned), object.1.to_owned());
        self.facts.config_maps[&key].as_ref().unwrap().iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
    }

    fn shop(&self) -> BTreeMap<&str, &str> {
        self.of((Some("shop"), "shop-env"))
    }

    fn reports(&self) -> BTreeMap<&str, &str> {
        self.of((None, "reports-env"))
    }

    fn replica(&mut self, address: &str) {
        let replica = json!({"name": "reports-db", "address": address, "state": "InSync", "role": "replica", "provenAt": "2026-11-24T00:00:00Z"});
        self.resource.status.get_or_insert_default().replicas = vec![serde_json::from_value(replica).unwrap()];
    }
}

fn proven() -> Vec<String> {
    vec![OWN.to_owned()]
}

#[test]
fn both_applications_are_told_their_own_and_keep_what_they_need_when_it_ends() {
    let before = BTreeMap::from([("POSTGRESQL_ADDRESS", "its-own"), ("POSTGRESQL_USERNAME", "reporter")]);
    let mut both = Applications::new(reports());
    let (reason, message) = both.settle(Some(&[]));
    assert_eq!(reason, "Updating", "{message}");
    assert!(message.contains("once the target has shown"), "{message}");
    let shop =
        [("OTHER", "kept"), ("POSTGRESQL_ADDRESS", "orders-db.shop.svc"), ("POSTGRESQL_SLAVE_ADDRESSES_EXT", ""), ("POSTGRESQL_SLAVE_ADDRESSES_INT", "")];
    assert_eq!(both.shop(), BTreeMap::from(shop));
    assert_eq!(both.reports(), before, "it still has its own database");
    assert_eq!(both.facts.variables.secrets["reports-login"], Some(BTreeMap::new()));

    let (reason, message) = both.settle(Some(&proven()));
    assert_eq!(reason, "Current", "{message}");
    assert!(both.look(Some(&proven())).1);
    assert_eq!(both.shop()["POSTGRESQL_SLAVE_ADDRESSES_INT"], OWN);
    let reports = [
        ("POSTGRESQL_ADDRESS", OWN),
        ("POSTGRESQL_DATABASE", "shop"),
        ("POSTGRESQL_SLAVE_ADDRESSES_EXT", ""),
        ("POSTGRESQL_SLAVE_ADDRESSES_INT", ""),
        ("POSTGRESQL_USERNAME", "clerk"),
    ];
    assert_eq!(both.reports(), BTreeMap::from(reports));
    let password = Password::new(PASSWORD);
    let passwords = BTreeMap::from([("OLD_PASSWORD".to_owned(), password.clone()), ("POSTGRESQL_PASSWORD".to_owned(), password)]);
    assert_eq!(both.facts.variables.secrets["reports-login"], Some(passwords.clone()));

    // For a while it is not in step: nobody is sent to it, and its own application is left as it is.
    both.settle(Some(&[]));
    assert_eq!(both.shop()["POSTGRESQL_SLAVE_ADDRESSES_INT"], "");
    assert_eq!(both.reports(), BTreeMap::from(reports));

    both.settle(Some(&proven()));
    both.settle(None);
    assert!(both.look(None).1);
    let shop = [("OTHER", "kept"), ("POSTGRESQL_ADDRESS", "by-hand"), ("POSTGRESQL_SLAVE_ADDRESSES_EXT", ""), ("POSTGRESQL_SLAVE_ADDRESSES_INT", "")];
    assert_eq!(both.shop(), BTreeMap::from(shop));
    let mut reports = BTreeMap::from(reports);
    reports.insert("POSTGRESQL_ADDRESS", "its-own");
    assert_eq!(both.reports(), reports, "its database is a copy, with the source's users");
    assert_eq!(both.facts.variables.secrets["reports-login"], Some(passwords));
}

#[test]
fn a_new_login_reaches_the_targets_application() {
    let mut both = Applications::new(reports());
    both.settle(Some(&proven()));
    let new = Password::new("of-this-year");
    both.facts.variables.login = Some(Ok(Login { database: "shop".into(), username: "clerk2".into(), password: new.clone() }));
    let (steps, current, ..) = both.look(Some(&proven()));
    assert!(!current);
    assert_eq!(steps.len(), 2, "{steps:?}");
    both.settle(Some(&proven()));
    assert_eq!(both.reports()["POSTGRESQL_USERNAME"], "clerk2");
    assert_eq!(both.facts.variables.secrets["reports-login"].as_ref().unwrap()["POSTGRESQL_PASSWORD"], new);
    // One that can no longer be told leaves what was told.
    let why = refusal_of_login("clerk", "shop", "reports");
    both.facts.variables.login = Some(Err(why));
    let (reason, message) = both.settle(Some(&proven()));
    assert_eq!(reason, NOT_ALLOWED);
    assert!(message.contains("annotate --overwrite secret clerk understudy.dev/allowed-namespaces=reports"), "{message}");
    assert_eq!(both.reports()["POSTGRESQL_USERNAME"], "clerk2");
}

#[test]
fn keys_that_are_no_longer_wanted_stay_since_a_pod_may_name_them() {
    let mut both = Applications::new(reports());
    both.settle(Some(&proven()));
    let environment = json!({"configMaps": [{"name": "reports-env", "prefix": "NEW"}], "secrets": [{"name": "reports-login", "prefix": "NEW"}]});
    both.resource.spec.environment = Some(serde_json::from_value(environment).unwrap());
    both.settle(Some(&proven()));
    let told = both.reports();
    assert_eq!((told["NEW_ADDRESS"], told["NEW_USERNAME"], told["POSTGRESQL_USERNAME"]), (OWN, "clerk", "clerk"));
    let keys: Vec<_> = both.facts.variables.secrets["reports-login"].as_ref().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["NEW_PASSWORD", "OLD_PASSWORD", "POSTGRESQL_PASSWORD"]);
}

#[test]
fn no_password_is_ever_printed() {
    let mut both = Applications::new(reports());
    let (steps, ..) = both.look(Some(&proven()));
    let secret = steps.iter().find(|step| matches!(step, Step::PublishSecret { .. })).unwrap();
    assert_eq!(secret.to_string(), "write OLD_PASSWORD, POSTGRESQL_PASSWORD to Secret reports-login");
    both.settle(Some(&proven()));
    let told = environment::announce::<PostgreSql>(&both.subject());
    let status = serde_json::to_string(&both.resource.status).unwrap();
    for text in [format!("{steps:?}"), format!("{secret:#}"), format!("{:?}", both.facts), status, format!("{told:?}"), format!("{:?}", both.resource)] {
        assert!(!text.contains(PASSWORD) && !text.contains(&hex::encode(PASSWORD)), "{text}");
        assert!(!text.contains("aHVudGVyMi1vZi10aGUtY2xlcms"), "not encoded either: {text}");
    }
    assert!(told.contains(&"write POSTGRESQL_PASSWORD to Secret reports-login".to_owned()), "{told:?}");
    let published = "write POSTGRESQL_ADDRESS, POSTGRESQL_SLAVE_ADDRESSES_EXT, POSTGRESQL_SLAVE_ADDRESSES_INT to ConfigMap shop-env in namespace shop";
    assert!(told.contains(&published.to_owned()), "{told:?}");
    assert!(steps.iter().any(|step| step.to_string() == published), "{steps:?}");
}

#[test]
fn what_is_missing_or_not_allowed_is_said_and_nothing_is_written_there() {
    type Change = fn(&mut Facts<PostgreSql>);
    let shop: ObjectKey = (Some("shop".into()), "shop-env".into());
    let cases: [(&str, &[&str], Change); 4] = [
        (
            "ConfigMapNotAllowed",
            &["kubectl -n shop get configmap shop-env", "kubectl -n shop annotate --overwrite configmap shop-env understudy.dev/allowed-namespaces=reports"],
            |facts| drop(facts.config_maps.insert((Some("shop".into()), "shop-env".into()), None)),
        ),
        ("ConfigMapNotFound", &["kubectl create configmap reports-env -n reports", "environment.configMaps"], |facts| {
            facts.config_maps.insert((None, "reports-env".into()), None);
        }),
        ("SecretNotFound", &["kubectl create secret generic reports-login -n reports", "environment.secrets"], |facts| {
            facts.variables.secrets.insert("reports-login".into(), None);
        }),
        ("SecretKeyNotFound", &["x", "y"], |facts| facts.variables.login = Some(Err(Finding::new("SecretKeyNotFound", "x", "y")))),
    ];
    for (reason, parts, change) in cases {
        let mut both = Applications::new(reports());
        change(&mut both.facts);
        let found = both.settle(Some(&proven()));
        assert_eq!(found.0, reason);
        assert!(parts.iter().all(|part| found.1.contains(part)), "{found:?}");
        assert!(!both.look(Some(&proven())).1);
        let recorded = both.resource.status.as_ref().unwrap().environment.iter().any(|record| record.namespace.is_some());
        assert_eq!(recorded, both.facts.config_maps[&shop].is_some(), "what it holds is not recorded either");
        assert!(environment::FOR_THE_USER.contains(&reason));
        // What can be undone is, and what can't be holds nothing up.
        both.settle(None);
        assert!(both.look(None).1, "{reason}");
    }
}

/// One of them sees the ConfigMap as another has left it, and what the statuses of all say.
fn see(three: &mut [Applications; 3], at: usize, from: usize) {
    let all: Vec<_> = three.iter().map(|one| Arc::new(one.resource.clone())).collect();
    let written = |one: &Applications| {
        let namespace = one.resource.metadata.namespace.as_deref().filter(|namespace| *namespace != "shop").map(|_| "shop".to_owned());
        (namespace, "shop-env".to_owned())
    };
    let data = three[from].facts.config_maps[&written(&three[from])].clone();
    let key = written(&three[at]);
    three[at].facts.variables.siblings = siblings(&three[at].resource, &all);
    three[at].facts.config_maps.insert(key, data);
}

#[test]
fn targets_of_one_source_are_all_named_and_leave_one_by_one() {
    let of = |namespace: &str, name: &str| resource(namespace, name, &json!({}), &json!({"configMaps": [{"name": "shop-env"}]}));
    let mut three = [of("reports", "orders"), of("archive", "orders"), of("shop", "copy")].map(Applications::new);
    let addresses = ["b.reports.svc", "c.archive.svc", "a.shop.svc"];
    let value = |three: &[Applications; 3], at: usize, key: &str| -> String {
        let namespace = (at != 2).then_some("shop");
        three[at].of((namespace, "shop-env"))[key].to_owned()
    };
    let slaves = |three: &[Applications; 3], at: usize| value(three, at, "POSTGRESQL_SLAVE_ADDRESSES_INT");
    let mut last = 0;
    for at in 0..3 {
        see(&mut three, at, last);
        three[at].settle(Some(&[addresses[at].to_owned()]));
        three[at].replica(addresses[at]);
        last = at;
    }
    assert_eq!(slaves(&three, 2), "a.shop.svc,b.reports.svc,c.archive.svc");
    // Nobody disagrees: none of them writes again.
    for at in 0..3 {
        see(&mut three, at, 2);
        assert!(three[at].look(Some(&[addresses[at].to_owned()])).0.is_empty());
        three[at].replica(addresses[at]);
    }
    // The first leaves; what it had found goes back into the ConfigMap with the last, which found it changed.
    three[0].resource.spec.enabled = false;
    see(&mut three, 0, 2);
    three[0].settle(None);
    assert_eq!(slaves(&three, 0), "a.shop.svc,c.archive.svc");
    assert_eq!(value(&three, 0, "POSTGRESQL_ADDRESS"), "orders-db.shop.svc");
    see(&mut three, 1, 0);
    assert!(three[1].look(Some(&[addresses[1].to_owned()])).0.is_empty(), "it does not put back who leaves");
    three[1].replica(addresses[1]);
    three[0].resource.status = None;
    three[1].resource.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(three[1].facts.now));
    see(&mut three, 1, 0);
    three[1].settle(None);
    assert_eq!(slaves(&three, 1), "a.shop.svc");
    three[2].resource.spec.enabled = false;
    see(&mut three, 2, 1);
    three[2].settle(None);
    assert_eq!((slaves(&three, 2).as_str(), value(&three, 2, "POSTGRESQL_ADDRESS").as_str()), ("", "by-hand"));
}

#[test]
fn only_targets_of_the_same_source_share_variables() {
    let one = reports();
    let shared = |change: &dyn Fn(&mut DatabaseReplication)| {
        let mut other = resource("archive", "orders", &json!({}), &json!({"configMaps": [{"name": "shop-env"}]}));
        let record = json!({"namespace": "shop", "configMap": "shop-env", "key": "POSTGRESQL_ADDRESS", "before": "x"});
        let replica = json!({"name": "r", "address": "r.archive.svc", "provenAt": "2026-11-24T00:00:00Z", "role": "replica"});
        other.status = Some(serde_json::from_value(json!({"enablement": "abcdefgh", "environment": [record], "replicas": [replica]})).unwrap());
        change(&mut other);
        let other = [Arc::new(other)];
        let found = siblings(&one, &other);
        let names = |text: &str| found.iter().any(|sibling| sibling.addresses.iter().any(|address| address == text));
        (found.len(), names("r.archive.svc"), taken(&one, &other).into_iter().filter_map(|taken| taken.by).collect::<Vec<_>>())
    };
    assert_eq!(shared(&|_| {}), (1, true, vec![]));
    assert_eq!(shared(&|other| other.spec.enabled = false), (1, false, vec![]));
    let withdrawn = |status: &mut DatabaseReplicationStatus| {
        let said = json!([{"type": "Ready", "status": "False", "reason": "ConsentWithdrawn", "message": "", "lastTransitionTime": "2026-11-24T00:00:00Z"}]);
        status.conditions = serde_json::from_value(said).unwrap();
    };
    assert_eq!(shared(&|other| withdrawn(other.status.as_mut().unwrap())), (1, false, vec![]), "a copy that gets nothing any more");
    let with = |change: fn(&mut DatabaseReplicationStatus)| shared(&|other| change(other.status.as_mut().unwrap()));
    assert_eq!(with(|status| status.replicas[0].diverged = Some("x".into())), (1, false, vec![]));
    assert_eq!(with(|status| status.replicas[0].role = Some("primary".into())), (1, false, vec![]));
    assert_eq!(with(|status| status.replicas[0].proven_at = None), (1, false, vec![]));
    assert_eq!(with(|status| status.phase = Some(Phase::Disabling)), (1, false, vec![]));
    assert_eq!(with(|status| status.enablement = None), (0, false, vec![]));
    let theirs = vec!["archive/orders".to_owned()];
    assert_eq!(shared(&|other| other.spec.source.stateful_set_ref.name = "other-db".into()), (0, false, theirs.clone()));
    // One that has never written there, since nobody has allowed it, takes nothing away.
    let stranger = |other: &mut DatabaseReplication| {
        other.spec.source.stateful_set_ref.name = "other-db".into();
        other.status.as_mut().unwrap().environment.clear();
    };
    assert_eq!(shared(&stranger), (0, false, vec![]));
    // Copies of the same source within its application.
    let copies = |other: &mut DatabaseReplication| {
        other.metadata.namespace = Some("shop".into());
        (other.spec.target, other.spec.replicas, other.spec.source.environment) = (None, Some(1), None);
        other.spec.source.stateful_set_ref.namespace = None;
        other.spec.environment = Some(serde_json::from_value(json!({"configMaps": [{"name": "shop-env"}]})).unwrap());
    };
    assert_eq!(shared(&copies), (0, false, vec!["shop/orders".to_owned()]));
}

#[test]
fn without_consent_nobody_is_named_and_nothing_is_learnt() {
    let sibling = |namespace: &str| Sibling {
        namespace: namespace.to_owned(),
        object: (Some("shop".into()), "shop-env".into()),
        prefix: "POSTGRESQL".into(),
        stays: true,
        addresses: proven(),
        before: BTreeMap::new(),
    };
    let said = |text: &str| BTreeMap::from([("shop-env".to_owned(), BTreeMap::from([(ALLOWED.to_owned(), text.to_owned())]))]);
    assert!(may_be_named(&sibling("archive"), "shop", &said("reports,archive")));
    assert!(!may_be_named(&sibling("archive"), "shop", &said("reports")));
    assert!(!may_be_named(&sibling("archive"), "shop", &BTreeMap::new()));
    assert!(may_be_named(&sibling("shop"), "shop", &BTreeMap::new()), "its own");
    let there = Taken { object: (Some("shop".into()), "shop-env".into()), ..taken_by("shop/orders") };
    assert!(may_be_said(&there, |_| true) && !may_be_said(&there, |_| false) && may_be_said(&taken_by("older"), |_| false));
}

#[test]
fn secrets_and_maps_of_one_namespace_belong_to_who_came_first() {
    let one = reports();
    let other =
        resource("reports", "older", &json!({"configMaps": [{"name": "reports-env"}], "secrets": [{"name": "reports-login", "prefix": "OLD"}]}), &json!({}));
    let mut both = Applications::new(one.clone());
    both.facts.taken = taken(&one, &[Arc::new(other)]);
    let (reason, message) = both.settle(Some(&proven()));
    assert_eq!(reason, "SeveralFindings");
    for part in ["variables POSTGRESQL_… of ConfigMap reports-env", "variables OLD_… of Secret reports-login", "DatabaseReplication older"] {
        assert!(message.contains(part), "{part:?} is missing in {message}");
    }
    assert_eq!(both.reports(), BTreeMap::from([("POSTGRESQL_ADDRESS", "its-own"), ("POSTGRESQL_USERNAME", "reporter")]));
    let passwords = both.facts.variables.secrets["reports-login"].clone().unwrap();
    assert_eq!(passwords.keys().collect::<Vec<_>>(), ["POSTGRESQL_PASSWORD"]);
}

#[test]
fn one_variable_is_not_both_applications() {
    let of = |prefix: &str| {
        let mut one = resource("shop", "orders", &json!({"configMaps": [{"name": "env"}]}), &json!({"configMaps": [{"name": "env", "prefix": prefix}]}));
        one.spec.source.stateful_set_ref.namespace = None;
        one
    };
    let mut both = Applications::new(of("POSTGRESQL"));
    both.facts.config_maps = BTreeMap::from([((None, "env".to_owned()), Some(BTreeMap::new()))]);
    both.facts.taken = taken(&both.resource, &[]);
    let (reason, message) = both.settle(Some(&proven()));
    assert_eq!(reason, "VariablesTaken");
    assert!(message.contains("both name ConfigMap env for the variables POSTGRESQL_…"), "{message}");
    // With two prefixes one ConfigMap serves both, and is written whole.
    let mut both = Applications::new(of("MAIN"));
    both.facts.config_maps = BTreeMap::from([((None, "env".to_owned()), Some(BTreeMap::new()))]);
    both.facts.taken = taken(&both.resource, &[]);
    assert_eq!(both.settle(Some(&proven())).0, "Current");
    let told = both.of((None, "env"));
    assert_eq!((told.len(), told["MAIN_SLAVE_ADDRESSES_INT"], told["POSTGRESQL_ADDRESS"]), (8, OWN, OWN));
    assert_eq!(told["MAIN_ADDRESS"], "orders-db.shop.svc");
}

#[test]
fn an_address_that_nobody_knows_is_not_made_up() {
    let mut both = Applications::new(reports());
    both.facts.service = None;
    both.settle(Some(&proven()));
    assert_eq!(both.shop()["POSTGRESQL_ADDRESS"], "by-hand");
    assert_eq!(both.shop()["POSTGRESQL_SLAVE_ADDRESSES_INT"], OWN);
    assert_eq!(environment::primary_address(&both.subject(), &both.facts), "orders-db-0.orders-db.shop.svc");
}

#[test]
fn admission_refuses_a_login_for_exactly_the_engines_that_have_no_variables_for_it() {
    let definition = serde_json::to_string(&crate::api::definition()).unwrap();
    let all = [EngineKind::PostgreSQL, EngineKind::MySQL, EngineKind::Redis, EngineKind::MongoDB];
    let mut told: Vec<_> = all.into_iter().filter(|kind| with_engine!(*kind, E => E::LOGIN_VARIABLES)).map(|kind| format!("'{kind:?}'")).collect();
    told.sort();
    assert!(definition.contains(&format!("self.engine in [{}] || !has(self.source.application)", told.join(", "))));
}

#[test]
fn of_a_secret_only_what_is_ours_is_looked_at() {
    let entry = |manager: &str, key: &str| json!({"manager": manager, "operation": "Apply", "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {key: {}}}});
    let secret = serde_json::from_value(json!({
        "metadata": {"name": "reports-login", "managedFields": [entry("understudy/orders", "f:EARLIER_PASSWORD"), entry("understudy/other", "f:THEIR_PASSWORD")]},
        "data": {"EARLIER_PASSWORD": "YQ==", "THEIR_PASSWORD": "Yg==", "POSTGRESQL_PASSWORD": "Yw==", "token": "ZA=="}
    }));
    let found = passwords_of(&secret.unwrap(), "understudy/orders", &Applications::new(reports()).subject().places);
    let found: Vec<_> = found.iter().map(|(key, value)| (key.as_str(), value.secret())).collect();
    assert_eq!(found, [("EARLIER_PASSWORD", "a"), ("POSTGRESQL_PASSWORD", "c")]);
}
