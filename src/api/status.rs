//! `status`: what the operator answers. Nothing in it ticks: an idle cluster sees no writes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is true of the replication now, and the record of what was changed.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct DatabaseReplicationStatus {
    /// The generation of the spec that this status answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// One word for people; programs read the conditions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,

    /// Replicas in step, of those asked for, for example `1/2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replica_count: Option<String>,

    /// How far the slowest replica is behind the source, in coarse steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag: Option<String>,

    /// `Ready`, `Reconciling` and `Stalled` as kstatus reads them, and one for each part: `Preflight`, `SourceConfigured`, `BackupTaken`, `ReplicasInSync`, `EnvironmentCurrent`.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,

    /// What the operator would do: filled by `dryRun`, empty otherwise.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub would_do: Vec<String>,

    /// Names everything that belongs to this enabling, on the source and in the namespace; written before the first change, removed after the last was undone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enablement: Option<String>,

    /// How often this resource was enabled.
    #[serde(skip_serializing_if = "is_zero")]
    pub enablements: u32,

    /// How many replica volumes this enabling has made: each gets a name of its own.
    #[serde(skip_serializing_if = "is_zero")]
    pub seeds: u32,

    /// The source, and what was changed on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceStatus>,

    /// The target, from before it is touched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<TargetStatus>,

    /// What the target held before, as it was backed up and verified: with `target.existingData: BackUpAndReplace`, and with `Refuse` where it was written to after the last look at it, or that can't be told. It stays when replication is disabled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<KeptStatus>,

    /// The full backup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupStatus>,

    /// One entry for each replica.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub replicas: Vec<ReplicaStatus>,

    /// Values that keys of ConfigMaps had before they were ours.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub environment: Vec<EnvironmentRecord>,

    /// How the clients of source and target are disturbed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disruption: Option<Disruption>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// One word for people.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Something is missing or wrong; the condition `Ready` says what, and what to do.
    Blocked,
    /// `dryRun`: everything was checked, nothing was changed.
    DryRun,
    /// `suspend`: hands off.
    Suspended,
    /// The source gets what replication needs on it: a user, settings, for PostgreSQL rule and slots.
    Configuring,
    /// The full backup is being taken.
    BackingUp,
    /// A backup is being restored into a replica's volume.
    Restoring,
    /// A replica starts and catches up.
    CatchingUp,
    /// Every replica has shown data that was written after its restore.
    Ready,
    /// A replica that was in step is not, or the source can't be reached.
    Degraded,
    /// Replicas are being removed and the source's changes undone.
    Disabling,
    /// The source is a stand-alone database, as it was before.
    Standalone,
}

/// The source as it was found, and the record of changes.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct SourceStatus {
    /// Version of the server.
    pub version: String,
    /// The part of the version within which a replica's server fits; of another one it is said, and the replicas are left as they are.
    #[serde(skip_serializing_if = "is_zero")]
    pub major_version: u32,
    /// Name under which clients inside the cluster reach it.
    pub address: String,
    /// Between two applications: the credentials whose owner agreed last. Once no one agrees any more, the source is cleaned with these and no others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials: Option<super::Credentials>,
    /// Which database it is: for PostgreSQL its system identifier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// Size of the data when it was checked before the backup, in bytes.
    pub data_bytes: i64,
    /// What is changed on the server for the replication, and the value before; recorded before it is changed.
    pub changes: Vec<Change>,
    /// Somebody took back what its StatefulSet had been given for the replication: it runs alone since then, and what was written to it is on no replica.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub reverted: bool,
}

/// The target as it was found, and where its data is.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct TargetStatus {
    /// The directory that holds its data.
    pub data_directory: String,
    /// Numeric user of its server.
    pub user: u32,
    /// Numeric group of its server.
    pub group: u32,
    /// Version of its server.
    pub version: String,
    /// What it held before is to be backed up before it is deleted.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub keeps: bool,
    /// Its server has run on the copy of the source's data: that is what it holds since then.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub joined: bool,
    /// The copy was seen to take writes: what was written to it since then is nowhere else, and it stays the target's.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub promoted: bool,
    /// The data that it held before is no longer on its volume: the copy was proven before.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cleared: bool,
    /// Generation of its StatefulSet at which arguments of its server that somebody had taken off it were put back, so that it can be promoted: once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resumed: Option<i64>,
    /// The copy becomes its own: from now on its server may start on it as a stand-alone one.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub releasing: bool,
    /// The copy is its own: a server that starts on it follows nobody.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub released: bool,
    /// It is a database of its own again.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub returned: bool,
}

