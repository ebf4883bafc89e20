//! What a reconciliation has at hand: the client, the caches of our own objects, and what is remembered between two looks.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Service};
use k8s_openapi::jiff::Timestamp;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, Resource, ResourceExt};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::OnceCell;

use super::facts::{Own, Sibling, Subject, Taken};
use super::variables::{self, withdrawn};
use crate::api::{Change, DatabaseReplication, Phase};
use crate::engine::{Identity, Position};
use crate::events::Events;
use crate::resources::labels;
use crate::telemetry::Metrics;

/// Caches of objects of ours: those that carry our label, and nothing else.
#[derive(Clone)]
pub struct Stores {
    /// The resources.
    pub replications: Store<DatabaseReplication>,
    /// Jobs.
    pub jobs: Store<Job>,
    /// StatefulSets of replicas.
    pub stateful_sets: Store<StatefulSet>,
    /// Services.
    pub services: Store<Service>,
    /// Claims.
    pub claims: Store<PersistentVolumeClaim>,
    /// Pods of Jobs and replicas.
    pub pods: Store<Pod>,
    /// Set once each of them has had its first list.
    pub listed: Arc<OnceCell<()>>,
}

fn of<K>(store: &Store<K>, namespace: &str, replication: &str) -> Vec<Arc<K>>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    store
        .state()
        .into_iter()
        .filter(|object| object.namespace().as_deref() == Some(namespace))
        .filter(|object| object.labels().get(labels::REPLICATION).is_some_and(|name| name == replication))
        .collect()
}

impl Stores {
    /// Facts about the objects of one resource.
    #[must_use]
    pub fn own(&self, namespace: &str, replication: &str, now: Timestamp) -> Own {
        Own::new(
            &of(&self.jobs, namespace, replication),
            &of(&self.stateful_sets, namespace, replication),
            &of(&self.services, namespace, replication),
            &of(&self.claims, namespace, replication),
            &of(&self.pods, namespace, replication),
            now,
        )
    }

    /// Waits for the first list of every kind. One asks for all: a store wakes only the last of those that wait for it, and the others would wait for ever.
    pub async fn ready(&self) -> bool {
        let first = || async {
            self.jobs.wait_until_ready().await?;
            self.stateful_sets.wait_until_ready().await?;
            self.services.wait_until_ready().await?;
            self.claims.wait_until_ready().await?;
            self.pods.wait_until_ready().await
        };
        self.listed.get_or_try_init(first).await.is_ok()
    }
}

/// What is remembered of one resource between two looks. Losing it costs a repeated look, never a wrong step.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// The resource as the API server answered our last write: the cache may still be behind it.
    pub written: Option<Arc<DatabaseReplication>>,
    /// Marks written to the source's log, by replica.
    pub marks: BTreeMap<u32, Position>,
    /// Since when replicas hold what the source does not.
    pub ahead: BTreeMap<u32, Instant>,
    /// What failed when steps were last executed, and how many times in a row.
    pub failure: Option<(String, u32)>,
    /// Objects of the user's that were read a moment ago.
    pub read: Option<(Instant, super::observe::Read)>,
    /// Bytes of the source's data, and when they were measured.
    pub measured: Option<(Instant, u64)>,
    /// Bytes of the target's data, what of it is the user's, and when that was asked.
    pub target_data: Option<(Instant, (u64, Vec<String>))>,
    /// Claims, with the size in bytes, that the cluster would not make larger.
    pub not_grown: BTreeMap<String, u64>,
    /// The steps that were executed last, in words, and how many times in a row they were the same.
    executed: (Vec<String>, u32),
}

impl Memory {
    /// Takes note of steps that were executed; gives how many times in a row they have been the same.
    pub fn repeated(&mut self, steps: Vec<String>) -> u32 {
        let times = if !steps.is_empty() && steps == self.executed.0 { self.executed.1 + 1 } else { 0 };
        self.executed = (steps, times);
        times
    }
}

/// What a reconciliation has at hand.
pub struct Context {
    /// Client for the API server.
    pub client: Client,
    /// Caches.
    pub stores: Stores,
    /// Publishes events.
    pub events: Events,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// The operator's own image: Jobs and replicas copy the agent from it.
    pub image: String,
    memory: Mutex<HashMap<String, Memory>>,
}

