//! A model of the world: a source, a namespace and a kubelet that does what it is told.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::api::{DatabaseReplication, FINALIZER, Phase};
use crate::controller::facts::{Administrator, Applied, Facts, JobState, Own, PodFacts, Server, SourceWorkload, Subject, Taken, Variables};
use crate::controller::plan::{Kind, Object, Plan, Step, conditions, merge, plan};
use crate::engine::postgresql::{PostgreSql, SlotFacts, SourceFacts, Step as SourceStep};
use crate::engine::{Position, ReplicaSummary};
use crate::resources::{bytes_of, inspect};

pub const GIB: u64 = 1 << 30;

/// Everything that outlives the controller.
#[derive(Clone)]
pub struct World {
    pub resource: DatabaseReplication,
    pub exists: bool,
    pub source: SourceFacts,
    pub reachable: bool,
    pub stateful_set: Option<StatefulSet>,
    pub own: Own,
    pub config_maps: BTreeMap<String, BTreeMap<String, String>>,
    /// Replica volumes that hold a finished restore.
    pub restored: BTreeSet<String>,
    /// Volumes that were kept.
    pub kept: BTreeSet<String>,
    pub now: Timestamp,
    /// Of the process: gone when it is killed.
    pub marks: BTreeMap<u32, Position>,
    pub backups: u32,
    /// What the Job of a backup reports.
    pub report: serde_json::Value,
    /// What every replica's server says, where it is not all well.
    pub replica: Option<ReplicaSummary>,
    /// Size of the source's data, or why it could not be measured.
    pub data_bytes: Result<u64, String>,
    /// Pods that clients may read from.
    pub serving: BTreeSet<String>,
    /// Variables that another resource writes.
    pub taken: Vec<Taken>,
    /// Steps that wait to be made: a larger volume.
    pub grown: Vec<String>,
}

