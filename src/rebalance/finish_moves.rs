//! Finishes open moves one after the other, for `shards resume` and `shards abort`.

use anyhow::Result;

use super::RebalanceContext;
use super::connected_hosts::ProgressFn;
use super::failover::apply::{FailoverResolution, resume_failovers};
use super::open_moves::OpenMove;
use super::resume::{MoveStatus, adopt_external_moves, resume_move};
use super::run_end::RunTotals;
use crate::protocol::shard::MoveState;

/// What happens with the open moves of a run.
pub enum OpenMoveEvent<'a> {
    /// These moves are open.
    Found(&'a [OpenMove<'a>]),
    /// Moves from another machine were added to the map.
    AddedToMap {
        /// Number of these moves.
        count: usize,
    },
    /// An interrupted failover ended.
    FailoverFinished {
        /// The failover.
        state: &'a MoveState,
        /// How it ended.
        result: &'a Result<FailoverResolution>,
    },
    /// A move ended, with the reason why its old instance is not retired yet.
    MoveFinished {
        /// The move.
        state: &'a MoveState,
        /// How it ended.
        result: &'a Result<Option<String>>,
    },
    /// The rollback of a move ended.
    RolledBack {
        /// The move.
        state: &'a MoveState,
        /// How it ended.
        result: &'a Result<()>,
    },
    /// A move was not rolled back because the run was interrupted.
    NotRolledBack(&'a MoveState),
    /// A move was not finished because the run was interrupted.
    NotFinished(&'a MoveState),
    /// A host has the old map, because it does not answer.
    ConsumerOutdated {
        /// The host.
        host: &'a str,
    },
}

/// Receives what happens with open moves.
#[derive(Clone, Copy)]
pub struct OpenMoveObserver<'a> {
    /// Receives the events of hosts.
    pub on_progress: ProgressFn<'a>,
    /// Receives what happens with each move.
    pub on_event: &'a (dyn Fn(OpenMoveEvent<'_>) + Send + Sync),
}

/// Finishes moves one after the other. Returns whether something is unfinished: an old instance that cannot be retired
/// yet, or the moves after an interruption.
///
/// # Errors
/// Returns an error if the map cannot be published to a consumer.
pub async fn finish_open_moves(
    context: &RebalanceContext<'_>,
    open_moves: &[OpenMove<'_>],
    observer: OpenMoveObserver<'_>,
    totals: &mut RunTotals,
) -> Result<bool> {
    let is_elsewhere = |status: &MoveStatus| *status == MoveStatus::FinishedElsewhere;
    let elsewhere: Vec<&MoveState> =
        open_moves.iter().filter(|(_, status)| is_elsewhere(status)).map(|(state, _)| *state).collect();
    if !elsewhere.is_empty() {
        adopt_external_moves(context, &elsewhere).await?;
        (observer.on_event)(OpenMoveEvent::AddedToMap { count: elsewhere.len() });
    }
    finish_failovers(context, open_moves, observer, totals).await?;
    let mut is_unfinished = false;
    let is_move = |(state, status): &&OpenMove<'_>| state.failover.is_none() && !is_elsewhere(status);
    for (state, _) in open_moves.iter().filter(is_move) {
        if context.hosts.fleet.cancellation.is_cancelled() {
            (observer.on_event)(OpenMoveEvent::NotFinished(state));
            is_unfinished = true;
            continue;
        }
        let result = resume_move(context, state, observer.on_progress).await;
        match &result {
            Ok(retire_blocked) => is_unfinished |= retire_blocked.is_some(),
            Err(_) => totals.failed += 1,
        }
        (observer.on_event)(OpenMoveEvent::MoveFinished { state, result: &result });
    }
    totals.moves += open_moves.len();
    Ok(is_unfinished)
}

/// Finishes interrupted failovers.
async fn finish_failovers(
    context: &RebalanceContext<'_>,
    open_moves: &[OpenMove<'_>],
    observer: OpenMoveObserver<'_>,
    totals: &mut RunTotals,
) -> Result<()> {
    let states: Vec<&MoveState> =
        open_moves.iter().map(|(state, _)| *state).filter(|state| state.failover.is_some()).collect();
    let results = resume_failovers(context, &states, observer.on_progress).await?;
    for (state, result) in states.into_iter().zip(&results) {
        totals.failed += usize::from(result.is_err());
        (observer.on_event)(OpenMoveEvent::FailoverFinished { state, result });
    }
    Ok(())
}
