//! Redis' snapshot files (RDB, versions 10 to 12: Redis 7 and what descends from it), key by key, as digests.
//!
//! The format is that of `rdb.c` in Redis. A type that is not known here ends the reading: nothing is guessed.

use std::io::Read;

use anyhow::{Context, Result, bail, ensure};
use xxhash_rust::xxh3::xxh3_128;

use super::digest_reader::DigestReader;

/// Marks a key without an expiry time.
const NO_EXPIRY: i64 = -1;

/// A key of a snapshot.
pub struct RdbKey<'a> {
    /// Number of the database.
    pub database: u32,
    /// Name of the key.
    pub key: &'a [u8],
    /// Of the key, where it is, its type and encoding, its time to live and its content. What Redis keeps in no order,
    /// the members of a set and the pairs of a hash, comes in any.
    pub digest: u128,
}

/// Header of a snapshot: the replication id of the server that wrote it, if the file has one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RdbHeader {
    /// Replication id of the server that wrote it; `None` in a snapshot without one.
    pub replication_id: Option<String>,
}

/// Reads a snapshot to its end.
///
/// # Errors
/// Returns an error if the file is not a snapshot, ends too early, or holds what is not known here; also the error of
/// `each`.
pub fn read_rdb(source: impl Read, mut each: impl FnMut(&RdbKey<'_>) -> Result<()>) -> Result<RdbHeader> {
    let mut reader = RdbReader { input: DigestReader::new(source) };
    let version = reader.read_version()?;
    ensure!((10..=12).contains(&version), "version {version} of the snapshot's format is not supported");
    let (mut header, mut key, mut database, mut expires) = (RdbHeader::default(), Vec::new(), 0, None);
    loop {
        match reader.input.read_byte()? {
            opcode::EOF => return Ok(header),
            opcode::SELECT_DB => database = u32::try_from(reader.read_count()?).context("the number of a database")?,
            opcode::EXPIRE_TIME_MS => expires = Some(i64::from_le_bytes(reader.input.read_array()?)),
            opcode::AUX => reader.read_aux_field(&mut header)?,
            opcode::LRU_IDLE => drop(reader.read_count()?),
            opcode::LFU_FREQUENCY => reader.input.skip_bytes(1)?,
            opcode::RESIZE_DB => reader.skip_counts(2)?,
            opcode::SLOT_INFO => reader.skip_counts(3)?,
            opcode::FUNCTION => reader.skip_string()?,
            kind => {
                reader.read_string(&mut key)?;
                let content = reader.read_content_digest(kind)?;
                let expires = expires.take().unwrap_or(NO_EXPIRY);
                let digest = key_digest(database, expires, kind, xxh3_128(&key), content);
                each(&RdbKey { database, key: &key, digest })?;
            }
        }
    }
}

fn key_digest(database: u32, expires: i64, kind: u8, key: u128, content: u128) -> u128 {
    let mut form = [kind; 1 + 4 + 8 + 16 + 16];
    form[1..5].copy_from_slice(&database.to_le_bytes());
    form[5..13].copy_from_slice(&expires.to_le_bytes());
    form[13..29].copy_from_slice(&key.to_le_bytes());
    form[29..].copy_from_slice(&content.to_le_bytes());
    xxh3_128(&form)
}

/// `RDB_OPCODE_…` in `rdb.h`.
mod opcode {
    pub const SLOT_INFO: u8 = 244;
    pub const FUNCTION: u8 = 245;
    pub const LRU_IDLE: u8 = 248;
    pub const LFU_FREQUENCY: u8 = 249;
    pub const AUX: u8 = 250;
    pub const RESIZE_DB: u8 = 251;
    pub const EXPIRE_TIME_MS: u8 = 252;
    pub const SELECT_DB: u8 = 254;
    pub const EOF: u8 = 255;
}

/// `RDB_TYPE_…` in `rdb.h`.
mod kind {
    pub const STRING: u8 = 0;
    pub const SET: u8 = 2;
    pub const HASH: u8 = 4;
    pub const SORTED_SET: u8 = 5;
    pub const SET_OF_INTEGERS: u8 = 11;
    pub const HASH_LISTPACK: u8 = 16;
    pub const SORTED_SET_LISTPACK: u8 = 17;
    pub const LIST: u8 = 18;
    pub const STREAM_2: u8 = 19;
    pub const SET_LISTPACK: u8 = 20;
    pub const STREAM_3: u8 = 21;
}

/// A length, or how what follows is written.
enum Length {
    Bytes(u64),
    /// `RDB_ENC_…`: 0 to 2 an integer of 1, 2 or 4 bytes, 3 compressed.
    Encoded(u8),
}

struct RdbReader<R> {
    input: DigestReader<R>,
}

impl<R: Read> RdbReader<R> {
    fn read_version(&mut self) -> Result<u32> {
        let head = self.input.take_bytes(9)?;
        let version = head.strip_prefix(b"REDIS").and_then(|version| std::str::from_utf8(version).ok()?.parse().ok());
        version.context("the file is not a snapshot")
    }

    fn read_aux_field(&mut self, header: &mut RdbHeader) -> Result<()> {
        let (mut name, mut value) = (Vec::new(), Vec::new());
        self.read_string(&mut name)?;
        self.read_string(&mut value)?;
        if name == b"repl-id" {
            header.replication_id = Some(String::from_utf8_lossy(&value).into_owned());
        }
        Ok(())
    }

    #[inline]
    fn read_length(&mut self) -> Result<Length> {
        let first = self.input.read_byte()?;
        Ok(match first {
            0..=0x3f => Length::Bytes(u64::from(first)),
            0x40..=0x7f => Length::Bytes(u64::from(first & 0x3f) << 8 | u64::from(self.input.read_byte()?)),
            0x80 => Length::Bytes(u32::from_be_bytes(self.input.read_array()?).into()),
            0x81 => Length::Bytes(u64::from_be_bytes(self.input.read_array()?)),
            0xc0..=0xc3 => Length::Encoded(first & 0x3f),
            other => bail!("{other:#x} is not a length"),
        })
    }

    fn read_count(&mut self) -> Result<u64> {
        match self.read_length()? {
            Length::Bytes(count) => Ok(count),
            Length::Encoded(_) => bail!("a number was expected"),
        }
    }

    fn skip_counts(&mut self, times: u64) -> Result<()> {
        for _ in 0..times {
            self.read_count()?;
        }
        Ok(())
    }

    #[inline]
    fn skip_string(&mut self) -> Result<()> {
        let bytes = match self.read_length()? {
            Length::Bytes(bytes) => bytes,
            Length::Encoded(integer @ 0..=2) => 1 << integer,
            Length::Encoded(_) => {
                let packed = self.read_count()?;
                self.read_count()?;
                packed
            }
        };
        self.input.skip_bytes(bytes)
    }

    fn skip_strings(&mut self, count: u64) -> Result<()> {
        for _ in 0..count {
            self.skip_string()?;
        }
        Ok(())
    }

    /// Reads a string as it is, into a list that is cleared first.
    fn read_string(&mut self, into: &mut Vec<u8>) -> Result<()> {
        into.clear();
        let integer = match self.read_length()? {
            Length::Bytes(bytes) => return self.input.append_bytes(bytes, into),
            Length::Encoded(0) => i32::from(i8::from_le_bytes(self.input.read_array()?)),
            Length::Encoded(1) => i32::from(i16::from_le_bytes(self.input.read_array()?)),
            Length::Encoded(2) => i32::from_le_bytes(self.input.read_array()?),
            Length::Encoded(_) => {
                let (packed, unpacked_length) = (self.read_count()?, self.read_count()?);
                let mut bytes = Vec::new();
                self.input.append_bytes(packed, &mut bytes)?;
                decompress_lzf(&bytes, unpacked_length, into);
                ensure!(into.len() as u64 == unpacked_length, "a compressed string is damaged");
                return Ok(());
            }
        };
        into.extend_from_slice(integer.to_string().as_bytes());
        Ok(())
    }

    /// Reads a value as `rdbSaveObject` writes it, and returns its digest.
    fn read_content_digest(&mut self, kind: u8) -> Result<u128> {
        self.input.start_digest();
        match kind {
            kind::STRING
            | kind::SET_OF_INTEGERS
            | kind::HASH_LISTPACK
            | kind::SORTED_SET_LISTPACK
            | kind::SET_LISTPACK => self.skip_string()?,
            kind::SET => return self.read_unordered_digest(1),
            kind::HASH => return self.read_unordered_digest(2),
            kind::SORTED_SET => {
                for _ in 0..self.read_count()? {
                    self.skip_string()?;
                    self.input.skip_bytes(8)?;
                }
            }
            kind::LIST => {
                for _ in 0..self.read_count()? {
                    self.read_count()?;
                    self.skip_string()?;
                }
            }
            kind::STREAM_2 => self.skip_stream(1)?,
            kind::STREAM_3 => self.skip_stream(2)?,
            other => bail!("type {other} of the snapshot's format is not supported"),
        }
        Ok(self.input.finish_digest())
    }

    /// Reads groups of this many strings, and returns the sum of their digests.
    fn read_unordered_digest(&mut self, group_size: u64) -> Result<u128> {
        let count = self.read_count()?;
        let mut sum = u128::from(count);
        self.input.start_digest();
        for _ in 0..count {
            self.skip_strings(group_size)?;
            sum = sum.wrapping_add(self.input.finish_digest());
        }
        Ok(sum)
    }

    /// Skips a stream; each of its consumers has this many timestamps.
    fn skip_stream(&mut self, timestamps: u64) -> Result<()> {
        for _ in 0..self.read_count()? {
            self.skip_strings(2)?;
        }
        // Its length, four halves of two ids, how many were ever added; the last id comes before those.
        self.skip_counts(8)?;
        for _ in 0..self.read_count()? {
            self.skip_string()?;
            self.skip_counts(3)?;
            for _ in 0..self.read_count()? {
                self.input.skip_bytes(16 + 8)?;
                self.read_count()?;
            }
            for _ in 0..self.read_count()? {
                self.skip_string()?;
                self.input.skip_bytes(8 * timestamps)?;
                let pending = self.read_count()?;
                self.input.skip_bytes(pending.checked_mul(16).context("a stream is damaged")?)?;
            }
        }
        Ok(())
    }
}

/// Decompresses LZF, as liblzf's `lzf_d.c` does. A damaged string gets another length than `unpacked_length`; the
/// result is at most one block, 264 bytes, longer.
fn decompress_lzf(packed: &[u8], unpacked_length: u64, into: &mut Vec<u8>) {
    let mut bytes = packed.iter().copied().map(usize::from);
    while let Some(control) = bytes.next() {
        if into.len() as u64 > unpacked_length {
            return;
        }
        if control < 32 {
            #[expect(clippy::cast_possible_truncation, reason = "it was a byte")]
            into.extend(bytes.by_ref().take(control + 1).map(|byte| byte as u8));
            continue;
        }
        let mut length = control >> 5;
        if length == 7 {
            length += bytes.next().unwrap_or_default();
        }
        let distance = ((control & 0x1f) << 8) + bytes.next().unwrap_or_default() + 1;
        let Some(from) = into.len().checked_sub(distance) else { return };
        for at in from..from + length + 2 {
            into.push(into[at]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(file: &[u8]) -> Result<Vec<(u32, String)>> {
        let mut keys = Vec::new();
        read_rdb(file, |item| {
            keys.push((item.database, String::from_utf8_lossy(item.key).into_owned()));
            Ok(())
        })?;
        Ok(keys)
    }

    #[test]
    fn unknown_or_truncated_input_is_an_error() {
        let file = b"REDIS0010\xfe\x03\x00\x01a\xc0\x07\x00\xc1\x2c\x01\x01v\xff";
        assert_eq!(keys(file).unwrap(), [(3, "a".to_owned()), (3, "300".to_owned())]);
        for end in 0..file.len() {
            assert!(keys(&file[..end]).is_err(), "{end} bytes");
        }
        let error = |file: &[u8]| keys(file).unwrap_err().to_string();
        crate::messages::check(
            "rdb-unknown",
            [
                ("an old version", error(b"REDIS0009\xff")),
                ("a module's type", error(b"REDIS0010\x07\x01a")),
                ("an append-only file", error(b"*2\r\n$6\r\nSELECT\r\n")),
            ],
        );
    }

    #[test]
    fn every_part_of_an_item_is_in_its_digest() {
        let digest = |body: &[u8]| {
            let mut all = Vec::new();
            read_rdb(&[b"REDIS0010", body, b"\xff"].concat()[..], |item| {
                all.push(item.digest);
                Ok(())
            })
            .unwrap();
            all[0]
        };
        let bodies: [&[u8]; 9] = [
            b"\x00\x01a\x01v",
            b"\x00\x01b\x01v",
            b"\x00\x01a\x01w",
            b"\x0b\x01a\x01v",
            b"\xfe\x01\x00\x01a\x01v",
            b"\xfc\x01\x00\x00\x00\x00\x00\x00\x00\x00\x01a\x01v",
            b"\x02\x01a\x01\x01v",
            b"\x02\x01a\x02\x01v\x01w",
            b"\x04\x01a\x01\x01v\x01w",
        ];
        let digests: std::collections::BTreeSet<u128> = bodies.iter().map(|body| digest(body)).collect();
        assert_eq!(digests.len(), bodies.len());
        // Values in no defined order, and values that are local to a server.
        assert_eq!(digest(b"\x02\x01a\x02\x01v\x01w"), digest(b"\x02\x01a\x02\x01w\x01v"));
        assert_ne!(digest(b"\x04\x01a\x02\x01v\x01w\x01x\x01y"), digest(b"\x04\x01a\x02\x01v\x01y\x01x\x01w"));
        assert_eq!(digest(b"\xf8\x05\xf9\x07\x00\x01a\x01v"), digest(b"\x00\x01a\x01v"));
    }

    #[test]
    fn strings_are_decompressed() {
        let unpacked = |packed: &[u8]| {
            let mut bytes = Vec::new();
            decompress_lzf(packed, 20, &mut bytes);
            String::from_utf8(bytes).unwrap()
        };
        assert_eq!(unpacked(b"\x01ab\x80\x01"), "abababab");
        assert_eq!(unpacked(b"\x00a\xe0\x05\x00\x00b"), format!("{}b", "a".repeat(15)));
        assert_eq!(unpacked(b"\x00a\x20\x07"), "a", "it would reach before the beginning");
    }

    #[test]
    fn counts_that_overflow_are_errors() {
        let count = |number: u64| [&[0x81][..], &number.to_be_bytes()].concat();
        let listpacks = [b"REDIS0010\x13\x01a", &count(u64::MAX)[..]].concat();
        assert_eq!(keys(&listpacks).unwrap_err().to_string(), "the file is truncated");
        // No listpack, its eight counts, one group "g" with its counts, no entry, one consumer "c", pending entries.
        let group = b"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x01g\x00\x00\x00\x00\x01\x01c\0\0\0\0\0\0\0\0";
        let pending = [b"REDIS0010\x13\x01a", &group[..], &count(u64::MAX)].concat();
        assert_eq!(keys(&pending).unwrap_err().to_string(), "a stream is damaged");
    }

    #[test]
    fn a_string_grows_no_longer_than_it_says() {
        let block = [0xe0, 0xff, 0x00].repeat(100_000);
        let mut bytes = Vec::new();
        decompress_lzf(&[b"\x00a", &block[..]].concat(), 1000, &mut bytes);
        assert!(bytes.len() < 1000 + 300, "{} bytes", bytes.len());
        let length = u64::MAX.to_be_bytes();
        let file = [b"REDIS0010\x00\xc3\x02\x81", &length[..], b"\x00a\x00\xff"].concat();
        assert_eq!(keys(&file).unwrap_err().to_string(), "a compressed string is damaged");
    }
}
