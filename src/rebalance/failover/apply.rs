//! Carrying a failover out: old primaries are silenced where their hosts answer, copies promoted, primaries freed of
//! dead replicas; then one epoch for all of it, and what is left of the old primaries is set aside.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use dunlin_shards::{InstanceAddress, ShardId, ShardMap, ShardPlacement};

use super::{DegradedPrimary, FailoverPlan, Promotion};
use crate::protocol::call;
use crate::protocol::shard::failover::{
    ArchivedInstance, InstanceRef, LowerMinReplicasRequest, PromoteReplica, PromoteResult,
};
use crate::protocol::shard::{MoveRecord, MoveState, Operation, ReplicationRole};
use crate::protocol::throttle::ThrottleLimits;
use crate::rebalance::connected_hosts::ProgressFn;
use crate::rebalance::{RebalanceContext, publish};

/// Result of a failover.
#[derive(Debug, Default)]
pub struct FailoverOutcome {
    /// The shards that have a new primary, with how it went.
    pub promoted: BTreeMap<ShardId, PromoteResult>,
    /// The shards whose primary continues without the dead replica.
    pub lowered: Vec<ShardId>,
    /// Failed promotions with their errors, by shard.
    pub failed: BTreeMap<ShardId, String>,
    /// Error of publishing the new map.
    pub publish_error: Option<String>,
    /// The epoch that was published, where there was anything to publish.
    pub epoch: Option<u64>,
}

/// Promotes, frees and publishes. What failed for one shard does not hold up the others.
///
/// # Errors
/// Returns an error if the map cannot be read.
pub async fn apply_failover(
    context: &RebalanceContext<'_>,
    plan: &FailoverPlan,
    run: &str,
    on_progress: ProgressFn<'_>,
) -> Result<FailoverOutcome> {
    let map = context.map_file.read()?;
    let mut outcome = FailoverOutcome::default();
    let mut placements = Vec::new();
    let promoted = context
        .hosts
        .fleet
        .map_parallel(&plan.promotions, |p| promote_replica(context, &map, p, run, on_progress))
        .await;
    for (promotion, result) in plan.promotions.iter().zip(promoted) {
        match result {
            Ok(promoted) => {
                outcome.promoted.insert(promotion.shard, promoted);
                placements.push(promotion.placement_after()?);
            }
            Err(error) => drop(outcome.failed.insert(promotion.shard, format!("{error:#}"))),
        }
    }
    let lowered = context
        .hosts
        .fleet
        .map_parallel(&plan.degraded_primaries, |freed| lower_min_replicas(context, &map, freed, run))
        .await;
    for (freed, result) in plan.degraded_primaries.iter().zip(lowered) {
        match result {
            Ok(()) => {
                outcome.lowered.push(freed.shard);
                placements.push(freed.placement_after()?);
            }
            Err(error) => drop(outcome.failed.insert(freed.shard, format!("{error:#}"))),
        }
    }
    if !placements.is_empty() {
        match publish::publish_map_with_replica_count(context, &placements, plan.replica_count).await {
            Ok(map) => outcome.epoch = Some(map.epoch.0),
            Err(error) => outcome.publish_error = Some(format!("{error:#}")),
        }
    }
    Ok(outcome)
}

impl Promotion {
    /// Returns the placement of the shard after the failover.
    ///
    /// # Errors
    /// Returns an error if there is no such shard.
    pub fn placement_after(&self) -> Result<ShardPlacement> {
        Ok(ShardPlacement { shard: self.shard, host: self.to.clone(), replicas: self.other_replicas.clone() })
    }
}

impl DegradedPrimary {
    /// Returns the placement of the shard after the failover.
    ///
    /// # Errors
    /// Returns an error if there is no such shard.
    pub fn placement_after(&self) -> Result<ShardPlacement> {
        Ok(ShardPlacement { shard: self.shard, host: self.host.clone(), replicas: self.replicas.clone() })
    }
}

