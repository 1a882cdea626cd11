//! Sizes and rates of instances: what plans are made from. Reads only.

use std::time::{Duration, Instant};

use anyhow::Result;
use redis::{Cmd, Value};

use super::redis_client::{RedisClient, RedisInfo, redis_command, replication_bytes_between};
use crate::protocol::shard::{KeySample, ObserveInstances, ObservedInstance};
use crate::resources::redis_shard::server::ServerVersion;

/// Commands that observers, replication and moves cause; the application's rate is without them.
const IGNORED_COMMANDS: &[&str] = &[
    "info",
    "ping",
    "psync",
    "replconf",
    "auth",
    "hello",
    "client",
    "config",
    "role",
    "acl",
    "select",
    "replicaof",
    "slowlog",
    "latency",
    "command",
    "cluster",
    "debug",
    "memory",
];

/// Looks at all instances twice, the window apart; one that does not answer is reported with its error.
pub fn observe_instances(request: &ObserveInstances) -> Vec<ObservedInstance> {
    let mut first: Vec<(RedisClient, RedisInfo, Instant)> = Vec::new();
    let mut observed: Vec<ObservedInstance> = Vec::new();
    for (shard, address) in &request.instances {
        let blank = ObservedInstance { shard: *shard, address: address.clone(), ..ObservedInstance::default() };
        let opened = RedisClient::open(address, &request.credentials).and_then(|mut link| {
            let described = ObservedInstance {
                sample: sample_keys(&mut link, request.sampled_keys)?,
                ..describe_instance(&mut link, &blank)?
            };
            Ok((described, link.fetch_info("all")?, link))
        });
        match opened {
            Ok((described, info, link)) => {
                observed.push(described);
                first.push((link, info, Instant::now()));
            }
            Err(error) => observed.push(ObservedInstance { error: Some(format!("{error:#}")), ..blank }),
        }
    }
    if request.window_ms == 0 {
        return observed;
    }
    std::thread::sleep(Duration::from_millis(request.window_ms));
    let answering = observed.iter_mut().filter(|instance| instance.error.is_none());
    for (instance, (mut link, before, at)) in answering.zip(first) {
        match link.fetch_info("all") {
            Ok(after) => set_rates(instance, &before, &after, at.elapsed()),
            Err(error) => instance.error = Some(format!("{error:#}")),
        }
    }
    observed
}

fn describe_instance(link: &mut RedisClient, blank: &ObservedInstance) -> Result<ObservedInstance> {
    let info = link.fetch_info("all")?;
    let listpack = link.fetch_setting("zset-max-listpack-entries")?;
    let min_replicas = link.fetch_setting("min-replicas-to-write")?;
    let clients: String = link.query(&redis_command(&["CLIENT", "LIST", "TYPE", "NORMAL"]))?;
    let own_user: String = link.query(&redis_command(&["ACL", "WHOAMI"]))?;
    let own_user_field = format!("user={own_user}");
    let others = clients.lines().filter(|line| !line.split(' ').any(|field| field == own_user_field)).count();
    let keyspace = info.iter().filter(|(name, _)| is_database(name));
    let keys = keyspace.filter_map(|(_, value)| value.strip_prefix("keys=")?.split(',').next()?.parse::<u64>().ok());
    Ok(ObservedInstance {
        role: link.fetch_role()?,
        version: ServerVersion::from_info(|name| info.text_field(name))?.to_string(),
        bytes: dataset_bytes(&info),
        used_memory: info.number_field("used_memory"),
        peak_memory: info.number_field("used_memory_peak"),
        maxmemory: info.number_field("maxmemory"),
        keys: keys.sum(),
        clients: u64::try_from(others)?,
        durable: info.text_field("aof_enabled") == "1" && info.text_field("aof_last_write_status") == "ok",
        appendfsync: link.fetch_setting("appendfsync")?,
        fork_us: info.number_field("latest_fork_usec"),
        min_replicas: min_replicas.parse().unwrap_or(0),
        good_replicas: info.number_field("min_slaves_good_slaves"),
        listpack_entries: listpack.parse().unwrap_or(0),
        ..blank.clone()
    })
}

/// Samples keys at random: the sizes of sorted sets, and their encodings.
fn sample_keys(link: &mut RedisClient, keys: u32) -> Result<KeySample> {
    let picks: Vec<Cmd> = (0..keys).map(|_| redis_command(&["RANDOMKEY"])).collect();
    let named = link.run_all(&picks)?.into_iter().filter_map(|key| match key {
        Value::BulkString(key) => Some(key),
        _ => None,
    });
    let of = |name: &[&str], key: &[u8]| {
        let mut cmd = redis_command(name);
        cmd.arg(key);
        cmd
    };
    let asked: Vec<Cmd> = named.flat_map(|key| [of(&["ZCARD"], &key), of(&["OBJECT", "ENCODING"], &key)]).collect();
    let mut sample = KeySample::default();
    for pair in link.run_batch(&asked)?.chunks(2) {
        // A key of another type answers ZCARD with an error and is no user's timeline.
        let [Value::Int(entries @ 1..), Value::BulkString(encoding)] = pair else { continue };
        sample.add_counts(&KeySample {
            sorted_sets: 1,
            entries: entries.unsigned_abs(),
            listpacks: u64::from(encoding == b"listpack"),
        });
    }
    Ok(sample)
}

/// Returns the bytes of the keys and values. `used_memory_dataset` counts the latency histogram that the server keeps
/// of each command it has seen (7.0: 3072 counters of 8 bytes, from 1 µs to 1 s at two digits): 25 KB per command,
/// which make an instance that was moved, and so has seen more commands, look larger by a quarter of a megabyte.
pub fn dataset_bytes(info: &RedisInfo) -> u64 {
    const HISTOGRAM: u64 = 3072 * 8 + 96;
    let tables = info.iter().filter(|(name, _)| is_database(name)).count();
    let histograms = info.iter().filter(|(name, _)| name.starts_with("latency_percentiles_usec_")).count() as u64;
    if tables == 0 { 0 } else { info.number_field("used_memory_dataset").saturating_sub(histograms * HISTOGRAM) }
}

fn is_database(name: &str) -> bool {
    name.strip_prefix("db").is_some_and(|number| number.parse::<u32>().is_ok())
}

fn set_rates(instance: &mut ObservedInstance, before: &RedisInfo, after: &RedisInfo, window: Duration) {
    let seconds = window.as_secs_f64();
    let grown = |from: u64, to: u64| to_f64(to.saturating_sub(from)) / seconds;
    instance.ops_per_s = grown(count_calls(before), count_calls(after));
    instance.stream_bytes_per_s = grown(0, replication_bytes_between(before, after));
}

/// Calls of the commands that count, from `commandstats`.
fn count_calls(info: &RedisInfo) -> u64 {
    let stats = info.iter().filter_map(|(name, value)| Some((name.strip_prefix("cmdstat_")?, value)));
    let counted = stats.filter(|(name, _)| !IGNORED_COMMANDS.contains(&name.split('|').next().unwrap_or(name)));
    counted.filter_map(|(_, value)| value.strip_prefix("calls=")?.split(',').next()?.parse::<u64>().ok()).sum()
}

/// Counters of one window are far below 2⁵³.
#[expect(clippy::cast_precision_loss, reason = "see above")]
fn to_f64(number: u64) -> f64 {
    number as f64
}
