//! `spec`: what the user asks for. Defaults are those that a careful administrator would have chosen.

use k8s_openapi::api::core::v1::{Affinity, ResourceRequirements, Toleration};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::DatabaseReplicationStatus;

/// Gives a database that already runs in this namespace, or with `target` also in another one, its replicas, in place, and takes them away again.
///
/// The source stays where it is: one StatefulSet with one pod. While `enabled` is true the operator keeps `replicas` read-only copies of it in
/// step; set `enabled` to false, or delete the resource, and every change on the source is undone.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "understudy.dev",
    version = "v1alpha1",
    kind = "DatabaseReplication",
    plural = "databasereplications",
    singular = "databasereplication",
    shortname = "dbrep",
    namespaced,
    status = "DatabaseReplicationStatus",
    doc = "Gives a database that already runs in this namespace, or with `target` also in another one, its replicas, in place, and takes them away again. The source stays where it is: one StatefulSet with one pod. Set `enabled: false`, or delete the resource, and every change made on the source is undone.",
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$')")
        .message("metadata.name becomes part of Service names: at most 40 lower-case letters, digits and '-', starting with a letter, without dots"),
    printcolumn(name = "Engine", type_ = "string", json_path = ".spec.engine"),
    printcolumn(name = "Source", type_ = "string", json_path = ".spec.source.statefulSetRef.name"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#, description = "True: data written to the source after the restore was seen on every replica"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Replicas", type_ = "string", json_path = ".status.replicaCount", description = "Replicas in step, of those asked for"),
    printcolumn(name = "Lag", type_ = "string", json_path = ".status.lag", description = "How far the slowest replica is behind"),
    printcolumn(name = "Since", type_ = "date", json_path = r#".status.conditions[?(@.type=="Ready")].lastTransitionTime"#, description = "Since when Ready has this value"),
    printcolumn(name = "Message", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].message"#, priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = Rule::new("has(self.replicas) != has(self.target)")
        .message("set exactly one of `replicas` (read-only copies made in this namespace) and `target` (an existing StatefulSet that becomes the copy)"),
    validation = Rule::new("has(self.target) == has(oldSelf.target)")
        .message("`replicas` and `target` cannot take each other's place: delete this resource and create another"),
    validation = Rule::new("self.engine != 'MongoDB' || !has(self.target)")
        .message("MongoDB cannot be replicated between two applications: its members elect the one that takes the writes, and clients have to know all of them; use `replicas`"),
    validation = Rule::new("self.engine != 'MongoDB' || !has(self.replicas) || self.replicas % 2 == 0")
        .message("a MongoDB replica set has an odd number of members, so that a majority stays when one fails: set `replicas` to 2, 4, 6 or 8"),
    validation = Rule::new("has(self.target) || !has(self.source.statefulSetRef.namespace)")
        .message("`source.statefulSetRef.namespace` is only for `target`: copies that `replicas` makes are in the namespace of the source, and so is this resource"),
    validation = Rule::new("!has(self.target) || self.target.statefulSetRef.name != self.source.statefulSetRef.name || has(self.source.statefulSetRef.namespace)")
        .message("source and target are the same StatefulSet"),
    validation = Rule::new("has(self.target) || !has(self.environment) || self.environment.secrets.size() == 0")
        .message("`environment.secrets` is only for `target`: the application of a target is told the source's password; with `replicas` the application knows it already"),
    validation = Rule::new("has(self.target) || !has(self.source.environment) && !has(self.source.application)")
        .message("`source.environment` and `source.application` are only for `target`; with `replicas` there is one application, and its ConfigMaps belong into `environment.configMaps`"),
    validation = Rule::new("self.engine in ['MySQL', 'PostgreSQL'] || !has(self.source.application) && (!has(self.environment) || self.environment.secrets.size() == 0)")
        .message("`environment.secrets` and `source.application` are for MySQL and PostgreSQL: applications of other engines have no variables for database, user name and password")
)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseReplicationSpec {
    /// The database engine of the source. Cannot be changed.
    #[x_kube(validation = Rule::new("self == oldSelf").message("engine cannot be changed: delete this resource and create another"))]
    pub engine: EngineKind,

    /// The database that already runs: the one that keeps taking writes.
    pub source: Source,

    /// How many read-only replicas to keep, made one after the other. Exactly one of `replicas` and `target` is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 9))]
    pub replicas: Option<u32>,

    /// An existing StatefulSet in this namespace that becomes the replica, with a copy of the source's data in place of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,

    /// Where the full backup goes that is taken before anything else. It seeds the replicas and is kept.
    pub backup: Backup,

    /// ConfigMaps and Secrets that receive the variables, for example `POSTGRESQL_SLAVE_ADDRESSES_INT`: with `replicas` those of the one application, with `target` those of the target's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<Environment>,

    /// false: back to a stand-alone database; the replicas go, the source is as it was before, and this resource stays. Default: true.
    #[serde(default = "yes")]
    pub enabled: bool,

    /// true: the operator keeps its hands off: what runs goes on running, and nothing is created, changed or removed. Default: false.
    #[serde(default)]
    pub suspend: bool,

    /// true: check everything and say in the status what would be done, and change nothing. Default: false.
    #[serde(default)]
    pub dry_run: bool,

    /// How the replicas differ from the source's pod, whose template they otherwise follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica_template: Option<ReplicaTemplate>,

    /// What becomes of the volumes of replicas and backup when a replica is removed: `Retain` keeps them; `Delete` deletes them, but for the one that keeps what a target held before (`status.kept`). Default: Retain.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

fn yes() -> bool {
    true
}

/// A database engine.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineKind {
    /// PostgreSQL 13 and later; streaming replication with a physical slot for each replica.
    PostgreSQL,
    /// MySQL 8.0.17 and later; replication by GTIDs, which are switched on without a restart where they are off. The binary log must be on, and tables InnoDB.
    MySQL,
    /// Redis 7 and 8; replicas follow with `replicaof`, as an ACL user of their own.
    Redis,
    /// MongoDB 6 and later; the stand-alone server becomes a replica set, for which it restarts once, and once more when the replicas go.
    MongoDB,
}

/// The source: a StatefulSet of one pod, in the namespace of the resource, or with `target` in another one whose owner agrees.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// The StatefulSet that runs the database. Cannot be changed.
    #[x_kube(validation = Rule::new("self == oldSelf").message("source.statefulSetRef cannot be changed: delete this resource and create another"))]
    pub stateful_set_ref: SourceRef,

    /// The administrator of the database: for PostgreSQL a superuser, for MySQL root or a user with the same privileges, for Redis a user that may run every command, for MongoDB a user with the role root.
    pub credentials: Credentials,

    /// The container that runs the database, where it cannot be told from its port. Default: the one that names `port`, or the only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,

    /// The port that the database listens on. Default: the engine's own (PostgreSQL: 5432, MySQL: 3306, Redis: 6379, MongoDB: 27017).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,

    /// The database that the operator connects to. Default: the engine's maintenance database (PostgreSQL: postgres, MySQL: mysql, MongoDB: admin, where its user is kept); of no meaning for Redis.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,

    /// Whether the source may be restarted where its engine can't do without: for MongoDB once when it gets its first replicas, and once when the last are gone. `Never`: then nothing is done. Default: Allow.
    #[serde(default)]
    pub restart: Restart,

    /// What the source's own application logs in with: its database, user name and password are given to the target's application, which reads the same data. Only with `target`, and for MySQL and PostgreSQL. Default: `database` and `credentials` of the source, which are the administrator's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub application: Option<Application>,

    /// Which objects of the source's own application receive its variables: the addresses of the source and of everything that follows it. Only with `target`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<SourceEnvironment>,
}

