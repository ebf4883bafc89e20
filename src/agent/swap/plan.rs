//! What comes next in a swap, decided from what is on the disk. Pure.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Which data is to be in the data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "camelCase")]
pub enum Wanted {
    /// The restored backup.
    Staged,
    /// What was there before.
    Previous,
}

impl Wanted {
    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Staged => Self::Previous,
            Self::Previous => Self::Staged,
        }
    }

    /// The directory, below ours, of this data while it is not in the data directory.
    #[must_use]
    pub fn home(self) -> &'static str {
        match self {
            Self::Staged => "staged",
            Self::Previous => "previous",
        }
    }
}

/// What is found in the place of a whole data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// It does not exist.
    Nothing,
    /// The restored backup that the swap is about.
    Staged,
    /// Something else, which is then the previous data.
    Other,
}

/// The three places of a swap of whole directories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Directories {
    /// The data directory.
    pub data: Held,
    /// `staged`.
    pub staged: Held,
    /// `previous`.
    pub previous: Held,
}

/// One step of a swap of whole directories. Between any two of them the data directory holds one whole database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// The data directory and the directory of this name trade places, at once.
    Exchange(&'static str),
    /// The first directory gets the second name, which is free.
    Rename(&'static str, &'static str),
}

/// The next step of a swap of whole directories; none when it is done.
///
/// # Errors
/// If no swap leads to what was found.
pub fn plan_move(wanted: Wanted, found: Directories) -> Result<Option<Move>, String> {
    use Held::{Nothing, Other, Staged};
    let next = match (wanted, found.data, found.staged, found.previous) {
        (Wanted::Staged, Staged, Nothing, Other) | (Wanted::Previous, Other, Staged, Nothing) => None,
        (Wanted::Staged, Staged, Other, Nothing) => Some(Move::Rename("staged", "previous")),
        (Wanted::Previous, Other, Nothing, Staged) => Some(Move::Rename("previous", "staged")),
        (Wanted::Staged, Other, Staged, Nothing) | (Wanted::Previous, Staged, Other, Nothing) => Some(Move::Exchange("staged")),
        (Wanted::Staged, Other, Nothing, Staged) | (Wanted::Previous, Staged, Nothing, Other) => Some(Move::Exchange("previous")),
        _ => return Err(format!("no swap leads to what is here: {found:?}")),
    };
    Ok(next)
}

/// The names at the top of a data directory that a server looks at before it touches anything: with something else in their place it does not start.
#[derive(Debug, Clone, Copy)]
pub struct Keystones {
    /// In this order they go first, and in the reverse order they come last. While the first one is not in its place, no server has run.
    pub named: &'static [&'static str],
    /// Whatever else lies there is one, too: for a server that begins anew where its file is missing.
    pub every_name: bool,
}

/// What is found under a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// There is none.
    Nothing,
    /// What we put there, so that no server starts.
    Placeholder,
    /// A part of a database.
    File,
    /// A part of a database.
    Directory,
}

impl Found {
    /// A part of a database.
    pub fn is_data(self) -> bool {
        matches!(self, Self::File | Self::Directory)
    }
}

/// What is found under one name in the data directory and in the directory of either side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// In the data directory.
    pub data: Found,
    /// In `staged`.
    pub staged: Found,
    /// In `previous`.
    pub previous: Found,
}

impl Entry {
    fn home(self, of: Wanted) -> Found {
        match of {
            Wanted::Staged => self.staged,
            Wanted::Previous => self.previous,
        }
    }
}

/// A swap name by name.
#[derive(Debug)]
pub struct Names<'a> {
    /// The names of the restored backup.
    pub staged: &'a BTreeSet<String>,
    /// The names of the data that was there before.
    pub previous: &'a BTreeSet<String>,
    /// The engine's.
    pub keystones: Keystones,
    /// What is found under each of all these names.
    pub found: &'a BTreeMap<String, Entry>,
    /// What else lies in the data directory.
    pub unknown: &'a BTreeSet<String>,
}

