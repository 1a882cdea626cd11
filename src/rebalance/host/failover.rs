//! A copy takes the place of a primary that is gone, in the agent on the copy's host.
//!
//! At every moment at most one of the two accepts application writes:
//! - The copy leaves the old primary closed: all users but dunlin's and replication's are off in its file and in
//!   memory, and those who were connected are sent away. Restarted now, it is a closed master.
//! - All other copies leave the old primary too, before the new one is opened. With `min-replicas-to-write` the old one
//!   accepts no write `min-replicas-max-lag` seconds after the last of them was heard, and none after a restart. That
//!   long is waited, unless its own host has stopped it for good. Should it answer meanwhile, it is not dead: all goes
//!   back to it, and nothing was written anywhere else.
//! - From the journal's `promote` on, the copy may hold writes that only it has: then there is no way but on.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use redis::{Cmd, Value as Answer};
use serde_json::{Value, json};

use super::client_access::closed_users;
use super::move_journal::{MoveJournal, MovePhase, PhaseState, is_finished};
use super::redis_client::{RedisClient, probe_role, redis_command, split_address};
use super::replication_progress;
use crate::poll::poll_until;
use crate::protocol::shard::ReplicationRole;
use crate::protocol::shard::failover::{PromoteReplica, PromoteResult};
use crate::protocol::{Event, ProgressSink};
use crate::resources::redis_shard::RedisShard;

/// How long the copy may take to answer.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// How much longer than `min-replicas-max-lag` is waited: a primary looks at its replicas once a second, counts in whole
/// seconds, and may have got the last acknowledgement late.
const LAG_MARGIN: Duration = Duration::from_secs(3);
/// How long another copy may take to be attached to the new primary before it is opened without waiting for it.
const REPLICA_ATTACH_TIMEOUT: Duration = Duration::from_secs(3);
/// Between two looks.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Promotes the copy; where it is promoted already, says so. Asked again, it goes on where the last one stopped.
///
/// # Errors
/// The primary lives, the copy is not what the plan saw, or what an instance or the system said. Up to `promote` in the
/// journal, [`take_back`] undoes what was done.
pub fn promote_replica(request: &PromoteReplica, sink: &dyn ProgressSink) -> Result<PromoteResult> {
    let mut journal = MoveJournal::open(&request.header)?;
    let instance = parse_instance(request)?;
    let mut copy = RedisClient::open_with_retry(&request.to, &request.header.credentials, START_TIMEOUT)?;
    let role = copy.fetch_role()?;
    let promotion_started =
        is_current_failover(&journal, request) && journal.last_entry(MovePhase::Promote, PhaseState::Intent).is_some();
    let (opened, is_complete) = match &role {
        // It was promoted, and the shard went back: this is another death.
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
        detach_from_primary(request, &mut journal, (&instance, &mut copy))?;
        let waited = repoint_other_replicas(request)
            .and_then(|()| wait_until_writes_stop(request, &mut journal, &mut copy, sink));
        waited_ms = match waited {
            Ok(waited) => u64::try_from(waited.as_millis())?,
            Err(error) if is_old_primary_alive(request) => {
                follow_old_primary(request, &mut journal, (&instance, &mut copy))?;
                return Err(error.context(format!("{} follows it again, nothing was promoted", request.to)));
            }
            Err(error) => return Err(error),
        };
    }
    let offset = open_replica(request, &mut journal, (&instance, &mut copy))?;
    Ok(PromoteResult { offset, already_promoted: false, waited_ms })
}

/// Has a copy that was not opened follow its primary again.
///
/// # Errors
/// It was opened, or the primary does not answer as a master.
pub fn revert_failover(request: &PromoteReplica) -> Result<()> {
    let mut journal = MoveJournal::open(&request.header)?;
    if !is_current_failover(&journal, request) || is_finished(journal.current_entries()) {
        return Ok(());
    }
    if journal.last_entry(MovePhase::Promote, PhaseState::Intent).is_some() {
        bail!("{} may have been opened: it stays the primary of shard {}", request.to, request.header.shard);
    }
    if !is_old_primary_alive(request) {
        bail!("{} does not answer as a master; {} stays closed", request.from, request.to);
    }
    let mut copy = RedisClient::open_with_retry(&request.to, &request.header.credentials, START_TIMEOUT)?;
    follow_old_primary(request, &mut journal, (&parse_instance(request)?, &mut copy))
}

fn parse_instance(request: &PromoteReplica) -> Result<RedisShard> {
    serde_json::from_value(request.instance.clone())
        .with_context(|| format!("the instance of shard {}", request.header.shard))
}

