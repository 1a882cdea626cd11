//! The releases in a service's folder, and their records.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::layout::{Layout, folder, read_json, write_json};
use super::state::State;
use crate::atomic_file::{Attributes, write_atomically};
use crate::plan::Digest;
use crate::wire::deploy::{Desired, Manifest, PARTIAL, RECORDS, Release, Setup, Target, Version};

/// A release that was put there whole.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub folder: PathBuf,
    pub manifest: Manifest,
    pub stamp: Stamp,
}

/// What a release's files looked like when they had just been checked: an unlike time or size says that a file has to
/// be read again, a like one that it has not.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Stamp {
    /// When the release was put there, in seconds since 1970.
    pub staged_at: u64,
    /// Time of change of each file, in nanoseconds since 1970.
    pub times: BTreeMap<String, i128>,
    /// The setup that was staged last.
    pub setup: Option<Digest>,
}

impl Kept {
    /// Reads the records of a release; `None` where it is none.
    pub fn read(layout: &Layout, version: &Version) -> Result<Option<Self>> {
        let folder = layout.release(version);
        let records = folder.join(RECORDS);
        let Some(manifest) = read_json::<Manifest>(&records.join("manifest.json"))? else { return Ok(None) };
        let stamp = read_json(&records.join("stamp.json"))?.unwrap_or_default();
        Ok(Some(Self { folder, manifest, stamp }))
    }

    /// All releases, oldest first, and the names of those that are not complete.
    pub fn all(layout: &Layout) -> Result<(Vec<Self>, Vec<String>)> {
        let (mut kept, mut partial) = (Vec::new(), Vec::new());
        let entries = match fs::read_dir(layout.releases()) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok((kept, partial)),
            Err(error) => return Err(error).with_context(|| format!("reading {}", layout.releases().display())),
        };
        for entry in entries {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if let Some(version) = name.strip_suffix(PARTIAL) {
                partial.push(version.to_owned());
            } else if let Ok(version) = Version::new(name)
                && let Some(release) = Self::read(layout, &version)?
            {
                kept.push(release);
            }
        }
        partial.sort();
        kept.sort_by(|a, b| (a.stamp.staged_at, &a.manifest.version).cmp(&(b.stamp.staged_at, &b.manifest.version)));
        Ok((kept, partial))
    }

    /// Files that are missing, or are not what the manifest says. A file whose time is not the recorded one is read.
    pub fn damage(&self) -> Vec<String> {
        let whole = |file: &&crate::wire::deploy::ReleaseFile| {
            let path = self.folder.join(file.path.as_str());
            let Ok(stat) = fs::symlink_metadata(&path) else { return false };
            let like = stat.is_file() && stat.len() == file.size && stat.permissions().mode() & 0o7777 == file.mode;
            let unchanged = self.stamp.times.get(file.path.as_str()) == Some(&time_of(&stat));
            like && (unchanged || fs::read(&path).is_ok_and(|bytes| Digest::of(&bytes) == file.sha256))
        };
        let broken = self.manifest.files.iter().filter(|file| !whole(file));
        broken.map(|file| file.path.to_string()).collect()
    }

    /// As the controller is told.
    pub fn told(&self, state: &State) -> Release {
        Release {
            version: self.manifest.version.clone(),
            manifest: self.manifest.digest(),
            staged_at: self.stamp.staged_at,
            damage: self.damage(),
            bytes: self.manifest.bytes(),
            failed: state.failed.get(&self.manifest.version).cloned(),
        }
    }

    pub fn write_stamp(&self) -> Result<()> {
        write_json(&self.folder.join(RECORDS).join("stamp.json"), &self.stamp)
    }

    /// A setup that was staged with the release.
    pub fn setup(&self, digest: &Digest) -> Result<Option<Setup>> {
        read_json(&setup_path(&self.folder, digest))
    }

    /// A unit's or configuration's text.
    pub fn text(&self, digest: &Digest) -> Result<Vec<u8>> {
        let path = text_path(&self.folder, digest);
        let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        ensure!(Digest::of(&bytes) == *digest, "{} was changed", path.display());
        Ok(bytes)
    }
}

/// A state that the host keeps, whole.
pub(super) fn desired(layout: &Layout, target: &Target) -> Result<Option<Desired>> {
    let Some(kept) = Kept::read(layout, &target.version)? else { return Ok(None) };
    let Some(setup) = kept.setup(&target.setup)? else { return Ok(None) };
    Ok(Some(Desired { manifest: kept.manifest, setup }))
}

/// Keeps a setup with its texts (all of them, by digest) in a release's folder.
pub(super) fn keep_setup(release: &Path, setup: &Setup, texts: &BTreeMap<&Digest, Vec<u8>>) -> Result<()> {
    folder(&release.join(RECORDS), 0o700)?;
    folder(&release.join(RECORDS).join("texts"), 0o700)?;
    folder(&release.join(RECORDS).join("setups"), 0o700)?;
    for (digest, text) in texts {
        let path = text_path(release, digest);
        if !fs::read(&path).is_ok_and(|bytes| bytes == *text) {
            ensure!(Digest::of(text) == **digest, "a text does not have its digest");
            write_atomically(&path, text, &Attributes::synced(0o600))?;
        }
    }
    // The setup last: where it stands, its texts do.
    write_json(&setup_path(release, &setup.digest()), setup)
}

fn setup_path(release: &Path, digest: &Digest) -> PathBuf {
    release.join(RECORDS).join("setups").join(format!("{}.json", file_name(digest)))
}

fn text_path(release: &Path, digest: &Digest) -> PathBuf {
    release.join(RECORDS).join("texts").join(file_name(digest))
}

/// A digest from the wire as a file's name: digits only, whatever was sent.
fn file_name(digest: &Digest) -> String {
    digest.as_str().chars().filter(char::is_ascii_hexdigit).take(64).collect()
}

pub(super) fn time_of(stat: &fs::Metadata) -> i128 {
    i128::from(stat.mtime()) * 1_000_000_000 + i128::from(stat.mtime_nsec())
}
