//! The variables in the ConfigMaps of the application.

use super::{Draft, Facts, Step, Subject, conditions};
use crate::api::EnvironmentRecord;
use crate::engine::Engine;
use crate::resources::environment::{address_key, variables};

/// Plans the ConfigMaps so that they name `replicas`; records what their keys held before. Gives whether they are all current.
pub fn publish<E: Engine>(subject: &Subject, facts: &Facts<E>, draft: &mut Draft<E::Step>, replicas: &[String]) -> bool {
    let primary = primary_address(subject, facts);
    let mut missing = Vec::new();
    let mut current = true;
    for (object, prefix) in &subject.environment {
        let Some(Some(data)) = facts.config_maps.get(&object.name) else {
            missing.push(object.name.clone());
            continue;
        };
        let wanted = variables(prefix, &primary, replicas);
        for key in wanted.keys() {
            if !draft.status.environment.iter().any(|record| record.config_map == object.name && record.key == *key) {
                draft.status.environment.push(EnvironmentRecord { config_map: object.name.clone(), key: key.clone(), before: data.get(key).cloned() });
            }
        }
        if wanted.iter().any(|(key, value)| data.get(key) != Some(value)) {
            current = false;
            draft.steps.push(Step::Publish { config_map: object.name.clone(), data: wanted });
        }
    }
    let dropped = give_up::<E>(facts, draft, |record| {
        subject.environment.iter().any(|(object, prefix)| object.name == record.config_map && record.key.starts_with(&format!("{prefix}_")))
    });
    if !missing.is_empty() {
        let names = missing.join(", ");
        draft.set(
            conditions::ENVIRONMENT_CURRENT,
            false,
            "ConfigMapNotFound",
            format!("ConfigMap {names} does not exist. What to do: create it, or correct environment.configMaps."),
        );
    } else if subject.environment.is_empty() {
        draft.set(conditions::ENVIRONMENT_CURRENT, true, "NothingToDo", "environment.configMaps is empty");
    } else if current && !dropped {
        draft.set(
            conditions::ENVIRONMENT_CURRENT,
            true,
            "Current",
            format!("{} replica(s) named in {} ConfigMap(s)", replicas.len(), subject.environment.len()),
        );
    } else {
        draft.set(conditions::ENVIRONMENT_CURRENT, false, "Updating", "the variables are being written");
    }
    missing.is_empty() && current && !dropped
}

/// The source's address for applications: the user's own Service, which outlives the replication, or else ours.
#[must_use]
pub fn primary_address<E: Engine>(subject: &Subject, facts: &Facts<E>) -> String {
    subject.names.host(&facts.service.clone().unwrap_or_else(|| subject.names.primary()))
}

/// Plans to give up the recorded keys that `keep` does not want: slave variables stay as empty values, since a pod that names a missing key would not start;
/// the address goes back to what it was, and where it was not there it stays while it names a Service of the user's. Gives whether anything is to be done.
pub fn give_up<E: Engine>(facts: &Facts<E>, draft: &mut Draft<E::Step>, keep: impl Fn(&EnvironmentRecord) -> bool) -> bool {
    let (kept, dropped): (Vec<_>, Vec<_>) = std::mem::take(&mut draft.status.environment).into_iter().partition(keep);
    draft.status.environment = kept;
    let mut work = false;
    for record in dropped {
        let Some(Some(data)) = facts.config_maps.get(&record.config_map) else { continue };
        let address = address_key("");
        let value = if record.key.ends_with(&address) {
            match (&record.before, &facts.service) {
                (Some(before), _) => before.clone(),
                (None, Some(_)) => continue,
                (None, None) => String::new(),
            }
        } else {
            String::new()
        };
        if data.get(&record.key) == Some(&value) {
            continue;
        }
        work = true;
        // Stays on record until it is seen to be done.
        draft.status.environment.push(record.clone());
        let same = draft.steps.iter_mut().find_map(|step| match step {
            Step::Publish { config_map, data } if *config_map == record.config_map => Some(data),
            _ => None,
        });
        match same {
            Some(data) => drop(data.insert(record.key, value)),
            None => draft.steps.push(Step::Publish { config_map: record.config_map, data: [(record.key, value)].into() }),
        }
    }
    work
}
