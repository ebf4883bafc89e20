//! The target becomes the replica, and a database of its own again. Its data is replaced beside it, exchanged while it restarts, and kept until the copy
//! has shown what was written after the restore.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::PodSpec;

use super::enable::Enabling;
use super::place::Place;
use super::replica::{self, State};
use super::{Draft, Facts, Kind, Object, Plan, Step, Subject, again, backup, conditions, environment, target};
use crate::api::{ExistingData, KeptStatus, Phase, TargetStatus};
use crate::controller::facts::{JobState, Server, SourceWorkload, TargetFacts, pod_facts};
use crate::engine::{Engine, Finding, Held, SourceSummary};
use crate::resources::{
    Data, JobRequest, Workload, build_discard_job, build_keep_job, build_measure_job, build_staging_job, build_target_change, container_with, format_bytes,
    template_of,
};

/// The target's number among the replicas of its source.
pub(super) const NUMBER: u32 = 1;
/// How long a measurement of the target's volume counts, in seconds.
const MEASURED_FOR: i32 = 120;

/// Where clients in the cluster reach the source.
#[must_use]
pub fn source_host<E: Engine>(subject: &Subject, facts: &Facts<E>) -> Option<String> {
    facts.service.as_ref().map(|service| format!("{service}.{}.svc", subject.source_database().namespace))
}

/// Where clients in the cluster reach the target.
#[must_use]
pub fn target_host<E: Engine>(subject: &Subject, facts: &Facts<E>) -> Option<String> {
    facts.target.as_ref()?.service.as_ref().map(|service| subject.names.host(service))
}

/// What is on record of a target before it is touched.
#[must_use]
pub fn record<E: Engine>(subject: &Subject, facts: &Facts<E>) -> Option<TargetStatus> {
    let Place { shape, user: (user, group), .. } = Place::beside_target(subject, facts, facts.target.as_ref()?)?;
    let version = match &facts.target.as_ref()?.server {
        Server::Up(server) => E::summary(server).version,
        _ => String::new(),
    };
    Some(TargetStatus { data_directory: shape.data_directory.clone(), user, group, version, ..TargetStatus::default() })
}

/// Measures the target's volume before anything is touched. None once that is done: what came of it is among what preflight found.
pub fn measure<E: Engine>(subject: &Subject, facts: &Facts<E>, draft: &Draft<E::Step>, image: &str) -> Option<Plan<E::Step>> {
    let place = Place::beside_target(subject, facts, facts.target.as_ref()?)?;
    let mut draft = draft.clone();
    match facts.own.jobs.get(&subject.names.measure_job()) {
        Some(Some(JobState::Complete(Some(_)) | JobState::Failed(..))) => return None,
        // Its pod is gone, and its answer with it.
        Some(Some(JobState::Complete(None))) => draft.steps.push(Step::Delete(Kind::Job, subject.names.measure_job())),
        Some(_) => {}
        None => {
            let job = build_measure_job(&place.request::<E>(subject, image, 1), MEASURED_FOR);
            draft.steps.push(Step::Apply(Object::Job(Box::new(job))));
        }
    }
    // What was found a moment ago is not taken back before it is known to be mended.
    let before = subject.resource.status.as_ref().filter(|status| status.phase == Some(Phase::Blocked) && !subject.edited());
    if let Some(before) = before {
        (draft.status.phase, draft.status.conditions) = (before.phase, before.conditions.clone());
        return Some(draft.finish(again::PROGRESS));
    }
    draft.set(conditions::PREFLIGHT, false, "Measuring", "the room on the target's volume is being measured");
    draft.ready(false, false, "Measuring", "the room on the target's volume is being measured");
    draft.status.phase = Some(Phase::Configuring);
    Some(draft.finish(again::PROGRESS))
}

