//! How far copies are, in the status: in steps, and only while one runs.

use super::world::*;
use crate::controller::facts::JobState;
use crate::controller::plan::conditions;
use crate::engine::{Progress, ReplicaSummary};

const MIB: u64 = 1 << 20;

/// A world whose backup runs.
fn backing_up() -> World {
    let mut world = World::new(1);
    for _ in 0..10 {
        world.step_without_time();
        if world.own.jobs.values().any(|job| *job == Some(JobState::Running)) {
            world.step_without_time();
            return world;
        }
    }
    panic!("no backup: {:?}", world.status());
}

/// What the status says of the backup when the source says this.
fn looked(world: &mut World, copied: u64, total: Option<u64>) -> (Option<u32>, Option<i64>, String) {
    world.source.backup_progress = Some(Progress { copied, total });
    world.step_without_time();
    let backup = world.status().backup.clone().unwrap();
    (backup.percent, backup.bytes, world.condition(conditions::BACKUP_TAKEN).2)
}

#[test]
fn a_backup_is_told_in_steps_that_do_not_tick() {
    let mut world = backing_up();
    assert_eq!(looked(&mut world, 0, None), (None, None, "the server prepares the backup (checkpoint)".into()));
    let first = looked(&mut world, 410 * MIB, Some(GIB));
    assert_eq!(first, (Some(40), Some(410 << 20), "40 % of 1.0 GiB copied".into()));
    let before = world.status().clone();
    assert_eq!(looked(&mut world, 500 * MIB, Some(GIB)), first);
    assert_eq!(*world.status(), before, "nothing is written within a step");
    assert_eq!(looked(&mut world, 300 * MIB, Some(GIB)), first, "a connection that has ended takes what it sent with it");
    world.source.backup_progress = None;
    world.step_without_time();
    assert_eq!(world.condition(conditions::BACKUP_TAKEN).2, "the backup is running", "it is being verified");
}

#[test]
fn where_the_source_does_not_know_how_much_it_will_be_it_is_what_was_measured() {
    let mut world = backing_up();
    assert_eq!(looked(&mut world, 720 * MIB, None), (Some(70), Some(720 << 20), "70 % of 1.0 GiB copied".into()));
    assert_eq!(
        looked(&mut world, GIB + MIB, None),
        (Some(100), Some((1 << 30) + (1 << 20)), "100 % of 1.0 GiB copied".into()),
        "what goes over the wire is a little more"
    );
    assert_eq!(looked(&mut world, 3 * GIB, None), (Some(100), Some((1 << 30) + (1 << 20)), "more than 1.0 GiB copied".into()));
    let before = world.status().clone();
    looked(&mut world, 4 * GIB, None);
    assert_eq!(*world.status(), before, "nor does it tick beyond");
}

#[test]
fn another_attempt_begins_at_nothing() {
    let mut world = backing_up();
    looked(&mut world, 720 * MIB, Some(GIB));
    world.own.jobs.values_mut().for_each(|job| *job = Some(JobState::Failed("the disk is full".into(), None)));
    world.source.backup_progress = None;
    world.step_without_time();
    let backup = world.status().backup.clone().unwrap();
    assert_eq!((backup.failures, backup.percent, backup.bytes), (1, None, None));
}

#[test]
fn a_replica_that_copies_everything_says_how_far_it_is_and_has_no_lag() {
    let copying = |copied| ReplicaSummary {
        read_only: true,
        copy_progress: Some(Progress { copied, total: Some(GIB) }),
        trouble: Some("it copies everything (40 %)".into()),
        ..ReplicaSummary::default()
    };
    let mut world = world_with_replica(copying(410 * MIB));
    let replica = world.status().replicas[0].clone();
    assert_eq!((replica.state.as_str(), replica.percent, replica.lag), ("Copying", Some(40), None));
    let (status, reason, message) = world.condition(conditions::READY);
    assert_eq!((status.as_str(), reason.as_str(), message.as_str()), ("False", "ReplicaCopying", "orders-replica-1: it copies everything (40 %)"));
    assert_eq!(world.status().lag, None);
    let before = world.status().clone();
    world.replica = Some(copying(500 * MIB));
    world.step();
    assert_eq!(*world.status(), before, "nothing is written within a step");

    world.replica = None;
    world.settle(&[]);
    world.assert_replicating(1);
    assert_eq!((world.status().replicas[0].percent, world.status().replicas[0].lag.is_some()), (None, true));
}
