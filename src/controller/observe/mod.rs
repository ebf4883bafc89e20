//! Reads the world into [`Facts`]. Changes nothing.

mod target;

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

use super::consent::{NOT_ALLOWED, allows, refusal, refusal_of_login};
use super::context::{Context, MEASURED_FOR, READ_FOR};
use super::facts::{Administrator, Database, Facts, Login, ObjectKey, Own, Password, Server, SourceWorkload, Subject, Taken, Told, Variables};
use super::variables::{may_be_named, may_be_said, passwords_of};
use crate::api::Credentials;
use crate::engine::{Endpoint, Engine, Finding, Identity, Key, ReplicaSummary, Session, SessionError, other_engine};
use crate::resources::{Shape, bytes_of, inspect, key_of, labels};

/// Objects of the user's, which are read and never watched.
#[derive(Debug, Clone)]
pub struct Read {
    source: ReadDatabase,
    target: Option<ReadDatabase>,
    config_maps: ConfigMaps,
    /// Annotations of ConfigMaps in the source's namespace, which say who may write there.
    agreed: BTreeMap<String, BTreeMap<String, String>>,
    login: Option<Result<Login, Finding>>,
    secrets: BTreeMap<String, Option<BTreeMap<String, Password>>>,
    /// Volumes of claims that were found, by namespace and name.
    claims: BTreeMap<(String, String), Volume>,
    key: Option<Key>,
    credentials: bool,
}

/// Size in bytes and class of a volume.
type Volume = (u64, Option<String>);

/// What the API server knows of a database of the user's.
#[derive(Debug, Clone)]
struct ReadDatabase {
    workload: Option<SourceWorkload>,
    administrator: Result<Administrator, Finding>,
    /// The user's own Service that reaches it.
    service: Option<String>,
    /// Its owner no longer agrees.
    withdrawn: Option<Finding>,
    /// The credentials whose owner in another namespace agrees.
    agreed: Option<Credentials>,
}

impl Read {
    /// What a ConfigMap holds since it was written.
    pub fn config_map_written(&mut self, namespace: Option<&str>, name: &str, data: BTreeMap<String, String>) {
        self.config_maps.insert((namespace.map(str::to_owned), name.to_owned()), Some(data));
    }

    /// Who else writes where this resource does.
    fn others(&self, context: &Context, subject: &Subject) -> (Vec<Taken>, Variables) {
        let found = |object: &ObjectKey| matches!(self.config_maps.get(object), Some(Some(_)));
        let mut taken = context.taken(subject);
        taken.retain(|taken| may_be_said(taken, found));
        let mut siblings = context.siblings(subject);
        siblings.retain(|sibling| found(&sibling.object) && may_be_named(sibling, subject.source_database().namespace, &self.agreed));
        (taken, Variables { login: self.login.clone(), secrets: self.secrets.clone(), siblings })
    }
}

/// Sessions that stay open for the steps that follow.
pub struct Observed<E: Engine> {
    /// The facts.
    pub facts: Facts<E>,
    /// The sessions.
    pub sessions: Sessions<E>,
}

