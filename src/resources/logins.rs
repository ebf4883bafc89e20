//! Who logs in to a database with what its own Secrets say: once it serves another one's data, it has that one's users and passwords. Pure.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Probe, Volume};
use kube::ResourceExt;
use std::collections::{BTreeMap, BTreeSet};

use super::labels;

/// So many are named.
const NAMED: usize = 8;

/// Logins that a database has now, and will not have any more.
#[derive(Debug, Clone, Copy)]
pub struct Logins<'a> {
    /// Its pod.
    pub pod: &'a Pod,
    /// The server's container.
    pub container: &'a str,
    /// Its administrator's Secret, and the key of the password in it.
    pub password: (&'a str, &'a str),
    /// The other database knows this password, too.
    pub stays: bool,
    /// The administrator's name; none where the other database has an administrator of that name, too.
    pub username: Option<&'a str>,
}

/// Passwords: names of Secrets, with the keys; an empty set stands for all.
type Passwords = BTreeMap<String, BTreeSet<String>>;

impl Logins<'_> {
    /// Containers and probes in its pod, and pods beside it, that use one of them, in words, sorted; at most 8, and then how many more. Of other pods the
    /// workload that made them is named.
    #[must_use]
    pub fn users(&self, namespace: &[Pod]) -> Vec<String> {
        let name = self.pod.name_any();
        let Some(spec) = &self.pod.spec else { return Vec::new() };
        let passwords = self.passwords(spec);
        let mut found = BTreeSet::new();
        for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
            let read = read_by(container, spec, &passwords);
            if container.name == self.container {
                found.extend(self.probes(container, spec, &passwords));
            } else if !read.is_empty() {
                found.insert(format!("container {} of pod {name} ({})", container.name, secrets(&read)));
            }
        }
        // Of a pod that has ended there is another one only where it is made by the clock.
        let ended = |pod: &Pod| matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"));
        let logs_in = |pod: &&Pod| !ended(pod) || maker(pod).starts_with(CRON_JOB);
        let ours = |pod: &&Pod| pod.name_any() != name && pod.labels().get(labels::MANAGED_BY).is_none_or(|by| by != labels::MANAGER);
        for (pod, spec) in namespace.iter().filter(ours).filter(logs_in).filter_map(|pod| Some((pod, pod.spec.as_ref()?))) {
            let read: BTreeSet<&str> =
                spec.init_containers.iter().flatten().chain(&spec.containers).flat_map(|container| read_by(container, spec, &passwords)).collect();
            if !read.is_empty() {
                found.insert(format!("{} ({})", maker(pod), secrets(&read)));
            }
        }
        let more = found.len().saturating_sub(NAMED);
        let mut named: Vec<String> = found.into_iter().take(NAMED).collect();
        named.extend((more > 0).then(|| format!("{more} more")));
        named
    }

    /// Those that the server's container is given, by the names of variables, and the administrator's.
    fn passwords(&self, spec: &PodSpec) -> Passwords {
        let mut passwords = Passwords::new();
        for container in spec.containers.iter().filter(|container| container.name == self.container) {
            for variable in container.env.iter().flatten().filter(|variable| variable.name.to_ascii_uppercase().contains("PASS")) {
                if let Some(key) = variable.value_from.as_ref().and_then(|from| from.secret_key_ref.as_ref()) {
                    passwords.entry(key.name.clone()).or_default().insert(key.key.clone());
                }
            }
            let whole = container.env_from.iter().flatten().filter_map(|from| from.secret_ref.as_ref());
            passwords.extend(whole.map(|secret| (secret.name.clone(), BTreeSet::new())));
        }
        let (secret, key) = self.password;
        match (self.stays, passwords.get_mut(secret)) {
            (true, Some(keys)) => {
                keys.remove(key);
                if keys.is_empty() {
                    passwords.remove(secret);
                }
            }
            (false, Some(keys)) if keys.is_empty() => {}
            (false, _) => drop(passwords.entry(secret.to_owned()).or_default().insert(key.to_owned())),
            (true, None) => {}
        }
        passwords
    }

    /// Probes of the server's container that use a password, or name the administrator.
    fn probes(&self, container: &Container, spec: &PodSpec, passwords: &Passwords) -> Vec<String> {
        let probes: [(&str, &Option<Probe>); 3] =
            [("livenessProbe", &container.liveness_probe), ("readinessProbe", &container.readiness_probe), ("startupProbe", &container.startup_probe)];
        let commands = probes.into_iter().filter_map(|(kind, probe)| Some((kind, probe.as_ref()?.exec.as_ref()?.command.as_ref()?.join(" "))));
        let used = |text: &str| {
            let variables = container.env.iter().flatten().filter(|variable| {
                let key = variable.value_from.as_ref().and_then(|from| from.secret_key_ref.as_ref());
                key.is_some_and(|key| is_one(passwords, &key.name, Some(&key.key)))
            });
            let variable = variables.map(|variable| &variable.name).find(|name| words(text).any(|word| word == name.as_str()));
            let mounts = container.volume_mounts.iter().flatten();
            let mount = mounts.filter(|mount| !mounted(spec, &mount.name, passwords).is_empty()).find(|mount| text.contains(mount.mount_path.as_str()));
            let user = self.username.filter(|user| {
                // -Uname and -uname are one word.
                words(text).any(|word| word == *user || word.strip_prefix(['U', 'u']) == Some(*user))
            });
            let of_mount = mount.map(|mount| format!("files in {}", mount.mount_path));
            variable.map(|name| format!("variable {name}")).or(of_mount).or(user.map(|user| format!("user {user}")))
        };
        commands.filter_map(|(kind, text)| Some(format!("{kind} of container {} ({})", container.name, used(&text)?))).collect()
    }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
}

