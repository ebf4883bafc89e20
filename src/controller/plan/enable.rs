//! From a stand-alone database to one with replicas in step, and from one number of replicas to another.

use k8s_openapi::jiff::Timestamp;
use std::time::Duration;

use super::backup::BackupState;
use super::place::Place;
use super::preflight;
use super::replica::{self, State};
use super::{Draft, Facts, Kind, Plan, Step, Subject, again, backup, conditions, environment, source, takeover, target};
use crate::api::{Change, Disruption, Phase, ReplicaStatus, SourceStatus};
use crate::controller::facts::{PodFacts, Server};
use crate::engine::{Engine, Finding, Held, SourceSummary, WantedSource};
use crate::resources::JobRequest;

/// The plan for a resource that is enabled.
#[must_use]
pub fn plan<E: Engine>(subject: &Subject, facts: &Facts<E>, mut draft: Draft<E::Step>, image: &str) -> Plan<E::Step> {
    let spec = &subject.resource.spec;
    let count = spec.replicas.unwrap_or(1);
    if let Some(plan) = source::waiting(subject, facts, &draft) {
        return plan;
    }
    if let Some(withdrawn) = &facts.withdrawn {
        return takeover::unmanaged(subject, facts, draft, withdrawn);
    }
    let mut findings = preflight::reach(subject, facts);
    findings.extend(source::reverted(subject, facts, &mut draft));
    let everything = WantedSource {
        identity: subject.names.identity.clone(),
        replicas: (1..=count).collect(),
        started: Vec::new(),
        proven: Vec::new(),
        hosts: hosts(subject, count),
        retention_limit: preflight::retention_limit(facts),
        prove_login: true,
        withhold_access: false,
    };
    if !subject.recorded() {
        findings.extend(preflight::first(subject, facts, &everything));
    } else if let (Server::Up(server), None) = (&facts.server, &facts.shape) {
        // It no longer says where its data lies; why is among these.
        findings.extend(E::preflight(server, &everything));
    }
    if let (Server::Up(server), Some(was)) = (&facts.server, subject.resource.status.as_ref().and_then(|status| status.source.as_ref()?.system.clone())) {
        let now = E::summary(server).system;
        if subject.recorded() && !now.is_empty() && now != was {
            findings.push(Finding::new(
                "SourceReplaced",
                format!("the source is another database ({now}) than the one that was copied ({was}); replicas and backup hold the old one and are left alone"),
                "restore the source from a replica or the backup if it was lost; or set enabled to false and, once it is Standalone, to true again",
            ));
        }
    }
    let (Server::Up(server), Some(Ok(shape)), true) = (&facts.server, &facts.shape, findings.is_empty()) else {
        return hindered(subject, facts, draft, &findings);
    };
    let summary = E::summary(server);
    if spec.dry_run && !subject.recorded() {
        return dry_run(subject, facts, draft, server, &everything);
    }
    if !subject.recorded()
        && let Some(plan) = takeover::measure(subject, facts, &draft, image)
    {
        return plan;
    }
    let first = !subject.recorded();
    draft.set(conditions::PREFLIGHT, true, "Passed", target::passed(subject, facts));
    let mut warnings = preflight::lasting::<E>(server, shape, &everything);
    warnings.extend(target::reverted(subject, facts));
    warn_of(subject, &mut draft, &warnings);
    if first {
        draft.status.enablement = Some(subject.names.identity.word().to_owned());
        draft.status.enablements += 1;
    }
    let source = draft.status.source.get_or_insert_default();
    // Of a new major version it is said, not taken over: the replicas' data is of the old one.
    let upgraded = source.major_version != 0 && source.major_version != summary.major_version;
    if !upgraded {
        source.version.clone_from(&summary.version);
        source.major_version = summary.major_version;
    }
    source.address = environment::primary_address(subject, facts);
    source.credentials.clone_from(&facts.agreed);
    if first {
        source.system = Some(summary.system.clone()).filter(|system| !system.is_empty());
        source.data_bytes = facts.data_bytes.as_ref().ok().and_then(|bytes| i64::try_from(*bytes).ok()).unwrap_or(i64::MAX);
        draft.status.disruption = Some(Disruption { expected: expected_disruption(facts, server), ..Disruption::default() });
        draft.status.target = takeover::record(subject, facts);
        draft.steps.extend(target::ending(facts).map(|note| Step::Tell { warning: true, reason: "LoginsReplaced", note }));
        draft.status.kept = None;
    }
    if !subject.resource.metadata.finalizers.iter().flatten().any(|f| f == crate::api::FINALIZER) {
        draft.steps.push(Step::Hold);
    }
    let place = match &facts.target {
        None => Some(Place::after_source(subject, shape, &summary)),
        Some(target) => Place::beside_target(subject, facts, target),
    };
    // It was looked at, or that is among the findings.
    let Some(place) = place else { return hindered(subject, facts, draft, &[]) };
    let before = draft.clone();
    let plan = source::change(subject, facts, &mut draft, server, shape, image);
    let plan = plan.unwrap_or_else(|| {
        let enabling = |place| Enabling { subject, facts, server, summary, place, image, count, everything, upgraded };
        match &facts.target {
            None => enabling(place).plan(draft),
            Some(target) => enabling(place).take_over(draft, target),
        }
    });
    if spec.dry_run { rehearsed(before, &plan) } else { plan }
}

