//! dunlin is killed in the middle of a rebalance: the status is right, and any operator can finish the rebalance.

use std::collections::BTreeMap;
use std::time::Instant;

use dunlin_shards::ShardMap;
use serde_json::{Value as Json, json};

use crate::cluster::{InstanceRole, NOTHING_TO_RESUME, REDIS_HOSTS, TestCluster};
use crate::hosts::lock_fleet;
use crate::timing::{KillMoment, RunningCommand};
use crate::writers::FleetWriters;

const MOVE_MOMENTS: [KillMoment; 10] = [
    KillMoment::Said("progress", "copy"),
    KillMoment::Noted("start_replica", "intent"),
    KillMoment::Noted("copy", "done"),
    KillMoment::Said("progress", "verify"),
    KillMoment::Noted("require_replicas", "intent"),
    KillMoment::Noted("demote_source", "intent"),
    KillMoment::Noted("open_target", "intent"),
    KillMoment::Noted("finalize", "done"),
    KillMoment::Said("progress", "publish"),
    KillMoment::Noted("retire", "intent"),
];

#[test]
fn crashes_during_moves_lose_nothing_and_resume_finishes() {
    let Some(fleet) = lock_fleet() else { return };
    let mut cluster = TestCluster::without_replicas(&fleet);
    cluster.add_third_host();
    let writers = FleetWriters::start_writers(&cluster.published_map_path());
    for (number, moment) in MOVE_MOMENTS.into_iter().enumerate() {
        // There and back again.
        let flags: &[&str] = if number % 2 == 0 { &["--targets", "redis-03"] } else { &["--drain", "redis-03"] };
        let begin = Instant::now();
        kill_at(&cluster, moment, flags);
        cluster.wait_for_agents_to_exit();
        assert_status_accurate(&cluster);
        resume_as_shown(&cluster);
        cluster.assert_matches_map();
        writers.wait_for_writes(100);
        let acked = writers.assert_nothing_lost();
        eprintln!("{moment:?}: {:.1} s, {acked} acknowledged", begin.elapsed().as_secs_f64());
    }
    cluster.project.run_dunlin(&["provision", "--dry-run", "--detailed-exitcode"]).assert_status(0);
}

const REPLICA_MOMENTS: [KillMoment; 6] = [
    KillMoment::Noted("start_replica", "intent"),
    KillMoment::Noted("verify", "done"),
    KillMoment::Noted("open_target", "intent"),
    KillMoment::Said("progress", "publish"),
    KillMoment::Noted("finalize", "done"),
    KillMoment::Noted("retire", "intent"),
];

#[test]
fn crashes_during_replica_moves_lose_and_leave_nothing() {
    let Some(fleet) = lock_fleet() else { return };
    let mut cluster = TestCluster::small_with_replicas(&fleet);
    cluster.add_third_host();
    let writers = FleetWriters::start_writers(&cluster.published_map_path());
    for (number, moment) in REPLICA_MOMENTS.into_iter().enumerate() {
        let flags = ["--drain", if number % 2 == 0 { "redis-01" } else { "redis-03" }];
        kill_at(&cluster, moment, &flags);
        cluster.wait_for_agents_to_exit();
        assert_all_moves_reported(&cluster);
        resume_as_shown(&cluster);
        // The replica that was replaced is retired here if dunlin was killed before that.
        cluster.project.run_dunlin(&["shards", "repair", "--yes"]).assert_status(0);
        cluster.assert_matches_map();
        writers.wait_for_writes(100);
        writers.assert_nothing_lost();
    }
    let log = cluster.project.run_dunlin(&["shards", "history"]).assert_status(0);
    assert!(log.stdout.matches("replica created").count() >= usize::from(cluster.shards), "{}", log.stdout);
    // Aborted instead: where the shards' copies were, and nothing is left to resume.
    kill_at(&cluster, KillMoment::Noted("start_replica", "intent"), &["--drain", "redis-01"]);
    cluster.wait_for_agents_to_exit();
    let before = cluster.map_text();
    cluster.project.run_dunlin(&["shards", "abort", "--dry-run", "--detailed-exitcode"]).assert_status(2);
    assert_eq!(cluster.map_text(), before, "a dry run changes nothing");
    cluster.project.run_dunlin(&["shards", "abort", "--yes"]).assert_status(0);
    cluster.project.run_dunlin(&["shards", "abort", "--dry-run", "--detailed-exitcode"]).assert_status(0);
    cluster.assert_matches_map();
    cluster.project.run_dunlin(&NOTHING_TO_RESUME).assert_status(0);
    cluster.project.run_dunlin(&["provision", "--dry-run", "--detailed-exitcode"]).assert_status(0);

    // Ended by another operator, whose map does not know of any of it.
    let (other, before) = (cluster.project.clone_project(), cluster.map_text());
    kill_at(&cluster, KillMoment::Noted("retire", "done"), &["--drain", "redis-01"]);
    cluster.wait_for_agents_to_exit();
    other.run_dunlin(&["shards", "resume", "--yes"]).assert_status(0);
    let theirs = ShardMap::parse(&std::fs::read_to_string(other.file_path("inventory/shards.toml")).unwrap()).unwrap();
    other.run_dunlin(&["provision", "--dry-run", "--detailed-exitcode"]).assert_status(0);
    cluster.project.run_dunlin(&["shards", "resume", "--yes"]).assert_status(0);
    cluster.assert_matches_map();
    let places = |map: &ShardMap| map.shards.iter().map(dunlin_shards::Shard::placement).collect::<Vec<_>>();
    assert!(theirs.epoch <= cluster.read_map().epoch);
    assert_ne!(places(&theirs), places(&ShardMap::parse(&before).unwrap()), "theirs was brought up to date");
    writers.wait_for_writes(100);
    writers.assert_nothing_lost();
}

