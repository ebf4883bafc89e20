//! The variables in the ConfigMaps and Secrets of the applications.

use std::collections::{BTreeMap, BTreeSet};

use super::{Draft, Facts, Step, Subject, conditions, draft::describe, takeover};
use crate::api::EnvironmentRecord;
use crate::controller::consent::{CONFIG_MAP_NOT_ALLOWED, NOT_ALLOWED, refusal_of_config_map};
use crate::controller::facts::{ObjectKey, Password, Place, Taken, Told};
use crate::engine::{Engine, Finding};
use crate::resources::environment::{address_key, password_key, slave_keys, target_variables, variables};

/// Reasons of the condition `EnvironmentCurrent` that only a user can end.
pub const FOR_THE_USER: [&str; 7] =
    ["ConfigMapNotFound", CONFIG_MAP_NOT_ALLOWED, "SecretNotFound", "SecretKeyNotFound", NOT_ALLOWED, "VariablesTaken", "SeveralFindings"];

/// Plans the objects so that they name `replicas`, which are proven: the copies, or the target. Records what keys of ConfigMaps held before. Gives whether all
/// are current.
pub fn publish<E: Engine>(subject: &Subject, facts: &Facts<E>, draft: &mut Draft<E::Step>, replicas: &[String]) -> bool {
    let findings = missing(subject, facts);
    let waiting = subject.target.is_some() && replicas.is_empty() && subject.places.iter().any(|place| place.told != Told::Source);
    let mut wanted: Wanted = given_up(facts, &draft.status.environment);
    for place in subject.places.iter().filter(|place| place.told != Told::Password && !facts.taken.iter().any(|taken| taken.is(place))) {
        let Some(Some(data)) = facts.config_maps.get(&place.object) else { continue };
        let known = |key: &str| draft.status.environment.iter().any(|record| is_of(record, &place.object) && record.key == key);
        let mut values = match place.told {
            Told::Source => of_source(subject, facts, place, replicas),
            _ => replicas.first().map(|address| of_target(facts, place, address)).unwrap_or_default(),
        };
        // What can't be told now, or not yet, stays as it is.
        let stays = data.iter().filter(|(key, _)| known(key) && crate::resources::environment::is_key(&place.prefix, key) && !values.contains_key(*key));
        let stays: Vec<_> = stays.map(|(key, value)| (key.clone(), value.clone())).collect();
        values.extend(stays);
        let new: Vec<String> = values.keys().filter(|key| !known(key)).cloned().collect();
        for key in new {
            let before = before(facts, place, &key, data.get(&key));
            let (namespace, config_map) = place.object.clone();
            draft.status.environment.push(EnvironmentRecord { namespace, config_map, key, before });
        }
        wanted.entry(place.object.clone()).or_default().extend(values);
    }
    let mut current = write(facts, draft, wanted);
    if !waiting {
        current &= write_passwords(subject, facts, draft);
    }
    if !findings.is_empty() {
        let (reason, message) = describe(&findings);
        draft.set(conditions::ENVIRONMENT_CURRENT, false, reason, message);
    } else if !current {
        draft.set(conditions::ENVIRONMENT_CURRENT, false, "Updating", "the variables are being written");
    } else if waiting {
        let message = "the target's application is told once the target has shown what was written after its restore";
        draft.set(conditions::ENVIRONMENT_CURRENT, false, "Updating", message);
    } else if subject.places.is_empty() {
        draft.set(conditions::ENVIRONMENT_CURRENT, true, "NothingToDo", "no object is named for variables");
    } else {
        let message = format!("{} replica(s) named in {}", replicas.len(), count(subject));
        draft.set(conditions::ENVIRONMENT_CURRENT, true, "Current", message);
    }
    findings.is_empty() && current && !waiting
}

/// Objects in words.
fn count(subject: &Subject) -> String {
    let secrets = subject.places.iter().filter(|place| place.told == Told::Password).count();
    let config_maps = format!("{} ConfigMap(s)", subject.places.len() - secrets);
    if secrets == 0 { config_maps } else { format!("{config_maps}, and the password in {secrets} Secret(s)") }
}

/// Plans to give up all variables. Gives whether that is done. A password, and what belongs to it, stays: the database goes on to know it.
pub fn give_up<E: Engine>(facts: &Facts<E>, draft: &mut Draft<E::Step>) -> bool {
    let wanted = given_up(facts, &draft.status.environment);
    write(facts, draft, wanted)
}

