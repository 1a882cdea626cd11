//! Puts things into the file system so that a reader sees the old or the new state, never half of one.
//! No sync per file: the rename is ordered behind the data by the file systems in use, and a run that a power cut
//! interrupted is run again.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use rustix::fs::{Gid, Uid};

use super::{Meta, World};

/// Writes a file under a temporary name beside its place, with its final permissions and owner, and renames it there.
///
/// # Errors
/// The folder is missing, the owner is unknown, or the disk said no; the old file is then untouched.
pub fn write(path: &Path, bytes: &[u8], meta: &Meta) -> Result<()> {
    let folder = path.parent().with_context(|| format!("{} has no folder", path.display()))?;
    let mut temporary = tempfile::Builder::new()
        .prefix(".dunlin-")
        .tempfile_in(folder)
        .with_context(|| format!("cannot write in {}; a `directory` step can make it", folder.display()))?;
    temporary.write_all(bytes).with_context(|| format!("writing {}", path.display()))?;
    own(temporary.path(), meta)?;
    temporary.persist(path).with_context(|| format!("putting {} in place", path.display()))?;
    Ok(())
}

/// Sets owner, group and permissions of a path (not of what a link points to).
///
/// # Errors
/// The account is unknown, or the system said no.
pub fn own(path: &Path, meta: &Meta) -> Result<()> {
    let (uid, gid) = ids(meta)?;
    rustix::fs::chown(path, Some(uid), Some(gid))
        .with_context(|| format!("giving {} to {}", path.display(), meta.owner))?;
    // After the chown, which clears the set-id bits.
    fs::set_permissions(path, Permissions::from_mode(meta.mode))
        .with_context(|| format!("setting the mode of {}", path.display()))
}

/// Makes a renamed entry durable.
///
/// # Errors
/// The folder cannot be opened or synced.
pub fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|dir| dir.sync_all()).with_context(|| format!("syncing {}", folder.display()))
}

/// The numbers behind the names, read now: an earlier step may have made the account.
fn ids(meta: &Meta) -> Result<(Uid, Gid)> {
    if meta.owner == "root" && meta.group == "root" {
        return Ok((Uid::ROOT, Gid::ROOT));
    }
    let mut world = World::now();
    let uid = match world.user(&meta.owner)?.and_then(|user| user.uid) {
        Some(uid) => uid,
        None => meta.owner.parse().ok().with_context(|| format!("there is no user {}", meta.owner))?,
    };
    let gid = match world.group(&meta.group)?.and_then(|group| group.gid) {
        Some(gid) => gid,
        None => match meta.group.parse() {
            Ok(gid) => gid,
            Err(_) => bail!("there is no group {}", meta.group),
        },
    };
    Ok((Uid::from_raw(uid), Gid::from_raw(gid)))
}
