//! The swap of a data directory: a restored backup takes the place of the data that a server has, on the same volume, while no server runs on it; and back.
//!
//! It may be killed anywhere, and is run again from the start. What a server meets that is started in between is one whole database, or something that it
//! refuses. docs/development/swap.md tells the layout and the order of the steps.

mod discard;
mod disk;
mod journal;
mod keep;
mod plan;
#[cfg(test)]
mod tests;

pub use discard::{Discard, discard};
pub use disk::list;
pub use keep::{Keep, keep};
pub use plan::{Keystones, Wanted};

use clap::Args;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::{AgentError, Common, Tools, seed};
use crate::engine::Identity;
use disk::{Disk, check_movable, observe};
use journal::{Journal, Layout, Lock, Phase};
use plan::{Directories, Held, Move, Names, Step, plan_move};

/// Our directory on a volume has this name, and the word of the enabling.
pub(super) const DIRECTORY: &str = ".understudy-";
/// A plan that is executed leaves nothing to do; more rounds than these mean that somebody else is at work in the directory.
const ROUNDS: u32 = 3;

/// Arguments of `swap`.
#[derive(Args, Debug, Clone)]
pub struct Swap {
    /// The engine.
    #[command(flatten)]
    pub common: Common,
    /// Where the volume is mounted.
    #[arg(long)]
    pub mount: PathBuf,
    /// The server's data directory on it.
    #[arg(long)]
    pub data_directory: PathBuf,
    /// The enabling.
    #[arg(long, value_parser = super::identity)]
    pub identity: Identity,
    /// Which data is to be there.
    #[arg(long)]
    pub to: Wanted,
    /// For tests: end before the change to the disk that goes beyond this number, as if killed.
    #[arg(long, hide = true)]
    pub changes: Option<usize>,
}

/// What the engine says of its files.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// See [`Tools::KEYSTONES`].
    pub keystones: Keystones,
    /// See [`Tools::SIGN`].
    pub sign: Option<&'static str>,
    /// See [`Tools::prepare_swap`].
    pub prepare: fn(&Path, &Path, &BTreeSet<String>) -> Result<(), AgentError>,
}

/// Where everything is.
#[derive(Debug)]
pub struct Places {
    /// The mount point.
    mount: PathBuf,
    /// The data directory.
    data: PathBuf,
    /// Our directory.
    ours: PathBuf,
}

impl Places {
    fn new(mount: &Path, data: &Path, identity: &Identity) -> Result<Self, AgentError> {
        let plain = |path: &Path| path.is_absolute() && path.components().all(|part| !matches!(part, std::path::Component::ParentDir));
        if !plain(data) || !plain(mount) || !data.starts_with(mount) {
            return Err(AgentError::Refused(format!("{} is no directory below {}", data.display(), mount.display())));
        }
        if fs::symlink_metadata(data).is_ok_and(|metadata| !metadata.is_dir()) {
            return Err(AgentError::Refused(format!("{} is no directory itself: links are not followed", data.display())));
        }
        Ok(Self { mount: mount.to_owned(), data: data.to_owned(), ours: directory(mount, identity) })
    }

    /// The directory of a side's data while it is not in the data directory.
    fn home(&self, side: Wanted) -> PathBuf {
        self.ours.join(side.home())
    }
}

/// Our directory on a volume: hidden, since some servers read every directory of their data directory, which may be the mount point.
#[must_use]
pub fn directory(mount: &Path, identity: &Identity) -> PathBuf {
    mount.join(format!("{DIRECTORY}{}", identity.word()))
}

/// Brings the wanted data into the data directory; where it is, nothing is touched. The server must not run.
///
/// # Errors
/// [`AgentError::Refused`] if the wanted data is not there; nothing was touched then. After any other error it is to be run again.
pub fn swap<E: Tools>(request: &Swap) -> Result<(), AgentError> {
    if !E::SEEDS {
        return Err(AgentError::Refused(format!("{} copies everything by itself: its data directory is not swapped", E::NAME)));
    }
    let rules = Rules { keystones: E::KEYSTONES, sign: E::SIGN, prepare: E::prepare_swap };
    bring(&Places::new(&request.mount, &request.data_directory, &request.identity)?, rules, request, true)?;
    if request.to == Wanted::Staged {
        seed::guard(&request.data_directory)?;
        E::guard(&request.data_directory, seed::is_released(&request.data_directory))?;
    }
    Ok(())
}