impl Context {
    /// A context with an empty memory.
    #[must_use]
    pub fn new(client: Client, stores: Stores, events: Events, metrics: Arc<Metrics>, image: String) -> Self {
        Self { client, stores, events, metrics, image, memory: Mutex::default() }
    }

    fn memories(&self) -> MutexGuard<'_, HashMap<String, Memory>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is remembered of a resource.
    #[must_use]
    pub fn memory(&self, uid: &str) -> Memory {
        self.memories().get(uid).cloned().unwrap_or_default()
    }

    /// Changes what is remembered of a resource.
    pub fn remember(&self, uid: &str, change: impl FnOnce(&mut Memory)) {
        change(self.memories().entry(uid.to_owned()).or_default());
    }

    /// Forgets a resource.
    pub fn forget(&self, uid: &str) {
        self.memories().remove(uid);
    }

    /// The newer of what the cache holds and what the API server answered our last write.
    #[must_use]
    pub fn newest(&self, cached: Arc<DatabaseReplication>) -> Arc<DatabaseReplication> {
        let Some(uid) = cached.uid() else { return cached };
        let Some(written) = self.memory(&uid).written else { return cached };
        // Resource versions of one resource are ordered numbers in every API server in use; where they are not, the cache counts.
        let version = |object: &DatabaseReplication| object.resource_version().and_then(|version| version.parse::<u64>().ok());
        match (version(&written), version(&cached)) {
            (Some(mine), Some(theirs)) if mine > theirs => written,
            _ => cached,
        }
    }

    /// Resources in the same namespace that came first: what they and this one both want is theirs.
    fn predecessors(&self, resource: &DatabaseReplication) -> Vec<Arc<DatabaseReplication>> {
        let mut first = self.first(resource);
        first.retain(|other| other.namespace() == resource.namespace());
        first
    }

    /// Resources of all namespaces that came first.
    fn first(&self, resource: &DatabaseReplication) -> Vec<Arc<DatabaseReplication>> {
        let reference = ObjectRef::from_obj(resource);
        let age = |object: &DatabaseReplication| (object.creation_timestamp().map(|time| time.0), object.name_any(), object.namespace());
        let mut others = self.stores.replications.state();
        others.retain(|other| {
            let wants = other.spec.enabled && !other.spec.dry_run || recorded(other);
            // Who already holds it keeps it; between two that do not, the older one gets it.
            let first = recorded(other) && !recorded(resource) || recorded(other) == recorded(resource) && age(other) < age(resource);
            ObjectRef::from_obj(&**other) != reference && wants && first
        });
        others.sort_by_key(|other| (other.name_any(), other.namespace()));
        others
    }

    /// The resource that came first and makes copies of the same source, if that is another one. Targets may share a source.
    #[must_use]
    pub fn rival(&self, resource: &DatabaseReplication) -> Option<String> {
        let copies = |resource: &DatabaseReplication| resource.spec.target.is_none().then(|| resource.spec.source.stateful_set_ref.clone());
        let same = |other: &&Arc<DatabaseReplication>| copies(other).is_some() && copies(other) == copies(resource);
        self.predecessors(resource).iter().find(same).map(|other| other.name_any())
    }

    /// What other resources that copy the same source, and go on doing so, have on record of it: without what carries their name, which is theirs alone.
    #[must_use]
    pub fn neighbours(&self, resource: &DatabaseReplication) -> Vec<Change> {
        let stays = |other: &DatabaseReplication| {
            let undoing = other.status.as_ref().is_some_and(|status| status.phase == Some(Phase::Disabling));
            other.spec.enabled && !undoing && other.metadata.deletion_timestamp.is_none() && !withdrawn(other)
        };
        let others = self.with_source_of(resource).into_iter().filter(|other| stays(other));
        let changes = others.filter_map(|other| Some(other.status.as_ref()?.source.as_ref()?.changes.clone())).flatten();
        changes.filter(|change| !change.what.contains(NAMED) && !change.after.contains(NAMED)).collect()
    }

    /// The names that resources have on this StatefulSet, which is their source.
    #[must_use]
    pub fn identities(&self, namespace: &str, stateful_set: &str) -> Vec<Identity> {
        named_on(&self.stores.replications.state(), namespace, stateful_set)
    }

    /// Other resources that have the same source.
    fn with_source_of(&self, resource: &DatabaseReplication) -> Vec<Arc<DatabaseReplication>> {
        let mut others = self.stores.replications.state();
        others.retain(|other| other.uid() != resource.uid() && source_of(other) == source_of(resource));
        others
    }

