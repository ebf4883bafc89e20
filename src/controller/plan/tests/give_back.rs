//! The way back of a target, when others interfere.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::takeover::{Pair, disable};
use super::world::GIB;
use crate::api::{DeletionPolicy, ExistingData, Phase};
use crate::controller::facts::{Applied, JobState};
use crate::controller::plan::{Step, again, conditions, plan};
use crate::engine::postgresql::{PostgreSql, SourceFacts, Step as SourceStep};
use crate::engine::{Finding, Position};

#[test]
fn what_a_target_held_comes_back_also_where_the_template_is_put_back_before_its_server_ever_answered() {
    let start = Pair::new(|_| {});
    for (restarted, deleted) in [(false, false), (true, false), (true, true)] {
        let mut pair = start.clone();
        pair.target.spoilt = true;
        pair.reconcile(12);
        assert!(pair.target.copy && pair.target.previous && !pair.world.status().target.as_ref().unwrap().joined);
        pair.template().init_containers = None;
        pair.target.stateful_set.metadata.managed_fields = None;
        if restarted {
            pair.start_pod();
        }
        disable(&mut pair, deleted);
        pair.settle(&[]);
        assert!(!pair.target.copy && !pair.target.promoted, "its own data is there again");
        pair.assert_left_alone(&start);
    }
}

#[test]
fn a_target_that_is_scaled_to_zero_does_not_keep_the_source_from_being_cleaned() {
    let start = Pair::new(|_| {});
    // While the backup runs, before anything is proven, and afterwards.
    for steps in [5, 9, 12, 60] {
        for deleted in [false, true] {
            let mut pair = start.clone();
            pair.target.spoilt = steps == 12;
            pair.reconcile(steps);
            pair.target.stateful_set.spec.as_mut().unwrap().replicas = Some(0);
            pair.target.pod = None;
            disable(&mut pair, deleted);
            let told = pair.settle(&[]);
            assert!(!pair.world.source.role_exists && pair.world.source.slots.is_empty() && !pair.world.source.hba_line_present, "{steps}: {told:?}");
            assert_eq!((pair.world.exists, told.iter().any(|step| step.contains("TargetNotReturned"))), (!deleted, deleted), "{steps}: {told:?}");
            if !deleted {
                let (_, reason, message) = pair.world.condition(conditions::READY);
                assert!(reason == "TargetUnreachable" && message.contains("has replicas: 0"), "{reason}: {message}");
                pair.target.stateful_set.spec.as_mut().unwrap().replicas = Some(1);
                pair.settle(&[]);
                assert_eq!(pair.world.phase(), Phase::Standalone);
                pair.assert_left_alone(&start);
            }
        }
    }
}

#[test]
fn a_target_whose_stateful_set_is_gone_is_waited_for_and_keeps_the_copy_that_was_proven() {
    let start = Pair::new(|_| {});
    let mut pair = start.clone();
    pair.until_proven();
    (pair.target.missing, pair.world.reachable) = (true, false);
    let mut deleted = pair.clone();
    disable(&mut pair, false);
    pair.settle(&[]);
    (pair.target.missing, pair.world.reachable) = (false, true);
    pair.settle(&[]);
    assert!(pair.target.copy && pair.target.promoted && pair.world.phase() == Phase::Standalone);
    pair.assert_left_alone(&start);

    deleted.world.reachable = true;
    disable(&mut deleted, true);
    let told = deleted.settle(&[]);
    assert!(told.iter().any(|step| step.contains("TargetNotReturned")), "{told:?}");
    assert!(!deleted.world.exists && !deleted.world.source.role_exists);
}