async fn promote_replica(
    context: &RebalanceContext<'_>,
    map: &ShardMap,
    promotion: &Promotion,
    run: &str,
    on_progress: ProgressFn<'_>,
) -> Result<PromoteResult> {
    let (shard, from) = (promotion.shard, promotion.from.as_str());
    if let Some(host) = &promotion.cancelled_target {
        let request = instance_ref(context, map, shard, host, run)?;
        context.hosts.call_host(host, call::DiscardMove(request), &|_, _| {}).await?;
    }
    let old_primary_is_stopped =
        if promotion.already_promoted { false } else { stop_old_primary(context, map, shard, from, run).await? };
    let after = map_with_placement(map, &promotion.placement_after()?);
    let address = |host: &str| context.hosts.instance_address(map, shard, host);
    let others = promotion.other_replicas.iter().chain(&promotion.orphans);
    let other_replicas = others.map(|host| address(host)).collect::<Result<_>>()?;
    let what = PromoteReplica {
        header: context.hosts.step_header(&promotion.to, shard, run),
        record: MoveRecord {
            operation: Operation::Failover { other_replicas },
            from: address(from)?,
            to: address(&promotion.to)?,
            epoch: after.epoch.0,
            app_user: shard.acl_user(),
            instance: context.desired_instance(&after, shard, &promotion.to)?,
            min_replicas: None,
            operator: context.options.operator.clone(),
            throttle: ThrottleLimits::default(),
        },
        offset: promotion.offset,
        old_primary_is_stopped,
    };
    request_promotion(context, &promotion.to, what, on_progress).await
}

async fn request_promotion(
    context: &RebalanceContext<'_>,
    host: &str,
    request: PromoteReplica,
    on_progress: ProgressFn<'_>,
) -> Result<PromoteResult> {
    context.hosts.call_host(host, call::Promote(request), on_progress).await
}

/// Stops the old primary permanently, if its host answers. Returns whether it did.
async fn stop_old_primary(
    context: &RebalanceContext<'_>,
    map: &ShardMap,
    shard: ShardId,
    host: &str,
    run: &str,
) -> Result<bool> {
    if context.hosts.unreachable.contains(host) {
        return Ok(false);
    }
    let request = instance_ref(context, map, shard, host, run)?;
    context.hosts.call_host(host, call::StopOldPrimary(request), &|_, _| {}).await?;
    Ok(true)
}

async fn lower_min_replicas(
    context: &RebalanceContext<'_>,
    map: &ShardMap,
    degraded: &DegradedPrimary,
    run: &str,
) -> Result<()> {
    let primary = instance_ref(context, map, degraded.shard, &degraded.host, run)?;
    let request = LowerMinReplicasRequest { primary, replicas: u32::try_from(degraded.replicas.len())? };
    context.hosts.call_host(&degraded.host, call::LowerMinReplicas(request), &|_, _| {}).await
}

/// A shard's instance on a host, whether or not the map has one there.
fn instance_ref(
    context: &RebalanceContext<'_>,
    map: &ShardMap,
    shard: ShardId,
    host: &str,
    run: &str,
) -> Result<InstanceRef> {
    let id = shard;
    let entry = map.find_shard(id).with_context(|| format!("there is no shard {shard}"))?;
    let map_with_instance =
        map_with_placement(map, &ShardPlacement { shard: id, host: host.to_owned(), replicas: Vec::new() });
    Ok(InstanceRef {
        header: context.hosts.step_header(host, shard, run),
        address: context.hosts.instance_address(map, shard, host)?,
        primary: context.hosts.instance_address(map, shard, &entry.host)?,
        epoch: map.epoch.0,
        instance: context.desired_instance(&map_with_instance, shard, host)?,
    })
}

/// The map with a shard's copies at other places, one epoch later.
fn map_with_placement(map: &ShardMap, placement: &ShardPlacement) -> ShardMap {
    let mut after = map.clone();
    for entry in after.shards.iter_mut().filter(|entry| entry.id == placement.shard) {
        entry.host.clone_from(&placement.host);
        entry.replicas.clone_from(&placement.replicas);
    }
    after.epoch = after.epoch.next();
    after
}