    /// The resource that came first and has this one's target as its own target, or as its source.
    #[must_use]
    pub fn target_rival(&self, resource: &DatabaseReplication) -> Option<String> {
        target_rival(&self.first(resource), resource)
    }

    /// Variables of this resource that one which came first writes.
    #[must_use]
    pub fn taken(&self, subject: &Subject) -> Vec<Taken> {
        if subject.places.is_empty() { Vec::new() } else { variables::taken(&subject.resource, &self.first(&subject.resource)) }
    }

    /// Resources with which this one shares ConfigMaps of the source's application.
    #[must_use]
    pub fn siblings(&self, subject: &Subject) -> Vec<Sibling> {
        if subject.target.is_none() { Vec::new() } else { variables::siblings(&subject.resource, &self.stores.replications.state()) }
    }
}

/// Namespace and name of a resource's source.
fn source_of(resource: &DatabaseReplication) -> (Option<String>, &str) {
    let source = &resource.spec.source.stateful_set_ref;
    (source.namespace.clone().or_else(|| resource.namespace()), &source.name)
}

/// See [`Context::identities`].
fn named_on(all: &[Arc<DatabaseReplication>], namespace: &str, stateful_set: &str) -> Vec<Identity> {
    let there = all.iter().filter(|resource| source_of(resource) == (Some(namespace.to_owned()), stateful_set));
    there.filter_map(|resource| Identity::parse(resource.status.as_ref()?.enablement.as_ref()?)).collect()
}

/// It is on record that it has begun.
fn recorded(resource: &DatabaseReplication) -> bool {
    resource.status.as_ref().is_some_and(|status| status.enablement.is_some())
}

/// Which of the resources that came first has this one's target. One of another namespace that has not begun may not have its owner's consent, and
/// has no say.
fn target_rival(first: &[Arc<DatabaseReplication>], resource: &DatabaseReplication) -> Option<String> {
    let target = resource.spec.target.as_ref()?.stateful_set_ref.name.as_str();
    let has = |other: &&Arc<DatabaseReplication>| {
        let (here, theirs) = (other.namespace() == resource.namespace(), other.spec.target.as_ref());
        let is_source = source_of(other) == (resource.namespace(), target);
        is_source && (here || recorded(other) && !withdrawn(other)) || here && theirs.is_some_and(|theirs| theirs.stateful_set_ref.name == target)
    };
    let name = |other: &Arc<DatabaseReplication>| match other.namespace() {
        Some(namespace) if other.namespace() != resource.namespace() => format!("{namespace}/{}", other.name_any()),
        _ => other.name_any(),
    };
    first.iter().find(has).map(name)
}

