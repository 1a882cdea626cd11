//! Verification of a copy by the files on the target's disk.
//!
//! A replica keeps the snapshot that it was sent (`dump.rdb`), and writes what it made of it as the base of its
//! append-only file, before it applies anything else. Both are read once, as digests: no server is asked, and what
//! came to the disk is looked at as well. What was written to since, by the source's stream or by anybody else, is
//! in the file's increments. What is left to ask both servers for are those keys, and those whose digests differ.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use xxhash_rust::xxh3::xxh3_64;

use super::super::redis_client::{RedisClient, RedisInfo};
use super::aof::{self, KeySpecs};
use super::key_state::Key;
use super::rdb;
use crate::host_fs::{self, MAX_TEXT_BYTES, read_limited};
use crate::poll::poll_until;

/// Keys by database.
pub type CandidateKeys = BTreeMap<u32, BTreeSet<Key>>;

/// Keys are divided into this many groups, and the digests of a group are summed up: what does not depend on the order
/// of keys, which is each server's own, nor on their number.
const GROUP_COUNT: usize = 1 << 16;
/// Limits above which comparing all keys one by one is faster: differing groups, and keys that may differ.
const MAX_DIFFERING_GROUPS: usize = GROUP_COUNT / 4;
const MAX_CANDIDATE_KEYS: usize = 1 << 20;
/// Maximum number of attempts to open the files while a rewrite replaces them.
const MAX_MANIFEST_READS: u32 = 3;
/// The time of a file is that of the last kernel tick, and a server reports its age in whole seconds.
const MTIME_TOLERANCE: Duration = Duration::from_secs(2);
/// A server under `appendfsync everysec` writes after 2 s at the latest (`flushAppendOnlyFile` of Redis 7.0).
const AOF_WRITE_TIMEOUT: Duration = Duration::from_secs(5);
const POLL_INTERVAL: Duration = Duration::from_millis(5);
const UNKNOWN_MANIFEST: &str = "the manifest of its append-only file has an unknown format";

/// Returns the keys that may differ at the target. All others are as the source sent them.
///
/// # Errors
/// Returns an error if the files do not decide it; the error says why.
pub fn find_candidate_keys(
    target: &mut RedisClient,
    should_continue: &(dyn Fn() -> bool + Sync),
) -> Result<CandidateKeys> {
    let files = TargetFiles::open(target)?;
    let (received, in_base) = std::thread::scope(|scope| {
        let sent = scope.spawn(|| GroupDigests::read_file(&files.received_snapshot, should_continue));
        let held = GroupDigests::read_file(&files.aof_base, should_continue);
        (sent.join().expect("reading does not panic"), held)
    });
    let (sent, held) = (received?, in_base?);
    let id = target.fetch_info("replication")?.text_field("master_replid").to_owned();
    ensure!(sent.header.replication_id.as_ref() == Some(&id), "the snapshot on its disk is another server's");
    let differing = sent.differing_groups(&held);
    ensure!(differing.len() <= MAX_DIFFERING_GROUPS, "most keys are encoded differently from the snapshot");

    let mut candidates = CandidateCollector::default();
    if !differing.is_empty() {
        for file in [&files.received_snapshot, &files.aof_base] {
            read_snapshot(file, should_continue, |item| {
                let is_asked = differing.contains(&group_index(item.key));
                if is_asked { candidates.add_key(item.database, item.key.to_vec()) } else { Ok(()) }
            })?;
        }
    }
    files.wait_for_increment(should_continue)?;
    let increment = reader_from_start(&files.aof_increment, files.expected_increment_bytes)?;
    aof::for_each_changed_key(increment, &mut KeySpecs::default(), target, |database, key| {
        candidates.add_key(database, key)
    })?;
    Ok(candidates.keys)
}

#[derive(Default)]
struct CandidateCollector {
    keys: CandidateKeys,
    count: usize,
}

impl CandidateCollector {
    fn add_key(&mut self, database: u32, key: Key) -> Result<()> {
        self.count += usize::from(self.keys.entry(database).or_default().insert(key));
        ensure!(self.count <= MAX_CANDIDATE_KEYS, "more than {MAX_CANDIDATE_KEYS} keys have been written to");
        Ok(())
    }
}

