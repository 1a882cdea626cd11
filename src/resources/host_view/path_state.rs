//! Reads of paths through the predictions of earlier steps: states, contents, folders.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest as _, Sha256};

use super::paths::PathLookup;
use super::{HostView, PathMeta, PathState};
use crate::host_fs::{self, MAX_TEXT_BYTES, PathError};
use crate::plan::Digest;

/// The largest file, in bytes, that is read although its length differs from what is wanted.
const MAX_UNEXPECTED_BYTES: u64 = 64 << 20;

/// The largest file, in bytes, that is read because a folder above it will be removed.
const MAX_REMOVED_BYTES: u64 = 256 << 10;

impl HostView {
    /// Returns the state of a path. Links in its folder are followed, the last component is not.
    ///
    /// # Errors
    /// Returns an error if the path is unsafe or cannot be read for another reason than its absence.
    pub fn path_state(&mut self, path: &Path) -> Result<PathState> {
        self.path_state_of_length(path, None)
    }

    /// Returns the real path behind a path whose folder is reached through a link; `None` where there is no link.
    pub fn path_behind_links(&self, path: &Path) -> Option<PathBuf> {
        self.paths.resolve_path(path).ok().flatten().filter(|real| real != path)
    }

    /// Returns the state of a path at which a content of `length` bytes is wanted. The content of a large file is read
    /// only if the file has that length: otherwise its digest is one of its size and times.
    ///
    /// # Errors
    /// Returns an error if the path is unsafe or cannot be read for another reason than its absence.
    pub fn path_state_of_length(&mut self, path: &Path, length: Option<u64>) -> Result<PathState> {
        self.path_state_reading(path, |found| found <= MAX_UNEXPECTED_BYTES || length == Some(found))
    }

    /// Returns the state of a path; a file whose length is not to be read counts by its size and times.
    fn path_state_reading(&mut self, path: &Path, is_read: impl Fn(u64) -> bool) -> Result<PathState> {
        let Some(real) = self.paths.resolve_path(path)? else { return Ok(PathState::Absent) };
        let stat = match self.paths.look_up(&real)? {
            PathLookup::Absent => return Ok(PathState::Absent),
            PathLookup::Predicted(state) => return Ok(state),
            PathLookup::OnDisk(stat) => stat,
        };
        if stat.is_symlink() {
            let target = fs::read_link(&real).with_context(|| format!("reading the link {}", path.display()))?;
            return Ok(PathState::Link { target });
        }
        if stat.is_dir() {
            return Ok(PathState::Directory { meta: self.read_meta(&stat)? });
        }
        if !stat.is_file() {
            return Ok(PathState::Other);
        }
        // A user can swap the path meanwhile: what is read is what was opened.
        let Some(file) = host_fs::open_file(&real)? else { return Ok(PathState::Absent) };
        let stat = file.metadata().with_context(|| format!("looking at {}", path.display()))?;
        let digest = if is_read(stat.len()) {
            // The read of a file that grows is bounded.
            Digest::of_reader(file.take(stat.len())).with_context(|| format!("reading {}", path.display()))?
        } else {
            let times = (stat.mtime(), stat.mtime_nsec(), stat.ctime(), stat.ctime_nsec());
            Digest::of_bytes(format!("large file {} {} {times:?}", stat.len(), stat.ino()).as_bytes())
        };
        Ok(PathState::File { digest, meta: self.read_meta(&stat)? })
    }

    /// Returns the bytes of a file, with the predicted changes of earlier steps; `None` where there is no file, and
    /// where an earlier step writes it with bytes that are not here yet.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read.
    pub fn read_content(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        match self.paths.resolve_path(path)? {
            Some(real) => self.paths.read_content(&real, MAX_TEXT_BYTES),
            None => Ok(None),
        }
    }

