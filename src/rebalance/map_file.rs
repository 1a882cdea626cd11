//! The authored shard map, `shards.toml`, and the maps that follow from it.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use dunlin_shards::{ShardId, ShardMap, ShardPlacement};

use crate::atomic_file::replace_text;

/// The file of the authored map.
#[derive(Clone, Debug)]
pub struct MapFile {
    /// Path of the file.
    pub path: PathBuf,
}

impl MapFile {
    /// Reads the map.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read or is not a valid map.
    pub fn read(&self) -> Result<ShardMap> {
        Ok(self.read_with_text()?.0)
    }

    /// Reads the map, and the text of the file for an edit.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read or is not a valid map.
    pub fn read_with_text(&self) -> Result<(ShardMap, Arc<str>)> {
        let path = &self.path;
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let map = ShardMap::parse(&text).map_err(|errors| {
            anyhow!("{}: {}", path.display(), errors.iter().map(|e| e.message.as_str()).collect::<Vec<_>>().join("; "))
        })?;
        Ok((map, text.into()))
    }

    /// Replaces the file atomically and durably; it keeps its mode, and a new one is for its owner alone.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written.
    pub fn replace(&self, text: &str) -> Result<()> {
        replace_text(&self.path, text)
    }
}

/// Returns the map as it is after a move.
///
/// # Errors
/// Returns an error if there is no such shard.
pub fn map_after_move(map: &ShardMap, shard: ShardId, to: &str) -> Result<ShardMap> {
    let mut after = map.clone();
    let id = shard;
    let entry =
        after.shards.iter_mut().find(|entry| entry.id == id).with_context(|| format!("there is no shard {shard}"))?;
    entry.host = to.to_owned();
    after.epoch = after.epoch.next();
    Ok(after)
}

/// Returns the placement of a shard once its primary is on another host; its replicas stay where they are.
///
/// # Errors
/// Returns an error if there is no such shard.
pub fn placement_after_move(map: &ShardMap, shard: ShardId, to: &str) -> Result<ShardPlacement> {
    let entry = map.find_shard(shard).with_context(|| format!("there is no shard {shard}"))?;
    Ok(ShardPlacement { host: to.to_owned(), ..entry.placement() })
}
