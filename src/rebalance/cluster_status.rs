//! The status of a cluster: placements, the health of primaries and replicas, and moves in progress.

use std::collections::BTreeMap;

use dunlin_shards::{ShardId, ShardMap};

use super::RebalanceContext;
use super::apply::PlannedMove;
use super::cluster_files::{ClusterFiles, UnreachableHost};
use super::observation::Observation;
use super::observe::{ObservedPrimaries, build_observation, observe_reachable_primaries};
use super::open_moves::{OpenMove, list_open_moves};
use super::repair::check_health;
use super::replica_health::ReplicaHealth;
use super::resume::{MoveStatus, effective_map, list_latest_moves};
use super::run_error::RunResult;
use crate::protocol::shard::{MoveState, ObservedInstance};

/// The shards of a host.
pub struct HostShards {
    /// Name of the host.
    pub host: String,
    /// Number of its primaries.
    pub shards: usize,
    /// Bytes of its primaries.
    pub bytes: u64,
    /// Number of its replicas.
    pub replicas: usize,
    /// Whether it answers.
    pub is_reachable: bool,
}

/// A primary that refuses writes because too few replicas follow it.
pub struct WriteRefusal<'a> {
    /// The shard.
    pub shard: ShardId,
    /// Host of the primary.
    pub host: &'a str,
    /// Number of replicas that follow it.
    pub good_replicas: u64,
    /// Number of replicas that it requires.
    pub required_replicas: u64,
}

/// A primary whose acknowledged writes may not survive a crash.
pub struct DurabilityRisk<'a> {
    /// The shard.
    pub shard: ShardId,
    /// Host of the primary.
    pub host: &'a str,
    /// The primary.
    pub instance: &'a ObservedInstance,
    /// The risk.
    pub risk: &'static str,
}

/// The next step for the moves of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusAdvice {
    /// No move is in progress, and nothing else is known to do.
    Nothing,
    /// No move is in progress, but replicas need repair.
    Repair,
    /// All open moves have kept their old instances: they are retired, or moved back to.
    RetireOrMoveBack,
    /// Moves are finished or aborted.
    ResumeOrAbort,
}

/// The status of a cluster; where hosts do not answer, what is known without them.
pub struct ClusterStatus<'a> {
    /// The authored map.
    pub map: &'a ShardMap,
    /// The shard hosts, in the order of the inventory.
    pub hosts: Vec<HostShards>,
    /// The primaries where the shards are served now.
    pub primaries: ObservedPrimaries,
    /// The health of the replicas.
    pub health: ReplicaHealth,
    /// Number of pending moves that have not started.
    pub not_started: usize,
    /// Whether all hosts answer.
    pub all_hosts_answer: bool,
    effective: ShardMap,
    open_moves: Vec<(MoveState, MoveStatus)>,
}

/// Reads the status of a cluster.
///
/// # Errors
/// Returns an error if the map cannot be read, or a host does not answer any more.
pub async fn read_status<'a>(
    cluster: &'a ClusterFiles,
    context: &RebalanceContext<'_>,
    pending: &[PlannedMove],
) -> RunResult<ClusterStatus<'a>> {
    let map = &cluster.map;
    let latest_moves = list_latest_moves(context).await?;
    let open_moves = list_open_moves(context, &latest_moves)?;
    let effective = effective_map(context, map, &open_moves);
    let primaries = observe_reachable_primaries(context, &effective).await;
    let move_states: Vec<&MoveState> = open_moves.iter().map(|(state, _)| *state).collect();
    let health = check_health(cluster, context, &effective, &primaries.found, &move_states).await?;
    let is_started = |step: &&PlannedMove| open_moves.iter().any(|(state, _)| state.shard == step.shard);
    Ok(ClusterStatus {
        map,
        hosts: list_host_shards(cluster, context, &effective, &primaries.found, &health)?,
        not_started: pending.iter().filter(|step| !is_started(step)).count(),
        all_hosts_answer: context.hosts.unreachable.is_empty(),
        open_moves: open_moves.iter().map(|(state, status)| ((*state).clone(), *status)).collect(),
        primaries,
        health,
        effective,
    })
}

