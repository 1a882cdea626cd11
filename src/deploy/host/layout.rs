//! Paths in a service's folder.
//!
//! ```text
//! ROOT/current                        → releases/VERSION
//! ROOT/releases/VERSION/…             the release's files
//! ROOT/releases/VERSION/.dunlin/      manifest.json, stamp.json, setups/DIGEST.json, texts/DIGEST; root only
//! ROOT/releases/VERSION.partial/      in progress; renamed once complete
//! ROOT/shared/…                       files and folders that the releases have links to; the service may own them
//! ROOT/.dunlin/                       lock, state.json; root only
//! ```

use std::fs;
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::atomic_file::{Attributes, sync_folder, write_atomically};
use crate::deploy::plan::release_name;
use crate::host_fs;
use crate::lock::HostLock;
use crate::plan::Digest;
use crate::protocol::deploy::{
    INCOMPLETE_SUFFIX, RECORDS_DIR, ReleaseVersion, SHARED_DIR, ServiceName, ServiceRef, is_normalized_absolute,
};

/// A service's folder.
#[derive(Clone, Debug)]
pub(super) struct ServiceLayout {
    root: PathBuf,
    service: ServiceName,
}

impl ServiceLayout {
    /// Checks that the folder is one that a service may have.
    ///
    /// # Errors
    /// Returns an error if the path is not a plain absolute one, or if another user could change what is in it.
    pub fn from_scope(scope: &ServiceRef) -> Result<Self> {
        ensure!(
            is_normalized_absolute(&scope.base_dir),
            "{} cannot be the folder of a service",
            scope.base_dir.display()
        );
        let layout = Self { root: scope.base_dir.clone(), service: scope.service.clone() };
        layout.ensure_private()?;
        Ok(layout)
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn service(&self) -> &ServiceName {
        &self.service
    }

    pub fn current_link(&self) -> PathBuf {
        self.root.join("current")
    }

    pub fn releases_dir(&self) -> PathBuf {
        self.root.join("releases")
    }

    pub fn shared_dir(&self) -> PathBuf {
        self.root.join(SHARED_DIR)
    }

    pub fn release_dir(&self, version: &ReleaseVersion) -> PathBuf {
        self.releases_dir().join(version.as_str())
    }

    pub fn partial_dir(&self, version: &ReleaseVersion) -> PathBuf {
        self.releases_dir().join(format!("{version}{INCOMPLETE_SUFFIX}"))
    }

    pub fn records_dir(&self) -> PathBuf {
        self.root.join(RECORDS_DIR)
    }

    /// Returns the lock that one deploy of the service at a time has on this host.
    pub fn service_lock(&self) -> HostLock {
        HostLock::without_wait(&self.records_dir(), "lock")
    }

    /// Opens the file whose lock a running task holds. Read-only, because the task gets the handle, also where it runs
    /// as another user.
    pub fn open_task_lock(&self) -> Result<fs::File> {
        let path = self.records_dir().join("task.lock");
        fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("creating {}", path.display()))?;
        fs::File::open(&path).with_context(|| format!("opening {}", path.display()))
    }

    pub fn state_path(&self) -> PathBuf {
        self.records_dir().join("state.json")
    }

    /// Makes the folders that all requests but `Observe` rely on.
    ///
    /// # Errors
    /// Returns an error if a folder cannot be made, or if another user could change what is in one of them.
    pub fn create_dirs(&self) -> Result<()> {
        // What is missing is created only where no other user can put something else in its place.
        let existing = self.root.ancestors().find(|folder| folder.symlink_metadata().is_ok());
        existing.map_or(Ok(()), host_fs::ensure_private)?;
        host_fs::ensure_folder(&self.root, 0o755)?;
        host_fs::ensure_folder(&self.releases_dir(), 0o755)?;
        host_fs::ensure_folder(&self.records_dir(), 0o700)?;
        self.ensure_private()
    }

    /// Refuses folders in which another user than the agent's could put links or files: everything below is read and
    /// changed by its path. Folders that are missing are passed over.
    ///
    /// # Errors
    /// Returns an error that names the folder and its owner or mode.
    fn ensure_private(&self) -> Result<()> {
        for folder in [self.root.clone(), self.releases_dir(), self.records_dir()] {
            match host_fs::ensure_private(&folder) {
                Err(error) if error.is_not_found() => {}
                checked => checked?,
            }
        }
        Ok(())
    }

    /// Returns the target of the `current` link: a version if it is one of the releases, else the path as written.
    pub fn read_current_link(&self) -> Result<Option<String>> {
        let link = self.current_link();
        match fs::read_link(&link) {
            Ok(target) => Ok(Some(release_name(&target.to_string_lossy()))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == ErrorKind::InvalidInput => {
                let folder = self.releases_dir();
                let hint = "move it there and put a link to it in its place";
                bail!("{} must be a link to a release in {}; {hint}", link.display(), folder.display())
            }
            Err(error) => Err(error).with_context(|| format!("reading {}", link.display())),
        }
    }

    /// Returns whether something that dunlin did not make has the name of the release.
    pub fn has_foreign_folder(&self, version: &ReleaseVersion) -> bool {
        let release = self.release_dir(version);
        release.symlink_metadata().is_ok() && !release.join(RECORDS_DIR).is_dir()
    }

    /// Returns the refusal of a release whose name is in use.
    pub fn describe_foreign_folder(&self, version: &ReleaseVersion) -> String {
        let release = self.release_dir(version);
        format!("{} exists, and dunlin did not make it; package this release under another version", release.display())
    }

    /// Gives a completely written release its name.
    pub fn complete_release(&self, version: &ReleaseVersion) -> Result<()> {
        let release = self.release_dir(version);
        fs::rename(self.partial_dir(version), &release).with_context(|| format!("completing {}", release.display()))
    }

    /// Sets the target of the `current` link, or removes it; a reader sees the old or the new one.
    pub fn set_current_link(&self, target: Option<&Path>) -> Result<()> {
        let link = self.current_link();
        match target {
            Some(target) => {
                let next = self.records_dir().join("next");
                remove_if_exists(&next)?;
                std::os::unix::fs::symlink(target, &next).context("making the next link")?;
                fs::rename(&next, &link).with_context(|| format!("switching {}", link.display()))?;
            }
            None => remove_if_exists(&link)?,
        }
        sync_folder(&self.root)
    }
}

/// Removes a file or link if it exists.
pub(super) fn remove_if_exists(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Removes a folder if it exists and is empty.
pub(super) fn remove_empty_dir(path: &Path) -> Result<()> {
    match fs::remove_dir(path) {
        Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty) => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Writes a record as JSON, durably and for root alone.
pub(super) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let bytes = serde_json::to_vec(value).context("a record as JSON")?;
    write_atomically(path, &bytes, &Attributes::with_mode(0o600))
}

/// Reads a record; `None` where there is none.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).with_context(|| format!("reading {}", path.display())),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}

/// Returns whether a file has this size and digest; `false` if it cannot be read. No more than the size is read: the
/// owner of the file may write to it at any time.
pub(super) fn has_content(path: &Path, size: u64, digest: &Digest) -> bool {
    let Ok(Some(file)) = host_fs::open_file(path) else { return false };
    file.metadata().is_ok_and(|stat| stat.len() == size)
        && Digest::of_reader(file.take(size)).is_ok_and(|actual| actual == *digest)
}
