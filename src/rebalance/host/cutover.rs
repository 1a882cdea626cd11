//! Cutover: pauses writes at the source, demotes it, then promotes and opens the target.
//!
//! All disk syncs happen before writes are paused or after the target is open; the pause itself takes five round
//! trips. At any time at most one of the two instances accepts application writes:
//! - The source accepts writes only with all its replicas attached, also after a restart. A source that crashes after
//!   its demotion and restarts as a primary (its new role is not in its file yet) refuses writes: its replica left.
//! - The target is on standby: its files already make it a primary, with the users of application and replicas off.
//!   If it restarts before they are durably on, it is closed, and no sync from the source overwrites writes that it
//!   acknowledged. The demoted source cannot load the target's data before the promotion either: until then the
//!   target accepts no replica.
//! - The transaction that demotes the source also reads its offset. If the pause expired before that, the target may
//!   lack writes: the cutover is rolled back to the source, and no write is lost.
//! - If this process was stopped after the demotion for too long, recovery decides by the roles instead.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use dunlin_shards::InstanceAddress;
use redis::Value;
use serde_json::json;

use super::boot_id::read_boot_id;
use super::client_access::ClientAccess;
use super::failpoint::{self, FailpointPosition};
use super::finish_cutover::finish_cutover;
use super::instance::parse_instance;
use super::min_replicas::{require_replicas, restore_min_replicas_cmds};
use super::move_journal::{MoveJournal, is_finished};
use super::redis_client::{RedisClient, probe_role, redis_command, replicaof_command, value_text};
use super::roll_back::roll_back_cutover;
use super::source_monitor::SourceMonitor;
use super::write_hold::WriteHold;
use super::{copy_lease, recover, replication_progress, verify};
use crate::poll::poll_until;
use crate::protocol::shard::{CutoverResult, MovePhase, MoveSpec, PhaseState, RecoveryResult, ReplicationRole};
use crate::protocol::{Event, ProgressSink};

/// Maximum time from demotion to promotion without checking the roles again. A crashed source needs longer than this
/// to restart, load its data, and count an attached replica.
const MAX_PROMOTION_DELAY: Duration = Duration::from_millis(100);
/// Time limit for recovery by roles, after which the operator has to decide.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(20);
/// Poll interval for the target's offset while writes are paused.
const DRAIN_POLL_INTERVAL: Duration = Duration::from_micros(100);

/// Result of one cutover attempt.
enum CutoverAttempt {
    Done(CutoverResult),
    /// The source serves as before; holds the reason.
    Abandoned(String),
}

/// Cuts the shard over to the target; reports a shard that has been cut over already.
///
/// # Errors
/// Returns an error if all attempts failed and the source still serves, or if the operator has to decide; the message
/// then names the roles that were found.
pub fn run_cutover(spec: &MoveSpec, sink: &dyn ProgressSink) -> Result<CutoverResult> {
    let mut journal = MoveJournal::open(&spec.header)?;
    if is_finished(journal.current_entries()) && is_handed_over(spec) {
        return Ok(CutoverResult { already_cut_over: true, ..CutoverResult::default() });
    }
    journal.start_move(spec)?;
    if journal.last_entry(MovePhase::RequireReplicas, PhaseState::Intent).is_some() {
        match recover::recover_by_roles(spec, &mut journal, RECOVERY_TIMEOUT)? {
            RecoveryResult::AtSource { .. } => {}
            decided => return result_at_target(decided),
        }
    }
    copy_lease::acquire(spec)?;
    let mut last_failure = String::new();
    let mut hold = WriteHold::new(Duration::from_millis(spec.limits.max_write_pause_ms));
    for retries in 0..spec.limits.max_cutover_attempts.max(1) {
        if sink.is_cancelled() {
            bail!("cancelled before shard {} was handed over; {} serves it", spec.header.shard, spec.record.from);
        }
        if let Some(monitor) = SourceMonitor::start_for(spec) {
            monitor.wait_until_below_limits("cutover", sink)?;
        }
        match attempt_cutover(spec, &mut journal, &mut hold, sink) {
            Ok(CutoverAttempt::Done(done)) => {
                copy_lease::release(spec.header.shard);
                return Ok(CutoverResult { retries, gap_us: hold.longest_us(), ..done });
            }
            Ok(CutoverAttempt::Abandoned(reason)) => last_failure = reason,
            Err(error) if is_source_prepared(&journal) => {
                let recovered = recover::recover_by_roles(spec, &mut journal, RECOVERY_TIMEOUT)?;
                hold.end();
                match recovered {
                    RecoveryResult::AtSource { .. } => last_failure = format!("{error:#}"),
                    decided => {
                        let done = result_at_target(decided)?;
                        return Ok(CutoverResult { retries, gap_us: hold.longest_us(), ..done });
                    }
                }
            }
            Err(error) => return Err(error),
        }
        sink.emit(Event::Note { text: format!("shard {}: cutover attempt failed: {last_failure}", spec.header.shard) });
    }
    bail!("shard {} stays at {}: {last_failure}", spec.header.shard, spec.record.from)
}

