//! Observing the shards of a map: each host is asked for its own instances, and the answers become an observation.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use dunlin_shards::{ShardId, ShardMap};
use serde_json::Value;

use super::RebalanceContext;
use super::cluster_files::ClusterFiles;
use super::observation::{HostLoad, Observation, ShardLoad};
use super::run_error::{RunError, RunErrorKind, RunResult};
use crate::inventory::InventoryHost;
use crate::protocol::call;
use crate::protocol::shard::{self, ObservedInstance};

/// Window in which commands are counted, in milliseconds.
const RATE_WINDOW_MS: u64 = 1000;
/// The part of a host's memory that shards may use where the inventory names none.
const DEFAULT_MEMORY_SHARE: f64 = 0.75;

/// The primaries of a map that answered, and what the others said.
#[derive(Debug, Default)]
pub struct ObservedPrimaries {
    /// By shard.
    pub found: BTreeMap<ShardId, ObservedInstance>,
    /// Errors of the hosts and instances that did not answer, a line each.
    pub errors: Vec<String>,
}

impl ObservedPrimaries {
    /// Returns all primaries.
    ///
    /// # Errors
    /// Returns an error if one or more did not answer; all of them are named.
    pub fn into_complete(self) -> Result<BTreeMap<ShardId, ObservedInstance>> {
        if self.errors.is_empty() {
            return Ok(self.found);
        }
        bail!("not all shards answer:\n  {}", self.errors.join("\n  "));
    }
}

/// Observes all primaries of the map.
///
/// # Errors
/// Returns an error if an instance does not answer; all of those are named at once.
pub async fn observe_primaries(
    context: &RebalanceContext<'_>,
    map: &ShardMap,
) -> Result<BTreeMap<ShardId, ObservedInstance>> {
    observe_reachable_primaries(context, map).await.into_complete()
}

/// Observes the cluster for a plan of moves.
///
/// # Errors
/// Returns an error if a primary does not answer.
pub async fn observe_for_plan(cluster: &ClusterFiles, context: &RebalanceContext<'_>) -> RunResult<Observation> {
    let primaries = observe_primaries(context, &cluster.map).await.map_err(|error| {
        RunError::new(RunErrorKind::Refused, error)
            .with_hint("dunlin shards status; if moves are in progress, dunlin shards resume")
    })?;
    Ok(build_observation(context, &cluster.map, &cluster.shard_hosts()?, &primaries))
}

/// Observes the primaries of the map that answer.
pub async fn observe_reachable_primaries(context: &RebalanceContext<'_>, map: &ShardMap) -> ObservedPrimaries {
    query_primaries(context, map, Sampling { window_ms: RATE_WINDOW_MS, keys: 0 }).await
}

/// Observes all primaries without rates, but samples up to `keys` keys of each instance.
///
/// # Errors
/// Returns an error under the same conditions as [`observe_primaries`].
pub async fn sample_primaries(
    context: &RebalanceContext<'_>,
    map: &ShardMap,
    keys: u32,
) -> Result<BTreeMap<ShardId, ObservedInstance>> {
    query_primaries(context, map, Sampling { window_ms: 0, keys }).await.into_complete()
}

/// Selects the figures that take time or load to observe.
#[derive(Clone, Copy)]
struct Sampling {
    /// Window for rates, in milliseconds; 0: no rates.
    window_ms: u64,
    /// Number of keys to sample per instance; 0: no sample.
    keys: u32,
}

async fn query_primaries(context: &RebalanceContext<'_>, map: &ShardMap, sampling: Sampling) -> ObservedPrimaries {
    let mut hosts: Vec<String> = map.shards.iter().map(|entry| entry.host.clone()).collect();
    hosts.sort_unstable();
    hosts.dedup();
    let answers = context.hosts.fleet.map_parallel(&hosts, |host| observe_host(context, map, host, sampling)).await;
    let mut primaries = ObservedPrimaries::default();
    for (host, answer) in hosts.iter().zip(answers) {
        match answer {
            Ok(observed) => {
                for instance in observed {
                    if let Some(error) = &instance.error {
                        primaries.errors.push(format!("shard {} on {host}: {error}", instance.shard));
                    } else {
                        primaries.found.insert(instance.shard, instance);
                    }
                }
            }
            Err(error) => {
                let shards: Vec<String> = map.shards_on(host).map(|entry| entry.id.to_string()).collect();
                let reason = match context.hosts.unreachable.contains(host) {
                    true => "the host cannot be reached".to_owned(),
                    false => format!("{error:#}"),
                };
                primaries.errors.push(format!("{host}, primary of shards {}: {reason}", shards.join(", ")));
            }
        }
    }
    primaries
}

