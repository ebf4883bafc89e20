//! A target becomes the replica, and a database of its own again, against a model of its StatefulSet and its volume.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::lost::facts_of;
use super::world::{GIB, World};
use crate::agent::RELEASED;
use crate::api::{Change, DatabaseReplicationSpec, DatabaseReplicationStatus, EngineKind, ExistingData, Phase};
use crate::controller::facts::{Administrator, Facts, JobState, Own, Server, SourceWorkload, Subject, TargetFacts};
use crate::controller::plan::{Kind, Object, Plan, Step, again, conditions, plan};
use crate::engine::postgresql::{PostgreSql, SourceFacts, Step as SourceStep};
use crate::engine::redis::Redis;
use crate::engine::{Finding, Identity, Position, ReplicaSummary};
use crate::resources::{Data, data_of, inspect, template_of};

/// What is on the target's volume, and who serves it.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Clone)]
pub(super) struct Target {
    pub(super) stateful_set: StatefulSet,
    pub(super) pod: Option<Pod>,
    /// The copy is in the data directory.
    pub(super) copy: bool,
    /// A finished restore lies beside it.
    pub(super) staged: bool,
    /// Its own data lies beside the copy.
    pub(super) previous: bool,
    /// What it held before is backed up.
    pub(super) kept: bool,
    /// The copy's data is the target's own.
    pub(super) released: bool,
    /// The copy was promoted.
    pub(super) promoted: bool,
    /// What its server has on it then.
    pub(super) server: SourceFacts,
    /// And what of another resource's: it is copied from the same source.
    pub(super) other: Option<(Identity, SourceFacts)>,
    /// What it holds of its own.
    pub(super) held: Vec<String>,
    /// It is written to between the last look at it and its end.
    pub(super) late: bool,
    /// The pod of the Job that keeps this is gone before its answer is read.
    pub(super) silent: bool,
    /// Its server answers.
    pub(super) up: bool,
    /// A server never becomes ready on the copy.
    pub(super) spoilt: bool,
    pub(super) free: u64,
    pub(super) secret: bool,
    /// That it was released was not heard the first time.
    pub(super) told: bool,
    /// Its StatefulSet is gone.
    pub(super) missing: bool,
    /// Its node is gone: no pod starts.
    pub(super) lost: bool,
    /// How often its pod was replaced.
    pub(super) restarts: u32,
}

#[derive(Clone)]
pub(super) struct Pair {
    pub(super) world: World,
    pub(super) target: Target,
    pub(super) withdrawn: Option<Finding>,
    pub(super) neighbours: Vec<Change>,
}

fn stateful_set() -> StatefulSet {
    let container =
        json!({"name": "postgres", "image": "postgres:17", "ports": [{"containerPort": 5432}], "volumeMounts": [{"name": "data", "mountPath": "/data"}]});
    serde_json::from_value(json!({
        "metadata": {"name": "reports-db", "namespace": "shop", "uid": "t"},
        "spec": {
            "replicas": 1, "serviceName": "reports-db", "selector": {"matchLabels": {"app": "reports-db"}},
            "template": {"spec": {"containers": [container]}}, "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]
        }
    }))
    .unwrap()
}

impl Pair {
    pub(super) fn new(edit: impl FnOnce(&mut DatabaseReplicationSpec)) -> Self {
        let mut world = World::new(1);
        world.edit(|spec| {
            spec.replicas = None;
            spec.source.stateful_set_ref.namespace = Some("sales".into());
            spec.environment = None;
            let target = json!({"statefulSetRef": {"name": "reports-db"}, "credentials": {"secretRef": {"name": "reports-db"}}});
            spec.target = Some(serde_json::from_value(target).unwrap());
            edit(spec);
        });
        let target = Target {
            stateful_set: stateful_set(),
            pod: None,
            copy: false,
            staged: false,
            previous: false,
            kept: false,
            released: false,
            promoted: false,
            server: SourceFacts::default(),
            other: None,
            held: vec![],
            late: false,
            silent: false,
            up: true,
            spoilt: false,
            free: 10 * GIB,
            secret: false,
            told: false,
            missing: false,
            lost: false,
            restarts: 0,
        };
        let mut pair = Self { world, target, withdrawn: None, neighbours: vec![] };
        pair.start_pod();
        pair.target.restarts = 0;
        pair
    }

