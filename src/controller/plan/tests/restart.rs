//! A source that restarts as a replica set, against a model of it: restarted once each way, whatever happens in between, and followed when another is elected.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use k8s_openapi::jiff::Timestamp;
use proptest::prelude::*;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::world::GIB;
use crate::api::{DatabaseReplication, FINALIZER, Phase, Restart};
use crate::controller::facts::{Administrator, Applied, Facts, JobState, Own, PodFacts, Server, SourceWorkload, Subject, Variables};
use crate::controller::plan::{Kind, Object, Plan, Step, conditions, merge, plan};
use crate::engine::mongodb::{Member, MongoDb, SourceFacts, Standing, Step as SourceStep};
use crate::engine::{Engine, Position, ReplicaSummary};
use crate::resources::{container_with, inspect, needs_key_file, template_of};

/// Everything that outlives the controller.
#[derive(Clone)]
#[allow(clippy::struct_field_names)]
struct Set {
    resource: DatabaseReplication,
    exists: bool,
    stateful_set: StatefulSet,
    /// What its pod was started from.
    started: PodSpec,
    /// What the source's server is: of the template that its pod was started from.
    source: SourceFacts,
    restarts: u32,
    /// What the database `local` of a server that stands alone holds.
    left: Vec<Member>,
    reachable: bool,
    /// The replica that was elected.
    elected: Option<u32>,
    key: bool,
    own: Own,
    services: BTreeMap<String, Service>,
    variables: BTreeMap<String, String>,
    serving: BTreeSet<String>,
    marks: BTreeMap<u32, Position>,
    now: Timestamp,
}