/// Where the servers reach each other.
fn hosts(subject: &Subject, count: u32) -> std::collections::BTreeMap<u32, String> {
    let (names, port) = (&subject.names, subject.port);
    let service = |number| if number == 0 { names.source() } else { names.replica(number) };
    (0..=count).map(|number| (number, format!("{}:{port}", names.host(&service(number))))).collect()
}

/// What has come up since the first change and endangers what runs is said, with an event when it does. It stops nothing.
fn warn_of<S>(subject: &Subject, draft: &mut Draft<S>, findings: &[Finding]) {
    if findings.is_empty() {
        return;
    }
    let (reason, message) = super::draft::describe(findings);
    let mut said = subject.resource.status.iter().flat_map(|status| &status.conditions);
    if !subject.resource.spec.dry_run && !said.any(|condition| condition.type_ == conditions::PREFLIGHT && condition.reason == reason) {
        draft.steps.push(Step::Tell { warning: true, reason, note: message.clone() });
    }
    draft.set(conditions::PREFLIGHT, false, reason, message);
}

/// A dry run of what is enabled already: what runs goes on running, and the next steps are said instead of executed.
fn rehearsed<S: std::fmt::Display>(mut draft: Draft<S>, plan: &Plan<S>) -> Plan<S> {
    draft.status.would_do = plan.steps.iter().map(ToString::to_string).collect();
    draft.steps.clear();
    draft.set(
        conditions::READY,
        false,
        "DryRun",
        "dryRun is true: what runs goes on running, and nothing is created, changed or removed; status.wouldDo lists the next steps",
    );
    draft.set(conditions::RECONCILING, false, "DryRun", "");
    draft.set(conditions::STALLED, false, "DryRun", "");
    draft.status.phase = Some(Phase::DryRun);
    draft.finish(again::IDLE)
}

/// Something that is needed is missing: before the first change that blocks; afterwards what runs goes on running, and it is said.
fn hindered<E: Engine>(subject: &Subject, facts: &Facts<E>, mut draft: Draft<E::Step>, findings: &[crate::engine::Finding]) -> Plan<E::Step> {
    let running = draft.status.replicas.iter().any(|replica| replica.proven_at.is_some());
    if findings.is_empty() {
        draft.ready(false, false, "Observing", "the source is being looked at");
        return draft.finish(again::SOON);
    }
    draft.blocked(findings);
    if running {
        draft.status.phase = Some(Phase::Degraded);
        let (reason, message) = super::draft::describe(findings);
        draft.unknown(conditions::REPLICAS_IN_SYNC, reason, format!("cannot be told: {message}"));
        follow(subject, facts, &mut draft);
    } else if subject.recorded() {
        // A backup that failed meanwhile must not look as if it were still running.
        let job = subject.names.backup_job(backup::sequence(&draft));
        if let Some(Some(crate::controller::facts::JobState::Failed(why, _))) = facts.own.jobs.get(&job) {
            draft.set(conditions::BACKUP_TAKEN, false, "BackupFailed", why.clone());
        }
    }
    let again = if subject.recorded() { again::PROGRESS } else { again::BLOCKED };
    let again = patience(subject, facts.now, again);
    draft.finish(again)
}

