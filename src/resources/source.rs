//! What the source's own StatefulSet gets while it has replicas, where its server needs it: a few arguments, and a key file. Nothing else of it is touched.

use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Container, EmptyDirVolumeSource, KeyToPath, PodSpec, Secret, SecretVolumeSource, Volume, VolumeMount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use rand::Rng;
use serde_json::{Value, json};
use std::collections::BTreeMap;

use super::jobs::{restricted, small};
use super::{Names, Workload, meta, template_of};
use crate::engine::Key;

/// Directory of the key file in the database's container.
const KEY_DIRECTORY: &str = "/run/understudy/key";
/// The key file in the database's container.
pub const KEY_FILE: &str = "/run/understudy/key/key";
/// Where the init container finds it in the Secret.
const SECRET: &str = "/run/understudy/secret";
/// Key of the Secret.
const KEY: &str = "key";
/// The init container, and the volume that it copies the key file to.
const COPY: &str = "understudy-key";

/// The container of a pod, or of a template, that has these arguments.
#[must_use]
pub fn container_with<'a>(pod: Option<&'a PodSpec>, arguments: &[String]) -> Option<&'a Container> {
    if arguments.is_empty() {
        return None;
    }
    pod?.containers
        .iter()
        .find(|container| container.args.iter().flatten().collect::<Vec<_>>().windows(arguments.len()).any(|words| words.iter().copied().eq(arguments)))
}

/// A pod that needs the Secret with the key file to start.
#[must_use]
pub fn needs_key_file(pod: Option<&PodSpec>) -> bool {
    pod.is_some_and(|pod| pod.init_containers.iter().flatten().any(|container| container.name == COPY))
}

/// What needs the key file is on the StatefulSet, and nobody else's.
fn holds_key_of(stateful_set: &StatefulSet, manager: &str) -> bool {
    let template = stateful_set.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    needs_key_file(template) && held_by(stateful_set, COPY, manager)
}

/// An entry of this name, in a list of the StatefulSet, is nobody else's: `manager` alone applies it.
pub(super) fn held_by(stateful_set: &StatefulSet, name: &str, manager: &str) -> bool {
    let entries = stateful_set.metadata.managed_fields.as_deref().unwrap_or_default();
    let names = |entry: &&ManagedFieldsEntry| entry.fields_v1.as_ref().is_some_and(|fields| fields.0.to_string().contains(name));
    let mut holders = entries.iter().filter(names);
    holders.next().is_some_and(|entry| entry.manager.as_deref() == Some(manager)) && holders.next().is_none()
}

/// The arguments without ours.
pub(super) fn without(arguments: &[String], ours: &[Vec<String>]) -> Vec<String> {
    let mut left = arguments.to_vec();
    for words in ours.iter().filter(|words| !words.is_empty()) {
        if let Some(at) = left.windows(words.len()).position(|found| found == words.as_slice()) {
            left.drain(at..at + words.len());
        }
    }
    left
}

/// Arguments by which a server reads the key file.
#[must_use]
pub fn key_arguments() -> Vec<String> {
    vec!["--keyFile".to_owned(), KEY_FILE.to_owned()]
}

/// The init container that copies the key file from the Secret to where only the server's user can read it: a mounted Secret belongs to root, and with an
/// `fsGroup` its group may read it, which the server refuses. It runs the database's image, so that the source can start without ours.
fn key_container(workload: &Workload<'_>) -> Container {
    let to = |name: &str, path: &str, read_only: bool| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    };
    let from = format!("{SECRET}/{KEY}");
    Container {
        name: COPY.to_owned(),
        image: workload.shape.container.image.clone(),
        image_pull_policy: workload.shape.container.image_pull_policy.clone(),
        command: Some(["install", "-m", "0400", &from, KEY_FILE].map(str::to_owned).to_vec()),
        volume_mounts: Some(vec![to("understudy-secret", SECRET, true), to(COPY, KEY_DIRECTORY, false)]),
        security_context: Some(restricted(workload.user)),
        resources: Some(small()),
        ..Container::default()
    }
}

fn key_volumes(names: &Names) -> [Volume; 2] {
    let items = vec![KeyToPath { key: KEY.to_owned(), path: KEY.to_owned(), mode: None }];
    // Mounted by the init container alone, which runs as the server's user.
    let secret = SecretVolumeSource { secret_name: Some(names.key()), items: Some(items), default_mode: Some(0o444), ..SecretVolumeSource::default() };
    let memory = EmptyDirVolumeSource { medium: Some("Memory".to_owned()), ..EmptyDirVolumeSource::default() };
    [
        Volume { name: "understudy-secret".to_owned(), secret: Some(secret), ..Volume::default() },
        Volume { name: COPY.to_owned(), empty_dir: Some(memory), ..Volume::default() },
    ]
}

