//! Failover after the loss of a host: the copies that are promoted, the writes that may be lost, the shards that have
//! no copy left, and the hosts for new replicas.
//!
//! [`plan_failover`] is pure: it turns the observed shards into a plan, or into all blockers. `select_candidate` finds
//! the copy, `replica_placement` their hosts; `observe` queries the hosts that answer, `apply` executes the plan.

pub mod apply;
pub mod create_replicas;
pub mod observe;
mod replica_placement;
pub mod request;
pub mod run;
mod select_candidate;

use std::collections::BTreeSet;

use dunlin_shards::{InstanceAddress, ShardId};
use serde::{Deserialize, Serialize};

use super::observation::HostLoad;
use crate::protocol::shard::ReplicationRole;
use crate::protocol::shard::failover::ProbeResult;

/// The cluster as seen by the hosts that answer.
#[derive(Clone, Debug, Default)]
pub struct ClusterView {
    /// The cluster.
    pub cluster: String,
    /// The map's epoch.
    pub epoch: u64,
    /// Number of replicas per shard that the map asks for.
    pub replica_count: Option<u16>,
    /// The hosts that do not answer.
    pub unreachable_hosts: BTreeSet<String>,
    /// The shards of the map, in its order.
    pub shards: Vec<ShardView>,
    /// The hosts that answer and may hold shards.
    pub hosts: Vec<HostLoad>,
}

/// A shard's copies.
#[derive(Clone, Debug)]
pub struct ShardView {
    /// Its number.
    pub id: ShardId,
    /// The primary, then the replicas in the map's order.
    pub copies: Vec<CopyView>,
    /// Other hosts that got an answer from the primary as a primary.
    pub witnesses: Vec<String>,
    /// Hosts with an instance that follows the primary and that the map does not name: an old instance that was left as
    /// a replica, the copy of a move.
    pub orphans: Vec<String>,
    /// The move of this shard that the journals know as open.
    pub open_move: Option<OpenMove>,
}

/// A move of a shard that is in progress or was interrupted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenMove {
    /// The host that it goes to.
    pub to: String,
    /// Stage that it reached.
    pub stage: MoveStage,
}

/// Stage of a move that is in progress or was interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoveStage {
    /// The target has a copy of the data at most: it was not promoted.
    Copied,
    /// The target may have been given the shard, or is named by the map as a replica.
    Undecided,
    /// The target serves the shard, and the map does not say so yet.
    CutOver,
}

/// A copy by the map.
#[derive(Clone, Debug)]
pub struct CopyView {
    /// Its host.
    pub host: String,
    /// Address of the copy.
    pub address: InstanceAddress,
    /// Result of the probe; an unreachable role if its host does not answer.
    pub probe: ProbeResult,
}

/// Scope of a failover: everything on hosts, or the copies of shards that do not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FailoverScope {
    /// Hosts that are off.
    Hosts(Vec<String>),
    /// Copies of these shards that do not answer.
    Shards(Vec<ShardId>),
}

/// Options of a failover.
#[derive(Clone, Copy, Debug)]
pub struct FailoverOptions {
    /// Plan new replicas for those that are missing.
    pub create_replicas: bool,
    /// Promote a copy even if its missing writes are unknown.
    pub allow_stale: bool,
}

/// Actions of a failover, and shards that it cannot help.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct FailoverPlan {
    /// The cluster.
    pub cluster: String,
    /// The epoch that this was planned at.
    pub epoch: u64,
    /// Hosts that do not answer and are assumed to be off.
    pub assumed_dead: Vec<String>,
    /// Copies that become primaries.
    pub promotions: Vec<Promotion>,
    /// Primaries that continue without a lost replica.
    pub degraded_primaries: Vec<DegradedPrimary>,
    /// Shards that no host can serve now.
    pub unavailable_shards: Vec<UnresolvedShard>,
    /// Number of replicas per shard that the new map sets, if it had none: the number that every shard had.
    pub replica_count: Option<u16>,
    /// Replicas that are recreated.
    pub replicas_to_create: Vec<ReplicaToCreate>,
    /// Shards that stay short of a replica.
    pub unplaceable_replicas: Vec<UnresolvedShard>,
}

/// A copy becomes the primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Promotion {
    /// The shard.
    pub shard: ShardId,
    /// The host of the primary that is gone.
    pub from: String,
    /// The host of the copy.
    pub to: String,
    /// The other copies that answer, in the order of the map: they follow the new primary.
    pub other_replicas: Vec<String>,
    /// Instances that the map does not name and that follow the old primary: they leave it too.
    pub orphans: Vec<String>,
    /// The host of the copy of an open move, which is aborted.
    pub cancelled_target: Option<String>,
    /// Replication offset of the copy.
    pub offset: u64,
    /// Bytes of its data.
    pub bytes: u64,
    /// True if an interrupted run promoted it: then it is only published.
    pub already_promoted: bool,
    /// Writes that it may be missing.
    pub max_loss: DataLossBound,
}