async fn observe_host(
    context: &RebalanceContext<'_>,
    map: &ShardMap,
    host: &str,
    sampling: Sampling,
) -> Result<Vec<ObservedInstance>> {
    let mut instances = Vec::new();
    for entry in map.shards.iter().filter(|entry| entry.host == host) {
        let number = entry.id;
        instances.push((number, context.hosts.instance_address(map, number, host)?));
    }
    let request = shard::ObserveInstances {
        instances,
        credentials: context.hosts.credentials.clone(),
        window_ms: sampling.window_ms,
        sampled_keys: sampling.keys,
    };
    context.hosts.call_host(host, call::Observe(request), &|_, _| {}).await
}

/// The observation that the planner plans from.
pub fn build_observation(
    context: &RebalanceContext<'_>,
    map: &ShardMap,
    hosts: &[&InventoryHost],
    primaries: &BTreeMap<ShardId, ObservedInstance>,
) -> Observation {
    let load = |host: &&InventoryHost| HostLoad {
        name: host.name.clone(),
        zone: host.zone.clone(),
        capacity_bytes: shard_memory_bytes(context, host),
        weight: host.weight,
        drain: host.drain,
        details: host_details(context, &host.name),
    };
    let shard = |entry: &dunlin_shards::Shard| {
        let number = entry.id;
        let observed = primaries.get(&number);
        let slots: Vec<String> = entry.slots.iter().map(ToString::to_string).collect();
        ShardLoad {
            id: number,
            slots: Some(slots.join(",")),
            host: entry.host.clone(),
            replicas: entry.replicas.clone(),
            bytes: observed.map_or(0, |seen| seen.bytes),
            ops_per_s: observed.map_or(0.0, |seen| seen.ops_per_s),
            pinned: entry.pinned,
            peak_bytes: observed.map(|seen| seen.peak_memory),
            details: observed.map(shard_details).unwrap_or_default(),
        }
    };
    Observation {
        format_version: 1,
        cluster: map.cluster.clone(),
        epoch: map.epoch.0,
        port_base: Some(map.port_base),
        hosts: hosts.iter().map(load).collect(),
        shards: map.shards.iter().map(shard).collect(),
    }
}

/// Returns further observations of a host: memory, processors, load.
fn host_details(context: &RebalanceContext<'_>, host: &str) -> BTreeMap<String, Value> {
    let Some(session) = context.hosts.sessions.get(host) else { return BTreeMap::new() };
    let (facts, load) = (&session.hello.facts, session.hello.load);
    let details = [
        ("cpus", facts.cpus.into()),
        ("memory_bytes", facts.memory_bytes.into()),
        ("memory_available_bytes", load.memory_available_bytes.into()),
        ("disk_free_bytes", facts.disk_free_bytes.into()),
        ("load_1m", load.load_1m.into()),
    ];
    details.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Returns further observations of an instance: clients, replication, persistence, forks, encoding.
fn shard_details(observed: &ObservedInstance) -> BTreeMap<String, Value> {
    let Ok(Value::Object(mut fields)) = serde_json::to_value(observed) else { return BTreeMap::new() };
    for field in ["shard", "bytes", "ops_per_s", "peak_memory", "sample"] {
        fields.remove(field);
    }
    fields.into_iter().collect()
}

/// Memory for shards on a host, in bytes: what the inventory says, or a part of what it has.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a share of memory"
)]
pub fn shard_memory_bytes(context: &RebalanceContext<'_>, host: &InventoryHost) -> u64 {
    match host.memory {
        Some(bytes) => bytes.0,
        None => context
            .hosts
            .sessions
            .get(&host.name)
            .map_or(0, |s| (s.hello.facts.memory_bytes as f64 * DEFAULT_MEMORY_SHARE) as u64),
    }
}
