//! Saved plans: they survive the file, and everything that makes one stale is named.

use dunlin::rebalance::observation::Observation;
use dunlin::rebalance::plan::{PlanOptions, plan};
use dunlin::rebalance::plan_file::SavedPlan;

use crate::generate::{MIB, host, shard};

/// Twelve shards of 100 MiB on two of three hosts.
fn fleet() -> Observation {
    let shard = |id: usize| {
        let mut shard = shard(id, &[id % 2], 100 * MIB, 851.0 / 3.0);
        shard.slots = Some(format!("{}-{}", id * 100, id * 100 + 99));
        shard
    };
    Observation {
        format_version: 1,
        cluster: "timeline".to_owned(),
        epoch: 7,
        port_base: Some(7000),
        hosts: (0..3).map(|n| host(n, Some(["a", "b"][n % 2].to_owned()), 1200 * MIB)).collect(),
        shards: (0..12).map(shard).collect(),
    }
}

fn saved(observation: &Observation, options: PlanOptions) -> SavedPlan {
    SavedPlan::new(plan(observation, &options).unwrap(), options, observation.clone(), None)
}

/// Returns the mismatches of a saved plan of [`fleet`] after a change of the fleet.
#[track_caller]
fn text(change: impl FnOnce(&mut Observation)) -> Vec<String> {
    let plan = saved(&fleet(), PlanOptions::default());
    let mut now = fleet();
    change(&mut now);
    plan.find_mismatches(&now).iter().map(ToString::to_string).collect()
}

#[test]
fn a_plan_survives_its_file_and_is_valid_for_the_same_fleet() {
    let plan = saved(&fleet(), PlanOptions { tolerance: 0.07, ..PlanOptions::default() });
    assert!(!plan.plan.is_empty());
    let text = serde_json::to_string_pretty(&plan).unwrap();
    let read: SavedPlan = serde_json::from_str(&text).unwrap();
    assert_eq!(read.fingerprint, plan.fingerprint);
    assert_eq!((read.find_mismatches(&fleet()), read.describe_drift(&fleet())), (vec![], vec![]));
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(json["moves"].is_array() && json["lower_bound_bytes"].is_u64(), "the plan's JSON is at the top:\n{text}");
}

#[test]
fn changes_of_the_map_are_named() {
    assert_eq!(text(|now| now.epoch = 9), ["map: the epoch was 7, now 9"]);
    assert_eq!(text(|now| now.cluster = "other".to_owned()), ["map: the cluster was timeline, now other"]);
    assert_eq!(
        text(|now| now.shards[3].host = "redis-03".to_owned()),
        ["map: the host of shard 3 was redis-02, now redis-03"]
    );
    let replica = |now: &mut Observation| now.shards[3].replicas = vec!["redis-03".to_owned()];
    assert_eq!(text(replica), ["map: the replicas of shard 3 was none, now redis-03"]);
    assert_eq!(text(|now| now.shards[11].pinned = true), ["map: shard 11 was not pinned, now pinned"]);
    let slots = |now: &mut Observation| now.shards[1].slots = Some("100-198".to_owned());
    assert_eq!(text(slots), ["map: the slots of shard 1 was 100-199, now 100-198"]);
    assert_eq!(text(|now| now.port_base = Some(7100)), ["map: port_base was 7000, now 7100"]);
    assert_eq!(text(|now| drop(now.shards.pop())), ["map: shard 11 is gone"]);
    assert_eq!(text(|now| now.shards.push(shard(40, &[2], MIB, 1.0))), ["map: shard 40 is new"]);
    let all = text(|now| now.shards.iter_mut().for_each(|shard| shard.pinned = true));
    assert_eq!((all.len(), all.last().unwrap().as_str()), (9, "map: and 4 more"));
}

