//! What Jobs and pods of ours are made from, and where they run: after the source, or beside the target.

use super::{Facts, Subject, takeover};
use crate::controller::facts::{Server, TargetFacts};
use crate::engine::{Engine, SourceSummary};
use crate::resources::{JobRequest, Shape, Workload};

/// What Jobs and pods of ours are made from.
#[derive(Debug, Clone)]
pub struct Place<'a> {
    /// The workload whose image, user and node they have.
    pub shape: &'a Shape,
    /// Numeric user and group of its server.
    pub user: (u32, u32),
    /// Its StatefulSet.
    stateful_set: &'a str,
    /// Where they reach the source.
    primary: String,
    /// The pod on whose node they run.
    beside: Option<String>,
}

impl<'a> Place<'a> {
    /// For replicas that are made after the source.
    #[must_use]
    pub fn after_source(subject: &'a Subject, shape: &'a Shape, summary: &SourceSummary) -> Self {
        let (names, user) = (&subject.names, summary.owner.unwrap_or_else(|| shape.server_user()));
        Self { shape, user, stateful_set: subject.source(), primary: names.host(&names.primary()), beside: None }
    }

    /// On the node of a target, whose volume they work on. None where its shape is not known.
    #[must_use]
    pub fn beside_target<E: Engine>(subject: &'a Subject, facts: &Facts<E>, target: &'a TargetFacts<E>) -> Option<Self> {
        let (database, shape) = (subject.target_database()?, target.shape.as_ref()?.as_ref().ok()?);
        let user = match (subject.target_status(), &target.server) {
            (Some(recorded), _) => (recorded.user, recorded.group),
            (None, Server::Up(server)) => E::summary(server).owner.unwrap_or_else(|| shape.server_user()),
            _ => shape.server_user(),
        };
        let primary = takeover::source_host(subject, facts).unwrap_or_default();
        Some(Self { shape, user, stateful_set: database.stateful_set, primary, beside: Some(database.pod()) })
    }

    /// What a Job is told.
    #[must_use]
    pub fn request<E: Engine>(&'a self, subject: &'a Subject, image: &'a str, sequence: u32) -> JobRequest<'a> {
        let Self { shape, user, stateful_set, primary, beside } = self;
        let workload = Workload { names: &subject.names, owner: &subject.owner, shape, image, engine: E::NAME, user: *user, source: stateful_set };
        let restore_needs_database = E::RESTORE_NEEDS_DATABASE;
        JobRequest { workload, primary, port: subject.port, sequence, backup_runs: false, restore_needs_database, beside: beside.as_deref() }
    }
}