/// Sessions with the servers that steps are executed on, where they answered.
pub struct Sessions<E: Engine> {
    /// With the source.
    pub source: Option<E::Session>,
    /// With the target, as a replica.
    pub target: Option<E::Session>,
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
        // It may name other objects by now.
        Some((at, read)) if at.elapsed() < READ_FOR && !subject.edited() => (at, read),
        _ => (Instant::now(), Box::pin(read_objects::<E>(context, subject)).await?),
    };

    // What is being taken away is listed, not read from caches: what was made a moment ago may not have reached them, and would be left behind.
    let now = Timestamp::now();
    let own = if subject.disabling() { list_own(context, subject, now).await? } else { context.stores.own(&subject.names.namespace, &subject.names.name, now) };
    // Replicas first: what one of them has and the source lacks afterwards was written to the replica.
    let mut replicas = BTreeMap::new();
    let source = subject.source_database();
    let joined = target::joined::<E>(context, subject, &read).await;
    let (mut target_session, mut promoted) = (None, Vec::new());
    if let Some((summary, session)) = joined {
        replicas.insert(1, summary);
        if let Some((found, session)) = session {
            (promoted, target_session) = (found, Some(session));
        }
    }
    for pod in own.pods.iter().filter(|pod| pod.component == "replica" && !pod.ended) {
        if let (Some(number), Some(ip), Ok(administrator)) = (pod.number, &pod.ip, &read.source.administrator) {
            let replica = match E::Session::connect_replica(&endpoint(source, administrator, ip), read.key.as_ref()).await {
                Ok(mut session) => session.observe_replica().await,
                Err(error) => Err(error),
            };
            replicas.insert(number, replica.map_or_else(of_error, Server::Up));
        }
    }
    let target = target::observe::<E>(context, subject, &mut read, &own, promoted).await?;
    let (server, mut session) = ask::<E>(source, &read.source, Some(&subject.names.identity), subject.recorded()).await;
    let data_bytes = measure::<E>(context, subject, session.as_mut()).await;
    let shape = shape_of::<E>(source, &read.source, &server);
    let claim = claim_of(context, source, shape.as_ref(), &mut read.claims).await?;
    let ahead = ahead::<E>(memory.ahead, &server, &replicas);
    context.remember(uid, |memory| memory.ahead.clone_from(&ahead));
    let (taken, variables) = read.others(context, subject);
    let facts = Facts {
        now,
        source: read.source.workload.clone(),
        administrator: read.source.administrator.clone(),
        server,
        shape,
        claim,
        target,
        config_maps: read.config_maps.clone(),
        service: read.source.service.clone(),
        key: read.key.is_some(),
        credentials: read.credentials,
        rival: context.rival(&subject.resource),
        withdrawn: read.source.withdrawn.clone(),
        agreed: read.source.agreed.clone(),
        neighbours: context.neighbours(&subject.resource),
        taken,
        variables,
        data_bytes,
        not_grown: memory.not_grown,
        own,
        replicas,
        ahead: ahead.into_iter().map(|(number, since)| (number, since.elapsed())).collect(),
        marks: memory.marks,
        failure: memory.failure.map(|(message, _)| message),
    };
    // Only while all is well: what is missing, or restarts, is looked for anew each time.
    let keep = matches!(facts.server, Server::Up(_)) && (facts.target.is_none() || subject.ready());
    context.remember(uid, |memory| memory.read = keep.then_some((at, read)));
    Ok(Observed { facts, sessions: Sessions { source: session, target: target_session } })
}

/// Since when replicas hold what the source does not. What is not known now stays as it was.
fn ahead<E: Engine>(
    mut since: BTreeMap<u32, Instant>,
    server: &Server<E::SourceFacts>,
    replicas: &BTreeMap<u32, Server<ReplicaSummary>>,
) -> BTreeMap<u32, Instant> {
    let Server::Up(server) = server else { return since };
    let position = E::summary(server).position;
    for (number, replica) in replicas {
        match replica {
            Server::Up(replica) if position.lacks(&replica.applied).is_some() => drop(since.entry(*number).or_insert_with(Instant::now)),
            Server::Up(_) => drop(since.remove(number)),
            _ => {}
        }
    }
    since
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

fn endpoint(database: Database<'_>, administrator: &Administrator, host: &str) -> Endpoint {
    Endpoint {
        host: host.to_owned(),
        port: database.port,
        database: database.database.to_owned(),
        username: administrator.username.clone(),
        password: administrator.password.clone(),
    }
}

/// Asks a database's server for what planning needs of it. Of one that is `known` as a server of this engine it is not asked which engine it is.
async fn ask<E: Engine>(database: Database<'_>, read: &ReadDatabase, identity: Option<&Identity>, known: bool) -> (Server<E::SourceFacts>, Option<E::Session>) {
    let (Some(workload), Ok(administrator)) = (&read.workload, &read.administrator) else { return (Server::NotAsked, None) };
    // More than one pod: which of them takes the writes cannot be told from a number.
    if !workload.has_one_pod() {
        return (Server::NotAsked, None);
    }
    let Some(pod) = &workload.pod else { return (Server::NotAsked, None) };
    let Some(ip) = pod.status.as_ref().and_then(|status| status.pod_ip.clone()) else {
        return (Server::Unreachable(format!("pod {} has no address yet", pod.name_any())), None);
    };
    let asked = async {
        let mut session = E::Session::connect(&endpoint(database, administrator, &ip)).await?;
        let facts = session.observe_source(identity).await?;
        Ok((facts, session))
    };
    match asked.await {
        Ok((facts, session)) => (Server::Up(facts), Some(session)),
        Err(error) => match of_error(error) {
            Server::Unreachable(why) if !known => {
                (other_server::<E>(pod, &ip, database.port).await.map_or(Server::Unreachable(why), Server::OtherEngine), None)
            }
            server => (server, None),
        },
    }
}

/// That a server of another engine answers at this port, or, where no container of the pod declares that, at one which is declared; in words.
async fn other_server<E: Engine>(pod: &Pod, ip: &str, port: u16) -> Option<String> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let mut ports: Vec<u16> =
        containers.flat_map(|container| container.ports.iter().flatten()).filter_map(|port| port.container_port.try_into().ok()).collect();
    if ports.is_empty() || ports.contains(&port) {
        ports = vec![port];
    }
    for port in ports {
        if let Some(other) = other_engine::<E>(ip, port).await {
            return Some(format!("{ip}:{port} answers as {other}, not as {}", E::NAME));
        }
    }
    None
}

