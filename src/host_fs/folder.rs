//! A folder of a host that is held open while things in it are read and changed.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;

use super::{PathError, tree, walk};
use crate::atomic_file::{Attributes, Folder};

/// The owner and the group of a path.
pub type Owner = (Uid, Gid);

/// A folder of a host, open. What its path leads to meanwhile has no effect on what is done here.
#[derive(Debug)]
pub struct HostFolder {
    folder: Folder,
    real: PathBuf,
}

impl HostFolder {
    /// Opens a folder by its absolute path.
    ///
    /// # Errors
    /// Returns an error if the path is missing, unsafe or not a folder, or if the system fails.
    pub fn open(path: &Path) -> Result<Self, PathError> {
        let reached = walk::open_folder(path)?;
        Ok(Self::from_handle(reached.handle, reached.real))
    }

    /// Opens the folder that a path is in, and returns it with the path's last name.
    ///
    /// # Errors
    /// Returns an error under the same conditions as [`HostFolder::open`], or if the path has no last name.
    pub fn open_parent(path: &Path) -> Result<(Self, &OsStr), PathError> {
        match (path.parent(), path.file_name()) {
            (Some(folder), Some(name)) => Ok((Self::open(folder)?, name)),
            _ => Err(PathError::io("open", path, Errno::ISDIR)),
        }
    }

    fn from_handle(handle: OwnedFd, real: PathBuf) -> Self {
        Self { folder: Folder::from_handle(handle, &real), real }
    }

    /// Returns the path of the folder, without links.
    pub fn real_path(&self) -> &Path {
        &self.real
    }

    /// Returns the attributes of an entry, of a link itself and not of its target; `None` if there is no such entry.
    ///
    /// # Errors
    /// Returns an error if the system fails.
    pub fn stat(&self, name: &OsStr) -> Result<Option<Stat>, PathError> {
        match rustix::fs::statat(self.folder.handle(), name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(source) => Err(self.error("look at", name, source)),
        }
    }

    /// Returns the target of a link.
    ///
    /// # Errors
    /// Returns an error if the entry is missing or not a link.
    pub fn read_link(&self, name: &OsStr) -> Result<PathBuf, PathError> {
        let target = rustix::fs::readlinkat(self.folder.handle(), name, Vec::new());
        let target = target.map_err(|source| self.error("read the link", name, source))?;
        Ok(PathBuf::from(OsString::from_vec(target.into_bytes())))
    }

