//! One replica: where it stands, from what is, and what comes next for it.

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Draft, Facts, Kind, Object, Step, Subject, again, backup, takeover};
use crate::api::{DeletionPolicy, ReplicaStatus, Storage};
use crate::controller::facts::{JobState, Server};
use crate::engine::{Engine, Held, Lag, Position, Progress, ReplicaSummary, SourceSummary};
use crate::resources::{
    JobRequest, Names, ReplicaRequest, Workload, build_primary_service, build_replica, build_replica_claim, build_replica_service, build_replicas_service,
    build_restore_job, bytes_of, quantity_of,
};

/// Where a replica stands.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// Nothing of it exists.
    Absent,
    /// Its volume is being deleted, since it was lost: everything else of it goes too.
    Removing,
    /// The restore Job runs.
    Restoring,
    /// The restore Job failed; why, and whether it is time to try again.
    RestoreFailed(String, bool),
    /// Its volume holds a finished restore.
    Restored,
    /// Its server does not answer yet; why.
    Starting(String),
    /// Its server takes writes: it must not.
    Writable,
    /// It fetches everything from the source by itself, in the engine's words.
    Copying(String),
    /// It does not stream; why.
    NotReplicating(String),
    /// It holds, or once held, what the source does not; what.
    Diverged(String),
    /// The source no longer has what it needs.
    Lost(String),
    /// It streams, and has not yet shown what was written after its restore.
    CatchingUp,
    /// It streams, and has shown it.
    InSync,
}

impl State {
    /// The word in the status.
    fn word(&self) -> &'static str {
        match self {
            Self::Absent => "Pending",
            Self::Removing => "Removing",
            Self::Restoring | Self::RestoreFailed(..) => "Restoring",
            Self::Restored | Self::Starting(_) => "Starting",
            Self::Copying(_) => "Copying",
            Self::Writable | Self::NotReplicating(_) => "NotReplicating",
            Self::Diverged(_) => "Diverged",
            Self::Lost(_) => "Lost",
            Self::CatchingUp => "CatchingUp",
            Self::InSync => "InSync",
        }
    }
}

/// Where replica `number` stands.
#[must_use]
pub fn observe<E: Engine>(subject: &Subject, facts: &Facts<E>, server: &SourceSummary, before: Option<&ReplicaStatus>, number: u32) -> State {
    let (names, own) = (&subject.names, &facts.own);
    let claim = own.replica_claim(before.and_then(|before| before.claim.as_deref()), number);
    if claim.and_then(|claim| own.claims.get(&claim)).is_some_and(|claim| claim.deleting) {
        return State::Removing;
    }
    if !own.stateful_sets.contains_key(&names.replica(number)) {
        return observe_restore(subject, facts, before, number);
    }
    let lost = server.held.iter().any(|(held, state)| *held == number && *state == Held::Lost);
    match facts.replicas.get(&number) {
        Some(Server::Up(replica)) => observe_server::<E>(facts, server, before, number, replica, lost),
        Some(Server::Unreachable(why) | Server::Refused(why) | Server::OtherEngine(why)) => {
            let trouble = own.replica_pod(number).and_then(|pod| pod.trouble.clone());
            State::Starting(trouble.unwrap_or_else(|| why.clone()))
        }
        Some(Server::NotAsked) | None => {
            let pod = own.replica_pod(number);
            State::Starting(pod.and_then(|pod| pod.trouble.clone()).unwrap_or_else(|| "its pod is starting".to_owned()))
        }
    }
}

/// Where the restore stands of a replica whose server has not been started.
#[must_use]
pub fn observe_restore<E: Engine>(subject: &Subject, facts: &Facts<E>, before: Option<&ReplicaStatus>, number: u32) -> State {
    match facts.own.jobs.get(&subject.names.restore_job(number)) {
        None => State::Absent,
        Some(None | Some(JobState::Running)) => State::Restoring,
        Some(Some(JobState::Failed(why, at))) => {
            State::RestoreFailed(why.clone(), backup::waited(subject, facts.now, *at, before.map_or(0, |before| before.failures)))
        }
        Some(Some(JobState::Complete(_))) => State::Restored,
    }
}

