//! Copy: starts the target, waits until it has caught up and is durable, and verifies it.

use std::time::Instant;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::instance::parse_instance;
use super::move_journal::MoveJournal;
use super::redis_client::{RedisClient, START_TIMEOUT};
use super::repl_timeout::ReplTimeout;
use super::throttled_sync::{self, SyncPermit, ThrottledSync};
use super::{copy_lease, observe, rate_limiter, recover, replication_progress, start_replica, verify};
use crate::protocol::ProgressSink;
use crate::protocol::shard::{CopyResult, MovePhase, MoveSpec, PhaseState, RecoveryResult, ReplicationRole};
use crate::resources::BlobSource;

/// Copies the shard until the cutover can start; an existing copy only has to catch up.
///
/// # Errors
/// Returns an error if a step fails; only the source's replication settings may have changed then, and a canceled copy
/// no longer loads the source.
pub fn copy_shard(spec: &MoveSpec, blobs: &dyn BlobSource, sink: &dyn ProgressSink) -> Result<CopyResult> {
    let mut journal = MoveJournal::open(&spec.header)?;
    let mut source = RedisClient::open_with_retry(&spec.record.from, &spec.header.credentials, START_TIMEOUT)?;
    match source.fetch_role()? {
        ReplicationRole::Primary { .. } => {}
        role if replication_progress::is_replica_of(&role, &spec.record.to) => return Ok(CopyResult::default()),
        role => bail!("the source {} is not a primary ({role})", spec.record.from),
    }
    let start_lock = rate_limiter::copy_start_lock(spec);
    let permit = throttled_sync::acquire_permit(spec, &start_lock, sink)?;
    journal.start_move(spec)?;
    if journal.last_entry(MovePhase::PrepareStandby, PhaseState::Intent).is_some() {
        // An earlier cutover was interrupted; its target may be a closed primary on standby.
        match recover::recover_by_roles(spec, &mut journal, START_TIMEOUT)? {
            RecoveryResult::AtSource { .. } => {}
            RecoveryResult::AtTarget { .. } => return Ok(CopyResult::default()),
            RecoveryResult::Undecided { reason: why } => bail!(why),
        }
    }
    copy_lease::acquire(spec)?;
    build_replica(spec, &mut journal, &mut source, permit, blobs, sink)
}

/// Runs the copy of a begun move: start, sync, verify, make durable.
///
/// # Errors
/// Returns an error if the copy was stopped, with the reason.
pub fn build_replica(
    spec: &MoveSpec,
    journal: &mut MoveJournal,
    source: &mut RedisClient,
    permit: SyncPermit<'_>,
    blobs: &dyn BlobSource,
    sink: &dyn ProgressSink,
) -> Result<CopyResult> {
    let started = Instant::now();
    enable_diskless_sync(source)?;
    let full_syncs = source.fetch_info("stats")?.number_field("sync_full");
    let timeout = ReplTimeout::for_copy(journal, source)?;
    let users = start_replica::closed_users(&parse_instance(spec.header.shard, &spec.record.instance)?, spec, blobs)?;
    let (name, seconds) = timeout.journal_field();
    journal.log_intent(MovePhase::StartReplica, json!({ "users": users, name: seconds }))?;
    timeout.raise(source)?;
    let synced =
        sync_replica(&timeout.extend_stall_timeout(spec), journal, source, SyncInputs { permit, blobs, sink, timeout });
    let mut target = match synced {
        Ok(target) => target,
        Err(error) => {
            timeout.restore(source, None).ok();
            return Err(error);
        }
    };
    let stats = source.fetch_info("stats")?;
    let has_forked = stats.number_field("sync_full") > full_syncs;
    let fork_us = if has_forked { stats.number_field("latest_fork_usec") } else { 0 };

    // The target writes its first append-only file meanwhile.
    let verified = verify::ensure_verified(journal, source, &mut target, spec, sink)?;
    replication_progress::wait_until_durable(&mut target, spec, sink)?;
    let bytes = observe::dataset_bytes(&target.fetch_info("all")?);
    Ok(CopyResult { bytes, seconds: started.elapsed().as_secs_f64(), verification: verified, fork_us })
}

/// Inputs of a sync in addition to the move, its journal and its source.
struct SyncInputs<'a> {
    permit: SyncPermit<'a>,
    blobs: &'a dyn BlobSource,
    sink: &'a dyn ProgressSink,
    timeout: ReplTimeout,
}

/// Starts the target and waits until it has caught up. Returns a connection to it.
fn sync_replica(
    spec: &MoveSpec,
    journal: &mut MoveJournal,
    source: &mut RedisClient,
    inputs: SyncInputs<'_>,
) -> Result<RedisClient> {
    let SyncInputs { mut permit, blobs, sink, timeout } = inputs;
    let instance = parse_instance(spec.header.shard, &spec.record.instance)?;
    start_replica::start_replica(&instance, spec, blobs)?;
    let mut target = RedisClient::open_with_retry(&spec.record.to, &spec.header.credentials, START_TIMEOUT)?;
    if let ReplicationRole::Primary { .. } = target.fetch_role()? {
        bail!("{} is already a primary; nothing was copied to it", spec.record.to);
    }
    timeout.raise(&mut target)?;
    journal.log_done(MovePhase::StartReplica, json!({ "run_id": target.fetch_run_id()? }))?;

    journal.log_intent(MovePhase::Copy, Value::Null)?;
    let is_throttled = spec.record.throttle.is_enabled();
    if is_throttled && !throttled_sync::follows_source_directly(&mut target, spec)? {
        ThrottledSync { spec, instance: &instance, sink }.run_sync(source, &mut target, &mut permit)?;
    } else {
        throttled_sync::sync_directly(&instance, source, &mut target, spec, sink)?;
    }
    let configured = instance.read_conf()?.and_then(|conf| conf.last_value("repl-timeout")?.parse().ok());
    timeout.restore(source, configured.map(|seconds| (&mut target, seconds)))?;
    journal.log_done(MovePhase::Copy, Value::Null)?;
    Ok(target)
}

/// Lets the source begin a full sync at once and through the socket. Its file says the same where dunlin provisioned
/// it.
fn enable_diskless_sync(source: &mut RedisClient) -> Result<()> {
    for (name, value) in [("repl-diskless-sync", "yes"), ("repl-diskless-sync-delay", "0")] {
        if source.fetch_setting(name)? != value {
            source.run_command(&["CONFIG", "SET", name, value])?;
        }
    }
    Ok(())
}