impl Set {
    fn new() -> Self {
        let resource = serde_json::from_value(json!({
            "apiVersion": "understudy.dev/v1alpha1", "kind": "DatabaseReplication",
            "metadata": {"name": "orders", "namespace": "shop", "uid": "8d1f2f3c-0000-4000-8000-000000000001", "generation": 1},
            "spec": {
                "engine": "MongoDB", "replicas": 2, "backup": {"volume": {"size": "20Gi"}},
                "source": {"statefulSetRef": {"name": "orders-db"}, "credentials": {"secretRef": {"name": "orders-db"}}},
                "environment": {"configMaps": [{"name": "shop-env"}]}
            }
        }));
        let container = json!({"name": "mongodb", "image": "mongo:6.0", "args": ["--auth"], "volumeMounts": [{"name": "data", "mountPath": "/data/db"}]});
        let stateful_set = json!({
            "metadata": {"name": "orders-db", "namespace": "shop", "uid": "u"},
            "spec": {"replicas": 1, "serviceName": "orders-db", "selector": {}, "template": {"spec": {"containers": [container]}},
                "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]}
        });
        let source =
            SourceFacts { version: "6.0.5".into(), data_directory: "/data/db".into(), authorization: true, user: "root".into(), ..SourceFacts::default() };
        let started = serde_json::from_value(stateful_set["spec"]["template"]["spec"].clone());
        Self {
            resource: resource.unwrap(),
            exists: true,
            stateful_set: serde_json::from_value(stateful_set).unwrap(),
            started: started.unwrap(),
            source,
            restarts: 0,
            left: vec![],
            reachable: true,
            elected: None,
            key: false,
            own: Own::default(),
            services: BTreeMap::new(),
            variables: BTreeMap::new(),
            serving: BTreeSet::new(),
            marks: BTreeMap::new(),
            now: Timestamp::from_second(1_800_000_000).unwrap(),
        }
    }

    fn subject(&self) -> Subject {
        Subject::new::<MongoDb>(Arc::new(self.resource.clone())).unwrap()
    }

    fn position(&self) -> Position {
        Position::Timestamp { seconds: self.source.applied.0, increment: self.source.applied.1 }
    }

    fn facts(&self) -> Facts<MongoDb> {
        let replica = |number: u32| {
            let member = self.source.members.iter().any(|member| member.id == number);
            let leads = self.elected == Some(number);
            let applied = if member { self.position() } else { Position::default() };
            let summary = ReplicaSummary { read_only: !leads, leads, streaming: member, received: applied.clone(), applied, ..ReplicaSummary::default() };
            (number, Server::Up(summary))
        };
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "orders-db-0"}, "spec": self.started})).unwrap();
        let (stateful_set, reachable) = (self.stateful_set.clone(), self.reachable);
        Facts {
            now: self.now,
            administrator: Ok(Administrator { username: "root".into(), password: "secret".into(), username_key: None }),
            server: if reachable { Server::Up(self.source.clone()) } else { Server::Unreachable("connection refused".into()) },
            shape: reachable.then(|| inspect(&stateful_set, None, 27017, "/data/db")),
            source: Some(SourceWorkload { stateful_set, pod: Some(pod) }),
            target: None,
            claim: Some((20 * GIB, None)),
            config_maps: BTreeMap::from([((None, "shop-env".to_owned()), Some(self.variables.clone()))]),
            service: Some("orders-db".into()),
            key: self.key,
            credentials: false,
            rival: None,
            neighbours: vec![],
            withdrawn: None,
            agreed: None,
            taken: vec![],
            variables: Variables::default(),
            data_bytes: Ok(GIB),
            not_grown: BTreeMap::new(),
            own: self.own.clone(),
            replicas: self.own.stateful_sets.values().filter_map(|set| set.number).map(replica).collect(),
            ahead: BTreeMap::new(),
            marks: self.marks.clone(),
            failure: None,
        }
    }

    fn plan(&self) -> Plan<SourceStep> {
        plan::<MongoDb>(&self.subject(), &self.facts(), "understudy:dev")
    }

    fn recorded(&self) -> bool {
        self.resource.status.as_ref().is_some_and(|status| status.enablement.is_some()) && self.resource.metadata.finalizers.is_some()
    }

    fn execute(&mut self, step: &Step<SourceStep>) {
        let number = |labels: &Option<BTreeMap<String, String>>| labels.as_ref()?.get("understudy.dev/replica")?.parse().ok();
        let applied = |number: Option<u32>, digest: Option<String>| Applied { digest, number, ..Applied::default() };
        match step {
            Step::Hold => self.resource.metadata.finalizers = Some(vec![FINALIZER.to_owned()]),
            Step::Release => {
                self.resource.metadata.finalizers = None;
                self.exists = self.resource.metadata.deletion_timestamp.is_none();
            }
            Step::CreateSecret(_) => self.key = true,
            Step::Change { patch, .. } | Step::PutBack { patch, .. } => {
                assert!(self.recorded(), "the record comes before the first change");
                let changes = matches!(step, Step::Change { .. });
                assert!(!changes || self.key && self.services.contains_key("orders-source"), "what the pod needs to start is there before it restarts");
                assert!(changes || self.own.stateful_sets.is_empty(), "the source is alone before it is put back");
                let ours = MongoDb::source_arguments(&self.subject().names.identity);
                let manager = json!([{"manager": self.subject().names.manager(), "fieldsV1": {"f:initContainers": {"understudy-key": {}}}}]);
                let pod = patch["spec"]["template"]["spec"].clone();
                if changes || container_with(template_of(&self.stateful_set), &ours).is_some() {
                    self.containers()[0].args = serde_json::from_value(pod["containers"][0]["args"].clone()).unwrap();
                    self.reachable = false;
                }
                self.pod().init_containers = serde_json::from_value(pod["initContainers"].clone()).unwrap();
                self.stateful_set.metadata.managed_fields = changes.then(|| serde_json::from_value(manager).unwrap());
            }
            Step::Source(step) => self.execute_source(step),
            Step::Mark(replicas) => {
                self.source.applied.1 += 1;
                let position = self.position();
                self.marks.extend(replicas.iter().map(|number| (*number, position.clone())));
            }
            Step::Apply(Object::Claim(claim)) => {
                self.own.claims.insert(claim.metadata.name.clone().unwrap(), applied(number(&claim.metadata.labels), None));
            }
            Step::Apply(Object::Service(service)) => {
                let name = service.metadata.name.clone().unwrap();
                self.own.services.insert(name.clone(), applied(number(&service.metadata.labels), Some(crate::controller::digest(&**service))));
                self.services.insert(name, (**service).clone());
            }
            Step::Apply(Object::Job(job)) => {
                assert_eq!(self.source.standing, Standing::Primary, "the backup needs the set's oplog, and members come after it");
                self.own.jobs.entry(job.metadata.name.clone().unwrap()).or_insert(Some(JobState::Running));
            }
            Step::Apply(Object::StatefulSet(set)) => {
                let container = &set.spec.as_ref().unwrap().template.spec.as_ref().unwrap().containers[0];
                assert!(container.args.as_ref().unwrap().contains(&"--replSet".to_owned()), "a replica that is no member would take writes");
                let (name, number) = (set.metadata.name.clone().unwrap(), number(&set.metadata.labels));
                self.own.stateful_sets.insert(name, applied(number, Some(crate::controller::digest(&**set))));
            }
            Step::Delete(Kind::Secret, _) => {
                let ours = MongoDb::source_arguments(&self.subject().names.identity);
                let named = container_with(template_of(&self.stateful_set), &ours).is_some() || needs_key_file(Some(self.pod()));
                assert!(!named, "a source that names the key file can't start without it");
                self.key = false;
            }
            Step::Delete(Kind::Service, name) => {
                self.own.services.remove(name);
                self.services.remove(name);
            }
            Step::Delete(Kind::Job, name) => drop(self.own.jobs.remove(name)),
            Step::Delete(Kind::StatefulSet, name) => {
                let number = self.own.stateful_sets.remove(name).and_then(|set| set.number);
                let member = self.source.members.iter().any(|member| Some(member.id) == number);
                assert!(!member || self.source.standing != Standing::Primary, "a member leaves the set before its server stops");
            }
            Step::Delete(Kind::Claim, name) | Step::Keep(name) => drop(self.own.claims.remove(name)),
            Step::Serve { pod, serving } => drop(if *serving { self.serving.insert(pod.clone()) } else { self.serving.remove(pod) }),
            Step::Publish { data, .. } => self.variables.extend(data.clone()),
            Step::Disown(_) => {
                let manager = Some(self.subject().names.manager());
                self.stateful_set.metadata.managed_fields.iter_mut().for_each(|entries| entries.retain(|entry| entry.manager != manager));
            }
            Step::Recreate { .. } | Step::Promote | Step::Target(_) => panic!("there is no target"),
            Step::Grow { .. } | Step::PublishSecret { .. } | Step::Tell { .. } => {}
        }
    }

    fn pod(&mut self) -> &mut PodSpec {
        self.stateful_set.spec.as_mut().unwrap().template.spec.as_mut().unwrap()
    }

    fn containers(&mut self) -> &mut Vec<Container> {
        &mut self.pod().containers
    }

    fn execute_source(&mut self, step: &SourceStep) {
        let members = &mut self.source.members;
        match step {
            SourceStep::Initiate { host, .. } => {
                self.source.standing = Standing::Primary;
                self.source.applied = (1_800_000_000, 1);
                *members = vec![Member { id: 0, host: host.clone(), votes: true, state: "PRIMARY".into() }];
            }
            SourceStep::Add { id, host } => members.push(Member { id: *id, host: host.clone(), votes: false, state: "SECONDARY".into() }),
            SourceStep::Raise { id } => members.iter_mut().filter(|member| member.id == *id).for_each(|member| member.votes = true),
            SourceStep::Lower { id } => members.iter_mut().filter(|member| member.id == *id).for_each(|member| member.votes = false),
            SourceStep::Remove { id } => members.retain(|member| member.id != *id),
            SourceStep::Reclaim | SourceStep::LookAgain => self.source.standing = Standing::Primary,
            SourceStep::ClearLocal { .. } => {
                assert_eq!(self.source.standing, Standing::Standalone);
                self.source.left = None;
                self.left.clear();
            }
        }
    }

    /// What Kubernetes does by itself meanwhile: Jobs end, and the source's pod follows its template.
    fn pass_time(&mut self) {
        self.now += Duration::from_secs(5);
        self.started = self.pod().clone();
        for (name, job) in &mut self.own.jobs {
            if *job == Some(JobState::Running) {
                let message = json!({"position": "1800000000:1", "bytes": 1000, "checksum": "abc", "completedAt": "2026-11-24T00:00:00Z"}).to_string();
                *job = Some(JobState::Complete(name.contains("-backup-").then_some(message)));
            }
        }
        let names = self.subject().names;
        let pods = self.own.stateful_sets.values().map(|set| {
            let name = names.replica(set.number.unwrap()) + "-0";
            let serving = self.serving.contains(&name);
            PodFacts { name, component: "replica".into(), number: set.number, ip: Some("10.0.0.1".into()), ready: true, serving, ..PodFacts::default() }
        });
        self.own.pods = pods.collect();
        let set_name = container_with(template_of(&self.stateful_set), &MongoDb::source_arguments(&names.identity)).map(|_| names.identity.role());
        if set_name != self.source.set_name {
            self.restarts += 1;
            if set_name.is_some() {
                self.source.members = std::mem::take(&mut self.left);
            }
            let initiated = !self.source.members.is_empty();
            self.source.standing = match (&set_name, initiated) {
                (None, _) => Standing::Standalone,
                (Some(_), false) => Standing::Uninitiated,
                (Some(_), true) => Standing::Primary,
            };
            self.source.left = (set_name.is_none() && initiated).then(|| names.identity.role());
            if set_name.is_none() {
                self.left = std::mem::take(&mut self.source.members);
            }
            self.source.set_name = set_name;
            self.reachable = true;
        }
    }

    fn look(&mut self) -> Plan<SourceStep> {
        let plan = self.plan();
        self.resource.status = Some(merge(self.resource.status.as_ref(), plan.status.clone(), self.now));
        plan
    }

    /// Reconciles until nothing changes; the controller is killed after each of the given numbers of steps.
    fn settle(&mut self, kills: &[usize]) -> Vec<String> {
        let (mut executed, mut told) = (0, Vec::new());
        for _ in 0..200 {
            let before = self.resource.status.clone();
            let plan = self.look();
            let killed = plan.steps.iter().any(|step| {
                executed += 1;
                if kills.contains(&executed) {
                    self.marks.clear();
                    return true;
                }
                told.push(step.to_string());
                self.execute(step);
                !self.exists
            });
            if !self.exists {
                return told;
            }
            let (own, restarts) = (self.own.clone(), self.restarts);
            self.pass_time();
            if !killed && plan.steps.is_empty() && before == self.resource.status && own == self.own && restarts == self.restarts {
                return told;
            }
        }
        panic!("does not settle: {told:?} {:?}", self.resource.status);
    }

    fn edit(&mut self, change: impl FnOnce(&mut crate::api::DatabaseReplicationSpec)) {
        change(&mut self.resource.spec);
        *self.resource.metadata.generation.as_mut().unwrap() += 1;
    }

    fn ready(&self) -> (String, String, String) {
        let conditions = &self.resource.status.as_ref().unwrap().conditions;
        let ready = conditions.iter().find(|condition| condition.type_ == conditions::READY).unwrap();
        (ready.status.clone(), ready.reason.clone(), ready.message.clone())
    }

    fn phase(&self) -> Phase {
        self.resource.status.as_ref().unwrap().phase.unwrap()
    }

    fn primary(&self) -> String {
        self.services["orders-primary"].spec.as_ref().unwrap().selector.as_ref().unwrap()["statefulset.kubernetes.io/pod-name"].clone()
    }

    fn replicating() -> Self {
        let mut set = Self::new();
        set.settle(&[]);
        assert_eq!(set.phase(), Phase::Ready, "{:?}", set.ready());
        set
    }

    fn assert_as_before(&self, start: &Self) {
        assert_eq!(self.stateful_set, start.stateful_set);
        assert_eq!(SourceFacts { applied: (0, 0), ..self.source.clone() }, start.source);
        assert!(!self.key && self.own == Own::default(), "{:?}", self.own);
    }
}

