//! Plans for a source, against a model of it.

use super::*;
use crate::engine::Progress;
use crate::engine::redis::{Persistence, UserFacts};

const HISTORY: &str = "c7e86e65e6979c8e62023ea3f44ec04cd1be8f64";

fn identity() -> Identity {
    Identity::parse("k3x9q2ab").unwrap()
}

fn wanted() -> WantedSource {
    WantedSource { replicas: vec![1, 2], ..WantedSource::new(identity()) }
}

fn defaults() -> SourceFacts {
    SourceFacts {
        version: "8.0.6".into(),
        user: "default".into(),
        persistence: Some(Persistence { snapshots: true, append_only: false }),
        data_directory: "/data".into(),
        backlog_size: Some(1 << 20),
        history: HISTORY.into(),
        used_memory: 1 << 30,
        ..SourceFacts::default()
    }
}

/// The facts that a step leads to: a model of the server, for walking plans to their end.
fn after(mut facts: SourceFacts, step: &Step) -> SourceFacts {
    match step {
        Step::RaiseBacklog { bytes } => facts.backlog_size = Some(*bytes),
        Step::CreateUser { .. } => facts.role = Some(UserFacts { may_replicate: true, ..facts.role.unwrap_or_default() }),
        Step::DropUser { .. } => facts.role = None,
        Step::RestoreSetting { before, .. } => facts.backlog_size = before.parse().ok(),
    }
    facts
}

#[test]
fn the_official_images_defaults_have_no_finding() {
    assert_eq!(Redis::preflight(&defaults(), &wanted()), vec![]);
    let append_only = SourceFacts { persistence: Some(Persistence { snapshots: false, append_only: true }), ..defaults() };
    assert_eq!(Redis::preflight(&append_only, &wanted()), vec![]);
}

#[test]
fn every_finding_is_reported_at_once_with_its_remedy() {
    let facts = SourceFacts {
        version: "6.2.14".into(),
        replica: true,
        cluster: true,
        persistence: Some(Persistence::default()),
        forbidden: vec!["config|set".into(), "acl|setuser".into()],
        ..defaults()
    };
    let found = Redis::preflight(&facts, &wanted());
    let reasons: Vec<_> = found.iter().map(|f| f.reason).collect();
    assert_eq!(reasons, ["VersionTooOld", "SourceIsReplica", "ClusterEnabled", "NoPersistence", "NotPermitted"]);
    assert!(found.iter().all(|f| !f.remedy.is_empty()));
    assert_eq!(found.iter().filter(|f| f.lasting).map(|f| f.reason).collect::<Vec<_>>(), ["NoPersistence"], "the owner may switch it off later");
    assert!(found[4].message.contains("config|set, acl|setuser"), "{found:?}");
}

#[test]
fn what_could_not_be_read_is_no_finding_of_its_own() {
    let facts = SourceFacts { user: "app".into(), forbidden: vec!["info".into()], ..SourceFacts::default() };
    let reasons: Vec<_> = Redis::preflight(&facts, &wanted()).iter().map(|f| f.reason).collect();
    assert_eq!(reasons, ["NotPermitted"]);
}

#[test]
fn enabling_interrupted_anywhere_and_disabling_ends_where_it_began() {
    let start = defaults();
    let steps = Redis::plan_enable(&start, &wanted());
    assert_eq!(steps.len(), 2);
    for cut in 0..=steps.len() {
        let mut recorded = vec![];
        let mut facts = start.clone();
        for step in &steps[..cut] {
            recorded.extend(Redis::record(&start, step));
            facts = after(facts, step);
        }
        let mut resumed = facts.clone();
        for step in Redis::plan_enable(&facts, &wanted()) {
            resumed = after(resumed, &step);
        }
        assert_eq!((resumed.backlog_size, resumed.role.map(|role| role.may_replicate)), (Some(64 << 20), Some(true)));
        assert_eq!(Redis::plan_enable(&resumed, &wanted()), vec![]);
        for step in Redis::plan_disable(&facts, &identity(), &recorded) {
            facts = after(facts, &step);
        }
        assert_eq!(facts, start, "cut after {cut} steps");
        assert_eq!(Redis::plan_disable(&facts, &identity(), &recorded), vec![]);
    }
}