#[test]
fn changes_of_the_hosts_are_named() {
    let memory = text(|now| now.hosts[2].capacity_bytes = 1100 * MIB);
    assert_eq!(memory, ["hosts: the memory for shards of redis-03 was 1200MiB, now 1100MiB"]);
    assert_eq!(text(|now| now.hosts[0].weight = 2.0), ["hosts: the weight of redis-01 was 1, now 2"]);
    assert_eq!(text(|now| now.hosts[0].zone = None), ["hosts: the zone of redis-01 was a, now unknown"]);
    assert_eq!(text(|now| now.hosts[0].drain = true), ["hosts: redis-01 was not to be drained, now to be drained"]);
    assert_eq!(text(|now| drop(now.hosts.pop())), ["hosts: redis-03 is gone"]);
    assert_eq!(text(|now| now.hosts.push(host(8, None, MIB))), ["hosts: redis-09 is new"]);
}

#[test]
fn sizes_may_drift_as_long_as_every_rule_holds() {
    let plan = saved(&fleet(), PlanOptions::default());
    let moved = plan.plan.moves[0].shard.0 as usize;
    let mut now = fleet();
    now.shards.iter_mut().for_each(|shard| shard.bytes += 10 * MIB);
    assert_eq!(plan.find_mismatches(&now), [], "a tenth more");
    assert_eq!(plan.describe_drift(&now), Vec::<String>::new());

    // A shard that stays may grow further; the fleet ends uneven then, which is a note and no reason to refuse.
    let stays = (0..12).find(|id| plan.plan.moves.iter().all(|m| m.shard.0 != *id)).unwrap() as usize;
    let mut now = fleet();
    now.shards[stays].bytes = 300 * MIB;
    assert_eq!(plan.find_mismatches(&now), []);
    assert!(!plan.describe_drift(&now).is_empty());

    // One that moves may not, by more than a quarter; small ones may.
    let mut now = fleet();
    now.shards[moved].bytes = 126 * MIB;
    let text: Vec<String> = plan.find_mismatches(&now).iter().map(ToString::to_string).collect();
    assert_eq!(text, [format!("sizes: shard {moved} has grown from 100.0MiB to 126.0MiB, by more than 25 %")]);
    let mut small = fleet();
    small.shards.iter_mut().for_each(|shard| shard.bytes = MIB);
    let plan = saved(&small, PlanOptions::default());
    let moved = plan.plan.moves[0].shard.0 as usize;
    small.shards[moved].bytes = 9 * MIB;
    assert_eq!(plan.find_mismatches(&small), []);
}

#[test]
fn a_rule_that_the_plan_would_break_now_is_named() {
    // Every shard a fifth larger: no single one grew too much, but each host would end over its max_utilization.
    let plan = saved(&fleet(), PlanOptions { max_utilization: 0.34, ..PlanOptions::default() });
    let mut now = fleet();
    now.shards.iter_mut().for_each(|shard| shard.bytes = 120 * MIB);
    let text: Vec<String> = plan.find_mismatches(&now).iter().map(ToString::to_string).collect();
    assert_eq!(text.len(), 3, "{text:?}");
    assert_eq!(text[0], "capacity: redis-01 would end with 480.0MiB, above 408.0MiB");
}

#[test]
fn a_plan_that_was_edited_or_is_hypothetical_is_refused() {
    let plan = saved(&fleet(), PlanOptions::default());
    let changes: [&dyn Fn(&mut SavedPlan); 4] = [
        &|plan| plan.plan.moves[0].to = "redis-02".to_owned(),
        &|plan| drop(plan.plan.moves.pop()),
        &|plan| plan.options.max_utilization = 1.0,
        &|plan| plan.observation.shards[0].bytes += 1,
    ];
    for change in changes {
        let mut edited = plan.clone();
        change(&mut edited);
        let now = edited.observation.clone();
        assert_eq!(edited.find_mismatches(&now)[0].to_string(), "file: it was changed after it was saved");
    }
    let simulated = SavedPlan::new(plan.plan, plan.options, plan.observation, Some("growth=2x".to_owned()));
    assert!(simulated.find_mismatches(&fleet())[0].to_string().contains("--what-if growth=2x"));
}
