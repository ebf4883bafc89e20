//! Executes steps. Each is idempotent; the first that fails ends the execution.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::{ByteString, NamespaceResourceScope};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy};
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use super::consent::allows;
use super::context::Context;
use super::digest;
use super::facts::{APPLIED, Password, Subject};
use super::observe::Sessions;
use super::plan::{Kind, Object, Step};
use crate::api::{DatabaseReplication, DatabaseReplicationStatus, FIELD_MANAGER, FINALIZER};
use crate::engine::{Engine, Session, SessionError};
use crate::resources::{bytes_of, labels};

/// Why a step did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The API server refused.
    #[error("{step}: {source}")]
    Kubernetes {
        /// The step in words.
        step: String,
        /// What it answered.
        source: Box<kube::Error>,
    },
    /// The database refused.
    #[error("{step}: {source}")]
    Database {
        /// The step in words.
        step: String,
        /// What it answered.
        source: SessionError,
    },
    /// An object of the name that is needed exists, and is not ours.
    #[error("{kind} {name} exists already and is not Understudy's: it is not touched. What to do: give the DatabaseReplication another name")]
    NameTaken {
        /// Kind of the object.
        kind: String,
        /// Its name.
        name: String,
    },
    /// The resource was changed by somebody else meanwhile: what was planned may no longer be wanted.
    #[error("the resource has changed meanwhile")]
    Outdated,
}

type Named<K> = (Api<K>, String);

struct Applier<'a> {
    context: &'a Context,
    subject: &'a Subject,
}

/// Writes the status if it differs; it holds the record of what the steps will change.
///
/// # Errors
/// [`ApplyError::Outdated`] if the resource was changed meanwhile.
pub async fn write_status(context: &Context, subject: &Subject, status: &DatabaseReplicationStatus) -> Result<Subject, ApplyError> {
    if subject.resource.status.as_ref() == Some(status) {
        return Ok(subject.clone());
    }
    let api: Api<DatabaseReplication> = Api::namespaced(context.client.clone(), &subject.names.namespace);
    let before = serde_json::to_value(&subject.resource.status).unwrap_or_default();
    let mut changed = serde_json::to_value(status).unwrap_or_default();
    // A merge patch leaves what it does not name: what is gone has to be named.
    if let (Some(before), Some(changed)) = (before.as_object(), changed.as_object_mut()) {
        for key in before.keys().filter(|key| !changed.contains_key(*key)).cloned().collect::<Vec<_>>() {
            changed.insert(key, serde_json::Value::Null);
        }
        for nested in ["source", "target", "backup", "disruption"] {
            if let (Some(before), Some(changed)) = (before.get(nested).and_then(|v| v.as_object()), changed.get_mut(nested).and_then(|v| v.as_object_mut())) {
                for key in before.keys().filter(|key| !changed.contains_key(*key)).cloned().collect::<Vec<_>>() {
                    changed.insert(key, serde_json::Value::Null);
                }
            }
        }
    }
    let patch = json!({"metadata": {"resourceVersion": subject.resource.resource_version()}, "status": changed});
    let written = api.patch_status(&subject.names.name, &PatchParams::default(), &Patch::Merge(&patch)).await;
    written_resource(context, subject, "write the status", written)
}

/// Remembers what the API server answered, so that a cache that is behind does no harm.
fn written_resource(context: &Context, subject: &Subject, step: &str, written: Result<DatabaseReplication, kube::Error>) -> Result<Subject, ApplyError> {
    match written {
        Ok(resource) => {
            let resource = Arc::new(resource);
            context.remember(&subject.owner.uid, |memory| memory.written = Some(resource.clone()));
            Ok(Subject { resource, ..subject.clone() })
        }
        Err(kube::Error::Api(answer)) if answer.code == 409 => Err(ApplyError::Outdated),
        Err(source) => Err(ApplyError::Kubernetes { step: step.to_owned(), source: Box::new(source) }),
    }
}

/// Executes the steps in order.
///
/// # Errors
/// That of the first step that fails.
pub async fn apply<E: Engine>(context: &Context, subject: &Subject, steps: &[Step<E::Step>], sessions: &mut Sessions<E>) -> Result<(), ApplyError> {
    let mut current = subject.clone();
    for step in steps {
        tracing::info!(step = %step, replication = %subject.names.name, namespace = %subject.names.namespace, "step begins");
        let applier = Applier { context, subject: &current };
        if let Some(written) = applier.execute::<E>(step, sessions).await? {
            current = written;
        }
        tracing::info!(step = %step, replication = %subject.names.name, namespace = %subject.names.namespace, "step done");
        context.metrics.step();
        context.events.step(&subject.resource, step).await;
    }
    Ok(())
}