    pub(super) fn proven(&self) -> bool {
        self.world.resource.status.iter().flat_map(|status| &status.replicas).any(|entry| entry.proven_at.is_some())
    }

    /// The copy is the target's: it was proven, or somebody promoted it.
    fn owned(&self) -> bool {
        self.proven() || self.target.promoted
    }

    pub(super) fn template(&mut self) -> &mut PodSpec {
        self.target.stateful_set.spec.as_mut().unwrap().template.spec.as_mut().unwrap()
    }

    pub(super) fn wants(&self) -> Option<Data> {
        data_of(template_of(&self.target.stateful_set), &self.world.subject().names.identity)
    }

    pub(super) fn runs(&self) -> Option<Data> {
        data_of(self.target.pod.as_ref()?.spec.as_ref(), &self.world.subject().names.identity)
    }

    /// What the init container and the server do.
    pub(super) fn start_pod(&mut self) {
        let target = &mut self.target;
        let spec = target.stateful_set.spec.as_ref().unwrap().template.spec.clone();
        let data = data_of(spec.as_ref(), &self.world.subject().names.identity);
        match data {
            Some(Data::Staged) if !target.copy => {
                assert!(target.staged, "it restarts for a restore that is finished");
                let replace = self.world.resource.spec.target.as_ref().unwrap().existing_data == ExistingData::BackUpAndReplace;
                assert!(target.held.is_empty() || replace, "data of its own was not to be replaced");
                (target.copy, target.staged, target.previous) = (true, false, true);
            }
            Some(Data::Previous) if target.copy => {
                assert!(target.previous, "there is nothing to go back to");
                (target.copy, target.staged, target.previous) = (false, true, false);
            }
            _ => {}
        }
        // The guard lets a server that takes writes start only on data that is its own.
        let ready = !(target.copy && (target.spoilt || target.promoted && !target.released));
        target.restarts += 1;
        let condition = json!([{"type": "Ready", "status": if ready { "True" } else { "False" }}]);
        let meta = json!({"name": "reports-db-0", "uid": target.restarts.to_string()});
        target.pod = Some(serde_json::from_value(json!({"metadata": meta, "spec": spec, "status": {"podIP": "10.0.0.9", "conditions": condition}})).unwrap());
    }

