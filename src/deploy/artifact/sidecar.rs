//! The files beside an artifact: its manifest, and the signature of the manifest.
//!
//! `demo-1.0.manifest.json` is what minisign signs and verifies; `demo-1.0.manifest.json.minisig` is its signature.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{ARTIFACT_SUFFIX, Artifact, ArtifactError};
use crate::atomic_file::{Attributes, write_atomically};
use crate::deploy::signature::sign_manifest;

/// Longest signature, in bytes.
const MAX_SIGNATURE_BYTES: u64 = 8 << 10;

/// Returns the path of the manifest beside an artifact.
pub fn manifest_path(artifact: &Path) -> PathBuf {
    let name = artifact.file_name().unwrap_or_default().to_string_lossy();
    artifact.with_file_name(format!("{}.manifest.json", name.strip_suffix(ARTIFACT_SUFFIX).unwrap_or(&name)))
}

fn signature_path(artifact: &Path) -> PathBuf {
    let mut path = manifest_path(artifact).into_os_string();
    path.push(".minisig");
    path.into()
}

/// Reads the signature of an artifact, if it has one.
pub(super) fn read_signature(artifact: &Path) -> Result<Option<String>, ArtifactError> {
    let path = signature_path(artifact);
    let mut text = String::new();
    let read = File::open(&path).and_then(|file| file.take(MAX_SIGNATURE_BYTES).read_to_string(&mut text));
    match read {
        Ok(_) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ArtifactError::Unreadable { path, source }),
    }
}

impl Artifact {
    /// Signs the artifact's manifest, and writes the signature beside the artifact.
    ///
    /// # Errors
    /// Returns an error if the signature cannot be made or written.
    pub fn sign(&mut self, key: &minisign::SecretKey) -> Result<()> {
        let signature = sign_manifest(&self.manifest, key)?;
        write_atomically(&signature_path(&self.path), signature.as_bytes(), &Attributes::with_mode(0o644))?;
        self.signature = Some(signature);
        Ok(())
    }

    /// Writes the manifest beside the artifact, for signing and checking with minisign itself.
    pub(super) fn write_manifest(&self) -> Result<()> {
        let (path, json) = (manifest_path(&self.path), self.manifest.to_json()?);
        if fs::read(&path).is_ok_and(|existing| existing == json) {
            return Ok(());
        }
        write_atomically(&path, &json, &Attributes::with_mode(0o644)).context("writing the manifest")
    }
}