impl Applier<'_> {
    fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.context.client.clone(), &self.subject.names.namespace)
    }

    async fn execute<E: Engine>(&self, step: &Step<E::Step>, sessions: &mut Sessions<E>) -> Result<Option<Subject>, ApplyError> {
        let failed = |source: kube::Error| ApplyError::Kubernetes { step: step.to_string(), source: Box::new(source) };
        let database = |source: SessionError| ApplyError::Database { step: step.to_string(), source };
        let Sessions { source: session, target } = sessions;
        let gone = || SessionError::Unreachable("there is no session with the server".to_owned());
        match step {
            Step::Hold => return self.finalizers(step.to_string(), true).await.map(Some),
            Step::Release => return self.finalizers(step.to_string(), false).await.map(Some),
            Step::Source(inner) => session.as_mut().ok_or_else(gone).map_err(database)?.execute(inner).await.map_err(database)?,
            Step::Mark(replicas) => {
                let position = session.as_mut().ok_or_else(gone).map_err(database)?.write_mark().await.map_err(database)?;
                self.context.remember(&self.subject.owner.uid, |memory| memory.marks.extend(replicas.iter().map(|number| (*number, position.clone()))));
            }
            Step::Apply(object) => {
                if matches!(object, Object::Job(_)) {
                    // What was written before a restore proves nothing after it.
                    self.context.remember(&self.subject.owner.uid, |memory| memory.marks.clear());
                }
                self.apply(&step.to_string(), object).await?;
            }
            Step::Delete(kind, name) => {
                let name = name.clone();
                match kind {
                    Kind::Claim => {
                        // A claim that is made anew belongs to a replica that has nothing to show yet.
                        self.context.remember(&self.subject.owner.uid, |memory| memory.marks.clear());
                        delete((self.api::<PersistentVolumeClaim>(), name)).await
                    }
                    Kind::Service => delete((self.api::<Service>(), name)).await,
                    Kind::Job => delete((self.api::<Job>(), name)).await,
                    Kind::StatefulSet => delete((self.api::<StatefulSet>(), name)).await,
                    Kind::Secret => {
                        self.read_anew();
                        delete((self.api::<Secret>(), name)).await
                    }
                }
                .map_err(failed)?;
            }
            Step::CreateSecret(secret) => self.create_secret(secret).await.map_err(failed)?,
            Step::Change { stateful_set, patch, .. } | Step::PutBack { stateful_set, patch, .. } => self.change(stateful_set, patch).await.map_err(failed)?,
            Step::Target(inner) => target.as_mut().ok_or_else(gone).map_err(database)?.execute(inner).await.map_err(database)?,
            Step::Promote => target.as_mut().ok_or_else(gone).map_err(database)?.promote().await.map_err(database)?,
            Step::Recreate { pod, uid } => self.recreate(pod, uid).await.map_err(failed)?,
            Step::Disown(stateful_set) => self.disown(stateful_set).await.map_err(failed)?,
            Step::Keep(name) => self.keep(name).await.map_err(failed)?,
            Step::Grow { claim, size } => self.grow(claim, size).await.map_err(failed)?,
            Step::Serve { pod, serving } => self.serve(pod, *serving).await.map_err(failed)?,
            Step::Publish { namespace, config_map, data } => self.publish(namespace.as_deref(), config_map, data).await.map_err(failed)?,
            Step::PublishSecret { secret, data } => self.publish_secret(secret, data).await.map_err(failed)?,
            Step::Tell { .. } => {}
        }
        Ok(None)
    }

    async fn finalizers(&self, step: String, hold: bool) -> Result<Subject, ApplyError> {
        let resource = &self.subject.resource;
        let mut finalizers: Vec<&str> = resource.finalizers().iter().map(String::as_str).filter(|finalizer| *finalizer != FINALIZER).collect();
        if hold {
            finalizers.push(FINALIZER);
        }
        let patch = json!({"metadata": {"resourceVersion": resource.resource_version(), "finalizers": finalizers}});
        let written = self.api::<DatabaseReplication>().patch(&self.subject.names.name, &PatchParams::default(), &Patch::Merge(&patch)).await;
        written_resource(self.context, self.subject, &step, written)
    }

    async fn apply(&self, step: &str, object: &Object) -> Result<(), ApplyError> {
        // Names of claims and Jobs hold the enabling's word; those of Services and StatefulSets may be somebody else's.
        match object {
            Object::Claim(claim) => server_side(self.api(), (**claim).clone()).await,
            Object::Job(job) => server_side(self.api(), (**job).clone()).await,
            Object::Service(service) => {
                self.not_theirs::<Service>("Service", &service.name_any()).await?;
                server_side(self.api(), (**service).clone()).await
            }
            Object::StatefulSet(stateful_set) => {
                self.not_theirs::<StatefulSet>("StatefulSet", &stateful_set.name_any()).await?;
                server_side(self.api(), (**stateful_set).clone()).await
            }
        }
        .map_err(|source| ApplyError::Kubernetes { step: step.to_owned(), source: Box::new(source) })
    }

    /// Refuses to touch an object of this name that is not of this resource.
    async fn not_theirs<K>(&self, kind: &str, name: &str) -> Result<(), ApplyError>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let named = ListParams::default().fields(&format!("metadata.name={name}"));
        let found = self
            .api::<K>()
            .list(&named)
            .await
            .map_err(|source| ApplyError::Kubernetes { step: format!("look for {kind} {name}"), source: Box::new(source) })?;
        let ours = |object: &K| {
            let label = |key: &str| object.labels().get(key).map(String::as_str);
            label(labels::MANAGED_BY) == Some(labels::MANAGER) && label(labels::REPLICATION) == Some(&self.subject.names.name)
        };
        if found.iter().all(ours) { Ok(()) } else { Err(ApplyError::NameTaken { kind: kind.to_owned(), name: name.to_owned() }) }
    }

    /// What was read a moment ago is about to change: the next look reads it again.
    fn read_anew(&self) {
        self.context.remember(&self.subject.owner.uid, |memory| memory.read = None);
    }

    async fn create_secret(&self, secret: &Secret) -> Result<(), kube::Error> {
        self.read_anew();
        match self.api::<Secret>().create(&PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() }, secret).await {
            Err(kube::Error::Api(answer)) if answer.code == 409 => Ok(()),
            other => other.map(drop),
        }
    }

    /// Applies our fields of a StatefulSet of the user's. Named by its uid the patch changes that very object and makes no other.
    async fn change(&self, name: &str, patch: &serde_json::Value) -> Result<(), kube::Error> {
        self.read_anew();
        let params = PatchParams::apply(&self.subject.names.manager()).force();
        self.api::<StatefulSet>().patch(name, &params, &Patch::Apply(patch)).await.map(drop)
    }

    async fn recreate(&self, name: &str, uid: &str) -> Result<(), kube::Error> {
        self.read_anew();
        let params = DeleteParams::default().preconditions(Preconditions { uid: Some(uid.to_owned()), resource_version: None });
        match self.api::<Pod>().delete(name, &params).await {
            // Gone, or another one already.
            Err(kube::Error::Api(answer)) if answer.code == 404 || answer.code == 409 => Ok(()),
            other => other.map(drop),
        }
    }

    /// Takes our name off fields that were put back as they were: whoever applies them next is in nobody's way.
    async fn disown(&self, name: &str) -> Result<(), kube::Error> {
        self.read_anew();
        let Some(found) = self.api::<StatefulSet>().get_opt(name).await? else { return Ok(()) };
        let mine = self.subject.names.manager();
        let theirs: Vec<_> = found.managed_fields().iter().filter(|entry| entry.manager.as_deref() != Some(&mine)).collect();
        // An empty list would let the API server make up a new one.
        if theirs.is_empty() || theirs.len() == found.managed_fields().len() {
            return Ok(());
        }
        let patch = json!({"metadata": {"resourceVersion": found.resource_version(), "managedFields": theirs}});
        self.api::<StatefulSet>().patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.map(drop)
    }

    /// From now on the volume is the user's: without our label it is no longer watched.
    async fn keep(&self, name: &str) -> Result<(), kube::Error> {
        let patch = json!({"metadata": {"labels": {labels::MANAGED_BY: null, labels::RETAINED: "true"}}});
        match self.api::<PersistentVolumeClaim>().patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Err(kube::Error::Api(answer)) if answer.code == 404 => Ok(()),
            other => other.map(drop),
        }
    }

    /// A volume that can't grow keeps nothing else waiting: it is said, and not asked for again until another size is wanted.
    async fn grow(&self, name: &str, size: &Quantity) -> Result<(), kube::Error> {
        let patch = json!({"spec": {"resources": {"requests": {"storage": size.0}}}});
        match self.api::<PersistentVolumeClaim>().patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Err(kube::Error::Api(answer)) if answer.code == 403 || answer.code == 422 => {
                let bytes = bytes_of(size).unwrap_or_default();
                self.context.remember(&self.subject.owner.uid, |memory| memory.not_grown.extend([(name.to_owned(), bytes)]));
                self.context.events.not_grown(&self.subject.resource, name, &size.0, &answer.message).await;
                Ok(())
            }
            other => other.map(drop),
        }
    }

    async fn serve(&self, pod: &str, serving: bool) -> Result<(), kube::Error> {
        let patch = json!({"metadata": {"labels": {labels::ROLE: serving.then_some(labels::SERVING)}}});
        match self.api::<Pod>().patch(pod, &PatchParams::default(), &Patch::Merge(&patch)).await {
            // It comes back without the label, and is looked at then.
            Err(kube::Error::Api(answer)) if answer.code == 404 => Ok(()),
            other => other.map(drop),
        }
    }

    async fn publish(&self, namespace: Option<&str>, name: &str, data: &BTreeMap<String, String>) -> Result<(), kube::Error> {
        let names = &self.subject.names;
        let config_maps: Api<ConfigMap> = Api::namespaced(self.context.client.clone(), namespace.unwrap_or(&names.namespace));
        // Named by its uid the patch changes that very object: server-side apply would create one that has been deleted meanwhile.
        let Some(existing) = config_maps.get_opt(name).await? else { return Ok(()) };
        // Its owner may have taken the consent back since it was read.
        if namespace.is_some() && !allows(existing.annotations(), &names.namespace) {
            self.read_anew();
            return Ok(());
        }
        let patch = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "uid": existing.uid()}, "data": data});
        let params = PatchParams::apply(&names.manager_in(namespace)).force();
        let written = config_maps.patch(name, &params, &Patch::Apply(&patch)).await?;
        self.context.remember(&self.subject.owner.uid, |memory| {
            if let Some((_, read)) = &mut memory.read {
                read.config_map_written(namespace, name, written.data.unwrap_or_default());
            }
        });
        Ok(())
    }

    /// As [`Applier::publish`].
    async fn publish_secret(&self, name: &str, data: &BTreeMap<String, Password>) -> Result<(), kube::Error> {
        self.read_anew();
        let Some(existing) = self.api::<Secret>().get_opt(name).await? else { return Ok(()) };
        let data: BTreeMap<&String, ByteString> = data.iter().map(|(key, value)| (key, ByteString(value.secret().as_bytes().to_vec()))).collect();
        let patch = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "uid": existing.uid()}, "data": data});
        let params = PatchParams::apply(&self.subject.names.manager()).force();
        self.api::<Secret>().patch(name, &params, &Patch::Apply(&patch)).await.map(drop)
    }
}

/// Server-side apply of an object of ours, marked with a digest of what was applied.
async fn server_side<K>(api: Api<K>, mut object: K) -> Result<(), kube::Error>
where
    K: Resource<DynamicType = ()> + Serialize + DeserializeOwned + Clone + Debug,
{
    let digest = digest(&object);
    object.annotations_mut().insert(APPLIED.to_owned(), digest);
    let params = PatchParams::apply(FIELD_MANAGER).force();
    api.patch(&object.name_any(), &params, &Patch::Apply(&object)).await.map(drop)
}

async fn delete<K>((api, name): Named<K>) -> Result<(), kube::Error>
where
    K: Resource + DeserializeOwned + Clone + Debug,
{
    // Background: Jobs of the batch API orphan their pods by default.
    let params = DeleteParams { propagation_policy: Some(PropagationPolicy::Background), ..DeleteParams::default() };
    match api.delete(&name, &params).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(answer)) if answer.code == 404 => Ok(()),
        Err(error) => Err(error),
    }
}