/// Acknowledged writes that a promoted replica may be missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DataLossBound {
    /// Seconds since it last heard of its primary; unknown if it was restarted since.
    pub silent_for_s: Option<u64>,
    /// Longest window, in seconds after the last contact, whose acknowledged writes may be lost: later, the primary
    /// accepted no write without its replica. `None` if there is no such bound.
    pub max_window_s: Option<u64>,
    /// Estimated bytes of the replication stream, by the average rate; `None` if the time or the rate is unknown.
    pub estimated_bytes: Option<u64>,
}

/// A primary that continues with fewer replicas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DegradedPrimary {
    /// The shard.
    pub shard: ShardId,
    /// Its primary's host.
    pub host: String,
    /// The hosts of the replicas that are gone.
    pub lost_replicas: Vec<String>,
    /// Replicas that stay.
    pub replicas: Vec<String>,
}

/// A shard that the failover cannot repair, with the reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UnresolvedShard {
    /// The shard.
    pub shard: ShardId,
    /// Reason, and what the operator has to decide.
    pub reason: String,
}

/// A new replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaToCreate {
    /// The shard.
    pub shard: ShardId,
    /// Host that gets it.
    pub host: String,
    /// Bytes to copy.
    pub bytes: u64,
}

/// A reason against a failover, and the next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailoverBlocker {
    /// The reason.
    pub reason: String,
    /// The next step.
    pub next_step: String,
}

impl FailoverPlan {
    /// Returns whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.promotions.is_empty() && self.degraded_primaries.is_empty() && self.replicas_to_create.is_empty()
    }

    /// Returns whether acknowledged writes may be lost.
    pub fn may_lose_writes(&self) -> bool {
        self.promotions.iter().any(|promotion| !promotion.already_promoted)
    }

    /// Returns whether another plan decides the same, apart from values that change with time.
    pub fn has_same_decisions(&self, other: &Self) -> bool {
        let promotion = |p: &Promotion| (p.shard, p.to.clone(), p.offset, p.already_promoted);
        let degraded = |primary: &DegradedPrimary| (primary.shard, primary.host.clone());
        self.promotions.iter().map(promotion).eq(other.promotions.iter().map(promotion))
            && self.degraded_primaries.iter().map(degraded).eq(other.degraded_primaries.iter().map(degraded))
    }
}

impl ShardView {
    fn primary(&self) -> &CopyView {
        &self.copies[0]
    }

    fn replicas(&self) -> &[CopyView] {
        &self.copies[1..]
    }

    /// Returns the host on which the primary answered as a primary: its own, that of a replica, or another.
    fn host_that_reaches_primary(&self) -> Option<&str> {
        let is_primary = |role: &ReplicationRole| matches!(role, ReplicationRole::Primary { .. });
        let own = Some(self.primary()).filter(|copy| is_primary(&copy.probe.role));
        let by = own.or_else(|| self.replicas().iter().find(|copy| is_primary(&copy.probe.primary_role)));
        by.map(|copy| copy.host.as_str()).or_else(|| self.witnesses.first().map(String::as_str))
    }
}

impl CopyView {
    fn is_reachable(&self) -> bool {
        self.probe.role != ReplicationRole::Unreachable
    }
}

impl FailoverScope {
    /// Returns whether this copy is in the scope of the failover.
    fn includes_copy(&self, shard: ShardId, copy: &CopyView) -> bool {
        match self {
            Self::Hosts(hosts) => hosts.contains(&copy.host),
            Self::Shards(shards) => shards.contains(&shard) && !copy.is_reachable(),
        }
    }
}