#[test]
fn what_a_target_held_waits_for_a_volume_and_says_so() {
    let start = Pair::new(|spec| spec.target.as_mut().unwrap().existing_data = ExistingData::BackUpAndReplace);
    let mut pair = start.clone();
    pair.target.held = vec!["3 tables".into()];
    pair.until_proven();
    let mut failing = pair.clone();
    disable(&mut failing, false);
    // Somebody deletes the claim: another one is made.
    let claim = pair.world.subject().names.backup_claim();
    pair.world.own.claims.remove(&claim);
    pair.world.own.jobs.clear();
    pair.target.kept = false;
    assert!(pair.world.status().kept.is_none());
    disable(&mut pair, false);
    pair.settle(&[]);
    assert!(pair.target.kept && pair.target.promoted && pair.world.status().kept.is_some());
    // It is full: who can help is told, and it grows as soon as more is asked for.
    let job = failing.world.subject().names.keep_job();
    let why = "no space left".to_owned();
    failing.reconcile(1);
    failing.world.own.jobs.clear();
    failing.world.own.jobs.insert(job, Some(JobState::Failed(why, Some(failing.world.now))));
    failing.world.write_status(&failing.plan());
    let (_, _, message) = failing.world.condition(conditions::READY);
    assert!(message.contains("no space left") && message.contains("raise backup.volume.size") && message.contains(&format!("delete pvc {claim}")), "{message}");
    failing.world.own.claims.get_mut(&claim).unwrap().bytes = Some(20 * GIB);
    failing.world.edit(|spec| spec.backup.volume.size = Quantity("30Gi".into()));
    let grows = |step: &Step<SourceStep>| matches!(step, Step::Grow { claim: found, .. } if *found == claim);
    assert!(failing.plan().steps.iter().any(grows), "{:?}", failing.plan().steps);
}

#[test]
fn a_consent_that_is_taken_back_during_the_backup_leaves_no_password() {
    let start = Pair::new(|_| {});
    let mut pair = start.clone();
    while !pair.target.secret {
        pair.reconcile(1);
    }
    let job = pair.world.subject().names.backup_job(1);
    pair.world.own.jobs.insert(job.clone(), Some(JobState::Running));
    pair.withdrawn = Some(Finding::new("NamespaceNotAllowed", "no", "ask"));
    let plan = pair.plan();
    pair.world.write_status(&plan);
    assert_eq!(pair.world.condition(conditions::SOURCE_CONFIGURED).2, "what was changed on the source is being undone");
    plan.steps.iter().for_each(|step| pair.execute(step));
    assert!(!pair.target.secret && !matches!(pair.world.own.jobs.get(&job), Some(Some(_))), "{:?}", plan.steps);
    pair.settle(&[]);
    assert!(!pair.world.source.role_exists);
    // Others look at it: suspended it still says so.
    pair.world.edit(|spec| spec.suspend = true);
    pair.settle(&[]);
    assert_eq!((pair.world.phase(), pair.world.condition(conditions::SOURCE_CONFIGURED).1.as_str()), (Phase::Suspended, "ConsentWithdrawn"));
    pair.world.edit(|spec| spec.suspend = false);
    pair.withdrawn = None;
    pair.settle(&[]);
    pair.assert_replicates();
}

#[test]
fn a_target_that_may_not_be_changed_is_given_up_when_the_resource_is_deleted() {
    let mut pair = Pair::new(|_| {});
    while pair.world.resource.status.as_ref().and_then(|status| status.disruption.as_ref()?.began.as_ref()).is_none() {
        let plan = pair.plan();
        pair.world.write_status(&plan);
        plan.steps.iter().filter(|step| !matches!(step, Step::Change { side: "target", .. })).for_each(|step| pair.execute(step));
        pair.pass_time();
    }
    disable(&mut pair, true);
    let mut told = Vec::new();
    for _ in 0..60 {
        let mut facts = pair.facts();
        facts.failure = Some("change the StatefulSet: denied".to_owned());
        let plan = plan::<PostgreSql>(&pair.world.subject(), &facts, "understudy:dev");
        pair.world.write_status(&plan);
        for step in &plan.steps {
            told.push(step.to_string());
            if !matches!(step, Step::Change { side: "target", .. }) {
                pair.execute(step);
            }
        }
        if !pair.world.exists {
            break;
        }
        pair.world.now += Duration::from_secs(10);
        pair.world.pass_time();
    }
    assert!(!pair.world.exists && !pair.world.source.role_exists && pair.world.source.slots.is_empty(), "{told:?}");
    assert!(told.iter().any(|step| step.contains("TargetNotReturned")) && !pair.target.copy && pair.target.restarts == 0, "{told:?}");
}

