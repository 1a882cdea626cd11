//! Aborts a move: restores the source and removes the copy.

use anyhow::{Result, bail};
use serde_json::Value;

use super::min_replicas::restore_min_replicas_cmds;
use super::move_journal::{MoveJournal, is_finished};
use super::recover::recover_by_roles;
use super::redis_client::{RedisClient, START_TIMEOUT};
use super::remove_copy::remove_copy;
use super::{repl_timeout, replica};
use crate::protocol::shard::{MovePhase, MoveSpec, PhaseState, RecoveryResult, ReplicationRole};

/// Aborts a move: restores the source and removes the copy.
///
/// # Errors
/// Returns an error, and removes nothing, if the target was or may have been opened, or is not a copy.
pub fn abort_move(spec: &MoveSpec) -> Result<()> {
    let mut journal = MoveJournal::open(&spec.header)?;
    if journal.move_record().is_none() || journal.last_entry(MovePhase::Abort, PhaseState::Done).is_some() {
        return Ok(());
    }
    let is_replica = journal.move_record().is_some_and(|begun| begun.operation.creates_replica());
    if is_replica && is_finished(journal.current_entries()) {
        bail!("the map names the replica {} of shard {}; it is not removed", spec.record.to, spec.header.shard);
    }
    // A copy that was interrupted may have left a longer timeout at the source, which need not answer.
    repl_timeout::restore_at_source(&journal, spec).ok();
    if is_replica {
        return replica::remove_replica(spec, &mut journal);
    }
    if is_finished(journal.current_entries()) {
        bail!(
            "shard {} is already at {}; run `dunlin shards move-back` to move it back",
            spec.header.shard,
            spec.record.to
        );
    }
    match recover_if_prepared(spec, &mut journal)? {
        RecoveryResult::AtSource { .. } => {}
        RecoveryResult::AtTarget { .. } => {
            bail!(
                "shard {} is already at {}; run `dunlin shards move-back` to move it back",
                spec.header.shard,
                spec.record.to
            )
        }
        RecoveryResult::Undecided { reason: why } => bail!("shard {}: {why}", spec.header.shard),
    }
    let mut source = RedisClient::open(&spec.record.from, &spec.header.credentials)?;
    if !matches!(source.fetch_role()?, ReplicationRole::Primary { .. }) {
        bail!("{} is not a primary; the copy at {} is kept", spec.record.from, spec.record.to);
    }
    journal.log_intent(MovePhase::Abort, Value::Null)?;
    // The wave may have set `min-replicas-to-write` in the file before the cutover began.
    source.run_all(&restore_min_replicas_cmds(&journal))?;
    remove_copy(spec)?;
    journal.log_done(MovePhase::Abort, Value::Null)
}

fn recover_if_prepared(spec: &MoveSpec, journal: &mut MoveJournal) -> Result<RecoveryResult> {
    if journal.last_entry(MovePhase::RequireReplicas, PhaseState::Intent).is_some() {
        return recover_by_roles(spec, journal, START_TIMEOUT);
    }
    Ok(RecoveryResult::AtSource { reason: "the cutover was never started".to_owned() })
}
