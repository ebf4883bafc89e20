//! What keeps the replication from being set up: everything at once, before anything is changed.

use super::{Facts, Subject, environment, target};
use crate::controller::consent::NOT_ALLOWED;
use crate::controller::facts::{Administrator, Database, Server, SourceWorkload};
use crate::engine::{Engine, Finding, LastSave, WantedSource};
use crate::resources::{Shape, bytes_of, format_bytes};

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;
/// Reason: the size of the data could not be measured.
const UNKNOWN: &str = "DataSizeUnknown";
/// Seconds that are recommended for saving itself: with what servers wait by default, as long as Kubernetes gives by default.
const SAVING: u64 = 20;

/// The reasons by which a database can't be reached.
struct Reasons {
    not_found: &'static str,
    scaled_to_zero: &'static str,
    several_pods: &'static str,
    pod_missing: &'static str,
    unreachable: &'static str,
    other_engine: &'static str,
}

const SOURCE: Reasons = Reasons {
    not_found: "SourceNotFound",
    scaled_to_zero: "SourceScaledToZero",
    several_pods: "SourceHasSeveralPods",
    pod_missing: "SourcePodMissing",
    unreachable: "SourceUnreachable",
    other_engine: "SourceEngineMismatch",
};

const TARGET: Reasons = Reasons {
    not_found: "TargetNotFound",
    scaled_to_zero: "TargetScaledToZero",
    several_pods: "TargetHasSeveralPods",
    pod_missing: "TargetPodMissing",
    unreachable: "TargetUnreachable",
    other_engine: "TargetEngineMismatch",
};

/// Findings that matter at any time: without these things nothing can be done.
#[must_use]
pub fn reach<E: Engine>(subject: &Subject, facts: &Facts<E>) -> Vec<Finding> {
    let source = subject.source_database();
    // Of a database whose owner has not agreed nothing else is known, and nothing else is said.
    let refused = facts.administrator.as_ref().err().filter(|finding| finding.reason == NOT_ALLOWED);
    let mut found = match refused {
        Some(finding) => vec![finding.clone()],
        None => runs(source, &SOURCE, facts.source.as_ref()),
    };
    if let Some(rival) = facts.rival.as_ref().filter(|_| refused.is_none()) {
        found.push(Finding::new(
            "SourceTaken",
            format!("DatabaseReplication {rival} came first and already makes copies of StatefulSet {}", source.stateful_set),
            format!("raise replicas in {rival}, or delete one of the two"),
        ));
    }
    if refused.is_none() {
        found.extend(answers(source, &SOURCE, &facts.administrator, &facts.server));
    }
    found.extend(shape::<E>(facts.shape.as_ref()));
    if let (Some(target), Some(database)) = (&facts.target, subject.target_database()) {
        let mut unmet = runs(database, &TARGET, target.workload.as_ref());
        if target.wants(&subject.names.identity).is_none() && !subject.target_status().is_some_and(|target| target.joined) {
            unmet.extend(answers(database, &TARGET, &target.administrator, &target.server));
            unmet.extend(shape::<E>(target.shape.as_ref()));
        } else {
            // It restarts, and has the source's users from then on: as a replica it is asked elsewhere.
            unmet.retain(|finding| finding.reason != TARGET.pod_missing);
        }
        found.extend(unmet);
    }
    found
}

/// Its workload is there, with one pod.
fn runs(database: Database<'_>, reasons: &Reasons, workload: Option<&SourceWorkload>) -> Vec<Finding> {
    let Database { field, namespace, stateful_set: name, .. } = database;
    let Some(workload) = workload else {
        return vec![Finding::new(
            reasons.not_found,
            format!("there is no StatefulSet {name} in namespace {namespace}"),
            format!("create it, or correct {field}.statefulSetRef (it cannot be changed: delete this resource and create another)"),
        )];
    };
    let finding = match workload.stateful_set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1) {
        0 => Finding::new(
            reasons.scaled_to_zero,
            format!("StatefulSet {name} has replicas: 0"),
            format!("kubectl scale statefulset {name} --replicas=1 -n {namespace}"),
        ),
        1 if workload.pod.is_some() => return Vec::new(),
        1 => Finding::new(
            reasons.pod_missing,
            format!("pod {} does not exist", database.pod()),
            format!("kubectl describe statefulset {name} -n {namespace} tells why"),
        ),
        several => Finding::new(
            reasons.several_pods,
            format!("StatefulSet {name} has replicas: {several}; which of its pods takes the writes cannot be told from its number"),
            "scale it to one pod, or name another StatefulSet",
        ),
    };
    vec![finding]
}

