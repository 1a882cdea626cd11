//! Builds a new replica, or one that replaces another: a copy as in a move, without a cutover. The primary serves all
//! the time; only the verification may pause writes for some milliseconds, for keys that are written to continuously.
//!
//! The replica is closed to readers until it is verified. Its journal stays unfinished until the map names the replica
//! (`commit_replica`); until then `remove_replica` removes it.

use anyhow::{Result, bail};
use redis::Cmd;
use serde_json::{Value, json};

use super::copy::build_replica;
use super::instance::parse_instance;
use super::move_journal::{MoveJournal, is_finished};
use super::redis_client::{RedisClient, START_TIMEOUT, probe_role, redis_command};
use super::{copy_lease, rate_limiter, remove_copy, replication_progress, start_replica, throttled_sync};
use crate::protocol::ProgressSink;
use crate::protocol::shard::{CopyResult, MovePhase, MoveSpec, ReplicationRole};
use crate::resources::BlobSource;

/// Creates the replica or resumes an unfinished one: starts, copies, verifies it, and opens it to readers.
///
/// # Errors
/// Returns an error if a step fails; only the primary's replication settings may have changed then.
pub fn create_replica(spec: &MoveSpec, blobs: &dyn BlobSource, sink: &dyn ProgressSink) -> Result<CopyResult> {
    let mut journal = MoveJournal::open(&spec.header)?;
    let mut primary = RedisClient::open_with_retry(&spec.record.from, &spec.header.credentials, START_TIMEOUT)?;
    match primary.fetch_role()? {
        ReplicationRole::Primary { .. } => {}
        role => bail!("{} is not a primary ({role}); no replica was created", spec.record.from),
    }
    if is_created(spec, &journal) {
        return Ok(CopyResult::default());
    }
    let start_lock = rate_limiter::copy_start_lock(spec);
    let permit = throttled_sync::acquire_permit(spec, &start_lock, sink)?;
    journal.start_replica_build(spec)?;
    copy_lease::acquire(spec)?;
    let copied = build_replica(spec, &mut journal, &mut primary, permit, blobs, sink)?;
    journal.log_intent(MovePhase::OpenTarget, Value::Null)?;
    let instance = parse_instance(spec.header.shard, &spec.record.instance)?;
    let users = start_replica::closed_users(&instance, spec, blobs)?;
    instance.set_users_enabled(&users, true)?;
    RedisClient::open(&spec.record.to, &spec.header.credentials)?.run_all(&enable_user_cmds(&users))?;
    journal.log_done(MovePhase::OpenTarget, Value::Null)?;
    copy_lease::release(spec.header.shard);
    Ok(copied)
}

fn enable_user_cmds(users: &[String]) -> Vec<Cmd> {
    users.iter().map(|user| redis_command(&["ACL", "SETUSER", user, "on"])).collect()
}

/// Returns true if the journal's last move created the replica and it follows its primary.
fn is_created(spec: &MoveSpec, journal: &MoveJournal) -> bool {
    let record = journal.move_record().filter(|last| {
        last.operation.creates_replica() && (&last.from, &last.to) == (&spec.record.from, &spec.record.to)
    });
    record.is_some() && is_finished(journal.current_entries()) && is_following(spec)
}

fn is_following(spec: &MoveSpec) -> bool {
    replication_progress::is_replica_of(&probe_role(&spec.record.to, &spec.header.credentials), &spec.record.from)
}

/// Finishes the journal of a replica that the map names from this epoch on; a controller with a lower epoch can tell
/// that its map is outdated.
///
/// # Errors
/// Returns an error if it does not follow its primary, or the journal cannot be written.
pub fn commit_replica(spec: &MoveSpec) -> Result<()> {
    let mut journal = MoveJournal::open(&spec.header)?;
    if !journal.move_record().is_some_and(|begun| begun.operation.creates_replica())
        || is_finished(journal.current_entries())
    {
        return Ok(());
    }
    if !is_following(spec) {
        bail!("{} does not follow {}", spec.record.to, spec.record.from);
    }
    journal.log_intent(MovePhase::Finalize, Value::Null)?;
    journal.log_done(MovePhase::Finalize, json!({ "epoch": spec.record.epoch }))
}

/// Removes a replica that the map does not name yet. Its primary need not answer for that.
///
/// # Errors
/// Returns an error if the instance was promoted in the meantime, or on an I/O error.
pub fn remove_replica(spec: &MoveSpec, journal: &mut MoveJournal) -> Result<()> {
    if let ReplicationRole::Primary { .. } = probe_role(&spec.record.to, &spec.header.credentials) {
        bail!("{} is a primary; it was not removed", spec.record.to);
    }
    journal.log_intent(MovePhase::Abort, Value::Null)?;
    remove_copy::remove_copy(spec)?;
    journal.log_done(MovePhase::Abort, Value::Null)
}
