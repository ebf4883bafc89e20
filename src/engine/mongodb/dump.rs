//! What `mongodump` writes: files of BSON documents one after the other, verified and hashed in one go.

use mongodb::bson::RawDocument;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

/// The largest document that a server keeps, with room for what it adds itself (manual, "MongoDB Limits and Thresholds").
const LARGEST: usize = (16 << 20) + (16 << 10);
/// The smallest: its length, and the zero at its end.
const SMALLEST: usize = 5;

/// A reader that hashes what it reads.
struct Hashing<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hash.update(buffer.get(..read).unwrap_or_default());
        Ok(read)
    }
}

fn broken(message: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message.into())
}

/// Reads the next document; none at the end of the file.
fn next(reader: &mut impl Read, document: &mut Vec<u8>) -> io::Result<bool> {
    let mut length = [0_u8; 4];
    let mut filled = 0;
    while let Some(rest) = length.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match reader.read(rest)? {
            0 if filled == 0 => return Ok(false),
            0 => return Err(broken("it ends within a document")),
            read => filled += read,
        }
    }
    let bytes = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if !(SMALLEST..=LARGEST).contains(&bytes) {
        return Err(broken(format!("a document of {bytes} bytes")));
    }
    document.clear();
    document.extend_from_slice(&length);
    let read = reader.take(u64::try_from(bytes - length.len()).unwrap_or_default()).read_to_end(document)?;
    if read != bytes - length.len() || document.last() != Some(&0) {
        return Err(broken("it ends within a document"));
    }
    Ok(true)
}

/// Reads a file of documents to its end. Gives its SHA-256, and the last document.
///
/// # Errors
/// If it can't be read, or is not whole.
fn read(path: &Path) -> io::Result<(String, Vec<u8>)> {
    let mut reader = BufReader::with_capacity(1 << 20, Hashing { inner: File::open(path)?, hash: Sha256::new() });
    let (mut document, mut last) = (Vec::new(), Vec::new());
    while next(&mut reader, &mut document)? {
        std::mem::swap(&mut document, &mut last);
    }
    Ok((hex::encode(reader.into_inner().hash.finalize()), last))
}

/// Every file below a directory, in order.
fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            all.extend(files(&entry.path())?);
        } else {
            all.push(entry.path());
        }
    }
    all.sort();
    Ok(all)
}

/// A dump that was read to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dump {
    /// One line for each file, as `sha256sum` writes and checks them.
    pub list: String,
    /// The time of the last operation in it: until then it is consistent; none where nothing was written while it was taken.
    pub until: Option<(u32, u32)>,
}

/// Reads everything that `mongodump --oplog` has written to a directory.
///
/// # Errors
/// If anything can't be read, a file is not whole, or there is no `oplog.bson`.
pub fn verify(directory: &Path) -> io::Result<Dump> {
    let mut dump = Dump { list: String::new(), until: None };
    let mut oplog = false;
    for path in files(directory)? {
        let name = path.strip_prefix(directory).map_err(|error| broken(error.to_string()))?.to_string_lossy().into_owned();
        let within = |error: io::Error| io::Error::new(error.kind(), format!("{name}: {error}"));
        let hash = if path.extension().is_some_and(|kind| kind == "bson") {
            let (hash, last) = read(&path).map_err(within)?;
            if name == "oplog.bson" {
                oplog = true;
                let entry = RawDocument::from_bytes(&last).ok();
                dump.until = entry.and_then(|entry| entry.get_timestamp("ts").ok()).map(|ts| (ts.time, ts.increment));
            }
            hash
        } else {
            hex::encode(Sha256::digest(fs::read(&path).map_err(within)?))
        };
        dump.list.extend([&hash, "  ", &name, "\n"]);
    }
    if oplog { Ok(dump) } else { Err(broken("there is no oplog.bson: it is not consistent")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mongodb::bson::{Timestamp, doc};

    fn bytes(documents: &[mongodb::bson::Document]) -> Vec<u8> {
        documents.iter().flat_map(|document| document.to_vec().unwrap()).collect()
    }

    #[test]
    fn a_dump_is_whole_or_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &[u8]| {
            fs::create_dir_all(root.path().join(name).parent().unwrap()).unwrap();
            fs::write(root.path().join(name), content).unwrap();
        };
        write("shop/orders.bson", &bytes(&[doc! {"_id": 1}, doc! {"_id": 2, "name": "x"}]));
        write("shop/orders.metadata.json", b"{}");
        write("shop/empty.bson", b"");
        assert!(verify(root.path()).unwrap_err().to_string().contains("oplog.bson"));
        let at = |time| doc! {"ts": Timestamp { time, increment: 3 }, "op": "i"};
        write("oplog.bson", &bytes(&[at(7), at(9)]));
        let whole = verify(root.path()).unwrap();
        assert_eq!(whole.until, Some((9, 3)));
        assert_eq!(whole.list.lines().count(), 4);
        assert!(whole.list.contains(&format!("{}  shop/orders.metadata.json\n", hex::encode(Sha256::digest(b"{}")))));
        write("oplog.bson", b"");
        assert_eq!(verify(root.path()).unwrap().until, None);

        let orders = bytes(&[doc! {"_id": 1}, doc! {"_id": 2, "name": "x"}]);
        for cut in [orders.len() - 1, orders.len() - 9, 2] {
            write("shop/orders.bson", &orders[..cut]);
            assert!(verify(root.path()).unwrap_err().to_string().contains("shop/orders.bson"), "{cut}");
        }
        write("shop/orders.bson", &[0xff; 64]);
        assert!(verify(root.path()).unwrap_err().to_string().contains("a document of"));
    }
}
