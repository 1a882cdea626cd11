//! Promotes a replica whose primary is lost, in the agent on the replica's host.
//!
//! At any time at most one of the two instances accepts application writes:
//! - The replica leaves the old primary closed: all users but those of dunlin and replication, also those that exist in
//!   memory only, are off in its file and in memory, and their clients are disconnected. A restart makes it a closed
//!   primary.
//! - All other replicas leave the old primary before the new one is opened. With `min-replicas-to-write` the old one
//!   rejects writes `min-replicas-max-lag` seconds after the last acknowledgement of a replica, and after a restart.
//!   The agent waits that long, unless the old primary's host has stopped it permanently. If the old primary answers
//!   in the meantime, all replicas follow it again, and no write is lost.
//! - From the journal's `promote` on, the replica may hold writes that only it has: the failover can only go forward.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use dunlin_shards::InstanceAddress;
use redis::{Cmd, Value as Answer};
use serde_json::{Value, json};

use super::client_access::closed_users;
use super::instance::parse_instance;
use super::move_journal::{MoveJournal, is_finished};
use super::redis_client::{RedisClient, START_TIMEOUT, probe_role, redis_command, replicaof_command};
use super::replication_progress;
use crate::poll::poll_until;
use crate::protocol::shard::failover::{PromoteReplica, PromoteResult};
use crate::protocol::shard::{MovePhase, PhaseState, ReplicationRole};
use crate::protocol::{Event, ProgressSink};
use crate::resources::redis_shard::RedisShard;
use crate::resources::redis_shard::acl::AclFile;

/// Margin added to `min-replicas-max-lag`: a primary checks its replicas once a second, counts in whole seconds, and
/// may have received the last acknowledgement late.
const LAG_MARGIN: Duration = Duration::from_secs(3);
/// Time limit for the other replicas to attach to the new primary, before it is opened without them.
const REPLICA_ATTACH_TIMEOUT: Duration = Duration::from_secs(3);
/// Poll interval.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Promotes the replica; reports one that is promoted already. A repeated request resumes where the last one stopped.
///
/// # Errors
/// Returns an error if the primary is alive, the replica differs from the plan, or a step fails. Until `promote` is in
/// the journal, [`revert_failover`] undoes the steps.
pub fn promote_replica(request: &PromoteReplica, sink: &dyn ProgressSink) -> Result<PromoteResult> {
    let mut journal = MoveJournal::open(&request.header)?;
    let instance = parse_instance(request.header.shard, &request.record.instance)?;
    let mut copy = RedisClient::open_with_retry(&request.record.to, &request.header.credentials, START_TIMEOUT)?;
    let role = copy.fetch_role()?;
    let promotion_started =
        is_current_failover(&journal, request) && journal.last_entry(MovePhase::Promote, PhaseState::Intent).is_some();
    let (opened, is_complete) = match &role {
        // A finished failover of the past; the shard has moved back since, so this is a new one.
        ReplicationRole::Replica { .. } if promotion_started && is_finished(journal.current_entries()) => {
            (false, false)
        }
        _ => (promotion_started, promotion_started && is_finished(journal.current_entries())),
    };
    if let (true, ReplicationRole::Primary { offset, .. }) = (is_complete, &role) {
        return Ok(PromoteResult { offset: *offset, already_promoted: true, waited_ms: 0 });
    }
    let mut waited_ms = 0;
    if !opened {
        detach_from_primary(request, &mut journal, &instance, &mut copy)?;
        let waited = repoint_other_replicas(request)
            .and_then(|()| wait_until_writes_stop(request, &mut journal, &mut copy, sink));
        waited_ms = match waited {
            Ok(waited) => u64::try_from(waited.as_millis())?,
            Err(error) if is_old_primary_alive(request) => {
                follow_old_primary(request, &mut journal, &instance, &mut copy)?;
                return Err(
                    error.context(format!("{} follows the old primary again, nothing was promoted", request.record.to))
                );
            }
            Err(error) => return Err(error),
        };
    }
    let offset = open_replica(request, &mut journal, &instance, &mut copy)?;
    Ok(PromoteResult { offset, already_promoted: false, waited_ms })
}

