//! dunlin is killed in the middle of a rebalance: the status tells the truth, and anybody can bring it to its end.

use std::collections::BTreeMap;
use std::time::Instant;

use dunlin_shards::ShardMap;
use serde_json::Value as Json;

use crate::cluster::{Cluster, REDIS, Role};
use crate::hosts::fleet;
use crate::moments::{Moment, Running};
use crate::writers::Writers;

const MOMENTS: [Moment; 10] = [
    Moment::Said("progress", "copy"),
    Moment::Noted("birth", "intent"),
    Moment::Noted("copy", "done"),
    Moment::Said("progress", "verify"),
    Moment::Noted("arm", "intent"),
    Moment::Noted("fence", "intent"),
    Moment::Noted("open", "intent"),
    Moment::Noted("settle", "done"),
    Moment::Said("progress", "publish"),
    Moment::Noted("retire", "intent"),
];

#[test]
fn killed_at_ten_moments_nothing_is_lost_and_resume_ends_it() {
    let Some(fleet) = fleet() else { return };
    let mut cluster = Cluster::new(&fleet);
    cluster.grow();
    let writers = Writers::start(&cluster.published());
    for (number, moment) in MOMENTS.into_iter().enumerate() {
        // There and back again.
        let wish: &[&str] = if number % 2 == 0 { &["--to", "redis-03"] } else { &["--drain", "redis-03"] };
        let begin = Instant::now();
        kill_at(&cluster, moment, wish);
        cluster.without_agents();
        status_tells_the_truth(&cluster);
        cluster.project.dunlin(&["shards", "resume", "--yes"]).ends(0);
        cluster.is_as_the_map_says();
        writers.write_on(100);
        let acked = writers.lost_nothing();
        eprintln!("{moment:?}: {:.1} s, {acked} acknowledged", begin.elapsed().as_secs_f64());
    }
    cluster.project.dunlin(&["provision", "--dry-run", "--detailed-exitcode"]).ends(0);
}

const MOMENTS_OF_REPLICAS: [Moment; 6] = [
    Moment::Noted("birth", "intent"),
    Moment::Noted("verify", "done"),
    Moment::Noted("open", "intent"),
    Moment::Said("progress", "publish"),
    Moment::Noted("settle", "done"),
    Moment::Noted("retire", "intent"),
];

#[test]
fn killed_while_replicas_move_nothing_is_lost_and_nothing_is_left_over() {
    let Some(fleet) = fleet() else { return };
    let mut cluster = Cluster::few_with_replicas(&fleet);
    cluster.grow();
    let writers = Writers::start(&cluster.published());
    for (number, moment) in MOMENTS_OF_REPLICAS.into_iter().enumerate() {
        let wish = ["--drain", if number % 2 == 0 { "redis-01" } else { "redis-03" }];
        kill_at(&cluster, moment, &wish);
        cluster.without_agents();
        nothing_is_untold(&cluster);
        cluster.project.dunlin(&["shards", "resume", "--yes"]).ends(0);
        cluster.is_as_the_map_says();
        writers.write_on(100);
        writers.lost_nothing();
    }
    let log = cluster.project.dunlin(&["shards", "log"]).ends(0);
    assert!(log.stdout.matches("replica made").count() >= usize::from(cluster.shards), "{}", log.stdout);
    // Taken back instead: where the shards' copies were, and nothing is left to resume.
    kill_at(&cluster, Moment::Noted("birth", "intent"), &["--drain", "redis-01"]);
    cluster.without_agents();
    cluster.project.dunlin(&["shards", "abort", "--yes"]).ends(0);
    cluster.is_as_the_map_says();
    cluster.project.dunlin(&["shards", "resume", "--yes"]).ends(0).says(&["nothing to resume"]);
    cluster.project.dunlin(&["provision", "--dry-run", "--detailed-exitcode"]).ends(0);

    // Ended by another operator, whose map does not know of any of it.
    let (other, before) = (cluster.project.copy(), cluster.map_text());
    kill_at(&cluster, Moment::Noted("retire", "done"), &["--drain", "redis-01"]);
    cluster.without_agents();
    other.dunlin(&["shards", "resume", "--yes"]).ends(0);
    let theirs = ShardMap::parse(&std::fs::read_to_string(other.path("inventory/shards.toml")).unwrap()).unwrap();
    other.dunlin(&["provision", "--dry-run", "--detailed-exitcode"]).ends(0);
    cluster.project.dunlin(&["shards", "resume", "--yes"]).ends(0);
    cluster.is_as_the_map_says();
    let places = |map: &ShardMap| map.shards.iter().map(dunlin_shards::Shard::placement).collect::<Vec<_>>();
    assert!(theirs.epoch <= cluster.map().epoch);
    assert_ne!(places(&theirs), places(&ShardMap::parse(&before).unwrap()), "theirs was brought up to date");
    writers.write_on(100);
    writers.lost_nothing();
}

/// Every instance that the map does not name belongs to a move that the status names as open, or is named as a stray.
fn nothing_is_untold(cluster: &Cluster<'_>) {
    let output = cluster.project.dunlin(&["shards", "status", "--json"]).ends(0);
    let lines: Vec<Json> = output.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let map = cluster.map();
    for ((shard, host), role) in cluster.roles() {
        let entry = &map.shards[usize::from(shard)];
        let named = entry.host == host || entry.replicas.iter().any(|replica| replica == host);
        let address = cluster.address(host, shard);
        let told = lines.iter().filter(|line| line["shard"] == shard).any(|line| match line["event"].as_str() {
            Some("move") => line["from"] == address.as_str() || line["to"] == address.as_str(),
            Some("stray") => line["host"] == host,
            _ => false,
        });
        assert!(named || told, "shard {shard} is {role:?} on {host}, not told: {}", output.stdout);
    }
}

