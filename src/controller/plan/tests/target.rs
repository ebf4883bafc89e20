//! A target is looked at, and what would be done is said; nothing is done.

use serde_json::json;
use std::time::Duration;

use super::world::{GIB, World, source_stateful_set};
use crate::api::{DatabaseReplicationSpec, Phase};
use crate::controller::consent;
use crate::controller::facts::{Administrator, Facts, JobState, Server, SourceWorkload, TargetFacts};
use crate::controller::plan::{Plan, conditions, plan};
use crate::engine::Finding;
use crate::engine::postgresql::{PostgreSql, SourceFacts, Step as SourceStep};
use crate::resources::inspect;

/// A world whose resource names a target, in the namespace of the resource; the source is in another one.
fn world(edit: impl FnOnce(&mut DatabaseReplicationSpec)) -> World {
    let mut world = World::new(1);
    world.edit(|spec| {
        spec.replicas = None;
        spec.dry_run = true;
        spec.source.stateful_set_ref.namespace = Some("sales".into());
        let target = json!({"statefulSetRef": {"name": "reports-db"}, "credentials": {"secretRef": {"name": "reports-db"}}});
        spec.target = Some(serde_json::from_value(target).unwrap());
        edit(spec);
    });
    world
}

/// What was observed where nothing is in the way.
fn facts(world: &World) -> Facts<PostgreSql> {
    let pod = serde_json::from_value(json!({"metadata": {"name": "reports-db-0"}})).unwrap();
    let server = SourceFacts { system: "another".into(), ..world.source.clone() };
    let target = TargetFacts {
        workload: Some(SourceWorkload { stateful_set: source_stateful_set(), pod: Some(pod) }),
        administrator: Ok(Administrator { username: "postgres".into(), password: "secret".into(), username_key: None }),
        shape: Some(inspect(&source_stateful_set(), None, 5432, &server.data_directory)),
        server: Server::Up(server),
        volume_bytes: Some(20 * GIB),
        data: Ok((GIB, vec![])),
        logins: vec![],
        rival: None,
        service: Some("reports-db".into()),
        promoted: vec![],
    };
    Facts { target: Some(Box::new(target)), ..world.facts() }
}

fn planned(world: &World, facts: &Facts<PostgreSql>) -> Plan<SourceStep> {
    let plan = plan::<PostgreSql>(&world.subject(), facts, "understudy:dev");
    assert!(plan.steps.is_empty(), "nothing is done: {:?}", plan.steps);
    assert_eq!(plan.status.enablement, None);
    assert!(plan.again >= Duration::from_secs(5), "not hot");
    plan
}

/// Reason and message of `Ready`.
fn said(world: &World, facts: &Facts<PostgreSql>) -> (String, String) {
    let ready = planned(world, facts).status.conditions.into_iter().find(|condition| condition.type_ == conditions::READY).unwrap();
    (ready.reason, ready.message)
}

#[test]
fn a_rehearsal_says_what_would_be_done_with_the_target() {
    let world = world(|_| {});
    let plan = planned(&world, &facts(&world));
    assert_eq!(plan.status.phase, Some(Phase::DryRun));
    let told = plan.status.would_do.join("\n");
    for part in
        ["source: create the role", "take a full backup", "beside the data of StatefulSet reports-db", "restart pod reports-db-0 once", "POSTGRESQL_USERNAME"]
    {
        assert!(told.contains(part), "{part:?} is missing in:\n{told}");
    }
    assert!(!told.contains("orders-replica"), "no replica is made besides:\n{told}");
    assert!(plan.status.disruption.unwrap().expected.contains("the target restarts once"));
}

#[test]
fn a_source_is_not_its_own_target_however_it_is_named() {
    for namespace in [None, Some("shop".to_owned())] {
        let world = world(|spec| {
            spec.source.stateful_set_ref.namespace = namespace;
            spec.target.as_mut().unwrap().stateful_set_ref.name = "orders-db".into();
        });
        assert_eq!(said(&world, &facts(&world)).0, "TargetIsSource");
    }
}

#[test]
fn without_the_owners_consent_nothing_else_is_said() {
    let world = world(|_| {});
    let mut facts = facts(&world);
    facts.source = None;
    facts.administrator = Err(consent::refusal("orders-db", "sales", "shop"));
    facts.server = Server::NotAsked;
    facts.shape = None;
    let (reason, message) = said(&world, &facts);
    assert_eq!(reason, "NamespaceNotAllowed");
    assert!(!message.contains("SourceNotFound") && message.contains("allowed-namespaces=shop"), "{message}");
}

