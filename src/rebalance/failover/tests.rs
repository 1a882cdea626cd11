//! Tables: what is seen of the copies, and what follows.

use dunlin_shards::{InstanceAddress, ShardId};

use super::*;
use crate::messages;
use crate::protocol::shard::failover::FailoverRecord;

const PRIMARY_ROLE: ReplicationRole = ReplicationRole::Primary { offset: 900, replicas: 0 };

fn address(host: &str) -> InstanceAddress {
    InstanceAddress::new(host, 7000)
}

/// A copy that does not answer.
fn unreachable_copy(host: &str) -> CopyView {
    CopyView {
        host: host.to_owned(),
        address: address(host),
        probe: ProbeResult { address: address(host), ..ProbeResult::default() },
    }
}

/// A copy in good order that follows `of` and has heard nothing for 20 s.
fn replica_copy(host: &str, of: &str, offset: u64) -> CopyView {
    let mut copy = unreachable_copy(host);
    copy.probe.role = ReplicationRole::Replica { primary: address(of), link_is_up: false, offset };
    copy.probe.replication_id = "h".to_owned();
    copy.probe.silent_for_s = Some(20);
    copy.probe.is_durable = true;
    copy.probe.bytes = 100;
    copy.probe.keys = 3;
    copy.probe.stream_bytes_per_s = 10;
    copy.probe.min_replicas = 1;
    copy.probe.min_replicas_max_lag_s = 10;
    copy
}

fn with_probe(mut copy: CopyView, change: impl FnOnce(&mut ProbeResult)) -> CopyView {
    change(&mut copy.probe);
    copy
}

fn failover_started(copy: CopyView, promoted: bool) -> CopyView {
    with_probe(copy, |seen| {
        seen.role = ReplicationRole::Primary { offset: 905, replicas: 0 };
        seen.failover = Some(FailoverRecord { from: address("a"), promotion_started: promoted, is_finished: promoted });
    })
}

fn host(name: &str, zone: &str, capacity: u64) -> HostLoad {
    HostLoad {
        name: name.to_owned(),
        zone: Some(zone.to_owned()),
        capacity_bytes: capacity,
        weight: 1.0,
        drain: false,
        details: std::collections::BTreeMap::new(),
    }
}

fn shard(id: ShardId, copies: Vec<CopyView>) -> ShardView {
    ShardView { id, copies, witnesses: Vec::new(), orphans: Vec::new(), open_move: None }
}

/// Host a is gone; b, c and d live, in zones 2, 2 and 1.
fn view_without_a(shards: Vec<Vec<CopyView>>) -> ClusterView {
    let numbered = shards.into_iter().enumerate();
    ClusterView {
        cluster: "test".to_owned(),
        epoch: 7,
        replica_count: None,
        unreachable_hosts: BTreeSet::from(["a".to_owned()]),
        shards: numbered.map(|(id, copies)| shard(ShardId(u16::try_from(id).unwrap()), copies)).collect(),
        hosts: vec![host("b", "2", 1000), host("c", "2", 1000), host("d", "1", 1000)],
    }
}

fn plan_without_a(shards: Vec<Vec<CopyView>>) -> Result<FailoverPlan, Vec<FailoverBlocker>> {
    plan_without(shards, &["a"])
}

fn plan_without(shards: Vec<Vec<CopyView>>, hosts: &[&str]) -> Result<FailoverPlan, Vec<FailoverBlocker>> {
    let scope = FailoverScope::Hosts(hosts.iter().map(ToString::to_string).collect());
    plan_failover(&view_without_a(shards), &scope, FailoverOptions { create_replicas: true, allow_stale: false })
}

/// `b` where that is promoted, otherwise the reason.
fn chosen_host(copies: Vec<CopyView>) -> Result<String, String> {
    match plan_without_a(vec![copies]) {
        Ok(plan) if plan.promotions.len() == 1 => Ok(plan.promotions[0].to.clone()),
        Ok(plan) => Err(plan.unavailable_shards[0].reason.clone()),
        Err(refusals) => Err(format!("refused: {}; next: {}", refusals[0].reason, refusals[0].next_step)),
    }
}