/// Where the target stands as a replica.
fn observe<E: Engine>(subject: &Subject, facts: &Facts<E>, source: &SourceSummary, target: &TargetFacts<E>) -> State {
    let names = &subject.names;
    let before = replica::recorded(subject, NUMBER);
    let joined = subject.target_status().is_some_and(|target| target.joined);
    if target.wants(&names.identity).is_none() && !joined {
        return replica::observe_restore(subject, facts, before, NUMBER);
    }
    match facts.replicas.get(&NUMBER) {
        Some(Server::Up(replica)) => {
            let lost = source.held.contains(&(NUMBER, Held::Lost));
            replica::observe_server::<E>(facts, source, before, NUMBER, replica, lost)
        }
        Some(Server::Unreachable(why) | Server::Refused(why) | Server::OtherEngine(why)) => {
            State::Starting(trouble(facts, target).unwrap_or_else(|| why.clone()))
        }
        Some(Server::NotAsked) | None => {
            State::Starting(trouble(facts, target).unwrap_or_else(|| {
                "its pod is being replaced; where the StatefulSet's updateStrategy is OnDelete, or has a partition, delete the pod".to_owned()
            }))
        }
    }
}

/// What keeps the target's pod from running.
pub(super) fn trouble<E: Engine>(facts: &Facts<E>, target: &TargetFacts<E>) -> Option<String> {
    pod_facts(target.workload.as_ref()?.pod.as_ref()?, facts.now).trouble
}

/// The target's pod was not started with `wanted`, and Kubernetes does not replace it, since it waits for it to become ready (manual, "Forced rollback").
pub(super) fn stuck<S, E: Engine>(subject: &Subject, facts: &Facts<E>, target: &TargetFacts<E>, wanted: Option<Data>) -> Option<Step<S>> {
    let SourceWorkload { stateful_set, pod } = target.workload.as_ref()?;
    let (spec, pod) = (stateful_set.spec.as_ref()?, pod.as_ref()?);
    let found = pod_facts(pod, facts.now);
    let by_hand = spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete");
    // With the same data it may have been started without the arguments that its template has.
    let arguments = subject.target_status().map(|recorded| E::target_arguments(&recorded.data_directory)).unwrap_or_default();
    let lacks = |spec: Option<&PodSpec>| container_with(spec, &arguments).is_none();
    let runs = target.runs(&subject.names.identity) == wanted && lacks(template_of(stateful_set)) == lacks(pod.spec.as_ref());
    let waits = !runs && !found.ready && pod.metadata.deletion_timestamp.is_none() && !by_hand;
    waits.then(|| Some(Step::Recreate { pod: found.name, uid: pod.metadata.uid.clone()? }))?
}

/// The plan once the owner of the source has taken the consent back: the source is cleaned, and the target stays as it is until its own owner decides.
pub fn unmanaged<E: Engine>(subject: &Subject, facts: &Facts<E>, mut draft: Draft<E::Step>, withdrawn: &Finding) -> Plan<E::Step> {
    environment::publish(subject, facts, &mut draft, &[]);
    let said = super::draft::describe(std::slice::from_ref(withdrawn)).1;
    let mut message = format!(
        "the consent was taken back, and replication is not managed any more: {said} Or set enabled to false: the target goes on as a stand-alone database."
    );
    // Nothing logs in to the source any more, nor is its password kept.
    let job = subject.names.backup_job(backup::sequence(&draft));
    if matches!(facts.own.jobs.get(&job), Some(Some(JobState::Running | JobState::Failed(..)))) {
        draft.steps.push(Step::Delete(Kind::Job, job));
    }
    if facts.credentials {
        draft.steps.push(Step::Delete(Kind::Secret, subject.names.credentials()));
    }
    let mut source = "the source is as it was before, but for what others still need";
    if let Server::Up(server) = &facts.server {
        let recorded = facts.to_undo(draft.status.source.as_ref().map(|source| source.changes.clone()).unwrap_or_default());
        let steps = E::plan_disable(server, &subject.names.identity, &recorded);
        if !steps.is_empty() {
            source = "what was changed on the source is being undone";
        }
        draft.steps.extend(steps.into_iter().map(Step::Source));
    } else {
        source = "the source does not answer: what was changed on it is undone as soon as it does";
        message.push_str(" The source does not answer: what was changed on it is undone as soon as it does.");
    }
    draft.ready(false, true, "ConsentWithdrawn", message.clone());
    draft.set(conditions::SOURCE_CONFIGURED, false, "ConsentWithdrawn", source);
    draft.unknown(conditions::REPLICAS_IN_SYNC, "ConsentWithdrawn", message);
    draft.status.phase = Some(Phase::Degraded);
    let again = if draft.steps.is_empty() { again::BLOCKED } else { again::NEXT };
    draft.finish(again)
}

