//! The run of `shards resume`: what it would do, and the moves that it finishes.

use super::apply::{PlannedMove, remaining_moves};
use super::cluster_files::{ClusterFiles, UnreachableHost};
use super::finish_moves::{OpenMoveEvent, OpenMoveObserver, finish_open_moves};
use super::open_moves::{OpenMove, ensure_placements_are_known, list_open_moves};
use super::resume::{can_finish_without_hosts, list_latest_moves};
use super::run_end::{RunEnd, RunTotals};
use super::run_error::RunResult;
use super::{RebalanceContext, publish};

/// Returns whether the open and pending moves can be finished without the hosts that do not answer.
///
/// # Errors
/// Returns an error if the file of pending moves cannot be used.
pub fn can_proceed_without(
    cluster: &ClusterFiles,
    context: &RebalanceContext<'_>,
    unreachable: &[UnreachableHost],
    open_moves: &[OpenMove<'_>],
) -> RunResult<bool> {
    Ok(unreachable.is_empty() || can_finish_without_hosts(context, open_moves, &cluster.state.load_pending_moves()?))
}

/// Returns the pending moves that `shards resume` would run after the open ones.
///
/// # Errors
/// Returns an error if a later map is published, or a file cannot be used.
pub async fn plan_pending_moves(
    cluster: &ClusterFiles,
    context: &RebalanceContext<'_>,
    open_moves: &[OpenMove<'_>],
) -> RunResult<Vec<PlannedMove>> {
    ensure_placements_are_known(context, open_moves).await?;
    let mut remaining = remaining_moves(cluster.state.load_pending_moves()?, &context.map_file.read()?);
    // A pending move that was started is among the open ones.
    remaining.retain(|step| {
        open_moves.iter().all(|(state, _)| {
            state.shard != step.shard || context.hosts.host_at_address(&state.record.to) != Some(step.to.as_str())
        })
    });
    Ok(remaining)
}

/// Takes the limits of the interrupted run, except where this command gives others.
///
/// # Errors
/// Returns an error if the file of limits cannot be used.
pub fn inherit_throttle(cluster: &ClusterFiles, context: &mut RebalanceContext<'_>) -> RunResult<()> {
    context.options.throttle = context.options.throttle.apply_to(cluster.state.load_throttle()?).into();
    Ok(())
}

/// What remains to do after the open moves.
pub enum ResumeOutcome {
    /// Nothing was open or pending.
    NothingToResume,
    /// The run ends here.
    Ended(RunEnd),
    /// All open moves are finished; these pending moves are next.
    Pending(Vec<PlannedMove>),
}

/// Finishes what the hosts' journals have open, and saves which pending moves remain.
///
/// # Errors
/// Returns an error if a host does not answer, a later map is published, or the map cannot be published to a consumer.
pub async fn resume_open_moves(
    cluster: &ClusterFiles,
    context: &RebalanceContext<'_>,
    observer: OpenMoveObserver<'_>,
    totals: &mut RunTotals,
) -> RunResult<ResumeOutcome> {
    let latest_moves = list_latest_moves(context).await?;
    let open_moves = list_open_moves(context, &latest_moves)?;
    (observer.on_event)(OpenMoveEvent::Found(&open_moves));
    let pending_moves = cluster.state.load_pending_moves()?;
    ensure_placements_are_known(context, &open_moves).await?;
    let is_unfinished = finish_open_moves(context, &open_moves, observer, totals).await?;
    for host in publish::unreachable_consumers(context, &context.map_file.read()?)? {
        (observer.on_event)(OpenMoveEvent::ConsumerOutdated { host: &host });
    }
    if open_moves.is_empty() && pending_moves.is_empty() {
        return Ok(ResumeOutcome::NothingToResume);
    }
    let remaining = remaining_moves(pending_moves, &context.map_file.read()?);
    cluster.state.save_pending_moves(&remaining)?;
    let is_interrupted = context.hosts.fleet.cancellation.is_cancelled();
    if totals.failed > 0 || is_unfinished || (is_interrupted && !remaining.is_empty()) {
        return Ok(ResumeOutcome::Ended(RunEnd::new(false, is_interrupted)));
    }
    Ok(match remaining.as_slice() {
        [] => ResumeOutcome::Ended(RunEnd::Complete),
        _ => ResumeOutcome::Pending(remaining),
    })
}
