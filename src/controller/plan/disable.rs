//! Back to a stand-alone database: replicas gone, the source as it was. Works with either side dead.

use std::time::Duration;

use super::{Draft, Facts, Kind, Plan, Step, Subject, again, conditions, environment, give_back, preflight, replica, source as change};
use crate::api::{DeletionPolicy, Phase};
use crate::controller::facts::Server;
use crate::engine::{Engine, Identity};
use give_back::Returned;

/// The plan for a resource that is disabled or being deleted.
#[must_use]
pub fn plan<E: Engine>(subject: &Subject, facts: &Facts<E>, mut draft: Draft<E::Step>, image: &str) -> Plan<E::Step> {
    let names = &subject.names;
    let own = &facts.own;
    let deleting = subject.deleting();
    if !subject.recorded() {
        let measuring = names.measure_job();
        if own.jobs.get(&measuring).is_some_and(Option::is_some) {
            draft.steps.push(Step::Delete(Kind::Job, measuring));
        }
        return end::<E>(subject, facts, draft);
    }
    for kind in [conditions::PREFLIGHT, conditions::SOURCE_CONFIGURED, conditions::BACKUP_TAKEN, conditions::REPLICAS_IN_SYNC, conditions::ENVIRONMENT_CURRENT]
    {
        draft.set(kind, false, "Disabling", "");
    }
    draft.status.phase = Some(Phase::Disabling);
    draft.ready(false, false, "Disabling", "replicas are being removed and the source's changes undone");

    // Applications first: nobody is to be sent to a replica that goes away.
    let waited = subject.waited(facts.now);
    let mut left = None;
    if let Some(plan) = tell_applications(facts, &mut draft, waited, &mut left) {
        return plan;
    }

    if let Some(plan) = leave(subject, facts, &mut draft, waited) {
        return plan;
    }
    let returned = give_back::give_back(subject, facts, &mut draft, image);
    if let Returned::Waits(why) = &returned {
        draft.ready(false, false, "Disabling", why.clone());
        return draft.finish(again::SOON);
    }
    let numbers: std::collections::BTreeSet<u32> =
        own.stateful_sets.values().chain(own.claims.values()).chain(own.services.values()).filter_map(|object| object.number).collect();
    let mut gone = true;
    for number in numbers {
        gone &= replica::remove(names, own, &mut draft, number);
    }
    let jobs = own.jobs.iter().filter(|(_, job)| job.is_some()).map(|(name, _)| Step::Delete(Kind::Job, name.clone()));
    let jobs: Vec<_> = jobs.filter(|step| !draft.steps.contains(step)).collect();
    draft.steps.extend(jobs);
    gone &= own.jobs.is_empty() && own.pods.iter().all(|pod| pod.ended);
    if !gone {
        draft.status.replicas.iter_mut().for_each(|entry| "Removing".clone_into(&mut entry.state));
        return draft.finish(again::PROGRESS);
    }
    if !matches!(returned, Returned::Silent(_)) {
        draft.status.replicas = Vec::new();
    }

    let source = draft.status.source.clone().unwrap_or_default();
    let mut recorded = facts.to_undo(source.changes);
    if let Some(plan) = restore(subject, facts, &mut draft, &recorded, waited) {
        return plan;
    }
    match &facts.server {
        Server::Up(server) => {
            let now = E::summary(server).system;
            if source.system.is_some_and(|was| !now.is_empty() && was != now) {
                // Another database than the one that was changed: what looks like our change there is its owner's.
                recorded.clear();
            }
            let steps = E::plan_disable(server, &names.identity, &recorded);
            let refused = facts.failure.as_ref().filter(|_| waited.is_some_and(|waited| waited >= again::ABANDON * 3));
            match refused {
                _ if steps.is_empty() => {
                    let kept = E::kept(server, &recorded);
                    draft.steps.extend(kept.map(|note| Step::Tell { warning: true, reason: "SourceKeepsChange", note }));
                }
                // Who deletes the resource is not kept waiting for ever by a source that answers and refuses.
                Some(why) => draft.steps.push(not_cleaned::<E>(&names.identity, &recorded, &format!("the source refused it ({why})"))),
                None => {
                    draft.steps.extend(steps.into_iter().map(Step::Source));
                    return draft.finish(again::SOON);
                }
            }
        }
        _ if facts.source.is_none() => draft.steps.push(Step::Tell { warning: false, reason: "SourceGone", note: source_gone::<E>(subject, &recorded) }),
        _ => {
            let (_, why) = super::draft::describe(&preflight::reach(subject, facts));
            if waited.is_none_or(|waited| waited < again::ABANDON) {
                let rest = if deleting { format!("; given up after {} s", again::ABANDON.as_secs()) } else { String::new() };
                let replicas = match &returned {
                    Returned::Silent(why) => why,
                    _ => "nothing is a replica any more",
                };
                let message = format!("{replicas}; the source's changes are undone as soon as it answers{rest}. {why}");
                draft.ready(false, !deleting, "SourceUnreachable", message);
                return draft.finish(again::BLOCKED);
            }
            draft.steps.push(not_cleaned::<E>(&names.identity, &recorded, "the source did not answer"));
        }
    }

    if let Returned::Silent(why) = returned
        && let Some(plan) = silent::<E>(subject, facts, &mut draft, &why, waited)
    {
        return plan;
    }

    draft.steps.extend(left);
    clear(subject, facts, &mut draft);
    if draft.steps.iter().any(|step| !matches!(step, Step::Tell { .. })) {
        // What was found is told once, at the end.
        draft.steps.retain(|step| !matches!(step, Step::Tell { .. }));
        return draft.finish(again::SOON);
    }
    end::<E>(subject, facts, draft)
}

