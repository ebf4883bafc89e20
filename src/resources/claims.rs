//! Claims for the volumes of backup and replicas. They have no owner reference: no garbage collector ever deletes data.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;

use super::{Names, meta};
use crate::api::Storage;

fn build(name: String, names: &Names, component: &str, number: Option<u32>, storage: &Storage) -> PersistentVolumeClaim {
    PersistentVolumeClaim {
        metadata: meta(name, names, names.labels(component, number), None),
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            storage_class_name: storage.storage_class_name.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".to_owned(), Quantity(storage.size.0.clone()))])),
                ..VolumeResourceRequirements::default()
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    }
}

/// The volume that the backup is written to.
#[must_use]
pub fn build_backup_claim(names: &Names, storage: &Storage) -> PersistentVolumeClaim {
    build(names.backup_claim(), names, "backup", None, storage)
}

/// The volume of one replica.
#[must_use]
pub fn build_replica_claim(names: &Names, number: u32, claim: &str, storage: &Storage) -> PersistentVolumeClaim {
    build(claim.to_owned(), names, "replica", Some(number), storage)
}