    pub(super) fn ready(&self) -> bool {
        self.target.pod.as_ref().is_some_and(|pod| {
            pod.status
                .as_ref()
                .is_some_and(|status| status.conditions.iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True"))
        })
    }

    pub(super) fn facts(&self) -> Facts<PostgreSql> {
        let subject = self.world.subject();
        let recorded = subject.target_status();
        let own = SourceFacts { system: "another".into(), data_directory: "/data/pgdata".into(), ..self.world.source.clone() };
        let directory = recorded.map_or(own.data_directory.as_str(), |recorded| recorded.data_directory.as_str());
        let asked = self.wants().is_none() && !recorded.is_some_and(|recorded| recorded.joined);
        let target = TargetFacts {
            workload: (!self.target.missing).then(|| SourceWorkload { stateful_set: self.target.stateful_set.clone(), pod: self.target.pod.clone() }),
            administrator: Ok(Administrator { username: "postgres".into(), password: "secret".into(), username_key: None }),
            shape: Some(inspect(&self.target.stateful_set, None, 5432, directory)),
            server: match (asked, self.target.up && self.ready()) {
                (false, _) => Server::NotAsked,
                (true, true) => Server::Up(own),
                (true, false) => Server::Unreachable("connection refused".into()),
            },
            volume_bytes: Some(20 * GIB),
            data: Ok((1, self.target.held.clone())),
            logins: vec![],
            rival: None,
            service: Some("reports".into()),
            promoted: if self.target.promoted {
                [(subject.names.identity.clone(), self.target.server.clone())].into_iter().chain(self.target.other.clone()).collect()
            } else {
                vec![]
            },
        };
        let as_replica = match self.runs() {
            Some(data) => data == Data::Staged,
            None => recorded.is_some_and(|recorded| recorded.joined),
        };
        let mut replicas = BTreeMap::new();
        if as_replica && self.target.pod.is_some() && !self.target.missing {
            let applied = self.world.source.position.clone();
            let streaming = !self.target.promoted && self.world.source.slots.iter().any(|slot| slot.number == 1);
            let summary =
                ReplicaSummary { read_only: !self.target.promoted, streaming, applied: applied.clone(), received: applied, ..ReplicaSummary::default() };
            assert!(self.target.copy || !self.ready(), "as a replica only the copy is asked");
            replicas.insert(1, if self.target.up && self.ready() { Server::Up(summary) } else { Server::Unreachable("connection refused".into()) });
        }
        let (withdrawn, neighbours) = (self.withdrawn.clone(), self.neighbours.clone());
        Facts { target: Some(Box::new(target)), replicas, credentials: self.target.secret, withdrawn, neighbours, ..self.world.facts() }
    }

    pub(super) fn plan(&self) -> Plan<SourceStep> {
        plan::<PostgreSql>(&self.world.subject(), &self.facts(), "understudy:dev")
    }

    fn patch(&mut self, patch: &Value) {
        assert!(self.world.recorded_before_change(), "the record comes before the first change");
        let manager = self.world.subject().names.manager();
        let ours: Vec<Container> = serde_json::from_value(patch["spec"]["template"]["spec"]["initContainers"].clone()).unwrap_or_default();
        let init = self.template().init_containers.get_or_insert_default();
        init.retain(|container| container.name != "understudy-swap");
        init.extend(ours);
        let fields = json!({"f:initContainers": {"k:{\"name\":\"understudy-swap\"}": {}}});
        self.target.stateful_set.metadata.managed_fields = serde_json::from_value(json!([{"manager": manager, "fieldsV1": fields}])).unwrap();
    }

    pub(super) fn execute(&mut self, step: &Step<SourceStep>) {
        match step {
            Step::Change { side: "target", patch, .. } | Step::PutBack { side: "target", patch, .. } => self.patch(patch),
            Step::Disown(_) => self.target.stateful_set.metadata.managed_fields = None,
            Step::Recreate { uid, .. } => {
                assert_eq!(self.target.pod.as_ref().unwrap().metadata.uid.as_ref(), Some(uid));
                assert!(!self.ready(), "a server that runs is restarted by its StatefulSet");
                self.start_pod();
            }
            Step::Promote => {
                assert!(self.owned() && self.target.copy && self.target.up && self.target.released, "only what was proven is promoted");
                if !self.target.promoted {
                    // The copy has what was changed on the source before it was taken, but for the slots.
                    self.target.server = SourceFacts { slots: vec![], ..self.world.source.clone() };
                }
                self.target.promoted = true;
            }
            Step::Target(step) => {
                assert!(self.target.promoted, "a replica is not written to");
                let of_other = self.target.other.as_mut().filter(|(identity, _)| step.to_string().contains(&identity.role())).map(|(_, server)| server);
                let server = of_other.unwrap_or(&mut self.target.server);
                let mut copy = World { source: server.clone(), own: Own::default(), ..self.world.clone() };
                copy.execute_source(step);
                *server = copy.source;
            }
            Step::CreateSecret(_) => self.target.secret = true,
            Step::Delete(Kind::Secret, _) => self.target.secret = false,
            // Before anything is recorded the volume is only looked at.
            Step::Apply(Object::Job(job)) if job.metadata.name.as_ref().unwrap().contains("-measure-") => {
                self.world.own.jobs.insert(job.metadata.name.clone().unwrap(), Some(JobState::Running));
            }
            Step::Apply(Object::Job(job)) if job.metadata.name.as_ref().unwrap().contains("-release-") => {
                assert!(self.world.status().target.as_ref().unwrap().releasing, "from then on the copy may be written to: that is on record before");
                self.world.execute(step);
            }
            other => self.world.execute(other),
        }
    }

    /// What Kubernetes does by itself meanwhile.
    pub(super) fn pass_time(&mut self) {
        let running: Vec<String> = self.world.own.jobs.iter().filter(|(_, job)| **job == Some(JobState::Running)).map(|(name, _)| name.clone()).collect();
        let measured = json!({"freeBytes": self.target.free, "writable": true}).to_string();
        self.world.pass_time();
        for name in running {
            if name.contains("-measure-") {
                self.world.own.jobs.insert(name, Some(JobState::Complete(Some(measured.clone()))));
            } else if name.contains("-backup-") {
                assert!(self.target.secret, "the Job finds its password");
            } else if name.contains("-restore-") {
                assert!(!self.target.copy, "nothing is restored over what runs");
                self.target.staged = true;
            } else if name.contains("-keep-") {
                assert!(self.owned() && self.world.own.claims.contains_key(&self.world.subject().names.backup_claim()));
                let asked = self.world.resource.spec.target.as_ref().unwrap().existing_data == ExistingData::BackUpAndReplace;
                self.target.kept |= self.target.previous && (asked || self.target.late);
                let report = json!({"bytes": 7, "checksum": "abc", "directory": "d", "completedAt": "2026-11-24T00:00:00Z"});
                let message = if self.target.kept { report.to_string() } else { "null".to_owned() };
                self.world.own.jobs.insert(name, Some(JobState::Complete(Some(message).filter(|_| !std::mem::take(&mut self.target.silent)))));
            } else if name.contains("-release-") {
                self.target.released = true;
                // The first time its pod is gone before its answer is read.
                let message = Some(RELEASED.to_owned()).filter(|_| std::mem::replace(&mut self.target.told, true));
                self.world.own.jobs.insert(name, Some(JobState::Complete(message)));
            } else if name.contains("-discard-") || name.contains("-clear-") {
                assert!(!name.contains("-clear-") || self.runs().is_none(), "what is ours goes once nothing needs it");
                assert!(!name.contains("-clear-") || self.target.released || !self.target.copy, "the agent refuses what was not released");
                assert!(!self.target.previous || self.owned(), "what it held before is kept until the copy is proven");
                let (late, held) = (self.target.late, !self.target.held.is_empty());
                assert!(!self.target.previous || !(held || late) || self.target.kept, "and data that was there is backed up");
                (self.target.staged, self.target.previous) = (false, false);
            }
        }
        if self.target.lost || self.target.stateful_set.spec.as_ref().unwrap().replicas == Some(0) {
            self.target.pod = None;
            return;
        }
        let same = self.target.pod.as_ref().is_some_and(|pod| pod.spec.as_ref() == template_of(&self.target.stateful_set));
        if !same && (self.ready() || self.target.pod.is_none()) {
            self.start_pod();
        }
    }

    /// Reconciles so many times.
    pub(super) fn reconcile(&mut self, times: usize) {
        for _ in 0..times {
            let plan = self.plan();
            self.world.write_status(&plan);
            plan.steps.iter().for_each(|step| self.execute(step));
            self.pass_time();
        }
    }

    /// Reconciles until the copy is proven, and no further.
    pub(super) fn until_proven(&mut self) {
        while !self.proven() {
            self.reconcile(1);
        }
    }

    /// Reconciles until nothing changes; the controller is killed after each of the given numbers of executed steps.
    pub(super) fn settle(&mut self, kills: &[usize]) -> Vec<String> {
        let (mut executed, mut told) = (0, Vec::new());
        for _ in 0..120 {
            let plan = self.plan();
            let before = self.world.resource.status.clone();
            self.world.write_status(&plan);
            for step in &plan.steps {
                executed += 1;
                if kills.contains(&executed) {
                    self.world.marks.clear();
                    break;
                }
                told.push(step.to_string());
                self.execute(step);
                if !self.world.exists {
                    return told;
                }
            }
            self.pass_time();
            if plan.steps.is_empty() && before == self.world.resource.status && self.plan().steps.is_empty() {
                return told;
            }
        }
        panic!("does not settle; last: {:?}; status: {:?}", told.iter().rev().take(8).collect::<Vec<_>>(), self.world.resource.status);
    }

    pub(super) fn assert_replicates(&self) {
        assert_eq!(self.world.phase(), Phase::Ready, "{:?}", self.world.condition(conditions::READY));
        let status = self.world.status();
        assert_eq!((status.replicas[0].name.as_str(), status.replicas[0].address.as_str()), ("reports-db", "reports.shop.svc"));
        assert!(self.target.copy && !self.target.promoted && !self.target.previous && !self.target.staged);
        assert_eq!((self.wants(), self.target.restarts, self.target.secret), (Some(Data::Staged), 1, false));
        assert!(status.disruption.as_ref().unwrap().measured.as_ref().unwrap().ends_with("until the target answered again"));
        assert_eq!(self.world.source.slots.len(), 1);
    }

    /// Nothing of ours is left, on either side.
    pub(super) fn assert_left_alone(&self, start: &Self) {
        assert_eq!(self.target.stateful_set.metadata.managed_fields, None);
        assert_eq!(self.wants(), None);
        assert!(!self.target.staged && !self.target.previous && !self.target.secret && self.runs().is_none() && self.ready());
        let source = SourceFacts { position: start.world.source.position.clone(), ..self.world.source.clone() };
        assert_eq!(source, start.world.source);
        let copied = SourceFacts { position: start.world.source.position.clone(), ..self.target.server.clone() };
        assert!(!self.target.promoted || copied == start.world.source, "{copied:?}");
        assert!(self.world.own.jobs.is_empty() && self.world.own.claims.is_empty() && self.world.own.services.is_empty(), "{:?}", self.world.own);
    }
}

pub(super) fn disable(pair: &mut Pair, deleted: bool) {
    if deleted {
        let now = pair.world.now;
        pair.world.resource.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now));
    } else {
        pair.world.edit(|spec| spec.enabled = false);
    }
}