    /// Returns the text of a file, as [`HostView::read_content`] does, if it is UTF-8 of at most `limit` bytes.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read.
    pub fn read_text_up_to(&self, path: &Path, limit: u64) -> Result<Option<String>> {
        let Some(real) = self.paths.resolve_path(path)? else { return Ok(None) };
        match self.paths.read_content(&real, limit) {
            Ok(bytes) => Ok(bytes.and_then(|bytes| String::from_utf8(bytes).ok())),
            Err(error) if matches!(error.downcast_ref(), Some(PathError::TooLarge { .. })) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Counts the entries below a directory, at any depth, for its removal.
    ///
    /// # Errors
    /// Returns an error if a folder cannot be listed, or something is mounted there or below.
    pub fn count_entries(&self, path: &Path) -> Result<usize> {
        match self.paths.resolve_path(path)? {
            Some(real) => {
                self.paths.ensure_no_mounts_below(&real)?;
                let mut walk = self.paths.walk_below(&real);
                let mut count = 0;
                while walk.next_entry(&self.paths)?.is_some() {
                    count += 1;
                }
                Ok(count)
            }
            None => Ok(0),
        }
    }

    /// Returns a digest of the paths below a directory, at any depth, and of the state of each. Files over
    /// 256 KiB count by their size and times.
    ///
    /// # Errors
    /// Returns an error if a folder cannot be listed or a file cannot be read.
    pub fn digest_entries(&mut self, path: &Path) -> Result<Digest> {
        let Some(real) = self.paths.resolve_path(path)? else { return Ok(Digest::of_bytes(b"")) };
        let mut walk = self.paths.walk_below(&real);
        let mut digests: Vec<[u8; 32]> = Vec::new();
        while let Some(entry) = walk.next_entry(&self.paths)? {
            let state = self.path_state_reading(&entry, |length| length <= MAX_REMOVED_BYTES)?;
            let bytes = serde_json::to_vec(&(entry.as_os_str().as_encoded_bytes(), state))?;
            digests.push(Sha256::digest(bytes).into());
        }
        // A walk has no order.
        digests.sort_unstable();
        Ok(Digest::of_bytes(digests.as_flattened()))
    }

    /// Returns the missing folders above a path, topmost first; something else in the way counts as missing.
    ///
    /// # Errors
    /// Returns an error if a folder cannot be read.
    pub fn missing_folders(&self, path: &Path) -> Result<Vec<PathBuf>> {
        let mut missing = Vec::new();
        for folder in path.ancestors().skip(1) {
            if self.paths.resolve_folder(folder)?.is_some() {
                break;
            }
            missing.push(folder.to_owned());
        }
        missing.reverse();
        Ok(missing)
    }

    /// Returns whether a path is a folder, with links followed.
    ///
    /// # Errors
    /// Returns an error if the path cannot be read.
    pub fn has_folder(&self, path: &Path) -> Result<bool> {
        Ok(self.paths.resolve_folder(path)?.is_some())
    }

    /// Checks that an entry can be created at a path: its folder exists, or may exist later.
    ///
    /// # Errors
    /// Returns an error if the folder is missing and no earlier step creates it.
    pub fn require_folder(&self, path: &Path) -> Result<()> {
        let Some(folder) = path.parent() else { return Ok(()) };
        if self.paths.resolve_folder(folder)?.is_some() || self.unknown_until_apply().is_some() {
            return Ok(());
        }
        bail!("the folder {} does not exist; a `directory` step before this one can create it", folder.display())
    }

    /// Checks that this owner and group exist, or may exist later.
    ///
    /// # Errors
    /// Returns an error if the account is missing and no earlier step creates it.
    pub fn require_accounts(&mut self, meta: &PathMeta) -> Result<()> {
        if meta.owner == "root" && meta.group == "root" || self.unknown_until_apply().is_some() {
            return Ok(());
        }
        let is_number = |name: &str| name.parse::<u32>().is_ok();
        if !is_number(&meta.owner) && self.user_state(&meta.owner)?.is_none() {
            bail!("there is no user {}; a `user` step before this one can create it", meta.owner);
        }
        if !is_number(&meta.group) && self.group_state(&meta.group)?.is_none() {
            bail!("there is no group {}; a `group` step before this one can create it", meta.group);
        }
        Ok(())
    }

    /// Records the predicted state of a path.
    pub fn predict_path(&mut self, path: &Path, state: PathState) {
        let real = self.real_path(path);
        self.paths.predict_path(&real, state);
    }

    /// Records the predicted content of a file, for steps that edit it further; call it after `predict_path`.
    pub fn predict_content(&mut self, path: &Path, bytes: Vec<u8>) {
        let real = self.real_path(path);
        self.paths.predict_content(&real, bytes);
    }

    /// Returns the real path, or the path itself if its folder comes from a step with unknown effects.
    fn real_path(&self, path: &Path) -> PathBuf {
        self.paths.resolve_path(path).ok().flatten().unwrap_or_else(|| path.to_owned())
    }

    fn read_meta(&mut self, stat: &fs::Metadata) -> Result<PathMeta> {
        let accounts = self.load_accounts()?;
        let name = |names: &BTreeMap<u32, String>, id: u32| names.get(&id).cloned().unwrap_or_else(|| id.to_string());
        Ok(PathMeta {
            mode: stat.permissions().mode() & 0o7777,
            owner: name(&accounts.user_names, stat.uid()),
            group: name(&accounts.group_names, stat.gid()),
        })
    }
}