fn is_handed_over(spec: &MoveSpec) -> bool {
    let is_owner = matches!(probe_role(&spec.record.to, &spec.header.credentials), ReplicationRole::Primary { .. });
    is_owner
        && replication_progress::is_replica_of(
            &probe_role(&spec.record.from, &spec.header.credentials),
            &spec.record.to,
        )
}

fn result_at_target(decided: RecoveryResult) -> Result<CutoverResult> {
    match decided {
        RecoveryResult::AtTarget { follow_ups: pending, .. } => {
            Ok(CutoverResult { already_cut_over: true, follow_ups: pending, ..CutoverResult::default() })
        }
        RecoveryResult::AtSource { reason: why } | RecoveryResult::Undecided { reason: why } => bail!(why),
    }
}

/// Returns true if the journal says that this move changed the source's `min-replicas-to-write`.
fn is_source_prepared(journal: &MoveJournal) -> bool {
    let last = |step, mark| journal.current_entries().iter().rposition(|r| r.phase == step && r.state == mark);
    last(MovePhase::RequireReplicas, PhaseState::Intent) > last(MovePhase::RollBack, PhaseState::Done)
}

fn attempt_cutover(
    spec: &MoveSpec,
    journal: &mut MoveJournal,
    hold: &mut WriteHold,
    sink: &dyn ProgressSink,
) -> Result<CutoverAttempt> {
    let instance = parse_instance(spec.header.shard, &spec.record.instance)?;
    let mut source = RedisClient::open(&spec.record.from, &spec.header.credentials)?;
    let mut target = RedisClient::open(&spec.record.to, &spec.header.credentials)?;
    if !matches!(source.fetch_role()?, ReplicationRole::Primary { .. })
        || !replication_progress::is_replica_of(&target.fetch_role()?, &spec.record.from)
    {
        bail!("{} is not a replica of {}; copy the shard first", spec.record.to, spec.record.from);
    }
    replication_progress::wait_until_caught_up(&mut source, &mut target, spec, sink)?;
    replication_progress::wait_until_durable(&mut target, spec, sink)?;
    verify::ensure_verified(journal, &mut source, &mut target, spec, sink)?;
    require_replicas(spec, journal, &mut source, &mut target)?;
    let access = ClientAccess::from_source(spec, journal, &instance, &mut source)?;
    access.prepare_standby(journal, &instance, &mut target)?;
    let instances = CutoverInstances { access: &access, source: &mut source, target: &mut target };
    let result = match hand_over_writes(spec, journal, instances, hold)? {
        CutoverAttempt::Done(done) => done,
        abandoned => {
            roll_back_cutover(spec, journal, &mut source, Some(&mut target))?;
            hold.end();
            return Ok(abandoned);
        }
    };
    // Both instances write their files at the same time. If the source crashed, `finish_cutover` reports a follow-up.
    let source_cmds = restore_min_replicas_cmds(journal);
    let sent = source.send_commands(&source_cmds);
    journal.log_intent_unsynced(MovePhase::OpenTarget)?;
    access.persist_access(journal, &instance)?;
    sent.and_then(|()| source.receive_replies(&source_cmds)).ok();
    let follow_ups = finish_cutover(spec, journal, &instance, &mut target)?;
    Ok(CutoverAttempt::Done(CutoverResult { follow_ups, ..result }))
}

