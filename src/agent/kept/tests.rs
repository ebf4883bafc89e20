//! The way back on plain files: ended anywhere and begun again.

use std::fs;
use tempfile::TempDir;

use super::*;
use crate::api::EngineKind;

/// A backup, and a place for it.
struct Volumes {
    _root: TempDir,
    request: GiveBack,
    list: String,
}

impl Volumes {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let request = GiveBack {
            common: Common { engine: EngineKind::PostgreSQL, termination_message: "none".into() },
            volume: root.path().join("backup"),
            directory: "k3x9q2ab-previous".into(),
            data_directory: root.path().join("volume/data"),
        };
        let backup = request.volume.join(&request.directory);
        for path in ["base/1", "pg_notify"] {
            fs::create_dir_all(backup.join("data").join(path)).unwrap();
        }
        for (path, content) in [("PG_VERSION", "17\n"), ("base/1/16384", "rows of a table"), ("zzz", "the last by name")] {
            fs::write(backup.join("data").join(path), content).unwrap();
        }
        fs::set_permissions(backup.join("data/pg_notify"), Permissions::from_mode(0o750)).unwrap();
        let list = list_files(&backup.join("data")).unwrap();
        let manifest = Manifest {
            engine: "PostgreSQL".into(),
            version: "17.2".into(),
            position: String::new(),
            bytes: 34,
            checksum: checksum(list.as_bytes()),
            completed_at: "2026-11-24T00:00:00Z".into(),
            note: None,
        };
        fs::write(backup.join(FILES), &list).unwrap();
        fs::write(backup.join(MANIFEST), serde_json::to_vec(&manifest).unwrap()).unwrap();
        Self { _root: root, request, list }
    }

    fn backup(&self) -> PathBuf {
        self.request.volume.join(&self.request.directory)
    }

    fn data(&self) -> &Path {
        &self.request.data_directory
    }

    fn give_back(&self) -> Result<String, AgentError> {
        self.give_back_until(usize::MAX)
    }

    /// As if killed before the change that goes beyond this number.
    fn give_back_until(&self, changes: usize) -> Result<String, AgentError> {
        let mut left = changes;
        give_back_as(&self.request, "PostgreSQL", Some("PG_VERSION"), &mut || {
            left = left.checked_sub(1).ok_or_else(|| AgentError::Refused("killed".to_owned()))?;
            Ok(())
        })
    }

    /// Everything is there, and nothing of ours.
    fn is_whole(&self) -> bool {
        list_files(self.data()).unwrap() == self.list
    }
}

#[test]
fn what_was_kept_comes_back_into_an_empty_directory() {
    let volumes = Volumes::new();
    fs::create_dir_all(volumes.data().join(LOST_AND_FOUND)).unwrap();
    let report: serde_json::Value = serde_json::from_str(&volumes.give_back().unwrap()).unwrap();
    assert_eq!((&report["directory"], &report["bytes"]), (&"k3x9q2ab-previous".into(), &34.into()));
    assert!(volumes.is_whole() && volumes.data().join(LOST_AND_FOUND).exists());
    let mode = |name: &str| fs::metadata(volumes.data().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(""), mode("pg_notify")), (0o700, 0o750));
    volumes.give_back_until(0).unwrap();
    // Served since: it is somebody's data.
    fs::write(volumes.data().join("base/1/16384"), "more rows").unwrap();
    assert!(volumes.give_back().unwrap_err().to_string().contains("is not empty (PG_VERSION, base, pg_notify, zzz): nothing was touched"));
    assert_eq!(fs::read_to_string(volumes.data().join("base/1/16384")).unwrap(), "more rows");
}

#[test]
fn a_directory_with_anything_in_it_is_not_touched() {
    for name in ["PG_VERSION", "understudy.restoring", "understudy.seed.json", ".understudy-k3x9q2ab", STAGED] {
        let volumes = Volumes::new();
        fs::create_dir_all(volumes.data().join(name)).unwrap();
        let error = volumes.give_back().unwrap_err().to_string();
        assert!(error.contains("is not empty") && error.ends_with("nothing was touched"), "{name}: {error}");
        assert_eq!(fs::read_dir(volumes.data()).unwrap().count(), 1, "{name}");
    }
}

