//! Whether a copy became what it was made of, by the files on the target's disk.
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

use super::super::link::{Info, Link};
use super::increments::{self, Places};
use super::sides::Key;
use super::snapshot;
use crate::poll::poll_until;

/// Keys by database.
pub type Suspects = BTreeMap<u32, BTreeSet<Key>>;

/// Keys fall into so many groups, and the digests of a group are summed up: what does not depend on the order of keys,
/// which is each server's own, nor on their number.
const GROUPS: usize = 1 << 16;
/// Where more groups than this differ, all keys are better asked for one after the other; so are more keys than that.
const OTHERWISE: usize = GROUPS / 4;
const MANY: usize = 1 << 20;
/// How often the files are looked up, where a new base takes their place meanwhile.
const LOOKS: u32 = 3;
/// A file's time is taken from the kernel's last tick, and a server tells its age in seconds.
const TICK: Duration = Duration::from_secs(2);
/// A server under `appendfsync everysec` writes after 2 s at the latest (`flushAppendOnlyFile` of Redis 7.0).
const POSTPONED: Duration = Duration::from_secs(5);
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// The keys that may differ at the target. All others are what the source sent.
///
/// # Errors
/// The files do not tell; the error says why.
pub fn suspects(target: &mut Link, goes_on: &(dyn Fn() -> bool + Sync)) -> Result<Suspects> {
    let files = Files::open(target)?;
    let (sent, held) = std::thread::scope(|scope| {
        let sent = scope.spawn(|| Groups::of(&files.sent, goes_on));
        let held = Groups::of(&files.base, goes_on);
        (sent.join().expect("reading does not panic"), held)
    });
    let (sent, held) = (sent?, held?);
    let id = target.info("replication")?.text("master_replid").to_owned();
    ensure!(sent.about.replication_id.as_ref() == Some(&id), "the snapshot on its disk is another server's");
    let differing = sent.differing(&held);
    ensure!(differing.len() <= OTHERWISE, "most keys are written otherwise than they were sent");

    let mut suspects = Collected::default();
    if !differing.is_empty() {
        for file in [&files.sent, &files.base] {
            read(file, goes_on, |item| {
                let is_asked = differing.contains(&group(item.key));
                if is_asked { suspects.add(item.database, item.key.to_vec()) } else { Ok(()) }
            })?;
        }
    }
    files.wait_for_the_increment(goes_on)?;
    let increment = from_the_start(&files.increment, files.written)?;
    increments::touched(increment, &mut Places::default(), target, |database, key| suspects.add(database, key))?;
    Ok(suspects.keys)
}

#[derive(Default)]
struct Collected {
    keys: Suspects,
    count: usize,
}

impl Collected {
    fn add(&mut self, database: u32, key: Key) -> Result<()> {
        self.count += usize::from(self.keys.entry(database).or_default().insert(key));
        ensure!(self.count <= MANY, "more than {MANY} keys have been written to");
        Ok(())
    }
}

/// The digests of a snapshot.
struct Groups {
    sums: Vec<u128>,
    about: snapshot::About,
}

impl Groups {
    fn of(file: &File, goes_on: &(dyn Fn() -> bool + Sync)) -> Result<Self> {
        let mut sums = vec![0_u128; GROUPS];
        let about = read(file, goes_on, |item| {
            let sum = &mut sums[group(item.key)];
            *sum = sum.wrapping_add(item.digest);
            Ok(())
        })?;
        Ok(Self { sums, about })
    }

    fn differing(&self, other: &Self) -> BTreeSet<usize> {
        (0..GROUPS).filter(|&group| self.sums[group] != other.sums[group]).collect()
    }
}

fn group(key: &[u8]) -> usize {
    usize::try_from(xxh3_64(key) % GROUPS as u64).expect("a remainder")
}