#[test]
fn the_most_advanced_replica_is_promoted() {
    let b = |offset| replica_copy("b", "a", offset);
    let c = |offset| replica_copy("c", "a", offset);
    for (copies, wanted) in [
        (vec![unreachable_copy("a"), b(5)], "b"),
        (vec![unreachable_copy("a"), b(5), c(6)], "c"),
        (vec![unreachable_copy("a"), b(6), c(6)], "b"),
        // An older history counts higher, and ended earlier.
        (
            vec![
                unreachable_copy("a"),
                b(5),
                with_probe(c(999), |s| (s.replication_id, s.silent_for_s) = ("old".into(), Some(70))),
            ],
            "b",
        ),
        // What a run has begun is ended.
        (vec![unreachable_copy("a"), b(6), failover_started(replica_copy("c", "a", 0), false)], "c"),
        (vec![unreachable_copy("a"), b(6), failover_started(replica_copy("c", "a", 0), true)], "c"),
        // A copy that is not eligible is skipped.
        (vec![unreachable_copy("a"), b(5), with_probe(c(9), |s| s.is_syncing = true)], "b"),
        (vec![unreachable_copy("a"), b(5), with_probe(c(9), |s| s.is_durable = false)], "b"),
        (vec![unreachable_copy("a"), b(5), with_probe(c(9), |s| s.silent_for_s = Some(81))], "b"),
        (vec![unreachable_copy("a"), b(5), replica_copy("c", "x", 9)], "b"),
    ] {
        assert_eq!(chosen_host(copies.clone()).as_deref(), Ok(wanted), "{copies:#?}");
    }
}

#[test]
fn ineligible_replicas_are_reported_with_the_next_step() {
    let b = || replica_copy("b", "a", 5);
    let restarted = with_probe(b(), |s| (s.silent_for_s, s.uptime_s) = (None, 9));
    let unbounded = with_probe(replica_copy("c", "a", 9), |s| (s.silent_for_s, s.min_replicas) = (Some(900), 0));
    let cases = [
        ("no replica", vec![unreachable_copy("a")]),
        ("a sync", vec![unreachable_copy("a"), with_probe(b(), |s| s.is_syncing = true)]),
        ("started since", vec![unreachable_copy("a"), restarted]),
        ("a primary, no failover", vec![unreachable_copy("a"), with_probe(b(), |s| s.role = PRIMARY_ROLE)]),
        ("follows another", vec![unreachable_copy("a"), replica_copy("b", "x", 1)]),
        // Not dead.
        ("the primary answers", vec![with_probe(unreachable_copy("a"), |s| s.role = PRIMARY_ROLE), b()]),
        ("the primary answers b", vec![unreachable_copy("a"), with_probe(b(), |s| s.primary_role = PRIMARY_ROLE)]),
        (
            "answers, with a failover begun",
            vec![with_probe(unreachable_copy("a"), |s| s.role = PRIMARY_ROLE), failover_started(b(), false)],
        ),
        // Not all that matters can be seen.
        ("a replica that does not answer", vec![unreachable_copy("a"), b(), unreachable_copy("c")]),
    ];
    messages::check("failover-not-promoted", cases.map(|(case, copies)| (case, chosen_host(copies).unwrap_err())));
    // Silent long before the others: another shard's link shows when the host died.
    let plan =
        plan_without_a(vec![vec![unreachable_copy("a"), b()], vec![unreachable_copy("a"), unbounded.clone()]]).unwrap();
    assert!(plan.promotions.len() == 1 && plan.unavailable_shards[0].shard == ShardId(1), "{plan:#?}");
    messages::check("failover-silent-before", [("shard 1", &plan.unavailable_shards[0].reason)]);
    // With no write without its one replica, however long that is ago, it has everything.
    let bounded = with_probe(unbounded, |s| s.min_replicas = 1);
    let plan = plan_without_a(vec![vec![unreachable_copy("a"), b()], vec![unreachable_copy("a"), bounded]]).unwrap();
    assert_eq!((plan.promotions.len(), plan.promotions[1].max_loss.max_window_s), (2, Some(12)));
}

#[test]
fn data_loss_is_bounded_where_possible() {
    let loss = |change: fn(&mut ProbeResult)| {
        let plan =
            plan_without_a(vec![vec![unreachable_copy("a"), with_probe(replica_copy("b", "a", 5), change)]]).unwrap();
        assert!(plan.may_lose_writes());
        plan.promotions[0].max_loss.clone()
    };
    let bound = |silent_s, within_s, about_bytes| DataLossBound {
        silent_for_s: silent_s,
        max_window_s: within_s,
        estimated_bytes: about_bytes,
    };
    assert_eq!(loss(|_| {}), bound(Some(20), Some(12), Some(120)));
    assert_eq!(loss(|s| s.silent_for_s = Some(3)), bound(Some(3), Some(12), Some(120)));
    assert_eq!(loss(|s| s.min_replicas = 0), bound(Some(20), None, Some(200)));
    let done =
        plan_without_a(vec![vec![unreachable_copy("a"), failover_started(replica_copy("b", "a", 5), true)]]).unwrap();
    assert!(done.promotions[0].already_promoted && !done.may_lose_writes());
}