/// Where the servers have elected another one because the source is gone: clients are told who takes the writes now. Where the source runs alone, because
/// it was reverted, it is the one that does, and nobody is sent to who was elected beside it.
fn follow<E: Engine>(subject: &Subject, facts: &Facts<E>, draft: &mut Draft<E::Step>) {
    let reverted = draft.status.source.as_ref().is_some_and(|source| source.reverted);
    let (elected, leader) = (facts.elected(), facts.leader());
    let Some(leading) = elected.filter(|_| reverted || leader.is_some()).map(|number| subject.names.replica(number)) else { return };
    let serving = |entry: &&ReplicaStatus| entry.proven_at.is_some() && entry.diverged.is_none() && entry.name != leading;
    let proven: Vec<String> = draft.status.replicas.iter().filter(serving).map(|entry| entry.address.clone()).collect();
    if !reverted {
        replica::lead(subject, facts, draft, leader);
    }
    // While the pod of a source that was reverted is being replaced, the variables go on naming it.
    if reverted != leader.is_some() {
        environment::publish(subject, facts, draft, &proven);
    }
    serve(subject, facts, draft, &proven);
}

/// The pods of replicas that the variables name, and no others, are those that the Service of all replicas leads to.
fn serve<E: Engine>(subject: &Subject, facts: &Facts<E>, draft: &mut Draft<E::Step>, proven: &[String]) {
    for pod in facts.own.pods.iter().filter(|pod| pod.component == "replica" && !pod.ended) {
        let Some(number) = pod.number else { continue };
        let serving = proven.contains(&subject.names.host(&subject.names.replica(number)));
        if serving != pod.serving {
            draft.steps.push(Step::Serve { pod: pod.name.clone(), serving });
        }
    }
}

/// How long until a resource that is not Ready is looked at again: soon while it may pass, up to a minute where nothing has changed for long. What is
/// watched wakes it earlier.
pub(super) fn patience(subject: &Subject, now: Timestamp, least: Duration) -> Duration {
    let mut conditions = subject.resource.status.iter().flat_map(|status| &status.conditions);
    let since = conditions.find(|condition| condition.type_ == conditions::READY && condition.status == "False").map(|c| c.last_transition_time.0);
    let waited = since.map_or(Duration::ZERO, |since| now.duration_since(since).unsigned_abs());
    let most = if least < again::BLOCKED { again::BLOCKED / 2 } else { Duration::from_mins(1) };
    (waited / 40).clamp(least, most)
}

/// What a dry run says of the replicas.
fn announce<E: Engine>(subject: &Subject, facts: &Facts<E>, wanted: &WantedSource) -> Vec<String> {
    let names = &subject.names;
    let size = preflight::replica_size(subject, facts).map(crate::resources::format_bytes).unwrap_or_default();
    let replica = |number: &u32| format!("restore it onto a volume of {size} and start StatefulSet {} as a read-only replica", names.replica(*number));
    let mut would: Vec<String> = wanted.replicas.iter().map(replica).collect();
    would.push(format!("create the Services {} and {}", names.primary(), names.replicas()));
    would.extend(
        subject.environment.iter().map(|(object, prefix)| {
            format!("write {prefix}_ADDRESS, {prefix}_SLAVE_ADDRESSES_INT and {prefix}_SLAVE_ADDRESSES_EXT to ConfigMap {}", object.name)
        }),
    );
    would
}

fn dry_run<E: Engine>(subject: &Subject, facts: &Facts<E>, mut draft: Draft<E::Step>, server: &E::SourceFacts, wanted: &WantedSource) -> Plan<E::Step> {
    let names = &subject.names;
    let spec = &subject.resource.spec;
    let mut would: Vec<String> = source::announce::<E>(subject, server).into_iter().collect();
    would.extend(E::plan_enable(server, wanted).iter().map(|step| format!("source: {step}")));
    would.push(format!("take a full backup onto a volume of {} ({})", spec.backup.volume.size.0, names.backup_claim()));
    if facts.target.is_some() {
        would.extend(target::announce(subject, facts));
    } else {
        would.extend(announce(subject, facts, wanted));
    }
    draft.status.would_do = would;
    let expected = expected_disruption(facts, server);
    draft.status.disruption = Some(Disruption { expected: expected.clone(), ..Disruption::default() });
    draft.set(conditions::PREFLIGHT, true, "Passed", target::passed(subject, facts));
    draft.set(conditions::READY, false, "DryRun", format!("nothing was changed; status.wouldDo lists what would be done; expected disruption: {expected}"));
    draft.set(conditions::RECONCILING, false, "DryRun", "");
    draft.set(conditions::STALLED, false, "DryRun", "");
    draft.status.phase = Some(Phase::DryRun);
    draft.finish(again::IDLE)
}

