//! What was observed: values only. "Unreachable" and "not there yet" are facts, not errors.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Service};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub use super::subject::{Database, Subject};
pub use super::variables::{Login, ObjectKey, Password, Place, Sibling, Taken, Told, Variables};
use crate::api::{Change, Credentials};
use crate::engine::{Engine, Finding, Identity, Lag, Position, ReplicaSummary};
use crate::resources::{Data, Shape, bytes_of, data_of, labels, template_of};

/// A pod whose node is dead stays in the API for ever: so long after it should have ended it counts as gone, so that teardown does not wait for it.
pub const OVERDUE: Duration = Duration::from_mins(1);
/// Annotation that holds a digest of what was last applied: nothing is written while it is the same.
pub const APPLIED: &str = "understudy.dev/applied";

/// The source's StatefulSet and its pod.
#[derive(Debug, Clone)]
pub struct SourceWorkload {
    /// The StatefulSet.
    pub stateful_set: StatefulSet,
    /// Its pod, if it exists.
    pub pod: Option<Pod>,
}

impl SourceWorkload {
    /// Its StatefulSet asks for one pod.
    #[must_use]
    pub fn has_one_pod(&self) -> bool {
        self.stateful_set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1) == 1
    }
}

/// The administrator's credentials, as found.
#[derive(Clone, PartialEq, Eq)]
pub struct Administrator {
    /// User name.
    pub username: String,
    /// Password. Never printed.
    pub password: String,
    /// The Secret's key that the user name came from, if it came from there.
    pub username_key: Option<String>,
}

impl std::fmt::Debug for Administrator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.username)
    }
}

/// What came of asking a database server.
#[derive(Debug, Clone, PartialEq)]
pub enum Server<F> {
    /// It was not asked, since something that is needed for it is missing.
    NotAsked,
    /// It did not answer; in words.
    Unreachable(String),
    /// It answered that this login will not do.
    Refused(String),
    /// What answers is a server of another engine; in words.
    OtherEngine(String),
    /// Its facts.
    Up(F),
}

/// Where a Job stands.
#[derive(Debug, Clone, PartialEq)]
pub enum JobState {
    /// It has not ended.
    Running,
    /// It succeeded; with what the agent left in the termination message, if its pod is still there.
    Complete(Option<String>),
    /// It failed; why, and when.
    Failed(String, Option<Timestamp>),
}

/// A pod of ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodFacts {
    /// Its name.
    pub name: String,
    /// `backup`, `restore` or `replica`.
    pub component: String,
    /// Number of the replica.
    pub number: Option<u32>,
    /// Its address, once it runs.
    pub ip: Option<String>,
    /// It is ready.
    pub ready: bool,
    /// It has ended, or its node has not said so for [`OVERDUE`] after it should have.
    pub ended: bool,
    /// It carries the label by which the Service of all replicas finds it.
    pub serving: bool,
    /// What keeps a container from running, in the kubelet's or the agent's words.
    pub trouble: Option<String>,
}

/// A StatefulSet, Service or claim of ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Digest of what was applied last.
    pub digest: Option<String>,
    /// It is being deleted.
    pub deleting: bool,
    /// Number of the replica.
    pub number: Option<u32>,
    /// Bytes that a claim asks for.
    pub bytes: Option<u64>,
    /// The word of the enabling that it belongs to.
    pub enablement: Option<String>,
}

/// Objects of ours in the resource's namespace.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Own {
    /// Jobs by name; those being deleted are `None`.
    pub jobs: BTreeMap<String, Option<JobState>>,
    /// StatefulSets by name.
    pub stateful_sets: BTreeMap<String, Applied>,
    /// Services by name.
    pub services: BTreeMap<String, Applied>,
    /// Claims by name.
    pub claims: BTreeMap<String, Applied>,
    /// Pods.
    pub pods: Vec<PodFacts>,
}

/// Number of the replica that an object belongs to.
fn number(object: &impl ResourceExt) -> Option<u32> {
    object.labels().get(labels::REPLICA)?.parse().ok()
}

