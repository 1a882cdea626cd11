//! Paths that only root can change: no other user owns, or can write to, anything on the way.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use super::PathError;
use super::walk::{MAX_LINKS, is_own_or_root, user_name};

/// Checks that only root and this process' user can change where a path leads or what it contains. All folders and
/// links on the way belong to them, those behind links too; others may write only in folders that are sticky (`/tmp`).
///
/// # Errors
/// Returns an error that names the first folder, link or file that another user could change, or the system's error.
pub fn ensure_system_path(path: &Path) -> Result<(), PathError> {
    let mut parts = to_names(path);
    let (mut real, mut links) = (PathBuf::from("/"), 0);
    while let Some(name) = parts.pop_front() {
        if name == ".." {
            real.pop();
            continue;
        }
        let next = real.join(name);
        let stat = std::fs::symlink_metadata(&next).map_err(|source| PathError::io("look at", &next, source))?;
        check_entry(&next, &stat, parts.is_empty())?;
        if !stat.is_symlink() {
            real = next;
            continue;
        }
        links += 1;
        if links > MAX_LINKS {
            return Err(PathError::TooManyLinks { path: path.to_owned() });
        }
        let target = std::fs::read_link(&next).map_err(|source| PathError::io("read the link", &next, source))?;
        if target.is_absolute() {
            real = PathBuf::from("/");
        }
        to_names(&target).into_iter().rev().for_each(|name| parts.push_front(name));
    }
    Ok(())
}

fn check_entry(path: &Path, stat: &Metadata, is_last: bool) -> Result<(), PathError> {
    if !is_own_or_root(stat.uid()) {
        return Err(PathError::WrongOwner { path: path.to_owned(), owner: user_name(stat.uid()) });
    }
    let group_writes = stat.mode() & 0o020 != 0 && stat.gid() != 0;
    let others_write = group_writes || stat.mode() & 0o002 != 0;
    // In a sticky folder, nobody can replace what belongs to root.
    let is_sticky = stat.is_dir() && stat.mode() & 0o1000 != 0 && !is_last;
    if others_write && !stat.is_symlink() && !is_sticky {
        return Err(PathError::Writable { path: path.to_owned(), mode: stat.mode() & 0o7777 });
    }
    Ok(())
}

fn to_names(path: &Path) -> VecDeque<OsString> {
    let names = path.components().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
    names.map(|part| part.as_os_str().to_owned()).collect()
}