fn secrets(names: &BTreeSet<&str>) -> String {
    format!("Secret {}", names.iter().copied().collect::<Vec<_>>().join(", "))
}

/// Whether this key of a Secret, or where none is given all of it, is or holds a password.
fn is_one(passwords: &Passwords, secret: &str, key: Option<&str>) -> bool {
    passwords.get(secret).is_some_and(|keys| keys.is_empty() || key.is_none_or(|key| keys.contains(key)))
}

/// The Secrets with a password that a container is given.
fn read_by<'a>(container: &'a Container, spec: &'a PodSpec, passwords: &Passwords) -> BTreeSet<&'a str> {
    let keys = container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()?.secret_key_ref.as_ref());
    let keys = keys.filter(|key| is_one(passwords, &key.name, Some(&key.key))).map(|key| key.name.as_str());
    let whole = container.env_from.iter().flatten().filter_map(|from| from.secret_ref.as_ref()).map(|secret| secret.name.as_str());
    let whole = whole.filter(|secret| is_one(passwords, secret, None));
    let files = container.volume_mounts.iter().flatten().flat_map(|mount| mounted(spec, &mount.name, passwords));
    keys.chain(whole).chain(files).collect()
}

/// The Secrets with a password that a volume shows.
fn mounted<'a>(spec: &'a PodSpec, volume: &str, passwords: &Passwords) -> Vec<&'a str> {
    let of = |volume: &'a Volume| {
        let whole = volume.secret.as_ref().and_then(|secret| Some((secret.secret_name.as_deref()?, &secret.items)));
        let projected = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()).filter_map(|source| source.secret.as_ref());
        whole.into_iter().chain(projected.map(|secret| (secret.name.as_str(), &secret.items)))
    };
    let shown = spec.volumes.iter().flatten().filter(|found| found.name == volume).flat_map(of);
    let holds = |(name, items): &(&str, &'a Option<Vec<k8s_openapi::api::core::v1::KeyToPath>>)| match items {
        None => is_one(passwords, name, None),
        Some(items) => items.iter().any(|item| is_one(passwords, name, Some(&item.key))),
    };
    shown.filter(holds).map(|(name, _)| name).collect()
}

/// What a pod is called that is made by the clock; its Job is called by the minute.
const CRON_JOB: &str = "CronJob ";