/// Where a replica stands whose server answers; `dropped` tells that the source no longer has what it still needs.
#[must_use]
pub fn observe_server<E: Engine>(
    facts: &Facts<E>,
    server: &SourceSummary,
    before: Option<&ReplicaStatus>,
    number: u32,
    replica: &ReplicaSummary,
    dropped: bool,
) -> State {
    // Only a server that says it is a standby is a copy: one that was promoted may hold what exists nowhere else.
    if dropped && replica.read_only && server.position.lacks(&replica.applied).is_none() {
        return State::Lost("what it had not received yet passed the source's limit for retained log".to_owned());
    }
    let proven = before.is_some_and(|before| before.proven_at.is_some());
    if replica.leads {
        return if proven { State::InSync } else { State::NotReplicating("the servers elected it before it had shown that it holds everything".to_owned()) };
    }
    if !replica.read_only {
        return State::Writable;
    }
    // The replica was asked before the source: whatever it has and the source lacks was written to the replica, or the source went back in time. It stays
    // another database also where the source later reaches the same number: and it is never thrown away as a copy that merely fell behind.
    let recorded = || before.and_then(|before| before.diverged.clone());
    let lasts = !E::COUNTS_LATE || facts.ahead.get(&number).is_some_and(|since| *since >= again::COUNTED);
    if let Some(diverged) = server.position.lacks(&replica.applied).filter(|_| lasts).or_else(recorded).or_else(|| lost_records(server, replica)) {
        return State::Diverged(diverged);
    }
    if replica.copy_progress.is_some() {
        return State::Copying(replica.trouble.clone().unwrap_or_else(|| "it copies everything from the source".to_owned()));
    }
    if !replica.streaming {
        let last = if replica.received.reaches(&replica.applied) { &replica.received } else { &replica.applied };
        if *last != Position::default() && !last.reaches(&server.oldest_for_replica) {
            let (last, oldest) = (E::format_position(last), E::format_position(&server.oldest_for_replica));
            return State::Lost(format!("it stands at {last}, and the source has nothing before {oldest}"));
        }
        return State::NotReplicating(replica.trouble.clone().unwrap_or_else(|| "it is not connected to the source".to_owned()));
    }
    if let Some(trouble) = &replica.trouble {
        return State::NotReplicating(trouble.clone());
    }
    if lasts && server.position.partial_cmp(&replica.applied).is_none() {
        return State::NotReplicating("it follows another history than the source's".to_owned());
    }
    let arrived = facts.marks.get(&number).is_some_and(|mark| replica.applied.reaches(mark));
    if proven || arrived { State::InSync } else { State::CatchingUp }
}

/// What a replica holds and its source has lost, where their positions do not compare: the source has begun another history, with less than half as many
/// records. Who can log in has no such replica any more: it has copied them.
fn lost_records(server: &SourceSummary, replica: &ReplicaSummary) -> Option<String> {
    let (started, held) = (server.records?, replica.records?);
    let cut_off = !server.access && !replica.streaming && replica.trouble.is_none();
    let another = server.position.partial_cmp(&replica.applied).is_none();
    (cut_off && another && held > started.saturating_mul(2)).then(|| format!("{held} records, and the source has started with {started}"))
}

/// Whether a login that lets every replica in has to wait: one of them holds what the source lacks, or none has answered yet that it does not. `taken` tells
/// that a restore goes on by itself, since there is a backup, and ends in a replica that answers.
pub fn withholds_access<'a>(states: impl Iterator<Item = &'a State>, taken: bool) -> bool {
    let (mut silent, mut answered) = (false, false);
    for state in states {
        match state {
            State::Diverged(_) => return true,
            State::Starting(_) => silent = true,
            State::Restoring | State::RestoreFailed(..) | State::Restored => silent |= taken,
            State::Absent | State::Removing => {}
            State::Writable | State::Copying(_) | State::NotReplicating(_) | State::Lost(_) | State::CatchingUp | State::InSync => answered = true,
        }
    }
    silent && !answered
}

