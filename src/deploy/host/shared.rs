//! Files and folders that all releases share. The service's user may change them, so they are reached by handles, and
//! what is there stays as it is.

use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::{Gid, Uid};

use super::layout::ServiceLayout;
use crate::atomic_file::Attributes;
use crate::host_fs::{HostFolder, ensure_folder};
use crate::protocol::deploy::{DesiredState, ObservedShared, ServiceConfig, SharedPath};
use crate::resources::{HostView, PathMeta, atomic_file};

/// Permissions of a shared folder.
const FOLDER_MODE: u32 = 0o755;
/// Permissions of a shared file, which may get secrets.
const FILE_MODE: u32 = 0o640;

/// Returns the shared paths of a state as they are on this host.
///
/// # Errors
/// Returns an error if a path leads through a link that another user may have made, or the system fails.
pub(super) fn observe_shared(layout: &ServiceLayout, desired: &DesiredState) -> Result<Vec<ObservedShared>> {
    let release = layout.release_dir(&desired.manifest.version);
    let observe = |shared: &SharedPath| {
        let exists = has_entry(&layout.shared_dir().join(shared.path.as_str()))?;
        let is_linked = !has_entry(&release)? || is_linked(&release, shared);
        Ok(ObservedShared { exists, is_linked })
    };
    desired.config.shared.iter().map(observe).collect()
}

/// Creates the shared paths that are missing, for the service's user. The folders above them belong to the agent's
/// user.
///
/// # Errors
/// Returns an error if there is no such user, a path is unsafe, or the system fails.
pub(super) fn create_shared(layout: &ServiceLayout, config: &ServiceConfig) -> Result<()> {
    for shared in &config.shared {
        let path = layout.shared_dir().join(shared.path.as_str());
        if has_entry(&path)? {
            continue;
        }
        let owner = config.user.as_deref().map(resolve_user).transpose()?;
        let (folder, name) = open_parent(&path)?;
        if shared.is_folder {
            folder.create_folder(name, FOLDER_MODE, owner)?;
        } else {
            let attributes = Attributes { mode: FILE_MODE, owner };
            folder.replace(name, b"", &attributes)?;
        }
        folder.sync()?;
    }
    Ok(())
}

/// Puts the links to shared paths into a release that has no content there.
///
/// # Errors
/// Returns an error if a path is unsafe, a folder is in the place of a link, or the system fails.
pub(super) fn link_shared(release: &Path, shared_paths: &[SharedPath]) -> Result<()> {
    for shared in shared_paths.iter().filter(|shared| !is_linked(release, shared)) {
        let path = release.join(shared.path.as_str());
        let (folder, name) = open_parent(&path)?;
        folder.replace_link(name, &shared.link_target())?;
        folder.sync()?;
    }
    Ok(())
}

fn is_linked(release: &Path, shared: &SharedPath) -> bool {
    std::fs::read_link(release.join(shared.path.as_str())).is_ok_and(|target| target == shared.link_target())
}

fn open_parent(path: &Path) -> Result<(HostFolder, &std::ffi::OsStr)> {
    if let Some(parent) = path.parent() {
        ensure_folder(parent, FOLDER_MODE)?;
    }
    Ok(HostFolder::open_parent(path)?)
}

fn has_entry(path: &Path) -> Result<bool> {
    match HostFolder::open_parent(path) {
        Ok((folder, name)) => Ok(folder.stat(name)?.is_some()),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Returns the numbers of a user and of its primary group.
fn resolve_user(user: &str) -> Result<(Uid, Gid)> {
    let state = HostView::current().user_state(user)?.with_context(|| format!("there is no user {user}"))?;
    atomic_file::resolve_ids(&PathMeta { mode: 0, owner: user.to_owned(), group: state.group })
}
