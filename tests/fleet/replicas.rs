//! Shards with replicas in another zone: provisioned, moved under writers, taken away and given back.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use dunlin_shards::map::edit::set_placements;
use dunlin_shards::{ShardId, ShardPlacement};
use serde_json::{Value as Json, json};

use crate::cluster::{NOTHING_TO_REPAIR, NOTHING_TO_RESUME, REDIS_HOSTS, SHARD_COUNT, TestCluster};
use crate::hosts::lock_fleet;
use crate::messages;
use crate::output::CommandOutput;
use crate::writers::FleetWriters;

/// How long something that is bound to come may take.
const REPLICA_TIMEOUT: Duration = Duration::from_secs(30);
const DRAIN_ARGS: [&str; 3] = ["shard-rebalance", "--drain", "redis-01"];

/// Waits until `shards status` has nothing to say against any replica; returns how many there are.
#[track_caller]
pub fn assert_healthy(cluster: &TestCluster<'_>) -> u64 {
    let end = Instant::now() + REPLICA_TIMEOUT;
    loop {
        let said = cluster.project.run_dunlin(&["shards", "status", "--json"]).assert_status(0);
        let lines = said.stdout.lines().map(|line| serde_json::from_str::<Json>(line).unwrap());
        let status = lines.into_iter().find(|line| line["event"] == "status").unwrap();
        let (there, good) = (status["replicas"].as_u64().unwrap(), status["replicas_in_sync"].as_u64().unwrap());
        if there == good {
            return there;
        }
        assert!(Instant::now() < end, "{}", said.stdout);
    }
}

/// A setting of an instance, and what its file says of it.
fn config_value(cluster: &TestCluster<'_>, host: &str, shard: u16, name: &str) -> (String, Option<String>) {
    let pair: Vec<String> =
        redis::cmd("CONFIG").arg("GET").arg(name).query(&mut cluster.connect_admin(host, shard)).unwrap();
    let file = cluster.fleet.read_file(host, &format!("/etc/redis/shard-{shard}/redis.conf")).unwrap();
    let line = file.lines().rev().find_map(|line| line.strip_prefix(name)).map(|rest| rest.trim().to_owned());
    (pair[1].clone(), line)
}

/// Every primary needs its replica, in memory and after a restart.
#[track_caller]
fn assert_min_replicas(cluster: &TestCluster<'_>) {
    for entry in &cluster.read_map().shards {
        let needs = config_value(cluster, &entry.host, entry.id.0, "min-replicas-to-write");
        assert_eq!(needs, ("1".to_owned(), Some("1".to_owned())), "shard {} on {}", entry.id, entry.host);
    }
}

/// The map by hand: the replicas of one shard.
fn edit_map(cluster: &TestCluster<'_>, shard: u16, replicas: &[&str]) {
    let map = cluster.read_map();
    let place = ShardPlacement {
        replicas: replicas.iter().map(|host| (*host).to_owned()).collect(),
        ..map.find_shard(ShardId(shard)).unwrap().placement()
    };
    let text = set_placements(&cluster.map_text(), &[place], map.epoch.next()).unwrap();
    std::fs::write(cluster.project.file_path("inventory/shards.toml"), text).unwrap();
}

/// Returns the primaries whose setting differs: shard, actual and expected value.
fn min_replicas_mismatches(status: &CommandOutput) -> Vec<(u64, u64, u64)> {
    let number = |event: &Json, key: &str| event[key].as_u64().unwrap();
    let mismatches = status.events("min_replicas_mismatch").into_iter();
    mismatches.map(|event| (number(&event, "shard"), number(&event, "actual"), number(&event, "expected"))).collect()
}