#[test]
fn the_source_restarts_once_each_way_and_is_as_before_afterwards() {
    let start = Set::new();
    let mut set = start.clone();
    let told = set.settle(&[]);
    assert_eq!((set.phase(), set.restarts), (Phase::Ready, 1), "{told:?}");
    assert_eq!(set.source.members.iter().filter(|member| member.votes).count(), 3);
    let disruption = set.resource.status.as_ref().unwrap().disruption.clone().unwrap();
    assert!(disruption.measured.is_some_and(|measured| measured.contains(" s from")) && disruption.began.is_none());
    let at = |word: &str| told.iter().position(|step| step.contains(word)).unwrap_or_else(|| panic!("{word}: {told:?}"));
    assert!(at("make Secret") < at("the source restarts") && at("the source restarts") < at("initiate") && at("initiate") < at("apply Job"));
    assert!(at("give member 1 a vote") > at("add member 2"));
    set.edit(|spec| spec.enabled = false);
    let told = set.settle(&[]);
    assert_eq!((set.phase(), set.restarts), (Phase::Standalone, 2), "{told:?}");
    set.assert_as_before(&start);
}

#[test]
fn a_source_that_may_not_restart_is_left_alone() {
    let mut set = Set::new();
    set.edit(|spec| spec.source.restart = Restart::Never);
    assert_eq!(set.settle(&[]), [""; 0]);
    assert_eq!((set.phase(), set.ready().1.as_str()), (Phase::Blocked, "RestartNotAllowed"));
    set.edit(|spec| spec.source.restart = Restart::Allow);
    set.settle(&[]);
    assert_eq!(set.phase(), Phase::Ready, "it goes on by itself");
    set.edit(|spec| (spec.enabled, spec.source.restart) = (false, Restart::Never));
    set.settle(&[]);
    assert_eq!((set.ready().1.as_str(), set.restarts), ("RestartNotAllowed", 1));
    set.edit(|spec| spec.source.restart = Restart::Allow);
    set.settle(&[]);
    assert_eq!((set.phase(), set.restarts), (Phase::Standalone, 2));
}