/// A restore is staged for a swap that is to come, not beside the data of one that is on record.
///
/// # Errors
/// [`AgentError::Refused`] where one is.
pub(super) fn refuse_during_swap(staged: &Path) -> Result<(), AgentError> {
    let ours = staged.parent().unwrap_or(staged);
    if Journal::read(ours)?.is_some() {
        return Err(AgentError::Refused(format!("{} has the record of another swap, and is to be discarded first: nothing was touched", ours.display())));
    }
    Ok(())
}

/// What is to be done about a swap.
enum Start {
    /// The wanted data is in place.
    Done,
    /// A swap begins.
    Begin,
    /// One was begun.
    Resume(Journal),
}

fn bring(places: &Places, rules: Rules, request: &Swap, exchanges: bool) -> Result<(), AgentError> {
    // Without the lock: a discard that takes long is no reason for a server not to start.
    if matches!(start(places, rules, request)?, Start::Done) {
        return Ok(());
    }
    let _lock = Lock::new(&places.ours)?;
    let disk = Disk::new(places, request.changes, exchanges);
    let journal = match start(places, rules, request)? {
        Start::Done => return Ok(()),
        Start::Begin => begin(places, rules, &disk)?,
        Start::Resume(journal) => journal,
    };
    tracing::info!(wanted = ?request.to, layout = ?journal.layout, "swapping the data directory");
    match journal.layout {
        Layout::Whole => swap_whole(places, &disk, journal, rules, request.to),
        Layout::Names => swap_names(places, &disk, journal, rules, request.to),
    }
}

/// Decides from the journal and what is in the data directory. Changes nothing.
fn start(places: &Places, rules: Rules, request: &Swap) -> Result<Start, AgentError> {
    let data = places.data.display();
    let refuse = |why: String| Err(AgentError::Refused(format!("{why}: nothing was touched")));
    let here = seed::finished(&places.data);
    let ours = here.as_ref().filter(|seed| seed.is_of(&request.identity));
    let Some(journal) = Journal::read(&places.ours)? else {
        let staged = seed::finished(&places.home(Wanted::Staged)).filter(|seed| seed.is_of(&request.identity));
        return match (request.to, ours, staged) {
            (Wanted::Staged, Some(here), staged) if staged.as_ref().is_none_or(|staged| staged == here) => Ok(Start::Done),
            (Wanted::Staged, _, Some(_)) => Ok(Start::Begin),
            (Wanted::Staged, _, None) => refuse(format!("no finished restore is staged for {data}")),
            (Wanted::Previous, Some(_), _) => refuse(format!("{data} holds the restored data, and the previous data is not on the volume any more")),
            (Wanted::Previous, None, _) if holds_database(places, rules)? => Ok(Start::Done),
            (Wanted::Previous, None, _) => refuse(format!("{data} holds no database, and none is kept beside it")),
        };
    };
    if journal.data_directory != places.data {
        return refuse(format!("the swap on this volume is that of {}, not of {data}", journal.data_directory.display()));
    }
    match journal.phase {
        Phase::Done | Phase::Discarding if journal.to == request.to => match request.to {
            Wanted::Staged if here.as_ref() == Some(&journal.seed) => Ok(Start::Done),
            Wanted::Previous if here.as_ref() != Some(&journal.seed) && holds_database(places, rules)? => Ok(Start::Done),
            _ => refuse(format!("{data} does not hold what the finished swap has brought there")),
        },
        Phase::Discarding => refuse("what is asked for is being discarded".to_owned()),
        Phase::Begun | Phase::Done => Ok(Start::Resume(journal)),
    }
}

/// Whether a database is in the data directory, as far as can be told without its server.
fn holds_database(places: &Places, rules: Rules) -> Result<bool, AgentError> {
    Ok(match rules.sign {
        Some(sign) => places.data.join(sign).exists(),
        None => places.data.is_dir() && list(&places.data)?.iter().all(|name| !disk::is_placeholder(&places.data.join(name)).unwrap_or(true)),
    })
}

