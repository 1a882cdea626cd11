//! Opens, reads and changes paths of a host as root, without following what an unprivileged user has planted.
//!
//! Every path is opened by directory handles from `/`. A symbolic link in a folder above the path is followed if root
//! made it, or if it leads to something that belongs to the link's owner; any other link would let a user choose what
//! root changes (an *unsafe path transition*, as in systemd's `chase()`), and is refused with its place. The last name
//! is never followed. Changes are made through handles (`fchown`, `fchmod`, `renameat`), so that a path that is swapped
//! meanwhile has no effect. Recursion stays on its file system.

mod folder;
mod path_error;
mod read_limit;
mod system_path;
mod tree;
mod walk;

pub use folder::{HostFolder, Owner, sync_parent};
pub use path_error::PathError;
pub use read_limit::{MAX_TEXT_BYTES, read_limited};
pub use system_path::ensure_system_path;
pub use walk::{LinkCheck, LinkOwner};

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::Uid;

/// Opens a regular file for reading; `None` if nothing is at the path.
///
/// # Errors
/// Returns an error if something else is at the path, a link included, if the path is unsafe, or if the system fails.
pub fn open_file(path: &Path) -> Result<Option<File>, PathError> {
    let (parent, name) = match HostFolder::open_parent(path) {
        Ok(opened) => opened,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error),
    };
    parent.open_file(name)
}

/// Reads a text that root acts upon (a configuration, an ACL file, a journal): a regular file of at most
/// [`MAX_TEXT_BYTES`] bytes that belongs to root or to `owner`, with no second name in another folder.
///
/// # Errors
/// Returns an error if nothing or something else is at the path, if it belongs to another user, is too large or not
/// UTF-8, if the path is unsafe, or if the system fails.
pub fn read_trusted(path: &Path, owner: Option<Uid>) -> Result<String, PathError> {
    let file = open_file(path)?.ok_or_else(|| PathError::not_found(path))?;
    let stat = file.metadata().map_err(|source| PathError::io("read", path, source))?;
    let is_trusted = walk::is_own_or_root(stat.uid()) || owner.is_some_and(|uid| uid.as_raw() == stat.uid());
    if !is_trusted {
        return Err(PathError::WrongOwner { path: path.to_owned(), owner: walk::user_name(stat.uid()) });
    }
    if stat.nlink() > 1 {
        return Err(PathError::HardLink { path: path.to_owned() });
    }
    let bytes = read_limited(&file, MAX_TEXT_BYTES, path)?;
    String::from_utf8(bytes).map_err(|_| PathError::NotText { path: path.to_owned() })
}

/// Creates a folder and the missing ones above it. Missing ones above belong to root and have mode 0755; the folder
/// itself gets `mode` and `owner`, also if it exists.
///
/// # Errors
/// Returns an error if the path is unsafe, if something else is in its place, or if the system fails.
pub fn create_folders(path: &Path, mode: u32, owner: Option<Owner>) -> Result<HostFolder, PathError> {
    let (parent, name) = match HostFolder::open_parent(path) {
        Err(error) if error.is_not_found() => {
            let above = path.parent().ok_or_else(|| PathError::not_found(path))?;
            create_folders(above, 0o755, None)?;
            HostFolder::open_parent(path)?
        }
        opened => opened?,
    };
    parent.create_folder(name, mode, owner)
}

/// Creates a folder with this mode, and the missing ones above it, unless it exists.
///
/// # Errors
/// Returns an error if the path is unsafe, if something else is in its place, or if the system fails.
pub fn ensure_folder(path: &Path, mode: u32) -> Result<(), PathError> {
    match HostFolder::open(path) {
        Err(error) if error.is_not_found() => create_folders(path, mode, None).map(drop),
        opened => opened.map(drop),
    }
}

/// Removes a file or a link; it is no error if there is none.
///
/// # Errors
/// Returns an error if the path is unsafe or a folder, or if the system fails.
pub fn remove_file(path: &Path) -> Result<(), PathError> {
    in_parent(path, HostFolder::remove_file)
}

/// Removes a folder with all that is in it; it is no error if there is none. Nothing is removed if anything below it is
/// a mount point.
///
/// # Errors
/// Returns an error if the path is unsafe or not a folder, if something below is a mount point, or if the system fails.
pub fn remove_tree(path: &Path) -> Result<(), PathError> {
    in_parent(path, HostFolder::remove_tree)
}

fn in_parent(
    path: &Path,
    act: impl FnOnce(&HostFolder, &std::ffi::OsStr) -> Result<(), PathError>,
) -> Result<(), PathError> {
    let result = HostFolder::open_parent(path).and_then(|(parent, name)| act(&parent, name));
    result.or_else(|error| if error.is_not_found() { Ok(()) } else { Err(error) })
}

/// Checks that nobody but root and this process' user can change what a folder's path leads to, or what is in it: the
/// folder and all above it belong to them, and others may write only in those that are sticky (`/tmp`).
///
/// # Errors
/// Returns an error that names the first folder where another user could, or the system's error.
pub fn ensure_private(path: &Path) -> Result<(), PathError> {
    let real = HostFolder::open(path)?.real_path().to_owned();
    let as_named: Vec<&Path> = path.ancestors().collect();
    let without_links: Vec<&Path> = real.ancestors().collect();
    for folder in as_named.into_iter().rev().chain(without_links.into_iter().rev()) {
        let stat = std::fs::symlink_metadata(folder).map_err(|source| PathError::io("look at", folder, source))?;
        if !walk::is_own_or_root(stat.uid()) {
            return Err(PathError::WrongOwner { path: folder.to_owned(), owner: walk::user_name(stat.uid()) });
        }
        let is_last = folder == real;
        let others_write = !stat.is_symlink() && stat.mode() & 0o022 != 0 && (is_last || stat.mode() & 0o1000 == 0);
        if others_write {
            return Err(PathError::Writable { path: folder.to_owned(), mode: stat.mode() & 0o7777 });
        }
    }
    Ok(())
}
