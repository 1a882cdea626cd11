//! Both copies of each shard have to move: one after the other, under writers.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use crate::cluster::{NOTHING_TO_RESUME, REDIS_HOSTS, TestCluster};
use crate::hosts::lock_fleet;
use crate::replicas::assert_healthy;
use crate::writers::FleetWriters;

/// The hosts that both copies go to: one in each zone.
const NEW_HOSTS: [&str; 2] = ["redis-03", "app-01"];
const DRAIN_ARGS: [&str; 5] = ["shard-rebalance", "--drain", "redis-01", "--drain", "redis-02"];

#[test]
fn primary_and_replica_of_a_shard_move_one_after_the_other() {
    let Some(fleet) = lock_fleet() else { return };
    let mut cluster = TestCluster::small_with_replicas(&fleet);
    cluster.project.host_table("app-01").insert("memory".to_owned(), "1GiB".into());
    cluster.project.host_table("app-01").insert("zone".to_owned(), "b".into());
    cluster.add_hosts(&[&REDIS_HOSTS[..], &["app-01"]].concat());
    let writers = FleetWriters::start_writers(&cluster.published_map_path());
    let done = cluster.project.run_dunlin(&[&DRAIN_ARGS[..], &["--yes", "--json"]].concat()).assert_status(0);

    // Planned: each shard twice, in two waves.
    let lines: Vec<Json> = done.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let plan = lines.iter().find(|line| line["event"] == "plan").unwrap();
    let mut waves: BTreeMap<u64, Vec<(u64, &str)>> = BTreeMap::new();
    for step in plan["moves"].as_array().unwrap() {
        let when = (step["wave"].as_u64().unwrap(), step["role"].as_str().unwrap());
        waves.entry(step["shard"].as_u64().unwrap()).or_default().push(when);
    }
    assert_eq!(waves.len(), usize::from(cluster.shards), "{plan:#}");
    for (shard, steps) in &waves {
        let [(one, first), (other, second)] = steps[..] else { panic!("shard {shard}: {steps:?}") };
        assert!(one != other && first != second, "shard {shard}: {steps:?}");
    }
    assert_moves_do_not_overlap(&cluster);

    let map = cluster.read_map();
    assert!(
        map.shards.iter().all(|entry| NEW_HOSTS.contains(&entry.host.as_str())
            && entry.replicas.iter().all(|host| NEW_HOSTS.contains(&host.as_str()) && *host != entry.host)),
        "{map:?}"
    );
    cluster.assert_matches_map();
    assert_eq!(assert_healthy(&cluster), u64::from(cluster.shards));
    writers.wait_for_writes(300);
    writers.assert_nothing_lost();
    cluster.project.run_dunlin(&NOTHING_TO_RESUME).assert_status(0);
    cluster.project.run_dunlin(&["provision", "--dry-run", "--detailed-exitcode"]).assert_status(0);
    cluster.project.run_dunlin(&[&DRAIN_ARGS[..], &["--dry-run", "--detailed-exitcode"]].concat()).assert_status(0);
}

/// By the journals of the new hosts: of each shard, the second copy was begun when the first one was done.
fn assert_moves_do_not_overlap(cluster: &TestCluster<'_>) {
    let journals = NEW_HOSTS.map(|host| cluster.read_journals(host));
    for shard in 0..cluster.shards {
        let mut spans: Vec<(&str, &str)> = journals.iter().map(|journal| move_interval(&journal[&shard])).collect();
        spans.sort_unstable();
        let [(_, first_ended), (second_begun, _)] = spans[..] else { panic!("{spans:?}") };
        assert!(first_ended <= second_begun, "shard {shard}: {spans:?}");
    }
}

/// When the first and the last record were made; texts of one length, which sort as the times do.
fn move_interval<'r>(records: &'r [Json]) -> (&'r str, &'r str) {
    let at = |record: Option<&'r Json>| record.unwrap()["recorded_at"].as_str().unwrap();
    (at(records.first()), at(records.last()))
}