/// What is on record of replica `number`.
#[must_use]
pub fn recorded(subject: &Subject, number: u32) -> Option<&ReplicaStatus> {
    let name = subject.replica(number);
    subject.resource.status.as_ref()?.replicas.iter().find(|replica| replica.name == name)
}

/// The replica's entry in the status.
#[must_use]
pub fn describe<E: Engine>(
    subject: &Subject,
    facts: &Facts<E>,
    server: &SourceSummary,
    before: Option<&ReplicaStatus>,
    number: u32,
    state: &State,
) -> ReplicaStatus {
    let summary = match facts.replicas.get(&number) {
        Some(Server::Up(summary)) => Some(summary),
        _ => None,
    };
    let progress = summary.and_then(|summary| summary.copy_progress);
    let started = !matches!(state, State::Absent | State::Removing | State::Restoring | State::RestoreFailed(..) | State::Restored);
    let mut entry = ReplicaStatus {
        name: subject.replica(number),
        address: match &facts.target {
            Some(_) => takeover::target_host(subject, facts).or_else(|| before.map(|before| before.address.clone())).unwrap_or_default(),
            None => subject.names.host(&subject.names.replica(number)),
        },
        state: state.word().to_owned(),
        claim: facts.own.replica_claim(before.and_then(|before| before.claim.as_deref()), number),
        role: summary.map(|summary| if summary.read_only { "replica" } else { "primary" }.to_owned()),
        lag: summary.filter(|_| progress.is_none()).map(|summary| Lag::between(&server.position, &summary.applied).words()),
        percent: progress.and_then(Progress::percent),
        proof_position: before.filter(|_| started).and_then(|before| before.proof_position.clone()),
        proven_at: before.filter(|_| started).and_then(|before| before.proven_at.clone()),
        diverged: match state {
            State::Diverged(what) => Some(what.clone()),
            _ => before.filter(|_| started).and_then(|before| before.diverged.clone()),
        },
        failures: before.filter(|_| !started && *state != State::Restored).map_or(0, |before| before.failures),
    };
    if *state == State::InSync && entry.proven_at.is_none() {
        entry.proof_position = facts.marks.get(&number).map(E::format_position);
        entry.proven_at = Some(Time(facts.now));
    }
    entry
}

/// The volume that a replica gets: what the user says, or size and class of the source's.
pub fn storage<E: Engine>(subject: &Subject, facts: &Facts<E>) -> Option<Storage> {
    let own = subject.resource.spec.replica_template.as_ref().and_then(|template| template.storage.clone());
    own.or_else(|| {
        let (bytes, class) = facts.claim.clone()?;
        Some(Storage { size: quantity_of(bytes), storage_class_name: class })
    })
}

/// Plans volume and restore Job of a replica that does not exist yet.
pub fn seed<E: Engine>(subject: &Subject, facts: &Facts<E>, draft: &mut Draft<E::Step>, request: &JobRequest<'_>, number: u32) {
    let names = &subject.names;
    let name = names.replica(number);
    let seed = draft.status.seeds + 1;
    let Some(entry) = draft.status.replicas.iter_mut().find(|entry| entry.name == name) else { return };
    // On record before it exists; the same one is used until the replica is removed.
    let claim = entry.claim.get_or_insert_with(|| {
        draft.status.seeds = seed;
        names.replica_claim(number, seed)
    });
    let claim = claim.clone();
    if let Some(storage) = storage(subject, facts).filter(|_| !facts.own.claims.contains_key(&claim)) {
        draft.steps.push(Step::Apply(Object::Claim(Box::new(build_replica_claim(names, number, &claim, &storage)))));
    }
    draft.steps.push(Step::Apply(Object::Job(Box::new(build_restore_job(request, number, &claim)))));
}

/// Plans a Service, wherever it differs from what was applied last.
fn serve<S>(own: &crate::controller::facts::Own, draft: &mut Draft<S>, service: Service) {
    let name = service.metadata.name.clone().unwrap_or_default();
    let planned = draft.steps.iter().any(|step| matches!(step, Step::Apply(Object::Service(planned)) if planned.metadata.name.as_ref() == Some(&name)));
    let digest = crate::controller::digest(&service);
    let current = own.services.get(&name).is_some_and(|applied| applied.digest.as_ref() == Some(&digest) || applied.deleting);
    if !current && !planned {
        draft.steps.push(Step::Apply(Object::Service(Box::new(service))));
    }
}