/// The shape of a database's workload, once its server has said where its data lies. A server tells that to a superuser only: what it hides is no shape that
/// can't be handled.
fn shape_of<E: Engine>(database: Database<'_>, read: &ReadDatabase, server: &Server<E::SourceFacts>) -> Option<Result<Shape, Finding>> {
    let (Server::Up(facts), Some(workload)) = (server, &read.workload) else { return None };
    let directory = E::summary(facts).data_directory;
    (!directory.is_empty()).then(|| inspect(&workload.stateful_set, database.container, database.port, &directory))
}

async fn read_objects<E: Engine>(context: &Context, subject: &Subject) -> Result<Read, kube::Error> {
    let namespace = &subject.names.namespace;
    let source = read_database::<E>(context, subject, subject.source_database()).await?;
    let target = match subject.target_database() {
        Some(database) => Some(read_database::<E>(context, subject, database).await?),
        None => None,
    };
    let (config_maps, agreed) = read_config_maps(context, subject).await?;
    let login = read_login::<E>(context, subject, &source).await?;
    Ok(Read {
        source,
        target,
        config_maps,
        agreed,
        secrets: if login.is_some() { read_secrets(context, subject).await? } else { BTreeMap::new() },
        login,
        claims: BTreeMap::new(),
        credentials: match subject.source_database() {
            source if source.namespace == namespace || !subject.recorded() => false,
            _ => get::<Secret>(context, namespace, &subject.names.credentials()).await?.is_some(),
        },
        key: match E::source_arguments(&subject.names.identity)[..] {
            // Other engines have none, and nobody is asked for it.
            [] => None,
            _ => get::<Secret>(context, namespace, &subject.names.key()).await?.as_ref().map(key_of),
        },
    })
}

/// Data of ConfigMaps, by object.
type ConfigMaps = BTreeMap<ObjectKey, Option<BTreeMap<String, String>>>;

/// Reads the ConfigMaps that the resource or its record names; also who may write in those of the source's namespace.
async fn read_config_maps(context: &Context, subject: &Subject) -> Result<(ConfigMaps, BTreeMap<String, BTreeMap<String, String>>), kube::Error> {
    let own = &subject.names.namespace;
    let mut objects: BTreeSet<ObjectKey> = subject.places.iter().filter(|place| place.told != Told::Password).map(|place| place.object.clone()).collect();
    objects.extend(subject.resource.status.iter().flat_map(|status| &status.environment).map(|record| (record.namespace.clone(), record.config_map.clone())));
    let (mut config_maps, mut agreed) = (BTreeMap::new(), BTreeMap::new());
    for object in objects {
        let namespace = object.0.as_ref().unwrap_or(own);
        let mut found: Option<ConfigMap> = get(context, namespace, &object.1).await?;
        if let Some(found) = found.as_mut().filter(|_| namespace == subject.source_database().namespace) {
            agreed.insert(object.1.clone(), std::mem::take(found.annotations_mut()));
        }
        if object.0.is_some() && !agreed.get(&object.1).is_some_and(|said| allows(said, own)) {
            found = None;
        }
        config_maps.insert(object, found.map(|found| found.data.unwrap_or_default()));
    }
    Ok((config_maps, agreed))
}

