//! The variables in the ConfigMaps of the application.

use std::collections::BTreeMap;

use super::{Draft, Facts, Step, Subject, conditions, preflight, takeover};
use crate::api::EnvironmentRecord;
use crate::engine::Engine;
use crate::resources::environment::{address_key, variables};

/// Plans the ConfigMaps so that they name `replicas`; records what their keys held before. Gives whether they are all current.
pub fn publish<E: Engine>(subject: &Subject, facts: &Facts<E>, draft: &mut Draft<E::Step>, replicas: &[String]) -> bool {
    let primary = primary_address(subject, facts);
    let missing: Vec<&str> =
        subject.environment.iter().map(|(object, _)| object.name.as_str()).filter(|name| !matches!(facts.config_maps.get(*name), Some(Some(_)))).collect();
    let mut wanted: Wanted = given_up(facts, &draft.status.environment);
    for (object, prefix) in &subject.environment {
        if facts.taken.iter().any(|(config_map, key, _)| *config_map == object.name && key == prefix) {
            continue;
        }
        let variables = variables(prefix, &primary, replicas);
        for key in variables.keys() {
            let known = draft.status.environment.iter().any(|record| record.config_map == object.name && record.key == *key);
            if let (false, Some(Some(data))) = (known, facts.config_maps.get(&object.name)) {
                draft.status.environment.push(EnvironmentRecord { config_map: object.name.clone(), key: key.clone(), before: data.get(key).cloned() });
            }
        }
        wanted.entry(object.name.clone()).or_default().extend(variables);
    }
    let current = write(facts, draft, wanted);
    if !missing.is_empty() {
        let names = missing.join(", ");
        let message = format!("ConfigMap {names} does not exist. What to do: create it, or correct environment.configMaps.");
        draft.set(conditions::ENVIRONMENT_CURRENT, false, "ConfigMapNotFound", message);
    } else if !facts.taken.is_empty() {
        let (_, message) = super::draft::describe(&facts.taken.iter().map(preflight::taken).collect::<Vec<_>>());
        draft.set(conditions::ENVIRONMENT_CURRENT, false, "VariablesTaken", message);
    } else if !current {
        draft.set(conditions::ENVIRONMENT_CURRENT, false, "Updating", "the variables are being written");
    } else if subject.environment.is_empty() {
        draft.set(conditions::ENVIRONMENT_CURRENT, true, "NothingToDo", "environment.configMaps is empty");
    } else {
        let message = format!("{} replica(s) named in {} ConfigMap(s)", replicas.len(), subject.environment.len());
        draft.set(conditions::ENVIRONMENT_CURRENT, true, "Current", message);
    }
    missing.is_empty() && facts.taken.is_empty() && current
}

/// Plans to give up all variables. Gives whether that is done.
pub fn give_up<E: Engine>(facts: &Facts<E>, draft: &mut Draft<E::Step>) -> bool {
    let wanted = given_up(facts, &draft.status.environment);
    write(facts, draft, wanted)
}

/// The address for applications of who takes the writes: the user's own Service for the source, which outlives the replication, or else ours; that of a
/// replica while the servers have elected it.
#[must_use]
pub fn primary_address<E: Engine>(subject: &Subject, facts: &Facts<E>) -> String {
    if let Some(leader) = facts.leader() {
        return subject.names.host(&subject.names.replica(leader));
    }
    if facts.target.is_some() {
        return takeover::source_host(subject, facts).unwrap_or_default();
    }
    subject.names.host(&facts.service.clone().unwrap_or_else(|| subject.names.primary()))
}

/// Values by ConfigMap and key.
type Wanted = BTreeMap<String, BTreeMap<String, String>>;

/// What recorded keys hold once they are given up: slave variables stay as empty values, since a pod that names a missing key would not start; the
/// address goes back to what it was, and where it was not there it stays while it names a Service of the user's.
fn given_up<E: Engine>(facts: &Facts<E>, records: &[EnvironmentRecord]) -> Wanted {
    let mut wanted = Wanted::new();
    // Keys that another resource writes are that one's.
    let taken = |record: &&EnvironmentRecord| {
        let key = |prefix: &str| variables(prefix, "", &[]).contains_key(&record.key);
        facts.taken.iter().any(|(config_map, prefix, _)| *config_map == record.config_map && key(prefix))
    };
    for record in records.iter().filter(|record| !taken(record)) {
        let now = facts.config_maps.get(&record.config_map).and_then(|data| data.as_ref()?.get(&record.key)).cloned();
        let value = match (&record.before, &facts.service) {
            _ if !record.key.ends_with(&address_key("")) => String::new(),
            (Some(before), _) => before.clone(),
            (None, Some(_)) => now.unwrap_or_default(),
            (None, None) => String::new(),
        };
        wanted.entry(record.config_map.clone()).or_default().insert(record.key.clone(), value);
    }
    wanted
}

/// Plans to write whatever differs. Always all of our keys of a ConfigMap: server-side apply takes away those that are no longer named.
fn write<E: Engine>(facts: &Facts<E>, draft: &mut Draft<E::Step>, wanted: Wanted) -> bool {
    let mut current = true;
    for (config_map, data) in wanted {
        let Some(Some(found)) = facts.config_maps.get(&config_map) else { continue };
        if data.iter().any(|(key, value)| found.get(key) != Some(value)) {
            current = false;
            draft.steps.push(Step::Publish { config_map, data });
        }
    }
    current
}
