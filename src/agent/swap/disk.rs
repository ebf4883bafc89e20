//! The changes that a swap makes to the disk, each of them whole or not at all.

use rustix::fs::{Access, CWD, RenameFlags, access, renameat_with};
use rustix::io::Errno;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::plan::{Entry, Found, Keystones, Step, Wanted};
use super::{DIRECTORY, Places};
use crate::agent::AgentError;
use crate::agent::files::{sync_directory, write_durably};

/// Stands in a data directory under a name that a server looks at first: no version, no configuration, no snapshot, no data file.
pub const PLACEHOLDER: &str = "Understudy exchanges the database in this directory for another one, and was interrupted. Until it goes on, no server starts here.\n\
    Both databases are whole: this one, or what is missing of it, lies in the directory .understudy-… on the same volume.\n";
/// The file system's own.
const LOST_AND_FOUND: &str = "lost+found";

/// The disk, with a limit for tests: it is as if we were killed before the change that goes beyond it.
pub struct Disk<'a> {
    places: &'a Places,
    changes_left: Cell<Option<usize>>,
    exchanges: Cell<bool>,
}

impl<'a> Disk<'a> {
    pub fn new(places: &'a Places, limit: Option<usize>, exchanges: bool) -> Self {
        Self { places, changes_left: Cell::new(limit), exchanges: Cell::new(exchanges) }
    }

    /// Has to be asked before every change.
    pub fn change(&self) -> Result<(), AgentError> {
        let Some(left) = self.changes_left.get() else { return Ok(()) };
        let left = left.checked_sub(1).ok_or_else(|| AgentError::Refused("ended in the middle, as it was told".to_owned()))?;
        self.changes_left.set(Some(left));
        Ok(())
    }

    pub fn rename(&self, from: &Path, to: &Path) -> Result<(), AgentError> {
        self.change()?;
        fs::rename(from, to).map_err(AgentError::file("renaming", from))
    }

    /// Two names trade places at once; false where the file system can't do that.
    pub fn exchange(&self, one: &Path, other: &Path) -> Result<bool, AgentError> {
        if !self.exchanges.get() {
            return Ok(false);
        }
        self.change()?;
        match renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE) {
            Ok(()) => Ok(true),
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                self.exchanges.set(false);
                Ok(false)
            }
            Err(error) => Err(AgentError::file("exchanging", one)(error.into())),
        }
    }

    /// Whether the file system can exchange directories.
    pub fn can_exchange(&self) -> Result<bool, AgentError> {
        let probes = ["probe-1", "probe-2"].map(|name| self.places.ours.join(name));
        for probe in &probes {
            self.change()?;
            fs::create_dir_all(probe).map_err(AgentError::file("making", probe))?;
        }
        let [one, other] = &probes;
        let can = self.exchange(one, other)?;
        for probe in &probes {
            self.change()?;
            fs::remove_dir(probe).map_err(AgentError::file("removing", probe))?;
        }
        Ok(can)
    }

    /// Puts a placeholder where a file or nothing is.
    fn place(&self, path: &Path) -> Result<(), AgentError> {
        let ready = self.places.ours.join("placeholder");
        write_durably(&ready, 0o600, PLACEHOLDER.as_bytes())?;
        self.rename(&ready, path)
    }

    fn remove_placeholder(&self, path: &Path) -> Result<(), AgentError> {
        self.change()?;
        fs::remove_file(path).map_err(AgentError::file("removing", path))
    }

    fn out(&self, name: &str, to: Wanted, held: bool) -> Result<(), AgentError> {
        let (data, home) = (self.places.data.join(name), self.places.home(to).join(name));
        if found(&home, &data)? == Found::Placeholder && !held {
            self.remove_placeholder(&home)?;
        }
        if !held {
            return self.rename(&data, &home);
        }
        self.place(&home)?;
        if self.exchange(&data, &home)? {
            return Ok(());
        }
        self.remove_placeholder(&home)?;
        if data.is_dir() && !data.is_symlink() {
            self.rename(&data, &home)?;
        } else {
            // The file has two names for a moment, so that the first is never free.
            self.change()?;
            fs::hard_link(&data, &home).map_err(AgentError::file("linking", &data))?;
        }
        self.place(&data)
    }

    fn bring(&self, name: &str, from: Wanted) -> Result<(), AgentError> {
        let (data, home) = (self.places.data.join(name), self.places.home(from).join(name));
        if found(&data, &home)? == Found::Placeholder {
            // The placeholder goes to the other side, and is cleared away there.
            if self.exchange(&data, &home)? {
                return Ok(());
            }
            if home.is_dir() {
                self.remove_placeholder(&data)?;
            }
        }
        self.rename(&home, &data)
    }

    /// Moves something aside, under a name that is free there.
    fn set_aside(&self, name: &str) -> Result<(), AgentError> {
        let strays = self.places.ours.join("strays");
        fs::create_dir_all(&strays).map_err(AgentError::file("making", &strays))?;
        let data = self.places.data.join(name);
        tracing::warn!(path = %data.display(), "belongs to neither database and is set aside");
        let mut number = 1;
        let mut free = strays.join(name);
        while free.exists() || free.is_symlink() {
            number += 1;
            free = strays.join(format!("{name}.{number}"));
        }
        self.rename(&data, &free)
    }

    fn sync(&self) -> Result<(), AgentError> {
        for directory in [&self.places.data, &self.places.home(Wanted::Staged), &self.places.home(Wanted::Previous), &self.places.ours] {
            if directory.exists() {
                sync_directory(directory)?;
            }
        }
        Ok(())
    }

    pub fn execute(&self, step: &Step) -> Result<(), AgentError> {
        tracing::info!(?step, "swapping");
        match step {
            Step::Hold(name) => self.place(&self.places.data.join(name)),
            Step::Out { name, to, held } => self.out(name, *to, *held),
            Step::In { name, from } => self.bring(name, *from),
            Step::Free(name) => self.remove_placeholder(&self.places.data.join(name)),
            Step::SetAside(name) => self.set_aside(name),
            Step::Sync => self.sync(),
        }
    }

    /// Removes what is no data from the directories of both sides, and that of the side which is in the data directory once it is empty.
    pub fn tidy(&self, in_place: Wanted) -> Result<(), AgentError> {
        for side in [Wanted::Staged, Wanted::Previous] {
            let home = self.places.home(side);
            for name in list(&home)? {
                let path = home.join(&name);
                // A second name of what has stayed is none that anything else needs.
                if !found(&path, &self.places.data.join(&name))?.is_data() {
                    self.remove_placeholder(&path)?;
                }
            }
        }
        let home = self.places.home(in_place);
        if home.exists() && list(&home)?.is_empty() {
            self.change()?;
            match fs::remove_dir(&home) {
                // What is not listed came with the copy, and is deleted with our directory.
                Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty && in_place == Wanted::Staged => {}
                other => other.map_err(AgentError::file("removing", &home))?,
            }
        }
        self.sync()
    }
}

