//! The controller is killed (SIGKILL) at each step, and converges to the same end.
//!
//! The operator's own binary runs here as a process, with the service account's permissions, so that it can be killed at the very line of its log that
//! says a step begins or is done. The Deployment is scaled to zero meanwhile.
#![allow(clippy::pedantic, clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../cluster/databases/mod.rs"]
#[allow(dead_code)]
mod databases;
#[path = "../cluster/support/mod.rs"]
#[allow(dead_code)]
mod support;

use databases::{for_engines, for_every_engine};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use support::{ALLOWED, Database, Place, Shop, Watch, Writer, applications, replication, replication_between, replication_of, run, wait};
use tokio::sync::RwLock;
use understudy::api::Phase;

const NAMESPACE: &str = "understudy-system";

/// The Deployment gives way, and comes back whatever happens.
struct Aside;

impl Aside {
    fn step() -> Self {
        run("kubectl", &["-n", NAMESPACE, "scale", "deployment/understudy", "--replicas=0"], "").unwrap();
        run("kubectl", &["-n", NAMESPACE, "wait", "--for=delete", "pod", "-l", "app.kubernetes.io/name=understudy", "--timeout=60s"], "").unwrap();
        Self
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        let back = run("kubectl", &["-n", NAMESPACE, "scale", "deployment/understudy", "--replicas=1"], "");
        eprintln!("the operator's Deployment is back: {back:?}");
    }
}

const KUBECONFIG: &str = "kubeconfig.json";

/// Writes a kubeconfig with the permissions of the operator and no more.
fn kubeconfig(directory: &std::path::Path) {
    let token = run("kubectl", &["-n", NAMESPACE, "create", "token", "understudy", "--duration=2h"], "").unwrap();
    let mut config: Value = serde_json::from_str(&run("kubectl", &["config", "view", "--raw", "--minify", "--flatten", "-o", "json"], "").unwrap()).unwrap();
    config["users"][0]["user"] = json!({"token": token.trim()});
    std::fs::write(directory.join(KUBECONFIG), config.to_string()).unwrap();
}

/// A line of the operator's log: which of its processes wrote it, what it says, and of which step.
struct Line {
    process: u64,
    says: (String, String),
}

/// The operator as a process, instead of the Deployment's pod, while a test has a share in it.
struct Process {
    child: Child,
    number: u64,
    listeners: BTreeMap<String, Sender<Line>>,
    directory: tempfile::TempDir,
    _aside: Aside,
}

static PROCESS: Mutex<Option<Process>> = Mutex::new(None);

/// A test that failed may have held it.
fn process() -> MutexGuard<'static, Option<Process>> {
    PROCESS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The process of this number; what its log says of steps goes to the tests whose namespaces they are in.
fn spawn(directory: &std::path::Path, number: u64) -> Child {
    let image = std::env::var("UNDERSTUDY_IMAGE").unwrap_or_else(|_| "understudy:dev".to_owned());
    // The binary of the image, where there is one: unlike that of the tests it is optimised.
    let binary = std::env::var("UNDERSTUDY_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_understudy").to_owned());
    let mut child = Command::new(binary)
        .args(["controller", "--image", &image, "--namespace", NAMESPACE, "--name", "understudy-killed", "--listen", "127.0.0.1:0"])
        .env("KUBECONFIG", directory.join(KUBECONFIG))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stderr = child.stderr.take().unwrap();
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            let Ok(entry) = serde_json::from_str::<Value>(&line) else { continue };
            if entry["level"] == "WARN" || entry["level"] == "ERROR" {
                eprintln!("operator: {line}");
            }
            let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
            let says = (text("message"), text("step"));
            if let Some(listener) = process().as_ref().and_then(|process| process.listeners.get(&text("namespace")))
                && says.0.starts_with("step ")
            {
                let _ = listener.send(Line { process: number, says });
            }
        }
    });
    child
}

/// A test's share in the operator. Tests run side by side, and what one of them kills is killed for the others too, wherever they are.
struct Operator {
    namespace: String,
    lines: Receiver<Line>,
}

impl Operator {
    fn share(namespace: &str) -> Self {
        let (send, lines) = channel();
        let mut shared = process();
        let process = shared.get_or_insert_with(|| {
            let aside = Aside::step();
            let directory = tempfile::tempdir().unwrap();
            kubeconfig(directory.path());
            Process { child: spawn(directory.path(), 0), number: 0, listeners: BTreeMap::new(), directory, _aside: aside }
        });
        process.listeners.insert(namespace.to_owned(), send);
        Self { namespace: namespace.to_owned(), lines }
    }

    /// Kills the process that wrote the line, if another test has not yet, and starts the next.
    fn kill(&self, line: &Line) {
        let mut shared = process();
        let process = shared.as_mut().unwrap();
        if process.number == line.process {
            process.child.kill().unwrap();
            process.child.wait().unwrap();
            process.number += 1;
            process.child = spawn(process.directory.path(), process.number);
        }
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let mut shared = process();
        let Some(process) = shared.as_mut() else { return };
        process.listeners.remove(&self.namespace);
        if process.listeners.is_empty() {
            let _ = process.child.kill();
            let _ = process.child.wait();
            *shared = None;
        }
    }
}

