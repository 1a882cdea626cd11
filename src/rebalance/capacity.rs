//! How full the hosts are, when they will be, and what another host would change. Pure: figures in, figures out.

use serde::{Deserialize, Serialize};

/// The part of a host's memory that the planner fills at most; the rest is for buffers and copies in flight.
const MAX_FILL: f64 = 0.9;
const SECONDS_PER_DAY: f64 = 86400.0;

/// A sample of the cluster's sizes, stored to measure growth.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CapacitySample {
    /// Time in seconds since 1970.
    pub at: i64,
    /// Bytes of all primaries' data.
    pub bytes: u64,
    /// Keys of all primaries.
    pub keys: u64,
}

/// A host with what is on it now.
#[derive(Clone, Debug, PartialEq)]
pub struct HostUsage {
    /// Its name.
    pub name: String,
    /// Memory for shards, in bytes.
    pub capacity: u64,
    /// Bytes of the primaries on it.
    pub primary_bytes: u64,
    /// Bytes of all copies on it, replicas too.
    pub total_bytes: u64,
    /// The primaries' keys.
    pub keys: u64,
}

/// Forecast for a host.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HostForecast {
    /// Its name.
    pub name: String,
    /// Bytes in use.
    pub bytes: u64,
    /// Bytes that may be used.
    pub usable_bytes: u64,
    /// Keys whose primary is on it.
    pub keys: u64,
    /// Keys that fit on it at the present bytes per key, each with a part of its replicas; nothing where there are no
    /// keys yet.
    pub max_keys: Option<u64>,
    /// Days until it is full; nothing where it does not grow.
    pub full_in_days: Option<f64>,
}

/// Forecast for the cluster.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Forecast {
    /// The hosts.
    pub hosts: Vec<HostForecast>,
    /// Bytes of data that the cluster grows by each day, replicas not counted; nothing where that is not known.
    pub growth_per_day: Option<f64>,
    /// Measured bytes per key.
    pub bytes_per_key: Option<f64>,
    /// Days until the cluster is full, evenly filled.
    pub full_in_days: Option<f64>,
    /// The same with one more host of the average size.
    pub full_in_days_with_added_host: Option<f64>,
    /// Bytes on each host if there were one more, evenly filled.
    pub bytes_with_added_host: u64,
}

/// Returns the growth in bytes per day between the first and the last sample; `None` if they are less than an hour
/// apart.
#[expect(clippy::cast_precision_loss, reason = "bytes and seconds of a forecast")]
pub fn measure_growth(samples: &[CapacitySample]) -> Option<f64> {
    let (first, last) = (samples.first()?, samples.last()?);
    let seconds = (last.at - first.at) as f64;
    (seconds >= 3600.0).then(|| (last.bytes as f64 - first.bytes as f64) / seconds * SECONDS_PER_DAY)
}

