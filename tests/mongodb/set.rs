//! A source with its members, brought there by the steps that are planned.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use understudy::api::Change;
use understudy::engine::mongodb::{MongoDb, SourceFacts, Standing, Step};
use understudy::engine::{Engine, Session, SessionError, WantedSource};

use super::common::{Serving, Workshop, identity, succeed, until};
use super::server::Server;

/// The numbers of the members that have a vote.
pub fn voters(facts: &SourceFacts) -> Vec<u32> {
    facts.members.iter().filter(|member| member.votes).map(|member| member.id).collect()
}

/// A source, and members 1, 2 and so on.
pub struct Set {
    pub source: Server,
    /// Its arguments before.
    pub before: Vec<String>,
    pub members: Vec<Server>,
    pub shop: Workshop,
    /// What was changed on the source.
    pub recorded: Vec<Change>,
    /// From the stop of the stand-alone server until the set takes writes.
    pub took: Duration,
}

impl Set {
    /// Restarts a stand-alone server as the only member of its set.
    pub async fn of(mut source: Server) -> Self {
        let (shop, before) = (source.workshop(), source.arguments.clone());
        let began = Instant::now();
        source.restart(Signal::TERM, source.member_arguments()).await;
        let facts = source.facts_once("it waits to be initiated", |facts| facts.standing == Standing::Uninitiated).await;
        let mut set = Self { source, before, members: vec![], shop, recorded: vec![], took: Duration::ZERO };
        assert_eq!((MongoDb::summary(&facts).adapted, MongoDb::summary(&facts).leads), (true, false));
        let lost = WantedSource { prove_login: false, ..set.wanted(&[]) };
        assert_eq!(MongoDb::plan_enable(&facts, &lost), [], "one that had replicas before gets its data from them");
        let steps = MongoDb::plan_enable(&facts, &set.wanted(&[]));
        assert!(matches!(steps[..], [Step::Initiate { .. }]), "{steps:?}");
        set.recorded = set.source.enable(&set.wanted(&[])).await;
        set.source.facts_once("it takes the writes", |facts| facts.standing == Standing::Primary).await;
        set.took = began.elapsed();
        set
    }

    /// A source with two members that have votes.
    pub async fn complete(password: &str) -> Self {
        let mut set = Self::of(Server::new(password).await).await;
        set.start_members().await;
        set.converge(&set.wanted(&[])).await;
        for member in &set.members {
            member.state_once("it has copied everything", |state| state.streaming).await;
        }
        set.source.facts_once("it sees two copies", |facts| facts.members.iter().filter(|member| member.state == "SECONDARY").count() == 2).await;
        set.converge(&set.wanted(&[1, 2])).await;
        assert_eq!(voters(&set.source.facts().await), [0, 1, 2]);
        set
    }

    /// What is wanted, with these replicas proven.
    pub fn wanted(&self, proven: &[u32]) -> WantedSource {
        let host = |server: &Server| format!("127.0.0.1:{}", server.port);
        let started: Vec<u32> = (1..).take(self.members.len()).collect();
        let mut hosts: BTreeMap<u32, String> = started.iter().copied().zip(self.members.iter().map(host)).collect();
        hosts.insert(0, host(&self.source));
        WantedSource { replicas: vec![1, 2], started, proven: proven.to_vec(), hosts, ..WantedSource::new(identity()) }
    }

    /// Two servers in volumes that the agent has made ready.
    pub async fn start_members(&mut self) {
        succeed(self.shop.backup(&self.source, "k3x9q2ab-1"));
        for _ in 0..2 {
            let mut member = Server::prepared(vec![], &self.source.password);
            assert!(!self.shop.guard(&member.data), "an empty volume");
            succeed(self.shop.restore(&self.source, "k3x9q2ab-1", &member.data));
            succeed(self.shop.restore(&self.source, "k3x9q2ab-1", &member.data));
            assert!(self.shop.guard(&member.data), "{}", self.shop.message());
            assert!(member.data.join("journal").is_dir(), "the image's entrypoint takes it for one that was set up before");
            member.arguments = self.before.clone();
            member.arguments = member.member_arguments();
            member.start().await;
            self.members.push(member);
        }
    }

    /// Executes what is planned, each step twice, until nothing is; an even number of voters lasts no longer than one plan.
    pub async fn converge(&self, wanted: &WantedSource) {
        self.follow(|facts| MongoDb::plan_enable(facts, wanted)).await;
    }

    /// Executes the steps after which the source gets on alone.
    pub async fn leave(&self) {
        self.follow(|facts| MongoDb::plan_leave(facts, &identity(), &[])).await;
    }

    async fn follow(&self, plan: impl Fn(&SourceFacts) -> Vec<Step>) {
        let done = async || {
            let steps = plan(&self.source.facts_once("it takes the writes", |facts| facts.standing == Standing::Primary).await);
            self.source.twice(&steps).await;
            let facts = self.source.facts().await;
            assert_eq!(voters(&facts).len() % 2, 1, "after {steps:?}: {facts:?}");
            steps.is_empty().then_some(())
        };
        until(done, || self.source.log()).await;
    }

    /// A mark that the source writes now arrives on every member.
    pub async fn marks_arrive(&self) {
        let mark = self.source.session().await.write_mark().await.unwrap();
        assert!(MongoDb::summary(&self.source.facts().await).position.reaches(&mark));
        for member in &self.members {
            let state = member.state_once("the mark arrives", |state| state.streaming && state.applied.reaches(&mark)).await;
            assert!(state.read_only && state.received.reaches(&mark) && state.trouble.is_none(), "{state:?}");
        }
    }

    /// Why a member can't be asked now.
    pub async fn unreachable(member: &Server) -> String {
        match understudy::engine::mongodb::MongoSession::connect(&member.endpoint()).await {
            Err(SessionError::Unreachable(why)) => why,
            Err(other) => panic!("{other:?}"),
            Ok(mut session) => match session.observe_replica().await {
                Ok(state) => state.trouble.unwrap_or_else(|| panic!("it has no trouble: {}", member.log())),
                Err(other) => panic!("{other:?}"),
            },
        }
    }
}