/// Plans the failover of these hosts or instances.
///
/// # Errors
/// Returns all blockers; nothing may be done then.
pub fn plan_failover(
    view: &ClusterView,
    scope: &FailoverScope,
    options: FailoverOptions,
) -> Result<FailoverPlan, Vec<FailoverBlocker>> {
    let mut plan = FailoverPlan { cluster: view.cluster.clone(), epoch: view.epoch, ..FailoverPlan::default() };
    let mut blockers = Vec::new();
    let affected: Vec<&ShardView> = view
        .shards
        .iter()
        .filter(|shard| shard.copies.iter().any(|copy| scope.includes_copy(shard.id, copy)))
        .collect();
    let rules = select_candidate::CandidateRules {
        least_silence: select_candidate::least_silence(&affected, scope),
        allow_stale: options.allow_stale,
    };
    for shard in &affected {
        blockers.extend(find_live_instance(shard, scope));
        if scope.includes_copy(shard.id, shard.primary()) {
            match select_candidate::select_candidate(shard, scope, rules) {
                Ok(promotion) => plan.promotions.push(promotion),
                Err(select_candidate::NoCandidate::Unavailable(why)) => {
                    plan.unavailable_shards.push(UnresolvedShard { shard: shard.id, reason: why })
                }
                Err(select_candidate::NoCandidate::Blocked(refusal)) => blockers.push(refusal),
            }
        } else if !shard.primary().is_reachable() {
            blockers.push(select_candidate::unreachable_blocker(shard, shard.primary()));
        } else {
            plan.degraded_primaries.push(degraded_primary(shard, scope));
        }
    }
    // A cutover to the dead host was about to happen: the primary waits for a replica that the map does not name.
    let waits_for_missing_replica = |shard: &&ShardView| {
        let seen = &shard.primary().probe;
        let is_primary = matches!(seen.role, ReplicationRole::Primary { .. }) && shard.open_move.is_none();
        is_primary && usize::try_from(seen.min_replicas).is_ok_and(|needs| needs > shard.replicas().len())
    };
    let others = view.shards.iter().filter(|shard| !affected.iter().any(|other| other.id == shard.id));
    plan.degraded_primaries
        .extend(others.filter(waits_for_missing_replica).map(|shard| degraded_primary(shard, scope)));
    plan.assumed_dead = list_assumed_dead(&affected, scope, view);
    if options.create_replicas && !(plan.promotions.is_empty() && plan.degraded_primaries.is_empty()) {
        plan.replica_count =
            default_replica_count(view.replica_count, view.shards.iter().map(|shard| shard.replicas().len()));
    }
    if !blockers.is_empty() {
        blockers.dedup();
        return Err(blockers);
    }
    if options.create_replicas {
        replica_placement::place_replicas(view, &mut plan);
    }
    Ok(plan)
}

/// Returns the replicas that the map asks for and shards lack, with a host for each, and the shards without such a
/// host.
pub fn find_missing_replicas(view: &ClusterView) -> (Vec<ReplicaToCreate>, Vec<UnresolvedShard>) {
    let mut plan = FailoverPlan::default();
    replica_placement::place_replicas(view, &mut plan);
    (plan.replicas_to_create, plan.unplaceable_replicas)
}

/// Returns the number of replicas per shard for a map without that number once some are lost: the minimum that every
/// shard had. With it, the map alone shows which replicas are missing.
pub fn default_replica_count(configured: Option<u16>, counts: impl Iterator<Item = usize>) -> Option<u16> {
    let min_count = counts.min().and_then(|least| u16::try_from(least).ok())?;
    (configured.is_none() && min_count > 0).then_some(min_count)
}

fn degraded_primary(shard: &ShardView, scope: &FailoverScope) -> DegradedPrimary {
    let names = |copies: Vec<&CopyView>| copies.into_iter().map(|copy| copy.host.clone()).collect();
    let (gone, remaining): (Vec<&CopyView>, Vec<&CopyView>) =
        shard.replicas().iter().partition(|copy| scope.includes_copy(shard.id, copy));
    DegradedPrimary {
        shard: shard.id,
        host: shard.primary().host.clone(),
        lost_replicas: names(gone),
        replicas: names(remaining),
    }
}

/// Returns a blocker if an instance in the scope still answers: leaving a live host loses nothing.
fn find_live_instance(shard: &ShardView, scope: &FailoverScope) -> Option<FailoverBlocker> {
    let primary = shard.primary();
    let is_promoted = shard.replicas().iter().any(|copy| select_candidate::is_promoted(copy, primary));
    if scope.includes_copy(shard.id, primary)
        && !is_promoted
        && let Some(by) = shard.host_that_reaches_primary()
    {
        let how = if by == primary.host { String::new() } else { format!(" {by}") };
        let is_detached = shard.replicas().iter().any(|copy| select_candidate::is_detached(copy, primary));
        let next = if is_detached {
            "dunlin shards resume rolls back the interrupted failover".to_owned()
        } else {
            drain_instead(&primary.host)
        };
        let why = format!("shard {}: its primary on {} is not dead: it answers{how}", shard.id, primary.host);
        return Some(FailoverBlocker { reason: why, next_step: next });
    }
    let living = shard.replicas().iter().find(|copy| scope.includes_copy(shard.id, copy) && copy.is_reachable())?;
    Some(FailoverBlocker {
        reason: format!("shard {}: its replica on {} is not dead: it answers", shard.id, living.host),
        next_step: drain_instead(&living.host),
    })
}

/// Returns the next step for a host that answers.
fn drain_instead(host: &str) -> String {
    format!(
        "dunlin shard-rebalance --drain {host} empties the host and loses nothing; if only some of its instances are \
         dead, name their shards"
    )
}

/// Returns the hosts of abandoned copies that do not answer: only the operator knows whether they are off.
fn list_assumed_dead(affected: &[&ShardView], scope: &FailoverScope, view: &ClusterView) -> Vec<String> {
    let gone = affected.iter().flat_map(|shard| shard.copies.iter().filter(|copy| scope.includes_copy(shard.id, copy)));
    let names: BTreeSet<&String> =
        gone.map(|copy| &copy.host).filter(|host| view.unreachable_hosts.contains(*host)).collect();
    names.into_iter().cloned().collect()
}

#[cfg(test)]
mod tests;
