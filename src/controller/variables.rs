//! Into which objects the variables of a resource go, and which other resources write there, too.

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Debug, Formatter};
use std::sync::Arc;

use super::consent::allows;
use crate::api::{DatabaseReplication, EnvironmentObject, Phase};
use crate::engine::{Engine, Finding, with_engine};
use crate::resources::environment::{is_key, password_key};

/// An object: its namespace, where that is not the resource's, and its name.
pub type ObjectKey = (Option<String>, String);

/// A password. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// From its text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The password itself.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.0
    }
}

impl Debug for Password {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password")
    }
}

/// Which variables an object receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// Those of the application whose database takes the writes: its address, and those of all that follow it.
    Source,
    /// Those of the application of a target: the address of its own server, and what the source's application logs in with, but for the password.
    Target,
    /// The password alone: the object is a Secret.
    Password,
}

/// An object that receives variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Which ones.
    pub told: Told,
    /// The object.
    pub object: ObjectKey,
    /// What the variables begin with.
    pub prefix: String,
}

impl Place {
    fn is_secret(&self) -> bool {
        self.told == Told::Password
    }

    /// The same keys of the same object.
    fn is_that_of(&self, other: &Self) -> bool {
        self.is_secret() == other.is_secret() && self.object == other.object && self.prefix == other.prefix
    }
}

/// Variables that another resource writes, or this one twice: they are left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// Kind of the object: `ConfigMap` or `Secret`.
    pub kind: &'static str,
    /// The object.
    pub object: ObjectKey,
    /// What the variables begin with.
    pub prefix: String,
    /// The resource that came first, with its namespace where that is another one; none where this one names the object twice.
    pub by: Option<String>,
}

impl Taken {
    /// It is about this place.
    #[must_use]
    pub fn is(&self, place: &Place) -> bool {
        (self.kind == "Secret") == place.is_secret() && self.object == place.object && self.prefix == place.prefix
    }

    /// It is about this key of a ConfigMap.
    #[must_use]
    pub fn has(&self, object: &ObjectKey, key: &str) -> bool {
        self.kind == "ConfigMap" && self.object == *object && is_key(&self.prefix, key)
    }
}

/// Another resource whose target follows the same source, and which writes the same variables of the source's application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sibling {
    /// Namespace of that resource.
    pub namespace: String,
    /// The ConfigMap.
    pub object: ObjectKey,
    /// What the variables begin with.
    pub prefix: String,
    /// It goes on replicating: what it writes stays.
    pub stays: bool,
    /// Addresses of what it has proven, if it stays.
    pub addresses: Vec<String>,
    /// What keys of the ConfigMap held before they were that resource's.
    pub before: BTreeMap<String, Option<String>>,
}

impl Sibling {
    /// It writes this key and goes on doing so.
    #[must_use]
    pub fn keeps(&self, object: &ObjectKey, key: &str) -> bool {
        self.stays && self.object == *object && is_key(&self.prefix, key)
    }
}

/// What the source's application logs in with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// Its database.
    pub database: String,
    /// Its user.
    pub username: String,
    /// Its password.
    pub password: Password,
}

/// What was observed of the variables between two applications.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Variables {
    /// What the source's application logs in with; none where nobody is to be told.
    pub login: Option<Result<Login, Finding>>,
    /// Secrets that receive the password, with the keys that are ours or are to be; none where one does not exist.
    pub secrets: BTreeMap<String, Option<BTreeMap<String, Password>>>,
    /// Resources with which the ConfigMaps of the source's application are shared.
    pub siblings: Vec<Sibling>,
}

/// Namespace and name of the source.
fn source_of(resource: &DatabaseReplication) -> (Option<String>, &str) {
    let source = &resource.spec.source.stateful_set_ref;
    (source.namespace.clone().or_else(|| resource.namespace()), &source.name)
}

/// The objects that a resource names for its variables, with absolute namespaces made relative to `home`.
fn places_seen_from(resource: &DatabaseReplication, home: Option<&str>) -> Vec<Place> {
    let usual = with_engine!(resource.spec.engine, E => E::PREFIX);
    let spec = &resource.spec;
    let environment = spec.environment.clone().unwrap_or_default();
    let of_source = spec.source.environment.clone().unwrap_or_default();
    let own = resource.namespace();
    let from = |told: Told, objects: Vec<EnvironmentObject>, namespace: Option<String>| {
        let namespace = namespace.filter(|namespace| Some(namespace.as_str()) != home);
        objects.into_iter().map(move |object| Place {
            told,
            object: (namespace.clone(), object.name),
            prefix: object.prefix.unwrap_or_else(|| usual.to_owned()),
        })
    };
    let first = if spec.target.is_some() { Told::Target } else { Told::Source };
    from(first, environment.config_maps, own.clone())
        .chain(from(Told::Source, of_source.config_maps, source_of(resource).0))
        .chain(from(Told::Password, environment.secrets, own))
        .collect()
}

/// The objects that a resource names for its variables.
#[must_use]
pub fn places_of(resource: &DatabaseReplication) -> Vec<Place> {
    places_seen_from(resource, resource.namespace().as_deref())
}

/// Both have targets that follow the same source.
fn follow_one(one: &DatabaseReplication, other: &DatabaseReplication) -> bool {
    one.spec.target.is_some() && other.spec.target.is_some() && one.spec.engine == other.spec.engine && source_of(one) == source_of(other)
}

