//! Unpacks an artifact without trusting its contents.

use std::cell::Cell;
use std::io::{self, Read};
use std::path::PathBuf;
use std::rc::Rc;

use tar::{Archive, Entries, Entry, EntryType};

use super::collect::find_path_conflict;
use super::{FILES_DIR, MANIFEST_NAME, MAX_CHUNK_BYTES, MAX_FILE_BYTES};
use crate::fleet::ContentFile;
use crate::plan::{Digest, DigestHasher};
use crate::protocol::deploy::{FileOwner, MANIFEST_FORMAT, ReleaseFile, ReleaseLink, ReleaseManifest, is_account_name};

/// Longest manifest, in bytes.
const MAX_MANIFEST_BYTES: u64 = 16 << 20;
/// Most bytes of all files: an archive that promises more is not opened.
const MAX_TOTAL_BYTES: u64 = 64 << 30;
/// Most bytes around a content: the headers of an entry, with its long name and extensions, and padding.
const MAX_HEADER_BYTES: u64 = 1 << 20;

/// Describes why an artifact is rejected.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// The file is not there, or may not be read.
    #[error("{} cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// The file is not a zstd-compressed tar archive, or is truncated.
    #[error("not a complete artifact (a .tar.zst made by `dunlin package`)")]
    Corrupt(#[source] io::Error),
    /// Its first entry is not a manifest that this version understands.
    #[error("the manifest is refused: {0}")]
    Manifest(String),
    /// An entry is not what the manifest says, or not in it.
    #[error("entry {entry:?} is refused: {reason}")]
    Entry {
        /// Its name in the archive.
        entry: String,
        /// Description of the error.
        reason: String,
    },
    /// The contents cannot be written to a temporary file.
    #[error("the artifact cannot be unpacked")]
    Unpacking(#[source] io::Error),
    /// Unpacked, it would not fit on the disk.
    #[error("the artifact cannot be unpacked: it needs {needed} bytes, and {free} bytes are free")]
    NoSpace {
        /// Bytes of its files.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// Files of the manifest that the archive does not hold.
    #[error("the archive lacks {}", .0.join(", "))]
    MissingFiles(Vec<String>),
}

/// Reads an archive up to a budget that its user refills. The reader of archives collects long names and extensions in
/// memory, whatever length they claim.
struct BudgetReader<R> {
    source: R,
    budget: Budget,
}

/// The number of bytes that may still be read.
#[derive(Clone)]
struct Budget(Rc<Cell<u64>>);

impl Budget {
    fn refill(&self, bytes: u64) {
        self.0.set(bytes);
    }
}

impl<R: Read> Read for BudgetReader<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = self.budget.0.get();
        if left == 0 && !into.is_empty() {
            return Err(io::Error::other(format!("the headers of an entry exceed {MAX_HEADER_BYTES} bytes")));
        }
        let most = into.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let read = self.source.read(&mut into[..most])?;
        self.budget.refill(left - read as u64);
        Ok(read)
    }
}

/// Returns the manifest of an artifact, and adds the contents of its files to `contents`.
pub(super) fn unpack_artifact(packed: impl Read, contents: &mut ContentFile) -> Result<ReleaseManifest, ArtifactError> {
    let decoder = zstd::stream::read::Decoder::new(packed).map_err(ArtifactError::Corrupt)?;
    let budget = Budget(Rc::new(Cell::new(MAX_HEADER_BYTES)));
    let mut archive = Archive::new(BudgetReader { source: decoder, budget: budget.clone() });
    let manifest = {
        let mut entries = archive.entries().map_err(ArtifactError::Corrupt)?;
        let manifest = read_manifest(&mut entries, &budget)?;
        let (needed, free) = (manifest.total_bytes(), contents.free_bytes().map_err(ArtifactError::Unpacking)?);
        if needed > free {
            return Err(ArtifactError::NoSpace { needed, free });
        }
        read_files(&mut entries, &manifest, &budget, contents)?;
        manifest
    };
    // The archive's end is in the middle of the stream's last blocks: data after it is no part of an artifact.
    let mut rest = Vec::new();
    archive.into_inner().source.take(1 << 20).read_to_end(&mut rest).map_err(ArtifactError::Corrupt)?;
    if rest.iter().any(|&byte| byte != 0) {
        return Err(ArtifactError::Corrupt(io::Error::other("there is data after the end of the archive")));
    }
    Ok(manifest)
}

