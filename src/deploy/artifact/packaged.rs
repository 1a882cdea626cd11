//! The order in which the releases of a service were packaged.
//!
//! `<service>.packaged.json` in the artifact folder lists them. The times of the files say nothing: a copy, a checkout
//! or a restored backup changes them.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::{ARTIFACT_SUFFIX, Artifact, ArtifactError};
use crate::atomic_file::{Attributes, write_atomically};
use crate::protocol::deploy::{ReleaseManifest, ReleaseVersion, ServiceName};

/// The releases of a service in one folder.
#[derive(Default, Deserialize, Serialize)]
struct PackagedReleases {
    /// Their versions, each once; the one that was packaged last is at the end.
    versions: Vec<ReleaseVersion>,
}

/// Describes why the release that was packaged last cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum FindPackagedError {
    /// An artifact or the record cannot be read.
    #[error("{}", path.display())]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// Cause.
        source: anyhow::Error,
    },
    /// Several artifacts, and neither a record nor their revisions tell which is the newest.
    #[error("the artifact folder has several releases and no record of which was packaged last: {}", .0.join(", "))]
    Ambiguous(Vec<String>),
}

/// Returns the path of a release's artifact in a folder.
pub fn artifact_path(folder: &Path, service: &str, version: &str) -> PathBuf {
    folder.join(format!("{service}-{version}{ARTIFACT_SUFFIX}"))
}

/// Records that a release was packaged last.
///
/// # Errors
/// Returns an error if the record cannot be read or written.
pub(super) fn record_packaged(folder: &Path, manifest: &ReleaseManifest) -> Result<()> {
    let path = record_path(folder, manifest.service.as_str());
    let mut packaged = read_record(&path)?;
    packaged.versions.retain(|version| {
        *version != manifest.version && artifact_path(folder, manifest.service.as_str(), version.as_str()).is_file()
    });
    packaged.versions.push(manifest.version.clone());
    let mut json = serde_json::to_vec_pretty(&packaged)?;
    json.push(b'\n');
    write_atomically(&path, &json, &Attributes::with_mode(0o644))
}

/// Returns the artifact of a service that was packaged last; without a record, the one of the newest revision.
///
/// # Errors
/// See [`FindPackagedError`].
pub fn find_last_packaged(folder: &Path, service: &ServiceName) -> Result<Option<PathBuf>, FindPackagedError> {
    let path = record_path(folder, service.as_str());
    let packaged = read_record(&path).map_err(|source| FindPackagedError::Unreadable { path, source })?;
    let paths = packaged.versions.iter().rev().map(|version| artifact_path(folder, service.as_str(), version.as_str()));
    match paths.into_iter().find(|path| path.is_file()) {
        Some(path) => Ok(Some(path)),
        None => find_newest_revision(folder, service),
    }
}

fn find_newest_revision(folder: &Path, service: &ServiceName) -> Result<Option<PathBuf>, FindPackagedError> {
    let unreadable =
        |path: &Path, source: anyhow::Error| FindPackagedError::Unreadable { path: path.to_owned(), source };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(folder, error.into())),
    };
    let mut found: Vec<(Option<u64>, PathBuf)> = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| unreadable(folder, error.into()))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !name.starts_with(&format!("{service}-")) || !name.ends_with(ARTIFACT_SUFFIX) {
            continue;
        }
        // `app-1-2.tar.zst` may be of the service `app` or `app-1`; the manifest has its name.
        let manifest =
            Artifact::read_manifest(&path).map_err(|error: ArtifactError| unreadable(&path, error.into()))?;
        if manifest.service == *service {
            found.push((manifest.origin.and_then(|origin| origin.revision_time), path));
        }
    }
    found.sort();
    let is_clear = match found.as_slice() {
        [.., (one, _), (last, _)] => one < last && found.iter().all(|(time, _)| time.is_some()),
        _ => true,
    };
    if !is_clear {
        let names = found.iter().filter_map(|(_, path)| Some(path.file_name()?.to_string_lossy().into_owned()));
        return Err(FindPackagedError::Ambiguous(names.collect()));
    }
    Ok(found.pop().map(|(_, path)| path))
}

fn record_path(folder: &Path, service: &str) -> PathBuf {
    folder.join(format!("{service}.packaged.json"))
}

fn read_record(path: &Path) -> Result<PackagedReleases> {
    match fs::read(path) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).with_context(|| format!("{} has no list of versions", path.display()))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(PackagedReleases::default()),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}
