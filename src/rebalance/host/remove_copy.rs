//! Removes the copy that a move created: its process and its files.

use anyhow::Result;

use super::instance::parse_instance;
use super::redis_client::RedisClient;
use super::start_replica;
use crate::host_fs;
use crate::protocol::shard::MoveSpec;

/// Stops the target's instance and removes its files, if it is the copy that this move created.
///
/// # Errors
/// Returns an error if the instance cannot be stopped or a file cannot be removed.
pub fn remove_copy(spec: &MoveSpec) -> Result<()> {
    let instance = parse_instance(spec.header.shard, &spec.record.instance)?;
    if start_replica::is_copy(&instance, spec)? {
        // Its unsaved data are not needed, and a failing append-only file would prevent a normal shutdown.
        if let Ok(mut target) = RedisClient::open(&spec.record.to, &spec.header.credentials) {
            target.run_command(&["SHUTDOWN", "NOSAVE", "NOW", "FORCE"]).ok();
        }
        instance.stop_and_disable()?;
        for folder in [&instance.conf_dir(), &instance.data_dir] {
            host_fs::remove_tree(folder)?;
        }
    }
    Ok(())
}
