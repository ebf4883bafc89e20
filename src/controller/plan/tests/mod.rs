//! The plan against a model of the world.

mod environment;
mod give_back;
mod lost;
mod progress;
mod restart;
mod takeover;
mod target;
mod upkeep;
mod world;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

use super::{again, conditions, plan};
use crate::api::Phase;
use crate::controller::facts::{JobState, Own, Server};
use crate::engine::postgresql::{PostgreSql, SourceFacts};
use crate::engine::{Engine, Finding, Position, ReplicaSummary};
use world::{GIB, World, source_stateful_set, streaming, taken_by, world_with_replica};

#[test]
fn a_source_gets_its_replica_and_loses_it_again() {
    let start = World::new(1);
    let mut world = start.clone();
    world.settle(&[]);
    world.assert_replicating(1);
    world.edit(|spec| spec.enabled = false);
    world.settle(&[]);
    assert_eq!(world.phase(), Phase::Standalone);
    world.assert_as_before(&start);
    assert_eq!(world.kept.len(), 2, "the default keeps volumes");
    assert_eq!(world.config_maps["shop-env"]["POSTGRESQL_SLAVE_ADDRESSES_INT"], "", "a key that a pod names stays");
}

#[test]
fn an_idle_world_is_not_written_to() {
    let mut world = World::new(2);
    world.settle(&[]);
    let status = world.resource.status.clone();
    for _ in 0..5 {
        world.source.position = Position::Bytes(1_000_000);
        world.now += Duration::from_secs(30);
        let plan = world.plan();
        assert!(plan.steps.is_empty(), "{:?}", plan.steps);
        world.write_status(&plan);
        assert_eq!(world.resource.status, status);
    }
}

#[test]
fn replicas_come_and_go_one_by_one_and_share_one_backup() {
    let mut world = World::new(1);
    world.settle(&[]);
    world.edit(|spec| spec.replicas = Some(2));
    let told = world.settle(&[]);
    world.assert_replicating(2);
    assert_eq!(world.backups, 1, "{told:?}");
    world.edit(|spec| spec.replicas = Some(1));
    let told = world.settle(&[]);
    world.assert_replicating(1);
    let published = told.iter().position(|step| step.starts_with("write")).unwrap();
    let removed = told.iter().position(|step| step == "delete StatefulSet orders-replica-2").unwrap();
    assert!(published < removed, "nobody is sent to a replica that goes away: {told:?}");
}

#[test]
fn a_backup_whose_log_is_gone_is_not_used_for_another_replica() {
    let mut world = World::new(1);
    world.settle(&[]);
    world.source.oldest_wal = Position::Bytes(2000);
    world.source.position = Position::Bytes(3000);
    world.edit(|spec| spec.replicas = Some(2));
    for _ in 0..3 {
        world.step_without_time();
    }
    assert!(world.own.jobs.keys().any(|job| job.ends_with("-2") && job.contains("backup")), "{:?}", world.own.jobs.keys());
}

#[test]
fn a_backup_whose_position_was_not_reported_counts_as_taken_when_its_job_was_made() {
    let mut world = World::new(1);
    world.report = json!({"bytes": 1000, "checksum": "abc", "completedAt": "2026-11-24T00:00:00Z"});
    world.settle(&[]);
    world.assert_replicating(1);
    assert_eq!(world.status().backup.as_ref().unwrap().position.as_deref(), Some("0/3E8"));
    // Another replica can still continue from there.
    world.source.position = Position::Bytes(3000);
    world.source.oldest_wal = Position::Bytes(1000);
    world.edit(|spec| spec.replicas = Some(2));
    world.settle(&[]);
    assert_eq!(world.backups, 1);
    // And then no longer: one new backup, which is used.
    let before = world.source.position.clone();
    world.source.oldest_wal = Position::Bytes(2000);
    world.edit(|spec| spec.replicas = Some(3));
    let told = world.settle(&[]);
    world.assert_replicating(3);
    assert_eq!(world.backups, 2, "{told:?}");
    assert_eq!(world.status().backup.as_ref().unwrap().position, Some(PostgreSql::format_position(&before)));
}

