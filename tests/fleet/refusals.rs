//! What a rebalance refuses, and that it has changed nothing then.

use std::collections::BTreeMap;
use std::process::Stdio;

use crate::cluster::{Cluster, REDIS, TOLERANCE};
use crate::hosts::fleet;
use crate::project::Project;

/// Everything that a rebalance could have changed: the map, and the hosts' files of shards, by their digests.
fn traces(cluster: &Cluster<'_>) -> BTreeMap<String, String> {
    let list = "cd /; find etc/redis var/lib/dunlin/moves -type f -exec sha256sum {} + 2>/dev/null | sort -k2; \
                find var/lib/redis -type d | sort";
    let mut traces: BTreeMap<String, String> =
        REDIS.iter().map(|host| ((*host).to_owned(), cluster.fleet.root(host, list))).collect();
    traces.insert("map".to_owned(), cluster.map_text());
    traces.insert("published".to_owned(), std::fs::read_to_string(cluster.published()).unwrap());
    traces.insert("kept".to_owned(), cluster.project.path(".dunlin").exists().to_string());
    traces
}

#[test]
fn bad_input_is_refused_and_leaves_no_trace() {
    let Some(fleet) = fleet() else { return };
    let mut cluster = Cluster::new(&fleet);
    cluster.grow();
    let before = traces(&cluster);

    // A host that could not hold a shard, by the figures of the inventory.
    cluster.project.host("redis-03").insert("memory".to_owned(), "1MiB".into());
    cluster.project.write();
    let wish = ["shard-rebalance", "--drain", "redis-01", "--to", "redis-03", "--yes"];
    let refused = cluster.project.dunlin(&wish).ends(3);
    refused.complains(&["redis-03: 1.0MiB for shards, 0B in use", "shards in the way: 0, 1, 2, 3", "next:"]);
    assert_eq!(traces(&cluster), before);

    // One whose instances may not use as much as the shards do: only the host itself can tell.
    cluster.project.host("redis-03").insert("memory".to_owned(), "1GiB".into());
    let vars: toml::Value = toml::from_str::<toml::Table>("shard_maxmemory = \"1MiB\"").unwrap().into();
    cluster.project.host("redis-03").insert("vars".to_owned(), vars);
    cluster.project.write();
    let refused = cluster.project.dunlin(&["shard-rebalance", "--yes"]).ends(3);
    refused.complains(&["redis-03: memory: ", "maxmemory is 1048576", "no Redis was written to", "next:"]);
    assert_eq!(without_journals(traces(&cluster)), without_journals(before.clone()));
    cluster.project.host("redis-03").remove("vars");
    cluster.project.write();

    // A map with a hole.
    let map = cluster.map_text();
    let broken = map.replace("slots = \"2048-4095\"", "slots = \"2049-4095\"");
    assert_ne!(broken, map);
    std::fs::write(cluster.project.path("inventory/shards.toml"), &broken).unwrap();
    let place = "shards.toml:";
    let said = cluster.project.dunlin(&["shard-rebalance", "--yes", "--json"]).ends(1);
    assert!(said.stdout.lines().last().unwrap().contains("\"exit\":1"), "{}", said.stdout);
    said.complains(&["2048", place]);
    std::fs::write(cluster.project.path("inventory/shards.toml"), &map).unwrap();
    assert_eq!(without_journals(traces(&cluster)), without_journals(before));
    cluster.is_as_the_map_says();
}

/// A run that got as far as the locks has taken a number, which is no change to any shard.
fn without_journals(mut traces: BTreeMap<String, String>) -> BTreeMap<String, String> {
    for text in traces.values_mut() {
        *text = text.lines().filter(|line| !line.ends_with("/latest-run.json")).collect::<Vec<_>>().join("\n");
    }
    traces
}

#[test]
fn of_two_runs_at_once_one_is_told_who_holds_the_lock() {
    let Some(fleet) = fleet() else { return };
    let mut cluster = Cluster::new(&fleet);
    cluster.grow();
    let other = cluster.project.copy();
    let begin = |project: &Project| {
        let mut command = project.command(&["shard-rebalance", "--tolerance", TOLERANCE, "--yes"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    // Both at once: whichever comes second finds the lock, or the work of the first one done.
    let runs = [begin(&cluster.project), begin(&other)].map(|run| run.wait_with_output().unwrap());
    let codes: Vec<Option<i32>> = runs.iter().map(|run| run.status.code()).collect();
    let told: String = runs.iter().map(|run| String::from_utf8_lossy(&run.stderr)).collect();
    assert!(codes.contains(&Some(0)) && codes.iter().any(|code| matches!(code, Some(3 | 5))), "{codes:?}\n{told}");
    // The one whose map is behind, if it is this one, is brought up to date.
    cluster.project.dunlin(&["shards", "resume", "--yes"]).ends(0);
    cluster.is_settled();

    // Held by somebody for sure: an agent that was asked for the lock and whose controller stays.
    let holder = cluster.hold("redis-02");
    let shown = cluster.project.dunlin(&["locks"]).ends(0);
    assert!(shown.stdout.contains("redis-02") && !shown.stdout.contains("redis-01"), "{}", shown.stdout);
    for command in [&["shard-rebalance", "--drain", "redis-03", "--yes"][..], &["shards", "resume", "--yes"]] {
        let refused = cluster.project.dunlin(command).ends(5);
        refused.complains(&["redis-02: somebody-else@test holds it for a test since", "dunlin exec redis-02 -- kill"]);
    }
    cluster.project.play("redis", "[[play.step]]\nfile = { dest = \"/srv/dunlin-locked\", content = \"x\" }\n");
    fleet.clear("/srv/dunlin-locked");
    cluster.project.provision(&["--yes"]).ends(5).complains(&["redis-02: somebody-else@test holds it"]);
    assert_eq!(fleet.file("redis-01", "/srv/dunlin-locked"), None, "it began although a host was locked");

    // Killed, it leaves nothing that has to be cleaned up.
    drop(holder);
    cluster.without_agents();
    cluster.project.provision(&["--yes"]).ends(0);
    cluster.project.dunlin(&["locks"]).ends(0).says(&["nobody holds a lock"]);
}
