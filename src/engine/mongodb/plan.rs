//! Which steps lead a MongoDB source from what is to what is wanted. Pure.

use k8s_openapi::api::core::v1::Container;
use std::fmt;

use super::{Member, MongoSession, SourceFacts, Standing, command};
use crate::api::Change;
use crate::engine::{Engine, Finding, Identity, Position, SourceSummary, WantedSource};
use crate::resources::{KEY_FILE, Shape};

/// MongoDB 6 and later.
#[derive(Debug, Clone, Copy)]
pub struct MongoDb;

/// One step on a source; each may be repeated without harm. What changes the configuration waits, without failing, for the change before to reach the
/// majority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// `replSetInitiate` with the source as the only member, which is preferred as the primary.
    Initiate {
        /// Name of the set.
        set: String,
        /// The source as the other members reach it.
        host: String,
    },
    /// A member without a vote, which can't become the primary.
    Add {
        /// Its number.
        id: u32,
        /// `host:port`.
        host: String,
    },
    /// The member gets a vote, and may become the primary.
    Raise {
        /// Its number.
        id: u32,
    },
    /// The member loses its vote.
    Lower {
        /// Its number.
        id: u32,
    },
    /// The member leaves.
    Remove {
        /// Its number.
        id: u32,
    },
    /// The source alone is the set, by force: where the other members are gone, and with them the majority.
    Reclaim,
    /// The configuration as it is, by force: a server that did not find itself in it after a restart looks again.
    LookAgain,
    /// Drops the database `local` of a stand-alone server, with what a replica set left in it. Where there is a login, a role of our own allows that for a
    /// moment: no built-in one does.
    ClearLocal {
        /// Name of the role.
        role: String,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Initiate { set, host } => write!(f, "initiate the replica set {set} with the source, as {host}"),
            Self::Add { id, host } => write!(f, "add member {id}, {host}, without a vote"),
            Self::Raise { id } => write!(f, "give member {id} a vote"),
            Self::Lower { id } => write!(f, "take the vote of member {id}"),
            Self::Remove { id } => write!(f, "remove member {id}"),
            Self::Reclaim => write!(f, "make the source the only member, by force"),
            Self::LookAgain => write!(f, "let the source look for itself among the members"),
            Self::ClearLocal { role } => write!(f, "drop the database local, which the replica set has left (as the temporary role {role})"),
        }
    }
}

/// What the record calls that which a set keeps on the source.
const LOCAL: &str = "database local";

fn number(version: &str) -> u32 {
    version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0)
}

fn position((seconds, increment): (u32, u32)) -> Position {
    if seconds == 0 { Position::default() } else { Position::Timestamp { seconds, increment } }
}

impl SourceFacts {
    /// It runs as a member of the set of this enabling.
    fn is_ours(&self, identity: &Identity) -> bool {
        self.set_name.as_deref() == Some(&identity.role())
    }

    fn others(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.id != 0)
    }

    /// Votes that members beside the source are to have: always an even number of them, so that the set has an odd number of voters; and only of those that
    /// have everything, so that no majority needs one that still copies.
    fn voters(&self, proven: &[u32]) -> Vec<u32> {
        let ready = |member: &&Member| proven.contains(&member.id) && (member.votes || matches!(member.state.as_str(), "SECONDARY" | "PRIMARY"));
        let mut ready: Vec<u32> = self.others().filter(ready).map(|member| member.id).collect();
        ready.sort_unstable();
        ready.truncate(ready.len() / 2 * 2);
        ready
    }
}

impl Engine for MongoDb {
    type SourceFacts = SourceFacts;
    type Step = Step;
    type Session = MongoSession;