#[test]
fn the_position_of_a_backup_under_way_does_not_move_and_a_new_attempt_begins_anew() {
    let mut world = World::new(1);
    world.step_without_time();
    let position = |world: &World| world.status().backup.as_ref().unwrap().position.clone();
    let begun = position(&world);
    assert!(begun.is_some());
    let job = world.subject().names.backup_job(1);
    // Made, and not yet seen.
    world.own.jobs.clear();
    world.source.position = Position::Bytes(3000);
    world.step_without_time();
    assert_eq!(position(&world), begun, "it may have begun then");
    world.own.jobs.insert(job, Some(JobState::Failed("full".into(), None)));
    for _ in 0..2 {
        world.step_without_time();
    }
    assert_ne!(position(&world), begun);
}

#[test]
fn how_a_backup_was_taken_is_said_if_it_is_not_the_usual_way() {
    let mut world = World::new(1);
    world.report["note"] = "copied with mysqldump: no plugin".into();
    world.settle(&[]);
    assert_eq!(world.status().backup.as_ref().unwrap().note.as_deref(), Some("copied with mysqldump: no plugin"));
    assert!(world.condition(conditions::BACKUP_TAKEN).2.contains("; copied with mysqldump: no plugin; at 0/3E8"));
}

#[test]
fn a_replica_that_the_source_no_longer_holds_the_log_for_is_seeded_anew() {
    let mut world = World::new(1);
    world.settle(&[]);
    world.source.slots.iter_mut().for_each(|slot| slot.wal_status = "lost".into());
    let told = world.settle(&[]);
    world.assert_replicating(1);
    assert!(told.iter().any(|step| step == "tell ReplicaLost"), "{told:?}");
    assert!(world.source.slots.iter().all(|slot| slot.wal_status == "reserved"));
}

#[test]
fn a_lost_replica_is_seeded_anew_wherever_the_controller_is_killed() {
    for kill in 1..14 {
        let mut world = World::new(1);
        world.settle(&[]);
        world.source.slots.iter_mut().for_each(|slot| slot.wal_status = "lost".into());
        world.settle(&[kill]);
        world.assert_replicating(1);
    }
}

#[test]
fn a_dry_run_changes_nothing_and_says_everything() {
    let mut world = World::new(2);
    world.resource.spec.dry_run = true;
    let plan = world.plan();
    assert!(plan.steps.is_empty());
    world.write_status(&plan);
    assert_eq!(world.phase(), Phase::DryRun);
    let status = world.resource.status.clone().unwrap();
    assert_eq!(status.enablement, None);
    assert!(status.would_do.iter().any(|line| line.contains("pg_hba.conf")), "{:?}", status.would_do);
    assert!(status.disruption.unwrap().expected.starts_with("none"));
}

#[test]
fn suspended_means_hands_off() {
    let mut world = World::new(1);
    world.settle(&[]);
    world.edit(|spec| {
        spec.suspend = true;
        spec.replicas = Some(3);
    });
    assert!(world.plan().steps.is_empty());
}

#[test]
fn bad_input_is_said_all_at_once_and_touches_nothing() {
    let mut world = World::new(1);
    world.data_bytes = Ok(30 * GIB);
    world.source.wal_level = "minimal".into();
    world.config_maps.clear();
    let plan = world.plan();
    assert!(plan.steps.is_empty());
    world.write_status(&plan);
    let (status, reason, message) = world.condition(conditions::READY);
    assert_eq!((status.as_str(), reason.as_str()), ("False", "SeveralFindings"));
    for part in ["WalLevelMinimal", "BackupVolumeTooSmall", "20.0 GiB", "60.0 GiB", "ReplicaVolumeTooSmall", "ConfigMapNotFound"] {
        assert!(message.contains(part), "{part} in {message}");
    }
    assert_eq!(world.condition(conditions::STALLED).0, "True");
}

#[test]
fn what_a_user_may_not_measure_is_no_finding_of_its_own() {
    let mut world = World::new(1);
    world.data_bytes = Err("permission denied".into());
    let reason = |world: &mut World| {
        let plan = world.plan();
        world.write_status(&plan);
        world.condition(conditions::READY).1
    };
    assert_eq!(reason(&mut world), "DataSizeUnknown");
    world.source.superuser = false;
    assert_eq!(reason(&mut world), "NotSuperuser");
}

