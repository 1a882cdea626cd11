//! Runs moves, and saves after each of them which ones remain: a later run can finish those.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::RebalanceContext;
use super::apply::{MoveObserver, PlannedMove, RebalanceOutcome, apply_moves};
use super::connected_hosts::ProgressFn;
use super::finish::{ApplyOptions, MoveResult};
use super::plan::RebalancePlan;
use super::run_end::RunEnd;
use super::run_error::RunResult;
use super::state_files::{StateFileError, StateFiles};

/// Moves to run.
pub struct MovesRequest<'a> {
    /// The run.
    pub id: &'a str,
    /// The moves.
    pub moves: &'a [PlannedMove],
    /// The options of the moves.
    pub options: ApplyOptions,
    /// The estimate of the plan, if there is one.
    pub estimate: Option<Estimate>,
}

/// The estimate of a plan, for comparison with the outcome.
#[derive(Clone, Copy, Debug, Default)]
pub struct Estimate {
    /// Bytes to copy.
    pub bytes: u64,
    /// Seconds from the first copy to the last cutover.
    pub seconds: f64,
    /// Write pause of a shard, in milliseconds.
    pub gap_ms: f64,
}

impl Estimate {
    /// Returns the estimate of a plan.
    pub fn from_plan(plan: &RebalancePlan) -> Self {
        Self { bytes: plan.bytes_moved, seconds: plan.estimated_seconds, gap_ms: plan.predicted_write_gap_ms }
    }
}

/// Receives what happens in a run of moves.
pub struct RunObserver<'a> {
    /// Receives the events of hosts.
    pub on_progress: ProgressFn<'a>,
    /// Receives each move that succeeded.
    pub on_moved: &'a (dyn Fn(&PlannedMove, &MoveResult) + Send + Sync),
    /// Receives a move after which the remaining ones could not be saved.
    pub on_unsaved: &'a (dyn Fn(&PlannedMove, StateFileError) + Send + Sync),
}

/// The outcome of a run of moves.
pub struct MovesRun {
    /// The moves by their end.
    pub outcome: RebalanceOutcome,
    /// The moves that are not done, in their order.
    pub remaining: Vec<PlannedMove>,
    /// Seconds from start to end.
    pub seconds: f64,
    /// Whether it was interrupted, perhaps after its last step.
    pub is_interrupted: bool,
}

impl MovesRun {
    /// Returns how it ended. It is complete if all moves are done and all old instances are retired, or kept on request.
    pub fn end(&self) -> RunEnd {
        let is_complete =
            self.remaining.is_empty() && self.outcome.moved.values().all(|moved| moved.retire_blocked.is_none());
        RunEnd::new(is_complete, self.is_interrupted)
    }
}

/// Saves the moves and their limits, runs the moves, and saves those that remain.
///
/// # Errors
/// Returns an error if the state cannot be saved.
pub async fn run_moves(
    state: &StateFiles,
    context: &RebalanceContext<'_>,
    request: &MovesRequest<'_>,
    observer: &RunObserver<'_>,
) -> RunResult<MovesRun> {
    let begin = Instant::now();
    state.save_pending_moves(request.moves)?;
    state.save_throttle(&context.options.throttle_limits())?;
    let unfinished = Mutex::new(request.moves.to_vec());
    let on_finished = |step: &PlannedMove, result: &anyhow::Result<MoveResult>| {
        let Ok(moved) = result else { return };
        // A shard that moves away and back is where it was: only this file says that it has moved.
        let mut unfinished = unfinished.lock().unwrap_or_else(PoisonError::into_inner);
        unfinished.retain(|other| other.move_key() != step.move_key());
        if let Err(error) = state.save_pending_moves(&unfinished) {
            (observer.on_unsaved)(step, error);
        }
        (observer.on_moved)(step, moved);
    };
    let move_observer = MoveObserver { on_progress: observer.on_progress, on_finished: &on_finished };
    let outcome = apply_moves(context, request.moves, request.id, request.options, &move_observer).await;
    let remaining: Vec<PlannedMove> =
        request.moves.iter().filter(|step| !outcome.moved.contains_key(&step.move_key())).cloned().collect();
    state.save_pending_moves(&remaining)?;
    let is_interrupted = context.hosts.fleet.cancellation.is_cancelled();
    Ok(MovesRun { outcome, remaining, seconds: begin.elapsed().as_secs_f64(), is_interrupted })
}