/// Lets a replica that was not opened follow its primary again.
///
/// # Errors
/// Returns an error if the replica may have been opened, or the old primary does not answer as a primary.
pub fn revert_failover(request: &PromoteReplica) -> Result<()> {
    let mut journal = MoveJournal::open(&request.header)?;
    if !is_current_failover(&journal, request) || is_finished(journal.current_entries()) {
        return Ok(());
    }
    if journal.last_entry(MovePhase::Promote, PhaseState::Intent).is_some() {
        bail!("{} may have been opened: it stays the primary of shard {}", request.record.to, request.header.shard);
    }
    if !is_old_primary_alive(request) {
        bail!("{} does not answer as a primary; {} stays closed", request.record.from, request.record.to);
    }
    let mut copy = RedisClient::open_with_retry(&request.record.to, &request.header.credentials, START_TIMEOUT)?;
    follow_old_primary(
        request,
        &mut journal,
        &parse_instance(request.header.shard, &request.record.instance)?,
        &mut copy,
    )
}

/// Returns true if the journal's last move is this failover.
fn is_current_failover(journal: &MoveJournal, request: &PromoteReplica) -> bool {
    journal.move_record().is_some_and(|begun| {
        begun.operation.is_failover() && (&begun.from, &begun.to) == (&request.record.from, &request.record.to)
    })
}

fn is_old_primary_alive(request: &PromoteReplica) -> bool {
    matches!(probe_role(&request.record.from, &request.header.credentials), ReplicationRole::Primary { .. })
}

/// Detaches the replica from the old primary and turns the application's users off.
fn detach_from_primary(
    request: &PromoteReplica,
    journal: &mut MoveJournal,
    instance: &RedisShard,
    copy: &mut RedisClient,
) -> Result<()> {
    let already_detached = is_current_failover(journal, request)
        && !is_finished(journal.current_entries())
        && journal.last_entry(MovePhase::PrepareStandby, PhaseState::Intent).is_some();
    if !already_detached {
        if is_old_primary_alive(request) {
            bail!("the primary {} is alive; nothing was changed", request.record.from);
        }
        ensure_replica_unchanged(request, copy)?;
        journal.start_failover(request, copy.fetch_setting("min-replicas-to-write")?)?;
    }
    let users = if already_detached {
        closed_users(journal, &request.record.app_user)
    } else {
        users_to_close(request, instance, copy)?
    };
    journal.log_intent(MovePhase::PrepareStandby, json!({ "users": users }))?;
    instance.set_users_enabled(&users, false)?;
    instance.remove_replicaof()?;
    // `ACL SETUSER … off` does not disconnect the user's clients.
    let close = |user: &String| {
        [redis_command(&["ACL", "SETUSER", user, "off"]), redis_command(&["CLIENT", "KILL", "USER", user])]
    };
    let leave = redis_command(&["REPLICAOF", "NO", "ONE"]);
    let in_memory_only = runtime_users(request, &users, copy)?;
    let closed = users.iter().chain(&in_memory_only);
    copy.run_transaction(&closed.flat_map(close).chain([leave]).collect::<Vec<Cmd>>())?;
    journal.log_done(MovePhase::PrepareStandby, Value::Null)
}

/// Returns the application's users: all enabled in the ACL file except those of dunlin and replication, since the other
/// replicas follow this one before it is opened.
fn users_to_close(what: &PromoteReplica, instance: &RedisShard, copy: &mut RedisClient) -> Result<Vec<String>> {
    let (acl, replication) = (instance.current_acl()?, copy.fetch_setting("masteruser")?);
    let is_closed =
        |user: &&str| *user != what.header.credentials.user && *user != replication && *user != what.record.app_user;
    Ok(acl.users_on().filter(is_closed).chain([what.record.app_user.as_str()]).map(str::to_owned).collect())
}