/// The Secret with the key file. It has no owner: a source that still names it could not start without it.
#[must_use]
pub fn build_key(names: &Names) -> Secret {
    let mut bytes = [0_u8; 384];
    rand::rng().fill(&mut bytes[..]);
    Secret {
        metadata: meta(names.key(), names, names.labels("key", None), None),
        immutable: Some(true),
        // Hexadecimal digits are base64 too, which is what a key file may hold, up to 1024 of them (manual, "Keyfiles").
        data: Some(BTreeMap::from([(KEY.to_owned(), ByteString(hex::encode(bytes).into_bytes()))])),
        ..Secret::default()
    }
}

/// What servers that mount this Secret trust each other by.
#[must_use]
pub fn key_of(secret: &Secret) -> Key {
    Key::new(secret.data.as_ref().and_then(|data| data.get(KEY)).map_or(&[][..], |content| &content.0))
}

/// Fields of a StatefulSet's pod template, to be applied to that very object.
pub(super) fn patch(name: &str, uid: Option<&str>, pod: &Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": name, "uid": uid}, "spec": {"template": {"spec": pod}}})
}

/// What is applied to the source's StatefulSet: the fields that are ours, and no others.
#[must_use]
pub fn build_source_change(workload: &Workload<'_>, stateful_set: &StatefulSet, arguments: &[String], key: bool) -> Value {
    let container = &workload.shape.container;
    let mut args = container.args.clone().unwrap_or_default();
    args.extend_from_slice(arguments);
    let mut ours = json!({"name": container.name});
    let mut pod = json!({});
    if key {
        args.extend(key_arguments());
        ours["volumeMounts"] = json!([{"name": COPY, "mountPath": KEY_DIRECTORY, "readOnly": true}]);
        pod["initContainers"] = json!([key_container(workload)]);
        pod["volumes"] = json!(key_volumes(workload.names));
    }
    ours["args"] = json!(args);
    pod["containers"] = json!([ours]);
    patch(workload.source, stateful_set.metadata.uid.as_deref(), &pod)
}