/// Its server answers, and lets its administrator in.
fn answers<F>(database: Database<'_>, reasons: &Reasons, administrator: &Result<Administrator, Finding>, server: &Server<F>) -> Option<Finding> {
    let Database { field, credentials, port, .. } = database;
    match (administrator, server) {
        (Err(finding), _) => Some(finding.clone()),
        (Ok(_), Server::Unreachable(why)) => Some(Finding::new(
            reasons.unreachable,
            format!("the {field} does not answer: {why}"),
            format!("see that pod {} runs, that it listens on port {port}, and that network policies let the operator in", database.pod()),
        )),
        (Ok(_), Server::Refused(why)) => Some(Finding::new(
            "CredentialsRefused",
            format!("the {field} refused the login: {why}"),
            format!("correct the Secret {} ({field}.credentials)", credentials.secret_ref.name),
        )),
        (Ok(_), Server::OtherEngine(what)) => Some(Finding::new(
            reasons.other_engine,
            format!("the {field} is of another engine than spec.engine: {what}"),
            format!(
                "if its pod has another server, name that one's port in {field}.port; otherwise delete this resource and create another, with databases of one engine"
            ),
        )),
        (Ok(_), Server::NotAsked | Server::Up(_)) => None,
    }
}

fn shape<E: Engine>(shape: Option<&Result<Shape, Finding>>) -> Vec<Finding> {
    match shape {
        Some(Err(finding)) => vec![finding.clone()],
        Some(Ok(shape)) => E::preflight_shape(shape),
        None => Vec::new(),
    }
}

/// Findings that matter before the first change: what the server says of itself, room for the copies, objects for the variables.
#[must_use]
pub fn first<E: Engine>(subject: &Subject, facts: &Facts<E>, wanted: &WantedSource) -> Vec<Finding> {
    let mut found = Vec::new();
    // Of a source that is somebody else's already nothing more has to be said.
    if let (Server::Up(server), None) = (&facts.server, &facts.rival) {
        let unfit = E::preflight(server, wanted);
        // What a server hides from this user is mended with what is said of the user already.
        let room = room(subject, facts).into_iter().filter(|finding| unfit.is_empty() || finding.reason != UNKNOWN);
        let stopped = facts.shape.iter().flatten().filter_map(|shape| stopped_too_soon::<E>(server, shape));
        found.extend(unfit.iter().cloned().chain(stopped).chain(room));
    }
    if let (Server::Up(server), Some(target)) = (&facts.server, &facts.target) {
        found.extend(target::preflight(subject, facts, server, target));
    }
    found.extend(super::source::preflight::<E>(subject));
    found.extend(environment::missing(subject, facts));
    found
}

/// Findings that endanger what runs already, too.
#[must_use]
pub fn lasting<E: Engine>(server: &E::SourceFacts, shape: &Shape, wanted: &WantedSource) -> Vec<Finding> {
    E::preflight(server, wanted).into_iter().chain(stopped_too_soon::<E>(server, shape)).filter(|finding| finding.lasting).collect()
}

/// A source that saves its last rows once it has waited for its replicas is killed while it still waits. Without a replica it would not wait.
fn stopped_too_soon<E: Engine>(server: &E::SourceFacts, shape: &Shape) -> Option<Finding> {
    let LastSave { waits, setting } = E::summary(server).last_save?;
    let grace = shape.grace_period();
    (grace <= waits).then(|| {
        Finding::new(
            "GracePeriodTooShort",
            format!(
                "told to stop, the source waits for its replicas, up to {waits} s ({setting}), before it saves what it holds in memory only, and its pod is killed after {grace} s (terminationGracePeriodSeconds): rows that it has confirmed would be lost"
            ),
            format!(
                "set terminationGracePeriodSeconds in the pod template of its StatefulSet to {} or more (its pod restarts for that), or lower {setting} to {}, on the server and in its configuration",
                waits + SAVING,
                grace / 2
            ),
        )
        .lasting()
    })
}