/// Empties the variables. None once that is done, or given up, of which `left` is to be told at the end: who deletes the resource is not kept waiting for ever by
/// objects that may not be changed, or that somebody changes back.
fn tell_applications<E: Engine>(
    facts: &Facts<E>,
    draft: &mut Draft<E::Step>,
    waited: Option<Duration>,
    left: &mut Option<Step<E::Step>>,
) -> Option<Plan<E::Step>> {
    let planned = draft.steps.len();
    if environment::give_up::<E>(facts, draft) {
        return None;
    }
    if waited.is_none_or(|waited| waited < again::ABANDON * 2) {
        let message =
            "the addresses of replicas are being taken out of the variables; a pipeline that applies these ConfigMaps has to leave the variables alone";
        draft.ready(false, false, "Disabling", message);
        return Some(draft.clone().finish(again::SOON));
    }
    draft.steps.truncate(planned);
    let named: Vec<String> = draft.status.environment.iter().map(|record| format!("{} of ConfigMap {}", record.key, record.config_map)).collect();
    let note =
        format!("these variables could not be emptied, and may name what is no replica any more: {}. By hand: give each an empty value", named.join(", "));
    *left = Some(Step::Tell { warning: true, reason: "VariablesNotGivenUp", note });
    None
}

/// A target that does not answer is waited for; none once that is given up, which is told.
fn silent<E: Engine>(subject: &Subject, facts: &Facts<E>, draft: &mut Draft<E::Step>, why: &str, waited: Option<Duration>) -> Option<Plan<E::Step>> {
    if waited.is_none_or(|waited| waited < again::ABANDON) {
        let rest = if subject.deleting() { format!("; given up after {} s", again::ABANDON.as_secs()) } else { String::new() };
        let message = format!("the source is as it was; the target becomes a stand-alone database as soon as it answers{rest}. {why}");
        draft.ready(false, !subject.deleting(), "TargetUnreachable", message);
        return Some(draft.clone().finish(again::BLOCKED));
    }
    draft.steps.push(Step::Tell { warning: true, reason: "TargetNotReturned", note: format!("{why}. {}", give_back::by_hand::<E>(subject, facts, draft)) });
    None
}

/// Plans to remove what is left of ours in the namespace.
fn clear<E: Engine>(subject: &Subject, facts: &Facts<E>, draft: &mut Draft<E::Step>) {
    let (names, own) = (&subject.names, &facts.own);
    change::forget_key(subject, facts, draft);
    if facts.credentials {
        draft.steps.push(Step::Delete(Kind::Secret, names.credentials()));
    }
    for (name, service) in &own.services {
        if !service.deleting {
            draft.steps.push(Step::Delete(Kind::Service, name.clone()));
        }
    }
    for (claim, found) in &own.claims {
        // Of what a target held before there is no other copy. What an enabling has left that was not brought to its end may be one, too.
        let only_copy = draft.status.kept.as_ref().is_some_and(|kept| kept.claim == *claim);
        let other = found.enablement.as_deref().is_some_and(|word| word != names.identity.word());
        let policy = if only_copy || other { DeletionPolicy::Retain } else { subject.resource.spec.deletion_policy };
        replica::dispose(policy, own, draft, claim.clone());
    }
}