/// Waits until `reached`, killing the operator at the first begin and the first end of every step in this namespace. Gives how often.
async fn killed_at_each_step<D, F>(shop: &Place<D>, operator: &Operator, what: &str, mut reached: impl FnMut() -> F) -> usize
where
    D: Database,
    F: Future<Output = bool>,
{
    let mut seen = BTreeSet::new();
    let begun = Instant::now();
    loop {
        match operator.lines.recv_timeout(Duration::from_millis(50)) {
            Ok(line) => {
                if !seen.contains(&line.says) {
                    operator.kill(&line);
                    eprintln!("{}: {what}: killed at: {} {}", shop.namespace, line.says.0, line.says.1);
                    seen.insert(line.says);
                }
            }
            Err(_) if reached().await => return seen.len(),
            Err(_) => assert!(
                begun.elapsed() < Duration::from_secs(240 * u64::from(D::REPLICAS)),
                "{what}: not reached; {:?}",
                shop.get("orders").await.map(|r| r.status)
            ),
        }
    }
}

/// Held by the tests that kill the operator, together, and by the one that needs its Deployment, alone.
static DEPLOYMENT: RwLock<()> = RwLock::const_new(());

for_every_engine!(killed_at_each_step_it_converges_to_the_same_end);

async fn killed_at_each_step_it_converges_to_the_same_end<D: Database>() {
    let shop = Place::<D>::with_source(&format!("understudy-killed-{}", D::NAME)).await;
    let _deployment = DEPLOYMENT.read().await;
    let operator = Operator::share(&shop.namespace);
    let primary = shop.service("orders-db").await;
    let writer = Writer::start::<D>(primary.clone()).await;
    let before = shop.snapshot("orders-db-0").await;
    let replicating = || async { shop.condition("orders", "Ready").await.is_ok_and(|(_, reason, _)| reason == "Replicating") };
    // The finalizer goes after the status is written: only then is nothing left to do.
    let standalone = || async {
        let resource = shop.get("orders").await.unwrap();
        resource.status.is_some_and(|status| status.phase == Some(Phase::Standalone)) && resource.metadata.finalizers.is_none()
    };

    let mut resource = replication_of::<D>("orders", "orders-db");
    resource["spec"]["deletionPolicy"] = json!("Delete");
    shop.apply(&resource).unwrap();
    let kills = killed_at_each_step(&shop, &operator, "enable", replicating).await;
    assert!(kills >= D::KILLS, "{kills}");
    let one_backup = async || assert_eq!(shop.names::<Job>("understudy.dev/component=backup").await.len(), 1);
    one_backup().await;
    let traces = shop.traces("orders-db-0").await;
    assert_eq!(traces.len(), D::TRACES, "one of each kind: {traces:?}");

    shop.edit("orders", json!({"replicas": D::REPLICAS + D::STEP})).await;
    killed_at_each_step(&shop, &operator, "scale up", replicating).await;
    one_backup().await;
    shop.edit("orders", json!({"replicas": D::REPLICAS})).await;
    killed_at_each_step(&shop, &operator, "scale down", replicating).await;
    assert_eq!(shop.traces("orders-db-0").await.len(), D::TRACES);
    let claims = shop.names::<k8s_openapi::api::core::v1::PersistentVolumeClaim>("understudy.dev/component=replica").await;
    assert_eq!(claims.len(), D::REPLICAS as usize, "{claims:?}");

    shop.edit("orders", json!({"enabled": false})).await;
    killed_at_each_step(&shop, &operator, "disable", standalone).await;
    assert_eq!(shop.snapshot("orders-db-0").await, before);
    let written = writer.finish();
    written.undisturbed::<D>();
    written.all_there(shop.rows("orders-db-0").await);

    // Nothing is left to undo: it goes at once, without the operator.
    shop.kubectl(&["delete", "dbrep", "orders", "--timeout=20s"]).unwrap();
    shop.remove().await;
}

for_engines!([postgresql: PostgreSql, mysql: MySql, redis: Redis] a_target_is_taken_over_and_given_back_although_it_is_killed_at_each_step);

