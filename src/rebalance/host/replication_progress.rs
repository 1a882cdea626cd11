//! Replication progress of a target, as seen by both sides.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use dunlin_shards::InstanceAddress;

use super::disk_space::{existing_data_dir, free_bytes};
use super::instance::parse_instance;
use super::redis_client::{RedisClient, RedisInfo};
use crate::plan::format_count;
use crate::poll::poll_until;
use crate::protocol::shard::{MoveSpec, ReplicationRole};
use crate::protocol::{Event, ProgressSink};

/// Poll interval.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Time without data, although the source has written some, after which the target's link is closed. A connection that
/// was lost silently looks up to both sides until TCP times out.
const SILENT_LINK_TIMEOUT: Duration = Duration::from_secs(1);

/// Maximum number of full syncs of one copy: each forks the source and sends everything again.
const MAX_FULL_SYNCS: u64 = 2;

/// Waits until the target's link is up and transfers new writes, the source counts it as online, and its lag is at most
/// `max_lag_bytes`.
///
/// # Errors
/// Returns an error without progress within `copy_stall_timeout_s`, or if the run was canceled.
pub fn wait_until_caught_up(
    source: &mut RedisClient,
    target: &mut RedisClient,
    spec: &MoveSpec,
    sink: &dyn ProgressSink,
) -> Result<()> {
    let stall_timeout = Duration::from_secs(spec.limits.copy_stall_timeout_s);
    let (mut best, mut last_progress, mut has_reconnected) = (0, Instant::now(), false);
    // What the source had written when the link was seen up: who has that receives what is written now.
    let mut required_offset = None;
    let full_syncs_before = source.fetch_info("stats")?.number_field("sync_full");
    let (mut last_full_syncs, mut has_received) = (0, false);
    loop {
        let (from, to) = (source.fetch_info("replication")?, target.fetch_info("replication")?);
        if is_linked(&to) {
            required_offset.get_or_insert(from.number_field("master_repl_offset"));
        }
        let has_reached_goal = required_offset.is_some_and(|goal| to.number_field("slave_repl_offset") >= goal);
        let is_acknowledged = is_online(&from, &spec.record.to);
        let behind = from.number_field("master_repl_offset").saturating_sub(to.number_field("slave_repl_offset"));
        if has_reached_goal && is_linked(&to) && is_acknowledged && behind <= spec.limits.max_lag_bytes {
            return Ok(());
        }
        let is_silent = !has_reached_goal && last_progress.elapsed() > SILENT_LINK_TIMEOUT;
        if !has_reconnected && can_reconnect(&from, &to) && (is_silent || !is_acknowledged) {
            target.run_command(&["CLIENT", "KILL", "TYPE", "master"])?;
            has_reconnected = true;
        } else if has_reached_goal && !is_acknowledged {
            request_acks(source);
        }
        if sink.is_cancelled() {
            bail!("cancelled while shard {} was being copied; no cutover was started", spec.header.shard);
        }
        let done = to.number_field("master_sync_read_bytes") + to.number_field("slave_repl_offset");
        if done > best {
            (best, last_progress) = (done, Instant::now());
            let (read, total) = (to.number_field("master_sync_read_bytes"), to.number_field("master_sync_total_bytes"));
            sink.emit(Event::shard_progress(spec.header.shard, "copy", read, total));
        }
        let full_syncs = source.fetch_info("stats")?.number_field("sync_full").saturating_sub(full_syncs_before);
        // Another sync although some of the last one had arrived: the target could not write it.
        if full_syncs > last_full_syncs && has_received {
            ensure_disk_holds_data(source, spec)?;
        }
        last_full_syncs = full_syncs;
        has_received |= to.number_field("master_sync_read_bytes") > 0;
        if full_syncs > MAX_FULL_SYNCS {
            ensure_disk_holds_data(source, spec)?;
            bail!(
                "{} started {full_syncs} full syncs to {} and none succeeded; a likely cause is its output buffer limit \
                 for replicas, client-output-buffer-limit is now \"{}\"",
                spec.record.from,
                spec.record.to,
                source.fetch_setting("client-output-buffer-limit")?
            );
        }
        if last_progress.elapsed() > stall_timeout {
            ensure_disk_holds_data(source, spec)?;
            bail!(
                "{} made no progress towards {} for {} s (link {}, {} at the source)",
                spec.record.to,
                spec.record.from,
                stall_timeout.as_secs(),
                to.text_field("master_link_status"),
                format_count(from.number_field("connected_slaves"), "replica")
            );
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Checks, after a sync that failed, that this host's disk has space for the source's data: the target writes them
/// there before it loads them. What the failed sync had written is deleted by now.
fn ensure_disk_holds_data(source: &mut RedisClient, spec: &MoveSpec) -> Result<()> {
    let instance = parse_instance(spec.header.shard, &spec.record.instance)?;
    let data_bytes = source.fetch_info("memory")?.number_field("used_memory_dataset");
    let free = free_bytes(&instance)?;
    if free >= data_bytes {
        return Ok(());
    }
    bail!(
        "{} cannot write the copy: {} has {free} bytes free, and {} holds {data_bytes}; free disk space on the target's \
         host, then run `dunlin shards resume`",
        spec.record.to,
        existing_data_dir(&instance).display(),
        spec.record.from
    )
}

fn is_linked(to: &RedisInfo) -> bool {
    to.text_field("master_link_status") == "up" && to.text_field("master_sync_in_progress") == "0"
}

/// May the target give up its link for a new one? Where the sync is over and only its first acknowledgement is missing,
/// for which it takes up to a second, that is quicker: it connects again at once, and is online at once after a partial
/// resync. That is possible while the source's backlog goes back to where it is.
fn can_reconnect(from: &RedisInfo, to: &RedisInfo) -> bool {
    is_linked(to) && can_resync_partially(from, to)
}

/// Asks all replicas to say now where they are, which they do by themselves once a second: a `WAIT` for more of them
/// than there are sends `REPLCONF GETACK`. What it answers does not matter.
pub fn request_acks(source: &mut RedisClient) {
    source.run_command(&["WAIT", "1000", "1"]).ok();
}

/// Returns whether a replica that reconnects can continue with a partial resync. Half of the backlog is kept for writes
/// in the meantime.
pub fn can_resync_partially(from: &RedisInfo, to: &RedisInfo) -> bool {
    let behind = from.number_field("master_repl_offset").saturating_sub(to.number_field("slave_repl_offset"));
    let reaches = from.number_field("repl_backlog_first_byte_offset") <= to.number_field("slave_repl_offset") + 1;
    reaches && behind < from.number_field("repl_backlog_size") / 2
}

/// Returns true if the source counts this replica as online and has received an acknowledgement.
///
/// After a diskless sync a source says `online` at once, but sends what is written since only after the replica's first
/// acknowledgement, up to a second later (`repl_start_cmd_stream_on_ack` in Redis' replication.c). `lag` counts from
/// `online`; the acknowledged `offset` is what tells that there was one. Where nothing was ever written, it stays 0.
pub fn is_online(source: &RedisInfo, replica: &InstanceAddress) -> bool {
    let expected_fields = [format!("ip={}", replica.host), format!("port={}", replica.port)];
    let untouched = source.number_field("master_repl_offset") == 0;
    recent_replica_fields(source).any(|fields| {
        let is_acknowledged = untouched || !fields.contains(&"offset=0");
        is_acknowledged && expected_fields.iter().all(|want| fields.contains(&want.as_str()))
    })
}

/// Counts the replicas that the source reports as online and that have acknowledged recently.
pub fn count_online_replicas(source: &RedisInfo) -> usize {
    recent_replica_fields(source).count()
}

/// The fields of those replicas.
fn recent_replica_fields(source: &RedisInfo) -> impl Iterator<Item = Vec<&str>> {
    let slaves = source.iter().filter(|(name, _)| name.starts_with("slave") && name[5..].parse::<u32>().is_ok());
    let fields = slaves.map(|(_, line)| line.split(',').collect::<Vec<&str>>());
    fields.filter(|fields| {
        let recent = fields.iter().any(|field| matches!(*field, "lag=0" | "lag=1"));
        recent && fields.contains(&"state=online")
    })
}

/// Waits until the target's append-only file holds everything: on, no rewrite running or due, the last ones good.
///
/// # Errors
/// Returns an error if the file is off or failing, or it takes longer than ten times `copy_stall_timeout_s`.
pub fn wait_until_durable(target: &mut RedisClient, spec: &MoveSpec, sink: &dyn ProgressSink) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(spec.limits.copy_stall_timeout_s.max(1) * 10);
    let (mut last_write, mut last_rewrite) = (String::new(), String::new());
    let is_durable = poll_until(deadline, POLL_INTERVAL, || {
        let info = target.fetch_info("persistence")?;
        if info.text_field("aof_enabled") != "1" {
            bail!("{} has no append-only file; set `appendonly yes` in its configuration", spec.record.to);
        }
        let no_rewrite = info.number_field("aof_rewrite_in_progress") + info.number_field("aof_rewrite_scheduled") == 0;
        last_write = info.text_field("aof_last_write_status").to_owned();
        last_rewrite = info.text_field("aof_last_bgrewrite_status").to_owned();
        if no_rewrite && last_write == "ok" && last_rewrite == "ok" {
            return Ok(Some(true));
        }
        // Redis tries again later; without a change on the host, that fails as well.
        if no_rewrite && (last_write == "err" || last_rewrite == "err") {
            bail!(
                "{} cannot write its append-only file (last write {last_write}, last rewrite {last_rewrite}): check the free \
                 disk space of its host and its log",
                spec.record.to
            );
        }
        Ok(sink.is_cancelled().then_some(false))
    })?;
    if is_durable != Some(true) {
        bail!(
            "the append-only file of {} is not ready: last write {last_write}, last rewrite {last_rewrite}",
            spec.record.to
        );
    }
    Ok(())
}

/// Returns true if the role is a replica of that instance.
pub fn is_replica_of(role: &ReplicationRole, address: &InstanceAddress) -> bool {
    matches!(role, ReplicationRole::Replica { primary, .. } if primary == address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_is_online_after_its_first_ack() {
        let source = |written: u64, offset: u64, rest: &str| {
            let slave = format!("slave0:ip=10.0.0.3,port=7020,{rest},offset={offset},lag=0");
            RedisInfo::parse(&format!("role:master\nconnected_slaves:1\n{slave}\nmaster_repl_offset:{written}\n"))
        };
        let is_online = |info: &RedisInfo| is_online(info, &InstanceAddress::new("10.0.0.3", 7020));
        assert!(is_online(&source(910, 896, "state=online")));
        assert!(!is_online(&source(910, 896, "state=send_bulk")));
        assert!(!is_online(&source(910, 0, "state=online")), "online, but nothing is sent to it yet");
        assert!(is_online(&source(0, 0, "state=online")), "nothing was ever written");
        assert_eq!(count_online_replicas(&source(0, 0, "state=online")), 1);
        assert_eq!(count_online_replicas(&source(0, 0, "state=wait_bgsave")), 0);
    }
}
