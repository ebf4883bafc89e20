//! Between two applications, when something is in the way: a side that is gone, a pipeline that interferes, a volume that is full.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use serde_json::{Value, json};
use understudy::api::Phase;

use crate::databases::{Redis, Standby, for_engines};
use crate::support::{ALLOWED, Database, PASSWORD, Place, Watch, Writer, applications, replication_between, run, wait};
use crate::takeover::{pod_on_volume, while_stopped};

for_engines!([postgresql: PostgreSql, mysql: MySql, redis: Redis]
    teardown_works_with_either_side_dead_between_applications,
    a_source_that_is_lost_for_good_leaves_a_database_that_takes_writes,
    a_pipeline_that_scales_and_applies_in_the_middle_breaks_nothing,
    a_source_that_goes_in_the_middle_of_a_takeover_or_later_loses_no_row,
    a_restore_that_is_killed_and_a_user_that_is_dropped_are_mended
);

// Measuring is the same for all, and what was measured counts for two minutes.
for_engines!([postgresql: PostgreSql] a_volume_that_has_too_little_free_is_measured_and_nothing_is_touched);

/// Source and target, the owner of the source agrees, and the source has rows.
async fn agreed<D: Database>(scenario: &str, rows: u64) -> (Place<D>, Place<D>) {
    let (sales, reports) = applications::<D>(scenario).await;
    allow(&sales);
    fill(&sales, "orders-db-0", 1, rows).await;
    (sales, reports)
}

fn allow<D: Database>(sales: &Place<D>) {
    sales.kubectl(&["annotate", "--overwrite", "secret", "orders-db", &format!("{ALLOWED}=*")]).unwrap();
}

/// Writes rows from one number to another.
async fn fill<D: Database>(place: &Place<D>, pod: &str, from: u64, to: u64) {
    let mut client = wait(&format!("{pod} answers"), 120, async || place.connect(pod).await).await;
    client.prepare().await.unwrap();
    for row in from..=to {
        client.insert(row).await.unwrap();
    }
}

/// The target has this many rows, or more.
async fn has<D: Database>(reports: &Place<D>, rows: u64) {
    wait(&format!("{rows} rows on the target"), 120, async || match reports.connect("reports-db-0").await?.count().await? {
        found if found >= rows => Ok(()),
        found => Err(found.to_string()),
    })
    .await;
}

/// The target replicates, has this many rows, and takes no writes.
async fn follows<D: Database>(reports: &Place<D>, rows: u64) {
    reports.replicating("orders", 300).await;
    has(reports, rows).await;
    assert_eq!(reports.rows("reports-db-0").await, rows);
    reports.read_only("reports-db-0").await;
}

/// A Job of ours is made.
async fn job_is_made<D: Database>(reports: &Place<D>, component: &str) {
    wait(&format!("the Job of the {component} is made"), 300, async || {
        let jobs = reports.names::<Job>(&format!("understudy.dev/component={component}")).await;
        if jobs.is_empty() { Err("no Job".to_owned()) } else { Ok(()) }
    })
    .await;
}

/// A new database, without data, in the place of the one that is or was there.
async fn anew<D: Database>(place: &Place<D>, name: &str) {
    place.kubectl(&["delete", "statefulset", name, "--ignore-not-found", "--cascade=foreground", "--timeout=120s"]).unwrap();
    place.kubectl(&["delete", "pvc", "-l", &format!("app={name}"), "--timeout=120s"]).unwrap();
    place.source(name, |_| {}).await;
}

/// The StatefulSet, and who owns fields of it.
async fn workload<D: Database>(reports: &Place<D>) -> Vec<String> {
    let mut all = reports.snapshot("reports-db-0").await;
    all.split_off(all.len() - 2)
}

