//! What the planner promises beyond bytes: limits, targets, refusals with their rule, what-if, and that the checker
//! sees what is wrong.

use dunlin::rebalance::check::check;
use dunlin::rebalance::observation::Observation;
use dunlin::rebalance::plan::simulate::WhatIf;
use dunlin::rebalance::plan::{Balance, RebalancePlan, Rule, Wishes, plan};

use crate::generate::{MIB, host, large, shard};

/// Shards of 100 MiB on the given hosts of a fleet of that many.
fn fleet(hosts: usize, homes: &[usize]) -> Observation {
    Observation {
        format_version: 1,
        cluster: "timeline".to_owned(),
        epoch: 7,
        port_base: None,
        hosts: (0..hosts).map(|n| host(n, Some(["a", "b"][n % 2].to_owned()), 4096 * MIB)).collect(),
        shards: homes.iter().enumerate().map(|(id, home)| shard(id, &[*home], 100 * MIB, 10.0)).collect(),
    }
}

fn good(observation: &Observation, wishes: &Wishes) -> RebalancePlan {
    let found = plan(observation, wishes).unwrap();
    assert_eq!(check(observation, wishes, &found), []);
    found
}

#[test]
fn an_even_fleet_stays_as_it_is() {
    let found = good(&fleet(2, &[0, 1, 0, 1]), &Wishes::default());
    assert!(found.is_empty() && found.waves.is_empty());
    assert_eq!((found.gap, found.summary_line().as_str()), (0.0, "nothing to move"));
}

#[test]
fn a_new_host_gets_its_share_and_nothing_more_moves() {
    let found = good(&fleet(3, &[0, 1].repeat(30)), &Wishes { tolerance: 0.0, ..Wishes::default() });
    assert_eq!(found.moves.len(), 20);
    assert!(found.moves.iter().all(|m| m.to == "redis-03"));
    assert_eq!(found.lower_bound_bytes, found.bytes_moved);
    assert_eq!(found.summary_line(), "moves 20 shards, 33.33 % of bytes; no plan can move less than 33.33 %");
}

#[test]
fn limits_hold_and_are_told() {
    let observation = fleet(3, &[0, 1].repeat(30));
    for wishes in [
        Wishes { max_moves: Some(5), ..Wishes::default() },
        Wishes { max_bytes: Some(550 * MIB), ..Wishes::default() },
        Wishes { max_moves: Some(5), drain: vec!["redis-02".to_owned()], ..Wishes::default() },
    ] {
        let found = good(&observation, &wishes);
        assert_eq!(found.moves.len(), 5);
        assert!(found.notes.iter().any(|note| note.starts_with("the limits")), "{:?}", found.notes);
        assert!(wishes.drain.is_empty() || found.moves.iter().all(|m| m.from == "redis-02"));
    }
}

#[test]
fn only_the_named_targets_receive() {
    let wishes = Wishes { to: Some(vec!["redis-04".to_owned()]), balance: Balance::Bytes, ..Wishes::default() };
    let found = good(&fleet(4, &[0, 1].repeat(16)), &wishes);
    assert!(!found.is_empty() && found.moves.iter().all(|m| m.to == "redis-04"));
    assert!(found.notes.iter().any(|note| note.starts_with("planned as near as possible: redis-03")));
}

#[test]
fn copies_keep_apart_and_replicas_leave_a_drained_host() {
    let mut observation = fleet(4, &[0, 2].repeat(8));
    for shard in &mut observation.shards {
        shard.replicas = vec![if shard.host == "redis-01" { "redis-02" } else { "redis-04" }.to_owned()];
    }
    let found = good(&observation, &Wishes { drain: vec!["redis-02".to_owned()], ..Wishes::default() });
    assert!(found.moves.iter().filter(|m| m.from == "redis-02").all(|m| m.to == "redis-04"));
    assert_eq!(found.hosts[1].after.shards, 0);
}

#[test]
fn impossible_wishes_name_their_rule_and_shards() {
    let mut pinned = fleet(3, &[0, 1, 2, 0]);
    pinned.shards[3].pinned = true;
    let drain = Wishes { drain: vec!["redis-01".to_owned()], ..Wishes::default() };
    let refused = plan(&pinned, &drain).unwrap_err();
    assert_eq!((refused.rule, refused.shards), (Rule::Pinned, vec![3]));

    let refused = plan(&fleet(1, &[0]), &drain).unwrap_err();
    assert_eq!((refused.rule, refused.shards), (Rule::Drain, vec![0]));

    let mut full = fleet(2, &[0, 1, 0]);
    full.hosts.iter_mut().for_each(|host| host.capacity_bytes = 160 * MIB);
    assert_eq!(plan(&full, &Wishes::default()).unwrap_err().rule, Rule::Capacity);

    // Each pair fits by sum, but no two of the three shards fit on one host.
    full.hosts.iter_mut().for_each(|host| host.capacity_bytes = 200 * MIB);
    assert_eq!(plan(&full, &Wishes::default()).unwrap_err().rule, Rule::Capacity);

    let mut close = fleet(2, &[0]);
    close.hosts[1].zone = Some("a".to_owned());
    close.shards[0].replicas = vec!["redis-02".to_owned()];
    let refused = plan(&close, &Wishes::default()).unwrap_err();
    assert_eq!((refused.rule, refused.shards), (Rule::Zones, vec![0]));
    assert!(plan(&close, &Wishes { zones: false, ..Wishes::default() }).is_ok());

    let unknown = Wishes { to: Some(vec!["redis-77".to_owned()]), ..Wishes::default() };
    assert_eq!(plan(&fleet(2, &[0]), &unknown).unwrap_err().rule, Rule::Wishes);
}