/// The digests of a snapshot.
struct GroupDigests {
    sums: Vec<u128>,
    header: rdb::RdbHeader,
}

impl GroupDigests {
    fn read_file(file: &File, should_continue: &(dyn Fn() -> bool + Sync)) -> Result<Self> {
        let mut sums = vec![0_u128; GROUP_COUNT];
        let header = read_snapshot(file, should_continue, |item| {
            let sum = &mut sums[group_index(item.key)];
            *sum = sum.wrapping_add(item.digest);
            Ok(())
        })?;
        Ok(Self { sums, header })
    }

    fn differing_groups(&self, other: &Self) -> BTreeSet<usize> {
        (0..GROUP_COUNT).filter(|&group| self.sums[group] != other.sums[group]).collect()
    }
}

fn group_index(key: &[u8]) -> usize {
    usize::try_from(xxh3_64(key) % GROUP_COUNT as u64).expect("a remainder")
}

fn read_snapshot(
    file: &File,
    should_continue: &(dyn Fn() -> bool + Sync),
    mut each: impl FnMut(&rdb::RdbKey<'_>) -> Result<()>,
) -> Result<rdb::RdbHeader> {
    let mut count = 0_u32;
    rdb::read_rdb(reader_from_start(file, file.metadata()?.len())?, |item| {
        count = count.wrapping_add(1);
        ensure!(!count.is_multiple_of(1024) || should_continue(), "cancelled");
        each(item)
    })
}

/// Returns a separate reader of the file's first bytes.
fn reader_from_start(file: &File, bytes: u64) -> Result<impl Read + use<>> {
    Ok(PositionedReader { file: file.try_clone()?, position: 0 }.take(bytes))
}

/// Reads at its own position, independent of other readers of the file.
struct PositionedReader {
    file: File,
    position: u64,
}

impl Read for PositionedReader {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let read = std::os::unix::fs::FileExt::read_at(&self.file, into, self.position)?;
        self.position += read as u64;
        Ok(read)
    }
}

/// Files of the target on its disk.
struct TargetFiles {
    /// The snapshot that it was sent.
    received_snapshot: File,
    /// Append-only file: the base made from the snapshot, and the increment since.
    aof_base: File,
    aof_increment: File,
    /// Bytes of whole commands that the increment has, or is about to have, of what was executed before it was opened.
    expected_increment_bytes: u64,
}

impl TargetFiles {
    fn open(target: &mut RedisClient) -> Result<Self> {
        let folder = PathBuf::from(target.fetch_setting("dir")?);
        let snapshot = folder.join(target.fetch_setting("dbfilename")?);
        let sent = open_data_file(&snapshot)?;
        let info = target.fetch_info("persistence")?;
        ensure_first_sync(&sent, &info, target)?;
        let folder = folder.join(target.fetch_setting("appenddirname")?);
        let manifest = folder.join(format!("{}.manifest", target.fetch_setting("appendfilename")?));
        for _ in 0..MAX_MANIFEST_READS {
            let lines = read_manifest(&manifest)?;
            let opened = AofManifest::parse(&lines).and_then(|parsed| parsed.open_files(&folder));
            if lines != read_manifest(&manifest)? {
                continue;
            }
            let (base, increment) = opened?;
            let all = info.number_field("aof_current_size") + info.number_field("aof_buffer_length");
            let written = all.checked_sub(base.metadata()?.len()).context("its append-only file is of another size")?;
            return Ok(Self {
                received_snapshot: sent,
                aof_base: base,
                aof_increment: increment,
                expected_increment_bytes: written,
            });
        }
        bail!("its append-only file is being rewritten continuously");
    }

    /// Waits until the increment has all that it was about to have.
    fn wait_for_increment(&self, should_continue: &(dyn Fn() -> bool + Sync)) -> Result<()> {
        let is_whole = poll_until(Instant::now() + AOF_WRITE_TIMEOUT, POLL_INTERVAL, || {
            if self.aof_increment.metadata()?.len() >= self.expected_increment_bytes {
                return Ok(Some(()));
            }
            ensure!(should_continue(), "cancelled");
            Ok(None)
        })?;
        is_whole.context("its append-only file is shorter than it says")
    }
}

