//! Events: what `kubectl describe` tells a person, in one table.

use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};
use std::fmt::Display;

use crate::api::{DatabaseReplication, DatabaseReplicationStatus, Phase};
use crate::controller::plan::{Kind, Object, Step, conditions};
use crate::resources::labels;

/// Publishes events; one that can't be published is logged and forgotten.
pub struct Events {
    recorder: Recorder,
}

/// Reasons of `Ready` that are passed through on the way, and are told by the steps that lead there.
const ROUTINE: [&str; 12] = [
    "Measuring",
    "RestartingSource",
    "Observing",
    "Configuring",
    "BackingUp",
    "Restoring",
    "ReplicaStarting",
    "ReplicaCopying",
    "CatchingUp",
    "UpdatingVariables",
    "RemovingReplicas",
    "Disabling",
];

/// An event: whether it is a warning, its reason, its text.
type Told = (bool, &'static str, String);

/// The event of a step that was executed; none where a person would not miss it.
fn of_step<S: Display>(step: &Step<S>) -> Option<Told> {
    let name = |meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta| meta.name.clone().unwrap_or_default();
    Some(match step {
        Step::Source(step) => (false, "SourceChanged", format!("On the source: {step}")),
        Step::Apply(Object::Job(job)) => {
            let name = name(&job.metadata);
            match job.metadata.labels.as_ref().and_then(|labels| labels.get(labels::COMPONENT)).map(String::as_str) {
                Some("backup") => (false, "BackupStarted", format!("Job {name} takes a full backup")),
                Some("restore") => (false, "RestoreStarted", format!("Job {name} restores the backup")),
                Some("discard") => (false, "ClearingVolume", format!("Job {name} clears what was exchanged off the target's volume")),
                _ => return None,
            }
        }
        Step::Apply(Object::StatefulSet(object)) => (false, "ReplicaApplied", format!("StatefulSet {} runs the replica", name(&object.metadata))),
        Step::Change { side: "target", .. } | Step::PutBack { side: "target", .. } => (false, "TargetRestarted", step.to_string()),
        Step::Change { .. } | Step::PutBack { .. } => (false, "SourceRestarted", step.to_string()),
        Step::Recreate { .. } => (true, "TargetRecreated", step.to_string()),
        Step::Target(step) => (false, "TargetChanged", format!("On the target: {step}")),
        Step::Promote => (false, "TargetPromoted", "The target becomes a stand-alone server that takes writes, with the data that it has".to_owned()),
        Step::Apply(Object::Claim(_) | Object::Service(_))
        | Step::Mark(_)
        | Step::Hold
        | Step::Grow { .. }
        | Step::Serve { .. }
        | Step::CreateSecret(_)
        | Step::Disown(_)
        | Step::Delete(Kind::Service | Kind::Job | Kind::Secret, _) => return None,
        Step::Delete(Kind::StatefulSet, name) => (false, "ReplicaRemoved", format!("StatefulSet {name} is being deleted")),
        Step::Delete(Kind::Claim, name) => (false, "VolumeDeleted", format!("PersistentVolumeClaim {name} is being deleted")),
        Step::Keep(name) => (false, "VolumeKept", format!("PersistentVolumeClaim {name} is kept (deletionPolicy: Retain)")),
        Step::Publish { config_map, .. } => (false, "VariablesUpdated", format!("ConfigMap {config_map} holds the current variables")),
        Step::PublishSecret { secret, .. } => (false, "VariablesUpdated", format!("Secret {secret} holds the current password")),
        Step::Release => (false, "Standalone", "The source is a stand-alone database".to_owned()),
        Step::Tell { warning, reason, note } => (*warning, reason, note.clone()),
    })
}

/// Events with the same reason are counted together where their action is the same too: so it is told from the text.
fn action_of(note: &str) -> String {
    note.chars().filter(char::is_ascii_alphanumeric).take(100).collect()
}

impl Events {
    /// Events of this operator's instance.
    #[must_use]
    pub fn new(client: Client, instance: String) -> Self {
        let reporter = Reporter { controller: "understudy".to_owned(), instance: Some(instance) };
        Self { recorder: Recorder::new(client, reporter) }
    }

    /// Tells of a step that was executed.
    pub async fn step<S: Display>(&self, resource: &DatabaseReplication, step: &Step<S>) {
        if let Some(told) = of_step(step) {
            self.publish(resource, told).await;
        }
    }

    /// Tells of a change of the condition `Ready`, and of the backup once it is there.
    pub async fn transition(&self, resource: &DatabaseReplication, after: &DatabaseReplicationStatus) {
        for (kind, every) in [(conditions::BACKUP_TAKEN, false), (conditions::READY, true)] {
            let find = |status: &DatabaseReplicationStatus| status.conditions.iter().find(|condition| condition.type_ == kind).cloned();
            let before = resource.status.as_ref().and_then(find);
            let Some(now) = find(after) else { continue };
            let changed = before.is_none_or(|before| (before.status, before.reason) != (now.status.clone(), now.reason.clone()));
            // What is under way is told by its steps.
            let routine = after.phase != Some(Phase::Degraded) && now.status != "True" && ROUTINE.contains(&now.reason.as_str());
            if !changed || (!every && now.status != "True") || (every && routine) {
                continue;
            }
            let warning = after.conditions.iter().any(|c| c.type_ == conditions::STALLED && c.status == "True") || now.reason.ends_with("Failed");
            let text = if every { now.message } else { format!("Backup: {}", now.message) };
            let told = Event {
                type_: if warning && every { EventType::Warning } else { EventType::Normal },
                reason: if every { now.reason } else { "BackupCompleted".to_owned() },
                note: Some(text.chars().take(1000).collect()),
                action: action_of(&text),
                secondary: None,
            };
            self.send(resource, &told).await;
        }
    }

    /// Tells that the cluster would not make a volume larger.
    pub async fn not_grown(&self, resource: &DatabaseReplication, claim: &str, size: &str, why: &str) {
        let note = format!("PersistentVolumeClaim {claim} cannot be made {size} large: {why}");
        self.publish(resource, (true, "VolumeNotGrown", note)).await;
    }

    async fn publish(&self, resource: &DatabaseReplication, (warning, reason, note): Told) {
        let event = Event {
            type_: if warning { EventType::Warning } else { EventType::Normal },
            reason: reason.to_owned(),
            // The API server takes 1024 bytes.
            note: Some(note.chars().take(1000).collect()),
            action: action_of(&note),
            secondary: None,
        };
        self.send(resource, &event).await;
    }

    async fn send(&self, resource: &DatabaseReplication, event: &Event) {
        if let Err(error) = self.recorder.publish(event, &resource.object_ref(&())).await {
            tracing::warn!(%error, reason = %event.reason, "event not published");
        }
    }
}
