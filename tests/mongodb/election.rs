//! Servers that elect among themselves: another one takes the writes, or none does.

use std::time::Instant;

use rustix::process::Signal;
use understudy::engine::Engine;
use understudy::engine::mongodb::{MongoDb, Standing, Step};

use super::common::{PASSWORD, Serving, identity};
use super::set::{Set, voters};
use super::writer::Writer;

#[tokio::test]
async fn a_replica_takes_the_writes_while_the_source_is_away_and_gives_them_back() {
    let mut set = Set::complete(PASSWORD).await;
    let writer = Writer::to_set(&[&set.source, &set.members[0], &set.members[1]]);
    writer.goes_on().await;
    set.source.process.stop(Signal::KILL);
    writer.goes_on().await;
    println!("an election kept the writer waiting for {:?}", writer.longest());
    let mut leaders = Vec::new();
    for (number, member) in (1..).zip(&set.members) {
        let state = member.state_once("it leads, or follows who does", |state| state.leads || state.streaming).await;
        assert_eq!(state.leads, !state.read_only, "{state:?}");
        leaders.extend(state.leads.then_some(number));
    }
    assert_eq!(leaders.len(), 1, "{leaders:?}");

    let began = Instant::now();
    set.source.start().await;
    let away = set.source.facts_once("it follows", |facts| facts.standing == Standing::Secondary).await;
    assert!(!MongoDb::summary(&away).leads);
    assert_eq!(MongoDb::plan_enable(&away, &set.wanted(&[1, 2])), [], "what does not take writes is not asked to change the set");
    assert_eq!(MongoDb::plan_leave(&away, &identity(), &[]), []);
    let back = set.source.facts_once("it takes the writes again", |facts| facts.standing == Standing::Primary).await;
    println!("the source was preferred again after {:?}", began.elapsed());
    assert!(MongoDb::summary(&back).leads);
    assert_eq!(voters(&back), [0, 1, 2]);
    writer.goes_on().await;
    println!("giving them back kept the writer waiting for {:?}", writer.longest());
    set.marks_arrive().await;
    writer.end(&set.source).await;
}

#[tokio::test]
async fn a_source_whose_replicas_are_gone_for_good_is_made_the_only_member() {
    let mut set = Set::complete(PASSWORD).await;
    let writer = Writer::to(&set.source);
    writer.goes_on().await;
    set.members.clear();
    let facts = set.source.facts_once("without a majority it steps down", |facts| facts.standing == Standing::Secondary).await;
    assert!(!MongoDb::summary(&facts).leads);
    let steps = MongoDb::plan_disable(&facts, &identity(), &set.recorded);
    assert_eq!(steps, [Step::Reclaim]);
    set.source.twice(&steps).await;
    let facts = set.source.facts_once("it takes the writes", |facts| facts.standing == Standing::Primary).await;
    assert_eq!(facts.members.len(), 1, "{facts:?}");
    assert_eq!(MongoDb::plan_disable(&facts, &identity(), &set.recorded), []);
    writer.goes_on().await;
    println!("with the replicas gone the writer waited for {:?}", writer.longest());
    writer.end(&set.source).await;
}
