//! Reads the world into [`Facts`]. Changes nothing.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service};
use k8s_openapi::jiff::Timestamp;
use kube::api::ListParams;
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Instant;

use super::context::{Context, MEASURED_FOR, READ_FOR};
use super::facts::{Administrator, Facts, Own, Server, SourceWorkload, Subject};
use crate::engine::{Endpoint, Engine, Finding, Key, Session, SessionError};
use crate::resources::{Shape, bytes_of, inspect, key_of, labels};

/// Objects of the user's, which are read and never watched.
#[derive(Debug, Clone)]
pub struct Read {
    source: Option<SourceWorkload>,
    administrator: Result<Administrator, Finding>,
    config_maps: BTreeMap<String, Option<BTreeMap<String, String>>>,
    service: Option<String>,
    claim: Option<(String, u64, Option<String>)>,
    key: Option<Key>,
}

impl Read {
    /// What a ConfigMap holds since it was written.
    pub fn config_map_written(&mut self, name: &str, data: BTreeMap<String, String>) {
        self.config_maps.insert(name.to_owned(), Some(data));
    }
}

/// Sessions that stay open for the steps that follow.
pub struct Observed<E: Engine> {
    /// The facts.
    pub facts: Facts<E>,
    /// The session with the source, if it answered.
    pub session: Option<E::Session>,
}

async fn get<K>(context: &Context, namespace: &str, name: &str) -> Result<Option<K>, kube::Error>
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    Api::<K>::namespaced(context.client.clone(), namespace).get_opt(name).await
}

/// Reads everything that planning looks at.
///
/// # Errors
/// Only those of the API server itself; a database that does not answer is a fact.
pub async fn observe<E: Engine>(context: &Context, subject: &Subject) -> Result<Observed<E>, kube::Error> {
    let uid = &subject.owner.uid;
    let memory = context.memory(uid);
    let (at, mut read) = match memory.read {
        Some((at, read)) if at.elapsed() < READ_FOR => (at, read),
        _ => (Instant::now(), Box::pin(read_objects::<E>(context, subject)).await?),
    };

    // What is being taken away is listed, not read from caches: what was made a moment ago may not have reached them, and would be left behind.
    let now = Timestamp::now();
    let own = if subject.disabling() { list_own(context, subject, now).await? } else { context.stores.own(&subject.names.namespace, &subject.names.name, now) };
    // Replicas first: what one of them has and the source lacks afterwards was written to the replica.
    let mut replicas = BTreeMap::new();
    for pod in own.pods.iter().filter(|pod| pod.component == "replica" && !pod.ended) {
        if let (Some(number), Some(ip), Ok(administrator)) = (pod.number, &pod.ip, &read.administrator) {
            let replica = match E::Session::connect_replica(&endpoint(subject, administrator, ip), read.key.as_ref()).await {
                Ok(mut session) => session.observe_replica().await,
                Err(error) => Err(error),
            };
            replicas.insert(number, replica.map_or_else(of_error, Server::Up));
        }
    }
    let (server, mut session) = ask_source::<E>(subject, &read).await;
    let data_bytes = measure::<E>(context, subject, session.as_mut()).await;
    let mut shape = None;
    // A server tells where its data lies to a superuser only: what it hides is no shape that can't be handled.
    let summary = if let Server::Up(facts) = &server { Some(E::summary(facts)).filter(|summary| !summary.data_directory.is_empty()) } else { None };
    if let (Some(summary), Some(source)) = (summary, &read.source) {
        let found = inspect(&source.stateful_set, subject.resource.spec.source.container.as_deref(), subject.port, &summary.data_directory);
        if let Ok(shape) = &found {
            read_claim(context, subject, shape, &mut read).await?;
        }
        shape = Some(found);
    }
    let facts = Facts {
        now,
        source: read.source.clone(),
        administrator: read.administrator.clone(),
        server,
        shape,
        claim: read.claim.clone().map(|(_, bytes, class)| (bytes, class)),
        config_maps: read.config_maps.clone(),
        service: read.service.clone(),
        key: read.key.is_some(),
        rival: context.rival(&subject.resource),
        taken: context.taken(subject),
        data_bytes,
        not_grown: memory.not_grown,
        own,
        replicas,
        marks: memory.marks,
        failure: memory.failure.map(|(message, _)| message),
    };
    // Only while all is well: what is missing is looked for anew each time.
    let keep = matches!(facts.server, Server::Up(_));
    context.remember(uid, |memory| memory.read = keep.then_some((at, read)));
    Ok(Observed { facts, session })
}

