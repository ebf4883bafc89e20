//! Snapshot files (RDB): where in the source's log one is consistent, and whether it is whole.

use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::engine::Position;

/// The fields at the beginning of a file are shorter than this.
const HEAD: usize = 16 << 10;
const CHUNK: usize = 1 << 20;
/// The last byte before the checksum.
const EOF: u8 = 0xFF;
const AUX: u8 = 0xFA;
/// The server's CRC-64 (Jones), reflected.
const POLYNOMIAL: u64 = 0x95ac_9329_ac4b_c9b5;

/// What a snapshot file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Position in the source's log: none in a snapshot that was taken for no replica.
    pub position: Option<Position>,
    /// It carries a checksum, which is right; a server with `rdbchecksum no` writes none.
    pub verified: bool,
    /// SHA-256 of the file in hexadecimal digits.
    pub sha256: String,
}

/// Reads a whole snapshot file.
///
/// # Errors
/// If it can't be read, or is not what a server wrote.
pub fn read(path: &Path) -> io::Result<Snapshot> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let wrong = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    let table = table();
    let (mut sha, mut crc, mut left) = (Sha256::new(), 0u64, length.checked_sub(8).ok_or_else(|| wrong("it is too short"))?);
    let (mut head, mut last, mut buffer) = (Vec::new(), 0u8, vec![0; CHUNK]);
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        let chunk = buffer.get_mut(..most).unwrap_or_default();
        file.read_exact(chunk)?;
        left -= most as u64;
        sha.update(&*chunk);
        crc = chunk.iter().fold(crc, |crc, byte| table.get(usize::from(*byte ^ crc.to_le_bytes()[0])).copied().unwrap_or_default() ^ (crc >> 8));
        last = chunk.last().copied().unwrap_or(last);
        if head.is_empty() {
            head.extend(chunk.iter().take(HEAD));
        }
    }
    let mut written = [0; 8];
    file.read_exact(&mut written)?;
    sha.update(written);
    let written = u64::from_le_bytes(written);
    if !head.starts_with(b"REDIS") || last != EOF {
        return Err(wrong("it is no whole snapshot"));
    }
    if written != 0 && written != crc {
        return Err(wrong("its checksum is wrong"));
    }
    Ok(Snapshot { position: position(&head), verified: written != 0, sha256: hex::encode(sha.finalize()) })
}

/// Whether a snapshot file holds nothing at all: no key and no function, nor anything behind it. What can't be read as one holds something.
///
/// # Errors
/// If it can't be read.
pub fn is_empty(path: &Path) -> io::Result<bool> {
    let mut head = Vec::new();
    File::open(path)?.take(HEAD as u64).read_to_end(&mut head)?;
    let mut rest = head.get(9..).unwrap_or_default();
    while let Some((key, fields)) = rest.strip_prefix(&[AUX]).and_then(string) {
        let Some((_, left)) = string(fields).filter(|_| !key.is_empty()) else { return Ok(false) };
        rest = left;
    }
    // After the end there are the 8 bytes of the checksum.
    Ok(head.starts_with(b"REDIS") && rest.first() == Some(&EOF) && rest.len() == 9)
}

fn table() -> [u64; 256] {
    let mut table = [0; 256];
    for (byte, entry) in (0u64..).zip(table.iter_mut()) {
        *entry = (0..8).fold(byte, |crc, _| if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 });
    }
    table
}

/// Replication id and offset, from the auxiliary fields at the beginning.
fn position(head: &[u8]) -> Option<Position> {
    let mut rest = head.get(9..)?;
    let (mut history, mut offset) = (None, None);
    while let Some((&AUX, fields)) = rest.split_first() {
        let (key, fields) = string(fields)?;
        let (value, fields) = string(fields)?;
        rest = fields;
        match key.as_str() {
            "repl-id" => history = Some(value),
            "repl-offset" => offset = value.parse().ok(),
            _ => {}
        }
    }
    Some(Position::Offset { history: history?, bytes: offset? })
}

