//! Paths as a step sees them: the disk, overlaid with predicted changes; links on the way are followed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::host_fs::{self, HostFolder, LinkCheck, LinkOwner, read_limited};
use crate::plan::Digest;

/// The most entries below a directory that are compared.
const MAX_ENTRIES: usize = 1_000_000;
/// As many links as Linux follows in one path.
const MAX_LINKS: usize = 40;

/// Permissions and ownership of a path, ownership by name where the name is known (else the number).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathMeta {
    /// Permission bits, 0 to 0o7777.
    pub mode: u32,
    /// The owning user.
    pub owner: String,
    /// The owning group.
    pub group: String,
}

/// State of a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "lowercase")]
pub enum PathState {
    /// Nothing.
    Absent,
    /// A regular file.
    File {
        /// SHA-256 of its bytes.
        digest: Digest,
        /// Permissions and ownership.
        meta: PathMeta,
    },
    /// A directory.
    Directory {
        /// Permissions and ownership.
        meta: PathMeta,
    },
    /// A symbolic link.
    Link {
        /// Target of the link, as stored in it.
        target: PathBuf,
    },
    /// A device, a socket, a pipe.
    Other,
}

/// Expected paths. The keys are real paths: links in their folders are resolved, through the expectations too.
#[derive(Debug, Default)]
pub(super) struct PathOverlay {
    predicted_states: BTreeMap<PathBuf, PathState>,
    predicted_contents: BTreeMap<PathBuf, Vec<u8>>,
    /// Directories that will have been removed: what the disk holds below them does not count.
    removed_dirs: BTreeSet<PathBuf>,
}

/// Source of the state of a real path, before any content is read.
pub(super) enum PathLookup {
    /// An earlier step will have made it so.
    Predicted(PathState),
    /// The path exists on the disk.
    OnDisk(fs::Metadata),
    /// Nothing.
    Absent,
}

impl PathOverlay {
    /// Looks up a real path.
    pub(super) fn look_up(&self, real: &Path) -> Result<PathLookup> {
        if let Some(state) = self.predicted_states.get(real) {
            return Ok(match state {
                PathState::Absent => PathLookup::Absent,
                state => PathLookup::Predicted(state.clone()),
            });
        }
        if self.is_removed(real) {
            return Ok(PathLookup::Absent);
        }
        match fs::symlink_metadata(real) {
            Ok(stat) => Ok(PathLookup::OnDisk(stat)),
            Err(error) if is_not_found(&error) => Ok(PathLookup::Absent),
            Err(error) => Err(error).with_context(|| format!("looking at {}", real.display())),
        }
    }

    /// Resolves the real path: the links in its folder are followed, not the last name. `None` if a folder on the way
    /// is missing or is not a folder.
    pub(super) fn resolve_path(&self, path: &Path) -> Result<Option<PathBuf>> {
        match (path.parent(), path.file_name()) {
            (Some(folder), Some(name)) => Ok(self.resolve_folder(folder)?.map(|folder| folder.join(name))),
            _ => self.resolve_folder(path),
        }
    }

    /// Resolves the real path of a folder; `None` if it is missing or is not a folder.
    pub(super) fn resolve_folder(&self, path: &Path) -> Result<Option<PathBuf>> {
        let mut real = PathBuf::from("/");
        let mut todo: VecDeque<PathPart> = to_parts(path).collect();
        let mut links = 0;
        while let Some(part) = todo.pop_front() {
            let name = match part {
                PathPart::Name(name) => name,
                PathPart::EndOfLink(link, owner) => {
                    if let Ok(stat) = fs::symlink_metadata(&real) {
                        owner.check_target(&link, &real, stat.uid())?;
                    }
                    continue;
                }
            };
            if name == ".." {
                real.pop();
                continue;
            }
            let next = real.join(&name);
            let (target, owner) = match self.look_up(&next)? {
                PathLookup::Predicted(PathState::Directory { .. }) => {
                    real = next;
                    continue;
                }
                PathLookup::OnDisk(stat) if stat.is_dir() => {
                    real = next;
                    continue;
                }
                PathLookup::Predicted(PathState::Link { target }) => (target, LinkOwner::Trusted),
                PathLookup::OnDisk(stat) if stat.is_symlink() => (fs::read_link(&next)?, link_owner(&stat, &real)?),
                _ => return Ok(None),
            };
            links += 1;
            if links > MAX_LINKS {
                bail!("{} is a link that leads nowhere", path.display());
            }
            if target.is_absolute() {
                real = PathBuf::from("/");
            }
            todo.push_front(PathPart::EndOfLink(next, owner));
            to_parts(&target).rev().for_each(|part| todo.push_front(part));
        }
        Ok(Some(real))
    }

    /// Returns the bytes of a real path, at most `limit`; `None` if it is not a file or a later step creates them.
    pub(super) fn read_content(&self, real: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        if let Some(bytes) = self.predicted_contents.get(real) {
            return Ok(Some(bytes.clone()));
        }
        let expected = match self.look_up(real)? {
            PathLookup::Predicted(PathState::File { digest, .. }) => Some(digest),
            PathLookup::OnDisk(stat) if stat.is_file() => None,
            _ => return Ok(None),
        };
        let Some(file) = host_fs::open_file(real)? else { return Ok(None) };
        let bytes = read_limited(&file, limit, real)?;
        Ok(expected.is_none_or(|digest| digest == Digest::of_bytes(&bytes)).then_some(bytes))
    }

