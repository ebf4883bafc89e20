//! The plan against a model of the world: a source, a namespace and a kubelet that does what it is told.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use proptest::prelude::*;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::{Kind, Object, Plan, Step, conditions, merge, plan};
use crate::api::{DatabaseReplication, FINALIZER, Phase};
use crate::controller::facts::{Administrator, Applied, Facts, JobState, Own, PodFacts, Server, SourceWorkload, Subject};
use crate::engine::postgresql::{PostgreSql, SlotFacts, SourceFacts, Step as SourceStep};
use crate::engine::{Finding, Position, ReplicaSummary};
use crate::resources::inspect;

const GIB: u64 = 1 << 30;

/// Everything that outlives the controller.
#[derive(Clone)]
struct World {
    resource: DatabaseReplication,
    exists: bool,
    source: SourceFacts,
    reachable: bool,
    stateful_set: Option<StatefulSet>,
    own: Own,
    config_maps: BTreeMap<String, BTreeMap<String, String>>,
    /// Replica volumes that hold a finished restore.
    restored: BTreeSet<String>,
    /// Volumes that were kept.
    kept: BTreeSet<String>,
    now: Timestamp,
    /// Of the process: gone when it is killed.
    marks: BTreeMap<u32, Position>,
    backups: u32,
    /// What every replica's server says, where it is not all well.
    replica: Option<ReplicaSummary>,
}

fn source_stateful_set() -> StatefulSet {
    serde_json::from_value(json!({
        "metadata": {"name": "orders-db", "namespace": "shop"},
        "spec": {
            "replicas": 1, "serviceName": "orders-db", "selector": {"matchLabels": {"app": "orders-db"}},
            "template": {
                "metadata": {"labels": {"app": "orders-db"}, "annotations": {"checksum/config": "1"}},
                "spec": {"containers": [{"name": "postgres", "image": "postgres:17", "ports": [{"containerPort": 5432}], "volumeMounts": [{"name": "data", "mountPath": "/var/lib/postgresql/data"}]}]}
            },
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]
        }
    }))
    .unwrap()
}

impl World {
    fn new(replicas: u32) -> Self {
        let resource = serde_json::from_value(json!({
            "apiVersion": "understudy.dev/v1alpha1", "kind": "DatabaseReplication",
            "metadata": {"name": "orders", "namespace": "shop", "uid": "8d1f2f3c-0000-4000-8000-000000000001", "generation": 1},
            "spec": {
                "engine": "PostgreSQL",
                "source": {"statefulSetRef": {"name": "orders-db"}, "credentials": {"secretRef": {"name": "orders-db"}}},
                "replicas": replicas, "backup": {"volume": {"size": "20Gi"}},
                "environment": {"configMaps": [{"name": "shop-env"}]}
            }
        }))
        .unwrap();
        let source = SourceFacts {
            version_num: 170_012,
            version: "17.12".into(),
            superuser: true,
            user: "postgres".into(),
            wal_level: "replica".into(),
            wal_senders: (10, 0),
            replication_slots: (10, 0),
            slot_wal_keep_mb: -1,
            slot_wal_keep_source: "default".into(),
            data_bytes: GIB,
            data_directory: "/var/lib/postgresql/data/pgdata".into(),
            hba_writable: true,
            owner: (999, 999),
            position: Position(1000),
            oldest_wal: Position(500),
            ..SourceFacts::default()
        };
        Self {
            resource,
            exists: true,
            source,
            reachable: true,
            stateful_set: Some(source_stateful_set()),
            own: Own::default(),
            config_maps: BTreeMap::from([("shop-env".to_owned(), BTreeMap::from([("OTHER".to_owned(), "kept".to_owned())]))]),
            restored: BTreeSet::new(),
            kept: BTreeSet::new(),
            now: Timestamp::from_second(1_800_000_000).unwrap(),
            marks: BTreeMap::new(),
            backups: 0,
            replica: None,
        }
    }

    fn subject(&self) -> Subject {
        Subject::new::<PostgreSql>(Arc::new(self.resource.clone())).unwrap()
    }

