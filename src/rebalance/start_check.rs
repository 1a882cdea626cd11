//! Checks under the locks that a plan may still be applied.

use anyhow::Result;
use dunlin_shards::{ShardId, ShardMap};

use super::apply::PlannedMove;
use super::resume::{MoveStatus, list_latest_moves, move_status};
use super::{RebalanceContext, publish};

/// Reason why the moves of a plan must not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartBlocker {
    /// The map of the plan is not the current one.
    NewerMap {
        /// Epoch of the newer map.
        epoch: u64,
    },
    /// The old instance of a shard in the plan was not retired and is its replica.
    SourceKept {
        /// The shard.
        shard: ShardId,
    },
    /// A move is in progress or was interrupted.
    MoveInProgress {
        /// The shard.
        shard: ShardId,
    },
}

/// Returns the first reason why the moves must not start: another map than the plan's, or a move in progress.
///
/// # Errors
/// Returns an error if the map file cannot be read, or a host does not answer.
pub async fn find_start_blocker(
    context: &RebalanceContext<'_>,
    map: &ShardMap,
    moves: &[PlannedMove],
) -> Result<Option<StartBlocker>> {
    let current = context.map_file.read()?;
    let published = publish::published_epoch(context, map).await?;
    if current != *map || published > map.epoch.0 {
        return Ok(Some(StartBlocker::NewerMap { epoch: published.max(current.epoch.0) }));
    }
    for (_, state) in list_latest_moves(context).await?.values() {
        let shard = state.shard;
        let is_planned = moves.iter().any(|step| step.shard == shard);
        match move_status(context, map, state) {
            MoveStatus::Finished => {}
            MoveStatus::SourceKept if !is_planned => {}
            MoveStatus::SourceKept => return Ok(Some(StartBlocker::SourceKept { shard })),
            _ => return Ok(Some(StartBlocker::MoveInProgress { shard })),
        }
    }
    Ok(None)
}
