//! Primaries are restarted by moves while they are written to.

use crate::cluster::TestCluster;
use crate::hosts::lock_fleet;
use crate::writers::FleetWriters;

/// Returns `run_id` and `tcp-backlog` of each primary.
fn primary_states(cluster: &TestCluster<'_>) -> Vec<(String, String)> {
    let read_state = |entry: &dunlin_shards::Shard| {
        let mut admin = cluster.connect_admin(&entry.host, entry.id.0);
        let info: String = redis::cmd("INFO").arg("server").query(&mut admin).unwrap();
        let run_id = info.lines().find_map(|line| line.strip_prefix("run_id:")).unwrap().to_owned();
        let setting: Vec<String> = redis::cmd("CONFIG").arg("GET").arg("tcp-backlog").query(&mut admin).unwrap();
        (run_id, setting[1].clone())
    };
    cluster.read_map().shards.iter().map(read_state).collect()
}

#[test]
fn primaries_are_restarted_by_moves_and_lose_nothing() {
    let Some(fleet) = lock_fleet() else { return };
    let cluster = TestCluster::without_replicas(&fleet);
    let before = primary_states(&cluster);
    let template = cluster.project.file_path("templates/redis/shard.conf");
    let text = std::fs::read_to_string(&template).unwrap();
    std::fs::write(&template, text.replace("tcp-backlog 511", "tcp-backlog 400")).unwrap();

    // Provisioning writes the files and restarts nothing.
    let writers = FleetWriters::start_writers(&cluster.published_map_path());
    let shown = cluster.project.run_dunlin(&["provision", "--dry-run", "--detailed-exitcode"]).assert_status(2);
    shown.assert_snapshot("fleet-provision-setting-that-needs-a-restart");
    cluster.project.run_dunlin(&["provision", "--yes", "--quiet"]).assert_status(0);
    assert_eq!(primary_states(&cluster), before);
    let pending = cluster.project.run_dunlin(&["provision", "--dry-run", "--detailed-exitcode"]).assert_status(0);
    pending.assert_snapshot("fleet-provision-restart-required");

    let map = cluster.read_map();
    cluster.project.run_dunlin(&["shards", "restart", "redis-09", "--dry-run"]).assert_status(64);
    let on_host = |host: &str| map.shards.iter().filter(|entry| entry.host == host).count();
    for host in ["redis-01", "redis-02"] {
        let plan = ["shards", "restart", host, "--dry-run", "--detailed-exitcode"];
        let shown = cluster.project.run_dunlin(&plan).assert_status(2);
        assert_eq!(shown.stdout.matches(" → ").count(), 2 * on_host(host), "{}", shown.stdout);
        cluster.project.run_dunlin(&["shards", "restart", host, "--yes"]).assert_status(0);
    }
    let after = primary_states(&cluster);
    for ((old, _), (new, setting)) in before.iter().zip(&after) {
        assert!(old != new && setting == "400", "{before:?} {after:?}");
    }
    let places = |map: &dunlin_shards::ShardMap| map.shards.iter().map(|entry| entry.host.clone()).collect::<Vec<_>>();
    assert_eq!(places(&cluster.read_map()), places(&map), "every shard is back");
    writers.wait_for_writes(200);
    writers.assert_nothing_lost();
    let done = cluster.project.run_dunlin(&["provision", "--dry-run", "--detailed-exitcode"]).assert_status(0);
    assert!(!done.stdout.contains("restart-required"), "{}", done.stdout);
    cluster.assert_converged();
}