/// Backup volume and replica volume must hold twice the data: the backup volume so that a new backup fits beside the old one, the replica's so that it
/// can grow as the source does.
fn room<E: Engine>(subject: &Subject, facts: &Facts<E>) -> Vec<Finding> {
    let spec = &subject.resource.spec;
    let bytes = match &facts.data_bytes {
        Ok(bytes) => *bytes,
        Err(why) => {
            let message = format!("the size of the data could not be measured: {why}");
            return vec![Finding::new(UNKNOWN, message, "see what keeps the server from answering; it is asked again by itself")];
        }
    };
    let needed = bytes.saturating_mul(2);
    let data = format_bytes(bytes);
    let mut found = Vec::new();
    // What the target holds is backed up there, too, if only because it is written to at the last moment.
    let kept = facts.target.as_ref().and_then(|target| target.data.as_ref().ok()).map_or(0, |(bytes, _)| *bytes);
    match bytes_of(&spec.backup.volume.size) {
        Some(size) if size >= needed && size < needed.saturating_add(kept) => found.push(Finding::new(
            "BackupVolumeTooSmall",
            format!(
                "backup.volume.size is {}, and has to hold twice the {data} of the source and the {} that the target holds: {}",
                format_bytes(size),
                format_bytes(kept),
                format_bytes(needed.saturating_add(kept))
            ),
            format!("set backup.volume.size to {} or more", recommended(needed.saturating_add(kept))),
        )),
        None => found.push(Finding::new("InvalidSize", format!("backup.volume.size {} is not a size", spec.backup.volume.size.0), "write it like 20Gi")),
        Some(size) if size < needed => found.push(Finding::new(
            "BackupVolumeTooSmall",
            format!("backup.volume.size is {}, and the source holds {data}: {} are needed, twice the data", format_bytes(size), format_bytes(needed)),
            format!("set backup.volume.size to {} or more", recommended(needed)),
        )),
        Some(_) => {}
    }
    if facts.target.is_some() {
        // It has its volume.
        return found;
    }
    match replica_size(subject, facts) {
        // Where the data lies is not known: that is said already.
        None if !matches!(facts.shape, Some(Ok(_))) => {}
        None => found.push(Finding::new(
            "ReplicaSizeUnknown",
            "the source's data lies on no claim that a replica's volume could be sized after",
            "set replicaTemplate.storage.size",
        )),
        Some(size) if size < needed => found.push(Finding::new(
            "ReplicaVolumeTooSmall",
            format!("a replica's volume would have {}, and the source holds {data}: {} are needed, twice the data", format_bytes(size), format_bytes(needed)),
            format!("set replicaTemplate.storage.size to {} or more", recommended(needed)),
        )),
        Some(_) => {}
    }
    found
}

/// A size that is enough, as it is written in a manifest.
pub fn recommended(needed: u64) -> String {
    if needed > GIB { format!("{}Gi", needed.div_ceil(GIB)) } else { format!("{}Mi", needed.div_ceil(MIB).max(64)) }
}

/// Size of a replica's volume, in bytes.
#[must_use]
pub fn replica_size<E: Engine>(subject: &Subject, facts: &Facts<E>) -> Option<u64> {
    let own = subject.resource.spec.replica_template.as_ref().and_then(|template| template.storage.as_ref());
    own.map_or_else(|| facts.claim.as_ref().map(|(bytes, _)| *bytes), |storage| bytes_of(&storage.size))
}

/// How much of the source's log may be kept for replicas, in bytes: half of what its volume has left, so that a replica that is gone cannot fill it.
#[must_use]
pub fn retention_limit<E: Engine>(facts: &Facts<E>) -> u64 {
    let data = facts.data_bytes.as_ref().copied().unwrap_or(0);
    let free = facts.claim.as_ref().map_or(0, |(bytes, _)| bytes.saturating_sub(data));
    (free / 2).max(GIB / 4)
}