fn applied(object: &impl ResourceExt) -> Applied {
    Applied {
        digest: object.annotations().get(APPLIED).cloned(),
        deleting: object.meta().deletion_timestamp.is_some(),
        number: number(object),
        bytes: None,
        enablement: object.labels().get(labels::ENABLEMENT).cloned(),
    }
}

fn claimed(claim: &PersistentVolumeClaim) -> Applied {
    let requests = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref());
    Applied { bytes: requests.and_then(|requests| bytes_of(requests.get("storage")?)), ..applied(claim) }
}

/// What is of interest of a pod.
#[must_use]
pub fn pod_facts(pod: &Pod, now: Timestamp) -> PodFacts {
    let status = pod.status.clone().unwrap_or_default();
    let mut containers = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    let trouble = containers.find_map(|container| {
        let state = container.state.as_ref()?;
        let last = container.last_state.as_ref().and_then(|last| last.terminated.as_ref());
        let ended = state.terminated.as_ref().filter(|ended| ended.exit_code != 0).or(last.filter(|last| last.exit_code != 0));
        let words = match (ended, &state.waiting) {
            (Some(ended), _) => ended.message.clone().or(ended.reason.clone()).unwrap_or_default(),
            (None, Some(waiting)) if waiting.reason.as_deref() != Some("PodInitializing") && waiting.reason.as_deref() != Some("ContainerCreating") => {
                [waiting.reason.clone(), waiting.message.clone()].into_iter().flatten().collect::<Vec<_>>().join(": ")
            }
            _ => return None,
        };
        (state.running.is_none() && !words.is_empty()).then(|| format!("container {}: {}", container.name, words.trim()))
    });
    let unschedulable = status.conditions.iter().flatten().find(|c| c.type_ == "PodScheduled" && c.status == "False").and_then(|c| c.message.clone());
    // Kubernetes sets the time of deletion to the end of the grace period.
    let overdue = pod.metadata.deletion_timestamp.as_ref().is_some_and(|due| due.0 < now && now.duration_since(due.0).unsigned_abs() >= OVERDUE);
    PodFacts {
        name: pod.name_any(),
        component: pod.labels().get(labels::COMPONENT).cloned().unwrap_or_default(),
        number: number(pod),
        ip: status.pod_ip.clone(),
        ready: status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True") && pod.metadata.deletion_timestamp.is_none(),
        ended: overdue || matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
        serving: pod.labels().get(labels::ROLE).is_some_and(|role| role == labels::SERVING),
        trouble: trouble.or(unschedulable),
    }
}

/// Pods of a Job.
fn pods_of<'a>(pods: &'a [Arc<Pod>], job: &'a str) -> impl Iterator<Item = &'a Arc<Pod>> {
    pods.iter().filter(move |pod| pod.labels().get("batch.kubernetes.io/job-name").is_some_and(|name| name == job))
}

/// A Job's container has ended with success; it has one.
fn work_is_done(pods: &[Arc<Pod>], job: &str) -> bool {
    pods_of(pods, job)
        .flat_map(|pod| pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten()))
        .any(|container| container.state.as_ref().and_then(|state| state.terminated.as_ref()).is_some_and(|ended| ended.exit_code == 0))
}

/// The message that the agent left when it ended with `success`.
fn termination_message(pods: &[Arc<Pod>], job: &str, success: bool) -> Option<String> {
    pods_of(pods, job)
        .flat_map(|pod| pod.status.iter().flat_map(|s| s.init_container_statuses.iter().flatten().chain(s.container_statuses.iter().flatten())))
        .filter_map(|container| container.state.as_ref()?.terminated.as_ref())
        .filter(|ended| (ended.exit_code == 0) == success)
        .find_map(|ended| ended.message.clone().filter(|m| !m.trim().is_empty()).or(if success { None } else { ended.reason.clone() }))
}

