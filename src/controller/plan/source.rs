//! The change of the source's StatefulSet, where its server needs one: made once, waited for, and taken back. The source restarts for it, both times.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Draft, Facts, Kind, Object, Plan, Step, Subject, again, conditions};
use crate::api::{Change, Phase, Restart};
use crate::controller::facts::{Server, SourceWorkload};
use crate::engine::{Engine, Finding, WantedSource};
use crate::resources::{
    Shape, Workload, build_key, build_source_as_before, build_source_change, build_source_service, container_with, key_arguments, needs_key_file, template_of,
};

const REASON: &str = "RestartingSource";

/// How the source stands to the change that its server needs.
enum Standing {
    /// It needs none.
    NotNeeded,
    /// Its StatefulSet does not have it.
    Missing,
    /// Its StatefulSet has it.
    There,
}

fn observe<E: Engine>(subject: &Subject, facts: &Facts<E>) -> Standing {
    let arguments = E::source_arguments(&subject.names.identity);
    match &facts.source {
        _ if arguments.is_empty() => Standing::NotNeeded,
        Some(source) if container_with(template_of(&source.stateful_set), &arguments).is_some() => Standing::There,
        _ => Standing::Missing,
    }
}

/// The source ran with the change once.
fn has_run(subject: &Subject) -> bool {
    subject.resource.status.as_ref().and_then(|status| status.disruption.as_ref()).is_some_and(|disruption| disruption.measured.is_some())
}

/// What is said in words of the change.
fn words<E: Engine>(subject: &Subject, key: bool) -> String {
    let mut arguments = E::source_arguments(&subject.names.identity);
    if key {
        arguments.extend(key_arguments());
    }
    arguments.join(" ")
}

/// Before anything is changed: it may not be restarted, and has to be.
pub fn preflight<E: Engine>(subject: &Subject) -> Option<Finding> {
    let needed = !E::source_arguments(&subject.names.identity).is_empty();
    (needed && subject.resource.spec.source.restart == Restart::Never).then(|| {
        Finding::new(
            "RestartNotAllowed",
            format!("the source has to restart once to get the arguments {}, and source.restart is Never", words::<E>(subject, false)),
            "set source.restart to Allow when the time suits; status.disruption.expected says how long its clients wait",
        )
    })
}

/// The user's tools took the change back after it had been made. It counts until replication is disabled: what was written since then is on no replica.
pub fn reverted<E: Engine>(subject: &Subject, facts: &Facts<E>, draft: &mut Draft<E::Step>) -> Option<Finding> {
    let source = draft.status.source.as_mut()?;
    // Without the object itself nothing is known.
    if facts.source.is_some() && matches!(observe(subject, facts), Standing::Missing) && has_run(subject) {
        source.reverted = true;
    }
    source.reverted.then(|| {
        Finding::new(
            "SourceReverted",
            format!(
                "StatefulSet {} lost the arguments {} (kubectl apply, a pipeline or a helm upgrade put its own back), and the source ran without its replicas: what was written to it meanwhile is on none of them",
                subject.source(),
                words::<E>(subject, false)
            ),
            "let the pipeline ignore the field spec.template.spec.containers[].args (a manifest can name these arguments only while the source has these replicas: the next ones are others); then set enabled to false and, once it is Standalone, to true again: the replicas are made anew",
        )
    })
}

/// The plan while the source restarts; none where it does not.
pub fn waiting<E: Engine>(subject: &Subject, facts: &Facts<E>, draft: &Draft<E::Step>) -> Option<Plan<E::Step>> {
    let reverted = draft.status.source.as_ref().is_some_and(|source| source.reverted);
    if !subject.recorded() || reverted || !matches!(observe(subject, facts), Standing::There) {
        return None;
    }
    let pod = format!("{}-0", subject.source());
    let message = match &facts.server {
        Server::Up(server) if E::summary(server).adapted => return None,
        Server::Up(_) => format!("pod {pod} is being replaced; where the StatefulSet's updateStrategy is OnDelete, delete it"),
        // Later on it is a failure like any other.
        _ if has_run(subject) || facts.administrator.is_err() => return None,
        Server::Refused(_) | Server::OtherEngine(_) => return None,
        Server::Unreachable(why) => format!("pod {pod} starts: {why}"),
        Server::NotAsked if !facts.source.as_ref().is_some_and(|source| source.pod.is_none() && source.has_one_pod()) => return None,
        Server::NotAsked => format!("pod {pod} is being replaced"),
    };
    Some(restarting(draft.clone(), &message))
}

fn restarting<S>(mut draft: Draft<S>, message: &str) -> Plan<S> {
    draft.set(conditions::PREFLIGHT, true, "Passed", "everything that is needed is there");
    draft.set(conditions::SOURCE_CONFIGURED, false, REASON, message);
    draft.ready(false, false, REASON, format!("the source restarts: {message}"));
    draft.status.phase = Some(Phase::Configuring);
    let again = if draft.steps.is_empty() { again::RESTART } else { again::NEXT };
    draft.finish(again)
}

