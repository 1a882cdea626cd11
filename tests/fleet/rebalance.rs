//! Shards move onto a new host while they are written to.

use std::collections::BTreeSet;

use serde_json::Value as Json;

use crate::cluster::{NOTHING_TO_RESUME, TOLERANCE, TestCluster};
use crate::hosts::{FleetLease, lock_fleet};
use crate::messages;
use crate::output::CommandOutput;
use crate::writers::FleetWriters;

#[test]
fn shards_move_to_a_new_host_as_planned() {
    let Some(fleet) = lock_fleet() else { return };
    let mut cluster = TestCluster::without_replicas(&fleet);
    cluster.assert_converged();
    fleet.run_as_root("redis-01", "systemd-analyze security --no-pager --threshold=20 redis-shard@0.service");
    assert_instances_write_only_their_own_files(&fleet);
    let writers = FleetWriters::start_writers(&cluster.published_map_path());
    cluster.add_third_host();

    // What the planner plans from, with all that was seen: it can be planned from elsewhere.
    cluster.project.run_dunlin(&["shards", "status", "--out", "observed.json"]).assert_status(0);
    let observed: Json = {
        let text = std::fs::read(cluster.project.file_path("observed.json")).unwrap();
        serde_json::from_slice(&text).unwrap()
    };
    let (host, shard) = (&observed["hosts"][0]["details"], &observed["shards"][0]);
    assert!(host["memory_available_bytes"].as_u64().unwrap() > 0 && host["load_1m"].is_f64(), "{host}");
    assert_eq!((&shard["details"]["appendfsync"], &shard["details"]["durable"]), (&"always".into(), &true.into()));
    assert_eq!(shard["details"]["role"]["role"], "primary");
    assert!(shard["details"]["clients"].is_u64() && shard["peak_bytes"].as_u64() > shard["bytes"].as_u64(), "{shard}");
    let elsewhere =
        ["shard-rebalance", "--from-observation", "observed.json", "--tolerance", TOLERANCE, "--dry-run", "--json"];
    let planned = planned_moves(&cluster.project.run_dunlin(&elsewhere).assert_status(0));
    assert!(!planned.is_empty() && planned.iter().all(|(_, _, to)| to == "redis-03"), "{planned:?}");

    let before = cluster.read_map();
    let dry = [
        "shard-rebalance",
        "--tolerance",
        TOLERANCE,
        "--dry-run",
        "--detailed-exitcode",
        "--json",
        "--out",
        "plan.json",
    ];
    let shown = cluster.project.run_dunlin(&dry).assert_status(2);
    assert_eq!(cluster.read_map(), before, "a dry run wrote the map");

    // Values that are small only by the limits of the target are re-encoded: only if the flag allows it.
    for entry in &before.shards {
        let mut admin = cluster.connect_admin(&entry.host, entry.id.0);
        redis::cmd("CONFIG").arg("SET").arg("zset-max-listpack-entries").arg(64).exec(&mut admin).unwrap();
    }
    let run = ["shard-rebalance", "--plan", "plan.json", "--yes", "--json"];
    let refused = cluster.project.run_dunlin(&run).assert_status(3);
    let error = refused.events("error")[0]["error"].as_str().unwrap().to_owned();
    let any_shard = |text: String| {
        let shards = planned_moves(&shown).into_iter().map(|(shard, ..)| format!("shard {shard}"));
        shards.fold(text, |text, shard| text.replace(&shard, "shard [N]"))
    };
    let error = any_shard(refused.stable(&error));
    let reason = error.lines().nth(1).unwrap();
    messages::check("fleet-rebalance-that-reencodes", [("first reason", reason)]);
    assert_eq!(cluster.read_map(), before);

    let done = cluster.project.run_dunlin(&[&run[..], &["--allow-reencoding"]].concat()).assert_status(0);
    // The notes of preflight, which are the same for each shard.
    let events = done.stdout.lines().map(|line| serde_json::from_str::<Json>(line).unwrap());
    let notes = events.take_while(|event| event["event"] != "progress").filter(|event| event["event"] == "note");
    let texts: BTreeSet<String> = notes.map(|note| any_shard(done.stable(note["text"].as_str().unwrap()))).collect();
    messages::check("fleet-rebalance-notes", texts.iter().map(|text| ("note", text)));
    let (planned, after) = (planned_moves(&done), cluster.read_map());
    assert!(!planned.is_empty(), "{}", shown.stdout);
    assert_eq!(planned, planned_moves(&shown), "the dry run showed the moves that are made");
    let differing = before.shards.iter().zip(&after.shards).filter(|(before, after)| before.host != after.host);
    let made: Vec<(u64, String, String)> =
        differing.map(|(before, after)| (u64::from(before.id.0), before.host.clone(), after.host.clone())).collect();
    assert_eq!(made, planned, "the moves that were made are those of the plan");
    assert_eq!(after.epoch.0, before.epoch.0 + made.len() as u64, "one epoch for each move");

    writers.wait_for_writes(500);
    writers.assert_nothing_lost();
    cluster.assert_converged();
    cluster.project.run_dunlin(&NOTHING_TO_RESUME).assert_status(0);
}

/// Writes as shard 0's user, where shard 0's process sees the file system.
fn assert_instances_write_only_their_own_files(fleet: &FleetLease) {
    let script = "cd /; for dir in /etc/redis/shard-0 /var/lib/redis/shard-0 /etc/redis /etc/redis/shard-1 \
                  /var/lib/redis/shard-1; do \
                  nsenter --mount --target $(systemctl show --value --property MainPID redis-shard@0) \
                  runuser -u redis -- sh -c \"touch $dir/other && rm $dir/other\" 2>/dev/null && echo $dir; done; true";
    let written = fleet.run_as_root("redis-01", script);
    assert_eq!(written.lines().collect::<Vec<_>>(), ["/etc/redis/shard-0", "/var/lib/redis/shard-0"]);
}

/// The moves in a plan's JSON: shard, from, to; ascending.
fn planned_moves(output: &CommandOutput) -> Vec<(u64, String, String)> {
    let lines = output.stdout.lines().map(|line| serde_json::from_str::<Json>(line).unwrap());
    let plan = lines.into_iter().find(|line| line["moves"].is_array()).unwrap();
    let text = |value: &Json| value.as_str().unwrap().to_owned();
    let mut moves: Vec<_> = plan["moves"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| (step["shard"].as_u64().unwrap(), text(&step["from"]), text(&step["to"])))
        .collect();
    moves.sort_unstable();
    moves
}
