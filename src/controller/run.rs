//! Wires the controller to the API server: watches of our own objects, their caches, the queue.

use futures::{Stream, StreamExt};
use kube::runtime::controller::{Config, Controller};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;

use super::context::{Context, Stores};
use super::{dispatch, on_error};
use crate::api::DatabaseReplication;
use crate::events::Events;
use crate::resources::labels;
use crate::telemetry::Metrics;

/// Reconciliations at the same time; each is a few requests and a few queries.
const CONCURRENCY: u16 = 8;

/// Why the controller stopped.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The resource is not known to the API server.
    #[error("DatabaseReplication cannot be listed: {0}; is the CustomResourceDefinition installed?")]
    NoDefinition(#[source] Box<kube::Error>),
}

/// A cache and a stream of changes of one kind of object of ours.
fn own<K>(client: &Client) -> (Store<K>, impl Stream<Item = Result<K, watcher::Error>> + Send + 'static)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    K::DynamicType: Hash + Eq + Clone + Default,
{
    let (reader, writer) = reflector::store();
    let config = watcher::Config::default().labels(&format!("{}={}", labels::MANAGED_BY, labels::MANAGER));
    let stream =
        watcher(Api::<K>::all(client.clone()), config).default_backoff().modify(|object| object.managed_fields_mut().clear()).reflect(writer).touched_objects();
    (reader, stream)
}

/// The resource that an object of ours belongs to.
fn belongs(object: &impl ResourceExt) -> Option<ObjectRef<DatabaseReplication>> {
    let name = object.labels().get(labels::REPLICATION)?;
    Some(ObjectRef::new(name).within(&object.namespace()?))
}

/// Runs the controller until it is told to stop.
///
/// # Errors
/// [`RunError::NoDefinition`] if the resource can't be listed.
pub async fn run(client: Client, image: String, instance: String, metrics: Arc<Metrics>) -> Result<(), RunError> {
    let resources: Api<DatabaseReplication> = Api::all(client.clone());
    resources.list(&kube::api::ListParams::default().limit(1)).await.map_err(|source| RunError::NoDefinition(Box::new(source)))?;

    let config = Config::default().concurrency(CONCURRENCY);
    let controller = Controller::new(resources, watcher::Config::default()).with_config(config);
    let (jobs, job_stream) = own(&client);
    let (stateful_sets, stateful_set_stream) = own(&client);
    let (services, service_stream) = own(&client);
    let (claims, claim_stream) = own(&client);
    let (pods, pod_stream) = own(&client);
    let stores = Stores { replications: controller.store(), jobs, stateful_sets, services, claims, pods, listed: Arc::default() };
    let events = Events::new(client.clone(), instance);
    let context = Arc::new(Context::new(client, stores, events, metrics.clone(), image));
    metrics.leading(true);

    controller
        .watches_stream(job_stream, |object| belongs(&object))
        .watches_stream(stateful_set_stream, |object| belongs(&object))
        .watches_stream(service_stream, |object| belongs(&object))
        .watches_stream(claim_stream, |object| belongs(&object))
        .watches_stream(pod_stream, |object| belongs(&object))
        .shutdown_on_signal()
        .run(dispatch, |resource, error, context| on_error(&resource, error, &context), context)
        .for_each(|done| async move {
            if let Err(error) = done {
                tracing::debug!(%error, "queue");
            }
        })
        .await;
    Ok(())
}