/// The backup of what a target held before.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct KeptStatus {
    /// The claim of the volume that holds it. It is never deleted by the operator.
    pub claim: String,
    /// Directory on that volume.
    pub directory: String,
    /// Bytes of the whole.
    pub bytes: i64,
    /// SHA-256 of the list of files, which itself holds a SHA-256 for each.
    pub checksum: String,
    /// When it was complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Time>,
}

/// One change on a server that the user owns.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// What is changed, for example `setting max_slot_wal_keep_size` or `role understudy_k3x9q2ab`.
    pub what: String,
    /// The value before; none where it did not exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// The value that it is given.
    pub after: String,
}

/// The full backup.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct BackupStatus {
    /// Counts the backups of this enabling, from 1.
    pub sequence: u32,
    /// The claim of the volume that holds it.
    pub claim: String,
    /// Directory on that volume.
    pub directory: String,
    /// `Running` or `Complete`.
    pub state: String,
    /// Progress of the copy in percent, from the server's own view, in steps of ten.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<u32>,
    /// Bytes copied so far, or bytes of the whole when complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<i64>,
    /// Position in the source's log at which the backup is consistent: for PostgreSQL an LSN, for Redis replication id and offset, for MongoDB the time of the
    /// last operation. While it is taken, and where the exact one is too long for the Job to report, the position of the source when the Job was made, which
    /// the backup has reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<String>,
    /// SHA-256 of the backup's list of files, which itself holds a SHA-256 for each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
    /// When it was complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Time>,
    /// What is particular about the way in which it was taken, and why, for example that `mysqldump` did where the source has no CLONE.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Attempts in a row that failed: each waits longer than the one before.
    #[serde(skip_serializing_if = "is_zero")]
    pub failures: u32,
}

/// One replica.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ReplicaStatus {
    /// Name of its StatefulSet and of its Service.
    pub name: String,
    /// Name under which clients inside the cluster reach it.
    pub address: String,
    /// `Pending`, `Restoring`, `Starting`, `Copying`, `CatchingUp`, `InSync`, `NotReplicating`, `Diverged`, `Lost` or `Removing`.
    pub state: String,
    /// Progress of the copy that its server makes of the source by itself in percent, in steps of ten; only while it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<u32>,
    /// The claim of its volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
    /// Role that the server itself reports: `replica` or `primary`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// How far it is behind, in coarse steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag: Option<String>,
    /// The position in the source's log that was written after the restore and looked for here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proof_position: Option<String>,
    /// When that position was seen here: since then the replica counts as proven.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proven_at: Option<Time>,
    /// What it was seen to hold that the source did not have: it counts as another database from then on, until its volume is deleted and it is seeded anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diverged: Option<String>,
    /// Attempts in a row to restore into its volume that failed: each waits longer than the one before.
    #[serde(skip_serializing_if = "is_zero")]
    pub failures: u32,
}

impl ReplicaStatus {
    /// It takes writes, or was seen to hold what the source did not have: what it holds is nowhere else.
    #[must_use]
    pub fn is_apart(&self) -> bool {
        self.diverged.is_some() || self.role.as_deref() == Some("primary")
    }

    /// Applications may be sent to it: it is proven, and a copy of the source.
    #[must_use]
    pub fn serves(&self) -> bool {
        self.proven_at.is_some() && !self.is_apart()
    }
}

/// The value that a key of a ConfigMap had before.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct EnvironmentRecord {
    /// Namespace of the ConfigMap, where it is not that of the resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name of the ConfigMap.
    pub config_map: String,
    /// The key.
    pub key: String,
    /// The value before; none where the key did not exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
}

/// How the clients of source and target are disturbed.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Disruption {
    /// What was said before anything was touched.
    pub expected: String,
    /// When the restart of the source, or of the target, was begun, if one is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began: Option<Time>,
    /// How long clients were without it: from the moment that the restart was asked for until the source took writes again, or the target answered again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<String>,
}
