//! Logs as JSON lines, metrics and probes over HTTP.

use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::net::TcpListener;

use crate::api::DatabaseReplicationStatus;

/// Labels of a metric of one resource: bounded by the number of resources.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    namespace: String,
    name: String,
}

/// Counters and gauges.
pub struct Metrics {
    registry: Registry,
    steps: Counter,
    failures: Counter,
    leader: Gauge,
    ready: Family<Labels, Gauge>,
    lag: Family<Labels, Gauge>,
    started: AtomicBool,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("understudy");
        let (steps, failures, leader) = (Counter::default(), Counter::default(), Gauge::default());
        let (ready, lag) = (Family::default(), Family::default());
        registry.register("steps", "Steps executed", steps.clone());
        registry.register("failures", "Reconciliations and steps that failed", failures.clone());
        registry.register("leader", "1 while this instance holds the lease", leader.clone());
        registry.register("replication_ready", "1 while the resource is Ready", ready.clone());
        registry.register("replication_lag_bytes", "Bytes of the source's log that the slowest replica has yet to apply", lag.clone());
        Self { registry, steps, failures, leader, ready, lag, started: AtomicBool::new(false) }
    }
}

impl Metrics {
    /// Counts a step.
    pub fn step(&self) {
        self.steps.inc();
    }

    /// Counts a failure.
    pub fn failure(&self) {
        self.failures.inc();
    }

    /// This instance leads, or no longer does.
    pub fn leading(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// The instance can reach the API server: from now on it counts as ready.
    pub fn started(&self) {
        self.started.store(true, Ordering::Relaxed);
    }

    /// What was observed of one resource.
    pub fn observe(&self, namespace: &str, name: &str, status: &DatabaseReplicationStatus, lag: Option<u64>) {
        let labels = Labels { namespace: namespace.to_owned(), name: name.to_owned() };
        let ready = status.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
        self.ready.get_or_create(&labels).set(i64::from(ready));
        match lag.and_then(|lag| i64::try_from(lag).ok()) {
            Some(lag) => {
                self.lag.get_or_create(&labels).set(lag);
            }
            None => drop(self.lag.remove(&labels)),
        }
    }

    fn answer(&self, path: &str) -> (StatusCode, String) {
        match path {
            "/healthz" => (StatusCode::OK, "ok".to_owned()),
            "/readyz" if self.started.load(Ordering::Relaxed) => (StatusCode::OK, "ok".to_owned()),
            "/readyz" => (StatusCode::SERVICE_UNAVAILABLE, "the API server has not answered yet".to_owned()),
            "/metrics" => {
                let mut text = String::new();
                match encode(&mut text, &self.registry) {
                    Ok(()) => (StatusCode::OK, text),
                    Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
                }
            }
            _ => (StatusCode::NOT_FOUND, "not found".to_owned()),
        }
    }
}

/// Serves `/healthz`, `/readyz` and `/metrics` until the process ends.
///
/// # Errors
/// If the address can't be bound.
pub async fn serve(address: &str, metrics: Arc<Metrics>) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let metrics = metrics.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let (status, text) = metrics.answer(request.uri().path());
                let mut response = Response::new(Full::new(Bytes::from(text)));
                *response.status_mut() = status;
                async move { Ok::<_, Infallible>(response) }
            });
            if let Err(error) = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!(%error, "http");
            }
        });
    }
}

/// Logs go to standard error as JSON lines; `RUST_LOG` sets the level.
pub fn init() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().json().flatten_event(true).with_env_filter(filter).with_writer(std::io::stderr).init();
}