    fn facts(&self) -> Facts<PostgreSql> {
        let running: BTreeMap<u32, Server<ReplicaSummary>> = self
            .own
            .stateful_sets
            .values()
            .filter_map(|set| set.number)
            .map(|number| {
                let held = self.source.slots.iter().any(|slot| slot.number == number && slot.wal_status == "reserved");
                let applied = self.source.position;
                let well = ReplicaSummary { read_only: true, streaming: held, applied, received: applied, trouble: None };
                (number, Server::Up(self.replica.clone().unwrap_or(well)))
            })
            .collect();
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "orders-db-0"}})).unwrap();
        let source = self.stateful_set.clone().map(|stateful_set| SourceWorkload { stateful_set, pod: Some(pod) });
        let server = match (&source, self.reachable) {
            (Some(_), true) => Server::Up(self.source.clone()),
            (Some(_), false) => Server::Unreachable("connection refused".into()),
            (None, _) => Server::NotAsked,
        };
        let shape = source.as_ref().filter(|_| self.reachable).map(|source| inspect(&source.stateful_set, None, 5432, &self.source.data_directory));
        Facts {
            now: self.now,
            administrator: Ok(Administrator { username: "postgres".into(), password: "secret".into(), username_key: None }),
            server,
            shape,
            source,
            claim: Some((20 * GIB, None)),
            config_maps: BTreeMap::from([("shop-env".to_owned(), self.config_maps.get("shop-env").cloned())]),
            service: Some("orders-db".into()),
            rival: None,
            own: self.own.clone(),
            replicas: running,
            marks: self.marks.clone(),
            failure: None,
        }
    }

    fn plan(&self) -> Plan<SourceStep> {
        plan::<PostgreSql>(&self.subject(), &self.facts(), "understudy:dev")
    }

    fn write_status(&mut self, plan: &Plan<SourceStep>) {
        self.resource.status = Some(merge(self.resource.status.as_ref(), plan.status.clone(), self.now));
    }

    fn execute(&mut self, step: &Step<SourceStep>) {
        let applied = |number: Option<u32>, digest: Option<String>| Applied { digest, deleting: false, number };
        let number = |labels: &Option<BTreeMap<String, String>>| labels.as_ref()?.get("understudy.dev/replica")?.parse().ok();
        match step {
            Step::Hold => self.resource.metadata.finalizers = Some(vec![FINALIZER.to_owned()]),
            Step::Release => {
                self.resource.metadata.finalizers = None;
                self.exists = self.resource.metadata.deletion_timestamp.is_none();
            }
            Step::Source(step) => self.execute_source(step),
            Step::Mark(replicas) => {
                self.source.position.0 += 10;
                let position = self.source.position;
                self.marks.extend(replicas.iter().map(|number| (*number, position)));
            }
            Step::Apply(Object::Claim(claim)) => {
                let name = claim.metadata.name.clone().unwrap();
                assert!(!self.kept.contains(&name), "a volume that was kept is the user's");
                self.own.claims.insert(name, applied(number(&claim.metadata.labels), None));
            }
            Step::Apply(Object::Service(service)) => {
                self.own.services.insert(service.metadata.name.clone().unwrap(), applied(number(&service.metadata.labels), None));
            }
            Step::Apply(Object::Job(job)) => {
                let name = job.metadata.name.clone().unwrap();
                assert!(self.recorded_before_change(), "the record comes before the first change");
                self.own.jobs.entry(name).or_insert(Some(JobState::Running));
            }
            Step::Apply(Object::StatefulSet(set)) => {
                let number_of = number(&set.metadata.labels);
                let claim = self.own.claims.iter().find(|(_, claim)| claim.number == number_of).unwrap().0.clone();
                assert!(self.restored.contains(&claim), "a server is started on a finished restore only");
                let digest = Some(crate::controller::digest(&**set));
                self.own.stateful_sets.insert(set.metadata.name.clone().unwrap(), applied(number(&set.metadata.labels), digest));
            }
            Step::Delete(Kind::Claim, name) => {
                if let Some(claim) = self.own.claims.get_mut(name) {
                    claim.deleting = true;
                }
            }
            Step::Delete(Kind::Service, name) => drop(self.own.services.remove(name)),
            Step::Delete(Kind::Job, name) => drop(self.own.jobs.remove(name)),
            Step::Delete(Kind::StatefulSet, name) => drop(self.own.stateful_sets.remove(name)),
            Step::Keep(name) => {
                self.own.claims.remove(name);
                self.kept.insert(name.clone());
            }
            Step::Publish { config_map, data } => self.config_maps.get_mut(config_map).unwrap().extend(data.clone()),
            Step::Tell { .. } => {}
        }
    }

    fn recorded_before_change(&self) -> bool {
        self.resource.status.as_ref().is_some_and(|status| status.enablement.is_some()) && self.resource.metadata.finalizers.is_some()
    }

    fn execute_source(&mut self, step: &SourceStep) {
        use SourceStep::{AddHbaLine, CreateRole, CreateSlot, LimitSlotWal};
        let changed = matches!(step, LimitSlotWal { .. } | CreateRole { .. } | AddHbaLine { .. } | CreateSlot { .. });
        assert!(!changed || self.recorded_before_change(), "the record comes before the first change");
        let source = &mut self.source;
        match step {
            SourceStep::LimitSlotWal { megabytes } => {
                source.slot_wal_keep_mb = *megabytes;
                source.slot_wal_keep_auto_conf = Some(format!("{megabytes}MB"));
            }
            SourceStep::CreateRole { .. } => source.role_exists = true,
            SourceStep::AddHbaLine { .. } => source.hba_line_present = true,
            SourceStep::ProveLogin { .. } => assert!(source.role_exists && source.hba_line_present),
            SourceStep::CreateSlot { slot } => {
                let number = slot.rsplit('_').next().unwrap().parse().unwrap();
                assert!(!source.slots.iter().any(|s| s.number == number), "a slot is made once");
                source.slots.push(SlotFacts { name: slot.clone(), number, active: false, wal_status: "reserved".into() });
            }
            SourceStep::DropSlot { slot } => {
                let number = slot.rsplit('_').next().unwrap().parse().ok();
                assert!(self.own.pods.iter().all(|pod| pod.number != number), "a slot goes after its replica");
                source.slots.retain(|s| s.name != *slot);
            }
            SourceStep::RemoveHbaLine { .. } => source.hba_line_present = false,
            SourceStep::Disconnect { .. } => source.connections = 0,
            SourceStep::DropRole { .. } => source.role_exists = false,
            SourceStep::RestoreSetting { before, .. } => {
                source.slot_wal_keep_mb = -1;
                source.slot_wal_keep_auto_conf.clone_from(before);
            }
        }
    }

    /// What Kubernetes does by itself meanwhile.
    fn pass_time(&mut self) {
        self.now += Duration::from_secs(25);
        let names = self.subject().names;
        for (name, job) in &mut self.own.jobs {
            if *job == Some(JobState::Running) {
                let message = name.contains("-backup-").then(|| {
                    self.backups += 1;
                    json!({"position": "0/3E8", "bytes": 1000, "checksum": "abc", "completedAt": "2026-11-24T00:00:00Z", "files": 3}).to_string()
                });
                *job = Some(JobState::Complete(message));
            }
            for number in 1..=9 {
                if *name == names.restore_job(number) && matches!(job, Some(JobState::Complete(_))) {
                    self.restored.extend(self.own.claims.iter().filter(|(_, claim)| claim.number == Some(number)).map(|(name, _)| name.clone()));
                }
            }
        }
        let used: BTreeSet<Option<u32>> = self.own.stateful_sets.values().map(|set| set.number).collect();
        let restored = &mut self.restored;
        self.own.claims.retain(|name, claim| {
            let gone = claim.deleting && !used.contains(&claim.number);
            if gone {
                restored.remove(name);
            }
            !gone
        });
        self.own.pods = self
            .own
            .stateful_sets
            .values()
            .map(|set| PodFacts { component: "replica".into(), number: set.number, ip: Some("10.0.0.1".into()), ready: true, ended: false, trouble: None })
            .collect();
    }

    /// Reconciles until nothing changes; the controller is killed after each of the given numbers of executed steps.
    fn settle(&mut self, kills: &[usize]) -> Vec<String> {
        let (mut executed, mut told) = (0, Vec::new());
        for _ in 0..200 {
            let plan = self.plan();
            let before = self.resource.status.clone();
            self.write_status(&plan);
            let mut killed = false;
            for step in &plan.steps {
                executed += 1;
                if kills.contains(&executed) {
                    self.marks.clear();
                    killed = true;
                    break;
                }
                told.push(step.to_string());
                self.execute(step);
                if !self.exists {
                    return told;
                }
            }
            if !killed && plan.steps.is_empty() && before == self.resource.status {
                let again = self.own.clone();
                self.pass_time();
                if again == self.own && self.plan().steps.is_empty() {
                    return told;
                }
            } else {
                self.pass_time();
            }
        }
        panic!("does not settle; last: {:?}; status: {:?}", told.iter().rev().take(8).collect::<Vec<_>>(), self.resource.status);
    }

    fn condition(&self, kind: &str) -> (String, String, String) {
        let condition = self.resource.status.as_ref().unwrap().conditions.iter().find(|c| c.type_ == kind).unwrap().clone();
        (condition.status, condition.reason, condition.message)
    }

    fn phase(&self) -> Phase {
        self.resource.status.as_ref().unwrap().phase.unwrap()
    }

    fn edit(&mut self, change: impl FnOnce(&mut crate::api::DatabaseReplicationSpec)) {
        change(&mut self.resource.spec);
        *self.resource.metadata.generation.as_mut().unwrap() += 1;
    }

    fn assert_replicating(&self, count: u32) {
        assert_eq!(self.phase(), Phase::Ready, "{:?}", self.condition(conditions::READY));
        assert_eq!(self.own.stateful_sets.len(), count as usize);
        assert_eq!(self.source.slots.len(), count as usize);
        let addresses: Vec<String> = (1..=count).map(|n| format!("orders-replica-{n}.shop.svc")).collect();
        assert_eq!(self.config_maps["shop-env"]["POSTGRESQL_SLAVE_ADDRESSES_INT"], addresses.join(","));
        assert_eq!(self.config_maps["shop-env"]["POSTGRESQL_ADDRESS"], "orders-db.shop.svc");
    }

    fn assert_as_before(&self, start: &Self) {
        let mut source = self.source.clone();
        source.position = start.source.position;
        assert_eq!(source, start.source);
        assert_eq!(self.own, Own::default());
        let environment = &self.config_maps["shop-env"];
        assert_eq!(environment["OTHER"], "kept");
        assert!(environment.get("POSTGRESQL_SLAVE_ADDRESSES_INT").is_none_or(String::is_empty));
    }
}

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
        world.source.position.0 += 1_000_000;
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
    world.source.oldest_wal = Position(2000);
    world.source.position = Position(3000);
    world.edit(|spec| spec.replicas = Some(2));
    for _ in 0..3 {
        let plan = world.plan();
        world.write_status(&plan);
        plan.steps.iter().for_each(|step| world.execute(step));
    }
    assert!(world.own.jobs.keys().any(|job| job.ends_with("-2") && job.contains("backup")), "{:?}", world.own.jobs.keys());
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
    world.source.data_bytes = 30 * GIB;
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
    facts.administrator = Err(Finding::new("SecretNotFound", "x", "y"));
    facts.server = Server::NotAsked;
    facts.shape = None;
    let plan = plan::<PostgreSql>(&world.subject(), &facts, "i");
    assert!(plan.steps.is_empty());
    let ready = plan.status.conditions.iter().find(|c| c.type_ == conditions::READY).unwrap();
    assert!(ready.message.contains("SourceTaken") && ready.message.contains("SecretNotFound"), "{}", ready.message);
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
            let plan = world.plan();
            world.write_status(&plan);
            plan.steps.iter().for_each(|step| world.execute(step));
            world.pass_time();
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