#[test]
fn an_empty_target_becomes_the_replica_and_a_database_of_its_own_again() {
    let start = Pair::new(|_| {});
    let mut pair = start.clone();
    let told = pair.settle(&[]);
    pair.assert_replicates();
    let at = |part: &str| told.iter().position(|step| step.contains(part)).unwrap_or_else(|| panic!("{part} is missing: {told:?}"));
    let order = ["-measure-", "finalizer", "create the role", "-backup-", "-restore-", "exchanges its data", "mark", "-discard-"].map(at);
    assert!(order.is_sorted(), "{told:?}");
    let status = pair.world.resource.status.clone();
    pair.world.now += Duration::from_mins(10);
    assert!(pair.plan().steps.is_empty(), "idle");
    pair.world.write_status(&pair.plan());
    assert_eq!(pair.world.resource.status, status, "an idle cluster sees no writes");

    disable(&mut pair, false);
    pair.settle(&[]);
    assert_eq!(pair.world.phase(), Phase::Standalone);
    assert!(pair.target.copy && pair.target.promoted, "it keeps the data that it has, and takes writes");
    assert_eq!(pair.target.restarts, 2);
    pair.assert_left_alone(&start);
}

#[test]
fn a_copy_that_was_not_proven_makes_room_for_what_was_there_before() {
    let start = Pair::new(|_| {});
    for steps in 0..20 {
        let mut pair = start.clone();
        for _ in 0..steps {
            if pair.proven() {
                return assert!(steps > 5, "it had its time to be undone in");
            }
            pair.reconcile(1);
        }
        if pair.proven() {
            continue;
        }
        disable(&mut pair, steps % 2 == 0);
        pair.settle(&[]);
        assert!(!pair.target.copy && !pair.target.promoted, "after {steps} looks");
        if steps % 2 == 1 {
            assert_eq!(pair.world.phase(), Phase::Standalone);
        }
        pair.assert_left_alone(&start);
    }
}