#[test]
fn a_dry_run_announces_the_restart() {
    let mut set = Set::new();
    set.edit(|spec| spec.dry_run = true);
    assert_eq!(set.settle(&[]), [""; 0]);
    let status = set.resource.status.unwrap();
    assert!(status.would_do[0].contains("restart the source once") && status.would_do[0].contains("--keyFile"), "{:?}", status.would_do);
    assert!(status.disruption.unwrap().expected.contains("one restart"));
}

#[test]
fn what_was_taken_back_by_others_is_said_and_not_fought_for() {
    let mut set = Set::replicating();
    let theirs = Set::new().stateful_set;
    set.stateful_set = theirs.clone();
    set.pass_time();
    let told = set.settle(&[]);
    assert_eq!((set.phase(), set.ready().1.as_str()), (Phase::Degraded, "SourceReverted"), "{told:?}");
    assert_eq!((&set.stateful_set, set.own.stateful_sets.len()), (&theirs, 2), "nothing is touched");
    // The replicas are the majority, and elect one of themselves: what is written to it would be lost.
    set.elected = Some(1);
    set.settle(&[]);
    assert_eq!(
        (set.ready().1.as_str(), set.primary().as_str(), set.variables["MONGODB_ADDRESS"].as_str()),
        ("SourceReverted", "orders-db-0", "orders-db.shop.svc")
    );
    assert_eq!(set.serving, BTreeSet::from(["orders-replica-2-0".to_owned()]), "nobody is sent to it");
    assert_eq!(set.variables["MONGODB_SLAVE_ADDRESSES_INT"], "orders-replica-2.shop.svc");
    set.reachable = false;
    set.settle(&[]);
    assert_eq!(set.variables["MONGODB_ADDRESS"], "orders-db.shop.svc", "nor while the source is away");
    (set.elected, set.reachable) = (None, true);
    // The pipeline gives in: what was written meanwhile is still on no replica.
    let names = set.subject().names;
    set.containers()[0].args.as_mut().unwrap().extend(MongoDb::source_arguments(&names.identity));
    set.settle(&[]);
    assert_eq!(set.ready().1, "SourceReverted");
    set.edit(|spec| spec.enabled = false);
    set.settle(&[]);
    assert_eq!(set.phase(), Phase::Standalone);
    assert_eq!(set.stateful_set, theirs);
}

