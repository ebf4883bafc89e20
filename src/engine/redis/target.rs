//! What keeps another Redis server from serving a copy of the source's data, and following it. Pure.
//!
//! Rules are cited from the Redis documentation ("Replication", "Persistence"), and from what servers were seen to do.

use super::agent::inside;
use super::facts::SourceFacts;
use crate::engine::Finding;

/// The part of a version within which snapshots have one format: major and minor.
fn series(version: &str) -> (u32, u32) {
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    (next(), next())
}

/// See [`crate::engine::Engine::preflight_target`].
#[must_use]
pub fn preflight(source: &SourceFacts, target: &SourceFacts) -> Vec<Finding> {
    if target.sentinel {
        // It knows none of the other things.
        return vec![Finding::new(
            "TargetIsSentinel",
            "the target is a Redis Sentinel, which watches servers and holds no data",
            "name the StatefulSet of a server in target.statefulSetRef",
        )];
    }
    let mut found = Vec::new();
    if !target.version.is_empty() && series(&target.version) < series(&source.version) {
        found.push(Finding::new(
            "TargetVersionMismatch",
            format!(
                "the target is Redis {} and the source {}: a server may not be able to read the snapshot (RDB) of a newer one",
                target.version, source.version
            ),
            format!("upgrade the target to Redis {} or later", source.version),
        ));
    }
    if target.replica {
        found.push(Finding::new(
            "TargetIsReplica",
            "the target itself follows another server (its role is slave)",
            "name a StatefulSet that follows nobody in target.statefulSetRef, or end its replication first (REPLICAOF NO ONE, and in its configuration)",
        ));
    }
    if target.cluster {
        found.push(Finding::new(
            "ClusterEnabled",
            "the target runs in cluster mode (cluster-enabled is yes), in which replicaof is not allowed",
            "name a server without cluster mode",
        ));
    }
    let unseen: Vec<&str> = ["info", "config|get"].into_iter().filter(|command| target.forbids(command)).collect();
    if !unseen.is_empty() {
        found.push(Finding::new(
            "NotPermitted",
            format!("the target's user {} may not run these commands, or they were renamed: {}", target.user, unseen.join(", ")),
            "let target.credentials name a user that may (ACL SETUSER … +@all &*), or take rename-command out of the configuration",
        ));
    }
    found.extend(settings(source, target));
    found
}

