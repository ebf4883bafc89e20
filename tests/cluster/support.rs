//! What the cluster tests share: a namespace with a database, a client that writes to it, and waiting for conditions.
//!
//! Everything here talks to pods and services, so it refuses to run outside the cluster's own network.

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Service};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use std::fmt::Debug;
use std::future::Future;
use std::io::Write;
use std::marker::PhantomData;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use understudy::api::{DatabaseReplication, Phase};

#[allow(unused_imports, reason = "not every test binary asks for each")]
pub use crate::databases::{Database, PASSWORD, PostgreSql, query};

pub const USER: &str = PostgreSql::USER;

/// A namespace of its own with a source of one engine in it.
pub struct Place<D> {
    pub client: Client,
    pub namespace: String,
    engine: PhantomData<fn() -> D>,
}

/// One with a PostgreSQL.
pub type Shop = Place<PostgreSql>;

fn guard() {
    let current = std::env::var("CLUSTER").is_ok_and(|cluster| cluster == "current");
    assert!(current || std::env::var("UNDERSTUDY_NETNS").is_ok(), "cluster tests talk to pods: run them with `make test`, inside the cluster's network");
}

/// Runs a command with text as its input; gives its output, or its complaint.
pub fn run(program: &str, arguments: &[&str], input: &str) -> Result<String, String> {
    guard();
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{program}: {error}"))?;
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// Waits until `look` gives a value; it says what it saw otherwise.
pub async fn wait<T, F>(what: &str, seconds: u64, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, String>>,
{
    let begun = Instant::now();
    loop {
        match look().await {
            Ok(value) => return value,
            Err(seen) => assert!(begun.elapsed() < Duration::from_secs(seconds), "after {seconds} s still not: {what}; last seen: {seen}"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The StatefulSet of a PostgreSQL with the official image's defaults.
pub fn stateful_set(name: &str) -> Value {
    PostgreSql::stateful_set(name)
}

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
            "replicas": 1,
            "backup": {"volume": {"size": "1Gi"}},
            "environment": {"configMaps": [{"name": "shop-env"}]}
        }
    })
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
        wait(&format!("{pod} answers"), 30, || async { self.connect(pod).await?.snapshot().await }).await
    }

    /// Users, slots and the like of ours on the source.
    pub async fn traces(&self, pod: &str) -> Vec<String> {
        wait(&format!("{pod} answers"), 30, || async { self.connect(pod).await?.traces().await }).await
    }

    /// Name of a variable.
    pub fn key(suffix: &str) -> String {
        format!("{}_{suffix}", D::PREFIX)
    }

    /// Addresses of replicas as the application is told them.
    pub async fn replica_addresses(&self) -> String {
        self.data("shop-env").await[&Self::key("SLAVE_ADDRESSES_INT")].clone()
    }

    /// Every row that was confirmed on the source is on the replica too.
    pub async fn nothing_is_missing(&self, replica: &str, rows: u64) {
        wait(&format!("{rows} rows on {replica}"), 30, || async {
            let found = self.connect(replica).await?.count().await?;
            if found >= rows { Ok(()) } else { Err(found.to_string()) }
        })
        .await;
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
        self.secret(name, D::secret());
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
        wait(&format!("{pod} is ready"), 90, || async {
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

/// A client that writes 50 rows a second through a Service, on one connection after another.
pub struct Writer {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<(u64, Vec<String>)>,
}

impl Writer {
    /// Makes the table and begins to write.
    pub async fn start<D: Database>(host: String) -> Self {
        // A Service reaches its pod a moment after the pod is ready.
        wait("the source answers through its Service", 30, || async { D::connect(&host).await?.prepare().await }).await;
        let stop = Arc::new(AtomicBool::new(false));
        let seen = stop.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(write::<D>(&host, &seen))
        });
        Self { stop, thread }
    }

    /// Ends; gives the number of rows that were confirmed, and every error that a client saw.
    pub fn finish(self) -> (u64, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

async fn write<D: Database>(host: &str, stop: &AtomicBool) -> (u64, Vec<String>) {
    const MOST: u64 = 50 * 60 * 30;
    let (mut written, mut errors) = (0, Vec::new());
    while !stop.load(Ordering::Relaxed) && written < MOST && errors.len() < 1000 {
        let mut client = match D::connect(host).await {
            Ok(client) => client,
            Err(error) => {
                errors.push(error);
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        // A new connection every ten seconds: clients come and go.
        for _ in 0..500 {
            pace.tick().await;
            if stop.load(Ordering::Relaxed) {
                break;
            }
            match client.insert(written + 1).await {
                Ok(()) => written += 1,
                Err(error) => {
                    errors.push(error);
                    break;
                }
            }
        }
    }
    (written, errors)
}

/// Write requests of the operator to this namespace since a line of the audit log.
pub fn writes_since(namespace: &str, mark: usize) -> Vec<String> {
    audit_lines()
        .into_iter()
        .skip(mark)
        .filter(|line| line["user"]["username"].as_str().is_some_and(|user| user == "system:serviceaccount:understudy-system:understudy"))
        .filter(|line| line["objectRef"]["namespace"] == namespace)
        .filter(|line| !matches!(line["verb"].as_str(), Some("get" | "list" | "watch")))
        .map(|line| format!("{} {} {}", line["verb"], line["objectRef"]["resource"], line["objectRef"]["name"]))
        .collect()
}

/// The API server's audit log.
pub fn audit_lines() -> Vec<Value> {
    let state = std::env::var("UNDERSTUDY_CLUSTER_STATE").expect("the local cluster's state directory");
    let text = std::fs::read_to_string(format!("{state}/audit.log")).unwrap();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}
