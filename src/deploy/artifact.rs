//! A release as one file: `<service>-<version>.tar.zst`, the same bytes for the same inputs.
//!
//! A tar archive, compressed with zstd: `manifest.json` first, then `files/<path>` in the manifest's order. Times,
//! owners and the order of folders on the building machine leave no trace. Opening checks every byte against the
//! manifest and refuses whatever is not in it.

mod cargo_build;
mod collect;
mod git;
mod packaged;
mod sidecar;
mod unpack;
mod untracked;
mod version;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::recipe::Recipe;
use crate::atomic_file::{Attributes, write_atomically};
use crate::plan::Digest;
use crate::protocol::deploy::{MANIFEST_FORMAT, ReleaseManifest, ReleaseVersion};

pub use cargo_build::{CargoBuild, find_cargo_builds};
use collect::CollectedFiles;
pub use collect::MissingSources;
pub use packaged::{FindPackagedError, artifact_path, find_last_packaged};
pub use sidecar::manifest_path;
pub use unpack::ArtifactError;
pub use untracked::{StaleSource, list_stale_sources, list_untracked_files};
pub use version::default_version;

/// The suffix of an artefact's file name.
pub const ARTIFACT_SUFFIX: &str = ".tar.zst";
/// The manifest's name in the archive.
const MANIFEST_NAME: &str = "manifest.json";
/// The folder of the release's files in the archive.
const FILES_DIR: &str = "files";
/// zstd's level: fixed, since the bytes depend on it.
const COMPRESSION_LEVEL: i32 = 9;
/// Longest file, in bytes: what fits into a frame to a host.
const MAX_FILE_BYTES: u64 = (1 << 30) - 4096;

/// A release artefact: built, or opened and found to be whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Artifact {
    /// Path of the artifact.
    pub path: PathBuf,
    /// SHA-256 of the file.
    pub digest: Digest,
    /// Manifest of the artifact.
    pub manifest: ReleaseManifest,
    /// Signature of the manifest, if there is one beside the artefact; not checked.
    pub signature: Option<String>,
    blobs: BTreeMap<Digest, Vec<u8>>,
}

impl Artifact {
    /// The contents of its files by digest, in memory.
    pub fn blobs(&self) -> &BTreeMap<Digest, Vec<u8>> {
        &self.blobs
    }

    /// Takes the contents out, without copying them.
    pub fn into_blobs(self) -> BTreeMap<Digest, Vec<u8>> {
        self.blobs
    }

    /// Opens an artefact and checks all of it. The digest of the file is for comparison by a person; what is
    /// checked is that the archive holds exactly the files of its manifest, with their sizes and digests.
    ///
    /// # Errors
    /// Returns an error that names the invalid entry.
    pub fn open(path: &Path) -> Result<Self, ArtifactError> {
        let packed = fs::read(path).map_err(|source| ArtifactError::Unreadable { path: path.to_owned(), source })?;
        let artifact = Self::parse(path, &packed)?;
        Ok(Self { signature: sidecar::read_signature(path)?, ..artifact })
    }

    /// Reads the manifest of an artefact and nothing behind it.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read, or if its manifest is invalid.
    pub fn read_manifest(path: &Path) -> Result<ReleaseManifest, ArtifactError> {
        let file =
            fs::File::open(path).map_err(|source| ArtifactError::Unreadable { path: path.to_owned(), source })?;
        unpack::unpack_manifest(file)
    }

    /// Checks the bytes of an artifact as [`Artifact::open`] does.
    ///
    /// # Errors
    /// Returns an error that names the invalid entry.
    pub fn parse(path: &Path, packed: &[u8]) -> Result<Self, ArtifactError> {
        let (manifest, blobs) = unpack::unpack_artifact(packed)?;
        Ok(Self { path: path.to_owned(), digest: Digest::of_bytes(packed), manifest, signature: None, blobs })
    }
}

/// Builds the artefact `<out>/<service>-<version>.tar.zst` from the recipe's files below `base`.
///
/// # Errors
/// Returns an error if sources are missing or not files (all of them, as [`MissingSources`]), if another content has the
/// version's name in `output_dir` (as [`VersionTaken`]), or on an I/O error.
pub fn build_artifact(
    recipe: &Recipe,
    source_dir: &Path,
    version: &ReleaseVersion,
    output_dir: &Path,
) -> Result<Artifact> {
    let CollectedFiles { files, links, folders, blobs } = collect::collect_files(&recipe.files, source_dir)?;
    let manifest = ReleaseManifest {
        format_version: MANIFEST_FORMAT,
        service: recipe.service.clone(),
        version: version.clone(),
        origin: version::read_origin(recipe, source_dir),
        files,
        links,
        folders,
    };
    let packed = pack_archive(&manifest, &blobs).context("building the archive")?;
    fs::create_dir_all(output_dir).with_context(|| format!("making {}", output_dir.display()))?;
    let path = artifact_path(output_dir, recipe.service.as_str(), version.as_str());
    match fs::read(&path) {
        Ok(existing) if existing != packed => return Err(VersionTaken { version: version.clone(), path }.into()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            write_atomically(&path, &packed, &Attributes::synced(0o644))?;
        }
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    }
    let artifact = Artifact {
        signature: sidecar::read_signature(&path)?,
        path,
        digest: Digest::of_bytes(&packed),
        manifest,
        blobs,
    };
    artifact.write_manifest()?;
    packaged::record_packaged(output_dir, &artifact.manifest)?;
    Ok(artifact)
}

/// An artifact with other contents has the name of the version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("release {version} is in {} with other contents", path.display())]
pub struct VersionTaken {
    /// The version.
    pub version: ReleaseVersion,
    /// The artifact.
    pub path: PathBuf,
}

fn pack_archive(manifest: &ReleaseManifest, blobs: &BTreeMap<Digest, Vec<u8>>) -> io::Result<Vec<u8>> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), COMPRESSION_LEVEL)?;
    encoder.include_checksum(true)?;
    let mut archive = tar::Builder::new(encoder);
    append_entry(&mut archive, MANIFEST_NAME, 0o644, &manifest.to_json()?)?;
    for file in &manifest.files {
        append_entry(&mut archive, &format!("{FILES_DIR}/{}", file.path), file.mode, &blobs[&file.sha256])?;
    }
    archive.into_inner()?.finish()
}

fn append_entry(archive: &mut tar::Builder<impl Write>, path: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(mode);
    header.set_size(bytes.len() as u64);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    archive.append_data(&mut header, path, bytes)
}

#[cfg(test)]
mod tests;
