//! Plans repairs: missing replicas, instances that the map does not name, and wrong `min-replicas-to-write`.

use std::collections::BTreeMap;

use anyhow::Result;
use dunlin_shards::{ShardId, ShardMap};

use super::cluster_files::ClusterFiles;
use super::failover::create_replicas::preflight_replicas;
use super::failover::{self, FailoverScope, ReplicaToCreate, UnresolvedShard, observe::observe_cluster};
use super::open_moves::list_open_moves;
use super::replica_health::{ReplicaHealth, check_replicas};
use super::resume::{MoveStatus, effective_map, list_latest_moves};
use super::run_error::{RunError, RunResult};
use super::{RebalanceContext, observe, publish};
use crate::protocol::shard::{MoveState, ObservedInstance};

/// The planned repairs.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RepairPlan {
    /// The instances to repair.
    pub health: ReplicaHealth,
    /// The replicas to create.
    pub replicas_to_create: Vec<ReplicaToCreate>,
    /// Shards without a host for a replica.
    pub unplaceable: Vec<UnresolvedShard>,
}

impl RepairPlan {
    /// Returns whether there is nothing to repair, or nothing that can be repaired.
    pub fn is_empty(&self) -> bool {
        !self.health.needs_repair() && self.replicas_to_create.is_empty()
    }

    /// Returns whether nothing is left that no repair is planned for: a shard for whose replica there is no host, or a
    /// host that does not answer.
    pub fn is_complete(&self, context: &RebalanceContext<'_>) -> bool {
        self.unplaceable.is_empty() && context.hosts.unreachable.is_empty()
    }

    /// Returns the number of repairs.
    pub fn count_repairs(&self) -> usize {
        self.health.count_repairs() + self.replicas_to_create.len()
    }

    /// Checks that another plan has the same repairs. Lags and sizes are ignored, because they change all the time.
    ///
    /// # Errors
    /// It has others.
    pub fn ensure_same_repairs(&self, other: &Self) -> RunResult<()> {
        let placements = |plan: &Self| {
            plan.replicas_to_create.iter().map(|replica| (replica.shard, replica.host.clone())).collect::<Vec<_>>()
        };
        if self.health.orphans == other.health.orphans
            && self.health.min_replicas_mismatches == other.health.min_replicas_mismatches
            && placements(self) == placements(other)
        {
            return Ok(());
        }
        Err(RunError::refused("the instances have changed since the plan was shown; no changes were made")
            .with_hint("dunlin shards repair --dry-run"))
    }
}

/// Health of the replicas as far as it can be checked.
#[derive(Debug)]
enum ReplicaCheck {
    /// All primaries answer.
    Checked(ReplicaHealth),
    /// A primary does not answer; with its error.
    PrimaryDown(anyhow::Error),
}

/// Reason why no repairs can be planned.
#[derive(Debug)]
pub enum RepairBlocker {
    /// Moves are in progress; all open ones.
    MovesInProgress(Vec<(MoveState, MoveStatus)>),
    /// A primary does not answer; with its error.
    PrimaryDown(anyhow::Error),
    /// Another error.
    Failed(RunError),
}