/// What the source's application logs in with, where an application of a target is to be told.
async fn read_login<E: Engine>(context: &Context, subject: &Subject, source: &ReadDatabase) -> Result<Option<Result<Login, Finding>>, kube::Error> {
    let told = subject.places.iter().any(|place| place.told != Told::Source);
    if !E::LOGIN_VARIABLES || subject.target.is_none() || !told || subject.disabling() {
        return Ok(None);
    }
    let (own, database) = (&subject.names.namespace, subject.source_database());
    let application = subject.resource.spec.source.application.as_ref();
    let found = match application {
        // Of a source whose owner has not agreed nothing is read.
        Some(application) if !matches!(&source.administrator, Err(finding) if finding.reason == NOT_ALLOWED) => {
            let name = &application.credentials.secret_ref.name;
            let secret: Option<Secret> = get(context, database.namespace, name).await?;
            if database.namespace != own && !secret.as_ref().is_some_and(|secret| allows(secret.annotations(), own)) {
                Err(refusal_of_login(name, database.namespace, own))
            } else {
                administrator::<E>(Database { field: "source.application", credentials: &application.credentials, ..database }, secret)
            }
        }
        _ => source.administrator.clone(),
    };
    let name = application.and_then(|application| application.database.as_deref()).unwrap_or(database.database);
    Ok(Some(found.map(|found| Login { database: name.to_owned(), username: found.username, password: Password::new(found.password) })))
}

/// Reads of the Secrets that receive the password what is ours in them, or is to be.
async fn read_secrets(context: &Context, subject: &Subject) -> Result<BTreeMap<String, Option<BTreeMap<String, Password>>>, kube::Error> {
    let (names, places) = (&subject.names, &subject.places);
    let mut secrets = BTreeMap::new();
    for place in places.iter().filter(|place| place.told == Told::Password) {
        let name = &place.object.1;
        if !secrets.contains_key(name) {
            let secret: Option<Secret> = get(context, &names.namespace, name).await?;
            secrets.insert(name.clone(), secret.map(|secret| passwords_of(&secret, &names.manager(), places)));
        }
    }
    Ok(secrets)
}

/// Reads the objects of one database: nothing of one in another namespace before its owner has agreed.
async fn read_database<E: Engine>(context: &Context, subject: &Subject, database: Database<'_>) -> Result<ReadDatabase, kube::Error> {
    let (own, secret_name) = (&subject.names.namespace, &database.credentials.secret_ref.name);
    let secret: Option<Secret> = get(context, database.namespace, secret_name).await?;
    let agreed = database.namespace == own || secret.as_ref().is_some_and(|secret| allows(secret.annotations(), own));
    let refused = (!agreed).then(|| refusal(secret_name, database.namespace, own));
    let administrator = match &refused {
        None => administrator::<E>(database, secret),
        Some(refused) if !subject.begun_here() => {
            return Ok(ReadDatabase { workload: None, administrator: Err(refused.clone()), service: None, withdrawn: None, agreed: None });
        }
        // What was begun with its owner's consent is still taken off it, with the credentials that the consent was for: the resource may name others by now.
        Some(refused) => match subject.agreed_credentials() {
            None => Err(refused.clone()),
            Some(credentials) => {
                let secret = match &credentials.secret_ref.name {
                    name if name == secret_name => secret,
                    name => get(context, database.namespace, name).await?,
                };
                administrator::<E>(Database { credentials, ..database }, secret)
            }
        },
    };
    let workload = match get::<StatefulSet>(context, database.namespace, database.stateful_set).await? {
        None => None,
        Some(stateful_set) => Some(SourceWorkload { stateful_set, pod: get::<Pod>(context, database.namespace, &database.pod()).await? }),
    };
    let service = match &workload {
        Some(SourceWorkload { pod: Some(pod), .. }) => service_of(context, database, pod).await?,
        _ => None,
    };
    let agreed = (refused.is_none() && database.namespace != own).then(|| database.credentials.clone());
    Ok(ReadDatabase { workload, administrator, service, withdrawn: refused, agreed })
}

