//! Copies of shards looked at closely, with what their journals know of failovers, and their primaries as they are seen
//! from this host. Reads only.

use anyhow::{Context, Result};

use super::move_journal::{self, JournalEntry, recorded_failover};
use super::observe::dataset_bytes;
use super::redis_client::{RedisClient, RedisInfo, probe_role};
use crate::journal;
use crate::protocol::shard::ReplicationRole;
use crate::protocol::shard::failover::{ProbeResult, ProbeTarget, ReplicaProbeRequest};

/// Number of parallel probes: an unreachable instance is only detected by its timeout.
pub const MAX_CONCURRENT_PROBES: usize = 64;

/// Looks at all of them.
pub fn probe_replicas(request: &ReplicaProbeRequest) -> Vec<ProbeResult> {
    let probe_chunk = |targets: &[ProbeTarget]| -> Vec<ProbeResult> {
        std::thread::scope(|scope| {
            let probes: Vec<_> =
                targets.iter().map(|place| (place, scope.spawn(|| probe_target(place, request)))).collect();
            probes.into_iter().map(|(place, look)| look.join().unwrap_or_else(|_| empty_result(place))).collect()
        })
    };
    request.targets.chunks(MAX_CONCURRENT_PROBES).flat_map(probe_chunk).collect()
}

fn empty_result(target: &ProbeTarget) -> ProbeResult {
    ProbeResult { shard: target.shard, address: target.address.clone(), ..ProbeResult::default() }
}

fn probe_target(target: &ProbeTarget, request: &ReplicaProbeRequest) -> ProbeResult {
    let mut result = match RedisClient::open(&target.address, &request.credentials)
        .and_then(|mut link| describe_replica(&mut link, target))
    {
        Ok(seen) => seen,
        Err(error) => ProbeResult { error: Some(format!("{error:#}")), ..empty_result(target) },
    };
    let primary = target.primary.as_ref().filter(|primary| **primary != target.address);
    result.primary_role = primary.map(|primary| probe_role(primary, &request.credentials)).unwrap_or_default();
    match journal::read_entries::<JournalEntry>(&move_journal::journal_path(&request.journal_dir, target.shard)) {
        Ok(records) => {
            result.failover =
                recorded_failover(&records).filter(|(_, to)| *to == target.address).map(|(begun, _)| begun)
        }
        Err(error) => result.error = Some(format!("{error:#}")),
    }
    result
}

fn describe_replica(link: &mut RedisClient, target: &ProbeTarget) -> Result<ProbeResult> {
    let info = link.fetch_info("all")?;
    let role = link.fetch_role()?;
    let uptime_s = info.number_field("uptime_in_seconds");
    let incomplete = info.number_field("loading") == 1 || info.number_field("master_sync_in_progress") == 1;
    // While it loads it answers nothing else.
    let mut setting = |name| link.fetch_setting(name).ok().and_then(|value| value.parse().ok());
    Ok(ProbeResult {
        silent_for_s: silent_seconds(&role, &info),
        role,
        replication_id: info.text_field("master_replid").to_owned(),
        previous_history: history_branch(&info),
        is_syncing: incomplete,
        is_durable: info.text_field("aof_enabled") == "1" && info.text_field("aof_last_write_status") == "ok",
        uptime_s,
        keys: count_keys(&info),
        bytes: dataset_bytes(&info),
        stream_bytes_per_s: info.number_field("total_net_repl_input_bytes") / uptime_s.max(1),
        min_replicas: setting("min-replicas-to-write").and_then(|n: u64| u32::try_from(n).ok()).unwrap_or(0),
        min_replicas_max_lag_s: setting("min-replicas-max-lag").context("min-replicas-max-lag").unwrap_or(10),
        ..empty_result(target)
    })
}

/// Returns where the history of a promoted replica branched off; the stream before that is the old primary's.
pub fn history_branch(info: &RedisInfo) -> Option<(String, u64)> {
    let end = info.text_field("second_repl_offset").parse::<u64>().ok()?;
    Some((info.text_field("master_replid2").to_owned(), end.saturating_sub(1)))
}

fn silent_seconds(role: &ReplicationRole, info: &RedisInfo) -> Option<u64> {
    let ReplicationRole::Replica { link_is_up: linked, .. } = role else { return None };
    let field = if *linked { "master_last_io_seconds_ago" } else { "master_link_down_since_seconds" };
    // -1: it has had no link since it was started.
    info.text_field(field).parse().ok()
}

fn count_keys(info: &RedisInfo) -> u64 {
    let databases = info.iter().filter(|(name, _)| name.strip_prefix("db").is_some_and(|n| n.parse::<u32>().is_ok()));
    databases.filter_map(|(_, value)| value.strip_prefix("keys=")?.split(',').next()?.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use dunlin_shards::InstanceAddress;

    use super::*;

    #[test]
    fn a_replica_that_never_had_a_link_has_no_silence() {
        let silent = |linked, field: &str| {
            silent_seconds(
                &ReplicationRole::Replica { primary: InstanceAddress::default(), link_is_up: linked, offset: 0 },
                &RedisInfo::parse(field),
            )
        };
        assert_eq!(silent(false, "master_link_down_since_seconds:-1\n"), None);
        assert_eq!(silent(false, "master_link_down_since_seconds:31\n"), Some(31));
        assert_eq!(silent(true, "master_last_io_seconds_ago:4\n"), Some(4));
    }

    #[test]
    fn the_old_history_ends_before_the_new_one_begins() {
        let info = |end: &str| RedisInfo::parse(&format!("master_replid2:abc\nsecond_repl_offset:{end}\n"));
        assert_eq!(history_branch(&info("101")), Some(("abc".to_owned(), 100)));
        assert_eq!(history_branch(&info("-1")), None);
    }
}
