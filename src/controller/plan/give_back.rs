//! The way back of a target: a database of its own again, with the copy where that was proven, otherwise with the data that it held before.

use super::place::Place;
use super::takeover::{NUMBER, change, done, kept, stuck, trouble};
use super::{Draft, Facts, Kind, Step, Subject, again, backup, replica};
use crate::agent::{NO_COPY, RELEASED};
use crate::api::ReplicaStatus;
use crate::controller::facts::{Server, SourceWorkload, TargetFacts, pod_facts};
use crate::engine::{Engine, Identity, ReplicaSummary};
use crate::resources::{Data, JobRequest, build_clear_job, build_release_job, build_target_as_before, container_with, template_of};

/// Where a target stands on the way back.
pub enum Returned {
    /// It is a database of its own, and nothing of ours is on it.
    Done,
    /// Not yet; why.
    Waits(String),
    /// It does not answer; why.
    Silent(String),
}

/// Plans to make the target a database of its own again: with the copy where that was proven, otherwise with the data that it held before.
pub fn give_back<E: Engine>(subject: &Subject, facts: &Facts<E>, draft: &mut Draft<E::Step>, image: &str) -> Returned {
    let (Some(target), Some(database), Some(recorded)) = (&facts.target, subject.target_database(), draft.status.target.clone()) else { return Returned::Done };
    if recorded.returned {
        return Returned::Done;
    }
    let exchanged = exchanged(draft);
    let Some(found) = &target.workload else {
        // Another one may take its claim, with the copy on it.
        return if exchanged { Returned::Silent(format!("StatefulSet {} no longer exists", database.stateful_set)) } else { Returned::Done };
    };
    let place = match (Place::beside_target(subject, facts, target), &target.shape) {
        (Some(place), _) => place,
        (None, Some(Err(finding))) => return Returned::Silent(finding.message.clone()),
        (None, _) => return Returned::Silent("its StatefulSet could not be looked at".to_owned()),
    };
    let shape = place.shape;
    let waits = |why: &str| Returned::Waits(format!("the target {} {why}", database.stateful_set));
    let silent = |why: String| Returned::Silent(format!("the target {} does not answer: {why}", database.stateful_set));
    let gone = || lost(subject, facts, found);
    let (names, pod) = (&subject.names, database.pod());
    if work_ends(subject, facts, draft) {
        return waits("waits for the end of the Jobs that work on its volume");
    }
    if found.stateful_set.spec.as_ref().and_then(|spec| spec.replicas) == Some(0) {
        return silent("its StatefulSet has replicas: 0".to_owned());
    }
    let (asked, runs) = (target.wants(&names.identity), target.runs(&names.identity));
    if let Some(step) = stuck(subject, facts, target, asked) {
        draft.steps.push(step);
        return waits("is being restarted");
    }
    let answer = match facts.replicas.get(&NUMBER) {
        Some(Server::Up(summary)) => Ok(summary),
        Some(Server::Unreachable(why) | Server::Refused(why) | Server::OtherEngine(why)) => Err(trouble(facts, target).unwrap_or_else(|| why.clone())),
        Some(Server::NotAsked) | None => Err(trouble(facts, target).unwrap_or_else(|| format!("pod {pod} does not run"))),
    };
    let request = place.request::<E>(subject, image, 1);
    let arguments = E::target_arguments(&shape.data_directory);
    let as_before = build_target_as_before(&found.stateful_set, &shape.container.name, &arguments, &names.manager());
    let put_back = as_before.map(|patch| Step::PutBack { stateful_set: database.stateful_set.to_owned(), side: "target", patch });
    let proven = recorded.cleared || stays(draft, &answer);
    if proven && resume(subject, facts, draft, target, found, &request) {
        return waits("gets back the arguments that somebody took off it, to be promoted");
    }
    let own_data = |draft: &mut Draft<E::Step>| {
        draft.steps.push(change::<E>(found, &request.workload, Data::Previous));
        waits("gets back the data that it held before: the copy was not proven")
    };
    match (asked, &put_back) {
        // Somebody may have taken the init container, and not the arguments.
        (Some(Data::Staged), _) | (None, Some(_)) if proven && (asked.is_some() || recorded.joined) => {
            if let Err(why) = answer {
                return silent(why);
            }
            return stand_alone(subject, facts, draft, target, &request, put_back);
        }
        (Some(Data::Staged), _) => return own_data(draft),
        // Somebody else put its template back, and the copy may still be in its place.
        (None, _) if exchanged && !proven => {
            let refused = refused(subject, facts).filter(|_| !recorded.joined && runs.is_none());
            return refused.map_or_else(|| own_data(draft), silent);
        }
        (Some(Data::Previous), _) => {
            let ready = found.pod.as_ref().is_some_and(|pod| pod_facts(pod, facts.now).ready);
            if runs != Some(Data::Previous) || !ready {
                let why = trouble(facts, target).or_else(gone);
                return why.map_or_else(|| waits("is being restarted with the data that it held before"), silent);
            }
            draft.status.target.iter_mut().for_each(|recorded| recorded.joined = false);
            draft.status.disruption.iter_mut().for_each(|disruption| disruption.began = None);
            draft.steps.extend(put_back);
            return waits("restarts without what it was given");
        }
        (None, Some(_)) => {
            draft.steps.extend(put_back);
            return waits("restarts without what it was given");
        }
        (None, None) => {}
    }
    if found.stateful_set.metadata.managed_fields.iter().flatten().any(|entry| entry.manager.as_ref() == Some(&names.manager())) {
        draft.steps.push(Step::Disown(database.stateful_set.to_owned()));
        return waits("gets rid of the last of what it was given");
    }
    let with = found.pod.as_ref().and_then(|pod| container_with(pod.spec.as_ref(), &arguments));
    if runs.is_some() || with.is_some() {
        return gone().map_or_else(|| waits("is being restarted without what it was given"), silent);
    }
    if recorded.joined {
        match answer {
            Err(why) => return silent(why),
            Ok(summary) => {
                if let Some(why) = settle(subject, facts, draft, target, &request, summary.read_only) {
                    return waits(&why);
                }
            }
        }
    }
    if done(subject, facts, draft, build_clear_job(&request)).is_none() {
        return waits("is a database of its own; what the exchange has left on its volume is being deleted");
    }
    if let Some(recorded) = &mut draft.status.target {
        recorded.returned = true;
    }
    Returned::Done
}