#[test]
fn replicas_are_created_in_another_zone_and_move_with_their_primaries() {
    let Some(fleet) = lock_fleet() else { return };
    let mut cluster = TestCluster::with_replicas(&fleet);
    cluster.project.run_dunlin(&["provision", "--dry-run", "--detailed-exitcode"]).assert_status(0);
    assert_eq!(assert_healthy(&cluster), u64::from(SHARD_COUNT));
    cluster.assert_matches_map();
    assert_min_replicas(&cluster);
    for (host, shard) in [("redis-02", 0), ("redis-01", SHARD_COUNT - 1)] {
        let info: String =
            redis::cmd("INFO").arg("persistence").query(&mut cluster.connect_admin(host, shard)).unwrap();
        assert!(info.contains("aof_enabled:1") && info.contains("aof_last_write_status:ok"), "{info}");
    }

    // All that is on redis-01, primaries and replicas, goes to the other host of its zone.
    let writers = FleetWriters::start_writers(&cluster.published_map_path());
    cluster.add_third_host();
    let before = cluster.read_map();
    let plan = cluster.project.run_dunlin(&[&DRAIN_ARGS[..], &["--dry-run", "--json"]].concat()).assert_status(0);
    let moves = plan.events("plan")[0]["moves"].as_array().unwrap().clone();
    let reasons: BTreeSet<(&str, &str)> =
        moves.iter().map(|step| (step["role"].as_str().unwrap(), step["reason"].as_str().unwrap())).collect();
    messages::check("fleet-reasons-of-a-drain", reasons);
    let done = cluster.project.run_dunlin(&[&DRAIN_ARGS[..], &["--yes", "--json"]].concat()).assert_status(0);
    assert_eq!(done.events("moved").len(), usize::from(SHARD_COUNT), "{}", done.stdout);
    for (before, after) in before.shards.iter().zip(&cluster.read_map().shards) {
        let moved = |host: &String| if host == "redis-01" { "redis-03".to_owned() } else { host.clone() };
        let wanted: Vec<String> = before.replicas.iter().map(moved).collect();
        assert_eq!((&after.host, &after.replicas), (&moved(&before.host), &wanted), "shard {}", after.id);
    }
    writers.wait_for_writes(500);
    writers.assert_nothing_lost();
    cluster.assert_matches_map();
    assert_min_replicas(&cluster);
    assert_eq!(assert_healthy(&cluster), u64::from(SHARD_COUNT));
    let verified = cluster.project.run_dunlin(&["shards", "verify"]).assert_status(0);
    assert_eq!(verified.stdout.matches(" are equal: ").count(), usize::from(SHARD_COUNT), "{}", verified.stdout);
    cluster.project.run_dunlin(&["provision", "--dry-run", "--detailed-exitcode"]).assert_status(0);
    cluster.project.run_dunlin(&[&DRAIN_ARGS[..], &["--dry-run", "--detailed-exitcode"]].concat()).assert_status(0);
    cluster.project.run_dunlin(&NOTHING_TO_RESUME).assert_status(0);
}