#[test]
fn what_if_changes_the_fleet_before_the_plan() {
    let mut observation = fleet(3, &[0, 1, 2, 0, 1, 2]);
    observation.shards[0].replicas = vec!["redis-02".to_owned()];
    let what_if: WhatIf = "growth=2x, lose=redis-01, add=redis-09:32GiB:b".parse().unwrap();
    let supposed = what_if.apply(&observation).unwrap();
    assert_eq!(supposed.lost, [3]);
    assert_eq!(supposed.notes.len(), 2);
    assert_eq!(supposed.observation.shard(0).unwrap().host, "redis-02");
    assert_eq!(supposed.observation.shard(1).unwrap().bytes, 200 * MIB);
    let host = supposed.observation.host("redis-09").unwrap();
    assert_eq!((host.capacity_bytes, host.zone.as_deref()), (32 << 30, Some("b")));
    good(&supposed.observation, &Wishes::default());
    for wrong in ["growth=-1x", "lose=", "add=x", "add=x:12parsec", "shrink=2x"] {
        assert!(wrong.parse::<WhatIf>().is_err(), "{wrong} was taken");
    }
    assert!("lose=redis-44".parse::<WhatIf>().unwrap().apply(&observation).is_err());
    assert!("add=redis-01:1GiB".parse::<WhatIf>().unwrap().apply(&observation).is_err());
}

#[test]
fn the_checker_sees_every_kind_of_mistake() {
    let mut observation = fleet(3, &[0, 1].repeat(30));
    observation.shards[2].pinned = true;
    let wishes = Wishes { drain: vec!["redis-02".to_owned()], max_moves: Some(60), ..Wishes::default() };
    let found = good(&observation, &wishes);
    let rules = |spoil: &dyn Fn(&mut RebalancePlan, &mut Wishes)| {
        let (mut plan, mut wishes) = (found.clone(), wishes.clone());
        spoil(&mut plan, &mut wishes);
        check(&observation, &wishes, &plan).into_iter().map(|violation| violation.rule).collect::<Vec<_>>()
    };
    assert!(rules(&|plan, _| plan.epoch = 6).contains(&"map"));
    assert!(rules(&|plan, _| plan.moves[0].from = "redis-03".to_owned()).contains(&"map"));
    assert!(rules(&|plan, _| plan.moves[0].to = "redis-02".to_owned()).contains(&"zones"));
    assert!(rules(&|plan, _| plan.moves[0].bytes += 1).contains(&"sums"));
    assert!(rules(&|plan, _| plan.hosts[0].after.bytes += 1).contains(&"sums"));
    assert!(rules(&|plan, _| plan.lower_bound_bytes = plan.bytes_moved + 1).contains(&"sums"));
    assert!(rules(&|plan, _| plan.waves[0].clear()).contains(&"sums"));
    assert!(rules(&|plan, _| plan.moves.insert(1, plan.moves[0].clone())).contains(&"waves"));
    assert!(rules(&|plan, _| plan.hosts[2].peak_bytes = 0).contains(&"sums"));
    assert!(rules(&|_, wishes| wishes.max_moves = Some(1)).contains(&"limits"));
    assert!(rules(&|_, wishes| wishes.to = Some(vec!["redis-01".to_owned()])).contains(&"to"));
    assert!(rules(&|_, wishes| wishes.headroom = 0.01).contains(&"capacity"));
    let missing = |plan: &mut RebalancePlan, wishes: &mut Wishes| {
        plan.moves.pop();
        wishes.max_moves.take();
    };
    let without_last = rules(&missing);
    assert!(without_last.contains(&"drain"), "{without_last:?}");
    assert!(rules(&|_, wishes| wishes.drain.clear()).contains(&"tolerance"));
    assert!(rules(&|_, wishes| wishes.drain = vec!["redis-03".to_owned()]).contains(&"drain"));
    let mut pinned = observation.clone();
    pinned.shards[1].pinned = true;
    assert!(check(&pinned, &wishes, &found).iter().any(|violation| violation.rule == "pinned"));
}

#[test]
fn a_thousand_shards_on_a_hundred_hosts_keep_every_rule() {
    let case = large(1600, 100);
    let found = good(&case.observation, &case.wishes);
    assert!(found.gap < 0.05, "{}", found.gap);
}
