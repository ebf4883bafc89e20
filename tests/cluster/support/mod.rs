//! What the cluster tests share: a namespace with a database, a client that writes to it, and waiting for conditions.
//!
//! Everything here talks to pods and services, so it refuses to run outside the cluster's own network.

mod tools;
mod writer;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Service};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use std::fmt::Debug;
use std::marker::PhantomData;
use understudy::api::{DatabaseReplication, Phase};

#[allow(unused_imports, reason = "not every test binary asks for each")]
pub use self::tools::{audit_lines, audit_mark, guard, requests_since, run, wait, writes_since};
#[allow(unused_imports, reason = "as above")]
pub use self::writer::{Reader, Watch, Writer};
#[allow(unused_imports, reason = "as above")]
pub use crate::databases::{Database, OTHER_PASSWORD, PASSWORD, PostgreSql, password_of, query};

/// A namespace of its own with a source of one engine in it.
pub struct Place<D> {
    pub client: Client,
    pub namespace: String,
    engine: PhantomData<fn() -> D>,
}

/// One with a PostgreSQL.
pub type Shop = Place<PostgreSql>;

/// A resource that gives a PostgreSQL its replicas.
pub fn replication(name: &str, source: &str) -> Value {
    replication_of::<PostgreSql>(name, source)
}

/// A resource that gives `source` its replicas.
pub fn replication_of<D: Database>(name: &str, source: &str) -> Value {
    json!({
        "apiVersion": "understudy.dev/v1alpha1", "kind": "DatabaseReplication", "metadata": {"name": name},
        "spec": {
            "engine": D::ENGINE,
            "source": {"statefulSetRef": {"name": source}, "credentials": {"secretRef": {"name": source}}},
            "replicas": D::REPLICAS,
            "backup": {"volume": {"size": "1Gi"}},
            "environment": {"configMaps": [{"name": "shop-env"}]}
        }
    })
}

/// Annotation by which the owner of a source agrees.
pub const ALLOWED: &str = "understudy.dev/allowed-namespaces";

/// A resource that makes `reports-db` the replica of `orders-db` in another namespace.
pub fn replication_between<D: Database>(source: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut resource = replication_of::<D>("orders", "orders-db");
    let spec = &mut resource["spec"];
    spec.as_object_mut().unwrap().remove("replicas");
    spec["source"]["statefulSetRef"]["namespace"] = json!(source);
    spec["target"] = json!({"statefulSetRef": {"name": "reports-db"}, "credentials": {"secretRef": {"name": "reports-db"}}});
    change(spec);
    resource
}

/// Two namespaces with a source in the one and a target in the other.
pub async fn applications<D: Database>(scenario: &str) -> (Place<D>, Place<D>) {
    let sales = Place::<D>::with_source(&format!("understudy-{scenario}-sales-{}", D::NAME)).await;
    let reports = Place::<D>::new(&format!("understudy-{scenario}-{}", D::NAME)).await;
    reports.source("reports-db", |_| {}).await;
    (sales, reports)
}

impl Shop {
    /// Executes SQL on the pod `name`.
    pub async fn sql(&self, pod: &str, sql: &str) -> Result<Vec<String>, String> {
        query(&self.pod_ip(pod).await?, sql).await
    }
}

impl<D: Database> Place<D> {
    /// A client's connection to a pod.
    pub async fn connect(&self, pod: &str) -> Result<D, String> {
        D::connect(&self.pod_ip(pod).await?).await
    }

    /// Everything on the source that must be the same after disabling.
    pub async fn snapshot(&self, pod: &str) -> Vec<String> {
        let mut all = wait(&format!("{pod} answers"), 120, || async { self.connect(pod).await?.snapshot().await }).await;
        // The StatefulSet, and who owns fields of it.
        let name = pod.strip_suffix("-0").unwrap_or(pod);
        let object: Value = serde_json::from_str(&self.kubectl(&["get", "statefulset", name, "-o", "json", "--show-managed-fields"]).unwrap()).unwrap();
        let mut spec = object["spec"].clone();
        // That is how some scenarios stop it.
        spec.as_object_mut().unwrap().remove("replicas");
        all.push(spec.to_string());
        let managers = object["metadata"]["managedFields"].as_array().unwrap().iter().filter(|entry| entry["subresource"].is_null());
        all.push(managers.map(|entry| entry["manager"].to_string()).collect());
        all
    }

