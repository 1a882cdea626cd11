//! Plans moves back to the old instances of shards, which are still replicas: no copy is needed.

use dunlin_shards::ShardId;

use super::RebalanceContext;
use super::apply::PlannedMove;
use super::cluster_files::ClusterFiles;
use super::plan::Role;
use super::publish::published_epoch;
use super::resume::{MoveStatus, list_latest_moves, move_status};
use super::run_error::{RunError, RunResult};
use crate::protocol::shard::MoveState;

/// Selects the shards to move back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MoveBackSelection {
    /// These shards.
    Shards(Vec<ShardId>),
    /// All shards that a run moved.
    Run(String),
}

impl MoveBackSelection {
    fn is_selected(&self, state: &MoveState) -> bool {
        match self {
            _ if state.record.operation.creates_replica() => false,
            // The hosts' journals know each wave of a run by itself.
            Self::Run(run) => {
                state.run == *run || state.run.strip_prefix(run).is_some_and(|rest| rest.starts_with('.'))
            }
            Self::Shards(shards) => shards.contains(&state.shard),
        }
    }

    /// Returns whether a shard that the operator named is not among the moves.
    fn misses(&self, moves: &[PlannedMove]) -> bool {
        match self {
            Self::Run(_) => moves.is_empty(),
            Self::Shards(shards) => {
                moves.is_empty() || shards.iter().any(|id| moves.iter().all(|step| step.shard != *id))
            }
        }
    }
}

/// Plans the moves back by the current map.
///
/// # Errors
/// Returns an error if a host does not answer, a later map is published, or a shard has no old instance.
pub async fn plan_moves_back(
    cluster: &ClusterFiles,
    context: &RebalanceContext<'_>,
    selection: &MoveBackSelection,
) -> RunResult<Vec<PlannedMove>> {
    let (own, highest_epoch) = (cluster.map.epoch.0, published_epoch(context, &cluster.map).await?);
    if highest_epoch > own {
        let text = format!("the map has epoch {own}, but epoch {highest_epoch} is published; no changes were made");
        return Err(RunError::refused(text).with_hint("dunlin shards resume updates the map"));
    }
    let latest_moves = list_latest_moves(context).await?;
    let map = context.map_file.read()?;
    let mut moves = Vec::new();
    for (_, state) in latest_moves.values().filter(|(_, state)| selection.is_selected(state)) {
        if move_status(context, &map, state) != MoveStatus::SourceKept {
            let text = format!("shard {} has no old instance that is its replica; no changes were made", state.shard);
            return Err(RunError::refused(text).with_hint("dunlin shard-rebalance --targets HOST moves it again"));
        }
        if let Some((from, to)) =
            context.hosts.host_at_address(&state.record.to).zip(context.hosts.host_at_address(&state.record.from))
        {
            let (from, to) = (from.to_owned(), to.to_owned());
            moves.push(PlannedMove { shard: state.shard, from, to, wave: 0, role: Role::Primary });
        }
    }
    if selection.misses(&moves) {
        return Err(RunError::refused("no such moves in the hosts' journals; no changes were made")
            .with_hint("dunlin shards history lists shards and runs"));
    }
    Ok(moves)
}
