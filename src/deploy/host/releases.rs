//! The releases in a service's folder, and their records.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::layout::{ServiceLayout, has_content, read_json, write_json};
use super::ownership::resolve_owners;
use super::state::DeployState;
use crate::atomic_file::{Attributes, write_atomically};
use crate::host_fs;
use crate::plan::Digest;
use crate::protocol::deploy::{
    DesiredState, FileOwner, INCOMPLETE_SUFFIX, ObservedRelease, RECORDS_DIR, ReleaseFile, ReleaseFolder, ReleaseLink,
    ReleaseManifest, ReleaseTarget, ReleaseVersion, ServiceConfig, SignatureCheck,
};

/// A completely staged release.
#[derive(Clone, Debug)]
pub(super) struct StoredRelease {
    pub dir: PathBuf,
    pub manifest: ReleaseManifest,
    pub stamp: ReleaseStamp,
}

/// Times of a release's files after their last check: a file whose time or size differs must be read again; others
/// need not be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct ReleaseStamp {
    /// Time when the release was staged, in seconds since 1970.
    pub staged_at: u64,
    /// Time of change of each file, in nanoseconds since 1970.
    pub modified_times: BTreeMap<String, i128>,
}

impl StoredRelease {
    /// Reads the records of a release; `None` where it is none.
    pub fn read(layout: &ServiceLayout, version: &ReleaseVersion) -> Result<Option<Self>> {
        let folder = layout.release_dir(version);
        let records = folder.join(RECORDS_DIR);
        let Some(manifest) = read_json::<ReleaseManifest>(&records.join("manifest.json"))? else { return Ok(None) };
        let stamp = read_json(&records.join("stamp.json"))?.unwrap_or_default();
        Ok(Some(Self { dir: folder, manifest, stamp }))
    }

    /// Returns all releases, oldest first, and the names of incomplete ones.
    pub fn list_all(layout: &ServiceLayout) -> Result<(Vec<Self>, Vec<String>)> {
        let (mut stored, mut partial) = (Vec::new(), Vec::new());
        let entries = match fs::read_dir(layout.releases_dir()) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok((stored, partial)),
            Err(error) => return Err(error).with_context(|| format!("reading {}", layout.releases_dir().display())),
        };
        for entry in entries {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if let Some(version) = name.strip_suffix(INCOMPLETE_SUFFIX) {
                partial.push(version.to_owned());
            } else if let Ok(version) = ReleaseVersion::new(name)
                && let Some(release) = Self::read(layout, &version)?
            {
                stored.push(release);
            }
        }
        partial.sort();
        stored.sort_by(|a, b| (a.stamp.staged_at, &a.manifest.version).cmp(&(b.stamp.staged_at, &b.manifest.version)));
        Ok((stored, partial))
    }

    /// Returns the files and links that are missing or differ from the manifest. A file is read if its time differs
    /// from the recorded one.
    pub fn find_damage(&self) -> Vec<String> {
        let owners = resolve_owners(&self.manifest).unwrap_or_default();
        let has_owner = |stat: &fs::Metadata, owner: Option<&FileOwner>| {
            owner.is_none_or(|owner| {
                owners.get(owner).is_some_and(|(uid, gid)| (stat.uid(), stat.gid()) == (uid.as_raw(), gid.as_raw()))
            })
        };
        let is_intact = |file: &&ReleaseFile| {
            let path = self.dir.join(file.path.as_str());
            let Ok(stat) = fs::symlink_metadata(&path) else { return false };
            let has_expected_stat =
                stat.is_file() && stat.len() == file.size && stat.permissions().mode() & 0o7777 == file.mode;
            has_expected_stat
                && has_owner(&stat, file.owner.as_ref())
                && (self.has_recorded_time(file, &stat) || has_content(&path, file.size, &file.sha256))
        };
        let broken = self.manifest.files.iter().filter(|file| !is_intact(file));
        let leads_elsewhere = |link: &&ReleaseLink| {
            fs::read_link(self.dir.join(link.path.as_str())).ok().as_deref() != Some(Path::new(&link.target))
        };
        let broken_links = self.manifest.links.iter().filter(leads_elsewhere).map(|link| link.path.to_string());
        let is_folder = |folder: &&ReleaseFolder| {
            let stat = fs::symlink_metadata(self.dir.join(folder.path.as_str()));
            stat.is_ok_and(|stat| stat.is_dir() && has_owner(&stat, folder.owner.as_ref()))
        };
        let broken_folders = self.manifest.folders.iter().filter(|folder| !is_folder(folder));
        let broken_folders = broken_folders.map(|folder| folder.path.to_string());
        broken.map(|file| file.path.to_string()).chain(broken_links).chain(broken_folders).collect()
    }

    /// Returns whether a file has the size and the time of its last check. Its bytes are not read.
    pub fn is_unchanged(&self, file: &ReleaseFile) -> bool {
        fs::symlink_metadata(self.dir.join(file.path.as_str()))
            .is_ok_and(|stat| stat.is_file() && stat.len() == file.size && self.has_recorded_time(file, &stat))
    }

    fn has_recorded_time(&self, file: &ReleaseFile, stat: &fs::Metadata) -> bool {
        self.stamp.modified_times.get(file.path.as_str()) == Some(&modified_nanoseconds(stat))
    }

    /// Returns the summary that the controller receives.
    pub fn to_release(&self, state: &DeployState) -> ObservedRelease {
        ObservedRelease {
            version: self.manifest.version.clone(),
            manifest_digest: self.manifest.digest(),
            revision_time: self.manifest.origin.as_ref().and_then(|origin| origin.revision_time),
            staged_at: self.stamp.staged_at,
            damaged_files: self.find_damage(),
            bytes: self.manifest.total_bytes(),
            last_failure: state.failures.get(&self.manifest.version).cloned(),
        }
    }

    /// Reads a setup that was staged with the release.
    pub fn read_setup(&self, digest: &Digest) -> Result<Option<ServiceConfig>> {
        read_json(&setup_path(&self.dir, digest))
    }

    /// Reads all setups that were staged with the release.
    pub fn read_setups(&self) -> Result<Vec<ServiceConfig>> {
        let folder = self.dir.join(RECORDS_DIR).join("setups");
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(|| format!("reading {}", folder.display())),
        };
        let mut setups = Vec::new();
        for entry in entries {
            setups.extend(read_json(&entry?.path())?);
        }
        Ok(setups)
    }

    /// Reads the text of a unit or configuration file.
    pub fn read_text(&self, digest: &Digest) -> Result<Vec<u8>> {
        let path = text_path(&self.dir, digest);
        let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        ensure!(Digest::of_bytes(&bytes) == *digest, "{} was changed", path.display());
        Ok(bytes)
    }
}