/// Returns the enabled users that the replica has in memory only. They stay off: no file says that they are wanted.
fn runtime_users(request: &PromoteReplica, in_file: &[String], copy: &mut RedisClient) -> Result<Vec<String>> {
    let lines: Vec<String> = copy.query(&redis_command(&["ACL", "LIST"]))?;
    let acl = AclFile::parse(&lines.join("\n")).with_context(|| format!("the users of {}", copy.address))?;
    let (admin, replication) = (&request.header.credentials.user, copy.fetch_setting("masteruser")?);
    let is_closed = |user: &String| user != admin && *user != replication && !in_file.contains(user);
    Ok(acl.users_on().map(str::to_owned).filter(is_closed).collect())
}

fn open_users(users: &[String]) -> impl Iterator<Item = Cmd> {
    users.iter().map(|user| redis_command(&["ACL", "SETUSER", user, "on"]))
}

/// Checks that the replica is still as in the plan.
fn ensure_replica_unchanged(request: &PromoteReplica, copy: &mut RedisClient) -> Result<()> {
    let info = copy.fetch_info("all")?;
    match copy.fetch_role()? {
        ReplicationRole::Replica { primary: of, offset, .. }
            if of == request.record.from && offset >= request.offset => {}
        ReplicationRole::Replica { primary: of, offset, .. } if of == request.record.from => {
            bail!("{} is at offset {offset}, the plan has {}; make a new plan", request.record.to, request.offset)
        }
        role => {
            bail!("{} is not a replica of {} ({role}); nothing was changed", request.record.to, request.record.from)
        }
    }
    if info.number_field("loading") + info.number_field("master_sync_in_progress") > 0 {
        bail!("{} is still syncing; nothing was changed", request.record.to);
    }
    if info.text_field("aof_enabled") != "1" || info.text_field("aof_last_write_status") != "ok" {
        bail!("{} does not write its append-only file; nothing was changed", request.record.to);
    }
    Ok(())
}

/// Lets the other replicas follow the new primary, with a partial resync where possible.
fn repoint_other_replicas(request: &PromoteReplica) -> Result<()> {
    request.record.operation.other_replicas().iter().try_for_each(|other| {
        repoint_replica(other, &request.record.to, request)
            .with_context(|| format!("the replica {other} still follows {}", request.record.from))
    })
}

fn repoint_replica(follower: &InstanceAddress, primary: &InstanceAddress, request: &PromoteReplica) -> Result<()> {
    let mut link = RedisClient::open(follower, &request.header.credentials)?;
    if !replication_progress::is_replica_of(&link.fetch_role()?, primary) {
        link.query::<Answer>(&replicaof_command(primary))?;
    }
    link.run_command(&["CONFIG", "REWRITE"]).map(drop)
}

/// Waits until the old primary can no longer accept writes.
fn wait_until_writes_stop(
    request: &PromoteReplica,
    journal: &mut MoveJournal,
    copy: &mut RedisClient,
    sink: &dyn ProgressSink,
) -> Result<Duration> {
    journal.log_intent(MovePhase::DemoteSource, json!({ "silenced": request.old_primary_is_stopped }))?;
    let begin = Instant::now();
    if !request.old_primary_is_stopped {
        let lag: u64 = copy.fetch_setting("min-replicas-max-lag")?.parse().context("min-replicas-max-lag")?;
        let wait_time = Duration::from_secs(lag) + LAG_MARGIN;
        let check = || {
            if is_old_primary_alive(request) {
                bail!("the primary {} is alive", request.record.from);
            }
            let phase = "wait until the old primary rejects writes";
            let (done, total) = (begin.elapsed().as_secs(), wait_time.as_secs());
            sink.emit(Event::shard_progress(request.header.shard, phase, done, total));
            // Only an error ends the wait early.
            Ok(None::<()>)
        };
        poll_until(begin + wait_time, POLL_INTERVAL, check)?;
    }
    journal.log_done(MovePhase::DemoteSource, Value::Null)?;
    Ok(begin.elapsed())
}

