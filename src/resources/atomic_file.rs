//! Changes files atomically: a reader sees the old or the new state, never a partial one. A file is synced before its
//! rename, and its folder after it: a power failure leaves no empty file, and undoes nothing that a handler was run
//! for.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{Gid, Uid};

use super::{HostView, PathMeta};
use crate::atomic_file::Attributes;
use crate::host_fs::{self, HostFolder};

/// Writes a file under a temporary name beside its place, with its final permissions and owner, and renames it there.
///
/// # Errors
/// Returns an error if the folder is missing, the path is unsafe, the owner is unknown, or writing fails; the old file
/// is then unchanged.
pub fn write_file(path: &Path, bytes: &[u8], meta: &PathMeta) -> Result<()> {
    let (folder, name) = open_parent(path)?;
    let attributes = Attributes { mode: meta.mode, owner: Some(resolve_ids(meta)?) };
    folder.replace(name, bytes, &attributes)
}

/// Puts a symbolic link at a path, and replaces an existing link.
///
/// # Errors
/// Returns an error if the folder is missing or not writable, or if the path is unsafe.
pub fn write_link(path: &Path, target: &Path) -> Result<()> {
    let (folder, name) = open_parent(path)?;
    folder.replace_link(name, target)
}

/// Creates a folder or takes the existing one, and sets its owner, group and permissions.
///
/// # Errors
/// Returns an error if the folder above is missing, the path is unsafe or exists as something else, or the owner is
/// unknown.
pub fn create_directory(path: &Path, meta: &PathMeta) -> Result<()> {
    let (folder, name) = open_parent(path)?;
    folder.create_folder(name, meta.mode, Some(resolve_ids(meta)?))?;
    Ok(())
}

/// Creates a folder and the missing ones above it, these for root with mode 0755, and sets its owner, group and
/// permissions.
///
/// # Errors
/// Returns an error if the path is unsafe or exists as something else, or the owner is unknown.
pub fn create_directories(path: &Path, meta: &PathMeta) -> Result<()> {
    host_fs::create_folders(path, meta.mode, Some(resolve_ids(meta)?))?;
    Ok(())
}

fn open_parent(path: &Path) -> Result<(HostFolder, &OsStr)> {
    HostFolder::open_parent(path).map_err(|error| {
        if !error.is_not_found() {
            return error.into();
        }
        let folder = path.parent().unwrap_or(path);
        anyhow::Error::new(error)
            .context(format!("cannot write in {}; a `directory` step can make it", folder.display()))
    })
}

/// Refuses paths that a step cannot own: relative ones, `..` in them, the root, control characters, roundabout
/// spellings (`/a//b`, `/a/`).
///
/// # Errors
/// Returns a description of the problem that begins with the key.
pub fn check_path(key: &str, path: &Path) -> Result<(), String> {
    let shown = path.display().to_string();
    if !path.is_absolute() {
        return Err(format!("{key} must be an absolute path, not \"{shown}\""));
    }
    if shown.chars().any(char::is_control) {
        return Err(format!("{key} must have no control characters: {shown:?}"));
    }
    if path.file_name().is_none() || path.components().any(|part| part == Component::ParentDir) {
        return Err(format!("{key} must name one place, without `..`, not \"{shown}\""));
    }
    // Two spellings of one path would pass for two owners, and nothing can be renamed to a name that ends with `/`.
    let plain: PathBuf = path.components().collect();
    if plain.as_os_str() != path.as_os_str() {
        return Err(format!("{key} must be written \"{}\", not \"{shown}\"", plain.display()));
    }
    Ok(())
}

/// Sets owner, group and permissions of a file or a folder; a link is not followed.
///
/// # Errors
/// Returns an error if the account is unknown, the path is unsafe, or the system call fails.
pub fn set_ownership(path: &Path, meta: &PathMeta) -> Result<()> {
    let owner = resolve_ids(meta)?;
    let (folder, name) = HostFolder::open_parent(path)?;
    Ok(folder.set_attributes(name, meta.mode, Some(owner))?)
}

/// Returns the numbers of a user and a group, read now: an earlier step may have made the account.
///
/// # Errors
/// Returns an error if the host has no such user or group.
pub fn resolve_ids(meta: &PathMeta) -> Result<(Uid, Gid)> {
    if meta.owner == "root" && meta.group == "root" {
        return Ok((Uid::ROOT, Gid::ROOT));
    }
    let mut view = HostView::current();
    let uid = view.user_state(&meta.owner)?.and_then(|user| user.uid);
    let gid = view.group_state(&meta.group)?.and_then(|group| group.gid);
    // An owner without a name is only possible for an observed file (`line` keeps the owner); steps use names.
    let uid = uid.or_else(|| meta.owner.parse().ok());
    let gid = gid.or_else(|| meta.group.parse().ok());
    let uid = uid.with_context(|| format!("there is no user {}", meta.owner))?;
    let gid = gid.with_context(|| format!("there is no group {}", meta.group))?;
    Ok((Uid::from_raw(uid), Gid::from_raw(gid)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_canonical_paths_are_accepted() {
        assert!(check_path("dest", Path::new("/etc/motd")).is_ok());
        for wrong in ["etc/motd", "/", "/etc/../etc/motd", "/etc/motd\n", "/etc/motd/", "/etc//motd", "/etc/./motd"] {
            assert!(check_path("dest", Path::new(wrong)).unwrap_err().starts_with("dest must"), "{wrong}");
        }
    }

    #[test]
    fn existing_links_are_replaced_and_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("link"), folder.path().join("other"));
        fs::write(&other, "keep").unwrap();
        write_link(&path, &other).unwrap();
        write_link(&path, Path::new("other")).unwrap();
        assert_eq!(fs::read_link(&path).unwrap(), Path::new("other"));
        let mut view = HostView::current();
        let super::super::PathState::File { meta, .. } = view.path_state(&other).unwrap() else { panic!("a file") };
        write_file(&path, b"new", &meta).unwrap();
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
        assert_eq!(fs::read(&other).unwrap(), b"keep");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "no temporary file stays");
    }
}
