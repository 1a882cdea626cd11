//! Archives an instance's files: a move never deletes files that held data.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::atomic_file::Attributes;
use crate::host_fs::{self, HostFolder};
use crate::resources::atomic_file::resolve_ids;
use crate::resources::redis_shard::RedisShard;

/// Moves the data folder to a new name beside it, and both configuration files into it. Returns the new folder;
/// `None` where there was nothing to move. The instance must not be running.
///
/// # Errors
/// Returns an error with the path if a file cannot be moved or written.
pub fn archive_files(instance: &RedisShard, reason: &str) -> Result<Option<PathBuf>> {
    let (conf_dir, files) = (instance.conf_dir(), [instance.conf_path(), instance.acl_path()]);
    let has_data =
        instance.data_dir.is_dir() && fs::read_dir(&instance.data_dir).is_ok_and(|mut dir| dir.next().is_some());
    if !has_data && !files.iter().any(|file| file.exists()) {
        return Ok(None);
    }
    let archive_dir = unused_archive_path(&instance.data_dir, reason);
    let (parent, archive_name) = HostFolder::open_parent(&archive_dir)?;
    let archive = if instance.data_dir.is_dir() {
        let (data_parent, data_name) = HostFolder::open_parent(&instance.data_dir)?;
        data_parent.rename(data_name, &parent, archive_name)?;
        parent.open_folder(archive_name)?
    } else {
        parent.create_folder(archive_name, 0o750, None)?
    };
    for file in files.iter().filter(|file| file.exists()) {
        // Copied, not renamed: configuration and data may be on two file systems.
        let name = file.file_name().with_context(|| format!("{} has no name", file.display()))?;
        let text = instance.read_file(file)?;
        archive.replace(name, text.as_bytes(), &archived_attributes(instance)?)?;
        host_fs::remove_file(file)?;
    }
    // Files that are not the instance's stay, and with them the folder.
    let (conf_parent, conf_name) = HostFolder::open_parent(&conf_dir)?;
    conf_parent.remove_folder(conf_name).ok();
    Ok(Some(archive_dir))
}

/// Writes a note into an archived folder, which its user can change: a link that is planted there is not followed.
///
/// # Errors
/// Returns an error if the note cannot be written.
pub fn write_archive_note(instance: &RedisShard, archive_dir: &Path, name: &str, text: &str) -> Result<()> {
    HostFolder::open(archive_dir)?.replace(OsStr::new(name), text.as_bytes(), &archived_attributes(instance)?)
}

fn archived_attributes(instance: &RedisShard) -> Result<Attributes> {
    let meta = instance.file_meta();
    Ok(Attributes { mode: meta.mode, owner: Some(resolve_ids(&meta)?) })
}

fn unused_archive_path(folder: &Path, reason: &str) -> PathBuf {
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let stamp = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S").to_string();
    let candidate = |n: u32| folder.with_file_name(format!("{name}.{reason}-{stamp}{}", "+".repeat(n as usize)));
    (0..).map(candidate).find(|path| !path.exists()).expect("there is always a longer name")
}