/// The target is a database of its own with these rows, also after it was restarted: it takes writes, and has nothing of ours.
async fn stands_alone<D: Database>(reports: &Place<D>, rows: u64, before: &[String]) {
    for more in 1..=2 {
        reports.source_ready("reports-db").await;
        let mut client = wait("the target answers", 60, async || reports.connect("reports-db-0").await).await;
        assert!(client.takes_writes().await.unwrap(), "it is still a replica");
        assert_eq!(client.count().await.unwrap(), rows + more - 1);
        client.insert(u64::from(u32::MAX) + more).await.unwrap();
        let old = reports.uid("reports-db-0").await.unwrap();
        reports.kubectl(&["delete", "pod", "reports-db-0", "--wait=false"]).unwrap();
        reports.replaced("reports-db-0", &old).await;
    }
    reports.source_ready("reports-db").await;
    assert_eq!(reports.rows("reports-db-0").await, rows + 2);
    assert_eq!(reports.traces("reports-db-0").await, [""; 0]);
    assert_eq!(workload(reports).await, before);
}

/// Messages of the events with this reason.
fn told<D: Database>(reports: &Place<D>, reason: &str) -> String {
    reports.kubectl(&["get", "events", &format!("--field-selector=reason={reason}"), "-o", "jsonpath={.items[*].message}"]).unwrap()
}