/// What names of ours on a server begin with ([`crate::engine::Identity::role`]).
const NAMED: &str = "understudy_";
/// How long a size that was measured counts.
pub const MEASURED_FOR: Duration = Duration::from_mins(1);
/// How long objects of the user's count as just read while steps follow one another.
pub const READ_FOR: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;
    use kube::runtime::reflector;
    use kube::runtime::watcher::Event;

    #[test]
    fn steps_that_repeat_themselves_are_counted() {
        let mut memory = Memory::default();
        let steps = |text: &str| vec![text.to_owned()];
        assert_eq!([memory.repeated(steps("a")), memory.repeated(steps("a")), memory.repeated(steps("a"))], [0, 1, 2]);
        assert_eq!([memory.repeated(steps("b")), memory.repeated(vec![]), memory.repeated(vec![]), memory.repeated(steps("b"))], [0, 0, 0, 0]);
    }

    #[test]
    fn who_has_a_target_already_is_told_and_has_a_say_only_with_consent() {
        use serde_json::json;
        let resource = |namespace: &str, name: &str, source: serde_json::Value, target: Option<&str>, begun: bool| -> DatabaseReplication {
            let mut spec = json!({"engine": "Redis", "source": {"statefulSetRef": source, "credentials": {"secretRef": {"name": "s"}}}, "backup": {"volume": {"size": "1Gi"}}});
            match target {
                Some(target) => spec["target"] = json!({"statefulSetRef": {"name": target}, "credentials": {"secretRef": {"name": "t"}}}),
                None => spec["replicas"] = json!(1),
            }
            let status = if begun { json!({"enablement": "k3x9q2ab"}) } else { json!({}) };
            serde_json::from_value(json!({"apiVersion": "understudy.dev/v1alpha1", "kind": "DatabaseReplication",
                "metadata": {"name": name, "namespace": namespace, "uid": name}, "spec": spec, "status": status}))
            .unwrap()
        };
        let one = resource("reports", "orders", json!({"name": "orders-db", "namespace": "sales"}), Some("reports-db"), false);
        for (other, rival) in [
            (resource("reports", "other", json!({"name": "x"}), Some("reports-db"), false), Some("other")),
            (resource("reports", "other", json!({"name": "reports-db"}), None, false), Some("other")),
            (resource("reports", "other", json!({"name": "x"}), Some("other-db"), true), None),
            (resource("finance", "other", json!({"name": "reports-db", "namespace": "reports"}), Some("x"), true), Some("finance/other")),
            (resource("finance", "other", json!({"name": "reports-db", "namespace": "reports"}), Some("x"), false), None),
            (resource("finance", "other", json!({"name": "reports-db"}), Some("reports-db"), true), None),
        ] {
            assert_eq!(target_rival(&[Arc::new(other.clone())], &one).as_deref(), rival, "{other:?}");
        }
        // Taken back it counts no longer, also where somebody suspends the resource then.
        let mut other = resource("finance", "other", json!({"name": "reports-db", "namespace": "reports"}), Some("x"), true);
        let conditions = [("Ready", "Suspended"), ("SourceConfigured", "ConsentWithdrawn")]
            .map(|(kind, reason)| json!({"type": kind, "status": "False", "reason": reason, "message": "", "lastTransitionTime": "2026-11-24T00:00:00Z"}));
        other.status.as_mut().unwrap().conditions = serde_json::from_value(json!(conditions)).unwrap();
        assert_eq!(target_rival(&[Arc::new(other)], &one), None);
    }

    #[test]
    fn only_who_has_a_server_as_its_source_has_a_name_on_it() {
        use serde_json::json;
        let resource = |namespace: &str, name: &str, word: &str, source: serde_json::Value| -> DatabaseReplication {
            let spec = json!({"engine": "Redis", "source": {"statefulSetRef": source, "credentials": {"secretRef": {"name": "s"}}}, "backup": {"volume": {"size": "1Gi"}}, "replicas": 1});
            let metadata = json!({"name": name, "namespace": namespace, "uid": name});
            let object = json!({"apiVersion": "understudy.dev/v1alpha1", "kind": "DatabaseReplication", "metadata": metadata, "spec": spec, "status": {"enablement": word}});
            serde_json::from_value(object).unwrap()
        };
        for (source, named) in [
            (json!({"name": "orders-db"}), true),
            (json!({"name": "orders-db", "namespace": "shop"}), true),
            (json!({"name": "orders-db", "namespace": "sales"}), false),
            (json!({"name": "other-db"}), false),
        ] {
            let found = named_on(&[Arc::new(resource("shop", "orders", "k3x9q2ab", source.clone()))], "shop", "orders-db");
            assert_eq!(found, named.then(|| Identity::parse("k3x9q2ab").unwrap()).into_iter().collect::<Vec<_>>(), "{source}");
        }
    }

    #[tokio::test]
    async fn everyone_who_waits_for_the_first_lists_is_woken() {
        let (replications, _) = reflector::store();
        let (jobs, mut job_list) = reflector::store();
        let (stateful_sets, mut stateful_set_list) = reflector::store();
        let (services, mut service_list) = reflector::store();
        let (claims, mut claim_list) = reflector::store();
        let (pods, mut pod_list) = reflector::store();
        let stores = Stores { replications, jobs, stateful_sets, services, claims, pods, listed: Arc::default() };
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                tokio::spawn({
                    let stores = stores.clone();
                    async move { stores.ready().await }
                })
            })
            .collect();
        tokio::task::yield_now().await;
        job_list.apply_watcher_event(&Event::InitDone);
        stateful_set_list.apply_watcher_event(&Event::InitDone);
        service_list.apply_watcher_event(&Event::InitDone);
        claim_list.apply_watcher_event(&Event::InitDone);
        pod_list.apply_watcher_event(&Event::InitDone);
        for one in waiting {
            assert!(tokio::time::timeout(Duration::from_secs(5), one).await.expect("woken").unwrap());
        }
    }
}
