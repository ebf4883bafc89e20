//! Files: copied fast, written so that they outlive a crash.

use rustix::fs::{statvfs, syncfs};
use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, lchown, symlink};
use std::path::Path;
use std::sync::Mutex;

use super::AgentError;

/// Copies this program into a directory.
pub fn install(directory: &Path) -> Result<(), AgentError> {
    let program = Path::new("/proc/self/exe");
    let partial = directory.join("understudy.partial");
    fs::copy(program, &partial).map_err(AgentError::file("copying this program to", &partial))?;
    fs::set_permissions(&partial, Permissions::from_mode(0o755)).map_err(AgentError::file("making executable", &partial))?;
    fs::rename(&partial, directory.join("understudy")).map_err(AgentError::file("renaming", &partial))
}

/// Bytes that are free on the file system of a path, for those who are not root.
///
/// # Errors
/// If the path can't be looked at.
pub fn free_bytes(path: &Path) -> Result<u64, AgentError> {
    let stat = statvfs(path).map_err(|error| AgentError::file("looking at", path)(error.into()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Makes the entries of a directory outlive a crash.
///
/// # Errors
/// If the directory can't be synchronised.
pub fn sync_directory(path: &Path) -> Result<(), AgentError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(AgentError::file("synchronising", path))
}

/// Makes everything on the file system of a path outlive a crash.
///
/// # Errors
/// If it can't be synchronised.
pub fn sync_file_system(path: &Path) -> Result<(), AgentError> {
    tracing::info!("flushing to the disk");
    let directory = File::open(path).map_err(AgentError::file("opening", path))?;
    syncfs(&directory).map_err(|error| AgentError::file("synchronising", path)(error.into()))
}

/// Removes a file, if it is there.
///
/// # Errors
/// If it can't be removed.
pub fn remove(path: &Path) -> Result<(), AgentError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(AgentError::file("removing", path)),
    }
}

/// Writes a file whole or not at all: beside, synchronised, renamed.
///
/// # Errors
/// If it can't be written.
pub fn write_durably(path: &Path, mode: u32, content: &[u8]) -> Result<(), AgentError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    let partial = path.with_file_name(name);
    let written = || {
        let _ = fs::remove_file(&partial);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&partial)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&partial, path)
    };
    written().map_err(AgentError::file("writing", path))?;
    path.parent().map_or(Ok(()), sync_directory)
}

/// What of a directory is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Files and directories; anything else is refused.
    Plain,
    /// Links, too, as what they are, and owners as far as this user may set them. Sockets and pipes hold nothing, and are left out.
    Whole,
}

/// Copies a directory's content with modes into an existing directory, on two threads. Gives the bytes copied.
///
/// # Errors
/// [`AgentError::Refused`] for anything that is not to be copied.
pub fn copy_tree(from: &Path, to: &Path, extent: Extent) -> Result<u64, AgentError> {
    let mut files = Vec::new();
    let mut directories = vec![(from.to_owned(), to.to_owned())];
    while let Some((source, target)) = directories.pop() {
        for entry in fs::read_dir(&source).map_err(AgentError::file("reading", &source))? {
            let entry = entry.map_err(AgentError::file("reading", &source))?;
            let (path, copy) = (entry.path(), target.join(entry.file_name()));
            let metadata = entry.metadata().map_err(AgentError::file("reading", &path))?;
            if metadata.is_dir() {
                fs::create_dir(&copy).map_err(AgentError::file("making", &copy))?;
                give(&copy, &metadata, extent);
                fs::set_permissions(&copy, metadata.permissions()).map_err(AgentError::file("setting the mode of", &copy))?;
                directories.push((path, copy));
            } else if metadata.is_file() {
                files.push((path, copy, metadata));
            } else if extent == Extent::Plain {
                return Err(AgentError::Refused(format!("{} is neither file nor directory: links in a backup are not followed", path.display())));
            } else if metadata.is_symlink() {
                let linked = fs::read_link(&path).and_then(|target| symlink(target, &copy));
                linked.map_err(AgentError::file("copying to", &copy))?;
                give(&copy, &metadata, extent);
            } else if metadata.file_type().is_socket() || metadata.file_type().is_fifo() {
                tracing::info!(path = %path.display(), "holds nothing and is left out");
            } else {
                return Err(AgentError::Refused(format!("{} is a device, and can't be copied", path.display())));
            }
        }
    }
    files.sort_by_key(|(_, _, metadata)| metadata.len());
    let queue = Mutex::new(files);
    let work = || -> Result<u64, AgentError> {
        let mut copied = 0;
        loop {
            let next = queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop();
            let Some((path, copy, metadata)) = next else { return Ok(copied) };
            // copy_file_range: inside the kernel, and shared blocks where the file system can.
            copied += fs::copy(&path, &copy).map_err(AgentError::file("copying to", &copy))?;
            give(&copy, &metadata, extent);
        }
    };
    std::thread::scope(|scope| {
        let second = scope.spawn(work);
        let mine = work()?;
        let theirs = second.join().map_err(|_| AgentError::Refused("copying was interrupted".to_owned()))??;
        Ok(mine + theirs)
    })
}

/// Gives a copy the owner of what it was copied from, where this user may.
fn give(copy: &Path, original: &Metadata, extent: Extent) {
    if extent == Extent::Whole
        && let Err(error) = lchown(copy, Some(original.uid()), Some(original.gid()))
    {
        tracing::debug!(%error, path = %copy.display(), "belongs to who has copied it");
    }
}
