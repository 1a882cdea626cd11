//! What a rebalance refuses, and that it has changed nothing then.

use std::collections::BTreeMap;
use std::process::Stdio;

use serde_json::Value as Json;

use crate::cluster::{REDIS_HOSTS, TOLERANCE, TestCluster};
use crate::hosts::lock_fleet;
use crate::messages;
use crate::output::assert_snapshot;
use crate::project::FleetProject;

/// Everything that a rebalance could have changed: the map, and the hosts' files of shards, by their digests.
fn host_fingerprints(cluster: &TestCluster<'_>) -> BTreeMap<String, String> {
    let list = "cd /; find etc/redis var/lib/dunlin/moves -type f -exec sha256sum {} + 2>/dev/null | sort -k2; \
                find var/lib/redis -type d | sort";
    let mut traces: BTreeMap<String, String> =
        REDIS_HOSTS.iter().map(|host| ((*host).to_owned(), cluster.fleet.run_as_root(host, list))).collect();
    traces.insert("map".to_owned(), cluster.map_text());
    traces.insert("published".to_owned(), std::fs::read_to_string(cluster.published_map_path()).unwrap());
    traces.insert("kept".to_owned(), cluster.project.file_path(".dunlin").exists().to_string());
    traces
}

#[test]
fn invalid_input_is_rejected_without_changes() {
    let Some(fleet) = lock_fleet() else { return };
    let mut cluster = TestCluster::without_replicas(&fleet);
    cluster.add_third_host();
    let before = host_fingerprints(&cluster);

    // A host that could not hold a shard, by the figures of the inventory.
    cluster.project.host_table("redis-03").insert("memory".to_owned(), "1MiB".into());
    cluster.project.write_files();
    let flags = ["shard-rebalance", "--drain", "redis-01", "--targets", "redis-03", "--yes"];
    let refused = cluster.project.run_dunlin(&flags).assert_status(3);
    refused.assert_snapshot("fleet-rebalance-onto-a-small-host");
    assert_eq!(host_fingerprints(&cluster), before);

    // One whose instances may not use as much as the shards do: only the host itself knows it.
    cluster.project.host_table("redis-03").insert("memory".to_owned(), "1GiB".into());
    let vars: toml::Value = toml::from_str::<toml::Table>("shard_maxmemory = \"1MiB\"").unwrap().into();
    cluster.project.host_table("redis-03").insert("vars".to_owned(), vars);
    cluster.project.write_files();
    let refused = ["--dry-run", "--yes"].map(|flag| {
        let one = ["shard-rebalance", "--shard", "0", "--to", "redis-03", flag];
        cluster.project.run_dunlin(&one).assert_status(3).without_stdout()
    });
    assert_snapshot("fleet-rebalance-preflight-memory", &refused.each_ref());
    assert_eq!(without_journals(host_fingerprints(&cluster)), without_journals(before.clone()));
    cluster.project.host_table("redis-03").remove("vars");
    cluster.project.write_files();

    // A consumer that cannot take the new map: found before anything moves.
    fleet.run_as_root("app-01", "mv /etc/timeline /etc/timeline.away");
    let refused = ["--dry-run", "--yes"]
        .map(|flag| cluster.project.run_dunlin(&["shard-rebalance", flag]).assert_status(3).without_stdout());
    assert_snapshot("fleet-rebalance-consumer-not-ready", &refused.each_ref());
    fleet.run_as_root("app-01", "mv /etc/timeline.away /etc/timeline");

    // A map with a hole.
    let map = cluster.map_text();
    let broken = map.replace("slots = \"2048-4095\"", "slots = \"2049-4095\"");
    assert_ne!(broken, map);
    std::fs::write(cluster.project.file_path("inventory/shards.toml"), &broken).unwrap();
    let refused = cluster.project.run_dunlin(&["shard-rebalance", "--yes", "--json"]).assert_status(1);
    assert_eq!(refused.events("summary")[0]["exit"], 1);
    messages::check("fleet-rebalance-broken-map", [("stderr", &refused.stderr)]);
    std::fs::write(cluster.project.file_path("inventory/shards.toml"), &map).unwrap();
    assert_eq!(without_journals(host_fingerprints(&cluster)), without_journals(before));
    cluster.assert_matches_map();
}

/// A run that got as far as the locks has taken a number, which is no change to any shard.
fn without_journals(mut traces: BTreeMap<String, String>) -> BTreeMap<String, String> {
    for text in traces.values_mut() {
        *text = text.lines().filter(|line| !line.ends_with("/latest-run.json")).collect::<Vec<_>>().join("\n");
    }
    traces
}

#[test]
fn concurrent_runs_report_the_lock_holder() {
    let Some(fleet) = lock_fleet() else { return };
    let mut cluster = TestCluster::without_replicas(&fleet);
    cluster.add_third_host();
    let other = cluster.project.clone_project();
    let begin = |project: &FleetProject| {
        let mut command = project.dunlin_command(&["shard-rebalance", "--tolerance", TOLERANCE, "--yes"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    // Both at once: whichever comes second finds the lock, or the work of the first one done.
    let runs = [begin(&cluster.project), begin(&other)].map(|run| run.wait_with_output().unwrap());
    let codes: Vec<Option<i32>> = runs.iter().map(|run| run.status.code()).collect();
    let messages: String = runs.iter().map(|run| String::from_utf8_lossy(&run.stderr)).collect();
    assert!(codes.contains(&Some(0)) && codes.iter().any(|code| matches!(code, Some(3 | 5))), "{codes:?}\n{messages}");
    // The one whose map is behind, if it is this one, is brought up to date.
    cluster.project.run_dunlin(&["shards", "resume", "--yes"]).assert_status(0);
    cluster.assert_converged();

    // Held by somebody for sure: an agent that was asked for the lock and whose controller stays.
    let holder = cluster.hold_lock("redis-02");
    let locked = cluster.project.run_dunlin(&["locks", "--json"]).assert_status(0).events("lock");
    assert_eq!(locked.iter().map(|lock| &lock["host"]).collect::<Vec<_>>(), ["redis-02"]);
    let commands = [&["shard-rebalance", "--drain", "redis-03", "--yes"][..], &["shards", "resume", "--yes"]];
    for command in commands {
        let refused = cluster.project.run_dunlin(command).assert_status(5);
        refused.without_stdout().assert_snapshot(&format!("fleet-locked-host-{}", command[0]));
    }
    cluster.project.write_play("redis", "[[play.step]]\nfile = { dest = \"/srv/dunlin-locked\", content = \"x\" }\n");
    fleet.remove_paths("/srv/dunlin-locked");
    cluster.project.run_provision(&["--yes"]).assert_status(5).assert_snapshot("fleet-locked-host-provision");
    assert_eq!(fleet.read_file("redis-01", "/srv/dunlin-locked"), None, "it began although a host was locked");

    // Killed, it leaves nothing that has to be cleaned up.
    drop(holder);
    cluster.wait_for_agents_to_exit();
    cluster.project.run_provision(&["--yes"]).assert_status(0);
    assert_eq!(cluster.project.run_dunlin(&["locks", "--json"]).assert_status(0).events("lock"), [] as [Json; 0]);
}
