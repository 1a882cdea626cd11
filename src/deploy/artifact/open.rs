//! Takes an artefact apart and trusts nothing in it.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::PathBuf;

use tar::{Archive, Entries, Entry, EntryType};

use super::collect::clash;
use super::{FILES, LONGEST, MANIFEST};
use crate::plan::Digest;
use crate::wire::deploy::{FORMAT, Manifest};

/// Longest manifest, in bytes.
const LONGEST_MANIFEST: u64 = 16 << 20;
/// Most bytes of all files: an archive that promises more is not opened.
const LARGEST: u64 = 8 << 30;

/// Why an artefact is refused.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// The file is not there, or may not be read.
    #[error("{} cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no zstd stream, no tar archive, or ends early.
    #[error("this is no whole artefact (a .tar.zst that `dunlin package` made)")]
    Broken(#[source] io::Error),
    /// Its first entry is not a manifest that this version understands.
    #[error("the manifest is refused: {0}")]
    Manifest(String),
    /// An entry is not what the manifest says, or not in it.
    #[error("entry {entry:?} is refused: {why}")]
    Entry {
        /// Its name in the archive.
        entry: String,
        /// What is wrong.
        why: String,
    },
    /// Files of the manifest that the archive does not hold.
    #[error("the archive lacks {}", .0.join(", "))]
    Lacks(Vec<String>),
}

type Unpacked = (Manifest, BTreeMap<Digest, Vec<u8>>);

/// The manifest and the contents of an artefact.
pub(super) fn unpack(packed: &[u8]) -> Result<Unpacked, ArtifactError> {
    let decoder = zstd::stream::read::Decoder::new(packed).map_err(ArtifactError::Broken)?;
    let mut archive = Archive::new(decoder);
    let (manifest, blobs) = {
        let mut entries = archive.entries().map_err(ArtifactError::Broken)?;
        let manifest = manifest(&mut entries)?;
        let blobs = files(&mut entries, &manifest)?;
        (manifest, blobs)
    };
    // The archive's end is in the middle of the stream's last blocks: what stands behind it is no part of an artefact.
    let mut rest = Vec::new();
    archive.into_inner().take(1 << 20).read_to_end(&mut rest).map_err(ArtifactError::Broken)?;
    if rest.iter().any(|&byte| byte != 0) {
        return Err(ArtifactError::Broken(io::Error::other("something stands behind the archive's end")));
    }
    Ok((manifest, blobs))
}

fn manifest<R: Read>(entries: &mut Entries<'_, R>) -> Result<Manifest, ArtifactError> {
    let refuse = |why: String| ArtifactError::Manifest(why);
    let mut entry = match entries.next() {
        Some(entry) => entry.map_err(ArtifactError::Broken)?,
        None => return Err(refuse("the archive is empty".to_owned())),
    };
    if *entry.path_bytes() != *MANIFEST.as_bytes() || entry.header().entry_type() != EntryType::Regular {
        return Err(refuse(format!("the first entry is not the file {MANIFEST}")));
    }
    let json = read(&mut entry, LONGEST_MANIFEST)?;
    // The number first: a later format may have keys that this version does not know.
    let format = serde_json::from_slice::<serde_json::Value>(&json).map_err(|error| refuse(error.to_string()))?;
    if format.get("format_version") != Some(&FORMAT.into()) {
        return Err(refuse(format!("its format_version is not {FORMAT}; another version of dunlin made it")));
    }
    let manifest: Manifest = serde_json::from_slice(&json).map_err(|error| refuse(error.to_string()))?;
    check(&manifest).map_err(refuse)?;
    Ok(manifest)
}

/// What the types do not say: order, sizes, digests that are digests, no file inside another.
fn check(manifest: &Manifest) -> Result<(), String> {
    for pair in manifest.files.windows(2) {
        let (one, next) = (pair[0].path.as_str(), pair[1].path.as_str());
        if one >= next {
            return Err(format!("its files are not sorted, or stand twice: {one}, {next}"));
        }
    }
    for file in &manifest.files {
        let path = file.path.as_str();
        let digits = file.sha256.as_str();
        if digits.len() != 64 || !digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Err(format!("{path} has no SHA-256 digest"));
        }
        if file.mode > 0o777 {
            return Err(format!("{path} has set-id bits or a mode that is none"));
        }
        if file.size > LONGEST {
            return Err(format!("{path} is too long"));
        }
    }
    if let Some(what) = clash(manifest.files.iter().map(|file| file.path.as_str())) {
        return Err(what);
    }
    let all = manifest.files.iter().try_fold(0_u64, |sum, file| sum.checked_add(file.size));
    match all {
        Some(sum) if sum <= LARGEST => Ok(()),
        _ => Err("its files are too large together".to_owned()),
    }
}

/// The archive's other entries must be the manifest's files, in its order.
fn files<R: Read>(
    entries: &mut Entries<'_, R>,
    manifest: &Manifest,
) -> Result<BTreeMap<Digest, Vec<u8>>, ArtifactError> {
    let (mut blobs, mut expected) = (BTreeMap::new(), manifest.files.iter());
    for entry in entries {
        let mut entry = entry.map_err(ArtifactError::Broken)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let refuse = |why: &str| ArtifactError::Entry { entry: name.clone(), why: why.to_owned() };
        if entry.header().entry_type() != EntryType::Regular {
            return Err(refuse("it is no regular file"));
        }
        let Some(file) = expected.next() else { return Err(refuse("it is not in the manifest")) };
        let wanted = format!("{FILES}/{}", file.path);
        if name != wanted {
            return Err(refuse(&format!("{wanted:?} is due here")));
        }
        let size = entry.size();
        if size != file.size {
            return Err(refuse(&format!("it has {size} bytes where the manifest says {}", file.size)));
        }
        if entry.header().mode().ok() != Some(file.mode) {
            return Err(refuse("its mode is not the manifest's"));
        }
        let bytes = read(&mut entry, file.size)?;
        if Digest::of(&bytes) != file.sha256 {
            return Err(refuse("its bytes do not have the manifest's digest"));
        }
        blobs.insert(file.sha256.clone(), bytes);
    }
    let lacking: Vec<String> = expected.map(|file| file.path.to_string()).collect();
    if lacking.is_empty() { Ok(blobs) } else { Err(ArtifactError::Lacks(lacking)) }
}

/// An entry's bytes; at most `longest`, and as many as its header says.
fn read<R: Read>(entry: &mut Entry<'_, R>, longest: u64) -> Result<Vec<u8>, ArtifactError> {
    let size = entry.size();
    if size > longest {
        return Err(ArtifactError::Broken(io::Error::other(format!("an entry of {size} bytes"))));
    }
    let mut bytes = Vec::new();
    entry.take(longest).read_to_end(&mut bytes).map_err(ArtifactError::Broken)?;
    if bytes.len() as u64 != size {
        return Err(ArtifactError::Broken(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(bytes)
}
