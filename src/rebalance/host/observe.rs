//! Sizes and rates of instances: what plans are made from. Reads only.

use std::time::{Duration, Instant};

use anyhow::Result;
use redis::{Cmd, Value};

use super::link::{Info, Link, words, written};
use crate::wire::shard::{Observe, Observed, Sample};

/// Commands that observers, replication and moves cause; the application's rate is without them.
const NOT_COUNTED: &[&str] = &[
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
pub fn observe(what: &Observe) -> Vec<Observed> {
    let mut first: Vec<(Link, Info, Instant)> = Vec::new();
    let mut observed: Vec<Observed> = Vec::new();
    for (shard, address) in &what.instances {
        let blank = Observed { shard: *shard, address: address.clone(), ..Observed::default() };
        let looked = Link::open(address, &what.credentials).and_then(|mut link| {
            let described = Observed { sample: sample(&mut link, what.sample)?, ..described(&mut link, &blank)? };
            Ok((described, link.info("all")?, link))
        });
        match looked {
            Ok((described, info, link)) => {
                observed.push(described);
                first.push((link, info, Instant::now()));
            }
            Err(error) => observed.push(Observed { error: Some(format!("{error:#}")), ..blank }),
        }
    }
    if what.window_ms == 0 {
        return observed;
    }
    std::thread::sleep(Duration::from_millis(what.window_ms));
    let answering = observed.iter_mut().filter(|instance| instance.error.is_none());
    for (instance, (mut link, before, at)) in answering.zip(first) {
        match link.info("all") {
            Ok(after) => rates(instance, &before, &after, at.elapsed()),
            Err(error) => instance.error = Some(format!("{error:#}")),
        }
    }
    observed
}

fn described(link: &mut Link, blank: &Observed) -> Result<Observed> {
    let info = link.info("all")?;
    let listpack = link.setting("zset-max-listpack-entries")?;
    let min_replicas = link.setting("min-replicas-to-write")?;
    let clients: String = link.ask(&words(&["CLIENT", "LIST", "TYPE", "NORMAL"]))?;
    let me: String = link.ask(&words(&["ACL", "WHOAMI"]))?;
    let mine = format!("user={me}");
    let others = clients.lines().filter(|line| !line.split(' ').any(|field| field == mine)).count();
    let keyspace = info.iter().filter(|(name, _)| is_database(name));
    let keys = keyspace.filter_map(|(_, value)| value.strip_prefix("keys=")?.split(',').next()?.parse::<u64>().ok());
    Ok(Observed {
        role: link.role()?,
        version: info.text("redis_version").to_owned(),
        bytes: dataset(&info),
        used_memory: info.number("used_memory"),
        peak_memory: info.number("used_memory_peak"),
        maxmemory: info.number("maxmemory"),
        keys: keys.sum(),
        clients: u64::try_from(others)?,
        durable: info.text("aof_enabled") == "1" && info.text("aof_last_write_status") == "ok",
        appendfsync: link.setting("appendfsync")?,
        fork_us: info.number("latest_fork_usec"),
        min_replicas: min_replicas.parse().unwrap_or(0),
        listpack_entries: listpack.parse().unwrap_or(0),
        ..blank.clone()
    })
}

/// Keys picked at random: how large sorted sets are, and how they are encoded.
fn sample(link: &mut Link, keys: u32) -> Result<Sample> {
    let picks: Vec<Cmd> = (0..keys).map(|_| words(&["RANDOMKEY"])).collect();
    let named = link.all(&picks)?.into_iter().filter_map(|key| match key {
        Value::BulkString(key) => Some(key),
        _ => None,
    });
    let of = |name: &[&str], key: &[u8]| {
        let mut cmd = words(name);
        cmd.arg(key);
        cmd
    };
    let asked: Vec<Cmd> = named.flat_map(|key| [of(&["ZCARD"], &key), of(&["OBJECT", "ENCODING"], &key)]).collect();
    let mut sample = Sample::default();
    for pair in link.batch(&asked)?.chunks(2) {
        // A key of another type answers ZCARD with an error and is no user's timeline.
        let [Value::Int(entries @ 1..), Value::BulkString(encoding)] = pair else { continue };
        sample.add(&Sample { sets: 1, entries: entries.unsigned_abs(), listpacks: u64::from(encoding == b"listpack") });
    }
    Ok(sample)
}

/// Bytes of the keys and values. `used_memory_dataset` counts the latency histogram that the server makes of each
/// command it has seen (7.0: 3072 counters of 8 bytes, from 1 µs to 1 s at two digits): 25 KB a command, which make an
/// instance that was moved, and so has seen more commands, look heavier by a quarter of a megabyte.
pub fn dataset(info: &Info) -> u64 {
    const HISTOGRAM: u64 = 3072 * 8 + 96;
    let tables = info.iter().filter(|(name, _)| is_database(name)).count();
    let histograms = info.iter().filter(|(name, _)| name.starts_with("latency_percentiles_usec_")).count() as u64;
    if tables == 0 { 0 } else { info.number("used_memory_dataset").saturating_sub(histograms * HISTOGRAM) }
}

fn is_database(name: &str) -> bool {
    name.strip_prefix("db").is_some_and(|number| number.parse::<u32>().is_ok())
}

fn rates(instance: &mut Observed, before: &Info, after: &Info, window: Duration) {
    let seconds = window.as_secs_f64();
    let grown = |from: u64, to: u64| precise(to.saturating_sub(from)) / seconds;
    instance.ops_per_s = grown(calls(before), calls(after));
    instance.stream_bytes_per_s = grown(0, written(before, after));
}

/// Calls of the commands that count, from `commandstats`.
fn calls(info: &Info) -> u64 {
    let stats = info.iter().filter_map(|(name, value)| Some((name.strip_prefix("cmdstat_")?, value)));
    let counted = stats.filter(|(name, _)| !NOT_COUNTED.contains(&name.split('|').next().unwrap_or(name)));
    counted.filter_map(|(_, value)| value.strip_prefix("calls=")?.split(',').next()?.parse::<u64>().ok()).sum()
}

/// Counters of one window are far below 2⁵³.
#[expect(clippy::cast_precision_loss, reason = "see above")]
fn precise(number: u64) -> f64 {
    number as f64
}
