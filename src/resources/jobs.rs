//! The Jobs that take a backup and restore it, as the user that the server runs as. The backup runs in the database's own image, so that the tools fit the
//! server, with a copy of our own static binary that an init container brings along; the restore only copies files, and runs in our own image.

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, Container, EmptyDirVolumeSource, KeyToPath, PersistentVolumeClaimVolumeSource, PodAffinity, PodAffinityTerm, PodAntiAffinity,
    PodSecurityContext, PodSpec, PodTemplateSpec, ResourceRequirements, SeccompProfile, Secret, SecretVolumeSource, SecurityContext, Volume, VolumeMount,
    WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use std::collections::BTreeMap;

use super::target::writable;
use super::{BACKUP, CREDENTIALS, Names, PROGRAM, TOOLS, Workload, meta};

/// What both Jobs need to know.
#[derive(Debug, Clone, Copy)]
pub struct JobRequest<'a> {
    /// What every pod of ours is made from.
    pub workload: Workload<'a>,
    /// Where pods of the resource's namespace reach the source.
    pub primary: &'a str,
    /// The source's port.
    pub port: u16,
    /// The `sequence`th backup.
    pub sequence: u32,
    /// A restore runs the database's own programs.
    pub restore_needs_database: bool,
    /// The backup is still being taken: a restore waits for it on the same node, where a volume can be mounted by both.
    pub backup_runs: bool,
    /// The target's pod, on whose node all Jobs run: its volume, and with it that of the backup, can be mounted on one node at a time.
    pub beside: Option<&'a str>,
}

/// A container that may do nothing but compute and write to its volumes.
pub(super) fn restricted(user: (u32, u32)) -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), ..Capabilities::default() }),
        run_as_non_root: Some(user.0 != 0),
        run_as_user: Some(i64::from(user.0)),
        run_as_group: Some(i64::from(user.1)),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
        ..SecurityContext::default()
    }
}

/// What our own small containers ask for.
pub(super) fn small() -> ResourceRequirements {
    let amounts = |cpu: &str, memory: &str| BTreeMap::from([("cpu".to_owned(), Quantity(cpu.to_owned())), ("memory".to_owned(), Quantity(memory.to_owned()))]);
    ResourceRequirements { requests: Some(amounts("10m", "16Mi")), ..ResourceRequirements::default() }
}

/// The init container that copies the agent into the pod.
fn install(image: &str, user: (u32, u32)) -> Container {
    Container {
        name: "understudy-install".to_owned(),
        image: Some(image.to_owned()),
        command: Some(words(&[PROGRAM, "agent", "install", TOOLS])),
        volume_mounts: Some(vec![mount("understudy-tools", TOOLS)]),
        security_context: Some(SecurityContext { read_only_root_filesystem: Some(true), ..restricted(user) }),
        resources: Some(small()),
        ..Container::default()
    }
}

/// A plain mount.
fn mount(name: &str, path: &str) -> VolumeMount {
    VolumeMount { name: name.to_owned(), mount_path: path.to_owned(), ..VolumeMount::default() }
}

/// The volume that holds the agent.
fn tools_volume() -> Volume {
    Volume { name: "understudy-tools".to_owned(), empty_dir: Some(EmptyDirVolumeSource::default()), ..Volume::default() }
}

/// A volume by its claim.
pub(super) fn claim_volume(name: &str, claim: String) -> Volume {
    Volume {
        name: name.to_owned(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource { claim_name: claim, read_only: None }),
        ..Volume::default()
    }
}

/// The label by which Kubernetes tells a StatefulSet's pod.
fn pod(name: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("statefulset.kubernetes.io/pod-name".to_owned(), name.to_owned())])
}

/// Away from the source's pod and from replicas, where there is room.
pub(super) fn apart(names: &Names, source: &str) -> Affinity {
    let away = |labels: BTreeMap<String, String>| WeightedPodAffinityTerm {
        weight: 100,
        pod_affinity_term: PodAffinityTerm {
            label_selector: Some(LabelSelector { match_labels: Some(labels), ..LabelSelector::default() }),
            topology_key: "kubernetes.io/hostname".to_owned(),
            ..PodAffinityTerm::default()
        },
    };
    Affinity {
        pod_anti_affinity: Some(PodAntiAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(vec![away(pod(&format!("{source}-0"))), away(names.selector("replica"))]),
            ..PodAntiAffinity::default()
        }),
        ..Affinity::default()
    }
}