/// What keeps variables from being written; all at once.
#[must_use]
pub fn missing<E: Engine>(subject: &Subject, facts: &Facts<E>) -> Vec<Finding> {
    let own = &subject.names.namespace;
    let mut said = BTreeSet::new();
    let mut found = Vec::new();
    for place in subject.places.iter().filter(|place| said.insert((place.told == Told::Password, &place.object))) {
        let (namespace, name) = &place.object;
        let field = match (place.told, subject.target.is_some()) {
            (Told::Password, _) => "environment.secrets",
            (Told::Source, true) => "source.environment.configMaps",
            (Told::Source | Told::Target, _) => "environment.configMaps",
        };
        match (namespace, place.told) {
            (None, Told::Password) if facts.variables.secrets.get(name) == Some(&None) => found.push(Finding::new(
                "SecretNotFound",
                format!("there is no Secret {name} in namespace {own}"),
                format!("kubectl create secret generic {name} -n {own}, or correct {field}"),
            )),
            (None, Told::Source | Told::Target) if !matches!(facts.config_maps.get(&place.object), Some(Some(_))) => found.push(Finding::new(
                "ConfigMapNotFound",
                format!("there is no ConfigMap {name} in namespace {own}"),
                format!("kubectl create configmap {name} -n {own}, or correct {field}"),
            )),
            (Some(owner), _) if !matches!(facts.config_maps.get(&place.object), Some(Some(_))) => found.push(refusal_of_config_map(name, owner, own)),
            _ => {}
        }
    }
    // What is said of the administrator's login already is not said again.
    found.extend(facts.variables.login.iter().filter_map(|login| login.as_ref().err()).filter(|why| facts.administrator.as_ref().err() != Some(why)).cloned());
    // Who has the source has its variables too: that is said already.
    found.extend(facts.taken.iter().filter(|taken| taken.by.is_none() || taken.by != facts.rival).map(said_of_taken));
    found
}

/// Another resource writes the same keys of the same object, and came first; or this one would write them twice.
fn said_of_taken(Taken { kind, object: (namespace, name), prefix, by }: &Taken) -> Finding {
    let whole = namespace.as_ref().map_or_else(|| name.clone(), |namespace| format!("{name} in namespace {namespace}"));
    let message = match by {
        Some(other) => format!("DatabaseReplication {other} came first and already writes the variables {prefix}_… of {kind} {whole}"),
        None => format!("environment.configMaps and source.environment.configMaps both name {kind} {whole} for the variables {prefix}_…"),
    };
    let field = if *kind == "Secret" { "environment.secrets" } else { "environment.configMaps" };
    Finding::new("VariablesTaken", message, format!("give one of the two another prefix in {field}, or another {kind}"))
}

/// What a dry run says of the variables.
#[must_use]
pub fn announce<E: Engine>(subject: &Subject) -> Vec<String> {
    let write = |place: &Place| {
        let (prefix, (namespace, name)) = (&place.prefix, &place.object);
        let (keys, kind) = match place.told {
            Told::Source => (variables(prefix, "", &[]).into_keys().collect(), "ConfigMap"),
            Told::Target => (target_variables(prefix, "", E::LOGIN_VARIABLES.then_some([""; 2])).into_keys().collect(), "ConfigMap"),
            Told::Password => (vec![password_key(prefix)], "Secret"),
        };
        let elsewhere = namespace.as_ref().map(|namespace| format!(" in namespace {namespace}")).unwrap_or_default();
        format!("write {} to {kind} {name}{elsewhere}", keys.join(", "))
    };
    subject.places.iter().map(write).collect()
}

/// The address for applications of who takes the writes: the user's own Service for the source, which outlives the replication, or else ours; that of a
/// replica while the servers have elected it. In another namespace there is none of ours: then it is the name that the StatefulSet gives to its pod.
#[must_use]
pub fn primary_address<E: Engine>(subject: &Subject, facts: &Facts<E>) -> String {
    if let Some(leader) = facts.leader() {
        return subject.names.host(&subject.names.replica(leader));
    }
    let source = subject.source_database();
    match takeover::source_host(subject, facts) {
        Some(host) => host,
        None if subject.target.is_none() => subject.names.host(&subject.names.primary()),
        None => {
            let governing = facts.source.as_ref().and_then(|workload| workload.stateful_set.spec.as_ref()?.service_name.clone());
            format!("{}.{}.{}.svc", source.pod(), governing.unwrap_or_else(|| source.stateful_set.to_owned()), source.namespace)
        }
    }
}

/// Values by ConfigMap and key.
type Wanted = BTreeMap<ObjectKey, BTreeMap<String, String>>;

fn is_of(record: &EnvironmentRecord, object: &ObjectKey) -> bool {
    record.namespace == object.0 && record.config_map == object.1
}

