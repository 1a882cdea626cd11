//! The rule "at most N shards per host": primaries and replicas count, and a balanced fleet moves to keep it.

use std::collections::BTreeMap;

use dunlin::rebalance::check::{CheckedRule, check_plan};
use dunlin::rebalance::observation::Observation;
use dunlin::rebalance::plan::{PlanOptions, RebalancePlan, Rule, ShardSelection, plan};
use dunlin_shards::ShardId;

use crate::deviation::Reference;
use crate::generate::{Dice, MIB, host, shard};

/// Shards of the given sizes in MiB on the given hosts, in a fleet of that many hosts without zones.
fn fleet(hosts: usize, shards: &[(&[usize], u64)]) -> Observation {
    Observation {
        format_version: 1,
        cluster: "timeline".to_owned(),
        epoch: 7,
        port_base: None,
        hosts: (0..hosts).map(|n| host(n, None, 16384 * MIB)).collect(),
        shards: shards.iter().enumerate().map(|(id, (on, mib))| shard(id, on, mib * MIB, 10.0)).collect(),
    }
}

fn at_most(limit: usize) -> PlanOptions {
    PlanOptions { max_shards_per_host: Some(limit), ..PlanOptions::default() }
}

fn checked_plan(observation: &Observation, options: &PlanOptions) -> RebalancePlan {
    let found = plan(observation, options).unwrap();
    assert_eq!(check_plan(observation, options, &found), []);
    found
}

fn counts(found: &RebalancePlan) -> Vec<usize> {
    found.hosts.iter().map(|host| host.after.shards).collect()
}

/// Ten shards of 100 MiB on one host, two of 500 MiB on the other: even in bytes.
fn many_small_and_few_large() -> Observation {
    let mut shards: Vec<(&[usize], u64)> = vec![(&[0], 100); 10];
    shards.extend([(&[1usize] as &[usize], 500); 2]);
    fleet(2, &shards)
}

#[test]
fn a_fleet_that_is_even_in_bytes_moves_the_fewest_bytes_that_keep_the_limit() {
    let observation = many_small_and_few_large();
    assert!(checked_plan(&observation, &at_most(10)).is_empty());
    // Two small shards leave; that is also the proven bound, though it costs evenness.
    let tolerant = PlanOptions { tolerance: 0.3, ..at_most(8) };
    let found = checked_plan(&observation, &tolerant);
    assert_eq!((counts(&found), found.bytes_moved, found.lower_bound_bytes), (vec![8, 4], 200 * MIB, 200 * MIB));
    let reason = "redis-01 has more shards than --max-shards-per-host allows";
    assert!(found.moves.iter().all(|m| m.reason == reason), "{:?}", found.moves);
    // Six shards per host are even if a large shard goes the other way.
    let found = checked_plan(&observation, &PlanOptions { tolerance: 0.0, ..at_most(6) });
    assert_eq!((counts(&found), found.bytes_moved), (vec![6, 6], 1000 * MIB));
    // No placement of six shards per host is even: the plan keeps the limit and notes the deviation.
    let mut shards: Vec<(&[usize], u64)> = vec![(&[0], 100); 11];
    shards.push((&[1], 1100));
    let found = checked_plan(&fleet(2, &shards), &at_most(6));
    assert_eq!(counts(&found), [6, 6]);
    assert!(found.notes.iter().any(|note| note.starts_with("outside the tolerance")), "{:?}", found.notes);
}

#[test]
fn replicas_count_and_move_where_the_limit_needs_it() {
    let observation = fleet(3, &[(&[0, 1], 100), (&[0, 1], 100), (&[0, 1], 100), (&[0, 1], 100)]);
    let found = checked_plan(&observation, &PlanOptions { tolerance: 1.0, ..at_most(3) });
    assert!(counts(&found).iter().all(|count| *count <= 3), "{:?}", counts(&found));
    assert_eq!(found.notes[0], "replicas move as well: no placement keeps the rules without that");
}

#[test]
fn a_limit_that_cannot_be_kept_names_the_rule() {
    let observation = many_small_and_few_large();
    let refused = plan(&observation, &at_most(5)).unwrap_err();
    assert_eq!((refused.rule, refused.hosts), (Rule::ShardsPerHost, vec!["redis-01".to_owned()]));
    assert_eq!(
        refused.message,
        "there are 12 primaries and replicas, but the hosts available to them may have 10, 5 per host"
    );
    // Only redis-02 may receive, and the limit allows it six shards.
    let targets = PlanOptions { targets: Some(vec!["redis-02".to_owned()]), ..at_most(6) };
    assert_eq!(counts(&checked_plan(&observation, &PlanOptions { tolerance: 1.0, ..targets })), [6, 6]);
    let drain = PlanOptions { drain: vec!["redis-01".to_owned()], ..at_most(11) };
    assert_eq!(plan(&observation, &drain).unwrap_err().rule, Rule::ShardsPerHost);
    let mut pinned = many_small_and_few_large();
    pinned.shards.iter_mut().take(8).for_each(|shard| shard.pinned = true);
    let refused = plan(&pinned, &at_most(7)).unwrap_err();
    assert_eq!((refused.rule, refused.shards.len()), (Rule::ShardsPerHost, 10));
    assert_eq!(refused.message, "redis-01 has more than 7 shards that cannot move");
    assert_eq!(plan(&observation, &at_most(0)).unwrap_err().rule, Rule::Options);
}

