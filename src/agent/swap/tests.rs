//! Swaps on plain files, ended anywhere and begun again.

use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

use super::disk::{PLACEHOLDER, list};
use super::{Discard, Keystones, Places, Rules, Swap, Wanted, bring, directory, discard};
use crate::agent::{AgentError, Common, Seed};
use crate::api::EngineKind;
use crate::engine::Identity;

const ENDED: &str = "ended in the middle";

/// How the engines' own rules differ.
const ENGINES: [Rules; 3] = [
    Rules { keystones: Keystones { named: &["PG_VERSION"], every_name: false }, sign: Some("PG_VERSION"), prepare: |_, _, _| Ok(()) },
    Rules { keystones: Keystones { named: &["mysqld-auto.cnf", "ibdata1"], every_name: false }, sign: Some("mysql.ibd"), prepare: |_, _, _| Ok(()) },
    Rules { keystones: Keystones { named: &["appendonlydir", "dump.rdb"], every_name: true }, sign: None, prepare: decoys },
];

fn decoys(staged: &Path, _: &Path, names: &BTreeSet<String>) -> Result<(), AgentError> {
    for name in names.iter().map(String::as_str).chain(["appendonlydir", "dump.rdb"]).filter(|name| !staged.join(name).exists()) {
        fs::write(staged.join(name), DECOY).map_err(AgentError::file("writing", staged))?;
    }
    Ok(())
}

const DECOY: &str = "decoy";

/// Modes and contents by path.
type Tree = BTreeMap<PathBuf, (u32, String)>;

/// Everything below a directory but decoys, and what is ours or the file system's own at its top.
fn tree(top: &Path) -> Tree {
    let (mut found, mut left) = (Tree::new(), vec![]);
    left.extend(list(top).unwrap().into_iter().map(|name| top.join(name)));
    while let Some(path) = left.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let content = if metadata.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            String::new()
        } else if metadata.is_symlink() {
            format!("-> {}", fs::read_link(&path).unwrap().display())
        } else {
            fs::read_to_string(&path).unwrap()
        };
        if content == DECOY {
            continue;
        }
        found.insert(path.strip_prefix(top).unwrap().to_owned(), (metadata.permissions().mode(), content));
    }
    found
}

/// The part of a tree under one name at its top.
fn below(tree: &Tree, name: &str) -> Tree {
    tree.iter().filter(|(path, _)| path.starts_with(name)).map(|(path, found)| (path.clone(), found.clone())).collect()
}

struct Volume {
    root: TempDir,
    data: PathBuf,
    rules: Rules,
    exchanges: bool,
}

impl Volume {
    /// A server's data at this path of the volume, and a finished restore beside it.
    fn new(at: &str, rules: Rules, exchanges: bool, theirs: &BTreeSet<String>, staged: &BTreeSet<String>) -> Self {
        // The one gap that is left: see the page on what remains.
        let fits = |names: &BTreeSet<String>| names.iter().filter(|name| exchanges || *name != "appendonlydir").cloned().collect::<BTreeSet<_>>();
        let (theirs, staged) = (&fits(theirs), &fits(staged));
        let root = tempfile::tempdir().unwrap();
        let data = if at.is_empty() { root.path().to_owned() } else { root.path().join(at) };
        fs::create_dir_all(root.path().join("lost+found")).unwrap();
        let volume = Self { root, data, rules, exchanges };
        fill(&volume.data, "theirs", theirs);
        fill(&volume.ours().join("staged"), "staged", staged);
        let seed = Seed { backup: "k3x9q2ab-1".into(), replica: 1, checksum: "abc".into() };
        fs::write(volume.ours().join("staged/understudy.seed.json"), serde_json::to_vec(&seed).unwrap()).unwrap();
        volume
    }

    fn ours(&self) -> PathBuf {
        directory(self.root.path(), &identity())
    }

    fn swap(&self, to: Wanted, changes: Option<usize>) -> Result<(), AgentError> {
        let common = Common { engine: EngineKind::PostgreSQL, termination_message: "none".into() };
        let request = Swap { common, mount: self.root.path().into(), data_directory: self.data.clone(), identity: identity(), to, changes };
        bring(&Places::new(&request.mount, &request.data_directory, &request.identity)?, self.rules, &request, self.exchanges)
    }

