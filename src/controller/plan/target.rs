//! The target: a database of the user's own whose data is replaced by a copy of the source's.

use serde::Deserialize;

use super::{Facts, Subject, conditions, environment};
use crate::api::ExistingData;
use crate::controller::facts::{Database, JobState, Server, TargetFacts};
use crate::engine::{Engine, Finding};
use crate::resources::{Shape, container_with, format_bytes, lies_under, template_of};

/// What keeps the target from becoming the replica, before anything is touched; all at once.
#[must_use]
pub fn preflight<E: Engine>(subject: &Subject, facts: &Facts<E>, source: &E::SourceFacts, target: &TargetFacts<E>) -> Vec<Finding> {
    let Some(database) = subject.target_database() else { return Vec::new() };
    let name = database.stateful_set;
    let mut found = Vec::new();
    let source_database = subject.source_database();
    // Admission compares the names where source.statefulSetRef has no namespace; it may also name this one.
    if (source_database.namespace, source_database.stateful_set) == (database.namespace, name) {
        found.push(Finding::new(
            "TargetIsSource",
            format!("source and target are the same StatefulSet {name}"),
            "name another StatefulSet in target.statefulSetRef (it cannot be changed: delete this resource and create another)",
        ));
        return found;
    }
    if let Some(rival) = &target.rival {
        found.push(Finding::new(
            "TargetTaken",
            format!("DatabaseReplication {rival} came first and has StatefulSet {name} as its source or target"),
            "delete one of the two, or name another StatefulSet",
        ));
    }
    let Server::Up(server) = &target.server else { return found };
    let unfit = E::preflight_target(source, server);
    let fits = unfit.is_empty();
    found.extend(unfit);
    found.extend(target.shape.as_ref().and_then(|shape| mounted_inside(shape.as_ref().ok()?)));
    let (own, held) = match &target.data {
        Ok(data) => data,
        // What a server hides from this user, or does not know, is mended with what is said of it already.
        Err(_) if !fits => return found,
        Err(why) => {
            found.push(unknown(why));
            return found;
        }
    };
    found.extend(refuse(subject, *own, held));
    found.extend(services(subject, facts, target));
    let volume = room(facts, name, *own, target.volume_bytes);
    let measured = if volume.is_none() { measured(subject, facts, name) } else { None };
    found.extend(volume.or(measured));
    found
}

/// The target may not be replaced for what it holds now, or it can't be told what that is.
#[must_use]
pub fn holds_data<E: Engine>(subject: &Subject, target: &TargetFacts<E>) -> Option<Finding> {
    match &target.data {
        Ok((own, held)) => refuse(subject, *own, held),
        Err(why) => Some(unknown(why)),
    }
}

fn unknown(why: &str) -> Finding {
    let message = format!("what data the target holds could not be told: {why}");
    Finding::new("TargetDataUnknown", message, "see what keeps the server from answering; it is asked again by itself")
}

fn refuse(subject: &Subject, own: u64, held: &[String]) -> Option<Finding> {
    let refused = subject.resource.spec.target.as_ref().is_some_and(|target| target.existing_data == ExistingData::Refuse);
    (refused && !held.is_empty()).then(|| {
        Finding::new(
            "TargetHoldsData",
            format!("the target holds data of its own, {} in all, which a copy of the source's would replace: {}", format_bytes(own), held.join(", ")),
            "name a database without data, or set target.existingData to BackUpAndReplace: then it is backed up, verified and kept first",
        )
    })
}

/// The user's tools took back what a target that runs on the copy, or is about to, had been given. It is said, not fought: its pod restarts for every change.
#[must_use]
pub fn reverted<E: Engine>(subject: &Subject, facts: &Facts<E>) -> Option<Finding> {
    let (target, joined) = (facts.target.as_ref()?, subject.target_status().is_some_and(|target| target.joined));
    let arguments = E::target_arguments(&subject.target_status()?.data_directory);
    let found = &target.workload.as_ref()?.stateful_set;
    let wanted = target.wants(&subject.names.identity).is_some();
    let given = arguments.is_empty() || container_with(template_of(found), &arguments).is_some();
    let lost =
        [(!wanted).then(|| "the init container understudy-swap".to_owned()), (!given).then(|| format!("the arguments {} of its server", arguments.join(" ")))];
    ((joined || wanted) && !(wanted && given)).then(|| {
        Finding::new(
            "TargetReverted",
            format!(
                "StatefulSet {} lost {} (kubectl apply, a pipeline or a helm upgrade put its own back)",
                found.metadata.name.as_deref().unwrap_or_default(),
                lost.into_iter().flatten().collect::<Vec<_>>().join(" and ")
            ),
            format!(
                "let the pipeline ignore the field spec.template.spec.initContainers{}, and put back what is missing; or set enabled to false",
                if arguments.is_empty() { "" } else { " and the arguments of the container" }
            ),
        )
    })
}

