//! A source that comes back without what its replicas hold, for an engine whose replicas copy whatever their source has: a Redis in the place of the model's
//! PostgreSQL.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::super::replica::{self, State, withholds_access};
use super::super::{Plan, again, conditions, plan};
use super::world::World;
use crate::api::{EngineKind, Phase};
use crate::controller::facts::{Facts, Server, Subject, Variables};
use crate::engine::mysql::MySql;
use crate::engine::redis::{Persistence, Redis, SourceFacts, Step, UserFacts};
use crate::engine::{Engine, Position, ReplicaSummary, SourceSummary};

const SNAPSHOTS: Option<Persistence> = Some(Persistence { snapshots: true, append_only: false });

/// A world in step with a Redis as its source, before it restarts.
struct Cache {
    world: World,
    source: SourceFacts,
    replicas: BTreeMap<u32, Server<ReplicaSummary>>,
}

/// What was observed of a world whose source is of another engine.
pub fn facts_of<E: Engine>(world: &World, server: Server<E::SourceFacts>, replicas: BTreeMap<u32, Server<ReplicaSummary>>) -> Facts<E> {
    let Facts { now, source, administrator, shape, claim, config_maps, service, own, data_bytes, .. } = world.facts();
    Facts {
        now,
        source,
        administrator,
        server,
        shape,
        target: None,
        claim,
        config_maps,
        service,
        key: false,
        credentials: false,
        rival: None,
        neighbours: vec![],
        withdrawn: None,
        agreed: None,
        taken: vec![],
        variables: Variables::default(),
        data_bytes,
        not_grown: BTreeMap::new(),
        own,
        replicas,
        ahead: BTreeMap::new(),
        marks: BTreeMap::new(),
        failure: None,
    }
}

/// The source after a restart: another history, and no replication user.
fn restarted(keys_loaded: u64, keys: u64) -> SourceFacts {
    SourceFacts {
        version: "8.0.6".into(),
        user: "default".into(),
        persistence: SNAPSHOTS,
        data_directory: "/data".into(),
        backlog_size: Some(64 << 20),
        history: "after".into(),
        keys,
        keys_loaded,
        ..SourceFacts::default()
    }
}

/// A replica that can't log in, of the history before the restart.
fn cut_off(keys: u64) -> Server<ReplicaSummary> {
    let at = Position::Offset { history: "before".into(), bytes: 900 };
    Server::Up(ReplicaSummary {
        read_only: true,
        leads: false,
        streaming: false,
        applied: at.clone(),
        received: at,
        records: Some(keys),
        ..ReplicaSummary::default()
    })
}

fn silent() -> Server<ReplicaSummary> {
    Server::Unreachable("connection refused".into())
}

impl Cache {
    fn new(source: SourceFacts, replicas: &[Server<ReplicaSummary>]) -> Self {
        let mut world = World::new(u32::try_from(replicas.len()).unwrap());
        world.settle(&[]);
        world.resource.spec.engine = EngineKind::Redis;
        // The variables are written already, under the names that they have there.
        world.resource.spec.environment.as_mut().unwrap().config_maps[0].prefix = Some("POSTGRESQL".into());
        world.resource.status.as_mut().unwrap().source.as_mut().unwrap().major_version = 8;
        Self { world, source, replicas: (1..).zip(replicas.iter().cloned()).collect() }
    }

    fn look(&mut self) -> Plan<Step> {
        let facts = facts_of::<Redis>(&self.world, Server::Up(self.source.clone()), self.replicas.clone());
        let subject = Subject::new::<Redis>(Arc::new(self.world.resource.clone())).unwrap();
        let plan = plan::<Redis>(&subject, &facts, "understudy:dev");
        self.world.resource.status = Some(super::super::merge(self.world.resource.status.as_ref(), plan.status.clone(), facts.now));
        plan
    }

    fn lets_replicas_in(&mut self) -> bool {
        self.look().steps.iter().any(|step| step.to_string().contains("create the ACL user"))
    }
}

#[test]
fn a_source_with_its_data_gets_its_user_back_and_one_without_does_not() {
    for (loaded, keys, held, again) in [
        (100, 100, 100, true),
        (50, 50, 100, true),
        (49, 49, 100, false),
        (0, 0, 100, false),
        // Its clients have begun to write again before it was looked at.
        (0, 1, 1, false),
        (0, 100_000, 100, false),
        // What its clients have deleted since it has started was there.
        (100, 0, 100, true),
        // A new one that restarts before its first key.
        (0, 0, 0, true),
    ] {
        let mut cache = Cache::new(restarted(loaded, keys), &[cut_off(held)]);
        assert_eq!(cache.lets_replicas_in(), again, "loaded {loaded}, {keys} now, the replica holds {held}");
    }
}