fn job_state(job: &Job, pods: &[Arc<Pod>]) -> Option<JobState> {
    if job.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let name = job.name_any();
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_ref());
    let holds = |kind: &str| conditions.into_iter().flatten().find(|c| c.type_ == kind && c.status == "True");
    if holds("Complete").is_some() {
        return Some(JobState::Complete(termination_message(pods, &name, true)));
    }
    // `FailureTarget` comes before `Failed`, while pods still end.
    let Some(failed) = holds("Failed") else {
        // The pod says so a second or two before the Job does.
        return Some(if work_is_done(pods, &name) { JobState::Complete(termination_message(pods, &name, true)) } else { JobState::Running });
    };
    let why = termination_message(pods, &name, false).or(failed.message.clone()).unwrap_or_else(|| "its pod is gone".to_owned());
    Some(JobState::Failed(why.trim().to_owned(), failed.last_transition_time.as_ref().map(|t| t.0)))
}

impl Own {
    /// Facts from the cached objects of one resource.
    #[must_use]
    pub fn new(
        jobs: &[Arc<Job>],
        stateful_sets: &[Arc<StatefulSet>],
        services: &[Arc<Service>],
        claims: &[Arc<PersistentVolumeClaim>],
        pods: &[Arc<Pod>],
        now: Timestamp,
    ) -> Self {
        Self {
            jobs: jobs.iter().map(|job| (job.name_any(), job_state(job, pods))).collect(),
            stateful_sets: stateful_sets.iter().map(|object| (object.name_any(), applied(&**object))).collect(),
            services: services.iter().map(|object| (object.name_any(), applied(&**object))).collect(),
            claims: claims.iter().map(|object| (object.name_any(), claimed(object))).collect(),
            pods: pods.iter().map(|pod| pod_facts(pod, now)).collect(),
        }
    }

    /// The claim of one replica's volume: the one recorded, or the one that exists.
    #[must_use]
    pub fn replica_claim(&self, recorded: Option<&str>, number: u32) -> Option<String> {
        let exists = self.claims.iter().find(|(_, claim)| claim.number == Some(number)).map(|(name, _)| name.clone());
        recorded.map(str::to_owned).or(exists)
    }

    /// The pod of one replica.
    #[must_use]
    pub fn replica_pod(&self, number: u32) -> Option<&PodFacts> {
        self.pods.iter().find(|pod| pod.component == "replica" && pod.number == Some(number))
    }
}

/// What was observed of the target.
#[derive(Debug, Clone)]
pub struct TargetFacts<E: Engine> {
    /// Its StatefulSet and pod; none if there is no such StatefulSet.
    pub workload: Option<SourceWorkload>,
    /// Its administrator.
    pub administrator: Result<Administrator, Finding>,
    /// Its server.
    pub server: Server<E::SourceFacts>,
    /// Its shape, once the server has said where its data lies.
    pub shape: Option<Result<Shape, Finding>>,
    /// Size of its volume in bytes.
    pub volume_bytes: Option<u64>,
    /// Bytes of its data, and what of them is the user's, in words. An error says why it could not be told.
    pub data: Result<(u64, Vec<String>), String>,
    /// Who logs in to it with what it will not know any more, in words: until it is recorded.
    pub logins: Vec<String>,
    /// Another resource that has this StatefulSet as its source or target and came first.
    pub rival: Option<String>,
    /// Name of the user's own Service that reaches it.
    pub service: Option<String>,
    /// Its server, once it takes writes with the copy, by the names that have come with it: that of this resource first, then those of others that have or had
    /// the same source. What was changed on the source was copied with it.
    pub promoted: Vec<(Identity, E::SourceFacts)>,
}

impl<E: Engine> TargetFacts<E> {
    /// Which data the template of its StatefulSet asks for; none where nothing of ours is on it.
    #[must_use]
    pub fn wants(&self, identity: &Identity) -> Option<Data> {
        data_of(template_of(&self.workload.as_ref()?.stateful_set), identity)
    }

    /// Which data its pod was started with; none where nothing of ours is in it, or there is no pod.
    #[must_use]
    pub fn runs(&self, identity: &Identity) -> Option<Data> {
        data_of(self.workload.as_ref()?.pod.as_ref()?.spec.as_ref(), identity)
    }
}