/// The copy is the target's own from now on: it was proven, or somebody promoted it, and what was written to it since then is nowhere else.
fn stays<S>(draft: &mut Draft<S>, answer: &Result<&ReplicaSummary, String>) -> bool {
    let promoted = draft.status.replicas.iter().any(ReplicaStatus::is_apart) || matches!(answer, Ok(summary) if !summary.read_only);
    let proven = draft.status.replicas.iter().any(|entry| entry.proven_at.is_some());
    // While it restarts it says nothing of itself.
    draft.status.target.as_mut().is_some_and(|target| {
        target.promoted |= promoted;
        target.promoted || proven
    })
}

/// The target's pod does not run, and who deletes the resource has waited for it for long: a pod is missing for a moment in every restart, and for good where
/// its node is.
fn lost<E: Engine>(subject: &Subject, facts: &Facts<E>, found: &SourceWorkload) -> Option<String> {
    let runs = found.pod.as_ref().is_some_and(|pod| pod.metadata.deletion_timestamp.is_none());
    (!runs && abandoned(subject, facts)).then(|| "its pod does not run".to_owned())
}

/// Who deletes the resource has waited for long; before the source is given up.
fn abandoned<E: Engine>(subject: &Subject, facts: &Facts<E>) -> bool {
    subject.waited(facts.now).is_some_and(|waited| waited >= again::ABANDON * 2)
}

/// Who deletes the resource is not kept waiting for ever by a StatefulSet that may not be changed.
fn refused<E: Engine>(subject: &Subject, facts: &Facts<E>) -> Option<String> {
    facts.failure.clone().filter(|_| abandoned(subject, facts))
}

/// Plans to end the Jobs that work on the target's volume: what is being restored is no longer wanted. Gives whether any is left.
fn work_ends<E: Engine>(subject: &Subject, facts: &Facts<E>, draft: &mut Draft<E::Step>) -> bool {
    let names = &subject.names;
    let working = ["restore", "measure", "backup", "discard"];
    let jobs = [names.restore_job(NUMBER), names.measure_job(), names.backup_job(backup::sequence(draft)), names.discard_job()];
    let there: Vec<&String> = jobs.iter().filter(|job| facts.own.jobs.contains_key(*job)).collect();
    if there.is_empty() && facts.own.pods.iter().all(|pod| pod.ended || !working.contains(&pod.component.as_str())) {
        return false;
    }
    let left = there.iter().filter(|job| facts.own.jobs.get(**job).is_some_and(Option::is_some));
    draft.steps.extend(left.map(|job| Step::Delete(Kind::Job, (*job).clone())));
    true
}