    fn discard(&self) -> Result<(), AgentError> {
        discard(&Discard { mount: self.root.path().into(), identity: identity(), data_directory: None, engine: None, termination_message: "none".into() })
    }

    /// No server starts on what is in the data directory.
    fn refuses(&self) -> bool {
        self.rules.keystones.named.iter().any(|name| fs::read_to_string(self.data.join(name)).is_ok_and(|text| text == PLACEHOLDER))
    }

    /// What a server meets is one of the two databases, or is refused and holds nothing of the other one.
    fn check(&self, theirs: &Tree, staged: &Tree) {
        let now = tree(&self.data);
        assert!(now.keys().any(|path| !path.to_string_lossy().starts_with('.')), "an entrypoint would take it for empty");
        if now == *theirs || now == *staged {
            return;
        }
        assert!(self.refuses(), "a server would start on {now:?}");
        let held = |name: &str| below(&now, name).values().any(|(_, text)| text == PLACEHOLDER);
        let data: BTreeSet<String> = now.keys().filter_map(|path| Some(path.iter().next()?.to_str()?.to_owned())).filter(|name| !held(name)).collect();
        let all_of = |whole: &Tree| data.iter().filter(|name| *name != LITTER).all(|name| below(&now, name) == below(whole, name));
        assert!(all_of(theirs) || all_of(staged), "a mixture: {now:?}");
    }
}

/// Left by a server that was started and gave up.
const LITTER: &str = "left-by-a-server";

fn identity() -> Identity {
    Identity::parse("k3x9q2ab").unwrap()
}

fn fill(directory: &Path, content: &str, names: &BTreeSet<String>) {
    fs::create_dir_all(directory).unwrap();
    for name in names {
        let path = directory.join(name);
        match name.as_str() {
            name if name.ends_with("dir") || name == "base" => {
                fs::create_dir(&path).unwrap();
                fs::write(path.join("1"), format!("{content} {name}")).unwrap();
                fs::set_permissions(path, fs::Permissions::from_mode(0o710)).unwrap();
            }
            "link" => symlink(content, path).unwrap(),
            name => fs::write(path, format!("{content} {name}")).unwrap(),
        }
    }
}

fn names(rules: &Rules, more: &[&str]) -> BTreeSet<String> {
    rules.sign.iter().chain(more).map(|name| (*name).to_owned()).collect()
}

/// One go at a swap.
#[derive(Debug, Clone)]
struct Go {
    to: Wanted,
    changes: usize,
    /// A server is started afterwards; where it starts, it makes a file and removes one.
    started: bool,
    discarded: bool,
}

fn goes() -> impl Strategy<Value = Vec<Go>> {
    let to = prop_oneof![Just(Wanted::Staged), Just(Wanted::Previous)];
    let go = (to, 0..60_usize, any::<bool>(), any::<bool>()).prop_map(|(to, changes, started, discarded)| Go { to, changes, started, discarded });
    prop::collection::vec(go, 0..8)
}

fn some_names() -> impl Strategy<Value = BTreeSet<String>> {
    let names = ["base", "pg_wal", ".hidden", "mysqld-auto.cnf", "ibdata1", "dump.rdb", "appendonlydir", "other.rdb", "shopdir", "link", "users.acl"];
    prop::collection::btree_set(prop::sample::select(names.to_vec()).prop_map(str::to_owned), 1..names.len())
}