    const NAME: &'static str = "MongoDB";
    const PORT: u16 = 27017;
    const DATABASE: &'static str = "admin";
    const ADMINISTRATOR: &'static str = "root";
    const PREFIX: &'static str = "MONGODB";
    const LOGIN_VARIABLES: bool = false;
    const USERS_ARE_DATA: bool = true;
    const COUNTS_LATE: bool = false;
    const RESTORE_NEEDS_DATABASE: bool = false;
    /// `OP_MSG` with `{hello: 1, $db: "admin"}`: <https://www.mongodb.com/docs/manual/reference/mongodb-wire-protocol/>.
    const HELLO: &'static [u8] = b"\x34\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\xdd\x07\x00\x00\x00\x00\x00\x00\x00\
        \x1f\x00\x00\x00\x10hello\x00\x01\x00\x00\x00\x02$db\x00\x06\x00\x00\x00admin\x00\x00";

    /// An `OP_MSG`.
    fn greets(answer: &[u8]) -> bool {
        answer.get(12..16) == Some(b"\xdd\x07\x00\x00")
    }

    fn summary(facts: &SourceFacts) -> SourceSummary {
        SourceSummary {
            version: facts.version.clone(),
            // A stand-alone server has no name of its own.
            system: String::new(),
            major_version: number(&facts.version),
            data_directory: facts.data_directory.clone(),
            owner: None,
            leads: matches!(facts.standing, Standing::Standalone | Standing::Primary),
            // Alone it has nobody to wait for.
            elects: matches!(facts.standing, Standing::Secondary | Standing::Other) && facts.others().any(|member| member.votes),
            adapted: facts.standing != Standing::Standalone,
            // Members trust each other by the key file; there is no user of ours.
            access: true,
            // A member takes nothing over that the majority has not got.
            records: None,
            position: position(facts.applied),
            // Members copy everything from the source: any backup will do.
            oldest_for_seed: Position::default(),
            oldest_for_replica: position(facts.oldest),
            backup_progress: None,
            held: Vec::new(),
            last_save: None,
        }
    }

    fn preflight(facts: &SourceFacts, wanted: &WantedSource) -> Vec<Finding> {
        let mut found = Vec::new();
        if !facts.version.is_empty() && number(&facts.version) < 6 {
            found.push(Finding::new(
                "VersionTooOld",
                format!("the server is MongoDB {}, and what is used here exists from 6.0 on", facts.version),
                "upgrade the source to MongoDB 6.0 or later",
            ));
        }
        if facts.sharded {
            found.push(Finding::new(
                "ClusterEnabled",
                "the source is a part of a sharded cluster",
                "name a stand-alone server: the members of a shard are added with rs.add",
            ));
        } else if let Some(set) = facts.set_name.as_ref().filter(|_| !facts.is_ours(&wanted.identity)) {
            found.push(Finding::new(
                "SourceIsReplica",
                format!("the source already runs as a member of the replica set {set}"),
                "add members to that set with rs.add, or start the source without --replSet (replication.replSetName)",
            ));
        } else if facts.left.as_deref().is_some_and(|set| Identity::of_role(set).is_none()) {
            found.push(Finding::new(
                "SourceIsReplica",
                "the source's database local holds the configuration of a replica set that it was a member of",
                "start it with its --replSet again, or drop the database local (the data is in other databases)",
            ));
        }
        if !facts.storage_engine.is_empty() && facts.storage_engine != "wiredTiger" {
            found.push(Finding::new(
                "NoPersistence",
                format!("the source's storage engine is {}", facts.storage_engine),
                "keep the data in wiredTiger, which is the default",
            ));
        }
        if !facts.forbidden.is_empty() {
            found.push(Finding::new(
                "NotPermitted",
                format!("user {} may not: {}", facts.user, facts.forbidden.join(", ")),
                "let source.credentials name a user with the role root",
            ));
        }
        found
    }

    fn preflight_target(_source: &SourceFacts, _target: &SourceFacts) -> Vec<Finding> {
        // The definition refuses it at admission, too.
        vec![Finding::new(
            "TargetNotSupported",
            "a MongoDB cannot be made a copy of another application's: the members of a replica set copy their data by themselves",
            "use replicas in place of target",
        )]
    }

