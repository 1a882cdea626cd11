//! The run of `shards abort`: rolls back the moves that have not cut over, and finishes the others.

use super::RebalanceContext;
use super::cluster_files::ClusterFiles;
use super::finish_moves::{OpenMoveEvent, OpenMoveObserver, finish_open_moves};
use super::move_action::MoveAction;
use super::open_moves::{OpenMove, list_open_moves};
use super::resume::{MoveStatus, abort_move, list_latest_moves};
use super::run_end::{RunEnd, RunTotals};
use super::run_error::RunResult;

/// Rolls back the moves that have not cut over, finishes those that have, and discards the pending ones; the latter not
/// after an interruption.
///
/// # Errors
/// Returns an error if a host does not answer, or the map cannot be published to a consumer.
pub async fn abort_open_moves(
    cluster: &ClusterFiles,
    context: &RebalanceContext<'_>,
    observer: OpenMoveObserver<'_>,
    totals: &mut RunTotals,
) -> RunResult<RunEnd> {
    let latest_moves = list_latest_moves(context).await?;
    let (revertible, to_finish): (Vec<_>, Vec<_>) = list_open_moves(context, &latest_moves)?
        .into_iter()
        .partition(|(state, status)| MoveAction::for_abort(state, *status).is_some_and(MoveAction::is_rollback));
    let is_skipped = roll_back_moves(context, &revertible, observer, totals).await;
    // A move that has cut over cannot be rolled back without another move: it is finished.
    let cut_over: Vec<_> = to_finish.into_iter().filter(|(_, status)| *status != MoveStatus::SourceKept).collect();
    let is_unfinished = finish_open_moves(context, &cut_over, observer, totals).await?;
    totals.moves = revertible.len() + cut_over.len();
    let is_complete = totals.failed == 0 && !is_unfinished && !is_skipped;
    let end = RunEnd::new(is_complete, context.hosts.fleet.cancellation.is_cancelled());
    if end != RunEnd::Interrupted {
        cluster.state.save_pending_moves(&[])?;
    }
    Ok(end)
}

/// Rolls back moves one after the other. Returns whether an interruption left some of them as they are.
async fn roll_back_moves(
    context: &RebalanceContext<'_>,
    revertible: &[OpenMove<'_>],
    observer: OpenMoveObserver<'_>,
    totals: &mut RunTotals,
) -> bool {
    let mut is_skipped = false;
    for (state, _) in revertible {
        if context.hosts.fleet.cancellation.is_cancelled() {
            (observer.on_event)(OpenMoveEvent::NotRolledBack(state));
            is_skipped = true;
            continue;
        }
        let result = abort_move(context, state, &|_, _| {}).await;
        totals.failed += usize::from(result.is_err());
        (observer.on_event)(OpenMoveEvent::RolledBack { state, result: &result });
    }
    is_skipped
}