    /// Users, slots and the like of ours on the source.
    pub async fn traces(&self, pod: &str) -> Vec<String> {
        wait(&format!("{pod} answers"), 120, || async { self.connect(pod).await?.traces().await }).await
    }

    /// Name of a variable.
    pub fn key(suffix: &str) -> String {
        format!("{}_{suffix}", D::PREFIX)
    }

    /// Addresses of replicas as the application is told them.
    pub async fn replica_addresses(&self) -> String {
        self.data("shop-env").await[&Self::key("SLAVE_ADDRESSES_INT")].clone()
    }

    /// The addresses of `count` replicas of a resource, as the application is to be told them.
    pub fn addresses_of(&self, name: &str, count: u32) -> String {
        let all: Vec<String> = (1..=count).map(|number| format!("{name}-replica-{number}.{}.svc", self.namespace)).collect();
        all.join(",")
    }

    /// Every row that was confirmed on the source is on each of `count` replicas of `orders` too.
    pub async fn nothing_is_missing(&self, count: u32, rows: u64) {
        for replica in (1..=count).map(|number| format!("orders-replica-{number}-0")) {
            wait(&format!("{rows} rows on {replica}"), 120, || async {
                let found = self.connect(&replica).await?.count().await?;
                if found >= rows { Ok(()) } else { Err(found.to_string()) }
            })
            .await;
        }
    }

    /// How many rows a server has.
    pub async fn rows(&self, pod: &str) -> u64 {
        wait(&format!("{pod} counts its rows"), 120, || async { self.connect(pod).await?.count().await }).await
    }