/// On the node where a pod with these labels runs: a volume can be mounted on one node at a time.
fn beside(labels: BTreeMap<String, String>) -> Affinity {
    Affinity {
        pod_affinity: Some(PodAffinity {
            required_during_scheduling_ignored_during_execution: Some(vec![PodAffinityTerm {
                label_selector: Some(LabelSelector { match_labels: Some(labels), ..LabelSelector::default() }),
                topology_key: "kubernetes.io/hostname".to_owned(),
                ..PodAffinityTerm::default()
            }]),
            ..PodAffinity::default()
        }),
        ..Affinity::default()
    }
}

struct Work {
    name: String,
    component: &'static str,
    number: Option<u32>,
    arguments: Vec<String>,
    /// It runs the database's own image, into which our program is copied.
    database_tools: bool,
    mounts: Vec<VolumeMount>,
    volumes: Vec<Volume>,
    affinity: Option<Affinity>,
    /// It mounts a volume of the user's: nothing of that volume changes hands for it.
    theirs: bool,
    /// It is removed so many seconds after it has ended.
    kept_for: Option<i32>,
}

fn build(request: &JobRequest<'_>, work: Work) -> Job {
    let Workload { names, owner, shape, image, user, source, .. } = request.workload;
    let template = shape.template.spec.clone().unwrap_or_default();
    let (mut mounts, mut volumes) = (work.mounts, work.volumes);
    let mut container = Container {
        name: work.component.to_owned(),
        image: Some(image.to_owned()),
        command: Some([words(&[PROGRAM, "agent"]), work.arguments.clone()].concat()),
        security_context: Some(SecurityContext { read_only_root_filesystem: Some(!work.database_tools), ..restricted(user) }),
        resources: Some(small()),
        ..Container::default()
    };
    if work.database_tools {
        mounts.push(mount("understudy-tools", TOOLS));
        volumes.push(tools_volume());
        container.image.clone_from(&shape.container.image);
        container.image_pull_policy.clone_from(&shape.container.image_pull_policy);
        container.command = Some([words(&[&format!("{TOOLS}/understudy"), "agent"]), work.arguments].concat());
    }
    container.volume_mounts = Some(mounts);
    let pod_security = template.security_context.unwrap_or_default();
    let affinity = work.affinity.or_else(|| request.beside.map(|name| beside(pod(name))));
    let labels = names.labels(work.component, work.number);
    Job {
        metadata: meta(work.name, names, labels.clone(), Some(owner)),
        spec: Some(JobSpec {
            // Tried again by the controller, which first says why it failed.
            backoff_limit: Some(0),
            ttl_seconds_after_finished: work.kept_for,
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta { labels: Some(labels), ..ObjectMeta::default() }),
                spec: Some(PodSpec {
                    init_containers: work.database_tools.then(|| vec![install(image, user)]),
                    containers: vec![container],
                    volumes: Some(volumes),
                    restart_policy: Some("Never".to_owned()),
                    automount_service_account_token: Some(false),
                    enable_service_links: Some(false),
                    image_pull_secrets: template.image_pull_secrets,
                    node_selector: template.node_selector,
                    tolerations: template.tolerations,
                    affinity: Some(affinity.unwrap_or_else(|| apart(names, source))),
                    security_context: Some(PodSecurityContext {
                        // Without a group of its own a volume keeps its owners: a server may refuse files that a group may write to.
                        fs_group: pod_security.fs_group.or((!work.theirs).then_some(i64::from(user.1))),
                        fs_group_change_policy: if work.theirs { pod_security.fs_group_change_policy } else { Some("OnRootMismatch".to_owned()) },
                        supplemental_groups: pod_security.supplemental_groups,
                        ..PodSecurityContext::default()
                    }),
                    ..PodSpec::default()
                }),
            },
            ..JobSpec::default()
        }),
        ..Job::default()
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// The login of the backup's Job.
#[derive(Debug, Clone, Copy)]
pub struct Login<'a> {
    /// The Secret in the Job's namespace.
    pub secret: &'a str,
    /// Its key with the password.
    pub password_key: &'a str,
    /// The user name.
    pub username: &'a str,
    /// The Secret's key that has it, if one has.
    pub username_key: Option<&'a str>,
    /// The database.
    pub database: &'a str,
}

