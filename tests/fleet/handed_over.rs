//! A move has handed its shard over, dunlin is killed before the map says so, and the source's host dies.

use dunlin_shards::Shard;

use crate::cluster::{Cluster, Role};
use crate::hosts::{HOSTS, fleet};
use crate::moments::{Moment, Running};
use crate::writers::Writers;

/// How often the moment may be missed.
const TRIES: usize = 8;

#[test]
fn what_a_dead_host_had_handed_over_is_published_without_it() {
    let Some(fleet) = fleet() else { return };
    let mut cluster = Cluster::new(&fleet);
    cluster.grow();
    let writers = Writers::start(&cluster.published());
    let entry = unpublished(&cluster);
    let (shard, source) = (entry.id.0, HOSTS.into_iter().find(|host| **host == *entry.host).unwrap());

    let off = fleet.kill(source);
    // The agent was done with it. Had the host died a moment before, its role would still be to be made durable.
    let journal = format!("/var/lib/dunlin/moves/shard-{shard}.jsonl");
    assert!(fleet.root("redis-03", &format!("tail -n 1 {journal}; sed -i '$d' {journal}")).contains("settle"));
    let plan = cluster.project.dunlin(&["shards", "failover", source, "--dry-run"]);
    plan.says(&[&format!("shard {shard}     stays down: a move gave it to redis-03, which serves it")]);
    let resumed = cluster.project.dunlin(&["shards", "resume", "--yes"]).ends(4);
    resumed.complains(&[&format!("shard {shard}: it has moved; its old instance stays: {source} does not answer")]);
    assert_eq!(cluster.map().shards[usize::from(shard)].host, "redis-03");
    assert_eq!(cluster.writable(shard), ["redis-03"]);

    // The old instance comes back as a replica, which the map does not name, and goes.
    drop(off);
    writers.write_on(100);
    cluster.project.dunlin(&["shards", "resume", "--yes"]).ends(0);
    cluster.is_as_the_map_says();
    writers.lost_nothing_acknowledged();
    cluster.project.dunlin(&["provision", "--dry-run", "--detailed-exitcode"]).ends(0);
    cluster.project.dunlin(&["shards", "resume", "--yes"]).ends(0).says(&["nothing to resume"]);
}

/// A shard that has moved to redis-03 and is elsewhere by the map: dunlin was killed in the milliseconds between.
fn unpublished(cluster: &Cluster<'_>) -> Shard {
    let moved = |entry: &&Shard| entry.host != "redis-03" && cluster.role("redis-03", entry.id.0) == Some(Role::Master);
    for _ in 0..TRIES {
        let before = cluster.map();
        let wish = ["--to", "redis-03", "--max-moves", "1"];
        Running::until(cluster, Moment::Noted("fence", "intent"), &wish).kill();
        cluster.without_agents();
        if let (true, Some(shard)) = (cluster.map() == before, before.shards.iter().find(moved)) {
            return shard.clone();
        }
        cluster.project.dunlin(&["shards", "resume", "--yes"]).ends(0);
    }
    panic!("each of {TRIES} switches was published before the kill");
}
