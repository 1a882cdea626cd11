//! Ctrl-C in the middle of a rebalance: a copy ends, a switch ends or is taken back, and the last lines say where each
//! shard is and what ends it.

use std::fs::File;
use std::io::Read;
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use crate::cluster::{APP_PASSWORD, SHARD_COUNT, TOLERANCE, TestCluster};
use crate::crashes::assert_status_accurate;
use crate::hosts::lock_fleet;
use crate::timing::{KillMoment, RunningCommand};
use crate::writers::FleetWriters;

const MIB: usize = 1 << 20;

#[test]
fn the_first_interrupt_stops_a_copy_and_keeps_its_limit() {
    let Some(fleet) = lock_fleet() else { return };
    let mut cluster = TestCluster::without_replicas(&fleet);
    cluster.add_third_host();
    fill_incompressible(&cluster);
    let writers = FleetWriters::start_writers(&cluster.published_map_path());
    let before = cluster.read_map();
    let flags = ["--tolerance", TOLERANCE, "--bandwidth", "1MiB"];
    let lines = RunningCommand::run_until(&cluster, KillMoment::Said("progress", "copy"), &flags).interrupt_run();
    let interrupted = find_event(&lines, "interrupted");
    assert_eq!(interrupted["moved"], Json::Array(Vec::new()), "{lines:#?}");
    let stopped: Vec<u16> = shard_ids(&interrupted["stopped"]);
    assert!(!stopped.is_empty(), "{lines:#?}");
    assert_eq!(find_event(&lines, "summary")["exit"], 130);
    for shard in &stopped {
        let source = &before.shards[usize::from(*shard)].host;
        let end = Instant::now() + Duration::from_secs(10);
        while cluster.attached_replicas(source, *shard) > 0 {
            assert!(Instant::now() < end, "shard {shard} is still being copied from {source}");
        }
        assert_eq!(cluster.writable_hosts(*shard), [source.as_str()]);
    }
    assert_eq!(cluster.read_map(), before);
    assert_status_accurate(&cluster);

    // `resume` has no bandwidth flag here: the limit of the interrupted run still applies.
    let begin = Instant::now();
    cluster.project.run_dunlin(&["shards", "resume", "--yes"]).assert_status(0);
    let after = cluster.read_map();
    let moved = before.shards.iter().zip(&after.shards).filter(|(before, after)| before.host != after.host).count();
    assert!(moved >= stopped.len());
    let took = begin.elapsed().as_secs();
    assert!(took >= 2 * moved as u64, "{moved} shards of 2 MiB took {took} s at 1 MiB/s, with the comparison after it");
    cluster.assert_matches_map();
    writers.wait_for_writes(100);
    writers.assert_nothing_lost();
}

#[test]
fn interrupts_during_a_cutover_leave_one_primary_per_shard() {
    let Some(fleet) = lock_fleet() else { return };
    let mut cluster = TestCluster::without_replicas(&fleet);
    cluster.add_third_host();
    let writers = FleetWriters::start_writers(&cluster.published_map_path());
    let moments = [
        KillMoment::Noted("require_replicas", "intent"),
        KillMoment::Noted("demote_source", "intent"),
        KillMoment::Said("progress", "retire"),
    ];
    for (number, moment) in moments.into_iter().enumerate() {
        let flags: &[&str] = if number % 2 == 0 { &["--targets", "redis-03"] } else { &["--drain", "redis-03"] };
        // One after the other, so that something is left when the first of them switches.
        let flags = [flags, &["--max-concurrent-moves", "1"][..]].concat();
        let lines = RunningCommand::run_until(&cluster, moment, &flags).interrupt_run();
        let interrupted = find_event(&lines, "interrupted");
        let (moved, left) = (
            shard_ids(&interrupted["moved"]),
            [shard_ids(&interrupted["stopped"]), shard_ids(&interrupted["not_started"])].concat(),
        );
        assert!(!left.is_empty(), "{moment:?}: {lines:#?}");
        let planned = find_event(&lines, "plan")["moves"].as_array().unwrap().clone();
        assert_eq!(moved.len() + left.len(), planned.len(), "{moment:?}: {lines:#?}");
        let map = cluster.read_map();
        for step in &planned {
            let shard = u16::try_from(step["shard"].as_u64().unwrap()).unwrap();
            let at = step[if moved.contains(&shard) { "to" } else { "from" }].as_str().unwrap();
            assert_eq!(map.shards[usize::from(shard)].host, at, "{moment:?}: {interrupted}");
            assert_eq!(cluster.writable_hosts(shard), [at], "{moment:?}: {interrupted}");
        }
        assert_status_accurate(&cluster);
        cluster.project.run_dunlin(&["shards", "resume", "--yes"]).assert_status(0);
        cluster.assert_matches_map();
        writers.wait_for_writes(100);
        let acked = writers.assert_nothing_lost();
        eprintln!("{moment:?}: moved {moved:?}, left {left:?}; {acked} acknowledged");
    }
}

fn find_event(lines: &[Json], name: &str) -> Json {
    let found = lines.iter().find(|line| line["event"] == name);
    found.unwrap_or_else(|| panic!("no event {name} in {lines:#?}")).clone()
}

fn shard_ids(list: &Json) -> Vec<u16> {
    list.as_array().unwrap().iter().map(|id| u16::try_from(id.as_u64().unwrap()).unwrap()).collect()
}

/// Two megabytes in each shard that no compression makes smaller.
fn fill_incompressible(cluster: &TestCluster<'_>) {
    let mut value = Vec::new();
    File::open("/dev/urandom").unwrap().take(2 * MIB as u64).read_to_end(&mut value).unwrap();
    for entry in &cluster.read_map().shards {
        let mut connection = cluster.connect(&entry.host, entry.id.0, (&entry.id.acl_user(), APP_PASSWORD)).unwrap();
        let mut pipe = redis::pipe();
        for (number, part) in value.chunks(MIB / 8).enumerate() {
            pipe.set(format!("random:{number}"), part).ignore();
        }
        pipe.exec(&mut connection).unwrap();
    }
    assert_eq!(cluster.read_map().shards.len(), usize::from(SHARD_COUNT));
}
