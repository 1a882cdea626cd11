//! Observing the shards of a map: each host is asked for its own instances, and the answers become an observation.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use dunlin_shards::ShardMap;
use serde_json::Value;

use super::Ground;
use super::observation::{HostLoad, Observation, ShardLoad};
use crate::inventory::Host;
use crate::wire::shard::{self, Observed, Reply, Request};

/// How long commands are counted, in milliseconds.
const WINDOW_MS: u64 = 1000;
/// The part of a host's memory that shards may use where the inventory names none.
const SHARE: f64 = 0.75;

/// All primaries of the map, as their hosts see them.
///
/// # Errors
/// An instance does not answer; all of those are named at once.
pub async fn primaries(ground: &Ground<'_>, map: &ShardMap) -> Result<BTreeMap<u32, Observed>> {
    asked(ground, map, (WINDOW_MS, 0)).await
}

/// The same without rates, but with so many keys of each instance looked at closely.
///
/// # Errors
/// As [`primaries`].
pub async fn sampled(ground: &Ground<'_>, map: &ShardMap, keys: u32) -> Result<BTreeMap<u32, Observed>> {
    asked(ground, map, (0, keys)).await
}

async fn asked(ground: &Ground<'_>, map: &ShardMap, how: (u64, u32)) -> Result<BTreeMap<u32, Observed>> {
    let mut hosts: Vec<String> = map.shards.iter().map(|entry| entry.host.clone()).collect();
    hosts.sort_unstable();
    hosts.dedup();
    let answers = ground.fleet.each(&hosts, |host| one(ground, map, host, how)).await;
    let (mut found, mut silent) = (BTreeMap::new(), Vec::new());
    for (host, answer) in hosts.iter().zip(answers) {
        match answer {
            Ok(observed) => {
                for instance in observed {
                    if let Some(error) = &instance.error {
                        silent.push(format!("shard {} on {host}: {error}", instance.shard));
                    }
                    found.insert(instance.shard, instance);
                }
            }
            Err(error) => silent.push(format!("{host}: {error:#}")),
        }
    }
    if !silent.is_empty() {
        bail!("not all shards answer:\n  {}", silent.join("\n  "));
    }
    Ok(found)
}

async fn one(
    ground: &Ground<'_>,
    map: &ShardMap,
    host: &str,
    (window_ms, sample): (u64, u32),
) -> Result<Vec<Observed>> {
    let mut instances = Vec::new();
    for entry in map.shards.iter().filter(|entry| entry.host == host) {
        let number = u32::from(entry.id.0);
        instances.push((number, ground.address(map, number, host)?));
    }
    let request = shard::Observe { instances, credentials: ground.credentials.clone(), window_ms, sample };
    match ground.ask(host, Request::Observe(request), &|_, _| {}).await? {
        Reply::Observed(observed) => Ok(observed),
        _ => bail!("an answer that does not fit"),
    }
}

/// The observation that the planner plans from.
pub fn observation(
    ground: &Ground<'_>,
    map: &ShardMap,
    hosts: &[&Host],
    primaries: &BTreeMap<u32, Observed>,
) -> Observation {
    let load = |host: &&Host| HostLoad {
        name: host.name.clone(),
        zone: host.zone.clone(),
        capacity_bytes: capacity(ground, host),
        weight: host.weight,
        drain: host.drain,
        details: host_details(ground, &host.name),
    };
    let shard = |entry: &dunlin_shards::Shard| {
        let number = u32::from(entry.id.0);
        let seen = primaries.get(&number);
        let slots: Vec<String> = entry.slots.iter().map(ToString::to_string).collect();
        ShardLoad {
            id: number,
            slots: Some(slots.join(",")),
            host: entry.host.clone(),
            replicas: entry.replicas.clone(),
            bytes: seen.map_or(0, |seen| seen.bytes),
            ops_per_s: seen.map_or(0.0, |seen| seen.ops_per_s),
            pinned: entry.pinned,
            peak_bytes: seen.map(|seen| seen.peak_memory),
            details: seen.map(shard_details).unwrap_or_default(),
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

/// What else was seen of a host: its memory and processors, and how busy it was.
fn host_details(ground: &Ground<'_>, host: &str) -> BTreeMap<String, Value> {
    let Some(session) = ground.sessions.get(host) else { return BTreeMap::new() };
    let (facts, pressure) = (&session.hello.facts, session.hello.pressure);
    let details = [
        ("cpus", facts.cpus.into()),
        ("memory_bytes", facts.memory_bytes.into()),
        ("memory_available_bytes", pressure.memory_available_bytes.into()),
        ("disk_free_bytes", facts.disk_free_bytes.into()),
        ("load_1m", pressure.load_1m.into()),
    ];
    details.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// What else was seen of an instance: clients, replication, persistence, forks, encoding.
fn shard_details(seen: &Observed) -> BTreeMap<String, Value> {
    let Ok(Value::Object(mut fields)) = serde_json::to_value(seen) else { return BTreeMap::new() };
    for elsewhere in ["shard", "bytes", "ops_per_s", "peak_memory", "sample"] {
        fields.remove(elsewhere);
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
pub fn capacity(ground: &Ground<'_>, host: &Host) -> u64 {
    match host.memory {
        Some(bytes) => bytes.0,
        None => ground.sessions.get(&host.name).map_or(0, |s| (s.hello.facts.memory_bytes as f64 * SHARE) as u64),
    }
}