/// The workload that made a pod, or the pod itself.
fn maker(pod: &Pod) -> String {
    let Some(owner) = pod.owner_references().iter().find(|owner| owner.controller == Some(true)) else { return format!("pod {}", pod.name_any()) };
    if let Some((stem, minute)) = owner.name.rsplit_once('-')
        && minute.len() > 5
        && minute.bytes().all(|byte| byte.is_ascii_digit())
    {
        return format!("{CRON_JOB}{stem}");
    }
    let hash = pod.labels().get("pod-template-hash").map(|hash| format!("-{hash}"));
    match hash.and_then(|hash| owner.name.strip_suffix(&hash)) {
        Some(deployment) => format!("Deployment {deployment}"),
        _ => format!("{} {}", owner.kind, owner.name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::PodStatus;
    use serde_json::{Value, json};

    fn pod(value: Value) -> Pod {
        serde_json::from_value(value).unwrap()
    }

    fn variable(name: &str, secret: &str, key: &str) -> Value {
        json!({"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}})
    }

    fn target(probe: &str, beside: &Value) -> Pod {
        let server = json!({"name": "postgres", "image": "postgres", "env": [variable("POSTGRES_PASSWORD", "app", "password"), variable("S3_KEY", "s3", "key")],
            "volumeMounts": [{"name": "login", "mountPath": "/run/login"}],
            "readinessProbe": {"exec": {"command": ["sh", "-c", probe]}}, "livenessProbe": {"tcpSocket": {"port": 5432}}});
        pod(json!({"metadata": {"name": "reports-db-0"}, "spec": {"containers": [beside, server],
            "volumes": [{"name": "login", "projected": {"sources": [{"secret": {"name": "reports-db", "items": [{"key": "password", "path": "p"}]}}]}}]}}))
    }

    fn users(target: &Pod, username: Option<&str>, others: &[Pod]) -> Vec<String> {
        Logins { pod: target, container: "postgres", password: ("reports-db", "password"), stays: username.is_none(), username }.users(others)
    }

    const ADMINISTRATOR: Option<&str> = Some("reports");

    #[test]
    fn containers_beside_the_server_are_named_by_the_password_that_they_read() {
        let exporter = json!({"name": "exporter", "image": "x", "env": [variable("DATA_SOURCE_PASS", "reports-db", "password")]});
        let said = ["container exporter of pod reports-db-0 (Secret reports-db)"];
        assert_eq!(users(&target("true", &exporter), ADMINISTRATOR, &[]), said);
        assert_eq!(users(&target("true", &exporter), None, &[]), [""; 0], "the source knows the same login");
        for (env, named) in [(variable("P", "app", "password"), true), (variable("P", "reports-db", "url"), false), (variable("P", "s3", "key"), false)] {
            let found = users(&target("true", &json!({"name": "exporter", "image": "x", "env": [env]})), ADMINISTRATOR, &[]);
            assert_eq!(!found.is_empty(), named, "{env}");
        }
    }

    #[test]
    fn probes_that_log_in_are_named_by_what_they_log_in_with() {
        for (probe, with) in [
            ("PGPASSWORD=\"${POSTGRES_PASSWORD}\" psql -c 'select 1'", Some("variable POSTGRES_PASSWORD")),
            ("PGPASSFILE=/run/login/p psql", Some("files in /run/login")),
            ("pg_isready -h 127.0.0.1 -U reports", Some("user reports")),
            ("pg_isready -Ureports", Some("user reports")),
            ("pg_isready -h 127.0.0.1 -U postgres", None),
            ("echo $S3_KEY", None),
        ] {
            let expected: Vec<String> = with.map(|with| format!("readinessProbe of container postgres ({with})")).into_iter().collect();
            assert_eq!(users(&target(probe, &json!({"name": "beside", "image": "x"})), ADMINISTRATOR, &[]), expected, "{probe}");
        }
    }

    #[test]
    fn pods_beside_it_are_named_by_what_made_them() {
        let spec = json!({"containers": [{"name": "web", "image": "x", "envFrom": [{"secretRef": {"name": "reports-db"}}]}]});
        let owned = |name: &str, kind: &str, owner: &str| {
            pod(json!({"metadata": {"name": name, "labels": {"pod-template-hash": "5c9f"},
                "ownerReferences": [{"apiVersion": "v1", "kind": kind, "name": owner, "uid": "u", "controller": true}]}, "spec": spec}))
        };
        let mut hourly = owned("hourly-29401230-x", "Job", "hourly-29401230");
        let mut done = owned("migration-x", "Job", "migration");
        for pod in [&mut hourly, &mut done] {
            pod.status = Some(PodStatus { phase: Some("Succeeded".into()), ..PodStatus::default() });
        }
        let alone = pod(
            json!({"metadata": {"name": "shell"}, "spec": {"containers": [{"name": "c", "image": "x", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
            "volumes": [{"name": "v", "secret": {"secretName": "reports-db"}}]}}),
        );
        let other = pod(json!({"metadata": {"name": "other"}, "spec": {"containers": [{"name": "c", "image": "x", "env": [{"name": "A", "value": "b"}]}]}}));
        let ours = pod(json!({"metadata": {"name": "ours", "labels": {"app.kubernetes.io/managed-by": "understudy"}}, "spec": spec}));
        let others = vec![
            owned("web-1", "ReplicaSet", "web-5c9f"),
            owned("web-2", "ReplicaSet", "web-5c9f"),
            owned("nightly-x", "Job", "nightly"),
            hourly,
            done,
            alone,
            other,
            ours,
        ];
        let quiet = target("true", &json!({"name": "beside", "image": "x"}));
        let all =
            ["CronJob hourly (Secret reports-db)", "Deployment web (Secret reports-db)", "Job nightly (Secret reports-db)", "pod shell (Secret reports-db)"];
        assert_eq!(users(&quiet, ADMINISTRATOR, &others), all);
        let many: Vec<Pod> = (0..10).map(|number| owned(&format!("j{number}"), "Job", &format!("job-{number}"))).collect();
        let found = users(&quiet, ADMINISTRATOR, &many);
        assert_eq!((found.len(), found.last().unwrap().as_str()), (9, "2 more"));
    }
}