pub fn source_stateful_set() -> StatefulSet {
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
    pub fn new(replicas: u32) -> Self {
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
            data_directory: "/var/lib/postgresql/data/pgdata".into(),
            hba_writable: true,
            owner: (999, 999),
            position: Position::Bytes(1000),
            oldest_wal: Position::Bytes(500),
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
            report: json!({"position": "0/3E8", "bytes": 1000, "checksum": "abc", "completedAt": "2026-11-24T00:00:00Z", "files": 3}),
            replica: None,
            data_bytes: Ok(GIB),
            serving: BTreeSet::new(),
            taken: vec![],
            grown: vec![],
        }
    }

    pub fn subject(&self) -> Subject {
        Subject::new::<PostgreSql>(Arc::new(self.resource.clone())).unwrap()
    }

    pub fn facts(&self) -> Facts<PostgreSql> {
        let running: BTreeMap<u32, Server<ReplicaSummary>> = self
            .own
            .stateful_sets
            .values()
            .filter_map(|set| set.number)
            .map(|number| {
                let held = self.source.slots.iter().any(|slot| slot.number == number && slot.wal_status == "reserved");
                let applied = self.source.position.clone();
                let well =
                    ReplicaSummary { read_only: true, leads: false, streaming: held, applied: applied.clone(), received: applied, ..ReplicaSummary::default() };
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
            target: None,
            claim: Some((20 * GIB, None)),
            config_maps: BTreeMap::from([((None, "shop-env".to_owned()), self.config_maps.get("shop-env").cloned())]),
            service: Some("orders-db".into()),
            key: false,
            credentials: false,
            rival: None,
            neighbours: vec![],
            withdrawn: None,
            agreed: None,
            taken: self.taken.clone(),
            variables: Variables::default(),
            data_bytes: self.data_bytes.clone(),
            not_grown: BTreeMap::new(),
            own: self.own.clone(),
            replicas: running,
            ahead: BTreeMap::new(),
            marks: self.marks.clone(),
            failure: None,
        }
    }

    pub fn plan(&self) -> Plan<SourceStep> {
        plan::<PostgreSql>(&self.subject(), &self.facts(), "understudy:dev")
    }

    pub fn write_status(&mut self, plan: &Plan<SourceStep>) {
        self.resource.status = Some(merge(self.resource.status.as_ref(), plan.status.clone(), self.now));
    }

    pub fn execute(&mut self, step: &Step<SourceStep>) {
        let applied = |number: Option<u32>, digest: Option<String>| Applied { digest, number, ..Applied::default() };
        let number = |labels: &Option<BTreeMap<String, String>>| labels.as_ref()?.get("understudy.dev/replica")?.parse().ok();
        match step {
            Step::Hold => self.resource.metadata.finalizers = Some(vec![FINALIZER.to_owned()]),
            Step::Release => {
                self.resource.metadata.finalizers = None;
                self.exists = self.resource.metadata.deletion_timestamp.is_none();
            }
            Step::Source(step) => self.execute_source(step),
            Step::Mark(replicas) => {
                let Position::Bytes(bytes) = self.source.position else { panic!("of another kind") };
                self.source.position = Position::Bytes(bytes + 10);
                self.marks.extend(replicas.iter().map(|number| (*number, self.source.position.clone())));
            }
            Step::Apply(Object::Claim(claim)) => {
                let name = claim.metadata.name.clone().unwrap();
                assert!(!self.kept.contains(&name), "a volume that was kept is the user's");
                let requests = claim.spec.as_ref().unwrap().resources.as_ref().unwrap().requests.as_ref().unwrap();
                let bytes = bytes_of(&requests["storage"]);
                self.own.claims.insert(name, Applied { bytes, ..applied(number(&claim.metadata.labels), None) });
            }
            Step::Apply(Object::Service(service)) => {
                let digest = Some(crate::controller::digest(&**service));
                self.own.services.insert(service.metadata.name.clone().unwrap(), applied(number(&service.metadata.labels), digest));
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
            Step::Delete(Kind::Secret, _)
            | Step::CreateSecret(_)
            | Step::Change { .. }
            | Step::PutBack { .. }
            | Step::Disown(_)
            | Step::Recreate { .. }
            | Step::Promote
            | Step::Target(_) => panic!("this engine's source is left as it is, and there is no target"),
            Step::Delete(Kind::Job, name) => drop(self.own.jobs.remove(name)),
            Step::Delete(Kind::StatefulSet, name) => drop(self.own.stateful_sets.remove(name)),
            Step::Keep(name) => {
                self.own.claims.remove(name);
                self.kept.insert(name.clone());
            }
            Step::Grow { claim, size } => {
                self.own.claims.get_mut(claim).unwrap().bytes = bytes_of(size);
                self.grown.push(claim.clone());
            }
            Step::Serve { pod, serving } => {
                self.own.pods.iter_mut().filter(|found| found.name == *pod).for_each(|found| found.serving = *serving);
                if *serving {
                    self.serving.insert(pod.clone())
                } else {
                    self.serving.remove(pod)
                };
            }
            Step::PublishSecret { .. } => panic!("there is one application, which knows its password"),
            Step::Publish { config_map, data, .. } => self.config_maps.get_mut(config_map).unwrap().extend(data.clone()),
            Step::Tell { .. } => {}
        }
    }

    pub fn recorded_before_change(&self) -> bool {
        self.resource.status.as_ref().is_some_and(|status| status.enablement.is_some()) && self.resource.metadata.finalizers.is_some()
    }

    pub fn execute_source(&mut self, step: &SourceStep) {
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
            SourceStep::DropRole { .. } => {
                source.role_exists = false;
                source.role_has_password = false;
            }
            SourceStep::RestoreSetting { before, .. } => {
                source.slot_wal_keep_mb = -1;
                source.slot_wal_keep_auto_conf.clone_from(before);
            }
        }
    }

    /// What Kubernetes does by itself meanwhile.
    pub fn pass_time(&mut self) {
        self.now += Duration::from_secs(25);
        let names = self.subject().names;
        for (name, job) in &mut self.own.jobs {
            if *job == Some(JobState::Running) {
                let message = name.contains("-backup-").then(|| {
                    self.backups += 1;
                    self.source.role_has_password = self.source.role_exists;
                    self.report.to_string()
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
            .map(|set| {
                let name = names.replica(set.number.unwrap()) + "-0";
                let serving = self.serving.contains(&name);
                PodFacts { name, component: "replica".into(), number: set.number, ip: Some("10.0.0.1".into()), ready: true, serving, ..PodFacts::default() }
            })
            .collect();
        self.serving.retain(|name| self.own.pods.iter().any(|pod| pod.name == *name));
    }

    /// One look and what follows from it.
    pub fn step_without_time(&mut self) {
        let plan = self.plan();
        self.write_status(&plan);
        plan.steps.iter().for_each(|step| self.execute(step));
    }

    /// One look and what follows from it, and what Kubernetes does until the next.
    pub fn step(&mut self) {
        self.step_without_time();
        self.pass_time();
    }

    /// Reconciles until nothing changes; the controller is killed after each of the given numbers of executed steps.
    pub fn settle(&mut self, kills: &[usize]) -> Vec<String> {
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

    pub fn condition(&self, kind: &str) -> (String, String, String) {
        let condition = self.resource.status.as_ref().unwrap().conditions.iter().find(|c| c.type_ == kind).unwrap().clone();
        (condition.status, condition.reason, condition.message)
    }

    pub fn status(&self) -> &crate::api::DatabaseReplicationStatus {
        self.resource.status.as_ref().unwrap()
    }

    pub fn phase(&self) -> Phase {
        self.resource.status.as_ref().unwrap().phase.unwrap()
    }

    pub fn edit(&mut self, change: impl FnOnce(&mut crate::api::DatabaseReplicationSpec)) {
        change(&mut self.resource.spec);
        *self.resource.metadata.generation.as_mut().unwrap() += 1;
    }

    pub fn assert_replicating(&self, count: u32) {
        assert_eq!(self.phase(), Phase::Ready, "{:?}", self.condition(conditions::READY));
        assert_eq!(self.own.stateful_sets.len(), count as usize);
        assert_eq!(self.source.slots.len(), count as usize);
        let addresses: Vec<String> = (1..=count).map(|n| format!("orders-replica-{n}.shop.svc")).collect();
        assert_eq!(self.config_maps["shop-env"]["POSTGRESQL_SLAVE_ADDRESSES_INT"], addresses.join(","));
        assert_eq!(self.config_maps["shop-env"]["POSTGRESQL_ADDRESS"], "orders-db.shop.svc");
        assert_eq!(self.serving.len(), count as usize, "clients are sent to what the variables name");
    }

    pub fn assert_as_before(&self, start: &Self) {
        let mut source = self.source.clone();
        source.position = start.source.position.clone();
        assert_eq!(source, start.source);
        assert_eq!(self.own, Own::default());
        let environment = &self.config_maps["shop-env"];
        assert_eq!(environment["OTHER"], "kept");
        assert!(environment.get("POSTGRESQL_SLAVE_ADDRESSES_INT").is_none_or(String::is_empty));
    }
}

/// A world whose replica runs and says `summary`, looked at a few times.
pub fn world_with_replica(summary: ReplicaSummary) -> World {
    let mut world = World::new(1);
    world.replica = Some(summary);
    for _ in 0..12 {
        world.step();
    }
    assert_eq!(world.own.stateful_sets.len(), 1);
    world
}

/// What a replica's server says that is nearly in step.
pub fn streaming() -> ReplicaSummary {
    ReplicaSummary {
        read_only: true,
        leads: false,
        streaming: true,
        applied: Position::Bytes(900),
        received: Position::Bytes(900),
        ..ReplicaSummary::default()
    }
}

/// The variables of the world's ConfigMap are those of another resource.
pub fn taken_by(other: &str) -> Taken {
    Taken { kind: "ConfigMap", object: (None, "shop-env".into()), prefix: "POSTGRESQL".into(), by: Some(other.into()) }
}