/// What in a data directory could not change places with a copy, in words. Its server works there meanwhile.
#[must_use]
pub fn unmovable(mount: &Path, data: &Path) -> Option<String> {
    let stays = |path: &PathBuf| fs::symlink_metadata(path).is_ok();
    let movable = list(data).and_then(|names| check_movable(mount, names.iter().map(|name| data.join(name)).filter(stays).chain([data.to_owned()])));
    movable.err().map(|error| error.to_string())
}

/// Records that a swap begins, once everything is there that it needs.
fn begin(places: &Places, rules: Rules, disk: &Disk<'_>) -> Result<Journal, AgentError> {
    let refuse = |why: String| AgentError::Refused(format!("{why}: nothing was touched"));
    let (staged, previous) = (places.home(Wanted::Staged), places.home(Wanted::Previous));
    let seed = seed::finished(&staged).ok_or_else(|| refuse("the restore is not finished".to_owned()))?;
    if !list(&previous)?.is_empty() {
        return Err(refuse(format!("{} holds data, and nobody knows what became of it", previous.display())));
    }
    if !holds_database(places, rules)? {
        return Err(refuse(format!("{} holds no database that could be kept", places.data.display())));
    }
    let names = list(&places.data)?;
    check_movable(&staged, names.iter().map(|name| places.data.join(name)).chain([places.data.clone()]))?;
    let layout = if places.data != places.mount && disk.can_exchange()? { Layout::Whole } else { Layout::Names };
    if layout == Layout::Whole {
        disk.change()?;
        if previous.exists() {
            fs::remove_dir(&previous).map_err(AgentError::file("removing", &previous))?;
        }
        // The directory of the data is another one afterwards, and is to look the same.
        let mode = fs::metadata(&places.data).map_err(AgentError::file("looking at", &places.data))?.permissions();
        fs::set_permissions(&staged, mode).map_err(AgentError::file("setting the mode of", &staged))?;
    }
    let (to, phase, data_directory) = (Wanted::Staged, Phase::Begun, places.data.clone());
    record(places, rules, disk, Journal { to, phase, layout, seed, data_directory, staged: BTreeSet::new(), previous: BTreeSet::new() })
}

/// Writes the journal of a swap on which nothing has been moved, with the names that there are now.
fn record(places: &Places, rules: Rules, disk: &Disk<'_>, mut journal: Journal) -> Result<Journal, AgentError> {
    if journal.to == Wanted::Staged {
        disk.change()?;
        (rules.prepare)(&places.home(Wanted::Staged), &places.data, &list(&places.data)?)?;
    }
    if journal.layout == Layout::Names {
        let now = |side: Wanted| list(&if journal.to == side { places.home(side) } else { places.data.clone() });
        (journal.staged, journal.previous) = (now(Wanted::Staged)?, now(Wanted::Previous)?);
        for side in [Wanted::Staged, Wanted::Previous] {
            let home = places.home(side);
            fs::create_dir_all(&home).map_err(AgentError::file("making", &home))?;
        }
        if let Some(sign) = rules.sign.filter(|sign| !journal.staged.contains(*sign) || !journal.previous.contains(*sign)) {
            return Err(AgentError::Refused(format!("there are no two databases to swap, one of them lacks {sign}: nothing was touched")));
        }
    }
    disk.change()?;
    journal.write(&places.ours)?;
    Ok(journal)
}