#[test]
fn what_needs_the_key_file_goes_before_it_where_others_have_taken_only_the_arguments_away() {
    let start = Set::new();
    let mut set = Set::replicating();
    *set.containers() = start.clone().containers().clone();
    set.pass_time();
    set.settle(&[]);
    assert!(set.ready().1 == "SourceReverted" && needs_key_file(Some(set.pod())), "{:?}", set.ready());
    set.edit(|spec| spec.enabled = false);
    loop {
        let plan = set.look();
        plan.steps.iter().for_each(|step| set.execute(step));
        if plan.steps.iter().any(|step| matches!(step, Step::PutBack { .. })) {
            break;
        }
        assert!(set.phase() != Phase::Standalone, "{:?}", set.stateful_set);
        set.pass_time();
    }
    let forgets = |plan: &Plan<SourceStep>| plan.steps.iter().any(|step| matches!(step, Step::Delete(Kind::Secret, _)));
    assert!(!forgets(&set.look()), "its pod was started with it, and may be started again");
    set.pass_time();
    assert!(forgets(&set.look()));
    set.settle(&[]);
    assert_eq!(set.phase(), Phase::Standalone);
    set.assert_as_before(&start);
}

#[test]
fn a_key_file_that_somebody_elses_manifest_names_too_is_left_to_them() {
    let start = Set::new();
    let mut set = Set::replicating();
    *set.containers() = start.clone().containers().clone();
    let theirs = set.stateful_set.metadata.managed_fields.as_mut().unwrap();
    theirs.push(ManagedFieldsEntry { manager: Some("pipeline".into()), ..theirs[0].clone() });
    set.pass_time();
    set.edit(|spec| spec.enabled = false);
    set.settle(&[]);
    assert_eq!(set.phase(), Phase::Standalone);
    assert!(set.key && needs_key_file(Some(set.pod())), "without it the source would not start");
}