#[test]
fn a_server_that_never_starts_on_the_copy_gets_its_own_data_back() {
    let start = Pair::new(|_| {});
    let mut pair = start.clone();
    pair.target.spoilt = true;
    pair.reconcile(12);
    assert!(pair.target.copy && pair.target.previous && !pair.ready());
    assert_eq!(pair.world.condition(conditions::READY).1, "ReplicaStarting");
    disable(&mut pair, false);
    // Kubernetes waits for the pod to become ready before it takes over another template.
    let told = pair.settle(&[]);
    assert!(told.iter().any(|step| step.starts_with("delete Pod reports-db-0")), "{told:?}");
    assert!(!pair.target.copy);
    pair.assert_left_alone(&start);
}

#[test]
fn data_that_appears_while_the_copy_is_made_is_not_replaced() {
    let mut pair = Pair::new(|_| {});
    while !pair.target.staged {
        pair.reconcile(1);
    }
    pair.target.held = vec!["3 tables".into()];
    pair.settle(&[]);
    assert_eq!(pair.world.condition(conditions::READY).1, "TargetHoldsData");
    assert_eq!((pair.wants(), pair.target.restarts), (None, 0));
    pair.target.held.clear();
    pair.settle(&[]);
    pair.assert_replicates();
}

#[test]
fn a_volume_without_room_is_left_alone_and_measured_again() {
    let mut pair = Pair::new(|_| {});
    pair.target.free = GIB;
    pair.reconcile(4);
    let (_, reason, message) = pair.world.condition(conditions::READY);
    assert_eq!(reason, "TargetVolumeTooSmall");
    assert!(message.contains("1.0 GiB free") && message.contains("2.0 GiB are needed"), "{message}");
    assert!(pair.world.status().enablement.is_none() && pair.world.resource.metadata.finalizers.is_none(), "nothing was begun");
    // Kubernetes removes the Job after a while: what was said stays until it is known to be mended.
    let job = pair.world.subject().names.measure_job();
    pair.world.own.jobs.clear();
    let before = pair.world.resource.status.clone();
    let plan = pair.plan();
    assert!(plan.again >= again::PROGRESS);
    pair.world.write_status(&plan);
    plan.steps.iter().for_each(|step| pair.execute(step));
    assert_eq!(pair.world.resource.status, before);
    assert!(pair.world.own.jobs.contains_key(&job));
    pair.target.free = 3 * GIB;
    pair.settle(&[]);
    pair.assert_replicates();
}

