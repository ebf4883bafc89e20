//! Services: one name for the source, one for all replicas, one for each replica.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::collections::BTreeMap;

use super::names::labels;
use super::{Names, meta};

struct Shaped<'a> {
    name: String,
    component: &'a str,
    number: Option<u32>,
    selector: BTreeMap<String, String>,
    headless: bool,
}

fn build(shaped: Shaped<'_>, names: &Names, owner: &OwnerReference, port: u16) -> Service {
    Service {
        metadata: meta(shaped.name, names, names.labels(shaped.component, shaped.number), Some(owner)),
        spec: Some(ServiceSpec {
            selector: Some(shaped.selector),
            cluster_ip: shaped.headless.then(|| "None".to_owned()),
            ports: Some(vec![ServicePort {
                name: Some("database".to_owned()),
                port: i32::from(port),
                target_port: Some(IntOrString::Int(i32::from(port))),
                protocol: Some("TCP".to_owned()),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// Selects the one pod of a StatefulSet, by the label that the StatefulSet controller puts on it.
fn pod_of(stateful_set: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("statefulset.kubernetes.io/pod-name".to_owned(), format!("{stateful_set}-0"))])
}

/// `<name>-primary`: the pod that takes the writes: the source's, or that of the replica `leader`.
#[must_use]
pub fn build_primary_service(names: &Names, owner: &OwnerReference, source: &str, leader: Option<u32>, port: u16) -> Service {
    let selector = pod_of(&leader.map_or_else(|| source.to_owned(), |number| names.replica(number)));
    build(Shaped { name: names.primary(), component: "primary", number: None, selector, headless: false }, names, owner, port)
}

/// `<name>-source`: the source's pod under a name of its own, ready or not, for servers that have to know each other.
#[must_use]
pub fn build_source_service(names: &Names, owner: &OwnerReference, source: &str, port: u16) -> Service {
    let shaped = Shaped { name: names.source(), component: "source", number: None, selector: pod_of(source), headless: true };
    always(build(shaped, names, owner, port))
}

/// Found while it is not ready, too: servers find each other before clients are sent to them.
fn always(mut service: Service) -> Service {
    service.spec.get_or_insert_default().publish_not_ready_addresses = Some(true);
    service
}

/// `<name>-replicas`: every replica that is ready, has shown what was written after its restore, and takes no writes.
#[must_use]
pub fn build_replicas_service(names: &Names, owner: &OwnerReference, port: u16) -> Service {
    let selector = names.serving();
    build(Shaped { name: names.replicas(), component: "replica", number: None, selector, headless: false }, names, owner, port)
}

/// `<name>-replica-<number>`: one replica; it also governs its StatefulSet. As a `member` it is found by the other servers before it is ready.
#[must_use]
pub fn build_replica_service(names: &Names, owner: &OwnerReference, number: u32, port: u16, member: bool) -> Service {
    let mut selector = names.selector("replica");
    selector.insert(labels::REPLICA.to_owned(), number.to_string());
    let service = build(Shaped { name: names.replica(number), component: "replica", number: Some(number), selector, headless: true }, names, owner, port);
    if member { always(service) } else { service }
}
