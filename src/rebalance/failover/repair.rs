//! Where the replicas are made that are missing, after a failover or by what the map asks for: by the planner's rules
//! (zones, drained hosts, headroom), on the host that is emptiest then.

use std::collections::BTreeMap;

use super::{FailoverPlan, Repair, Shard, Sight, Stranded};
use crate::rebalance::plan;
use crate::wire::shard::Role;

/// Bytes on each host, as the plan goes on.
type Used<'s> = BTreeMap<&'s str, u64>;

/// Adds what can be made anew to the plan, and what cannot.
pub fn places(sight: &Sight, plan: &mut FailoverPlan) {
    let mut used = used(sight);
    let promoted =
        plan.promotions.iter().map(|p| (p.shard, std::iter::once(&p.to).chain(&p.others).cloned().collect()));
    let freed = plan.freed.iter().map(|f| (f.shard, std::iter::once(&f.host).chain(&f.replicas).cloned().collect()));
    let mut left: Vec<(u32, Vec<String>)> = promoted.chain(freed).collect();
    let touched: Vec<u32> = left.iter().map(|(id, _)| *id).collect();
    let others = sight.shards.iter().filter(|shard| !touched.contains(&shard.id) && serves(shard));
    left.extend(others.map(|shard| (shard.id, shard.copies.iter().map(|copy| copy.host.clone()).collect())));
    // The big ones first: they find a place least easily.
    let shard_of = |id: u32| sight.shards.iter().find(|shard| shard.id == id);
    left.sort_by_key(|(id, _)| (std::cmp::Reverse(shard_of(*id).map_or(0, bytes)), *id));
    for (id, mut copies) in left {
        let Some(shard) = shard_of(id) else { continue };
        let had = if touched.contains(&id) { shard.copies.len() } else { 0 };
        while copies.len() < had.max(usize::from(sight.replicas.unwrap_or(0)) + 1) {
            match place(sight, &used, &copies, bytes(shard)) {
                Ok(host) => {
                    *used.entry(host).or_default() += bytes(shard);
                    copies.push(host.to_owned());
                    plan.repairs.push(Repair { shard: id, host: host.to_owned(), bytes: bytes(shard) });
                }
                Err(why) => {
                    plan.unrepaired.push(Stranded { shard: id, why });
                    break;
                }
            }
        }
    }
    plan.repairs.sort_by_key(|repair| repair.shard);
    plan.unrepaired.sort_by_key(|shard| shard.shard);
}

/// Does its primary serve it for sure? One that waits for a replica which the map does not name was handed over, or was
/// about to be: a replica more would have it accept writes beside another one.
fn serves(shard: &Shard) -> bool {
    let seen = &shard.primary().seen;
    let waits = usize::try_from(seen.min_replicas).is_ok_and(|needs| needs > shard.replicas().len());
    let follows = |copy: &super::Copy| matches!(copy.seen.role, Role::Replica { .. });
    matches!(seen.role, Role::Master { .. }) && !waits && shard.moving.is_none() && shard.replicas().iter().all(follows)
}

/// The host that is emptiest afterwards, of those that may hold another copy.
fn place<'s>(sight: &'s Sight, used: &Used<'_>, copies: &[String], bytes: u64) -> Result<&'s str, String> {
    let zone = |name: &str| sight.hosts.iter().find(|host| host.name == name).and_then(|host| host.zone.as_deref());
    let zones: Vec<&str> = copies.iter().filter_map(|copy| zone(copy)).collect();
    let mut best: Option<(f64, &str)> = None;
    let (mut near, mut full) = (Vec::new(), Vec::new());
    for host in sight.hosts.iter().filter(|host| !host.drain && !copies.contains(&host.name)) {
        if host.zone.as_deref().is_some_and(|zone| zones.contains(&zone)) {
            near.push(host.name.as_str());
            continue;
        }
        let after = used.get(host.name.as_str()).copied().unwrap_or(0) + bytes;
        let share = share(after, host.capacity_bytes);
        if share > plan::PlanOptions::default().max_utilization {
            full.push(host.name.as_str());
        } else if best.is_none_or(|(least, name)| (share, host.name.as_str()) < (least, name)) {
            best = Some((share, &host.name));
        }
    }
    best.map(|(_, name)| name).ok_or_else(|| match (near.is_empty(), full.is_empty()) {
        (true, true) => "no other host is there".to_owned(),
        (_, false) => format!("no room on {}", full.join(", ")),
        (false, true) => format!("{} share the zone of another copy", near.join(", ")),
    })
}

#[expect(clippy::cast_precision_loss, reason = "a share of memory")]
fn share(bytes: u64, capacity: u64) -> f64 {
    if capacity == 0 { f64::INFINITY } else { bytes as f64 / capacity as f64 }
}

fn used(sight: &Sight) -> Used<'_> {
    let mut used = Used::new();
    for shard in &sight.shards {
        for copy in &shard.copies {
            *used.entry(copy.host.as_str()).or_default() += bytes(shard);
        }
    }
    used
}

/// What a copy of a shard takes, by the largest that was seen.
fn bytes(shard: &Shard) -> u64 {
    shard.copies.iter().map(|copy| copy.seen.bytes).max().unwrap_or(0)
}