/// Finishes the moves. The dry run before names every shard whose placement changes, and the one after names none.
fn resume_as_shown(cluster: &TestCluster<'_>) {
    let dry_run = ["shards", "resume", "--dry-run", "--detailed-exitcode", "--json"];
    let (text, before) = (cluster.map_text(), cluster.read_map());
    let output = cluster.project.run_dunlin(&dry_run);
    assert_eq!(cluster.map_text(), text, "a dry run changes nothing");
    let events = output.stdout.lines().map(|line| serde_json::from_str::<Json>(line).unwrap());
    let shown: Vec<u64> = events
        .filter(|event| event["event"] == "move_action" || event["event"] == "planned_move")
        .map(|event| event["shard"].as_u64().unwrap())
        .collect();
    // A run that was killed while it published may have finished its last move: then nothing is shown.
    output.assert_status(if shown.is_empty() { 0 } else { 2 });
    cluster.project.run_dunlin(&["shards", "resume", "--yes"]).assert_status(0);
    for (shard, old) in cluster.read_map().shards.iter().zip(&before.shards) {
        let is_unchanged = shard.placement() == old.placement();
        assert!(is_unchanged || shown.contains(&u64::from(shard.id.0)), "shard {} moves unseen: {shown:?}", shard.id);
    }
    cluster.project.run_dunlin(&dry_run).assert_status(0);
}

/// Every instance that the map does not name belongs to a move that the status names as open, or is named as a stray.
fn assert_all_moves_reported(cluster: &TestCluster<'_>) {
    let output = cluster.project.run_dunlin(&["shards", "status", "--json"]).assert_status(0);
    let lines: Vec<Json> = output.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let map = cluster.read_map();
    for ((shard, host), role) in cluster.all_roles() {
        let entry = &map.shards[usize::from(shard)];
        let named = entry.host == host || entry.replicas.iter().any(|replica| replica == host);
        let address = cluster.address(host, shard);
        let reported = lines.iter().filter(|line| line["shard"] == shard).any(|line| match line["event"].as_str() {
            Some("move") => line["from"] == address.as_str() || line["to"] == address.as_str(),
            Some("orphan_instance") => line["host"] == host,
            _ => false,
        });
        assert!(named || reported, "shard {shard} is {role:?} on {host}, not reported: {}", output.stdout);
    }
}