#[test]
fn either_side_may_be_dead_when_it_is_undone() {
    let start = Pair::new(|_| {});
    let mut replicating = start.clone();
    replicating.settle(&[]);
    // The target is dead: the source is cleaned, and it is promoted once it is back.
    let mut pair = replicating.clone();
    pair.target.up = false;
    disable(&mut pair, false);
    pair.settle(&[]);
    assert_eq!(pair.world.condition(conditions::READY).1, "TargetUnreachable");
    assert!(pair.world.source.slots.is_empty() && !pair.world.source.role_exists);
    assert!(pair.proven(), "that it may be promoted stays on record");
    pair.target.up = true;
    pair.settle(&[]);
    assert!(pair.target.promoted);
    pair.assert_left_alone(&start);
    // The source is dead.
    let mut pair = replicating.clone();
    pair.world.reachable = false;
    disable(&mut pair, false);
    pair.settle(&[]);
    assert_eq!(pair.world.condition(conditions::READY).1, "SourceUnreachable");
    assert!(pair.target.promoted && pair.wants().is_none(), "it serves and takes writes");
    pair.world.reachable = true;
    pair.settle(&[]);
    pair.assert_left_alone(&start);
    // Both are, for good.
    let mut pair = replicating.clone();
    (pair.target.up, pair.world.reachable) = (false, false);
    disable(&mut pair, true);
    let told = pair.settle(&[]);
    assert!(!pair.world.exists);
    assert!(told.iter().any(|step| step.contains("TargetNotReturned")) && told.iter().any(|step| step.contains("SourceNotCleaned")), "{told:?}");
}

#[test]
fn what_the_target_held_is_backed_up_before_it_is_deleted_and_never_deleted_then() {
    for early in [false, true] {
        let mut pair = Pair::new(|spec| {
            spec.target.as_mut().unwrap().existing_data = ExistingData::BackUpAndReplace;
            spec.deletion_policy = crate::api::DeletionPolicy::Delete;
        });
        pair.target.held = vec!["3 tables".into()];
        pair.until_proven();
        if !early {
            pair.settle(&[]);
            assert!(pair.target.kept && !pair.target.previous && pair.world.phase() == Phase::Ready);
        }
        disable(&mut pair, false);
        pair.settle(&[]);
        assert!(pair.target.kept && !pair.target.previous && pair.target.promoted, "also where it is undone at once");
        let kept = pair.world.status().kept.clone().unwrap();
        assert!(kept.bytes == 7 && kept.directory.ends_with("-previous"), "{kept:?}");
        assert!(pair.world.kept.contains(&kept.claim), "deletionPolicy: Delete is for copies");
    }
}

#[test]
fn what_was_written_to_a_target_after_the_last_look_at_it_is_kept() {
    let start = Pair::new(|_| {});
    for (late, silent, early) in [(false, false, false), (false, true, false), (true, false, false), (true, true, false), (true, false, true)] {
        let mut pair = start.clone();
        (pair.target.late, pair.target.silent) = (late, silent);
        pair.until_proven();
        if !early {
            pair.settle(&[]);
            assert!(!pair.target.previous && pair.world.phase() == Phase::Ready);
        }
        disable(&mut pair, false);
        pair.settle(&[]);
        assert!(!pair.target.previous && pair.target.promoted && !pair.target.silent);
        assert_eq!((pair.target.kept, pair.world.status().kept.is_some()), (late, late));
    }
}

