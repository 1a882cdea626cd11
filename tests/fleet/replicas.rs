//! Shards with replicas in another zone: provisioned, moved under writers, taken away and given back.

use std::time::{Duration, Instant};

use dunlin_shards::map::edit::place_shards;
use dunlin_shards::{Placement, ShardId};
use serde_json::Value as Json;

use crate::cluster::{Cluster, REDIS, SHARDS};
use crate::hosts::fleet;
use crate::writers::Writers;

/// How long something that is bound to come may take.
const PATIENCE: Duration = Duration::from_secs(30);
const DRAIN: [&str; 3] = ["shard-rebalance", "--drain", "redis-01"];

/// Waits until `shards status` has nothing to say against any replica; returns how many there are.
#[track_caller]
pub fn all_good(cluster: &Cluster<'_>) -> u64 {
    let end = Instant::now() + PATIENCE;
    loop {
        let said = cluster.project.dunlin(&["shards", "status", "--json"]).ends(0);
        let lines = said.stdout.lines().map(|line| serde_json::from_str::<Json>(line).unwrap());
        let status = lines.into_iter().find(|line| line["event"] == "status").unwrap();
        let (there, good) = (status["replicas"].as_u64().unwrap(), status["replicas_good"].as_u64().unwrap());
        if there == good {
            return there;
        }
        assert!(Instant::now() < end, "{}", said.stdout);
    }
}

/// A setting of an instance, and what its file says of it.
fn setting(cluster: &Cluster<'_>, host: &str, shard: u16, name: &str) -> (String, Option<String>) {
    let pair: Vec<String> = redis::cmd("CONFIG").arg("GET").arg(name).query(&mut cluster.admin(host, shard)).unwrap();
    let file = cluster.fleet.file(host, &format!("/etc/redis/shard-{shard}.conf")).unwrap();
    let line = file.lines().rev().find_map(|line| line.strip_prefix(name)).map(|rest| rest.trim().to_owned());
    (pair[1].clone(), line)
}

/// Every primary needs its replica, in memory and after a restart.
#[track_caller]
fn primaries_need_their_replicas(cluster: &Cluster<'_>) {
    for entry in &cluster.map().shards {
        let needs = setting(cluster, &entry.host, entry.id.0, "min-replicas-to-write");
        assert_eq!(needs, ("1".to_owned(), Some("1".to_owned())), "shard {} on {}", entry.id, entry.host);
    }
}

/// The map by hand: the replicas of one shard.
fn author(cluster: &Cluster<'_>, shard: u16, replicas: &[&str]) {
    let map = cluster.map();
    let place = Placement {
        replicas: replicas.iter().map(|host| (*host).to_owned()).collect(),
        ..map.shard(ShardId(shard)).unwrap().placement()
    };
    let text = place_shards(&cluster.map_text(), &[place], map.epoch.next()).unwrap();
    std::fs::write(cluster.project.path("inventory/shards.toml"), text).unwrap();
}