/// Servers and applications find each other by Services, which are the user's own here.
fn services<E: Engine>(subject: &Subject, facts: &Facts<E>, target: &TargetFacts<E>) -> Vec<Finding> {
    let databases =
        [("SourceServiceNotFound", Some(subject.source_database()), &facts.service), ("TargetServiceNotFound", subject.target_database(), &target.service)];
    let missing = databases.into_iter().filter(|(.., service)| service.is_none()).filter_map(|(reason, database, _)| Some((reason, database?)));
    let finding = |(reason, database): (&'static str, Database<'_>)| {
        let Database { field, namespace, stateful_set: name, port, .. } = database;
        Finding::new(
            reason,
            format!("no Service in namespace {namespace} leads to port {port} of pod {}, the {field}", database.pod()),
            format!(
                "create one: kubectl -n {namespace} expose statefulset {name} --port={port}, or kubectl -n {namespace} expose pod {} --port={port}",
                database.pod()
            ),
        )
    };
    missing.map(finding).collect()
}

/// Volumes that are mounted inside the data directory do not change places with it: the copy's server would go on in what the one before has left there.
fn mounted_inside(shape: &Shape) -> Option<Finding> {
    let directory = shape.data_directory.trim_end_matches('/');
    let below = |path: &str| path.trim_end_matches('/') != directory && lies_under(path, directory);
    let volumes = shape.template.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let configuration: Vec<&str> = volumes
        .filter(|volume| volume.config_map.is_some() || volume.secret.is_some() || volume.projected.is_some() || volume.downward_api.is_some())
        .map(|volume| volume.name.as_str())
        .collect();
    let mounts = shape.container.volume_mounts.iter().flatten().filter(|mount| below(&mount.mount_path) && !configuration.contains(&mount.name.as_str()));
    let inside: Vec<&str> = mounts.map(|mount| mount.mount_path.as_str()).collect();
    (!inside.is_empty()).then(|| {
        Finding::new(
            "DataOutsideDirectory",
            format!("in the target's data directory {directory}, which is replaced, other volumes are mounted, which are not: {}", inside.join(", ")),
            "make the target anew with all of its data on one volume",
        )
    })
}

/// What the agent found on the target's volume.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Room {
    free_bytes: u64,
    writable: bool,
    #[serde(default)]
    unmovable: Option<String>,
}

/// What was measured on the volume itself, once it was.
fn measured<E: Engine>(subject: &Subject, facts: &Facts<E>, name: &str) -> Option<Finding> {
    let failed = |why: &str| {
        let message = format!("the room on the volume of StatefulSet {name} could not be measured: {why}");
        Some(Finding::new(
            "TargetVolumeUnknown",
            message,
            format!("kubectl -n {} describe job {} tells more; it is tried again", subject.names.namespace, subject.names.measure_job()),
        ))
    };
    let room: Room = match facts.own.jobs.get(&subject.names.measure_job())? {
        Some(JobState::Complete(Some(message))) => match serde_json::from_str(message) {
            Ok(room) => room,
            Err(error) => return failed(&error.to_string()),
        },
        Some(JobState::Failed(why, _)) => return failed(why),
        _ => return None,
    };
    if !room.writable {
        return Some(Finding::new(
            "TargetVolumeNotWritable",
            format!("the user that the server of StatefulSet {name} runs as may not write beside its data directory, where the copy is restored to"),
            "set securityContext.fsGroup in its pod template to the group of that user (its pod restarts for that), or keep its data in the top directory of the volume",
        ));
    }
    if let Some(why) = room.unmovable {
        return Some(Finding::new(
            "TargetVolumeNotWritable",
            format!("what the data directory of StatefulSet {name} holds could not be exchanged for the copy: {why}"),
            "give it to the user that the server runs as, or move it out of the data directory; it is looked at again by itself",
        ));
    }
    let bytes = *facts.data_bytes.as_ref().ok()?;
    let needed = bytes.saturating_mul(2);
    (room.free_bytes < needed).then(|| {
        Finding::new(
            "TargetVolumeTooSmall",
            format!(
                "the target's volume has {} free, measured on it, and the source holds {}: {} are needed, twice the data",
                format_bytes(room.free_bytes),
                format_bytes(bytes),
                format_bytes(needed)
            ),
            format!("enlarge the claim of StatefulSet {name}, or make room on it; it is measured again by itself"),
        )
    })
}