/// Variables of `resource` that one of `first`, resources which came first, writes. What targets of one source tell its application belongs to all of them.
/// A resource of another namespace counts once it has written there, for which the owner has agreed: to name an object takes nothing away from anybody.
#[must_use]
pub fn taken(resource: &DatabaseReplication, first: &[Arc<DatabaseReplication>]) -> Vec<Taken> {
    let home = resource.namespace();
    let mine = places_of(resource);
    let entry = |place: &Place, by: Option<String>| Taken {
        kind: if place.is_secret() { "Secret" } else { "ConfigMap" },
        object: place.object.clone(),
        prefix: place.prefix.clone(),
        by,
    };
    let mut taken = Vec::new();
    for (at, place) in mine.iter().enumerate() {
        // The same variable can't have the value of both applications.
        if mine.iter().skip(at + 1).any(|other| other.is_that_of(place) && other.told != place.told) {
            taken.push(entry(place, None));
        }
    }
    for other in first {
        let foreign = other.namespace() != home;
        let theirs = places_seen_from(other, home.as_deref());
        let writes =
            |place: &Place| !foreign || records_of(other, home.as_deref()).any(|(object, key, _)| object == place.object && is_key(&place.prefix, &key));
        let both = |place: &&Place| {
            let shared = |theirs: &Place| place.told == Told::Source && theirs.told == Told::Source && follow_one(resource, other);
            theirs.iter().any(|theirs| theirs.is_that_of(place) && !shared(theirs)) && writes(place)
        };
        let by = if foreign { format!("{}/{}", other.namespace().unwrap_or_default(), other.name_any()) } else { other.name_any() };
        taken.extend(mine.iter().filter(both).map(|place| entry(place, Some(by.clone()))));
    }
    taken
}

/// What a resource has recorded of ConfigMaps: the object as seen from `home`, the key, and the value before.
fn records_of<'a>(resource: &'a DatabaseReplication, home: Option<&'a str>) -> impl Iterator<Item = (ObjectKey, String, Option<String>)> + 'a {
    resource.status.iter().flat_map(|status| &status.environment).map(move |record| {
        let namespace = record.namespace.clone().or_else(|| resource.namespace());
        ((namespace.filter(|namespace| Some(namespace.as_str()) != home), record.config_map.clone()), record.key.clone(), record.before.clone())
    })
}

/// The owner of its source agrees no longer. One that is suspended has that in another condition than `Ready`.
pub(super) fn withdrawn(resource: &DatabaseReplication) -> bool {
    resource.status.iter().flat_map(|status| &status.conditions).any(|condition| condition.reason == "ConsentWithdrawn")
}

/// Resources besides `resource` whose targets follow the same source, for each ConfigMap of the source's application that they name.
#[must_use]
pub fn siblings(resource: &DatabaseReplication, all: &[Arc<DatabaseReplication>]) -> Vec<Sibling> {
    let home = resource.namespace();
    let mut found = Vec::new();
    for other in all.iter().filter(|other| other.uid() != resource.uid() && follow_one(resource, other)) {
        let Some(status) = other.status.as_ref().filter(|status| status.enablement.is_some()) else { continue };
        let stays = other.spec.enabled && other.metadata.deletion_timestamp.is_none() && status.phase != Some(Phase::Disabling);
        // What is written of a copy that gets nothing any more is its own to take back, and nobody else's to say.
        let told = stays && !withdrawn(other);
        let addresses: Vec<String> = status.replicas.iter().filter(|entry| told && entry.serves()).map(|entry| entry.address.clone()).collect();
        for place in places_seen_from(other, home.as_deref()).into_iter().filter(|place| place.told == Told::Source) {
            let before = records_of(other, home.as_deref()).filter(|(object, ..)| *object == place.object).map(|(_, key, before)| (key, before)).collect();
            let namespace = other.namespace().unwrap_or_default();
            found.push(Sibling { namespace, object: place.object, prefix: place.prefix, stays, addresses: addresses.clone(), before });
        }
    }
    found
}

/// Of an object in another namespace that does not exist, or does not allow that of the resource, its user does not learn who writes there.
#[must_use]
pub fn may_be_said(taken: &Taken, found: impl Fn(&ObjectKey) -> bool) -> bool {
    taken.object.0.is_none() || found(&taken.object)
}

/// A sibling's addresses stand in a ConfigMap only as long as that allows the sibling's namespace. `owner` is that of the ConfigMap, and `agreed` has the
/// annotations of its ConfigMaps.
#[must_use]
pub fn may_be_named(sibling: &Sibling, owner: &str, agreed: &BTreeMap<String, BTreeMap<String, String>>) -> bool {
    sibling.namespace == owner || agreed.get(&sibling.object.1).is_some_and(|said| allows(said, &sibling.namespace))
}

/// The passwords in a Secret that are ours, as `manager`, or are to be, as `places` say.
#[must_use]
pub fn passwords_of(secret: &Secret, manager: &str, places: &[Place]) -> BTreeMap<String, Password> {
    let name = secret.name_any();
    let mut keys: BTreeSet<String> =
        places.iter().filter(|place| place.is_secret() && place.object.1 == name).map(|place| password_key(&place.prefix)).collect();
    let mine = secret.managed_fields().iter().filter(|entry| entry.manager.as_deref() == Some(manager) && entry.operation.as_deref() == Some("Apply"));
    let fields = mine.filter_map(|entry| entry.fields_v1.as_ref()?.0.get("f:data")?.as_object());
    keys.extend(fields.flat_map(|fields| fields.keys().filter_map(|field| field.strip_prefix("f:").map(str::to_owned))));
    let data = secret.data.as_ref();
    let value = |key: &String| String::from_utf8(data?.get(key)?.0.clone()).ok().map(Password::new);
    keys.into_iter().filter_map(|key| value(&key).map(|value| (key, value))).collect()
}