#[test]
fn what_is_missing_blocks_and_goes_on_by_itself_once_mended() {
    type Change = fn(&mut World);
    let cases: Vec<(&str, Change, Change)> = vec![
        ("SourceNotFound", |w| w.stateful_set = None, |w| w.stateful_set = Some(source_stateful_set())),
        (
            "SourceScaledToZero",
            |w| w.stateful_set.as_mut().unwrap().spec.as_mut().unwrap().replicas = Some(0),
            |w| w.stateful_set = Some(source_stateful_set()),
        ),
        (
            "SourceHasSeveralPods",
            |w| w.stateful_set.as_mut().unwrap().spec.as_mut().unwrap().replicas = Some(2),
            |w| w.stateful_set = Some(source_stateful_set()),
        ),
        ("SourceUnreachable", |w| w.reachable = false, |w| w.reachable = true),
        ("NotSuperuser", |w| w.source.superuser = false, |w| w.source.superuser = true),
        ("WalLevelMinimal", |w| w.source.wal_level = "minimal".into(), |w| w.source.wal_level = "replica".into()),
        ("HbaNotWritable", |w| w.source.hba_writable = false, |w| w.source.hba_writable = true),
        ("ConfigMapNotFound", |w| w.config_maps.clear(), |w| drop(w.config_maps.insert("shop-env".into(), BTreeMap::new()))),
    ];
    for (reason, break_it, mend) in cases {
        let mut world = World::new(1);
        break_it(&mut world);
        let plan = world.plan();
        assert!(plan.steps.is_empty(), "{reason}: {:?}", plan.steps);
        world.write_status(&plan);
        assert_eq!(world.condition(conditions::READY).1, reason);
        assert_eq!(world.condition(conditions::PREFLIGHT).0, "False", "{reason}");
        assert_eq!(world.resource.status.as_ref().unwrap().enablement, None, "{reason}");
        mend(&mut world);
        world.settle(&[]);
        world.assert_replicating(1);
    }
}

#[test]
fn a_rival_and_a_missing_secret_block() {
    let world = World::new(1);
    let mut facts = world.facts();
    facts.rival = Some("older".into());
    facts.taken = vec![taken_by("older")];
    facts.administrator = Err(Finding::new("SecretNotFound", "x", "y"));
    facts.server = Server::NotAsked;
    facts.shape = None;
    let plan = plan::<PostgreSql>(&world.subject(), &facts, "i");
    assert!(plan.steps.is_empty());
    let ready = plan.status.conditions.iter().find(|c| c.type_ == conditions::READY).unwrap();
    assert!(ready.message.contains("SourceTaken") && ready.message.contains("SecretNotFound"), "{}", ready.message);
    assert!(!ready.message.contains("VariablesTaken"), "one cause is said once: {}", ready.message);
}

#[test]
fn a_failed_job_is_said_and_tried_again() {
    let mut world = World::new(1);
    let plan = world.plan();
    world.write_status(&plan);
    plan.steps.iter().for_each(|step| world.execute(step));
    let job = world.own.jobs.keys().next().unwrap().clone();
    world.own.jobs.insert(job, Some(JobState::Failed("no space left on device".into(), Some(world.now))));
    let plan = world.plan();
    world.write_status(&plan);
    assert!(plan.steps.iter().all(|step| step.to_string().starts_with("delete Job orders-restore")), "not hot: {:?}", plan.steps);
    assert_eq!(world.condition(conditions::BACKUP_TAKEN).1, "BackupFailed");
    assert!(world.condition(conditions::READY).2.contains("no space left"));
    world.settle(&[]);
    world.assert_replicating(1);
}

#[test]
fn an_unreachable_source_degrades_and_nothing_is_torn_down() {
    let mut world = World::new(1);
    world.settle(&[]);
    world.reachable = false;
    let plan = world.plan();
    assert!(plan.steps.is_empty());
    world.write_status(&plan);
    assert_eq!(world.phase(), Phase::Degraded);
    assert_eq!(world.condition(conditions::READY).1, "SourceUnreachable");
    world.reachable = true;
    world.settle(&[]);
    world.assert_replicating(1);
}

