//! A list of everything in a directory with its SHA-256, and the comparison with it.

use rustix::fs::{Advice, fadvise};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{AgentError, checksum};

/// A list beside the data of a backup: its own SHA-256 is the backup's.
pub const FILES: &str = "files.sha256";
/// The file system's own.
pub const LOST_AND_FOUND: &str = "lost+found";
/// In the place of a size.
const LINK: &str = "link";

/// SHA-256 and size of a file.
fn digest(path: &Path) -> Result<(String, u64), AgentError> {
    let mut file = File::open(path).map_err(AgentError::file("reading", path))?;
    let (mut hash, mut size) = (Sha256::new(), 0);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer).map_err(AgentError::file("reading", path))?;
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
        hash.update(bytes);
        size += u64::try_from(read).unwrap_or(u64::MAX);
    }
    Ok((hex::encode(hash.finalize()), size))
}

/// Everything below a directory, by its path in it, sorted: files, directories, and links, which are not followed.
fn walk(directory: &Path) -> Result<Vec<PathBuf>, AgentError> {
    let (mut found, mut left) = (Vec::new(), vec![directory.to_owned()]);
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(&next).map_err(AgentError::file("reading", &next))? {
            let entry = entry.map_err(AgentError::file("reading", &next))?;
            let (path, kind) = (entry.path(), entry.file_type().map_err(AgentError::file("reading", &entry.path()))?);
            if next == directory && entry.file_name() == LOST_AND_FOUND {
                continue;
            }
            if kind.is_dir() {
                left.push(path.clone());
            }
            if let Ok(inside) = path.strip_prefix(directory)
                && (kind.is_dir() || kind.is_file() || kind.is_symlink())
            {
                found.push(inside.to_owned());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The line of a list: SHA-256, size and path of a file; of a link the SHA-256 is that of where it points to.
fn line(directory: &Path, inside: &Path) -> Result<String, AgentError> {
    let path = directory.join(inside);
    let Some(name) = inside.to_str().filter(|name| !name.contains(char::is_control)) else {
        return Err(AgentError::Refused(format!("the name {} can't stand in a list: it is no plain text", path.display())));
    };
    let kind = fs::symlink_metadata(&path).map_err(AgentError::file("reading", &path))?.file_type();
    if kind.is_dir() {
        return Ok(format!("- directory {name}"));
    }
    if kind.is_symlink() {
        let target = fs::read_link(&path).map_err(AgentError::file("reading", &path))?;
        return Ok(format!("{} {LINK} {name}", checksum(target.as_os_str().as_bytes())));
    }
    let (hash, size) = digest(&path)?;
    Ok(format!("{hash} {size} {name}"))
}

/// The path in a line of a list.
fn name(line: &str) -> Option<&str> {
    line.splitn(3, ' ').nth(2)
}

/// A line for everything in a directory but sockets and pipes, which hold nothing.
///
/// # Errors
/// If something can't be read, or has a name that is no plain text.
pub fn list_files(directory: &Path) -> Result<String, AgentError> {
    let mut list = String::new();
    for path in walk(directory)? {
        let _ = writeln!(list, "{}", line(directory, &path)?);
    }
    Ok(list)
}

/// Compares what is in a directory with its list; other files in it are not looked at.
///
/// # Errors
/// [`AgentError::Refused`] for the first that is another one.
pub fn check_files(directory: &Path, list: &str) -> Result<(), AgentError> {
    for expected in list.lines() {
        let Some(name) = name(expected) else {
            return Err(AgentError::Refused(format!("a line of the list of files is none: {expected}")));
        };
        if line(directory, Path::new(name))? != expected {
            return Err(AgentError::Refused(format!("{} is not what was verified when the backup was taken", directory.join(name).display())));
        }
    }
    Ok(())
}

/// The path of something that is not the same in two lists, or is missing in one.
pub fn difference<'a>(one: &'a str, other: &'a str) -> Option<&'a str> {
    let differs = one.lines().zip(other.lines()).find(|(one, other)| one != other).map(|(one, _)| one);
    let longer = || if one.len() > other.len() { one.lines().nth(other.lines().count()) } else { other.lines().nth(one.lines().count()) };
    differs.or_else(longer).and_then(name)
}

/// The links in a list.
pub fn links(list: &str) -> impl Iterator<Item = &str> {
    list.lines().filter(|line| line.split(' ').nth(1) == Some(LINK)).filter_map(name)
}

/// Has the system forget what it remembers of files that have reached the disk, as far as it likes: what is read next comes from there.
///
/// # Errors
/// If the directory can't be read.
pub fn forget(directory: &Path) -> Result<(), AgentError> {
    for path in walk(directory)?.iter().map(|path| directory.join(path)).filter(|path| path.is_file() && !path.is_symlink()) {
        let file = File::open(&path).map_err(AgentError::file("reading", &path))?;
        if let Err(error) = fadvise(&file, 0, None, Advice::DontNeed) {
            tracing::debug!(%error, path = %path.display(), "stays in memory");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_list_names_every_file_and_finds_every_change() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("a b/#c")).unwrap();
        fs::create_dir(root.path().join(LOST_AND_FOUND)).unwrap();
        fs::write(root.path().join("a b/#c/1 2.ibd"), "rows").unwrap();
        fs::write(root.path().join("z"), "").unwrap();
        symlink("nowhere", root.path().join("link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(root.path().join("socket")).unwrap();
        let list = list_files(root.path()).unwrap();
        let said: Vec<&str> = list.lines().map(|line| line.split_once(' ').unwrap().1).collect();
        assert_eq!(said, ["directory a b", "directory a b/#c", "4 a b/#c/1 2.ibd", "link link", "0 z"]);
        assert_eq!(links(&list).collect::<Vec<_>>(), ["link"]);
        check_files(root.path(), &list).unwrap();
        fs::write(root.path().join("more"), "").unwrap();
        check_files(root.path(), &list).unwrap();
        assert_eq!(difference(&list_files(root.path()).unwrap(), &list), Some("more"));
        fs::remove_file(root.path().join("more")).unwrap();
        assert_eq!(difference(&list_files(root.path()).unwrap(), &list), None);
        fs::write(root.path().join("a b/#c/1 2.ibd"), "rowz").unwrap();
        assert!(check_files(root.path(), &list).unwrap_err().to_string().contains("1 2.ibd"));
        fs::remove_file(root.path().join("link")).unwrap();
        symlink("elsewhere", root.path().join("link")).unwrap();
        assert!(check_files(root.path(), list.lines().nth(3).unwrap()).is_err());
        fs::remove_file(root.path().join("z")).unwrap();
        assert!(check_files(root.path(), "x 0 z").is_err());
    }

    #[test]
    fn what_is_missing_at_the_end_is_a_difference() {
        let lists = ["a 1 x\na 1 y\n", "a 1 x\n", ""];
        assert_eq!(difference(lists[0], lists[1]), Some("y"));
        assert_eq!(difference(lists[1], lists[0]), Some("y"));
        assert_eq!(difference(lists[2], lists[1]), Some("x"));
        assert_eq!(difference(lists[0], lists[0]), None);
    }

    #[test]
    fn a_name_that_would_break_the_list_is_refused() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("two\nlines"), "").unwrap();
        assert!(list_files(root.path()).unwrap_err().to_string().contains("no plain text"));
    }
}
