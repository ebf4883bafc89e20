//! A list of files with their sizes and SHA-256, and the comparison with it.

use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::agent::AgentError;

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

/// All files below a directory, by their paths in it, sorted.
fn walk(directory: &Path) -> Result<Vec<PathBuf>, AgentError> {
    let (mut found, mut left) = (Vec::new(), vec![directory.to_owned()]);
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(&next).map_err(AgentError::file("reading", &next))? {
            let path = entry.map_err(AgentError::file("reading", &next))?.path();
            if path.is_dir() {
                left.push(path);
            } else if let Ok(inside) = path.strip_prefix(directory) {
                found.push(inside.to_owned());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// A line for each file: SHA-256, size and path.
pub fn list_files(directory: &Path) -> Result<String, AgentError> {
    let mut list = String::new();
    for path in walk(directory)? {
        let (hash, size) = digest(&directory.join(&path))?;
        let _ = writeln!(list, "{hash} {size} {}", path.display());
    }
    Ok(list)
}

/// Compares the files of a directory with their list; others in it are not looked at.
pub fn check_files(directory: &Path, list: &str) -> Result<(), AgentError> {
    for line in list.lines() {
        let mut words = line.splitn(3, ' ');
        let (Some(hash), Some(size), Some(name)) = (words.next(), words.next(), words.next()) else {
            return Err(AgentError::Refused(format!("a line of the list of files is none: {line}")));
        };
        let path = directory.join(name);
        let (found, bytes) = digest(&path)?;
        if found != hash || bytes.to_string() != size {
            return Err(AgentError::Refused(format!("{} is not what was verified when the backup was taken", path.display())));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_names_every_file_and_finds_every_change() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("a b/#c")).unwrap();
        fs::write(root.path().join("a b/#c/1 2.ibd"), "rows").unwrap();
        fs::write(root.path().join("z"), "").unwrap();
        let list = list_files(root.path()).unwrap();
        assert_eq!(list.lines().map(|line| &line[65..]).collect::<Vec<_>>(), ["4 a b/#c/1 2.ibd", "0 z"]);
        check_files(root.path(), &list).unwrap();
        fs::write(root.path().join("more"), "").unwrap();
        check_files(root.path(), &list).unwrap();
        fs::write(root.path().join("a b/#c/1 2.ibd"), "rowz").unwrap();
        assert!(check_files(root.path(), &list).unwrap_err().to_string().contains("1 2.ibd"));
        fs::remove_file(root.path().join("z")).unwrap();
        assert!(check_files(root.path(), "x 0 z").is_err());
    }
}
