//! What keeps another PostgreSQL server from serving a copy of the source's data, and following it. Pure.
//!
//! The copy brings along what the source keeps in its data directory, settings too, in place of the target's own. What counts is therefore not what the target's
//! settings are, but what they will be. Rules are cited from the manual: "Hot Standby", "Administrator's Overview"; "Setting Parameters".

use super::facts::{SettingFacts, SourceFacts};
use crate::engine::Finding;

/// Whether a standby answers queries; all other [`SourceFacts::standby_settings`] are numbers that it may not have lower.
const HOT_STANDBY: &str = "hot_standby";
/// Read from the data directory, wherever the other files are, and after them.
const AUTO_CONF: &str = "postgresql.auto.conf";

/// The path of a file below a directory.
fn below<'a>(file: &'a str, directory: &str) -> Option<&'a str> {
    file.strip_prefix(directory.trim_end_matches('/'))?.strip_prefix('/').filter(|_| !directory.is_empty())
}

/// What the target's server has this setting at once it runs on a copy of the source's data directory.
fn to_be<'a>(ours: &'a SettingFacts, theirs: &'a SettingFacts, source: &SourceFacts, target: &SourceFacts) -> &'a str {
    let along = below(&ours.file, &source.data_directory);
    let reads_along = below(&target.config_file, &target.data_directory).is_some();
    match theirs.source.as_str() {
        "configuration file" | "default" => {}
        // The command line or the environment: it wins over all files.
        _ => return &theirs.value,
    }
    if along == Some(AUTO_CONF) {
        return &ours.value;
    }
    if theirs.source == "configuration file" && !reads_along && below(&theirs.file, &target.data_directory).is_none() {
        return &theirs.value;
    }
    // Of two servers of one version the defaults are the same. What the source's arguments say does not come along.
    if along.is_some() && reads_along { &ours.value } else { &ours.default }
}

/// The files that the target's server looks for in its data directory, and that a copy of the source's would not bring along.
fn lost<'a>(source: &SourceFacts, target: &'a SourceFacts) -> Vec<&'a str> {
    let files = [&target.config_file, &target.hba_file].into_iter().filter_map(|file| below(file, &target.data_directory));
    files.filter(|file| !source.own_files.iter().any(|own| own == file)).collect()
}

/// See [`crate::engine::Engine::preflight_target`].
#[must_use]
pub fn preflight(source: &SourceFacts, target: &SourceFacts) -> Vec<Finding> {
    let mut found = Vec::new();
    let major = source.version_num / 10_000;
    if target.version_num / 10_000 != major {
        found.push(Finding::new(
            "TargetVersionMismatch",
            format!(
                "the target is PostgreSQL {} and the source {}: a copy of its data directory runs on the same major version only",
                target.version, source.version
            ),
            format!("make the target anew with an image of PostgreSQL {major}, or upgrade the older of the two"),
        ));
    }
    if target.in_recovery {
        found.push(Finding::new(
            "TargetIsReplica",
            "the target is itself a standby of another server (pg_is_in_recovery() is true)",
            "name a StatefulSet that follows nobody in target.statefulSetRef, or end its replication first (SELECT pg_promote())",
        ));
    }
    if !target.superuser {
        found.push(Finding::new(
            "NotSuperuser",
            format!("the target's user {} is not a superuser, and only one is told where the data and the settings lie", target.user),
            "name a superuser in target.credentials",
        ));
    }
    if !target.superuser || !source.superuser {
        return found;
    }
    let lost = lost(source, target);
    if !lost.is_empty() {
        found.push(Finding::new(
            "TargetConfigurationLost",
            format!(
                "the target's server reads {} from its data directory {}, which is replaced with a copy of the source's, and there is no such file in {}",
                lost.join(" and "),
                target.data_directory,
                source.data_directory
            ),
            "mount a configuration into the target's pod and name its files in the server's arguments (-c config_file=…, -c hba_file=…)",
        ));
    }
    if !target.outside.is_empty() {
        found.push(Finding::new(
            "DataOutsideDirectory",
            format!("the target keeps data outside {}, which alone is replaced: {}", target.data_directory, target.outside.join(", ")),
            "drop its tablespaces; one whose log lies elsewhere has to be made anew",
        ));
    }
    found.extend(settings(source, target));
    found
}

