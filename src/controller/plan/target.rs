//! The target: a database of the user's own whose data is replaced by a copy of the source's.

use super::{Facts, Subject, environment};
use crate::api::ExistingData;
use crate::controller::facts::{Server, TargetFacts};
use crate::engine::{Engine, Finding};
use crate::resources::format_bytes;

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
    let (own, held) = match &target.data {
        Ok(data) => data,
        // What a server hides from this user, or does not know, is mended with what is said of it already.
        Err(_) if !fits => return found,
        Err(why) => {
            let message = format!("what data the target holds could not be told: {why}");
            found.push(Finding::new("TargetDataUnknown", message, "see what keeps the server from answering; it is asked again by itself"));
            return found;
        }
    };
    if !held.is_empty() && subject.resource.spec.target.as_ref().is_some_and(|target| target.existing_data == ExistingData::Refuse) {
        found.push(Finding::new(
            "TargetHoldsData",
            format!("the target holds data of its own, {} in all, which a copy of the source's would replace: {}", format_bytes(*own), held.join(", ")),
            "name a database without data, or set target.existingData to BackUpAndReplace: then it is backed up, verified and kept first",
        ));
    }
    found.extend(room(facts, name, *own, target.volume_bytes));
    found
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

/// What a dry run says would be done with the target, in order.
#[must_use]
pub fn announce<E: Engine>(subject: &Subject, facts: &Facts<E>) -> Vec<String> {
    let (Some(database), Some(target)) = (subject.target_database(), &facts.target) else { return Vec::new() };
    let name = database.stateful_set;
    let mut would = Vec::new();
    if target.data.as_ref().is_ok_and(|(_, held)| !held.is_empty()) {
        would.push(format!("back up what StatefulSet {name} holds itself, verify it and keep it"));
    }
    would.push(format!("restore the source's backup beside the data of StatefulSet {name}, on its own volume, while it serves"));
    would.push(format!("restart pod {} once: its data and the copy change places, and it starts as a read-only replica", database.pod()));
    would.push("once it has shown what was written to the source afterwards, remove the data that it held before from its volume".to_owned());
    would.extend(environment::announce::<E>(subject));
    would
}
