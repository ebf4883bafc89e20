//! Reads a target: as the database of its own that it is, or as the replica that it has become.

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use std::time::Instant;

use super::{Context, MEASURED_FOR, Read, ReadDatabase, ask, claim_of, endpoint, of_error, shape_of};
use crate::controller::facts::{Database, JobState, Own, Server, Subject, TargetFacts};
use crate::engine::{Engine, Identity, ReplicaSummary, Session};
use crate::resources::{Data, Logins, data_of, inspect, template_of};

/// A target as a replica, with its session, and what it says as a server of its own where it is one already ([`TargetFacts::promoted`]).
pub(super) type Joined<E> = (Server<ReplicaSummary>, Option<(Vec<(Identity, <E as Engine>::SourceFacts)>, <E as Engine>::Session)>);

/// Asks the target as the replica that it is: it knows the source's users.
pub(super) async fn joined<E: Engine>(context: &Context, subject: &Subject, read: &Read) -> Option<Joined<E>> {
    let (database, target) = (subject.target_database()?, read.target.as_ref()?);
    let workload = target.workload.as_ref().filter(|_| subject.recorded())?;
    let pod = workload.pod.as_ref()?;
    let recorded = subject.target_status();
    let copy = match data_of(pod.spec.as_ref(), &subject.names.identity) {
        Some(data) => data == Data::Staged,
        None => recorded.is_some_and(|target| target.joined),
    };
    // Where the source is lost with its Secret, its password may stand in the target's own.
    let (source, own) = (read.source.administrator.as_ref(), target.administrator.as_ref());
    let administrator = if E::USERS_ARE_DATA { source.or(own) } else { own.or(source) };
    let (true, Some(ip), Ok(administrator)) = (copy, pod.status.as_ref()?.pod_ip.as_ref(), administrator) else { return None };
    let as_replica = Database { port: database.port, ..subject.source_database() };
    let asked = async {
        let mut session = E::Session::connect_replica(&endpoint(as_replica, administrator, ip), read.key.as_ref()).await?;
        let summary = session.observe_replica().await?;
        let mut promoted = Vec::new();
        if subject.disabling() && !summary.read_only {
            // Others may have been gone from the source since the copy was taken. Of whom it is the source by now, that is no copy's.
            let (own, mut others) = (&subject.names.identity, session.identities().await?);
            let theirs = context.identities(database.namespace, database.stateful_set);
            others.retain(|identity| identity != own && !theirs.contains(identity));
            for identity in std::iter::once(own.clone()).chain(others) {
                let found = session.observe_source(Some(&identity)).await?;
                promoted.push((identity, found));
            }
        }
        Ok((summary, (promoted, session)))
    };
    Some(match asked.await {
        Ok((summary, session)) => (Server::Up(summary), Some(session)),
        Err(error) => (of_error(error), None),
    })
}

/// Reads the target, where there is one.
pub(super) async fn observe<E: Engine>(
    context: &Context,
    subject: &Subject,
    read: &mut Read,
    own: &Own,
    promoted: Vec<(Identity, E::SourceFacts)>,
) -> Result<Option<Box<TargetFacts<E>>>, kube::Error> {
    let (Some(database), Some(found)) = (subject.target_database(), read.target.clone()) else { return Ok(None) };
    let recorded = subject.target_status();
    // Once its template asks for the copy, it is asked as a replica.
    let untouched = found.workload.as_ref().is_none_or(|workload| data_of(template_of(&workload.stateful_set), &subject.names.identity).is_none());
    let (server, session) = match recorded {
        Some(target) if !untouched || target.joined => (Server::NotAsked, None),
        _ => ask::<E>(database, &found, None, subject.recorded()).await,
    };
    let shape = match (recorded, &found.workload) {
        (Some(target), Some(workload)) => Some(inspect(&workload.stateful_set, database.container, database.port, &target.data_directory)),
        _ => shape_of::<E>(database, &found, &server),
    };
    let claim = claim_of(context, database, shape.as_ref(), &mut read.claims).await?;
    let logins = match (subject.recorded() || subject.disabling(), &shape) {
        (false, Some(Ok(shape))) => logins::<E>(context, database, &found, &read.source, &shape.container.name).await?,
        _ => Vec::new(),
    };
    Ok(Some(Box::new(TargetFacts {
        data: target_data::<E>(context, subject, own, session).await,
        workload: found.workload,
        administrator: found.administrator,
        server,
        shape,
        volume_bytes: claim.map(|(bytes, _)| bytes),
        logins,
        rival: context.target_rival(&subject.resource),
        service: found.service,
        promoted,
    })))
}

/// Who logs in to the target with what it will not know any more, and would be in trouble then.
async fn logins<E: Engine>(
    context: &Context,
    database: Database<'_>,
    target: &ReadDatabase,
    source: &ReadDatabase,
    container: &str,
) -> Result<Vec<String>, kube::Error> {
    let (Some(pod), Ok(own)) = (target.workload.as_ref().and_then(|workload| workload.pod.as_ref()), &target.administrator) else { return Ok(Vec::new()) };
    if !E::USERS_ARE_DATA {
        return Ok(Vec::new());
    }
    let source = source.administrator.as_ref().ok();
    let known = source.is_some_and(|source| source.username == own.username);
    let stays = known && source.is_some_and(|source| source.password == own.password);
    let credentials = database.credentials;
    let password = (credentials.secret_ref.name.as_str(), credentials.password_key.as_str());
    let username = (!known).then_some(own.username.as_str());
    let pods = Api::<Pod>::namespaced(context.client.clone(), database.namespace).list(&ListParams::default()).await?;
    Ok(Logins { pod, container, password, stays, username }.users(&pods.items))
}

/// Size of the target's data, and what of it is the user's. Asked once in a while: the server may have to look into many databases.
async fn target_data<E: Engine>(context: &Context, subject: &Subject, own: &Own, session: Option<E::Session>) -> Result<(u64, Vec<String>), String> {
    let uid = &subject.owner.uid;
    // It goes on serving while the copy is made: right before that takes the place of what it holds, it is asked again.
    let last = subject.recorded() && matches!(own.jobs.get(&subject.names.restore_job(1)), Some(Some(JobState::Complete(_))));
    if let Some((_, data)) = context.memory(uid).target_data.filter(|(at, _)| !last && at.elapsed() < MEASURED_FOR) {
        return Ok(data);
    }
    if subject.recorded() && !last || subject.disabling() || subject.resource.spec.suspend {
        return Err("it was not asked".to_owned());
    }
    let Some(mut session) = session else { return Err("the server does not answer".to_owned()) };
    let bytes = session.measure().await.map_err(|error| error.to_string())?;
    let data = (bytes, session.user_data().await.map_err(|error| error.to_string())?);
    context.remember(uid, |memory| memory.target_data = Some((Instant::now(), data.clone())));
    Ok(data)
}
