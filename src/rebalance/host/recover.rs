//! Recovers an interrupted move by the roles of its instances, never by key counts.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::Value;

use super::assessment::{Assessment, Decision, assess_roles};
use super::client_access::ClientAccess;
use super::finish_cutover::finish_cutover;
use super::instance::parse_instance;
use super::move_journal::{MoveJournal, chosen_instance, entries_since_roll_back, is_finished};
use super::redis_client::{RedisClient, START_TIMEOUT};
use super::replication_progress;
use super::roll_back::{restore_replication, roll_back_cutover};
use crate::poll::retry_until;
use crate::protocol::shard::{MovePhase, MoveSpec, RecoveryResult, ReplicationRole};
use crate::resources::redis_shard::RedisShard;

/// Time between two attempts to recover a move.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// Locks the shard and recovers its move with [`recover_by_roles`].
///
/// # Errors
/// Returns an error if the journal cannot be read or written, or a step fails.
pub fn recover_move(spec: &MoveSpec) -> Result<RecoveryResult> {
    let mut journal = MoveJournal::open(&spec.header)?;
    match journal.move_record() {
        None => {
            return Ok(RecoveryResult::AtSource {
                reason: "no move of this shard was started on this host".to_owned(),
            });
        }
        Some(begun) if begun.operation.creates_replica() => {
            return Ok(RecoveryResult::AtSource { reason: format!("{} is a replica build", spec.record.to) });
        }
        Some(_) => {}
    }
    recover_by_roles(spec, &mut journal, START_TIMEOUT)
}

/// Retries until the roles allow a decision, runs the missing steps, and returns the instance that serves the shard.
///
/// # Errors
/// Returns the errors of [`recover_move`].
pub fn recover_by_roles(spec: &MoveSpec, journal: &mut MoveJournal, timeout: Duration) -> Result<RecoveryResult> {
    if let (false, Some(chosen)) = (is_finished(journal.current_entries()), chosen_instance(journal.current_entries()))
    {
        return Ok(RecoveryResult::Undecided {
            reason: format!("the operator chose {chosen} to keep its writes, and that run did not complete"),
        });
    }
    let is_settled = |result: &Result<RecoveryResult>| match result {
        Ok(RecoveryResult::AtSource { .. }) => true,
        Ok(RecoveryResult::AtTarget { follow_ups, .. }) => follow_ups.is_empty(),
        _ => false,
    };
    retry_until(Instant::now() + timeout, RETRY_INTERVAL, || recover_once(spec, journal), is_settled)
}

fn recover_once(spec: &MoveSpec, journal: &mut MoveJournal) -> Result<RecoveryResult> {
    let is_open_move = !is_finished(journal.current_entries());
    let instance = parse_instance(spec.header.shard, &spec.record.instance)?;
    if instance.read_conf()?.is_some() && !instance.is_running()? {
        instance.enable_and_start()?;
    }
    let Assessment { decision, mut source, source_role, mut target, target_role } =
        assess_roles(spec, journal.current_entries())?;
    let replicas_were_required = entries_since_roll_back(journal.current_entries())
        .iter()
        .any(|record| record.phase == MovePhase::RequireReplicas);
    match decision {
        Decision::Undecidable(why) => {
            Ok(RecoveryResult::Undecided { reason: format!("{why} (source: {source_role}; target: {target_role})") })
        }
        Decision::KeepSource => {
            if let (true, Some(source)) = (replicas_were_required && is_open_move, source.as_mut()) {
                roll_back_cutover(spec, journal, source, target.as_mut())?;
            } else if let (true, ReplicationRole::Primary { .. }, Some(target)) =
                (is_open_move, &target_role, target.as_mut())
            {
                restore_replication(spec, target)?;
            }
            Ok(RecoveryResult::AtSource { reason: format!("{} was never opened", spec.record.to) })
        }
        Decision::UseTarget => {
            let Some(target) = target.as_mut() else { bail!("{} no longer answers", spec.record.to) };
            let why = format!("{} was demoted", spec.record.from);
            if !is_open_move {
                return Ok(RecoveryResult::AtTarget { reason: why, follow_ups: Vec::new() });
            }
            if let ReplicationRole::Replica { .. } = target_role {
                persist_source_role(spec, source.as_mut())?;
            }
            let pending = open_target(spec, journal, &instance, target)?;
            Ok(RecoveryResult::AtTarget { reason: why, follow_ups: pending })
        }
    }
}

/// Promotes the target, opens it and finishes the cutover. Returns the remaining follow-ups.
///
/// # Errors
/// Returns an error if a file cannot be written, or the target rejects a command.
pub fn open_target(
    spec: &MoveSpec,
    journal: &mut MoveJournal,
    instance: &RedisShard,
    target: &mut RedisClient,
) -> Result<Vec<String>> {
    journal.log_intent(MovePhase::Promote, Value::Null)?;
    instance.remove_replicaof()?;
    let access = ClientAccess::from_journal(spec, journal);
    access.promote_target(target)?;
    journal.log_done_unsynced(MovePhase::Promote)?;
    journal.log_intent(MovePhase::OpenTarget, Value::Null)?;
    access.persist_access(journal, instance)?;
    finish_cutover(spec, journal, instance, target)
}

/// Makes the source's role durable before the promotion, so that it cannot restart as a primary in between.
fn persist_source_role(spec: &MoveSpec, source: Option<&mut RedisClient>) -> Result<()> {
    let Some(source) = source else { return Ok(()) };
    source.run_command(&["CONFIG", "REWRITE"])?;
    if !replication_progress::is_replica_of(&source.fetch_role()?, &spec.record.to) {
        bail!("{} changed its role during recovery", spec.record.from);
    }
    Ok(())
}
