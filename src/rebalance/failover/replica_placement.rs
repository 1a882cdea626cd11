//! Chooses hosts for missing replicas, after a failover or when the map asks for more: by the planner's rules (zones,
//! drained hosts, headroom), the emptiest host first.

use std::collections::BTreeMap;

use dunlin_shards::ShardId;

use super::{ClusterView, FailoverPlan, ReplicaToCreate, ShardView, UnresolvedShard};
use crate::protocol::shard::ReplicationRole;
use crate::rebalance::plan;

/// Bytes on each host while the plan is built.
type UsedBytes<'s> = BTreeMap<&'s str, u64>;

/// Adds to the plan the replicas that can be created, and those that cannot.
pub fn place_replicas(view: &ClusterView, plan: &mut FailoverPlan) {
    let mut used_bytes = count_used_bytes(view);
    let promoted =
        plan.promotions.iter().map(|p| (p.shard, std::iter::once(&p.to).chain(&p.other_replicas).cloned().collect()));
    let degraded = plan
        .degraded_primaries
        .iter()
        .map(|f| (f.shard, std::iter::once(&f.host).chain(&f.replicas).cloned().collect()));
    let mut placements: Vec<(ShardId, Vec<String>)> = promoted.chain(degraded).collect();
    let planned: Vec<ShardId> = placements.iter().map(|(id, _)| *id).collect();
    let others = view.shards.iter().filter(|shard| !planned.contains(&shard.id) && is_served_by_primary(shard));
    placements.extend(others.map(|shard| (shard.id, shard.copies.iter().map(|copy| copy.host.clone()).collect())));
    // The big ones first: they find a place least easily.
    let shard_of = |id: ShardId| view.shards.iter().find(|shard| shard.id == id);
    placements.sort_by_key(|(id, _)| (std::cmp::Reverse(shard_of(*id).map_or(0, shard_bytes)), *id));
    for (id, mut copies) in placements {
        let Some(shard) = shard_of(id) else { continue };
        let copies_before = if planned.contains(&id) { shard.copies.len() } else { 0 };
        while copies.len() < copies_before.max(usize::from(view.replica_count.unwrap_or(0)) + 1) {
            match select_host(view, &used_bytes, &copies, shard_bytes(shard)) {
                Ok(host) => {
                    *used_bytes.entry(host).or_default() += shard_bytes(shard);
                    copies.push(host.to_owned());
                    plan.replicas_to_create.push(ReplicaToCreate {
                        shard: id,
                        host: host.to_owned(),
                        bytes: shard_bytes(shard),
                    });
                }
                Err(why) => {
                    plan.unplaceable_replicas.push(UnresolvedShard { shard: id, reason: why });
                    break;
                }
            }
        }
    }
    plan.replicas_to_create.sort_by_key(|repair| repair.shard);
    plan.unplaceable_replicas.sort_by_key(|shard| shard.shard);
}

/// Returns whether the primary certainly serves the shard. A primary that waits for a replica which the map does not
/// name was handed over, or was about to be: with one more replica it would accept writes beside the new primary.
fn is_served_by_primary(shard: &ShardView) -> bool {
    let probe = &shard.primary().probe;
    let waits_for_missing_replica =
        usize::try_from(probe.min_replicas).is_ok_and(|needs| needs > shard.replicas().len());
    let follows = |copy: &super::CopyView| matches!(copy.probe.role, ReplicationRole::Replica { .. });
    matches!(probe.role, ReplicationRole::Primary { .. })
        && !waits_for_missing_replica
        && shard.open_move.is_none()
        && shard.replicas().iter().all(follows)
}

/// Selects the host that is emptiest afterwards, among those that may hold another copy.
fn select_host<'s>(
    view: &'s ClusterView,
    used_bytes: &UsedBytes<'_>,
    copies: &[String],
    bytes: u64,
) -> Result<&'s str, String> {
    let zone = |name: &str| view.hosts.iter().find(|host| host.name == name).and_then(|host| host.zone.as_deref());
    let zones: Vec<&str> = copies.iter().filter_map(|copy| zone(copy)).collect();
    let mut best: Option<(f64, &str)> = None;
    let (mut same_zone, mut full) = (Vec::new(), Vec::new());
    for host in view.hosts.iter().filter(|host| !host.drain && !copies.contains(&host.name)) {
        if host.zone.as_deref().is_some_and(|zone| zones.contains(&zone)) {
            same_zone.push(host.name.as_str());
            continue;
        }
        let after = used_bytes.get(host.name.as_str()).copied().unwrap_or(0) + bytes;
        let fill = fill_ratio(after, host.capacity_bytes);
        if fill > plan::PlanOptions::default().max_utilization {
            full.push(host.name.as_str());
        } else if best.is_none_or(|(least, name)| (fill, host.name.as_str()) < (least, name)) {
            best = Some((fill, &host.name));
        }
    }
    best.map(|(_, name)| name).ok_or_else(|| match (same_zone.is_empty(), full.is_empty()) {
        (true, true) => "no other host is there".to_owned(),
        (_, false) => format!("not enough free memory on {}", full.join(", ")),
        (false, true) => format!("{} share the zone of another copy", same_zone.join(", ")),
    })
}

#[expect(clippy::cast_precision_loss, reason = "a share of memory")]
fn fill_ratio(bytes: u64, capacity: u64) -> f64 {
    if capacity == 0 { f64::INFINITY } else { bytes as f64 / capacity as f64 }
}

fn count_used_bytes(view: &ClusterView) -> UsedBytes<'_> {
    let mut used_bytes = UsedBytes::new();
    for shard in &view.shards {
        for copy in &shard.copies {
            *used_bytes.entry(copy.host.as_str()).or_default() += shard_bytes(shard);
        }
    }
    used_bytes
}

/// Returns the size of a copy of a shard: that of the largest one observed.
fn shard_bytes(shard: &ShardView) -> u64 {
    shard.copies.iter().map(|copy| copy.probe.bytes).max().unwrap_or(0)
}