#[test]
fn interrupted_runs_can_be_finished_from_another_machine() {
    let Some(fleet) = lock_fleet() else { return };
    let mut cluster = TestCluster::without_replicas(&fleet);
    cluster.add_third_host();
    let writers = FleetWriters::start_writers(&cluster.published_map_path());
    let before = cluster.read_map();

    // Taken back: the copies are gone, those shards are where they were, and nothing is left to resume.
    kill_at(&cluster, KillMoment::Noted("start_replica", "intent"), &[]);
    cluster.wait_for_agents_to_exit();
    let refused = cluster.project.run_dunlin(&["shard-rebalance", "--yes", "--json"]).assert_status(3);
    let next = json!(["dunlin shards status", "dunlin shards resume, or dunlin shards abort"]);
    assert_eq!(refused.events("error")[0]["next"], next);
    let copying = reported_moves(&cluster).into_iter().filter(|reported| reported["status"] == "copying");
    let copying: Vec<usize> = copying.map(|reported| reported["shard"].as_u64().unwrap() as usize).collect();
    assert!(!copying.is_empty(), "all had switched before the kill");
    cluster.project.run_dunlin(&["shards", "abort", "--yes"]).assert_status(0);
    cluster.assert_matches_map();
    for shard in copying {
        assert_eq!(
            cluster.read_map().shards[shard].host,
            before.shards[shard].host,
            "shard {shard} was not taken back"
        );
    }
    let before = cluster.read_map();
    cluster.project.run_dunlin(&NOTHING_TO_RESUME).assert_status(0);

    // Another operator has an older copy of the inventory, and nothing that the first one's dunlin kept.
    let other = cluster.project.clone_project();
    kill_at(&cluster, KillMoment::Noted("retire", "done"), &[]);
    cluster.wait_for_agents_to_exit();
    assert_ne!(cluster.read_map(), before, "an epoch was published before the kill");
    let refused = other.run_dunlin(&["shard-rebalance", "--yes", "--json"]).assert_status(3);
    assert_ne!(refused.events("error")[0]["next"], json!([]), "{}", refused.stdout);
    other.run_dunlin(&["shards", "resume", "--yes"]).assert_status(0);
    let theirs = ShardMap::parse(&std::fs::read_to_string(other.file_path("inventory/shards.toml")).unwrap()).unwrap();
    for entry in &theirs.shards {
        assert_eq!(cluster.writable_hosts(entry.id.0), [entry.host.as_str()], "shard {}", entry.id);
    }
    other.run_dunlin(&["provision", "--dry-run", "--detailed-exitcode"]).assert_status(0);
    // The first one's map is behind now: a provisioning by it is refused, and its resume brings it up to date.
    cluster.project.run_dunlin(&["shards", "resume", "--yes"]).assert_status(0);
    cluster.assert_matches_map();
    writers.wait_for_writes(100);
    writers.assert_nothing_lost();
}

/// Begins a rebalance and kills dunlin as soon as the moment has come; nothing of it is left to the agents but what
/// they have begun.
fn kill_at(cluster: &TestCluster<'_>, moment: KillMoment, flags: &[&str]) {
    RunningCommand::run_until(cluster, moment, flags).kill_run();
}

/// Returns the open moves as `shards status` reports them.
fn reported_moves(cluster: &TestCluster<'_>) -> Vec<Json> {
    let output = cluster.project.run_dunlin(&["shards", "status", "--json"]).assert_status(0);
    let lines = output.stdout.lines().map(|line| serde_json::from_str::<Json>(line).unwrap());
    lines.filter(|line| line["event"] == "move").collect()
}

/// Every instance that is not where and what the map says belongs to a move that the status names as open, with the
/// roles that the instances themselves report; and nothing else is open.
pub fn assert_status_accurate(cluster: &TestCluster<'_>) {
    let lines = reported_moves(cluster);
    let (roles, map) = (cluster.all_roles(), cluster.read_map());
    let mut open = BTreeMap::new();
    for reported in &lines {
        let shard = u16::try_from(reported["shard"].as_u64().unwrap()).unwrap();
        for side in ["source", "target"] {
            let address = reported[if side == "source" { "from" } else { "to" }].as_str().unwrap();
            let host = REDIS_HOSTS.into_iter().find(|host| cluster.address(host, shard) == address).unwrap();
            let is = match roles.get(&(shard, host)) {
                None => ("unreachable", None),
                Some(InstanceRole::Master) => ("primary", None),
                Some(InstanceRole::Replica(of)) => ("replica", Some(of.as_str())),
            };
            assert_eq!(
                (reported[side]["role"].as_str().unwrap(), reported[side]["primary"].as_str()),
                is,
                "{side} of {reported}"
            );
            open.insert((shard, host), reported.clone());
        }
        let owner = map.shards[usize::from(shard)].host.as_str();
        let serves = reported["status"] != "copying";
        let master = roles.iter().find(|((id, _), role)| *id == shard && **role == InstanceRole::Master).unwrap().0.1;
        assert_eq!(
            cluster.address(master, shard),
            reported[if serves { "to" } else { "from" }].as_str().unwrap(),
            "{reported}"
        );
        assert!(serves || master == owner, "{reported}: {master} serves, the map says {owner}");
    }
    for ((shard, host), role) in &roles {
        let expected = map.shards[usize::from(*shard)].host == *host && *role == InstanceRole::Master;
        assert!(
            expected || open.contains_key(&(*shard, *host)),
            "shard {shard} is {role:?} on {host}, not reported: {lines:#?}"
        );
    }
}
