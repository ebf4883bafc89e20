//! What people do to a replication that runs, and what becomes of it.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::super::{conditions, plan};
use super::world::{GIB, World, streaming, taken_by, world_with_replica};
use crate::api::Phase;
use crate::controller::facts::{JobState, Own};
use crate::engine::postgresql::PostgreSql;
use crate::engine::{Position, ReplicaSummary};

#[test]
fn suspended_means_hands_off_whatever_else_is_asked_for_but_deletion() {
    let mut world = World::new(1);
    world.settle(&[]);
    world.edit(|spec| {
        spec.suspend = true;
        spec.enabled = false;
    });
    for _ in 0..2 {
        let plan = world.plan();
        assert!(plan.steps.is_empty(), "{:?}", plan.steps);
        world.write_status(&plan);
    }
    assert_eq!(world.phase(), Phase::Suspended);
    world.resource.metadata.deletion_timestamp = Some(Time(world.now));
    world.settle(&[]);
    assert!(!world.exists, "who deletes the resource wants it gone");
}

#[test]
fn an_undoing_that_was_suspended_is_brought_to_its_end_afterwards() {
    let start = World::new(1);
    let mut world = start.clone();
    world.settle(&[]);
    world.edit(|spec| spec.enabled = false);
    for _ in 0..2 {
        world.step();
    }
    world.edit(|spec| spec.suspend = true);
    assert!(world.plan().steps.is_empty());
    world.step();
    world.edit(|spec| {
        spec.suspend = false;
        spec.enabled = true;
    });
    let told = world.settle(&[]);
    assert!(told.iter().any(|step| step.contains("drop the role")), "{told:?}");
    world.assert_replicating(1);
}

#[test]
fn a_pod_whose_node_is_dead_does_not_keep_teardown_waiting() {
    let pod = |overdue: i64| {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let due = Timestamp::from_second(1_800_000_000 - overdue).unwrap();
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "orders-replica-1-0", "labels": {"understudy.dev/replica": "1", "understudy.dev/component": "replica"}, "deletionTimestamp": due.to_string()},
            "status": {"phase": "Running"}
        }))
        .unwrap();
        Own::new(&[], &[], &[], &[], &[Arc::new(pod)], now).pods[0].ended
    };
    assert!(!pod(-30), "it still has its grace period");
    assert!(!pod(59), "its node may be slow");
    assert!(pod(61));
}

#[test]
fn a_user_that_lost_its_password_gets_it_again_from_the_backups_job_and_no_second_backup() {
    let mut world = World::new(1);
    world.settle(&[]);
    world.source.role_exists = false;
    world.source.role_has_password = false;
    let told = world.settle(&[]);
    assert!(world.source.role_exists && world.source.role_has_password);
    let job = |verb: &str| told.iter().filter(|step| step.starts_with(verb) && step.contains("Job orders-backup")).count();
    assert_eq!((job("delete"), job("apply")), (1, 1), "{told:?}");
    assert_eq!(world.resource.status.as_ref().unwrap().backup.as_ref().unwrap().sequence, 1);
    world.assert_replicating(1);
}

#[test]
fn what_exists_follows_the_source_while_a_backup_is_taken_for_another_replica() {
    let mut world = World::new(1);
    world.settle(&[]);
    world.source.oldest_wal = Position::Bytes(2000);
    world.source.position = Position::Bytes(3000);
    world.edit(|spec| spec.replicas = Some(2));
    world.step_without_time();
    world.step_without_time();
    assert_eq!(world.phase(), Phase::BackingUp);
    world.stateful_set.as_mut().unwrap().spec.as_mut().unwrap().template.spec.as_mut().unwrap().containers[0].image = Some("postgres:17.1".into());
    let plan = world.plan();
    assert!(plan.steps.iter().any(|step| step.to_string() == "apply StatefulSet orders-replica-1"), "{:?}", plan.steps);
}

#[test]
fn volumes_grow_with_what_is_asked_for_and_never_shrink() {
    let mut world = World::new(1);
    world.settle(&[]);
    world.edit(|spec| spec.backup.volume.size = Quantity("30Gi".into()));
    world.settle(&[]);
    assert_eq!(world.grown, [world.subject().names.backup_claim()]);
    world.edit(|spec| spec.backup.volume.size = Quantity("10Gi".into()));
    world.settle(&[]);
    assert_eq!(world.grown.len(), 1);
    world.edit(|spec| spec.backup.volume.size = Quantity("40Gi".into()));
    let mut facts = world.facts();
    facts.not_grown = BTreeMap::from([(world.subject().names.backup_claim(), 40 * GIB)]);
    let plan = plan::<PostgreSql>(&world.subject(), &facts, "understudy:dev");
    assert!(plan.steps.is_empty(), "what the cluster refused is not asked for again: {:?}", plan.steps);
}

