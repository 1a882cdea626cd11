//! Finds and opens the release that is to be deployed.

use std::path::{Path, PathBuf};

use super::{
    ARTIFACT_SUFFIX, Artifact, ArtifactError, FindPackagedError, UnpackedArtifact, artifact_path, find_last_packaged,
    manifest_path,
};
use crate::deploy::recipe::Recipe;
use crate::deploy::signature::{SignatureError, check_signature};
use crate::protocol::deploy::{ServiceName, SignatureCheck};

/// Describes why a release cannot be deployed.
#[derive(Debug, thiserror::Error)]
pub enum OpenReleaseError {
    /// The artifact folder has no such release.
    #[error("no release {version} of {service}: {} does not exist", path.display())]
    UnknownVersion {
        /// The service.
        service: ServiceName,
        /// The requested version.
        version: String,
        /// Path of the artifact.
        path: PathBuf,
    },
    /// The artifact folder has no release of the service.
    #[error("no release of {service} in {}", folder.display())]
    NoRelease {
        /// The service.
        service: ServiceName,
        /// The folder.
        folder: PathBuf,
    },
    /// The release that was packaged last cannot be found.
    #[error(transparent)]
    LastPackaged(#[from] FindPackagedError),
    /// The artifact cannot be read, or is damaged.
    #[error(transparent)]
    Unreadable(#[from] anyhow::Error),
    /// The artifact is one of another service.
    #[error("{} is a release of {found}, not of {service}", path.display())]
    OtherService {
        /// The service.
        service: ServiceName,
        /// Service of the artifact.
        found: ServiceName,
        /// Path of the artifact.
        path: PathBuf,
    },
    /// The hosts would refuse the release.
    #[error("{}", artifact.path.display())]
    Unsigned {
        /// The artifact.
        artifact: Box<Artifact>,
        /// Reason.
        source: SignatureError,
    },
}

impl OpenReleaseError {
    /// Returns the next steps.
    pub fn hints(&self) -> Vec<String> {
        match self {
            Self::UnknownVersion { service, version, .. } => vec![
                format!("dunlin package {service} --version {version}"),
                format!("dunlin rollback {service} --to {version}, if the hosts still have it"),
            ],
            Self::NoRelease { service, .. } => vec![format!("dunlin package {service}")],
            Self::LastPackaged(FindPackagedError::Ambiguous(_)) => vec!["choose one with --release".to_owned()],
            Self::Unsigned { artifact, .. } => {
                let manifest = &artifact.manifest;
                vec![
                    format!("dunlin package {} --version {} --sign-key FILE", manifest.service, manifest.version),
                    format!("minisign -S -s FILE -m {}", manifest_path(&artifact.path).display()),
                ]
            }
            Self::LastPackaged(_) | Self::Unreadable(_) | Self::OtherService { .. } => Vec::new(),
        }
    }
}

/// Opens and checks a release of a service: a version in the artifact folder, an artifact file, or the one packaged last.
///
/// # Errors
/// See [`OpenReleaseError`].
pub fn open_release(
    recipe: &Recipe,
    folder: &Path,
    requested: Option<&str>,
) -> Result<UnpackedArtifact, OpenReleaseError> {
    let service = &recipe.service;
    let unpacked = open_artifact(&find_artifact(service, folder, requested)?)?;
    let artifact = &unpacked.artifact;
    if artifact.manifest.service != *service {
        let (path, found) = (artifact.path.clone(), artifact.manifest.service.clone());
        return Err(OpenReleaseError::OtherService { service: service.clone(), found, path });
    }
    let check = SignatureCheck { public_keys: recipe.public_keys.clone(), signature: artifact.signature.clone() };
    match check_signature(&artifact.manifest, &check) {
        Ok(()) => Ok(unpacked),
        Err(source) => Err(OpenReleaseError::Unsigned { artifact: Box::new(unpacked.artifact), source }),
    }
}

fn find_artifact(service: &ServiceName, folder: &Path, requested: Option<&str>) -> Result<PathBuf, OpenReleaseError> {
    match requested {
        Some(text) if text.contains('/') || text.ends_with(ARTIFACT_SUFFIX) => Ok(PathBuf::from(text)),
        Some(version) => {
            let path = artifact_path(folder, service.as_str(), version);
            if path.is_file() {
                return Ok(path);
            }
            Err(OpenReleaseError::UnknownVersion { service: service.clone(), version: version.to_owned(), path })
        }
        None => find_last_packaged(folder, service)?
            .ok_or_else(|| OpenReleaseError::NoRelease { service: service.clone(), folder: folder.to_owned() }),
    }
}

fn open_artifact(path: &Path) -> Result<UnpackedArtifact, OpenReleaseError> {
    Artifact::open(path).map_err(|error| {
        OpenReleaseError::Unreadable(match error {
            // This error has the path itself.
            ArtifactError::Unreadable { .. } => error.into(),
            other => anyhow::Error::from(other).context(path.display().to_string()),
        })
    })
}