#[test]
fn killed_anywhere_no_server_starts_on_a_part_and_it_begins_anew() {
    for changes in 0.. {
        let volumes = Volumes::new();
        let ended = volumes.give_back_until(changes);
        let part = changes > 0 && !volumes.is_whole();
        if volumes.data().join("PG_VERSION").exists() {
            assert!(["base/1/16384", "pg_notify", "zzz"].iter().all(|name| volumes.data().join(name).exists()), "{changes}");
        }
        assert!(!part || volumes.data().join(GIVING).exists(), "an entrypoint would take it for empty: {changes}");
        // In the middle of clearing, too.
        for again in 0..3 {
            let _ = volumes.give_back_until(again);
        }
        volumes.give_back().unwrap();
        assert!(volumes.is_whole(), "{changes}");
        if ended.is_ok() {
            assert!(changes > 8, "{changes}");
            break;
        }
    }
}

#[test]
fn killed_in_the_middle_of_copying_it_begins_anew() {
    for file in ["PG_VERSION", "base", "zzz"] {
        let volumes = Volumes::new();
        volumes.give_back_until(2).unwrap_err();
        fs::write(volumes.data().join(STAGED).join(file), "1").unwrap();
        volumes.give_back().unwrap();
        assert!(volumes.is_whole(), "{file}");
    }
}

#[test]
fn what_a_server_has_written_since_is_never_cleared() {
    let mut met = 0;
    for changes in 0.. {
        let volumes = Volumes::new();
        if volumes.give_back_until(changes).is_ok() {
            break;
        }
        if volumes.data().join(GIVING).exists() && !volumes.data().join(STAGED).exists() && volumes.data().join("PG_VERSION").exists() {
            fs::write(volumes.data().join("base/1/16385"), "more rows").unwrap();
            volumes.give_back().unwrap();
            assert_eq!(fs::read_to_string(volumes.data().join("base/1/16385")).unwrap(), "more rows", "{changes}");
            met += 1;
        }
    }
    assert!(met > 0);
}

#[test]
fn a_backup_that_is_damaged_brings_nothing_into_place() {
    let damages: [fn(&Path); 3] = [
        |data| fs::write(data.join("base/1/16384"), "rowz of a table").unwrap(),
        |data| fs::remove_dir(data.join("pg_notify")).unwrap(),
        |data| fs::write(data.join("more"), "").unwrap(),
    ];
    for damage in damages {
        let volumes = Volumes::new();
        damage(&volumes.backup().join("data"));
        let error = volumes.give_back().unwrap_err().to_string();
        assert!(error.contains("is not what was verified"), "{error}");
        assert!(held(volumes.data()).unwrap().is_empty());
        fs::remove_dir_all(volumes.backup()).unwrap();
        fs::rename(Volumes::new().backup(), volumes.backup()).unwrap();
        volumes.give_back().unwrap();
        assert!(volumes.is_whole());
    }
}

#[test]
fn what_is_no_backup_of_such_data_is_said() {
    let volumes = Volumes::new();
    let refused = |said: &str| {
        let error = volumes.give_back().unwrap_err().to_string();
        assert!(error.contains(said) && !volumes.data().exists(), "{error}");
    };
    let path = volumes.backup().join(MANIFEST);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("PostgreSQL", "MySQL")).unwrap();
    refused("is a backup of MySQL, not of PostgreSQL");
    fs::write(&path, text).unwrap();
    fs::write(volumes.backup().join(FILES), "").unwrap();
    refused("is not what was verified");
    fs::remove_file(volumes.backup().join(FILES)).unwrap();
    refused("no backup of what a target held");
    fs::remove_file(path).unwrap();
    refused("there is no finished backup");
}

#[test]
fn what_was_a_replica_once_comes_back_without_the_mark_of_one() {
    let volumes = Volumes::new();
    let data = volumes.backup().join("data");
    fs::write(data.join(seed::SEED), "{}").unwrap();
    let list = list_files(&data).unwrap();
    let path = volumes.backup().join(MANIFEST);
    let manifest = fs::read_to_string(&path).unwrap().replace(&checksum(volumes.list.as_bytes()), &checksum(list.as_bytes()));
    fs::write(path, manifest).unwrap();
    fs::write(volumes.backup().join(FILES), list).unwrap();
    volumes.give_back().unwrap();
    assert!(volumes.is_whole() && !volumes.data().join(seed::SEED).exists());
}

#[test]
fn a_volume_that_is_too_small_is_said_with_both_numbers() {
    let volumes = Volumes::new();
    let path = volumes.backup().join(MANIFEST);
    fs::write(&path, fs::read_to_string(&path).unwrap().replace(":34", &format!(":{}", 3_u64 << 60))).unwrap();
    let said = volumes.give_back().unwrap_err().to_string();
    assert!(said.starts_with("the volume of the data directory has ") && said.ends_with(" are needed"), "{said}");
}