/// Plans that the Service of the primary leads to who takes the writes: the source, or the replica that the servers elected.
pub fn lead<E: Engine>(subject: &Subject, facts: &Facts<E>, draft: &mut Draft<E::Step>, leader: Option<u32>) {
    serve(&facts.own, draft, build_primary_service(&subject.names, &subject.owner, subject.source(), leader, subject.port));
}

/// Plans StatefulSet and Services of a replica, wherever they differ from what was applied last.
pub fn run<E: Engine>(subject: &Subject, facts: &Facts<E>, draft: &mut Draft<E::Step>, request: &JobRequest<'_>, number: u32) {
    let names = &subject.names;
    let own = &facts.own;
    let recorded = draft.status.replicas.iter().find(|entry| entry.name == names.replica(number)).and_then(|entry| entry.claim.clone());
    let Some(claim) = own.replica_claim(recorded.as_deref(), number) else { return };
    let member = !E::source_arguments(&names.identity).is_empty();
    lead(subject, facts, draft, facts.leader());
    serve(own, draft, build_replicas_service(names, &subject.owner, subject.port));
    serve(own, draft, build_replica_service(names, &subject.owner, number, subject.port, member));
    let mut shape = request.workload.shape.clone();
    E::adapt_replica(&mut shape.container, &shape.data_directory);
    let workload = Workload { shape: &shape, ..request.workload };
    let replica = ReplicaRequest { workload, template: subject.resource.spec.replica_template.as_ref() };
    let wanted = build_replica(&replica, number, &claim);
    let digest = crate::controller::digest(&wanted);
    if own.stateful_sets.get(&names.replica(number)).is_none_or(|applied| applied.digest.as_ref() != Some(&digest) && !applied.deleting) {
        draft.steps.push(Step::Apply(Object::StatefulSet(Box::new(wanted))));
    }
}

/// Plans to remove everything of a replica but what the source holds for it. Gives whether its pod is gone.
pub fn remove<S>(names: &Names, own: &crate::controller::facts::Own, draft: &mut Draft<S>, number: u32) -> bool {
    for (kind, name, exists) in [
        (Kind::Job, names.restore_job(number), own.jobs.get(&names.restore_job(number)).is_some_and(Option::is_some)),
        (Kind::StatefulSet, names.replica(number), own.stateful_sets.get(&names.replica(number)).is_some_and(|s| !s.deleting)),
        (Kind::Service, names.replica(number), own.services.get(&names.replica(number)).is_some_and(|s| !s.deleting)),
    ] {
        if exists {
            draft.steps.push(Step::Delete(kind, name));
        }
    }
    !own.stateful_sets.contains_key(&names.replica(number)) && own.pods.iter().all(|pod| pod.number != Some(number) || pod.ended)
}

/// Plans what becomes of a volume.
pub fn dispose<S>(policy: DeletionPolicy, own: &crate::controller::facts::Own, draft: &mut Draft<S>, claim: String) {
    if own.claims.get(&claim).is_some_and(|claim| !claim.deleting) {
        draft.steps.push(match policy {
            DeletionPolicy::Retain => Step::Keep(claim),
            DeletionPolicy::Delete => Step::Delete(Kind::Claim, claim),
        });
    }
}

/// Plans to have a claim that is smaller than wanted grow. Where the cluster can't, that was said, and nothing waits for it.
pub fn grow<E: Engine>(facts: &Facts<E>, draft: &mut Draft<E::Step>, claim: String, size: Quantity) {
    let (Some(wanted), Some(found)) = (bytes_of(&size), facts.own.claims.get(&claim)) else { return };
    let refused = facts.not_grown.get(&claim) == Some(&wanted);
    if found.bytes.is_some_and(|bytes| bytes < wanted) && !found.deleting && !refused {
        draft.steps.push(Step::Grow { claim, size });
    }
}