/// What has a name in a data directory of ours and beside it.
pub fn observe(places: &Places, names: &BTreeSet<String>, keystones: Keystones) -> Result<(BTreeMap<String, Entry>, BTreeSet<String>), AgentError> {
    let (staged, previous) = (places.home(Wanted::Staged), places.home(Wanted::Previous));
    let mut entries = BTreeMap::new();
    for name in names.iter().map(String::as_str).chain(keystones.named.iter().copied()) {
        let data = places.data.join(name);
        let entry = Entry { data: found(&data, &data)?, staged: found(&staged.join(name), &data)?, previous: found(&previous.join(name), &data)? };
        entries.insert(name.to_owned(), entry);
    }
    let unknown = list(&places.data)?.into_iter().filter(|name| !entries.contains_key(name)).collect();
    Ok((entries, unknown))
}

/// What is at a path. A second name of the file at `data` does not count: it has not left yet.
fn found(path: &Path, data: &Path) -> Result<Found, AgentError> {
    let looked = |path: &Path| match fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some).map_err(AgentError::file("looking at", path)),
    };
    let Some(metadata) = looked(path)? else { return Ok(Found::Nothing) };
    if metadata.is_dir() {
        return Ok(Found::Directory);
    }
    if path != data && looked(data)?.is_some_and(|data| (data.dev(), data.ino()) == (metadata.dev(), metadata.ino())) {
        return Ok(Found::Nothing);
    }
    Ok(if is_placeholder(path)? { Found::Placeholder } else { Found::File })
}

pub fn is_placeholder(path: &Path) -> Result<bool, AgentError> {
    let metadata = fs::symlink_metadata(path).map_err(AgentError::file("looking at", path))?;
    if !metadata.is_file() || usize::try_from(metadata.len()) != Ok(PLACEHOLDER.len()) {
        return Ok(false);
    }
    Ok(fs::read(path).map_err(AgentError::file("reading", path))? == PLACEHOLDER.as_bytes())
}

/// The names in a directory that are neither ours nor the file system's own; none where there is no directory.
///
/// # Errors
/// Also if a name is no UTF-8: then it could not be recorded.
pub fn list(directory: &Path) -> Result<BTreeSet<String>, AgentError> {
    let mut names = BTreeSet::new();
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(names),
        other => other.map_err(AgentError::file("reading", directory))?,
    };
    for entry in entries {
        let entry = entry.map_err(AgentError::file("reading", directory))?;
        if is_mount_point(&entry.path()) {
            continue;
        }
        let name = entry.file_name();
        let name = name.into_string().map_err(|name| AgentError::Refused(format!("the name {} in {} is no UTF-8", name.display(), directory.display())))?;
        if name != LOST_AND_FOUND && !name.starts_with(DIRECTORY) {
            names.insert(name);
        }
    }
    Ok(names)
}

/// Refuses what could not be moved into a directory: what lies on another file system, and directories of somebody else's, whose parent is recorded in them.
pub fn check_movable(directory: &Path, paths: impl Iterator<Item = PathBuf>) -> Result<(), AgentError> {
    let look = |path: &Path| fs::symlink_metadata(path).map_err(AgentError::file("looking at", path));
    let own = look(directory)?.dev();
    for path in paths {
        let found = look(&path)?;
        if found.dev() != own {
            return Err(AgentError::Refused(format!("{} lies on another file system: nothing was touched", path.display())));
        }
        if found.is_dir() && access(&path, Access::WRITE_OK).is_err() {
            return Err(AgentError::Refused(format!("{} is a directory that the server's user can't move: nothing was touched", path.display())));
        }
    }
    Ok(())
}

/// Where something else is mounted in a data directory, there is an empty directory of somebody else's on the volume itself.
fn is_mount_point(path: &Path) -> bool {
    let is_directory = fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
    is_directory && access(path, Access::WRITE_OK).is_err() && fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}