/// Everything that planning looks at.
#[derive(Debug, Clone)]
pub struct Facts<E: Engine> {
    /// When it was observed.
    pub now: Timestamp,
    /// The source; none if there is no such StatefulSet.
    pub source: Option<SourceWorkload>,
    /// The administrator of the source.
    pub administrator: Result<Administrator, Finding>,
    /// The source's server.
    pub server: Server<E::SourceFacts>,
    /// The source's shape, once the server has said where its data lies.
    pub shape: Option<Result<Shape, Finding>>,
    /// Size in bytes and class of the source's volume.
    pub claim: Option<(u64, Option<String>)>,
    /// The target, where the resource names one.
    pub target: Option<Box<TargetFacts<E>>>,
    /// Data of the ConfigMaps that the resource or its record names; none where one does not exist or, in another namespace, does not allow that of the
    /// resource.
    pub config_maps: BTreeMap<ObjectKey, Option<BTreeMap<String, String>>>,
    /// Name of the user's own Service that reaches the source.
    pub service: Option<String>,
    /// The Secret with the key file exists.
    pub key: bool,
    /// The copy of the source's password in the resource's namespace exists.
    pub credentials: bool,
    /// Another resource that has the same source and came first.
    pub rival: Option<String>,
    /// The owner of the source has taken the consent back that this enabling began with.
    pub withdrawn: Option<Finding>,
    /// Between two applications: the credentials whose owner agrees.
    pub agreed: Option<Credentials>,
    /// What resources that have the same source, and keep it, have on record of it.
    pub neighbours: Vec<Change>,
    /// Variables that another resource which came first writes.
    pub taken: Vec<Taken>,
    /// What was observed of the variables between two applications.
    pub variables: Variables,
    /// Bytes of the source's data: measured before the first change, and as recorded then afterwards. An error says why it could not be told.
    pub data_bytes: Result<u64, String>,
    /// Claims, with the size in bytes, that the cluster would not make larger.
    pub not_grown: BTreeMap<String, u64>,
    /// Objects of ours.
    pub own: Own,
    /// Servers of replicas by number.
    pub replicas: BTreeMap<u32, Server<ReplicaSummary>>,
    /// Replicas that hold what the source does not, and for how long that has been seen.
    pub ahead: BTreeMap<u32, Duration>,
    /// Positions written to the source's log to be looked for on a replica.
    pub marks: BTreeMap<u32, Position>,
    /// What failed when steps were last executed.
    pub failure: Option<String>,
}

impl<E: Engine> Facts<E> {
    /// What of the recorded changes is to be undone on the source: what others still need is theirs to undo.
    #[must_use]
    pub fn to_undo(&self, mut recorded: Vec<Change>) -> Vec<Change> {
        recorded.retain(|change| !self.neighbours.iter().any(|other| other.what == change.what));
        recorded
    }

    /// The replica that the servers elected to take the writes; none while the source does.
    #[must_use]
    pub fn leader(&self) -> Option<u32> {
        let source = matches!(&self.server, Server::Up(server) if E::summary(server).leads);
        if source { None } else { self.elected() }
    }

    /// The replica that the servers elected, whether or not the source is one of them.
    #[must_use]
    pub fn elected(&self) -> Option<u32> {
        let leads = |replica: &Server<ReplicaSummary>| matches!(replica, Server::Up(summary) if summary.leads);
        self.replicas.iter().find(|(_, replica)| leads(replica)).map(|(number, _)| *number)
    }

    /// How far the replica that is furthest behind is behind the source; none where either can't be asked. One that copies everything has no position yet.
    #[must_use]
    pub fn lag(&self) -> Option<Lag> {
        let Server::Up(server) = &self.server else { return None };
        let position = E::summary(server).position;
        let lags = self.replicas.values().filter_map(|replica| match replica {
            Server::Up(replica) if replica.copy_progress.is_none() => Some(Lag::between(&position, &replica.applied)),
            _ => None,
        });
        lags.max_by_key(|lag| lag.amount())
    }
}