#[test]
fn a_backlog_that_the_user_has_set_is_left_alone() {
    let facts = SourceFacts { backlog_size: Some(256 << 20), ..defaults() };
    assert!(!Redis::plan_enable(&facts, &wanted()).iter().any(|step| matches!(step, Step::RaiseBacklog { .. })));
    let recorded = [Redis::record(&defaults(), &Step::RaiseBacklog { bytes: 64 << 20 }).unwrap()];
    assert!(Redis::plan_disable(&facts, &identity(), &recorded).is_empty(), "changed by the user since: not ours any more");
}

#[test]
fn a_user_that_was_lost_or_changed_is_made_again() {
    let usable = UserFacts { may_replicate: true, has_password: true };
    let with = |role| SourceFacts { role, backlog_size: Some(64 << 20), ..defaults() };
    assert_eq!(Redis::plan_enable(&with(Some(usable)), &wanted()), vec![]);
    assert!(Redis::summary(&with(Some(usable))).access);
    for role in [None, Some(UserFacts { may_replicate: false, has_password: true })] {
        assert_eq!(Redis::plan_enable(&with(role), &wanted()), vec![Step::CreateUser { user: "understudy_k3x9q2ab".into() }]);
        assert!(!Redis::summary(&with(role)).access);
    }
    assert!(!Redis::summary(&with(Some(UserFacts { may_replicate: true, has_password: false }))).access);
}

#[test]
fn a_user_is_not_made_nor_mended_while_access_is_withheld() {
    let withheld = |role| {
        let facts = SourceFacts { role, backlog_size: Some(64 << 20), ..defaults() };
        Redis::plan_enable(&facts, &WantedSource { withhold_access: true, ..wanted() })
    };
    assert_eq!(withheld(None), vec![]);
    assert_eq!(withheld(Some(UserFacts { may_replicate: false, has_password: true })), vec![]);
    // Nobody can log in yet, and nobody is to be given the password.
    assert_eq!(withheld(Some(UserFacts { may_replicate: true, has_password: false })), vec![Step::DropUser { user: "understudy_k3x9q2ab".into() }]);
}

#[test]
fn a_source_that_started_without_its_data_is_told_from_one_that_has_it() {
    let at_start = |facts: SourceFacts| Redis::summary(&facts).records;
    let with = SourceFacts { keys: 70, ..defaults() };
    assert_eq!(at_start(with.clone()), Some(0), "no snapshot, or a new append-only file: all of these are new");
    assert_eq!(at_start(SourceFacts { keys_loaded: 50, ..with.clone() }), Some(50), "what clients write since does not count");
    assert_eq!(at_start(SourceFacts { append_only_base: 88, ..with.clone() }), Some(70), "an append-only file was there");
    assert_eq!(at_start(SourceFacts { append_only_base: 88, keys_expired: 30, ..with.clone() }), Some(100), "what has expired meanwhile was there");
    assert_eq!(at_start(SourceFacts { append_only_base: 9000, keys_loaded: 90, ..with.clone() }), Some(90), "what clients have deleted meanwhile was there");
    assert_eq!(at_start(SourceFacts { history: String::new(), ..with }), None, "INFO may not be asked");
}