/// The swap of whole directories: at once, so that there is no moment without a database.
fn swap_whole(places: &Places, disk: &Disk<'_>, journal: Journal, rules: Rules, wanted: Wanted) -> Result<(), AgentError> {
    let held = |path: &Path| match seed::finished(path) {
        Some(seed) if seed == journal.seed => Held::Staged,
        _ if path.exists() => Held::Other,
        _ => Held::Nothing,
    };
    let path = |name: &str| places.ours.join(name);
    let observe = || Directories { data: held(&places.data), staged: held(&path("staged")), previous: held(&path("previous")) };
    // What can't be done is found before the journal says that it is being done.
    plan_move(wanted, observe()).map_err(AgentError::Refused)?;
    if (journal.to, journal.phase) != (wanted, Phase::Begun) {
        disk.change()?;
        (Journal { to: wanted, phase: Phase::Begun, ..journal.clone() }).write(&places.ours)?;
    }
    while let Some(next) = plan_move(wanted, observe()).map_err(AgentError::Refused)? {
        tracing::info!(?next, "swapping");
        match next {
            Move::Exchange(name) => {
                if wanted == Wanted::Staged {
                    // A server may have written other files since the swap was begun.
                    disk.change()?;
                    (rules.prepare)(&path(name), &places.data, &list(&places.data)?)?;
                }
                if !disk.exchange(&places.data, &path(name))? {
                    return Err(AgentError::Refused("the file system can't exchange directories any more".to_owned()));
                }
                places.data.parent().map_or(Ok(()), super::sync_directory)?;
            }
            Move::Rename(from, to) => disk.rename(&path(from), &path(to))?,
        }
        super::sync_directory(&places.ours)?;
    }
    finish(places, disk, journal, rules, wanted)
}

/// Records that the wanted data is in its place.
fn finish(places: &Places, disk: &Disk<'_>, journal: Journal, rules: Rules, wanted: Wanted) -> Result<(), AgentError> {
    if !holds_database(places, rules)? {
        return Err(AgentError::Refused(format!("{} holds no database any more", places.data.display())));
    }
    disk.change()?;
    (Journal { to: wanted, phase: Phase::Done, ..journal }).write(&places.ours)
}

/// The swap name by name, for a mount point, which can't be renamed, and for file systems that can't exchange directories.
fn swap_names(places: &Places, disk: &Disk<'_>, mut journal: Journal, rules: Rules, wanted: Wanted) -> Result<(), AgentError> {
    for _ in 0..=ROUNDS {
        let left = if journal.phase == Phase::Begun { left_to_do(places, &journal, rules, wanted)? } else { Vec::new() };
        if left.is_empty() {
            // A server may have run since: what is in the directory now is all of one side.
            let here = if seed::finished(&places.data).as_ref() == Some(&journal.seed) { Wanted::Staged } else { Wanted::Previous };
            disk.tidy(here)?;
            let home = places.home(here);
            if !list(&home)?.is_empty() && (here, wanted) != (Wanted::Staged, Wanted::Staged) {
                return Err(AgentError::Refused(format!("{} holds data, and so does the data directory: nothing was touched", home.display())));
            }
            if here == wanted {
                return finish(places, disk, journal, rules, wanted);
            }
            journal = record(places, rules, disk, Journal { to: wanted, phase: Phase::Begun, ..journal })?;
            for step in plan(places, &journal, rules, wanted)? {
                disk.execute(&step)?;
            }
            continue;
        }
        if journal.to != wanted {
            disk.change()?;
            journal.to = wanted;
            journal.write(&places.ours)?;
        }
        for step in left {
            disk.execute(&step)?;
        }
    }
    Err(AgentError::Refused(format!("{} does not stay as it is left: does a server run on it?", places.data.display())))
}

/// What is left to do by the names in the journal, where a swap was interrupted and no server can have run since; otherwise nothing.
fn left_to_do(places: &Places, journal: &Journal, rules: Rules, wanted: Wanted) -> Result<Vec<Step>, AgentError> {
    observed(places, journal, rules, |names| if names.is_between() { names.plan(wanted) } else { Ok(Vec::new()) })
}

fn plan(places: &Places, journal: &Journal, rules: Rules, wanted: Wanted) -> Result<Vec<Step>, AgentError> {
    observed(places, journal, rules, |names| names.plan(wanted))
}

fn observed<T>(places: &Places, journal: &Journal, rules: Rules, decide: impl Fn(&Names<'_>) -> Result<T, String>) -> Result<T, AgentError> {
    let all = journal.staged.union(&journal.previous).cloned().collect();
    let (found, unknown) = observe(places, &all, rules.keystones)?;
    let names = Names { staged: &journal.staged, previous: &journal.previous, keystones: rules.keystones, found: &found, unknown: &unknown };
    decide(&names).map_err(AgentError::Refused)
}