/// Returns when each host and the cluster will be full. A new byte is in the primary and in each replica.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "bytes of a forecast"
)]
pub fn forecast_capacity(hosts: &[HostUsage], growth_per_day: Option<f64>) -> Forecast {
    let (bytes, keys) = hosts.iter().fold((0, 0), |sum, host| (sum.0 + host.primary_bytes, sum.1 + host.keys));
    let total_bytes: u64 = hosts.iter().map(|host| host.total_bytes).sum();
    let copies_per_byte = if bytes > 0 { total_bytes as f64 / bytes as f64 } else { 1.0 };
    let growth = growth_per_day.map(|growth| growth * copies_per_byte);
    let bytes_per_key = (keys > 0).then(|| bytes as f64 / keys as f64);
    let usable = |host: &HostUsage| host.capacity as f64 * MAX_FILL;
    let days =
        |free_bytes: f64, growth: Option<f64>| growth.filter(|g| *g > 0.0).map(|growth| free_bytes.max(0.0) / growth);
    let forecast_host = |host: &HostUsage| {
        let share = if total_bytes > 0 { host.total_bytes as f64 / total_bytes as f64 } else { 0.0 };
        HostForecast {
            name: host.name.clone(),
            bytes: host.total_bytes,
            usable_bytes: usable(host) as u64,
            keys: host.keys,
            max_keys: bytes_per_key.map(|each| (usable(host) / (each * copies_per_byte)) as u64),
            full_in_days: days(usable(host) - host.total_bytes as f64, growth.map(|growth| growth * share)),
        }
    };
    let room: f64 = hosts.iter().map(usable).sum::<f64>() - total_bytes as f64;
    let count = hosts.len().max(1) as f64;
    let added_host_bytes = hosts.iter().map(usable).sum::<f64>() / count;
    Forecast {
        hosts: hosts.iter().map(forecast_host).collect(),
        growth_per_day,
        bytes_per_key,
        full_in_days: days(room, growth),
        full_in_days_with_added_host: days(room + added_host_bytes, growth),
        bytes_with_added_host: (total_bytes as f64 / (count + 1.0)) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn host(name: &str, bytes: u64, keys: u64) -> HostUsage {
        HostUsage { name: name.to_owned(), capacity: 10 * GIB, primary_bytes: bytes, total_bytes: bytes, keys }
    }

    #[test]
    fn replicas_use_memory_and_grow_too() {
        // The same data, each shard with a replica on the other host: twice the bytes, twice the growth.
        let hosts = [("a", 3 * GIB, 300), ("b", GIB, 100)];
        let with = hosts.map(|(name, bytes, keys)| HostUsage { total_bytes: 4 * GIB, ..host(name, bytes, keys) });
        let seen = forecast_capacity(&with, Some(GIB as f64));
        let days: Vec<f64> = seen.hosts.iter().map(|host| host.full_in_days.unwrap()).collect();
        assert_eq!(days, [5.0, 5.0], "5 GiB of room at 1 GiB a day each");
        assert_eq!((seen.hosts[0].bytes, seen.hosts[0].max_keys), (4 * GIB, Some(450)));
        assert_eq!((seen.full_in_days, seen.growth_per_day), (Some(5.0), Some(GIB as f64)));
        assert_eq!(seen.bytes_per_key, forecast_capacity(&hosts.map(|(n, b, u)| host(n, b, u)), None).bytes_per_key);
    }

    #[test]
    fn a_fuller_host_grows_faster_and_fills_earlier() {
        let seen = forecast_capacity(&[host("a", 6 * GIB, 600), host("b", 3 * GIB, 300)], Some(GIB as f64));
        let days: Vec<f64> = seen.hosts.iter().map(|host| host.full_in_days.unwrap().round()).collect();
        assert_eq!(days, [5.0, 18.0], "3 GiB at 2/3 GiB a day, 6 GiB at 1/3");
        assert_eq!(seen.full_in_days.unwrap().round(), 9.0);
        assert_eq!(seen.full_in_days_with_added_host.unwrap().round(), 18.0);
        assert_eq!(seen.bytes_with_added_host, 3 * GIB);
        assert_eq!(seen.hosts[0].max_keys, Some(900));
    }

    #[test]
    fn a_host_without_growth_never_fills_and_zero_is_no_divisor() {
        let seen = forecast_capacity(&[host("a", 0, 0)], None);
        assert_eq!((seen.bytes_per_key, seen.full_in_days, seen.hosts[0].max_keys), (None, None, None));
        assert_eq!(forecast_capacity(&[host("a", GIB, 1)], Some(-5.0)).full_in_days, None);
        assert_eq!(forecast_capacity(&[], Some(1.0)).hosts, []);
    }

    #[test]
    fn growth_needs_an_hour_between_two_samples() {
        let look = |at, bytes| CapacitySample { at, bytes, keys: 1 };
        assert_eq!(measure_growth(&[look(0, 10), look(3599, 20)]), None);
        assert_eq!(measure_growth(&[look(0, 10), look(7, 99), look(43_200, 20)]), Some(20.0));
        assert_eq!(measure_growth(&[]), None);
    }
}
