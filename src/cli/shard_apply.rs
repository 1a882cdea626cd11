//! Locks the hosts of a run on shards, checks its moves and applies them, for the commands that move shards.

use super::command_error::CommandError;
use super::exit::Exit;
use super::host_locks::{lock_hosts, lock_request};
use super::outcome::CommandOutcome;
use super::shard_files::ShardFiles;
use crate::fleet::Session;
use crate::plan::ChangeCounts;
use crate::rebalance::RebalanceContext;
use crate::rebalance::apply::PlannedMove;
use crate::rebalance::needs::DemandOptions;
use crate::rebalance::run_end::RunTotals;
use crate::rebalance::run_moves::{MovesRequest, RunObserver, run_moves};
use crate::rebalance::start_check::ensure_preflight_passes;
use crate::report::{
    ProgressBars, Reporter, report_host_event, report_moved, report_moves_run, report_preflight_event,
};

/// Adds the counts of a run to its outcome.
///
/// # Errors
/// Returns the error of the run.
pub fn add_totals(totals: RunTotals, result: Result<Exit, CommandError>) -> Result<CommandOutcome, CommandError> {
    let RunTotals { moves, failed } = totals;
    let counts = ChangeCounts { change: moves, ..ChangeCounts::default() };
    match result {
        Ok(exit) => Ok(CommandOutcome { exit, counts, failed }),
        Err(failure) => Err(failure.with_counts(counts, failed)),
    }
}

/// Locks the reachable shard hosts, and starts the run on each.
///
/// # Errors
/// Returns an error if another run holds a lock (exit 5), or a host does not answer.
pub async fn lock_hosts_and_start_run(
    files: &ShardFiles,
    context: &mut RebalanceContext<'_>,
    command: &str,
    id: &str,
    reporter: &Reporter,
) -> Result<(), CommandError> {
    let hosts = files.cluster.connected_shard_hosts(context)?;
    let sessions =
        hosts.iter().map(|host| context.hosts.get_session(host)).collect::<anyhow::Result<Vec<&Session>>>()?;
    lock_hosts(context.hosts.fleet, &sessions, &lock_request(command, id, false), reporter).await?;
    Ok(context.hosts.start_run(id, &hosts).await?)
}

/// Runs the preflight checks of the moves, and prints their notes.
///
/// # Errors
/// Returns an error if a check fails (exit 3); no changes were made.
pub async fn run_preflight(
    context: &RebalanceContext<'_>,
    moves: &[PlannedMove],
    id: &str,
    options: DemandOptions,
    reporter: &Reporter,
) -> Result<(), CommandError> {
    let on_progress = |host: &str, event: &_| report_preflight_event(host, event, reporter);
    Ok(ensure_preflight_passes(context, moves, id, options, &on_progress).await?)
}

/// Applies moves, and prints their outcome.
///
/// # Errors
/// Returns an error if the pending moves cannot be saved.
pub async fn apply_and_report(
    files: &ShardFiles,
    context: &RebalanceContext<'_>,
    request: &MovesRequest<'_>,
    reporter: &Reporter,
    totals: &mut RunTotals,
) -> Result<Exit, CommandError> {
    totals.moves = request.moves.len();
    let progress = ProgressBars::new(reporter.json, reporter.style.quiet);
    let observer = RunObserver {
        on_progress: &|host, event| report_host_event(host, event, reporter, &progress),
        on_moved: &|step, moved| report_moved(step, moved, reporter, &progress),
        on_unsaved: &|step, error| {
            reporter.report_failure(&format!("shard {}", step.shard), &format!("{error:#}"), None);
        },
    };
    let finished = run_moves(&files.cluster.state, context, request, &observer).await;
    progress.clear_bars();
    let run = finished?;
    totals.failed = run.outcome.failed.len();
    report_moves_run(request, &run, reporter);
    Ok(run.end().into())
}