/// Connections to both instances of a cutover, and the users of the target.
struct CutoverInstances<'a> {
    access: &'a ClientAccess,
    source: &'a mut RedisClient,
    target: &'a mut RedisClient,
}

/// Pauses writes, drains, demotes and promotes; never waits for a disk while writes are paused. The caller rolls an
/// abandoned attempt back.
fn hand_over_writes(
    spec: &MoveSpec,
    journal: &mut MoveJournal,
    instances: CutoverInstances<'_>,
    hold: &mut WriteHold,
) -> Result<CutoverAttempt> {
    let CutoverInstances { access, source, target } = instances;
    let pause = Duration::from_millis(spec.limits.max_write_pause_ms);
    // After a power failure, recovery has to assume from here on that the source may have been demoted.
    journal.log_intent(MovePhase::Pause, json!({ "boot": read_boot_id()? }))?;
    let started = hold.begin();
    let milliseconds = spec.limits.max_write_pause_ms.to_string();
    let replies =
        source.run_all(&[redis_command(&["CLIENT", "PAUSE", &milliseconds, "WRITE"]), redis_command(&["ROLE"])])?;
    let offset = primary_offset(replies.get(1)).context("the source is no longer a primary")?;
    journal.log_done_unsynced(MovePhase::Pause)?;

    journal.log_intent_unsynced(MovePhase::Drain)?;
    let check = || anyhow::Ok((applied_offset(target)? >= offset).then_some(()));
    if poll_until(started + pause / 2, DRAIN_POLL_INTERVAL, check)?.is_none() {
        return Ok(CutoverAttempt::Abandoned(format!("{} did not catch up within half the pause", spec.record.to)));
    }
    journal.log_done_unsynced(MovePhase::Drain)?;

    journal.log_intent_unsynced(MovePhase::DemoteSource)?;
    if started.elapsed() > pause * 3 / 4 {
        return Ok(CutoverAttempt::Abandoned(
            "the write pause was about to expire before the source was demoted".to_owned(),
        ));
    }
    failpoint::hit_failpoint(MovePhase::DemoteSource, FailpointPosition::AfterLastCheck);
    let demote_started = Instant::now();
    hold.mark_demotion();
    let demoted_at = demote_source(source, &spec.record.to)?;
    if demoted_at > offset && target.fetch_info("replication")?.number_field("slave_repl_offset") < demoted_at {
        return Ok(CutoverAttempt::Abandoned("the source accepted writes before it was demoted".to_owned()));
    }
    journal.log_done_unsynced(MovePhase::DemoteSource)?;
    journal.log_intent_unsynced(MovePhase::Promote)?;
    if demote_started.elapsed() > MAX_PROMOTION_DELAY {
        bail!("the agent was suspended for {} ms after the source was demoted", demote_started.elapsed().as_millis());
    }
    access.promote_target(target)?;
    hold.end();
    journal.log_done_unsynced(MovePhase::Promote)?;
    Ok(CutoverAttempt::Done(CutoverResult { offset: demoted_at, ..CutoverResult::default() }))
}

/// Demotes the source and returns its offset at the moment of demotion.
fn demote_source(source: &mut RedisClient, target: &InstanceAddress) -> Result<u64> {
    let executed = source.run_transaction(&[
        redis_command(&["ROLE"]),
        replicaof_command(target),
        redis_command(&["CLIENT", "UNPAUSE"]),
    ])?;
    primary_offset(executed.first()).context("the source was no longer a primary when it was demoted")
}

/// Returns the offset in a primary's reply to `ROLE`; `None` for a replica.
fn primary_offset(role: Option<&Value>) -> Option<u64> {
    let Some(Value::Array(fields)) = role else { return None };
    match &fields[..] {
        [kind, Value::Int(offset), _] if value_text(kind) == Some("master") => u64::try_from(*offset).ok(),
        _ => None,
    }
}

/// Returns the offset that the target has applied; 0 while it is not connected.
fn applied_offset(target: &mut RedisClient) -> Result<u64> {
    let role: Vec<Value> = target.query(&redis_command(&["ROLE"]))?;
    Ok(match role.last() {
        Some(Value::Int(offset)) => u64::try_from(*offset).unwrap_or(0),
        _ => 0,
    })
}