/// Size of the source's data. What is recorded is not asked again; otherwise the server is asked once in a while, until the first change. Where none is to
/// come, nobody wants to know.
async fn measure<E: Engine>(context: &Context, subject: &Subject, session: Option<&mut E::Session>) -> Result<u64, String> {
    let recorded = subject.resource.status.as_ref().filter(|_| subject.recorded()).and_then(|status| u64::try_from(status.source.as_ref()?.data_bytes).ok());
    if let Some(bytes) = recorded {
        return Ok(bytes);
    }
    if subject.disabling() || subject.resource.spec.suspend {
        return Err("it was not asked".to_owned());
    }
    let uid = &subject.owner.uid;
    if let Some((_, bytes)) = context.memory(uid).measured.filter(|(at, _)| at.elapsed() < MEASURED_FOR) {
        return Ok(bytes);
    }
    let Some(session) = session else { return Err("the server does not answer".to_owned()) };
    let bytes = session.measure().await.map_err(|error| error.to_string())?;
    context.remember(uid, |memory| memory.measured = Some((Instant::now(), bytes)));
    Ok(bytes)
}

async fn list_own(context: &Context, subject: &Subject, now: Timestamp) -> Result<Own, kube::Error> {
    async fn list<K>(context: &Context, subject: &Subject) -> Result<Vec<Arc<K>>, kube::Error>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let selector = format!("{}={},{}={}", labels::MANAGED_BY, labels::MANAGER, labels::REPLICATION, subject.names.name);
        let api = Api::<K>::namespaced(context.client.clone(), &subject.names.namespace);
        Ok(api.list(&ListParams::default().labels(&selector)).await?.into_iter().map(Arc::new).collect())
    }
    Ok(Own::new(
        &list(context, subject).await?,
        &list(context, subject).await?,
        &list(context, subject).await?,
        &list(context, subject).await?,
        &list(context, subject).await?,
        now,
    ))
}

fn of_error<F>(error: SessionError) -> Server<F> {
    match error {
        SessionError::Refused(why) => Server::Refused(why),
        SessionError::Unreachable(why) => Server::Unreachable(why),
        failed @ SessionError::Failed { .. } => Server::Unreachable(failed.to_string()),
    }
}

fn endpoint(subject: &Subject, administrator: &Administrator, host: &str) -> Endpoint {
    Endpoint {
        host: host.to_owned(),
        port: subject.port,
        database: subject.database.clone(),
        username: administrator.username.clone(),
        password: administrator.password.clone(),
    }
}

async fn ask_source<E: Engine>(subject: &Subject, read: &Read) -> (Server<E::SourceFacts>, Option<E::Session>) {
    let (Some(source), Ok(administrator)) = (&read.source, &read.administrator) else { return (Server::NotAsked, None) };
    // More than one pod: which of them takes the writes cannot be told from a number.
    if !source.has_one_pod() {
        return (Server::NotAsked, None);
    }
    let Some(pod) = &source.pod else { return (Server::NotAsked, None) };
    let Some(ip) = pod.status.as_ref().and_then(|status| status.pod_ip.clone()) else {
        return (Server::Unreachable(format!("pod {} has no address yet", pod.name_any())), None);
    };
    let asked = async {
        let mut session = E::Session::connect(&endpoint(subject, administrator, &ip)).await?;
        let facts = session.observe_source(Some(&subject.names.identity)).await?;
        Ok((facts, session))
    };
    match asked.await {
        Ok((facts, session)) => (Server::Up(facts), Some(session)),
        Err(error) => (of_error(error), None),
    }
}

