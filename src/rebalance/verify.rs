//! Which shards have two copies, and comparing them live.

use anyhow::Result;
use dunlin_shards::{InstanceAddress, ShardId, ShardMap};
use serde_json::Value;

use super::RebalanceContext;
use super::connected_hosts::ProgressFn;
use super::resume::{LatestMoves, MoveStatus, move_status};
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
pub fn list_pairs(
    context: &RebalanceContext<'_>,
    map: &ShardMap,
    latest_moves: &LatestMoves,
) -> Result<Vec<InstancePair>> {
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

/// Compares one pair.
///
/// # Errors
/// Returns an error if the comparison fails on the host.
pub async fn verify_pair(
    context: &RebalanceContext<'_>,
    pair: &InstancePair,
    on_progress: ProgressFn<'_>,
) -> Result<VerifyResult> {
    context.hosts.call_host(&pair.host, call::Verify(pair.spec.clone()), on_progress).await
}
