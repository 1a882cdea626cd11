//! A move has handed its shard over, dunlin is killed before the map says so, and the source's host dies.

use dunlin_shards::Shard;

use crate::cluster::{InstanceRole, NOTHING_TO_RESUME, TestCluster};
use crate::hosts::{HOST_NAMES, lock_fleet};
use crate::messages;
use crate::timing::{KillMoment, RunningCommand};
use crate::writers::FleetWriters;

/// How often the moment may be missed.
const MAX_TRIES: usize = 8;

#[test]
fn completed_cutovers_of_dead_hosts_are_published() {
    let Some(fleet) = lock_fleet() else { return };
    let mut cluster = TestCluster::without_replicas(&fleet);
    cluster.add_third_host();
    let writers = FleetWriters::start_writers(&cluster.published_map_path());
    let entry = find_unpublished_shard(&cluster);
    let (shard, source) = (entry.id.0, HOST_NAMES.into_iter().find(|host| **host == *entry.host).unwrap());

    let off = fleet.power_off(source);
    // The agent was done with it. Had the host died a moment before, its role would still be to be made durable.
    let journal = format!("/var/lib/dunlin/moves/shard-{shard}.jsonl");
    assert!(fleet.run_as_root("redis-03", &format!("tail -n 1 {journal}; sed -i '$d' {journal}")).contains("finalize"));
    let plan = cluster.project.run_dunlin(&["shards", "failover", source, "--dry-run", "--json"]);
    let unresolved = plan.events("plan")[0]["unavailable_shards"].as_array().unwrap().clone();
    let reason = unresolved.iter().find(|unresolved| unresolved["shard"] == shard).unwrap()["reason"].to_string();
    messages::check("fleet-failover-of-a-moved-shard", [("reason", reason)]);
    let resumed = cluster.project.run_dunlin(&["shards", "resume", "--yes"]).assert_status(4);
    let resumed = resumed.with_placeholder(&format!("shard {shard}"), "shard [N]");
    let resumed =
        resumed.with_placeholder(&format!(":{}", 7000 + shard), ":[PORT]").with_placeholder(source, "[SOURCE]");
    resumed.assert_snapshot("fleet-resume-with-a-dead-source");
    assert_eq!(cluster.read_map().shards[usize::from(shard)].host, "redis-03");
    assert_eq!(cluster.writable_hosts(shard), ["redis-03"]);

    // The old instance comes back as a replica, which the map does not name, and goes.
    drop(off);
    writers.wait_for_writes(100);
    cluster.project.run_dunlin(&["shards", "resume", "--yes"]).assert_status(0);
    cluster.assert_matches_map();
    writers.assert_no_acked_write_lost();
    cluster.project.run_dunlin(&["provision", "--dry-run", "--detailed-exitcode"]).assert_status(0);
    cluster.project.run_dunlin(&NOTHING_TO_RESUME).assert_status(0);
}

/// A shard that has moved to redis-03 and is elsewhere by the map: dunlin was killed in the milliseconds between.
fn find_unpublished_shard(cluster: &TestCluster<'_>) -> Shard {
    let moved = |entry: &&Shard| {
        entry.host != "redis-03" && cluster.instance_role("redis-03", entry.id.0) == Some(InstanceRole::Master)
    };
    for _ in 0..MAX_TRIES {
        let before = cluster.read_map();
        let flags = ["--targets", "redis-03", "--max-moves", "1"];
        RunningCommand::run_until(cluster, KillMoment::Noted("demote_source", "intent"), &flags).kill_run();
        cluster.wait_for_agents_to_exit();
        if let (true, Some(shard)) = (cluster.read_map() == before, before.shards.iter().find(moved)) {
            return shard.clone();
        }
        cluster.project.run_dunlin(&["shards", "resume", "--yes"]).assert_status(0);
    }
    panic!("each of {MAX_TRIES} switches was published before the kill");
}