async fn read_objects<E: Engine>(context: &Context, subject: &Subject) -> Result<Read, kube::Error> {
    let namespace = &subject.names.namespace;
    let stateful_set: Option<StatefulSet> = get(context, namespace, subject.source()).await?;
    let source = match stateful_set {
        None => None,
        Some(stateful_set) => {
            let pod: Option<Pod> = get(context, namespace, &format!("{}-0", subject.source())).await?;
            Some(SourceWorkload { stateful_set, pod })
        }
    };
    let mut names: BTreeSet<String> = subject.environment.iter().map(|(object, _)| object.name.clone()).collect();
    names.extend(subject.resource.status.iter().flat_map(|status| &status.environment).map(|record| record.config_map.clone()));
    let mut config_maps = BTreeMap::new();
    for name in names {
        let config_map: Option<ConfigMap> = get(context, namespace, &name).await?;
        config_maps.insert(name, config_map.map(|object| object.data.unwrap_or_default()));
    }
    Ok(Read {
        service: match &source {
            Some(SourceWorkload { pod: Some(pod), .. }) => service_of(context, subject, pod).await?,
            _ => None,
        },
        source,
        administrator: administrator::<E>(context, subject).await?,
        config_maps,
        claim: None,
        key: match E::source_arguments(&subject.names.identity)[..] {
            // Other engines have none, and nobody is asked for it.
            [] => None,
            _ => get::<Secret>(context, namespace, &subject.names.key()).await?.as_ref().map(key_of),
        },
    })
}

/// The user's own Service that reaches the source's pod: the one named like the StatefulSet, or the first by name.
async fn service_of(context: &Context, subject: &Subject, pod: &Pod) -> Result<Option<String>, kube::Error> {
    let services = Api::<Service>::namespaced(context.client.clone(), &subject.names.namespace).list(&ListParams::default()).await?;
    let reaches = |service: &Service| {
        let Some(spec) = &service.spec else { return false };
        let selector = spec.selector.clone().unwrap_or_default();
        !selector.is_empty()
            && selector.iter().all(|(key, value)| pod.labels().get(key) == Some(value))
            && spec.ports.iter().flatten().any(|port| port.port == i32::from(subject.port))
            && service.labels().get(labels::MANAGED_BY).is_none_or(|manager| manager != labels::MANAGER)
    };
    let mut names: Vec<String> = services.iter().filter(|service| reaches(service)).map(ResourceExt::name_any).collect();
    names.sort_by_key(|name| (name != subject.source(), name.clone()));
    Ok(names.into_iter().next())
}

async fn administrator<E: Engine>(context: &Context, subject: &Subject) -> Result<Result<Administrator, Finding>, kube::Error> {
    let credentials = &subject.resource.spec.source.credentials;
    let (name, namespace) = (&credentials.secret_ref.name, &subject.names.namespace);
    let Some(secret) = get::<Secret>(context, namespace, name).await? else {
        return Ok(Err(Finding::new(
            "SecretNotFound",
            format!("there is no Secret {name} in namespace {namespace}"),
            "create it with the administrator's password, or correct source.credentials.secretRef",
        )));
    };
    let data = secret.data.unwrap_or_default();
    let value = |key: &str| data.get(key).and_then(|bytes| String::from_utf8(bytes.0.clone()).ok());
    let missing = |key: &str, field: &str| {
        let keys = data.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        Finding::new(
            "SecretKeyNotFound",
            format!("Secret {name} has no key {key}; it has: {keys}"),
            format!("add the key, or name another one in source.credentials.{field}"),
        )
    };
    let Some(password) = value(&credentials.password_key) else {
        return Ok(Err(missing(&credentials.password_key, "passwordKey")));
    };
    let (username, username_key) = match (&credentials.username, &credentials.username_key) {
        (Some(username), _) => (username.clone(), None),
        (None, Some(key)) => match value(key) {
            Some(username) => (username, Some(key.clone())),
            None => return Ok(Err(missing(key, "usernameKey"))),
        },
        (None, None) => match value("username") {
            Some(username) => (username, Some("username".to_owned())),
            None => (E::ADMINISTRATOR.to_owned(), None),
        },
    };
    Ok(Ok(Administrator { username, password, username_key }))
}

/// Size and class of the source's volume.
async fn read_claim(context: &Context, subject: &Subject, shape: &Shape, read: &mut Read) -> Result<(), kube::Error> {
    let Some(name) = &shape.claim else { return Ok(()) };
    if read.claim.as_ref().is_some_and(|(known, ..)| known == name) {
        return Ok(());
    }
    let claim: Option<PersistentVolumeClaim> = get(context, &subject.names.namespace, name).await?;
    read.claim = claim.and_then(|claim| {
        let spec = claim.spec?;
        let capacity = claim.status.and_then(|status| status.capacity);
        let bytes = capacity
            .iter()
            .chain(spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()))
            .find_map(|amounts| bytes_of(amounts.get("storage")?))?;
        Some((name.clone(), bytes, spec.storage_class_name))
    });
    Ok(())
}
