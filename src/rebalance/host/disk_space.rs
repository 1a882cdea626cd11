//! Free space of the file system that an instance's data is on.

use std::path::Path;

use anyhow::{Context, Result};

use crate::resources::redis_shard::RedisShard;

/// Returns the data directory, or the nearest directory above it that exists.
pub fn existing_data_dir(instance: &RedisShard) -> &Path {
    instance.data_dir.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"))
}

/// Returns the bytes that are free for the instance's data.
///
/// # Errors
/// Returns an error if the host does not report them.
pub fn free_bytes(instance: &RedisShard) -> Result<u64> {
    let directory = existing_data_dir(instance);
    let space =
        rustix::fs::statvfs(directory).with_context(|| format!("the file system of {}", directory.display()))?;
    Ok(space.f_bavail * space.f_frsize)
}
