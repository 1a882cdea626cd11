//! Sets an instance's files aside: nothing that held data is ever deleted by a move.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::resources::redis_shard::RedisShard;

/// Moves the data folder to a name of its own beside it, and both configuration files into it. Returns the new folder;
/// `None` where there was nothing to move. The instance must not be running.
///
/// # Errors
/// Returns an error with the path if a file cannot be moved or written.
pub fn archive_files(instance: &RedisShard, reason: &str) -> Result<Option<PathBuf>> {
    let files = [instance.conf_path(), instance.acl_path()];
    let has_data =
        instance.data_dir.is_dir() && fs::read_dir(&instance.data_dir).is_ok_and(|mut dir| dir.next().is_some());
    if !has_data && !files.iter().any(|file| file.exists()) {
        return Ok(None);
    }
    let archive_dir = unused_archive_path(&instance.data_dir, reason);
    if instance.data_dir.is_dir() {
        fs::rename(&instance.data_dir, &archive_dir)
            .with_context(|| format!("moving {} aside", instance.data_dir.display()))?;
    } else {
        fs::create_dir_all(&archive_dir).with_context(|| format!("making {}", archive_dir.display()))?;
    }
    for file in files.iter().filter(|file| file.exists()) {
        // Copied, not renamed: configuration and data may be on two file systems.
        let name = file.file_name().with_context(|| format!("{} has no name", file.display()))?;
        fs::copy(file, archive_dir.join(name)).with_context(|| format!("keeping {}", file.display()))?;
        fs::remove_file(file).with_context(|| format!("removing {}", file.display()))?;
    }
    Ok(Some(archive_dir))
}

fn unused_archive_path(folder: &Path, reason: &str) -> PathBuf {
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let stamp = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S").to_string();
    let candidate = |n: u32| folder.with_file_name(format!("{name}.{reason}-{stamp}{}", "+".repeat(n as usize)));
    (0..).map(candidate).find(|path| !path.exists()).expect("there is always a longer name")
}