#[test]
fn selected_shards_and_limited_plans_do_not_exceed_the_limit() {
    let observation = fleet(3, &[(&[0], 100), (&[0], 100), (&[0], 100), (&[1], 100), (&[2], 100), (&[2], 100)]);
    let selected = PlanOptions { shards: ShardSelection::Named(vec![ShardId(0), ShardId(1)]), ..at_most(2) };
    let refused = plan(&observation, &selected).unwrap_err();
    assert_eq!((refused.rule, refused.shards), (Rule::ShardsPerHost, vec![ShardId(1)]));
    let one = PlanOptions { shards: ShardSelection::Named(vec![ShardId(0)]), ..at_most(2) };
    assert_eq!(checked_plan(&observation, &one).moves[0].to, "redis-02");

    let limited = PlanOptions { max_moves: Some(1), ..at_most(8) };
    let mut shards: Vec<(&[usize], u64)> = vec![(&[0], 100); 12];
    shards.extend([(&[1usize] as &[usize], 500); 2]);
    let found = checked_plan(&fleet(2, &shards), &limited);
    assert_eq!(counts(&found), [11, 3]);
    let note = "redis-01 ends with 11 shards, above --max-shards-per-host";
    assert!(found.notes.iter().any(|other| other == note), "{:?}", found.notes);
}

/// Returns the fewest bytes that move to a placement within the tolerance and the limit, over all placements.
fn optimum(observation: &Observation, options: &PlanOptions) -> Option<u64> {
    let reference = Reference::new(observation, options);
    let (hosts, shards) = (observation.hosts.len(), &observation.shards);
    let homes: Vec<usize> =
        shards.iter().map(|shard| observation.hosts.iter().position(|host| host.name == shard.host).unwrap()).collect();
    (0..hosts.pow(u32::try_from(shards.len()).unwrap()))
        .map(|number| (0..shards.len()).map(|at| number / hosts.pow(at as u32) % hosts).collect::<Vec<usize>>())
        .filter(|at| reference.is_legal(at) && reference.worst_deviation(at) == 0.0)
        .map(|at| {
            let moved = shards.iter().zip(at.iter().zip(&homes)).filter(|(_, (at, home))| at != home);
            moved.map(|(shard, _)| shard.bytes).sum()
        })
        .min()
}

#[test]
fn small_fleets_move_as_few_bytes_as_the_best_of_all_placements() {
    let mut dice = Dice(41);
    let (mut met, mut unmet) = (0, 0);
    for _ in 0..12 {
        let shards: Vec<([usize; 1], u64)> =
            (0..7).map(|_| ([dice.below(4) as usize % 3], 50 + dice.below(300))).collect();
        let shards: Vec<(&[usize], u64)> = shards.iter().map(|(on, mib)| (on as &[usize], *mib)).collect();
        let observation = fleet(3, &shards);
        let options = PlanOptions { tolerance: 0.3, ..at_most(3) };
        let found = checked_plan(&observation, &options);
        match optimum(&observation, &options) {
            Some(bytes) => {
                met += 1;
                assert_eq!(found.bytes_moved, bytes, "{shards:?}");
            }
            None => {
                unmet += 1;
                assert!(found.notes.iter().any(|note| note.starts_with("outside the tolerance")), "{shards:?}");
            }
        }
    }
    assert!(met >= 4, "{met} fleets with a placement within the tolerance, {unmet} without");
}

#[test]
fn the_checker_finds_a_plan_above_the_limit() {
    let observation = many_small_and_few_large();
    let found = plan(&observation, &PlanOptions::default()).unwrap();
    let rules: BTreeMap<String, CheckedRule> = check_plan(&observation, &at_most(9), &found)
        .into_iter()
        .map(|violation| (violation.message, violation.rule))
        .collect();
    let message = "redis-01 would end with 10 shards, the maximum is 9 per host".to_owned();
    assert_eq!(rules, BTreeMap::from([(message, CheckedRule::ShardsPerHost)]));
}
