//! The full backup: one for all replicas, as long as the source still has what comes after it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;

use super::{Draft, Facts, Kind, Object, Step, Subject, again, conditions};
use crate::api::BackupStatus;
use crate::controller::facts::JobState;
use crate::engine::{Engine, Progress, SourceSummary};
use crate::resources::{JobRequest, Login, build_backup_claim, build_backup_job, build_credentials, build_primary_service, format_bytes};

/// What the agent leaves in the termination message: the parts of the manifest that belong in the status.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    /// Left out where it is too long for the message.
    position: Option<String>,
    bytes: i64,
    checksum: String,
    completed_at: Option<Time>,
    note: Option<String>,
}

/// Where the backup stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackupState {
    /// A verified backup is on the volume.
    Complete,
    /// It is being taken, or its Job is made in this very pass.
    Running,
    /// Not yet, and nothing is under way.
    Pending,
    /// It was deleted while replicas run: only the user can help.
    Gone,
}

/// Sequence number of the backup that counts now.
#[must_use]
pub fn sequence<S>(draft: &Draft<S>) -> u32 {
    draft.status.backup.as_ref().map_or(1, |backup| backup.sequence.max(1))
}

/// Plans the backup. `needed` tells that a replica is still to be seeded from it.
pub fn plan<E: Engine>(
    subject: &Subject,
    facts: &Facts<E>,
    draft: &mut Draft<E::Step>,
    server: &SourceSummary,
    request: &JobRequest<'_>,
    needed: bool,
) -> BackupState {
    let names = &subject.names;
    let mut sequence = sequence(draft);
    let mut backup = draft.status.backup.clone().unwrap_or_default();
    let there = facts.own.claims.get(&names.backup_claim()).is_some_and(|claim| !claim.deleting);
    let complete = backup.state == "Complete" && there;
    let position = backup.position.as_deref().and_then(E::parse_position);
    let gone = backup.state == "Complete" && !there;
    let old = complete && position.is_some_and(|position| !position.reaches(&server.oldest_for_seed));
    if needed && gone && !facts.own.stateful_sets.is_empty() {
        // Another volume would keep another password, and lock out the replicas that have this one.
        draft.set(conditions::BACKUP_TAKEN, false, "BackupGone", format!("volume {} is gone, and with it the password of the replicas that run. What to do: set enabled to false and, once it is Standalone, to true again.", names.backup_claim()));
        return BackupState::Gone;
    }
    if needed && (old || gone) {
        sequence += 1;
        draft.steps.push(if gone {
            let note = format!("PersistentVolumeClaim {} is gone, and the backup with it: a new one is taken", names.backup_claim());
            Step::Tell { warning: true, reason: "BackupGone", note }
        } else {
            // What was written since then is no longer on the source: a replica could not continue from it.
            let position = backup.position.clone().unwrap_or_default();
            Step::Tell { warning: false, reason: "BackupTooOld", note: format!("the source no longer has what follows {position}: a new backup is taken") }
        });
        backup = BackupStatus::default();
    } else if complete {
        done(draft, &backup);
        return BackupState::Complete;
    }

    let name = names.backup_job(sequence);
    backup.sequence = sequence;
    backup.claim = names.backup_claim();
    backup.directory = names.backup_directory(sequence);
    "Running".clone_into(&mut backup.state);
    let (message, reason, state) = match facts.own.jobs.get(&name) {
        Some(Some(JobState::Complete(message))) => {
            record(&mut backup, message.as_deref());
            done(draft, &backup);
            (None, "", BackupState::Complete)
        }
        Some(Some(JobState::Failed(why, at))) => {
            if waited(subject, facts.now, *at, backup.failures) {
                backup.failures += 1;
                // What it had copied counts for nothing.
                (backup.position, backup.percent, backup.bytes) = (None, None, None);
                draft.steps.push(Step::Delete(Kind::Job, name.clone()));
            }
            (Some(format!("{why}; it is tried again. Log: kubectl logs -n {} job/{name}", names.namespace)), "BackupFailed", BackupState::Pending)
        }
        Some(Some(JobState::Running)) => (Some(progress(&mut backup, server, facts.data_bytes.as_ref().ok())), "BackingUp", BackupState::Running),
        Some(None) => (Some("the Job of an attempt before is being removed".to_owned()), "BackingUp", BackupState::Pending),
        None => {
            apply::<E>(subject, facts, draft, request, sequence);
            // What is copied from now on has reached at least this. Where the Job can't report the exact position, whether a replica could still continue from
            // the backup is judged by this one: it is given up too early rather than too late. A Job that is not seen yet is not a new one.
            backup.position.get_or_insert_with(|| E::format_position(&server.position));
            (Some("the backup starts".to_owned()), "BackingUp", BackupState::Running)
        }
    };
    draft.status.backup = Some(backup);
    if let Some(message) = message {
        let message = pod_trouble(facts, "backup").map_or(message.clone(), |trouble| format!("{message} ({trouble})"));
        draft.set(conditions::BACKUP_TAKEN, false, reason, message);
    }
    state
}