fn list_host_shards(
    cluster: &ClusterFiles,
    context: &RebalanceContext<'_>,
    effective: &ShardMap,
    primaries: &BTreeMap<ShardId, ObservedInstance>,
    health: &ReplicaHealth,
) -> RunResult<Vec<HostShards>> {
    let count_shards = |name: &String| {
        let shards: Vec<_> = effective.shards_on(name).collect();
        let observed = shards.iter().filter_map(|entry| primaries.get(&entry.id));
        HostShards {
            host: name.clone(),
            shards: shards.len(),
            bytes: observed.map(|seen| seen.bytes).sum(),
            replicas: health.count_on_host(name),
            is_reachable: !context.hosts.unreachable.contains(name),
        }
    };
    Ok(cluster.shard_hosts()?.into_iter().map(|host| count_shards(&host.name)).collect())
}

impl ClusterStatus<'_> {
    /// Returns the open moves.
    pub fn open_moves(&self) -> Vec<OpenMove<'_>> {
        self.open_moves.iter().map(|(state, status)| (state, *status)).collect()
    }

    /// Returns the observation to plan from; `None` if a primary does not answer.
    ///
    /// # Errors
    /// Returns an error if a selector of the playbook selects no host.
    pub fn to_observation(
        &self,
        cluster: &ClusterFiles,
        context: &RebalanceContext<'_>,
    ) -> RunResult<Option<Observation>> {
        if !self.primaries.errors.is_empty() {
            return Ok(None);
        }
        let hosts = cluster.shard_hosts()?;
        let mut observation = build_observation(context, &self.effective, &hosts, &self.primaries.found);
        self.health.add_to_observation(&mut observation);
        Ok(Some(observation))
    }

    /// Returns the primaries that refuse writes.
    pub fn write_refusals(&self) -> Vec<WriteRefusal<'_>> {
        let refusing = self.observed_primaries().filter(|(_, _, seen)| seen.good_replicas < seen.min_replicas);
        refusing
            .map(|(shard, host, seen)| WriteRefusal {
                shard,
                host,
                good_replicas: seen.good_replicas,
                required_replicas: seen.min_replicas,
            })
            .collect()
    }

    /// Returns the primaries whose acknowledged writes may not survive a crash.
    pub fn durability_risks(&self) -> Vec<DurabilityRisk<'_>> {
        let with_risk = |(shard, host, instance)| {
            let risk = ObservedInstance::durability_risk(instance)?;
            Some(DurabilityRisk { shard, host, instance, risk })
        };
        self.observed_primaries().filter_map(with_risk).collect()
    }

    /// Returns the primaries that answer, with their hosts.
    fn observed_primaries(&self) -> impl Iterator<Item = (ShardId, &str, &ObservedInstance)> {
        self.primaries
            .found
            .iter()
            .filter_map(|(shard, seen)| Some((*shard, self.effective.find_shard(*shard)?.host.as_str(), seen)))
    }

    /// Returns the next step for the moves.
    pub fn advice(&self) -> StatusAdvice {
        let is_broken = self.health.needs_repair() || self.map.underreplicated_shards().next().is_some();
        match (self.not_started, self.open_moves.as_slice()) {
            (0, []) if is_broken && self.all_hosts_answer => StatusAdvice::Repair,
            (0, []) => StatusAdvice::Nothing,
            (0, open) if open.iter().all(|(_, status)| *status == MoveStatus::SourceKept) => {
                StatusAdvice::RetireOrMoveBack
            }
            _ => StatusAdvice::ResumeOrAbort,
        }
    }

    /// Returns the next step while hosts or primaries do not answer.
    pub fn step_for_missing(&self, unreachable: &[UnreachableHost]) -> String {
        match unreachable.first() {
            Some((host, _)) => format!("if {host} is dead: dunlin shards failover {host} --dry-run"),
            None if !self.open_moves.is_empty() => "dunlin shards resume".to_owned(),
            None => "start the instance (dunlin provision), or dunlin shards failover SHARD --dry-run".to_owned(),
        }
    }
}
