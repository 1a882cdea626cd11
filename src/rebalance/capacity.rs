//! How full the hosts are, when they will be, and what another host would change. Pure: figures in, figures out.

use serde::{Deserialize, Serialize};

/// Bytes of a sorted set without its entries: key, dictionary entry, headers.
const EMPTY_SET: f64 = 96.0;
/// Bytes of an entry (id as member, −id as score) as a listpack: 1000 entries took 20.5 KB on redis-server 7.0.15.
const LISTPACK_ENTRY: f64 = 20.5;
/// The same as skiplist and dictionary: 1000 entries took 102 to 126 KB; the middle of that.
const SKIPLIST_ENTRY: f64 = 114.0;
/// The part of a host's memory that the planner fills at most; the rest is for buffers and copies in flight.
const HEADROOM: f64 = 0.9;
const DAY: f64 = 86400.0;

/// One look at the cluster, as it is kept to see how it grows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Look {
    /// When, in seconds since 1970.
    pub at: i64,
    /// Bytes of all primaries' data.
    pub bytes: u64,
    /// Users: keys of all primaries.
    pub users: u64,
}

/// A host with what is on it now.
#[derive(Clone, Debug, PartialEq)]
pub struct HostNow {
    /// Its name.
    pub name: String,
    /// Memory for shards, in bytes.
    pub capacity: u64,
    /// Bytes of the primaries on it.
    pub bytes: u64,
    /// Bytes of all copies on it, replicas too.
    pub held: u64,
    /// The primaries' keys.
    pub users: u64,
}

/// What is known of a host's future.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HostForecast {
    /// Its name.
    pub name: String,
    /// Bytes in use.
    pub bytes: u64,
    /// Bytes that may be used.
    pub usable: u64,
    /// Users whose primary is on it.
    pub users: u64,
    /// Users that fit on it at the present bytes a user, each with a part of their replicas; nothing where there are no
    /// users yet.
    pub users_at_most: Option<u64>,
    /// Days until it is full; nothing where it does not grow.
    pub full_in_days: Option<f64>,
}

/// What is known of the cluster's future.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Forecast {
    /// The hosts.
    pub hosts: Vec<HostForecast>,
    /// Bytes of data that the cluster grows by each day, replicas not counted; nothing where that is not known.
    pub growth_per_day: Option<f64>,
    /// Measured bytes a user.
    pub bytes_per_user: Option<f64>,
    /// Bytes a user by the model, as listpacks and as skiplists, for the entries that were sampled.
    pub model: Option<(f64, f64)>,
    /// Days until the cluster is full, evenly filled.
    pub full_in_days: Option<f64>,
    /// The same with one more host of the average size.
    pub full_in_days_with_another: Option<f64>,
    /// Bytes on each host if there were one more, evenly filled.
    pub bytes_with_another: u64,
}

/// Bytes that grow each day between the first and the last look; nothing unless an hour lies between them.
#[expect(clippy::cast_precision_loss, reason = "bytes and seconds of a forecast")]
pub fn growth(looks: &[Look]) -> Option<f64> {
    let (first, last) = (looks.first()?, looks.last()?);
    let seconds = (last.at - first.at) as f64;
    (seconds >= 3600.0).then(|| (last.bytes as f64 - first.bytes as f64) / seconds * DAY)
}

