//! Removes and counts what is below a folder, by handles, on one file system.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, DirEntry, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::PathError;

/// The most folders that a recursion enters below one another: each level keeps a handle open.
const MAX_DEPTH: usize = 400;

/// Removes a folder with all that is in it. Nothing is removed if anything below it is a mount point.
///
/// # Errors
/// Returns an error if something below is a mount point, or if the system fails.
pub fn remove_tree(parent: impl AsFd, name: &OsStr, path: &Path) -> Result<(), PathError> {
    count_entries(parent.as_fd(), name, path)?;
    let folder = open_below(parent.as_fd(), name, path)?;
    remove_contents(&folder, path, 0)?;
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR).map_err(|source| PathError::io("remove", path, source))
}

/// Counts what is below a folder, at any depth; the folder itself does not count.
///
/// # Errors
/// Returns an error if something below is a mount point, or if the system fails.
pub fn count_entries(parent: impl AsFd, name: &OsStr, path: &Path) -> Result<usize, PathError> {
    count_below(&open_below(parent, name, path)?, path, 0)
}

fn count_below(folder: &OwnedFd, path: &Path, depth: usize) -> Result<usize, PathError> {
    let mut count = 0;
    for entry in list(folder, path)? {
        let (name, kind) = entry?;
        count += 1;
        if kind == FileType::Directory {
            let below = path.join(&name);
            count += count_below(&enter(folder, &name, &below, depth)?, &below, depth + 1)?;
        }
    }
    Ok(count)
}

fn remove_contents(folder: &OwnedFd, path: &Path, depth: usize) -> Result<(), PathError> {
    for entry in list(folder, path)? {
        let (name, kind) = entry?;
        let below = path.join(&name);
        let flags = if kind == FileType::Directory {
            remove_contents(&enter(folder, &name, &below, depth)?, &below, depth + 1)?;
            AtFlags::REMOVEDIR
        } else {
            AtFlags::empty()
        };
        match rustix::fs::unlinkat(folder, &name, flags) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(source) => return Err(PathError::io("remove", &below, source)),
        }
    }
    Ok(())
}

fn enter(folder: &OwnedFd, name: &OsStr, path: &Path, depth: usize) -> Result<OwnedFd, PathError> {
    if depth >= MAX_DEPTH {
        return Err(PathError::io("descend into", path, Errno::NAMETOOLONG));
    }
    open_below(folder, name, path)
}

/// Opens a folder in a folder: not through a link, and not on another file system (a bind mount included).
fn open_below(parent: impl AsFd, name: &OsStr, path: &Path) -> Result<OwnedFd, PathError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
    match rustix::fs::openat2(parent, name, flags, Mode::empty(), resolve) {
        Ok(folder) => Ok(folder),
        Err(Errno::XDEV) => Err(PathError::MountPoint { path: path.to_owned() }),
        Err(source) => Err(PathError::io("open", path, source)),
    }
}

/// Returns the entries of a folder, one at a time: a user may have created millions.
fn list<'f>(
    folder: &'f OwnedFd,
    path: &'f Path,
) -> Result<impl Iterator<Item = Result<(OsString, FileType), PathError>> + 'f, PathError> {
    let error = |source: Errno| PathError::io("list", path, source);
    let entries = Dir::read_from(folder).map_err(error)?;
    let is_entry = |entry: &Result<DirEntry, Errno>| {
        entry.as_ref().map_or(true, |entry| !matches!(entry.file_name().to_bytes(), b"." | b".."))
    };
    Ok(entries.filter(is_entry).map(move |entry| {
        let entry = entry.map_err(error)?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes()).to_owned();
        let kind = match entry.file_type() {
            FileType::Unknown => rustix::fs::statat(folder, &name, AtFlags::SYMLINK_NOFOLLOW)
                .map(|stat| FileType::from_raw_mode(stat.st_mode))
                .map_err(error)?,
            kind => kind,
        };
        Ok((name, kind))
    }))
}