/// Is the journal's last move this failover?
fn is_current_failover(journal: &MoveJournal, request: &PromoteReplica) -> bool {
    journal
        .move_record()
        .is_some_and(|begun| begun.is_failover && (&begun.from, &begun.to) == (&request.from, &request.to))
}

fn is_old_primary_alive(request: &PromoteReplica) -> bool {
    matches!(probe_role(&request.from, &request.header.credentials), ReplicationRole::Primary { .. })
}

/// The copy leaves the old primary, closed.
fn detach_from_primary(
    request: &PromoteReplica,
    journal: &mut MoveJournal,
    (instance, copy): (&RedisShard, &mut RedisClient),
) -> Result<()> {
    let already_detached = is_current_failover(journal, request)
        && !is_finished(journal.current_entries())
        && journal.last_entry(MovePhase::PrepareStandby, PhaseState::Intent).is_some();
    if !already_detached {
        if is_old_primary_alive(request) {
            bail!("{} answers as a master: it is not dead; nothing was changed", request.from);
        }
        ensure_replica_unchanged(request, copy)?;
        journal.start_failover(request, copy.fetch_setting("min-replicas-to-write")?)?;
    }
    let users = if already_detached {
        closed_users(journal, &request.app_user)
    } else {
        users_to_close(request, instance, copy)?
    };
    journal.log_intent(MovePhase::PrepareStandby, json!({ "users": users }))?;
    instance.set_users_enabled(&users, false)?;
    instance.remove_replicaof()?;
    // To turn a user off ends none of its connections.
    let close = |user: &String| {
        [redis_command(&["ACL", "SETUSER", user, "off"]), redis_command(&["CLIENT", "KILL", "USER", user])]
    };
    let leave = redis_command(&["REPLICAOF", "NO", "ONE"]);
    copy.run_transaction(&users.iter().flat_map(close).chain([leave]).collect::<Vec<Cmd>>())?;
    journal.log_done(MovePhase::PrepareStandby, Value::Null)
}

/// The application's users: all that the ACL file lets in, but for dunlin's and replication's. The other copies follow
/// this one before it is opened.
fn users_to_close(what: &PromoteReplica, instance: &RedisShard, copy: &mut RedisClient) -> Result<Vec<String>> {
    let (acl, replication) = (instance.current_acl()?, copy.fetch_setting("masteruser")?);
    let is_closed =
        |user: &&str| *user != what.header.credentials.user && *user != replication && *user != what.app_user;
    Ok(acl.users_on().filter(is_closed).chain([what.app_user.as_str()]).map(str::to_owned).collect())
}

fn open_users(users: &[String]) -> impl Iterator<Item = Cmd> {
    users.iter().map(|user| redis_command(&["ACL", "SETUSER", user, "on"]))
}

/// Is the copy still the one that the plan saw?
fn ensure_replica_unchanged(request: &PromoteReplica, copy: &mut RedisClient) -> Result<()> {
    let info = copy.fetch_info("all")?;
    match copy.fetch_role()? {
        ReplicationRole::Replica { primary: of, offset, .. } if of == request.from && offset >= request.offset => {}
        ReplicationRole::Replica { primary: of, offset, .. } if of == request.from => {
            bail!("{} is at offset {offset}, the plan saw it at {}: look again", request.to, request.offset)
        }
        role => bail!("{} is no replica of {} ({role:?}); nothing was changed", request.to, request.from),
    }
    if info.number_field("loading") + info.number_field("master_sync_in_progress") > 0 {
        bail!("{} is in the middle of a sync; nothing was changed", request.to);
    }
    if info.text_field("aof_enabled") != "1" || info.text_field("aof_last_write_status") != "ok" {
        bail!("{} does not write its append-only file; nothing was changed", request.to);
    }
    Ok(())
}

/// The other copies leave the old primary for the new one; from there they take what they lack, in part where they can.
fn repoint_other_replicas(request: &PromoteReplica) -> Result<()> {
    request.other_replicas.iter().try_for_each(|other| {
        repoint_replica(other, &request.to, request)
            .with_context(|| format!("the replica {other} stays with {}", request.from))
    })
}

fn repoint_replica(follower: &str, primary: &str, request: &PromoteReplica) -> Result<()> {
    let mut link = RedisClient::open(follower, &request.header.credentials)?;
    if !replication_progress::is_replica_of(&link.fetch_role()?, primary) {
        let (host, port) = split_address(primary)?;
        link.run_command(&["REPLICAOF", host, &port.to_string()])?;
    }
    link.run_command(&["CONFIG", "REWRITE"]).map(drop)
}