/// The source no longer has what follows the backup: a copy of it could not follow. In words.
pub fn outdated<E: Engine>(draft: &Draft<E::Step>, server: &SourceSummary) -> Option<String> {
    let position = draft.status.backup.as_ref()?.position.as_deref()?;
    let old = E::parse_position(position).is_some_and(|position| !position.reaches(&server.oldest_for_replica));
    old.then(|| format!("the source no longer has what follows {position}"))
}

/// Why a Job of ours fails, or its pod does not run.
pub fn trouble<E: Engine>(facts: &Facts<E>, component: &str, job: &str) -> Option<String> {
    match facts.own.jobs.get(job) {
        Some(Some(JobState::Failed(why, _))) => Some(format!("Job {job} failed: {why}")),
        _ => pod_trouble(facts, component),
    }
}

/// What keeps the pod of a Job of ours from running.
fn pod_trouble<E: Engine>(facts: &Facts<E>, component: &str) -> Option<String> {
    facts.own.pods.iter().find(|pod| pod.component == component && !pod.ended).and_then(|pod| pod.trouble.clone())
}

/// Plans the claim of the backup volume, where there is none, or somebody has deleted it.
pub fn claim<E: Engine>(subject: &Subject, facts: &Facts<E>, draft: &mut Draft<E::Step>) {
    if !facts.own.claims.contains_key(&subject.names.backup_claim()) {
        draft.steps.push(Step::Apply(Object::Claim(Box::new(build_backup_claim(&subject.names, &subject.resource.spec.backup.volume)))));
    }
}

/// Where the replication user has lost its password, since somebody dropped it and it was made anew: the Job of the backup, whose volume keeps the
/// password, runs once more and sets it. Gives what is to be said meanwhile; none where all is well.
pub fn regain_access<E: Engine>(
    subject: &Subject,
    facts: &Facts<E>,
    draft: &mut Draft<E::Step>,
    server: &SourceSummary,
    request: &JobRequest<'_>,
) -> Option<String> {
    let mut backup = draft.status.backup.clone().filter(|backup| backup.state == "Complete" && !server.access)?;
    let name = subject.names.backup_job(backup.sequence);
    let lost = "the replication user has lost its password";
    if !facts.own.claims.contains_key(&backup.claim) {
        return Some(format!(
            "{lost}, and volume {} that kept it is gone. What to do: set enabled to false and, once it is Standalone, to true again.",
            backup.claim
        ));
    }
    let mut said = format!("{lost}: Job {name} sets it again");
    match facts.own.jobs.get(&name) {
        Some(Some(JobState::Complete(_))) => draft.steps.push(Step::Delete(Kind::Job, name)),
        Some(Some(JobState::Failed(why, at))) => {
            said = format!("{said}; it failed: {why}; it is tried again");
            if waited(subject, facts.now, *at, backup.failures) {
                backup.failures += 1;
                draft.status.backup = Some(backup);
                draft.steps.push(Step::Delete(Kind::Job, name));
            }
        }
        Some(_) => {}
        None => apply::<E>(subject, facts, draft, request, backup.sequence),
    }
    Some(said)
}

fn done<S>(draft: &mut Draft<S>, backup: &BackupStatus) {
    let bytes = backup.bytes.and_then(|bytes| u64::try_from(bytes).ok()).map_or_else(|| "of unknown size".to_owned(), format_bytes);
    let note = backup.note.as_ref().map(|note| format!("; {note}")).unwrap_or_default();
    let position = backup.position.as_deref().unwrap_or("an unknown position");
    let message = format!("{bytes}, verified, on volume {}{note}; at {position}", backup.claim);
    draft.set(conditions::BACKUP_TAKEN, true, "Verified", message);
}