async fn a_target_is_taken_over_and_given_back_although_it_is_killed_at_each_step<D: Database>() {
    let (sales, reports) = applications::<D>("killed-target").await;
    sales.kubectl(&["annotate", "secret", "orders-db", &format!("{ALLOWED}=*")]).unwrap();
    let _deployment = DEPLOYMENT.read().await;
    let operator = Operator::share(&reports.namespace);
    let writer = Writer::start::<D>(sales.service("orders-db").await).await;
    let before = sales.snapshot("orders-db-0").await;
    // Whatever is killed, clients of the target see what it held before, or the copy.
    let mut target = reports.connect("reports-db-0").await.unwrap();
    target.prepare().await.unwrap();
    for row in 1..=7 {
        target.insert(row).await.unwrap();
    }
    wait("the source has rows", 60, async || match sales.rows("orders-db-0").await {
        rows if rows > 200 => Ok(()),
        rows => Err(rows.to_string()),
    })
    .await;
    let watch = Watch::start::<D>(reports.service("reports-db").await, 7, 200);
    let cleared = || async {
        let ready = reports.condition("orders", "Ready").await.is_ok_and(|(_, reason, _)| reason == "Replicating");
        ready && reports.get("orders").await.is_ok_and(|found| found.status.and_then(|status| status.target).is_some_and(|target| target.cleared))
    };
    let standalone = || async {
        let resource = reports.get("orders").await.unwrap();
        resource.status.is_some_and(|status| status.phase == Some(Phase::Standalone)) && resource.metadata.finalizers.is_none()
    };
    let replace = |spec: &mut Value| spec["target"]["existingData"] = json!("BackUpAndReplace");
    reports.apply(&replication_between::<D>(&sales.namespace, replace)).unwrap();
    let kills = killed_at_each_step(&reports, &operator, "take over", cleared).await;
    assert!(kills >= D::KILLS, "{kills}");
    assert_eq!(reports.names::<Job>("understudy.dev/component=backup").await.len(), 1);
    let rows = sales.rows("orders-db-0").await;
    wait("the target has what the source has", 120, async || match reports.connect("reports-db-0").await?.count().await? {
        count if count >= rows => Ok(()),
        count => Err(format!("{count} of {rows} rows")),
    })
    .await;
    reports.read_only("reports-db-0").await;
    assert_eq!(watch.finish(), [""; 0]);

    reports.edit("orders", json!({"enabled": false})).await;
    killed_at_each_step(&reports, &operator, "give back", standalone).await;
    assert_eq!(sales.snapshot("orders-db-0").await, before);
    reports.source_ready("reports-db").await;
    let mut client = reports.connect("reports-db-0").await.unwrap();
    assert!(client.takes_writes().await.unwrap() && client.count().await.unwrap() >= rows);
    assert!(reports.traces("reports-db-0").await.is_empty());
    let written = writer.finish();
    written.undisturbed::<D>();
    written.all_there(sales.rows("orders-db-0").await);
    reports.remove().await;
    sales.remove().await;
}

/// Names of the operator's pods that are ready.
async fn ready_pods(client: &kube::Client) -> Vec<String> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let listed = pods.list(&ListParams::default().labels("app.kubernetes.io/name=understudy")).await.unwrap();
    let ready = |pod: &Pod| pod.status.iter().flat_map(|s| s.conditions.iter().flatten()).any(|c| c.type_ == "Ready" && c.status == "True");
    listed.iter().filter(|pod| ready(pod) && pod.metadata.deletion_timestamp.is_none()).map(ResourceExt::name_any).collect()
}

async fn holder(client: &kube::Client) -> Option<String> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), NAMESPACE);
    leases.get("understudy").await.ok()?.spec?.holder_identity
}

#[tokio::test]
async fn of_two_instances_one_acts_and_the_other_takes_over() {
    let shop = Shop::new("understudy-leader").await;
    let _deployment = DEPLOYMENT.write().await;
    let scale = |replicas: &str| run("kubectl", &["-n", NAMESPACE, "scale", "deployment/understudy", &format!("--replicas={replicas}")], "").unwrap();
    scale("2");
    wait("two instances are ready", 120, || async {
        let pods = ready_pods(&shop.client).await;
        if pods.len() == 2 { Ok(()) } else { Err(format!("{pods:?}")) }
    })
    .await;
    let first = wait("one of them leads", 120, || async {
        let pods = ready_pods(&shop.client).await;
        let holder = holder(&shop.client).await;
        holder.clone().filter(|holder| pods.contains(holder)).ok_or_else(|| format!("{holder:?} of {pods:?}"))
    })
    .await;
    let logs = |pod: &str| run("kubectl", &["-n", NAMESPACE, "logs", pod], "").unwrap_or_default();
    for pod in ready_pods(&shop.client).await {
        assert_eq!(logs(&pod).contains(r#""message":"leading""#), pod == first, "{pod}");
    }

    // SIGKILL: the lease is not given back, and runs out.
    shop.apply(&replication("orders", "no-such-database")).unwrap();
    shop.reason("orders", "SeveralFindings", 30).await;
    run("kubectl", &["-n", NAMESPACE, "delete", "pod", &first, "--grace-period=0", "--force"], "").unwrap();
    shop.edit("orders", json!({"replicas": 2})).await;
    wait("another instance leads and acts", 120, || async {
        let now = holder(&shop.client).await;
        shop.condition("orders", "Ready").await?;
        if now.as_ref().is_some_and(|now| *now != first) { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
    scale("1");
    shop.remove().await;
}
