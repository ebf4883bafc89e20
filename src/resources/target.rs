//! What a target's own StatefulSet gets while it is a replica: an init container that brings the wanted data into its data directory before the server
//! starts, and arguments where its server needs them. Nothing else of it is touched.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Container, PodSpec, SecurityContext, VolumeMount};
use serde_json::{Value, json};

use super::jobs::{restricted, small};
use super::source::{held_by, patch, without};
use super::{PROGRAM, Workload};
use crate::engine::Identity;

/// The init container.
const SWAP: &str = "understudy-swap";

/// Which data a target's server finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Data {
    /// The restored copy of the source's.
    Staged,
    /// Its own, from before.
    Previous,
}

impl Data {
    /// As the agent is told.
    const fn word(self) -> &'static str {
        match self {
            Self::Staged => "staged",
            Self::Previous => "previous",
        }
    }
}

fn init_container(pod: Option<&PodSpec>) -> Option<&Container> {
    pod?.init_containers.iter().flatten().find(|container| container.name == SWAP)
}

/// Which data our init container in a pod, or in a template, brings; none where there is no such container of this enabling.
#[must_use]
pub fn data_of(pod: Option<&PodSpec>, identity: &Identity) -> Option<Data> {
    let words = init_container(pod)?.command.as_deref().unwrap_or_default();
    let has = |option: &str, value: &str| words.windows(2).any(|pair| matches!(pair, [o, v] if o == option && v == value));
    [Data::Staged, Data::Previous].into_iter().find(|data| has("--identity", identity.word()) && has("--to", data.word()))
}

/// The pod template of a StatefulSet.
#[must_use]
pub fn template_of(stateful_set: &StatefulSet) -> Option<&PodSpec> {
    stateful_set.spec.as_ref()?.template.spec.as_ref()
}

/// Where our init container and Jobs mount the target's volume: as its server does, and for writing.
#[must_use]
pub(super) fn writable(mount: &VolumeMount) -> VolumeMount {
    VolumeMount { read_only: None, ..mount.clone() }
}

/// What is applied to the target's StatefulSet: the fields that are ours, and no others.
#[must_use]
pub fn build_target_change(workload: &Workload<'_>, stateful_set: &StatefulSet, data: Data, arguments: &[String]) -> Value {
    let Workload { names, shape, image, engine, user, .. } = *workload;
    let words = [PROGRAM, "agent", "swap", "--engine", engine, "--mount", &shape.mount.mount_path, "--data-directory", &shape.data_directory];
    let words = words.into_iter().chain(["--identity", names.identity.word(), "--to", data.word()]);
    let swap = Container {
        name: SWAP.to_owned(),
        image: Some(image.to_owned()),
        command: Some(words.map(str::to_owned).collect()),
        volume_mounts: Some(vec![writable(&shape.mount)]),
        security_context: Some(SecurityContext { read_only_root_filesystem: Some(true), ..restricted(user) }),
        resources: Some(small()),
        ..Container::default()
    };
    let mut pod = json!({"initContainers": [swap]});
    if !arguments.is_empty() {
        let theirs = without(shape.container.args.as_deref().unwrap_or_default(), &[arguments.to_vec()]);
        let args = if data == Data::Staged { [theirs, arguments.to_vec()].concat() } else { theirs };
        pod["containers"] = json!([{"name": shape.container.name, "args": args}]);
    }
    patch(stateful_set.metadata.name.as_deref().unwrap_or_default(), stateful_set.metadata.uid.as_deref(), &pod)
}