#[test]
fn live_primaries_continue_without_dead_replicas() {
    let primary = |host: &str| with_probe(unreachable_copy(host), |seen| (seen.role, seen.bytes) = (PRIMARY_ROLE, 100));
    let plan = plan_without_a(vec![
        vec![primary("b"), unreachable_copy("a")],
        vec![primary("b"), unreachable_copy("a"), replica_copy("d", "b", 5)],
        vec![primary("c")],
    ])
    .unwrap();
    assert!(plan.promotions.is_empty() && !plan.may_lose_writes());
    let freed: Vec<(ShardId, &str, usize)> =
        plan.degraded_primaries.iter().map(|f| (f.shard, f.host.as_str(), f.replicas.len())).collect();
    assert_eq!(freed, [(ShardId(0), "b", 0), (ShardId(1), "b", 1)]);
    assert_eq!(plan.assumed_dead, ["a"]);
    // A replica that answers is no dead one.
    let refused = plan_without_a(vec![vec![primary("b"), replica_copy("a", "b", 4)]]).unwrap_err();
    messages::check("failover-replica-answers", [("shard 0", &refused[0].reason)]);
}

#[test]
fn named_shards_drop_their_unreachable_instances() {
    let named = |shards: Vec<Vec<CopyView>>, ids: &[ShardId]| {
        plan_failover(
            &view_without_a(shards),
            &FailoverScope::Shards(ids.to_vec()),
            FailoverOptions { create_replicas: false, allow_stale: false },
        )
    };
    let shards = || {
        vec![
            vec![unreachable_copy("a"), replica_copy("b", "a", 5)],
            vec![unreachable_copy("a"), replica_copy("b", "a", 5), unreachable_copy("c")],
        ]
    };
    let plan = named(shards(), &[ShardId(1)]).unwrap();
    assert_eq!(plan.promotions.iter().map(|p| (p.shard, p.to.as_str())).collect::<Vec<_>>(), [(ShardId(1), "b")]);
    assert!(plan.replicas_to_create.is_empty() && plan.unplaceable_replicas.is_empty());
    assert!(
        named(
            vec![vec![with_probe(unreachable_copy("a"), |s| s.role = PRIMARY_ROLE), replica_copy("b", "a", 5)]],
            &[ShardId(0)]
        )
        .unwrap()
        .is_empty()
    );
    let heard =
        vec![vec![unreachable_copy("a"), with_probe(replica_copy("b", "a", 5), |s| s.primary_role = PRIMARY_ROLE)]];
    let heard = named(heard, &[ShardId(0)]).unwrap_err();
    let mut seen = view_without_a(shards());
    seen.shards[0].witnesses.push("app".to_owned());
    let refused = super::plan_failover(
        &seen,
        &FailoverScope::Shards(vec![ShardId(0)]),
        FailoverOptions { create_replicas: false, allow_stale: true },
    )
    .unwrap_err();
    let whys = [("a replica reaches it", &heard[0].reason), ("a service's host reaches it", &refused[0].reason)];
    messages::check("failover-others-reach-it", whys);
}

#[test]
fn missing_replicas_go_to_the_emptiest_host_of_another_zone() {
    // Promoted on b, zone 2: only d, in zone 1, is left.
    let shard = |bytes| vec![unreachable_copy("a"), with_probe(replica_copy("b", "a", 5), |seen| seen.bytes = bytes)];
    let plan = plan_without_a(vec![shard(100), shard(500)]).unwrap();
    let places: Vec<(ShardId, &str, u64)> =
        plan.replicas_to_create.iter().map(|r| (r.shard, r.host.as_str(), r.bytes)).collect();
    assert_eq!(places, [(ShardId(0), "d", 100), (ShardId(1), "d", 500)]);
    // 900 of its 1000 bytes may be used: the smaller one finds no room.
    let plan = plan_without_a(vec![shard(100), shard(850)]).unwrap();
    assert_eq!((plan.replicas_to_create.len(), plan.replicas_to_create[0].shard), (1, ShardId(1)));
    assert_eq!(
        (plan.unplaceable_replicas[0].shard, plan.unplaceable_replicas[0].reason.as_str()),
        (ShardId(0), "not enough free memory on d")
    );
    // Promoted on d: b and c are in the other zone; the emptier one of them is c.
    let plan = plan_without_a(vec![vec![unreachable_copy("a"), replica_copy("d", "a", 5)], shard(100)]).unwrap();
    assert_eq!((plan.replicas_to_create[0].shard, plan.replicas_to_create[0].host.as_str()), (ShardId(0), "c"));
    // A map that does not say how many replicas there are to be says so from now on.
    assert_eq!(plan.replica_count, Some(1));
    // What a run before has left is made too, and is all that a map lacks without a death.
    let mut seen = view_without_a(vec![
        shard(100),
        vec![with_probe(unreachable_copy("b"), |seen| (seen.role, seen.bytes) = (PRIMARY_ROLE, 7))],
    ]);
    assert!(find_missing_replicas(&seen).0.is_empty());
    seen.replica_count = Some(1);
    let scope = FailoverScope::Hosts(vec!["a".into()]);
    let plan =
        super::plan_failover(&seen, &scope, FailoverOptions { create_replicas: true, allow_stale: false }).unwrap();
    assert_eq!((plan.replicas_to_create.len(), plan.replica_count), (2, None));
    seen.shards.remove(0);
    assert_eq!(
        find_missing_replicas(&seen),
        (vec![ReplicaToCreate { shard: ShardId(1), host: "d".to_owned(), bytes: 7 }], vec![])
    );
    seen.shards[0].open_move = Some(OpenMove { to: "c".to_owned(), stage: MoveStage::Copied });
    assert!(find_missing_replicas(&seen).0.is_empty(), "its move is ended first");
    // Nobody else.
    let mut alone = view_without_a(vec![shard(100)]);
    alone.hosts.truncate(2);
    let plan = super::plan_failover(
        &alone,
        &FailoverScope::Hosts(vec!["a".into()]),
        FailoverOptions { create_replicas: true, allow_stale: false },
    )
    .unwrap();
    assert_eq!(plan.unplaceable_replicas[0].reason, "c share the zone of another copy");
}

