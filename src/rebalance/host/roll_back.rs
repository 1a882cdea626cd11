//! Rolls a cutover back: the source is the primary again, a target that was never opened is its replica.

use anyhow::{Result, bail};
use serde_json::Value;

use super::min_replicas::restore_min_replicas_cmds;
use super::move_journal::MoveJournal;
use super::redis_client::{RedisClient, replicaof_command};
use crate::protocol::shard::{MovePhase, MoveSpec, ReplicationRole};

/// Restores the source as a primary without write pause and with its old `min-replicas-to-write`; makes the target,
/// if it answers, a replica again.
///
/// # Errors
/// Returns an error if the source does not answer. It then still requires its replicas: losing the copy would block
/// writes, but never lose one.
pub fn roll_back_cutover(
    spec: &MoveSpec,
    journal: &mut MoveJournal,
    source: &mut RedisClient,
    target: Option<&mut RedisClient>,
) -> Result<()> {
    journal.log_intent(MovePhase::RollBack, Value::Null)?;
    if !matches!(source.fetch_role()?, ReplicationRole::Primary { .. }) {
        source.run_command(&["REPLICAOF", "NO", "ONE"])?;
    }
    source.run_command(&["CLIENT", "UNPAUSE"])?;
    source.run_all(&restore_min_replicas_cmds(journal))?;
    if !matches!(source.fetch_role()?, ReplicationRole::Primary { .. }) {
        bail!("{} did not become a primary again", spec.record.from);
    }
    // The source serves in any case; if this fails, the next copy starts with a new target.
    if let Some(target) = target {
        restore_replication(spec, target).ok();
    }
    journal.log_done(MovePhase::RollBack, Value::Null)
}

/// Lets a target that was never opened follow the source again, also after a restart.
pub fn restore_replication(spec: &MoveSpec, target: &mut RedisClient) -> Result<()> {
    if let ReplicationRole::Primary { .. } = target.fetch_role()? {
        target.query::<redis::Value>(&replicaof_command(&spec.record.from))?;
    }
    target.run_command(&["CONFIG", "REWRITE"]).map(drop)
}
