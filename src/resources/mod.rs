//! Builders of Kubernetes objects. Pure: values in, objects out.

mod claims;
mod jobs;
mod logins;
mod names;
mod quantity;
mod replica;
mod services;
mod shape;
mod source;
mod target;

pub mod environment;

pub use claims::{build_backup_claim, build_replica_claim};
pub use jobs::{
    JobRequest, Login, build_backup_job, build_clear_job, build_credentials, build_discard_job, build_keep_job, build_measure_job, build_release_job,
    build_restore_job, build_staging_job,
};
pub use logins::Logins;
pub use names::{Names, labels};
pub use quantity::{bytes_of, format_bytes, quantity_of};
pub use replica::{ReplicaRequest, build_replica};
pub use services::{build_primary_service, build_replica_service, build_replicas_service, build_source_service};
pub use shape::{Shape, inspect, lies_under};
pub use source::{KEY_FILE, build_key, build_source_as_before, build_source_change, container_with, key_arguments, key_of, needs_key_file};
pub use target::{Data, build_target_as_before, build_target_change, data_of, template_of};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use std::collections::BTreeMap;

/// Our program in our own image.
const PROGRAM: &str = "/understudy";
/// Where it is copied to in pods that run the database's image.
pub const TOOLS: &str = "/run/understudy/tools";
/// Where the backup volume is mounted inside Jobs.
pub const BACKUP: &str = "/run/understudy/backup";
/// Where the administrator's Secret is mounted inside the backup Job.
pub const CREDENTIALS: &str = "/run/understudy/credentials";

/// What every pod of ours is made from.
#[derive(Debug, Clone, Copy)]
pub struct Workload<'a> {
    /// Names of this enabling.
    pub names: &'a Names,
    /// The resource that owns it.
    pub owner: &'a OwnerReference,
    /// The source's shape.
    pub shape: &'a Shape,
    /// The operator's own image, which brings agent and guard.
    pub image: &'a str,
    /// `spec.engine`.
    pub engine: &'a str,
    /// Numeric user and group of the server process.
    pub user: (u32, u32),
    /// Name of the source's StatefulSet.
    pub source: &'a str,
}

/// Metadata of an object of ours.
fn meta(name: String, names: &Names, labels: BTreeMap<String, String>, owner: Option<&OwnerReference>) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(names.namespace.clone()),
        labels: Some(labels),
        owner_references: owner.map(|owner| vec![owner.clone()]),
        ..ObjectMeta::default()
    }
}