/// What is applied to take all of it back. None where nothing is left that would go with it: somebody else's manifest may name it by now.
#[must_use]
pub fn build_target_as_before(stateful_set: &StatefulSet, container: &str, arguments: &[String], manager: &str) -> Option<Value> {
    let found = template_of(stateful_set)?.containers.iter().find(|found| found.name == container);
    let args = found.and_then(|found| found.args.as_deref()).unwrap_or_default();
    let left = without(args, &[arguments.to_vec()]);
    let holds = init_container(template_of(stateful_set)).is_some() && held_by(stateful_set, SWAP, manager);
    if left.len() == args.len() && !holds {
        return None;
    }
    // Where arguments were applied once they are ours as a whole: not to name them would take them all away.
    let pod = if arguments.is_empty() { json!({}) } else { json!({"containers": [{"name": container, "args": left}]}) };
    Some(patch(stateful_set.metadata.name.as_deref()?, stateful_set.metadata.uid.as_deref(), &pod))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::{Names, inspect};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

    const MANAGER: &str = "understudy/reports";

    fn include() -> Vec<String> {
        ["--include", "/data/understudy.conf"].map(str::to_owned).to_vec()
    }

    fn target(args: &Value) -> StatefulSet {
        let mount = json!({"name": "data", "mountPath": "/data", "subPath": "redis", "readOnly": false});
        let container = json!({"name": "db", "image": "redis:7", "args": args, "volumeMounts": [mount]});
        let template = json!({"spec": {"initContainers": [{"name": "theirs"}], "containers": [container, {"name": "exporter"}]}});
        serde_json::from_value(json!({"metadata": {"name": "reports-db", "uid": "u"}, "spec": {"selector": {}, "serviceName": "x", "template": template}}))
            .unwrap()
    }

    fn change(stateful_set: &StatefulSet, data: Data, arguments: &[String]) -> Value {
        let shape = inspect(stateful_set, Some("db"), 6379, "/data").unwrap();
        let (names, owner) = (Names { namespace: "reports".into(), name: "reports".into(), identity: identity() }, OwnerReference::default());
        let workload =
            Workload { names: &names, owner: &owner, shape: &shape, image: "understudy:dev", engine: "Redis", user: (999, 999), source: "reports-db" };
        build_target_change(&workload, stateful_set, data, arguments)
    }

    fn identity() -> Identity {
        Identity::parse("k3x9q2ab").unwrap()
    }

    /// The StatefulSet after a patch, as server-side apply merges it.
    fn patched(mut stateful_set: StatefulSet, patch: &Value, holders: &[&str]) -> StatefulSet {
        let pod = stateful_set.spec.as_mut().unwrap().template.spec.as_mut().unwrap();
        let ours: Vec<Container> = serde_json::from_value(patch["spec"]["template"]["spec"]["initContainers"].clone()).unwrap();
        pod.init_containers.as_mut().unwrap().extend(ours);
        if let Some(args) = patch["spec"]["template"]["spec"]["containers"][0].get("args") {
            pod.containers[0].args = serde_json::from_value(args.clone()).unwrap();
        }
        let fields = json!({"f:spec": {"f:template": {"f:spec": {"f:initContainers": {"k:{\"name\":\"understudy-swap\"}": {}}}}}});
        let entries: Vec<Value> = holders.iter().map(|manager| json!({"manager": manager, "fieldsV1": fields})).collect();
        stateful_set.metadata.managed_fields = serde_json::from_value(json!(entries)).unwrap();
        stateful_set
    }

    #[test]
    fn only_fields_of_ours_are_applied_and_found_again() {
        let before = target(&json!(["--appendonly", "yes"]));
        assert_eq!(data_of(template_of(&before), &identity()), None);
        let staged = change(&before, Data::Staged, &include());
        assert_eq!(staged["metadata"], json!({"name": "reports-db", "uid": "u"}), "another object of that name is not touched");
        let pod = &staged["spec"]["template"]["spec"];
        assert_eq!(pod.as_object().unwrap().keys().collect::<Vec<_>>(), ["containers", "initContainers"]);
        assert_eq!(pod["containers"], json!([{"name": "db", "args": ["--appendonly", "yes", "--include", "/data/understudy.conf"]}]));
        assert_eq!(pod["initContainers"][0]["volumeMounts"], json!([{"name": "data", "mountPath": "/data", "subPath": "redis"}]));
        assert_eq!(pod["initContainers"][0]["securityContext"]["runAsUser"], json!(999));
        let changed = patched(before.clone(), &staged, &[MANAGER]);
        assert_eq!(data_of(template_of(&changed), &identity()), Some(Data::Staged));
        assert_eq!(data_of(template_of(&changed), &Identity::parse("another1").unwrap()), None, "another enabling's");
        assert_eq!(change(&changed, Data::Staged, &include()), staged, "arguments are not added twice");
        let back = change(&changed, Data::Previous, &include());
        assert_eq!(back["spec"]["template"]["spec"]["containers"][0]["args"], json!(["--appendonly", "yes"]));
        assert_eq!(data_of(template_of(&patched(before.clone(), &back, &[MANAGER])), &identity()), Some(Data::Previous));
        let plain = change(&before, Data::Staged, &[]);
        assert!(plain["spec"]["template"]["spec"].get("containers").is_none(), "an engine that needs no arguments leaves them alone");
    }

    #[test]
    fn all_of_it_is_taken_back_once() {
        let before = target(&json!(null));
        assert_eq!(build_target_as_before(&before, "db", &include(), MANAGER), None, "nothing of ours is on it");
        let changed = patched(before.clone(), &change(&before, Data::Staged, &include()), &[MANAGER]);
        let back = build_target_as_before(&changed, "db", &include(), MANAGER).unwrap();
        assert_eq!(back["spec"]["template"]["spec"], json!({"containers": [{"name": "db", "args": []}]}));
        // On the way back by the previous data ours are gone already, and the user's are still applied by us.
        let theirs = target(&json!(["/etc/redis.conf"]));
        let changed = patched(theirs.clone(), &change(&theirs, Data::Previous, &include()), &[MANAGER]);
        let back = build_target_as_before(&changed, "db", &include(), MANAGER).unwrap();
        assert_eq!(back["spec"]["template"]["spec"], json!({"containers": [{"name": "db", "args": ["/etc/redis.conf"]}]}));
        let plain = patched(before.clone(), &change(&before, Data::Staged, &[]), &[MANAGER]);
        assert_eq!(build_target_as_before(&plain, "db", &[], MANAGER).unwrap()["spec"]["template"]["spec"], json!({}));
        let copied = patched(before.clone(), &change(&before, Data::Staged, &[]), &[MANAGER, "pipeline"]);
        assert_eq!(build_target_as_before(&copied, "db", &[], MANAGER), None, "it stands in somebody's manifest: giving it up would change nothing");
    }
}