/// While the replicas still run: the source is made to get on without them, so that it goes on taking writes when they stop. None when that is done, or can't
/// be.
fn leave<E: Engine>(subject: &Subject, facts: &Facts<E>, draft: &mut Draft<E::Step>, waited: Option<Duration>) -> Option<Plan<E::Step>> {
    let alone = E::source_arguments(&subject.names.identity).is_empty();
    let abandoned = |times: u32| waited.is_some_and(|waited| waited >= again::ABANDON * times);
    match &facts.server {
        _ if alone => None,
        Server::Up(server) if E::summary(server).leads => {
            let steps = E::plan_leave(server, &subject.names.identity, &[]);
            if steps.is_empty() || facts.failure.is_some() && abandoned(3) {
                return None;
            }
            draft.steps.extend(steps.into_iter().map(Step::Source));
            Some(draft.clone().finish(again::NEXT))
        }
        // Gone with its StatefulSet it will not catch up.
        _ if abandoned(1) || facts.source.is_none() => None,
        server => {
            let elects = matches!(server, Server::Up(server) if E::summary(server).elects);
            let electing = elects && facts.replicas.values().any(|replica| matches!(replica, Server::Up(_)));
            let why = match facts.leader() {
                Some(leader) => format!("{} was elected and takes the writes", subject.names.replica(leader)),
                None if electing => "the servers elect the one that takes the writes".to_owned(),
                None => return None,
            };
            // What was written to the one that was elected is on the source once that takes the writes again, and not before.
            let message = format!("{why}: replication is undone as soon as the source has caught up and takes the writes");
            draft.ready(false, false, "NoPrimary", message);
            Some(draft.clone().finish(again::PROGRESS))
        }
    }
}

/// Puts the source's StatefulSet back, once its server has nothing left to do as it runs now. None when that is done, or is given up.
fn restore<E: Engine>(
    subject: &Subject,
    facts: &Facts<E>,
    draft: &mut Draft<E::Step>,
    recorded: &[crate::api::Change],
    waited: Option<Duration>,
) -> Option<Plan<E::Step>> {
    if change::on_its_way_back(subject, facts, draft) {
        draft.ready(false, false, "RestartingSource", "the replicas are gone, and the source restarts as it was before");
        return Some(draft.clone().finish(again::RESTART));
    }
    if matches!(&facts.server, Server::Up(server) if !E::plan_disable(server, &subject.names.identity, recorded).is_empty()) {
        return None;
    }
    match change::restore(subject, facts, draft) {
        change::Restored::Done => None,
        change::Restored::Waits(why) => {
            draft.ready(false, false, "RestartingSource", format!("the replicas are gone, and the source restarts: {why}"));
            Some(draft.clone().finish(again::RESTART))
        }
        change::Restored::NotAllowed(_) if waited.is_some_and(|waited| waited >= again::ABANDON) => {
            draft.steps.push(not_cleaned::<E>(&subject.names.identity, recorded, "source.restart is Never"));
            None
        }
        change::Restored::NotAllowed(why) => {
            draft.ready(false, true, "RestartNotAllowed", why);
            Some(draft.clone().finish(again::BLOCKED))
        }
    }
}

fn source_gone<E: Engine>(subject: &Subject, recorded: &[crate::api::Change]) -> String {
    let begin = format!("StatefulSet {} no longer exists", subject.source());
    match recorded {
        [] => format!("{begin}: there is nothing left to undo on it"),
        _ => format!(
            "{begin}, and was not cleaned. If a server runs on its data, or will, this is left there: {}. By hand: {}",
            left(recorded),
            E::undo_by_hand(&subject.names.identity, recorded)
        ),
    }
}

fn not_cleaned<E: Engine>(identity: &Identity, recorded: &[crate::api::Change], why: &str) -> Step<E::Step> {
    let note = format!("{why}, so this is left on it: {}. By hand: {}", left(recorded), E::undo_by_hand(identity, recorded));
    Step::Tell { warning: true, reason: "SourceNotCleaned", note }
}

fn left(recorded: &[crate::api::Change]) -> String {
    recorded.iter().map(|change| change.what.as_str()).collect::<Vec<_>>().join(", ")
}

/// Nothing is left: the record goes, and with it our hold on the resource.
fn end<E: Engine>(subject: &Subject, _facts: &Facts<E>, mut draft: Draft<E::Step>) -> Plan<E::Step> {
    let status = &mut draft.status;
    status.enablement = None;
    status.source = None;
    status.target = None;
    status.backup = None;
    status.disruption = None;
    status.replicas = Vec::new();
    status.environment = Vec::new();
    status.seeds = 0;
    status.phase = Some(Phase::Standalone);
    let message = "the source is a stand-alone database";
    // An enabled: false that is reached is what the user asked for: tools that wait for Ready are not kept waiting.
    draft.set(conditions::READY, true, "Standalone", message);
    draft.set(conditions::RECONCILING, false, "Standalone", "");
    draft.set(conditions::STALLED, false, "Standalone", "");
    if subject.resource.metadata.finalizers.iter().flatten().any(|f| f == crate::api::FINALIZER) {
        draft.steps.push(Step::Release);
    }
    draft.finish(if subject.resource.spec.enabled { again::NEXT } else { again::IDLE })
}