impl<E: Engine> Enabling<'_, E> {
    /// The plan for a target.
    pub(super) fn take_over(self, mut draft: Draft<E::Step>, target: &TargetFacts<E>) -> Plan<E::Step> {
        let (subject, facts) = (self.subject, self.facts);
        let Some(database) = subject.target_database() else { return draft.finish(again::BLOCKED) };
        let (state, before) = (observe(subject, facts, &self.summary, target), replica::recorded(subject, NUMBER));
        if self.upgraded {
            // Nothing is begun with another version than the one that was recorded.
            return self.conclude(draft, &[(NUMBER, state)], backup::BackupState::Complete, true, (true, true), 0);
        }
        self.note(&mut draft, target);
        draft.status.replicas = vec![replica::describe(subject, facts, &self.summary, before, NUMBER, &state)];
        let states = [(NUMBER, state)];
        let (_, state) = &states[0];
        let configured = self.configure(&mut draft, &states.iter().collect::<Vec<_>>());
        let sequence = backup::sequence(&draft);
        let backup = backup::plan(subject, facts, &mut draft, &self.summary, &self.request(sequence), *state == State::Absent);
        backup::forget_credentials(subject, facts, &mut draft);
        match state {
            State::Absent if backup == backup::BackupState::Complete => {
                let job = build_staging_job(&self.request(backup::sequence(&draft)), NUMBER, database.stateful_set);
                draft.steps.push(Step::Apply(Object::Job(Box::new(job))));
            }
            State::RestoreFailed(_, true) => {
                draft.status.replicas.iter_mut().for_each(|entry| entry.failures += 1);
                draft.steps.push(Step::Delete(Kind::Job, subject.names.restore_job(NUMBER)));
            }
            State::Restored => {
                // It served until now, and may have been written to.
                if let Some(finding) = target::holds_data(subject, target) {
                    draft.blocked(&[finding]);
                    return draft.finish(again::BLOCKED);
                }
                // It may have waited long for its owner, and goes on serving what it has.
                let lost = self.summary.held.contains(&(NUMBER, Held::Lost)).then(|| "the source has given up what was held for it".to_owned());
                if let Some(why) = lost.or_else(|| backup::outdated::<E>(&draft, &self.summary)) {
                    let message = format!("the copy of the source's data is ready, and could not follow the source any more: {why}");
                    let remedy = "set enabled to false and, once it is Standalone, to true again: a new backup is taken";
                    draft.blocked(&[Finding::new("CopyOutdated", message, remedy)]);
                    return draft.finish(again::BLOCKED);
                }
                self.exchange(&mut draft, target);
            }
            State::Starting(_) if target.wants(&subject.names.identity).is_some() => {
                draft.steps.extend(stuck(subject, facts, target, Some(Data::Staged)));
            }
            State::CatchingUp => draft.steps.extend(self.mark(NUMBER)),
            State::InSync if draft.status.target.as_ref().is_some_and(|recorded| !recorded.cleared) => {
                let request = self.request(sequence);
                if kept(subject, facts, &mut draft, &request) {
                    let cleared = done(subject, facts, &mut draft, build_discard_job(&request)).is_some();
                    draft.status.target.iter_mut().for_each(|recorded| recorded.cleared = cleared);
                }
            }
            _ => {}
        }
        self.grow(&mut draft);
        let proven: Vec<String> = draft.status.replicas.iter().filter(|entry| entry.serves()).map(|entry| entry.address.clone()).collect();
        let current = environment::publish(subject, facts, &mut draft, &proven);
        self.conclude(draft, &states, backup, configured, (current, true), 0)
    }

    /// Puts on record that the target's server has run on the copy, and how long it was away for that.
    fn note(&self, draft: &mut Draft<E::Step>, target: &TargetFacts<E>) {
        let up = matches!(self.facts.replicas.get(&NUMBER), Some(Server::Up(_)));
        if !up || target.runs(&self.subject.names.identity) != Some(Data::Staged) {
            return;
        }
        if let Some(recorded) = &mut draft.status.target {
            recorded.joined = true;
        }
        if let Some(disruption) = &mut draft.status.disruption
            && let Some(began) = disruption.began.take()
        {
            let seconds = self.facts.now.duration_since(began.0).unsigned_abs().as_secs_f32();
            disruption.measured = Some(format!("{seconds:.1} s from the moment the restart was asked for until the target answered again"));
        }
    }

    /// Plans the restart of the target, in which its data and the copy change places.
    fn exchange(&self, draft: &mut Draft<E::Step>, target: &TargetFacts<E>) {
        let Some(found) = &target.workload else { return };
        let keeps = self.subject.resource.spec.target.as_ref().is_some_and(|target| target.existing_data == ExistingData::BackUpAndReplace);
        draft.status.target.iter_mut().for_each(|recorded| recorded.keeps = keeps);
        if let Some(disruption) = &mut draft.status.disruption {
            disruption.began = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(self.facts.now));
        }
        draft.steps.push(change::<E>(found, &self.request(1).workload, Data::Staged));
    }
}

