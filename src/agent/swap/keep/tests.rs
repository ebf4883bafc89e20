//! What a target held before is kept on plain files: ended anywhere and begun again.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

use super::*;
use crate::agent::Seed;
use crate::agent::swap::journal::Layout;
use crate::api::EngineKind;
use crate::engine::postgresql::PostgreSql;

/// Modes and contents by path.
type Tree = BTreeMap<PathBuf, (u32, String)>;

fn tree(top: &Path) -> Tree {
    let (mut found, mut left) = (Tree::new(), vec![top.to_owned()]);
    while let Some(directory) = left.pop() {
        for path in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
            let metadata = fs::symlink_metadata(&path).unwrap();
            let content = if metadata.is_dir() {
                left.push(path.clone());
                String::new()
            } else if metadata.is_symlink() {
                format!("-> {}", fs::read_link(&path).unwrap().display())
            } else {
                fs::read_to_string(&path).unwrap()
            };
            found.insert(path.strip_prefix(top).unwrap().to_owned(), (metadata.permissions().mode() & 0o7777, content));
        }
    }
    found
}

/// A target's volume after a swap, and a backup volume.
struct Volumes {
    root: TempDir,
    request: Keep,
}

impl Volumes {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let mount = root.path().join("volume");
        let request = Keep {
            common: Common { engine: EngineKind::PostgreSQL, termination_message: "none".into() },
            data_directory: mount.join("data"),
            mount,
            identity: Identity::parse("k3x9q2ab").unwrap(),
            volume: root.path().join("backup"),
            directory: "k3x9q2ab-previous".into(),
            unless_empty: false,
            server_version: "17.2".into(),
        };
        let volumes = Self { root, request };
        let previous = volumes.previous();
        for (path, mode) in [("base/1", 0o700), ("pg_notify", 0o750), ("pg_wal/archive_status", 0o700)] {
            fs::create_dir_all(previous.join(path)).unwrap();
            fs::set_permissions(previous.join(path), fs::Permissions::from_mode(mode)).unwrap();
        }
        for (path, content, mode) in
            [("PG_VERSION", "17\n", 0o600), ("base/1/16384", "rows of a table", 0o640), ("base/1/empty", "", 0o600), (".hidden", "x", 0o600)]
        {
            fs::write(previous.join(path), content).unwrap();
            fs::set_permissions(previous.join(path), fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::create_dir_all(&volumes.request.data_directory).unwrap();
        fs::create_dir(&volumes.request.volume).unwrap();
        let seed = Seed { backup: "k3x9q2ab-1".into(), replica: 1, checksum: "abc".into() };
        fs::write(volumes.request.data_directory.join("understudy.seed.json"), serde_json::to_vec(&seed).unwrap()).unwrap();
        volumes.journal().write(&volumes.ours()).unwrap();
        volumes
    }

    fn ours(&self) -> PathBuf {
        self.request.mount.join(".understudy-k3x9q2ab")
    }

    fn previous(&self) -> PathBuf {
        self.ours().join("previous")
    }

    fn done(&self) -> PathBuf {
        self.request.volume.join("k3x9q2ab-previous")
    }

    fn partial(&self) -> PathBuf {
        self.request.volume.join("k3x9q2ab-previous.partial")
    }

    /// That of a finished swap.
    fn journal(&self) -> Journal {
        Journal {
            to: Wanted::Staged,
            phase: Phase::Done,
            layout: Layout::Whole,
            seed: Seed { backup: "k3x9q2ab-1".into(), replica: 1, checksum: "abc".into() },
            data_directory: self.request.data_directory.clone(),
            staged: [].into(),
            previous: [].into(),
        }
    }

    fn keep(&self) -> Result<String, AgentError> {
        keep_files::<PostgreSql>(&self.request, &mut || Ok(()))
    }

    /// As if killed before the change that goes beyond this number.
    fn keep_until(&self, changes: usize) -> Result<String, AgentError> {
        let mut left = changes;
        keep_files::<PostgreSql>(&self.request, &mut || {
            left = left.checked_sub(1).ok_or_else(|| AgentError::Refused("killed".to_owned()))?;
            Ok(())
        })
    }

    /// Something happens right before a change of this number.
    fn keep_with(&self, number: usize, what: impl Fn()) -> Result<String, AgentError> {
        let mut count = 0;
        keep_files::<PostgreSql>(&self.request, &mut || {
            if count == number {
                what();
            }
            count += 1;
            Ok(())
        })
    }

    fn refused(&self, said: &str) {
        let before = tree(self.root.path());
        let error = self.keep().unwrap_err().to_string();
        assert!(error.contains(said) && error.ends_with("nothing was touched"), "{error}");
        assert_eq!(tree(self.root.path()), before);
    }
}

/// The change at which everything is copied, and not yet looked at.
const COPIED: usize = 4;

#[test]
fn everything_is_kept_and_described() {
    let volumes = Volumes::new();
    symlink("/elsewhere/wal", volumes.previous().join("link")).unwrap();
    let before = tree(&volumes.previous());
    let _socket = UnixListener::bind(volumes.previous().join("socket")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&volumes.keep().unwrap()).unwrap();
    assert_eq!(tree(&volumes.done().join("data")), before, "with modes, links and what is empty, without sockets");
    assert_eq!(fs::metadata(volumes.done()).unwrap().mode() & 0o777, 0o700, "nobody else's business");
    let mut manifest: serde_json::Value = serde_json::from_slice(&fs::read(volumes.done().join("manifest.json")).unwrap()).unwrap();
    assert_eq!((&manifest["engine"], &manifest["version"], &manifest["bytes"]), (&"PostgreSQL".into(), &"17.2".into(), &19.into()));
    assert!(manifest["note"].as_str().unwrap().starts_with("link: copied as links"), "{manifest}");
    let list = fs::read(volumes.done().join(FILES)).unwrap();
    assert_eq!(manifest["checksum"], checksum(&list));
    manifest["directory"] = "k3x9q2ab-previous".into();
    assert_eq!(report, manifest);
    assert!(!volumes.partial().exists());
    // And again: it is looked at, and stays.
    let looks =
        || ["", "data", "data/PG_VERSION", "manifest.json"].map(|name| fs::metadata(volumes.done().join(name)).unwrap()).map(|m| (m.ino(), m.ctime_nsec()));
    let stays = looks();
    let again: serde_json::Value = serde_json::from_str(&volumes.keep_until(0).unwrap()).unwrap();
    assert_eq!((again, looks()), (report, stays));
}

#[test]
fn only_what_a_finished_swap_has_left_is_kept() {
    let volumes = Volumes::new();
    let with = |change: fn(&mut Journal)| {
        let mut journal = volumes.journal();
        change(&mut journal);
        journal.write(&volumes.ours()).unwrap();
    };
    with(|journal| journal.phase = Phase::Begun);
    volumes.refused("does not say that the swap is done");
    with(|journal| journal.phase = Phase::Discarding);
    volumes.refused("does not say that the swap is done");
    with(|journal| journal.to = Wanted::Previous);
    volumes.refused("does not say that the swap is done");
    with(|journal| journal.seed.replica = 2);
    volumes.refused("is about a restore that is not in the data directory");
    with(|journal| journal.data_directory = "/elsewhere".into());
    volumes.refused("another data directory");
    with(|_| {});
    let restoring = volumes.request.data_directory.join("understudy.restoring");
    fs::write(&restoring, "").unwrap();
    volumes.refused("is about a restore that is not in the data directory");
    fs::remove_file(restoring).unwrap();
    fs::rename(volumes.previous(), volumes.root.path().join("aside")).unwrap();
    // Of a server that kept everything in memory.
    let nothing = || {
        assert_eq!(volumes.keep().unwrap(), "null");
        assert!(!volumes.done().exists());
    };
    nothing();
    fs::create_dir(volumes.previous()).unwrap();
    nothing();
    fs::remove_file(volumes.ours().join("journal.json")).unwrap();
    volumes.refused("has no record of a swap");
    fs::remove_dir_all(volumes.ours()).unwrap();
    volumes.refused("has no record of a swap");
}

#[test]
fn killed_anywhere_it_begins_anew_and_a_backup_that_is_there_is_whole() {
    for changes in 0.. {
        let volumes = Volumes::new();
        let before = tree(&volumes.previous());
        let ended = volumes.keep_until(changes);
        assert!(!volumes.done().exists() || tree(&volumes.done().join("data")) == before && volumes.done().join("manifest.json").exists(), "{changes}");
        volumes.keep().unwrap();
        assert_eq!((tree(&volumes.done().join("data")), tree(&volumes.previous())), (before.clone(), before), "{changes}");
        assert!(!volumes.partial().exists());
        if ended.is_ok() {
            assert_eq!(changes, COPIED + 4);
            break;
        }
    }
}

#[test]
fn killed_in_the_middle_of_copying_it_begins_anew() {
    let whole = tree(&Volumes::new().previous());
    for cut in 0..whole.len() {
        let volumes = Volumes::new();
        let data = volumes.partial().join("data");
        fs::create_dir_all(&data).unwrap();
        for (number, (path, (_, content))) in whole.iter().enumerate().take(cut + 1) {
            let copy = data.join(path);
            if volumes.previous().join(path).is_dir() {
                fs::create_dir_all(copy).unwrap();
            } else {
                fs::write(copy, if number == cut { &content[..content.len() / 2] } else { content }).unwrap();
            }
        }
        volumes.keep().unwrap();
        assert_eq!(tree(&volumes.done().join("data")), whole, "{cut}");
    }
}

#[test]
fn a_copy_that_is_not_the_same_is_found() {
    let volumes = Volumes::new();
    let data = volumes.partial().join("data");
    let damages: [&dyn Fn(); 5] = [
        &|| fs::write(data.join("base/1/16384"), "rowz of a table").unwrap(),
        &|| fs::write(data.join("base/1/16384"), "rows of a tabl").unwrap(),
        &|| fs::remove_file(data.join("base/1/16384")).unwrap(),
        &|| fs::remove_dir(data.join("pg_notify")).unwrap(),
        &|| fs::write(data.join("zzz"), "").unwrap(),
    ];
    for (number, damage) in damages.into_iter().enumerate() {
        let error = volumes.keep_with(COPIED, damage).unwrap_err().to_string();
        assert!(error.contains("is not the same"), "{number}: {error}");
        assert!(!volumes.done().exists() && !volumes.partial().join("manifest.json").exists(), "{number}");
    }
    volumes.keep().unwrap();
}

#[test]
fn what_changes_meanwhile_is_not_taken_for_kept() {
    let volumes = Volumes::new();
    let error = volumes.keep_with(COPIED, || (Journal { phase: Phase::Begun, ..volumes.journal() }).write(&volumes.ours()).unwrap()).unwrap_err();
    assert!(error.to_string().contains("does not say that the swap is done"), "{error}");
    assert!(!volumes.done().exists());
}

#[test]
fn a_finished_backup_counts_for_the_same_data_only() {
    let volumes = Volumes::new();
    volumes.keep().unwrap();
    let file = volumes.previous().join("base/1/16384");
    fs::write(&file, "rowz of a table").unwrap();
    volumes.refused("is not what is in it");
    fs::write(&file, "rows of a table").unwrap();
    volumes.keep().unwrap();
    // Damaged since.
    fs::write(volumes.done().join("data/base/1/16384"), "rows").unwrap();
    volumes.refused("is not what is in it");
    fs::write(volumes.done().join("data/base/1/16384"), "rows of a table").unwrap();
    fs::write(volumes.done().join(FILES), "").unwrap();
    volumes.refused("is not what was verified");
    fs::remove_file(volumes.done().join("manifest.json")).unwrap();
    assert!(volumes.keep().unwrap_err().to_string().contains("no finished backup"));
    assert!(volumes.done().join("data").exists(), "what we do not know is not touched");
}

#[test]
fn a_backup_volume_that_is_too_small_is_said_with_both_numbers() {
    let volumes = Volumes::new();
    let free = crate::agent::free_bytes(&volumes.request.volume).unwrap();
    File::create(volumes.previous().join("large")).unwrap().set_len(free).unwrap();
    let said = volumes.keep().unwrap_err().to_string();
    assert!(said.starts_with("the backup volume has ") && said.contains(" free, and ") && said.ends_with(" are needed"), "{said}");
    assert_eq!(fs::read_dir(&volumes.request.volume).unwrap().count(), 0);
}

#[test]
fn two_at_once_are_refused() {
    let volumes = Volumes::new();
    let _lock = Lock::new(&volumes.ours()).unwrap();
    assert!(volumes.keep().unwrap_err().to_string().contains("somebody else is at work"));
}
