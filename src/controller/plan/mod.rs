//! From the resource and the facts to the next steps and the status. Pure: no client, no clock, no waiting.

mod backup;
mod conclude;
mod disable;
mod draft;
mod enable;
mod environment;
mod give_back;
mod place;
mod preflight;
mod replica;
mod source;
mod takeover;
mod target;
#[cfg(test)]
mod tests;

pub use draft::{Draft, conditions, merge};

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::facts::{Facts, Password, Subject};
use crate::api::DatabaseReplicationStatus;
use crate::engine::Engine;

/// An object of ours to be applied as it stands here.
#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    /// A volume claim.
    Claim(Box<PersistentVolumeClaim>),
    /// A Service.
    Service(Box<Service>),
    /// A Job.
    Job(Box<Job>),
    /// A replica.
    StatefulSet(Box<StatefulSet>),
}

/// The kinds of objects that are deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A volume claim.
    Claim,
    /// A Service.
    Service,
    /// A Job and its pods.
    Job,
    /// A replica and its pod.
    StatefulSet,
    /// A Secret.
    Secret,
}

/// One step. Executing it twice is harmless.
#[derive(Debug, Clone, PartialEq)]
pub enum Step<S> {
    /// Put our finalizer on the resource.
    Hold,
    /// Take our finalizer off the resource.
    Release,
    /// A step on the source's server.
    Source(S),
    /// Write a mark into the source's log, to be looked for on these replicas.
    Mark(Vec<u32>),
    /// Apply an object of ours.
    Apply(Object),
    /// Delete an object of ours.
    Delete(Kind, String),
    /// Make a Secret of ours, if it does not exist: what is in it is never replaced.
    CreateSecret(Box<Secret>),
    /// Apply our fields of a StatefulSet of the user's: it restarts.
    Change {
        /// Its name.
        stateful_set: String,
        /// `source` or `target`.
        side: &'static str,
        /// What it gets, in words.
        what: String,
        /// Our fields, as they are applied.
        patch: serde_json::Value,
    },
    /// Give up our fields of a StatefulSet of the user's, which then is as it was before: it restarts.
    PutBack {
        /// Its name.
        stateful_set: String,
        /// `source` or `target`.
        side: &'static str,
        /// The fields that have to be put back.
        patch: serde_json::Value,
    },
    /// Take our name off the fields of a StatefulSet that were put back: whoever applies them next is in nobody's way.
    Disown(String),
    /// Delete the target's pod, which does not become ready: its StatefulSet, which waits for that, makes it anew from the template that it has by now.
    Recreate {
        /// Name of the pod.
        pod: String,
        /// This very one.
        uid: String,
    },
    /// Make the target a stand-alone server that takes writes.
    Promote,
    /// A step on the target's server, which then is nobody's replica.
    Target(S),
    /// Keep a volume: it no longer counts as ours.
    Keep(String),
    /// Ask for a larger volume. Where the cluster can't, it is said, and no other step waits for it.
    Grow {
        /// Name of the claim.
        claim: String,
        /// The size that it is to have.
        size: Quantity,
    },
    /// Let clients read from the pod of a replica, or no longer: by the label that the Service of all replicas selects by.
    Serve {
        /// Name of the pod.
        pod: String,
        /// Whether they may.
        serving: bool,
    },
    /// Write variables into a ConfigMap.
    Publish {
        /// Its namespace, where that is not the resource's: then it has to allow the resource's at this moment, too.
        namespace: Option<String>,
        /// Name of the ConfigMap.
        config_map: String,
        /// Our keys and their values.
        data: BTreeMap<String, String>,
    },
    /// Write passwords into a Secret of the user's, in the resource's namespace.
    PublishSecret {
        /// Name of the Secret.
        secret: String,
        /// Our keys and their values, which are never printed.
        data: BTreeMap<String, Password>,
    },
    /// Nothing to execute: an event that tells what was found.
    Tell {
        /// It is a warning.
        warning: bool,
        /// Reason of the event.
        reason: &'static str,
        /// Text of the event.
        note: String,
    },
}