#[test]
fn who_was_elected_is_followed_and_the_source_again_when_it_is_back() {
    let mut set = Set::replicating();
    assert_eq!((set.primary().as_str(), set.variables["MONGODB_ADDRESS"].as_str()), ("orders-db-0", "orders-db.shop.svc"));
    set.reachable = false;
    set.settle(&[]);
    assert_eq!(set.primary(), "orders-db-0", "nobody was elected yet");
    set.elected = Some(2);
    set.settle(&[]);
    assert_eq!((set.phase(), set.primary().as_str()), (Phase::Degraded, "orders-replica-2-0"));
    assert_eq!(set.variables["MONGODB_ADDRESS"], "orders-replica-2.shop.svc");
    assert_eq!(set.variables["MONGODB_SLAVE_ADDRESSES_INT"], "orders-replica-1.shop.svc");
    assert_eq!(set.serving, BTreeSet::from(["orders-replica-1-0".to_owned()]), "who reads from replicas is not sent to the one that takes writes");

    // It is back, and has yet to catch up: undoing everything waits for that.
    (set.reachable, set.source.standing) = (true, Standing::Secondary);
    let undoing = {
        let mut set = set.clone();
        set.edit(|spec| spec.enabled = false);
        set.settle(&[]);
        set
    };
    assert_eq!((undoing.ready().1.as_str(), undoing.own.stateful_sets.len(), undoing.restarts), ("NoPrimary", 2, 1));
    set.settle(&[]);
    assert_eq!(set.primary(), "orders-replica-2-0");
    (set.elected, set.source.standing) = (None, Standing::Primary);
    set.settle(&[]);
    assert_eq!((set.phase(), set.primary().as_str(), set.variables["MONGODB_ADDRESS"].as_str()), (Phase::Ready, "orders-db-0", "orders-db.shop.svc"));
    assert_eq!(set.variables["MONGODB_SLAVE_ADDRESSES_INT"], "orders-replica-1.shop.svc,orders-replica-2.shop.svc");
}

#[test]
fn an_idle_set_is_not_written_to() {
    let mut set = Set::replicating();
    let status = set.resource.status.clone();
    for _ in 0..5 {
        set.source.applied.0 += 10;
        set.now += Duration::from_secs(30);
        let plan = set.look();
        assert!(plan.steps.is_empty() && set.resource.status == status, "{:?}", plan.steps);
    }
}

proptest! {
    // Each case is some hundred looks.
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn killed_at_any_point_it_restarts_once_each_way(kills in proptest::collection::vec(1_usize..60, 0..6), again in proptest::collection::vec(1_usize..40, 0..6)) {
        let start = Set::new();
        let mut set = start.clone();
        set.settle(&kills);
        prop_assert_eq!((set.phase(), set.restarts), (Phase::Ready, 1));
        set.edit(|spec| spec.enabled = false);
        set.settle(&again);
        prop_assert_eq!((set.phase(), set.restarts), (Phase::Standalone, 2));
        set.assert_as_before(&start);
    }
}