/// Plans to put arguments of the target's server back, which somebody took off it, and without which it does not start on the copy: once, and not fought for.
/// Whoever releases the copy starts without them, and takes writes. Gives whether that is planned.
fn resume<E: Engine>(
    subject: &Subject,
    facts: &Facts<E>,
    draft: &mut Draft<E::Step>,
    target: &TargetFacts<E>,
    found: &SourceWorkload,
    request: &JobRequest<'_>,
) -> bool {
    let Some(recorded) = draft.status.target.as_mut().filter(|recorded| recorded.joined && !recorded.releasing) else { return false };
    let arguments = E::target_arguments(&recorded.data_directory);
    let lost = !arguments.is_empty() && container_with(template_of(&found.stateful_set), &arguments).is_none();
    let crashes = matches!(facts.replicas.get(&NUMBER), Some(Server::Unreachable(_))) && trouble(facts, target).is_some();
    let generation = found.stateful_set.metadata.generation.unwrap_or_default();
    let given_up = recorded.resumed.is_some_and(|then| generation > then) || subject.waited(facts.now).is_some_and(|waited| waited >= again::ABANDON);
    if !lost || !crashes || given_up {
        return false;
    }
    recorded.resumed = Some(generation);
    draft.steps.push(change::<E>(found, &request.workload, Data::Staged));
    true
}

/// Plans to have a copy that was proven be the target's own, once what it held before is safe. Gives whether there is one; an error is what it waits for.
fn release<E: Engine>(subject: &Subject, facts: &Facts<E>, draft: &mut Draft<E::Step>, request: &JobRequest<'_>) -> Result<bool, String> {
    if draft.status.target.as_ref().is_none_or(|recorded| recorded.released) {
        return Ok(true);
    }
    if !kept(subject, facts, draft, request) {
        replica::grow(facts, draft, subject.names.backup_claim(), subject.resource.spec.backup.volume.size.clone());
        let trouble = backup::trouble(facts, "keep", &subject.names.keep_job());
        return Err(trouble.map_or_else(
            || "has what it held before backed up".to_owned(),
            |why| {
                let claim = subject.names.backup_claim();
                format!(
                    "cannot have what it held before backed up: {why}. It is tried again. What to do: raise backup.volume.size; where the volume cannot grow, kubectl delete pvc {claim} -n {}: another one is made, and the backup of the source on it is not needed for this",
                    subject.names.namespace
                )
            },
        ));
    }
    draft.status.target.iter_mut().for_each(|recorded| recorded.releasing = true);
    let Some(message) = done(subject, facts, draft, build_release_job(request)) else {
        return Err("is about to become a stand-alone server".to_owned());
    };
    if message != RELEASED && message != NO_COPY {
        // Its pod is gone, and its answer with it.
        draft.steps.push(Step::Delete(Kind::Job, subject.names.release_job()));
        return Err("is about to become a stand-alone server".to_owned());
    }
    let copy = message == RELEASED;
    draft.status.target.iter_mut().for_each(|recorded| recorded.released = copy);
    Ok(copy)
}

/// Plans what is left to do on a copy that nothing of ours is on any more, because it was put back or somebody else took it. None when that is done.
fn settle<E: Engine>(
    subject: &Subject,
    facts: &Facts<E>,
    draft: &mut Draft<E::Step>,
    target: &TargetFacts<E>,
    request: &JobRequest<'_>,
    read_only: bool,
) -> Option<String> {
    match release(subject, facts, draft, request) {
        Err(why) => return Some(why),
        // Its owner has put other data there, and what is on it is not ours.
        Ok(false) => return None,
        Ok(true) => {}
    }
    // Where somebody else put its template back it may have been cut off; the Job that follows it is made only where it succeeds.
    if read_only || !facts.own.jobs.contains_key(&subject.names.clear_job()) {
        draft.steps.push(Step::Promote);
    }
    if read_only {
        return Some("becomes a stand-alone server".to_owned());
    }
    let left = left_on_copy(subject, facts, draft, target);
    let any = !left.is_empty();
    draft.steps.extend(left);
    any.then(|| "is a stand-alone server, and loses what came with the copy".to_owned())
}