/// What clients will notice.
fn expected_disruption<E: Engine>(facts: &Facts<E>, server: &E::SourceFacts) -> String {
    let mut expected = E::expected_disruption(server);
    if facts.target.is_some() {
        expected.push_str("; the target restarts once, and serves the source's data from then on");
    }
    expected
}

/// What enabling plans from.
pub(super) struct Enabling<'a, E: Engine> {
    pub(super) subject: &'a Subject,
    pub(super) facts: &'a Facts<E>,
    pub(super) server: &'a E::SourceFacts,
    pub(super) summary: SourceSummary,
    pub(super) place: Place<'a>,
    pub(super) image: &'a str,
    pub(super) count: u32,
    pub(super) everything: WantedSource,
    pub(super) upgraded: bool,
}

impl<E: Engine> Enabling<'_, E> {
    pub(super) fn before(&self, number: u32) -> Option<&ReplicaStatus> {
        replica::recorded(self.subject, number)
    }

    /// The claim of a replica's volume.
    pub(super) fn claim(&self, number: u32) -> Option<String> {
        self.facts.own.replica_claim(self.before(number).and_then(|before| before.claim.as_deref()), number)
    }

    /// Volumes that are to be larger than they were claimed: those of the backup and of replicas. A smaller size is no wish: a claim can't shrink.
    pub(super) fn grow(&self, draft: &mut Draft<E::Step>) {
        let backup = (self.subject.names.backup_claim(), self.subject.resource.spec.backup.volume.size.clone());
        let size = replica::storage(self.subject, self.facts).map(|storage| storage.size);
        let replicas = (1..=self.count).filter_map(|number| Some((self.claim(number)?, size.clone()?)));
        for (claim, size) in replicas.chain([backup]) {
            replica::grow(self.facts, draft, claim, size);
        }
    }

    pub(super) fn request(&self, sequence: u32) -> JobRequest<'_> {
        self.place.request::<E>(self.subject, self.image, sequence)
    }

    fn plan(self, mut draft: Draft<E::Step>) -> Plan<E::Step> {
        let names = &self.subject.names;
        let states: Vec<(u32, State)> =
            (1..=self.count).map(|number| (number, replica::observe(self.subject, self.facts, &self.summary, self.before(number), number))).collect();
        draft.status.replicas =
            states.iter().map(|(number, state)| replica::describe(self.subject, self.facts, &self.summary, self.before(*number), *number, state)).collect();

        // One by one: a replica is begun once those before it are in step. What exists is looked after in any case.
        let begun = states.iter().position(|(_, state)| *state != State::InSync).map_or(states.len(), |at| at + 1);
        let cared: Vec<&(u32, State)> = states.iter().enumerate().filter(|(at, (_, state))| *at < begun || *state != State::Absent).map(|(_, s)| s).collect();

        if !self.summary.leads && self.facts.leader().is_none() {
            self.configure(&mut draft, &cared);
            return Self::without_primary(draft);
        }
        let needed = cared.iter().any(|(_, state)| *state == State::Absent);
        let configured = self.configure(&mut draft, &cared);
        let backup = {
            let request = self.request(backup::sequence(&draft));
            backup::plan(self.subject, self.facts, &mut draft, &self.summary, &request, needed)
        };
        for (number, state) in &cared {
            // What exists is looked after whether or not a backup is being taken for another one.
            if backup == BackupState::Complete || *state != State::Absent {
                self.advance(&mut draft, *number, state);
            }
        }
        if backup == BackupState::Running {
            // The next replica's volume and Job are made meanwhile: the Job waits for the backup.
            if let Some((number, _)) = cared.iter().find(|(_, state)| *state == State::Absent) {
                let request = JobRequest { backup_runs: true, ..self.request(backup::sequence(&draft)) };
                replica::seed(self.subject, self.facts, &mut draft, &request, *number);
            }
        }

        if backup == BackupState::Pending {
            // A restore that waits holds the backup's volume on its node: the next attempt may run elsewhere.
            let jobs = cared.iter().filter(|(_, state)| *state == State::Restoring).map(|(number, _)| names.restore_job(*number));
            let there = jobs.filter(|job| self.facts.own.jobs.get(job).is_some_and(Option::is_some));
            let planned: Vec<_> = there.map(|job| Step::Delete(Kind::Job, job)).filter(|step| !draft.steps.contains(step)).collect();
            draft.steps.extend(planned);
        }
        self.grow(&mut draft);

        let proven: Vec<String> = draft.status.replicas.iter().filter(|entry| entry.serves()).map(|entry| entry.address.clone()).collect();
        let current = environment::publish(self.subject, self.facts, &mut draft, &proven);
        serve(self.subject, self.facts, &mut draft, &proven);
        let settled = !draft.steps.iter().any(|step| matches!(step, Step::Source(_)));
        let surplus = self.reduce(&mut draft, current);
        self.conclude(draft, &states, backup, configured, (current, settled), surplus)
    }

    /// Role, rule, limit and the slots of every replica that is cared for; recorded before they are changed.
    pub(super) fn configure(&self, draft: &mut Draft<E::Step>, cared: &[&(u32, State)]) -> bool {
        let names = &self.subject.names;
        let untouched = cared.iter().all(|(_, state)| *state == State::Absent) && !self.facts.own.jobs.contains_key(&names.backup_job(backup::sequence(draft)));
        let taken = draft.status.backup.as_ref().is_some_and(|backup| backup.state == "Complete");
        let wanted = WantedSource {
            replicas: cared.iter().filter(|(_, state)| !matches!(state, State::Removing)).map(|(number, _)| *number).collect(),
            started: cared.iter().filter(|(number, state)| self.started(*number, state)).map(|(number, _)| *number).collect(),
            proven: cared.iter().filter(|(number, state)| self.holds(*number, state)).map(|(number, _)| *number).collect(),
            prove_login: untouched && !taken,
            withhold_access: replica::withholds_access(cared.iter().map(|(_, state)| state), taken),
            ..self.everything.clone()
        };
        let mut steps = Vec::new();
        for (number, state) in cared {
            // Lost before its replica existed: the copy took longer than the limit allows. A new one, and with it a new backup.
            if *state == State::Absent && self.summary.held.contains(&(*number, Held::Lost)) {
                steps.extend(E::plan_release(self.server, &names.identity, *number));
            }
        }
        let planned = E::plan_enable(self.server, &wanted);
        let withheld = wanted.withhold_access && planned != E::plan_enable(self.server, &WantedSource { withhold_access: false, ..wanted });
        steps.extend(planned);
        let done = steps.iter().all(|step| E::record(self.server, step).is_none());
        let source: &mut SourceStatus = draft.status.source.get_or_insert_default();
        for change in steps.iter().filter_map(|step| E::record(self.server, step)) {
            match source.changes.iter_mut().find(|known| known.what == change.what) {
                // The value before is that of the first time.
                Some(known) => known.after = change.after,
                // Whoever shares the source may have changed it a moment ago: then what it was is on record there.
                None => match self.facts.neighbours.iter().find(|theirs| theirs.what == change.what) {
                    Some(theirs) => source.changes.push(Change { before: theirs.before.clone(), ..change }),
                    None if change.before.as_ref() != Some(&change.after) => source.changes.push(change),
                    None => {}
                },
            }
        }
        // What somebody else has changed already is undone by the last that goes.
        for change in &self.facts.neighbours {
            if !source.changes.iter().any(|known| known.what == change.what) {
                source.changes.push(change.clone());
            }
        }
        draft.steps.extend(steps.into_iter().map(Step::Source));
        let request = self.request(backup::sequence(draft));
        let lost = if done && !withheld { backup::regain_access::<E>(self.subject, self.facts, draft, &self.summary, &request) } else { None };
        if withheld {
            draft.set(
                conditions::SOURCE_CONFIGURED,
                false,
                "AccessWithheld",
                "the replication user is gone, and is not made again: with it, replicas that hold what the source has lost, or do not answer, would copy the source",
            );
        } else if let Some(lost) = lost {
            draft.set(conditions::SOURCE_CONFIGURED, false, "AccessLost", lost);
        } else if done {
            draft.set(conditions::SOURCE_CONFIGURED, true, "Configured", "the replication user and what else is needed are in place");
        } else {
            draft.set(conditions::SOURCE_CONFIGURED, false, "Configuring", "the source gets its replication user and what else is needed");
        }
        done
    }

    /// Its server was started.
    fn started(&self, number: u32, state: &State) -> bool {
        match self.facts.target {
            Some(_) => !matches!(state, State::Absent | State::Restoring | State::RestoreFailed(..) | State::Restored),
            None => self.facts.own.stateful_sets.contains_key(&self.subject.names.replica(number)),
        }
    }

    /// A replica that has shown what was written after its restore and, for all that is known, still holds it.
    fn holds(&self, number: u32, state: &State) -> bool {
        let there = matches!(state, State::Starting(_) | State::Copying(_) | State::NotReplicating(_) | State::CatchingUp | State::InSync);
        *state == State::InSync || there && self.before(number).is_some_and(|before| before.proven_at.is_some())
    }

    /// The next step of one replica.
    fn advance(&self, draft: &mut Draft<E::Step>, number: u32, state: &State) {
        let names = &self.subject.names;
        let request = self.request(backup::sequence(draft));
        match state {
            State::Absent => replica::seed(self.subject, self.facts, draft, &request, number),
            State::RestoreFailed(_, true) => {
                draft.status.replicas.iter_mut().filter(|entry| entry.name == names.replica(number)).for_each(|entry| entry.failures += 1);
                draft.steps.push(Step::Delete(Kind::Job, names.restore_job(number)));
            }
            State::Restoring if self.left_alone(number) => draft.steps.push(Step::Delete(Kind::Job, names.restore_job(number))),
            // Of a replica that was promoted or written to there may be no other copy: nothing restarts it.
            State::Restoring | State::RestoreFailed(_, false) | State::Writable | State::Diverged(_) => {}
            State::Lost(why) => {
                draft.steps.push(Step::Tell { warning: true, reason: "ReplicaLost", note: format!("{}: {why}; it is seeded anew", names.replica(number)) });
                // Deleting the volume first is what makes the removal known after a crash.
                if let Some(claim) = self.claim(number) {
                    draft.steps.push(Step::Delete(Kind::Claim, claim));
                }
                replica::remove(names, &self.facts.own, draft, number);
            }
            State::Removing => {
                if replica::remove(names, &self.facts.own, draft, number) {
                    draft.steps.extend(E::plan_release(self.server, &names.identity, number).into_iter().map(Step::Source));
                }
            }
            State::Restored | State::Starting(_) | State::Copying(_) | State::NotReplicating(_) | State::CatchingUp | State::InSync => {
                if !self.upgraded {
                    replica::run(self.subject, self.facts, draft, &request, number);
                }
                if *state == State::CatchingUp {
                    draft.steps.extend(self.mark(number));
                }
            }
        }
    }

    /// The mark that a replica is to show. One that the source itself no longer reaches was written to another history: it never arrives.
    pub(super) fn mark(&self, number: u32) -> Option<Step<E::Step>> {
        let marked = self.facts.marks.get(&number).is_some_and(|mark| self.summary.position.reaches(mark));
        (!marked && self.summary.leads).then(|| Step::Mark(vec![number]))
    }

    /// The restore was to run beside a backup that ended before it was scheduled: it is made again, without that wish.
    fn left_alone(&self, number: u32) -> bool {
        let waits = |pod: &&PodFacts| pod.component == "restore" && pod.number == Some(number) && pod.ip.is_none() && !pod.ended;
        self.facts.own.pods.iter().find(waits).and_then(|pod| pod.trouble.as_ref()).is_some_and(|trouble| trouble.contains("pod affinity"))
    }

    /// Takes away replicas beyond the wanted number, the last first, once the variables no longer name them. Gives how many are left to go.
    fn reduce(&self, draft: &mut Draft<E::Step>, current: bool) -> usize {
        let names = &self.subject.names;
        let own = &self.facts.own;
        let numbers = own.stateful_sets.values().chain(own.claims.values()).chain(own.services.values()).filter_map(|object| object.number);
        let slots = self.summary.held.iter().map(|(number, _)| *number);
        let mut surplus: Vec<u32> = numbers.chain(slots).filter(|number| *number > self.count).collect();
        surplus.sort_unstable();
        surplus.dedup();
        // A ConfigMap that does not exist names nobody.
        let told = current || !draft.steps.iter().any(|step| matches!(step, Step::Publish { .. }));
        let leaving = if surplus.is_empty() || !told { Vec::new() } else { E::plan_leave(self.server, &names.identity, &(1..=self.count).collect::<Vec<_>>()) };
        if !leaving.is_empty() {
            draft.steps.extend(leaving.into_iter().map(Step::Source));
            return surplus.len();
        }
        if let Some(last) = surplus.last().filter(|_| told)
            && replica::remove(names, own, draft, *last)
        {
            draft.steps.extend(E::plan_release(self.server, &names.identity, *last).into_iter().map(Step::Source));
            for (claim, _) in own.claims.iter().filter(|(_, claim)| claim.number == Some(*last)) {
                replica::dispose(self.subject.resource.spec.deletion_policy, own, draft, claim.clone());
            }
        }
        surplus.len()
    }
}
