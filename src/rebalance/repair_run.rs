//! Makes repairs: instances are brought to the state of map and playbook, old primaries archived, replicas created.

use anyhow::{Error, Result};
use dunlin_shards::ShardId;

use super::connected_hosts::ProgressFn;
use super::failover::ReplicaToCreate;
use super::failover::apply::archive_instance;
use super::failover::create_replicas::create_replicas;
use super::finish::MoveResult;
use super::repair::RepairPlan;
use super::replica_health::{ReconcileOutcome, ReplicaHealth, reconcile_instances};
use super::run_end::{RunEnd, RunTotals};
use super::run_error::{RunError, RunErrorKind, RunResult};
use super::{RebalanceContext, publish};
use crate::protocol::shard::failover::ArchivedInstance;

/// What happens in a run of repairs.
pub enum RepairEvent<'a> {
    /// An instance was brought to the state of map and playbook.
    InstanceRepaired {
        /// The shard.
        shard: ShardId,
        /// The change.
        change: &'a str,
    },
    /// An old primary was stopped, and its files archived.
    InstanceArchived {
        /// The shard.
        shard: ShardId,
        /// The host of the instance.
        host: &'a str,
        /// The archive.
        archived: &'a ArchivedInstance,
    },
    /// A repair is not possible yet.
    Unresolved {
        /// The shard.
        shard: ShardId,
        /// The reason.
        reason: &'a str,
    },
    /// The run was interrupted before it created replicas.
    Interrupted,
    /// The creation of a replica ended.
    ReplicaFinished {
        /// The replica.
        replica: &'a ReplicaToCreate,
        /// How it ended.
        result: &'a Result<MoveResult>,
        /// Whether the map names it: `shards resume` finishes it then.
        is_in_map: bool,
    },
    /// A host has the old map, because it does not answer.
    ConsumerOutdated {
        /// The host.
        host: &'a str,
    },
}

/// Receives what happens in a run of repairs.
#[derive(Clone, Copy)]
pub struct RepairObserver<'a> {
    /// Receives the events of hosts.
    pub on_progress: ProgressFn<'a>,
    /// Receives each repair.
    pub on_event: &'a (dyn Fn(RepairEvent<'_>) + Send + Sync),
}

/// Replicas to create.
pub struct ReplicasRequest<'a> {
    /// The run.
    pub id: &'a str,
    /// The replicas.
    pub replicas: &'a [ReplicaToCreate],
    /// Maximum number of concurrent copies; 0: no limit.
    pub max_concurrent: usize,
}

/// Makes the repairs of a plan, up to `max_concurrent` copies at a time (0: no limit).
///
/// # Errors
/// Returns an error if a consumer has a newer map, or the map cannot be read.
pub async fn apply_repairs(
    context: &RebalanceContext<'_>,
    plan: &RepairPlan,
    run: &str,
    max_concurrent: usize,
    observer: RepairObserver<'_>,
    totals: &mut RunTotals,
) -> RunResult<RunEnd> {
    totals.moves = plan.count_repairs();
    let is_interrupted = || context.hosts.fleet.cancellation.is_cancelled();
    let unresolved = repair_instances(context, &plan.health, run, observer).await?;
    let is_stopped = is_interrupted();
    if is_stopped {
        (observer.on_event)(RepairEvent::Interrupted);
    } else {
        let request = ReplicasRequest { id: run, replicas: &plan.replicas_to_create, max_concurrent };
        create_missing_replicas(context, &request, observer, totals).await;
    }
    for host in publish::unreachable_consumers(context, &context.map_file.read()?)? {
        (observer.on_event)(RepairEvent::ConsumerOutdated { host: &host });
    }
    let is_repaired = unresolved == 0 && !is_stopped && totals.failed == 0;
    // What could not be planned remains, also if all of the plan is done.
    Ok(match is_repaired && plan.is_complete(context) {
        true => RunEnd::Complete,
        false => RunEnd::new(false, is_interrupted() && !is_repaired),
    })
}

/// Brings instances to the state of map and playbook, and archives old primaries. Returns the number of instances for
/// which that is not possible yet.
async fn repair_instances(
    context: &RebalanceContext<'_>,
    health: &ReplicaHealth,
    run: &str,
    observer: RepairObserver<'_>,
) -> RunResult<usize> {
    let reconciled = reconcile_instances(context, health, run).await;
    let ReconcileOutcome { changed, mut unresolved } = reconciled.map_err(|error: Error| {
        RunError::new(RunErrorKind::Refused, error).with_hint("get the newer map, then run dunlin shards repair again")
    })?;
    for (shard, change) in &changed {
        (observer.on_event)(RepairEvent::InstanceRepaired { shard: *shard, change });
    }
    for orphan in health.orphans.iter().filter(|orphan| orphan.follows.is_none()) {
        let (shard, host) = (orphan.shard, orphan.host.as_str());
        match archive_instance(context, shard, host, run).await {
            Ok(archived) => {
                (observer.on_event)(RepairEvent::InstanceArchived { shard, host, archived: &archived });
            }
            Err(error) => unresolved.push((shard, format!("the instance on {host} is not archived: {error:#}"))),
        }
    }
    for (shard, reason) in &unresolved {
        (observer.on_event)(RepairEvent::Unresolved { shard: *shard, reason });
    }
    Ok(unresolved.len())
}

/// Creates replicas. Those that fail are counted.
pub async fn create_missing_replicas(
    context: &RebalanceContext<'_>,
    request: &ReplicasRequest<'_>,
    observer: RepairObserver<'_>,
    totals: &mut RunTotals,
) {
    let ReplicasRequest { id, replicas, max_concurrent } = *request;
    let results = create_replicas(context, replicas, id, max_concurrent, observer.on_progress).await;
    for (replica, result) in replicas.iter().zip(&results) {
        totals.failed += usize::from(result.is_err());
        let is_in_map = is_replica_in_map(context, replica);
        (observer.on_event)(RepairEvent::ReplicaFinished { replica, result, is_in_map });
    }
}

/// Returns whether the map names the replica.
fn is_replica_in_map(context: &RebalanceContext<'_>, replica: &ReplicaToCreate) -> bool {
    let map = context.map_file.read();
    map.is_ok_and(|map| map.find_shard(replica.shard).is_some_and(|entry| entry.replicas.contains(&replica.host)))
}
