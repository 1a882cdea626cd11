//! The way back to an old instance that stayed as a live replica: without a copy.

use std::process::Command;

use crate::moves::{copy, switch};
use crate::places::{APP, APP_PASSWORD, Places, admin, app, connect};
use crate::writers::{Writers, stop_and_check};

/// How many full syncs an instance has given.
fn full_syncs(places: &Places, n: u8) -> String {
    let mut connection = admin(&places.address(n)).unwrap();
    let info: String = redis::cmd("INFO").arg("stats").query(&mut connection).unwrap();
    info.lines().find_map(|line| line.strip_prefix("sync_full:")).unwrap().to_owned()
}

#[test]
fn the_way_back_needs_no_copy() {
    let mut places = Places::new(2);
    places.provision(0).unwrap();
    let mut writers = Writers::start(2, &places.address(0));
    writers.write_on(100);
    let (there, back) = (places.spec(0, 1), places.spec(1, 0));
    copy(&places, there.clone()).unwrap();
    switch(&places, there).unwrap();
    writers.publish(&places.address(1));
    writers.write_on(200);
    let before = full_syncs(&places, 1);
    copy(&places, back.clone()).unwrap();
    switch(&places, back).unwrap();
    writers.publish(&places.address(0));
    writers.write_on(100);
    assert_eq!(full_syncs(&places, 1), before);
    stop_and_check(&mut writers, &places, 0);
}

/// More than the backlog holds: what counts is that the old instance has followed all the while.
#[test]
fn a_million_writes_later_it_still_needs_none() {
    const WRITES: u64 = 1_000_000;
    const COUNTERS: u64 = 1000;
    let mut places = Places::with(2, "everysec");
    places.provision(0).unwrap();
    let (there, back) = (places.spec(0, 1), places.spec(1, 0));
    copy(&places, there.clone()).unwrap();
    switch(&places, there).unwrap();
    let address = places.address(1);
    let (host, port) = address.rsplit_once(':').unwrap();
    let (writes, counters) = (WRITES.to_string(), COUNTERS.to_string());
    let written = Command::new("redis-benchmark")
        .args(["-h", host, "-p", port, "--user", APP, "-a", APP_PASSWORD, "-q"])
        .args(["-n", &writes, "-r", &counters, "-c", "2", "-P", "100"])
        .args(["INCR", "a-counter-with-a-name-that-fills-the-backlog:__rand_int__"])
        .output()
        .unwrap();
    assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
    let before = full_syncs(&places, 1);
    copy(&places, back.clone()).unwrap();
    let switched = switch(&places, back).unwrap();
    assert!(!switched.already && switched.pending.is_empty(), "{switched:?}");
    assert_eq!((full_syncs(&places, 1), places.writable()), (before, vec![0]));
    let mut client = connect(&places.address(0), &app()).unwrap();
    let keys: Vec<String> =
        redis::cmd("KEYS").arg("a-counter*").query(&mut admin(&places.address(0)).unwrap()).unwrap();
    let values: Vec<u64> = redis::cmd("MGET").arg(&keys).query(&mut client).unwrap();
    assert_eq!(values.iter().sum::<u64>(), WRITES);
}