#[test]
fn orphans_of_a_dead_primary_are_detached_and_the_move_is_cancelled() {
    let scope = FailoverScope::Hosts(vec!["a".into()]);
    let options = FailoverOptions { create_replicas: false, allow_stale: false };
    let mut seen = view_without_a(vec![
        vec![unreachable_copy("a"), replica_copy("b", "a", 5)],
        vec![unreachable_copy("a"), replica_copy("b", "a", 5)],
    ]);
    seen.shards[0].orphans.push("c".to_owned());
    seen.shards[0].open_move = Some(OpenMove { to: "c".to_owned(), stage: MoveStage::Copied });
    // That target may have been opened: nothing else may be.
    seen.shards[1].open_move = Some(OpenMove { to: "c".to_owned(), stage: MoveStage::Undecided });
    let plan = super::plan_failover(&seen, &scope, options).unwrap();
    let promotion = &plan.promotions[0];
    assert_eq!(
        (plan.promotions.len(), promotion.shard, promotion.cancelled_target.as_deref()),
        (1, ShardId(0), Some("c"))
    );
    assert_eq!((promotion.orphans.as_slice(), promotion.other_replicas.len()), (["c".to_owned()].as_slice(), 0));
    let unclear = plan.unavailable_shards[0].reason.clone();
    // The target serves: it has everything, and no replica is wanted for that.
    let mut switched = view_without_a(vec![vec![unreachable_copy("a")]]);
    switched.shards[0].open_move = Some(OpenMove { to: "c".to_owned(), stage: MoveStage::CutOver });
    let plan = super::plan_failover(&switched, &scope, options).unwrap();
    assert!(plan.promotions.is_empty(), "{plan:#?}");
    let whys = [("an unclear move", &unclear), ("a switched move", &plan.unavailable_shards[0].reason)];
    messages::check("failover-moving", whys);
    // The other way round: the target's host died right before the switch, and the primary needs a replica too many.
    let armed = with_probe(unreachable_copy("b"), |seen| (seen.role, seen.min_replicas) = (PRIMARY_ROLE, 1));
    let plan = super::plan_failover(
        &view_without_a(vec![vec![armed.clone()], vec![armed, replica_copy("d", "b", 5)]]),
        &scope,
        options,
    )
    .unwrap();
    assert_eq!(
        plan.degraded_primaries.iter().map(|f| (f.shard, f.lost_replicas.len(), f.replicas.len())).collect::<Vec<_>>(),
        [(ShardId(0), 0, 0)]
    );
}

#[test]
fn named_unreachable_hosts_are_assumed_dead() {
    let shards = || vec![vec![unreachable_copy("a"), replica_copy("b", "a", 5), unreachable_copy("c")]];
    assert!(plan_without_a(shards()).is_err());
    let mut sight = view_without_a(shards());
    sight.unreachable_hosts.insert("c".to_owned());
    let scope = FailoverScope::Hosts(vec!["a".into(), "c".into()]);
    let plan =
        super::plan_failover(&sight, &scope, FailoverOptions { create_replicas: true, allow_stale: false }).unwrap();
    assert_eq!(plan.assumed_dead, ["a", "c"]);
    assert_eq!((plan.promotions[0].to.as_str(), plan.promotions[0].other_replicas.len()), ("b", 0));
}
