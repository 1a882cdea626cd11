//! Runs moves, and saves after each of them which ones remain: a later run can finish those.

use std::sync::{Mutex, PoisonError};

use super::RebalanceContext;
use super::apply::{MoveObserver, PlannedMove, RebalanceOutcome, apply_moves};
use super::connected_hosts::ProgressFn;
use super::finish::{ApplyOptions, MoveResult};
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
}

impl MovesRun {
    /// Returns whether all moves are done and all old instances are retired, or kept on request.
    pub fn is_complete(&self) -> bool {
        self.remaining.is_empty() && self.outcome.moved.values().all(|moved| moved.retire_blocked.is_none())
    }
}

/// Saves the moves and their limits, runs the moves, and saves those that remain.
///
/// # Errors
/// The state cannot be saved.
pub async fn run_moves(
    state: &StateFiles,
    context: &RebalanceContext<'_>,
    request: &MovesRequest<'_>,
    observer: &RunObserver<'_>,
) -> RunResult<MovesRun> {
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
    Ok(MovesRun { outcome, remaining })
}
