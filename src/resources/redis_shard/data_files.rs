//! Whether an instance has data, by its files: an append-only file that was never written to, or an empty snapshot, has
//! none.

use std::ffi::OsStr;
use std::fs;
use std::io::{ErrorKind, Read};
use std::path::Path;

use crate::host_fs;

/// Number of bytes of a snapshot to read: its header, with more than it ever has.
const HEADER_BYTES: u64 = 4096;
/// Bytes of the name and the version of the format at the start of a snapshot.
const MAGIC_BYTES: usize = 9;
/// Code of a field of the header.
const AUXILIARY_FIELD: u8 = 0xfa;
/// Code of the end of a snapshot.
const END_OF_FILE: u8 = 0xff;

/// Returns whether the files in an instance's folder contain keys, functions, or anything that is not known. A file
/// that cannot be read may contain some.
pub fn has_data(data_dir: &Path) -> bool {
    let entries = match fs::read_dir(data_dir) {
        Ok(entries) => entries,
        Err(error) => return error.kind() != ErrorKind::NotFound,
    };
    entries.into_iter().any(|entry| {
        let Ok(entry) = entry else { return true };
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => has_data(&path),
            Ok(kind) if kind.is_file() => is_data_file(&path),
            _ => true,
        }
    })
}

fn is_data_file(path: &Path) -> bool {
    if matches!(path.extension().and_then(OsStr::to_str), Some("pid" | "log" | "manifest")) {
        return false;
    }
    let file = match host_fs::open_file(path) {
        Ok(Some(file)) => file,
        // A temporary file that was renamed meanwhile.
        Ok(None) => return false,
        Err(_) => return true,
    };
    let mut head = Vec::new();
    if file.take(HEADER_BYTES).read_to_end(&mut head).is_err() {
        return true;
    }
    let is_snapshot = head.starts_with(b"REDIS") || head.starts_with(b"VALKEY");
    !(head.is_empty() || is_snapshot && ends_after_header(&head).unwrap_or(false))
}

/// Returns whether a snapshot has nothing but fields of its header; `None` if the bytes end before that is known.
fn ends_after_header(snapshot: &[u8]) -> Option<bool> {
    let mut rest = snapshot.get(MAGIC_BYTES..)?;
    while let [AUXILIARY_FIELD, fields @ ..] = rest {
        rest = skip_string(skip_string(fields)?)?;
    }
    Some(*rest.first()? == END_OF_FILE)
}

/// Returns the bytes behind a string, which may be a number in binary form.
fn skip_string(bytes: &[u8]) -> Option<&[u8]> {
    let (first, rest) = bytes.split_first()?;
    let low_bits = usize::from(first & 0x3f);
    match (first >> 6, low_bits) {
        (0, length) => rest.get(length..),
        (1, high) => rest.get(1 + (high << 8 | usize::from(*rest.first()?))..),
        (3, 0) => rest.get(1..),
        (3, 1) => rest.get(2..),
        (3, 2) => rest.get(4..),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The header of Redis 7.0, with fields as strings and as numbers.
    const HEADER: &[u8] = b"REDIS0010\xfa\x09redis-ver\x067.0.15\xfa\x0aredis-bits\xc0\x40\xfa\x05ctime\xc2\x01\x02\x03\x04\xfa\x08used-mem\xc1\x01\x02";

    #[test]
    fn a_snapshot_without_keys_is_no_data() {
        let with = |rest: &[u8]| ends_after_header(&[HEADER, rest].concat());
        assert_eq!(with(b"\xff\x01\x02\x03\x04\x05\x06\x07\x08"), Some(true));
        assert_eq!(with(b"\xfe\x00\xfb\x01\x00\x00\x01a\x01b\xff"), Some(false));
        assert_eq!(with(b"\xf5\x03lua"), Some(false));
        assert_eq!(with(b""), None);
    }

    #[test]
    fn files_that_are_not_known_are_data() {
        let folder = tempfile::tempdir().unwrap();
        let aof = folder.path().join("appendonlydir");
        fs::create_dir(&aof).unwrap();
        fs::write(folder.path().join("redis.pid"), "12").unwrap();
        fs::write(aof.join("appendonly.aof.manifest"), "file appendonly.aof.1.base.rdb seq 1 type b").unwrap();
        fs::write(aof.join("appendonly.aof.1.base.rdb"), [HEADER, b"\xff\0\0\0\0\0\0\0\0"].concat()).unwrap();
        fs::write(aof.join("appendonly.aof.1.incr.aof"), "").unwrap();
        assert!(!has_data(folder.path()));
        assert!(!has_data(&folder.path().join("absent")));
        fs::write(aof.join("appendonly.aof.1.incr.aof"), "*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n").unwrap();
        assert!(has_data(folder.path()));
    }
}
