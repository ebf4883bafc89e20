//! The names under which a target's own server looks for its data. While it is a replica something lies there that the server refuses; once it is released, the
//! replica's snapshot, wherever it is written.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::agent::{STAGED_SNAPSHOT, quoted};
use super::{Redis, rdb};
use crate::agent::swap::list;
use crate::agent::{AgentError, Tools, remove, sync_directory, write_durably};

/// No snapshot, no directory of append-only files, no list of users: a server that finds this refuses to start.
const DECOY: &str = "This directory is a replica's, made by Understudy: its data is in understudy.rdb, and its server is to include understudy.conf.\n";
/// Where [`Names`] are kept.
const NAMES: &str = "understudy.names.json";
/// What is being made, before it has its name.
const PARTIAL: &str = "understudy.partial";
/// What all files of ours begin with.
const OURS: &str = "understudy.";
/// What the name of a list of append-only files ends in.
const MANIFEST: &str = ".manifest";
/// The name of the snapshot where the settings give none.
const DEFAULT: &str = "dump.rdb";

/// What the target's own server had.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Names {
    /// Names of snapshots: one, unless the setting was changed.
    snapshots: BTreeSet<String>,
    /// Directories of append-only files, with what the names of these begin with.
    append_only: BTreeMap<String, String>,
}

impl Names {
    fn of(data: &Path, names: &BTreeSet<String>) -> Result<Self, AgentError> {
        let mut found = Self::default();
        for name in names {
            let path = data.join(name);
            if path.is_dir() {
                let files = fs::read_dir(&path).map_err(AgentError::file("reading", &path))?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
                found.append_only.extend(files.filter_map(|file| Some((name.clone(), file.strip_suffix(MANIFEST)?.to_owned()))));
            // What a killed server has left of a snapshot that it did not finish is called temp-….
            } else if !name.starts_with("temp-") && path.is_file() && is_snapshot(&path)? {
                found.snapshots.insert(name.clone());
            }
        }
        if found == Self::default() {
            found.snapshots.insert(DEFAULT.to_owned());
        }
        Ok(found)
    }

    /// None where they have been cleared away.
    fn read(data: &Path) -> Result<Option<Self>, AgentError> {
        let path = data.join(NAMES);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(AgentError::file("reading", &path))?,
        };
        serde_json::from_slice(&text).map(Some).map_err(|error| AgentError::Refused(format!("{}: {error}", path.display())))
    }
}

fn is_snapshot(path: &Path) -> Result<bool, AgentError> {
    let mut begin = Vec::new();
    match fs::File::open(path).and_then(|file| file.take(5).read_to_end(&mut begin)) {
        // What we may not read, the server may not either.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Ok(false),
        other => other.map(|_| begin == b"REDIS").map_err(AgentError::file("reading", path)),
    }
}