/// Does by hand what an event tells to do with a target that was left as a replica.
async fn as_told<D: Standby>(reports: &Place<D>, note: &str, target: &Value) {
    let start = || reports.kubectl(&["scale", "statefulset", "reports-db", "--replicas=1"]).unwrap();
    if note.contains("run `") {
        let words: Vec<&str> = between(note, "run `", "`").split(' ').collect();
        while_stopped(reports, &pod_on_volume(reports, "release", target, &words));
        // Its arguments, as its manifest has them.
        let mut manifest = D::stateful_set("reports-db");
        manifest["spec"]["replicas"] = json!(0);
        assert!(note.contains("take `--include /data/understudy.conf` out of the arguments"), "{note}");
        reports.apply(&manifest).unwrap();
    } else {
        start();
        reports.source_ready("reports-db").await;
        let mut client = wait("the target answers", 60, async || reports.connect("reports-db-0").await).await;
        for statement in between(note, "execute on its server: ", ". Then take that init container out").split("; ") {
            client.run(statement).await.unwrap();
        }
    }
    let old = reports.uid("reports-db-0").await.unwrap_or_default();
    reports
        .kubectl(&["patch", "statefulset", "reports-db", "--type=json", "-p", r#"[{"op": "remove", "path": "/spec/template/spec/initContainers"}]"#])
        .unwrap();
    start();
    wait("a new pod", 180, async || reports.uid("reports-db-0").await.and_then(|uid| if uid == old { Err(uid) } else { Ok(()) })).await;
}

async fn teardown_works_with_either_side_dead_between_applications<D: Standby>() {
    let (sales, reports) = agreed::<D>("either", 20).await;
    // Scaled away before it was touched: whoever deletes the resource does not wait for it, and the source is clean.
    let untouched = sales.snapshot("orders-db-0").await;
    reports.apply(&replication_between::<D>(&sales.namespace, |_| {})).unwrap();
    job_is_made(&reports, "backup").await;
    reports.kubectl(&["scale", "statefulset", "reports-db", "--replicas=0"]).unwrap();
    reports.delete("orders", 180).await;
    assert!(told(&reports, "TargetNotReturned").contains("It was not touched"), "{}", told(&reports, "TargetNotReturned"));
    assert_eq!(sales.snapshot("orders-db-0").await, untouched);
    reports.kubectl(&["delete", "events", "--all"]).unwrap();
    reports.kubectl(&["scale", "statefulset", "reports-db", "--replicas=1"]).unwrap();
    reports.source_ready("reports-db").await;

    let (before, target_before) = (sales.snapshot("orders-db-0").await, workload(&reports).await);

    // The target is dead: its StatefulSet is scaled away by somebody.
    reports.apply(&replication_between::<D>(&sales.namespace, |_| {})).unwrap();
    follows(&reports, 20).await;
    assert_ne!(sales.snapshot("orders-db-0").await, before);
    reports.kubectl(&["scale", "statefulset", "reports-db", "--replicas=0"]).unwrap();
    reports.reason("orders", "TargetScaledToZero", 120).await;
    let target = serde_json::to_value(reports.get("orders").await.unwrap().status.unwrap().target).unwrap();
    reports.delete("orders", 180).await;
    let note = told(&reports, "TargetNotReturned");
    assert!(note.contains("keeps the init container understudy-swap"), "{note}");
    assert_eq!(sales.snapshot("orders-db-0").await, before);
    assert_eq!(sales.traces("orders-db-0").await, [""; 0]);

    // What the event says makes it a server of its own, for good.
    as_told(&reports, &note, &target).await;
    for more in 1..=2 {
        reports.source_ready("reports-db").await;
        let mut client = wait("the target answers", 60, async || reports.connect("reports-db-0").await).await;
        assert!(client.takes_writes().await.unwrap() && client.count().await.unwrap() == 19 + more);
        client.insert(u64::from(u32::MAX) + more).await.unwrap();
        let old = reports.uid("reports-db-0").await.unwrap();
        reports.kubectl(&["delete", "pod", "reports-db-0", "--wait=false"]).unwrap();
        reports.replaced("reports-db-0", &old).await;
    }

    // The source is dead: it is there, and does not run.
    anew(&reports, "reports-db").await;
    reports.apply(&replication_between::<D>(&sales.namespace, |_| {})).unwrap();
    follows(&reports, 20).await;
    sales.kubectl(&["scale", "statefulset", "orders-db", "--replicas=0"]).unwrap();
    reports.reason("orders", "SourceScaledToZero", 120).await;
    assert_eq!(reports.rows("reports-db-0").await, 20, "what it has is still served");
    reports.edit("orders", json!({"enabled": false})).await;
    let goes_on = "nothing is a replica any more; the source's changes are undone as soon as it answers";
    wait("only the source is missing", 240, async || match reports.condition("orders", "Ready").await? {
        (_, reason, message) if reason == "SourceUnreachable" && message.starts_with(goes_on) && message.contains("replicas: 0") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert!(reports.get("orders").await.unwrap().status.unwrap().target.unwrap().returned);
    stands_alone(&reports, 20, &target_before).await;
    sales.kubectl(&["scale", "statefulset", "orders-db", "--replicas=1"]).unwrap();
    reports.phase("orders", Phase::Standalone, 240).await;
    assert_eq!(sales.snapshot("orders-db-0").await, before);
    assert_eq!(sales.traces("orders-db-0").await, [""; 0]);
    assert_eq!((sales.rows("orders-db-0").await, reports.rows("reports-db-0").await), (20, 22));
    reports.delete("orders", 60).await;
    reports.remove().await;
    sales.remove().await;
}

async fn a_source_that_is_lost_for_good_leaves_a_database_that_takes_writes<D: Database>() {
    let (sales, reports) = agreed::<D>("lost", 20).await;
    let before = workload(&reports).await;

    // First its StatefulSet is gone, then the whole namespace, with the Secret: the target's own has a login of the source.
    reports.apply(&replication_between::<D>(&sales.namespace, |_| {})).unwrap();
    follows(&reports, 20).await;
    sales.kubectl(&["delete", "statefulset", "orders-db", "--cascade=foreground", "--timeout=120s"]).unwrap();
    reports.reason("orders", "SourceNotFound", 120).await;
    reports.read_only("reports-db-0").await;
    sales.remove().await;
    reports.reason("orders", "ConsentWithdrawn", 120).await;
    reports.read_only("reports-db-0").await;
    if D::PREFIX != "REDIS" {
        // As docs/failover-copy.md says: its users are the source's.
        reports.secret("reports-db", D::secret(PASSWORD));
    }
    reports.delete("orders", 240).await;
    stands_alone(&reports, 20, &before).await;
    reports.remove().await;
}

/// Scales the target away and back, with or without waiting for the end of its pod.
fn scale_away_and_back<D: Database>(reports: &Place<D>, patient: bool) {
    reports.kubectl(&["scale", "statefulset", "reports-db", "--replicas=0"]).unwrap();
    if patient {
        reports.kubectl(&["wait", "--for=delete", "pod/reports-db-0", "--timeout=120s"]).unwrap();
    }
    reports.kubectl(&["scale", "statefulset", "reports-db", "--replicas=1"]).unwrap();
}

/// Names of init containers.
fn init_containers<D: Database>(reports: &Place<D>, object: &str, path: &str) -> Result<(), String> {
    let found = reports.kubectl(&["get", object, "-o", &format!("jsonpath={{{path}.initContainers[*].name}}")])?;
    if found.contains("understudy-swap") { Ok(()) } else { Err(found) }
}

async fn a_pipeline_that_scales_and_applies_in_the_middle_breaks_nothing<D: Database>() {
    let (sales, reports) = agreed::<D>("pipeline", 0).await;
    let (before, target_before) = (sales.snapshot("orders-db-0").await, workload(&reports).await);
    let writer = Writer::start::<D>(sales.service("orders-db").await).await;
    fill(&reports, "reports-db-0", 1, 7).await;
    wait("the source has rows", 60, async || if sales.rows("orders-db-0").await > 200 { Ok(()) } else { Err("few") }.map_err(str::to_owned)).await;
    let watch = Watch::start::<D>(reports.service("reports-db").await, 7, 200);
    reports.apply(&replication_between::<D>(&sales.namespace, |spec| spec["target"]["existingData"] = json!("BackUpAndReplace"))).unwrap();

    // While Jobs work, those on its volume too.
    for component in ["backup", "restore"] {
        job_is_made(&reports, component).await;
        scale_away_and_back(&reports, true);
    }
    // Before its pod is replaced, while it is, and again.
    wait("the template has the init container", 300, async || init_containers(&reports, "statefulset/reports-db", ".spec.template.spec")).await;
    scale_away_and_back(&reports, false);
    for patient in [true, false] {
        wait("the pod has the init container", 180, async || init_containers(&reports, "pod/reports-db-0", ".spec")).await;
        scale_away_and_back(&reports, patient);
    }
    if D::USER != Redis::USER {
        // Of a Redis the arguments are the manifest's as well.
        reports.apply(&D::stateful_set("reports-db")).unwrap();
        init_containers(&reports, "statefulset/reports-db", ".spec.template.spec").unwrap();
    }
    reports.replicating("orders", 400).await;
    let written = writer.finish();
    written.undisturbed::<D>();
    let rows = sales.rows("orders-db-0").await;
    written.all_there(rows);
    follows(&reports, rows).await;
    assert_eq!(watch.finish(), [""; 0]);
    assert_eq!(reports.names::<Pod>("app=reports-db").await, ["reports-db-0"]);

    reports.edit("orders", json!({"enabled": false})).await;
    reports.phase("orders", Phase::Standalone, 240).await;
    assert_eq!(sales.snapshot("orders-db-0").await, before);
    assert_eq!(sales.traces("orders-db-0").await, [""; 0]);
    stands_alone(&reports, rows, &target_before).await;
    reports.remove().await;
    sales.remove().await;
}

/// Redis alone: its arguments are one field, and a manifest that is applied again takes out what it was given. Until that is put back, or it is disabled, it does not start.
#[tokio::test]
async fn a_redis_whose_manifest_is_applied_again_never_serves_the_copy_as_its_own_and_goes_on_with_its_arguments() {
    let (sales, reports) = agreed::<Redis>("applied", 20).await;
    let (before, target_before) = (sales.snapshot("orders-db-0").await, workload(&reports).await);
    fill(&reports, "reports-db-0", 1, 7).await;
    let watch = Watch::start::<Redis>(reports.service("reports-db").await, 7, 20);
    let apply = async || {
        reports.apply(&Redis::stateful_set("reports-db")).unwrap();
        wait("its server does not start", 120, async || {
            let path = "jsonpath={.status.containerStatuses[0].state.waiting.reason}";
            let found = reports.kubectl(&["get", "pod", "reports-db-0", "-o", path])?;
            if found == "CrashLoopBackOff" { Ok(()) } else { Err(found) }
        })
        .await;
        reports.reason("orders", "ReplicaStarting", 60).await;
        wait("it is said what is missing", 60, async || match reports.condition("orders", "Preflight").await? {
            (_, reason, said) if reason == "TargetReverted" && said.contains("--include /data/understudy.conf") => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    };
    let put_back = || {
        let argument = |word: &str| json!({"op": "add", "path": "/spec/template/spec/containers/0/args/-", "value": word});
        let patch = json!([argument("--include"), argument("/data/understudy.conf")]).to_string();
        reports.kubectl(&["patch", "statefulset", "reports-db", "--type=json", "-p", &patch]).unwrap();
    };

    // In the middle of the takeover: before the server has ever run on the copy.
    reports.apply(&replication_between::<Redis>(&sales.namespace, |spec| spec["target"]["existingData"] = json!("BackUpAndReplace"))).unwrap();
    wait("the template has the init container", 300, async || init_containers(&reports, "statefulset/reports-db", ".spec.template.spec")).await;
    apply().await;
    put_back();
    follows(&reports, 20).await;

    // Later: who has enough of it needs not put it back.
    apply().await;
    assert_eq!(watch.finish(), [""; 0]);
    reports.delete("orders", 240).await;
    assert_eq!(sales.snapshot("orders-db-0").await, before);
    stands_alone(&reports, 20, &target_before).await;
    reports.remove().await;
    sales.remove().await;
}

/// A file system of its own on the machine of the cluster's only node, as the volume of a claim.
struct Disk {
    path: String,
    volume: String,
}

impl Disk {
    /// One of this size for the claim of the target.
    fn new<D: Database>(reports: &Place<D>, size: &str) -> Self {
        let state = std::env::var("UNDERSTUDY_CLUSTER_STATE").expect("the local cluster's state directory");
        let disk = Self { path: format!("{state}/{}", reports.namespace), volume: reports.namespace.clone() };
        disk.clear();
        std::fs::create_dir_all(&disk.path).unwrap();
        // As the cluster's own volumes are: whoever a server runs as may write there.
        run("mount", &["-t", "tmpfs", "-o", &format!("size={size},mode=0777"), "tmpfs", &disk.path], "").unwrap();
        let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": disk.volume}, "spec": {
            "capacity": {"storage": "10Gi"}, "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Retain", "storageClassName": "small",
            "hostPath": {"path": disk.path, "type": "Directory"}, "claimRef": {"namespace": reports.namespace, "name": "data-reports-db-0"}
        }});
        reports.apply(&volume).unwrap();
        disk
    }

    /// Leaves so many bytes free.
    fn leave(&self, free: u64) {
        let used = run("df", &["--output=used", "-B1", &self.path], "").unwrap();
        let used: u64 = used.lines().last().unwrap().trim().parse().unwrap();
        self.resize(&(used + free).to_string());
    }

    fn resize(&self, size: &str) {
        run("mount", &["-o", &format!("remount,size={size}"), &self.path], "").unwrap();
    }

    fn clear(&self) {
        let _ = run("kubectl", &["delete", "pv", &self.volume, "--ignore-not-found", "--wait=false"], "");
        let _ = run("umount", &["--lazy", &self.path], "");
        let _ = std::fs::remove_dir(&self.path);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.clear();
    }
}

/// The bytes of a size as messages have it, like `7.5 MiB`.
fn bytes(text: &str) -> f64 {
    let (number, unit) = text.split_once(' ').unwrap();
    let power = ["B", "KiB", "MiB", "GiB"].iter().position(|known| *known == unit).unwrap_or_else(|| panic!("{text}"));
    number.parse::<f64>().unwrap() * 1024_f64.powi(power.try_into().unwrap())
}

/// What stands between two parts of a text.
fn between<'a>(text: &'a str, left: &str, right: &str) -> &'a str {
    let (_, rest) = text.split_once(left).unwrap_or_else(|| panic!("{left:?} is missing in {text}"));
    rest.split_once(right).unwrap_or_else(|| panic!("{right:?} is missing in {text}")).0
}

async fn a_volume_that_has_too_little_free_is_measured_and_nothing_is_touched<D: Database>() {
    const FREE: u64 = 1 << 20;
    let sales = Place::<D>::with_source(&format!("understudy-full-sales-{}", D::NAME)).await;
    let reports = Place::<D>::new(&format!("understudy-full-{}", D::NAME)).await;
    let disk = Disk::new(&reports, "1G");
    let claim = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": "small", "resources": {"requests": {"storage": "10Gi"}}});
    reports.source("reports-db", |object| object["spec"]["volumeClaimTemplates"][0]["spec"] = claim).await;
    allow(&sales);
    fill(&sales, "orders-db-0", 1, 20).await;
    let (before, target_before) = (sales.snapshot("orders-db-0").await, reports.snapshot("reports-db-0").await);
    let pod = reports.uid("reports-db-0").await.unwrap();

    disk.leave(FREE);
    reports.apply(&replication_between::<D>(&sales.namespace, |_| {})).unwrap();
    let message = reports.reason("orders", "TargetVolumeTooSmall", 120).await;
    let free = bytes(between(&message, "the target's volume has ", " free, measured on it"));
    let (data, needed) = (bytes(between(&message, "the source holds ", ": ")), bytes(between(&message, ": ", " are needed, twice the data")));
    assert!(free <= FREE as f64 * 1.05 && needed > FREE as f64 && (needed / data - 2.0).abs() < 0.2, "{message}");
    let status = reports.get("orders").await.unwrap().status.unwrap();
    assert!(status.phase == Some(Phase::Blocked) && status.enablement.is_none() && status.target.is_none(), "{status:?}");
    assert!(reports.names::<PersistentVolumeClaim>("app.kubernetes.io/managed-by=understudy").await.is_empty());
    assert_eq!((sales.snapshot("orders-db-0").await, reports.snapshot("reports-db-0").await), (before.clone(), target_before));
    assert_eq!(sales.traces("orders-db-0").await, [""; 0]);
    assert_eq!(reports.uid("reports-db-0").await.unwrap(), pod);

    // Room is made: it is measured again by itself.
    disk.resize("2G");
    follows(&reports, 20).await;
    reports.delete("orders", 240).await;
    assert_eq!(sales.snapshot("orders-db-0").await, before);
    reports.remove().await;
    sales.remove().await;
}

async fn a_source_that_goes_in_the_middle_of_a_takeover_or_later_loses_no_row<D: Database>() {
    let (sales, reports) = agreed::<D>("away", 0).await;
    let before = sales.snapshot("orders-db-0").await;
    let writer = Writer::start::<D>(sales.service("orders-db").await).await;

    // In the middle of the backup.
    sales.connect("orders-db-0").await.unwrap().slow_down().await.unwrap();
    let target = reports.uid("reports-db-0").await.unwrap();
    reports.apply(&replication_between::<D>(&sales.namespace, |_| {})).unwrap();
    job_is_made(&reports, "backup").await;
    let mut holder = wait("the source answers", 60, async || sales.connect("orders-db-0").await).await;
    wait("a backup is held", 180, async || holder.hold_backup().await).await;
    sales.lose("orders-db-0").await;
    reports.reason("orders", "SourceUnreachable", 120).await;
    wait("it is said that the backup failed", 180, async || {
        let found = reports.condition("orders", "BackupTaken").await?;
        if found.1 == "BackupFailed" && !found.2.is_empty() { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
    assert_eq!(reports.uid("reports-db-0").await.unwrap(), target, "it serves what it has until there is a copy");
    assert!(reports.connect("reports-db-0").await.unwrap().takes_writes().await.unwrap());
    sales.revive("orders-db-0").unwrap();
    reports.replicating("orders", 300).await;
    drop(holder);
    assert_eq!(reports.names::<Job>("understudy.dev/component=backup").await.len(), 1);
    assert_eq!(sales.traces("orders-db-0").await.len(), D::TRACES);

    // Later: the target goes on serving what it has, and takes no writes.
    let then = sales.rows("orders-db-0").await;
    has(&reports, then).await;
    let (source, target) = (sales.uid("orders-db-0").await.unwrap(), reports.uid("reports-db-0").await.unwrap());
    sales.lose("orders-db-0").await;
    let message = reports.reason("orders", "SourceUnreachable", 120).await;
    assert!(message.contains("the source does not answer") && message.contains("see that pod orders-db-0 runs"), "{message}");
    reports.phase("orders", Phase::Degraded, 10).await;
    assert!(D::connect(&reports.service("reports-db").await).await.unwrap().count().await.unwrap() >= then);
    reports.read_only("reports-db-0").await;
    sales.revive("orders-db-0").unwrap();
    sales.replaced("orders-db-0", &source).await;
    reports.replicating("orders", 240).await;
    wait("clients write again", 180, async || match sales.connect("orders-db-0").await?.count().await? {
        found if found > then + 50 => Ok(()),
        found => Err(format!("{found} of {then}")),
    })
    .await;
    let written = writer.finish();
    let rows = sales.rows("orders-db-0").await;
    written.all_there(rows);
    follows(&reports, rows).await;
    assert_eq!(reports.uid("reports-db-0").await.unwrap(), target, "a target does not restart because its source does");
    reports.delete("orders", 240).await;
    assert_eq!(sales.snapshot("orders-db-0").await, before);
    assert_eq!(sales.traces("orders-db-0").await, [""; 0]);
    assert_eq!(reports.rows("reports-db-0").await, rows);
    assert!(reports.connect("reports-db-0").await.unwrap().takes_writes().await.unwrap());
    reports.remove().await;
    sales.remove().await;
}

async fn a_restore_that_is_killed_and_a_user_that_is_dropped_are_mended<D: Standby>() {
    let (sales, reports) = agreed::<D>("mended", 20).await;
    let before = sales.snapshot("orders-db-0").await;
    let old = reports.uid("reports-db-0").await.unwrap();
    reports.apply(&replication_between::<D>(&sales.namespace, |_| {})).unwrap();
    let killed = wait("the restore runs", 300, async || {
        let pods = reports.kubectl(&["get", "pods", "-l", "understudy.dev/component=restore", "-o", "name"])?;
        pods.lines().next().map(str::to_owned).ok_or_else(|| "no pod".to_owned())
    })
    .await;
    reports.kubectl(&["delete", &killed, "--force", "--grace-period=0", "--ignore-not-found"]).unwrap();
    follows(&reports, 20).await;
    assert_ne!(reports.uid("reports-db-0").await.unwrap(), old, "it restarted for a restore that was finished");

    // With its connections ended, nothing reaches the target any more until it can log in again.
    sales.connect("orders-db-0").await.unwrap().drop_user().await.unwrap();
    fill(&sales, "orders-db-0", 21, 30).await;
    has(&reports, 30).await;
    follows(&reports, 30).await;
    assert_eq!(sales.traces("orders-db-0").await.len(), D::TRACES);
    assert_eq!(reports.names::<Job>("understudy.dev/component=backup").await.len(), 1, "no second backup");
    reports.delete("orders", 240).await;
    assert_eq!(sales.snapshot("orders-db-0").await, before);
    reports.remove().await;
    sales.remove().await;
}