#[test]
fn replicas_are_made_in_another_zone_and_move_with_their_primaries() {
    let Some(fleet) = fleet() else { return };
    let mut cluster = Cluster::with_replicas(&fleet);
    cluster.project.dunlin(&["provision", "--dry-run", "--detailed-exitcode"]).ends(0);
    assert_eq!(all_good(&cluster), u64::from(SHARDS));
    cluster.is_as_the_map_says();
    primaries_need_their_replicas(&cluster);
    for (host, shard) in [("redis-02", 0), ("redis-01", SHARDS - 1)] {
        let info: String = redis::cmd("INFO").arg("persistence").query(&mut cluster.admin(host, shard)).unwrap();
        assert!(info.contains("aof_enabled:1") && info.contains("aof_last_write_status:ok"), "{info}");
    }

    // All that is on redis-01, primaries and replicas, goes to the other host of its zone.
    let writers = Writers::start(&cluster.published());
    cluster.grow();
    let before = cluster.map();
    cluster.project.dunlin(&[&DRAIN[..], &["--dry-run"]].concat()).ends(0).says(&["replica: redis-01 is drained"]);
    let done = cluster.project.dunlin(&[&DRAIN[..], &["--yes"]].concat()).ends(0);
    done.says(&["replica: redis-01 is drained", &format!("Done: {SHARDS} ")]);
    for (before, after) in before.shards.iter().zip(&cluster.map().shards) {
        let moved = |host: &String| if host == "redis-01" { "redis-03".to_owned() } else { host.clone() };
        let wanted: Vec<String> = before.replicas.iter().map(moved).collect();
        assert_eq!((&after.host, &after.replicas), (&moved(&before.host), &wanted), "shard {}", after.id);
    }
    writers.write_on(500);
    writers.lost_nothing();
    cluster.is_as_the_map_says();
    primaries_need_their_replicas(&cluster);
    assert_eq!(all_good(&cluster), u64::from(SHARDS));
    let verified = cluster.project.dunlin(&["shards", "verify"]).ends(0);
    assert_eq!(verified.stdout.matches("keys are equal").count(), usize::from(SHARDS), "{}", verified.stdout);
    cluster.project.dunlin(&["provision", "--dry-run", "--detailed-exitcode"]).ends(0);
    cluster.project.dunlin(&[&DRAIN[..], &["--dry-run", "--detailed-exitcode"]].concat()).ends(0);
    cluster.project.dunlin(&["shards", "status"]).ends(0).says(&["no moves under way"]);
}

#[test]
fn a_replica_is_taken_out_of_the_map_and_put_in_again_by_hand() {
    let Some(fleet) = fleet() else { return };
    let cluster = Cluster::with_replicas(&fleet);
    all_good(&cluster);
    let writers = Writers::start(&cluster.published());

    // Provisioning brings the map out, and touches no instance; status names what the map does not.
    author(&cluster, 0, &[]);
    cluster.project.dunlin(&["provision", "--yes"]).ends(0);
    let told = cluster.project.dunlin(&["shards", "status"]).ends(0);
    told.says(&[
        "shard 0: an instance on redis-02 that the map does not name follows the primary",
        "shard 0: its primary needs 1 replicas to accept writes, the playbook says 0",
    ]);
    cluster.project.dunlin(&["shards", "resume", "--yes"]).ends(0);
    cluster.is_as_the_map_says();
    cluster.project.dunlin(&["shards", "resume", "--yes"]).ends(0).says(&["nothing to resume"]);
    writers.write_on(100);

    // And back: made by provisioning, needed by its primary once it is there.
    author(&cluster, 0, &["redis-02"]);
    cluster.project.dunlin(&["provision", "--yes"]).ends(0).says(&["replica of"]);
    cluster.project.dunlin(&["provision", "--dry-run", "--detailed-exitcode"]).ends(0);
    assert_eq!(all_good(&cluster), u64::from(SHARDS));
    let told = cluster.project.dunlin(&["shards", "status"]).ends(0);
    told.says(&["shard 0: its primary needs 0 replicas to accept writes, the playbook says 1"]);
    cluster.project.dunlin(&["shards", "resume", "--yes"]).ends(0);
    primaries_need_their_replicas(&cluster);
    cluster.is_as_the_map_says();
    cluster.project.dunlin(&["provision", "--dry-run", "--detailed-exitcode"]).ends(0);
    writers.write_on(100);
    writers.lost_nothing();

    // A replica that is down is told; its primary refuses writes until it is back, and no move is begun meanwhile.
    fleet.root("redis-02", "systemctl stop redis-shard@0");
    let told = cluster.project.dunlin(&["shards", "status"]).ends(0);
    told.says(&["shard 0: the replica on redis-02 is down or was not made yet"]);
    assert_eq!(cluster.writable(0), [] as [&str; 0]);
    fleet.root("redis-02", "systemctl start redis-shard@0");
    let end = Instant::now() + PATIENCE;
    while cluster.writable(0) != [REDIS[0]] {
        assert!(Instant::now() < end, "its primary does not accept writes again");
    }
    assert_eq!(all_good(&cluster), u64::from(SHARDS));
}