/// Checks that snapshot and base come from the one full sync since this process started.
fn ensure_first_sync(snapshot: &File, info: &RedisInfo, target: &mut RedisClient) -> Result<()> {
    ensure!(target.fetch_setting("repl-diskless-load")? == "disabled", "it keeps no snapshot (repl-diskless-load)");
    ensure!(info.text_field("rdb_saves") == "0", "it may have written a snapshot itself");
    ensure!(info.text_field("aof_rewrites") == "1", "it has rewritten its append-only file");
    let age = Duration::from_secs(target.fetch_info("server")?.number_field("uptime_in_seconds"));
    let started = SystemTime::now().checked_sub(age).context("the server is older than time")?;
    ensure!(snapshot.metadata()?.modified()? + MTIME_TOLERANCE > started, "its snapshot is older than the server");
    Ok(())
}

fn read_manifest(path: &Path) -> Result<String> {
    let bytes = read_limited(&open_data_file(path)?, MAX_TEXT_BYTES, path)?;
    String::from_utf8(bytes).with_context(|| format!("{} is not UTF-8 text", path.display()))
}

/// Opens a file of the instance, in a folder where its user can put links and pipes.
fn open_data_file(path: &Path) -> Result<File> {
    host_fs::open_file(path)?.with_context(|| format!("{} does not exist", path.display()))
}

/// The files that a manifest names: `file NAME seq N type b` for the base, `i` for an increment, `h` for what was. Redis 8.0
/// adds `startoffset N` and `endoffset N`, the replication offsets of an increment.
#[derive(Debug, Default, PartialEq, Eq)]
struct AofManifest<'a> {
    base: Option<&'a str>,
    increments: Vec<&'a str>,
}

impl<'a> AofManifest<'a> {
    fn parse(manifest: &'a str) -> Result<Self> {
        let mut named = Self::default();
        for line in manifest.lines().filter(|line| !line.starts_with('#')) {
            let words: Vec<&str> = line.split(' ').collect();
            let ["file", name, "seq", _, "type", kind, offsets @ ..] = &words[..] else { bail!(UNKNOWN_MANIFEST) };
            let is_offset = |pair: &[&str]| matches!(pair, ["startoffset" | "endoffset", _]);
            ensure!(offsets.chunks(2).all(is_offset), UNKNOWN_MANIFEST);
            match *kind {
                "b" => named.base = Some(name),
                "i" => named.increments.push(name),
                "h" => {}
                _ => bail!(UNKNOWN_MANIFEST),
            }
        }
        Ok(named)
    }

    /// Opens the base and the increment; during a rewrite of the base there are more, and their sizes are not reported
    /// separately.
    fn open_files(&self, folder: &Path) -> Result<(File, File)> {
        let open = |name: &str| open_data_file(&folder.join(name));
        let base = open(self.base.context("its append-only file has no base")?)?;
        let [increment] = self.increments[..] else {
            bail!("its append-only file does not have exactly one increment")
        };
        Ok((base, open(increment)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_names_the_files_that_count() {
        let manifest = "file a.3.base.rdb seq 3 type b\nfile a.2.incr.aof seq 2 type h\nfile a.4.incr.aof seq 4 type i\n\
                        file a.5.incr.aof seq 5 type i\n";
        let named = AofManifest::parse(manifest).unwrap();
        assert_eq!(named, AofManifest { base: Some("a.3.base.rdb"), increments: vec!["a.4.incr.aof", "a.5.incr.aof"] });
        let with_offsets = "file a.2.base.rdb seq 2 type b\nfile a.1.incr.aof seq 1 type h startoffset 1 endoffset 9\n\
                            file a.2.incr.aof seq 2 type i startoffset 9\n";
        let named = AofManifest::parse(with_offsets).unwrap();
        assert_eq!(named, AofManifest { base: Some("a.2.base.rdb"), increments: vec!["a.2.incr.aof"] });
        for unknown in ["\"a b\" seq 1 type b", "a seq 1 type x", "a seq 1 type b startoffset", "a seq 1 type b size 7"]
        {
            assert!(AofManifest::parse(&format!("file {unknown}\n")).is_err(), "{unknown}");
        }
        assert!(AofManifest::parse("").unwrap().open_files(Path::new("/")).is_err());
    }
}
