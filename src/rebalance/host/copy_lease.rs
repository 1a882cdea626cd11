//! The lease of a copy: it lasts as long as an agent works on the move. A copy without one follows its source no longer.
//!
//! A copy that nobody watches could cost its source a full sync again and again: as soon as it falls behind by more than
//! the source's output buffer and backlog hold. An agent that is killed cannot end its copy, so a watch
//! ([`DeathWatch`]) does. It leaves a move alone whose cutover is prepared, which recovery decides by the roles, and a
//! move that another run has taken up. The data stay: the next agent continues with a partial resync if the source's
//! backlog reaches back far enough.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use dunlin_shards::ShardId;

use super::instance::parse_instance;
use super::move_journal::{MoveJournal, entries_since_roll_back, is_finished};
use super::redis_client::{RedisClient, replicaof_command};
use super::{repl_timeout, replication_progress, replication_proxy};
use crate::process::{DeathWatch, wait_for_agent_death};
use crate::protocol::shard::{MovePhase, MoveSpec, PhaseState};

/// Name of the hidden command that is a watch.
const WATCH_COMMAND: &str = "watch-copy";
/// Time between two attempts to end a copy: a target that loads its data takes no commands.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// The leases that this agent holds. The end of the process ends them.
static LEASES: Mutex<BTreeMap<ShardId, DeathWatch>> = Mutex::new(BTreeMap::new());

/// Takes the lease of a shard's copy, in place of the one that this agent had.
///
/// # Errors
/// Returns an error if the watch cannot be started; the copy must not start then.
pub fn acquire(spec: &MoveSpec) -> Result<()> {
    let watch = DeathWatch::start(WATCH_COMMAND, &serde_json::to_vec(spec)?)
        .context("starting the process that ends the copy if this agent is killed")?;
    release(spec.header.shard);
    lock_leases().extend(watch.map(|watch| (spec.header.shard, watch)));
    Ok(())
}

/// Gives the lease up: the copy serves the shard, is a replica, or is gone.
pub fn release(shard: ShardId) {
    // A watch that was killed has nothing to release.
    if let Some(watch) = lock_leases().remove(&shard) {
        watch.release().ok();
    }
}

fn lock_leases() -> MutexGuard<'static, BTreeMap<ShardId, DeathWatch>> {
    LEASES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs as the watch of a copy if these are the arguments of one (with the name of the program first).
pub fn run_copy_watch(args: &[OsString]) -> Option<ExitCode> {
    let [_, command] = args else { return None };
    (command == WATCH_COMMAND).then(|| if watch_copy().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Waits for the end of the agent, then ends the copy.
///
/// # Errors
/// Returns an error if the input cannot be read, or the shard's journal cannot be opened: another agent works on the shard.
fn watch_copy() -> Result<()> {
    let Some(input) = wait_for_agent_death()? else { return Ok(()) };
    let spec: MoveSpec = serde_json::from_slice(&input)?;
    let instance = parse_instance(spec.header.shard, &spec.record.instance)?;
    while end_copy(&spec)?.is_err() && instance.is_running()? {
        std::thread::sleep(RETRY_INTERVAL);
    }
    Ok(())
}

/// Lets a copy stop following its source, unless its move is past that. The inner error is that of the target.
fn end_copy(spec: &MoveSpec) -> Result<Result<()>> {
    // Before the journal is locked: a target that is frozen must not block other requests for its shard.
    let mut target = match RedisClient::open(&spec.record.to, &spec.header.credentials) {
        Ok(target) => target,
        Err(error) => return Ok(Err(error)),
    };
    let journal = MoveJournal::open(&spec.header)?;
    if !is_copying(&journal, spec) {
        return Ok(Ok(()));
    }
    Ok(stop_following(spec, &mut target).inspect(|()| drop(repl_timeout::restore_at_source(&journal, spec))))
}

/// Returns whether this move is at a step before its cutover, or before its replica is opened.
fn is_copying(journal: &MoveJournal, spec: &MoveSpec) -> bool {
    let is_same = journal.move_record().is_some_and(|last| {
        last.operation.is_same_kind(&spec.record.operation)
            && (&last.from, &last.to) == (&spec.record.from, &spec.record.to)
    });
    let entries = journal.current_entries();
    let is_past = entries_since_roll_back(entries).iter().any(|entry| match entry.phase {
        MovePhase::RequireReplicas => true,
        MovePhase::OpenTarget => entry.state == PhaseState::Done,
        _ => false,
    });
    is_same && !is_past && !is_finished(entries)
}

fn stop_following(spec: &MoveSpec, target: &mut RedisClient) -> Result<()> {
    if !replication_progress::is_replica_of(
        &replication_proxy::proxied_role(target.fetch_role()?, spec),
        &spec.record.from,
    ) {
        return Ok(());
    }
    let placeholder = replication_proxy::placeholder_address(spec.header.shard);
    target.query::<redis::Value>(&replicaof_command(&placeholder))?;
    parse_instance(spec.header.shard, &spec.record.instance)?.set_replicaof(&placeholder)
}
