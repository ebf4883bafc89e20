//! The Jobs that take a backup and restore it, as the user that the server runs as. The backup runs in the database's own image, so that the tools fit the
//! server, with a copy of our own static binary that an init container brings along; the restore only copies files, and runs in our own image.

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, Container, EmptyDirVolumeSource, KeyToPath, PersistentVolumeClaimVolumeSource, PodAffinity, PodAffinityTerm, PodAntiAffinity,
    PodSecurityContext, PodSpec, PodTemplateSpec, ResourceRequirements, SeccompProfile, SecretVolumeSource, SecurityContext, Volume, VolumeMount,
    WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use std::collections::BTreeMap;

use super::{BACKUP, CREDENTIALS, Names, PROGRAM, TOOLS, Workload, meta};
use crate::api::Credentials;

/// What both Jobs need to know.
#[derive(Debug, Clone, Copy)]
pub struct JobRequest<'a> {
    /// What every pod of ours is made from.
    pub workload: Workload<'a>,
    /// The source's port.
    pub port: u16,
    /// The `sequence`th backup.
    pub sequence: u32,
    /// A restore runs the database's own programs.
    pub restore_needs_database: bool,
    /// The backup is still being taken: a restore waits for it on the same node, where a volume can be mounted by both.
    pub backup_runs: bool,
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
            preferred_during_scheduling_ignored_during_execution: Some(vec![
                away(BTreeMap::from([("statefulset.kubernetes.io/pod-name".to_owned(), format!("{source}-0"))])),
                away(names.selector("replica")),
            ]),
            ..PodAntiAffinity::default()
        }),
        ..Affinity::default()
    }
}

/// On the node where the backup is being taken: its volume can be mounted on one node at a time.
fn beside_backup(names: &Names) -> Affinity {
    Affinity {
        pod_affinity: Some(PodAffinity {
            required_during_scheduling_ignored_during_execution: Some(vec![PodAffinityTerm {
                label_selector: Some(LabelSelector { match_labels: Some(names.selector("backup")), ..LabelSelector::default() }),
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
    let labels = names.labels(work.component, work.number);
    Job {
        metadata: meta(work.name, names, labels.clone(), Some(owner)),
        spec: Some(JobSpec {
            // Tried again by the controller, which first says why it failed.
            backoff_limit: Some(0),
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
                    affinity: Some(work.affinity.unwrap_or_else(|| apart(names, source))),
                    security_context: Some(PodSecurityContext {
                        fs_group: Some(template.security_context.as_ref().and_then(|c| c.fs_group).unwrap_or(i64::from(user.1))),
                        fs_group_change_policy: Some("OnRootMismatch".to_owned()),
                        supplemental_groups: template.security_context.as_ref().and_then(|c| c.supplemental_groups.clone()),
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

/// The Job that takes a full backup of the source onto the backup volume.
#[must_use]
pub fn build_backup_job(request: &JobRequest<'_>, credentials: &Credentials, username: &str, database: &str, username_key: Option<&str>) -> Job {
    let Workload { names, engine, .. } = request.workload;
    let mut items = vec![KeyToPath { key: credentials.password_key.clone(), path: "password".to_owned(), mode: None }];
    items.extend(username_key.map(|key| KeyToPath { key: key.to_owned(), path: "username".to_owned(), mode: None }));
    let secret = Volume {
        name: "understudy-credentials".to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(credentials.secret_ref.name.clone()),
            items: Some(items),
            default_mode: Some(0o440),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    };
    let mut arguments = words(&["backup", "--engine", engine, "--host", &names.host(&names.primary()), "--port", &request.port.to_string()]);
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
        volumes: vec![claim_volume("understudy-backup", names.backup_claim()), secret],
        affinity: None,
    };
    build(request, work)
}

/// The Job that restores the backup into the volume of replica `number`, by its claim.
#[must_use]
pub fn build_restore_job(request: &JobRequest<'_>, number: u32, claim: &str) -> Job {
    let Workload { names, engine, shape, .. } = request.workload;
    let mut arguments = words(&["restore", "--engine", engine, "--volume", BACKUP, "--directory", &names.backup_directory(request.sequence)]);
    arguments.extend(words(&["--data-directory", &shape.data_directory, "--identity", names.identity.word()]));
    arguments.extend(words(&["--replica", &number.to_string(), "--name", &names.replica(number)]));
    arguments.extend(words(&["--primary-host", &names.host(&names.primary()), "--primary-port", &request.port.to_string()]));
    let work = Work {
        name: names.restore_job(number),
        component: "restore",
        number: Some(number),
        arguments,
        database_tools: request.restore_needs_database,
        mounts: vec![VolumeMount { read_only: Some(true), ..mount("understudy-backup", BACKUP) }, shape.mount.clone()],
        volumes: vec![claim_volume("understudy-backup", names.backup_claim()), claim_volume(&shape.mount.name, claim.to_owned())],
        affinity: request.backup_runs.then(|| beside_backup(names)),
    };
    build(request, work)
}