/// Reads a complete state that the host keeps.
pub(super) fn read_desired(layout: &ServiceLayout, target: &ReleaseTarget) -> Result<Option<DesiredState>> {
    let Some(stored) = StoredRelease::read(layout, &target.version)? else { return Ok(None) };
    let Some(setup) = stored.read_setup(&target.config_digest)? else { return Ok(None) };
    // Its signature was checked when it was staged.
    let signature_check = SignatureCheck::default();
    Ok(Some(DesiredState { manifest: stored.manifest, config: setup, signature_check }))
}

/// Returns a state that the host keeps, with the sensitive configuration of the active release where both have it.
pub(super) fn read_with_current_secrets(
    layout: &ServiceLayout,
    state: &DeployState,
    target: &ReleaseTarget,
) -> Result<Option<DesiredState>> {
    let Some(mut desired) = read_desired(layout, target)? else { return Ok(None) };
    let active = state.confirmed_target().map(|active| read_desired(layout, active)).transpose()?.flatten();
    let current = active.map(|active| active.config.configs).unwrap_or_default();
    // A service that dunlin did not deploy may read its files in another form.
    if desired.config.adopted.is_some() {
        return Ok(Some(desired));
    }
    for config in desired.config.configs.iter_mut().filter(|config| config.sensitive) {
        if let Some(other) = current.iter().find(|other| other.sensitive && other.dest == config.dest) {
            (config.digest, config.size) = (other.digest.clone(), other.size);
        }
    }
    Ok(Some(desired))
}

/// Keeps a setup whose texts are in releases on this host.
pub(super) fn store_known_setup(
    layout: &ServiceLayout,
    desired: &DesiredState,
    stored: &[StoredRelease],
) -> Result<()> {
    let mut texts = BTreeMap::new();
    for digest in desired.config.blob_digests() {
        let text = stored.iter().find_map(|release| release.read_text(digest).ok());
        texts.insert(digest, text.context("a configuration file of the release is damaged; deploy it again")?);
    }
    store_setup(&layout.release_dir(&desired.manifest.version), &desired.config, &texts)
}

/// Keeps a setup with its texts (all of them, by digest) in a release's folder.
pub(super) fn store_setup(release: &Path, setup: &ServiceConfig, texts: &BTreeMap<&Digest, Vec<u8>>) -> Result<()> {
    host_fs::ensure_folder(&release.join(RECORDS_DIR), 0o700)?;
    host_fs::ensure_folder(&release.join(RECORDS_DIR).join("texts"), 0o700)?;
    host_fs::ensure_folder(&release.join(RECORDS_DIR).join("setups"), 0o700)?;
    for (digest, text) in texts {
        let path = text_path(release, digest);
        if !fs::read(&path).is_ok_and(|bytes| bytes == *text) {
            ensure!(Digest::of_bytes(text) == **digest, "a text does not have its digest");
            write_atomically(&path, text, &Attributes::with_mode(0o600))?;
        }
    }
    // The setup last: if it exists, its texts exist.
    write_json(&setup_path(release, &setup.digest()), setup)
}

fn setup_path(release: &Path, digest: &Digest) -> PathBuf {
    release.join(RECORDS_DIR).join("setups").join(format!("{}.json", file_name(digest)))
}

fn text_path(release: &Path, digest: &Digest) -> PathBuf {
    release.join(RECORDS_DIR).join("texts").join(file_name(digest))
}

/// Returns a digest from the controller as a file name: digits only, whatever was sent.
fn file_name(digest: &Digest) -> String {
    digest.as_str().chars().filter(char::is_ascii_hexdigit).take(64).collect()
}

pub(super) fn modified_nanoseconds(stat: &fs::Metadata) -> i128 {
    i128::from(stat.mtime()) * 1_000_000_000 + i128::from(stat.mtime_nsec())
}