    /// A pod stops and does not come back, as when its node is gone: it stays there, ending, until `revive`.
    pub async fn lose(&self, pod: &str) {
        self.kubectl(&["patch", "pod", pod, "--type=merge", "-p", r#"{"metadata":{"finalizers":["understudy.dev/lost"]}}"#]).unwrap();
        self.kubectl(&["delete", "pod", pod, "--wait=false"]).unwrap();
        wait(&format!("{pod} has stopped"), 120, || async {
            let found: Pod = self.api().get(pod).await.map_err(|error| error.to_string())?;
            let statuses = found.status.unwrap_or_default().container_statuses.unwrap_or_default();
            let ended = statuses.iter().all(|status| status.state.as_ref().is_some_and(|state| state.terminated.is_some()));
            if ended { Ok(()) } else { Err(format!("{statuses:?}")) }
        })
        .await;
    }

    /// What was lost is replaced by a new pod, on the same volume.
    pub fn revive(&self, pod: &str) -> Result<String, String> {
        self.kubectl(&["patch", "pod", pod, "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#])
    }

    /// A new pod has taken the place of the one with this uid.
    pub async fn replaced(&self, pod: &str, old: &str) {
        wait(&format!("a new {pod}"), 180, || async {
            match self.uid(pod).await? {
                uid if uid == old => Err("still the old one".to_owned()),
                _ => Ok(()),
            }
        })
        .await;
    }

    /// The uid of a pod.
    pub async fn uid(&self, pod: &str) -> Result<String, String> {
        let found: Pod = self.api().get(pod).await.map_err(|error| error.to_string())?;
        found.metadata.uid.ok_or_else(|| "no uid".to_owned())
    }

    /// A replica serves reads only.
    pub async fn read_only(&self, replica: &str) {
        let refused = self.connect(replica).await.unwrap().insert(u64::from(u32::MAX)).await.unwrap_err();
        assert!(D::is_read_only(&refused), "{refused}");
    }

    /// A new, empty namespace; one that an earlier run left is removed first.
    pub async fn new(namespace: &str) -> Self {
        guard();
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::try_default().await.expect("a cluster to talk to");
        let shop = Self { client, namespace: namespace.to_owned(), engine: PhantomData };
        shop.remove().await;
        let object: Namespace = serde_json::from_value(json!({"metadata": {"name": namespace}})).unwrap();
        Api::all(shop.client.clone()).create(&PostParams::default(), &object).await.unwrap();
        shop
    }

    /// A namespace with a source called `orders-db`, its Secret, Service, and a ConfigMap of the application.
    pub async fn with_source(namespace: &str) -> Self {
        let shop = Self::new(namespace).await;
        shop.source("orders-db", |_| {}).await;
        shop
    }

    /// Adds a source; `change` may reshape its StatefulSet.
    pub async fn source(&self, name: &str, change: impl FnOnce(&mut Value)) {
        self.secret(name, D::secret(password_of(name)));
        self.apply(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "shop-env"}, "data": {"OTHER": "theirs"}})).unwrap();
        self.apply(&json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"selector": {"app": name}, "ports": [{"name": D::NAME, "port": D::PORT}]}}))
            .unwrap();
        let mut object = D::stateful_set(name);
        change(&mut object);
        self.apply(&object).unwrap();
        self.source_ready(name).await;
    }

    /// Waits until a source's pod takes connections.
    pub async fn source_ready(&self, name: &str) {
        let pod = format!("{name}-0");
        wait(&format!("{pod} is ready"), 180, || async {
            let found: Option<Pod> = self.api().get_opt(&pod).await.map_err(|e| e.to_string())?;
            let status = found.and_then(|pod| pod.status).unwrap_or_default();
            let ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
            ready.then_some(()).ok_or_else(|| format!("{:?} {:?}", status.phase, status.container_statuses))
        })
        .await;
    }

    /// Applies a Secret with these keys.
    pub fn secret(&self, name: &str, data: Value) {
        self.apply(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data})).unwrap();
    }

    /// A typed client for this namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// `kubectl apply`, as a user does it; the error is what the user sees.
    pub fn apply(&self, object: &Value) -> Result<String, String> {
        run("kubectl", &["apply", "-n", &self.namespace, "-f", "-"], &object.to_string())
    }

    /// `kubectl` in this namespace.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        run("kubectl", &[&["-n", self.namespace.as_str()], arguments].concat(), "")
    }

    /// Changes `spec` of a resource.
    pub async fn edit(&self, name: &str, spec: Value) {
        let patch = Patch::Merge(json!({"spec": spec}));
        self.api::<DatabaseReplication>().patch(name, &PatchParams::default(), &patch).await.unwrap();
    }

    /// The resource as it stands.
    pub async fn get(&self, name: &str) -> Result<DatabaseReplication, String> {
        self.api().get(name).await.map_err(|error| error.to_string())
    }

    /// Status, reason and message of a condition, if it is there for the current generation.
    pub async fn condition(&self, name: &str, kind: &str) -> Result<(String, String, String), String> {
        let resource = self.get(name).await?;
        let status = resource.status.clone().ok_or("no status yet")?;
        if status.observed_generation != resource.metadata.generation {
            return Err(format!("status of generation {:?}", status.observed_generation));
        }
        let condition = status.conditions.into_iter().find(|condition| condition.type_ == kind).ok_or("no such condition")?;
        Ok((condition.status, condition.reason, condition.message))
    }

    /// Waits until `Ready` has this reason; gives its message.
    pub async fn reason(&self, name: &str, reason: &str, seconds: u64) -> String {
        wait(&format!("{name} is {reason}"), seconds, || async {
            let found = self.condition(name, "Ready").await?;
            if found.1 == reason { Ok(found.2) } else { Err(format!("{found:?}")) }
        })
        .await
    }

    /// Waits until the resource is in this phase, for its current generation.
    pub async fn phase(&self, name: &str, phase: Phase, seconds: u64) {
        wait(&format!("{name} is {phase:?}"), seconds, || async {
            let resource = self.get(name).await?;
            let status = resource.status.unwrap_or_default();
            let current = status.observed_generation == resource.metadata.generation;
            if current && status.phase == Some(phase) { Ok(()) } else { Err(format!("{:?}: {:?}", status.phase, status.conditions)) }
        })
        .await;
    }

    /// Waits until the resource replicates, with all its replicas.
    pub async fn replicating(&self, name: &str, seconds: u64) {
        self.reason(name, "Replicating", seconds).await;
    }

    /// Deletes the resource and waits until it is gone.
    pub async fn delete(&self, name: &str, seconds: u64) {
        self.api::<DatabaseReplication>().delete(name, &DeleteParams::default()).await.unwrap();
        wait(&format!("{name} is gone"), seconds, || async {
            match self.api::<DatabaseReplication>().get_opt(name).await {
                Ok(None) => Ok(()),
                Ok(Some(resource)) => Err(format!("{:?}", resource.status)),
                Err(error) => Err(error.to_string()),
            }
        })
        .await;
    }

    /// Cluster address of a Service.
    pub async fn service(&self, name: &str) -> String {
        self.api::<Service>().get(name).await.unwrap().spec.unwrap().cluster_ip.unwrap()
    }

    /// Address of a pod.
    pub async fn pod_ip(&self, name: &str) -> Result<String, String> {
        let pod: Pod = self.api().get(name).await.map_err(|error| error.to_string())?;
        pod.status.and_then(|status| status.pod_ip).ok_or_else(|| "no address yet".to_owned())
    }

    /// Data of a ConfigMap.
    pub async fn data(&self, name: &str) -> std::collections::BTreeMap<String, String> {
        self.api::<ConfigMap>().get(name).await.unwrap().data.unwrap_or_default()
    }

    /// Names of objects of a kind in this namespace, those of ours or all.
    pub async fn names<K>(&self, selector: &str) -> Vec<String>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()> + Clone + serde::de::DeserializeOwned + Debug,
    {
        self.api::<K>().list(&ListParams::default().labels(selector)).await.unwrap().iter().map(ResourceExt::name_any).collect()
    }

    /// Names of what lies on a volume, as a pod that mounts it sees them.
    pub fn volume(&self, claim: &str) -> Vec<String> {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "look"}, "spec": {
            "restartPolicy": "Never",
            "containers": [{"name": "look", "image": "busybox:1.36", "command": ["ls", "-A", "/volume"], "volumeMounts": [{"name": "volume", "mountPath": "/volume"}]}],
            "volumes": [{"name": "volume", "persistentVolumeClaim": {"claimName": claim}}]
        }});
        self.apply(&pod).unwrap();
        self.kubectl(&["wait", "pod", "look", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s"]).unwrap();
        let listed = self.kubectl(&["logs", "look"]).unwrap();
        self.kubectl(&["delete", "pod", "look", "--grace-period=1"]).unwrap();
        let mut names: Vec<String> = listed.lines().filter(|name| *name != "lost+found").map(str::to_owned).collect();
        names.sort();
        names
    }

    /// Removes the namespace and what is in it. Resources go first, while the source is still there to be cleaned.
    pub async fn remove(&self) {
        let api: Api<Namespace> = Api::all(self.client.clone());
        if api.get_opt(&self.namespace).await.unwrap().is_none() {
            return;
        }
        let pods = self.kubectl(&["get", "pods", "-o", "name"]).unwrap_or_default();
        for pod in pods.lines() {
            // Of a run that ended while it was lost.
            let _ = self.revive(pod.trim_start_matches("pod/"));
        }
        let _ = self.kubectl(&["delete", "dbrep", "--all", "--timeout=120s"]);
        let _ = api.delete(&self.namespace, &DeleteParams::default()).await;
        wait(&format!("namespace {} is gone", self.namespace), 120, || async {
            match api.get_opt(&self.namespace).await {
                Ok(None) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }
}
