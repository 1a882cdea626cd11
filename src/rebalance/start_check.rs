//! Checks before a run changes hosts: its preflight, and under the locks that its plan may still be applied.

use anyhow::Result;
use dunlin_shards::{ShardId, ShardMap};

use super::apply::{PlannedMove, preflight_moves};
use super::cluster_files::ClusterFiles;
use super::connected_hosts::ProgressFn;
use super::needs::DemandOptions;
use super::resume::{MoveStatus, list_latest_moves, move_status};
use super::run_error::{RunError, RunResult};
use super::{RebalanceContext, publish};

/// Reason why the moves of a plan must not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StartBlocker {
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
async fn find_start_blocker(
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

/// Checks under the locks that the map is the one of the plan and the published one, and that no moves are in progress.
///
/// # Errors
/// Something has changed since the plan was made, or a host does not answer.
pub async fn ensure_unchanged(
    cluster: &ClusterFiles,
    context: &RebalanceContext<'_>,
    planned_moves: &[PlannedMove],
) -> RunResult<()> {
    let map = &cluster.map;
    let Some(blocker) = find_start_blocker(context, map, planned_moves).await? else { return Ok(()) };
    Err(match blocker {
        StartBlocker::NewerMap { epoch } => {
            let text = format!(
                "{} has epoch {}, but epoch {epoch} is published; no changes were made",
                context.map_file.path.display(),
                map.epoch.0
            );
            RunError::refused(text).with_hint("get the newer map, or update this one with dunlin shards resume")
        }
        StartBlocker::SourceKept { shard } => {
            let text = format!("the old instance of shard {shard} is still its replica; no changes were made");
            RunError::refused(text).with_hint("dunlin shards resume retires it, dunlin shards move-back returns to it")
        }
        StartBlocker::MoveInProgress { shard } => {
            in_progress_error(&format!("a move of shard {shard} is in progress or was interrupted"))
        }
    })
}

/// Runs the preflight checks of the moves.
///
/// # Errors
/// Returns an error if a check fails, or a host could not be asked; no changes were made.
pub async fn ensure_preflight_passes(
    context: &RebalanceContext<'_>,
    moves: &[PlannedMove],
    run: &str,
    options: DemandOptions,
    on_progress: ProgressFn<'_>,
) -> RunResult<()> {
    let reasons = preflight_moves(context, moves, run, options, on_progress).await?;
    if reasons.is_empty() {
        return Ok(());
    }
    Err(RunError::preflight_failed(&reasons)
        .with_hint("fix these problems, or plan other moves with --targets, --max-moves or --max-concurrent-moves"))
}

/// Checks that all consumers can take the next map.
///
/// # Errors
/// Returns an error if one cannot take it, or does not answer; no changes were made.
pub async fn ensure_consumers_are_ready(context: &RebalanceContext<'_>) -> RunResult<()> {
    match publish::check_consumers(context, &context.map_file.read()?).await?.as_slice() {
        [] => Ok(()),
        reasons => Err(RunError::preflight_failed(reasons)),
    }
}

/// Checks that no earlier run has moves to finish.
///
/// # Errors
/// Returns an error if one has, or the file of pending moves cannot be used.
pub fn ensure_no_pending_moves(cluster: &ClusterFiles) -> RunResult<()> {
    if cluster.state.load_pending_moves()?.is_empty() {
        return Ok(());
    }
    Err(in_progress_error("a rebalance is in progress or was interrupted"))
}

/// Returns the error of a run that starts no moves while others are in progress.
fn in_progress_error(reason: &str) -> RunError {
    RunError::refused(format!("{reason}; no changes were made"))
        .with_hint("dunlin shards status")
        .with_hint("dunlin shards resume, or dunlin shards abort")
}