/// What the target's server would have otherwise than a standby of this source may.
fn settings(source: &SourceFacts, target: &SourceFacts) -> Vec<Finding> {
    let pairs = source.standby_settings.iter().filter_map(|ours| {
        let theirs = target.standby_settings.iter().find(|theirs| theirs.name == ours.name)?;
        Some((ours, to_be(ours, theirs, source, target)))
    });
    let (switch, sizes): (Vec<_>, Vec<_>) = pairs.partition(|(ours, _)| ours.name == HOT_STANDBY);
    let mut found = Vec::new();
    if switch.iter().any(|(_, value)| *value == "off") {
        found.push(Finding::new(
            "TargetHotStandbyOff",
            "hot_standby would be off on the target: as a replica it would take no connections",
            "take hot_standby = off out of the target's arguments or configuration (or out of the source's, where the copy brings it along), and restart that server",
        ));
    }
    let number = |value: &str| value.parse::<i64>().unwrap_or(0);
    let low: Vec<_> = sizes.into_iter().filter(|(ours, value)| number(value) < number(&ours.value)).collect();
    if !low.is_empty() {
        let each = |text: &dyn Fn(&SettingFacts, &str) -> String| low.iter().map(|(ours, value)| text(ours, value)).collect::<Vec<_>>();
        found.push(Finding::new(
            "TargetSettingsTooLow",
            format!(
                "{}: a standby that has less than its source does not start",
                each(&|ours, value| format!("{} would be {value} on the target and is {} on the source", ours.name, ours.value)).join("; ")
            ),
            format!(
                "start the target's server with {} (its own settings in the data directory are replaced with the source's)",
                each(&|ours, _| format!("-c {}={}", ours.name, ours.value)).join(" ")
            ),
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: [&str; 5] = ["max_connections", "max_worker_processes", "max_wal_senders", "max_prepared_transactions", "max_locks_per_transaction"];
    const DATA: &str = "/var/lib/postgresql/data";
    const OUTSIDE: &str = "/etc/postgresql/postgresql.conf";

    fn setting(name: &str) -> SettingFacts {
        let value = if name == HOT_STANDBY { "on" } else { "10" };
        SettingFacts { name: name.into(), value: value.into(), default: value.into(), source: "default".into(), file: String::new() }
    }

    /// A server with the defaults of the official image.
    fn server() -> SourceFacts {
        SourceFacts {
            version_num: 170_012,
            version: "17.12".into(),
            superuser: true,
            user: "postgres".into(),
            data_directory: DATA.into(),
            config_file: format!("{DATA}/postgresql.conf"),
            hba_file: format!("{DATA}/pg_hba.conf"),
            own_files: vec!["postgresql.conf".into(), "pg_hba.conf".into()],
            standby_settings: SIZES.iter().chain([&HOT_STANDBY]).map(|name| setting(name)).collect(),
            ..SourceFacts::default()
        }
    }

    /// The same server with one setting otherwise: from its arguments, or from a file.
    fn with(mut server: SourceFacts, name: &str, value: &str, file: Option<&str>) -> SourceFacts {
        let found = server.standby_settings.iter_mut().find(|setting| setting.name == name).unwrap();
        found.value = value.into();
        found.source = if file.is_some() { "configuration file" } else { "command line" }.into();
        found.file = file.unwrap_or_default().into();
        server
    }

    /// A server whose configuration is mounted.
    fn mounted() -> SourceFacts {
        SourceFacts { config_file: OUTSIDE.into(), hba_file: "/etc/postgresql/pg_hba.conf".into(), ..server() }
    }

    fn reasons(source: &SourceFacts, target: &SourceFacts) -> Vec<&'static str> {
        preflight(source, target).iter().map(|finding| finding.reason).collect()
    }

    #[test]
    fn two_servers_with_the_official_images_defaults_fit() {
        assert_eq!(preflight(&server(), &server()), []);
        let (minor, other) = (SourceFacts { version_num: 170_001, ..server() }, SourceFacts { data_directory: "/data".into(), ..mounted() });
        assert_eq!(preflight(&server(), &minor), []);
        assert_eq!(preflight(&server(), &other), []);
    }

    #[test]
    fn every_finding_is_reported_at_once_with_its_remedy() {
        let source = SourceFacts { own_files: vec![], ..with(mounted(), "max_connections", "500", None) };
        let target = SourceFacts {
            version_num: 160_004,
            version: "16.4".into(),
            in_recovery: true,
            outside: vec!["/fast".into()],
            ..with(server(), HOT_STANDBY, "off", None)
        };
        let found = preflight(&source, &target);
        let reasons: Vec<_> = found.iter().map(|finding| finding.reason).collect();
        assert_eq!(
            reasons,
            ["TargetVersionMismatch", "TargetIsReplica", "TargetConfigurationLost", "DataOutsideDirectory", "TargetHotStandbyOff", "TargetSettingsTooLow"]
        );
        assert!(found.iter().all(|finding| !finding.remedy.is_empty() && !finding.lasting));
        assert!(found[0].message.contains("16.4") && found[0].message.contains("17.12"), "{found:?}");
        assert!(found[2].message.contains("postgresql.conf and pg_hba.conf"), "{found:?}");
        assert!(found[5].message.starts_with("max_connections would be 10 on the target and is 500 on the source"), "{found:?}");
        assert!(found[5].remedy.contains("-c max_connections=500"), "{found:?}");
    }

    #[test]
    fn a_user_that_is_told_too_little_is_a_finding() {
        let target = SourceFacts { superuser: false, user: "app".into(), data_directory: String::new(), config_file: String::new(), ..server() };
        let found = preflight(&with(server(), "max_connections", "500", None), &target);
        assert_eq!(found.iter().map(|finding| finding.reason).collect::<Vec<_>>(), ["NotSuperuser"]);
        assert!(found[0].message.contains("app") && found[0].remedy.contains("target.credentials"), "{found:?}");
    }

    #[test]
    fn versions_are_the_same_but_for_the_minor_one() {
        for (source, target, fits) in [(170_012, 170_000, true), (170_000, 170_012, true), (170_012, 160_012, false), (160_012, 170_000, false)] {
            let of = |version_num| SourceFacts { version_num, ..server() };
            assert_eq!(reasons(&of(source), &of(target)).is_empty(), fits, "{source} {target}");
        }
    }

    #[test]
    fn no_setting_may_be_lower_than_on_the_source() {
        for name in SIZES {
            for (source, target, fits) in [("500", "500", true), ("500", "501", true), ("500", "499", false), ("5", "499", true)] {
                let (source, target) = (with(server(), name, source, None), with(server(), name, target, None));
                assert_eq!(reasons(&source, &target), if fits { vec![] } else { vec!["TargetSettingsTooLow"] }, "{name}");
            }
        }
        let all = SIZES.iter().fold(server(), |server, name| with(server, name, "500", None));
        let found = preflight(&all, &server());
        assert!(found.len() == 1 && SIZES.iter().all(|name| found[0].message.contains(name)), "{found:?}");
    }

    #[test]
    fn a_setting_is_judged_by_what_it_will_be_on_a_copy() {
        let (conf, auto) = (format!("{DATA}/conf.d/own.conf"), format!("{DATA}/postgresql.auto.conf"));
        let name = "max_connections";
        let set = |server: fn() -> SourceFacts, value, file| with(server(), name, value, file);
        for (source, target, fits, why) in [
            (set(server, "500", Some(&conf)), server(), true, "the copy brings it along"),
            (set(server, "500", Some(&auto)), set(server, "20", Some(&conf)), true, "and in place of the target's own"),
            (set(server, "500", Some(&auto)), mounted(), true, "this file is read wherever the others are"),
            (set(server, "500", Some(&conf)), mounted(), false, "the target would not read it"),
            (set(server, "500", Some(&conf)), set(mounted, "600", Some(OUTSIDE)), true, "it has one of its own, which stays"),
            (set(server, "500", Some(&auto)), set(mounted, "20", Some(OUTSIDE)), true, "which does not win over this one"),
            (set(server, "500", Some(&auto)), set(server, "20", None), false, "arguments do"),
            (set(server, "500", None), set(server, "600", Some(&auto)), false, "what lies in the target's data directory goes away"),
            (set(server, "500", None), set(server, "600", Some(OUTSIDE)), false, "as does what includes a file elsewhere"),
            (set(server, "500", None), set(mounted, "600", Some(OUTSIDE)), true, "a mounted configuration stays"),
            (set(mounted, "500", Some(OUTSIDE)), server(), false, "the source's mounted one does not come along"),
            (server(), set(server, "5", Some(&conf)), true, "less goes away as well"),
            (server(), set(server, "5", None), false, "less than the default"),
        ] {
            assert_eq!(reasons(&source, &target), if fits { vec![] } else { vec!["TargetSettingsTooLow"] }, "{why}");
        }
    }

    #[test]
    fn a_replica_takes_connections() {
        let conf = format!("{DATA}/postgresql.conf");
        for (source, target, fits) in [
            (server(), with(server(), HOT_STANDBY, "off", None), false),
            (server(), with(server(), HOT_STANDBY, "off", Some(&conf)), true),
            (with(server(), HOT_STANDBY, "off", Some(&conf)), server(), false),
            (with(server(), HOT_STANDBY, "off", None), server(), true),
        ] {
            assert_eq!(reasons(&source, &target), if fits { vec![] } else { vec!["TargetHotStandbyOff"] });
        }
    }

    #[test]
    fn a_configuration_that_goes_away_with_the_targets_data_is_a_finding() {
        let bare = || SourceFacts { own_files: vec!["pg_hba.conf".into()], ..mounted() };
        assert_eq!(reasons(&bare(), &server()), ["TargetConfigurationLost"]);
        assert_eq!(reasons(&bare(), &mounted()), Vec::<&str>::new());
        assert_eq!(reasons(&server(), &SourceFacts { config_file: format!("{DATA}/custom.conf"), ..server() }), ["TargetConfigurationLost"]);
    }
}