#[test]
fn what_was_killed_is_taken_back_or_ended_from_another_machine() {
    let Some(fleet) = fleet() else { return };
    let mut cluster = Cluster::new(&fleet);
    cluster.grow();
    let writers = Writers::start(&cluster.published());
    let before = cluster.map();

    // Taken back: the copies are gone, those shards are where they were, and nothing is left to resume.
    kill_at(&cluster, Moment::Noted("birth", "intent"), &[]);
    cluster.without_agents();
    cluster.project.dunlin(&["shard-rebalance", "--yes"]).ends(3).complains(&["shards resume, or dunlin shards abort"]);
    let copying = told_moves(&cluster).into_iter().filter(|told| told["stand"] == "copying");
    let copying: Vec<usize> = copying.map(|told| told["shard"].as_u64().unwrap() as usize).collect();
    assert!(!copying.is_empty(), "all had switched before the kill");
    cluster.project.dunlin(&["shards", "abort", "--yes"]).ends(0);
    cluster.is_as_the_map_says();
    for shard in copying {
        assert_eq!(cluster.map().shards[shard].host, before.shards[shard].host, "shard {shard} was not taken back");
    }
    let before = cluster.map();
    cluster.project.dunlin(&["shards", "resume", "--yes"]).ends(0).says(&["nothing to resume"]);

    // Another operator has an older copy of the inventory, and nothing that the first one's dunlin kept.
    let other = cluster.project.copy();
    kill_at(&cluster, Moment::Noted("retire", "done"), &[]);
    cluster.without_agents();
    assert_ne!(cluster.map(), before, "an epoch was published before the kill");
    let refused = other.dunlin(&["shard-rebalance", "--yes"]).ends(3);
    refused.complains(&["next:"]);
    other.dunlin(&["shards", "resume", "--yes"]).ends(0);
    let theirs = ShardMap::parse(&std::fs::read_to_string(other.path("inventory/shards.toml")).unwrap()).unwrap();
    for entry in &theirs.shards {
        assert_eq!(cluster.writable(entry.id.0), [entry.host.as_str()], "shard {}", entry.id);
    }
    other.dunlin(&["provision", "--dry-run", "--detailed-exitcode"]).ends(0);
    // The first one's map is behind now: a provisioning by it is refused, and its resume brings it up to date.
    cluster.project.dunlin(&["shards", "resume", "--yes"]).ends(0);
    cluster.is_as_the_map_says();
    writers.write_on(100);
    writers.lost_nothing();
}

/// Begins a rebalance and kills dunlin as soon as the moment has come; nothing of it is left to the agents but what
/// they have begun.
fn kill_at(cluster: &Cluster<'_>, moment: Moment, wish: &[&str]) {
    Running::until(cluster, moment, wish).kill();
}

/// The open moves, as the status tells them.
fn told_moves(cluster: &Cluster<'_>) -> Vec<Json> {
    let output = cluster.project.dunlin(&["shards", "status", "--json"]).ends(0);
    let lines = output.stdout.lines().map(|line| serde_json::from_str::<Json>(line).unwrap());
    lines.filter(|line| line["event"] == "move").collect()
}

/// Every instance that is not where and what the map says belongs to a move that the status names as open, with the
/// roles that the instances themselves tell; and nothing else is open.
pub fn status_tells_the_truth(cluster: &Cluster<'_>) {
    let lines = told_moves(cluster);
    let (roles, map) = (cluster.roles(), cluster.map());
    let mut open = BTreeMap::new();
    for told in &lines {
        let shard = u16::try_from(told["shard"].as_u64().unwrap()).unwrap();
        for side in ["source", "target"] {
            let address = told[if side == "source" { "from" } else { "to" }].as_str().unwrap();
            let host = REDIS.into_iter().find(|host| cluster.address(host, shard) == address).unwrap();
            let is = match roles.get(&(shard, host)) {
                None => ("unreachable", None),
                Some(Role::Master) => ("master", None),
                Some(Role::Replica(of)) => ("replica", Some(of.as_str())),
            };
            assert_eq!((told[side]["role"].as_str().unwrap(), told[side]["of"].as_str()), is, "{side} of {told}");
            open.insert((shard, host), told.clone());
        }
        let owner = map.shards[usize::from(shard)].host.as_str();
        let serves = told["stand"] != "copying";
        let master = roles.iter().find(|((id, _), role)| *id == shard && **role == Role::Master).unwrap().0.1;
        assert_eq!(
            cluster.address(master, shard),
            told[if serves { "to" } else { "from" }].as_str().unwrap(),
            "{told}"
        );
        assert!(serves || master == owner, "{told}: {master} serves, the map says {owner}");
    }
    for ((shard, host), role) in &roles {
        let expected = map.shards[usize::from(*shard)].host == *host && *role == Role::Master;
        assert!(
            expected || open.contains_key(&(*shard, *host)),
            "shard {shard} is {role:?} on {host}, not told: {lines:#?}"
        );
    }
}
