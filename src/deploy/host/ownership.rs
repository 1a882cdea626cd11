//! The accounts and the programs of a host that a release refers to.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use rustix::fs::{Gid, Uid};

use crate::host_fs;
use crate::protocol::deploy::{FileOwner, ReleaseLink, ReleaseManifest};
use crate::resources::{PathMeta, atomic_file};

/// Numbers of the owners of a release's files.
pub(super) type OwnerIds = BTreeMap<FileOwner, (Uid, Gid)>;

/// Returns the numbers of all owners of a release.
///
/// # Errors
/// Returns an error if the host has no such user or group.
pub(super) fn resolve_owners(manifest: &ReleaseManifest) -> Result<OwnerIds> {
    manifest.owners().into_iter().map(|owner| Ok((owner.clone(), resolve_owner(owner)?))).collect()
}

fn resolve_owner(owner: &FileOwner) -> Result<(Uid, Gid)> {
    atomic_file::resolve_ids(&PathMeta { mode: 0, owner: owner.user.clone(), group: owner.group.clone() })
}

/// Returns the accounts that files of the release need and the host does not have, and its links to programs that the
/// host does not have or that a service could replace.
pub(super) fn find_invalid_references(manifest: &ReleaseManifest) -> Vec<String> {
    let owners = manifest.owners().into_iter().filter_map(|owner| resolve_owner(owner).err());
    let owners = owners.map(|error| format!("files of the release: {error:#}"));
    let links = manifest.links.iter().filter(|link| link.is_absolute()).filter_map(describe_unsafe_target);
    owners.chain(links).collect()
}

fn describe_unsafe_target(link: &ReleaseLink) -> Option<String> {
    let leads = format!("{} leads to {}", link.path, link.target);
    match host_fs::ensure_system_path(Path::new(&link.target)) {
        Ok(()) => None,
        Err(error) if error.is_not_found() => Some(format!("{leads}, which does not exist")),
        Err(error) => Some(format!("{leads}, which only root may be able to change: {error}")),
    }
}