#[test]
fn a_job_that_fails_again_and_again_waits_longer_and_not_once_the_resource_was_changed() {
    let mut world = World::new(1);
    let mut pauses = Vec::new();
    for _ in 0..7 {
        world.step_without_time();
        world.step_without_time();
        let job = world.own.jobs.keys().find(|job| job.contains("-backup-")).unwrap().clone();
        let failed = world.now;
        world.own.jobs.insert(job.clone(), Some(JobState::Failed("no space left on device".into(), Some(failed))));
        while world.own.jobs.contains_key(&job) {
            world.now += Duration::from_secs(5);
            world.step_without_time();
        }
        pauses.push(world.now.duration_since(failed).as_secs());
    }
    assert_eq!(pauses, [20, 40, 80, 160, 300, 300, 300]);
    world.step_without_time();
    let job = world.own.jobs.keys().find(|job| job.contains("-backup-")).unwrap().clone();
    world.own.jobs.insert(job.clone(), Some(JobState::Failed("no space left on device".into(), Some(world.now))));
    world.edit(|spec| spec.backup.volume.size = Quantity("60Gi".into()));
    let plan = world.plan();
    assert!(plan.steps.iter().any(|step| step.to_string() == format!("delete Job {job}")), "{:?}", plan.steps);
    world.settle(&[]);
    world.assert_replicating(1);
    assert_eq!(world.resource.status.as_ref().unwrap().backup.as_ref().unwrap().failures, 0);
}

#[test]
fn variables_that_another_resource_writes_are_a_finding_and_are_never_written() {
    let mut world = World::new(1);
    world.taken = vec![taken_by("older")];
    let plan = world.plan();
    assert!(plan.steps.is_empty());
    world.write_status(&plan);
    assert_eq!(world.condition(conditions::READY).1, "VariablesTaken");
    world.taken.clear();
    world.settle(&[]);
    world.assert_replicating(1);
    // Taken later, by one that came first: what it writes is left to it.
    world.taken = vec![taken_by("older")];
    world.config_maps.get_mut("shop-env").unwrap().insert("POSTGRESQL_SLAVE_ADDRESSES_INT".into(), "theirs".into());
    world.settle(&[]);
    assert_eq!(world.condition(conditions::READY).1, "VariablesTaken");
    world.edit(|spec| spec.enabled = false);
    world.settle(&[]);
    assert_eq!(world.config_maps["shop-env"]["POSTGRESQL_SLAVE_ADDRESSES_INT"], "theirs");
}

#[test]
fn a_backup_whose_volume_is_gone_is_not_taken_anew_while_replicas_have_its_password() {
    let mut world = World::new(1);
    world.settle(&[]);
    let claim = world.subject().names.backup_claim();
    world.own.claims.remove(&claim);
    assert!(world.plan().steps.is_empty(), "nobody needs it");
    world.edit(|spec| spec.replicas = Some(2));
    world.settle(&[]);
    assert_eq!((world.condition(conditions::READY).1.as_str(), world.backups), ("BackupGone", 1));
    assert_eq!(world.own.stateful_sets.len(), 1, "what runs goes on running");
    world.edit(|spec| spec.enabled = false);
    world.settle(&[]);
    world.edit(|spec| spec.enabled = true);
    world.settle(&[]);
    world.assert_replicating(2);
}

#[test]
fn a_replica_that_holds_what_the_source_does_not_is_not_ready() {
    let world = world_with_replica(ReplicaSummary { applied: Position::Bytes(1 << 40), received: Position::Bytes(1 << 40), ..streaming() });
    assert_eq!(world.condition(conditions::READY).1, "ReplicaDiverged");
    assert!(world.condition(conditions::READY).2.contains("holds what the source does not"));
    assert!(world.serving.is_empty());
}