/// The variables of the application whose database takes the writes. Those who follow one source into targets are named by each of their resources.
fn of_source<E: Engine>(subject: &Subject, facts: &Facts<E>, place: &Place, replicas: &[String]) -> BTreeMap<String, String> {
    let primary = primary_address(subject, facts);
    if subject.target.is_none() {
        return variables(&place.prefix, &primary, replicas);
    }
    let siblings = facts.variables.siblings.iter().filter(|sibling| sibling.object == place.object && sibling.prefix == place.prefix);
    let all: BTreeSet<&String> = replicas.iter().chain(siblings.flat_map(|sibling| &sibling.addresses)).collect();
    let mut told = variables(&place.prefix, &primary, &all.into_iter().cloned().collect::<Vec<_>>());
    if facts.service.is_none() {
        // By which name its application reaches it is not known.
        told.remove(&address_key(&place.prefix));
    }
    told
}

/// The variables of a target's application.
fn of_target<E: Engine>(facts: &Facts<E>, place: &Place, address: &str) -> BTreeMap<String, String> {
    let login = facts.variables.login.as_ref().and_then(|login| login.as_ref().ok());
    target_variables(&place.prefix, address, login.map(|login| [login.database.as_str(), login.username.as_str()]))
}

/// What a key held before it was ours: where another resource has written there already, what that one found.
fn before<E: Engine>(facts: &Facts<E>, place: &Place, key: &str, now: Option<&String>) -> Option<String> {
    let shared = facts.variables.siblings.iter().filter(|sibling| place.told == Told::Source && sibling.object == place.object);
    shared.into_iter().find_map(|sibling| sibling.before.get(key)).cloned().unwrap_or_else(|| now.cloned())
}

/// What recorded keys hold once they are given up: slave variables stay as empty values, since a pod that names a missing key would not start; the
/// address goes back to what it was, and where it was not there it stays while it names a Service of the user's. What a target's application was told of its
/// login stays: its database is a copy. Keys that the resources of other targets write as well go on naming those.
fn given_up<E: Engine>(facts: &Facts<E>, records: &[EnvironmentRecord]) -> Wanted {
    let mut wanted = Wanted::new();
    // Keys that another resource writes are that one's.
    let object = |record: &EnvironmentRecord| (record.namespace.clone(), record.config_map.clone());
    let taken = |record: &&EnvironmentRecord| facts.taken.iter().any(|taken| taken.has(&object(record), &record.key));
    let [inside, outside] = slave_keys("");
    for record in records.iter().filter(|record| !taken(record)) {
        let object = object(record);
        let now = || facts.config_maps.get(&object).and_then(|data| data.as_ref()?.get(&record.key)).cloned().unwrap_or_default();
        let others: Vec<_> = facts.variables.siblings.iter().filter(|sibling| sibling.keeps(&object, &record.key)).collect();
        let value = if record.key.ends_with(&inside) {
            let addresses: BTreeSet<&str> = others.iter().flat_map(|sibling| &sibling.addresses).map(String::as_str).collect();
            addresses.into_iter().collect::<Vec<_>>().join(",")
        } else if record.key.ends_with(&outside) {
            String::new()
        } else if !record.key.ends_with(&address_key("")) || !others.is_empty() {
            now()
        } else {
            match (&record.before, &facts.service) {
                (Some(before), _) => before.clone(),
                (None, Some(_)) => now(),
                (None, None) if facts.target.is_some() => now(),
                (None, None) => String::new(),
            }
        };
        wanted.entry(object).or_default().insert(record.key.clone(), value);
    }
    wanted
}

/// Plans to write whatever differs. Always all of our keys of a ConfigMap: server-side apply takes away those that are no longer named.
fn write<E: Engine>(facts: &Facts<E>, draft: &mut Draft<E::Step>, wanted: Wanted) -> bool {
    let mut current = true;
    for (object, data) in wanted {
        let Some(Some(found)) = facts.config_maps.get(&object) else { continue };
        if data.iter().any(|(key, value)| found.get(key) != Some(value)) {
            current = false;
            let (namespace, config_map) = object;
            draft.steps.push(Step::Publish { namespace, config_map, data });
        }
    }
    current
}

/// Plans to write the password where it differs: always with all keys that are ours, of which those that are no longer wanted stay as they are.
fn write_passwords<E: Engine>(subject: &Subject, facts: &Facts<E>, draft: &mut Draft<E::Step>) -> bool {
    let Some(Ok(login)) = &facts.variables.login else { return true };
    let mut wanted: BTreeMap<&String, BTreeMap<String, Password>> = BTreeMap::new();
    for place in subject.places.iter().filter(|place| place.told == Told::Password && !facts.taken.iter().any(|taken| taken.is(place))) {
        wanted.entry(&place.object.1).or_default().insert(password_key(&place.prefix), login.password.clone());
    }
    let mut current = true;
    for (secret, passwords) in wanted {
        let Some(Some(found)) = facts.variables.secrets.get(secret) else { continue };
        if passwords.iter().any(|(key, password)| found.get(key) != Some(password)) {
            current = false;
            let data = found.clone().into_iter().chain(passwords).collect();
            draft.steps.push(Step::PublishSecret { secret: secret.clone(), data });
        }
    }
    current
}
