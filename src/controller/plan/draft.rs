//! The status while it is being planned, and how it is merged with the one before.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use std::time::Duration;

use super::{Plan, Step, again};
use crate::api::{DatabaseReplicationStatus, Phase};
use crate::controller::facts::{Facts, Subject};
use crate::engine::{Engine, Finding};

/// Types of conditions.
pub mod conditions {
    /// Data written to the source after the restore was seen on every replica, and the variables are current.
    pub const READY: &str = "Ready";
    /// kstatus: work is under way.
    pub const RECONCILING: &str = "Reconciling";
    /// kstatus: nothing goes on until somebody does something.
    pub const STALLED: &str = "Stalled";
    /// Everything that is needed is there.
    pub const PREFLIGHT: &str = "Preflight";
    /// The source has what replication needs on it.
    pub const SOURCE_CONFIGURED: &str = "SourceConfigured";
    /// A verified full backup exists.
    pub const BACKUP_TAKEN: &str = "BackupTaken";
    /// Every replica streams and has shown what was written after its restore.
    pub const REPLICAS_IN_SYNC: &str = "ReplicasInSync";
    /// The ConfigMaps hold the current variables.
    pub const ENVIRONMENT_CURRENT: &str = "EnvironmentCurrent";
}

/// The status while it is being planned.
#[derive(Debug, Clone)]
pub struct Draft<S> {
    /// Everything but the transition times of conditions.
    pub status: DatabaseReplicationStatus,
    /// Steps so far.
    pub steps: Vec<Step<S>>,
    failure: Option<String>,
}

impl<S> Draft<S> {
    /// Starts from the record of the status before; what is only a view is empty.
    #[must_use]
    pub fn new<E: Engine>(subject: &Subject, facts: &Facts<E>) -> Self {
        let before = subject.resource.status.clone().unwrap_or_default();
        let status = DatabaseReplicationStatus {
            observed_generation: subject.resource.metadata.generation,
            phase: None,
            replica_count: None,
            lag: None,
            conditions: Vec::new(),
            would_do: Vec::new(),
            ..before
        };
        Self { status, steps: Vec::new(), failure: facts.failure.clone() }
    }

    /// Sets a condition; the last word counts.
    pub fn set(&mut self, kind: &str, holds: bool, reason: &str, message: impl Into<String>) {
        self.put(kind, if holds { "True" } else { "False" }, reason, message.into());
    }

    /// Sets a condition to `Unknown`.
    pub fn unknown(&mut self, kind: &str, reason: &str, message: impl Into<String>) {
        self.put(kind, "Unknown", reason, message.into());
    }

    fn put(&mut self, kind: &str, value: &str, reason: &str, message: String) {
        self.status.conditions.retain(|condition| condition.type_ != kind);
        self.status.conditions.push(Condition {
            type_: kind.to_owned(),
            status: value.to_owned(),
            reason: reason.to_owned(),
            message: shorten(message),
            observed_generation: self.status.observed_generation,
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
        });
    }

    /// Sets `Ready`, and `Reconciling` and `Stalled` with it as kstatus wants them: `stalled` if only the user can help.
    pub fn ready(&mut self, holds: bool, stalled: bool, reason: &str, message: impl Into<String>) {
        let message = message.into();
        self.set(conditions::READY, holds, reason, message.clone());
        self.set(conditions::RECONCILING, !holds && !stalled, reason, if holds || stalled { "" } else { &message });
        self.set(conditions::STALLED, stalled, reason, if stalled { &message } else { "" });
    }

    /// Nothing goes on until these findings are mended; all of them are said at once.
    pub fn blocked(&mut self, findings: &[Finding]) {
        let (reason, message) = describe(findings);
        self.set(conditions::PREFLIGHT, false, reason, message.clone());
        self.ready(false, true, reason, message);
        self.status.phase = Some(Phase::Blocked);
    }

    /// Hands off. That an enabling has begun to be undone has the phase as its record; that the owner of the source agrees no longer, a condition.
    #[must_use]
    pub fn suspended(mut self, subject: &Subject) -> Plan<S> {
        let before = subject.resource.status.iter().flat_map(|status| &status.conditions);
        self.status
            .conditions
            .extend(before.filter(|condition| condition.type_ == conditions::SOURCE_CONFIGURED && condition.reason == "ConsentWithdrawn").cloned());
        self.set(conditions::READY, false, "Suspended", "suspend is true: what runs goes on running, and nothing is created, changed or removed");
        self.set(conditions::RECONCILING, false, "Suspended", "");
        self.set(conditions::STALLED, false, "Suspended", "");
        self.status.phase = Some(if subject.undoing() { Phase::Disabling } else { Phase::Suspended });
        self.finish(again::IDLE)
    }

    /// Ends planning. A failure of the steps executed before stays on show until they succeed.
    #[must_use]
    pub fn finish(mut self, again: Duration) -> Plan<S> {
        if let Some(failure) = self.failure.take().filter(|_| !self.steps.is_empty()) {
            self.ready(false, false, "StepFailed", format!("{failure}; it is tried again"));
        }
        Plan { status: self.status, steps: self.steps, again }
    }
}

/// The reason and the text of several findings.
#[must_use]
pub fn describe(findings: &[Finding]) -> (&'static str, String) {
    let say = |finding: &Finding| format!("{}. What to do: {}.", finding.message, finding.remedy);
    match findings {
        [] => ("Passed", String::new()),
        [one] => (one.reason, say(one)),
        several => {
            let texts: Vec<String> = several.iter().enumerate().map(|(n, finding)| format!("({}) {}: {}", n + 1, finding.reason, say(finding))).collect();
            ("SeveralFindings", texts.join(" "))
        }
    }
}

/// The API server takes 32768 bytes; nobody reads more than this.
fn shorten(message: String) -> String {
    const LIMIT: usize = 4000;
    if message.chars().count() <= LIMIT { message } else { message.chars().take(LIMIT).chain("…".chars()).collect() }
}

/// The status to be written: transition times of conditions whose value is the same are kept, in a fixed order.
#[must_use]
pub fn merge(before: Option<&DatabaseReplicationStatus>, mut after: DatabaseReplicationStatus, now: Timestamp) -> DatabaseReplicationStatus {
    let second = Timestamp::from_second(now.as_second()).unwrap_or(now);
    for condition in &mut after.conditions {
        let same = before.into_iter().flat_map(|b| &b.conditions).find(|b| b.type_ == condition.type_ && b.status == condition.status);
        condition.last_transition_time = same.map_or(Time(second), |same| same.last_transition_time.clone());
    }
    after.conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
    after
}