/// Reads the manifest at the beginning of an artifact.
pub(super) fn unpack_manifest(packed: impl Read) -> Result<ReleaseManifest, ArtifactError> {
    let decoder = zstd::stream::read::Decoder::new(packed).map_err(ArtifactError::Corrupt)?;
    let budget = Budget(Rc::new(Cell::new(MAX_HEADER_BYTES)));
    let mut archive = Archive::new(BudgetReader { source: decoder, budget: budget.clone() });
    let mut entries = archive.entries().map_err(ArtifactError::Corrupt)?;
    read_manifest(&mut entries, &budget)
}

fn read_manifest<R: Read>(entries: &mut Entries<'_, R>, budget: &Budget) -> Result<ReleaseManifest, ArtifactError> {
    let manifest_error = |why: String| ArtifactError::Manifest(why);
    let mut entry = match entries.next() {
        Some(entry) => entry.map_err(ArtifactError::Corrupt)?,
        None => return Err(manifest_error("the archive is empty".to_owned())),
    };
    if *entry.path_bytes() != *MANIFEST_NAME.as_bytes() || entry.header().entry_type() != EntryType::Regular {
        return Err(manifest_error(format!("the first entry is not the file {MANIFEST_NAME}")));
    }
    let json = read_entry(&mut entry, MAX_MANIFEST_BYTES, budget)?;
    // The number first: a later format may have keys that this version does not know.
    let format =
        serde_json::from_slice::<serde_json::Value>(&json).map_err(|error| manifest_error(error.to_string()))?;
    if format.get("format_version") != Some(&MANIFEST_FORMAT.into()) {
        return Err(manifest_error(format!(
            "its format_version is not {MANIFEST_FORMAT}; another version of dunlin made it"
        )));
    }
    let manifest: ReleaseManifest = serde_json::from_slice(&json).map_err(|error| manifest_error(error.to_string()))?;
    validate_manifest(&manifest).map_err(manifest_error)?;
    Ok(manifest)
}

/// Checks what the types cannot express: order, sizes, valid digests, no file inside another.
fn validate_manifest(manifest: &ReleaseManifest) -> Result<(), String> {
    for pair in manifest.files.windows(2) {
        let (one, next) = (pair[0].path.as_str(), pair[1].path.as_str());
        if one >= next {
            return Err(format!("its files are not sorted, or listed twice: {one}, {next}"));
        }
    }
    for file in &manifest.files {
        let path = file.path.as_str();
        if !is_digest(&file.sha256) || !file.chunks.iter().all(|chunk| is_digest(&chunk.sha256)) {
            return Err(format!("{path} has no SHA-256 digest"));
        }
        if file.mode > 0o777 {
            return Err(format!("{path} has an invalid mode; modes from 0000 to 0777 are allowed"));
        }
        if file.size > MAX_FILE_BYTES {
            return Err(format!("{path} is too long"));
        }
        if file.contents().any(|(_, size)| size > MAX_CHUNK_BYTES as u64) {
            return Err(format!("{path} has no chunks, or one that is too long"));
        }
        let sum = file.contents().try_fold(0_u64, |sum, (_, size)| sum.checked_add(size));
        if sum != Some(file.size) || file.chunks.iter().any(|chunk| chunk.size == 0) {
            return Err(format!("{path} does not have the size of its chunks"));
        }
    }
    if manifest.links.windows(2).any(|pair| pair[0].path.as_str() >= pair[1].path.as_str()) {
        return Err("its links are not sorted, or listed twice".to_owned());
    }
    manifest.links.iter().try_for_each(ReleaseLink::check_target)?;
    let is_file = |link: &&ReleaseLink| manifest.files.iter().any(|file| file.path == link.path);
    if let Some(link) = manifest.links.iter().find(is_file) {
        return Err(format!("{} is a file and a link", link.path));
    }
    if manifest.folders.windows(2).any(|pair| pair[0].path.as_str() >= pair[1].path.as_str()) {
        return Err("its folders are not sorted, or listed twice".to_owned());
    }
    let files = manifest.files.iter().map(|file| file.path.as_str());
    let links = manifest.links.iter().map(|link| link.path.as_str());
    let folders = manifest.folders.iter().map(|folder| folder.path.as_str());
    if let Some(folder) = folders.clone().find(|folder| files.clone().chain(links.clone()).any(|path| path == *folder))
    {
        return Err(format!("{folder} is a folder, and a file or link"));
    }
    if let Some(what) = find_path_conflict(files.chain(links).chain(folders)) {
        return Err(what);
    }
    let is_valid = |owner: &&FileOwner| is_account_name(&owner.user) && is_account_name(&owner.group);
    if let Some(owner) = manifest.owners().into_iter().find(|owner| !is_valid(owner)) {
        return Err(format!("{:?} and {:?} are not names of accounts", owner.user, owner.group));
    }
    let all = manifest.files.iter().try_fold(0_u64, |sum, file| sum.checked_add(file.size));
    match all {
        Some(sum) if sum <= MAX_TOTAL_BYTES => Ok(()),
        _ => Err("the total size of its files is above the limit".to_owned()),
    }
}