fn read(
    file: &File,
    goes_on: &(dyn Fn() -> bool + Sync),
    mut each: impl FnMut(&snapshot::Item<'_>) -> Result<()>,
) -> Result<snapshot::About> {
    let mut count = 0_u32;
    snapshot::read(from_the_start(file, file.metadata()?.len())?, |item| {
        count = count.wrapping_add(1);
        ensure!(!count.is_multiple_of(1024) || goes_on(), "cancelled");
        each(item)
    })
}

/// A reader of its own of the file's first bytes.
fn from_the_start(file: &File, bytes: u64) -> Result<impl Read + use<>> {
    Ok(Positioned { file: file.try_clone()?, at: 0 }.take(bytes))
}

/// Reads where it is, whoever else reads the same file.
struct Positioned {
    file: File,
    at: u64,
}

impl Read for Positioned {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let read = std::os::unix::fs::FileExt::read_at(&self.file, into, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// What the target has on its disk.
struct Files {
    /// The snapshot that it was sent.
    sent: File,
    /// What it made of it, and all since.
    base: File,
    increment: File,
    /// Bytes of whole commands that the increment has, or is about to have, of what was executed before it was opened.
    written: u64,
}

impl Files {
    fn open(target: &mut Link) -> Result<Self> {
        let folder = PathBuf::from(target.setting("dir")?);
        let sent = folder.join(target.setting("dbfilename")?);
        let sent = File::open(&sent).with_context(|| sent.display().to_string())?;
        let info = target.info("persistence")?;
        are_the_first(&sent, &info, target)?;
        let folder = folder.join(target.setting("appenddirname")?);
        let manifest = folder.join(format!("{}.manifest", target.setting("appendfilename")?));
        for _ in 0..LOOKS {
            let lines = manifest_of(&manifest)?;
            let opened = Named::of(&lines).and_then(|named| named.open(&folder));
            if lines != manifest_of(&manifest)? {
                continue;
            }
            let (base, increment) = opened?;
            let all = info.number("aof_current_size") + info.number("aof_buffer_length");
            let written = all.checked_sub(base.metadata()?.len()).context("its append-only file is of another size")?;
            return Ok(Self { sent, base, increment, written });
        }
        bail!("its append-only file is written anew all the time");
    }

    /// Waits until the increment has all that it was about to have.
    fn wait_for_the_increment(&self, goes_on: &(dyn Fn() -> bool + Sync)) -> Result<()> {
        let is_whole = poll_until(Instant::now() + POSTPONED, POLL_INTERVAL, || {
            if self.increment.metadata()?.len() >= self.written {
                return Ok(Some(()));
            }
            ensure!(goes_on(), "cancelled");
            Ok(None)
        })?;
        is_whole.context("its append-only file is shorter than it says")
    }
}

/// Is the snapshot what this process was sent, and the base what it made of that: the only ones since it started?
fn are_the_first(sent: &File, info: &Info, target: &mut Link) -> Result<()> {
    ensure!(target.setting("repl-diskless-load")? == "disabled", "it keeps no snapshot (repl-diskless-load)");
    ensure!(info.text("rdb_saves") == "0", "it may have written a snapshot itself");
    ensure!(info.text("aof_rewrites") == "1", "it has written its append-only file anew");
    let age = Duration::from_secs(target.info("server")?.number("uptime_in_seconds"));
    let started = SystemTime::now().checked_sub(age).context("the server is older than time")?;
    ensure!(sent.metadata()?.modified()? + TICK > started, "its snapshot is older than the server");
    Ok(())
}

fn manifest_of(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}

/// The files that a manifest names: `file NAME seq N type b` for the base, `i` for an increment, `h` for what was.
#[derive(Debug, Default, PartialEq, Eq)]
struct Named<'a> {
    base: Option<&'a str>,
    increments: Vec<&'a str>,
}

impl<'a> Named<'a> {
    fn of(manifest: &'a str) -> Result<Self> {
        let mut named = Self::default();
        for line in manifest.lines().filter(|line| !line.starts_with('#')) {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["file", name, "seq", _, "type", "b"] => named.base = Some(name),
                ["file", name, "seq", _, "type", "i"] => named.increments.push(name),
                ["file", _, "seq", _, "type", "h"] => {}
                _ => bail!("the manifest of its append-only file is in no known form"),
            }
        }
        Ok(named)
    }

    /// The base and the increment; while a base is written anew there are more, and their sizes are not told apart.
    fn open(&self, folder: &Path) -> Result<(File, File)> {
        let open = |name: &str| File::open(folder.join(name)).with_context(|| name.to_owned());
        let base = open(self.base.context("its append-only file has no base")?)?;
        let [increment] = self.increments[..] else { bail!("its append-only file has not one increment") };
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
        let named = Named::of(manifest).unwrap();
        assert_eq!(named, Named { base: Some("a.3.base.rdb"), increments: vec!["a.4.incr.aof", "a.5.incr.aof"] });
        assert!(Named::of("file \"a b\" seq 1 type b\n").is_err());
        assert!(Named::of("").unwrap().open(Path::new("/")).is_err());
    }
}