/// Stops an instance that the map does not know, and keeps its files.
///
/// # Errors
/// Returns an error if the shard's owner does not answer, or the host's journal knows a later map: nothing is stopped
/// then.
pub async fn archive_instance(
    context: &RebalanceContext<'_>,
    shard: ShardId,
    host: &str,
    run: &str,
) -> Result<ArchivedInstance> {
    let map = context.map_file.read()?;
    let request = instance_ref(context, &map, shard, host, run)?;
    context.hosts.call_host(host, call::ArchiveInstance(request), &|_, _| {}).await
}

/// Resolution of an interrupted failover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailoverResolution {
    /// The copy is the primary, and the map says so.
    Promoted,
    /// The primary was there again: it serves, the copy follows.
    Reverted,
}

/// Finishes interrupted failovers: forward, unless their primary is back and nothing was opened. One
/// epoch for all that went on. Returns how each of them ended, in their order.
///
/// # Errors
/// Returns an error if a consumer did not take the map.
pub async fn resume_failovers(
    context: &RebalanceContext<'_>,
    states: &[&MoveState],
    on_progress: ProgressFn<'_>,
) -> Result<Vec<Result<FailoverResolution>>> {
    let map = context.map_file.read()?;
    let results =
        context.hosts.fleet.map_parallel(states, |state| resume_failover(context, &map, state, on_progress)).await;
    let mut placements = Vec::new();
    for (state, result) in states.iter().zip(&results) {
        if let Ok(FailoverResolution::Promoted) = result {
            placements.push(placement_after_failover(context, &map, state)?);
        }
    }
    if !placements.is_empty() {
        let asks_for = super::default_replica_count(map.replicas, map.shards.iter().map(|entry| entry.replicas.len()));
        publish::publish_map_with_replica_count(context, &placements, asks_for).await?;
    }
    Ok(results)
}

async fn resume_failover(
    context: &RebalanceContext<'_>,
    map: &ShardMap,
    state: &MoveState,
    on_progress: ProgressFn<'_>,
) -> Result<FailoverResolution> {
    let placement = placement_after_failover(context, map, state)?;
    let to = &placement.host;
    let request = PromoteReplica {
        header: context.hosts.step_header(to, state.shard, &state.run),
        record: MoveRecord {
            instance: context.desired_instance(&map_with_placement(map, &placement), state.shard, to)?,
            operator: context.options.operator.clone(),
            ..state.record.clone()
        },
        offset: 0,
        old_primary_is_stopped: false,
    };
    let promotion_started = state.failover.as_ref().is_some_and(|failover| failover.promotion_started);
    if !promotion_started && matches!(state.source_role, ReplicationRole::Primary { .. }) {
        return context
            .hosts
            .call_host(to, call::RevertFailover(request), on_progress)
            .await
            .map(|()| FailoverResolution::Reverted);
    }
    request_promotion(context, to, request, on_progress).await.map(|_| FailoverResolution::Promoted)
}

/// Returns the placement after a failover that is in a journal. The replicas of the map stay; other followers were never
/// part of it.
fn placement_after_failover(
    context: &RebalanceContext<'_>,
    map: &ShardMap,
    state: &MoveState,
) -> Result<ShardPlacement> {
    let host = |address: &InstanceAddress| {
        let name =
            context.hosts.host_at_address(address).with_context(|| format!("{address} is not in the inventory"))?;
        Ok::<_, anyhow::Error>(name.to_owned())
    };
    let shard = state.shard;
    let entry = map.find_shard(shard).with_context(|| format!("there is no shard {shard}"))?;
    let others = state.record.operation.other_replicas().iter().map(host).collect::<Result<Vec<String>>>()?;
    let replicas = others.into_iter().filter(|other| entry.replicas.contains(other)).collect();
    Ok(ShardPlacement { shard, host: host(&state.record.to)?, replicas })
}
