//! The StatefulSet of one replica: the source's pod template, with a volume of its own and a guard before it.

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{Container, EmptyDirVolumeSource, SecurityContext, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use super::jobs::{apart, claim_volume, restricted, small};
use super::names::labels;
use super::{PROGRAM, Workload, meta};
use crate::api::ReplicaTemplate;

/// Set by a rolling restart of the user's on the source; no reason to restart replicas.
const RESTARTED_AT: &str = "kubectl.kubernetes.io/restartedAt";

/// What a replica is made from.
#[derive(Debug, Clone, Copy)]
pub struct ReplicaRequest<'a> {
    /// What every pod of ours is made from.
    pub workload: Workload<'a>,
    /// `spec.replicaTemplate`.
    pub template: Option<&'a ReplicaTemplate>,
}

/// The init container, of our own image, that lets the server start only on a finished restore: an image's entrypoint would take an empty volume for a new database.
fn guard(request: &ReplicaRequest<'_>) -> Container {
    let Workload { shape, engine, image, user, .. } = request.workload;
    let words = [PROGRAM, "agent", "guard", "--engine", engine, "--data-directory", &shape.data_directory];
    Container {
        name: "understudy-guard".to_owned(),
        image: Some(image.to_owned()),
        command: Some(words.iter().map(|word| (*word).to_owned()).collect()),
        volume_mounts: Some(vec![shape.mount.clone()]),
        security_context: Some(SecurityContext { read_only_root_filesystem: Some(true), ..restricted(user) }),
        resources: Some(small()),
        ..Container::default()
    }
}

/// The source's volumes, with the data volume replaced by the replica's own, and other claims by empty directories: a claim has one pod.
fn volumes(request: &ReplicaRequest<'_>, claim: &str, theirs: Vec<Volume>) -> Vec<Volume> {
    let data = &request.workload.shape.mount.name;
    let mut all: Vec<Volume> = theirs
        .into_iter()
        .filter(|volume| volume.name != *data)
        .map(|volume| match volume.persistent_volume_claim {
            Some(_) => Volume { name: volume.name, empty_dir: Some(EmptyDirVolumeSource::default()), ..Volume::default() },
            None => volume,
        })
        .collect();
    // Claim templates of the source other than the data have no volume in the template.
    let init = request.workload.shape.template.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    for mounted in init.chain([&request.workload.shape.container]).flat_map(|container| container.volume_mounts.iter().flatten()) {
        if mounted.name != *data && !all.iter().any(|volume| volume.name == mounted.name) {
            all.push(Volume { name: mounted.name.clone(), empty_dir: Some(EmptyDirVolumeSource::default()), ..Volume::default() });
        }
    }
    all.push(claim_volume(data, claim.to_owned()));
    all
}

/// The StatefulSet of replica `number`, on the volume of its claim.
///
/// Kept from the source: image, command, configuration, environment, probes, security context, init containers, scheduling. Left out: labels, so that no
/// selector of the user's matches; sidecars, since they may act on what they believe to be the source; host ports.
#[must_use]
pub fn build_replica(request: &ReplicaRequest<'_>, number: u32, claim: &str) -> StatefulSet {
    let ReplicaRequest { workload: Workload { names, owner, shape, source, .. }, template } = *request;
    let labels = names.labels("replica", Some(number));
    let mut selector = names.selector("replica");
    selector.insert(labels::REPLICA.to_owned(), number.to_string());
    let defaults = ReplicaTemplate::default();
    let own = template.unwrap_or(&defaults);

    let mut pod = shape.template.spec.clone().unwrap_or_default();
    let mut container = shape.container.clone();
    for port in container.ports.iter_mut().flatten() {
        port.host_port = None;
    }
    if own.resources.is_some() {
        container.resources.clone_from(&own.resources);
    }
    pod.containers = vec![container];
    let mut init = vec![guard(request)];
    init.extend(pod.init_containers.take().unwrap_or_default());
    pod.init_containers = Some(init);
    pod.volumes = Some(volumes(request, claim, pod.volumes.take().unwrap_or_default()));
    pod.affinity = Some(own.affinity.clone().unwrap_or_else(|| apart(names, source)));
    pod.topology_spread_constraints = None;
    pod.hostname = None;
    pod.subdomain = None;
    pod.node_name = None;
    if own.node_selector.is_some() {
        pod.node_selector.clone_from(&own.node_selector);
    }
    if own.tolerations.is_some() {
        pod.tolerations.clone_from(&own.tolerations);
    }
    let annotations = shape.template.metadata.as_ref().and_then(|meta| meta.annotations.clone()).map(|mut annotations| {
        annotations.remove(RESTARTED_AT);
        annotations
    });

    StatefulSet {
        metadata: meta(names.replica(number), names, labels.clone(), Some(owner)),
        spec: Some(StatefulSetSpec {
            replicas: Some(1),
            service_name: Some(names.replica(number)),
            // Its one pod follows a mended template also where it never became ready: in order, Kubernetes would wait for it (manual, "Forced rollback").
            pod_management_policy: Some("Parallel".to_owned()),
            selector: LabelSelector { match_labels: Some(selector), ..LabelSelector::default() },
            template: k8s_openapi::api::core::v1::PodTemplateSpec {
                metadata: Some(ObjectMeta { labels: Some(labels), annotations, ..ObjectMeta::default() }),
                spec: Some(pod),
            },
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    }
}