proptest! {
    #[test]
    fn however_often_it_is_killed_a_server_meets_one_database_and_both_stay_whole(
        engine in 0..ENGINES.len(), at in prop_oneof![Just(""), Just("data"), Just("a/b/data")], exchanges in any::<bool>(),
        mut theirs in some_names(), mut staged in some_names(), goes in goes(), last in prop_oneof![Just(Wanted::Staged), Just(Wanted::Previous)],
    ) {
        let rules = ENGINES[engine];
        theirs.extend(names(&rules, &["visible"]));
        staged.extend(names(&rules, &["visible"]));
        if rules.sign.is_none() {
            // A restore has none: there will be a decoy.
            staged.remove("appendonlydir");
        }
        let volume = Volume::new(at, rules, exchanges, &theirs, &staged);
        let mut theirs = tree(&volume.data);
        let mut staged = tree(&volume.ours().join("staged"));
        for go in goes {
            match volume.swap(go.to, Some(go.changes)) {
                Ok(()) => prop_assert_eq!(tree(&volume.data), if go.to == Wanted::Staged { staged.clone() } else { theirs.clone() }),
                Err(error) => prop_assert!(error.to_string().starts_with(ENDED), "{}", error),
            }
            volume.check(&theirs, &staged);
            if go.started {
                let now = tree(&volume.data);
                let here = if now == theirs { Some(&mut theirs) } else if now == staged { Some(&mut staged) } else { None };
                let Some(here) = here else {
                    fs::write(volume.data.join(LITTER), "").unwrap();
                    continue;
                };
                if now.contains_key(Path::new("pg_wal")) {
                    fs::remove_file(volume.data.join("pg_wal")).unwrap();
                }
                let count = list(&volume.data).unwrap().len();
                fs::write(volume.data.join(format!("written-{count}")), "rows").unwrap();
                *here = tree(&volume.data);
            }
            if go.discarded && volume.discard().is_ok() {
                let now = tree(&volume.data);
                prop_assert!(now == theirs || now == staged, "{:?}", now);
                prop_assert!(!volume.ours().exists());
                return Ok(());
            }
        }
        volume.swap(last, None).unwrap();
        let (here, beside) = if last == Wanted::Staged { (&staged, &theirs) } else { (&theirs, &staged) };
        prop_assert_eq!(&tree(&volume.data), here);
        if rules.sign.is_none() && last == Wanted::Staged {
            // No server that does not know finds one of its files missing, or one of its own; but for what the other server has removed.
            let mut now = list(&volume.data).unwrap();
            now.insert("pg_wal".to_owned());
            prop_assert!(theirs.keys().all(|path| now.contains(path.iter().next().unwrap().to_str().unwrap())), "{:?}", now);
        }
        prop_assert_eq!(&tree(&volume.ours().join(last.other().home())), beside);
        // And again, which is what every start of the server's pod does.
        let before = fs::read(volume.ours().join("journal.json")).ok();
        volume.swap(last, Some(0)).unwrap();
        prop_assert_eq!(fs::read(volume.ours().join("journal.json")).ok(), before);
        volume.discard().unwrap();
        prop_assert_eq!(&tree(&volume.data), here);
        prop_assert!(!volume.ours().exists() && volume.root.path().join("lost+found").exists());
        prop_assert_eq!(volume.swap(Wanted::Staged, None).is_ok(), last == Wanted::Staged);
        prop_assert_eq!(volume.swap(Wanted::Previous, None).is_ok(), last == Wanted::Previous);
    }
}

fn plain(at: &str) -> Volume {
    let rules = ENGINES[0];
    Volume::new(at, rules, true, &names(&rules, &["base", "theirs"]), &names(&rules, &["base", "link"]))
}

#[test]
fn every_change_may_be_the_last_one() {
    for (at, exchanges) in [("", true), ("", false), ("data", true), ("data", false)] {
        for rules in ENGINES {
            for direction in [Wanted::Staged, Wanted::Previous] {
                for changes in 0.. {
                    let volume = Volume::new(
                        at,
                        rules,
                        exchanges,
                        &names(&rules, &["base", "other.rdb", "ibdata1", "appendonlydir"]),
                        &names(&rules, &["base", "mysqld-auto.cnf", "ibdata1"]),
                    );
                    let theirs = tree(&volume.data);
                    let staged = tree(&volume.ours().join("staged"));
                    if direction == Wanted::Previous {
                        volume.swap(Wanted::Staged, None).unwrap();
                    }
                    let done = volume.swap(direction, Some(changes)).is_ok();
                    volume.check(&theirs, &staged);
                    let kept = volume.discard();
                    if kept.is_ok() {
                        // Before the first change nothing has begun, and what is beside is a copy; after the last everything is over.
                        assert!(tree(&volume.data) == theirs || done || direction == Wanted::Previous, "{changes}");
                        assert!(tree(&volume.data) == theirs || tree(&volume.data) == staged);
                    } else {
                        volume.swap(direction.other(), None).unwrap();
                        volume.swap(direction, None).unwrap();
                        assert_eq!(tree(&volume.data), if direction == Wanted::Staged { staged } else { theirs }, "{at} {changes}");
                    }
                    if done {
                        assert!(changes > 3, "{changes}");
                        break;
                    }
                }
            }
        }
    }
}

