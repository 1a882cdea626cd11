//! Both copies of each shard have to move: one after the other, under writers.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use crate::cluster::{Cluster, REDIS};
use crate::hosts::fleet;
use crate::replicas::all_good;
use crate::writers::Writers;

/// The hosts that both copies go to: one in each zone.
const NEW: [&str; 2] = ["redis-03", "app-01"];
const DRAIN: [&str; 5] = ["shard-rebalance", "--drain", "redis-01", "--drain", "redis-02"];

#[test]
fn both_copies_of_a_shard_move_one_after_the_other_and_no_write_is_lost() {
    let Some(fleet) = fleet() else { return };
    let mut cluster = Cluster::few_with_replicas(&fleet);
    cluster.project.host("app-01").insert("memory".to_owned(), "1GiB".into());
    cluster.project.host("app-01").insert("zone".to_owned(), "b".into());
    cluster.grow_to(&[&REDIS[..], &["app-01"]].concat());
    let writers = Writers::start(&cluster.published());
    let done = cluster.project.dunlin(&[&DRAIN[..], &["--yes", "--json"]].concat()).ends(0);

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
    one_after_the_other(&cluster);

    let map = cluster.map();
    assert!(
        map.shards.iter().all(|entry| NEW.contains(&entry.host.as_str())
            && entry.replicas.iter().all(|host| NEW.contains(&host.as_str()) && *host != entry.host)),
        "{map:?}"
    );
    cluster.is_as_the_map_says();
    assert_eq!(all_good(&cluster), u64::from(cluster.shards));
    writers.write_on(300);
    writers.lost_nothing();
    let status = cluster.project.dunlin(&["shards", "status"]).ends(0);
    status.says(&["no moves under way"]);
    cluster.project.dunlin(&["shards", "resume", "--yes"]).ends(0).says(&["nothing to resume"]);
    cluster.project.dunlin(&["provision", "--dry-run", "--detailed-exitcode"]).ends(0);
    cluster.project.dunlin(&[&DRAIN[..], &["--dry-run", "--detailed-exitcode"]].concat()).ends(0);
}

/// By the journals of the new hosts: of each shard, the second copy was begun when the first one was done.
fn one_after_the_other(cluster: &Cluster<'_>) {
    let journals = NEW.map(|host| cluster.journals(host));
    for shard in 0..cluster.shards {
        let mut spans: Vec<(&str, &str)> = journals.iter().map(|journal| span(&journal[&shard])).collect();
        spans.sort_unstable();
        let [(_, first_ended), (second_begun, _)] = spans[..] else { panic!("{spans:?}") };
        assert!(first_ended <= second_begun, "shard {shard}: {spans:?}");
    }
}

/// When the first and the last record were made; texts of one length, which sort as the times do.
fn span<'r>(records: &'r [Json]) -> (&'r str, &'r str) {
    let at = |record: Option<&'r Json>| record.unwrap()["at"].as_str().unwrap();
    (at(records.first()), at(records.last()))
}