#[test]
fn deleting_with_the_source_gone_or_dead_ends_and_says_what_is_left() {
    for gone in [true, false] {
        let mut world = World::new(1);
        world.settle(&[]);
        world.reachable = false;
        if gone {
            world.stateful_set = None;
        }
        world.resource.metadata.deletion_timestamp = Some(Time(world.now));
        let told = world.settle(&[]);
        assert!(!world.exists);
        assert_eq!(world.own, Own::default());
        assert!(told.contains(&format!("tell {}", if gone { "SourceGone" } else { "SourceNotCleaned" })), "{told:?}");
    }
}

#[test]
fn disabling_waits_for_a_dead_source_and_undoes_when_it_is_back() {
    let start = World::new(1);
    let mut world = start.clone();
    world.settle(&[]);
    world.reachable = false;
    world.edit(|spec| spec.enabled = false);
    world.settle(&[]);
    assert_eq!(world.phase(), Phase::Disabling);
    assert!(world.own.stateful_sets.is_empty());
    assert_eq!(world.condition(conditions::READY).1, "SourceUnreachable");
    world.reachable = true;
    world.settle(&[]);
    assert_eq!(world.phase(), Phase::Standalone);
    world.assert_as_before(&start);
}

#[test]
fn a_resource_that_never_got_anywhere_is_deleted_at_once() {
    let mut world = World::new(1);
    world.stateful_set = None;
    let plan = world.plan();
    world.write_status(&plan);
    assert!(world.resource.metadata.finalizers.is_none());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn killed_at_any_point_it_converges_to_the_same_end(kills in proptest::collection::vec(1usize..60, 0..6), replicas in 1u32..4, disable_after in 1usize..8) {
        let start = World::new(replicas);
        let mut world = start.clone();
        world.settle(&kills);
        world.assert_replicating(replicas);
        prop_assert_eq!(world.backups, 1);
        world.edit(|spec| spec.enabled = false);
        world.settle(&kills);
        world.assert_as_before(&start);

        // Disabled in the middle of enabling.
        let mut world = start.clone();
        for _ in 0..disable_after {
            world.step();
        }
        world.edit(|spec| spec.enabled = false);
        world.settle(&kills);
        world.assert_as_before(&start);
    }
}

#[test]
fn a_volume_that_was_kept_is_never_taken_back() {
    let mut world = World::new(2);
    world.settle(&[]);
    for replicas in [1, 2, 1, 2] {
        world.edit(|spec| spec.replicas = Some(replicas));
        world.settle(&[]);
        world.assert_replicating(replicas);
    }
    assert_eq!(world.kept.len(), 2);
}

#[test]
fn a_dry_run_of_what_is_enabled_says_the_next_steps_and_leaves_everything() {
    let mut world = World::new(1);
    world.settle(&[]);
    world.edit(|spec| {
        spec.dry_run = true;
        spec.replicas = Some(2);
    });
    let plan = world.plan();
    assert!(plan.steps.is_empty());
    assert!(plan.status.would_do.iter().any(|step| step.contains("_2")), "{:?}", plan.status.would_do);
    world.write_status(&plan);
    world.edit(|spec| spec.dry_run = false);
    world.settle(&[]);
    world.assert_replicating(2);
}

#[test]
fn a_new_major_version_of_the_source_is_said_and_nothing_is_made_of_it() {
    let mut world = World::new(1);
    world.settle(&[]);
    world.source.version = "18.1".into();
    world.source.version_num = 180_001;
    world.source.slots[0].wal_status = "unreserved".into();
    world.stateful_set.as_mut().unwrap().spec.as_mut().unwrap().template.spec.as_mut().unwrap().containers[0].image = Some("postgres:18".into());
    for _ in 0..3 {
        let plan = world.plan();
        world.write_status(&plan);
        assert!(plan.steps.is_empty(), "{:?}", plan.steps);
    }
    assert_eq!(world.condition(conditions::READY).1, "MajorVersionChanged");
}

#[test]
fn a_replica_that_has_not_shown_what_was_written_after_its_restore_is_not_ready() {
    let world = world_with_replica(streaming());
    assert_eq!((world.condition(conditions::READY).0.as_str(), world.condition(conditions::READY).1.as_str()), ("False", "CatchingUp"));
    assert_eq!(world.config_maps["shop-env"]["POSTGRESQL_SLAVE_ADDRESSES_INT"], "", "no client is sent to it yet");
}