#[test]
fn a_consent_that_is_taken_back_has_the_source_cleaned_and_the_target_left_alone() {
    let start = Pair::new(|_| {});
    let mut pair = start.clone();
    pair.settle(&[]);
    pair.withdrawn = Some(Finding::new("NamespaceNotAllowed", "no", "ask"));
    pair.settle(&[]);
    let (status, reason, message) = pair.world.condition(conditions::READY);
    assert_eq!((status.as_str(), reason.as_str()), ("False", "ConsentWithdrawn"));
    assert!(message.contains("ask") && message.contains("set enabled to false"), "{message}");
    assert!(!pair.world.source.role_exists && pair.world.source.slots.is_empty() && !pair.world.source.hba_line_present);
    assert!(pair.target.copy && !pair.target.promoted && pair.wants() == Some(Data::Staged) && pair.target.restarts == 1);
    disable(&mut pair, false);
    pair.settle(&[]);
    assert!(pair.target.promoted);
    pair.assert_left_alone(&start);
}

#[test]
fn a_target_whose_template_somebody_put_back_becomes_a_database_of_its_own() {
    let start = Pair::new(|_| {});
    for restarted in [true, false] {
        let mut pair = start.clone();
        pair.settle(&[]);
        pair.template().init_containers = None;
        pair.target.stateful_set.metadata.managed_fields = None;
        if restarted {
            pair.start_pod();
        }
        disable(&mut pair, true);
        pair.settle(&[]);
        assert!(!pair.world.exists && pair.target.promoted && pair.target.released && !pair.target.previous);
        assert!(!pair.target.server.role_exists && !pair.target.server.hba_line_present, "{:?}", pair.target.server);
        assert!(pair.runs().is_none());
    }
}

/// A Redis, which does not start on the copy without its arguments: somebody took them, and its StatefulSet has what `edit` leaves of the record.
fn changes_of_a_redis(pair: &Pair, edit: impl FnOnce(&mut DatabaseReplicationStatus)) -> (Vec<String>, DatabaseReplicationStatus) {
    let mut world = pair.world.clone();
    world.resource.spec.engine = EngineKind::Redis;
    world.own = Own::default();
    edit(world.resource.status.as_mut().unwrap());
    let silent = || "connection refused".to_owned();
    let facts = pair.facts();
    let target = facts.target.unwrap();
    let target = TargetFacts::<Redis> {
        workload: target.workload,
        administrator: target.administrator,
        server: Server::NotAsked,
        shape: target.shape,
        volume_bytes: target.volume_bytes,
        data: Err("it was not asked".into()),
        logins: vec![],
        rival: None,
        service: target.service,
        promoted: vec![],
    };
    let facts = Facts {
        target: Some(Box::new(target)),
        ..facts_of::<Redis>(&world, Server::Unreachable(silent()), BTreeMap::from([(1, Server::Unreachable(silent()))]))
    };
    let subject = Subject::new::<Redis>(Arc::new(world.resource.clone())).unwrap();
    let plan = plan::<Redis>(&subject, &facts, "understudy:dev");
    (plan.steps.iter().filter(|step| matches!(step, Step::Change { .. })).map(ToString::to_string).collect(), plan.status)
}