#[test]
fn a_user_that_somebody_dropped_while_the_source_ran_is_made_again() {
    let source = SourceFacts { history: "before".into(), offset: 900, ..restarted(0, 100) };
    assert!(Cache::new(source, &[cut_off(100)]).lets_replicas_in(), "it started empty when it was new");
}

#[test]
fn a_replica_that_can_log_in_is_left_to_follow() {
    // Killed, it is back at an older snapshot of its own for a moment.
    let role = Some(UserFacts { may_replicate: true, has_password: true });
    let mut cache = Cache::new(SourceFacts { role, ..restarted(100, 100) }, &[cut_off(1000)]);
    cache.look();
    assert_eq!(cache.world.condition(conditions::READY).1, "ReplicaNotReplicating");
}

#[test]
fn a_source_that_lost_its_data_is_said_and_stays_so_until_the_volume_is_deleted() {
    let mut cache = Cache::new(restarted(0, 3), &[cut_off(100)]);
    let claims = cache.world.own.claims.clone();
    let plan = cache.look();
    assert_eq!(plan.steps.iter().filter(|step| step.to_string().starts_with("source") || step.to_string().starts_with("delete")).count(), 0);
    let (_, reason, message) = cache.world.condition(conditions::READY);
    assert!(reason == "ReplicaDiverged" && message.contains("100 records") && message.contains("started with 0"), "{reason}: {message}");
    assert_eq!(cache.world.condition(conditions::SOURCE_CONFIGURED).1, "AccessWithheld");
    assert_eq!(cache.world.phase(), Phase::Degraded);
    // It fills up, restarts, and then has as much as the replica.
    cache.source = SourceFacts { history: "later".into(), ..restarted(200, 300) };
    assert!(!cache.lets_replicas_in() && cache.world.condition(conditions::READY).2.contains("started with 0"));
    // Its owner says so.
    let claim = claims.keys().find(|name| name.contains("-replica-")).unwrap();
    cache.world.own.claims.get_mut(claim).unwrap().deleting = true;
    assert!(cache.lets_replicas_in(), "{:?}", cache.world.resource.status);
}

#[test]
fn a_user_that_was_made_before_the_loss_was_seen_is_not_given_its_password() {
    let role = Some(UserFacts { may_replicate: true, has_password: false });
    let mut cache = Cache::new(SourceFacts { role, append_only_base: 88, ..restarted(0, 90) }, &[cut_off(100)]);
    let given = |plan: &Plan<Step>| plan.steps.iter().any(|step| step.to_string().contains("Job"));
    assert!(given(&cache.look()), "by the Job of the backup");
    cache.source.keys = 3;
    let plan = cache.look();
    assert!(!given(&plan) && plan.steps.iter().any(|step| step.to_string().contains("delete the ACL user")), "{:?}", plan.steps);
    assert_eq!(cache.world.condition(conditions::SOURCE_CONFIGURED).1, "AccessWithheld");
}

#[test]
fn nobody_is_let_in_before_a_replica_has_answered() {
    let mut cache = Cache::new(restarted(0, 3), &[silent(), silent()]);
    assert!(!cache.lets_replicas_in());
    assert_eq!(cache.world.condition(conditions::SOURCE_CONFIGURED).1, "AccessWithheld");
    assert!(cache.world.condition(conditions::READY).2.contains("connection refused"));
    cache.replicas.insert(2, cut_off(3));
    assert!(!cache.lets_replicas_in(), "it has less");
    let mut cache = Cache::new(restarted(3, 3), &[silent(), cut_off(3)]);
    assert!(cache.lets_replicas_in(), "a replica that is dead does not keep the others waiting");
}

#[test]
fn one_replica_that_would_be_overwritten_keeps_all_of_them_out() {
    let waits = |states: &[State]| withholds_access(states.iter(), true);
    let (diverged, silent) = (State::Diverged("100 records".into()), State::Starting("its pod is starting".into()));
    assert!(waits(&[State::NotReplicating("no link".into()), diverged]));
    assert!(waits(&[silent.clone(), State::Absent]));
    assert!(!waits(&[silent, State::Writable]));
    assert!(!waits(&[State::Absent, State::Removing]), "none runs");
    for restored in [State::Restoring, State::RestoreFailed(String::new(), true), State::Restored] {
        assert!(waits(std::slice::from_ref(&restored)), "{restored:?} becomes a replica that answers");
        assert!(!withholds_access([&restored].into_iter(), false), "{restored:?} waits for a backup, which takes the login");
    }
}