/// What the target's server needs to read the source's snapshot, and to start on its directory.
fn settings(source: &SourceFacts, target: &SourceFacts) -> Vec<Finding> {
    let mut found = Vec::new();
    if let (Some(ours), Some(theirs)) = (source.databases, target.databases)
        && theirs < ours
    {
        found.push(Finding::new(
            "TargetSettingsTooLow",
            format!("databases is {theirs} on the target and {ours} on the source: a server ends when it reads keys of a database that it has not got"),
            format!("set databases to {ours} in the target's configuration or arguments, and restart it"),
        ));
    }
    let missing: Vec<&str> = source.modules.iter().filter(|name| !target.modules.contains(name)).map(String::as_str).collect();
    // Who may not ask sees none.
    if !missing.is_empty() && !target.forbids("info") {
        found.push(Finding::new(
            "TargetModulesMissing",
            format!("the source has modules that the target has not: {}; a snapshot with data of theirs can't be read without them", missing.join(", ")),
            "load them on the target (loadmodule in its configuration), or run the source's image there; or unload them on the source if nothing uses them",
        ));
    }
    let users = |facts: &SourceFacts| inside(&facts.acl_file, &facts.data_directory);
    if let Some(file) = users(target).filter(|file| users(source).as_ref() != Some(file)) {
        found.push(Finding::new(
            "ConfigurationOnDataVolume",
            format!(
                "the target's ACL file {} lies in its data directory, which is replaced with a copy of the source's, and the source has none there",
                file.display()
            ),
            "mount the ACL file from a Secret, outside the data directory",
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> SourceFacts {
        SourceFacts { version: "7.2.5".into(), user: "default".into(), data_directory: "/data".into(), databases: Some(16), ..SourceFacts::default() }
    }

    fn reasons(source: &SourceFacts, target: &SourceFacts) -> Vec<&'static str> {
        preflight(source, target).iter().map(|finding| finding.reason).collect()
    }

    #[test]
    fn two_servers_with_the_official_images_defaults_fit() {
        assert_eq!(preflight(&server(), &server()), []);
    }

    #[test]
    fn every_finding_is_reported_at_once_with_its_remedy() {
        let source = SourceFacts { modules: vec!["ReJSON".into(), "search".into()], databases: Some(32), ..server() };
        let target = SourceFacts {
            version: "7.0.15".into(),
            replica: true,
            cluster: true,
            forbidden: vec!["config|get".into(), "acl|setuser".into()],
            modules: vec!["search".into()],
            acl_file: "/data/users.acl".into(),
            ..server()
        };
        let found = preflight(&source, &target);
        let reasons: Vec<_> = found.iter().map(|finding| finding.reason).collect();
        let wanted = [
            "TargetVersionMismatch",
            "TargetIsReplica",
            "ClusterEnabled",
            "NotPermitted",
            "TargetSettingsTooLow",
            "TargetModulesMissing",
            "ConfigurationOnDataVolume",
        ];
        assert_eq!(reasons, wanted);
        assert!(found.iter().all(|finding| !finding.remedy.is_empty() && !finding.lasting));
        assert!(found[0].message.contains("7.0.15") && found[0].message.contains("7.2.5"), "{found:?}");
        assert!(found[3].message.contains("config|get") && !found[3].message.contains("setuser"), "a target's user need not change anything: {found:?}");
        assert!(found[4].message.contains("16") && found[4].message.contains("32"), "{found:?}");
        assert!(found[5].message.contains(": ReJSON;"), "{found:?}");
    }

    #[test]
    fn the_target_reads_what_the_source_writes() {
        let of = |version: &str| SourceFacts { version: version.into(), ..server() };
        for (source, target, fits) in [
            ("7.2.5", "7.2.4", true),
            ("7.2.5", "7.4.0", true),
            ("7.2.5", "8.0.6", true),
            ("7.2.5", "7.0.15", false),
            ("8.0.6", "7.4.9", false),
            ("7.10.0", "7.9.0", false),
        ] {
            assert_eq!(reasons(&of(source), &of(target)), if fits { vec![] } else { vec!["TargetVersionMismatch"] }, "{source} {target}");
        }
        for (source, target, fits) in [(Some(16), Some(16), true), (Some(16), Some(32), true), (Some(17), Some(16), false), (None, Some(1), true)] {
            let of = |databases| SourceFacts { databases, ..server() };
            assert_eq!(reasons(&of(source), &of(target)).is_empty(), fits, "{source:?} {target:?}");
        }
        let with = SourceFacts { modules: vec!["search".into()], ..server() };
        assert_eq!((reasons(&with, &server()), reasons(&server(), &with)), (vec!["TargetModulesMissing"], vec![]));
        let forbidden = SourceFacts { version: String::new(), forbidden: vec!["info".into()], ..server() };
        assert_eq!(reasons(&with, &forbidden), ["NotPermitted"], "what could not be read is no finding of its own");
    }

    #[test]
    fn a_sentinel_is_told_from_a_server() {
        let sentinel = SourceFacts { sentinel: true, forbidden: vec!["config|get".into()], data_directory: String::new(), ..server() };
        assert_eq!(reasons(&server(), &sentinel), ["TargetIsSentinel"]);
    }

    #[test]
    fn an_acl_file_that_goes_away_with_the_targets_data_is_a_finding() {
        let of = |directory: &str, file: &str| SourceFacts { data_directory: directory.into(), acl_file: file.into(), ..server() };
        for (source, target, fits) in [
            ("", "", true),
            ("/data/users.acl", "", true),
            ("/data/users.acl", "/db/users.acl", true),
            ("", "/etc/redis/users.acl", true),
            ("", "/db/users.acl", false),
            ("/data/users.acl", "/db/acl/users", false),
        ] {
            let found = reasons(&of("/data", source), &of("/db", target));
            assert_eq!(found, if fits { vec![] } else { vec!["ConfigurationOnDataVolume"] }, "{source} {target}");
        }
    }
}
