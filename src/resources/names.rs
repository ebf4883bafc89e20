//! What our objects are called, and the labels by which they are found again.

use std::collections::BTreeMap;

use crate::engine::Identity;

/// Label keys of our objects. Pods of ours carry no other labels, so that no selector of the user's matches them.
pub mod labels {
    /// Value [`MANAGER`]; the only objects that are watched and cached.
    pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
    /// Value of [`MANAGED_BY`].
    pub const MANAGER: &str = "understudy";
    /// Name of the `DatabaseReplication`.
    pub const REPLICATION: &str = "understudy.dev/replication";
    /// What the object is for: `backup`, `restore`, `replica`, `primary`, `source` or `key`.
    pub const COMPONENT: &str = "understudy.dev/component";
    /// Number of the replica.
    pub const REPLICA: &str = "understudy.dev/replica";
    /// The enabling that the object belongs to.
    pub const ENABLEMENT: &str = "understudy.dev/enablement";
    /// On pods of replicas: value [`SERVING`] while clients may read from them.
    pub const ROLE: &str = "understudy.dev/role";
    /// Value of [`ROLE`] on a replica that has shown what was written after its restore and takes no writes.
    pub const SERVING: &str = "replica";
    /// On volumes that were kept when their replica was removed.
    pub const RETAINED: &str = "understudy.dev/retained";
}

/// Names of everything that belongs to one enabling of one resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// Namespace of the resource.
    pub namespace: String,
    /// Name of the resource.
    pub name: String,
    /// Its enabling.
    pub identity: Identity,
}

impl Names {
    /// Field manager for the fields of ours on objects of the user's: one for each resource, so that giving up those of one leaves those of others alone.
    #[must_use]
    pub fn manager(&self) -> String {
        format!("{}/{}", crate::api::FIELD_MANAGER, self.name)
    }

    /// Field manager for fields of ours in `namespace`: in another one than the resource's there may be those of a resource of the same name.
    #[must_use]
    pub fn manager_in(&self, namespace: Option<&str>) -> String {
        match namespace {
            Some(_) => format!("{}/{}/{}", crate::api::FIELD_MANAGER, self.namespace, self.name),
            None => self.manager(),
        }
    }

    /// Service that reaches the source's pod.
    #[must_use]
    pub fn primary(&self) -> String {
        format!("{}-primary", self.name)
    }

    /// Service that names the source's pod for servers that have to know each other.
    #[must_use]
    pub fn source(&self) -> String {
        format!("{}-source", self.name)
    }

    /// Secret with the key file by which servers trust each other.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}-key-{}", self.name, self.identity.word())
    }

    /// Service that reaches all replicas.
    #[must_use]
    pub fn replicas(&self) -> String {
        format!("{}-replicas", self.name)
    }

    /// StatefulSet and Service of one replica.
    #[must_use]
    pub fn replica(&self, number: u32) -> String {
        format!("{}-replica-{number}", self.name)
    }

    /// Volume of one replica: a new name for each seed, so that a volume that was kept is never taken for a new one.
    #[must_use]
    pub fn replica_claim(&self, number: u32, seed: u32) -> String {
        format!("{}-replica-{number}-{}-{seed}", self.name, self.identity.word())
    }

    /// Volume of the backup.
    #[must_use]
    pub fn backup_claim(&self) -> String {
        format!("{}-backup-{}", self.name, self.identity.word())
    }

    /// Job of the `sequence`th backup.
    #[must_use]
    pub fn backup_job(&self, sequence: u32) -> String {
        format!("{}-backup-{}-{sequence}", self.name, self.identity.word())
    }

    /// Directory of the `sequence`th backup on its volume.
    #[must_use]
    pub fn backup_directory(&self, sequence: u32) -> String {
        format!("{}-{sequence}", self.identity.word())
    }

    /// Job that restores a backup into the volume of one replica.
    #[must_use]
    pub fn restore_job(&self, number: u32) -> String {
        format!("{}-restore-{}-{number}", self.name, self.identity.word())
    }

    /// Job that measures the room on a target's volume.
    #[must_use]
    pub fn measure_job(&self) -> String {
        format!("{}-measure-{}", self.name, self.identity.word())
    }

    /// Job that deletes what the exchange has left on a target's volume.
    #[must_use]
    pub fn discard_job(&self) -> String {
        format!("{}-discard-{}", self.name, self.identity.word())
    }

    /// Job that backs up what a target held before.
    #[must_use]
    pub fn keep_job(&self) -> String {
        format!("{}-keep-{}", self.name, self.identity.word())
    }

    /// Directory of that backup on the backup volume.
    #[must_use]
    pub fn kept_directory(&self) -> String {
        format!("{}-previous", self.identity.word())
    }

    /// Job that has a target's data be its own.
    #[must_use]
    pub fn release_job(&self) -> String {
        format!("{}-release-{}", self.name, self.identity.word())
    }

    /// Job that deletes the last of what is ours on the volume of a target that was given back.
    #[must_use]
    pub fn clear_job(&self) -> String {
        format!("{}-clear-{}", self.name, self.identity.word())
    }

    /// Secret with the password of a source in another namespace, while it is being backed up.
    #[must_use]
    pub fn credentials(&self) -> String {
        format!("{}-credentials-{}", self.name, self.identity.word())
    }

    /// The name of a Service of ours as clients in the cluster resolve it.
    #[must_use]
    pub fn host(&self, service: &str) -> String {
        format!("{service}.{}.svc", self.namespace)
    }

    /// Labels that find pods of a component again: what Services and anti-affinities select by.
    #[must_use]
    pub fn selector(&self, component: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(labels::REPLICATION.to_owned(), self.name.clone()), (labels::COMPONENT.to_owned(), component.to_owned())])
    }

    /// Labels that find the pods from which clients may read.
    #[must_use]
    pub fn serving(&self) -> BTreeMap<String, String> {
        let mut selector = self.selector("replica");
        selector.insert(labels::ROLE.to_owned(), labels::SERVING.to_owned());
        selector
    }

    /// Labels of an object of ours.
    #[must_use]
    pub fn labels(&self, component: &str, number: Option<u32>) -> BTreeMap<String, String> {
        let mut all = self.selector(component);
        all.insert(labels::MANAGED_BY.to_owned(), labels::MANAGER.to_owned());
        all.insert(labels::ENABLEMENT.to_owned(), self.identity.word().to_owned());
        if let Some(number) = number {
            all.insert(labels::REPLICA.to_owned(), number.to_string());
        }
        all
    }
}