/// What follows from how things are. A byte that comes is held once by its primary and by each replica. `entries`: how
/// many a user has on average, as far as that was sampled.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "bytes of a forecast"
)]
pub fn forecast(hosts: &[HostNow], growth_per_day: Option<f64>, entries: Option<f64>) -> Forecast {
    let (bytes, users) = hosts.iter().fold((0, 0), |sum, host| (sum.0 + host.bytes, sum.1 + host.users));
    let held: u64 = hosts.iter().map(|host| host.held).sum();
    let copies = if bytes > 0 { held as f64 / bytes as f64 } else { 1.0 };
    let growth = growth_per_day.map(|growth| growth * copies);
    let bytes_per_user = (users > 0).then(|| bytes as f64 / users as f64);
    let usable = |host: &HostNow| host.capacity as f64 * HEADROOM;
    let days = |room: f64, growth: Option<f64>| growth.filter(|g| *g > 0.0).map(|growth| room.max(0.0) / growth);
    let each = |host: &HostNow| {
        let share = if held > 0 { host.held as f64 / held as f64 } else { 0.0 };
        HostForecast {
            name: host.name.clone(),
            bytes: host.held,
            usable: usable(host) as u64,
            users: host.users,
            users_at_most: bytes_per_user.map(|each| (usable(host) / (each * copies)) as u64),
            full_in_days: days(usable(host) - host.held as f64, growth.map(|growth| growth * share)),
        }
    };
    let room: f64 = hosts.iter().map(usable).sum::<f64>() - held as f64;
    let count = hosts.len().max(1) as f64;
    let another = hosts.iter().map(usable).sum::<f64>() / count;
    Forecast {
        hosts: hosts.iter().map(each).collect(),
        growth_per_day,
        bytes_per_user,
        model: entries.map(|n| (EMPTY_SET + LISTPACK_ENTRY * n, EMPTY_SET + SKIPLIST_ENTRY * n)),
        full_in_days: days(room, growth),
        full_in_days_with_another: days(room + another, growth),
        bytes_with_another: (held as f64 / (count + 1.0)) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn host(name: &str, bytes: u64, users: u64) -> HostNow {
        HostNow { name: name.to_owned(), capacity: 10 * GIB, bytes, held: bytes, users }
    }

    #[test]
    fn replicas_take_room_and_grow_as_well() {
        // The same data, each shard with a replica on the other host: twice the bytes, twice the growth.
        let hosts = [("a", 3 * GIB, 300), ("b", GIB, 100)];
        let with = hosts.map(|(name, bytes, users)| HostNow { held: 4 * GIB, ..host(name, bytes, users) });
        let seen = forecast(&with, Some(GIB as f64), None);
        let days: Vec<f64> = seen.hosts.iter().map(|host| host.full_in_days.unwrap()).collect();
        assert_eq!(days, [5.0, 5.0], "5 GiB of room at 1 GiB a day each");
        assert_eq!((seen.hosts[0].bytes, seen.hosts[0].users_at_most), (4 * GIB, Some(450)));
        assert_eq!((seen.full_in_days, seen.growth_per_day), (Some(5.0), Some(GIB as f64)));
        assert_eq!(seen.bytes_per_user, forecast(&hosts.map(|(n, b, u)| host(n, b, u)), None, None).bytes_per_user);
    }

    #[test]
    fn a_host_that_holds_more_grows_more_and_is_full_earlier() {
        let seen = forecast(&[host("a", 6 * GIB, 600), host("b", 3 * GIB, 300)], Some(GIB as f64), Some(1000.0));
        let days: Vec<f64> = seen.hosts.iter().map(|host| host.full_in_days.unwrap().round()).collect();
        assert_eq!(days, [5.0, 18.0], "3 GiB at 2/3 GiB a day, 6 GiB at 1/3");
        assert_eq!(seen.full_in_days.unwrap().round(), 9.0);
        assert_eq!(seen.full_in_days_with_another.unwrap().round(), 18.0);
        assert_eq!(seen.bytes_with_another, 3 * GIB);
        assert_eq!(seen.hosts[0].users_at_most, Some(900));
        assert_eq!(seen.model, Some((20_596.0, 114_096.0)));
    }

    #[test]
    fn what_does_not_grow_is_never_full_and_nothing_divides_by_nothing() {
        let seen = forecast(&[host("a", 0, 0)], None, None);
        assert_eq!((seen.bytes_per_user, seen.full_in_days, seen.hosts[0].users_at_most), (None, None, None));
        assert_eq!(forecast(&[host("a", GIB, 1)], Some(-5.0), None).full_in_days, None);
        assert_eq!(forecast(&[], Some(1.0), None).hosts, []);
    }

    #[test]
    fn growth_needs_an_hour_between_two_looks() {
        let look = |at, bytes| Look { at, bytes, users: 1 };
        assert_eq!(growth(&[look(0, 10), look(3599, 20)]), None);
        assert_eq!(growth(&[look(0, 10), look(7, 99), look(43_200, 20)]), Some(20.0));
        assert_eq!(growth(&[]), None);
    }
}