    /// Records the predicted state of a real path.
    pub(super) fn predict_path(&mut self, real: &Path, state: PathState) {
        self.predicted_contents.remove(real);
        if !matches!(state, PathState::Directory { .. }) {
            self.predicted_states.retain(|path, _| path == real || !path.starts_with(real));
            self.predicted_contents.retain(|path, _| !path.starts_with(real));
            self.removed_dirs.insert(real.to_owned());
        }
        self.predicted_states.insert(real.to_owned(), state);
    }

    /// Records the predicted content of the file at a real path.
    pub(super) fn predict_content(&mut self, real: &Path, bytes: Vec<u8>) {
        self.predicted_contents.insert(real.to_owned(), bytes);
    }

    /// Refuses a real directory that is a mount point or has one below it.
    pub(super) fn ensure_no_mounts_below(&self, real: &Path) -> Result<()> {
        if let PathLookup::OnDisk(_) = self.look_up(real)? {
            let (parent, name) = HostFolder::open_parent(real)?;
            parent.count_entries(name)?;
        }
        Ok(())
    }

    /// Returns a walk over everything below a real directory, as it will be.
    pub(super) fn walk_below(&self, real: &Path) -> EntryWalk {
        let is_below = |path: &Path| path != real && path.starts_with(real);
        let predicted = self.predicted_states.iter().filter(|(_, state)| **state != PathState::Absent);
        EntryWalk {
            predicted: predicted.filter(|(path, _)| is_below(path)).map(|(path, _)| path.clone()).collect(),
            root: real.to_owned(),
            folders: vec![real.to_owned()],
            reading: None,
            count: 0,
        }
    }

    /// Returns a path that earlier steps will have changed and that a text names, itself or a folder above or below it.
    pub(super) fn find_mentioned(&self, text: &str) -> Option<&Path> {
        let words = text.split(|c: char| c.is_whitespace() || "'\"=;:()<>|&`$".contains(c));
        let named: Vec<PathBuf> = words
            .filter(|word| word.len() > 1 && word.starts_with('/'))
            .map(|word| self.resolve_path(Path::new(word)).ok().flatten().unwrap_or_else(|| PathBuf::from(word)))
            .collect();
        let concerns = |path: &Path| named.iter().any(|name| path.starts_with(name) || name.starts_with(path));
        self.predicted_states.keys().map(PathBuf::as_path).find(|path| concerns(path))
    }

    fn is_removed(&self, real: &Path) -> bool {
        !self.removed_dirs.is_empty() && real.ancestors().skip(1).any(|folder| self.removed_dirs.contains(folder))
    }
}

/// A walk over the entries below a directory, in no order. A user may have created millions of them, so that they are
/// not listed in memory.
pub(super) struct EntryWalk {
    root: PathBuf,
    predicted: Vec<PathBuf>,
    folders: Vec<PathBuf>,
    reading: Option<fs::ReadDir>,
    count: usize,
}

impl EntryWalk {
    /// Returns the next entry.
    ///
    /// # Errors
    /// Returns an error if a folder cannot be listed, or if there are more than [`MAX_ENTRIES`] entries.
    pub(super) fn next_entry(&mut self, overlay: &PathOverlay) -> Result<Option<PathBuf>> {
        let found = match self.predicted.pop() {
            Some(path) => Some(path),
            None => self.next_on_disk(overlay)?,
        };
        self.count += usize::from(found.is_some());
        if self.count > MAX_ENTRIES {
            bail!(
                "{} has more than {MAX_ENTRIES} entries, too many to list before it is removed: remove it by hand",
                self.root.display()
            );
        }
        Ok(found)
    }

    fn next_on_disk(&mut self, overlay: &PathOverlay) -> Result<Option<PathBuf>> {
        loop {
            let Some(entries) = &mut self.reading else {
                let Some(folder) = self.folders.pop() else { return Ok(None) };
                self.reading = match fs::read_dir(&folder) {
                    Ok(entries) => Some(entries),
                    Err(error) if is_not_found(&error) => None,
                    Err(error) => return Err(error).with_context(|| format!("listing {}", folder.display())),
                };
                continue;
            };
            let Some(entry) = entries.next() else {
                self.reading = None;
                continue;
            };
            let path = entry.with_context(|| format!("listing {}", self.root.display()))?.path();
            match overlay.look_up(&path)? {
                PathLookup::OnDisk(stat) => {
                    if stat.is_dir() {
                        self.folders.push(path.clone());
                    }
                    return Ok(Some(path));
                }
                PathLookup::Predicted(PathState::Directory { .. }) => self.folders.push(path),
                _ => {}
            }
        }
    }
}

/// A part of a path that is still to be walked.
enum PathPart {
    Name(OsString),
    /// The end of a link's target, which must belong to the link's owner.
    EndOfLink(PathBuf, LinkOwner),
}

/// Returns the names in a path, without `.` and the root.
fn to_parts(path: &Path) -> impl DoubleEndedIterator<Item = PathPart> + '_ {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(PathPart::Name(name.to_owned())),
        Component::ParentDir => Some(PathPart::Name(OsString::from(".."))),
        _ => None,
    })
}

fn link_owner(link: &fs::Metadata, folder: &Path) -> Result<LinkOwner> {
    let folder_uid = fs::symlink_metadata(folder).with_context(|| format!("looking at {}", folder.display()))?.uid();
    Ok(LinkOwner::of(LinkCheck { link_uid: link.uid(), link_count: link.nlink(), folder_uid }))
}

fn is_not_found(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}
