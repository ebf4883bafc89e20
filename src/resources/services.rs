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

/// `<name>-primary`: the source's one pod, by the label that the StatefulSet controller puts on it.
#[must_use]
pub fn build_primary_service(names: &Names, owner: &OwnerReference, source: &str, port: u16) -> Service {
    let selector = BTreeMap::from([("statefulset.kubernetes.io/pod-name".to_owned(), format!("{source}-0"))]);
    build(Shaped { name: names.primary(), component: "primary", number: None, selector, headless: false }, names, owner, port)
}

/// `<name>-replicas`: every replica that is ready, has shown what was written after its restore, and takes no writes.
#[must_use]
pub fn build_replicas_service(names: &Names, owner: &OwnerReference, port: u16) -> Service {
    let selector = names.serving();
    build(Shaped { name: names.replicas(), component: "replica", number: None, selector, headless: false }, names, owner, port)
}

/// `<name>-replica-<number>`: one replica; it also governs its StatefulSet.
#[must_use]
pub fn build_replica_service(names: &Names, owner: &OwnerReference, number: u32, port: u16) -> Service {
    let mut selector = names.selector("replica");
    selector.insert(labels::REPLICA.to_owned(), number.to_string());
    build(Shaped { name: names.replica(number), component: "replica", number: Some(number), selector, headless: true }, names, owner, port)
}