/// A string with its length before it, or a number in 1, 2 or 4 bytes; and what follows. No such field is compressed.
fn string(bytes: &[u8]) -> Option<(String, &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    let text = |length: usize, rest: &'_ [u8]| Some((String::from_utf8_lossy(rest.get(..length)?).into_owned(), length));
    let (text, used) = match (first >> 6, first & 0x3F) {
        (0, length) => text(usize::from(length), rest)?,
        (1, high) => {
            let (low, rest) = rest.split_first()?;
            let (text, length) = text(usize::from(u16::from_be_bytes([high, *low])), rest)?;
            (text, length + 1)
        }
        (2, 0) => {
            let length = u32::from_be_bytes(rest.first_chunk().copied()?);
            let (text, length) = text(usize::try_from(length).ok()?, rest.get(4..)?)?;
            (text, length + 4)
        }
        (3, 0) => (i8::from_le_bytes(rest.first_chunk().copied()?).to_string(), 1),
        (3, 1) => (i16::from_le_bytes(rest.first_chunk().copied()?).to_string(), 2),
        (3, 2) => (i32::from_le_bytes(rest.first_chunk().copied()?).to_string(), 4),
        _ => return None,
    };
    Some((text, rest.get(used..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by a Redis 7.0.15 for `redis-cli --rdb`: one key.
    const FILE: &str = "524544495330303130fa0972656469732d76657206372e302e3135fa0a72656469732d62697473c040fa056374696d65c2eaeb056bfa08757365642d6d656dc238ac0f00\
        fa0e7265706c2d73747265616d2d6462c000fa077265706c2d69642863376538366536356536393739633865363230323365613366343465633034636431626538663634fa0b\
        7265706c2d6f6666736574c000fa08616f662d62617365c000fe00fb0100000161c001ffba88c59fcd48f951";

    fn bytes() -> Vec<u8> {
        hex::decode(FILE).unwrap()
    }

    fn read_bytes(bytes: &[u8]) -> io::Result<Snapshot> {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("dump.rdb");
        std::fs::write(&path, bytes).unwrap();
        read(&path)
    }

    #[test]
    fn a_snapshot_names_its_position_and_is_verified() {
        let snapshot = read_bytes(&bytes()).unwrap();
        let position = Position::Offset { history: "c7e86e65e6979c8e62023ea3f44ec04cd1be8f64".into(), bytes: 0 };
        assert_eq!((snapshot.position, snapshot.verified), (Some(position), true));
        assert_eq!(snapshot.sha256, hex::encode(Sha256::digest(bytes())));
    }

    #[test]
    fn a_snapshot_that_is_not_whole_is_refused() {
        let whole = bytes();
        for cut in 0..whole.len() {
            assert!(read_bytes(&whole[..cut]).is_err(), "cut after {cut} bytes");
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            assert!(read_bytes(&changed).is_err(), "byte {at} changed");
        }
    }

    #[test]
    fn a_snapshot_without_checksum_is_not_verified() {
        let mut bytes = bytes();
        let end = bytes.len() - 8;
        bytes[end..].fill(0);
        assert!(!read_bytes(&bytes).unwrap().verified);
    }

    #[test]
    fn a_snapshot_for_no_replica_has_no_position() {
        let mut bytes = bytes();
        let at = bytes.windows(7).position(|name| name == b"repl-id").unwrap();
        bytes[at] = b'x';
        assert_eq!(position(&bytes), None);
    }

    #[test]
    fn a_snapshot_is_empty_when_nothing_is_between_its_fields_and_its_end() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("dump.rdb");
        let is = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            is_empty(&path).unwrap()
        };
        let whole = bytes();
        let database = whole.windows(3).position(|part| part == b"\xfe\x00\xfb").unwrap();
        let empty = [&whole[..database], b"\xff12345678"].concat();
        assert!(!is(&whole) && is(&empty) && is(b"REDIS0010\xff12345678"));
        assert!(!is(&[&empty[..], b"*1\r\n"].concat()), "commands behind it");
        assert!((0..empty.len()).all(|cut| !is(&empty[..cut])), "one that is not whole");
    }

    #[test]
    fn lengths_and_numbers_of_every_size_are_read() {
        let of = |bytes: &[u8]| string(bytes).map(|(text, rest)| (text, rest.len()));
        assert_eq!(of(b"\x03abc!"), Some(("abc".into(), 1)));
        let long = [b"\x41\x00".as_slice(), &[b'x'; 256]].concat();
        assert_eq!(of(&long), Some(("x".repeat(256), 0)));
        assert_eq!(of(b"\x80\x00\x00\x00\x02ab"), Some(("ab".into(), 0)));
        assert_eq!(of(b"\xc0\xff"), Some(("-1".into(), 0)));
        assert_eq!(of(b"\xc1\x00\x01!"), Some(("256".into(), 1)));
        assert_eq!(of(b"\xc2\x00\x00\x01\x00"), Some(("65536".into(), 0)));
        for short in [&b""[..], b"\x03ab", b"\x41", b"\x80\x00", b"\xc1\x00", b"\xc3abc", b"\x81"] {
            assert_eq!(of(short), None, "{short:?}");
        }
    }

    #[test]
    fn the_checksum_is_that_of_the_server() {
        let crc = b"123456789".iter().fold(0u64, |crc, byte| table()[usize::from(*byte ^ crc.to_le_bytes()[0])] ^ (crc >> 8));
        assert_eq!(crc, 0xe9c6_d914_c4b8_d9ca);
    }
}