/// Waits until the old primary accepts no write any more, wherever it is.
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
                bail!("{} answers as a master: it is not dead", request.from);
            }
            sink.emit(Event::Progress {
                job: format!("shard {}", request.header.shard),
                phase: "wait until the old primary is fenced off".to_owned(),
                done: begin.elapsed().as_secs(),
                total: wait_time.as_secs(),
            });
            // Only an error ends the wait early.
            Ok(None::<()>)
        };
        poll_until(begin + wait_time, POLL_INTERVAL, check)?;
    }
    journal.log_done(MovePhase::DemoteSource, Value::Null)?;
    Ok(begin.elapsed())
}

/// Opens the copy: everything durable first. Returns where its history branches off.
fn open_replica(
    request: &PromoteReplica,
    journal: &mut MoveJournal,
    (instance, copy): (&RedisShard, &mut RedisClient),
) -> Result<u64> {
    if let ReplicationRole::Replica { primary: of, .. } = copy.fetch_role()? {
        bail!("{} follows {of} although it left its primary: somebody else moved this shard", request.to);
    }
    let configured = journal.move_record().and_then(|begun| begun.min_replicas?.parse().ok()).unwrap_or(0);
    let min_replicas = count_attached_replicas(request, copy)?.min(configured);
    journal.log_intent(MovePhase::Promote, Value::Null)?;
    instance.remove_replicaof()?;
    instance.set_min_replicas(min_replicas)?;
    let users = closed_users(journal, &request.app_user);
    instance.set_users_enabled(&users, true)?;
    let begin = [redis_command(&["CONFIG", "SET", "min-replicas-to-write", &min_replicas.to_string()])];
    copy.run_transaction(&begin.into_iter().chain(open_users(&users)).collect::<Vec<Cmd>>())?;
    journal.log_done(MovePhase::Promote, Value::Null)?;
    journal.log_intent(MovePhase::Finalize, Value::Null)?;
    let offset = verify_promotion(request, instance, copy)?;
    journal.log_done(MovePhase::Finalize, Value::Null)?;
    Ok(offset)
}

/// How many of the other copies are with the new primary; those that need longer do not hold it up.
fn count_attached_replicas(request: &PromoteReplica, copy: &mut RedisClient) -> Result<u32> {
    let mut count = 0;
    let check = || {
        let info = copy.fetch_info("replication")?;
        let online = request
            .other_replicas
            .iter()
            .map(|other| replication_progress::is_online(&info, other))
            .collect::<Result<Vec<bool>>>()?;
        count = online.iter().filter(|online| **online).count();
        anyhow::Ok((count == online.len()).then_some(()))
    };
    poll_until(Instant::now() + REPLICA_ATTACH_TIMEOUT, POLL_INTERVAL, check)?;
    Ok(u32::try_from(count)?)
}

/// I2: only what was read back is reported.
fn verify_promotion(request: &PromoteReplica, instance: &RedisShard, copy: &mut RedisClient) -> Result<u64> {
    let ReplicationRole::Primary { offset, .. } = copy.fetch_role()? else {
        bail!("{} is no master after it was opened", request.to)
    };
    let user: Vec<Answer> = copy.query(&redis_command(&["ACL", "GETUSER", &request.app_user]))?;
    let is_on = |value: &Answer| match value {
        Answer::Array(flags) | Answer::Set(flags) => flags.iter().any(is_flag_on),
        _ => false,
    };
    if !user.iter().any(is_on) {
        bail!("the user {} is not on at {}", request.app_user, request.to);
    }
    if instance.read_conf()?.is_none_or(|conf| conf.replica_of().is_some()) {
        bail!("the configuration of {} does not say yet that it is a master", request.to);
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

/// The copies follow the old primary again: they were closed, and have nothing that it lacks.
fn follow_old_primary(
    request: &PromoteReplica,
    journal: &mut MoveJournal,
    (instance, copy): (&RedisShard, &mut RedisClient),
) -> Result<()> {
    journal.log_intent(MovePhase::RollBack, Value::Null)?;
    let (host, port) = split_address(&request.from)?;
    copy.run_command(&["REPLICAOF", host, &port.to_string()])?;
    copy.run_command(&["CONFIG", "REWRITE"])?;
    let users = closed_users(journal, &request.app_user);
    instance.set_users_enabled(&users, true)?;
    copy.run_all(&open_users(&users).collect::<Vec<Cmd>>())?;
    request.other_replicas.iter().try_for_each(|other| repoint_replica(other, &request.from, request))?;
    journal.log_done(MovePhase::Abort, Value::Null)
}
