//! Compares the primaries of shards with their replicas and old instances, live.

use anyhow::Result;
use dunlin_shards::{InstanceAddress, ShardId, ShardMap};
use serde_json::Value;

use super::RebalanceContext;
use super::cluster_files::ClusterFiles;
use super::connected_hosts::ProgressFn;
use super::resume::{LatestMoves, MoveStatus, list_latest_moves, move_status};
use super::run_error::RunResult;
use crate::protocol::call;
use crate::protocol::shard::{MoveLimits, MoveRecord, MoveSpec, Operation, VerifyResult};
use crate::protocol::throttle::ThrottleLimits;

/// Two copies of a shard.
#[derive(Clone, Debug)]
pub struct InstancePair {
    /// The host that compares.
    pub host: String,
    /// The two, as the host is asked for them.
    pub spec: MoveSpec,
}

/// Primary and replica of each shard by the map, and both sides of each move that is not over.
///
/// # Errors
/// Returns an error if the map names a host that the inventory does not have.
fn list_pairs(context: &RebalanceContext<'_>, map: &ShardMap, latest_moves: &LatestMoves) -> Result<Vec<InstancePair>> {
    let pair = |shard: ShardId, (from, to): (InstanceAddress, InstanceAddress), host: &str| InstancePair {
        host: host.to_owned(),
        spec: MoveSpec {
            header: context.hosts.step_header(host, shard, "verify"),
            record: MoveRecord {
                operation: Operation::Relocate { other_replicas: Vec::new() },
                from,
                to,
                epoch: map.epoch.0,
                app_user: String::new(),
                instance: Value::Null,
                min_replicas: None,
                operator: context.options.operator.clone(),
                throttle: ThrottleLimits::default(),
            },
            source_file_requires_replicas: false,
            limits: MoveLimits::default(),
        },
    };
    let mut pairs = Vec::new();
    for entry in &map.shards {
        let shard = entry.id;
        for replica in &entry.replicas {
            let ends = (
                context.hosts.instance_address(map, shard, &entry.host)?,
                context.hosts.instance_address(map, shard, replica)?,
            );
            pairs.push(pair(shard, ends, replica));
        }
        if let Some((_, state)) = latest_moves.get(&shard)
            && matches!(
                move_status(context, map, state),
                MoveStatus::SourceKept | MoveStatus::Copying | MoveStatus::ReplicaBuilding
            )
            && let Some(on) = context.hosts.host_at_address(&state.record.to)
        {
            pairs.push(pair(shard, (state.record.from.clone(), state.record.to.clone()), on));
        }
    }
    Ok(pairs)
}

/// Two instances of a shard after their comparison.
#[derive(Debug)]
pub struct VerifiedPair {
    /// The instances.
    pub pair: InstancePair,
    /// The comparison; an error if it failed on the host.
    pub result: Result<VerifyResult>,
}

/// Compares all pairs of these shards, of all shards if there are none.
///
/// # Errors
/// Returns an error if a host does not answer, or the map names a host that the inventory does not have.
pub async fn verify_shards(
    cluster: &ClusterFiles,
    context: &RebalanceContext<'_>,
    shards: &[ShardId],
    on_progress: ProgressFn<'_>,
) -> RunResult<Vec<VerifiedPair>> {
    let mut pairs = list_pairs(context, &cluster.map, &list_latest_moves(context).await?)?;
    pairs.retain(|pair| shards.is_empty() || shards.contains(&pair.spec.header.shard));
    let verify_pair = async |pair: &InstancePair| {
        context.hosts.call_host(&pair.host, call::Verify(pair.spec.clone()), on_progress).await
    };
    let results = context.hosts.fleet.map_parallel(&pairs, verify_pair).await;
    Ok(pairs.into_iter().zip(results).map(|(pair, result)| VerifiedPair { pair, result }).collect())
}