/// Takes over what the agent reported. Without its message the backup exists all the same: a Job succeeds only after the manifest was written.
fn record(backup: &mut BackupStatus, message: Option<&str>) {
    "Complete".clone_into(&mut backup.state);
    backup.failures = 0;
    backup.percent = Some(100);
    if let Some(manifest) = message.and_then(|message| serde_json::from_str::<Manifest>(message).ok()) {
        backup.position = manifest.position.or(backup.position.take());
        backup.note = manifest.note;
        backup.bytes = Some(manifest.bytes);
        backup.checksum = Some(manifest.checksum);
        backup.completed_at = manifest.completed_at;
    }
}

/// Progress from the server's own view, in steps so that it does not tick. Where the server does not know how much there is to copy, it is as much as was
/// `measured` before the first change.
fn progress(backup: &mut BackupStatus, server: &SourceSummary, measured: Option<&u64>) -> String {
    let Some(progress) = server.backup_progress else {
        return "the backup is running".to_owned();
    };
    // Nothing has been copied yet, and the server is still finding out how much it will be.
    if progress == (Progress { copied: 0, total: None }) {
        return "the server prepares the backup (checkpoint)".to_owned();
    }
    let progress = Progress { total: progress.total.or(measured.copied()), ..progress };
    let percent = progress.percent().max(backup.percent);
    if percent != backup.percent {
        backup.percent = percent;
        backup.bytes = i64::try_from(progress.copied).ok();
    }
    match progress.total {
        // The data has grown since it was measured. A little more than it goes over the wire in any case.
        Some(total) if progress.copied > total.saturating_add(total / 10) => format!("more than {} copied", format_bytes(total)),
        Some(total) => format!("{} % of {} copied", percent.unwrap_or_default(), format_bytes(total)),
        None => "the backup is running".to_owned(),
    }
}

/// A Job that failed is tried again after a while, twice as long each time, and at once where the user has changed the resource.
#[must_use]
pub fn waited(subject: &Subject, now: Timestamp, failed: Option<Timestamp>, failures: u32) -> bool {
    let pause = (again::RETRY * (1 << failures.min(8))).min(again::RETRY_MOST);
    subject.edited() || failed.is_none_or(|failed| now.duration_since(failed).unsigned_abs() >= pause)
}

/// Plans to delete the copy of the source's password, once no Job of a backup needs it.
pub fn forget_credentials<E: Engine>(subject: &Subject, facts: &Facts<E>, draft: &mut Draft<E::Step>) {
    let ended = match facts.own.jobs.get(&subject.names.backup_job(sequence(draft))) {
        // Made, and not yet seen.
        None => draft.status.backup.as_ref().is_some_and(|backup| backup.state == "Complete"),
        Some(job) => matches!(job, Some(JobState::Complete(_) | JobState::Failed(..))),
    };
    let planned = draft.steps.iter().any(|step| matches!(step, Step::CreateSecret(_) | Step::Apply(Object::Job(_))));
    if facts.credentials && ended && !planned {
        draft.steps.push(Step::Delete(Kind::Secret, subject.names.credentials()));
    }
}

fn apply<E: Engine>(subject: &Subject, facts: &Facts<E>, draft: &mut Draft<E::Step>, request: &JobRequest<'_>, sequence: u32) {
    let names = &subject.names;
    let spec = &subject.resource.spec;
    let Ok(administrator) = &facts.administrator else { return };
    claim(subject, facts, draft);
    if facts.target.is_none() && !facts.own.services.contains_key(&names.primary()) {
        draft.steps.push(Step::Apply(Object::Service(Box::new(build_primary_service(names, &subject.owner, subject.source(), facts.leader(), subject.port)))));
    }
    let request = JobRequest { sequence, ..*request };
    let credentials = &spec.source.credentials;
    let copied = names.credentials();
    let elsewhere = subject.source_database().namespace != names.namespace;
    if elsewhere && !facts.credentials {
        let secret = build_credentials(names, &subject.owner, &credentials.password_key, &administrator.password);
        draft.steps.push(Step::CreateSecret(Box::new(secret)));
    }
    let login = Login {
        secret: if elsewhere { &copied } else { &credentials.secret_ref.name },
        password_key: &credentials.password_key,
        username: &administrator.username,
        username_key: administrator.username_key.as_deref().filter(|_| !elsewhere),
        database: &subject.database,
    };
    let job = build_backup_job(&request, login);
    draft.steps.push(Step::Apply(Object::Job(Box::new(job))));
}