#[test]
fn what_endangers_what_runs_is_said_when_it_comes_up_and_stops_nothing() {
    let role = Some(UserFacts { may_replicate: true, has_password: true });
    let at = Position::Offset { history: "after".into(), bytes: 900 };
    let streaming = Server::Up(ReplicaSummary {
        read_only: true,
        leads: false,
        streaming: true,
        applied: at.clone(),
        received: at,
        records: Some(3),
        ..ReplicaSummary::default()
    });
    let well = SourceFacts { role, offset: 900, ..restarted(3, 3) };
    for (changed, reason, word) in [
        (SourceFacts { persistence: Some(Persistence::default()), ..well.clone() }, "NoPersistence", "CONFIG SET save"),
        (SourceFacts { shutdown_wait: 30, ..well.clone() }, "GracePeriodTooShort", "up to 30 s (shutdown-timeout)"),
    ] {
        let mut cache = Cache::new(changed, std::slice::from_ref(&streaming));
        let told = |plan: Plan<Step>| plan.steps.iter().filter(|step| step.to_string() == format!("tell {reason}")).count();
        assert_eq!(told(cache.look()), 1);
        assert_eq!(told(cache.look()), 0, "an event when it begins, not at every look");
        let (status, found, message) = cache.world.condition(conditions::PREFLIGHT);
        assert!(status == "False" && found == reason && message.contains(word), "{status} {found} {message}");
        assert_eq!((cache.world.condition(conditions::READY).0.as_str(), cache.world.phase()), ("True", Phase::Ready));
        assert_eq!(cache.world.condition(conditions::STALLED).0, "False");
        cache.source = well.clone();
        cache.look();
        assert_eq!(cache.world.condition(conditions::PREFLIGHT).1, "Passed", "it goes on by itself");
    }
}

#[test]
fn a_source_that_would_be_killed_before_its_last_save_gets_no_replica() {
    let waits = |waits, grace: Option<i64>| {
        let mut world = World::new(1);
        world.resource.spec.engine = EngineKind::Redis;
        world.stateful_set.as_mut().unwrap().spec.as_mut().unwrap().template.spec.as_mut().unwrap().termination_grace_period_seconds = grace;
        let source = SourceFacts { shutdown_wait: waits, offset: 900, ..restarted(3, 3) };
        let mut cache = Cache { world, source, replicas: BTreeMap::new() };
        let blocked = cache.look().steps.is_empty() && cache.world.phase() == Phase::Blocked;
        let (_, reason, message) = cache.world.condition(conditions::PREFLIGHT);
        assert_eq!(blocked, reason == "GracePeriodTooShort", "{reason}: {message}");
        blocked.then_some(message)
    };
    let message = waits(10, Some(10)).unwrap();
    for word in ["up to 10 s (shutdown-timeout)", "killed after 10 s (terminationGracePeriodSeconds)", "to 30 or more", "lower shutdown-timeout to 5"] {
        assert!(message.contains(word), "{word}: {message}");
    }
    assert!(waits(30, None).is_some() && waits(10, Some(0)).is_some());
    assert_eq!([waits(10, None), waits(10, Some(11)), waits(0, Some(0))], [None, None, None], "it saves in time, or would be killed without a replica too");
}

#[test]
fn what_a_mysql_source_has_yet_to_count_is_no_divergence_until_it_lasts() {
    let mut facts = facts_of::<MySql>(&World::new(1), Server::NotAsked, BTreeMap::new());
    let position = |text: &str| MySql::parse_position(text).unwrap();
    let own = "f5bb1c7c-ea60-11f1-9180-82739bbd67a0";
    // Binary log and engine commit one after the other: the sets need not even compare.
    for (counted, applied) in [("1-10", "1-11"), ("1-9:11", "1-10")] {
        let server = SourceSummary { position: position(&format!("{own}:{counted}")), access: true, ..SourceSummary::default() };
        let applied = position(&format!("{own}:{applied}"));
        let replica = ReplicaSummary { read_only: true, streaming: true, received: applied.clone(), applied, ..ReplicaSummary::default() };
        facts.marks.insert(1, position(&format!("{own}:1-5")));
        let mut observe = |since: Option<Duration>| {
            facts.ahead = since.map(|since| (1, since)).into_iter().collect();
            replica::observe_server::<MySql>(&facts, &server, None, 1, &replica, false)
        };
        assert_eq!([observe(None), observe(Some(Duration::from_secs(2)))], [State::InSync, State::InSync]);
        assert!(matches!(observe(Some(again::COUNTED)), State::Diverged(what) if what.contains(own)));
    }
}
