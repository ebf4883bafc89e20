//! The controller: observe, plan, apply, status; and what wires it to the API server.

mod apply;
mod consent;
mod context;
pub mod facts;
mod observe;
pub mod plan;
mod run;
mod subject;
mod variables;

pub use context::{Context, Stores};
pub use run::{RunError, run};

use kube::ResourceExt;
use kube::runtime::controller::Action;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::time::Duration;

use crate::api::DatabaseReplication;
use crate::engine::{Engine, Lag, with_engine};
use apply::ApplyError;
use facts::Subject;

/// What ends a reconciliation early.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The API server did not answer or refused a read.
    #[error("reading from the API server: {0}")]
    Observe(#[source] Box<kube::Error>),
    /// The status could not be written.
    #[error(transparent)]
    Status(ApplyError),
}

/// A digest of an object as it is to be applied.
#[must_use]
pub fn digest(object: &impl Serialize) -> String {
    let text = serde_json::to_vec(object).unwrap_or_default();
    hex::encode(Sha256::digest(text).get(..12).unwrap_or_default())
}

/// Reconciles one resource with the engine that it names.
///
/// # Errors
/// See [`ReconcileError`].
pub async fn dispatch(resource: Arc<DatabaseReplication>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    if !context.stores.ready().await {
        return Ok(Action::requeue(Duration::from_secs(1)));
    }
    let resource = context.newest(resource);
    with_engine!(resource.spec.engine, E => Box::pin(reconcile::<E>(resource, &context)).await)
}

async fn reconcile<E: Engine>(resource: Arc<DatabaseReplication>, context: &Context) -> Result<Action, ReconcileError> {
    // Without an owner's uid it does not come from an API server.
    let Some(subject) = Subject::new::<E>(resource) else { return Ok(Action::await_change()) };
    let uid = subject.owner.uid.clone();
    if subject.disabling() && !subject.recorded() && subject.resource.finalizers().is_empty() && subject.resource.metadata.deletion_timestamp.is_some() {
        context.forget(&uid);
        return Ok(Action::await_change());
    }
    let observed = observe::observe::<E>(context, &subject).await.map_err(|source| ReconcileError::Observe(Box::new(source)))?;
    let (facts, mut sessions) = (observed.facts, observed.sessions);
    let plan = plan::plan::<E>(&subject, &facts, &context.image);
    let status = plan::merge(subject.resource.status.as_ref(), plan.status, facts.now);
    context.events.transition(&subject.resource, &status).await;
    context.metrics.observe(&subject.names.namespace, &subject.names.name, &status, facts.lag().map(Lag::amount));

    // The record first: what the steps change is known even if nobody comes back from them.
    let current = match apply::write_status(context, &subject, &status).await {
        Ok(current) => current,
        Err(ApplyError::Outdated) => return Ok(Action::requeue(Duration::from_millis(100))),
        Err(error) => return Err(ReconcileError::Status(error)),
    };
    match apply::apply::<E>(context, &current, &plan.steps, &mut sessions).await {
        Ok(()) => {
            let mut times = 0;
            context.remember(&uid, |memory| {
                memory.failure = None;
                times = memory.repeated(plan.steps.iter().map(ToString::to_string).collect());
            });
            if subject.resource.metadata.deletion_timestamp.is_some() && plan.steps.contains(&plan::Step::Release) {
                context.forget(&uid);
                return Ok(Action::await_change());
            }
            // Steps that succeed and change nothing, since somebody undoes them or the server does not say what it has, are not executed hot.
            Ok(Action::requeue(if times > REPEATS { plan.again.max(backoff(times - REPEATS)) } else { plan.again }))
        }
        Err(ApplyError::Outdated) => Ok(Action::requeue(Duration::from_millis(100))),
        Err(error) => {
            tracing::warn!(replication = %subject.names.name, namespace = %subject.names.namespace, %error, "step failed");
            context.metrics.failure();
            let mut times = 0;
            context.remember(&uid, |memory| {
                times = memory.failure.as_ref().map_or(0, |(_, times)| *times) + 1;
                memory.failure = Some((error.to_string(), times));
                memory.read = None;
            });
            Ok(Action::requeue(backoff(times)))
        }
    }
}

/// The same steps may follow themselves so often: a cache may be a moment behind.
const REPEATS: u32 = 3;

/// 1, 2, 4 … 30 seconds.
fn backoff(times: u32) -> Duration {
    Duration::from_secs(1 << times.saturating_sub(1).min(5)).min(Duration::from_secs(30))
}

/// A reconciliation that could not read or write is tried again, not hot.
fn on_error(resource: &DatabaseReplication, error: &ReconcileError, context: &Context) -> Action {
    tracing::warn!(replication = %resource.name_any(), namespace = resource.namespace(), %error, "reconciliation failed");
    context.metrics.failure();
    Action::requeue(Duration::from_secs(5))
}
