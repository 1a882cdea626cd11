//! Tables: what is seen of the copies, and what follows.

use super::*;
use crate::messages;
use crate::wire::shard::failover::Begun;

const MASTER: Role = Role::Master { offset: 900, replicas: 0 };

fn address(host: &str) -> String {
    format!("{host}:7000")
}

/// A copy that does not answer.
fn down(host: &str) -> Copy {
    Copy { host: host.to_owned(), address: address(host), seen: Seen { address: address(host), ..Seen::default() } }
}

/// A copy in good order that follows `of` and has heard nothing for 20 s.
fn follows(host: &str, of: &str, offset: u64) -> Copy {
    let mut copy = down(host);
    copy.seen.role = Role::Replica { of: address(of), linked: false, offset };
    copy.seen.history = "h".to_owned();
    copy.seen.silent_s = Some(20);
    copy.seen.durable = true;
    copy.seen.bytes = 100;
    copy.seen.keys = 3;
    copy.seen.stream_per_s = 10;
    copy.seen.min_replicas = 1;
    copy.seen.max_lag_s = 10;
    copy
}

fn with(mut copy: Copy, change: impl FnOnce(&mut Seen)) -> Copy {
    change(&mut copy.seen);
    copy
}

fn begun(copy: Copy, promoted: bool) -> Copy {
    with(copy, |seen| {
        seen.role = Role::Master { offset: 905, replicas: 0 };
        seen.failover = Some(Begun { from: address("a"), promoted, finished: promoted });
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

fn shard(id: u32, copies: Vec<Copy>) -> Shard {
    Shard { id, copies, witnesses: Vec::new(), strays: Vec::new(), moving: None }
}

/// Host a is gone; b, c and d live, in zones 2, 2 and 1.
fn sight(shards: Vec<Vec<Copy>>) -> Sight {
    let numbered = shards.into_iter().enumerate();
    Sight {
        cluster: "test".to_owned(),
        epoch: 7,
        replicas: None,
        silent: BTreeSet::from(["a".to_owned()]),
        shards: numbered.map(|(id, copies)| shard(u32::try_from(id).unwrap(), copies)).collect(),
        hosts: vec![host("b", "2", 1000), host("c", "2", 1000), host("d", "1", 1000)],
    }
}

fn planned(shards: Vec<Vec<Copy>>) -> Result<FailoverPlan, Vec<Refusal>> {
    planned_for(shards, &["a"])
}

fn planned_for(shards: Vec<Vec<Copy>>, hosts: &[&str]) -> Result<FailoverPlan, Vec<Refusal>> {
    let scope = Scope::Hosts(hosts.iter().map(ToString::to_string).collect());
    plan(&sight(shards), &scope, Wishes { repair: true, stale: false })
}

/// `b` where that is promoted, otherwise the reason.
fn chosen(copies: Vec<Copy>) -> Result<String, String> {
    match planned(vec![copies]) {
        Ok(plan) if plan.promotions.len() == 1 => Ok(plan.promotions[0].to.clone()),
        Ok(plan) => Err(plan.stranded[0].why.clone()),
        Err(refusals) => Err(format!("refused: {}; next: {}", refusals[0].why, refusals[0].next)),
    }
}

#[test]
fn the_copy_that_has_come_furthest_is_promoted() {
    let b = |offset| follows("b", "a", offset);
    let c = |offset| follows("c", "a", offset);
    for (copies, wanted) in [
        (vec![down("a"), b(5)], "b"),
        (vec![down("a"), b(5), c(6)], "c"),
        (vec![down("a"), b(6), c(6)], "b"),
        // An older history counts higher, and ended earlier.
        (vec![down("a"), b(5), with(c(999), |s| (s.history, s.silent_s) = ("old".into(), Some(70)))], "b"),
        // What a run has begun is ended.
        (vec![down("a"), b(6), begun(follows("c", "a", 0), false)], "c"),
        (vec![down("a"), b(6), begun(follows("c", "a", 0), true)], "c"),
        // One that is not fit stands back.
        (vec![down("a"), b(5), with(c(9), |s| s.incomplete = true)], "b"),
        (vec![down("a"), b(5), with(c(9), |s| s.durable = false)], "b"),
        (vec![down("a"), b(5), with(c(9), |s| s.silent_s = Some(81))], "b"),
        (vec![down("a"), b(5), follows("c", "x", 9)], "b"),
    ] {
        assert_eq!(chosen(copies.clone()).as_deref(), Ok(wanted), "{copies:#?}");
    }
}

#[test]
fn what_may_not_be_promoted_is_said_with_the_way_out() {
    let b = || follows("b", "a", 5);
    let restarted = with(b(), |s| (s.silent_s, s.uptime_s) = (None, 9));
    let unbounded = with(follows("c", "a", 9), |s| (s.silent_s, s.min_replicas) = (Some(900), 0));
    let cases = [
        ("no replica", vec![down("a")]),
        ("a sync", vec![down("a"), with(b(), |s| s.incomplete = true)]),
        ("started since", vec![down("a"), restarted]),
        ("a primary, no failover", vec![down("a"), with(b(), |s| s.role = MASTER)]),
        ("follows another", vec![down("a"), follows("b", "x", 1)]),
        // Not dead.
        ("the primary answers", vec![with(down("a"), |s| s.role = MASTER), b()]),
        ("the primary answers b", vec![down("a"), with(b(), |s| s.primary = MASTER)]),
        ("answers, with a failover begun", vec![with(down("a"), |s| s.role = MASTER), begun(b(), false)]),
        // Not all that matters can be seen.
        ("a replica that does not answer", vec![down("a"), b(), down("c")]),
    ];
    messages::check("failover-not-promoted", cases.map(|(case, copies)| (case, chosen(copies).unwrap_err())));
    // Silent long before the others: another shard's link tells when the host died.
    let plan = planned(vec![vec![down("a"), b()], vec![down("a"), unbounded.clone()]]).unwrap();
    assert!(plan.promotions.len() == 1 && plan.stranded[0].shard == 1, "{plan:#?}");
    messages::check("failover-silent-before", [("shard 1", &plan.stranded[0].why)]);
    // With no write without its one replica, however long that is ago, it has everything.
    let bounded = with(unbounded, |s| s.min_replicas = 1);
    let plan = planned(vec![vec![down("a"), b()], vec![down("a"), bounded]]).unwrap();
    assert_eq!((plan.promotions.len(), plan.promotions[1].loss.within_s), (2, Some(12)));
}

#[test]
fn what_may_be_lost_is_bounded_where_it_can_be() {
    let loss = |change: fn(&mut Seen)| {
        let plan = planned(vec![vec![down("a"), with(follows("b", "a", 5), change)]]).unwrap();
        assert!(plan.may_lose());
        plan.promotions[0].loss.clone()
    };
    let told = |silent_s, within_s, about_bytes| Loss { silent_s, within_s, about_bytes };
    assert_eq!(loss(|_| {}), told(Some(20), Some(12), Some(120)));
    assert_eq!(loss(|s| s.silent_s = Some(3)), told(Some(3), Some(12), Some(120)));
    assert_eq!(loss(|s| s.min_replicas = 0), told(Some(20), None, Some(200)));
    let done = planned(vec![vec![down("a"), begun(follows("b", "a", 5), true)]]).unwrap();
    assert!(done.promotions[0].done && !done.may_lose());
}

#[test]
fn primaries_that_live_go_on_without_their_dead_replicas() {
    let primary = |host: &str| with(down(host), |seen| (seen.role, seen.bytes) = (MASTER, 100));
    let plan = planned(vec![
        vec![primary("b"), down("a")],
        vec![primary("b"), down("a"), follows("d", "b", 5)],
        vec![primary("c")],
    ])
    .unwrap();
    assert!(plan.promotions.is_empty() && !plan.may_lose());
    let freed: Vec<(u32, &str, usize)> =
        plan.freed.iter().map(|f| (f.shard, f.host.as_str(), f.replicas.len())).collect();
    assert_eq!(freed, [(0, "b", 0), (1, "b", 1)]);
    assert_eq!(plan.off, ["a"]);
    // A replica that answers is no dead one.
    let refused = planned(vec![vec![primary("b"), follows("a", "b", 4)]]).unwrap_err();
    messages::check("failover-replica-answers", [("shard 0", &refused[0].why)]);
}

#[test]
fn shards_that_are_named_lose_what_does_not_answer() {
    let named = |shards: Vec<Vec<Copy>>, ids: &[u32]| {
        plan(&sight(shards), &Scope::Shards(ids.to_vec()), Wishes { repair: false, stale: false })
    };
    let shards = || vec![vec![down("a"), follows("b", "a", 5)], vec![down("a"), follows("b", "a", 5), down("c")]];
    let plan = named(shards(), &[1]).unwrap();
    assert_eq!(plan.promotions.iter().map(|p| (p.shard, p.to.as_str())).collect::<Vec<_>>(), [(1, "b")]);
    assert!(plan.repairs.is_empty() && plan.unrepaired.is_empty());
    assert!(named(vec![vec![with(down("a"), |s| s.role = MASTER), follows("b", "a", 5)]], &[0]).unwrap().is_empty());
    let heard = vec![vec![down("a"), with(follows("b", "a", 5), |s| s.primary = MASTER)]];
    let heard = named(heard, &[0]).unwrap_err();
    let mut seen = sight(shards());
    seen.shards[0].witnesses.push("app".to_owned());
    let refused = super::plan(&seen, &Scope::Shards(vec![0]), Wishes { repair: false, stale: true }).unwrap_err();
    let whys = [("a replica reaches it", &heard[0].why), ("a service's host reaches it", &refused[0].why)];
    messages::check("failover-others-reach-it", whys);
}

#[test]
fn missing_replicas_go_to_the_emptiest_host_of_another_zone() {
    // Promoted on b, zone 2: only d, in zone 1, is left.
    let shard = |bytes| vec![down("a"), with(follows("b", "a", 5), |seen| seen.bytes = bytes)];
    let plan = planned(vec![shard(100), shard(500)]).unwrap();
    let places: Vec<(u32, &str, u64)> = plan.repairs.iter().map(|r| (r.shard, r.host.as_str(), r.bytes)).collect();
    assert_eq!(places, [(0, "d", 100), (1, "d", 500)]);
    // 900 of its 1000 bytes may be used: the smaller one finds no room.
    let plan = planned(vec![shard(100), shard(850)]).unwrap();
    assert_eq!((plan.repairs.len(), plan.repairs[0].shard), (1, 1));
    assert_eq!((plan.unrepaired[0].shard, plan.unrepaired[0].why.as_str()), (0, "no room on d"));
    // Promoted on d: b and c are in the other zone; the emptier one of them is c.
    let plan = planned(vec![vec![down("a"), follows("d", "a", 5)], shard(100)]).unwrap();
    assert_eq!((plan.repairs[0].shard, plan.repairs[0].host.as_str()), (0, "c"));
    // A map that does not say how many replicas there are to be says so from now on.
    assert_eq!(plan.asks_for, Some(1));
    // What a run before has left is made too, and is all that a map lacks without a death.
    let mut seen = sight(vec![shard(100), vec![with(down("b"), |seen| (seen.role, seen.bytes) = (MASTER, 7))]]);
    assert!(lacking(&seen).0.is_empty());
    seen.replicas = Some(1);
    let scope = Scope::Hosts(vec!["a".into()]);
    let plan = super::plan(&seen, &scope, Wishes { repair: true, stale: false }).unwrap();
    assert_eq!((plan.repairs.len(), plan.asks_for), (2, None));
    seen.shards.remove(0);
    assert_eq!(lacking(&seen), (vec![Repair { shard: 1, host: "d".to_owned(), bytes: 7 }], vec![]));
    seen.shards[0].moving = Some(Moving { to: "c".to_owned(), stage: Stage::Copied });
    assert!(lacking(&seen).0.is_empty(), "its move is ended first");
    // Nobody else.
    let mut alone = sight(vec![shard(100)]);
    alone.hosts.truncate(2);
    let plan = super::plan(&alone, &Scope::Hosts(vec!["a".into()]), Wishes { repair: true, stale: false }).unwrap();
    assert_eq!(plan.unrepaired[0].why, "c share the zone of another copy");
}

#[test]
fn what_follows_a_dead_primary_unnamed_leaves_it_and_its_move_is_given_up() {
    let scope = Scope::Hosts(vec!["a".into()]);
    let wishes = Wishes { repair: false, stale: false };
    let mut seen = sight(vec![vec![down("a"), follows("b", "a", 5)], vec![down("a"), follows("b", "a", 5)]]);
    seen.shards[0].strays.push("c".to_owned());
    seen.shards[0].moving = Some(Moving { to: "c".to_owned(), stage: Stage::Copied });
    // That target may have been opened: nothing else may be.
    seen.shards[1].moving = Some(Moving { to: "c".to_owned(), stage: Stage::Unclear });
    let plan = super::plan(&seen, &scope, wishes).unwrap();
    let promotion = &plan.promotions[0];
    assert_eq!((plan.promotions.len(), promotion.shard, promotion.given_up.as_deref()), (1, 0, Some("c")));
    assert_eq!((promotion.strays.as_slice(), promotion.others.len()), (["c".to_owned()].as_slice(), 0));
    let unclear = plan.stranded[0].why.clone();
    // The target serves: it has everything, and no replica is wanted for that.
    let mut switched = sight(vec![vec![down("a")]]);
    switched.shards[0].moving = Some(Moving { to: "c".to_owned(), stage: Stage::Switched });
    let plan = super::plan(&switched, &scope, wishes).unwrap();
    assert!(plan.promotions.is_empty(), "{plan:#?}");
    let whys = [("an unclear move", &unclear), ("a switched move", &plan.stranded[0].why)];
    messages::check("failover-moving", whys);
    // The other way round: the target's host died right before the switch, and the primary needs a replica too many.
    let armed = with(down("b"), |seen| (seen.role, seen.min_replicas) = (MASTER, 1));
    let plan =
        super::plan(&sight(vec![vec![armed.clone()], vec![armed, follows("d", "b", 5)]]), &scope, wishes).unwrap();
    assert_eq!(plan.freed.iter().map(|f| (f.shard, f.gone.len(), f.replicas.len())).collect::<Vec<_>>(), [(0, 0, 0)]);
}

#[test]
fn hosts_that_are_given_up_together_are_taken_to_be_off() {
    let shards = || vec![vec![down("a"), follows("b", "a", 5), down("c")]];
    assert!(planned(shards()).is_err());
    let mut sight = sight(shards());
    sight.silent.insert("c".to_owned());
    let scope = Scope::Hosts(vec!["a".into(), "c".into()]);
    let plan = super::plan(&sight, &scope, Wishes { repair: true, stale: false }).unwrap();
    assert_eq!(plan.off, ["a", "c"]);
    assert_eq!((plan.promotions[0].to.as_str(), plan.promotions[0].others.len()), ("b", 0));
}