#[test]
fn a_replica_that_diverged_stays_another_database_and_is_never_thrown_away() {
    let mut world = World::new(1);
    world.settle(&[]);
    let claims = world.own.claims.clone();
    world.replica = Some(ReplicaSummary { applied: Position::Bytes(1 << 30), streaming: false, ..streaming() });
    world.source.slots.iter_mut().for_each(|slot| slot.wal_status = "lost".into());
    world.source.oldest_wal = Position::Bytes(1 << 29);
    world.step();
    assert_eq!(world.condition(conditions::READY).1, "ReplicaDiverged");
    assert!(world.serving.is_empty());
    // The source reaches the same number, with other content.
    world.source.position = Position::Bytes(1 << 31);
    world.source.slots.iter_mut().for_each(|slot| slot.wal_status = "reserved".into());
    world.replica = Some(ReplicaSummary { applied: Position::Bytes(1 << 31), received: Position::Bytes(1 << 31), ..streaming() });
    for _ in 0..3 {
        world.step();
    }
    assert_eq!(world.condition(conditions::READY).1, "ReplicaDiverged");
    assert_eq!(world.own.claims, claims);
    // Its owner says so.
    let claim = claims.keys().find(|name| name.contains("-replica-")).unwrap();
    world.own.claims.get_mut(claim).unwrap().deleting = true;
    world.replica = None;
    world.settle(&[]);
    world.assert_replicating(1);
}

#[test]
fn a_promoted_replica_is_not_restarted_by_a_change_of_the_source() {
    let mut world = World::new(1);
    world.settle(&[]);
    world.replica = Some(ReplicaSummary { read_only: false, streaming: false, ..streaming() });
    world.stateful_set.as_mut().unwrap().spec.as_mut().unwrap().template.spec.as_mut().unwrap().containers[0].image = Some("postgres:17.1".into());
    let plan = world.plan();
    assert!(!plan.steps.iter().any(|step| step.to_string().contains("StatefulSet")), "{:?}", plan.steps);
}

#[test]
fn who_deletes_is_not_kept_waiting_by_a_source_that_refuses() {
    let mut world = World::new(1);
    world.settle(&[]);
    world.resource.metadata.deletion_timestamp = Some(Time(world.now));
    for _ in 0..3 {
        world.step_without_time();
        world.own.pods.clear();
    }
    let refused = |world: &World, failure: Option<&str>| {
        let mut facts = world.facts();
        facts.failure = failure.map(str::to_owned);
        plan::<PostgreSql>(&world.subject(), &facts, "understudy:dev").steps.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    world.resource.metadata.deletion_timestamp = Some(Time(world.now - Duration::from_secs(170)));
    world.source.role_exists = true;
    assert!(refused(&world, Some("refused")).iter().any(|step| step.contains("drop the role")));
    world.resource.metadata.deletion_timestamp = Some(Time(world.now - Duration::from_secs(200)));
    assert!(refused(&world, None).iter().any(|step| step.contains("drop the role")), "it has not been tried");
    assert!(!refused(&world, Some("refused")).iter().any(|step| step.contains("drop the role")));
}

#[test]
fn who_deletes_is_not_kept_waiting_by_variables_that_cannot_be_written() {
    let mut world = World::new(1);
    world.settle(&[]);
    world.resource.metadata.deletion_timestamp = Some(Time(world.now));
    let env = world.config_maps.clone();
    let mut told = Vec::new();
    for _ in 0..40 {
        told.extend(world.plan().steps.iter().map(ToString::to_string));
        world.step();
        if !world.exists {
            break;
        }
        if told.len() == 1 {
            let (_, _, message) = world.condition(conditions::READY);
            assert!(message.contains("a pipeline that applies these ConfigMaps"), "{message}");
        }
        // A pipeline puts them back each time.
        world.config_maps.clone_from(&env);
    }
    assert!(!world.exists && !world.source.role_exists, "{told:?}");
    assert_eq!(told.iter().filter(|step| step.contains("VariablesNotGivenUp")).count(), 1, "{told:?}");
}

#[test]
fn what_looks_like_our_change_on_another_database_is_its_owners() {
    let mut world = World::new(1);
    world.source.system = "7000000000000000001".into();
    world.settle(&[]);
    world.source.system = "7000000000000000002".into();
    world.source.role_exists = false;
    world.source.hba_line_present = false;
    world.source.slots.clear();
    world.edit(|spec| spec.enabled = false);
    let told = world.settle(&[]);
    assert!(!told.iter().any(|step| step.contains("max_slot_wal_keep_size")), "{told:?}");
    assert_eq!(world.phase(), Phase::Standalone);
}