/// The steps that take off a promoted copy what was changed on the source and came with it, that of others too; empty where who deletes the resource has
/// waited for long, and the server refuses.
fn left_on_copy<E: Engine>(subject: &Subject, facts: &Facts<E>, draft: &Draft<E::Step>, target: &TargetFacts<E>) -> Vec<Step<E::Step>> {
    if facts.failure.is_some() && subject.waited(facts.now).is_some_and(|waited| waited >= again::ABANDON * 3) {
        return Vec::new();
    }
    let changes = draft.status.source.as_ref().map(|source| source.changes.as_slice()).unwrap_or_default();
    let own = |identity: &Identity| if *identity == subject.names.identity { changes } else { &[] };
    target.promoted.iter().flat_map(|(identity, server)| E::plan_disable(server, identity, own(identity))).map(Step::Target).collect()
}

/// Plans to make a copy that was proven a server of its own, and to give up our fields of its StatefulSet then.
fn stand_alone<E: Engine>(
    subject: &Subject,
    facts: &Facts<E>,
    draft: &mut Draft<E::Step>,
    target: &TargetFacts<E>,
    request: &JobRequest<'_>,
    put_back: Option<Step<E::Step>>,
) -> Returned {
    let name = request.workload.source;
    let waits = |why: &str| Returned::Waits(format!("the target {name} {why}"));
    match release(subject, facts, draft, request) {
        Err(why) => return waits(&why),
        Ok(false) => return Returned::Silent(format!("the data directory of the target {name} does not hold the copy of the source's data any more")),
        Ok(true) => {}
    }
    // Again, until nothing else is left to do: it may have been cut off.
    draft.steps.push(Step::Promote);
    if target.promoted.is_empty() {
        return waits("becomes a stand-alone server");
    }
    let left = left_on_copy(subject, facts, draft, target);
    if !left.is_empty() {
        draft.steps.extend(left);
        return waits("is a stand-alone server, and loses what came with the copy");
    }
    let Some(put_back) = put_back else {
        return Returned::Silent(format!(
            "somebody's manifest names the init container understudy-swap of StatefulSet {name} by now: take it out of the manifest"
        ));
    };
    draft.steps.push(put_back);
    waits("restarts without what it was given")
}

/// The target's data may have changed places with the copy: that it is about to is on record before its StatefulSet is changed, and that it has from then on.
fn exchanged<S>(draft: &Draft<S>) -> bool {
    let joined = draft.status.target.as_ref().is_some_and(|recorded| recorded.joined);
    joined || draft.status.disruption.as_ref().is_some_and(|disruption| disruption.began.is_some())
}

/// What is said of a target that could not be given back.
#[must_use]
pub fn by_hand<E: Engine>(subject: &Subject, facts: &Facts<E>, draft: &Draft<E::Step>) -> String {
    let (Some(database), Some(recorded)) = (subject.target_database(), &draft.status.target) else { return String::new() };
    let (name, identity) = (database.stateful_set, &subject.names.identity);
    match facts.target.as_ref().and_then(|target| target.wants(identity)) {
        None if !exchanged(draft) => format!("It was not touched, but that a directory .understudy-{} may be left on its volume", identity.word()),
        None if !recorded.joined => format!(
            "StatefulSet {name} has nothing of ours. Where its data directory holds the copy, what it held before is in .understudy-{} on its volume: docs/development/swap.md tells how to put it back",
            identity.word()
        ),
        Some(Data::Previous) => format!(
            "StatefulSet {name} keeps the init container understudy-swap, which puts the data back that it held before when its pod starts. By hand: once it has run, take that init container out of the StatefulSet"
        ),
        _ => {
            let previous = if recorded.cleared { "" } else { " (docs/development/swap.md tells how to get back what it held before)" };
            let promote = E::promote_by_hand(identity, &recorded.data_directory);
            format!(
                "StatefulSet {name} keeps the init container understudy-swap, and its server goes on as a replica{previous}. By hand: {promote}. Then take that init container out of the StatefulSet"
            )
        }
    }
}
