//! What the source's StatefulSet looks like: which container is the database, and where its data lies.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Container, PodTemplateSpec, VolumeMount};

use crate::engine::Finding;

/// The parts of the source's StatefulSet that matter.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    /// The source's pod template.
    pub template: PodTemplateSpec,
    /// The container that runs the database.
    pub container: Container,
    /// The mount under which the data directory lies.
    pub mount: VolumeMount,
    /// The claim behind that mount; none where it is an `emptyDir` or the like.
    pub claim: Option<String>,
    /// The directory that holds the data, as the server knows it.
    pub data_directory: String,
}

/// The user and group that the official images make for their server, and change to where they are started as root.
const IMAGE_USER: (u32, u32) = (999, 999);

/// The `terminationGracePeriodSeconds` of a pod that names none.
const GRACE_PERIOD: u64 = 30;

impl Shape {
    /// User and group of the server process as the template has them, for servers that do not say: the container's `runAsUser`, or the pod's, with its
    /// group; without one, or as root, the image's entrypoint chooses.
    #[must_use]
    pub fn server_user(&self) -> (u32, u32) {
        let own = self.container.security_context.as_ref();
        let pod = self.template.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
        let number = |number: i64| u32::try_from(number).ok().filter(|number| *number != 0);
        let user = own.and_then(|own| own.run_as_user).or_else(|| pod.and_then(|pod| pod.run_as_user)).and_then(number);
        let Some(user) = user else { return IMAGE_USER };
        let group = own.and_then(|own| own.run_as_group).or_else(|| pod.and_then(|pod| pod.run_as_group)).or_else(|| pod.and_then(|pod| pod.fs_group));
        (user, group.map_or(user, |group| u32::try_from(group).unwrap_or(user)))
    }

    /// How long the pod has from being told to stop until it is killed, in seconds. The API server takes a negative number for 1.
    #[must_use]
    pub fn grace_period(&self) -> u64 {
        let own = self.template.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
        own.map_or(GRACE_PERIOD, |seconds| u64::try_from(seconds).unwrap_or(1))
    }
}

/// Tells which container of a template is the database: the one named, the one that declares the port, or the only one.
fn database_container<'a>(template: &'a PodTemplateSpec, named: Option<&str>, port: u16) -> Result<&'a Container, Finding> {
    let containers = template.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let all = || containers.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(", ");
    if let Some(named) = named {
        return containers
            .iter()
            .find(|c| c.name == named)
            .ok_or_else(|| Finding::new("ContainerNotFound", format!("the source has no container {named}; it has: {}", all()), "correct source.container"));
    }
    let declares = |c: &&Container| c.ports.iter().flatten().any(|p| p.container_port == i32::from(port));
    match (containers.iter().find(declares), containers) {
        (Some(container), _) | (None, [container]) => Ok(container),
        _ => Err(Finding::new(
            "ContainerAmbiguous",
            format!("no container of the source declares port {port}, and there are several: {}", all()),
            "name the one that runs the database in source.container",
        )),
    }
}

/// Whether `path` is `below` or lies under it.
#[must_use]
pub fn lies_under(path: &str, below: &str) -> bool {
    let below = below.trim_end_matches('/');
    path == below || path.strip_prefix(below).is_some_and(|rest| rest.starts_with('/'))
}

