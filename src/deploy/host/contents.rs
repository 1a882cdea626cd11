//! The contents of releases: those that the host has, and those that the controller sends.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::layout::{ServiceLayout, has_content};
use super::releases::StoredRelease;
use crate::plan::Digest;
use crate::protocol::deploy::{DesiredState, FileOwner, ReleaseFile};
use crate::resources::BlobSource;

/// Maximum number of bytes that are requested before they are used, and so kept in memory.
const MAX_REQUESTED_BYTES: u64 = 8 << 20;
/// Number of bytes that are requested at once, at least.
const MIN_REQUEST_BYTES: u64 = 1 << 20;

/// A file of a release on this host.
#[derive(Clone)]
pub(super) struct LocalFile {
    pub path: PathBuf,
    pub mode: u32,
    pub owner: Option<FileOwner>,
}

/// A part of a file of a release on this host.
struct LocalRange {
    path: PathBuf,
    offset: u64,
    /// Set if the file was written or checked with these bytes and has its time and size since.
    is_unchanged: bool,
}

/// Possible locations of contents in the releases; the bytes are checked when they are read.
pub(super) struct LocalContents {
    files: BTreeMap<Digest, Vec<LocalFile>>,
    ranges: BTreeMap<Digest, Vec<LocalRange>>,
}

impl LocalContents {
    pub fn of_releases(stored: &[StoredRelease]) -> Self {
        let mut local = Self { files: BTreeMap::new(), ranges: BTreeMap::new() };
        for release in stored {
            for file in &release.manifest.files {
                local.add_file(file, &release.dir.join(file.path.as_str()), release.is_unchanged(file));
            }
        }
        local
    }

    pub fn add_file(&mut self, file: &ReleaseFile, path: &Path, is_unchanged: bool) {
        let (path, mut offset) = (path.to_owned(), 0);
        for (digest, size) in file.contents() {
            let range = LocalRange { path: path.clone(), offset, is_unchanged };
            self.ranges.entry(digest.clone()).or_default().push(range);
            offset += size;
        }
        let local = LocalFile { path, mode: file.mode, owner: file.owner.clone() };
        self.files.entry(file.sha256.clone()).or_default().push(local);
    }

    /// Adds a content of a file that may still be written.
    pub fn add_range(&mut self, digest: &Digest, path: &Path, offset: u64) {
        let range = LocalRange { path: path.to_owned(), offset, is_unchanged: false };
        self.ranges.entry(digest.clone()).or_default().push(range);
    }

    /// Returns an intact file with the same bytes.
    pub fn find_file(&self, file: &ReleaseFile) -> Option<&LocalFile> {
        self.files.get(&file.sha256)?.iter().find(|local| has_content(&local.path, file.size, &file.sha256))
    }

    /// Returns whether a file has the same size and digest according to the records; its bytes are not read.
    fn may_have_file(&self, file: &ReleaseFile) -> bool {
        let has_size = |local: &LocalFile| local.path.symlink_metadata().is_ok_and(|stat| stat.len() == file.size);
        self.files.get(&file.sha256).is_some_and(|files| files.iter().any(has_size))
    }

    /// Returns whether a content is here according to the records of unchanged files, or else to its bytes.
    fn may_have_content(&self, digest: &Digest, size: u64) -> bool {
        self.ranges.get(digest).is_some_and(|ranges| ranges.iter().any(|range| range.is_unchanged))
            || self.read_content(digest, size).is_some()
    }

    /// Reads a content from one of its locations.
    pub fn read_content(&self, digest: &Digest, size: u64) -> Option<Vec<u8>> {
        let length = usize::try_from(size).ok()?;
        self.ranges.get(digest)?.iter().find_map(|range| {
            let mut bytes = vec![0; length];
            File::open(&range.path).and_then(|file| file.read_exact_at(&mut bytes, range.offset)).ok()?;
            (Digest::of_bytes(&bytes) == *digest).then_some(bytes)
        })
    }
}

/// Returns the contents of a state's files that no release on this host has, with their sizes in bytes, each once and
/// in the order in which they are needed. The bytes of unchanged files are not read: the reader checks them.
pub(super) fn missing_file_contents(local: &LocalContents, desired: &DesiredState) -> Vec<(Digest, u64)> {
    let mut seen = BTreeSet::new();
    let contents = desired.manifest.files.iter().flat_map(ReleaseFile::contents);
    let missing =
        contents.filter(|(digest, size)| seen.insert((*digest).clone()) && !local.may_have_content(digest, *size));
    missing.map(|(digest, size)| (digest.clone(), size)).collect()
}

/// Returns the contents of a state's units and configuration that no release on this host has.
pub(super) fn missing_texts(stored: &[StoredRelease], desired: &DesiredState) -> Vec<Digest> {
    let is_missing = |digest: &&Digest| stored.iter().all(|release| release.read_text(digest).is_err());
    let texts: BTreeSet<&Digest> = desired.config.blob_digests().filter(is_missing).collect();
    texts.into_iter().cloned().collect()
}

/// Returns all contents of a state that this host does not have.
///
/// # Errors
/// Returns an error if the service's folder cannot be read.
pub(super) fn missing_contents(layout: &ServiceLayout, desired: &DesiredState) -> Result<Vec<Digest>> {
    let (stored, _) = StoredRelease::list_all(layout)?;
    let files = missing_file_contents(&LocalContents::of_releases(&stored), desired);
    let mut missing: Vec<Digest> = files.into_iter().map(|(digest, _)| digest).collect();
    missing.extend(missing_texts(&stored, desired));
    missing.sort();
    missing.dedup();
    Ok(missing)
}

