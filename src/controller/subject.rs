//! The resource that is reconciled, with its defaults filled in.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::jiff::Timestamp;
use kube::{Resource, ResourceExt};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::time::Duration;

use super::variables::{Place, places_of};
use crate::api::{Credentials, DatabaseReplication, EnvironmentObject, Phase, TargetStatus};
use crate::engine::{Engine, Identity, with_engine};
use crate::resources::Names;

/// The resource that is reconciled, with its defaults filled in.
#[derive(Debug, Clone)]
pub struct Subject {
    /// As read from the API server.
    pub resource: Arc<DatabaseReplication>,
    /// Names of this enabling, or of the one that would begin now.
    pub names: Names,
    /// Reference for objects of ours.
    pub owner: OwnerReference,
    /// The source's port.
    pub port: u16,
    /// The database to connect to.
    pub database: String,
    /// The same of the target, if there is one.
    pub target: Option<(u16, String)>,
    /// ConfigMaps and the prefix in each.
    pub environment: Vec<(EnvironmentObject, String)>,
    /// Every object that receives variables.
    pub places: Vec<Place>,
}

impl Subject {
    /// Fills in defaults. None where the object lacks what the API server gives to every object.
    #[must_use]
    pub fn new<E: Engine>(resource: Arc<DatabaseReplication>) -> Option<Self> {
        let owner = OwnerReference { block_owner_deletion: Some(true), ..resource.controller_owner_ref(&())? };
        let status = resource.status.clone().unwrap_or_default();
        let identity = match status.enablement.as_deref().and_then(Identity::parse) {
            Some(identity) => identity,
            None => new_identity(&owner.uid, status.enablements)?,
        };
        let names = Names { namespace: resource.namespace()?, name: resource.name_any(), identity };
        let environment = environment_of(&resource);
        let places = places_of(&resource);
        let usual = |port: Option<u16>, database: &Option<String>| (port.unwrap_or(E::PORT), database.clone().unwrap_or_else(|| E::DATABASE.to_owned()));
        let (port, database) = usual(resource.spec.source.port, &resource.spec.source.database);
        Some(Self {
            port,
            database,
            target: resource.spec.target.as_ref().map(|target| usual(target.port, &target.database)),
            resource,
            names,
            owner,
            environment,
            places,
        })
    }

    /// Name of the source's StatefulSet.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.resource.spec.source.stateful_set_ref.name
    }

    /// The source as a database that is looked at.
    #[must_use]
    pub fn source_database(&self) -> Database<'_> {
        let source = &self.resource.spec.source;
        Database {
            field: "source",
            namespace: source.stateful_set_ref.namespace.as_deref().unwrap_or(&self.names.namespace),
            stateful_set: &source.stateful_set_ref.name,
            credentials: &source.credentials,
            container: source.container.as_deref(),
            port: self.port,
            database: &self.database,
        }
    }

    /// The target as a database that is looked at, if there is one.
    #[must_use]
    pub fn target_database(&self) -> Option<Database<'_>> {
        let (target, (port, database)) = (self.resource.spec.target.as_ref()?, self.target.as_ref()?);
        Some(Database {
            field: "target",
            namespace: &self.names.namespace,
            stateful_set: &target.stateful_set_ref.name,
            credentials: &target.credentials,
            container: target.container.as_deref(),
            port: *port,
            database,
        })
    }

    /// What is on record of the target.
    #[must_use]
    pub fn target_status(&self) -> Option<&TargetStatus> {
        self.resource.status.as_ref()?.target.as_ref()
    }

    /// Name of replica `number`, as the status and the source show it: a target has its own.
    #[must_use]
    pub fn replica(&self, number: u32) -> String {
        self.target_database().map_or_else(|| self.names.replica(number), |target| target.stateful_set.to_owned())
    }

    /// Something of this resource may be left on the source or in the namespace.
    #[must_use]
    pub fn recorded(&self) -> bool {
        self.resource.status.as_ref().is_some_and(|status| status.enablement.is_some())
    }

    /// What is recorded began with this very resource: its word comes from the resource's own uid, and is no other's that was written into the status.
    #[must_use]
    pub fn begun_here(&self) -> bool {
        let before = self.resource.status.as_ref().map_or(0, |status| status.enablements.saturating_sub(1));
        self.recorded() && new_identity(&self.owner.uid, before).as_ref() == Some(&self.names.identity)
    }

    /// The credentials whose owner in another namespace agreed last, and with which what was begun is taken off the source again.
    #[must_use]
    pub fn agreed_credentials(&self) -> Option<&Credentials> {
        self.resource.status.as_ref()?.source.as_ref()?.credentials.as_ref().filter(|_| self.begun_here())
    }

    /// For how long it has been waiting for its deletion; none while nobody deletes it.
    #[must_use]
    pub fn waited(&self, now: Timestamp) -> Option<Duration> {
        self.resource.metadata.deletion_timestamp.as_ref().map(|at| now.duration_since(at.0).unsigned_abs())
    }

    /// The user deletes the resource.
    #[must_use]
    pub fn deleting(&self) -> bool {
        self.resource.metadata.deletion_timestamp.is_some()
    }

    /// An enabling has begun to be undone: that is brought to its end before another one begins.
    #[must_use]
    pub fn undoing(&self) -> bool {
        self.recorded() && self.resource.status.as_ref().and_then(|status| status.phase) == Some(Phase::Disabling)
    }

    /// The user wants a stand-alone database again.
    #[must_use]
    pub fn disabling(&self) -> bool {
        self.deleting() || !self.resource.spec.enabled || self.undoing()
    }

    /// It was said to be Ready.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.resource.status.iter().flat_map(|status| &status.conditions).any(|condition| condition.type_ == "Ready" && condition.status == "True")
    }

    /// The user has changed `spec` since it was last looked at: what failed before may succeed now.
    #[must_use]
    pub fn edited(&self) -> bool {
        self.resource.status.as_ref().is_some_and(|status| status.observed_generation != self.resource.metadata.generation)
    }
}

/// A database of the user's, as the resource names it.
#[derive(Debug, Clone, Copy)]
pub struct Database<'a> {
    /// The field of the resource that names it: `source` or `target`.
    pub field: &'static str,
    /// Namespace of everything of it.
    pub namespace: &'a str,
    /// Its StatefulSet.
    pub stateful_set: &'a str,
    /// Its administrator.
    pub credentials: &'a Credentials,
    /// The container that runs it, where the resource names one.
    pub container: Option<&'a str>,
    /// Its port.
    pub port: u16,
    /// The database to connect to.
    pub database: &'a str,
}

impl Database<'_> {
    /// Its pod: the first, and only, one.
    #[must_use]
    pub fn pod(&self) -> String {
        format!("{}-0", self.stateful_set)
    }
}

/// ConfigMaps that a resource names, and the prefix of the variables in each.
fn environment_of(resource: &DatabaseReplication) -> Vec<(EnvironmentObject, String)> {
    let usual = with_engine!(resource.spec.engine, E => E::PREFIX);
    let configured = resource.spec.environment.clone().unwrap_or_default().config_maps;
    configured.into_iter().map(|object| (object.clone(), object.prefix.unwrap_or_else(|| usual.to_owned()))).collect()
}

/// A word for a new enabling: the same when asked again, for a dry run for example, until the resource is enabled.
fn new_identity(uid: &str, enablements: u32) -> Option<Identity> {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let digest = Sha256::digest(format!("{uid}/{enablements}"));
    let word: String = digest.iter().take(8).filter_map(|byte| ALPHABET.get(usize::from(byte % 32))).map(|b| char::from(*b)).collect();
    Identity::parse(&word)
}