/// See [`Tools::is_empty`]: no snapshot with anything in it, and no append-only file.
pub fn is_empty(data: &Path) -> Result<bool, AgentError> {
    let nothing = |path: &Path| {
        let length = || path.metadata().map(|metadata| metadata.len());
        if is_snapshot(path)? { rdb::is_empty(path) } else { length().map(|length| length == 0) }.map_err(AgentError::file("reading", path))
    };
    for name in list(data)? {
        let path = data.join(&name);
        let empty = if path.is_dir() {
            let files = list(&path)?;
            let append_only = files.iter().any(|file| file.ends_with(MANIFEST));
            let mut holding = files.iter().filter(|file| append_only && !file.ends_with(MANIFEST)).map(|file| nothing(&path.join(file)));
            holding.try_fold(true, |empty, next| next.map(|next| empty && next))?
        } else {
            // One file of them all, before 7.0; what a killed server has left of one that it did not finish is called temp-….
            let holds = path.extension().is_some_and(|extension| extension == "aof") || is_snapshot(&path)?;
            name.starts_with("temp-") || !holds || nothing(&path)?
        };
        if !empty {
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_decoy(path: &Path) -> bool {
    let size = fs::symlink_metadata(path).ok().filter(fs::Metadata::is_file).map(|metadata| metadata.len());
    size.and_then(|size| usize::try_from(size).ok()) == Some(DECOY.len()) && fs::read(path).is_ok_and(|text| text == DECOY.as_bytes())
}

/// See [`Tools::prepare_swap`]: nothing in the data directory can tell a server without our configuration that it is a replica.
pub fn keep(staged: &Path, data: &Path, names: &BTreeSet<String>) -> Result<(), AgentError> {
    let own: BTreeSet<String> = names.iter().filter(|name| !name.starts_with(OURS)).cloned().collect();
    for name in own.iter().map(String::as_str).chain(Redis::KEYSTONES.named.iter().copied()) {
        let path = staged.join(name);
        if !path.exists() {
            write_durably(&path, 0o600, DECOY.as_bytes())?;
        }
    }
    let text = serde_json::to_vec(&Names::of(data, &own)?).map_err(|error| AgentError::Refused(error.to_string()))?;
    write_durably(&staged.join(NAMES), 0o600, &text)
}

/// Lets the target's own server find what the replica saves last: under the names that it looks for there are links. What it writes itself takes their place.
pub fn give(data: &Path) -> Result<(), AgentError> {
    let snapshot = data.join(STAGED_SNAPSHOT);
    let (Some(names), true) = (Names::read(data)?, snapshot.is_file()) else {
        return Err(AgentError::Refused(format!(
            "{} or {} is not there, by which a server would find its data",
            snapshot.display(),
            data.join(NAMES).display()
        )));
    };
    let partial = data.join(PARTIAL);
    for path in names.snapshots.iter().map(|name| data.join(name)).filter(|path| is_decoy(path)) {
        remove(&partial)?;
        symlink(STAGED_SNAPSHOT, &partial).and_then(|()| fs::rename(&partial, &path)).map_err(AgentError::file("linking", &path))?;
    }
    for (directory, file) in &names.append_only {
        let path = data.join(directory);
        if path.is_dir() {
            continue;
        }
        let base = base(file);
        let made = || {
            if partial.is_dir() {
                fs::remove_dir_all(&partial)?;
            }
            fs::create_dir(&partial)?;
            symlink(Path::new("..").join(STAGED_SNAPSHOT), partial.join(&base))
        };
        made().map_err(AgentError::file("making", &partial))?;
        let manifest = format!("file {} seq 1 type b\n", quoted(&base));
        write_durably(&partial.join(format!("{file}{MANIFEST}")), 0o600, manifest.as_bytes())?;
        remove(&path)?;
        fs::rename(&partial, &path).map_err(AgentError::file("renaming", &partial))?;
    }
    for entry in fs::read_dir(data).map_err(AgentError::file("reading", data))? {
        let path = entry.map_err(AgentError::file("reading", data))?.path();
        if is_decoy(&path) {
            remove(&path)?;
        }
    }
    sync_directory(data)
}

/// The first file of a set of append-only files: a snapshot.
fn base(file: &str) -> String {
    format!("{file}.1.base.rdb")
}

/// Has the links be the files that they mean, so that the replica's names can go. The server runs, and may write other files in their place at any moment.
pub fn clear(data: &Path) -> Result<(), AgentError> {
    if let Some(names) = Names::read(data)? {
        let snapshot = data.join(STAGED_SNAPSHOT);
        for path in names.snapshots.iter().map(|name| data.join(name)) {
            replace_link(&snapshot, &path)?;
        }
        for (directory, file) in &names.append_only {
            let base = base(file);
            let (path, manifest) = (data.join(directory).join(&base), data.join(directory).join(format!("{file}.manifest")));
            if !path.exists() {
                continue;
            }
            replace_link(&snapshot, &path)?;
            let listed = fs::read_to_string(&manifest).map_err(AgentError::file("reading", &manifest))?;
            if !listed.contains(&base) {
                // The server has got another one meanwhile.
                remove(&path)?;
            }
            sync_directory(&data.join(directory))?;
        }
    }
    sync_directory(data)?;
    remove(&data.join(STAGED_SNAPSHOT))?;
    remove(&data.join(NAMES))
}

/// Has a link be a further name of the file that it means.
fn replace_link(file: &Path, link: &Path) -> Result<(), AgentError> {
    let partial = link.with_file_name(PARTIAL);
    if !link.is_symlink() {
        return remove(&partial);
    }
    remove(&partial)?;
    fs::hard_link(file, &partial).map_err(AgentError::file("linking", file))?;
    match renameat_with(CWD, &partial, CWD, link, RenameFlags::EXCHANGE) {
        Ok(()) => {}
        // A file system that can't exchange.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => return fs::rename(&partial, link).map_err(AgentError::file("renaming", &partial)),
        Err(error) => return Err(AgentError::file("exchanging", link)(error.into())),
    }
    // What came out is the link, or what the server has written in that moment: the newer one counts.
    let written = |path: &Path| fs::symlink_metadata(path).and_then(|found| found.modified()).map_err(AgentError::file("looking at", path));
    while !partial.is_symlink() && written(&partial)? > written(link)? {
        renameat_with(CWD, &partial, CWD, link, RenameFlags::EXCHANGE).map_err(|error| AgentError::file("exchanging", link)(error.into()))?;
    }
    remove(&partial)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A target's own directory, and a restore that was prepared to take its place.
    fn prepared(own: &[(&str, &str)]) -> (tempfile::TempDir, Names) {
        let root = tempfile::tempdir().unwrap();
        let (data, staged) = (root.path().join("own"), root.path().join("staged"));
        fs::create_dir(&staged).unwrap();
        for (name, text) in own {
            let path = data.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        fs::write(staged.join(STAGED_SNAPSHOT), "REDIS new").unwrap();
        let names = fs::read_dir(&data).map(|entries| entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()).unwrap_or_default();
        keep(&staged, &data, &names).unwrap();
        let names = Names::read(&staged).unwrap().unwrap();
        (root, names)
    }

    fn names(snapshots: &[&str], append_only: &[(&str, &str)]) -> Names {
        let owned = |(directory, file): &(&str, &str)| ((*directory).to_owned(), (*file).to_owned());
        Names { snapshots: snapshots.iter().map(|&name| name.to_owned()).collect(), append_only: append_only.iter().map(owned).collect() }
    }

    #[test]
    fn what_the_targets_own_server_had_is_noted_and_refused_until_it_is_released() {
        let own = [("other.rdb", "REDIS"), ("temp-7.rdb", "REDIS"), ("notes", "text"), ("understudy.seed.json", "{}"), ("aof/a b.aof.manifest", "")];
        let (root, found) = prepared(&own);
        let staged = root.path().join("staged");
        assert_eq!(found, names(&["other.rdb"], &[("aof", "a b.aof")]));
        for name in ["other.rdb", "temp-7.rdb", "notes", "aof", "dump.rdb", "appendonlydir"] {
            assert!(is_decoy(&staged.join(name)), "{name}");
        }
        assert!(!staged.join("understudy.seed.json").exists());
        for _ in 0..2 {
            give(&staged).unwrap();
            assert_eq!(fs::read_to_string(staged.join("other.rdb")).unwrap(), "REDIS new");
            assert_eq!(fs::read_to_string(staged.join("aof/a b.aof.1.base.rdb")).unwrap(), "REDIS new");
            assert_eq!(fs::read_to_string(staged.join("aof/a b.aof.manifest")).unwrap(), "file \"a b.aof.1.base.rdb\" seq 1 type b\n");
            for name in ["temp-7.rdb", "notes", "dump.rdb", "appendonlydir"] {
                assert!(!staged.join(name).exists(), "{name}");
            }
        }
        for _ in 0..2 {
            clear(&staged).unwrap();
            for name in ["other.rdb", "aof/a b.aof.1.base.rdb"] {
                let path = staged.join(name);
                assert!(!path.is_symlink() && fs::read_to_string(&path).unwrap() == "REDIS new", "{name}");
            }
            assert!(!staged.join(STAGED_SNAPSHOT).exists() && !staged.join(NAMES).exists() && !staged.join(PARTIAL).exists());
        }
    }

    #[test]
    fn a_server_that_had_saved_nothing_finds_the_data_under_the_default_name() {
        let (root, found) = prepared(&[]);
        assert_eq!(found, names(&["dump.rdb"], &[]));
        let staged = root.path().join("staged");
        give(&staged).unwrap();
        assert_eq!(fs::read_link(staged.join("dump.rdb")).unwrap(), Path::new(STAGED_SNAPSHOT));
    }

    #[test]
    fn what_the_server_has_written_since_stays() {
        let (root, _) = prepared(&[("dump.rdb", "REDIS"), ("aof/a.manifest", "")]);
        let staged = root.path().join("staged");
        give(&staged).unwrap();
        fs::write(staged.join("temp"), "REDIS newer").unwrap();
        fs::rename(staged.join("temp"), staged.join("dump.rdb")).unwrap();
        fs::write(staged.join("aof/a.manifest"), "file a.2.base.rdb seq 2 type b\n").unwrap();
        clear(&staged).unwrap();
        assert_eq!(fs::read_to_string(staged.join("dump.rdb")).unwrap(), "REDIS newer");
        assert!(!staged.join("aof/a.1.base.rdb").exists());
    }

    #[test]
    fn without_the_data_nothing_is_linked() {
        let (root, _) = prepared(&[]);
        let staged = root.path().join("staged");
        fs::remove_file(staged.join(STAGED_SNAPSHOT)).unwrap();
        assert!(give(&staged).is_err());
        assert!(is_decoy(&staged.join("dump.rdb")));
    }
}