#[test]
fn a_copy_that_somebody_promoted_before_it_was_proven_stays_with_what_was_written_to_it() {
    let start = Pair::new(|_| {});
    for (deleted, answers) in [(false, true), (true, true), (false, false)] {
        let mut pair = start.clone();
        while !pair.target.copy {
            pair.reconcile(1);
        }
        assert!(!pair.proven());
        pair.target.server = SourceFacts { slots: vec![], ..pair.world.source.clone() };
        pair.target.promoted = true;
        if !answers {
            // It was seen to take writes, and does not answer now.
            pair.reconcile(1);
            pair.target.up = false;
        }
        disable(&mut pair, deleted);
        pair.reconcile(4);
        pair.target.up = true;
        pair.settle(&[]);
        assert!(pair.target.copy && pair.target.promoted, "what it held before is not what its clients wrote to");
        pair.assert_left_alone(&start);
    }
}

#[test]
fn who_deletes_is_not_kept_waiting_by_a_target_whose_node_is_gone() {
    let start = Pair::new(|_| {});
    for deleted in [false, true] {
        let mut pair = start.clone();
        pair.target.spoilt = true;
        pair.reconcile(12);
        assert!(pair.target.copy && !pair.proven());
        (pair.target.lost, pair.target.pod) = (true, None);
        disable(&mut pair, deleted);
        pair.settle(&[]);
        assert!(pair.world.exists && pair.world.source.role_exists, "a pod is missing for a moment in every restart");
        pair.world.now += again::ABANDON * 2;
        let told = pair.settle(&[]);
        assert_eq!(told.iter().any(|step| step.contains("TargetNotReturned")), deleted, "{told:?}");
        assert_eq!((pair.world.exists, pair.world.source.role_exists), (!deleted, !deleted), "{told:?}");
        if !deleted {
            pair.target.lost = false;
            pair.settle(&[]);
            assert!(!pair.target.copy);
            pair.assert_left_alone(&start);
        }
    }
}

#[test]
fn a_copy_that_could_not_follow_any_more_does_not_take_the_place_of_what_serves() {
    type Age = fn(&mut Pair);
    let lost: Age = |pair| pair.world.source.slots.iter_mut().for_each(|slot| slot.wal_status = "lost".into());
    let removed: Age = |pair| pair.world.source.oldest_wal = Position::Bytes(1 << 29);
    for age in [lost, removed] {
        let start = Pair::new(|_| {});
        let mut pair = start.clone();
        while !pair.target.staged {
            pair.reconcile(1);
        }
        let oldest = pair.world.source.oldest_wal.clone();
        age(&mut pair);
        pair.settle(&[]);
        let (_, reason, message) = pair.world.condition(conditions::READY);
        assert!(reason == "CopyOutdated" && message.contains("set enabled to false"), "{reason}: {message}");
        assert_eq!((pair.target.restarts, pair.target.copy), (0, false), "it goes on serving what it has");
        pair.world.source.oldest_wal = oldest;
        disable(&mut pair, false);
        pair.settle(&[]);
        pair.assert_left_alone(&start);
    }
}

#[test]
fn volumes_of_an_enabling_that_was_not_undone_are_kept() {
    let mut pair = Pair::new(|spec| spec.deletion_policy = DeletionPolicy::Delete);
    pair.settle(&[]);
    // What it held before that may be on it, and nowhere else.
    let before = Applied { enablement: Some("aaaaaaaa".into()), ..Applied::default() };
    pair.world.own.claims.insert("orders-backup-aaaaaaaa".into(), before);
    disable(&mut pair, true);
    pair.settle(&[]);
    assert!(pair.world.kept.contains("orders-backup-aaaaaaaa") && pair.world.kept.len() == 1, "{:?}", pair.world.kept);
}