impl<S: fmt::Display> fmt::Display for Step<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hold => write!(f, "add the finalizer"),
            Self::Release => write!(f, "remove the finalizer"),
            Self::Source(step) => write!(f, "source: {step}"),
            Self::Mark(_) => write!(f, "write a mark into the source's log"),
            Self::Apply(object) => {
                let (kind, meta) = match object {
                    Object::Claim(object) => ("PersistentVolumeClaim", &object.metadata),
                    Object::Service(object) => ("Service", &object.metadata),
                    Object::Job(object) => ("Job", &object.metadata),
                    Object::StatefulSet(object) => ("StatefulSet", &object.metadata),
                };
                write!(f, "apply {kind} {}", meta.name.as_deref().unwrap_or_default())
            }
            Self::Delete(kind, name) => {
                let kind = match kind {
                    Kind::Claim => "PersistentVolumeClaim",
                    Kind::Service => "Service",
                    Kind::Job => "Job",
                    Kind::StatefulSet => "StatefulSet",
                    Kind::Secret => "Secret",
                };
                write!(f, "delete {kind} {name}")
            }
            Self::CreateSecret(secret) => write!(f, "make Secret {}", secret.metadata.name.as_deref().unwrap_or_default()),
            Self::Change { what, side, .. } => write!(f, "{what}: the {side} restarts"),
            Self::PutBack { stateful_set, side, .. } => write!(f, "put StatefulSet {stateful_set} back as it was: the {side} restarts"),
            Self::Disown(stateful_set) => write!(f, "give up the ownership of fields of StatefulSet {stateful_set}"),
            Self::Recreate { pod, .. } => write!(f, "delete Pod {pod}, which does not become ready, so that it is made anew"),
            Self::Target(step) => write!(f, "target: {step}"),
            Self::Promote => write!(f, "make the target a stand-alone server that takes writes"),
            Self::Keep(name) => write!(f, "keep PersistentVolumeClaim {name}"),
            Self::Grow { claim, size } => write!(f, "grow PersistentVolumeClaim {claim} to {}", size.0),
            Self::Serve { pod, serving: true } => write!(f, "let clients read from Pod {pod}"),
            Self::Serve { pod, serving: false } => write!(f, "send no more clients to Pod {pod}"),
            Self::Publish { namespace, config_map, data } => {
                write!(f, "write {} to ConfigMap {config_map}", data.keys().map(String::as_str).collect::<Vec<_>>().join(", "))?;
                namespace.iter().try_for_each(|namespace| write!(f, " in namespace {namespace}"))
            }
            Self::PublishSecret { secret, data } => {
                write!(f, "write {} to Secret {secret}", data.keys().map(String::as_str).collect::<Vec<_>>().join(", "))
            }
            Self::Tell { reason, .. } => write!(f, "tell {reason}"),
        }
    }
}

/// When to look again where nothing that is watched will say so.
pub mod again {
    use super::Duration;
    /// Steps were executed: what they led to is seen at once.
    pub const NEXT: Duration = Duration::from_millis(100);
    /// The source restarts, and its clients wait.
    pub const RESTART: Duration = Duration::from_millis(250);
    /// Something is about to change: a server starts, a mark arrives.
    pub const SOON: Duration = Duration::from_millis(500);
    /// A copy is running.
    pub const PROGRESS: Duration = Duration::from_secs(2);
    /// By then a source has counted what it has written to its log, where its replicas may be ahead of that.
    pub const COUNTED: Duration = Duration::from_secs(10);
    /// The user has to do something.
    pub const BLOCKED: Duration = Duration::from_secs(10);
    /// Everything is as it should be.
    pub const IDLE: Duration = Duration::from_secs(30);
    /// A Job that failed is tried again after this time, and after twice as long each time that it fails again.
    pub const RETRY: Duration = Duration::from_secs(20);
    /// The longest that a Job that failed waits for the next attempt.
    pub const RETRY_MOST: Duration = Duration::from_mins(5);
    /// A resource that is being deleted waits so long for a source that does not answer.
    pub const ABANDON: Duration = Duration::from_mins(1);
}

/// What to do now, and what to say.
#[derive(Debug, Clone)]
pub struct Plan<S> {
    /// The status; it holds the record of whatever the steps change, and is written before they are executed.
    pub status: DatabaseReplicationStatus,
    /// The steps, in order; a step that fails ends the execution.
    pub steps: Vec<Step<S>>,
    /// When to look again.
    pub again: Duration,
}

/// The plan for one resource.
#[must_use]
pub fn plan<E: Engine>(subject: &Subject, facts: &Facts<E>, image: &str) -> Plan<E::Step> {
    let draft = Draft::new(subject, facts);
    // Hands off means just that; but who deletes the resource wants it gone.
    if subject.resource.spec.suspend && !subject.deleting() {
        draft.suspended(subject)
    } else if subject.disabling() {
        disable::plan::<E>(subject, facts, draft, image)
    } else {
        enable::plan::<E>(subject, facts, draft, image)
    }
}
