//! Ctrl-C in the middle of a rebalance: a copy ends, a switch ends or is taken back, and the last lines say where each
//! shard is and what ends it.

use std::fs::File;
use std::io::Read;
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use crate::cluster::{APP, Cluster, SHARDS, TOLERANCE};
use crate::hosts::fleet;
use crate::kills::status_tells_the_truth;
use crate::moments::{Moment, Running};
use crate::writers::Writers;

const MIB: usize = 1 << 20;

#[test]
fn the_first_interrupt_ends_a_copy_and_what_is_left_keeps_its_cap() {
    let Some(fleet) = fleet() else { return };
    let mut cluster = Cluster::new(&fleet);
    cluster.grow();
    incompressible(&cluster);
    let writers = Writers::start(&cluster.published());
    let before = cluster.map();
    let wish = ["--tolerance", TOLERANCE, "--bandwidth", "1MiB"];
    let lines = Running::until(&cluster, Moment::Said("progress", "copy"), &wish).interrupt();
    let told = event(&lines, "interrupted");
    assert_eq!(told["moved"], Json::Array(Vec::new()), "{lines:#?}");
    let stopped: Vec<u16> = ids(&told["stopped"]);
    assert!(!stopped.is_empty(), "{lines:#?}");
    assert_eq!(event(&lines, "summary")["exit"], 130);
    for shard in &stopped {
        let source = &before.shards[usize::from(*shard)].host;
        let end = Instant::now() + Duration::from_secs(10);
        while cluster.replicas(source, *shard) > 0 {
            assert!(Instant::now() < end, "shard {shard} is still being copied from {source}");
        }
        assert_eq!(cluster.writable(*shard), [source.as_str()]);
    }
    assert_eq!(cluster.map(), before);
    status_tells_the_truth(&cluster);

    // A person sees the same; nothing was told now about a cap, and it is kept all the same.
    let begin = Instant::now();
    cluster.project.dunlin(&["shards", "resume", "--yes"]).ends(0);
    let after = cluster.map();
    let moved = before.shards.iter().zip(&after.shards).filter(|(before, after)| before.host != after.host).count();
    assert!(moved >= stopped.len());
    let took = begin.elapsed().as_secs();
    assert!(took >= 2 * moved as u64, "{moved} shards of 2 MiB took {took} s at 1 MiB/s, with the comparison after it");
    cluster.is_as_the_map_says();
    writers.write_on(100);
    writers.lost_nothing();
}

#[test]
fn an_interrupt_in_a_switch_leaves_every_shard_with_one_owner_and_says_which() {
    let Some(fleet) = fleet() else { return };
    let mut cluster = Cluster::new(&fleet);
    cluster.grow();
    let writers = Writers::start(&cluster.published());
    let moments =
        [Moment::Noted("arm", "intent"), Moment::Noted("fence", "intent"), Moment::Said("progress", "retire")];
    for (number, moment) in moments.into_iter().enumerate() {
        let wish: &[&str] = if number % 2 == 0 { &["--to", "redis-03"] } else { &["--drain", "redis-03"] };
        // One after the other, so that something is left when the first of them switches.
        let wish = [wish, &["--concurrent", "1"][..]].concat();
        let lines = Running::until(&cluster, moment, &wish).interrupt();
        let told = event(&lines, "interrupted");
        let (moved, left) = (ids(&told["moved"]), [ids(&told["stopped"]), ids(&told["not_begun"])].concat());
        assert!(!left.is_empty(), "{moment:?}: {lines:#?}");
        let planned = event(&lines, "plan")["moves"].as_array().unwrap().clone();
        assert_eq!(moved.len() + left.len(), planned.len(), "{moment:?}: {lines:#?}");
        let map = cluster.map();
        for step in &planned {
            let shard = u16::try_from(step["shard"].as_u64().unwrap()).unwrap();
            let at = step[if moved.contains(&shard) { "to" } else { "from" }].as_str().unwrap();
            assert_eq!(map.shards[usize::from(shard)].host, at, "{moment:?}: {told}");
            assert_eq!(cluster.writable(shard), [at], "{moment:?}: {told}");
        }
        status_tells_the_truth(&cluster);
        cluster.project.dunlin(&["shards", "resume", "--yes"]).ends(0);
        cluster.is_as_the_map_says();
        writers.write_on(100);
        let acked = writers.lost_nothing();
        eprintln!("{moment:?}: moved {moved:?}, left {left:?}; {acked} acknowledged");
    }
}

fn event(lines: &[Json], name: &str) -> Json {
    let found = lines.iter().find(|line| line["event"] == name);
    found.unwrap_or_else(|| panic!("no event {name} in {lines:#?}")).clone()
}

fn ids(list: &Json) -> Vec<u16> {
    list.as_array().unwrap().iter().map(|id| u16::try_from(id.as_u64().unwrap()).unwrap()).collect()
}

/// Two megabytes in each shard that no compression makes smaller.
fn incompressible(cluster: &Cluster<'_>) {
    let mut value = Vec::new();
    File::open("/dev/urandom").unwrap().take(2 * MIB as u64).read_to_end(&mut value).unwrap();
    for entry in &cluster.map().shards {
        let mut connection = cluster.connect(&entry.host, entry.id.0, (&entry.id.user(), APP)).unwrap();
        let mut pipe = redis::pipe();
        for (number, part) in value.chunks(MIB / 8).enumerate() {
            pipe.set(format!("random:{number}"), part).ignore();
        }
        pipe.exec(&mut connection).unwrap();
    }
    assert_eq!(cluster.map().shards.len(), usize::from(SHARDS));
}
