//! Measures how full the hosts are, and forecasts when they will be full.

use super::capacity::{CapacitySample, Forecast, HostUsage, forecast_capacity, measure_growth};
use super::cluster_files::ClusterFiles;
use super::run_error::RunResult;
use super::{RebalanceContext, observe};

/// Measures the usage, saves a sample for the next forecast, and returns the forecast at the time `now` (seconds since
/// 1970). `growth_per_day` replaces the measured growth.
///
/// # Errors
/// Returns an error if a host or shard does not answer, or the history of samples cannot be used.
pub async fn forecast_usage(
    cluster: &ClusterFiles,
    context: &RebalanceContext<'_>,
    now: i64,
    growth_per_day: Option<f64>,
) -> RunResult<Forecast> {
    let hosts = measure_usage(cluster, context).await?;
    let sum = |figure: fn(&HostUsage) -> u64| hosts.iter().map(figure).sum();
    let sample = CapacitySample { at: now, bytes: sum(|host| host.primary_bytes), keys: sum(|host| host.keys) };
    let samples = cluster.state.add_capacity_sample(&sample)?;
    Ok(forecast_capacity(&hosts, growth_per_day.or_else(|| measure_growth(&samples))))
}

async fn measure_usage(cluster: &ClusterFiles, context: &RebalanceContext<'_>) -> RunResult<Vec<HostUsage>> {
    let map = &cluster.map;
    let observed = observe::sample_primaries(context, map, 0).await?;
    let mut hosts = Vec::new();
    for host in cluster.shard_hosts()? {
        let here: Vec<_> = map.shards_on(&host.name).filter_map(|e| observed.get(&e.id)).collect();
        let replicated: u64 = map.replicas_on(&host.name).filter_map(|e| Some(observed.get(&e.id)?.bytes)).sum();
        let bytes: u64 = here.iter().map(|shard| shard.bytes).sum();
        hosts.push(HostUsage {
            name: host.name.clone(),
            capacity: observe::shard_memory_bytes(context, host),
            primary_bytes: bytes,
            total_bytes: bytes + replicated,
            keys: here.iter().map(|shard| shard.keys).sum(),
        });
    }
    Ok(hosts)
}