/// What is applied to take all of it back: the arguments as they were, and nothing of ours. None where nothing of ours is on it. Where others have taken our
/// arguments away, what needs the key file is still there: they know nothing of it.
#[must_use]
pub fn build_source_as_before(stateful_set: &StatefulSet, arguments: &[String], manager: &str) -> Option<Value> {
    let pod = match container_with(template_of(stateful_set), arguments) {
        None if !holds_key_of(stateful_set, manager) => return None,
        None => json!({}),
        // Named also where none are left: to give a field up changes nothing where somebody else has taken it into a manifest meanwhile.
        Some(container) => {
            let left = without(container.args.as_deref().unwrap_or_default(), &[arguments.to_vec(), key_arguments()]);
            json!({"containers": [{"name": container.name, "args": left}]})
        }
    };
    Some(patch(stateful_set.metadata.name.as_deref()?, stateful_set.metadata.uid.as_deref(), &pod))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Identity;
    use crate::resources::inspect;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

    const MANAGER: &str = "understudy/orders";

    fn names() -> Names {
        Names { namespace: "shop".into(), name: "orders".into(), identity: Identity::parse("k3x9q2ab").unwrap() }
    }

    fn source(args: &Value) -> StatefulSet {
        let container = json!({"name": "db", "image": "mongo:6.0", "args": args, "volumeMounts": [{"name": "data", "mountPath": "/data/db"}]});
        let template = json!({"spec": {"containers": [{"name": "exporter"}, container]}});
        serde_json::from_value(json!({"metadata": {"name": "orders-db", "uid": "u"}, "spec": {"selector": {}, "serviceName": "x", "template": template}}))
            .unwrap()
    }

    fn ours() -> Vec<String> {
        ["--replSet", "understudy_k3x9q2ab"].map(str::to_owned).to_vec()
    }

    fn change(args: &Value, key: bool) -> Value {
        let stateful_set = source(args);
        let shape = inspect(&stateful_set, Some("db"), 27017, "/data/db").unwrap();
        let (names, owner) = (names(), OwnerReference::default());
        let workload =
            Workload { names: &names, owner: &owner, shape: &shape, image: "understudy:dev", engine: "MongoDB", user: (999, 999), source: "orders-db" };
        build_source_change(&workload, &stateful_set, &ours(), key)
    }

    #[test]
    fn only_fields_of_ours_are_applied() {
        let plain = change(&json!(["--auth"]), false);
        assert_eq!(plain["spec"]["template"]["spec"], json!({"containers": [{"name": "db", "args": ["--auth", "--replSet", "understudy_k3x9q2ab"]}]}));
        assert_eq!(plain["metadata"], json!({"name": "orders-db", "uid": "u"}), "another object of that name is not touched");
        let keyed = change(&json!(null), true);
        let pod = keyed["spec"]["template"]["spec"].as_object().unwrap();
        assert_eq!(pod.keys().collect::<Vec<_>>(), ["containers", "initContainers", "volumes"]);
        assert_eq!(pod["containers"][0]["args"], json!(["--replSet", "understudy_k3x9q2ab", "--keyFile", KEY_FILE]));
        assert_eq!(pod["initContainers"][0]["image"], "mongo:6.0", "the source starts without our image");
        assert_eq!(pod["volumes"][0]["secret"]["secretName"], "orders-key-k3x9q2ab");
        assert!(!pod["containers"][0].as_object().unwrap().contains_key("image"));
    }

    #[test]
    fn what_is_applied_is_found_again_and_taken_back() {
        for (before, key) in [(json!(["mongod", "--auth"]), true), (json!(["--bind_ip_all"]), false), (json!(null), true), (json!([]), false)] {
            let mut changed = source(&before);
            assert_eq!(build_source_as_before(&changed, &ours(), MANAGER), None, "nothing of ours is on it");
            let args = change(&before, key)["spec"]["template"]["spec"]["containers"][0]["args"].clone();
            let containers = &mut changed.spec.as_mut().unwrap().template.spec.as_mut().unwrap().containers;
            containers[1].args = serde_json::from_value(args).unwrap();
            // Arguments that the user adds behind ours meanwhile are kept.
            containers[1].args.as_mut().unwrap().push("--verbose".into());
            assert_eq!(container_with(template_of(&changed), &ours()).unwrap().name, "db");
            let back = build_source_as_before(&changed, &ours(), MANAGER).unwrap();
            let mut expected = before.as_array().cloned().unwrap_or_default();
            expected.push("--verbose".into());
            assert_eq!(back["spec"]["template"]["spec"]["containers"][0]["args"], json!(expected));
        }
        let mut changed = source(&json!(null));
        changed.spec.as_mut().unwrap().template.spec.as_mut().unwrap().containers[1].args = Some(ours());
        let back = build_source_as_before(&changed, &ours(), MANAGER).unwrap();
        assert_eq!(back["spec"]["template"]["spec"], json!({"containers": [{"name": "db", "args": []}]}), "the API server keeps no empty list");
    }

    #[test]
    fn what_needs_the_key_file_is_taken_back_where_the_arguments_are_gone_already() {
        let mut changed = source(&json!(["--auth"]));
        let pod = changed.spec.as_mut().unwrap().template.spec.as_mut().unwrap();
        let keyed = change(&json!(["--auth"]), true);
        pod.init_containers = serde_json::from_value(keyed["spec"]["template"]["spec"]["initContainers"].clone()).unwrap();
        let held_by = |managers: &[&str]| {
            let fields = json!({"f:spec": {"f:template": {"f:spec": {"f:initContainers": {"k:{\"name\":\"understudy-key\"}": {}}}}}});
            let mut changed = changed.clone();
            let entries = managers.iter().map(|manager| json!({"manager": manager, "fieldsV1": fields}));
            let other = json!({"manager": "kubectl", "fieldsV1": {"f:spec": {"f:replicas": {}}}});
            changed.metadata.managed_fields = serde_json::from_value(entries.chain([other]).collect()).unwrap();
            build_source_as_before(&changed, &ours(), MANAGER)
        };
        assert_eq!(held_by(&[MANAGER]).unwrap()["spec"]["template"]["spec"], json!({}), "the arguments are left as others have put them");
        assert_eq!(held_by(&[]), None);
        assert_eq!(held_by(&["understudy/other"]), None, "another enabling's");
        assert_eq!(held_by(&[MANAGER, "pipeline"]), None, "it stands in somebody's manifest: giving it up would change nothing");
    }

    #[test]
    fn a_key_is_what_a_key_file_may_hold() {
        let key = |secret: Secret| String::from_utf8(secret.data.unwrap()[KEY].0.clone()).unwrap();
        let (one, other) = (build_key(&names()), build_key(&names()));
        assert!(one.metadata.owner_references.is_none() && one.immutable == Some(true));
        let read = key_of(&one);
        let (one, other) = (key(one), key(other));
        assert_eq!((read.secret(), key_of(&Secret::default()).secret()), (one.as_str(), ""));
        assert!((6..=1024).contains(&one.len()) && one.bytes().all(|b| b.is_ascii_hexdigit()));
        assert_ne!(one, other);
    }
}