#[test]
fn a_mark_that_the_source_no_longer_reaches_is_written_again() {
    let mut world = world_with_replica(streaming());
    let writes_mark = |world: &World| world.plan().steps.iter().any(|step| step.to_string().contains("write a mark"));
    assert!(world.marks.contains_key(&1) && !writes_mark(&world), "one is enough");
    world.marks.insert(1, Position::Offset { history: "before its restart".into(), bytes: 1 });
    assert!(writes_mark(&world));
}

#[test]
fn a_replica_in_another_history_than_the_source_is_not_ready() {
    let elsewhere = Position::Offset { history: "elsewhere".into(), bytes: 1 };
    let world = world_with_replica(ReplicaSummary { applied: elsewhere.clone(), received: elsewhere, ..streaming() });
    assert_eq!(world.condition(conditions::READY).1, "ReplicaNotReplicating");
}

#[test]
fn a_replica_that_takes_writes_or_does_not_stream_is_not_ready() {
    let writable = world_with_replica(ReplicaSummary { read_only: false, applied: Position::Bytes(1 << 40), ..streaming() });
    assert_eq!(writable.condition(conditions::READY).1, "ReplicaWritable");
    let cut_off = world_with_replica(ReplicaSummary { streaming: false, applied: Position::Bytes(1000), ..streaming() });
    assert_eq!(cut_off.condition(conditions::READY).1, "ReplicaNotReplicating");
    let paused = world_with_replica(ReplicaSummary { trouble: Some("recovery has paused".into()), ..streaming() });
    assert!(paused.condition(conditions::READY).2.contains("recovery has paused"));
}

#[test]
fn what_nobody_mends_is_looked_at_less_and_less_often() {
    let mut world = World::new(1);
    world.stateful_set = None;
    let mut before = Duration::ZERO;
    for seconds in [0, 30, 300, 3600] {
        world.now += Duration::from_secs(seconds);
        let plan = world.plan();
        world.write_status(&plan);
        assert!(plan.again >= before && plan.again >= again::BLOCKED && plan.again <= Duration::from_mins(1), "{:?}", plan.again);
        before = plan.again;
    }
    assert_eq!(before, Duration::from_mins(1));
}

#[test]
fn what_was_written_to_a_promoted_replica_is_never_thrown_away() {
    let mut world = World::new(1);
    world.settle(&[]);
    let claims = world.own.claims.clone();
    world.replica = Some(ReplicaSummary { read_only: false, streaming: false, ..streaming() });
    world.source.slots.iter_mut().for_each(|slot| slot.wal_status = "lost".into());
    for _ in 0..4 {
        world.step();
    }
    assert_eq!(world.own.claims, claims);
    assert_eq!(world.condition(conditions::READY).1, "ReplicaWritable");
    assert_eq!(world.config_maps["shop-env"]["POSTGRESQL_SLAVE_ADDRESSES_INT"], "", "nobody is sent to it");
}

#[test]
fn copies_of_a_database_that_was_replaced_are_left_alone() {
    let mut world = World::new(1);
    world.source.system = "7000000000000000001".into();
    world.settle(&[]);
    let before = world.own.clone();
    world.source = SourceFacts {
        system: "7000000000000000002".into(),
        role_exists: false,
        hba_line_present: false,
        slots: vec![],
        oldest_wal: Position::Bytes(1 << 40),
        ..world.source
    };
    let plan = world.plan();
    world.write_status(&plan);
    assert!(plan.steps.is_empty(), "{:?}", plan.steps);
    assert_eq!(world.condition(conditions::READY).1, "SourceReplaced");
    assert_eq!(world.own, before);
}

#[test]
fn what_has_begun_to_be_undone_is_undone_before_it_is_begun_anew() {
    let mut world = World::new(1);
    world.settle(&[]);
    let first = world.subject().names.identity;
    world.edit(|spec| spec.enabled = false);
    for _ in 0..3 {
        world.step();
    }
    world.edit(|spec| spec.enabled = true);
    world.settle(&[]);
    world.assert_replicating(1);
    assert_ne!(world.subject().names.identity, first, "another enabling");
}