/// The plan that changes the StatefulSet; none where that is done, or not needed.
pub fn change<E: Engine>(
    subject: &Subject,
    facts: &Facts<E>,
    draft: &mut Draft<E::Step>,
    server: &E::SourceFacts,
    shape: &Shape,
    image: &str,
) -> Option<Plan<E::Step>> {
    let names = &subject.names;
    if let Some(disruption) = draft.status.disruption.as_mut().filter(|disruption| disruption.measured.is_none())
        && let Some(began) = disruption.began.clone()
        && E::summary(server).leads
        && E::summary(server).adapted
    {
        let seconds = facts.now.duration_since(began.0).unsigned_abs().as_secs();
        disruption.began = None;
        disruption.measured = Some(format!("{seconds} s from the moment the restart was asked for until the source took writes again"));
    }
    let (Standing::Missing, Some(source)) = (observe(subject, facts), &facts.source) else { return None };
    let first = E::plan_enable(server, &WantedSource::new(names.identity.clone()));
    if !first.is_empty() {
        draft.steps.extend(first.into_iter().map(Step::Source));
        return Some(restarting(draft.clone(), "first its server gives up what an enabling before has left on it"));
    }
    let key = E::needs_key(server);
    if key && !facts.key {
        draft.steps.push(Step::CreateSecret(Box::new(build_key(names))));
    }
    if !facts.own.services.contains_key(&names.source()) {
        let service = build_source_service(names, &subject.owner, subject.source(), subject.port);
        draft.steps.push(Step::Apply(Object::Service(Box::new(service))));
    }
    let what = format!("StatefulSet {}: arguments of container {}", subject.source(), shape.container.name);
    let after = words::<E>(subject, key);
    let recorded = draft.status.source.get_or_insert_default();
    if !recorded.changes.iter().any(|change| change.what == what) {
        recorded.changes.push(Change { what: what.clone(), before: None, after: after.clone() });
    }
    if let Some(disruption) = &mut draft.status.disruption {
        disruption.began = Some(Time(facts.now));
    }
    let user = E::summary(server).owner.unwrap_or_else(|| shape.server_user());
    let workload = Workload { names, owner: &subject.owner, shape, image, engine: E::NAME, user, source: subject.source() };
    let patch = build_source_change(&workload, &source.stateful_set, &E::source_arguments(&names.identity), key);
    draft.steps.push(Step::Change { stateful_set: subject.source().to_owned(), side: "source", what: format!("{what} get {after}"), patch });
    Some(restarting(draft.clone(), "its StatefulSet gets what a server with replicas needs"))
}

/// What a dry run says of it.
pub fn announce<E: Engine>(subject: &Subject, server: &E::SourceFacts) -> Option<String> {
    let words = words::<E>(subject, E::needs_key(server));
    (!words.is_empty()).then(|| format!("restart the source once: StatefulSet {} gets the arguments {words}", subject.source()))
}

/// Where the StatefulSet stands on the way back.
pub enum Restored {
    /// It is as before, and so is the server.
    Done,
    /// Not yet; why.
    Waits(String),
    /// It may not be restarted.
    NotAllowed(String),
}

/// Plans to take the change back.
pub fn restore<E: Engine>(subject: &Subject, facts: &Facts<E>, draft: &mut Draft<E::Step>) -> Restored {
    let names = &subject.names;
    let arguments = E::source_arguments(&names.identity);
    let Some(source) = facts.source.as_ref().filter(|_| !arguments.is_empty()) else { return Restored::Done };
    let manager = names.manager();
    if let Some(patch) = build_source_as_before(&source.stateful_set, &arguments, &manager) {
        if subject.resource.spec.source.restart == Restart::Never {
            return Restored::NotAllowed(format!(
                "the source has to restart once without {}, and source.restart is Never. What to do: set it to Allow when the time suits.",
                arguments.join(" ")
            ));
        }
        if container_with(template_of(&source.stateful_set), &arguments).is_some() {
            draft.status.disruption.get_or_insert_default().began = Some(Time(facts.now));
        }
        draft.steps.push(Step::PutBack { stateful_set: subject.source().to_owned(), side: "source", patch });
        return Restored::Waits("its StatefulSet is put back as it was".to_owned());
    }
    if source.stateful_set.metadata.managed_fields.iter().flatten().any(|entry| entry.manager.as_ref() == Some(&manager)) {
        draft.steps.push(Step::Disown(subject.source().to_owned()));
    }
    let pod = source.pod.as_ref().and_then(|pod| pod.spec.as_ref());
    let before = needs_key_file(pod) && !needs_key_file(template_of(&source.stateful_set));
    match &facts.server {
        Server::Up(server) if before || E::summary(server).adapted => Restored::Waits(format!("pod {}-0 is being replaced", subject.source())),
        _ => Restored::Done,
    }
}

/// The source is on its way back from being restarted as it was: since when. Once it is back, that is told.
pub fn on_its_way_back<E: Engine>(subject: &Subject, facts: &Facts<E>, draft: &mut Draft<E::Step>) -> bool {
    if E::source_arguments(&subject.names.identity).is_empty() {
        // It is a target that restarts.
        return false;
    }
    let Some(disruption) = draft.status.disruption.as_mut() else { return false };
    let Some(began) = disruption.began.clone() else { return false };
    let waited = facts.now.duration_since(began.0).unsigned_abs();
    match &facts.server {
        Server::Up(server) if !E::summary(server).adapted => {
            disruption.began = None;
            let note = format!("the source took writes again {} s after its restart was asked for", waited.as_secs());
            draft.steps.push(Step::Tell { warning: false, reason: "SourceBack", note });
            false
        }
        Server::Up(_) => false,
        // Scaled to zero it does not come back by itself.
        _ => facts.source.as_ref().is_some_and(SourceWorkload::has_one_pod) && waited < again::ABANDON * 2,
    }
}

/// Plans to delete the Secret with the key file, once no StatefulSet names it.
pub fn forget_key<E: Engine>(subject: &Subject, facts: &Facts<E>, draft: &mut Draft<E::Step>) {
    let arguments = E::source_arguments(&subject.names.identity);
    let named =
        |source: &SourceWorkload| container_with(template_of(&source.stateful_set), &arguments).is_some() || needs_key_file(template_of(&source.stateful_set));
    let named = facts.source.as_ref().is_some_and(named);
    if facts.key && !named {
        draft.steps.push(Step::Delete(Kind::Secret, subject.names.key()));
    }
}
