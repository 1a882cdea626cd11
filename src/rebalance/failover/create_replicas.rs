//! Creates missing replicas: preflight of all of them, then one after the other per shard.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use tokio::sync::Mutex;

use super::ReplicaToCreate;
use crate::protocol::shard::{PreflightResult, PreflightRule};
use crate::rebalance::RebalanceContext;
use crate::rebalance::apply::run_move_preflight;
use crate::rebalance::connected_hosts::ProgressFn;
use crate::rebalance::finish::{ApplyOptions, FinishContext, MoveResult};
use crate::rebalance::needs::{DemandOptions, MoveDemand, find_shortages};
use crate::rebalance::replica::{self, ReplicaChange};

/// Replicas that are created on one host at a time; as for moves.
const MAX_CREATIONS_PER_HOST: usize = 2;

/// Creates replicas: those of a shard one after the other, up to two at a time for each host, and up to
/// `max_concurrent` if that is not 0. Each primary requires its replica once it has it. Returns the results in the
/// order of the replicas; one that fails preflight is not started.
pub async fn create_replicas(
    context: &RebalanceContext<'_>,
    replicas: &[ReplicaToCreate],
    run: &str,
    max_concurrent: usize,
    on_progress: ProgressFn<'_>,
) -> Vec<Result<MoveResult>> {
    let finish = FinishContext { publish_lock: &Mutex::new(()), options: ApplyOptions::default(), on_progress };
    let concurrency = limit_concurrency(replicas, max_concurrent);
    let obstacles = preflight_replicas(context, replicas, run, max_concurrent, on_progress).await;
    let checked: Vec<(&ReplicaToCreate, Vec<String>)> = replicas.iter().zip(obstacles).collect();
    let of_shards: Vec<&[(&ReplicaToCreate, Vec<String>)]> =
        checked.chunk_by(|(a, _), (b, _)| a.shard == b.shard).collect();
    let create_for_shard = async |replicas: &&[(&ReplicaToCreate, Vec<String>)]| {
        let mut results = Vec::new();
        for (replica, obstacles) in *replicas {
            results.push(create_replica(context, replica, obstacles, run, &finish).await);
        }
        results
    };
    context
        .hosts
        .fleet
        .map_parallel_limited(&of_shards, concurrency, create_for_shard)
        .await
        .into_iter()
        .flatten()
        .collect()
}

fn limit_concurrency(replicas: &[ReplicaToCreate], max_concurrent: usize) -> usize {
    let hosts: BTreeSet<&str> = replicas.iter().map(|replica| replica.host.as_str()).collect();
    let default = MAX_CREATIONS_PER_HOST * hosts.len();
    if max_concurrent == 0 { default } else { max_concurrent.min(default) }
}

/// Runs preflight for new replicas, and adds up what they need of memory and disk space per host. Writes to no Redis.
/// Returns the reasons against each of them, in their order.
pub async fn preflight_replicas(
    context: &RebalanceContext<'_>,
    replicas: &[ReplicaToCreate],
    run: &str,
    max_concurrent: usize,
    on_progress: ProgressFn<'_>,
) -> Vec<Vec<String>> {
    let check = async |replica: &ReplicaToCreate| -> Result<PreflightResult> {
        let map = context.map_file.read()?;
        let request = replica::preflight_request(context, &map, run, replica.change())?;
        run_move_preflight(context, &map, request, &replica.host, on_progress).await
    };
    let (mut obstacles, mut demands) = (Vec::new(), Vec::new());
    for (replica, result) in replicas.iter().zip(context.hosts.fleet.map_parallel(replicas, check).await) {
        let PreflightResult { issues, needs } = match result {
            Ok(result) => result,
            Err(error) => {
                obstacles.push(vec![format!("{error:#}")]);
                continue;
            }
        };
        // A primary counts the replica of a dead host until that link has timed out.
        let issues = issues.iter().filter(|issue| issue.rule != PreflightRule::OrphanReplica);
        obstacles.push(issues.map(ToString::to_string).collect());
        demands.extend(needs.map(|needs| MoveDemand { from: "", to: &replica.host, wave: 0, needs }));
    }
    let options = DemandOptions { max_concurrent: limit_concurrency(replicas, max_concurrent), keep_source: true };
    for shortage in find_shortages(&demands, options) {
        for (_, reasons) in replicas.iter().zip(&mut obstacles).filter(|(replica, _)| replica.host == shortage.host) {
            reasons.push(shortage.reason.clone());
        }
    }
    obstacles
}

async fn create_replica(
    context: &RebalanceContext<'_>,
    replica: &ReplicaToCreate,
    obstacles: &[String],
    run: &str,
    finish: &FinishContext<'_>,
) -> Result<MoveResult> {
    if context.hosts.fleet.cancellation.is_cancelled() {
        bail!("interrupted before it was started");
    }
    if !obstacles.is_empty() {
        bail!("preflight failed: {}", obstacles.join("; "));
    }
    let moved = replica::create_replica(context, replica.change(), run, finish).await?;
    let map = context.map_file.read()?;
    replica::set_min_replicas(context, &map, replica.shard, run).await?;
    Ok(moved)
}

impl ReplicaToCreate {
    fn change(&self) -> ReplicaChange<'_> {
        ReplicaChange { shard: self.shard, replaced_host: None, new_host: &self.host }
    }
}