#[test]
fn replicas_can_be_removed_and_added_by_editing_the_map() {
    let Some(fleet) = lock_fleet() else { return };
    let cluster = TestCluster::with_replicas(&fleet);
    assert_healthy(&cluster);
    let writers = FleetWriters::start_writers(&cluster.published_map_path());

    // Provisioning brings the map out, and touches no instance; status names what the map does not.
    edit_map(&cluster, 0, &[]);
    cluster.project.run_dunlin(&["provision", "--yes"]).assert_status(0);
    let status = cluster.project.run_dunlin(&["shards", "status", "--json"]).assert_status(0);
    let orphan = &status.events("orphan_instance")[0];
    assert_eq!(
        (&orphan["shard"], &orphan["host"], &orphan["follows_primary"]),
        (&json!(0), &json!("redis-02"), &json!(true))
    );
    assert_eq!(min_replicas_mismatches(&status), [(0, 1, 0)]);
    cluster.project.run_dunlin(&["shards", "repair", "--yes"]).assert_status(0);
    cluster.assert_matches_map();
    cluster.project.run_dunlin(&NOTHING_TO_REPAIR).assert_status(0);
    writers.wait_for_writes(100);

    // And back: made by provisioning, needed by its primary once it is there.
    edit_map(&cluster, 0, &["redis-02"]);
    let provision = cluster.project.run_dunlin(&["provision", "--yes", "--json"]).assert_status(0);
    let added: Vec<Json> = provision.events("plan").into_iter().filter(|row| row["action"] == "add").collect();
    assert_eq!(
        added.iter().map(|row| (&row["host"], &row["resource"])).collect::<Vec<_>>(),
        [(&json!("redis-02"), &json!("redis_shard 0"))]
    );
    cluster.project.run_dunlin(&["provision", "--dry-run", "--detailed-exitcode"]).assert_status(0);
    assert_eq!(assert_healthy(&cluster), u64::from(SHARD_COUNT));
    let status = cluster.project.run_dunlin(&["shards", "status", "--json"]).assert_status(0);
    assert_eq!(min_replicas_mismatches(&status), [(0, 0, 1)]);
    cluster.project.run_dunlin(&["shards", "repair", "--yes"]).assert_status(0);
    assert_min_replicas(&cluster);
    cluster.assert_matches_map();
    cluster.project.run_dunlin(&["provision", "--dry-run", "--detailed-exitcode"]).assert_status(0);
    writers.wait_for_writes(100);
    writers.assert_nothing_lost();

    // A replica that is down is reported; its primary refuses writes until it is back, and no move starts meanwhile.
    fleet.run_as_root("redis-02", "systemctl stop redis-shard@0");
    let status = cluster.project.run_dunlin(&["shards", "status", "--json"]).assert_status(0);
    let replicas = status.events("replica");
    let replica = replicas.iter().find(|replica| replica["shard"] == 0).unwrap();
    assert_eq!((&replica["host"], &replica["state"]), (&json!("redis-02"), &json!("missing")), "{replica}");
    assert_eq!(cluster.writable_hosts(0), [] as [&str; 0]);
    fleet.run_as_root("redis-02", "systemctl start redis-shard@0");
    let end = Instant::now() + REPLICA_TIMEOUT;
    while cluster.writable_hosts(0) != [REDIS_HOSTS[0]] {
        assert!(Instant::now() < end, "its primary does not accept writes again");
    }
    assert_eq!(assert_healthy(&cluster), u64::from(SHARD_COUNT));
}

#[test]
fn replicas_are_created_while_their_primary_waits_for_a_restart() {
    let Some(fleet) = lock_fleet() else { return };
    let cluster = TestCluster::with_replicas(&fleet);
    assert_eq!(assert_healthy(&cluster), u64::from(SHARD_COUNT));
    // Clients depend on this setting: a copy whose file has another value than its source is refused.
    let template = cluster.project.file_path("templates/redis/shard.conf");
    let text = std::fs::read_to_string(&template).unwrap();
    std::fs::write(&template, format!("{text}\nnotify-keyspace-events Kx\n")).unwrap();
    edit_map(&cluster, 0, &[]);
    let map = cluster.map_text().replacen("epoch", "replicas = 1\nepoch", 1);
    std::fs::write(cluster.project.file_path("inventory/shards.toml"), map).unwrap();
    cluster.project.run_dunlin(&["provision", "--yes"]).assert_status(0);
    let primary_setting = || config_value(&cluster, REDIS_HOSTS[0], 0, "notify-keyspace-events");
    assert_eq!(primary_setting(), (String::new(), Some("Kx".to_owned())), "it waits for a restart");

    // The old replica is retired first, which the map does not name any more.
    cluster.project.run_dunlin(&["shards", "repair", "--yes"]).assert_status(0);
    cluster.project.run_dunlin(&["shards", "repair", "--yes"]).assert_status(0);
    assert_eq!(assert_healthy(&cluster), u64::from(SHARD_COUNT));
    assert_eq!(primary_setting().0, "", "the primary was not restarted");
    let replica = cluster.read_map().find_shard(ShardId(0)).unwrap().replicas[0].clone();
    // Redis lists the flags in an order of its own.
    assert_eq!(config_value(&cluster, &replica, 0, "notify-keyspace-events").0.len(), 2);
}