/// What the source's own application logs in with.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Application {
    /// Its database. Default: `source.database`, or the engine's maintenance database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub database: Option<String>,

    /// Its user, from a Secret in the namespace of the source. Where that is another one, the Secret has to allow the namespace of the resource, as the administrator's has to.
    pub credentials: Credentials,
}

/// Which objects of the source's own application receive variables.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct SourceEnvironment {
    /// ConfigMaps in the namespace of the source; they must exist, and where that is another namespace, allow that of the resource: annotation `understudy.dev/allowed-namespaces`. Only our own keys in them are touched.
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub config_maps: Vec<EnvironmentObject>,
}

/// Whether the source may be restarted.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Restart {
    /// Where its engine can't do without; it is said beforehand and measured.
    #[default]
    Allow,
    /// Under no circumstances.
    Never,
}

/// The StatefulSet that runs the source.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct SourceRef {
    /// Name of the StatefulSet.
    #[schemars(length(min = 1, max = 253), regex(pattern = SUBDOMAIN))]
    pub name: String,

    /// Its namespace, and that of the Secret in `credentials`, which has to allow this one: annotation `understudy.dev/allowed-namespaces`. Only with `target`. Default: the namespace of the resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = LABEL))]
    pub namespace: Option<String>,
}

/// What names of objects look like ("Object Names and IDs", DNS subdomain names). Anything else could lead a request elsewhere than to the object.
const SUBDOMAIN: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// What names of namespaces look like (RFC 1123 label names).
const LABEL: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";

