//! Leader election by a Lease: at most one instance acts.
//!
//! The rules are those of client-go's `leaderelection`: a lease counts as free once nobody has renewed it for its whole duration *by our own clock*, and
//! it is taken by an update that names the version that was seen, so that of two that try one fails. The libraries of this field either take a lease
//! without naming the version they saw, or need another version of the Kubernetes client.

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use std::time::{Duration, Instant};

/// How long a lease counts without being renewed.
pub const DURATION: Duration = Duration::from_secs(15);
/// How often it is renewed.
const RENEW: Duration = Duration::from_secs(5);
/// A leader that could not renew for so long gives up, before another may take over.
const DEADLINE: Duration = Duration::from_secs(10);
/// How often one that waits looks.
const RETRY: Duration = Duration::from_secs(2);

/// One candidate for the lease.
pub struct Candidate {
    api: Api<Lease>,
    name: String,
    identity: String,
    seen: Option<(Lease, Instant)>,
}

impl Candidate {
    /// A candidate; `identity` is its name among all, for example that of its pod.
    #[must_use]
    pub fn new(client: Client, namespace: &str, name: &str, identity: String) -> Self {
        Self { api: Api::namespaced(client, namespace), name: name.to_owned(), identity, seen: None }
    }

    fn held_by_me(&self, lease: &Lease) -> bool {
        lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()) == Some(&self.identity)
    }

    /// The lease is free, or was not renewed for its duration since we first saw it like this.
    fn may_take(&mut self, lease: &Lease) -> bool {
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone()).unwrap_or_default();
        if holder.is_empty() || self.held_by_me(lease) {
            return true;
        }
        match &self.seen {
            Some((seen, since)) if seen.spec == lease.spec => since.elapsed() >= DURATION,
            _ => {
                self.seen = Some((lease.clone(), Instant::now()));
                false
            }
        }
    }

    /// Takes or renews the lease; false while somebody else holds it.
    async fn try_once(&mut self) -> Result<bool, kube::Error> {
        let now = MicroTime(Timestamp::now());
        let found = self.api.get_opt(&self.name).await?;
        let taken = match found {
            None => {
                let spec = self.spec(now.clone(), now, 0);
                let lease = Lease { metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() }, spec: Some(spec) };
                self.api.create(&PostParams::default(), &lease).await
            }
            Some(mut lease) => {
                if !self.may_take(&lease) {
                    return Ok(false);
                }
                let mine = self.held_by_me(&lease);
                let old = lease.spec.clone().unwrap_or_default();
                let transitions = old.lease_transitions.unwrap_or(0) + i32::from(!mine);
                let since = old.acquire_time.filter(|_| mine).unwrap_or_else(|| now.clone());
                lease.spec = Some(self.spec(now, since, transitions));
                self.api.replace(&self.name, &PostParams::default(), &lease).await
            }
        };
        match taken {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(answer)) if answer.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn spec(&self, now: MicroTime, since: MicroTime, transitions: i32) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: Some(since),
            renew_time: Some(now),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }

    /// Waits until the lease is ours.
    pub async fn acquire(&mut self) {
        loop {
            match self.try_once().await {
                Ok(true) => return,
                Ok(false) => tracing::debug!(lease = %self.name, "held by another instance"),
                Err(error) => tracing::warn!(lease = %self.name, %error, "lease"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Renews the lease for as long as it can; returns when it is lost.
    pub async fn hold(&mut self) {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(RENEW).await;
            match tokio::time::timeout(RENEW, self.try_once()).await {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) => return,
                Ok(Err(error)) => tracing::warn!(lease = %self.name, %error, "lease not renewed"),
                Err(_) => tracing::warn!(lease = %self.name, "lease not renewed: no answer"),
            }
            if renewed.elapsed() >= DEADLINE {
                return;
            }
        }
    }

    /// Gives the lease back, so that the next instance need not wait.
    pub async fn release(&mut self) {
        let Ok(Some(mut lease)) = self.api.get_opt(&self.name).await else { return };
        if self.held_by_me(&lease) {
            if let Some(spec) = &mut lease.spec {
                spec.holder_identity = None;
                spec.lease_duration_seconds = Some(1);
            }
            if let Err(error) = self.api.replace(&self.name, &PostParams::default(), &lease).await {
                tracing::debug!(%error, "lease not released");
            }
        }
    }
}