    fn preflight_shape(shape: &Shape) -> Vec<Finding> {
        command::preflight(shape)
    }

    fn adapt_replica(_container: &mut Container, _data_directory: &str) {
        // The template that it is made from has the arguments of a member already.
    }

    fn target_arguments(_data_directory: &str) -> Vec<String> {
        Vec::new()
    }

    fn source_arguments(identity: &Identity) -> Vec<String> {
        vec!["--replSet".to_owned(), identity.role()]
    }

    fn needs_key(facts: &SourceFacts) -> bool {
        // With a key file of its own the replicas, made from the same template, have it too.
        facts.authorization && facts.key_file.as_deref().is_none_or(|file| file == KEY_FILE)
    }

    fn expected_disruption(facts: &SourceFacts) -> String {
        let key = if Self::needs_key(facts) { ", with a key file" } else { "" };
        format!(
            "one restart of the source as a replica set of one member{key}: its clients can't write until its pod is back and the set is initiated, at most 20 s where its image is on the node; and one more restart when the replicas go. Clients outside the cluster that discover the members need to resolve their names, or connect with directConnection=true"
        )
    }

    fn plan_enable(facts: &SourceFacts, wanted: &WantedSource) -> Vec<Step> {
        if facts.standing == Standing::Standalone && facts.left.is_some() {
            // Of an enabling before, whose source went away with its StatefulSet, and whose volume came back: a set of another name would not start on it.
            return vec![Step::ClearLocal { role: wanted.identity.role() }];
        }
        if !facts.is_ours(&wanted.identity) {
            return Vec::new();
        }
        let host = wanted.hosts.get(&0).cloned().unwrap_or_default();
        match facts.standing {
            // A server that lost its data gets it from the others, once they have a majority without it: it is not made the first of a new set.
            Standing::Uninitiated if wanted.prove_login => return vec![Step::Initiate { set: wanted.identity.role(), host }],
            Standing::Removed => return vec![Step::LookAgain],
            Standing::Primary => {}
            _ => return Vec::new(),
        }
        let voters = facts.voters(&wanted.proven);
        let mut steps: Vec<Step> =
            facts.others().filter(|member| member.votes && !voters.contains(&member.id)).map(|member| Step::Lower { id: member.id }).collect();
        for number in wanted.started.iter().filter(|number| !facts.others().any(|member| member.id == **number)) {
            steps.extend(wanted.hosts.get(number).map(|host| Step::Add { id: *number, host: host.clone() }));
        }
        steps.extend(facts.others().filter(|member| !member.votes && voters.contains(&member.id)).map(|member| Step::Raise { id: member.id }));
        steps
    }

    fn plan_leave(facts: &SourceFacts, identity: &Identity, remaining: &[u32]) -> Vec<Step> {
        if !facts.is_ours(identity) || facts.standing != Standing::Primary {
            return Vec::new();
        }
        if facts.members.is_empty() {
            // It does not say who they are: then it refuses this too, and says why.
            return vec![Step::Reclaim];
        }
        let leaving = |member: &&Member| !remaining.contains(&member.id);
        let lowered = facts.others().filter(leaving).filter(|member| member.votes).map(|member| Step::Lower { id: member.id });
        lowered.chain(facts.others().filter(leaving).map(|member| Step::Remove { id: member.id })).collect()
    }

    fn plan_disable(facts: &SourceFacts, identity: &Identity, recorded: &[Change]) -> Vec<Step> {
        // Its changes are its owner's, where none of ours is on record. What it does not say it has, it may have.
        let ours = recorded.iter().any(|change| change.what == LOCAL) && (facts.left.is_some() || !facts.forbidden.is_empty());
        match facts.standing {
            Standing::Standalone if ours || facts.role => vec![Step::ClearLocal { role: identity.role() }],
            Standing::Primary => Self::plan_leave(facts, identity, &[]),
            Standing::Secondary | Standing::Removed if facts.is_ours(identity) => vec![Step::Reclaim],
            _ => Vec::new(),
        }
    }

