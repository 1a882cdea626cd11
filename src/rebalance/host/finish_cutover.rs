//! The last steps of a cutover: source and replicas follow the target durably, the target's state is read back.

use std::time::Duration;

use anyhow::{Result, bail};
use dunlin_shards::InstanceAddress;
use redis::{Cmd, Value};

use super::client_access::ClientAccess;
use super::min_replicas::{restore_min_replicas_cmds, wait_and_set_min_replicas};
use super::move_journal::{MoveJournal, chosen_instance};
use super::redis_client::{RedisClient, redis_command, replicaof_command, value_text};
use super::replication_progress;
use crate::protocol::shard::{MovePhase, MoveSpec, ReplicationRole};
use crate::resources::redis_shard::RedisShard;

/// Time limit for the other replicas to follow the new primary.
const REPLICA_ATTACH_TIMEOUT: Duration = Duration::from_secs(10);

/// Lets source and replicas follow the target durably, after reading the target's role and users back. Returns the
/// remaining follow-ups; without any, records the move as finished.
///
/// # Errors
/// Returns an error if the target's role, users or configuration are not as expected.
pub fn finish_cutover(
    spec: &MoveSpec,
    journal: &mut MoveJournal,
    instance: &RedisShard,
    target: &mut RedisClient,
) -> Result<Vec<String>> {
    journal.log_intent(MovePhase::Finalize, serde_json::Value::Null)?;
    verify_target(spec, instance, journal, target)?;
    let mut follow_ups = Vec::new();
    // Where the operator chose the target, the source is archived.
    let source = Some(&spec.record.from).filter(|_| chosen_instance(journal.current_entries()).is_none());
    for follower in source.into_iter().chain(spec.record.operation.other_replicas()) {
        if let Err(error) = repoint_follower(spec, follower, &restore_min_replicas_cmds(journal)) {
            follow_ups.push(format!("{follower} does not follow {} yet: {error:#}", spec.record.to));
        }
    }
    let min_replicas =
        instance.read_conf()?.and_then(|conf| conf.last_value("min-replicas-to-write")?.parse().ok()).unwrap_or(0);
    if min_replicas > 0
        && let Err(error) = wait_and_set_min_replicas(target, min_replicas, REPLICA_ATTACH_TIMEOUT)
    {
        follow_ups.push(format!("{} accepts writes without its replicas: {error:#}", spec.record.to));
    }
    if follow_ups.is_empty() {
        journal.log_done(MovePhase::Finalize, serde_json::Value::Null)?;
    } else {
        journal.log_failure(MovePhase::Finalize, &follow_ups.join("; "))?;
    }
    Ok(follow_ups)
}

fn repoint_follower(spec: &MoveSpec, follower: &InstanceAddress, source_cmds: &[Cmd]) -> Result<()> {
    let mut link = RedisClient::open(follower, &spec.header.credentials)?;
    if !replication_progress::is_replica_of(&link.fetch_role()?, &spec.record.to) {
        link.query::<Value>(&replicaof_command(&spec.record.to))?;
    }
    let rewrite = if *follower == spec.record.from { source_cmds } else { &[redis_command(&["CONFIG", "REWRITE"])] };
    link.run_all(rewrite).map(drop)
}

/// Reads role, users and configuration back: only verified state is reported (I2).
fn verify_target(
    spec: &MoveSpec,
    instance: &RedisShard,
    journal: &MoveJournal,
    target: &mut RedisClient,
) -> Result<()> {
    if !matches!(target.fetch_role()?, ReplicationRole::Primary { .. }) {
        bail!("{} is not a primary after its promotion", spec.record.to);
    }
    let is_on = |value: &Value| match value {
        Value::Array(flags) | Value::Set(flags) => flags.iter().any(|flag| value_text(flag) == Some("on")),
        _ => false,
    };
    for name in ClientAccess::from_journal(spec, journal).users() {
        let user: Vec<Value> = target.query(&redis_command(&["ACL", "GETUSER", name]))?;
        if !user.iter().any(is_on) {
            bail!("user {name} is not enabled at {}", spec.record.to);
        }
    }
    match instance.read_conf()? {
        Some(conf) if conf.replica_of().is_none() => Ok(()),
        _ => bail!("the configuration file of {} still makes it a replica", spec.record.to),
    }
}