impl<E: Into<RunError>> From<E> for RepairBlocker {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl RepairBlocker {
    /// Returns the error of the run.
    pub fn into_error(self) -> RunError {
        match self {
            Self::MovesInProgress(_) => RunError::refused("moves are in progress; no changes were made")
                .with_hint("dunlin shards resume finishes them"),
            Self::PrimaryDown(_) => {
                RunError::refused("a primary does not answer; no changes were made").with_hint("dunlin shards status")
            }
            Self::Failed(error) => error,
        }
    }
}

/// Plans the repairs; replicas pass preflight, at most `max_concurrent` at a time (0: no limit).
///
/// # Errors
/// Moves are in progress, a primary or a host does not answer, or a later map is published.
pub async fn plan_repairs(
    cluster: &ClusterFiles,
    context: &RebalanceContext<'_>,
    run: &str,
    max_concurrent: usize,
) -> Result<RepairPlan, RepairBlocker> {
    let latest_moves = list_latest_moves(context).await?;
    let open_moves = list_open_moves(context, &latest_moves)?;
    if open_moves.iter().any(|(_, status)| *status != MoveStatus::SourceKept) {
        let open_moves = open_moves.into_iter().map(|(state, status)| (state.clone(), status));
        return Err(RepairBlocker::MovesInProgress(open_moves.collect()));
    }
    let health = match check_current_health(cluster, context).await? {
        ReplicaCheck::Checked(health) => health,
        ReplicaCheck::PrimaryDown(error) => return Err(RepairBlocker::PrimaryDown(error)),
    };
    let (found, mut unplaceable) = find_missing_replicas(cluster, context).await?;
    // Where an old instance of the shard is archived first, preflight cannot pass before that.
    let is_occupied = |replica: &ReplicaToCreate| {
        health.orphans.iter().any(|orphan| (orphan.shard, &orphan.host) == (replica.shard, &replica.host))
    };
    let (mut replicas_to_create, checked): (Vec<_>, Vec<_>) = found.into_iter().partition(is_occupied);
    let obstacles = preflight_replicas(context, &checked, run, max_concurrent, &|_, _| {}).await;
    for (replica, reasons) in checked.into_iter().zip(obstacles) {
        if reasons.is_empty() {
            replicas_to_create.push(replica);
        } else {
            let reason = format!("preflight for {} fails: {}", replica.host, reasons.join("; "));
            unplaceable.push(UnresolvedShard { shard: replica.shard, reason });
        }
    }
    replicas_to_create.sort_by_key(|replica| replica.shard);
    Ok(RepairPlan { health, replicas_to_create, unplaceable })
}

/// Checks the replicas where the shards are served now.
///
/// # Errors
/// Returns an error if a host does not answer.
async fn check_current_health(cluster: &ClusterFiles, context: &RebalanceContext<'_>) -> RunResult<ReplicaCheck> {
    let map = context.map_file.read()?;
    let latest_moves = list_latest_moves(context).await?;
    let open_moves = list_open_moves(context, &latest_moves)?;
    let effective = effective_map(context, &map, &open_moves);
    let move_states: Vec<&MoveState> = open_moves.iter().map(|(state, _)| *state).collect();
    match observe::sample_primaries(context, &effective, 0).await {
        Ok(primaries) => {
            let health = check_health(cluster, context, &effective, &primaries, &move_states).await?;
            Ok(ReplicaCheck::Checked(health))
        }
        Err(error) => Ok(ReplicaCheck::PrimaryDown(error)),
    }
}

/// Whether `shards repair` has something to do.
#[derive(Debug)]
pub struct RepairAdvice {
    /// It has.
    pub is_needed: bool,
    /// The error of a primary that does not answer: the replicas are not checked.
    pub unchecked: Option<anyhow::Error>,
}

/// Returns whether `shards repair` has something to do.
///
/// # Errors
/// Returns an error if a host does not answer.
pub async fn advise_repair(cluster: &ClusterFiles, context: &RebalanceContext<'_>) -> RunResult<RepairAdvice> {
    let (is_broken, unchecked) = match check_current_health(cluster, context).await? {
        ReplicaCheck::Checked(health) => (health.needs_repair(), None),
        ReplicaCheck::PrimaryDown(error) => (false, Some(error)),
    };
    let is_needed = is_broken || context.map_file.read()?.underreplicated_shards().next().is_some();
    Ok(RepairAdvice { is_needed, unchecked })
}

/// Checks the replicas of these primaries on the hosts that answer.
///
/// # Errors
/// Returns an error if a host does not answer any more.
pub async fn check_health(
    cluster: &ClusterFiles,
    context: &RebalanceContext<'_>,
    map: &ShardMap,
    primaries: &BTreeMap<ShardId, ObservedInstance>,
    open_moves: &[&MoveState],
) -> RunResult<ReplicaHealth> {
    let hosts = cluster.connected_shard_hosts(context)?;
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    Ok(check_replicas(context, map, &hosts, primaries, open_moves).await?)
}

/// Returns the replicas that shards are missing by `replicas` of the map, each with a host, and the shards for which no
/// host can have one.
async fn find_missing_replicas(
    cluster: &ClusterFiles,
    context: &RebalanceContext<'_>,
) -> RunResult<(Vec<ReplicaToCreate>, Vec<UnresolvedShard>)> {
    let map = context.map_file.read()?;
    if map.underreplicated_shards().next().is_none() {
        return Ok((Vec::new(), Vec::new()));
    }
    // A later map may have them.
    let published = publish::published_epoch(context, &map).await?;
    if published > map.epoch.0 {
        let text = format!("the map has epoch {}, but epoch {published} is published", map.epoch);
        return Err(RunError::refused(text).with_hint("get the newer map, then run the command again"));
    }
    let scope = FailoverScope::Hosts(Vec::new());
    let view = observe_cluster(context, &map, &cluster.shard_hosts()?, &scope).await?;
    Ok(failover::find_missing_replicas(&view))
}