/// The Job that takes a full backup of the source onto the backup volume.
#[must_use]
pub fn build_backup_job(request: &JobRequest<'_>, login: Login<'_>) -> Job {
    let Workload { names, engine, .. } = request.workload;
    let Login { secret, password_key, username, username_key, database } = login;
    let mut items = vec![KeyToPath { key: password_key.to_owned(), path: "password".to_owned(), mode: None }];
    items.extend(username_key.map(|key| KeyToPath { key: key.to_owned(), path: "username".to_owned(), mode: None }));
    let credentials = Volume {
        name: "understudy-credentials".to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret.to_owned()),
            items: Some(items),
            default_mode: Some(0o440),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    };
    let mut arguments = words(&["backup", "--engine", engine, "--host", request.primary, "--port", &request.port.to_string()]);
    arguments.extend(words(&["--database", database, "--credentials", CREDENTIALS]));
    if username_key.is_none() {
        arguments.extend(words(&["--username", username]));
    }
    arguments.extend(words(&["--identity", names.identity.word(), "--volume", BACKUP, "--directory", &names.backup_directory(request.sequence)]));
    let work = Work {
        name: names.backup_job(request.sequence),
        component: "backup",
        number: None,
        arguments,
        database_tools: true,
        mounts: vec![mount("understudy-backup", BACKUP), VolumeMount { read_only: Some(true), ..mount("understudy-credentials", CREDENTIALS) }],
        volumes: vec![claim_volume("understudy-backup", names.backup_claim()), credentials],
        affinity: None,
        theirs: false,
        kept_for: None,
    };
    build(request, work)
}

/// The arguments of a restore as replica `number`, `name` in the source's words, into a directory.
fn restore(request: &JobRequest<'_>, number: u32, name: &str, directory: &str) -> Vec<String> {
    let Workload { names, engine, .. } = request.workload;
    let mut arguments = words(&["restore", "--engine", engine, "--volume", BACKUP, "--directory", &names.backup_directory(request.sequence)]);
    arguments.extend(words(&["--data-directory", directory, "--identity", names.identity.word()]));
    arguments.extend(words(&["--replica", &number.to_string(), "--name", name]));
    arguments.extend(words(&["--primary-host", request.primary, "--primary-port", &request.port.to_string()]));
    arguments
}

/// The Job that restores the backup into the volume of replica `number`, by its claim.
#[must_use]
pub fn build_restore_job(request: &JobRequest<'_>, number: u32, claim: &str) -> Job {
    let Workload { names, shape, .. } = request.workload;
    let arguments = restore(request, number, &names.replica(number), &shape.data_directory);
    let work = Work {
        name: names.restore_job(number),
        component: "restore",
        number: Some(number),
        arguments,
        database_tools: request.restore_needs_database,
        mounts: vec![VolumeMount { read_only: Some(true), ..mount("understudy-backup", BACKUP) }, shape.mount.clone()],
        volumes: vec![claim_volume("understudy-backup", names.backup_claim()), claim_volume(&shape.mount.name, claim.to_owned())],
        affinity: request.backup_runs.then(|| beside(names.selector("backup"))),
        theirs: false,
        kept_for: None,
    };
    build(request, work)
}

/// A Job on the target's own volume, beside its server.
fn on_target(request: &JobRequest<'_>, name: String, component: &'static str, arguments: Vec<String>) -> Work {
    let shape = request.workload.shape;
    Work {
        name,
        component,
        number: None,
        arguments,
        database_tools: false,
        mounts: vec![writable(&shape.mount)],
        volumes: vec![claim_volume(&shape.mount.name, shape.claim.clone().unwrap_or_default())],
        affinity: None,
        theirs: true,
        kept_for: None,
    }
}