fn is_digest(digest: &Digest) -> bool {
    let digits = digest.as_str();
    digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Reads the other entries of the archive: they must be the manifest's files, in its order.
fn read_files<R: Read>(
    entries: &mut Entries<'_, R>,
    manifest: &ReleaseManifest,
    budget: &Budget,
    contents: &mut ContentFile,
) -> Result<(), ArtifactError> {
    let mut expected = manifest.files.iter();
    for entry in entries {
        let mut entry = entry.map_err(ArtifactError::Corrupt)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let entry_error = |why: &str| ArtifactError::Entry { entry: name.clone(), reason: why.to_owned() };
        if entry.header().entry_type() != EntryType::Regular {
            return Err(entry_error("it is not a regular file"));
        }
        let Some(file) = expected.next() else { return Err(entry_error("it is not in the manifest")) };
        let expected_name = format!("{FILES_DIR}/{}", file.path);
        if name != expected_name {
            return Err(entry_error(&format!("expected {expected_name:?} at this position")));
        }
        let size = entry.size();
        if size != file.size {
            return Err(entry_error(&format!("it has {size} bytes where the manifest says {}", file.size)));
        }
        if entry.header().mode().ok() != Some(file.mode) {
            return Err(entry_error("its mode differs from the manifest"));
        }
        budget.refill(size.saturating_add(MAX_HEADER_BYTES));
        if !read_contents(&mut entry, file, contents)? {
            return Err(entry_error("its digest differs from the manifest"));
        }
        budget.refill(MAX_HEADER_BYTES);
    }
    let missing: Vec<String> = expected.map(|file| file.path.to_string()).collect();
    if missing.is_empty() { Ok(()) } else { Err(ArtifactError::MissingFiles(missing)) }
}

/// Reads a file in its contents; `false` if they do not have the digests of the manifest.
fn read_contents(entry: &mut impl Read, file: &ReleaseFile, contents: &mut ContentFile) -> Result<bool, ArtifactError> {
    let mut hasher = DigestHasher::default();
    for (digest, size) in file.contents() {
        let mut bytes = Vec::new();
        entry.by_ref().take(size).read_to_end(&mut bytes).map_err(ArtifactError::Corrupt)?;
        if bytes.len() as u64 != size {
            return Err(ArtifactError::Corrupt(io::ErrorKind::UnexpectedEof.into()));
        }
        if Digest::of_bytes(&bytes) != *digest {
            return Ok(false);
        }
        hasher.update(&bytes);
        contents.add_content(digest, &bytes).map_err(ArtifactError::Unpacking)?;
    }
    Ok(hasher.finish() == file.sha256)
}

/// Returns an entry's bytes, at most `max_bytes` and as many as its header says; the budget is then that of a header.
fn read_entry<R: Read>(entry: &mut Entry<'_, R>, max_bytes: u64, budget: &Budget) -> Result<Vec<u8>, ArtifactError> {
    let size = entry.size();
    if size > max_bytes {
        return Err(ArtifactError::Corrupt(io::Error::other(format!("an entry of {size} bytes"))));
    }
    budget.refill(size.saturating_add(MAX_HEADER_BYTES));
    let mut bytes = Vec::new();
    entry.take(max_bytes).read_to_end(&mut bytes).map_err(ArtifactError::Corrupt)?;
    if bytes.len() as u64 != size {
        return Err(ArtifactError::Corrupt(io::ErrorKind::UnexpectedEof.into()));
    }
    budget.refill(MAX_HEADER_BYTES);
    Ok(bytes)
}
