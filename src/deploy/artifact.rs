//! A release as one file: `<service>-<version>.tar.zst`, the same bytes for the same inputs.
//!
//! A tar archive, compressed with zstd: `manifest.json` first, then `files/<path>` in the manifest's order. Times,
//! owners and the order of folders on the building machine leave no trace. Opening checks every byte against the
//! manifest and refuses whatever is not in it. Files of any length are streamed: no file is in memory as a whole.

mod cargo_build;
mod chunks;
mod collect;
mod git;
mod pack;
mod packaged;
mod requested;
mod sidecar;
mod unpack;
mod untracked;
mod version;

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::plan::check_shared_paths;
use super::recipe::Recipe;
use crate::atomic_file::sync_folder;
use crate::fleet::ContentFile;
use crate::plan::Digest;
use crate::protocol::deploy::{MANIFEST_FORMAT, ReleaseManifest, ReleaseVersion};

pub use cargo_build::{CargoBuild, find_cargo_builds};
use collect::CollectedFiles;
pub use collect::MissingSources;
pub use git::is_ignored_by_git;
pub use packaged::{FindPackagedError, artifact_path, find_last_packaged};
pub use requested::{OpenReleaseError, open_release};
pub use sidecar::manifest_path;
pub use unpack::ArtifactError;
pub use untracked::{StaleSource, list_stale_sources, list_untracked_files};
pub use version::default_version;

/// The suffix of an artifact's file name.
pub const ARTIFACT_SUFFIX: &str = ".tar.zst";
/// The manifest's name in the archive.
const MANIFEST_NAME: &str = "manifest.json";
/// The folder of the release's files in the archive.
const FILES_DIR: &str = "files";
/// Longest file, in bytes.
const MAX_FILE_BYTES: u64 = 64 << 30;
/// Longest content that is sent as one, in bytes; a longer file has chunks.
const MAX_CHUNK_BYTES: usize = 1 << 20;

/// A release artifact: built, or opened and found to be whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Artifact {
    /// Path of the artifact.
    pub path: PathBuf,
    /// SHA-256 of the file.
    pub digest: Digest,
    /// Manifest of the artifact.
    pub manifest: ReleaseManifest,
    /// Signature of the manifest, if there is one beside the artifact; not checked.
    pub signature: Option<String>,
}

/// An artifact whose bytes were checked, with the contents of its files.
#[derive(Debug)]
pub struct UnpackedArtifact {
    /// The artifact.
    pub artifact: Artifact,
    /// The contents of its files: chunks of large files, other files as a whole.
    pub contents: ContentFile,
}

impl Artifact {
    /// Opens an artifact and checks all of it. The digest of the file is for comparison by a person; what is
    /// checked is that the archive holds exactly the files of its manifest, with their sizes and digests.
    ///
    /// # Errors
    /// Returns an error that names the invalid entry.
    pub fn open(path: &Path) -> Result<UnpackedArtifact, ArtifactError> {
        let unreadable = |source| ArtifactError::Unreadable { path: path.to_owned(), source };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut contents = ContentFile::create(folder).map_err(ArtifactError::Unpacking)?;
        let manifest = unpack::unpack_artifact(File::open(path).map_err(unreadable)?, &mut contents)?;
        let digest = File::open(path).and_then(Digest::of_reader).map_err(unreadable)?;
        let signature = sidecar::read_signature(path)?;
        Ok(UnpackedArtifact { artifact: Self { path: path.to_owned(), digest, manifest, signature }, contents })
    }

    /// Reads the manifest of an artifact and nothing behind it.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read, or if its manifest is invalid.
    pub fn read_manifest(path: &Path) -> Result<ReleaseManifest, ArtifactError> {
        let file = File::open(path).map_err(|source| ArtifactError::Unreadable { path: path.to_owned(), source })?;
        unpack::unpack_manifest(file)
    }

    /// Checks the bytes of an artifact as [`Artifact::open`] does.
    ///
    /// # Errors
    /// Returns an error that names the invalid entry.
    pub fn parse(path: &Path, packed: &[u8]) -> Result<UnpackedArtifact, ArtifactError> {
        let mut contents = ContentFile::create(&std::env::temp_dir()).map_err(ArtifactError::Unpacking)?;
        let manifest = unpack::unpack_artifact(packed, &mut contents)?;
        let digest = Digest::of_bytes(packed);
        Ok(UnpackedArtifact { artifact: Self { path: path.to_owned(), digest, manifest, signature: None }, contents })
    }
}

/// Builds the artifact `<out>/<service>-<version>.tar.zst` from the recipe's files below `base`.
///
/// # Errors
/// Returns an error if sources are missing or not files (all of them, as [`MissingSources`]), if another content has
/// the version's name in `output_dir` (as [`VersionTaken`]), if a shared path has content (as [`SharedContent`]), or on
/// an I/O error.
pub fn build_artifact(
    recipe: &Recipe,
    source_dir: &Path,
    version: &ReleaseVersion,
    output_dir: &Path,
) -> Result<Artifact> {
    let CollectedFiles { files, links, folders, sources } = collect::collect_files(&recipe.files, source_dir)?;
    let manifest = ReleaseManifest {
        format_version: MANIFEST_FORMAT,
        service: recipe.service.clone(),
        version: version.clone(),
        origin: version::read_origin(recipe, source_dir)?,
        files,
        links,
        folders,
    };
    check_shared_paths(&recipe.shared, &manifest).map_err(SharedContent)?;
    fs::create_dir_all(output_dir).with_context(|| format!("making {}", output_dir.display()))?;
    let path = artifact_path(output_dir, recipe.service.as_str(), version.as_str());
    let packed = tempfile::Builder::new()
        .prefix(".dunlin-package-")
        .permissions(Permissions::from_mode(0o644))
        .tempfile_in(output_dir)
        .with_context(|| format!("creating a file in {}", output_dir.display()))?;
    pack::pack_archive(&manifest, &sources, packed.as_file()).context("building the archive")?;
    if path.try_exists().with_context(|| format!("reading {}", path.display()))? {
        let is_same = pack::have_same_bytes(packed.path(), &path);
        if !is_same.with_context(|| format!("reading {}", path.display()))? {
            return Err(VersionTaken { version: version.clone(), path }.into());
        }
    } else {
        packed.as_file().sync_all().context("writing the archive")?;
        packed.persist(&path).with_context(|| format!("writing {}", path.display()))?;
        sync_folder(output_dir)?;
    }
    let digest =
        File::open(&path).and_then(Digest::of_reader).with_context(|| format!("reading {}", path.display()))?;
    let artifact = Artifact { signature: sidecar::read_signature(&path)?, path, digest, manifest };
    artifact.write_manifest()?;
    packaged::record_packaged(output_dir, &artifact.manifest)?;
    Ok(artifact)
}

/// The sources have content where all releases have a shared file or folder.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SharedContent(String);

/// An artifact with other contents has the name of the version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("release {version} is in {} with other contents", path.display())]
pub struct VersionTaken {
    /// The version.
    pub version: ReleaseVersion,
    /// The artifact.
    pub path: PathBuf,
}

#[cfg(test)]
mod tests;
