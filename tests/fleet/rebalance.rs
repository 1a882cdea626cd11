//! Shards move onto a new host while they are written to.

use serde_json::Value as Json;

use crate::cluster::{Cluster, TOLERANCE};
use crate::hosts::fleet;
use crate::project::Output;
use crate::writers::Writers;

#[test]
fn shards_move_onto_a_new_host_as_planned_and_no_write_is_lost() {
    let Some(fleet) = fleet() else { return };
    let mut cluster = Cluster::new(&fleet);
    cluster.is_settled();
    let writers = Writers::start(&cluster.published());
    cluster.grow();

    // What the planner plans from, with all that was seen: it can be planned from elsewhere.
    cluster.project.dunlin(&["shards", "status", "--out", "observed.json"]).ends(0);
    let observed: Json = {
        let text = std::fs::read(cluster.project.path("observed.json")).unwrap();
        serde_json::from_slice(&text).unwrap()
    };
    let (host, shard) = (&observed["hosts"][0]["details"], &observed["shards"][0]);
    assert!(host["memory_available_bytes"].as_u64().unwrap() > 0 && host["load_1m"].is_f64(), "{host}");
    assert_eq!((&shard["details"]["appendfsync"], &shard["details"]["durable"]), (&"always".into(), &true.into()));
    assert_eq!(shard["details"]["role"]["role"], "master");
    assert!(shard["details"]["clients"].is_u64() && shard["peak_bytes"].as_u64() > shard["bytes"].as_u64(), "{shard}");
    let elsewhere = ["shard-rebalance", "--observed", "observed.json", "--tolerance", TOLERANCE, "--dry-run"];
    cluster.project.dunlin(&elsewhere).ends(0).says(&["→ redis-03", "Plan: moves"]);

    let before = cluster.map();
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
    let shown = cluster.project.dunlin(&dry).ends(2);
    assert_eq!(cluster.map(), before, "a dry run wrote the map");

    // What is small at the target alone would be encoded anew: only where that is wished for.
    for entry in &before.shards {
        let mut admin = cluster.admin(&entry.host, entry.id.0);
        redis::cmd("CONFIG").arg("SET").arg("zset-max-listpack-entries").arg(64).exec(&mut admin).unwrap();
    }
    let run = ["shard-rebalance", "--plan", "plan.json", "--yes", "--json"];
    let refused = cluster.project.dunlin(&run).ends(3);
    refused.complains(&["zset-max-listpack-entries is 64 at the source and 1100", "--allow-reencoding"]);
    assert_eq!(cluster.map(), before);

    let done = cluster.project.dunlin(&[&run[..], &["--allow-reencoding"]].concat()).ends(0);
    assert!(done.stdout.contains("the move re-encodes"), "{}", done.stdout);
    let (planned, after) = (moves(&done), cluster.map());
    assert!(!planned.is_empty(), "{}", shown.stdout);
    assert_eq!(planned, moves(&shown), "the dry run showed the moves that are made");
    let differing = before.shards.iter().zip(&after.shards).filter(|(before, after)| before.host != after.host);
    let made: Vec<(u64, String, String)> =
        differing.map(|(before, after)| (u64::from(before.id.0), before.host.clone(), after.host.clone())).collect();
    assert_eq!(made, planned, "the moves that were made are those of the plan");
    assert_eq!(after.epoch.0, before.epoch.0 + made.len() as u64, "one epoch for each move");

    writers.write_on(500);
    writers.lost_nothing();
    cluster.is_settled();
    cluster.project.dunlin(&["shards", "status"]).ends(0).says(&["no moves under way"]);
}

/// The moves in a plan's JSON: shard, from, to; ascending.
fn moves(output: &Output) -> Vec<(u64, String, String)> {
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