/// Opens the replica, files first. Returns the offset at which its history branches off.
fn open_replica(
    request: &PromoteReplica,
    journal: &mut MoveJournal,
    instance: &RedisShard,
    copy: &mut RedisClient,
) -> Result<u64> {
    if let ReplicationRole::Replica { primary: of, .. } = copy.fetch_role()? {
        bail!("{} follows {of} although it was detached: another tool moved this shard", request.record.to);
    }
    let configured = journal.move_record().and_then(|begun| begun.min_replicas?.parse().ok()).unwrap_or(0);
    let min_replicas = count_attached_replicas(request, copy)?.min(configured);
    journal.log_intent(MovePhase::Promote, Value::Null)?;
    instance.remove_replicaof()?;
    instance.set_min_replicas(min_replicas)?;
    let users = closed_users(journal, &request.record.app_user);
    instance.set_users_enabled(&users, true)?;
    let begin = [redis_command(&["CONFIG", "SET", "min-replicas-to-write", &min_replicas.to_string()])];
    copy.run_transaction(&begin.into_iter().chain(open_users(&users)).collect::<Vec<Cmd>>())?;
    journal.log_done(MovePhase::Promote, Value::Null)?;
    journal.log_intent(MovePhase::Finalize, Value::Null)?;
    let offset = verify_promotion(request, instance, copy)?;
    journal.log_done(MovePhase::Finalize, Value::Null)?;
    Ok(offset)
}

/// Counts the other replicas that are attached to the new primary; slower ones do not delay it.
fn count_attached_replicas(request: &PromoteReplica, copy: &mut RedisClient) -> Result<u32> {
    let mut count = 0;
    let check = || {
        let info = copy.fetch_info("replication")?;
        let others = request.record.operation.other_replicas();
        count = others.iter().filter(|other| replication_progress::is_online(&info, other)).count();
        anyhow::Ok((count == others.len()).then_some(()))
    };
    poll_until(Instant::now() + REPLICA_ATTACH_TIMEOUT, POLL_INTERVAL, check)?;
    Ok(u32::try_from(count)?)
}

/// Reads role, user and configuration back: only verified state is reported (I2).
fn verify_promotion(request: &PromoteReplica, instance: &RedisShard, copy: &mut RedisClient) -> Result<u64> {
    let ReplicationRole::Primary { offset, .. } = copy.fetch_role()? else {
        bail!("{} is not a primary after its promotion", request.record.to)
    };
    let user: Vec<Answer> = copy.query(&redis_command(&["ACL", "GETUSER", &request.record.app_user]))?;
    let is_on = |value: &Answer| match value {
        Answer::Array(flags) | Answer::Set(flags) => flags.iter().any(is_flag_on),
        _ => false,
    };
    if !user.iter().any(is_on) {
        bail!("user {} is not enabled at {}", request.record.app_user, request.record.to);
    }
    if instance.read_conf()?.is_none_or(|conf| conf.replica_of().is_some()) {
        bail!("the configuration file of {} still makes it a replica", request.record.to);
    }
    Ok(copy
        .fetch_info("replication")
        .ok()
        .and_then(|info| Some(super::probe::history_branch(&info)?.1))
        .unwrap_or(offset))
}

fn is_flag_on(value: &Answer) -> bool {
    matches!(value, Answer::BulkString(text) if text == b"on")
        || matches!(value, Answer::SimpleString(text) if text == "on")
}

/// Lets all replicas follow the old primary again; they were closed, and have no write that it lacks.
fn follow_old_primary(
    request: &PromoteReplica,
    journal: &mut MoveJournal,
    instance: &RedisShard,
    copy: &mut RedisClient,
) -> Result<()> {
    journal.log_intent(MovePhase::RollBack, Value::Null)?;
    copy.query::<Answer>(&replicaof_command(&request.record.from))?;
    copy.run_command(&["CONFIG", "REWRITE"])?;
    let users = closed_users(journal, &request.record.app_user);
    instance.set_users_enabled(&users, true)?;
    copy.run_all(&open_users(&users).collect::<Vec<Cmd>>())?;
    request
        .record
        .operation
        .other_replicas()
        .iter()
        .try_for_each(|other| repoint_replica(other, &request.record.from, request))?;
    journal.log_done(MovePhase::Abort, Value::Null)
}