/// The Job that measures how much room there is on the target's volume. It goes by itself after `kept_for` seconds: until then its answer counts.
#[must_use]
pub fn build_measure_job(request: &JobRequest<'_>, kept_for: i32) -> Job {
    let Workload { names, shape, .. } = request.workload;
    let arguments = words(&["measure", "--mount", &shape.mount.mount_path, "--data-directory", &shape.data_directory]);
    let work = on_target(request, names.measure_job(), "measure", arguments);
    build(request, Work { kept_for: Some(kept_for), ..work })
}

/// The Job that restores the backup beside the target's data, on the same volume, as replica `number` of that `name`.
#[must_use]
pub fn build_staging_job(request: &JobRequest<'_>, number: u32, name: &str) -> Job {
    let Workload { names, shape, .. } = request.workload;
    let staged = format!("{}/.understudy-{}/staged", shape.mount.mount_path.trim_end_matches('/'), names.identity.word());
    let mut arguments = restore(request, number, name, &staged);
    arguments.extend(words(&["--final-directory", &shape.data_directory]));
    let mut work = on_target(request, names.restore_job(number), "restore", arguments);
    work.number = Some(number);
    work.database_tools = request.restore_needs_database;
    work.mounts.push(VolumeMount { read_only: Some(true), ..mount("understudy-backup", BACKUP) });
    work.volumes.push(claim_volume("understudy-backup", names.backup_claim()));
    build(request, work)
}

/// The Job that backs up what the target, of this version, held before, onto the backup volume; on request only where it finds records in it.
#[must_use]
pub fn build_keep_job(request: &JobRequest<'_>, version: &str, unless_empty: bool) -> Job {
    let Workload { names, shape, engine, .. } = request.workload;
    let mut arguments = words(&["keep", "--engine", engine, "--mount", &shape.mount.mount_path, "--data-directory", &shape.data_directory]);
    arguments.extend(words(&["--identity", names.identity.word(), "--volume", BACKUP, "--directory", &names.kept_directory(), "--server-version", version]));
    if unless_empty {
        arguments.push("--unless-empty".to_owned());
    }
    let mut work = on_target(request, names.keep_job(), "keep", arguments);
    work.mounts.push(mount("understudy-backup", BACKUP));
    work.volumes.push(claim_volume("understudy-backup", names.backup_claim()));
    build(request, work)
}

/// The Job that deletes what the exchange has left on the target's volume.
#[must_use]
pub fn build_discard_job(request: &JobRequest<'_>) -> Job {
    let Workload { names, shape, .. } = request.workload;
    let arguments = words(&["discard", "--mount", &shape.mount.mount_path, "--identity", names.identity.word()]);
    build(request, on_target(request, names.discard_job(), "discard", arguments))
}

/// The Job that has a target's data be its own, before its server is promoted.
#[must_use]
pub fn build_release_job(request: &JobRequest<'_>) -> Job {
    let Workload { names, shape, engine, .. } = request.workload;
    let arguments = words(&["release", "--engine", engine, "--data-directory", &shape.data_directory, "--identity", names.identity.word()]);
    build(request, on_target(request, names.release_job(), "release", arguments))
}

/// The Job that deletes the last of what is ours on the volume of a target that was given back.
#[must_use]
pub fn build_clear_job(request: &JobRequest<'_>) -> Job {
    let Workload { names, shape, engine, .. } = request.workload;
    let mut arguments = words(&["discard", "--mount", &shape.mount.mount_path, "--identity", names.identity.word()]);
    arguments.extend(words(&["--engine", engine, "--data-directory", &shape.data_directory]));
    build(request, on_target(request, names.clear_job(), "clear", arguments))
}

/// The administrator's password of a source in another namespace, for the backup's Job, under this key: there only until the backup is taken.
#[must_use]
pub fn build_credentials(names: &Names, owner: &OwnerReference, key: &str, password: &str) -> Secret {
    Secret {
        metadata: meta(names.credentials(), names, names.labels("credentials", None), Some(owner)),
        string_data: Some(BTreeMap::from([(key.to_owned(), password.to_owned())])),
        ..Secret::default()
    }
}