#[test]
fn arguments_that_somebody_took_are_put_back_once_and_never_on_a_copy_that_is_released() {
    let mut pair = Pair::new(|_| {});
    pair.settle(&[]);
    let failed =
        json!([{"name": "redis", "image": "", "imageID": "", "ready": false, "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]);
    pair.target.pod.as_mut().unwrap().status.as_mut().unwrap().container_statuses = serde_json::from_value(failed).unwrap();
    disable(&mut pair, false);
    let (changes, status) = changes_of_a_redis(&pair, |_| {});
    assert!(changes.len() == 1 && status.target.unwrap().resumed == Some(0), "{changes:?}");
    let none = |pair: &Pair, what: &str, edit: &dyn Fn(&mut DatabaseReplicationStatus)| {
        let (changes, _) = changes_of_a_redis(pair, edit);
        assert_eq!(changes, [""; 0], "{what}");
    };
    none(&pair, "a pipeline is not fought", &|status| status.target.as_mut().unwrap().resumed = Some(-1));
    // What a stand-alone server wrote without them would not be there with them.
    none(&pair, "it may be a stand-alone server's", &|status| status.target.as_mut().unwrap().releasing = true);
    // It may only be restarting.
    pair.target.pod.as_mut().unwrap().status.as_mut().unwrap().container_statuses = None;
    none(&pair, "it does not fail", &|_| {});
}

#[test]
fn what_a_neighbour_has_on_the_source_does_not_stay_on_the_copy() {
    let mut pair = Pair::new(|_| {});
    pair.settle(&[]);
    let there = SourceFacts { role_exists: true, hba_line_present: true, slot_wal_keep_mb: 512, ..SourceFacts::default() };
    pair.target.other = Some((Identity::parse("zzzzzzz9").unwrap(), there));
    disable(&mut pair, false);
    pair.settle(&[]);
    let (_, left) = pair.target.other.unwrap();
    assert!(pair.target.promoted && !left.role_exists && !left.hba_line_present, "{left:?}");
}

#[test]
fn what_a_neighbour_still_needs_is_left_to_it() {
    let setting = |world: &World| world.source.slot_wal_keep_mb;
    let mut pair = Pair::new(|_| {});
    let before = setting(&pair.world);
    pair.settle(&[]);
    let (limited, changes) = (setting(&pair.world), pair.world.status().source.clone().unwrap().changes);
    assert_ne!(limited, before);
    let shared: Vec<_> = changes.iter().filter(|change| change.what.starts_with("setting ")).cloned().collect();
    assert_eq!(shared.len(), 1);
    // Another one finds it changed already, and has on record what it was.
    let mut other = Pair::new(|_| {});
    other.world.source = SourceFacts { role_exists: false, hba_line_present: false, slots: vec![], ..pair.world.source.clone() };
    other.neighbours = shared.clone();
    other.settle(&[]);
    assert!(other.world.status().source.clone().unwrap().changes.contains(&shared[0]));
    // Both began at once: the one that finds the value half changed has on record what it was, too.
    let mut hasty = Pair::new(|_| {});
    hasty.world.source = SourceFacts { slot_wal_keep_auto_conf: shared[0].after.clone().into(), ..hasty.world.source.clone() };
    hasty.neighbours = shared.clone();
    hasty.settle(&[]);
    assert_eq!(hasty.world.status().source.clone().unwrap().changes.iter().find(|change| change.what == shared[0].what).unwrap().before, shared[0].before);
    // The first goes and leaves it; the last undoes it.
    pair.neighbours = shared.clone();
    disable(&mut pair, false);
    pair.settle(&[]);
    assert_eq!(setting(&pair.world), limited);
    other.neighbours.clear();
    disable(&mut other, false);
    other.settle(&[]);
    assert_eq!(setting(&other.world), before);
}

#[test]
fn only_a_rehearsal_goes_on_where_data_is_to_be_replaced() {
    let mut pair = Pair::new(|_| {});
    pair.target.held = vec!["3 tables".into()];
    pair.settle(&[]);
    assert_eq!(pair.world.condition(conditions::READY).1, "TargetHoldsData");
    pair.world.edit(|spec| {
        spec.dry_run = true;
        spec.target.as_mut().unwrap().existing_data = ExistingData::BackUpAndReplace;
    });
    pair.settle(&[]);
    assert_eq!(pair.world.phase(), Phase::DryRun);
    assert!(!pair.world.own.jobs.keys().any(|job| !job.contains("-measure-")), "{:?}", pair.world.own.jobs);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn killed_anywhere_it_ends_the_same(up in proptest::collection::vec(1_usize..30, 0..3), down in proptest::collection::vec(1_usize..30, 0..3), deleted: bool) {
        let start = Pair::new(|_| {});
        let mut pair = start.clone();
        pair.settle(&up);
        pair.assert_replicates();
        disable(&mut pair, deleted);
        pair.settle(&down);
        prop_assert!(pair.target.copy && pair.target.promoted);
        pair.assert_left_alone(&start);
        prop_assert_eq!(pair.world.exists, !deleted);
        prop_assert!(pair.world.source.position.reaches(&Position::Bytes(1000)));
    }
}