/// One step of a swap name by name. In between, no server starts on the data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A placeholder gets a free name in the data directory.
    Hold(String),
    /// What has the name goes to its side's directory; with `held` a placeholder takes its place at once.
    Out {
        /// The name.
        name: String,
        /// The side.
        to: Wanted,
        /// It is a keystone.
        held: bool,
    },
    /// What its side's directory has under the name comes in, in the place of a placeholder or under a free name.
    In {
        /// The name.
        name: String,
        /// The side.
        from: Wanted,
    },
    /// A placeholder goes.
    Free(String),
    /// What belongs to neither side goes aside: a server that was started meanwhile and gave up may have left something.
    SetAside(String),
    /// Everything so far reaches the disk before the next step.
    Sync,
}

impl Names<'_> {
    fn of(&self, side: Wanted) -> &BTreeSet<String> {
        match side {
            Wanted::Staged => self.staged,
            Wanted::Previous => self.previous,
        }
    }

    fn entry(&self, name: &str) -> Entry {
        self.found.get(name).copied().unwrap_or(Entry { data: Found::Nothing, staged: Found::Nothing, previous: Found::Nothing })
    }

    /// The keystones in the order in which they go.
    fn order(&self) -> Vec<&str> {
        let named = self.keystones.named.iter().copied();
        let others = self.staged.union(self.previous).map(String::as_str).filter(|name| !self.keystones.named.contains(name));
        if self.keystones.every_name { named.chain(others).collect() } else { named.collect() }
    }

    /// A swap has been interrupted where no server can have run on the data directory; otherwise everything in it is of one side.
    #[must_use]
    pub fn is_between(&self) -> bool {
        let Some(first) = self.keystones.named.first() else { return false };
        let entry = self.entry(first);
        // The second is where a directory can't be exchanged for a placeholder at once; a restore never has one under such a name.
        entry.data == Found::Placeholder || entry.data == Found::Nothing && [entry.staged, entry.previous].contains(&Found::Directory)
    }

    /// What is left to do, in order; empty when the wanted side is in place, and nothing else.
    ///
    /// # Errors
    /// If a name that belongs to one side is not where it could be.
    pub fn plan(&self, wanted: Wanted) -> Result<Vec<Step>, String> {
        let other = wanted.other();
        let keystones = self.order();
        let is_keystone = |name: &str| keystones.contains(&name);
        let leaves = |name: &str| self.of(other).contains(name) && !self.entry(name).home(other).is_data();
        let comes = |name: &str| self.of(wanted).contains(name) && self.entry(name).home(wanted).is_data();
        // What has the name is of the wanted side.
        let stays = |name: &str| self.of(wanted).contains(name) && !comes(name);
        let outgoing: Vec<&str> = self.of(other).iter().map(String::as_str).filter(|name| leaves(name)).collect();
        for name in outgoing.iter().copied().chain(self.of(wanted).iter().map(String::as_str).filter(|name| stays(name))) {
            if !self.entry(name).data.is_data() {
                return Err(format!("{name} is neither in the data directory nor beside it"));
            }
        }
        let mut steps: Vec<Step> = self.unknown.iter().cloned().map(Step::SetAside).collect();
        // Of neither side, under a name that one of them has.
        let stray = |name: &str| self.entry(name).data.is_data() && !leaves(name) && !stays(name);
        let all: BTreeSet<&str> = self.staged.union(self.previous).map(String::as_str).chain(keystones.iter().copied()).collect();
        steps.extend(all.iter().filter(|name| stray(name)).map(|name| Step::SetAside((*name).to_owned())));
        let empty = |name: &str| self.entry(name).data == Found::Nothing || stray(name);

        if !outgoing.is_empty() {
            for name in keystones.iter().copied() {
                if leaves(name) {
                    steps.push(Step::Out { name: name.to_owned(), to: other, held: true });
                } else if empty(name) {
                    steps.push(Step::Hold(name.to_owned()));
                }
            }
            steps.push(Step::Sync);
            let rest = outgoing.iter().filter(|name| !is_keystone(name));
            steps.extend(rest.map(|name| Step::Out { name: (*name).to_owned(), to: other, held: false }));
            steps.push(Step::Sync);
        }
        let rest: Vec<Step> =
            self.of(wanted).iter().filter(|name| !is_keystone(name) && comes(name)).map(|name| Step::In { name: name.clone(), from: wanted }).collect();
        if !rest.is_empty() {
            steps.extend(rest);
            steps.push(Step::Sync);
        }
        let begins = steps.len();
        for name in keystones.iter().rev().copied() {
            let held = self.entry(name).data == Found::Placeholder || !outgoing.is_empty();
            if comes(name) {
                steps.push(Step::In { name: name.to_owned(), from: wanted });
            } else if held && !stays(name) {
                steps.push(Step::Free(name.to_owned()));
            }
        }
        if steps.len() > begins {
            steps.push(Step::Sync);
        }
        Ok(steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_directories_end_in_place_from_wherever_they_are() {
        use Held::{Nothing, Other, Staged};
        let mut reached = 0;
        for data in [Nothing, Staged, Other] {
            for staged in [Nothing, Staged, Other] {
                for previous in [Nothing, Staged, Other] {
                    for wanted in [Wanted::Staged, Wanted::Previous] {
                        let mut now = Directories { data, staged, previous };
                        let sound = [data, staged, previous].iter().filter(|held| **held == Staged).count() == 1
                            && [data, staged, previous].iter().filter(|held| **held == Other).count() == 1
                            && data != Nothing;
                        let mut steps = 0;
                        let end = loop {
                            match plan_move(wanted, now) {
                                Ok(Some(Move::Exchange("staged"))) => std::mem::swap(&mut now.data, &mut now.staged),
                                Ok(Some(Move::Exchange(_))) => std::mem::swap(&mut now.data, &mut now.previous),
                                Ok(Some(Move::Rename(..))) => std::mem::swap(&mut now.staged, &mut now.previous),
                                Ok(None) => break true,
                                Err(_) => break false,
                            }
                            assert_ne!(now.data, Nothing, "there is no moment without a database");
                            steps += 1;
                            assert!(steps <= 2, "{now:?}");
                        };
                        assert_eq!(end, sound, "{wanted:?} {data:?} {staged:?} {previous:?}");
                        if end {
                            reached += 1;
                            assert_eq!(now.data == Staged, wanted == Wanted::Staged);
                        }
                    }
                }
            }
        }
        assert_eq!(reached, 8);
    }

    #[test]
    fn keystones_go_first_and_come_last() {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let (staged, previous) = (set(&["PG_VERSION", "base", "new"]), set(&["PG_VERSION", "base", "old"]));
        let (file, none) = (Found::File, Found::Nothing);
        let found = BTreeMap::from([
            ("PG_VERSION".to_owned(), Entry { data: file, staged: file, previous: none }),
            ("base".to_owned(), Entry { data: Found::Directory, staged: Found::Directory, previous: none }),
            ("new".to_owned(), Entry { data: none, staged: file, previous: none }),
            ("old".to_owned(), Entry { data: file, staged: none, previous: none }),
        ]);
        let keystones = Keystones { named: &["PG_VERSION"], every_name: false };
        let names = Names { staged: &staged, previous: &previous, keystones, found: &found, unknown: &BTreeSet::new() };
        let steps = names.plan(Wanted::Staged).unwrap();
        assert_eq!(steps.first(), Some(&Step::Out { name: "PG_VERSION".into(), to: Wanted::Previous, held: true }));
        assert_eq!(steps.get(steps.len() - 2), Some(&Step::In { name: "PG_VERSION".into(), from: Wanted::Staged }));
        assert_eq!(names.plan(Wanted::Previous).unwrap(), [], "nothing has moved, and nothing has to");
        assert!(!names.is_between());
    }
}