/// The step that has the target start with `data`.
pub(super) fn change<E: Engine>(found: &SourceWorkload, workload: &Workload<'_>, data: Data) -> Step<E::Step> {
    let arguments = E::target_arguments(&workload.shape.data_directory);
    let stateful_set = found.stateful_set.metadata.name.clone().unwrap_or_default();
    let what = match data {
        Data::Staged => format!("StatefulSet {stateful_set}: an init container exchanges its data for the copy of the source's"),
        Data::Previous => format!("StatefulSet {stateful_set}: an init container puts the data back that it held before"),
    };
    Step::Change { patch: build_target_change(workload, &found.stateful_set, data, &arguments), stateful_set, side: "target", what }
}

/// Plans the backup of what the target held before: where that is wanted, and where it was written to after the last look at it. Gives whether it may be
/// deleted.
pub(super) fn kept<E: Engine>(subject: &Subject, facts: &Facts<E>, draft: &mut Draft<E::Step>, request: &JobRequest<'_>) -> bool {
    let Some(recorded) = draft.status.target.as_ref().filter(|recorded| !recorded.cleared && draft.status.kept.is_none()) else { return true };
    let job = build_keep_job(request, &recorded.version, !recorded.keeps);
    backup::claim(subject, facts, draft);
    let Some(message) = done(subject, facts, draft, job) else { return false };
    let mut kept = match serde_json::from_str::<Option<KeptStatus>>(&message) {
        Ok(Some(kept)) => kept,
        Ok(None) => return true,
        Err(_) => {
            // Its pod is gone, and its answer with it.
            draft.steps.push(Step::Delete(Kind::Job, subject.names.keep_job()));
            return false;
        }
    };
    (kept.claim, kept.directory) = (subject.names.backup_claim(), subject.names.kept_directory());
    let bytes = u64::try_from(kept.bytes).map(format_bytes).unwrap_or_default();
    let note = format!("what the target held before, {bytes}, is backed up and verified: directory {} of PersistentVolumeClaim {}", kept.directory, kept.claim);
    draft.steps.push(Step::Tell { warning: false, reason: "PreviousDataKept", note });
    draft.status.kept = Some(kept);
    true
}

/// Plans a Job on the target's volume. Gives its message once it is done, if that is still there; one that fails is said, and tried again.
pub(super) fn done<E: Engine>(subject: &Subject, facts: &Facts<E>, draft: &mut Draft<E::Step>, job: Job) -> Option<String> {
    let name = job.metadata.name.clone().unwrap_or_default();
    match facts.own.jobs.get(&name) {
        None => draft.steps.push(Step::Apply(Object::Job(Box::new(job)))),
        Some(Some(JobState::Complete(message))) => return Some(message.clone().unwrap_or_default()),
        Some(Some(JobState::Failed(why, at))) if backup::waited(subject, facts.now, *at, 4) => {
            draft.steps.push(Step::Tell { warning: true, reason: "VolumeNotCleared", note: format!("Job {name} failed: {why}; it is tried again") });
            draft.steps.push(Step::Delete(Kind::Job, name));
        }
        Some(_) => {}
    }
    None
}