#[test]
fn whatever_is_in_the_way_of_a_target_is_said_with_the_numbers() {
    type Change = fn(&mut TargetFacts<PostgreSql>);
    let cases: [(&str, &[&str], Change); 14] = [
        ("TargetNotFound", &["StatefulSet reports-db in namespace shop", "target.statefulSetRef"], |t| {
            (t.workload, t.server, t.shape) = (None, Server::NotAsked, None);
        }),
        ("TargetScaledToZero", &["--replicas=1 -n shop"], |t| t.workload.as_mut().unwrap().stateful_set.spec.as_mut().unwrap().replicas = Some(0)),
        ("TargetHasSeveralPods", &["replicas: 3"], |t| t.workload.as_mut().unwrap().stateful_set.spec.as_mut().unwrap().replicas = Some(3)),
        ("TargetPodMissing", &["reports-db-0"], |t| (t.workload.as_mut().unwrap().pod, t.server, t.shape) = (None, Server::NotAsked, None)),
        ("TargetUnreachable", &["the target does not answer: refused"], |t| (t.server, t.shape) = (Server::Unreachable("refused".into()), None)),
        ("TargetEngineMismatch", &["the target is of another engine", "it is a Redis", "target.port"], |t| {
            (t.server, t.shape) = (Server::OtherEngine("it is a Redis".into()), None);
        }),
        ("CredentialsRefused", &["the target refused", "target.credentials"], |t| (t.server, t.shape) = (Server::Refused("no".into()), None)),
        ("SecretNotFound", &["x"], |t| (t.administrator, t.server, t.shape) = (Err(Finding::new("SecretNotFound", "x", "y")), Server::NotAsked, None)),
        ("TargetTaken", &["DatabaseReplication older"], |t| t.rival = Some("older".into())),
        ("TargetHoldsData", &["1.0 GiB", "database shop", "BackUpAndReplace"], |t| t.data = Ok((GIB, vec!["database shop".into()]))),
        ("DataOutsideDirectory", &["other volumes are mounted", "pgdata/pg_wal"], |t| {
            let shape = t.shape.as_mut().unwrap().as_mut().unwrap();
            let directory = shape.data_directory.clone();
            for (name, path) in [("wal", "pg_wal"), ("config", "postgresql.conf")] {
                let mount = json!({"name": name, "mountPath": format!("{directory}/{path}")});
                shape.container.volume_mounts.as_mut().unwrap().push(serde_json::from_value(mount).unwrap());
            }
            let volumes = json!([{"name": "config", "configMap": {"name": "config"}}]);
            shape.template.spec.as_mut().unwrap().volumes = serde_json::from_value(volumes).unwrap();
        }),
        ("TargetDataUnknown", &["denied"], |t| t.data = Err("denied".into())),
        ("TargetVolumeUnknown", &["PersistentVolumeClaim"], |t| t.volume_bytes = None),
        ("TargetVolumeTooSmall", &["2.0 GiB are needed", "1.0 GiB beside its own", "3Gi or more"], |t| t.volume_bytes = Some(2 * GIB)),
    ];
    for (reason, parts, change) in cases {
        let world = world(|_| {});
        let mut facts = facts(&world);
        change(facts.target.as_mut().unwrap());
        let (found, message) = said(&world, &facts);
        assert_eq!(found, reason, "{message}");
        for part in parts {
            assert!(message.contains(part), "{reason}: {part:?} is missing in: {message}");
        }
    }
}

#[test]
fn data_of_the_targets_own_is_replaced_only_where_its_owner_says_so() {
    let world = world(|spec| spec.target.as_mut().unwrap().existing_data = crate::api::ExistingData::BackUpAndReplace);
    let mut facts = facts(&world);
    facts.target.as_mut().unwrap().data = Ok((GIB, vec!["database shop".into()]));
    let told = planned(&world, &facts).status.would_do;
    let at = |part: &str| told.iter().position(|line| line.contains(part)).unwrap_or_else(|| panic!("{part:?} is missing in {told:?}"));
    assert!(at("back up what StatefulSet reports-db holds") < at("restart pod reports-db-0"));
}

#[test]
fn whose_logins_end_is_said_before_it_begins() {
    let mut world = world(|_| {});
    world.edit(|spec| spec.dry_run = true);
    let mut found = facts(&world);
    found.target.as_mut().unwrap().logins = vec!["Deployment web (Secret reports-db)".into(), "readinessProbe of container db (user reports)".into()];
    let said = |plan: &Plan<SourceStep>| {
        let preflight = plan.status.conditions.iter().find(|condition| condition.type_ == conditions::PREFLIGHT).unwrap();
        (preflight.status.clone(), preflight.message.clone())
    };
    let (status, message) = said(&planned(&world, &found));
    assert!(
        status == "True" && message.contains("log in: Deployment web (Secret reports-db); readinessProbe of container db (user reports). Give them"),
        "{message}"
    );

    world.edit(|spec| spec.dry_run = false);
    found.own.jobs.insert(world.subject().names.measure_job(), Some(JobState::Complete(Some(json!({"freeBytes": 20 * GIB, "writable": true}).to_string()))));
    let next = |world: &World, found: &Facts<PostgreSql>| plan::<PostgreSql>(&world.subject(), found, "understudy:dev");
    let plan = next(&world, &found);
    assert_eq!(said(&plan), ("True".into(), message.clone()));
    let told: Vec<String> = plan.steps.iter().map(ToString::to_string).filter(|step| step.contains("LoginsReplaced")).collect();
    assert_eq!(told.len(), 1);
    // They are looked for no more, and what was found stays on show, until the target has the source's users.
    world.write_status(&plan);
    found.target.as_mut().unwrap().logins.clear();
    let plan = next(&world, &found);
    assert_eq!(said(&plan), ("True".into(), message));
    assert!(!plan.steps.iter().any(|step| step.to_string().contains("LoginsReplaced")));
    world.resource.status.as_mut().unwrap().target.as_mut().unwrap().joined = true;
    let plan = next(&world, &found);
    assert!(!said(&plan).1.contains("Deployment web"));
}