/// Finds the database in its StatefulSet, from what the server itself says of its data directory.
///
/// # Errors
/// A finding that names what about the shape can't be handled.
pub fn inspect(stateful_set: &StatefulSet, container: Option<&str>, port: u16, data_directory: &str) -> Result<Shape, Finding> {
    let name = stateful_set.metadata.name.as_deref().unwrap_or_default();
    let spec = stateful_set.spec.as_ref();
    let template = spec.map(|spec| spec.template.clone()).unwrap_or_default();
    let container = database_container(&template, container, port)?.clone();
    let mount = container
        .volume_mounts
        .iter()
        .flatten()
        .filter(|mount| lies_under(data_directory, &mount.mount_path))
        .max_by_key(|mount| mount.mount_path.trim_end_matches('/').len())
        .cloned()
        .ok_or_else(|| {
            Finding::new(
                "DataNotOnVolume",
                format!("the data directory {data_directory} of container {} lies on no mounted volume", container.name),
                "keep the data on a volume: what a container writes elsewhere is gone with it",
            )
        })?;
    let template_claim = spec
        .and_then(|spec| spec.volume_claim_templates.as_ref())
        .into_iter()
        .flatten()
        .any(|claim| claim.metadata.name.as_deref() == Some(mount.name.as_str()));
    let named_claim = template
        .spec
        .as_ref()
        .and_then(|spec| spec.volumes.as_ref())
        .into_iter()
        .flatten()
        .find(|volume| volume.name == mount.name)
        .and_then(|volume| volume.persistent_volume_claim.as_ref())
        .map(|claim| claim.claim_name.clone());
    let claim = if template_claim { Some(format!("{}-{name}-0", mount.name)) } else { named_claim };
    Ok(Shape { template, container, mount, claim, data_directory: data_directory.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A StatefulSet with the given pod spec and claim templates.
    fn source(pod: &serde_json::Value, claims: &[&str]) -> StatefulSet {
        serde_json::from_value(json!({
            "metadata": {"name": "orders-db"},
            "spec": {
                "selector": {}, "serviceName": "x",
                "template": {"spec": pod},
                "volumeClaimTemplates": claims.iter().map(|name| json!({"metadata": {"name": name}, "spec": {}})).collect::<Vec<_>>(),
            }
        }))
        .unwrap()
    }

    #[test]
    fn a_claim_template_a_named_claim_and_a_sub_path_are_found() {
        let mounts = json!([
            {"name": "config", "mountPath": "/var/lib/postgresql/data/config"},
            {"name": "data", "mountPath": "/var/lib/postgresql/data/", "subPath": "pg"},
            {"name": "other", "mountPath": "/var/lib"}
        ]);
        let pod =
            json!({"containers": [{"name": "db", "volumeMounts": mounts}], "volumes": [{"name": "other", "persistentVolumeClaim": {"claimName": "named"}}]});
        let shape = inspect(&source(&pod, &["data"]), None, 5432, "/var/lib/postgresql/data/pgdata").unwrap();
        assert_eq!((shape.mount.name.as_str(), shape.claim.as_deref()), ("data", Some("data-orders-db-0")));
        let at_the_mount_itself = inspect(&source(&pod, &["data"]), None, 5432, "/var/lib/postgresql/data").unwrap();
        assert_eq!(at_the_mount_itself.mount.sub_path.as_deref(), Some("pg"));
        let named = inspect(&source(&pod, &[]), None, 5432, "/var/lib/mysql").unwrap();
        assert_eq!(named.claim.as_deref(), Some("named"));
    }

    #[test]
    fn the_servers_user_is_the_templates_or_else_the_images() {
        let user = |pod: serde_json::Value, own: serde_json::Value| {
            let mount = json!([{"name": "data", "mountPath": "/data"}]);
            let pod = json!({"securityContext": pod, "containers": [{"name": "db", "securityContext": own, "volumeMounts": mount}]});
            inspect(&source(&pod, &["data"]), None, 3306, "/data").unwrap().server_user()
        };
        assert_eq!(user(json!({}), json!({})), (999, 999));
        assert_eq!(user(json!({"fsGroup": 1001}), json!({"runAsUser": 1001})), (1001, 1001));
        assert_eq!(user(json!({"runAsUser": 27, "runAsGroup": 28, "fsGroup": 29}), json!({})), (27, 28));
        assert_eq!(user(json!({"runAsUser": 27}), json!({"runAsUser": 30})), (30, 30));
        assert_eq!(user(json!({"runAsUser": 0}), json!({})), (999, 999), "an image started as root changes to its own user");
    }

    #[test]
    fn a_pod_that_names_no_grace_period_has_that_of_kubernetes() {
        let mount = json!([{"name": "data", "mountPath": "/data"}]);
        for (named, seconds) in [(json!(null), 30), (json!(5), 5), (json!(0), 0), (json!(-7), 1)] {
            let pod = json!({"terminationGracePeriodSeconds": named, "containers": [{"name": "db", "volumeMounts": mount}]});
            assert_eq!(inspect(&source(&pod, &["data"]), None, 6379, "/data").unwrap().grace_period(), seconds);
        }
    }

    #[test]
    fn a_directory_that_merely_begins_alike_is_no_mount() {
        let pod = json!({"containers": [{"name": "db", "volumeMounts": [{"name": "data", "mountPath": "/var/lib/pg"}]}]});
        assert_eq!(inspect(&source(&pod, &["data"]), None, 5432, "/var/lib/pgdata").unwrap_err().reason, "DataNotOnVolume");
    }

    #[test]
    fn a_sidecar_that_stands_first_is_not_taken_for_the_database() {
        let mount = json!([{"name": "data", "mountPath": "/data"}]);
        let pod = json!({"containers": [{"name": "exporter", "ports": [{"containerPort": 9187}]}, {"name": "db", "ports": [{"containerPort": 5432}], "volumeMounts": mount}]});
        assert_eq!(inspect(&source(&pod, &["data"]), None, 5432, "/data").unwrap().container.name, "db");
        let silent = json!({"containers": [{"name": "exporter"}, {"name": "db", "volumeMounts": mount}]});
        assert_eq!(inspect(&source(&silent, &["data"]), None, 5432, "/data").unwrap_err().reason, "ContainerAmbiguous");
        assert_eq!(inspect(&source(&silent, &["data"]), Some("db"), 5432, "/data").unwrap().container.name, "db");
        assert_eq!(inspect(&source(&silent, &["data"]), Some("nope"), 5432, "/data").unwrap_err().reason, "ContainerNotFound");
    }
}