#[test]
fn without_a_finished_restore_nothing_is_touched() {
    for at in ["", "data"] {
        let volume = plain(at);
        let before = tree(&volume.data);
        let refused = |volume: &Volume, to, said: &str| {
            let error = volume.swap(to, None).unwrap_err().to_string();
            assert!(error.contains(said) && error.contains("nothing was touched"), "{error}");
            assert_eq!(tree(&volume.data), before);
            assert!(!volume.ours().join("journal.json").exists());
        };
        fs::write(volume.ours().join("staged/understudy.restoring"), "").unwrap();
        refused(&volume, Wanted::Staged, "no finished restore");
        fs::remove_file(volume.ours().join("staged/understudy.restoring")).unwrap();
        volume.swap(Wanted::Previous, None).unwrap();
        assert_eq!(tree(&volume.data), before, "what was there is there");
        // That of another enabling.
        fs::write(volume.ours().join("staged/understudy.seed.json"), r#"{"backup": "other123-1", "replica": 1, "checksum": "abc"}"#).unwrap();
        refused(&volume, Wanted::Staged, "no finished restore");
        fs::remove_dir_all(volume.ours()).unwrap();
        refused(&volume, Wanted::Staged, "no finished restore");
    }
}

#[test]
fn previous_data_of_which_nothing_is_known_is_kept() {
    for at in ["", "data"] {
        let volume = plain(at);
        fs::create_dir(volume.ours().join("previous")).unwrap();
        fs::write(volume.ours().join("previous/PG_VERSION"), "17").unwrap();
        assert!(volume.swap(Wanted::Staged, None).unwrap_err().to_string().contains("holds data"));
        assert!(volume.discard().unwrap_err().to_string().contains("no swap is on record"));
        assert!(volume.ours().join("previous/PG_VERSION").exists());
    }
}

#[test]
fn an_empty_directory_is_no_database() {
    let volume = plain("data");
    fs::remove_dir_all(&volume.data).unwrap();
    for to in [Wanted::Staged, Wanted::Previous] {
        assert!(volume.swap(to, None).unwrap_err().to_string().contains("holds no database"), "{to:?}");
        fs::create_dir_all(&volume.data).unwrap();
    }
}

#[test]
fn what_a_copy_brings_along_of_another_volume_is_in_nobodys_way() {
    for (at, exchanges) in [("", true), ("data", true), ("data", false)] {
        let mut volume = plain(at);
        volume.exchanges = exchanges;
        let (theirs, before) = (tree(&volume.data), volume.ours().join("staged"));
        // Of a source that was a target once, at its mount point.
        for directory in [".understudy-aaaaaaaa/previous/base", "lost+found"] {
            fs::create_dir_all(before.join(directory)).unwrap();
        }
        let staged = tree(&before);
        for (to, wanted) in [(Wanted::Staged, &staged), (Wanted::Staged, &staged), (Wanted::Previous, &theirs), (Wanted::Staged, &staged)] {
            volume.swap(to, None).unwrap();
            volume.swap(to, None).unwrap();
            assert_eq!(&tree(&volume.data), wanted);
        }
        volume.discard().unwrap();
        assert!(!volume.ours().exists());
    }
}

#[test]
fn previous_data_is_discarded_with_the_restored_data_in_its_place_only() {
    for at in ["", "data"] {
        let volume = plain(at);
        volume.swap(Wanted::Staged, None).unwrap();
        let seed = volume.data.join("understudy.seed.json");
        let text = fs::read(&seed).unwrap();
        fs::remove_file(&seed).unwrap();
        assert!(volume.discard().unwrap_err().to_string().contains("is not in the data directory"));
        assert!(volume.swap(Wanted::Staged, None).is_err(), "what was brought there is not there any more");
        assert!(volume.ours().join("previous/theirs").exists());
        fs::write(&seed, text).unwrap();
        // Killed in the middle: nobody gets what is half deleted.
        let journal = volume.ours().join("journal.json");
        fs::write(&journal, fs::read_to_string(&journal).unwrap().replace("done", "discarding")).unwrap();
        fs::remove_file(volume.ours().join("previous/theirs")).unwrap();
        assert!(volume.swap(Wanted::Previous, None).unwrap_err().to_string().contains("being discarded"));
        volume.swap(Wanted::Staged, None).unwrap();
        volume.discard().unwrap();
        volume.discard().unwrap();
        assert!(!volume.ours().exists() && seed.exists());
    }
}

#[test]
fn what_somebody_else_did_in_between_is_not_taken_for_the_previous_data() {
    for at in ["", "data"] {
        for begun in [false, true] {
            let volume = plain(at);
            volume.swap(Wanted::Staged, None).unwrap();
            if begun {
                volume.swap(Wanted::Previous, Some(1)).unwrap_err();
            }
            for name in list(&volume.data).unwrap() {
                let path = volume.data.join(name);
                if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
            }
            let kept = tree(&volume.ours().join("previous"));
            for written in [false, true] {
                if written {
                    fs::write(volume.data.join("PG_VERSION"), "a new database").unwrap();
                }
                for to in [Wanted::Previous, Wanted::Staged] {
                    volume.swap(to, None).unwrap_err();
                }
                volume.discard().unwrap_err();
                assert_eq!(tree(&volume.ours().join("previous")), kept);
            }
        }
    }
}

#[test]
fn a_newer_restore_takes_the_place_of_an_older_one() {
    for at in ["", "data"] {
        let volume = plain(at);
        volume.swap(Wanted::Staged, None).unwrap();
        volume.discard().unwrap();
        fill(&volume.ours().join("staged"), "newer", &names(&volume.rules, &["base"]));
        let seed = volume.ours().join("staged/understudy.seed.json");
        fs::write(&seed, fs::read(volume.data.join("understudy.seed.json")).unwrap()).unwrap();
        let before = tree(&volume.data);
        volume.swap(Wanted::Staged, None).unwrap();
        assert_eq!(tree(&volume.data), before, "the same restore is there already");
        fs::write(&seed, r#"{"backup": "k3x9q2ab-2", "replica": 1, "checksum": "abc"}"#).unwrap();
        volume.swap(Wanted::Staged, None).unwrap();
        assert_eq!(fs::read_to_string(volume.data.join("PG_VERSION")).unwrap(), "newer PG_VERSION");
        assert_eq!(tree(&volume.ours().join("previous")), before);
    }
}

#[test]
fn the_directory_keeps_its_mode_and_links_are_not_followed() {
    for at in ["", "data"] {
        let volume = plain(at);
        fs::set_permissions(&volume.data, fs::Permissions::from_mode(0o750)).unwrap();
        volume.swap(Wanted::Staged, None).unwrap();
        assert_eq!(fs::metadata(&volume.data).unwrap().permissions().mode() & 0o7777, 0o750);
    }
    let volume = plain("data");
    let link = volume.root.path().join("link");
    symlink(&volume.data, &link).unwrap();
    assert!(Places::new(volume.root.path(), &link, &identity()).is_err());
    for outside in ["/elsewhere", "../data", "data"] {
        assert!(Places::new(volume.root.path(), Path::new(outside), &identity()).is_err(), "{outside}");
    }
    assert!(Places::new(&volume.data, &volume.data.join("../data"), &identity()).is_err());
}

#[test]
fn two_at_once_are_refused() {
    let volume = plain("");
    let _lock = super::Lock::new(&volume.ours()).unwrap();
    assert!(volume.swap(Wanted::Staged, None).unwrap_err().to_string().contains("somebody else is at work"));
    assert!(volume.discard().is_err());
}