#[test]
fn what_can_no_longer_be_looked_at_is_not_taken_for_gone() {
    let recorded: Vec<Change> = Redis::plan_enable(&defaults(), &wanted()).iter().filter_map(|step| Redis::record(&defaults(), step)).collect();
    let blind = |forbidden: &str| SourceFacts { forbidden: vec![forbidden.into()], backlog_size: None, ..defaults() };
    let user = Step::DropUser { user: "understudy_k3x9q2ab".into() };
    let setting = Step::RestoreSetting { name: BACKLOG.into(), before: "1048576".into() };
    assert_eq!(Redis::plan_disable(&blind("acl|getuser"), &identity(), &recorded), vec![user]);
    assert_eq!(Redis::plan_disable(&blind("config|get"), &identity(), &recorded), vec![setting]);
    assert_eq!(Redis::plan_disable(&blind("config|get"), &identity(), &[]), vec![], "it was never changed");
    assert_eq!(Redis::plan_disable(&blind("wait"), &identity(), &recorded), vec![]);
}

#[test]
fn a_backup_seeds_as_long_as_the_backlog_reaches_it() {
    let at = |bytes| position(HISTORY, bytes);
    let with = |first| Redis::summary(&SourceFacts { offset: 500, backlog_first: first, ..defaults() }).oldest_for_seed;
    // The copy of a source that never had a replica stands at 0, and its backlog begins with byte 1.
    assert!(at(0).reaches(&with(Some(1))));
    assert!(at(99).reaches(&with(Some(100))) && !at(98).reaches(&with(Some(100))));
    assert!(!at(499).reaches(&with(None)), "without a backlog nothing is kept");
    assert!(!position("another", 400).reaches(&with(Some(100))), "the source began another history");
    let summary = Redis::summary(&defaults());
    assert!(Position::Bytes(1).reaches(&summary.oldest_for_replica), "never lost: it copies everything by itself");
}

#[test]
fn progress_is_the_share_of_keys() {
    let with = |snapshot| Redis::summary(&SourceFacts { snapshot, ..defaults() }).backup_progress;
    assert_eq!(with(Some((5, 10))), Some(Progress { copied: 1 << 29, total: Some(1 << 30) }));
    assert_eq!((with(Some((0, 0))), with(None)), (None, None));
}

#[test]
fn what_was_confirmed_is_saved_at_the_end_only_where_there_is_no_append_only_file() {
    let last_save = |snapshots, append_only, shutdown_wait| {
        let facts = SourceFacts { persistence: Some(Persistence { snapshots, append_only }), shutdown_wait, ..defaults() };
        Redis::summary(&facts).last_save.map(|save| save.waits)
    };
    assert_eq!(last_save(true, false, 10), Some(10));
    assert_eq!(last_save(true, false, 0), None, "it does not wait");
    assert_eq!((last_save(true, true, 10), last_save(false, true, 10)), (None, None), "the file has it, whatever ends the server");
    assert_eq!(last_save(false, false, 10), None, "nothing is saved at all, which is said already");
    assert_eq!(Redis::summary(&SourceFacts { shutdown_wait: 10, persistence: None, ..defaults() }).last_save, None, "it could not be read");
}

#[test]
fn undoing_by_hand_names_what_was_changed() {
    let facts = SourceFacts { acl_file: "/data/users.acl".into(), ..defaults() };
    let recorded: Vec<Change> = Redis::plan_enable(&facts, &wanted()).iter().filter_map(|step| Redis::record(&facts, step)).collect();
    let said = Redis::undo_by_hand(&identity(), &recorded);
    assert_eq!(said, "redis-cli ACL DELUSER understudy_k3x9q2ab; redis-cli CONFIG SET repl-backlog-size 1048576");
    assert_eq!(Redis::undo_by_hand(&identity(), &[]), "redis-cli ACL DELUSER understudy_k3x9q2ab");
}

#[test]
fn positions_are_read_as_they_are_written() {
    let text = format!("{HISTORY}:18446744073709551615");
    assert_eq!(Redis::format_position(&Redis::parse_position(&text).unwrap()), text);
    for wrong in ["1", "x:1", HISTORY, &format!("{HISTORY}:-1")] {
        assert_eq!(Redis::parse_position(wrong), None, "{wrong}");
    }
}