/// The user's own Service that reaches the source's pod: the one named like the StatefulSet, or the first by name.
async fn service_of(context: &Context, database: Database<'_>, pod: &Pod) -> Result<Option<String>, kube::Error> {
    let services = Api::<Service>::namespaced(context.client.clone(), database.namespace).list(&ListParams::default()).await?;
    let reaches = |service: &Service| {
        let Some(spec) = &service.spec else { return false };
        let selector = spec.selector.clone().unwrap_or_default();
        !selector.is_empty()
            && selector.iter().all(|(key, value)| pod.labels().get(key) == Some(value))
            && spec.ports.iter().flatten().any(|port| port.port == i32::from(database.port))
            && service.labels().get(labels::MANAGED_BY).is_none_or(|manager| manager != labels::MANAGER)
    };
    let mut names: Vec<String> = services.iter().filter(|service| reaches(service)).map(ResourceExt::name_any).collect();
    names.sort_by_key(|name| (name != database.stateful_set, name.clone()));
    Ok(names.into_iter().next())
}

/// The administrator of a database, from its Secret.
fn administrator<E: Engine>(database: Database<'_>, secret: Option<Secret>) -> Result<Administrator, Finding> {
    let Database { field, namespace, credentials, .. } = database;
    let name = &credentials.secret_ref.name;
    let Some(secret) = secret else {
        return Err(Finding::new(
            "SecretNotFound",
            format!("there is no Secret {name} in namespace {namespace}"),
            format!("create it with user name and password, or correct {field}.credentials.secretRef"),
        ));
    };
    let data = secret.data.unwrap_or_default();
    let value = |key: &str| data.get(key).and_then(|bytes| String::from_utf8(bytes.0.clone()).ok());
    let missing = |key: &str, inner: &str| {
        let keys = data.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        Finding::new(
            "SecretKeyNotFound",
            format!("Secret {name} has no key {key}; it has: {keys}"),
            format!("add the key, or name another one in {field}.credentials.{inner}"),
        )
    };
    let Some(password) = value(&credentials.password_key) else {
        return Err(missing(&credentials.password_key, "passwordKey"));
    };
    let (username, username_key) = match (&credentials.username, &credentials.username_key) {
        (Some(username), _) => (username.clone(), None),
        (None, Some(key)) => match value(key) {
            Some(username) => (username, Some(key.clone())),
            None => return Err(missing(key, "usernameKey")),
        },
        (None, None) => match value("username") {
            Some(username) => (username, Some("username".to_owned())),
            None => (E::ADMINISTRATOR.to_owned(), None),
        },
    };
    Ok(Administrator { username, password, username_key })
}

/// Size in bytes and class of the volume that holds a database's data.
async fn claim_of(
    context: &Context,
    database: Database<'_>,
    shape: Option<&Result<Shape, Finding>>,
    known: &mut BTreeMap<(String, String), Volume>,
) -> Result<Option<Volume>, kube::Error> {
    let Some(Ok(Shape { claim: Some(name), .. })) = shape else { return Ok(None) };
    let key = (database.namespace.to_owned(), name.clone());
    if let Some(known) = known.get(&key) {
        return Ok(Some(known.clone()));
    }
    let claim: Option<PersistentVolumeClaim> = get(context, database.namespace, name).await?;
    let found = claim.and_then(|claim| {
        let spec = claim.spec?;
        let capacity = claim.status.and_then(|status| status.capacity);
        let bytes = capacity
            .iter()
            .chain(spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()))
            .find_map(|amounts| bytes_of(amounts.get("storage")?))?;
        Some((bytes, spec.storage_class_name))
    });
    known.extend(found.clone().map(|found| (key, found)));
    Ok(found)
}