    /// Opens a regular file for reading; `None` if there is no such entry.
    ///
    /// # Errors
    /// Returns an error if the entry is not a regular file (a link is none), or if the system fails.
    pub fn open_file(&self, name: &OsStr) -> Result<Option<File>, PathError> {
        let path = self.real.join(name);
        // Opening a pipe must not wait for its writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(self.folder.handle(), name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP) => {
                return Err(PathError::WrongType { path, found: "a symbolic link", expected: "a regular file" });
            }
            Err(Errno::NXIO) => {
                return Err(PathError::WrongType { path, found: "a socket", expected: "a regular file" });
            }
            Err(source) => return Err(self.error("open", name, source)),
        };
        let kind = file.metadata().map_err(|source| PathError::io("look at", &path, source))?.file_type();
        if !kind.is_file() {
            let found = if kind.is_dir() { "a folder" } else { "a device or a pipe" };
            return Err(PathError::WrongType { path, found, expected: "a regular file" });
        }
        Ok(Some(file))
    }

    /// Opens a folder in this folder; a link is not followed.
    ///
    /// # Errors
    /// Returns an error if the entry is missing or not a folder, or if the system fails.
    pub fn open_folder(&self, name: &OsStr) -> Result<Self, PathError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(self.folder.handle(), name, flags, Mode::empty());
        Ok(Self::from_handle(opened.map_err(|source| self.error("open", name, source))?, self.real.join(name)))
    }

    /// Creates a folder or opens the existing one, and sets its permissions and owner. Nobody else can enter a new
    /// folder before it has its owner.
    ///
    /// # Errors
    /// Returns an error if something else has that name, or if the system fails.
    pub fn create_folder(&self, name: &OsStr, mode: u32, owner: Option<Owner>) -> Result<Self, PathError> {
        match rustix::fs::mkdirat(self.folder.handle(), name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(source) => return Err(self.error("create", name, source)),
        }
        let folder = self.open_folder(name)?;
        folder.set_own_attributes(mode, owner).map_err(|source| self.error("set the owner of", name, source))?;
        Ok(folder)
    }

    /// Sets the permissions and the owner of a regular file or a folder; a link is not followed.
    ///
    /// # Errors
    /// Returns an error if the entry is missing or something else, if the file has a second name and is in a user's
    /// folder (it may be another user's file), or if the system fails.
    pub fn set_attributes(&self, name: &OsStr, mode: u32, owner: Option<Owner>) -> Result<(), PathError> {
        let is_folder = self.stat(name)?.is_some_and(|stat| FileType::from_raw_mode(stat.st_mode).is_dir());
        if is_folder {
            let folder = self.open_folder(name)?;
            return folder
                .set_own_attributes(mode, owner)
                .map_err(|source| self.error("set the owner of", name, source));
        }
        let file = self.open_file(name)?.ok_or_else(|| PathError::not_found(&self.real.join(name)))?;
        let stat = rustix::fs::fstat(&file).map_err(|source| self.error("look at", name, source))?;
        let folder = rustix::fs::fstat(self.folder.handle()).map_err(|source| self.error("look at", name, source))?;
        if stat.st_nlink > 1 && !walk::is_own_or_root(folder.st_uid) && stat.st_uid != folder.st_uid {
            return Err(PathError::HardLink { path: self.real.join(name) });
        }
        set_handle_attributes(&file, mode, owner).map_err(|source| self.error("set the owner of", name, source))
    }

    fn set_own_attributes(&self, mode: u32, owner: Option<Owner>) -> io::Result<()> {
        set_handle_attributes(self.folder.handle(), mode, owner)
    }

    /// Creates or replaces a file. On an error the old file is unchanged and no temporary file remains.
    ///
    /// # Errors
    /// Returns an error if the folder is not writable, the owner cannot be set, or the disk is full.
    pub fn replace(&self, name: &OsStr, bytes: &[u8], attributes: &Attributes) -> Result<()> {
        self.folder.replace(name, bytes, attributes)
    }

    /// Creates a symbolic link at a name, replacing an existing link or file.
    ///
    /// # Errors
    /// Returns an error if the folder is not writable, or a folder has that name.
    pub fn replace_link(&self, name: &OsStr, target: &Path) -> Result<()> {
        let path = self.real.join(name);
        self.folder
            .replace_link(name, target)
            .with_context(|| format!("cannot put the link {} in place", path.display()))
    }

    /// Renames an entry of this folder, into this or another folder.
    ///
    /// # Errors
    /// Returns an error if the system fails.
    pub fn rename(&self, name: &OsStr, to: &Self, new_name: &OsStr) -> Result<(), PathError> {
        rustix::fs::renameat(self.folder.handle(), name, to.folder.handle(), new_name)
            .map_err(|source| self.error("rename", name, source))
    }

    /// Removes a file or a link; it is no error if there is none.
    ///
    /// # Errors
    /// Returns an error if the entry is a folder, or if the system fails.
    pub fn remove_file(&self, name: &OsStr) -> Result<(), PathError> {
        self.remove(name, AtFlags::empty())
    }

    /// Removes an empty folder; it is no error if there is none.
    ///
    /// # Errors
    /// Returns an error if the folder is not empty, or if the system fails.
    pub fn remove_folder(&self, name: &OsStr) -> Result<(), PathError> {
        self.remove(name, AtFlags::REMOVEDIR)
    }

    /// Removes a folder with all that is in it. Nothing is removed if anything below it is a mount point.
    ///
    /// # Errors
    /// Returns an error if something below is a mount point, or if the system fails.
    pub fn remove_tree(&self, name: &OsStr) -> Result<(), PathError> {
        tree::remove_tree(self.folder.handle(), name, &self.real.join(name))
    }

    /// Counts what is below a folder, at any depth.
    ///
    /// # Errors
    /// Returns an error if something below is a mount point, or if the system fails.
    pub fn count_entries(&self, name: &OsStr) -> Result<usize, PathError> {
        tree::count_entries(self.folder.handle(), name, &self.real.join(name))
    }

    /// Waits until names that were created, renamed or removed here survive a power failure.
    ///
    /// # Errors
    /// Returns an error on an I/O error.
    pub fn sync(&self) -> Result<()> {
        self.folder.sync()
    }

    fn remove(&self, name: &OsStr, flags: AtFlags) -> Result<(), PathError> {
        match rustix::fs::unlinkat(self.folder.handle(), name, flags) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(source) => Err(self.error("remove", name, source)),
        }
    }

    fn error(&self, action: &'static str, name: &OsStr, source: impl Into<io::Error>) -> PathError {
        PathError::io(action, &self.real.join(name), source)
    }
}

/// Waits until the names in the folder of a path survive a power failure.
///
/// # Errors
/// Returns an error if the path is unsafe, the folder is missing, or on an I/O error.
pub fn sync_parent(path: &Path) -> Result<()> {
    HostFolder::open_parent(path)?.0.sync()
}

fn set_handle_attributes(handle: impl std::os::fd::AsFd, mode: u32, owner: Option<Owner>) -> io::Result<()> {
    if let Some((uid, gid)) = owner {
        rustix::fs::fchown(handle.as_fd(), Some(uid), Some(gid))?;
    }
    // After the change of owner, which clears the set-id bits.
    rustix::fs::fchmod(handle, Mode::from_raw_mode(mode))?;
    Ok(())
}