/// The copy is restored beside the data that the target serves meanwhile: what its volume has besides must be twice the size of the copy.
fn room<E: Engine>(facts: &Facts<E>, name: &str, own: u64, volume: Option<u64>) -> Option<Finding> {
    // What the source holds is not known: that is said already.
    let bytes = *facts.data_bytes.as_ref().ok()?;
    let needed = bytes.saturating_mul(2);
    let Some(volume) = volume else {
        return Some(Finding::new(
            "TargetVolumeUnknown",
            format!("the data of StatefulSet {name} lies on no claim whose size could be read"),
            "name a StatefulSet that keeps its data on a PersistentVolumeClaim",
        ));
    };
    let free = volume.saturating_sub(own);
    (free < needed).then(|| {
        Finding::new(
            "TargetVolumeTooSmall",
            format!(
                "the target's volume of {} has {} beside its own data, and the source holds {}: {} are needed, twice the data",
                format_bytes(volume),
                format_bytes(free),
                format_bytes(bytes),
                format_bytes(needed)
            ),
            format!("enlarge the claim of StatefulSet {name} to {} or more", super::preflight::recommended(needed.saturating_add(own))),
        )
    })
}

/// Whose logins to the target end with the takeover.
#[must_use]
pub fn ending<E: Engine>(facts: &Facts<E>) -> Option<String> {
    let logins = &facts.target.as_ref()?.logins;
    (!logins.is_empty()).then(|| {
        format!(
            "once the target is the replica it knows the source's users and passwords, and its own no longer, by which log in: {}. Give them a login of the source's, or the source theirs, beforehand",
            logins.join("; ")
        )
    })
}

/// What is said once nothing is in the way any more. What was found before the first change stays, until the target runs on the copy.
#[must_use]
pub fn passed<E: Engine>(subject: &Subject, facts: &Facts<E>) -> String {
    const PASSED: &str = "everything that is needed is there";
    let before = subject.resource.status.iter().flat_map(|status| &status.conditions).find(|condition| condition.type_ == conditions::PREFLIGHT);
    match (subject.target_status(), before) {
        (Some(target), Some(before)) if subject.recorded() && !target.joined && before.message.starts_with(PASSED) => before.message.clone(),
        _ => ending(facts).map_or_else(|| PASSED.to_owned(), |ending| format!("{PASSED}; but {ending}")),
    }
}

/// What a dry run says would be done with the target, in order.
#[must_use]
pub fn announce<E: Engine>(subject: &Subject, facts: &Facts<E>) -> Vec<String> {
    let (Some(database), Some(target)) = (subject.target_database(), &facts.target) else { return Vec::new() };
    let name = database.stateful_set;
    let mut would = Vec::new();
    if target.data.is_ok() && subject.resource.spec.target.as_ref().is_some_and(|target| target.existing_data == ExistingData::BackUpAndReplace) {
        would.push(format!("back up what StatefulSet {name} holds itself, verify it and keep it"));
    }
    would.push(format!("restore the source's backup beside the data of StatefulSet {name}, on its own volume, while it serves"));
    would.push(format!("restart pod {} once: its data and the copy change places, and it starts as a read-only replica", database.pod()));
    would.push("once it has shown what was written to the source afterwards, remove the data that it held before from its volume".to_owned());
    would.extend(environment::announce::<E>(subject));
    would
}
