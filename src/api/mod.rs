//! The resource: what a user writes, what the operator answers, and the rules that need no cluster to judge. No I/O.

mod spec;
mod status;

pub use spec::*;
pub use status::*;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// API group of everything that this operator names: resources, labels, annotations, the finalizer.
pub const GROUP: &str = "understudy.dev";
/// Held on a resource for as long as something of it is left on the source or in the namespace.
pub const FINALIZER: &str = "understudy.dev/teardown";
/// Name of the field manager for every object that this operator creates.
pub const FIELD_MANAGER: &str = "understudy";

/// The CustomResourceDefinition, as `understudy crds` prints it and `crds/` holds it.
#[must_use]
pub fn definition() -> CustomResourceDefinition {
    DatabaseReplication::crd()
}
