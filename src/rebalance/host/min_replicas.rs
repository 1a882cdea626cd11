//! `RequireReplicas`: the source accepts writes only with its replicas attached, also after a restart. In memory that
//! is a setting; in its file it is a line, which the source's own host writes so that no client waits for the disk
//! ([`require_replicas_in_file`]), or else the source itself, whose `CONFIG REWRITE` syncs twice while all clients
//! wait.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use dunlin_shards::InstanceAddress;
use redis::Cmd;
use serde_json::{Value, json};

use super::instance::parse_instance;
use super::move_journal::MoveJournal;
use super::redis_client::{RedisClient, redis_command};
use super::replication_progress;
use crate::plan::format_count;
use crate::poll::poll_until;
use crate::protocol::shard::{MinReplicasRequest, MovePhase, MoveSpec, PhaseState, ReplicationRole};
use crate::resources::redis_shard::RedisShard;

/// Time limit for the first acknowledgement of another replica.
const REPLICA_ACK_TIMEOUT: Duration = Duration::from_secs(3);
/// Time between two looks at the replicas of a primary.
const REPLICA_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Writes the value to the file only, on the source's host. A source that restarts then accepts writes once its copy is
/// attached.
///
/// # Errors
/// Returns an error if the instance is not a primary, or uses another file; no changes were made then.
pub fn require_replicas_in_file(request: &MinReplicasRequest) -> Result<()> {
    let _lock = MoveJournal::open(&request.header)?;
    let (instance, _) = open_primary(request)?;
    instance.set_min_replicas(request.replicas)
}

/// Sets the permanent value of a primary, in memory and in its file. It is raised only while the replicas are attached,
/// so that no write is refused because of it; a primary that loses them later refuses writes, and so does one that
/// comes back alone after its replica was promoted.
///
/// # Errors
/// Returns an error if the instance is not a primary, or too few replicas are attached; no changes were made then.
pub fn set_min_replicas(request: &MinReplicasRequest) -> Result<()> {
    let _lock = MoveJournal::open(&request.header)?;
    let (instance, mut primary) = open_primary(request)?;
    wait_and_set_min_replicas(&mut primary, request.replicas, REPLICA_ACK_TIMEOUT)?;
    instance.set_min_replicas(request.replicas)
}

/// Sets the value in memory: waits until that many replicas are attached, then makes the primary require them.
///
/// # Errors
/// Returns an error if they are not attached within that time.
pub fn wait_and_set_min_replicas(primary: &mut RedisClient, replicas: u32, timeout: Duration) -> Result<()> {
    let (mut online, required) = (0, usize::try_from(replicas)?);
    let attached = poll_until(Instant::now() + timeout, REPLICA_POLL_INTERVAL, || -> Result<_> {
        online = replication_progress::count_online_replicas(&primary.fetch_info("replication")?);
        Ok((online >= required).then_some(()))
    });
    if attached?.is_none() {
        bail!("{} has {} attached, and needs {replicas}", primary.address, format_count(online, "replica"));
    }
    primary.run_command(&["CONFIG", "SET", "min-replicas-to-write", &replicas.to_string()]).map(drop)
}

/// Opens the requested instance and a connection to it: a primary that uses the file which dunlin writes.
fn open_primary(request: &MinReplicasRequest) -> Result<(RedisShard, RedisClient)> {
    let instance = parse_instance(request.header.shard, &request.instance)?;
    let mut primary = RedisClient::open(&request.address, &request.header.credentials)?;
    if !matches!(primary.fetch_role()?, ReplicationRole::Primary { .. }) {
        bail!("{} is not a primary; its file was not changed", request.address);
    }
    let config_file = primary.fetch_info("server")?.text_field("config_file").to_owned();
    if instance.conf_path() != std::path::Path::new(&config_file) {
        bail!("{} uses {config_file}, not {}; it was not changed", request.address, instance.conf_path().display());
    }
    Ok((instance, primary))
}

/// Requires the replicas, as the cutover does it. The number counts all replicas that could make a restarted source
/// writable: the target and the others.
///
/// # Errors
/// Returns an error if a replica is missing, or there is one too many.
pub fn require_replicas(
    spec: &MoveSpec,
    journal: &mut MoveJournal,
    source: &mut RedisClient,
    target: &mut RedisClient,
) -> Result<()> {
    for other in spec.record.operation.other_replicas() {
        wait_for_replica(source, other)?;
    }
    let info = source.fetch_info("replication")?;
    let required = u64::try_from(spec.record.operation.other_replicas().len())? + 1;
    if info.number_field("connected_slaves") > required {
        bail!(
            "{} has {}, the map has {required}",
            spec.record.from,
            format_count(info.number_field("connected_slaves"), "replica")
        );
    }
    let ids = (source.fetch_run_id()?, target.fetch_run_id()?);
    journal.log_intent(MovePhase::RequireReplicas, json!({ "source": ids.0, "target": ids.1 }))?;
    source.run_command(&["CONFIG", "SET", "min-replicas-to-write", &required.to_string()])?;
    // A roll-back took the line out of the file again.
    if !spec.source_file_requires_replicas || journal.last_entry(MovePhase::RollBack, PhaseState::Intent).is_some() {
        source.run_command(&["CONFIG", "REWRITE"])?;
    }
    journal.log_done(MovePhase::RequireReplicas, Value::Null)
}

/// Waits for a replica that may have connected a moment ago: its first acknowledgement takes up to a second.
///
/// # Errors
/// Returns an error if it is not attached within `REPLICA_ACK_TIMEOUT`.
pub fn wait_for_replica(source: &mut RedisClient, replica: &InstanceAddress) -> Result<()> {
    let attached = poll_until(Instant::now() + REPLICA_ACK_TIMEOUT, REPLICA_POLL_INTERVAL, || -> Result<_> {
        let is_online = replication_progress::is_online(&source.fetch_info("replication")?, replica);
        if !is_online {
            replication_progress::request_acks(source);
        }
        Ok(is_online.then_some(()))
    });
    if attached?.is_none() {
        bail!("the replica {replica} is not attached to {}; start it first", source.address);
    }
    Ok(())
}

/// Returns the commands that restore `min-replicas-to-write` and write role and setting to the file in one rewrite.
pub fn restore_min_replicas_cmds(journal: &MoveJournal) -> [Cmd; 2] {
    let before = journal.move_record().and_then(|begun| begun.min_replicas).unwrap_or_else(|| "0".to_owned());
    [redis_command(&["CONFIG", "SET", "min-replicas-to-write", &before]), redis_command(&["CONFIG", "REWRITE"])]
}