    fn plan_release(_: &SourceFacts, _: &Identity, _: u32) -> Vec<Step> {
        Vec::new()
    }

    fn kept(_: &SourceFacts, _: &[Change]) -> Option<String> {
        None
    }

    fn promote_by_hand(_: &Identity, _: &str) -> String {
        // There are no targets.
        String::new()
    }

    fn undo_by_hand(identity: &Identity, _: &[Change]) -> String {
        format!(
            "kubectl edit statefulset: take --replSet {} and --keyFile {KEY_FILE} out of the arguments, and what is called understudy-… out of volumes and init containers; \
             then, on the stand-alone server: use local; db.dropDatabase() (with a login it takes a role with the action dropDatabase on that database)",
            identity.role()
        )
    }

    fn record(_: &SourceFacts, step: &Step) -> Option<Change> {
        match step {
            Step::Initiate { set, host } => Some(Change { what: LOCAL.to_owned(), before: None, after: format!("configuration of replica set {set}, {host}") }),
            _ => None,
        }
    }

    fn format_position(position: &Position) -> String {
        position.plain()
    }

    fn parse_position(text: &str) -> Option<Position> {
        let (seconds, increment) = text.split_once(':')?;
        Some(Position::Timestamp { seconds: seconds.parse().ok()?, increment: increment.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn identity() -> Identity {
        Identity::parse("k3x9q2ab").unwrap()
    }

    fn wanted(started: &[u32], proven: &[u32]) -> WantedSource {
        let hosts = (0..=4).map(|number| (number, format!("host-{number}:27017"))).collect::<BTreeMap<_, _>>();
        let (started, proven) = (started.to_vec(), proven.to_vec());
        WantedSource { replicas: started.clone(), started, proven, hosts, prove_login: false, ..WantedSource::new(identity()) }
    }

    fn alone() -> SourceFacts {
        SourceFacts { version: "6.0.5".into(), data_directory: "/data/db".into(), authorization: true, user: "root".into(), ..SourceFacts::default() }
    }

    fn primary() -> SourceFacts {
        let source = Member { id: 0, host: "host-0:27017".into(), votes: true, state: "PRIMARY".into() };
        SourceFacts { standing: Standing::Primary, set_name: Some(identity().role()), members: vec![source], applied: (9, 1), ..alone() }
    }

    /// The facts that a step leads to: a model of the set. Members catch up at once.
    fn after(mut facts: SourceFacts, step: &Step) -> SourceFacts {
        match step {
            Step::Initiate { .. } => return primary(),
            Step::Add { id, host } => facts.members.push(Member { id: *id, host: host.clone(), votes: false, state: "SECONDARY".into() }),
            Step::Raise { id } | Step::Lower { id } => {
                let votes = matches!(step, Step::Raise { .. });
                facts.members.iter_mut().filter(|member| member.id == *id).for_each(|member| member.votes = votes);
            }
            Step::Remove { id } => {
                assert!(facts.members.iter().any(|member| member.id == *id && !member.votes), "members that leave are lowered first");
                facts.members.retain(|member| member.id != *id);
            }
            Step::Reclaim => facts.members.retain(|member| member.id == 0),
            Step::LookAgain => facts.standing = Standing::Primary,
            Step::ClearLocal { .. } => (facts.left, facts.role) = (None, false),
        }
        facts
    }

    fn voters(facts: &SourceFacts) -> usize {
        facts.members.iter().filter(|member| member.votes).count()
    }

    /// Walks one plan to its end.
    fn walk(facts: &SourceFacts, steps: &[Step]) -> SourceFacts {
        steps.iter().fold(facts.clone(), after)
    }

    #[test]
    fn the_official_images_defaults_have_no_finding() {
        assert_eq!(MongoDb::preflight(&alone(), &wanted(&[], &[])), vec![]);
        assert_eq!(MongoDb::preflight(&primary(), &wanted(&[], &[])), vec![], "a set of ours is no finding");
        assert!(MongoDb::summary(&alone()).leads && !MongoDb::summary(&alone()).adapted);
        assert!(MongoDb::needs_key(&alone()) && !MongoDb::needs_key(&SourceFacts { authorization: false, ..alone() }));
        assert!(!MongoDb::needs_key(&SourceFacts { key_file: Some("/etc/theirs".into()), ..alone() }), "the template brings theirs");
        assert!(MongoDb::needs_key(&SourceFacts { key_file: Some(KEY_FILE.into()), ..alone() }));
    }

    #[test]
    fn every_finding_has_its_reason() {
        let reasons = |change: fn(&mut SourceFacts)| {
            let mut facts = alone();
            change(&mut facts);
            MongoDb::preflight(&facts, &wanted(&[], &[])).into_iter().map(|finding| finding.reason).collect::<Vec<_>>()
        };
        assert_eq!(reasons(|facts| facts.version = "5.0.30".into()), ["VersionTooOld"]);
        assert_eq!(reasons(|facts| facts.sharded = true), ["ClusterEnabled"]);
        assert_eq!(reasons(|facts| facts.set_name = Some("rs0".into())), ["SourceIsReplica"]);
        assert_eq!(reasons(|facts| facts.left = Some("rs0".into())), ["SourceIsReplica"]);
        assert_eq!(reasons(|facts| facts.storage_engine = "inMemory".into()), ["NoPersistence"]);
        assert_eq!(reasons(|facts| facts.forbidden = vec!["replSetConfigure".into()]), ["NotPermitted"]);
    }

    #[test]
    fn no_server_is_a_target() {
        let found = MongoDb::preflight_target(&alone(), &alone());
        assert_eq!(found.iter().map(|finding| finding.reason).collect::<Vec<_>>(), ["TargetNotSupported"]);
    }

    #[test]
    fn a_set_is_begun_only_where_nothing_was_copied_yet() {
        let waiting = SourceFacts { standing: Standing::Uninitiated, members: vec![], ..primary() };
        let first = WantedSource { prove_login: true, ..wanted(&[], &[]) };
        assert_eq!(MongoDb::plan_enable(&waiting, &first), [Step::Initiate { set: "understudy_k3x9q2ab".into(), host: "host-0:27017".into() }]);
        assert_eq!(MongoDb::plan_enable(&waiting, &wanted(&[1, 2], &[1, 2])), vec![], "a source that lost its data gets it from the others");
        assert_eq!(MongoDb::plan_enable(&alone(), &first), vec![], "a stand-alone server has to restart first");
        let returned = SourceFacts { left: Some("understudy_aaaaaaaa".into()), ..alone() };
        assert_eq!(MongoDb::preflight(&returned, &first), vec![], "what an enabling before has left is no finding");
        assert_eq!(MongoDb::plan_enable(&returned, &first), [Step::ClearLocal { role: "understudy_k3x9q2ab".into() }]);
        let foreign = SourceFacts { set_name: Some("rs0".into()), ..waiting };
        assert_eq!(MongoDb::plan_enable(&foreign, &first), vec![]);
    }

    #[test]
    fn votes_are_given_in_pairs_and_only_to_members_that_have_everything() {
        let one = walk(&primary(), &MongoDb::plan_enable(&primary(), &wanted(&[1], &[])));
        assert_eq!((one.members.len(), voters(&one)), (2, 1));
        assert_eq!(MongoDb::plan_enable(&one, &wanted(&[1], &[1])), vec![], "two voters would stop when one fails");
        let two = walk(&one, &MongoDb::plan_enable(&one, &wanted(&[1, 2], &[1])));
        assert_eq!((two.members.len(), voters(&two)), (3, 1), "the second has yet to show that it has everything");
        let all = walk(&two, &MongoDb::plan_enable(&two, &wanted(&[1, 2], &[1, 2])));
        assert_eq!(voters(&all), 3);
        assert_eq!(MongoDb::plan_enable(&all, &wanted(&[1, 2], &[1, 2])), vec![]);

        let mut copies = two;
        copies.members[2].state = "STARTUP2".into();
        assert_eq!(MongoDb::plan_enable(&copies, &wanted(&[1, 2], &[1, 2])), vec![]);
        let mut down = all.clone();
        down.members[1].state = "(not reachable/healthy)".into();
        assert_eq!(MongoDb::plan_enable(&down, &wanted(&[1, 2], &[1, 2])), vec![], "a pod that restarts keeps its vote");
        let lost = walk(&all, &MongoDb::plan_enable(&all, &wanted(&[1, 2], &[2])));
        assert_eq!(voters(&lost), 1, "no majority depends on a member that is copied anew");
        let secondary = SourceFacts { standing: Standing::Secondary, ..all };
        assert_eq!(MongoDb::plan_enable(&secondary, &wanted(&[1, 2, 3], &[2])), vec![], "only the primary changes the set");
    }

    #[test]
    fn members_leave_lowered_first_and_the_source_stays() {
        let mut facts = primary();
        for proven in [&[][..], &[1, 2, 3, 4]] {
            facts = walk(&facts, &MongoDb::plan_enable(&facts, &wanted(&[1, 2, 3, 4], proven)));
        }
        assert_eq!((facts.members.len(), voters(&facts)), (5, 5));
        let fewer = walk(&facts, &MongoDb::plan_leave(&facts, &identity(), &[1, 2]));
        assert_eq!((fewer.members.len(), voters(&fewer)), (3, 3));
        let none = walk(&facts, &MongoDb::plan_leave(&facts, &identity(), &[]));
        assert_eq!((none.members.len(), voters(&none)), (1, 1));
        assert_eq!(MongoDb::plan_leave(&none, &identity(), &[]), vec![]);
        assert_eq!(MongoDb::plan_disable(&none, &identity(), &[]), vec![], "the rest is the restart");
        let cut_off = SourceFacts { standing: Standing::Secondary, ..facts };
        assert_eq!(MongoDb::plan_leave(&cut_off, &identity(), &[]), vec![]);
        assert_eq!(MongoDb::plan_disable(&cut_off, &identity(), &[]), [Step::Reclaim]);
    }

    #[test]
    fn local_is_cleared_only_of_what_is_on_record() {
        let record = MongoDb::record(&alone(), &Step::Initiate { set: "s".into(), host: "h".into() }).unwrap();
        let left = SourceFacts { left: Some(identity().role()), ..alone() };
        let steps = MongoDb::plan_disable(&left, &identity(), std::slice::from_ref(&record));
        assert_eq!(steps, [Step::ClearLocal { role: "understudy_k3x9q2ab".into() }]);
        assert_eq!(MongoDb::plan_disable(&walk(&left, &steps), &identity(), std::slice::from_ref(&record)), vec![]);
        assert_eq!(MongoDb::plan_disable(&left, &identity(), &[]), vec![], "nothing of ours is on record");
        let blind = SourceFacts { forbidden: vec!["createRole".into()], ..alone() };
        assert_eq!(MongoDb::plan_disable(&blind, &identity(), std::slice::from_ref(&record)).len(), 1, "it is not taken for clean");
        let mute = SourceFacts { members: vec![], forbidden: vec!["replSetGetConfig".into()], ..primary() };
        assert_eq!(MongoDb::plan_leave(&mute, &identity(), &[]).len(), 1);
        let crashed = SourceFacts { role: true, ..alone() };
        assert_eq!(MongoDb::plan_disable(&crashed, &identity(), &[]).len(), 1, "the role is never left behind");
    }

    #[test]
    fn positions_are_written_and_read_back() {
        let position = Position::Timestamp { seconds: 1_795_560_681, increment: 3 };
        assert_eq!(MongoDb::parse_position(&MongoDb::format_position(&position)), Some(position));
        assert_eq!(MongoDb::parse_position("0/3E8"), None);
    }
}