/// A world whose replica runs and says `summary`, looked at a few times.
fn world_with_replica(summary: ReplicaSummary) -> World {
    let mut world = World::new(1);
    world.replica = Some(summary);
    for _ in 0..12 {
        let plan = world.plan();
        world.write_status(&plan);
        plan.steps.iter().for_each(|step| world.execute(step));
        world.pass_time();
    }
    assert_eq!(world.own.stateful_sets.len(), 1);
    world
}

fn streaming() -> ReplicaSummary {
    ReplicaSummary { read_only: true, streaming: true, applied: Position(900), received: Position(900), trouble: None }
}

#[test]
fn a_replica_that_has_not_shown_what_was_written_after_its_restore_is_not_ready() {
    let world = world_with_replica(streaming());
    assert_eq!((world.condition(conditions::READY).0.as_str(), world.condition(conditions::READY).1.as_str()), ("False", "CatchingUp"));
    assert_eq!(world.config_maps["shop-env"]["POSTGRESQL_SLAVE_ADDRESSES_INT"], "", "no client is sent to it yet");
}

#[test]
fn a_replica_that_takes_writes_or_does_not_stream_is_not_ready() {
    let writable = world_with_replica(ReplicaSummary { read_only: false, applied: Position(1 << 40), ..streaming() });
    assert_eq!(writable.condition(conditions::READY).1, "ReplicaWritable");
    let cut_off = world_with_replica(ReplicaSummary { streaming: false, applied: Position(1 << 40), ..streaming() });
    assert_eq!(cut_off.condition(conditions::READY).1, "ReplicaNotReplicating");
    let paused = world_with_replica(ReplicaSummary { trouble: Some("recovery has paused".into()), applied: Position(1 << 40), ..streaming() });
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
        assert!(plan.again >= before && plan.again >= super::again::BLOCKED && plan.again <= Duration::from_mins(1), "{:?}", plan.again);
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
        let plan = world.plan();
        world.write_status(&plan);
        plan.steps.iter().for_each(|step| world.execute(step));
        world.pass_time();
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
        oldest_wal: Position(1 << 40),
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
        let plan = world.plan();
        world.write_status(&plan);
        plan.steps.iter().for_each(|step| world.execute(step));
        world.pass_time();
    }
    world.edit(|spec| spec.enabled = true);
    world.settle(&[]);
    world.assert_replicating(1);
    assert_ne!(world.subject().names.identity, first, "another enabling");
}