/// The name of an object in the namespace of the resource, or of the source where that is another one.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct ObjectName {
    /// Name of the object.
    #[schemars(length(min = 1, max = 253), regex(pattern = SUBDOMAIN))]
    pub name: String,
}

/// Where user name and password stand.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[x_kube(
    validation = Rule::new("!(has(self.username) && has(self.usernameKey))")
        .message("set at most one of `username` (the name itself) and `usernameKey` (the Secret's key that holds it)")
)]
#[serde(rename_all = "camelCase")]
pub struct Credentials {
    /// The Secret that holds the password, in the namespace of the database.
    pub secret_ref: ObjectName,

    /// The Secret's key that holds the user name. Default: `username`, or the engine's usual administrator (PostgreSQL: postgres, MySQL: root, Redis: default) if the Secret has no such key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username_key: Option<String>,

    /// The user name itself, for Secrets that hold a password only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,

    /// The Secret's key that holds the password; empty for a Redis without one. Default: `password`.
    #[serde(default = "password_key")]
    pub password_key: String,
}

fn password_key() -> String {
    "password".to_owned()
}

/// An existing StatefulSet that becomes the replica.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// The StatefulSet that runs the target's database, in the namespace of the resource. Cannot be changed.
    #[x_kube(validation = Rule::new("self == oldSelf").message("target.statefulSetRef cannot be changed: delete this resource and create another"))]
    pub stateful_set_ref: ObjectName,

    /// The administrator of the database that the target is now; once it is a replica, it has the source's, but for Redis, whose users are not a part of the data.
    pub credentials: Credentials,

    /// The container that runs the database. Default: as for the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,

    /// The port that the database listens on. Default: the engine's own (PostgreSQL: 5432, MySQL: 3306, Redis: 6379).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,

    /// The database that the operator connects to. Default: the engine's maintenance database (PostgreSQL: postgres, MySQL: mysql); of no meaning for Redis.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,

    /// What becomes of data that the target holds. `Refuse`: with data of its own nothing is touched. `BackUpAndReplace`: it is backed up, and then replaced. Default: Refuse.
    #[serde(default)]
    pub existing_data: ExistingData,
}

/// What becomes of data that the target holds.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ExistingData {
    /// Where there is any, nothing is touched.
    #[default]
    Refuse,
    /// It is backed up, verified and kept, and then replaced.
    BackUpAndReplace,
}

/// The full backup.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Backup {
    /// The volume that the backup is written to.
    pub volume: Storage,
}

/// A volume to be claimed.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Storage {
    /// Size of the volume, for example `20Gi`: at least twice the size of the data. With `target` the volume of the backup has to hold the target's own data besides.
    pub size: Quantity,

    /// StorageClass of the volume. Default: the cluster's default class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_class_name: Option<String>,
}

/// Which objects receive the variables.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct Environment {
    /// ConfigMaps that receive the variables; they must exist. Only our own keys in them are touched.
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub config_maps: Vec<EnvironmentObject>,

    /// Secrets that receive the password of the source's application, for example `POSTGRESQL_PASSWORD`; they must exist. Only our own keys in them are touched. Only with `target`, and for MySQL and PostgreSQL.
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub secrets: Vec<EnvironmentObject>,
}

/// One object that receives the variables.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct EnvironmentObject {
    /// Name of the object, in the namespace of the resource; below `source`, in that of the source.
    #[schemars(length(min = 1, max = 253), regex(pattern = SUBDOMAIN))]
    pub name: String,

    /// What the variables begin with. Default: the engine's name in capitals (`POSTGRESQL`, `MYSQL`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), regex(pattern = "^[A-Za-z_][A-Za-z0-9_]*$"))]
    pub prefix: Option<String>,
}

/// How replicas differ from the source's pod.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaTemplate {
    /// The replica's volume. Default: size and class of the source's volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<Storage>,

    /// Resources of the database container. Default: those of the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,

    /// Nodes that the replicas may run on. Default: those of the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<BTreeMap<String, String>>,

    /// Affinity of the replicas. Default: away from the source and from each other, where there is room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,

    /// Taints that the replicas tolerate. Default: those of the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerations: Option<Vec<Toleration>>,
}

/// What becomes of volumes.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum DeletionPolicy {
    /// Volumes are kept: they get the label `understudy.dev/retained` and belong to the user from then on.
    #[default]
    Retain,
    /// Volumes are deleted, but for the one that keeps what a target held before.
    Delete,
}
