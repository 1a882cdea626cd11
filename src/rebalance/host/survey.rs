//! Copies of shards looked at closely, with what their journals know of failovers, and their primaries as they are seen
//! from this host. Reads only.

use anyhow::{Context, Result};

use super::diary::{self, Record, stage};
use super::link::{Info, Link, role_of};
use super::observe::dataset;
use crate::journal;
use crate::wire::shard::Role;
use crate::wire::shard::failover::{Place, Seen, Survey};

/// How many are looked at at the same time: what is off is only noticed when its time is over.
pub const AT_ONCE: usize = 64;

/// Looks at all of them.
pub fn survey(what: &Survey) -> Vec<Seen> {
    let some = |places: &[Place]| -> Vec<Seen> {
        std::thread::scope(|scope| {
            let looks: Vec<_> = places.iter().map(|place| (place, scope.spawn(|| look(place, what)))).collect();
            looks.into_iter().map(|(place, look)| look.join().unwrap_or_else(|_| blank(place))).collect()
        })
    };
    what.places.chunks(AT_ONCE).flat_map(some).collect()
}

fn blank(place: &Place) -> Seen {
    Seen { shard: place.shard, address: place.address.clone(), ..Seen::default() }
}

fn look(place: &Place, what: &Survey) -> Seen {
    let mut seen = match Link::open(&place.address, &what.credentials).and_then(|mut link| described(&mut link, place))
    {
        Ok(seen) => seen,
        Err(error) => Seen { error: Some(format!("{error:#}")), ..blank(place) },
    };
    let primary = place.primary.as_ref().filter(|primary| **primary != place.address);
    seen.primary = primary.map(|primary| role_of(primary, &what.credentials)).unwrap_or_default();
    match journal::read::<Record>(&diary::path(&what.journals, place.shard)) {
        Ok(records) => seen.failover = stage(&records).filter(|(_, to)| *to == place.address).map(|(begun, _)| begun),
        Err(error) => seen.error = Some(format!("{error:#}")),
    }
    seen
}

fn described(link: &mut Link, place: &Place) -> Result<Seen> {
    let info = link.info("all")?;
    let role = link.role()?;
    let uptime_s = info.number("uptime_in_seconds");
    let incomplete = info.number("loading") == 1 || info.number("master_sync_in_progress") == 1;
    // While it loads it answers nothing else.
    let mut setting = |name| link.setting(name).ok().and_then(|value| value.parse().ok());
    Ok(Seen {
        silent_s: silent(&role, &info),
        role,
        history: info.text("master_replid").to_owned(),
        before: branched(&info),
        incomplete,
        durable: info.text("aof_enabled") == "1" && info.text("aof_last_write_status") == "ok",
        uptime_s,
        keys: keys(&info),
        bytes: dataset(&info),
        stream_per_s: info.number("total_net_repl_input_bytes") / uptime_s.max(1),
        min_replicas: setting("min-replicas-to-write").and_then(|n: u64| u32::try_from(n).ok()).unwrap_or(0),
        max_lag_s: setting("min-replicas-max-lag").context("min-replicas-max-lag").unwrap_or(10),
        ..blank(place)
    })
}

/// Where the history of a replica that was promoted branched off; the stream up to there is of the old primary.
pub fn branched(info: &Info) -> Option<(String, u64)> {
    let end = info.text("second_repl_offset").parse::<u64>().ok()?;
    Some((info.text("master_replid2").to_owned(), end.saturating_sub(1)))
}

fn silent(role: &Role, info: &Info) -> Option<u64> {
    let Role::Replica { linked, .. } = role else { return None };
    let field = if *linked { "master_last_io_seconds_ago" } else { "master_link_down_since_seconds" };
    // -1: it has had no link since it was started.
    info.text(field).parse().ok()
}

fn keys(info: &Info) -> u64 {
    let databases = info.iter().filter(|(name, _)| name.strip_prefix("db").is_some_and(|n| n.parse::<u32>().is_ok()));
    databases.filter_map(|(_, value)| value.strip_prefix("keys=")?.split(',').next()?.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_that_never_had_a_link_has_not_heard_of_its_primary() {
        let silent =
            |linked, field: &str| silent(&Role::Replica { of: String::new(), linked, offset: 0 }, &Info::parse(field));
        assert_eq!(silent(false, "master_link_down_since_seconds:-1\n"), None);
        assert_eq!(silent(false, "master_link_down_since_seconds:31\n"), Some(31));
        assert_eq!(silent(true, "master_last_io_seconds_ago:4\n"), Some(4));
    }

    #[test]
    fn the_old_history_ends_before_the_new_one_begins() {
        let info = |end: &str| Info::parse(&format!("master_replid2:abc\nsecond_repl_offset:{end}\n"));
        assert_eq!(branched(&info("101")), Some(("abc".to_owned(), 100)));
        assert_eq!(branched(&info("-1")), None);
    }
}
