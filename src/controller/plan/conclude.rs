//! What is said of an enabling once its steps are planned: phase, conditions, and the time to look again.

use std::time::Duration;

use super::backup::BackupState;
use super::enable::{Enabling, patience};
use super::environment::FOR_THE_USER;
use super::replica::State;
use super::{Draft, Plan, again, conditions};
use crate::api::Phase;
use crate::engine::{Engine, Lag};

impl<E: Engine> Enabling<'_, E> {
    /// Phase, conditions and the time to look again.
    pub(super) fn conclude(
        &self,
        mut draft: Draft<E::Step>,
        states: &[(u32, State)],
        backup: BackupState,
        configured: bool,
        (current, settled): (bool, bool),
        surplus: usize,
    ) -> Plan<E::Step> {
        let in_step = states.iter().filter(|(_, state)| *state == State::InSync).count();
        draft.status.replica_count = Some(format!("{in_step}/{}", self.count));
        draft.status.lag = self.facts.lag().map(Lag::words);
        let waiting = states.iter().find(|(_, state)| *state != State::InSync);
        let proven_before = states.iter().any(|(number, _)| self.before(*number).is_some_and(|before| before.proven_at.is_some()));
        let (phase, reason, message, again) = match (backup, waiting) {
            (BackupState::Running | BackupState::Pending, Some(_)) if !configured => {
                (Phase::Configuring, "Configuring", "the source gets its replication user and what else is needed".to_owned(), again::SOON)
            }
            (BackupState::Running | BackupState::Pending, Some(_)) => {
                let condition = draft.status.conditions.iter().find(|condition| condition.type_ == conditions::BACKUP_TAKEN).cloned();
                let (reason, message) = condition.map(|c| (c.reason, c.message)).unwrap_or_default();
                let reason = if reason == "BackupFailed" { "BackupFailed" } else { "BackingUp" };
                (Phase::BackingUp, reason, message, again::PROGRESS)
            }
            (BackupState::Gone, Some((_, State::Absent))) => {
                let condition = draft.status.conditions.iter().find(|condition| condition.type_ == conditions::BACKUP_TAKEN);
                (Phase::Degraded, "BackupGone", condition.map(|condition| condition.message.clone()).unwrap_or_default(), again::BLOCKED)
            }
            (_, Some((number, state))) => self.waiting_for(*number, state),
            (_, None) if surplus > 0 => (Phase::Ready, "RemovingReplicas", format!("{surplus} replica(s) are being removed"), again::PROGRESS),
            (_, None) if !current => {
                let condition = draft.status.conditions.iter().find(|condition| condition.type_ == conditions::ENVIRONMENT_CURRENT).cloned();
                let message = condition.as_ref().map(|c| c.message.clone()).unwrap_or_default();
                match FOR_THE_USER.into_iter().find(|reason| condition.as_ref().is_some_and(|condition| condition.reason == *reason)) {
                    Some(reason) => (Phase::Degraded, reason, message, again::BLOCKED),
                    None => (Phase::CatchingUp, "UpdatingVariables", message, again::SOON),
                }
            }
            // Not taken back once it was said.
            (_, None) if !settled && !self.subject.ready() => {
                (Phase::CatchingUp, "Configuring", "the replicas are in step, and get their part in the set".to_owned(), again::SOON)
            }
            (_, None) => (Phase::Ready, "Replicating", format!("{in_step} replica(s) hold what was written after their restore"), again::IDLE),
        };
        let degraded = proven_before && waiting.is_some_and(|(number, _)| self.before(*number).is_some_and(|before| before.proven_at.is_some()));
        draft.status.phase = Some(if degraded { Phase::Degraded } else { phase });
        let holds = phase == Phase::Ready && reason == "Replicating";
        if self.upgraded && !holds {
            let was = draft.status.source.as_ref().map(|source| source.version.clone()).unwrap_or_default();
            let now = &self.summary.version;
            let message = format!(
                "the source was upgraded from {was} to {now}, and the replicas hold data of {was}. What to do: set enabled to false and, once it is Standalone, to true again: the replicas are made anew."
            );
            draft.ready(false, true, "MajorVersionChanged", message.clone());
            draft.set(conditions::REPLICAS_IN_SYNC, false, "MajorVersionChanged", message);
            draft.status.phase = Some(Phase::Degraded);
            return draft.finish(again::BLOCKED);
        }
        draft.ready(holds, reason == "BackupGone" || FOR_THE_USER.contains(&reason), reason, message.clone());
        if waiting.is_none() {
            draft.set(conditions::REPLICAS_IN_SYNC, true, "InSync", format!("{in_step} of {}", self.count));
        } else {
            draft.set(conditions::REPLICAS_IN_SYNC, false, reason, message);
        }
        let again = if self.facts.ahead.values().any(|since| *since < again::COUNTED) { again.min(again::PROGRESS) } else { again };
        let again = if draft.steps.is_empty() { patience(self.subject, self.facts.now, again) } else { again::NEXT };
        draft.finish(again)
    }

    /// None of the servers takes writes at this moment: they elect, or the source has yet to be made one of them.
    pub(super) fn without_primary(mut draft: Draft<E::Step>) -> Plan<E::Step> {
        let proven = draft.status.replicas.iter().any(|replica| replica.proven_at.is_some());
        let (phase, reason, message) = if proven {
            (Phase::Degraded, "NoPrimary", "no server takes writes: an election takes some ten seconds, and needs the majority of them")
        } else {
            (Phase::Configuring, "Configuring", "the source does not take writes yet")
        };
        draft.ready(false, false, reason, message);
        if proven {
            draft.set(conditions::REPLICAS_IN_SYNC, false, reason, message);
        }
        draft.status.phase = Some(phase);
        let again = if draft.steps.is_empty() { again::SOON } else { again::NEXT };
        draft.finish(again)
    }

    fn waiting_for(&self, number: u32, state: &State) -> (Phase, &'static str, String, Duration) {
        let name = self.subject.replica(number);
        let target = self.facts.target.is_some();
        // A copy that is made anew, or a database that goes on by itself.
        let remedy = |saves: &str| {
            if target {
                return "set enabled to false: it goes on as a stand-alone database with the data that it has.".to_owned();
            }
            format!("{saves}, then kubectl delete pvc {}; it is seeded anew.", self.claim(number).unwrap_or_default())
        };
        match state {
            State::Absent | State::Restoring => {
                (Phase::Restoring, "Restoring", format!("{name}: the backup is being restored into its volume"), again::PROGRESS)
            }
            State::RestoreFailed(why, _) => (Phase::Restoring, "RestoreFailed", format!("{name}: {why}; it is tried again"), again::PROGRESS),
            State::Removing => (Phase::Degraded, "ReplicaLost", format!("{name} is being removed, to be seeded anew"), again::PROGRESS),
            State::Restored => (Phase::CatchingUp, "ReplicaStarting", format!("{name} starts"), again::SOON),
            State::Starting(why) => (Phase::CatchingUp, "ReplicaStarting", format!("{name} does not answer yet: {why}"), again::SOON),
            State::Writable => {
                let message = format!("{name} takes writes: somebody promoted it. What to do: {}", remedy("save what was written to it"));
                (Phase::Degraded, "ReplicaWritable", message, again::BLOCKED)
            }
            State::Diverged(what) => {
                let message = format!("{name} holds what the source does not: {what}. What to do: {}", remedy("save what you need of it"));
                (Phase::Degraded, "ReplicaDiverged", message, again::BLOCKED)
            }
            State::Copying(why) => (Phase::CatchingUp, "ReplicaCopying", format!("{name}: {why}"), again::SOON),
            State::NotReplicating(why) => (Phase::CatchingUp, "ReplicaNotReplicating", format!("{name} does not replicate: {why}"), again::SOON),
            State::Lost(why) if target => {
                let proven = super::replica::recorded(self.subject, number).is_some_and(|entry| entry.proven_at.is_some());
                let then = if proven { "it goes on as a stand-alone database with the data that it has" } else { "it gets back what it held before" };
                let message = format!(
                    "{name} cannot go on: {why}. What to do: set enabled to false: {then}. To have it follow again, empty it, and set enabled to true."
                );
                (Phase::Degraded, "ReplicaLost", message, again::BLOCKED)
            }
            State::Lost(why) => (Phase::Degraded, "ReplicaLost", format!("{name} cannot go on: {why}"), again::SOON),
            State::CatchingUp | State::InSync => {
                (Phase::CatchingUp, "CatchingUp", format!("{name} has yet to show what was written after its restore"), again::SOON)
            }
        }
    }
}