/// Returns the number of bytes that a state needs on the disk in addition to those in use.
///
/// # Errors
/// Returns an error if the service's folder cannot be read.
pub(super) fn count_bytes_to_write(layout: &ServiceLayout, desired: &DesiredState) -> Result<u64> {
    let (stored, _) = StoredRelease::list_all(layout)?;
    let (local, texts) = (LocalContents::of_releases(&stored), missing_texts(&stored, desired));
    let new_files = desired.manifest.files.iter().filter(|file| file.owner.is_some() || !local.may_have_file(file));
    let files: u64 = new_files.map(|file| file.size).fold(0, u64::saturating_add);
    let units = desired.config.units.iter().map(|unit| (&unit.digest, unit.size));
    let configs = desired.config.configs.iter().map(|config| (&config.digest, config.size));
    let new_texts = units.chain(configs).filter(|(digest, _)| texts.contains(digest));
    Ok(new_texts.map(|(_, size)| size).fold(files, u64::saturating_add))
}

/// Requests contents from the controller before they are used, so that they arrive while earlier ones are written, and
/// keeps none that was used.
pub(super) struct ContentFetcher<'a> {
    blobs: &'a dyn BlobSource,
    /// Contents that were not requested, in the order in which they are needed.
    due: VecDeque<(Digest, u64)>,
    /// Contents that were requested and not used, with their sizes in bytes.
    requested: BTreeMap<Digest, u64>,
    /// Bytes of the requested contents.
    requested_bytes: u64,
    /// Bytes that the controller sends in all.
    pub total_bytes: u64,
    /// Bytes that arrived and were used.
    pub received_bytes: u64,
}

impl<'a> ContentFetcher<'a> {
    pub fn new(blobs: &'a dyn BlobSource, due: Vec<(Digest, u64)>) -> Self {
        let total_bytes = due.iter().map(|(_, size)| size).sum();
        let (requested, requested_bytes, received_bytes) = (BTreeMap::new(), 0, 0);
        Self { blobs, due: due.into(), requested, requested_bytes, total_bytes, received_bytes }
    }

    /// Returns a content, and drops it from memory. Its bytes are not checked.
    ///
    /// # Errors
    /// Returns an error if the controller does not send it.
    pub fn take_content(&mut self, digest: &Digest, size: u64) -> Result<Vec<u8>> {
        self.request_next();
        let bytes = self.blobs.read_blob(digest)?;
        self.blobs.discard_blob(digest);
        match self.requested.remove(digest) {
            Some(requested) => self.requested_bytes -= requested,
            // The copy of this host turned out to be damaged.
            None => self.total_bytes += size,
        }
        self.received_bytes += size;
        Ok(bytes)
    }

    /// Requests the next contents, unless enough are requested.
    fn request_next(&mut self) {
        if self.requested_bytes + MIN_REQUEST_BYTES > MAX_REQUESTED_BYTES {
            return;
        }
        let mut batch = Vec::new();
        while let Some((_, size)) = self.due.front()
            && (self.requested_bytes == 0 || self.requested_bytes + size <= MAX_REQUESTED_BYTES)
            && let Some((next, size)) = self.due.pop_front()
        {
            self.requested_bytes += size;
            self.requested.insert(next.clone(), size);
            batch.push(next);
        }
        if !batch.is_empty() {
            self.blobs.request_blobs(&batch);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// The requests of a fetcher, and the number of contents that were requested and not dropped.
    #[derive(Default)]
    struct RecordedRequests(Mutex<(Vec<usize>, usize)>);

    impl BlobSource for RecordedRequests {
        fn request_blobs(&self, digests: &[Digest]) {
            let mut recorded = self.0.lock().unwrap();
            recorded.0.push(digests.len());
            recorded.1 += digests.len();
        }

        fn discard_blob(&self, _digest: &Digest) {
            self.0.lock().unwrap().1 -= 1;
        }

        fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>> {
            Ok(digest.as_str().as_bytes().to_vec())
        }
    }

    #[test]
    fn contents_are_requested_ahead_and_few_are_in_memory() {
        let due: Vec<(Digest, u64)> =
            (0..200_u32).map(|number| (Digest::of_bytes(&number.to_be_bytes()), 256 << 10)).collect();
        let requests = RecordedRequests::default();
        let mut fetcher = ContentFetcher::new(&requests, due.clone());
        for (number, (digest, size)) in due.iter().enumerate() {
            assert_eq!(fetcher.take_content(digest, *size).unwrap(), digest.as_str().as_bytes());
            let in_memory = requests.0.lock().unwrap().1 as u64 * size;
            assert!(in_memory < MAX_REQUESTED_BYTES, "{in_memory} bytes");
            assert!(number > 160 || in_memory >= MAX_REQUESTED_BYTES - MIN_REQUEST_BYTES - size, "{in_memory} bytes");
        }
        assert_eq!((fetcher.received_bytes, fetcher.total_bytes), (200 * (256 << 10), 200 * (256 << 10)));
        let requests = requests.0.into_inner().unwrap().0;
        assert_eq!(requests.iter().sum::<usize>(), 200);
        assert!(requests.len() < 60, "{} requests", requests.len());
    }
}
