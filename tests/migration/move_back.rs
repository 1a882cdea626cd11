//! The way back to an old instance that stayed as a live replica: without a copy.

use std::process::Command;

use crate::fixture::{APP_PASSWORD, APP_USER, MoveFixture, app_credentials, connect_admin, connect_as};
use crate::moves::{run_copy, run_switch};
use crate::writers::{MoveWriters, stop_and_check};

/// How many full syncs an instance has given.
fn full_syncs(fixture: &MoveFixture, n: u8) -> String {
    let mut connection = connect_admin(&fixture.address(n)).unwrap();
    let info: String = redis::cmd("INFO").arg("stats").query(&mut connection).unwrap();
    info.lines().find_map(|line| line.strip_prefix("sync_full:")).unwrap().to_owned()
}

#[test]
fn moves_back_need_no_copy() {
    let mut fixture = MoveFixture::with_instances(2);
    fixture.provision_primary(0).unwrap();
    let mut writers = MoveWriters::start_writers(2, &fixture.address(0));
    writers.wait_for_writes(100);
    let (there, back) = (fixture.move_spec(0, 1), fixture.move_spec(1, 0));
    run_copy(&fixture, there.clone()).unwrap();
    run_switch(&fixture, there).unwrap();
    writers.publish_address(&fixture.address(1));
    writers.wait_for_writes(200);
    let before = full_syncs(&fixture, 1);
    run_copy(&fixture, back.clone()).unwrap();
    run_switch(&fixture, back).unwrap();
    writers.publish_address(&fixture.address(0));
    writers.wait_for_writes(100);
    assert_eq!(full_syncs(&fixture, 1), before);
    stop_and_check(&mut writers, &fixture, 0);
}

/// More than the backlog holds: what counts is that the old instance has followed all the while.
#[test]
fn moves_back_need_no_copy_after_a_million_writes() {
    const WRITE_COUNT: u64 = 1_000_000;
    const COUNTERS: u64 = 1000;
    let mut fixture = MoveFixture::with_appendfsync(2, "everysec");
    fixture.provision_primary(0).unwrap();
    let (there, back) = (fixture.move_spec(0, 1), fixture.move_spec(1, 0));
    run_copy(&fixture, there.clone()).unwrap();
    run_switch(&fixture, there).unwrap();
    let address = fixture.address(1);
    let (host, port) = address.rsplit_once(':').unwrap();
    let (writes, counters) = (WRITE_COUNT.to_string(), COUNTERS.to_string());
    let written = Command::new("redis-benchmark")
        .args(["-h", host, "-p", port, "--user", APP_USER, "-a", APP_PASSWORD, "-q"])
        .args(["-n", &writes, "-r", &counters, "-c", "2", "-P", "100"])
        .args(["INCR", "a-counter-with-a-name-that-fills-the-backlog:__rand_int__"])
        .output()
        .unwrap();
    assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
    let before = full_syncs(&fixture, 1);
    run_copy(&fixture, back.clone()).unwrap();
    let switched = run_switch(&fixture, back).unwrap();
    assert!(!switched.already_cut_over && switched.follow_ups.is_empty(), "{switched:?}");
    assert_eq!((full_syncs(&fixture, 1), fixture.writable_instances()), (before, vec![0]));
    let mut client = connect_as(&fixture.address(0), &app_credentials()).unwrap();
    let keys: Vec<String> =
        redis::cmd("KEYS").arg("a-counter*").query(&mut connect_admin(&fixture.address(0)).unwrap()).unwrap();
    let values: Vec<u64> = redis::cmd("MGET").arg(&keys).query(&mut client).unwrap();
    assert_eq!(values.iter().sum::<u64>(), WRITE_COUNT);
}
